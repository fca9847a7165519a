import * as fs from "node:fs/promises";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Postgres from "../src/postgres.js";
import { isFull } from "./support/campaign.js";
import { named, processesOf, temporaryFolder } from "./support/program.js";
import { query, show, urlWith } from "./support/sql.js";

const embedded = (options: Omit<Postgres.Options, "provider" | "url"> = {}) =>
  Postgres.make({ provider: "embedded", ...options });

const isRoot = process.getuid?.() === 0;
const list = (folder: string) => Effect.promise(() => fs.readdir(folder));
const exists = (path: string) =>
  Effect.promise(() =>
    fs.access(path).then(
      () => true,
      () => false,
    ),
  );
const dataOf = (url: Redacted.Redacted) => Effect.map(show(url, "data_directory"), String);
const portOf = (url: Redacted.Redacted) => Number(new URL(Redacted.value(url)).port);

/** Whether something takes connections there; "refused" is the only other answer that passes. */
const listens = (host: string, port: number) =>
  Effect.async<boolean, Error>((resume) => {
    const socket = connect({ host, port });
    socket.once("connect", () => {
      socket.destroy();
      resume(Effect.succeed(true));
    });
    socket.once("error", (error: NodeJS.ErrnoException) =>
      resume(error.code === "ECONNREFUSED" ? Effect.succeed(false) : Effect.fail(error)),
    );
  });

const foreignAddress = Object.values(networkInterfaces())
  .flatMap((addresses) => addresses ?? [])
  .find(({ family, internal }) => family === "IPv4" && !internal)?.address;

layer(Postgres.layer({ provider: "embedded", settings: { work_mem: "7MB" } }), { excludeTestServices: true })(
  "an embedded server",
  (it) => {
    it.effect("has a superuser and a database postgres, in UTF-8 and UTC, with the same order of text everywhere", () =>
      Effect.gen(function* () {
        const { provider, url } = yield* Postgres.Postgres;
        assert.strictEqual(provider, "embedded");
        const [row] = yield* query(
          url,
          `SELECT current_user, current_database(), rolsuper, pg_encoding_to_char(encoding) AS encoding, datlocprovider,
             datlocale, current_setting('TimeZone') AS zone, lower('ÄÖ') AS lower
           FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user`,
        );
        assert.deepStrictEqual(row, {
          current_user: "postgres",
          current_database: "postgres",
          rolsuper: true,
          encoding: "UTF8",
          datlocprovider: "b",
          datlocale: "C.UTF-8",
          zone: "UTC",
          lower: "äö",
        });
      }),
    );

    it.effect("lets nobody in without the password", () =>
      Effect.gen(function* () {
        const { url } = yield* Postgres.Postgres;
        const refusal = (password: string) =>
          Effect.map(Effect.flip(query(urlWith(url, { password }), "SELECT 1")), String);
        assert.include(yield* refusal("wrong"), "password authentication failed");
        assert.include(yield* refusal(""), "password");
        const methods = yield* query(url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules");
        assert.deepStrictEqual(methods, [{ auth_method: "scram-sha-256" }]);
        const [stored] = yield* query(
          url,
          "SELECT rolpassword ~ '^SCRAM-SHA-256' AS is_scram FROM pg_authid WHERE oid = 10",
        );
        assert.deepStrictEqual(stored, { is_scram: true });
      }),
    );

    it.effect("takes another password each time", () =>
      Effect.gen(function* () {
        const { url } = yield* Postgres.Postgres;
        const other = yield* Effect.scoped(Effect.map(embedded(), (server) => server.url));
        const passwords = [url, other].map((_) => new URL(Redacted.value(_)).password);
        assert.notStrictEqual(passwords[0], passwords[1]);
        for (const password of passwords) assert.match(password, /^[\w-]{32}$/);
      }),
    );

    it.effect("listens on the loopback interface only, and on no socket in the file system", () =>
      Effect.gen(function* () {
        const { url } = yield* Postgres.Postgres;
        assert.strictEqual(yield* show(url, "listen_addresses"), "127.0.0.1");
        assert.strictEqual(yield* show(url, "unix_socket_directories"), "");
        assert.isTrue(yield* listens("127.0.0.1", portOf(url)));
      }),
    );

    it.effect.skipIf(foreignAddress === undefined)(
      "refuses connections from other interfaces (skipped on a machine that has none)",
      () =>
        Effect.gen(function* () {
          const { url } = yield* Postgres.Postgres;
          assert.isFalse(yield* listens(foreignAddress ?? "", portOf(url)));
          // The same question finds a server that does listen there.
          const open = yield* Effect.promise(async () => (await import("node:net")).createServer());
          yield* Effect.async<void>((resume) => {
            open.listen(0, foreignAddress, () => resume(Effect.void));
          });
          const address = open.address();
          assert.isTrue(yield* listens(foreignAddress ?? "", typeof address === "object" ? (address?.port ?? 0) : 0));
          open.close();
        }),
    );

    it.effect("has the settings that were given beside the defaults", () =>
      Effect.gen(function* () {
        const { url } = yield* Postgres.Postgres;
        assert.strictEqual(yield* show(url, "work_mem"), "7MB");
        assert.strictEqual(yield* show(url, "max_connections"), "200");
        assert.strictEqual(yield* show(url, "fsync"), "off");
      }),
    );

    it.effect("runs as somebody who is not root, in a folder that is closed to others", () =>
      Effect.gen(function* () {
        const { url } = yield* Postgres.Postgres;
        const data = yield* dataOf(url);
        const { mode, uid } = yield* Effect.promise(() => fs.stat(data));
        assert.strictEqual(mode & 0o077, 0);
        assert.notStrictEqual(uid, 0);
      }),
    );
  },
);

describe("the end of an embedded server's scope", () => {
  it.scopedLive("takes the server, its keeper and its folder, though a client is connected", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const { data, url } = yield* Effect.scoped(
        Effect.gen(function* () {
          const { url } = yield* embedded({ settings: named(folder) });
          const data = yield* dataOf(url);
          yield* Effect.forkDaemon(Effect.exit(query(url, "SELECT pg_sleep(600)")));
          assert.isAtLeast((yield* processesOf(folder)).length, 2);
          assert.isTrue(yield* exists(data));
          return { data, url };
        }),
      );
      assert.deepStrictEqual(yield* processesOf(folder), []);
      assert.isFalse(yield* exists(data));
      assert.isFalse(yield* exists(join(data, "..")));
      assert.isFalse(yield* listens("127.0.0.1", portOf(url)));
    }),
  );

  it.scopedLive("ends a server whose log goes elsewhere, and which never said that it is ready", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const settings = { ...named(folder), logging_collector: "on", log_min_messages: "panic" };
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { url } = yield* embedded({ settings });
          assert.strictEqual(yield* show(url, "logging_collector"), "on");
        }),
      );
      assert.deepStrictEqual(yield* processesOf(folder), []);
    }),
  );
});

describe("settings", () => {
  it.scopedLive("cannot open the server to other interfaces, or move it", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const settings = { Listen_Addresses: "*", listen_addresses: "*", port: "5", unix_socket_directories: folder };
      const { url } = yield* embedded({ settings });
      assert.strictEqual(yield* show(url, "listen_addresses"), "127.0.0.1");
      assert.strictEqual(yield* show(url, "port"), String(portOf(url)));
      assert.deepStrictEqual(yield* list(folder), []);
    }),
  );

  for (const [what, settings, said] of [
    [
      "that the server does not know",
      { no_such_setting: "1" },
      'unrecognized configuration parameter "no_such_setting"',
    ],
    [
      "with a value that it refuses",
      { max_connections: "many" },
      'invalid value for parameter "max_connections": "many"',
    ],
  ] as const) {
    it.scopedLive(`${what} are refused in the server's words, and leave nothing`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const error = yield* Effect.flip(embedded({ settings: { ...named(folder), ...settings } }));
        assert.strictEqual(error._tag, "PostgresUnavailable");
        assert.include(error.problem, said);
        assert.isNotEmpty(error.remedy);
        assert.deepStrictEqual(yield* processesOf(folder), []);
      }),
    );
  }
});

describe.runIf(isFull)("several servers at once", () => {
  it.scopedLive("get ports of their own, and know nothing of each other", () =>
    Effect.gen(function* () {
      const servers = yield* Effect.all([embedded(), embedded(), embedded(), embedded()], { concurrency: "unbounded" });
      assert.strictEqual(new Set(servers.map(({ url }) => portOf(url))).size, 4);
      yield* Effect.forEach(servers, ({ url }, index) => query(url, `CREATE TABLE mine AS SELECT ${index} AS number`));
      const rows = yield* Effect.forEach(servers, ({ url }) => query(url, "SELECT number FROM mine"));
      assert.deepStrictEqual(rows.flat(), [{ number: 0 }, { number: 1 }, { number: 2 }, { number: 3 }]);
    }),
  );
});

describe("a data folder that was given", () => {
  it.scopedLive("is made with the folders above it, keeps its rows over two starts, and is durable", () =>
    Effect.gen(function* () {
      const dataDirectory = join(yield* temporaryFolder, "not", "there", "yet");
      const first = yield* Effect.scoped(
        Effect.gen(function* () {
          const { url } = yield* embedded({ dataDirectory });
          assert.strictEqual(yield* dataOf(url), dataDirectory);
          assert.strictEqual(yield* show(url, "fsync"), "on");
          assert.strictEqual(yield* show(url, "full_page_writes"), "on");
          yield* query(url, "CREATE TABLE kept AS SELECT 'still here' AS text");
          return url;
        }),
      );
      assert.include(yield* list(dataDirectory), "PG_VERSION");
      const { url } = yield* embedded({ dataDirectory });
      assert.deepStrictEqual(yield* query(url, "SELECT text FROM kept"), [{ text: "still here" }]);
      assert.strictEqual(new URL(Redacted.value(url)).password, new URL(Redacted.value(first)).password);
      const { mode } = yield* Effect.promise(() => fs.stat(join(dataDirectory, "portal_password")));
      assert.strictEqual(mode & 0o077, 0);
    }),
  );

  it.scopedLive("may be there and empty", () =>
    Effect.gen(function* () {
      const dataDirectory = join(yield* temporaryFolder, "empty");
      yield* Effect.promise(() => fs.mkdir(dataDirectory));
      const { url } = yield* embedded({ dataDirectory });
      assert.strictEqual(yield* dataOf(url), dataDirectory);
    }),
  );

  it.scopedLive("is refused while another server uses it, which goes on", () =>
    Effect.gen(function* () {
      const dataDirectory = join(yield* temporaryFolder, "data");
      const { url } = yield* embedded({ dataDirectory });
      const error = yield* Effect.flip(embedded({ dataDirectory }));
      assert.include(error.problem, 'lock file "postmaster.pid" already exists');
      assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
    }),
  );

  it.scopedLive("of two that are made at once is given to one of them whole", () =>
    Effect.gen(function* () {
      const dataDirectory = join(yield* temporaryFolder, "data");
      const both = yield* Effect.all([embedded({ dataDirectory }), embedded({ dataDirectory })], {
        concurrency: "unbounded",
        mode: "either",
      });
      const urls = both.flatMap((_) => (_._tag === "Right" ? [_.right.url] : []));
      assert.lengthOf(urls, 1);
      for (const url of urls) assert.deepStrictEqual(yield* query(url, "SELECT 1 AS one"), [{ one: 1 }]);
    }),
  );

  /** What a folder is, in and out. */
  const snapshot = (path: string) =>
    Effect.promise(async () => {
      const { gid, mode, uid } = await fs.stat(path);
      const names = (await fs.stat(path)).isDirectory() ? await fs.readdir(path) : await fs.readFile(path, "utf8");
      return { gid, mode, uid, names };
    });

  for (const [what, prepare, said] of [
    ["is a file", (path: string) => fs.writeFile(path, "precious"), "not a directory"],
    [
      "holds something else",
      async (path: string) => {
        await fs.mkdir(path);
        await fs.writeFile(join(path, "precious"), "");
      },
      "it is not empty, and without portal_password it was not made here",
    ],
    [
      "holds data that was made elsewhere",
      async (path: string) => {
        await fs.mkdir(path);
        await fs.writeFile(join(path, "PG_VERSION"), "18\n");
      },
      "it is not empty, and without portal_password it was not made here",
    ],
  ] as const) {
    it.scopedLive(`and ${what} is refused with what to do, and left as it was`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder;
        const dataDirectory = join(folder, "data");
        yield* Effect.promise(() => prepare(dataDirectory));
        const before = yield* snapshot(dataDirectory);
        const error = yield* Effect.flip(embedded({ dataDirectory, settings: named(folder) }));
        assert.strictEqual(error._tag, "PostgresUnavailable");
        assert.include(error.problem, dataDirectory);
        assert.include(error.problem, said);
        assert.match(error.remedy, /^Give a new or empty folder/);
        assert.deepStrictEqual(yield* snapshot(dataDirectory), before);
        assert.deepStrictEqual(yield* list(folder), ["data"]);
        assert.deepStrictEqual(yield* processesOf(folder), []);
      }),
    );
  }

  it.scopedLive.skipIf(!isRoot)("in which initdb fails is given back as it was (skipped unless run as root)", () =>
    Effect.gen(function* () {
      const closed = join(yield* temporaryFolder, "closed");
      const dataDirectory = join(closed, "data");
      yield* Effect.promise(async () => {
        await fs.mkdir(dataDirectory, { recursive: true, mode: 0o755 });
        await fs.chmod(closed, 0o700);
      });
      const before = yield* snapshot(dataDirectory);
      const error = yield* Effect.flip(embedded({ dataDirectory }));
      assert.include(error.problem, `the data folder ${dataDirectory} cannot be used: initdb: error: could not access`);
      assert.include(error.remedy, "where the system user postgres reaches every folder above it");
      assert.deepStrictEqual(yield* snapshot(dataDirectory), before);
    }),
  );
});
