/**
 * A copy of the work tree that may be broken. What is installed is linked; what the packages are to each other is a relative
 * link there as well, so that the tests of one package see the copy of another.
 */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import * as Effect from "effect/Effect";

const linkEntries = (from: string, to: string) => {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from)) {
    if (entry.startsWith(".vite")) continue;
    // The packages of the workspace, which are relative links.
    if (entry === "@parametric-portal")
      cpSync(join(from, entry), join(to, entry), { recursive: true, verbatimSymlinks: true });
    else symlinkSync(join(from, entry), join(to, entry));
  }
};

const make = (root: string): string => {
  const copy = mkdtempSync(join(tmpdir(), "portal-mutations-"));
  const files = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
  });
  for (const file of files.split("\0")) {
    // What is deleted and not committed is listed too.
    if (file === "" || !existsSync(join(root, file))) continue;
    mkdirSync(join(copy, dirname(file)), { recursive: true });
    cpSync(join(root, file), join(copy, file));
  }
  linkEntries(join(root, "node_modules"), join(copy, "node_modules"));
  for (const name of readdirSync(join(root, "packages"))) {
    const installed = join(root, "packages", name, "node_modules");
    if (existsSync(installed)) linkEntries(installed, join(copy, "packages", name, "node_modules"));
  }
  return copy;
};

/** A copy; gone with the scope. */
export const scoped = (root: string) =>
  Effect.acquireRelease(
    Effect.sync(() => make(root)),
    (copy) => Effect.sync(() => rmSync(copy, { recursive: true, force: true, maxRetries: 5 })),
  );
