/**
 * A process that keeps vitest in one copy of the work tree: started once, it runs one test after the other without loading anew what
 * did not change. A child of `run.ts`, which it answers on the channel between them.
 */
import { join } from "node:path";
import { createVitest, type Vitest } from "vitest/node";

/** What to run, and what has changed since the last time. */
export interface Request {
  readonly file: string;
  readonly pattern: string;
  readonly changed: ReadonlyArray<string>;
  /** With a new template of the databases: what it is made of has changed. */
  readonly isFresh: boolean;
}

/** What came of it; `said` is why there may be no test. */
export interface Answer {
  readonly passed: ReadonlyArray<string>;
  readonly failed: ReadonlyArray<{ readonly title: string; readonly why: string }>;
  readonly said: string;
}

const copy = process.cwd();
let vitest: Vitest | undefined;

const open = () =>
  createVitest("test", {
    root: copy,
    config: join(copy, "vitest.workspace.ts"),
    project: ["database", "jobs", "operator"],
    watch: false,
    reporters: [{}],
  });

const answer = async ({ changed, file, isFresh, pattern }: Request): Promise<Answer> => {
  if (isFresh) {
    await vitest?.close();
    vitest = undefined;
  }
  vitest ??= await open();
  for (const path of changed) vitest.invalidateFile(join(copy, path));
  vitest.setGlobalTestNamePattern(new RegExp(pattern, "u"));
  const specifications = (await vitest.globTestSpecifications([file])).filter(({ moduleId }) =>
    moduleId.endsWith(file),
  );
  const { testModules, unhandledErrors } = await vitest.runTestSpecifications(specifications);
  const tests = testModules.flatMap((module) => [...module.children.allTests()]);
  const errors = [...testModules.flatMap((module) => module.errors()), ...unhandledErrors];
  return {
    passed: tests.filter((test) => test.result().state === "passed").map(({ fullName }) => fullName),
    failed: tests.flatMap((test) => {
      const { errors: why = [], state } = test.result();
      return state === "failed" ? [{ title: test.name, why: why[0]?.message?.split("\n")[0] ?? "" }] : [];
    }),
    said: errors
      .map((error) => (error instanceof Object && "message" in error ? String(error.message) : String(error)))
      .join("\n"),
  };
};

process.on("message", (request: Request) => {
  answer(request)
    .catch(async (error: unknown): Promise<Answer> => {
      await vitest?.close().catch(() => undefined);
      vitest = undefined;
      return { passed: [], failed: [], said: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    })
    .then((_) => process.send?.(_));
});
// Whoever asked has gone.
process.on("disconnect", () => {
  (vitest?.close() ?? Promise.resolve()).finally(() => process.exit());
});
