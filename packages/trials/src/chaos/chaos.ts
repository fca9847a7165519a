/**
 * The run: load, three runners, operators and retention, while the faults of the plan strike and everything that must be so is looked
 * at again and again; then a time without faults, in which all work must come to its end, and the last look.
 */

import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import { layerDesk } from "@parametric-portal/jobs/job-store-sql";
import * as Cause from "effect/Cause";
import * as Clock from "effect/Clock";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Random from "effect/Random";
import { account, check, inOneSnapshot, type Round, Violation } from "./check.js";
import { strike } from "./faults.js";
import * as Load from "./load.js";
import { type Fault, kinds, plan } from "./plan.js";
import * as Stage from "./stage.js";
import { createTables, createWitnesses } from "./tables.js";

export interface Options {
  readonly minutes: number;
  readonly seed: number;
  /** Told of each step. */
  readonly say: (line: string) => void;
  /** Instead of the plan of the seed. */
  readonly faults?: ReadonlyArray<Fault>;
  readonly jobsPerSecond?: number;
}

/** What became of one kind of fault. */
export interface Survived {
  readonly kind: string;
  readonly struck: number;
  /** It found nothing to do something to, or had to wait until the time was over. */
  readonly missed: number;
}

export interface Outcome {
  readonly faults: ReadonlyArray<Survived>;
  readonly struck: number;
  readonly rounds: number;
  readonly last: Round;
  readonly answered: number;
  readonly unknown: number;
  readonly arrived: number;
  /** What operators did, and what they were told when it failed. */
  readonly done: ReadonlyMap<string, number>;
  readonly failed: ReadonlyMap<string, number>;
  readonly seconds: number;
}

const hours = 3_600_000;
/** How long nothing may come to its end, once nothing strikes. */
const patienceMillis = 60_000;

/** How often each value of a field was told. */
const tally = (outputs: ReadonlyArray<string>, field: string) => {
  const counts = new Map<string, number>();
  for (const output of outputs) {
    for (const [, value = ""] of output.matchAll(new RegExp(`^\\{"${field}":"([^"]+)"`, "gm"))) {
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
  }
  return new Map([...counts].sort(([, a], [, b]) => b - a));
};

const sum = (map: ReadonlyMap<unknown, number>) => [...map.values()].reduce((total, count) => total + count, 0);

export const run = ({ faults: given, jobsPerSecond = 60, minutes, say, seed }: Options) =>
  Effect.gen(function* () {
    const began = yield* Clock.currentTimeMillis;
    const seconds = Effect.map(Clock.currentTimeMillis, (now) => Math.round((now - began) / 1000));
    const faults = given ?? (yield* plan(seed, minutes));
    say(`${faults.length} faults are planned in ${minutes} minutes`);
    const violated = yield* Deferred.make<never, Violation>();
    const stage = yield* Stage.make();
    const context = yield* Layer.build(
      DatabaseService.layer.pipe(
        Layer.provideMerge(
          Client.layer({ url: inOneSnapshot(stage.steady.url), maxConnections: 2, applicationName: "chaos checker" }),
        ),
      ),
    );
    const looking = Effect.provide(context);
    const appIds = yield* Effect.gen(function* () {
      yield* Migrator.run();
      yield* createTables;
      yield* createWitnesses;
      const db = yield* DatabaseService;
      return yield* Effect.forEach(["acme", "globex", "initech", "umbrella"], (name) =>
        Effect.map(Client.system(db.apps.insert({ name })), ({ id }) => id),
      );
    }).pipe(looking);
    const shifts = yield* Effect.map(Random.shuffle([-26, -1, -0.1, 0.1, 1, 26]), (some) =>
      [0, ...some].map((_) => _ * hours),
    ).pipe(Effect.withRandom(Random.make(seed)));
    const runners = yield* Stage.runners(stage, shifts, violated);
    const operators = yield* Stage.operators(stage, seed, appIds, violated);
    const load = Load.make();
    const desk = yield* Layer.build(
      Layer.provide(
        layerDesk,
        Client.layer({ url: Stage.deskUrl(stage), maxConnections: 6, applicationName: "chaos submitter" }),
      ),
    );
    let lastRound: Round | undefined;
    // What a small machine cannot work off would only delay the end.
    const isEnough = () => (lastRound?.unfinished ?? 0) > 10 * jobsPerSecond;
    const submitting = yield* Effect.fork(Effect.provide(load.submit(appIds, jobsPerSecond, seed, isEnough), desk));
    say(`three runners, two operators and retention are there after ${yield* seconds} s`);

    // --- looking ---
    let rounds = 0;
    const defects = Effect.suspend(() => {
      const [, defect] = /^\{"defect":(.+)\}$/m.exec(operators.map(({ output }) => output()).join("\n")) ?? [];
      return defect === undefined
        ? Effect.void
        : new Violation({ message: `an operator met a defect: ${defect.replaceAll("\\n", "\n")}` });
    });
    // What was answered is looked up by the first look that succeeds.
    let waiting: ReadonlyArray<string> = [];
    const look = Effect.gen(function* () {
      waiting = [...waiting, ...load.answers().jobIds];
      const asked = waiting;
      const round = yield* looking(check({ jobIds: asked }));
      waiting = waiting.filter((_) => !asked.includes(_));
      yield* defects;
      rounds += 1;
      lastRound = round;
      return round;
    });
    const looks = Effect.either(look).pipe(
      Effect.flatMap((_) => (Either.isLeft(_) && _.left instanceof Violation ? Effect.fail(_.left) : Effect.void)),
      Effect.zipRight(Effect.sleep("3 seconds")),
      Effect.forever,
    );

    // --- striking ---
    const counts = new Map(kinds.map((kind) => [kind, { struck: 0, missed: 0 }]));
    const locks = yield* Effect.all(runners.map(() => Effect.makeSemaphore(1)));
    const start = yield* Clock.currentTimeMillis;
    const tell = (fault: Fault, what: string) =>
      Effect.map(seconds, (at) => {
        const jobs =
          lastRound === undefined ? "" : `; ${lastRound.given.submitted} jobs, ${lastRound.unfinished} unfinished`;
        say(`${String(at).padStart(4)} s  #${fault.number} ${fault.kind}: ${what}${jobs}`);
      });
    let isEnding = false;
    const isOver = () => isEnding;
    yield* Effect.forkScoped(
      Effect.delay(
        Effect.sync(() => (isEnding = true)),
        `${minutes} minutes`,
      ),
    );
    const striking = Effect.forEach(
      faults,
      (fault) =>
        Effect.gen(function* () {
          yield* Effect.sleep(Math.max(0, start + fault.atMillis - (yield* Clock.currentTimeMillis)));
          const exit = yield* Effect.exit(Effect.scoped(strike(stage, runners, locks, fault, isOver)));
          const count = counts.get(fault.kind);
          if (exit._tag === "Success") {
            if (count !== undefined) count.struck += 1;
            yield* tell(fault, exit.value);
          } else {
            if (count !== undefined) count.missed += 1;
            yield* tell(fault, `met nothing (${Cause.pretty(exit.cause).split("\n")[0]})`);
          }
        }),
      { concurrency: "unbounded", discard: true },
    );
    const watched = <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.raceFirst(effect, Effect.raceFirst(looks, Deferred.await(violated)));
    yield* watched(striking);

    // --- settling ---
    yield* Fiber.interrupt(submitting);
    const struck = [...counts.values()].reduce((total, _) => total + _.struck, 0);
    say(`${struck} faults have struck; nothing more is submitted, and all work comes to its end`);
    // Operators and retention go on, so that what dies late is worked on too; then only the runners.
    yield* watched(Effect.sleep("5 seconds"));
    yield* Effect.forEach(operators, ({ leave }) => leave, { concurrency: "unbounded" });
    const settling = Effect.gen(function* () {
      let least = Number.POSITIVE_INFINITY;
      let since = yield* Clock.currentTimeMillis;
      for (;;) {
        yield* Effect.sleep("500 millis");
        const now = yield* Clock.currentTimeMillis;
        const seen = yield* Effect.either(look);
        if (Either.isLeft(seen) && seen.left instanceof Violation) return yield* seen.left;
        const unfinished = Either.isRight(seen) ? seen.right.unfinished : least;
        if (Either.isRight(seen) && unfinished === 0) return seen.right;
        if (unfinished < least) {
          least = unfinished;
          since = now;
        }
        if (now - since < patienceMillis) continue;
        const stuck = yield* Stage.ask<{ job: string }>(
          stage.url(),
          "SELECT to_jsonb(j)::text AS job FROM jobs j WHERE status IN ('pending', 'processing') LIMIT 5",
        );
        const jobs = stuck.map(({ job }) => job).join("\n");
        const message = `no job ended in ${patienceMillis / 1000} s without a fault, of ${unfinished} that are left:\n${jobs}`;
        return yield* new Violation({ message });
      }
    });
    const last = yield* Effect.raceFirst(settling, Deferred.await(violated));
    const arrived = yield* looking(account(load));
    yield* Effect.forEach(runners, ({ leave }) => leave, { concurrency: "unbounded" });
    const outputs = operators.map(({ output }) => output());
    const outcome: Outcome = {
      faults: [...counts].map(([kind, count]) => ({ kind, ...count })),
      struck,
      rounds,
      last,
      answered: sum(load.answered),
      unknown: load.unknown.size,
      arrived,
      done: tally(outputs, "done"),
      failed: tally(outputs, "failed"),
      seconds: yield* seconds,
    };
    return outcome;
  }).pipe(Effect.scoped);
