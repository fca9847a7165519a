/**
 * A connection that a fiber carries before there is one: each statement that is run on it decides when and where it really runs.
 *
 * `transaction.ts` puts one in the place of a transaction's connection, so that every statement of the fiber finds it, whichever
 * repository it comes from.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection";
import type { SqlError } from "@effect/sql/SqlError";
import * as Effect from "effect/Effect";
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
