/**
 * What a runner and its callers need of the place where jobs are kept. Two of them pass the same suite: `job-store-sql.ts`,
 * PostgreSQL, and `testing.ts`, memory.
 *
 * Contract: a claim gives a job to one runner, under a fence that never repeats. Whatever a runner writes afterwards goes by id
 * and fence and changes nothing once the job is no longer its own.
 */
import type { SqlError } from "@effect/sql/SqlError";
import type { AccessDenied, AppNotFound, InvalidInput } from "@parametric-portal/database/errors";
import type { JobDlqReason, JobPriority, JobStatus } from "@parametric-portal/database/models";
import type { Abandoned } from "@parametric-portal/database/repos";
import * as Context from "effect/Context";
import type * as Effect from "effect/Effect";
import type * as Option from "effect/Option";
import type * as Scope from "effect/Scope";

// --- callers -----------------------------------------------------------------

/** A job that is submitted. */
export interface Submission {
  readonly appId: string;
  readonly userId: string | null;
  readonly requestId: string | null;
  readonly type: string;
  /** JSON text. */
  readonly payload: string;
  readonly priority: JobPriority;
  readonly maxAttempts: number;
  readonly delayMillis: number;
  readonly dedupeKey: string | null;
}

/** What became of a submission: the job, and whether it was there already under the same dedupe key. */
export interface Submitted {
  readonly jobId: string;
  readonly isDuplicate: boolean;
}

/** Where a job stands. */
export interface JobState {
  readonly jobId: string;
  readonly appId: string;
  readonly type: string;
  readonly status: JobStatus;
  readonly attempts: number;
  readonly maxAttempts: number;
  readonly replays: number;
  /** What its handler last reported; null before that. */
  readonly progress: unknown;
  readonly scheduledAt: Date;
  readonly startedAt: Date | null;
  /** When it ended: completed, dead or cancelled. */
  readonly completedAt: Date | null;
  /** The newest entry of its error history. */
  readonly lastError: string | null;
}

export type StoreError = SqlError | AccessDenied | InvalidInput;

/** What submits, asks and cancels. In the caller's scope and transaction. */
export class JobDesk extends Context.Tag("@parametric-portal/jobs/JobDesk")<
  JobDesk,
  {
    /** In the order of the input, all or none. Opens the tenant's scope when none is open. */
    readonly submit: (
      jobs: ReadonlyArray<Submission>,
    ) => Effect.Effect<ReadonlyArray<Submitted>, StoreError | AppNotFound>;
    readonly state: (jobId: string) => Effect.Effect<Option.Option<JobState>, StoreError>;
    /** Ends a job that waits or runs. None when there is no such job; otherwise the status that it had. */
    readonly cancel: (jobId: string) => Effect.Effect<Option.Option<JobStatus>, StoreError>;
  }
>() {}

// --- runners -----------------------------------------------------------------

/** What a runner's writes go by. The fence is a 64-bit number as text. */
export interface Held {
  readonly id: string;
  readonly fence: string;
}

/** A job that a runner has claimed. */
export interface Claimed extends Held {
  readonly appId: string;
  readonly type: string;
  /** JSON text. */
  readonly payload: string;
  /** This run included. */
  readonly attempts: number;
  readonly maxAttempts: number;
  readonly replays: number;
  readonly requestId: string | null;
  readonly userId: string | null;
  readonly partition: number;
  /** How long it had been due. */
  readonly waitedMillis: number;
}

/** A partition to claim from, and the tenant after which to go on: tenants take turns. "" begins with the first. */
export interface Turn {
  readonly partition: number;
  readonly after: string;
}

export interface ClaimOptions {
  readonly runner: string;
  readonly leaseMillis: number;
  readonly limit: number;
  /** One for each partition. */
  readonly turns: ReadonlyArray<Turn>;
  /** Takes the longest waiting instead of the most urgent, which a runner does now and then: no priority waits for ever. */
  readonly isByAge: boolean;
  /** A whole number by chance: in which order tenants come whose next jobs are equally urgent. */
  readonly draw: number;
}

export interface Claim {
  readonly jobs: ReadonlyArray<Claimed>;
  /** For each partition where to go on. */
  readonly turns: ReadonlyArray<Turn>;
}

/** How a run that is not `completed` ends. */
export interface Failure extends Held {
  /** retry: waits for its next attempt · dead: dead-lettered · back: waits again as if it had not run. */
  readonly outcome: "retry" | "dead" | "back";
  /** Of a dead letter. */
  readonly reason: JobDlqReason | null;
  /** Joins the history; null: no entry. */
  readonly error: string | null;
  /** Until it is due again; null: as it was. */
  readonly delayMillis: number | null;
}

/** How many were the runner's still, and the fences of those that nothing was done about because somebody holds their rows. */
export interface Settlement {
  readonly count: number;
  readonly locked: ReadonlyArray<string>;
}

/** Runs of runners that vanished: how many wait again, and those that had no attempt left. */
export interface Rescued {
  readonly retried: number;
  readonly deadLetters: ReadonlyArray<Abandoned>;
}

export class JobStore extends Context.Tag("@parametric-portal/jobs/JobStore")<
  JobStore,
  {
    /** Due jobs that are no suspects, in turn by tenant, then by priority, then by time. Marked as run in company. */
    readonly claim: (options: ClaimOptions) => Effect.Effect<Claim, SqlError>;
    /** The suspect that has been due longest, for a runner that has nothing else in hand. */
    readonly claimSuspect: (
      options: Pick<ClaimOptions, "runner" | "leaseMillis"> & { readonly partitions: ReadonlyArray<number> },
    ) => Effect.Effect<Option.Option<Claimed>, SqlError>;
    readonly complete: (done: ReadonlyArray<Held>) => Effect.Effect<Settlement, SqlError>;
    readonly fail: (failures: ReadonlyArray<Failure>) => Effect.Effect<Settlement, SqlError>;
    /** Renews leases. Returns the fences that are the runner's still, those whose rows somebody holds included. */
    readonly extend: (held: ReadonlyArray<Held>, leaseMillis: number) => Effect.Effect<ReadonlyArray<string>, SqlError>;
    /** Keeps what handlers reported; JSON text. */
    readonly report: (reports: ReadonlyArray<Held & { readonly progress: string }>) => Effect.Effect<void, SqlError>;
    /** Which of the partitions have jobs that are due, and which have suspects that are. */
    readonly due: (
      partitions: ReadonlyArray<number>,
    ) => Effect.Effect<{ readonly due: ReadonlyArray<number>; readonly suspects: ReadonlyArray<number> }, SqlError>;
    /** Ends the runs whose leases are over. */
    readonly rescue: (graceMillis: number) => Effect.Effect<Rescued, SqlError>;
    /**
     * Calls `due` when something became due in partitions (none: it may have been any), and `cancelled` when a job of a partition
     * was cancelled. Hints: they may be lost. Until the scope closes.
     */
    readonly listen: (on: {
      readonly due: (partitions?: ReadonlyArray<number>) => void;
      readonly cancelled: (partition: number) => void;
    }) => Effect.Effect<void, never, Scope.Scope>;
    /** What a tenant's handlers find in their context: a scope that opens when they touch the database. */
    readonly tenantContext: (appId: string) => Context.Context<never>;
    /**
     * Runs a handler in one transaction with `completed`, when it touches the database at all; see `JobType.transactional`.
     * Returns whether that was committed.
     */
    readonly inTransaction: <A, E>(
      job: Claimed,
      run: Effect.Effect<A, E>,
    ) => Effect.Effect<boolean, E | SqlError | FenceLost>;
  }
>() {}

/** The job went to another runner, or was cancelled, before this one could settle it. What it wrote was rolled back. */
export class FenceLost {
  readonly _tag = "FenceLost";
}
