/** What a campaign says: a line and a table on the terminal, and docs/fuzz.md. */
import { readFileSync, writeFileSync } from "node:fs";
import { arch, cpus, platform, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { markdownTable } from "markdown-table";
import { type Failure, mostGrowthMegabytes, type Result } from "./target.js";
import { mostMegabytes } from "./watch.js";

const number = (value: number) => value.toLocaleString("en-US");
const sum = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b, 0);

export const counted = (results: ReadonlyArray<Result>) => number(sum(results.map(({ cases }) => cases)));

const isRefused = (outcome: string) => outcome.startsWith("refused");

/** Outcomes of one kind, the most frequent first. */
const outcomes = ({ outcomes }: Result, isWanted: (outcome: string) => boolean) => {
  const found = Object.entries(outcomes)
    .filter(([outcome]) => outcome !== "FAILED" && isWanted(outcome))
    .sort(([, a], [, b]) => b - a);
  return found.map(([outcome, count]) => `${outcome.replace(/^refused: /u, "")} ${number(count)}`).join(", ") || "-";
};

export const line = (result: Result) =>
  `${result.target}: ${number(result.cases)} cases, ${number(sum(Object.entries(result.outcomes).flatMap(([name, count]) => (isRefused(name) ? [count] : []))))} refused, ${result.failures.length} failures`;

export const table = (results: ReadonlyArray<Result>) =>
  markdownTable(
    [
      ["target", "cases", "accepted", "refused", "failures", "MB before → after"],
      ...results.map((result) => [
        result.target,
        number(result.cases),
        outcomes(result, (_) => !isRefused(_)),
        outcomes(result, isRefused),
        String(result.failures.length),
        `${result.megabytes.before.toFixed(0)} → ${result.megabytes.after.toFixed(0)}`,
      ]),
      ["**all**", counted(results), "", "", String(sum(results.map(({ failures }) => failures.length))), ""],
    ],
    { align: ["l", "r", "l", "l", "r", "r"] },
  );

/** A failure, with what makes it again. */
export const told = ({ example, path, problem, seed, target }: Failure) =>
  [
    `${target}: ${problem}`,
    ...(example === undefined ? [] : [`  the case: ${example}`]),
    ...(seed === undefined
      ? []
      : [`  again: npm run fuzz -- --only "${target}" --seed ${seed}${path === undefined ? "" : ` --path ${path}`}`]),
  ].join("\n");

interface Campaign {
  readonly cases: number;
  readonly seed: number;
  readonly server: string;
  readonly millis: number;
}

const file = fileURLToPath(new URL("../../../../docs/fuzz.md", import.meta.url));
const [begin, end] = ["<!-- written by npm run fuzz -->", "<!-- until here -->"];

export const write = (results: ReadonlyArray<Result>, failures: ReadonlyArray<Failure>, campaign: Campaign) => {
  const { cases, millis, seed, server } = campaign;
  const text = [
    begin,
    "",
    `\`npm run fuzz -- --cases ${cases} --seed ${seed} --write\` took ${number(Math.round(millis / 1000))} seconds on ${new Date().toISOString().slice(0, 10)}:`,
    `Node ${process.versions.node}, PostgreSQL ${server}, ${platform()} ${arch()}, ${cpus().length} cores, ${number(Math.round(totalmem() / 2 ** 30))} GiB.`,
    `**${counted(results)} cases, ${failures.length} ${failures.length === 1 ? "failure" : "failures"}.** Memory is what is in use after a collection, after a fifth of the`,
    `cases and after all of them; more than ${mostGrowthMegabytes} MB of growth is a failure, and a process that needs more than ${number(mostMegabytes)} MB ends.`,
    "",
    table(results),
    ...(failures.length === 0 ? [] : ["", ...failures.map((_) => `* ${told(_)}`)]),
    "",
    end,
  ].join("\n");
  const page = readFileSync(file, "utf8");
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${file} has no place for the report: ${begin} … ${end}`);
  writeFileSync(file, page.slice(0, from) + text + page.slice(to + end.length));
};
