/**
 * Erasure: removes one person's data from the queue, for good.
 *
 * Contract: one transaction. The dead letters leave the table; the ledger keeps that there was one, its type, reason and number of
 * attempts, and who erased it, while the copies and payload differences that it held become NULL, those of earlier events too.
 * Unfinished jobs are cancelled, and in all of them payload becomes JSON null, the error history empty, user and request NULL.
 * What is dead-lettered, discarded or restored at the same moment is erased as well: it looks again until it finds nothing more.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { actorOf, reasonOf } from "../arguments.js";
import { refused } from "../refusal.js";
import { classify } from "../sql-state.js";
import { withTransaction } from "../transaction.js";
import { checkChange, compileFilter, type JobDlqFilter } from "./filter.js";

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

export const makeErasure = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decode = S.decodeUnknown(S.Tuple(S.Struct({ ...ErasureReceipt.fields, events: S.Int })));

  const eraseOnce = (filter: JobDlqFilter, actor: string, reason: string | null) => {
    const { ids, state: _, userId, ...rest } = filter;
    const others = Object.keys(rest).length > 0;
    // A user alone is a person, whose jobs and discarded letters go too; ids alone name discarded ones as well.
    const person = ids === undefined && !others ? (userId ?? null) : null;
    const named = userId === undefined && !others ? (ids ?? []) : [];
    return sql`
      WITH locked AS MATERIALIZED (
        SELECT d.id FROM job_dlq d
        WHERE ${compileFilter(sql, { ...filter, state: filter.state ?? "any" })}
        ORDER BY d.original_job_id, d.id
        FOR UPDATE OF d),
      letters AS (
        DELETE FROM job_dlq d USING locked l WHERE d.id = l.id
        RETURNING d.id, d.app_id, d.original_job_id, d.type, d.error_reason, d.attempts),
      copies AS MATERIALIZED (
        SELECT e.* FROM job_dlq_events e
        WHERE e.id IN (
            SELECT id FROM job_dlq_events WHERE user_id = ${person}::uuid
            UNION SELECT id FROM job_dlq_events WHERE dlq_id = ANY (${named}::uuid[])
            UNION SELECT o.id FROM job_dlq_events o JOIN letters l ON o.original_job_id = l.original_job_id AND o.app_id = l.app_id)
          AND e.kind NOT IN ('erased', 'purged') AND (e.entry IS NOT NULL OR e.detail IS NOT NULL)
        ORDER BY e.id
        FOR UPDATE OF e),
      emptied AS (
        UPDATE job_dlq_events e SET entry = NULL, detail = NULL FROM copies c WHERE e.id = c.id),
      removed AS (
        SELECT c.* FROM copies c
        WHERE c.entry IS NOT NULL AND NOT EXISTS (SELECT FROM job_dlq_events u WHERE u.undoes = c.id)),
      owned AS (
        SELECT id FROM jobs WHERE user_id = ${person}::uuid
        UNION SELECT original_job_id FROM letters
        UNION SELECT original_job_id FROM removed),
      blanked AS (
        UPDATE jobs j
        SET payload = 'null', error_history = '[]', user_id = NULL, request_id = NULL, locked_by = NULL, locked_until = NULL,
          status = CASE WHEN j.status IN ('pending', 'processing') THEN 'cancelled' ELSE j.status END,
          completed_at = COALESCE(j.completed_at, now()), fence = nextval('job_fence')
        FROM owned o
        WHERE j.id = o.id
          AND (j.user_id = ${person}::uuid
            OR j.app_id IN (SELECT app_id FROM letters l WHERE l.original_job_id = j.id)
            OR j.app_id IN (SELECT app_id FROM removed r WHERE r.original_job_id = j.id))
        RETURNING old.status IN ('pending', 'processing') AS cancelled),
      ledger AS (
        INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, detail)
        SELECT app_id, id, original_job_id, 'erased', ${actor}, ${reason}::text,
          jsonb_build_object('source', 'table', 'type', type, 'reason', error_reason, 'attempts', attempts)
        FROM letters
        UNION ALL
        SELECT app_id, dlq_id, original_job_id, 'erased', ${actor}, ${reason}::text,
          jsonb_build_object('source', 'ledger', 'type', entry -> 'type', 'reason', entry -> 'error_reason', 'attempts', entry -> 'attempts')
        FROM removed)
      SELECT (SELECT count(*) FROM letters)::int AS letters, (SELECT count(*) FROM removed)::int AS copies,
        (SELECT count(*) FROM copies)::int AS events,
        (SELECT count(*) FROM blanked WHERE cancelled)::int AS jobs_cancelled, (SELECT count(*) FROM blanked)::int AS jobs_emptied`;
  };

  // Replay locks letters, then jobs; this does too, but looks at letters again when it has the jobs.
  const isDeadlock = (error: unknown) => error instanceof SqlError && classify(error) === "Deadlock";

  /**
   * `{ userId }` alone is a person: all their dead letters, pending, replayed or discarded, and all their jobs. Any other filter
   * takes the dead letters that it matches (in every state, unless it names one) and their jobs; `{ ids }` alone also those that
   * were discarded. Replaying an erased id answers `erased`.
   */
  const erase = Effect.fn("jobDlq.erase")(function* (
    filter: JobDlqFilter,
    options: { readonly actor: string; readonly reason?: string | undefined },
  ) {
    const operation = "jobDlq.erase";
    const actor = yield* actorOf(operation, options.actor);
    const reason = options.reason === undefined ? null : yield* reasonOf(operation, options.reason);
    const checked = yield* checkChange(operation, filter);
    const all = Effect.gen(function* () {
      const total = { letters: 0, copies: 0, jobsCancelled: 0, jobsEmptied: 0 };
      for (;;) {
        const rows = yield* eraseOnce(checked, actor, reason);
        const [found] = yield* Effect.orDie(decode(rows));
        if (found.letters + found.events + found.jobsEmptied === 0) return new ErasureReceipt(total);
        total.letters += found.letters;
        total.copies += found.copies;
        total.jobsCancelled += found.jobsCancelled;
        total.jobsEmptied += found.jobsEmptied;
      }
    });
    return yield* withTransaction(sql)(all).pipe(Effect.retry({ while: isDeadlock, times: 5 }), refused(operation));
  });

  return { erase };
});
