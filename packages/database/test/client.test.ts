import { randomUUID } from "node:crypto";
import { chmod, chown, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import { assert, describe, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as ConfigProvider from "effect/ConfigProvider";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { classify, databaseError } from "../src/sql-state.js";
import { selfSigned } from "./support/certificate.js";
import { newTenant, TestDatabase, TestUrl, urlAs, work } from "./support/database.js";
import { freePort } from "./support/process.js";
import * as Proxy from "./support/proxy.js";
import * as Server from "./support/server.js";
import * as Wire from "./support/wire.js";

type Environment = Readonly<Record<string, string>>;

const inEnvironment = (environment: Environment) =>
  Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(environment))));

/** A URL as the libpq names say it. */
const asNames = (url: Redacted.Redacted): Environment => {
  const { hostname, password, pathname, port, username } = new URL(Redacted.value(url));
  return {
    PGHOST: hostname,
    PGPORT: port || "5432",
    PGUSER: decodeURIComponent(username),
    PGPASSWORD: decodeURIComponent(password),
    PGDATABASE: pathname.slice(1),
  };
};

const connectedTo = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [row] = yield* sql`SELECT current_database() AS database`;
  return row?.database;
});

/** Builds `layerConfig` in an environment, and what is asked over it. */
const through = <A, E>(
  environment: Environment,
  ask: Effect.Effect<A, E, SqlClient.SqlClient>,
  options: Parameters<typeof Client.layerConfig>[0] = {},
) =>
  ask.pipe(
    Effect.provide(Client.layerConfig({ maxConnections: 1, connectTimeout: "60 seconds", ...options })),
    inEnvironment(environment),
  );

const settings = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [row] = yield* sql`
    SELECT pg_backend_pid() AS pid, current_setting('role') AS role, COALESCE(current_setting('app.current_tenant', true), '') AS tenant`;
  return { ...row };
});

layer(TestDatabase, { excludeTestServices: true })("client", (it) => {
  describe("layerConfig", () => {
    it.effect("connects by DATABASE_URL, and by the libpq names when there is none or an empty one", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const names = asNames(url);
        for (const environment of [
          { DATABASE_URL: Redacted.value(url) },
          names,
          { DATABASE_URL: "", ...names },
          { DATABASE_URL: " \n", ...names },
          { ...names, PGSSLMODE: "" },
          { ...names, PGSSLMODE: "disable" },
        ]) {
          assert.strictEqual(
            yield* through(environment, connectedTo),
            names.PGDATABASE,
            JSON.stringify(Object.keys(environment)),
          );
        }
      }),
    );

    it.effect("does not look at the libpq names when there is a DATABASE_URL", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const environment = {
          DATABASE_URL: Redacted.value(url),
          PGHOST: "nowhere.invalid",
          PGPORT: "nonsense",
          PGDATABASE: "x",
        };
        assert.strictEqual(yield* through(environment, connectedTo), asNames(url).PGDATABASE);
      }),
    );

    it.effect("counts an empty name as absent, so that libpq's default holds", () =>
      Effect.gen(function* () {
        const empty = {
          PGHOST: "",
          PGPORT: "",
          PGUSER: "",
          PGPASSWORD: "",
          PGDATABASE: "",
          PGSSLMODE: "",
          DATABASE_URL: "",
        };
        const nothing = yield* inEnvironment({})(Client.config);
        assert.deepStrictEqual(yield* inEnvironment(empty)(Client.config), nothing);
        assert.deepStrictEqual(
          Object.values(nothing).filter((_) => _ !== undefined),
          [],
        );
      }),
    );

    for (const port of ["nonsense", "0", "65536", "54.32", "-1", "1e3x"]) {
      it.effect(`refuses the PGPORT ${port} before it connects`, () =>
        Effect.gen(function* () {
          const error = yield* Effect.flip(through({ PGPORT: port }, Effect.void));
          assert.strictEqual(
            String(error),
            `(Invalid data at PGPORT: "is ${JSON.stringify(port)}; it must be a whole number from 1 to 65535")`,
          );
        }),
      );
    }

    for (const mode of ["allow", "prefer", "verify-ca", "nonsense"]) {
      for (const where of ["the libpq names", "DATABASE_URL"]) {
        it.effect(`refuses the PGSSLMODE ${mode}, beside ${where}, and says which there are`, () =>
          Effect.gen(function* () {
            const address = where === "DATABASE_URL" ? { DATABASE_URL: "postgres://nowhere.invalid/x" } : {};
            const error = yield* Effect.flip(through({ ...address, PGSSLMODE: mode }, Effect.void));
            assert.strictEqual(
              String(error),
              `(Invalid data at PGSSLMODE: "is ${JSON.stringify(mode)}. Use disable, require (encrypted, certificate not verified) or verify-full; the driver cannot negotiate the other modes")`,
            );
          }),
        );
      }
    }
  });

  describe("TLS", () => {
    it.effect("is what PGSSLMODE, the URL and the options say, on a server that has it", () =>
      Effect.gen(function* () {
        const own = yield* Server.make;
        yield* own.start();
        yield* own.stop;
        const { certificate, key } = selfSigned("localhost");
        yield* Effect.promise(async () => {
          const { gid, uid } = await stat(own.dataDirectory);
          for (const [name, text] of [
            ["server.crt", certificate],
            ["server.key", key],
          ] as const) {
            const path = join(own.dataDirectory, name);
            await writeFile(path, text, { mode: 0o600 });
            await chown(path, uid, gid);
            await chmod(path, 0o600);
          }
        });
        const url = yield* own.start({ ssl: "on" });
        const names = { ...asNames(url), PGHOST: "localhost" };
        const address = Redacted.value(url).replace("127.0.0.1", "localhost");
        const isEncrypted = Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const [row] = yield* sql`SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`;
          return row?.ssl;
        });
        const outcome = (environment: Environment, options: Parameters<typeof Client.layerConfig>[0] = {}) =>
          through(environment, isEncrypted, options).pipe(
            Effect.catchTag("SqlError", (error) => Effect.succeed(databaseError(error).code)),
          );
        const untrusted = "DEPTH_ZERO_SELF_SIGNED_CERT";
        const otherName = "ERR_TLS_CERT_ALTNAME_INVALID";
        const trusted = { ssl: { ca: certificate } };
        for (const [environment, options, expected] of [
          [names, {}, false],
          [{ ...names, PGSSLMODE: "disable" }, {}, false],
          [{ ...names, PGSSLMODE: "require" }, {}, true],
          [{ ...names, PGSSLMODE: "verify-full" }, {}, untrusted],
          // What the code says holds beside the names, and before PGSSLMODE: it alone can hold a certificate.
          [names, { ssl: true }, untrusted],
          [names, trusted, true],
          [names, { ssl: { ...trusted.ssl, servername: "elsewhere.example" } }, true],
          [{ ...names, PGHOST: "127.0.0.1" }, { ssl: { ...trusted.ssl, servername: "elsewhere.example" } }, otherName],
          [{ ...names, PGSSLMODE: "verify-full" }, trusted, true],
          [{ ...names, PGSSLMODE: "require" }, { ssl: true }, untrusted],
          [{ ...names, PGSSLMODE: "verify-full" }, { ssl: false }, false],
          [{ DATABASE_URL: address }, {}, false],
          [{ DATABASE_URL: address, PGSSLMODE: "require" }, {}, true],
          [{ DATABASE_URL: address, PGSSLMODE: "verify-full" }, {}, untrusted],
          [{ DATABASE_URL: address }, trusted, true],
          [{ DATABASE_URL: `${address}?sslmode=disable`, PGSSLMODE: "verify-full" }, {}, false],
          [{ DATABASE_URL: `${address}?sslmode=no-verify` }, {}, true],
          [{ DATABASE_URL: `${address}?sslmode=verify-full`, PGSSLMODE: "nonsense" }, {}, untrusted],
        ] as const) {
          const shown = JSON.stringify({ ...environment, PGPASSWORD: "", DATABASE_URL: "", options });
          assert.strictEqual(yield* outcome(environment, options), expected, shown);
        }
      }).pipe(Effect.scoped),
    );

    it.effect("is asked for and refused by a server without it: an error, never a connection in the clear", () =>
      Effect.gen(function* () {
        const own = yield* Server.make;
        const names = asNames(yield* own.start());
        for (const [environment, options] of [
          [{ ...names, PGSSLMODE: "require" }, {}],
          [{ ...names, PGSSLMODE: "verify-full" }, {}],
          [names, { ssl: true }],
          [names, { ssl: { rejectUnauthorized: false } }],
        ] as const) {
          const error = yield* Effect.flip(through(environment, connectedTo, options));
          assert.strictEqual(error._tag, "SqlError");
          assert.include(Cause.pretty(Cause.fail(error), { renderErrorCause: true }), "does not support SSL");
        }
      }).pipe(Effect.scoped),
    );
  });

  describe("the password", () => {
    it.effect("is in no error, log line or printed value, whatever goes wrong", () =>
      Effect.gen(function* () {
        const canary = "canary-7f3a";
        const url = new URL(Redacted.value(yield* TestUrl));
        const there = `${url.hostname}:${url.port}`;
        const database = url.pathname.slice(1);
        const closed = yield* freePort;
        const silent = yield* Wire.make(yield* TestUrl);
        silent.mute(true);
        const failing: ReadonlyArray<Environment> = [
          { DATABASE_URL: `postgres://postgres:${canary}@${there}/${database}` },
          { DATABASE_URL: `postgres://nobody:${canary}@${there}/${database}` },
          { DATABASE_URL: `postgres://postgres:${canary}@127.0.0.1:${closed}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}@localhost:${closed}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}@127.0.0.1:${silent.port}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}@nowhere.invalid/x` },
          { DATABASE_URL: `postgres://postgres:${canary}@${there}/x?sslmode=verify-full` },
          // Addresses that are none, mostly because something in the password was not escaped.
          { DATABASE_URL: `postgres://postgres:${canary}@127.0.0.1:port/x` },
          { DATABASE_URL: `postgres://postgres:${canary}@[::1/x` },
          { DATABASE_URL: `postgres://postgres:${canary}#x@${there}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}/x@${there}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}?x@${there}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}%zz@${there}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}%ff@${there}/x` },
          { DATABASE_URL: `postgres://postgres:${canary} x@${there}/x` },
          { DATABASE_URL: `postgres://postgres:${canary}@/x:${closed}` },
          { PGHOST: url.hostname, PGPORT: url.port, PGUSER: "postgres", PGPASSWORD: canary },
          { PGHOST: "127.0.0.1", PGPORT: String(closed), PGPASSWORD: canary },
          { PGHOST: "127.0.0.1", PGPORT: "nonsense", PGPASSWORD: canary },
          { PGHOST: "127.0.0.1", PGSSLMODE: "nonsense", PGPASSWORD: canary },
        ];
        // With a role the address is taken apart here, without one by the driver.
        const roles = [undefined, "parametric_system"] as const;
        const ways = failing.flatMap((environment) => roles.map((role) => ({ environment, role })));
        for (const [i, { environment, role }] of ways.entries()) {
          const exit = yield* Effect.exit(through(environment, connectedTo, { role, connectTimeout: "500 millis" }));
          assert.isTrue(Exit.isFailure(exit), `address ${i} works`);
          const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty;
          const logged: Array<string> = [];
          const log = (logger: Logger.Logger<unknown, string>) =>
            Effect.logError("failed", cause).pipe(
              Effect.provide(
                Logger.replace(
                  Logger.defaultLogger,
                  Logger.map(logger, (line) => void logged.push(line)),
                ),
              ),
            );
          yield* log(Logger.jsonLogger);
          yield* log(Logger.logfmtLogger);
          const printed = [
            ...logged,
            String(exit),
            JSON.stringify(exit),
            Cause.pretty(cause, { renderErrorCause: true }),
            inspect(exit, { depth: Number.POSITIVE_INFINITY, showHidden: true }),
          ];
          for (const text of printed) assert.isFalse(text.includes(canary), `address ${i} shows the password`);
          // Not a defect: a typed error says what to mend.
          assert.isTrue(Cause.isFailure(cause), `address ${i} dies`);
        }
      }).pipe(Effect.scoped),
    );

    it.effect("is not in what the client and its options print", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const { PGPASSWORD = "" } = asNames(url);
        assert.isAbove(PGPASSWORD.length, 0);
        const options = yield* inEnvironment({ DATABASE_URL: Redacted.value(url) })(Client.config);
        const named = yield* inEnvironment(asNames(url))(Client.config);
        const client = yield* SqlClient.SqlClient;
        for (const value of [options, named, client]) {
          assert.notInclude(inspect(value, { depth: 6 }), PGPASSWORD);
          assert.notInclude(JSON.stringify(value) ?? "", PGPASSWORD);
        }
      }),
    );
  });

  describe("a connection", () => {
    it.effect("answers health outside every scope, for any login", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const name = `login_${randomUUID().slice(0, 8)}`;
        yield* Effect.acquireRelease(sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD 'secret'`), () =>
          Effect.orDie(sql.unsafe(`DROP ROLE ${name}`)),
        );
        const url = urlAs(yield* TestUrl, name, "secret");
        const health = yield* Client.health.pipe(Effect.provide(Client.layer({ url, maxConnections: 1 })));
        assert.match(health.serverVersion, /^18\./);
        assert.isFalse(health.isReadOnly);
        const readOnly = yield* sql.withTransaction(Effect.zipRight(sql`SET TRANSACTION READ ONLY`, Client.health));
        assert.isTrue(readOnly.isReadOnly);
      }).pipe(Effect.scoped),
    );

    it.effect(
      "gives json and jsonb as their text, unparsed and with their keys, and other types as the driver does",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const rows = yield* sql`
          SELECT '{"user_id": [null, 1.0]}'::jsonb AS a_json, '{ "userId":1}'::json AS b_json, 'null'::jsonb AS json_null,
            NULL::jsonb AS sql_null, 7::int4 AS an_int, 7::int8 AS a_big_int, true AS a_bool, timestamptz '2026-01-02 03:04:05.678Z' AS at`;
          assert.deepStrictEqual(rows, [
            {
              aJson: '{"user_id": [null, 1.0]}',
              bJson: '{ "userId":1}',
              jsonNull: "null",
              sqlNull: null,
              anInt: 7,
              aBigInt: "7",
              aBool: true,
              at: new Date("2026-01-02T03:04:05.678Z"),
            },
          ]);
        }),
    );

    it.effect("shows its application name in pg_stat_activity", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const name = Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const [row] = yield* sql`SELECT application_name AS name FROM pg_stat_activity WHERE pid = pg_backend_pid()`;
          return row?.name;
        });
        assert.strictEqual(yield* name, "parametric-portal");
        const named = Client.layer({ url, maxConnections: 1, applicationName: "worker 7" });
        assert.strictEqual(yield* name.pipe(Effect.provide(named)), "worker 7");
        const configured = { DATABASE_URL: Redacted.value(url) };
        assert.strictEqual(yield* through(configured, name, { applicationName: "worker 8" }), "worker 8");
      }),
    );

    it.scoped("that is half-open is cut when nothing is answered in time, and the next call has another", () =>
      Effect.gen(function* () {
        const wire = yield* Proxy.make(yield* TestUrl);
        const appId = yield* newTenant;
        for (const role of [undefined, "parametric_system"] as const) {
          yield* Effect.gen(function* () {
            const db = yield* DatabaseService;
            const sql = yield* SqlClient.SqlClient;
            const open = sql<{ port: number }>`SELECT inet_client_port() AS port`;
            // What takes its time and answers is waited for.
            yield* sql`SELECT pg_sleep(0.2)`;
            for (const { port } of yield* open) wire.deafen(port);
            const calls: ReadonlyArray<Effect.Effect<unknown, unknown, SqlClient.SqlClient>> =
              role === undefined ? [Client.tenant(appId)(db.jobs.count())] : [db.jobs.count()];
            for (const call of calls) {
              const error = yield* Effect.flip(call);
              assert.strictEqual(error instanceof SqlError && classify(error), "Connection");
              assert.strictEqual(yield* call, 0);
            }
          }).pipe(
            Effect.provide(
              Layer.fresh(DatabaseService.layer).pipe(
                Layer.provideMerge(Client.layer({ url: wire.url, maxConnections: 1, role, answerTimeout: "1 second" })),
              ),
            ),
          );
        }
      }),
    );

    it.effect("that cannot be had in time is a SqlError of the class Connection, and the pool goes on", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const appId = yield* newTenant;
        yield* Effect.gen(function* () {
          const db = yield* DatabaseService;
          const [held, free] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
          const holder = yield* Effect.fork(
            Client.tenant(appId)(Effect.zipRight(Deferred.succeed(held, undefined), Deferred.await(free))),
          );
          yield* Deferred.await(held);
          const waiting: ReadonlyArray<Effect.Effect<unknown, unknown, SqlClient.SqlClient>> = [
            Client.tenant(appId)(db.jobs.count()),
            Client.health,
          ];
          for (const error of yield* Effect.forEach(waiting, Effect.flip, { concurrency: "unbounded" })) {
            assert.instanceOf(error, SqlError);
            assert.strictEqual(error instanceof SqlError && classify(error), "Connection");
          }
          yield* Deferred.succeed(free, undefined);
          yield* Fiber.join(holder);
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
        }).pipe(
          Effect.provide(
            DatabaseService.layer.pipe(
              Layer.provideMerge(Client.layer({ url, maxConnections: 1, connectTimeout: "3 seconds" })),
            ),
          ),
        );
      }),
    );

    it.effect("that nobody accepts, answers or knows fails the layer typed", () =>
      Effect.gen(function* () {
        const closed = yield* freePort;
        const silent = yield* Wire.make(yield* TestUrl);
        silent.mute(true);
        const cutting = yield* Wire.make();
        for (const options of [
          { host: "127.0.0.1", port: closed },
          { host: "localhost", port: closed },
          { host: "nowhere.invalid" },
          { host: "127.0.0.1", port: silent.port },
          { host: "127.0.0.1", port: cutting.port },
        ]) {
          const layerOf = Client.layer({
            ...options,
            username: "postgres",
            database: "x",
            connectTimeout: "500 millis",
          });
          const cause = yield* Effect.scoped(Layer.build(layerOf)).pipe(Effect.sandbox, Effect.flip);
          const error = Option.getOrThrow(Cause.failureOption(cause));
          assert.strictEqual(error._tag, "SqlError", JSON.stringify(options));
          assert.strictEqual(classify(error), "Connection", JSON.stringify(options));
        }
      }).pipe(Effect.scoped),
    );
  });

  describe("what a scope sets", () => {
    /** A client with one connection, so that whatever is left on it is seen by the next call. */
    const onOneConnection = <A, E, R>(effect: Effect.Effect<A, E, R>, url: Redacted.Redacted) =>
      Effect.provide(effect, DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 1 }))));

    it.effect("ends with its transaction, whichever way that ends, on the very connection", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        yield* onOneConnection(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            const before = yield* settings;
            assert.deepInclude(before, { role: "none", tenant: "" });
            for (const scope of [Client.tenant(appId), Client.system]) {
              for (const end of [
                Effect.void,
                Effect.fail("no"),
                Effect.die("bug"),
                Effect.interrupt,
                sql`SELECT 1 / 0`,
                Effect.either(sql`SELECT 1 / 0`),
                sql`SELECT set_config('role', 'pg_monitor', true), set_config('app.current_tenant', ${randomUUID()}, true)`,
              ]) {
                const inside = yield* Deferred.make<unknown>();
                yield* Effect.exit(
                  scope(
                    Effect.zipRight(
                      Effect.flatMap(settings, (_) => Deferred.succeed(inside, _)),
                      Effect.asVoid(end as Effect.Effect<unknown, unknown>),
                    ),
                  ),
                );
                assert.strictEqual(Reflect.get(Object(yield* Deferred.await(inside)), "pid"), before.pid);
                assert.deepStrictEqual(yield* settings, before);
              }
            }
          }),
          yield* TestUrl,
        );
      }),
    );

    it.effect("when it is refused leaves the connection, and the caller's own transaction, as they were", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const name = `login_${randomUUID().slice(0, 8)}`;
        yield* Effect.acquireRelease(
          sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD 'secret' NOINHERIT IN ROLE parametric_tenant`),
          () => Effect.orDie(sql.unsafe(`DROP ROLE ${name}`)),
        );
        const appId = yield* newTenant;
        yield* onOneConnection(
          Effect.gen(function* () {
            const db = yield* DatabaseService;
            const refused = Effect.flip(Client.system(Effect.void));
            const error = yield* refused;
            assert.strictEqual(error._tag === "SqlError" && classify(error), "Privilege");
            assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
            yield* db.withTransaction(
              Effect.gen(function* () {
                yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
                const before = yield* settings;
                yield* refused;
                assert.deepStrictEqual(yield* settings, before);
                yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
              }),
            );
            assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 2);
          }),
          urlAs(yield* TestUrl, name, "secret"),
        );
      }).pipe(Effect.scoped),
    );
  });

  describe("round trips", () => {
    it.effect(
      "a scope costs one beside its statements, COMMIT: BEGIN and the settings travel with the first of them",
      () =>
        Effect.gen(function* () {
          const server = yield* TestUrl;
          const appId = yield* newTenant;
          const wire = yield* Wire.make(server);
          yield* Effect.gen(function* () {
            const db = yield* DatabaseService;
            const sql = yield* SqlClient.SqlClient;
            const trips = (effect: Effect.Effect<unknown, unknown, SqlClient.SqlClient>) =>
              Effect.gen(function* () {
                wire.reset();
                yield* Effect.exit(effect);
                assert.strictEqual(wire.answers(), wire.sent().length);
                return wire.sent().map((_) => _.trim().replace(/\s+/g, " "));
              });
            const count = db.jobs.count();
            const select = `SELECT count(*)::int AS count FROM "jobs" WHERE 1=1`;
            const asTenant = `SET LOCAL ROLE parametric_tenant; SET LOCAL app.current_tenant = '${appId}'`;
            const asSystem = "SET LOCAL ROLE parametric_system; SET LOCAL app.current_tenant = ''";

            assert.deepStrictEqual(yield* trips(count), [select]);
            assert.deepStrictEqual(yield* trips(Client.tenant(appId)(count)), [
              `BEGIN; ${asTenant}; ${select}`,
              "COMMIT",
            ]);
            assert.deepStrictEqual(yield* trips(Client.system(count)), [`BEGIN; ${asSystem}; ${select}`, "COMMIT"]);
            assert.deepStrictEqual(yield* trips(db.withTransaction(count)), [`BEGIN; ${select}`, "COMMIT"]);
            assert.deepStrictEqual(yield* trips(Client.tenant(appId)(Effect.zipRight(count, Effect.fail("no")))), [
              `BEGIN; ${asTenant}; ${select}`,
              "ROLLBACK",
            ]);
            assert.deepStrictEqual(yield* trips(Client.tenant(appId)(sql.unsafe("SELECT 1; SELECT 2"))), [
              `BEGIN; ${asTenant}`,
              "SELECT 1; SELECT 2",
              "COMMIT",
            ]);
            // Nothing was asked, but whether the login may.
            assert.deepStrictEqual(yield* trips(Client.tenant(appId)(Effect.void)), [
              `BEGIN; ${asTenant}; SELECT`,
              "COMMIT",
            ]);
            assert.deepStrictEqual(yield* trips(Client.tenant(appId)(Effect.fail("no"))), []);
            assert.deepStrictEqual(yield* trips(db.withTransaction(Effect.void)), []);
            const nameless = (statements: ReadonlyArray<string>) =>
              statements.map((_) => _.replace(/portal_\d+/g, "portal_N"));
            assert.deepStrictEqual(nameless(yield* trips(Client.tenant(appId)(Client.tenant(appId)(count)))), [
              `BEGIN; ${asTenant}; SAVEPOINT portal_N`,
              select,
              "RELEASE SAVEPOINT portal_N",
              "COMMIT",
            ]);
            assert.deepStrictEqual(nameless(yield* trips(sql.withTransaction(Client.tenant(appId)(count)))), [
              "BEGIN",
              `SAVEPOINT portal_N; SELECT current_setting('role') AS role, current_setting('app.current_tenant', true) AS tenant; ${asTenant}`,
              select,
              "SELECT set_config('role', $1, true), set_config('app.current_tenant', $2, true)",
              "RELEASE SAVEPOINT portal_N",
              "COMMIT",
            ]);
            // What is wrong with the arguments is found without asking the server.
            assert.deepStrictEqual(yield* trips(Client.tenant("7")(count)), []);
            assert.strictEqual((yield* Effect.flip(Client.tenant("7")(count)))._tag, "InvalidInput");
          }).pipe(
            Effect.provide(
              DatabaseService.layer.pipe(
                Layer.provideMerge(Client.layer({ url: wire.url(server), maxConnections: 1 })),
              ),
            ),
          );
        }).pipe(Effect.scoped),
    );
  });
});
