/**
 * The one filter of dead letters, and its one translation to SQL. The repository, the API, the command's flags and the
 * console's URL all say what they mean with it, so a preview and the change after it cannot disagree.
 *
 * Contract: a filter that names an unknown field, or a field with the value undefined, is refused, because the rows that it
 * does not exclude might be discarded. Only operators that cannot leak compare with indexed columns (row-level security keeps
 * every other one from an index); `text` and `payload` read the rows that the rest of the filter leaves.
 */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { InvalidInput } from "../errors.js";
import { firstIssue } from "../issue.js";
import { notStorable, textProblem } from "../json.js";

const optional = <A, I>(schema: S.Schema<A, I>) => S.optionalWith(schema, { exact: true });

// JSON leaves an object's undefined properties out; here that would take a condition away without a word.
const undefinedIn = (value: unknown): string | undefined => {
  let found: string | undefined;
  JSON.stringify(value, (key, inner) => {
    if (inner === undefined)
      found ??= `has a property ${JSON.stringify(key)} that is undefined, which would exclude nothing`;
    return inner;
  });
  return found;
};

const Storable = S.Unknown.pipe(
  S.filter((value) =>
    Option.match(notStorable(value), {
      onNone: () => undefinedIn(value),
      onSome: ({ path, problem }) => `${path} ${problem}`,
    }),
  ),
);
const Text = S.NonEmptyString.pipe(S.filter((text) => textProblem(text)));

// Date.parse alone makes a day in 2001 of "2".
const Moment = S.compose(
  S.String.pipe(S.pattern(/^\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?$/iu)),
  S.Date.pipe(S.validDate()),
);

/** Every condition must hold. In JSON the times are ISO strings. */
export const JobDlqFilter = S.Struct({
  /** Dead letters by id, at most 10,000. */
  ids: optional(S.Array(S.UUID).pipe(S.maxItems(10_000))),
  /** The exact type, or `{ prefix }`. */
  type: optional(S.Union(Text, S.Struct({ prefix: Text }))),
  /** `errorReason`: one of `JobDlqReason`, or what another producer wrote. */
  reason: optional(Text),
  /** Dead-lettered at this time or later. */
  since: optional(Moment),
  /** Dead-lettered before this time. */
  until: optional(Moment),
  requestId: optional(S.UUID),
  userId: optional(S.UUID),
  originalJobId: optional(S.UUID),
  /** What makes two failures the same failure; from `groups`. */
  fingerprint: optional(S.UUID),
  /** A part of the last error, case by case. */
  text: optional(Text),
  /** What the payload contains, as jsonb's `@>` has it: `{ "order": { "id": 7 } }`. */
  payload: optional(Storable),
  /** Default `pending`. */
  state: optional(S.Literal("pending", "replayed", "any")),
  /** Every dead letter of the scope that has the state, without any other condition: what a bulk change must be told. */
  all: optional(S.Literal(true)),
}).annotations({ identifier: "JobDlqFilter" });
export type JobDlqFilter = typeof JobDlqFilter.Type;

const validate = S.validate(JobDlqFilter, { onExcessProperty: "error", errors: "first" });

/** The filter as it is, or `InvalidInput` that names its field. */
export const checkFilter = (operation: string, filter: JobDlqFilter): Effect.Effect<JobDlqFilter, InvalidInput> =>
  Effect.mapError(validate(filter), (error) => {
    const issue = firstIssue(error);
    const path = ["filter", ...issue.path].map(String).join(".");
    return new InvalidInput({ operation, field: path, problem: `is not valid: ${issue.message}` });
  });

const isNarrow = ({ state, ...conditions }: JobDlqFilter) => Object.keys(conditions).length > 0;

/** {@link checkFilter} for a change: a filter without any condition is refused unless it says `all: true`. */
export const checkChange = (operation: string, filter: JobDlqFilter): Effect.Effect<JobDlqFilter, InvalidInput> =>
  Effect.filterOrFail(
    checkFilter(operation, filter),
    isNarrow,
    () =>
      new InvalidInput({
        operation,
        field: "filter",
        problem: "has no condition and would take every dead letter of the scope; say { all: true } if that is meant",
      }),
  );

/** The end of the range of texts that begin with `prefix`, in the order of code points; undefined when there is none. */
const afterPrefix = (prefix: string): string | undefined => {
  const points = Array.from(prefix);
  for (let last = points.pop(); last !== undefined; last = points.pop()) {
    const code = last.codePointAt(0) ?? 0;
    // UTF-8 has no surrogates, and nothing comes after the last code point.
    if (code < 0x10ffff) return points.join("") + String.fromCodePoint(code === 0xd7ff ? 0xe000 : code + 1);
  }
  return undefined;
};

/**
 * The conditions of a checked filter, on `job_dlq` under the alias `d`. `state` is `pending` unless the filter says otherwise.
 * Never empty.
 */
export const compileFilter = (sql: SqlClient.SqlClient, filter: JobDlqFilter): Fragment => {
  const conditions: Array<Fragment> = [];
  const { state = "pending", type } = filter;
  if (state === "pending") conditions.push(sql`d.replayed_at IS NULL`);
  if (state === "replayed") conditions.push(sql`d.replayed_at IS NOT NULL`);
  if (filter.ids !== undefined) conditions.push(sql`d.id = ANY (${filter.ids}::uuid[])`);
  if (typeof type === "string") conditions.push(sql`d.type COLLATE "C" = ${type}`);
  if (typeof type === "object") {
    const end = afterPrefix(type.prefix);
    conditions.push(sql`d.type COLLATE "C" >= ${type.prefix}`);
    if (end !== undefined) conditions.push(sql`d.type COLLATE "C" < ${end}`);
  }
  if (filter.reason !== undefined) conditions.push(sql`d.error_reason = ${filter.reason}`);
  if (filter.since !== undefined) conditions.push(sql`d.dlq_at >= ${filter.since}::timestamptz`);
  if (filter.until !== undefined) conditions.push(sql`d.dlq_at < ${filter.until}::timestamptz`);
  if (filter.requestId !== undefined) conditions.push(sql`d.request_id = ${filter.requestId}::uuid`);
  if (filter.userId !== undefined) conditions.push(sql`d.user_id = ${filter.userId}::uuid`);
  if (filter.originalJobId !== undefined) conditions.push(sql`d.original_job_id = ${filter.originalJobId}::uuid`);
  if (filter.fingerprint !== undefined) conditions.push(sql`d.fingerprint = ${filter.fingerprint}::uuid`);
  if (filter.text !== undefined) conditions.push(sql`strpos(d.error_history -> -1 ->> 'error', ${filter.text}) > 0`);
  if ("payload" in filter) conditions.push(sql`d.payload @> ${JSON.stringify(filter.payload)}::jsonb`);
  return sql.and(conditions.length === 0 ? [sql`true`] : conditions);
};
