/**
 * The engine of a runner process: claims due jobs in batches, runs them side by side, settles them in batches.
 *
 * Contract: a job is at least once, and what it writes in a transactional handler exactly once: a run that lost its fence changes
 * nothing any more. Whatever is claimed is started at once, so a crash costs an attempt of what ran and of nothing else. Leases are
 * renewed while a job runs. Interrupted runs are given back without counting an attempt.
 *
 * One engine serves all partitions of the process; {@link Worker.drain} says for which it may claim. Its fibers belong to the
 * layer's scope: one claims, one settles, one renews leases.
 */
import type { SqlError } from "@effect/sql/SqlError";
import { errorText } from "@parametric-portal/database/error-text";
import { notStorable } from "@parametric-portal/database/json";
import { classify, databaseError } from "@parametric-portal/database/sql-state";
import * as Cause from "effect/Cause";
import * as Chunk from "effect/Chunk";
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Exit from "effect/Exit";
import type * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import { ArrayFormatter, type ParseError } from "effect/ParseResult";
import * as Random from "effect/Random";
import * as Runtime from "effect/Runtime";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import { type Handler, JobHandlers } from "./handlers.js";
import { type Claimed, type Failure, FenceLost, type Held, JobStore } from "./job-store.js";
import { type JobContext, JobPostponed, JobRejected } from "./job-type.js";
import { partitionOf } from "./partition.js";
import { delayMillis, policyOf, type RetryPolicy } from "./retry.js";
import { JobTelemetry } from "./telemetry.js";

export interface WorkerOptions {
  /** What `jobs.locked_by` shows. Unique among the runners. */
  readonly runner: string;
  /** Most jobs that run at a time in this process. Default 64; 1,000 and more for jobs that take less than a millisecond. */
  readonly concurrency?: number | undefined;
  /** Most jobs in one claim. Default 500. */
  readonly batchSize?: number | undefined;
  /** How long a claimed job stays the runner's without a sign of life; it gives three in that time. Default 6 seconds. */
  readonly lease?: Duration.DurationInput | undefined;
  /** How long a stop waits for running jobs before it interrupts them and gives them back. Default 10 seconds. */
  readonly grace?: Duration.DurationInput | undefined;
  /** How long a suspect waits for the other jobs to end before they go on, at first; twice as long each time. Default 10 seconds. */
  readonly patience?: Duration.DurationInput | undefined;
}

export class Worker extends Context.Tag("@parametric-portal/jobs/Worker")<
  Worker,
  {
    /**
     * Works on a partition until nothing in it is due and nothing of it runs any more. Takes nothing new as soon as `isOwned`
     * is false. Interrupting it interrupts the partition's jobs, and ends when they are given back.
     */
    readonly drain: (partition: number, isOwned: () => boolean) => Effect.Effect<void>;
    /** Partitions with suspects that are due: each will run alone, when nothing else runs. */
    readonly suspect: (partitions: ReadonlyArray<number>) => Effect.Effect<void>;
    /** A job of the partition was cancelled; it is interrupted if it runs here. */
    readonly cancelled: (partition: number) => void;
    /** Jobs that run now. */
    readonly running: () => number;
    /** Whether the last statement that it sent was answered. */
    readonly isAnswered: () => boolean;
  }
>() {}

/** A run was interrupted because it took longer than its type allows. */
export class JobTimedOut extends S.TaggedError<JobTimedOut>()("JobTimedOut", { millis: S.Number }) {
  override get message() {
    return `The run was interrupted after ${Duration.format(Duration.millis(this.millis))}, the timeout of its type`;
  }
}

/** One job that runs. */
interface Run {
  readonly job: Claimed;
  readonly handler: Handler;
  readonly began: number;
  fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined;
  /** Why the engine interrupted it: it is given back, or it is somebody else's now. */
  ended: "stop" | "lost" | undefined;
}

type Fork = <A, E>(effect: Effect.Effect<A, E>) => Fiber.RuntimeFiber<A, E>;

interface Drain {
  readonly partition: number;
  readonly isOwned: () => boolean;
  readonly done: Deferred.Deferred<void>;
  /** The tenant after which its next claim goes on. */
  after: string;
  /** Grows with every call, so that one which comes during a claim is not forgotten. */
  wakes: number;
  isDry: boolean;
}

/** A run that failed and has not been settled: what to do about it is decided where chance may be asked. */
type Ended = Held & {
  readonly partition: number;
  readonly failure: Omit<Failure, "id" | "fence"> & { readonly retry?: { policy: RetryPolicy; attempt: number } };
};

/** Where a payload is not what it should be, in one line: that is what lists show and groups go by. */
const misfit = (error: ParseError) => {
  const [issue] = ArrayFormatter.formatErrorSync(error);
  const path = issue?.path.map(String).join(".") ?? "";
  return `${path === "" ? "" : ` at ${path}`}: ${issue?.message ?? error.message}`;
};

const defaultPolicy = policyOf() as RetryPolicy;
/** Until when a smaller claim than a quarter of all slots waits for more of them to become free. */
const worthwhileMillis = 20;
/** How often everything that nobody tells is looked at: lost ownership above all. */
const tick = Duration.millis(250);
/** What the server may say to a settlement that will be true a moment later. */
const isPassing = (error: SqlError) =>
  ["Connection", "Serialization", "Deadlock", "LockNotAvailable", "Other"].includes(classify(error));
const again = Schedule.exponential("50 millis").pipe(Schedule.union(Schedule.spaced("1 second")), Schedule.jittered);

export const make = (options: WorkerOptions) =>
  Effect.gen(function* () {
    const store = yield* JobStore;
    const handlers = yield* JobHandlers;
    const telemetry = yield* JobTelemetry;
    const runtime = yield* Effect.runtime<never>();
    const clock = yield* Effect.clock;
    const concurrency = options.concurrency ?? 64;
    const batchSize = options.batchSize ?? 500;
    // Claims that are under way at a time, each for its own share of the partitions: while the server works on one, the jobs of
    // the other start. Only where slots are many; with few, the most urgent job of all partitions goes first.
    const lanes = concurrency >= 2 * batchSize ? 2 : 1;
    const leaseMillis = Duration.toMillis(options.lease ?? "6 seconds");
    const grace = Duration.decode(options.grace ?? "10 seconds");
    const firstPatience = Duration.toMillis(options.patience ?? "10 seconds");
    const runFork = Runtime.runFork(runtime);

    // --- state -----------------------------------------------------------------

    const drains = new Map<number, Drain>();
    const running = new Map<string, Run>();
    /** Of each partition, what is claimed and not settled. */
    const inHand = new Map<number, number>();
    let completed: Array<Held & { readonly partition: number }> = [];
    let failed: Array<Ended> = [];
    let unsettled: ReadonlyArray<Held> = [];
    const reports = new Map<string, Held & { readonly progress: string }>();
    let isStopping = false;
    let isAnswered = true;
    const toClaim = Effect.unsafeMakeLatch(false);
    const toSettle = Effect.unsafeMakeLatch(false);
    const toExtend = Effect.unsafeMakeLatch(false);
    const now = () => clock.unsafeCurrentTimeMillis();

    const answered = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.tapBoth(effect, {
        onFailure: () => Effect.sync(() => (isAnswered = false)),
        onSuccess: () => Effect.sync(() => (isAnswered = true)),
      });

    const count = (partition: number, change: number) => inHand.set(partition, (inHand.get(partition) ?? 0) + change);

    /** What is over for a partition, settled or no longer ours. */
    const release = (partition: number) => {
      count(partition, -1);
      toClaim.unsafeOpen();
    };

    // --- running a job ---------------------------------------------------------

    const settle = (job: Claimed, failure?: Ended["failure"]) => {
      const { fence, id, partition } = job;
      if (failure === undefined) completed.push({ id, fence, partition });
      else failed.push({ id, fence, partition, failure });
      toSettle.unsafeOpen();
    };

    const back: Ended["failure"] = { outcome: "back", reason: null, error: null, delayMillis: null };
    const isLast = ({ attempts, maxAttempts }: Claimed) => attempts >= maxAttempts;
    const dead = (reason: Failure["reason"], error: string): Ended["failure"] => ({
      outcome: "dead",
      reason,
      error,
      delayMillis: null,
    });
    const retryOrDead = (
      job: Claimed,
      policy: RetryPolicy,
      reason: Failure["reason"],
      error: string,
    ): Ended["failure"] =>
      isLast(job)
        ? dead(reason, error)
        : { outcome: "retry", reason: null, error, delayMillis: null, retry: { policy, attempt: job.attempts } };

    const failureOf = ({ ended, handler, job }: Run, cause: Cause.Cause<unknown>): Ended["failure"] => {
      if (ended === "stop" && Cause.isInterrupted(cause)) return back;
      const said = Chunk.toReadonlyArray(Cause.failures(cause));
      const postponed = said.find((_) => _ instanceof JobPostponed);
      if (postponed !== undefined) {
        return { ...back, delayMillis: Duration.toMillis(postponed.delay) };
      }
      const rejected = said.find((_) => _ instanceof JobRejected);
      if (rejected !== undefined) return dead("Validation", errorText(rejected));
      return retryOrDead(
        job,
        handler.retry,
        "MaxRetries",
        errorText(Cause.isInterruptedOnly(cause) ? "The handler interrupted itself" : cause),
      );
    };

    const end = (run: Run, exit: Exit.Exit<unknown, unknown>) => {
      const { job } = run;
      running.delete(job.fence);
      toClaim.unsafeOpen();
      const isLost =
        run.ended === "lost" ||
        (Exit.isFailure(exit) && Chunk.some(Cause.failures(exit.cause), (_) => _ instanceof FenceLost));
      if (isLost) {
        telemetry.ended(job, "lost", now() - run.began);
        return release(job.partition);
      }
      if (Exit.isSuccess(exit)) {
        telemetry.ended(job, "completed", now() - run.began);
        // Committed with what the handler wrote.
        return exit.value === committed ? release(job.partition) : settle(job);
      }
      const failure = failureOf(run, exit.cause);
      telemetry.ended(job, failure.outcome, now() - run.began, failure.reason);
      settle(job, failure);
    };

    const contextOf = (job: Claimed): JobContext => ({
      jobId: job.id,
      appId: job.appId,
      attempt: job.attempts,
      maxAttempts: job.maxAttempts,
      replays: job.replays,
      requestId: job.requestId ?? undefined,
      userId: job.userId ?? undefined,
      idempotencyKey: job.id,
      report: (progress) =>
        Effect.suspend(() =>
          Option.match(notStorable(progress), {
            onSome: ({ path, problem }) => Effect.dieMessage(`The progress at ${path} ${problem}`),
            onNone: () =>
              Effect.sync(() => {
                reports.set(job.fence, { id: job.id, fence: job.fence, progress: JSON.stringify(progress) });
                toExtend.unsafeOpen();
              }),
          }),
        ),
    });

    const committed = Symbol("committed");
    const effectOf = (job: Claimed, { run, timeoutMillis, transactional }: Handler, payload: unknown) => {
      let effect = Effect.suspend(() => run(payload, contextOf(job)));
      if (timeoutMillis !== undefined) {
        effect = Effect.timeoutFail(effect, {
          duration: timeoutMillis,
          onTimeout: () => new JobTimedOut({ millis: timeoutMillis }),
        });
      }
      return telemetry.spanned(
        job,
        transactional
          ? Effect.map(store.inTransaction(job, effect), (isCommitted) => (isCommitted ? committed : undefined))
          : effect,
      );
    };

    // Services are looked up in one context, made once for all jobs of a type and tenant: merging it for each would cost more than
    // many a handler.
    const contextOfHandler = (handler: Handler, appId: string) => {
      const context = Context.merge(runtime.context, handler.context);
      return handler.transactional ? context : Context.merge(context, store.tenantContext(appId));
    };
    const forks = new Map<Handler, Map<string, Fork>>();
    const forkOf = (handler: Handler, appId: string) => {
      // A bound, not a policy: what is made again is cheap.
      const known = forks.get(handler);
      const ofTenants = known === undefined || known.size >= 1000 ? new Map<string, Fork>() : known;
      forks.set(handler, ofTenants);
      const fork =
        ofTenants.get(appId) ??
        Runtime.runFork(Runtime.make({ ...runtime, context: contextOfHandler(handler, appId) }));
      ofTenants.set(appId, fork);
      return fork;
    };

    const start = (job: Claimed) => {
      count(job.partition, 1);
      const began = now();
      telemetry.started(job);
      const handler = handlers.get(job.type);
      if (handler === undefined) {
        const failure = retryOrDead(
          job,
          defaultPolicy,
          "HandlerMissing",
          `No handler for ${job.type} on runner ${options.runner}`,
        );
        telemetry.ended(job, failure.outcome, 0, failure.reason);
        return settle(job, failure);
      }
      const payload = handler.decode(job.payload);
      if (Either.isLeft(payload)) {
        const failure = dead("Validation", `The payload does not fit ${job.type}${misfit(payload.left)}`);
        telemetry.ended(job, failure.outcome, 0, failure.reason);
        return settle(job, failure);
      }
      const run: Run = { job, handler, began, fiber: undefined, ended: undefined };
      const fiber = forkOf(handler, job.appId)(effectOf(job, handler, payload.right));
      const exit = fiber.unsafePoll();
      if (exit !== null) return end(run, exit);
      run.fiber = fiber;
      running.set(job.fence, run);
      fiber.addObserver((_) => end(run, _));
    };

    /** Interrupts runs; they report by themselves how they ended. */
    const interrupt = (runs: Iterable<Run>, why: "stop" | "lost") => {
      for (const run of runs) {
        if (run.ended !== undefined || run.fiber === undefined) continue;
        run.ended = why;
        run.fiber.unsafeInterruptAsFork(run.fiber.id());
      }
    };

    // --- claiming --------------------------------------------------------------

    /** False for what a claim brings that was on its way when the partition left, or the runner was told to stop. */
    const isWanted = (partition: number) => !isStopping && drains.get(partition)?.isOwned() === true;
    const giveBack = (job: Claimed) => {
      count(job.partition, 1);
      settle(job, back);
    };

    const finish = (drain: Drain) => {
      drains.delete(drain.partition);
      Deferred.unsafeDone(drain.done, Exit.void);
    };

    /** Ends what is over, and returns what a lane may claim for. */
    const claimable = (lane: number) => {
      const open: Array<Drain> = [];
      for (const drain of drains.values()) {
        const isOver = isStopping || !drain.isOwned();
        if (!drain.isDry && !isOver) {
          if (drain.partition % lanes === lane) open.push(drain);
        } else if ((inHand.get(drain.partition) ?? 0) === 0) finish(drain);
      }
      return open;
    };

    let claims = 0;
    /** Slots for which a claim is under way. */
    let reserved = 0;
    const claim = (open: ReadonlyArray<Drain>, limit: number) =>
      Effect.gen(function* () {
        const before = open.map(({ after, partition, wakes }) => ({ after, partition, wakes }));
        const { jobs, turns } = yield* answered(
          store
            .claim({
              runner: options.runner,
              leaseMillis,
              limit,
              turns: before.map(({ after, partition }) => ({ after, partition })),
              isByAge: ++claims % 16 === 0,
            })
            .pipe(Effect.ensuring(Effect.sync(() => (reserved -= limit)))),
        );
        const found = new Set<number>();
        for (const job of jobs) {
          found.add(job.partition);
          if (isWanted(job.partition)) start(job);
          else giveBack(job);
        }
        const next = new Map(turns.map(({ after, partition }) => [partition, after]));
        for (const { after, partition, wakes } of before) {
          const drain = drains.get(partition);
          if (drain === undefined) continue;
          drain.after = next.get(partition) ?? "";
          const isAll = after === "" && drain.after === "" && jobs.length < limit;
          if (isAll && !found.has(partition) && drain.wakes === wakes) drain.isDry = true;
        }
      });

    const wait = (duration: Duration.Duration) =>
      Effect.raceFirst(toClaim.await, Effect.sleep(duration)).pipe(Effect.andThen(toClaim.close));

    /** Partitions in which suspects wait to run alone. */
    let suspects = new Set<number>();
    let pausedSince: number | undefined;
    let noTrialBefore = 0;
    let patience = firstPatience;

    /** Whether claims have to wait for a suspect; runs it when it can be alone. */
    const trial = Effect.gen(function* () {
      if (suspects.size === 0 || isStopping || now() < noTrialBefore) return false;
      pausedSince ??= now();
      const paused = now() - pausedSince;
      if (running.size + reserved === 0) {
        reserved++;
        const suspect = yield* answered(
          store.claimSuspect({ runner: options.runner, leaseMillis, partitions: [...suspects] }),
        ).pipe(Effect.ensuring(Effect.sync(() => reserved--)));
        if (Option.isNone(suspect)) suspects = new Set();
        else if (isStopping) giveBack(suspect.value);
        else start(suspect.value);
        // The others get as much time as they lost before the next one.
        yield* Effect.iterate(undefined, {
          while: () => running.size > 0,
          body: () => Effect.as(wait(tick), undefined),
        });
        noTrialBefore = now() + (now() - pausedSince) + 1;
        pausedSince = undefined;
        patience = firstPatience;
        return false;
      }
      if (paused < patience) return true;
      // Something runs long. It may end by the next try, which waits longer.
      noTrialBefore = now() + patience;
      patience = Math.min(patience * 2, 3_600_000);
      pausedSince = undefined;
      return false;
    });

    let isPaused = false;
    const claiming = (lane: number) =>
      Effect.gen(function* () {
        let scarceSince: number | undefined;
        for (;;) {
          if (lane === 0) isPaused = yield* trial;
          const open = claimable(lane);
          const free = concurrency - running.size - reserved;
          if (isPaused || open.length === 0 || free <= 0) {
            scarceSince = undefined;
            yield* wait(tick);
            continue;
          }
          // Claims of a few jobs each are what costs most.
          if (free < Math.min(batchSize, concurrency / 4)) {
            scarceSince ??= now();
            const left = worthwhileMillis - (now() - scarceSince);
            if (left > 0) {
              yield* wait(Duration.millis(left));
              continue;
            }
          }
          scarceSince = undefined;
          // While one lane's claim is on its way the jobs of another's run, so each takes a part of what is free.
          const limit = Math.min(batchSize, drains.size === 1 ? free : Math.ceil(free / 2));
          reserved += limit;
          yield* claim(open, limit);
          // What ended at once is settled while the next batch is claimed.
          yield* Effect.yieldNow();
        }
      }).pipe(
        Effect.tapError((error) =>
          Effect.logWarning(`Claiming failed and is tried again: ${databaseError(error).message}`),
        ),
        Effect.retry(again.pipe(Schedule.resetAfter("5 seconds"))),
      );

    // --- settling --------------------------------------------------------------

    const withDelay = ({ failure: { retry, ...failure }, fence, id }: Ended): Effect.Effect<Failure> =>
      Effect.map(Random.next, (chance) => ({
        ...failure,
        id,
        fence,
        delayMillis: retry === undefined ? failure.delayMillis : delayMillis(retry.policy, retry.attempt, chance),
      }));

    // Tried until the server answers. What it refuses for good is tried one by one, so that one job cannot hold up the others; that
    // one is left to its lease.
    const settled = <A>(
      jobs: ReadonlyArray<A>,
      write: (jobs: ReadonlyArray<A>) => Effect.Effect<number, SqlError>,
    ): Effect.Effect<void> =>
      jobs.length === 0
        ? Effect.void
        : answered(write(jobs)).pipe(
            Effect.tapError((error) =>
              Effect.logWarning(
                `Settling ${jobs.length} jobs failed and is tried again: ${databaseError(error).message}`,
              ),
            ),
            Effect.retry({ while: isPassing, schedule: again }),
            Effect.flatMap((count) => Effect.sync(() => telemetry.unsettled(jobs.length - count))),
            Effect.catchAll((error) =>
              jobs.length === 1
                ? Effect.logError(`A job cannot be settled, and its lease will end: ${databaseError(error).message}`)
                : Effect.forEach(jobs, (job) => settled([job], write), { discard: true }),
            ),
          );

    const settleOnce = Effect.gen(function* () {
      const done = completed.slice(0, 1000);
      completed = completed.slice(1000);
      const ended = failed.slice(0, 200);
      failed = failed.slice(200);
      unsettled = [...done, ...ended];
      const failures = yield* Effect.forEach(ended, withDelay);
      yield* Effect.all([settled(done, store.complete), settled(failures, store.fail)], { concurrency: 2 });
      unsettled = [];
      for (const failure of failures) {
        if (failure.delayMillis !== null && failure.delayMillis < 900) soon(failure);
      }
      for (const { partition } of done) release(partition);
      for (const { partition } of ended) release(partition);
    });

    const settling = Effect.gen(function* () {
      for (;;) {
        yield* toSettle.await;
        yield* toSettle.close;
        while (completed.length > 0 || failed.length > 0) yield* settleOnce;
      }
    });

    const scope = yield* Effect.scope;
    /** A retry that is due before the next look at the table. */
    const soon = ({ delayMillis: millis, id }: Failure) => {
      const partition = partitionOf(id);
      runFork(
        Effect.delay(
          Effect.sync(() => {
            const drain = drains.get(partition);
            if (drain === undefined) return;
            drain.wakes++;
            drain.isDry = false;
            toClaim.unsafeOpen();
          }),
          (millis ?? 0) + 1,
        ),
        { scope },
      );
    };

    // --- leases ----------------------------------------------------------------

    const reported = Effect.suspend(() => {
      const latest = [...reports.values()];
      reports.clear();
      return latest.length === 0 ? Effect.void : store.report(latest);
    });

    const extended = Effect.gen(function* () {
      const runs = [...running.values()];
      const held: ReadonlyArray<Held> = [...runs.map(({ job }) => job), ...unsettled, ...completed, ...failed];
      if (held.length > 0) {
        const kept = new Set(yield* answered(store.extend(held, leaseMillis)));
        interrupt(
          runs.filter(({ job }) => !kept.has(job.id)),
          "lost",
        );
      }
    });

    let nextExtension = now();
    const extending = Effect.gen(function* () {
      for (;;) {
        const left = nextExtension - now();
        yield* Effect.raceFirst(toExtend.await, Effect.sleep(Math.max(0, left)));
        const isHurried = left > 0 && !isCancelHurried;
        yield* toExtend.close;
        isCancelHurried = false;
        yield* reported;
        if (isHurried) {
          // Reports come as often as a handler likes.
          yield* Effect.sleep("100 millis");
          continue;
        }
        nextExtension = now() + leaseMillis / 3;
        yield* extended;
      }
    }).pipe(
      Effect.tapError((error) =>
        Effect.logWarning(`Renewing leases failed and is tried again: ${databaseError(error).message}`),
      ),
      Effect.retry(again.pipe(Schedule.resetAfter("5 seconds"))),
    );
    let isCancelHurried = false;

    // --- what is offered -------------------------------------------------------

    const isAtRest = (partition: number) => (inHand.get(partition) ?? 0) === 0;
    const atRest = (isOver: () => boolean, patience: Duration.DurationInput) =>
      Effect.iterate(undefined, { while: () => !isOver(), body: () => Effect.sleep("10 millis") }).pipe(
        Effect.timeoutOption(patience),
        // A stop is in the world's time, also where a test holds the clock.
        Effect.withClock(Clock.make()),
      );

    const drain = (partition: number, isOwned: () => boolean) =>
      Effect.gen(function* () {
        const open = drains.get(partition);
        const current: Drain = open ?? {
          partition,
          isOwned,
          done: yield* Deferred.make<void>(),
          after: "",
          wakes: 0,
          isDry: false,
        };
        current.wakes++;
        current.isDry = false;
        drains.set(partition, current);
        toClaim.unsafeOpen();
        if (open !== undefined) return;
        yield* Deferred.await(current.done).pipe(
          Effect.onInterrupt(() =>
            Effect.suspend(() => {
              drains.delete(partition);
              interrupt(
                [...running.values()].filter(({ job }) => job.partition === partition),
                "stop",
              );
              return atRest(() => isAtRest(partition), "5 seconds");
            }),
          ),
        );
      });

    const stop = Effect.gen(function* () {
      isStopping = true;
      const isIdle = () => running.size + reserved === 0;
      yield* atRest(isIdle, grace);
      interrupt(running.values(), "stop");
      yield* atRest(() => isIdle() && completed.length + failed.length + unsettled.length === 0, "5 seconds");
    });

    for (let lane = 0; lane < lanes; lane++) yield* Effect.forkScoped(claiming(lane));
    yield* Effect.forkScoped(settling);
    yield* Effect.forkScoped(extending);
    // Before the fibers end: finalizers run in reverse.
    yield* Effect.addFinalizer(() => stop);

    return Worker.of({
      drain,
      suspect: (partitions) =>
        Effect.sync(() => {
          suspects = new Set(partitions);
          toClaim.unsafeOpen();
        }),
      cancelled: (partition) => {
        if ([...running.values()].some(({ job }) => job.partition === partition)) {
          isCancelHurried = true;
          toExtend.unsafeOpen();
        }
      },
      running: () => running.size,
      isAnswered: () => isAnswered,
    });
  });

export const layer = (options: WorkerOptions): Layer.Layer<Worker, never, JobStore | JobHandlers | JobTelemetry> =>
  Layer.scoped(Worker, make(options));
