/**
 * The database of one test file: a clone of the migrated template, and what tests need to fill it.
 *
 * Every test makes tenants of its own and depends on no order.
 */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import { inject } from "vitest";
import * as Client from "../../src/client.js";
import * as Migrator from "../../src/migrator.js";
import type { JobDlq } from "../../src/models.js";
import { DatabaseService } from "../../src/repos.js";
import type { Insert } from "../../src/rows.js";
import type {} from "./global-setup.js";

/** The connection URL of this file's database, as the server's superuser. */
export class TestUrl extends Context.Tag("TestUrl")<TestUrl, Redacted.Redacted>() {}

const cloned = Layer.scoped(
  TestUrl,
  Effect.suspend(() => Databases.clone(Redacted.make(inject("serverUrl")), inject("template"))),
);

/** A database of this file's own, its client, and the service on it. */
export const TestDatabase = DatabaseService.layer.pipe(
  Layer.provideMerge(Layer.unwrapEffect(Effect.map(TestUrl, (url) => Client.layer({ url })))),
  Layer.provideMerge(cloned),
);

/** An empty database that is migrated up to this migration only. */
export const databaseAt = (last: number) =>
  DatabaseService.layer.pipe(
    Layer.provideMerge(Layer.effectDiscard(Migrator.run(Migrator.catalogue.slice(0, last)))),
    Layer.provideMerge(Layer.unwrapEffect(Effect.map(TestUrl, (url) => Client.layer({ url })))),
    Layer.provideMerge(
      Layer.scoped(
        TestUrl,
        Effect.suspend(() => Databases.empty(Redacted.make(inject("serverUrl")))),
      ),
    ),
  );

/** The same database with another login. */
export const urlAs = (url: Redacted.Redacted, user: string, password: string): Redacted.Redacted => {
  const parsed = new URL(Redacted.value(url));
  parsed.username = user;
  parsed.password = password;
  return Redacted.make(parsed.href);
};

/** A login that owns nothing; `member` says what it may become. */
export const newLogin = (member: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const name = `login_${randomUUID().slice(0, 8)}`;
    yield* sql.unsafe(
      `CREATE ROLE ${name} LOGIN PASSWORD 'secret' NOINHERIT ${member === "" ? "" : `IN ROLE ${member}`}`,
    );
    yield* Effect.addFinalizer(() => Effect.orDie(sql.unsafe(`DROP ROLE ${name}`)));
    return urlAs(yield* TestUrl, name, "secret");
  });

/** The service for such a login. */
export const withLogin = (member: string) =>
  Effect.flatMap(newLogin(member), (url) =>
    Layer.build(DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 4 })))),
  );

/** A new tenant; returns its id. */
export const newTenant = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const app = yield* Client.system(db.apps.insert({ name: `app ${randomUUID()}` }));
  return app.id;
});

/** A dead letter as a caller would insert it. */
export const letter = (
  appId: string,
  given: Partial<Insert<typeof JobDlq.insert.Type>> = {},
): Insert<typeof JobDlq.insert.Type> => ({
  originalJobId: randomUUID(),
  appId,
  type: "mail.send",
  payload: { to: "a@example.com" },
  errorReason: "MaxRetries",
  attempts: 3,
  errorHistory: [{ error: "Error: no route", timestamp: 1_790_000_000_000 }],
  replayedAt: Option.none(),
  requestId: Option.none(),
  userId: Option.none(),
  ...given,
});

/** A job as a caller would submit it. */
export const work = (
  appId: string,
  given: { readonly type?: string; readonly payload?: unknown; readonly maxAttempts?: number } = {},
) => ({
  appId,
  type: "mail.send",
  payload: { to: "a@example.com" },
  requestId: Option.none<string>(),
  userId: Option.none<string>(),
  ...given,
});

/** Gives dead letters what pg_dump writes and a new server reads: `arrived` as it was, of transactions that this server has not come to. */
export const asFromDump = (appIds: ReadonlyArray<string>) =>
  Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => sql`
      UPDATE job_dlq SET arrived = (pg_current_xact_id()::text::bigint + 1000000)::text::xid8
      WHERE app_id = ANY (${appIds}::uuid[])`,
  );

/** A job that was claimed and dead-lettered, in its tenant's scope. */
export const deadJob = (appId: string, given: Parameters<typeof work>[1] = {}) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    return yield* Client.tenant(appId)(
      Effect.gen(function* () {
        const job = yield* db.jobs.enqueue(work(appId, given));
        return yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: "no route" });
      }),
    );
  });
