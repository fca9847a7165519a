import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import * as Databases from "../src/databases.js";
import * as Postgres from "../src/postgres.js";
import { query, urlWith } from "./support/sql.js";

const nameOf = (url: Redacted.Redacted) => new URL(Redacted.value(url)).pathname.slice(1);
const server = Effect.map(Postgres.Postgres, ({ url }) => url);

const exists = (name: string) =>
  Effect.gen(function* () {
    const rows = yield* query(yield* server, `SELECT 1 FROM pg_database WHERE datname = '${name}'`);
    return rows.length === 1;
  });

const prepare = (url: Redacted.Redacted) => query(url, "CREATE TABLE things AS SELECT generate_series(1, 3) AS number");

// On whatever server the tests run on.
layer(Layer.orDie(Postgres.layerConfig()), { excludeTestServices: true })("databases", (it) => {
  it.scoped("an empty one is empty, has a name of its own and is dropped with its scope", () =>
    Effect.gen(function* () {
      const [one, other] = yield* Effect.scoped(
        Effect.gen(function* () {
          const urls = [yield* Databases.empty(yield* server), yield* Databases.empty(yield* server)] as const;
          for (const url of urls) {
            assert.deepStrictEqual(yield* query(url, "SELECT current_database() AS name"), [{ name: nameOf(url) }]);
            assert.deepStrictEqual(yield* query(url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'"), []);
            assert.isTrue(yield* exists(nameOf(url)));
          }
          return urls;
        }),
      );
      assert.notStrictEqual(nameOf(one), nameOf(other));
      for (const url of [one, other]) assert.isFalse(yield* exists(nameOf(url)));
    }),
  );

  it.scoped("eight clones of a template at once have its rows, and are independent", () =>
    Effect.gen(function* () {
      const url = yield* server;
      const template = yield* Databases.template(url, prepare);
      const clones = yield* Effect.all(
        Array.from({ length: 8 }, () => Databases.clone(url, template)),
        { concurrency: "unbounded" },
      );
      assert.strictEqual(new Set(clones.map(nameOf)).size, 8);
      yield* Effect.forEach(clones, (clone, index) => query(clone, `DELETE FROM things WHERE number > ${index % 4}`), {
        concurrency: "unbounded",
      });
      const counts = yield* Effect.forEach(clones, (clone) =>
        query(clone, "SELECT count(*)::int AS count FROM things"),
      );
      assert.deepStrictEqual(
        counts.flat(),
        clones.map((_, index) => ({ count: index % 4 })),
      );
    }),
  );

  it.scoped("template and clone are dropped with their scopes, though somebody is connected", () =>
    Effect.gen(function* () {
      const url = yield* server;
      const names = yield* Effect.scoped(
        Effect.gen(function* () {
          const template = yield* Databases.template(url, prepare);
          const clone = yield* Databases.clone(url, template);
          const sleeping =
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(600)'";
          yield* Effect.forkDaemon(Effect.exit(query(clone, "SELECT pg_sleep(600)")));
          yield* Effect.repeat(query(clone, sleeping), { until: (rows) => rows.length === 1 });
          assert.isTrue(yield* exists(template));
          assert.isTrue(yield* exists(nameOf(clone)));
          return [template, nameOf(clone)];
        }),
      );
      for (const name of names) assert.isFalse(yield* exists(name));
    }),
  );

  it.scoped("a template that cannot be prepared fails with that error, and is dropped", () =>
    Effect.gen(function* () {
      const url = yield* server;
      let name = "";
      const error = yield* Effect.flip(
        Effect.scoped(
          Databases.template(url, (database) => {
            name = nameOf(database);
            return Effect.fail("no" as const);
          }),
        ),
      );
      assert.strictEqual(error, "no");
      assert.match(name, /^portal_template_/);
      assert.isFalse(yield* exists(name));
    }),
  );

  it.scoped(
    "a clone of what does not exist fails with the statement and the reason, and takes the name literally",
    () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Databases.clone(yield* server, 'x"; DROP DATABASE postgres; --'));
        assert.strictEqual(error._tag, "DatabasesError");
        assert.match(error.statement, /^CREATE DATABASE portal_clone_\w+ TEMPLATE "x""; DROP DATABASE postgres; --"$/);
        assert.include(error.message, 'template database "x"; DROP DATABASE postgres; --" does not exist');
      }),
  );

  it.scoped("a login without the right to create databases is told so", () =>
    Effect.gen(function* () {
      const url = yield* server;
      const name = `nobody_${process.pid}`;
      yield* query(url, `CREATE ROLE ${name} LOGIN PASSWORD 'secret'`);
      yield* Effect.addFinalizer(() => Effect.orDie(query(url, `DROP ROLE ${name}`)));
      const error = yield* Effect.flip(Databases.empty(urlWith(url, { username: name, password: "secret" })));
      assert.include(error.message, "permission denied to create database");
      assert.include(error.message, "CREATEDB");
    }),
  );
});
