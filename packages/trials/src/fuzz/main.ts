/**
 * `npm run fuzz`: throws what is odd at everything that takes input from outside, and says what came of it.
 *
 * `--cases N` in all, default 100,000; `--seed S`; `--only WORD` takes the targets whose names have it; `--write` writes docs/fuzz.md.
 * A case that failed is told with its seed and path: `--only TARGET --seed S --path P` runs it alone.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Redacted from "effect/Redacted";
import * as Report from "./report.js";
import type { Failure, Result } from "./target.js";
import { targets } from "./targets.js";
import { watch } from "./watch.js";

const refuse = (problem: string): never => {
  console.error(problem);
  process.exit(1);
};

const given = (() => {
  try {
    return parseArgs({
      options: {
        cases: { type: "string", default: "100000" },
        seed: { type: "string", default: "20261129" },
        path: { type: "string" },
        only: { type: "string", default: "" },
        write: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
})();
const whole = (name: string, text: string, least: number) => {
  const value = Number(text);
  return /^-?\d+$/u.test(text) && Number.isSafeInteger(value) && value >= least
    ? value
    : refuse(`--${name} ${text}: must be a whole number, ${least} or more`);
};
const cases = whole("cases", given.cases, 1);
const seed = whole("seed", given.seed, -(2 ** 31));
if (given.path !== undefined && given.only === "") refuse("--path is of one target: say --only as well");
// A target's name begins with its group's.
const groups = Object.keys(targets).filter((group) => group.includes(given.only) || given.only.startsWith(group));
if (groups.length === 0) refuse(`--only ${given.only}: no such target; there are ${Object.keys(targets).join(", ")}`);

const main = Effect.gen(function* () {
  const began = Date.now();
  const server = yield* Postgres.make({ provider: "embedded" });
  const template = yield* Databases.template(server.url, (url) =>
    Effect.provide(Migrator.run(), Client.layer({ url, maxConnections: 1 })),
  );
  const results: Array<Result> = [];
  const failures: Array<Failure> = [];
  const fuzz = (group: string) =>
    Effect.scoped(
      Effect.gen(function* () {
        const url = yield* Databases.clone(server.url, template);
        const watched = yield* watch({
          module: fileURLToPath(new URL("targets.ts", import.meta.url)),
          group,
          only: group.includes(given.only) ? "" : given.only,
          cases,
          seed,
          path: given.path,
          url: Redacted.value(url),
          onTold: (told) => {
            if (told.kind !== "result") return;
            console.error([Report.line(told.result), ...told.result.failures.map(Report.told)].join("\n"));
          },
        });
        results.push(...watched.results);
        failures.push(...watched.results.flatMap((_) => _.failures), ...watched.failures);
      }),
    );
  // Two at a time: one has the processor while another waits for the database.
  yield* Effect.forEach(groups, fuzz, { concurrency: 2, discard: true });
  const placeOf = ({ target }: Result) => groups.findIndex((group) => target.startsWith(group));
  results.sort((a, b) => placeOf(a) - placeOf(b));
  if (results.length === 0 && failures.length === 0) {
    yield* Console.error(`--only ${given.only}: no such target`);
    return 1;
  }
  yield* Console.log(Report.table(results));
  for (const failure of failures) yield* Console.error(`\n${Report.told(failure)}`);
  if (given.write) Report.write(results, failures, { cases, seed, server: server.version, millis: Date.now() - began });
  yield* Console.log(
    `${Report.counted(results)} cases, ${failures.length} ${failures.length === 1 ? "failure" : "failures"}, seed ${seed}`,
  );
  return failures.length === 0 ? 0 : 1;
});

const running = Effect.runFork(Effect.scoped(main).pipe(Logger.withMinimumLogLevel(LogLevel.Warning)));
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => Effect.runPromise(Fiber.interrupt(running)).then(() => process.exit(130)));
}
Effect.runPromise(Fiber.join(running)).then(
  (code) => process.exit(code),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
