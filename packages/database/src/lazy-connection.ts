/**
 * Connections that fibers carry longer than there is one: before it, each statement decides when and where it really runs; after
 * it, each statement fails.
 *
 * `transaction.ts` puts them in the place of a transaction's connection, so that every statement of the fiber finds them, whichever
 * repository it comes from.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection";
import type { SqlError } from "@effect/sql/SqlError";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import type * as Scope from "effect/Scope";
import * as Stream from "effect/Stream";

type Use = <A>(run: (connection: SqlConnection.Connection) => Effect.Effect<A, SqlError>) => Effect.Effect<A, SqlError>;

/** Runs a transaction of the fiber's. `around` is transaction.ts's own. */
type Transact<Around> = <A, E, R>(around: Around, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | SqlError, R>;

export class LazyConnection<DataScope, Around> implements SqlConnection.Connection {
  constructor(
    /** Whose rows its statements see. */
    readonly scope: DataScope,
    readonly transact: Transact<Around>,
    private readonly use: Use,
    /** A connection for as long as the scope is open. */
    private readonly acquire: Effect.Effect<SqlConnection.Connection, SqlError, Scope.Scope>,
  ) {}

  execute: SqlConnection.Connection["execute"] = (...statement) => this.use((_) => _.execute(...statement));
  executeRaw: SqlConnection.Connection["executeRaw"] = (...statement) => this.use((_) => _.executeRaw(...statement));
  executeValues: SqlConnection.Connection["executeValues"] = (...statement) =>
    this.use((_) => _.executeValues(...statement));
  executeUnprepared: SqlConnection.Connection["executeUnprepared"] = (...statement) =>
    this.use((_) => _.executeUnprepared(...statement));
  executeStream: SqlConnection.Connection["executeStream"] = (...statement) =>
    Stream.unwrapScoped(Effect.map(this.acquire, (_) => _.executeStream(...statement)));
}

/** A transaction's connection until {@link close}: it goes back to the pool then, and a fiber may still have this one. */
export class ClosableConnection implements SqlConnection.Connection {
  private isClosed = false;
  private running = 0;
  private readonly idle = Effect.unsafeMakeLatch(true);

  constructor(
    private readonly connection: SqlConnection.Connection,
    /** What a statement fails with that comes too late. */
    private readonly late: () => SqlError,
    /** What a stream waits for: a cursor cannot travel with what opens its transaction. */
    private readonly opened: Effect.Effect<unknown, SqlError>,
  ) {}

  execute: SqlConnection.Connection["execute"] = (...statement) => this.use(this.connection.execute(...statement));
  executeRaw: SqlConnection.Connection["executeRaw"] = (...statement) =>
    this.use(this.connection.executeRaw(...statement));
  executeValues: SqlConnection.Connection["executeValues"] = (...statement) =>
    this.use(this.connection.executeValues(...statement));
  executeUnprepared: SqlConnection.Connection["executeUnprepared"] = (...statement) =>
    this.use(this.connection.executeUnprepared(...statement));
  executeStream: SqlConnection.Connection["executeStream"] = (...statement) =>
    Stream.unwrapScoped(
      Effect.map(
        Effect.zipRight(this.use(this.opened), Stream.toPull(this.connection.executeStream(...statement))),
        (pull) => Stream.repeatEffectChunkOption(this.whileOpen(pull, Option.some)),
      ),
    );

  /** Lets nothing begin any more, and waits for what runs. */
  readonly close = Effect.suspend(() => {
    this.isClosed = true;
    return this.idle.await;
  });

  private use<A>(statement: Effect.Effect<A, SqlError>) {
    return this.whileOpen(statement, (error) => error);
  }

  // Counted, because a fiber may be made to yield between the question and the sending.
  private whileOpen<A, E>(run: Effect.Effect<A, E>, failure: (error: SqlError) => E): Effect.Effect<A, E> {
    return Effect.uninterruptibleMask((restore) => {
      if (this.isClosed) return Effect.fail(failure(this.late()));
      if (this.running++ === 0) this.idle.unsafeClose();
      return Effect.flatMap(Effect.exit(restore(run)), (exit) => {
        if (--this.running === 0) this.idle.unsafeOpen();
        return exit;
      });
    });
  }
}
