/**
 * The figures of the queue by type, reason, tenant or hour: how much lies there and since when, how much comes, how much is
 * replayed, and whether replaying helps.
 *
 * Contract: one statement. Which dead letters count: every one that is in the table, or whose copy is in the ledger because it was
 * discarded or has expired. One that was purged or erased is in none of the figures, and neither is its replay: nothing is
 * left that would say what it was. "Now" is the database's clock when the statement begins.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { show } from "../arguments.js";
import { InvalidInput } from "../errors.js";
import { refused } from "../refusal.js";
import { checkFilter, compileFilter, type JobDlqFilter } from "./filter.js";
import { copyOf, replayedElsewhere } from "./ledger.js";
import { type Reach, type ReachOptions, reachOf } from "./reach.js";
import { shownTime } from "./shown.js";

/** What a row of the figures is about. */
export const StatsKey = S.Literal("type", "reason", "tenant", "hour");
export type StatsKey = typeof StatsKey.Type;

/** The figures of one key. The window is from `since` (inclusive) to now (exclusive). */
export class JobDlqStat extends S.Class<JobDlqStat>("JobDlqStat")({
  /** The type, the reason, the app's id, or the hour in UTC by its beginning: `2026-11-24T21:00:00Z`. */
  key: S.String,
  /** Dead letters that are pending now, whenever they came. By hour: those that came in this hour and within the window. */
  depth: S.Int,
  /** Whether all were looked at for `depth`: false only where {@link ReachOptions.most} were. Other keys may be missing then. */
  isExact: S.Boolean,
  /** Seconds since the oldest one of `depth` was dead-lettered, not less than 0; null when `depth` is 0. */
  oldestAgeSeconds: S.NullOr(S.Number),
  /** Dead letters whose `dlqAt` is in the window, whatever became of them. A restored or imported one counts once, at its `dlqAt`. */
  arrivals: S.Int,
  /** Replays in the window, by the ledger; `markReplayed` is none. By hour: the hour of the replay. */
  replays: S.Int,
  /**
   * Of those `replays` whose job has ended since: the share that completed; the others are dead again. Null when none has ended.
   * A job that was replayed again later, or was purged, counts by the dead letter that followed; without one it does not count,
   * and a cancelled job does not either.
   */
  replaySuccessRatio: S.NullOr(S.Number),
}) {}

export interface StatsOptions extends ReachOptions {
  readonly by: StatsKey;
  /** Only these dead letters, and their replays. Each figure says itself which state it counts, so `state` is refused. */
  readonly filter?: JobDlqFilter | undefined;
  /** Where the window begins. Default 24 hours ago. By hour at most 1,000 hours ago. */
  readonly since?: Date | undefined;
}

/** The longest list of hours. */
const mostHours = 1000;

const operation = "jobDlq.stats";

const { arrivals, depth, isExact, key, oldestAgeSeconds, replays } = JobDlqStat.fields;
const decodeRows = S.decodeUnknown(
  S.Array(S.Struct({ key, depth, isExact, oldestAgeSeconds, arrivals, replays, completed: S.Int, deadAgain: S.Int })),
);

export const makeStats = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  const statement = (by: StatsKey, filter: JobDlqFilter, since: Date | undefined, reach: Reach) => {
    const matches = compileFilter(sql, { ...filter, state: "any" });
    // The statement's clock and not now(): what the same transaction did before, and what others committed since it began, lies
    // before it. STABLE, so the conditions reach an index.
    const from = since === undefined ? sql`statement_timestamp() - interval '24 hours'` : sql`${since}::timestamptz`;
    const inWindow = (time: Fragment) => sql`${time} >= ${from} AND ${time} < statement_timestamp()`;
    // A line of the ledger is not older than what it is about, and its id is its time: the range of ids from the window's
    // beginning holds every removal and every replay of what came in the window.
    const sinceWindow = sql`e.id >= (lpad(to_hex(GREATEST(floor(extract(epoch FROM ${from}) * 1000), 0)::bigint), 12, '0') || repeat('0', 20))::uuid`;
    const keyOf = (time: Fragment): Fragment => {
      switch (by) {
        case "type":
          return sql`d.type`;
        case "reason":
          return sql`d.error_reason`;
        case "tenant":
          return sql`d.app_id`;
        case "hour":
          return sql`date_trunc('hour', ${time}, 'UTC')`;
      }
    };
    const arrival = keyOf(sql`d.dlq_at`);
    const shown =
      by === "hour" ? sql`to_char(key AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')` : sql`key::text COLLATE "C"`;
    const order = by === "hour" ? sql`key` : sql`sum(depth) DESC, sum(arrivals) DESC, sum(replays) DESC, key`;
    const hours =
      by === "hour"
        ? sql`
          UNION ALL
          SELECT hour, 0, NULL, 0, 0, NULL
          FROM (
            SELECT generate_series(date_trunc('hour', ${from}, 'UTC'), statement_timestamp(), interval '1 hour') AS hour
            LIMIT ${mostHours + 1}) hours`
        : sql``;
    const pending =
      by === "type" || by === "reason"
        ? sql`
          SELECT ${by === "type" ? sql`type` : sql`error_reason`} AS key, sum(count) AS depth, min(oldest) AS oldest
          FROM (${reach.kinds}) k
          GROUP BY 1`
        : sql`
          SELECT ${arrival} AS key, count(*) AS depth, min(d.dlq_at) AS oldest
          FROM ${reach.from} d
          WHERE ${reach.matches} ${by === "hour" ? sql`AND ${inWindow(sql`d.dlq_at`)}` : sql``}
          GROUP BY 1`;
    return sql`
      WITH ${reach.ctes} pending AS (${pending}),
      removed AS (
        SELECT DISTINCT ON (e.dlq_id) e.entry
        FROM job_dlq_events e
        WHERE e.kind IN ('discarded', 'expired') AND e.entry IS NOT NULL AND ${sinceWindow}
          AND NOT EXISTS (SELECT FROM job_dlq t WHERE t.id = e.dlq_id)
        ORDER BY e.dlq_id, e.id DESC),
      arrived AS (
        SELECT key, count(*) AS arrivals
        FROM (
          SELECT ${arrival} AS key FROM job_dlq d WHERE ${inWindow(sql`d.dlq_at`)} AND ${matches}
          UNION ALL
          SELECT ${arrival} FROM removed e CROSS JOIN LATERAL (${copyOf(sql)}) d WHERE ${inWindow(sql`d.dlq_at`)} AND ${matches}) a
        GROUP BY key),
      replayed AS (
        SELECT e.id, e.app_id, e.dlq_id, e.original_job_id, e.at,
          lead(e.id) OVER (PARTITION BY e.app_id, e.original_job_id ORDER BY e.id) AS next_id
        FROM job_dlq_events e
        WHERE e.kind = 'replayed' AND e.reason IS DISTINCT FROM ${replayedElsewhere} AND ${sinceWindow}),
      replays AS (
        SELECT ${keyOf(sql`r.at`)} AS key, r.*
        FROM replayed r JOIN job_dlq d ON d.id = r.dlq_id
        WHERE ${inWindow(sql`r.at`)} AND ${matches}
        UNION ALL
        SELECT ${keyOf(sql`r.at`)}, r.*
        FROM replayed r
        CROSS JOIN LATERAL (
          SELECT c.entry FROM job_dlq_events c
          WHERE c.dlq_id = r.dlq_id AND c.kind IN ('discarded', 'expired') AND c.entry IS NOT NULL
          ORDER BY c.id DESC
          LIMIT 1) e
        CROSS JOIN LATERAL (${copyOf(sql)}) d
        WHERE ${inWindow(sql`r.at`)} AND NOT EXISTS (SELECT FROM job_dlq t WHERE t.id = r.dlq_id) AND ${matches}),
      judged AS (
        SELECT r.key,
          CASE
            WHEN r.next_id IS NULL AND j.id IS NOT NULL THEN j.status
            WHEN EXISTS (
                SELECT FROM job_dlq n
                WHERE n.original_job_id = r.original_job_id AND n.app_id = r.app_id AND n.id > r.id
                  AND (r.next_id IS NULL OR n.id < r.next_id))
              OR EXISTS (
                SELECT FROM job_dlq_events n
                WHERE n.original_job_id = r.original_job_id AND n.app_id = r.app_id AND n.dlq_id > r.id
                  AND (r.next_id IS NULL OR n.dlq_id < r.next_id))
            THEN 'dead'
          END AS status
        FROM replays r LEFT JOIN jobs j ON j.id = r.original_job_id AND j.app_id = r.app_id)
      SELECT ${shown} AS key, sum(depth)::int AS depth, ${reach.isExact} AS is_exact,
        CASE WHEN min(oldest) IS NOT NULL
          THEN GREATEST(extract(epoch FROM statement_timestamp() - ${shownTime(sql, sql`min(oldest)`)}), 0)::float8
        END AS oldest_age_seconds,
        sum(arrivals)::int AS arrivals, sum(replays)::int AS replays,
        (count(*) FILTER (WHERE status = 'completed'))::int AS completed, (count(*) FILTER (WHERE status = 'dead'))::int AS dead_again
      FROM (
        SELECT key, depth, oldest, 0 AS arrivals, 0 AS replays, NULL AS status FROM pending
        UNION ALL
        SELECT key, 0, NULL, arrivals, 0, NULL FROM arrived
        UNION ALL
        SELECT key, 0, NULL, 0, 1, status FROM judged
        ${hours}) figures
      GROUP BY key
      ORDER BY ${order}
      LIMIT ${by === "hour" ? sql`${mostHours + 1}` : sql`ALL`}`;
  };

  /**
   * {@link JobDlqStat}: the figures by key, the deepest first; by hour in the order of time, and every hour of the window is there.
   * Keys for which there is nothing to count are not.
   */
  const stats = Effect.fn(operation)(function* (options: StatsOptions) {
    const { by, filter = {}, most, since } = options;
    if (!S.is(StatsKey)(by)) {
      const problem = `is ${show(by)}; it must be one of ${StatsKey.literals.join(", ")}`;
      return yield* new InvalidInput({ operation, field: "by", problem });
    }
    if (since !== undefined && !S.is(S.ValidDateFromSelf)(since)) {
      return yield* new InvalidInput({ operation, field: "since", problem: "is no valid Date" });
    }
    const checked = yield* checkFilter(operation, filter);
    if (checked.state !== undefined && checked.state !== "any") {
      const problem = `is ${checked.state}; leave it out, each figure says which state it counts`;
      return yield* new InvalidInput({ operation, field: "filter.state", problem });
    }
    const reach = yield* reachOf(sql, operation, { ...checked, state: "pending" }, most);
    const rows = yield* statement(by, checked, since, reach).pipe(refused(operation));
    if (by === "hour" && rows.length > mostHours) {
      const problem = `is more than ${mostHours.toLocaleString("en-US")} hours ago; by hour the window is not longer`;
      return yield* new InvalidInput({ operation, field: "since", problem });
    }
    const figures = yield* Effect.orDie(decodeRows(rows));
    return figures.map(({ completed, deadAgain, ...figure }) => {
      const ended = completed + deadAgain;
      return new JobDlqStat({ ...figure, replaySuccessRatio: ended === 0 ? null : completed / ended });
    });
  });

  return { stats };
});
