/** Whom an embedded server runs as, and which files that user can use. */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import * as fs from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import type * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Schedule from "effect/Schedule";

export interface Identity {
  readonly uid: number;
  readonly gid: number;
}

/** None: ourselves. */
export type User = Option.Option<Identity>;

const execute = promisify(execFile);
const idOf = async (flag: "-u" | "-g") => Number((await execute("id", [flag, "postgres"])).stdout);
const known = Effect.tryPromise(async (): Promise<Identity> => ({ uid: await idOf("-u"), gid: await idOf("-g") }));
const options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"];
const create = Effect.tryPromise(() => execute("useradd", [...options, "postgres"]));

/** The system user `postgres`, made if need be, when we are root, as whom the server refuses to run; else ourselves. */
export const serverUser: Effect.Effect<User, Cause.UnknownException> = Effect.suspend(() => {
  if (process.getuid?.() !== 0) return Effect.succeedNone;
  return Effect.orElse(known, () => Effect.zipRight(create, known)).pipe(
    // Of two first servers at once one makes the user; the other's attempt fails, and then finds it.
    Effect.retry({ times: 3, schedule: Schedule.spaced("200 millis") }),
    Effect.asSome,
  );
});

/** Whether a user may walk to a folder, or execute a file: by the mode bits of the path and of all folders above it. */
export const isReachable = async (path: string, { gid, uid }: Identity): Promise<boolean> => {
  for (let current = resolve(path); ; current = dirname(current)) {
    const stat = await fs.stat(current);
    const bit = stat.uid === uid ? constants.S_IXUSR : stat.gid === gid ? constants.S_IXGRP : constants.S_IXOTH;
    if ((stat.mode & bit) === 0) return false;
    if (dirname(current) === current) return true;
  }
};

/** Gives a file, or a folder with all that is in it, to the user. */
export const give = async (user: User, path: string): Promise<void> => {
  if (Option.isNone(user)) return;
  const { gid, uid } = user.value;
  await fs.lchown(path, uid, gid);
  if (!(await fs.lstat(path)).isDirectory()) return;
  for (const name of await fs.readdir(path)) await give(user, join(path, name));
};
