import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import type { Job, JobStatus } from "../src/models.js";
import { DatabaseService } from "../src/repos.js";
import { newTenant, TestDatabase, TestUrl, work } from "./support/database.js";
import { claimOne, counted, failure, jobThatIs, reload, sideBySide } from "./support/jobs.js";

layer(TestDatabase, { excludeTestServices: true })("jobs.rescue", (it) => {
  it.effect("sends jobs of lost runners back, or dead-letters those on their last attempt, and says how many", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        db.jobs.enqueueMany([work(appId, { maxAttempts: 1, payload: "last" }), work(appId, { payload: "more" })]),
      );
      const [last, more] = [yield* claimOne(appId, 0), yield* claimOne(appId, 0)];
      const rescued = yield* Client.tenant(appId)(db.jobs.rescue());
      assert.deepStrictEqual(counted(rescued), { retried: 1, deadLettered: 1 });
      const back = yield* reload(appId, more.id);
      assert.deepInclude(
        { ...back },
        {
          status: "pending",
          attempts: 1,
          lockedBy: Option.none(),
          lockedUntil: Option.none(),
          completedAt: Option.none(),
        },
      );
      assert.isTrue(back.fence > more.fence);
      assert.deepStrictEqual(
        back.errorHistory.map(({ error }) => error),
        ["RunnerUnavailable: runner runner-1 vanished during attempt 1"],
      );
      assert.strictEqual((yield* reload(appId, last.id)).status, "dead");
      const [letter, ...others] = yield* Client.tenant(appId)(db.jobDlq.listPending());
      assert.deepStrictEqual(others, []);
      assert.deepInclude(
        { ...letter },
        { originalJobId: last.id, errorReason: "RunnerUnavailable", attempts: 1, payload: "last" },
      );
      assert.strictEqual(letter?.errorHistory.length, 1);
      assert.deepStrictEqual(counted(yield* Client.tenant(appId)(db.jobs.rescue())), { retried: 0, deadLettered: 0 });
    }),
  );

  it.effect("leaves alone whatever runs, waits or has ended, and other tenants' jobs", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const theirs = yield* newTenant;
      yield* Client.tenant(theirs)(db.jobs.enqueue(work(theirs)));
      const foreign = yield* claimOne(theirs, 0);
      const appId = yield* newTenant;
      const before: Array<Job> = [];
      for (const status of ["processing", "completed", "dead", "cancelled", "pending"] as const) {
        before.push(yield* reload(appId, (yield* jobThatIs(appId, status)).id));
      }
      assert.deepStrictEqual(counted(yield* Client.tenant(appId)(db.jobs.rescue())), { retried: 0, deadLettered: 0 });
      for (const job of before) assert.deepStrictEqual(yield* reload(appId, job.id), job);
      assert.deepStrictEqual(yield* reload(theirs, foreign.id), foreign);
    }),
  );

  it.effect("takes the longest lost first, up to the limit", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(db.jobs.enqueueMany([1, 2, 3].map(() => work(appId))));
      const lost = yield* Effect.replicateEffect(claimOne(appId, 0), 3);
      assert.deepStrictEqual(counted(yield* Client.tenant(appId)(db.jobs.rescue({ limit: 2 }))), {
        retried: 2,
        deadLettered: 0,
      });
      assert.deepStrictEqual(yield* reload(appId, lost[2]?.id ?? ""), lost[2]);
      for (const limit of [0, -1, 1.5, 1e9, Number.NaN]) {
        const error = yield* failure(Client.tenant(appId)(db.jobs.rescue({ limit })));
        assert.include(error.message, `jobs.rescue: limit is ${limit}`);
      }
    }),
  );

  it.effect("fences the lost runner, should it come back, before and after another has the job", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
      const zombie = yield* claimOne(appId, 0);
      yield* Client.tenant(appId)(db.jobs.rescue());
      const comesBack = (status: JobStatus) =>
        Effect.gen(function* () {
          const before = yield* reload(appId, zombie.id);
          for (const settle of [
            Effect.asVoid(db.jobs.complete(zombie)),
            Effect.asVoid(db.jobs.retry({ ...zombie, error: "zombie" })),
            Effect.asVoid(db.jobs.deadLetter({ ...zombie, reason: "MaxRetries", error: "zombie" })),
          ] as ReadonlyArray<Effect.Effect<void, unknown>>) {
            const error = yield* failure(Client.tenant(appId)(settle));
            assert.deepInclude(Object(error), { _tag: "JobNotHeld", status });
          }
          assert.deepStrictEqual(yield* reload(appId, zombie.id), before);
        });
      yield* comesBack("pending");
      const second = yield* claimOne(appId);
      assert.strictEqual(second.id, zombie.id);
      yield* comesBack("processing");
      yield* Client.tenant(appId)(db.jobs.complete(second));
      yield* comesBack("completed");
    }),
  );

  it.effect("counts each job once among eight rescuers at once, and none of them waits", () =>
    Effect.gen(function* () {
      const url = yield* TestUrl;
      const appId = yield* newTenant;
      yield* Effect.gen(function* () {
        const db = yield* DatabaseService;
        yield* Client.tenant(appId)(
          db.jobs.enqueueMany(Array.from({ length: 80 }, (_, i) => work(appId, { maxAttempts: i % 2 === 0 ? 1 : 2 }))),
        );
        yield* Client.tenant(appId)(db.jobs.claim({ runner: "r", lease: 0 }));
        const rescued = yield* sideBySide(8, appId, db.jobs.rescue({ limit: 15 }));
        const sum = (key: "retried" | "deadLettered") => rescued.reduce((total, _) => total + _[key], 0);
        assert.deepStrictEqual([sum("retried"), sum("deadLettered")], [40, 40]);
        const jobs = yield* Client.tenant(appId)(db.jobs.find({}));
        assert.deepStrictEqual(new Set(jobs.map(({ errorHistory }) => errorHistory.length)), new Set([1]));
        const letters = yield* Client.tenant(appId)(db.jobDlq.listPending());
        assert.strictEqual(new Set(letters.map(({ originalJobId }) => originalJobId)).size, 40);
      }).pipe(
        Effect.provide(DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 10 })))),
      );
    }),
  );

  it.effect("loses against a runner that settles first, and wins against one that settles after", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      for (let round = 0; round < 20; round++) {
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
        const held = yield* claimOne(appId, 0);
        const [completed, rescued] = yield* Effect.all(
          [
            Effect.isSuccess(Client.tenant(appId)(db.jobs.complete(held))),
            Effect.map(Client.tenant(appId)(db.jobs.rescue()), (_) => _.retried === 1),
          ],
          { concurrency: "unbounded" },
        );
        const { errorHistory, status } = yield* reload(appId, held.id);
        assert.notStrictEqual(completed, rescued, "both won, or nobody");
        assert.strictEqual(status, completed ? "completed" : "pending");
        assert.strictEqual(errorHistory.length, completed ? 0 : 1);
      }
    }),
  );

  it.effect(
    "happens whole or not at all: a letter that cannot be written leaves every job of the batch as it was",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(db.jobs.enqueueMany([work(appId), work(appId, { maxAttempts: 1 })]));
        const lost = [yield* claimOne(appId, 0), yield* claimOne(appId, 0)];
        yield* sql`ALTER TABLE job_dlq ADD CONSTRAINT nobody_vanishes CHECK (error_reason <> 'RunnerUnavailable') NOT VALID`;
        const error = yield* Effect.ensuring(
          failure(Client.tenant(appId)(db.jobs.rescue())),
          Effect.orDie(sql`ALTER TABLE job_dlq DROP CONSTRAINT nobody_vanishes`),
        );
        assert.include(error.message, "nobody_vanishes");
        for (const job of lost) assert.deepStrictEqual(yield* reload(appId, job.id), job);
        assert.deepStrictEqual(counted(yield* Client.tenant(appId)(db.jobs.rescue())), { retried: 1, deadLettered: 1 });
      }),
  );
});
