/** Figures of the newest letters only: what is said of them is true of them, and that there are more is said. */
import { randomBytes } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Client from "../../src/client.js";
import type { JobDlqFilter } from "../../src/job-dlq/filter.js";
import { DatabaseService } from "../../src/repos.js";
import { letter, newTenant, TestDatabase } from "../support/database.js";

const total = 400;
/** Letters 1 to 400 of two tenants in turn, the newest last; every tenth says "rare", every third was replayed. */
const fill = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql`TRUNCATE job_dlq`;
  const appIds = [yield* newTenant, yield* newTenant];
  yield* sql`
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, user_id)
    SELECT uuidv7(), (${appIds}::uuid[])[1 + n % 2], 'type ' || n % 4, jsonb_build_object('n', n), 'MaxRetries', 1,
      jsonb_build_array(jsonb_build_object('timestamp', 1, 'error', CASE WHEN n % 10 = 0 THEN 'rare failure' ELSE 'failure' END)),
      timestamptz '2026-01-01' + n * interval '1 second', CASE WHEN n % 3 = 0 THEN now() END, ${appIds[0] ?? ""}
    FROM generate_series(1, ${total}::int) n`;
  return appIds;
});
interface Model {
  readonly n: number;
  readonly app: number;
  readonly type: string;
  readonly isRare: boolean;
  readonly isPending: boolean;
}
const letters = Array.from({ length: total }, (_, i): Model => {
  const n = i + 1;
  return { n, app: n % 2, type: `type ${n % 4}`, isRare: n % 10 === 0, isPending: n % 3 !== 0 };
}).reverse();

interface Case {
  readonly filter: JobDlqFilter;
  /** By which an index finds them, in a tenant's scope and in that of all. */
  readonly tenant: (letter: Model) => boolean;
  readonly system: (letter: Model) => boolean;
  /** And which of those match. */
  readonly matches: (letter: Model) => boolean;
}
const pending = (_: Model) => _.isPending;
const every = () => true;
const cases: Readonly<Record<string, Case>> = {
  "a text": { filter: { text: "rare" }, tenant: pending, system: pending, matches: (_) => _.isRare },
  "a payload": { filter: { payload: { n: 77 } }, tenant: pending, system: pending, matches: (_) => _.n === 77 },
  "a text of a type": {
    filter: { text: "rare", type: "type 2" },
    tenant: (_) => _.isPending && _.type === "type 2",
    system: pending,
    matches: (_) => _.isRare && _.type === "type 2",
  },
  "a text since": {
    filter: { text: "rare", since: new Date("2026-01-01T00:05:00Z") },
    tenant: (_) => _.isPending && _.n >= 300,
    system: (_) => _.isPending && _.n >= 300,
    matches: (_) => _.isRare,
  },
  "a text beside a reason": {
    filter: { reason: "MaxRetries", text: "failure" },
    tenant: pending,
    system: pending,
    matches: every,
  },
  "every state": { filter: { state: "any", text: "rare" }, tenant: every, system: every, matches: (_) => _.isRare },
  replayed: {
    filter: { state: "replayed" },
    tenant: (_) => !_.isPending,
    system: (_) => !_.isPending,
    matches: every,
  },
};

layer(TestDatabase)("figures of the newest letters", (it) => {
  for (const [name, { filter, matches, ...found }] of Object.entries(cases)) {
    it.effect(`by ${name}: of those and no others, and whether they are all`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appIds = yield* fill;
        let cut = 0;
        for (const most of [1, 7, 60, 133, 134, total, 1_000_000]) {
          for (const scope of ["system", "tenant"] as const) {
            const inScope = scope === "system" ? Client.system : Client.tenant(appIds[1] ?? "");
            const read = letters.filter((_) => (scope === "system" || _.app === 1) && found[scope](_));
            const isExact = read.length <= most;
            const counted = read.slice(0, most).filter(matches);
            const preview = yield* inScope(db.jobDlq.preview(filter, { most }));
            assert.deepStrictEqual([preview.count, preview.isExact], [counted.length, isExact], `${scope}, ${most}`);
            assert.deepStrictEqual(
              preview.sample.map((_) => _.payload),
              counted.slice(0, 10).map(({ n }) => ({ n })),
            );
            const seconds = (time: DateTime.Utc | null) =>
              time === null ? undefined : (DateTime.toEpochMillis(time) - Date.UTC(2026, 0, 1)) / 1000;
            assert.deepStrictEqual(
              [seconds(preview.newest), seconds(preview.oldest)],
              [counted[0]?.n, counted.at(-1)?.n],
            );
            const groups = yield* inScope(db.jobDlq.groups(filter, { most }));
            assert.strictEqual(
              groups.reduce((sum, { count }) => sum + count, 0),
              counted.length,
            );
            for (const group of groups) assert.strictEqual(group.isExact, isExact);
            const { state: _, ...conditions } = filter;
            if (filter.state === undefined) {
              const stats = yield* inScope(db.jobDlq.stats({ by: "type", filter: conditions, most }));
              assert.strictEqual(
                stats.reduce((sum, { depth }) => sum + depth, 0),
                counted.length,
              );
              for (const stat of stats) assert.strictEqual(stat.isExact, isExact);
            }
            if (!isExact) cut++;
          }
        }
        assert.isAbove(cut, 0);
        const whole = yield* Client.system(db.jobDlq.preview(filter));
        assert.deepStrictEqual(
          [whole.isExact, whole.count],
          [true, letters.filter(found.system).filter(matches).length],
        );
      }),
    );
  }

  it.effect("what an index counts is counted whole", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      yield* fill;
      for (const filter of [
        {},
        { all: true },
        { type: "type 1" },
        { type: { prefix: "type" } },
        { reason: "MaxRetries" },
      ] as const) {
        const bounded = yield* Client.system(db.jobDlq.preview(filter, { most: 1 }));
        const whole = yield* Client.system(db.jobDlq.preview(filter));
        assert.isTrue(bounded.isExact);
        assert.strictEqual(bounded.count, whole.count);
      }
    }),
  );

  it.effect("a reason and an error that are longer than an index holds are stored, counted and found", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const errorReason = randomBytes(20_000).toString("base64");
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const { id } = yield* db.jobDlq.insert(letter(appId, { errorReason }));
          yield* db.jobDlq.insert(letter(appId));
          const preview = yield* db.jobDlq.preview({ reason: errorReason });
          assert.deepStrictEqual(
            [preview.count, preview.byReason, preview.sample.map((_) => _.id)],
            [1, [{ reason: errorReason, count: 1 }], [id]],
          );
          assert.strictEqual((yield* db.jobDlq.groups({ reason: errorReason }))[0]?.newestId, id);
          const stats = yield* db.jobDlq.stats({ by: "reason", filter: { reason: errorReason } });
          assert.strictEqual(stats[0]?.depth, 1);
        }),
      );
    }),
  );

  it.effect("the newest ten of a type or a reason are that, whichever tenants and failures they are of", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appIds = yield* fill;
      // Thirty more at one moment, of 15 kinds in turn.
      yield* sql`
        INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
        SELECT uuidv7(), (${appIds}::uuid[])[1 + n % 2], 'type 1', jsonb_build_object('n', 1000 + n), 'MaxRetries', 1,
          jsonb_build_array(jsonb_build_object('timestamp', 1, 'error', 'kind ' || chr(97 + n % 15))), timestamptz '2026-01-02'
        FROM generate_series(1, 30) n`;
      for (const filter of [{ type: "type 1" }, { type: "type 2" }, { reason: "MaxRetries" }] as const) {
        for (const inScope of [Client.system, Client.tenant(appIds[0] ?? ""), Client.tenant(appIds[1] ?? "")]) {
          const { count, sample } = yield* inScope(db.jobDlq.preview(filter));
          const { items } = yield* inScope(db.jobDlq.page(filter, { limit: 1000 }));
          assert.strictEqual(count, items.length);
          assert.deepStrictEqual(
            sample.map(({ id }) => id),
            items.slice(0, 10).map(({ id }) => id),
          );
        }
      }
    }),
  );

  it.effect("a bound that is none is refused by name", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      for (const most of [0, 1.5, 1_000_001, Number.NaN]) {
        for (const call of [
          db.jobDlq.preview({ text: "x" }, { most }),
          db.jobDlq.groups({ text: "x" }, { most }),
          db.jobDlq.stats({ by: "type", most }),
        ]) {
          const error = yield* Effect.flip(Client.system(call as Effect.Effect<unknown, unknown, SqlClient.SqlClient>));
          assert.include(String(error), "most");
        }
      }
    }),
  );
});
