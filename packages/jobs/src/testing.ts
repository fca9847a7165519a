/**
 * A test kit: handlers run in memory, with the same engine and the same semantics as on PostgreSQL (one suite holds both), on
 * the clock of the test.
 *
 * ```ts
 * layer(Testing.layer({ handlers: ResizeLive }))("resizing", (it) => {
 *   it.effect("gives up on a broken image", () => Effect.gen(function* () {
 *     const { jobId } = yield* Jobs.submit(Resize, { path: "broken.png" }, { appId })
 *     yield* Testing.settled
 *     …
 *   }))
 * })
 * ```
 *
 * What it has not: tenants' scopes and transactions. A handler that uses the database needs a database in its test.
 */

import { boundHistory, boundText } from "@parametric-portal/database/error-text";
import type { JobDlqReason, JobPriority, JobStatus } from "@parametric-portal/database/models";
import type { Abandoned } from "@parametric-portal/database/repos";
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Hash from "effect/Hash";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Schedule from "effect/Schedule";
import { type JobHandlers, layer as layerHandlers } from "./handlers.js";
import { type Claimed, type Held, JobDesk, type JobState, JobStore, type Submission } from "./job-store.js";
import { makeLook } from "./lookout.js";
import { partitionOf, partitions } from "./partition.js";
import { layerNone } from "./telemetry.js";
import { layer as layerWorker, Worker, type WorkerOptions } from "./worker.js";

/** A dead letter of the test. */
export interface DeadLetter {
  readonly id: string;
  readonly originalJobId: string;
  readonly appId: string;
  readonly type: string;
  /** As the Schema of the type encodes it. */
  readonly payload: unknown;
  readonly errorReason: JobDlqReason;
  readonly attempts: number;
  /** Timestamps in milliseconds of the test's clock. */
  readonly errorHistory: ReadonlyArray<{ readonly error: string; readonly timestamp: number }>;
  readonly isReplayed: boolean;
}

interface Row {
  readonly id: string;
  readonly submission: Submission;
  dedupeKey: string | null;
  payload: string;
  status: JobStatus;
  attempts: number;
  replays: number;
  scheduledAt: number;
  startedAt: number | null;
  completedAt: number | null;
  lockedBy: string | null;
  lockedUntil: number;
  fence: number;
  suspect: boolean;
  inCompany: boolean;
  progress: string | null;
  history: ReadonlyArray<{ readonly error: string; readonly timestamp: number }>;
}

/** What a test sees of the queue beside `Jobs`. */
export class TestJobs extends Context.Tag("@parametric-portal/jobs/testing/TestJobs")<
  TestJobs,
  {
    /** Every job, in the order of submission. */
    readonly jobs: Effect.Effect<ReadonlyArray<JobState>>;
    /** Every dead letter, oldest first. */
    readonly deadLetters: Effect.Effect<ReadonlyArray<DeadLetter>>;
    /** Brings the job of a dead letter back, once: false when it was replayed before, or its job is not dead. */
    readonly replay: (deadLetterId: string) => Effect.Effect<boolean>;
    /**
     * Waits until nothing is due and nothing runs. What is scheduled for later, and a handler that sleeps, need the clock to be
     * moved; a handler that waits for the world outside is not waited for.
     */
    readonly settled: Effect.Effect<void>;
    /** For tests of the semantics themselves: ends all leases, as if the runner had vanished. */
    readonly vanish: Effect.Effect<void>;
  }
>() {}

const order: Readonly<Record<JobPriority, number>> = { critical: 0, high: 1, normal: 2, low: 3 };
const isUnfinished = ({ status }: Row) => status === "pending" || status === "processing";

/** Turns of the event loop in which a run has to move, or counts as asleep. */
const turnsOfPatience = 50;

/** A uuid that counts: tests print the same ids in every run. */
const uuidAt = (n: number) => `01900000-0000-7000-8000-${n.toString(16).padStart(12, "0")}`;

const make = Effect.sync(() => {
  const rows = new Map<string, Row>();
  const letters: Array<DeadLetter> = [];
  let ids = 0;
  let fences = 0;
  const listeners = new Set<{
    readonly due: (partitions?: ReadonlyArray<number>) => void;
    readonly cancelled: (partition: number) => void;
  }>();
  const tellDue = (id: string) => {
    for (const { due } of listeners) due([partitionOf(id)]);
  };

  const stateOf = (row: Row): JobState => ({
    jobId: row.id,
    appId: row.submission.appId,
    type: row.submission.type,
    status: row.status,
    attempts: row.attempts,
    maxAttempts: row.submission.maxAttempts,
    replays: row.replays,
    progress: row.progress === null ? null : JSON.parse(row.progress),
    scheduledAt: new Date(row.scheduledAt),
    startedAt: row.startedAt === null ? null : new Date(row.startedAt),
    completedAt: row.completedAt === null ? null : new Date(row.completedAt),
    lastError: row.history.at(-1)?.error ?? null,
  });

  const holding = ({ fence, id }: Held) => {
    const row = rows.get(id);
    return row !== undefined && row.status === "processing" && String(row.fence) === fence ? row : undefined;
  };
  const letGo = (row: Row, status: JobStatus, now: number) => {
    row.status = status;
    row.lockedBy = null;
    row.inCompany = false;
    row.completedAt = status === "pending" ? null : now;
  };
  const withError = (row: Row, error: string, timestamp: number) => {
    row.history = boundHistory([...row.history, { error: boundText(error), timestamp }]);
  };
  const bury = (row: Row, errorReason: JobDlqReason) =>
    letters.push({
      id: uuidAt(++ids),
      originalJobId: row.id,
      appId: row.submission.appId,
      type: row.submission.type,
      payload: JSON.parse(row.payload),
      errorReason,
      attempts: row.attempts,
      errorHistory: row.history,
      isReplayed: false,
    });

  const take = (row: Row, runner: string, leaseMillis: number, inCompany: boolean, now: number): Claimed => {
    row.status = "processing";
    row.attempts++;
    row.startedAt = now;
    row.lockedBy = runner;
    row.lockedUntil = now + leaseMillis;
    row.inCompany = inCompany;
    row.fence = ++fences;
    return {
      id: row.id,
      fence: String(row.fence),
      appId: row.submission.appId,
      type: row.submission.type,
      payload: row.payload,
      attempts: row.attempts,
      maxAttempts: row.submission.maxAttempts,
      replays: row.replays,
      requestId: row.submission.requestId,
      userId: row.submission.userId,
      partition: partitionOf(row.id),
      waitedMillis: now - row.scheduledAt,
    };
  };

  const waiting = (wanted: ReadonlySet<number>, suspect: boolean, now: number) =>
    [...rows.values()].filter(
      (row) =>
        row.status === "pending" &&
        row.suspect === suspect &&
        row.scheduledAt <= now &&
        wanted.has(partitionOf(row.id)),
    );
  const byTime = (a: Row, b: Row) => a.scheduledAt - b.scheduledAt || (a.id < b.id ? -1 : 1);
  const byPriority = (a: Row, b: Row) => order[a.submission.priority] - order[b.submission.priority] || byTime(a, b);
  const at = <A>(use: (now: number) => A) => Effect.map(Clock.currentTimeMillis, use);

  const store: (typeof JobStore)["Service"] = {
    claim: ({ draw, isByAge, leaseMillis, limit, runner, turns }) =>
      at((now) => {
        const drawn = ({ submission: { appId } }: Row) => Hash.string(`${draw}${appId}`);
        const sorted = waiting(new Set(turns.map(({ partition }) => partition)), false, now).sort(
          isByAge ? byTime : byPriority,
        );
        const places = new Map<string, number>();
        const placed = sorted.map((row) => {
          const place = places.get(row.submission.appId) ?? 0;
          places.set(row.submission.appId, place + 1);
          return { row, place };
        });
        // The first of each tenant, then the second of each; between equals it is drawn. Sorting is stable.
        placed.sort(
          (a, b) =>
            a.place - b.place ||
            (isByAge
              ? 0
              : order[a.row.submission.priority] - order[b.row.submission.priority] || drawn(a.row) - drawn(b.row)),
        );
        return {
          jobs: placed.slice(0, limit).map(({ row }) => take(row, runner, leaseMillis, true, now)),
          turns: turns.map(({ partition }) => ({ partition, after: "" })),
        };
      }),
    claimSuspect: ({ leaseMillis, partitions: wanted, runner }) =>
      at((now) => {
        const [first] = waiting(new Set(wanted), true, now).sort(byTime);
        return first === undefined ? Option.none() : Option.some(take(first, runner, leaseMillis, false, now));
      }),
    complete: (done) =>
      at((now) => {
        let count = 0;
        for (const held of done) {
          const row = holding(held);
          if (row === undefined) continue;
          letGo(row, "completed", now);
          row.suspect = false;
          count++;
        }
        return { count, locked: [] };
      }),
    fail: (failures) =>
      at((now) => {
        let count = 0;
        for (const { delayMillis, error, outcome, reason, ...held } of failures) {
          const row = holding(held);
          if (row === undefined) continue;
          count++;
          if (error !== null) withError(row, error, now);
          if (outcome === "back") row.attempts = Math.max(0, row.attempts - 1);
          row.suspect = row.suspect && outcome === "back" && delayMillis === null;
          if (delayMillis !== null) row.scheduledAt = now + delayMillis;
          letGo(row, outcome === "dead" ? "dead" : "pending", now);
          if (outcome === "dead") bury(row, reason ?? "MaxRetries");
        }
        return { count, locked: [] };
      }),
    extend: (held, leaseMillis) =>
      at((now) =>
        held.flatMap((one) => {
          const row = holding(one);
          if (row === undefined) return [];
          row.lockedUntil = now + leaseMillis;
          return [one.fence];
        }),
      ),
    report: (reports) =>
      Effect.sync(() => {
        for (const { progress, ...held } of reports) {
          const row = holding(held);
          if (row !== undefined) row.progress = progress;
        }
      }),
    due: (wanted) =>
      at((now) => {
        const of = (suspect: boolean) => [
          ...new Set(waiting(new Set(wanted), suspect, now).map(({ id }) => partitionOf(id))),
        ];
        return { due: of(false), suspects: of(true) };
      }),
    rescue: () =>
      at((now) => {
        let retried = 0;
        const deadLetters: Array<Abandoned> = [];
        for (const row of rows.values()) {
          if (row.status !== "processing" || row.lockedUntil >= now) continue;
          withError(row, `RunnerUnavailable: runner ${row.lockedBy} vanished during attempt ${row.attempts}`, now);
          row.fence = ++fences;
          const { maxAttempts } = row.submission;
          if (row.inCompany || row.attempts < maxAttempts) {
            if (row.inCompany) row.attempts = Math.min(row.attempts, maxAttempts - 1);
            letGo(row, "pending", now);
            row.suspect = true;
            retried++;
          } else {
            letGo(row, "dead", now);
            row.suspect = false;
            bury(row, "RunnerUnavailable");
            const { appId, requestId, type } = row.submission;
            deadLetters.push({ jobId: row.id, appId, type, attempts: row.attempts, requestId });
          }
        }
        return { retried, deadLetters };
      }),
    listen: (on) =>
      Effect.asVoid(
        Effect.acquireRelease(
          Effect.sync(() => listeners.add(on)),
          () => Effect.sync(() => listeners.delete(on)),
        ),
      ),
    tenantContext: () => Context.empty(),
    inTransaction: (_, run) => Effect.as(run, false),
  };

  const submitOne = (submission: Submission, now: number) => {
    const { appId, dedupeKey, type } = submission;
    const holder =
      dedupeKey === null
        ? undefined
        : [...rows.values()].find(
            (row) =>
              isUnfinished(row) &&
              row.dedupeKey === dedupeKey &&
              row.submission.appId === appId &&
              row.submission.type === type,
          );
    if (holder !== undefined) return { jobId: holder.id, isDuplicate: true };
    const id = uuidAt(++ids);
    rows.set(id, {
      id,
      submission,
      dedupeKey,
      payload: submission.payload,
      status: "pending",
      attempts: 0,
      replays: 0,
      scheduledAt: now + submission.delayMillis,
      startedAt: null,
      completedAt: null,
      lockedBy: null,
      lockedUntil: 0,
      fence: ++fences,
      suspect: false,
      inCompany: false,
      progress: null,
      history: [],
    });
    return { jobId: id, isDuplicate: false };
  };

  const desk: (typeof JobDesk)["Service"] = {
    submit: (jobs) =>
      at((now) => {
        const submitted = jobs.map((job) => submitOne(job, now));
        for (const { jobId } of submitted) tellDue(jobId);
        return submitted;
      }),
    state: (jobId) => Effect.sync(() => Option.map(Option.fromNullable(rows.get(jobId)), stateOf)),
    cancel: (jobId) =>
      at((now) =>
        Option.map(Option.fromNullable(rows.get(jobId)), (row) => {
          const { status } = row;
          if (isUnfinished(row)) {
            letGo(row, "cancelled", now);
            row.fence = ++fences;
            for (const { cancelled } of listeners) cancelled(partitionOf(jobId));
          }
          return status;
        }),
      ),
  };

  const replay = (deadLetterId: string) =>
    at((now) => {
      const place = letters.findIndex(({ id }) => id === deadLetterId);
      const letter = letters[place];
      const row = letter === undefined ? undefined : rows.get(letter.originalJobId);
      if (letter === undefined || letter.isReplayed || row?.status !== "dead") return false;
      letters[place] = { ...letter, isReplayed: true };
      letGo(row, "pending", now);
      row.attempts = 0;
      row.history = [];
      row.dedupeKey = null;
      row.suspect = false;
      row.progress = null;
      row.replays++;
      row.fence = ++fences;
      row.scheduledAt = now;
      tellDue(row.id);
      return true;
    });

  const vanish = at((now) => {
    for (const row of rows.values()) {
      if (row.status === "processing") row.lockedUntil = now - 1;
    }
  });

  /** What there is to wait for: something runs, something is due; and what that looks like, to see whether it moves. */
  const busy = at((now) => {
    const runs = [...rows.values()].filter(({ status }) => status === "processing").map(({ fence }) => fence);
    const due = [...rows.values()]
      .filter((row) => row.status === "pending" && row.scheduledAt <= now)
      .map(({ fence }) => fence);
    return { isBusy: runs.length + due.length > 0, seen: `${runs.join()}/${due.join()}` };
  });

  return { store, desk, replay, vanish, busy, rows, letters, stateOf };
});

/** The queue in memory, as the engine and its callers see it. */
const layerStore = Layer.effectContext(
  Effect.map(make, ({ busy, desk, letters, replay, rows, stateOf, store, vanish }) =>
    Context.make(JobStore, store).pipe(
      Context.add(JobDesk, desk),
      Context.add(TestJobs, {
        jobs: Effect.sync(() => [...rows.values()].map(stateOf)),
        deadLetters: Effect.sync(() => [...letters]),
        replay,
        vanish,
        settled: Effect.gen(function* () {
          // Everything that moves is a fiber of this process: each gets its turn until nothing is left, or only what sleeps.
          let still = 0;
          let before = "";
          for (;;) {
            const { isBusy, seen } = yield* busy;
            if (!isBusy) return;
            still = seen === before ? still + 1 : 0;
            if (still === turnsOfPatience) return;
            before = seen;
            yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)));
          }
        }),
      }),
    ),
  ),
);

/** What the cluster does for a runner: here all partitions are this one's. */
const layerOwner = Layer.scopedDiscard(
  Effect.gen(function* () {
    const store = yield* JobStore;
    const worker = yield* Worker;
    const scope = yield* Effect.scope;
    const wake = (partition: number) =>
      Effect.forkIn(
        worker.drain(partition, () => true),
        scope,
      );
    const runtime = yield* Effect.runtime();
    yield* store.listen({
      due: (due = partitions) => {
        for (const partition of due) Effect.runFork(Effect.provide(wake(partition), runtime));
      },
      cancelled: worker.cancelled,
    });
    const look = yield* makeLook({ graceMillis: 0, owned: () => partitions, wake });
    yield* Effect.forkScoped(Effect.repeat(look, Schedule.spaced("1 second")));
  }),
);

export interface TestingOptions<E, R> extends Partial<WorkerOptions> {
  /** The handlers under test: the layers of `JobType.toLayer`, merged. */
  readonly handlers: Layer.Layer<never, E, R>;
}

/** `Jobs` and a runner in memory. Under `it.effect` its clock is the test's. */
export const layer = <E, R>(
  options: TestingOptions<E, R>,
): Layer.Layer<JobDesk | JobStore | TestJobs | Worker, E, Exclude<R, JobHandlers>> =>
  layerOwner.pipe(
    Layer.provideMerge(layerWorker({ runner: "test", grace: 0, ...options })),
    Layer.provide([Layer.provideMerge(options.handlers, layerHandlers), layerNone]),
    Layer.provideMerge(layerStore),
  ) as Layer.Layer<JobDesk | JobStore | TestJobs | Worker, E, Exclude<R, JobHandlers>>;

/** {@link TestJobs.settled} of the queue in the context. */
export const settled: Effect.Effect<void, never, TestJobs> = Effect.flatMap(TestJobs, (_) => _.settled);
/** Every dead letter, oldest first. */
export const deadLetters: Effect.Effect<ReadonlyArray<DeadLetter>, never, TestJobs> = Effect.flatMap(
  TestJobs,
  (_) => _.deadLetters,
);
/** Brings the job of a dead letter back, once. */
export const replay = (deadLetterId: string): Effect.Effect<boolean, never, TestJobs> =>
  Effect.flatMap(TestJobs, (_) => _.replay(deadLetterId));
