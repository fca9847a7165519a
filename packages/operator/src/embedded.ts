/**
 * `dlq --embedded`: everything can be tried at once, on a server of its own with dead letters in it.
 *
 * Contract: the server is made for this one command, and is gone with it, whatever ends it. What DATABASE_URL names is not touched:
 * the example is only written where no table of ours is.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as ConfigProvider from "effect/ConfigProvider";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import { Ended, Failed } from "./failure.js";
import { layerDatabase } from "./options.js";

/** The first argument of the process that runs on the server. */
export const inside = "--embedded=here";

/** The executable that starts a server for a command. */
const withPostgres = Effect.try({
  try: () => {
    const folder = dirname(createRequire(import.meta.url).resolve("@parametric-portal/postgres/package.json"));
    const found = ["bin/with-postgres.mjs", "dist/bin.js"].map((path) => join(folder, path)).find(existsSync);
    if (found === undefined) throw new Error("it was not built");
    return found;
  },
  catch: (error) =>
    new Failed({
      reason: `--embedded needs the package @parametric-portal/postgres; install it beside this one (${String(error).split("\n")[0]})`,
    }),
});

/** Runs this program again, on a server of its own; comes back with its exit code. */
const rerun = (words: ReadonlyArray<string>) =>
  Effect.flatMap(withPostgres, (program) =>
    Effect.async<number>((resume) => {
      const own = [process.execPath, ...process.execArgv, process.argv[1] ?? "", inside, ...words];
      const child = spawn(process.execPath, [program, "--", ...own], {
        stdio: "inherit",
        env: { ...process.env, POSTGRES_PROVIDER: "embedded" },
      });
      // A terminal's Ctrl-C reaches it by itself; what is sent to this process alone is passed on.
      const heed = () => {};
      process.on("SIGINT", heed);
      const pass = () => child.kill("SIGTERM");
      process.on("SIGTERM", pass);
      child.once("close", (code, signal) => {
        process.off("SIGINT", heed).off("SIGTERM", pass);
        resume(Effect.succeed(code ?? (signal === null ? 1 : 130)));
      });
    }),
  );

// --- the example -------------------------------------------------------------

const hour = 3_600_000;

/** The tenants of the example; the first is the one that commands are about unless they say another. */
const tenants = ["01900000-0000-7000-8000-0000000000a1", "01900000-0000-7000-8000-0000000000b2"] as const;

const failures = [
  {
    type: "mail.send",
    reason: "MaxRetries",
    error:
      "MailServerDown: 451 4.3.0 Mailbox busy, try again later\n    at Mailer.send (/app/src/mail.js:41:15)\n    at run (/app/src/worker.js:12:9)",
    payload: (n: number) => ({ to: `customer-${n}@example.com`, template: "receipt", order: { id: 7000 + n } }),
    share: 90,
  },
  {
    type: "webhook.deliver",
    reason: "MaxRetries",
    error:
      "HttpError: 503 Service Unavailable from https://hooks.example.com/orders\n    at deliver (/app/src/webhook.js:88:11)",
    payload: (n: number) => ({ url: "https://hooks.example.com/orders", event: "order.paid", order: 7000 + n }),
    share: 40,
  },
  {
    type: "invoice.render",
    reason: "Validation",
    error: 'ParseError: invoice.lines[0].price: Expected number, actual "12,50"',
    payload: (n: number) => ({ invoice: 300 + n, lines: [{ sku: `A-${n}`, price: "12,50" }] }),
    share: 12,
  },
  {
    type: "crm.sync",
    reason: "HandlerMissing",
    error: "No handler for crm.sync on runner eu-1",
    payload: (n: number) => ({ contact: n, fields: ["email", "phone"] }),
    share: 4,
  },
] as const;

/** Migrates the server, and fills it with what a bad night leaves. */
const example = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const used = yield* sql`SELECT 1 WHERE to_regclass('apps') IS NOT NULL`;
  if (used.length > 0) {
    return yield* new Failed({
      reason: "The example is only for an empty server; this one has tables. Say --embedded.",
    });
  }
  yield* Logger.withMinimumLogLevel(Migrator.run(), LogLevel.Warning);
  const db = yield* DatabaseService;
  const [acme, globex] = tenants;
  yield* sql`INSERT INTO apps (id, name) VALUES (${acme}::uuid, 'acme'), (${globex}::uuid, 'globex')`;
  const now = Date.now();
  for (const appId of tenants) {
    yield* Client.tenant(appId)(
      Effect.gen(function* () {
        // Every job dies by its own way through the queue, so that a replay has one to bring back.
        for (const { error, payload, reason, share, type } of failures) {
          const many = appId === acme ? share : Math.ceil(share / 10);
          const ids = yield* db.jobs.enqueueMany(
            Array.from({ length: many }, (_, n) => ({
              appId,
              type,
              payload: payload(n),
              requestId: Option.none(),
              userId: Option.none(),
            })),
          );
          for (const id of ids) yield* db.jobs.deadLetter({ id, reason, error });
        }
      }),
    );
  }
  // Most of them came in the last hours, and each was tried three times.
  yield* sql`
    WITH aged AS (
      SELECT id, ${now}::bigint - (abs(hashtext(id::text)) % 1000) ^ 2 * ${20 * hour}::bigint / 1000000 AS died FROM job_dlq)
    UPDATE job_dlq d SET attempts = 3, dlq_at = to_timestamp(a.died / 1000.0),
      error_history = (SELECT jsonb_agg(d.error_history -> -1 || jsonb_build_object('timestamp', floor(a.died - (3 - i) * 40000)) ORDER BY i)
        FROM generate_series(1, 3) i)
    FROM aged a WHERE a.id = d.id`;
  const scope = { _tag: "tenant", appId: acme } as const;
  const night = { actor: "night shift", scope };
  yield* Stream.runDrain(db.jobDlq.replay({ type: "webhook.deliver" }, { ...night, limit: 15 }));
  yield* Stream.runDrain(
    db.jobDlq.discard({ type: "crm.sync" }, { ...night, reason: "the integration is gone", limit: 2 }),
  );
}).pipe(Effect.provide(layerDatabase));

/** Runs a command on a server of its own: this program again, which fills the server and then runs the command there. */
export const embedded = <E, R>(
  words: ReadonlyArray<string>,
  run: (words: ReadonlyArray<string>) => Effect.Effect<void, E, R>,
) =>
  Effect.gen(function* () {
    if (words[0] === inside) {
      yield* example;
      const tenant = ConfigProvider.fromMap(new Map([["DLQ_TENANT", tenants[0]]]));
      return yield* Effect.withConfigProvider(
        run(words.slice(1)),
        ConfigProvider.orElse(tenant, () => ConfigProvider.fromEnv()),
      );
    }
    const code = yield* rerun(words.filter((word) => word !== "--embedded"));
    if (code !== 0) return yield* new Ended({ code });
  });
