import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as S from "effect/Schema";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";

const Ping = JobType.make("ping", { payload: S.Struct({ n: S.Number, pad: S.String }) });
const Boom = JobType.make("boom", {
  payload: S.Struct({ n: S.Number }),
  retry: { maxAttempts: 2, initial: "100 millis" },
});
const Tx = JobType.make("tx", { payload: S.Struct({ n: S.Number }), transactional: true });
const PingLive = Ping.toLayer(() => Effect.void);
const BoomLive = Boom.toLayer(({ n }) => Effect.fail(new Error(`boom ${n}`)));
const TxLive = Tx.toLayer(({ n }, ctx) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    yield* sql`SELECT 1`;
    const app = yield* db.apps.get(ctx.appId);
    yield* Effect.log(`tx ${n} ${ctx.attempt} ${app._tag}`);
  }),
);

const claims: number[][] = [];
const settles: number[][] = [];
const n = Number(process.argv[2] ?? 20000);
const concurrency = Number(process.argv[3] ?? 1024);
const main = Effect.gen(function* () {
  yield* Migrator.run();
  const db = yield* DatabaseService;
  const app = yield* Client.system(db.apps.insert({ name: `smoke ${Date.now()}` }));
  const pad = "x".repeat(280);
  const t0 = Date.now();
  yield* Jobs.submitMany(
    Ping,
    Array.from({ length: n }, (_, i) => ({ payload: { n: i, pad } })),
    { appId: app.id },
  );
  console.log("submitted", n, Date.now() - t0, "ms");
  yield* Jobs.submit(Boom, { n: 1 }, { appId: app.id });
  yield* Jobs.submit(Tx, { n: 1 }, { appId: app.id });
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe("VACUUM ANALYZE jobs");
  const t1 = Date.now();
  const cpu1 = process.cpuUsage();
  yield* Effect.gen(function* () {
    for (;;) {
      const rows = yield* sql.unsafe<{ c: number }>(
        `SELECT (EXISTS (SELECT FROM jobs WHERE status = 'pending') OR EXISTS (SELECT FROM jobs WHERE status = 'processing'))::int AS c`,
      );
      if (rows[0]?.c === 0) break;
      yield* Effect.sleep("50 millis");
    }
    console.log(
      "done",
      Date.now() - t1,
      "ms",
      Math.round((n / (Date.now() - t1)) * 1000),
      "/s",
      Math.round(process.memoryUsage().rss / 1e6),
      "node µs/job", ((process.cpuUsage(cpu1).user + process.cpuUsage(cpu1).system) / n).toFixed(1),
      "MB",
    );
  }).pipe(
    Effect.provide(
      Runner.layerSingle({
        handlers: Layer.mergeAll(PingLive, BoomLive, TxLive),
        concurrency,
        between: (store) => ({
          ...store,
          claim: (o) =>
            Effect.suspend(() => {
              const t = performance.now();
              return Effect.tap(store.claim(o), (c) =>
                Effect.sync(() => {
                  claims.push([o.limit, c.jobs.length, performance.now() - t]);
                }),
              );
            }),
          complete: (d) =>
            Effect.suspend(() => {
              const t = performance.now();
              return Effect.tap(store.complete(d), () =>
                Effect.sync(() => {
                  settles.push([d.length, performance.now() - t]);
                }),
              );
            }),
        }),
      }),
    ),
  );
  const sum = (xs: number[][], i: number) => Math.round(xs.reduce((a, x) => a + (x[i] ?? 0), 0));
  console.log(
    "claims",
    claims.length,
    "jobs",
    sum(claims, 1),
    "ms",
    sum(claims, 2),
    "settles",
    settles.length,
    sum(settles, 0),
    "ms",
    sum(settles, 1),
  );
  if (process.env.DEBUG) console.log(claims.map((c) => c.map(Math.round).join("/")).join(" "));
});
Effect.runPromise(
  main.pipe(
    Effect.provide(JobStoreSql.layerDesk),
    Effect.provide(DatabaseService.layer),
    Effect.provide(Client.layerConfig()),
    Logger.withMinimumLogLevel(process.env.DEBUG ? LogLevel.Debug : LogLevel.Info),
  ),
).then(
  () => process.exit(0),
  (e) => {
    console.error(e);
    process.exit(1);
  },
);
