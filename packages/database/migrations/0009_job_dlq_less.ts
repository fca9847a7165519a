/**
 * What 0008 made superfluous goes; a purge writes each row once, and updates call no function a row.
 *
 * Locks: ACCESS EXCLUSIVE on `job_dlq` for a moment, and from the beginning: 0008 would have had to wait for it while others waited
 * for 0008.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // By time and by tenant: 0008 has better ones. By type without its tenant: idx_job_dlq_pending_type has it.
  yield* sql.unsafe(`DROP INDEX idx_job_dlq_dlq_at, idx_job_dlq_app_id_fk, idx_job_dlq_type`);

  // Statements that set it themselves to what the trigger would need not call it, row by row.
  yield* sql.unsafe(`
    CREATE OR REPLACE TRIGGER job_dlq_updated_at BEFORE UPDATE ON job_dlq FOR EACH ROW
    WHEN (NEW.updated_at IS DISTINCT FROM now()) EXECUTE FUNCTION set_updated_at()`);

  // Figures are counted in an index, which says that a letter is there only where the table was vacuumed since it came: by the server's
  // own measure, a fifth of a table, two million letters later. A partitioned table has no such parameters, its partitions have.
  yield* sql.unsafe(`
    DO $body$
    DECLARE
      part regclass;
    BEGIN
      FOR part IN
        SELECT oid FROM pg_class WHERE oid = 'job_dlq'::regclass AND relkind = 'r'
        UNION
        SELECT relid FROM pg_partition_tree('job_dlq') WHERE isleaf
      LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_vacuum_insert_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0,'
          ' autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02)', part);
      END LOOP;
    END
    $body$`);

  // The same signature and meaning as in 0003. Locking each row before it is deleted wrote it twice. Without, a purge goes by place
  // and could meet what takes letters in their order in a circle; so it hardly waits, and where somebody holds a letter it begins anew
  // in that order.
  yield* sql.unsafe(`
    CREATE OR REPLACE FUNCTION purge_job_dlq(p_older_than_days INT DEFAULT 30) RETURNS INT
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
    AS $body$
    DECLARE
      purged INT;
      until timestamptz;
      patience CONSTANT text := current_setting('lock_timeout');
      counts jsonb;
    BEGIN
      IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN
        RAISE EXCEPTION 'purge_job_dlq: p_older_than_days must be 0 or more, got %', COALESCE(p_older_than_days::text, 'NULL')
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
      -- Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
      until := now() - make_interval(days => LEAST(p_older_than_days, 1000000));
      BEGIN
        PERFORM set_config('lock_timeout', '5ms', true);
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
