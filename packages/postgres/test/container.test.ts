import { assert, describe, it } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { getContainerRuntimeClient } from "testcontainers";
import { isEngineLikely } from "../src/container.js";
import * as Postgres from "../src/postgres.js";
import { hold, named, processesOf, start, temporaryFolder, until } from "./support/program.js";
import { query, show } from "./support/sql.js";

const client = isEngineLikely() ? await getContainerRuntimeClient().catch(() => undefined) : undefined;

/** The states of the containers that were started with settings that name the folder. */
const containersOf = (folder: string) =>
  Effect.promise(async () => {
    const containers = (await client?.container.dockerode.listContainers({ all: true })) ?? [];
    const { cluster_name } = named(folder);
    return containers.filter(({ Command }) => Command.includes(cluster_name)).map(({ State }) => State);
  });

/** What the tests' own environment says about the engine. */
const engine = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => /^(DOCKER|TESTCONTAINERS|CONTAINERS|XDG_RUNTIME)/.test(name)),
);

const program = (folder: string) =>
  start(folder, process.execPath, [...hold, JSON.stringify({ provider: "testcontainers", settings: named(folder) })], {
    env: Object.fromEntries(Object.entries(engine).flatMap(([name, value]) => (value ? [[name, value]] : []))),
  });

describe.skipIf(client === undefined)("a container (skipped where no engine answers)", () => {
  it.scopedLive("has a PostgreSQL 18 with the settings that were given, and is removed with its scope", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      yield* Effect.scoped(
        Effect.gen(function* () {
          const settings = { ...named(folder), work_mem: "7MB" };
          const { provider, url, version } = yield* Postgres.make({ provider: "testcontainers", settings });
          assert.strictEqual(provider, "testcontainers");
          assert.match(version, /^18\./);
          assert.strictEqual(yield* show(url, "work_mem"), "7MB");
          assert.strictEqual(yield* show(url, "max_connections"), "200");
          assert.strictEqual(yield* show(url, "fsync"), "off");
          assert.deepStrictEqual(yield* query(url, "SELECT uuidv7() IS NOT NULL AS has"), [{ has: true }]);
          assert.deepStrictEqual(yield* containersOf(folder), ["running"]);
        }),
      );
      assert.deepStrictEqual(yield* containersOf(folder), []);
      assert.deepStrictEqual(yield* processesOf(folder), []);
    }),
  );

  it.scopedLive("is the choice when nothing is forced and no URL is given, and with a URL it is not", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const settings = named(folder);
      const { provider, url } = yield* Postgres.make({ settings });
      assert.strictEqual(provider, "testcontainers");
      assert.deepStrictEqual(yield* containersOf(folder), ["running"]);
      const given = yield* Postgres.make({ url });
      assert.strictEqual(given.provider, "url");
      assert.strictEqual(Redacted.value(given.url), Redacted.value(url));
      assert.deepStrictEqual(yield* containersOf(folder), ["running"]);
    }),
  );

  it.scopedLive("that refuses its settings fails with what to do, and is removed", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const settings = { ...named(folder), no_such_setting: "1" };
      const error = yield* Effect.flip(Postgres.make({ provider: "testcontainers", settings }));
      assert.include(error.problem, "did not start");
      assert.include(error.problem, 'unrecognized configuration parameter "no_such_setting"');
      assert.include(error.remedy, "POSTGRES_PROVIDER=embedded");
      assert.deepStrictEqual(yield* containersOf(folder), []);
    }),
  );

  for (const signal of ["SIGKILL", "SIGINT", "SIGTERM"] as const) {
    it.scopedLive(`is removed when the process that started it gets ${signal}`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const { ended, kill, says } = yield* program(folder);
        const url = Redacted.make(yield* says(/postgres:\/\/\S+/));
        assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
        assert.deepStrictEqual(yield* containersOf(folder), ["running"]);
        yield* kill(signal);
        yield* ended;
        assert.deepStrictEqual(yield* containersOf(folder), []);
        assert.deepStrictEqual(yield* processesOf(folder), []);
      }),
    );
  }

  it.scopedLive("is removed when the process that started it is killed while it comes up", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const { ended, kill } = yield* program(folder);
      yield* until(Effect.map(containersOf(folder), ({ length }) => length > 0));
      yield* kill("SIGKILL");
      const { stdout } = yield* ended;
      assert.notInclude(stdout, "postgres://");
      assert.deepStrictEqual(yield* containersOf(folder), []);
      assert.deepStrictEqual(yield* processesOf(folder), []);
    }),
  );
});
