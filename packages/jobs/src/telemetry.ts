/**
 * What a runner tells about its jobs: metrics ({@link metrics} of `metrics.ts`) and spans.
 *
 * A run is the span `job.attempt`, and a job that dies has the span `job.dead_letter` below it. Both carry `request.id`, as
 * `Jobs.submit` does: that is what leads from a submission to its attempts and its dead letter, whichever process and day they
 * were in. A span per job costs half of the rate, so there is none unless a tracer is in the context that is not Effect's own.
 */
import type { JobDlqReason } from "@parametric-portal/database/models";
import type { Abandoned } from "@parametric-portal/database/repos";
import * as Context from "effect/Context";
import * as DefaultServices from "effect/DefaultServices";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Tracer from "effect/Tracer";
import type { Claimed, Failure, Rescued } from "./job-store.js";
import { counter, gauge, histogram } from "./metrics.js";

/** How a run ended. */
export type Outcome = "completed" | "lost" | Failure["outcome"];

export class JobTelemetry extends Context.Tag("@parametric-portal/jobs/JobTelemetry")<
  JobTelemetry,
  {
    readonly started: (job: Claimed) => void;
    /** Once for each that started. */
    readonly ended: (job: Claimed, outcome: Outcome, millis: number, reason?: Failure["reason"]) => void;
    /** Settlements that changed nothing. */
    readonly unsettled: (jobs: number) => void;
    /** Runs of runners that vanished. */
    readonly rescued: (jobs: Rescued) => void;
    readonly spanned: <A, E>(job: Claimed, run: Effect.Effect<A, E>) => Effect.Effect<A, E>;
  }
>() {}

export const layerNone: Layer.Layer<JobTelemetry> = Layer.succeed(JobTelemetry, {
  started: () => undefined,
  ended: () => undefined,
  unsettled: () => undefined,
  rescued: () => undefined,
  spanned: <A, E>(_: Claimed, run: Effect.Effect<A, E>) => run,
});

const each = <const Name extends string, A>(names: ReadonlyArray<Name>, of: (name: Name) => A) =>
  Object.fromEntries(names.map((name) => [name, of(name)])) as Record<Name, A>;

// All series of a type are there as soon as one is: a rate over a counter that appears with its first value misses that value.
const metersOf = (type: string) => ({
  started: counter("portal_jobs_started_total", { type }),
  ended: each(["completed", "retry", "dead", "back", "lost"], (outcome: Outcome) =>
    counter("portal_jobs_ended_total", { type, outcome }),
  ),
  duration: histogram("portal_jobs_attempt_duration_seconds", { type }),
  wait: histogram("portal_jobs_wait_seconds", { type }),
  deadLettered: each(["MaxRetries", "Validation", "HandlerMissing", "RunnerUnavailable"], (reason: JobDlqReason) =>
    counter("portal_jobs_dead_lettered_total", { type, reason }),
  ) as Readonly<Record<string, ReturnType<typeof counter>>>,
});

/** Types beyond that many are one: whoever submits may invent names, and each is some fifty series. */
const mostTypes = 500;

const noLabels: ReadonlyArray<never> = [];

export const make = Effect.gen(function* () {
  const tracer = yield* Effect.tracer;
  const clock = yield* Effect.clock;
  const isTraced = tracer !== Context.get(DefaultServices.liveServices, Tracer.Tracer);

  const meters = new Map<string, ReturnType<typeof metersOf>>();
  let others: ReturnType<typeof metersOf> | undefined;
  const metersFor = (type: string) => {
    const known = meters.get(type);
    if (known !== undefined) return known;
    if (meters.size >= mostTypes) {
      others ??= metersOf("other");
      return others;
    }
    const fresh = metersOf(type);
    meters.set(type, fresh);
    return fresh;
  };
  const running = gauge("portal_jobs_running");
  const unsettled = counter("portal_jobs_unsettled_total");
  const rescued = counter("portal_jobs_rescued_total");

  const attributesOf = ({ appId, attempts, jobId, requestId, type }: Abandoned) => ({
    "job.id": jobId,
    "job.type": type,
    "app.id": appId,
    ...(requestId === null ? {} : { "request.id": requestId }),
    "job.attempt": attempts,
  });

  const named = ({ id, ...job }: Claimed): Abandoned => ({ ...job, jobId: id });

  /** Of runs that are on, by fence. */
  const attempts = new Map<string, Tracer.Span>();

  const deadLettered = (job: Abandoned, reason: string, parent: Option.Option<Tracer.AnySpan>) => {
    const at = clock.unsafeCurrentTimeNanos();
    const span = tracer.span("job.dead_letter", parent, Context.empty(), [], at, "internal");
    for (const [name, value] of Object.entries({ ...attributesOf(job), "dead_letter.reason": reason })) {
      span.attribute(name, value);
    }
    span.end(at, Exit.void);
  };

  return JobTelemetry.of({
    started: (job) => {
      const { started, wait } = metersFor(job.type);
      started.unsafeUpdate(1, noLabels);
      wait.unsafeUpdate(Math.max(0, job.waitedMillis) / 1000, noLabels);
      running.unsafeModify(1, noLabels);
    },
    ended: (job, outcome, millis, reason) => {
      const { deadLettered: dead, duration, ended } = metersFor(job.type);
      ended[outcome].unsafeUpdate(1, noLabels);
      duration.unsafeUpdate(Math.max(0, millis) / 1000, noLabels);
      running.unsafeModify(-1, noLabels);
      if (outcome === "dead" && reason != null) {
        dead[reason]?.unsafeUpdate(1, noLabels);
        if (isTraced) deadLettered(named(job), reason, Option.fromNullable(attempts.get(job.fence)));
      }
      if (isTraced) attempts.delete(job.fence);
    },
    unsettled: (jobs) => {
      if (jobs > 0) unsettled.unsafeUpdate(jobs, noLabels);
    },
    rescued: ({ deadLetters, retried }) => {
      rescued.unsafeUpdate(retried + deadLetters.length, noLabels);
      for (const job of deadLetters) {
        metersFor(job.type).deadLettered.RunnerUnavailable?.unsafeUpdate(1, noLabels);
        if (isTraced) deadLettered(job, "RunnerUnavailable", Option.none());
      }
    },
    spanned: isTraced
      ? (job, run) =>
          Effect.useSpan(
            "job.attempt",
            { kind: "consumer", root: true, captureStackTrace: false, attributes: attributesOf(named(job)) },
            (span) => {
              attempts.set(job.fence, span);
              return Effect.withParentSpan(run, span) as typeof run;
            },
          ).pipe(Effect.withTracer(tracer), Effect.withTracerEnabled(true))
      : (_, run) => run,
  });
});

/** Metrics always; spans when the tracer is another than Effect's own. */
export const layer: Layer.Layer<JobTelemetry> = Layer.effect(JobTelemetry, make);
