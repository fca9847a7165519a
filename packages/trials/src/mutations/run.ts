/** Runs tests in a copy of the work tree and reads what vitest says of each. */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { patternOf, projectOf, type Test } from "./mutation.js";

const Report = S.parseJson(
  S.Struct({
    testResults: S.Array(
      S.Struct({
        message: S.String,
        assertionResults: S.Array(
          S.Struct({ title: S.String, fullName: S.String, status: S.String, failureMessages: S.Array(S.String) }),
        ),
      }),
    ),
  }),
);
const decodeReport = S.decodeUnknownSync(Report);

export interface Outcome {
  readonly passed: ReadonlyArray<string>;
  /** Tests that failed by themselves; a file that cannot be loaded or a database that cannot be made fails none. */
  readonly failed: ReadonlyArray<{ readonly title: string; readonly why: string }>;
  /** What vitest said where no test has failed: for whoever has to find out why. */
  readonly said: string;
  readonly code: number | null;
}

/** Longer than any of these tests may take; a run that hangs beyond its tests' own bounds is ended. */
const patienceMillis = 240_000;

/** Runs the tests of one file whose titles contain one of these. */
export const run = (
  copy: string,
  databaseUrl: string,
  file: string,
  titles: ReadonlyArray<string>,
  isWhole: boolean,
): Effect.Effect<Outcome> =>
  Effect.async<Outcome>((resume) => {
    const report = join(copy, "vitest-report.json");
    rmSync(report, { force: true });
    const test: Test = { file, title: "" };
    const child = spawn(
      process.execPath,
      [
        join(copy, "node_modules/vitest/vitest.mjs"),
        "run",
        ...["--config", "vitest.workspace.ts", "--project", projectOf(test)],
        ...["--reporter", "json", "--outputFile", report],
        ...(isWhole ? [] : ["--bail", "1"]),
        ...["-t", patternOf(titles), file],
      ],
      // A group of its own: a worker that hangs goes with it.
      {
        cwd: copy,
        env: { ...process.env, DATABASE_URL: databaseUrl, NO_COLOR: "1" },
        detached: true,
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    let said = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        said = `${said}${text}`.slice(-20_000);
      });
    }
    const endGroup = () => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // It has ended.
      }
    };
    const patience = setTimeout(endGroup, patienceMillis);
    child.once("error", (error) => {
      said += error.message;
    });
    child.once("close", (code) => {
      clearTimeout(patience);
      endGroup();
      const results = existsSync(report) ? decodeReport(readFileSync(report, "utf8")).testResults : [];
      const tests = results.flatMap(({ assertionResults }) => assertionResults);
      resume(
        Effect.succeed({
          code,
          passed: tests.filter(({ status }) => status === "passed").map(({ fullName }) => fullName),
          failed: tests
            .filter(({ status }) => status === "failed")
            .map(({ failureMessages, title }) => ({ title, why: failureMessages[0]?.split("\n")[0] ?? "" })),
          said: `${results.map(({ message }) => message).join("\n")}\n${said}`,
        }),
      );
    });
    return Effect.sync(() => {
      clearTimeout(patience);
      endGroup();
    });
  });
