/**
 * The jobs in PostgreSQL: every statement of the runners and of those who submit.
 *
 * A runner has a pool of its own whose connections are `parametric_system` from the start: its statements need no transaction
 * of their own, and handlers cannot take its connections. Callers use theirs, inside their scope.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import * as PgClient from "@effect/sql-pg/PgClient";
import * as Client from "@parametric-portal/database/client";
import { listen } from "@parametric-portal/database/job-dlq/listener";
import { JobStatus } from "@parametric-portal/database/models";
import { refused, refusedWrite } from "@parametric-portal/database/refusal";
import { DatabaseService } from "@parametric-portal/database/repos";
import { classify } from "@parametric-portal/database/sql-state";
import { tenantLazily, tenantOnce } from "@parametric-portal/database/transaction";
import * as Arr from "effect/Array";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Order from "effect/Order";
import * as S from "effect/Schema";
import {
  type Claim,
  type Claimed,
  type ClaimOptions,
  type Failure,
  FenceLost,
  type Held,
  JobDesk,
  type JobState,
  JobStore,
  type Submission,
  type Submitted,
} from "./job-store.js";
import {
  claimStatement,
  completed,
  completeStatement,
  dueStatement,
  extendStatement,
  failStatement,
  holdingStatement,
  lockedStatement,
  reportStatement,
  suspectStatement,
  tenantsInClaim,
} from "./statements.js";

// --- callers -----------------------------------------------------------------

const decodeSubmitted = S.decodeUnknown(
  S.Array(S.Struct({ id: S.String, isFresh: S.Boolean, existing: S.NullOr(S.String) })),
);

const decodeStates = S.decodeUnknown(
  S.Array(
    S.Struct({
      jobId: S.String,
      appId: S.String,
      type: S.String,
      status: JobStatus,
      attempts: S.Int,
      maxAttempts: S.Int,
      replays: S.Int,
      progress: S.NullOr(S.parseJson()),
      scheduledAt: S.DateFromSelf,
      startedAt: S.NullOr(S.DateFromSelf),
      completedAt: S.NullOr(S.DateFromSelf),
      lastError: S.NullOr(S.String),
    }),
  ),
);

const decodeCancelled = S.decodeUnknown(S.Array(S.Struct({ status: JobStatus, isEnded: S.Boolean })));

/** Jobs in one statement. Several statements are in the transaction of the scope. */
const submissionsAtATime = 10_000;

const keyOf = ({ appId, dedupeKey, type }: Submission) => JSON.stringify([appId, type, dedupeKey]);

/** On the client in the context. */
export const layerDesk: Layer.Layer<JobDesk, never, SqlClient.SqlClient> = Layer.effect(
  JobDesk,
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;

    // The jobs whose key is taken are left out by the unique index. Who has it is looked up in the same statement, and once more by
    // another one when that is a transaction which committed since: its row is too new for the first.
    const insert = (jobs: ReadonlyArray<Submission>) =>
      sql`
        WITH asked AS MATERIALIZED (
          SELECT uuidv7() AS id, t.* FROM unnest(
            ${jobs.map((_) => _.appId)}::uuid[], ${jobs.map((_) => _.userId)}::uuid[], ${jobs.map((_) => _.requestId)}::uuid[],
            ${jobs.map((_) => _.type)}::text[], ${jobs.map((_) => _.payload)}::text[], ${jobs.map((_) => _.priority)}::job_priority[],
            ${jobs.map((_) => _.maxAttempts)}::int[], ${jobs.map((_) => _.delayMillis)}::float8[],
            ${jobs.map((_) => _.dedupeKey)}::text[]
          ) WITH ORDINALITY AS t (app_id, user_id, request_id, type, payload, priority, max_attempts, delay, dedupe_key, place)),
        inserted AS (
          INSERT INTO jobs (id, app_id, user_id, request_id, type, payload, priority, max_attempts, scheduled_at, dedupe_key)
          SELECT id, app_id, user_id, request_id, type, payload::jsonb, priority, max_attempts,
            now() + delay * interval '1 millisecond', dedupe_key
          FROM asked
          ORDER BY place
          ON CONFLICT (app_id, type, dedupe_key) WHERE dedupe_key IS NOT NULL AND status IN ('pending', 'processing') DO NOTHING
          RETURNING id)
        SELECT a.id, a.dedupe_key IS NULL OR a.id IN (SELECT id FROM inserted) AS is_fresh,
          CASE WHEN a.dedupe_key IS NOT NULL THEN (
            SELECT j.id FROM jobs j
            WHERE j.app_id = a.app_id AND j.type = a.type AND j.dedupe_key = a.dedupe_key AND j.status IN ('pending', 'processing'))
          END AS existing
        FROM asked a
        ORDER BY a.place`.pipe(
        refusedWrite("Jobs.submit", new Set(jobs.map((_) => _.appId))),
        Effect.flatMap((_) => Effect.orDie(decodeSubmitted(_))),
      );

    const submitAll = (jobs: ReadonlyArray<Submission>) =>
      Effect.gen(function* () {
        const results: Array<Submitted | undefined> = [];
        let open = jobs.map((_, place) => place);
        while (open.length > 0) {
          const turn = open.slice(0, submissionsAtATime);
          const rows = yield* insert(turn.flatMap((place) => jobs[place] ?? []));
          const holders = new Map<string, string>();
          for (const [i, place] of turn.entries()) {
            const row = rows[i];
            const job = jobs[place];
            if (row?.isFresh === true && job?.dedupeKey != null) holders.set(keyOf(job), row.id);
          }
          const left: Array<number> = [];
          for (const [i, place] of turn.entries()) {
            const row = rows[i];
            const job = jobs[place];
            if (row === undefined || job === undefined) continue;
            const existing = row.existing ?? holders.get(keyOf(job));
            if (row.isFresh) results[place] = { jobId: row.id, isDuplicate: false };
            else if (existing !== undefined) results[place] = { jobId: existing, isDuplicate: true };
            // Its holder is too new to be seen, or has ended since.
            else left.push(place);
          }
          open = [...left, ...open.slice(submissionsAtATime)];
        }
        return results.flatMap((_) => _ ?? []);
      });

    const inScope =
      (jobs: ReadonlyArray<Submission>) =>
      <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.gen(function* () {
          const apps = new Set(jobs.map((_) => _.appId));
          const [first] = apps;
          const scope = yield* Client.currentScope;
          if (Option.isSome(scope) || first === undefined || apps.size > 1) return yield* effect;
          // Without a key to compare with, these are one statement.
          const isOne = jobs.length <= submissionsAtATime && jobs.every((_) => _.dedupeKey === null);
          return yield* (isOne ? Client.tenantEach : Client.tenant)(first)(effect);
        });

    return {
      submit: (jobs) =>
        submitAll(jobs).pipe(
          inScope(jobs),
          Effect.provideService(SqlClient.SqlClient, sql),
          // A scope that is none is opened, so it cannot be in conflict.
          Effect.catchTag("ScopeConflict", Effect.die),
        ),

      state: (jobId) =>
        sql`
          SELECT id AS job_id, app_id, type, status, attempts, max_attempts, replays, progress, scheduled_at, started_at,
            completed_at, error_history -> -1 ->> 'error' AS last_error
          FROM jobs WHERE id = ${jobId}`.pipe(
          refused("Jobs.status"),
          Effect.flatMap((_) => Effect.orDie(decodeStates(_))),
          Effect.map((states) => Arr.head(states) satisfies Option.Option<JobState>),
        ),

      cancel: (jobId) =>
        sql`
          WITH held AS MATERIALIZED (
            SELECT id, status FROM jobs WHERE id = ${jobId} FOR UPDATE),
          cancelled AS (
            UPDATE jobs j
            SET status = 'cancelled', completed_at = now(), locked_by = NULL, locked_until = NULL, fence = nextval('job_fence')
            FROM held
            WHERE j.id = held.id AND held.status IN ('pending', 'processing')
            RETURNING j.partition),
          told AS (SELECT pg_notify('jobs', 'cancelled ' || partition) FROM cancelled)
          SELECT status, NOT EXISTS (SELECT FROM cancelled) AS is_ended, (SELECT count(*) FROM told) AS told FROM held`.pipe(
          refused("Jobs.cancel"),
          Effect.flatMap((_) => Effect.orDie(decodeCancelled(_))),
          Effect.map((rows) => Option.map(Arr.head(rows), ({ status }) => status)),
        ),
    };
  }),
);

// --- runners -----------------------------------------------------------------

/** The client of the runner's own pool. */
export class EngineClient extends Context.Tag("@parametric-portal/jobs/EngineClient")<
  EngineClient,
  PgClient.PgClient
>() {}

/** A pool of the runner's own, in the system role from the start. `maxConnections` default 4. */
export const layerEngine = (options: Client.Options): Layer.Layer<EngineClient, SqlError> =>
  Layer.effect(EngineClient, PgClient.PgClient).pipe(
    Layer.provide(
      Client.layer({
        applicationName: "parametric-portal runner",
        maxConnections: 4,
        ...options,
        role: "parametric_system",
      }),
    ),
  );

const ClaimedRow = S.Struct({
  id: S.String,
  fence: S.String,
  app_id: S.String,
  type: S.String,
  payload: S.String,
  attempts: S.Number,
  max_attempts: S.Number,
  replays: S.Number,
  request_id: S.NullOr(S.String),
  user_id: S.NullOr(S.String),
  partition: S.Number,
  waited: S.Number,
});
const isClaimed = S.is(ClaimedRow);
const isTurns = S.is(S.Struct({ id: S.Null, payload: S.String }));
const decodeTurns = S.decodeUnknown(S.parseJson(S.Array(S.Struct({ partition: S.Int, after: S.String }))));

const claimedOf = (row: typeof ClaimedRow.Type): Claimed => ({
  id: row.id,
  fence: row.fence,
  appId: row.app_id,
  type: row.type,
  payload: row.payload,
  attempts: row.attempts,
  maxAttempts: row.max_attempts,
  replays: row.replays,
  requestId: row.request_id,
  userId: row.user_id,
  partition: row.partition,
  waitedMillis: row.waited,
});

const decodeCount = S.decodeUnknown(S.Tuple(S.Struct({ count: S.Int })));
const byId = Order.mapInput(Order.string, ({ id }: Held) => id);
const decodeFences = S.decodeUnknown(S.Array(S.Struct({ fence: S.String })));
const decodeIds = S.decodeUnknown(S.Array(S.Struct({ id: S.String })));
const decodeDue = S.decodeUnknown(S.Array(S.Struct({ partition: S.Int, due: S.Boolean, suspect: S.Boolean })));

const countOf = (rows: ReadonlyArray<unknown>) => Effect.orDie(Effect.map(decodeCount(rows), ([{ count }]) => count));

/**
 * How long the server waits for the COMMIT that follows a transactional job's settlement. A runner that is frozen, or cut off, right
 * there would hold the job's row as long as its connection lives, and nobody could rescue the job.
 */
const commitMillis = "5000";

const noTenant = "00000000-0000-0000-0000-000000000000";

const noticeOf = (on: Parameters<(typeof JobStore)["Service"]["listen"]>[0]) => (payload?: string) => {
  if (payload === undefined) return on.due();
  const cancelled = /^cancelled (\d+)$/.exec(payload);
  if (cancelled !== null) return on.cancelled(Number(cancelled[1]));
  return on.due(payload.split(",").map(Number));
};

/**
 * The repositories on the runner's own pool, in the system role. Fresh: a layer is built once, and who has built the service on the
 * application's client, as the command does, would give the runner that one, which may do nothing outside a scope.
 */
export const layerDatabase: Layer.Layer<DatabaseService, never, EngineClient> = Layer.fresh(DatabaseService.layer).pipe(
  Layer.provide(
    Layer.effectContext(
      Effect.map(EngineClient, (engine) =>
        Context.make(PgClient.PgClient, engine).pipe(Context.add(SqlClient.SqlClient, engine as SqlClient.SqlClient)),
      ),
    ),
  ),
);

/** On the runner's own pool; what handlers do goes through the client in the context. */
export const layer: Layer.Layer<JobStore, never, EngineClient | SqlClient.SqlClient> = Layer.effect(
  JobStore,
  Effect.gen(function* () {
    const engine = yield* EngineClient;
    const app = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    // Outside whatever the fiber is in: these are the runner's own, on its own pool.
    const run = (
      statement: string,
      parameters: ReadonlyArray<unknown>,
    ): Effect.Effect<ReadonlyArray<unknown>, SqlError> =>
      Client.outside(engine.unsafe(statement, parameters as never).withoutTransform);
    const held = (rows: ReadonlyArray<Held>) => [rows.map((_) => _.id), rows.map((_) => _.fence)];

    /**
     * Writes about jobs, in the order of their ids, so that two statements which want the same rows do not wait for each other. What
     * somebody else holds for long (a transaction that cancelled the job and goes on) is left out instead of waited for.
     */
    const aroundLocks = <J extends Held, A>(
      jobs: ReadonlyArray<J>,
      write: (jobs: ReadonlyArray<J>) => Effect.Effect<A, SqlError>,
    ): Effect.Effect<{ readonly value: A | undefined; readonly locked: ReadonlyArray<string> }, SqlError> => {
      const sorted = Arr.sort(jobs, byId);
      return write(sorted).pipe(
        Effect.map((value) => ({ value, locked: [] })),
        Effect.catchIf(
          (error) => classify(error) === "LockNotAvailable",
          () =>
            Effect.gen(function* () {
              const rows = yield* run(lockedStatement, [sorted.map((_) => _.id)]);
              const ids = new Set((yield* Effect.orDie(decodeIds(rows))).map(({ id }) => id));
              const [free, locked] = Arr.partition(sorted, ({ id }) => ids.has(id));
              return {
                value: free.length === 0 ? undefined : yield* write(free),
                locked: locked.map(({ fence }) => fence),
              };
            }),
        ),
      );
    };
    const settlement = ({
      locked,
      value = 0,
    }: {
      readonly value: number | undefined;
      readonly locked: ReadonlyArray<string>;
    }) => ({ count: value, locked });

    const claim = ({
      draw,
      isByAge,
      leaseMillis,
      limit,
      runner,
      turns,
    }: ClaimOptions): Effect.Effect<Claim, SqlError> =>
      Effect.gen(function* () {
        const perPartition = Math.max(1, Math.ceil(tenantsInClaim / turns.length));
        const rows = yield* run(claimStatement, [
          turns.map((_) => _.partition),
          turns.map(({ after }) => (after === "" ? noTenant : after)),
          perPartition,
          limit,
          runner,
          leaseMillis,
          isByAge,
          draw,
        ]);
        const jobs: Array<Claimed> = [];
        // All rows of an answer have the same columns, so one of them tells whether they are what the runner expects.
        const [first, ...claimed] = rows;
        if (!isTurns(first) || (claimed.length > 0 && !isClaimed(claimed[0]))) {
          return yield* Effect.dieMessage("a claimed job is not what the runner expects: is the schema newer?");
        }
        const next = yield* Effect.orDie(decodeTurns(first.payload));
        for (const row of claimed as ReadonlyArray<typeof ClaimedRow.Type>) jobs.push(claimedOf(row));
        return { jobs, turns: next };
      });

    return {
      claim,

      claimSuspect: ({ leaseMillis, partitions, runner }) =>
        Effect.map(run(suspectStatement, [partitions, runner, leaseMillis]), (rows) =>
          Option.map(Arr.head(rows.filter(isClaimed)), claimedOf),
        ),

      complete: (done) =>
        Effect.map(
          aroundLocks(done, (free) => Effect.flatMap(run(completeStatement, held(free)), countOf)),
          settlement,
        ),

      fail: (failures: ReadonlyArray<Failure>) =>
        Effect.map(
          aroundLocks(failures, (free) =>
            Effect.flatMap(
              run(failStatement, [
                ...held(free),
                free.map((_) => _.outcome),
                free.map((_) => _.reason),
                free.map((_) => _.error),
                free.map((_) => _.delayMillis),
              ]),
              countOf,
            ),
          ),
          settlement,
        ),

      extend: (jobs, leaseMillis) =>
        Effect.map(
          aroundLocks(jobs, (free) =>
            Effect.flatMap(run(extendStatement, [...held(free), leaseMillis]), (rows) =>
              Effect.orDie(Effect.map(decodeFences(rows), (all) => all.map(({ fence }) => fence))),
            ),
          ),
          ({ locked, value = [] }) => [...value, ...locked],
        ),

      report: (reports) =>
        Effect.asVoid(
          aroundLocks(reports, (free) => run(reportStatement, [...held(free), free.map(({ progress }) => progress)])),
        ),

      due: (partitions) =>
        Effect.flatMap(run(dueStatement, [partitions]), (rows) =>
          Effect.orDie(
            Effect.map(decodeDue(rows), (all) => ({
              due: all.filter((_) => _.due).map((_) => _.partition),
              suspects: all.filter((_) => _.suspect).map((_) => _.partition),
            })),
          ),
        ),

      rescue: (graceMillis) =>
        db.jobs.rescue({ limit: 1000, grace: graceMillis }).pipe(
          // The runner's own role and a limit of its own: either would be a mistake of this program.
          Effect.catchTags({ AccessDenied: Effect.die, InvalidInput: Effect.die }),
        ),

      listen: (on) =>
        Effect.asVoid(listen(engine.config, { channel: "jobs", heartbeat: Duration.seconds(15), wake: noticeOf(on) })),

      tenantContext: (appId) =>
        Context.make(SqlClient.TransactionConnection, tenantLazily(app, appId)) as unknown as Context.Context<never>,

      inTransaction: (job, run_) => {
        const settle = Effect.flatMap(
          app.unsafe(
            `WITH settled AS (${completed} WHERE id = $1 AND fence = $2::bigint AND status = 'processing' RETURNING 1)
             SELECT count(*)::int AS count, set_config('idle_in_transaction_session_timeout', $3, true) FROM settled`,
            [job.id, job.fence, commitMillis],
          ),
          countOf,
        );
        // Where the others still see the run as it was, it is the handler itself that ended its job, and what it wrote belongs to that.
        const isOwnDoing = Effect.map(run(holdingStatement, [job.id, job.fence]), (rows) => rows.length === 1);
        return tenantOnce(
          app,
          job.appId,
          settle.pipe(
            Effect.flatMap((count) => (count === 1 ? Effect.succeed(true) : isOwnDoing)),
            Effect.filterOrFail(
              (isOurs) => isOurs,
              () => new FenceLost(),
            ),
          ),
        )(run_).pipe(Effect.map(({ isCommitted }) => isCommitted));
      },
    };
  }),
).pipe(Layer.provide(layerDatabase));
