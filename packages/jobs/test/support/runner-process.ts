/**
 * A runner as a process of its own, so that a test can kill it, freeze it or let it kill itself at a chosen moment.
 *
 * `node --import tsx runner-process.ts '{"port":…}'` with DATABASE_URL. It prints `{"ready":true}` when it has joined, and a JSON
 * line for each run of a job that reports.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as S from "effect/Schema";
import type { JobStore } from "../../src/job-store.js";
import * as JobType from "../../src/job-type.js";
import * as Runner from "../../src/runner.js";

export const Boundary = S.Literal("before claim", "after claim", "handler", "after handler", "after settling");
export type Boundary = typeof Boundary.Type;

/** What such a process is told. */
export const Task = S.Struct({
  name: S.String,
  /** Of the cluster's own connections; null: a single runner. */
  port: S.NullOr(S.Int),
  concurrency: S.Int,
  /** Where it kills itself with SIGKILL, and at which time that it gets there; null: nowhere. */
  killAt: S.NullOr(Boundary),
  killAfter: S.Int,
  graceMillis: S.Int,
  /** Of its jobs and of its shards. */
  leaseMillis: S.Int,
});
export type Task = typeof Task.Type;

/** Leaves one row in `effects` with its `completed`, or none. */
export const Effectful = JobType.make("test.effectful", {
  payload: S.Struct({ millis: S.Number }),
  transactional: true,
  retry: { initial: "50 millis", max: "200 millis" },
});
/** Leaves a row in `effects` for each run. */
export const Plain = JobType.make("test.plain", {
  payload: S.Struct({ millis: S.Number }),
  retry: { initial: "50 millis", max: "200 millis" },
});
/** Ends its process each time. */
export const Killer = JobType.make("test.killer", {
  payload: S.Struct({}),
  retry: { maxAttempts: 3, initial: "50 millis", max: "200 millis" },
});
/** Fails each time. */
export const Failing = JobType.make("test.failing", {
  payload: S.Struct({}),
  retry: { maxAttempts: 2, initial: "20 millis", max: "100 millis" },
});

const killSelf = Effect.sync(() => process.kill(process.pid, "SIGKILL"));

const main = Effect.gen(function* () {
  const task = yield* S.decodeUnknown(S.parseJson(Task))(process.argv[2]);
  let left = task.killAfter;
  const at = (boundary: Boundary) =>
    Effect.suspend(() =>
      task.killAt === boundary && --left <= 0 ? Effect.zipRight(killSelf, Effect.never) : Effect.void,
    );

  const leave = (jobId: string, attempt: number) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      yield* sql`INSERT INTO effects (app_id, job_id, runner, attempt) VALUES (current_tenant(), ${jobId}, ${task.name}, ${attempt})`;
    });
  const handlers = Layer.mergeAll(
    Effectful.toLayer(({ millis }, { attempt, jobId }) =>
      Effect.zipRight(Effect.zipRight(leave(jobId, attempt), at("handler")), Effect.sleep(millis)),
    ),
    Plain.toLayer(({ millis }, { attempt, jobId }) =>
      Effect.zipRight(Effect.zipRight(leave(jobId, attempt), at("handler")), Effect.sleep(millis)),
    ),
    Killer.toLayer(() => Effect.zipRight(killSelf, Effect.never)),
    Failing.toLayer(() => Effect.fail(new Error("always"))),
  );
  const between = (store: (typeof JobStore)["Service"]): (typeof JobStore)["Service"] => ({
    ...store,
    claim: (options) =>
      Effect.zipRight(at("before claim"), store.claim(options)).pipe(
        Effect.tap(({ jobs }) => (jobs.length > 0 ? at("after claim") : Effect.void)),
      ),
    complete: (done) =>
      Effect.zipLeft(Effect.zipRight(at("after handler"), store.complete(done)), at("after settling")),
  });
  const options = {
    handlers,
    between,
    name: task.name,
    concurrency: task.concurrency,
    grace: task.graceMillis,
    lease: task.leaseMillis,
  };
  const runner =
    task.port === null
      ? Runner.layerSingle(options)
      : Runner.layerCluster({ ...options, shardExpiry: task.leaseMillis, host: "127.0.0.1", port: task.port });
  const services = Layer.provideMerge(
    DatabaseService.layer,
    Client.layerConfig({ applicationName: "runner-process", maxConnections: 10 }),
  );
  return yield* Effect.zipRight(Console.log(JSON.stringify({ ready: true })), Effect.never).pipe(
    Effect.provide(Layer.provide(runner, services)),
  );
});

if (process.argv[2] !== undefined && process.argv[1]?.includes("runner-process")) {
  NodeRuntime.runMain(Effect.provide(main, Logger.minimumLogLevel(LogLevel.Warning)));
}
