import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Metric from "effect/Metric";
import * as MetricBoundaries from "effect/MetricBoundaries";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Scope from "effect/Scope";
import { newTenant } from "../../database/test/support/database.js";
import * as Proxy from "../../database/test/support/proxy.js";
import * as Server from "../../database/test/support/server.js";
import * as Health from "../src/health.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { Worker } from "../src/worker.js";
import { Fine, handlers } from "./support/kinds.js";
import { answers, ask } from "./support/process.js";
import { parse, sum } from "./support/scrape.js";

/** A server behind an address that stays. */
class Own extends Context.Tag("Own")<Own, { readonly server: Server.OwnServer; readonly proxy: Proxy.Proxy }>() {}

const own = Layer.scoped(
  Own,
  Effect.gen(function* () {
    const server = yield* Server.make;
    const url = yield* Effect.orDie(server.start());
    yield* Effect.provide(Migrator.run(), Client.layer({ url, maxConnections: 1 }));
    return { server, proxy: yield* Proxy.make(url) };
  }),
);

const client = (options: Client.Options = {}) =>
  Layer.unwrapEffect(Effect.map(Own, ({ proxy }) => Client.layer({ ...options, url: proxy.url })));
const forHealth = client({ maxConnections: 1, role: "parametric_system" });

const TestOwn = Layer.merge(DatabaseService.layer, JobStoreSql.layerDesk).pipe(
  Layer.provideMerge(client()),
  Layer.provideMerge(own),
);

/** A runner with its health server; each in the scope that is given. */
const started = Effect.gen(function* () {
  const whole = yield* Scope.make();
  const inner = yield* Scope.make();
  yield* Effect.addFinalizer(() => Effect.zipRight(Scope.close(inner, Exit.void), Scope.close(whole, Exit.void)));
  const server = yield* Layer.buildWithScope(Health.layer({ port: 0, host: "127.0.0.1" }), whole);
  const { port } = Context.get(server, Health.Health);
  const runner = Health.layerRunner().pipe(
    Layer.provide(forHealth),
    Layer.provideMerge(Runner.layerSingle({ handlers })),
    Layer.provide(Layer.succeedContext(server)),
  );
  return { port, begin: Layer.buildWithScope(runner, inner), stop: Scope.close(inner, Exit.void) };
});

const isWorking: Worker["Type"] = {
  drain: () => Effect.void,
  suspect: () => Effect.void,
  cancelled: () => undefined,
  running: () => 0,
  isAnswered: () => true,
};

layer(TestOwn, { excludeTestServices: true, timeout: "120 seconds" })("health", (it) => {
  it.scoped("is ready from the start of the runner to its stop, and live before and after", () =>
    Effect.gen(function* () {
      const { begin, port, stop } = yield* started;
      assert.include((yield* answers(port, "/ready", 503)).text, "has not started yet");
      assert.strictEqual((yield* ask(port, "/live"))?.status, 200);
      yield* begin;
      yield* answers(port, "/ready", 200);
      yield* stop;
      const stopped = yield* answers(port, "/ready", 503);
      assert.match(stopped.type, /^application\/problem\+json/);
      assert.deepStrictEqual(JSON.parse(stopped.text), {
        type: "about:blank",
        title: "Service Unavailable",
        status: 503,
        detail: "The runner is stopping",
      });
      assert.strictEqual((yield* ask(port, "/live"))?.status, 200);
    }),
  );

  it.scoped("is not ready while the database is stopped, and ready again when it is back", () =>
    Effect.gen(function* () {
      const { proxy, server } = yield* Own;
      const { begin, port } = yield* started;
      yield* begin;
      yield* answers(port, "/ready", 200);
      yield* server.stop;
      const [took, answer] = yield* Effect.timed(answers(port, "/ready", 503));
      assert.isBelow(Duration.toMillis(took), 10_000);
      assert.include(JSON.parse(answer.text).detail, "database");
      assert.strictEqual((yield* ask(port, "/live"))?.status, 200);
      assert.strictEqual((yield* ask(port, "/metrics"))?.status, 200);
      proxy.moveTo(yield* Effect.orDie(server.start()));
      yield* answers(port, "/ready", 200);
      const { jobId } = yield* Jobs.submit(Fine, { n: 1 }, { appId: yield* newTenant });
      yield* Effect.repeat(Jobs.status(jobId), {
        until: (_) => Option.isSome(_) && _.value.status === "completed",
      });
    }),
  );

  it.scoped("is not ready when the database takes longer than two seconds to answer", () =>
    Effect.gen(function* () {
      const { proxy } = yield* Own;
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const check = yield* Health.makeCheck();
        assert.deepStrictEqual(yield* check, Option.none());
        const decode = S.decodeUnknown(S.Tuple(S.Struct({ port: S.Int })));
        const [{ port }] = yield* Effect.flatMap(sql`SELECT inet_client_port() AS port`, decode);
        proxy.deafen(port);
        const [took, problem] = yield* Effect.timed(check);
        assert.deepStrictEqual(problem, Option.some("The database did not answer within 2s"));
        assert.isBelow(Duration.toMillis(took), 4_000);
      }).pipe(Effect.provide(forHealth));
    }).pipe(Effect.provideService(Worker, isWorking)),
  );

  it.scoped("is not ready when the engine was not answered, or the cluster has not heard of the runner", () =>
    Effect.gen(function* () {
      const silent = yield* Effect.provideService(Health.makeCheck(), Worker, {
        ...isWorking,
        isAnswered: () => false,
      });
      assert.deepStrictEqual(yield* silent, Option.some("The database did not answer the runner's last statement"));

      const sql = yield* SqlClient.SqlClient;
      const clustered = yield* Effect.provideService(Health.makeCheck({ address: "here:1" }), Worker, isWorking);
      assert.include(Option.getOrThrow(yield* clustered), "has not joined");
      yield* sql`INSERT INTO job_runners (address, runner) VALUES ('here:1', '{}')`;
      assert.deepStrictEqual(yield* clustered, Option.none());
      yield* sql`UPDATE job_runners SET last_heartbeat = now() - interval '11 seconds'`;
      assert.include(Option.getOrThrow(yield* clustered), "has not joined");
    }).pipe(Effect.provide(forHealth)),
  );

  it.scoped("a scrape has every kind of metric of the application, whatever its names and labels", () =>
    Effect.gen(function* () {
      const { port } = yield* started;
      yield* Metric.increment(Metric.tagged(Metric.counter("test.count", { incremental: true }), "a-b", 'x"y\\z\n'));
      yield* Metric.update(Metric.gauge("9lives"), 1.5);
      yield* Metric.update(Metric.counter("test_balance"), -2);
      yield* Metric.update(Metric.frequency("test_words"), "word");
      const times = Metric.histogram("test_seconds", MetricBoundaries.fromIterable([1, 2]));
      yield* Effect.forEach([0.5, 1.5, 7], (_) => Metric.update(times, _));
      const summary = { name: "test_summary", maxAge: "1 minute", maxSize: 10, error: 0, quantiles: [0.5] } as const;
      yield* Metric.update(Metric.summary(summary), 4);
      const { text, type } = yield* answers(port, "/metrics", 200);
      assert.match(type, /^text\/plain; version=0\.0\.4/);
      const scrape = parse(text);
      assert.strictEqual(sum(scrape, "test_count", { a_b: 'x\\"y\\\\z\\n' }), 1);
      assert.strictEqual(sum(scrape, "_9lives"), 1.5);
      assert.strictEqual(sum(scrape, "test_balance"), -2);
      assert.strictEqual(scrape.types.get("test_balance"), "gauge");
      assert.strictEqual(sum(scrape, "test_words", { key: "word" }), 1);
      assert.deepStrictEqual(
        scrape.samples.filter((_) => _.name.startsWith("test_seconds")).map(({ labels, value }) => [labels.le, value]),
        [
          ["1", 1],
          ["2", 2],
          ["+Inf", 3],
          [undefined, 9],
          [undefined, 3],
        ],
      );
      assert.strictEqual(sum(scrape, "test_summary", { quantile: "0.5" }), 4);
    }),
  );
});
