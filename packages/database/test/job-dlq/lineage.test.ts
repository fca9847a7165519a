import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import type { JobDlqRound } from "../../src/job-dlq/lineage.js";
import { DatabaseService } from "../../src/repos.js";
import { rounds, seed } from "../support/campaign.js";
import { deadJob, letter, newTenant, TestDatabase, work } from "../support/database.js";
import { actor, isKnown, type Letter, letterAfter, play, resultOf, type World, why } from "../support/history.js";
import { makePast } from "../support/past.js";
import { makePresent } from "../support/present.js";
import { statementsOf } from "../support/statements.js";

const diceOf = (round: number) => {
  const random = fc.sample(fc.nat(), { seed: seed + round, numRuns: 4_000 });
  let next = 0;
  return (sides: number) => (sides === 0 ? 0 : (random[next++ % random.length] ?? 0) % sides);
};

const outcomeNames = {
  pending: "waiting",
  processing: "running",
  completed: "completed",
  cancelled: "cancelled",
  dead: "dead again",
  purged: "job purged",
} as const;

/** What must be said of a letter, from what happened to it. */
const expectedOf = (world: World, letter: Letter): ReturnType<typeof saidOf> => {
  const { job, replayed } = letter;
  const replay = replayed === "elsewhere" ? undefined : replayed;
  const result = replay === undefined ? undefined : outcomeNames[resultOf(world, replay)];
  const { place } = letter;
  const left = place === "discarded" || place === "expired" || place === "erased" ? place : undefined;
  const isPending = place === "table" && replayed === undefined;
  const outcome = left ?? result ?? (isPending ? "pending" : "replayed elsewhere");
  const hasFacts = letter.place === "table" || letter.hasCopy || letter.place === "erased";
  return {
    id: letter.id,
    appId: job.appId,
    originalJobId: job.id,
    outcome,
    type: hasFacts ? job.type : null,
    reason: hasFacts ? letter.reason : null,
    lastError: letter.place === "table" || letter.hasCopy ? (letter.error.split("\n")[0] ?? "") : null,
    replay:
      replay !== undefined
        ? { actor, isOverridden: replay.isOverridden ? true : job.wasErased ? null : false }
        : replayed === "elsewhere"
          ? { actor, isOverridden: null }
          : null,
    nextId: outcome === "dead again" && replay !== undefined ? (letterAfter(world, replay)?.id ?? null) : null,
    removal: left !== undefined ? { actor, reason: why, isRestorable: letter.place !== "erased" } : null,
  };
};

/** What was said, without times and without what the model does not know. */
const saidOf = (round: JobDlqRound) => ({
  id: round.id,
  appId: round.appId,
  originalJobId: round.originalJobId,
  outcome: round.outcome,
  type: round.type,
  reason: round.reason,
  lastError: round.lastError,
  replay: round.replay && { actor: round.replay.actor, isOverridden: round.replay.isOverridden },
  nextId: round.nextId,
  removal: round.removal && {
    actor: round.removal.actor,
    reason: round.removal.reason,
    isRestorable: round.removal.isRestorable,
  },
});

layer(TestDatabase, { excludeTestServices: true })("lineage", (it) => {
  const outcomeOf = (appId: string, id: string) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      return Option.getOrThrow(yield* Client.tenant(appId)(db.jobDlq.outcome(id)));
    });

  /** Asks for every letter and every job of a history, and compares. */
  const compare = (world: World, appIds: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const outcomes: Record<string, number> = {};
      for (const appId of appIds) {
        for (const inScope of [Client.tenant(appId), Client.system]) {
          yield* inScope(
            Effect.gen(function* () {
              for (const job of world.jobs.filter((_) => _.appId === appId)) {
                const history = yield* db.jobDlq.history(job.id);
                assert.strictEqual(history.originalJobId, job.id);
                assert.strictEqual(history.job?.status ?? "purged", job.status);
                const letters = world.letters.filter((_) => _.job === job && isKnown(_));
                const expected = letters.map((_) => expectedOf(world, _));
                assert.deepStrictEqual(history.rounds.map(saidOf), expected, JSON.stringify(history, null, 1));
                for (const round of history.rounds) {
                  outcomes[round.outcome] = (outcomes[round.outcome] ?? 0) + 1;
                  assert.deepStrictEqual(yield* db.jobDlq.outcome(round.id), Option.some(round));
                }
              }
              for (const unknown of world.letters.filter((_) => _.job.appId === appId && !isKnown(_))) {
                assert.isTrue(Option.isNone(yield* db.jobDlq.outcome(unknown.id)));
                outcomes.unknown = (outcomes.unknown ?? 0) + 1;
              }
            }),
          );
        }
      }
      return outcomes;
    });

  const merge = (total: Record<string, number>, more: Record<string, number>) => {
    for (const [name, count] of Object.entries(more)) total[name] = (total[name] ?? 0) + count;
  };

  it.effect(
    "says of any history of real operations what happened",
    () =>
      Effect.gen(function* () {
        const store = yield* makePresent;
        const n = rounds(40, 2);
        console.log(`lineage of real operations: ${n} histories, TEST_SEED=${seed}`);
        for (let round = 0; round < n; round++) {
          const appIds = [yield* newTenant, yield* newTenant];
          const world = yield* play(store, { appIds, tag: "real", dice: diceOf(2_000 + round), length: 100 });
          yield* compare(world, appIds);
        }
      }),
    300_000,
  );

  it.effect(
    "says of any history of the past what happened, every outcome among them",
    () =>
      Effect.gen(function* () {
        const n = rounds(150, 12);
        console.log(`lineage: ${n} histories, TEST_SEED=${seed}`);
        const total: Record<string, number> = {};
        for (let round = 0; round < n; round++) {
          const dice = diceOf(3_000 + round);
          const appIds = [yield* newTenant];
          let clock = BigInt(Date.UTC(2026, 0, 1)) * 1000n;
          // Steps within one microsecond and one millisecond too: then only the ids tell what came first.
          const past = makePast(() => {
            clock += [0n, 1n, 999n, 60_000_000n][dice(4)] ?? 0n;
            return clock;
          });
          const world = yield* play(past.store, { appIds, tag: "past", dice, length: 120 });
          yield* past.write(world);
          merge(total, yield* compare(world, appIds));
        }
        console.log(JSON.stringify(total));
        const names = [
          ...Object.values(outcomeNames),
          "pending",
          "replayed elsewhere",
          "discarded",
          "expired",
          "erased",
        ];
        for (const name of names) assert.isAbove(total[name] ?? 0, 0, `${name} did not come up`);
      }),
    300_000,
  );

  describe("a round", () => {
    it.effect("is pending, waiting, running and completed, one after the other, and says when and by whom", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const dead = yield* deadJob(appId, { type: "a type of its own" });
        const pending = yield* outcomeOf(appId, dead.id);
        assert.deepStrictEqual(
          { ...pending, deadLetteredAt: DateTime.formatIso(pending.deadLetteredAt ?? DateTime.unsafeMake(0)) },
          {
            id: dead.id,
            originalJobId: dead.originalJobId,
            appId,
            type: "a type of its own",
            reason: "MaxRetries",
            attempts: 0,
            lastError: "no route",
            deadLetteredAt: DateTime.formatIso(dead.dlqAt),
            replay: null,
            outcome: "pending",
            endedAt: null,
            nextId: null,
            removal: null,
          },
        );
        yield* Client.tenant(appId)(db.jobDlq.replay([dead.id], { actor: "ann", payload: { fixed: true } }));
        const waiting = yield* outcomeOf(appId, dead.id);
        assert.deepStrictEqual([waiting.outcome, waiting.endedAt], ["waiting", null]);
        assert.deepStrictEqual([waiting.replay?.actor, waiting.replay?.isOverridden], ["ann", true]);
        const [event] = (yield* Client.tenant(appId)(db.jobDlq.events({ dlqId: dead.id }))).items;
        assert.deepStrictEqual(waiting.replay?.at, event?.at);
        const [claimed] = yield* Client.tenant(appId)(db.jobs.claim({ runner: "r", types: ["a type of its own"] }));
        assert.isDefined(claimed);
        assert.strictEqual((yield* outcomeOf(appId, dead.id)).outcome, "running");
        const done = yield* Client.tenant(appId)(db.jobs.complete(claimed));
        const completed = yield* outcomeOf(appId, dead.id);
        assert.strictEqual(completed.outcome, "completed");
        assert.deepStrictEqual(completed.endedAt, Option.getOrThrow(done.completedAt));
        // Its row goes, the ledger keeps the replay: what came of it is known as long as the job is there.
        yield* Client.tenant(appId)(db.jobDlq.purge(0));
        const purged = yield* outcomeOf(appId, dead.id);
        assert.deepStrictEqual(
          [purged.outcome, purged.type, purged.reason, purged.attempts, purged.lastError],
          ["completed", null, null, null, null],
        );
        assert.isAtMost(
          Math.abs(
            DateTime.toEpochMillis(purged.deadLetteredAt ?? DateTime.unsafeMake(0)) -
              DateTime.toEpochMillis(dead.dlqAt),
          ),
          60_000,
        );
        yield* Client.tenant(appId)(db.jobs.purge(0));
        assert.strictEqual((yield* outcomeOf(appId, dead.id)).outcome, "job purged");
      }),
    );

    it.effect("is dead again, with the next one, and the last one goes by the job", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const first = yield* deadJob(appId);
        const again = Effect.gen(function* () {
          return yield* db.jobs.deadLetter({
            id: first.originalJobId,
            reason: "Validation",
            error: "again\nand again",
          });
        });
        // All in one transaction, in which every time is the same: the ids tell the order.
        const [second, third] = yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.replay([first.id], { actor });
            const second = yield* again;
            yield* db.jobDlq.replay([second.id], { actor });
            const third = yield* again;
            yield* db.jobDlq.replay([third.id], { actor });
            return [second, third] as const;
          }),
        );
        const { job, rounds } = yield* Client.tenant(appId)(db.jobDlq.history(first.originalJobId));
        assert.deepStrictEqual(
          rounds.map(({ id, lastError, nextId, outcome }) => ({ id, lastError, nextId, outcome })),
          [
            { id: first.id, lastError: "no route", nextId: second.id, outcome: "dead again" },
            { id: second.id, lastError: "again", nextId: third.id, outcome: "dead again" },
            { id: third.id, lastError: "again", nextId: null, outcome: "waiting" },
          ],
        );
        assert.deepStrictEqual(rounds[0]?.endedAt, second.dlqAt);
        assert.deepStrictEqual([job?.status, job?.replays, job?.endedAt], ["pending", 3, null]);
      }),
    );

    it.effect("stays pending when another letter of its job was replayed", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const older = yield* deadJob(appId);
        const { originalJobId } = older;
        const newer = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { originalJobId })));
        yield* Client.tenant(appId)(db.jobDlq.replay([older.id, newer.id], { actor }));
        const { rounds } = yield* Client.tenant(appId)(db.jobDlq.history(originalJobId));
        assert.deepStrictEqual(
          rounds.map(({ id, outcome }) => [id, outcome]),
          [
            [older.id, "pending"],
            [newer.id, "waiting"],
          ],
        );
      }),
    );

    it.effect("whose job completed and was purged does not become dead again by another letter's round", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const older = yield* deadJob(appId, { type: "rounds" });
        const { originalJobId } = older;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const newer = yield* db.jobDlq.insert(letter(appId, { originalJobId }));
            yield* db.jobDlq.replay([newer.id], { actor });
            const [claimed] = yield* db.jobs.claim({ runner: "r", types: ["rounds"] });
            assert.isDefined(claimed);
            yield* db.jobs.complete(claimed);
          }),
        );
        yield* Client.tenant(appId)(db.jobs.purge(0));
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.replay([older.id], { actor });
            const last = yield* db.jobs.deadLetter({ id: originalJobId, reason: "Validation", error: "again" });
            const { rounds } = yield* db.jobDlq.history(originalJobId);
            assert.deepStrictEqual(
              rounds.map(({ nextId, outcome }) => [outcome, nextId]),
              [
                ["dead again", last.id],
                ["job purged", null],
                ["pending", null],
              ],
            );
          }),
        );
      }),
    );

    it.effect("that was discarded and imported again goes by what came after", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const scope = { _tag: "tenant", appId } as const;
        const dead = yield* deadJob(appId);
        const lines = yield* Stream.runCollect(db.jobDlq.exportTo({ ids: [dead.id] }, { scope }));
        yield* Client.tenant(appId)(db.jobDlq.discard([dead.id], { actor, reason: why }));
        yield* Stream.runDrain(db.jobDlq.importFrom(Stream.fromIterable(lines), { actor, scope }));
        assert.strictEqual((yield* outcomeOf(appId, dead.id)).outcome, "pending");
        yield* Client.tenant(appId)(db.jobDlq.replay([dead.id], { actor }));
        assert.strictEqual((yield* outcomeOf(appId, dead.id)).outcome, "waiting");
        yield* Client.tenant(appId)(db.jobDlq.purge(0));
        const waiting = yield* outcomeOf(appId, dead.id);
        assert.deepStrictEqual([waiting.outcome, waiting.removal, waiting.type], ["waiting", null, dead.type]);
      }),
    );

    it.effect(
      "is replayed elsewhere when it was only marked, and not when its job was revived before there was a ledger",
      () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const sql = yield* SqlClient.SqlClient;
          const appId = yield* newTenant;
          const [marked, old] = [yield* deadJob(appId), yield* deadJob(appId)];
          yield* Client.tenant(appId)(
            Effect.gen(function* () {
              yield* db.jobDlq.markReplayed(marked.id, { actor });
              // What replay did when it wrote no ledger.
              yield* sql`UPDATE job_dlq SET replayed_at = now() WHERE id = ${old.id}`;
              yield* sql`UPDATE jobs SET status = 'pending', completed_at = NULL, replays = 1 WHERE id = ${old.originalJobId}`;
            }),
          );
          const elsewhere = yield* outcomeOf(appId, marked.id);
          assert.deepStrictEqual([elsewhere.outcome, elsewhere.replay?.actor], ["replayed elsewhere", actor]);
          assert.isNotNull(elsewhere.replay?.at ?? null);
          assert.deepStrictEqual(
            [(yield* outcomeOf(appId, old.id)).outcome, (yield* outcomeOf(appId, old.id)).replay?.actor],
            ["waiting", null],
          );
          const next = yield* Client.tenant(appId)(
            db.jobs.deadLetter({ id: old.originalJobId, reason: "Validation", error: "again" }),
          );
          assert.deepStrictEqual(
            [(yield* outcomeOf(appId, old.id)).outcome, (yield* outcomeOf(appId, old.id)).nextId],
            ["dead again", next.id],
          );
          // A job that was made anew counts the marked letter among its replays; that one was replayed elsewhere all the same.
          yield* Client.tenant(appId)(
            Effect.gen(function* () {
              const { originalJobId } = marked;
              const other = yield* db.jobDlq.insert(letter(appId, { originalJobId }));
              yield* sql`DELETE FROM jobs WHERE id = ${originalJobId}`;
              yield* db.jobDlq.replay([other.id], { actor });
              assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(originalJobId)).replays, 2);
            }),
          );
          assert.strictEqual((yield* outcomeOf(appId, marked.id)).outcome, "replayed elsewhere");
        }),
    );

    it.effect(
      "is discarded with who and why and the event that restores it, and pending again when it was restored",
      () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const dead = yield* deadJob(appId);
          const discard = Client.tenant(appId)(db.jobDlq.discard([dead.id], { actor: "bob", reason: "a duplicate" }));
          const [receipt] = yield* discard;
          const discarded = yield* outcomeOf(appId, dead.id);
          assert.deepStrictEqual(
            [discarded.outcome, discarded.type, discarded.lastError, discarded.deadLetteredAt],
            ["discarded", dead.type, "no route", dead.dlqAt],
          );
          assert.deepStrictEqual(
            [
              discarded.removal?.actor,
              discarded.removal?.reason,
              discarded.removal?.eventId,
              discarded.removal?.isRestorable,
            ],
            ["bob", "a duplicate", receipt?.eventId, true],
          );
          const restored = yield* Client.tenant(appId)(
            db.jobDlq.restore([discarded.removal?.eventId ?? ""], { actor }),
          );
          assert.strictEqual(restored[0]?.outcome, "restored");
          const pending = yield* outcomeOf(appId, dead.id);
          assert.deepStrictEqual([pending.outcome, pending.removal], ["pending", null]);
          const [second] = yield* discard;
          assert.strictEqual((yield* outcomeOf(appId, dead.id)).removal?.eventId, second?.eventId);
        }),
    );

    it.effect("expires by retention, and can be restored from there", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const dead = yield* deadJob(appId);
        yield* Client.tenant(appId)(sql`UPDATE job_dlq SET dlq_at = now() - interval '3 days' WHERE id = ${dead.id}`);
        yield* db.jobDlq.retain({ pending: 2 }, { actor: "retention", scope: { _tag: "tenant", appId } });
        const expired = yield* outcomeOf(appId, dead.id);
        assert.deepStrictEqual([expired.outcome, expired.removal?.actor], ["expired", "retention"]);
        yield* Client.tenant(appId)(db.jobDlq.restore([expired.removal?.eventId ?? ""], { actor }));
        assert.strictEqual((yield* outcomeOf(appId, dead.id)).outcome, "pending");
      }),
    );

    it.effect("that was erased says that, by whom and of which type, and nothing of the person", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const userId = randomUUID();
        const secret = `canary-${randomUUID()}`;
        const [pending, replayed, discarded] = yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const dead = Effect.gen(function* () {
              const job = yield* db.jobs.enqueue({
                ...work(appId, { payload: { secret } }),
                userId: Option.some(userId),
              });
              return yield* db.jobs.deadLetter({ id: job.id, reason: "Validation", error: `not for ${secret}` });
            });
            const [pending, replayed, discarded] = [yield* dead, yield* dead, yield* dead];
            yield* db.jobDlq.replay([replayed.id], { actor, payload: { secret } });
            yield* db.jobDlq.discard([discarded.id], { actor, reason: "x" });
            yield* db.jobDlq.erase({ userId }, { actor: "privacy desk", reason: "asked to be forgotten" });
            return [pending, replayed, discarded] as const;
          }),
        );
        for (const { id, originalJobId } of [pending, replayed, discarded]) {
          const erased = yield* outcomeOf(appId, id);
          assert.deepStrictEqual(
            [erased.outcome, erased.type, erased.reason, erased.attempts, erased.lastError],
            ["erased", "mail.send", "Validation", 0, null],
          );
          assert.deepStrictEqual(
            [erased.removal?.actor, erased.removal?.reason, erased.removal?.isRestorable],
            ["privacy desk", "asked to be forgotten", false],
          );
          const told = JSON.stringify([erased, yield* Client.tenant(appId)(db.jobDlq.history(originalJobId))]);
          assert.notInclude(told, secret);
          assert.notInclude(told, userId);
        }
        // That it was replayed is known, whether with another payload is not any more.
        const { replay } = yield* outcomeOf(appId, replayed.id);
        assert.deepStrictEqual([replay?.actor, replay?.isOverridden], [actor, null]);
      }),
    );

    it.effect("of a job that is dead without a letter is dead again all the same", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const dead = yield* deadJob(appId);
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.replay([dead.id], { actor });
            yield* sql`UPDATE jobs SET status = 'dead', completed_at = now() WHERE id = ${dead.originalJobId}`;
          }),
        );
        const again = yield* outcomeOf(appId, dead.id);
        assert.deepStrictEqual([again.outcome, again.nextId], ["dead again", null]);
        assert.isNotNull(again.endedAt);
      }),
    );

    it.effect("has its place by its time when its id is none of ours", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const [early, late] = [`ffffffff${randomUUID().slice(8)}`, `00000000${randomUUID().slice(8)}`];
        const dead = yield* deadJob(appId);
        const { originalJobId } = dead;
        const insert = (id: string, at: string) => sql`
          INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
          VALUES (${id}, ${originalJobId}, ${appId}, 't', '{}', 'MaxRetries', 1, '[]', ${at}::timestamptz)`;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* insert(early, "2020-01-01");
            yield* db.jobDlq.replay([dead.id], { actor });
            yield* sql`DELETE FROM jobs WHERE id = ${originalJobId}`;
            assert.deepStrictEqual(
              (yield* db.jobDlq.history(originalJobId)).rounds.map(({ outcome }) => outcome),
              ["pending", "job purged"],
            );
            yield* insert(late, "2100-01-01");
            const { job, rounds } = yield* db.jobDlq.history(originalJobId);
            assert.isNull(job);
            assert.deepStrictEqual(
              rounds.map(({ id, nextId, outcome }) => [id, outcome, nextId]),
              [
                [early, "pending", null],
                [dead.id, "dead again", late],
                [late, "pending", null],
              ],
            );
          }),
        );
      }),
    );
  });

  it.effect("takes one statement, reads ids in any spelling, and refuses what is none", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const dead = yield* deadJob(appId);
      const asked = Effect.all([
        db.jobDlq.outcome(dead.id.toUpperCase()),
        db.jobDlq.history(dead.originalJobId.toUpperCase()),
        db.jobDlq.outcome(randomUUID()),
        db.jobDlq.history(randomUUID()),
      ]);
      const { result, sent } = yield* Client.tenant(appId)(statementsOf(asked));
      assert.strictEqual(sent.length, 4);
      const [outcome, history, unknown, none] = result;
      assert.strictEqual(Option.getOrThrow(outcome).id, dead.id);
      assert.strictEqual(history.rounds[0]?.id, dead.id);
      assert.strictEqual(history.job?.id, dead.originalJobId);
      assert.isTrue(Option.isNone(unknown));
      assert.deepStrictEqual([none.job, [...none.rounds]], [null, []]);
      const refused = [
        [yield* Effect.flip(Client.tenant(appId)(db.jobDlq.outcome("7"))), "id"],
        [yield* Effect.flip(Client.tenant(appId)(db.jobDlq.history(`${dead.id}'--`))), "originalJobId"],
      ] as const;
      for (const [error, field] of refused) {
        assert.strictEqual(error._tag, "InvalidInput");
        if (error._tag === "InvalidInput") assert.strictEqual(error.field, field);
      }
    }),
  );

  it.effect(
    "a letter that was only viewed and then purged is unknown: a line that says nothing of it is no round",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const dead = yield* deadJob(appId);
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.view(dead.id, { actor });
            yield* sql`DELETE FROM job_dlq WHERE id = ${dead.id}`;
            assert.isTrue(Option.isNone(yield* db.jobDlq.outcome(dead.id)));
            assert.deepStrictEqual([...(yield* db.jobDlq.history(dead.originalJobId)).rounds], []);
          }),
        );
      }),
  );

  describe("of another tenant", () => {
    it.effect("is none; counter-test: without the policies it is there", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const [pending, replayed, discarded] = [yield* deadJob(theirs), yield* deadJob(theirs), yield* deadJob(theirs)];
        yield* Client.tenant(theirs)(
          Effect.all([
            db.jobDlq.replay([replayed.id], { actor }),
            db.jobDlq.discard([discarded.id], { actor, reason: why }),
          ]),
        );
        const seen = Client.tenant(mine)(
          Effect.forEach([pending, replayed, discarded], ({ id, originalJobId }) =>
            Effect.gen(function* () {
              const { job, rounds } = yield* db.jobDlq.history(originalJobId);
              return [Option.isSome(yield* db.jobDlq.outcome(id)), job !== null, rounds.length];
            }),
          ),
        );
        const nothing = [false, false, 0];
        assert.deepStrictEqual(yield* seen, [nothing, nothing, nothing]);
        const tables = ["jobs", "job_dlq", "job_dlq_events"];
        for (const table of tables) yield* sql.unsafe(`ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`);
        const leaked = yield* Effect.ensuring(
          seen,
          Effect.orDie(Effect.forEach(tables, (table) => sql.unsafe(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY`))),
        );
        const all = [true, true, 1];
        assert.deepStrictEqual(leaked, [all, all, all]);
      }),
    );

    it.effect("does not go by that tenant's job, nor by its letters, also in the system scope", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const own = yield* deadJob(mine);
        const { originalJobId } = own;
        // Another tenant's letter names the same job, before and after the replay of mine.
        const foreign = Client.tenant(theirs)(db.jobDlq.insert(letter(theirs, { originalJobId })));
        const before = yield* foreign;
        yield* Client.tenant(mine)(db.jobDlq.replay([own.id], { actor }));
        const after = yield* foreign;
        yield* Client.tenant(theirs)(db.jobDlq.markReplayed(before.id));
        const { job, rounds } = yield* Client.system(db.jobDlq.history(originalJobId));
        assert.strictEqual(job?.appId, mine);
        assert.deepStrictEqual(
          rounds.map(({ appId, id, outcome }) => [appId, id, outcome]),
          [
            [mine, own.id, "waiting"],
            [theirs, before.id, "replayed elsewhere"],
            [theirs, after.id, "pending"],
          ],
        );
        const asThem = yield* Client.tenant(theirs)(db.jobDlq.history(originalJobId));
        assert.deepStrictEqual([asThem.job, asThem.rounds.length], [null, 2]);
      }),
    );
  });
});
