/** Which tests there are, for the documents that name them. */
import * as fs from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { root } from "./command.js";

const escaped = (text: string) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** The titles of a file's tests: each as it is, or as the pattern that its template makes. Those that are always skipped are none. */
const titlesOf = (path: string) => {
  const source = ts.createSourceFile(path, fs.readFileSync(path, "utf8"), ts.ScriptTarget.Latest, true);
  const titles: Array<RegExp> = [];
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node)) {
      const called = node.expression.getText();
      const [title] = node.arguments;
      if (/^(it|test|scoped|dies)\b/.test(called) && !/\.(skip|todo)\b/.test(called) && title !== undefined) {
        if (ts.isStringLiteralLike(title)) titles.push(new RegExp(`^${escaped(title.text)}$`));
        if (ts.isTemplateExpression(title)) {
          const parts = [title.head.text, ...title.templateSpans.map(({ literal }) => literal.text)];
          titles.push(new RegExp(`^${parts.map(escaped).join("(.+)")}$`));
        }
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return titles;
};

/** All files of tests, and what they share, of these packages; paths from the root. */
export const testFiles = (...packages: ReadonlyArray<string>): ReadonlyArray<string> =>
  packages.flatMap((name) =>
    fs
      .readdirSync(join(root, "packages", name, "test"), { recursive: true, encoding: "utf8" })
      .filter((path) => /\.tsx?$/.test(path))
      .map((path) => `packages/${name}/test/${path}`),
  );

/** What the tests of a file's package put into the templates of their titles: any of their words. */
const wordsBeside = (file: string) =>
  testFiles(file.split("/")[1] ?? "")
    .map((path) => fs.readFileSync(join(root, path), "utf8"))
    .join("\n");

/** Whether a test has this title in this file, whose path is from the root. */
export const isTest = (file: string, title: string): boolean => {
  if (!fs.existsSync(join(root, file))) return false;
  let words: string | undefined;
  return titlesOf(join(root, file)).some((pattern) => {
    const [found, ...filled] = pattern.exec(title) ?? [];
    if (found === undefined) return false;
    words ??= filled.length === 0 ? "" : wordsBeside(file);
    return filled.every((part) => words?.includes(`"${part}"`) || words?.includes(`\`${part}`));
  });
};
