/** Fuzzes a group of targets in a process of its own, and sees what that cannot say itself: that it hangs, or is gone. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import * as Effect from "effect/Effect";
import type { Asked, Told } from "./process.js";
import type { Failure, Result } from "./target.js";

const program = fileURLToPath(new URL("process.ts", import.meta.url));

/** More than this is memory without bound: the process ends. */
export const mostMegabytes = 1024;

export interface WatchOptions extends Asked {
  /** The file that exports `targets`. */
  readonly module: string;
  /** How long it may say nothing. Default a minute. */
  readonly silenceMillis?: number | undefined;
  readonly onTold?: ((told: Told) => void) | undefined;
}

export interface Watched {
  readonly results: ReadonlyArray<Result>;
  /** What became of the process itself. */
  readonly failures: ReadonlyArray<Failure>;
}

/** Its results, and what became of it. It is killed when it is silent, and with the fiber. */
export const watch = (options: WatchOptions): Effect.Effect<Watched> =>
  Effect.async((resume) => {
    const { module, onTold, silenceMillis = 60_000, ...asked } = options;
    const results: Array<Result> = [];
    let last: { readonly target: string; readonly cases: number } = { target: asked.group, cases: 0 };
    let problem: string | undefined;
    const child = fork(program, [module, JSON.stringify(asked)], {
      execArgv: ["--import", "tsx", `--max-old-space-size=${mostMegabytes}`],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    let stderr = "";
    child.stderr?.setEncoding("utf8").on("data", (some: string) => {
      stderr = (stderr + some).slice(-4000);
    });
    const onSilence = () => {
      problem = `hangs: it said nothing for ${silenceMillis} ms`;
      child.kill("SIGKILL");
    };
    let timer = setTimeout(onSilence, silenceMillis);
    child.on("message", (told: Told) => {
      clearTimeout(timer);
      timer = setTimeout(onSilence, silenceMillis);
      if (told.kind === "result") results.push(told.result);
      else last = told;
      onTold?.(told);
    });
    child.once("close", (code, signal) => {
      clearTimeout(timer);
      if (code !== 0) problem ??= `ended with ${signal ?? code}\n${stderr}`;
      const failures =
        problem === undefined
          ? []
          : [
              {
                target: last.target,
                problem: `the process ${problem}, after about ${last.cases} cases`,
                seed: asked.seed,
              },
            ];
      resume(Effect.succeed({ results, failures }));
    });
    return Effect.sync(() => {
      clearTimeout(timer);
      child.kill("SIGKILL");
    });
  });
