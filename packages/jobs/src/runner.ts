/**
 * Runner processes: one for development and tests, or many that share the work and take over from one another.
 *
 * ```ts
 * Runner.layerSingle({ handlers: Layer.mergeAll(ResizeLive, MailLive) })
 * ```
 */
import { hostname } from "node:os";
import * as MessageStorage from "@effect/cluster/MessageStorage";
import * as RunnerAddress from "@effect/cluster/RunnerAddress";
import * as RunnerHealth from "@effect/cluster/RunnerHealth";
import * as RunnerStorage from "@effect/cluster/RunnerStorage";
import * as Runners from "@effect/cluster/Runners";
import * as Sharding from "@effect/cluster/Sharding";
import * as ShardingConfig from "@effect/cluster/ShardingConfig";
import type { SocketServerError } from "@effect/platform/SocketServer";
import * as NodeClusterSocket from "@effect/platform-node/NodeClusterSocket";
import type * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import * as PgClient from "@effect/sql-pg/PgClient";
import * as Migrator from "@parametric-portal/database/migrator";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as FiberRef from "effect/FiberRef";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Random from "effect/Random";
import { type JobHandlers, layer as layerHandlers } from "./handlers.js";
import * as JobEntity from "./job-entity.js";
import { JobStore } from "./job-store.js";
import * as JobStoreSql from "./job-store-sql.js";
import * as Maintenance from "./maintenance.js";
import * as RunnerStorageSql from "./runner-storage.js";
import { JobTelemetry, layer as layerTelemetry } from "./telemetry.js";
import { layer as layerWorker, type Worker, type WorkerOptions } from "./worker.js";

export interface RunnerOptions<E, R> extends Omit<WorkerOptions, "runner">, Maintenance.MaintenanceOptions {
  /** The handlers of this process: the layers of `JobType.toLayer`, merged. */
  readonly handlers: Layer.Layer<never, E, R>;
  /** What `jobs.locked_by` shows. Default: host name, process id and a mark of this start. */
  readonly name?: string | undefined;
  /** @internal For tests: what stands between the runner and its store. */
  readonly between?: ((store: (typeof JobStore)["Service"]) => (typeof JobStore)["Service"]) | undefined;
  /** Connections of the runner itself, beside those of the handlers. Default 4. */
  readonly engineConnections?: number | undefined;
}

export interface ClusterOptions<E, R> extends RunnerOptions<E, R> {
  /** Where other runners reach this one; unique in the cluster. */
  readonly host: string;
  readonly port: number;
  /** Where it listens, if that is another address. */
  readonly listenHost?: string | undefined;
  /** How long a runner that vanished keeps its shards. Default 5 seconds. */
  readonly shardExpiry?: Duration.DurationInput | undefined;
}

const defaultLease: Duration.DurationInput = "5 seconds";

/** A name that no other runner has, unless one is given. */
export const nameOf = (given: string | undefined) =>
  given === undefined
    ? Effect.map(
        Random.nextIntBetween(0x100000, 0x1000000),
        (mark) => `${hostname()}:${process.pid}:${mark.toString(16)}`,
      )
    : Effect.succeed(given);

/** The runner's pool has the address of the client that the handlers use. It is opened on a schema that its statements know. */
const layerEngine = (connections: number | undefined) =>
  Layer.unwrapEffect(
    Effect.map(Effect.zipRight(Migrator.requireSchema, PgClient.PgClient), ({ config }) =>
      JobStoreSql.layerEngine({
        ...config,
        applicationName: "parametric-portal runner",
        maxConnections: connections ?? 4,
      }),
    ),
  );

const layerOf = <E, R, E2, R2>(
  options: RunnerOptions<E, R>,
  cluster: Layer.Layer<Sharding.Sharding, E2, R2>,
): Layer.Layer<
  Worker,
  E | E2 | SqlError | Migrator.SchemaTooOld,
  Exclude<R, JobHandlers> | Exclude<R2, JobStoreSql.EngineClient> | SqlClient.SqlClient | PgClient.PgClient
> => {
  const lease = options.lease ?? defaultLease;
  const worker = Layer.unwrapEffect(
    Effect.map(nameOf(options.name), (runner) => layerWorker({ ...options, lease, runner })),
  );
  const handlers = Layer.provideMerge(options.handlers, layerHandlers);
  const telemetry = Layer.unwrapEffect(
    Effect.map(Effect.serviceOption(JobTelemetry), (given) =>
      Option.match(given, { onNone: () => layerTelemetry, onSome: (_) => Layer.succeed(JobTelemetry, _) }),
    ),
  );
  return Layer.merge(JobEntity.layer(Duration.toMillis(lease)), Maintenance.layer(options)).pipe(
    Layer.provide(cluster),
    Layer.provideMerge(worker),
    Layer.provide([handlers, telemetry]),
    Layer.provide(
      options.between === undefined
        ? JobStoreSql.layer
        : Layer.effect(JobStore, Effect.map(JobStore, options.between)).pipe(Layer.provide(JobStoreSql.layer)),
    ),
    Layer.provide(layerEngine(options.engineConnections)),
    // Claims, looks and wakes are about no job; spans of them would drown those of the jobs, which begin anew.
    Layer.locally(FiberRef.currentTracerEnabled, false),
  ) as never;
};

/** What both kinds of cluster have in common. */
const sharding = (grace: Duration.DurationInput | undefined) => ({
  entityTerminationTimeout: Duration.decode(grace ?? "10 seconds"),
  simulateRemoteSerialization: false,
});

/** One process that owns every partition. Two of them on one database do no harm, but do not share. */
export const layerSingle = <E, R>(options: RunnerOptions<E, R>) =>
  layerOf(
    options,
    Sharding.layer.pipe(
      Layer.provide(Runners.layerNoop),
      Layer.provide([MessageStorage.layerNoop, RunnerStorage.layerMemory, RunnerHealth.layerNoop]),
      Layer.provide(ShardingConfig.layer(sharding(options.grace))),
    ),
  );

/** One of many processes. They find one another through the database, and each works on the partitions that it is given. */
export const layerCluster = <E, R>(
  options: ClusterOptions<E, R>,
): Layer.Layer<
  Worker,
  E | SqlError | Migrator.SchemaTooOld | SocketServerError,
  Exclude<R, JobHandlers> | SqlClient.SqlClient | PgClient.PgClient
> => {
  const shardExpiry = Duration.decode(options.shardExpiry ?? "5 seconds");
  const shardingConfig = {
    ...sharding(options.grace),
    runnerAddress: Option.some(RunnerAddress.make(options.host, options.port)),
    runnerListenAddress:
      options.listenHost === undefined
        ? Option.none()
        : Option.some(RunnerAddress.make(options.listenHost, options.port)),
    // A frozen process keeps an advisory lock as long as its connection lives.
    shardLockDisableAdvisory: true,
    shardLockExpiration: shardExpiry,
    shardLockRefreshInterval: Duration.times(shardExpiry, 1 / 3),
    refreshAssignmentsInterval: "1 second",
  } as const;
  return layerOf(
    options,
    NodeClusterSocket.layer({ storage: "byo", shardingConfig }).pipe(
      Layer.provide(MessageStorage.layerNoop),
      Layer.provide(RunnerStorageSql.layer),
      Layer.provide(ShardingConfig.layer(shardingConfig)),
      Layer.orDie,
    ) as never,
  ) as never;
};
