/** Room to break things: what happens inside is rolled back, whole again for the next test. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

/** Runs an effect in a transaction, or a savepoint, that is always rolled back, and returns what the effect returned. */
export const undone = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    // No object: Effect hands those on as copies that carry the span.
    const undo: unique symbol = Symbol("undo");
    let result: A | undefined;
    const outcome = yield* Effect.flip(
      sql.withTransaction(
        Effect.flatMap(effect, (_) => {
          result = _;
          return Effect.fail(undo);
        }),
      ),
    );
    if (outcome !== undo) return yield* Effect.fail(outcome);
    return result as A;
  });
