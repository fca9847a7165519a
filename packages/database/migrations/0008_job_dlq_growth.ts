/**
 * What ten million dead letters need: indexes in the order in which lists and changes go through them. 0009 drops those before.
 *
 * Locks: SHARE on `job_dlq` while three indexes are built (15 s for ten million rows on two cores): it is read, and who writes
 * waits.
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
});
