/**
 * Work on every dead letter that a filter matches, in bounded batches: each batch is one transaction of its own, so the work
 * can be stopped between two of them, by interruption or by kill -9, and is resumed by calling it again.
 *
 * It takes the oldest first and goes through the letters once. Letters that arrive while it runs are not taken: a replay that
 * fails again would otherwise be replayed for ever.
 */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import type { Fragment } from "@effect/sql/Statement";
import * as Chunk from "effect/Chunk";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { wholeOf } from "../arguments.js";
import type { Position } from "../cursor.js";
import { InvalidInput, type ScopeConflict } from "../errors.js";
import { type DataScope, within } from "../transaction.js";
import { compileFilter, type JobDlqFilter } from "./filter.js";
import { newerThan, placeOf } from "./place.js";

/** How a bulk change goes through what its filter matches. */
export interface BulkOptions {
  /** Whose rows; each batch opens this scope. Default: the scope that is open around the stream, and then all is one transaction. */
  readonly scope?: DataScope | undefined;
  /** Dead letters in one statement, 1 to 10,000. Default 1,000. */
  readonly batchSize?: number | undefined;
  /** Dead letters at most that are replayed or discarded; those that cannot be do not count. Default: all that match. */
  readonly limit?: number | undefined;
  /** Only those that were there at this moment: the `asOf` of a preview, so that nothing is changed that it did not count. Default: now. */
  readonly asOf?: string | undefined;
  /** Dead letters a second at most, more than 0. Default: as fast as it goes. */
  readonly ratePerSecond?: number | undefined;
}

/** Of a change by ids, which is one statement in the scope around it: none of {@link BulkOptions}. */
export type NoBulkOptions = { readonly [K in keyof BulkOptions]?: undefined };

const bulkFields = ["scope", "batchSize", "limit", "asOf", "ratePerSecond"] as const satisfies ReadonlyArray<
  keyof BulkOptions
>;

/** Refuses what a change by ids would not do. */
export const noBulkOf = (operation: string, options: BulkOptions) => {
  const field = bulkFields.find((_) => options[_] !== undefined);
  return field === undefined
    ? Effect.void
    : new InvalidInput({
        operation,
        field,
        problem:
          "is for a filter; ids are one statement in the scope around it. Pass { ids } as the filter, or leave it out",
      });
};

export type BulkError = SqlError | InvalidInput | ScopeConflict;

const rateOf = (operation: string, rate: number) =>
  Number.isFinite(rate) && rate > 0
    ? Effect.succeed(rate)
    : new InvalidInput({ operation, field: "ratePerSecond", problem: `is ${rate}; it must be more than 0` });

const decodeSnapshot = S.decodeUnknown(S.Tuple(S.Struct({ snapshot: S.String })));

/** What a preview says as `asOf`: a snapshot in PostgreSQL's spelling. Another database's means nothing here, and is not told from ours. */
const asOfOf = (operation: string, asOf: string) =>
  typeof asOf === "string" && asOf.length <= 100_000 && /^\d{1,19}:\d{1,19}:(?:\d{1,19}(?:,\d{1,19})*)?$/u.test(asOf)
    ? Effect.succeed(asOf)
    : new InvalidInput({ operation, field: "asOf", problem: "is none; it is what a preview says as asOf" });

/** A batch that was done: how many dead letters it asked for and took, and the place of the last of them, if any. */
export interface Batch<A> {
  readonly asked: number;
  readonly taken: number;
  readonly last: Position | undefined;
  readonly value: A;
}

/**
 * Whether a row of `job_dlq` under the alias `d` was there when the snapshot was taken. Those of the transaction around it, which
 * a snapshot does not call visible, are among them, and those of a transaction that this server has not come to yet: they were
 * loaded from a dump of another one, with its numbers.
 */
export const wasThere = (sql: SqlClient.SqlClient, snapshot: string): Fragment => sql`
  (pg_visible_in_snapshot(d.arrived, ${snapshot}::pg_snapshot) OR d.arrived = pg_current_xact_id_if_assigned()
    OR d.arrived >= (SELECT pg_snapshot_xmax(pg_current_snapshot())))`;

/**
 * The dead letters of the next batch, as the body of a CTE `asked (id, place, at)`: those of the filter that were there when
 * the work began, oldest first.
 */
const askedOf = (
  sql: SqlClient.SqlClient,
  filter: JobDlqFilter,
  snapshot: string,
  after: Position | undefined,
  limit: number,
): Fragment => sql`
  SELECT d.id, row_number() OVER (ORDER BY d.dlq_at, d.id) AS place, ${placeOf(sql)} AS at
  FROM job_dlq d
  WHERE ${compileFilter(sql, filter)}
    AND ${wasThere(sql, snapshot)}
    ${after === undefined ? sql`` : sql`AND ${newerThan(sql, after)}`}
  ORDER BY d.dlq_at, d.id
  LIMIT ${limit}`;

/** Runs `take` on one batch after the other; emits what each returned once it is committed. The filter is a checked one. */
export const inBatches = <A, E>(
  sql: SqlClient.SqlClient,
  operation: string,
  filter: JobDlqFilter,
  options: BulkOptions,
  take: (asked: Fragment) => Effect.Effect<Batch<A>, E>,
): Stream.Stream<A, E | BulkError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const rate = options.ratePerSecond === undefined ? undefined : yield* rateOf(operation, options.ratePerSecond);
      const batchSize = yield* wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_000);
      const limit = yield* wholeOf(operation, "limit", options.limit ?? 1_000_000_000, 1, 1_000_000_000);
      const inScope = within(sql, options.scope);
      const present = Effect.gen(function* () {
        const rows = yield* sql`SELECT pg_current_snapshot()::text AS snapshot`;
        const [{ snapshot }] = yield* Effect.orDie(decodeSnapshot(rows));
        return snapshot;
      });
      const snapshot = options.asOf === undefined ? yield* inScope(present) : yield* asOfOf(operation, options.asOf);
      // A slow rate means small batches, so that no batch bursts beyond a second's worth.
      const size = rate === undefined ? batchSize : Math.min(batchSize, Math.max(1, Math.floor(rate)));
      const pause = (done: number) =>
        rate === undefined || done === 0 ? Effect.void : Effect.sleep(Math.ceil((done / rate) * 1000));
      const step = ({ after, left, paused }: { after: Position | undefined; left: number; paused: number }) =>
        Effect.gen(function* () {
          if (left <= 0) return Option.none();
          yield* pause(paused);
          const wanted = Math.min(size, left);
          const batch = yield* inScope(take(askedOf(sql, filter, snapshot, after, wanted)));
          if (batch.asked === 0) return Option.none();
          const rest = { after: batch.last, left: batch.asked < wanted ? 0 : left - batch.taken, paused: batch.asked };
          return Option.some([Chunk.of(batch.value), rest] as const);
        });
      return Stream.unfoldChunkEffect({ after: undefined as Position | undefined, left: limit, paused: 0 }, step);
    }),
  );
