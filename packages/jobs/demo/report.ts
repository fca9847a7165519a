/**
 * The page that the demo prints: headings, prose, tables, and the promises that it checks on the way.
 * Plain text, 100 columns, no colours.
 */
import Table from "cli-table3";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Ref from "effect/Ref";

const width = 100;

export type Cell = string | number;

/** A numbered section. */
export const heading = (title: string) => Console.log(`\n${title}\n${"─".repeat(title.length)}`);

/** Sentences, broken at the page's width. */
export const prose = (text: string) => Console.log(wrapped(text, width));

/** Lines of text as they are, set off from the prose; one that is too long for the page is cut. */
export const lines = (text: ReadonlyArray<string>) =>
  Console.log(text.map((line) => cut(`${indent}${line}`.trimEnd(), width)).join("\n"));

/** A text that belongs to a label, broken into as many lines as it needs, under each other. */
export const labelled = (label: string, text: string) => {
  const under = " ".repeat(label.length);
  return wrapped(text, width - indent.length - label.length)
    .split("\n")
    .map((line, place) => `${place === 0 ? label : under}${line}`);
};

/** A table as wide as its content, at most as wide as the page: then the longest column is cut. Numbers stand right. */
export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<Cell>>) => {
  const texts = [head, ...rows].map((row) => row.map(String));
  const widths = head.map((_, column) => Math.max(...texts.map((row) => row[column]?.length ?? 0)));
  const excess = widths.reduce((sum, _) => sum + _ + gap.length, indent.length - gap.length) - width;
  const widest = widths.indexOf(Math.max(...widths));
  const page = new Table({
    head: [...head],
    colWidths: widths.map((_, column) => (column === widest ? _ - Math.max(0, excess) : _)),
    colAligns: head.map((_, column) => (rows.every((row) => typeof row[column] === "number") ? "right" : "left")),
    chars: { ...noLines, middle: gap, left: indent, "mid-mid": "──", "left-mid": indent, mid: "─" },
    style: { head: [], border: [], compact: true, "padding-left": 0, "padding-right": 0 },
  });
  page.push(...rows.map((row) => [...row]));
  return Console.log(page.toString().replaceAll(/ +$/gm, ""));
};

const indent = "  ";
const gap = "  ";
// Of the box only the line under the head is drawn: what the sides would take, the texts need.
const noLines = {
  top: "",
  "top-mid": "",
  "top-left": "",
  "top-right": "",
  bottom: "",
  "bottom-mid": "",
  "bottom-left": "",
  "bottom-right": "",
  right: "",
  "right-mid": "",
};

/** The end of an id. A uuidv7 begins with its time, so ids of the same moment begin alike. */
export const short = (id: string) => `…${id.slice(-8)}`;

export const firstLine = (text: string) => text.split("\n", 1)[0] ?? "";

/** Time of day in UTC, to the millisecond. */
export const timeOf = (at: Date) => at.toISOString().slice(11, 23);

/** 2 letters, 1 letter. */
export const counted = (count: number, noun: string) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** The promises of the story: each is checked against the database, printed, and remembered when it is broken. */
export class Promises extends Effect.Service<Promises>()("demo/Promises", {
  effect: Effect.gen(function* () {
    const broken = yield* Ref.make<ReadonlyArray<string>>([]);
    return {
      broken: Ref.get(broken),
      check: (promise: string, holds: boolean) =>
        Effect.zipRight(
          Console.log(
            wrapped(`${holds ? "✓" : "✗ BROKEN:"} ${promise}`, width - indent.length).replaceAll(/^/gm, indent),
          ),
          holds ? Effect.void : Ref.update(broken, (_) => [..._, promise]),
        ),
    };
  }),
}) {}

const cut = (text: string, length: number) => (text.length <= length ? text : `${text.slice(0, length - 1)}…`);

const wrapped = (text: string, length: number) => {
  const done: Array<string> = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > length) {
      done.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...done, line].join("\n");
};
