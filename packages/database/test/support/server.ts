/**
 * A PostgreSQL of the test's own, on a data folder that outlives the server: it can be stopped, killed and started again,
 * each time on another port.
 */
import { spawn } from "node:child_process";
import { chmod, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import type * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import * as Scope from "effect/Scope";

export interface OwnServer {
  readonly dataDirectory: string;
  /** Starts it, after ending the one that runs; its URL. */
  readonly start: (settings?: Readonly<Record<string, string>>) => Effect.Effect<Redacted.Redacted, unknown>;
  /** An orderly stop that ends every connection. Returns when the server is gone. */
  readonly stop: Effect.Effect<void>;
  /** SIGKILL for the postmaster, as from the out-of-memory killer. Its children end by themselves. */
  readonly kill: Effect.Effect<void>;
}

// What is left of a killed server may hold its shared memory for a moment.
const isStillThere = (error: unknown) =>
  error instanceof Postgres.PostgresUnavailable && /shared memory|lock file/.test(error.problem);
const patience = {
  while: isStillThere,
  schedule: Schedule.intersect(Schedule.spaced("50 millis"), Schedule.recurs(200)),
};

// Runs as a process of its own and ends when its standard input does, so that the folder goes whatever becomes of the test:
// Ctrl-C and kill -9 included. It waits for the server, which goes the same way.
const remover = `
  const { readFileSync, rmSync } = require("node:fs");
  const [folder] = process.argv.slice(1);
  const isRunning = () => {
    try {
      process.kill(Number(readFileSync(folder + "/data/postmaster.pid", "utf8").split("\\n")[0]), 0);
      return true;
    } catch (error) {
      return error.code === "EPERM";
    }
  };
  const until = Date.now() + 60000;
  const remove = () => {
    if (isRunning() && Date.now() < until) return setTimeout(remove, 20);
    rmSync(folder, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 });
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => undefined);
  process.stdin.on("end", remove).on("error", remove).resume();`;

/** A temporary folder that goes with the scope, or with this process. */
const temporaryFolder = Effect.gen(function* () {
  const folder = yield* Effect.promise(async () => {
    const made = await mkdtemp(join(tmpdir(), "portal-own-"));
    // Under root the server runs as another user, who has to get to the data.
    await chmod(made, 0o755);
    return made;
  });
  yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, ["-e", remover, folder], { stdio: ["pipe", "ignore", "inherit"], detached: true }),
    ),
    (child) =>
      Effect.async<void>((resume) => {
        child.once("exit", () => resume(Effect.void));
        child.stdin.end();
      }),
  );
  return folder;
});

/** Not yet started. Stopped and removed with the scope. */
export const make = Effect.gen(function* () {
  const folder = yield* temporaryFolder;
  const dataDirectory = join(folder, "data");
  let running: Scope.CloseableScope | undefined;
  const stop = Effect.suspend(() => {
    const scope = running;
    running = undefined;
    return scope === undefined ? Effect.void : Scope.close(scope, Exit.void);
  });
  yield* Effect.addFinalizer(() => stop);
  const launch = (settings: Readonly<Record<string, string>>) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make();
      const server = yield* Postgres.make({
        provider: "embedded",
        dataDirectory,
        // A process that dies takes nothing with it that the operating system has; only a power cut would.
        settings: { fsync: "off", ...settings },
      }).pipe(
        Scope.extend(scope),
        Effect.onError(() => Scope.close(scope, Exit.void)),
      );
      running = scope;
      return server.url;
    });
  const own: OwnServer = {
    dataDirectory,
    start: (settings = {}) => Effect.zipRight(stop, Effect.retry(launch(settings), patience)),
    stop,
    kill: Effect.promise(async () => {
      const [pid] = (await readFile(join(dataDirectory, "postmaster.pid"), "utf8")).split("\n");
      process.kill(Number(pid), "SIGKILL");
    }),
  };
  return own;
});
