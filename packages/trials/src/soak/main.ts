/** `npm run soak -- --minutes N`: see `soak.ts`. `--write` writes `docs/soak.md`, after twenty minutes at least. */
import { writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { parseArgs } from "node:util";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import { page, table } from "./report.js";
import { run } from "./soak.js";

const wrong = (problem: string): never => {
  console.error(`${problem}\nusage: npm run soak -- [--minutes N] [--rate JOBS_PER_SECOND] [--write]`);
  process.exit(1);
};

const given = () => {
  try {
    return parseArgs({
      options: {
        minutes: { type: "string", default: "30" },
        rate: { type: "string", default: "50" },
        write: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    return wrong(error instanceof Error ? error.message : String(error));
  }
};
const values = given();
const minutes = Number(values.minutes);
const rate = Number(values.rate);
if (!(minutes >= 1 && minutes <= 1440)) wrong(`--minutes ${values.minutes}: must be a number from 1 to 1440`);
if (!(rate >= 4 && rate <= 10_000)) wrong(`--rate ${values.rate}: must be a number from 4 to 10,000`);
if (values.write && minutes < 20) wrong(`--write: ${minutes} minutes are too few for docs/soak.md, which wants 20`);

NodeRuntime.runMain(
  run(minutes, rate, 5, (line) => console.log(line)).pipe(
    Effect.flatMap((outcome) =>
      Effect.sync(() => {
        console.log(`\n${table(outcome)}\n\n${outcome.isFlat ? "Flat." : "NOT FLAT."}`);
        if (!outcome.isFlat) process.exitCode = 1;
        if (!values.write) return;
        const load = loadavg()[2] ?? 0;
        writeFileSync(
          new URL("../../../../docs/soak.md", import.meta.url),
          page(outcome, availableParallelism(), load),
        );
      }),
    ),
    Effect.provide(Logger.minimumLogLevel(LogLevel.Error)),
  ),
);
