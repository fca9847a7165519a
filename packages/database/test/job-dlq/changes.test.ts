import { createHash, randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Chunk from "effect/Chunk";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Queue from "effect/Queue";
import * as Redacted from "effect/Redacted";
import * as Ref from "effect/Ref";
import * as Stream from "effect/Stream";
import pg from "pg";
import { vi } from "vitest";
import * as Client from "../../src/client.js";
import { type Arrival, arrivals, beginning, type ChangesOptions } from "../../src/job-dlq/changes.js";
import { encodePosition, lastId, placeOfSnapshot } from "../../src/job-dlq/position.js";
import { DatabaseService } from "../../src/repos.js";
import { asFromDump, letter, newTenant, TestDatabase, TestUrl, work } from "../support/database.js";
import * as Proxy from "../support/proxy.js";

// An arrival waits for every transaction on the server that writes, and other files' tests may write for long.
vi.setConfig({ testTimeout: 600_000 });

const actor = "test";
const system = { _tag: "system" } as const;
const tenantOf = (appId: string) => ({ _tag: "tenant", appId }) as const;
// Nothing in a test may be saved by the slow poll, unless it says so.
const never = "1 hour";

/** The letter's id, whether or not it fits the model. */
const idOf = ({ letter: one }: Arrival) => Either.match(one, { onLeft: ({ id }) => id, onRight: ({ id }) => id });

/**
 * Follows arrivals from now on; returns what takes the ids up to and with the given one. Whatever came too much would be there,
 * because arrivals are in order.
 */
const follow = (options: ChangesOptions) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const after = options.after ?? (yield* db.jobDlq.changesPosition());
    const queue = yield* Queue.unbounded<Arrival>();
    const fiber = yield* Effect.forkScoped(
      Stream.runForEach(db.jobDlq.changes({ pollInterval: never, ...options, after }), (_) => Queue.offer(queue, _)),
    );
    const until = (id: string): Effect.Effect<ReadonlyArray<string>> =>
      Effect.flatMap(Queue.take(queue), (arrival) =>
        idOf(arrival) === id
          ? Effect.succeed([id])
          : Effect.map(until(id), (rest): ReadonlyArray<string> => [idOf(arrival), ...rest]),
      );
    // A failure of the stream is one of the test.
    return {
      until: (id: string) => Effect.raceFirst(until(id), Effect.zipRight(Fiber.join(fiber), Effect.never)),
      queue,
    };
  });

/** A connection for transactions that a test begins and ends as it likes. */
const connection = Effect.gen(function* () {
  const url = yield* TestUrl;
  return yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const client = new pg.Client({ connectionString: Redacted.value(url) });
      client.on("error", () => undefined);
      await client.connect();
      return client;
    }),
    (client) => Effect.promise(() => client.end()),
  );
});
const query = (client: pg.Client, text: string, values: Array<unknown> = []) =>
  Effect.promise(() => client.query(text, values));
const insertText = `
  INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history)
  VALUES ($1, gen_random_uuid(), $2, 'raw', '1', 'MaxRetries', 1, '[]')`;

const inserted = (appId: string) =>
  Effect.flatMap(DatabaseService, (db) =>
    Effect.map(Client.tenant(appId)(db.jobDlq.insert(letter(appId))), (_) => _.id),
  );

const listeners = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.map(
    sql<{ pid: number; port: number }>`
      SELECT pid, client_port AS port FROM pg_stat_activity
      WHERE datname = current_database() AND query IN ('LISTEN "job_dlq"', 'SELECT 1') AND application_name = 'parametric-portal'
      ORDER BY pid`,
    (rows) => rows,
  ),
);
const listening = (count: number) => Effect.repeat(listeners, { until: (rows) => rows.length === count });

layer(TestDatabase, { excludeTestServices: true })("jobDlq.changes", (it) => {
  describe("emits what comes into the table", () => {
    it.scoped("by insert, insertMany, dead-lettering, restore and import, in order, once", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { until } = yield* follow({ scope: tenantOf(appId) });
        const inTenant = Client.tenant(appId);
        const one = yield* inserted(appId);
        const many = yield* inTenant(
          Effect.gen(function* () {
            yield* db.jobDlq.insertMany([letter(appId, { type: "many" }), letter(appId, { type: "many" })]);
            return (yield* db.jobDlq.find({ type: "many" })).map(({ id }) => id).sort();
          }),
        );
        const job = yield* inTenant(db.jobs.enqueue(work(appId)));
        const dead = yield* inTenant(db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: "x" }));
        const [discarded] = yield* inTenant(db.jobDlq.discard([one], { actor, reason: "x" }));
        yield* inTenant(db.jobDlq.restore([discarded?.eventId ?? ""], { actor }));
        const lines = yield* Stream.runCollect(db.jobDlq.exportTo({ ids: [dead.id] }, { scope: tenantOf(appId) }));
        yield* sql`DELETE FROM job_dlq WHERE id = ${dead.id}::uuid`;
        yield* Stream.runDrain(db.jobDlq.importFrom(Stream.fromChunk(lines), { actor, scope: tenantOf(appId) }));
        const last = yield* inserted(appId);
        const seen = yield* until(last);
        // A letter that is discarded before it is read is not emitted at that place; restored it is.
        assert.deepStrictEqual(
          seen.filter((id) => id !== one && id !== dead.id),
          [...many, last],
        );
        assert.strictEqual(seen.lastIndexOf(one) < seen.lastIndexOf(dead.id), true);
        assert.isTrue(seen.includes(one) && seen.includes(dead.id) && seen.length <= 7);
      }),
    );

    it.scoped("after a load from a dump of another server, once these letters are said to arrive now", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const loaded = [yield* inserted(appId), yield* inserted(appId)];
        yield* asFromDump([appId]);
        const { until } = yield* follow({ scope: tenantOf(appId) });
        const next = yield* inserted(appId);
        assert.deepStrictEqual(yield* until(next), [next]);
        // As the documentation has it.
        yield* Client.system(
          sql`UPDATE job_dlq SET arrived = DEFAULT WHERE arrived >= pg_snapshot_xmax(pg_current_snapshot())`,
        );
        const last = yield* inserted(appId);
        assert.deepStrictEqual(yield* until(last), [...loaded.sort(), last]);
      }),
    );

    it.scoped("from now on, or from a position, or from the beginning", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const scope = tenantOf(appId);
        const before = [yield* inserted(appId), yield* inserted(appId)];
        const position = yield* db.jobDlq.changesPosition();
        const after = [yield* inserted(appId), yield* inserted(appId)];
        const first = (count: number, from: string) =>
          Effect.map(Stream.runCollect(Stream.take(db.jobDlq.changes({ scope, after: from }), count)), (_) =>
            Chunk.toReadonlyArray(Chunk.map(_, idOf)),
          );
        assert.deepStrictEqual(yield* first(4, beginning), [...before, ...after]);
        assert.deepStrictEqual(yield* first(2, position), after);
        // Without a position only what comes after the start; the start is over when the first one has come.
        const queue = yield* Queue.unbounded<string>();
        yield* Effect.forkScoped(
          Stream.runForEach(db.jobDlq.changes({ scope, pollInterval: never }), (_) => Queue.offer(queue, idOf(_))),
        );
        const knock = Effect.repeat(Effect.zipRight(inserted(appId), Queue.poll(queue)), {
          until: Option.isSome,
        });
        const seen = Option.getOrThrow(yield* knock);
        assert.notInclude([...before, ...after], seen);
      }),
    );

    it.scoped("tenant by tenant, and all of it in the system scope", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* newTenant, yield* newTenant];
        const ofA = yield* follow({ scope: tenantOf(a.toUpperCase()) });
        const ofB = yield* follow({ scope: tenantOf(b) });
        const ofAll = yield* follow({ scope: system });
        const ids: Array<readonly [string, string]> = [];
        for (const appId of [a, b, b, a, b, a]) ids.push([appId, yield* inserted(appId)]);
        const of = (appId: string) => ids.filter(([owner]) => owner === appId).map(([, id]) => id);
        assert.deepStrictEqual(yield* ofA.until(of(a).at(-1) ?? ""), of(a));
        assert.deepStrictEqual(yield* ofB.until(of(b).at(-1) ?? ""), of(b));
        const mine = new Set(ids.map(([, id]) => id));
        const all = yield* ofAll.until(ids.at(-1)?.[1] ?? "");
        assert.deepStrictEqual(
          all.filter((id) => mine.has(id)),
          [...mine],
        );
      }),
    );

    it.scoped("also rows that do not fit the model, as what they are", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { queue } = yield* follow({ scope: tenantOf(appId) });
        yield* sql`
          INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history)
          SELECT uuidv7(), ${appId}::uuid, 'x', '1', 'MaxRetries', 1, history::jsonb FROM unnest(ARRAY['[]', '[1]', '[]']) AS history`;
        const three = yield* Queue.takeN(queue, 3);
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(three).map(({ letter: one }) => (Either.isRight(one) ? one.right.type : one.left._tag)),
          ["x", "BadRow", "x"],
        );
      }),
    );

    it.scoped("but nothing that was rolled back", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const { until } = yield* follow({ scope: tenantOf(appId) });
        const client = yield* connection;
        yield* query(client, "BEGIN");
        yield* query(client, insertText, [randomUUID(), appId]);
        yield* query(client, "ROLLBACK");
        yield* query(client, "BEGIN");
        const [kept, undone] = [randomUUID(), randomUUID()];
        yield* query(client, insertText, [kept, appId]);
        yield* query(client, "SAVEPOINT s");
        yield* query(client, insertText, [undone, appId]);
        yield* query(client, "ROLLBACK TO s");
        yield* query(client, "COMMIT");
        assert.deepStrictEqual(yield* until(kept), [kept]);
        const last = yield* inserted(appId);
        assert.deepStrictEqual(yield* until(last), [last]);
      }),
    );

    it.scoped("10,000 rows of one statement, in pages of bounded size, however slow the consumer", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const after = yield* db.jobDlq.changesPosition();
        const [hasBegun, mayGoOn] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
        const pages = yield* Ref.make<ReadonlyArray<number>>([]);
        const ids = yield* Effect.fork(
          db.jobDlq.changes({ scope: tenantOf(appId), after, pollInterval: never, batchSize: 70 }).pipe(
            Stream.chunks,
            Stream.tap((page) => Ref.update(pages, (_) => [..._, page.length])),
            Stream.tap(() => Effect.zipRight(Deferred.succeed(hasBegun, undefined), Deferred.await(mayGoOn))),
            Stream.flattenChunks,
            Stream.take(10_001),
            Stream.map(idOf),
            Stream.runCollect,
          ),
        );
        const first = yield* inserted(appId);
        yield* Deferred.await(hasBegun);
        yield* Client.tenant(appId)(db.jobDlq.insertMany(Array.from({ length: 10_000 }, () => letter(appId))));
        assert.deepStrictEqual(yield* Ref.get(pages), [1]);
        yield* Deferred.succeed(mayGoOn, undefined);
        const seen = [...(yield* Fiber.join(ids))];
        assert.strictEqual(seen[0], first);
        assert.strictEqual(new Set(seen).size, 10_001);
        assert.isAtMost(Math.max(...(yield* Ref.get(pages))), 70);
      }),
    );
  });

  describe("waits for transactions that are still open", () => {
    it.scoped("so that what commits later is not missed, and nothing comes twice", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { until } = yield* follow({ scope: tenantOf(appId) });
        const client = yield* connection;
        const early = randomUUID();
        yield* query(client, "BEGIN");
        yield* query(client, insertText, [early, appId]);
        const late = yield* inserted(appId);
        // The later one is there for everybody to see, and must wait.
        const look = Client.tenant(appId)(arrivals(sql, { arrived: "0", id: lastId, start: "" }, 10));
        assert.deepInclude((yield* look)[0], { id: null, isHeldBack: true });
        // Who went by the order of transactions without waiting would now stand behind the earlier one.
        const naive = Client.tenant(appId)(
          sql<{ id: string; arrived: string }>`SELECT id, arrived::text AS arrived FROM job_dlq ORDER BY arrived`,
        );
        const before = yield* naive;
        yield* query(client, "COMMIT");
        const beyond = (yield* naive).filter(({ arrived }) => BigInt(arrived) > BigInt(before.at(-1)?.arrived ?? 0));
        assert.deepStrictEqual(beyond, []);
        assert.deepStrictEqual(yield* until(late), [early, late]);
        const last = yield* inserted(appId);
        assert.deepStrictEqual(yield* until(last), [last]);
      }),
    );

    it.scoped("and looks again by itself when one ends that notified nobody", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { until } = yield* follow({ scope: tenantOf(appId) });
        const client = yield* connection;
        yield* query(client, "BEGIN");
        yield* query(client, "SELECT pg_current_xact_id()");
        const one = yield* inserted(appId);
        const look = Client.tenant(appId)(arrivals(sql, { arrived: "0", id: lastId, start: "" }, 10));
        assert.deepInclude((yield* look)[0], { id: null, isHeldBack: true });
        yield* query(client, "ROLLBACK");
        assert.deepStrictEqual(yield* until(one), [one]);
      }),
    );

    it.scoped("also those that were open when it began, and leaves out what had been committed then", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const [first, second] = [yield* connection, yield* connection];
        const [a, b] = [randomUUID(), randomUUID()];
        yield* query(first, "BEGIN");
        yield* query(first, insertText, [a, appId]);
        yield* inserted(appId);
        yield* query(second, "BEGIN");
        yield* query(second, insertText, [b, appId]);
        yield* inserted(appId);
        const { queue, until } = yield* follow({ scope: tenantOf(appId) });
        const last = yield* inserted(appId);
        yield* query(second, "COMMIT");
        yield* query(first, "COMMIT");
        const one = yield* Queue.take(queue);
        assert.strictEqual(idOf(one), a);
        assert.deepStrictEqual(yield* until(last), [b, last]);
        // The position among them still knows what had been committed.
        const again = yield* follow({ scope: tenantOf(appId), after: one.position });
        assert.deepStrictEqual(yield* again.until(last), [b, last]);
        assert.notStrictEqual(one.position, yield* db.jobDlq.changesPosition());
      }),
    );
  });

  describe("goes on", () => {
    it.scoped("from any position in a new stream, with neither gap nor double", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const scope = tenantOf(appId);
        const start = yield* db.jobDlq.changesPosition();
        const ids: Array<string> = [];
        for (let i = 0; i < 5; i++) ids.push(yield* inserted(appId));
        yield* Client.tenant(appId)(db.jobDlq.insertMany([letter(appId), letter(appId), letter(appId)]));
        const all = Chunk.toReadonlyArray(
          yield* Stream.runCollect(Stream.take(db.jobDlq.changes({ scope, after: start }), 8)),
        );
        assert.deepStrictEqual(all.map(idOf).slice(0, 5), ids);
        for (const [i, { position }] of all.entries()) {
          const { until } = yield* follow({ scope, after: position, batchSize: 1 + (i % 3) });
          const rest = all.slice(i + 1).map(idOf);
          const next = rest.at(-1);
          if (next !== undefined) assert.deepStrictEqual(yield* until(next), rest);
        }
        const { until } = yield* follow({ scope, after: all.at(-1)?.position });
        const last = yield* inserted(appId);
        assert.deepStrictEqual(yield* until(last), [last]);
      }),
    );

    it.scoped("when its listening connection is killed, with what came in the gap", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { until } = yield* follow({ scope: tenantOf(appId) });
        for (let round = 0; round < 3; round++) {
          const [listener] = yield* listening(1);
          const id = randomUUID();
          const client = yield* connection;
          yield* query(client, "BEGIN");
          yield* query(client, insertText, [id, appId]);
          // It is gone before the notification is sent.
          yield* sql`SELECT pg_terminate_backend(${listener?.pid}::int, 5000)`;
          yield* query(client, "COMMIT");
          assert.deepStrictEqual(yield* until(id), [id]);
        }
        assert.strictEqual((yield* listening(1)).length, 1);
      }),
    );

    it.scoped("when all connections are killed again and again", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const killer = yield* connection;
        const { until } = yield* follow({ scope: tenantOf(appId) });
        const ids: Array<string> = [];
        for (let round = 0; round < 5; round++) {
          yield* query(
            killer,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
          );
          const id = randomUUID();
          ids.push(id);
          yield* query(killer, insertText, [id, appId]);
        }
        assert.deepStrictEqual(yield* until(ids.at(-1) ?? ""), ids);
      }),
    );

    it.scoped("by the slow poll when nothing is notified", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { until } = yield* follow({ scope: tenantOf(appId), pollInterval: "50 millis" });
        const first = yield* inserted(appId);
        yield* until(first);
        yield* sql`ALTER TABLE job_dlq DISABLE TRIGGER job_dlq_notify`;
        const id = yield* inserted(appId);
        yield* sql`ALTER TABLE job_dlq ENABLE TRIGGER job_dlq_notify`;
        assert.deepStrictEqual(yield* until(id), [id]);
      }),
    );

    it.scoped("when its listening connection is half open, and then it listens anew", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const appId = yield* newTenant;
        const proxy = yield* Proxy.make(url);
        const proxied = Layer.provideMerge(
          DatabaseService.layer,
          Client.layer({ url: proxy.url, applicationName: "proxied" }),
        );
        const mine = Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => sql<{ pid: number; port: number }>`
          SELECT pid, client_port AS port FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'proxied' AND query IN ('LISTEN "job_dlq"', 'SELECT 1')`,
        );
        const { until } = yield* Effect.flatMap(Layer.build(proxied), (context) =>
          Effect.provide(follow({ scope: tenantOf(appId), pollInterval: "200 millis" }), context),
        );
        const first = yield* inserted(appId);
        yield* until(first);
        const [listener] = yield* Effect.repeat(mine, { until: (rows) => rows.length === 1 });
        proxy.deafen(listener?.port ?? 0);
        const id = yield* inserted(appId);
        assert.deepStrictEqual(yield* until(id), [id]);
        yield* Effect.repeat(mine, { until: (rows) => rows.some(({ pid }) => pid !== listener?.pid) });
      }),
    );

    it.scoped("and leaves no connection behind when it ends", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* listening(0);
        const fiber = yield* Effect.fork(
          Stream.runDrain(db.jobDlq.changes({ scope: tenantOf(appId), pollInterval: never })),
        );
        yield* listening(1);
        yield* Fiber.interrupt(fiber);
        assert.deepStrictEqual(yield* listening(0), []);
      }),
    );
  });

  describe("refuses", () => {
    const refused = (options: Partial<ChangesOptions>) =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        return yield* Effect.flip(Stream.runDrain(db.jobDlq.changes({ scope: tenantOf(appId), ...options })));
      });
    const bad: ReadonlyArray<readonly [string, Partial<ChangesOptions>, string]> = [
      ["a position that is none", { after: "x" }, "after"],
      ["an empty position", { after: "" }, "after"],
      [
        "a position of another database",
        { after: encodePosition(placeOfSnapshot("99999999999:99999999999:")) },
        "after",
      ],
      ["a batch of 0", { batchSize: 0 }, "batchSize"],
      ["a batch of 1,001", { batchSize: 1001 }, "batchSize"],
      ["a poll without pause", { pollInterval: 0 }, "pollInterval"],
      ["a poll that never comes", { pollInterval: "Infinity" as never }, "pollInterval"],
      ["a tenant that is no uuid", { scope: tenantOf("x") }, "appId"],
    ];
    for (const [name, options, field] of bad) {
      it.effect(name, () =>
        Effect.gen(function* () {
          const error = yield* refused(options);
          assert.strictEqual(error._tag === "InvalidInput" && error.field, field);
        }),
      );
    }

    it.effect("to run inside a transaction, which would hold it back itself", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const attempt = Effect.flip(Stream.runDrain(db.jobDlq.changes({ scope: tenantOf(appId) })));
        const inside = [
          Client.tenant(appId)(attempt),
          db.withTransaction(attempt),
          Client.tenant(appId)(Effect.flip(db.jobDlq.changesPosition())),
        ];
        for (const one of inside) assert.include((yield* one).message, "is inside a transaction");
      }),
    );

    it.effect("to go on when a right is missing", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        yield* sql`REVOKE SELECT ON job_dlq FROM parametric_tenant`;
        const error = yield* Effect.ensuring(
          refused({}),
          Effect.orDie(sql`GRANT SELECT ON job_dlq TO parametric_tenant`),
        );
        assert.strictEqual(error._tag, "AccessDenied");
      }),
    );
  });

  describe("the notification", () => {
    const md5 = (text: string) => createHash("md5").update(text).digest("hex");
    /** The payloads that are sent while the effect runs. */
    const notified = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.scoped(
        Effect.gen(function* () {
          const client = yield* connection;
          const payloads: Array<string> = [];
          const isOver = yield* Deferred.make<void>();
          const end = randomUUID();
          client.on("notification", ({ payload = "" }) =>
            payload === end ? Deferred.unsafeDone(isOver, Effect.void) : payloads.push(payload),
          );
          yield* query(client, "LISTEN job_dlq");
          yield* effect;
          yield* query(client, "SELECT pg_notify('job_dlq', $1)", [end]);
          yield* Deferred.await(isOver);
          return payloads;
        }),
      );

    it.effect("is one for each statement and tenant, and names the tenant by its hash", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const apps = [yield* newTenant, yield* newTenant, yield* newTenant];
        const [a = "", b = "", c = ""] = apps;
        assert.deepStrictEqual(yield* notified(inserted(a)), [md5(a)]);
        const many = Array.from({ length: 1_000 }, () => letter(a));
        assert.deepStrictEqual(yield* notified(Client.tenant(a)(db.jobDlq.insertMany(many))), [md5(a)]);
        const mixed = Array.from({ length: 300 }, (_, i) => letter(apps[i % 3] ?? ""));
        const ofMixed = yield* notified(Client.system(db.jobDlq.insertMany(mixed)));
        assert.sameMembers(ofMixed, [md5(a), md5(b), md5(c)]);
        assert.strictEqual(ofMixed.length, 3);
        const two = yield* notified(Effect.zipRight(inserted(a), inserted(b)));
        assert.deepStrictEqual(two, [md5(a), md5(b)]);
        const none = Effect.zipRight(
          sql`UPDATE job_dlq SET attempts = attempts + 1 WHERE app_id = ${a}::uuid`,
          sql`DELETE FROM job_dlq WHERE app_id = ${a}::uuid`,
        );
        assert.deepStrictEqual(yield* notified(none), []);
        assert.deepStrictEqual(
          yield* notified(Effect.flip(Client.tenant(a)(Effect.zipRight(db.jobDlq.insert(letter(a)), Effect.fail(1))))),
          [],
        );
      }),
    );

    it.effect("counter-test: without the trigger there is none", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* sql`ALTER TABLE job_dlq DISABLE TRIGGER job_dlq_notify`;
        const payloads = yield* notified(inserted(appId));
        yield* sql`ALTER TABLE job_dlq ENABLE TRIGGER job_dlq_notify`;
        assert.deepStrictEqual(payloads, []);
      }),
    );
  });

  it.effect("looks by its index, in a tenant's scope too, and without the index it cannot", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const [large, small] = [yield* newTenant, yield* newTenant];
      const plan = (appId: string) =>
        Effect.map(
          Client.tenant(appId)(
            sql`EXPLAIN (COSTS OFF) ${arrivals(sql, { arrived: "50900", id: lastId, start: "50950:50960:" }, 100)}`,
          ),
          (rows) => rows.map((_) => Object.values(_)[0]).join("\n"),
        );
      const plans = sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`TRUNCATE job_dlq`;
          // Many transactions, as in life: all of one would be one entry of the statistics.
          yield* sql`
            INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, arrived)
            SELECT uuidv7(), CASE WHEN i % 100 = 0 THEN ${small}::uuid ELSE ${large}::uuid END, 'x', '1', 'MaxRetries', 1, '[]',
              (1000 + i)::text::xid8
            FROM generate_series(1, 50000) i`;
          yield* sql`ANALYZE job_dlq`;
          const indexed = [yield* plan(large), yield* plan(small)];
          yield* sql`DROP INDEX idx_job_dlq_arrived`;
          // What was there before is there again.
          return yield* Effect.fail({ indexed, bare: yield* plan(large) });
        }),
      );
      const seen = yield* Effect.flip(plans);
      assert.isTrue("indexed" in seen);
      if (!("indexed" in seen)) return;
      for (const text of seen.indexed) {
        assert.match(
          text,
          /idx_job_dlq_arrived( on job_dlq d)?\n +Index Cond: \(\(ROW\(arrived, id\) > .* AND \(arrived < /,
        );
        assert.match(text, /Index Scan using idx_job_dlq_arrived on job_dlq d_1\n +Index Cond: \(arrived >= /);
        assert.notInclude(text, "Seq Scan on job_dlq");
      }
      assert.notInclude(seen.bare, "idx_job_dlq_arrived");
    }),
  );
});
