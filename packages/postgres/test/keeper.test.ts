import { existsSync, readdirSync } from "node:fs";
import * as fs from "node:fs/promises";
import { join } from "node:path";
import { assert, describe, it } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { isFull } from "./support/campaign.js";
import { hold, leftOf, named, nothing, processesOf, start, temporaryFolder, untilExists } from "./support/program.js";
import { query } from "./support/sql.js";

// Every signal at every moment in `npm run test:full`; a signal that is not handled ends a process as KILL does.
const all = ["SIGKILL", "SIGINT", "SIGTERM", "SIGHUP"] as const;

const program = (folder: string, options: Readonly<Record<string, unknown>> = {}) =>
  start(folder, process.execPath, [
    ...hold,
    JSON.stringify({ provider: "embedded", settings: named(folder), ...options }),
  ]);

/** A path in the server's own folder, which is the only one in the temporary folder; undefined while there is none. */
const inWorkFolder = (folder: string, path: string) => () => {
  const [name] = readdirSync(folder).filter((_) => _.startsWith("portal-postgres-"));
  return name === undefined ? undefined : join(folder, name, path);
};

describe("a server whose starting process", () => {
  for (const signal of isFull ? all : (["SIGKILL", "SIGINT"] as const)) {
    it.scopedLive(`gets ${signal} is gone, with its keeper and its folder`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const { ended, kill, says } = yield* program(folder);
        const url = Redacted.make(yield* says(/postgres:\/\/\S+/));
        assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
        assert.isAtLeast((yield* processesOf(folder)).length, 3);
        yield* kill(signal);
        assert.strictEqual((yield* ended).signal, signal);
        assert.deepStrictEqual(yield* leftOf(folder), nothing);
      }),
    );
  }

  const moments = [
    ["while the server comes up", "data/postmaster.pid"],
    ["while initdb is at work", "data/PG_VERSION"],
    ["while the folder is new", ""],
    ["before anything is there", undefined],
  ] as const;
  for (const [moment, path] of isFull ? moments : moments.slice(0, 2)) {
    for (const signal of isFull ? all : (["SIGKILL"] as const)) {
      it.scopedLive(`gets ${signal} ${moment} leaves nothing`, () =>
        Effect.gen(function* () {
          const folder = yield* temporaryFolder;
          const { ended, kill, says } = yield* program(folder);
          yield* says(/starting/);
          if (path !== undefined) yield* untilExists(inWorkFolder(folder, path));
          yield* kill(signal);
          const { stdout } = yield* ended;
          assert.notInclude(stdout, "postgres://");
          assert.deepStrictEqual(yield* leftOf(folder), nothing);
        }),
      );
    }
  }

  it.scopedLive.runIf(isFull)("is killed while initdb fills a folder that was given leaves that as it was", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const kept = yield* temporaryFolder;
      const dataDirectory = join(kept, "not", "there");
      const { ended, kill } = yield* program(folder, { dataDirectory });
      // It is filled beside its place.
      const parent = join(kept, "not");
      yield* untilExists(() => join(parent, existsSync(parent) ? (readdirSync(parent)[0] ?? "") : "", "PG_VERSION"));
      yield* kill("SIGKILL");
      yield* ended;
      assert.isFalse(existsSync(dataDirectory));
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
      assert.deepStrictEqual(yield* leftOf(kept), nothing);
      // So that the next one can have it.
      const next = yield* program(folder, { dataDirectory });
      yield* next.says(/postgres:\/\//);
      yield* next.kill("SIGKILL");
      yield* next.ended;
      assert.isTrue(existsSync(join(dataDirectory, "PG_VERSION")));
      assert.isFalse(existsSync(join(dataDirectory, "postmaster.pid")));
    }),
  );
});

describe("a keeper", () => {
  it.scopedLive("obeys no signal itself: who started it may still need the server while ending", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const { ended, kill, says } = yield* program(folder);
      const url = Redacted.make(yield* says(/postgres:\/\/\S+/));
      const [row] = yield* query(url, "SELECT current_setting('data_directory') AS data");
      const pid = Number(
        (yield* Effect.promise(() => fs.readFile(`${row?.data}/postmaster.pid`, "utf8"))).split("\n")[0],
      );
      const keeper = (yield* processesOf(folder)).find(
        (line) => line.includes("keeper.ts") && !line.includes("hold.ts"),
      );
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const) {
        process.kill(Number.parseInt(keeper ?? "", 10), signal);
      }
      assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
      assert.isTrue(process.kill(pid, 0));
      yield* kill("SIGTERM");
      yield* ended;
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );
});
