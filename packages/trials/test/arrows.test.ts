/** Dependencies point one way: no package imports what is built on it. */
import * as fs from "node:fs";
import { dirname, join, relative } from "node:path";
import { assert, describe, it } from "@effect/vitest";
import ts from "typescript";
import { root } from "../../database/test/support/command.js";

/** What each package may import of the others. */
const allowed: Readonly<Record<string, ReadonlyArray<string>>> = {
  postgres: [],
  database: [],
  jobs: ["database"],
  // The server for `dlq --embedded`, when it is installed.
  operator: ["database", "postgres"],
  // What it shares with the API: types, and what a moment is.
  console: ["database", "operator"],
};

/** The packages of this repository that a source imports, by name or by a path. */
const importedBy = (path: string, text: string): ReadonlyArray<string> =>
  ts.preProcessFile(text, true, true).importedFiles.flatMap(({ fileName }) => {
    const [, named] = /^@parametric-portal\/(\w+)/.exec(fileName) ?? [];
    if (named !== undefined) return [named];
    if (!fileName.startsWith(".")) return [];
    return [relative(join(root, "packages"), join(dirname(path), fileName)).split("/")[0] ?? ""];
  });

const sourcesOf = (name: string) => {
  const folder = join(root, "packages", name, "src");
  return fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => /\.tsx?$/.test(path))
    .map((path) => join(folder, path));
};

describe("imports", () => {
  for (const [name, others] of Object.entries(allowed)) {
    it(`of ${name} are of ${["itself", ...others].join(", ")}`, () => {
      const sources = sourcesOf(name);
      assert.isNotEmpty(sources);
      for (const path of sources) {
        for (const imported of importedBy(path, fs.readFileSync(path, "utf8"))) {
          assert.include([name, ...others], imported, relative(root, path));
        }
      }
    });
  }

  it("are seen by name, by path and where they are made later", () => {
    const path = join(root, "packages/database/src/repos.ts");
    const text = `
      import * as Jobs from "@parametric-portal/jobs/jobs";
      import type { Dlq } from "../../operator/src/options.js";
      export const later = () => import("@parametric-portal/postgres/embedded");
      export * from "./models.js";
      import "effect/Effect";`;
    assert.deepStrictEqual(importedBy(path, text), ["jobs", "operator", "postgres", "database"]);
  });
});
