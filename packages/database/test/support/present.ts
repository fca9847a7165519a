/** Histories in the present: each step is the real operation, in its tenant's scope and in a transaction of its own. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Client from "../../src/client.js";
import type { JobDlq, JobDlqReason } from "../../src/models.js";
import { DatabaseService } from "../../src/repos.js";
import { letter as newLetter, work } from "./database.js";
import { actor, type Job, type Letter, type Store, why } from "./history.js";

export const makePresent = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const within =
    (appId: string) =>
    <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.orDie(Effect.provideService(Client.tenant(appId)(effect), SqlClient.SqlClient, sql));
  const ofJob = ({ appId }: Job) => within(appId);
  const ofLetter = ({ job }: Letter) => within(job.appId);
  const arrived = ({ dlqAt, id }: JobDlq) => ({ id, at: BigInt(DateTime.toEpochMillis(dlqAt)) * 1000n });
  const history = (error: string) => [
    { error: "Error: the first attempt", timestamp: 1 },
    { error, timestamp: 2 },
  ];

  const store: Store<never, never> = {
    submit: (appId, type) =>
      within(appId)(Effect.map(db.jobs.enqueue(work(appId, { type })), ({ fence, id }) => ({ id, fence }))),
    die: (job, reason, error) =>
      ofJob(job)(Effect.map(db.jobs.deadLetter({ id: job.id, reason: reason as JobDlqReason, error }), arrived)),
    insert: (job, errorReason, error) =>
      ofJob(job)(
        Effect.map(
          db.jobDlq.insert(
            newLetter(job.appId, { originalJobId: job.id, type: job.type, errorReason, errorHistory: history(error) }),
          ),
          arrived,
        ),
      ),
    claim: (job) =>
      ofJob(job)(
        Effect.gen(function* () {
          // The others of this type go back, so that only this one is held.
          const claimed = yield* db.jobs.claim({ runner: "r", types: [job.type], limit: 1000 });
          const mine = claimed.find(({ id }) => id === job.id);
          assert.isDefined(mine);
          const others = claimed.map(({ id }) => id).filter((id) => id !== job.id);
          yield* sql`
            UPDATE jobs SET status = 'pending', locked_by = NULL, locked_until = NULL, attempts = attempts - 1
            WHERE id = ANY (${others}::uuid[])`;
          return mine.fence;
        }),
      ),
    complete: (job) => ofJob(job)(Effect.asVoid(db.jobs.complete(job))),
    cancel: (job) =>
      ofJob(job)(Effect.asVoid(sql`UPDATE jobs SET status = 'cancelled', completed_at = now() WHERE id = ${job.id}`)),
    replay: (letter, isOverridden) =>
      ofLetter(letter)(
        Effect.gen(function* () {
          const options = isOverridden ? { actor, payload: { to: "b@example.com" } } : { actor };
          const receipts = yield* db.jobDlq.replay([letter.id], options);
          assert.strictEqual(receipts[0]?.outcome, "replayed");
          const { items } = yield* db.jobDlq.events({ dlqId: letter.id, kind: "replayed", limit: 1 });
          assert.isDefined(items[0]);
          return BigInt(DateTime.toEpochMillis(items[0].at)) * 1000n;
        }),
      ),
    mark: (letter) => ofLetter(letter)(Effect.asVoid(db.jobDlq.markReplayed(letter.id, { actor }))),
    remove: (letter, kind) =>
      ofLetter(letter)(
        Effect.gen(function* () {
          if (kind === "discarded") {
            const [receipt] = yield* db.jobDlq.discard([letter.id], { actor, reason: why });
            assert.strictEqual(receipt?.outcome, "discarded");
            return receipt?.eventId ?? "";
          }
          // A pending letter expires after a day at the earliest, so this does what retention does to an old one.
          const rows = yield* sql`
            WITH gone AS (DELETE FROM job_dlq WHERE id = ${letter.id} RETURNING *)
            INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, entry)
            SELECT app_id, id, original_job_id, 'expired', ${actor}, ${why}, to_jsonb(gone) - 'fingerprint' - 'arrived' FROM gone
            RETURNING id`;
          return String(rows[0]?.id);
        }),
      ),
    restore: (letter) =>
      ofLetter(letter)(
        Effect.map(db.jobDlq.restore([letter.eventId ?? ""], { actor }), ([receipt]) =>
          assert.strictEqual(receipt?.outcome, "restored"),
        ),
      ),
    erase: (letter) => ofLetter(letter)(Effect.asVoid(db.jobDlq.erase({ ids: [letter.id] }, { actor, reason: why }))),
    purgeLetters: (appId) => within(appId)(Effect.asVoid(db.jobDlq.purge(0))),
    purgeJobs: (appId) => within(appId)(Effect.asVoid(db.jobs.purge(0))),
  };
  return store;
});
