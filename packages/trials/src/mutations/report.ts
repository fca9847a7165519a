/** What was noticed and by what: for a terminal, and as `docs/mutations.md`. Pure. */
import * as Arr from "effect/Array";
import { markdownTable } from "markdown-table";
import { excused } from "./list.js";
import type { Result } from "./trial.js";

const by = ({ by, verdict }: Result) => (verdict === "killed" ? by : verdict.toUpperCase());

const cell = (text: string) => text.replaceAll("|", "\\|");

/** One line each, on a terminal. */
export const told = (results: ReadonlyArray<Result>): string => {
  const width = Math.max(...results.map(({ mutation }) => mutation.name.length));
  return results.map((result) => `${result.mutation.name.padEnd(width)}  ${by(result)}`).join("\n");
};

/** What could be taken away while everything stays as it is, and why it is not in the list. */
const equivalents: ReadonlyArray<readonly [what: string, why: string]> = [
  [
    "the state, and in `rescue` the fence, that the `UPDATE` of a claim or a rescue repeats",
    "the row was locked in that state by the same statement; the guard is for whoever changes the lock",
  ],
  [
    "`replayed_at IS NULL` in the change of replay, discard and retention",
    "the same: the row is locked as pending by the same statement. The lock's own guard, the lock and its order are in the list",
  ],
  [
    "the order in which a runner sends the ids of a settlement",
    "the index on ids has its own order; the sort is for plans that go by the list",
  ],
  [
    "`USING (true)` and `WITH CHECK (true)` of the system's policies",
    "there is nothing weaker; who they are for is in the list",
  ],
  [
    "the comparison of tokens in constant time",
    "another comparison answers the same, only its time differs, and no test may go by time. What is compared is in the list",
  ],
  ...Object.entries(excused),
];

/** The page. */
export const document = (results: ReadonlyArray<Result>): string => {
  const killed = results.filter(({ verdict }) => verdict === "killed").length;
  const byFile = Object.entries(Arr.groupBy(results, ({ mutation }) => mutation.file));
  return `# Mutations

A guard that no test misses when it is gone is no guard. \`npm run mutations\` takes each policy, constraint, trigger, fence, lock and
check of the product away, one at a time, in a copy of the sources, and runs the test that must fail then. \`npm run mutations -- --write\`
writes this page, and \`--only WORD\` tries those that have the word in their name, file or test. ${killed} of ${results.length} are noticed.

What counts is a test of the behaviour that fails by itself. The comparison of the schema with its snapshot, which notices every
edit of a migration, is never the test; neither is a file that does not load, or a database that cannot be made. Before anything is
broken every test of the list must pass. \`packages/trials/test/mutations.test.ts\` holds the list, the sources and the database's
catalogue together: a new policy, trigger, constraint or route without a line here makes it fail.

${byFile
  .map(
    ([file, all]) =>
      `## ${file}\n\n${markdownTable([
        ["without, or with", "fails"],
        ...all.map((result) => [cell(result.mutation.name), cell(by(result))]),
      ])}`,
  )
  .join("\n\n")}

## Not in the list

${markdownTable([["what could be taken away", "and why nothing would change"], ...equivalents.map(([what, why]) => [cell(what), cell(why)])])}
`;
};
