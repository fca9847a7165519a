/**
 * What a contestant's process runs: JavaScript as it is published, not as a loader makes it of TypeScript. A loader that keeps the
 * names of functions sets one for each closure that is made, which took a third of this project's time.
 */
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** Bundles the sources of this repository into `dist`; everything else is what is installed. Returns the paths of the programs. */
export const bundle = async (): Promise<{ readonly contestant: string; readonly exporter: string }> => {
  await esbuild.build({
    entryPoints: { contestant: here("./process.ts"), exporter: here("./scale/export-process.ts") },
    outdir: here("../dist"),
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20",
    plugins: [
      {
        name: "installed packages",
        setup: (build) => {
          build.onResolve({ filter: /^[^./]/ }, ({ kind, path }) =>
            kind === "entry-point" || path.startsWith("@parametric-portal/") ? undefined : { path, external: true },
          );
        },
      },
    ],
  });
  return { contestant: here("../dist/contestant.js"), exporter: here("../dist/exporter.js") };
};
