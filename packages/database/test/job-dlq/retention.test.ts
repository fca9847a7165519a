import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";
import * as Client from "../../src/client.js";
import type { RetentionReceipt } from "../../src/job-dlq/retention.js";
import { DatabaseService } from "../../src/repos.js";
import { hold, startWaiting } from "../support/contest.js";
import { letter, newTenant, TestDatabase } from "../support/database.js";

const actor = "nightly";
const system = { _tag: "system" } as const;
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000 - 60_000);

layer(TestDatabase, { excludeTestServices: true })("jobDlq.retain, expiring and purge", (it) => {
  /** Letters that were dead-lettered so many days ago, by the database's clock. */
  const pendingSince = (appId: string, days: ReadonlyArray<number>) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      yield* db.jobDlq.insertMany(days.map((day) => letter(appId, { attempts: day })));
      yield* sql`UPDATE job_dlq SET dlq_at = now() - make_interval(days => attempts, mins => 1) WHERE replayed_at IS NULL`;
    });
  const replayedSince = (appId: string, days: ReadonlyArray<number>) =>
    Effect.flatMap(DatabaseService, (db) =>
      db.jobDlq.insertMany(
        days.map((day) => letter(appId, { type: `t${day % 2}`, replayedAt: Option.some(daysAgo(day)) })),
      ),
    );

  /** What the ledger of the scope around it has as the receipts of whole runs, the newest first. */
  const conclusions = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { items } = yield* db.jobDlq.events({ kind: "purged" });
    return items.flatMap((event) => {
      const detail = event.detail as Readonly<Record<string, unknown>>;
      return detail.source === "retain" ? [{ ...event, detail }] : [];
    });
  });

  /** The detail of the one line that a receipt has in the ledger. */
  const told = ({ discarded, groups, isComplete, pending, replayed, run }: RetentionReceipt, days: object) => ({
    source: "retain",
    run,
    older_than_days: days,
    is_complete: isComplete,
    counts: { replayed, discarded, pending },
    groups,
  });

  it.effect("deletes replayed letters past their age, in batches, with a receipt for each app and batch", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const scope = { _tag: "tenant", appId } as const;
      yield* Client.tenant(appId)(replayedSince(appId, [1, 5, 8, 9, 10, 11, 12]));
      const receipt = yield* db.jobDlq.retain({ replayed: 7 }, { actor, scope, batchSize: 2 });
      assert.deepInclude({ ...receipt }, { replayed: 5, discarded: 0, pending: 0, isComplete: true });
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          assert.strictEqual(yield* db.jobDlq.count(), 2);
          const { items: lines } = yield* db.jobDlq.events({ kind: "purged" });
          assert.strictEqual((yield* conclusions)[0]?.id, lines[0]?.id);
          const items = lines.slice(1);
          const details = items.map(
            ({ detail }) => detail as { run: string; count: number; groups: ReadonlyArray<{ count: number }> },
          );
          assert.deepStrictEqual(
            details.map(({ count }) => count),
            [1, 2, 2],
          );
          assert.isTrue(
            details.every(
              ({ count, groups, run }) => run === receipt.run && groups.reduce((sum, _) => sum + _.count, 0) === count,
            ),
          );
          assert.isTrue(items.every((_) => _.actor === actor && _.dlqId === null));
        }),
      );
    }),
  );

  it.effect("never touches pending letters unless asked, and then they expire to the ledger and can be restored", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const scope = { _tag: "tenant", appId } as const;
      yield* Client.tenant(appId)(pendingSince(appId, [1, 10, 400]));
      yield* db.jobDlq.retain({ replayed: 0 }, { actor, scope });
      assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 3);
      const warned = yield* Client.tenant(appId)(db.jobDlq.expiring(85, { pending: 90 }));
      assert.deepStrictEqual(
        { count: warned.count, groups: warned.groups },
        { count: 2, groups: [{ type: "mail.send", reason: "MaxRetries", count: 2 }] },
      );
      const receipt = yield* db.jobDlq.retain({ pending: 90 }, { actor, scope });
      assert.strictEqual(receipt.pending, 1);
      assert.strictEqual((yield* Client.tenant(appId)(db.jobDlq.expiring(0, { pending: 90 }))).count, 0);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const { items } = yield* db.jobDlq.events({ kind: "expired" });
          assert.strictEqual(items[0]?.reason, "pending for more than 90 days");
          assert.strictEqual((yield* db.jobDlq.restore([items[0]?.id ?? ""], { actor }))[0]?.outcome, "restored");
          assert.strictEqual(yield* db.jobDlq.count(), 3);
        }),
      );
    }),
  );

  it.effect(
    "deletes the copies of discarded letters past their age, in the system scope only, and counts none that was restored",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* pendingSince(appId, [1, 2, 3]);
            const ids = (yield* db.jobDlq.listPending()).map(({ id }) => id);
            const receipts = yield* db.jobDlq.discard(ids, { actor, reason: "x" });
            yield* db.jobDlq.restore([receipts[0]?.eventId ?? ""], { actor });
          }),
        );
        const denied = yield* Effect.flip(
          db.jobDlq.retain({ discarded: 0 }, { actor, scope: { _tag: "tenant", appId } }),
        );
        assert.strictEqual(denied._tag, "AccessDenied");
        // The clock of the ledger cannot be turned back, so the age is 0 and the events are of an earlier transaction.
        const receipt = yield* db.jobDlq.retain({ discarded: 0 }, { actor, scope: system });
        // Other tests of this file leave some as well.
        assert.isAtLeast(receipt.discarded, 3);
        yield* Client.system(
          Effect.gen(function* () {
            const rows =
              yield* sql`SELECT kind, detail -> 'count' AS count FROM job_dlq_events WHERE app_id = ${appId}`;
            // The other line is the receipt of the run that was denied.
            assert.sameDeepMembers(
              [...rows],
              [
                { kind: "purged", count: "2" },
                { kind: "purged", count: null },
              ],
            );
            assert.strictEqual(
              receipt.groups.reduce((sum, { count }) => sum + count, 0),
              receipt.discarded,
            );
            assert.strictEqual(yield* db.jobDlq.count({ appId }), 1);
          }),
        );
      }),
  );

  it.effect("ends with one receipt that has what it took, by type and reason, and who", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const inTenant = Client.tenant(appId);
      const scope = { _tag: "tenant", appId } as const;
      yield* inTenant(replayedSince(appId, [8, 9, 10]));
      yield* inTenant(pendingSince(appId, [1, 100, 200, 300]));
      const policy = { replayed: 7, pending: 90 };
      const receipt = yield* db.jobDlq.retain(policy, { actor: " nightly ", scope, batchSize: 2 });
      assert.deepStrictEqual(receipt.groups, [
        { source: "pending", type: "mail.send", reason: "MaxRetries", count: 3 },
        { source: "replayed", type: "t0", reason: "MaxRetries", count: 2 },
        { source: "replayed", type: "t1", reason: "MaxRetries", count: 1 },
      ]);
      assert.deepInclude({ ...receipt }, { actor, replayed: 3, discarded: 0, pending: 3, isComplete: true });
      const lines = yield* inTenant(conclusions);
      assert.deepStrictEqual(
        lines.map((_) => ({ appId: _.appId, dlqId: _.dlqId, actor: _.actor, detail: _.detail })),
        [{ appId, dlqId: null, actor, detail: told(receipt, policy) }],
      );
    }),
  );

  it.effect(
    "leaves its receipt when there was nothing, in the system scope without an app, where no tenant sees it",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const policy = { replayed: 1_000_000 };
        const own = yield* db.jobDlq.retain(policy, { actor, scope: { _tag: "tenant", appId } });
        const all = yield* db.jobDlq.retain(policy, { actor, scope: system });
        for (const receipt of [own, all]) {
          assert.deepInclude({ ...receipt }, { replayed: 0, discarded: 0, pending: 0, isComplete: true });
          assert.deepStrictEqual(receipt.groups, []);
        }
        const seen = yield* Client.tenant(appId)(conclusions);
        assert.deepStrictEqual(
          seen.map(({ detail }) => detail),
          [told(own, policy)],
        );
        const lines = (yield* Client.system(conclusions)).filter(({ detail }) => detail.run === all.run);
        assert.deepStrictEqual(
          lines.map((_) => [_.appId, _.detail]),
          [[null, told(all, policy)]],
        );
      }),
  );

  it.effect("the ledger refuses a line without an app that is no receipt", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const line = sql`
        INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor)
        VALUES (NULL, uuidv7(), uuidv7(), 'viewed', 'x')`;
      assert.include(String((yield* Effect.flip(Client.system(line))).cause), "job_dlq_events_names_app");
      const broken = sql`ALTER TABLE job_dlq_events DROP CONSTRAINT job_dlq_events_names_app`;
      const accepted = sql.withTransaction(Effect.all([broken, line, Effect.fail("accepted")]));
      assert.strictEqual(yield* Effect.flip(accepted), "accepted");
    }),
  );

  it.effect(
    "interrupted, it ends with the batch that it is at and says what it did; calling it again does the rest",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const inTenant = Client.tenant(appId);
        const retain = db.jobDlq.retain({ replayed: 7 }, { actor, scope: { _tag: "tenant", appId }, batchSize: 2 });
        yield* inTenant(replayedSince(appId, [8, 9, 10, 11, 12]));
        const exit = yield* Effect.scoped(
          Effect.gen(function* () {
            // Holds back the receipt of the first batch, whose letters are deleted by then.
            const { release } = yield* hold("LOCK TABLE job_dlq_events IN SHARE MODE");
            const retaining = yield* startWaiting(1, "retain", retain);
            yield* Fiber.interruptFork(retaining);
            yield* release;
            return yield* Fiber.await(retaining);
          }),
        );
        assert.isTrue(Exit.isInterrupted(exit));
        assert.strictEqual(yield* inTenant(db.jobDlq.count()), 3);
        const [first] = yield* inTenant(conclusions);
        assert.deepInclude(first?.detail, { is_complete: false, counts: { replayed: 2, discarded: 0, pending: 0 } });
        assert.deepInclude({ ...(yield* retain) }, { replayed: 3, isComplete: true });
        assert.strictEqual(yield* inTenant(db.jobDlq.count()), 0);
        assert.lengthOf(yield* inTenant(conclusions), 2);
      }),
  );

  it.effect("begins no batch after its budget, and its receipt says so", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const inTenant = Client.tenant(appId);
      yield* inTenant(replayedSince(appId, [8, 9, 10, 11, 12]));
      // Whoever asks for the time, a second has gone by: the run when it begins, and before each batch.
      let seconds = 0;
      const clock = Object.assign(Clock.make(), { currentTimeMillis: Effect.sync(() => seconds++ * 1000) });
      const receipt = yield* db.jobDlq
        .retain({ replayed: 7 }, { actor, scope: { _tag: "tenant", appId }, batchSize: 2, budget: "3 seconds" })
        .pipe(Effect.withClock(clock));
      assert.deepInclude({ ...receipt }, { replayed: 4, isComplete: false });
      assert.strictEqual(yield* inTenant(db.jobDlq.count()), 1);
      const lines = yield* inTenant(conclusions);
      assert.deepStrictEqual(
        lines.map(({ detail }) => detail),
        [told(receipt, { replayed: 7 })],
      );
    }),
  );

  for (const [what, policy, taken] of [
    ["replayed letter", { replayed: 7 }, { replayed: 1 }],
    ["pending letter", { pending: 7 }, { pending: 1 }],
  ] as const) {
    it.effect(`is not complete while somebody has a ${what} locked that is past its age`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const scope = { _tag: "tenant", appId } as const;
        yield* Client.tenant(appId)(
          what === "pending letter" ? pendingSince(appId, [8, 9]) : replayedSince(appId, [8, 9]),
        );
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* hold("SELECT FROM job_dlq WHERE app_id = $1 ORDER BY id LIMIT 1 FOR UPDATE", [appId]);
            assert.deepInclude(yield* db.jobDlq.retain(policy, { actor, scope }), { ...taken, isComplete: false });
          }),
        );
        assert.deepInclude(yield* db.jobDlq.retain(policy, { actor, scope }), { ...taken, isComplete: true });
      }),
    );
  }

  it.effect("is not complete while somebody has a copy in the ledger locked that is past its age", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.insertMany([letter(appId), letter(appId)]);
          const ids = (yield* db.jobDlq.listPending()).map(({ id }) => id);
          yield* db.jobDlq.discard(ids, { actor, reason: "x" });
        }),
      );
      const retain = db.jobDlq.retain({ discarded: 0 }, { actor, scope: system });
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* hold("SELECT FROM job_dlq_events WHERE app_id = $1 ORDER BY id LIMIT 1 FOR UPDATE", [appId]);
          assert.isFalse((yield* retain).isComplete);
        }),
      );
      assert.deepInclude(yield* retain, { discarded: 1, isComplete: true });
    }),
  );

  it.effect("stops at its budget and says that it is not complete", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(replayedSince(appId, [8, 9]));
      const receipt = yield* db.jobDlq.retain({ replayed: 7 }, { actor, scope: { _tag: "tenant", appId }, budget: 0 });
      assert.deepInclude({ ...receipt }, { replayed: 0, isComplete: false });
    }),
  );

  it.effect("purge leaves a receipt that names its actor, or the login", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      for (const given of [{ actor: "alice" }, {}, { actor: undefined }]) {
        yield* Client.tenant(appId)(replayedSince(appId, [40, 41]));
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.purge(30, given)), 2);
      }
      assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.purge()), 0);
      const { items } = yield* Client.tenant(appId)(db.jobDlq.events({ kind: "purged" }));
      assert.deepStrictEqual(
        items.map((_) => _.actor),
        ["postgres", "postgres", "alice"],
      );
      assert.deepInclude(items[0]?.detail, { source: "replayed", older_than_days: 30, count: 2 });
    }),
  );

  it.effect("purge refuses an actor that is blank, and deletes nothing", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(replayedSince(appId, [40]));
      for (const given of ["", "  ", null as unknown as string]) {
        const error = yield* Effect.flip(Client.tenant(appId)(db.jobDlq.purge(30, { actor: given })));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, "jobDlq.purge: actor is missing or blank");
      }
      assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 1);
    }),
  );

  for (const [policy, field] of [
    [{}, "policy"],
    [{ replayed: -1 }, "replayed"],
    [{ replayed: 1.5 }, "replayed"],
    [{ pending: 0 }, "pending"],
    [{ discarded: Number.NaN }, "discarded"],
  ] as const) {
    it.effect(`refuses ${JSON.stringify(policy)}`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const error = yield* Effect.flip(db.jobDlq.retain(policy, { actor, scope: system }));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, `jobDlq.retain: ${field} `);
      }),
    );
  }

  for (const missing of ["", " \n ", undefined]) {
    it.effect(`refuses ${JSON.stringify(missing)} as its actor, and does nothing`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(replayedSince(appId, [8]));
        const options = { actor: missing as string, scope: { _tag: "tenant", appId } as const };
        const error = yield* Effect.flip(db.jobDlq.retain({ replayed: 7 }, options));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, "jobDlq.retain: actor is missing or blank");
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 1);
        assert.deepStrictEqual(yield* Client.tenant(appId)(conclusions), []);
      }),
    );
  }
});
