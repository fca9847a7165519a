/**
 * The recipe that partitions a live job_dlq (recipes/partition-job-dlq.sql), step by step as docs/scale.md has it: while the
 * application writes, and with everything that the repository does with dead letters afterwards.
 */
import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Chunk from "effect/Chunk";
import * as Context from "effect/Context";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Queue from "effect/Queue";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { inject } from "vitest";
import * as Client from "../src/client.js";
import { arrivals, beginning } from "../src/job-dlq/changes.js";
import * as Migrator from "../src/migrator.js";
import { DatabaseService } from "../src/repos.js";
import { databaseError } from "../src/sql-state.js";
import { balance, eachOnce } from "./support/balance.js";
import { isFull } from "./support/campaign.js";
import { root, succeed } from "./support/command.js";
import { deadJob, letter, newTenant, TestDatabase, urlAs } from "./support/database.js";
import { differences, read, type Schema } from "./support/schema.js";
import { statementsOf } from "./support/statements.js";
import { undone } from "./support/undone.js";

const actor = "operator";
const recipe = fs.readFileSync(new URL("../recipes/partition-job-dlq.sql", import.meta.url), "utf8");
const page = fs.readFileSync(join(root, "docs/scale.md"), "utf8");

/** The calls of the page, in its order. The tests run no others. */
const calls = {
  contents: "SELECT * FROM job_dlq_partitions.contents()",
  prepare: "SELECT job_dlq_partitions.prepare('1 month', 3)",
  validate: "SELECT job_dlq_partitions.validate()",
  swap: "SELECT job_dlq_partitions.swap()",
  analyze: "ANALYZE public.job_dlq",
  abandon: "SELECT job_dlq_partitions.abandon()",
  ahead: "SELECT job_dlq_partitions.ahead('1 month', 3)",
  undo: "SELECT job_dlq_partitions.undo()",
} as const;
const detach = (name: string, keep = "") => `SELECT job_dlq_partitions.detach('${name}', 30${keep})`;
const dropDetached = (name: string) => `SELECT job_dlq_partitions.drop_detached('${name}')`;
const keeping = ", p_keep => true";

const run = (statement: string, parameters: ReadonlyArray<unknown> = []) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(statement, [...parameters]));
const install = run(recipe);

/** The SQLSTATE and the message with which a statement fails. */
const refusalOf = (statement: string, scope?: ReturnType<typeof Client.tenant>) =>
  Effect.map(Effect.flip(scope === undefined ? run(statement) : scope(run(statement))), (error) => {
    assert.instanceOf(error, SqlError);
    const { code, message } = databaseError(error);
    return { code, message };
  });

const Place = S.Struct({ id: S.String, partition: S.String });
/** In which partition each letter of a tenant is. */
const places = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(
      sql`SELECT d.id, c.relname::text AS partition FROM job_dlq d JOIN pg_class c ON c.oid = d.tableoid WHERE d.app_id = ${appId} ORDER BY d.id`,
    );
    return yield* Effect.orDie(S.decodeUnknown(S.Array(Place))(rows));
  });

const Partition = S.Struct({
  name: S.String,
  lower: S.NullOr(S.DateFromSelf),
  upper: S.NullOr(S.DateFromSelf),
  isDefault: S.Boolean,
});
const partitions = Effect.gen(function* () {
  const rows = yield* run("SELECT * FROM job_dlq_partitions.partitions()");
  return yield* Effect.orDie(S.decodeUnknown(S.Array(Partition))(rows));
});

/** Dead letters whose ids are of `days` ago (or to come), as a restore or an import of old ones leaves them. */
const lettersOf = (appId: string, days: number, count: number, replayedDaysAgo?: number) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Client.system(sql`
      INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at)
      SELECT uuidv7(${-days}::int * interval '1 day'), uuidv7(), ${appId}, 'mail.send', '{"to":"a@example.com"}', 'MaxRetries', 3,
        '[{"error":"Error: no route","timestamp":1790000000000}]', now() - ${Math.max(days, 0)}::int * interval '1 day',
        now() - ${replayedDaysAgo ?? null}::int * interval '1 day'
      FROM generate_series(1, ${count}::int)`),
  );

const Content = S.Struct({ name: S.String, pending: S.NumberFromString, replayed: S.NumberFromString });

const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(effect));

/** Runs a statement; says how often it read the table from end to end. */
const scansDuring = (statement: string, oid: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    // What the connection did in earlier transactions may still be among it.
    const count = Effect.gen(function* () {
      const rows =
        yield* sql`SELECT COALESCE(sum(seq_scan), 0)::int AS scans FROM pg_stat_xact_all_tables WHERE relid = ${oid}::int::oid`;
      const [{ scans }] = yield* Effect.orDie(S.decodeUnknown(S.Tuple(S.Struct({ scans: S.Int })))(rows));
      return scans;
    });
    return yield* transaction(
      Effect.gen(function* () {
        const before = yield* count;
        yield* run(statement);
        return (yield* count) - before;
      }),
    );
  });
const oidOf = (table: string) =>
  Effect.gen(function* () {
    const rows = yield* run(`SELECT '${table}'::regclass::oid::int AS oid`);
    const [{ oid }] = yield* Effect.orDie(S.decodeUnknown(S.Tuple(S.Struct({ oid: S.Int })))(rows));
    return oid;
  });

// --- what the application does meanwhile ---------------------------------------

/** What a writer did, in numbers, and the ids that it knows to be there in the end. */
interface Done {
  inserted: number;
  submitted: number;
  readonly pending: Array<string>;
  readonly replayed: Array<string>;
}

/** Four callers of a tenant that go round until told to stop. Each round is a token in `rounds`; a failure ends the fiber. */
const writers = (appId: string, rounds: Queue.Enqueue<string>, stop: Deferred.Deferred<void>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const done: Done = { inserted: 0, submitted: 0, pending: [], replayed: [] };
    const mine = Client.tenant(appId);
    const bulk = Effect.gen(function* () {
      const count = yield* mine(db.jobDlq.insertMany([letter(appId), letter(appId), letter(appId)]));
      done.inserted += count;
    });
    const replaying = Effect.gen(function* () {
      const dead = yield* deadJob(appId);
      done.inserted += 1;
      done.submitted += 1;
      const receipts = yield* mine(db.jobDlq.replay([dead.id], { actor }));
      assert.deepStrictEqual(
        receipts.map(({ outcome }) => outcome),
        ["replayed"],
      );
      done.replayed.push(dead.id);
    });
    const discarding = Effect.gen(function* () {
      const { id } = yield* mine(db.jobDlq.insert(letter(appId)));
      done.inserted += 1;
      const [taken] = yield* mine(db.jobDlq.discard([id], { actor, reason: "not needed" }));
      assert.isTrue(Option.isNone(yield* mine(db.jobDlq.get(id))));
      const [back] = yield* mine(db.jobDlq.restore([taken?.eventId ?? ""], { actor }));
      assert.strictEqual(back?.outcome, "restored");
      done.pending.push(id);
    });
    const listing = Effect.gen(function* () {
      const first = yield* mine(db.jobDlq.pagePending({ limit: 20 }));
      if (Option.isSome(first.next)) yield* mine(db.jobDlq.pagePending({ limit: 20, cursor: first.next.value }));
      for (const one of first.items) assert.strictEqual(one.appId, appId);
    });
    const goRound = <E, R>(name: string, round: Effect.Effect<void, E, R>) =>
      round.pipe(
        Effect.zipRight(Queue.offer(rounds, name)),
        Effect.repeat({ until: () => Deferred.isDone(stop) }),
        Effect.mapError((error) => new Error(`${name}: ${String(error)}`)),
      );
    yield* Effect.all(
      [
        goRound("bulk", bulk),
        goRound("replaying", replaying),
        goRound("discarding", discarding),
        goRound("listing", listing),
      ],
      { concurrency: "unbounded", discard: true },
    );
    return done;
  });

interface Told {
  readonly before: Schema;
  readonly after: Schema;
  readonly tenants: ReadonlyArray<{ readonly appId: string; readonly done: Done }>;
  /** Letters that each tenant had before. */
  readonly old: number;
  /** A letter with an id of no time at all, discarded before and restored after. */
  readonly strayId: string;
  readonly strayTenant: string;
  readonly scans: { readonly validate: number; readonly swap: number };
}
class Story extends Context.Tag("PartitioningStory")<Story, Told>() {}

const story = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const old = isFull ? 48_000 : 1_500;
  const appIds = [yield* newTenant, yield* newTenant];
  for (const appId of appIds) {
    yield* lettersOf(appId, 100, old / 3);
    yield* lettersOf(appId, 40, old / 3);
    yield* lettersOf(appId, 1, old / 3);
  }
  const before = yield* read;
  yield* install;

  // What it refuses, before anything has happened.
  assert.include(yield* refusalOf(calls.validate), { code: "42704" });
  yield* run("CREATE VIEW stray AS SELECT id FROM job_dlq");
  const dependent = yield* refusalOf(calls.prepare);
  assert.strictEqual(dependent.code, "2BP01");
  assert.include(dependent.message, "view public.stray");
  yield* run("DROP VIEW stray");
  const strayTenant = yield* newTenant;
  const strayId = "ffffffff-ffff-4fff-bfff-ffffffffffff";
  yield* lettersOf(strayTenant, 0, 1);
  yield* Client.system(sql`UPDATE job_dlq SET id = ${strayId} WHERE app_id = ${strayTenant}`);
  const beyond = yield* refusalOf(calls.prepare);
  assert.strictEqual(beyond.code, "23514", beyond.message);
  assert.include(beyond.message, strayId);
  const [stray] = yield* Client.tenant(strayTenant)(
    db.jobDlq.discard([strayId], { actor, reason: "until it is partitioned" }),
  );
  // A first try, given up.
  yield* run(calls.prepare);
  yield* run(calls.abandon);
  assert.deepStrictEqual(differences(before, yield* read), []);

  const rounds = yield* Queue.unbounded<string>();
  const stop = yield* Deferred.make<void>();
  const working = yield* Effect.forEach(appIds, (appId) => Effect.fork(writers(appId, rounds, stop)));
  /** Both tenants' writers have gone round often since. A writer that failed ends this with its error. */
  const meanwhile = Effect.gen(function* () {
    yield* Queue.takeAll(rounds);
    yield* Effect.raceFirst(Queue.takeN(rounds, isFull ? 400 : 16), Effect.raceAll(working.map(Fiber.join)));
  });
  yield* meanwhile;
  yield* run(calls.prepare);
  yield* meanwhile;
  const oid = yield* oidOf("public.job_dlq");
  assert.include(yield* refusalOf("SELECT job_dlq_partitions.swap()"), { code: "55000" }, "not yet validated");
  const validate = yield* scansDuring(calls.validate, oid);
  yield* meanwhile;

  // Somebody's transaction is in the way for long: the swap gives up, and nothing has changed.
  const held = yield* Deferred.make<void>();
  const release = yield* Deferred.make<void>();
  const holder = yield* Effect.fork(
    transaction(
      Effect.gen(function* () {
        yield* sql`SELECT FROM job_dlq LIMIT 1`;
        yield* Deferred.succeed(held, undefined);
        yield* Deferred.await(release);
      }),
    ),
  );
  yield* Deferred.await(held);
  assert.include(yield* refusalOf("SELECT job_dlq_partitions.swap(p_tries => 1)"), { code: "55P03" });
  yield* meanwhile;
  yield* Deferred.succeed(release, undefined);
  yield* Fiber.join(holder);

  const swap = yield* scansDuring(calls.swap, oid);
  yield* meanwhile;
  yield* run(calls.analyze);
  yield* meanwhile;
  yield* Deferred.succeed(stop, undefined);
  const done = yield* Effect.forEach(working, Fiber.join);
  yield* Client.tenant(strayTenant)(db.jobDlq.restore([stray?.eventId ?? ""], { actor }));
  return Story.of({
    before,
    after: yield* read,
    tenants: appIds.map((appId, i) => ({ appId, done: done[i] as Done })),
    old,
    strayId,
    strayTenant,
    scans: { validate, swap },
  });
});

const Partitioned = Layer.effect(Story, story).pipe(Layer.provideMerge(TestDatabase));

const PlanNode = S.Struct({
  "Node Type": S.String,
  "Relation Name": S.optional(S.String),
  "Index Name": S.optional(S.String),
  "Subplans Removed": S.optional(S.Int),
  Plans: S.optional(S.Array(S.suspend((): S.Schema<PlanNode> => PlanNode))),
});
interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string | undefined;
  readonly "Index Name"?: string | undefined;
  readonly "Subplans Removed"?: number | undefined;
  readonly Plans?: ReadonlyArray<PlanNode> | undefined;
}
const nodesOf = (node: PlanNode): ReadonlyArray<PlanNode> => [node, ...(node.Plans ?? []).flatMap(nodesOf)];
const explained = (statement: string) =>
  Effect.gen(function* () {
    const rows = yield* run(`EXPLAIN (FORMAT JSON) ${statement}`);
    const decode = S.decodeUnknown(
      S.Tuple(S.Record({ key: S.String, value: S.parseJson(S.Tuple(S.Struct({ Plan: PlanNode }))) })),
    );
    const [row] = yield* Effect.orDie(decode(rows));
    return Object.values(row).flatMap(([{ Plan }]) => nodesOf(Plan));
  });

layer(Partitioned, { excludeTestServices: true, timeout: "5 minutes" })(
  "a job_dlq that was partitioned in use",
  (it) => {
    it.effect("has lost nothing, and has nothing twice", () =>
      Effect.gen(function* () {
        const { old, tenants } = yield* Story;
        for (const { appId, done } of tenants) {
          assert.isAbove(done.submitted, 10);
          const terms = yield* balance({
            appId,
            inserted: old + done.inserted,
            submitted: done.submitted,
            purgedJobs: 0,
          });
          assert.strictEqual(terms.replayed, done.replayed.length);
          assert.strictEqual(terms.discarded, terms.restored);
          yield* eachOnce(appId);
          const found = yield* places(appId);
          assert.lengthOf(found, old + done.inserted);
          assert.lengthOf(new Set(found.map(({ id }) => id)), found.length);
          assert.includeMembers(
            found.map(({ id }) => id),
            [...done.pending, ...done.replayed],
          );
        }
      }),
    );

    it.effect("differs from the table of before only in being partitioned", () =>
      Effect.gen(function* () {
        const { after, before } = yield* Story;
        const comparable = (schema: Schema): Schema =>
          JSON.parse(
            JSON.stringify(schema)
              .replaceAll('"partitioned table job_dlq"', '"table job_dlq"')
              .replaceAll(" ON ONLY public.job_dlq ", " ON public.job_dlq "),
          );
        // Each of its parts has them; it cannot.
        const { options, ...table } = before["table job_dlq"] as { readonly options: ReadonlyArray<string> };
        assert.isNotEmpty(options);
        const expected = { ...before, "table job_dlq": table };
        assert.deepStrictEqual(differences(expected, comparable(after)), []);
        assert.deepStrictEqual(
          yield* run(
            "SELECT count(*) = count(*) FILTER (WHERE reloptions = $1::text[]) AND count(*) > 3 AS same FROM pg_partition_tree('job_dlq') t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf",
            [options],
          ),
          [{ same: true }],
        );
        assert.property(after, "partitioned table job_dlq");
        // Counter-test: the comparison sees what a partitioned table may lack.
        const { "policy job_dlq.job_dlq_tenant": _, ...without } = comparable(after);
        assert.lengthOf(differences(expected, without), 1);
        assert.deepStrictEqual(
          yield* run(
            "SELECT count(*)::int AS open FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname = 'job_dlq' AND NOT i.indisvalid",
          ),
          [{ open: 0 }],
        );
        for (const { appliedAt, id } of yield* Migrator.status()) assert.isNotNull(appliedAt, String(id));
      }),
    );

    it.effect("became so without reading the table while nobody could use it", () =>
      Effect.gen(function* () {
        const { scans } = yield* Story;
        assert.deepStrictEqual(scans, { validate: 1, swap: 0 });
      }),
    );

    it.effect("puts a letter into the partition of its id's time, and one of no time into the default one", () =>
      Effect.gen(function* () {
        const { strayId, strayTenant } = yield* Story;
        const found = yield* partitions;
        assert.lengthOf(found, 5);
        const [before, first, second, third, rest] = found;
        assert.isTrue(rest?.isDefault);
        assert.deepStrictEqual(yield* places(strayTenant), [{ id: strayId, partition: "p_default" }]);
        const appId = yield* newTenant;
        const days = (upper: Date | null | undefined) =>
          -Math.ceil(((upper?.getTime() ?? 0) - Date.now()) / 86_400_000);
        yield* lettersOf(appId, 400, 1);
        yield* lettersOf(appId, 0, 1);
        for (const one of [before, first, second, third]) yield* lettersOf(appId, days(one?.upper) - 1, 1);
        assert.deepStrictEqual(
          (yield* places(appId)).map(({ partition }) => partition),
          [before, before, first, second, third, rest].map((_) => _?.name ?? ""),
        );
        // A new one by its default, and its listeners hear of it.
        const db = yield* DatabaseService;
        const { id } = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
        assert.deepInclude(yield* places(appId), { id, partition: before?.name ?? "" });
      }),
    );

    it.effect("keeps tenants apart, and its partitions to itself", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [mine, other] = [yield* newTenant, yield* newTenant];
        const theirs = yield* Client.tenant(other)(db.jobDlq.insert(letter(other)));
        yield* lettersOf(other, -40, 1);
        yield* Client.tenant(mine)(
          Effect.gen(function* () {
            assert.strictEqual(yield* db.jobDlq.count({}), 0);
            assert.isTrue(Option.isNone(yield* db.jobDlq.get(theirs.id)));
          }),
        );
        const foreign = yield* Effect.exit(Client.tenant(mine)(db.jobDlq.insert(letter(other))));
        assert.isTrue(Exit.isFailure(foreign));
        for (const { name } of yield* partitions) {
          for (const scope of [Client.tenant(other), Client.system]) {
            assert.strictEqual((yield* refusalOf(`SELECT FROM job_dlq_partitions.${name}`, scope)).code, "42501");
          }
        }
        assert.deepStrictEqual(
          yield* run(`
            SELECT count(*)::int AS open FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
            WHERE i.inhparent = 'job_dlq'::regclass AND NOT (c.relrowsecurity AND c.relforcerowsecurity)`),
          [{ open: 0 }],
        );
      }),
    );

    it.effect("does everything that people do with dead letters, across partitions", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const mine = Client.tenant(appId);
        const scope = { _tag: "tenant", appId } as const;
        const since = yield* db.jobDlq.changesPosition();
        const userId = randomUUID();
        const [a, b, c] = [yield* deadJob(appId), yield* deadJob(appId), yield* deadJob(appId)];
        // Half of a tenant's letters are of another partition.
        yield* lettersOf(appId, -40, 3);
        const later = (yield* places(appId)).slice(-3).map(({ id }) => id);
        assert.strictEqual((yield* mine(db.jobDlq.preview({ all: true }))).count, 6);
        assert.strictEqual((yield* mine(db.jobDlq.groups({})))[0]?.count, 3);
        const first = yield* mine(db.jobDlq.pagePending({ limit: 4 }));
        const second = yield* mine(
          db.jobDlq.pagePending({ limit: 4, ...(Option.isSome(first.next) ? { cursor: first.next.value } : {}) }),
        );
        assert.lengthOf(new Set([...first.items, ...second.items].map(({ id }) => id)), 6);
        const arrivals = yield* db.jobDlq
          .changes({ scope, after: since })
          .pipe(Stream.take(6), Stream.runCollect, Effect.map(Chunk.toReadonlyArray));
        assert.lengthOf(new Set(arrivals.map(({ position }) => position)), 6);

        const lines = yield* Stream.runCollect(db.jobDlq.exportTo({ all: true, state: "any" }, { scope })).pipe(
          Effect.map((_) => Chunk.toReadonlyArray(_).join("")),
        );
        const receipts = yield* mine(db.jobDlq.replay([a.id, ...later.slice(0, 1), randomUUID()], { actor }));
        assert.sameMembers(
          receipts.map(({ outcome }) => outcome),
          ["replayed", "replayed", "not found"],
        );
        const gone = [b.id, later[1] ?? ""];
        const taken = yield* mine(db.jobDlq.discard(gone, { actor, reason: "not needed" }));
        assert.strictEqual(yield* mine(db.jobDlq.count({})), 4);
        yield* mine(
          db.jobDlq.restore(
            taken.map(({ eventId }) => eventId ?? ""),
            { actor },
          ),
        );
        assert.strictEqual(yield* mine(db.jobDlq.count({})), 6);
        assert.deepStrictEqual(
          (yield* places(appId)).slice(-3).map(({ id }) => id),
          later,
        );

        // Replayed long ago: purged, with a receipt; then brought back by an import, under their ids.
        const sql = yield* SqlClient.SqlClient;
        yield* Client.system(
          sql`UPDATE job_dlq SET replayed_at = now() - interval '40 days' WHERE app_id = ${appId} AND id = ANY (${[a.id, ...later.slice(0, 2)]}::uuid[])`,
        );
        assert.strictEqual(yield* mine(db.jobDlq.purge(30)), 3);
        yield* Client.system(sql`UPDATE job_dlq SET dlq_at = now() - interval '40 days' WHERE app_id = ${appId}`);
        yield* mine(db.jobDlq.retain({ pending: 30 }, { actor }));
        assert.strictEqual(yield* mine(db.jobDlq.count({})), 0);
        const progress = Chunk.toReadonlyArray(
          yield* Stream.runCollect(db.jobDlq.importFrom(Stream.make(lines), { actor, scope })),
        ).at(-1);
        assert.deepInclude(progress, { lines: 6, refused: 2, imported: 4 });
        assert.deepStrictEqual(
          (yield* places(appId)).map(({ id }) => id),
          [b.id, c.id, later[1], later[2]],
        );
        yield* Client.system(sql`UPDATE job_dlq SET user_id = ${userId} WHERE app_id = ${appId}`);
        yield* mine(db.jobDlq.erase({ userId }, { actor }));
        assert.strictEqual(yield* mine(db.jobDlq.count({})), 0);
      }),
    );

    it.effect("finds an id in its partition alone, and pages by the index of each", () =>
      Effect.gen(function* () {
        const { tenants } = yield* Story;
        const { appId, done } = tenants[0] as Told["tenants"][number];
        const [before] = yield* partitions;
        const byId = yield* Client.tenant(appId)(explained(`SELECT * FROM job_dlq WHERE id = '${done.pending[0]}'`));
        const tables = (nodes: ReadonlyArray<PlanNode>) => [...new Set(nodes.flatMap((_) => _["Relation Name"] ?? []))];
        assert.deepStrictEqual(tables(byId), [before?.name]);
        assert.isTrue(byId.some((_) => _["Index Name"] === "job_dlq_pkey"));
        const small = yield* newTenant;
        yield* lettersOf(small, 10, 300);
        yield* lettersOf(small, -40, 300);
        yield* run(calls.analyze);
        const pending = yield* Client.tenant(small)(
          explained("SELECT * FROM job_dlq WHERE replayed_at IS NULL ORDER BY dlq_at DESC, id DESC LIMIT 10"),
        );
        assert.isAbove(tables(pending).length, 1, "counter-test: a time is not an id");
        assert.isTrue(pending.some((_) => _["Node Type"] === "Merge Append"));
        assert.deepStrictEqual(
          pending.filter((_) => _["Relation Name"] === before?.name).map((_) => [_["Node Type"], _["Index Name"]]),
          [["Index Scan", "idx_job_dlq_pending"]],
        );
      }),
    );

    it.effect("has in each partition the indexes that serve a call", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const { tenants } = yield* Story;
        const { appId, done } = tenants[0] as Told["tenants"][number];
        const dead = yield* deadJob(appId);
        const serving: ReadonlyArray<readonly [index: string, call: Effect.Effect<unknown, unknown>]> = [
          ["idx_job_dlq_pending_fingerprint", db.jobDlq.preview({ fingerprint: randomUUID() })],
          ["idx_job_dlq_original_job", db.jobDlq.history(dead.originalJobId)],
          ["job_dlq_pkey", db.jobDlq.replay([dead.id], { actor })],
          ["job_dlq_pkey", db.jobDlq.discard([done.pending[0] ?? ""], { actor, reason: "x" })],
          ["idx_job_dlq_user", db.jobDlq.erase({ userId: randomUUID() }, { actor })],
          ["idx_job_dlq_replayed", db.jobDlq.retain({ replayed: 30 }, { actor })],
          ["idx_job_dlq_arrived", arrivals(sql, { arrived: "1", id: dead.id, start: "" }, 100)],
        ];
        /** The indexes of the first partition in the plans of what a call sends. */
        const used = (call: Effect.Effect<unknown, unknown>, before: Effect.Effect<unknown, unknown> = Effect.void) =>
          undone(
            Effect.gen(function* () {
              const { sent } = yield* undone(statementsOf(Client.tenant(appId)(call)));
              yield* before;
              yield* sql`SET LOCAL enable_seqscan = off`;
              const plans = yield* Effect.forEach(
                sent.filter(({ text }) => /\bjob_dlq\b/.test(text)),
                ({ parameters, text }) =>
                  Client.tenant(appId)(sql.unsafe(`EXPLAIN (COSTS OFF) ${text}`, [...parameters])),
              );
              const lines = plans.flatMap((rows) => rows.flatMap((row) => Object.values(row).map(String)));
              return lines.flatMap((line) => /(?:using|Bitmap Index Scan on) (\w+)/.exec(line)?.[1] ?? []);
            }),
          );
        for (const [index, call] of serving) assert.include(yield* used(call), index);
        const history = db.jobDlq.history(dead.originalJobId);
        assert.notInclude(yield* used(history, sql`DROP INDEX idx_job_dlq_original_job`), "idx_job_dlq_original_job");
      }),
    );

    it.effect("says what each partition holds", () =>
      Effect.gen(function* () {
        const rows = yield* Effect.flatMap(run(calls.contents), S.decodeUnknown(S.Array(Content)));
        const names = (yield* partitions).map(({ name }) => name);
        assert.sameMembers(
          rows.map(({ name }) => name),
          names,
        );
        const { tenants } = yield* Story;
        assert.isAbove(rows.find(({ name }) => name === names[0])?.pending ?? 0, tenants[0]?.done.inserted ?? 0);
      }),
    );
  },
);

// --- months later, as an owner that is no superuser ----------------------------

/** An empty, migrated database that belongs to a login without any special right, and the service for that login. */
const owned = Effect.gen(function* () {
  const server = Redacted.make(inject("serverUrl"));
  const name = `owner_${randomUUID().slice(0, 8)}`;
  const administer = (statement: string) =>
    Effect.orDie(Effect.provide(run(statement), Client.layer({ url: server, maxConnections: 1 })));
  yield* Effect.acquireRelease(administer(`CREATE ROLE ${name} LOGIN PASSWORD 'secret' NOINHERIT`), () =>
    administer(`DROP ROLE ${name}`),
  );
  yield* administer(`GRANT parametric_tenant, parametric_system TO ${name} WITH INHERIT FALSE, SET TRUE`);
  const url = yield* Databases.empty(server);
  yield* administer(`ALTER DATABASE ${new URL(Redacted.value(url)).pathname.slice(1)} OWNER TO ${name}`);
  const login = urlAs(url, name, "secret");
  const context = yield* Layer.build(
    DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url: login, maxConnections: 4 }))),
  );
  yield* Effect.provide(Migrator.run(), context);
  yield* Effect.provide(install, context);
  return context;
});

/** Instead of waiting: the table of before makes room for the partitions of the three months before. */
const monthsLater = Effect.gen(function* () {
  yield* run(calls.prepare);
  yield* run(calls.validate);
  yield* run(calls.swap);
  const [before] = yield* partitions;
  yield* run(`
    DO $$
    DECLARE
      month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC') - interval '3 months';
      bound timestamp := (SELECT min(lower) AT TIME ZONE 'UTC' FROM job_dlq_partitions.partitions());
    BEGIN
      ALTER TABLE public.job_dlq DETACH PARTITION job_dlq_partitions.${before?.name};
      DROP TABLE job_dlq_partitions.${before?.name};
      WHILE month < bound LOOP
        PERFORM job_dlq_partitions.add_partition('public.job_dlq', month, month + interval '1 month');
        month := month + interval '1 month';
      END LOOP;
    END $$`);
});

describe("partitions of job_dlq, looked after by an owner without special rights", () => {
  it.scoped("are made ahead of time, also for letters that came before them", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        yield* monthsLater;
        const appId = yield* newTenant;
        // Near the end of a month those that were made reach over four months.
        yield* lettersOf(appId, -140, 2);
        const [early] = yield* places(appId);
        assert.strictEqual(early?.partition, "p_default");
        const before = (yield* partitions).length;
        assert.match(
          String(Object.values((yield* run("SELECT job_dlq_partitions.ahead('1 month', 6)"))[0] ?? {})),
          /^made p/,
        );
        assert.isAbove((yield* partitions).length, before);
        assert.notInclude(
          (yield* places(appId)).map(({ partition }) => partition),
          "p_default",
        );
        assert.deepStrictEqual(yield* run(calls.ahead), [{ ahead: "nothing to do" }]);
        // Partitions follow one another without a gap.
        const bounded = (yield* partitions).filter(({ isDefault }) => !isDefault);
        for (const [i, { lower }] of bounded.slice(1).entries())
          assert.deepStrictEqual(lower, bounded[i]?.upper ?? null);
      }).pipe(Effect.provide(yield* owned));
    }),
  );

  it.scoped("go when all of theirs was replayed long ago, with a receipt, and what is not stays", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const db = yield* DatabaseService;
        yield* monthsLater;
        const appId = yield* newTenant;
        yield* lettersOf(appId, 70, 4, 60);
        yield* lettersOf(appId, 70, 1, 3);
        yield* lettersOf(appId, 70, 2);
        const name = (yield* places(appId))[0]?.partition ?? "";
        assert.match(name, /^p2/);
        const [current] = (yield* partitions).filter(({ upper }) => upper !== null && upper.getTime() > Date.now());
        assert.include(yield* refusalOf(detach(current?.name ?? "")), { code: "22023" });
        assert.include(yield* refusalOf(detach("p_default")), { code: "22023" });
        assert.include(yield* refusalOf(dropDetached(name)), { code: "22023" });
        const refusal = yield* refusalOf(detach(name));
        assert.strictEqual(refusal.code, "55000");
        assert.match(refusal.message, /: 3 dead letters|detach: 3 dead letters/);
        assert.lengthOf(yield* places(appId), 7, "refused means untouched");
        yield* run(detach(name, keeping));
        assert.deepStrictEqual(
          (yield* places(appId)).map(({ partition }) => partition),
          ["p_default", "p_default", "p_default"],
        );
        yield* run(dropDetached(name));
        assert.isFalse((yield* partitions).some((_) => _.name === name));
        const events = yield* Client.tenant(appId)(
          Effect.flatMap(
            SqlClient.SqlClient,
            (sql) =>
              sql`SELECT kind, (detail ->> 'count')::int AS count, detail ->> 'partition' AS name FROM job_dlq_events`,
          ),
        );
        assert.deepStrictEqual(events, [{ kind: "purged", count: 4, name }]);
        yield* balance({ appId, inserted: 7, submitted: 0, purgedJobs: 0 });
        // What stayed is as it was: pending, in its tenant, to be replayed.
        const kept = yield* Client.tenant(appId)(db.jobDlq.listPending({}));
        assert.lengthOf(kept, 2);
        const receipts = yield* Client.tenant(appId)(db.jobDlq.replay([kept[0]?.id ?? ""], { actor }));
        assert.deepStrictEqual(
          receipts.map(({ outcome }) => outcome),
          ["replayed"],
        );
      }).pipe(Effect.provide(yield* owned));
    }),
  );

  it.scoped("become one table again, as it was before", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const before = yield* read;
        const appId = yield* newTenant;
        yield* lettersOf(appId, 30, 5);
        yield* run(calls.prepare);
        yield* run(calls.validate);
        yield* run(calls.swap);
        yield* lettersOf(appId, 0, 1);
        yield* lettersOf(appId, -40, 2);
        yield* lettersOf(appId, -4000, 1);
        const ids = (yield* places(appId)).map(({ id }) => id);
        assert.lengthOf(ids, 9);
        assert.include(yield* refusalOf("SELECT job_dlq_partitions.undo(2)"), { code: "54000" });
        yield* run(calls.undo);
        assert.deepStrictEqual(differences(before, yield* read), []);
        assert.deepStrictEqual(
          yield* places(appId),
          ids.map((id) => ({ id, partition: "job_dlq" })),
        );
        const db = yield* DatabaseService;
        assert.lengthOf(yield* Client.tenant(appId)(db.jobDlq.listPending({})), 9);
        const seen = yield* db.jobDlq
          .changes({ scope: { _tag: "tenant", appId }, after: beginning })
          .pipe(Stream.take(9), Stream.runCollect);
        assert.lengthOf(Chunk.toReadonlyArray(seen), 9);
      }).pipe(Effect.provide(yield* owned));
    }),
  );
});

// --- the page, and everything else ---------------------------------------------

describe("docs/scale.md", () => {
  it("says the calls that are tested here, in their order", () => {
    const said = [...page.matchAll(/`((?:SELECT|ANALYZE) [^`]+)`/g)].map(([, call]) => call);
    assert.deepStrictEqual(said, [
      calls.contents,
      calls.prepare,
      calls.validate,
      calls.swap,
      calls.analyze,
      calls.abandon,
      calls.ahead,
      detach("p20270101"),
      detach("p20270101", keeping),
      dropDetached("p20270101"),
      calls.undo,
    ]);
  });
});

describe("the tests of dead letters", () => {
  it.runIf(isFull)(
    "pass on a partitioned job_dlq too",
    () =>
      Effect.runPromise(
        succeed(
          "node",
          [
            "node_modules/vitest/vitest.mjs",
            "run",
            "--root",
            "packages/database",
            "--config",
            "test/support/partitioned.config.ts",
            // It compares a plan with the name of the table.
            "--testNamePattern",
            "^(?!.*looks by its index)",
          ],
          { env: { DATABASE_URL: inject("serverUrl"), POSTGRES_PROVIDER: "url", TEST_FULL: "" } },
        ).pipe(Effect.scoped),
      ),
    1_800_000,
  );
});
