/**
 * What an application does with jobs: submit them, ask where they stand, cancel them.
 *
 * `import * as Jobs from "@parametric-portal/jobs/jobs"`. Everything happens in the caller's scope and transaction: a job that is
 * submitted in a transaction is there if that commits, and not before.
 */
import type { SqlError } from "@effect/sql/SqlError";
import { payloadOf, uuidOf } from "@parametric-portal/database/arguments";
import { type AccessDenied, type AppNotFound, InvalidInput, JobNotFound } from "@parametric-portal/database/errors";
import type { JobPriority, JobStatus } from "@parametric-portal/database/models";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { TreeFormatter } from "effect/ParseResult";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { JobDesk, type JobState, type StoreError, type Submission, type Submitted } from "./job-store.js";
import type { JobType } from "./job-type.js";
import { maxDelayMillis } from "./retry.js";

export type { JobState, Submitted } from "./job-store.js";
export { JobDesk } from "./job-store.js";

export interface SubmitOptions {
  /** The tenant. */
  readonly appId: string;
  /** The request that asks for it; links logs, spans and dead letters. */
  readonly requestId?: string | undefined;
  /** Whose data the payload is; what `erase` goes by. */
  readonly userId?: string | undefined;
  /** Default `normal`. */
  readonly priority?: JobPriority | undefined;
  /** Not run before that. Default: at once. */
  readonly delay?: Duration.DurationInput | undefined;
  /** While a job of the app and type with this key is unfinished, submitting returns that one. Not blank, at most 500 characters. */
  readonly dedupeKey?: string | undefined;
  /** Attempts in all. Default: the type's. */
  readonly maxAttempts?: number | undefined;
}

const operation = "Jobs.submit";

const submissionOf = <Name extends string, A, I>(
  type: JobType<Name, A, I>,
  payload: A,
  options: SubmitOptions,
): Effect.Effect<Submission, InvalidInput> =>
  Effect.gen(function* () {
    const invalid = (field: string, problem: string) => new InvalidInput({ operation, field, problem });
    yield* uuidOf(operation, "appId", options.appId);
    if (options.requestId !== undefined) yield* uuidOf(operation, "requestId", options.requestId);
    if (options.userId !== undefined) yield* uuidOf(operation, "userId", options.userId);
    const encoded = yield* Effect.mapError(S.encode(type.payload)(payload), (error) =>
      invalid("payload", `does not fit ${type.name}: ${TreeFormatter.formatErrorSync(error)}`),
    );
    const delayMillis = Option.map(Duration.decodeUnknown(options.delay ?? 0), Duration.toMillis);
    if (Option.isNone(delayMillis) || delayMillis.value > maxDelayMillis) {
      return yield* invalid("delay", "is no duration of at most a hundred years");
    }
    const { dedupeKey, maxAttempts = type.retry.maxAttempts } = options;
    if (dedupeKey !== undefined && (dedupeKey.trim() === "" || dedupeKey.length > 500)) {
      return yield* invalid("dedupeKey", dedupeKey.trim() === "" ? "is blank" : "is longer than 500 characters");
    }
    if (!Number.isInteger(maxAttempts) || maxAttempts < 1 || maxAttempts > 1_000_000) {
      return yield* invalid("maxAttempts", `is ${maxAttempts}; it must be a whole number from 1 to 1,000,000`);
    }
    return {
      appId: options.appId,
      userId: options.userId ?? null,
      requestId: options.requestId ?? null,
      type: type.name,
      payload: yield* payloadOf(operation, "payload", encoded),
      priority: options.priority ?? "normal",
      maxAttempts,
      delayMillis: delayMillis.value,
      dedupeKey: dedupeKey ?? null,
    };
  });

type SubmitError = SqlError | AccessDenied | InvalidInput | AppNotFound;

/**
 * Submits a job. Its payload is encoded by its type's Schema and checked at the door. In the scope that is open, or in its
 * tenant's. Fails with `InvalidInput`, `AppNotFound`, and `AccessDenied` in another tenant's scope.
 */
export const submit = <Name extends string, A, I>(
  type: JobType<Name, A, I>,
  payload: A,
  options: SubmitOptions,
): Effect.Effect<Submitted, SubmitError, JobDesk> =>
  Effect.gen(function* () {
    const desk = yield* JobDesk;
    const [submitted] = yield* desk.submit([yield* submissionOf(type, payload, options)]);
    return submitted ?? (yield* Effect.dieMessage("a submission has no answer"));
  }).pipe(
    Effect.withSpan("Jobs.submit", {
      kind: "producer",
      captureStackTrace: false,
      attributes: { "job.type": type.name, "app.id": options.appId, "request.id": options.requestId },
    }),
  );

/** One of many jobs: its payload, and what differs from the others. */
export interface Item<A> extends Partial<SubmitOptions> {
  readonly payload: A;
}

/**
 * Submits any number of jobs of a type, all or none, in statements of 10,000; in the order of the input. What an item says goes
 * before the options of all. In several tenants it needs the system scope.
 */
export const submitMany = <Name extends string, A, I>(
  type: JobType<Name, A, I>,
  items: ReadonlyArray<Item<A>>,
  options: SubmitOptions,
): Effect.Effect<ReadonlyArray<Submitted>, SubmitError, JobDesk> =>
  Effect.gen(function* () {
    const desk = yield* JobDesk;
    const jobs = yield* Effect.forEach(items, ({ payload, ...own }, place) =>
      Effect.mapError(
        submissionOf(type, payload, { ...options, ...own }),
        (error) =>
          new InvalidInput({
            operation: "Jobs.submitMany",
            field: `items[${place}].${error.field}`,
            problem: error.problem,
          }),
      ),
    );
    return jobs.length === 0 ? [] : yield* desk.submit(jobs);
  }).pipe(
    Effect.withSpan("Jobs.submitMany", {
      kind: "producer",
      captureStackTrace: false,
      attributes: {
        "job.type": type.name,
        "app.id": options.appId,
        "request.id": options.requestId,
        "jobs.count": items.length,
      },
    }),
  );

const stateOf = (name: string, jobId: string) =>
  Effect.gen(function* () {
    const desk = yield* JobDesk;
    return yield* desk.state(yield* uuidOf(name, "jobId", jobId));
  });

/** Where a job stands, if the scope sees it. */
export const status = (jobId: string): Effect.Effect<Option.Option<JobState>, StoreError, JobDesk> =>
  stateOf("Jobs.status", jobId);

/** What a cancellation met: a job that waited or ran, and is cancelled now, or one that had ended, and is left as it was. */
export interface Cancelled {
  readonly isCancelled: boolean;
  /** What it was. */
  readonly status: JobStatus;
}

/**
 * Ends a job that waits or runs. It counts at once: a run that goes on somewhere is interrupted, usually within milliseconds,
 * and can settle nothing any more. Fails with `JobNotFound`.
 */
export const cancel = (jobId: string): Effect.Effect<Cancelled, StoreError | JobNotFound, JobDesk> =>
  Effect.gen(function* () {
    const desk = yield* JobDesk;
    const was = yield* desk.cancel(yield* uuidOf("Jobs.cancel", "jobId", jobId));
    if (Option.isNone(was)) return yield* new JobNotFound({ id: jobId });
    return { status: was.value, isCancelled: was.value === "pending" || was.value === "processing" };
  }).pipe(Effect.withSpan("Jobs.cancel", { captureStackTrace: false, attributes: { "job.id": jobId } }));

const isEnded = ({ status }: JobState) => status === "completed" || status === "dead" || status === "cancelled";
const sameState = (a: JobState, b: JobState) =>
  JSON.stringify([a.status, a.attempts, a.replays, a.progress, a.scheduledAt]) ===
  JSON.stringify([b.status, b.attempts, b.replays, b.progress, b.scheduledAt]);

/**
 * Where a job stands, each time that it stands elsewhere, until it has ended. Asks every `every`, default half a second. Not
 * for the transaction that submits the job: until that commits no runner sees it, and this waits for ever.
 * Fails with `JobNotFound`, also when the job is purged meanwhile.
 */
export const progress = (
  jobId: string,
  options: { readonly every?: Duration.DurationInput } = {},
): Stream.Stream<JobState, StoreError | JobNotFound, JobDesk> =>
  Stream.repeatEffectWithSchedule(
    Effect.flatMap(
      stateOf("Jobs.progress", jobId),
      Option.match({ onNone: () => new JobNotFound({ id: jobId }), onSome: Effect.succeed }),
    ),
    Schedule.spaced(options.every ?? "500 millis"),
  ).pipe(Stream.changesWith(sameState), Stream.takeUntil(isEnded));
