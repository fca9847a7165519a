/**
 * What is held of the packages of others, by the lockfile and what is installed from it: each comes from the registry with its
 * checksum, what is shipped has a licence of the list, and no install script may run or is passed over unless somebody said so.
 *
 * `node scripts/supply-chain.mjs`: exit code 0 when all holds, else 1 with a line for each that does not.
 * `node scripts/supply-chain.mjs audit`: known weaknesses of what is shipped, from the registry or from osv.dev: 0 none of severity high
 * or critical, 1 some, 3 not audited because neither answers.
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { installedIn, licencesOf, lockOf, partsOf, published, shippedWith, workspaceOf } from "./dependencies.mjs";

/** Licences that ask for no more than their text and the names of the authors. */
export const allowed = new Set([
  "MIT",
  "ISC",
  "Apache-2.0",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "0BSD",
  "BlueOak-1.0.0",
  "Unlicense",
]);

const isAllowed = (licence = "") =>
  licence
    .replaceAll(/[()]/gu, "")
    .split(" OR ")
    .some((one) => one.split(" AND ").every((part) => allowed.has(part.trim())));

/** Everything that the published packages bring or ask for, but for what is of the workspace itself. */
export const shipped = (lock) => {
  const all = new Set();
  for (const name of published) {
    for (const [id, { workspace }] of shippedWith(lock, name)) if (workspace === undefined) all.add(id);
  }
  return [...all].sort();
};

/** Whether installing it would run something: a script of its own, or node-gyp where there is something for it to build. */
export const hasInstallScript = ({ path, scripts = {} }) =>
  ["preinstall", "install", "postinstall"].some((name) => scripts[name] !== undefined) ||
  existsSync(join(path, "binding.gyp"));

/** What is wrong; empty when all holds. */
export const problemsOf = ({ lock, workspace, installed }) => {
  const problems = [];
  for (const [id, { resolution }] of Object.entries(lock.packages)) {
    if (
      !/^sha512-/u.test(resolution.integrity ?? "") ||
      resolution.tarball !== undefined ||
      resolution.type !== undefined
    ) {
      problems.push(`${id} does not come from the registry with a sha512 checksum`);
    }
  }
  const licence = licencesOf(installed);
  for (const id of shipped(lock)) {
    const own = licence(id);
    if (!isAllowed(own))
      problems.push(`${id} is shipped, and its licence ${own ?? "(none is named)"} is not on the list`);
  }
  const mayRun = workspace.onlyBuiltDependencies ?? [];
  const passedOver = workspace.ignoredBuiltDependencies ?? [];
  for (const [id, manifest] of installed) {
    if (!hasInstallScript(manifest) || mayRun.includes(manifest.name) || passedOver.includes(manifest.name)) continue;
    problems.push(`${id} has an install script: name it in onlyBuiltDependencies or in ignoredBuiltDependencies`);
  }
  const names = new Set(Object.keys(lock.packages).map((key) => partsOf(key).name));
  for (const name of [...mayRun, ...passedOver]) {
    if (!names.has(name)) problems.push(`${name} is named for its install script, and nothing depends on it`);
  }
  for (const name of mayRun)
    if (passedOver.includes(name)) problems.push(`the install script of ${name} may run and may not`);
  return problems;
};

// --- audit -------------------------------------------------------------------

const serious = new Set(["high", "critical"]);

const json = async (url, body) => {
  const answer = await fetch(url, {
    ...(body === undefined
      ? {}
      : { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
    signal: AbortSignal.timeout(60_000),
  });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
};

/** The registry's own list, by name and versions. */
export const fromRegistry = (registry) => async (ids) => {
  const asked = {};
  for (const { name, version } of ids.map(partsOf)) asked[name] = [...(asked[name] ?? []), version];
  const told = await json(new URL("-/npm/v1/security/advisories/bulk", registry), asked);
  return Object.entries(told).flatMap(([name, advisories]) =>
    advisories.map(({ severity, title, url, vulnerable_versions: versions }) => ({
      severity: String(severity).toLowerCase(),
      text: `${name} ${asked[name]?.join(", ")} (${versions}): ${title} ${url}`,
    })),
  );
};

/** The list of osv.dev. */
export const fromOsv =
  (address = "https://api.osv.dev/") =>
  async (ids) => {
    const queries = ids.map(partsOf).map(({ name, version }) => ({ package: { ecosystem: "npm", name }, version }));
    const { results } = await json(new URL("v1/querybatch", address), { queries });
    const found = results.flatMap(({ vulns = [] }, place) => vulns.map(({ id }) => [ids[place], id]));
    return Promise.all(
      found.map(async ([which, id]) => {
        const { database_specific: more, summary } = await json(new URL(`v1/vulns/${encodeURIComponent(id)}`, address));
        // Without a severity it is somebody's to look at.
        return {
          severity: String(more?.severity ?? "high").toLowerCase(),
          text: `${which}: ${summary} https://osv.dev/${id}`,
        };
      }),
    );
  };

/** Asks one source after the other; `answered` is the first that does, and undefined when none did. */
export const audit = async (ids, sources) => {
  for (const [answered, ask] of Object.entries(sources)) {
    try {
      const found = await ask(ids);
      return { answered, found, serious: found.filter(({ severity }) => serious.has(severity)) };
    } catch (error) {
      console.error(`${answered} does not answer (${error.cause?.code ?? error.message})`);
    }
  }
  return { answered: undefined, found: [], serious: [] };
};

const registryOf = () => execFileSync("npm", ["config", "get", "registry"], { encoding: "utf8" }).trim();

const commands = {
  check: () => {
    const [lock, workspace, installed] = [lockOf(), workspaceOf(), installedIn()];
    const problems = problemsOf({ lock, workspace, installed });
    for (const problem of problems) console.error(problem);
    const scripts = [...installed.values()].filter(hasInstallScript).length;
    console.log(
      `${Object.keys(lock.packages).length} packages in the lockfile, ${shipped(lock).length} shipped, ${scripts} installed with an install script; ${problems.length} problems`,
    );
    return problems.length === 0 ? 0 : 1;
  },
  audit: async (address) => {
    const ids = shipped(lockOf());
    const registry = address ?? registryOf();
    const sources = {
      "the registry": fromRegistry(registry),
      ...(address === undefined ? { "osv.dev": fromOsv() } : {}),
    };
    const result = await audit(ids, sources);
    if (result.answered === undefined) {
      console.log(`NOT AUDITED: nobody answers what is known of the ${ids.length} packages that are shipped`);
      return 3;
    }
    for (const { severity, text } of result.found) console.log(`${severity}: ${text}`);
    console.log(
      `${result.answered} knows ${result.found.length} weaknesses of ${ids.length} packages, ${result.serious.length} high or critical`,
    );
    return result.serious.length === 0 ? 0 : 1;
  },
};

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [name = "check", ...rest] = process.argv.slice(2);
  if (commands[name] === undefined || rest.length > (name === "audit" ? 1 : 0)) {
    console.error("usage: node scripts/supply-chain.mjs [check | audit [registry]]");
    process.exitCode = 1;
  } else process.exitCode = await commands[name](...rest);
}
