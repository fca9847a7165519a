/**
 * Makes the executable `dlq` one file with everything that it needs: it starts in a fraction of the time that the modules take one by one.
 *
 * `node bundle.mjs [folder]`, default `dist`.
 */
import { pathToFileURL } from "node:url";
import { build } from "esbuild";

export const bundle = (folder) =>
  build({
    entryPoints: [new URL("src/bin.ts", import.meta.url).pathname],
    outdir: folder,
    allowOverwrite: true,
    bundle: true,
    // What a command loads only when it needs it, such as the server, is a file of its own.
    splitting: true,
    chunkNames: "chunks/[name]-[hash]",
    platform: "node",
    format: "esm",
    target: "node20",
    legalComments: "linked",
    external: ["pg-native"],
    // What is CommonJS in it asks for the modules of Node.
    banner: {
      js: 'import { createRequire as requireOf } from "node:module";\nconst require = requireOf(import.meta.url);',
    },
    logLevel: "warning",
  });

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await bundle(process.argv[2] ?? new URL("dist", import.meta.url).pathname);
}
