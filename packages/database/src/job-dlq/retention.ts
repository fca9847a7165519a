/**
 * Retention: deletes what has been kept long enough, in batches, and leaves receipts.
 *
 * Contract: each batch is one transaction of its own under SKIP LOCKED, so it waits for nobody, may run twice at a time, and may
 * be stopped between two batches. A pending letter never goes without being asked for, and then it goes to the ledger, from
 * where `restore` brings it back.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Clock from "effect/Clock";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { actorOf, millisOf, wholeOf } from "../arguments.js";
import { InvalidInput } from "../errors.js";
import { refused } from "../refusal.js";
import { decodeCount } from "../rows.js";
import { type DataScope, within } from "../transaction.js";
import { entryOf } from "./ledger.js";

/** How long dead letters are kept, in days. What is left out is kept. */
export interface RetentionPolicy {
  /** Replayed ones, after their replay. 0 or more. */
  readonly replayed?: number | undefined;
  /** The copies of discarded and expired ones in the ledger, after that. 0 or more; the system scope only. */
  readonly discarded?: number | undefined;
  /** Pending ones, after they were dead-lettered: they expire, to the ledger. 1 or more. One that was restored expires again by its age. */
  readonly pending?: number | undefined;
}

export interface RetainOptions {
  readonly actor: string;
  /** Whose rows; each batch opens this scope. Default: the open one, and then all is one transaction. */
  readonly scope?: DataScope | undefined;
  /** Rows in one statement, 1 to 10,000. Default 1,000. */
  readonly batchSize?: number | undefined;
  /** No batch begins after this time. Default 5 minutes. */
  readonly budget?: Duration.DurationInput | undefined;
}

/** What a run did. The ledger has its receipts under `detail.run`. */
export class RetentionReceipt extends S.Class<RetentionReceipt>("RetentionReceipt")({
  run: S.UUID,
  replayed: S.Int,
  discarded: S.Int,
  pending: S.Int,
  /** False when the budget ended before the work: call it again. What somebody else held locked is left to the next run. */
  isComplete: S.Boolean,
}) {}

/** Pending dead letters that are about to expire. */
export class Expiring extends S.Class<Expiring>("Expiring")({
  count: S.Int,
  groups: S.Array(S.Struct({ type: S.String, reason: S.String, count: S.Int })),
}) {}

export const makeRetention = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decodeRun = S.decodeUnknown(S.Tuple(S.Struct({ run: S.UUID })));
  const decodeGroups = S.decodeUnknown(Expiring.fields.groups);

  // Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
  const daysOf = (operation: string, field: string, days: number, least: number) =>
    wholeOf(operation, field, days, least, 1_000_000);
  const ago = (days: number) => sql`now() - make_interval(days => ${days}::int)`;

  /** Receipts for a CTE `counted (app_id, type, reason, count)`: one for each app. */
  const receipts = (actor: string, run: string, source: string, days: number) => sql`
    INSERT INTO job_dlq_events (app_id, kind, actor, detail)
    SELECT app_id, 'purged', ${actor}, jsonb_build_object('source', ${source}::text, 'run', ${run}::text, 'older_than_days', ${days}::int,
      'count', sum(count)::int, 'groups', jsonb_agg(jsonb_build_object('type', type, 'reason', reason, 'count', count) ORDER BY type, reason))
    FROM counted GROUP BY app_id`;

  const purgeReplayed = (actor: string, run: string, days: number, limit: number) => sql`
    WITH old AS MATERIALIZED (
      SELECT id FROM job_dlq WHERE replayed_at < ${ago(days)} ORDER BY replayed_at LIMIT ${limit} FOR UPDATE SKIP LOCKED),
    gone AS (
      DELETE FROM job_dlq d USING old WHERE d.id = old.id AND d.replayed_at < ${ago(days)}
      RETURNING d.app_id, d.type, d.error_reason),
    counted AS (
      SELECT app_id, type, error_reason AS reason, count(*)::int AS count FROM gone GROUP BY app_id, type, error_reason),
    receipts AS (${receipts(actor, run, "replayed", days)})
    SELECT COALESCE(sum(count), 0)::int AS count FROM counted`;

  const expirePending = (actor: string, run: string, days: number, limit: number) => sql`
    WITH old AS MATERIALIZED (
      SELECT id FROM job_dlq WHERE replayed_at IS NULL AND dlq_at < ${ago(days)} ORDER BY dlq_at LIMIT ${limit} FOR UPDATE SKIP LOCKED),
    gone AS (
      DELETE FROM job_dlq d USING old WHERE d.id = old.id AND d.replayed_at IS NULL
      RETURNING d.*),
    ledger AS (
      INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, detail, entry)
      SELECT g.app_id, g.id, g.original_job_id, 'expired', ${actor}, 'pending for more than ' || ${days}::int || ' days',
        jsonb_build_object('run', ${run}::text), ${entryOf(sql, "g")}
      FROM gone g)
    SELECT count(*)::int AS count FROM gone`;

  // With an event that was undone goes the one that undid it, so both must be old. A copy that was erased is counted as such.
  // Two statements: a restore that committed between the snapshot and the lock of one leaves no mark on the event, and a copy
  // that is back in the table would be counted as purged.
  const purgeDiscarded = (actor: string, run: string, days: number, limit: number) =>
    Effect.gen(function* () {
      const isUndoneLately = sql`EXISTS (SELECT FROM job_dlq_events u WHERE u.undoes = e.id AND u.at >= ${ago(days)})`;
      const held = yield* sql`
        SELECT e.id FROM job_dlq_events e
        WHERE e.kind IN ('discarded', 'expired') AND e.at < ${ago(days)} AND NOT ${isUndoneLately}
        ORDER BY e.at LIMIT ${limit}
        FOR UPDATE OF e SKIP LOCKED`;
      const ids = held.map(({ id }) => id);
      const rows = yield* sql`
        WITH declared AS MATERIALIZED (
          SELECT set_config('app.ledger_retention_days', ${String(days)}, true)),
        old AS MATERIALIZED (
          SELECT e.id FROM declared, job_dlq_events e WHERE e.id = ANY (${ids}::uuid[]) AND NOT ${isUndoneLately}),
        undoing AS (
          DELETE FROM job_dlq_events u USING old WHERE u.undoes = old.id RETURNING u.undoes),
        gone AS (
          DELETE FROM job_dlq_events e USING old WHERE e.id = old.id RETURNING e.id, e.app_id, e.entry),
        counted AS (
          SELECT app_id, entry ->> 'type' AS type, entry ->> 'error_reason' AS reason, count(*)::int AS count
          FROM gone WHERE entry IS NOT NULL AND id NOT IN (SELECT undoes FROM undoing)
          GROUP BY app_id, entry ->> 'type', entry ->> 'error_reason'),
        receipts AS (${receipts(actor, run, "discarded", days)})
        SELECT (SELECT count(*) FROM gone)::int AS count`;
      return { looked: ids.length, count: yield* decodeCount(rows) };
    });

  /** Of a statement that does all it looks at. */
  const inOne = <E, R>(statement: Effect.Effect<ReadonlyArray<object>, E, R>) =>
    Effect.map(Effect.flatMap(statement, decodeCount), (count) => ({ looked: count, count }));

  /** Applies a policy: see the module, {@link RetentionPolicy} and {@link RetainOptions}. */
  const retain = Effect.fn("jobDlq.retain")(function* (policy: RetentionPolicy, options: RetainOptions) {
    const operation = "jobDlq.retain";
    const actor = yield* actorOf(operation, options.actor);
    const limit = yield* wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_000);
    const budget = yield* millisOf(operation, "budget", options.budget ?? "5 minutes");
    const steps: Array<
      readonly ["replayed" | "discarded" | "pending", (run: string) => ReturnType<typeof purgeDiscarded>]
    > = [];
    if (policy.replayed !== undefined) {
      const days = yield* daysOf(operation, "replayed", policy.replayed, 0);
      steps.push(["replayed", (run) => inOne(purgeReplayed(actor, run, days, limit))]);
    }
    if (policy.pending !== undefined) {
      const days = yield* daysOf(operation, "pending", policy.pending, 1);
      steps.push(["pending", (run) => inOne(expirePending(actor, run, days, limit))]);
    }
    if (policy.discarded !== undefined) {
      const days = yield* daysOf(operation, "discarded", policy.discarded, 0);
      steps.push(["discarded", (run) => purgeDiscarded(actor, run, days, limit)]);
    }
    if (steps.length === 0) {
      const problem = "names nothing to retain; give days for replayed, discarded or pending";
      return yield* new InvalidInput({ operation, field: "policy", problem });
    }
    const inScope = within(sql, options.scope);
    const end = (yield* Clock.currentTimeMillis) + budget;
    const [{ run }] = yield* Effect.orDie(Effect.flatMap(inScope(sql`SELECT uuidv7() AS run`), decodeRun));
    const done = { replayed: 0, discarded: 0, pending: 0 };
    for (const [what, batch] of steps) {
      for (;;) {
        if ((yield* Clock.currentTimeMillis) >= end) return new RetentionReceipt({ run, ...done, isComplete: false });
        const { count, looked } = yield* inScope(batch(run)).pipe(refused(operation));
        done[what] += count;
        if (looked < limit) break;
      }
    }
    return new RetentionReceipt({ run, ...done, isComplete: true });
  });

  /**
   * Pending dead letters that a retention of `pending` days would take within the next `withinDays` days (0: that it would take
   * now), by type and reason. A warning ahead of time.
   */
  const expiring = Effect.fn("jobDlq.expiring")(function* (withinDays: number, policy: { readonly pending: number }) {
    const operation = "jobDlq.expiring";
    const within = yield* daysOf(operation, "withinDays", withinDays, 0);
    const days = yield* daysOf(operation, "pending", policy.pending, 1);
    const rows = yield* sql`
      SELECT type, error_reason AS reason, count(*)::int AS count FROM job_dlq
      WHERE replayed_at IS NULL AND dlq_at < now() - make_interval(days => ${days}::int) + make_interval(days => ${within}::int)
      GROUP BY type, error_reason
      ORDER BY count DESC, type, reason`.pipe(refused(operation));
    const groups = yield* Effect.orDie(decodeGroups(rows));
    return new Expiring({ count: groups.reduce((sum, { count }) => sum + count, 0), groups });
  });

  /**
   * Deletes dead letters that were replayed longer ago than so many days (default 30, 0 or more), all in one statement; returns
   * how many. The receipt names `actor`, or the login when none is given. For a large table prefer `retain`.
   */
  const purge = Effect.fn("jobDlq.purge")(function* (
    olderThanDays: number | undefined = 30,
    options: { readonly actor?: string | undefined } = {},
  ) {
    const operation = "jobDlq.purge";
    const days = yield* wholeOf(operation, "olderThanDays", olderThanDays, 0, 2_147_483_647);
    const actor = options.actor === undefined ? "" : yield* actorOf(operation, options.actor);
    const rows = yield* sql`
      WITH acting AS MATERIALIZED (SELECT set_config('app.actor', ${actor}, true))
      SELECT purge_job_dlq(${days}::int) AS count FROM acting`.pipe(refused(operation));
    return yield* decodeCount(rows);
  });

  return { retain, expiring, purge };
});
