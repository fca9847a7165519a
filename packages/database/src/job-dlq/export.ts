/**
 * Dead letters as NDJSON: see `transfer.ts` for what a line is.
 *
 * Contract: oldest first, each letter once, in memory that does not grow with their number. Letters that arrive meanwhile are left
 * out, letters that leave the table meanwhile may be. A row that does not fit its model is exported as it is stored.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Chunk from "effect/Chunk";
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

/** Bytes of rows that are held at once, but for a single one that is larger. */
const batchBytes = 4 * 1024 * 1024;
/** Places that are read ahead: without an index on all letters by time each look at them is a sort. */
const windowSize = 10_000;

const operation = "jobDlq.exportTo";

export const makeExport = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decodeSnapshot = S.decodeUnknown(S.Tuple(S.Struct({ snapshot: S.String })));
  const decodeWindow = S.decodeUnknown(S.Array(Ahead));
  const decodePage = S.decodeUnknown(S.Array(Stored));
  const decodeLines = S.decodeUnknown(S.Array(Line));

  /** The places of the next letters, oldest first, with their stored sizes: those that were there when the export began. */
  const ahead = (filter: JobDlqFilter, snapshot: string, after: Position | undefined) => sql`
    SELECT d.id, ${placeOf(sql)} AS at, pg_column_size(d.payload) + pg_column_size(d.error_history) AS size
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

  // A jsonb that was compressed may be a hundred times its stored size, so the page ends by the size of its text as well: what is
  // beyond has a place and no content.
  const page = (filter: JobDlqFilter, ids: ReadonlyArray<string>, columns: Fragment) => sql`
    WITH found AS MATERIALIZED (
      SELECT a.place, d.*, d.payload::text AS payload_text, d.error_history::text AS history_text,
        ${time("d.dlq_at")} AS dlq_time, ${time("d.replayed_at")} AS replayed_time
      FROM unnest(${ids}::uuid[]) WITH ORDINALITY AS a (id, place) JOIN job_dlq d USING (id)
      WHERE ${compileFilter(sql, filter)}),
    measured AS (
      SELECT *, sum(octet_length(payload_text) + octet_length(history_text)) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING)
        - octet_length(payload_text) - octet_length(history_text) < ${batchBytes} AS fits
      FROM found)
    SELECT ${columns}
    FROM measured
    ORDER BY place`;

  const stored = sql`
    id, original_job_id, app_id, type, CASE WHEN fits THEN payload_text END AS payload, error_reason, attempts,
    CASE WHEN fits THEN history_text END AS error_history, dlq_time AS dlq_at, replayed_time AS replayed_at, request_id, user_id`;

  // What lineOf makes of a row. A field at a time over the wire, decoded and written again, took as long as all the rest.
  const line = sql`
    id, CASE WHEN fits THEN
      '{"id":"' || id || '","originalJobId":"' || original_job_id || '","appId":"' || app_id || '","type":' || to_json(type)
      || ',"payload":' || payload_text || ',"errorReason":' || to_json(error_reason) || ',"attempts":' || attempts
      || ',"errorHistory":' || history_text || ',"dlqAt":"' || dlq_time || '","replayedAt":' || COALESCE(to_json(replayed_time), 'null')
      || ',"requestId":' || COALESCE(to_json(request_id), 'null') || ',"userId":' || COALESCE(to_json(user_id), 'null') || E'}\n'
    END AS line`;

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

      interface State {
        readonly queue: ReadonlyArray<Ahead>;
        readonly after: Position | undefined;
        readonly isLastWindow: boolean;
      }
      const next = (state: State) =>
        Effect.gen(function* () {
          let { after, isLastWindow, queue } = state;
          if (queue.length === 0) {
            if (isLastWindow) return Option.none();
            queue = yield* inScope(ahead(checked, snapshot, after)).pipe(
              refused(operation),
              Effect.flatMap((_) => Effect.orDie(decodeWindow(_))),
            );
            const last = queue.at(-1);
            if (last === undefined) return Option.none();
            after = { at: last.at, id: last.id };
            isLastWindow = queue.length < windowSize;
          }
          const asked = queue.slice(0, pageLength(queue, batchSize));
          const ids = asked.map(({ id }) => id);
          const found = yield* inScope(page(checked, ids, redact === undefined ? line : stored)).pipe(
            refused(operation),
          );
          const lines: Array<string> = [];
          const left = new Set<string>();
          if (redact === undefined) {
            for (const row of yield* Effect.orDie(decodeLines(found))) {
              if (row.line === null) left.add(row.id);
              else lines.push(row.line);
            }
          } else {
            for (const row of yield* Effect.orDie(decodePage(found))) {
              const { errorHistory, payload } = row;
              if (payload === null || errorHistory === null) left.add(row.id);
              else lines.push(lineOf(yield* redact({ ...row, errorHistory, payload })));
            }
          }
          const rest = [...asked.filter(({ id }) => left.has(id)), ...queue.slice(asked.length)];
          return Option.some([Chunk.unsafeFromArray(lines), { after, isLastWindow, queue: rest }] as const);
        });
      const first: State = { queue: [], after: undefined, isLastWindow: false };
      return Stream.unfoldChunkEffect(first, next);
    }).pipe(Stream.unwrap, Stream.withSpan(operation));

  return { exportTo };
});

interface Ahead extends S.Schema.Type<typeof Ahead> {}
const Ahead = S.Struct({ id: S.UUID, at: S.String, size: S.Int });

/** How many letters of the queue are one page: a batch, or fewer when they are large. At least one. */
const pageLength = (queue: ReadonlyArray<Ahead>, batchSize: number): number => {
  let bytes = 0;
  let length = 0;
  while (length < queue.length && length < batchSize && bytes < batchBytes) bytes += queue[length++]?.size ?? 0;
  return length;
};

/** A dead letter as its line has it; payload and errorHistory are JSON text, null in what is left to the next page. */
const Stored = S.Struct({
  id: S.UUID,
  originalJobId: S.UUID,
  appId: S.UUID,
  type: S.String,
  payload: S.NullOr(S.String),
  errorReason: S.String,
  attempts: S.Int,
  errorHistory: S.NullOr(S.String),
  dlqAt: S.String,
  replayedAt: S.NullOr(S.String),
  requestId: S.NullOr(S.UUID),
  userId: S.NullOr(S.UUID),
});
type Exported = typeof Stored.Type & { readonly payload: string; readonly errorHistory: string };

/** The same, written by the database. */
const Line = S.Struct({ id: S.UUID, line: S.NullOr(S.String) });

const jsonFields: ReadonlySet<string> = new Set(["payload", "errorHistory"] satisfies ReadonlyArray<keyof JobDlq>);

const lineOf = (row: Exported): string => {
  const fields = Object.keys(Stored.fields).map((name) => {
    const value: unknown = Reflect.get(row, name);
    return `"${name}":${jsonFields.has(name) ? value : JSON.stringify(value)}`;
  });
  return `{${fields.join(",")}}\n`;
};

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
    return (row: Exported): Effect.Effect<Exported, InvalidInput> =>
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
