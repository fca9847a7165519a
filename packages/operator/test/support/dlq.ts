/** The command `dlq` as a process of its own. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { type Environment, start } from "../../../database/test/support/process.js";
import { bundle } from "../../bundle.mjs";

/** As it is published, made anew for each file of tests; what the console is made of belongs into its `console`. */
export const folder = fileURLToPath(new URL(`../../artifacts/dlq-${process.pid}`, import.meta.url));
const bundled = Effect.runSync(Effect.cached(Effect.promise(() => bundle(folder))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The executable's path. */
export const bundledDlq = Effect.as(bundled, join(folder, "bin.js"));

/** Starts `dlq`; it is killed with the scope. */
export const startDlq = (args: ReadonlyArray<string>, environment: Environment) =>
  Effect.zipRight(
    bundled,
    start(process.execPath, [join(folder, "bin.js"), ...args], { DLQ_ACTOR: "on call", ...environment }),
  );

/** Runs `dlq` to its end. */
export const runDlq = (args: ReadonlyArray<string>, environment: Environment) =>
  Effect.scoped(Effect.flatMap(startDlq(args, environment), ({ ended }) => ended));

/** The objects of an output of one JSON object a line. */
export const objects = (stdout: string): ReadonlyArray<Record<string, unknown>> =>
  stdout
    .split("\n")
    .filter((_) => _ !== "")
    .map((_) => JSON.parse(_) as Record<string, unknown>);
