import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { checkFilter, compileFilter, type JobDlqFilter } from "../../src/job-dlq/filter.js";
import type { JobDlq } from "../../src/models.js";
import { DatabaseService } from "../../src/repos.js";
import { rounds, seed } from "../support/campaign.js";
import { letter, newTenant, TestDatabase } from "../support/database.js";

// --- rows --------------------------------------------------------------------

/** A stored dead letter, as the test made it. `micros` and `replayed` are the columns; the time is in microseconds since 1970. */
interface Row {
  readonly id: string;
  readonly originalJobId: string;
  readonly type: string;
  readonly payload: unknown;
  readonly reason: string;
  readonly errors: ReadonlyArray<string>;
  readonly micros: bigint;
  readonly replayed: boolean;
  readonly requestId: string | null;
  readonly userId: string | null;
  readonly fingerprint: string;
}

/** Texts with what a pattern, a quoting or a collation would trip over, many of them the beginning of others. */
const awkward = [
  "mail",
  "mail.send",
  "mail.send.later",
  "Mail.send",
  "MAIL",
  "mail_send",
  "mailxsend",
  "ma%l",
  "ma_l",
  "mail'",
  "mail''",
  "mail' OR '1'='1",
  'mail"',
  "mail\\",
  "mail\\\\x",
  "mail\\x",
  "$1",
  "mail\nsend",
  "mail\r\n",
  " mail",
  "mail ",
  "-mail",
  "é",
  "e\u0301",
  "ß",
  "ss",
  "İ",
  "😀",
  "😀.send",
  "👩‍🚀",
  "\uD7FF",
  "\uD7FF.send",
  "\uE000",
  "\uFFFD",
  "\uFFFF",
  "\u{10FFFF}",
  "\u{10FFFF}\u{10FFFF}",
  "mail\u{10FFFF}",
  "mail\u{10FFFF}a",
  "maim",
  "\u007f",
  "{}",
  "NULL",
  "DROP TABLE job_dlq; --",
];
const awkwardText = fc.constantFrom(...awkward);

const jsonLeaf = fc.constantFrom<unknown>(
  null,
  true,
  false,
  0,
  1,
  -1,
  1.5,
  1e300,
  "",
  "1",
  "a",
  "A",
  "it's",
  "%",
  "\\",
  "😀",
  "null",
);
/** JSON over few keys and few leaves, so that one value often contains another. */
const json = fc.letrec<{ value: unknown; array: unknown; object: unknown }>((tie) => ({
  array: fc.array(tie("value"), { maxLength: 4 }),
  object: fc.dictionary(fc.constantFrom("a", "b", "user_id", "", "__proto__", "it's"), tie("value"), { maxKeys: 3 }),
  value: fc.oneof({ depthSize: "small", maxDepth: 4 }, jsonLeaf, tie("array"), tie("object")),
})).value;

// Beginnings of seconds and of milliseconds, and one microsecond to each side of them.
const base = Date.UTC(2026, 0, 2, 3, 4, 5);
const border = fc.constantFrom(0, 1, 2, 999, 1000, 86_400_000);
const micros = fc
  .tuple(border, fc.constantFrom(-1n, 0n, 1n, 500n, 999n))
  .map(([ms, off]) => BigInt(base + ms) * 1000n + off);

const users = Array.from({ length: 4 }, () => randomUUID());
const requests = Array.from({ length: 4 }, () => randomUUID());
const jobs = Array.from({ length: 60 }, () => randomUUID());

const error = fc.oneof(
  awkwardText,
  fc.tuple(awkwardText, awkwardText).map(([a, b]) => `Error: ${a} failed\n    at ${b}:1:2`),
  fc.constantFrom("", "Error: order 17 not found", "Error: order 18 not found"),
);
const reason = fc.constantFrom(
  "MaxRetries",
  "Validation",
  "HandlerMissing",
  "RunnerUnavailable",
  "O'Reilly",
  "maxretries",
);

const row = fc.record({
  originalJobId: fc.constantFrom(...jobs),
  type: awkwardText,
  payload: json,
  reason,
  errors: fc.array(error, { maxLength: 3 }),
  micros,
  replayed: fc.boolean(),
  requestId: fc.option(fc.constantFrom(...requests), { nil: null }),
  userId: fc.option(fc.constantFrom(...users), { nil: null }),
});

// --- the filter in plain TypeScript ------------------------------------------

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * jsonb's containment as the manual has it (8.14.3): the same structure at every level after leaving out elements of arrays and
 * pairs of objects; the order and the repetition of elements do not count.
 */
const within = (whole: unknown, part: unknown): boolean => {
  if (Array.isArray(part))
    return Array.isArray(whole) && part.every((_) => whole.some((element) => within(element, _)));
  if (isObject(part)) {
    return (
      isObject(whole) && Object.keys(part).every((key) => Object.hasOwn(whole, key) && within(whole[key], part[key]))
    );
  }
  return whole === part;
};
/** And the exception that it makes at the top: "an array may contain a primitive value". */
const contains = (whole: unknown, part: unknown): boolean =>
  within(whole, part) ||
  (Array.isArray(whole) && !Array.isArray(part) && !isObject(part) && whole.some((element) => element === part));

const plain = (filter: JobDlqFilter) => (row: Row) => {
  const { state = "pending", type } = filter;
  return (
    (state === "any" || row.replayed === (state === "replayed")) &&
    (filter.ids === undefined || filter.ids.includes(row.id)) &&
    (type === undefined || (typeof type === "string" ? row.type === type : row.type.startsWith(type.prefix))) &&
    (filter.reason === undefined || row.reason === filter.reason) &&
    (filter.since === undefined || row.micros >= BigInt(filter.since.getTime()) * 1000n) &&
    (filter.until === undefined || row.micros < BigInt(filter.until.getTime()) * 1000n) &&
    (filter.requestId === undefined || row.requestId === filter.requestId) &&
    (filter.userId === undefined || row.userId === filter.userId) &&
    (filter.originalJobId === undefined || row.originalJobId === filter.originalJobId) &&
    (filter.fingerprint === undefined || row.fingerprint === filter.fingerprint) &&
    (filter.text === undefined || (row.errors.at(-1)?.includes(filter.text) ?? false)) &&
    (!("payload" in filter) || contains(row.payload, filter.payload))
  );
};

// --- filters that match something --------------------------------------------

/** A part of a JSON value in the sense of `contains`, or nearly: elements and pairs left out, repeated, turned around. */
const partOf = (value: unknown): fc.Arbitrary<unknown> => {
  if (Array.isArray(value)) {
    if (value.length === 0) return fc.constantFrom<unknown>([], [[]], null);
    const element = fc.constantFrom(...value).chain(partOf);
    return fc.oneof(fc.array(element, { maxLength: 3 }), element);
  }
  if (isObject(value)) {
    const pairs = Object.entries(value);
    return fc
      .subarray(pairs)
      .chain((kept) => fc.tuple(...kept.map(([key, inner]) => partOf(inner).map((part) => [key, part] as const))))
      .map((kept) => Object.fromEntries(kept));
  }
  return fc.constant(value);
};

const pieceOf = (text: string): fc.Arbitrary<string> => {
  const points = Array.from(text);
  return fc
    .tuple(fc.nat(points.length - 1), fc.nat(points.length))
    .map(([from, length]) => points.slice(from, from + length + 1).join(""));
};

/** For each field, filters that name it alone; most of them match some of the rows, some nearly match. */
const fieldsOf = (rows: ReadonlyArray<Row>): Readonly<Record<string, fc.Arbitrary<JobDlqFilter>>> => {
  const any = fc.constantFrom(...rows);
  const unknown = fc.uuid();
  return {
    ids: fc
      .array(fc.oneof({ weight: 9, arbitrary: any.map(({ id }) => id) }, unknown), { maxLength: 40 })
      .map((ids) => ({ ids })),
    type: fc
      .oneof(
        awkwardText,
        any.map((_) => _.type),
      )
      .map((type) => ({ type })),
    prefix: awkwardText.chain(pieceOf).map((prefix) => ({ type: { prefix } })),
    reason: reason.map((reason) => ({ reason })),
    since: border.map((ms) => ({ since: new Date(base + ms) })),
    until: border.map((ms) => ({ until: new Date(base + ms) })),
    requestId: fc.constantFrom(...requests, randomUUID()).map((requestId) => ({ requestId })),
    userId: fc.constantFrom(...users, randomUUID()).map((userId) => ({ userId })),
    originalJobId: fc.constantFrom(...jobs).map((originalJobId) => ({ originalJobId })),
    fingerprint: any.map(({ fingerprint }) => ({ fingerprint })),
    text: fc
      .oneof(
        any.chain((_) => (_.errors.at(-1) ? pieceOf(_.errors.at(-1) ?? "") : awkwardText)),
        // Of an error that is not the last one.
        any.chain((_) => (_.errors[0] ? pieceOf(_.errors[0]) : awkwardText)),
        awkwardText,
      )
      .map((text) => ({ text })),
    payload: fc
      .oneof(
        json,
        any.chain((_) => partOf(_.payload)),
      )
      .map((payload) => ({ payload })),
    state: fc.constantFrom("pending" as const, "replayed" as const, "any" as const).map((state) => ({ state })),
    all: fc.constant<JobDlqFilter>({ all: true }),
  };
};

/** For each field a filter that matches one and the same row. */
const witness = (rows: ReadonlyArray<Row>): Readonly<Record<string, JobDlqFilter>> => {
  const row = rows.find((_) => !_.replayed && _.requestId !== null && _.userId !== null && _.errors.at(-1));
  assert.isDefined(row);
  return {
    ids: { ids: [row.id] },
    type: { type: row.type },
    prefix: { type: { prefix: Array.from(row.type)[0] ?? "" } },
    reason: { reason: row.reason },
    since: { since: new Date(Number(row.micros / 1000n)) },
    until: { until: new Date(Number(row.micros / 1000n) + 1) },
    requestId: { requestId: row.requestId ?? "" },
    userId: { userId: row.userId ?? "" },
    originalJobId: { originalJobId: row.originalJobId },
    fingerprint: { fingerprint: row.fingerprint },
    text: { text: row.errors.at(-1) ?? "" },
    payload: { payload: row.payload },
    state: { state: "pending" },
    all: { all: true },
  };
};

layer(TestDatabase, { excludeTestServices: true })("the filter", (it) => {
  const store = (appId: string, rows: ReadonlyArray<Omit<Row, "id" | "fingerprint">>) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const column = <A>(of: (row: Omit<Row, "id" | "fingerprint">) => A) => rows.map(of);
      const stored = yield* Client.system(sql`
        INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at,
          request_id, user_id)
        SELECT job, ${appId}, type, payload::jsonb, reason, 1, history::jsonb,
          timestamptz 'epoch' + micros * interval '1 microsecond', CASE WHEN replayed THEN now() END, request, usr
        FROM unnest(${column((_) => _.originalJobId)}::uuid[], ${column((_) => _.type)}::text[],
          ${column((_) => JSON.stringify(_.payload))}::text[], ${column((_) => _.reason)}::text[],
          ${column((_) => JSON.stringify(_.errors.map((error) => ({ error, timestamp: 1 }))))}::text[],
          ${column((_) => String(_.micros))}::bigint[], ${column((_) => _.replayed)}::boolean[],
          ${column((_) => _.requestId)}::uuid[], ${column((_) => _.userId)}::uuid[])
          WITH ORDINALITY AS t (job, type, payload, reason, history, micros, replayed, request, usr, place)
        ORDER BY place
        RETURNING id, fingerprint`);
      return rows.map(
        (row, i): Row => ({ ...row, id: String(stored[i]?.id), fingerprint: String(stored[i]?.fingerprint) }),
      );
    });

  const matching = (filter: JobDlqFilter) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const checked = yield* checkFilter("test", filter);
      const rows = yield* sql`SELECT d.id FROM job_dlq d WHERE ${compileFilter(sql, checked)}`;
      return rows.map(({ id }) => String(id)).sort();
    });

  /** All pages of some three in all, each newest first and behind the one before. */
  const walked = (filter: JobDlqFilter, count: number) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const limit = Math.max(1, Math.ceil(count / 3));
      const seen: Array<JobDlq> = [];
      let cursor: string | undefined;
      do {
        const page = yield* db.jobDlq.page(filter, { limit, cursor });
        seen.push(...page.items);
        cursor = Option.getOrUndefined(page.next);
      } while (cursor !== undefined);
      const times = seen.map(({ dlqAt }) => DateTime.toEpochMillis(dlqAt));
      assert.deepStrictEqual(
        times,
        [...times].sort((a, b) => b - a),
      );
      return seen.map(({ id }) => id);
    });

  it.effect(
    "matches what a plain predicate matches, by each field alone and by every two of them",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        const rows = yield* store(mine, fc.sample(row, { seed, numRuns: 400 }));
        // The same rows of another tenant, of which none may show.
        yield* store(theirs, rows);
        const fields = Object.entries(fieldsOf(rows));
        const known = witness(rows);
        const perPair = rounds(60, 4);
        console.log(`filter: ${fields.length} fields and their pairs, ${perPair} cases each, TEST_SEED=${seed}`);
        const left: Record<string, number> = {};
        let cases = 0;
        for (const [i, [one, first]] of fields.entries()) {
          for (const [another, second] of fields.slice(i)) {
            if (one === "type" && another === "prefix") continue;
            const both = fc.tuple(first, second).map(([a, b]): JobDlqFilter => ({ ...a, ...b }));
            const filters = fc.sample(both, { seed: seed + cases, numRuns: one === another ? perPair * 4 : perPair });
            const certain = { ...known[one], ...known[another] };
            yield* Client.tenant(mine)(
              Effect.forEach([certain, ...filters], (filter) =>
                Effect.gen(function* () {
                  const expected = rows.filter(plain(filter)).map(({ id }) => id);
                  const ids = yield* matching(filter);
                  assert.deepStrictEqual(ids, expected.sort(), JSON.stringify(filter));
                  assert.strictEqual((yield* db.jobDlq.preview(filter)).count, ids.length, JSON.stringify(filter));
                  if (filter === certain) assert.deepStrictEqual([...(yield* walked(filter, ids.length))].sort(), ids);
                  cases++;
                  for (const name of [one, another]) left[name] = (left[name] ?? 0) + rows.length - ids.length;
                  // Without one that matches, nothing but the absence of matches would have been compared.
                  if (filter === certain) assert.isAbove(ids.length, 0, `${one} and ${another} match nothing`);
                }),
              ),
            );
          }
        }
        for (const [name] of fields) assert.isAbove(left[name] ?? 0, 0, `${name} left nothing out in any case`);
        console.log(`filter: ${cases} cases`);
      }),
    300_000,
  );

  it.effect("has the borders of time to the microsecond: since is in, until is out", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const at = BigInt(base) * 1000n;
      const common = {
        originalJobId: randomUUID(),
        type: "t",
        payload: null,
        reason: "MaxRetries",
        errors: [],
        replayed: false,
        requestId: null,
        userId: null,
      };
      const rows = yield* store(
        appId,
        [-1n, 0n, 1n].map((off) => ({ ...common, micros: at + off })),
      );
      const ids = rows.map(({ id }) => id);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* matching({ since: new Date(base) }), ids.slice(1).sort());
          assert.deepStrictEqual(yield* matching({ until: new Date(base) }), ids.slice(0, 1));
        }),
      );
    }),
  );

  it.effect("takes as a prefix any beginning of any text, and nothing else with it", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const beginnings = (text: string) => Array.from(text).map((_, i, points) => points.slice(0, i + 1).join(""));
      const prefixes = [...new Set(awkward.flatMap(beginnings))];
      // What comes right behind all texts with a prefix is the neighbour that a range could take along.
      const behind = (prefix: string) => {
        const points = Array.from(prefix);
        const code = points.pop()?.codePointAt(0) ?? 0;
        return code === 0x10ffff ? [] : [points.join("") + String.fromCodePoint(code === 0xd7ff ? 0xe000 : code + 1)];
      };
      const types = [...new Set([...awkward, ...prefixes, ...prefixes.flatMap(behind)])];
      const common = {
        payload: null,
        reason: "x",
        errors: [],
        micros: 0n,
        replayed: false,
        requestId: null,
        userId: null,
      };
      const rows = yield* store(
        appId,
        types.map((type) => ({ ...common, type, originalJobId: randomUUID() })),
      );
      yield* Client.tenant(appId)(
        Effect.forEach(prefixes, (prefix) =>
          Effect.map(matching({ type: { prefix } }), (ids) =>
            assert.deepStrictEqual(
              rows.filter(({ id }) => ids.includes(id)).map(({ type }) => type),
              types.filter((type) => type.startsWith(prefix)),
              JSON.stringify(prefix),
            ),
          ),
        ),
      );
    }),
  );

  it.effect("contains payloads as the manual's examples have it", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const deep = { a: [{ b: [1, 2, { c: "x" }] }, 3] };
      const examples: ReadonlyArray<readonly [payload: unknown, filter: unknown, matches: boolean]> = [
        ["foo", "foo", true],
        [[1, 2, 3], [1, 3], true],
        [[1, 2, 3], [3, 1], true],
        [[1, 2, 3], [1, 1, 1], true],
        [[1, 2, 3], 2, true],
        [[1, 2, 3], "2", false],
        [2, [2], false],
        [[1, 2, [1, 3]], [1, 3], false],
        [[1, 2, [1, 3]], [[1, 3]], true],
        [{ foo: { bar: "baz" } }, { bar: "baz" }, false],
        [{ foo: { bar: "baz" } }, { foo: {} }, true],
        [{ foo: ["bar"] }, { foo: "bar" }, false],
        [["foo", "bar"], "bar", true],
        [[["foo"]], "foo", false],
        [[null], null, true],
        [{ a: null }, { a: null }, true],
        [{ b: null }, { a: null }, false],
        [[], [], true],
        [[], {}, false],
        [{}, [], false],
        [deep, { a: [{ b: [{ c: "x" }] }] }, true],
        [deep, { a: [{ b: { c: "x" } }] }, false],
        [{ n: 1 }, { n: 1.0 }, true],
        [{ n: "1" }, { n: 1 }, false],
      ];
      yield* Client.tenant(appId)(
        Effect.forEach(examples, ([payload, filter, matches], i) =>
          Effect.gen(function* () {
            const type = `example ${i}`;
            yield* db.jobDlq.insert(letter(appId, { payload, type }));
            const { count } = yield* db.jobDlq.preview({ type, payload: filter });
            assert.strictEqual(count === 1, matches, `${JSON.stringify(payload)} @> ${JSON.stringify(filter)}`);
            assert.strictEqual(contains(payload, filter), matches, "the plain predicate");
          }),
        ),
      );
    }),
  );

  describe("refuses", () => {
    const of = (input: object) => input as JobDlqFilter;

    it.effect("what is no filter, and names the field", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const uuid = randomUUID();
        const known = ["ids", "type", "reason", "since", "until", "requestId", "userId", "originalJobId"];
        const more = ["fingerprint", "text", "payload", "state", "all"];
        const wrong: ReadonlyArray<readonly [filter: unknown, field: string]> = [
          // An unknown field would narrow nothing.
          [{ typ: "mail" }, "filter.typ"],
          [{ type: "mail", app_id: uuid }, "filter.app_id"],
          [{ "1=1; --": "x" }, "filter.1=1; --"],
          [{ type: { prefix: "a", suffix: "b" } }, "filter.type"],
          // So would a field that is undefined, at the top and inside a payload, where JSON would leave it out.
          ...[...known, ...more].map((name) => [{ reason: "x", [name]: undefined }, `filter.${name}`] as const),
          [{ payload: { order: undefined } }, "filter.payload"],
          [{ payload: [{ order: { id: undefined } }] }, "filter.payload"],
          [{ payload: [undefined] }, "filter.payload"],
          ...[...known, ...more]
            .filter((_) => _ !== "payload")
            .map((name) => [{ [name]: null }, `filter.${name}`] as const),
          [null, "filter"],
          [undefined, "filter"],
          ["mail", "filter"],
          [7, "filter"],
          [{ ids: uuid }, "filter.ids"],
          [{ ids: [uuid, "7"] }, "filter.ids.1"],
          [{ ids: [`${uuid}' OR true --`] }, "filter.ids.0"],
          [{ ids: Array.from({ length: 10_001 }, () => uuid) }, "filter.ids"],
          [{ type: "" }, "filter.type"],
          [{ type: 7 }, "filter.type"],
          [{ type: ["mail"] }, "filter.type"],
          [{ type: { prefix: "" } }, "filter.type"],
          [{ type: "a\u0000" }, "filter.type"],
          [{ type: { prefix: "a\uD800" } }, "filter.type"],
          [{ reason: "" }, "filter.reason"],
          [{ reason: "a\u0000" }, "filter.reason"],
          [{ since: "2026-01-01" }, "filter.since"],
          [{ since: new Date(Number.NaN) }, "filter.since"],
          [{ until: 1_790_000_000_000 }, "filter.until"],
          [{ requestId: "7" }, "filter.requestId"],
          [{ userId: `${uuid} ` }, "filter.userId"],
          [{ originalJobId: true }, "filter.originalJobId"],
          [{ fingerprint: "abc" }, "filter.fingerprint"],
          [{ text: "" }, "filter.text"],
          [{ text: "a\u0000b" }, "filter.text"],
          [{ text: "\uDC00" }, "filter.text"],
          [{ payload: Number.NaN }, "filter.payload"],
          [{ payload: { a: 1n } }, "filter.payload"],
          [{ payload: { a: "\u0000" } }, "filter.payload"],
          [{ payload: new Map() }, "filter.payload"],
          [{ payload: () => 1 }, "filter.payload"],
          [{ state: "dead" }, "filter.state"],
          [{ state: "" }, "filter.state"],
          [{ all: false }, "filter.all"],
          [{ all: 1 }, "filter.all"],
        ];
        const actor = "test";
        for (const [filter, field] of wrong) {
          const input = filter as JobDlqFilter;
          const calls = {
            preview: db.jobDlq.preview(input),
            groups: db.jobDlq.groups(input),
            replay: Stream.runDrain(db.jobDlq.replay(input, { actor })),
            discard: Stream.runDrain(db.jobDlq.discard(input, { actor, reason: "x" })),
            erase: db.jobDlq.erase(input, { actor }),
          };
          for (const [name, call] of Object.entries(calls)) {
            const what = `${name} of ${typeof filter === "object" && filter !== null ? Object.keys(filter) : filter}`;
            const failure = yield* Effect.flip(Client.system(call as typeof calls.preview)).pipe(
              Effect.catchAll(() => Effect.dieMessage(`${what} was not refused`)),
            );
            assert.strictEqual(failure._tag, "InvalidInput", what);
            if (failure._tag === "InvalidInput") {
              assert.isTrue(failure.field.startsWith(field), `${what}: ${failure.field} is not ${field}`);
              assert.strictEqual(failure.operation, `jobDlq.${name}`);
            }
          }
        }
      }),
    );

    it.effect("a change without a condition, also with a state alone, unless it says all: true", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const actor = "test";
        const scope = { _tag: "tenant", appId } as const;
        yield* Client.tenant(appId)(db.jobDlq.insertMany([letter(appId), letter(appId)]));
        const changes = (filter: JobDlqFilter) => ({
          replay: Stream.runDrain(db.jobDlq.replay(filter, { actor, scope })),
          discard: Stream.runDrain(db.jobDlq.discard(filter, { actor, scope, reason: "x" })),
          erase: Effect.asVoid(Client.tenant(appId)(db.jobDlq.erase(filter, { actor }))),
        });
        for (const filter of [{}, { state: "pending" }, { state: "any" }, { state: "replayed" }] as const) {
          for (const change of Object.values(changes(filter))) {
            const failure = yield* Effect.flip(change as Effect.Effect<void, { readonly _tag: string }>);
            assert.strictEqual(failure._tag, "InvalidInput");
          }
        }
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count({ replayedAt: Option.none() })), 2);
        // Only pending letters can be replayed or discarded, whatever else is said.
        for (const state of ["replayed", "any"] as const) {
          const { discard, replay } = changes({ all: true, state });
          for (const change of [replay, discard]) {
            const failure = yield* Effect.flip(change as Effect.Effect<void, { readonly field?: string }>);
            assert.strictEqual(failure.field, "filter.state");
          }
        }
        yield* changes({ all: true }).replay;
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count({ replayedAt: Option.none() })), 0);
      }),
    );

    it.effect("nothing that is a text: whatever it says is compared, never run", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [appId, theirs] = [yield* newTenant, yield* newTenant];
        yield* Client.tenant(theirs)(db.jobDlq.insert(letter(theirs)));
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.insertMany([letter(appId), letter(appId)]);
            const attacks = [
              "' OR true --",
              "x'; DELETE FROM job_dlq; --",
              "x' OR app_id IS NOT NULL OR 'a'='",
              "$1",
              "$1::text) OR (1=1",
              "%",
              "_",
              "\\",
              "\\' OR true --",
              "{}",
              "NULL",
            ];
            for (const attack of attacks) {
              for (const filter of [
                { type: attack },
                { type: { prefix: attack } },
                { reason: attack },
                { text: attack },
                { payload: attack },
                { payload: { [attack]: attack } },
              ] satisfies ReadonlyArray<JobDlqFilter>) {
                assert.strictEqual((yield* db.jobDlq.preview(filter)).count, 0, JSON.stringify(filter));
              }
            }
            assert.strictEqual(yield* db.jobDlq.count(), 2);
          }),
        );
        assert.strictEqual(yield* Client.tenant(theirs)(db.jobDlq.count()), 1);
      }),
    );

    it.effect("to read a field from anywhere but the filter itself", () =>
      Effect.gen(function* () {
        const inherited = Object.create({ type: "mail" });
        assert.deepStrictEqual({ ...(yield* checkFilter("test", of(inherited))) }, {});
      }),
    );
  });
});
