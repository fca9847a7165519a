import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { Is } from "../src/factory.js";
import { DatabaseService } from "../src/repos.js";
import { rounds, seed } from "./support/campaign.js";
import { letter, newTenant, TestDatabase, work } from "./support/database.js";
import { json, named, text } from "./support/json.js";
import { stockClient } from "./support/stock.js";

const byAttempts = { limit: 1000, order: { attempts: "asc" } } as const;

/** -0 becomes 0, as everywhere in JSON; nothing else changes. */
const normal = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

layer(TestDatabase, { excludeTestServices: true })("every JSON value comes back as it was", (it) => {
  it.effect(
    "through insert, insertMany, enqueue, enqueueMany, dead-lettering and replay",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const cases = rounds(5_000, 1_000);
        console.log(`JSON round-trip: ${cases} cases, TEST_SEED=${seed}`);
        const values = [...named, ...fc.sample(json, { seed, numRuns: cases })];
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            // One by one, each through both of the single-row paths.
            for (const payload of values) {
              const expected = normal(payload);
              const stored = yield* db.jobDlq.insert(letter(appId, { payload }));
              assert.deepStrictEqual(stored.payload, expected);
              const job = yield* db.jobs.enqueue(work(appId, { payload }));
              const dead = yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: "x" });
              yield* db.jobDlq.replay([dead.id], { actor: "test" });
              assert.deepStrictEqual(job.payload, expected);
              assert.deepStrictEqual(dead.payload, expected);
              assert.deepStrictEqual(Option.getOrThrow(yield* db.jobs.get(job.id)).payload, expected);
            }
            // All at once, through the arrays; every row is read again.
            const type = "many";
            const ids = yield* db.jobs.enqueueMany(values.map((payload) => work(appId, { type, payload })));
            const places = new Map(ids.map((id, i) => [id, i]));
            yield* db.jobDlq.insertMany(values.map((payload, i) => letter(appId, { payload, type, attempts: i })));
            let read = 0;
            for (let from = 0; from < values.length; from += 1000) {
              const jobs = yield* db.jobs.find({ id: Is.oneOf(ids.slice(from, from + 1000)) }, { limit: 1000 });
              const letters = yield* db.jobDlq.find({ type, attempts: Is.atLeast(from) }, byAttempts);
              for (const { id, payload } of jobs) assert.deepStrictEqual(payload, normal(values[places.get(id) ?? -1]));
              for (const { attempts, payload } of letters) assert.deepStrictEqual(payload, normal(values[attempts]));
              assert.strictEqual(jobs.length, letters.length);
              read += letters.length;
            }
            assert.strictEqual(read, values.length);
          }),
        );
      }),
    300_000,
  );

  it.effect("an errorHistory too, with texts of any kind", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const cases = rounds(2_000, 1_000);
      console.log(`error histories: ${cases} cases, TEST_SEED=${seed}`);
      const histories = fc.sample(
        fc.array(fc.record({ error: text, timestamp: fc.integer({ min: 0, max: 2 ** 45 }) }), { maxLength: 5 }),
        { seed, numRuns: cases },
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

  /** What one of the cases above is, on another client: a letter is inserted and comes back. */
  const roundTrip = (payload: unknown) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      return (yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { payload })))).payload;
    });

  it.effect("counter-test: a client that parses JSON fails every read", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* roundTrip({ user_id: 1 }), { user_id: 1 });
      for (const transformJson of [false, true]) {
        const exit = yield* Effect.exit(Effect.provide(roundTrip({ user_id: 1 }), stockClient({ transformJson })));
        assert.match(String(exit), /"problem": "payload is not what the model says"[\s\S]*"_tag": "BadRow"/);
      }
    }),
  );

  it.effect(
    "counter-test: a client that renames columns in JSON too changes keys, and dies where null comes first",
    () =>
      Effect.gen(function* () {
        const read = (payload: unknown, transformJson: boolean) =>
          Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT ${JSON.stringify(payload)}::jsonb AS payload`).pipe(
            Effect.provide(stockClient({ transformJson })),
            Effect.exit,
          );
        const kept = { user_id: [null, { user_id: 1 }] };
        assert.deepStrictEqual(yield* read(kept, false), Exit.succeed([{ payload: kept }]));
        assert.deepStrictEqual(yield* read({ user_id: 1 }, true), Exit.succeed([{ payload: { userId: 1 } }]));
        assert.isTrue(Exit.isFailure(yield* read(kept, true)));
      }),
  );
});
