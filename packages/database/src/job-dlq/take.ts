/**
 * What replay and discard share: the letters that a caller asks for, the lock on those that are still pending, and what
 * became of the others.
 *
 * Everything that takes dead letters locks them in the order (original_job_id, id), so that two callers never wait for each
 * other in a circle, and repeats `replayed_at IS NULL` in the change itself: a row may change between snapshot and lock.
 */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import type { Position } from "../cursor.js";
import { InvalidInput } from "../errors.js";
import type { Batch } from "./bulk.js";
import { checkChange, type JobDlqFilter } from "./filter.js";

/** Dead letters that a caller asks for: a CTE `asked (id, place, at)`, and one of those of them that the table has. */
export interface Asked {
  readonly asked: Fragment;
  readonly seen: Fragment;
  /** Whether these may be some letters of a job of which other batches have the rest. */
  readonly isBatch: boolean;
}

/** Ids in the order of the caller, each once. */
export const askedIds = (sql: SqlClient.SqlClient, ids: ReadonlyArray<string>): Asked => ({
  asked: sql`
    SELECT id, min(place) AS place, NULL::text AS at FROM unnest(${ids}::uuid[]) WITH ORDINALITY AS t (id, place) GROUP BY id`,
  seen: sql`SELECT d.id FROM job_dlq d JOIN asked USING (id)`,
  isBatch: false,
});

/** A batch of what a filter matches, which the table has by definition. */
export const askedBatch =
  (sql: SqlClient.SqlClient) =>
  (asked: Fragment): Asked => ({ asked, seen: sql`SELECT id FROM asked`, isBatch: true });

/** A filter for what only pending letters can go through. */
export const checkPendingChange = (operation: string, filter: JobDlqFilter) =>
  Effect.filterOrFail(
    checkChange(operation, filter),
    ({ state = "pending" }) => state === "pending",
    ({ state }) =>
      new InvalidInput({
        operation,
        field: "filter.state",
        problem: `is ${state}; only pending dead letters can be taken`,
      }),
  );

/**
 * CTEs `asked`, `seen` (the statement's snapshot) and `locked` (what is still pending once the lock is held). `withNewer`: and the
 * newer pending letters of the same jobs, which a later batch may have and another caller may be taking. A fragment for `WITH`.
 */
export const lockPending = (sql: SqlClient.SqlClient, { asked, seen }: Asked, withNewer = false): Fragment => sql`
  asked AS MATERIALIZED (${asked}),
  seen AS (${seen}),
  locked AS MATERIALIZED (
    SELECT d.* FROM job_dlq d
    WHERE d.id IN (SELECT id FROM asked ${withNewer ? newer(sql) : sql``}) AND d.replayed_at IS NULL
    ORDER BY d.original_job_id, d.id
    FOR UPDATE OF d)`;

const newer = (sql: SqlClient.SqlClient): Fragment => sql`
  UNION
  SELECT n.id FROM asked JOIN job_dlq l USING (id) JOIN job_dlq n ON n.original_job_id = l.original_job_id AND n.app_id = l.app_id
  WHERE n.replayed_at IS NULL AND (n.dlq_at, n.id) > (l.dlq_at, l.id)`;

/**
 * For a letter `a.id` that is not in the table: why, from the ledger. Purged ones are as unknown as ones that never were.
 * The receipts compare by IN and not by joins: the planner knows nothing of how many rows a CTE has, takes them for few, and
 * joins them in nested loops, which made half of the time at 1,000 rows and all of it at 10,000.
 */
export const goneOutcome = (sql: SqlClient.SqlClient): Fragment => sql`
  (SELECT CASE WHEN bool_or(e.kind = 'erased') THEN 'erased' WHEN count(*) > 0 THEN 'already gone' ELSE 'not found' END
    FROM job_dlq_events e WHERE e.dlq_id = a.id AND e.kind IN ('discarded', 'expired', 'erased'))`;

/** Reads the receipts of one statement; the last row's `at` is the place of the batch, and `done` the outcome that a limit counts. */
export const batchOf = <A extends { readonly id: string; readonly outcome: string }, I>(
  receipt: S.Schema<A, I>,
  done: A["outcome"],
) => {
  const decode = S.decodeUnknown(S.Array(S.Struct({ receipt, at: S.NullOr(S.String) })));
  return (rows: ReadonlyArray<Readonly<Record<string, unknown>>>): Effect.Effect<Batch<ReadonlyArray<A>>> =>
    Effect.map(Effect.orDie(decode(rows.map((row) => ({ receipt: row, at: row.at })))), (decoded) => {
      const last = decoded.at(-1);
      const position: Position | undefined =
        last === undefined || last.at === null ? undefined : { at: last.at, id: last.receipt.id };
      const value = decoded.map((_) => _.receipt);
      const taken = value.filter(({ outcome }) => outcome === done).length;
      return { asked: decoded.length, taken, last: position, value };
    });
};

/** How far a bulk change has come: the receipts of the batch that was just committed, and the counts since it began. */
export interface Progress<A> {
  readonly receipts: ReadonlyArray<A>;
  /** Dead letters so far. */
  readonly asked: number;
  /** So far, by outcome; an outcome that did not occur is 0. */
  readonly outcomes: Readonly<Record<string, number>>;
}

/** Counts on. */
export const progressed = <A extends { readonly outcome: string }>(
  before: Progress<A>,
  receipts: ReadonlyArray<A>,
): Progress<A> => {
  const outcomes: Record<string, number> = { ...before.outcomes };
  for (const { outcome } of receipts) outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  return { receipts, asked: before.asked + receipts.length, outcomes };
};

/** Nothing yet. */
export const noProgress = <A>(outcomes: ReadonlyArray<string>): Progress<A> => ({
  receipts: [],
  asked: 0,
  outcomes: Object.fromEntries(outcomes.map((_) => [_, 0])),
});

export const isIds = (what: ReadonlyArray<string> | JobDlqFilter): what is ReadonlyArray<string> => Array.isArray(what);
