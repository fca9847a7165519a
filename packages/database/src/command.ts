/** The command `portal-db`: what a deploy runs before the new release starts. Exit code 0, or 1 with the reason on stderr. */
import * as Command from "@effect/cli/Command";
import type { SqlError } from "@effect/sql/SqlError";
import type * as ConfigError from "effect/ConfigError";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import * as Client from "./client.js";
import * as Migrator from "./migrator.js";
import { databaseError } from "./sql-state.js";

/** The command failed for the reason that stands on stderr. */
export class CommandFailed extends S.TaggedError<CommandFailed>()("CommandFailed", { reason: S.String }) {
  override get message() {
    return this.reason;
  }
}

/** Says on stderr why, and fails. */
const fail = (reason: string) => Effect.zipRight(Console.error(reason), new CommandFailed({ reason }));

const explain = (error: Migrator.MigratorError | SqlError | ConfigError.ConfigError): string => {
  switch (error._tag) {
    case "SqlError":
      return new Migrator.DatabaseUnreachable({ problem: databaseError(error).message }).message;
    case "MigrationFailed":
    case "LedgerMismatch":
    case "DatabaseUnreachable":
    case "ServerTooOld":
    case "RoleRightsMissing":
      return error.message;
    default:
      return `The environment is not usable: ${String(error)}`;
  }
};

const onDatabase = <A, R>(effect: Effect.Effect<A, Migrator.MigratorError | CommandFailed, R>) =>
  effect.pipe(
    Effect.provide(
      Client.layerConfig({ applicationName: "portal-db", maxConnections: 2, connectTimeout: "10 seconds" }),
    ),
    Effect.catchAll((error) => (error._tag === "CommandFailed" ? error : fail(explain(error)))),
    Effect.onInterrupt(() => Console.error("Stopped before it was done; what was applied stands.")),
  );

const migrate = Command.make("migrate", {}, () =>
  onDatabase(
    Effect.gen(function* () {
      const applied = yield* Migrator.run();
      for (const migration of applied) yield* Console.log(`applied ${Migrator.fileName(migration)}`);
      yield* Console.log(
        applied.length === 0 ? "nothing to do: the database is up to date" : "the database is up to date",
      );
    }),
  ),
).pipe(
  Command.withDescription("Apply what is pending. Safe to run by many processes at once: one works, the others wait."),
);

const show = Command.make("status", {}, () =>
  onDatabase(
    Effect.gen(function* () {
      for (const migration of yield* Migrator.status()) {
        const state = migration.appliedAt === null ? "pending" : `applied ${migration.appliedAt.toISOString()}`;
        yield* Console.log(`${Migrator.fileName(migration)}  ${state}`);
      }
    }),
  ),
).pipe(Command.withDescription("List the migrations and when they were applied."));

const check = Command.make("check", {}, () =>
  onDatabase(
    Effect.gen(function* () {
      const pending = (yield* Migrator.status()).filter(({ appliedAt }) => appliedAt === null);
      if (pending.length === 0) return yield* Console.log("the database is up to date");
      return yield* fail(
        `The database is behind: ${pending.map(Migrator.fileName).join(", ")} pending. Run portal-db migrate.`,
      );
    }),
  ),
).pipe(Command.withDescription("Exit with 1 when the database is behind this release."));

/** `portal-db migrate | status | check`. The address comes from `DATABASE_URL`, else from the libpq names. */
export const command = Command.make("portal-db", {}, () =>
  fail("Say what to do: portal-db migrate, portal-db status or portal-db check. portal-db --help says more."),
).pipe(
  Command.withDescription("The database's migrations. DATABASE_URL (else PGHOST, PGUSER, …) says which database."),
  Command.withSubcommands([migrate, show, check]),
);
