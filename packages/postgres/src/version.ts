/** Connects once, and refuses a server that is older than PostgreSQL 18. */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import pg from "pg";
import { PostgresUnavailable } from "./errors.js";

const decodeVersion = S.decodeUnknownSync(S.Tuple(S.Struct({ version: S.String, number: S.Int })));

/** For a server that accepts a connection and then says nothing. */
const patience = { connectionTimeoutMillis: 10_000, query_timeout: 10_000 };

/** The first error of several attempts at one connection (IPv6, then IPv4). */
const reason = (error: unknown): string => {
  if (error instanceof AggregateError && error.errors.length > 0) return reason(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
};

const isPostgresUrl = (url: string) => URL.canParse(url) && /^postgres(ql)?:$/.test(new URL(url).protocol);

/** The server's version. Fails with `PostgresUnavailable` when it cannot be connected to, refuses the login or is too old. */
export const requireVersion = (provider: string, url: Redacted.Redacted): Effect.Effect<string, PostgresUnavailable> =>
  Effect.gen(function* () {
    // The driver takes anything for the name of a host. What is wrong is not repeated: it may hold a password.
    if (!isPostgresUrl(Redacted.value(url))) {
      return yield* new PostgresUnavailable({
        provider,
        problem: "the URL is not of the form postgres://user:password@host:port/database",
        remedy: "Correct DATABASE_URL, and percent-encode special characters in user and password",
      });
    }
    const { number, version } = yield* Effect.tryPromise({
      try: async (signal) => {
        const client = new pg.Client({ connectionString: Redacted.value(url), ...patience });
        // Whoever is not waited for any more shall not keep the process.
        signal.addEventListener("abort", () => void client.end().catch(() => undefined));
        // A connection that breaks while it is open is told by the query, not by an uncaught event.
        client.on("error", () => undefined);
        try {
          await client.connect();
          const { rows } = await client.query(
            "SELECT split_part(current_setting('server_version'), ' ', 1) AS version, current_setting('server_version_num')::int AS number",
          );
          return decodeVersion(rows)[0];
        } finally {
          await client.end().catch(() => undefined);
        }
      },
      catch: (error) =>
        new PostgresUnavailable({
          provider,
          problem: `cannot connect: ${reason(error)}`,
          remedy:
            provider === "url" ? "Check DATABASE_URL and that the server runs" : "Run it again, or set DATABASE_URL",
        }),
    });
    if (number < 180_000) {
      return yield* new PostgresUnavailable({
        provider,
        problem: `the server is PostgreSQL ${version}, which is older than 18 and has no uuidv7()`,
        remedy: "Upgrade it, point DATABASE_URL at a newer one, or unset DATABASE_URL for an embedded server",
      });
    }
    return version;
  });
