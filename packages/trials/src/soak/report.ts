/** What a soak has shown: as text at its end, and as the page `docs/soak.md`. */
import { markdownTable } from "markdown-table";
import type { Outcome, Series } from "./soak.js";

const whole = (value: number) => Math.round(value).toLocaleString("en-US");
const shown = (value: number, unit: Series["unit"]) =>
  unit === "MB" ? `${(value / 1e6).toFixed(2)} MB` : whole(value);

export const table = ({ all }: Outcome): string =>
  markdownTable(
    [
      ["", "first", "last", "least", "most", "mean", "climb of the line", "allowed", "flat"],
      ...all.map(({ name, unit, verdict }) => [
        name,
        ...[verdict.first, verdict.last, verdict.least, verdict.most, verdict.mean, verdict.climb, verdict.allowed].map(
          (_) => shown(_, unit),
        ),
        verdict.isFlat ? "yes" : "NO",
      ]),
    ],
    { align: ["l", "r", "r", "r", "r", "r", "r", "r", "l"] },
  );

const marks = "▁▂▃▄▅▆▇█";
/** The whole run in a line, each mark the mean of its part, from nothing up to the highest. */
export const spark = ({ samples }: Series, width = 60): string => {
  const parts = Array.from(
    { length: Math.min(width, samples.length) },
    (_, place, all = Math.min(width, samples.length)) =>
      samples.slice(Math.floor((place * samples.length) / all), Math.floor(((place + 1) * samples.length) / all)),
  );
  const means = parts.map((part) => part.reduce((sum, { value }) => sum + value, 0) / part.length);
  const most = Math.max(...means, Number.MIN_VALUE);
  return means.map((mean) => marks[Math.min(7, Math.floor((mean / most) * 8))]).join("");
};

export const page = (outcome: Outcome, processors: number, load: number): string => `# Soak

What a steady load leaves behind in ${outcome.minutes} minutes. This page is written by

\`\`\`sh
npm run soak -- --minutes ${outcome.minutes} --rate ${outcome.jobsPerSecond} --write
\`\`\`

which exits with 1 when something climbs.

**${outcome.isFlat ? "Nothing climbs" : "Something climbs"}: memory, connections, dead rows and sizes over the second half of ${outcome.minutes} minutes.**

About ${outcome.jobsPerSecond} jobs a second came in for four tenants (${whole(outcome.answered)} in all, ${whole(outcome.lost)} submissions without an answer), a fifth of which die
at least once: ${whole(outcome.letters)} letters were stored, restored ones among them. Three runners worked on the jobs, two operators replayed, discarded and restored, retention removed
ended jobs, replayed letters and discarded copies at once, an administrator kept a minute of the ledger, and autovacuum looked every 10
seconds (${whole(outcome.vacuums)} runs). The ledger has no end of its own: without that administrator it grows by a line for each change.

The machine had ${processors} processors and a load of ${load.toFixed(1)} over the last 15 minutes, its own included.

## Second half

The line is that of least squares through the samples of the second half (${whole(outcome.samples)} samples in all); its climb is from the first of them to the last. Memory
is that of the three runners together, measured after a garbage collection.

${table(outcome)}

## Whole run

${outcome.all.map((_) => `* ${_.name}: \`${spark(_)}\``).join("\n")}
`;
