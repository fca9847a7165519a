/**
 * Who comes first, decided by locks: a contest holds something back, lets its contenders run into it one after the other, and
 * releases it when the server says that all of them wait.
 *
 * PostgreSQL serves those who wait for one row in the order in which they came, so the order of the contenders is the order of
 * the outcome. Nothing here sleeps.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import type * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
import { TestUrl } from "./database.js";

/** What a statement locks stays locked until `release`, or until the scope ends. On a connection of its own, as the login. */
export const hold = (statement: string, parameters: ReadonlyArray<unknown> = []) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const connection = yield* sql.reserve;
    const send = (text: string, values: ReadonlyArray<unknown> = []) =>
      connection.executeUnprepared(text, values, undefined);
    yield* send("BEGIN");
    yield* Effect.addFinalizer(() => Effect.orDie(send("ROLLBACK")));
    yield* send(statement, parameters);
    return { release: send("COMMIT"), send };
  });

/** Waits until another connection waits for what is held. */
export const untilBehind = ({ send }: Effect.Effect.Success<ReturnType<typeof hold>>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const [holder] = yield* send("SELECT pg_backend_pid() AS pid");
    yield* Effect.repeat(
      sql`
        SELECT count(*)::int AS count FROM pg_stat_activity
        WHERE datname = current_database() AND pg_blocking_pids(pid) @> ARRAY[${holder?.pid}::int]`,
      { until: ([row]) => Number(row?.count) > 0 },
    );
  });

/** Waits until so many connections to this database wait for a lock. */
export const untilWaiting = (count: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    yield* Effect.repeat(
      sql`
        SELECT count(*)::int AS count FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND wait_event_type = 'Lock'`,
      { until: ([row]) => Number(row?.count) >= count },
    );
  });

/** Starts an effect and returns its fiber when `count` connections wait; dies if it ends before that. */
export const startWaiting = <A, E, R>(count: number, name: string, contender: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const ended = yield* Deferred.make<never>();
    const fiber = yield* Effect.fork(
      Effect.onExit(contender, (exit) =>
        Deferred.die(ended, new Error(`${name} was to wait for a lock, and ended with ${exit}`)),
      ),
    );
    yield* Effect.raceFirst(untilWaiting(count), Deferred.await(ended));
    return fiber;
  });

/** Lets contenders queue up, in this order, behind what `statement` locks; their exits, once all have ended. */
export const inOrder = <A, E, R>(
  statement: string,
  parameters: ReadonlyArray<unknown>,
  contenders: ReadonlyArray<Effect.Effect<A, E, R>>,
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { release } = yield* hold(statement, parameters);
      const fibers: Array<Fiber.RuntimeFiber<A, E>> = [];
      for (const [place, contender] of contenders.entries()) {
        fibers.push(yield* startWaiting(place + 1, `contender ${place + 1}`, contender));
      }
      yield* release;
      const exits: Array<Exit.Exit<A, E>> = [];
      for (const fiber of fibers) exits.push(yield* Fiber.await(fiber));
      return exits;
    }),
  );

const Database = S.Tuple(S.Struct({ deadlocks: S.NumberFromString, others: S.Int }));

/**
 * Runs an effect on connections of its own, closes them, and holds that PostgreSQL had no deadlock to break meanwhile. One that a
 * retry makes good counts as well: it costs every party a second, and the next time it hits the one that does not retry.
 */
export const withoutDeadlock = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const known = yield* Effect.orDie(S.decodeUnknown(Database)(yield* look(sql)));
    const result = yield* Effect.provide(effect, yield* connections());
    // A connection hands its statistics in when it ends.
    const after = yield* look(sql).pipe(
      Effect.flatMap((rows) => Effect.orDie(S.decodeUnknown(Database)(rows))),
      Effect.repeat({ until: ([{ others }]) => others === 0 }),
    );
    assert.strictEqual(after[0].deadlocks, known[0].deadlocks, "deadlocks");
    return result;
  });

const look = (sql: SqlClient.SqlClient) => sql`
  SELECT deadlocks::text,
    (SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'contest') AS others
  FROM pg_stat_database WHERE datname = current_database()`;

/** A client with a pool of its own; `parameters` are server settings for its connections, as `-c name=value`. */
export const connections = (parameters = "") =>
  Effect.map(TestUrl, (url) => {
    const parsed = new URL(Redacted.value(url));
    if (parameters !== "") parsed.searchParams.set("options", parameters);
    return DatabaseService.layer.pipe(
      Layer.provideMerge(
        Client.layer({ url: Redacted.make(parsed.href), maxConnections: 12, applicationName: "contest" }),
      ),
    );
  });
