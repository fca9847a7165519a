/**
 * One tenant that reaches for another's dead letters by right ids, in every operation: nothing is seen, counted or changed. With
 * what holds them apart taken away, each of the same probes finds its leak.
 */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { InvalidInput } from "../../src/errors.js";
import { beginning } from "../../src/job-dlq/changes.js";
import { decodePosition, placeOfSnapshot } from "../../src/job-dlq/position.js";
import { DatabaseService } from "../../src/repos.js";
import { letter, newTenant, TestDatabase, withLogin, work } from "../support/database.js";

const actor = "intruder";
const reason = "x";

/** A tenant with a dead letter in each state that an operation acts on, the pending one nine days old and of a person. */
const newVictim = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const appId = yield* newTenant;
  const userId = randomUUID();
  const die = Effect.flatMap(db.jobs.enqueue({ ...work(appId), userId: Option.some(userId) }), ({ id }) =>
    db.jobs.deadLetter({ id, reason: "MaxRetries", error: "no route" }),
  );
  return yield* Client.tenant(appId)(
    Effect.gen(function* () {
      const [pending, replayed, discarded, erased] = [yield* die, yield* die, yield* die, yield* die];
      yield* sql`UPDATE job_dlq SET dlq_at = now() - interval '9 days' WHERE id = ${pending.id}`;
      const line = Option.getOrThrow(yield* Stream.runHead(db.jobDlq.exportTo({ ids: [pending.id] })));
      yield* db.jobDlq.replay([replayed.id], { actor: "owner" });
      const [receipt] = yield* db.jobDlq.discard([discarded.id], { actor: "owner", reason });
      yield* db.jobDlq.erase({ ids: [erased.id] }, { actor: "owner" });
      return { appId, userId, pending, replayed, discarded, erased, eventId: receipt?.eventId ?? "", line };
    }),
  );
});
type Victim = Effect.Effect.Success<typeof newVictim>;

/** The tenant that reaches for them, with a login that can become `parametric_tenant` and nothing else. */
const newIntruder = (context: Effect.Effect.Success<ReturnType<typeof withLogin>>) =>
  Effect.gen(function* () {
    const appId = yield* newTenant;
    const asTenant = Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const rows = yield* sql`
        SELECT current_user AS role, current_tenant() AS tenant, pg_has_role(session_user, 'parametric_system', 'MEMBER') AS is_system`;
      assert.deepStrictEqual(rows, [{ role: "parametric_tenant", tenant: appId, isSystem: false }]);
    });
    return {
      appId,
      scope: { _tag: "tenant", appId } as const,
      inside: <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.provide(Client.tenant(appId)(Effect.zipRight(asTenant, effect)), context),
      dlq: Context.get(context, DatabaseService).jobDlq,
    };
  });
type Intruder = Effect.Effect.Success<ReturnType<typeof newIntruder>>;

/** True when nothing of the victim's was seen or counted; what was changed is looked at afterwards. */
type Probe = (intruder: Intruder, victim: Victim) => Effect.Effect<boolean, unknown>;

const isEmpty = (rows: ReadonlyArray<unknown>) => rows.length === 0;
const isNone = Effect.map(Option.isNone<unknown>);
const isZero = Effect.map((count: number) => count === 0);
const emitsNothing = <A, E>(stream: Stream.Stream<A, E>) => Effect.map(Stream.runHead(stream), Option.isNone);
const notFound = Effect.map((receipts: ReadonlyArray<{ readonly outcome: string }>) =>
  receipts.every(({ outcome }) => outcome === "not found"),
);
const failsWith =
  (tag: string) =>
  <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>) =>
    Effect.map(Effect.either(effect), (_) => Either.isLeft(_) && _.left._tag === tag);
const idsOf = ({ discarded, erased, pending, replayed }: Victim) => [pending.id, replayed.id, discarded.id, erased.id];

const erases =
  (filter: (victim: Victim) => Parameters<Intruder["dlq"]["erase"]>[0]): Probe =>
  ({ dlq, inside }, victim) =>
    Effect.map(
      inside(dlq.erase(filter(victim), { actor })),
      ({ copies, jobsCancelled, jobsEmptied, letters }) => letters + copies + jobsCancelled + jobsEmptied === 0,
    );
const retains =
  (policy: Parameters<Intruder["dlq"]["retain"]>[0]): Probe =>
  ({ dlq, scope }) =>
    Effect.map(
      dlq.retain(policy, { actor, scope }),
      ({ discarded, pending, replayed }) => discarded + pending + replayed === 0,
    );

/** By the method, and the way of calling it. */
const probes: Readonly<Record<string, Probe>> = {
  one: ({ dlq, inside }, { pending }) => isNone(inside(dlq.one({ id: pending.id }))),
  find: ({ dlq, inside }) => Effect.map(inside(dlq.find({})), isEmpty),
  count: ({ dlq, inside }) => isZero(inside(dlq.count())),
  set: ({ dlq, inside }, { pending }) => isZero(inside(dlq.set({ id: pending.id }, { type: "stolen" }))),
  get: ({ dlq, inside }, { pending }) => isNone(inside(dlq.get(pending.id))),
  insert: ({ dlq, inside }, { appId }) => failsWith("AccessDenied")(inside(dlq.insert(letter(appId)))),
  insertMany: ({ dlq, inside }, { appId }) => failsWith("AccessDenied")(inside(dlq.insertMany([letter(appId)]))),
  markReplayed: ({ dlq, inside }, { pending }) => failsWith("JobDlqNotFound")(inside(dlq.markReplayed(pending.id))),
  listPending: ({ dlq, inside }) => Effect.map(inside(dlq.listPending()), isEmpty),
  pagePending: ({ dlq, inside }) =>
    Effect.map(inside(dlq.pagePending()), ({ bad, items }) => isEmpty([...bad, ...items])),
  purge: ({ dlq, inside }) => isZero(inside(dlq.purge(0))),
  "replay by ids": ({ dlq, inside }, victim) => notFound(inside(dlq.replay(idsOf(victim), { actor }))),
  "replay by filter": ({ dlq, scope }, victim) => emitsNothing(dlq.replay({ ids: idsOf(victim) }, { actor, scope })),
  "replay all": ({ dlq, scope }) => emitsNothing(dlq.replay({ all: true }, { actor, scope })),
  "discard by ids": ({ dlq, inside }, victim) => notFound(inside(dlq.discard(idsOf(victim), { actor, reason }))),
  "discard by filter": ({ dlq, scope }, victim) =>
    emitsNothing(dlq.discard({ ids: idsOf(victim) }, { actor, reason, scope })),
  "discard all": ({ dlq, scope }) => emitsNothing(dlq.discard({ all: true }, { actor, reason, scope })),
  restore: ({ dlq, inside }, { eventId }) => notFound(inside(dlq.restore([eventId], { actor }))),
  "erase a person": erases(({ userId }) => ({ userId })),
  "erase by ids": erases((victim) => ({ ids: idsOf(victim) })),
  "erase all": erases(() => ({ all: true })),
  events: ({ dlq, inside }) => Effect.map(inside(dlq.events()), ({ items }) => isEmpty(items)),
  view: ({ dlq, inside }, { pending }) => isNone(inside(dlq.view(pending.id, { actor }))),
  page: ({ dlq, inside }) =>
    Effect.map(inside(dlq.page({ state: "any" })), ({ bad, items }) => isEmpty([...bad, ...items])),
  preview: ({ dlq, inside }) =>
    Effect.map(
      inside(dlq.preview({ state: "any" })),
      ({ bad, count, sample }) => count === 0 && isEmpty([...bad, ...sample]),
    ),
  groups: ({ dlq, inside }) => Effect.map(inside(dlq.groups({ state: "any" })), isEmpty),
  stats: ({ dlq, inside }) => Effect.map(inside(dlq.stats({ by: "tenant" })), isEmpty),
  outcome: ({ dlq, inside }, { pending }) => isNone(inside(dlq.outcome(pending.id))),
  history: ({ dlq, inside }, { pending }) =>
    Effect.map(inside(dlq.history(pending.originalJobId)), ({ job, rounds }) => job === null && isEmpty(rounds)),
  exportTo: ({ dlq, scope }) => emitsNothing(dlq.exportTo({ state: "any" }, { scope })),
  // Their line as it is, their letter's id as one's own, and the id of a letter which only they know to be erased.
  importFrom: ({ appId, dlq, scope }, { erased, line }) => {
    const own = { ...JSON.parse(line), appId };
    const lines = [line, `${JSON.stringify(own)}\n`, `${JSON.stringify({ ...own, id: erased.id })}\n`];
    return Effect.map(
      Stream.runLast(dlq.importFrom(Stream.make(...lines), { actor, scope })),
      Option.exists(
        ({ imported, problems }) =>
          imported === 1 && problems.map((_) => _.reason).join() === "foreign tenant,id taken",
      ),
    );
  },
  // From the beginning on there is nothing for this tenant, so the stream waits; what ends it is a letter of its own.
  changes: ({ appId, dlq, inside, scope }) =>
    Effect.gen(function* () {
      const own = yield* inside(dlq.insert(letter(appId)));
      const first = yield* Stream.runHead(dlq.changes({ scope, after: beginning }));
      return Option.exists(first, ({ letter: found }) => Either.isRight(found) && found.right.id === own.id);
    }),
  "retain replayed": retains({ replayed: 0 }),
  "retain pending": retains({ pending: 1 }),
  // Only the system scope takes copies out of the ledger, a tenant's own ones included.
  "retain discarded": ({ dlq, scope }) => failsWith("AccessDenied")(dlq.retain({ discarded: 0 }, { actor, scope })),
  expiring: ({ dlq, inside }) => Effect.map(inside(dlq.expiring(0, { pending: 1 })), ({ count }) => count === 0),
};

/** What has no rows to keep apart. `changesPosition` names transactions, which are the server's; see its test below. */
const notApplicable = ["changesPosition"];

/** The tenant's rows, whole. */
const rowsOf = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      SELECT (SELECT jsonb_agg(j ORDER BY j.id) FROM jobs j WHERE app_id = ${appId}) AS jobs,
        (SELECT jsonb_agg(d ORDER BY d.id) FROM job_dlq d WHERE app_id = ${appId}) AS letters,
        (SELECT jsonb_agg(e ORDER BY e.id) FROM job_dlq_events e WHERE app_id = ${appId}) AS events`);
    return JSON.stringify(rows[0]);
  });

/** The verdict on each probe, each with a victim of its own, so that none finds the work of the one before. */
const verdicts = Effect.gen(function* () {
  const context = yield* withLogin("parametric_tenant");
  const found: Record<string, string> = {};
  for (const [name, probe] of Object.entries(probes)) {
    const [intruder, victim] = [yield* newIntruder(context), yield* newVictim];
    const before = yield* rowsOf(victim.appId);
    const result = yield* Effect.either(probe(intruder, victim));
    const isSame = (yield* rowsOf(victim.appId)) === before;
    // A probe that fails has shown neither.
    found[name] = Either.isLeft(result) ? `failed: ${result.left}` : result.right && isSame ? "kept apart" : "leaked";
  }
  return found;
});

const each = (verdict: string) => Object.fromEntries(Object.keys(probes).map((name) => [name, verdict]));

layer(TestDatabase, { excludeTestServices: true })("every operation on dead letters", (it) => {
  it.scoped("neither sees, counts nor changes another tenant's rows", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* verdicts, each("kept apart"));
    }),
  );

  it.effect("has its probe, or no rows to keep apart", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const probed = new Set(Object.keys(probes).map((name) => name.replace(/ .*/, "")));
      assert.deepStrictEqual([...probed, ...notApplicable].sort(), Object.keys(db.jobDlq).sort());
    }),
  );

  it.effect("a scope that is none is refused, and is not the system's", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const theirs = yield* newTenant;
      const { id } = yield* Client.tenant(theirs)(db.jobDlq.insert(letter(theirs)));
      const line = yield* Stream.mkString(db.jobDlq.exportTo({}, { scope: { _tag: "tenant", appId: theirs } }));
      for (const none of [
        null,
        {},
        { appId: theirs },
        { tenant: theirs },
        { _tag: "Tenant", appId: theirs },
        "system",
      ]) {
        const scope = none as never;
        const calls: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          Stream.runDrain(db.jobDlq.replay({ ids: [id] }, { actor: "somebody", scope })),
          Stream.runDrain(db.jobDlq.discard({ ids: [id] }, { actor: "somebody", reason: "none", scope })),
          Stream.runDrain(db.jobDlq.exportTo({}, { scope })),
          Stream.runDrain(db.jobDlq.importFrom(Stream.make(line), { actor: "somebody", scope })),
          db.jobDlq.retain({ pending: 1 }, { actor: "somebody", scope }),
          Stream.runDrain(Stream.take(db.jobDlq.changes({ scope }), 1)),
        ] as never;
        for (const [place, call] of calls.entries()) {
          const error = yield* Effect.flip(call);
          assert.isTrue(error instanceof InvalidInput && error.field === "scope", `${place}: ${String(error)}`);
        }
      }
      assert.isTrue(Option.isSome(yield* Client.tenant(theirs)(db.jobDlq.get(id))));
    }),
  );

  it.effect("a position holds transactions only", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      yield* newVictim;
      const place = Option.getOrThrow(decodePosition(yield* db.jobDlq.changesPosition()));
      assert.match(place.start, /^\d+:\d+:[\d,]*$/);
      assert.deepStrictEqual(place, placeOfSnapshot(place.start));
    }),
  );
});

// A database of its own, in which nothing holds tenants apart afterwards.
layer(TestDatabase, { excludeTestServices: true })(
  "without policies, and with a ledger that a tenant may delete from",
  (it) => {
    it.scoped("counter-test: each of the probes finds its leak", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        for (const table of ["apps", "jobs", "job_dlq", "job_dlq_events"]) {
          yield* sql.unsafe(`ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`);
        }
        yield* sql`GRANT DELETE ON job_dlq_events TO parametric_tenant`;
        yield* sql`ALTER TABLE job_dlq_events DISABLE TRIGGER job_dlq_events_append_only`;
        assert.deepStrictEqual(yield* verdicts, each("leaked"));
      }),
    );
  },
);
