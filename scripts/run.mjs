/**
 * What `npm run demo`, `npm test` and their variants do: install, then run, with nothing but Node and npm on the machine.
 *
 * Child processes are started without a shell in between and get this process's signals, so that Ctrl-C reaches the one
 * that has something to tidy up, and this process waits for it.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Node 20.19 or newer is needed, this is ${process.versions.node}.`);
  process.exit(1);
}

/** Runs a command to its end; resolves to its exit code, 128 + n when a signal ended it. */
const run = (command, args, env = {}) =>
  new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
    const pass = (signal) => child.kill(signal);
    // A terminal's Ctrl-C reaches the whole group, the child included; a signal to this process alone does not.
    const onInterrupt = () => (process.stdin.isTTY ? undefined : pass("SIGINT"));
    const onTerminate = () => pass("SIGTERM");
    process.on("SIGINT", onInterrupt).on("SIGTERM", onTerminate);
    const done = (code) => {
      process.off("SIGINT", onInterrupt).off("SIGTERM", onTerminate);
      resolve(code);
    };
    child.on("error", (error) => {
      console.error(`${command} cannot be started: ${error.message}`);
      done(1);
    });
    child.on("exit", (code, signal) => done(code ?? 128 + (constants.signals[signal] ?? 1)));
  });

const say = (text) => console.log(`\n> ${text}`);
// The server is stopped when the command has ended, and before this process does.
const withPostgres = (...args) =>
  run(process.execPath, [join(root, "packages/postgres/bin/with-postgres.mjs"), "--", process.execPath, ...args]);
const demo = (...args) => withPostgres("--import", "tsx", join(root, "packages/database/demo/main.ts"), ...args);
const vitest = (...args) =>
  withPostgres(
    join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    "--config",
    join(root, "vitest.workspace.ts"),
    ...args,
  );

const install = () => {
  say(`installing dependencies with ${packageManager}`);
  return run("npx", ["--yes", packageManager, "install", "--frozen-lockfile", "--prefer-offline"], { CI: "true" });
};

const commands = {
  demo: () => demo(...process.argv.slice(3)),
  test: () => {
    say("running every test against a real PostgreSQL 18; long campaigns reduced (npm run test:full has them whole)");
    return vitest(...process.argv.slice(3));
  },
  "test:full": () => {
    say("running every test and every campaign in full");
    process.env.TEST_FULL = "1";
    return vitest(...process.argv.slice(3));
  },
  "test:docker": async () => {
    process.env.POSTGRES_PROVIDER = "testcontainers";
    say("running the tests on the container engine");
    const tested = await vitest(...process.argv.slice(3));
    if (tested !== 0) return tested;
    say("running the demo on the container engine");
    return demo();
  },
};

const command = commands[process.argv[2]];
if (command === undefined) {
  console.error(`usage: node scripts/run.mjs ${Object.keys(commands).join(" | ")}`);
  process.exit(1);
}
const installed = await install();
process.exit(installed === 0 ? await command() : installed);
