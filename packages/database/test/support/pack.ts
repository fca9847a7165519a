/** A package as its users get it: packed, installed with npm into an empty folder outside the workspace, and used there. */
import * as fs from "node:fs/promises";
import { join, relative } from "node:path";
import { assert } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import ts from "typescript";
import { emptyFolder, root, run, succeed } from "./command.js";

export const read = (...path: ReadonlyArray<string>) => Effect.promise(() => fs.readFile(join(...path), "utf8"));
export const write = (path: string, text: string) => Effect.promise(() => fs.writeFile(path, text));

const Strings = S.Record({ key: S.String, value: S.String });
const Manifest = S.Struct({
  name: S.String,
  version: S.String,
  exports: S.Record({ key: S.String, value: S.Unknown }),
  peerDependencies: Strings,
});
const decodeManifest = S.decodeUnknown(S.parseJson(Manifest));

/** Packs one package in a copy of the workspace, so that the checkout's own dist stays as it is. Returns the tarball's path. */
const pack = (name: string, into: string) =>
  Effect.gen(function* () {
    const { packageManager } = JSON.parse(yield* read(root, "package.json"));
    yield* Effect.promise(async () => {
      for (const file of ["package.json", "pnpm-workspace.yaml", "tsconfig.base.json", "LICENSE"]) {
        await fs.cp(join(root, file), join(into, file));
      }
      await fs.symlink(join(root, "node_modules"), join(into, "node_modules"));
      // The command brings the console with it.
      for (const one of name === "operator" ? [name, "console"] : [name]) {
        const from = join(root, "packages", one);
        await fs.cp(from, join(into, "packages", one), {
          recursive: true,
          filter: (source) => !/^(node_modules|dist|artifacts)\b/.test(relative(from, source)),
        });
        await fs.symlink(join(from, "node_modules"), join(into, "packages", one, "node_modules"));
      }
    });
    const tarballs = join(into, "tarballs");
    yield* succeed("npx", ["--yes", packageManager, "pack", "--pack-destination", tarballs], {
      cwd: join(into, "packages", name),
    });
    const [tarball] = yield* Effect.promise(() => fs.readdir(tarballs));
    return join(tarballs, tarball ?? "none");
  });

/** The exact versions that the workspace is built and tested with. */
const catalog = Effect.map(read(root, "pnpm-workspace.yaml"), (text) => {
  const versions = new Map(
    [...text.matchAll(/^ {2}"?([@\w/-]+)"?: (\d\S*)$/gm)].map(([, name, version]) => [name, version]),
  );
  return (name: string) => `${name}@${versions.get(name) ?? "no version in the catalog"}`;
});

/**
 * Installs a package's tarball and its peers into an empty folder, and the tarballs of those of its dependencies that are packed
 * here too. Returns that folder, its manifest and what it contains.
 */
export const install = (name: string, ...dependencies: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const tarballs = yield* Effect.forEach([name, ...dependencies], (packed) =>
      Effect.flatMap(emptyFolder, (into) => pack(packed, into)),
    );
    const folder = yield* emptyFolder;
    yield* write(join(folder, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
    const versionOf = yield* catalog;
    const { peerDependencies } = yield* decodeManifest(yield* read(root, "packages", name, "package.json"));
    const quiet = ["--no-audit", "--no-fund", "--prefer-offline", "--prefix", folder];
    // Our own come as tarballs, if they are asked for.
    const peers = Object.keys(peerDependencies).filter((peer) => !peer.startsWith("@parametric-portal/"));
    yield* succeed("npm", ["install", ...quiet, ...tarballs, ...peers.map(versionOf)], { cwd: folder });
    // Nothing is missing, and no two packages disagree about a peer.
    yield* succeed("npm", ["ls", "--all", "--prefix", folder], { cwd: folder });
    const installed = join(folder, "node_modules/@parametric-portal", name);
    const manifest = yield* decodeManifest(yield* read(installed, "package.json"));
    const entries = yield* Effect.promise(() => fs.readdir(installed, { recursive: true, withFileTypes: true }));
    const files = entries
      .filter((_) => _.isFile())
      .map((_) => relative(installed, join(_.parentPath, _.name)).replaceAll("\\", "/"));
    return { folder, files, manifest };
  });

export type Installed = Effect.Effect.Success<ReturnType<typeof install>>;

/** What `exports` says about a subpath: the most specific pattern counts. */
const isPublic = ({ manifest }: Installed, subpath: string) => {
  const exact = manifest.exports[`./${subpath}`];
  if (exact !== undefined) return exact !== null;
  const patterns = Object.keys(manifest.exports)
    .filter((key) => key.endsWith("*") && `./${subpath}`.startsWith(key.slice(0, -1)))
    .sort((a, b) => b.length - a.length);
  return patterns[0] !== undefined && manifest.exports[patterns[0]] !== null;
};

/** Imports every module below a folder of the package by its public name, each in a process of its own: what it does, or how it is refused. */
export const importAll = (installed: Installed, below: string) =>
  Effect.gen(function* () {
    const modules = installed.files
      .filter((_) => _.startsWith(below) && _.endsWith(".js"))
      .map((_) => _.slice(below.length, -".js".length));
    const outcomes = yield* Effect.forEach(
      modules,
      (module) =>
        Effect.gen(function* () {
          const specifier = `${installed.manifest.name}/${module}`;
          const script = `import(${JSON.stringify(specifier)}).then((_) => console.log("exports " + Object.keys(_).length), (_) => console.log(_.code))`;
          const { code, stderr, stdout } = yield* run(process.execPath, ["--eval", script], { cwd: installed.folder });
          assert.strictEqual(`${code} ${stderr}`, "0 ", specifier);
          return [module, stdout.trim()] as const;
        }),
      { concurrency: 2 },
    );
    const isRefused = (outcome: string) => outcome === "ERR_PACKAGE_PATH_NOT_EXPORTED";
    for (const [module, outcome] of outcomes) {
      if (isPublic(installed, module)) assert.match(outcome, /^exports [1-9]/, module);
      else assert.isTrue(isRefused(outcome), `${module}: ${outcome}`);
    }
    return outcomes.filter(([, outcome]) => !isRefused(outcome)).map(([module]) => module);
  });

/** Compiles files of the consumer against the declarations that it has installed, those checked too. Returns what tsc says of both. */
export const compile = (installed: Installed, files: ReadonlyArray<string>) =>
  Effect.sync(() => {
    const program = ts.createProgram(
      files.map((_) => join(installed.folder, _)),
      {
        target: ts.ScriptTarget.ES2022,
        module: ts.ModuleKind.NodeNext,
        moduleResolution: ts.ModuleResolutionKind.NodeNext,
        strict: true,
        exactOptionalPropertyTypes: true,
        skipLibCheck: false,
        types: [],
      },
    );
    const said = ts
      .getPreEmitDiagnostics(program)
      // Other packages' declarations are their own business, and so is a test that somebody else's types are installed.
      .filter(({ file }) => file === undefined || !/node_modules\/(?!@parametric-portal\/)/.test(file.fileName))
      .map(
        (_) =>
          `${_.file === undefined ? "" : relative(installed.folder, _.file.fileName)}: ${ts.flattenDiagnosticMessageText(_.messageText, "\n")}`,
      );
    program.emit();
    return said;
  });

export const strangers = (files: ReadonlyArray<string>) =>
  files.filter(
    (_) =>
      !/^(dist|src|migrations)\/.*\.(js|js\.map|d\.ts|ts)$/.test(_) &&
      !/^recipes\/[\w-]+\.sql$/.test(_) &&
      !/^dist\/console\/(index\.html|assets\/[\w-]+\.css)$/.test(_) &&
      !["package.json", "LICENSE", "README.md", "CHANGELOG.md"].includes(_),
  );
