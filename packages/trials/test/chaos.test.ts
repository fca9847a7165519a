/** The checker of the chaos run sees what it is there to see, a seed plans the same faults, and in a full run every fault strikes. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { isFull, seed } from "../../database/test/support/campaign.js";
import { newTenant, TestDatabase, work } from "../../database/test/support/database.js";
import { start } from "../../database/test/support/process.js";
import { undone } from "../../database/test/support/undone.js";
import { run } from "../src/chaos/chaos.js";
import { account, check, Violation } from "../src/chaos/check.js";
import { Once, Refused } from "../src/chaos/kinds.js";
import { type Fault, kinds, plan } from "../src/chaos/plan.js";
import { text } from "../src/chaos/report.js";
import { createTables, createWitnesses } from "../src/chaos/tables.js";

const Tested = Layer.effectDiscard(Effect.zipRight(createTables, createWitnesses)).pipe(
  Layer.provideMerge(TestDatabase),
);

/** Two tenants, and in the first a job of each fate: completed, waiting, dead, replayed, discarded. */
const filled = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const appId = yield* newTenant;
  const otherId = yield* newTenant;
  const enqueue = (type: string) => db.jobs.enqueue(work(appId, { type, payload: { batch: 1, millis: 0 } }));
  const dead = Effect.flatMap(enqueue(Refused.name), ({ id }) =>
    db.jobs.deadLetter({ id, reason: "Validation", error: "nobody wants it" }),
  );
  return yield* Effect.gen(function* () {
    const completed = yield* enqueue(Once.name);
    yield* sql`INSERT INTO effects (job_id, attempt, runner) VALUES (${completed.id}, 1, 'here')`;
    const waiting = yield* enqueue(Once.name);
    const [pending, replayed, discarded] = yield* Effect.all([dead, dead, dead]);
    yield* db.jobDlq.replay([replayed.id], { actor: "test" });
    yield* db.jobDlq.discard([discarded.id], { actor: "test", reason: "nobody needs it" });
    return { appId, otherId, completed, waiting, pending, replayed, discarded };
  }).pipe(
    Client.tenant(appId),
    Effect.tap(
      ({ completed }) => sql`UPDATE jobs SET status = 'completed', completed_at = now() WHERE id = ${completed.id}`,
    ),
  );
});

type Filled = Effect.Effect.Success<typeof filled>;

const breakages: ReadonlyArray<{
  readonly name: string;
  readonly sees: RegExp;
  readonly with: (sql: SqlClient.SqlClient, filled: Filled) => ReadonlyArray<Effect.Effect<unknown, unknown, never>>;
}> = [
  {
    name: "a transactional effect twice",
    sees: /a transactional effect is there twice/,
    with: (sql, { appId, completed }) => [
      sql`INSERT INTO effects (app_id, job_id, attempt, runner) VALUES (${appId}, ${completed.id}, 2, 'there')`,
    ],
  },
  {
    name: "a transactional effect of a job that did not end",
    sees: /without its job completed/,
    with: (sql, { appId, waiting }) => [
      sql`INSERT INTO effects (app_id, job_id, attempt, runner) VALUES (${appId}, ${waiting.id}, 1, 'here')`,
    ],
  },
  {
    name: "a completed job without its effect",
    sees: /a completed job left no effect|the other way round/,
    with: (sql, { completed }) => [sql`DELETE FROM effects WHERE job_id = ${completed.id}`],
  },
  {
    name: "a dead letter that vanished",
    sees: /^dead letters: 3 inserted/m,
    with: (sql, { pending }) => [sql`DELETE FROM job_dlq WHERE id = ${pending.id}`],
  },
  {
    name: "a line of the ledger that vanished",
    sees: /^dead letters: 3 inserted/m,
    with: (sql, { discarded }) => [
      sql`ALTER TABLE job_dlq_events DISABLE TRIGGER USER`,
      sql`DELETE FROM job_dlq_events WHERE dlq_id = ${discarded.id} AND kind = 'discarded'`,
    ],
  },
  {
    name: "a waiting job that was purged",
    sees: /a job was purged before it had ended/,
    with: (sql, { waiting }) => [sql`DELETE FROM jobs WHERE id = ${waiting.id}`],
  },
  {
    name: "a job that vanished",
    sees: /a job vanished/,
    with: (sql, { waiting }) => [
      sql`ALTER TABLE jobs DISABLE TRIGGER zz_witness_out`,
      sql`DELETE FROM jobs WHERE id = ${waiting.id}`,
    ],
  },
  {
    name: "a job that died without a letter",
    sees: /a job has not died once more than it was replayed/,
    with: (sql, { waiting }) => [sql`UPDATE jobs SET status = 'dead', completed_at = now() WHERE id = ${waiting.id}`],
  },
  {
    name: "a job that came back and kept its letter",
    sees: /a job that is not dead has a letter that was not replayed/,
    with: (sql, { pending }) => [
      sql`UPDATE jobs SET status = 'pending', completed_at = NULL WHERE id = ${pending.originalJobId}`,
    ],
  },
  {
    name: "a letter that was replayed twice",
    sees: /a letter was replayed twice/,
    with: (sql, { replayed }) => [
      sql`UPDATE job_dlq SET replayed_at = NULL WHERE id = ${replayed.id}`,
      sql`UPDATE job_dlq SET replayed_at = now() WHERE id = ${replayed.id}`,
    ],
  },
  {
    name: "a letter in another tenant",
    sees: /a letter moved to another tenant/,
    with: (sql, { otherId, pending }) => [sql`UPDATE job_dlq SET app_id = ${otherId} WHERE id = ${pending.id}`],
  },
  {
    name: "an effect in another tenant",
    sees: /an effect in another tenant than its job/,
    with: (sql, { completed, otherId }) => [sql`UPDATE effects SET app_id = ${otherId} WHERE job_id = ${completed.id}`],
  },
  {
    name: "a handler that saw a foreign row",
    sees: /a handler saw a foreign row/,
    with: (sql, { completed }) => [sql`UPDATE effects SET foreign_rows = 1 WHERE job_id = ${completed.id}`],
  },
  {
    name: "an operator who saw a foreign row",
    sees: /an operator saw a foreign row/,
    with: (sql, { appId }) => [
      sql`INSERT INTO looks (app_id, who, own_rows, foreign_rows) VALUES (${appId}, 'operator', 1, 1)`,
    ],
  },
];

layer(Tested, { excludeTestServices: true })("the checker", (it) => {
  it.scoped("finds nothing where nothing is wrong, and each thing that is", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const there = yield* filled;
      const jobIds = [there.completed.id, there.waiting.id];
      const round = yield* check({ jobIds });
      assert.deepStrictEqual(round.given, { inserted: 3, submitted: 5, purgedJobs: 0 });
      assert.strictEqual(round.replays, 1);
      for (const { name, sees, with: broken } of breakages) {
        const found = yield* undone(
          Effect.zipRight(Effect.all(broken(sql, there), { discard: true }), Effect.either(check())),
        );
        assert.strictEqual(found._tag, "Left", name);
        if (found._tag === "Left") {
          assert.instanceOf(found.left, Violation, name);
          assert.match(String((found.left as Violation).message), sees, name);
        }
      }
      const missing = yield* Effect.flip(check({ jobIds: [randomUUID()] }));
      assert.match(String(missing), /a submission was answered and is not there/);
      yield* check({ jobIds });

      // What was sent: five jobs in one submission.
      const sent = (answered: ReadonlyArray<[number, number]>, unknown: ReadonlyArray<[number, number]>) =>
        account({ answered: new Map(answered), unknown: new Map(unknown) });
      assert.strictEqual(yield* sent([[1, 5]], [[2, 15]]), 0);
      assert.strictEqual(yield* sent([], [[1, 5]]), 1, "it arrived, though nobody was told");
      assert.match(String(yield* Effect.flip(sent([[1, 6]], []))), /5 jobs are there, of 6/);
      assert.match(String(yield* Effect.flip(sent([], [[1, 15]]))), /5 jobs are there, of 15/);
      assert.match(String(yield* Effect.flip(sent([], []))), /of none that were sent/);
      assert.match(
        String(
          yield* Effect.flip(
            sent(
              [
                [1, 5],
                [2, 15],
              ],
              [],
            ),
          ),
        ),
        /submission 2 was answered/,
      );
    }),
  );
});

describe("the plan of a seed", () => {
  it.effect("is the same each time, and another one's is not", () =>
    Effect.gen(function* () {
      const faults = yield* plan(7, 2);
      assert.deepStrictEqual(yield* plan(7, 2), faults);
      assert.notDeepEqual(yield* plan(8, 2), faults);
      assert.deepStrictEqual((yield* plan(7, 10)).slice(0, faults.length), faults, "a longer run begins alike");
    }),
  );

  it.effect("has every kind in two minutes, and a hundred faults and more in ten", () =>
    Effect.gen(function* () {
      for (let other = 0; other < 100; other++) {
        const faults = yield* plan(other, 2);
        assert.isAtLeast(faults.length, 20);
        assert.deepStrictEqual(new Set(faults.map(({ kind }) => kind)), new Set(kinds));
        assert.isAbove((yield* plan(other, 10)).length, 120);
      }
    }),
  );
});

describe("npm run chaos", () => {
  const refused = (...args: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const { ended } = yield* start(
        process.execPath,
        ["--import", "tsx", "packages/trials/src/chaos/main.ts", ...args],
        {},
      );
      return yield* ended;
    });

  it.scopedLive(
    "refuses what it does not understand",
    () =>
      Effect.forEach(
        [
          { args: ["--hours", "2"], problem: /Unknown option '--hours'/ },
          { args: ["--minutes", "0"], problem: /--minutes 0: must be/ },
          { args: ["--seed", "x"], problem: /--seed x: must be/ },
        ],
        ({ args, problem }) =>
          Effect.map(refused(...args), ({ code, stderr }) => {
            assert.strictEqual(code, 1);
            assert.match(stderr, problem);
            assert.match(stderr, /^usage: npm run chaos/m);
          }),
        { concurrency: 3 },
      ),
    300_000,
  );

  it.scopedLive.runIf(isFull)(
    "survives a fault of each kind",
    () =>
      Effect.gen(function* () {
        const each = kinds.map(
          (kind, place): Fault => ({
            number: place + 1,
            kind,
            atMillis: 3000 * (place + 1),
            target: place % 3,
            force: 0.5,
          }),
        );
        const outcome = yield* run({ minutes: 3, seed, faults: each, jobsPerSecond: 20, say: console.log });
        console.log(text(outcome));
        assert.isAtLeast(outcome.struck, 10);
        assert.strictEqual(outcome.last.unfinished, 0);
        assert.isAbove(outcome.last.given.submitted, 0);
        assert.isAbove(outcome.last.looks, 0);
        assert.isAbove(outcome.last.replays, 0);
      }),
    600_000,
  );
});
