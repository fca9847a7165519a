import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import { assert, describe, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { maxErrorLength, maxHistory } from "../src/error-text.js";
import { InvalidInput } from "../src/errors.js";
import { DatabaseService } from "../src/repos.js";
import { letter, newTenant, TestDatabase } from "./support/database.js";

/** Every way to write one dead letter, so that each refusal is shown for both. */
const writers = [
  ["insert", ""],
  ["insertMany", "entries[1]."],
] as const;

layer(TestDatabase, { excludeTestServices: true })("jobDlq", (it) => {
  const write = (method: (typeof writers)[number][0], appId: string, entry: ReturnType<typeof letter>) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      return yield* method === "insert"
        ? Effect.asVoid(db.jobDlq.insert(entry))
        : Effect.asVoid(db.jobDlq.insertMany([letter(appId), entry, letter(appId)]));
    });

  describe("insert and insertMany", () => {
    it.effect("store a dead letter as it was given, and it is pending", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const ids = { requestId: Option.some(randomUUID()), userId: Option.some(randomUUID()) };
        const entry = letter(appId, ids);
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const stored = yield* db.jobDlq.insert(entry);
            const { dlqAt, id, ...rest } = stored;
            assert.deepStrictEqual({ ...rest }, { ...entry } as never);
            assert.deepStrictEqual(yield* db.jobDlq.get(id), Option.some(stored));
            assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
            assert.isTrue(DateTime.isUtc(dlqAt));
          }),
        );
      }),
    );

    it.effect("take the time from the database, or the one that is given", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const stored = yield* db.jobDlq.insert(letter(appId));
            const rows = yield* sql`SELECT dlq_at = now() AS same FROM job_dlq WHERE id = ${stored.id}`;
            assert.deepStrictEqual(rows, [{ same: true }]);
            const at = DateTime.unsafeMake("2026-01-02T03:04:05.678Z");
            const chosen = yield* db.jobDlq.insert({ ...letter(appId), dlqAt: at as never });
            assert.deepStrictEqual(chosen.dlqAt, at);
          }),
        );
      }),
    );

    it.effect("insertMany stores any number: none, one, and more than one statement's parameters", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            assert.strictEqual(yield* db.jobDlq.insertMany([]), 0);
            assert.strictEqual(yield* db.jobDlq.insertMany([letter(appId)]), 1);
            const many = Array.from({ length: 10_001 }, (_, i) => letter(appId, { type: "bulk", payload: i }));
            assert.strictEqual(yield* db.jobDlq.insertMany(many), 10_001);
            assert.strictEqual(yield* db.jobDlq.count({ type: "bulk" }), 10_001);
          }),
        );
      }),
    );

    it.effect("insertMany stores all or none, also over several statements", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const entries = Array.from({ length: 10_001 }, (_, i) =>
          letter(appId, { payload: i === 10_000 ? { huge: "x" } : i, type: i === 10_000 ? "last" : "first" }),
        );
        const sql = yield* SqlClient.SqlClient;
        // The last row is refused by the database, in the second statement.
        yield* sql`ALTER TABLE job_dlq ADD CONSTRAINT refuses_last CHECK (type <> 'last')`;
        const error = yield* Effect.flip(Client.system(db.jobDlq.insertMany(entries)));
        yield* sql`ALTER TABLE job_dlq DROP CONSTRAINT refuses_last`;
        assert.strictEqual(error._tag, "InvalidInput");
        assert.strictEqual(yield* Client.system(db.jobDlq.count({ appId })), 0);
      }),
    );
  });

  describe("bad input is refused, named, and nothing is written", () => {
    const bad: ReadonlyArray<readonly [string, Record<string, unknown>, string]> = [
      ["a payload that is undefined", { payload: undefined }, "payload at $"],
      ["a payload with NaN", { payload: { a: [{ b: Number.NaN }] } }, "payload at $.a[0].b"],
      ["a payload with a Map", { payload: { m: new Map() } }, "payload at $.m"],
      ["a payload with a BigInt", { payload: [1n] }, "payload at $[0]"],
      ["a payload with NUL", { payload: "a\u0000" }, "payload at $"],
      ["a payload with a lone surrogate", { payload: { x: "\uD800" } }, "payload at $.x"],
      [
        "a cyclic payload",
        {
          payload: (() => {
            const o: Record<string, unknown> = {};
            o.self = o;
            return o;
          })(),
        },
        "payload at $.self",
      ],
      ["an errorHistory that is no array", { errorHistory: { error: "x" } }, "errorHistory"],
      ["an errorHistory entry without a timestamp", { errorHistory: [{ error: "x" }] }, "errorHistory.0.timestamp"],
      [
        "an errorHistory timestamp that is NaN",
        { errorHistory: [{ error: "x", timestamp: Number.NaN }] },
        "errorHistory at $[0].timestamp",
      ],
      ["an originalJobId that is no uuid", { originalJobId: "7" }, "originalJobId"],
      ["an appId that is missing", { appId: undefined }, "appId"],
      ["a userId that is no uuid", { userId: Option.some("nobody") }, "userId"],
      ["a requestId that is no Option", { requestId: randomUUID() }, "requestId"],
      ["attempts that are no whole number", { attempts: 1.5 }, "attempts"],
      ["attempts below zero", { attempts: -1 }, "attempts"],
      ["attempts beyond an integer", { attempts: 3e9 }, "attempts"],
      ["a blank type", { type: "  " }, "type"],
      ["a type with NUL", { type: "a\u0000" }, "type"],
      ["a reason with a lone surrogate", { errorReason: "\uDC00" }, "errorReason"],
    ];
    for (const [method, prefix] of writers) {
      for (const [name, given, field] of bad) {
        it.effect(`${method}: ${name}`, () =>
          Effect.gen(function* () {
            const db = yield* DatabaseService;
            const appId = yield* newTenant;
            const entry = { ...letter(appId), ...given } as ReturnType<typeof letter>;
            const error = yield* Effect.flip(Client.tenant(appId)(write(method, appId, entry)));
            assert.strictEqual(error._tag, "InvalidInput");
            assert.include(error.message, `jobDlq.${method}: ${prefix}${field} `);
            assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 0);
          }),
        );
      }

      it.effect(`${method}: an app that does not exist is AppNotFound with its id`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const unknown = randomUUID();
          const error = yield* Effect.flip(Client.system(write(method, appId, letter(unknown))));
          assert.strictEqual(error._tag, "AppNotFound");
          assert.include(error.message, unknown);
          assert.strictEqual(yield* Client.system(db.jobDlq.count({ appId })), 0);
        }),
      );

      it.effect(`${method}: another tenant's row is refused, whether or not that tenant exists`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const [mine, theirs] = [yield* newTenant, yield* newTenant];
          for (const foreign of [theirs, randomUUID()]) {
            const error = yield* Effect.flip(Client.tenant(mine)(write(method, mine, letter(foreign))));
            assert.strictEqual(error._tag, "AccessDenied");
            assert.strictEqual("reason" in error && error.reason, "ForeignTenant");
          }
          assert.strictEqual(yield* Client.system(db.jobDlq.count({ appId: theirs })), 0);
          assert.strictEqual(yield* Client.tenant(mine)(db.jobDlq.count()), 0);
        }),
      );
    }

    it.effect("what throws when it is looked at", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const { proxy, revoke } = Proxy.revocable<Array<never>>([], {});
        revoke();
        const throwing = new Proxy(
          {},
          {
            get: () => {
              throw new Error("not mine");
            },
          },
        );
        const refused = (call: Effect.Effect<unknown, unknown, SqlClient.SqlClient>) =>
          Effect.map(Effect.flip(Client.tenant(appId)(call)), (error) => {
            assert.instanceOf(error, InvalidInput);
            return error.field;
          });
        const given = letter(appId);
        assert.strictEqual(yield* refused(db.jobDlq.insert(throwing as never)), "input");
        for (const field of ["payload", "errorHistory", "dlqAt", "type", "userId"]) {
          for (const value of [proxy, throwing]) {
            yield* refused(db.jobDlq.insert({ ...given, [field]: value }));
            yield* refused(db.jobDlq.insertMany([given, { ...given, [field]: value }]));
          }
        }
        for (const field of ["payload", "priority", "scheduledAt", "type"]) {
          for (const value of [proxy, throwing])
            yield* refused(db.jobs.set({ status: "pending" }, { [field]: value } as never));
        }
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 0);
      }),
    );

    it.effect("an entry that is no object", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        for (const entry of [null, undefined, 7]) {
          const error = yield* Effect.flip(Client.system(db.jobDlq.insert(entry as never)));
          assert.strictEqual(error._tag, "InvalidInput");
        }
      }),
    );
  });

  describe("an error text never loses a dead letter", () => {
    for (const [name, text, expected] of [
      ["NUL", "a\u0000b", "a\uFFFDb"],
      ["a lone surrogate", "a\uD800b", "a\uFFFDb"],
    ] as const) {
      it.effect(name, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const stored = yield* Client.tenant(appId)(
            db.jobDlq.insert(letter(appId, { errorHistory: [{ error: text, timestamp: 1 }] })),
          );
          assert.strictEqual(stored.errorHistory[0]?.error, expected);
        }),
      );
    }

    it.effect("10 MB", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const stored = yield* Client.tenant(appId)(
          db.jobDlq.insert(letter(appId, { errorHistory: [{ error: "x".repeat(10_000_000), timestamp: 1 }] })),
        );
        assert.isBelow(stored.errorHistory[0]?.error.length ?? 0, maxErrorLength + 60);
        assert.include(stored.errorHistory[0]?.error, "characters cut");
      }),
    );

    it.effect("a history of 10,000 attempts", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const errorHistory = Array.from({ length: 10_000 }, (_, i) => ({ error: `attempt ${i}`, timestamp: i }));
        const stored = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { errorHistory, attempts: 10_000 })));
        assert.strictEqual(stored.errorHistory.length, maxHistory);
        assert.strictEqual(stored.errorHistory[0]?.timestamp, 0);
        assert.strictEqual(stored.errorHistory.at(-1)?.timestamp, 9_999);
        assert.strictEqual(stored.attempts, 10_000);
      }),
    );
  });

  describe("get", () => {
    it.effect("is none for an unknown id and for another tenant's", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const foreign = yield* Client.tenant(theirs)(db.jobDlq.insert(letter(theirs)));
        assert.isTrue(Option.isNone(yield* Client.tenant(mine)(db.jobDlq.get(randomUUID()))));
        assert.isTrue(Option.isNone(yield* Client.tenant(mine)(db.jobDlq.get(foreign.id))));
        assert.isTrue(Option.isSome(yield* Client.system(db.jobDlq.get(foreign.id))));
        const error = yield* Effect.flip(Client.tenant(mine)(db.jobDlq.get("42")));
        assert.include(error.message, 'jobDlq.get: id is "42", which is no uuid');
      }),
    );
  });

  describe("markReplayed", () => {
    it.effect("marks once; the second call says when it was", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const { id } = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
        const marked = yield* Client.tenant(appId)(db.jobDlq.markReplayed(id));
        assert.isTrue(Option.isSome(marked.replayedAt));
        const error = yield* Effect.flip(Client.tenant(appId)(db.jobDlq.markReplayed(id)));
        assert.strictEqual(error._tag, "JobDlqAlreadyReplayed");
        assert.deepStrictEqual("replayedAt" in error && error.replayedAt, Option.getOrThrow(marked.replayedAt));
      }),
    );

    it.effect("leaves a line in the ledger that names its actor, or the login", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            for (const options of [{ actor: " ann " }, {}]) {
              const { id, originalJobId } = yield* db.jobDlq.insert(letter(appId));
              yield* db.jobDlq.markReplayed(id, options);
              yield* Effect.flip(db.jobDlq.markReplayed(id, options));
              const { items } = yield* db.jobDlq.events({ dlqId: id });
              assert.deepStrictEqual(
                items.map((_) => [_.kind, _.originalJobId, _.actor, _.reason]),
                [["replayed", originalJobId, "actor" in options ? "ann" : "postgres", "replayed elsewhere"]],
              );
            }
            const { id } = yield* db.jobDlq.insert(letter(appId));
            const error = yield* Effect.flip(db.jobDlq.markReplayed(id, { actor: " " }));
            assert.strictEqual(error._tag, "InvalidInput");
          }),
        );
      }),
    );

    it.effect("does not find unknown ids and another tenant's", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const foreign = yield* Client.tenant(theirs)(db.jobDlq.insert(letter(theirs)));
        for (const id of [foreign.id, randomUUID()]) {
          const error = yield* Effect.flip(Client.tenant(mine)(db.jobDlq.markReplayed(id)));
          assert.strictEqual(error._tag, "JobDlqNotFound");
        }
        const error = yield* Effect.flip(Client.tenant(mine)(db.jobDlq.markReplayed("42")));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, 'jobDlq.markReplayed: id is "42", which is no uuid');
        assert.isTrue(Option.isNone(Option.getOrThrow(yield* Client.system(db.jobDlq.get(foreign.id))).replayedAt));
      }),
    );

    it.effect("rolls back with the caller's transaction", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const { id } = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
        yield* Client.tenant(appId)(
          Effect.zipRight(db.jobDlq.markReplayed(id), Effect.fail("resubmission failed")),
        ).pipe(Effect.flip);
        assert.isTrue(Option.isNone(Option.getOrThrow(yield* Client.tenant(appId)(db.jobDlq.get(id))).replayedAt));
      }),
    );

    it.effect("succeeds for one of many callers at once", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const { id } = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
        const results = yield* Effect.all(
          Array.from({ length: 8 }, () => Effect.either(Client.tenant(appId)(db.jobDlq.markReplayed(id)))),
          { concurrency: 8 },
        );
        assert.strictEqual(results.filter(({ _tag }) => _tag === "Right").length, 1);
      }),
    );
  });

  describe("purge", () => {
    it.effect("deletes what was replayed longer ago than that, in its own scope, and nothing pending", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const daysAgo = (days: number) => ({
          replayedAt: Option.some(new Date(Date.now() - days * 86_400_000 - 60_000)),
        });
        for (const appId of [mine, theirs]) {
          yield* Client.tenant(appId)(
            db.jobDlq.insertMany([
              letter(appId),
              letter(appId, daysAgo(1)),
              letter(appId, daysAgo(10)),
              letter(appId, daysAgo(30)),
              letter(appId, daysAgo(31)),
            ]),
          );
        }
        yield* Client.tenant(mine)(
          Effect.gen(function* () {
            assert.strictEqual(yield* db.jobDlq.purge(), 2);
            assert.strictEqual(yield* db.jobDlq.purge(30), 0);
            assert.strictEqual(yield* db.jobDlq.purge(5), 1);
            assert.strictEqual(yield* db.jobDlq.purge(0), 1);
            assert.strictEqual(yield* db.jobDlq.count(), 1);
            assert.strictEqual(yield* db.jobDlq.purge(2_147_483_647), 0);
          }),
        );
        assert.strictEqual(yield* Client.tenant(theirs)(db.jobDlq.count()), 5);
      }),
    );

    for (const days of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e10]) {
      it.effect(`refuses ${days} days`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const error = yield* Effect.flip(Client.system(db.jobDlq.purge(days)));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, "olderThanDays");
        }),
      );
    }

    it.effect("says in SQL as well what it refuses, for whatever an integer can be", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        for (const days of [-1, -2_147_483_648, null]) {
          const error = yield* Effect.flip(Client.system(sql`SELECT purge_job_dlq(${days}::int)`));
          assert.include(JSON.stringify((error as SqlError).cause), '"22023"', String(days));
        }
      }),
    );
  });
});
