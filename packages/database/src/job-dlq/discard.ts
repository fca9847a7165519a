/**
 * Discard takes pending dead letters out for good, with a reason and a whole copy in the ledger; restore undoes it.
 *
 * Contract: one statement, so a letter is in the table or in the ledger, never in both and never in neither. The two are exact
 * inverses: a restored letter has every column as it was, but for the order of arrival. An event is undone once.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { actorOf, idsOf, reasonOf } from "../arguments.js";
import { type QueryError, refused } from "../refusal.js";
import { classify } from "../sql-state.js";
import { withTransaction } from "../transaction.js";
import { type BulkError, type BulkOptions, inBatches, type NoBulkOptions, noBulkOf } from "./bulk.js";
import type { JobDlqFilter } from "./filter.js";
import { entryOf, letterColumns, letterOf } from "./ledger.js";
import {
  type Asked,
  askedBatch,
  askedIds,
  batchOf,
  checkPendingChange,
  goneOutcome,
  isIds,
  lockPending,
  noProgress,
  type Progress,
  progressed,
} from "./take.js";

/**
 * What became of one id of a discard. `discarded` · `already gone`: replayed, discarded or expired before, or by another caller just
 * now · `erased`: its person's data was removed · `not found`: no such dead letter in this scope.
 */
export const DiscardOutcome = S.Literal("discarded", "already gone", "erased", "not found");
export type DiscardOutcome = typeof DiscardOutcome.Type;

/** The receipt for one id; `eventId` is what `restore` takes. */
export class DiscardReceipt extends S.Class<DiscardReceipt>("DiscardReceipt")({
  id: S.UUID,
  outcome: DiscardOutcome,
  eventId: S.NullOr(S.UUID),
}) {}

export interface DiscardOptions {
  readonly actor: string;
  /** Why nobody needs it any more. */
  readonly reason: string;
}

export type DiscardProgress = Progress<DiscardReceipt>;

export interface Discard {
  /** Up to 10,000 dead letters by id, in one statement: a receipt per distinct id, in the order of the input. */
  (
    ids: ReadonlyArray<string>,
    options: DiscardOptions & NoBulkOptions,
  ): Effect.Effect<ReadonlyArray<DiscardReceipt>, QueryError>;
  /** Every pending dead letter that the filter matches: see {@link BulkOptions} and `bulk.ts`. Emits the progress after each batch. */
  (filter: JobDlqFilter, options: DiscardOptions & BulkOptions): Stream.Stream<DiscardProgress, QueryError | BulkError>;
}

/**
 * What became of one event of a restore. `restored` · `already restored`: by an earlier call, or by another one just now ·
 * `id exists`: a dead letter with this id is in the table again (imported) · `already gone`: it was in the table again and was
 * replayed there; its copy would be replayed a second time · `unknown app`: its app was deleted · `erased`: its person's data was
 * removed · `not found`: no event of this scope that took a letter out.
 */
export const RestoreOutcome = S.Literal(
  "restored",
  "already restored",
  "id exists",
  "already gone",
  "unknown app",
  "erased",
  "not found",
);
export type RestoreOutcome = typeof RestoreOutcome.Type;

/** The receipt for one event; `id` is the dead letter, null when there was no such event. */
export class RestoreReceipt extends S.Class<RestoreReceipt>("RestoreReceipt")({
  eventId: S.UUID,
  id: S.NullOr(S.UUID),
  outcome: RestoreOutcome,
}) {}

export const makeDiscard = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const readBatch = batchOf(DiscardReceipt, "discarded");
  const readRestored = S.decodeUnknown(S.Array(RestoreReceipt));

  const change = (operation: string, options: DiscardOptions) =>
    Effect.gen(function* () {
      const actor = yield* actorOf(operation, options.actor);
      const reason = yield* reasonOf(operation, options.reason);
      return (asked: Asked) =>
        sql`
          WITH ${lockPending(sql, asked)},
          moved AS (
            DELETE FROM job_dlq d USING locked l
            WHERE d.id = l.id AND d.replayed_at IS NULL
            RETURNING d.*),
          ledger AS (
            INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, entry)
            SELECT m.app_id, m.id, m.original_job_id, 'discarded', ${actor}, ${reason}, ${entryOf(sql, "m")} FROM moved m
            RETURNING id, dlq_id)
          SELECT a.id, a.at, a.event_id,
            CASE
              WHEN a.event_id IS NOT NULL THEN 'discarded'
              WHEN a.id NOT IN (SELECT id FROM seen) THEN ${goneOutcome(sql)}
              ELSE 'already gone'
            END AS outcome
          FROM (
            SELECT id, min(place) AS place, min(at) AS at, (array_agg(event_id) FILTER (WHERE event_id IS NOT NULL))[1] AS event_id
            FROM (SELECT id, place, at, NULL::uuid AS event_id FROM asked UNION ALL SELECT dlq_id, NULL, NULL, id FROM ledger) t
            GROUP BY id) a
          ORDER BY a.place`.pipe(refused(operation), Effect.flatMap(readBatch));
    });

  const discardIds = Effect.fn("jobDlq.discard")(function* (
    ids: ReadonlyArray<string>,
    options: DiscardOptions & BulkOptions,
  ) {
    const discard = yield* change("jobDlq.discard", options);
    yield* noBulkOf("jobDlq.discard", options);
    yield* idsOf("jobDlq.discard", ids);
    return ids.length === 0 ? [] : (yield* discard(askedIds(sql, ids))).value;
  });

  const discardFilter = (filter: JobDlqFilter, options: DiscardOptions & BulkOptions) =>
    Effect.gen(function* () {
      const discard = yield* change("jobDlq.discard", options);
      const checked = yield* checkPendingChange("jobDlq.discard", filter);
      return inBatches(sql, "jobDlq.discard", checked, options, (asked) => discard(askedBatch(sql)(asked)));
    }).pipe(
      Stream.unwrap,
      Stream.mapAccum(noProgress<DiscardReceipt>(DiscardOutcome.literals), (before, receipts) => {
        const progress = progressed(before, receipts);
        return [progress, progress];
      }),
      Stream.withSpan("jobDlq.discard"),
    );

  // By what is passed, one of the two: a cast past `unknown`, because TypeScript cannot tell the overloads of an arrow apart.
  const discard = ((what: ReadonlyArray<string> | JobDlqFilter, options: DiscardOptions & BulkOptions) =>
    isIds(what) ? discardIds(what, options) : discardFilter(what, options)) as unknown as Discard;

  // All copies of the letters, before the statement that judges them: one that waits goes on with the snapshot from before, and
  // would not see that the letter came back by an import or another event, was replayed and was purged. An import waits for this.
  const holdCopies = (ids: ReadonlyArray<string>) => sql`
    SELECT e.id FROM job_dlq_events e
    WHERE e.dlq_id IN (SELECT dlq_id FROM job_dlq_events WHERE id = ANY (${ids}::uuid[])) AND e.kind IN ('discarded', 'expired')
    ORDER BY e.id
    FOR UPDATE OF e`;

  // `held` is what holdCopies locked: an event that was committed since is none of it, and could be erased beside this. The unique
  // index on `undoes` holds that an event is used once, whatever is locked.
  const restoreOnce = (
    ids: ReadonlyArray<string>,
    held: ReadonlyArray<unknown>,
    actor: string,
    reason: string | null,
  ) =>
    sql`
      WITH asked AS (
        SELECT id, min(place) AS place FROM unnest(${ids}::uuid[]) WITH ORDINALITY AS t (id, place) GROUP BY id),
      held AS MATERIALIZED (
        SELECT e.* FROM job_dlq_events e JOIN asked USING (id) WHERE e.id = ANY (${held}::uuid[])),
      undone AS MATERIALIZED (
        SELECT u.undoes AS id FROM job_dlq_events u JOIN asked ON u.undoes = asked.id),
      present AS MATERIALIZED (
        SELECT d.id FROM job_dlq d WHERE d.id IN (SELECT dlq_id FROM held)),
      replayed AS MATERIALIZED (
        SELECT r.dlq_id AS id FROM job_dlq_events r WHERE r.dlq_id IN (SELECT dlq_id FROM held) AND r.kind = 'replayed'),
      usable AS MATERIALIZED (
        SELECT DISTINCT ON (dlq_id) * FROM held
        WHERE entry IS NOT NULL AND id NOT IN (SELECT id FROM undone)
          AND app_id IN (SELECT id FROM apps) AND dlq_id NOT IN (SELECT id FROM present) AND dlq_id NOT IN (SELECT id FROM replayed)
        ORDER BY dlq_id, id DESC),
      restored AS (
        INSERT INTO job_dlq (${letterColumns(sql)})
        SELECT ${letterOf(sql)}
        FROM usable e
        CROSS JOIN LATERAL jsonb_populate_record(NULL::job_dlq, e.entry) r
        ORDER BY r.id
        ON CONFLICT (id) DO NOTHING
        RETURNING id),
      used AS (
        SELECT u.id, u.app_id, u.dlq_id, u.original_job_id FROM usable u JOIN restored ON restored.id = u.dlq_id),
      ledger AS (
        INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, undoes)
        SELECT app_id, dlq_id, original_job_id, 'restored', ${actor}, ${reason}, id FROM used)
      SELECT a.id AS event_id, h.dlq_id AS id,
        CASE
          WHEN h.id IS NULL THEN 'not found'
          WHEN used.id IS NOT NULL THEN 'restored'
          WHEN a.id IN (SELECT id FROM undone) THEN 'already restored'
          WHEN h.entry IS NULL THEN 'erased'
          WHEN h.app_id NOT IN (SELECT id FROM apps) THEN 'unknown app'
          WHEN h.dlq_id IN (SELECT id FROM replayed) AND h.dlq_id NOT IN (SELECT id FROM present) THEN 'already gone'
          ELSE 'id exists'
        END AS outcome
      FROM asked a LEFT JOIN held h USING (id) LEFT JOIN used USING (id)
      ORDER BY a.place`;

  const restored = (...asked: Parameters<typeof restoreOnce>) =>
    Effect.flatMap(restoreOnce(...asked), (rows) => Effect.orDie(readRestored(rows)));

  const isUsed = (error: unknown) => error instanceof SqlError && classify(error) === "Unique";

  /**
   * Brings discarded and expired dead letters back under their own ids, by the ids of the events that took them out (at most
   * 10,000): a receipt per distinct event, in the order of the input.
   */
  const restore = Effect.fn("jobDlq.restore")(function* (
    eventIds: ReadonlyArray<string>,
    options: { readonly actor: string; readonly reason?: string | undefined },
  ) {
    const operation = "jobDlq.restore";
    const actor = yield* actorOf(operation, options.actor);
    const reason = options.reason === undefined ? null : yield* reasonOf(operation, options.reason);
    yield* idsOf(operation, eventIds);
    if (eventIds.length === 0) return [];
    // Who waited for another caller finds the letter in the table, and sees only at a second look who brought it there.
    const both = Effect.gen(function* () {
      const held = (yield* holdCopies(eventIds)).map(({ id }) => id);
      const receipts = yield* restored(eventIds, held, actor, reason);
      const taken = receipts.filter(({ outcome }) => outcome === "id exists").map(({ eventId }) => eventId);
      if (taken.length === 0) return receipts;
      const again = new Map((yield* restored(taken, held, actor, reason)).map((receipt) => [receipt.eventId, receipt]));
      return receipts.map((receipt) => again.get(receipt.eventId) ?? receipt);
    });
    // A savepoint of its own inside a caller's transaction, so that losing the race costs this statement only.
    return yield* withTransaction(sql)(both).pipe(Effect.retry({ while: isUsed, times: 5 }), refused(operation));
  });

  return { discard, restore };
});
