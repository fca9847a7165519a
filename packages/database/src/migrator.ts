/**
 * The migration runner: brings a database to this release's schema, once, however many processes try at the same time.
 *
 * Contract: an advisory lock on the database lets one runner work; the others wait and find nothing to do. Each migration
 * is one transaction together with its line in the ledger `portal_migrations`, so it happened whole or not at all. The
 * ledger must be a prefix of the catalogue, name by name; anything else stops the run before it changes anything.
 *
 * The lock belongs to a session: connect directly, not through a pooler in transaction mode. Waiting for it is asking again
 * and again: a blocking request would end with the login's statement_timeout, and could be given up only over a second
 * connection, which a pool of one does not have.
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
import jobDlqReceipts from "../migrations/0005_job_dlq_receipts.js";
import jobDlqFingerprint from "../migrations/0006_job_dlq_fingerprint.js";
import jobWorkers from "../migrations/0007_job_workers.js";
import jobDlqGrowth from "../migrations/0008_job_dlq_growth.js";
import jobDlqLess from "../migrations/0009_job_dlq_less.js";
import { classify, databaseError } from "./sql-state.js";

/**
 * One step of the schema. `id` counts from 1 without gaps; the file is `<id as 4 digits>_<name>.ts`. It runs with the
 * search_path `public`, whatever the login's is, and in a transaction of its own.
 */
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
  { id: 5, name: "job_dlq_receipts", run: jobDlqReceipts },
  { id: 6, name: "job_dlq_fingerprint", run: jobDlqFingerprint },
  { id: 7, name: "job_workers", run: jobWorkers },
  { id: 8, name: "job_dlq_growth", run: jobDlqGrowth },
  { id: 9, name: "job_dlq_less", run: jobDlqLess },
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

/** The schema is older than the code that is to work on it. Nothing was changed. */
export class SchemaTooOld extends S.TaggedError<SchemaTooOld>()("SchemaTooOld", {
  /** The first migration that was not applied, as far as it shows. */
  missing: S.String,
}) {
  override get message() {
    return `The schema of the database is older than this release: migration ${this.missing} was not applied. Run portal-db migrate of this release first, with the login that migrates; older runners go on meanwhile.`;
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

const ServerVersion = S.Struct({ version: S.String, versionNumber: S.Int });
const decodeVersion = S.decodeUnknown(S.Tuple(ServerVersion));

const requireServer = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const rows =
      yield* sql`SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_number`;
    const [{ version, versionNumber }] = yield* Effect.orDie(decodeVersion(rows));
    if (versionNumber < 180_000) return yield* new ServerTooOld({ version });
  });

const Rights = S.Struct({
  login: S.String,
  mayCreateRoles: S.Boolean,
  absentRoles: S.Array(S.String),
  unsettableRoles: S.Array(S.String),
  mayCreateInSchema: S.Boolean,
  isSchemaOpen: S.Boolean,
});
const decodeRights = S.decodeUnknown(S.Tuple(Rights));

const quoted = (identifier: string) => `"${identifier.replaceAll('"', '""')}"`;

const requireRights = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    // The group roles reach the schema when everybody does, when they were let in before, or when this login may let them in:
    // a GRANT without that right is only a warning, and every scope would fail later.
    const rows = yield* sql`
      WITH wanted AS (SELECT unnest(ARRAY['parametric_tenant', 'parametric_system']) AS name),
      existing AS (SELECT r.oid, r.rolname FROM pg_roles r JOIN wanted ON r.rolname = wanted.name)
      SELECT CURRENT_USER::text AS login,
        (SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles r WHERE r.rolname = CURRENT_USER) AS may_create_roles,
        ARRAY(SELECT name FROM wanted WHERE name NOT IN (SELECT rolname FROM existing)) AS absent_roles,
        ARRAY(SELECT rolname::text FROM existing WHERE NOT pg_has_role(oid, 'SET')) AS unsettable_roles,
        has_schema_privilege('public', 'CREATE') AND has_schema_privilege('public', 'USAGE') AS may_create_in_schema,
        has_schema_privilege('public', 'USAGE WITH GRANT OPTION') OR has_schema_privilege('public', 'public', 'USAGE')
          OR (SELECT count(*) = 2 FROM existing WHERE has_schema_privilege(oid, 'public', 'USAGE')) AS is_schema_open`;
    const [rights] = yield* Effect.orDie(decodeRights(rows));
    const login = quoted(rights.login);
    // Whoever opens the schema to the roles needs them to be there, so an administrator makes them then as well.
    const toCreate = rights.mayCreateRoles && rights.isSchemaOpen ? [] : rights.absentRoles;
    // A creator of roles may set those it creates itself (0001 grants them); those of somebody else it may not.
    const toGrant = [...toCreate, ...rights.unsettableRoles];
    const missing: Array<string> = [];
    const remedy: Array<string> = [];
    if (toCreate.length > 0) {
      missing.push(
        `there is no role ${toCreate.join(" and no role ")}${rights.mayCreateRoles ? "" : " and it may not create roles"}`,
      );
      remedy.push(...toCreate.map((role) => `CREATE ROLE ${role} NOLOGIN;`));
    }
    if (toGrant.length > 0) {
      missing.push(`it may not SET ROLE ${toGrant.join(" and ")}`);
      remedy.push(`GRANT ${toGrant.join(", ")} TO ${login} WITH INHERIT FALSE, SET TRUE;`);
    }
    if (!rights.mayCreateInSchema) {
      missing.push("it may not create tables in the schema public");
      remedy.push(`GRANT USAGE, CREATE ON SCHEMA public TO ${login};`);
    }
    if (!rights.isSchemaOpen) {
      missing.push("the group roles may not use the schema public, and it may not let them");
      remedy.push("GRANT USAGE ON SCHEMA public TO parametric_tenant, parametric_system;");
    }
    if (missing.length > 0) {
      return yield* new RoleRightsMissing({ login: rights.login, missing, remedy: remedy.join("\n") });
    }
  });

const LedgerRow = S.Struct({ id: S.Int, name: S.String, appliedAt: S.DateFromSelf });
const decodeLedger = S.decodeUnknown(S.Array(LedgerRow));
const decodeExists = S.decodeUnknown(S.Tuple(S.Struct({ present: S.Boolean })));

const unreadable = new LedgerMismatch({ problem: "its columns are not id, name, applied_at" });

const ledgerRefused = (sql: SqlClient.SqlClient) => (error: SqlError) =>
  Effect.gen(function* () {
    const { code } = databaseError(error);
    if (code === "42703") return yield* unreadable;
    if (code !== "42501") return yield* error;
    const rows =
      yield* sql`SELECT CURRENT_USER::text AS login, has_schema_privilege('public', 'USAGE') AS may_use_schema`;
    const [{ login, mayUseSchema }] = yield* Effect.orDie(decodeReader(rows));
    const select = `GRANT SELECT ON TABLE public.portal_migrations TO ${quoted(login)};`;
    return yield* new RoleRightsMissing({
      login,
      missing: ["it may not read the ledger portal_migrations"],
      remedy: mayUseSchema ? select : `GRANT USAGE ON SCHEMA public TO ${quoted(login)};\n${select}`,
    });
  });
const decodeReader = S.decodeUnknown(S.Tuple(S.Struct({ login: S.String, mayUseSchema: S.Boolean })));

const readLedger = (sql: SqlClient.SqlClient, known: ReadonlyArray<Migration>) =>
  Effect.gen(function* () {
    // Not to_regclass(), which fails where the schema is closed to the login.
    const found = yield* sql`
      SELECT EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relname = 'portal_migrations') AS present`;
    const [{ present }] = yield* Effect.orDie(decodeExists(found));
    const applied = present
      ? yield* sql`SELECT id, name, applied_at FROM public.portal_migrations ORDER BY id`.pipe(
          Effect.catchAll(ledgerRefused(sql)),
          Effect.flatMap((rows) => Effect.mapError(decodeLedger(rows), () => unreadable)),
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

const attemptLock = (sql: SqlClient.SqlClient) =>
  Effect.flatMap(sql`SELECT pg_try_advisory_lock(${lockKeys[0]}::int, ${lockKeys[1]}::int) AS held`, (rows) =>
    Effect.orDie(decodeHeld(rows)),
  );
const decodeHeld = S.decodeUnknown(S.Tuple(S.Struct({ held: S.Boolean })));

/** Waits until this connection holds the lock, which is released with the scope. What it does not hold it never releases. */
const lock = (sql: SqlClient.SqlClient) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      let [{ held }] = yield* attemptLock(sql);
      if (!held) yield* Effect.logWarning("another runner works on this database; waiting for it");
      while (!held) {
        yield* restore(Effect.sleep("100 millis"));
        [{ held }] = yield* attemptLock(sql);
      }
      yield* Effect.addFinalizer(() =>
        Effect.catchAll(sql`SELECT pg_advisory_unlock(${lockKeys[0]}::int, ${lockKeys[1]}::int)`, (error) =>
          Effect.logDebug("the lock went with its connection", error),
        ),
      );
    }),
  );

// 28: the login is refused; 3D000: there is no such database.
const isUnreachable = (error: SqlError) =>
  classify(error) === "Connection" || /^28|^3D000$/.test(databaseError(error).code ?? "");

const asMigratorError = <E>(error: E | SqlError): Exclude<E, SqlError> | DatabaseUnreachable | MigrationFailed =>
  error instanceof SqlError
    ? isUnreachable(error)
      ? unreachable(error)
      : new MigrationFailed({ migration: "ledger", problem: databaseError(error).message })
    : (error as Exclude<E, SqlError>);

// Names in a migration mean the schema public: the first of the login's search_path is "$user", and 0002 would not find what
// 0001 made there. A runner that is killed is noticed at the next check and not when its statement ends, however long that
// takes; a server's platform that cannot check says so when the setting is set, and goes without.
const settings = `
  SET LOCAL search_path = public, pg_temp;
  DO $settings$
  BEGIN
    SET LOCAL client_connection_check_interval = '1s';
  EXCEPTION WHEN invalid_parameter_value THEN
    NULL;
  END
  $settings$`;

const apply = (sql: SqlClient.SqlClient, connection: SqlConnection.Connection, migration: Migration) => {
  const statement = (text: string) => connection.executeUnprepared(text, [], undefined);
  return Effect.gen(function* () {
    yield* statement(`BEGIN; ${settings}`);
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
      yield* lock(sql);
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

/**
 * What shows that a migration was applied, to a login that may not read the ledger: a column that it made. Only those that this
 * release's statements cannot do without; a later one makes them faster.
 */
const marks: ReadonlyArray<readonly [id: number, table: string, column: string]> = [
  [1, "jobs", "fence"],
  [2, "job_dlq", "replayed_at"],
  [3, "job_dlq_events", "undoes"],
  [4, "job_dlq", "fingerprint"],
  [7, "jobs", "in_company"],
];

/** Fails when the schema lacks what this release's code works on. One that is newer is as good. Any login may ask. */
export const requireSchema: Effect.Effect<void, SchemaTooOld | SqlError, SqlClient.SqlClient> = Effect.gen(
  function* () {
    const sql = yield* SqlClient.SqlClient;
    const found = yield* sql`
      SELECT m.id FROM unnest(${marks.map(([id]) => id)}::int[], ${marks.map(([, table]) => table)}::text[],
        ${marks.map(([, , column]) => column)}::text[]) AS m (id, relation, attribute)
      WHERE EXISTS (
        SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relname = m.relation AND a.attname = m.attribute AND NOT a.attisdropped)`;
    const applied = new Set((yield* Effect.orDie(decodeMarks(found))).map(({ id }) => id));
    const missing = marks.find(([id]) => !applied.has(id));
    const migration = catalogue.find(({ id }) => id === missing?.[0]);
    if (migration !== undefined) return yield* new SchemaTooOld({ missing: fileName(migration) });
  },
);
const decodeMarks = S.decodeUnknown(S.Array(S.Struct({ id: S.Int })));

/** Migrates while the application's layers are built. For one process and for tests; a deploy runs `portal-db migrate`. */
export const layer: Layer.Layer<never, MigratorError, SqlClient.SqlClient> = Layer.effectDiscard(run());
