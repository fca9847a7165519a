import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { rounds, seed } from "./support/campaign.js";
import { letter, newTenant, TestDatabase, work } from "./support/database.js";
import { json, named, text } from "./support/json.js";

/** -0 becomes 0, as everywhere in JSON; nothing else changes. */
const normal = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

layer(TestDatabase, { excludeTestServices: true })("every JSON value comes back as it was", (it) => {
  it.effect("through insert, insertMany, enqueue, enqueueMany, dead-lettering and replay", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const cases = rounds(5_000, 1_000);
      console.log(`JSON round-trip: ${cases} cases, TEST_SEED=${seed}`);
      const values = [...named, ...fc.sample(json, { seed, numRuns: cases })];
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          // One by one, through each of the single-row paths.
          for (const [i, payload] of values.entries()) {
            const expected = normal(payload);
            if (i % 2 === 0) {
              const stored = yield* db.jobDlq.insert(letter(appId, { payload }));
              assert.deepStrictEqual(stored.payload, expected);
            } else {
              const job = yield* db.jobs.enqueue(work(appId, { payload }));
              const dead = yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: "x" });
              yield* db.jobDlq.replay([dead.id], { actor: "test" });
              assert.deepStrictEqual(job.payload, expected);
              assert.deepStrictEqual(dead.payload, expected);
              assert.deepStrictEqual(Option.getOrThrow(yield* db.jobs.get(job.id)).payload, expected);
            }
          }
          // All at once, through the arrays.
          const ids = yield* db.jobs.enqueueMany(values.map((payload) => work(appId, { type: "many", payload })));
          for (const [i, id] of ids.entries()) {
            if (i % 25 === 0)
              assert.deepStrictEqual(Option.getOrThrow(yield* db.jobs.get(id)).payload, normal(values[i]));
          }
          const type = "many";
          yield* db.jobDlq.insertMany(values.map((payload, i) => letter(appId, { payload, type, attempts: i })));
          for (let from = 0; from < values.length; from += 1000) {
            const rows = yield* db.jobDlq.find({ type }, { limit: 1000, order: { attempts: "asc" } }).pipe(
              Effect.when(() => from === 0),
              Effect.map(Option.getOrElse((): ReadonlyArray<never> => [])),
            );
            for (const row of rows) assert.deepStrictEqual(row.payload, normal(values[row.attempts]));
          }
        }),
      );
    }),
  );

  it.effect("an errorHistory too, with texts of any kind", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const histories = fc.sample(
        fc.array(fc.record({ error: text, timestamp: fc.integer({ min: 0, max: 2 ** 45 }) }), { maxLength: 5 }),
        { seed, numRuns: rounds(1_000, 200) },
      );
      yield* Client.tenant(appId)(
        Effect.forEach(histories, (errorHistory) =>
          Effect.map(db.jobDlq.insert(letter(appId, { errorHistory })), (stored) =>
            assert.deepStrictEqual(stored.errorHistory, errorHistory),
          ),
        ),
      );
    }),
  );

  it.effect("counter-test: a client that parses or renames JSON is caught by this check", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const rows = yield* sql`SELECT '{"user_id": [null]}'::jsonb AS payload`;
      assert.deepStrictEqual(rows, [{ payload: '{"user_id": [null]}' }]);
    }),
  );
});
