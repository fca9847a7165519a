/**
 * What a user of the packages gets: each is packed, installed with npm into an empty folder outside the workspace, and used
 * there under plain Node. Needs the npm registry, or a cache of it.
 */
import * as fs from "node:fs/promises";
import { join, relative } from "node:path";
import { assert, layer } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import ts from "typescript";
import { inject } from "vitest";
import { emptyFolder, root, run, succeed } from "./support/command.js";
import { newTenant, TestDatabase, TestUrl } from "./support/database.js";

const patience = 600_000;

const read = (...path: ReadonlyArray<string>) => Effect.promise(() => fs.readFile(join(...path), "utf8"));
const write = (path: string, text: string) => Effect.promise(() => fs.writeFile(path, text));

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
      await fs.cp(join(root, "packages", name), join(into, "packages", name), {
        recursive: true,
        filter: (source) => !/^(node_modules|dist|artifacts)\b/.test(relative(join(root, "packages", name), source)),
      });
      await fs.symlink(join(root, "packages", name, "node_modules"), join(into, "packages", name, "node_modules"));
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

/** Installs a package's tarball and its peers into an empty folder. Returns that folder, its manifest and what it contains. */
const install = (name: string) =>
  Effect.gen(function* () {
    const tarball = yield* pack(name, yield* emptyFolder);
    const folder = yield* emptyFolder;
    yield* write(join(folder, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
    const versionOf = yield* catalog;
    const { peerDependencies } = yield* decodeManifest(yield* read(root, "packages", name, "package.json"));
    const quiet = ["--no-audit", "--no-fund", "--prefer-offline", "--prefix", folder];
    yield* succeed("npm", ["install", ...quiet, tarball, ...Object.keys(peerDependencies).map(versionOf)], {
      cwd: folder,
    });
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

type Installed = Effect.Effect.Success<ReturnType<typeof install>>;

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
const importAll = (installed: Installed, below: string) =>
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
const compile = (installed: Installed, files: ReadonlyArray<string>) =>
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

const strangers = (files: ReadonlyArray<string>) =>
  files.filter(
    (_) =>
      !/^(dist|src|migrations)\/.*\.(js|js\.map|d\.ts|ts)$/.test(_) &&
      !["package.json", "LICENSE", "README.md", "CHANGELOG.md"].includes(_),
  );

const consumer = `
import * as Client from "@parametric-portal/database/client";
import { JobDlq } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";

declare const process: { readonly argv: ReadonlyArray<string> };
const appId = process.argv[2] ?? "";

const program = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const job = yield* db.jobs.enqueue({ appId, type: "mail.send", payload: [1], requestId: Option.none(), userId: Option.none() });
  const dead: JobDlq = yield* db.jobs.deadLetter({ id: job.id, reason: "Validation", error: new Error("no address") });
  // @ts-expect-error: not one of the four reasons
  const unknownReason = () => db.jobs.deadLetter({ id: job.id, reason: "Bored", error: "" });
  // @ts-expect-error: no column of the table
  const unknownColumn = () => db.jobDlq.find({ colour: "red" });
  const [receipt] = yield* db.jobDlq.replay([dead.id], { actor: "test" });
  console.log(receipt?.outcome, typeof unknownReason, typeof unknownColumn);
}).pipe(Client.tenant(appId));

const live = DatabaseService.layer.pipe(Layer.provideMerge(Client.layerConfig()));
// @ts-expect-error: without its layer it does not run
const withoutLayer = () => Effect.runPromise(program);
await Effect.runPromise(Effect.provide(program, live));
console.log(typeof withoutLayer);
`;

layer(TestDatabase, { excludeTestServices: true })("a packed package", (it) => {
  it.scoped(
    "database: installed elsewhere, every public module imports, the command runs, the types hold",
    () =>
      Effect.gen(function* () {
        const installed = yield* install("database");
        const { files, folder, manifest } = installed;
        assert.deepStrictEqual(strangers(files), []);
        assert.includeMembers([...files], ["LICENSE", "package.json", "dist/migrations/0002_job_dlq.js"]);
        assert.include(
          yield* read(folder, "node_modules/@parametric-portal/database/dist/src/client.js"),
          "export const layer",
        );

        const modules = yield* importAll(installed, "dist/src/");
        assert.includeMembers(modules, ["client", "errors", "factory", "migrator", "models", "repos"]);
        assert.notInclude(modules, "bin");
        for (const hidden of ["internal/settings", "dist/src/client.js", "src/client.ts", "client.js"]) {
          const { stdout } = yield* run(
            process.execPath,
            ["--eval", `import("@parametric-portal/database/${hidden}").catch((_) => console.log(_.code))`],
            { cwd: folder },
          );
          assert.match(stdout, /ERR_PACKAGE_PATH_NOT_EXPORTED|ERR_MODULE_NOT_FOUND/, hidden);
        }

        const portalDb = (url: Redacted.Redacted, ...args: ReadonlyArray<string>) =>
          run(join(folder, "node_modules/.bin/portal-db"), args, {
            cwd: folder,
            env: { DATABASE_URL: Redacted.value(url) },
          });
        const url = yield* TestUrl;
        assert.strictEqual((yield* portalDb(url, "--version")).stdout.trim(), manifest.version);
        assert.match((yield* portalDb(url, "status")).stdout, /^0001_initial {2}applied .*\n0002_job_dlq {2}applied /);
        const empty = yield* Databases.empty(Redacted.make(inject("serverUrl")));
        assert.strictEqual((yield* portalDb(empty, "check")).code, 1);
        assert.deepInclude(yield* portalDb(empty, "migrate"), { code: 0, stderr: "" });
        assert.strictEqual((yield* portalDb(empty, "check")).code, 0);

        yield* write(join(folder, "consumer.ts"), consumer);
        assert.deepStrictEqual(yield* compile(installed, ["consumer.ts"]), []);
        const printed = yield* succeed(process.execPath, ["consumer.js", yield* newTenant], {
          cwd: folder,
          env: { DATABASE_URL: Redacted.value(url) },
        });
        assert.strictEqual(printed, "replayed function function\nfunction\n");
      }),
    patience,
  );

  it.scoped(
    "postgres: installed elsewhere, it starts an embedded server for a command and takes it away again",
    () =>
      Effect.gen(function* () {
        const installed = yield* install("postgres");
        const { files, folder, manifest } = installed;
        assert.deepStrictEqual(strangers(files), []);
        const modules = yield* importAll(installed, "dist/");
        assert.includeMembers(modules, ["databases", "errors", "postgres"]);
        assert.notIncludeMembers(modules, ["bin", "keeper", "internal/settings", "internal/protocol"]);

        yield* write(
          join(folder, "consumer.ts"),
          `import * as Postgres from "@parametric-portal/postgres/postgres";
           import * as Effect from "effect/Effect";
           // @ts-expect-error: no provider of that name
           const unknown = () => Postgres.make({ provider: "oracle" });
           const server = await Effect.runPromise(Effect.scoped(Postgres.makeConfig()));
           console.log(server.provider, server.version, typeof unknown);`,
        );
        assert.deepStrictEqual(yield* compile(installed, ["consumer.ts"]), []);
        const temporary = join(folder, "temporary");
        yield* Effect.promise(() => fs.mkdir(temporary));
        const printed = yield* succeed(
          join(folder, "node_modules/.bin/with-postgres"),
          [process.execPath, join(folder, "consumer.js")],
          { cwd: folder, env: { POSTGRES_PROVIDER: "embedded", TMPDIR: temporary } },
        );
        assert.match(printed, /^url 18\.\d+ function\n$/);
        assert.deepStrictEqual(yield* Effect.promise(() => fs.readdir(temporary)), []);
        assert.strictEqual(manifest.name, "@parametric-portal/postgres");
      }),
    patience,
  );
});
