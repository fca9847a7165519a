import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import { assert, describe, layer } from "@effect/vitest";
import * as Chunk from "effect/Chunk";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Stream from "effect/Stream";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { classify } from "../src/sql-state.js";
import { newTenant, TestDatabase, TestUrl, urlAs, work } from "./support/database.js";
import * as Wire from "./support/wire.js";

const settings = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [row] = yield* sql`
    SELECT current_setting('role') AS role, COALESCE(current_setting('app.current_tenant', true), '') AS tenant,
      pg_current_xact_id_if_assigned()::text AS transaction`;
  return row;
});

layer(TestDatabase, { timeout: "2 minutes" })("a tenant's scope for each statement", (it) => {
  /** On one connection, over a wire that counts, so that whatever is left on it is seen by the next call. */
  const onOneConnection = <A, E>(
    use: (wire: Wire.Wire) => Effect.Effect<A, E, DatabaseService | SqlClient.SqlClient>,
    login?: string,
  ) =>
    Effect.gen(function* () {
      const url = yield* TestUrl;
      const wire = yield* Wire.make(url);
      const own = login === undefined ? url : urlAs(url, login, "secret");
      return yield* Effect.provide(
        use(wire),
        DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url: wire.url(own), maxConnections: 1 }))),
      );
    }).pipe(Effect.scoped);

  describe("takes no round trip beside the statement's", () => {
    it.effect("with values, without, and for several statements in one text", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        yield* onOneConnection((wire) =>
          Effect.gen(function* () {
            const db = yield* DatabaseService;
            const sql = yield* SqlClient.SqlClient;
            yield* settings;
            for (const statement of [
              db.jobs.get(randomUUID()),
              db.jobs.count(),
              sql.unsafe("SELECT 1; SELECT 2"),
              db.jobs.enqueue(work(appId)),
              db.jobs.enqueueMany([work(appId), work(appId)]),
            ]) {
              wire.reset();
              yield* Client.tenantEach(appId)(Effect.asVoid<unknown, unknown, never>(statement));
              assert.strictEqual(wire.answers(), 1);
              assert.lengthOf(wire.sent(), 1);
            }
            assert.deepStrictEqual(yield* Client.tenantEach(appId)(sql.unsafe("SELECT 1 AS a; SELECT 2 AS b")), [
              [{ a: 1 }],
              [{ b: 2 }],
            ] as never);
            wire.reset();
            yield* Client.tenantEach(appId)(Effect.void);
            assert.lengthOf(wire.sent(), 0);
            assert.deepStrictEqual(yield* Client.tenantEach(appId)(sql.unsafe("-- ; nothing")), []);
          }),
        );
      }),
    );
  });

  describe("sees and writes the tenant's rows only", () => {
    it.effect("and leaves nothing on the connection, whichever way the statement ends", () =>
      Effect.gen(function* () {
        const [appId, other] = [yield* newTenant, yield* newTenant];
        yield* onOneConnection(() =>
          Effect.gen(function* () {
            const db = yield* DatabaseService;
            const sql = yield* SqlClient.SqlClient;
            const before = yield* settings;
            const asTenant = Client.tenantEach(appId);
            const foreign = yield* Client.tenantEach(other)(db.jobs.enqueue(work(other)));
            const own = yield* asTenant(db.jobs.enqueue(work(appId)));
            assert.strictEqual(yield* asTenant(db.jobs.count()), 1);
            assert.strictEqual((yield* asTenant(db.jobs.get(foreign.id)))._tag, "None");
            assert.strictEqual((yield* asTenant(db.jobs.get(own.id)))._tag, "Some");
            assert.strictEqual((yield* Effect.flip(asTenant(db.jobs.enqueue(work(other)))))._tag, "AccessDenied");
            const inside = yield* asTenant(settings);
            assert.deepInclude(inside, { role: "parametric_tenant", tenant: appId });
            for (const end of [
              sql`SELECT 1 / ${0}::int`,
              sql.unsafe("SELECT 1; SELECT 1 / 0"),
              sql`SELECT set_config('app.current_tenant', ${other}, true)`,
              Stream.runDrain(sql`SELECT generate_series(1, ${1000}::int) AS n`.stream),
              sql.unsafe("COPY jobs FROM STDIN"),
              sql.unsafe("BEGIN"),
              sql.unsafe("BEGIN; SELECT 1"),
              sql.unsafe("SELECT 1; SELEC 2"),
              sql.unsafe("SELEC 2"),
              Effect.fail("no"),
              Effect.die("bug"),
            ]) {
              yield* Effect.exit(asTenant(end as Effect.Effect<unknown, unknown>));
              assert.deepStrictEqual(yield* settings, before);
              assert.strictEqual(yield* asTenant(db.jobs.count()), 1);
            }
          }),
        );
      }),
    );

    it.effect("also from many fibers at once on few connections", () =>
      Effect.gen(function* () {
        const tenants = yield* Effect.replicateEffect(newTenant, 5);
        const db = yield* DatabaseService;
        yield* Effect.forEach(
          tenants.flatMap((appId, size) => Array.from({ length: 20 * (size + 1) }, () => appId)),
          (appId) => Client.tenantEach(appId)(db.jobs.enqueue(work(appId))),
          { concurrency: 50, discard: true },
        );
        const counts = yield* Effect.forEach(tenants, (appId) => Client.tenantEach(appId)(db.jobs.count()), {
          concurrency: "unbounded",
        });
        assert.deepStrictEqual(counts, [20, 40, 60, 80, 100]);
      }),
    );

    it.effect("and leaves nothing behind when it is interrupted", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const sql = yield* SqlClient.SqlClient;
        const before = yield* settings;
        const asleep = [
          sql`SELECT pg_sleep(${60}::int)`,
          sql.unsafe("SELECT pg_sleep(60)"),
          sql.unsafe("SELECT 1; SELECT pg_sleep(60)"),
        ];
        const fibers = yield* Effect.forEach(asleep, (_) => Effect.fork(Client.tenantEach(appId)(_)));
        // In real time, as the server's is.
        yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 300)));
        yield* Fiber.interruptAll(fibers);
        const seen = yield* Effect.forEach(Array.from({ length: 30 }), () => settings, { concurrency: "unbounded" });
        for (const one of seen) assert.deepStrictEqual(one, before);
        const [row] =
          yield* sql`SELECT count(*)::int AS sleepers FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep(%' AND pid <> pg_backend_pid()`;
        assert.deepStrictEqual(row, { sleepers: 0 } as never);
      }),
    );

    it.effect("and keeps no connection when it is interrupted while it waits for one", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        yield* onOneConnection(() =>
          Effect.gen(function* () {
            const db = yield* DatabaseService;
            const sql = yield* SqlClient.SqlClient;
            const busy = yield* Effect.fork(sql`SELECT pg_sleep(${0.5}::float8)`);
            yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 100)));
            for (const scope of [Client.tenantEach(appId), Client.tenant(appId)]) {
              const waiting = yield* Effect.fork(scope(db.jobs.count()));
              yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 50)));
              yield* Fiber.interruptFork(waiting);
            }
            yield* Fiber.join(busy);
            assert.strictEqual(yield* Client.tenantEach(appId)(db.jobs.count()), 0);
          }),
        );
      }),
    );

    it.effect("in streams", () =>
      Effect.gen(function* () {
        const [appId, other] = [yield* newTenant, yield* newTenant];
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        yield* Client.tenantEach(appId)(db.jobs.enqueueMany(Array.from({ length: 300 }, () => work(appId))));
        yield* Client.tenantEach(other)(db.jobs.enqueue(work(other)));
        const seen = yield* Client.tenantEach(appId)(Stream.runCollect(sql`SELECT app_id FROM jobs`.stream));
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(seen).map((row) => Reflect.get(row as object, "appId")),
          Array.from({ length: 300 }, () => appId),
        );
      }),
    );
  });

  describe("commits each statement by itself", () => {
    it.effect("whatever becomes of the effect, but for a transaction that it opens", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const db = yield* DatabaseService;
        const enqueue = db.jobs.enqueue(work(appId));
        const failing = Client.tenantEach(appId)(
          Effect.gen(function* () {
            yield* enqueue;
            yield* Effect.exit(db.withTransaction(Effect.zipRight(enqueue, Effect.fail("rolled back"))));
            yield* db.withTransaction(Effect.zipRight(enqueue, enqueue));
            return yield* Effect.fail("no");
          }),
        );
        assert.isTrue(Exit.isFailure(yield* Effect.exit(failing)));
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 3);
      }),
    );

    it.effect("but is a part of a transaction that is open around it, and of no other scope", () =>
      Effect.gen(function* () {
        const [appId, other] = [yield* newTenant, yield* newTenant];
        const db = yield* DatabaseService;
        const enqueue = Client.tenantEach(appId)(db.jobs.enqueue(work(appId)));
        yield* Effect.exit(Client.tenant(appId)(Effect.zipRight(enqueue, Effect.fail("rolled back"))));
        yield* Effect.exit(db.withTransaction(Effect.zipRight(enqueue, Effect.fail("rolled back"))));
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
        for (const scope of [Client.system, Client.tenant(other), Client.tenantEach(other)]) {
          assert.strictEqual((yield* Effect.flip(scope(enqueue)))._tag, "ScopeConflict");
        }
        for (const scope of [Client.system, Client.tenant(other)]) {
          assert.strictEqual(
            (yield* Effect.flip(Client.tenantEach(appId)(scope(db.jobs.count()))))._tag,
            "ScopeConflict",
          );
        }
      }),
    );
  });

  describe("a transaction whose first statement fails", () => {
    it.effect("lets nothing be done outside it, whatever that statement was and whoever goes on", () =>
      Effect.gen(function* () {
        const [appId, other] = [yield* newTenant, yield* newTenant];
        const db = yield* DatabaseService;
        const enqueued = yield* Client.tenant(other)(db.jobs.enqueue(work(other)));
        yield* onOneConnection(() =>
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            const before = yield* settings;
            const erase = sql`DELETE FROM jobs WHERE id = ${enqueued.id}::uuid`;
            for (const first of [
              sql.unsafe("SELECT 1; SELEC 2"),
              sql.unsafe("SELEC ';'"),
              sql.unsafe("SELEC 2"),
              sql.unsafe("SELECT 1; SELECT 1 / 0"),
              sql`SELECT 1 / ${0}::int`,
              sql`SELECT ${"\u0000"}::text`,
              sql.unsafe("ROLLBACK"),
              sql.unsafe("ROLLBACK; SELECT 1"),
              sql.unsafe("COMMIT"),
              Stream.runDrain(sql`SELEC 1`.stream),
              sql.unsafe("COPY jobs FROM STDIN"),
            ]) {
              const ignored = Effect.exit(Effect.asVoid<unknown, unknown, never>(first));
              for (const scope of [Client.tenant(appId), sql.withTransaction]) {
                const one = yield* Effect.exit(scope(Effect.zipRight(ignored, erase)));
                assert.isTrue(Exit.isFailure(one));
                const both = yield* Effect.exit(scope(Effect.all([ignored, erase], { concurrency: 2 })));
                assert.isTrue(Exit.isFailure(both));
                assert.deepStrictEqual(yield* settings, before);
                assert.strictEqual(yield* Client.tenant(other)(db.jobs.count()), 1);
              }
            }
          }),
        );
      }),
    );
  });

  describe("is refused", () => {
    it.effect("for what is no uuid, and for a login that is no member, typed", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const sql = yield* SqlClient.SqlClient;
        const db = yield* DatabaseService;
        assert.strictEqual((yield* Effect.flip(Client.tenantEach("7'; --")(db.jobs.count())))._tag, "InvalidInput");
        const name = `login_${randomUUID().slice(0, 8)}`;
        yield* Effect.acquireRelease(sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD 'secret' NOINHERIT`), () =>
          Effect.orDie(sql.unsafe(`DROP ROLE ${name}`)),
        );
        yield* onOneConnection(
          () =>
            Effect.gen(function* () {
              const stranger = yield* DatabaseService;
              const before = yield* settings;
              const asStranger = yield* SqlClient.SqlClient;
              for (const statement of [
                stranger.jobs.count(),
                stranger.jobs.get(randomUUID()),
                Stream.runDrain(asStranger`SELECT 1`.stream),
                stranger.withTransaction(Stream.runDrain(asStranger`SELECT 1`.stream)),
              ]) {
                const error: unknown = yield* Effect.flip(
                  Client.tenantEach(appId)(Effect.asVoid<unknown, { readonly _tag: string }, never>(statement)),
                );
                assert.strictEqual(error instanceof SqlError && classify(error), "Privilege");
                assert.deepStrictEqual(yield* settings, before);
              }
            }),
          name,
        );
      }).pipe(Effect.scoped),
    );
  });
});
