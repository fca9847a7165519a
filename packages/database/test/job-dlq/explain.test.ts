import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { arrivals } from "../../src/job-dlq/changes.js";
import { DatabaseService } from "../../src/repos.js";
import { TestDatabase } from "../support/database.js";
import { statementsOf } from "../support/statements.js";
import { undone } from "../support/undone.js";

/** What a call may ask for: ids of rows that there are. */
interface Samples {
  /** Half of all dead letters. */
  readonly large: string;
  /** A few thousand. */
  /** 2,400, all of them older than everybody else's. */
  readonly quiet: string;
  /** Of `large`, as are the following ones. */
  readonly job: string;
  readonly fingerprint: string;
  readonly user: string;
  readonly discarded: string;
  readonly restorable: string;
  /** A transaction near the end. */
  readonly arrived: string;
}
class Filled extends Context.Tag("Filled")<Filled, Samples>() {}

const total = 120_000;
const batches = 12;
const decodeSamples = S.decodeUnknownSync(
  S.Struct({
    large: S.String,
    quiet: S.String,
    job: S.String,
    fingerprint: S.String,
    user: S.String,
    discarded: S.String,
    restorable: S.String,
    arrived: S.String,
  }),
);

/** 120,000 dead letters of 200 tenants over 59 days, as many jobs, and a ledger of 62,000 lines; vacuumed and analyzed. */
const fill = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql`INSERT INTO apps (name) SELECT 'tenant ' || lpad(i::text, 3, '0') FROM generate_series(1, 200) i`;
  // The first tenant has every second row, the last one the oldest 2,400; the others share the rest by the cube of a spread number.
  // Several transactions, so that there is an order of arrival; the last one brings 1,200 rows.
  for (let batch = 0; batch < batches; batch++) {
    yield* sql`
      WITH numbered AS (SELECT id, row_number() OVER (ORDER BY name) AS place FROM apps),
      rows AS (
        SELECT i, now() - (${total}::int - i) * interval '42.6 seconds' AS at, CASE
          WHEN i <= 2400 THEN 200
          WHEN i % 2 = 0 THEN 1
          ELSE 2 + floor(198 * power(((i::bigint * 7919) % 100003) / 100003.0, 3))::int END AS place
        FROM generate_series(1, ${total}::int) i
        WHERE LEAST(i % 400 / 36, ${batches - 1}::int) = ${batch}::int),
      jobs AS (
        INSERT INTO jobs (id, app_id, user_id, type, payload, status, completed_at, replays)
        SELECT md5('job ' || i)::uuid, n.id, CASE WHEN i % 3 = 0 THEN md5('user ' || i % 9001)::uuid END, 'type ' || i % 40,
          jsonb_build_object('text', repeat('x', 100)), 'dead', at, CASE WHEN i % 3 = 1 THEN 1 ELSE 0 END
        FROM rows JOIN numbered n USING (place))
      INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at,
        request_id, user_id)
      SELECT uuidv7(at - now()), md5('job ' || i)::uuid, n.id, CASE WHEN i % 5000 = 2 THEN 'rare' ELSE 'type ' || i % 40 END,
        jsonb_build_object('number', i, 'text', repeat('x', 200)), CASE WHEN i % 4 = 0 THEN 'Validation' ELSE 'MaxRetries' END, 3,
        jsonb_build_array(jsonb_build_object('error', 'step ' || chr(97 + i % 7) || ' of order ' || i || ' failed', 'timestamp', 1)),
        at, CASE WHEN i BETWEEN 201 AND 2400 OR i % 3 = 1 THEN at + interval '1 hour' END, md5('request ' || i)::uuid,
        CASE WHEN i % 3 = 0 THEN md5('user ' || i % 9001)::uuid END
      FROM rows JOIN numbered n USING (place)`;
  }
  yield* sql`
    INSERT INTO job_dlq_events (id, app_id, dlq_id, original_job_id, kind, actor, detail, at)
    SELECT uuidv7(replayed_at - now()), app_id, id, original_job_id, 'replayed', 'ann',
      CASE WHEN user_id IS NOT NULL THEN jsonb_build_object('user_id', user_id) END, replayed_at
    FROM job_dlq WHERE replayed_at IS NOT NULL ORDER BY replayed_at`;
  // As many discarded ones as half of the replayed, made from letters that stay: copies under other ids.
  yield* sql`
    INSERT INTO job_dlq_events (id, app_id, dlq_id, original_job_id, kind, actor, reason, entry, at)
    SELECT uuidv7(dlq_at + interval '2 hours' - now()), app_id, md5('gone ' || id)::uuid, md5('gone ' || original_job_id)::uuid,
      'discarded', 'ann', 'x', to_jsonb(d) - 'fingerprint' - 'arrived' || jsonb_build_object('id', md5('gone ' || id)), dlq_at + interval '2 hours'
    FROM job_dlq d WHERE replayed_at IS NULL AND (payload ->> 'number')::int % 4 < 2 ORDER BY dlq_at LIMIT 20000`;
  yield* sql`
    INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor, undoes, at)
    SELECT app_id, dlq_id, original_job_id, 'restored', 'ann', id, at + interval '1 hour'
    FROM job_dlq_events WHERE kind = 'discarded' ORDER BY at LIMIT 2000`;
  for (const table of ["apps", "jobs", "job_dlq", "job_dlq_events"]) yield* sql`VACUUM ANALYZE ${sql(table)}`;
  const [samples] = yield* sql`
    WITH tenants AS (SELECT app_id, count(*) AS letters, max(dlq_at) AS newest FROM job_dlq GROUP BY app_id),
    large AS (SELECT app_id FROM tenants ORDER BY letters DESC LIMIT 1),
    quiet AS (SELECT app_id FROM tenants ORDER BY newest LIMIT 1),
    one AS (
      SELECT * FROM job_dlq JOIN large USING (app_id)
      WHERE replayed_at IS NULL AND user_id IS NOT NULL ORDER BY dlq_at DESC OFFSET 500 LIMIT 1),
    gone AS (
      SELECT e.* FROM job_dlq_events e JOIN large USING (app_id) WHERE kind = 'discarded' ORDER BY at DESC OFFSET 500 LIMIT 1)
    SELECT (SELECT app_id FROM large) AS large, (SELECT app_id FROM quiet) AS quiet,
      one.original_job_id AS job, one.fingerprint, one.user_id AS user, gone.dlq_id AS discarded,
      gone.id AS restorable, (SELECT max(arrived)::text FROM job_dlq) AS arrived
    FROM one, gone`;
  return decodeSamples(samples);
});

const FilledDatabase = Layer.effect(Filled, fill).pipe(Layer.provideMerge(TestDatabase));

const PlanNode = S.Struct({
  "Index Name": S.optional(S.String),
  Plans: S.optional(S.Array(S.suspend((): S.Schema<PlanNode> => PlanNode))),
});
interface PlanNode {
  readonly "Index Name"?: string | undefined;
  readonly Plans?: ReadonlyArray<PlanNode> | undefined;
}
const decodePlan = S.decodeUnknownSync(
  S.Tuple(S.Record({ key: S.String, value: S.parseJson(S.Tuple(S.Struct({ Plan: PlanNode }))) })),
);
const nodesOf = (node: PlanNode): ReadonlyArray<PlanNode> => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

type Use = Effect.Effect<unknown, unknown, DatabaseService | SqlClient.SqlClient>;
interface Case {
  readonly name: string;
  /** Whose scope; "system" for every tenant's. */
  readonly scope: (samples: Samples) => string;
  readonly call: (samples: Samples) => Use;
  /** The statement is inside a function of the database, and its plan cannot be asked for. */
  readonly isHidden?: boolean;
}

const call =
  (use: (db: DatabaseService, samples: Samples) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>) =>
  (samples: Samples) =>
    Effect.flatMap(DatabaseService, (db) => use(db, samples));
const large = (samples: Samples) => samples.large;
const system = () => "system";
const actor = "test";

/** What each index of the migrations after 0002 is there for. */
const cases: Readonly<Record<string, ReadonlyArray<Case>>> = {
  idx_job_dlq_pending: [
    {
      name: "listPending, a tenant whose newer letters were replayed",
      scope: (_) => _.quiet,
      call: call((db) => db.jobDlq.listPending()),
    },
  ],
  idx_job_dlq_newest: [
    { name: "listPending, of every tenant", scope: system, call: call((db) => db.jobDlq.listPending()) },
  ],
  idx_job_dlq_app: [
    {
      name: "a page of every state",
      scope: (_) => _.quiet,
      call: call((db) => db.jobDlq.page({ state: "any" })),
    },
  ],
  idx_job_dlq_pending_type: [
    { name: "page of a type", scope: large, call: call((db) => db.jobDlq.page({ type: "rare" })) },
    { name: "page of a prefix", scope: large, call: call((db) => db.jobDlq.page({ type: { prefix: "rar" } })) },
    {
      name: "listPending of a type, of every tenant",
      scope: system,
      call: call((db) => db.jobDlq.listPending({ type: "rare" })),
    },
    {
      name: "replay of a type",
      scope: large,
      call: call((db) => Stream.runDrain(db.jobDlq.replay({ type: "rare" }, { actor }))),
    },
  ],
  // It serves groups too, by an index-only scan, as far as the table is vacuumed: that is not for a test to count on.
  idx_job_dlq_pending_fingerprint: [
    {
      name: "preview of a fingerprint",
      scope: large,
      call: call((db, { fingerprint }) => db.jobDlq.preview({ fingerprint })),
    },
  ],
  idx_job_dlq_original_job: [
    { name: "history", scope: large, call: call((db, { job }) => db.jobDlq.history(job)) },
    { name: "preview of a job", scope: large, call: call((db, { job }) => db.jobDlq.preview({ originalJobId: job })) },
  ],
  idx_job_dlq_replayed: [
    { name: "purge", scope: system, isHidden: true, call: call((db) => db.jobDlq.purge(59)) },
    { name: "retain", scope: system, call: call((db) => db.jobDlq.retain({ replayed: 59 }, { actor })) },
  ],
  idx_job_dlq_arrived: [
    {
      name: "changes",
      scope: large,
      call: ({ arrived }) =>
        Effect.flatMap(SqlClient.SqlClient, (sql) =>
          arrivals(sql, { arrived, id: "00000000-0000-0000-0000-000000000000", start: "" }, 1_000),
        ),
    },
  ],
  idx_job_dlq_user: [
    {
      name: "preview of a user",
      scope: large,
      call: call((db, { user: userId }) => db.jobDlq.preview({ userId, state: "any" })),
    },
    { name: "erase", scope: large, call: call((db, { user: userId }) => db.jobDlq.erase({ userId }, { actor })) },
  ],
  idx_jobs_user: [
    { name: "erase", scope: large, call: call((db, { user: userId }) => db.jobDlq.erase({ userId }, { actor })) },
  ],
  idx_job_dlq_events_app: [{ name: "events", scope: (_) => _.quiet, call: call((db) => db.jobDlq.events()) }],
  idx_job_dlq_events_dlq_id: [
    { name: "outcome", scope: large, call: call((db, { discarded }) => db.jobDlq.outcome(discarded)) },
    {
      name: "discard of what is gone",
      scope: large,
      call: call((db, { discarded }) => db.jobDlq.discard([discarded], { actor, reason: "x" })),
    },
  ],
  idx_job_dlq_events_job: [{ name: "history", scope: large, call: call((db, { job }) => db.jobDlq.history(job)) }],
  idx_job_dlq_events_removed: [
    { name: "retain", scope: system, call: call((db) => db.jobDlq.retain({ discarded: 59 }, { actor })) },
  ],
  idx_job_dlq_events_undoes: [
    { name: "restore", scope: large, call: call((db, { restorable }) => db.jobDlq.restore([restorable], { actor })) },
  ],
  idx_job_dlq_events_user: [
    { name: "erase", scope: large, call: call((db, { user: userId }) => db.jobDlq.erase({ userId }, { actor })) },
  ],
};

layer(FilledDatabase, { excludeTestServices: true, timeout: "5 minutes" })("at 120,000 dead letters", (it) => {
  const inScope = (scope: string) => (use: Use) =>
    scope === "system" ? Client.system(use) : Client.tenant(scope)(use);

  /**
   * Runs a call in its scope and undoes it; says how often the index was read, and how many blocks of the tables and their indexes,
   * as the server counts them in this transaction. Without parallel workers, whose reading is counted elsewhere.
   */
  const readings = (index: string, scope: string, use: Use, before: Use = Effect.void) =>
    undone(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        yield* sql`SET LOCAL max_parallel_workers_per_gather = 0`;
        yield* before;
        const count = Effect.map(
          sql`
            SELECT COALESCE(pg_stat_get_xact_numscans(to_regclass(${index})), 0)::int AS scans,
              sum(pg_stat_get_xact_blocks_fetched(c.oid))::int AS blocks
            FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
            WHERE COALESCE(i.indrelid, c.oid) IN ('jobs'::regclass, 'job_dlq'::regclass, 'job_dlq_events'::regclass)`,
          ([row]) => ({ scans: Number(row?.scans), blocks: Number(row?.blocks) }),
        );
        const start = yield* count;
        yield* inScope(scope)(use);
        const end = yield* count;
        return { scans: end.scans - start.scans, blocks: end.blocks - start.blocks };
      }),
    );

  /** The indexes in the plans of the statements that a call sends, asked for in its scope. */
  const planned = (scope: string, use: Use, before: Use = Effect.void) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const { sent } = yield* undone(statementsOf(inScope(scope)(use)));
      const statements = sent.filter(({ text }) => /\b(job_dlq|job_dlq_events|jobs)\b/.test(text));
      assert.isNotEmpty(statements);
      const plans = yield* undone(
        Effect.zipRight(
          before,
          inScope(scope)(
            Effect.forEach(statements, ({ parameters, text }) =>
              sql.unsafe(`EXPLAIN (FORMAT JSON) ${text}`, [...parameters]),
            ),
          ),
        ),
      );
      return (plans as ReadonlyArray<unknown>).flatMap((rows) =>
        Object.values(decodePlan(rows)[0]).flatMap(([{ Plan }]) => nodesOf(Plan).map((_) => _["Index Name"])),
      );
    });

  it.effect("the tenants are as skewed as they should be", () =>
    Effect.gen(function* () {
      const samples = yield* Filled;
      const sql = yield* SqlClient.SqlClient;
      const [row] = yield* sql`
        SELECT count(*)::int AS rows, count(DISTINCT app_id)::int AS tenants,
          (count(*) FILTER (WHERE app_id = ${samples.large}))::int AS large, (count(*) FILTER (WHERE app_id = ${samples.quiet}))::int AS quiet
        FROM job_dlq`;
      assert.deepStrictEqual({ ...row }, { rows: total, tenants: 200, large: (total - 2_400) / 2, quiet: 2_400 });
    }),
  );

  it.effect("every index since 0003 is in this test's list", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const earlier = ["idx_job_dlq_request"];
      const base = ["idx_jobs_due", "idx_jobs_lost", "idx_jobs_ended"];
      // Those of 0007 serve the runners' claims: the tests of the package jobs have them.
      const workers = ["idx_jobs_dedupe", "idx_jobs_fair", "idx_jobs_scheduled", "idx_jobs_suspect"];
      const rows = yield* sql`
        SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT IN (SELECT conname FROM pg_constraint)`;
      // A bitmap scan of a BRIN index is counted otherwise; the guard in the bench has it.
      const summaries = ["idx_job_dlq_window"];
      const names = rows
        .map(({ indexname }) => String(indexname))
        .filter((_) => ![...earlier, ...base, ...workers, ...summaries].includes(_));
      assert.deepStrictEqual(names.sort(), Object.keys(cases).sort());
    }),
  );

  describe("each index is used by what it is there for, and without it twice as much is read or more", () => {
    for (const [index, uses] of Object.entries(cases)) {
      for (const { call, isHidden = false, name, scope } of uses) {
        it.effect(`${index}: ${name}`, () =>
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            const samples = yield* Filled;
            const whose = scope(samples);
            const use = call(samples);
            const drop = sql`DROP INDEX ${sql(index)}`;
            const present = yield* readings(index, whose, use);
            const dropped = yield* readings(index, whose, use, drop);
            console.log(`${index}: ${name}: ${present.blocks} blocks, without it ${dropped.blocks}`);
            if (!isHidden) {
              assert.include(yield* planned(whose, use), index);
              assert.notInclude(yield* planned(whose, use, drop), index);
            }
            assert.isAbove(present.scans, 0, "it is used");
            assert.strictEqual(dropped.scans, 0);
            assert.isAtLeast(dropped.blocks, present.blocks * 2, "without it, twice as much is read");
          }),
        );
      }
    }
  });
});
