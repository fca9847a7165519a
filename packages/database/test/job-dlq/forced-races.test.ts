/** Races in an order that locks force: who comes first, who waits, and what each is told. See races.test.ts for the others. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Chunk from "effect/Chunk";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
import { classify } from "../../src/sql-state.js";
import { balance, eachOnce } from "../support/balance.js";
import { connections, hold, inOrder, startWaiting, untilBehind, withoutDeadlock } from "../support/contest.js";
import { letter, newTenant, TestDatabase, work } from "../support/database.js";
import { traces } from "../support/race.js";

const actor = "race";
const letterLock = "SELECT FROM job_dlq WHERE id = $1 FOR UPDATE";
const eventLock = "SELECT FROM job_dlq_events WHERE id = $1 FOR UPDATE";
const jobLock = "SELECT FROM jobs WHERE id = $1 FOR UPDATE";

/** A person's job that was dead-lettered, `isPurged`: and purged. Both texts are in nothing else. */
const oneLetter = (isPurged = false) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    const appId = yield* newTenant;
    const userId = randomUUID();
    const canary = `canary-${randomUUID()}`;
    return yield* Client.tenant(appId)(
      Effect.gen(function* () {
        const job = yield* db.jobs.enqueue({
          ...work(appId, { payload: { canary } }),
          userId: Option.some(userId),
          requestId: Option.some(randomUUID()),
        });
        const { id } = yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: canary });
        if (isPurged) yield* sql`DELETE FROM jobs WHERE id = ${job.id}`;
        return { appId, userId, canary, id, jobId: job.id };
      }),
    );
  });
type OneLetter = Effect.Effect.Success<ReturnType<typeof oneLetter>>;

/** The values of exits that must all be successes. */
const succeeded = <A, E>(exits: ReadonlyArray<Exit.Exit<A, E>>) =>
  exits.map((exit) => {
    if (Exit.isFailure(exit)) assert.fail(Cause.pretty(exit.cause, { renderErrorCause: true }));
    return exit.value;
  });

type Call = (of: OneLetter) => Effect.Effect<string, unknown, DatabaseService | SqlClient.SqlClient>;

const outcomesOf = (receipts: ReadonlyArray<{ readonly outcome: string }>) =>
  receipts.map(({ outcome }) => outcome).join();
const allOf = <E, R>(stream: Stream.Stream<{ readonly receipts: ReadonlyArray<{ readonly outcome: string }> }, E, R>) =>
  Effect.map(Stream.runCollect(stream), (all) => outcomesOf(Chunk.toReadonlyArray(all).flatMap((_) => _.receipts)));

const inTenant = <A, E>(appId: string, use: (db: DatabaseService) => Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.flatMap(DatabaseService, (db) => Client.tenant(appId)(use(db)));

const takers: Readonly<Record<"replay" | "discard" | "erase", ReadonlyArray<readonly [string, Call]>>> = {
  replay: [
    [
      "replay by ids",
      ({ appId, canary, id }) =>
        inTenant(appId, (db) => db.jobDlq.replay([id], { actor, payload: { canary } })).pipe(Effect.map(outcomesOf)),
    ],
    [
      "replay by filter",
      ({ appId }) =>
        Effect.flatMap(DatabaseService, (db) =>
          allOf(db.jobDlq.replay({ all: true }, { actor, scope: { _tag: "tenant", appId } })),
        ),
    ],
  ],
  discard: [
    [
      "discard by ids",
      ({ appId, id }) =>
        inTenant(appId, (db) => db.jobDlq.discard([id], { actor, reason: "race" })).pipe(Effect.map(outcomesOf)),
    ],
    [
      "discard by filter",
      ({ appId }) =>
        Effect.flatMap(DatabaseService, (db) =>
          allOf(db.jobDlq.discard({ all: true }, { actor, reason: "race", scope: { _tag: "tenant", appId } })),
        ),
    ],
  ],
  erase: [
    [
      "erase a person",
      ({ appId, userId }) =>
        inTenant(appId, (db) => db.jobDlq.erase({ userId }, { actor })).pipe(Effect.map((_) => JSON.stringify(_))),
    ],
    [
      "erase by ids",
      ({ appId, id }) =>
        inTenant(appId, (db) => db.jobDlq.erase({ ids: [id] }, { actor })).pipe(Effect.map((_) => JSON.stringify(_))),
    ],
  ],
};
const erasure = (letters: number, copies: number, jobsCancelled: number, jobsEmptied: number) =>
  JSON.stringify({ letters, copies, jobsCancelled, jobsEmptied });

/** What each says: as the first, and behind the others, with the job dead and with the job purged. */
const gone = ["already gone", "already gone"];
const said = {
  replay: { first: ["replayed", "replayed"], behind: { replay: gone, discard: gone, erase: gone } },
  discard: { first: ["discarded", "discarded"], behind: { replay: gone, discard: gone, erase: gone } },
  erase: {
    first: [erasure(1, 0, 0, 1), erasure(1, 0, 0, 0)],
    behind: {
      replay: [erasure(1, 0, 1, 1), erasure(1, 0, 1, 1)],
      discard: [erasure(0, 1, 0, 1), erasure(0, 1, 0, 0)],
      erase: [erasure(0, 0, 0, 0), erasure(0, 0, 0, 0)],
    },
  },
};

const kinds = ["replay", "discard", "erase"] as const;

layer(TestDatabase, { excludeTestServices: true })("in a forced order", (it) => {
  for (const first of kinds) {
    for (const second of kinds) {
      for (const isPurged of [false, true]) {
        const name = `${first}, then ${second}, the job ${isPurged ? "purged" : "dead"}: the first gets the letter, both say the truth`;
        const place = isPurged ? 1 : 0;
        it.effect(name, () =>
          Effect.gen(function* () {
            for (const [firstName, one] of takers[first]) {
              for (const [secondName, two] of takers[second]) {
                const names = `${firstName}, then ${secondName}`;
                const of = yield* oneLetter(isPurged);
                const exits = yield* inOrder(letterLock, [of.id], [one(of), two(of)]);
                const expected = [said[first].first[place], said[second].behind[first][place]];
                assert.deepStrictEqual(succeeded(exits), expected, names);
                yield* eachOnce(of.appId);
                const isBack = isPurged && first === "replay";
                yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: isPurged && !isBack ? 1 : 0 });
                if (first === "erase" || second === "erase") {
                  assert.deepStrictEqual(yield* traces([of.userId, of.canary]), [], names);
                }
              }
            }
          }).pipe(withoutDeadlock),
        );
      }
    }
  }
});

const discarded = Effect.gen(function* () {
  const of = yield* oneLetter();
  const receipts = yield* inTenant(of.appId, (db) => db.jobDlq.discard([of.id], { actor, reason: "race" }));
  return { ...of, eventId: receipts[0]?.eventId ?? "" };
});
const restore = ({ appId, eventId }: Effect.Effect.Success<typeof discarded>) =>
  inTenant(appId, (db) => db.jobDlq.restore([eventId], { actor })).pipe(Effect.map(outcomesOf));

// One restores and discards again in a transaction; who waited for the event finds the letter gone, as it was before.
const restoredAndDiscarded = Effect.gen(function* () {
  const of = yield* discarded;
  const again = inTenant(of.appId, (db) =>
    Effect.zipRight(
      db.jobDlq.restore([of.eventId], { actor }),
      Effect.map(db.jobDlq.discard([of.id], { actor, reason: "again" }), outcomesOf),
    ),
  );
  const exits = yield* inOrder(eventLock, [of.eventId], [again, restore(of)]);
  return { of, outcomes: succeeded(exits) };
});

layer(TestDatabase, { excludeTestServices: true })("restore in a forced order", (it) => {
  it.effect("restore, then restore: the second learns that it was restored", () =>
    Effect.gen(function* () {
      const of = yield* discarded;
      const exits = yield* inOrder(eventLock, [of.eventId], [restore(of), restore(of)]);
      assert.deepStrictEqual(succeeded(exits), ["restored", "already restored"]);
      yield* eachOnce(of.appId);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );

  for (const [name, erase] of takers.erase) {
    it.effect(`restore, then ${name}: the letter is erased once, from the table`, () =>
      Effect.gen(function* () {
        const of = yield* discarded;
        const exits = yield* inOrder(eventLock, [of.eventId], [restore(of), erase(of)]);
        assert.deepStrictEqual(succeeded(exits), ["restored", erasure(1, 0, 0, 1)]);
        assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
        yield* eachOnce(of.appId);
        yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
      }).pipe(withoutDeadlock),
    );

    it.effect(`${name}, then restore: nothing comes back`, () =>
      Effect.gen(function* () {
        const of = yield* discarded;
        const exits = yield* inOrder(eventLock, [of.eventId], [erase(of), restore(of)]);
        assert.deepStrictEqual(succeeded(exits), [erasure(0, 1, 0, 1), "erased"]);
        assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
        yield* eachOnce(of.appId);
        yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
      }).pipe(withoutDeadlock),
    );
  }

  it.effect("an event is used once also when its letter was discarded again meanwhile", () =>
    Effect.gen(function* () {
      const { of, outcomes } = yield* restoredAndDiscarded;
      assert.deepStrictEqual(outcomes, ["discarded", "already restored"]);
      yield* eachOnce(of.appId);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );
});

// A database of its own, in which the index is missing afterwards.
layer(TestDatabase, { excludeTestServices: true })("restore without the unique index on undoes", (it) => {
  // The lock on the events keeps `restore` itself from coming so far, so this is a caller who does without it.
  const restoreAnyway = ({ appId, eventId }: Effect.Effect.Success<typeof discarded>) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) =>
      Client.tenant(appId)(sql`
        WITH back AS (
          INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history)
          SELECT dlq_id, original_job_id, app_id, 'x', 'null', 'x', 1, '[]' FROM job_dlq_events WHERE id = ${eventId}
          RETURNING *)
        INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, undoes)
        SELECT app_id, id, original_job_id, 'restored', ${actor}, ${eventId} FROM back`),
    );

  it.effect("counter-test: the letter is there twice, and the equation says so", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const { of } = yield* restoredAndDiscarded;
      const refused = yield* Effect.flip(restoreAnyway(of));
      assert.strictEqual(refused._tag === "SqlError" && classify(refused), "Unique");
      yield* sql`DROP INDEX idx_job_dlq_events_undoes`;
      yield* restoreAnyway(of);
      const broken = yield* Effect.exit(balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 }));
      assert.match(Exit.isFailure(broken) ? Cause.pretty(broken.cause) : "holds", /dead letters: 1 inserted/);
      assert.match(String(yield* Effect.exit(eachOnce(of.appId))), /in more places than it came in/);
    }),
  );
});

layer(TestDatabase, { excludeTestServices: true })("workers and purges in a forced order", (it) => {
  const running = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const appId = yield* newTenant;
    const userId = randomUUID();
    const canary = `canary-${randomUUID()}`;
    const job = yield* Client.tenant(appId)(
      db.jobs.enqueue({ ...work(appId, { payload: { canary } }), userId: Option.some(userId) }),
    );
    return { appId, userId, canary, jobId: job.id };
  });
  type Running = Effect.Effect.Success<typeof running>;
  const deadLetter = ({ appId, canary, jobId }: Running) =>
    inTenant(appId, (db) => db.jobs.deadLetter({ id: jobId, reason: "MaxRetries", error: canary })).pipe(
      Effect.as("dead-lettered"),
      Effect.catchTag("JobNotHeld", ({ status }) => Effect.succeed(status)),
    );
  const erase = ({ appId, userId }: Pick<Running, "appId" | "userId">) =>
    inTenant(appId, (db) => db.jobDlq.erase({ userId }, { actor })).pipe(Effect.map((_) => JSON.stringify(_)));

  it.effect("dead-letter, then erase: the new letter is erased as well", () =>
    Effect.gen(function* () {
      const of = yield* running;
      const exits = yield* inOrder(jobLock, [of.jobId], [deadLetter(of), erase(of)]);
      assert.deepStrictEqual(succeeded(exits), ["dead-lettered", erasure(1, 0, 0, 1)]);
      assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );

  it.effect("erase, then dead-letter: the worker is told that the job is not its any more", () =>
    Effect.gen(function* () {
      const of = yield* running;
      const exits = yield* inOrder(jobLock, [of.jobId], [erase(of), deadLetter(of)]);
      assert.deepStrictEqual(succeeded(exits), [erasure(0, 0, 1, 1), "cancelled"]);
      assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
      yield* balance({ appId: of.appId, inserted: 0, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );

  it.effect("a replay that has the new letter and waits for the job gets it, and is erased after it", () =>
    Effect.gen(function* () {
      const of = yield* running;
      const other = yield* inTenant(of.appId, (db) =>
        db.jobs.enqueue({ ...work(of.appId), userId: Option.some(of.userId) }),
      );
      yield* Effect.gen(function* () {
        // The erasure waits for the first job, gets it when the job is dead, and waits for the second one with the first in hand.
        const first = yield* hold(jobLock, [of.jobId]);
        const dead = yield* startWaiting(1, "dead-letter", deadLetter(of));
        const erasing = yield* startWaiting(2, "erase", erase(of));
        const second = yield* hold(jobLock, [other.id]);
        yield* first.release;
        yield* Fiber.join(dead);
        const letters = yield* inTenant(of.appId, (db) => db.jobDlq.listPending());
        const ids = letters.map(({ id }) => id);
        assert.strictEqual(ids.length, 1);
        const replay = inTenant(of.appId, (db) => db.jobDlq.replay(ids, { actor }));
        const replaying = yield* startWaiting(2, "replay", Effect.map(replay, outcomesOf));
        yield* second.release;
        assert.strictEqual(yield* Fiber.join(replaying), "replayed");
        assert.strictEqual(yield* Fiber.join(erasing), erasure(1, 0, 2, 2));
      }).pipe(Effect.scoped);
      assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
      yield* eachOnce(of.appId);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 2, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );

  const purgeJobs = ({ appId }: { readonly appId: string }) =>
    Effect.map(
      inTenant(appId, (db) => db.jobs.purge(0)),
      String,
    );
  const replayOne = ({ appId, id }: OneLetter) =>
    Effect.map(
      inTenant(appId, (db) => db.jobDlq.replay([id], { actor })),
      outcomesOf,
    );

  it.effect("replay, then a purge of jobs: the job is alive and stays", () =>
    Effect.gen(function* () {
      const of = yield* oneLetter();
      const exits = yield* inOrder(jobLock, [of.jobId], [replayOne(of), purgeJobs(of)]);
      assert.deepStrictEqual(succeeded(exits), ["replayed", "0"]);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );

  it.effect("a purge of jobs, then replay: the job is made anew", () =>
    Effect.gen(function* () {
      const of = yield* oneLetter();
      const exits = yield* inOrder(jobLock, [of.jobId], [purgeJobs(of), replayOne(of)]);
      assert.deepStrictEqual(succeeded(exits), ["1", "replayed"]);
      yield* eachOnce(of.appId);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );

  it.effect("retention does not wait for a letter that a replay has, and does not take it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const of = yield* oneLetter();
      yield* sql`UPDATE job_dlq SET dlq_at = now() - interval '9 days' WHERE id = ${of.id}`;
      yield* Effect.gen(function* () {
        const { release } = yield* hold(jobLock, [of.jobId]);
        const replaying = yield* startWaiting(1, "replay", replayOne(of));
        const retained = yield* inTenant(of.appId, (db) => db.jobDlq.retain({ pending: 1, replayed: 0 }, { actor }));
        assert.deepInclude({ ...retained }, { pending: 0, replayed: 0, isComplete: false });
        yield* release;
        assert.strictEqual(yield* Fiber.join(replaying), "replayed");
      }).pipe(Effect.scoped);
      yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
    }).pipe(withoutDeadlock),
  );
});

/**
 * Rows that lie in the table in the opposite order of their ids, so that a statement that goes by place and one that goes by id
 * meet in the middle.
 */
layer(TestDatabase, { excludeTestServices: true })("callers that lock many rows", (it) => {
  const idOf = (n: number) => `00000000-0000-7000-8000-${String(n).padStart(12, "0")}`;
  const byPlace = "-c enable_nestloop=off -c enable_mergejoin=off -c enable_indexscan=off -c enable_bitmapscan=off";
  const byId = "-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off -c enable_bitmapscan=off";
  let used = 0;

  /** Dead jobs with two letters each, from the last id to the first; the newer ones pending or replayed. */
  const backwards = (count: number, newer: "pending" | "replayed" = "pending") =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const userId = randomUUID();
      const jobIds = Array.from({ length: count }, () => idOf(++used));
      yield* sql`
        INSERT INTO jobs (id, app_id, user_id, type, payload, status, completed_at)
        SELECT id, ${appId}, ${userId}, 't', '{}', 'dead', now() FROM unnest(${jobIds}::uuid[]) AS t (id) ORDER BY id DESC`;
      for (const type of ["older", "newer"]) {
        yield* sql`
          INSERT INTO job_dlq (original_job_id, app_id, user_id, type, payload, error_reason, attempts, error_history, replayed_at)
          SELECT id, app_id, user_id, ${type}, payload, 'MaxRetries', 1, '[]', CASE WHEN ${type === "newer" && newer === "replayed"} THEN now() END FROM jobs
          WHERE app_id = ${appId} ORDER BY id DESC`;
      }
      yield* sql`ANALYZE jobs`;
      yield* sql`ANALYZE job_dlq`;
      const lettersOf = (type: string) =>
        Effect.map(
          sql`SELECT id FROM job_dlq WHERE app_id = ${appId} AND type = ${type} ORDER BY original_job_id`,
          (rows) => rows.map(({ id }) => String(id)),
        );
      return { appId, userId, jobIds, older: yield* lettersOf("older"), newer: yield* lettersOf("newer") };
    });

  /** Two callers whose connections plan differently; both run into the lock in the middle. */
  const meet = <A, B>(
    statement: string,
    id: string | undefined,
    one: readonly [string, Effect.Effect<A, unknown, DatabaseService | SqlClient.SqlClient>],
    other: readonly [string, Effect.Effect<B, unknown, DatabaseService | SqlClient.SqlClient>],
  ) =>
    Effect.gen(function* () {
      const [first, second] = yield* inOrder<A | B, unknown, DatabaseService | SqlClient.SqlClient>(
        statement,
        [id],
        [Effect.provide(one[1], yield* connections(one[0])), Effect.provide(other[1], yield* connections(other[0]))],
      );
      assert.isDefined(first);
      assert.isDefined(second);
      return succeeded([first, second]);
    });

  for (const [one, other] of [
    [byPlace, byId],
    [byId, byPlace],
  ] as const) {
    const how = one === byPlace ? "by place" : "by id";
    it.effect(`two replays of different letters of the same jobs, the first ${how}`, () =>
      Effect.gen(function* () {
        const of = yield* backwards(300);
        const replay = (ids: ReadonlyArray<string>) => inTenant(of.appId, (db) => db.jobDlq.replay(ids, { actor }));
        const [first, second] = yield* meet(
          jobLock,
          of.jobIds[150],
          [one, replay(of.older)],
          [other, replay(of.newer)],
        );
        assert.deepStrictEqual(new Set(first?.map((_) => _.outcome)), new Set(["replayed"]));
        assert.deepStrictEqual(new Set(second?.map((_) => _.outcome)), new Set(["job not dead"]));
        yield* eachOnce(of.appId);
        yield* balance({ appId: of.appId, inserted: 600, submitted: 300, purgedJobs: 0 });
      }).pipe(withoutDeadlock),
    );

    it.effect(`a replay and a purge of jobs, the replay ${how}`, () =>
      Effect.gen(function* () {
        const of = yield* backwards(300);
        const replay = inTenant(of.appId, (db) => db.jobDlq.replay(of.older, { actor }));
        const purge = inTenant(of.appId, (db) => db.jobs.purge(0));
        const [receipts, purged] = yield* meet(jobLock, of.jobIds[150], [one, replay], [other, purge]);
        assert.strictEqual(outcomesOf(receipts as never), Array(300).fill("replayed").join());
        assert.strictEqual(purged, 0);
        yield* balance({ appId: of.appId, inserted: 600, submitted: 300, purgedJobs: 0 });
      }).pipe(withoutDeadlock),
    );

    it.effect(`a replay and an erasure of the same letters, the replay ${how}`, () =>
      Effect.gen(function* () {
        const of = yield* backwards(300, "replayed");
        const replay = inTenant(of.appId, (db) => db.jobDlq.replay(of.older, { actor }));
        const erase = inTenant(of.appId, (db) => db.jobDlq.erase({ ids: of.older }, { actor }));
        const [receipts, erased] = yield* meet(letterLock, of.older[150], [one, replay], [other, erase]);
        const replayed = (receipts as ReadonlyArray<{ readonly outcome: string }>).map(({ outcome }) => outcome);
        assert.include([Array(300).fill("replayed").join(), Array(300).fill("erased").join()], replayed.join());
        assert.deepInclude(Object(erased), { letters: 300 });
      }).pipe(withoutDeadlock),
    );

    it.effect(`a purge of replayed letters and an erasure of them, the purge ${how}`, () =>
      Effect.gen(function* () {
        const of = yield* backwards(300, "replayed");
        const purge = inTenant(of.appId, (db) => db.jobDlq.purge(0));
        const erase = inTenant(of.appId, (db) => db.jobDlq.erase({ userId: of.userId }, { actor }));
        const [purged, receipt] = yield* meet(letterLock, of.newer[150], [one, purge], [other, erase]);
        // The purge gives way when it has waited, and takes what the erasure leaves.
        const { jobsEmptied, letters } = receipt as { readonly letters: number; readonly jobsEmptied: number };
        assert.strictEqual(Number(purged) + letters, 600);
        assert.include([0, 300], purged);
        assert.strictEqual(jobsEmptied, 300);
        yield* balance({ appId: of.appId, inserted: 600, submitted: 300, purgedJobs: 0 });
      }).pipe(withoutDeadlock),
    );
  }
});

const gate = 4711;
// A policy is asked for each row that is read, and before any is locked: whoever reads the ledger as parametric_system waits
// there until the gate opens.
const gated = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      yield* sql.unsafe(`
        CREATE FUNCTION wait_at_gate() RETURNS boolean LANGUAGE plpgsql AS $body$
        BEGIN
          PERFORM pg_advisory_xact_lock_shared(${gate});
          RETURN true;
        END
        $body$;
        CREATE POLICY gated ON job_dlq_events AS RESTRICTIVE FOR SELECT TO parametric_system USING (wait_at_gate())`);
      return sql;
    }),
    () => effect,
    (sql) => Effect.orDie(sql.unsafe("DROP POLICY gated ON job_dlq_events; DROP FUNCTION wait_at_gate()")),
  );

layer(TestDatabase, { excludeTestServices: true })("a restore between retention's snapshot and its lock", (it) => {
  it.effect("is not counted as purged: the letter is in the table, its events stay", () =>
    Effect.gen(function* () {
      const of = yield* oneLetter();
      const [discarded] = yield* inTenant(of.appId, (db) => db.jobDlq.discard([of.id], { actor, reason: "race" }));
      const eventId = discarded?.eventId ?? "";
      const retain = Effect.flatMap(DatabaseService, (db) =>
        db.jobDlq.retain({ discarded: 0 }, { actor, scope: { _tag: "system" } }),
      );
      const retained = yield* gated(
        Effect.gen(function* () {
          const closed = yield* hold(`SELECT pg_advisory_xact_lock(${gate})`);
          const retaining = yield* startWaiting(1, "retain", retain);
          const restored = yield* inTenant(of.appId, (db) => db.jobDlq.restore([eventId], { actor }));
          assert.strictEqual(outcomesOf(restored), "restored");
          yield* closed.release;
          return yield* Fiber.join(retaining);
        }).pipe(Effect.scoped),
      );
      assert.deepInclude({ ...retained }, { discarded: 0, isComplete: true });
      yield* eachOnce(of.appId);
      const found = yield* balance({ appId: of.appId, inserted: 1, submitted: 1, purgedJobs: 0 });
      assert.deepInclude(found, { pending: 1, discarded: 1, restored: 1, purged: 0 });
    }).pipe(withoutDeadlock),
  );
});

/**
 * An import of three letters, stopped twice: before it judges any of them, behind a lock on the copy of the first, and while it
 * stores them, behind another one's insert of the last. The second letter is pending when the import begins, and is discarded at
 * the first stop.
 */
layer(TestDatabase, { excludeTestServices: true })(
  "an import, and a letter that is discarded just before it is judged",
  (it) => {
    // Stored before all others, and behind them.
    const least = () => `00000000${randomUUID().slice(8)}`;
    const greatest = () => `ffffffff${randomUUID().slice(8)}`;

    /** `meanwhile` happens at the second stop, with the event that discarded the letter, and need not end there. */
    const imported = <A>(
      last: string,
      meanwhile: (
        of: OneLetter,
        eventId: string,
      ) => Effect.Effect<Fiber.Fiber<A, unknown>, unknown, DatabaseService | SqlClient.SqlClient>,
    ) =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const of = yield* oneLetter();
        const scope = { _tag: "tenant", appId: of.appId } as const;
        const first = yield* inTenant(of.appId, (db) => db.jobDlq.insert(letter(of.appId)));
        const lines = yield* Stream.runCollect(db.jobDlq.exportTo({ ids: [first.id, of.id] }, { scope }));
        const lastLine = JSON.stringify({ ...JSON.parse(Chunk.unsafeHead(lines)), id: last });
        const discard = (id: string) =>
          inTenant(of.appId, (db) => db.jobDlq.discard([id], { actor, reason: "race" })).pipe(
            Effect.map(([receipt]) => receipt?.eventId ?? ""),
          );
        const copy = yield* hold(eventLock, [yield* discard(first.id)]);
        const text = Stream.fromChunk(Chunk.append(lines, lastLine));
        const importing = yield* startWaiting(
          1,
          "import",
          Stream.runLast(db.jobDlq.importFrom(text, { actor, scope })),
        );
        const eventId = yield* discard(of.id);
        const insert = yield* hold(
          `INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history)
        VALUES ($1, $1, $2, 't', 'null', 'MaxRetries', 1, '[]')`,
          [last, of.appId],
        );
        yield* copy.release;
        yield* untilBehind(insert);
        const other = yield* meanwhile(of, eventId);
        yield* insert.release;
        const report = Option.getOrThrow(yield* Fiber.join(importing));
        // The first one is back, the last one is the other's.
        assert.deepInclude({ ...report }, { lines: 3, imported: 1 });
        const said = yield* Fiber.join(other);
        yield* eachOnce(of.appId);
        const terms = yield* balance({ appId: of.appId, inserted: 3, submitted: 1, purgedJobs: 0 });
        return { of, said, refused: report.problems.map(({ reason }) => reason), terms };
      }).pipe(Effect.scoped, withoutDeadlock);

    for (const [name, erase] of takers.erase) {
      it.effect(`${name}: nothing comes back`, () =>
        Effect.gen(function* () {
          const { of, refused, said } = yield* imported(greatest(), (of) => Effect.map(erase(of), Fiber.succeed));
          assert.strictEqual(said, erasure(0, 1, 0, 1));
          assert.deepStrictEqual(refused, ["erased"]);
          assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
        }),
      );
    }

    it.effect("restored, replayed and purged: it is not pending again", () =>
      Effect.gen(function* () {
        const { refused, said } = yield* imported(least(), ({ appId, id }, eventId) =>
          inTenant(appId, (db) => db.jobDlq.restore([eventId], { actor })).pipe(
            Effect.zipRight(inTenant(appId, (db) => db.jobDlq.replay([id], { actor }))),
            Effect.zipRight(inTenant(appId, (db) => db.jobDlq.purge(0))),
            Effect.map(Fiber.succeed),
          ),
        );
        assert.strictEqual(said, 1);
        assert.deepStrictEqual(refused, ["replayed"]);
      }),
    );

    it.effect("a restore that waits for the import: the import gives way, and both say the truth", () =>
      Effect.gen(function* () {
        const { refused, said, terms } = yield* imported(greatest(), (of, eventId) =>
          startWaiting(2, "restore", restore({ ...of, eventId })),
        );
        assert.strictEqual(said, "restored");
        assert.deepStrictEqual(refused, []);
        assert.deepInclude(terms, { imported: 1, pending: 3, discarded: 2, restored: 1 });
      }),
    );
  },
);

// Each in a database of its own: the gate stops the erasure at the first line of the ledger that it sees, and none is there before.
for (const name of ["restore", "import"] as const) {
  layer(TestDatabase, { excludeTestServices: true })(
    `an erasure, and the ${name} of a letter that was discarded before it`,
    (it) => {
      it.effect("that commits between the snapshot and the lock: the letter is erased from the table", () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const of = yield* oneLetter();
          const { appId, id } = of;
          const line = Option.getOrThrow(
            yield* Stream.runHead(db.jobDlq.exportTo({ ids: [id] }, { scope: { _tag: "tenant", appId } })),
          );
          const bringBack = Effect.gen(function* () {
            if (name === "import") return yield* Stream.runDrain(db.jobDlq.importFrom(Stream.make(line), { actor }));
            const { items } = yield* db.jobDlq.events({ kind: "discarded" });
            yield* db.jobDlq.restore([items[0]?.id ?? ""], { actor });
          });
          const receipt = yield* gated(
            Effect.gen(function* () {
              // The erasure sees the letter, waits for the discard, and for the job with no copy in hand.
              const job = yield* hold(jobLock, [of.jobId]);
              const held = yield* hold(letterLock, [id]);
              const discard = inTenant(appId, (db) => db.jobDlq.discard([id], { actor, reason: "race" }));
              yield* startWaiting(1, "discard", discard);
              const erase = Client.system(db.jobDlq.erase({ userId: of.userId }, { actor }));
              const erasing = yield* startWaiting(2, "erase", erase);
              yield* held.release;
              yield* untilBehind(job);
              const [isBack, commit] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
              const bringing = yield* Effect.fork(
                Client.tenant(appId)(
                  bringBack.pipe(
                    Effect.zipRight(Deferred.succeed(isBack, undefined)),
                    Effect.zipRight(Deferred.await(commit)),
                  ),
                ),
              );
              yield* Deferred.await(isBack);
              const closed = yield* hold(`SELECT pg_advisory_xact_lock(${gate})`);
              yield* job.release;
              yield* untilBehind(closed);
              yield* Deferred.succeed(commit, undefined);
              yield* Fiber.join(bringing);
              yield* closed.release;
              return yield* Fiber.join(erasing);
            }).pipe(Effect.scoped),
          );
          assert.strictEqual(receipt.letters, 1);
          assert.deepStrictEqual(yield* traces([of.userId, of.canary]), []);
          yield* eachOnce(appId);
          yield* balance({ appId, inserted: 1, submitted: 1, purgedJobs: 0 });
        }).pipe(withoutDeadlock),
      );
    },
  );
}
