import { createServer, type Server } from "node:http";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import { newLogin, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { freePort, withUrl } from "../../database/test/support/process.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import { Again, Endless, Failing, Fine } from "./support/kinds.js";
import { answers, ask, beside, runRunner, startRunner } from "./support/process.js";
import { parse, sum } from "./support/scrape.js";

const TestJobs = Layer.provideMerge(JobStoreSql.layerDesk, TestDatabase);
const handlers = beside("handlers.ts");
const requestId = "0192f000-0000-7000-8000-000000000001";

const endsAs = (jobId: string, status: string) =>
  Jobs.status(jobId).pipe(
    Effect.map(Option.match({ onNone: () => "gone", onSome: (_) => _.status as string })),
    Effect.repeat({ until: (_) => _ === status }),
    Effect.timeout("30 seconds"),
  );

/** Takes whatever is exported to it. */
const collector = Effect.gen(function* () {
  const received: Array<{ readonly path: string; readonly authorization: string | undefined; readonly body: string }> =
    [];
  const server = yield* Effect.acquireRelease(
    Effect.async<Server>((resume) => {
      const made = createServer((request, response) => {
        let body = "";
        request.setEncoding("utf8").on("data", (text: string) => {
          body += text;
        });
        request.on("end", () => {
          received.push({ path: request.url ?? "", authorization: request.headers.authorization, body });
          response.writeHead(200, { "content-type": "application/json" }).end("{}");
        });
      }).listen(0, "127.0.0.1", () => resume(Effect.succeed(made)));
    }),
    (made) =>
      Effect.sync(() => {
        made.closeAllConnections();
        made.close();
      }),
  );
  const address = server.address();
  return { received, port: typeof address === "object" && address !== null ? address.port : 0 };
});

layer(TestJobs, { excludeTestServices: true, timeout: "120 seconds" })("the command runner", (it) => {
  it.scoped("runs jobs in the cluster, says how it is, and ends with 0 at SIGTERM with what it had given back", () =>
    Effect.gen(function* () {
      const url = yield* TestUrl;
      const appId = yield* newTenant;
      const [port, healthPort] = [yield* freePort, yield* freePort];
      const runner = yield* startRunner(
        [
          handlers,
          "--host",
          "127.0.0.1",
          "--port",
          `${port}`,
          "--health-port",
          `${healthPort}`,
          "--grace",
          "300 millis",
        ],
        { ...withUrl(url), RUNNER_NAME: "first" },
      );
      const ready = yield* answers(healthPort, "/ready", 200);
      assert.match(ready.type, /application\/json/);
      assert.strictEqual((yield* ask(healthPort, "/live"))?.status, 200);
      assert.strictEqual((yield* ask(healthPort, "/"))?.status, 404);

      const fine = yield* Jobs.submit(Fine, { n: 1 }, { appId });
      const failing = yield* Jobs.submit(Failing, { n: 2 }, { appId });
      const endless = yield* Jobs.submit(Endless, { n: 3 }, { appId });
      yield* endsAs(fine.jobId, "completed");
      yield* endsAs(failing.jobId, "dead");
      yield* endsAs(endless.jobId, "processing");
      const scrape = parse((yield* answers(healthPort, "/metrics", 200)).text);
      assert.strictEqual(sum(scrape, "portal_jobs_ended_total", { type: Fine.name, outcome: "completed" }), 1);
      assert.strictEqual(sum(scrape, "portal_jobs_dead_lettered_total", { reason: "MaxRetries" }), 1);
      assert.strictEqual(sum(scrape, "portal_jobs_running"), 1);
      assert.strictEqual(sum(scrape, "portal_jobs_attempt_duration_seconds_count", { type: Fine.name }), 1);

      yield* runner.kill("SIGTERM");
      const { code, signal, stderr, stdout } = yield* runner.ended;
      assert.deepStrictEqual({ code, signal, stdout }, { code: 0, signal: null, stdout: "" }, stderr);
      const started = stderr.split("\n").filter((_) => _.includes('message="runner started"'));
      assert.strictEqual(started.length, 1, stderr);
      assert.include(started[0], "name=first");
      assert.include(started[0], `address=127.0.0.1:${port}`);
      assert.include(started[0], "types=test.fine,test.failing,test.again,test.endless");
      const stopped = stderr.split("\n").filter((_) => _.includes('message="runner stopped"'));
      assert.strictEqual(stopped.length, 1, stderr);
      assert.include(stopped[0], "gave_back=1");
      assert.strictEqual(yield* endsAs(endless.jobId, "pending"), "pending");
      yield* Jobs.cancel(endless.jobId);
    }),
  );

  it.scoped(
    "works as a login that owns nothing and inherits nothing: runs, retries, and takes over from who vanished",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const url = yield* newLogin("parametric_tenant, parametric_system");
        const appId = yield* newTenant;
        const lost = yield* Jobs.submit(Fine, { n: 1 }, { appId });
        yield* sql`
        UPDATE jobs SET status = 'processing', attempts = 1, started_at = now(), locked_by = 'vanished', locked_until = now() - interval '1 minute'
        WHERE id = ${lost.jobId}`;
        const healthPort = yield* freePort;
        const runner = yield* startRunner([handlers, "--single", "--health-port", `${healthPort}`], withUrl(url));
        yield* answers(healthPort, "/ready", 200);
        const again = yield* Jobs.submit(Again, { n: 1 }, { appId });
        yield* endsAs(again.jobId, "dead");
        yield* endsAs(lost.jobId, "completed");
        yield* runner.kill("SIGTERM");
        const { code, stderr } = yield* runner.ended;
        assert.strictEqual(code, 0, stderr);
        assert.notInclude(stderr, "permission denied");
      }),
  );

  it.scoped("is not ready and still alive while running jobs have their grace", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const healthPort = yield* freePort;
      const runner = yield* startRunner(
        [handlers, "--single", "--health-port", `${healthPort}`, "--grace", "3 seconds"],
        withUrl(yield* TestUrl),
      );
      yield* answers(healthPort, "/ready", 200);
      const { jobId } = yield* Jobs.submit(Endless, { n: 1 }, { appId });
      yield* endsAs(jobId, "processing");
      yield* runner.kill("SIGTERM");
      const answer = yield* answers(healthPort, "/ready", 503);
      assert.match(answer.type, /application\/problem\+json/);
      assert.include(answer.text, "stopping");
      assert.strictEqual((yield* ask(healthPort, "/live"))?.status, 200);
      assert.strictEqual((yield* ask(healthPort, "/metrics"))?.status, 200);
      assert.strictEqual((yield* runner.ended).code, 0);
      yield* Jobs.cancel(jobId);
    }),
  );

  it.scoped("exports metrics and spans when the environment says where to", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const { port, received } = yield* collector;
      const runner = yield* startRunner([handlers, "--single", "--health-port", "0"], {
        ...withUrl(yield* TestUrl),
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}/`,
        OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
        OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20abc",
        OTEL_METRIC_EXPORT_INTERVAL: "200",
      });
      yield* runner.saysOnStderr("runner started");
      const { jobId } = yield* Jobs.submit(Failing, { n: 1 }, { appId, requestId });
      yield* endsAs(jobId, "dead");
      yield* runner.kill("SIGTERM");
      const { code, stderr } = yield* runner.ended;
      assert.strictEqual(code, 0, stderr);
      const bodies = (path: string) => received.filter((_) => _.path === path).map((_) => _.body);
      assert.isTrue(received.every(({ authorization }) => authorization === "Bearer abc"));
      assert.isTrue(bodies("/v1/metrics").some((_) => _.includes("portal_jobs_dead_lettered_total")));
      const spans = bodies("/v1/traces")
        .flatMap((body) => JSON.parse(body).resourceSpans)
        .flatMap((_) => _.scopeSpans)
        .flatMap((_) => _.spans);
      for (const name of ["job.attempt", "job.dead_letter"]) {
        const [span] = spans.filter((_) => _.name === name);
        assert.isDefined(span, `${name} is among ${[...new Set(spans.map((_) => _.name))]}`);
        assert.deepInclude(span.attributes, { key: "request.id", value: { stringValue: requestId } });
      }
      const alien = spans.filter((_) => !["job.attempt", "job.dead_letter"].includes(_.name)).map((_) => _.name);
      assert.deepStrictEqual(alien, [], "a runner's own statements are no spans");
    }),
  );

  for (const [what, module, message] of [
    ["that is not there", "no-such-module.mjs", "cannot be loaded"],
    ["without a default export", beside("no-default.ts"), "has no default export"],
    ["whose default export is no layer", beside("no-layer.ts"), "does not export a Layer"],
  ] as const) {
    it.effect(`ends with 1 and says why for a module ${what}`, () =>
      Effect.gen(function* () {
        const { code, stderr } = yield* runRunner([module, "--single", "--health-port", "0"], withUrl(yield* TestUrl));
        assert.strictEqual(code, 1, stderr);
        assert.include(stderr, module);
        assert.include(stderr, message);
        assert.notInclude(stderr, "    at ");
      }),
    );
  }

  it.effect("ends with 1 and says why for an option that cannot be", () =>
    Effect.gen(function* () {
      const { code, stderr, stdout } = yield* runRunner([handlers, "--lease", "soon"], withUrl(yield* TestUrl));
      assert.strictEqual(code, 1);
      assert.include(stderr + stdout, "--lease is");
    }),
  );

  it.scoped("ends with 1 and says why when the health port is taken", () =>
    Effect.gen(function* () {
      const { port } = yield* collector;
      const { code, stderr } = yield* runRunner(
        [handlers, "--single", "--health-port", `${port}`],
        withUrl(yield* TestUrl),
      );
      assert.strictEqual(code, 1);
      assert.include(stderr, "EADDRINUSE");
    }),
  );

  it.effect("ends with 1 and says why when the database is not there", () =>
    Effect.gen(function* () {
      const { code, stderr } = yield* runRunner([handlers, "--single", "--health-port", "0"], {
        DATABASE_URL: `postgresql://nobody@127.0.0.1:${yield* freePort}/none`,
      });
      assert.strictEqual(code, 1);
      assert.include(stderr, "The database cannot be used");
      assert.include(stderr, "ECONNREFUSED");
    }),
  );
});
