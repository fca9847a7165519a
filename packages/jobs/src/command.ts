/** The command `runner`: one runner process, whose handlers a module of the application's gives. Exit code 0 after a stop, else 1. */
import { hostname } from "node:os";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import * as Args from "@effect/cli/Args";
import * as Command from "@effect/cli/Command";
import * as HelpDoc from "@effect/cli/HelpDoc";
import * as Options from "@effect/cli/Options";
import * as ValidationError from "@effect/cli/ValidationError";
import type * as SqlClient from "@effect/sql/SqlClient";
import type * as PgClient from "@effect/sql-pg/PgClient";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import { databaseError } from "@parametric-portal/database/sql-state";
import * as Cause from "effect/Cause";
import * as Config from "effect/Config";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { JobHandlers } from "./handlers.js";
import * as Health from "./health.js";
import * as JobStoreSql from "./job-store-sql.js";
import type { JobDesk } from "./jobs.js";
import { valueOf } from "./metrics.js";
import * as Otlp from "./otlp.js";
import * as Runner from "./runner.js";
import { type JobTelemetry, layer as layerTelemetry } from "./telemetry.js";
import type { Worker } from "./worker.js";

/** The handlers module cannot be used. */
export class HandlersUnusable extends S.TaggedError<HandlersUnusable>()("HandlersUnusable", {
  module: S.String,
  problem: S.String,
}) {
  override get message() {
    return `The handlers module ${this.module} ${this.problem}`;
  }
}

/** The runner could not start, or cannot go on, for this reason. */
export class RunnerFailed extends S.TaggedError<RunnerFailed>()("RunnerFailed", { reason: S.String }) {
  override get message() {
    return this.reason;
  }
}

/** What a handlers module may ask for. */
export type HandlersLayer = Layer.Layer<
  never,
  unknown,
  JobHandlers | JobDesk | DatabaseService | SqlClient.SqlClient | PgClient.PgClient
>;

/** The layer that a module exports as its default. The path is relative to the working directory. */
export const loadHandlers = (module: string): Effect.Effect<HandlersLayer, HandlersUnusable> =>
  Effect.gen(function* () {
    const unusable = (problem: string) => new HandlersUnusable({ module, problem });
    const loaded = yield* Effect.tryPromise({
      try: () => import(pathToFileURL(resolve(module)).href) as Promise<{ readonly default?: unknown }>,
      catch: (error) => unusable(`cannot be loaded: ${error instanceof Error ? error.message : String(error)}`),
    });
    if (loaded.default === undefined) {
      return yield* unusable("has no default export; it must export the layer of its handlers as its default");
    }
    if (!Layer.isLayer(loaded.default)) {
      return yield* unusable("does not export a Layer as its default; merge the layers of JobType.toLayer");
    }
    return loaded.default as HandlersLayer;
  });

// --- options -----------------------------------------------------------------

const invalid = (problem: string) => ValidationError.invalidValue(HelpDoc.p(problem));

const integer = (name: string, environment: string, least: number, most: number) =>
  Options.integer(name).pipe(
    Options.withFallbackConfig(Config.integer(environment)),
    Options.mapEffect((value) =>
      value >= least && value <= most
        ? Effect.succeed(value)
        : Effect.fail(invalid(`--${name} is ${value}; it must be a whole number from ${least} to ${most}`)),
    ),
  );

const duration = (name: string, environment: string, fallback: string) =>
  Options.text(name).pipe(
    Options.withFallbackConfig(Config.string(environment)),
    Options.withDefault(fallback),
    Options.mapEffect((text) => {
      const found = Duration.decodeUnknown(/^\d+(\.\d+)?$/.test(text) ? `${text} seconds` : text);
      return Option.isSome(found) && Duration.isFinite(found.value) && Duration.toMillis(found.value) > 0
        ? Effect.succeed(found.value)
        : Effect.fail(
            invalid(`--${name} is ${JSON.stringify(text)}; say for example "10 seconds", or a number of them`),
          );
    }),
  );

const days = (name: string, environment: string, least: number) =>
  integer(name, environment, least, 1_000_000).pipe(Options.optional);

/** Every option of the command. */
const options = {
  host: Options.text("host").pipe(
    Options.withFallbackConfig(Config.nonEmptyString("RUNNER_HOST")),
    Options.withDefault(hostname()),
    Options.withDescription("Where the other runners reach this one (RUNNER_HOST; default: the host's name)"),
  ),
  port: integer("port", "RUNNER_PORT", 1, 65_535).pipe(
    Options.withDefault(34_431),
    Options.withDescription("Its port for the other runners (RUNNER_PORT; default 34431)"),
  ),
  listenHost: Options.text("listen-host").pipe(
    Options.withFallbackConfig(Config.nonEmptyString("RUNNER_LISTEN_HOST")),
    Options.optional,
    Options.withDescription("Where it listens for them, if that is another address (RUNNER_LISTEN_HOST)"),
  ),
  concurrency: integer("concurrency", "RUNNER_CONCURRENCY", 1, 100_000).pipe(
    Options.withDefault(64),
    Options.withDescription("Most jobs that run at a time (RUNNER_CONCURRENCY; default 64)"),
  ),
  batchSize: integer("batch-size", "RUNNER_BATCH_SIZE", 1, 10_000).pipe(
    Options.withDefault(500),
    Options.withDescription("Most jobs in one claim (RUNNER_BATCH_SIZE; default 500)"),
  ),
  lease: duration("lease", "RUNNER_LEASE", "5 seconds").pipe(
    Options.withDescription(
      "How long a job stays the runner's without a sign of life (RUNNER_LEASE; default 5 seconds)",
    ),
  ),
  shardExpiry: duration("shard-expiry", "RUNNER_SHARD_EXPIRY", "5 seconds").pipe(
    Options.withDescription(
      "How long a runner that vanished keeps its part of the queue (RUNNER_SHARD_EXPIRY; default 5 seconds)",
    ),
  ),
  grace: duration("grace", "RUNNER_GRACE", "10 seconds").pipe(
    Options.withDescription("How long a stop waits for running jobs (RUNNER_GRACE; default 10 seconds)"),
  ),
  connections: integer("connections", "RUNNER_CONNECTIONS", 1, 10_000).pipe(
    Options.withDefault(10),
    Options.withDescription("Most database connections of the handlers (RUNNER_CONNECTIONS; default 10)"),
  ),
  missingHandlerWait: duration("missing-handler-wait", "RUNNER_MISSING_HANDLER_WAIT", "10 seconds").pipe(
    Options.withDescription(
      "When a job is tried again whose type has no handler here; then three times as long each time (RUNNER_MISSING_HANDLER_WAIT; default 10 seconds)",
    ),
  ),
  healthPort: integer("health-port", "RUNNER_HEALTH_PORT", 0, 65_535).pipe(
    Options.withDefault(8080),
    Options.withDescription("Port of /live, /ready and /metrics; 0: none (RUNNER_HEALTH_PORT; default 8080)"),
  ),
  single: Options.boolean("single").pipe(
    Options.withDescription("Run alone, without the other runners (RUNNER_SINGLE=true)"),
  ),
  name: Options.text("name").pipe(
    Options.withFallbackConfig(Config.nonEmptyString("RUNNER_NAME")),
    Options.optional,
    Options.withDescription("What jobs.locked_by shows; unique among the runners (RUNNER_NAME; default: made up)"),
  ),
  retainReplayed: days("retain-replayed-days", "RUNNER_RETAIN_REPLAYED_DAYS", 0).pipe(
    Options.withDescription("Remove replayed dead letters after that (RUNNER_RETAIN_REPLAYED_DAYS; default: never)"),
  ),
  retainDiscarded: days("retain-discarded-days", "RUNNER_RETAIN_DISCARDED_DAYS", 0).pipe(
    Options.withDescription("Remove the ledger's copies after that (RUNNER_RETAIN_DISCARDED_DAYS; default: never)"),
  ),
  retainPending: days("retain-pending-days", "RUNNER_RETAIN_PENDING_DAYS", 1).pipe(
    Options.withDescription("Let pending dead letters expire after that (RUNNER_RETAIN_PENDING_DAYS; default: never)"),
  ),
  retainJobs: days("retain-jobs-days", "RUNNER_RETAIN_JOBS_DAYS", 0).pipe(
    Options.withDescription("Remove ended jobs after that (RUNNER_RETAIN_JOBS_DAYS; default: never)"),
  ),
};

const handlers = Args.text({ name: "handlers" }).pipe(
  Args.withDescription("The ES module whose default export is the layer of the handlers"),
);

type Given = Command.Command.ParseConfig<typeof options & { readonly handlers: typeof handlers }>;

const retentionOf = (given: Given) => {
  const retention = {
    replayed: Option.getOrUndefined(given.retainReplayed),
    discarded: Option.getOrUndefined(given.retainDiscarded),
    pending: Option.getOrUndefined(given.retainPending),
    jobs: Option.getOrUndefined(given.retainJobs),
  };
  return Object.values(retention).every((_) => _ === undefined) ? undefined : retention;
};

// --- running -----------------------------------------------------------------

/** What an operator reads: the error's own words, and the database's where it has said something. */
const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error: unknown = Cause.squash(cause);
  const tag = typeof error === "object" && error !== null ? Reflect.get(error, "_tag") : undefined;
  if (tag === "SqlError") return `The database cannot be used: ${databaseError(error as never).message}`;
  if (tag === "ServeError" || tag === "SocketServerError") {
    const inner: unknown = Reflect.get(error as object, "cause");
    return `A port cannot be used: ${inner instanceof Error ? inner.message : String(error)}`;
  }
  return error instanceof Error ? error.message : String(error);
};

const givenBack = () => valueOf("portal_jobs_ended_total", { outcome: "back" });

const run = (given: Given) =>
  Effect.gen(function* () {
    const isSingle = given.single || (yield* Config.boolean("RUNNER_SINGLE").pipe(Config.withDefault(false)));
    const name = yield* Runner.nameOf(Option.getOrUndefined(given.name));
    const address = isSingle ? undefined : `${given.host}:${given.port}`;
    const application = yield* loadHandlers(given.handlers);

    let types: ReadonlyArray<string> = [];
    const noted = Layer.effectDiscard(
      Effect.map(JobHandlers, (known) => {
        types = known.types();
      }),
    );
    const shared = {
      handlers: Layer.provideMerge(noted, application),
      name,
      concurrency: given.concurrency,
      batchSize: given.batchSize,
      lease: given.lease,
      grace: given.grace,
      missingHandler: { initial: given.missingHandlerWait },
      retention: retentionOf(given),
    };
    const runner: Layer.Layer<
      Worker,
      unknown,
      JobTelemetry | JobDesk | DatabaseService | SqlClient.SqlClient | PgClient.PgClient
    > = isSingle
      ? Runner.layerSingle(shared)
      : Runner.layerCluster({
          ...shared,
          host: given.host,
          port: given.port,
          listenHost: Option.getOrUndefined(given.listenHost),
          shardExpiry: given.shardExpiry,
        });
    const database = Layer.merge(DatabaseService.layer, JobStoreSql.layerDesk).pipe(
      Layer.provideMerge(
        Client.layerConfig({ applicationName: "parametric-portal handlers", maxConnections: given.connections }),
      ),
    );
    const working = runner.pipe(Layer.provide([layerTelemetry, database]));
    const watched =
      given.healthPort === 0
        ? working
        : Health.layerRunner({ address }).pipe(
            Layer.provide(
              Client.layerConfig({
                applicationName: "parametric-portal health",
                maxConnections: 1,
                role: "parametric_system",
              }),
            ),
            Layer.provideMerge(working),
            Layer.provide(Health.layer({ port: given.healthPort })),
          );

    let before: number | undefined;
    yield* Effect.addFinalizer(() =>
      before === undefined
        ? Effect.void
        : Effect.logInfo("runner stopped").pipe(Effect.annotateLogs({ name, gave_back: givenBack() - before })),
    );
    // In the scope of the whole: the tracer is the runner's as well, and the last spans leave when its jobs have ended.
    yield* Layer.build(watched.pipe(Layer.provide(Otlp.layerConfig({ service: "portal-runner", instance: name }))));
    before = givenBack();
    yield* Effect.logInfo("runner started").pipe(
      Effect.annotateLogs({
        name,
        address: address ?? "none",
        health_port: given.healthPort === 0 ? "none" : given.healthPort,
        types: types.join(","),
      }),
    );
    if (types.length === 0)
      yield* Effect.logWarning("The handlers module has no handler: every job ends as HandlerMissing");
    return yield* Effect.onInterrupt(Effect.never, () =>
      Effect.sync(() => {
        before = givenBack();
      }),
    );
  }).pipe(
    Effect.scoped,
    Effect.catchAllCause((cause) => {
      if (Cause.isInterruptedOnly(cause)) return Effect.interrupt;
      const reason = reasonOf(cause);
      return Effect.zipRight(Effect.logFatal(reason), new RunnerFailed({ reason }));
    }),
  );

/** `runner <handlers module>`. The database's address comes from `DATABASE_URL`, else from the libpq names. */
export const command = Command.make("runner", { handlers, ...options }, run).pipe(
  Command.withDescription(
    "Runs jobs until it is told to stop (SIGTERM, SIGINT). DATABASE_URL (else PGHOST, PGUSER, …) says which database; OTEL_EXPORTER_OTLP_ENDPOINT where to send metrics and spans.",
  ),
);
