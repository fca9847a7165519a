/** What is left of what handlers wrote, and what becomes of jobs whose runner stops or whose partition moves. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import { newTenant, TestUrl } from "../../database/test/support/database.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { Worker } from "../src/worker.js";
import { Effectful, Plain } from "./support/runner-process.js";
import { startRunner, TestJobs } from "./support/runners.js";

const decodeStates = S.decodeUnknown(
  S.Array(S.Struct({ status: S.String, attempts: S.Int, errors: S.Int, marks: S.Int, count: S.Int })),
);

/** How the jobs of a tenant stand, and how many marks each has left. */
const statesOf = (appId: string, type: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      SELECT status, attempts, jsonb_array_length(error_history) AS errors,
        (SELECT count(*) FROM effects e WHERE e.job_id = j.id)::int AS marks, count(*)::int AS count
      FROM jobs j WHERE app_id = ${appId} AND type = ${type} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4`);
    return yield* decodeStates(rows);
  });

type States = Effect.Effect.Success<ReturnType<typeof statesOf>>;

const until = (appId: string, type: string, isSo: (states: States) => boolean) =>
  Effect.iterate([] as States, {
    while: (states) => states.length === 0 || !isSo(states),
    body: () => Effect.delay(statesOf(appId, type), "20 millis"),
  });
const untilDead = (appId: string, type: string) =>
  until(appId, type, (states) => states.every(({ status }) => status === "dead"));
const untilMarked = (appId: string, type: string, marks: number) =>
  until(appId, type, (states) => states.reduce((sum, _) => sum + _.marks * _.count, 0) >= marks);
const untilCompleted = (appId: string, type: string) =>
  until(appId, type, (states) => states.every(({ status }) => status === "completed"));

/** A row that says that this run was here. */
const mark = (jobId: string, attempt: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    yield* sql`INSERT INTO effects (app_id, job_id, runner, attempt) VALUES (current_tenant(), ${jobId}, 'here', ${attempt})`;
  });

const Follows = JobType.make("semantics.follows", { payload: S.Struct({}) });
const Ends = S.Struct({ how: S.Literal("fail", "die", "overrun") });
const kinds = [true, false].map((transactional) => ({
  transactional,
  Ending: JobType.make(`semantics.ends.${transactional}`, {
    payload: Ends,
    transactional,
    timeout: "500 millis",
    retry: { maxAttempts: 2, initial: "20 millis", jitter: 0 },
  }),
  Staying: JobType.make(`semantics.stays.${transactional}`, { payload: S.Struct({}), transactional }),
}));

layer(TestJobs, { excludeTestServices: true, timeout: "3 minutes" })("of jobs", (it) => {
  it.effect(
    "what a run wrote that failed, died or took too long is gone in a transactional handler, and stays in a plain one",
    () =>
      Effect.gen(function* () {
        const handlers = kinds.map(({ Ending }) =>
          Ending.toLayer(({ how }, { appId, attempt, jobId }) =>
            Effect.gen(function* () {
              yield* mark(jobId, attempt);
              yield* Jobs.submit(Follows, {}, { appId, delay: "1 hour" });
              if (how === "fail") return yield* Effect.fail("no");
              if (how === "die") return yield* Effect.dieMessage("no");
              return yield* Effect.never;
            }),
          ),
        );
        const [first = Layer.empty, second = Layer.empty] = handlers;
        yield* Effect.gen(function* () {
          for (const { Ending, transactional } of kinds) {
            const appId = yield* newTenant;
            yield* Jobs.submitMany(
              Ending,
              Ends.fields.how.literals.map((how) => ({ payload: { how } })),
              { appId },
            );
            const marks = transactional ? 0 : 2;
            assert.deepStrictEqual(yield* untilDead(appId, Ending.name), [
              { status: "dead", attempts: 2, errors: 2, marks, count: 3 },
            ]);
            const [followers] = yield* statesOf(appId, Follows.name);
            assert.strictEqual(
              followers?.count,
              transactional ? undefined : 6,
              "jobs that it submitted are its writes too",
            );
          }
        }).pipe(Effect.provide(Runner.layerSingle({ handlers: Layer.merge(first, second) })));
      }),
  );

  it.effect(
    "what a run wrote that was cancelled or erased is gone in a transactional handler, and stays in a plain one",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        for (const { Staying, transactional } of kinds) {
          const appId = yield* newTenant;
          const userId = randomUUID();
          const isOpen = yield* Deferred.make<void>();
          const written = yield* Deferred.make<void>();
          let runs = 0;
          // It cannot be interrupted, and succeeds when its job is no longer its own.
          const handlers = Staying.toLayer((_, { attempt, jobId }) =>
            mark(jobId, attempt).pipe(
              Effect.zipRight(
                Effect.suspend(() => (++runs === 2 ? Deferred.succeed(written, undefined) : Effect.void)),
              ),
              Effect.zipRight(Deferred.await(isOpen)),
              Effect.uninterruptible,
            ),
          );
          yield* Effect.gen(function* () {
            const worker = yield* Worker;
            const { jobId } = yield* Jobs.submit(Staying, {}, { appId });
            yield* Jobs.submit(Staying, {}, { appId, userId });
            yield* Deferred.await(written);
            yield* Client.tenant(appId)(Jobs.cancel(jobId));
            yield* Client.tenant(appId)(db.jobDlq.erase({ userId }, { actor: "test", reason: "asked" }));
            yield* Deferred.succeed(isOpen, undefined);
            yield* Effect.repeat(Effect.sync(worker.running), { until: (_) => _ === 0 });
          }).pipe(Effect.provide(Runner.layerSingle({ handlers })));
          assert.deepStrictEqual(yield* statesOf(appId, Staying.name), [
            { status: "cancelled", attempts: 1, errors: 0, marks: transactional ? 0 : 1, count: 2 },
          ]);
        }
      }),
  );

  it.effect("a handler that cancels its own job leaves it cancelled, and what it wrote is there", () =>
    Effect.gen(function* () {
      for (const transactional of [true, false]) {
        const appId = yield* newTenant;
        const Gives = JobType.make(`semantics.gives-up.${transactional}`, { payload: S.Struct({}), transactional });
        const handlers = Gives.toLayer((_, { attempt, jobId }) =>
          Effect.zipRight(mark(jobId, attempt), Effect.uninterruptible(Jobs.cancel(jobId))),
        );
        yield* Effect.gen(function* () {
          const worker = yield* Worker;
          yield* Jobs.submit(Gives, {}, { appId });
          yield* until(appId, Gives.name, (states) => states.every(({ status }) => status === "cancelled"));
          yield* Effect.repeat(Effect.sync(worker.running), { until: (_) => _ === 0 });
        }).pipe(Effect.provide(Runner.layerSingle({ handlers })));
        assert.deepStrictEqual(yield* statesOf(appId, Gives.name), [
          { status: "cancelled", attempts: 1, errors: 0, marks: 1, count: 1 },
        ]);
      }
    }),
  );

  it.scoped("what runs when a runner is told to stop ends within its grace, once", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const runner = yield* startRunner(yield* TestUrl, { isSingle: true, graceMillis: 20_000 });
      yield* Jobs.submit(Effectful, { millis: 3000 }, { appId });
      yield* Jobs.submit(Plain, { millis: 3000 }, { appId });
      yield* untilMarked(appId, Plain.name, 1);
      yield* runner.kill("SIGTERM");
      assert.strictEqual(yield* runner.ended, 0, runner.output());
      for (const { name } of [Effectful, Plain]) {
        assert.deepStrictEqual(yield* statesOf(appId, name), [
          { status: "completed", attempts: 1, errors: 0, marks: 1, count: 1 },
        ]);
      }
    }),
  );

  it.scoped("a partition that moves to another runner leaves what runs where it is, once", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const url = yield* TestUrl;
      const appId = yield* newTenant;
      const jobs = 64;
      const given = { concurrency: jobs, graceMillis: 60_000 };
      const first = yield* startRunner(url, { ...given, name: "first" });
      yield* Jobs.submitMany(
        Plain,
        Array.from({ length: jobs }, () => ({ payload: { millis: 8000 } })),
        { appId },
      );
      yield* untilMarked(appId, Plain.name, jobs);
      const second = yield* startRunner(url, { ...given, name: "second" });
      // The second gets its part when what runs there has ended.
      yield* Effect.repeat(sql`SELECT DISTINCT address FROM job_shards`, { until: (rows) => rows.length === 2 });
      yield* Jobs.submitMany(
        Plain,
        Array.from({ length: jobs }, () => ({ payload: { millis: 0 } })),
        { appId },
      );
      assert.deepStrictEqual(yield* untilCompleted(appId, Plain.name), [
        { status: "completed", attempts: 1, errors: 0, marks: 1, count: 2 * jobs },
      ]);
      const runners = yield* Client.system(sql`SELECT DISTINCT runner FROM effects WHERE app_id = ${appId} ORDER BY 1`);
      assert.deepStrictEqual(runners, [{ runner: "first" }, { runner: "second" }]);
      for (const runner of [first, second]) {
        yield* runner.kill("SIGTERM");
        assert.strictEqual(yield* runner.ended, 0, runner.output());
      }
    }),
  );
});
