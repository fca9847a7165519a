/** The command `dlq` as a process of its own. */
import { fileURLToPath } from "node:url";
import * as Effect from "effect/Effect";
import { type Environment, start } from "../../../database/test/support/portal-db.js";

export const bin = fileURLToPath(new URL("../../bin/dlq.mjs", import.meta.url));

/** Starts `dlq`; it is killed with the scope. */
export const startDlq = (args: ReadonlyArray<string>, environment: Environment) =>
  start(process.execPath, [bin, ...args], { DLQ_ACTOR: "on call", ...environment });

/** Runs `dlq` to its end. */
export const runDlq = (args: ReadonlyArray<string>, environment: Environment) =>
  Effect.scoped(Effect.flatMap(startDlq(args, environment), ({ ended }) => ended));

/** The objects of an output of one JSON object a line. */
export const objects = (stdout: string): ReadonlyArray<Record<string, unknown>> =>
  stdout
    .split("\n")
    .filter((_) => _ !== "")
    .map((_) => JSON.parse(_) as Record<string, unknown>);
