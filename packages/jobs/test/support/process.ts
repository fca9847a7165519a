/** The command `runner` as a process of its own, and what it answers over HTTP. */
import { fileURLToPath } from "node:url";
import * as Effect from "effect/Effect";
import { type Environment, start } from "../../../database/test/support/process.js";

const bin = fileURLToPath(new URL("../../bin/runner.mjs", import.meta.url));

/** A file beside this one. */
export const beside = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Starts `runner`; it is killed with the scope. */
export const startRunner = (args: ReadonlyArray<string>, environment: Environment) =>
  start(process.execPath, [bin, ...args], environment);

/** Runs `runner` to its end. */
export const runRunner = (args: ReadonlyArray<string>, environment: Environment) =>
  Effect.scoped(Effect.flatMap(startRunner(args, environment), ({ ended }) => ended));

/** What a runner answers; undefined when nobody listens. */
export const ask = (port: number, path: string) =>
  Effect.promise((signal) =>
    fetch(`http://127.0.0.1:${port}${path}`, { signal }).then(
      async (response) => ({
        status: response.status,
        type: response.headers.get("content-type") ?? "",
        text: await response.text(),
      }),
      () => undefined,
    ),
  );

/** Asks until the answer has this status; what it was then. */
export const answers = (port: number, path: string, status: number) =>
  Effect.iterate(undefined as Awaited<Effect.Effect.Success<ReturnType<typeof ask>>>, {
    while: (answer) => answer?.status !== status,
    body: () => Effect.tap(ask(port, path), (_) => (_?.status === status ? Effect.void : Effect.sleep("50 millis"))),
  }).pipe(
    Effect.map((_) => _ ?? { status: 0, type: "", text: "" }),
    Effect.timeoutFail({ duration: "30 seconds", onTimeout: () => new Error(`${path} never answered ${status}`) }),
    Effect.orDie,
  );
