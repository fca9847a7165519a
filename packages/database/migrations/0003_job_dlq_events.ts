/**
 * The ledger: who did what to which dead letter. Append-only, and the database holds that, not the application.
 *
 * Locks: creates objects and replaces the function purge_job_dlq(), so it waits for nobody.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // No foreign key to apps: what happened stays known when an app is gone, and a replay of 100,000 letters would pay for the
  // check 100,000 times, although each row is made from a dead letter whose app exists.
  yield* sql.unsafe(`
    CREATE TABLE job_dlq_events (
      id uuid PRIMARY KEY DEFAULT uuidv7(),
      app_id uuid NOT NULL,
      dlq_id uuid,
      original_job_id uuid,
      kind text NOT NULL,
      actor text NOT NULL,
      reason text,
      detail jsonb,
      entry jsonb,
      undoes uuid,
      user_id uuid GENERATED ALWAYS AS (COALESCE(entry ->> 'user_id', detail ->> 'user_id')::uuid) STORED,
      at timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT job_dlq_events_kind_known CHECK (
        kind IN ('replayed', 'discarded', 'restored', 'erased', 'purged', 'expired', 'imported', 'viewed')),
      CONSTRAINT job_dlq_events_actor_not_blank CHECK (btrim(actor) <> ''),
      CONSTRAINT job_dlq_events_names_letter CHECK ((kind = 'purged') = (dlq_id IS NULL) AND (dlq_id IS NULL) = (original_job_id IS NULL)),
      CONSTRAINT job_dlq_events_restored_undoes CHECK ((kind = 'restored') = (undoes IS NOT NULL)),
      CONSTRAINT job_dlq_events_entry_of_removal CHECK (entry IS NULL OR kind IN ('discarded', 'expired'))
    )`);
  for (const [column, comment] of [
    ["dlq_id", "The dead letter; NULL for the receipt of a purge, which is about many"],
    ["kind", "replayed, discarded, restored, erased, purged, expired, imported, viewed"],
    ["actor", "Who did it: a person, or the program that acted by itself"],
    ["reason", "Why, in the actor''s words"],
    ["detail", "What belongs to the kind: the JSON diff of a replay with another payload, the counts of a purge"],
    ["entry", "The whole dead letter where it left the table; what restore brings back. NULL after an erasure"],
    ["undoes", "restored only: the event that it undid"],
    ["user_id", "Whose data entry and detail hold; NULL with them after an erasure"],
  ]) {
    yield* sql.unsafe(`COMMENT ON COLUMN job_dlq_events.${column} IS '${comment}'`);
  }
  yield* sql.unsafe(
    `COMMENT ON TABLE job_dlq_events IS 'Ledger of job_dlq: append-only; see job_dlq_events_append_only()'`,
  );

  // jobDlq.restore: an event is undone once, whoever comes at the same time.
  yield* sql.unsafe(
    `CREATE UNIQUE INDEX idx_job_dlq_events_undoes ON job_dlq_events (undoes) WHERE undoes IS NOT NULL`,
  );
  // jobDlq.replay and discard: what became of an id that is not in the table any more.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_events_dlq_id ON job_dlq_events (dlq_id) WHERE dlq_id IS NOT NULL`);
  // jobDlq.history: the rounds of one job.
  yield* sql.unsafe(
    `CREATE INDEX idx_job_dlq_events_job ON job_dlq_events (original_job_id) WHERE original_job_id IS NOT NULL`,
  );
  // jobDlq.events: a tenant's ledger, newest first.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_events_app ON job_dlq_events (app_id, id DESC)`);
  // jobDlq.erase: what the ledger holds of one person.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_events_user ON job_dlq_events (user_id) WHERE user_id IS NOT NULL`);
  // jobDlq.retain: removed letters by age.
  yield* sql.unsafe(
    `CREATE INDEX idx_job_dlq_events_removed ON job_dlq_events (at) WHERE kind IN ('discarded', 'expired')`,
  );

  // Two exceptions: an erasure empties entry and detail; and parametric_system deletes rows older than the retention age that
  // its own transaction has declared, 0 days or more (a negative age would be past at once). What was erased is never forgotten: an
  // import would bring it back. A superuser and the owner, whom no grant stops, are held to them as well.
  yield* sql.unsafe(`
    CREATE FUNCTION job_dlq_events_append_only() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
      retention_days text := NULLIF(current_setting('app.ledger_retention_days', true), '');
    BEGIN
      IF TG_OP = 'UPDATE' THEN
        IF (NEW.entry IS NULL OR NEW.entry IS NOT DISTINCT FROM OLD.entry)
          AND (NEW.detail IS NULL OR NEW.detail IS NOT DISTINCT FROM OLD.detail)
          AND (NEW.id, NEW.app_id, NEW.kind, NEW.actor, NEW.at) IS NOT DISTINCT FROM (OLD.id, OLD.app_id, OLD.kind, OLD.actor, OLD.at)
          AND (NEW.dlq_id, NEW.original_job_id, NEW.reason, NEW.undoes)
            IS NOT DISTINCT FROM (OLD.dlq_id, OLD.original_job_id, OLD.reason, OLD.undoes)
        THEN
          RETURN NEW;
        END IF;
        RAISE EXCEPTION 'job_dlq_events is append-only: entry and detail may become NULL, nothing else may change'
          USING ERRCODE = 'insufficient_privilege';
      END IF;
      IF TG_OP = 'DELETE' THEN
        IF CURRENT_USER = 'parametric_system' AND OLD.kind <> 'erased' AND retention_days::int >= 0
          AND OLD.at < now() - make_interval(days => retention_days::int) THEN
          RETURN OLD;
        END IF;
        RAISE EXCEPTION 'job_dlq_events is append-only: only parametric_system deletes, only past app.ledger_retention_days, and nothing of kind erased'
          USING ERRCODE = 'insufficient_privilege';
      END IF;
      RAISE EXCEPTION 'job_dlq_events is append-only: no TRUNCATE' USING ERRCODE = 'insufficient_privilege';
    END
    $body$`);
  yield* sql.unsafe(`
    CREATE TRIGGER job_dlq_events_append_only BEFORE UPDATE OR DELETE ON job_dlq_events
    FOR EACH ROW EXECUTE FUNCTION job_dlq_events_append_only()`);
  yield* sql.unsafe(`
    CREATE TRIGGER job_dlq_events_no_truncate BEFORE TRUNCATE ON job_dlq_events
    FOR EACH STATEMENT EXECUTE FUNCTION job_dlq_events_append_only()`);

  yield* sql.unsafe(`ALTER TABLE job_dlq_events ENABLE ROW LEVEL SECURITY`);
  yield* sql.unsafe(`ALTER TABLE job_dlq_events FORCE ROW LEVEL SECURITY`);
  yield* sql.unsafe(`
    CREATE POLICY job_dlq_events_tenant ON job_dlq_events TO parametric_tenant
    USING (app_id = current_tenant()) WITH CHECK (app_id = current_tenant())`);
  yield* sql.unsafe(
    `CREATE POLICY job_dlq_events_system ON job_dlq_events TO parametric_system USING (true) WITH CHECK (true)`,
  );
  yield* sql.unsafe(
    `GRANT SELECT, INSERT, UPDATE (entry, detail) ON job_dlq_events TO parametric_tenant, parametric_system`,
  );
  yield* sql.unsafe(`GRANT DELETE ON job_dlq_events TO parametric_system`);

  // What an override changed, as operations of JSON Patch (RFC 6902) with the old value beside the new one. In the database,
  // because a number beyond 2^53 would be another one after a trip through JavaScript. Arrays are compared by place. One aggregate
  // a level: appending to one jsonb was quadratic, a minute for an array of 16,000 elements, with the letters locked. What is
  // nested deeper than 100 levels is replaced as a whole: each level is a call within a call, and 1,000 exceed the stack.
  yield* sql.unsafe(`
    CREATE FUNCTION job_dlq_json_diff(p_before jsonb, p_after jsonb, p_path text DEFAULT '', p_depth int DEFAULT 0) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, pg_temp
    AS $body$
    DECLARE
      kind text := jsonb_typeof(p_before);
    BEGIN
      IF p_before = p_after THEN
        RETURN '[]';
      ELSIF p_before IS NULL THEN
        RETURN jsonb_build_array(jsonb_build_object('op', 'add', 'path', p_path, 'value', p_after));
      ELSIF p_after IS NULL THEN
        RETURN jsonb_build_array(jsonb_build_object('op', 'remove', 'path', p_path, 'from', p_before));
      ELSIF kind <> jsonb_typeof(p_after) OR kind NOT IN ('object', 'array') OR p_depth >= 100 THEN
        RETURN jsonb_build_array(jsonb_build_object('op', 'replace', 'path', p_path, 'from', p_before, 'value', p_after));
      ELSIF kind = 'object' THEN
        RETURN (
          SELECT COALESCE(jsonb_agg(change ORDER BY step, place), '[]')
          FROM jsonb_each(p_before) b (step, value) FULL JOIN jsonb_each(p_after) a (step, value) USING (step),
            jsonb_array_elements(public.job_dlq_json_diff(b.value, a.value,
              p_path || '/' || replace(replace(step, '~', '~0'), '/', '~1'), p_depth + 1)) WITH ORDINALITY AS c (change, place)
          WHERE b.value IS DISTINCT FROM a.value);
      END IF;
      RETURN (
        SELECT COALESCE(jsonb_agg(change ORDER BY step, place), '[]')
        FROM jsonb_array_elements(p_before) WITH ORDINALITY AS b (value, step)
          FULL JOIN jsonb_array_elements(p_after) WITH ORDINALITY AS a (value, step) USING (step),
          jsonb_array_elements(public.job_dlq_json_diff(b.value, a.value, p_path || '/' || step - 1, p_depth + 1))
            WITH ORDINALITY AS c (change, place)
        WHERE b.value IS DISTINCT FROM a.value);
    END
    $body$`);

  // The same as in 0001, but for the order: a plain DELETE goes by place or by age, a replay by id, and they met in a deadlock.
  yield* sql.unsafe(`
    CREATE OR REPLACE FUNCTION purge_jobs(p_older_than_days INT DEFAULT 30) RETURNS INT
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
    AS $body$
    DECLARE
      purged INT;
    BEGIN
      IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN
        RAISE EXCEPTION 'purge_jobs: p_older_than_days must be 0 or more, got %', COALESCE(p_older_than_days::text, 'NULL')
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
      -- Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
      WITH old AS MATERIALIZED (
        SELECT id FROM jobs WHERE completed_at < now() - make_interval(days => LEAST(p_older_than_days, 1000000))
        ORDER BY id
        FOR UPDATE)
      DELETE FROM jobs j USING old WHERE j.id = old.id;
      GET DIAGNOSTICS purged = ROW_COUNT;
      RETURN purged;
    END
    $body$`);

  // The same signature and meaning as in 0002; from here on it leaves a receipt for each app.
  yield* sql.unsafe(`
    CREATE OR REPLACE FUNCTION purge_job_dlq(p_older_than_days INT DEFAULT 30) RETURNS INT
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
    AS $body$
    DECLARE
      purged INT;
    BEGIN
      IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN
        RAISE EXCEPTION 'purge_job_dlq: p_older_than_days must be 0 or more, got %', COALESCE(p_older_than_days::text, 'NULL')
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
      -- Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
      -- Locked in the order of everything that takes dead letters; a plain DELETE goes by place and met an erasure in a deadlock.
      WITH old AS MATERIALIZED (
        SELECT id FROM job_dlq WHERE replayed_at < now() - make_interval(days => LEAST(p_older_than_days, 1000000))
        ORDER BY original_job_id, id
        FOR UPDATE),
      gone AS (
        DELETE FROM job_dlq d USING old WHERE d.id = old.id
        RETURNING d.app_id, d.type, d.error_reason),
      counted AS (
        SELECT app_id, type, error_reason, count(*)::int AS count FROM gone GROUP BY app_id, type, error_reason),
      receipts AS (
        INSERT INTO job_dlq_events (app_id, kind, actor, detail)
        SELECT app_id, 'purged', COALESCE(NULLIF(btrim(current_setting('app.actor', true)), ''), SESSION_USER),
          jsonb_build_object('source', 'replayed', 'older_than_days', p_older_than_days, 'count', sum(count)::int,
            'groups', jsonb_agg(jsonb_build_object('type', type, 'reason', error_reason, 'count', count) ORDER BY type, error_reason))
        FROM counted GROUP BY app_id)
      SELECT COALESCE(sum(count), 0)::int INTO purged FROM counted;
      RETURN purged;
    END
    $body$`);
});
