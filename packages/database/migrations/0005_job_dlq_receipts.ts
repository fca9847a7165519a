/**
 * A place in the ledger for the receipt of a retention over all apps.
 *
 * Locks: ACCESS EXCLUSIVE on `job_dlq_events` while the table is read once for the new constraint.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // A retention that finds nothing in any app leaves its receipt all the same, and a line for each app would tell thousands of
  // tenants every night that nothing happened. No tenant's policy matches NULL.
  yield* sql.unsafe(`
    ALTER TABLE job_dlq_events
      ALTER COLUMN app_id DROP NOT NULL,
      ADD CONSTRAINT job_dlq_events_names_app CHECK (app_id IS NOT NULL OR kind = 'purged')`);
  yield* sql.unsafe(
    `COMMENT ON COLUMN job_dlq_events.app_id IS 'The app; NULL for the receipt of a retention over all of them'`,
  );
});
