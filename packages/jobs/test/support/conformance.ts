/** What jobs promise, whatever keeps them: the same suite for PostgreSQL and for the test kit. */
import { assert, type Vitest } from "@effect/vitest";
import { JobNotFound } from "@parametric-portal/database/errors";
import type { JobDlqReason } from "@parametric-portal/database/models";
import * as Chunk from "effect/Chunk";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Ref from "effect/Ref";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import type { JobHandlers } from "../../src/handlers.js";
import type { JobDesk } from "../../src/job-store.js";
import * as JobType from "../../src/job-type.js";
import * as Jobs from "../../src/jobs.js";
import type { WorkerOptions } from "../../src/worker.js";

/** A dead letter as both have it. */
export interface Letter {
  readonly id: string;
  readonly originalJobId: string;
  readonly errorReason: string;
  readonly attempts: number;
  readonly payload: unknown;
  readonly errorHistory: ReadonlyArray<{ readonly error: string; readonly timestamp: number }>;
}

/** What differs between the two. */
export interface Backend<R> {
  readonly newTenant: Effect.Effect<string, unknown, R>;
  /** A runner with these handlers, for as long as the effect runs. */
  readonly withRunner: (
    handlers: Layer.Layer<never, never, JobHandlers>,
    options?: Pick<WorkerOptions, "concurrency" | "missingHandler">,
  ) => <A, E>(effect: Effect.Effect<A, E, R | JobDesk>) => Effect.Effect<A, unknown, R>;
  /** Lets time pass: the test's, or the world's. */
  readonly pass: (millis: number) => Effect.Effect<void>;
  readonly letters: (appId: string) => Effect.Effect<ReadonlyArray<Letter>, unknown, R>;
  readonly replay: (appId: string, id: string) => Effect.Effect<boolean, unknown, R>;
  /** Ends the leases of everything that runs, as if its runner had vanished. */
  readonly vanish: (appId: string) => Effect.Effect<void, unknown, R>;
}

const quick = { initial: "100 millis", factor: 2, max: "300 millis", jitter: 0 } as const;
const Anything = S.Struct({ n: S.Number });

export const conformance = <R>(it: Vitest.MethodsNonLive<R, boolean>, backend: Backend<R>) => {
  /** Waits until a job is where it should be. */
  const until = (jobId: string, isThere: (state: Jobs.JobState) => boolean) =>
    Effect.gen(function* () {
      for (let round = 0; round < 600; round++) {
        const state = Option.getOrThrow(yield* Jobs.status(jobId));
        if (isThere(state)) return state;
        yield* backend.pass(50);
      }
      const state = yield* Jobs.status(jobId);
      return yield* Effect.dieMessage(`the job stays ${JSON.stringify(state)}`);
    });
  const ended = (jobId: string) =>
    until(jobId, ({ status }) => status === "completed" || status === "dead" || status === "cancelled");
  const theLetter = (appId: string, jobId: string) =>
    Effect.map(backend.letters(appId), (letters) => {
      const [letter, ...others] = letters.filter((_) => _.originalJobId === jobId);
      assert.strictEqual(others.length, 0, "one dead letter");
      assert.isDefined(letter);
      return letter;
    });
  const dies = (
    name: string,
    make: () => {
      readonly handlers: Layer.Layer<never, never, JobHandlers>;
      readonly type: JobType.JobType<string, { readonly n: number }, { readonly n: number }>;
    },
    expected: { readonly reason: JobDlqReason; readonly attempts: number; readonly error: RegExp },
  ) =>
    it.effect(name, () =>
      Effect.gen(function* () {
        const appId = yield* backend.newTenant;
        const { handlers, type } = make();
        yield* Effect.gen(function* () {
          const { jobId } = yield* Jobs.submit(type, { n: 7 }, { appId });
          const { attempts, lastError, status } = yield* ended(jobId);
          assert.strictEqual(status, "dead");
          assert.strictEqual(attempts, expected.attempts);
          assert.match(lastError ?? "", expected.error);
          const letter = yield* theLetter(appId, jobId);
          assert.strictEqual(letter.errorReason, expected.reason);
          assert.strictEqual(letter.attempts, expected.attempts);
          assert.deepStrictEqual(letter.payload, { n: 7 });
          assert.strictEqual(letter.errorHistory.length, expected.attempts, "an entry for every attempt");
          for (const { error } of letter.errorHistory) assert.match(error, expected.error);
        }).pipe(backend.withRunner(handlers));
      }),
    );

  it.effect("a job runs once with what it was submitted with, and is completed", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const seen = yield* Ref.make<ReadonlyArray<unknown>>([]);
      const type = JobType.make("conform.plain", {
        payload: S.Struct({ at: S.Date, note: S.optional(S.String) }),
        retry: { maxAttempts: 3 },
      });
      const handlers = type.toLayer((payload, { report: _, ...context }) =>
        Ref.update(seen, (all) => [...all, { payload, context }]),
      );
      const requestId = "0190aaaa-0000-7000-8000-000000000001";
      const userId = "0190aaaa-0000-7000-8000-000000000002";
      const payload = { at: new Date(1_700_000_000_000) };
      yield* Effect.gen(function* () {
        const { isDuplicate, jobId } = yield* Jobs.submit(type, payload, { appId, requestId, userId });
        assert.isFalse(isDuplicate);
        const state = yield* ended(jobId);
        assert.strictEqual(state.status, "completed");
        assert.strictEqual(state.attempts, 1);
        assert.isNull(state.lastError);
        assert.deepStrictEqual(yield* Ref.get(seen), [
          {
            payload,
            context: {
              jobId,
              appId,
              attempt: 1,
              maxAttempts: 3,
              replays: 0,
              requestId,
              userId,
              idempotencyKey: jobId,
            },
          },
        ]);
        assert.deepStrictEqual(yield* backend.letters(appId), []);
      }).pipe(backend.withRunner(handlers));
    }),
  );

  dies(
    "a typed failure is tried again until the attempts run out: MaxRetries",
    () => {
      const type = JobType.make("conform.fails", { payload: Anything, retry: { ...quick, maxAttempts: 3 } });
      return { type, handlers: type.toLayer(({ n }) => Effect.fail(new Error(`no luck with ${n}`))) };
    },
    { reason: "MaxRetries", attempts: 3, error: /^Error: no luck with 7\n {4}at/ },
  );
  dies(
    "so is a defect",
    () => {
      const type = JobType.make("conform.dies", { payload: Anything, retry: { ...quick, maxAttempts: 2 } });
      return {
        type,
        handlers: type.toLayer(() =>
          Effect.sync(() => {
            throw new TypeError("undefined is not a function");
          }),
        ),
      };
    },
    { reason: "MaxRetries", attempts: 2, error: /TypeError: undefined is not a function/ },
  );
  dies(
    "so is a run that takes longer than its type allows",
    () => {
      const type = JobType.make("conform.slow", {
        payload: Anything,
        timeout: "100 millis",
        retry: { ...quick, maxAttempts: 2 },
      });
      return { type, handlers: type.toLayer(() => Effect.never) };
    },
    { reason: "MaxRetries", attempts: 2, error: /after 100ms, the timeout of its type/ },
  );
  dies(
    "a handler that rejects its job has it dead-lettered at once: Validation",
    () => {
      const type = JobType.make("conform.rejects", { payload: Anything, retry: { ...quick, maxAttempts: 5 } });
      return { type, handlers: type.toLayer(({ n }) => new JobType.JobRejected({ problem: `${n} is not for sale` })) };
    },
    { reason: "Validation", attempts: 1, error: /7 is not for sale/ },
  );
  dies(
    "a payload that does not fit the type of the runner is dead-lettered at once: Validation, with the path",
    () => {
      const type = JobType.make("conform.changed", { payload: Anything, retry: { ...quick, maxAttempts: 5 } });
      const newer = JobType.make("conform.changed", { payload: S.Struct({ n: S.String }) });
      return { type, handlers: newer.toLayer(() => Effect.dieMessage("must not run")) };
    },
    {
      reason: "Validation",
      attempts: 1,
      error: /^The payload does not fit conform\.changed at n: Expected string, actual 7$/,
    },
  );
  it.effect("a type without a handler is tried again until its attempts run out: HandlerMissing", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const type = JobType.make("conform.unknown", { payload: Anything, retry: { maxAttempts: 2 } });
      yield* Effect.gen(function* () {
        const { jobId } = yield* Jobs.submit(type, { n: 7 }, { appId });
        yield* until(jobId, ({ attempts, status }) => attempts === 1 && status === "pending");
        yield* ended(jobId);
        const { attempts, errorHistory, errorReason } = yield* theLetter(appId, jobId);
        assert.deepStrictEqual([errorReason, attempts, errorHistory.length], ["HandlerMissing", 2, 2]);
        assert.match(errorHistory[0]?.error ?? "", /No handler for conform\.unknown/);
      }).pipe(backend.withRunner(Layer.empty as Layer.Layer<never>, { missingHandler: quick }));
    }),
  );

  it.effect("a handler that asks to run later does, and that does not count as an attempt", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const runs = yield* Ref.make(0);
      const type = JobType.make("conform.later", { payload: Anything, retry: { maxAttempts: 1 } });
      const handlers = type.toLayer((_, { attempt }) =>
        Effect.gen(function* () {
          assert.strictEqual(attempt, 1);
          const run = yield* Ref.updateAndGet(runs, (_) => _ + 1);
          if (run < 3) return yield* JobType.JobPostponed.after("100 millis");
        }),
      );
      yield* Effect.gen(function* () {
        const { jobId } = yield* Jobs.submit(type, { n: 1 }, { appId });
        const { attempts, lastError, status } = yield* ended(jobId);
        assert.deepStrictEqual([status, attempts, lastError], ["completed", 1, null]);
        assert.strictEqual(yield* Ref.get(runs), 3);
      }).pipe(backend.withRunner(handlers));
    }),
  );

  it.effect("a job is not run before its delay", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const type = JobType.make("conform.delayed", { payload: Anything });
      yield* Effect.gen(function* () {
        const { jobId } = yield* Jobs.submit(type, { n: 1 }, { appId, delay: "700 millis" });
        yield* backend.pass(200);
        assert.strictEqual(Option.getOrThrow(yield* Jobs.status(jobId)).status, "pending");
        const { scheduledAt, startedAt } = yield* ended(jobId);
        assert.isAtLeast(startedAt?.getTime() ?? 0, scheduledAt.getTime());
      }).pipe(backend.withRunner(type.toLayer(() => Effect.void)));
    }),
  );

  it.effect("urgent jobs go first: critical, high, normal, low", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const seen = yield* Ref.make<ReadonlyArray<number>>([]);
      const isOpen = yield* Deferred.make<void>();
      const type = JobType.make("conform.priority", { payload: Anything });
      const handlers = type.toLayer(({ n }) =>
        n === 0 ? Deferred.await(isOpen) : Ref.update(seen, (all) => [...all, n]),
      );
      yield* Effect.gen(function* () {
        const first = yield* Jobs.submit(type, { n: 0 }, { appId });
        yield* until(first.jobId, ({ status }) => status === "processing");
        const jobs = yield* Jobs.submitMany(
          type,
          [
            { payload: { n: 4 }, priority: "low" },
            { payload: { n: 3 } },
            { payload: { n: 1 }, priority: "critical" },
            { payload: { n: 2 }, priority: "high" },
          ],
          { appId },
        );
        yield* Deferred.succeed(isOpen, undefined);
        for (const { jobId } of jobs) yield* ended(jobId);
        assert.deepStrictEqual(yield* Ref.get(seen), [1, 2, 3, 4]);
      }).pipe(backend.withRunner(handlers, { concurrency: 1 }));
    }),
  );

  it.effect("a tenant with a long queue holds up no other, also where one job runs at a time", () =>
    Effect.gen(function* () {
      const [busy, calm] = [yield* backend.newTenant, yield* backend.newTenant];
      const seen: Array<string> = [];
      const isOpen = yield* Deferred.make<void>();
      const type = JobType.make("conform.fair", { payload: Anything });
      const handlers = type.toLayer(({ n }, { appId }) =>
        n === 0 ? Deferred.await(isOpen) : Effect.sync(() => seen.push(appId)),
      );
      const several = (count: number) => Array.from({ length: count }, (_, n) => ({ payload: { n: n + 1 } }));
      yield* Effect.gen(function* () {
        const first = yield* Jobs.submit(type, { n: 0 }, { appId: busy });
        yield* until(first.jobId, ({ status }) => status === "processing");
        const long = yield* Jobs.submitMany(type, several(60), { appId: busy });
        const short = yield* Jobs.submitMany(type, several(5), { appId: calm });
        yield* Deferred.succeed(isOpen, undefined);
        for (const { jobId } of [...long, ...short]) yield* ended(jobId);
        // It is drawn whose turn it is: that they are among the last is one chance in 10,000,000,000.
        assert.isBelow(seen.lastIndexOf(calm), 58, seen.map((_) => (_ === calm ? "c" : "b")).join(""));
      }).pipe(backend.withRunner(handlers, { concurrency: 1 }));
    }),
  );

  it.effect("a dedupe key holds while its job is unfinished, in its tenant and type", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const other = yield* backend.newTenant;
      const isOpen = yield* Deferred.make<void>();
      const type = JobType.make("conform.unique", { payload: Anything });
      const sibling = JobType.make("conform.sibling", { payload: Anything });
      const handlers = Layer.merge(
        type.toLayer(() => Deferred.await(isOpen)),
        sibling.toLayer(() => Effect.void),
      );
      yield* Effect.gen(function* () {
        const options = { appId, dedupeKey: "invoice 7" };
        const first = yield* Jobs.submit(type, { n: 1 }, options);
        assert.deepStrictEqual(yield* Jobs.submit(type, { n: 2 }, options), { jobId: first.jobId, isDuplicate: true });
        yield* until(first.jobId, ({ status }) => status === "processing");
        assert.isTrue((yield* Jobs.submit(type, { n: 2 }, options)).isDuplicate, "also while it runs");
        assert.isFalse((yield* Jobs.submit(sibling, { n: 2 }, options)).isDuplicate, "another type");
        assert.isFalse(
          (yield* Jobs.submit(type, { n: 2 }, { ...options, appId: other })).isDuplicate,
          "another tenant",
        );
        const many = yield* Jobs.submitMany(
          type,
          [{ payload: { n: 3 } }, { payload: { n: 4 } }, { payload: { n: 5 }, dedupeKey: "invoice 7" }],
          { appId, dedupeKey: "invoice 8" },
        );
        assert.deepStrictEqual(
          many.map(({ isDuplicate }) => isDuplicate),
          [false, true, true],
        );
        assert.strictEqual(many[1]?.jobId, many[0]?.jobId);
        assert.strictEqual(many[2]?.jobId, first.jobId);
        yield* Deferred.succeed(isOpen, undefined);
        yield* ended(first.jobId);
        assert.isFalse((yield* Jobs.submit(type, { n: 9 }, options)).isDuplicate, "free again");
      }).pipe(backend.withRunner(handlers));
    }),
  );

  it.effect(
    "a replay brings the job back once: the same key for outside services, a full budget, the dedupe key free",
    () =>
      Effect.gen(function* () {
        const appId = yield* backend.newTenant;
        const isMended = yield* Ref.make(false);
        const seen = yield* Ref.make<ReadonlyArray<readonly [string, number, number]>>([]);
        const type = JobType.make("conform.replayed", { payload: Anything, retry: { ...quick, maxAttempts: 2 } });
        const handlers = type.toLayer((_, { attempt, idempotencyKey, replays }) =>
          Effect.gen(function* () {
            yield* Ref.update(seen, (all) => [...all, [idempotencyKey, replays, attempt] as const]);
            if (!(yield* Ref.get(isMended))) return yield* Effect.fail("broken");
          }),
        );
        yield* Effect.gen(function* () {
          const { jobId } = yield* Jobs.submit(type, { n: 1 }, { appId, dedupeKey: "k" });
          assert.strictEqual((yield* ended(jobId)).status, "dead");
          const second = yield* Jobs.submit(type, { n: 2 }, { appId, dedupeKey: "k", delay: "1 hour" });
          assert.isFalse(second.isDuplicate, "a dead job is finished");
          yield* Ref.set(isMended, true);
          const { id } = yield* theLetter(appId, jobId);
          assert.isTrue(yield* backend.replay(appId, id));
          assert.isFalse(yield* backend.replay(appId, id));
          const { attempts, replays, status } = yield* ended(jobId);
          assert.deepStrictEqual([status, attempts, replays], ["completed", 1, 1]);
          assert.deepStrictEqual(yield* Ref.get(seen), [
            [jobId, 0, 1],
            [jobId, 0, 2],
            [jobId, 1, 1],
          ]);
        }).pipe(backend.withRunner(handlers));
      }),
  );

  it.effect("cancels a job that waits, one that runs, and none that has ended", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const interrupted = yield* Deferred.make<void>();
      const type = JobType.make("conform.cancelled", { payload: Anything });
      const handlers = type.toLayer(({ n }) =>
        n === 0 ? Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined)) : Effect.void,
      );
      yield* Effect.gen(function* () {
        const waits = yield* Jobs.submit(type, { n: 1 }, { appId, delay: "1 hour" });
        assert.deepStrictEqual(yield* Jobs.cancel(waits.jobId), { status: "pending", isCancelled: true });
        const runs = yield* Jobs.submit(type, { n: 0 }, { appId });
        yield* until(runs.jobId, ({ status }) => status === "processing");
        assert.deepStrictEqual(yield* Jobs.cancel(runs.jobId), { status: "processing", isCancelled: true });
        yield* until(runs.jobId, ({ status }) => status === "cancelled");
        const done = yield* Effect.fork(Deferred.await(interrupted));
        while (Option.isNone(yield* Fiber.poll(done))) yield* backend.pass(50);
        const ran = yield* Jobs.submit(type, { n: 1 }, { appId });
        yield* ended(ran.jobId);
        assert.deepStrictEqual(yield* Jobs.cancel(ran.jobId), { status: "completed", isCancelled: false });
        assert.deepStrictEqual(yield* backend.letters(appId), [], "a cancelled job leaves no dead letter");
        const nobody = yield* Effect.flip(Jobs.cancel("0190aaaa-0000-7000-8000-00000000dead"));
        assert.instanceOf(nobody, JobNotFound);
      }).pipe(backend.withRunner(handlers));
    }),
  );

  it.effect("tells how far a job is until it has ended", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const isOpen = yield* Deferred.make<void>();
      const type = JobType.make("conform.progress", { payload: Anything });
      const handlers = type.toLayer((_, { report }) =>
        Effect.zipRight(report({ done: 1, of: 3 }), Effect.zipRight(Deferred.await(isOpen), report("all"))),
      );
      yield* Effect.gen(function* () {
        const { jobId } = yield* Jobs.submit(type, { n: 1 }, { appId });
        const states = yield* Effect.fork(Stream.runCollect(Jobs.progress(jobId, { every: "20 millis" })));
        yield* until(jobId, ({ progress }) => progress !== null);
        yield* Deferred.succeed(isOpen, undefined);
        yield* ended(jobId);
        while (Option.isNone(yield* Fiber.poll(states))) yield* backend.pass(50);
        const seen = Chunk.toReadonlyArray(yield* Fiber.join(states));
        assert.isTrue(
          seen.some(
            ({ progress }) =>
              JSON.stringify(progress) === '{"done":1,"of":3}' || JSON.stringify(progress) === '{"of":3,"done":1}',
          ),
        );
        assert.strictEqual(seen.at(-1)?.status, "completed");
      }).pipe(backend.withRunner(handlers));
    }),
  );

  it.effect("jobs whose runner vanished run alone, and only the one that is there again is blamed", () =>
    Effect.gen(function* () {
      const appId = yield* backend.newTenant;
      const together = yield* Ref.make<{ readonly now: number; readonly most: number }>({ now: 0, most: 0 });
      const isSecond = yield* Ref.make(false);
      const type = JobType.make("conform.vanishes", { payload: Anything, retry: { maxAttempts: 1 } });
      // n 0 is the one that ends its process: it never ends by itself.
      const handlers = type.toLayer(({ n }) =>
        Effect.gen(function* () {
          const { now } = yield* Ref.updateAndGet(together, ({ most, now }) => ({
            now: now + 1,
            most: Math.max(most, now + 1),
          }));
          if (yield* Ref.get(isSecond)) assert.strictEqual(now, 1, "alone");
          if (n === 0 || !(yield* Ref.get(isSecond))) return yield* Effect.never;
        }).pipe(Effect.ensuring(Ref.update(together, ({ most, now }) => ({ most, now: now - 1 })))),
      );
      yield* Effect.gen(function* () {
        const jobs = yield* Jobs.submitMany(
          type,
          [0, 1, 2, 3].map((n) => ({ payload: { n } })),
          { appId },
        );
        for (const { jobId } of jobs) yield* until(jobId, ({ status }) => status === "processing");
        yield* Ref.set(isSecond, true);
        yield* backend.vanish(appId);
        const [killer, ...neighbours] = jobs;
        // Each in its turn; the one that stays is ended again.
        yield* until(killer?.jobId ?? "", ({ lastError, status }) => status === "processing" && lastError !== null);
        yield* backend.vanish(appId);
        assert.strictEqual((yield* ended(killer?.jobId ?? "")).status, "dead");
        for (const { jobId } of neighbours) {
          const { attempts, lastError, status } = yield* ended(jobId);
          assert.deepStrictEqual([status, attempts], ["completed", 1]);
          assert.match(lastError ?? "", /^RunnerUnavailable: runner .* vanished during attempt 1/);
        }
        const [letter, ...others] = yield* backend.letters(appId);
        assert.strictEqual(others.length, 0);
        assert.strictEqual(letter?.errorReason, "RunnerUnavailable");
        assert.strictEqual(letter?.errorHistory.length, 2, "an entry for each run that vanished");
        assert.isAbove((yield* Ref.get(together)).most, 1, "they did run side by side at first");
      }).pipe(backend.withRunner(handlers));
    }),
  );
};
