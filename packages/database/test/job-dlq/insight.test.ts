import { createHash, randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import type { JobDlqFilter } from "../../src/job-dlq/filter.js";
import { DatabaseService } from "../../src/repos.js";
import { rounds, seed } from "../support/campaign.js";
import { letter, newTenant, TestDatabase } from "../support/database.js";
import { statementsOf } from "../support/statements.js";

interface Row {
  readonly app: number;
  readonly type: string;
  readonly reason: string;
  readonly error: string | null;
  readonly micros: number;
  readonly replayed: boolean;
}
const base = BigInt(Date.UTC(2026, 0, 1)) * 1000n;
/** Few of everything, and few microseconds, so that ties are common. */
const rowOf = (apps: number) =>
  fc.record({
    // The first apps are hit most.
    app: fc.tuple(fc.nat(apps - 1), fc.nat(apps - 1)).map(([a, b]) => Math.min(a, b)),
    type: fc.constantFrom("a", "b", "B", "b c", "é"),
    reason: fc.constantFrom("MaxRetries", "Validation"),
    error: fc.constantFrom(
      null,
      "Error: order 17 failed\nat x",
      "Error: order 18 failed\r\nat y",
      "Error: no route",
      "",
    ),
    micros: fc.integer({ min: 0, max: 3_000 }),
    replayed: fc.boolean(),
  });

/** What is stored of a generated row. */
interface Stored extends Row {
  readonly id: string;
  readonly appId: string;
  readonly fingerprint: string;
}

/** Stores letters as their tenants would; in the order given, so the ids are in that order. */
const store = (appIds: ReadonlyArray<string>, tag: string, rows: ReadonlyArray<Row>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const column = <A>(of: (row: Row) => A) => rows.map(of);
    const stored = yield* Client.system(sql`
      INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at)
      SELECT gen_random_uuid(), app, type, '{}', reason, 1, history::jsonb,
        timestamptz 'epoch' + micros * interval '1 microsecond', CASE WHEN replayed THEN now() END
      FROM unnest(${column((_) => appIds[_.app] ?? "")}::uuid[], ${column((_) => `${tag}.${_.type}`)}::text[],
        ${column((_) => _.reason)}::text[],
        ${column((_) =>
          JSON.stringify(
            _.error === null
              ? []
              : [
                  { error: "first", timestamp: 1 },
                  { error: _.error, timestamp: 2 },
                ],
          ),
        )}::text[],
        ${column((_) => String(base + BigInt(_.micros)))}::bigint[], ${column((_) => _.replayed)}::boolean[])
        WITH ORDINALITY AS t (app, type, reason, history, micros, replayed, place)
      ORDER BY place
      RETURNING id, fingerprint`);
    return rows.map(
      (row, i): Stored => ({
        ...row,
        type: `${tag}.${row.type}`,
        appId: appIds[row.app] ?? "",
        id: String(stored[i]?.id),
        fingerprint: String(stored[i]?.fingerprint),
      }),
    );
  });

const newestFirst = (a: Stored, b: Stored) => b.micros - a.micros || (a.id < b.id ? 1 : -1);
const shown = (micros: number) => new Date(Number((base + BigInt(micros)) / 1000n)).toISOString();
const isoOf = (time: DateTime.Utc | null) => (time === null ? null : DateTime.formatIso(time));
const tally = <A>(rows: ReadonlyArray<A>, keyOf: (row: A) => string) => {
  const counts = new Map<string, number>();
  for (const row of rows) counts.set(keyOf(row), (counts.get(keyOf(row)) ?? 0) + 1);
  return [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
};

/** Filters, and what they mean for a row. */
const filters: ReadonlyArray<readonly [JobDlqFilter, (row: Row) => boolean]> = [
  [{}, (_) => !_.replayed],
  [{ state: "replayed" }, (_) => _.replayed],
  [{ state: "any" }, () => true],
  [{ reason: "Validation" }, (_) => _.reason === "Validation" && !_.replayed],
  [{ text: "order" }, (_) => (_.error ?? "").includes("order") && !_.replayed],
  [{ text: "nowhere" }, () => false],
];

layer(TestDatabase, { excludeTestServices: true })("insight", (it) => {
  describe("preview", () => {
    it.effect("says of any letters what a plain count says, in one statement", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const n = rounds(100, 12);
        console.log(`preview: ${n} tables, TEST_SEED=${seed}`);
        const tables = fc.sample(fc.array(rowOf(1), { maxLength: 60, size: "max" }), { seed, numRuns: n });
        for (const rows of tables) {
          const appId = yield* newTenant;
          const stored = yield* store([appId], "p", rows);
          for (const [filter, includes] of filters) {
            const { result: preview, sent } = yield* Client.tenant(appId)(statementsOf(db.jobDlq.preview(filter)));
            assert.strictEqual(sent.length, 1);
            const expected = stored.filter(includes).sort(newestFirst);
            assert.strictEqual(preview.count, expected.length);
            assert.deepStrictEqual(
              preview.byType.map((_) => [_.type, _.count]),
              tally(expected, ({ type }) => type),
            );
            assert.deepStrictEqual(
              preview.byReason.map((_) => [_.reason, _.count]),
              tally(expected, ({ reason }) => reason),
            );
            const [newest, oldest] = [expected[0], expected.at(-1)];
            assert.strictEqual(isoOf(preview.newest), newest === undefined ? null : shown(newest.micros));
            assert.strictEqual(isoOf(preview.oldest), oldest === undefined ? null : shown(oldest.micros));
            assert.deepStrictEqual(
              preview.sample.map(({ id }) => id),
              expected.slice(0, 10).map(({ id }) => id),
            );
            assert.deepStrictEqual(preview.bad, []);
          }
        }
      }),
    );

    it.effect("says what a change by the same filter then takes", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* store([appId], "c", fc.sample(rowOf(1), { seed, numRuns: 80 }));
        const filter: JobDlqFilter = { type: { prefix: "c.b" }, text: "order" };
        const { count } = yield* Client.tenant(appId)(db.jobDlq.preview(filter));
        const scope = { _tag: "tenant", appId } as const;
        const last = yield* Stream.runLast(db.jobDlq.discard(filter, { actor: "test", reason: "x", scope }));
        assert.isAbove(count, 0);
        assert.strictEqual(Option.getOrThrow(last).outcomes.discarded, count);
        assert.strictEqual((yield* Client.tenant(appId)(db.jobDlq.preview(filter))).count, 0);
      }),
    );

    it.effect("decodes its sample, and shows what does not fit the model beside it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const good = yield* db.jobDlq.insert(letter(appId, { payload: { user_id: [null, 1] } }));
            const bad = yield* db.jobDlq.insert(letter(appId));
            yield* sql`UPDATE job_dlq SET error_history = '[{"message": "not ours"}]' WHERE id = ${bad.id}`;
            const preview = yield* db.jobDlq.preview({});
            assert.strictEqual(preview.count, 2);
            assert.deepStrictEqual([...preview.sample], [good]);
            assert.deepStrictEqual(
              preview.bad.map((_) => [_._tag, _.id, _.table]),
              [["BadRow", bad.id, "job_dlq"]],
            );
          }),
        );
      }),
    );

    it.effect("copes with times beyond any calendar", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            for (const at of ["-infinity", "infinity"]) {
              const { id } = yield* db.jobDlq.insert(letter(appId, { type: at }));
              yield* sql`UPDATE job_dlq SET dlq_at = ${at}::timestamptz WHERE id = ${id}`;
            }
            const { bad, count, newest, oldest } = yield* db.jobDlq.preview({});
            assert.deepStrictEqual([count, bad.length], [2, 2]);
            assert.strictEqual(isoOf(oldest), "0001-01-01T00:00:00.000Z");
            assert.strictEqual(isoOf(newest), "9999-12-31T23:59:59.999Z");
            const groups = yield* db.jobDlq.groups({});
            assert.deepStrictEqual(
              groups.map(({ first, last, type }) => [type, isoOf(first), isoOf(last)]),
              [
                ["infinity", "9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"],
                ["-infinity", "0001-01-01T00:00:00.000Z", "0001-01-01T00:00:00.000Z"],
              ],
            );
          }),
        );
      }),
    );
  });

  describe("groups", () => {
    const plain = (stored: ReadonlyArray<Stored>) => {
      const byFingerprint = new Map<string, Array<Stored>>();
      for (const row of stored) {
        byFingerprint.set(row.fingerprint, [...(byFingerprint.get(row.fingerprint) ?? []), row]);
      }
      return [...byFingerprint]
        .map(([fingerprint, rows]) => {
          const [newest, ...older] = rows.sort(newestFirst);
          assert.isDefined(newest);
          const apps = tally(rows, ({ appId }) => appId).map(([appId]) => appId);
          return {
            lastMicros: newest.micros,
            group: {
              fingerprint,
              count: rows.length,
              first: shown((older.at(-1) ?? newest).micros),
              last: shown(newest.micros),
              type: newest.type,
              reason: newest.reason,
              message: newest.error === null ? null : (newest.error.split("\n")[0] ?? "").replace("\r", ""),
              newestId: newest.id,
              isExact: true,
              tenants: apps.length,
              appIds: apps.slice(0, 20),
            },
          };
        })
        .sort(
          (a, b) =>
            b.group.count - a.group.count ||
            b.lastMicros - a.lastMicros ||
            (a.group.fingerprint < b.group.fingerprint ? -1 : 1),
        )
        .map(({ group }) => group);
    };

    it.effect("are of any letters what plain grouping gives, by tenant and over all, in one statement", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const n = rounds(60, 6);
        console.log(`groups: ${n} tables, TEST_SEED=${seed}`);
        const tables = fc.sample(fc.array(rowOf(26), { minLength: 20, maxLength: 500, size: "max" }), {
          seed,
          numRuns: n,
        });
        const appIds = yield* Effect.replicateEffect(newTenant, 26);
        let cut = 0;
        for (const rows of tables) {
          const tag = `g${randomUUID().slice(0, 8)}`;
          // And one failure that everybody has.
          const common = { type: "common", reason: "Validation", error: "Error: order 1", replayed: false };
          const everywhere = appIds.map((_, app): Row => ({ ...common, app, micros: app % 3 }));
          const stored = yield* store(appIds, tag, [...rows, ...everywhere]);
          for (const [given, includes] of filters) {
            const filter: JobDlqFilter = { ...given, type: { prefix: `${tag}.` } };
            for (const scope of ["system", appIds[0] ?? ""]) {
              const inScope = scope === "system" ? Client.system : Client.tenant(scope);
              const { result: groups, sent } = yield* inScope(statementsOf(db.jobDlq.groups(filter, { limit: 1000 })));
              assert.strictEqual(sent.length, 1);
              const expected = plain(stored.filter((_) => includes(_) && (scope === "system" || _.appId === scope)));
              assert.deepStrictEqual(
                groups.map((_) => ({ ..._, first: isoOf(_.first), last: isoOf(_.last), appIds: [..._.appIds] })),
                expected,
              );
              cut += groups.filter(({ tenants }) => tenants > 20).length;
            }
          }
        }
        assert.isAbove(cut, 0, "no group had more tenants than are listed");
      }),
    );

    it.effect("stop at the limit, with the largest ones, and hand out what the filter takes", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const many = fc.sample(rowOf(1), { seed, numRuns: 200 });
        yield* store([appId], "l", many);
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const all = yield* db.jobDlq.groups({});
            const [first, second] = yield* db.jobDlq.groups({}, { limit: 2 });
            assert.deepStrictEqual([first, second], [all[0], all[1]]);
            for (const { count, fingerprint } of all) {
              assert.strictEqual((yield* db.jobDlq.preview({ fingerprint })).count, count);
            }
            for (const limit of [0, -1, 1.5, 1001, Number.NaN, "5"]) {
              const error = yield* Effect.flip(db.jobDlq.groups({}, { limit: limit as number }));
              assert.strictEqual(error._tag, "InvalidInput");
              if (error._tag === "InvalidInput") assert.strictEqual(error.field, "limit");
            }
          }),
        );
      }),
    );

    const same: ReadonlyArray<readonly [string, string, ReadonlyArray<string>]> = [
      ["uuids", "no order ?", [`no order ${randomUUID()}`, `no order ${randomUUID()}`, "no order 7"]],
      [
        "ULIDs",
        "order ? failed",
        ["order 01ARZ3NDEKTSV4RRFFQ69G5FAV failed", "order 01BX5ZZKBKACTAV9WEVGEMMVRZ failed"],
      ],
      [
        "prefixed ids and nanoids",
        "for ? and ?",
        ["for cus_NffrFeUfNV2Hib and V1StGXR8_Z5jdHi6B-myT", "for cus_QkdLoPsTbM7Wqz and x1"],
      ],
      ["times", "at ? gone", ["at 2026-01-31T12:00:00Z gone", "at 2026-01-31T12:00:00.123456+02:00 gone"]],
      ["numbers", "took ? of ?", ["took 1,234.5 of 0xDEADBEEF", "took 3 of 7"]],
      [
        "hexadecimal numbers, also those without a digit",
        "commit ? of ? and /?/",
        [
          "commit deadbeefcafe of cafe0123-x and /abcdefab/",
          "commit 0badc0ffee00 of 1 and /DEADBEEFfeed/",
          "commit 7 of 7 and /7/",
        ],
      ],
      [
        "words of their letters that are shorter, or a part of longer ones, which are no numbers",
        "defaced effaceable my_deadbeef xdeadbeefcafe",
        ["defaced effaceable my_deadbeef xdeadbeefcafe"],
      ],
      ["addresses", "connect ?: refused", ["connect 10.0.0.1:5432: refused", "connect 10.10.0.255:80: refused"]],
      ["quoted text", "no ? in ? or ?", ["no \"a\" in `b` or 'c'", "no \"x y\" in `` or 'z 1'"]],
      [
        "quoted text that the cut leaves open",
        "Unexpected ?",
        ["a b ", "c d ", "1 2 "].flatMap((text) =>
          ['"', "`", "'"].map((quote) => `Unexpected ${quote}${text.repeat(90)}${quote}`),
        ),
      ],
      ["apostrophes, which are no quotes", "it's not what isn't", ["it's not what isn't"]],
      ["further lines", "Error: x", ["Error: x\n  at a", "Error: x\n  at b"]],
    ];
    for (const [name, shape, errors] of same) {
      it.effect(`have one fingerprint whatever the ${name}`, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          for (const error of errors) {
            const history = JSON.stringify([
              { error: "earlier", timestamp: 1 },
              { error, timestamp: 2 },
            ]);
            const rows = yield* sql`
              SELECT job_dlq_error_shape(${history}::jsonb) AS shape, job_dlq_fingerprint('t', 'r', ${history}::jsonb)::text AS fingerprint`;
            const fingerprint = createHash("md5").update(`t\nr\n${shape}`).digest("hex");
            assert.deepStrictEqual(
              rows.map((_) => [_.shape, String(_.fingerprint).replaceAll("-", "")]),
              [[shape, fingerprint]],
            );
          }
        }),
      );
    }

    it.effect("show one line of at most 300 characters, whatever the error is", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const messages: ReadonlyArray<readonly [string, string | null]> = [
          ["one\ntwo", "one"],
          ["one\r\ntwo", "one"],
          ["\nsecond", ""],
          ["x".repeat(299), "x".repeat(299)],
          ["x".repeat(301), "x".repeat(300)],
          ["😀".repeat(301), "😀".repeat(300)],
          [`${"x".repeat(5_000)}\nend`, "x".repeat(300)],
          ['it\'s "quoted" \\ $1', 'it\'s "quoted" \\ $1'],
        ];
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            for (const [i, [error, message]] of messages.entries()) {
              const type = `message ${i}`;
              yield* db.jobDlq.insert(letter(appId, { type, errorHistory: [{ error, timestamp: 1 }] }));
              assert.strictEqual((yield* db.jobDlq.groups({ type }))[0]?.message, message);
            }
          }),
        );
      }),
    );
  });

  it.effect("shows a tenant its own letters only; counter-test: without the policies it shows all", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [mine, theirs] = [yield* newTenant, yield* newTenant];
      const tag = randomUUID();
      yield* Client.tenant(mine)(db.jobDlq.insert(letter(mine, { type: tag })));
      const foreign = yield* Client.tenant(theirs)(
        db.jobDlq.insert(letter(theirs, { type: tag, userId: Option.some(tag) })),
      );
      const seen = Client.tenant(mine)(
        Effect.gen(function* () {
          const { count, sample } = yield* db.jobDlq.preview({ type: tag });
          const [group] = yield* db.jobDlq.groups({ type: tag });
          const byId = yield* db.jobDlq.preview({ ids: [foreign.id], userId: tag });
          return [count, sample.length, group?.count, group?.tenants, group?.appIds.includes(theirs), byId.count];
        }),
      );
      assert.deepStrictEqual(yield* seen, [1, 1, 1, 1, false, 0]);
      yield* sql.unsafe("ALTER TABLE job_dlq DISABLE ROW LEVEL SECURITY");
      const leaked = yield* Effect.ensuring(
        seen,
        Effect.orDie(sql.unsafe("ALTER TABLE job_dlq ENABLE ROW LEVEL SECURITY")),
      );
      assert.deepStrictEqual(leaked, [2, 2, 2, 2, true, 1]);
    }),
  );
});
