/**
 * Dead letters from NDJSON: see `transfer.ts` for what a line is.
 *
 * Contract: a line that cannot be imported costs itself only. Idempotent by id: what is there stays as it is. Each batch is one
 * transaction, with a line in the ledger for each letter. What was erased does not come back, also when the erasure is under way,
 * and what the ledger knows as replayed does not come back as pending: a letter is replayed once.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { actorOf, wholeOf } from "../arguments.js";
import { firstIssue } from "../issue.js";
import { notStorable } from "../json.js";
import { type QueryError, refused } from "../refusal.js";
import { classify, databaseError } from "../sql-state.js";
import { type DataScope, within, withTransaction } from "../transaction.js";
import type { BulkError } from "./bulk.js";
import { type Line, lineReader, type Unreadable } from "./lines.js";

/**
 * Why a line was not imported. `too long`: longer than `maxLineBytes` · `not UTF-8` · `not JSON`: cut off, or no JSON · `does not
 * fit`: a field is missing, unknown, or of another kind than its column · `foreign tenant`: its appId is not the scope's · `unknown
 * app`: there is no such app · `erased`: its person's data was removed and does not come back · `replayed`: the line is of before
 * its letter was replayed, and as a pending one it would be replayed again · `id taken`: a letter that this scope does not see has its
 * id · `refused`: the database does not accept it, for the reason given.
 */
export const ImportReason = S.Literal(
  "too long",
  "not UTF-8",
  "not JSON",
  "does not fit",
  "foreign tenant",
  "unknown app",
  "erased",
  "replayed",
  "id taken",
  "refused",
);
export type ImportReason = typeof ImportReason.Type;

/** A line that was not imported. It says what is wrong without quoting values, which may be somebody's data. */
export class ImportProblem extends S.TaggedError<ImportProblem>()("ImportProblem", {
  /** From 1, blank lines counted. */
  line: S.Int,
  reason: ImportReason,
  problem: S.String,
}) {
  override get message() {
    return `Line ${this.line} was not imported: it ${this.problem}.`;
  }
}

/** How far an import has come. Every line that is not blank is imported, a duplicate, or refused. */
export interface ImportProgress {
  /** Lines so far, without blank ones. */
  readonly lines: number;
  readonly imported: number;
  /** Lines whose id was there already, in the table or on an earlier line. The first one stays. */
  readonly duplicates: number;
  readonly refused: number;
  /** What was refused in the batch that has just been done, in the order of the lines. */
  readonly problems: ReadonlyArray<ImportProblem>;
}

export interface ImportOptions {
  /** Who imports; the ledger keeps it, for each imported letter. */
  readonly actor: string;
  /** Whose rows; each batch opens this scope. Default: the scope that is open around the stream, and then all is one transaction. */
  readonly scope?: DataScope | undefined;
  /** Lines in one statement, 1 to 10,000; fewer when they are long. Default 1,000. */
  readonly batchSize?: number | undefined;
  /** Longest line, 1,024 to 134,217,728 bytes. Default 16 MiB. An import needs some ten times the longest line in memory. */
  readonly maxLineBytes?: number | undefined;
}

/** Bytes of lines that are held at once, but for a single one that is longer. */
const batchBytes = 4 * 1024 * 1024;

/** The ledger says more of an imported letter than when it was judged, or another caller has its copy. */
class Moved extends Data.TaggedError("Moved") {}

const operation = "jobDlq.importFrom";

export const makeImport = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decodeVerdicts = S.decodeUnknown(S.Array(Verdict));
  const decodeMoved = S.decodeUnknown(S.Tuple(S.Struct({ isMoved: S.Boolean })));
  const decodeIds = S.decodeUnknown(S.Array(S.Struct({ id: S.UUID })));

  // Whoever erases or restores a discarded letter has its event locked; this waits for that, and the statement after it sees what became of it.
  const holdCopies = (ids: ReadonlyArray<string>) => sql`
    SELECT id FROM job_dlq_events WHERE dlq_id = ANY (${ids}::uuid[]) AND entry IS NOT NULL ORDER BY id FOR KEY SHARE`;

  // The text is parsed in the database, so that no number passes through JavaScript.
  const store = (texts: ReadonlyArray<string>, actor: string) => sql`
    WITH parsed AS MATERIALIZED (
      SELECT t.place::int AS place, t.line::jsonb AS letter FROM unnest(${texts}::text[]) WITH ORDINALITY AS t (line, place)),
    given AS MATERIALIZED (
      SELECT place, (letter ->> 'id')::uuid AS id, (letter ->> 'originalJobId')::uuid AS original_job_id,
        (letter ->> 'appId')::uuid AS app_id, letter ->> 'type' AS type, letter -> 'payload' AS payload,
        letter ->> 'errorReason' AS error_reason, (letter -> 'attempts')::int AS attempts, letter -> 'errorHistory' AS error_history,
        (letter ->> 'dlqAt')::timestamptz AS dlq_at, (letter ->> 'replayedAt')::timestamptz AS replayed_at,
        (letter ->> 'requestId')::uuid AS request_id, (letter ->> 'userId')::uuid AS user_id
      FROM parsed),
    judged AS MATERIALIZED (
      SELECT g.*,
        CASE
          WHEN g.app_id <> current_tenant() THEN 'foreign tenant'
          WHEN NOT EXISTS (SELECT FROM apps a WHERE a.id = g.app_id) THEN 'unknown app'
          WHEN EXISTS (SELECT FROM job_dlq_events e WHERE e.dlq_id = g.id AND e.kind = 'erased') THEN 'erased'
          WHEN EXISTS (SELECT FROM job_dlq d WHERE d.id = g.id) THEN 'duplicate'
          WHEN g.replayed_at IS NULL AND EXISTS (SELECT FROM job_dlq_events e WHERE e.dlq_id = g.id AND e.kind = 'replayed')
            THEN 'replayed'
        END AS verdict
      FROM given g),
    fit AS MATERIALIZED (
      SELECT DISTINCT ON (id) * FROM judged WHERE verdict IS NULL ORDER BY id, place),
    imported AS (
      INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at,
        request_id, user_id)
      SELECT id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, request_id, user_id
      FROM fit
      ORDER BY id
      ON CONFLICT (id) DO NOTHING
      RETURNING id, app_id, original_job_id),
    ledger AS (
      INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor)
      SELECT app_id, id, original_job_id, 'imported', ${actor} FROM imported)
    SELECT j.place, j.id,
      CASE
        WHEN j.verdict IS NOT NULL THEN j.verdict
        WHEN i.id IS NULL THEN 'id taken'
        WHEN f.place = j.place THEN 'imported'
        ELSE 'duplicate'
      END AS verdict
    FROM judged j LEFT JOIN fit f USING (id) LEFT JOIN imported i USING (id)
    ORDER BY j.place`;

  // A letter that was in the table when the copies were held may have been discarded before it was judged. Its new copy is held
  // here, and what became of it until now is looked at: it may have been erased, or restored, replayed and purged. This does not
  // wait itself: a restore that has the copy waits for the letter.
  const holdNewCopies = (ids: ReadonlyArray<string>) => sql`
    WITH copies AS MATERIALIZED (
      SELECT id FROM job_dlq_events WHERE dlq_id = ANY (${ids}::uuid[]) AND entry IS NOT NULL),
    held AS MATERIALIZED (
      SELECT e.id FROM job_dlq_events e
      WHERE e.id IN (SELECT id FROM copies) AND e.entry IS NOT NULL
      ORDER BY e.id
      FOR KEY SHARE OF e SKIP LOCKED)
    SELECT (SELECT count(*) FROM copies) > (SELECT count(*) FROM held)
      OR EXISTS (
        SELECT FROM job_dlq_events e JOIN job_dlq d ON d.id = e.dlq_id
        WHERE e.dlq_id = ANY (${ids}::uuid[]) AND (e.kind = 'erased' OR (e.kind = 'replayed' AND d.replayed_at IS NULL)))
      AS is_moved`;

  /** Stores lines that fit, all in one statement. */
  const storeOnce = (lines: ReadonlyArray<Fit>, actor: string) =>
    Effect.gen(function* () {
      yield* holdCopies(lines.map(({ id }) => id));
      const verdicts = yield* Effect.flatMap(
        store(
          lines.map(({ text }) => text),
          actor,
        ),
        (_) => Effect.orDie(decodeVerdicts(_)),
      );
      const imported = verdicts.filter(({ verdict }) => verdict === "imported").map(({ id }) => id);
      if (imported.length > 0) {
        const [{ isMoved }] = yield* Effect.orDie(Effect.flatMap(holdNewCopies(imported), decodeMoved));
        if (isMoved) return yield* new Moved();
      }
      const taken = verdicts.filter(({ verdict }) => verdict === "id taken").map(({ id }) => id);
      if (taken.length === 0) return verdicts;
      // Taken by another import while this one waited for it: a statement of its own sees that letter, if the scope may.
      const rows = yield* sql`SELECT id FROM job_dlq WHERE id = ANY (${taken}::uuid[])`;
      const seen = new Set((yield* Effect.orDie(decodeIds(rows))).map(({ id }) => id));
      return verdicts.map((one) =>
        one.verdict === "id taken" && seen.has(one.id) ? { ...one, verdict: "duplicate" as const } : one,
      );
    });

  // Rolled back first, so that who has the copy does not wait for it.
  const storeAll = (
    lines: ReadonlyArray<Fit>,
    actor: string,
  ): Effect.Effect<ReadonlyArray<typeof Verdict.Type>, SqlError> =>
    withTransaction(sql)(storeOnce(lines, actor)).pipe(Effect.catchTag("Moved", () => storeAll(lines, actor)));

  /** Stores lines by halves, each under a savepoint, until what the database refuses stands alone. */
  const storeApart = (lines: ReadonlyArray<Fit>, actor: string): Effect.Effect<ReadonlyArray<Outcome>, SqlError> =>
    storeAll(lines, actor).pipe(
      Effect.map((verdicts) => outcomesOf(lines, verdicts)),
      Effect.catchIf(isLinesFault, (error) => {
        const [only] = lines;
        if (lines.length === 1 && only !== undefined) return Effect.succeed([refusalOf(only, error)]);
        const middle = Math.ceil(lines.length / 2);
        return Effect.zipWith(
          storeApart(lines.slice(0, middle), actor),
          storeApart(lines.slice(middle), actor),
          (left, right) => [...left, ...right],
        );
      }),
    );

  /**
   * Imports dead letters from NDJSON in pieces of any size, as text or as UTF-8. Emits the progress after each batch, and the last
   * one is the report; there is at least one. A line that cannot be imported is a problem of its own, with its number, and all
   * others are imported. A letter keeps its id and its state: replayed ones stay replayed, and no job is made.
   *
   * Whole batches before a failure of `lines` stay imported.
   */
  const importFrom = <E, R>(
    lines: Stream.Stream<string | Uint8Array, E, R>,
    options: ImportOptions,
  ): Stream.Stream<ImportProgress, E | QueryError | BulkError, R> =>
    Effect.gen(function* () {
      const actor = yield* actorOf(operation, options.actor);
      const batchSize = yield* wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_000);
      const longest = yield* wholeOf(operation, "maxLineBytes", options.maxLineBytes ?? 2 ** 24, 2 ** 10, 2 ** 27);
      const inScope = within(sql, options.scope);

      const importBatch = (batch: ReadonlyArray<Line>) =>
        Effect.gen(function* () {
          const read = batch.map((line) => readLine(line, longest));
          const fit = read.filter((line) => line._tag === "Fit");
          const outcomes =
            fit.length === 0
              ? []
              : yield* inScope(storeAll(fit, actor)).pipe(
                  Effect.map((verdicts) => outcomesOf(fit, verdicts)),
                  Effect.catchIf(isLinesFault, () => inScope(storeApart(fit, actor))),
                  refused(operation),
                );
          const unfit = read.filter((line) => line._tag === "ImportProblem");
          const problems = [...unfit, ...outcomes.filter((_) => _ instanceof ImportProblem)];
          return {
            lines: batch.length,
            imported: outcomes.filter((_) => _ === "imported").length,
            duplicates: outcomes.filter((_) => _ === "duplicate").length,
            refused: problems.length,
            problems: problems.sort((a, b) => a.line - b.line),
          } satisfies ImportProgress;
        });

      const reader = lineReader({ line: longest, lines: batchSize, batch: batchBytes });
      return lines.pipe(
        Stream.mapConcat(reader.push),
        Stream.concat(Stream.suspend(() => Stream.make(reader.end()))),
        // The rest of a text that ended with a whole batch is empty, and its progress is that of the batch before.
        Stream.mapEffect(importBatch),
        Stream.mapAccum({ lines: 0, imported: 0, duplicates: 0, refused: 0 }, (before, batch) => {
          const now = {
            lines: before.lines + batch.lines,
            imported: before.imported + batch.imported,
            duplicates: before.duplicates + batch.duplicates,
            refused: before.refused + batch.refused,
          };
          return [now, { ...now, problems: batch.problems }];
        }),
      );
    }).pipe(Stream.unwrap, Stream.withSpan(operation));

  return { importFrom };
});

// The database would also take 'now' and 'tomorrow', and read them anew at each import.
const Time = S.String.pipe(
  S.pattern(/^(?:\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d(?::?\d\d)?)(?: BC)?|-?infinity)$/),
);

/** What the columns can hold, of a line that JavaScript has parsed. The database parses the text itself. */
const Fields = S.Struct({
  id: S.UUID,
  originalJobId: S.UUID,
  appId: S.UUID,
  type: S.String,
  payload: S.Unknown,
  errorReason: S.String,
  attempts: S.Int.pipe(S.between(-(2 ** 31), 2 ** 31 - 1)),
  errorHistory: S.Array(S.Unknown),
  dlqAt: Time,
  replayedAt: S.optional(S.NullOr(Time)),
  requestId: S.optional(S.NullOr(S.UUID)),
  userId: S.optional(S.NullOr(S.UUID)),
});
// A field that is not known is refused: a misspelt userId would make a letter that no erasure finds.
const decodeFields = S.decodeUnknownEither(Fields, { onExcessProperty: "error", exact: true });

/** What a field must be, without a word of what it is. */
const expected: Readonly<Record<string, string>> = {
  id: "a uuid",
  originalJobId: "a uuid",
  appId: "a uuid",
  type: "a text",
  errorReason: "a text",
  attempts: "a whole number of 32 bits",
  errorHistory: "an array",
  dlqAt: "a time such as 2026-01-31T12:00:00.123456Z",
  replayedAt: "null or a time such as 2026-01-31T12:00:00.123456Z",
  requestId: "null or a uuid",
  userId: "null or a uuid",
};

/** A line that can go to the database. */
interface Fit {
  readonly _tag: "Fit";
  readonly number: number;
  readonly id: string;
  readonly text: string;
}

const Verdict = S.Struct({
  place: S.Int,
  id: S.UUID,
  verdict: S.Literal("imported", "duplicate", "foreign tenant", "unknown app", "erased", "replayed", "id taken"),
});
type Outcome = "imported" | "duplicate" | ImportProblem;

const readLine = (line: Line, longest: number): Fit | ImportProblem => {
  const { number } = line;
  if ("unreadable" in line) {
    const why: Record<Unreadable, string> = {
      "too long": `is longer than ${longest.toLocaleString("en-US")} bytes`,
      "not UTF-8": "is not valid UTF-8",
    };
    return new ImportProblem({ line: number, reason: line.unreadable, problem: why[line.unreadable] });
  }
  let value: unknown;
  try {
    value = JSON.parse(line.text);
  } catch (error) {
    return new ImportProblem({ line: number, reason: "not JSON", problem: notJson(error) });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return new ImportProblem({ line: number, reason: "does not fit", problem: "is JSON, but no object" });
  }
  return Either.match(decodeFields(value), {
    onRight: ({ id }): Fit | ImportProblem => ({ _tag: "Fit", number, id, text: line.text }),
    onLeft: (error) => {
      const issue = firstIssue(error);
      const field = String(issue.path[0] ?? "").slice(0, 100);
      const what =
        issue._tag === "Unexpected"
          ? "is no field of a dead letter"
          : issue._tag === "Missing"
            ? "is missing"
            : `must be ${expected[field]}`;
      return new ImportProblem({ line: number, reason: "does not fit", problem: `does not fit: ${field} ${what}` });
    },
  });
};

// The engine's message quotes the text around the place.
const notJson = (error: unknown): string => {
  const message = error instanceof Error ? error.message : "";
  if (/^Unexpected end|^Unterminated/.test(message)) return "is not JSON: it is cut off";
  const position = /position (\d+)/.exec(message)?.[1];
  return position === undefined ? "is not JSON" : `is not JSON: see character ${Number(position) + 1}`;
};

const outcomesOf = (lines: ReadonlyArray<Fit>, verdicts: ReadonlyArray<typeof Verdict.Type>): ReadonlyArray<Outcome> =>
  verdicts.map(({ place, verdict }) => {
    if (verdict === "imported" || verdict === "duplicate") return verdict;
    return new ImportProblem({ line: lines[place - 1]?.number ?? 0, reason: verdict, problem: explained[verdict] });
  });

const explained = {
  "foreign tenant": "belongs to another app than the scope",
  "unknown app": "names an app that does not exist",
  erased: "is a dead letter that was erased, and does not come back",
  replayed: "is of before its dead letter was replayed, and would be replayed again",
  "id taken": "has the id of a dead letter that this scope does not see",
};

/** Whether the lines are to blame, and not the connection, the rights or the server. P0001 is a trigger of the operator's own. */
const isLinesFault = (error: unknown): error is SqlError => {
  if (!(error instanceof SqlError)) return false;
  switch (classify(error)) {
    case "Data":
    case "TooLarge":
    case "Check":
    case "Unique":
    case "ForeignKey":
    case "Restrict":
    case "RowSecurity":
      return true;
    default:
      return databaseError(error).code === "P0001";
  }
};

const refusalOf = ({ number, text }: Fit, error: SqlError): ImportProblem => {
  const state = classify(error);
  if (state === "RowSecurity" || state === "ForeignKey") {
    const reason = state === "RowSecurity" ? "foreign tenant" : "unknown app";
    return new ImportProblem({ line: number, reason, problem: explained[reason] });
  }
  const { code, message } = databaseError(error);
  // A text that jsonb cannot store is named by its path. A number beyond JavaScript's is none of that.
  const finite = (_: string, value: unknown) => (value === Infinity || value === -Infinity ? 0 : value);
  const found = Option.liftThrowable(() => notStorable(JSON.parse(text, finite)))();
  const problem = Option.match(code === "22P02" || code === "22P05" ? Option.flatten(found) : Option.none(), {
    onSome: (one) => `has at ${one.path} what ${one.problem}`,
    onNone: () => `was refused by the database: ${message}`,
  });
  return new ImportProblem({ line: number, reason: "refused", problem });
};
