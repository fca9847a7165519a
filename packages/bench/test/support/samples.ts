/** Rows for one operation, written by the server's superuser past the repositories. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";

export const tables = ["apps", "jobs", "job_dlq", "job_dlq_events"];

/** Nothing is vacuumed or analyzed in the background, here or in what is cloned from it. */
export const disturbNothing = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  for (const table of tables) {
    yield* sql`ALTER TABLE ${sql(table)} SET (autovacuum_enabled = off)`;
  }
});

/** In each payload, and in each error; what {@link parsesOf} looks for. */
export const payloadMark = "payload-mark";
export const errorMark = "error-mark";

/** A tenant and a type that nobody else has, so that a filter by it means the same in each scope. */
export interface Own {
  readonly appId: string;
  readonly type: string;
}

export const makeOwn = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const own: Own = { appId: randomUUID(), type: `guard ${randomUUID()}` };
  yield* sql`INSERT INTO apps (id, name) VALUES (${own.appId}, ${own.type})`;
  return own;
});

const payload = JSON.stringify({ text: payloadMark });
const history = JSON.stringify([{ error: `Error: ${errorMark}`, timestamp: 1_790_000_000_000 }]);

const decodeLetters = S.decodeUnknown(S.Array(S.Struct({ id: S.String, originalJobId: S.String })));
const decodeJobs = S.decodeUnknown(S.Array(S.Struct({ id: S.String, fence: S.String })));

/** Dead letters with their dead jobs, pending, or replayed some days ago. */
export const letters = (
  { appId, type }: Own,
  count: number,
  options: {
    readonly userId?: string;
    readonly replayedDaysAgo?: number;
    readonly daysOld?: number;
    /** Their error histories do not fit the model. */
    readonly isBad?: boolean;
  } = {},
) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const { daysOld = 0, isBad = false, replayedDaysAgo = null, userId = null } = options;
    const errors = isBad ? JSON.stringify([errorMark]) : history;
    const rows = yield* sql`
      WITH dead AS (
        INSERT INTO jobs (app_id, type, payload, status, attempts, completed_at, user_id)
        SELECT ${appId}, ${type}, ${payload}::jsonb, 'dead', 5, now(), ${userId}::uuid FROM generate_series(1, ${count}::int)
        RETURNING id, app_id, type, payload, user_id)
      INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, user_id)
      SELECT id, app_id, type, payload, 'MaxRetries', 5, ${errors}::jsonb,
        now() - ${daysOld}::int * interval '1 day' - row_number() OVER () * interval '1 second',
        now() - ${replayedDaysAgo}::int * interval '1 day', user_id
      FROM dead
      RETURNING id, original_job_id`;
    // Nobody else does, and without statistics some plans take seconds.
    if (count >= 1000) yield* sql`ANALYZE jobs, job_dlq`;
    return yield* decodeLetters(rows);
  });

/** Jobs that wait, or that a runner has: until so many seconds from now. */
export const jobs = ({ appId, type }: Own, count: number, leaseSeconds?: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const lease = leaseSeconds ?? null;
    const rows = yield* sql`
      INSERT INTO jobs (app_id, type, payload, status, attempts, fence, locked_by, locked_until)
      SELECT ${appId}, ${type}, ${payload}::jsonb, CASE WHEN ${lease}::int IS NULL THEN 'pending' ELSE 'processing' END,
        CASE WHEN ${lease}::int IS NULL THEN 0 ELSE 1 END, nextval('job_fence'),
        CASE WHEN ${lease}::int IS NOT NULL THEN 'guard' END, now() + ${lease}::int * interval '1 second'
      FROM generate_series(1, ${count}::int)
      RETURNING id, fence::text`;
    return yield* decodeJobs(rows);
  });
