import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import { assert, describe, layer } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { refused, refusedWrite } from "../src/refusal.js";
import { DatabaseService } from "../src/repos.js";
import { classify, databaseError } from "../src/sql-state.js";
import { deadJob, letter, newTenant, TestDatabase, TestUrl, urlAs, work } from "./support/database.js";
import { failure } from "./support/jobs.js";

layer(TestDatabase, { excludeTestServices: true })("what the database refuses", (it) => {
  describe("is an error that a caller can act on", () => {
    it.effect("another tenant's row: AccessDenied, ForeignTenant", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const statement = sql`INSERT INTO jobs (app_id, type, payload) VALUES (${theirs}, 'a', '1')`;
        const error = yield* failure(Client.tenant(mine)(statement.pipe(refused("jobs.test"))));
        assert.deepInclude(Object(error), { _tag: "AccessDenied", operation: "jobs.test", reason: "ForeignTenant" });
        assert.include(error.message, "jobs.test: refused, the row belongs to another tenant than the scope");
        assert.include(error.message, "Open Client.tenant with the row's own appId");
      }),
    );

    it.effect("a right that is missing: AccessDenied, Privilege, inside and outside a scope", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const inside = yield* failure(
          Client.tenant(appId)(sql`DELETE FROM apps WHERE id = ${appId}`.pipe(refused("apps.test"))),
        );
        assert.deepInclude(Object(inside), { _tag: "AccessDenied", reason: "Privilege" });
        assert.include(inside.message, "permission denied for table apps");
        const name = `login_${randomUUID().slice(0, 8)}`;
        yield* Effect.acquireRelease(sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD 'secret'`), () =>
          Effect.orDie(sql.unsafe(`DROP ROLE ${name}`)),
        );
        const outside = Effect.gen(function* () {
          const restricted = yield* SqlClient.SqlClient;
          return yield* failure(restricted`SELECT 1 FROM jobs`.pipe(refused("jobs.test")));
        });
        const url = urlAs(yield* TestUrl, name, "secret");
        const error = yield* outside.pipe(Effect.provide(Client.layer({ url, maxConnections: 1 })));
        assert.deepInclude(Object(error), { _tag: "AccessDenied", reason: "Privilege" });
        assert.include(error.message, "Run it inside Client.tenant(appId) or Client.system");
      }).pipe(Effect.scoped),
    );

    it.effect("a check, a unique name, a NOT NULL: InvalidInput by the constraint's name", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const name = Option.getOrThrow(yield* Client.system(db.apps.get(appId))).name;
        for (const [statement, field] of [
          [sql`INSERT INTO apps (name) VALUES (' ')`, "apps_name_not_blank"],
          [sql`INSERT INTO apps (name) VALUES (${name})`, "apps_name_unique"],
          [
            sql`INSERT INTO jobs (app_id, type, payload, status) VALUES (${appId}, 'a', '1', 'asleep')`,
            "jobs_status_known",
          ],
          // PostgreSQL 18 names its NOT NULL constraints, but its error does not.
          [sql`INSERT INTO jobs (app_id, payload) VALUES (${appId}, '1')`, "input"],
        ] as const) {
          const error = yield* failure(Client.system(statement.pipe(refused("test"))));
          assert.deepInclude(Object(error), { _tag: "InvalidInput", operation: "test", field });
          assert.match(error.message, /^test: .* was refused by the database: .*\. Nothing was written\.$/);
        }
      }),
    );

    it.effect("data that no column can hold, and what is too large: InvalidInput", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const long = Array.from({ length: 400 }, () => randomUUID()).join("");
        for (const [statement, problem] of [
          [sql`SELECT ${"no uuid"}::uuid`, "invalid input syntax for type uuid"],
          [sql`SELECT ${3e9}::int`, "out of range"],
          [sql`SELECT ${"{"}::jsonb`, "invalid input syntax for type json"],
          [sql`SELECT ${"a\u0000"}::text`, "invalid byte sequence"],
          [sql`SELECT now() + ${1e30}::float8 * interval '1 day'`, "interval out of range"],
          // The unique index on the name cannot hold it.
          [sql`INSERT INTO apps (name) VALUES (${long})`, "index row"],
        ] as const) {
          const error = yield* failure(Client.system(statement.pipe(refused("test"))));
          assert.deepInclude(Object(error), { _tag: "InvalidInput", field: "input" }, problem);
          assert.include(error.message, problem);
        }
      }),
    );

    it.effect("an app that does not exist: AppNotFound with the apps of the call, each once", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const [appId, unknown] = [yield* newTenant, randomUUID()];
        for (const statement of [
          sql`INSERT INTO jobs (app_id, type, payload) VALUES (${unknown}, 'a', '1')`,
          sql`INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history)
            VALUES (${randomUUID()}, ${unknown}, 'a', '1', 'Validation', 1, '[]')`,
        ]) {
          const write = statement.pipe(refusedWrite("test", [appId, unknown, unknown, appId]));
          const error = yield* failure(Client.system(write));
          assert.deepInclude(Object(error), { _tag: "AppNotFound", operation: "test" });
          assert.include(error.message, `one of the apps ${appId}, ${unknown} does not exist`);
          // Of a read it would be news: there it stays what it is.
          assert.strictEqual((yield* failure(Client.system(statement.pipe(refused("test")))))._tag, "SqlError");
        }
        const many = Array.from({ length: 7 }, () => randomUUID());
        const statement = sql`INSERT INTO jobs (app_id, type, payload) VALUES (${many[6] ?? ""}, 'a', '1')`;
        const error = yield* failure(Client.system(statement.pipe(refusedWrite("test", many))));
        assert.include(error.message, `${many[4]}, … does not exist`);
        assert.notInclude(error.message, many[5] ?? "");
      }),
    );
  });

  describe("stays a SqlError when it is nobody's input", () => {
    it.effect("another foreign key, and a row that others refer to", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(Effect.flatMap(DatabaseService, (db) => db.jobDlq.insert(letter(appId))));
        const restricted = yield* Effect.flip(
          Client.system(sql`DELETE FROM apps WHERE id = ${appId}`.pipe(refusedWrite("test", [appId]))),
        );
        assert.strictEqual(restricted._tag === "SqlError" && classify(restricted), "Restrict");
        yield* sql`CREATE TABLE IF NOT EXISTS owners (owner uuid PRIMARY KEY)`;
        yield* sql`CREATE TABLE IF NOT EXISTS owned (owner uuid REFERENCES owners)`;
        const other = yield* Effect.flip(sql`INSERT INTO owned VALUES (${appId})`.pipe(refusedWrite("test", [appId])));
        assert.strictEqual(other._tag === "SqlError" && databaseError(other).constraint, "owned_owner_fkey");
      }),
    );

    it.effect("a deadlock, a lost race of serializable transactions, a lock that is not free", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const [a = "", b = ""] = yield* Client.tenant(appId)(db.jobs.enqueueMany([work(appId), work(appId)]));
        const both = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const;
        const touch = (id: string) => sql`UPDATE jobs SET type = type WHERE id = ${id}`.pipe(refused("test"));
        const crossing = (place: 0 | 1, first: string, second: string) =>
          Effect.either(
            Client.tenant(appId)(
              Effect.gen(function* () {
                yield* touch(first);
                yield* Deferred.succeed(both[place], undefined);
                for (const each of both) yield* Deferred.await(each);
                yield* touch(second);
              }),
            ),
          );
        const results = yield* Effect.all([crossing(0, a, b), crossing(1, b, a)], { concurrency: 2 });
        const lost = results.flatMap((_) => (Either.isLeft(_) ? [_.left] : []));
        assert.strictEqual(lost.length, 1);
        assert.strictEqual(lost[0]?._tag === "SqlError" && classify(lost[0]), "Deadlock");

        const serializable = sql`SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`;
        const lostRace = yield* Effect.flip(
          db.withTransaction(
            Effect.gen(function* () {
              yield* serializable;
              yield* sql`SELECT count(*) FROM jobs WHERE id = ${a}`;
              // Another transaction changes and commits what this one has read, and then writes itself.
              const other = yield* sql.reserve;
              yield* other.executeUnprepared(`UPDATE jobs SET type = 'other' WHERE id = '${a}'`, [], undefined);
              yield* touch(a);
            }).pipe(Effect.scoped),
          ),
        );
        assert.strictEqual(lostRace._tag === "SqlError" && classify(lostRace), "Serialization");

        const busy = yield* Effect.flip(
          db.withTransaction(
            Effect.gen(function* () {
              yield* touch(a);
              const other = yield* sql.reserve;
              const locks = `SELECT 1 FROM jobs WHERE id = '${a}' FOR UPDATE NOWAIT`;
              yield* other.executeUnprepared(locks, [], undefined).pipe(refused("test"));
            }).pipe(Effect.scoped),
          ),
        );
        assert.strictEqual(busy._tag === "SqlError" && classify(busy), "LockNotAvailable");
      }),
    );

    it.effect("a statement that is wrong, and one that is cancelled", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        for (const [statement, code] of [
          [sql`SELECT FROM WHERE`, "42601"],
          [sql`SELECT no_such_column FROM jobs`, "42703"],
          [sql`SELECT 1 FROM no_such_table`, "42P01"],
          [sql`SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)`, "57014"],
        ] as const) {
          const error = yield* Effect.flip(statement.pipe(refused("test")));
          assert.strictEqual(error._tag, "SqlError");
          assert.strictEqual(error instanceof SqlError && databaseError(error).code, code);
        }
      }),
    );
  });

  it.effect("leaves every other error as it is", () =>
    Effect.gen(function* () {
      const mine = { _tag: "Mine" } as const;
      assert.strictEqual(yield* Effect.flip(Effect.fail(mine).pipe(refused("test"))), mine);
      assert.strictEqual(yield* Effect.flip(Effect.fail(mine).pipe(refusedWrite("test", []))), mine);
      assert.strictEqual(yield* Effect.succeed(7).pipe(refused("test")), 7);
      const exit = yield* Effect.exit(Effect.die("bug").pipe(refused("test")));
      assert.strictEqual(exit._tag === "Failure" && exit.cause._tag, "Die");
    }),
  );

  it.effect("counter-test: a row policy and a foreign key that are gone are no longer told", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [mine, theirs, nobody] = [yield* newTenant, yield* newTenant, randomUUID()];
      yield* deadJob(theirs);
      const told = Effect.gen(function* () {
        const foreign = yield* Effect.either(Client.tenant(mine)(db.jobs.enqueue(work(theirs))));
        const unknown = yield* Effect.either(Client.system(db.jobs.enqueue(work(nobody))));
        return [foreign, unknown].map((_) => (Either.isLeft(_) ? _.left._tag : "written"));
      });
      assert.deepStrictEqual(yield* told, ["AccessDenied", "AppNotFound"]);
      yield* sql`ALTER TABLE jobs DISABLE ROW LEVEL SECURITY`;
      yield* sql`ALTER TABLE jobs DROP CONSTRAINT jobs_app_id_fkey`;
      assert.deepStrictEqual(yield* told, ["written", "written"]);
      yield* sql`DELETE FROM jobs WHERE app_id = ${nobody}`;
      yield* sql`ALTER TABLE jobs ADD CONSTRAINT jobs_app_id_fkey FOREIGN KEY (app_id) REFERENCES apps (id) ON DELETE RESTRICT`;
      yield* sql`ALTER TABLE jobs ENABLE ROW LEVEL SECURITY`;
      assert.deepStrictEqual(yield* told, ["AccessDenied", "AppNotFound"]);
    }),
  );
});
