/** What a job, a lock or an outage does to the jobs beside it: nothing. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Deferred from "effect/Deferred";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { newTenant, TestUrl } from "../../database/test/support/database.js";
import * as Wire from "../../database/test/support/wire.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { TestJobs } from "./support/runners.js";

const Numbered = S.Struct({ n: S.Number });
const numbered = (count: number) => Array.from({ length: count }, (_, n) => ({ payload: { n } }));
/** A payload whose Schema throws instead of failing. */
const Address = S.transform(S.String, S.Unknown, {
  strict: false,
  decode: (text) => new URL(text),
  encode: (url) => String(url),
});

/** How the jobs of a tenant stand, and what their histories say. */
const standing = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      SELECT type, status, suspect, error_history -> 0 ->> 'error' AS error, count(*)::int AS count
      FROM jobs WHERE app_id = ${appId} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2`);
    return rows;
  });

const untilEnded = (jobIds: ReadonlyArray<string>) =>
  Effect.forEach(jobIds, (jobId) =>
    Effect.repeat(Effect.zipRight(Effect.sleep("20 millis"), Jobs.status(jobId)), {
      until: (state) => Option.exists(state, ({ status }) => status !== "pending" && status !== "processing"),
    }),
  );

layer(TestJobs, { excludeTestServices: true, timeout: "2 minutes" })("jobs beside one", (it) => {
  it.effect("whose Schema throws go on, and that one is dead-lettered: Validation", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const Visit = JobType.make("beside.visit", { payload: S.Struct({ to: Address }) });
      const Fine = JobType.make("beside.fine", { payload: Numbered });
      const appId = yield* newTenant;
      const { id } = yield* Client.tenant(appId)(
        db.jobs.enqueue({
          appId,
          type: Visit.name,
          payload: { to: "not an address" },
          userId: Option.none(),
          requestId: Option.none(),
        }),
      );
      const others = yield* Jobs.submitMany(Fine, numbered(5), { appId });
      yield* Effect.provide(
        untilEnded([id, ...others.map(({ jobId }) => jobId)]),
        Runner.layerSingle({
          handlers: Layer.mergeAll(
            Visit.toLayer(() => Effect.void),
            Fine.toLayer(() => Effect.void),
          ),
        }),
      );
      const [letter, ...more] = yield* Client.tenant(appId)(db.jobDlq.listPending());
      assert.strictEqual(more.length, 0);
      assert.strictEqual(letter?.errorReason, "Validation");
      assert.match(letter?.errorHistory[0]?.error ?? "", /^The payload does not fit beside\.visit: .*Invalid URL/);
      assert.deepInclude(yield* standing(appId), {
        type: Fine.name,
        status: "completed",
        suspect: false,
        error: null,
        count: 5,
      });
    }),
  );

  it.effect("whose row somebody holds are settled and keep their leases, and that one is settled later", () =>
    Effect.gen(function* () {
      const Slow = JobType.make("beside.slow", { payload: S.Struct({ millis: S.Number }) });
      const [locker, other] = [yield* newTenant, yield* newTenant];
      let runs = 0;
      const handlers = Slow.toLayer(({ millis }) =>
        Effect.delay(
          Effect.sync(() => runs++),
          millis,
        ),
      );
      const lease = 1500;
      yield* Effect.gen(function* () {
        const held = yield* Jobs.submit(Slow, { millis: 500 }, { appId: locker });
        const others = yield* Jobs.submitMany(
          Slow,
          [300, 600, 2500].map((millis) => ({ payload: { millis } })),
          { appId: other },
        );
        yield* Effect.repeat(Effect.zipRight(Effect.sleep("20 millis"), Jobs.status(others[2]?.jobId ?? "")), {
          until: Option.exists(({ status }) => status === "processing"),
        });
        const sql = yield* SqlClient.SqlClient;
        const isHeld = yield* Deferred.make<void>();
        const done = yield* Deferred.make<void>();
        const holder = yield* Effect.fork(
          Client.tenant(locker)(
            Effect.gen(function* () {
              yield* sql`SELECT id FROM jobs WHERE id = ${held.jobId} FOR UPDATE`;
              yield* Deferred.succeed(isHeld, undefined);
              yield* Deferred.await(done);
            }),
          ),
        );
        yield* Deferred.await(isHeld);
        yield* untilEnded(others.map(({ jobId }) => jobId));
        assert.strictEqual(runs, 4, "each has run once");
        assert.deepStrictEqual(yield* standing(other), [
          { type: Slow.name, status: "completed", suspect: false, error: null, count: 3 },
        ]);
        yield* Deferred.succeed(done, undefined);
        yield* Fiber.join(holder);
        yield* untilEnded([held.jobId]);
        assert.deepStrictEqual(
          (yield* standing(locker)).map(({ status }) => status),
          ["completed"],
        );
      }).pipe(Effect.provide(Runner.layerSingle({ handlers, lease })));
    }),
  );

  it.effect("a suspect that is due do not start until it has run, with many slots as with few", () =>
    Effect.gen(function* () {
      const Kind = JobType.make("beside.suspect", { payload: Numbered });
      const appId = yield* newTenant;
      const [suspect] = yield* Jobs.submitMany(Kind, numbered(1), { appId });
      const sql = yield* SqlClient.SqlClient;
      yield* Client.system(sql`UPDATE jobs SET suspect = true WHERE id = ${suspect?.jobId ?? ""}`);
      const others = yield* Jobs.submitMany(Kind, numbered(40), { appId });
      let isAlone = false;
      let beside = 0;
      const handlers = Kind.toLayer((_, { jobId }) =>
        Effect.suspend(() => {
          if (jobId !== suspect?.jobId) {
            if (isAlone) beside++;
            return Effect.void;
          }
          isAlone = true;
          return Effect.delay(
            Effect.sync(() => {
              isAlone = false;
            }),
            "1 second",
          );
        }),
      );
      yield* Effect.provide(
        untilEnded([suspect?.jobId ?? "", ...others.map(({ jobId }) => jobId)]),
        Runner.layerSingle({ handlers, concurrency: 1000 }),
      );
      assert.strictEqual(beside, 0);
    }),
  );

  it.scoped("of a runner that is cut off from the server and comes back are its own still", () =>
    Effect.gen(function* () {
      const url = yield* TestUrl;
      const wire = yield* Wire.make(url);
      const Long = JobType.make("beside.long", { payload: Numbered });
      const appId = yield* newTenant;
      let starts = 0;
      const handlers = Long.toLayer(() =>
        Effect.zipRight(
          Effect.sync(() => starts++),
          Effect.sleep("7 seconds"),
        ),
      );
      const runner = Layer.fresh(
        Runner.layerSingle({ handlers, lease: "2 seconds", grace: 0, concurrency: 8 }).pipe(
          Layer.provide(Client.layer({ url: wire.url(url) })),
        ),
      );
      yield* Layer.build(Layer.mergeAll(runner, Layer.fresh(runner), Layer.fresh(runner)));
      const jobs = yield* Jobs.submitMany(Long, numbered(12), { appId });
      yield* Effect.repeat(Effect.sleep("20 millis"), { until: () => starts === 12 });
      wire.connectTo(undefined);
      wire.cut();
      yield* Effect.sleep("3 seconds");
      wire.connectTo(url);
      yield* untilEnded(jobs.map(({ jobId }) => jobId));
      assert.strictEqual(starts, 12, "none has run twice");
      assert.deepStrictEqual(yield* standing(appId), [
        { type: Long.name, status: "completed", suspect: false, error: null, count: 12 },
      ]);
      // Each lost connection is a warning.
    }).pipe(Logger.withMinimumLogLevel(LogLevel.Error)),
  );

  it.effect("that ask to run in a thousand million years wait for a hundred", () =>
    Effect.gen(function* () {
      const Later = JobType.make("beside.later", { payload: Numbered });
      const appId = yield* newTenant;
      const handlers = Later.toLayer(({ n }) =>
        JobType.JobPostponed.after(n === 0 ? Duration.infinity : Duration.days(1e12)),
      );
      const jobs = yield* Jobs.submitMany(Later, numbered(2), { appId });
      yield* Effect.gen(function* () {
        for (const { jobId } of jobs) {
          const state = yield* Effect.repeat(Effect.zipRight(Effect.sleep("20 millis"), Jobs.status(jobId)), {
            until: Option.exists(({ scheduledAt }) => scheduledAt.getTime() > Date.now() + 1e9),
          });
          assert.deepInclude(Option.getOrThrow(state), { status: "pending", attempts: 0 });
        }
      }).pipe(Effect.provide(Runner.layerSingle({ handlers })));
    }),
  );
});
