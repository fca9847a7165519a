/** From what the database refuses to the error that a caller can act on. Everything else stays a `SqlError`. */
import { SqlError } from "@effect/sql/SqlError";
import * as Effect from "effect/Effect";
import { AccessDenied, AppNotFound, InvalidInput } from "./errors.js";
import { isOpeningRefused } from "./opening.js";
import { classify, databaseError } from "./sql-state.js";

/** What any statement may fail with, beside the errors of its own operation. */
export type QueryError = SqlError | AccessDenied | InvalidInput;

type Refused<E> = Exclude<E, SqlError> | QueryError;

const translate = (operation: string, error: SqlError): QueryError => {
  // That is about the scope around the operation.
  if (isOpeningRefused(error.cause)) return error;
  const { constraint, message } = databaseError(error);
  switch (classify(error)) {
    case "RowSecurity":
      return new AccessDenied({ operation, reason: "ForeignTenant", detail: message });
    case "Privilege":
      return new AccessDenied({ operation, reason: "Privilege", detail: message });
    case "Data":
    case "TooLarge":
      return new InvalidInput({ operation, field: "input", problem: `was refused by the database: ${message}` });
    case "Check":
    case "Unique":
      return new InvalidInput({
        operation,
        field: constraint ?? "input",
        problem: `was refused by the database: ${message}`,
      });
    default:
      return error;
  }
};

/** Translates what a statement was refused for. */
export const refused =
  (operation: string) =>
  <A, E, R>(statement: Effect.Effect<A, E, R>): Effect.Effect<A, Refused<E>, R> =>
    Effect.mapError(statement, (error) =>
      error instanceof SqlError ? translate(operation, error) : (error as Exclude<E, SqlError>),
    );

/** {@link refused} for statements that write rows of the given apps: one that does not exist is `AppNotFound`. */
export const refusedWrite =
  (operation: string, appIds: Iterable<unknown>) =>
  <A, E, R>(statement: Effect.Effect<A, E, R>): Effect.Effect<A, Refused<E> | AppNotFound, R> =>
    Effect.mapError(statement, (error) => {
      if (!(error instanceof SqlError)) return error as Exclude<E, SqlError>;
      return classify(error) === "ForeignKey" && databaseError(error).constraint?.endsWith("_app_id_fkey") === true
        ? new AppNotFound({ operation, appIds: [...new Set(appIds)].map(String) })
        : translate(operation, error);
    });
