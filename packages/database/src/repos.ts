/**
 * The repositories and `DatabaseService`, which holds them: the statements on apps and jobs, and the plain ones on dead
 * letters. What operators do with those (replay, discard, retention, stats, export …) stands in `job-dlq/`, each in a module.
 *
 * Contract: a method is one statement unless its doc says otherwise, so it happens whole or not at all; it sees what the open
 * scope sees (`Client.tenant`, `Client.system`); claims and settlements are fenced, replays happen once. Beside the errors
 * that a method names, each may fail with `SqlError`, `AccessDenied` and `InvalidInput`.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as S from "effect/Schema";
import { actorOf, millisOf, show, uuidOf } from "./arguments.js";
import { boundHistory, boundText, errorText, historyHead, maxHistory } from "./error-text.js";
import {
  InvalidInput,
  JobDlqAlreadyReplayed,
  JobDlqNotFound,
  JobExhausted,
  JobNotFound,
  JobNotHeld,
} from "./errors.js";
import { limitOf, repo } from "./factory.js";
import { makeChanges } from "./job-dlq/changes.js";
import { makeDiscard } from "./job-dlq/discard.js";
import { makeErasure } from "./job-dlq/erasure.js";
import { makeInsight } from "./job-dlq/insight.js";
import { makeLedger, replayedElsewhere } from "./job-dlq/ledger.js";
import { makeLineage } from "./job-dlq/lineage.js";
import { type JobDlqPage, newestFirst, newestOnly, type PageOptions } from "./job-dlq/page.js";
import { quickLetter } from "./job-dlq/quick-letter.js";
import { makeReplay } from "./job-dlq/replay.js";
import { makeRetention } from "./job-dlq/retention.js";
import { makeTransfer } from "./job-dlq/transfer.js";
import { App, Job, JobDlq, JobDlqReason, JobStatus } from "./models.js";
import { refused, refusedWrite } from "./refusal.js";
import { decodeCount, encoderOf, type Insert, lookedAt, rowsOf } from "./rows.js";
import { withTransaction } from "./transaction.js";

// --- bulk inserts ------------------------------------------------------------

const deadReasonOf = (operation: string, reason: JobDlqReason) =>
  S.is(JobDlqReason)(reason)
    ? Effect.succeed(reason)
    : new InvalidInput({
        operation,
        field: "reason",
        problem: `is ${show(reason)}; it must be one of ${JobDlqReason.literals.join(", ")}`,
      });

/** Rows in one statement of a bulk insert; what bounds its memory. */
const chunkSize = 10_000;

/** Checks rows up to the first that does not fit, a thousand without a pause for others. */
const allChecked = <A, B, E>(rows: ReadonlyArray<A>, check: (row: A, place: number) => Either.Either<B, E>) =>
  Effect.gen(function* () {
    const checked: Array<B> = [];
    for (let place = 0; place < rows.length; place++) {
      if (place > 0 && place % 1000 === 0) yield* Effect.yieldNow();
      checked.push(yield* check(rows[place] as A, place));
    }
    return checked;
  });

/** Writes any number of rows in one transaction, each chunk of them in one statement. All or none. */
const inChunks = <A, B, E, R>(
  sql: SqlClient.SqlClient,
  rows: ReadonlyArray<A>,
  write: (chunk: ReadonlyArray<A>) => Effect.Effect<B, E, R>,
) => {
  const chunks: Array<ReadonlyArray<A>> = [];
  for (let i = 0; i < rows.length; i += chunkSize) chunks.push(rows.slice(i, i + chunkSize));
  const all = Effect.forEach(chunks, write);
  return chunks.length > 1 ? withTransaction(sql)(all) : all;
};

// --- [APPS] ------------------------------------------------------------------

export const makeAppRepo = Effect.gen(function* () {
  const apps = yield* repo(App, "apps", {});
  return {
    ...apps,
    /** The app, if the scope sees it. In a tenant scope that is the tenant itself and no other. */
    get: Effect.fn("apps.get")(function* (id: string) {
      return yield* apps.one({ id: yield* uuidOf("apps.get", "id", id) });
    }),
  };
});

// --- [JOBS] ------------------------------------------------------------------

/** What a claimed job is settled with: `fence` is the claimed job's. */
export interface Held {
  readonly id: string;
  readonly fence: bigint;
}

export const makeJobRepo = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const jobs = yield* repo(Job, "jobs", { purge: "purge_jobs" });
  const read = rowsOf(Job, "jobs");
  const dead = rowsOf(JobDlq, "job_dlq", quickLetter);
  const encode = encoderOf(Job);
  const encodedRows = S.decodeUnknown(S.Array(S.Struct({ id: S.String })));
  const decodeHeld = S.decodeUnknown(
    S.Array(S.Struct({ status: JobStatus, fence: S.BigInt, attempts: S.Int, maxAttempts: S.Int })),
  );

  const checked = (operation: string, job: Insert<typeof Job.insert.Type>, prefix = "") =>
    Either.filterOrLeft(
      encode(operation, job, prefix),
      ({ type }) => typeof type !== "string" || type.trim() !== "",
      () => new InvalidInput({ operation, field: `${prefix}type`, problem: "is blank" }),
    );

  // Appends to a bounded history inside the database: the entry's time is the database's, in milliseconds.
  const withError = (error: string) => sql`
    CASE WHEN jsonb_array_length(error_history) >= ${maxHistory}::int THEN error_history - ${historyHead}::int ELSE error_history END
    || jsonb_build_object('error', ${error}::text, 'timestamp', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)`;

  /** Why a settlement matched no row. */
  const notHeld = (operation: string, id: string) =>
    Effect.gen(function* () {
      const rows = yield* sql`SELECT status, fence, attempts, max_attempts FROM jobs WHERE id = ${id}`.pipe(
        refused(operation),
      );
      const [job] = yield* Effect.orDie(decodeHeld(rows));
      return job === undefined ? yield* new JobNotFound({ id }) : job;
    });

  return {
    ...jobs,

    /** The job, if the scope sees it. */
    get: Effect.fn("jobs.get")(function* (id: string) {
      return yield* jobs.one({ id: yield* uuidOf("jobs.get", "id", id) });
    }),

    /** Submits a job: pending, due at `scheduledAt` (default now). Fails with `AppNotFound`. */
    enqueue: Effect.fn("jobs.enqueue")(function* (job: Insert<typeof Job.insert.Type>) {
      const columns = yield* checked("jobs.enqueue", job);
      const rows = yield* sql`INSERT INTO jobs ${sql.insert(columns).returning("*")}`.pipe(
        refusedWrite("jobs.enqueue", [columns.appId]),
      );
      return yield* read.only(rows);
    }),

    /**
     * Submits any number of jobs, all or none; returns their ids in the order of the input.
     * More than 10,000 take several statements in one transaction. Fails with `AppNotFound`.
     */
    enqueueMany: Effect.fn("jobs.enqueueMany")(function* (input: ReadonlyArray<Insert<typeof Job.insert.Type>>) {
      const operation = "jobs.enqueueMany";
      const rows = yield* allChecked(input, (job, i) => checked(operation, job, `jobs[${i}].`));
      const ids = yield* inChunks(sql, rows, (chunk) => {
        const column = (name: string) => chunk.map((row) => row[name] ?? null);
        return sql`
          WITH submitted AS MATERIALIZED (
            SELECT uuidv7() AS id, t.* FROM unnest(
              ${column("appId")}::uuid[], ${column("userId")}::uuid[], ${column("requestId")}::uuid[], ${column("type")}::text[],
              ${column("payload")}::text[], ${column("priority")}::job_priority[], ${column("maxAttempts")}::int[],
              ${column("scheduledAt")}::timestamptz[]
            ) WITH ORDINALITY AS t (app_id, user_id, request_id, type, payload, priority, max_attempts, scheduled_at, place)),
          inserted AS (
            INSERT INTO jobs (id, app_id, user_id, request_id, type, payload, priority, max_attempts, scheduled_at)
            SELECT id, app_id, user_id, request_id, type, payload::jsonb, COALESCE(priority, 'normal'),
              COALESCE(max_attempts, 5), COALESCE(scheduled_at, now())
            FROM submitted)
          SELECT id FROM submitted ORDER BY place`.pipe(
          refusedWrite(operation, column("appId")),
          Effect.flatMap((_) => Effect.orDie(encodedRows(_))),
        );
      });
      return ids.flat().map(({ id }) => id);
    }),

    /**
     * Takes up to `limit` due jobs for a runner: each is processing, has one more attempt, a new fence and a lease until
     * `locked_until`. By priority, then by time. Two callers never get the same job; none waits for the other.
     * `lease` default 30 seconds; `limit` default 100.
     */
    claim: Effect.fn("jobs.claim")(function* (options: {
      readonly runner: string;
      readonly limit?: number;
      readonly lease?: Duration.DurationInput;
      readonly types?: ReadonlyArray<string>;
    }) {
      const operation = "jobs.claim";
      const limit = yield* limitOf(operation, options.limit);
      const lease = yield* millisOf(operation, "lease", options.lease ?? "30 seconds");
      if (options.runner.trim() === "")
        return yield* new InvalidInput({ operation, field: "runner", problem: "is blank" });
      const ofType = options.types === undefined ? sql`` : sql`AND type = ANY (${options.types}::text[])`;
      const rows = yield* sql`
        WITH due AS MATERIALIZED (
          SELECT id FROM jobs
          WHERE status = 'pending' AND scheduled_at <= now() ${ofType}
          ORDER BY priority, scheduled_at, id
          LIMIT ${limit}
          FOR UPDATE SKIP LOCKED),
        claimed AS (
          UPDATE jobs j
          SET status = 'processing', attempts = j.attempts + 1, started_at = now(), locked_by = ${options.runner},
            locked_until = now() + ${lease}::float8 * interval '1 millisecond', fence = nextval('job_fence')
          FROM due
          WHERE j.id = due.id AND j.status = 'pending'
          RETURNING j.*)
        SELECT * FROM claimed ORDER BY priority, scheduled_at, id`.pipe(refused(operation));
      return yield* read.good(rows);
    }),

    /** The claimed job is done. Fails with `JobNotHeld` when the claim is no longer this one, and with `JobNotFound`. */
    complete: Effect.fn("jobs.complete")(function* ({ fence, id }: Held) {
      const operation = "jobs.complete";
      yield* uuidOf(operation, "id", id);
      const rows = yield* sql`
        UPDATE jobs SET status = 'completed', completed_at = now(), locked_by = NULL, locked_until = NULL
        WHERE id = ${id} AND fence = ${String(fence)}::bigint AND status = 'processing'
        RETURNING *`.pipe(refused(operation));
      if (rows.length === 0) {
        const { status } = yield* notHeld(operation, id);
        return yield* new JobNotHeld({ operation, id, status });
      }
      return yield* read.only(rows);
    }),

    /**
     * The claimed job failed and waits for its next attempt after `delay` (default none); `error` joins its history.
     * Fails with `JobExhausted` when it had its last attempt, with `JobNotHeld` and `JobNotFound`.
     */
    retry: Effect.fn("jobs.retry")(function* (
      options: Held & { readonly error: unknown; readonly delay?: Duration.DurationInput },
    ) {
      const operation = "jobs.retry";
      const id = yield* uuidOf(operation, "id", options.id);
      const delay = yield* millisOf(operation, "delay", options.delay ?? 0);
      const rows = yield* sql`
        UPDATE jobs
        SET status = 'pending', error_history = ${withError(errorText(options.error))},
          scheduled_at = now() + ${delay}::float8 * interval '1 millisecond', locked_by = NULL, locked_until = NULL
        WHERE id = ${id} AND fence = ${String(options.fence)}::bigint AND status = 'processing' AND attempts < max_attempts
        RETURNING *`.pipe(refused(operation));
      if (rows.length === 0) {
        const { attempts, fence, maxAttempts, status } = yield* notHeld(operation, id);
        return yield* status === "processing" && fence === options.fence
          ? new JobExhausted({ id, attempts, maxAttempts })
          : new JobNotHeld({ operation, id, status });
      }
      return yield* read.only(rows);
    }),

    /**
     * The job will not be tried again by itself: it turns dead and its dead letter is inserted, or neither. `error` joins
     * the history; the payload is copied inside the database. Returns the dead letter.
     * With `fence` only while that claim holds the job, without it while the job is pending or processing.
     * Fails with `JobNotHeld` when it has ended or another claim has it, and with `JobNotFound`.
     */
    deadLetter: Effect.fn("jobs.deadLetter")(function* (options: {
      readonly id: string;
      readonly reason: JobDlqReason;
      readonly error: unknown;
      readonly fence?: bigint;
    }) {
      const operation = "jobs.deadLetter";
      const id = yield* uuidOf(operation, "id", options.id);
      const reason = yield* deadReasonOf(operation, options.reason);
      const held =
        options.fence === undefined
          ? sql`status IN ('pending', 'processing')`
          : sql`status = 'processing' AND fence = ${String(options.fence)}::bigint`;
      const rows = yield* sql`
        WITH dead AS (
          UPDATE jobs
          SET status = 'dead', completed_at = now(), locked_by = NULL, locked_until = NULL,
            error_history = ${withError(errorText(options.error))}
          WHERE id = ${id} AND ${held}
          RETURNING *)
        INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, request_id, user_id)
        SELECT id, app_id, type, payload, ${reason}, attempts, error_history, request_id, user_id FROM dead
        RETURNING *`.pipe(refused(operation));
      if (rows.length === 0) {
        const { status } = yield* notHeld(operation, id);
        return yield* new JobNotHeld({ operation, id, status });
      }
      return yield* dead.only(rows);
    }),

    /**
     * Ends the runs whose lease is over (their runner vanished), up to `limit` (default 100): each attempt gets its entry in
     * the history; a job with attempts left is pending again, the others are dead-lettered as RunnerUnavailable.
     * A run that a worker package marked as one in company is never dead-lettered, because any of the others may have ended its
     * runner: it waits as a suspect, with its last attempt back if that was it.
     * After a start of the server it leaves every run alone for `grace` (default none), so that runners that are still there
     * can renew their leases first.
     * Safe beside runners and beside itself. Returns how many of each, and which were dead-lettered.
     */
    rescue: Effect.fn("jobs.rescue")(function* (
      options: { readonly limit?: number; readonly grace?: Duration.DurationInput } = {},
    ) {
      const operation = "jobs.rescue";
      const limit = yield* limitOf(operation, options.limit);
      const grace = yield* millisOf(operation, "grace", options.grace ?? 0);
      const rows = yield* sql`
        WITH lost AS MATERIALIZED (
          SELECT id, fence, locked_by FROM jobs
          WHERE status = 'processing' AND locked_until < now()
            AND pg_postmaster_start_time() <= now() - ${grace}::float8 * interval '1 millisecond'
          ORDER BY locked_until, id
          LIMIT ${limit}
          FOR UPDATE SKIP LOCKED),
        ended AS (
          UPDATE jobs j
          SET status = CASE WHEN j.in_company OR j.attempts < j.max_attempts THEN 'pending' ELSE 'dead' END,
            completed_at = CASE WHEN j.in_company OR j.attempts < j.max_attempts THEN NULL ELSE now() END,
            attempts = CASE WHEN j.in_company THEN LEAST(j.attempts, j.max_attempts - 1) ELSE j.attempts END,
            suspect = j.in_company OR j.attempts < j.max_attempts, in_company = false,
            locked_by = NULL, locked_until = NULL, fence = nextval('job_fence'),
            error_history =
              CASE WHEN jsonb_array_length(j.error_history) >= ${maxHistory}::int THEN j.error_history - ${historyHead}::int ELSE j.error_history END
              || jsonb_build_object('error', 'RunnerUnavailable: runner ' || lost.locked_by || ' vanished during attempt ' || j.attempts,
                   'timestamp', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
          FROM lost
          WHERE j.id = lost.id AND j.fence = lost.fence AND j.status = 'processing'
          RETURNING j.*),
        buried AS (
          INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, request_id, user_id)
          SELECT id, app_id, type, payload, 'RunnerUnavailable', attempts, error_history, request_id, user_id
          FROM ended WHERE status = 'dead')
        SELECT (count(*) FILTER (WHERE status = 'pending'))::int AS retried, (count(*) FILTER (WHERE status = 'dead'))::int AS dead_lettered,
          COALESCE(jsonb_agg(jsonb_build_object('jobId', id, 'appId', app_id, 'type', type, 'attempts', attempts, 'requestId', request_id))
            FILTER (WHERE status = 'dead'), '[]') AS dead_letters
        FROM ended`.pipe(refused(operation));
      const [rescued] = yield* Effect.orDie(decodeRescued(rows));
      return rescued;
    }),
  };
});

/** A job whose runner vanished on its last attempt. */
export const Abandoned = S.Struct({
  jobId: S.UUID,
  appId: S.UUID,
  type: S.String,
  attempts: S.Int,
  requestId: S.NullOr(S.UUID),
});
export type Abandoned = typeof Abandoned.Type;

const decodeRescued = S.decodeUnknown(
  S.Tuple(S.Struct({ retried: S.Int, deadLettered: S.Int, deadLetters: S.parseJson(S.Array(Abandoned)) })),
);

// --- [JOBS: JOB_DLQ] ---------------------------------------------------------

/** A place in the list of pending dead letters. `type` is exact; `limit` 1 to 1,000, default 100; `cursor` the `next` of a page. */
export interface PendingOptions extends PageOptions {
  readonly type?: string;
}

export const makeJobDlqRepo = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  // What was dead-lettered stays as it was, and what becomes of it goes through an operation that the ledger sees.
  const dlq = yield* repo(JobDlq, "job_dlq", {
    purge: "purge_job_dlq",
    fixed: ["originalJobId", "appId", "payload", "attempts", "errorHistory", "replayedAt", "requestId", "userId"],
  });
  const read = rowsOf(JobDlq, "job_dlq", quickLetter);
  const encode = encoderOf(JobDlq);
  const decodeReplayedAt = S.decodeUnknown(S.Array(S.Struct({ replayedAt: S.DateFromSelf })));

  /** Whatever the error texts are, the dead letter can be stored. Anything else that does not fit is the encoder's to refuse. */
  const bounded = (entry: Insert<typeof JobDlq.insert.Type>) =>
    Array.isArray(entry?.errorHistory)
      ? {
          ...entry,
          errorHistory: boundHistory(entry.errorHistory).map((attempt) =>
            typeof attempt?.error === "string" ? { ...attempt, error: boundText(attempt.error) } : attempt,
          ),
        }
      : entry;
  const checked = (operation: string, entry: Insert<typeof JobDlq.insert.Type>, prefix = "") =>
    Either.flatMap(
      lookedAt(operation, prefix, () => encode(operation, bounded(entry), prefix)),
      (columns) => {
        const { attempts, type } = columns;
        if (typeof type === "string" && type.trim() === "") {
          return Either.left(new InvalidInput({ operation, field: `${prefix}type`, problem: "is blank" }));
        }
        return typeof attempts === "number" && Number.isInteger(attempts) && attempts >= 0 && attempts <= 2_147_483_647
          ? Either.right(columns)
          : Either.left(
              new InvalidInput({
                operation,
                field: `${prefix}attempts`,
                problem: `is ${attempts}; it must be a whole number, 0 or more`,
              }),
            );
      },
    );

  // JavaScript passes anything, and the driver would write a list as an array.
  const typeOf = (operation: string, { type }: PendingOptions) =>
    type === undefined || typeof type === "string"
      ? Effect.void
      : new InvalidInput({ operation, field: "type", problem: "is no text" });
  const pending = ({ type }: PendingOptions) =>
    sql`d.replayed_at IS NULL ${type === undefined ? sql`` : sql`AND d.type COLLATE "C" = ${type}`}`;

  return {
    ...dlq,
    ...(yield* makeReplay),
    ...(yield* makeDiscard),
    ...(yield* makeLedger),
    ...(yield* makeErasure),
    ...(yield* makeRetention),
    ...(yield* makeTransfer),
    ...(yield* makeChanges),
    ...(yield* makeInsight),
    ...(yield* makeLineage),

    /** The dead letter, if the scope sees it. Fails with `BadRow` when the stored row does not fit the model. */
    get: Effect.fn("jobDlq.get")(function* (id: string) {
      return yield* dlq.one({ id: yield* uuidOf("jobDlq.get", "id", id) });
    }),

    /**
     * Stores a dead letter and returns it as stored. Error texts are made storable and bounded, never refused.
     * Fails with `AppNotFound`; a payload that jsonb would not keep is `InvalidInput` with its JSON path.
     */
    insert: Effect.fn("jobDlq.insert")(function* (entry: Insert<typeof JobDlq.insert.Type>) {
      const columns = yield* checked("jobDlq.insert", entry);
      const rows = yield* sql`INSERT INTO job_dlq ${sql.insert(columns).returning("*")}`.pipe(
        refusedWrite("jobDlq.insert", [columns.appId]),
      );
      return yield* read.only(rows);
    }),

    /** Stores any number of dead letters, all or none; returns how many. More than 10,000 take several statements in one transaction. */
    insertMany: Effect.fn("jobDlq.insertMany")(function* (entries: ReadonlyArray<Insert<typeof JobDlq.insert.Type>>) {
      const operation = "jobDlq.insertMany";
      const rows = yield* allChecked(entries, (entry, i) => checked(operation, entry, `entries[${i}].`));
      const counts = yield* inChunks(sql, rows, (chunk) => {
        const column = (name: string) => chunk.map((row) => row[name] ?? null);
        return sql`
          WITH inserted AS (
            INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at,
              replayed_at, request_id, user_id)
            SELECT original_job_id, app_id, type, payload::jsonb, error_reason, attempts, error_history::jsonb,
              COALESCE(dlq_at, now()), replayed_at, request_id, user_id
            FROM unnest(
              ${column("originalJobId")}::uuid[], ${column("appId")}::uuid[], ${column("type")}::text[],
              ${column("payload")}::text[], ${column("errorReason")}::text[], ${column("attempts")}::int[],
              ${column("errorHistory")}::text[], ${column("dlqAt")}::timestamptz[], ${column("replayedAt")}::timestamptz[],
              ${column("requestId")}::uuid[], ${column("userId")}::uuid[]
            ) AS t (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at,
              request_id, user_id)
            RETURNING 1)
          SELECT count(*)::int AS count FROM inserted`.pipe(
          refusedWrite(operation, column("appId")),
          Effect.flatMap(decodeCount),
        );
      });
      return counts.reduce((sum, count) => sum + count, 0);
    }),

    /**
     * Marks a dead letter as replayed, for a caller who resubmits the work elsewhere, in the same transaction. It revives no
     * job: that is `replay`. The ledger names `actor`, or the login when none is given. Fails with `JobDlqNotFound` and
     * `JobDlqAlreadyReplayed`.
     */
    markReplayed: Effect.fn("jobDlq.markReplayed")(function* (
      id: string,
      options: { readonly actor?: string | undefined } = {},
    ) {
      const operation = "jobDlq.markReplayed";
      yield* uuidOf(operation, "id", id);
      const actor = options.actor === undefined ? null : yield* actorOf(operation, options.actor);
      const rows = yield* sql`
        WITH marked AS (
          UPDATE job_dlq SET replayed_at = now() WHERE id = ${id} AND replayed_at IS NULL RETURNING *),
        ledger AS (
          INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason)
          SELECT app_id, id, original_job_id, 'replayed', COALESCE(${actor}::text, SESSION_USER), ${replayedElsewhere} FROM marked)
        SELECT * FROM marked`.pipe(refused(operation));
      if (rows.length > 0) return yield* read.only(rows);
      const found = yield* sql`SELECT replayed_at FROM job_dlq WHERE id = ${id} AND replayed_at IS NOT NULL`.pipe(
        refused(operation),
        Effect.flatMap((_) => Effect.orDie(decodeReplayedAt(_))),
      );
      return yield* found[0] === undefined
        ? new JobDlqNotFound({ id })
        : new JobDlqAlreadyReplayed({ id, replayedAt: found[0].replayedAt });
    }),

    /** Pending dead letters, newest first by (dlq_at, id). Stored rows that do not fit the model are left out and logged. */
    listPending: Effect.fn("jobDlq.listPending")(function* (options: PendingOptions = {}) {
      yield* typeOf("jobDlq.listPending", options);
      return yield* read.good(yield* newestOnly(sql, "jobDlq.listPending", pending(options), options));
    }),

    /** {@link JobDlqPage}: pending dead letters page by page. Every row that stays pending is visited exactly once. */
    pagePending: Effect.fn("jobDlq.pagePending")(function* (options: PendingOptions = {}) {
      yield* typeOf("jobDlq.pagePending", options);
      const { next, rows } = yield* newestFirst(sql, "jobDlq.pagePending", pending(options), options);
      const result: JobDlqPage = { ...read.partition(rows), next };
      return result;
    }),
  };
});

// --- [SERVICE] ---------------------------------------------------------------

/** All repositories on one client. Its layer needs what `Client.layer` gives. */
export class DatabaseService extends Effect.Service<DatabaseService>()("@parametric-portal/database/DatabaseService", {
  effect: Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    return {
      apps: yield* makeAppRepo,
      jobs: yield* makeJobRepo,
      jobDlq: yield* makeJobDlqRepo,
      /** A transaction; inside another one a savepoint, one after the other. See `transaction.ts`. */
      withTransaction: withTransaction(sql),
    };
  }),
}) {
  /** The service on the client in the context. */
  static readonly layer = this.Default;
}
