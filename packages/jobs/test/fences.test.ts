/** A claim that was lost changes nothing, also where it is settled together with a later claim of the same job. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import { newTenant } from "../../database/test/support/database.js";
import { type Failure, JobStore } from "../src/job-store.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import { TestJobs } from "./support/runners.js";

const Once = JobType.make("test.once", { payload: S.Struct({ n: S.Number }) });

const Store = JobStoreSql.layer.pipe(
  Layer.provideMerge(
    Layer.unwrapEffect(Effect.map(PgClient.PgClient, ({ config }) => JobStoreSql.layerEngine(config))),
  ),
  Layer.provideMerge(TestJobs),
);

layer(Store, { excludeTestServices: true })("two claims of one job, settled together", (it) => {
  /** A job that was claimed, lost and claimed anew: both fences. */
  const claimedTwice = Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const appId = yield* newTenant;
    const { jobId } = yield* Jobs.submit(Once, { n: 1 }, { appId });
    const fenceOf = Effect.map(
      Client.system(sql`
        UPDATE jobs SET status = 'processing', attempts = attempts + 1, started_at = now(), locked_by = 'r',
          locked_until = now() + interval '1 minute', fence = nextval('job_fence')
        WHERE id = ${jobId} RETURNING fence::text`),
      ([row]) => String(row?.fence),
    );
    const state = Effect.map(
      Client.system(
        sql`SELECT status, attempts, progress, jsonb_array_length(error_history) AS errors FROM jobs WHERE id = ${jobId}`,
      ),
      ([row]) => ({ ...row }),
    );
    return { id: jobId, lost: yield* fenceOf, held: yield* fenceOf, state };
  });

  for (const isLostFirst of [true, false]) {
    const order = isLostFirst ? "the lost one first" : "the lost one last";
    it.effect(`end as the one that is held, ${order}`, () =>
      Effect.gen(function* () {
        const store = yield* JobStore;
        const { held, id, lost, state } = yield* claimedTwice;
        const dead: Failure = {
          id,
          fence: lost,
          outcome: "dead",
          reason: "MaxRetries",
          error: "lost",
          delayMillis: null,
        };
        const retry: Failure = { id, fence: held, outcome: "retry", reason: null, error: "held", delayMillis: 60_000 };
        const { count } = yield* store.fail(isLostFirst ? [dead, retry] : [retry, dead]);
        assert.strictEqual(count, 1);
        assert.deepInclude(yield* state, { status: "pending", attempts: 2, errors: 1 });
      }),
    );

    it.effect(`report what the one says that is held, ${order}`, () =>
      Effect.gen(function* () {
        const store = yield* JobStore;
        const { held, id, lost, state } = yield* claimedTwice;
        const old = { id, fence: lost, progress: '"lost"' };
        const own = { id, fence: held, progress: '"held"' };
        yield* store.report(isLostFirst ? [old, own] : [own, old]);
        assert.strictEqual((yield* state).progress, '"held"');
      }),
    );
  }

  it.effect("are completed once, and extended once", () =>
    Effect.gen(function* () {
      const store = yield* JobStore;
      const { held, id, lost, state } = yield* claimedTwice;
      const both = [
        { id, fence: lost },
        { id, fence: held },
      ];
      assert.deepStrictEqual(yield* store.extend(both, 60_000), [held]);
      assert.strictEqual((yield* store.complete([{ id, fence: lost }])).count, 0);
      assert.strictEqual((yield* store.complete(both)).count, 1);
      assert.deepInclude(yield* state, { status: "completed" });
    }),
  );
});
