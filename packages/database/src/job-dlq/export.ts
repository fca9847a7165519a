/**
 * Dead letters as NDJSON: see `transfer.ts` for what a line is.
 *
 * Contract: oldest first, each letter once, in memory that does not grow with their number. Letters that arrive meanwhile are left
 * out, letters that leave the table meanwhile may be. A row that does not fit its model is exported as it is stored.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { wholeOf } from "../arguments.js";
import type { Position } from "../cursor.js";
import { InvalidInput } from "../errors.js";
import { FailedAttempt, JobDlq } from "../models.js";
import { type QueryError, refused } from "../refusal.js";
import { columnsOf } from "../rows.js";
import { type DataScope, within } from "../transaction.js";
import { type BulkError, wasThere } from "./bulk.js";
import { checkFilter, compileFilter, type JobDlqFilter } from "./filter.js";
import { newerThan, placeOf } from "./place.js";

/** The fields that may hold somebody's data, or say whose a letter is. */
type Redactable =
  | "originalJobId"
  | "appId"
  | "type"
  | "payload"
  | "errorReason"
  | "errorHistory"
  | "requestId"
  | "userId";

/** For each field, what is written instead of its value. */
export type Redaction = { readonly [K in Redactable]?: ((value: JobDlq[K]) => JobDlq[K]) | undefined };

export interface ExportOptions {
  /** Whose rows; each batch opens this scope. Default: the scope that is open around the stream, and then all is one transaction. */
  readonly scope?: DataScope | undefined;
  /**
   * Changes fields on their way out. A redacted field is decoded and encoded again, so its numbers become JavaScript's. Entries of
   * an error history that do not fit the model are left out, with a warning, because the function cannot be asked about them. A
   * function that throws, or returns what cannot be stored, fails the stream with `InvalidInput`: nothing leaves unredacted.
   */
  readonly redact?: Redaction | undefined;
  /** Dead letters in one statement, 1 to 10,000; fewer when they are large. Default 1,000. */
  readonly batchSize?: number | undefined;
}

/** Bytes of rows in a page, but for a single one that is larger. Up to three are held: two that are written and one that is taken. */
const batchBytes = 2 * 1024 * 1024;
/** Places that are read ahead: without an index on all letters by time each look at them is a sort. */
const windowSize = 10_000;

const operation = "jobDlq.exportTo";

export const makeExport = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decodeSnapshot = S.decodeUnknown(S.Tuple(S.Struct({ snapshot: S.String })));
  const decodeWindow = S.decodeUnknown(S.Array(Ahead));
  const decodePage = S.decodeUnknown(S.Array(Stored));
  const decodeLines = S.decodeUnknown(S.Tuple(Written));

  // A jsonb that was compressed may be a hundred times its stored size.
  const sizeOf = (column: "d.payload" | "d.error_history") => {
    const name = sql.literal(column);
    return sql`CASE WHEN pg_column_compression(${name}) IS NULL THEN pg_column_size(${name}) ELSE octet_length(${name}::text) END`;
  };

  /** The places of the next letters, oldest first, with their sizes: those that were there when the export began. */
  const ahead = (filter: JobDlqFilter, snapshot: string, after: Position | undefined) => sql`
    SELECT d.id, ${placeOf(sql)} AS at, ${sizeOf("d.payload")} + ${sizeOf("d.error_history")} AS size
    FROM job_dlq d
    WHERE ${compileFilter(sql, filter)}
      AND ${wasThere(sql, snapshot)}
      ${after === undefined ? sql`` : sql`AND ${newerThan(sql, after)}`}
    ORDER BY d.dlq_at, d.id
    LIMIT ${windowSize}`;

  const time = (column: "d.dlq_at" | "d.replayed_at") => {
    const name = sql.literal(column);
    return sql`
      CASE
        WHEN NOT isfinite(${name}) THEN ${name}::text
        ELSE to_char(${name} AT TIME ZONE 'UTC',
          CASE WHEN ${name} < '0001-01-01T00:00:00Z' THEN 'YYYY-MM-DD"T"HH24:MI:SS.US"Z BC"' ELSE 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' END)
      END`;
  };

  /** These letters with what a line has of them. */
  const letters = (filter: JobDlqFilter, ids: ReadonlyArray<string>) => sql`
    unnest(${ids}::uuid[]) WITH ORDINALITY AS a (id, place) JOIN job_dlq d USING (id),
      LATERAL (SELECT d.id, d.original_job_id AS "originalJobId", d.app_id AS "appId", d.type, d.payload, d.error_reason AS "errorReason",
        d.attempts, d.error_history AS "errorHistory", ${time("d.dlq_at")} AS "dlqAt", ${time("d.replayed_at")} AS "replayedAt",
        d.request_id AS "requestId", d.user_id AS "userId") AS letter
    WHERE ${compileFilter(sql, filter)}`;

  // What lineOf makes of the rows, as one text. A field at a time over the wire, decoded and written again, took as long as all the
  // rest, and a row for each line half of that.
  const writtenThere = (filter: JobDlqFilter, ids: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const found = yield* sql`
        SELECT COALESCE(string_agg(row_to_json(letter)::text || E'\n', '' ORDER BY a.place), '') AS lines
        FROM ${letters(filter, ids)}`.pipe(refused(operation));
      const [{ lines }] = yield* Effect.orDie(decodeLines(found));
      return linesOf(lines);
    });
  const writtenHere = (filter: JobDlqFilter, ids: ReadonlyArray<string>, redact: Redact) =>
    Effect.gen(function* () {
      const found = yield* sql`SELECT letter.* FROM ${letters(filter, ids)} ORDER BY a.place`.pipe(refused(operation));
      return yield* Effect.forEach(yield* Effect.orDie(decodePage(found)), (row) => Effect.map(redact(row), lineOf));
    });

  /**
   * The dead letters that the filter matches, as lines of NDJSON (each ends with a newline), oldest first. `state` is `pending`
   * unless the filter says otherwise: `{ all: true, state: "any" }` is everything. Letters that arrive while it runs are left out.
   */
  const exportTo = (filter: JobDlqFilter, options: ExportOptions = {}): Stream.Stream<string, QueryError | BulkError> =>
    Effect.gen(function* () {
      const checked = yield* checkFilter(operation, filter);
      const batchSize = yield* wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_000);
      const redact = yield* redactionOf(options.redact ?? {});
      const inScope = within(sql, options.scope);
      const rows = yield* inScope(sql`SELECT pg_current_snapshot()::text AS snapshot`);
      const [{ snapshot }] = yield* Effect.orDie(decodeSnapshot(rows));

      /** The places of all letters, a window after the other. */
      const windows = Stream.unfoldEffect(
        { after: undefined as Position | undefined, isLast: false },
        ({ after, isLast }) =>
          Effect.gen(function* () {
            if (isLast) return Option.none();
            const found = yield* inScope(ahead(checked, snapshot, after)).pipe(refused(operation));
            const places = yield* Effect.orDie(decodeWindow(found));
            const last = places.at(-1);
            if (last === undefined) return Option.none();
            return Option.some([places, { after: { at: last.at, id: last.id }, isLast: places.length < windowSize }]);
          }),
      );
      // The database writes a page while another is on its way. Not within a transaction, which is the caller's as well between two
      // lines, and not for a function of the caller's, which sees one letter after the other.
      const isAhead =
        redact === undefined &&
        options.scope !== undefined &&
        Option.isNone(yield* Effect.serviceOption(SqlClient.TransactionConnection));
      const written = (ids: ReadonlyArray<string>) =>
        inScope(redact === undefined ? writtenThere(checked, ids) : writtenHere(checked, ids, redact));
      return windows.pipe(
        Stream.mapConcat((places) => pagesOf(places, batchSize)),
        Stream.mapEffect(written, { concurrency: isAhead ? 2 : 1 }),
        Stream.flattenIterables,
      );
    }).pipe(Stream.unwrap, Stream.withSpan(operation));

  return { exportTo };
});

interface Ahead extends S.Schema.Type<typeof Ahead> {}
const Ahead = S.Struct({ id: S.UUID, at: S.String, size: S.Int });

/** The ids of a page each: a batch, or fewer when they are large; at least one. */
const pagesOf = (places: ReadonlyArray<Ahead>, batchSize: number): ReadonlyArray<ReadonlyArray<string>> => {
  const pages: Array<Array<string>> = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const { id, size } of places) {
    const last = pages.at(-1);
    if (last === undefined || last.length >= batchSize || bytes >= batchBytes) {
      pages.push([id]);
      bytes = size;
    } else {
      last.push(id);
      bytes += size;
    }
  }
  return pages;
};

/** JSON has no newline of its own. */
const linesOf = (text: string): ReadonlyArray<string> => {
  const lines: Array<string> = [];
  for (let start = 0; start < text.length; ) {
    const end = text.indexOf("\n", start) + 1;
    lines.push(text.slice(start, end));
    start = end;
  }
  return lines;
};

/** A dead letter as its line has it; payload and errorHistory are JSON text. */
const Stored = S.Struct({
  id: S.UUID,
  originalJobId: S.UUID,
  appId: S.UUID,
  type: S.String,
  payload: S.String,
  errorReason: S.String,
  attempts: S.Int,
  errorHistory: S.String,
  dlqAt: S.String,
  replayedAt: S.NullOr(S.String),
  requestId: S.NullOr(S.UUID),
  userId: S.NullOr(S.UUID),
});
type Exported = typeof Stored.Type;

/** A page of lines that the database wrote. */
const Written = S.Struct({ lines: S.String });

const jsonFields: ReadonlySet<string> = new Set(["payload", "errorHistory"] satisfies ReadonlyArray<keyof JobDlq>);

const lineOf = (row: Exported): string => {
  const fields = Object.keys(Stored.fields).map((name) => {
    const value: unknown = Reflect.get(row, name);
    return `"${name}":${jsonFields.has(name) ? value : JSON.stringify(value)}`;
  });
  return `{${fields.join(",")}}\n`;
};

type Redact = (row: Exported) => Effect.Effect<Exported, InvalidInput>;

/** Applies the functions of the caller, each between decoding and encoding of its field; undefined when there is none. */
const redactionOf = (redaction: Redaction) =>
  Effect.gen(function* () {
    const columns = columnsOf(JobDlq);
    const isAttempt = S.is(FailedAttempt);
    for (const name of Object.keys(redaction)) {
      if (!(name in decoders)) {
        const problem = `cannot be redacted; these can: ${Object.keys(decoders).join(", ")}`;
        return yield* new InvalidInput({ operation, field: `redact.${name}`, problem });
      }
    }
    if (Object.values(redaction).every((change) => change === undefined)) return undefined;
    const redact: Redact = (row) =>
      Effect.gen(function* () {
        const redacted: Record<string, unknown> = {};
        for (const [name, change] of Object.entries(redaction)) {
          if (change === undefined) continue;
          let value = decoders[name as Redactable](row);
          if (name === "errorHistory" && Array.isArray(value)) {
            const known = value.filter(isAttempt);
            const left = value.length - known.length;
            if (left > 0)
              yield* Effect.logWarning(
                `${operation}: left ${left} errors of dead letter ${row.id} out, they do not fit the model`,
              );
            value = known;
          }
          const field = `redact.${name}`;
          const changed = yield* Effect.try({
            try: (): unknown => change(value as never),
            catch: (error) =>
              new InvalidInput({ operation, field, problem: `threw on dead letter ${row.id}: ${String(error)}` }),
          });
          const encoded = columns[name]?.value(operation, changed) ?? Effect.dieMessage(`${name} is no column`);
          redacted[name] = yield* Effect.mapError(
            encoded,
            (error) =>
              new InvalidInput({
                operation,
                field,
                problem: `returned for dead letter ${row.id} what ${error.problem}`,
              }),
          );
        }
        return { ...row, ...redacted };
      });
    return redact;
  });

const decoders: { readonly [K in Redactable]: (row: Exported) => unknown } = {
  originalJobId: (_) => _.originalJobId,
  appId: (_) => _.appId,
  type: (_) => _.type,
  payload: (_) => JSON.parse(_.payload),
  errorReason: (_) => _.errorReason,
  errorHistory: (_) => JSON.parse(_.errorHistory),
  requestId: (_) => Option.fromNullable(_.requestId),
  userId: (_) => Option.fromNullable(_.userId),
};
