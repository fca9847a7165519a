import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { classify } from "../src/sql-state.js";
import { deadJob, letter, newTenant, TestDatabase, TestUrl, withLogin, work } from "./support/database.js";
import { stockClient } from "./support/stock.js";

const settings = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [row] =
    yield* sql`SELECT current_setting('role') AS role, COALESCE(current_setting('app.current_tenant', true), '') AS tenant`;
  return { ...row };
});
const outside = { role: "none", tenant: "" };

/** Ends another connection's server process, over a connection outside the current transaction. */
const terminate = (pid: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const connection = yield* sql.reserve;
    yield* connection.executeUnprepared(`SELECT pg_terminate_backend(${pid}, 5000)`, [], undefined);
  }).pipe(Effect.scoped);

layer(TestDatabase, { excludeTestServices: true })("scopes", (it) => {
  /** What a tenant must never be able to do to another tenant's rows; used whole, and with the policies dropped. */
  const isolation = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    const [mine, theirs] = [yield* newTenant, yield* newTenant];
    const foreign = yield* deadJob(theirs);
    const old = yield* Client.tenant(theirs)(
      db.jobDlq.insert(letter(theirs, { replayedAt: Option.some(new Date(0)) })),
    );
    const leaks: Array<string> = [];
    const expect = (name: string, holds: boolean) => (holds ? undefined : leaks.push(name));
    yield* Client.tenant(mine)(
      Effect.gen(function* () {
        expect("apps.get", Option.isNone(yield* db.apps.get(theirs)));
        expect("apps.count", (yield* db.apps.count()) === 1);
        expect("jobs.get", Option.isNone(yield* db.jobs.get(foreign.originalJobId)));
        expect("jobs.count", (yield* db.jobs.count()) === 0);
        expect("jobDlq.get", Option.isNone(yield* db.jobDlq.get(foreign.id)));
        expect("jobDlq.one", Option.isNone(yield* db.jobDlq.one({ appId: theirs })));
        expect("jobDlq.find", (yield* db.jobDlq.find({})).length === 0);
        expect("jobDlq.count", (yield* db.jobDlq.count()) === 0);
        expect("jobDlq.listPending", (yield* db.jobDlq.listPending()).length === 0);
        expect("jobDlq.set", (yield* db.jobDlq.set({ appId: theirs }, { type: "stolen" })) === 0);
        expect(
          "jobDlq.markReplayed",
          Either.isLeft(yield* Effect.either(db.withTransaction(db.jobDlq.markReplayed(foreign.id)))),
        );
        expect("jobDlq.replay", (yield* db.jobDlq.replay([foreign.id], { actor: "test" }))[0]?.outcome === "not found");
        expect("jobDlq.purge", (yield* db.jobDlq.purge(0)) === 0);
        expect("jobs.claim", (yield* db.jobs.claim({ runner: "r" })).length === 0);
        expect("jobs.purge", (yield* db.jobs.purge(0)) === 0);
        expect(
          "jobDlq.insert",
          Either.isLeft(yield* Effect.either(db.withTransaction(db.jobDlq.insert(letter(theirs))))),
        );
        expect("jobs.enqueue", Either.isLeft(yield* Effect.either(db.withTransaction(db.jobs.enqueue(work(theirs))))));
        expect(
          "moving a row out",
          Either.isLeft(
            yield* Effect.either(
              db.withTransaction(
                Effect.zipRight(
                  db.jobDlq.insert(letter(mine, { type: "moved" })),
                  sql`UPDATE job_dlq SET app_id = ${theirs} WHERE type = 'moved'`,
                ),
              ),
            ),
          ),
        );
        expect(
          "SQL without a predicate",
          (yield* sql`DELETE FROM job_dlq WHERE type <> 'moved' RETURNING id`).length === 0,
        );
      }),
    );
    expect("the other tenant's rows", (yield* Client.system(db.jobDlq.count({ appId: theirs }))) === 2);
    expect("the old one among them", Option.isSome(yield* Client.system(db.jobDlq.get(old.id))));
    return leaks;
  });

  describe("a tenant", () => {
    it.effect("neither sees nor changes another tenant's rows, by any method", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* isolation, []);
      }),
    );

    it.effect("counter-test: without the policies the same check finds leaks in every table", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const tables = ["apps", "jobs", "job_dlq", "job_dlq_events"];
        for (const table of tables) yield* sql.unsafe(`ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`);
        const leaks = yield* Effect.ensuring(
          isolation,
          Effect.orDie(Effect.forEach(tables, (table) => sql.unsafe(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY`))),
        );
        for (const leak of [
          "apps.count",
          "jobs.get",
          "jobDlq.get",
          "jobDlq.set",
          "jobDlq.replay",
          "jobDlq.purge",
          "jobDlq.insert",
          "jobs.enqueue",
          "moving a row out",
          "SQL without a predicate",
        ]) {
          assert.include(leaks, leak);
        }
      }),
    );

    it.effect("may read its own app and not change it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        assert.isTrue(Option.isSome(yield* Client.tenant(appId)(db.apps.get(appId))));
        const error = yield* Effect.flip(Client.tenant(appId)(db.apps.set({ id: appId }, { name: "renamed" })));
        assert.strictEqual("reason" in error && error.reason, "Privilege");
      }),
    );

    it.effect("is a uuid, or the scope does not open", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        for (const id of ["", "x", "'; SET ROLE postgres; --", `${randomUUID()}'`, `${randomUUID()}\n`]) {
          const error = yield* Effect.flip(Client.tenant(id)(db.jobs.count()));
          assert.strictEqual(error._tag, "InvalidInput", id);
        }
      }),
    );

    it.effect("that does not exist sees nothing and can write nothing", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const nobody = randomUUID();
        assert.strictEqual(yield* Client.tenant(nobody)(db.jobDlq.count()), 0);
        const error = yield* Effect.flip(Client.tenant(nobody)(db.jobs.enqueue(work(nobody))));
        assert.strictEqual(error._tag, "AppNotFound");
      }),
    );

    it.effect("is in force before the first statement and gone after the last, on the same connection", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const appId = yield* newTenant;
        const one = Client.layer({ url, maxConnections: 1 });
        yield* Effect.gen(function* () {
          assert.deepStrictEqual(yield* settings, outside);
          assert.deepStrictEqual(yield* Client.tenant(appId)(settings), { role: "parametric_tenant", tenant: appId });
          assert.deepStrictEqual(yield* settings, outside);
          assert.deepStrictEqual(yield* Client.system(settings), { role: "parametric_system", tenant: "" });
          assert.deepStrictEqual(yield* Effect.flip(Client.tenant(appId)(Effect.fail("no"))), "no");
          assert.deepStrictEqual(yield* settings, outside);
          // A custom setting reverts to '' and not to NULL; the policies must bear it.
          const sql = yield* SqlClient.SqlClient;
          assert.deepStrictEqual(yield* sql`SELECT current_tenant() AS tenant`, [{ tenant: null }]);
        }).pipe(Effect.provide(one));
      }),
    );

    it.effect("is closed to a fiber that outlives it, beside another tenant's and later", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const [a, b] = [yield* newTenant, yield* newTenant];
        const [beside, later] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
        const assertEnded = (fiber: Fiber.Fiber<unknown, unknown>) =>
          Effect.map(Fiber.await(fiber), (exit) => {
            assert.isTrue(Exit.isFailure(exit), `it saw ${JSON.stringify(exit)}`);
            assert.match(String(exit), /The transaction has ended: a fiber that outlives it cannot use it/);
          });
        yield* Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const read = sql`SELECT id FROM apps`;
          const ways: ReadonlyArray<Effect.Effect<unknown, unknown, SqlClient.SqlClient>> = [
            read,
            read.raw,
            read.values,
            Stream.runCollect(read.stream),
            sql.withTransaction(read),
            Client.tenant(a)(read),
          ];
          const after = (moment: Deferred.Deferred<void>) =>
            Effect.forEach(ways, (reads) => Effect.forkDaemon(Effect.zipRight(Deferred.await(moment), reads)));
          const [first, second] = yield* Client.tenant(a)(Effect.all([after(beside), after(later)]));
          yield* Client.tenant(b)(
            Effect.gen(function* () {
              yield* Deferred.succeed(beside, undefined);
              yield* Effect.forEach(first, assertEnded);
              assert.deepStrictEqual(yield* read, [{ id: b }]);
            }),
          );
          yield* Deferred.succeed(later, undefined);
          yield* Effect.forEach(second, assertEnded);
        }).pipe(Effect.provide(Client.layer({ url, maxConnections: 1 })));
      }),
    );

    it.effect("is rolled back when it ends while a transaction inside it is open in another fiber", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const [isHalf, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
        const enqueued = db.jobs.enqueue(work(appId));
        const inner = Effect.all([enqueued, Deferred.succeed(isHalf, undefined), Deferred.await(go), enqueued]);
        const error = yield* Effect.flip(
          Client.tenant(appId)(
            Effect.all([enqueued, Effect.forkDaemon(db.withTransaction(inner)), Deferred.await(isHalf)]),
          ),
        );
        assert.match(error.message, /The transaction ended while one inside it was open in another fiber/);
        yield* Deferred.succeed(go, undefined);
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );

    it.effect("rolls back when it fails, and when it is interrupted", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Effect.flip(Client.tenant(appId)(Effect.zipRight(db.jobs.enqueue(work(appId)), Effect.fail("no"))));
        const started = yield* Deferred.make<void>();
        const fiber = yield* Effect.fork(
          Client.tenant(appId)(
            Effect.all([db.jobs.enqueue(work(appId)), Deferred.succeed(started, undefined), Effect.never]),
          ),
        );
        yield* Deferred.await(started);
        yield* Fiber.interrupt(fiber);
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );
  });

  describe("a scope inside another one", () => {
    it.effect("opens when it is the same, as a savepoint", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const count = yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobs.enqueue(work(appId));
            yield* Effect.flip(
              Client.tenant(appId.toUpperCase())(Effect.zipRight(db.jobs.enqueue(work(appId)), Effect.fail("no"))),
            );
            yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
            return yield* db.jobs.count();
          }),
        );
        assert.strictEqual(count, 2);
        yield* Client.system(Client.system(Effect.void));
      }),
    );

    it.effect("is refused when it is any other, and the outer one goes on", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [a, b] = [yield* newTenant, yield* newTenant];
        yield* Client.tenant(a)(
          Effect.gen(function* () {
            for (const [inner, requested] of [
              [Client.system, "system"],
              [Client.tenant(b), `tenant ${b}`],
            ] as const) {
              const error = yield* Effect.flip(inner(db.jobs.count()));
              assert.strictEqual(error._tag, "ScopeConflict");
              assert.include(error.message, `A ${requested} scope cannot be opened inside a tenant ${a} scope`);
            }
            yield* db.withTransaction(Effect.flip(Client.system(Effect.void)));
            assert.deepStrictEqual(yield* settings, { role: "parametric_tenant", tenant: a });
          }),
        );
        assert.strictEqual((yield* Effect.flip(Client.system(Client.tenant(a)(Effect.void))))._tag, "ScopeConflict");
      }),
    );
  });

  describe("a scope inside the caller's own transaction", () => {
    type Scoped = (
      appId: string,
    ) => <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, unknown, R | SqlClient.SqlClient>;

    /** What a scope of `a` and then one of `b` leave behind in the caller's transaction, by the way that they end. */
    const leftBehind = (tenantScope: Scoped, a: string, b: string) =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const left: Array<readonly [string, unknown]> = [];
        yield* db.withTransaction(
          Effect.gen(function* () {
            for (const before of [outside, { role: "pg_monitor", tenant: b }]) {
              const check = (ending: string) =>
                Effect.map(settings, (after) => {
                  if (after.role !== before.role || after.tenant !== before.tenant) left.push([ending, after]);
                });
              yield* sql`SELECT set_config('role', ${before.role}, true), set_config('app.current_tenant', ${before.tenant}, true)`;
              yield* tenantScope(a)(db.jobs.enqueue(work(a)));
              yield* check("success");
              yield* sql`SELECT set_config('role', ${before.role}, true), set_config('app.current_tenant', ${before.tenant}, true)`;
              yield* Effect.flip(tenantScope(a)(Effect.zipRight(db.jobs.enqueue(work(a)), Effect.fail("no"))));
              yield* check("failure");
              yield* Effect.flip(tenantScope(b)(sql`SELECT 1 / 0`));
              yield* check("failed statement");
              yield* Client.system(Effect.void);
              yield* check("system");
            }
          }),
        );
        return left;
      });

    it.effect("gives the role and the tenant back before its savepoint is released, whichever way it ends", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [a, b] = [yield* newTenant, yield* newTenant];
        assert.deepStrictEqual(yield* leftBehind(Client.tenant, a, b), []);
        assert.strictEqual(yield* Client.tenant(a)(db.jobs.count()), 2);
      }),
    );

    it.effect("counter-test: one that trusts SET LOCAL leaves its role and tenant to what follows", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const [a, b] = [yield* newTenant, yield* newTenant];
        const trusting: Scoped = (appId) => (effect) =>
          db.withTransaction(
            Effect.zipRight(
              sql`SELECT set_config('role', 'parametric_tenant', true), set_config('app.current_tenant', ${appId}, true)`,
              effect,
            ),
          );
        const remains = { role: "parametric_tenant", tenant: a };
        // A rollback takes them along; a release does not.
        assert.deepStrictEqual(yield* leftBehind(trusting, a, b), [
          ["success", remains],
          ["success", remains],
        ]);
      }),
    );

    it.effect("commits and rolls back with it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Effect.flip(
          db.withTransaction(Effect.zipRight(Client.tenant(appId)(db.jobs.enqueue(work(appId))), Effect.fail("no"))),
        );
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );
  });

  describe("withTransaction", () => {
    /** The payloads that are stored by ten nested transactions side by side, of which the odd ones fail. */
    const sideBySide = Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      // Each yields between its statements.
      const nested = (i: number) =>
        Effect.gen(function* () {
          yield* db.jobs.enqueue(work(appId, { payload: i }));
          yield* Effect.yieldNow();
          yield* db.jobs.enqueue(work(appId, { payload: i }));
          if (i % 2 === 1) return yield* Effect.fail("odd");
        });
      yield* sql.withTransaction(
        Effect.forEach(
          Array.from({ length: 10 }, (_, i) => i),
          (i) => Effect.either(sql.withTransaction(nested(i))),
          { concurrency: "unbounded" },
        ),
      );
      return (yield* Client.tenant(appId)(db.jobs.find({}))).map(({ payload }) => Number(payload)).sort();
    });
    const evenTwice = [0, 0, 2, 2, 4, 4, 6, 6, 8, 8];

    it.effect("runs nested transactions one after the other: none loses what another rolled back", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* sideBySide, evenTwice);
      }),
    );

    it.effect("counter-test: the driver's own withTransaction loses writes, or keeps what was to be rolled back", () =>
      Effect.gen(function* () {
        const { config } = yield* PgClient.PgClient;
        const stored = yield* Effect.provide(sideBySide, stockClient({ transformJson: false, types: config.types }));
        assert.notDeepEqual(stored, evenTwice);
      }),
    );

    it.effect("is the client's own too, and lets scopes side by side in one transaction keep their tenants apart", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const tenants = yield* Effect.replicateEffect(newTenant, 4);
        yield* sql.withTransaction(
          Effect.forEach(
            tenants,
            (appId) => Client.tenant(appId)(Effect.zipRight(Effect.yieldNow(), db.jobs.enqueue(work(appId)))),
            { concurrency: "unbounded" },
          ),
        );
        for (const appId of tenants) assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 1);
      }),
    );

    it.effect("nests to any depth without waiting for itself", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          db.withTransaction(db.withTransaction(db.withTransaction(db.jobs.enqueue(work(appId))))),
        );
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 1);
      }),
    );

    it.effect("serialises under a transaction that another client's withTransaction opened", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const connection = yield* sql.reserve;
        yield* connection.executeUnprepared("BEGIN", [], undefined);
        yield* Effect.forEach(
          [0, 1, 2, 3],
          (i) =>
            Effect.either(
              Client.tenant(appId)(
                Effect.zipRight(db.jobs.enqueue(work(appId)), i % 2 === 0 ? Effect.yieldNow() : Effect.fail("odd")),
              ),
            ),
          { concurrency: "unbounded" },
        ).pipe(Effect.provideService(SqlClient.TransactionConnection, [connection, 0]));
        yield* connection.executeUnprepared("COMMIT", [], undefined);
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 2);
      }).pipe(Effect.scoped),
    );

    it.effect("fails when a statement's error was swallowed: the server made the commit a rollback", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const swallowed = Effect.zipRight(db.jobs.enqueue(work(appId)), Effect.either(sql`SELECT 1 / 0`));
        const error = yield* Effect.flip(Client.tenant(appId)(swallowed));
        assert.strictEqual(error._tag, "SqlError");
        assert.include(error.message, "nothing of it was written");
        // The same inside a savepoint: that one fails, the outer one goes on.
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobs.enqueue(work(appId));
            assert.isTrue(Either.isLeft(yield* Effect.either(db.withTransaction(swallowed))));
          }),
        );
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 1);
      }),
    );
  });

  describe("a login", () => {
    it.effect("that is a superuser is held to the scope like any other", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* deadJob(yield* newTenant);
        const [row] = yield* sql`SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER`;
        assert.deepStrictEqual({ ...row }, { rolsuper: true });
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 0);
      }),
    );

    it.effect("that is a NOINHERIT member works in both scopes, and is refused outside every scope", () =>
      Effect.gen(function* () {
        const context = yield* withLogin("parametric_tenant, parametric_system");
        yield* Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const dead = yield* deadJob(appId);
          assert.strictEqual(
            (yield* Client.tenant(appId)(db.jobDlq.replay([dead.id], { actor: "test" })))[0]?.outcome,
            "replayed",
          );
          assert.deepStrictEqual(yield* isolation, []);
          for (const query of [
            db.jobDlq.count(),
            db.jobDlq.listPending(),
            db.jobDlq.purge(),
            db.jobDlq.replay([dead.id], { actor: "test" }),
            db.jobs.enqueue(work(appId)),
          ]) {
            const error = yield* Effect.flip(
              query as Effect.Effect<unknown, { readonly _tag: string; readonly message: string }>,
            );
            assert.strictEqual(error._tag, "AccessDenied");
            assert.include(error.message, "permission denied");
            assert.include(error.message, "Client.tenant(appId)");
          }
        }).pipe(Effect.provide(context));
      }).pipe(Effect.scoped),
    );

    it.effect("that is a member of the tenant role only cannot open the system scope", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const dead = yield* deadJob(appId);
        const context = yield* withLogin("parametric_tenant");
        yield* Effect.gen(function* () {
          const db = yield* DatabaseService;
          assert.strictEqual((yield* Client.tenant(appId)(db.jobDlq.listPending()))[0]?.id, dead.id);
          const error = yield* Effect.flip(Client.system(db.jobDlq.count()));
          assert.strictEqual(error._tag, "SqlError");
          assert.strictEqual(error._tag === "SqlError" && classify(error), "Privilege");
        }).pipe(Effect.provide(context));
      }).pipe(Effect.scoped),
    );

    it.effect("that is a member of nothing can do nothing", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const context = yield* withLogin("");
        const error = yield* Effect.flip(Client.tenant(appId)(Effect.void)).pipe(Effect.provide(context));
        assert.strictEqual(error._tag === "SqlError" && classify(error), "Privilege");
      }).pipe(Effect.scoped),
    );
  });

  describe("a connection that is lost", () => {
    it.effect("in the middle of a scope fails typed, writes nothing, and the next call works", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const exit = yield* Effect.exit(
          Client.tenant(appId)(
            Effect.gen(function* () {
              yield* db.jobs.enqueue(work(appId));
              const [row] = yield* sql`SELECT pg_backend_pid() AS pid`;
              yield* terminate(Number(row?.pid));
              return yield* db.jobs.enqueue(work(appId));
            }),
          ),
        );
        assert.isTrue(Exit.isFailure(exit));
        const error = Option.getOrThrow(
          Exit.causeOption(exit).pipe(
            Option.flatMap((cause) => (cause._tag === "Fail" ? Option.some(cause.error) : Option.none())),
          ),
        );
        assert.strictEqual(error._tag, "SqlError");
        assert.strictEqual(error._tag === "SqlError" && classify(error), "Connection");
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );

    it.effect("before the commit is a failure, not a defect", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const cause = yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobs.enqueue(work(appId));
            const [row] = yield* sql`SELECT pg_backend_pid() AS pid`;
            yield* terminate(Number(row?.pid));
          }),
        ).pipe(Effect.sandbox, Effect.flip);
        assert.strictEqual(cause._tag, "Fail");
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );
  });

  it.effect("health answers without a scope", () =>
    Effect.gen(function* () {
      const { isReadOnly, serverVersion } = yield* Client.health;
      assert.match(serverVersion, /^18/);
      assert.isFalse(isReadOnly);
    }),
  );
});
