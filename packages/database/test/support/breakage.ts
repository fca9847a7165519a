/**
 * Ways to break a schema, made from the catalogue of the database itself so that no object and no property is forgotten: each
 * is SQL that drops, changes or adds one thing, and names the object that a comparison must then report.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";

export interface Breakage {
  /** As in the snapshot, for example `index idx_job_dlq_type`. */
  readonly object: string;
  readonly statement: string;
}

const decode = S.decodeUnknown(S.Array(S.Struct({ object: S.String, statement: S.String })));

/** What the schema has, each thing dropped or changed in every way that the snapshot knows. */
const changes = `
WITH space AS (SELECT oid FROM pg_namespace WHERE nspname = 'public'),
tables AS (SELECT c.oid, c.relname AS t FROM pg_class c JOIN space ON c.relnamespace = space.oid WHERE c.relkind = 'r'),
-- What stands in the way of another type or of a key column's NULL.
loose AS (
  SELECT oid, t,
    COALESCE((SELECT string_agg(format('DROP POLICY %I ON %I; ', p.polname, t), '') FROM pg_policy p WHERE p.polrelid = tables.oid), '')
    || COALESCE((SELECT string_agg(format('ALTER TABLE %I DROP CONSTRAINT %I CASCADE; ', t, o.conname), '')
      FROM pg_constraint o WHERE o.conrelid = tables.oid AND o.contype <> 'n'), '') AS first
  FROM tables),
columns AS (
  SELECT l.t, l.first, a.attname AS c, a.attnotnull AS required, a.atthasdef AS has_default, format_type(a.atttypid, a.atttypmod) AS type
  FROM loose l JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped),
constraints AS (
  SELECT l.t, l.first, o.conname AS o, o.contype, pg_get_constraintdef(o.oid) AS definition
  FROM loose l JOIN pg_constraint o ON o.conrelid = l.oid),
indexes AS (
  SELECT t, c.relname AS i, pg_get_indexdef(c.oid) AS definition
  FROM tables JOIN pg_index x ON x.indrelid = tables.oid JOIN pg_class c ON c.oid = x.indexrelid
  WHERE NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = c.oid AND o.contype IN ('p', 'u'))),
triggers AS (
  SELECT t, g.tgname AS g, pg_get_triggerdef(g.oid) AS definition FROM tables JOIN pg_trigger g ON g.tgrelid = tables.oid WHERE NOT g.tgisinternal),
policies AS (SELECT t, p.polname AS p FROM tables JOIN pg_policy p ON p.polrelid = tables.oid),
functions AS (
  SELECT f.oid::regprocedure::text AS f, f.proname || '(' || pg_get_function_identity_arguments(f.oid) || ')' AS object, f.*,
    pg_get_functiondef(f.oid) AS definition
  FROM pg_proc f JOIN space ON f.pronamespace = space.oid),
granted AS (
  SELECT 'table ' || c.relname AS object, 'TABLE ' || quote_ident(c.relname) AS target, a.*
  FROM pg_class c JOIN space ON c.relnamespace = space.oid CROSS JOIN LATERAL aclexplode(c.relacl) a
  WHERE c.relkind = 'r' AND a.grantee <> c.relowner
  UNION ALL
  SELECT 'sequence ' || c.relname, 'SEQUENCE ' || quote_ident(c.relname), a.*
  FROM pg_class c JOIN space ON c.relnamespace = space.oid CROSS JOIN LATERAL aclexplode(c.relacl) a
  WHERE c.relkind = 'S' AND a.grantee <> c.relowner
  UNION ALL
  SELECT 'function ' || f.object, 'FUNCTION ' || f.f, a.*
  FROM functions f CROSS JOIN LATERAL aclexplode(COALESCE(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee <> f.proowner
  UNION ALL
  SELECT 'type ' || y.typname, 'TYPE ' || quote_ident(y.typname), a.*
  FROM pg_type y JOIN space ON y.typnamespace = space.oid CROSS JOIN LATERAL aclexplode(COALESCE(y.typacl, acldefault('T', y.typowner))) a
  WHERE y.typtype = 'e' AND a.grantee <> y.typowner
  UNION ALL
  SELECT 'schema public', 'SCHEMA public', a.*
  FROM pg_namespace n JOIN space ON n.oid = space.oid CROSS JOIN LATERAL aclexplode(n.nspacl) a
  WHERE a.grantee = 0 OR a.grantee IN (SELECT oid FROM pg_roles WHERE rolname LIKE 'parametric%')),
everybody AS (SELECT unnest(ARRAY['parametric_tenant', 'parametric_system', 'PUBLIC']) AS role)

SELECT 'table ' || t AS object, format(x, t) AS statement FROM tables CROSS JOIN unnest(ARRAY[
  'DROP TABLE %I CASCADE', 'ALTER TABLE %I RENAME TO renamed', 'ALTER TABLE %I SET (fillfactor = 50)',
  'ALTER TABLE %I OWNER TO parametric_system', 'ALTER TABLE %I REPLICA IDENTITY FULL', $$COMMENT ON TABLE %I IS 'changed'$$,
  'ALTER TABLE %I FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY, ALTER COLUMN updated_at DROP DEFAULT, NO FORCE ROW LEVEL SECURITY',
  'ALTER TABLE %I DISABLE ROW LEVEL SECURITY']) x
WHERE t <> 'portal_migrations' OR x NOT LIKE '%ROW LEVEL SECURITY%'
UNION ALL SELECT 'table ' || t, format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t) FROM tables JOIN pg_class c USING (oid) WHERE NOT c.relrowsecurity
UNION ALL SELECT 'table ' || t, format('GRANT %s ON TABLE %I TO %s', p, t, role)
  FROM tables CROSS JOIN everybody CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN']) p
  WHERE NOT EXISTS (SELECT FROM granted g WHERE g.object = 'table ' || t AND g.privilege_type = p AND g.grantee <> 0
    AND pg_get_userbyid(g.grantee) = role)
UNION ALL SELECT object, format('REVOKE %s ON %s FROM %s', privilege_type, target, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
  FROM granted
UNION ALL SELECT object, format('GRANT %s ON %s TO %s WITH GRANT OPTION', privilege_type, target, grantee::regrole) FROM granted WHERE grantee <> 0
UNION ALL SELECT 'schema public', format('GRANT CREATE ON SCHEMA public TO %s', role) FROM everybody
UNION ALL SELECT 'schema public', format('ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO %s', role) FROM everybody
UNION ALL SELECT 'sequence job_fence', format('GRANT UPDATE ON SEQUENCE job_fence TO %s', role) FROM everybody
UNION ALL SELECT 'function ' || object, format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', f) FROM functions WHERE proacl IS NOT NULL
UNION ALL SELECT 'role ' || r, format(x, r) FROM unnest(ARRAY['parametric_tenant', 'parametric_system']) r CROSS JOIN unnest(ARRAY[
  'ALTER ROLE %I LOGIN', 'ALTER ROLE %I SUPERUSER', 'ALTER ROLE %I NOINHERIT', 'ALTER ROLE %I CREATEROLE', 'ALTER ROLE %I CREATEDB',
  'ALTER ROLE %I REPLICATION', 'ALTER ROLE %I BYPASSRLS', 'ALTER ROLE %I SET search_path = attacker', 'GRANT pg_read_all_data TO %I']) x

UNION ALL SELECT 'column ' || t || '.' || c, format(x, t, c) FROM columns CROSS JOIN unnest(ARRAY[
  'ALTER TABLE %I DROP COLUMN %I CASCADE', 'ALTER TABLE %I RENAME COLUMN %I TO renamed', $$COMMENT ON COLUMN %I.%I IS 'changed'$$,
  'ALTER TABLE %I ALTER COLUMN %I SET STATISTICS 7', 'ALTER TABLE %I ALTER COLUMN %I SET (n_distinct = 7)']) x
UNION ALL SELECT 'column ' || t || '.' || c, format('GRANT UPDATE (%I) ON TABLE %I TO PUBLIC', c, t) FROM columns
UNION ALL SELECT 'column ' || t || '.' || c, format('%sALTER TABLE %I ALTER COLUMN %I DROP NOT NULL', first, t, c) FROM columns WHERE required
UNION ALL SELECT 'column ' || t || '.' || c, format('ALTER TABLE %I ALTER COLUMN %I SET NOT NULL', t, c) FROM columns WHERE NOT required
UNION ALL SELECT 'column ' || t || '.' || c, format('ALTER TABLE %I ALTER COLUMN %I DROP DEFAULT', t, c) FROM columns WHERE has_default
UNION ALL SELECT 'column ' || t || '.' || c, format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT %s', t, c, CASE type
    WHEN 'uuid' THEN 'gen_random_uuid()' WHEN 'text' THEN $$'x'$$ WHEN 'jsonb' THEN $$'{}'$$ WHEN 'integer' THEN '7' WHEN 'bigint' THEN '7'
    WHEN 'job_priority' THEN $$'low'$$ ELSE 'clock_timestamp()' END)
  FROM columns
UNION ALL SELECT 'column ' || t || '.' || c, format('%sALTER TABLE %I ALTER COLUMN %I TYPE %s', first, t, c, CASE type
    WHEN 'text' THEN 'varchar' WHEN 'uuid' THEN 'text' WHEN 'integer' THEN 'bigint' WHEN 'bigint' THEN 'numeric' WHEN 'jsonb' THEN 'text'
    WHEN 'timestamp with time zone' THEN 'timestamptz(3)' ELSE 'text' END)
  FROM columns
UNION ALL SELECT 'column ' || t || '.' || c, format('%sALTER TABLE %I ALTER COLUMN %I TYPE text COLLATE "C"', first, t, c) FROM columns WHERE type = 'text'

UNION ALL SELECT 'constraint ' || t || '.' || o, format('%sALTER TABLE %I DROP CONSTRAINT IF EXISTS %I CASCADE', CASE contype WHEN 'n' THEN first END, t, o)
  FROM constraints
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %I RENAME CONSTRAINT %I TO renamed', t, o) FROM constraints
UNION ALL SELECT 'constraint ' || t || '.' || o, format($$COMMENT ON CONSTRAINT %I ON %I IS 'changed'$$, o, t) FROM constraints
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %1$I DROP CONSTRAINT %2$I; ALTER TABLE %1$I ADD CONSTRAINT %2$I CHECK (true)', t, o)
  FROM constraints WHERE contype = 'c'
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %1$I DROP CONSTRAINT %2$I; ALTER TABLE %1$I ADD CONSTRAINT %2$I %3$s NOT VALID', t, o, definition)
  FROM constraints WHERE contype IN ('c', 'f')
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %I ALTER CONSTRAINT %I %s', t, o, x)
  FROM constraints CROSS JOIN unnest(ARRAY['DEFERRABLE', 'NOT ENFORCED']) x WHERE contype = 'f'
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %1$I DROP CONSTRAINT %2$I; ALTER TABLE %1$I ADD CONSTRAINT %2$I %3$s', t, o,
    replace(definition, 'ON DELETE RESTRICT', 'ON DELETE CASCADE'))
  FROM constraints WHERE contype = 'f'
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %I DISABLE TRIGGER ALL', t) FROM constraints WHERE contype = 'f'
UNION ALL SELECT 'constraint ' || t || '.' || o, format('ALTER TABLE %1$I DROP CONSTRAINT %2$I CASCADE; ALTER TABLE %1$I ADD CONSTRAINT %2$I %3$s DEFERRABLE', t, o, definition)
  FROM constraints WHERE contype IN ('p', 'u')

UNION ALL SELECT 'index ' || i, format(x, i) FROM (SELECT i FROM indexes UNION SELECT o FROM constraints WHERE contype IN ('p', 'u')) _ CROSS JOIN unnest(ARRAY[
  'ALTER INDEX %I RENAME TO renamed', $$COMMENT ON INDEX %I IS 'changed'$$, 'ALTER INDEX %I SET (fillfactor = 50)',
  $$UPDATE pg_index SET indisvalid = false WHERE indexrelid = '%I'::regclass$$]) x
UNION ALL SELECT 'index ' || i, format('DROP INDEX %I', i) FROM indexes
UNION ALL SELECT 'index ' || i, format('DROP INDEX %I; %s', i, x)
  FROM indexes CROSS JOIN LATERAL unnest(ARRAY[
    CASE WHEN definition ~ ' WHERE ' THEN regexp_replace(definition, ' WHERE .*', '') ELSE definition || ' WHERE app_id IS NOT NULL' END,
    replace(definition, 'CREATE INDEX', 'CREATE UNIQUE INDEX'), regexp_replace(definition, '\\)', ' DESC)'),
    regexp_replace(definition, '\\)', ', updated_at)'), regexp_replace(definition, 'USING btree \\(.*?\\)', 'USING btree (updated_at)')]) x
UNION ALL SELECT 'index ' || i, format('CLUSTER %I USING %I', t, i) FROM indexes WHERE definition !~ ' WHERE '

UNION ALL SELECT 'trigger ' || t || '.' || g, format(x, g, t) FROM triggers CROSS JOIN unnest(ARRAY[
  'DROP TRIGGER %I ON %I', 'ALTER TRIGGER %I ON %I RENAME TO renamed', $$COMMENT ON TRIGGER %I ON %I IS 'changed'$$,
  'ALTER TABLE %2$I DISABLE TRIGGER %1$I', 'ALTER TABLE %2$I ENABLE REPLICA TRIGGER %1$I']) x
UNION ALL SELECT 'trigger ' || t || '.' || g, format('DROP TRIGGER %I ON %I; %s', g, t, x)
  FROM triggers CROSS JOIN LATERAL unnest(ARRAY[replace(definition, 'BEFORE', 'AFTER'), replace(definition, 'BEFORE UPDATE', 'BEFORE INSERT'),
    replace(definition, 'BEFORE UPDATE', 'BEFORE UPDATE OF updated_at'), replace(definition, 'FOR EACH ROW', 'FOR EACH ROW WHEN (false)')]) x

UNION ALL SELECT 'policy ' || t || '.' || p, format(x, p, t) FROM policies CROSS JOIN unnest(ARRAY[
  'DROP POLICY %I ON %I', 'ALTER POLICY %I ON %I RENAME TO renamed', $$COMMENT ON POLICY %I ON %I IS 'changed'$$,
  'ALTER POLICY %I ON %I TO PUBLIC', 'ALTER POLICY %I ON %I TO parametric_tenant, parametric_system',
  'ALTER POLICY %I ON %I USING (updated_at IS NOT NULL)', 'ALTER POLICY %I ON %I WITH CHECK (updated_at IS NOT NULL)',
  'DROP POLICY %1$I ON %2$I; CREATE POLICY %1$I ON %2$I AS RESTRICTIVE USING (true)',
  'DROP POLICY %1$I ON %2$I; CREATE POLICY %1$I ON %2$I FOR SELECT USING (true)']) x

UNION ALL SELECT 'function ' || object, format(x, f) FROM functions CROSS JOIN unnest(ARRAY[
  'DROP FUNCTION %s CASCADE', 'ALTER FUNCTION %s RENAME TO renamed', 'ALTER FUNCTION %s OWNER TO parametric_system',
  'ALTER FUNCTION %s SET search_path = public', 'ALTER FUNCTION %s SECURITY DEFINER', 'ALTER FUNCTION %s IMMUTABLE', 'ALTER FUNCTION %s PARALLEL RESTRICTED',
  'ALTER FUNCTION %s STRICT', 'ALTER FUNCTION %s LEAKPROOF', 'ALTER FUNCTION %s COST 7', $$COMMENT ON FUNCTION %s IS 'changed'$$]) x
UNION ALL SELECT 'function ' || object, format('ALTER FUNCTION %s RESET ALL', f) FROM functions WHERE proconfig IS NOT NULL
UNION ALL SELECT 'function ' || object, replace(replace(definition, 'BEGIN', 'BEGIN NULL;'), ', true)', ', false)') FROM functions
UNION ALL SELECT 'function ' || object, replace(definition, 'DEFAULT 30', 'DEFAULT 31') FROM functions WHERE pronargdefaults > 0

UNION ALL SELECT 'type ' || y.typname, format(x, y.typname) FROM pg_type y JOIN space ON y.typnamespace = space.oid CROSS JOIN unnest(ARRAY[
  'DROP TYPE %I CASCADE', 'ALTER TYPE %I RENAME TO renamed', $$ALTER TYPE %I ADD VALUE 'later'$$, $$ALTER TYPE %I RENAME VALUE 'low' TO 'lowest'$$,
  'ALTER TYPE %I OWNER TO parametric_system', $$COMMENT ON TYPE %I IS 'changed'$$]) x WHERE y.typtype = 'e'

UNION ALL SELECT 'sequence ' || c.relname, format(x, c.relname) FROM pg_class c JOIN space ON c.relnamespace = space.oid CROSS JOIN unnest(ARRAY[
  'DROP SEQUENCE %I CASCADE', 'ALTER SEQUENCE %I RENAME TO renamed', 'ALTER SEQUENCE %I INCREMENT 2', 'ALTER SEQUENCE %I CYCLE', 'ALTER SEQUENCE %I START 7',
  'ALTER SEQUENCE %I MINVALUE 0', 'ALTER SEQUENCE %I MAXVALUE 9999', 'ALTER SEQUENCE %I CACHE 7', 'ALTER SEQUENCE %I AS integer', 'ALTER SEQUENCE %I OWNED BY NONE',
  'ALTER SEQUENCE %I OWNED BY NONE; ALTER SEQUENCE %1$I OWNER TO parametric_system', $$COMMENT ON SEQUENCE %I IS 'changed'$$]) x WHERE c.relkind = 'S'`;

/** What the schema has not. */
const additions: ReadonlyArray<readonly [object: string, statement: string]> = [
  ["table stray", "CREATE TABLE stray ()"],
  ["column stray.c", "CREATE TABLE stray (c int)"],
  ["table stray", "CREATE UNLOGGED TABLE stray ()"],
  ["table stray", "CREATE TABLE stray () INHERITS (apps)"],
  ["partitioned table stray", "CREATE TABLE stray (c int) PARTITION BY LIST (c)"],
  ["view stray", "CREATE VIEW stray AS SELECT 1 AS c"],
  ["materialized view stray", "CREATE MATERIALIZED VIEW stray AS SELECT 1 AS c"],
  ["sequence stray", "CREATE SEQUENCE stray"],
  ["function stray()", "CREATE FUNCTION stray() RETURNS int LANGUAGE sql RETURN 1"],
  ["function stray()", "CREATE PROCEDURE stray() LANGUAGE sql AS ''"],
  ["function stray(integer)", "CREATE AGGREGATE stray(int) (SFUNC = int4pl, STYPE = int)"],
  ["type stray", "CREATE TYPE stray AS ENUM ('a')"],
  ["type stray", "CREATE DOMAIN stray AS int"],
  ["constraint stray.stray_check", "CREATE DOMAIN stray AS int CHECK (VALUE > 0)"],
  ["type stray", "CREATE TYPE stray AS RANGE (SUBTYPE = int)"],
  ["composite type stray", "CREATE TYPE stray AS (c int)"],
  ["column job_dlq.stray", "ALTER TABLE job_dlq ADD COLUMN stray int"],
  ["column job_dlq.stray", "ALTER TABLE job_dlq ADD COLUMN stray int GENERATED ALWAYS AS IDENTITY"],
  ["column job_dlq.stray", "ALTER TABLE job_dlq ADD COLUMN stray int GENERATED ALWAYS AS (1) STORED"],
  ["constraint job_dlq.stray", "ALTER TABLE job_dlq ADD CONSTRAINT stray CHECK (true)"],
  ["constraint job_dlq.stray", "ALTER TABLE job_dlq ADD CONSTRAINT stray EXCLUDE (id WITH =)"],
  ["index stray", "CREATE INDEX stray ON job_dlq (id)"],
  [
    "trigger job_dlq.stray",
    "CREATE TRIGGER stray BEFORE UPDATE ON job_dlq FOR EACH ROW EXECUTE FUNCTION set_updated_at()",
  ],
  ["policy job_dlq.stray", "CREATE POLICY stray ON job_dlq TO PUBLIC USING (true)"],
  ["rule job_dlq.stray", "CREATE RULE stray AS ON DELETE TO job_dlq DO INSTEAD NOTHING"],
  [
    "other operator public.=#=(integer,integer)",
    "CREATE OPERATOR =#= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl)",
  ],
  ["other collation public.stray", `CREATE COLLATION stray FROM "C"`],
  ["other statistics object public.stray", "CREATE STATISTICS stray ON id, app_id FROM job_dlq"],
  ["other text search configuration public.stray", "CREATE TEXT SEARCH CONFIGURATION stray (COPY = pg_catalog.simple)"],
];

/** Every breakage of the database of the client in the context. */
export const breakages = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const found: ReadonlyArray<Breakage> = yield* Effect.flatMap(sql.unsafe(changes), decode);
  return [...found, ...additions.map(([object, statement]): Breakage => ({ object, statement }))];
});
