import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Postgres from "../src/postgres.js";
import { leftOf, nothing, processesOf, run, start, temporaryFolder, until, withPostgres } from "./support/program.js";
import { query } from "./support/sql.js";

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
const patient = ["--import", tsx, fileURLToPath(new URL("./support/patient.ts", import.meta.url))];

layer(Postgres.layer({ provider: "embedded" }), { excludeTestServices: true })("with-postgres and a URL", (it) => {
  const withUrl = (args: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      const folder = yield* temporaryFolder;
      const env = { DATABASE_URL: Redacted.value(url) };
      return yield* run(folder, process.execPath, [withPostgres, ...args], { env });
    });

  it.scoped("gives the command the URL, and forces it on whatever that starts", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      const script = "console.log(process.env.DATABASE_URL, process.env.POSTGRES_PROVIDER)";
      const { code, stderr, stdout } = yield* withUrl(["--", process.execPath, "--eval", script]);
      assert.strictEqual(stdout, `${Redacted.value(url)} url\n`);
      assert.match(stderr, /^> PostgreSQL 18\.\d+ \(url\)\n$/);
      assert.strictEqual(code, 0);
    }),
  );

  for (const [what, args, code] of [
    ["the command's exit code", [process.execPath, "--eval", "process.exit(42)"], 42],
    [
      "128 and the signal that ended the command",
      [process.execPath, "--eval", "process.kill(process.pid, 'SIGKILL')"],
      137,
    ],
    ["127 for a command that is not there", ["no-such-command"], 127],
    ["126 for a file that cannot be executed", [fileURLToPath(import.meta.url)], 126],
  ] as const) {
    it.scoped(`ends with ${what}`, () =>
      Effect.gen(function* () {
        const ended = yield* withUrl(args);
        assert.strictEqual(ended.code, code);
        if (code === 126 || code === 127) assert.include(ended.stderr, `${args[0]} cannot be started`);
      }),
    );
  }

  it.scoped("passes the command's arguments on as they are", () =>
    Effect.gen(function* () {
      const args = ["--", "a b", "$HOME", "'", ""];
      const script = "console.log(JSON.stringify(process.argv.slice(1)))";
      const { stdout } = yield* withUrl(["--", process.execPath, "--eval", script, "--", ...args]);
      assert.deepStrictEqual(JSON.parse(stdout), args);
    }),
  );
});

describe("with-postgres and a server of its own", () => {
  const env = { POSTGRES_PROVIDER: "embedded" };

  it.scopedLive("prints the URL when there is no command, and keeps the server until Ctrl-C", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const { ended, kill, says } = yield* start(folder, process.execPath, [withPostgres], { env });
      const url = Redacted.make(yield* says(/^postgres:\/\/\S+$/m));
      assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
      yield* kill("SIGINT");
      const { code, stdout } = yield* ended;
      assert.strictEqual(code, 0);
      assert.strictEqual(stdout, `${Redacted.value(url)}\n`);
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );

  it.scopedLive("passes signals on to the command, each once, and keeps the server until that has ended", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const { ended, kill, says } = yield* start(
        folder,
        process.execPath,
        [withPostgres, "--", process.execPath, ...patient, folder],
        { env },
      );
      yield* says(/ready/);
      let expected = "ready";
      for (const signal of ["SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM"] as const) {
        yield* kill(signal);
        expected += `\ngot ${signal}\nthe server answers`;
        yield* says(new RegExp(`^${expected}$`, "m"));
      }
      const { code, stdout } = yield* ended;
      assert.strictEqual(stdout.trim(), expected);
      assert.strictEqual(code, 7);
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );

  for (const [signal, exitCode] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    it.scopedLive(`gives up at ${signal} while the server starts, and does not begin the command`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const { ended, kill } = yield* start(
          folder,
          process.execPath,
          [withPostgres, "--", process.execPath, "--eval", "console.log('begun')"],
          { env },
        );
        // Its own folder is there: the server is being made.
        yield* until(Effect.map(leftOf(folder), ({ files }) => files.length > 0));
        yield* kill(signal);
        const { code, stdout } = yield* ended;
        assert.strictEqual(code, exitCode);
        assert.strictEqual(stdout, "");
        assert.deepStrictEqual(yield* leftOf(folder), nothing);
      }),
    );
  }

  const hasTerminals = process.platform === "linux" && spawnSync("script", ["--version"]).status === 0;

  it.scopedLive.skipIf(!hasTerminals)(
    "leaves a terminal's Ctrl-C to the terminal, so that the command gets it once (skipped without script of util-linux)",
    () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const command = [process.execPath, withPostgres, "--", process.execPath, ...patient, folder]
          .map((_) => `'${_}'`)
          .join(" ");
        // The shell in between waits for the command and ends as it does.
        const args = ["-qefc", `trap : INT; ${command}; exit $?`, "/dev/null"];
        const { ended, says, write } = yield* start(folder, "script", args, { env: { ...env, SHELL: "/bin/sh" } });
        yield* says(/ready/);
        const [line] = (yield* processesOf(folder)).filter((_) => /^\s*\d+ \S*node \S*with-postgres\.mjs/.test(_));
        const pid = Number.parseInt(line ?? "", 10);
        // Asleep when the key is pressed, it can pass something on only after the command has got it from the terminal.
        process.kill(pid, "SIGSTOP");
        yield* write("\x03");
        yield* says(/got SIGINT/);
        process.kill(pid, "SIGCONT");
        process.kill(pid, "SIGTERM");
        const { code, stdout } = yield* ended;
        assert.strictEqual(code, 7);
        assert.deepStrictEqual(stdout.match(/got \w+/g), ["got SIGINT", "got SIGTERM"]);
        assert.deepStrictEqual(yield* leftOf(folder), nothing);
      }),
  );
});
