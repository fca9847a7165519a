/** What is left when a bulk change, or the database under it, dies in the middle: whole batches, each job back once at most. */
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import { assert, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Chunk from "effect/Chunk";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Queue from "effect/Queue";
import * as Random from "effect/Random";
import type * as Redacted from "effect/Redacted";
import * as Stream from "effect/Stream";
import * as TestClock from "effect/TestClock";
import * as TestContext from "effect/TestContext";
import * as Client from "../../src/client.js";
import * as Migrator from "../../src/migrator.js";
import { DatabaseService } from "../../src/repos.js";
import { classify } from "../../src/sql-state.js";
import { type Backlog, newBacklog, startProcess, survey } from "../support/backlog.js";
import { rounds, seed } from "../support/campaign.js";
import { asFromDump, newTenant, TestDatabase, TestUrl } from "../support/database.js";
import * as Server from "../support/server.js";

const count = rounds(20_000, 2000);
const batchSize = rounds(500, 50);
const kills = rounds(3, 1);
const actor = "crash";
const system = { _tag: "system" } as const;

const seeded = (name: string) => Effect.withRandom(Random.make(`${seed}/${name}`));
const told = (name: string) =>
  Effect.sync(() => console.log(`${name}: ${count} dead letters, ${kills} kills, TEST_SEED=${seed}`));

/** A moment that has nothing to do with where the victim is. It waits for nothing. */
const someMoment = Effect.flatMap(Random.nextIntBetween(0, 60), (millis) => Effect.sleep(millis));

/** Batches are whole, and each that was reported is there; of one more the answer may be missing. */
const whole = (reported: number, done: number) => {
  assert.strictEqual(done % batchSize, 0, `${done} is a number of whole batches of ${batchSize}`);
  assert.include([reported, reported + batchSize], done);
};

const filterOf = ({ prefix }: Backlog) => ({ type: { prefix } });

layer(TestDatabase, { excludeTestServices: true, timeout: "10 minutes" })("kill -9 of the process", (it) => {
  const all = [
    ["replay", "system"],
    ["discard", "tenant"],
    ["replay", "tenant"],
    ["discard", "system"],
  ] as const;
  for (const [work, scope] of all.slice(0, rounds(4, 2))) {
    const name = `in the middle of a bulk ${work} in the ${scope} scope: the next one does the rest`;
    it.effect(
      name,
      () =>
        Effect.gen(function* () {
          const url = yield* TestUrl;
          const backlog = yield* newBacklog(count, scope === "system" ? 2 : 1);
          const task = {
            work,
            actor,
            batchSize,
            prefix: backlog.prefix,
            appId: scope === "system" ? null : (backlog.appIds[0] ?? null),
            policy: {},
          };
          let before = 0;
          const doneOf = (counts: Effect.Effect.Success<ReturnType<typeof survey>>) =>
            work === "replay" ? counts.replayed : counts.discarded;
          for (let i = 0; i < kills; i++) {
            yield* Effect.gen(function* () {
              const victim = yield* startProcess(url, task);
              const wanted = yield* Random.nextIntBetween(1, 8);
              const lines = yield* Effect.replicateEffect(victim.line, wanted);
              yield* someMoment;
              yield* victim.kill;
              const reported = [...lines, ...(yield* victim.rest)].at(-1)?.asked ?? 0;
              const done = doneOf(yield* survey(backlog));
              whole(before + reported, done);
              assert.isBelow(done, count, "it was killed before its end");
              before = done;
            }).pipe(Effect.scoped);
          }
          const last = yield* startProcess(url, task);
          assert.strictEqual(yield* last.ended, "0");
          const lines = yield* last.rest;
          assert.deepStrictEqual(lines.at(-1), { done: true });
          assert.strictEqual(lines.at(-2)?.asked, count - before);
          const counts = yield* survey(backlog);
          assert.strictEqual(doneOf(counts), count);
          assert.strictEqual(counts.pending, 0);
        }).pipe(Effect.scoped, seeded(name), Effect.zipLeft(told(name))),
      600_000,
    );
  }

  it.effect(
    "of one of two that replay the same letters: the other one does the rest",
    () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const backlog = yield* newBacklog(count, 2);
        const task = { work: "replay", actor, batchSize, prefix: backlog.prefix, appId: null, policy: {} } as const;
        const [victim, other] = yield* Effect.all([
          startProcess(url, task),
          startProcess(url, { ...task, actor: "other" }),
        ]);
        yield* Effect.replicateEffect(victim.line, yield* Random.nextIntBetween(1, 5));
        yield* someMoment;
        yield* victim.killNow;
        assert.strictEqual(yield* other.ended, "0");
        // It waited for what the victim had, and took it when the server had rolled it back: nothing is left to a third one.
        const counts = yield* survey(backlog);
        assert.strictEqual(counts.replayed, count);
      }).pipe(Effect.scoped, seeded("two"), Effect.zipLeft(told("one of two"))),
    600_000,
  );
});

const retentions = {
  "discarded letters": {
    policy: { discarded: 0 },
    prepare: (backlog: Backlog) =>
      Effect.flatMap(DatabaseService, (db) =>
        Stream.runDrain(db.jobDlq.discard(filterOf(backlog), { actor: "setup", reason: "x", scope: system })),
      ),
    done: "purged",
  },
  "replayed letters": {
    policy: { replayed: 0 },
    prepare: (backlog: Backlog) =>
      Effect.flatMap(DatabaseService, (db) =>
        Stream.runDrain(db.jobDlq.replay(filterOf(backlog), { actor: "setup", scope: system })),
      ),
    done: "purged",
  },
  "pending letters": { policy: { pending: 1 }, prepare: () => Effect.void, done: "expired" },
} as const;

// A database for each: retention in the system scope takes whatever is there.
for (const [what, { done, policy, prepare }] of Object.entries(retentions).slice(0, rounds(3, 1))) {
  layer(TestDatabase, { excludeTestServices: true, timeout: "10 minutes" })(`retention of ${what}`, (it) => {
    it.effect(
      "is killed in the middle: the next one does the rest, and the receipts add up",
      () =>
        Effect.gen(function* () {
          const url = yield* TestUrl;
          const sql = yield* SqlClient.SqlClient;
          const backlog = yield* newBacklog(count, 2, 3);
          yield* prepare(backlog);
          const task = { work: "retain", actor: `crash ${what}`, batchSize, prefix: "", appId: null, policy } as const;
          let before = 0;
          for (let i = 0; i < kills; i++) {
            yield* Effect.gen(function* () {
              const victim = yield* startProcess(url, task);
              const wanted = before + batchSize * (yield* Random.nextIntBetween(1, 8));
              // It says nothing before its end; the ledger does.
              yield* Effect.repeat(
                sql`
                  SELECT COALESCE(sum(CASE kind WHEN 'purged' THEN (detail ->> 'count')::int WHEN 'expired' THEN 1 END), 0)::int AS count
                  FROM job_dlq_events WHERE actor = ${task.actor}`,
                { until: ([row]) => Number(row?.count) >= wanted },
              );
              yield* someMoment;
              yield* victim.kill;
              const counts = yield* survey(backlog);
              assert.strictEqual(counts[done] % batchSize, 0);
              assert.isAtLeast(counts[done], wanted);
              assert.isBelow(counts[done], count, "it was killed before its end");
              before = counts[done];
            }).pipe(Effect.scoped);
          }
          const last = yield* startProcess(url, task);
          assert.strictEqual(yield* last.ended, "0");
          assert.strictEqual((yield* survey(backlog))[done], count);
        }).pipe(Effect.scoped, seeded(what), Effect.zipLeft(told(`retention of ${what}`))),
      600_000,
    );
  });
}

// --- the database dies -------------------------------------------------------

class Own extends Context.Tag("Own")<Own, Server.OwnServer>() {}

/** What a stream failed with must be a typed error that says that the connection is gone. */
const lost = (exit: Exit.Exit<unknown, unknown>) => {
  const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty;
  assert.isTrue(Exit.isFailure(exit), "the stream did not notice");
  const error = Option.getOrUndefined(Cause.failureOption(cause));
  assert.strictEqual(Reflect.get(Object(error), "_tag"), "SqlError", Cause.pretty(cause));
  assert.strictEqual(classify(error as SqlError), "Connection", Cause.pretty(cause, { renderErrorCause: true }));
};

const on = (url: Redacted.Redacted) =>
  DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 4 })));

layer(Layer.scoped(Own, Server.make), { excludeTestServices: true, timeout: "10 minutes" })(
  "PostgreSQL ends in the middle",
  (it) => {
    // What is committed is on the disk, and not only with the operating system.
    const durable = { fsync: "on", synchronous_commit: "on", full_page_writes: "on" };
    const all = [
      ["kill", "replay"],
      ["stop", "discard"],
      ["kill", "discard"],
      ["stop", "replay"],
    ] as const;
    for (const [way, work] of all.slice(0, rounds(4, 1))) {
      const by = way === "kill" ? "kill -9 of the postmaster" : "an orderly restart";
      const name = `${by} in the middle of a bulk ${work}: the stream fails typed, what it reported is there, the next one does the rest`;
      it.effect(
        name,
        () =>
          Effect.gen(function* () {
            const own = yield* Own;
            let url = yield* own.start(durable);
            yield* Effect.provide(Migrator.run(), on(url));
            const backlog = yield* Effect.provide(newBacklog(count, 2), on(url));
            const askedOf = ({ asked }: { readonly asked: number }) => asked;
            const options = { actor, scope: system, batchSize };
            const bulk = Stream.unwrap(
              Effect.map(DatabaseService, ({ jobDlq }) =>
                work === "replay"
                  ? Stream.map(jobDlq.replay(filterOf(backlog), options), askedOf)
                  : Stream.map(jobDlq.discard(filterOf(backlog), { ...options, reason: "crash" }), askedOf),
              ),
            );
            const doneOf = (counts: Effect.Effect.Success<ReturnType<typeof survey>>) =>
              work === "replay" ? counts.replayed : counts.discarded;
            let before = 0;
            for (let i = 0; i < kills; i++) {
              let reported = 0;
              const wanted = yield* Random.nextIntBetween(1, 8);
              const moment = yield* Random.nextIntBetween(0, 60);
              const end = Effect.delay(own[way], moment);
              const exit = yield* bulk.pipe(
                Stream.zipWithIndex,
                Stream.runForEach(([asked, place]) => {
                  reported = asked;
                  return place + 1 === wanted ? Effect.forkDaemon(end) : Effect.void;
                }),
                Effect.provide(on(url)),
                Effect.exit,
              );
              lost(exit);
              url = yield* own.start(durable);
              const done = doneOf(yield* Effect.provide(survey(backlog), on(url)));
              whole(before + reported, done);
              before = done;
            }
            const rest = yield* Effect.provide(Stream.runLast(bulk), on(url));
            assert.deepStrictEqual(rest, Option.some(count - before));
            const counts = yield* Effect.provide(survey(backlog), on(url));
            assert.strictEqual(doneOf(counts), count);
            assert.strictEqual(counts.pending, 0);
          }).pipe(seeded(name), Effect.zipLeft(told(name))),
        600_000,
      );
    }
  },
);

// --- the caller stops --------------------------------------------------------

layer(TestDatabase, { excludeTestServices: true })("a bulk replay", (it) => {
  it.effect("that is interrupted leaves whole batches, and goes on when it is called again", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const backlog = yield* newBacklog(count, 2);
      const options = { actor, scope: system, batchSize };
      let before = 0;
      for (let i = 0; i < 5; i++) {
        const progress = yield* Queue.unbounded<number>();
        const fiber = yield* db.jobDlq.replay(filterOf(backlog), options).pipe(
          Stream.runForEach(({ asked }) => Queue.offer(progress, asked)),
          Effect.fork,
        );
        yield* Effect.replicateEffect(Queue.take(progress), yield* Random.nextIntBetween(1, 5));
        yield* someMoment;
        const exit = yield* Fiber.interrupt(fiber);
        assert.isTrue(Exit.isInterrupted(exit));
        const { replayed } = yield* survey(backlog);
        assert.strictEqual(replayed % batchSize, 0);
        assert.isAbove(replayed, before);
        before = replayed;
      }
      const last = yield* Stream.runLast(db.jobDlq.replay(filterOf(backlog), options));
      assert.strictEqual(Option.getOrThrow(last).asked, count - before);
      assert.strictEqual((yield* survey(backlog)).replayed, count);
    }).pipe(seeded("interrupt")),
  );

  it.effect("goes in batches of batchSize, up to limit, and counts on", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const backlog = yield* newBacklog(25);
      const sizes = (options: { batchSize?: number; limit?: number }) =>
        db.jobDlq.replay(filterOf(backlog), { actor, scope: system, ...options }).pipe(
          Stream.map(({ asked, receipts }) => [receipts.length, asked]),
          Stream.runCollect,
          Effect.map(Chunk.toReadonlyArray),
        );
      assert.deepStrictEqual(yield* sizes({ batchSize: 4, limit: 10 }), [
        [4, 4],
        [4, 8],
        [2, 10],
      ]);
      assert.strictEqual((yield* survey(backlog)).replayed, 10);
      assert.deepStrictEqual(yield* sizes({ batchSize: 5, limit: 5 }), [[5, 5]]);
      // The last batch is full, so that only an empty one tells that there is no more.
      assert.deepStrictEqual(yield* sizes({ batchSize: 5 }), [
        [5, 5],
        [5, 10],
      ]);
      assert.deepStrictEqual(yield* sizes({}), []);
      assert.strictEqual((yield* survey(backlog)).replayed, 25);
    }),
  );

  it.effect("at a rate takes no second's worth more at once, and waits for the clock between batches", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const backlog = yield* newBacklog(12);
      const progress = yield* Queue.unbounded<number>();
      const fiber = yield* db.jobDlq.replay(filterOf(backlog), { actor, scope: system, ratePerSecond: 5 }).pipe(
        Stream.runForEach(({ receipts }) => Queue.offer(progress, receipts.length)),
        Effect.fork,
      );
      // The database is real and the clock is not: waits until the replay has gone to sleep, and returns until when.
      const asleep = Effect.repeat(
        Effect.zipRight(
          Effect.promise(() => new Promise(setImmediate)),
          TestClock.sleeps(),
        ),
        {
          until: (sleeps) => Chunk.isNonEmpty(sleeps),
        },
      ).pipe(Effect.map((sleeps) => [...sleeps]));
      for (const [at, size] of [
        [1000, 5],
        [2000, 5],
      ] as const) {
        assert.strictEqual(yield* Queue.take(progress), size);
        assert.deepStrictEqual(yield* asleep, [at]);
        yield* TestClock.adjust(999);
        assert.deepStrictEqual(yield* asleep, [at]);
        assert.isTrue(Option.isNone(yield* Queue.poll(progress)));
        yield* TestClock.adjust(1);
      }
      assert.strictEqual(yield* Queue.take(progress), 2);
      yield* Fiber.join(fiber);
      assert.strictEqual((yield* survey(backlog)).replayed, 12);
    }).pipe(Effect.provide(TestContext.TestContext)),
  );

  it.effect("slower than one a second waits longer, one at a time", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const backlog = yield* newBacklog(2);
      const progress = yield* Queue.unbounded<number>();
      const fiber = yield* db.jobDlq
        .replay(filterOf(backlog), { actor, scope: system, ratePerSecond: 0.25, batchSize: 100 })
        .pipe(
          Stream.runForEach(({ receipts }) => Queue.offer(progress, receipts.length)),
          Effect.fork,
        );
      const asleep = Effect.repeat(
        Effect.zipRight(
          Effect.promise(() => new Promise(setImmediate)),
          TestClock.sleeps(),
        ),
        {
          until: (sleeps) => Chunk.isNonEmpty(sleeps),
        },
      ).pipe(Effect.map((sleeps) => [...sleeps]));
      assert.strictEqual(yield* Queue.take(progress), 1);
      assert.deepStrictEqual(yield* asleep, [4000]);
      yield* TestClock.adjust(4000);
      assert.strictEqual(yield* Queue.take(progress), 1);
      assert.deepStrictEqual(yield* asleep, [8000]);
      yield* TestClock.adjust(4000);
      yield* Fiber.join(fiber);
      assert.strictEqual((yield* survey(backlog)).replayed, 2);
    }).pipe(Effect.provide(TestContext.TestContext)),
  );

  it.effect("takes what was loaded from a dump of another server, whose transactions were further on", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const backlog = yield* newBacklog(10);
      yield* asFromDump(backlog.appIds);
      yield* Stream.runDrain(db.jobDlq.replay(filterOf(backlog), { actor, scope: system, batchSize: 4 }));
      assert.strictEqual((yield* survey(backlog)).replayed, 10);
    }),
  );

  it.effect("a tenant's leaves the letters of the others alone", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const backlog = yield* newBacklog(20, 2);
      const [appId = ""] = backlog.appIds;
      yield* newTenant;
      yield* Stream.runDrain(
        db.jobDlq.replay({ all: true }, { actor, scope: { _tag: "tenant", appId }, batchSize: 3 }),
      );
      assert.strictEqual((yield* survey(backlog)).replayed, 10);
    }),
  );
});
