/**
 * Replay: brings the same jobs back to life under their own ids, with a full attempt budget, each dead letter once.
 *
 * Contract: one statement a batch, so a letter is replayed together with its job and its line in the ledger, or not at all. A
 * replayed letter has a living job. Callers at the same time do not replay anything twice. Payloads are copied inside the
 * database, never decoded and encoded on the way.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { actorOf, idsOf, millisOf, payloadOf } from "../arguments.js";
import { InvalidInput } from "../errors.js";
import { type QueryError, refused } from "../refusal.js";
import { type BulkError, type BulkOptions, inBatches, type NoBulkOptions, noBulkOf } from "./bulk.js";
import type { JobDlqFilter } from "./filter.js";
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
 * What became of one id of a replay. `replayed`: its job is pending again · `already gone`: replayed, discarded or expired before,
 * or by another caller just now · `job not dead`: its job runs, waits, has ended well, is a newer dead letter's to revive, or its id
 * is that of another app's job; this one stays pending · `erased`: its person's data was removed · `not found`: no such dead letter in this scope.
 */
export const ReplayOutcome = S.Literal("replayed", "already gone", "job not dead", "erased", "not found");
export type ReplayOutcome = typeof ReplayOutcome.Type;

/** The receipt for one id. */
export class ReplayReceipt extends S.Class<ReplayReceipt>("ReplayReceipt")({ id: S.UUID, outcome: ReplayOutcome }) {}

export interface ReplayOptions {
  /** Who asks for it; the ledger keeps it. */
  readonly actor: string;
  /**
   * The jobs get this payload instead of their own. The dead letters keep the original, and the ledger the difference. It must be
   * what the job's type expects: that is not checked here.
   */
  readonly payload?: unknown;
  /** The jobs are due only after this time. Default: at once. */
  readonly delay?: Duration.DurationInput | undefined;
}

export type ReplayProgress = Progress<ReplayReceipt>;

export interface Replay {
  /**
   * Up to 10,000 dead letters by id, in one statement: a receipt per distinct id, in the order of the input. A job that was
   * purged is made anew with its type's defaults. Of several pending letters of one job only the newest is replayed.
   */
  (
    ids: ReadonlyArray<string>,
    options: ReplayOptions & NoBulkOptions,
  ): Effect.Effect<ReadonlyArray<ReplayReceipt>, QueryError>;
  /**
   * Every pending dead letter that the filter matches, but of each job only its newest pending one: see {@link BulkOptions} and
   * `bulk.ts`. Emits the progress after each batch.
   */
  (filter: JobDlqFilter, options: ReplayOptions & BulkOptions): Stream.Stream<ReplayProgress, QueryError | BulkError>;
}

const operation = "jobDlq.replay";

export const makeReplay = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const readBatch = batchOf(ReplayReceipt, "replayed");

  const change = (options: ReplayOptions) =>
    Effect.gen(function* () {
      const actor = yield* actorOf(operation, options.actor);
      const delay = yield* millisOf(operation, "delay", options.delay ?? 0);
      if (delay < 0) return yield* new InvalidInput({ operation, field: "delay", problem: "is less than 0" });
      const payload = "payload" in options ? yield* payloadOf(operation, "payload", options.payload) : null;
      const isOverride = payload !== null;
      const newPayload = isOverride ? sql`${payload}::jsonb` : sql`c.payload`;
      const detail = isOverride
        ? sql`jsonb_strip_nulls(jsonb_build_object('user_id', r.user_id)) || jsonb_build_object('payload_diff', job_dlq_json_diff(r.payload, ${payload}::jsonb))`
        : sql`NULL::jsonb`;
      const due = delay === 0 ? sql`now()` : sql`now() + ${delay}::float8 * interval '1 millisecond'`;

      // The jobs are locked first, in the order of their ids: two replays of different letters of the same jobs, and an erasure or
      // a purge of jobs beside one, would otherwise wait for each other in a circle, because the planner orders the update as it
      // likes. A job comes back in one of two ways, and neither touches a living job or another app's: a dead one is updated (its state
      // checked again after any wait), a purged one is inserted, where an id that is taken, visible or not, is left alone. ON
      // CONFLICT DO UPDATE would raise 42501 on another tenant's job.
      return (asked: Asked) =>
        sql`
          WITH ${lockPending(sql, asked, asked.isBatch)},
          chosen AS MATERIALIZED (
            SELECT newest.*
            FROM (SELECT DISTINCT ON (original_job_id, app_id) * FROM locked ORDER BY original_job_id, app_id, dlq_at DESC, id DESC) newest
            WHERE newest.id IN (SELECT id FROM asked)),
          held AS MATERIALIZED (
            SELECT j.id FROM jobs j WHERE j.id IN (SELECT original_job_id FROM chosen)
            ORDER BY j.id
            FOR UPDATE OF j),
          revived AS (
            UPDATE jobs j
            SET updated_at = now(), status = 'pending', attempts = 0, error_history = '[]', payload = ${newPayload}, scheduled_at = ${due},
              started_at = NULL, completed_at = NULL, locked_by = NULL, locked_until = NULL, fence = nextval('job_fence'),
              replays = j.replays + 1, dedupe_key = NULL, suspect = false, in_company = false, progress = NULL
            FROM chosen c
            WHERE j.id = c.original_job_id AND j.app_id = c.app_id AND j.status = 'dead' AND (SELECT count(*) FROM held) > 0
            RETURNING j.id, j.app_id),
          remade AS (
            INSERT INTO jobs (id, app_id, user_id, request_id, type, payload, scheduled_at, replays)
            SELECT c.original_job_id, c.app_id, c.user_id, c.request_id, c.type, ${newPayload}, ${due},
              1 + (SELECT count(e.replayed_at) FROM job_dlq e WHERE e.original_job_id = c.original_job_id AND e.app_id = c.app_id)
            FROM chosen c
            WHERE c.original_job_id NOT IN (SELECT id FROM held)
            ORDER BY c.original_job_id, c.app_id
            ON CONFLICT (id) DO NOTHING
            RETURNING id, app_id),
          replayed AS (
            UPDATE job_dlq d SET updated_at = now(), replayed_at = now()
            FROM chosen c
            JOIN (SELECT * FROM revived UNION ALL SELECT * FROM remade) r ON r.id = c.original_job_id AND r.app_id = c.app_id
            WHERE d.id = c.id AND d.replayed_at IS NULL
            RETURNING d.id, d.app_id, d.original_job_id, d.user_id, d.payload),
          ledger AS (
            INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, detail)
            SELECT r.app_id, r.id, r.original_job_id, 'replayed', ${actor}, ${detail} FROM replayed r)
          SELECT a.id, a.at,
            CASE
              WHEN a.id IN (SELECT id FROM replayed) THEN 'replayed'
              WHEN a.id NOT IN (SELECT id FROM seen) THEN ${goneOutcome(sql)}
              WHEN a.id NOT IN (SELECT id FROM locked) THEN 'already gone'
              ELSE 'job not dead'
            END AS outcome
          FROM asked a
          ORDER BY a.place`.pipe(refused(operation), Effect.flatMap(readBatch));
    });

  const byIds = Effect.fn(operation)(function* (ids: ReadonlyArray<string>, options: ReplayOptions & BulkOptions) {
    const replay = yield* change(options);
    yield* noBulkOf(operation, options);
    yield* idsOf(operation, ids);
    return ids.length === 0 ? [] : (yield* replay(askedIds(sql, ids))).value;
  });

  const byFilter = (filter: JobDlqFilter, options: ReplayOptions & BulkOptions) =>
    Effect.gen(function* () {
      const replay = yield* change(options);
      const checked = yield* checkPendingChange(operation, filter);
      return inBatches(sql, operation, checked, options, (asked) => replay(askedBatch(sql)(asked)));
    }).pipe(
      Stream.unwrap,
      Stream.mapAccum(noProgress<ReplayReceipt>(ReplayOutcome.literals), (before, receipts) => {
        const progress = progressed(before, receipts);
        return [progress, progress];
      }),
      Stream.withSpan(operation),
    );

  // By what is passed, one of the two: a cast past `unknown`, because TypeScript cannot tell the overloads of an arrow apart.
  const replay = ((what: ReadonlyArray<string> | JobDlqFilter, options: ReplayOptions & BulkOptions) =>
    isIds(what) ? byIds(what, options) : byFilter(what, options)) as unknown as Replay;
  return { replay };
});
