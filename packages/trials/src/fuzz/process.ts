/**
 * The process in which targets are fuzzed. It tells its parent how far it is, twice a second; a parent that hears nothing knows that
 * a case holds the thread, and one that sees it end knows that a case ended it.
 *
 * `node process.ts <module> <JSON of Asked>`: the module exports `targets`.
 */
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Redacted from "effect/Redacted";
import type { Failure, Make, Result } from "./target.js";
import { run } from "./target.js";

export interface Asked {
  /** The key of `targets`. */
  readonly group: string;
  /** Only those of its targets whose names have it. */
  readonly only: string;
  /** Of all targets of all groups together, by their shares. */
  readonly cases: number;
  readonly seed: number;
  readonly path?: string | undefined;
  readonly patienceMillis?: number | undefined;
  /** A database that is migrated and empty. */
  readonly url: string;
}

export type Told =
  | { readonly kind: "alive"; readonly target: string; readonly cases: number }
  | { readonly kind: "result"; readonly result: Result };

const tell = (told: Told) => process.send?.(told);

const [module = "", text = ""] = process.argv.slice(2);
const asked = JSON.parse(text) as Asked;
let current = asked.group;
let done = 0;

/** What nobody waits for fails on its own; Node would end the process for it. */
const strays: Array<unknown> = [];
process.on("unhandledRejection", (error) => strays.push(error));
process.on("uncaughtException", (error) => strays.push(error));
let isDone = false;
process.on("disconnect", () => process.exit(isDone ? 0 : 1));
setInterval(() => tell({ kind: "alive", target: current, cases: done }), 500).unref();

const program = Effect.gen(function* () {
  const { targets } = (yield* Effect.promise(() => import(module))) as { readonly targets: Record<string, Make> };
  const make = targets[asked.group];
  if (make === undefined) return yield* Effect.dieMessage(`there is no ${asked.group}`);
  for (const target of yield* make(Redacted.make(asked.url))) {
    if (!target.name.includes(asked.only)) continue;
    current = target.name;
    done = 0;
    const result = yield* Effect.promise(() =>
      run(target, {
        ...asked,
        cases: Math.max(1, Math.round((target.share * asked.cases) / 100_000)),
        onCase: () => {
          done++;
        },
      }),
    );
    yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 50)));
    const stray: ReadonlyArray<Failure> = strays.splice(0).map((error) => ({
      target: target.name,
      problem: `beside every case: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      seed: asked.seed,
    }));
    tell({ kind: "result", result: { ...result, failures: [...result.failures, ...stray] } });
  }
}).pipe(Effect.scoped, Logger.withMinimumLogLevel(LogLevel.None));

Effect.runPromise(program).then(
  () => {
    isDone = true;
    process.disconnect();
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
