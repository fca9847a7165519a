/** Writes what was measured: `docs/benchmarks.json`, a table in `docs/benchmarks.md`, and a chart beside it. */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import * as echarts from "echarts";
import * as Either from "effect/Either";
import * as S from "effect/Schema";
import { markdownTable } from "markdown-table";
import { type Figure, Figures, isMoreBetter } from "./figures.js";
import type { Opened } from "./protocol.js";
import { verdicts } from "./targets.js";

const docs = (name: string) => fileURLToPath(new URL(`../../../docs/${name}`, import.meta.url));

/** What the figures of a run depend on, for whoever reads them. */
export interface Circumstances {
  readonly isFull: boolean;
  readonly rounds: number;
  readonly server: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly contestants: ReadonlyArray<typeof Opened.Type>;
  readonly absent: ReadonlyArray<string>;
}

const grouped = (value: number) =>
  value.toLocaleString("en-US", { maximumFractionDigits: value >= 100 ? 0 : value >= 10 ? 1 : 2 });

/** Of all figures, for a page. */
export const table = (figures: ReadonlyArray<Figure>) =>
  markdownTable(
    [
      ["work", "contestant", "median", "least", "most", "unit", "to raw"],
      ...figures.map((_) => [
        _.work,
        _.contestant,
        grouped(_.median),
        grouped(_.min),
        grouped(_.max),
        _.unit,
        _.ratioToRaw === null ? "" : _.ratioToRaw.toFixed(2),
      ]),
    ],
    { align: ["l", "l", "r", "r", "r", "l", "r"] },
  );

/** Of all targets whose figures are there, for a page. */
export const targetTable = (figures: ReadonlyArray<Figure>) =>
  markdownTable(
    [
      ["work", "compared with", "wanted", "measured", ""],
      ...verdicts(figures).map(({ isAtLeast, isMet, target, value }) => [
        target.work,
        target.than ?? "",
        `${isAtLeast ? "at least" : "at most"} ${grouped(target.bound)}${target.than === undefined ? "" : " ×"}`,
        grouped(value),
        isMet ? "met" : "missed",
      ]),
    ],
    { align: ["l", "l", "l", "r", "l"] },
  );

const colours: Readonly<Record<string, string>> = {
  "this project": "#2563eb",
  raw: "#64748b",
  "pg-boss": "#d97706",
  "graphile-worker": "#16a34a",
  BullMQ: "#db2777",
};

/** Rates of the works, each contestant's to that of the bare driver, which is the line at 1. */
export const chart = (figures: ReadonlyArray<Figure>): string => {
  const rates = figures.filter(({ ratioToRaw, unit }) => isMoreBetter(unit) && ratioToRaw !== null);
  const works = [...new Set(rates.map(({ work }) => work))].reverse();
  const names = [...new Set(rates.map(({ contestant }) => contestant))].filter((name) => name !== "raw");
  const height = 90 + works.length * (names.length * 14 + 22);
  const drawn = echarts.init(null, null, { renderer: "svg", ssr: true, width: 900, height });
  drawn.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    color: names.map((name) => colours[name] ?? "#334155"),
    legend: { top: 8 },
    grid: { left: 190, right: 40, top: 48, bottom: 48 },
    xAxis: { type: "log", name: "rate, raw = 1", nameLocation: "middle", nameGap: 28, min: 0.1, max: 100 },
    yAxis: { type: "category", data: works },
    series: names.map((name, place) => ({
      name,
      type: "bar",
      label: { show: true, position: "right", fontSize: 10, formatter: ({ value }: { value: number }) => `${value}` },
      data: works.map(
        (work) => rates.find((_) => _.work === work && _.contestant === name)?.ratioToRaw?.toPrecision(2) ?? null,
      ),
      ...(place === 0
        ? { markLine: { silent: true, symbol: "none", label: { show: false }, data: [{ xAxis: 1 }] } }
        : {}),
    })),
  });
  const svg = drawn.renderToSVGString();
  drawn.dispose();
  return svg;
};

const machine = () =>
  `${cpus().length} processors (${cpus()[0]?.model.trim() ?? "unknown"}), ${Math.round(totalmem() / 2 ** 30)} GB of memory, Node ${process.versions.node}`;

const differences = (contestants: Circumstances["contestants"]) =>
  contestants.flatMap(({ differs, name }) =>
    Object.entries(differs).map(([work, text]) => `* ${name}, ${work}: ${text}`),
  );

export const markdown = (figures: ReadonlyArray<Figure>, _: Circumstances): string =>
  [
    "# Benchmarks",
    "",
    "What this project does in a second, next to the bare driver and to what you might pick instead. This page, its chart and",
    "[benchmarks.json](benchmarks.json) are written by one command, which needs Node and npm, and `redis-server` for BullMQ:",
    "",
    "```sh",
    `npm run bench -- --${_.isFull ? "full" : "write"}`,
    "```",
    "",
    "`npm run bench` alone takes minutes and writes nothing.",
    "",
    "![Rates, to that of the bare driver](benchmarks.svg)",
    "",
    "## How it was measured",
    "",
    `* ${machine()}. ${_.server} on the same machine, with ${Object.entries(_.settings)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ")}; everything else as it comes.`,
    "* Each contestant is a process of its own with a database of its own on that server, at most 10 connections, payloads of 300",
    "  bytes and an error of 1 kB. One works at a time; a round begins in the other direction each time. Two more rounds",
    "  come before the first, to warm up.",
    `* ${_.rounds} rounds: the median, the least and the most of them. "To raw" is the median of what each round gave, by what the bare`,
    "  driver gave in the same round. Compare ratios of one run, not figures of two machines.",
    ...(_.absent.length === 0 ? [] : [`* Left out, because it is not there: ${_.absent.join(", ")}.`]),
    ...(_.isFull
      ? []
      : [
          "* Small works; `--full` has larger ones, and takes an hour.",
          figures.some(({ work }) => work === "insert in batches, into all")
            ? '* What is said of "all" is of ten million dead letters of a thousand tenants: `npm run bench -- --full --only "at scale"`.'
            : '* None at scale: `--full --only "at scale"` has ten million dead letters of a thousand tenants.',
        ]),
    "",
    "| contestant | version | settings |",
    "| --- | --- | --- |",
    ..._.contestants.map(({ name, settings, version }) => `| ${name} | ${version} | ${settings} |`),
    "",
    "## What was wanted",
    "",
    targetTable(figures),
    "",
    "## Figures",
    "",
    table(figures),
    "",
    "## Where they do not do the same",
    "",
    ...differences(_.contestants),
    "",
  ].join("\n");

/** The figures that are there already, of which those of the same works are replaced. */
const merged = (figures: ReadonlyArray<Figure>) => {
  const before = Either.getOrElse(
    Either.try(() => S.decodeSync(Figures)(readFileSync(docs("benchmarks.json"), "utf8"))),
    (): ReadonlyArray<Figure> => [],
  );
  const works = new Set(figures.map(({ work }) => work));
  return [...before.filter(({ work }) => !works.has(work)), ...figures];
};

/** Replaces the figures of these works, and the page and the chart by what there is then. */
export const write = (figures: ReadonlyArray<Figure>, circumstances: Circumstances) => {
  const all = merged(figures);
  writeFileSync(docs("benchmarks.json"), `${S.encodeSync(Figures)(all)}\n`);
  writeFileSync(docs("benchmarks.svg"), chart(all));
  writeFileSync(docs("benchmarks.md"), markdown(all, circumstances));
};

/** What a terminal shows. */
export const told = (figures: ReadonlyArray<Figure>) => `${table(figures)}\n\n${targetTable(figures)}`;
