/**
 * The two equations that hold whatever happened, crash or race: no dead letter and no job is lost, and none is there twice.
 *
 * dead letters: inserted + imported = pending + replayed + (discarded − restored) + purged + expired + erased
 * jobs: submitted = pending + processing + completed + dead + cancelled + purged
 */
// Not the test runner's: programs that it does not run hold the balance too.
import * as assert from "node:assert";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import * as Client from "../../src/client.js";

/** What the database cannot know: what came in, and what was taken out without a line in the ledger. */
export interface Given {
  /** One tenant; left out: all of them. */
  readonly appId?: string;
  /** Dead letters that were inserted, by dead-lettering too. */
  readonly inserted: number;
  /** Jobs that were submitted. */
  readonly submitted: number;
  /** Jobs that were purged and did not come back by a replay. */
  readonly purgedJobs: number;
}

/**
 * `discarded` are the events of that kind whose copy is still in the ledger or went back to the table; one whose copy was erased
 * counts as erased, one that retention deleted as purged. The same holds for `expired`, less those that were restored.
 */
export const Terms = S.Struct({
  imported: S.Int,
  pending: S.Int,
  replayed: S.Int,
  discarded: S.Int,
  restored: S.Int,
  purged: S.Int,
  expired: S.Int,
  erased: S.Int,
  jobsPending: S.Int,
  jobsProcessing: S.Int,
  jobsCompleted: S.Int,
  jobsDead: S.Int,
  jobsCancelled: S.Int,
});
export type Terms = typeof Terms.Type;

const decode = S.decodeUnknown(S.Tuple(Terms));

/** The terms of both equations as the tables and the ledger have them, in the system scope. */
export const terms = (appId: string | undefined) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const whose = appId === undefined ? sql`true` : sql`app_id = ${appId}`;
    const rows = yield* Client.system(sql`
      WITH letters AS (SELECT replayed_at FROM job_dlq WHERE ${whose}),
      events AS (
        SELECT e.kind, e.detail, e.entry IS NOT NULL AS is_kept,
          EXISTS (SELECT FROM job_dlq_events u WHERE u.undoes = e.id) AS is_undone
        FROM job_dlq_events e WHERE ${whose}),
      work AS (SELECT status FROM jobs WHERE ${whose})
      SELECT
        (SELECT count(*) FROM events WHERE kind = 'imported')::int AS imported,
        (SELECT count(*) FROM letters WHERE replayed_at IS NULL)::int AS pending,
        (SELECT count(*) FROM letters WHERE replayed_at IS NOT NULL)::int AS replayed,
        (SELECT count(*) FROM events WHERE kind = 'discarded' AND (is_kept OR is_undone))::int AS discarded,
        (SELECT count(*) FROM events WHERE kind = 'discarded' AND is_undone)::int AS restored,
        (SELECT COALESCE(sum((detail ->> 'count')::int), 0) FROM events WHERE kind = 'purged')::int AS purged,
        (SELECT count(*) FROM events WHERE kind = 'expired' AND is_kept AND NOT is_undone)::int AS expired,
        (SELECT count(*) FROM events WHERE kind = 'erased')::int AS erased,
        (SELECT count(*) FROM work WHERE status = 'pending')::int AS jobs_pending,
        (SELECT count(*) FROM work WHERE status = 'processing')::int AS jobs_processing,
        (SELECT count(*) FROM work WHERE status = 'completed')::int AS jobs_completed,
        (SELECT count(*) FROM work WHERE status = 'dead')::int AS jobs_dead,
        (SELECT count(*) FROM work WHERE status = 'cancelled')::int AS jobs_cancelled`);
    const [found] = yield* Effect.orDie(decode(rows));
    return found;
  });

/** Holds both equations, exactly; says every term when one does not hold. Returns the terms. */
export const balance = (given: Given) =>
  Effect.gen(function* () {
    const found = yield* terms(given.appId);
    const { discarded, erased, expired, imported, pending, purged, replayed, restored } = found;
    const { jobsCancelled, jobsCompleted, jobsDead, jobsPending, jobsProcessing } = found;
    assert.strictEqual(
      given.inserted + imported,
      pending + replayed + (discarded - restored) + purged + expired + erased,
      `dead letters: ${given.inserted} inserted + ${imported} imported ≠ ${pending} pending + ${replayed} replayed` +
        ` + (${discarded} discarded − ${restored} restored) + ${purged} purged + ${expired} expired + ${erased} erased`,
    );
    assert.strictEqual(
      given.submitted,
      jobsPending + jobsProcessing + jobsCompleted + jobsDead + jobsCancelled + given.purgedJobs,
      `jobs: ${given.submitted} submitted ≠ ${jobsPending} pending + ${jobsProcessing} processing + ${jobsCompleted} completed` +
        ` + ${jobsDead} dead + ${jobsCancelled} cancelled + ${given.purgedJobs} purged`,
    );
    return found;
  });

const Broken = S.Array(S.Struct({ rule: S.String, id: S.String }));
const decodeBroken = S.decodeUnknown(Broken);

/**
 * What sums cannot see, because two mistakes may cancel each other out: a letter was replayed once at most, is in the table, in the
 * ledger or erased, in one of them (in one more for each import, which may bring back a discarded one while the ledger keeps its
 * copy), and a job has come back as often as one of its letters was replayed.
 * `replays` of a job that was purged and made anew counts the replayed letters that are still there, so it may be less.
 */
export const eachOnce = (appId: string | undefined) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const whose = appId === undefined ? sql`true` : sql`app_id = ${appId}`;
    // Without statistics the planner compares every job with every event.
    const hashed = sql`SET LOCAL enable_nestloop = off`;
    const rows = yield* Client.system(
      Effect.zipRight(
        hashed,
        sql`
      WITH events AS (SELECT * FROM job_dlq_events WHERE ${whose}),
      places AS (
        SELECT e.dlq_id AS id FROM events e
        WHERE e.kind IN ('discarded', 'expired') AND e.entry IS NOT NULL AND NOT EXISTS (SELECT FROM events u WHERE u.undoes = e.id)
        UNION ALL
        SELECT dlq_id FROM events WHERE kind = 'erased'
        UNION ALL
        SELECT id FROM job_dlq WHERE ${whose})
      SELECT 'replayed more than once' AS rule, dlq_id AS id FROM events WHERE kind = 'replayed' GROUP BY dlq_id HAVING count(*) > 1
      UNION ALL
      SELECT 'in more places than it came in', id FROM places GROUP BY id
      HAVING count(*) > 1 AND count(*) > 1 + (SELECT count(*) FROM events i WHERE i.dlq_id = places.id AND i.kind = 'imported')
      UNION ALL
      SELECT 'erased and there', d.id FROM job_dlq d JOIN events e ON e.dlq_id = d.id AND e.kind = 'erased'
      UNION ALL
      SELECT 'pending and replayed', d.id FROM job_dlq d JOIN events e ON e.dlq_id = d.id AND e.kind = 'replayed' WHERE d.replayed_at IS NULL
      UNION ALL
      SELECT 'came back more often than its letters were replayed', j.id
      FROM jobs j LEFT JOIN (
        SELECT original_job_id, count(*) AS count FROM events WHERE kind = 'replayed' GROUP BY original_job_id) r ON r.original_job_id = j.id
      WHERE ${whose} AND j.replays > COALESCE(r.count, 0)`,
      ),
    );
    const broken = yield* Effect.orDie(decodeBroken(rows));
    assert.deepStrictEqual(broken, []);
  });
