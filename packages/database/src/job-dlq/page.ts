/** Lists of dead letters page by page, newest first by (dlq_at, id): every row that goes on matching is visited exactly once. */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Str from "effect/String";
import { invalidCursor } from "../arguments.js";
import { decodeCursor, encodeCursor } from "../cursor.js";
import type { BadRow } from "../errors.js";
import { limitOf } from "../factory.js";
import { JobDlq } from "../models.js";
import { refused } from "../refusal.js";
import { olderThan, placeOf } from "./place.js";

export interface PageOptions {
  /** Dead letters in a page, 1 to 1,000. Default 100. */
  readonly limit?: number | undefined;
  /** The `next` of a page of the same filter. Default: the first page. */
  readonly cursor?: string | undefined;
}

/** A page. `bad` are stored rows of this page that do not fit the model; `next` is none on the last page. */
export interface JobDlqPage {
  readonly items: ReadonlyArray<JobDlq>;
  readonly bad: ReadonlyArray<BadRow>;
  readonly next: Option.Option<string>;
}

const positionOf = (operation: string, cursor: string | undefined) =>
  cursor === undefined
    ? Effect.succeedNone
    : Option.match(decodeCursor(cursor), {
        onNone: () => invalidCursor(operation, cursor),
        onSome: (position) => Effect.succeedSome(position),
      });

const decodePlaces = S.decodeUnknown(S.Array(S.Struct({ id: S.String, place: S.String })));

// The model's, and no more: what is not read need not be sent.
const columns = Object.keys(JobDlq.fields)
  .map((field) => `d.${Str.camelToSnake(field)}`)
  .join(", ");

const newest = (
  sql: SqlClient.SqlClient,
  operation: string,
  matches: Fragment,
  cursor: string | undefined,
  limit: number,
  place: Fragment,
) =>
  Effect.gen(function* () {
    const after = yield* positionOf(operation, cursor);
    const beyond = Option.match(after, { onNone: () => sql``, onSome: (_) => sql`AND ${olderThan(sql, _)}` });
    return yield* sql`
      SELECT ${sql.literal(columns)}${place}
      FROM job_dlq d
      WHERE ${matches} ${beyond}
      ORDER BY d.dlq_at DESC, d.id DESC
      LIMIT ${limit}`.pipe(refused(operation));
  });

/** The rows of a list that ends there, as they are stored, of those dead letters (`d`) that match. */
export const newestOnly = (sql: SqlClient.SqlClient, operation: string, matches: Fragment, options: PageOptions) =>
  Effect.flatMap(limitOf(operation, options.limit), (limit) =>
    newest(sql, operation, matches, options.cursor, limit, sql``),
  );

/** The rows of a page, as they are stored, of those dead letters (`d`) that match. */
export const newestFirst = (sql: SqlClient.SqlClient, operation: string, matches: Fragment, options: PageOptions) =>
  Effect.gen(function* () {
    const limit = yield* limitOf(operation, options.limit);
    // One more than asked for tells whether there is a next page.
    const place = sql`, ${placeOf(sql)} AS place`;
    const rows = yield* newest(sql, operation, matches, options.cursor, limit + 1, place);
    const shown = rows.slice(0, limit);
    const places = yield* Effect.orDie(decodePlaces(rows.length > limit ? shown.slice(-1) : []));
    const next = Option.map(Option.fromNullable(places[0]), ({ id, place }) => encodeCursor({ at: place, id }));
    return { rows: shown, next };
  });
