/** The ledger `job_dlq_events`: who did what to which dead letter. Append-only; the database holds that. */
import * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { actorOf, invalidCursor, uuidOf, wholeOf } from "../arguments.js";
import { InvalidInput } from "../errors.js";
import { JobDlq } from "../models.js";
import { refused } from "../refusal.js";
import { rowsOf } from "../rows.js";
import { quickLetter } from "./quick-letter.js";

const letterNames =
  "id original_job_id app_id type payload error_reason attempts error_history dlq_at replayed_at request_id user_id updated_at".split(
    " ",
  );

/** What a dead letter is made of; the other columns are the database's own. */
export const letterColumns = (sql: SqlClient.SqlClient): Fragment => sql.literal(letterNames.join(", "));

/** The same from a record `r` that was read out of JSON, where a payload that is JSON null has become NULL. */
export const letterOf = (sql: SqlClient.SqlClient): Fragment =>
  sql.literal(letterNames.map((name) => (name === "payload" ? "COALESCE(r.payload, 'null')" : `r.${name}`)).join(", "));

/** The whole row under `alias` as JSON, exact to the microsecond and to the last digit. */
export const entryOf = (sql: SqlClient.SqlClient, alias: string): Fragment =>
  sql`to_jsonb(${sql(alias)}) - 'fingerprint' - 'arrived'`;

/** A dead letter's copy in the ledger under the alias `e` as a row that a compiled filter reads; only what is read is taken out. */
export const copyOf = (sql: SqlClient.SqlClient): Fragment => sql`
  SELECT (e.entry ->> 'id')::uuid AS id, (e.entry ->> 'original_job_id')::uuid AS original_job_id, (e.entry ->> 'app_id')::uuid AS app_id,
    e.entry ->> 'type' AS type, e.entry -> 'payload' AS payload, e.entry ->> 'error_reason' AS error_reason,
    e.entry -> 'error_history' AS error_history, (e.entry ->> 'dlq_at')::timestamptz AS dlq_at,
    (e.entry ->> 'request_id')::uuid AS request_id, (e.entry ->> 'user_id')::uuid AS user_id,
    job_dlq_fingerprint(e.entry ->> 'type', e.entry ->> 'error_reason', e.entry -> 'error_history') AS fingerprint`;

/** What happened. `purged` is a receipt about many letters, of a purge or a retention; all others are about one. */
export const EventKind = S.Literal(
  "replayed",
  "discarded",
  "restored",
  "erased",
  "purged",
  "expired",
  "imported",
  "viewed",
);
export type EventKind = typeof EventKind.Type;

/** The reason of an event `replayed` that revived no job: what `markReplayed` leaves. Unlike a detail, no erasure takes it away. */
export const replayedElsewhere = "replayed elsewhere";

/** One line of the ledger. */
export class JobDlqEvent extends S.Class<JobDlqEvent>("JobDlqEvent")({
  /** uuidv7. What `restore` takes. */
  id: S.UUID,
  /** Null for the receipt of a retention over all apps. */
  appId: S.NullOr(S.UUID),
  /** The dead letter; null for the receipt of a purge or a retention. */
  dlqId: S.NullOr(S.UUID),
  originalJobId: S.NullOr(S.UUID),
  kind: EventKind,
  actor: S.String,
  reason: S.NullOr(S.String),
  /** What belongs to the kind: `payload_diff` of a replay with another payload, the counts of a purge or a retention. Null after an erasure. */
  detail: S.NullOr(S.parseJson(S.Unknown)),
  /** Whether the letter's copy is still there, so that `restore` can bring it back. */
  hasEntry: S.Boolean,
  /** restored: the event that it undid. */
  undoes: S.NullOr(S.UUID),
  /** discarded, expired: whether it was undone. */
  isUndone: S.Boolean,
  at: S.DateTimeUtcFromDate,
}) {}

export interface EventsOptions {
  readonly dlqId?: string | undefined;
  readonly originalJobId?: string | undefined;
  readonly kind?: EventKind | undefined;
  readonly actor?: string | undefined;
  /** 1 to 1,000, default 100. */
  readonly limit?: number | undefined;
  /** The `next` of a page. */
  readonly cursor?: string | undefined;
}

/** A page of the ledger, newest first. */
export interface EventsPage {
  readonly items: ReadonlyArray<JobDlqEvent>;
  readonly next: Option.Option<string>;
}

export const makeLedger = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const letters = rowsOf(JobDlq, "job_dlq", quickLetter);
  const decodeEvents = S.decodeUnknown(S.Array(JobDlqEvent));
  const isUuid = S.is(S.UUID);

  /** The ledger page by page, newest first. */
  const events = Effect.fn("jobDlq.events")(function* (options: EventsOptions = {}) {
    const operation = "jobDlq.events";
    const limit = yield* wholeOf(operation, "limit", options.limit ?? 100, 1, 1000);
    const conditions: Array<Fragment> = [];
    if (options.dlqId !== undefined)
      conditions.push(sql`e.dlq_id = ${yield* uuidOf(operation, "dlqId", options.dlqId)}::uuid`);
    if (options.originalJobId !== undefined) {
      conditions.push(
        sql`e.original_job_id = ${yield* uuidOf(operation, "originalJobId", options.originalJobId)}::uuid`,
      );
    }
    if (options.kind !== undefined) {
      if (!S.is(EventKind)(options.kind)) {
        const problem = `is ${JSON.stringify(options.kind)}; it must be one of ${EventKind.literals.join(", ")}`;
        return yield* new InvalidInput({ operation, field: "kind", problem });
      }
      conditions.push(sql`e.kind = ${options.kind}`);
    }
    if (options.actor !== undefined) conditions.push(sql`e.actor = ${yield* actorOf(operation, options.actor)}`);
    if (options.cursor !== undefined) {
      const cursor: string = options.cursor;
      if (!isUuid(cursor)) return yield* invalidCursor(operation, cursor);
      conditions.push(sql`e.id < ${cursor}::uuid`);
    }
    // Not EXISTS: that the planner may answer for all rows at once, by reading the whole ledger for a page of it.
    const rows = yield* sql`
      SELECT e.id, e.app_id, e.dlq_id, e.original_job_id, e.kind, e.actor, e.reason, e.detail, e.entry IS NOT NULL AS has_entry, e.undoes,
        (SELECT true FROM job_dlq_events u WHERE u.undoes = e.id LIMIT 1) IS NOT NULL AS is_undone, e.at
      FROM job_dlq_events e
      WHERE ${sql.and(conditions.length === 0 ? [sql`true`] : conditions)}
      ORDER BY e.id DESC
      LIMIT ${limit + 1}`.pipe(refused(operation));
    const items = yield* Effect.orDie(decodeEvents(rows.slice(0, limit)));
    const page: EventsPage = {
      items,
      next: rows.length > limit ? Option.map(Option.fromNullable(items.at(-1)), ({ id }) => id) : Option.none(),
    };
    return page;
  });

  /** Reads one dead letter in full and leaves a line in the ledger that it was read: for data that only few may see. */
  const view = Effect.fn("jobDlq.view")(function* (id: string, options: { readonly actor: string }) {
    const operation = "jobDlq.view";
    const actor = yield* actorOf(operation, options.actor);
    yield* uuidOf(operation, "id", id);
    const rows = yield* sql`
      WITH viewed AS (SELECT * FROM job_dlq WHERE id = ${id}),
      ledger AS (
        INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor)
        SELECT app_id, id, original_job_id, 'viewed', ${actor} FROM viewed)
      SELECT * FROM viewed`.pipe(refused(operation));
    return yield* letters.first(rows);
  });

  return { events, view };
});
