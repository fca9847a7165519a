/** A claim that was lost changes nothing, also where it is settled together with a later claim of the same job. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Queue from "effect/Queue";
import * as S from "effect/Schema";
import { newLogin, newTenant } from "../../database/test/support/database.js";
import { type Claimed, type Failure, FenceLost, JobStore } from "../src/job-store.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import { partitionOf } from "../src/partition.js";
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
    return { appId, id: jobId, lost: yield* fenceOf, held: yield* fenceOf, state };
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

  it.effect("are no runner's any more when the job has ended: not settled, extended or reported", () =>
    Effect.gen(function* () {
      const store = yield* JobStore;
      const { held, id, state } = yield* claimedTwice;
      const own = { id, fence: held };
      assert.strictEqual((yield* store.complete([own])).count, 1);
      const ended = yield* state;
      assert.strictEqual((yield* store.complete([own])).count, 0);
      assert.deepStrictEqual(yield* store.extend([own], 60_000), []);
      yield* store.report([{ ...own, progress: "1" }]);
      const again: Failure = { ...own, outcome: "retry", reason: null, error: "late", delayMillis: 0 };
      assert.strictEqual((yield* store.fail([again])).count, 0);
      assert.deepStrictEqual(yield* state, ended);
    }),
  );

  it.effect("commit nothing of a transactional run whose claim was lost", () =>
    Effect.gen(function* () {
      const store = yield* JobStore;
      const sql = yield* SqlClient.SqlClient;
      const { appId, held, id, lost, state } = yield* claimedTwice;
      const job = (fence: string): Claimed => ({
        id,
        fence,
        appId,
        type: Once.name,
        payload: "{}",
        attempts: 1,
        maxAttempts: 5,
        replays: 0,
        requestId: null,
        userId: null,
        partition: 0,
        waitedMillis: 0,
      });
      const write = sql`INSERT INTO effects (app_id, job_id, runner, attempt) VALUES (${appId}, ${id}, 'r', 1)`;
      const written = Effect.map(Client.system(sql`SELECT FROM effects WHERE job_id = ${id}`), (rows) => rows.length);
      const error = yield* Effect.flip(store.inTransaction(job(lost), write));
      assert.instanceOf(error, FenceLost);
      assert.strictEqual(yield* written, 0);
      assert.deepInclude(yield* state, { status: "processing" });
      assert.isTrue(yield* store.inTransaction(job(held), write));
      assert.strictEqual(yield* written, 1);
      assert.deepInclude(yield* state, { status: "completed" });
    }),
  );

  it.effect("keep the first and the newest errors of a job that failed often", () =>
    Effect.gen(function* () {
      const store = yield* JobStore;
      const sql = yield* SqlClient.SqlClient;
      const { held, id } = yield* claimedTwice;
      yield* Client.system(sql`
        UPDATE jobs SET error_history = (SELECT jsonb_agg(jsonb_build_object('error', n::text, 'timestamp', n)) FROM generate_series(1, 50) n)
        WHERE id = ${id}`);
      yield* store.fail([{ id, fence: held, outcome: "retry", reason: null, error: "last", delayMillis: 0 }]);
      const rows = yield* Client.system(
        sql`SELECT e ->> 'error' AS error FROM jobs, jsonb_array_elements(error_history) e WHERE id = ${id}`,
      );
      const errors = rows.map(({ error }) => error);
      assert.strictEqual(errors.length, 50);
      assert.deepStrictEqual([errors[0], errors[9], errors[10], errors.at(-1)], ["1", "10", "12", "last"]);
    }),
  );

  it.scoped("end with a new fence when the job is cancelled, and its runner is told at once", () =>
    Effect.gen(function* () {
      const store = yield* JobStore;
      const sql = yield* SqlClient.SqlClient;
      const { appId, held, id, state } = yield* claimedTwice;
      const told = yield* Queue.unbounded<number>();
      const isListening = yield* Deferred.make<void>();
      yield* store.listen({
        due: (partitions) => {
          if (partitions === undefined) Deferred.unsafeDone(isListening, Effect.void);
        },
        cancelled: (partition) => told.unsafeOffer(partition),
      });
      yield* Deferred.await(isListening);
      yield* Client.tenant(appId)(Jobs.cancel(id));
      const at = yield* Effect.timeout(Queue.take(told), "30 seconds");
      assert.strictEqual(at, partitionOf(id));
      const [row] = yield* Client.system(sql`SELECT fence::text, locked_by FROM jobs WHERE id = ${id}`);
      assert.notStrictEqual(row?.fence, held);
      assert.strictEqual(row?.lockedBy, null);
      assert.deepInclude(yield* state, { status: "cancelled" });
    }),
  );
});

layer(Store, { excludeTestServices: true })("a login that is a member of parametric_tenant only", (it) => {
  it.scoped("submits outside every scope, because a submission opens its tenant's", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const url = yield* newLogin("parametric_tenant");
      const desk = yield* Layer.build(JobStoreSql.layerDesk.pipe(Layer.provide(Client.layer({ url }))));
      const { jobId } = yield* Effect.provide(Jobs.submit(Once, { n: 1 }, { appId }), desk);
      const sql = yield* SqlClient.SqlClient;
      const rows = yield* Client.system(sql`SELECT app_id FROM jobs WHERE id = ${jobId}`);
      assert.deepStrictEqual(rows, [{ appId }]);
    }),
  );
});
