/**
 * A bill of materials of each published package, as CycloneDX 1.6 in JSON: what it brings and what its user brings (its peers, in the
 * versions that it was built with), each with its exact version, licence and checksum, and who depends on whom.
 *
 * `node scripts/sbom.mjs FOLDER [PACKAGE …]` writes `FOLDER/PACKAGE.cdx.json`; default all. The same lockfile gives the same file.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { installedIn, licencesOf, lockOf, manifestOf, partsOf, published, shippedWith } from "./dependencies.mjs";

const purlOf = (id) => {
  const { name, version } = partsOf(id);
  return `pkg:npm/${name.replace("@", "%40")}@${version}`;
};
const licensesOf = (licence) =>
  licence === undefined
    ? []
    : /^[\w.-]+$/u.test(licence)
      ? [{ license: { id: licence } }]
      : [{ expression: licence.startsWith("(") ? licence : `(${licence})` }];

export const sbomOf = (name, { lock = lockOf(), installed = installedIn() } = {}) => {
  const licence = licencesOf(installed);
  const shipped = shippedWith(lock, name);
  const peers = manifestOf(name).peerDependencies ?? {};
  const component = (id) => {
    const { isOptional, workspace } = shipped.get(id);
    const { name: full, version } = partsOf(id);
    const [group, short] = full.includes("/") ? full.split("/") : [undefined, full];
    const integrity = lock.packages[id]?.resolution.integrity;
    return {
      type: "library",
      "bom-ref": purlOf(id),
      ...(group === undefined ? {} : { group }),
      name: short,
      version,
      scope: isOptional ? "optional" : "required",
      licenses: licensesOf(workspace === undefined ? licence(id) : manifestOf(workspace).license),
      purl: purlOf(id),
      ...(integrity === undefined
        ? {}
        : {
            hashes: [
              { alg: "SHA-512", content: Buffer.from(integrity.slice("sha512-".length), "base64").toString("hex") },
            ],
          }),
      ...(peers[full] === undefined ? {} : { properties: [{ name: "npm:peer", value: peers[full] }] }),
    };
  };
  const ids = [...shipped.keys()].sort();
  const own = `${manifestOf(name).name}@${manifestOf(name).version}`;
  const { scope: _, ...subject } = component(own);
  return {
    $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: { component: subject },
    components: ids.filter((id) => id !== own).map(component),
    dependencies: ids.map((id) => ({ ref: purlOf(id), dependsOn: [...shipped.get(id).dependsOn].map(purlOf).sort() })),
  };
};

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [folder, ...names] = process.argv.slice(2);
  const wrong = names.find((name) => !published.includes(name));
  if (folder === undefined || wrong !== undefined) {
    console.error(`usage: node scripts/sbom.mjs FOLDER [${published.join(" | ")} …]`);
    process.exitCode = 1;
  } else {
    mkdirSync(folder, { recursive: true });
    for (const name of names.length === 0 ? published : names) {
      const bom = sbomOf(name);
      const path = join(folder, `${name}.cdx.json`);
      writeFileSync(path, `${JSON.stringify(bom, null, 2)}\n`);
      console.log(`${path}: ${bom.components.length} components`);
    }
  }
}
