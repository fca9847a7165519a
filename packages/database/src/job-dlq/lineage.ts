/**
 * What became of a dead letter, and of all dead letters of its job: its rounds.
 *
 * Contract: one statement, so a round and the job's state are of one snapshot. What is in the table comes from the table; what
 * has left it comes from the ledger. Of a letter that was purged the ledger has its replay only, and of an erased one nothing
 * that is personal.
 *
 * ```
 * pending ─ replay ──► waiting ► running ► completed | cancelled
 *    │  └ markReplayed ► replayed elsewhere └► dead again (the next round)      job purged: nobody can tell any more
 *    └ discarded | expired ─ restore ► pending                                  any ► erased
 * ```
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Arr from "effect/Array";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Order from "effect/Order";
import * as S from "effect/Schema";
import { uuidOf } from "../arguments.js";
import { JobStatus } from "../models.js";
import { refused } from "../refusal.js";
import { EventKind, replayedElsewhere } from "./ledger.js";
import { lastErrorLine, shownTime } from "./shown.js";

// --- contract ----------------------------------------------------------------

/**
 * What became of one dead letter.
 * `pending`: not replayed yet · `waiting`: replayed, its job waits for its turn · `running`: a runner has the job · `completed`: the
 * replay worked · `dead again`: the job died again after it, `nextId` is its next dead letter · `cancelled`: the job was · `job
 * purged`: the job is gone and no dead letter followed, so how it ended is not known · `replayed elsewhere`: marked as replayed by
 * a caller who submitted the work elsewhere, the job was not revived · `discarded`, `expired`: taken out; see `removal` · `erased`:
 * its person's data was removed.
 */
export const RoundOutcome = S.Literal(
  "pending",
  "waiting",
  "running",
  "completed",
  "dead again",
  "cancelled",
  "job purged",
  "replayed elsewhere",
  "discarded",
  "expired",
  "erased",
);
export type RoundOutcome = typeof RoundOutcome.Type;

/** How a dead letter was replayed. */
export class RoundReplay extends S.Class<RoundReplay>("RoundReplay")({
  at: S.DateTimeUtc,
  /** Who did it; null when the ledger does not have it: an import, or older than the ledger. */
  actor: S.NullOr(S.String),
  /** Whether the job got another payload than the letter's; null when that is not known, as after an erasure or elsewhere. */
  isOverridden: S.NullOr(S.Boolean),
}) {}

/** How a dead letter left the table. */
export class RoundRemoval extends S.Class<RoundRemoval>("RoundRemoval")({
  /** The event in the ledger; what `restore` takes. */
  eventId: S.UUID,
  at: S.DateTimeUtc,
  actor: S.String,
  reason: S.NullOr(S.String),
  /** Whether `restore` can bring it back. Never after an erasure. */
  isRestorable: S.Boolean,
}) {}

/** One round of a job: it was dead-lettered, and what came of that. */
export class JobDlqRound extends S.Class<JobDlqRound>("JobDlqRound")({
  /** The dead letter. */
  id: S.UUID,
  originalJobId: S.UUID,
  appId: S.UUID,
  /** Null when the letter was purged. */
  type: S.NullOr(S.String),
  reason: S.NullOr(S.String),
  attempts: S.NullOr(S.Int),
  /** The first line of its last error, at most 300 characters. Null when there is none, or the letter was purged or erased. */
  lastError: S.NullOr(S.String),
  /** When it was dead-lettered. Of a purged or erased one the time in its id, null if its id has none. */
  deadLetteredAt: S.NullOr(S.DateTimeUtc),
  /** Null when it was not replayed. */
  replay: S.NullOr(RoundReplay),
  outcome: RoundOutcome,
  /** `completed`, `cancelled`: when the job ended · `dead again`: when it was dead-lettered again. Null otherwise, or when not known. */
  endedAt: S.NullOr(S.DateTimeUtc),
  /** `dead again`: the job's next dead letter; null when there is none, though the job is dead. */
  nextId: S.NullOr(S.UUID),
  /** `discarded`, `expired`, `erased`. */
  removal: S.NullOr(RoundRemoval),
}) {}

/** The present state of a job. */
export class JobState extends S.Class<JobState>("JobState")({
  id: S.UUID,
  appId: S.UUID,
  type: S.String,
  status: JobStatus,
  /** Runs in this round, the current one included. */
  attempts: S.Int,
  maxAttempts: S.Int,
  /** How many of its dead letters were replayed. */
  replays: S.Int,
  scheduledAt: S.DateTimeUtc,
  /** When it was completed, dead or cancelled; null while it may still run. */
  endedAt: S.NullOr(S.DateTimeUtc),
}) {}

/** Everything that happened to one job, as far as its dead letters tell. */
export class JobHistory extends S.Class<JobHistory>("JobHistory")({
  originalJobId: S.UUID,
  /** Null when there is no such job in this scope: it never was, was purged, or its dead letters were inserted without one. */
  job: S.NullOr(JobState),
  /** Oldest first. */
  rounds: S.Array(JobDlqRound),
}) {}

// --- what is stored ----------------------------------------------------------

const Letter = S.Struct({
  id: S.UUID,
  appId: S.UUID,
  type: S.String,
  reason: S.String,
  attempts: S.Int,
  lastError: S.NullOr(S.String),
  at: S.DateTimeUtcFromNumber,
  replayedAt: S.NullOr(S.DateTimeUtcFromNumber),
});
type Letter = typeof Letter.Type;

const Event = S.Struct({
  id: S.UUID,
  appId: S.UUID,
  dlqId: S.UUID,
  kind: EventKind,
  actor: S.String,
  reason: S.NullOr(S.String),
  at: S.DateTimeUtcFromNumber,
  undoes: S.NullOr(S.UUID),
  isOverridden: S.Boolean,
  hasEntry: S.Boolean,
  /** From `entry`, or from what an erasure left in `detail`. */
  letter: S.Struct({
    type: S.NullOr(S.String),
    reason: S.NullOr(S.String),
    attempts: S.NullOr(S.Int),
    lastError: S.NullOr(S.String),
    at: S.NullOr(S.DateTimeUtcFromNumber),
  }),
});
type Event = typeof Event.Type;

const Job = S.Struct({
  ...JobState.fields,
  scheduledAt: S.DateTimeUtcFromNumber,
  endedAt: S.NullOr(S.DateTimeUtcFromNumber),
});
type Job = typeof Job.Type;

const Stored = S.Struct({
  originalJobId: S.UUID,
  letters: S.parseJson(S.Array(Letter)),
  events: S.parseJson(S.Array(Event)),
  job: S.NullOr(S.parseJson(Job)),
});
type Stored = typeof Stored.Type;

// --- from rows to rounds -----------------------------------------------------

// Ids are uuidv7, made while the job's row is locked, so their order is the order of what happened, within one transaction and
// where transactions overlap, of which neither the dlq_at nor the at of an event tells. An id of another kind is placed by a time.
const isTimed = (id: string) => id[14] === "7";
const placeAt = (time: DateTime.Utc) => {
  const hex = Math.max(0, Math.floor(DateTime.toEpochMillis(time)))
    .toString(16)
    .padStart(12, "0")
    .slice(-12);
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`;
};
const timeIn = (id: string): DateTime.Utc | null =>
  isTimed(id) ? DateTime.unsafeMake(Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)) : null;

const byId = Order.mapInput(Order.string, (event: Event) => event.id);
const byTime = Order.combine(
  Order.mapInput(Order.number, (round: JobDlqRound) =>
    round.deadLetteredAt === null ? 0 : DateTime.toEpochMillis(round.deadLetteredAt),
  ),
  Order.mapInput(Order.string, (round: JobDlqRound) => round.id),
);

/** The rounds of one job in one app. Pure. */
const roundsOf = (
  originalJobId: string,
  appId: string,
  letters: ReadonlyArray<Letter>,
  unordered: ReadonlyArray<Event>,
  job: Job | null,
): ReadonlyArray<JobDlqRound> => {
  const events = Arr.sort(unordered, byId);
  const undone = new Set(events.map(({ undoes }) => undoes));
  const eventsOf = Arr.groupBy(events, ({ dlqId }) => dlqId);
  const letterOf = new Map(letters.map((letter) => [letter.id, letter]));
  const isElsewhere = ({ reason }: Event) => reason === replayedElsewhere;
  const replays = events.filter((event) => event.kind === "replayed" && !isElsewhere(event));
  // An erasure takes the differences out of every event of the job.
  const wasErased = events.some(({ kind }) => kind === "erased");
  const ids = [...new Set([...letterOf.keys(), ...Object.keys(eventsOf)])];

  /** What is known of a letter: its row, else the newest line of the ledger that has something. */
  const factsOf = (id: string) => {
    const row = letterOf.get(id);
    const told = (eventsOf[id] ?? []).findLast(({ letter }) => letter.type !== null)?.letter;
    const { at = null, attempts = null, lastError = null, reason = null, type = null } = row ?? told ?? {};
    return { type, reason, attempts, lastError, deadLetteredAt: at ?? timeIn(id) };
  };
  const placeOf = (id: string) => {
    const { deadLetteredAt } = factsOf(id);
    return isTimed(id) || deadLetteredAt === null ? id : placeAt(deadLetteredAt);
  };
  const arrivals = Arr.sort(
    ids.map((id) => ({ id, place: placeOf(id) })),
    Order.mapInput(Order.string, ({ place }: { readonly place: string }) => place),
  );

  /** What came of the job after a replay of the letter `id` at this place. */
  const afterReplay = (id: string, place: string) => {
    const nextReplay = replays.find((_) => _.id > place && _.dlqId !== id);
    const next = arrivals.find((_) => _.place > place && _.id !== id && (!nextReplay || _.place < nextReplay.id));
    const deadAgain = {
      outcome: "dead again",
      nextId: next?.id ?? null,
      endedAt: next === undefined ? (job?.endedAt ?? null) : factsOf(next.id).deadLetteredAt,
    } as const;
    // The job itself tells about its last replay. Only a dead letter tells about an earlier one, or when the job is gone.
    if (nextReplay !== undefined || job === null) {
      return next === undefined ? ({ outcome: "job purged", nextId: null, endedAt: null } as const) : deadAgain;
    }
    switch (job.status) {
      case "pending":
        return { outcome: "waiting", nextId: null, endedAt: null } as const;
      case "processing":
        return { outcome: "running", nextId: null, endedAt: null } as const;
      case "completed":
      case "cancelled":
        return { outcome: job.status, nextId: null, endedAt: job.endedAt } as const;
      case "dead":
        return deadAgain;
    }
  };

  const roundOf = (id: string): JobDlqRound => {
    const row = letterOf.get(id);
    const told = eventsOf[id] ?? [];
    const replayed = told.findLast(({ kind }) => kind === "replayed");
    const erased = told.findLast(({ kind }) => kind === "erased");
    const removed = told.findLast(({ kind, id }) => (kind === "discarded" || kind === "expired") && !undone.has(id));
    const removal = row === undefined ? (erased ?? removed) : undefined;
    const round = { id, originalJobId, appId, ...factsOf(id), nextId: null, endedAt: null, removal: null };

    if (row !== undefined && row.replayedAt === null) {
      return new JobDlqRound({ ...round, replay: null, outcome: "pending" });
    }
    const replay =
      replayed !== undefined
        ? new RoundReplay({
            at: replayed.at,
            actor: replayed.actor,
            isOverridden: isElsewhere(replayed) || (wasErased && !replayed.isOverridden) ? null : replayed.isOverridden,
          })
        : row?.replayedAt
          ? new RoundReplay({ at: row.replayedAt, actor: null, isOverridden: null })
          : null;
    if (removal !== undefined && (removal === erased || replayed === undefined || removal.id > replayed.id)) {
      return new JobDlqRound({
        ...round,
        replay,
        outcome: removal.kind === "discarded" || removal.kind === "expired" ? removal.kind : "erased",
        removal: new RoundRemoval({
          eventId: removal.id,
          at: removal.at,
          actor: removal.actor,
          reason: removal.reason,
          isRestorable: removal.hasEntry,
        }),
      });
    }
    if (replayed !== undefined) {
      if (isElsewhere(replayed)) return new JobDlqRound({ ...round, replay, outcome: "replayed elsewhere" });
      return new JobDlqRound({ ...round, replay, ...afterReplay(id, replayed.id) });
    }
    // Replayed, and the ledger does not say by whom. If the job has more replays than the ledger, and none since this letter
    // came, it was revived by this one before there was a ledger.
    if (row?.replayedAt && job !== null && job.replays > replays.length && !replays.some((_) => _.id > placeOf(id))) {
      return new JobDlqRound({ ...round, replay, ...afterReplay(id, placeAt(row.replayedAt)) });
    }
    return new JobDlqRound({ ...round, replay, outcome: "replayed elsewhere" });
  };

  return Arr.sort(ids.map(roundOf), byTime);
};

/** The rounds of one job. In the system scope several apps may have dead letters under one job id; only its own goes by the job. */
const allRounds = ({ events, job, letters, originalJobId }: Stored): ReadonlyArray<JobDlqRound> => {
  const appIds = [...new Set([...letters, ...events].map(({ appId }) => appId))];
  const rounds = appIds.flatMap((appId) =>
    roundsOf(
      originalJobId,
      appId,
      letters.filter((_) => _.appId === appId),
      events.filter((_) => _.appId === appId),
      job?.appId === appId ? job : null,
    ),
  );
  return Arr.sort(rounds, byTime);
};

// --- statements --------------------------------------------------------------

export const makeLineage = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const decode = S.decodeUnknown(S.Array(Stored));

  const millis = (time: Fragment) => sql`floor(extract(epoch FROM ${shownTime(sql, time)}) * 1000)`;

  /** Everything about the jobs of `asked (original_job_id)`. */
  const stored = (asked: Fragment) => sql`
    WITH asked AS MATERIALIZED (${asked})
    SELECT a.original_job_id,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', d.id, 'appId', d.app_id, 'type', d.type, 'reason', d.error_reason,
          'attempts', d.attempts, 'lastError', ${lastErrorLine(sql, sql`d.error_history`)}, 'at', ${millis(sql`d.dlq_at`)},
          'replayedAt', ${millis(sql`d.replayed_at`)})), '[]')
        FROM job_dlq d WHERE d.original_job_id = a.original_job_id) AS letters,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', e.id, 'appId', e.app_id, 'dlqId', e.dlq_id, 'kind', e.kind, 'actor', e.actor,
          'reason', e.reason, 'at', ${millis(sql`e.at`)}, 'undoes', e.undoes, 'isOverridden', COALESCE(e.detail ? 'payload_diff', false),
          'hasEntry', e.entry IS NOT NULL,
          'letter', CASE WHEN e.kind = 'erased' THEN
            jsonb_build_object('type', e.detail -> 'type', 'reason', e.detail -> 'reason', 'attempts', e.detail -> 'attempts',
              'lastError', NULL, 'at', NULL)
          ELSE
            jsonb_build_object('type', e.entry -> 'type', 'reason', e.entry -> 'error_reason', 'attempts', e.entry -> 'attempts',
              'lastError', ${lastErrorLine(sql, sql`(e.entry -> 'error_history')`)}, 'at', ${millis(sql`(e.entry ->> 'dlq_at')::timestamptz`)})
          END)), '[]')
        FROM job_dlq_events e WHERE e.original_job_id = a.original_job_id AND e.kind <> 'viewed') AS events,
      (SELECT jsonb_build_object('id', j.id, 'appId', j.app_id, 'type', j.type, 'status', j.status, 'attempts', j.attempts,
          'maxAttempts', j.max_attempts, 'replays', j.replays, 'scheduledAt', ${millis(sql`j.scheduled_at`)},
          'endedAt', ${millis(sql`j.completed_at`)})
        FROM jobs j WHERE j.id = a.original_job_id) AS job
    FROM asked a`;

  /** {@link JobDlqRound}: what became of one dead letter, also of one that was discarded or erased; none when the scope knows nothing of it. */
  const outcome = Effect.fn("jobDlq.outcome")(function* (id: string) {
    const operation = "jobDlq.outcome";
    const known = (yield* uuidOf(operation, "id", id)).toLowerCase();
    const rows = yield* stored(sql`
      SELECT d.original_job_id FROM job_dlq d WHERE d.id = ${known}::uuid
      UNION
      SELECT e.original_job_id FROM job_dlq_events e WHERE e.dlq_id = ${known}::uuid`).pipe(refused(operation));
    const jobs = yield* Effect.orDie(decode(rows));
    return Arr.findFirst(Arr.flatMap(jobs, allRounds), (round) => round.id === known);
  });

  /** {@link JobHistory}: every round of a job, the oldest first, and the job as it is. An unknown id has no rounds. */
  const history = Effect.fn("jobDlq.history")(function* (originalJobId: string) {
    const operation = "jobDlq.history";
    const known = (yield* uuidOf(operation, "originalJobId", originalJobId)).toLowerCase();
    const rows = yield* stored(sql`SELECT ${known}::uuid AS original_job_id`).pipe(refused(operation));
    const jobs = yield* Effect.orDie(decode(rows));
    return new JobHistory({
      originalJobId: known,
      job: jobs[0]?.job ? new JobState(jobs[0].job) : null,
      rounds: Arr.flatMap(jobs, allRounds),
    });
  });

  return { outcome, history };
});
