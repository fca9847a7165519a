#!/usr/bin/env node
/** The executable `portal-db`. */
import { createRequire } from "node:module";
import * as Command from "@effect/cli/Command";
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import { command } from "./command.js";

const { version } = createRequire(import.meta.url)("@parametric-portal/database/package.json") as { version: string };

// The command prints its own lines and reasons; the exit code is 1 for every failure, wrong usage included.
Command.run(command, { name: "portal-db", version })(process.argv).pipe(
  Effect.provide(NodeContext.layer),
  Logger.withMinimumLogLevel(LogLevel.Warning),
  NodeRuntime.runMain({ disableErrorReporting: true }),
);
