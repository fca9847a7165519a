/**
 * Runs a command for as long as it likes. The command decides when it ends, and only then may what it uses go: a signal is passed
 * on to it, never obeyed here.
 */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Predicate from "effect/Predicate";
import * as Child from "./internal/child.js";
import { isForeground } from "./internal/terminal.js";

const passed = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
type Passed = (typeof passed)[number];

/** What a shell makes of an end by a signal. */
export const exitCode = (signal: NodeJS.Signals): number => 128 + constants.signals[signal];

const isMissing = Predicate.compose(Predicate.hasProperty("code"), ({ code }) => code === "ENOENT");

export interface Signals {
  /** The first one, if there has been one. */
  readonly first: Effect.Effect<Passed>;
  /** Runs the command and passes signals on; returns its exit code. After a signal it is not begun. */
  readonly run: (command: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv) => Effect.Effect<number>;
}

/** Takes this process's signals for good: one handler each, so that none is lost between two purposes. */
export const takeSignals: Effect.Effect<Signals> = Effect.gen(function* () {
  const first = yield* Deferred.make<Passed>();
  let seen: Passed | undefined;
  let pass: (signal: Passed) => void = () => undefined;
  for (const signal of passed) {
    process.on(signal, () => {
      seen ??= signal;
      Deferred.unsafeDone(first, Effect.succeed(signal));
      pass(signal);
    });
  }
  return {
    first: Deferred.await(first),
    run: (command, args, env) =>
      Effect.gen(function* () {
        if (seen !== undefined) return exitCode(seen);
        const child = yield* Child.start(() => spawn(command, args, { stdio: "inherit", env }));
        pass = (signal) => {
          const byKey = signal === "SIGINT" || signal === "SIGQUIT";
          if (!(byKey && isForeground())) child.process.kill(signal);
        };
        const ending = yield* child.ended;
        return typeof ending === "number" ? ending : exitCode(ending);
      }).pipe(
        Effect.catchTag("NotStarted", ({ cause, message }) =>
          Effect.sync(() => {
            console.error(`${command} cannot be started: ${message}`);
            return isMissing(cause) ? 127 : 126;
          }),
        ),
      ),
  };
});
