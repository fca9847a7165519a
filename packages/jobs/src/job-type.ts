/**
 * A kind of job: its name, what its payload is, how it is retried, and the handler that runs it.
 *
 * ```ts
 * const Resize = JobType.make("image.resize", { payload: ResizePayload, timeout: "30 seconds" })
 * const ResizeLive = Resize.toLayer((payload, ctx) => …)
 * ```
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import { JobHandlers } from "./handlers.js";
import { policyOf, type RetryOptions, type RetryPolicy } from "./retry.js";

/** What a handler knows about the run that it is. */
export interface JobContext {
  readonly jobId: string;
  /** The tenant. What the handler does in the database is in its scope. */
  readonly appId: string;
  /** 1 for the first run of this round; a replay begins a new round. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** How often the job was replayed; 0 when it never died. */
  readonly replays: number;
  readonly requestId: string | undefined;
  readonly userId: string | undefined;
  /** The same on every attempt and after every replay: what an outside service needs to do the work once. */
  readonly idempotencyKey: string;
  /** Tells `Jobs.progress` how far it is: any JSON value. Kept with the job; the last one wins. */
  readonly report: (progress: unknown) => Effect.Effect<void>;
}

/** The job cannot be done, now or later: a handler that fails with it has the job dead-lettered at once, as Validation. */
export class JobRejected extends S.TaggedError<JobRejected>()("JobRejected", { problem: S.String }) {
  override get message() {
    return `The job was rejected: ${this.problem}`;
  }
}

/** Not now: a handler that fails with it has the job run again after the delay. This run does not count as an attempt. */
export class JobPostponed extends S.TaggedError<JobPostponed>()("JobPostponed", {
  delay: S.DurationFromSelf,
}) {
  override get message() {
    return `The job asked to run again in ${Duration.format(this.delay)}`;
  }

  static readonly after = (delay: Duration.DurationInput) => new JobPostponed({ delay: Duration.decode(delay) });
}

export interface JobTypeOptions<A, I> {
  /** The payload. Encoded and checked when it is submitted, decoded when it is run. */
  readonly payload: S.Schema<A, I>;
  readonly retry?: RetryOptions | undefined;
  /** How long a run may take before it is interrupted, which counts as a failure. Default: as long as it takes. */
  readonly timeout?: Duration.DurationInput | undefined;
  /**
   * `true`: what a run writes to the database and its `completed` are one transaction, so that its writes happen exactly once. It
   * begins when the handler first touches the database and holds a connection until the handler ends. `false`, the default: each
   * statement, or each `withTransaction`, is a transaction of its own.
   */
  readonly transactional?: boolean | undefined;
}

/** A kind of job. Submit it with `Jobs.submit`, run it with the layer of its handler. */
export interface JobType<Name extends string, A, I> {
  readonly name: Name;
  readonly payload: S.Schema<A, I>;
  readonly retry: RetryPolicy;
  readonly timeoutMillis: number | undefined;
  readonly transactional: boolean;
  /**
   * Registers the handler. It may fail with anything: the failure joins the job's history. A value that it returns is dropped.
   * Its services are those of the layer's own context.
   */
  readonly toLayer: <E, R>(
    handler: (payload: A, context: JobContext) => Effect.Effect<unknown, E, R>,
  ) => Layer.Layer<never, never, JobHandlers | R>;
}

/** A kind of job was described with what cannot be: a blank name, a retry policy that is none. Thrown when it is made. */
export class JobTypeInvalid extends S.TaggedError<JobTypeInvalid>()("JobTypeInvalid", {
  name: S.String,
  problem: S.String,
}) {}

/** Describes a kind of job. Throws `JobTypeInvalid`, because it is a constant of the program. */
export const make = <const Name extends string, A, I>(
  name: Name,
  options: JobTypeOptions<A, I>,
): JobType<Name, A, I> => {
  const invalid = (problem: string) => new JobTypeInvalid({ name, problem });
  if (name.trim() === "") throw invalid("the name is blank");
  const retry = policyOf(options.retry);
  if (typeof retry === "string") throw invalid(retry);
  const timeoutMillis = options.timeout === undefined ? undefined : Duration.toMillis(options.timeout);
  if (timeoutMillis !== undefined && !(timeoutMillis > 0 && timeoutMillis <= 2_147_483_647)) {
    throw invalid("timeout must be more than 0 and at most 24 days");
  }
  const type: JobType<Name, A, I> = {
    name,
    payload: options.payload,
    retry,
    timeoutMillis,
    transactional: options.transactional ?? false,
    toLayer: (handler) =>
      Layer.effectDiscard(
        Effect.gen(function* () {
          const handlers = yield* JobHandlers;
          yield* handlers.register(type, handler);
        }),
      ),
  };
  return type;
};
