import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { assert, describe, it } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { isFull } from "./support/campaign.js";
import { leftOf, nothing, root, run, start, temporaryFolder, withPostgres } from "./support/program.js";

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
const patient = ["--import", tsx, fileURLToPath(new URL("./support/patient.ts", import.meta.url))];
const child = pathToFileURL(join(root, "scripts/child.mjs")).href;
const env = { POSTGRES_PROVIDER: "embedded" };

/** A script that runs commands one after the other as scripts/run.mjs does, and ends with the last one's exit code. */
const script = (...commands: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => [
  "--input-type=module",
  "--eval",
  `import { run } from ${JSON.stringify(child)};
   let code = 0;
   for (const [command, ...args] of ${JSON.stringify(commands)}) code = await run(command, args, { cwd: process.cwd() });
   process.exit(code);`,
];

describe("the commands of package.json", () => {
  // npm sends a signal to the shell that it puts in between, which would end and leave the script behind.
  it("replace the shell in between", () => {
    const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    for (const name of ["demo", "test", "test:full", "test:docker"]) {
      assert.strictEqual(scripts[name], `exec node scripts/run.mjs ${name}`);
    }
  });
});

/** Processes that were given the folder for their temporary files, whatever they are called: nothing to see but on Linux. */
const givenTo = (folder: string) =>
  Effect.sync(() =>
    (process.platform === "linux" ? readdirSync("/proc") : []).filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readFileSync(join("/proc", pid, "environ"), "latin1").includes(`${folder}/`);
      } catch {
        // It has ended meanwhile, or is somebody else's.
        return false;
      }
    }),
  );

describe("scripts/run.mjs", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, isUnderWay: RegExp]> = [
    ...(isFull ? [[["demo"], /\$ kill -9 \d+/] as const] : []),
    [["test", "packages/database/test/explain.test.ts"], /PostgreSQL 18\.\d+ \(url\)/],
  ];
  for (const [args, isUnderWay] of cases) {
    it.scopedLive(
      `${args.join(" ")} that gets Ctrl-C ends with 130 and leaves no process and no temporary folder`,
      () =>
        Effect.gen(function* () {
          const folder = yield* temporaryFolder;
          const program = [join(root, "scripts/run.mjs"), ...args];
          const { ended, kill, says, saysOnStderr } = yield* start(folder, process.execPath, program, { env });
          yield* saysOnStderr(/PostgreSQL 18\.\d+ \(embedded\)/);
          yield* says(isUnderWay);
          // Counter-test: what must be gone can be seen while it is there.
          assert.isNotEmpty((yield* leftOf(folder)).processes);
          assert.isNotEmpty((yield* leftOf(folder)).files);
          if (process.platform === "linux") assert.isNotEmpty(yield* givenTo(folder));
          yield* kill("SIGINT");
          const { code, stderr, stdout } = yield* ended;
          assert.strictEqual(code, 130, `${stdout}\n${stderr}`);
          assert.deepStrictEqual(yield* leftOf(folder), nothing);
          assert.deepStrictEqual(yield* givenTo(folder), []);
        }),
      180_000,
    );
  }
});

describe("a script that runs a command with a server", () => {
  for (const signal of isFull ? (["SIGINT", "SIGTERM"] as const) : (["SIGTERM"] as const)) {
    it.scopedLive(`and gets ${signal} passes it on, waits for the command and leaves nothing`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const command = [process.execPath, withPostgres, "--", process.execPath, ...patient, folder];
        const never = [process.execPath, "--eval", "console.log('begun')"];
        const { ended, kill, says } = yield* start(folder, process.execPath, script(command, never), { env });
        yield* says(/ready/);
        yield* kill(signal);
        yield* says(new RegExp(`got ${signal}\\nthe server answers`));
        if (signal !== "SIGTERM") yield* kill("SIGTERM");
        const { code, stdout } = yield* ended;
        assert.lengthOf(stdout.match(new RegExp(`got ${signal}`, "g")) ?? [], 1);
        // After a signal nothing is begun any more.
        assert.notInclude(stdout, "begun");
        assert.strictEqual(code, signal === "SIGINT" ? 130 : 143);
        assert.deepStrictEqual(yield* leftOf(folder), nothing);
      }),
    );
  }

  it.scopedLive("takes a signal and its echo by npm for one", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      // Two of one kind that are sent at once may arrive as one: so they are made here, and what is passed on is told here.
      const telling = `
        import { ChildProcess } from "node:child_process";
        const { kill } = ChildProcess.prototype;
        ChildProcess.prototype.kill = function (signal) {
          console.log("passes on " + signal);
          return kill.call(this, signal);
        };
        process.on("SIGUSR2", () => {
          for (const signal of ["SIGINT", "SIGINT", "SIGTERM"]) process.emit(signal, signal);
        });`;
      const waiting = `
        process.on("SIGINT", () => undefined);
        process.on("SIGTERM", () => process.exit(5));
        setInterval(() => undefined, 2 ** 30);
        console.log("ready");`;
      const [type, evaluate, text] = script([process.execPath, "--eval", waiting]);
      const args = [type ?? "", evaluate ?? "", `${telling}\n${text}`];
      const { ended, kill, says } = yield* start(folder, process.execPath, args);
      yield* says(/ready/);
      yield* kill("SIGUSR2");
      const { code, stdout } = yield* ended;
      assert.deepStrictEqual(stdout.match(/passes on \w+/g), ["passes on SIGINT", "passes on SIGTERM"]);
      assert.strictEqual(code, 5);
    }),
  );

  it.scopedLive("ends what a command has left behind", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const stubborn = `process.on("SIGTERM", () => undefined); setInterval(() => undefined, 2 ** 30); console.log("stays")`;
      const leaving = `
        const { spawn } = require("node:child_process");
        const left = spawn(process.execPath, ["--eval", ${JSON.stringify(stubborn)}, process.argv[1]], { stdio: ["ignore", "pipe", "ignore"] });
        left.stdout.once("data", () => process.exit(3));`;
      const { code } = yield* run(folder, process.execPath, script([process.execPath, "--eval", leaving, folder]));
      assert.strictEqual(code, 3);
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );

  it.scopedLive("says so when a command cannot be started", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const { code, stderr } = yield* run(folder, process.execPath, script(["no-such-command"]));
      assert.strictEqual(code, 127);
      assert.include(stderr, "no-such-command cannot be started");
    }),
  );
});
