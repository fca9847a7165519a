/**
 * Databases for tests: a template that is prepared once per run, and one clone of it per test file, in tens of milliseconds.
 * The login needs the right to create databases.
 */
import { randomBytes } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import pg from "pg";

/** A database could not be created or dropped. `cause` is the driver's error. */
export class DatabasesError extends S.TaggedError<DatabasesError>()("DatabasesError", {
  statement: S.String,
  cause: S.Defect,
}) {
  override get message() {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause);
    return `${this.statement}: ${reason}. The login needs CREATEDB, and the server must be reachable`;
  }
}

const run = (url: Redacted.Redacted, statement: string) =>
  Effect.tryPromise({
    try: async () => {
      const client = new pg.Client({ connectionString: Redacted.value(url), connectionTimeoutMillis: 10_000 });
      client.on("error", () => undefined);
      try {
        await client.connect();
        await client.query(statement);
      } finally {
        await client.end().catch(() => undefined);
      }
    },
    catch: (cause) => new DatabasesError({ statement, cause }),
  });

const inDatabase = (url: Redacted.Redacted, name: string) => {
  const parsed = new URL(Redacted.value(url));
  parsed.pathname = `/${name}`;
  return Redacted.make(parsed.href);
};

const newName = (kind: string) => `portal_${kind}_${randomBytes(6).toString("hex")}`;

// A clone needs its template without a connection. A disconnect takes the server a moment; it waits five seconds by itself.
const isInUse = ({ cause }: DatabasesError) => cause instanceof pg.DatabaseError && cause.code === "55006";
const patience = { while: isInUse, schedule: Schedule.intersect(Schedule.spaced("50 millis"), Schedule.recurs(3)) };

const scoped = (server: Redacted.Redacted, name: string, source: string) =>
  Effect.acquireRelease(
    Effect.as(Effect.retry(run(server, `CREATE DATABASE ${name} ${source}`), patience), inDatabase(server, name)),
    () => Effect.orDie(run(server, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)),
  );

/** An empty database with a name of its own, dropped with the scope. Returns its URL. */
export const empty = (server: Redacted.Redacted) => scoped(server, newName("empty"), "");

/** A database that `prepare` brings into shape, to clone from; dropped with the scope. Returns its name. */
export const template = <E, R>(
  server: Redacted.Redacted,
  prepare: (url: Redacted.Redacted) => Effect.Effect<unknown, E, R>,
) =>
  Effect.gen(function* () {
    const name = newName("template");
    yield* Effect.flatMap(scoped(server, name, ""), prepare);
    return name;
  });

/** A copy of a template, dropped with the scope. Returns its URL. */
export const clone = (server: Redacted.Redacted, templateName: string) =>
  scoped(server, newName("clone"), `TEMPLATE ${pg.escapeIdentifier(templateName)}`);
