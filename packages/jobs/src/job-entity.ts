/**
 * `JobEntity`: which runner works on which partition is the cluster's to decide.
 *
 * An entity is a partition of the jobs. Its one message, `wake`, is volatile and works the partition off inside its handler, so that
 * a runner which is asked to stop, or loses the shard, waits for the jobs that it has. Every runner wakes the partitions that it
 * owns and no others: by notification, and once a second by looking. There is no dispatcher that could be away.
 */
import * as Entity from "@effect/cluster/Entity";
import * as EntityId from "@effect/cluster/EntityId";
import * as Sharding from "@effect/cluster/Sharding";
import * as Rpc from "@effect/rpc/Rpc";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Queue from "effect/Queue";
import * as Schedule from "effect/Schedule";
import { JobStore } from "./job-store.js";
import { makeLook } from "./lookout.js";
import { partitions } from "./partition.js";
import type { JobTelemetry } from "./telemetry.js";
import { Worker } from "./worker.js";

export const JobEntity = Entity.make("Job", [Rpc.make("wake")]);

/** Works off the partitions of this runner. */
const layerDrains = JobEntity.toLayer(
  Effect.gen(function* () {
    const worker = yield* Worker;
    const sharding = yield* Sharding.Sharding;
    const { entityId, shardId } = yield* Entity.CurrentAddress;
    const partition = Number(entityId);
    return JobEntity.of({
      wake: () =>
        worker
          .drain(partition, () => sharding.hasShardId(shardId))
          .pipe(Effect.tapErrorCause((cause) => Effect.logError(`Partition ${partition} was left`, cause))),
    });
  }),
  // A number as concurrency would use Effect's Semaphore, which is quadratic; a defect would restart the entity for ever.
  { concurrency: "unbounded", disableFatalDefects: true, maxIdleTime: "5 seconds" },
);

/** How often a runner looks by itself. */
const every = Schedule.spaced("1 second");

const makeWaker = (graceMillis: number) =>
  Effect.gen(function* () {
    const store = yield* JobStore;
    const worker = yield* Worker;
    const sharding = yield* Sharding.Sharding;
    const clientOf = yield* JobEntity.client;
    const shards = partitions.map((partition) => ({
      partition,
      shardId: sharding.getShardId(EntityId.make(String(partition)), "default"),
    }));
    const owned = () => shards.filter(({ shardId }) => sharding.hasShardId(shardId)).map(({ partition }) => partition);

    // To itself: a message to another runner would wait for the end of its work. It returns at once, unless the shard just left.
    const wake = (partition: number) =>
      clientOf(String(partition))
        .wake(undefined, { discard: true })
        .pipe(
          Effect.timeoutOption("2 seconds"),
          Effect.catchAllCause((cause) =>
            Cause.isInterruptedOnly(cause)
              ? Effect.failCause(cause)
              : Effect.logDebug(`Partition ${partition} was not woken`, cause),
          ),
          Effect.forkDaemon,
        );

    const notices = yield* Queue.sliding<ReadonlyArray<number>>(1024);
    yield* store.listen({
      due: (due = partitions) => Queue.unsafeOffer(notices, due),
      cancelled: worker.cancelled,
    });
    const told = Effect.forever(
      Effect.flatMap(Queue.take(notices), (due) => {
        const own = new Set(owned());
        return Effect.forEach(
          due.filter((_) => own.has(_)),
          wake,
          { discard: true },
        );
      }),
    );

    const look = yield* makeLook({ graceMillis, owned, wake });

    yield* Effect.forkScoped(told);
    yield* Effect.forkScoped(Effect.repeat(look, every));
  });

/** Everything of a runner that is about ownership. `graceMillis`: how long leases live, for after a restart of the server. */
export const layer = (
  graceMillis: number,
): Layer.Layer<never, never, JobStore | JobTelemetry | Worker | Sharding.Sharding> =>
  Layer.merge(layerDrains, Layer.scopedDiscard(makeWaker(graceMillis)));
