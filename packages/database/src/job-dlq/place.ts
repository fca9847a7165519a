/** A row's place in a list of dead letters by (dlq_at, id), to the microsecond, and what comes behind it. */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import type { Position } from "../cursor.js";

/**
 * The time of the place as text: microseconds since 1970, or PostgreSQL's infinity. For `job_dlq` under the alias `d`.
 * By way of 2000, from where PostgreSQL itself counts: the last years that it knows are more than 2^63 microseconds after 1970.
 */
export const placeOf = (sql: SqlClient.SqlClient): Fragment => sql`
  CASE
    WHEN isfinite(d.dlq_at)
      THEN (trunc(extract(epoch FROM d.dlq_at - timestamptz '2000-01-01T00:00:00Z') * 1000000) + 946684800000000)::text
    ELSE d.dlq_at::text
  END`;

const microsecondsOfDay = 86_400_000_000n;

// By days and the rest of one, each exact: a number times an interval is computed in floating point.
const timeOf = (sql: SqlClient.SqlClient, at: string): Fragment => {
  if (at.endsWith("infinity")) return sql`${at}::timestamptz`;
  const days = String(BigInt(at) / microsecondsOfDay);
  const rest = String(BigInt(at) % microsecondsOfDay);
  return sql`(timestamp 'epoch' + ${days}::int * interval '1 day' + ${rest}::bigint * interval '1 microsecond') AT TIME ZONE 'UTC'`;
};

/** Rows that are older than the place: the rest of a list that shows the newest first. */
export const olderThan = (sql: SqlClient.SqlClient, { at, id }: Position): Fragment =>
  sql`(d.dlq_at, d.id) < (${timeOf(sql, at)}, ${id}::uuid)`;

/** Rows that are newer than the place: the rest of a list that takes the oldest first. */
export const newerThan = (sql: SqlClient.SqlClient, { at, id }: Position): Fragment =>
  sql`(d.dlq_at, d.id) > (${timeOf(sql, at)}, ${id}::uuid)`;
