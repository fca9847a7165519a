/** A row's place in a list of dead letters by (dlq_at, id), to the microsecond, and what comes behind it. */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import type { Position } from "../cursor.js";

/** The time of the place as text: microseconds since 1970, or PostgreSQL's infinity. For `job_dlq` under the alias `d`. */
export const placeOf = (sql: SqlClient.SqlClient): Fragment => sql`
  CASE WHEN isfinite(d.dlq_at) THEN (extract(epoch FROM d.dlq_at) * 1000000)::bigint::text ELSE d.dlq_at::text END`;

const timeOf = (sql: SqlClient.SqlClient, at: string): Fragment =>
  at.endsWith("infinity")
    ? sql`${at}::timestamptz`
    : sql`timestamptz 'epoch' + ${at}::bigint * interval '1 microsecond'`;

/** Rows that are older than the place: the rest of a list that shows the newest first. */
export const olderThan = (sql: SqlClient.SqlClient, { at, id }: Position): Fragment =>
  sql`(d.dlq_at, d.id) < (${timeOf(sql, at)}, ${id}::uuid)`;

/** Rows that are newer than the place: the rest of a list that takes the oldest first. */
export const newerThan = (sql: SqlClient.SqlClient, { at, id }: Position): Fragment =>
  sql`(d.dlq_at, d.id) > (${timeOf(sql, at)}, ${id}::uuid)`;
