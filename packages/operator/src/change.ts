/**
 * The commands that change something: replay, discard, restore, purge, retain, erase.
 *
 * Contract: what would be touched is shown first and asked about, by the same filter as the change; `--yes` is the answer of a script
 * and `--dry-run` ends there. Bulk work goes batch by batch; Ctrl-C ends it between two, says how far it came, and the same call
 * goes on from there.
 */
import * as Args from "@effect/cli/Args";
import * as Command from "@effect/cli/Command";
import * as Options from "@effect/cli/Options";
import * as Prompt from "@effect/cli/Prompt";
import { ErasureReceipt } from "@parametric-portal/database/job-dlq/erasure";
import { checkChange, type JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import type { JobDlqPreview } from "@parametric-portal/database/job-dlq/insight";
import { RetentionReceipt } from "@parametric-portal/database/job-dlq/retention";
import type { DatabaseService } from "@parametric-portal/database/repos";
import { SingleBar } from "cli-progress";
import * as Arr from "effect/Array";
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { Failed, NothingMatched, WrongUsage } from "./failure.js";
import { letterTable } from "./look.js";
import {
  actorOf,
  actorOption,
  filterOf,
  filterOptions,
  json as jsonFlag,
  jsonOption,
  onTarget,
  type Target,
  targetOptions,
  whole,
} from "./options.js";
import { colour, counted, json, line, note, say, time } from "./output.js";

// --- asking ------------------------------------------------------------------

const changeOptions = {
  ...targetOptions,
  actor: actorOption,
  yes: Options.boolean("yes").pipe(Options.withAlias("y"), Options.withDescription("Do not ask; for scripts")),
  dryRun: Options.boolean("dry-run").pipe(Options.withDescription("Show what would be touched, and change nothing")),
  json: jsonOption,
};

const allOption = Options.boolean("all").pipe(
  Options.withDescription("Every pending one of the tenant; without it some condition must be given"),
);

const positive = (name: string) =>
  Options.float(name).pipe(
    Options.filterMap((value) => (value > 0 ? Option.some(value) : Option.none()), `--${name} must be more than 0`),
    Options.optional,
  );

const limitOption = whole("limit", 1).pipe(
  Options.optional,
  Options.withDescription("At most so many, the oldest first"),
);
const becauseOption = Options.text("because").pipe(
  Options.optional,
  Options.withDescription("Why; the ledger keeps it"),
);

/** Whether it shall be done; false after a dry run. */
const agreed = (given: { readonly yes: boolean; readonly dryRun: boolean }, question: string) =>
  Effect.gen(function* () {
    if (given.dryRun) return false;
    if (given.yes) return true;
    if (!(process.stdin.isTTY && process.stdout.isTTY)) {
      return yield* new WrongUsage({
        problem: "There is no terminal to ask on: say --yes to do it, or --dry-run to look.",
      });
    }
    const answer = yield* Prompt.confirm({ message: question, initial: false }).pipe(
      Effect.catchTag("QuitException", () => Effect.interrupt),
    );
    return answer ? true : yield* new Failed({ reason: "Nothing was changed." });
  });

const mostFrequent = (rows: ReadonlyArray<{ readonly count: number }>, nameOf: (i: number) => string) =>
  rows
    .slice(0, 5)
    .map(({ count }, i) => `${line(nameOf(i))} ${count.toLocaleString("en-US")}`)
    .join(", ") + (rows.length > 5 ? ", …" : "");

const previewText = (preview: JobDlqPreview, now: number, hasTenants: boolean) =>
  [
    letterTable(preview.sample, now, hasTenants),
    ...(preview.count > preview.sample.length ? [colour.dim(`… ${preview.count.toLocaleString("en-US")} in all`)] : []),
    "",
    `${colour.dim("by type  ")} ${mostFrequent(preview.byType, (i) => preview.byType[i]?.type ?? "")}`,
    `${colour.dim("by reason")} ${mostFrequent(preview.byReason, (i) => preview.byReason[i]?.reason ?? "")}`,
  ].join("\n");

const noCondition =
  "Say which: ids, or flags like --type, --reason, --since, --fingerprint; --all is every pending one of the tenant.";

/** What became of dead letters that were asked for by their ids and are not pending. */
const told = ({ inside }: Target, db: DatabaseService, ids: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const rounds = yield* inside(Effect.forEach(ids.slice(0, mostTold), (id) => db.jobDlq.outcome(id)));
    for (const [i, round] of rounds.entries()) {
      const what = Option.match(round, {
        onNone: () => "not found here",
        onSome: ({ outcome, replay }) => (replay === null ? outcome : `replayed ${time(replay.at)}: ${outcome}`),
      });
      yield* note(`${ids[i]}  ${what}`);
    }
  });
const mostTold = 20;

/** Shows what a change would touch. With `--json` only a dry run says it, as its result. */
const looked = (
  given: { readonly json: boolean; readonly dryRun: boolean },
  target: Target,
  db: DatabaseService,
  filter: JobDlqFilter,
) =>
  Effect.gen(function* () {
    const { inside, scope } = target;
    yield* checkChange("dlq", filter).pipe(
      Effect.mapError(
        ({ field, problem }) =>
          new WrongUsage({ problem: field === "filter" ? noCondition : `The ${field} ${problem}.` }),
      ),
    );
    const preview = yield* inside(db.jobDlq.preview(filter));
    const { byReason, byType, count } = preview;
    if (count < (filter.ids?.length ?? 0)) {
      const pending = new Set(preview.sample.map(({ id }) => id));
      // Which of many are pending the sample does not say.
      if (count <= pending.size)
        yield* told(
          target,
          db,
          (filter.ids ?? []).filter((id) => !pending.has(id.toLowerCase())),
        );
    }
    if (count === 0) return yield* new NothingMatched({ what: "No pending dead letter matches; nothing was changed." });
    if (!given.json) yield* say(previewText(preview, yield* Clock.currentTimeMillis, scope._tag === "system"));
    else if (given.dryRun) yield* say(json({ count, byType, byReason, ids: preview.sample.map(({ id }) => id) }));
    return preview;
  });

/** How many a bulk change will take at most, and the moment when they were shown and agreed to; undefined after a dry run. */
const agreedTotal = (
  what: string,
  given: Parameters<typeof looked>[0] & Parameters<typeof agreed>[0] & { readonly limit: Option.Option<number> },
  target: Target,
  db: DatabaseService,
  filter: JobDlqFilter,
) =>
  Effect.gen(function* () {
    const { asOf, count } = yield* looked(given, target, db, filter);
    const total = Math.min(
      count,
      Option.getOrElse(given.limit, () => count),
    );
    return (yield* agreed(given, `${what} ${counted(total, "dead letter")}?`)) ? { total, asOf } : undefined;
  });

// --- bulk work ---------------------------------------------------------------

interface Progress {
  readonly asked: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly receipts: ReadonlyArray<object>;
}

const summary = (outcomes: Readonly<Record<string, number>>) =>
  Object.entries(outcomes)
    .filter(([, count]) => count > 0)
    .map(([outcome, count]) => `${count.toLocaleString("en-US")} ${outcome}`)
    .join(", ");

/** A bar with rate and time left on a terminal; elsewhere a line on stderr after each batch. */
const bulk = <E, R>(
  what: string,
  total: number,
  isJson: boolean,
  changes: Stream.Stream<Progress, E, R>,
): Effect.Effect<Progress, E, R> =>
  Effect.gen(function* () {
    let last: Progress = { asked: 0, outcomes: {}, receipts: [] };
    const began = yield* Clock.currentTimeMillis;
    const bar = process.stderr.isTTY
      ? new SingleBar({
          format: `${what} {bar} {percentage}%  {value}/{total}  {rate}/s  {eta_formatted} left`,
          etaBuffer: 50,
          hideCursor: true,
          // Ctrl-C is the command's own affair.
          gracefulExit: false,
        })
      : undefined;
    bar?.start(total, 0, { rate: 0 });
    const told = (progress: Progress) =>
      Effect.gen(function* () {
        last = progress;
        const seconds = Math.max(0.001, ((yield* Clock.currentTimeMillis) - began) / 1000);
        const rate = Math.round(progress.asked / seconds).toLocaleString("en-US");
        if (isJson) yield* Effect.forEach(progress.receipts, (receipt) => say(json(receipt)), { discard: true });
        if (bar === undefined) yield* note(`${what}: ${progress.asked} of ${total}, ${rate}/s`);
        else bar.update(Math.min(progress.asked, total), { rate });
      });
    const ended = Effect.sync(() => bar?.stop());
    yield* Stream.runForEach(changes, told).pipe(
      Effect.ensuring(ended),
      Effect.onInterrupt(() =>
        note(
          `Stopped after ${counted(last.asked, "dead letter")}${last.asked === 0 ? "" : `: ${summary(last.outcomes)}`}. What was done stands; the same call goes on.`,
        ),
      ),
      Effect.onError((cause) =>
        cause._tag === "Interrupt" || last.asked === 0 ? Effect.void : note(`Before that: ${summary(last.outcomes)}.`),
      ),
    );
    return last;
  });

/** Says what came of it; fails when nothing could be done, so that a script sees it. */
const concluded = (progress: Progress, wanted: string, isJson: boolean) =>
  Effect.gen(function* () {
    const done = progress.outcomes[wanted] ?? 0;
    if (!isJson) yield* say(summary(progress.outcomes) || `0 ${wanted}`);
    if (done === 0) return yield* new NothingMatched({ what: `Nothing was ${wanted}.` });
  });

// --- replay ------------------------------------------------------------------

const idsArgument = Args.text({ name: "id" }).pipe(
  Args.withDescription("Dead letters by id; or say which by the flags"),
  Args.repeated,
);

/** The flags, and the ids that stand without one. */
const changeFilterOf = (
  given: Parameters<typeof filterOf>[0] & { readonly all: boolean; readonly args: ReadonlyArray<string> },
): JobDlqFilter => {
  const filter = filterOf(given);
  const ids = [...(filter.ids ?? []), ...given.args];
  return { ...filter, ...(ids.length === 0 ? {} : { ids }), ...(given.all ? { all: true } : {}) };
};

export const replay = Command.make(
  "replay",
  {
    args: idsArgument,
    ...changeOptions,
    ...filterOptions,
    all: allOption,
    newPayload: jsonFlag("new-payload").pipe(
      Options.optional,
      Options.withDescription("The jobs get this payload, as JSON; the dead letters keep their own"),
    ),
    delay: Options.text("delay").pipe(
      Options.filterMap(
        (text) => Option.filter(Duration.decodeUnknown(text), Duration.isFinite),
        'say for example --delay "10 minutes"',
      ),
      Options.optional,
      Options.withDescription('The jobs are due only after that, like "10 minutes"'),
    ),
    rate: positive("rate").pipe(Options.withDescription("At most so many a second")),
    limit: limitOption,
  },
  (given) =>
    onTarget(given, (target, db) =>
      Effect.gen(function* () {
        const filter = changeFilterOf(given);
        const shown = yield* agreedTotal("Replay", given, target, db, filter);
        if (shown === undefined) return;
        const changes = db.jobDlq.replay(filter, {
          actor: actorOf(given.actor),
          scope: target.scope,
          asOf: shown.asOf,
          delay: Option.getOrUndefined(given.delay),
          ratePerSecond: Option.getOrUndefined(given.rate),
          limit: Option.getOrUndefined(given.limit),
          ...(Option.isSome(given.newPayload) ? { payload: given.newPayload.value } : {}),
        });
        yield* concluded(yield* bulk("replay", shown.total, given.json, changes), "replayed", given.json);
      }),
    ),
).pipe(Command.withDescription("Bring jobs back under their own ids, with all their attempts, each dead letter once"));

// --- discard, restore --------------------------------------------------------

export const discard = Command.make(
  "discard",
  {
    args: idsArgument,
    ...changeOptions,
    ...filterOptions,
    all: allOption,
    because: Options.text("because").pipe(Options.withDescription("Why nobody needs them; the ledger keeps it")),
    limit: limitOption,
  },
  (given) =>
    onTarget(given, (target, db) =>
      Effect.gen(function* () {
        const filter = changeFilterOf(given);
        const shown = yield* agreedTotal("Discard", given, target, db, filter);
        if (shown === undefined) return;
        const changes = db.jobDlq.discard(filter, {
          actor: actorOf(given.actor),
          reason: given.because,
          scope: target.scope,
          asOf: shown.asOf,
          limit: Option.getOrUndefined(given.limit),
        });
        const done = yield* bulk("discard", shown.total, given.json, changes);
        if (!given.json) yield* note("dlq restore brings them back, by their ids.");
        yield* concluded(done, "discarded", given.json);
      }),
    ),
).pipe(Command.withDescription("Take dead letters out for good, with a copy in the ledger"));

export const restore = Command.make(
  "restore",
  {
    args: Args.text({ name: "id" }).pipe(
      Args.withDescription("Discarded or expired dead letters, or the events of the ledger that took them out"),
      Args.atLeast(1),
    ),
    ...targetOptions,
    actor: actorOption,
    because: becauseOption,
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ inside }, db) =>
      Effect.gen(function* () {
        const receipts = yield* inside(
          Effect.gen(function* () {
            // A dead letter's id stands for the event that took it out.
            const rounds = yield* Effect.forEach(given.args, (id) =>
              Effect.map(db.jobDlq.outcome(id), (round) => ({ id, round })),
            );
            const [there, gone] = Arr.partition(
              rounds,
              ({ round }) => !Option.exists(round, ({ removal }) => removal === null),
            );
            const restored = yield* db.jobDlq.restore(
              gone.map(({ id, round }) => Option.getOrNull(round)?.removal?.eventId ?? id),
              { actor: actorOf(given.actor), reason: Option.getOrUndefined(given.because) },
            );
            return [
              ...there.map(({ id }) => ({ eventId: null, id, outcome: "not discarded" })),
              ...restored.map(({ eventId, id, outcome }) => ({ eventId, id, outcome })),
            ];
          }),
        );
        for (const receipt of receipts) {
          yield* say(given.json ? json(receipt) : `${receipt.id ?? receipt.eventId}  ${receipt.outcome}`);
        }
        if (receipts.every(({ outcome }) => outcome !== "restored")) {
          return yield* new NothingMatched({ what: "Nothing was restored." });
        }
      }),
    ),
).pipe(Command.withDescription("Undo a discard: the dead letters come back under their ids"));

// --- purge, retain -----------------------------------------------------------

const days = (name: string, least: number) => whole(name, least).pipe(Options.optional);

export const purge = Command.make(
  "purge",
  {
    ...targetOptions,
    actor: actorOption,
    days: whole("older-than-days", 0).pipe(
      Options.withDefault(30),
      Options.withDescription("Replayed longer ago than so many days; default 30"),
    ),
    yes: changeOptions.yes,
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ inside }, db) =>
      Effect.gen(function* () {
        const question = `Delete the dead letters that were replayed more than ${counted(given.days, "day")} ago?`;
        if (!(yield* agreed({ yes: given.yes, dryRun: false }, question))) return;
        const count = yield* inside(db.jobDlq.purge(given.days, { actor: actorOf(given.actor) }));
        yield* say(given.json ? json({ purged: count }) : `${counted(count, "replayed dead letter")} purged`);
      }),
    ),
).pipe(Command.withDescription("Delete old replayed dead letters, in one statement"));

const encodeRetention = S.encodeSync(RetentionReceipt);

export const retain = Command.make(
  "retain",
  {
    ...targetOptions,
    actor: actorOption,
    replayed: days("replayed-days", 0).pipe(Options.withDescription("Delete replayed ones after so many days")),
    discarded: days("discarded-days", 0).pipe(Options.withDescription("Delete the ledger's copies after so many days")),
    pending: days("pending-days", 1).pipe(
      Options.withDescription("Let pending ones expire after so many days; restore brings them back"),
    ),
    yes: changeOptions.yes,
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ inside, scope }, db) =>
      Effect.gen(function* () {
        const policy = {
          replayed: Option.getOrUndefined(given.replayed),
          discarded: Option.getOrUndefined(given.discarded),
          pending: Option.getOrUndefined(given.pending),
        };
        if (Object.values(policy).every((_) => _ === undefined)) {
          return yield* new WrongUsage({
            problem: "Say how long: --replayed-days, --discarded-days or --pending-days.",
          });
        }
        if (policy.discarded !== undefined && scope._tag === "tenant") {
          return yield* new WrongUsage({
            problem:
              "The ledger's copies are deleted for every tenant together: say --all-tenants with --discarded-days.",
          });
        }
        if (policy.pending !== undefined) {
          const { count } = yield* inside(db.jobDlq.expiring(0, { pending: policy.pending }));
          yield* note(`${counted(count, "pending dead letter")} will expire.`);
        }
        if (!(yield* agreed({ yes: given.yes, dryRun: false }, "Apply this retention?"))) return;
        const receipt = yield* db.jobDlq.retain(policy, { actor: actorOf(given.actor), scope });
        if (given.json) return yield* say(json(encodeRetention(receipt)));
        yield* say(`${receipt.replayed} replayed, ${receipt.discarded} discarded, ${receipt.pending} pending removed`);
        if (!receipt.isComplete)
          yield* note("Some are left: somebody holds them, or the time was up. The same call goes on.");
      }),
    ),
).pipe(Command.withDescription("Apply how long dead letters are kept, in batches"));

// --- erase -------------------------------------------------------------------

const encodeErasure = S.encodeSync(ErasureReceipt);

export const erase = Command.make(
  "erase",
  {
    args: idsArgument,
    ...changeOptions,
    ...filterOptions,
    because: becauseOption,
  },
  (given) =>
    onTarget(given, (target, db) =>
      Effect.gen(function* () {
        const filter = changeFilterOf({ ...given, all: false });
        if (Object.keys(filter).length === 0) {
          return yield* new WrongUsage({ problem: "Say whose data: --user, or which dead letters." });
        }
        const { count } = yield* target.inside(db.jobDlq.preview({ ...filter, state: "any" }));
        yield* note(
          `${counted(count, "dead letter")} of the table, the ledger's copies of discarded ones, and ${
            Option.isSome(given.userId) ? "all jobs of this person" : "their jobs"
          }: for good, restore does not bring them back.`,
        );
        if (!(yield* agreed(given, "Erase them?"))) return;
        const receipt = yield* target.inside(
          db.jobDlq.erase(filter, { actor: actorOf(given.actor), reason: Option.getOrUndefined(given.because) }),
        );
        const { copies, jobsCancelled, jobsEmptied, letters } = receipt;
        yield* say(
          given.json
            ? json(encodeErasure(receipt))
            : `${counted(letters, "dead letter")} and ${counted(copies, "copy").replace("copys", "copies")} erased, ${counted(jobsEmptied, "job")} emptied, ${jobsCancelled} of them cancelled`,
        );
        if (letters + copies + jobsEmptied === 0)
          return yield* new NothingMatched({ what: "There was nothing to erase." });
      }),
    ),
).pipe(Command.withDescription("Remove one person's data from the queue, for good"));
