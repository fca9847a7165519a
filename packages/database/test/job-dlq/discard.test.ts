import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
import { rounds, seed } from "../support/campaign.js";
import { deadJob, letter, newTenant, TestDatabase } from "../support/database.js";

const actor = "test";
const reason = "a known test failure";

layer(TestDatabase, { excludeTestServices: true })("jobDlq.discard and restore", (it) => {
  /** The whole row as text, exact in every column but the order of arrival. */
  const rowsOf = (appId: string) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      return yield* Client.system(
        sql`SELECT id, (to_jsonb(d) - 'arrived')::text AS content FROM job_dlq d WHERE app_id = ${appId} ORDER BY id`,
      );
    });

  it.effect("discard moves a letter into the ledger with actor, reason and the whole row", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const one = yield* deadJob(appId);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const [receipt] = yield* db.jobDlq.discard([one.id], { actor, reason });
          assert.strictEqual(receipt?.outcome, "discarded");
          assert.isTrue(Option.isNone(yield* db.jobDlq.get(one.id)));
          const { items } = yield* db.jobDlq.events({ dlqId: one.id });
          assert.strictEqual(items[0]?.id, receipt?.eventId);
          assert.deepInclude(
            { ...items[0] },
            { kind: "discarded", actor, reason, hasEntry: true, isUndone: false, originalJobId: one.originalJobId },
          );
          // Its job stays dead, and nothing can replay it.
          assert.strictEqual((yield* db.jobDlq.replay([one.id], { actor }))[0]?.outcome, "already gone");
          assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(one.originalJobId)).status, "dead");
        }),
      );
    }),
  );

  it.effect("restore is the exact inverse, whatever the row holds", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const cases = rounds(300, 60);
      console.log(`discard and restore: ${cases} rows, TEST_SEED=${seed}`);
      const appId = yield* newTenant;
      const payloads = fc
        .sample(fc.jsonValue({ noUnicodeString: false }), { seed, numRuns: cases })
        .map((value) => JSON.parse(JSON.stringify(value).replaceAll("\\u0000", "")) as unknown);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.insertMany(
            payloads.map((payload, i) =>
              letter(appId, {
                payload,
                requestId: i % 2 === 0 ? Option.some(randomUUID()) : Option.none(),
                userId: i % 3 === 0 ? Option.some(randomUUID()) : Option.none(),
              }),
            ),
          );
          // What JavaScript could not have written: microseconds, 64-bit numbers, scale, infinity, a row that does not decode.
          yield* sql`UPDATE job_dlq SET dlq_at = timestamptz '2026-01-02 03:04:05.678901Z' + attempts * interval '1 microsecond'`;
          const ids = (yield* sql`SELECT id FROM job_dlq ORDER BY id`).map((_) => String(_.id));
          yield* sql`UPDATE job_dlq SET payload = '{"n": 9007199254740993, "m": 1.10}' WHERE id = ${ids[0] ?? ""}`;
          yield* sql`UPDATE job_dlq SET dlq_at = 'infinity' WHERE id = ${ids[1] ?? ""}`;
          yield* sql`UPDATE job_dlq SET error_history = '[7]' WHERE id = ${ids[2] ?? ""}`;
        }),
      );
      const before = yield* rowsOf(appId);
      const receipts = yield* Client.tenant(appId)(
        db.jobDlq.discard(
          before.map((_) => String(_.id)),
          { actor, reason },
        ),
      );
      assert.isTrue(receipts.every(({ outcome }) => outcome === "discarded"));
      assert.deepStrictEqual(yield* rowsOf(appId), []);
      const restored = yield* Client.tenant(appId)(
        db.jobDlq.restore(
          receipts.map(({ eventId }) => eventId ?? ""),
          { actor },
        ),
      );
      assert.deepStrictEqual(
        restored.map(({ id, outcome }) => ({ id, outcome })),
        receipts.map(({ id }) => ({ id, outcome: "restored" as const })),
      );
      assert.deepStrictEqual(yield* rowsOf(appId), before);
    }),
  );

  it.effect("restore uses each event once, and tells why it does not", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [appId, theirs] = [yield* newTenant, yield* newTenant];
      const one = yield* deadJob(appId);
      const foreign = yield* deadJob(theirs);
      const [foreignEvent] = yield* Client.tenant(theirs)(db.jobDlq.discard([foreign.id], { actor, reason }));
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const discard = Effect.map(db.jobDlq.discard([one.id], { actor, reason }), ([_]) => _?.eventId ?? "");
          const outcome = (...ids: ReadonlyArray<string>) =>
            Effect.map(db.jobDlq.restore(ids, { actor, reason: "it was needed" }), (_) =>
              _.map(({ outcome }) => outcome),
            );
          const first = yield* discard;
          assert.deepStrictEqual(yield* outcome(first, first), ["restored"]);
          assert.deepStrictEqual(yield* outcome(first), ["already restored"]);
          const second = yield* discard;
          assert.deepStrictEqual(yield* outcome(first, second), ["already restored", "restored"]);
          const third = yield* discard;
          yield* sql`INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history)
            VALUES (${one.id}, ${one.originalJobId}, ${appId}, 'x', 'null', 'x', 1, '[]')`;
          assert.deepStrictEqual(yield* outcome(third), ["id exists"]);
          yield* db.jobDlq.markReplayed(one.id);
          const replayed = (yield* db.jobDlq.events({ dlqId: one.id, kind: "restored" })).items[0]?.id ?? "";
          assert.deepStrictEqual(yield* outcome(randomUUID(), replayed, foreignEvent?.eventId ?? ""), [
            "not found",
            "not found",
            "not found",
          ]);
          // A restored letter can be replayed like any other.
          yield* db.jobDlq.purge(0);
          const { items } = yield* db.jobDlq.events({ dlqId: one.id, kind: "discarded" });
          assert.strictEqual(items.filter(({ isUndone }) => isUndone).length, 2);
        }),
      );
    }),
  );

  it.effect("restores the others when the app of one was deleted", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [deleted, appId] = [yield* newTenant, yield* newTenant];
      const events = yield* Effect.forEach([deleted, appId], (app) =>
        Client.tenant(app)(
          Effect.gen(function* () {
            const one = yield* db.jobDlq.insert(letter(app));
            const [receipt] = yield* db.jobDlq.discard([one.id], { actor, reason });
            return receipt?.eventId ?? "";
          }),
        ),
      );
      const outcomes = yield* Client.system(
        Effect.zipRight(sql`DELETE FROM apps WHERE id = ${deleted}`, db.jobDlq.restore(events, { actor })),
      );
      assert.deepStrictEqual(
        outcomes.map(({ outcome }) => outcome),
        ["unknown app", "restored"],
      );
    }),
  );

  it.effect("discards what a filter matches, in batches, and only pending ones", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const scope = { _tag: "tenant", appId } as const;
      const letters = yield* Effect.replicateEffect(deadJob(appId), 5);
      yield* Client.tenant(appId)(db.jobDlq.replay([letters[0]?.id ?? ""], { actor }));
      const last = yield* Stream.runLast(
        db.jobDlq.discard({ type: "mail.send" }, { actor, reason, scope, batchSize: 2 }),
      );
      assert.deepStrictEqual(Option.getOrThrow(last).outcomes, {
        discarded: 4,
        "already gone": 0,
        erased: 0,
        "not found": 0,
      });
      const again = yield* Client.tenant(appId)(
        db.jobDlq.discard(
          letters.map(({ id }) => id),
          { actor, reason },
        ),
      );
      assert.isTrue(again.every(({ eventId, outcome }) => outcome === "already gone" && eventId === null));
    }),
  );

  it.effect("refuses a discard without actor, reason or condition, and unknown ids are told apart", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const one = yield* deadJob(appId);
      const bad = [
        [db.jobDlq.discard([one.id], { actor: "", reason }), "actor"],
        [db.jobDlq.discard([one.id], { actor, reason: " " }), "reason"],
        [db.jobDlq.discard(["7"], { actor, reason }), "ids[0]"],
        [
          db.jobDlq.discard(
            Array.from({ length: 10_001 }, () => one.id),
            { actor, reason },
          ),
          "ids",
        ],
        [Stream.runDrain(db.jobDlq.discard({}, { actor, reason })), "filter"],
        [db.jobDlq.restore(["7"], { actor }), "ids[0]"],
        [db.jobDlq.restore([one.id], { actor: " " }), "actor"],
      ] as const;
      for (const [effect, field] of bad) {
        const error = yield* Effect.flip(
          Client.tenant(appId)(effect as Effect.Effect<unknown, { readonly _tag: string; readonly message: string }>),
        );
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, `: ${field} `);
      }
      const receipts = yield* Client.tenant(appId)(db.jobDlq.discard([randomUUID(), one.id], { actor, reason }));
      assert.deepStrictEqual(
        receipts.map(({ outcome }) => outcome),
        ["not found", "discarded"],
      );
    }),
  );
});
