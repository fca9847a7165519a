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
import { boundText, errorText } from "@parametric-portal/database/error-text";
import { InvalidInput } from "@parametric-portal/database/errors";
import { firstIssue } from "@parametric-portal/database/issue";
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
import type { ParseError } from "effect/ParseResult";
import * as Random from "effect/Random";
import * as Runtime from "effect/Runtime";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import { type Handler, JobHandlers } from "./handlers.js";
import { type Claimed, type Failure, FenceLost, type Held, JobStore, type Settlement } from "./job-store.js";
import { type JobContext, JobPostponed, JobRejected } from "./job-type.js";
import { partitionOf } from "./partition.js";
import { delayMillis, maxDelayMillis, policyOf, type RetryOptions, type RetryPolicy } from "./retry.js";
import { JobTelemetry } from "./telemetry.js";

export interface WorkerOptions {
  /** What `jobs.locked_by` shows. Unique among the runners. */
  readonly runner: string;
  /** Most jobs that run at a time in this process. Default 64; 1,000 and more for jobs that take less than a millisecond. */
  readonly concurrency?: number | undefined;
  /** Most jobs in one claim. Default 500. */
  readonly batchSize?: number | undefined;
  /** How long a claimed job stays the runner's without a sign of life; it gives three in that time. Default 5 seconds. */
  readonly lease?: Duration.DurationInput | undefined;
  /** How long a stop waits for running jobs before it interrupts them and gives them back. Default 10 seconds. */
  readonly grace?: Duration.DurationInput | undefined;
  /**
   * How long no job is claimed so that the others end and a suspect can run alone. If they do not, the next try is six times as
   * long away, and then twice as long each time, up to an hour. Default 10 seconds. While a suspect runs nothing else does,
   * however long that takes: beside others it could not be blamed.
   */
  readonly patience?: Duration.DurationInput | undefined;
  /**
   * When jobs are tried again whose type has no handler here: a deployment may be under way, and others may know the type already.
   * Default 10 seconds, three times as long each time, at most an hour: five attempts are between three and seven minutes.
   */
  readonly missingHandler?: Omit<RetryOptions, "maxAttempts"> | undefined;
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
  const issue = firstIssue(error);
  const path = issue.path.map(String).join(".");
  const problem = issue.message;
  // It quotes the value, which may be as long as a payload.
  return `${path === "" ? "" : ` at ${path}`}: ${problem.length > 500 ? `${problem.slice(0, 500)}…` : problem}`;
};

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
    const leaseMillis = Duration.toMillis(options.lease ?? "5 seconds");
    const grace = Duration.decode(options.grace ?? "10 seconds");
    const patienceMillis = Duration.toMillis(options.patience ?? "10 seconds");
    for (const [field, value] of [
      ["concurrency", concurrency],
      ["batchSize", batchSize],
      ["lease", leaseMillis],
    ] as const) {
      if (!(value >= 1 && (field === "lease" || Number.isInteger(value)) && Number.isFinite(value))) {
        // A constant of the program, as those of a job type are.
        return yield* Effect.die(
          new InvalidInput({ operation: "Runner", field, problem: `is ${value}; it must be 1 or more` }),
        );
      }
    }
    const { factor = 3, initial = "10 seconds", ...others } = options.missingHandler ?? {};
    const missingPolicy = policyOf({ ...others, factor, initial });
    if (typeof missingPolicy === "string") {
      return yield* Effect.die(
        new InvalidInput({ operation: "Runner", field: "missingHandler", problem: missingPolicy }),
      );
    }
    const runFork = Runtime.runFork(runtime);
    const scope = yield* Effect.scope;

    // --- state -----------------------------------------------------------------

    const drains = new Map<number, Drain>();
    const running = new Map<string, Run>();
    /** Of each partition, what is claimed and not settled. */
    const inHand = new Map<number, number>();
    let completed: Array<Held & { readonly partition: number }> = [];
    let failed: Array<Ended> = [];
    let isSettling = false;
    /** Settled later, because somebody holds their rows. */
    const deferred = new Set<Held>();
    const reports = new Map<string, Held & { readonly progress: string }>();
    let isStopping = false;
    let isAnswered = true;
    const toClaim = Effect.unsafeMakeLatch(false);
    const toSettle = Effect.unsafeMakeLatch(false);
    const toExtend = Effect.unsafeMakeLatch(false);
    // Of the clock that nobody sets: what is waited for is a duration.
    const now = () => Number(clock.unsafeCurrentTimeNanos() / 1_000_000n);

    const answered = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.tapBoth(effect, {
        onFailure: () => Effect.sync(() => (isAnswered = false)),
        onSuccess: () => Effect.sync(() => (isAnswered = true)),
      });

    /** A loop that fails or dies begins anew, and says so; a runner without one of them would look well and do nothing. */
    const kept =
      (what: string) =>
      <A>(loop: Effect.Effect<A, SqlError>): Effect.Effect<A> =>
        loop.pipe(
          Effect.mapError((error) => databaseError(error).message),
          Effect.catchAllDefect((defect) => Effect.fail(errorText(defect))),
          Effect.tapError((problem) =>
            Effect.zipRight(
              Effect.sync(() => (isAnswered = false)),
              Effect.logWarning(`${what} failed and is tried again: ${problem}`),
            ),
          ),
          Effect.retry(again.pipe(Schedule.resetAfter("5 seconds"))),
          Effect.orDie,
        );

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

    const fail = (job: Claimed, failure: Ended["failure"], millis: number) => {
      telemetry.ended(job, failure.outcome, millis, failure.reason);
      settle(job, failure);
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
        return { ...back, delayMillis: Math.min(Math.max(0, Duration.toMillis(postponed.delay)), maxDelayMillis) };
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
      fail(job, failureOf(run, exit.cause), now() - run.began);
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

    /** The payload, or what is wrong with it: also where a transformation of the Schema throws. */
    const decoded = (handler: Handler, job: Claimed): Either.Either<unknown, string> => {
      try {
        return Either.mapLeft(handler.decode(job.payload), (_) => `The payload does not fit ${job.type}${misfit(_)}`);
      } catch (defect) {
        return Either.left(`The payload does not fit ${job.type}: ${errorText(defect)}`);
      }
    };

    const start = (job: Claimed) => {
      count(job.partition, 1);
      const began = now();
      telemetry.started(job);
      const handler = handlers.get(job.type);
      if (handler === undefined) {
        const problem = `No handler for ${job.type} on runner ${options.runner}`;
        return fail(job, retryOrDead(job, missingPolicy, "HandlerMissing", problem), 0);
      }
      const payload = decoded(handler, job);
      if (Either.isLeft(payload)) return fail(job, dead("Validation", boundText(payload.left)), 0);
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

    /** Slots for which a claim is under way. */
    let reserved = 0;
    const claim = (open: ReadonlyArray<Drain>, limit: number, isByAge: boolean) =>
      Effect.gen(function* () {
        const before = open.map(({ after, partition, wakes }) => ({ after, partition, wakes }));
        const draw = yield* Random.nextInt;
        const { jobs, turns } = yield* answered(
          store
            .claim({
              runner: options.runner,
              leaseMillis,
              limit,
              turns: before.map(({ after, partition }) => ({ after, partition })),
              isByAge,
              draw,
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
    const firstRest = 6 * patienceMillis;
    let rest = firstRest;

    /** Whether claims have to wait for a suspect; runs it when it can be alone. */
    const isTrialDue = () => {
      if (suspects.size > 0 && !isStopping && now() >= noTrialBefore) return true;
      pausedSince = undefined;
      return false;
    };
    const trial = Effect.gen(function* () {
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
        yield* Effect.iterate(undefined, {
          while: () => running.size > 0,
          body: () => Effect.as(wait(tick), undefined),
        });
        // The others get as much time as they lost before the next one.
        noTrialBefore = now() + (now() - pausedSince) + 1;
        pausedSince = undefined;
        rest = firstRest;
        return false;
      }
      if (paused < patienceMillis) return true;
      // Something runs long. It may end by the next try; the longer it runs, the rarer are the tries.
      noTrialBefore = now() + rest;
      rest = Math.min(rest * 2, 3_600_000);
      pausedSince = undefined;
      return false;
    });

    let isPaused = false;
    const claiming = (lane: number) =>
      Effect.gen(function* () {
        let scarceSince: number | undefined;
        let claims = 0;
        for (;;) {
          if (lane === 0) {
            // Before the look: the other lane claims nothing while a suspect is on its way.
            isPaused = isTrialDue();
            if (isPaused) isPaused = yield* trial;
          }
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
          yield* claim(open, limit, ++claims % 16 === 0);
          // What ended at once is settled while the next batch is claimed.
          yield* Effect.yieldNow();
        }
      }).pipe(kept("Claiming"));

    // --- settling --------------------------------------------------------------

    const withDelay = ({ failure: { retry, ...failure }, fence, id }: Ended): Effect.Effect<Failure> =>
      Effect.map(Random.next, (chance) => ({
        ...failure,
        id,
        fence,
        delayMillis: retry === undefined ? failure.delayMillis : delayMillis(retry.policy, retry.attempt, chance),
      }));

    // Tried until the server answers. What it refuses for good is tried one by one, so that one job cannot hold up the others; that
    // one is left to its lease. Returns the fences of those whose rows somebody holds.
    const settled = <A>(
      jobs: ReadonlyArray<A>,
      write: (jobs: ReadonlyArray<A>) => Effect.Effect<Settlement, SqlError>,
    ): Effect.Effect<ReadonlyArray<string>> =>
      jobs.length === 0
        ? Effect.succeed([])
        : answered(write(jobs)).pipe(
            Effect.tapError((error) =>
              Effect.logWarning(
                `Settling ${jobs.length} jobs failed and is tried again: ${databaseError(error).message}`,
              ),
            ),
            Effect.retry({ while: isPassing, schedule: again }),
            Effect.map(({ count, locked }) => {
              telemetry.unsettled(jobs.length - count - locked.length);
              return locked;
            }),
            Effect.catchAll((error) =>
              jobs.length === 1
                ? Effect.as(
                    Effect.logError(`A job cannot be settled, and its lease will end: ${databaseError(error).message}`),
                    [],
                  )
                : Effect.map(
                    Effect.forEach(jobs, (job) => settled([job], write)),
                    (_) => _.flat(),
                  ),
            ),
          );

    /** Settles them once more in a while; their leases are renewed meanwhile. */
    const defer = (done: typeof completed, ended: typeof failed) => {
      const all = [...done, ...ended];
      if (all.length === 0) return;
      for (const held of all) deferred.add(held);
      runFork(
        Effect.delay(
          Effect.sync(() => {
            for (const held of all) deferred.delete(held);
            completed.push(...done);
            failed.push(...ended);
            toSettle.unsafeOpen();
          }),
          "500 millis",
        ),
        { scope },
      );
    };

    const settleOnce = Effect.gen(function* () {
      const done = completed.slice(0, 1000);
      completed = completed.slice(1000);
      const ended = failed.slice(0, 200);
      failed = failed.slice(200);
      isSettling = true;
      const failures = yield* Effect.forEach(ended, withDelay);
      const locked = new Set(
        (yield* Effect.all([settled(done, store.complete), settled(failures, store.fail)], { concurrency: 2 })).flat(),
      );
      isSettling = false;
      const isLocked = ({ fence }: Held) => locked.has(fence);
      defer(done.filter(isLocked), ended.filter(isLocked));
      for (const failure of failures) {
        if (failure.delayMillis !== null && failure.delayMillis < 900 && !isLocked(failure)) soon(failure);
      }
      for (const job of [...done, ...ended]) if (!isLocked(job)) release(job.partition);
    });

    const settling = Effect.gen(function* () {
      for (;;) {
        yield* toSettle.await;
        yield* toSettle.close;
        while (completed.length > 0 || failed.length > 0) yield* settleOnce;
      }
    }).pipe(kept("Settling"));

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
      // Not what is being settled: two statements that want the same rows wait for each other.
      const held: ReadonlyArray<Held> = [...runs.map(({ job }) => job), ...completed, ...failed, ...deferred];
      if (held.length > 0) {
        const renewed = new Set(yield* answered(store.extend(held, leaseMillis)));
        interrupt(
          runs.filter(({ job }) => !renewed.has(job.fence)),
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
        if (!isHurried) {
          nextExtension = now() + leaseMillis / 3;
          yield* extended;
        }
        yield* reported;
        // Reports come as often as a handler likes.
        if (isHurried) yield* Effect.sleep("100 millis");
      }
    }).pipe(kept("Renewing leases"));
    let isCancelHurried = false;

    // --- what is offered -------------------------------------------------------

    const isAtRest = (partition: number) => (inHand.get(partition) ?? 0) === 0;
    const atRest = (isOver: () => boolean, patience: Duration.DurationInput) =>
      Effect.iterate(undefined, { while: () => !isOver(), body: () => Effect.sleep("10 millis") }).pipe(
        // In a finalizer nothing else could end it.
        Effect.interruptible,
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
      yield* atRest(
        () => isIdle() && completed.length + failed.length + deferred.size === 0 && !isSettling,
        "5 seconds",
      );
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
