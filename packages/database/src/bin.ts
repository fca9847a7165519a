#!/usr/bin/env node
/** The executable `portal-db`. */
import { createRequire } from "node:module";
import * as Command from "@effect/cli/Command";
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import { command } from "./command.js";

const { version } = createRequire(import.meta.url)("@parametric-portal/database/package.json") as { version: string };

// The command prints its own lines and reasons. The exit code is 1 for everything but success: wrong usage and a signal included,
// after which a deploy must not go on. Warnings, such as that it waits, go to stderr.
Command.run(command, { name: "portal-db", version })(process.argv).pipe(
  Effect.provide([
    NodeContext.layer,
    Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger)),
  ]),
  Logger.withMinimumLogLevel(LogLevel.Warning),
  NodeRuntime.runMain({
    disableErrorReporting: true,
    disablePrettyLogger: true,
    teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) ? 0 : 1),
  }),
);
