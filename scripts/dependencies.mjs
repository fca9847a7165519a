/** What is installed, from the lockfile and the folders that pnpm made of it: packages, where they come from, their licences. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");
/** What a release publishes. */
export const published = ["postgres", "database", "jobs", "operator"];

const yamlOf = (path) => parse(readFileSync(path, "utf8"));
const jsonOf = (path) => JSON.parse(readFileSync(path, "utf8"));
export const lockOf = (folder = root) => yamlOf(join(folder, "pnpm-lock.yaml"));
export const workspaceOf = (folder = root) => yamlOf(join(folder, "pnpm-workspace.yaml"));
export const manifestOf = (name) => jsonOf(join(root, "packages", name, "package.json"));

/** `@scope/name@1.2.3(peer@4)` → its name, and its version. */
export const partsOf = (key) => {
  const plain = key.replace(/\(.*$/u, "");
  const at = plain.lastIndexOf("@");
  return { name: plain.slice(0, at), version: plain.slice(at + 1), id: plain };
};

/** The manifests of everything that is installed, by `name@version`; with its folder. */
export const installedIn = (folder = root) => {
  const store = join(folder, "node_modules/.pnpm");
  const found = new Map();
  for (const entry of readdirSync(store)) {
    const modules = join(store, entry, "node_modules");
    if (!entry.includes("@") || !existsSync(modules)) continue;
    // The package itself is a folder there, and what it depends on are links.
    const folders = readdirSync(modules, { withFileTypes: true }).flatMap((one) =>
      one.isDirectory() && one.name.startsWith("@")
        ? readdirSync(join(modules, one.name), { withFileTypes: true })
            .filter((inner) => inner.isDirectory())
            .map((inner) => join(modules, one.name, inner.name))
        : one.isDirectory()
          ? [join(modules, one.name)]
          : [],
    );
    for (const path of folders) {
      if (!existsSync(join(path, "package.json"))) continue;
      const manifest = jsonOf(join(path, "package.json"));
      found.set(`${manifest.name}@${manifest.version}`, { ...manifest, path });
    }
  }
  return found;
};

/** The licence that a manifest names, as an SPDX expression; undefined when it names none. */
export const licenceOf = ({ license, licenses }) => {
  const named = license ?? licenses;
  const all = (Array.isArray(named) ? named : [named]).map((one) => (typeof one === "string" ? one : one?.type));
  return all.every((one) => typeof one === "string" && one !== "") ? all.join(" OR ") : undefined;
};

/**
 * A licence by `name@version`. What is for another platform is not installed here: it has the licence of the one of its family that is,
 * which has the same scope and version.
 */
export const licencesOf = (installed) => (id) => {
  const own = installed.get(id);
  if (own !== undefined) return licenceOf(own);
  const { name, version } = partsOf(id);
  const [scope] = name.split("/");
  for (const [other, manifest] of installed) {
    if (scope?.startsWith("@") && other.startsWith(`${scope}/`) && manifest.version === version)
      return licenceOf(manifest);
  }
  return undefined;
};

/** What the console's sources import: it is built into the command, so it is shipped. */
const imported = () => {
  const folder = join(root, "packages/console/src");
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => /\.tsx?$/u.test(file))
    .flatMap((file) => [...readFileSync(join(folder, file), "utf8").matchAll(/from "(@[\w-]+\/[\w-]+|[\w-]+)/gu)])
    .map(([, name]) => name);
  return new Set(names);
};

/** The keys of a package's dependencies in the lockfile, by name; `link:` leads to another package of the workspace. */
const directOf = (lock, name) => {
  const importer = lock.importers[`packages/${name}`];
  const peers = Object.keys(manifestOf(name).peerDependencies ?? {});
  const chosen = { ...importer.dependencies, ...importer.optionalDependencies };
  for (const peer of peers)
    if (importer.devDependencies?.[peer] !== undefined) chosen[peer] = importer.devDependencies[peer];
  return Object.entries(chosen).map(([dependency, { version }]) => [dependency, version]);
};

/**
 * What a published package brings with it, or asks its user to bring (its peers, in the versions that it was built with): by
 * `name@version` the ids of what that depends on, and whether only some platforms have it. Packages of the workspace are among them.
 */
export const shippedWith = (lock, name) => {
  const all = new Map();
  const keyOf = (dependency, version) => (lock.snapshots[version] === undefined ? `${dependency}@${version}` : version);
  const visit = (key, isOptional) => {
    const { id } = partsOf(key);
    const known = all.get(id);
    if (known !== undefined && (known.isOptional === isOptional || isOptional)) return id;
    const { dependencies = {}, optionalDependencies = {} } = lock.snapshots[key];
    const entry = { isOptional, dependsOn: known?.dependsOn ?? new Set() };
    all.set(id, entry);
    for (const [given, optional] of [
      [dependencies, false],
      [optionalDependencies, true],
    ]) {
      for (const [dependency, version] of Object.entries(given)) {
        entry.dependsOn.add(visit(keyOf(dependency, version), isOptional || optional));
      }
    }
    return id;
  };
  const own = (workspace, isOptional) => {
    const { name: full, peerDependenciesMeta = {}, version: current } = manifestOf(workspace);
    const id = `${full}@${current}`;
    if (all.has(id)) return id;
    const entry = { isOptional, workspace, dependsOn: new Set() };
    all.set(id, entry);
    for (const [dependency, version] of directOf(lock, workspace)) {
      const optional = isOptional || peerDependenciesMeta[dependency]?.optional === true;
      entry.dependsOn.add(
        version.startsWith("link:")
          ? own(version.split("/").at(-1), optional)
          : visit(keyOf(dependency, version), optional),
      );
    }
    if (workspace === "operator") {
      const { dependencies = {}, devDependencies = {} } = lock.importers["packages/console"];
      for (const dependency of imported()) {
        const { version = "link:" } = dependencies[dependency] ?? devDependencies[dependency] ?? {};
        if (!version.startsWith("link:")) entry.dependsOn.add(visit(keyOf(dependency, version), false));
      }
    }
    return id;
  };
  own(name, false);
  return all;
};
