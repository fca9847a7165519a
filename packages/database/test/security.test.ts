/**
 * Attacks on the package: from one tenant to another by every method, by what ids and errors tell, by SQL of one's own inside a scope,
 * and by texts that want to be SQL. What each result means for a deployment is on docs/threat-model.md.
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { SqlError } from "@effect/sql/SqlError";
import * as PgClient from "@effect/sql-pg/PgClient";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { databaseError } from "../src/sql-state.js";
import {
  attempts,
  guardedTwice,
  harmless,
  lineOf,
  methodsOf,
  nobody,
  rowsOf,
  somebody,
  wordsOf,
} from "./support/attempts.js";
import { deadJob, newLogin, newTenant, TestDatabase, withLogin } from "./support/database.js";
import { root } from "./support/process.js";
import { statementsOf } from "./support/statements.js";

type Login = Context.Context<DatabaseService | SqlClient.SqlClient | PgClient.PgClient>;

/** A process that is a member of the tenants' role and of nothing else. */
const tenantOnly = withLogin("parametric_tenant") as Effect.Effect<
  Login,
  unknown,
  Effect.Effect.Context<ReturnType<typeof withLogin>>
>;

/** What is called outside every scope, and what it says inside one. */
const outsideScopes: Readonly<Record<string, string>> = {
  "jobDlq.changes": "ScopeConflict",
  "jobDlq.changesPosition": "is inside a transaction",
};

/** Which methods tell a tenant something of another one, or change something there. */
const leaks = Effect.gen(function* () {
  const login = yield* tenantOnly;
  const db = yield* Effect.provide(DatabaseService, login);
  const found: Array<string> = [];
  for (const [method, tries] of Object.entries(attempts)) {
    for (const [place, attempt] of tries.entries()) {
      const tell = (them: Effect.Effect.Success<typeof nobody>) =>
        Effect.gen(function* () {
          const me = yield* newTenant;
          const inside = method in outsideScopes ? <A, E, R>(_: Effect.Effect<A, E, R>) => _ : Client.tenant(me);
          const exit = yield* Effect.exit(Effect.provide(inside(attempt(db, them, me)), login));
          return wordsOf(exit, them, me);
        });
      const unknown = yield* Effect.flatMap(nobody, tell);
      const them = yield* somebody;
      const before = yield* rowsOf(them.app);
      const known = yield* tell(them);
      if (known !== unknown) found.push(`${method} ${place}: ${known} is not ${unknown}`);
      const after = yield* rowsOf(them.app);
      if (JSON.stringify(after) !== JSON.stringify(before))
        found.push(`${method} ${place}: changed what is not its own`);
    }
  }
  return found;
});

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("a login that may be tenants only", (it) => {
  it.effect("is tried with every method that there is", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      assert.deepStrictEqual(Object.keys(attempts).sort(), [...methodsOf(db)].sort());
      for (const [name, tries] of Object.entries(attempts)) assert.isNotEmpty(tries, name);
    }),
  );

  it.scoped("is told of another tenant's ids what it is told of ids that nobody has, and changes nothing there", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* leaks, []);
    }),
  );

  it.scoped("gets into the system scope by no method, and does nothing outside every scope", () =>
    Effect.gen(function* () {
      const login = yield* tenantOnly;
      const db = yield* Effect.provide(DatabaseService, login);
      const me = yield* newTenant;
      const them = yield* somebody;
      const before = yield* rowsOf(them.app);
      const system = { _tag: "system" } as const;
      for (const [method, tries] of Object.entries(attempts)) {
        for (const attempt of tries) {
          const exit = yield* Effect.exit(Effect.provide(Client.system(attempt(db, them, me)), login));
          assert.isTrue(Exit.isFailure(exit), method);
          assert.include(
            wordsOf(exit, them, me),
            outsideScopes[method] ?? 'permission denied to set role \\"parametric_system\\"',
            method,
          );
          if (method === "withTransaction" || method in outsideScopes) continue;
          const outside = yield* Effect.exit(Effect.provide(attempt(db, them, me), login));
          assert.match(wordsOf(outside, them, me), /^\{"failed":\[.*permission denied for/, method);
        }
      }
      // Those that open a scope themselves.
      const all = <A, E, R>(stream: Stream.Stream<A, E, R>) => Stream.runCollect(stream);
      const by = { actor: "mine", reason: "mine", scope: system } as const;
      const opening: Readonly<Record<string, Effect.Effect<unknown, unknown, SqlClient.SqlClient>>> = {
        replay: all(db.jobDlq.replay({ all: true }, by)),
        discard: all(db.jobDlq.discard({ all: true }, by)),
        retain: db.jobDlq.retain({ replayed: 0, pending: 1, discarded: 0 }, by),
        exportTo: all(db.jobDlq.exportTo({ all: true }, { scope: system })),
        importFrom: all(db.jobDlq.importFrom(Stream.make(lineOf(them.app, randomUUID(), randomUUID())), by)),
        changes: all(db.jobDlq.changes({ scope: system, after: them.position })),
      };
      for (const [name, effect] of Object.entries(opening)) {
        const exit = yield* Effect.exit(Effect.provide(effect, login));
        assert.include(wordsOf(exit, them, me), "permission denied to set role", name);
      }
      assert.deepStrictEqual(yield* rowsOf(them.app), before);
    }),
  );

  it.scoped(
    "finds nothing by how much is done for it: as many statements, and of a foreign id one row more is looked at",
    () =>
      Effect.gen(function* () {
        const login = yield* tenantOnly;
        const db = yield* Effect.provide(DatabaseService, login);
        const sql = yield* Effect.provide(SqlClient.SqlClient, login);
        const [me, them, noOne] = [yield* newTenant, yield* somebody, yield* nobody];
        for (const [method, tries] of Object.entries(attempts)) {
          if (method in outsideScopes) continue;
          for (const attempt of tries) {
            const texts = (target: typeof noOne) =>
              Effect.provide(statementsOf(Effect.exit(Client.tenant(me)(attempt(db, target, me)))), login).pipe(
                Effect.map(({ sent }) => sent.map(({ text }) => text)),
              );
            assert.deepStrictEqual(yield* texts(them), yield* texts(noOne), method);
          }
        }
        // What the server does inside a statement: row-level security reads the row to find that it is foreign.
        const looked = (table: string, id: string) =>
          Effect.map(
            Client.tenant(me)(
              sql.unsafe(
                `EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, COSTS OFF, BUFFERS OFF, FORMAT JSON) SELECT * FROM ${table} WHERE id = $1::uuid`,
                [id],
              ),
            ),
            (rows) => {
              const text = JSON.stringify(rows);
              const number = (name: string) => Number(new RegExp(`${name}\\\\?":\\s*(\\d+)`).exec(text)?.[1] ?? 0);
              return { returned: number("Actual Rows"), removed: number("Rows Removed by Filter") };
            },
          ).pipe(Effect.provide(login));
        for (const [table, id] of [
          ["jobs", them.job],
          ["job_dlq", them.letter],
          ["job_dlq_events", them.event],
        ] as const) {
          assert.deepStrictEqual(yield* looked(table, randomUUID()), { returned: 0, removed: 0 }, table);
          assert.deepStrictEqual(yield* looked(table, id), { returned: 0, removed: 1 }, table);
        }
      }),
  );

  it.scoped("is refused alike whatever it names in what it writes: a foreign app, a job, a user", () =>
    Effect.gen(function* () {
      const login = yield* tenantOnly;
      const sql = yield* Effect.provide(SqlClient.SqlClient, login);
      const [me, them, noOne] = [yield* newTenant, yield* somebody, yield* nobody];
      const refusal = (statement: string, parameters: ReadonlyArray<unknown>) =>
        Effect.map(Effect.flip(Client.tenant(me)(sql.unsafe(statement, parameters))), (error) =>
          error._tag === "SqlError" ? databaseError(error) : error,
        ).pipe(Effect.provide(login));
      for (const statement of [
        "INSERT INTO jobs (app_id, type, payload) VALUES ($1::uuid, 'x', '1')",
        "INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history) VALUES (uuidv7(), $1::uuid, 'x', '1', 'x', 1, '[]')",
        "INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor) VALUES ($1::uuid, uuidv7(), uuidv7(), 'viewed', 'x')",
        // Before the foreign key and the unique index say anything.
        "INSERT INTO apps (id, name) VALUES ($1::uuid, 'x')",
        "DELETE FROM apps WHERE id = $1::uuid",
      ]) {
        const foreign = yield* refusal(statement, [them.app]);
        assert.deepStrictEqual(foreign, yield* refusal(statement, [noOne.app]), statement);
        assert.strictEqual("code" in foreign && foreign.code, "42501", statement);
      }
      // A key is its tenant's own: theirs does not stand in the way.
      yield* Client.tenant(them.app)(
        Effect.flatMap(
          SqlClient.SqlClient,
          (own) => own`INSERT INTO jobs (app_id, type, payload, dedupe_key) VALUES (${them.app}, 'x', '1', 'key')`,
        ),
      );
      const mine = sql`INSERT INTO jobs (app_id, type, payload, dedupe_key) VALUES (${me}, 'x', '1', 'key') RETURNING 1`;
      assert.lengthOf(yield* Effect.provide(Client.tenant(me)(mine), login), 1);
    }),
  );

  it.scoped("what an id of one's own choice tells: whether it is taken, and nothing more", () =>
    Effect.gen(function* () {
      const login = yield* tenantOnly;
      const db = yield* Effect.provide(DatabaseService, login);
      const me = yield* newTenant;
      const them = yield* somebody;
      const before = yield* rowsOf(them.app);
      const inside = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) =>
        Effect.provide(Client.tenant(me)(effect), login);
      const imported = (id: string, job: string) =>
        inside(
          Effect.map(
            Stream.runLast(db.jobDlq.importFrom(Stream.make(lineOf(me, id, job)), { actor: "mine" })),
            Option.getOrThrow,
          ),
        );
      const [mine] = [randomUUID()];
      // The id of a letter is its key on the whole server: there is no import under a taken one.
      const [problem] = (yield* imported(them.letter, randomUUID())).problems;
      assert.strictEqual(problem?.reason, "id taken");
      assert.notInclude(JSON.stringify(problem), them.app);
      assert.strictEqual((yield* imported(mine, them.job)).imported, 1);
      // And so is the id of a job, which a replay would make.
      assert.deepStrictEqual(
        (yield* inside(db.jobDlq.replay([mine], { actor: "mine" }))).map(({ outcome }) => outcome),
        ["job not dead"],
      );
      const free = randomUUID();
      assert.strictEqual((yield* imported(free, randomUUID())).imported, 1);
      assert.deepStrictEqual(
        (yield* inside(db.jobDlq.replay([free], { actor: "mine" }))).map(({ outcome }) => outcome),
        ["replayed"],
      );
      assert.deepStrictEqual(yield* rowsOf(them.app), before);
      // Who knows the id of a purged job can take it first; its letter then waits, and nothing of it is lost.
      const purged = yield* deadJob(them.app);
      yield* Client.system(
        Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DELETE FROM jobs WHERE id = ${purged.originalJobId}`),
      );
      const squatter = randomUUID();
      yield* imported(squatter, purged.originalJobId);
      yield* inside(db.jobDlq.replay([squatter], { actor: "mine" }));
      const own = yield* DatabaseService;
      const [receipt] = yield* Client.tenant(them.app)(own.jobDlq.replay([purged.id], { actor: "theirs" }));
      assert.strictEqual(receipt?.outcome, "job not dead");
      assert.isTrue(Option.isSome(yield* Client.tenant(them.app)(own.jobDlq.get(purged.id))));
    }),
  );
});

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })(
  "counter-test, on a database of its own",
  (it) => {
    it.scoped(
      "where the policies let tenants see and write everything, every method that touches rows is found out",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          for (const table of ["apps", "jobs", "job_dlq", "job_dlq_events"]) {
            yield* sql.unsafe(`ALTER POLICY ${table}_tenant ON ${table} USING (true) WITH CHECK (true)`);
          }
          const found = new Set((yield* leaks).map((leak) => leak.split(" ")[0] ?? ""));
          assert.deepStrictEqual(
            [...found].sort(),
            Object.keys(attempts)
              .filter((name) => !harmless.includes(name) && !guardedTwice.includes(name))
              .sort(),
          );
        }),
    );
  },
);

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("SQL of one's own inside a scope", (it) => {
  /** One connection, which every scope of the process gets in turn, as from a pool. */
  const oneConnection = Effect.gen(function* () {
    const url = yield* newLogin("parametric_tenant");
    return yield* Layer.build(
      DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 1, idleTimeout: "1 hour" }))),
    );
  });
  const codeOf = <A, R>(effect: Effect.Effect<A, unknown, R>) =>
    Effect.map(Effect.flip(effect), (error) => (error instanceof SqlError ? databaseError(error).code : String(error)));
  const run = (statement: string, parameters: ReadonlyArray<unknown> = []) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(statement, parameters));
  const first = (statement: string) => Effect.map(run(statement), (rows) => Object.values(rows[0] ?? {})[0]);

  it.scoped("reaches another tenant by its setting, and never the system's role", () =>
    Effect.gen(function* () {
      const login = yield* oneConnection;
      const me = yield* newTenant;
      const them = yield* somebody;
      const inside = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient | DatabaseService>) =>
        Effect.provide(Client.tenant(me)(effect), login);
      for (const statement of [
        "SET ROLE parametric_system",
        "SELECT set_config('role', 'parametric_system', true)",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
        "DROP POLICY jobs_tenant ON jobs",
        "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT 1'",
        "GRANT parametric_system TO CURRENT_USER",
        "TRUNCATE job_dlq",
        "DELETE FROM job_dlq_events",
        "COPY jobs TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_authid",
        "UPDATE job_dlq_events SET actor = 'somebody else'",
      ]) {
        assert.strictEqual(yield* codeOf(inside(run(statement))), "42501", statement);
      }
      // row_security = off does not show more: it refuses.
      assert.strictEqual(
        yield* codeOf(inside(Effect.zipRight(run("SET LOCAL row_security = off"), run("SELECT * FROM jobs")))),
        "42501",
      );
      // Without its role the login owns nothing and sees nothing.
      assert.strictEqual(yield* codeOf(inside(Effect.zipRight(run("RESET ROLE"), run("SELECT * FROM jobs")))), "42501");
      // What the threat model says that it can: the tenant is a setting, and SQL may set it.
      assert.strictEqual(
        yield* inside(
          Effect.zipRight(
            run("SELECT set_config('app.current_tenant', $1, true)", [them.app]),
            first("SELECT count(*)::int FROM job_dlq"),
          ),
        ),
        2,
      );
      // And it ends with the scope.
      assert.strictEqual(yield* inside(first("SELECT count(*)::int FROM job_dlq")), 0);
    }),
  );

  it.scoped("leaves prepared statements on the connection, which go by the scope that executes them", () =>
    Effect.gen(function* () {
      const login = yield* oneConnection;
      const [a, b] = [yield* somebody, yield* somebody];
      yield* Effect.gen(function* () {
        const plans = ["force_generic_plan", "force_custom_plan", "auto"];
        yield* Client.tenant(a.app)(run("PREPARE letters AS SELECT DISTINCT app_id::text FROM job_dlq"));
        for (const plan of plans) {
          for (const { app } of [a, b, a]) {
            const seen = yield* Client.tenant(app)(
              Effect.zipRight(run(`SET LOCAL plan_cache_mode = ${plan}`), run("EXECUTE letters")),
            );
            assert.deepStrictEqual(
              seen.map((row) => Object.values(row)[0]),
              [app],
              plan,
            );
          }
        }
        // Outside every scope it is the login's, which sees nothing.
        assert.strictEqual(yield* codeOf(run("EXECUTE letters")), "42501");
      }).pipe(Effect.provide(login));
    }),
  );

  it.scoped("leaves behind what belongs to the session: a held cursor, a temporary table, a setting", () =>
    Effect.gen(function* () {
      const login = yield* oneConnection;
      const [a, b] = [yield* somebody, yield* somebody];
      yield* Effect.gen(function* () {
        // These are A's own rows, which A's SQL has put where whoever has the connection next finds them.
        yield* Client.tenant(a.app)(run("DECLARE held CURSOR WITH HOLD FOR SELECT app_id::text FROM job_dlq LIMIT 1"));
        assert.strictEqual(yield* Client.tenant(b.app)(first("FETCH 1 FROM held")), a.app);
        yield* Client.tenant(a.app)(run("CREATE TEMP TABLE kept AS SELECT app_id::text FROM job_dlq LIMIT 1"));
        assert.strictEqual(yield* Client.tenant(b.app)(first("SELECT app_id FROM kept")), a.app);
        // A temporary table stands before the true one of its name, on this connection.
        yield* Client.tenant(a.app)(run("CREATE TEMP TABLE job_dlq AS SELECT * FROM public.job_dlq WHERE false"));
        const db = yield* DatabaseService;
        assert.strictEqual(yield* Client.tenant(b.app)(db.jobDlq.count()), 0);
        // A role and a tenant that were set for the session are the connection's until a scope sets its own.
        yield* Client.tenant(a.app)(
          run("SELECT set_config('role', 'parametric_tenant', false), set_config('app.current_tenant', $1, false)", [
            a.app,
          ]),
        );
        assert.strictEqual(yield* first("SELECT current_tenant()::text"), a.app);
        assert.strictEqual(yield* Client.tenant(b.app)(first("SELECT current_tenant()::text")), b.app);
        assert.strictEqual(yield* codeOf(Client.system(Effect.void)), "42501");
      }).pipe(Effect.provide(login));
    }),
  );

  it.scoped("makes no temporary table where the administrator has taken that right away", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const login = yield* oneConnection;
      const me = yield* newTenant;
      const right = (change: string) =>
        sql.unsafe(`DO $$ BEGIN EXECUTE format('${change} PUBLIC', current_database()); END $$`);
      yield* Effect.acquireRelease(right("REVOKE TEMPORARY ON DATABASE %I FROM"), () =>
        Effect.orDie(right("GRANT TEMPORARY ON DATABASE %I TO")),
      );
      const made = Client.tenant(me)(run("CREATE TEMP TABLE job_dlq (id uuid)"));
      assert.strictEqual(yield* codeOf(Effect.provide(made, login)), "42501");
    }),
  );

  it.scoped("hears of others that something happened and not what, and may cry wolf", () =>
    Effect.gen(function* () {
      const login = yield* Layer.build(Client.layer({ url: yield* newLogin("parametric_tenant"), maxConnections: 4 }));
      const client = Context.get(login, PgClient.PgClient);
      const heard: Array<readonly [channel: string, payload: string]> = [];
      for (const channel of ["jobs", "job_dlq"] as const) {
        yield* Effect.forkScoped(
          Stream.runForEach(client.listen(channel), (payload) => Effect.sync(() => heard.push([channel, payload]))),
        );
      }
      const hears = (channel: string) => heard.some(([name]) => name === channel);
      // It hears itself as soon as it listens.
      yield* Effect.repeat(client`SELECT pg_notify('jobs', 'wolf'), pg_notify('job_dlq', 'wolf')`, {
        until: () => hears("jobs") && hears("job_dlq"),
      });
      const theirs = Effect.sync(() => heard.filter(([, payload]) => payload !== "wolf"));
      const them = yield* newTenant;
      yield* deadJob(them, { type: `secret.${them}` });
      const told = yield* Effect.repeat(Effect.zipLeft(theirs, Effect.sleep("5 millis")), {
        until: (all) => all.some(([name]) => name === "job_dlq"),
      });
      for (const [channel, payload] of told) assert.match(payload, channel === "jobs" ? /^[\d,]+$/ : /^[0-9a-f]{32}$/);
    }),
  );

  it.scoped(
    "sees what the server tells everybody: names, sizes, activity of its own login; no values of other tenants",
    () =>
      Effect.gen(function* () {
        const login = yield* oneConnection;
        const me = yield* newTenant;
        const them = yield* somebody;
        const sql = yield* SqlClient.SqlClient;
        yield* sql.unsafe("ANALYZE jobs; ANALYZE job_dlq");
        const inside = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) =>
          Effect.provide(Client.tenant(me)(effect), login);
        // Statistics hold values of all tenants; of a table with row-level security they are shown to nobody whom it holds.
        assert.strictEqual(
          yield* inside(first("SELECT count(*)::int FROM pg_stats WHERE tablename IN ('jobs', 'job_dlq')")),
          0,
        );
        assert.isAbove(
          Number(yield* first("SELECT count(*)::int FROM pg_stats WHERE tablename IN ('jobs', 'job_dlq')")),
          0,
        );
        const activity = yield* inside(
          first("SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE usename <> SESSION_USER"),
        );
        assert.match(String(activity), /^(<insufficient privilege> ?)+$/);
        // But how many rows all of them have, and how often anything was claimed on the server.
        assert.isAbove(Number(yield* inside(first("SELECT reltuples FROM pg_class WHERE relname = 'jobs'"))), 0);
        const fence = Number(yield* inside(first("SELECT nextval('job_fence')")));
        assert.isAbove(fence, Number(them.fence));
        // And a lock by number is anybody's, the migration runner's among them.
        assert.isTrue(yield* inside(first("SELECT pg_try_advisory_xact_lock(1)")));
      }),
  );
});

describe("docs/threat-model.md", () => {
  it("names tests that exist", () => {
    const text = readFileSync(join(root, "docs/threat-model.md"), "utf8");
    const named = [...text.matchAll(/`(\w+)\/([\w/-]+\.test\.ts)`(?:: ([^`;.|]+))?/g)];
    assert.isAbove(named.length, 20);
    for (const [, name = "", file = "", test] of named) {
      const source = readFileSync(join(root, "packages", name, "test", file), "utf8");
      if (test !== undefined) assert.include(source, test.trim(), `${name}/${file}`);
    }
  });
});
