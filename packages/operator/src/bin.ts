#!/usr/bin/env node
/** The executable `dlq`. */
import { createRequire } from "node:module";
import * as Command from "@effect/cli/Command";
import * as ValidationError from "@effect/cli/ValidationError";
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import { command } from "./command.js";
import { codeOf, Ended, explain } from "./failure.js";
import { note } from "./output.js";

const { version } = createRequire(import.meta.url)("@parametric-portal/operator/package.json") as { version: string };

// A reader that has enough (head) closes the pipe. It ends as a program does that the signal for that ends: not done, nothing to say.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 141 : 1));

const [node = "", script = "", ...words] = process.argv;
const run = Command.run(command, { name: "dlq", version });

// Everything for it, the migrations among it, is loaded only then.
const program = words.some((word) => /^--embedded(?:=|$)/u.test(word))
  ? Effect.flatMap(
      Effect.promise(() => import("./embedded.js")),
      ({ embedded }) => embedded(words, (rest) => run([node, script, ...rest])),
    )
  : run(process.argv);

program.pipe(
  // Wrong flags are told by the parser itself.
  Effect.tapErrorCause((cause) => {
    const error = Cause.squash(cause);
    return Cause.isInterruptedOnly(cause) || ValidationError.isValidationError(error) || error instanceof Ended
      ? Effect.void
      : note(explain(error));
  }),
  Effect.provide([
    NodeContext.layer,
    Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger)),
  ]),
  NodeRuntime.runMain({
    disableErrorReporting: true,
    disablePrettyLogger: true,
    teardown: (exit, onExit) => onExit(codeOf(exit)),
  }),
);
