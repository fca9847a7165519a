/** The commands that only look: list, show, groups, stats, history. */
import * as Args from "@effect/cli/Args";
import * as Command from "@effect/cli/Command";
import * as Options from "@effect/cli/Options";
import type { BadRow } from "@parametric-portal/database/errors";
import type { JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import { JobDlqGroup } from "@parametric-portal/database/job-dlq/insight";
import { type JobDlqRound, JobHistory, type JobState } from "@parametric-portal/database/job-dlq/lineage";
import { JobDlqStat, StatsKey } from "@parametric-portal/database/job-dlq/stats";
import type { JobDlq } from "@parametric-portal/database/models";
import type { DatabaseService } from "@parametric-portal/database/repos";
import * as Clock from "effect/Clock";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { NothingMatched, noLetterMatches } from "./failure.js";
import {
  filterOf,
  filterOptions,
  jsonOption,
  moment,
  onTarget,
  stateOption,
  type Target,
  targetOptions,
} from "./options.js";
import {
  age,
  ago,
  type Column,
  colour,
  counted,
  json,
  lastError,
  letterJson,
  line,
  lines,
  note,
  say,
  sayRows,
  table,
  time,
  tree,
} from "./output.js";

const millis = DateTime.toEpochMillis;

const warn = (bad: ReadonlyArray<BadRow>) => Effect.forEach(bad, (row) => note(row.message), { discard: true });

const limitOption = (initial: number) =>
  Options.integer("limit").pipe(
    Options.withDefault(initial),
    Options.withDescription(`How many at most, 1 to 1,000; default ${initial}`),
  );

const mostOption = Options.integer("most").pipe(
  Options.optional,
  Options.withDescription(
    "How many of the newest are looked at, at most, 1 to 1,000,000; default all. Where there are more, counts say at least",
  ),
);

/** A count that may be a lower bound. */
const atLeast = (count: number, isExact: boolean) => `${isExact ? "" : "at least "}${count.toLocaleString("en-US")}`;

/** Says of which letters the counts are. */
const noteReach = ([first]: ReadonlyArray<{ readonly isExact: boolean }>, most: Option.Option<number>) =>
  first?.isExact === false && Option.isSome(most)
    ? note(`Counted among the newest ${counted(most.value, "dead letter")}; there may be more.`)
    : Effect.void;

/** Nothing was found: among all, or among those that were looked at. */
const nothingFound = ({ inside }: Target, db: DatabaseService, filter: JobDlqFilter, most: Option.Option<number>) =>
  Effect.gen(function* () {
    if (Option.isNone(most)) return yield* noLetterMatches();
    const { isExact } = yield* inside(db.jobDlq.preview(filter, { most: most.value }));
    return yield* isExact
      ? noLetterMatches()
      : new NothingMatched({
          what: `None among the newest ${counted(most.value, "dead letter")}; the older ones were not looked at.`,
        });
  });

// --- list --------------------------------------------------------------------

const letterColumns = (now: number, hasTenants: boolean): ReadonlyArray<Column<JobDlq>> => [
  { head: "AGE", rank: 2, isRight: true, of: ({ dlqAt }) => ago(millis(dlqAt), now) },
  { head: "ID", rank: 0, of: ({ id }) => id },
  ...(hasTenants ? [{ head: "TENANT", rank: 4, of: ({ appId }: JobDlq) => appId }] : []),
  { head: "TYPE", rank: 0, least: 12, of: ({ type }) => line(type) },
  { head: "REASON", rank: 3, of: ({ errorReason }) => line(errorReason) },
  { head: "TRIES", rank: 5, isRight: true, of: ({ attempts }) => String(attempts) },
  {
    head: "REPLAYED",
    rank: 6,
    of: ({ replayedAt }) => (Option.isSome(replayedAt) ? `${ago(replayedAt.value.getTime(), now)} ago` : ""),
  },
  { head: "LAST ERROR", rank: 1, least: 16, of: lastError },
];

/** Columns that say something: REPLAYED only where something was. */
const columnsFor = (letters: ReadonlyArray<JobDlq>, now: number, hasTenants: boolean) =>
  letterColumns(now, hasTenants).filter(
    ({ head }) => head !== "REPLAYED" || letters.some(({ replayedAt }) => Option.isSome(replayedAt)),
  );

/** What the preview of a change shows too. */
export const letterTable = (letters: ReadonlyArray<JobDlq>, now: number, hasTenants: boolean) =>
  table(columnsFor(letters, now, hasTenants), letters);

export const list = Command.make(
  "list",
  {
    ...targetOptions,
    ...filterOptions,
    state: stateOption,
    limit: limitOption(50),
    cursor: Options.text("cursor").pipe(Options.optional, Options.withDescription("Where the page before ended")),
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ inside, scope }, db) =>
      Effect.gen(function* () {
        const filter = { ...filterOf(given), state: given.state };
        const { bad, items, next } = yield* inside(
          db.jobDlq.page(filter, { limit: given.limit, cursor: Option.getOrUndefined(given.cursor) }),
        );
        yield* warn(bad);
        if (items.length + bad.length === 0) return yield* noLetterMatches();
        const now = yield* Clock.currentTimeMillis;
        yield* sayRows(given.json, items, letterJson, () => letterTable(items, now, scope._tag === "system"));
        if (Option.isSome(next)) yield* note(`There are more: the same with --cursor ${next.value}`);
      }),
    ),
).pipe(Command.withDescription("Dead letters, the newest first"));

// --- show --------------------------------------------------------------------

const outcomeColours: Readonly<Record<string, (text: string) => string>> = {
  completed: colour.green,
  pending: colour.red,
  "dead again": colour.red,
  erased: colour.dim,
  "job purged": colour.dim,
};
const outcomeOf = ({ endedAt, nextId, outcome }: JobDlqRound) => {
  const shown = (outcomeColours[outcome] ?? colour.yellow)(outcome);
  const when = endedAt === null ? "" : ` ${time(endedAt)}`;
  return `${shown}${when}${nextId === null ? "" : `: ${nextId}`}`;
};

/** A round in one line or two. */
const roundLines = (round: JobDlqRound, isThis: boolean): ReadonlyArray<string> => {
  const { deadLetteredAt, id, lastError: error, reason, removal, replay } = round;
  const when = deadLetteredAt === null ? "at an unknown time" : time(deadLetteredAt);
  const became = [
    ...(replay === null
      ? []
      : [
          `replayed ${time(replay.at)} by ${line(replay.actor ?? "someone")}${replay.isOverridden === true ? " with another payload" : ""}`,
        ]),
    ...(removal === null
      ? []
      : [
          `taken out ${time(removal.at)} by ${line(removal.actor)}${removal.reason === null ? "" : `: ${line(removal.reason)}`}`,
        ]),
  ];
  return [
    `${isThis ? colour.bold("→") : " "} ${when}  ${id}  ${line(reason ?? "")}  ${outcomeOf(round)}`,
    ...(error === null ? [] : [`    ${colour.dim(line(error))}`]),
    ...became.map((_) => `    ${_}`),
  ];
};

const jobText = ({ attempts, maxAttempts, replays, status }: JobState) =>
  `${status}, ${attempts} of ${maxAttempts} attempts, ${counted(replays, "replay")}`;

const field = (name: string, value: string) => `${colour.dim(name.padEnd(11))} ${value}`;

const shown = (letter: JobDlq, history: JobHistory, now: number): ReadonlyArray<string> => {
  const or = (value: Option.Option<string>) => Option.getOrElse(value, () => colour.dim("none"));
  const attempts = letter.errorHistory.flatMap(({ error, timestamp }, i) => {
    const [first = "", ...rest] = lines(error);
    const before = letter.errorHistory[i - 1]?.timestamp;
    const since = before === undefined ? "" : colour.dim(`  ${ago(before, timestamp)} later`);
    return [
      `  ${colour.bold(String(i + 1).padStart(2))}  ${time(timestamp)}${since}`,
      `      ${colour.red(first)}`,
      ...rest.map((_) => `      ${colour.dim(_)}`),
    ];
  });
  const job = history.job === null ? colour.dim("is gone") : jobText(history.job);
  return [
    field("dead letter", colour.bold(letter.id)),
    field("tenant", letter.appId),
    field("type", line(letter.type)),
    field("reason", colour.red(line(letter.errorReason))),
    field(
      "since",
      `${time(letter.dlqAt)}, ${ago(millis(letter.dlqAt), now)} ago, after ${counted(letter.attempts, "attempt")}`,
    ),
    field("replayed", Option.match(letter.replayedAt, { onNone: () => "no", onSome: (at) => time(at) })),
    field("request", or(letter.requestId)),
    field("user", or(letter.userId)),
    field("job", `${letter.originalJobId} ${job}`),
    "",
    colour.bold("Attempts"),
    ...(attempts.length === 0 ? [colour.dim("  none is recorded")] : attempts),
    "",
    colour.bold("Payload"),
    tree(letter.payload),
    "",
    colour.bold("Rounds of the job"),
    ...history.rounds.flatMap((round) => roundLines(round, round.id === letter.id)),
  ];
};

const encodeHistory = S.encodeSync(JobHistory);

export const show = Command.make(
  "show",
  { id: Args.text({ name: "id" }).pipe(Args.withDescription("The dead letter")), ...targetOptions, json: jsonOption },
  (given) =>
    onTarget(given, ({ inside }, db) =>
      Effect.gen(function* () {
        const found = yield* inside(
          Effect.gen(function* () {
            const letter = yield* db.jobDlq.get(given.id);
            const round = Option.isSome(letter) ? Option.none() : yield* db.jobDlq.outcome(given.id);
            const jobId = Option.match(letter, {
              onNone: () => Option.map(round, ({ originalJobId }) => originalJobId),
              onSome: ({ originalJobId }) => Option.some(originalJobId),
            });
            return Option.isNone(jobId) ? undefined : { letter, history: yield* db.jobDlq.history(jobId.value) };
          }),
        );
        if (found === undefined) {
          return yield* new NothingMatched({
            what: `No dead letter ${given.id} here. It may have been purged, or belong to another tenant.`,
          });
        }
        const { history, letter } = found;
        if (given.json) {
          const stored = Option.match(letter, { onNone: () => null, onSome: letterJson });
          return yield* say(json({ letter: stored, history: encodeHistory(history) }));
        }
        if (Option.isSome(letter)) {
          return yield* say(shown(letter.value, history, yield* Clock.currentTimeMillis).join("\n"));
        }
        yield* say(`The dead letter ${given.id} is not in the table any more. Its job went through these rounds:`);
        yield* say(history.rounds.flatMap((round) => roundLines(round, round.id === given.id)).join("\n"));
      }),
    ),
).pipe(Command.withDescription("One dead letter: every attempt, its payload, and what became of its job"));

// --- groups ------------------------------------------------------------------

const groupColumns = (now: number, hasTenants: boolean): ReadonlyArray<Column<JobDlqGroup>> => [
  { head: "COUNT", rank: 0, isRight: true, of: ({ count, isExact }) => atLeast(count, isExact) },
  { head: "LAST", rank: 2, isRight: true, of: ({ last }) => ago(millis(last), now) },
  { head: "FIRST", rank: 5, isRight: true, of: ({ first }) => ago(millis(first), now) },
  ...(hasTenants
    ? [{ head: "TENANTS", rank: 4, isRight: true, of: ({ tenants }: JobDlqGroup) => String(tenants) }]
    : []),
  { head: "TYPE", rank: 0, least: 12, of: ({ type }) => line(type) },
  { head: "REASON", rank: 3, of: ({ reason }) => line(reason) },
  { head: "FINGERPRINT", rank: 1, of: ({ fingerprint }) => fingerprint },
  { head: "MESSAGE", rank: 0, least: 12, of: ({ message }) => line(message ?? "") },
];

const encodeGroup = S.encodeSync(JobDlqGroup);

export const groups = Command.make(
  "groups",
  {
    ...targetOptions,
    ...filterOptions,
    state: stateOption,
    limit: limitOption(20),
    most: mostOption,
    json: jsonOption,
  },
  (given) =>
    onTarget(given, (target, db) =>
      Effect.gen(function* () {
        const { limit, most, state } = given;
        const { inside, scope } = target;
        const filter = { ...filterOf(given), state };
        const found = yield* inside(db.jobDlq.groups(filter, { limit, most: Option.getOrUndefined(most) }));
        if (found.length === 0) return yield* nothingFound(target, db, filter, most);
        const now = yield* Clock.currentTimeMillis;
        yield* sayRows(given.json, found, encodeGroup, () => table(groupColumns(now, scope._tag === "system"), found));
        yield* noteReach(found, most);
      }),
    ),
).pipe(Command.withDescription("The same failures together, the most frequent first"));

// --- stats -------------------------------------------------------------------

const ratio = (value: number | null) => (value === null ? colour.dim("-") : `${Math.round(value * 100)} %`);
const statColumns = (by: StatsKey): ReadonlyArray<Column<JobDlqStat>> => [
  { head: by.toUpperCase(), rank: 0, least: 16, of: ({ key }) => line(key) },
  { head: "PENDING", rank: 0, isRight: true, of: ({ depth, isExact }) => atLeast(depth, isExact) },
  {
    head: "OLDEST",
    rank: 1,
    isRight: true,
    of: ({ oldestAgeSeconds }) => (oldestAgeSeconds === null ? colour.dim("-") : age(oldestAgeSeconds)),
  },
  { head: "CAME", rank: 2, isRight: true, of: ({ arrivals }) => arrivals.toLocaleString("en-US") },
  { head: "REPLAYED", rank: 3, isRight: true, of: ({ replays }) => replays.toLocaleString("en-US") },
  { head: "WORKED", rank: 4, isRight: true, of: ({ replaySuccessRatio }) => ratio(replaySuccessRatio) },
];

const encodeStat = S.encodeSync(JobDlqStat);

export const stats = Command.make(
  "stats",
  {
    ...targetOptions,
    ...filterOptions,
    by: Options.choice("by", StatsKey.literals).pipe(
      Options.withDefault("type"),
      Options.withDescription("A row for each type (the default), reason, tenant or hour"),
    ),
    window: Options.text("window").pipe(
      Options.mapEffect(moment("window")),
      Options.optional,
      Options.withDescription("How far back CAME, REPLAYED and WORKED count; default 24h"),
    ),
    most: mostOption,
    json: jsonOption,
  },
  (given) =>
    onTarget(given, (target, db) =>
      Effect.gen(function* () {
        const { by, most, window } = given;
        const filter = filterOf(given);
        const found = yield* target.inside(
          db.jobDlq.stats({ by, filter, since: Option.getOrUndefined(window), most: Option.getOrUndefined(most) }),
        );
        if (found.length === 0) return yield* nothingFound(target, db, filter, most);
        yield* sayRows(given.json, found, encodeStat, () => table(statColumns(by), found));
        yield* noteReach(found, most);
      }),
    ),
).pipe(Command.withDescription("How much lies there and since when, how much comes, and whether replaying helps"));

// --- history -----------------------------------------------------------------

export const history = Command.make(
  "history",
  { job: Args.text({ name: "job" }).pipe(Args.withDescription("The job's id")), ...targetOptions, json: jsonOption },
  (given) =>
    onTarget(given, ({ inside }, db) =>
      Effect.gen(function* () {
        const found = yield* inside(db.jobDlq.history(given.job));
        if (found.job === null && found.rounds.length === 0) {
          return yield* new NothingMatched({ what: `Nothing is known of a job ${given.job} here.` });
        }
        if (given.json) return yield* say(json(encodeHistory(found)));
        if (found.job !== null) {
          yield* say(`${line(found.job.type)} ${found.originalJobId}: ${jobText(found.job)}`);
        }
        yield* say(found.rounds.flatMap((round) => roundLines(round, false)).join("\n"));
      }),
    ),
).pipe(Command.withDescription("Every round of one job: dead-lettered, replayed by whom, and how that ended"));
