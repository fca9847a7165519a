import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { historyHead, maxErrorLength, maxHistory } from "../src/error-text.js";
import { DatabaseService } from "../src/repos.js";
import { newTenant, TestDatabase, work } from "./support/database.js";
import { claimOne, counted, failure, jobThatIs, reload, untyped } from "./support/jobs.js";

layer(TestDatabase, { excludeTestServices: true })("settling a job", (it) => {
  describe("complete, retry and deadLetter", () => {
    const settlements = {
      complete: (held: { id: string; fence: bigint }) =>
        Effect.flatMap(DatabaseService, (db) => Effect.asVoid(db.jobs.complete(held))),
      retry: (held: { id: string; fence: bigint }) =>
        Effect.flatMap(DatabaseService, (db) => Effect.asVoid(db.jobs.retry({ ...held, error: "e" }))),
      deadLetter: (held: { id: string; fence: bigint }) =>
        Effect.flatMap(DatabaseService, (db) =>
          Effect.asVoid(db.jobs.deadLetter({ ...held, reason: "Validation", error: "e" })),
        ),
    };

    it.effect("complete ends the job", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const claimed = yield* jobThatIs(appId, "processing");
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const done = yield* db.jobs.complete(claimed);
            assert.deepInclude(
              { ...done },
              {
                id: claimed.id,
                status: "completed",
                attempts: 1,
                lockedBy: Option.none(),
                lockedUntil: Option.none(),
                errorHistory: [],
              },
            );
            assert.deepStrictEqual(yield* sql`SELECT completed_at = now() AS now FROM jobs WHERE id = ${claimed.id}`, [
              { now: true },
            ]);
          }),
        );
      }),
    );

    it.effect("retry sends it back with its error, due after the delay", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const claimed = yield* jobThatIs(appId, "processing");
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const waiting = yield* db.jobs.retry({ ...claimed, error: new Error("no route"), delay: "90 seconds" });
            assert.deepInclude(
              { ...waiting },
              {
                status: "pending",
                attempts: 1,
                lockedBy: Option.none(),
                lockedUntil: Option.none(),
                completedAt: Option.none(),
              },
            );
            assert.strictEqual(waiting.errorHistory.length, 1);
            assert.include(waiting.errorHistory[0]?.error, "Error: no route");
            const due =
              yield* sql`SELECT scheduled_at = now() + interval '90 seconds' AS later FROM jobs WHERE id = ${claimed.id}`;
            assert.deepStrictEqual(due, [{ later: true }]);
            assert.deepStrictEqual(yield* db.jobs.claim({ runner: "r" }), []);
          }),
        );
        for (const delay of ["infinity", "soon", 1e30]) {
          const error = yield* failure(Client.tenant(appId)(db.jobs.retry(untyped({ ...claimed, error: "e", delay }))));
          assert.strictEqual(error._tag, "InvalidInput");
        }
      }),
    );

    it.effect("retry says when the attempts ran out, and changes nothing then", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(db.jobs.enqueue(work(appId, { maxAttempts: 2 })));
        const first = yield* claimOne(appId);
        yield* Client.tenant(appId)(db.jobs.retry({ ...first, error: "once" }));
        const second = yield* claimOne(appId);
        const error = yield* Effect.flip(Client.tenant(appId)(db.jobs.retry({ ...second, error: "twice" })));
        assert.strictEqual(error._tag, "JobExhausted");
        assert.deepInclude({ ...error }, { id: second.id, attempts: 2, maxAttempts: 2 });
        assert.deepStrictEqual(yield* reload(appId, second.id), second);
        // Not with another's fence: then it is not the caller's to know.
        assert.strictEqual(
          (yield* failure(Client.tenant(appId)(db.jobs.retry({ ...first, error: "x" }))))._tag,
          "JobNotHeld",
        );
        yield* Client.tenant(appId)(db.jobs.deadLetter({ ...second, reason: "MaxRetries", error: "twice" }));
      }),
    );

    it.effect("deadLetter makes the job dead and its letter, with all that is known of it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const given = {
          userId: Option.some(randomUUID()),
          requestId: Option.some(randomUUID()),
          payload: { user_id: [null] },
        };
        yield* Client.tenant(appId)(db.jobs.enqueue({ ...work(appId), ...given }));
        const first = yield* claimOne(appId);
        yield* Client.tenant(appId)(db.jobs.retry({ ...first, error: "once" }));
        const second = yield* claimOne(appId);
        const dead = yield* Client.tenant(appId)(
          db.jobs.deadLetter({ ...second, reason: "Validation", error: "twice" }),
        );
        const { dlqAt, errorHistory, id, ...rest } = dead;
        assert.deepStrictEqual(
          { ...rest },
          {
            originalJobId: second.id,
            appId,
            type: second.type,
            errorReason: "Validation",
            attempts: 2,
            replayedAt: Option.none(),
            ...given,
          },
        );
        assert.deepStrictEqual(
          errorHistory.map(({ error }) => error),
          ["once", "twice"],
        );
        assert.deepStrictEqual(yield* Client.tenant(appId)(db.jobDlq.get(id)), Option.some(dead));
        const job = yield* reload(appId, second.id);
        assert.deepInclude(
          { ...job },
          { status: "dead", errorHistory, lockedBy: Option.none(), lockedUntil: Option.none() },
        );
        assert.deepStrictEqual(job.completedAt, Option.some(dlqAt));
      }),
    );

    it.effect("deadLetter without a fence takes a job that waits or runs, and no other", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        for (const status of ["pending", "processing", "completed", "dead", "cancelled"] as const) {
          const appId = yield* newTenant;
          const { id } = yield* jobThatIs(appId, status);
          const before = yield* reload(appId, id);
          const exit = yield* Effect.exit(
            Client.tenant(appId)(db.jobs.deadLetter({ id, reason: "HandlerMissing", error: "x" })),
          );
          if (status === "pending" || status === "processing") {
            assert.isTrue(Exit.isSuccess(exit), status);
            assert.strictEqual((yield* reload(appId, id)).status, "dead");
          } else {
            const error = Option.getOrUndefined(Exit.isFailure(exit) ? Cause.failureOption(exit.cause) : Option.none());
            assert.deepInclude(Object(error), { _tag: "JobNotHeld", id, status });
            assert.deepStrictEqual(yield* reload(appId, id), before);
          }
        }
      }),
    );

    for (const [name, settle] of Object.entries(settlements)) {
      for (const status of ["pending", "completed", "dead", "cancelled"] as const) {
        it.effect(`${name} is refused of a job that is ${status}, whatever the fence`, () =>
          Effect.gen(function* () {
            const appId = yield* newTenant;
            const held = yield* jobThatIs(appId, status);
            const before = yield* reload(appId, held.id);
            for (const fence of [held.fence, before.fence, 0n]) {
              const error = yield* failure(Client.tenant(appId)(settle({ id: held.id, fence })));
              assert.deepInclude(Object(error), { _tag: "JobNotHeld", operation: `jobs.${name}`, id: held.id, status });
            }
            assert.deepStrictEqual(yield* reload(appId, held.id), before);
          }),
        );
      }

      it.effect(`${name} is refused with a wrong fence, an old one, and one that is no bigint of the database's`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const old = yield* jobThatIs(appId, "processing");
          yield* Client.tenant(appId)(db.jobs.retry({ ...old, error: "e" }));
          const held = yield* claimOne(appId);
          assert.strictEqual(held.id, old.id);
          for (const fence of [old.fence, held.fence + 1n, held.fence - 1n, -held.fence]) {
            const error = yield* failure(Client.tenant(appId)(settle({ id: held.id, fence })));
            assert.deepInclude(Object(error), { _tag: "JobNotHeld", status: "processing" });
          }
          for (const fence of [2n ** 63n, untyped(1.5), untyped("x"), untyped(null)]) {
            const error = yield* failure(Client.tenant(appId)(settle({ id: held.id, fence })));
            assert.strictEqual(error._tag, "InvalidInput");
          }
          assert.deepStrictEqual(yield* reload(appId, held.id), held);
          yield* Client.tenant(appId)(settle(held));
        }),
      );

      it.effect(`${name} does not find unknown jobs and another tenant's`, () =>
        Effect.gen(function* () {
          const [mine, theirs] = [yield* newTenant, yield* newTenant];
          const foreign = yield* jobThatIs(theirs, "processing");
          for (const held of [foreign, { id: randomUUID(), fence: 1n }]) {
            const error = yield* failure(Client.tenant(mine)(settle(held)));
            assert.deepInclude(Object(error), { _tag: "JobNotFound", id: held.id });
          }
          const error = yield* failure(Client.tenant(mine)(settle({ id: "7", fence: 1n })));
          assert.include(error.message, `jobs.${name}: id is "7", which is no uuid`);
          assert.deepStrictEqual(yield* reload(theirs, foreign.id), foreign);
        }),
      );

      it.effect(`${name} by eight callers at once with the one fence succeeds once`, () =>
        Effect.gen(function* () {
          const appId = yield* newTenant;
          const held = yield* jobThatIs(appId, "processing");
          const exits = yield* Effect.all(
            Array.from({ length: 8 }, () => Effect.exit(Client.tenant(appId)(settle(held)))),
            { concurrency: 8 },
          );
          assert.strictEqual(exits.filter(Exit.isSuccess).length, 1);
        }),
      );
    }

    it.effect("deadLetter refuses a reason that there is not, before it asks", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const held = yield* jobThatIs(appId, "processing");
        for (const reason of ["Tired", "", null]) {
          const error = yield* failure(
            Client.tenant(appId)(db.jobs.deadLetter({ ...held, reason: untyped(reason), error: "x" })),
          );
          assert.include(error.message, "it must be one of MaxRetries, Validation, HandlerMissing, RunnerUnavailable");
        }
        assert.deepStrictEqual(yield* reload(appId, held.id), held);
      }),
    );

    it.effect("deadLetter happens whole or not at all: a letter that cannot be written leaves the job alive", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const held = yield* jobThatIs(appId, "processing");
        const dies = Client.tenant(appId)(db.jobs.deadLetter({ ...held, reason: "MaxRetries", error: "x" }));
        yield* sql`ALTER TABLE job_dlq ADD CONSTRAINT nobody_dies CHECK (error_reason <> 'MaxRetries') NOT VALID`;
        const error = yield* Effect.ensuring(
          failure(dies),
          Effect.orDie(sql`ALTER TABLE job_dlq DROP CONSTRAINT nobody_dies`),
        );
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, "nobody_dies");
        assert.deepStrictEqual(yield* reload(appId, held.id), held);
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 0);
        yield* dies;
        assert.strictEqual((yield* reload(appId, held.id)).status, "dead");
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 1);
      }),
    );
  });

  describe("the error history", () => {
    const throwing = {
      get message() {
        throw new Error("no message");
      },
      toString: () => {
        throw new Error("no text");
      },
      toJSON: () => {
        throw new Error("no JSON");
      },
    };
    const revoked = () => {
      const { proxy, revoke } = Proxy.revocable({}, {});
      revoke();
      return proxy;
    };
    const knotted = new Error("outer", { cause: new Error("inner") });
    if (knotted.cause instanceof Error) knotted.cause.cause = knotted;

    const errors: ReadonlyArray<readonly [string, unknown, RegExp]> = [
      ["a text", "no route", /^no route$/],
      ["an empty text", "", /^$/],
      ["NUL and lone surrogates", "a\u0000b\uD800c", /^a\uFFFDb\uFFFDc$/],
      ["10 MB", "x".repeat(10_000_000), /9,983,616 characters cut/],
      ["10 MB of NUL", "\u0000".repeat(10_000_000), /characters cut/],
      ["an error", new TypeError("no type"), /^TypeError: no type\n +at /],
      ["an error whose causes go round", knotted, /outer[\s\S]*\[cause\] .*inner/],
      ["a cause", Cause.parallel(Cause.fail("left"), Cause.die(new Error("right"))), /left[\s\S]*right/],
      ["undefined", undefined, /^undefined$/],
      ["null", null, /^null$/],
      ["a BigInt", 7n, /^7n$/],
      ["an object with a BigInt", { n: 7n }, /^\{ n: 7n \}$/],
      [
        "an error whose cause has a BigInt",
        new Error("db down", { cause: { id: 1n } }),
        /^Error: db down\n[\s\S]*\[cause\] \{ id: 1n \}$/,
      ],
      ["an error whose cause is a revoked proxy", new Error("db down", { cause: revoked() }), /^Error: db down\n/],
      ["a failure with a BigInt", Cause.fail({ id: 1n }), /^\{ id: 1n \}$/],
      ["a symbol", Symbol("s"), /s/],
      ["a function", () => 1, /./],
      [
        "a cycle",
        (() => {
          const o: Record<string, unknown> = { a: 1 };
          o.self = o;
          return o;
        })(),
        /"a": 1/,
      ],
      ["an object whose every reading throws", throwing, /./],
      ["a revoked proxy", revoked(), /Revoked Proxy/],
      ["an object without a prototype", Object.create(null), /./],
    ];
    for (const [name, given, expected] of errors) {
      it.effect(`keeps ${name}, through a retry and a dead letter`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const first = yield* jobThatIs(appId, "processing");
          const retried = yield* Client.tenant(appId)(db.jobs.retry({ ...first, error: given }));
          const dead = yield* Client.tenant(appId)(
            db.jobs.deadLetter({ id: first.id, reason: "MaxRetries", error: given }),
          );
          assert.strictEqual(retried.errorHistory.length, 1);
          assert.strictEqual(dead.errorHistory.length, 2);
          assert.deepStrictEqual((yield* reload(appId, first.id)).errorHistory, dead.errorHistory);
          for (const { error, timestamp } of dead.errorHistory) {
            assert.match(error, expected);
            assert.isAtMost(error.length, maxErrorLength + 60);
            assert.isTrue(Number.isSafeInteger(timestamp));
          }
        }),
      );
    }

    it.effect("tells when, by the database's clock in milliseconds", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const held = yield* jobThatIs(appId, "processing");
        const clock = sql`SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::float8 AS ms`;
        const [before] = yield* clock;
        const dead = yield* Client.tenant(appId)(db.jobs.deadLetter({ ...held, reason: "MaxRetries", error: "x" }));
        const [after] = yield* clock;
        assert.isAtLeast(dead.errorHistory[0]?.timestamp ?? 0, Number(before?.ms));
        assert.isAtMost(dead.errorHistory[0]?.timestamp ?? 0, Number(after?.ms));
      }),
    );

    it.effect("keeps the first and the newest entries of a long one, and the true number of attempts beside it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const rounds = maxHistory + 21;
        const dead = yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const { id } = yield* db.jobs.enqueue(work(appId, { maxAttempts: 1000 }));
            for (let i = 0; i < rounds; i++) {
              const [claimed] = yield* db.jobs.claim({ runner: "r", lease: i % 3 === 0 ? 0 : "1 hour" });
              const { errorHistory } = yield* db.jobs.retry({ id, fence: claimed?.fence ?? 0n, error: `error ${i}` });
              assert.strictEqual(errorHistory.length, Math.min(i + 1, maxHistory));
            }
            yield* db.jobs.claim({ runner: "r" });
            return yield* db.jobs.deadLetter({ id, reason: "MaxRetries", error: "the last" });
          }),
        );
        const kept = dead.errorHistory.map(({ error }) => error);
        const newest = maxHistory - historyHead - 1;
        assert.deepStrictEqual(kept, [
          ...Array.from({ length: historyHead }, (_, i) => `error ${i}`),
          ...Array.from({ length: newest }, (_, i) => `error ${rounds - newest + i}`),
          "the last",
        ]);
        assert.strictEqual(dead.attempts, rounds + 1);
      }),
    );

    it.effect("is bounded too when it is the rescue that writes", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const { id } = yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
        const full = JSON.stringify(
          Array.from({ length: maxHistory }, (_, i) => ({ error: `error ${i}`, timestamp: i })),
        );
        yield* Client.tenant(appId)(sql`UPDATE jobs SET error_history = ${full}::jsonb WHERE id = ${id}`);
        yield* claimOne(appId, 0);
        assert.deepStrictEqual(counted(yield* Client.tenant(appId)(db.jobs.rescue())), { retried: 1, deadLettered: 0 });
        const { errorHistory } = yield* reload(appId, id);
        assert.strictEqual(errorHistory.length, maxHistory);
        assert.deepStrictEqual(
          errorHistory.slice(historyHead - 1, historyHead + 1).map(({ error }) => error),
          [`error ${historyHead - 1}`, `error ${historyHead + 1}`],
        );
        assert.include(errorHistory.at(-1)?.error, "RunnerUnavailable");
      }),
    );
  });
});
