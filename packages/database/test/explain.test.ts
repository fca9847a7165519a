import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Statement from "@effect/sql/Statement";
import { assert, describe, layer } from "@effect/vitest";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { databaseAt } from "./support/database.js";
import { undone } from "./support/undone.js";

/** Tenants by what makes their queries different. Ids. */
interface Tenants {
  /** Half of all dead letters. */
  readonly large: string;
  /** A few thousand of them, the second largest. */
  readonly medium: string;
  /** Fewer than a page. */
  readonly small: string;
  /** More than a page, all of them older than everybody else's: newest first they come last. */
  readonly quiet: string;
  /** None. */
  readonly none: string;
}
class Filled extends Context.Tag("Filled")<Filled, Tenants>() {}

const total = 100_000;
const ids = S.decodeUnknownSync(S.Array(S.Struct({ id: S.String })));

/** 100,000 dead letters of 200 tenants and 30,000 jobs, as the server's superuser, analyzed. */
const fill = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql`INSERT INTO apps (name) SELECT 'tenant ' || lpad(i::text, 3, '0') FROM generate_series(1, 201) i`;
  // The first tenant has every second row, the 200th the oldest 1,500; the others share the rest, by the cube of a spread number.
  yield* sql`
    WITH numbered AS (SELECT id, row_number() OVER (ORDER BY name) AS place FROM apps),
    rows AS (
      SELECT i, CASE
        WHEN i % 2 = 0 THEN 1
        WHEN i > ${total}::int - 3000 THEN 200
        ELSE 2 + floor(198 * power(((i::bigint * 7919) % 100003) / 100003.0, 3))::int END AS place
      FROM generate_series(1, ${total}::int) i)
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, request_id)
    SELECT uuidv7(), n.id, CASE WHEN i % 5000 = 3 THEN 'rare' ELSE 'type ' || i % 7 END,
      jsonb_build_object('number', i, 'text', repeat('x', 200)), 'MaxRetries', 3, '[{"error": "x", "timestamp": 1}]',
      now() - i * interval '1 second', CASE WHEN i % 3 = 0 THEN now() END, CASE WHEN i % 2 = 0 THEN uuidv7() END
    FROM rows JOIN numbered n USING (place)`;
  // Most jobs have ended, a few hundred of them long ago; some wait, some run, a few of those are lost.
  yield* sql`
    WITH numbered AS (SELECT id, row_number() OVER (ORDER BY name) AS place FROM apps),
    rows AS (SELECT i, CASE WHEN i % 10 = 0 THEN 'pending' WHEN i % 100 = 1 THEN 'processing' ELSE 'completed' END AS status
      FROM generate_series(1, 30000) i)
    INSERT INTO jobs (app_id, type, payload, status, completed_at, locked_by, locked_until)
    SELECT n.id, 'type ' || i % 7, jsonb_build_object('text', repeat('x', 100)), status,
      CASE status WHEN 'completed' THEN now() - CASE WHEN i % 100 = 2 THEN interval '90 days' ELSE interval '1 day' END END,
      CASE status WHEN 'processing' THEN 'runner' END,
      CASE status WHEN 'processing' THEN now() + CASE WHEN i % 1000 = 1 THEN -1 ELSE 1 END * interval '1 hour' END
    FROM rows JOIN numbered n ON n.place = 1 + i % 200`;
  yield* sql`ANALYZE apps`;
  yield* sql`ANALYZE job_dlq`;
  yield* sql`ANALYZE jobs`;
  const tenants = ids(
    yield* sql`
    SELECT a.id FROM apps a JOIN job_dlq d ON d.app_id = a.id GROUP BY a.id, a.name ORDER BY a.name = 'tenant 200', count(*) DESC, a.id`,
  );
  const [none] = ids(yield* sql`SELECT id FROM apps WHERE name = 'tenant 201'`);
  const at = (place: number) => tenants.at(place)?.id ?? "";
  return { large: at(0), medium: at(1), small: at(-2), quiet: at(-1), none: none?.id ?? "" };
});

// With the specified indexes alone; what later ones are for is shown beside the operations that they serve.
const FilledDatabase = Layer.effect(Filled, fill).pipe(Layer.provideMerge(databaseAt(2)));

const PlanNode = S.Struct({
  "Node Type": S.String,
  "Relation Name": S.optional(S.String),
  "Index Name": S.optional(S.String),
  Plans: S.optional(S.Array(S.suspend((): S.Schema<PlanNode> => PlanNode))),
});
interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string | undefined;
  readonly "Index Name"?: string | undefined;
  readonly Plans?: ReadonlyArray<PlanNode> | undefined;
}
const decodePlan = S.decodeUnknownSync(
  S.Tuple(S.Record({ key: S.String, value: S.parseJson(S.Tuple(S.Struct({ Plan: PlanNode }))) })),
);

const nodesOf = (node: PlanNode): ReadonlyArray<PlanNode> => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

/** Runs a call and explains each statement on job_dlq that it sent, with its parameters, where it was sent from. */
const explained = <A, E, R>(call: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const sent: Array<readonly [string, ReadonlyArray<unknown>]> = [];
    yield* Statement.withTransformer(call, (statement) => {
      sent.push(statement.compile());
      return Effect.succeed(statement);
    });
    const queries = sent.filter(([text]) => /\bFROM job_dlq\b/.test(text));
    assert.strictEqual(queries.length, 1, "the call is one query");
    // Who asks decides what is planned: the policies are a part of each query.
    assert.deepStrictEqual(yield* sql`SELECT CURRENT_USER::text AS role`, [{ role: "parametric_tenant" }]);
    const plans = yield* Effect.forEach(queries, ([text, parameters]) =>
      sql.unsafe(`EXPLAIN (FORMAT JSON) ${text}`, [...parameters]),
    );
    return plans.flatMap((rows) => Object.values(decodePlan(rows)[0]).flatMap(([{ Plan }]) => nodesOf(Plan)));
  });

/** What is wrong with a plan: nothing, when indexes reach job_dlq and it is never read as a whole. */
const complaints = (nodes: ReadonlyArray<PlanNode>): ReadonlyArray<string> => [
  ...nodes
    .filter((_) => _["Node Type"].includes("Seq Scan") && _["Relation Name"] === "job_dlq")
    .map((_) => `${_["Node Type"]} on job_dlq`),
  ...(nodes.some((_) => _["Index Name"]?.includes("job_dlq")) ? [] : ["no index"]),
];

const serving = ["idx_job_dlq_app_id_fk", "idx_job_dlq_dlq_at", "idx_job_dlq_type"];

layer(FilledDatabase, { excludeTestServices: true, timeout: "5 minutes" })("at 100,000 dead letters", (it) => {
  it.effect("the tenants are as skewed as they should be", () =>
    Effect.gen(function* () {
      const tenants = yield* Filled;
      const sql = yield* SqlClient.SqlClient;
      const [row] = yield* sql`
        SELECT count(*)::int AS rows, count(DISTINCT app_id)::int AS tenants, (count(*) FILTER (WHERE app_id = ${tenants.large}))::int AS large,
          (count(*) FILTER (WHERE app_id = ${tenants.small}))::int AS small, (count(*) FILTER (WHERE app_id = ${tenants.quiet}))::int AS quiet
        FROM job_dlq`;
      assert.deepStrictEqual(
        { ...row, small: Number(row?.small) < 100 },
        { rows: total, tenants: 200, large: total / 2, small: true, quiet: 1500 },
      );
    }),
  );

  const lists: ReadonlyArray<readonly [string, { readonly type?: string; readonly limit?: number }]> = [
    ["the first page", {}],
    ["a page of the greatest size", { limit: 1_000 }],
    ["one type", { type: "type 3" }],
    ["a rare type", { type: "rare" }],
    ["a type that there is not", { type: "unknown" }],
  ];

  /** The plans of every way to list what is pending, of one tenant; a complaint names the way. */
  const listings = (appId: string) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      return yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const found: Array<string> = [];
          const { next } = yield* db.jobDlq.pagePending({ limit: 10 });
          const cursor = Option.getOrUndefined(next);
          for (const [name, options] of lists) {
            for (const [method, call] of [
              ["listPending", db.jobDlq.listPending(options)],
              ["pagePending", db.jobDlq.pagePending(options)],
              [
                "pagePending after a cursor",
                db.jobDlq.pagePending({ ...options, ...(cursor === undefined ? {} : { cursor }) }),
              ],
            ] as const) {
              const nodes = yield* explained<unknown, unknown, never>(call);
              found.push(...complaints(nodes).map((_) => `${method}, ${name}: ${_}`));
            }
          }
          return found;
        }),
      );
    });

  for (const tenant of ["large", "medium", "small", "quiet", "none"] as const) {
    it.effect(`listPending and pagePending use an index and never read the whole table: ${tenant} tenant`, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* listings((yield* Filled)[tenant]), []);
      }),
    );
  }

  it.effect("counter-test: without the indexes that serve it each of these lists reads the whole table", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const tenants = yield* Filled;
      for (const appId of [tenants.large, tenants.small]) {
        const found = yield* undone(
          Effect.gen(function* () {
            for (const index of serving) yield* sql`DROP INDEX ${sql(index)}`;
            return yield* listings(appId);
          }),
        );
        for (const [name] of lists) {
          for (const method of ["listPending", "pagePending", "pagePending after a cursor"]) {
            assert.include(found, `${method}, ${name}: Seq Scan on job_dlq`);
            assert.include(found, `${method}, ${name}: no index`);
          }
        }
      }
    }),
  );

  describe("each index is used by what it is there for, and without it the table is read as a whole", () => {
    const emptyApp = Effect.gen(function* () {
      const db = yield* DatabaseService;
      return yield* Client.system(db.apps.insert({ name: `app ${randomUUID()}` }));
    });
    const deleteApp = Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const { id } = yield* emptyApp;
      yield* Client.system(sql`DELETE FROM apps WHERE id = ${id}`);
    });
    const call = <A, E>(use: (db: DatabaseService) => Effect.Effect<A, E, SqlClient.SqlClient>) =>
      Effect.asVoid(Effect.flatMap(DatabaseService, (db) => Client.system(use(db))));
    const cases: Readonly<
      Record<string, readonly [table: string, use: Effect.Effect<void, unknown, DatabaseService | SqlClient.SqlClient>]>
    > = {
      idx_job_dlq_app_id_fk: ["job_dlq", deleteApp],
      idx_job_dlq_dlq_at: ["job_dlq", call((db) => db.jobDlq.listPending())],
      idx_job_dlq_request: ["job_dlq", call((db) => db.jobDlq.find({ requestId: Option.some(randomUUID()) }))],
      // What jobDlq.listPending looked for before later indexes had types in another order.
      idx_job_dlq_type: [
        "job_dlq",
        Effect.flatMap(SqlClient.SqlClient, (sql) =>
          Client.system(sql`SELECT id FROM job_dlq WHERE replayed_at IS NULL AND type = 'rare'`),
        ),
      ],
      idx_jobs_app_id_fk: ["jobs", deleteApp],
      idx_jobs_due: ["jobs", call((db) => db.jobs.claim({ runner: "r", limit: 10 }))],
      idx_jobs_ended: ["jobs", call((db) => db.jobs.purge())],
      // What jobs.rescue looks for; the whole of it needs columns of a later migration.
      idx_jobs_lost: [
        "jobs",
        Effect.flatMap(
          SqlClient.SqlClient,
          (sql) =>
            sql`SELECT id FROM jobs WHERE status = 'processing' AND locked_until < now() ORDER BY locked_until, id LIMIT 100`,
        ),
      ],
    };

    it.effect("every index that serves no constraint is in this test's list", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const rows = yield* sql`
          SELECT indexname FROM pg_indexes WHERE schemaname = 'public'
          AND indexname NOT IN (SELECT conname FROM pg_constraint) ORDER BY indexname COLLATE "C"`;
        assert.deepStrictEqual(
          rows.map(({ indexname }) => indexname),
          Object.keys(cases),
        );
      }),
    );

    for (const [index, [table, use]] of Object.entries(cases)) {
      it.effect(index, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          /** How often a table (as a whole) or an index was read by an effect, as the server counts it. */
          const readings = (relation: string) =>
            Effect.gen(function* () {
              const count = Effect.map(
                sql`SELECT pg_stat_get_xact_numscans(to_regclass(${relation}))::int AS n`,
                (rows) => Number(rows[0]?.n),
              );
              const before = yield* count;
              yield* use;
              return (yield* count) - before;
            });
          assert.isAbove(yield* undone(readings(index)), 0, "the index is used");
          assert.strictEqual(yield* undone(readings(table)), 0, "the table is not read as a whole");
          const without = yield* undone(Effect.zipRight(sql`DROP INDEX ${sql(index)}`, readings(table)));
          assert.isAbove(without, 0, "without it, it is");
        }),
      );
    }
  });
});
