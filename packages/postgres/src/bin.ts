#!/usr/bin/env node
/**
 * `with-postgres [command …]`: runs a command with `DATABASE_URL` set to a PostgreSQL 18, and ends with its exit code. Without
 * a command it prints the URL and keeps the server until Ctrl-C.
 */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Postgres from "./postgres.js";

const given = process.argv.slice(2);
const [command, ...args] = given[0] === "--" ? given.slice(1) : given;

// The command decides when it ends, and only then the server may go: a signal is passed on, never obeyed here. A terminal's
// Ctrl-C reaches the whole group by itself.
const run = (program: string, url: Redacted.Redacted) =>
  Effect.async<number>((resume) => {
    const env = { ...process.env, DATABASE_URL: Redacted.value(url), POSTGRES_PROVIDER: "url" };
    const child = spawn(program, args, { stdio: "inherit", env });
    process.on("SIGINT", () => (process.stdin.isTTY ? undefined : child.kill("SIGINT")));
    process.on("SIGTERM", () => child.kill("SIGTERM"));
    process.on("SIGHUP", () => child.kill("SIGHUP"));
    child.once("error", (error) => {
      console.error(`${program} cannot be started: ${error.message}`);
      resume(Effect.succeed(127));
    });
    child.once("exit", (code, signal) =>
      resume(Effect.succeed(code ?? 128 + (signal === null ? 1 : constants.signals[signal]))),
    );
  });

const untilSignal = Effect.async<number>((resume) => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => resume(Effect.succeed(0)));
  // Signals alone do not keep Node running.
  setInterval(() => undefined, 2 ** 30);
});

const whileStarting = Effect.async<number>((resume) => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => resume(Effect.succeed(128 + constants.signals[signal])));
  }
});

const main = Effect.gen(function* () {
  const server = yield* Effect.raceFirst(Postgres.makeConfig(), whileStarting);
  if (typeof server === "number") return server;
  console.error(`> PostgreSQL ${server.version} (${server.provider})`);
  if (command !== undefined) return yield* run(command, server.url);
  console.log(Redacted.value(server.url));
  return yield* untilSignal;
}).pipe(
  Effect.scoped,
  Effect.catchAll((error) =>
    Effect.as(
      Effect.sync(() => console.error(error._tag === "PostgresUnavailable" ? error.message : String(error))),
      1,
    ),
  ),
);

process.exit(await Effect.runPromise(main));
