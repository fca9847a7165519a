/**
 * Transactions as this package needs them, and the tenant and system scopes that live in them.
 *
 * Contract:
 * - Success means committed. A commit that the server turned into a rollback (a statement had failed and its error was
 *   caught) fails with `SqlError`; so does a connection that is lost on the way.
 * - Nested transactions are savepoints, and run one after the other: two side by side on one connection would release and
 *   roll back each other's savepoints. A statement that runs beside a nested transaction in the same outer one is part of
 *   whichever savepoint is open; do not run them side by side.
 * - A scope's role and tenant hold for exactly its own transaction or savepoint. A fiber that outlives it cannot reach the
 *   connection any more, which may be another tenant's by then: its statements fail with `SqlError`.
 *
 * {@link withTransaction} replaces `sql.withTransaction` on the clients of `Client.layer`; on another client call it directly.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type * as SqlConnection from "@effect/sql/SqlConnection";
import { SqlError } from "@effect/sql/SqlError";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as FiberId from "effect/FiberId";
import * as Option from "effect/Option";
import * as Queue from "effect/Queue";
import * as S from "effect/Schema";
import * as Scope from "effect/Scope";
import { InvalidInput, ScopeConflict } from "./errors.js";
import { ClosableConnection, LazyConnection } from "./lazy-connection.js";
import { discard, isInTransaction, type Opening, openWithNext } from "./opening.js";
import { databaseError } from "./sql-state.js";

/** Whose rows a transaction may touch. */
export type DataScope = { readonly _tag: "tenant"; readonly appId: string } | { readonly _tag: "system" };

/** The innermost open transaction of this fiber. `gate` lets its nested transactions in one by one. */
interface Frame {
  readonly connection: SqlConnection.Connection;
  readonly gate: Gate;
  readonly scope: Option.Option<DataScope>;
}
class CurrentFrame extends Context.Tag("@parametric-portal/database/CurrentFrame")<CurrentFrame, Frame>() {}

/** What a transaction runs besides the effect itself: settings on its way in, and their undoing before its savepoint is released. */
interface Around {
  readonly scope: Option.Option<DataScope>;
  /** Statements that follow BEGIN in the same message. */
  readonly settings: string;
}
const plain: Around = { scope: Option.none(), settings: "" };

/** Lets nested transactions in one by one. Most transactions have none, so what it is made of is made for the first. */
class Gate {
  private queue: Queue.Queue<void> | undefined;

  // A bounded queue of one token and not a Semaphore, which becomes quadratic with many waiters in effect 3.22.
  private readonly tokens = Effect.suspend(() => {
    if (this.queue !== undefined) return Effect.succeed(this.queue);
    return Effect.flatMap(Queue.bounded<void>(1), (made) => {
      if (this.queue !== undefined) return Effect.succeed(this.queue);
      this.queue = made;
      return Effect.as(Queue.offer(made, undefined), made);
    });
  });

  readonly enter = Effect.flatMap(this.tokens, Queue.take);
  readonly leave = Effect.flatMap(this.tokens, (tokens) => Queue.offer(tokens, undefined));
  /** Whether one is inside. */
  readonly isTaken = Effect.suspend(() =>
    this.queue === undefined ? Effect.succeed(false) : Queue.isEmpty(this.queue),
  );
}

const previousSettings = S.decodeUnknownSync(S.Tuple(S.Struct({ role: S.String, tenant: S.NullOr(S.String) })));

/** Runs one message; several statements in it are sent at once and answered together. */
const send = (connection: SqlConnection.Connection, text: string, parameters: ReadonlyArray<unknown> = []) =>
  connection.executeUnprepared(text, parameters, undefined);

// Transactions whose BEGIN waits for a first statement, by their connections.
const openings = new WeakMap<SqlConnection.Connection, Opening>();

/** Ends a transaction, unless it has not begun: then it is forgotten, and nothing is sent. */
const ending = <E>(connection: SqlConnection.Connection, end: Effect.Effect<void, E>): Effect.Effect<void, E> =>
  Effect.suspend(() => {
    const opening = openings.get(connection);
    if (opening?.isWaiting() !== true) return end;
    opening.forget();
    return Effect.void;
  });

const Committed = S.is(S.Struct({ command: S.Literal("COMMIT") }));

const commit = (connection: SqlConnection.Connection) =>
  Effect.filterOrFail(
    connection.executeRaw("COMMIT", []),
    Committed,
    () =>
      new SqlError({
        cause: { code: "25P02" },
        message:
          "The transaction was rolled back, nothing of it was written: a statement in it had failed and its error was caught. Put what may fail into a nested withTransaction.",
      }),
  ).pipe(Effect.asVoid, (sent) => ending(connection, sent));

// A connection that is gone has rolled back by itself, and the effect's own failure is what counts. One that did not answer may
// still have the transaction, and is nobody's any more.
const rollBack = (connection: SqlConnection.Connection) =>
  Effect.catchAll(send(connection, "ROLLBACK"), (error) =>
    Effect.zipRight(
      Effect.sync(() => discard(connection)),
      Effect.logDebug("ROLLBACK was not answered; the server has rolled back", error),
    ),
  ).pipe(Effect.asVoid, (sent) => ending(connection, sent));

const hasEnded = () =>
  new SqlError({
    cause: { code: "25P01" },
    message: "The transaction has ended: a fiber that outlives it cannot use it. Join the fiber inside.",
  });

const isHalfDone = () =>
  new SqlError({
    cause: { code: "25001" },
    message:
      "The transaction ended while one inside it was open in another fiber: everything was rolled back, because half of that one would have been committed. Join the fiber inside.",
  });

/**
 * Opens a transaction that has not begun. A scope in which nothing was asked is refused all the same when the login may not open it.
 */
const tryOpening = (connection: SqlConnection.Connection) =>
  Effect.suspend(() =>
    openings.get(connection)?.isWaiting() === true
      ? // A statement that asks nothing, and takes the opening with it if nobody else has by then.
        Effect.tapError(send(connection, "SELECT"), () => rollBack(connection))
      : Effect.void,
  );

/** Ends the transaction of an effect that has ended, whose fibers cannot reach it any more. `last` runs in it before it commits. */
const end = <A, E, E2>(
  own: SqlConnection.Connection,
  gate: Gate,
  exit: Exit.Exit<A, E>,
  last: Effect.Effect<unknown, E2>,
  { settings }: Around,
): Effect.Effect<A, E | E2 | SqlError> =>
  Effect.gen(function* () {
    if (Exit.isFailure(exit)) {
      yield* rollBack(own);
      return yield* exit;
    }
    if (yield* gate.isTaken) {
      yield* rollBack(own);
      return yield* isHalfDone();
    }
    yield* Effect.tapErrorCause(last, () => rollBack(own));
    yield* settings === "" ? Effect.void : tryOpening(own);
    yield* commit(own);
    return exit.value;
  });

/**
 * A connection with a transaction that begins with its first statement, see `opening.ts`. It goes back to the pool with the scope,
 * and the caller ends the transaction before.
 */
const begin = (sql: SqlClient.SqlClient, { settings }: Around) =>
  sql.reserve.pipe(
    Effect.tap((connection) => {
      const opening = openWithNext(connection, `BEGIN${settings}`.split("; "));
      if (opening !== undefined) {
        openings.set(connection, opening);
        return Effect.addFinalizer(() => Effect.sync(opening.forget));
      }
      // Settings that are refused (the login may not become that role) leave the transaction open, and aborted, on a connection
      // that goes back to the pool.
      return Effect.tapError(send(connection, `BEGIN${settings}`), () => rollBack(connection));
    }),
    // A connection that arrives after the interruption would never go back to the pool.
    Effect.uninterruptible,
  );

/** What an effect in a transaction finds: its connection, at this depth, and the frame that goes with it. */
const inFrame =
  (depth: number, frame: Frame) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.mapInputContext(
      effect,
      (context: Context.Context<R>) =>
        Context.add(
          Context.add(context, SqlClient.TransactionConnection, [frame.connection, depth] as const),
          CurrentFrame,
          frame,
        ) as Context.Context<R>,
    );

const outer = <A, E, R>(sql: SqlClient.SqlClient, around: Around, effect: Effect.Effect<A, E, R>) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make();
      const gate = new Gate();
      const run = Effect.gen(function* () {
        const own = yield* Scope.extend(begin(sql, around), scope);
        const connection = new ClosableConnection(own, hasEnded, tryOpening(own));
        const exit = yield* restore(effect).pipe(inFrame(0, { connection, gate, scope: around.scope }), Effect.exit);
        yield* connection.close;
        return yield* end(own, gate, exit, Effect.void, around);
      });
      return yield* Effect.onExit(run, (exit) => Scope.close(scope, exit));
    }),
  );

let savepoints = 0;

const nested = <A, E, R>(
  [connection, depth]: readonly [SqlConnection.Connection, number],
  parent: Option.Option<Frame>,
  around: Around,
  effect: Effect.Effect<A, E, R>,
) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const gate = new Gate();
      const name = `portal_${++savepoints}`;
      const parentGate = Option.match(parent, {
        onNone: () => foreignGate(connection),
        onSome: (_) => _.gate,
      });
      const run = Effect.gen(function* () {
        const rollBack = Effect.catchAll(
          send(connection, `ROLLBACK TO SAVEPOINT ${name}; RELEASE SAVEPOINT ${name}`),
          (error) => Effect.logDebug(`ROLLBACK TO ${name} was not answered`, error),
        );
        // Settings that are refused would leave the caller's transaction aborted.
        const answers = yield* send(
          connection,
          around.settings === ""
            ? `SAVEPOINT ${name}`
            : `SAVEPOINT ${name}; SELECT current_setting('role') AS role, current_setting('app.current_tenant', true) AS tenant${around.settings}`,
        ).pipe(Effect.tapError(() => rollBack));
        const exit = yield* restore(effect).pipe(
          inFrame(depth + 1, {
            connection,
            gate,
            scope: Option.orElse(around.scope, () => Option.flatMap(parent, (_) => _.scope)),
          }),
          Effect.exit,
        );
        // SET LOCAL outlives a savepoint that is released, but not one that is rolled back.
        const undo = Effect.suspend((): Effect.Effect<unknown, SqlError> => {
          if (around.settings === "") return Effect.void;
          const [{ role, tenant }] = previousSettings(answers[1]);
          return send(connection, "SELECT set_config('role', $1, true), set_config('app.current_tenant', $2, true)", [
            role,
            tenant ?? "",
          ]);
        });
        if (Exit.isFailure(exit)) {
          yield* rollBack;
        } else {
          yield* Effect.zipRight(undo, send(connection, `RELEASE SAVEPOINT ${name}`)).pipe(
            Effect.tapError(() => rollBack),
          );
        }
        return yield* exit;
      });
      yield* restore(parentGate.enter);
      return yield* Effect.ensuring(run, parentGate.leave);
    }),
  );

// A transaction that another client's withTransaction opened has no frame of ours; its connection stands in for it.
const foreignGates = new WeakMap<SqlConnection.Connection, Gate>();
const foreignGate = (connection: SqlConnection.Connection) => {
  const gate = foreignGates.get(connection) ?? new Gate();
  foreignGates.set(connection, gate);
  return gate;
};

const transact =
  (sql: SqlClient.SqlClient, around: Around) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> =>
    Effect.withSpan(
      Effect.flatMap(
        Effect.context<never>(),
        (context): Effect.Effect<A, E | SqlError, R> =>
          Option.match(Context.getOption(context, SqlClient.TransactionConnection), {
            onNone: () => outer(sql, around, effect),
            onSome: (open) =>
              isLazy(open[0])
                ? open[0].transact(around, effect)
                : nested(open, frameOf(context, open[0]), around, effect),
          }),
      ),
      "sql.transaction",
      { kind: "client", captureStackTrace: false },
    );

const frameOf = (context: Context.Context<never>, connection: SqlConnection.Connection) =>
  Option.filter(Context.getOption(context, CurrentFrame), (_) => _.connection === connection);

/** Runs an effect in a transaction: committed when it succeeds, rolled back when it fails or is interrupted. */
export const withTransaction = (sql: SqlClient.SqlClient): SqlClient.SqlClient["withTransaction"] =>
  transact(sql, plain);

/** The scope that the current fiber is in, if any. */
export const currentScope: Effect.Effect<Option.Option<DataScope>> = Effect.map(Effect.context<never>(), (context) =>
  Option.flatMap(Context.getOption(context, SqlClient.TransactionConnection), ([connection]) =>
    isLazy(connection) ? Option.some(connection.scope) : Option.flatMap(frameOf(context, connection), (_) => _.scope),
  ),
);

const show = (scope: DataScope) => (scope._tag === "tenant" ? `tenant ${scope.appId}` : "system");

const inScope =
  (scope: DataScope, settings: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError | ScopeConflict, R | SqlClient.SqlClient> =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const current = yield* currentScope;
      if (Option.isNone(current)) return yield* transact(sql, { scope: Option.some(scope), settings })(effect);
      if (show(current.value) !== show(scope)) {
        return yield* new ScopeConflict({ current: show(current.value), requested: show(scope) });
      }
      return yield* transact(sql, plain)(effect);
    });

/**
 * Runs an effect outside whatever transaction and scope the fiber is in: each statement on a connection of its client's pool.
 * Inside them, and in a job's handler, the statements of **another** database's client need it, because all clients of
 * `@effect/sql` look for a transaction in the same place.
 */
export const outside = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.mapInputContext(
    effect,
    (context: Context.Context<R>) =>
      Context.omit(SqlClient.TransactionConnection, CurrentFrame)(context as never) as Context.Context<R>,
  );

const isUuid = S.is(S.UUID);

/** A tenant's scope and its settings, or undefined when the id is no uuid, which is what makes it safe inside the message. */
const aroundTenant = (appId: string) => {
  if (!isUuid(appId)) return undefined;
  const id = appId.toLowerCase();
  const scope = { _tag: "tenant", appId: id } as const;
  // Parameters would cost a round trip of their own.
  return { scope, settings: `; SET LOCAL ROLE parametric_tenant; SET LOCAL app.current_tenant = '${id}'` };
};

const notUuid = (appId: string) =>
  new InvalidInput({
    operation: "Client.tenant",
    field: "appId",
    problem: `is ${JSON.stringify(appId)}, which is no uuid`,
  });

/**
 * Runs an effect in one transaction that sees and writes only this app's rows, whatever the login.
 * Inside a transaction of the caller's own it is a savepoint, and the caller's role and tenant are back when it ends.
 * Fails with `ScopeConflict` inside another scope and with `InvalidInput` when `appId` is no uuid.
 */
export const tenant =
  (appId: string) =>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
  ): Effect.Effect<A, E | SqlError | ScopeConflict | InvalidInput, R | SqlClient.SqlClient> => {
    const around = aroundTenant(appId);
    return around === undefined ? Effect.fail(notUuid(appId)) : inScope(around.scope, around.settings)(effect);
  };

/**
 * Runs an effect in one transaction that sees and writes every tenant's rows. For maintenance and operators, never for a request.
 * Fails with `ScopeConflict` inside a tenant scope.
 */
export const system: <A, E, R>(
  effect: Effect.Effect<A, E, R>,
) => Effect.Effect<A, E | SqlError | ScopeConflict, R | SqlClient.SqlClient> = inScope(
  { _tag: "system" },
  "; SET LOCAL ROLE parametric_system; SET LOCAL app.current_tenant = ''",
);

// JavaScript passes anything, and what is not understood must not be everybody's.
const noScope = new InvalidInput({
  operation: "scope",
  field: "scope",
  problem: 'is neither { _tag: "tenant", appId } nor { _tag: "system" }',
});

/**
 * For work in several transactions, each of which opens its scope by itself: runs one of them in `scope`, or, when none is
 * named, as a part of whatever is open around it.
 */
export const within =
  (sql: SqlClient.SqlClient, scope: DataScope | undefined) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError | ScopeConflict | InvalidInput, R> => {
    if (scope === undefined) return withTransaction(sql)(effect);
    if (scope?._tag !== "tenant" && scope?._tag !== "system") return Effect.fail(noScope);
    const scoped = scope._tag === "tenant" ? tenant(scope.appId)(effect) : system(effect);
    return Effect.provideService(scoped, SqlClient.SqlClient, sql) as Effect.Effect<
      A,
      E | SqlError | ScopeConflict | InvalidInput,
      R
    >;
  };

// --- scopes that open when they are needed -----------------------------------

const isLazy = (connection: SqlConnection.Connection): connection is LazyConnection<DataScope, Around> =>
  connection instanceof LazyConnection;

const onConnection = <A>(run: (connection: SqlConnection.Connection) => Effect.Effect<A, SqlError>) =>
  Effect.flatMap(SqlClient.TransactionConnection, ([connection]) => run(connection));

/**
 * One statement in a scope of its own, in one message: all up to its end is one transaction for the server, which commits when the
 * statement has succeeded.
 */
const alone = <A>(
  sql: SqlClient.SqlClient,
  around: Around,
  settings: string,
  run: (connection: SqlConnection.Connection) => Effect.Effect<A, SqlError>,
): Effect.Effect<A, SqlError> =>
  // A connection that arrives after the interruption would never go back to the pool.
  Effect.uninterruptibleMask((restore) =>
    Effect.scoped(
      Effect.flatMap(sql.reserve, (connection) => {
        const opening = openWithNext(connection, [settings]);
        if (opening === undefined) {
          return restore(outer(sql, around, onConnection(run))) as Effect.Effect<A, SqlError>;
        }
        return Effect.flatMap(Effect.exit(restore(run(connection))), (exit) => {
          const isSent = !opening.isWaiting();
          opening.forget();
          if (Exit.isFailure(exit)) return Effect.zipRight(isSent ? quieted(connection) : Effect.void, exit);
          return isInTransaction(connection)
            ? Effect.zipRight(rollBack(connection), new SqlError({ cause: { code: "25001" }, message: leftOpen }))
            : exit;
        });
      }),
    ),
  );

/** Waits until a connection has nothing more to say about a statement that failed or was interrupted, and is in no transaction. */
const quieted = (connection: SqlConnection.Connection) =>
  Effect.catchAll(Effect.asVoid(send(connection, "SELECT")), (error) =>
    // What the server itself refuses leaves the connection usable.
    Effect.sync(() => (databaseError(error).code === "25P02" ? undefined : discard(connection))),
  ).pipe(Effect.zipRight(Effect.suspend(() => (isInTransaction(connection) ? rollBack(connection) : Effect.void))));

const leftOpen =
  "The statement opened a transaction and was rolled back: here each statement is one by itself. Use withTransaction, or Client.tenant.";

/** For an id that comes from the database. */
const aroundStored = (appId: string) => {
  const around = aroundTenant(appId);
  if (around === undefined) throw notUuid(appId);
  return around;
};

/** What the tenant's transactions run with: a plain one inside takes the tenant's settings. */
const orTenant = (tenantAround: Around, around: Around): Around => (around.settings === "" ? tenantAround : around);

/**
 * The context of an effect whose every statement, and every transaction that it opens, is a tenant's scope of its own. Nothing is
 * sent before the first of them, and no connection is held between two. For code that runs on a tenant's behalf and may never
 * touch the database. Opening another scope inside is a `ScopeConflict`.
 */
export const tenantLazily = (sql: SqlClient.SqlClient, appId: string): readonly [SqlConnection.Connection, number] => {
  const tenantAround = aroundStored(appId);
  const around: Around = { scope: Option.some(tenantAround.scope), settings: tenantAround.settings };
  const lazy = new LazyConnection<DataScope, Around>(
    tenantAround.scope,
    (given, effect) => outer(sql, orTenant(around, given), effect),
    // Not SET LOCAL, which warns where no BEGIN stands before it.
    (run) =>
      alone(
        sql,
        around,
        `SELECT set_config('role', 'parametric_tenant', true), set_config('app.current_tenant', '${tenantAround.scope.appId}', true)`,
        run,
      ),
    Effect.acquireRelease(Effect.tap(begin(sql, around), tryOpening), (connection, exit) =>
      Exit.isSuccess(exit)
        ? ending(connection, Effect.asVoid(Effect.orDie(send(connection, "COMMIT"))))
        : rollBack(connection),
    ),
  );
  return [lazy, 0];
};

/**
 * Runs an effect whose every statement is a transaction of its own that sees and writes only this app's rows: it takes no round
 * trip beside the statement's, and no connection is held between two. A transaction that the effect opens is one of this tenant's.
 * For work that is one statement, as most methods of the repositories are; {@link tenant} makes several of them one transaction.
 * A statement that is interrupted may have been committed.
 * Inside a transaction it is as `tenant` is. Fails as `tenant` does.
 */
export const tenantEach =
  (appId: string) =>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
  ): Effect.Effect<A, E | SqlError | ScopeConflict | InvalidInput, R | SqlClient.SqlClient> =>
    Effect.gen(function* () {
      if (aroundTenant(appId) === undefined) return yield* notUuid(appId);
      const sql = yield* SqlClient.SqlClient;
      const open = yield* Effect.serviceOption(SqlClient.TransactionConnection);
      return yield* Option.isSome(open)
        ? tenant(appId)(effect)
        : Effect.provideService(effect, SqlClient.TransactionConnection, tenantLazily(sql, appId));
    });

/** What an effect in {@link tenantOnce} left: whether it touched the database, and so whether `last` ran and all was committed. */
export interface Once<A> {
  readonly value: A;
  readonly isCommitted: boolean;
}

/**
 * Runs an effect in one transaction of a tenant's scope that begins when the effect first touches the database. When it succeeds
 * and did, `last` runs in the same transaction before it commits: all of it is there afterwards, or nothing. Fibers that outlive the
 * effect cannot use the transaction any more: their statements fail with `SqlError`.
 */
export const tenantOnce =
  <E2>(sql: SqlClient.SqlClient, appId: string, last: Effect.Effect<unknown, E2>) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Once<A>, E | E2 | SqlError, R> => {
    const tenantAround = aroundStored(appId);
    const around: Around = { scope: Option.some(tenantAround.scope), settings: tenantAround.settings };
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make();
        const gate = new Gate();
        interface Opened {
          /** For `last` and the transaction's end; the frame's is what the effect has. */
          readonly own: SqlConnection.Connection;
          readonly connection: ClosableConnection;
          readonly frame: Frame;
        }
        let opening: Deferred.Deferred<Opened, SqlError> | undefined;
        let isOver = false;
        // Whoever comes first opens it; the others wait for that and not for each other's statements.
        const open = Effect.uninterruptibleMask((interruptible) =>
          Effect.suspend(() => {
            if (opening !== undefined) return interruptible(Deferred.await(opening));
            if (isOver) return Effect.fail(hasEnded());
            const mine = Deferred.unsafeMake<Opened, SqlError>(FiberId.none);
            opening = mine;
            // At once, so that a connection which turns out to be dead is not the handler's for good.
            return Scope.extend(Effect.tap(begin(sql, around), tryOpening), scope).pipe(
              Effect.map((own): Opened => {
                const connection = new ClosableConnection(own, hasEnded, tryOpening(own));
                return { own, connection, frame: { connection, gate, scope: around.scope } };
              }),
              // The effect may have ended while this one waited for the connection.
              Effect.tap(({ connection }) => (isOver ? connection.close : Effect.void)),
              Effect.onExit((exit) => {
                if (Exit.isFailure(exit)) opening = undefined;
                return Deferred.done(mine, exit);
              }),
            );
          }),
        );
        /** Takes the transaction from the effect's fibers; returns it if there is one. */
        const close = Effect.suspend(() => {
          isOver = true;
          return opening === undefined ? Effect.succeedNone : Effect.option(Deferred.await(opening));
        }).pipe(Effect.tap(Option.match({ onNone: () => Effect.void, onSome: ({ connection }) => connection.close })));
        const lazy = new LazyConnection<DataScope, Around>(
          tenantAround.scope,
          (given, inner) =>
            Effect.flatMap(open, ({ connection, frame }) =>
              nested([connection, 0], Option.some(frame), given.scope._tag === "Some" ? plain : given, inner),
            ),
          (run) => Effect.flatMap(open, ({ connection }) => run(connection)),
          Effect.map(open, ({ connection }) => connection),
        );
        const run = Effect.gen(function* () {
          const exit = yield* Effect.exit(
            restore(Effect.provideService(effect, SqlClient.TransactionConnection, [lazy, 0])),
          );
          const opened = Option.getOrUndefined(yield* close);
          if (opened === undefined) {
            return { value: yield* exit, isCommitted: false };
          }
          const { frame, own } = opened;
          const value = yield* end(
            own,
            gate,
            exit,
            last.pipe(
              Effect.provideService(SqlClient.TransactionConnection, [own, 0]),
              Effect.provideService(CurrentFrame, { ...frame, connection: own }),
            ),
            around,
          );
          return { value, isCommitted: true };
        });
        return yield* Effect.onExit(run, (exit) => Scope.close(scope, exit));
      }),
    );
  };
