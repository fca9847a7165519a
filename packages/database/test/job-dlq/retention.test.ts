import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
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
          const { items } = yield* db.jobDlq.events({ kind: "purged" });
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
            assert.deepStrictEqual(rows, [{ kind: "purged", count: "2" }]);
            assert.strictEqual(yield* db.jobDlq.count({ appId }), 1);
          }),
        );
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
});
