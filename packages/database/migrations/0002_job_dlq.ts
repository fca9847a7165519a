/**
 * The dead-letter queue: `job_dlq`, its indexes, trigger, purge function and row-level security.
 *
 * Locks: ACCESS EXCLUSIVE on the new table only, and SHARE ROW EXCLUSIVE on `apps` for the foreign key, for a moment.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // updated_at is the database's own: set_updated_at() assigns it, and without the column every UPDATE of this table fails.
  yield* sql.unsafe(`
    CREATE TABLE job_dlq (
      id UUID PRIMARY KEY DEFAULT uuidv7(),
      original_job_id UUID NOT NULL,
      app_id UUID NOT NULL REFERENCES apps (id) ON DELETE RESTRICT,
      type TEXT NOT NULL,
      payload JSONB NOT NULL,
      error_reason TEXT NOT NULL,
      attempts INTEGER NOT NULL,
      error_history JSONB NOT NULL,
      dlq_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      replayed_at TIMESTAMPTZ,
      request_id UUID,
      user_id UUID,
      updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      CONSTRAINT job_dlq_error_history_array CHECK (jsonb_typeof(error_history) = 'array')
    )`);
  yield* sql.unsafe(`COMMENT ON TABLE job_dlq IS 'Dead-lettered jobs — use uuid_extract_timestamp(id) for DLQ time'`);
  yield* sql.unsafe(
    `COMMENT ON COLUMN job_dlq.error_reason IS 'Failure classification: MaxRetries, Validation, HandlerMissing, RunnerUnavailable'`,
  );
  yield* sql.unsafe(`COMMENT ON COLUMN job_dlq.replayed_at IS 'NULL = pending replay; set when job resubmitted'`);

  // jobDlq.listPending with a type.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_type ON job_dlq (type) WHERE replayed_at IS NULL`);
  // jobDlq.listPending, newest first.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_dlq_at ON job_dlq (dlq_at) WHERE replayed_at IS NULL`);
  // From a request in the logs to its dead letters.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_request ON job_dlq (request_id) WHERE request_id IS NOT NULL`);
  // A tenant's own rows, and the check when an app is deleted.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_app_id_fk ON job_dlq (app_id)`);

  yield* sql.unsafe(
    `CREATE TRIGGER job_dlq_updated_at BEFORE UPDATE ON job_dlq FOR EACH ROW EXECUTE FUNCTION set_updated_at()`,
  );

  // SECURITY INVOKER: row-level security narrows it to the caller's scope.
  yield* sql.unsafe(`
    CREATE FUNCTION purge_job_dlq(p_older_than_days INT DEFAULT 30) RETURNS INT
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
      DELETE FROM job_dlq WHERE replayed_at < now() - make_interval(days => LEAST(p_older_than_days, 1000000));
      GET DIAGNOSTICS purged = ROW_COUNT;
      RETURN purged;
    END
    $body$`);
  yield* sql.unsafe(
    `COMMENT ON FUNCTION purge_job_dlq(INT) IS 'Deletes dead letters replayed longer ago than that, within the caller''s scope'`,
  );

  yield* sql.unsafe(`ALTER TABLE job_dlq ENABLE ROW LEVEL SECURITY`);
  yield* sql.unsafe(`ALTER TABLE job_dlq FORCE ROW LEVEL SECURITY`);
  yield* sql.unsafe(`
    CREATE POLICY job_dlq_tenant ON job_dlq TO parametric_tenant
    USING (app_id = current_tenant()) WITH CHECK (app_id = current_tenant())`);
  yield* sql.unsafe(`CREATE POLICY job_dlq_system ON job_dlq TO parametric_system USING (true) WITH CHECK (true)`);

  yield* sql.unsafe(`GRANT SELECT, INSERT, UPDATE, DELETE ON job_dlq TO parametric_tenant, parametric_system`);
  yield* sql.unsafe(`REVOKE EXECUTE ON FUNCTION purge_job_dlq(INT) FROM PUBLIC`);
  yield* sql.unsafe(`GRANT EXECUTE ON FUNCTION purge_job_dlq(INT) TO parametric_tenant, parametric_system`);
});
