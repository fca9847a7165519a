/**
 * Retention: deletes what has been kept long enough, in batches, and leaves receipts.
 *
 * Contract: each batch is one transaction of its own under SKIP LOCKED, so it waits for nobody, may run twice at a time, and may
 * be stopped between two batches. A pending letter never goes without being asked for, and then it goes to the ledger, from
 * where `restore` brings it back.
 *
 * What a batch did is in the ledger with it: a receipt for each app, or a line for each expired letter. At its end, whatever ends
 * it, a run adds the receipt of the whole: in a tenant's scope that tenant's, in the system scope one without an app. A run that
 * was killed has none; the lines of its batches say what it did.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import * as Clock from "effect/Clock";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
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

/** What a run took of one kind of failure. */
export const RetentionGroup = S.Struct({
  /** The part of the policy. */
  source: S.Literal("replayed", "discarded", "pending"),
  /** Null for the copies of erased letters, which say neither. */
  type: S.NullOr(S.String),
  reason: S.NullOr(S.String),
  count: S.Int,
});
export type RetentionGroup = typeof RetentionGroup.Type;

/**
 * What a run did. The ledger keeps it as an event `purged` with `detail.source` `retain`; what each batch wrote has the same
 * `detail.run`.
 */
export class RetentionReceipt extends S.Class<RetentionReceipt>("RetentionReceipt")({
  run: S.UUID,
  actor: S.String,
  replayed: S.Int,
  /** Copies in the ledger, those of letters that had been restored or erased among them. */
  discarded: S.Int,
  pending: S.Int,
  /** By type and reason; adds up to the three counts. */
  groups: S.Array(RetentionGroup),
  /**
   * False when something is left that was past its age when the run began, because the budget ended before the work or somebody
   * else held it locked: call it again.
   */
  isComplete: S.Boolean,
}) {}

/** Pending dead letters that are about to expire. */
export class Expiring extends S.Class<Expiring>("Expiring")({
  count: S.Int,
  groups: S.Array(S.Struct({ type: S.String, reason: S.String, count: S.Int })),
}) {}

/** A run: its id, who it is for, and when it began, by the database's clock. */
interface Run {
  readonly run: string;
  readonly actor: string;
  readonly began: string;
}

type Rows = ReadonlyArray<object>;

/** One part of a policy. */
interface Step {
  readonly source: RetentionGroup["source"];
  readonly days: number;
  /** Takes a batch; returns what it took by type and reason, and how many it looked at, if that may be more. */
  readonly batch: (run: Run) => Effect.Effect<{ readonly looked: number | undefined; readonly rows: Rows }, SqlError>;
  /** One row, if anything past its age is still there. */
  readonly rest: (run: Run) => Effect.Effect<Rows, SqlError>;
}

export const makeRetention = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decodeRun = S.decodeUnknown(S.Tuple(S.Struct({ run: S.UUID, began: S.String })));
  const decodeTaken = S.decodeUnknown(S.Array(RetentionGroup.pick("type", "reason", "count")));
  const decodeGroups = S.decodeUnknown(Expiring.fields.groups);

  // Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
  const daysOf = (operation: string, field: string, days: number, least: number) =>
    wholeOf(operation, field, days, least, 1_000_000);
  /** What is older is past its age, for all batches of a run alike: what becomes old meanwhile is the next run's. */
  const before = ({ began }: Run, days: number) => sql`${began}::timestamptz - make_interval(days => ${days}::int)`;

  /** Receipts for a CTE `counted (app_id, type, reason, count)`: one for each app. */
  const receipts = ({ actor, run }: Run, source: string, days: number) => sql`
    INSERT INTO job_dlq_events (app_id, kind, actor, detail)
    SELECT app_id, 'purged', ${actor}, jsonb_build_object('source', ${source}::text, 'run', ${run}::text, 'older_than_days', ${days}::int,
      'count', sum(count)::int, 'groups', jsonb_agg(jsonb_build_object('type', type, 'reason', reason, 'count', count) ORDER BY type, reason))
    FROM counted GROUP BY app_id`;

  const oldReplayed = (run: Run, days: number) => sql`replayed_at < ${before(run, days)}`;
  const purgeReplayed = (run: Run, days: number, limit: number) => sql`
    WITH old AS MATERIALIZED (
      SELECT id FROM job_dlq WHERE ${oldReplayed(run, days)} ORDER BY replayed_at LIMIT ${limit} FOR UPDATE SKIP LOCKED),
    gone AS (
      DELETE FROM job_dlq d USING old WHERE d.id = old.id AND ${oldReplayed(run, days)}
      RETURNING d.app_id, d.type, d.error_reason),
    counted AS (
      SELECT app_id, type, error_reason AS reason, count(*)::int AS count FROM gone GROUP BY app_id, type, error_reason),
    receipts AS (${receipts(run, "replayed", days)})
    SELECT type, reason, sum(count)::int AS count FROM counted GROUP BY type, reason`;

  const oldPending = (run: Run, days: number) => sql`replayed_at IS NULL AND dlq_at < ${before(run, days)}`;
  const expirePending = (run: Run, days: number, limit: number) => sql`
    WITH old AS MATERIALIZED (
      SELECT id FROM job_dlq WHERE ${oldPending(run, days)} ORDER BY dlq_at LIMIT ${limit} FOR UPDATE SKIP LOCKED),
    gone AS (
      DELETE FROM job_dlq d USING old WHERE d.id = old.id AND d.replayed_at IS NULL
      RETURNING d.*),
    ledger AS (
      INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, reason, detail, entry)
      SELECT g.app_id, g.id, g.original_job_id, 'expired', ${run.actor}, 'pending for more than ' || ${days}::int || ' days',
        jsonb_build_object('run', ${run.run}::text), ${entryOf(sql, "g")}
      FROM gone g)
    SELECT type, error_reason AS reason, count(*)::int AS count FROM gone GROUP BY type, error_reason`;

  // With an event that was undone goes the one that undid it, so both must be old. A copy that was erased is counted as such.
  // Two statements: a restore that committed between the snapshot and the lock of one leaves no mark on the event, and a copy
  // that is back in the table would be counted as purged.
  const isUndoneLately = (run: Run, days: number) =>
    sql`EXISTS (SELECT FROM job_dlq_events u WHERE u.undoes = e.id AND u.at >= ${before(run, days)})`;
  const oldCopy = (run: Run, days: number) =>
    sql`e.kind IN ('discarded', 'expired') AND e.at < ${before(run, days)} AND NOT ${isUndoneLately(run, days)}`;
  const purgeDiscarded = (run: Run, days: number, limit: number) =>
    Effect.gen(function* () {
      const held = yield* sql`
        SELECT e.id FROM job_dlq_events e WHERE ${oldCopy(run, days)} ORDER BY e.at LIMIT ${limit} FOR UPDATE OF e SKIP LOCKED`;
      const ids = held.map(({ id }) => id);
      const rows = yield* sql`
        WITH declared AS MATERIALIZED (
          SELECT set_config('app.ledger_retention_days', ${String(days)}, true)),
        old AS MATERIALIZED (
          SELECT e.id FROM declared, job_dlq_events e WHERE e.id = ANY (${ids}::uuid[]) AND NOT ${isUndoneLately(run, days)}),
        undoing AS (
          DELETE FROM job_dlq_events u USING old WHERE u.undoes = old.id RETURNING u.undoes),
        gone AS (
          DELETE FROM job_dlq_events e USING old WHERE e.id = old.id
          RETURNING e.id, e.app_id, e.entry IS NOT NULL AS is_kept, e.entry ->> 'type' AS type, e.entry ->> 'error_reason' AS reason),
        counted AS (
          SELECT app_id, type, reason, count(*)::int AS count
          FROM gone WHERE is_kept AND id NOT IN (SELECT undoes FROM undoing)
          GROUP BY app_id, type, reason),
        receipts AS (${receipts(run, "discarded", days)})
        SELECT type, reason, count(*)::int AS count FROM gone GROUP BY type, reason`;
      return { looked: ids.length, rows };
    });

  /** Of a statement that takes all it looks at. */
  const inOne = <E, R>(statement: Effect.Effect<Rows, E, R>) =>
    Effect.map(statement, (rows) => ({ looked: undefined, rows }));

  /** The receipt of the whole run, as a line of the ledger. Its detail has no `count`: the lines of its batches have been counted. */
  const conclude = (receipt: RetentionReceipt, days: Readonly<Record<string, number>>) => {
    const { actor, discarded, groups, isComplete, pending, replayed, run } = receipt;
    const counts = { replayed, discarded, pending };
    const detail = { source: "retain", run, older_than_days: days, is_complete: isComplete, counts, groups };
    return sql`
      INSERT INTO job_dlq_events (app_id, kind, actor, detail)
      SELECT current_tenant(), 'purged', ${actor}, ${JSON.stringify(detail)}::jsonb`;
  };

  /**
   * Applies a policy: see the module, {@link RetentionPolicy} and {@link RetainOptions}. Interrupted, it ends with the batch that
   * it is at, and its receipt says that it is not complete.
   */
  const retain = Effect.fn("jobDlq.retain")(function* (policy: RetentionPolicy, options: RetainOptions) {
    const operation = "jobDlq.retain";
    const actor = yield* actorOf(operation, options.actor);
    const limit = yield* wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_000);
    const budget = yield* millisOf(operation, "budget", options.budget ?? "5 minutes");
    const steps: Array<Step> = [];
    if (policy.replayed !== undefined) {
      const days = yield* daysOf(operation, "replayed", policy.replayed, 0);
      steps.push({
        source: "replayed",
        days,
        batch: (run) => inOne(purgeReplayed(run, days, limit)),
        rest: (run) => sql`SELECT FROM job_dlq WHERE ${oldReplayed(run, days)} LIMIT 1`,
      });
    }
    if (policy.pending !== undefined) {
      const days = yield* daysOf(operation, "pending", policy.pending, 1);
      steps.push({
        source: "pending",
        days,
        batch: (run) => inOne(expirePending(run, days, limit)),
        rest: (run) => sql`SELECT FROM job_dlq WHERE ${oldPending(run, days)} LIMIT 1`,
      });
    }
    if (policy.discarded !== undefined) {
      const days = yield* daysOf(operation, "discarded", policy.discarded, 0);
      steps.push({
        source: "discarded",
        days,
        batch: (run) => purgeDiscarded(run, days, limit),
        rest: (run) => sql`SELECT FROM job_dlq_events e WHERE ${oldCopy(run, days)} LIMIT 1`,
      });
    }
    if (steps.length === 0) {
      const problem = "names nothing to retain; give days for replayed, discarded or pending";
      return yield* new InvalidInput({ operation, field: "policy", problem });
    }
    const inScope = within(sql, options.scope);
    const end = (yield* Clock.currentTimeMillis) + budget;
    // As JSON, which has the microseconds and goes by no setting of the session.
    const started = yield* inScope(sql`SELECT uuidv7() AS run, to_jsonb(now()) #>> '{}' AS began`);
    const [{ began, run }] = yield* Effect.orDie(decodeRun(started));
    const tally = new Map<string, RetentionGroup>();
    const add = (source: RetentionGroup["source"], taken: ReadonlyArray<Omit<RetentionGroup, "source">>) => {
      for (const { count, reason, type } of taken) {
        const key = JSON.stringify([source, type, reason]);
        tally.set(key, { source, type, reason, count: count + (tally.get(key)?.count ?? 0) });
      }
    };

    /** A batch, and whether the step is done with it and has left something. Not to be interrupted before it is counted. */
    const take = ({ batch, rest, source }: Step) =>
      inScope(
        Effect.gen(function* () {
          const { looked, rows } = yield* batch({ actor, began, run });
          const taken = yield* Effect.orDie(decodeTaken(rows));
          const isLast = (looked ?? taken.reduce((sum, { count }) => sum + count, 0)) < limit;
          const isLeft = isLast && (yield* rest({ actor, began, run })).length > 0;
          return { isLast, isLeft, taken };
        }),
      ).pipe(
        refused(operation),
        Effect.tap(({ taken }) => Effect.sync(() => add(source, taken))),
        Effect.uninterruptible,
      );
    const work = Effect.gen(function* () {
      let isComplete = true;
      for (const step of steps) {
        for (;;) {
          if ((yield* Clock.currentTimeMillis) >= end) return false;
          const { isLast, isLeft } = yield* take(step);
          if (isLeft) isComplete = false;
          if (isLast) break;
        }
      }
      return isComplete;
    });

    return yield* Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(restore(work));
        const groups = [...tally].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, group]) => group);
        const count = (source: RetentionGroup["source"]) =>
          groups.reduce((sum, group) => sum + (group.source === source ? group.count : 0), 0);
        const receipt = new RetentionReceipt({
          run,
          actor,
          replayed: count("replayed"),
          discarded: count("discarded"),
          pending: count("pending"),
          groups,
          isComplete: Exit.isSuccess(exit) && exit.value,
        });
        const days = Object.fromEntries(steps.map((step) => [step.source, step.days]));
        const written = inScope(conclude(receipt, days)).pipe(refused(operation));
        if (Exit.isSuccess(exit)) {
          yield* written;
          return receipt;
        }
        // What stopped the run is what the caller must hear of.
        yield* Effect.catchAllCause(written, (cause) =>
          Effect.logWarning(`The ledger has no receipt of the retention ${run}; the lines of its batches stand`, cause),
        );
        return yield* Effect.failCause(exit.cause);
      }),
    );
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
