/** Lists of dead letters page by page, newest first by (dlq_at, id): every row that goes on matching is visited exactly once. */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { decodeCursor, encodeCursor } from "../cursor.js";
import { type BadRow, InvalidCursor } from "../errors.js";
import { limitOf } from "../factory.js";
import type { JobDlq } from "../models.js";
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
        onNone: () => new InvalidCursor({ operation, cursor: cursor.slice(0, 200) }),
        onSome: (position) => Effect.succeedSome(position),
      });

const decodePlaces = S.decodeUnknown(S.Array(S.Struct({ id: S.String, place: S.String })));

/** The rows of a page, as they are stored, of those dead letters (`d`) that match. */
export const newestFirst = (sql: SqlClient.SqlClient, operation: string, matches: Fragment, options: PageOptions) =>
  Effect.gen(function* () {
    const limit = yield* limitOf(operation, options.limit);
    const after = yield* positionOf(operation, options.cursor);
    const beyond = Option.match(after, { onNone: () => sql``, onSome: (place) => sql`AND ${olderThan(sql, place)}` });
    // One more than asked for tells whether there is a next page.
    const rows = yield* sql`
      SELECT d.*, ${placeOf(sql)} AS place
      FROM job_dlq d
      WHERE ${matches} ${beyond}
      ORDER BY d.dlq_at DESC, d.id DESC
      LIMIT ${limit + 1}`.pipe(refused(operation));
    const shown = rows.slice(0, limit);
    const places = yield* Effect.orDie(decodePlaces(rows.length > limit ? shown.slice(-1) : []));
    const next = Option.map(Option.fromNullable(places[0]), ({ id, place }) => encodeCursor({ at: place, id }));
    return { rows: shown, next };
  });
