/**
 * The data folder of an embedded server. A folder that was given is filled to the end or left as it was; one that holds anything
 * but data made here is not touched.
 */
import { spawn } from "node:child_process";
import * as fs from "node:fs/promises";
import { dirname, join } from "node:path";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import { PostgresUnavailable } from "../errors.js";
import * as Child from "./child.js";
import { give, type User } from "./identity.js";
import { newPassword } from "./settings.js";

export interface DataFolder {
  readonly data: string;
  /** A folder of the same user for what initdb reads. */
  readonly folder: string;
  readonly initdb: string;
  readonly user: User;
  /** Data that is kept is written through to the disk. */
  readonly isKept: boolean;
  readonly env: NodeJS.ProcessEnv;
}

/** The superuser's password of kept data; written last, so that its presence tells that the folder is complete. */
const passwordFile = "portal_password";

/** Makes the folder ready for a server, and returns its superuser's password. */
export const prepareData = (given: DataFolder): Effect.Effect<string, PostgresUnavailable> =>
  Effect.gen(function* () {
    const { data } = given;
    const found = yield* attempt(given, () => look(data));
    if (found === "made here") {
      return yield* attempt(given, async () => (await fs.readFile(join(data, passwordFile), "utf8")).trim());
    }
    return yield* Effect.acquireUseRelease(
      attempt(given, () => (found === "absent" ? makeFolder(given) : takeFolder(given))),
      ({ filled, finish }) => Effect.tap(initialise(given, filled), () => attempt(given, finish)),
      ({ undo }, exit) => (Exit.isSuccess(exit) ? Effect.void : Effect.promise(undo)),
    );
  });

const unusable = ({ data, isKept, user }: DataFolder, problem: string) =>
  new PostgresUnavailable({
    provider: "embedded",
    problem: `the data folder ${data} cannot be used: ${problem}`,
    remedy: isKept
      ? Option.match(user, {
          onNone: () => "Give a new or empty folder of your own, or one that was made here",
          onSome: () =>
            "Give a new or empty folder, or one that was made here, where the system user postgres reaches every folder above it",
        })
      : "Set TMPDIR to a folder with room, or DATABASE_URL to a PostgreSQL 18",
  });

// To its end: what is given up would go on behind our back.
const attempt = <A>(given: DataFolder, run: () => Promise<A>) =>
  Effect.uninterruptible(
    Effect.tryPromise({
      try: run,
      catch: (error) => unusable(given, error instanceof Error ? error.message.trim() : String(error)),
    }),
  );

const look = async (data: string): Promise<"absent" | "empty" | "made here"> => {
  const names = await fs.readdir(data).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (names === undefined) return "absent";
  if (names.length === 0) return "empty";
  if (names.includes("PG_VERSION") && names.includes(passwordFile)) return "made here";
  throw new Error(`it is not empty, and without ${passwordFile} it was not made here, or not to the end`);
};

/** A folder to be filled. */
interface Filling {
  readonly filled: string;
  /** Once it is complete. */
  readonly finish: () => Promise<void>;
  /** When it is not. */
  readonly undo: () => Promise<void>;
}

const nothing = () => Promise.resolve();

// Beside its place, and moved there when it is complete: two at once would fill the same folder, and each take away what the other
// has made.
const makeFolder = async ({ data, isKept, user }: DataFolder): Promise<Filling> => {
  if (!isKept) {
    // In a temporary folder that nobody else knows.
    await fs.mkdir(data, { mode: 0o700 });
    await give(user, data);
    return { filled: data, finish: nothing, undo: nothing };
  }
  const parent = dirname(data);
  const firstMade = await fs.mkdir(parent, { recursive: true });
  const filled = await fs.mkdtemp(`${data}.`);
  await give(user, filled);
  return {
    filled,
    finish: () =>
      fs.rename(filled, data).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
        throw new Error("somebody else has made it meanwhile");
      }),
    undo: async () => {
      await fs.rm(filled, { recursive: true, force: true });
      // Those above it that were made for it, as far as nobody else has put anything there.
      for (let folder = parent; firstMade !== undefined && folder.startsWith(firstMade); folder = dirname(folder)) {
        const isRemoved = await fs.rmdir(folder).then(
          () => true,
          () => false,
        );
        if (!isRemoved) return;
      }
    },
  };
};

const takeFolder = async ({ data, user }: DataFolder): Promise<Filling> => {
  const { gid, mode, uid } = await fs.stat(data);
  await give(user, data);
  return {
    filled: data,
    finish: nothing,
    undo: async () => {
      // initdb has taken away what it made; what is there now is somebody else's.
      if ((await fs.readdir(data)).length > 0) return;
      if (Option.isSome(user)) await fs.chown(data, uid, gid);
      await fs.chmod(data, mode & 0o7777);
    },
  };
};

const initialise = (given: DataFolder, filled: string) =>
  Effect.gen(function* () {
    const { env, folder, initdb, isKept, user } = given;
    const password = newPassword();
    const secret = join(folder, "password");
    yield* attempt(given, async () => {
      await fs.writeFile(secret, `${password}\n`, { mode: 0o600 });
      await give(user, secret);
    });
    // The builtin locale provider is the same on every machine, whatever locales it has.
    const locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
    const login = ["--username=postgres", "--auth=scram-sha-256", `--pwfile=${secret}`];
    const args = [`--pgdata=${filled}`, ...login, ...locale, "--no-instructions", ...(isKept ? [] : ["--no-sync"])];
    const options = { ...Option.getOrElse(user, () => ({})), cwd: folder, env };
    let words = "";
    const child = yield* Effect.acquireRelease(
      Effect.mapError(
        Child.start(
          () => spawn(initdb, args, { ...options, stdio: ["ignore", "ignore", "pipe"] }),
          ({ stderr }) =>
            stderr.setEncoding("utf8").on("data", (text: string) => {
              words = (words + text).slice(-2000);
            }),
        ),
        ({ message }) => unusable(given, `initdb cannot be started: ${message}`),
      ),
      // Given up, it takes away what it has made so far.
      Child.stop(["SIGTERM", 10], ["SIGKILL", 10]),
    );
    const ending = yield* child.ended;
    if (ending !== 0) return yield* unusable(given, `${words.trim()} (initdb ended with ${ending})`);
    const kept = join(filled, passwordFile);
    yield* attempt(given, () => fs.rename(secret, kept).catch(() => copy(user, secret, kept)));
    return password;
  }).pipe(Effect.scoped);

/** From one file system to another; complete under its name, or not there. */
const copy = async (user: User, from: string, to: string): Promise<void> => {
  const unfinished = `${to}.new`;
  await fs.copyFile(from, unfinished);
  await give(user, unfinished);
  await fs.rename(unfinished, to);
};
