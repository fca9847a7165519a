/**
 * What is to be done once in a cluster, whoever does it: retention, and the gauges about the whole queue.
 *
 * Cluster singletons: each runs on one runner at a time and moves when that one leaves. For a moment two may run, so what they do
 * is safe when done twice: retention works in batches under SKIP LOCKED, and two runners that both tell the depth tell the same.
 * They never end: what fails is logged and tried again, because a singleton that ends would not begin anew by itself.
 */
import type * as Sharding from "@effect/cluster/Sharding";
import * as Singleton from "@effect/cluster/Singleton";
import type { RetentionPolicy } from "@parametric-portal/database/job-dlq/retention";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Cause from "effect/Cause";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import { EngineClient, layerDatabase } from "./job-store-sql.js";
import { counter, gauge } from "./metrics.js";

/** How long ended jobs and dead letters are kept, in days. What is left out is kept. */
export interface RetentionOptions extends RetentionPolicy {
  /** Jobs that ended: completed, dead or cancelled. 0 or more. Their dead letters stay, and can still be replayed. */
  readonly jobs?: number | undefined;
  /** How often. Default every hour. */
  readonly every?: Duration.DurationInput | undefined;
}

export interface MaintenanceOptions {
  /** Default: nothing is removed. */
  readonly retention?: RetentionOptions | undefined;
  /** How often depth and age are measured. Default every 15 seconds. */
  readonly statsEvery?: Duration.DurationInput | undefined;
}

const actor = "runner retention";

/** Whether it was done. A failure is logged, an interruption is none. */
const attempted = <A, E, R>(what: string, effect: Effect.Effect<A, E, R>): Effect.Effect<boolean, never, R> =>
  Effect.catchAllCause(Effect.as(effect, true), (cause) =>
    Cause.isInterruptedOnly(cause)
      ? Effect.interrupt
      : Effect.as(Effect.logWarning(`${what} failed and is tried again`, cause), false),
  );

// --- retention ---------------------------------------------------------------

/** What it removes: dead letters by what they were, and jobs. */
const kinds = ["replayed", "discarded", "pending", "jobs"] as const;

const removed = (kind: (typeof kinds)[number], rows: number) =>
  Effect.sync(() => counter("portal_retention_removed_total", { kind }).unsafeUpdate(rows, []));

/** One round of retention on the engine's pool. */
export const retain = ({ discarded, jobs, pending, replayed }: RetentionOptions) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    if (replayed !== undefined || discarded !== undefined || pending !== undefined) {
      const policy = { replayed, discarded, pending };
      for (;;) {
        const done = yield* db.jobDlq.retain(policy, { actor, scope: { _tag: "system" } });
        yield* removed("replayed", done.replayed);
        yield* removed("discarded", done.discarded);
        yield* removed("pending", done.pending);
        if (done.isComplete) break;
      }
    }
    if (jobs !== undefined) yield* removed("jobs", yield* db.jobs.purge(jobs));
  });

// --- stats -------------------------------------------------------------------

const decodeWork = S.decodeUnknown(
  S.Tuple(S.Struct({ due: S.Number, scheduled: S.Number, processing: S.Number, oldest: S.Number })),
);
const decodeLetters = S.decodeUnknown(S.Array(S.Struct({ reason: S.String, count: S.Number, oldest: S.Number })));

const reasons = ["MaxRetries", "Validation", "HandlerMissing", "RunnerUnavailable"] as const;
const states = ["due", "scheduled", "processing"] as const;

const tell = {
  depth: (state: string, jobs: number) => gauge("portal_jobs_depth", { state }).unsafeUpdate(jobs, []),
  oldest: (seconds: number) => gauge("portal_jobs_oldest_age_seconds").unsafeUpdate(seconds, []),
  letters: (reason: string, letters: number) =>
    gauge("portal_dead_letters_depth", { reason }).unsafeUpdate(letters, []),
  oldestLetter: (seconds: number) => gauge("portal_dead_letters_oldest_age_seconds").unsafeUpdate(seconds, []),
};

/** What a runner says that does not measure: nothing is known here, and the one that measures says more. */
const silent = Effect.sync(() => {
  for (const state of states) tell.depth(state, 0);
  for (const reason of reasons) tell.letters(reason, 0);
  tell.oldest(0);
  tell.oldestLetter(0);
});

/** Measures depth and age; one statement about jobs and one about dead letters, each over a partial index. */
export const measure = Effect.gen(function* () {
  const sql = yield* EngineClient;
  const [work] = yield* Effect.flatMap(
    sql`
      SELECT pending.due::float8 AS due, pending.scheduled::float8 AS scheduled,
        (SELECT count(*) FROM jobs WHERE status = 'processing')::float8 AS processing,
        GREATEST(0, COALESCE(extract(epoch FROM now() - pending.first), 0))::float8 AS oldest
      FROM (
        SELECT count(*) FILTER (WHERE scheduled_at <= now()) AS due, count(*) FILTER (WHERE scheduled_at > now()) AS scheduled,
          min(scheduled_at) AS first
        FROM jobs WHERE status = 'pending') pending`,
    decodeWork,
  );
  const letters = yield* Effect.flatMap(
    sql`
      SELECT error_reason AS reason, count(*)::float8 AS count,
        GREATEST(0, extract(epoch FROM now() - min(dlq_at)))::float8 AS oldest
      FROM job_dlq WHERE replayed_at IS NULL
      GROUP BY error_reason`,
    decodeLetters,
  );
  for (const state of states) tell.depth(state, work[state]);
  tell.oldest(work.oldest);
  for (const reason of reasons) tell.letters(reason, letters.find((_) => _.reason === reason)?.count ?? 0);
  tell.oldestLetter(Math.max(0, ...letters.map((_) => _.oldest)));
}).pipe(Effect.withTracerEnabled(false));

// A long queue takes long to count. It must not take more than a fiftieth of anybody's time.
const measuring = (every: Duration.Duration) =>
  Effect.gen(function* () {
    for (;;) {
      const [took, isDone] = yield* Effect.timed(attempted("Measuring the queue", measure));
      yield* Effect.sleep(isDone ? Duration.max(every, Duration.times(took, 50)) : every);
    }
  }).pipe(Effect.ensuring(silent));

const soon = Duration.minutes(1);
const retaining = (options: RetentionOptions) => {
  const every = Duration.decode(options.every ?? "1 hour");
  return Effect.gen(function* () {
    for (;;) {
      const isDone = yield* attempted("Retention", retain(options));
      yield* Effect.sleep(isDone ? every : Duration.min(every, soon));
    }
  });
};

export const layer = (options: MaintenanceOptions = {}): Layer.Layer<never, never, Sharding.Sharding | EngineClient> =>
  Layer.mergeAll(
    Layer.effectDiscard(
      Effect.zipRight(
        silent,
        Effect.forEach(kinds, (kind) => removed(kind, 0)),
      ),
    ),
    Singleton.make("stats", measuring(Duration.decode(options.statsEvery ?? "15 seconds"))),
    options.retention === undefined
      ? Layer.empty
      : Singleton.make("retention", retaining(options.retention)).pipe(Layer.provide(layerDatabase)),
  );
