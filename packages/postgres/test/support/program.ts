/** Programs as processes of their own, with a temporary folder of their own, and what they leave behind. */
import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Schedule from "effect/Schedule";

const resolved = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export const root = resolved("../../../..");
export const withPostgres = resolved("../../bin/with-postgres.mjs");
/** Starts a server with the options that are its argument, prints the URL, and obeys no signal in any special way. */
export const hold = [
  "--import",
  pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href,
  resolved("./hold.ts"),
];

/** A folder for one test, removed with the scope. Its name is unlike any other, so processes that name it can be found. */
export const temporaryFolder = Effect.acquireRelease(
  Effect.promise(async () => {
    const folder = await fs.realpath(await fs.mkdtemp(join(tmpdir(), "postgres-test-")));
    // A server that root starts runs as a user of its own, who must reach what is in it.
    await fs.chmod(folder, 0o711);
    return folder;
  }),
  (folder) => Effect.promise(() => fs.rm(folder, { recursive: true, force: true, maxRetries: 5 })),
);

/** All processes that name the folder in their arguments or title: keepers and servers that were started for it. */
export const processesOf = (folder: string) =>
  Effect.promise(async () => {
    const { stdout } = await promisify(execFile)("ps", ["-A", "-ww", "-o", "pid=,args="], { maxBuffer: 2 ** 26 });
    return stdout.split("\n").filter((line) => line.includes(basename(folder)));
  });

/** Server settings that make the processes of a server name the folder. */
export const named = (folder: string) => ({ cluster_name: basename(folder) });

/** What is left of a program that was given the folder for its temporary files: processes, and files in it. */
export const leftOf = (folder: string) =>
  Effect.all({ processes: processesOf(folder), files: Effect.promise(() => fs.readdir(folder)) });
export const nothing = { processes: [], files: [] };

/** Waits for something that nobody announces. */
export const until = (condition: Effect.Effect<boolean>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (_) => _, schedule: Schedule.spaced("5 millis") }));

export const untilExists = (find: () => string | undefined) =>
  until(
    Effect.sync(() => {
      const path = find();
      return path !== undefined && existsSync(path);
    }),
  );

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Given {
  /** Beside PATH, HOME and TMPDIR; nothing else of the tests' own environment is inherited. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
}

/**
 * Starts a program, killed with the scope if it still runs. It has ended when nobody holds its output any more: a keeper holds
 * its standard error until it is gone.
 */
export const start = (folder: string, command: string, args: ReadonlyArray<string>, given: Given = {}) =>
  Effect.gen(function* () {
    const ended = yield* Deferred.make<Ended>();
    const output = { stdout: "", stderr: "" };
    const listeners = new Set<() => void>();
    const { env, ...options } = given;
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const started = spawn(command, args, {
          cwd: root,
          ...options,
          env: { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: folder, TSX_DISABLE_CACHE: "1", ...env },
          stdio: "pipe",
        });
        for (const name of ["stdout", "stderr"] as const) {
          started[name].setEncoding("utf8").on("data", (text: string) => {
            output[name] += text;
            for (const listener of listeners) listener();
          });
        }
        started.stdin.on("error", () => undefined);
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
    const says = (name: "stdout" | "stderr") => (pattern: RegExp) =>
      Effect.raceFirst(
        Effect.async<string>((resume) => {
          const listener = () => {
            const [found] = pattern.exec(output[name]) ?? [];
            if (found === undefined) return;
            listeners.delete(listener);
            resume(Effect.succeed(found));
          };
          listeners.add(listener);
          listener();
        }),
        Effect.flatMap(Deferred.await(ended), (end) =>
          Effect.die(new Error(`it ended and did not say ${pattern}: ${JSON.stringify(end)}`)),
        ),
      );
    return {
      pid: child.pid ?? 0,
      kill: (signal: NodeJS.Signals) => Effect.sync(() => child.kill(signal)),
      write: (text: string) => Effect.sync(() => child.stdin.write(text)),
      ended: Deferred.await(ended),
      says: says("stdout"),
      saysOnStderr: says("stderr"),
    };
  });

/** Runs a program to its end. */
export const run = (...given: Parameters<typeof start>) =>
  Effect.scoped(Effect.flatMap(start(...given), ({ ended }) => ended));
