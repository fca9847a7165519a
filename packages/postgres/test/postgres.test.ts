import { existsSync } from "node:fs";
import { assert, describe, it, layer } from "@effect/vitest";
import * as ConfigProvider from "effect/ConfigProvider";
import * as Effect from "effect/Effect";
import type * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import * as Postgres from "../src/postgres.js";
import { hold, leftOf, named, nothing, run, temporaryFolder, withPostgres } from "./support/program.js";
import { show } from "./support/sql.js";

const inEnvironment = (environment: Readonly<Record<string, string>>) =>
  Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(environment))));

const makeIn = (environment: Readonly<Record<string, string>>) =>
  Effect.scoped(inEnvironment(environment)(Postgres.makeConfig()));

const nowhere = "postgres://postgres:x@127.0.0.1:1/postgres";

layer(Postgres.layer({ provider: "embedded" }), { excludeTestServices: true })("the provider", (it) => {
  it.effect("is the URL, when DATABASE_URL is set", () =>
    Effect.gen(function* () {
      const { url, version } = yield* Postgres.Postgres;
      const server = yield* makeIn({ DATABASE_URL: Redacted.value(url) });
      assert.deepStrictEqual(
        { ...server, url: Redacted.value(server.url) },
        {
          url: Redacted.value(url),
          provider: "url",
          version,
        },
      );
    }),
  );

  it.effect("is the URL, when that is forced", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      const server = yield* makeIn({ DATABASE_URL: Redacted.value(url), POSTGRES_PROVIDER: "url" });
      assert.strictEqual(server.provider, "url");
    }),
  );

  it.effect("is an embedded server, when that is forced, whatever DATABASE_URL says", () =>
    Effect.gen(function* () {
      const server = yield* makeIn({ DATABASE_URL: nowhere, POSTGRES_PROVIDER: "embedded" });
      assert.strictEqual(server.provider, "embedded");
    }),
  );

  it.effect("is a layer's service", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      const fromLayer = (of: Layer.Layer<Postgres.Postgres, unknown>) =>
        Effect.provide(Postgres.Postgres, of).pipe(Effect.map(({ provider }) => provider));
      assert.strictEqual(yield* fromLayer(Postgres.layer({ url })), "url");
      const environment = inEnvironment({ DATABASE_URL: Redacted.value(url) });
      assert.strictEqual(yield* environment(fromLayer(Postgres.layerConfig())), "url");
    }),
  );
});

describe("the environment", () => {
  const configured = (environment: Readonly<Record<string, string>>) => inEnvironment(environment)(Postgres.config);

  for (const environment of [
    {},
    { DATABASE_URL: "", POSTGRES_PROVIDER: "" },
    { DATABASE_URL: " ", POSTGRES_PROVIDER: " " },
  ]) {
    it.effect(`leaves the choice open with ${JSON.stringify(environment)}`, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* configured(environment), { provider: undefined, url: undefined });
      }),
    );
  }

  for (const provider of Postgres.Provider.literals) {
    it.effect(`takes ${provider}, with blanks around it`, () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* configured({ POSTGRES_PROVIDER: ` ${provider} ` })).provider, provider);
      }),
    );
  }

  it.effect("refuses a provider that it does not know, and names the ones that there are", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(configured({ POSTGRES_PROVIDER: "docker" }));
      assert.include(String(error), '"docker"');
      for (const provider of Postgres.Provider.literals) assert.include(String(error), provider);
    }),
  );

  for (const environment of [{}, { DATABASE_URL: "" }]) {
    it.effect(`says what to do when url is forced and the rest is ${JSON.stringify(environment)}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(makeIn({ ...environment, POSTGRES_PROVIDER: "url" }));
        assert.strictEqual(
          error.toString(),
          "PostgresUnavailable: No PostgreSQL 18 (url): DATABASE_URL is not set. Set it, or unset POSTGRES_PROVIDER",
        );
      }),
    );
  }

  it.effect("fails rather than start another server when DATABASE_URL does not answer", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(makeIn({ DATABASE_URL: nowhere }));
      assert.include(error.message, "No PostgreSQL 18 (url): cannot connect: connect ECONNREFUSED 127.0.0.1:1");
    }),
  );
});

describe("a data folder", () => {
  it.effect("is refused for a container", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Effect.scoped(Postgres.make({ provider: "testcontainers", dataDirectory: "data" })),
      );
      assert.include(error.problem, "keeps no data in a folder");
      assert.include(error.remedy, "embedded");
    }),
  );

  it.scopedLive("makes an embedded server the first choice, engine or not", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const server = yield* Postgres.make({ dataDirectory: `${folder}/data` });
      assert.strictEqual(server.provider, "embedded");
      assert.strictEqual(yield* show(server.url, "data_directory"), `${folder}/data`);
    }),
  );
});

// Where an engine listens at the usual place it cannot be hidden from Testcontainers.
const isHideable = !existsSync("/var/run/docker.sock") && !existsSync(`/run/user/${process.getuid?.()}/docker.sock`);

describe.skipIf(!isHideable)("without a container engine (skipped where /var/run/docker.sock exists)", () => {
  const withoutEngine = (environment: Readonly<Record<string, string>>) =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const env = { HOME: folder, ...environment };
      const ended = yield* run(folder, process.execPath, [withPostgres, "--", process.execPath, "--eval", ""], { env });
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
      return ended;
    });

  it.scopedLive("an embedded server is taken", () =>
    Effect.gen(function* () {
      const { code, stderr } = yield* withoutEngine({});
      assert.match(stderr, /^> PostgreSQL 18\.\d+ \(embedded\)\n$/);
      assert.strictEqual(code, 0);
    }),
  );

  it.scopedLive(
    "an embedded server is taken, with a word about the engine that should be there and does not answer",
    () =>
      Effect.gen(function* () {
        const { code, stderr } = yield* withoutEngine({ DOCKER_HOST: "unix:///nonexistent/docker.sock" });
        assert.match(
          stderr,
          /^> not in a container: no container engine answers \(.*\); going on with an embedded server\n/,
        );
        assert.match(stderr, /> PostgreSQL 18\.\d+ \(embedded\)\n$/);
        assert.strictEqual(code, 0);
      }),
  );

  for (const environment of [
    {},
    { DOCKER_HOST: "unix:///nonexistent/docker.sock" },
    { DOCKER_HOST: "tcp://127.0.0.1:1" },
  ]) {
    it.scopedLive(`a container is refused with what to do, when forced and given ${JSON.stringify(environment)}`, () =>
      Effect.gen(function* () {
        const { code, stderr } = yield* withoutEngine({ ...environment, POSTGRES_PROVIDER: "testcontainers" });
        assert.match(
          stderr,
          /^No PostgreSQL 18 \(testcontainers\): no container engine answers \(.+\)\. Start Docker, or set/,
        );
        assert.include(stderr, "unset POSTGRES_PROVIDER");
        assert.strictEqual(code, 1);
      }),
    );
  }
});

describe("a program", () => {
  it.scopedLive("that has nothing else to do ends, and the server with it, though its scope is open", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const options = JSON.stringify({ provider: "embedded", settings: named(folder) });
      const { code, stdout } = yield* run(folder, process.execPath, [...hold, options, "forget"]);
      assert.include(stdout, "postgres://");
      assert.strictEqual(code, 0);
      assert.deepStrictEqual(yield* leftOf(folder), nothing);
    }),
  );
});
