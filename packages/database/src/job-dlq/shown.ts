/** How stored values are shown where the whole row is not: as times that every client can hold, and as one line of an error. */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";

/** A stored time as one that a JavaScript date has: PostgreSQL's reach further, and to infinity. NULL stays NULL. */
export const shownTime = (sql: SqlClient.SqlClient, time: Fragment): Fragment => sql`
  CASE
    WHEN ${time} < timestamptz '0001-01-01 00:00:00Z' THEN timestamptz '0001-01-01 00:00:00Z'
    WHEN ${time} > timestamptz '9999-12-31 23:59:59.999Z' THEN timestamptz '9999-12-31 23:59:59.999Z'
    ELSE ${time}
  END`;

/** The first line of the last error of a history, at most 300 characters; NULL when there is none. */
export const lastErrorLine = (sql: SqlClient.SqlClient, errorHistory: Fragment): Fragment =>
  sql`rtrim(split_part(left(${errorHistory} -> -1 ->> 'error', 300), E'\\n', 1), E'\\r')`;
