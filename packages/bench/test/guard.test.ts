/**
 * The guard of what operations cost: counts that are the same on every machine, never times. Statements, messages, round trips and
 * decoded payloads; rows, pages and indexes. `guard.snapshot.json` has them all, a line an operation: see `support/table.ts`.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import { JobStore } from "@parametric-portal/jobs/job-store";
import * as JobStoreSql from "@parametric-portal/jobs/job-store-sql";
import * as JobType from "@parametric-portal/jobs/job-type";
import { partitions } from "@parametric-portal/jobs/partition";
import * as Runner from "@parametric-portal/jobs/runner";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { TestDatabase, TestUrl } from "../../database/test/support/database.js";
import * as Wire from "../src/wire.js";
import * as Filled from "./support/filled.js";
import { large, type Operation, operations, runIn } from "./support/operations.js";
import { type Parses, parsesOf } from "./support/parses.js";
import { explaining, type Reading, readings } from "./support/plans.js";
import { claimOf500, type Query, queries } from "./support/queries.js";
import { disturbNothing, errorMark, jobs, makeOwn, payloadMark } from "./support/samples.js";
import * as Table from "./support/table.js";

/** Everything that has operations, at this address. */
const servicesAt = (url: Redacted.Redacted) =>
  Layer.build(
    JobStoreSql.layer.pipe(
      Layer.provideMerge(JobStoreSql.layerEngine({ url })),
      Layer.provideMerge(DatabaseService.layer),
      Layer.provideMerge(Client.layer({ url })),
    ),
  );

// --- what is sent and decoded ------------------------------------------------

/** This file's database by way of a wire. */
class Through extends Context.Tag("Through")<
  Through,
  {
    readonly wire: Wire.Wire;
    readonly services: Effect.Effect.Success<ReturnType<typeof servicesAt>>;
  }
>() {}

const through = Layer.scoped(
  Through,
  Effect.gen(function* () {
    const wire = yield* Wire.make(yield* TestUrl);
    return { wire, services: yield* servicesAt(wire.url) };
  }),
);

/** What an effect on the wire sends, and how often it parses and writes the JSON of payloads and of error histories. */
const costOf = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient | JobStore>) =>
  Effect.gen(function* () {
    const { services, wire } = yield* Through;
    const counted = yield* wire.counted(parsesOf([payloadMark, errorMark], Effect.provide(effect, services)));
    const { parses } = counted.result;
    return { sent: counted.sent, payloads: parses(payloadMark), histories: parses(errorMark) };
  });

/** Of a cost the decoding, without what is none. */
const decodedOf = ({ histories, payloads }: { readonly histories: Parses; readonly payloads: Parses }) =>
  Object.fromEntries(
    Object.entries({
      payloadsParsed: payloads.parsed,
      payloadsWritten: payloads.written,
      historiesParsed: histories.parsed,
      historiesWritten: histories.written,
    }).filter(([, count]) => count > 0),
  );

/** What a runner sends for a thousand jobs at most, whatever comes between: claims and settlements are of up to 500 and 1,000 jobs. */
const mostOfRunner = 30;

layer(Layer.provideMerge(through, Layer.provideMerge(Layer.effectDiscard(disturbNothing), TestDatabase)), {
  excludeTestServices: true,
  timeout: "2 minutes",
})("sent", (it) => {
  const table = Table.part("sent");

  const costIn = (operation: Operation, kind: Client.DataScope["_tag"]) =>
    Effect.gen(function* () {
      const { services } = yield* Through;
      const own = yield* makeOwn;
      const scope = kind === "tenant" ? ({ _tag: kind, appId: own.appId } as const) : ({ _tag: kind } as const);
      return yield* costOf(runIn(yield* operation(own), Context.get(services, DatabaseService), scope));
    });
  /** The line of an operation in both scopes, each on rows of its own. */
  const lineOf = (operation: Operation) =>
    Effect.gen(function* () {
      const tenant = yield* costIn(operation, "tenant");
      const system = yield* costIn(operation, "system");
      const sent =
        JSON.stringify(tenant.sent) === JSON.stringify(system.sent)
          ? { "tenant, system": tenant.sent }
          : { tenant: tenant.sent, system: system.sent };
      return { ...sent, ...decodedOf(tenant) };
    });

  for (const [name, operation] of Object.entries(operations)) {
    it.effect(name, () =>
      Effect.gen(function* () {
        table.expect(name, yield* lineOf(operation));
      }),
    );
  }

  for (const [what, more] of Object.entries({
    "a statement more": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT ${1}::int`),
    "a transaction more": Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(Effect.void)),
    "a payload that is decoded twice": Effect.sync(() => JSON.parse(JSON.stringify({ text: payloadMark }))),
  })) {
    it.effect(`counter-test: ${what} is seen`, () =>
      Effect.gen(function* () {
        for (const name of ["jobs.enqueue", "jobDlq.listPending 100", "jobDlq.replay 100 ids"]) {
          const operation = operations[name] ?? (() => Effect.dieMessage(name));
          const broken: Operation = (own) =>
            Effect.map(operation(own), (ready) => ({
              ...ready,
              call: (db, scope) => Effect.zipRight(more, ready.call(db, scope)),
            }));
          assert.isTrue(table.isCommitted(name, yield* lineOf(operation)), name);
          assert.isFalse(table.isCommitted(name, yield* lineOf(broken)), name);
        }
      }),
    );
  }

  const held = (all: ReadonlyArray<{ readonly id: string; readonly fence: string }>) =>
    all.map(({ fence, id }) => ({ id, fence }));
  const running = Effect.flatMap(makeOwn, (own) => Effect.map(jobs(own, 500, 60), held));
  const steps: Readonly<
    Record<
      string,
      Effect.Effect<
        (store: (typeof JobStore)["Service"]) => Effect.Effect<unknown, unknown>,
        unknown,
        SqlClient.SqlClient
      >
    >
  > = {
    "JobStore.claim 500": Effect.as(
      Effect.flatMap(makeOwn, (own) => jobs(own, 500)),
      (store) => store.claim(claimOf500),
    ),
    "JobStore.complete 500": Effect.map(running, (all) => (store) => store.complete(all)),
    "JobStore.fail 500": Effect.map(
      running,
      (all) => (store) =>
        store.fail(
          all.map((_) => ({ ..._, outcome: "dead", reason: "MaxRetries", error: errorMark, delayMillis: null })),
        ),
    ),
    "JobStore.extend 500": Effect.map(running, (all) => (store) => store.extend(all, 5000)),
    "JobStore.due": Effect.succeed((store) => store.due(partitions)),
    "JobStore.rescue": Effect.succeed((store) => store.rescue(0)),
  };
  for (const [name, prepare] of Object.entries(steps)) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const step = yield* prepare;
        const cost = yield* costOf(Effect.flatMap(JobStore, step));
        table.expect(name, { runner: cost.sent, ...decodedOf(cost) });
      }),
    );
  }

  it.effect(`a runner sends at most ${mostOfRunner} statements for 1,000 jobs, and parses each payload once`, () =>
    Effect.gen(function* () {
      const { services, wire } = yield* Through;
      const sql = yield* SqlClient.SqlClient;
      yield* sql`UPDATE jobs SET status = 'cancelled', completed_at = now(), locked_by = NULL, locked_until = NULL
        WHERE status IN ('pending', 'processing')`;
      const own = yield* makeOwn;
      yield* jobs(own, 1000);
      const done = yield* Deferred.make<void>();
      let left = 1000;
      const Nothing = JobType.make(own.type, { payload: S.Struct({ text: S.String }) });
      const handlers = Nothing.toLayer(() =>
        Effect.sync(() => {
          if (--left === 0) Deferred.unsafeDone(done, Effect.void);
        }),
      );
      // What it ran is settled when its layer is closed.
      const worked = Deferred.await(done).pipe(
        Effect.provide(Runner.layerSingle({ handlers, concurrency: 1000, statsEvery: "1 hour" })),
        Effect.provide(services),
        Effect.scoped,
      );
      const { result, sent } = yield* wire.counted(parsesOf([payloadMark], worked));
      assert.strictEqual(result.parses(payloadMark).parsed, 1000);
      assert.isAtMost(sent.statements, mostOfRunner);
      const rows =
        yield* sql`SELECT count(*)::int AS count FROM jobs WHERE app_id = ${own.appId} AND status = 'completed'`;
      assert.deepStrictEqual(rows, [{ count: 1000 }]);
    }),
  );

  for (const [name, operation] of Object.entries(large)) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const { sent, ...decoded } = yield* costIn(operation, "tenant");
        table.expect(name, { tenant: sent, ...decodedOf(decoded) });
      }),
    );
  }

  it.effect("every line is an operation's", () => Effect.sync(table.close));
});

// --- what is read ------------------------------------------------------------

/** The name of the filled database. */
class Source extends Context.Tag("Source")<Source, string>() {}

/** A clone of it whose server explains what it runs. */
const explained = Effect.gen(function* () {
  const wire = yield* Wire.make(explaining(yield* Filled.clone(yield* Source)));
  return { wire, services: yield* servicesAt(wire.url) };
});
class Explained extends Context.Tag("Explained")<Explained, Effect.Effect.Success<typeof explained>>() {}

const isReading = S.is(
  S.Struct({ rows: S.Record({ key: S.String, value: S.Number }), pages: S.Number, by: S.Array(S.String) }),
);

/** No table is read in another way and no more rows of it; of pages a few more, which is what a cold cache of the catalogue takes. */
const isNoWorse = (actual: Reading, slack: number) => (committed: unknown) =>
  isReading(committed) &&
  actual.by.every((_) => committed.by.includes(_)) &&
  Object.entries(actual.rows).every(([name, count]) => count <= (committed.rows[name] ?? 0) + slack) &&
  actual.pages <= committed.pages * 1.25 + 20;

layer(Layer.scoped(Explained, explained).pipe(Layer.provideMerge(Layer.scoped(Source, Filled.make))), {
  excludeTestServices: true,
  timeout: "2 minutes",
})("read", (it) => {
  const table = Table.part("read");

  const readingOf = (query: Query, on: Effect.Effect.Success<typeof explained>) =>
    Effect.gen(function* () {
      const call = yield* Effect.provide(query.call, on.services);
      return yield* readings(on.wire, Effect.provide(call, on.services));
    });
  const isReadWhole = ({ isWhole = false, scope }: Query, { by }: Reading) =>
    scope === "tenant" && !isWhole && by.includes("whole job_dlq");

  for (const [name, query] of Object.entries(queries)) {
    it.scoped(name, () =>
      Effect.gen(function* () {
        const actual = yield* readingOf(query, query.isWrite === true ? yield* explained : yield* Explained);
        // Whatever the table says.
        assert.isFalse(isReadWhole(query, actual), "what is one tenant's is found by an index");
        table.expect(name, actual, isNoWorse(actual, query.slack ?? 0));
      }),
    );
  }

  /** What is seen on a clone that is broken: the names of the queries that read more, or otherwise. */
  const worse = (names: ReadonlyArray<string>, statements: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const broken = yield* explained;
      yield* Effect.provide(
        Effect.flatMap(SqlClient.SqlClient, (sql) => Effect.forEach(statements, (_) => sql.unsafe(_))),
        broken.services,
      );
      return yield* Effect.filter(names, (name) =>
        Effect.gen(function* () {
          const query = queries[name];
          if (query === undefined) return yield* Effect.dieMessage(name);
          const actual = yield* readingOf(query, broken);
          return isReadWhole(query, actual) || !table.isCommitted(name, actual, isNoWorse(actual, query.slack ?? 0));
        }),
      );
    });

  it.scoped("counter-test: without the indexes of pending letters every list reads more", () =>
    Effect.gen(function* () {
      const names = [
        "jobDlq.listPending 100: big",
        "jobDlq.listPending 100: small",
        "jobDlq.page by fingerprint: big",
        "jobDlq.page by a rare type: big",
      ];
      assert.deepStrictEqual(yield* worse(names, []), []);
      const without = ["pending", "pending_type", "pending_fingerprint", "newest", "app"];
      assert.deepStrictEqual(
        yield* worse(
          names,
          without.map((_) => `DROP INDEX idx_job_dlq_${_}`),
        ),
        names,
      );
    }),
  );

  it.scoped("counter-test: without its index a claim reads more", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* worse(["JobStore.claim 500"], ["DROP INDEX idx_jobs_fair"]), [
        "JobStore.claim 500",
      ]);
    }),
  );

  it.scoped("counter-test: a filter that no index serves is seen by the rows that it drops", () =>
    Effect.gen(function* () {
      const names = ["jobDlq.page by a rare type: big", "jobDlq.page by person: big"];
      const policy = "CREATE POLICY slow ON job_dlq AS RESTRICTIVE TO parametric_tenant USING (attempts + 1 > 100)";
      assert.deepStrictEqual(
        yield* worse(names, ["DROP INDEX idx_job_dlq_pending_type, idx_job_dlq_user", policy]),
        names,
      );
    }),
  );

  it.effect("every line is a query's", () => Effect.sync(table.close));
});
