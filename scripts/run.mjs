/**
 * What `npm run demo`, `npm test` and their variants do: install, then run, with nothing but Node and npm on the machine.
 * Whatever ends them, Ctrl-C included, nothing stays behind; see child.mjs.
 */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { run } from "./child.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Node 20.19 or newer is needed, this is ${process.versions.node}.`);
  process.exit(1);
}

const say = (text) => console.log(`\n> ${text}`);
// The server is stopped when the command has ended, and before this process does.
const withPostgres = (...args) =>
  run(process.execPath, [join(root, "packages/postgres/bin/with-postgres.mjs"), "--", process.execPath, ...args], {
    cwd: root,
  });
const demo = (...args) => withPostgres("--import", "tsx", join(root, "packages/jobs/demo/main.ts"), ...args);
const vitest = (...args) =>
  withPostgres(
    join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    "--config",
    join(root, "vitest.workspace.ts"),
    ...args,
  );

// Some of those that are compared need a newer Node than this project does.
const bench = (...args) =>
  run(
    "npx",
    [
      "--yes",
      "--package",
      "node@24.21.0",
      "--",
      "node",
      "--import",
      "tsx",
      join(root, "packages/bench/src/main.ts"),
      ...args,
    ],
    { cwd: root, toAll: true },
  );

// Each starts the servers that it torments.
const trial = (name) =>
  run(
    process.execPath,
    ["--import", "tsx", join(root, `packages/trials/src/${name}/main.ts`), ...process.argv.slice(3)],
    { cwd: root, toAll: true },
  );

const install = () => {
  say(`installing dependencies with ${packageManager}`);
  return run("npx", ["--yes", packageManager, "install", "--frozen-lockfile", "--prefer-offline"], {
    cwd: root,
    env: { CI: "true" },
    toAll: true,
  });
};

const commands = {
  demo: () => demo(...process.argv.slice(3)),
  bench: () => {
    say("measuring, one contestant at a time; leave the machine alone");
    return bench(...process.argv.slice(3));
  },
  chaos: () => trial("chaos"),
  fuzz: () => trial("fuzz"),
  mutations: () => trial("mutations"),
  soak: () => trial("soak"),
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
// Compilers keep caches in the temporary folder and an interrupted test runner leaves its own there: all that gets one to throw
// away. Others may walk through it, because a server that root starts runs as a user of its own.
const temporary = mkdtempSync(join(tmpdir(), "parametric-portal-"));
chmodSync(temporary, 0o711);
process.env.TMPDIR = temporary;
try {
  const installed = await install();
  process.exitCode = installed === 0 ? await command() : installed;
} finally {
  // A server that an interrupted test had started takes its folder away last, moments after us.
  const isServed = () => readdirSync(temporary).some((name) => name.startsWith("portal-postgres-"));
  for (let round = 0; round < 100 && isServed(); round++) await sleep(100);
  try {
    rmSync(temporary, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  } catch (error) {
    console.error(`${temporary} could not be removed: ${error.message}`);
    process.exitCode ||= 1;
  }
}
process.exit();
