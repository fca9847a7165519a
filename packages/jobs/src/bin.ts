#!/usr/bin/env node
/** The executable `runner`. */
import { createRequire } from "node:module";
import * as Command from "@effect/cli/Command";
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Logger from "effect/Logger";
import { command } from "./command.js";

const { version } = createRequire(import.meta.url)("@parametric-portal/jobs/package.json") as { version: string };

// The command says itself why it failed. A signal is how a runner is stopped, so it ends with 0.
Command.run(command, { name: "runner", version })(process.argv).pipe(
  Effect.provide([
    NodeContext.layer,
    Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger)),
  ]),
  NodeRuntime.runMain({
    disableErrorReporting: true,
    disablePrettyLogger: true,
    teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) || Cause.isInterruptedOnly(exit.cause) ? 0 : 1),
  }),
);
