/**
 * A runner of the trials: `node --import tsx runner.ts '{"name":…}'` with DATABASE_URL. It prints `{"ready":true}` when it has joined.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import { JobRejected } from "@parametric-portal/jobs/job-type";
import * as Runner from "@parametric-portal/jobs/runner";
import * as Console from "effect/Console";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as S from "effect/Schema";
import { Doomed, Flaky, Once, Plain, Refused } from "./kinds.js";

const Task = S.Struct({
  name: S.String,
  port: S.Int,
  concurrency: S.Int,
  leaseMillis: S.Int,
  measureMillis: S.NullOr(S.Int),
});

class NotYet extends Data.TaggedError("NotYet")<{ readonly message: string }> {}

/** One run in twenty also looks for what it must not see. */
const looks = (jobId: string) => Number.parseInt(jobId.slice(-2), 16) % 20 === 0;

/** Tells what the process holds once its garbage is collected. */
const measure = Effect.sync(() => {
  setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
  const { heapUsed, rss } = process.memoryUsage();
  console.log(JSON.stringify({ heap: heapUsed, rss }));
});

const main = Effect.gen(function* () {
  const task = yield* S.decodeUnknown(S.parseJson(Task))(process.argv[2]);
  const leave = ({ appId, attempt, jobId }: { appId: string; attempt: number; jobId: string }) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const foreign = looks(jobId)
        ? sql`(SELECT count(*) FROM jobs WHERE app_id <> ${appId}) + (SELECT count(*) FROM job_dlq WHERE app_id <> ${appId})
            + (SELECT count(*) FROM effects WHERE app_id <> ${appId})`
        : sql`NULL`;
      yield* sql`INSERT INTO effects (job_id, runner, attempt, foreign_rows) SELECT ${jobId}, ${task.name}, ${attempt}::int, ${foreign}`;
    });
  const handlers = Layer.mergeAll(
    Once.toLayer(({ millis }, job) => Effect.zipRight(leave(job), Effect.sleep(millis))),
    Doomed.toLayer(({ millis, rounds }, job) =>
      leave(job).pipe(
        Effect.zipRight(Effect.sleep(millis)),
        Effect.zipRight(
          job.replays < rounds ? Effect.fail(new NotYet({ message: "not before it was replayed again" })) : Effect.void,
        ),
      ),
    ),
    Plain.toLayer(({ millis }, job) => Effect.zipRight(leave(job), Effect.sleep(millis))),
    Flaky.toLayer(({ fails, millis }, job) =>
      Effect.gen(function* () {
        yield* Effect.sleep(millis);
        if (job.attempt <= fails) return yield* new NotYet({ message: "not at first" });
        yield* leave(job);
      }),
    ),
    Refused.toLayer(() => Effect.fail(new JobRejected({ problem: "nobody wants it" }))),
  );
  const runner = Runner.layerCluster({
    handlers,
    name: task.name,
    concurrency: task.concurrency,
    lease: task.leaseMillis,
    shardExpiry: task.leaseMillis,
    grace: "5 seconds",
    host: "127.0.0.1",
    port: task.port,
  });
  const services = Layer.provideMerge(
    DatabaseService.layer,
    // Its handlers ask nothing long.
    Client.layerConfig({ applicationName: task.name, maxConnections: 8, answerTimeout: "15 seconds" }),
  );
  const working =
    task.measureMillis === null
      ? Effect.never
      : Effect.forever(Effect.zipLeft(measure, Effect.sleep(task.measureMillis)));
  return yield* Effect.zipRight(Console.log(JSON.stringify({ ready: true })), working).pipe(
    Effect.provide(Layer.provide(runner, services)),
  );
});

NodeRuntime.runMain(Effect.provide(main, Logger.minimumLogLevel(LogLevel.Warning)));
