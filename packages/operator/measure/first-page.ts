/**
 * How long the first page of 50 takes over HTTP, next to the same rows by the bare driver.
 *
 * `npx with-postgres -- node --import tsx measure/first-page.ts [letters] [requests]`, default 1,000,000 and 1,000, in
 * packages/operator. All of one tenant and pending. The API and the driver take turns on one server, one request after the other;
 * the first hundred of each do not count.
 */
import * as HttpServer from "@effect/platform/HttpServer";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Console from "effect/Console";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import pg from "pg";
import { hashOf } from "../src/access.js";
import * as Server from "../src/http/server.js";

const letters = Number(process.argv[2] ?? 1_000_000);
const requests = Number(process.argv[3] ?? 1_000);
const unmeasured = 100;

/** Milliseconds at a share of the sorted times. */
const quantile = (times: ReadonlyArray<number>, share: number) =>
  [...times].sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
const rounded = (millis: number) => Math.round(millis * 100) / 100;

const fill = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const { id } = yield* Client.system(db.apps.insert({ name: "measured" }));
  yield* Client.system(sql`
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
    SELECT uuidv7(), ${id}::uuid, 'type.' || i % 20, jsonb_build_object('n', i, 'pad', repeat('x', 200)), 'MaxRetries', 3,
      jsonb_build_array(jsonb_build_object('error', 'Error: upstream answered ' || 500 + i % 10, 'timestamp', 1767225600000 + i)),
      now() - i * interval '1 second'
    FROM generate_series(1, ${letters}::int) i`);
  yield* sql`VACUUM (ANALYZE) job_dlq`;
  return id;
});

const timed = async (run: () => Promise<unknown>) => {
  const began = performance.now();
  await run();
  return performance.now() - began;
};

const measured = Effect.gen(function* () {
  const tenant = yield* fill;
  const grants = [{ name: "measured", sha256: hashOf("token"), tenant, role: "operator" as const, seesPayloads: true }];
  const context = yield* Layer.build(Server.layer({ grants, port: 0, requestsPerTenSeconds: 1_000_000 }));
  const { address } = Context.get(context, HttpServer.HttpServer);
  if (address._tag !== "TcpAddress") return yield* Effect.dieMessage("the server has no port");
  const url = `http://127.0.0.1:${address.port}/api/v1/letters?limit=50`;
  const driver = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const client = new pg.Client(process.env.DATABASE_URL);
      await client.connect();
      await client.query("SET ROLE parametric_tenant");
      await client.query(`SET app.current_tenant = '${tenant}'`);
      return client;
    }),
    (client) => Effect.promise(() => client.end()),
  );
  const api: Array<number> = [];
  const raw: Array<number> = [];
  yield* Effect.promise(async () => {
    for (let i = 0; i < requests + unmeasured; i++) {
      const overHttp = await timed(async () => {
        const response = await fetch(url, { headers: { authorization: "Bearer token" } });
        const { items } = (await response.json()) as { readonly items: ReadonlyArray<unknown> };
        if (items.length !== Math.min(50, letters)) throw new Error(`${response.status}, ${items.length} items`);
      });
      const byDriver = await timed(() =>
        driver.query("SELECT * FROM job_dlq WHERE replayed_at IS NULL ORDER BY dlq_at DESC, id DESC LIMIT 50"),
      );
      if (i < unmeasured) continue;
      api.push(overHttp);
      raw.push(byDriver);
    }
  });
  const figures = (times: ReadonlyArray<number>) => ({
    p50: rounded(quantile(times, 0.5)),
    p95: rounded(quantile(times, 0.95)),
    p99: rounded(quantile(times, 0.99)),
  });
  yield* Console.log(
    JSON.stringify({
      letters,
      requests,
      apiMillis: figures(api),
      driverMillis: figures(raw),
      ratioP50: rounded(quantile(api, 0.5) / quantile(raw, 0.5)),
    }),
  );
});

const services = Layer.provideMerge(DatabaseService.layer, Client.layerConfig({ maxConnections: 4 }));
await Effect.runPromise(
  Effect.scoped(Effect.zipRight(Migrator.run(), measured)).pipe(
    Effect.provide(services),
    Logger.withMinimumLogLevel(LogLevel.Warning),
  ),
);
