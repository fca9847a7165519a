/**
 * The connection to PostgreSQL and the scopes in which its rows may be touched.
 *
 * `import * as Client from "@parametric-portal/database/client"`: build one `Client.layer`, and open `Client.tenant(appId)`
 * or `Client.system` around whatever touches rows. A login that is a NOINHERIT member of the group roles sees nothing
 * outside a scope.
 */
import * as Reactivity from "@effect/experimental/Reactivity";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import * as PgClient from "@effect/sql-pg/PgClient";
import * as Config from "effect/Config";
import * as ConfigError from "effect/ConfigError";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Str from "effect/String";
import pg from "pg";
import { sockets } from "./patience.js";
import { withTransaction } from "./transaction.js";

export { currentScope, type DataScope, outside, system, tenant, tenantEach } from "./transaction.js";

/** Where the server is: a connection URL, or its parts. What is absent takes libpq's default. */
export interface Options {
  /** `postgresql://user:password@host:port/database?sslmode=…`; wins over the parts below. */
  readonly url?: Redacted.Redacted | undefined;
  readonly host?: string | undefined;
  readonly port?: number | undefined;
  readonly username?: string | undefined;
  readonly password?: Redacted.Redacted | undefined;
  readonly database?: string | undefined;
  /** `true`: encrypted, certificate and host name verified. An object goes to Node's TLS as it is. Default: not encrypted. */
  readonly ssl?: PgClient.PgClientConfig["ssl"];
  /** Most connections at once; a scope holds one while it runs. Default 10. */
  readonly maxConnections?: number | undefined;
  /** How long to wait for a connection, new or from the pool, before `SqlError`. Default 5 seconds. */
  readonly connectTimeout?: Duration.DurationInput | undefined;
  /**
   * How long a statement may go without any answer before its connection is cut, which fails it as one that was lost: the server may
   * be gone without a word, and its side of the connection would be waited for without an end. Longer than the longest statement.
   * Within TLS it does not hold. Default: 30 seconds with a `role`, else as long as it takes.
   */
  readonly answerTimeout?: Duration.DurationInput | undefined;
  /** How long an unused connection stays open. Default 10 seconds. */
  readonly idleTimeout?: Duration.DurationInput | undefined;
  /**
   * Every connection starts as this group role, so that what it runs outside a scope is in that role and needs no transaction.
   * For a process's own machinery, such as the claims of a runner. It waits no longer than a second for a lock, and the server ends
   * it when it stands idle in a transaction for five: a frozen process would hold its rows as long as its connection lives. The
   * login must be a member. Default: the login itself.
   */
  readonly role?: "parametric_system" | undefined;
  /** What `pg_stat_activity` shows. Default `parametric-portal`. */
  readonly applicationName?: string | undefined;
}

const JSON_OID = 114;
const JSONB_OID = 3802;
const asText = (value: string) => value;

// The models decode JSON themselves, from text (Model.JsonFromString); a driver that has parsed it already fails every read.
const types = {
  getTypeParser: (oid: number, format?: "text" | "binary") =>
    oid === JSON_OID || oid === JSONB_OID ? asText : pg.types.getTypeParser(oid, format),
} as NonNullable<PgClient.PgClientConfig["types"]>;

/**
 * The address as a URL that sets the role at connect, which also holds after DISCARD ALL. Compiling a statement would take longer
 * than those of a runner run, whatever the planner thinks that they cost; each finds its rows by an index and in its order, in which
 * everybody locks them; and none may wait for a row that somebody holds.
 */
const withRole = ({ database, host, password, port, role, url, username, ...rest }: Options): Options => {
  const address = new URL(url === undefined ? "postgresql://localhost" : Redacted.value(url));
  if (url === undefined) {
    if (host?.startsWith("/")) address.searchParams.set("host", host);
    else if (host !== undefined) address.hostname = host;
    if (port !== undefined) address.port = String(port);
    if (username !== undefined) address.username = encodeURIComponent(username);
    if (password !== undefined) address.password = encodeURIComponent(Redacted.value(password));
    if (database !== undefined) address.pathname = `/${encodeURIComponent(database)}`;
  }
  const given = address.searchParams.get("options");
  address.searchParams.set(
    "options",
    `${given === null ? "" : `${given} `}-c role=${role} -c jit=off -c enable_seqscan=off -c enable_bitmapscan=off -c lock_timeout=1000 -c idle_in_transaction_session_timeout=5000`,
  );
  return { ...rest, answerTimeout: rest.answerTimeout ?? "30 seconds", url: Redacted.make(address.href) };
};

/** The names of columns are few, and every row of every answer has them. */
const remembered = (transform: (name: string) => string) => {
  const known = new Map<string, string>();
  return (name: string): string => {
    const before = known.get(name);
    if (before !== undefined) return before;
    const after = transform(name);
    // A statement may name its columns after what it was given.
    if (known.size < 10_000) known.set(name, after);
    return after;
  };
};

// What URL throws has the address in it, with its password.
const unusable = () =>
  new SqlError({ cause: new Error("the database's address is no URL"), message: "PgClient: Failed to connect" });

const make = (given: Options) =>
  Effect.flatMap(
    given.role === undefined ? Effect.succeed(given) : Effect.try({ try: () => withRole(given), catch: unusable }),
    connect,
  );

const connect = ({ answerTimeout, ...options }: Options) =>
  PgClient.make({
    ...options,
    ...(answerTimeout === undefined ? {} : { stream: sockets(Duration.toMillis(answerTimeout)) }),
    applicationName: options.applicationName ?? "parametric-portal",
    connectTimeout: options.connectTimeout ?? "5 seconds",
    types,
    // Column names only: with transformJson it would rename the keys inside stored payloads.
    transformQueryNames: remembered(Str.camelToSnake),
    transformResultNames: remembered(Str.snakeToCamel),
    transformJson: false,
  }).pipe(Effect.map((client) => Object.assign(client, { withTransaction: withTransaction(client) })));

const toContext = (client: PgClient.PgClient) =>
  Context.make(PgClient.PgClient, client).pipe(Context.add(SqlClient.SqlClient, client));

/**
 * A pool of connections. Building it connects once, so that a wrong address fails at start: `SqlError`.
 * Its `withTransaction` is the one of this package (see `transaction.ts`), also for code that calls it through `SqlClient`.
 */
export const layer = (options: Options): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient, SqlError> =>
  Layer.scopedContext(Effect.map(make(options), toContext)).pipe(Layer.provide(Reactivity.layer));

const sslOf = (mode: string): Either.Either<PgClient.PgClientConfig["ssl"], ConfigError.ConfigError> => {
  switch (mode) {
    case "disable":
      return Either.right(false);
    case "require":
      return Either.right({ rejectUnauthorized: false });
    case "verify-full":
      return Either.right(true);
    default:
      return Either.left(
        ConfigError.InvalidData(
          ["PGSSLMODE"],
          `is ${JSON.stringify(mode)}. Use disable, require (encrypted, certificate not verified) or verify-full; the driver cannot negotiate the other modes`,
        ),
      );
  }
};

const portOf = (text: string): Either.Either<number, ConfigError.ConfigError> => {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535
    ? Either.right(port)
    : Either.left(
        ConfigError.InvalidData(["PGPORT"], `is ${JSON.stringify(text)}; it must be a whole number from 1 to 65535`),
      );
};

// Looked at only when the address needs it: a name that does not count cannot be wrong.
const checked = <A>(
  text: Option.Option<string>,
  check: (text: string) => Either.Either<A, ConfigError.ConfigError>,
): Either.Either<A | undefined, ConfigError.ConfigError> =>
  Option.match(text, { onNone: () => Either.right(undefined), onSome: check });

const hasSsl = /[?&](ssl|sslmode|sslrootcert|sslcert|sslkey)=/;
const named = (name: string) => Config.option(Config.nonEmptyString(name));

/**
 * `DATABASE_URL`, else the libpq names `PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE`. `PGSSLMODE` holds for both, unless the
 * URL has an `sslmode` of its own. An empty one counts as absent.
 */
export const config: Config.Config<Options> = Config.all({
  url: Config.option(Config.redacted("DATABASE_URL")),
  host: named("PGHOST"),
  port: named("PGPORT"),
  username: named("PGUSER"),
  password: Config.option(Config.redacted("PGPASSWORD")),
  database: named("PGDATABASE"),
  sslMode: named("PGSSLMODE"),
}).pipe(
  Config.mapOrFail((_) =>
    Either.gen(function* () {
      const url = Option.getOrUndefined(Option.filter(_.url, (given) => Redacted.value(given).trim() !== ""));
      if (url !== undefined) {
        return hasSsl.test(Redacted.value(url)) ? { url } : { url, ssl: yield* checked(_.sslMode, sslOf) };
      }
      return {
        host: Option.getOrUndefined(_.host),
        port: yield* checked(_.port, portOf),
        username: Option.getOrUndefined(_.username),
        password: Option.getOrUndefined(Option.filter(_.password, (given) => Redacted.value(given) !== "")),
        database: Option.getOrUndefined(_.database),
        ssl: yield* checked(_.sslMode, sslOf),
      };
    }),
  ),
);

/**
 * `layer` with the address from the environment (see {@link config}) and everything else from `options`. An `ssl` given here
 * holds before `PGSSLMODE`, because only code can hold a certificate.
 */
export const layerConfig = (
  options: Omit<Options, "url" | "host" | "port" | "username" | "password" | "database"> = {},
): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient, SqlError | ConfigError.ConfigError> =>
  Layer.unwrapEffect(
    Effect.map(config, (address) => layer({ ...options, ...address, ssl: options.ssl ?? address.ssl })),
  );

/** What a health check learns: the server's version, and whether it is a read-only replica. */
export class Health extends S.Class<Health>("Health")({
  serverVersion: S.String,
  isReadOnly: S.Boolean,
}) {}

const decodeHealth = S.decodeUnknown(S.Tuple(Health));

/** Asks the server one question; `SqlError` when it does not answer. Needs no scope. */
export const health = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const rows = yield* sql`
    SELECT current_setting('server_version') AS server_version, current_setting('transaction_read_only') = 'on' AS is_read_only`;
  const [answer] = yield* Effect.orDie(decodeHealth(rows));
  return answer;
}).pipe(Effect.withSpan("Client.health"));
