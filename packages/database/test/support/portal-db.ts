/** The executable `portal-db` as one file: a process that begins with hundreds of modules takes most of a second for them. */
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { build } from "esbuild";
import { type Environment, start } from "./process.js";

const folder = fileURLToPath(new URL(`../../artifacts/portal-db-${process.pid}-${randomUUID()}`, import.meta.url));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Its path; made once for each file of tests. */
const bundledPortalDb = Effect.runSync(
  Effect.cached(
    Effect.as(
      Effect.promise(() =>
        build({
          entryPoints: [fileURLToPath(new URL("../../src/bin.ts", import.meta.url))],
          outdir: folder,
          bundle: true,
          platform: "node",
          format: "esm",
          target: "node20",
          external: ["pg-native"],
          // What is CommonJS in it asks for the modules of Node.
          banner: {
            js: 'import { createRequire as requireOf } from "node:module";\nconst require = requireOf(import.meta.url);',
          },
          logLevel: "warning",
        }),
      ),
      join(folder, "bin.js"),
    ),
  ),
);

/** Starts `portal-db`. */
export const startPortalDb = (args: ReadonlyArray<string>, environment: Environment) =>
  Effect.flatMap(bundledPortalDb, (bin) => start(process.execPath, [bin, ...args], environment));

/** Runs `portal-db` to its end. */
export const portalDb = (args: ReadonlyArray<string>, environment: Environment) =>
  Effect.scoped(Effect.flatMap(startPortalDb(args, environment), ({ ended }) => ended));
