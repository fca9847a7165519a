/** Processes under a test's hand. */
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";

export const root = fileURLToPath(new URL("../../../..", import.meta.url));

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What the process is told about the database; nothing of it is inherited from the tests' own environment. */
export type Environment = Readonly<Record<string, string>>;

export const withUrl = (url: Redacted.Redacted): Environment => ({ DATABASE_URL: Redacted.value(url) });

/** A port of this machine that was free a moment ago. */
export const freePort = Effect.async<number>((resume) => {
  const probe = createServer().listen(0, "127.0.0.1", () => {
    const address = probe.address();
    probe.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)));
  });
});

/** Starts a program; it is killed with the scope if it still runs. `saysOnStderr` comes back when a text is there. */
export const start = (program: string, args: ReadonlyArray<string>, environment: Environment) =>
  Effect.gen(function* () {
    const ended = yield* Deferred.make<Ended>();
    const output = { stdout: "", stderr: "" };
    const listeners = new Set<() => void>();
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const started = spawn(program, args, {
          cwd: root,
          env: { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: process.env.TMPDIR, ...environment },
          stdio: ["ignore", "pipe", "pipe"],
        });
        for (const name of ["stdout", "stderr"] as const) {
          started[name].setEncoding("utf8").on("data", (text: string) => {
            output[name] += text;
            for (const listener of listeners) listener();
          });
        }
        started.once("close", (code, signal) => Effect.runSync(Deferred.succeed(ended, { code, signal, ...output })));
        started.once("error", (error) => Effect.runSync(Deferred.die(ended, error)));
        return started;
      }),
      (started) =>
        Effect.zipRight(
          Effect.sync(() => started.kill("SIGKILL")),
          Deferred.await(ended),
        ),
    );
    return {
      kill: (signal: NodeJS.Signals) => Effect.sync(() => child.kill(signal)),
      ended: Deferred.await(ended),
      hasEnded: Deferred.isDone(ended),
      output: () => output.stdout + output.stderr,
      saysOnStderr: (text: string) =>
        Effect.async<void>((resume) => {
          const listener = () => {
            if (!output.stderr.includes(text)) return;
            listeners.delete(listener);
            resume(Effect.void);
          };
          listeners.add(listener);
          listener();
        }),
    };
  });
