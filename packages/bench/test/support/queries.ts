/** The operations on the filled queue, big and small tenant, each a call that is made ready before it is explained. */
import * as SqlClient from "@effect/sql/SqlClient";
import type * as PgClient from "@effect/sql-pg/PgClient";
import * as Client from "@parametric-portal/database/client";
import { encodeCursor } from "@parametric-portal/database/cursor";
import { beginning } from "@parametric-portal/database/job-dlq/changes";
import { DatabaseService } from "@parametric-portal/database/repos";
import { type Claimed, JobStore } from "@parametric-portal/jobs/job-store";
import { partitions } from "@parametric-portal/jobs/partition";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import * as Filled from "./filled.js";

type Repos = typeof DatabaseService.Service;
type Services = SqlClient.SqlClient | PgClient.PgClient | DatabaseService | JobStore;
type Call = Effect.Effect<unknown, unknown, Services>;

export interface Query {
  readonly scope: "tenant" | "system" | "runner";
  /** What makes it ready, and then the call itself. */
  readonly call: Effect.Effect<Call, unknown, Services>;
  /** It changes rows, so it gets a clone of its own. */
  readonly isWrite?: boolean;
  /** It asks for so much of job_dlq, or of this small one, that reading the table from end to end is as good as an index. */
  readonly isWhole?: boolean;
  /** Rows more that it may read of each table. */
  readonly slack?: number;
}

export const claimOf500 = {
  runner: "guard",
  leaseMillis: 60_000,
  limit: 500,
  turns: partitions.map((partition) => ({ partition, after: "" })),
  isByAge: false,
  draw: 1,
};

const actor = "guard";
const reason = "guard";
const inSystem: Client.DataScope = { _tag: "system" };
const inTenant = (appId: string): Client.DataScope => ({ _tag: "tenant", appId });
const within = (scope: Client.DataScope) => (scope._tag === "tenant" ? Client.tenant(scope.appId) : Client.system);

type OnRepos = (db: Repos, scope: Client.DataScope) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>;
const opening = (scope: Client.DataScope, call: OnRepos, more: Omit<Query, "scope" | "call"> = {}): Query => ({
  ...more,
  scope: scope._tag,
  call: Effect.succeed(Effect.flatMap(DatabaseService, (db) => call(db, scope))),
});
const inside = (scope: Client.DataScope, call: OnRepos, more: Omit<Query, "scope" | "call"> = {}): Query =>
  opening(scope, (db) => within(scope)(call(db, scope)), more);
const write = { isWrite: true };
const whole = { isWhole: true };
/** It looks again while a transaction is open anywhere on the server that may have come before; each look reads a row. */
const looking = { slack: 50 };

const decodePlace = S.decodeUnknown(S.Tuple(S.Struct({ at: S.String, id: S.String })));
/** A page that begins behind so many pending letters of a tenant. */
const pageAt = (appId: string, offset: number, limit: number): Query => ({
  scope: "tenant",
  call: Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    const rows = yield* sql`
      SELECT (extract(epoch FROM dlq_at) * 1000000)::bigint::text AS at, id FROM job_dlq
      WHERE app_id = ${appId} AND replayed_at IS NULL
      ORDER BY dlq_at DESC, id DESC LIMIT 1 OFFSET ${offset - 1}`;
    const [place] = yield* decodePlace(rows);
    return Client.tenant(appId)(db.jobDlq.pagePending({ limit, cursor: encodeCursor(place) }));
  }),
});

const decodeIds = S.decodeUnknown(S.Array(S.Struct({ id: S.String })));
/** A change of what a statement finds, by ids. */
const byIds = (
  scope: Client.DataScope,
  statement: string,
  call: (db: Repos, ids: ReadonlyArray<string>) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>,
): Query => ({
  scope: scope._tag,
  isWrite: true,
  call: Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    const ids = (yield* decodeIds(yield* sql.unsafe(statement))).map(({ id }) => id);
    return within(scope)(call(db, ids));
  }),
});

/** A step of a runner with the jobs that it has claimed. */
const claimed = (
  step: (store: (typeof JobStore)["Service"], jobs: ReadonlyArray<Claimed>) => Effect.Effect<unknown, unknown>,
): Query => ({
  scope: "runner",
  isWrite: true,
  call: Effect.gen(function* () {
    const store = yield* JobStore;
    const { jobs } = yield* store.claim(claimOf500);
    return step(store, jobs);
  }),
});

const decodeFingerprints = S.decodeUnknown(S.Tuple(S.Struct({ fingerprint: S.String, originalJobId: S.String })));
const byFingerprint = (appId: string): Query => ({
  scope: "tenant",
  call: Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    const rows = yield* sql`
      SELECT fingerprint, original_job_id FROM job_dlq WHERE app_id = ${appId} AND replayed_at IS NULL ORDER BY dlq_at LIMIT 1`;
    const [{ fingerprint }] = yield* decodeFingerprints(rows);
    return Client.tenant(appId)(db.jobDlq.page({ fingerprint }));
  }),
});
const ofFirstLetter = (
  call: (db: Repos, jobId: string) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>,
): Query => ({
  scope: "tenant",
  call: Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    const rows = yield* sql`
      SELECT fingerprint, original_job_id FROM job_dlq WHERE app_id = ${Filled.big} ORDER BY dlq_at LIMIT 1`;
    const [{ originalJobId }] = yield* decodeFingerprints(rows);
    return Client.tenant(Filled.big)(call(db, originalJobId));
  }),
});

const scopes = { big: inTenant(Filled.big), small: inTenant(Filled.small), system: inSystem };
/** The same in each scope. */
const inEach = (
  name: string,
  call: OnRepos,
  more: { readonly [K in keyof typeof scopes]?: Omit<Query, "scope" | "call"> } = {},
) =>
  Object.fromEntries(
    Object.entries(scopes).map(([who, scope]) => [
      `${name}: ${who}`,
      inside(scope, call, more[who as keyof typeof scopes]),
    ]),
  );

export const queries: Readonly<Record<string, Query>> = {
  ...inEach("jobDlq.listPending 100", (db) => db.jobDlq.listPending()),
  "jobDlq.pagePending, 50th page of 100: big": pageAt(Filled.big, 4900, 100),
  "jobDlq.pagePending, 40th page of 1: small": pageAt(Filled.small, 39, 1),
  ...inEach("jobDlq.page by type", (db) => db.jobDlq.page({ type: "type 3" })),
  "jobDlq.page by a rare type: big": inside(scopes.big, (db) => db.jobDlq.page({ type: "rare" })),
  "jobDlq.page by a type that is none: big": inside(scopes.big, (db) => db.jobDlq.page({ type: "none" })),
  "jobDlq.page by a prefix of types: big": inside(scopes.big, (db) => db.jobDlq.page({ type: { prefix: "ra" } })),
  "jobDlq.page by fingerprint: big": byFingerprint(Filled.big),
  "jobDlq.page by fingerprint: small": byFingerprint(Filled.small),
  ...inEach("jobDlq.page since", (db) => db.jobDlq.page({ since: Filled.middle })),
  "jobDlq.page by person: big": inside(scopes.big, (db) => db.jobDlq.page({ userId: Filled.person, state: "any" })),
  ...inEach("jobDlq.preview", (db) => db.jobDlq.preview({}), { big: whole }),
  ...inEach("jobDlq.preview by type", (db) => db.jobDlq.preview({ type: "type 3" })),
  ...inEach("jobDlq.groups", (db) => db.jobDlq.groups({}), { big: whole }),
  ...inEach("jobDlq.stats by type", (db) => db.jobDlq.stats({ by: "type", since: Filled.middle }), { big: whole }),
  "jobDlq.stats by tenant: system": inside(inSystem, (db) => db.jobDlq.stats({ by: "tenant", since: Filled.middle })),
  "jobDlq.expiring: big": inside(scopes.big, (db) => db.jobDlq.expiring(7, { pending: 30 }), whole),
  "jobDlq.events: big": inside(scopes.big, (db) => db.jobDlq.events()),
  "jobDlq.history: big": ofFirstLetter((db, jobId) => db.jobDlq.history(jobId)),
  "jobDlq.page by job: big": ofFirstLetter((db, originalJobId) => db.jobDlq.page({ originalJobId })),
  "jobDlq.changes 200: big": opening(
    scopes.big,
    (db, scope) => Stream.runDrain(Stream.take(db.jobDlq.changes({ scope, after: beginning }), 200)),
    looking,
  ),
  "jobDlq.changes 10: small": opening(
    scopes.small,
    (db, scope) => Stream.runDrain(Stream.take(db.jobDlq.changes({ scope, after: beginning, batchSize: 10 }), 10)),
    looking,
  ),
  "jobDlq.exportTo by type: big": opening(scopes.big, (db, scope) =>
    Stream.runDrain(db.jobDlq.exportTo({ type: "type 3" }, { scope })),
  ),

  "jobDlq.replay, a batch of 1,000 of all: big": opening(
    scopes.big,
    (db, scope) => Stream.runDrain(Stream.take(db.jobDlq.replay({ all: true }, { actor, scope }), 1)),
    write,
  ),
  "jobDlq.replay, a batch of all: small": opening(
    scopes.small,
    (db, scope) => Stream.runDrain(Stream.take(db.jobDlq.replay({ all: true }, { actor, scope }), 1)),
    write,
  ),
  "jobDlq.replay by type: big": opening(
    scopes.big,
    (db, scope) => Stream.runDrain(Stream.take(db.jobDlq.replay({ type: "type 3" }, { actor, scope }), 1)),
    write,
  ),
  "jobDlq.replay 100 ids: big": byIds(
    scopes.big,
    `SELECT id FROM job_dlq WHERE app_id = '${Filled.big}' AND replayed_at IS NULL ORDER BY dlq_at LIMIT 100`,
    (db, ids) => db.jobDlq.replay(ids, { actor }),
  ),
  "jobDlq.discard by type: big": opening(
    scopes.big,
    (db, scope) => Stream.runDrain(Stream.take(db.jobDlq.discard({ type: "type 3" }, { actor, reason, scope }), 1)),
    write,
  ),
  "jobDlq.discard 100 ids: big": byIds(
    scopes.big,
    `SELECT id FROM job_dlq WHERE app_id = '${Filled.big}' AND replayed_at IS NULL ORDER BY dlq_at LIMIT 100`,
    (db, ids) => db.jobDlq.discard(ids, { actor, reason }),
  ),
  "jobDlq.restore 100: big": byIds(
    scopes.big,
    `SELECT id FROM job_dlq_events WHERE app_id = '${Filled.big}' AND kind = 'discarded' ORDER BY id LIMIT 100`,
    (db, ids) => db.jobDlq.restore(ids, { actor }),
  ),
  "jobDlq.retain replayed: big": opening(
    scopes.big,
    (db, scope) => db.jobDlq.retain({ replayed: 30 }, { actor, scope }),
    { ...write, ...whole },
  ),
  "jobDlq.retain replayed: small": opening(
    scopes.small,
    (db, scope) => db.jobDlq.retain({ replayed: 30 }, { actor, scope }),
    write,
  ),
  "jobDlq.retain pending: small": opening(
    scopes.small,
    (db, scope) => db.jobDlq.retain({ pending: 30 }, { actor, scope }),
    write,
  ),
  "jobDlq.retain discarded: system": opening(
    inSystem,
    (db, scope) => db.jobDlq.retain({ discarded: 30 }, { actor, scope }),
    write,
  ),
  "jobDlq.purge: small": inside(scopes.small, (db) => db.jobDlq.purge(30, { actor }), write),
  "jobDlq.erase a person: big": inside(
    scopes.big,
    (db) => db.jobDlq.erase({ userId: Filled.person }, { actor }),
    write,
  ),

  "jobs.claim 100: big": inside(scopes.big, (db) => db.jobs.claim({ runner: "guard" }), write),
  "jobs.claim 100: small": inside(scopes.small, (db) => db.jobs.claim({ runner: "guard", limit: 10 }), write),
  "jobs.claim 100: system": inside(inSystem, (db) => db.jobs.claim({ runner: "guard" }), write),
  "JobStore.claim 500": {
    scope: "runner",
    isWrite: true,
    call: Effect.map(JobStore, (store) => store.claim(claimOf500)),
  },
  "JobStore.due": { scope: "runner", call: Effect.map(JobStore, (store) => store.due(partitions)) },
  "JobStore.complete 500": claimed((store, jobs) => store.complete(jobs)),
  "JobStore.fail 500": claimed((store, jobs) =>
    store.fail(
      jobs.map((_) => ({ ..._, outcome: "dead", reason: "MaxRetries", error: "no route", delayMillis: null })),
    ),
  ),
  "JobStore.extend 500": claimed((store, jobs) => store.extend(jobs, 5000)),
};
