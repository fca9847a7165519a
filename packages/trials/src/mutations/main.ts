/**
 * `npm run mutations`: breaks each policy, constraint, guard and fence in turn, in a copy of the work tree, and runs the test that
 * must notice. Ends with 1 when one of them is not noticed.
 *
 * `--only WORD` takes those that have the word in their name, file or test; `--write` writes `docs/mutations.md`, of all of them.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Copy from "./copy.js";
import { list } from "./list.js";
import { document, told } from "./report.js";
import * as Run from "./run.js";
import * as Trial from "./trial.js";

const given = () => {
  try {
    const { values } = parseArgs({
      options: { only: { type: "string", default: "" }, write: { type: "boolean", default: false } },
    });
    if (values.only !== "" && values.write) throw new Error("--write is for the whole list; leave out --only");
    const chosen = list.filter(({ file, name, test }) =>
      [name, file, test.file, test.title].some((text) => text.includes(values.only)),
    );
    if (chosen.length === 0) throw new Error(`--only ${values.only}: no mutation has that in its name, file or test`);
    return { chosen, isWritten: values.write };
  } catch (error) {
    console.error(
      `${error instanceof Error ? error.message : error}\nusage: npm run mutations -- [--only WORD] [--write]`,
    );
    return process.exit(1);
  }
};
const { chosen, isWritten } = given();
const root = fileURLToPath(new URL("../../../../", import.meta.url));

const main = Effect.gen(function* () {
  const began = performance.now();
  const server = yield* Postgres.makeConfig();
  // Two at a time, each in a copy of its own: a test keeps one core busy.
  const copies = yield* Effect.all([Copy.scoped(root), Copy.scoped(root)]);
  const places = yield* Effect.forEach(copies, (copy) => Run.scoped(copy, Redacted.value(server.url)));
  yield* Console.log(`PostgreSQL ${server.version}; ${chosen.length} mutations. First the tests as they are:`);
  const red = yield* Trial.baseline(places, chosen);
  if (red.length > 0) {
    yield* Console.error(`\nThese do not pass as things are, so they prove nothing:\n${red.join("\n")}`);
    return 1;
  }
  yield* Console.log("\nNow each broken in turn:");
  const results = yield* Trial.each(places, chosen);
  const minutes = (performance.now() - began) / 60_000;
  yield* Console.log(`\n${told(results)}\n`);
  const survivors = results.filter(({ verdict }) => verdict !== "killed");
  yield* Console.log(
    `${results.length - survivors.length} of ${results.length} were noticed, in ${minutes.toFixed(1)} minutes.`,
  );
  for (const { mutation, said } of survivors) yield* Console.error(`\n${mutation.name}: ${said}`);
  if (isWritten) yield* Effect.sync(() => writeFileSync(join(root, "docs/mutations.md"), document(results)));
  return survivors.length === 0 ? 0 : 1;
}).pipe(Effect.scoped);

NodeRuntime.runMain(
  Effect.tap(main, (code) =>
    Effect.sync(() => {
      process.exitCode = code;
    }),
  ),
);
