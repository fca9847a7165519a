/**
 * What an operator looks at before changing anything: the preview of a change, the failures that are the same failure, and
 * the figures of the queue. It reads, so it takes no actor and leaves no line in the ledger.
 *
 * Contract: each method is one statement, so all its numbers are of one snapshot, and each goes by the same compiled filter as
 * the changes (`filter.ts`): a preview and the change after it cannot disagree about what matches.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { wholeOf } from "../arguments.js";
import { BadRow } from "../errors.js";
import { JobDlq } from "../models.js";
import { refused } from "../refusal.js";
import { rowsOf } from "../rows.js";
import { checkFilter, compileFilter, type JobDlqFilter } from "./filter.js";
import { type JobDlqPage, newestFirst, type PageOptions } from "./page.js";
import { quickLetter } from "./quick-letter.js";
import { type Reach, type ReachOptions, reachOf } from "./reach.js";
import { lastErrorLine, shownTime } from "./shown.js";
import { makeStats } from "./stats.js";

/** What a change by the same filter would touch, if nothing came or went in between. */
export class JobDlqPreview extends S.Class<JobDlqPreview>("JobDlqPreview")({
  /** Dead letters that match; at least, where `isExact` is false. */
  count: S.Int,
  /** Whether all were looked at: false only where {@link ReachOptions.most} were, and then every figure is of those. */
  isExact: S.Boolean,
  /** The moment of it. A bulk change that is given it changes nothing that came since. */
  asOf: S.String,
  /** By type, the most frequent first; adds up to `count`. */
  byType: S.Array(S.Struct({ type: S.String, count: S.Int })),
  /** By reason, the most frequent first; adds up to `count`. */
  byReason: S.Array(S.Struct({ reason: S.String, count: S.Int })),
  /** The first and the last `dlqAt`; null when nothing matches. A time outside the years 1 to 9999 is shown as their end. */
  oldest: S.NullOr(S.DateTimeUtc),
  newest: S.NullOr(S.DateTimeUtc),
  /** The newest ten. */
  sample: S.Array(JobDlq),
  /** Those among the newest ten whose stored row does not fit the model. */
  bad: S.Array(BadRow),
}) {}

/** Dead letters that failed in the same way: one fingerprint. */
export class JobDlqGroup extends S.Class<JobDlqGroup>("JobDlqGroup")({
  /** What a filter takes: `{ fingerprint }`. */
  fingerprint: S.UUID,
  /** At least, where `isExact` is false. */
  count: S.Int,
  /** Whether all were looked at: false only where {@link ReachOptions.most} were. Other groups may be missing then. */
  isExact: S.Boolean,
  /** The first and the last `dlqAt`. A time outside the years 1 to 9999 is shown as their end. */
  first: S.DateTimeUtc,
  last: S.DateTimeUtc,
  type: S.String,
  reason: S.String,
  /** The first line of the newest one's last error, at most 300 characters; null when that has no error. */
  message: S.NullOr(S.String),
  /** The newest one by (dlqAt, id). */
  newestId: S.UUID,
  /** How many apps it happened to, as far as the scope sees them: in a tenant scope 1. */
  tenants: S.Int,
  /** Up to 20 of them, the most affected first. */
  appIds: S.Array(S.UUID),
}) {}

export interface GroupsOptions extends ReachOptions {
  /** Groups at most, 1 to 1,000. Default 100. */
  readonly limit?: number | undefined;
}

const Counted = S.Struct({
  total: S.Int,
  isExact: S.Boolean,
  asOf: S.String,
  byType: S.parseJson(JobDlqPreview.fields.byType),
  byReason: S.parseJson(JobDlqPreview.fields.byReason),
  oldest: S.NullOr(S.DateTimeUtcFromDate),
  newest: S.NullOr(S.DateTimeUtcFromDate),
});

export const makeInsight = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const letters = rowsOf(JobDlq, "job_dlq", quickLetter);
  const decodeCounted = S.decodeUnknown(Counted);
  const decodeGroups = S.decodeUnknown(
    S.Array(S.Struct({ ...JobDlqGroup.fields, first: S.DateTimeUtcFromDate, last: S.DateTimeUtcFromDate })),
  );

  /**
   * {@link JobDlqPreview}: what a change with this filter would touch. A filter without any condition is allowed: it is only read.
   * `state` is `pending` unless the filter names one, as for replay and discard; before an erasure, whose default is every state,
   * look with `state: "any"`. The copies of discarded letters, which an erasure empties as well, are not in the table and not counted.
   */
  const preview = Effect.fn("jobDlq.preview")(function* (filter: JobDlqFilter, options: ReachOptions = {}) {
    const operation = "jobDlq.preview";
    const reach = yield* reachOf(sql, operation, yield* checkFilter(operation, filter), options.most);
    // The sample is a query of its own and not a part of the count, so that an index finds ten rows without sorting all.
    const rows = yield* sql`
      WITH ${reach.ctes} counted AS MATERIALIZED (
        SELECT type, error_reason, sum(count)::int AS count, min(oldest) AS oldest, max(newest) AS newest
        FROM (${reach.kinds}) k
        GROUP BY type, error_reason),
      by_type AS (
        SELECT type, sum(count)::int AS count FROM counted GROUP BY type),
      by_reason AS (
        SELECT error_reason AS reason, sum(count)::int AS count FROM counted GROUP BY error_reason),
      summary AS (
        SELECT 1 AS place, COALESCE(sum(count), 0)::int AS total, ${reach.isExact} AS is_exact, pg_current_snapshot()::text AS as_of,
          ${shownTime(sql, sql`min(oldest)`)} AS oldest, ${shownTime(sql, sql`max(newest)`)} AS newest,
          (SELECT COALESCE(jsonb_agg(to_jsonb(t) ORDER BY t.count DESC, t.type COLLATE "C"), '[]') FROM by_type t) AS by_type,
          (SELECT COALESCE(jsonb_agg(to_jsonb(r) ORDER BY r.count DESC, r.reason COLLATE "C"), '[]') FROM by_reason r) AS by_reason
        FROM counted),
      sample AS (
        SELECT d.*, row_number() OVER (ORDER BY d.dlq_at DESC, d.id DESC)::int AS place
        FROM job_dlq d
        WHERE ${reach.sampled(sql`(SELECT max(newest) FROM counted)`)}
        ORDER BY d.dlq_at DESC, d.id DESC
        LIMIT 10)
      SELECT * FROM summary FULL JOIN sample USING (place) ORDER BY place`.pipe(refused(operation));
    const { total, ...counted } = yield* Effect.orDie(decodeCounted(rows[0]));
    const { bad, items } = letters.partition(total === 0 ? [] : rows);
    return new JobDlqPreview({ ...counted, count: total, sample: items, bad });
  });

  /**
   * {@link JobDlqPage}: the matching dead letters page by page, newest first; see `page.ts`. A filter without any condition is
   * allowed; `state` is `pending` unless the filter names one.
   */
  const page = Effect.fn("jobDlq.page")(function* (filter: JobDlqFilter, options: PageOptions = {}) {
    const operation = "jobDlq.page";
    const matches = compileFilter(sql, yield* checkFilter(operation, filter));
    const { next, rows } = yield* newestFirst(sql, operation, matches, options);
    const result: JobDlqPage = { ...letters.partition(rows), next };
    return result;
  });

  // By app first, so that nothing is sorted to count the apps. max() of a row is the newest one without sorting either; its id is
  // taken out below the join, because an expression over it would keep the join from the primary key under row-level security.
  const largestOf = ({ from, matches }: Reach, limit: number) => sql`
    by_app AS (
      SELECT d.fingerprint, d.app_id, count(*)::int AS count, min(d.dlq_at) AS first, max(d.dlq_at) AS last,
        max(ROW (d.dlq_at, d.id)) AS newest
      FROM ${from} d
      WHERE ${matches}
      GROUP BY d.fingerprint, d.app_id),
    largest AS MATERIALIZED (
      SELECT fingerprint, sum(count)::int AS count, min(first) AS first, max(last) AS last,
        (to_jsonb(max(newest)) ->> 'f2')::uuid AS newest_id, count(*)::int AS tenants,
        (array_agg(app_id ORDER BY count DESC, app_id))[1:20] AS app_ids
      FROM by_app
      GROUP BY fingerprint
      ORDER BY count DESC, last DESC, fingerprint
      LIMIT ${limit})`;

  // What is costly for all of them, their apps and which is the newest, is asked only of the largest: the index finds each of them.
  const largestInIndex = ({ from, matches }: Reach, limit: number) => sql`
    top AS MATERIALIZED (
      SELECT fingerprint, count, oldest, newest FROM kinds ORDER BY count DESC, newest DESC, fingerprint LIMIT ${limit}),
    by_app AS MATERIALIZED (
      SELECT d.fingerprint, d.app_id, count(*)::int AS count, max(d.dlq_at) AS newest
      FROM ${from} d
      WHERE ${matches} AND d.fingerprint = ANY (ARRAY(SELECT fingerprint FROM top))
      GROUP BY d.fingerprint, d.app_id),
    last AS (
      SELECT DISTINCT ON (t.fingerprint) t.fingerprint, n.id
      FROM top t JOIN by_app b ON b.fingerprint = t.fingerprint AND b.newest = t.newest
      CROSS JOIN LATERAL (
        SELECT d.id FROM ${from} d
        WHERE ${matches} AND d.app_id = b.app_id AND d.fingerprint = b.fingerprint AND d.dlq_at = b.newest
        ORDER BY d.id DESC
        LIMIT 1) n
      ORDER BY t.fingerprint, n.id DESC),
    largest AS MATERIALIZED (
      SELECT t.fingerprint, t.count, t.oldest AS first, t.newest AS last, l.id AS newest_id, a.tenants, a.app_ids
      FROM top t JOIN last l USING (fingerprint) JOIN (
        SELECT fingerprint, count(*)::int AS tenants, (array_agg(app_id ORDER BY count DESC, app_id))[1:20] AS app_ids
        FROM by_app
        GROUP BY fingerprint) a USING (fingerprint))`;

  /**
   * {@link JobDlqGroup}: the matching dead letters by fingerprint, the largest group first, then the one that happened last,
   * then by fingerprint. A filter without any condition is allowed.
   */
  const groups = Effect.fn("jobDlq.groups")(function* (filter: JobDlqFilter, options: GroupsOptions = {}) {
    const operation = "jobDlq.groups";
    const limit = yield* wholeOf(operation, "limit", options.limit ?? 100, 1, 1000);
    const reach = yield* reachOf(sql, operation, yield* checkFilter(operation, filter), options.most);
    const largest = reach.isIndexed ? largestInIndex(reach, limit) : largestOf(reach, limit);
    const rows = yield* sql`
      WITH ${reach.ctes} ${largest}
      SELECT g.fingerprint, g.count, ${reach.isExact} AS is_exact, ${shownTime(sql, sql`g.first`)} AS first,
        ${shownTime(sql, sql`g.last`)} AS last, d.type, d.error_reason AS reason, ${lastErrorLine(sql, sql`d.error_history`)} AS message,
        g.newest_id, g.tenants, g.app_ids
      FROM largest g JOIN job_dlq d ON d.id = g.newest_id
      ORDER BY g.count DESC, g.last DESC, g.fingerprint`.pipe(refused(operation));
    return (yield* Effect.orDie(decodeGroups(rows))).map((group) => new JobDlqGroup(group));
  });

  return { page, preview, groups, ...(yield* makeStats) };
});
