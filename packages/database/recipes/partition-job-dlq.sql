-- Turns the live table job_dlq into one that is partitioned by time, and takes care of its partitions from then on.
--
-- This file only defines functions, in a schema of their own that nobody but its owner may use; docs/scale.md says which to call,
-- and when. Run it as the owner of the tables, and again for a newer version of it. It is no migration: a database without it
-- lacks nothing.
--
-- The key is the primary key `id`. It is a uuidv7, so a range of ids is a range of time, and one id is in one partition. The
-- partitioned table is made from what the catalogue says about the table as it is: columns, defaults, generated columns, constraints,
-- indexes, triggers, row-level security, policies, grants and comments. Partitions lie in the schema job_dlq_partitions, without
-- grants and policies, so that every way to a dead letter is through job_dlq and its policies.
--
-- Locks, for some milliseconds each: swap(), abandon() and undo() need ACCESS EXCLUSIVE on job_dlq and apps, prepare() and detach()
-- the same on job_dlq and SHARE ROW EXCLUSIVE on apps, ahead() on the default partition, drop_detached() on apps. Each waits 500 ms at most (every fifth time 1.5 s), gives way, and tries again a second later:
-- who comes while it waits waits as long. validate() reads the table while everybody works.

CREATE SCHEMA IF NOT EXISTS job_dlq_partitions;
COMMENT ON SCHEMA job_dlq_partitions IS 'Partitions of job_dlq and the functions that look after them';

-- The lowest id of a moment: no id that uuidv7() makes from then on is below it.
CREATE OR REPLACE FUNCTION job_dlq_partitions.bound(p_at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE
RETURN rpad(lpad(to_hex((extract(epoch FROM p_at) * 1000)::bigint), 12, '0'), 32, '0')::uuid;

-- The moment of a bound.
CREATE OR REPLACE FUNCTION job_dlq_partitions.moment(p_bound uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE
RETURN to_timestamp(('x' || left(replace(p_bound::text, '-', ''), 12))::bit(48)::bigint / 1000.0);

-- The partitions of a table, by its name: a regclass as the default would be the table of before for ever. The first partition has
-- no lower bound, the default one has none at all.
CREATE OR REPLACE FUNCTION job_dlq_partitions.partitions(p_parent text DEFAULT 'public.job_dlq')
RETURNS TABLE (name text, lower timestamptz, upper timestamptz, is_default boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $body$
  SELECT relname::text,
    job_dlq_partitions.moment(substring(said FROM 'FROM \(''([0-9a-f-]+)''\)')::uuid),
    job_dlq_partitions.moment(substring(said FROM 'TO \(''([0-9a-f-]+)''\)')::uuid),
    said = 'DEFAULT'
  FROM (
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS said
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = p_parent::regclass) bounds
  ORDER BY said = 'DEFAULT', 3
$body$;

-- What each partition holds. It reads the whole table.
CREATE OR REPLACE FUNCTION job_dlq_partitions.contents()
RETURNS TABLE (name text, pending bigint, replayed bigint, last_replay timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  before text := current_setting('role');
  counted jsonb;
BEGIN
  -- Under forced row-level security the owner sees no rows, and would call a full partition empty.
  PERFORM set_config('role', 'parametric_system', true);
  SELECT jsonb_agg(c) INTO counted FROM (
    SELECT tableoid, count(*) FILTER (WHERE replayed_at IS NULL) AS pending, count(replayed_at) AS replayed, max(replayed_at) AS last_replay
    FROM public.job_dlq GROUP BY tableoid) c;
  PERFORM set_config('role', before, true);
  RETURN QUERY
    SELECT p.name, COALESCE(c.pending, 0), COALESCE(c.replayed, 0), c.last_replay
    FROM job_dlq_partitions.partitions() p
    LEFT JOIN jsonb_to_recordset(counted) AS c (tableoid oid, pending bigint, replayed bigint, last_replay timestamptz)
      ON c.tableoid = to_regclass(format('job_dlq_partitions.%I', p.name));
END
$body$;

-- The columns that a copy of a row needs; the generated ones make themselves.
CREATE OR REPLACE FUNCTION job_dlq_partitions.columns(p_table regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (
  SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
  FROM pg_attribute WHERE attrelid = p_table AND attnum > 0 AND NOT attisdropped AND attgenerated = '');

-- Runs a step that needs an exclusive lock: waits for it for a moment, lets everybody pass, tries again.
CREATE OR REPLACE FUNCTION job_dlq_partitions.patiently(p_step text, p_tries int) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $body$
DECLARE
  said text;
BEGIN
  FOR turn IN 1 .. p_tries LOOP
    -- Every fifth time longer than deadlock_timeout, which is when an autovacuum of the table gives way to who waits for it.
    PERFORM set_config('lock_timeout', CASE turn % 5 WHEN 0 THEN '1500ms' ELSE '500ms' END, true);
    BEGIN
      EXECUTE 'SELECT job_dlq_partitions.' || p_step INTO said;
      RETURN said;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      IF turn = p_tries THEN
        RAISE;
      END IF;
    END;
    PERFORM pg_sleep(0.5 + random());
  END LOOP;
  RAISE EXCEPTION 'patiently: p_tries must be 1 or more' USING ERRCODE = 'invalid_parameter_value';
END
$body$;

-- Both tables alone, in the order of those who insert a letter. Who submits a job and dead-letters it in one transaction has them in
-- the other order: that is a deadlock, and to end it before deadlock_timeout ends that transaction, the second wait is short after a
-- long first one.
CREATE OR REPLACE FUNCTION job_dlq_partitions.lock_both() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  LOCK TABLE public.job_dlq IN ACCESS EXCLUSIVE MODE;
  IF current_setting('lock_timeout') <> '500ms' THEN
    PERFORM set_config('lock_timeout', '20ms', true);
  END IF;
  LOCK TABLE public.apps IN ACCESS EXCLUSIVE MODE;
END
$body$;

-- Gives a table the triggers, the row-level security, the policies, the grants and the comment of another.
CREATE OR REPLACE FUNCTION job_dlq_partitions.copy_rules(p_from regclass, p_to regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT replace(pg_get_triggerdef(t.oid), format(' ON %s ', p_from), format(' ON %s ', p_to))
    FROM pg_trigger t WHERE t.tgrelid = p_from AND NOT t.tgisinternal
    UNION ALL
    SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', l.policyname, p_to, l.permissive, l.cmd,
      (SELECT string_agg(CASE r WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(r) END, ', ') FROM unnest(l.roles) r),
      ' USING (' || l.qual || ')', ' WITH CHECK (' || l.with_check || ')')
    FROM pg_policies l JOIN pg_class c ON c.oid = p_from JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE l.schemaname = n.nspname AND l.tablename = c.relname
    UNION ALL
    SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, p_to,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.oid = p_from AND a.grantee <> c.relowner
    UNION ALL
    SELECT format('GRANT %s (%I) ON %s TO %s', a.privilege_type, t.attname, p_to,
      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
    FROM pg_attribute t CROSS JOIN LATERAL aclexplode(t.attacl) a WHERE t.attrelid = p_from
    UNION ALL
    SELECT format('COMMENT ON TABLE %s IS %L', p_to, obj_description(p_from, 'pg_class'))
    UNION ALL
    SELECT format('ALTER TABLE %s %s ROW LEVEL SECURITY, %s ROW LEVEL SECURITY', p_to,
      CASE WHEN c.relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END, CASE WHEN c.relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END)
    FROM pg_class c WHERE c.oid = p_from
  LOOP
    EXECUTE statement;
  END LOOP;
END
$body$;

-- Gives a partition the storage parameters of another table, those of autovacuum for example; the partitioned one can have none.
CREATE OR REPLACE FUNCTION job_dlq_partitions.copy_options(p_from regclass, p_to regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  options text := (SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = p_from);
BEGIN
  IF options <> '' THEN
    EXECUTE format('ALTER TABLE %s SET (%s)', p_to, options);
  END IF;
END
$body$;

-- Makes the partition of a range, with the rows of it that the default partition had to take.
CREATE OR REPLACE FUNCTION job_dlq_partitions.add_partition(p_parent regclass, p_lower timestamp, p_upper timestamp) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  name text := 'p' || to_char(p_lower, 'YYYYMMDD');
  lowest uuid := job_dlq_partitions.bound(p_lower AT TIME ZONE 'UTC');
  highest uuid := job_dlq_partitions.bound(p_upper AT TIME ZONE 'UTC');
  columns text := job_dlq_partitions.columns(p_parent);
BEGIN
  EXECUTE format('CREATE TABLE job_dlq_partitions.%I (LIKE %s INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS'
    ' INCLUDING STORAGE INCLUDING COMPRESSION)', name, p_parent);
  IF EXISTS (SELECT FROM job_dlq_partitions.partitions(p_parent::text) p WHERE p.is_default) THEN
    -- Aside, and into the partition when it is one. ATTACH would check the foreign key of rows that are there by a query, in which the
    -- owner sees no apps; an INSERT is checked row by row.
    ALTER TABLE job_dlq_partitions.p_default NO FORCE ROW LEVEL SECURITY;
    EXECUTE format('CREATE TABLE job_dlq_partitions.aside (LIKE %s INCLUDING GENERATED)', p_parent);
    EXECUTE format('WITH moved AS (DELETE FROM job_dlq_partitions.p_default WHERE id >= %L AND id < %L RETURNING %s)'
      ' INSERT INTO job_dlq_partitions.aside (%s) SELECT %s FROM moved', lowest, highest, columns, columns, columns);
    ALTER TABLE job_dlq_partitions.p_default FORCE ROW LEVEL SECURITY;
  END IF;
  -- ATTACH asks for SHARE UPDATE EXCLUSIVE on the partitioned table; CREATE TABLE … PARTITION OF would stop everybody.
  EXECUTE format('ALTER TABLE %s ATTACH PARTITION job_dlq_partitions.%I FOR VALUES FROM (%L) TO (%L)', p_parent, name, lowest, highest);
  IF to_regclass('job_dlq_partitions.aside') IS NOT NULL THEN
    EXECUTE format('INSERT INTO job_dlq_partitions.%I (%s) SELECT %s FROM job_dlq_partitions.aside', name, columns, columns);
    DROP TABLE job_dlq_partitions.aside;
  END IF;
  EXECUTE format('ALTER TABLE job_dlq_partitions.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
  PERFORM job_dlq_partitions.copy_options('job_dlq_partitions.p_default', format('job_dlq_partitions.%I', name)::regclass);
  RETURN name;
END
$body$;

CREATE OR REPLACE FUNCTION job_dlq_partitions.prepare_once(p_every interval, p_count int) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  present timestamp := now() AT TIME ZONE 'UTC';
  first timestamp := date_trunc(CASE WHEN p_every >= interval '28 days' THEN 'month' ELSE 'day' END, present);
  lower timestamp;
  bound uuid;
  before text := current_setting('role');
  statement text;
  found text;
BEGIN
  IF p_every < interval '1 day' OR p_count < 1 THEN
    RAISE EXCEPTION 'prepare: a partition is a day or more, and one or more are made' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF (SELECT relkind FROM pg_class WHERE oid = 'public.job_dlq'::regclass) <> 'r' THEN
    RAISE EXCEPTION 'prepare: job_dlq is partitioned already' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;

  -- What goes by the table itself and not by its name would stay with the old one.
  SELECT string_agg(what, ', ') INTO found FROM (
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) AS what FROM pg_depend d
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = 'public.job_dlq'::regclass
      AND d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_publication_rel'::regclass, 'pg_statistic_ext'::regclass)
    UNION
    SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
    WHERE d.refclassid = 'pg_type'::regclass AND d.classid = 'pg_proc'::regclass
      AND d.refobjid = (SELECT reltype FROM pg_class WHERE oid = 'public.job_dlq'::regclass)
    UNION
    SELECT pg_describe_object('pg_constraint'::regclass, o.oid, 0) FROM pg_constraint o
    WHERE o.confrelid = 'public.job_dlq'::regclass
    UNION
    SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'public.job_dlq'::regclass) AS objects;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'prepare: these belong to the table job_dlq and would stay with it when it becomes a partition: %', found
      USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Drop them, and make them again after swap().';
  END IF;

  -- Two days or more, so that there is time to validate: until swap() the table takes no ids from the bound on.
  LOOP
    first := first + p_every;
    EXIT WHEN first >= present + interval '2 days';
  END LOOP;
  bound := job_dlq_partitions.bound(first AT TIME ZONE 'UTC');
  PERFORM set_config('role', 'parametric_system', true);
  SELECT string_agg(id::text, ', ') INTO found FROM (
    SELECT id FROM public.job_dlq WHERE id >= bound ORDER BY id LIMIT 10) AS beyond;
  PERFORM set_config('role', before, true);
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'prepare: there are dead letters with ids of after %, which no uuidv7() of today makes: %', first, found
      USING ERRCODE = 'check_violation', HINT = 'Discard them and restore them after swap(), or purge them.';
  END IF;

  CREATE SCHEMA job_dlq_next;
  CREATE TABLE job_dlq_next.job_dlq (
    LIKE public.job_dlq INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING COMMENTS INCLUDING STORAGE INCLUDING COMPRESSION
  ) PARTITION BY RANGE (id);
  LOCK TABLE public.apps IN SHARE ROW EXCLUSIVE MODE;
  FOR statement IN
    SELECT format('ALTER TABLE job_dlq_next.job_dlq ADD CONSTRAINT %I %s', o.conname, pg_get_constraintdef(o.oid))
    FROM pg_constraint o WHERE o.conrelid = 'public.job_dlq'::regclass AND o.contype IN ('p', 'u', 'f')
    UNION ALL
    SELECT replace(pg_get_indexdef(i.indexrelid), ' ON public.job_dlq ', ' ON job_dlq_next.job_dlq ')
    FROM pg_index i
    WHERE i.indrelid = 'public.job_dlq'::regclass AND i.indisvalid
      AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u'))
  LOOP
    EXECUTE statement;
  END LOOP;
  PERFORM job_dlq_partitions.copy_rules('public.job_dlq', 'job_dlq_next.job_dlq');
  CREATE TABLE job_dlq_partitions.p_default PARTITION OF job_dlq_next.job_dlq DEFAULT;
  ALTER TABLE job_dlq_partitions.p_default ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
  PERFORM job_dlq_partitions.copy_options('public.job_dlq', 'job_dlq_partitions.p_default');
  lower := first;
  FOR i IN 1 .. p_count LOOP
    PERFORM job_dlq_partitions.add_partition('job_dlq_next.job_dlq', lower, lower + p_every);
    lower := lower + p_every;
  END LOOP;

  -- What the old table promises as a partition, so that nobody has to read it when it becomes one.
  EXECUTE format('ALTER TABLE public.job_dlq ADD CONSTRAINT job_dlq_partition_bound CHECK (id < %L) NOT VALID', bound);
  RETURN format('the table as it is will hold what came before %s UTC; next: validate()', first);
END
$body$;

-- Step 1. Makes the partitioned table beside the one in use, with p_count partitions of p_every each. Call abandon() to undo it.
CREATE OR REPLACE FUNCTION job_dlq_partitions.prepare(p_every interval DEFAULT '1 month', p_count int DEFAULT 3, p_tries int DEFAULT 60)
RETURNS text
LANGUAGE sql
BEGIN ATOMIC
  SELECT job_dlq_partitions.patiently(format('prepare_once(%L, %L)', p_every, p_count), p_tries);
END;

-- Step 2. Reads the table once; everybody goes on reading and writing.
CREATE OR REPLACE FUNCTION job_dlq_partitions.validate() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  ALTER TABLE public.job_dlq VALIDATE CONSTRAINT job_dlq_partition_bound;
  RETURN 'next: swap()';
END
$body$;

CREATE OR REPLACE FUNCTION job_dlq_partitions.swap_once() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  first timestamptz := (SELECT min(p.lower) FROM job_dlq_partitions.partitions('job_dlq_next.job_dlq') p);
  name text := 'p_before_' || to_char(first AT TIME ZONE 'UTC', 'YYYYMMDD');
  found text;
  statement text;
BEGIN
  -- First: what cannot be had at once is given up as a whole. apps, because the foreign key of the old table becomes a part of the
  -- new one's, and its triggers on apps go.
  PERFORM job_dlq_partitions.lock_both();
  IF NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conrelid = 'public.job_dlq'::regclass AND o.conname = 'job_dlq_partition_bound' AND o.convalidated) THEN
    RAISE EXCEPTION 'swap: call validate() first; without it the table would be read while nobody can use it'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  -- ATTACH builds the indexes that it does not find, while nobody can use the table.
  SELECT string_agg(def, ', ') INTO found FROM (
    SELECT replace(pg_get_indexdef(indexrelid), ' ON ONLY job_dlq_next.job_dlq ', ' ON public.job_dlq ') AS def
    FROM pg_index WHERE indrelid = 'job_dlq_next.job_dlq'::regclass
    EXCEPT
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'public.job_dlq'::regclass AND indisvalid) AS missing;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'swap: job_dlq has no longer what prepare() found there: %', found
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call abandon(), and begin again with prepare().';
  END IF;

  FOR statement IN
    SELECT format('DROP TRIGGER %I ON public.job_dlq', tgname) FROM pg_trigger WHERE tgrelid = 'public.job_dlq'::regclass AND NOT tgisinternal
    UNION ALL
    SELECT format('DROP POLICY %I ON public.job_dlq', polname) FROM pg_policy WHERE polrelid = 'public.job_dlq'::regclass
    UNION ALL
    SELECT DISTINCT format('REVOKE ALL ON public.job_dlq FROM %s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.oid = 'public.job_dlq'::regclass AND a.grantee <> c.relowner
  LOOP
    EXECUTE statement;
  END LOOP;
  -- Indexes go with their table, so all keep their names.
  ALTER TABLE public.job_dlq SET SCHEMA job_dlq_partitions;
  EXECUTE format('ALTER TABLE job_dlq_partitions.job_dlq RENAME TO %I', name);
  ALTER TABLE job_dlq_next.job_dlq SET SCHEMA public;
  EXECUTE format('ALTER TABLE public.job_dlq ATTACH PARTITION job_dlq_partitions.%I FOR VALUES FROM (MINVALUE) TO (%L)', name, job_dlq_partitions.bound(first));
  EXECUTE format('ALTER TABLE job_dlq_partitions.%I DROP CONSTRAINT job_dlq_partition_bound', name);
  DROP SCHEMA job_dlq_next;
  RETURN format('job_dlq is partitioned; what came until now is in %s; next: ANALYZE public.job_dlq', name);
END
$body$;

-- Step 3. The partitioned table takes the place of the old one, which becomes its first partition.
CREATE OR REPLACE FUNCTION job_dlq_partitions.swap(p_tries int DEFAULT 60) RETURNS text
LANGUAGE sql
BEGIN ATOMIC
  SELECT job_dlq_partitions.patiently('swap_once()', p_tries);
END;

CREATE OR REPLACE FUNCTION job_dlq_partitions.abandon_once() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  PERFORM job_dlq_partitions.lock_both();
  ALTER TABLE public.job_dlq DROP CONSTRAINT IF EXISTS job_dlq_partition_bound;
  DROP TABLE IF EXISTS job_dlq_next.job_dlq;
  DROP SCHEMA IF EXISTS job_dlq_next;
  RETURN 'job_dlq is as it was before prepare()';
END
$body$;

-- Instead of step 3: takes back what prepare() did.
CREATE OR REPLACE FUNCTION job_dlq_partitions.abandon(p_tries int DEFAULT 60) RETURNS text
LANGUAGE sql
BEGIN ATOMIC
  SELECT job_dlq_partitions.patiently('abandon_once()', p_tries);
END;

CREATE OR REPLACE FUNCTION job_dlq_partitions.ahead_once(p_every interval, p_count int) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  present timestamp := now() AT TIME ZONE 'UTC';
  lower timestamp;
  made text[] := '{}';
BEGIN
  IF p_every < interval '1 day' OR p_count < 1 THEN
    RAISE EXCEPTION 'ahead: a partition is a day or more, and one or more are made' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  LOOP
    SELECT max(p.upper) AT TIME ZONE 'UTC' INTO STRICT lower FROM job_dlq_partitions.partitions() p;
    EXIT WHEN lower >= present + p_every * p_count;
    made := made || job_dlq_partitions.add_partition('public.job_dlq', lower, lower + p_every);
  END LOOP;
  RETURN COALESCE('made ' || NULLIF(array_to_string(made, ', '), ''), 'nothing to do');
END
$body$;

-- Every day. Makes the partitions that are missing until p_count × p_every from now.
CREATE OR REPLACE FUNCTION job_dlq_partitions.ahead(p_every interval DEFAULT '1 month', p_count int DEFAULT 2, p_tries int DEFAULT 60)
RETURNS text
LANGUAGE sql
BEGIN ATOMIC
  SELECT job_dlq_partitions.patiently(format('ahead_once(%L, %L)', p_every, p_count), p_tries);
END;

CREATE OR REPLACE FUNCTION job_dlq_partitions.detach_once(p_name text, p_older_than_days int, p_keep boolean) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  columns text := job_dlq_partitions.columns('public.job_dlq');
  kept bigint;
BEGIN
  IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN
    RAISE EXCEPTION 'detach: p_older_than_days must be 0 or more' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF NOT EXISTS (SELECT FROM job_dlq_partitions.partitions() p WHERE p.name = p_name AND p.upper <= now()) THEN
    RAISE EXCEPTION 'detach: % is no partition whose time is over', p_name USING ERRCODE = 'invalid_parameter_value';
  END IF;
  EXECUTE format('ALTER TABLE public.job_dlq DETACH PARTITION job_dlq_partitions.%I', p_name);
  -- The owner sees all of it; nobody else has a right on it.
  EXECUTE format('ALTER TABLE job_dlq_partitions.%I NO FORCE ROW LEVEL SECURITY', p_name);
  ALTER TABLE job_dlq_partitions.p_default NO FORCE ROW LEVEL SECURITY;
  -- Into the default partition: an id belongs to its time, and that has no other partition any more.
  EXECUTE format('WITH kept AS (DELETE FROM job_dlq_partitions.%I WHERE replayed_at IS NULL'
    ' OR replayed_at >= now() - make_interval(days => LEAST(%s, 1000000)) RETURNING %s)'
    ' INSERT INTO job_dlq_partitions.p_default (%s) SELECT %s FROM kept', p_name, p_older_than_days, columns, columns, columns);
  GET DIAGNOSTICS kept = ROW_COUNT;
  IF kept > 0 AND NOT p_keep THEN
    RAISE EXCEPTION 'detach: % dead letters in % are pending or were replayed within % days', kept, p_name, p_older_than_days
      USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Replay or discard them; or detach with p_keep => true, which moves them into the default partition.';
  END IF;
  ALTER TABLE job_dlq_partitions.p_default FORCE ROW LEVEL SECURITY;
  RETURN format('%s is no part of job_dlq any more, %s dead letters of it stay; next: drop_detached(%L)', p_name, kept, p_name);
END
$body$;

-- Takes a partition out of job_dlq when all of it was replayed longer ago than that. With p_keep the others are moved before.
CREATE OR REPLACE FUNCTION job_dlq_partitions.detach(p_name text, p_older_than_days int DEFAULT 30, p_keep boolean DEFAULT false, p_tries int DEFAULT 60)
RETURNS text
LANGUAGE sql
BEGIN ATOMIC
  SELECT job_dlq_partitions.patiently(format('detach_once(%L, %L, %L)', p_name, p_older_than_days, p_keep), p_tries);
END;

CREATE OR REPLACE FUNCTION job_dlq_partitions.drop_once(p_name text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  EXECUTE format('DROP TABLE job_dlq_partitions.%I', p_name);
  RETURN format('%s is gone', p_name);
END
$body$;

-- Drops what detach() took out, with the receipts in the ledger that purge_job_dlq() would leave.
CREATE OR REPLACE FUNCTION job_dlq_partitions.drop_detached(p_name text, p_tries int DEFAULT 60) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  before text := current_setting('role');
  counted jsonb;
BEGIN
  IF p_name IS NULL OR p_name = 'p_default' OR to_regclass(format('job_dlq_partitions.%I', p_name)) IS NULL
    OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(format('job_dlq_partitions.%I', p_name))) THEN
    RAISE EXCEPTION 'drop_detached: % is no detached partition', p_name USING ERRCODE = 'invalid_parameter_value';
  END IF;
  EXECUTE format('LOCK TABLE job_dlq_partitions.%I IN ACCESS EXCLUSIVE MODE', p_name);
  EXECUTE format('SELECT jsonb_agg(c) FROM (SELECT app_id, type, error_reason, count(*)::int AS count FROM job_dlq_partitions.%I'
    ' GROUP BY app_id, type, error_reason) c', p_name) INTO counted;
  PERFORM set_config('role', 'parametric_system', true);
  INSERT INTO public.job_dlq_events (app_id, kind, actor, detail)
  SELECT app_id, 'purged', COALESCE(NULLIF(btrim(current_setting('app.actor', true)), ''), SESSION_USER),
    jsonb_build_object('source', 'replayed', 'partition', p_name, 'count', sum(count)::int,
      'groups', jsonb_agg(jsonb_build_object('type', type, 'reason', error_reason, 'count', count) ORDER BY type, error_reason))
  FROM jsonb_to_recordset(counted) AS c (app_id uuid, type text, error_reason text, count int)
  GROUP BY app_id;
  PERFORM set_config('role', before, true);
  RETURN job_dlq_partitions.patiently(format('drop_once(%L)', p_name), p_tries);
END
$body$;

CREATE OR REPLACE FUNCTION job_dlq_partitions.undo_once(p_most_rows bigint) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  old text := (SELECT p.name FROM job_dlq_partitions.partitions() p WHERE p.lower IS NULL AND NOT p.is_default);
  columns text := job_dlq_partitions.columns('public.job_dlq');
  other text;
  more bigint;
  moved bigint := 0;
  renames text[];
  rename text;
BEGIN
  IF old IS NULL THEN
    RAISE EXCEPTION 'undo: the table of before is no partition of job_dlq' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  PERFORM job_dlq_partitions.lock_both();
  -- An index that was made since has another name in each partition.
  renames := ARRAY(
    SELECT format('ALTER INDEX public.%I RENAME TO %I', c.relname, p.relname)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    JOIN pg_index x ON x.indexrelid = c.oid
    WHERE x.indrelid = format('job_dlq_partitions.%I', old)::regclass AND p.relname <> c.relname);
  EXECUTE format('ALTER TABLE public.job_dlq DETACH PARTITION job_dlq_partitions.%I', old);
  EXECUTE format('ALTER TABLE job_dlq_partitions.%I NO FORCE ROW LEVEL SECURITY', old);
  FOR other IN SELECT p.name FROM job_dlq_partitions.partitions() p LOOP
    EXECUTE format('ALTER TABLE job_dlq_partitions.%I NO FORCE ROW LEVEL SECURITY', other);
    EXECUTE format('INSERT INTO job_dlq_partitions.%I (%s) SELECT %s FROM job_dlq_partitions.%I LIMIT %s', old, columns, columns, other, p_most_rows - moved + 1);
    GET DIAGNOSTICS more = ROW_COUNT;
    moved := moved + more;
    IF moved > p_most_rows THEN
      RAISE EXCEPTION 'undo: more than % dead letters would be copied while nobody can use the table', p_most_rows
        USING ERRCODE = 'program_limit_exceeded', HINT = 'Call it with a higher p_most_rows, in a quiet hour.';
    END IF;
  END LOOP;
  CREATE SCHEMA job_dlq_next;
  ALTER TABLE public.job_dlq SET SCHEMA job_dlq_next;
  EXECUTE format('ALTER TABLE job_dlq_partitions.%I RENAME TO job_dlq', old);
  ALTER TABLE job_dlq_partitions.job_dlq SET SCHEMA public;
  PERFORM job_dlq_partitions.copy_rules('job_dlq_next.job_dlq', 'public.job_dlq');
  DROP TABLE job_dlq_next.job_dlq;
  FOREACH rename IN ARRAY renames LOOP
    EXECUTE rename;
  END LOOP;
  DROP SCHEMA job_dlq_next;
  RETURN format('job_dlq is one table again, with %s dead letters of the other partitions', moved);
END
$body$;

-- The way back, while the table of before is still a partition: it gets the rows of the others, under an exclusive lock.
CREATE OR REPLACE FUNCTION job_dlq_partitions.undo(p_most_rows bigint DEFAULT 100000, p_tries int DEFAULT 60) RETURNS text
LANGUAGE sql
BEGIN ATOMIC
  SELECT job_dlq_partitions.patiently(format('undo_once(%L)', p_most_rows), p_tries);
END;
