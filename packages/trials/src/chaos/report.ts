/** What a run has shown: as text at its end, and as the page `docs/chaos.md`. */
import { markdownTable } from "markdown-table";
import type { Outcome } from "./chaos.js";

const whole = (value: number) => value.toLocaleString("en-US");

/** Both equations with their numbers. */
export const equations = ({ last: { given, terms } }: Outcome): ReadonlyArray<string> => {
  const { discarded, erased, expired, imported, pending, purged, replayed, restored } = terms;
  return [
    `dead letters: ${whole(given.inserted)} inserted + ${whole(imported)} imported = ${whole(pending)} pending + ${whole(replayed)} replayed` +
      ` + (${whole(discarded)} discarded − ${whole(restored)} restored) + ${whole(purged)} purged + ${whole(expired)} expired + ${whole(erased)} erased`,
    `jobs: ${whole(given.submitted)} submitted = ${whole(terms.jobsPending)} pending + ${whole(terms.jobsProcessing)} processing` +
      ` + ${whole(terms.jobsCompleted)} completed + ${whole(terms.jobsDead)} dead + ${whole(terms.jobsCancelled)} cancelled + ${whole(given.purgedJobs)} purged`,
  ];
};

const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) =>
  markdownTable([[...head], ...rows.map((row) => [...row])], { align: head.map((_, i) => (i === 0 ? "l" : "r")) });

const faults = ({ faults: all }: Outcome) =>
  table(
    ["fault", "struck and survived", "met nothing or came too late"],
    all.map(({ kind, missed, struck }) => [kind, whole(struck), whole(missed)]),
  );

const counts = (outcome: Outcome) =>
  table(
    ["", "count"],
    [
      ["jobs whose submission was answered", whole(outcome.answered)],
      ["submissions whose answer was lost", whole(outcome.unknown)],
      ["of those, found whole in the database", whole(outcome.arrived)],
      ["jobs dead-lettered", whole(outcome.last.given.inserted)],
      ["dead letters replayed", whole(outcome.last.replays)],
      ["effects that jobs left", whole(outcome.last.effects)],
      ["looks for rows of other tenants", whole(outcome.last.looks)],
      ["times that everything was checked", whole(outcome.rounds)],
    ],
  );

const list = (map: ReadonlyMap<string, number>) =>
  [...map].map(([name, count]) => `${name} ${whole(count)}`).join(", ");

export const text = (outcome: Outcome): string =>
  [
    faults(outcome),
    "",
    counts(outcome),
    "",
    ...equations(outcome),
    "",
    `operators did: ${list(outcome.done)}`,
    `operators were refused: ${list(outcome.failed)}`,
  ].join("\n");

/** The page. `command` repeats the run. */
export const page = (outcome: Outcome, seed: number, minutes: number): string => `# Chaos

What is left when everything that a network, a server and a process can do to a queue is done to it while it works. This page is
written by a run of ${minutes} minutes with the seed ${seed}, which took ${outcome.seconds} seconds in all:

\`\`\`sh
npm run chaos -- --minutes ${minutes} --seed ${seed} --write
\`\`\`

Three runners work on the jobs of four tenants, two operators replay, discard and restore dead letters, retention deletes what is old,
each through a connection that can be cut, and a scheduler strikes. The seed decides which fault strikes when, whom and how hard; it is
the first thing that a run prints. A violated rule ends the run at once with the rule, the ids and exit code 1. CI runs two minutes.

**${outcome.struck} faults struck, nothing was lost, no transactional effect was there twice, no tenant saw a foreign row.**

${faults(outcome)}

${counts(outcome)}

## The equations

At the end, in one snapshot; the same two held at each of the ${whole(outcome.rounds)} checks between:

${equations(outcome)
  .map((line) => `* ${line}`)
  .join("\n")}

What came in and what was purged is counted by triggers of the trial's own, in the transactions that did it. The terms on the right are
those of the tables and of the ledger.

## What is checked

Every few seconds and at the end, each time in one snapshot:

* both equations, and that no letter is in two places or was replayed twice (\`packages/database/test/support/balance.ts\`);
* a transactional job has left its effect once if it is completed and never if it is not;
* a completed job has left its effect;
* a job has died as often as its letters were replayed, once more if it is dead;
* letters, lines of the ledger and effects are in the tenant of their job, and what handlers and operators looked for in other
  tenants was not there;
* each submission that was answered is there. One whose answer was lost is there whole or not at all, and nothing else is there.

At the end every job must come to its end, without a minute in which none does, and every runner must end in order when it is told
to. A runner that ends by itself, and a defect in an operator's call, are violations too.

## What each fault does

${table(
  ["fault", "what is done"],
  [
    ["fast restart of the server", "as `pg_ctl stop -m fast`, then started again on the same data"],
    [
      "immediate restart of the server",
      "SIGQUIT for the postmaster, as `pg_ctl stop -m immediate`; the server recovers from its log",
    ],
    ["kill -9 of a runner", "SIGKILL in the middle of its jobs; another process takes its place"],
    ["frozen runner", "SIGSTOP for 4 to 9 seconds, longer than the lease of 3, then SIGCONT"],
    ["cut connections", "every connection of a runner, or of all operators and submitters, is reset on both sides"],
    ["half-open connections", "a third or more of them pass nothing any more and are never closed"],
    [
      "no connection left",
      "`max_connections` is used up, then a runner's connections are cut, so that it needs new ones",
    ],
    ["cancelled backends", "`pg_cancel_backend` for 2 to 12 statements that run"],
    ["terminated backends", "`pg_terminate_backend` for 2 to 12 backends"],
    ["shifted clock of a runner", "the process's clock jumps, to as much as 26 hours off"],
    ["temporary files forbidden", "`temp_file_limit = 0`: what needs a file to sort fails with 53400"],
    ["temporary files on a full disk", "the files lead to `/dev/full`: writing them fails with 53100"],
  ],
)}

Operators did: ${list(outcome.done)}. What failed was told to them with its SQLSTATE and done again later: ${list(outcome.failed)}.
`;
