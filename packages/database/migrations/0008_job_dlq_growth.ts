/**
 * What ten million dead letters need: indexes in the order in which lists and changes go through them, figures that are read from one
 * index, a purge that writes each row once, and updates that call no function a row.
 *
 * Locks: SHARE on `job_dlq` while four indexes are built (20 s for ten million rows on two cores): it is read, and who writes
 * waits. Then ACCESS EXCLUSIVE for a moment.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // All pending ones in the system's scope, newest first, and a bulk change from the oldest on. By time alone, whoever asked for the
  // next thousand of a batch that died at the same moment read and sorted all of that batch.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_newest ON job_dlq (dlq_at DESC, id DESC) WHERE replayed_at IS NULL`);
  // A tenant's letters of every state: pages of them, what arrived in a window, and the check when an app is deleted.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_app ON job_dlq (app_id, dlq_at DESC, id DESC)`);
  // What arrived in a window in the system's scope. Letters are stored in the order in which they come, so ranges of pages will do.
  yield* sql.unsafe(
    `CREATE INDEX idx_job_dlq_window ON job_dlq USING brin (dlq_at) WITH (pages_per_range = 32, autosummarize = on)`,
  );
  // Groups, previews and figures by type, reason and fingerprint read this index and no letter.
  yield* sql.unsafe(`
    CREATE INDEX idx_job_dlq_kinds ON job_dlq (app_id, fingerprint, dlq_at DESC, id DESC) INCLUDE (type, error_reason)
    WHERE replayed_at IS NULL`);
  yield* sql.unsafe(
    `DROP INDEX idx_job_dlq_dlq_at, idx_job_dlq_app_id_fk, idx_job_dlq_type, idx_job_dlq_pending_fingerprint`,
  );

  // Statements that set it themselves to what the trigger would need not call it, row by row.
  yield* sql.unsafe(`
    CREATE OR REPLACE TRIGGER job_dlq_updated_at BEFORE UPDATE ON job_dlq FOR EACH ROW
    WHEN (NEW.updated_at IS DISTINCT FROM now()) EXECUTE FUNCTION set_updated_at()`);

  // That index says what a letter is only where the table was vacuumed since it came: by the server's own measure, a fifth of a table,
  // two million letters later. Parts of a partitioned table are small enough for that.
  yield* sql.unsafe(`
    DO $body$
    BEGIN
      IF (SELECT relkind FROM pg_class WHERE oid = 'job_dlq'::regclass) = 'r' THEN
        ALTER TABLE job_dlq SET (autovacuum_vacuum_insert_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0,
          autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
      END IF;
    END
    $body$`);

  // The same signature and meaning as in 0003. Locking each row before it is deleted wrote it twice. Without, a purge goes by place
  // and could meet what takes letters in their order in a circle; so it waits a tenth of a second at most, which is before anybody's
  // deadlock is looked for, and then begins anew in that order.
  yield* sql.unsafe(`
    CREATE OR REPLACE FUNCTION purge_job_dlq(p_older_than_days INT DEFAULT 30) RETURNS INT
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
    AS $body$
    DECLARE
      purged INT;
      -- Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
      until CONSTANT timestamptz := now() - make_interval(days => LEAST(p_older_than_days, 1000000));
      patience CONSTANT text := current_setting('lock_timeout');
      counts jsonb;
    BEGIN
      IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN
        RAISE EXCEPTION 'purge_job_dlq: p_older_than_days must be 0 or more, got %', COALESCE(p_older_than_days::text, 'NULL')
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
      BEGIN
        PERFORM set_config('lock_timeout', '100ms', true);
        WITH gone AS (
          DELETE FROM job_dlq WHERE replayed_at < until RETURNING app_id, type, error_reason)
        SELECT jsonb_agg(c) INTO counts FROM (
          SELECT app_id, type, error_reason AS reason, count(*)::int AS count FROM gone GROUP BY app_id, type, error_reason) c;
        PERFORM set_config('lock_timeout', patience, true);
      EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        WITH old AS MATERIALIZED (
          SELECT id FROM job_dlq WHERE replayed_at < until ORDER BY original_job_id, id FOR UPDATE),
        gone AS (
          DELETE FROM job_dlq d USING old WHERE d.id = old.id RETURNING d.app_id, d.type, d.error_reason)
        SELECT jsonb_agg(c) INTO counts FROM (
          SELECT app_id, type, error_reason AS reason, count(*)::int AS count FROM gone GROUP BY app_id, type, error_reason) c;
      END;
      WITH counted AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(counts) AS c (app_id uuid, type text, reason text, count int)),
      receipts AS (
        INSERT INTO job_dlq_events (app_id, kind, actor, detail)
        SELECT app_id, 'purged', COALESCE(NULLIF(btrim(current_setting('app.actor', true)), ''), SESSION_USER),
          jsonb_build_object('source', 'replayed', 'older_than_days', p_older_than_days, 'count', sum(count)::int,
            'groups', jsonb_agg(jsonb_build_object('type', type, 'reason', reason, 'count', count) ORDER BY type, reason))
        FROM counted GROUP BY app_id)
      SELECT COALESCE(sum(count), 0)::int INTO purged FROM counted;
      RETURN purged;
    END
    $body$`);
});
