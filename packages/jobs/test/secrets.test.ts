/**
 * Canaries: a password, a token and payloads that must appear in nothing that a process writes or exports, however much it is told to
 * log. What a client's errors say is in `packages/database/test/client.test.ts`; `packages/operator/test/secrets.test.ts` has the
 * commands of operators.
 */
import { createServer, type Server } from "node:http";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import { rounds } from "../../database/test/support/campaign.js";
import { canaryUrl, password, wrongAddresses } from "../../database/test/support/canary.js";
import { newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { freePort, withUrl } from "../../database/test/support/process.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import { Charge, Leaky, Settle, Twice } from "./support/canary-handlers.js";
import { answers, beside, runRunner, startRunner } from "./support/process.js";

const TestJobs = Layer.provideMerge(JobStoreSql.layerDesk, TestDatabase);

const token = "canary-t0ken";
const card = "canary-4111-1111";
const told = "told-4222-2222";
const secrets = { password, token, card };

/** Which of the canaries are in a text. */
const foundIn = (text: string) =>
  Object.entries(secrets).flatMap(([name, secret]) => (text.includes(secret) ? [name] : []));

/** Takes whatever is exported to it. */
const collector = Effect.gen(function* () {
  const received: Array<{ readonly headers: string; readonly body: string }> = [];
  const server = yield* Effect.acquireRelease(
    Effect.async<Server>((resume) => {
      const made = createServer((request, response) => {
        const pieces: Array<Buffer> = [];
        request.on("data", (some: Buffer) => pieces.push(some));
        request.on("end", () => {
          received.push({ headers: JSON.stringify(request.headers), body: Buffer.concat(pieces).toString("latin1") });
          // An exporter that is refused logs why.
          response.writeHead(received.length % 3 === 0 ? 500 : 200, { "content-type": "application/json" }).end("{}");
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

const endsAs = (jobId: string, status: string) =>
  Jobs.status(jobId).pipe(
    Effect.map(Option.match({ onNone: () => "gone", onSome: (_) => _.status as string })),
    Effect.repeat({ until: (_) => _ === status }),
    Effect.timeout("30 seconds"),
  );

layer(TestJobs, { excludeTestServices: true, timeout: "3 minutes" })("a runner that logs everything", (it) => {
  it.scoped(
    "writes and exports neither its password nor a token nor a payload",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const db = yield* DatabaseService;
        yield* sql.unsafe(`
          CREATE TABLE cards (card text CONSTRAINT cards_once UNIQUE);
          GRANT SELECT, INSERT ON cards TO parametric_tenant`);
        const { name, url } = yield* canaryUrl("parametric_tenant, parametric_system");
        const appId = yield* newTenant;
        const exported = yield* collector;
        const healthPort = yield* freePort;
        const runner = yield* startRunner(
          [beside("canary-handlers.ts"), "--single", "--health-port", `${healthPort}`, "--log-level", "all"],
          {
            ...withUrl(url),
            OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${exported.port}`,
            OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
            OTEL_EXPORTER_OTLP_HEADERS: `authorization=Bearer%20${token}`,
            OTEL_METRIC_EXPORT_INTERVAL: "200",
          },
        );
        yield* answers(healthPort, "/ready", 200);
        const settled = yield* Jobs.submit(Settle, { card, n: 1 }, { appId, dedupeKey: "once" });
        const charged = yield* Jobs.submit(Charge, { card, n: 1 }, { appId });
        const twice = yield* Jobs.submit(Twice, { card, n: 1 }, { appId });
        // Counter-test: what a handler itself says of its payload is told, and found here.
        const leaky = yield* Jobs.submit(Leaky, { card: told, n: 1 }, { appId });
        const none = { requestId: Option.none(), userId: Option.none() };
        const raw = (type: string, payload: unknown) =>
          Client.tenant(appId)(db.jobs.enqueue({ appId, type, payload, maxAttempts: 1, ...none }));
        // It does not fit, and what does not fit is the secret; and nobody has a handler for the last.
        const misfit = yield* raw(Charge.name, { card, n: card });
        yield* raw("canary.nobody", { card });
        yield* endsAs(settled.jobId, "completed");
        for (const jobId of [charged.jobId, twice.jobId, misfit.id, leaky.jobId]) yield* endsAs(jobId, "dead");
        const metrics = (yield* answers(healthPort, "/metrics", 200)).text;
        // Every connection is cut, which is logged; and it goes on.
        yield* sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ${name}`;
        const later = yield* Jobs.submit(Settle, { card, n: 2 }, { appId });
        yield* endsAs(later.jobId, "completed");
        // And once more while nobody may log in: what it says of itself meanwhile.
        yield* sql.unsafe(`ALTER ROLE ${name} NOLOGIN`);
        yield* sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ${name}`;
        const health = (yield* answers(healthPort, "/ready", 503)).text;
        yield* sql.unsafe(`ALTER ROLE ${name} LOGIN`);
        yield* answers(healthPort, "/ready", 200);
        yield* runner.kill("SIGTERM");
        const { code, stderr, stdout } = yield* runner.ended;
        assert.strictEqual(code, 0, stderr);

        const bodies = exported.received.map(({ body }) => body).join("\n");
        const said = { stdout, stderr, bodies, metrics, health };
        for (const [where, text] of Object.entries(said))
          assert.deepStrictEqual(foundIn(text), [], `${where}: ${text}`);
        // It has said much, and what it sent as its token went where that belongs.
        assert.include(stderr, "level=DEBUG");
        assert.match(stderr, /57P01|terminat/);
        assert.include(bodies, "job.attempt");
        assert.include(bodies, "job.dead_letter");
        assert.include(bodies, "the bank does not answer");
        for (const text of [stderr, bodies]) assert.include(text, told);
        assert.isTrue(exported.received.every(({ headers }) => headers.includes(token)));
        // They are where they belong.
        const { items } = yield* Client.tenant(appId)(db.jobDlq.page({ state: "any" }));
        assert.isTrue(items.some(({ payload }) => JSON.stringify(payload).includes(card)));
      }),
    120_000,
  );

  it.scoped("cannot start, and says why without its password", () =>
    Effect.gen(function* () {
      const addresses = Object.entries(wrongAddresses(yield* TestUrl));
      yield* Effect.forEach(
        addresses.filter((_, place) => place % rounds(1, 4) === 0),
        ([what, environment]) =>
          Effect.gen(function* () {
            const args = [beside("canary-handlers.ts"), "--single", "--health-port", "0", "--log-level", "all"];
            const { code, stderr, stdout } = yield* runRunner(args, environment);
            assert.strictEqual(code, 1, `${what}: ${stderr}`);
            assert.isNotEmpty(stderr, what);
            assert.deepStrictEqual(foundIn(stdout + stderr), [], `${what}: ${stdout}${stderr}`);
          }),
        { concurrency: 2 },
      );
    }),
  );
});
