/** The runners' indexes are used by what they are there for, behind 20,000 jobs of skewed tenants of which most are not due. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import { newTenant } from "../../database/test/support/database.js";
import { JobStore } from "../src/job-store.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import { partitions } from "../src/partition.js";
import { TestJobs } from "./support/runners.js";

const Waits = JobType.make("test.waits", { payload: S.Struct({ n: S.Number }) });

/** The store with a pool of one connection, whose own count of index scans can be asked. */
const OneConnection = JobStoreSql.layer.pipe(
  Layer.provideMerge(
    Layer.unwrapEffect(
      Effect.map(PgClient.PgClient, ({ config }) => JobStoreSql.layerEngine({ ...config, maxConnections: 1 })),
    ),
  ),
  Layer.provideMerge(TestJobs),
);

const claimOf = (limit: number) => ({
  runner: "explain",
  leaseMillis: 60_000,
  limit,
  turns: partitions.map((partition) => ({ partition, after: "" })),
  isByAge: false,
  draw: 1,
});

const decodeScans = S.decodeUnknown(S.Tuple(S.Struct({ index: S.Int, table: S.Int })));

layer(OneConnection, { excludeTestServices: true, timeout: "2 minutes" })("the runners' indexes", (it) => {
  it.effect("serve claims, looks, suspects and dedupe keys, and the table is never read as a whole", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const engine = yield* JobStoreSql.EngineClient;
      const store = yield* JobStore;
      for (const [count, delay] of [
        [19_000, "1 hour"],
        [1000, 0],
        [10, 0],
      ] as const) {
        const appId = yield* newTenant;
        yield* Jobs.submitMany(
          Waits,
          Array.from({ length: count }, (_, n) => ({ payload: { n } })),
          { appId, delay },
        );
      }
      const appId = yield* newTenant;
      yield* Jobs.submit(Waits, { n: 1 }, { appId, dedupeKey: "k" });
      yield* Client.system(sql`UPDATE jobs SET suspect = true WHERE app_id = ${appId}`);
      yield* sql`VACUUM ANALYZE jobs`;

      const scansOf = (index: string) =>
        Effect.gen(function* () {
          const rows = yield* engine.unsafe(
            `SELECT COALESCE(pg_stat_get_numscans($1::regclass), 0)::int AS index, COALESCE(pg_stat_get_numscans('jobs'::regclass), 0)::int AS table
             FROM pg_stat_force_next_flush()`,
            [index],
          );
          const [scans] = yield* decodeScans(rows);
          return scans;
        });
      /** What a use adds to the counts of the server, which each transaction delivers at its end. */
      const uses = <A, E, R>(index: string, use: Effect.Effect<A, E, R>) =>
        Effect.gen(function* () {
          yield* scansOf(index);
          const before = yield* scansOf(index);
          yield* use;
          yield* scansOf(index);
          const after = yield* scansOf(index);
          assert.isAbove(after.index, before.index, `${index} is used`);
          assert.strictEqual(after.table, before.table, `the table is not read as a whole beside ${index}`);
        });
      const claim = store.claim(claimOf(100));
      yield* uses("idx_jobs_fair", claim);
      yield* uses("idx_jobs_scheduled", store.due(partitions));
      yield* uses("idx_jobs_suspect", store.claimSuspect({ runner: "explain", leaseMillis: 60_000, partitions }));
    }),
  );

  it.effect("settling finds its jobs by their ids, also where the statistics know of none that runs", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const engine = yield* JobStoreSql.EngineClient;
      const store = yield* JobStore;
      const appId = yield* newTenant;
      yield* Jobs.submitMany(
        Waits,
        Array.from({ length: 1000 }, (_, n) => ({ payload: { n } })),
        { appId },
      );
      yield* Client.system(sql`UPDATE jobs SET status = 'cancelled', completed_at = now(), locked_until = NULL, locked_by = NULL
        WHERE status = 'processing'`);
      yield* sql`VACUUM ANALYZE jobs`;
      const { jobs } = yield* store.claim(claimOf(1000));
      assert.isAbove(jobs.length, 500);
      /** What this session's reads of the table and of its indexes found. */
      const read = Effect.gen(function* () {
        const rows = yield* engine.unsafe(
          `SELECT pg_stat_get_tuples_returned('idx_jobs_lost'::regclass)::int AS index,
             pg_stat_get_numscans('jobs'::regclass)::int AS table
           FROM pg_stat_force_next_flush()`,
        );
        return yield* decodeScans(rows);
      });
      yield* read;
      const [before] = yield* read;
      const half = jobs.slice(0, 250);
      const rest = jobs.slice(250);
      yield* store.extend(jobs, 60_000);
      yield* store.report(jobs.map((job) => ({ ...job, progress: "1" })));
      yield* store.complete(half);
      yield* store.fail(
        rest.map((job) => ({ ...job, outcome: "retry", reason: null, error: "no", delayMillis: 60_000 })),
      );
      yield* read;
      const [after] = yield* read;
      assert.deepStrictEqual(after, before);
    }),
  );

  it.effect("a dedupe key is looked up by its index", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const plan = yield* Client.system(
        sql`EXPLAIN SELECT id FROM jobs WHERE app_id = uuidv7() AND type = 'test.waits' AND dedupe_key = 'k'
          AND status IN ('pending', 'processing')`,
      );
      assert.include(JSON.stringify(plan), "idx_jobs_dedupe");
    }),
  );
});
