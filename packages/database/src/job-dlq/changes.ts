/**
 * `changes`: dead letters as they arrive, each once, also across lost connections and processes.
 *
 * Contract: an arrival is a row that came into the table, by dead-lettering, insert, restore or import. Arrivals are read from the
 * table in the order of the transactions that inserted them, and a notification only says when to look. So nothing is missed while
 * nobody listened. Nothing comes twice or out of turn either, although a transaction that began earlier may commit later: only
 * those rows are read that no transaction still running can come before (`arrived` below `xmin` of the snapshot). The price is
 * that an arrival waits for every writing transaction on the server that was open when it was written; while rows are held back
 * so, the stream looks again after short pauses, since nobody notifies when such a transaction ends.
 *
 * A letter is emitted as it is when it is read: it may be replayed by then, and one that has left the table by then is not
 * emitted. Every look is a short transaction of its own. The consumer pulls; what it does not take stays in the table.
 *
 * Letters that were loaded with pg_dump's copy of another server carry that one's transaction numbers, and those beyond this server's
 * own wait until it has come so far. After such a load let them arrive now, in the system scope:
 * `UPDATE job_dlq SET arrived = DEFAULT WHERE arrived >= pg_snapshot_xmax(pg_current_snapshot())`.
 *
 * A running stream has one connection of its own beside the pool, to listen: hand one stream on with `Stream.broadcast` rather
 * than opening many. Listening needs a direct connection or a pooler in session mode; behind one in transaction mode arrivals come
 * with the slow poll.
 */
import { createHash } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import * as PgClient from "@effect/sql-pg/PgClient";
import * as Chunk from "effect/Chunk";
import * as Data from "effect/Data";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as Queue from "effect/Queue";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { millisOf, wholeOf } from "../arguments.js";
import { BadRow, InvalidInput, type ScopeConflict } from "../errors.js";
import { JobDlq } from "../models.js";
import { type QueryError, refused } from "../refusal.js";
import { rowsOf } from "../rows.js";
import { classify, databaseError } from "../sql-state.js";
import { type DataScope, within } from "../transaction.js";
import { listen, reconnecting } from "./listener.js";
import {
  type ArrivalPlace,
  advance,
  decodePosition,
  encodePosition,
  firstId,
  lastId,
  placeOfSnapshot,
} from "./position.js";
import { quickLetter } from "./quick-letter.js";

/** A dead letter that came into the table. */
export class Arrival extends Data.Class<{
  /** Left: the stored row does not fit the model. */
  readonly letter: Either.Either<JobDlq, BadRow>;
  /** Where `changes({ after })` goes on behind this one, in this process or another. It belongs to this database. */
  readonly position: string;
}> {}

export interface ChangesOptions {
  /** Whose arrivals. Each look opens this scope by itself, so the stream must not run inside a transaction. */
  readonly scope: DataScope;
  /** A position: of an arrival, of `changesPosition()`, or {@link beginning}. Default: the present, when the stream starts. */
  readonly after?: string | undefined;
  /** Letters in one look, 1 to 1,000. Default 100. */
  readonly batchSize?: number | undefined;
  /** A look is due after this time even if nothing was notified, and the listening connection is asked whether it lives. Default 30 seconds. */
  readonly pollInterval?: Duration.DurationInput | undefined;
}

/** The position before everything that is in the table. */
export const beginning = encodePosition({ arrived: "0", id: firstId, start: "" });

/** Milliseconds between two looks while rows are held back by a transaction that is still open: from the least, doubling, to the most. */
const leastPause = 10;
const mostPause = 1_000;

/** The channel of the trigger job_dlq_notify; a notification carries {@link hashOf} a tenant. */
const channel = "job_dlq";
const hashOf = (appId: string) => createHash("md5").update(appId.toLowerCase()).digest("hex");

/**
 * One look: the next arrivals behind a place, in order, each with the horizon that they are below, and whether there are rows
 * beyond it. One row of NULLs when there are none.
 */
export const arrivals = (sql: SqlClient.SqlClient, { arrived, id, start }: ArrivalPlace, limit: number) => {
  // The first in order, and not EXISTS, which would read the whole table: the planner expects a third of it beyond the horizon.
  const unseen = start === "" ? sql`` : sql`AND NOT pg_visible_in_snapshot(d.arrived, ${start}::pg_snapshot)`;
  return sql`
    WITH present AS MATERIALIZED (
      SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin),
    page AS MATERIALIZED (
      SELECT d.* FROM job_dlq d
      WHERE (d.arrived, d.id) > (${arrived}::xid8, ${id}::uuid) AND d.arrived < (SELECT xmin FROM present) ${unseen}
      ORDER BY d.arrived, d.id
      LIMIT ${limit})
    SELECT present.xmin::text AS horizon,
      (SELECT d.arrived FROM job_dlq d WHERE d.arrived >= (SELECT xmin FROM present) ${unseen} ORDER BY d.arrived, d.id LIMIT 1)
        IS NOT NULL AS is_held_back,
      page.*
    FROM present LEFT JOIN page ON true
    ORDER BY page.arrived, page.id`;
};

export const makeChanges = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const { config } = yield* PgClient.PgClient;
  const letters = rowsOf(JobDlq, "job_dlq", quickLetter);
  const decodeSnapshot = S.decodeUnknown(S.Tuple(S.Struct({ snapshot: S.String, xmax: S.String })));
  const decodeLook = S.decodeUnknown(S.NonEmptyArray(Looked));

  // A connection of the pool may have been lost unnoticed, so not at the first failure.
  const snapshot =
    sql`SELECT pg_current_snapshot()::text AS snapshot, pg_snapshot_xmax(pg_current_snapshot())::text AS xmax`.pipe(
      Effect.retry({ while: isDisconnected, schedule: reconnecting, times: 5 }),
      Effect.flatMap((rows) => Effect.orDie(Effect.map(decodeSnapshot(rows), ([row]) => row))),
    );

  /** The position behind everything that has arrived by now. Call it outside of a transaction, which would see its own rows. */
  const changesPosition = Effect.fn("jobDlq.changesPosition")(function* () {
    yield* outsideTransaction("jobDlq.changesPosition");
    const present = yield* refused("jobDlq.changesPosition")(snapshot);
    return encodePosition(placeOfSnapshot(present.snapshot));
  });

  const startOf = (operation: string, after: string | undefined) =>
    Effect.gen(function* () {
      const present = yield* refused(operation)(snapshot);
      if (after === undefined) return placeOfSnapshot(present.snapshot);
      const place = decodePosition(after);
      if (Option.isNone(place)) {
        return yield* new InvalidInput({ operation, field: "after", problem: "is no position that an arrival had" });
      }
      if (BigInt(place.value.arrived) >= BigInt(present.xmax)) {
        const problem = "is a position in another database: no transaction has come so far here";
        return yield* new InvalidInput({ operation, field: "after", problem });
      }
      return place.value;
    });

  /**
   * Arrivals in the scope, for ever: those after a position, then those to come. Fails when the database does not answer for some seconds at its start; from then on it
   * outlasts lost connections and restarts of the server.
   */
  const changes = (options: ChangesOptions): Stream.Stream<Arrival, QueryError | ScopeConflict> => {
    const operation = "jobDlq.changes";
    return Effect.gen(function* () {
      yield* outsideTransaction(operation);
      const batchSize = yield* wholeOf(operation, "batchSize", options.batchSize ?? 100, 1, 1000);
      const interval = yield* millisOf(operation, "pollInterval", options.pollInterval ?? "30 seconds");
      if (interval < 1) {
        return yield* new InvalidInput({ operation, field: "pollInterval", problem: "is less than a millisecond" });
      }
      const pollInterval = Duration.millis(interval);
      const inScope = within(sql, options.scope);
      const place = yield* startOf(operation, options.after);

      // One token is enough: whoever takes it looks at everything.
      const wakes = yield* Queue.sliding<void>(1);
      const mine = options.scope?._tag === "tenant" ? hashOf(options.scope.appId) : undefined;
      yield* listen(config, {
        channel,
        heartbeat: pollInterval,
        wake: (payload) => {
          if (payload === undefined || mine === undefined || payload === mine) wakes.unsafeOffer(undefined);
        },
      });

      const look = (from: ArrivalPlace) =>
        inScope(arrivals(sql, from, batchSize)).pipe(
          Effect.tapError((error) =>
            isDisconnected(error)
              ? Effect.logWarning(`${operation}: no answer (${databaseError(error).message}), looking again`)
              : Effect.void,
          ),
          Effect.retry({ while: isDisconnected, schedule: reconnecting }),
          refused(operation),
          // Each look, and not the stream, which does not end.
          Effect.withSpan(operation),
        );

      interface State {
        readonly place: ArrivalPlace;
        /** When to look: a full page is followed by another, rows that are held back are looked for again, else it waits. */
        readonly next: "at once" | "after a pause" | "when woken";
        readonly pause: number;
      }
      const step = (state: State) =>
        Effect.gen(function* () {
          let { next, pause, place } = state;
          for (;;) {
            if (next === "when woken") yield* Effect.timeoutOption(Queue.take(wakes), pollInterval);
            if (next === "after a pause") yield* Effect.sleep(pause);
            yield* Queue.takeAll(wakes);
            const rows = yield* look(place);
            const looked = yield* Effect.orDie(decodeLook(rows));
            const [{ horizon, isHeldBack }] = looked;
            const found: Array<Arrival> = [];
            for (const [i, { arrived, id }] of looked.entries()) {
              if (arrived === null || id === null) continue;
              place = advance(place, arrived, id);
              const { bad, items } = letters.partition(rows.slice(i, i + 1));
              const letter = items[0] === undefined ? Either.left(bad[0] ?? unread(id)) : Either.right(items[0]);
              found.push(new Arrival({ letter, position: encodePosition(place) }));
            }
            const isFull = found.length === batchSize;
            next = isFull ? "at once" : isHeldBack ? "after a pause" : "when woken";
            pause = found.length === 0 && isHeldBack ? Math.min(pause * 2, mostPause) : leastPause;
            // All below the horizon has been seen, also what the scope does not show: the next look begins there.
            if (!isFull) place = advance(place, String(BigInt(horizon) - 1n), lastId);
            const after: State = { place, next, pause };
            if (found.length > 0) return Option.some([Chunk.unsafeFromArray(found), after] as const);
          }
        });
      const first: State = { place, next: "at once", pause: leastPause };
      return Stream.unfoldChunkEffect(first, step);
    }).pipe(Stream.unwrapScoped);
  };

  return { changes, changesPosition };
});

/** What a look says beside the letters. */
const Looked = S.Struct({
  horizon: S.String,
  isHeldBack: S.Boolean,
  arrived: S.NullOr(S.String),
  id: S.NullOr(S.UUID),
});

const unread = (id: string) => new BadRow({ table: "job_dlq", id, problem: "it cannot be read" });

const isDisconnected = (error: unknown): error is SqlError =>
  error instanceof SqlError && classify(error) === "Connection";

const outsideTransaction = (operation: string) =>
  Effect.flatMap(
    Effect.serviceOption(SqlClient.TransactionConnection),
    Option.match({
      onNone: () => Effect.void,
      onSome: () =>
        new InvalidInput({
          operation,
          field: "call",
          problem:
            "is inside a transaction, which would see its own rows and hold back everybody else's; make it outside",
        }),
    }),
  );
