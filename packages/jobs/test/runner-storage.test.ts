/** Which runner holds which shard: one at a time, until it gives it back or is not heard of. */
import * as RunnerAddress from "@effect/cluster/RunnerAddress";
import * as RunnerStorage from "@effect/cluster/RunnerStorage";
import * as ShardId from "@effect/cluster/ShardId";
import * as ShardingConfig from "@effect/cluster/ShardingConfig";
import * as SqlClient from "@effect/sql/SqlClient";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, layer } from "@effect/vitest";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as RunnerStorageSql from "../src/runner-storage.js";
import { TestJobs } from "./support/runners.js";

const Storage = RunnerStorageSql.layer.pipe(
  Layer.provide(Layer.unwrapEffect(Effect.map(PgClient.PgClient, ({ config }) => JobStoreSql.layerEngine(config)))),
  Layer.provide(ShardingConfig.layer({ shardLockExpiration: Duration.minutes(1) })),
  Layer.provideMerge(TestJobs),
);

layer(Storage, { excludeTestServices: true })("the storage of runners", (it) => {
  const [one, two] = [RunnerAddress.make("one", 1), RunnerAddress.make("two", 1)];
  const shards = (group: string) => [1, 2, 3].map((n) => ShardId.make(group, n));
  const told = (found: ReadonlyArray<ShardId.ShardId>) => found.map((_) => _.id).sort();
  /** As if so much time had passed. */
  const pass = (time: string) =>
    Effect.flatMap(
      SqlClient.SqlClient,
      (sql) => sql`UPDATE job_shards SET acquired_at = acquired_at - ${time}::interval`,
    );

  it.effect("a shard is one runner's until its lock expires", () =>
    Effect.gen(function* () {
      const storage = yield* RunnerStorage.RunnerStorage;
      const all = shards("expiry");
      assert.deepStrictEqual(told(yield* storage.acquire(one, all.slice(0, 2))), [1, 2]);
      assert.deepStrictEqual(told(yield* storage.acquire(two, all)), [3], "what nobody has");
      assert.deepStrictEqual(told(yield* storage.acquire(one, all)), [1, 2], "what is one's own, again");
      yield* pass("50 seconds");
      assert.deepStrictEqual(told(yield* storage.acquire(two, all.slice(0, 2))), []);
      assert.deepStrictEqual(told(yield* storage.refresh(one, all)), [1, 2]);
      yield* pass("50 seconds");
      assert.deepStrictEqual(told(yield* storage.acquire(two, all.slice(0, 2))), [], "it was renewed");
      yield* pass("50 seconds");
      assert.deepStrictEqual(told(yield* storage.acquire(two, all.slice(0, 2))), [1, 2]);
      assert.deepStrictEqual(told(yield* storage.refresh(one, all)), [], "the first has none any more");
    }),
  );

  it.effect("a shard is given back by who has it, and by nobody else", () =>
    Effect.gen(function* () {
      const storage = yield* RunnerStorage.RunnerStorage;
      const all = shards("release");
      const [first] = all;
      assert.isDefined(first);
      yield* storage.acquire(one, all);
      yield* storage.release(two, first);
      yield* storage.releaseAll(two);
      assert.deepStrictEqual(told(yield* storage.acquire(two, all)), []);
      yield* storage.release(one, first);
      assert.deepStrictEqual(told(yield* storage.acquire(two, all)), [1]);
      yield* storage.releaseAll(one);
      assert.deepStrictEqual(told(yield* storage.acquire(two, all)), [1, 2, 3]);
    }),
  );
});
