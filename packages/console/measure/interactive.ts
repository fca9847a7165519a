/**
 * How long the console takes from its address to something that can be used: the first rows are there, and a key moves among them.
 *
 * `npm run build && npx with-postgres -- node --import tsx measure/interactive.ts [letters] [loads]`, default 100,000 and 20, in
 * packages/console. Each load is a new window with an empty cache, on the machine that serves it. Needs Chromium (CHROMIUM=/path).
 */
import * as HttpServer from "@effect/platform/HttpServer";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import { hashOf } from "@parametric-portal/operator/access";
import * as Server from "@parametric-portal/operator/http/server";
import * as Console from "effect/Console";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import { chromium } from "playwright-core";

const letters = Number(process.argv[2] ?? 100_000);
const loads = Number(process.argv[3] ?? 20);
const unmeasured = 3;

const fill = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const { id } = yield* Client.system(db.apps.insert({ name: "measured" }));
  yield* Client.system(sql`
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
    SELECT uuidv7(), ${id}::uuid, 'type.' || i % 20, jsonb_build_object('n', i), 'MaxRetries', 3,
      jsonb_build_array(jsonb_build_object('error', 'Error: upstream answered ' || 500 + i % 10, 'timestamp', 1767225600000 + i)),
      now() - i * interval '1 second'
    FROM generate_series(1, ${letters}::int) i`);
  yield* sql`VACUUM (ANALYZE) job_dlq`;
  return id;
});

const measured = Effect.gen(function* () {
  const tenant = yield* fill;
  const grants = [{ name: "measured", sha256: hashOf("token"), tenant, role: "operator" as const, seesPayloads: true }];
  const pages = yield* Server.findPages;
  if (pages === undefined) return yield* Effect.dieMessage("the console was not built: npm run build");
  const context = yield* Layer.build(Server.layer({ grants, port: 0, pages, requestsPerTenSeconds: 1_000_000 }));
  const { address } = Context.get(context, HttpServer.HttpServer);
  if (address._tag !== "TcpAddress") return yield* Effect.dieMessage("the server has no port");
  const url = `http://127.0.0.1:${address.port}/letters`;
  const browser = yield* Effect.acquireRelease(
    Effect.promise(() =>
      chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] }),
    ),
    (one) => Effect.promise(() => one.close()),
  );
  const times: Array<number> = [];
  yield* Effect.promise(async () => {
    for (let load = 0; load < loads + unmeasured; load++) {
      const window = await browser.newContext();
      await window.addInitScript(() => sessionStorage.setItem("dlq-token", "token"));
      const page = await window.newPage();
      const began = performance.now();
      await page.goto(url, { waitUntil: "commit" });
      await page.locator(".body .row").first().waitFor();
      await page.keyboard.press("j");
      await page.locator('.row.active[aria-rowindex="3"]').waitFor();
      if (load >= unmeasured) times.push(performance.now() - began);
      await window.close();
    }
  });
  const sorted = times.sort((a, b) => a - b);
  const at = (share: number) => Math.round(sorted[Math.floor((sorted.length - 1) * share)] ?? 0);
  yield* Console.log(
    `${letters.toLocaleString("en-US")} dead letters, ${loads} loads: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, longest ${at(1)} ms`,
  );
});

const database = DatabaseService.layer.pipe(Layer.provideMerge(Client.layerConfig({ maxConnections: 10 })));

measured.pipe(
  Effect.scoped,
  Effect.provide(Layer.provideMerge(Layer.effectDiscard(Migrator.run(Migrator.catalogue)), database)),
  Logger.withMinimumLogLevel(LogLevel.Warning),
  Effect.runPromise,
);
