/** The code blocks and tables of the repository's Markdown files. */
import * as fs from "node:fs";
import { join } from "node:path";
import { root } from "./command.js";

/** A fenced block: its language, the word after it (which no reader sees), and where it stands. */
export interface Block {
  readonly language: string;
  readonly name: string;
  readonly text: string;
  readonly place: string;
}

const read = (file: string) => fs.readFileSync(join(root, file), "utf8");

// A folder's own documents and those of the folders right below it.
function below(folder: string): ReadonlyArray<string> {
  if (!fs.existsSync(join(root, folder))) return [];
  return fs
    .readdirSync(join(root, folder), { withFileTypes: true })
    .flatMap((entry) =>
      entry.isDirectory()
        ? fs.readdirSync(join(root, folder, entry.name)).map((name) => `${folder}/${entry.name}/${name}`)
        : [`${folder}/${entry.name}`],
    )
    .filter((path) => path.endsWith(".md") && !path.endsWith("CHANGELOG.md"));
}

/** Every document for people. What tools write (changelogs, changesets) is not among them. */
export const documents: ReadonlyArray<string> = [
  "README.md",
  "CONTRIBUTING.md",
  ...below("docs"),
  ...below("packages"),
];

export const blocksOf = (file: string): ReadonlyArray<Block> =>
  [...read(file).matchAll(/^```(\S*)(?: (\S+))?[^\n]*\n([\s\S]*?)^```$/gm)].map(
    ({ 1: language = "", 2: name = "", 3: text = "", index }) => ({
      language,
      name,
      text,
      place: `${file}:${read(file).slice(0, index).split("\n").length}`,
    }),
  );

const withoutCode = (cell: string) => cell.replaceAll("`", "");

/** The rows of the first table under a heading: a record per row, by the table's own head. Code marks are taken off. */
export const tableUnder = (
  file: string,
  heading: string,
  clean: (cell: string) => string = withoutCode,
): ReadonlyArray<Readonly<Record<string, string>>> => {
  const text = read(file);
  const start = text.split("\n").findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, "") === heading);
  if (start === -1) throw new Error(`${file} has no heading "${heading}"`);
  const after = text.split("\n").slice(start + 1);
  const first = after.findIndex((line) => line.startsWith("|"));
  const length = after.slice(first).findIndex((line) => !line.startsWith("|"));
  const cells = after.slice(first, length === -1 ? undefined : first + length).map((line) =>
    line
      .slice(1, -1)
      .split(/(?<!\\)\|/)
      .map((cell) => clean(cell.trim().replaceAll("\\|", "|"))),
  );
  const [head = [], , ...rows] = cells;
  return rows.map((row) => Object.fromEntries(head.map((name, i) => [name, row[i] ?? ""])));
};
