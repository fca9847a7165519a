/** scripts/supply-chain.mjs and scripts/sbom.mjs: what is held of the packages of others, each proven by what would be wrong. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { assert, describe, it } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { root, temporaryFolder } from "./support/program.js";

const script = (name: string) => import(pathToFileURL(join(root, "scripts", name)).href);
const [dependencies, supply, { sbomOf }] = await Promise.all([
  script("dependencies.mjs"),
  script("supply-chain.mjs"),
  script("sbom.mjs"),
]);
const lock = dependencies.lockOf();
const workspace = dependencies.workspaceOf();
const installed: ReadonlyMap<string, { readonly name: string }> = dependencies.installedIn();
const problemsOf = (given: object): ReadonlyArray<string> =>
  supply.problemsOf({ lock, workspace, installed, ...given });

describe("the packages of others", () => {
  it("are as they should be", () => {
    assert.isAbove(installed.size, 400);
    assert.deepStrictEqual(problemsOf({}), []);
  });

  it("with an install script are named, each of them, and nothing else is", () => {
    const scripted = [...installed.values()].filter(supply.hasInstallScript).map(({ name }) => name);
    assert.includeMembers(scripted, ["esbuild", "nx"]);
    for (const name of new Set(scripted)) {
      const without = (list: ReadonlyArray<string>) => list.filter((one) => one !== name);
      const problems = problemsOf({
        workspace: {
          onlyBuiltDependencies: without(workspace.onlyBuiltDependencies),
          ignoredBuiltDependencies: without(workspace.ignoredBuiltDependencies),
        },
      });
      assert.isNotEmpty(problems, name);
      for (const problem of problems) assert.match(problem, /^\S+ has an install script/, name);
    }
    const more = { ...workspace, onlyBuiltDependencies: [...workspace.onlyBuiltDependencies, "left-pad", "nx"] };
    assert.deepStrictEqual(problemsOf({ workspace: more }), [
      "left-pad is named for its install script, and nothing depends on it",
      "the install script of nx may run and may not",
    ]);
    // And pnpm itself fails an install that met another one.
    assert.isTrue(workspace.strictDepBuilds);
  });

  it.scoped("run something when they are installed by a script, or by what node-gyp would build", () =>
    Effect.gen(function* () {
      const path = yield* temporaryFolder;
      assert.isFalse(supply.hasInstallScript({ path, scripts: { build: "x", prepare: "x" } }));
      for (const name of ["preinstall", "install", "postinstall"]) {
        assert.isTrue(supply.hasInstallScript({ path, scripts: { [name]: "x" } }), name);
      }
      writeFileSync(join(path, "binding.gyp"), "{}");
      assert.isTrue(supply.hasInstallScript({ path }));
    }),
  );

  it("have a licence of the list when they are shipped", () => {
    const [id = ""] = supply.shipped(lock);
    for (const [license, isFine] of [
      ["MIT", true],
      ["(GPL-3.0 OR MIT)", true],
      ["MIT AND ISC", true],
      ["GPL-3.0", false],
      ["(MIT AND GPL-3.0)", false],
      ["SEE LICENSE IN LICENSE", false],
      [undefined, false],
    ] as const) {
      const other = new Map(installed).set(id, { ...installed.get(id), license } as never);
      const problems = problemsOf({ installed: other });
      assert.strictEqual(
        problems.some((problem) => problem.startsWith(`${id} is shipped, and its licence`)),
        !isFine,
        license,
      );
    }
  });

  it("come from the registry, with a checksum", () => {
    for (const resolution of [
      {},
      { integrity: "sha1-x" },
      { integrity: "sha512-x", tarball: "https://example.com/x.tgz" },
      { type: "git", repo: "https://example.com/x.git", commit: "x" },
    ]) {
      const changed = { ...lock, packages: { ...lock.packages, "stranger@1.0.0": { resolution } } };
      assert.deepStrictEqual(problemsOf({ lock: changed }), [
        "stranger@1.0.0 does not come from the registry with a sha512 checksum",
      ]);
    }
  });
});

describe("an audit", () => {
  const program = join(root, "scripts/supply-chain.mjs");
  /** What answers as a registry does; what it was asked. */
  const answering = (status: number, body: unknown) =>
    Effect.acquireRelease(
      Effect.async<{ readonly url: string; readonly asked: Array<string>; readonly close: () => void }>((resume) => {
        const asked: Array<string> = [];
        const server = createServer((request, response) => {
          let text = "";
          request.on("data", (some) => {
            text += some;
          });
          request.on("end", () => {
            asked.push(`${request.method} ${request.url} ${text}`);
            response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
          });
        }).listen(0, "127.0.0.1", () => {
          const { port } = server.address() as AddressInfo;
          resume(Effect.succeed({ url: `http://127.0.0.1:${port}/`, asked, close: () => server.close() }));
        });
      }),
      ({ close }) => Effect.sync(close),
    );
  const audit = (registry: string) =>
    Effect.async<{ readonly code: number; readonly said: string }>((resume) => {
      import("node:child_process").then(({ execFile }) =>
        execFile(process.execPath, [program, "audit", registry], (error, stdout, stderr) =>
          resume(Effect.succeed({ code: Number(error?.code ?? 0), said: stdout + stderr })),
        ),
      );
    });
  const advisory = (severity: string) => ({
    pg: [{ id: 1, url: "https://example.com/1", title: "it leaks", severity, vulnerable_versions: "<9" }],
  });

  it.scoped("asks for every package that is shipped in its exact version, and fails for what is serious", () =>
    Effect.gen(function* () {
      for (const [severity, code] of [
        ["critical", 1],
        ["high", 1],
        ["moderate", 0],
      ] as const) {
        const registry = yield* answering(200, advisory(severity));
        const { code: ended, said } = yield* audit(registry.url);
        assert.strictEqual(ended, code, said);
        assert.include(said, `${severity}: pg `);
        const [asked = ""] = registry.asked;
        assert.match(asked, /^POST \/-\/npm\/v1\/security\/advisories\/bulk \{/);
        const body: Record<string, ReadonlyArray<string>> = JSON.parse(asked.slice(asked.indexOf("{")));
        assert.deepStrictEqual(
          Object.entries(body)
            .flatMap(([name, versions]) => versions.map((version) => `${name}@${version}`))
            .sort(),
          supply.shipped(lock),
        );
      }
      assert.strictEqual((yield* audit((yield* answering(200, {})).url)).code, 0);
    }),
  );

  it.scoped("that nobody answers is none, and says so", () =>
    Effect.gen(function* () {
      for (const status of [405, 404, 500]) {
        const { code, said } = yield* audit((yield* answering(status, {})).url);
        assert.strictEqual(code, 3, said);
        assert.match(said, /^NOT AUDITED: nobody answers/m);
        assert.include(said, `the registry does not answer (${status})`);
      }
      const closed = yield* Effect.scoped(answering(200, {}));
      assert.strictEqual((yield* audit(closed.url)).code, 3);
    }),
  );

  it.scoped("asks osv.dev where the registry does not answer, and looks each weakness up", () =>
    Effect.gen(function* () {
      const batch = (ids: ReadonlyArray<string>) => ({ results: [{ vulns: ids.map((id) => ({ id })) }, {}] });
      const { asked, url } = yield* answering(200, {
        ...batch(["GHSA-x"]),
        summary: "it leaks",
        database_specific: { severity: "HIGH" },
      });
      const refusing = yield* answering(405, {});
      const result: { readonly answered?: string; readonly serious: unknown } = yield* Effect.promise(async () =>
        supply.audit(["@scope/a@1.0.0", "b@2.0.0"], {
          "the registry": supply.fromRegistry(refusing.url),
          "osv.dev": supply.fromOsv(url),
        }),
      );
      assert.deepStrictEqual(result.answered, "osv.dev");
      assert.deepStrictEqual(result.serious, [
        { severity: "high", text: "@scope/a@1.0.0: it leaks https://osv.dev/GHSA-x" },
      ]);
      assert.include(asked[0], '{"package":{"ecosystem":"npm","name":"@scope/a"},"version":"1.0.0"}');
      assert.match(asked[1] ?? "", /^GET \/v1\/vulns\/GHSA-x /);
    }),
  );
});

interface Bom {
  readonly metadata: { readonly component: { readonly purl: string } };
  readonly components: ReadonlyArray<{
    readonly group?: string;
    readonly name: string;
    readonly version: string;
    readonly purl: string;
    readonly scope: string;
    readonly licenses: ReadonlyArray<unknown>;
    readonly hashes?: ReadonlyArray<unknown>;
  }>;
  readonly dependencies: ReadonlyArray<{ readonly ref: string; readonly dependsOn: ReadonlyArray<string> }>;
}

/** What Node finds from a package's folder, and from there on: the packages that it would load, by `name@version`. */
const reachable = (folder: string, names: ReadonlyArray<string>, found = new Set<string>()) => {
  for (const name of names) {
    for (let from = folder; ; from = join(from, "..")) {
      const path = join(from, "node_modules", name);
      try {
        const manifest = JSON.parse(readFileSync(join(path, "package.json"), "utf8"));
        const id = `${manifest.name}@${manifest.version}`;
        if (!found.has(id)) {
          found.add(id);
          const real = realpathSync(path);
          reachable(real, Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies }), found);
        }
        break;
      } catch {
        // An optional one for another platform is nowhere.
        if (from === "/") break;
      }
    }
  }
  return found;
};

describe("a bill of materials", () => {
  for (const name of dependencies.published as ReadonlyArray<string>) {
    it(`of ${name} has everything that its user gets, with exact version, licence and checksum`, () => {
      const bom: Bom = sbomOf(name, { lock, installed });
      const ids = new Set(
        bom.components.map(
          ({ group, name: short, version }) => `${group === undefined ? "" : `${group}/`}${short}@${version}`,
        ),
      );
      assert.strictEqual(ids.size, bom.components.length);
      const folder = join(root, "packages", name);
      const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      const asked = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies });
      assert.isNotEmpty(asked);
      for (const id of reachable(folder, asked)) assert.isTrue(ids.has(id), `${id} is missing`);
      for (const { hashes, licenses, purl, version } of bom.components) {
        assert.match(version, /^\d+\.\d+\.\d+/, purl);
        assert.lengthOf(licenses, 1, purl);
        assert.lengthOf(hashes ?? [], purl.includes("%40parametric-portal") ? 0 : 1, purl);
      }
      // Every reference leads somewhere.
      const refs = new Set([...bom.components.map(({ purl }) => purl), bom.metadata.component.purl]);
      for (const { dependsOn, ref } of bom.dependencies)
        for (const one of [ref, ...dependsOn]) assert.isTrue(refs.has(one), one);
    });
  }

  it("of the command has what is built into it: the console's pages", () => {
    const names = (sbomOf("operator", { lock, installed }) as Bom).components.map(({ name }) => name);
    assert.includeMembers(names, ["react", "react-router", "uplot", "effect", "rate-limiter-flexible"]);
    assert.notInclude(names, "vitest");
  });

  it.scoped("is written to a folder, twice the same", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder;
      const write = (into: string) => {
        mkdirSync(join(folder, into));
        execFileSync(process.execPath, [join(root, "scripts/sbom.mjs"), join(folder, into)]);
        return readdirSync(join(folder, into)).map((file) => [file, readFileSync(join(folder, into, file), "utf8")]);
      };
      const first = write("a");
      assert.deepStrictEqual(
        first.map(([file]) => file),
        ["database", "jobs", "operator", "postgres"].map((name) => `${name}.cdx.json`),
      );
      assert.deepStrictEqual(write("b"), first);
      rmSync(join(folder, "a"), { recursive: true });
    }),
  );
});
