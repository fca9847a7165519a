/**
 * The rows of the tables, as the application sees them. Column names are the snake_case of the fields.
 *
 * Each model has the usual variants of `Model.Class`: the class itself is a stored row, `.insert` what a new row needs,
 * `.update` what a change may carry, `.json` the form for an API.
 */
import * as Model from "@effect/sql/Model";
import * as S from "effect/Schema";

// --- [APPS] ------------------------------------------------------------------

/** A tenant. Its id is the `appId` of everything that belongs to it. */
export class App extends Model.Class<App>("App")({
  /** uuidv7, made by the database; its time is when the app was created. */
  id: Model.Generated(S.UUID),
  /** Not blank, unique on the server. */
  name: S.String,
}) {}

// --- [JOBS] ------------------------------------------------------------------

/** Which waiting job goes first. */
export const JobPriority = S.Literal("critical", "high", "normal", "low");
export type JobPriority = typeof JobPriority.Type;

/** pending: waits for its time · processing: a runner has it · completed, dead, cancelled: ended. Only a replay leaves `dead`. */
export const JobStatus = S.Literal("pending", "processing", "completed", "dead", "cancelled");
export type JobStatus = typeof JobStatus.Type;

/** One failed attempt: the rendered error, and when it happened in milliseconds since 1970. */
export const FailedAttempt = S.Struct({ error: S.String, timestamp: S.Number });
export type FailedAttempt = typeof FailedAttempt.Type;

// Whoever submits may choose these; the database has the default.
const chosen = <A, I>(schema: S.Schema<A, I>) =>
  Model.Field({ select: schema, insert: S.optional(schema), update: schema, json: schema });

/** A unit of work. Everything but type, payload, tenant and the chosen limits is kept by the queue itself. */
export class Job extends Model.Class<Job>("Job")({
  /** uuidv7, made by the database; its time is when the job was submitted. A replay keeps it. */
  id: Model.Generated(S.UUID),
  appId: S.UUID,
  /** Whose data it is; what `erase` goes by. */
  userId: Model.FieldOption(S.UUID),
  /** The request that submitted it; links logs, spans and dead letters. */
  requestId: Model.FieldOption(S.UUID),
  /** Names the handler. Not blank. */
  type: S.String,
  /** Any JSON value. */
  payload: Model.JsonFromString(S.Unknown),
  /** Default `normal`. */
  priority: chosen(JobPriority),
  status: Model.Generated(JobStatus),
  /** Runs so far, the current one included. A replay sets it back to 0. */
  attempts: Model.Generated(S.Int),
  /** Runs it may have before it is dead-lettered. Default 5. */
  maxAttempts: chosen(S.Int),
  /** The failed attempts, oldest first; long histories keep the first 10 and the newest 40. */
  errorHistory: Model.Generated(S.parseJson(S.Array(FailedAttempt))),
  /** Not claimed before this time. Default: at once. */
  scheduledAt: chosen(Model.DateTimeFromDate),
  /** When the current or last run began. */
  startedAt: Model.Generated(S.OptionFromNullOr(Model.DateTimeFromDate)),
  /** When it ended: completed, dead or cancelled. */
  completedAt: Model.Generated(S.OptionFromNullOr(Model.DateTimeFromDate)),
  /** The runner that has it, while it is processing. */
  lockedBy: Model.Generated(S.OptionFromNullOr(S.String)),
  /** The end of that runner's lease. */
  lockedUntil: Model.Generated(S.OptionFromNullOr(Model.DateTimeFromDate)),
  /** The token of the current claim; it never repeats. A settlement with another one changes nothing. */
  fence: Model.Generated(S.BigInt),
  /** How many of its dead letters were replayed. */
  replays: Model.Generated(S.Int),
}) {}

// --- [JOBS: JOB_DLQ] ---------------------------------------------------------

/**
 * Why a job will not be tried again by itself.
 * MaxRetries: its attempts ran out · Validation: its payload does not fit its type · HandlerMissing: no runner knows its type ·
 * RunnerUnavailable: its runner vanished on the last attempt.
 */
export const JobDlqReason = S.Literal("MaxRetries", "Validation", "HandlerMissing", "RunnerUnavailable");
export type JobDlqReason = typeof JobDlqReason.Type;

/** A dead letter: a job that will not be tried again by itself. Pending until it is replayed. */
export class JobDlq extends Model.Class<JobDlq>("JobDlq")({
  /** uuidv7, made by the database; its time is when the dead letter was written. */
  id: Model.Generated(S.UUID),
  /** The job it was, and becomes again by a replay. Several dead letters of one job are its rounds. */
  originalJobId: S.UUID,
  appId: S.UUID,
  type: S.String,
  /** The job's payload, copied inside the database. Any JSON value. */
  payload: Model.JsonFromString(S.Unknown),
  /** One of {@link JobDlqReason} when this package wrote it; an open text, so that an older release can read a newer one's rows. */
  errorReason: S.String,
  /** Runs it had in this round. */
  attempts: S.Number,
  /** Its failed attempts, oldest first: the rendered error, and milliseconds since 1970. */
  errorHistory: Model.JsonFromString(S.Array(S.Struct({ error: S.String, timestamp: S.Number }))),
  /** When it was dead-lettered. Left out of an insert it is the database's now. */
  dlqAt: Model.DateTimeInsertFromDate,
  /** None while pending; when it was replayed. */
  replayedAt: Model.FieldOption(S.DateFromSelf),
  requestId: Model.FieldOption(S.UUID),
  userId: Model.FieldOption(S.UUID),
}) {}
