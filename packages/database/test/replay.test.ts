import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { rounds, seed } from "./support/campaign.js";
import { deadJob, letter, newTenant, TestDatabase, TestUrl, work } from "./support/database.js";

const outcomes = (receipts: ReadonlyArray<{ readonly outcome: string }>) => receipts.map(({ outcome }) => outcome);

layer(TestDatabase, { excludeTestServices: true })("replay", (it) => {
  it.effect("brings the same job back with a full budget and a new fence, and keeps the dead letter", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const job = yield* db.jobs.enqueue(work(appId, { maxAttempts: 2, payload: { big: [null, { a_b: 1 }] } }));
          const [claimed] = yield* db.jobs.claim({ runner: "r" });
          assert.isDefined(claimed);
          const dead = yield* db.jobs.deadLetter({
            id: job.id,
            fence: claimed.fence,
            reason: "Validation",
            error: "bad",
          });
          const receipts = yield* db.jobDlq.replay([dead.id], { actor: "test" });
          assert.deepStrictEqual(
            receipts.map((_) => ({ ..._ })),
            [{ id: dead.id, outcome: "replayed" }],
          );
          const alive = Option.getOrThrow(yield* db.jobs.get(job.id));
          assert.strictEqual(alive.status, "pending");
          assert.strictEqual(alive.attempts, 0);
          assert.strictEqual(alive.maxAttempts, 2);
          assert.strictEqual(alive.replays, 1);
          assert.deepStrictEqual(alive.errorHistory, []);
          assert.deepStrictEqual(alive.payload, { big: [null, { a_b: 1 }] });
          assert.isTrue(alive.fence > claimed.fence);
          const kept = Option.getOrThrow(yield* db.jobDlq.get(dead.id));
          assert.isTrue(Option.isSome(kept.replayedAt));
          assert.strictEqual(kept.errorHistory.length, 1);
        }),
      );
    }),
  );

  it.effect("answers each distinct id once, in the order asked", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const first = yield* deadJob(appId);
      const second = yield* deadJob(appId);
      const unknown = randomUUID();
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const receipts = yield* db.jobDlq.replay([second.id, unknown, first.id, second.id], { actor: "test" });
          assert.deepStrictEqual(
            receipts.map((_) => _.id),
            [second.id, unknown, first.id],
          );
          assert.deepStrictEqual(outcomes(receipts), ["replayed", "not found", "replayed"]);
          assert.deepStrictEqual(outcomes(yield* db.jobDlq.replay([first.id, second.id], { actor: "test" })), [
            "already gone",
            "already gone",
          ]);
          assert.deepStrictEqual(yield* db.jobDlq.replay([], { actor: "test" }), []);
        }),
      );
    }),
  );

  it.effect("leaves the letter of a job that is not dead pending", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          for (const status of ["pending", "processing", "completed", "cancelled"] as const) {
            const job = yield* db.jobs.enqueue(work(appId));
            const entry = yield* db.jobDlq.insert(letter(appId, { originalJobId: job.id }));
            if (status === "processing" || status === "completed") {
              const claimed = (yield* db.jobs.claim({ runner: "r" })).find(({ id }) => id === job.id);
              assert.isDefined(claimed);
              if (status === "completed") yield* db.jobs.complete(claimed);
            }
            if (status === "cancelled") {
              const sql = yield* SqlClient.SqlClient;
              yield* sql`UPDATE jobs SET status = 'cancelled', completed_at = now() WHERE id = ${job.id}`;
            }
            assert.deepStrictEqual(
              outcomes(yield* db.jobDlq.replay([entry.id], { actor: "test" })),
              ["job not dead"],
              status,
            );
            assert.isTrue(Option.isNone(Option.getOrThrow(yield* db.jobDlq.get(entry.id)).replayedAt), status);
            assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(job.id)).status, status);
          }
        }),
      );
    }),
  );

  it.effect("makes a purged job anew under its own id, with the defaults, and counts its replays", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const dead = yield* deadJob(appId, { maxAttempts: 9, payload: [1, "two"] });
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          assert.deepStrictEqual(outcomes(yield* db.jobDlq.replay([dead.id], { actor: "test" })), ["replayed"]);
          const again = yield* db.jobs.deadLetter({ id: dead.originalJobId, reason: "Validation", error: "again" });
          yield* sql`DELETE FROM jobs WHERE id = ${dead.originalJobId}`;
          assert.deepStrictEqual(outcomes(yield* db.jobDlq.replay([again.id], { actor: "test" })), ["replayed"]);
          const job = Option.getOrThrow(yield* db.jobs.get(dead.originalJobId));
          assert.strictEqual(job.status, "pending");
          assert.strictEqual(job.maxAttempts, 5);
          assert.strictEqual(job.replays, 2);
          assert.deepStrictEqual(job.payload, [1, "two"]);
        }),
      );
    }),
  );

  it.effect("replays only the newest of several letters of one job", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const older = yield* deadJob(appId);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const newer = yield* db.jobDlq.insert(
            letter(appId, { originalJobId: older.originalJobId, payload: "newer" }),
          );
          // Both were made in transactions of their own, so newer has the later time.
          assert.deepStrictEqual(outcomes(yield* db.jobDlq.replay([older.id, newer.id], { actor: "test" })), [
            "job not dead",
            "replayed",
          ]);
          assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(older.originalJobId)).payload, "newer");
        }),
      );
    }),
  );

  it.effect("does not touch another tenant's job under the same id, in a tenant's and in the system scope", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const [mine, theirs] = [yield* newTenant, yield* newTenant];
      const foreign = yield* Client.tenant(theirs)(db.jobs.enqueue(work(theirs, { payload: "theirs" })));
      const foreignDead = yield* deadJob(theirs, { payload: "dead" });
      const living = yield* Client.tenant(mine)(db.jobDlq.insert(letter(mine, { originalJobId: foreign.id })));
      const dead = yield* Client.tenant(mine)(
        db.jobDlq.insert(letter(mine, { originalJobId: foreignDead.originalJobId })),
      );
      const own = yield* deadJob(mine);
      const asTenant = yield* Client.tenant(mine)(
        db.jobDlq.replay([living.id, own.id, dead.id, foreignDead.id], { actor: "test" }),
      );
      assert.deepStrictEqual(outcomes(asTenant), ["job not dead", "replayed", "job not dead", "not found"]);
      assert.deepStrictEqual(
        outcomes(yield* Client.system(db.jobDlq.replay([living.id, dead.id], { actor: "test" }))),
        ["job not dead", "job not dead"],
      );
      const after = yield* Client.tenant(theirs)(db.jobs.find({ id: { ...foreign }.id }));
      assert.strictEqual(after[0]?.payload, "theirs");
      assert.strictEqual(after[0]?.status, "pending");
    }),
  );

  it.effect("copies the payload inside the database: a 64-bit number stays what it is", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const dead = yield* deadJob(appId);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* sql`UPDATE job_dlq SET payload = '{"n": 9007199254740993, "m": 1.10}' WHERE id = ${dead.id}`;
          yield* db.jobDlq.replay([dead.id], { actor: "test" });
          const rows = yield* sql`SELECT payload::text AS text FROM jobs WHERE id = ${dead.originalJobId}`;
          assert.deepStrictEqual(rows, [{ text: '{"m": 1.10, "n": 9007199254740993}' }]);
        }),
      );
    }),
  );

  it.effect("refuses what is no uuid, and says which", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const error = yield* Effect.flip(Client.system(db.jobDlq.replay([randomUUID(), "7"], { actor: "test" })));
      assert.strictEqual(error._tag, "InvalidInput");
      assert.include(error.message, "ids[1]");
    }),
  );

  it.effect(
    "eight callers at once, each case: every letter is replayed by at most one, and only dead jobs come back",
    () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const random = fc.sample(fc.nat(), { seed, numRuns: 10_000 });
        let next = 0;
        const dice = (sides: number) => (random[next++ % random.length] ?? 0) % sides;
        const n = rounds(60, 8);
        console.log(`replay races: ${n} rounds, TEST_SEED=${seed}`);
        const body = Effect.gen(function* () {
          const db = yield* DatabaseService;
          const sql = yield* SqlClient.SqlClient;
          for (let round = 0; round < n; round++) {
            const appId = yield* newTenant;
            const letters: Array<{ readonly id: string; readonly job: string; readonly fate: string }> = [];
            for (let i = 0; i < 12; i++) {
              const dead = yield* deadJob(appId);
              const fate = ["dead", "purged", "two letters", "living"][dice(4)] ?? "dead";
              letters.push({ id: dead.id, job: dead.originalJobId, fate });
              yield* Client.tenant(appId)(
                Effect.gen(function* () {
                  if (fate === "purged") yield* sql`DELETE FROM jobs WHERE id = ${dead.originalJobId}`;
                  if (fate === "two letters") {
                    const second = yield* db.jobDlq.insert(letter(appId, { originalJobId: dead.originalJobId }));
                    letters.push({ id: second.id, job: dead.originalJobId, fate });
                  }
                  if (fate === "living") {
                    yield* sql`UPDATE jobs SET status = 'pending', completed_at = NULL WHERE id = ${dead.originalJobId}`;
                  }
                }),
              );
            }
            const shuffled = () => [...letters].sort(() => dice(3) - 1).map(({ id }) => id);
            const receipts = yield* Effect.all(
              Array.from({ length: 8 }, (_, caller) =>
                caller % 2 === 0
                  ? Client.tenant(appId)(db.jobDlq.replay(shuffled(), { actor: "test" }))
                  : Client.system(db.jobDlq.replay(shuffled(), { actor: "test" })),
              ),
              { concurrency: 8 },
            );
            const replayed = receipts
              .flat()
              .filter(({ outcome }) => outcome === "replayed")
              .map(({ id }) => id);
            assert.strictEqual(new Set(replayed).size, replayed.length, "a letter was replayed twice");
            const jobs = replayed.map((id) => letters.find((_) => _.id === id)?.job);
            assert.strictEqual(new Set(jobs).size, jobs.length, "a job came back twice");
            const expected = new Set(letters.filter(({ fate }) => fate !== "living").map(({ job }) => job));
            assert.deepStrictEqual(new Set(jobs), expected);
            const rows = yield* Client.system(sql`
            SELECT j.id, j.status, j.replays,
              (SELECT count(*)::int FROM job_dlq d WHERE d.original_job_id = j.id AND d.replayed_at IS NOT NULL) AS marked
            FROM jobs j WHERE j.app_id = ${appId}`);
            for (const row of rows) {
              assert.strictEqual(row.status, "pending");
              assert.strictEqual(row.replays, expected.has(String(row.id)) ? 1 : 0);
              assert.strictEqual(row.marked, row.replays);
            }
          }
        });
        // A pool large enough that all eight are in the database at once.
        yield* Effect.provide(
          body,
          DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 10 }))),
        );
      }),
  );
});
