/**
 * The connection that listens for notifications, for as long as its scope is open.
 *
 * `PgClient.listen` is not used: its stream goes silent for ever when its connection is lost. This one is made anew, with growing
 * pauses, and asked now and then whether it still answers. Notifications are hints: what came while there was no connection is
 * never delivered, so `wake` is also called each time that listening begins.
 */
import * as Net from "node:net";
import { SqlError } from "@effect/sql/SqlError";
import type * as PgClient from "@effect/sql-pg/PgClient";
import * as Deferred from "effect/Deferred";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import pg from "pg";
import { databaseError } from "../sql-state.js";

export interface Listening {
  readonly channel: string;
  /** Asked as often whether it still answers; a half-open connection says nothing by itself. */
  readonly heartbeat: Duration.Duration;
  /** Called with each notification's payload, and without when listening begins. Must not throw. */
  readonly wake: (payload?: string) => void;
}

/** Pauses between attempts: 0.1 to 5 seconds, short again after half a minute without a failure. */
export const reconnecting = Schedule.exponential("100 millis").pipe(
  Schedule.union(Schedule.spaced("5 seconds")),
  Schedule.jittered,
  Schedule.resetAfter("30 seconds"),
);

/** How long the server may take for an answer. */
const patience = Duration.seconds(5);

const lost = (cause: unknown) => new SqlError({ cause, message: "The listening connection was lost" });

const answered = <A>(ask: () => Promise<A>) =>
  Effect.timeoutFail(Effect.tryPromise({ try: ask, catch: lost }), {
    duration: patience,
    onTimeout: () => lost(new Error("no answer in time")),
  });

const open = (config: PgClient.PgClientConfig) => {
  const socket = config.stream?.() ?? new Net.Socket();
  const client = new pg.Client({
    connectionString: config.url === undefined ? undefined : Redacted.value(config.url),
    user: config.username,
    host: config.host,
    database: config.database,
    password: config.password === undefined ? undefined : Redacted.value(config.password),
    ssl: config.ssl,
    port: config.port,
    stream: () => socket,
    application_name: config.applicationName,
    connectionTimeoutMillis: Duration.toMillis(config.connectTimeout ?? patience),
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  });
  return { client, socket };
};

// Says goodbye if it can; a connection that is half open would otherwise keep the process alive.
const close = ({ client, socket }: ReturnType<typeof open>) =>
  Effect.tryPromise(() => client.end()).pipe(
    Effect.interruptible,
    Effect.timeoutOption("1 second"),
    Effect.catchAll((error) => Effect.logDebug("The listening connection was not closed cleanly", error)),
    Effect.ensuring(Effect.sync(() => socket.destroy())),
  );

/** One connection's life: from connecting to the error that ends it. */
const life = (config: PgClient.PgClientConfig, { channel, heartbeat, wake }: Listening) =>
  Effect.acquireUseRelease(
    Effect.sync(() => open(config)),
    ({ client }) =>
      Effect.gen(function* () {
        const ended = yield* Deferred.make<never, SqlError>();
        const end = (cause: unknown) => Deferred.unsafeDone(ended, Effect.fail(lost(cause)));
        client.on("error", end);
        client.on("end", () => end(new Error("the server closed it")));
        client.on("notification", ({ payload }) => wake(payload));
        yield* answered(() => client.connect());
        yield* answered(() => client.query(`LISTEN ${pg.escapeIdentifier(channel)}`));
        yield* Effect.sync(() => wake());
        const beats = Effect.forever(
          Effect.zipRight(
            Effect.sleep(heartbeat),
            answered(() => client.query("SELECT 1")),
          ),
        );
        return yield* Effect.raceFirst(Deferred.await(ended), beats);
      }),
    close,
  );

/** Listens until the scope closes; the fiber belongs to that scope. */
export const listen = (config: PgClient.PgClientConfig, listening: Listening) =>
  life(config, listening).pipe(
    Effect.tapError((error) =>
      Effect.logWarning(
        `Listening on ${listening.channel} was interrupted (${databaseError(error).message}) and begins again`,
      ),
    ),
    Effect.retry(reconnecting),
    Effect.forkScoped,
  );
