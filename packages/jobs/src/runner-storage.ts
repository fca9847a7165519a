/**
 * Who the runners are and which shards each holds, in the tables that migration 0007 made. For `@effect/cluster`.
 *
 * Its own storage creates the tables itself, for which a production login has no right, and several runners that start at once
 * race for it. Locks are rows that expire, never advisory locks: those of a frozen process last as long as its connection.
 */
import type { PersistenceError } from "@effect/cluster/ClusterError";
import * as ClusterError from "@effect/cluster/ClusterError";
import * as RunnerStorage from "@effect/cluster/RunnerStorage";
import * as ShardingConfig from "@effect/cluster/ShardingConfig";
import type { SqlError } from "@effect/sql/SqlError";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import { EngineClient } from "./job-store-sql.js";

const decodeRunners = S.decodeUnknown(S.Array(S.Struct({ runner: S.String, healthy: S.Boolean })));
const decodeShards = S.decodeUnknown(S.Array(S.Struct({ shardId: S.String })));
const decodeMachine = S.decodeUnknown(S.Tuple(S.Struct({ machineId: S.Int })));

export const layer: Layer.Layer<RunnerStorage.RunnerStorage, never, EngineClient | ShardingConfig.ShardingConfig> =
  Layer.effect(
    RunnerStorage.RunnerStorage,
    Effect.gen(function* () {
      const sql = yield* EngineClient;
      const config = yield* ShardingConfig.ShardingConfig;
      const expiry = Duration.toMillis(config.shardLockExpiration);
      const expired = sql`now() - ${expiry}::float8 * interval '1 millisecond'`;

      // A statement that hangs must not outlive the lock that it was to renew.
      const within = <A>(statement: Effect.Effect<A, SqlError>): Effect.Effect<A, PersistenceError> =>
        statement.pipe(
          Effect.timeout(Math.max(500, expiry / 3)),
          ClusterError.PersistenceError.refail,
          Effect.withTracerEnabled(false),
        );
      const shardsOf = (rows: ReadonlyArray<object>) =>
        Effect.orDie(Effect.map(decodeShards(rows), (shards) => shards.map(({ shardId }) => shardId)));

      return RunnerStorage.makeEncoded({
        getRunners: within(
          Effect.flatMap(sql`SELECT runner, healthy FROM job_runners WHERE last_heartbeat > ${expired}`, (rows) =>
            Effect.orDie(
              Effect.map(decodeRunners(rows), (runners) =>
                runners.map(({ healthy, runner }) => [runner, healthy] as const),
              ),
            ),
          ),
        ).pipe(Effect.map((runners) => [...runners])),

        register: (address, runner, healthy) =>
          within(
            Effect.flatMap(
              sql`
                INSERT INTO job_runners (address, runner, healthy) VALUES (${address}, ${runner}, ${healthy})
                ON CONFLICT (address) DO UPDATE
                SET runner = EXCLUDED.runner, healthy = EXCLUDED.healthy, last_heartbeat = now()
                RETURNING machine_id`,
              (rows) => Effect.orDie(Effect.map(decodeMachine(rows), ([{ machineId }]) => machineId)),
            ),
          ),

        unregister: (address) =>
          within(Effect.asVoid(sql`DELETE FROM job_runners WHERE address = ${address} OR last_heartbeat < ${expired}`)),

        setRunnerHealth: (address, healthy) =>
          within(Effect.asVoid(sql`UPDATE job_runners SET healthy = ${healthy} WHERE address = ${address}`)),

        acquire: (address, shardIds) =>
          within(
            Effect.flatMap(
              sql`
                INSERT INTO job_shards AS s (shard_id, address)
                SELECT shard_id, ${address} FROM unnest(${[...shardIds]}::text[]) AS t (shard_id) ORDER BY shard_id
                ON CONFLICT (shard_id) DO UPDATE SET address = EXCLUDED.address, acquired_at = now()
                WHERE s.address = EXCLUDED.address OR s.acquired_at < ${expired}
                RETURNING shard_id`,
              shardsOf,
            ),
          ).pipe(Effect.map((shards) => [...shards])),

        refresh: (address, shardIds) =>
          within(
            Effect.flatMap(
              sql`
                WITH alive AS (
                  UPDATE job_runners SET last_heartbeat = now() WHERE address = ${address}),
                held AS MATERIALIZED (
                  SELECT shard_id FROM job_shards
                  WHERE address = ${address} AND shard_id = ANY (${[...shardIds]}::text[])
                  ORDER BY shard_id
                  FOR UPDATE)
                UPDATE job_shards s SET acquired_at = now()
                FROM held
                WHERE s.shard_id = held.shard_id AND s.address = ${address}
                RETURNING s.shard_id`,
              shardsOf,
            ),
          ),

        release: (address, shardId) =>
          within(Effect.asVoid(sql`DELETE FROM job_shards WHERE address = ${address} AND shard_id = ${shardId}`)),

        releaseAll: (address) => within(Effect.asVoid(sql`DELETE FROM job_shards WHERE address = ${address}`)),
      });
    }),
  );
