#!/usr/bin/env node
/**
 * `with-postgres [command …]`: runs a command with `DATABASE_URL` set to a PostgreSQL 18, and ends with its exit code. Without
 * a command it prints the URL and keeps the server until Ctrl-C.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Command from "./command.js";
import * as Postgres from "./postgres.js";

const given = process.argv.slice(2);
const [command, ...args] = given[0] === "--" ? given.slice(1) : given;

const main = Effect.gen(function* () {
  const signals = yield* Command.takeSignals;
  const server = yield* Effect.raceFirst(Postgres.makeConfig(), signals.first);
  if (typeof server === "string") return Command.exitCode(server);
  const url = Redacted.value(server.url);
  yield* Effect.sync(() => console.error(`> PostgreSQL ${server.version} (${server.provider})`));
  if (command !== undefined) {
    return yield* signals.run(command, args, { ...process.env, DATABASE_URL: url, POSTGRES_PROVIDER: "url" });
  }
  yield* Effect.sync(() => console.log(url));
  // Signals alone do not keep Node running.
  yield* Effect.acquireRelease(
    Effect.sync(() => setInterval(() => undefined, 2 ** 30)),
    (timer) => Effect.sync(() => clearInterval(timer)),
  );
  return yield* Effect.as(signals.first, 0);
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
