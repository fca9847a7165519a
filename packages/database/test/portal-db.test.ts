import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as Redacted from "effect/Redacted";
import { inject, vi } from "vitest";
import * as Client from "../src/client.js";
import * as Migrator from "../src/migrator.js";
import { isFull, rounds } from "./support/campaign.js";
import { urlAs } from "./support/database.js";
import type {} from "./support/global-setup.js";
import { portalDb, startPortalDb } from "./support/portal-db.js";
import { freePort, root, start, withUrl } from "./support/process.js";

// Up to eight processes share two cores with the other test files.
vi.setConfig({ testTimeout: 300_000 });

const names = Migrator.catalogue.map(Migrator.fileName);
const appliedText = `${names.map((name) => `applied ${name}\n`).join("")}the database is up to date\n`;
const nothingText = "nothing to do: the database is up to date\n";
const pendingText = `The database is behind: ${names.join(", ")} pending. Run portal-db migrate.\n`;

const serverUrl = Effect.sync(() => Redacted.make(inject("serverUrl")));
const emptyOn = (server: Redacted.Redacted) => Effect.suspend(() => Databases.empty(server));
const emptyDatabase = Effect.flatMap(serverUrl, emptyOn);

const on =
  (url: Redacted.Redacted) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.provide(effect, [Client.layer({ url, maxConnections: 2 }), Logger.remove(Logger.defaultLogger)]);

const execute = (url: Redacted.Redacted, text: string) =>
  on(url)(
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      return yield* sql.unsafe<Record<string, unknown>>(text);
    }),
  );

/** Comes back when a question to the database has an answer. */
const until = (url: Redacted.Redacted, question: string) =>
  on(url)(
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      for (;;) {
        const rows = yield* sql.unsafe<Record<string, unknown>>(question);
        if (rows.length > 0) return rows;
        yield* Effect.sleep("20 millis");
      }
    }),
  );

const succeeded = (stdout: string) => ({ code: 0, signal: null, stdout, stderr: "" });
const refused = (stderr: string) => ({ code: 1, signal: null, stdout: "", stderr });

/** A login with one right more than none; dropped with the scope. */
const newLogin = (url: Redacted.Redacted, attributes: string) =>
  Effect.gen(function* () {
    const name = `login_${randomUUID().slice(0, 8)}`;
    yield* execute(url, `CREATE ROLE ${name} LOGIN PASSWORD 'secret' ${attributes}`);
    yield* Effect.addFinalizer(() => Effect.orDie(execute(url, `DROP OWNED BY ${name}; DROP ROLE ${name}`)));
    return { name, url: urlAs(url, name, "secret") };
  });

describe("portal-db", () => {
  it.scopedLive("status, check and migrate tell a database that is behind from one that is up to date", () =>
    Effect.gen(function* () {
      const environment = withUrl(yield* emptyDatabase);
      const pending = names.map((name) => `${name}  pending\n`).join("");
      assert.deepStrictEqual(yield* portalDb(["status"], environment), succeeded(pending));
      assert.deepStrictEqual(yield* portalDb(["check"], environment), refused(pendingText));
      assert.deepStrictEqual(yield* portalDb(["migrate"], environment), succeeded(appliedText));
      assert.deepStrictEqual(yield* portalDb(["migrate"], environment), succeeded(nothingText));
      assert.deepStrictEqual(yield* portalDb(["check"], environment), succeeded("the database is up to date\n"));
      const { stdout, ...rest } = yield* portalDb(["status"], environment);
      assert.deepStrictEqual({ ...rest, stdout: "" }, succeeded(""));
      const lines = names.map((name) => `${name}  applied \\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z\n`);
      assert.match(stdout, new RegExp(`^${lines.join("")}$`));
    }),
  );

  it.scopedLive("check names what is pending when only the last migration is", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* on(url)(Migrator.run(Migrator.catalogue.slice(0, -1)));
      const { code, stderr } = yield* portalDb(["check"], withUrl(url));
      assert.strictEqual(code, 1);
      assert.strictEqual(stderr, `The database is behind: ${names.at(-1)} pending. Run portal-db migrate.\n`);
    }),
  );

  it.scopedLive("finds the database by the libpq names; DATABASE_URL wins, an empty one counts as absent", () =>
    Effect.gen(function* () {
      const url = new URL(Redacted.value(yield* emptyDatabase));
      const names = {
        PGHOST: url.hostname,
        PGPORT: url.port,
        PGUSER: url.username,
        PGPASSWORD: decodeURIComponent(url.password),
        PGDATABASE: url.pathname.slice(1),
        PGSSLMODE: "disable",
      };
      assert.deepStrictEqual(yield* portalDb(["migrate"], names), succeeded(appliedText));
      assert.deepStrictEqual(yield* portalDb(["migrate"], { ...names, DATABASE_URL: "" }), succeeded(nothingText));
      const other = withUrl(yield* emptyDatabase);
      assert.deepStrictEqual(yield* portalDb(["check"], { ...names, ...other }), refused(pendingText));
    }),
  );

  it.scopedLive("--version and --help", () =>
    Effect.gen(function* () {
      const { version } = createRequire(import.meta.url)("@parametric-portal/database/package.json");
      assert.strictEqual((yield* portalDb(["--version"], {})).stdout.trim(), version);
      const help = yield* portalDb(["--help"], {});
      assert.deepStrictEqual([help.code, help.stderr], [0, ""]);
      for (const word of ["migrate", "status", "check", "DATABASE_URL", "PGHOST"]) assert.include(help.stdout, word);
      const sub = yield* portalDb(["migrate", "--help"], {});
      assert.strictEqual(sub.code, 0);
      assert.include(sub.stdout, "Safe to run by many processes at once");
    }),
  );

  for (const [args, reason] of [
    [[], "Say what to do: portal-db migrate, portal-db status or portal-db check."],
    [["migrat"], "Invalid subcommand for portal-db - use one of 'migrate', 'status', 'check'"],
    [["migrate", "now"], "Received unknown argument: 'now'"],
    [["status", "--quiet"], "Received unknown argument: '--quiet'"],
  ] as const) {
    it.scopedLive(
      `wrong usage, portal-db ${args.join(" ")}: exit 1, the reason on stderr, the database untouched`,
      () =>
        Effect.gen(function* () {
          const url = yield* emptyDatabase;
          const { code, stderr, stdout } = yield* portalDb(args, withUrl(url));
          assert.deepStrictEqual([code, stdout], [1, ""]);
          assert.include(stderr, reason);
          assert.deepStrictEqual(yield* execute(url, "SELECT FROM pg_tables WHERE schemaname = 'public'"), []);
        }),
    );
  }
});

describe("portal-db says why it cannot, on stderr, and exits with 1", () => {
  /** Every command fails for the reason, and none says the password. */
  const failsWith = (environment: Readonly<Record<string, string>>, reasons: ReadonlyArray<string>, of = ["check"]) =>
    Effect.forEach(of, (name) =>
      Effect.gen(function* () {
        const { code, stderr, stdout } = yield* portalDb([name], environment);
        assert.deepStrictEqual([name, code, stdout], [name, 1, ""]);
        for (const reason of reasons) assert.include(stderr, reason);
        assert.notInclude(stderr, "secret");
      }),
    );

  it.scopedLive("nothing listens on the port", () =>
    Effect.gen(function* () {
      const port = yield* freePort;
      yield* failsWith(
        { DATABASE_URL: `postgres://me:secret@127.0.0.1:${port}/portal` },
        ["The database cannot be reached: connect ECONNREFUSED", "Check DATABASE_URL"],
        ["migrate", "status", "check"],
      );
    }),
  );

  it.scopedLive("the password is wrong", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const login = yield* newLogin(url, "");
      yield* failsWith(withUrl(urlAs(login.url, login.name, "another-secret")), [
        `password authentication failed for user "${login.name}"`,
      ]);
    }),
  );

  it.scopedLive("there is no such database", () =>
    Effect.gen(function* () {
      const url = new URL(Redacted.value(yield* serverUrl));
      url.pathname = "/nowhere";
      yield* failsWith({ DATABASE_URL: url.href }, ['database "nowhere" does not exist']);
    }),
  );

  it.live("the environment is not usable", () =>
    Effect.gen(function* () {
      yield* failsWith({ PGHOST: "127.0.0.1", PGPASSWORD: "secret", PGPORT: "many" }, ["PGPORT", "many"], ["migrate"]);
      yield* failsWith({ PGHOST: "127.0.0.1", PGSSLMODE: "prefer" }, ["PGSSLMODE", "verify-full"]);
      yield* failsWith({ DATABASE_URL: "postgres://me:secret@127.0.0.1:99999999/x" }, ["Invalid URL"]);
    }),
  );

  it.scopedLive("the server is too old", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const login = yield* newLogin(url, "SUPERUSER");
      // A real server that lies to this login about its version.
      yield* execute(
        url,
        `CREATE SCHEMA lies;
         CREATE FUNCTION lies.current_setting(name text) RETURNS text LANGUAGE sql AS $$
           SELECT CASE name WHEN 'server_version' THEN '17.6' ELSE '170006' END $$;
         ALTER ROLE ${login.name} SET search_path = lies, pg_catalog`,
      );
      yield* failsWith(
        withUrl(login.url),
        ["The server is PostgreSQL 17.6; 18 or newer is needed, for uuidv7()"],
        ["migrate"],
      );
    }),
  );

  it.scopedLive("the ledger is of a newer release", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* on(url)(Migrator.run());
      yield* execute(url, "INSERT INTO portal_migrations (id, name) VALUES (999, 'from_the_future')");
      yield* failsWith(withUrl(url), ["the database has 0999_from_the_future", "deploy the newer release"]);
    }),
  );

  it.scopedLive("a migration fails", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* execute(url, "CREATE TABLE apps ()");
      yield* failsWith(
        withUrl(url),
        ['Migration 0001_initial failed and was rolled back: relation "apps" already exists (SQLSTATE 42P07)'],
        ["migrate"],
      );
      assert.deepStrictEqual(yield* portalDb(["check"], withUrl(url)), refused(pendingText));
    }),
  );

  it.scopedLive("rights are missing, with the SQL that an administrator must run", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const login = yield* newLogin(url, "");
      const remedy = [
        `GRANT parametric_tenant, parametric_system TO "${login.name}" WITH INHERIT FALSE, SET TRUE;`,
        `GRANT USAGE, CREATE ON SCHEMA public TO "${login.name}";`,
      ].join("\n");
      yield* failsWith(
        withUrl(login.url),
        ["lacks rights to migrate", "An administrator must run:", remedy],
        ["migrate"],
      );
      yield* execute(url, remedy);
      assert.deepStrictEqual(yield* portalDb(["migrate"], withUrl(login.url)), succeeded(appliedText));
    }),
  );
});

describe("many portal-db at once", () => {
  it.scopedLive("eight on an empty database: exactly one applies, and all exit with 0", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const ended = yield* Effect.replicateEffect(portalDb(["migrate"], withUrl(url)), 8, {
        concurrency: "unbounded",
      });
      assert.deepStrictEqual(
        ended.map(({ code }) => code),
        [0, 0, 0, 0, 0, 0, 0, 0],
      );
      assert.deepStrictEqual(
        ended.map(({ stdout }) => stdout).sort(),
        [appliedText, ...Array.from({ length: 7 }, () => nothingText)].sort(),
      );
      assert.strictEqual((yield* portalDb(["check"], withUrl(url))).code, 0);
    }),
  );

  it.scopedLive.runIf(isFull)(
    "six databases of one server that has no group roles yet: all succeed, round after round",
    () =>
      Effect.gen(function* () {
        // Roles belong to the whole server, so this one is the test's own.
        const { url: server } = yield* Postgres.make({ provider: "embedded" });
        const fresh = "DROP ROLE IF EXISTS parametric_tenant, parametric_system";
        const round = (migrate: (url: Redacted.Redacted) => Effect.Effect<unknown, unknown>) =>
          Effect.gen(function* () {
            const urls = yield* Effect.replicateEffect(emptyOn(server), 6, { concurrency: "unbounded" });
            yield* execute(server, fresh);
            const exits = yield* Effect.forEach(urls, (url) => Effect.exit(migrate(url)), { concurrency: "unbounded" });
            for (const exit of exits) assert.isTrue(exit._tag === "Success", String(exit));
            for (const url of urls) {
              const states = yield* on(url)(Migrator.status());
              assert.isTrue(states.every(({ appliedAt }) => appliedAt !== null));
            }
          }).pipe(Effect.scoped);
        yield* round((url) =>
          Effect.map(portalDb(["migrate"], withUrl(url)), (ended) =>
            assert.deepStrictEqual(ended, succeeded(appliedText)),
          ),
        );
        // In one process the six come closer together.
        for (let i = 0; i < rounds(30, 3); i++) yield* round((url) => on(url)(Migrator.run()));
      }),
  );
});

describe("a portal-db that is stopped", () => {
  const isBlocked = `SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'portal-db' AND wait_event_type = 'Lock'`;

  /** Runs an effect while something keeps 0002 from its lock on apps; `release` lets it go on. */
  const whileBlocked = <A, E, R>(
    url: Redacted.Redacted,
    effect: (release: Effect.Effect<unknown>) => Effect.Effect<A, E, R>,
  ) =>
    on(url)(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        yield* Migrator.run(Migrator.catalogue.slice(0, 1));
        const connection = yield* sql.reserve;
        const send = (text: string) => Effect.orDie(connection.executeUnprepared(text, [], undefined));
        yield* send("BEGIN; LOCK TABLE apps IN ROW EXCLUSIVE MODE");
        return yield* effect(send("COMMIT"));
      }),
    );

  it.scopedLive("by kill -9 in the middle of a migration leaves nothing behind, and the next run succeeds", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* whileBlocked(url, (release) =>
        Effect.gen(function* () {
          const first = yield* startPortalDb(["migrate"], withUrl(url));
          const [blocked] = yield* until(url, isBlocked);
          yield* first.kill("SIGKILL");
          assert.strictEqual((yield* first.ended).signal, "SIGKILL");
          const second = yield* startPortalDb(["migrate"], withUrl(url));
          // The server notices that its client is gone though the statement still waits for its lock.
          yield* until(
            url,
            `SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ${Number(blocked?.pid)})`,
          );
          // The lock of the dead runner is free: the second one is now where the first one was.
          yield* until(url, isBlocked);
          yield* release;
          const { code, stdout } = yield* second.ended;
          assert.deepStrictEqual(
            [code, stdout],
            [
              0,
              `${names
                .slice(1)
                .map((name) => `applied ${name}\n`)
                .join("")}the database is up to date\n`,
            ],
          );
          assert.strictEqual((yield* portalDb(["check"], withUrl(url))).code, 0);
        }),
      );
    }),
  );

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    it.scopedLive(`by ${signal} while it waits for another one ends, says that it waited, and disturbs nothing`, () =>
      Effect.gen(function* () {
        const url = yield* emptyDatabase;
        yield* whileBlocked(url, (release) =>
          Effect.gen(function* () {
            const first = yield* startPortalDb(["migrate"], withUrl(url));
            yield* until(url, isBlocked);
            const second = yield* startPortalDb(["migrate"], withUrl(url));
            yield* second.saysOnStderr("another runner works on this database; waiting for it");
            yield* second.kill(signal);
            const ended = yield* second.ended;
            assert.deepStrictEqual([ended.code, ended.signal, ended.stdout], [1, null, ""]);
            assert.include(ended.stderr, "Stopped before it was done");
            assert.strictEqual((yield* until(url, isBlocked)).length, 1);
            yield* release;
            assert.strictEqual((yield* first.ended).code, 0);
          }),
        );
      }),
    );
  }
});

describe("from the root of the workspace", () => {
  it.scopedLive("portal-db is there, as pnpm exec finds it", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const linked = join(root, "node_modules", ".bin", "portal-db");
      const run = (name: string) =>
        Effect.scoped(Effect.flatMap(start(linked, [name], withUrl(url)), ({ ended }) => ended));
      assert.deepStrictEqual(yield* run("check"), refused(pendingText));
      assert.deepStrictEqual(yield* run("migrate"), succeeded(appliedText));
    }),
  );
});
