/** The public operations on small data of their own, each with what it needs, which is made before anything is counted. */
import { randomUUID } from "node:crypto";
import type * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import { letter, work } from "../../../database/test/support/database.js";
import { errorMark, jobs, letters, type Own, payloadMark } from "./samples.js";

type Repos = typeof DatabaseService.Service;
type Direct = SqlClient.SqlClient | DatabaseService;
type Call = (db: Repos, scope: Client.DataScope) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>;

/** A call that is ready. In a scope: that is opened around it; otherwise it opens its scopes by itself. */
export interface Ready {
  readonly isInScope: boolean;
  readonly call: Call;
}
export type Operation = (own: Own) => Effect.Effect<Ready, unknown, Direct>;

/** Runs it in a scope. */
export const runIn = ({ call, isInScope }: Ready, db: Repos, scope: Client.DataScope) => {
  if (!isInScope) return call(db, scope);
  return scope._tag === "tenant" ? Client.tenant(scope.appId)(call(db, scope)) : Client.system(call(db, scope));
};

const operation =
  (isInScope: boolean) =>
  <A, E>(
    prepare: (own: Own) => Effect.Effect<A, E, Direct>,
    call: (
      db: Repos,
      made: A,
      own: Own,
      scope: Client.DataScope,
    ) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>,
  ): Operation =>
  (own) =>
    Effect.map(prepare(own), (made) => ({ isInScope, call: (db, scope) => call(db, made, own, scope) }));
const inside = operation(true);
const opening = operation(false);
/** As a statement in a scope of its own, where there is one for that. */
const each = (scope: Client.DataScope) => (scope._tag === "tenant" ? Client.tenantEach(scope.appId) : Client.system);

export const first = <A>(all: ReadonlyArray<A>): A => Option.getOrThrow(Option.fromNullable(all[0]));
const idsOf = (all: ReadonlyArray<{ readonly id: string }>) => all.map(({ id }) => id);

const actor = "guard";
const reason = "guard";
const payload = { text: payloadMark };
const errorHistory = [{ error: `Error: ${errorMark}`, timestamp: 1_790_000_000_000 }];
const error = new Error(errorMark);

const nothing = () => Effect.void;
const newLetters = (count: number) => (own: Own) =>
  Effect.succeed(Array.from({ length: count }, () => letter(own.appId, { type: own.type, payload, errorHistory })));
const newJobs = (count: number) => (own: Own) =>
  Effect.succeed(Array.from({ length: count }, () => work(own.appId, { type: own.type, payload })));
const stored = (count: number) => (own: Own) => letters(own, count);
const held = (own: Own) =>
  Effect.map(jobs(own, 1, 60), ([job]) => ({ id: job?.id ?? "", fence: BigInt(job?.fence ?? 0) }));

export const operations: Readonly<Record<string, Operation>> = {
  "an empty scope": inside(nothing, () => Effect.void),

  "jobs.enqueue by itself": opening(newJobs(1), (db, made, _, scope) => each(scope)(db.jobs.enqueue(first(made)))),
  "jobs.deadLetter by itself": opening(held, (db, made, _, scope) =>
    each(scope)(db.jobs.deadLetter({ ...made, reason: "MaxRetries", error })),
  ),
  "jobDlq.listPending 100 by itself": opening(stored(150), (db, _, __, scope) => each(scope)(db.jobDlq.listPending())),

  "jobs.enqueue": inside(newJobs(1), (db, made) => db.jobs.enqueue(first(made))),
  "jobs.enqueueMany 1,000": inside(newJobs(1000), (db, made) => db.jobs.enqueueMany(made)),
  "jobs.get": inside(
    (own) => jobs(own, 1),
    (db, made) => db.jobs.get(first(made).id),
  ),
  "jobs.claim 100": inside(
    (own) => jobs(own, 100),
    (db, _, { type }) => db.jobs.claim({ runner: "guard", limit: 100, types: [type] }),
  ),
  "jobs.complete": inside(held, (db, made) => db.jobs.complete(made)),
  "jobs.retry": inside(held, (db, made) => db.jobs.retry({ ...made, error })),
  "jobs.deadLetter": inside(held, (db, made) => db.jobs.deadLetter({ ...made, reason: "MaxRetries", error })),
  "jobs.rescue 100": inside(
    (own) => jobs(own, 100, -60),
    (db) => db.jobs.rescue({ limit: 100 }),
  ),

  "jobDlq.insert": inside(newLetters(1), (db, made) => db.jobDlq.insert(first(made))),
  "jobDlq.insertMany 1,000": inside(newLetters(1000), (db, made) => db.jobDlq.insertMany(made)),

  "jobDlq.get": inside(stored(1), (db, made) => db.jobDlq.get(first(made).id)),
  "jobDlq.view": inside(stored(1), (db, made) => db.jobDlq.view(first(made).id, { actor })),
  "jobDlq.listPending 100": inside(stored(150), (db, _, { type }) => db.jobDlq.listPending({ type })),
  "jobDlq.listPending 100, the last of them bad": inside(
    (own) => Effect.zip(letters(own, 1, { isBad: true, daysOld: 1 }), letters(own, 99)),
    (db, _, { type }) => db.jobDlq.listPending({ type }),
  ),
  "jobDlq.pagePending 100": inside(stored(150), (db, _, { type }) => db.jobDlq.pagePending({ type })),
  "jobDlq.page 100": inside(stored(150), (db, _, { type }) => db.jobDlq.page({ type })),
  "jobDlq.preview": inside(stored(150), (db, _, { type }) => db.jobDlq.preview({ type })),
  "jobDlq.groups": inside(stored(150), (db, _, { type }) => db.jobDlq.groups({ type })),
  "jobDlq.stats by type": inside(stored(150), (db, _, { type }) => db.jobDlq.stats({ by: "type", filter: { type } })),
  "jobDlq.events": inside(stored(1), (db, made) => db.jobDlq.events({ dlqId: first(made).id })),
  "jobDlq.history": inside(stored(1), (db, made) => db.jobDlq.history(first(made).originalJobId)),
  "jobDlq.outcome": inside(stored(1), (db, made) => db.jobDlq.outcome(first(made).id)),
  "jobDlq.expiring": inside(stored(1), (db) => db.jobDlq.expiring(7, { pending: 30 })),

  "jobDlq.replay 1 id": inside(stored(1), (db, made) => db.jobDlq.replay(idsOf(made), { actor })),
  "jobDlq.replay 100 ids": inside(stored(100), (db, made) => db.jobDlq.replay(idsOf(made), { actor })),
  "jobDlq.replay 2,500 by filter": opening(stored(2500), (db, _, { type }, scope) =>
    Stream.runDrain(db.jobDlq.replay({ type }, { actor, scope })),
  ),
  "jobDlq.replay 2,500 by filter in one scope": inside(stored(2500), (db, _, { type }) =>
    Stream.runDrain(db.jobDlq.replay({ type }, { actor })),
  ),
  "jobDlq.discard 100 ids": inside(stored(100), (db, made) => db.jobDlq.discard(idsOf(made), { actor, reason })),
  "jobDlq.discard 2,500 by filter": opening(stored(2500), (db, _, { type }, scope) =>
    Stream.runDrain(db.jobDlq.discard({ type }, { actor, reason, scope })),
  ),
  "jobDlq.restore 100 events": inside(
    (own) =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const made = yield* letters(own, 100);
        const receipts = yield* Client.tenant(own.appId)(db.jobDlq.discard(idsOf(made), { actor, reason }));
        return receipts.flatMap(({ eventId }) => eventId ?? []);
      }),
    (db, made) => db.jobDlq.restore(made, { actor }),
  ),
  "jobDlq.markReplayed": inside(stored(1), (db, made) => db.jobDlq.markReplayed(first(made).id, { actor })),

  "jobDlq.purge 10": inside(
    (own) => letters(own, 10, { replayedDaysAgo: 40 }),
    (db) => db.jobDlq.purge(30, { actor }),
  ),
  "jobDlq.retain 10 replayed and 10 pending": opening(
    (own) => Effect.zip(letters(own, 10, { replayedDaysAgo: 40 }), letters(own, 10, { daysOld: 400 })),
    (db, _, __, scope) => db.jobDlq.retain({ replayed: 30, pending: 365 }, { actor, scope }),
  ),
  "jobDlq.exportTo 2,500": opening(stored(2500), (db, _, { type }, scope) =>
    Stream.runDrain(db.jobDlq.exportTo({ type }, { scope })),
  ),
  "jobDlq.exportTo 100 without payloads": opening(stored(100), (db, _, { type }, scope) =>
    Stream.runDrain(db.jobDlq.exportTo({ type }, { scope, redact: { payload: () => null } })),
  ),
  "jobDlq.importFrom 100": opening(
    (own) =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const scope = { _tag: "tenant", appId: own.appId } as const;
        yield* letters(own, 100);
        const lines = yield* Stream.runCollect(db.jobDlq.exportTo({ type: own.type }, { scope }));
        // Other ids, so that they are not there already.
        return [...lines].map((line) => line.replace(/"id":"[^"]*"/, `"id":"${randomUUID()}"`));
      }),
    (db, made, _, scope) => Stream.runDrain(db.jobDlq.importFrom(Stream.fromIterable(made), { actor, scope })),
  ),
  "jobDlq.erase a person with 10": inside(
    (own) => {
      const userId = randomUUID();
      return Effect.as(letters(own, 10, { userId }), userId);
    },
    (db, userId) => db.jobDlq.erase({ userId }, { actor }),
  ),
};

/** Those that take seconds; once is enough, and last, so that the others have small tables. */
export const large: Readonly<Record<string, Operation>> = {
  "jobDlq.insertMany 25,000": inside(newLetters(25_000), (db, made) => db.jobDlq.insertMany(made)),
};
