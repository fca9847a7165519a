/** Other programs, run to their end as a reader of the documentation would run them. */
import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as Effect from "effect/Effect";

/** The folder of the whole repository. */
export const root = join(dirname(fileURLToPath(import.meta.url)), "../../../..");

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

// What the test run itself was started with: npm's own settings would send an install to the wrong folder, and Node's
// options would load a TypeScript loader where plain Node is meant.
const inherited = () =>
  Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) =>
        !/^(npm_(lifecycle|package|command|execpath|node_execpath|config_(local_prefix|prefix|global_prefix))|NODE_OPTIONS|VITEST|NODE_ENV|DATABASE_URL|POSTGRES_PROVIDER|PG[A-Z]+$)/.test(
          name,
        ),
    ),
  );

/** Runs a program to its end; it is killed when the test is. */
export const run = (
  program: string,
  args: ReadonlyArray<string>,
  options: { readonly cwd?: string; readonly env?: Readonly<Record<string, string>> } = {},
  told: (child: ChildProcess, stdout: string) => void = () => undefined,
): Effect.Effect<Ended> =>
  Effect.async((resume) => {
    const child = spawn(program, args, {
      cwd: options.cwd ?? root,
      env: { ...inherited(), NO_COLOR: "1", ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      told(child, stdout);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", (error) => resume(Effect.succeed({ code: 127, stdout, stderr: `${stderr}${error.message}` })));
    child.once("close", (code, signal) =>
      resume(Effect.succeed({ code: code ?? 1, stdout, stderr: signal === null ? stderr : `${stderr}${signal}` })),
    );
    return Effect.sync(() => child.kill());
  });

/** What Node needs before a program that is TypeScript. */
export const typescript: ReadonlyArray<string> = [
  "--import",
  pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href,
];

/** {@link run} without arguments, for a program that stays until Ctrl-C: which it gets when it has printed what is waited for. */
export const interrupted = (
  program: string,
  until: RegExp,
  env: Readonly<Record<string, string>> = {},
): Effect.Effect<Ended> =>
  run(program, [], { env }, (child, stdout) => {
    if (until.test(stdout)) child.kill("SIGINT");
  });

/** {@link run}; anything but exit code 0 is a defect that shows what the program said. Returns what it printed. */
export const succeed = (...[program, args, options]: Parameters<typeof run>): Effect.Effect<string> =>
  Effect.flatMap(run(program, args, options), ({ code, stderr, stdout }) =>
    code === 0
      ? Effect.succeed(stdout)
      : Effect.dieMessage(`${program} ${args.join(" ")} ended with ${code}:\n${stdout}\n${stderr}`),
  );

/** An empty folder outside the workspace, which every user may enter, removed with the scope. */
export const emptyFolder = Effect.acquireRelease(
  Effect.promise(async () => {
    const folder = await fs.realpath(await fs.mkdtemp(join(tmpdir(), "portal-test-")));
    await fs.chmod(folder, 0o755);
    return folder;
  }),
  (folder) => Effect.promise(() => fs.rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })),
);
