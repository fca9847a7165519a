import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Statement from "@effect/sql/Statement";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as Redacted from "effect/Redacted";
import * as Scope from "effect/Scope";
import { inject } from "vitest";
import * as Client from "../src/client.js";
import * as Migrator from "../src/migrator.js";
import { DatabaseService } from "../src/repos.js";
import { classify } from "../src/sql-state.js";
import { urlAs, work } from "./support/database.js";
import type {} from "./support/global-setup.js";

const names = Migrator.catalogue.map(Migrator.fileName);
const nothingApplied = Migrator.catalogue.map(({ id, name }) => ({ id, name, appliedAt: null }));

const emptyDatabase = Effect.suspend(() => Databases.empty(Redacted.make(inject("serverUrl"))));

/** Runs an effect on a client of its own, without the log. */
const on =
  (url: Redacted.Redacted, maxConnections = 4) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.provide(effect, [Client.layer({ url, maxConnections }), Logger.remove(Logger.defaultLogger)]);

/** Runs SQL, one statement or several, and returns the rows of the only one. */
const execute = (url: Redacted.Redacted, text: string) =>
  on(
    url,
    1,
  )(
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      return yield* sql.unsafe<Record<string, unknown>>(text);
    }),
  );

const tablesOf = (url: Redacted.Redacted) =>
  Effect.map(
    execute(
      url,
      "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname !~ '^pg_|^information_' ORDER BY 1",
    ),
    (rows) => rows.map((_) => String(_.name)),
  );
const ourTables = [
  "public.apps",
  "public.job_dlq",
  "public.job_dlq_events",
  "public.job_runners",
  "public.job_shards",
  "public.jobs",
  "public.portal_migrations",
];

/** The id behind those of this release. */
const nextId = Migrator.catalogue.length + 1;
const fileOf = (id: number, name: string) => Migrator.fileName({ id, name });

/** A migration of the test's own, behind those of this release. */
const additional = (name: string, run: Migrator.Migration["run"]): ReadonlyArray<Migrator.Migration> => [
  ...Migrator.catalogue,
  { id: nextId, name, run },
];

/** Everything that holds or awaits an advisory lock in a database. */
const locksOf = (url: Redacted.Redacted) =>
  execute(
    url,
    `SELECT pid, granted FROM pg_locks
     WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
  );

/** The log lines of an effect, and its result. `seen` is told of each line as it is written. */
const recording = (seen: (line: string) => Effect.Effect<unknown>) =>
  Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ message }) => Effect.runSync(seen(String(message)))),
  );

const isWaiting = (line: string) => line.includes("waiting");

describe("run", () => {
  it.scopedLive("brings an empty database to the schema and says what it did; the next run finds nothing to do", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* on(url)(
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* Migrator.status(), nothingApplied);
          assert.deepStrictEqual(yield* tablesOf(url), [], "status changes nothing");
          const applied = yield* Migrator.run();
          assert.deepStrictEqual(applied.map(Migrator.fileName), names);
          for (const { appliedAt } of applied) assert.instanceOf(appliedAt, Date);
          assert.deepStrictEqual(yield* tablesOf(url), ourTables);
          assert.deepStrictEqual(yield* Migrator.status(), applied);
          assert.deepStrictEqual(yield* Migrator.run(), []);
          assert.deepStrictEqual(yield* Migrator.status(), applied);
          assert.deepStrictEqual(yield* locksOf(url), []);
        }),
      );
    }),
  );

  it.scopedLive("applies only what is pending", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* on(url)(
        Effect.gen(function* () {
          yield* Migrator.run(Migrator.catalogue.slice(0, 1));
          assert.deepStrictEqual(yield* tablesOf(url), ["public.apps", "public.jobs", "public.portal_migrations"]);
          const [first] = yield* Migrator.status();
          assert.deepStrictEqual((yield* Migrator.run()).map(Migrator.fileName), names.slice(1));
          assert.deepStrictEqual((yield* Migrator.status())[0], first);
        }),
      );
    }),
  );

  it.scopedLive("works on a client with a single connection", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      assert.deepStrictEqual((yield* on(url, 1)(Migrator.run())).map(Migrator.fileName), names);
    }),
  );

  it.scopedLive("creates in the schema public, whatever the login's search_path", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      // The default search_path begins with "$user": a schema of the login's name would get the tables.
      yield* execute(url, `CREATE SCHEMA postgres; CREATE SCHEMA other`);
      yield* on(url)(Migrator.run(Migrator.catalogue.slice(0, 1)));
      yield* execute(
        url,
        `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = other, public', current_database()); END $$`,
      );
      yield* on(url)(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          yield* Migrator.run(additional("more", Effect.asVoid(sql`CREATE TABLE more ()`)));
          assert.deepStrictEqual(
            yield* sql`SHOW search_path`,
            [{ searchPath: "other, public" }],
            "restored afterwards",
          );
        }),
      );
      assert.deepStrictEqual(yield* tablesOf(url), [...ourTables, "public.more"].sort());
    }),
  );

  it.scopedLive("layer migrates while the application is built", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const application = DatabaseService.layer.pipe(
        Layer.provideMerge(Migrator.layer),
        Layer.provideMerge(Client.layer({ url })),
        Layer.provide(Logger.remove(Logger.defaultLogger)),
      );
      const count = yield* Effect.flatMap(DatabaseService, (db) => Client.system(db.apps.count())).pipe(
        Effect.provide(application),
      );
      assert.strictEqual(count, 0);
    }),
  );
});

describe("a migration that fails", () => {
  const failures: ReadonlyArray<readonly [string, (sql: SqlClient.SqlClient) => Migrator.Migration["run"], string]> = [
    [
      "in a statement",
      (sql) => Effect.asVoid(Effect.zipRight(sql`CREATE TABLE half ()`, sql`SELECT 1 / 0`)),
      "division by zero (SQLSTATE 22012)",
    ],
    [
      "and swallows the error",
      (sql) => Effect.asVoid(Effect.zipRight(sql`CREATE TABLE half ()`, Effect.either(sql`SELECT 1 / 0`))),
      "current transaction is aborted, commands ignored until end of transaction block (SQLSTATE 25P02)",
    ],
    [
      "when it is committed",
      (sql) =>
        Effect.asVoid(
          sql.unsafe(`
            CREATE TABLE half (id int PRIMARY KEY, parent int REFERENCES half DEFERRABLE INITIALLY DEFERRED);
            INSERT INTO half VALUES (1, 2)`),
        ),
      'violates foreign key constraint "half_parent_fkey" (SQLSTATE 23503)',
    ],
    [
      "by a defect",
      (sql) => Effect.zipRight(sql`CREATE TABLE half ()`, Effect.die(new Error("a bug of ours"))),
      "a bug of ours",
    ],
    [
      "inside a transaction of its own",
      (sql) => Effect.asVoid(Effect.zipRight(sql`CREATE TABLE half ()`, sql.withTransaction(sql`SELECT 'x'::int`))),
      'invalid input syntax for type integer: "x" (SQLSTATE 22P02)',
    ],
  ];
  for (const [when, run, problem] of failures) {
    it.scopedLive(`${when}: those before it stand, it leaves nothing, those after it wait, and mended it goes on`, () =>
      Effect.gen(function* () {
        const url = yield* emptyDatabase;
        yield* on(url)(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            const fourth = { id: nextId + 1, name: "after", run: Effect.asVoid(sql`CREATE TABLE after ()`) };
            const error = yield* Effect.flip(Migrator.run([...additional("breaks", run(sql)), fourth]));
            assert.strictEqual(error._tag, "MigrationFailed");
            assert.include(error.message, `Migration ${fileOf(nextId, "breaks")} failed and was rolled back: `);
            assert.include(error.message, problem);
            assert.deepStrictEqual(yield* tablesOf(url), ourTables);
            assert.deepStrictEqual(
              (yield* Migrator.status()).map(({ appliedAt }) => appliedAt !== null),
              names.map(() => true),
            );
            assert.deepStrictEqual(yield* locksOf(url), [], "the lock is held no longer than the run");
            // The connection went back to the pool outside any transaction.
            assert.deepStrictEqual(
              yield* execute(
                url,
                "SELECT count(*)::int AS n FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()",
              ),
              [{ n: 0 }],
            );
            const mended = [...additional("breaks", Effect.asVoid(sql`CREATE TABLE half ()`)), fourth];
            assert.deepStrictEqual((yield* Migrator.run(mended)).map(Migrator.fileName), [
              fileOf(nextId, "breaks"),
              fileOf(nextId + 1, "after"),
            ]);
            assert.deepStrictEqual(
              (yield* tablesOf(url)).filter((_) => !ourTables.includes(_)),
              ["public.after", "public.half"],
            );
          }),
        );
      }),
    );
  }

  it.scopedLive(
    "because its connection is lost: rolled back by the server, the lock is free, and it can run again",
    () =>
      Effect.gen(function* () {
        const url = yield* emptyDatabase;
        yield* on(url)(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            const lost = Effect.asVoid(
              Effect.zipRight(sql`CREATE TABLE half ()`, sql`SELECT pg_terminate_backend(pg_backend_pid())`),
            );
            const error = yield* Effect.flip(Migrator.run(additional("loses", lost)));
            assert.strictEqual(error._tag, "MigrationFailed");
            assert.include(error.message, fileOf(nextId, "loses"));
            assert.include(error.message, "57P01");
            assert.deepStrictEqual(yield* tablesOf(url), ourTables);
            assert.deepStrictEqual(yield* locksOf(url), []);
            assert.deepStrictEqual(yield* Migrator.run(), []);
          }),
        );
      }),
  );
});

describe("a ledger that does not fit", () => {
  const ledgers: ReadonlyArray<readonly [string, string, string]> = [
    [
      "is newer than this release",
      `INSERT INTO portal_migrations (id, name) VALUES (${nextId}, 'from_the_future')`,
      `the database has ${fileOf(nextId, "from_the_future")}, this release ends with ${String(nextId - 1).padStart(4, "0")}; deploy the newer release`,
    ],
    [
      "has an entry of another name",
      "UPDATE portal_migrations SET name = 'renamed' WHERE id = 2",
      "its entry 2 is 0002_renamed where this release has 0002_job_dlq",
    ],
    [
      "has a gap",
      "DELETE FROM portal_migrations WHERE id = 1",
      "its entry 1 is 0002_job_dlq where this release has 0001_initial",
    ],
    [
      "lacks a column",
      "ALTER TABLE portal_migrations DROP COLUMN applied_at",
      "its columns are not id, name, applied_at",
    ],
    [
      "has a column of another type",
      "ALTER TABLE portal_migrations ALTER id TYPE text",
      "its columns are not id, name, applied_at",
    ],
  ];
  for (const [name, change, problem] of ledgers) {
    it.scopedLive(`because it ${name} stops run and status before they change anything`, () =>
      Effect.gen(function* () {
        const url = yield* emptyDatabase;
        yield* on(url)(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            yield* Migrator.run();
            yield* sql.unsafe(change);
            const ledger = yield* sql`SELECT * FROM portal_migrations`;
            for (const effect of [Effect.asVoid(Migrator.run()), Effect.asVoid(Migrator.status())]) {
              const error = yield* Effect.flip(effect);
              assert.strictEqual(error._tag, "LedgerMismatch");
              assert.include(error.message, problem);
              assert.include(error.message, "Nothing was changed");
            }
            assert.deepStrictEqual(yield* sql`SELECT * FROM portal_migrations`, ledger);
            assert.deepStrictEqual(yield* tablesOf(url), ourTables);
            assert.deepStrictEqual(yield* locksOf(url), []);
          }),
        );
      }),
    );
  }

  it.scopedLive("because a migration was renamed in this release stops it too", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      yield* on(url)(
        Effect.gen(function* () {
          yield* Migrator.run();
          const renamed = Migrator.catalogue.map((_) => (_.id === 1 ? { ..._, name: "base" } : _));
          const error = yield* Effect.flip(Migrator.run(renamed));
          assert.strictEqual(error._tag, "LedgerMismatch");
          assert.include(error.message, "its entry 1 is 0001_initial where this release has 0001_base");
        }),
      );
    }),
  );
});

describe("a runner while another one works", () => {
  /** A runner inside its last migration, until `release` is told. */
  const working = (url: Redacted.Redacted) =>
    Effect.gen(function* () {
      const inside = yield* Deferred.make<void>();
      const release = yield* Deferred.make<void>();
      const run = Effect.zipRight(Deferred.succeed(inside, undefined), Deferred.await(release));
      const known = additional("slow", run);
      const fiber = yield* Effect.fork(on(url)(Migrator.run(known)));
      yield* Deferred.await(inside);
      return { known, fiber, release };
    });

  /** Starts a runner and comes back when it has said that it waits and has asked for the lock five times. */
  const waiting = (url: Redacted.Redacted, known: ReadonlyArray<Migrator.Migration>, maxConnections = 4) =>
    Effect.gen(function* () {
      const asked = yield* Deferred.make<void>();
      const waits = yield* Deferred.make<void>();
      let attempts = 0;
      const fiber = yield* Migrator.run(known).pipe(
        Statement.withTransformer((statement) => {
          if (statement.compile()[0].includes("pg_try_advisory_lock")) attempts += 1;
          return attempts === 5 ? Effect.as(Deferred.succeed(asked, undefined), statement) : Effect.succeed(statement);
        }),
        on(url, maxConnections),
        Effect.provide(recording((line) => (isWaiting(line) ? Deferred.succeed(waits, undefined) : Effect.void))),
        Effect.fork,
      );
      const both = Effect.zip(Deferred.await(waits), Deferred.await(asked));
      yield* Effect.raceFirst(both, Effect.zipRight(Fiber.join(fiber), Effect.dieMessage("it did not wait")));
      return fiber;
    });

  it.scopedLive("waits, and then finds nothing to do", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const first = yield* working(url);
      const second = yield* waiting(url, first.known);
      assert.deepStrictEqual((yield* on(url)(Migrator.status(first.known))).at(-1)?.appliedAt, null);
      yield* Deferred.succeed(first.release, undefined);
      assert.deepStrictEqual((yield* Fiber.join(first.fiber)).map(Migrator.fileName), [
        ...names,
        fileOf(nextId, "slow"),
      ]);
      assert.deepStrictEqual(yield* Fiber.join(second), []);
      assert.deepStrictEqual(yield* locksOf(url), []);
    }),
  );

  it.scopedLive("waits longer than the login's statement_timeout and lock_timeout", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const first = yield* working(url);
      const hasty = new URL(Redacted.value(url));
      hasty.searchParams.set("options", "-c statement_timeout=50 -c lock_timeout=50");
      const second = yield* waiting(Redacted.make(hasty.href), first.known);
      yield* Deferred.succeed(first.release, undefined);
      assert.deepStrictEqual(yield* Fiber.join(second), []);
    }),
  );

  it.scopedLive("takes over when that one fails", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const first = yield* working(url);
      const second = yield* waiting(url, Migrator.catalogue);
      yield* Deferred.die(first.release, new Error("stopped"));
      assert.strictEqual((yield* Effect.flip(Fiber.join(first.fiber)))._tag, "MigrationFailed");
      assert.deepStrictEqual(yield* Fiber.join(second), []);
    }),
  );

  for (const maxConnections of [1, 4]) {
    it.scopedLive(`and that is interrupted releases nothing, at once, with ${maxConnections} connections`, () =>
      Effect.gen(function* () {
        const url = yield* emptyDatabase;
        const first = yield* working(url);
        const held = yield* locksOf(url);
        const second = yield* waiting(url, first.known, maxConnections);
        yield* Fiber.interrupt(second);
        assert.deepStrictEqual(yield* locksOf(url), held);
        assert.deepStrictEqual(
          held.map(({ granted }) => granted),
          [true],
        );
        yield* Deferred.succeed(first.release, undefined);
        yield* Fiber.join(first.fiber);
        assert.deepStrictEqual(yield* locksOf(url), []);
      }),
    );
  }

  it.scopedLive("an interrupted migration is finished first, and its lock released", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const first = yield* working(url);
      const interruption = yield* Effect.fork(Fiber.interrupt(first.fiber));
      yield* Deferred.succeed(first.release, undefined);
      yield* Fiber.join(interruption);
      assert.notStrictEqual((yield* on(url)(Migrator.status(first.known))).at(-1)?.appliedAt, null);
      assert.deepStrictEqual(yield* locksOf(url), []);
    }),
  );

  it.scopedLive("counter-test: without the lock it does not wait, and both apply the same migration", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const first = yield* working(url);
      const unlocked = Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        return yield* Migrator.run(additional("slow", Effect.void)).pipe(
          Statement.withTransformer((statement) => {
            const isLock = statement.compile()[0].includes("pg_try_advisory_lock");
            return Effect.succeed(isLock ? sql`SELECT true AS held` : statement);
          }),
        );
      });
      const applied = yield* on(url)(unlocked);
      assert.deepStrictEqual(applied.map(Migrator.fileName), [fileOf(nextId, "slow")]);
      yield* Deferred.succeed(first.release, undefined);
      const error = yield* Effect.flip(Fiber.join(first.fiber));
      assert.include(error.message, 'violates unique constraint "portal_migrations_pkey"');
    }),
  );

  it.scopedLive("eight of them on an empty database: exactly one applies", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const results = yield* Effect.replicateEffect(on(url)(Migrator.run()), 8, { concurrency: "unbounded" });
      assert.deepStrictEqual(results.map(({ length }) => length).sort(), [0, 0, 0, 0, 0, 0, 0, names.length]);
      assert.deepStrictEqual(yield* locksOf(url), []);
    }),
  );
});

describe("a server that is too old", () => {
  it.scopedLive("is refused by its version, and nothing is changed", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      // A real server that lies to this login: its own current_setting() stands in front of the true one.
      const login = `old_${randomUUID().slice(0, 8)}`;
      yield* execute(
        url,
        `CREATE SCHEMA lies;
         CREATE FUNCTION lies.current_setting(name text) RETURNS text LANGUAGE sql AS $$
           SELECT CASE name WHEN 'server_version' THEN '17.6' WHEN 'server_version_num' THEN '170006'
             ELSE pg_catalog.current_setting(name) END $$;
         CREATE ROLE ${login} LOGIN SUPERUSER PASSWORD 'secret';
         ALTER ROLE ${login} SET search_path = lies, pg_catalog, public`,
      );
      yield* Effect.addFinalizer(() => Effect.orDie(execute(url, `DROP OWNED BY ${login}; DROP ROLE ${login}`)));
      yield* on(urlAs(url, login, "secret"))(
        Effect.gen(function* () {
          for (const effect of [Effect.asVoid(Migrator.run()), Effect.asVoid(Migrator.status())]) {
            const error = yield* Effect.flip(effect);
            assert.strictEqual(error._tag, "ServerTooOld");
            assert.include(error.message, "The server is PostgreSQL 17.6; 18 or newer is needed");
          }
        }),
      );
      assert.deepStrictEqual(yield* tablesOf(url), []);
      // The same login without the lie may migrate.
      yield* execute(url, `ALTER ROLE ${login} RESET search_path`);
      assert.strictEqual((yield* on(urlAs(url, login, "secret"))(Migrator.run())).length, names.length);
    }),
  );
});

/** A server of this file's own: the group roles belong to the whole server, and here they may be missing. */
class OwnServer extends Context.Tag("OwnServer")<OwnServer, Redacted.Redacted>() {}
const ownServer = Layer.scoped(
  OwnServer,
  Effect.map(Postgres.make({ provider: "embedded" }), ({ url }) => url),
);

layer(ownServer, { excludeTestServices: true })("a login's rights", (it) => {
  interface Login {
    readonly attributes: string;
    /** SQL of an administrator before the migration; `$LOGIN` is the login. */
    readonly given: string;
  }

  /** A fresh database, no group roles, and a login that is no superuser. */
  const prepared = ({ attributes, given }: Login) =>
    Effect.gen(function* () {
      const server = yield* OwnServer;
      // A login whose name needs quoting, so that the remedy must quote it.
      const name = `Deploy "${randomUUID().slice(0, 8)}"`;
      const login = `"${name.replaceAll('"', '""')}"`;
      yield* Effect.addFinalizer(() =>
        Effect.orDie(
          execute(server, `DROP ROLE IF EXISTS ${login}; DROP ROLE IF EXISTS parametric_tenant, parametric_system`),
        ),
      );
      const url = yield* Databases.empty(server);
      yield* execute(url, `CREATE ROLE ${login} LOGIN PASSWORD 'secret' ${attributes}`);
      yield* execute(url, given.replaceAll("$LOGIN", () => login) || "SELECT 1");
      return { url, login, name, asLogin: urlAs(url, encodeURIComponent(name), "secret") };
    });

  /** What the product is for, done by the login that migrated and owns the tables. */
  const works = (asLogin: Redacted.Redacted) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [mine, theirs] = [randomUUID(), randomUUID()];
      yield* Client.system(sql`INSERT INTO apps (id, name) VALUES (${mine}, 'mine'), (${theirs}, 'theirs')`);
      const dead = yield* Client.tenant(mine)(
        Effect.flatMap(db.jobs.enqueue(work(mine)), ({ id }) =>
          db.jobs.deadLetter({ id, reason: "MaxRetries", error: "no route" }),
        ),
      );
      assert.strictEqual((yield* Client.tenant(mine)(db.jobDlq.listPending()))[0]?.id, dead.id);
      assert.strictEqual(yield* Client.tenant(theirs)(db.jobDlq.count()), 0);
      assert.strictEqual(yield* Client.tenant(mine)(db.jobDlq.purge()), 0);
      // Forced row-level security holds for the owner as well.
      assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS count FROM job_dlq`, [{ count: 0 }]);
    }).pipe(Effect.provide(DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url: asLogin })))));

  const roles = "CREATE ROLE parametric_tenant NOLOGIN; CREATE ROLE parametric_system NOLOGIN;";
  const settable = "GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;";
  const schema = "GRANT CREATE ON SCHEMA public TO $LOGIN;";
  const closed = "REVOKE ALL ON SCHEMA public FROM PUBLIC;";

  const sufficient: ReadonlyArray<readonly [string, Login]> = [
    ["CREATEROLE and CREATE on the schema", { attributes: "CREATEROLE", given: schema }],
    ["CREATEROLE, without inheriting", { attributes: "CREATEROLE NOINHERIT", given: schema }],
    ["roles that it may set, and CREATE on the schema", { attributes: "", given: roles + settable + schema }],
    [
      "the database, and roles that it may set",
      {
        attributes: "",
        given: `${roles}${settable}${closed} DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO %s', current_database(), $x$$LOGIN$x$); END $$`,
      },
    ],
  ];
  for (const [name, login] of sufficient) {
    it.scoped(`${name}: it migrates, and the scopes work for it`, () =>
      Effect.gen(function* () {
        const { asLogin } = yield* prepared(login);
        assert.deepStrictEqual((yield* on(asLogin)(Migrator.run())).map(Migrator.fileName), names);
        yield* works(asLogin);
        assert.deepStrictEqual(yield* on(asLogin)(Migrator.run()), []);
      }),
    );
  }

  const create = (...names: ReadonlyArray<string>) => names.map((_) => `CREATE ROLE ${_} NOLOGIN;`);
  const insufficient: ReadonlyArray<readonly [string, Login, ReadonlyArray<string>]> = [
    [
      "nothing at all",
      { attributes: "", given: "" },
      [
        ...create("parametric_tenant", "parametric_system"),
        "GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;",
        "GRANT USAGE, CREATE ON SCHEMA public TO $LOGIN;",
      ],
    ],
    [
      "no CREATEROLE, and the roles do not exist",
      { attributes: "", given: schema },
      [
        ...create("parametric_tenant", "parametric_system"),
        "GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;",
      ],
    ],
    [
      "no CREATEROLE, and one of the roles does not exist",
      {
        attributes: "",
        given: `CREATE ROLE parametric_system; GRANT parametric_system TO $LOGIN WITH INHERIT FALSE; ${schema}`,
      },
      [...create("parametric_tenant"), "GRANT parametric_tenant TO $LOGIN WITH INHERIT FALSE, SET TRUE;"],
    ],
    [
      "roles that exist and that it may not set",
      { attributes: "", given: roles + schema },
      ["GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;"],
    ],
    [
      "membership that does not allow SET",
      {
        attributes: "",
        given: `${roles} GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT TRUE, SET FALSE; ${schema}`,
      },
      ["GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;"],
    ],
    [
      "CREATEROLE, but the roles are somebody else's",
      { attributes: "CREATEROLE", given: roles + schema },
      ["GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;"],
    ],
    [
      "CREATEROLE, one role somebody else's and the other one missing",
      { attributes: "CREATEROLE", given: `CREATE ROLE parametric_tenant; ${schema}` },
      ["GRANT parametric_tenant TO $LOGIN WITH INHERIT FALSE, SET TRUE;"],
    ],
    [
      "no CREATE on the schema",
      { attributes: "", given: roles + settable },
      ["GRANT USAGE, CREATE ON SCHEMA public TO $LOGIN;"],
    ],
    [
      "CREATE on a schema that is closed to everybody",
      { attributes: "", given: roles + settable + schema + closed },
      [
        "GRANT USAGE, CREATE ON SCHEMA public TO $LOGIN;",
        "GRANT USAGE ON SCHEMA public TO parametric_tenant, parametric_system;",
      ],
    ],
    [
      "CREATEROLE and a closed schema that it may not open to the roles",
      { attributes: "CREATEROLE", given: `${closed} GRANT USAGE, CREATE ON SCHEMA public TO $LOGIN` },
      [
        ...create("parametric_tenant", "parametric_system"),
        "GRANT parametric_tenant, parametric_system TO $LOGIN WITH INHERIT FALSE, SET TRUE;",
        "GRANT USAGE ON SCHEMA public TO parametric_tenant, parametric_system;",
      ],
    ],
  ];
  for (const [name, given, remedy] of insufficient) {
    it.scoped(`${name}: refused with the SQL that an administrator runs, and with that it migrates`, () =>
      Effect.gen(function* () {
        const { asLogin, login, name: plain, url } = yield* prepared(given);
        const error = yield* Effect.flip(on(asLogin)(Migrator.run()));
        if (error._tag !== "RoleRightsMissing") return assert.fail(error.message);
        assert.strictEqual(error.login, plain);
        assert.strictEqual(
          error.remedy,
          remedy.join("\n").replaceAll("$LOGIN", () => login),
        );
        assert.include(error.message, error.remedy);
        assert.include(error.message, "Nothing was changed");
        assert.isAbove(error.missing.length, 0);
        assert.deepStrictEqual(yield* tablesOf(url), []);
        assert.deepStrictEqual(yield* locksOf(url), []);
        yield* execute(url, error.remedy);
        assert.deepStrictEqual((yield* on(asLogin)(Migrator.run())).map(Migrator.fileName), names);
        yield* works(asLogin);
      }),
    );
  }

  /** Runs an effect in one database while another one's transaction has created a group role; then that one ends. */
  const besideCreator = <A, E>(role: string, end: string, effect: (url: Redacted.Redacted) => Effect.Effect<A, E>) =>
    Effect.gen(function* () {
      const server = yield* OwnServer;
      yield* Effect.addFinalizer(() =>
        Effect.orDie(execute(server, "DROP ROLE IF EXISTS parametric_tenant, parametric_system")),
      );
      const url = yield* Databases.empty(server);
      return yield* on(server)(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const creator = yield* sql.reserve;
          const send = (text: string) => creator.executeUnprepared(text, [], undefined);
          yield* send(`BEGIN; CREATE ROLE ${role} NOLOGIN`);
          const fiber = yield* Effect.fork(Effect.exit(effect(url)));
          // It is at the role's name when it waits for the creator's transaction.
          const atTheName = sql`SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid'`;
          while ((yield* atTheName).length === 0) yield* Effect.sleep("10 millis");
          yield* send(end);
          return yield* Fiber.join(fiber);
        }),
      );
    });

  for (const role of ["parametric_tenant", "parametric_system"]) {
    for (const end of ["COMMIT", "ROLLBACK"]) {
      it.scoped(`a database that creates ${role} at the same moment and ends with ${end} is no obstacle`, () =>
        Effect.gen(function* () {
          const exit = yield* besideCreator(role, end, (url) => on(url)(Migrator.run()));
          assert.isTrue(Exit.isSuccess(exit), String(exit));
        }),
      );
    }
    it.scoped(`counter-test: a plain CREATE ROLE ${role} loses that race`, () =>
      Effect.gen(function* () {
        const exit = yield* besideCreator(role, "COMMIT", (url) => execute(url, `CREATE ROLE ${role} NOLOGIN`));
        const error = Exit.isFailure(exit) && exit.cause._tag === "Fail" ? exit.cause.error : undefined;
        assert.strictEqual(error && classify(error), "Unique");
      }),
    );
  }

  for (const [name, closing, opening] of [
    ["may not read the ledger", "SELECT 1", []],
    ["may not use the schema", "REVOKE ALL ON SCHEMA public FROM PUBLIC", ["GRANT USAGE ON SCHEMA public TO $LOGIN;"]],
  ] as const) {
    it.scoped(`status for a login that ${name}: refused with the SQL, and with that it answers`, () =>
      Effect.gen(function* () {
        const { asLogin, login, url } = yield* prepared({ attributes: "", given: "" });
        yield* on(url)(Migrator.run());
        yield* execute(url, closing);
        const error = yield* Effect.flip(on(asLogin)(Migrator.status()));
        if (error._tag !== "RoleRightsMissing") return assert.fail(error.message);
        const remedy = [...opening, "GRANT SELECT ON TABLE public.portal_migrations TO $LOGIN;"];
        assert.strictEqual(
          error.remedy,
          remedy.join("\n").replaceAll("$LOGIN", () => login),
        );
        yield* execute(url, error.remedy);
        const states = yield* on(asLogin)(Migrator.status());
        assert.isTrue(states.every(({ appliedAt }) => appliedAt !== null));
      }),
    );
  }
});

describe("a database that cannot be reached", () => {
  /** Builds a client, lets something happen to its server, and then runs. Its pool has no connection left by then. */
  const afterwards = (url: Redacted.Redacted, happens: Effect.Effect<unknown, unknown>) =>
    on(url)(
      Effect.gen(function* () {
        yield* happens;
        for (const effect of [Effect.asVoid(Migrator.run()), Effect.asVoid(Migrator.status())]) {
          const error = yield* Effect.flip(effect);
          assert.strictEqual(error._tag, "DatabaseUnreachable");
          assert.include(error.message, "Check DATABASE_URL");
        }
        return yield* Effect.flip(Migrator.run());
      }),
    );

  it.scopedLive("because its server has stopped", () =>
    Effect.gen(function* () {
      const life = yield* Scope.make();
      const { url } = yield* Scope.extend(Postgres.make({ provider: "embedded" }), life);
      const error = yield* afterwards(url, Scope.close(life, Exit.void));
      assert.include(error.message, "ECONNREFUSED");
    }),
  );

  it.scopedLive("because the password is no longer the login's", () =>
    Effect.gen(function* () {
      const url = yield* emptyDatabase;
      const login = `login_${randomUUID().slice(0, 8)}`;
      yield* execute(url, `CREATE ROLE ${login} LOGIN PASSWORD 'secret'`);
      yield* Effect.addFinalizer(() => Effect.orDie(execute(url, `DROP ROLE ${login}`)));
      const error = yield* afterwards(
        urlAs(url, login, "secret"),
        execute(
          url,
          `ALTER ROLE ${login} PASSWORD 'another';
           SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '${login}'`,
        ),
      );
      assert.include(error.message, "password authentication failed");
      assert.notInclude(error.message, "secret");
    }),
  );

  it.scopedLive("because the database no longer exists", () =>
    Effect.gen(function* () {
      const life = yield* Scope.make();
      const url = yield* Scope.extend(emptyDatabase, life);
      const error = yield* afterwards(url, Scope.close(life, Exit.void));
      assert.include(error.message, "does not exist");
    }),
  );
});
