/**
 * Runs commands one after the other, each to its end, and passes on the signals that end this process: to one process, once, so
 * that the one that has something to tidy up can, while this one waits for it. What a command leaves behind is ended too.
 */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** What to do with a signal; null while nothing runs. */
let pass = null;
/** The first signal; after it nothing is begun. */
let received = null;
const lastAt = new Map();

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]) {
  process.on(signal, () => {
    // npm passes on what a terminal has sent to us as well.
    const isEcho = performance.now() - (lastAt.get(signal) ?? Number.NEGATIVE_INFINITY) < 1000;
    lastAt.set(signal, performance.now());
    received ??= signal;
    if (!isEcho) pass?.(signal);
  });
}

const signalGroup = (pid, signal) => {
  try {
    return process.kill(-pid, signal);
  } catch {
    return false;
  }
};

/** Ends what is left of a group whose leader has ended, such as the workers of a test runner that was interrupted. */
const sweep = async (pid) => {
  for (let round = 0; round < 100 && signalGroup(pid, round < 40 ? "SIGTERM" : "SIGKILL"); round++) await sleep(50);
};

/**
 * Resolves to the exit code, 128 + n when a signal ended the command or this process got one. `toAll`: a signal goes to the
 * command and its children alike, as a terminal does it; else to the command alone, which has to pass it on.
 */
export const run = async (command, args, { cwd, env = {}, toAll = false }) => {
  if (received !== null) return 128 + constants.signals[received];
  // A session of its own keeps a terminal's Ctrl-C from reaching it past us, and gives what it starts a name to be ended by.
  const child = spawn(command, args, {
    cwd,
    stdio: ["ignore", "inherit", "inherit"],
    detached: true,
    env: { ...process.env, ...env },
  });
  let last;
  pass = (signal) => {
    if (toAll) signalGroup(child.pid, signal);
    else child.kill(signal);
    last ??= setTimeout(() => signalGroup(child.pid, "SIGKILL"), 20_000);
  };
  const code = await new Promise((resolve) => {
    child.on("error", (error) => {
      if (child.pid !== undefined) return;
      console.error(`${command} cannot be started: ${error.message}`);
      resolve(127);
    });
    child.on("exit", (exitCode, signal) => resolve(exitCode ?? 128 + (constants.signals[signal] ?? 1)));
  });
  clearTimeout(last);
  if (child.pid !== undefined) await sweep(child.pid);
  pass = null;
  return code === 0 && received !== null ? 128 + constants.signals[received] : code;
};
