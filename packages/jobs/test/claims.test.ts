/** What a claim takes, what it leaves, and what it does to what it takes. Each test has partitions of its own. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import { newTenant } from "../../database/test/support/database.js";
import { JobStore } from "../src/job-store.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import { TestJobs } from "./support/runners.js";

const Store = JobStoreSql.layer.pipe(
  Layer.provideMerge(
    Layer.unwrapEffect(Effect.map(PgClient.PgClient, ({ config }) => JobStoreSql.layerEngine(config))),
  ),
  Layer.provideMerge(TestJobs),
);

interface Given {
  readonly priority?: string;
  readonly age?: string;
  readonly suspect?: boolean;
}

layer(Store, { excludeTestServices: true })("claims", (it) => {
  /** A job of a partition; its id. */
  const jobIn = (
    appId: string,
    partition: number,
    { age = "1 second", priority = "normal", suspect = false }: Given = {},
  ) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const id = `00000000-0000-7000-8000-${randomUUID().slice(-12, -2)}${partition.toString(16).padStart(2, "0")}`;
      yield* Client.system(sql`
        INSERT INTO jobs (id, app_id, type, payload, priority, scheduled_at, suspect)
        VALUES (${id}, ${appId}, 'test.claimed', '{}', ${priority}::job_priority, now() - ${age}::interval, ${suspect})`);
      return id;
    });
  const claim = (
    partitions: ReadonlyArray<number>,
    { isByAge = false, limit = 100 }: { readonly isByAge?: boolean; readonly limit?: number } = {},
  ) =>
    Effect.flatMap(JobStore, (store) =>
      store.claim({
        runner: "r",
        leaseMillis: 60_000,
        limit,
        turns: partitions.map((partition) => ({ partition, after: "" })),
        isByAge,
        draw: 0,
      }),
    ).pipe(Effect.map(({ jobs }) => jobs));
  const claimSuspect = (partitions: ReadonlyArray<number>) =>
    Effect.flatMap(JobStore, (store) => store.claimSuspect({ runner: "r", leaseMillis: 60_000, partitions }));
  const row = (id: string) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const [found] = yield* Client.system(sql`
        SELECT status, attempts, locked_by, fence::text, suspect, in_company,
          locked_until - now() BETWEEN interval '50 seconds' AND interval '60 seconds' AS has_lease
        FROM jobs WHERE id = ${id}`);
      return { ...found };
    });
  /** Runs it while a transaction of somebody's holds the row. */
  const whileHeld = <A, E, R>(id: string, effect: Effect.Effect<A, E, R>) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      return yield* sql.withTransaction(Effect.zipRight(sql`SELECT FROM jobs WHERE id = ${id} FOR UPDATE`, effect));
    });

  it.effect("give each job a new fence, an attempt and a lease", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const id = yield* jobIn(appId, 1);
      const before = yield* row(id);
      const [claimed] = yield* claim([1]);
      const after = yield* row(id);
      assert.deepInclude(after, {
        status: "processing",
        attempts: 1,
        lockedBy: "r",
        hasLease: true,
        inCompany: true,
        fence: claimed?.fence,
      });
      assert.notStrictEqual(after.fence, before.fence);
      assert.deepInclude(claimed, { id, appId, attempts: 1, partition: 1 });
      assert.deepStrictEqual(yield* claim([1]), [], "once");
    }),
  );

  it.effect("take jobs of their partitions only, and none that is for later", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const mine = [yield* jobIn(appId, 2), yield* jobIn(appId, 3)];
      yield* jobIn(appId, 4);
      yield* jobIn(appId, 2, { age: "-1 hour" });
      assert.sameMembers(
        (yield* claim([2, 3])).map(({ id }) => id),
        mine,
      );
    }),
  );

  it.effect("take the urgent ones first, and by age those that have waited longest", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const low = yield* jobIn(appId, 5, { priority: "low", age: "3 hours" });
      const normal = yield* jobIn(appId, 5, { age: "2 hours" });
      const critical = yield* jobIn(appId, 5, { priority: "critical", age: "1 second" });
      const one = (isByAge: boolean) =>
        Effect.map(claim([5], { isByAge, limit: 1 }), (jobs) => jobs.map(({ id }) => id));
      assert.deepStrictEqual(yield* one(false), [critical]);
      assert.deepStrictEqual(yield* one(true), [low]);
      assert.deepStrictEqual(yield* one(false), [normal]);
    }),
  );

  it.effect("never wait for a job that somebody holds, and take the others", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const [held, free] = [yield* jobIn(appId, 6, { age: "1 hour" }), yield* jobIn(appId, 6)];
      const taken = yield* whileHeld(held, claim([6]));
      assert.deepStrictEqual(
        taken.map(({ id }) => id),
        [free],
      );
      assert.deepInclude(yield* row(held), { status: "pending", attempts: 0 });
    }),
  );

  it.effect("leave suspects to the claim that takes one alone", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const [suspect, other] = [yield* jobIn(appId, 7, { suspect: true }), yield* jobIn(appId, 7)];
      assert.deepStrictEqual(
        (yield* claim([7])).map(({ id }) => id),
        [other],
      );
      const alone = yield* claimSuspect([7]);
      assert.strictEqual(Option.getOrThrow(alone).id, suspect);
      assert.deepInclude(yield* row(suspect), { status: "processing", attempts: 1, inCompany: false, hasLease: true });
      assert.isTrue(Option.isNone(yield* claimSuspect([7])));
    }),
  );

  it.effect("of a suspect never waits for one that somebody holds", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const held = yield* jobIn(appId, 8, { suspect: true, age: "1 hour" });
      const free = yield* jobIn(appId, 8, { suspect: true });
      const taken = yield* whileHeld(held, claimSuspect([8]));
      assert.strictEqual(Option.getOrThrow(taken).id, free);
    }),
  );

  it.effect("leave nothing of a suspect when it is settled", () =>
    Effect.gen(function* () {
      const store = yield* JobStore;
      const appId = yield* newTenant;
      yield* jobIn(appId, 9, { suspect: true });
      const suspect = Option.getOrThrow(yield* claimSuspect([9]));
      yield* jobIn(appId, 9);
      const [other] = yield* claim([9]);
      assert.isDefined(other);
      assert.strictEqual((yield* store.complete([suspect, other])).count, 2);
      for (const { id } of [suspect, other]) {
        assert.deepInclude(yield* row(id), { status: "completed", suspect: false, inCompany: false, lockedBy: null });
      }
    }),
  );
});
