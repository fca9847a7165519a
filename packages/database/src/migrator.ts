/**
 * The migration runner: brings a database to this release's schema, once, however many processes try at the same time.
 *
 * Contract: an advisory lock on the database lets one runner work; the others wait and find nothing to do. Each migration
 * is one transaction together with its line in the ledger `portal_migrations`, so it happened whole or not at all. The
 * ledger must be a prefix of the catalogue, name by name; anything else stops the run before it changes anything.
 *
 * The lock belongs to a session: connect directly, not through a pooler in transaction mode.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type * as SqlConnection from "@effect/sql/SqlConnection";
import { SqlError } from "@effect/sql/SqlError";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import initial from "../migrations/0001_initial.js";
import jobDlq from "../migrations/0002_job_dlq.js";
import jobDlqEvents from "../migrations/0003_job_dlq_events.js";
import jobDlqServing from "../migrations/0004_job_dlq_serving.js";
import { classify, databaseError } from "./sql-state.js";

/** One step of the schema. `id` counts from 1 without gaps; the file is `<id as 4 digits>_<name>.ts`. */
export interface Migration {
  readonly id: number;
  readonly name: string;
  readonly run: Effect.Effect<void, SqlError, SqlClient.SqlClient>;
}

/** Every migration of this release, in order. */
export const catalogue: ReadonlyArray<Migration> = [
  { id: 1, name: "initial", run: initial },
  { id: 2, name: "job_dlq", run: jobDlq },
  { id: 3, name: "job_dlq_events", run: jobDlqEvents },
  { id: 4, name: "job_dlq_serving", run: jobDlqServing },
];

/** A migration did not succeed; it and everything after it were not applied. */
export class MigrationFailed extends S.TaggedError<MigrationFailed>()("MigrationFailed", {
  migration: S.String,
  problem: S.String,
}) {
  override get message() {
    return `Migration ${this.migration} failed and was rolled back: ${this.problem}. The migrations before it stand; mend the cause and run again.`;
  }
}

/** What the database says was applied is not what this release knows. Nothing was changed. */
export class LedgerMismatch extends S.TaggedError<LedgerMismatch>()("LedgerMismatch", { problem: S.String }) {
  override get message() {
    return `The ledger portal_migrations does not fit this release: ${this.problem}. Nothing was changed.`;
  }
}

/** The server does not answer, or refuses the login. */
export class DatabaseUnreachable extends S.TaggedError<DatabaseUnreachable>()("DatabaseUnreachable", {
  problem: S.String,
}) {
  override get message() {
    return `The database cannot be reached: ${this.problem}. Check DATABASE_URL, or PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE, and that the server runs.`;
  }
}

/** The server is older than PostgreSQL 18. */
export class ServerTooOld extends S.TaggedError<ServerTooOld>()("ServerTooOld", { version: S.String }) {
  override get message() {
    return `The server is PostgreSQL ${this.version}; 18 or newer is needed, for uuidv7(). Nothing was changed.`;
  }
}

/** The login may not do what migrating takes. `remedy` is the SQL that an administrator must run, once. */
export class RoleRightsMissing extends S.TaggedError<RoleRightsMissing>()("RoleRightsMissing", {
  login: S.String,
  missing: S.Array(S.String),
  remedy: S.String,
}) {
  override get message() {
    return `The login ${this.login} lacks rights to migrate: ${this.missing.join("; ")}. Nothing was changed. An administrator must run:\n${this.remedy}`;
  }
}

export type MigratorError = MigrationFailed | LedgerMismatch | DatabaseUnreachable | ServerTooOld | RoleRightsMissing;

/** A migration and when it was applied; `appliedAt` is null while it is pending. */
export interface MigrationState {
  readonly id: number;
  readonly name: string;
  readonly appliedAt: Date | null;
}

/** `0002_job_dlq` */
export const fileName = ({ id, name }: { readonly id: number; readonly name: string }) =>
  `${String(id).padStart(4, "0")}_${name}`;

const unreachable = (error: SqlError): DatabaseUnreachable =>
  new DatabaseUnreachable({ problem: databaseError(error).message });

const ServerFacts = S.Struct({
  version: S.String,
  versionNumber: S.Int,
  login: S.String,
  isSuperuser: S.Boolean,
  mayCreateRoles: S.Boolean,
  mayCreateInSchema: S.Boolean,
  groupRoles: S.Int,
  settableRoles: S.Int,
});
const decodeFacts = S.decodeUnknown(S.Tuple(ServerFacts));

const requireServer = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const rows =
      yield* sql`SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_number`;
    const [{ version, versionNumber }] = yield* Effect.orDie(decodeVersion(rows));
    if (versionNumber < 180_000) return yield* new ServerTooOld({ version });
  });
const decodeVersion = S.decodeUnknown(S.Tuple(ServerFacts.pick("version", "versionNumber")));

const quoted = (identifier: string) => `"${identifier.replaceAll('"', '""')}"`;

const requireRights = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const rows = yield* sql`
      SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_number,
        CURRENT_USER::text AS login, r.rolsuper AS is_superuser, r.rolcreaterole AS may_create_roles,
        has_schema_privilege('public', 'CREATE') AS may_create_in_schema,
        (SELECT count(*)::int FROM pg_roles g WHERE g.rolname IN ('parametric_tenant', 'parametric_system')) AS group_roles,
        (SELECT count(*)::int FROM pg_roles g
          WHERE g.rolname IN ('parametric_tenant', 'parametric_system') AND pg_has_role(g.oid, 'SET')) AS settable_roles
      FROM pg_roles r WHERE r.rolname = CURRENT_USER`;
    const [facts] = yield* Effect.orDie(decodeFacts(rows));
    const login = quoted(facts.login);
    const missing: Array<string> = [];
    const remedy: Array<string> = [];
    if (facts.groupRoles < 2 && !facts.isSuperuser && !facts.mayCreateRoles) {
      missing.push("the roles parametric_tenant and parametric_system do not exist and it may not create roles");
      remedy.push("CREATE ROLE parametric_tenant NOLOGIN;", "CREATE ROLE parametric_system NOLOGIN;");
    }
    // A creator of roles may set those it creates itself (0001 grants them); those of somebody else it may not.
    if (facts.settableRoles < facts.groupRoles || remedy.length > 0) {
      missing.push("it may not SET the group roles");
      remedy.push(`GRANT parametric_tenant, parametric_system TO ${login} WITH INHERIT FALSE, SET TRUE;`);
    }
    if (!facts.mayCreateInSchema) {
      missing.push("it may not create tables in the schema public");
      remedy.push(`GRANT CREATE ON SCHEMA public TO ${login};`);
    }
    if (missing.length > 0) {
      return yield* new RoleRightsMissing({ login: facts.login, missing, remedy: remedy.join("\n") });
    }
  });

const LedgerRow = S.Struct({ id: S.Int, name: S.String, appliedAt: S.DateFromSelf });
const decodeLedger = S.decodeUnknown(S.Array(LedgerRow));
const decodeExists = S.decodeUnknown(S.Tuple(S.Struct({ present: S.Boolean })));

const readLedger = (sql: SqlClient.SqlClient, known: ReadonlyArray<Migration>) =>
  Effect.gen(function* () {
    const [{ present }] = yield* Effect.orDie(
      decodeExists(yield* sql`SELECT to_regclass('public.portal_migrations') IS NOT NULL AS present`),
    );
    const applied = present
      ? yield* decodeLedger(yield* sql`SELECT id, name, applied_at FROM public.portal_migrations ORDER BY id`).pipe(
          Effect.mapError(() => new LedgerMismatch({ problem: "its columns are not id, name, applied_at" })),
        )
      : [];
    for (const [place, row] of applied.entries()) {
      const expected = known[place];
      if (expected === undefined) {
        return yield* new LedgerMismatch({
          problem: `the database has ${fileName(row)}, this release ends with ${known.length === 0 ? "none" : String(known.length).padStart(4, "0")}; deploy the newer release`,
        });
      }
      if (row.id !== expected.id || row.name !== expected.name) {
        return yield* new LedgerMismatch({
          problem: `its entry ${place + 1} is ${fileName(row)} where this release has ${fileName(expected)}; was it changed by hand, or made by another product?`,
        });
      }
    }
    return known.map(
      ({ id, name }, place): MigrationState => ({ id, name, appliedAt: applied[place]?.appliedAt ?? null }),
    );
  });

// "portal" and "migr" in ASCII: one number for every release, so that different releases wait for each other too.
const lockKeys = [0x706f7274, 0x6d696772] as const;

const asMigratorError = <E>(error: E | SqlError): Exclude<E, SqlError> | DatabaseUnreachable | MigrationFailed =>
  error instanceof SqlError
    ? classify(error) === "Connection"
      ? unreachable(error)
      : new MigrationFailed({ migration: "ledger", problem: databaseError(error).message })
    : (error as Exclude<E, SqlError>);

const apply = (sql: SqlClient.SqlClient, connection: SqlConnection.Connection, migration: Migration) => {
  const statement = (text: string, parameters: ReadonlyArray<unknown> = []) =>
    connection.executeUnprepared(text, parameters, undefined);
  return Effect.gen(function* () {
    yield* statement("BEGIN");
    yield* migration.run;
    yield* sql`INSERT INTO public.portal_migrations (id, name) VALUES (${migration.id}, ${migration.name})`;
    yield* statement("COMMIT");
  }).pipe(
    Effect.onError(() =>
      Effect.catchAll(statement("ROLLBACK"), (error) => Effect.logDebug("ROLLBACK was not answered", error)),
    ),
    Effect.sandbox,
    Effect.mapError(
      (cause) =>
        new MigrationFailed({
          migration: fileName(migration),
          problem:
            cause._tag === "Fail"
              ? `${databaseError(cause.error).message} (SQLSTATE ${databaseError(cause.error).code ?? "none"})`
              : String(cause),
        }),
    ),
  );
};

/**
 * Brings the database to the given catalogue (default: this release's) and returns the migrations that it applied, in order;
 * none when there was nothing to do. Waits while another runner works.
 */
export const run = (
  known: ReadonlyArray<Migration> = catalogue,
): Effect.Effect<ReadonlyArray<MigrationState>, MigratorError, SqlClient.SqlClient> =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const connection = yield* sql.reserve;
    const applied = yield* Effect.gen(function* () {
      yield* requireServer(sql);
      yield* Effect.acquireReleaseInterruptible(
        sql`SELECT pg_advisory_lock(${lockKeys[0]}::int, ${lockKeys[1]}::int)`,
        () =>
          Effect.catchAll(sql`SELECT pg_advisory_unlock(${lockKeys[0]}::int, ${lockKeys[1]}::int)`, (error) =>
            Effect.logDebug("the lock went with its connection", error),
          ),
      );
      const before = yield* readLedger(sql, known);
      const pending = known.filter((_, place) => before[place]?.appliedAt === null);
      if (pending.length === 0) return [];
      yield* requireRights(sql);
      yield* sql`
        CREATE TABLE IF NOT EXISTS public.portal_migrations (
          id integer PRIMARY KEY,
          name text NOT NULL,
          applied_at timestamptz NOT NULL DEFAULT now())`;
      yield* Effect.forEach(
        pending,
        (migration) =>
          Effect.zipRight(
            Effect.uninterruptible(apply(sql, connection, migration)),
            Effect.logInfo(`applied ${fileName(migration)}`),
          ),
        { discard: true },
      );
      const after = yield* readLedger(sql, known);
      return after.filter(({ id }) => pending.some((_) => _.id === id));
    }).pipe(
      // Every statement, also those of the migrations, goes over the connection that holds the lock.
      Effect.provideService(SqlClient.TransactionConnection, [connection, 0]),
      Effect.scoped,
    );
    return applied;
  }).pipe(Effect.scoped, Effect.mapError(asMigratorError), Effect.withSpan("Migrator.run"));

/** Every migration of the catalogue and when it was applied. Changes nothing and waits for nobody. */
export const status = (
  known: ReadonlyArray<Migration> = catalogue,
): Effect.Effect<ReadonlyArray<MigrationState>, MigratorError, SqlClient.SqlClient> =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    yield* requireServer(sql);
    return yield* readLedger(sql, known);
  }).pipe(Effect.mapError(asMigratorError), Effect.withSpan("Migrator.status"));

/** Migrates while the application's layers are built. For one process and for tests; a deploy runs `portal-db migrate`. */
export const layer: Layer.Layer<never, MigratorError, SqlClient.SqlClient> = Layer.effectDiscard(run());
