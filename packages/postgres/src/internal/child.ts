/** A child process whose end cannot be missed: its listeners are there before it can have one. */
import type { ChildProcess } from "node:child_process";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";

export interface Child<P extends ChildProcess> {
  readonly process: P;
  /** How it ended: an exit code or a signal. Completes when it is gone and what it wrote has been read. */
  readonly ended: Effect.Effect<number | NodeJS.Signals>;
}

/** `cause` is what `spawn` says: no such file, no right to execute it or to take another identity, too many processes. */
export class NotStarted extends Data.TaggedError("NotStarted")<{ readonly cause: unknown }> {
  override get message() {
    return this.cause instanceof Error ? this.cause.message : String(this.cause);
  }
}

/** Starts a process. `attach` gets it at once, and is the place for listeners to its streams. */
export const start = <P extends ChildProcess>(
  spawn: () => P,
  attach: (process: P) => void = () => undefined,
): Effect.Effect<Child<P>, NotStarted> =>
  Effect.try({ try: spawn, catch: (cause) => new NotStarted({ cause }) }).pipe(
    Effect.flatMap((child) =>
      Effect.async<Child<P>, NotStarted>((resume) => {
        // "Could not be killed" is reported here too, and says nothing about its start or its end.
        child.on("error", (cause) => (child.pid === undefined ? resume(new NotStarted({ cause })) : undefined));
        // Without a process there may be no streams either.
        if (child.pid === undefined) return;
        attach(child);
        const ended = new Promise<number | NodeJS.Signals>((resolve) => {
          child.once("exit", (code, signal) => {
            const end = () => resolve(signal ?? code ?? 1);
            // Its last words may be read after its end; but a grandchild that holds the pipe shall not keep us.
            const patience = setTimeout(end, 1000);
            child.once("close", () => {
              clearTimeout(patience);
              end();
            });
          });
        });
        resume(Effect.succeed({ process: child, ended: Effect.promise(() => ended) }));
      }),
    ),
  );

/** Sends one signal after the other, each a while after the last, until the child is gone. */
export const stop =
  (...signals: ReadonlyArray<readonly [signal: NodeJS.Signals, seconds: number]>) =>
  <P extends ChildProcess>({ ended, process }: Child<P>): Effect.Effect<void> =>
    Effect.gen(function* () {
      for (const [signal, seconds] of signals) {
        // A finalizer is not interruptible, and then neither would be the loser of this race.
        const gone = yield* Effect.sync(() => process.kill(signal)).pipe(
          Effect.zipRight(Effect.interruptible(ended)),
          Effect.timeoutOption(`${seconds} seconds`),
        );
        if (Option.isSome(gone)) return;
      }
      yield* ended;
    });
