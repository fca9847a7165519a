/**
 * Erasure: removes one person's data from the queue, for good.
 *
 * Contract: one transaction. The dead letters leave the table; the ledger keeps that there was one, its type, reason and number of
 * attempts, and who erased it, while the copies and payload differences that it held become NULL, those of earlier events too.
 * Unfinished jobs are cancelled, and in all of them payload becomes JSON null, the error history empty, user and request NULL.
 * What is dead-lettered, discarded, restored or replayed at the same moment is erased as well: all of it is locked first, and
 * looked at again under the locks.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import type { Fragment } from "@effect/sql/Statement";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { actorOf, reasonOf } from "../arguments.js";
import { refused } from "../refusal.js";
import { withTransaction } from "../transaction.js";
import { checkChange, compileFilter, type JobDlqFilter } from "./filter.js";
import { copyOf } from "./ledger.js";

/** What was removed. */
export class ErasureReceipt extends S.Class<ErasureReceipt>("ErasureReceipt")({
  /** Dead letters that left the table. */
  letters: S.Int,
  /** Discarded and expired ones whose copy in the ledger was emptied. */
  copies: S.Int,
  /** Jobs that were waiting or running, and are cancelled now. */
  jobsCancelled: S.Int,
  /** Jobs whose content was emptied, the cancelled ones included. */
  jobsEmptied: S.Int,
}) {}

/** Something to erase came into view after the locks were taken, and another caller has it or has brought it back. */
class Moved extends Data.TaggedError("Moved") {}

export const makeErasure = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decode = S.decodeUnknown(
    S.Tuple(S.Struct({ ...ErasureReceipt.fields, absent: S.Array(S.UUID), missed: S.Int })),
  );

  /**
   * CTEs with what is to go as the statement's snapshot shows it (`letters`, `copies` in the ledger, `owned` jobs), and what of
   * that could be locked (`held_…`). In the order of replay: letters, then jobs, each by id.
   */
  const lock = (filter: JobDlqFilter, waiting: Fragment) => {
    const { all: _, ids, state = "any", userId, ...rest } = filter;
    const others = Object.keys(rest).length > 0;
    const isAny = state === "any";
    // A user alone is a person, whose jobs go too, and all that the ledger holds of them; ids alone name the ledger's lines as well.
    const person = isAny && ids === undefined && !others ? (userId ?? null) : null;
    const named = isAny && userId === undefined && !others ? (ids ?? []) : [];
    const matches = compileFilter(sql, { ...filter, state });
    // A letter that was discarded or expired is neither pending nor replayed. What the ledger has indexes for is asked of it first.
    const isCopyAsked = sql.and([
      sql`${isAny && person === null} AND e.kind IN ('discarded', 'expired') AND e.entry IS NOT NULL`,
      ...(ids === undefined ? [] : [sql`e.dlq_id = ANY (${ids}::uuid[])`]),
      ...(userId === undefined ? [] : [sql`e.user_id = ${userId}::uuid`]),
      ...(filter.originalJobId === undefined ? [] : [sql`e.original_job_id = ${filter.originalJobId}::uuid`]),
    ]);
    const isFull = sql`(e.entry IS NOT NULL OR e.detail IS NOT NULL)`;
    return sql`
      letters AS MATERIALIZED (
        SELECT d.id, d.app_id, d.original_job_id FROM job_dlq d WHERE ${matches}),
      copies AS MATERIALIZED (
        SELECT e.id, e.app_id, e.dlq_id, e.original_job_id, e.entry -> 'type' AS type, e.entry -> 'error_reason' AS reason,
          e.entry -> 'attempts' AS attempts,
          e.entry IS NOT NULL AND NOT EXISTS (SELECT FROM job_dlq_events u WHERE u.undoes = e.id) AS is_out
        FROM job_dlq_events e
        WHERE e.id IN (
            SELECT id FROM job_dlq_events WHERE user_id = ${person}::uuid
            UNION SELECT id FROM job_dlq_events WHERE dlq_id = ANY (${named}::uuid[])
            UNION SELECT id FROM job_dlq_events WHERE dlq_id IN (
              SELECT e.dlq_id FROM job_dlq_events e CROSS JOIN LATERAL (${copyOf(sql)}) d WHERE ${isCopyAsked} AND ${compileFilter(sql, { ...filter, state: "any" })})
            UNION SELECT o.id FROM job_dlq_events o JOIN letters l ON o.original_job_id = l.original_job_id AND o.app_id = l.app_id)
          AND e.kind NOT IN ('erased', 'purged') AND ${isFull}),
      owned AS MATERIALIZED (
        SELECT id FROM jobs WHERE user_id = ${person}::uuid
        UNION SELECT j.id FROM jobs j JOIN letters l ON j.id = l.original_job_id AND j.app_id = l.app_id
        UNION SELECT j.id FROM jobs j JOIN copies c ON j.id = c.original_job_id AND j.app_id = c.app_id WHERE c.is_out),
      held_letters AS MATERIALIZED (
        SELECT d.id FROM job_dlq d
        WHERE d.id IN (SELECT id FROM letters) AND ${matches}
        ORDER BY d.original_job_id, d.id
        FOR UPDATE OF d ${waiting}),
      held_copies AS MATERIALIZED (
        SELECT e.id FROM job_dlq_events e
        WHERE e.id IN (SELECT id FROM copies) AND ${isFull} AND (SELECT count(*) FROM held_letters) >= 0
        ORDER BY e.id
        FOR UPDATE OF e ${waiting}),
      held_jobs AS MATERIALIZED (
        SELECT j.id FROM jobs j
        WHERE j.id IN (SELECT id FROM owned) AND (SELECT count(*) FROM held_copies) >= 0
        ORDER BY j.id
        FOR UPDATE OF j ${waiting})`;
  };

  // Two statements, because one that waits goes on with the snapshot from before: it would overlook the copy of a letter that was
  // discarded meanwhile, take a restored one for discarded, and leave a job alone that a replay made anew. The second one sees
  // what became of all that the first one waited for, and does not wait itself: who holds jobs and waits for letters meets a
  // replay that does the opposite.
  const eraseOnce = (filter: JobDlqFilter, actor: string, reason: string | null) =>
    Effect.gen(function* () {
      yield* sql`WITH ${lock(filter, sql``)} SELECT count(*) FROM held_jobs`;
      const rows = yield* sql`
        WITH ${lock(filter, sql`SKIP LOCKED`)},
        gone AS (
          DELETE FROM job_dlq d USING held_letters l WHERE d.id = l.id
          RETURNING d.id, d.app_id, d.original_job_id, d.type, d.error_reason, d.attempts),
        emptied AS (
          UPDATE job_dlq_events e SET entry = NULL, detail = NULL FROM held_copies h WHERE e.id = h.id),
        removed AS (
          SELECT c.* FROM copies c WHERE c.is_out AND c.id IN (SELECT id FROM held_copies)),
        blanked AS (
          UPDATE jobs j
          SET payload = 'null', error_history = '[]', progress = NULL, dedupe_key = NULL, user_id = NULL, request_id = NULL,
            locked_by = NULL, locked_until = NULL,
            status = CASE WHEN j.status IN ('pending', 'processing') THEN 'cancelled' ELSE j.status END,
            completed_at = COALESCE(j.completed_at, now()), fence = nextval('job_fence')
          FROM held_jobs h
          WHERE j.id = h.id
          RETURNING old.status IN ('pending', 'processing') AS cancelled),
        ledger AS (
          INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, detail)
          SELECT app_id, id, original_job_id, 'erased', ${actor}, ${reason}::text,
            jsonb_build_object('source', 'table', 'type', type, 'reason', error_reason, 'attempts', attempts)
          FROM gone
          UNION ALL
          SELECT app_id, dlq_id, original_job_id, 'erased', ${actor}, ${reason}::text,
            jsonb_build_object('source', 'ledger', 'type', type, 'reason', reason, 'attempts', attempts)
          FROM removed)
        SELECT (SELECT count(*) FROM gone)::int AS letters, (SELECT count(*) FROM removed)::int AS copies,
          (SELECT count(*) FROM blanked WHERE cancelled)::int AS jobs_cancelled, (SELECT count(*) FROM blanked)::int AS jobs_emptied,
          ARRAY(SELECT r.dlq_id FROM removed r WHERE NOT EXISTS (SELECT FROM job_dlq d WHERE d.id = r.dlq_id)) AS absent,
          ((SELECT count(*) FROM letters) - (SELECT count(*) FROM held_letters)
            + (SELECT count(*) FROM copies) - (SELECT count(*) FROM held_copies)
            + (SELECT count(*) FROM owned) - (SELECT count(*) FROM held_jobs))::int AS missed`;
      const [{ absent, missed, ...found }] = yield* Effect.orDie(decode(rows));
      // A copy that the first statement did not see is locked by the second one after its snapshot: a restore or an import that
      // committed in between has put the letter into the table unseen. From the lock on none can.
      const back = absent.length === 0 ? [] : yield* sql`SELECT id FROM job_dlq WHERE id = ANY (${absent}::uuid[])`;
      return missed + back.length > 0 ? yield* new Moved() : new ErasureReceipt(found);
    });

  /**
   * `{ userId }` alone is a person: all their dead letters, pending, replayed or discarded, and all their jobs. Any other filter
   * takes the dead letters that it matches and their jobs: in every state, discarded and expired ones in the ledger included, or only
   * in the state that it names. `all` and `state: "any"` change nothing. Unlike `preview`, whose default is `pending`: look with
   * `state: "any"` before. Replaying an erased id answers `erased`.
   */
  const erase = Effect.fn("jobDlq.erase")(function* (
    filter: JobDlqFilter,
    options: { readonly actor: string; readonly reason?: string | undefined },
  ) {
    const operation = "jobDlq.erase";
    const actor = yield* actorOf(operation, options.actor);
    const reason = options.reason === undefined ? null : yield* reasonOf(operation, options.reason);
    const checked = yield* checkChange(operation, filter);
    // Rolled back first, so that what it waits for the next time is not held up by it.
    const erased: Effect.Effect<ErasureReceipt, SqlError> = withTransaction(sql)(
      eraseOnce(checked, actor, reason),
    ).pipe(Effect.catchTag("Moved", () => erased));
    return yield* erased.pipe(refused(operation));
  });

  return { erase };
});
