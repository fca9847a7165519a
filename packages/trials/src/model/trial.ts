/**
 * The model beside the database: commands of fast-check that do something to both and compare. A command is one operation, or
 * some at once; then the answers and the end must be those of some order of them.
 */
import { randomUUID } from "node:crypto";
import type { SqlClient as Sql } from "@effect/sql/SqlClient";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { JobStatus } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import { JobDesk } from "@parametric-portal/jobs/job-store";
import type * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { hold } from "../../../database/test/support/contest.js";
import { jobTransitions, letterTransitions, stepOf, type Transition } from "../../../database/test/support/states.js";
import { explain, type Seen } from "./order.js";
import * as World from "./world.js";

export type Services = SqlClient.SqlClient | DatabaseService | JobDesk;

/** A case: its tenants, what the model believes, and what was done, as lines to read. */
export interface Trial {
  readonly apps: ReadonlyArray<string>;
  readonly users: ReadonlyArray<string>;
  world: World.World;
  /** Every fence that a job had. */
  readonly fences: Set<bigint>;
  /** What jobs were claimed with before, latest last. */
  readonly oldFences: Map<string, Array<bigint>>;
  /** Every job and letter that there was. */
  readonly jobs: Map<string, World.Job>;
  readonly letters: Map<string, World.Letter>;
  readonly events: Set<string>;
  /** Letters that an answer named. */
  readonly named: Set<string>;
  /** Short names of ids, for the log. */
  readonly names: Map<string, string>;
  readonly log: Array<string>;
  /** What happened in all cases, by name and outcome. */
  readonly tally: Map<string, number>;
  readonly run: <A, E>(effect: Effect.Effect<A, E, Services>) => Promise<A>;
}

type Db = Context.Tag.Service<typeof DatabaseService>;
type Desk = Context.Tag.Service<typeof JobDesk>;

/** An operation that was chosen: how it is called, and what its answer means. */
interface Operation {
  readonly line: string;
  /** Runs it; the answer says which steps it was, and what to print. */
  readonly run: Effect.Effect<Answer, unknown, Services>;
}

interface Answer {
  readonly outcome: string;
  readonly steps: (seen: Seen) => ReadonlyArray<World.Step>;
  /** Of an operation that ran alone: what it should have done and did not. */
  readonly missed?: (world: World.World) => string | undefined;
}

const payloadOf = (n: number) => `{"n": ${n}}`;
const type = "mail.send";
const actor = "trial";
/** When an old letter was dead-lettered, and a time after which none is old. */
const old = "2001-01-01T00:00:00.000000Z";
const recent = "2002";

// --- what is there -----------------------------------------------------------

const Rows = S.Array(
  S.Struct({
    kind: S.Literal("job", "letter", "copy", "line"),
    id: S.String,
    row: S.parseJson(S.Record({ key: S.String, value: S.Unknown })),
  }),
);
const decodeJob = S.decodeUnknownSync(
  S.Struct({
    app: S.String,
    status: JobStatus,
    attempts: S.Int,
    maxAttempts: S.Int,
    errors: S.Int,
    replays: S.Int,
    fence: S.BigInt,
    isSuspect: S.Boolean,
    user: S.NullOr(S.String),
    key: S.NullOr(S.String),
    payload: S.String,
  }),
);
const decodeLetter = S.decodeUnknownSync(
  S.Struct({
    app: S.String,
    job: S.String,
    at: S.String,
    isReplayed: S.Boolean,
    attempts: S.Int,
    errors: S.Int,
    reason: S.String,
    payload: S.String,
    user: S.NullOr(S.String),
  }),
);
const decodeCopy = S.decodeUnknownSync(
  S.Struct({
    app: S.String,
    kind: S.Literal("discarded", "expired"),
    job: S.String,
    letter: S.String,
    hasEntry: S.Boolean,
    isUndone: S.Boolean,
  }),
);
const decodeRows = S.decodeUnknown(Rows);

/** Everything of these tenants, past row-level security: the test's own look. */
const look = (sql: Sql, apps: ReadonlyArray<string>) =>
  sql`
    SELECT 'job' AS kind, id::text AS id, jsonb_build_object('app', app_id, 'status', status, 'attempts', attempts,
      'maxAttempts', max_attempts, 'errors', jsonb_array_length(error_history), 'replays', replays, 'fence', fence::text,
      'isSuspect', suspect, 'user', user_id, 'key', dedupe_key, 'payload', payload::text)::text AS row
    FROM jobs WHERE app_id = ANY (${apps}::uuid[])
    UNION ALL
    SELECT 'letter', id::text, jsonb_build_object('app', app_id, 'job', original_job_id,
      'at', to_char(dlq_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'isReplayed', replayed_at IS NOT NULL,
      'attempts', attempts, 'errors', jsonb_array_length(error_history), 'reason', error_reason, 'payload', payload::text,
      'user', user_id)::text
    FROM job_dlq WHERE app_id = ANY (${apps}::uuid[])
    UNION ALL
    SELECT 'copy', id::text, jsonb_build_object('app', app_id, 'kind', kind, 'job', original_job_id, 'letter', dlq_id,
      'hasEntry', entry IS NOT NULL, 'isUndone', EXISTS (SELECT FROM job_dlq_events u WHERE u.undoes = e.id))::text
    FROM job_dlq_events e WHERE app_id = ANY (${apps}::uuid[]) AND kind IN ('discarded', 'expired')
    UNION ALL
    SELECT 'line', kind, jsonb_build_object('count', count(*))::text
    FROM job_dlq_events WHERE app_id = ANY (${apps}::uuid[]) GROUP BY kind`.pipe(
    Effect.flatMap(decodeRows),
    Effect.orDie,
    Effect.map((rows): Seen => {
      const of = <A>(kind: (typeof rows)[number]["kind"], read: (row: Record<string, unknown>, id: string) => A) =>
        new Map(rows.filter((_) => _.kind === kind).map(({ id, row }) => [id, read(row, id)]));
      return {
        jobs: of("job", (row, id) => ({ ...decodeJob(row), id, isLost: false })),
        letters: of("letter", (row, id) => ({ ...decodeLetter(row), id })),
        copies: of("copy", (row, id) => ({ ...decodeCopy(row), id })),
        lines: Object.fromEntries(of("line", ({ count }) => Number(count))),
      };
    }),
  );

/** When a letter was dead-lettered; of one that is gone again, the time is not needed to the microsecond. */
const atOf = (seen: Seen, id: string) => seen.letters.get(id)?.at ?? "9998";

/** Letters of a job that nobody knew before: in the table, in the ledger, or named in an answer. */
const newLetters = (trial: Trial, seen: Seen, job: string) => {
  const stored = [...seen.letters.values(), ...[...seen.copies.values()].map((_) => ({ job: _.job, id: _.letter }))];
  const named = [...trial.named].filter((id) => stored.every((_) => _.id !== id)).map((id) => ({ job, id }));
  const ids = [...stored, ...named].flatMap((_) => (_.job === job && !trial.letters.has(_.id) ? [_.id] : []));
  return [...new Set(ids)].map((id) => ({ id, at: atOf(seen, id) }));
};

// --- operations --------------------------------------------------------------

const tagOf = <A>(effect: Effect.Effect<A, unknown, Services>) =>
  Effect.catchAll(
    Effect.map(effect, (value) => ({ tag: "done", value: value as A | undefined })),
    (error) => {
      const tag = String(Reflect.get(Object(error), "_tag"));
      const expected = ["JobNotHeld", "JobNotFound", "JobExhausted", "JobDlqNotFound", "JobDlqAlreadyReplayed"];
      return expected.includes(tag) ? Effect.succeed({ tag, value: undefined }) : Effect.fail(error);
    },
  );

const at = <A>(list: ReadonlyArray<A>, place: number): A | undefined => list[place % Math.max(list.length, 1)];
const several = <A>(list: ReadonlyArray<A>, places: ReadonlyArray<number>) => [
  ...new Set(places.flatMap((place) => at(list, place) ?? [])),
];

const within =
  (scope: World.Scope) =>
  <A, E>(effect: Effect.Effect<A, E, Services>) =>
    scope === World.system ? Client.system(effect) : Client.tenant(scope)(effect);

const tenantOf = (appId: string): Client.DataScope => ({ _tag: "tenant", appId });

/** Whose scope: the thing's own, another tenant's, or the system's. */
type Whose = "own" | "other" | "system";
const scopeOf = ({ apps }: Trial, whose: Whose, app: string) =>
  whose === "system" ? World.system : whose === "own" ? app : (apps.find((_) => _ !== app) ?? app);

type Choice = (trial: Trial, db: Db, desk: Desk) => Operation | undefined;

const submit =
  (app: number, max: number, key: string | null, hasUser: boolean, count: number, n: number): Choice =>
  (trial, _, desk) => {
    const appId = at(trial.apps, app) ?? "";
    const userId = hasUser ? (at(trial.users, app) ?? null) : null;
    const one = {
      appId,
      userId,
      requestId: null,
      type,
      payload: payloadOf(n),
      priority: "normal",
      maxAttempts: max,
      delayMillis: 0,
      dedupeKey: key,
    } as const;
    return {
      line: `submit ${count}, ${max} attempts${key === null ? "" : `, key ${key}`}${hasUser ? ", of the person" : ""}`,
      run: Effect.map(within(appId)(desk.submit(Array.from({ length: count }, () => one))), (results) => {
        const made = (id: string): World.Job => ({
          id,
          app: appId,
          status: "pending",
          attempts: 0,
          maxAttempts: max,
          errors: 0,
          replays: 0,
          fence: undefined,
          isLost: false,
          isSuspect: false,
          user: userId,
          key,
          payload: one.payload,
        });
        return {
          outcome: results
            .map(({ isDuplicate, jobId }) => `${isDuplicate ? "duplicate of " : ""}${name(trial, jobId, "job")}`)
            .join(", "),
          steps: () =>
            results.map(({ isDuplicate, jobId }) =>
              isDuplicate ? World.duplicate(appId, key ?? "", jobId) : World.submitted(made(jobId)),
            ),
        };
      }),
    };
  };

const claim =
  (whose: Whose, app: number, limit: number, isLost: boolean): Choice =>
  (trial, db) => {
    const scope = scopeOf(trial, whose === "other" ? "own" : whose, at(trial.apps, app) ?? "");
    return {
      line: `claim ${limit}${isLost ? ", and vanish" : ""}`,
      run: Effect.map(within(scope)(db.jobs.claim({ runner: "r", limit, lease: isLost ? 0 : "1 hour" })), (jobs) => {
        for (const { fence, id } of jobs) {
          const before = trial.oldFences.get(id) ?? [];
          trial.oldFences.set(id, [...before, fence]);
        }
        return {
          outcome: jobs.map(({ id }) => name(trial, id, "job")).join(", ") || "nothing",
          steps: () =>
            jobs.map(({ attempts, fence, id }) =>
              World.claimed(scope, id, fence, attempts, isLost, !trial.fences.has(fence)),
            ),
          missed: ({ jobs: all }) => {
            const due = [...all.values()].filter((_) => World.sees(scope, _) && _.status === "pending").length;
            return jobs.length === Math.min(limit, due) ? undefined : `${due} jobs were due`;
          },
        };
      }),
    };
  };

type Which = "current" | "old" | "none";

const settle =
  (kind: World.Settlement, place: number, which: Which, whose: Whose): Choice =>
  (trial, db) => {
    const job = at([...trial.jobs.values()], place);
    if (job === undefined) return undefined;
    const { app, id } = job;
    const scope = scopeOf(trial, whose, app);
    const current = trial.world.jobs.get(id)?.fence ?? 0n;
    const stale = (trial.oldFences.get(id) ?? []).filter((_) => _ !== current).at(-1) ?? 0n;
    const fence = which === "current" ? current : which === "old" ? stale : kind === "deadLetter" ? undefined : 0n;
    const reason = "MaxRetries";
    const call: Effect.Effect<{ readonly id: string } | undefined, unknown, Services> =
      kind === "complete"
        ? Effect.asVoid(db.jobs.complete({ id, fence: fence ?? 0n })).pipe(Effect.as(undefined))
        : kind === "retry"
          ? Effect.as(db.jobs.retry({ id, fence: fence ?? 0n, error: "e" }), undefined)
          : db.jobs.deadLetter({ id, reason, error: "e", ...(fence === undefined ? {} : { fence }) });
    return {
      line: `${kind} ${name(trial, id, "job")}, ${which} fence`,
      run: Effect.map(tagOf(within(scope)(call)), ({ tag, value }) => ({
        outcome: value === undefined ? tag : name(trial, value.id, "letter"),
        steps: (seen) => [
          World.settled(
            kind,
            scope,
            id,
            fence,
            tag,
            value === undefined ? undefined : { id: value.id, at: atOf(seen, value.id), reason },
          ),
        ],
      })),
    };
  };

const cancel =
  (place: number, whose: Whose): Choice =>
  (trial, _, desk) => {
    const job = at([...trial.jobs.values()], place);
    if (job === undefined) return undefined;
    const scope = scopeOf(trial, whose, job.app);
    return {
      line: `cancel ${name(trial, job.id, "job")}`,
      run: Effect.map(within(scope)(desk.cancel(job.id)), (status) => ({
        outcome: Option.match(status, { onNone: () => "not found", onSome: (was) => `was ${was}` }),
        steps: () => [World.cancelled(scope, job.id, Option.getOrUndefined(status))],
      })),
    };
  };

const rescue =
  (whose: Whose, app: number): Choice =>
  (trial, db) => {
    const scope = scopeOf(trial, whose === "other" ? "own" : whose, at(trial.apps, app) ?? "");
    return {
      line: "rescue",
      run: Effect.map(within(scope)(db.jobs.rescue()), ({ deadLetters, retried }) => {
        const again = World.rescued(scope);
        return {
          outcome: `${retried} again, dead: ${deadLetters.map(({ jobId }) => name(trial, jobId, "job")).join(", ") || "none"}`,
          steps: (seen) => [
            ...deadLetters.map(({ jobId }) => World.abandoned(scope, jobId, newLetters(trial, seen, jobId))),
            ...Array.from({ length: retried }, () => again),
          ],
          missed: ({ jobs }) => {
            const lost = [...jobs.values()].filter(
              (_) => World.sees(scope, _) && _.status === "processing" && _.isLost,
            ).length;
            return lost === retried + deadLetters.length ? undefined : `${lost} runs were lost`;
          },
        };
      }),
    };
  };

const purgeJobs =
  (whose: Whose, app: number): Choice =>
  (trial, db) => {
    const scope = scopeOf(trial, whose === "other" ? "own" : whose, at(trial.apps, app) ?? "");
    return {
      line: "purge jobs",
      run: Effect.map(within(scope)(db.jobs.purge(0)), (count) => {
        const gone = World.purgedJob(scope);
        return {
          outcome: `${count}`,
          steps: () => Array.from({ length: count }, () => gone),
          missed: ({ jobs }) => {
            const ended = [...jobs.values()].filter((_) => World.sees(scope, _) && World.isEnded(_)).length;
            return ended === count ? undefined : `${ended} jobs had ended`;
          },
        };
      }),
    };
  };

/** Answers about letters, by their jobs: those of one job go together. */
const byJob = <A extends { readonly id: string }>(trial: Trial, answers: ReadonlyArray<A>) => {
  const groups = new Map<string, Array<A & { readonly app: string }>>();
  for (const answer of answers) {
    const letter = trial.letters.get(answer.id);
    const key = letter === undefined ? answer.id : `${letter.job} ${letter.app}`;
    groups.set(key, [...(groups.get(key) ?? []), { ...answer, app: letter?.app ?? "" }]);
  }
  return [...groups.values()];
};

const outcomes = (trial: Trial, receipts: ReadonlyArray<{ readonly id: string; readonly outcome: string }>) => {
  for (const { id } of receipts) trial.named.add(id);
  return receipts.map(({ id, outcome }) => `${name(trial, id, "letter")} ${outcome}`).join(", ") || "nothing";
};

const replay =
  (places: ReadonlyArray<number>, whose: Whose, n: number | undefined): Choice =>
  (trial, db) => {
    const letters = several([...trial.letters.values()], places);
    const [first] = letters;
    if (first === undefined) return undefined;
    const scope = scopeOf(trial, whose, first.app);
    const payload = n === undefined ? undefined : payloadOf(n);
    return {
      line: `replay ${letters.map(({ id }) => name(trial, id, "letter")).join(", ")}${payload === undefined ? "" : `, payload ${payload}`}`,
      run: Effect.map(
        within(scope)(
          db.jobDlq.replay(
            letters.map(({ id }) => id),
            payload === undefined ? { actor } : { actor, payload: JSON.parse(payload) },
          ),
        ),
        (receipts) => ({
          outcome: outcomes(trial, receipts),
          steps: () => byJob(trial, receipts).map((_) => World.replayed(scope, _, payload, false)),
        }),
      ),
    };
  };

const pendingOf = ({ letters }: World.World, app: string) =>
  [...letters.values()].flatMap((_) => (_.app === app && !_.isReplayed ? [_.id] : [])).sort();

const same = (a: ReadonlyArray<string>, b: ReadonlyArray<string>) => a.join() === [...b].sort().join();

/** What a change of all that is pending left out, or took beside. */
const tookAll = (app: string, receipts: ReadonlyArray<{ readonly id: string }>) => (world: World.World) =>
  same(
    pendingOf(world, app),
    receipts.map(({ id }) => id),
  )
    ? undefined
    : "others were pending";

const replayAll =
  (app: number): Choice =>
  (trial, db) => {
    const scope = at(trial.apps, app) ?? "";
    return {
      line: "replay all",
      run: Effect.map(
        Stream.runCollect(db.jobDlq.replay({ type }, { actor, scope: tenantOf(scope), batchSize: 2 })),
        (progress) => {
          const receipts = [...progress].flatMap((_) => _.receipts);
          return {
            outcome: outcomes(trial, receipts),
            steps: () =>
              byJob(trial, receipts).map((_) =>
                World.replayed(
                  scope,
                  _.map((one) => ({ ...one, app: scope })),
                  undefined,
                  true,
                ),
              ),
            missed: tookAll(scope, receipts),
          };
        },
      ),
    };
  };

const discard =
  (places: ReadonlyArray<number>, whose: Whose): Choice =>
  (trial, db) => {
    const letters = several([...trial.letters.values()], places);
    const [first] = letters;
    if (first === undefined) return undefined;
    const scope = scopeOf(trial, whose, first.app);
    return {
      line: `discard ${letters.map(({ id }) => name(trial, id, "letter")).join(", ")}`,
      run: Effect.map(
        within(scope)(
          db.jobDlq.discard(
            letters.map(({ id }) => id),
            { actor, reason: "trial" },
          ),
        ),
        (receipts) => ({
          outcome: outcomes(trial, receipts),
          steps: () =>
            byJob(trial, receipts)
              .flat()
              .map((_) => World.discarded(scope, _)),
        }),
      ),
    };
  };

const discardAll =
  (app: number): Choice =>
  (trial, db) => {
    const scope = at(trial.apps, app) ?? "";
    return {
      line: "discard all",
      run: Effect.map(
        Stream.runCollect(
          db.jobDlq.discard({ type }, { actor, reason: "trial", scope: tenantOf(scope), batchSize: 2 }),
        ),
        (progress) => {
          const receipts = [...progress].flatMap((_) => _.receipts);
          return {
            outcome: outcomes(trial, receipts),
            steps: () => receipts.map((_) => World.discarded(scope, { ..._, app: scope })),
            missed: tookAll(scope, receipts),
          };
        },
      ),
    };
  };

const restore =
  (places: ReadonlyArray<number>, whose: Whose): Choice =>
  (trial, db) => {
    const events = several([...trial.events], places);
    const [first] = events;
    if (first === undefined) return undefined;
    const copyOf = (id: string) => trial.world.copies.get(id);
    const scope = scopeOf(trial, whose, copyOf(first)?.app ?? trial.apps[0] ?? "");
    return {
      line: `restore ${events.map((_) => name(trial, _, "event")).join(", ")}`,
      run: Effect.map(within(scope)(db.jobDlq.restore(events, { actor })), (receipts) => {
        const groups = new Map<string, Array<(typeof receipts)[number]>>();
        for (const receipt of receipts) {
          const key = copyOf(receipt.eventId)?.letter ?? receipt.eventId;
          groups.set(key, [...(groups.get(key) ?? []), receipt]);
        }
        return {
          outcome: receipts.map(({ eventId, outcome }) => `${name(trial, eventId, "event")} ${outcome}`).join(", "),
          steps: () => [...groups.values()].map((_) => World.restored(scope, _)),
        };
      }),
    };
  };

const mark =
  (place: number, whose: Whose): Choice =>
  (trial, db) => {
    const letter = at([...trial.letters.values()], place);
    if (letter === undefined) return undefined;
    const scope = scopeOf(trial, whose, letter.app);
    return {
      line: `mark ${name(trial, letter.id, "letter")} as replayed`,
      run: Effect.map(tagOf(within(scope)(db.jobDlq.markReplayed(letter.id, { actor }))), ({ tag }) => ({
        outcome: tag,
        steps: () => [World.marked(scope, letter.id, tag)],
      })),
    };
  };

const purgeLetters =
  (whose: Whose, app: number): Choice =>
  (trial, db) => {
    const scope = scopeOf(trial, whose === "other" ? "own" : whose, at(trial.apps, app) ?? "");
    return {
      line: "purge letters",
      run: Effect.map(within(scope)(db.jobDlq.purge(0)), (count) => {
        const gone = World.purgedLetter(scope);
        return {
          outcome: `${count}`,
          steps: () => Array.from({ length: count }, () => gone),
          missed: ({ letters }) => {
            const done = [...letters.values()].filter((_) => World.sees(scope, _) && _.isReplayed).length;
            return done === count ? undefined : `${done} letters were replayed`;
          },
        };
      }),
    };
  };

const expire =
  (whose: Whose, app: number): Choice =>
  (trial, db) => {
    const scope = scopeOf(trial, whose === "other" ? "own" : whose, at(trial.apps, app) ?? "");
    return {
      line: "retain, pending 1 day and replayed 0 days",
      run: Effect.map(
        within(scope)(db.jobDlq.retain({ pending: 1, replayed: 0 }, { actor })),
        ({ pending, replayed }) => {
          const gone = World.purgedLetter(scope);
          const aged = World.expired(scope, recent);
          return {
            outcome: `${pending} expired, ${replayed} purged`,
            steps: () => [
              ...Array.from({ length: replayed }, () => gone),
              ...Array.from({ length: pending }, () => aged),
            ],
            missed: ({ letters }) => {
              const mine = [...letters.values()].filter((_) => World.sees(scope, _));
              const done = mine.filter(({ isReplayed }) => isReplayed).length;
              const due = mine.filter((_) => !_.isReplayed && _.at < recent).length;
              return done === replayed && due === pending ? undefined : `${due} were too old, ${done} replayed`;
            },
          };
        },
      ),
    };
  };

/** Only alone: which copies it passed over is not said. */
const forget: Choice = (_, db) => ({
  line: "retain, copies 0 days",
  run: Effect.map(Client.system(db.jobDlq.retain({ discarded: 0 }, { actor })), ({ discarded }) => ({
    outcome: `${discarded}`,
    steps: () => [World.purgedCopies],
  })),
});

const erase =
  (app: number, places: ReadonlyArray<number> | undefined): Choice =>
  (trial, db) => {
    const chosen = several([...trial.letters.values()], places ?? []);
    const [first] = chosen;
    if (places !== undefined && first === undefined) return undefined;
    const scope = first?.app ?? at(trial.apps, app) ?? "";
    const user = trial.users[trial.apps.indexOf(scope)] ?? "";
    const ids = chosen.map(({ id }) => id);
    return {
      line:
        places === undefined
          ? `erase the person of ${name(trial, scope, "app")}`
          : `erase ${ids.map((_) => name(trial, _, "letter")).join(", ")}`,
      run: Effect.map(
        within(scope)(db.jobDlq.erase(places === undefined ? { userId: user } : { ids }, { actor })),
        (receipt) => ({
          outcome: `${receipt.letters} letters, ${receipt.copies} copies, ${receipt.jobsEmptied} jobs, ${receipt.jobsCancelled} of them cancelled`,
          steps: () => [World.erased(scope, places === undefined ? { user } : { ids }, receipt)],
        }),
      ),
    };
  };

const importLine =
  (place: number, what: "known" | "new" | "old", hasUser: boolean): Choice =>
  (trial, db) => {
    const known = at([...trial.letters.values()], place);
    if (what === "known" && known === undefined) return undefined;
    const scope = known?.app ?? at(trial.apps, place) ?? "";
    const letter: World.Letter =
      what === "known" && known !== undefined
        ? { ...known, isReplayed: false }
        : {
            id: randomUUID(),
            job: at([...trial.jobs.keys()], place) ?? randomUUID(),
            app: scope,
            at: what === "old" ? old : new Date().toISOString().replace("Z", "000Z"),
            isReplayed: false,
            attempts: 1,
            errors: 1,
            reason: "Validation",
            payload: payloadOf(place),
            user: hasUser ? (trial.users[trial.apps.indexOf(scope)] ?? null) : null,
          };
    const line = JSON.stringify({
      id: letter.id,
      originalJobId: letter.job,
      appId: letter.app,
      type,
      payload: JSON.parse(letter.payload),
      errorReason: letter.reason,
      attempts: letter.attempts,
      errorHistory: Array.from({ length: letter.errors }, () => ({ error: "e", timestamp: 1 })),
      dlqAt: letter.at,
      userId: letter.user,
    });
    return {
      line: `import ${name(trial, letter.id, "letter")} of ${name(trial, letter.job, "job")}${what === "old" ? ", an old one" : ""}`,
      run: Effect.map(
        Stream.runLast(db.jobDlq.importFrom(Stream.make(line), { actor, scope: tenantOf(scope) })),
        (last) => {
          const { imported, problems } = Option.getOrThrow(last);
          const outcome = imported === 1 ? "imported" : (problems[0]?.reason ?? "duplicate");
          return { outcome, steps: () => [World.imported(letter, outcome)] };
        },
      ),
    };
  };

// --- running -----------------------------------------------------------------

/** `job 3`: ids are long. */
function name(trial: Trial, id: string, kind: string): string {
  const known = trial.names.get(id);
  if (known !== undefined) return known;
  const count = [...trial.names.values()].filter((_) => _.startsWith(`${kind} `)).length;
  trial.names.set(id, `${kind} ${count + 1}`);
  return `${kind} ${count + 1}`;
}

const readable = (trial: Trial, problem: string) =>
  problem.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, (id) => trial.names.get(id) ?? id);

/**
 * Lets all of them begin while the rows are held, and go when each has its answer or waits for a row: so each has looked at what was
 * there before any of them changed it.
 */
const heldUp = (
  sql: Sql,
  apps: ReadonlyArray<string>,
  calls: ReadonlyArray<Effect.Effect<Answer, unknown, Services>>,
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { release } = yield* hold(
        `WITH j AS MATERIALIZED (SELECT id FROM jobs WHERE app_id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE),
           d AS MATERIALIZED (SELECT id FROM job_dlq WHERE app_id = ANY ($1::uuid[]) ORDER BY original_job_id, id FOR UPDATE)
         SELECT (SELECT count(*) FROM j), (SELECT count(*) FROM d)`,
        [apps],
      );
      let done = 0;
      const fibers = yield* Effect.forEach(calls, (call) =>
        Effect.fork(
          Effect.ensuring(
            call,
            Effect.sync(() => done++),
          ),
        ),
      );
      yield* Effect.repeat(
        sql`
          SELECT count(*)::int AS count FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock' AND backend_type = 'client backend'`,
        { until: ([row]) => Number(row?.count) + done >= calls.length },
      );
      yield* release;
      return yield* Effect.forEach(fibers, Fiber.join);
    }),
  );

/** Lets all of them go at the same moment. */
const atOnce = (calls: ReadonlyArray<Effect.Effect<Answer, unknown, Services>>) =>
  Effect.gen(function* () {
    const start = yield* Deferred.make<void>();
    const fibers = yield* Effect.forEach(calls, (call) => Effect.fork(Effect.zipRight(Deferred.await(start), call)));
    yield* Deferred.succeed(start, undefined);
    return yield* Effect.forEach(fibers, Fiber.join);
  });

const note = (trial: Trial, what: string) => trial.tally.set(what, (trial.tally.get(what) ?? 0) + 1);

/** A change of state is one of the table. */
const change = (trial: Trial, kind: string, table: ReadonlyArray<Transition>, from: string, to: string) => {
  if (from === to) return;
  const made = stepOf({ from, to });
  if (!table.some((_) => stepOf(_) === made))
    throw new Error(`a ${kind} went ${made}, which is not in the table of states`);
  note(trial, `${kind}: ${made}`);
};

/** Runs what was chosen, looks, and holds that some order explains it. */
const step = (trial: Trial, choices: ReadonlyArray<Choice>, isHeldUp: boolean) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    const desk = yield* JobDesk;
    const operations = choices.flatMap((choice) => choice(trial, db, desk) ?? []);
    if (operations.length === 0) return;
    const before = trial.world;
    const isAlone = operations.length === 1;
    const calls = operations.map(({ line, run }) =>
      Effect.mapError(run, (error) => new Error(`${line} failed: ${error}`, { cause: error })),
    );
    const answers = isAlone || !isHeldUp ? yield* atOnce(calls) : yield* heldUp(sql, trial.apps, calls);
    const seen = yield* Client.system(look(sql, trial.apps));
    for (const [place, { line }] of operations.entries()) {
      const outcome = answers[place]?.outcome ?? "";
      trial.log.push(
        `${isAlone ? "" : place === 0 ? (isHeldUp ? "held up: " : "at once: ") : "     and: "}${line} → ${outcome}`,
      );
      note(trial, `${isAlone ? "alone" : "at once"}: ${line.split(/[ ,]/)[0]}`);
    }
    if (isAlone) {
      const missed = answers[0]?.missed?.(before);
      if (missed !== undefined) throw new Error(readable(trial, `of what was there, something was left: ${missed}`));
    }
    const steps = answers.flatMap((answer) => answer.steps(seen));
    const { problem, world } = explain(before, steps, seen, trial.fences, isAlone);
    if (world === undefined) throw new Error(readable(trial, problem));
    for (const [id, job] of world.jobs) {
      trial.jobs.set(id, job);
      if (job.fence !== undefined) trial.fences.add(job.fence);
    }
    for (const [id, letter] of world.letters) trial.letters.set(id, letter);
    // What happened at once may have been several steps of one job.
    if (isAlone) {
      for (const id of trial.jobs.keys()) {
        change(trial, "job", jobTransitions, World.jobState(before, id), World.jobState(world, id));
      }
      for (const id of trial.letters.keys()) {
        change(trial, "letter", letterTransitions, World.letterState(before, id), World.letterState(world, id));
      }
    }
    for (const id of world.copies.keys()) trial.events.add(id);
    trial.world = world;
  });

/** One step of a case, alone or with others. */
export class Command implements fc.AsyncCommand<Trial, Trial> {
  readonly #choices: ReadonlyArray<readonly [string, Choice]>;
  readonly #isHeldUp: boolean;
  constructor(choices: ReadonlyArray<readonly [string, Choice]>, isHeldUp: boolean) {
    this.#choices = choices;
    this.#isHeldUp = isHeldUp;
  }
  check() {
    return true;
  }
  async run(trial: Trial) {
    await trial.run(
      step(
        trial,
        this.#choices.map(([, choice]) => choice),
        this.#isHeldUp,
      ),
    );
  }
  toString() {
    const names = this.#choices.map(([text]) => text);
    return names.length === 1 ? `${names[0]}` : `${this.#isHeldUp ? "heldUp" : "atOnce"}(${names.join(" | ")})`;
  }
}

const place = fc.nat({ max: 7 });
const places = fc.array(place, { minLength: 1, maxLength: 3 });
const app = fc.nat({ max: 1 });
const whose = fc.constantFrom<Whose>("own", "own", "own", "own", "system", "other");
const which = fc.constantFrom<Which>("current", "current", "old", "none");
const payload = fc.option(fc.nat({ max: 99 }), { nil: undefined, freq: 3 });

const named = <Ts extends ReadonlyArray<unknown>>(
  text: string,
  given: fc.Arbitrary<Ts>,
  make: (...given: Ts) => Choice,
) => given.map((_) => [`${text}(${_.map((one) => JSON.stringify(one) ?? "").join(", ")})`, make(..._)] as const);

const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: named(
      "submit",
      fc.tuple(
        app,
        fc.integer({ min: 1, max: 2 }),
        fc.option(fc.constantFrom("k", "l"), { freq: 2 }),
        fc.boolean(),
        fc.integer({ min: 1, max: 2 }),
        fc.nat({ max: 99 }),
      ),
      submit,
    ),
  },
  { weight: 5, arbitrary: named("claim", fc.tuple(whose, app, fc.integer({ min: 1, max: 3 }), fc.boolean()), claim) },
  { weight: 2, arbitrary: named("complete", fc.tuple(fc.constant("complete" as const), place, which, whose), settle) },
  { weight: 2, arbitrary: named("retry", fc.tuple(fc.constant("retry" as const), place, which, whose), settle) },
  {
    weight: 5,
    arbitrary: named("deadLetter", fc.tuple(fc.constant("deadLetter" as const), place, which, whose), settle),
  },
  { weight: 2, arbitrary: named("cancel", fc.tuple(place, whose), cancel) },
  { weight: 2, arbitrary: named("rescue", fc.tuple(whose, app), rescue) },
  { weight: 1, arbitrary: named("purgeJobs", fc.tuple(whose, app), purgeJobs) },
  { weight: 4, arbitrary: named("replay", fc.tuple(places, whose, payload), replay) },
  { weight: 2, arbitrary: named("replayAll", fc.tuple(app), replayAll) },
  { weight: 3, arbitrary: named("discard", fc.tuple(places, whose), discard) },
  { weight: 1, arbitrary: named("discardAll", fc.tuple(app), discardAll) },
  { weight: 3, arbitrary: named("restore", fc.tuple(places, whose), restore) },
  { weight: 1, arbitrary: named("mark", fc.tuple(place, whose), mark) },
  { weight: 1, arbitrary: named("purgeLetters", fc.tuple(whose, app), purgeLetters) },
  { weight: 1, arbitrary: named("expire", fc.tuple(whose, app), expire) },
  { weight: 1, arbitrary: named("erase", fc.tuple(app, fc.option(places, { nil: undefined })), erase) },
  {
    weight: 3,
    arbitrary: named(
      "import",
      fc.tuple(place, fc.constantFrom<"known" | "new" | "old">("known", "new", "old"), fc.boolean()),
      importLine,
    ),
  },
);

const alone = fc.oneof(
  { weight: 30, arbitrary: operation },
  { weight: 1, arbitrary: fc.constant(["forget()", forget] as const) },
);

/** Cases of up to so many commands, a third of them of some operations at once. */
export const cases = (maxCommands: number) =>
  fc.commands(
    [
      alone.map((_) => new Command([_], false)),
      alone.map((_) => new Command([_], false)),
      fc
        .tuple(fc.array(operation, { minLength: 2, maxLength: 4 }), fc.boolean())
        .map(([all, isHeldUp]) => new Command(all, isHeldUp)),
    ],
    { size: "max", maxCommands },
  );

/** What there is of these tenants goes, so that the next case's system scope does not meet it. The ledger stays. */
const clear = (apps: ReadonlyArray<string>) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Client.system(
      sql`DELETE FROM job_dlq WHERE app_id = ANY (${apps}::uuid[])`.pipe(
        Effect.zipRight(sql`DELETE FROM jobs WHERE app_id = ANY (${apps}::uuid[])`),
      ),
    ),
  );

/** Runs one case with tenants of its own. What goes wrong is told with all that was done before, as lines to read. */
export const runCase = async (
  run: Trial["run"],
  newApp: Effect.Effect<string, unknown, Services>,
  tally: Map<string, number>,
  commands: Iterable<fc.AsyncCommand<Trial, Trial>>,
) => {
  const apps = [await run(newApp), await run(newApp)];
  const trial: Trial = {
    apps,
    users: apps.map(() => randomUUID()),
    world: World.empty,
    fences: new Set(),
    oldFences: new Map(),
    jobs: new Map(),
    letters: new Map(),
    events: new Set(),
    named: new Set(),
    names: new Map(),
    log: [],
    tally,
    run,
  };
  try {
    await fc.asyncModelRun(() => ({ model: trial, real: trial }), commands);
  } catch (error) {
    const lines = trial.log.map((line, n) => `${String(n + 1).padStart(3)}. ${line}`).join("\n");
    throw new Error(`${error instanceof Error ? error.message : error}\nWhat was done:\n${lines}`);
  } finally {
    await run(clear(apps));
  }
};
