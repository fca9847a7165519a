/**
 * `dlq doctor`: whether this database and this login are as the queue needs them. It changes nothing.
 *
 * Each finding says what to do. A warning is something that works and should not stay; a problem is something that does not work.
 */
import * as Command from "@effect/cli/Command";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { explain, Failed } from "./failure.js";
import { jsonOption, layerDatabase } from "./options.js";
import { colour, json, say } from "./output.js";

const Finding = S.Struct({
  check: S.String,
  state: S.Literal("ok", "warning", "problem"),
  detail: S.String,
});
type Finding = typeof Finding.Type;

const ok = (check: string, detail: string): Finding => ({ check, state: "ok", detail });
const warning = (check: string, detail: string): Finding => ({ check, state: "warning", detail });
const problem = (check: string, detail: string): Finding => ({ check, state: "problem", detail });

/** What a check cannot even ask is its finding. */
const orProblem =
  (check: string) =>
  <E, R>(effect: Effect.Effect<Finding | ReadonlyArray<Finding>, E, R>) =>
    effect.pipe(
      Effect.map((found) => (Array.isArray(found) ? (found as ReadonlyArray<Finding>) : [found as Finding])),
      Effect.catchAll((error) => Effect.succeed([problem(check, explain(error))])),
    );

// --- checks ------------------------------------------------------------------

const server = Effect.gen(function* () {
  const began = yield* Clock.currentTimeMillis;
  const { isReadOnly, serverVersion } = yield* Client.health;
  const took = (yield* Clock.currentTimeMillis) - began;
  const said = `PostgreSQL ${serverVersion}, answered in ${took} ms`;
  if (Number.parseInt(serverVersion, 10) < 18) return problem("server", `${said}: 18 or newer is needed`);
  return isReadOnly
    ? problem("server", `${said}: it is a read-only replica, nothing can be changed here`)
    : ok("server", said);
});

const migrations = Effect.gen(function* () {
  const states = yield* Migrator.status().pipe(Effect.catchTag("RoleRightsMissing", () => Effect.succeed(undefined)));
  if (states === undefined) {
    return warning(
      "migrations",
      "this login may not read which were applied: run portal-db check with the one that migrates",
    );
  }
  const pending = states.filter(({ appliedAt }) => appliedAt === null);
  const last = states.at(-1);
  if (pending.length > 0) {
    return problem("migrations", `${pending.map(Migrator.fileName).join(", ")} pending: run portal-db migrate`);
  }
  return ok("migrations", last === undefined ? "none" : `up to date with ${Migrator.fileName(last)}`);
});

const decodeLogin = S.decodeUnknown(
  S.Tuple(
    S.Struct({
      login: S.String,
      isSuperuser: S.Boolean,
      bypasses: S.Boolean,
      owns: S.Array(S.String),
      isTenant: S.NullOr(S.Boolean),
      isSystem: S.NullOr(S.Boolean),
    }),
  ),
);

const ourTables = "('apps', 'jobs', 'job_dlq', 'job_dlq_events')";

const login = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [{ bypasses, isSuperuser, isSystem, isTenant, login: name, owns }] = yield* Effect.flatMap(
    sql.unsafe(`
      SELECT r.rolname AS login, r.rolsuper AS is_superuser, r.rolbypassrls AS bypasses,
        ARRAY(SELECT c.relname::text FROM pg_class c WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p') AND c.relname IN ${ourTables} ORDER BY 1) AS owns,
        (SELECT pg_has_role(r.oid, t.oid, 'SET') FROM pg_roles t WHERE t.rolname = 'parametric_tenant') AS is_tenant,
        (SELECT pg_has_role(r.oid, t.oid, 'SET') FROM pg_roles t WHERE t.rolname = 'parametric_system') AS is_system
      FROM pg_roles r WHERE r.rolname = session_user`),
    decodeLogin,
  );
  const rights = isSuperuser
    ? warning(
        "login",
        `${name} is a superuser: use a NOINHERIT login that is a member of the group roles and owns nothing`,
      )
    : owns.length > 0
      ? warning("login", `${name} owns ${owns.join(", ")}: use a login that owns nothing`)
      : bypasses
        ? warning("login", `${name} has BYPASSRLS, which nothing here needs`)
        : ok("login", `${name} is no superuser and owns none of the tables`);
  const member = (role: string, is: boolean | null) =>
    is === null
      ? problem("roles", `${role} does not exist: run portal-db migrate`)
      : is
        ? ok("roles", `${name} may become ${role}`)
        : warning("roles", `${name} may not become ${role}: GRANT ${role} TO ${name}, unless that is meant`);
  return [rights, member("parametric_tenant", isTenant), member("parametric_system", isSystem)];
});

const decodeTables = S.decodeUnknown(
  S.Array(
    S.Struct({
      name: S.String,
      isEnabled: S.Boolean,
      isForced: S.Boolean,
      policies: S.Int,
      isOurs: S.Boolean,
      isGranted: S.Boolean,
    }),
  ),
);

const isolation = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const tables = yield* Effect.flatMap(
    sql.unsafe(`
      SELECT c.relname AS name, c.relrowsecurity AS is_enabled, c.relforcerowsecurity AS is_forced,
        (SELECT count(*)::int FROM pg_policy p WHERE p.polrelid = c.oid) AS policies, c.relname IN ${ourTables} AS is_ours,
        has_table_privilege('parametric_tenant', c.oid, 'SELECT') AS is_granted
      FROM pg_class c
      WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
        AND (c.relname = 'apps' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'app_id' AND NOT a.attisdropped))
      ORDER BY 1`),
    decodeTables,
  );
  if (!tables.some(({ isOurs }) => isOurs))
    return problem("isolation", "the tables are not there: run portal-db migrate");
  const open = tables
    .filter((_) => !(_.isEnabled && _.isForced && _.policies > 0))
    .map(({ isOurs, name }) =>
      (isOurs ? problem : warning)(
        "isolation",
        `${name} has an app_id, and row-level security is not enabled, forced and given policies on it: tenants are not kept apart there`,
      ),
    );
  const closed = tables
    .filter(({ isGranted }) => !isGranted)
    .map(({ name }) =>
      warning(
        "isolation",
        `${name} has an app_id, and handlers may not read it: GRANT SELECT, INSERT, … ON ${name} TO parametric_tenant`,
      ),
    );
  return open.length + closed.length === 0
    ? ok("isolation", `row-level security is forced on ${tables.map(({ name }) => name).join(", ")}`)
    : [...open, ...closed];
});

const decodeIndexes = S.decodeUnknown(S.Array(S.Struct({ name: S.String })));

const indexes = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const broken = yield* Effect.flatMap(
    sql.unsafe(`
      SELECT i.indexrelid::regclass::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
      WHERE c.relname IN ${ourTables} AND NOT (i.indisvalid AND i.indisready) ORDER BY 1`),
    decodeIndexes,
  );
  return broken.length === 0
    ? ok("indexes", "all valid")
    : broken.map(({ name }) => problem("indexes", `${name} is not valid: REINDEX INDEX CONCURRENTLY ${name}`));
});

const decodeNow = S.decodeUnknown(S.Tuple(S.Struct({ now: S.Number })));
/** Beyond it `--since 2h` and the ages of a list are visibly wrong. */
const mostSkew = 2000;

const clock = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const before = yield* Clock.currentTimeMillis;
  const [{ now }] = yield* Effect.flatMap(
    sql`SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now`,
    decodeNow,
  );
  const skew = Math.round(now - (before + (yield* Clock.currentTimeMillis)) / 2);
  const said = `this machine's clock is ${Duration.format(Duration.millis(Math.abs(skew)))} ${skew >= 0 ? "behind" : "ahead of"} the server's`;
  return Math.abs(skew) > mostSkew ? warning("clock", `${said}: --since and ages go by it`) : ok("clock", said);
});

// --- the command -------------------------------------------------------------

const marks = { ok: colour.green("✓"), warning: colour.yellow("!"), problem: colour.red("✗") };

export const doctor = Command.make("doctor", { json: jsonOption }, (given) =>
  Effect.gen(function* () {
    const checks = Effect.gen(function* () {
      const findings = [
        yield* orProblem("server")(server),
        yield* orProblem("migrations")(migrations),
        yield* orProblem("login")(login),
        yield* orProblem("isolation")(isolation),
        yield* orProblem("indexes")(indexes),
        yield* orProblem("clock")(clock),
      ];
      return findings.flat();
    });
    const findings = yield* checks.pipe(
      Effect.provide(layerDatabase),
      Effect.catchAll((error) => Effect.succeed([problem("server", explain(error))])),
    );
    for (const finding of findings) {
      yield* say(given.json ? json(finding) : `${marks[finding.state]} ${finding.check.padEnd(11)} ${finding.detail}`);
    }
    const problems = findings.filter(({ state }) => state === "problem").length;
    if (problems > 0) return yield* new Failed({ reason: `${problems} of ${findings.length} checks found a problem.` });
  }),
).pipe(Command.withDescription("Whether the database, its schema and this login are as the queue needs them"));
