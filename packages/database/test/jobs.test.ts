import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import type { Job } from "../src/models.js";
import { DatabaseService } from "../src/repos.js";
import { newTenant, TestDatabase, TestUrl, work } from "./support/database.js";
import { failure, ids, jobThatIs, sideBySide, untyped } from "./support/jobs.js";
import * as Wire from "./support/wire.js";

layer(TestDatabase, { excludeTestServices: true })("jobs", (it) => {
  describe("enqueue and enqueueMany", () => {
    it.effect("store a job as it was given, pending and due at once by the database's clock", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const given = { ...work(appId), userId: Option.some(randomUUID()), requestId: Option.some(randomUUID()) };
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const one = yield* db.jobs.enqueue(given);
            const [other] = yield* db.jobs.enqueueMany([given]);
            for (const job of [one, Option.getOrThrow(yield* db.jobs.get(other ?? ""))]) {
              assert.deepInclude(
                { ...job },
                {
                  ...given,
                  status: "pending",
                  priority: "normal",
                  attempts: 0,
                  maxAttempts: 5,
                  errorHistory: [],
                  replays: 0,
                  startedAt: Option.none(),
                  completedAt: Option.none(),
                  lockedBy: Option.none(),
                  lockedUntil: Option.none(),
                },
              );
              assert.match(job.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
            }
            assert.deepStrictEqual(yield* sql`SELECT bool_and(scheduled_at = now()) AS now FROM jobs`, [{ now: true }]);
          }),
        );
      }),
    );

    it.effect("take priority, attempts and time from the caller", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const chosen = {
          priority: "critical",
          maxAttempts: 1,
          scheduledAt: DateTime.unsafeMake("2031-02-03T04:05:06.789Z"),
        } as const;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const one = yield* db.jobs.enqueue({ ...work(appId), ...chosen });
            const [many = ""] = yield* db.jobs.enqueueMany([{ ...work(appId), ...chosen }, work(appId)]);
            assert.deepInclude({ ...one }, chosen);
            assert.deepInclude({ ...Option.getOrThrow(yield* db.jobs.get(many)) }, chosen);
          }),
        );
      }),
    );

    it.effect("enqueueMany returns the ids in the order of the input, for any number of jobs", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            assert.deepStrictEqual(yield* db.jobs.enqueueMany([]), []);
            const made = yield* db.jobs.enqueueMany(
              Array.from({ length: 20_001 }, (_, i) => work(appId, { payload: i })),
            );
            assert.strictEqual(new Set(made).size, 20_001);
            const rows = yield* sql`
              SELECT count(*)::int AS count, bool_and(j.payload = to_jsonb(place - 1)) AS same
              FROM unnest(${made}::uuid[]) WITH ORDINALITY AS t (id, place) JOIN jobs j USING (id)`;
            assert.deepStrictEqual(rows, [{ count: 20_001, same: true }]);
            // Ids are uuidv7: also a sort by id is the order of submission.
            assert.deepStrictEqual([...made].sort(), made);
          }),
        );
      }),
    );

    it.effect("enqueueMany stores all or none, also over several statements", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const jobs = Array.from({ length: 10_001 }, (_, i) => ({
          ...work(appId),
          // The last is refused by the database, in the second statement.
          maxAttempts: i === 10_000 ? -1 : 1,
        }));
        for (const scope of [Client.tenant(appId), <A, E, R>(effect: Effect.Effect<A, E, R>) => effect]) {
          const error = yield* failure(scope(db.jobs.enqueueMany(jobs)));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, "jobs_max_attempts_positive");
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
        }
      }),
    );

    const cyclic: Record<string, unknown> = { list: [] };
    cyclic.list = [cyclic];
    const bad: ReadonlyArray<readonly [string, unknown, string]> = [
      ["a payload that is undefined", { payload: undefined }, "payload at $ is undefined"],
      ["a payload that is cyclic", { payload: cyclic }, "payload at $.list[0] refers back"],
      ["a payload with a BigInt", { payload: { a: [1n] } }, "payload at $.a[0] is a BigInt"],
      ["a payload with NaN", { payload: [Number.NaN] }, "payload at $[0] is NaN"],
      ["a payload with an infinity", { payload: { "x y": -Infinity } }, 'payload at $["x y"] is -Infinity'],
      ["a payload with a Map", { payload: new Map() }, "payload at $ is a Map"],
      ["a payload with a function", { payload: { f: () => 1 } }, "payload at $.f is a function"],
      ["a payload with NUL", { payload: { t: "\u0000" } }, "payload at $.t contains a NUL"],
      ["a payload with a lone surrogate", { payload: ["\uDBFF"] }, "payload at $[0] contains a lone surrogate"],
      ["an appId that is no uuid", { appId: "7" }, "appId is not valid"],
      ["an appId that is missing", { appId: undefined }, "appId is not valid"],
      ["a userId that is no uuid", { userId: Option.some("7") }, "userId is not valid"],
      ["a requestId without an Option", { requestId: randomUUID() }, "requestId is not valid"],
      ["a type that is blank", { type: " \n" }, "type is blank"],
      ["a type that is missing", { type: undefined }, "type is not valid"],
      ["a type with NUL", { type: "a\u0000" }, "type contains a NUL"],
      ["a priority that there is not", { priority: "urgent" }, "priority is not valid"],
      ["attempts that are no whole number", { maxAttempts: 1.5 }, "maxAttempts is not valid"],
      ["a time that is a text", { scheduledAt: "2026-01-01" }, "scheduledAt is not valid"],
    ];
    for (const [name, given, problem] of bad) {
      it.effect(`refuse ${name}, and name it`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const job = untyped({ ...work(appId), ...Object(given) });
          const one = yield* failure(Client.tenant(appId)(db.jobs.enqueue(job)));
          const many = yield* failure(Client.tenant(appId)(db.jobs.enqueueMany([work(appId), job, work(appId)])));
          assert.strictEqual(one._tag, "InvalidInput");
          assert.strictEqual(many._tag, "InvalidInput");
          assert.include(one.message, `jobs.enqueue: ${problem}`);
          assert.include(many.message, `jobs.enqueueMany: jobs[1].${problem}`);
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
        }),
      );
    }

    it.effect("refuse what only the database knows: no attempts, and more than fit an integer", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        for (const [maxAttempts, problem] of [
          [0, "jobs_max_attempts_positive"],
          [3e9, "out of range"],
        ] as const) {
          const job = work(appId, { maxAttempts });
          for (const call of [Effect.asVoid(db.jobs.enqueue(job)), Effect.asVoid(db.jobs.enqueueMany([job]))]) {
            const error = yield* failure(Client.tenant(appId)(call));
            assert.strictEqual(error._tag, "InvalidInput");
            assert.include(error.message, problem);
          }
        }
        for (const nothing of [null, undefined, 7, "job"]) {
          const error = yield* failure(Client.tenant(appId)(db.jobs.enqueueMany([work(appId), untyped(nothing)])));
          assert.include(error.message, "jobs[1]");
        }
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );

    it.effect("tell an app that there is not from another tenant", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs, nobody] = [yield* newTenant, yield* newTenant, randomUUID()];
        for (const enqueue of [
          (appId: string) => Effect.asVoid(db.jobs.enqueue(work(appId))),
          (appId: string) => Effect.asVoid(db.jobs.enqueueMany([work(mine), work(appId)])),
        ]) {
          const unknown = yield* failure(Client.system(enqueue(nobody)));
          assert.strictEqual(unknown._tag, "AppNotFound");
          assert.include(unknown.message, nobody);
          for (const appId of [theirs, nobody]) {
            const foreign = yield* failure(Client.tenant(mine)(enqueue(appId)));
            assert.strictEqual(foreign._tag, "AccessDenied");
            assert.include(foreign.message, "another tenant");
          }
        }
        for (const appId of [mine, theirs]) {
          assert.strictEqual(yield* Client.system(db.jobs.count({ appId })), 0);
        }
      }),
    );
  });

  describe("claim", () => {
    it.effect("takes due jobs by priority, then by time, then by id, up to the limit", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const at = (text: string) => DateTime.unsafeMake(text);
        const submitted = [
          { type: "low", priority: "low", scheduledAt: at("2020-01-01") },
          { type: "late", priority: "normal", scheduledAt: at("2026-01-01") },
          { type: "first", priority: "critical", scheduledAt: at("2026-01-01") },
          { type: "early", priority: "normal", scheduledAt: at("2025-01-01") },
          { type: "early too", priority: "normal", scheduledAt: at("2025-01-01") },
          { type: "high", priority: "high" },
          { type: "future", priority: "critical", scheduledAt: at("2999-01-01") },
        ] as const;
        yield* Client.tenant(appId)(db.jobs.enqueueMany(submitted.map((_) => ({ ...work(appId), ..._ }))));
        const types = (limit: number) =>
          Effect.map(Client.tenant(appId)(db.jobs.claim({ runner: "r", limit })), (_) => _.map(({ type }) => type));
        assert.deepStrictEqual(yield* types(2), ["first", "high"]);
        assert.deepStrictEqual(yield* types(100), ["early", "early too", "late", "low"]);
        assert.deepStrictEqual(yield* types(100), []);
        yield* Client.tenant(appId)(sql`UPDATE jobs SET scheduled_at = now() WHERE type = 'future'`);
        assert.deepStrictEqual(yield* types(1), ["future"]);
      }),
    );

    it.effect("gives each job to its runner: processing, one more attempt, a new fence, a lease from now", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const job = yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const [claimed] = yield* db.jobs.claim({ runner: "runner-7", lease: "90 seconds" });
            assert.deepInclude(
              { ...claimed },
              {
                id: job.id,
                status: "processing",
                attempts: 1,
                lockedBy: Option.some("runner-7"),
                payload: job.payload,
              },
            );
            assert.isTrue((claimed?.fence ?? 0n) > job.fence);
            const rows = yield* sql`
              SELECT started_at = now() AS started, locked_until = now() + interval '90 seconds' AS leased FROM jobs WHERE id = ${job.id}`;
            assert.deepStrictEqual(rows, [{ started: true, leased: true }]);
            // Half a minute when nothing else is asked for.
            yield* db.jobs.enqueue(work(appId));
            yield* db.jobs.claim({ runner: "runner-7" });
            const [row] =
              yield* sql`SELECT count(*)::int AS count FROM jobs WHERE locked_until = now() + interval '30 seconds'`;
            assert.strictEqual(row?.count, 1);
          }),
        );
      }),
    );

    it.effect("takes only the types that are asked for, and none of none", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const made = yield* Client.tenant(appId)(
          db.jobs.enqueueMany(["a", "b", "c"].map((type) => work(appId, { type }))),
        );
        const claim = (types: ReadonlyArray<string>) =>
          Effect.map(Client.tenant(appId)(db.jobs.claim({ runner: "r", types })), ids);
        assert.deepStrictEqual(yield* claim([]), []);
        assert.deepStrictEqual(yield* claim(["x"]), []);
        assert.deepStrictEqual(yield* claim(["a", "c"]), [made[0] ?? "", made[2] ?? ""]);
      }),
    );

    it.effect("stays inside its tenant; the system scope takes every tenant's", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const type = randomUUID();
        for (const appId of [mine, theirs]) yield* Client.tenant(appId)(db.jobs.enqueue(work(appId, { type })));
        const claim = db.jobs.claim({ runner: "r", types: [type] });
        assert.deepStrictEqual(
          (yield* Client.tenant(mine)(claim)).map((_) => _.appId),
          [mine],
        );
        assert.deepStrictEqual(
          (yield* Client.system(claim)).map((_) => _.appId),
          [theirs],
        );
      }),
    );

    it.effect("refuses limits, leases and runners that are none", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        for (const [options, field] of [
          ...[0, -1, 1.5, 1e9, Number.NaN].map((limit) => [{ runner: "r", limit }, `limit is ${limit}`] as const),
          [{ runner: " " }, "runner is blank"],
          [{ runner: "r\u0000" }, "was refused by the database"],
          [{ runner: "r", lease: "infinity" }, "lease is no finite duration"],
          [{ runner: "r", lease: "soon" }, "lease is no finite duration"],
          [{ runner: "r", lease: 1e30 }, "was refused by the database"],
        ] as const) {
          const error = yield* failure(Client.system(db.jobs.claim(untyped(options))));
          assert.strictEqual(error._tag, "InvalidInput", JSON.stringify(options));
          assert.include(error.message, field);
        }
      }),
    );

    it.effect("never gives one job to two of eight claimers at once, and none of them waits", () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const appId = yield* newTenant;
        yield* Effect.gen(function* () {
          const db = yield* DatabaseService;
          yield* Client.tenant(appId)(db.jobs.enqueueMany(Array.from({ length: 100 }, () => work(appId))));
          const claimed = yield* sideBySide(8, appId, db.jobs.claim({ runner: "r", limit: 15 }));
          const all = ids(claimed.flat());
          assert.strictEqual(all.length, 100);
          assert.strictEqual(new Set(all).size, 100);
          assert.strictEqual(new Set(claimed.flat().map(({ fence }) => fence)).size, 100);
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count({ attempts: 1, status: "processing" })), 100);
        }).pipe(
          Effect.provide(DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 10 })))),
        );
      }),
    );
  });

  describe("purge", () => {
    it.effect("deletes what ended longer ago than that, in its own scope, and nothing that waits or runs", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        for (const appId of [mine, theirs]) {
          for (const status of ["processing", "completed", "dead", "cancelled", "pending"] as const) {
            const { id } = yield* jobThatIs(appId, status);
            if (status === "completed") {
              yield* Client.tenant(appId)(
                sql`UPDATE jobs SET completed_at = now() - interval '31 days' WHERE id = ${id}`,
              );
            }
          }
        }
        yield* Client.tenant(mine)(
          Effect.gen(function* () {
            assert.strictEqual(yield* db.jobs.purge(32), 0);
            assert.strictEqual(yield* db.jobs.purge(), 1);
            assert.strictEqual(yield* db.jobs.purge(1), 0);
            assert.strictEqual(yield* db.jobs.purge(0), 2);
            assert.deepStrictEqual(
              (yield* db.jobs.find({})).map(({ status }) => status),
              ["processing", "pending"],
            );
          }),
        );
        assert.strictEqual(yield* Client.tenant(theirs)(db.jobs.count()), 5);
        for (const days of [-1, 1.5, Number.NaN, 1e10]) {
          assert.include((yield* failure(Client.tenant(mine)(db.jobs.purge(days)))).message, "olderThanDays");
        }
      }),
    );
  });

  it.effect("each operation is one statement; a settlement that is refused asks once more why", () =>
    Effect.gen(function* () {
      const server = yield* TestUrl;
      const appId = yield* newTenant;
      const wire = yield* Wire.make(server);
      yield* Effect.gen(function* () {
        const db = yield* DatabaseService;
        const claimed = yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobs.enqueueMany(Array.from({ length: 6 }, () => work(appId)));
            return yield* db.jobs.claim({ runner: "r", limit: 5 });
          }),
        );
        const [first, second, third, fourth, fifth] = claimed as [Job, Job, Job, Job, Job];
        const gone = { id: randomUUID(), fence: 1n };
        const counted: Record<string, readonly [Effect.Effect<unknown, unknown, SqlClient.SqlClient>, number]> = {
          enqueue: [db.jobs.enqueue(work(appId)), 1],
          "enqueueMany, 0": [db.jobs.enqueueMany([]), 0],
          "enqueueMany, 10,000": [db.jobs.enqueueMany(Array.from({ length: 10_000 }, () => work(appId))), 1],
          // Two chunks, and a savepoint around them.
          "enqueueMany, 10,001": [db.jobs.enqueueMany(Array.from({ length: 10_001 }, () => work(appId))), 4],
          claim: [db.jobs.claim({ runner: "r", types: ["none"] }), 1],
          get: [db.jobs.get(first.id), 1],
          complete: [db.jobs.complete(first), 1],
          retry: [db.jobs.retry({ ...second, error: "e" }), 1],
          "deadLetter, held": [db.jobs.deadLetter({ ...third, reason: "Validation", error: "e" }), 1],
          "deadLetter, by id": [db.jobs.deadLetter({ id: fourth.id, reason: "Validation", error: "e" }), 1],
          "complete, refused": [db.jobs.complete(first), 2],
          "retry, refused": [db.jobs.retry({ ...gone, error: "e" }), 2],
          "deadLetter, refused": [db.jobs.deadLetter({ ...fifth, fence: 0n, reason: "Validation", error: "e" }), 2],
          rescue: [db.jobs.rescue(), 1],
          purge: [db.jobs.purge(), 1],
        };
        const seen: Record<string, number> = {};
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            for (const [name, [operation]] of Object.entries(counted)) {
              wire.reset();
              yield* Effect.exit(operation);
              seen[name] = wire.sent().length;
              assert.strictEqual(wire.answers(), wire.sent().length);
            }
          }),
        );
        assert.deepStrictEqual(
          seen,
          Object.fromEntries(Object.entries(counted).map(([name, [, expected]]) => [name, expected])),
        );
      }).pipe(
        Effect.provide(
          DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url: wire.url(server), maxConnections: 1 }))),
        ),
      );
    }).pipe(Effect.scoped),
  );
});
