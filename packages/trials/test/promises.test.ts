/** The page of promises names, for each of them, tests that there are. */
import * as fs from "node:fs";
import { join } from "node:path";
import { assert, describe, it } from "@effect/vitest";
import { Terms } from "../../database/test/support/balance.js";
import { root } from "../../database/test/support/command.js";
import { blocksOf, tableUnder } from "../../database/test/support/markdown.js";
import { isTest } from "../../database/test/support/titles.js";

const page = "docs/promises.md";
const text = fs.readFileSync(join(root, page), "utf8");
const headings = [...text.matchAll(/^## (.+)$/gm)].map(([, heading = ""]) => heading);

/** The tests that a cell names: "`path`: title", and more of them after a semicolon. */
const namedBy = (cell: string): ReadonlyArray<readonly [file: string, title: string]> =>
  cell.split(/; (?=`)/).map((part) => {
    const [, file = "", title = ""] = /^`([^`]+)`: (.+)$/.exec(part.trim()) ?? [];
    return [file, title];
  });

describe("docs/promises.md", () => {
  for (const heading of headings) {
    it(`names tests that there are: ${heading}`, () => {
      const rows = tableUnder(page, heading, (cell) => cell);
      assert.isNotEmpty(rows);
      for (const { "held by": held = "", promise = "" } of rows) {
        assert.notStrictEqual(promise, "");
        for (const [file, title] of namedBy(held)) {
          assert.isTrue(isTest(file, title), `${promise}: there is no test "${title}" in "${file}"`);
        }
      }
    });
  }

  it("has the equations that the tests hold, term by term", () => {
    const [block] = blocksOf(page).filter(({ name }) => name === "equations");
    const [jobs = "", letters = ""] = block?.text.split("\n") ?? [];
    const words = (text: string) =>
      [...text.replace(/^(jobs|dead letters)/, "").matchAll(/\w+/g)].map(([word]) => word);
    const terms = Object.keys(Terms.fields);
    const ofJobs = terms.filter((term) => term.startsWith("jobs"));
    // What the database cannot know is given.
    assert.sameMembers(words(jobs), ["submitted", "purged", ...ofJobs.map((term) => term.slice(4).toLowerCase())]);
    assert.sameMembers(words(letters), ["inserted", ...terms.filter((term) => !ofJobs.includes(term))]);
  });

  it("is read by a check that sees what there is not", () => {
    const crash = "packages/jobs/test/crash.test.ts";
    assert.isTrue(isTest(crash, "of two of three runners at once"));
    assert.isTrue(isTest(crash, "of one of three runners before claim"));
    assert.isFalse(isTest(crash, "of one of three runners on a Sunday"));
    assert.isFalse(isTest(crash, "of three of three runners at once"));
    assert.isFalse(isTest("packages/jobs/test/nothing.test.ts", "of two of three runners at once"));
    assert.isFalse(isTest("packages/console/test/console.test.ts", ""));
    assert.deepStrictEqual(namedBy("`a.ts`: one; two; `b.ts`: three"), [
      ["a.ts", "one; two"],
      ["b.ts", "three"],
    ]);
    assert.deepStrictEqual(namedBy("held by hope"), [["", ""]]);
  });
});
