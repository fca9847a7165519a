/**
 * What a database error means: SQLSTATE to a class, in one place.
 *
 * Source: PostgreSQL 18, Appendix A. Two codes need more than the code: 42501 is row-level security when the server routine
 * `ExecWithCheckOptions` raised it and a missing right otherwise; 23001 is what ON DELETE RESTRICT raises since 18.
 */
import type { SqlError } from "@effect/sql/SqlError";

/** What an error means to the caller. `Other` is anything that no caller treats by itself. */
export type SqlState =
  | "Unique"
  | "ForeignKey"
  | "Restrict"
  | "Check"
  | "Data"
  | "TooLarge"
  | "RowSecurity"
  | "Privilege"
  | "Serialization"
  | "Deadlock"
  | "LockNotAvailable"
  | "Connection"
  | "Other";

/** The fields of the driver's error that are read here; all may be missing. */
export interface DatabaseError {
  readonly code: string | undefined;
  readonly routine: string | undefined;
  readonly constraint: string | undefined;
  readonly detail: string | undefined;
  readonly message: string;
}

const text = (source: object, key: string): string | undefined => {
  const value: unknown = Reflect.get(source, key);
  return typeof value === "string" ? value : undefined;
};

/** The driver's own error inside a `SqlError`. A connection that cannot be opened may arrive as an AggregateError. */
export const databaseError = (error: SqlError): DatabaseError => {
  let cause: unknown = error.cause;
  while (cause instanceof AggregateError && cause.errors.length > 0) cause = cause.errors[0];
  if (typeof cause !== "object" || cause === null) {
    return { code: undefined, routine: undefined, constraint: undefined, detail: undefined, message: String(cause) };
  }
  return {
    code: text(cause, "code"),
    routine: text(cause, "routine"),
    constraint: text(cause, "constraint"),
    detail: text(cause, "detail"),
    message: text(cause, "message") ?? error.message,
  };
};

const byCode: Readonly<Record<string, SqlState>> = {
  "23505": "Unique",
  "23503": "ForeignKey",
  "23001": "Restrict",
  "23502": "Check",
  "23514": "Check",
  "40001": "Serialization",
  "40P01": "Deadlock",
  "55P03": "LockNotAvailable",
  ECONNREFUSED: "Connection",
  ECONNRESET: "Connection",
  ENOTFOUND: "Connection",
  EAI_AGAIN: "Connection",
  EPIPE: "Connection",
  ETIMEDOUT: "Connection",
  EHOSTUNREACH: "Connection",
  "53300": "Connection",
};

// The driver reports a connection that ended under a query, or could not be opened in time, without a code.
const connectionMessages = [
  "Connection terminated",
  "Client has encountered a connection error",
  "timeout exceeded when trying to connect",
  "Connection timed out",
];

/** The class of a database error. */
export const classify = (error: SqlError): SqlState => {
  const { code, routine, message } = databaseError(error);
  if (code === undefined) return connectionMessages.some((_) => message.startsWith(_)) ? "Connection" : "Other";
  if (code === "42501") return routine === "ExecWithCheckOptions" ? "RowSecurity" : "Privilege";
  const known = byCode[code];
  if (known !== undefined) return known;
  // 08P01 is a statement whose values are not as many as it says.
  if ((code.startsWith("08") && code !== "08P01") || code.startsWith("57P0")) return "Connection";
  if (code.startsWith("22")) return "Data";
  if (code.startsWith("54")) return "TooLarge";
  return "Other";
};
