/** What handlers may do to the connections that they share. */
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import type * as PgClient from "@effect/sql-pg/PgClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { newTenant, TestUrl, withLogin } from "../../database/test/support/database.js";
import type { JobHandlers } from "../src/handlers.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { TestJobs } from "./support/runners.js";

const empty = { payload: S.Struct({}), retry: { maxAttempts: 1 } };
type Pool = Context.Context<PgClient.PgClient | SqlClient.SqlClient>;

/** A client for handlers, with one connection. */
const onePool = Effect.flatMap(TestUrl, (url) => Layer.build(Client.layer({ url, maxConnections: 1 })));

const withRunner = (pool: Pool, handlers: Layer.Layer<never, never, JobHandlers>) =>
  Effect.provide(Layer.provide(Runner.layerSingle({ handlers, grace: 0 }), Layer.succeedContext(pool)));

const ended = (jobId: string) =>
  Effect.repeat(Effect.zipRight(Effect.sleep("20 millis"), Effect.map(Jobs.status(jobId), Option.getOrThrow)), {
    until: ({ status }) => status === "completed" || status === "dead",
  });

const apps = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT id FROM apps`);

const assertEnded = (exit: Exit.Exit<unknown, unknown>) => {
  if (Exit.isSuccess(exit)) return assert.fail(`it saw ${JSON.stringify(exit.value)}`);
  const error = exit.cause._tag === "Fail" ? exit.cause.error : exit.cause;
  assert.instanceOf(error, SqlError);
  assert.match(String((error as SqlError).message), /^The transaction has ended/);
};

layer(TestJobs, { excludeTestServices: true, timeout: "2 minutes" })("the connections of handlers", (it) => {
  it.scoped(
    "a fiber that outlives a transactional handler sees nothing, neither beside another tenant's nor later",
    () =>
      Effect.gen(function* () {
        const [a, b] = [yield* newTenant, yield* newTenant];
        const pool = yield* onePool;
        const sql = Context.get(pool, SqlClient.SqlClient);
        const [beside, later] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
        const readers: Array<Fiber.Fiber<unknown, unknown>> = [];
        const read = Effect.provideService(apps, SqlClient.SqlClient, sql);
        const scoped = Effect.provideService(Client.tenant(a)(read), SqlClient.SqlClient, sql);
        const streamed = Stream.runCollect(sql`SELECT id FROM apps`.stream);
        const Outlives = JobType.make("handlers.outlives", { ...empty, transactional: true });
        const Beside = JobType.make("handlers.beside", { ...empty, transactional: true });
        const handlers = Layer.merge(
          Outlives.toLayer(() =>
            Effect.gen(function* () {
              assert.deepStrictEqual(yield* read, [{ id: a }]);
              const ways: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
                read,
                scoped,
                sql.withTransaction(read),
                streamed,
              ];
              for (const moment of [beside, later]) {
                for (const reads of ways) {
                  readers.push(yield* Effect.forkDaemon(Effect.zipRight(Deferred.await(moment), reads)));
                }
              }
            }),
          ),
          Beside.toLayer(() =>
            Effect.gen(function* () {
              assert.deepStrictEqual(yield* read, [{ id: b }]);
              yield* Deferred.succeed(beside, undefined);
              for (const reader of readers.slice(0, 4)) assertEnded(yield* Fiber.await(reader));
              assert.deepStrictEqual(yield* read, [{ id: b }]);
            }),
          ),
        );
        yield* Effect.gen(function* () {
          const first = yield* Jobs.submit(Outlives, {}, { appId: a });
          assert.strictEqual((yield* ended(first.jobId)).status, "completed");
          const second = yield* Jobs.submit(Beside, {}, { appId: b });
          const { lastError, status } = yield* ended(second.jobId);
          assert.isNull(lastError);
          assert.strictEqual(status, "completed");
          yield* Deferred.succeed(later, undefined);
          for (const reader of readers) assertEnded(yield* Fiber.await(reader));
        }).pipe(withRunner(pool, handlers));
      }),
  );

  it.scoped("a transaction that is half done in another fiber when its handler ends is rolled back with the job", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const pool = yield* onePool;
      const sql = Context.get(pool, SqlClient.SqlClient);
      const [isHalf, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
      const readers: Array<Fiber.Fiber<unknown, unknown>> = [];
      const Half = JobType.make("handlers.half", { ...empty, transactional: true });
      const handlers = Half.toLayer((_, { jobId }) =>
        Effect.gen(function* () {
          const leave = sql`INSERT INTO effects (app_id, job_id, runner, attempt) VALUES (current_tenant(), ${jobId}, 'half', 1)`;
          const both = Effect.zipRight(Effect.zipRight(leave, Deferred.succeed(isHalf, undefined)), Deferred.await(go));
          readers.push(yield* Effect.forkDaemon(sql.withTransaction(Effect.zipRight(both, leave))));
          yield* Deferred.await(isHalf);
        }),
      );
      yield* Effect.gen(function* () {
        const { jobId } = yield* Jobs.submit(Half, {}, { appId });
        const { lastError, status } = yield* ended(jobId);
        assert.strictEqual(status, "dead");
        assert.match(lastError ?? "", /The transaction ended while one inside it was open/);
        yield* Deferred.succeed(go, undefined);
        for (const reader of readers) assertEnded(yield* Fiber.await(reader));
        const own = yield* SqlClient.SqlClient;
        assert.deepStrictEqual(yield* Client.system(own`SELECT 1 FROM effects WHERE app_id = ${appId}`), []);
      }).pipe(withRunner(pool, handlers));
    }),
  );

  it.scoped("another database is reached by what says that it is outside, and by nothing else", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const url = yield* TestUrl;
      const pool = yield* onePool;
      const other = yield* Layer.build(Client.layer({ url, maxConnections: 1, applicationName: "elsewhere" }));
      const elsewhere = Context.get(other, SqlClient.SqlClient);
      const where = elsewhere`SELECT current_setting('application_name') AS name, current_setting('role') AS role`;
      const seen: Array<unknown> = [];
      const kinds = [true, false].map((transactional) =>
        JobType.make(`handlers.elsewhere.${transactional}`, { ...empty, transactional }),
      );
      const handlers = kinds.map((kind) =>
        kind.toLayer(() =>
          Effect.gen(function* () {
            const [outside] = yield* Client.outside(where);
            const [inside] = yield* where;
            seen.push({ ...outside }, inside?.role);
          }),
        ),
      );
      const [first = Layer.empty, second = Layer.empty] = handlers;
      yield* Effect.gen(function* () {
        for (const kind of kinds) {
          const { jobId } = yield* Jobs.submit(kind, {}, { appId });
          assert.strictEqual((yield* ended(jobId)).status, "completed");
        }
      }).pipe(withRunner(pool, Layer.merge(first, second)));
      const alone = { name: "elsewhere", role: "none" };
      assert.deepStrictEqual(seen, [alone, "parametric_tenant", alone, "parametric_tenant"]);
    }),
  );

  it.scoped("a fiber that still waits for a connection when its handler ends does not keep it", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const pool = yield* onePool;
      const sql = Context.get(pool, SqlClient.SqlClient);
      const [isHeld, isOver] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
      const readers: Array<Fiber.Fiber<unknown, unknown>> = [];
      const Waits = JobType.make("handlers.waits", { ...empty, transactional: true });
      const handlers = Waits.toLayer(() =>
        Effect.gen(function* () {
          readers.push(yield* Effect.forkDaemon(sql`SELECT id FROM apps`));
          // Until it has asked for one.
          yield* Effect.repeatN(Effect.yieldNow(), 10);
        }).pipe(Effect.ensuring(Deferred.succeed(isOver, undefined))),
      );
      yield* Effect.gen(function* () {
        const holder = yield* Effect.fork(
          sql.withTransaction(Effect.zipRight(Deferred.succeed(isHeld, undefined), Deferred.await(isOver))),
        );
        yield* Deferred.await(isHeld);
        const { jobId } = yield* Jobs.submit(Waits, {}, { appId });
        yield* Fiber.join(holder);
        assert.strictEqual((yield* ended(jobId)).status, "completed");
        for (const reader of readers) assertEnded(yield* Fiber.await(reader));
        // In a transaction that somebody left open it would be the time of its BEGIN, twice.
        const at = sql`SELECT now()::text AS at`;
        assert.notDeepEqual(yield* at, yield* at);
      }).pipe(withRunner(pool, handlers));
    }),
  );

  it.scoped("streams that time out while they wait for a connection do not lose it", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const pool = yield* onePool;
      const sql = Context.get(pool, SqlClient.SqlClient);
      const isHeld = yield* Deferred.make<void>();
      const timedOut = yield* Deferred.make<void>();
      let left = 3;
      const tell = Effect.suspend(() => (--left === 0 ? Deferred.succeed(timedOut, undefined) : Effect.void));
      const Streams = JobType.make("handlers.streams", { ...empty, timeout: "200 millis" });
      const handlers = Streams.toLayer(() =>
        Effect.all([Stream.runDrain(sql`SELECT 1`.stream), Effect.onInterrupt(Effect.never, () => tell)], {
          concurrency: "unbounded",
        }),
      );
      yield* Effect.gen(function* () {
        const holder = yield* Effect.fork(
          sql.withTransaction(Effect.zipRight(Deferred.succeed(isHeld, undefined), Deferred.await(timedOut))),
        );
        yield* Deferred.await(isHeld);
        const jobs = yield* Jobs.submitMany(Streams, [{ payload: {} }, { payload: {} }, { payload: {} }], { appId });
        yield* Fiber.join(holder);
        for (const { jobId } of jobs) assert.match((yield* ended(jobId)).lastError ?? "", /the timeout of its type/);
        assert.deepStrictEqual(yield* sql`SELECT 1 AS answer`, [{ answer: 1 }]);
      }).pipe(withRunner(pool, handlers));
    }),
  );

  it.scoped("a stream whose login may not become the tenant's role leaves no transaction open", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const pool = yield* withLogin("parametric_system");
      const sql = Context.get(pool, SqlClient.SqlClient);
      const Refused = JobType.make("handlers.refused", empty);
      const handlers = Refused.toLayer(() => Stream.runDrain(sql`SELECT 1`.stream));
      yield* Effect.gen(function* () {
        const { jobId } = yield* Jobs.submit(Refused, {}, { appId });
        assert.match((yield* ended(jobId)).lastError ?? "", /permission denied to set role/);
        assert.deepStrictEqual(yield* sql`SELECT 1 AS answer`, [{ answer: 1 }]);
      }).pipe(withRunner(pool, handlers));
    }),
  );
});
