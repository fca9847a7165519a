/** Runs tests in a copy of the work tree, in a process that keeps vitest there: see `host.ts`. */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import type { Answer, Request } from "./host.js";

/** A copy of the work tree, and what runs tests in it. */
export interface Place {
  readonly copy: string;
  readonly run: (request: Request) => Effect.Effect<Answer>;
}

/** Longer than any of these tests may take; a run that hangs beyond its tests' own bounds is ended. */
const patienceMillis = 240_000;

const endGroup = ({ pid }: ChildProcess) => {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended.
  }
};

/** Ends with the scope, with all that its tests have started. */
export const scoped = (copy: string, databaseUrl: string) =>
  Effect.gen(function* () {
    let host: ChildProcess | undefined;
    let said = "";
    const start = () => {
      // A group of its own: a worker that hangs goes with it.
      const child = spawn(process.execPath, ["--import", "tsx", join(copy, "packages/trials/src/mutations/host.ts")], {
        cwd: copy,
        env: { ...process.env, DATABASE_URL: databaseUrl, NO_COLOR: "1" },
        detached: true,
        stdio: ["ignore", "pipe", "pipe", "ipc"],
      });
      for (const stream of [child.stdout, child.stderr]) {
        stream?.setEncoding("utf8").on("data", (text: string) => {
          said = `${said}${text}`.slice(-20_000);
        });
      }
      return child;
    };
    yield* Effect.addFinalizer(() => Effect.sync(() => host !== undefined && endGroup(host)));

    const run = (request: Request) =>
      Effect.async<Answer>((resume) => {
        said = "";
        host ??= start();
        const child = host;
        const end = (answer: Answer) => {
          clearTimeout(patience);
          child.removeAllListeners();
          resume(Effect.succeed(answer));
        };
        const give = (why: string) => {
          endGroup(child);
          host = undefined;
          end({ passed: [], failed: [], said: `${why}\n${said}` });
        };
        const patience = setTimeout(() => give("It did not end"), patienceMillis);
        child.once("message", (answer) => {
          const { failed, passed, said: why } = answer as Answer;
          end({ failed, passed, said: `${why}\n${said}` });
        });
        child.once("exit", (code) => give(`It ended with ${code}`));
        child.once("error", (error) => give(error.message));
        child.send(request);
        return Effect.sync(() => {
          clearTimeout(patience);
          endGroup(child);
        });
      });
    return { copy, run } satisfies Place;
  });
