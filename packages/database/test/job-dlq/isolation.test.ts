import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { beginning } from "../../src/job-dlq/changes.js";
import { DatabaseService } from "../../src/repos.js";
import { deadJob, letter, newTenant, TestDatabase } from "../support/database.js";

const actor = "intruder";
const reason = "x";

layer(TestDatabase, { excludeTestServices: true })("every operation on dead letters", (it) => {
  /** The other tenant's rows, whole; what must be the same before and after. */
  const rowsOf = (appId: string) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const rows = yield* Client.system(sql`
        SELECT (SELECT jsonb_agg(j ORDER BY j.id) FROM jobs j WHERE app_id = ${appId}) AS jobs,
          (SELECT jsonb_agg(d ORDER BY d.id) FROM job_dlq d WHERE app_id = ${appId}) AS letters,
          (SELECT jsonb_agg(e ORDER BY e.id) FROM job_dlq_events e WHERE app_id = ${appId}) AS events`);
      return JSON.stringify(rows[0]);
    });

  /** What leaks when one tenant reaches for another's letters by right ids; one entry for each method of `jobDlq`. */
  const attempt = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const dlq = db.jobDlq;
    const [mine, theirs] = [yield* newTenant, yield* newTenant];
    const userId = "00000000-0000-4000-8000-000000000001";
    const victim = yield* deadJob(theirs);
    const { eventId, old } = yield* Client.tenant(theirs)(
      Effect.gen(function* () {
        yield* dlq.insert(letter(theirs, { userId: Option.some(userId) }));
        const discarded = yield* dlq.insert(letter(theirs));
        const [receipt] = yield* dlq.discard([discarded.id], { actor: "owner", reason });
        const replayed = yield* dlq.insert(letter(theirs, { replayedAt: Option.some(new Date(0)) }));
        return { eventId: receipt?.eventId ?? "", old: replayed.id };
      }),
    );
    const before = yield* rowsOf(theirs);
    const copy = Option.getOrThrow(
      yield* Stream.runHead(dlq.exportTo({ ids: [victim.id] }, { scope: { _tag: "tenant", appId: theirs } })),
    );
    const scope = { _tag: "tenant", appId: mine } as const;
    const ids = [victim.id, old];
    const isEmpty = (rows: ReadonlyArray<unknown>) => rows.length === 0;
    const all = (outcome: string) => (receipts: ReadonlyArray<{ readonly outcome: string }>) =>
      receipts.every((_) => _.outcome === outcome);
    const inside = <A, E>(effect: Effect.Effect<A, E>) => Client.tenant(mine)(effect);
    const nothing = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
      Effect.map(Stream.runCollect(stream), (_) => _.length === 0);
    const probes: Record<string, Effect.Effect<boolean, unknown, SqlClient.SqlClient>> = {
      one: Effect.map(inside(dlq.one({ id: victim.id })), Option.isNone),
      find: Effect.map(inside(dlq.find({})), isEmpty),
      count: Effect.map(inside(dlq.count()), (_) => _ === 0),
      set: Effect.map(inside(dlq.set({ id: victim.id }, { type: "stolen" })), (_) => _ === 0),
      get: Effect.map(inside(dlq.get(victim.id)), Option.isNone),
      insert: Effect.map(Effect.either(inside(dlq.insert(letter(theirs)))), Either.isLeft),
      insertMany: Effect.map(Effect.either(inside(dlq.insertMany([letter(theirs)]))), Either.isLeft),
      markReplayed: Effect.map(Effect.either(inside(dlq.markReplayed(victim.id))), Either.isLeft),
      listPending: Effect.map(inside(dlq.listPending()), isEmpty),
      pagePending: Effect.map(inside(dlq.pagePending()), ({ bad, items }) => isEmpty([...bad, ...items])),
      purge: Effect.map(inside(dlq.purge(0)), (_) => _ === 0),
      replay: Effect.all([
        Effect.map(inside(dlq.replay(ids, { actor })), all("not found")),
        nothing(dlq.replay({ ids }, { actor, scope })),
        nothing(dlq.replay({ all: true }, { actor, scope })),
      ]).pipe(Effect.map((_) => _.every(Boolean))),
      discard: Effect.all([
        Effect.map(inside(dlq.discard(ids, { actor, reason })), all("not found")),
        nothing(dlq.discard({ all: true }, { actor, reason, scope })),
      ]).pipe(Effect.map((_) => _.every(Boolean))),
      restore: Effect.map(inside(dlq.restore([eventId], { actor })), all("not found")),
      erase: Effect.map(
        inside(
          Effect.all([
            dlq.erase({ userId }, { actor }),
            dlq.erase({ ids }, { actor }),
            dlq.erase({ all: true }, { actor }),
          ]),
        ),
        (_) => _.every(({ copies, jobsEmptied, letters }) => letters + copies + jobsEmptied === 0),
      ),
      events: Effect.map(inside(dlq.events()), ({ items }) => isEmpty(items)),
      view: Effect.map(inside(dlq.view(victim.id, { actor })), Option.isNone),
      preview: Effect.map(inside(dlq.preview({ state: "any" })), ({ count, sample }) => count + sample.length === 0),
      groups: Effect.map(inside(dlq.groups({ state: "any" })), isEmpty),
      stats: Effect.map(inside(dlq.stats({ by: "tenant" })), isEmpty),
      outcome: Effect.map(inside(dlq.outcome(victim.id)), Option.isNone),
      history: Effect.map(
        inside(dlq.history(victim.originalJobId)),
        ({ job, rounds }) => job === null && isEmpty(rounds),
      ),
      exportTo: nothing(dlq.exportTo({ state: "any" }, { scope })),
      importFrom: Effect.map(
        Stream.runLast(dlq.importFrom(Stream.make(copy), { actor, scope })),
        Option.exists(({ imported, refused }) => imported === 0 && refused === 1),
      ),
      // From the beginning on there is nothing for this tenant, so the stream waits; what ends it is a letter of its own.
      changes: Effect.gen(function* () {
        const own = yield* inside(dlq.insert(letter(mine, { type: "mine" })));
        const first = yield* Stream.runHead(dlq.changes({ scope, after: beginning }));
        yield* inside(dlq.discard([own.id], { actor, reason }));
        return Option.exists(first, ({ letter: found }) => Either.isRight(found) && found.right.id === own.id);
      }),
      changesPosition: Effect.map(dlq.changesPosition(), (position) => !position.includes(theirs)),
      retain: Effect.map(dlq.retain({ replayed: 0 }, { actor, scope }), ({ replayed }) => replayed === 0),
      expiring: Effect.map(inside(dlq.expiring(1_000_000, { pending: 1 })), ({ count }) => count === 0),
    };
    const leaks: Array<string> = [];
    for (const [name, probe] of Object.entries(probes)) {
      // A probe that fails has not shown that nothing leaks.
      if (!(yield* Effect.orElseSucceed(probe, () => false))) leaks.push(name);
    }
    if ((yield* rowsOf(theirs)) !== before) leaks.push("the other tenant's rows");
    return { leaks, probed: Object.keys(probes) };
  });

  it.effect("neither sees, counts nor changes another tenant's rows", () =>
    Effect.gen(function* () {
      const { leaks, probed } = yield* attempt;
      assert.deepStrictEqual(leaks, []);
      const db = yield* DatabaseService;
      assert.deepStrictEqual([...probed].sort(), Object.keys(db.jobDlq).sort(), "every method has its probe");
    }),
  );

  it.effect("counter-test: with the policies dropped each of them is caught", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const tables = ["apps", "jobs", "job_dlq", "job_dlq_events"];
      for (const table of tables) yield* sql.unsafe(`ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`);
      const { leaks, probed } = yield* Effect.ensuring(
        attempt,
        Effect.orDie(Effect.forEach(tables, (table) => sql.unsafe(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY`))),
      );
      // Whatever comes after the first change finds the rows gone already, so each is at least among the leaks or the changes.
      assert.includeMembers(leaks, [
        "one",
        "find",
        "count",
        "set",
        "get",
        "insert",
        "markReplayed",
        "listPending",
        "the other tenant's rows",
      ]);
      assert.isAbove(leaks.length, probed.length / 2);
    }),
  );
});
