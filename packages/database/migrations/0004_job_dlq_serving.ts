/**
 * What finding dead letters needs: the fingerprint, the order of arrival, the serving indexes, the notification.
 *
 * Locks: ACCESS EXCLUSIVE on `job_dlq` while the table is rewritten for the generated column (70 s for a
 * million rows of 800 bytes on two busy cores) and its indexes are built. Run it while nothing dead-letters, or purge first.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // What makes two failures the same failure: type, reason, and the first line of the last error without what differs from one
  // occurrence to the next: quoted text, which the cut may have left open, and every word with a digit in it, with the numbers that
  // a sign joins to it (uuids, ULIDs, ids like cus_N2f and nanoids, timestamps, addresses, hexadecimal and other numbers). Cut to 300
  // characters before the regular expression, and without lookahead and counted repetition: a stack of 3 kB took 5 times, an
  // expression for each kind of number 6 times as long.
  // Inlined into the generated column, so no SET search_path; the body is bound when it is created.
  yield* sql.unsafe(`
    CREATE FUNCTION job_dlq_error_shape(p_error_history jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN regexp_replace(
      split_part(left(p_error_history -> -1 ->> 'error', 300), E'\\n', 1) COLLATE "C",
      '"[^"]*(?:"|$)|\`[^\`]*(?:\`|$)|(?<![[:alnum:]])''[^'']*(?:''|$)|[[:alnum:]_-]*[0-9][[:alnum:]_-]*(?:[:.,+][0-9][[:alnum:]_-]*)*',
      '?', 'g')`);
  yield* sql.unsafe(`
    CREATE FUNCTION job_dlq_fingerprint(p_type text, p_reason text, p_error_history jsonb) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN md5(p_type || E'\\n' || p_reason || E'\\n' || COALESCE(job_dlq_error_shape(p_error_history), ''))::uuid`);

  // arrived: the transaction that inserted the row. In the order of time and of ids an earlier transaction may become visible
  // later; below pg_snapshot_xmin() none can. Rows of before this migration count as arrived with it.
  yield* sql.unsafe(`
    ALTER TABLE job_dlq
      ADD COLUMN fingerprint uuid NOT NULL GENERATED ALWAYS AS (job_dlq_fingerprint(type, error_reason, error_history)) STORED,
      ADD COLUMN arrived xid8 NOT NULL DEFAULT pg_current_xact_id()`);
  yield* sql.unsafe(
    `COMMENT ON COLUMN job_dlq.fingerprint IS 'What makes two failures the same failure: md5 of type, reason and the shape of the last error'`,
  );
  yield* sql.unsafe(
    `COMMENT ON COLUMN job_dlq.arrived IS 'The transaction that inserted the row; what jobDlq.changes goes by'`,
  );

  // jobDlq.listPending in a tenant's scope, newest first.
  yield* sql.unsafe(
    `CREATE INDEX idx_job_dlq_pending ON job_dlq (app_id, dlq_at DESC, id DESC) WHERE replayed_at IS NULL`,
  );
  // A type, or a range of types for a prefix: in "C" order, so that the range needs no operator that could leak.
  yield* sql.unsafe(
    `CREATE INDEX idx_job_dlq_pending_type ON job_dlq (app_id, type COLLATE "C", dlq_at DESC, id DESC) WHERE replayed_at IS NULL`,
  );
  // jobDlq.groups, and a filter by fingerprint.
  yield* sql.unsafe(
    `CREATE INDEX idx_job_dlq_pending_fingerprint ON job_dlq (app_id, fingerprint, dlq_at DESC, id DESC) WHERE replayed_at IS NULL`,
  );
  // jobDlq.history, and replay's count of rounds.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_original_job ON job_dlq (original_job_id)`);
  // purge_job_dlq() and jobDlq.retain: replayed ones by age.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_replayed ON job_dlq (replayed_at) WHERE replayed_at IS NOT NULL`);
  // jobDlq.changes: what came since.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_arrived ON job_dlq (arrived, id)`);
  // jobDlq.erase, and a filter by user.
  yield* sql.unsafe(`CREATE INDEX idx_job_dlq_user ON job_dlq (user_id) WHERE user_id IS NOT NULL`);
  yield* sql.unsafe(`CREATE INDEX idx_jobs_user ON jobs (user_id) WHERE user_id IS NOT NULL`);

  // One notification per statement and tenant. Its payload is a hash of the tenant's id, so that whoever listens learns nothing
  // about tenants that it does not know.
  yield* sql.unsafe(`
    CREATE FUNCTION job_dlq_notify() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    BEGIN
      PERFORM pg_notify('job_dlq', md5(app_id::text)) FROM (SELECT DISTINCT app_id FROM inserted) AS tenants;
      RETURN NULL;
    END
    $body$`);
  yield* sql.unsafe(`
    CREATE TRIGGER job_dlq_notify AFTER INSERT ON job_dlq REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION job_dlq_notify()`);
});
