/**
 * `npm run chaos -- --minutes N`: see `chaos.ts`. `--seed S` repeats a plan of faults. `--write` writes `docs/chaos.md`, after a hundred
 * faults at least.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import { run } from "./chaos.js";
import { Violation } from "./check.js";
import { page, text } from "./report.js";

const wrong = (problem: string): never => {
  console.error(`${problem}\nusage: npm run chaos -- [--minutes N] [--seed S] [--write]`);
  process.exit(1);
};

const given = () => {
  try {
    return parseArgs({
      options: {
        minutes: { type: "string", default: "2" },
        seed: { type: "string", default: String(Date.now() % 1_000_000_000) },
        write: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    return wrong(error instanceof Error ? error.message : String(error));
  }
};
const values = given();
const minutes = Number(values.minutes);
const seed = Number(values.seed);
if (!(minutes > 0 && minutes <= 1440))
  wrong(`--minutes ${values.minutes}: must be a number, more than 0 and at most 1440`);
if (!Number.isSafeInteger(seed) || seed < 0) wrong(`--seed ${values.seed}: must be a whole number, 0 or more`);

console.log(`chaos: --minutes ${minutes} --seed ${seed}`);
const again = `npm run chaos -- --minutes ${minutes} --seed ${seed}`;

NodeRuntime.runMain(
  run({ minutes, seed, say: (line) => console.log(line) }).pipe(
    Effect.flatMap((outcome) =>
      Effect.sync(() => {
        console.log(`\n${text(outcome)}\n\n${outcome.struck} faults in ${outcome.seconds} s: nothing lost.`);
        if (!values.write) return;
        if (outcome.struck < 100)
          return wrong(`${outcome.struck} faults are too few for docs/chaos.md, which wants 100`);
        writeFileSync(new URL("../../../../docs/chaos.md", import.meta.url), page(outcome, seed, minutes));
      }),
    ),
    Effect.catchAll((error) =>
      Effect.sync(() => {
        console.error(error instanceof Violation ? `\nVIOLATED: ${error.message}` : error);
        console.error(`\nrepeat with: ${again}`);
        process.exitCode = 1;
      }),
    ),
    Effect.provide(Logger.minimumLogLevel(LogLevel.Error)),
  ),
);
