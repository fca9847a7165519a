/** Statements as they are, for tests of what the database holds by itself. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import { databaseError } from "../../src/sql-state.js";

export type Row = Readonly<Record<string, unknown>>;

/** Runs SQL and returns its rows. */
export const execute = (text: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql): Effect.Effect<ReadonlyArray<Row>, unknown> => sql.unsafe<Row>(text));

/** `accepted`, or the SQLSTATE and the constraint that refused. */
export const attempt = (text: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const result = yield* Effect.either(sql.withTransaction(sql.unsafe(text)));
    if (Either.isRight(result)) return "accepted";
    const { code, constraint } = databaseError(result.left);
    return [code, constraint].filter((_) => _ !== undefined).join(" ");
  });

/** Runs SQL in a role, and is the superuser again afterwards. */
export const as = <A, E, R>(role: string, tenant: string, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    yield* execute(`SET LOCAL ROLE ${role}; SET LOCAL app.current_tenant = '${tenant}'`);
    const result = yield* effect;
    yield* execute(`RESET ROLE; SET LOCAL app.current_tenant = ''`);
    return result;
  });
