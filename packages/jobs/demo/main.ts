/**
 * `npx tsx packages/jobs/demo/main.ts`: 329 real webhook deliveries, the dead letters that they leave, and what an
 * operator does about them. The work is done by runner processes, one of which is killed. Exit code 1, with the reason on stderr, when a promise is broken or the counts do not add up.
 */
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import { databaseError } from "@parametric-portal/database/sql-state";
import * as JobStoreSql from "@parametric-portal/jobs/job-store-sql";
import * as Cause from "effect/Cause";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Option from "effect/Option";
import { AnnouncerService } from "./announcer.js";
import { Promises } from "./report.js";
import { story } from "./story.js";

const client = Layer.mapError(Client.layerConfig({ applicationName: "demo" }), (error) =>
  error._tag === "SqlError" ? new Migrator.DatabaseUnreachable({ problem: databaseError(error).message }) : error,
);

const main = story.pipe(
  Effect.scoped,
  Effect.provide([DatabaseService.layer, JobStoreSql.layerDesk, Promises.Default]),
  Effect.provide(AnnouncerService.Default),
  Effect.provide([client, NodeContext.layer]),
  Logger.withMinimumLogLevel(LogLevel.Warning),
  Effect.tapErrorCause((cause) =>
    Console.error(
      `\n${Option.match(Cause.failureOption(cause), { onNone: () => Cause.pretty(cause), onSome: ({ message }) => message })}`,
    ),
  ),
);

NodeRuntime.runMain(main, { disableErrorReporting: true });
