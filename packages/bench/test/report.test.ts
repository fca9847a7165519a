import { existsSync, readFileSync } from "node:fs";
import { assert, describe, it } from "@effect/vitest";
import * as S from "effect/Schema";
import { type Figure, Figures, figureOf, figuresOf, median, quantile } from "../src/figures.js";
import { chart, table, targetTable } from "../src/report.js";
import { verdicts } from "../src/targets.js";
import { works } from "../src/works.js";

const pathOf = (name: string) => new URL(`../../../docs/${name}`, import.meta.url);
const docs = (name: string) => readFileSync(pathOf(name), "utf8");
// There is a page when there has been a full run.
const isWritten = existsSync(pathOf("benchmarks.json"));
const written: ReadonlyArray<Figure> = isWritten ? S.decodeSync(Figures)(docs("benchmarks.json")) : [];

describe("a figure", () => {
  it("is the median of the rounds with the least and the most of them, and its ratio the median of the ratios", () => {
    assert.deepStrictEqual(figureOf("w", "letters/s", "a", [30, 10, 20], [10, 10, 40]), {
      work: "w",
      contestant: "a",
      unit: "letters/s",
      median: 20,
      min: 10,
      max: 30,
      rounds: 3,
      ratioToRaw: 1,
    });
    assert.strictEqual(figureOf("w", "ms", "a", [1], undefined).ratioToRaw, null);
    assert.strictEqual(figureOf("w", "ms", "a", [1, 2], [1]).ratioToRaw, null);
    const both = figuresOf(
      "w",
      "ms",
      new Map([
        ["raw", [2, 4]],
        ["a", [4, 4]],
      ]),
    );
    assert.deepStrictEqual(
      both.map(({ contestant, ratioToRaw }) => [contestant, ratioToRaw]),
      [
        ["raw", 1],
        ["a", 2],
      ],
    );
    assert.strictEqual(median([4, 1, 3, 2]), 3);
    assert.strictEqual(quantile([3, 1, 2, 4], 0.99), 4);
    assert.strictEqual(quantile([3, 1, 2, 4], 0.5), 3);
  });
});

describe("a target", () => {
  const figure = (contestant: string, work: string, unit: string, value: number, ratioToRaw: number | null = null) => ({
    ...figureOf(work, unit, contestant, [value], undefined),
    ratioToRaw,
  });
  const isMet = (figures: ReadonlyArray<Figure>) => verdicts(figures).map((_) => [_.target.than, _.value, _.isMet]);

  it("is at least so much of a rate, and at most so much of anything else", () => {
    assert.deepStrictEqual(isMet([figure("this project", "list 100", "pages/s", 7, 0.7)]), []);
    const raw = figure("raw", "list 100", "pages/s", 10, 1);
    assert.deepStrictEqual(isMet([raw, figure("this project", "list 100", "pages/s", 7, 0.7)]), [["raw", 0.7, true]]);
    assert.deepStrictEqual(isMet([raw, figure("this project", "list 100", "pages/s", 6, 0.6)]), [["raw", 0.6, false]]);
    assert.deepStrictEqual(isMet([figure("this project", "memory of an export", "MB", 150)]), [[undefined, 150, true]]);
    assert.deepStrictEqual(isMet([figure("this project", "memory of an export", "MB", 151)]), [
      [undefined, 151, false],
    ]);
  });

  it("may be another work of this project", () => {
    const small = figure("this project", "list 100 of 10,000, a small tenant, p99", "ms", 2);
    const large = (value: number) => figure("this project", "list 100 of all, a small tenant, p99", "ms", value);
    assert.deepStrictEqual(isMet([small, large(3)]), [[small.work, 1.5, true]]);
    assert.deepStrictEqual(isMet([small, large(4)]), [[small.work, 2, false]]);
  });
});

describe.runIf(isWritten)("the page", () => {
  it("has every figure, every verdict and a chart of what is in the JSON", () => {
    const page = docs("benchmarks.md");
    assert.include(page, table(written));
    assert.include(page, targetTable(written));
    assert.isTrue(existsSync(pathOf("benchmarks.svg")));
    const drawn = chart(written);
    for (const { ratioToRaw, unit, work } of written) {
      if (unit.endsWith("/s") && ratioToRaw !== null) assert.include(drawn, work);
    }
  });

  it("has a figure for every work of the contest, of five rounds or more", () => {
    const known = new Set(written.map(({ work }) => work));
    for (const { yields } of works) for (const { work } of yields) assert.isTrue(known.has(work), work);
    for (const { rounds, unit, work } of written) {
      if (unit.endsWith("/s") && work !== "purge while inserting") assert.isAtLeast(rounds, 5, work);
    }
  });
});
