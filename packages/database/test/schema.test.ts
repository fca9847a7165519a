/**
 * What the schema of this release holds by itself, whatever its callers do: what migrations since 0002 added, and what they replaced.
 * Each is also shown to be what holds it, by taking it away. What 0001 and 0002 made is tested in migrations.test.ts.
 */
import { randomUUID } from "node:crypto";
import type * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import pg from "pg";
import { TestDatabase, TestUrl } from "./support/database.js";
import { as, attempt, execute } from "./support/raw.js";
import { undone } from "./support/undone.js";

const [a, b] = [randomUUID(), randomUUID()];

const job = (given: Readonly<Record<string, string>> = {}) => {
  const row: Record<string, string> = { app_id: `'${a}'`, type: "'t'", payload: "'{}'", ...given };
  return `INSERT INTO jobs (${Object.keys(row).join(", ")}) VALUES (${Object.values(row).join(", ")})`;
};
const letter = (given: Readonly<Record<string, string>> = {}) => {
  const row: Record<string, string> = {
    original_job_id: "uuidv7()",
    app_id: `'${a}'`,
    type: "'t'",
    payload: "'{}'",
    error_reason: "'MaxRetries'",
    attempts: "3",
    error_history: "'[]'",
    ...given,
  };
  return `INSERT INTO job_dlq (${Object.keys(row).join(", ")}) VALUES (${Object.values(row).join(", ")})`;
};
const line = (given: Readonly<Record<string, string>> = {}) => {
  const row: Record<string, string> = {
    app_id: `'${a}'`,
    dlq_id: "uuidv7()",
    original_job_id: "uuidv7()",
    kind: "'replayed'",
    actor: "'test'",
    ...given,
  };
  return `INSERT INTO job_dlq_events (${Object.keys(row).join(", ")}) VALUES (${Object.values(row).join(", ")})`;
};

/** Two tenants, each with a job, a dead letter and a line in the ledger. */
const fixture = execute(
  [
    ...[a, b].map((app) => `INSERT INTO apps (id, name) VALUES ('${app}', '${app}')`),
    ...[a, b].flatMap((app) => [job, letter, line].map((row) => row({ app_id: `'${app}'` }))),
  ].join("; "),
);

layer(TestDatabase, { excludeTestServices: true })("the schema of this release", (it) => {
  describe("row-level security of the ledger", () => {
    const count = Effect.map(execute("SELECT count(*)::int AS n FROM job_dlq_events"), (rows) => rows[0]?.n);
    const own = line();
    const foreign = line({ app_id: `'${b}'` });
    const policy = "job_dlq_events_tenant ON job_dlq_events";

    it.effect("job_dlq_events_tenant shows a tenant its own lines only; dropped or weakened, none or all", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          const seen = (broken: string) =>
            undone(
              Effect.gen(function* () {
                yield* execute(broken);
                return {
                  sees: yield* as("parametric_tenant", a, count),
                  nobody: yield* as("parametric_tenant", "", count),
                  own: yield* as("parametric_tenant", a, attempt(own)),
                  foreign: yield* as("parametric_tenant", a, attempt(foreign)),
                };
              }),
            );
          const held = { sees: 1, nobody: 0, own: "accepted", foreign: "42501" };
          assert.deepStrictEqual(yield* seen("SELECT 1"), held);
          assert.deepStrictEqual(yield* seen(`DROP POLICY ${policy}`), { ...held, sees: 0, own: "42501" });
          assert.deepStrictEqual(yield* seen(`ALTER POLICY ${policy} USING (true)`), { ...held, sees: 2, nobody: 2 });
          assert.deepStrictEqual(yield* seen(`ALTER POLICY ${policy} WITH CHECK (true)`), {
            ...held,
            foreign: "accepted",
          });
          assert.deepStrictEqual(yield* seen("ALTER TABLE job_dlq_events DISABLE ROW LEVEL SECURITY"), {
            sees: 2,
            nobody: 2,
            own: "accepted",
            foreign: "accepted",
          });
        }),
      ),
    );

    it.effect("job_dlq_events_system shows the system scope every line; dropped, none", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          assert.strictEqual(yield* as("parametric_system", "", count), 2);
          assert.strictEqual(yield* as("parametric_system", "", attempt(foreign)), "accepted");
          yield* execute("DROP POLICY job_dlq_events_system ON job_dlq_events");
          assert.strictEqual(yield* as("parametric_system", "", count), 0);
          assert.strictEqual(yield* as("parametric_system", "", attempt(foreign)), "42501");
        }),
      ),
    );

    it.effect("of job_dlq_events is forced: its owner sees nothing outside a scope; not forced, everything", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          const owner = `owner_${randomUUID().slice(0, 8)}`;
          yield* execute(`CREATE ROLE ${owner}; ALTER TABLE job_dlq_events OWNER TO ${owner}`);
          assert.strictEqual(yield* as(owner, a, count), 0);
          yield* execute("ALTER TABLE job_dlq_events NO FORCE ROW LEVEL SECURITY");
          assert.strictEqual(yield* as(owner, a, count), 2);
        }),
      ),
    );
  });

  describe("a grant", () => {
    it.effect("job_dlq_events: without the triggers the grants still hold, and without the grants nothing does", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          yield* execute("ALTER TABLE job_dlq_events DISABLE TRIGGER USER");
          const [rewrite, empty, remove] = [
            "UPDATE job_dlq_events SET actor = 'nobody'",
            "UPDATE job_dlq_events SET entry = NULL, detail = NULL",
            "DELETE FROM job_dlq_events",
          ];
          const each = (role: string) =>
            Effect.forEach([rewrite, empty, remove], (statement) => undone(as(role, a, attempt(statement))));
          assert.deepStrictEqual(yield* each("parametric_tenant"), ["42501", "accepted", "42501"]);
          assert.deepStrictEqual(yield* each("parametric_system"), ["42501", "accepted", "accepted"]);
          yield* execute("GRANT UPDATE, DELETE ON job_dlq_events TO parametric_tenant");
          assert.deepStrictEqual(yield* each("parametric_tenant"), ["accepted", "accepted", "accepted"]);
        }),
      ),
    );

    it.effect("job_runners and job_shards are closed to tenants, and open to the system", () =>
      undone(
        Effect.gen(function* () {
          for (const [table, row] of [
            ["job_runners", "(address, runner) VALUES ('a', '{}')"],
            ["job_shards", "(shard_id, address) VALUES ('s', 'a')"],
          ]) {
            for (const statement of [
              `INSERT INTO ${table} ${row}`,
              `SELECT FROM ${table}`,
              `UPDATE ${table} SET address = 'b'`,
              `DELETE FROM ${table}`,
            ]) {
              assert.strictEqual(yield* as("parametric_tenant", a, attempt(statement)), "42501", statement);
              assert.strictEqual(yield* as("parametric_system", "", attempt(statement)), "accepted", statement);
            }
          }
        }),
      ),
    );
  });

  describe("a constraint", () => {
    const id = randomUUID();
    const twice = (row: string) => `${row}; ${row}`;
    const busy = { status: "'processing'", locked_by: "'r'", locked_until: "now()" };
    /** What each refuses, with the SQLSTATE, and how it is taken away. */
    const cases: Readonly<
      Record<string, readonly [code: string, table: string, ...statements: ReadonlyArray<string>]>
    > = {
      job_dlq_events_pkey: ["23505", "job_dlq_events", twice(line({ id: `'${id}'` }))],
      jobs_dedupe_key_not_blank: ["23514", "jobs", job({ dedupe_key: "''" }), job({ dedupe_key: "'  '" })],
      job_runners_pkey: ["23505", "job_runners", twice("INSERT INTO job_runners (address, runner) VALUES ('a', '{}')")],
      job_shards_pkey: ["23505", "job_shards", twice("INSERT INTO job_shards (shard_id, address) VALUES ('s', 'a')")],
      idx_jobs_dedupe: [
        "23505",
        "",
        twice(job({ dedupe_key: "'k'" })),
        `${job({ dedupe_key: "'k'" })}; ${job({ dedupe_key: "'k'", ...busy })}`,
        `${job({ dedupe_key: "'k'", ...busy })}; ${job({ dedupe_key: "'k'" })}`,
      ],
      idx_job_dlq_events_undoes: ["23505", "", twice(line({ kind: "'restored'", undoes: `'${id}'` }))],
    };

    for (const [name, [code, table, ...statements]] of Object.entries(cases)) {
      it.effect(`${name} refuses, and without it the same is accepted`, () =>
        Effect.gen(function* () {
          for (const statement of statements) {
            yield* undone(
              Effect.gen(function* () {
                yield* fixture;
                assert.strictEqual(yield* attempt(statement), `${code} ${name}`, statement);
                yield* execute(table === "" ? `DROP INDEX ${name}` : `ALTER TABLE ${table} DROP CONSTRAINT ${name}`);
                assert.strictEqual(yield* attempt(statement), "accepted", statement);
              }),
            );
          }
        }),
      );
    }

    /** What no row may lack, by table. */
    const required: Readonly<Record<string, ReadonlyArray<string>>> = {
      apps: ["id", "name", "updated_at"],
      jobs: [
        ...["app_id", "attempts", "error_history", "fence", "id", "in_company", "max_attempts", "partition", "payload"],
        ...["priority", "replays", "scheduled_at", "status", "suspect", "type", "updated_at"],
      ],
      job_dlq: [
        ...["app_id", "arrived", "attempts", "dlq_at", "error_history", "error_reason", "fingerprint", "id"],
        ...["original_job_id", "payload", "type", "updated_at"],
      ],
      job_dlq_events: ["actor", "at", "id", "kind"],
      job_runners: ["address", "healthy", "last_heartbeat", "machine_id", "runner"],
      job_shards: ["acquired_at", "address", "shard_id"],
      portal_migrations: ["applied_at", "id", "name"],
    };

    it.effect(
      "NOT NULL refuses a row without any column that it needs, and each such column is in this test's list",
      () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            yield* execute(
              "INSERT INTO job_runners (address, runner) VALUES ('a', '{}'); INSERT INTO job_shards (shard_id, address) VALUES ('s', 'a')",
            );
            const rows = yield* execute(`
            SELECT c.relname AS t, array_agg(a.attname::text ORDER BY a.attname) AS columns FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND a.attnotnull GROUP BY c.relname`);
            assert.deepStrictEqual(Object.fromEntries(rows.map(({ columns, t }) => [t, columns])), required);
            const generated = ["jobs.partition", "job_dlq.fingerprint", "job_runners.machine_id"];
            for (const [table, columns] of Object.entries(required)) {
              for (const column of columns.filter((_) => !generated.includes(`${table}.${_}`))) {
                // Past the triggers of the ledger, so that nothing but the column's own decides.
                const statement = `ALTER TABLE ${table} DISABLE TRIGGER USER; UPDATE ${table} SET ${column} = NULL`;
                assert.strictEqual(yield* attempt(statement), "23502", `${table}.${column}`);
              }
            }
          }),
        ),
    );

    it.effect("idx_jobs_dedupe lets a key be taken again, by another type, by another app, and by none", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          for (const statement of [
            job({ dedupe_key: "'k'" }),
            job({ dedupe_key: "'k'", type: "'other'" }),
            job({ dedupe_key: "'k'", app_id: `'${b}'` }),
            ...["completed", "dead", "cancelled"].map((status) =>
              job({ dedupe_key: "'k'", status: `'${status}'`, completed_at: "now()" }),
            ),
            twice(job()),
          ]) {
            assert.strictEqual(yield* attempt(statement), "accepted", statement);
          }
        }),
      ),
    );

    it.effect(
      "purge_jobs refuses a negative age and NULL; without its guard they would delete, or be silently ignored",
      () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            yield* execute(job({ status: "'completed'", completed_at: "now()" }));
            for (const bad of ["-1", "NULL", "-2147483648"]) {
              assert.strictEqual(yield* attempt(`SELECT purge_jobs(${bad})`), "22023", bad);
            }
            const [row] = yield* execute("SELECT pg_get_functiondef('purge_jobs'::regproc) AS definition");
            yield* execute(String(row?.definition).replace(/IF p_older_than_days IS NULL[\s\S]*?END IF;/, ""));
            assert.deepStrictEqual(yield* execute("SELECT purge_jobs(NULL) AS n"), [{ n: 0 }]);
            assert.deepStrictEqual(yield* execute("SELECT purge_jobs(-1) AS n"), [{ n: 1 }]);
          }),
        ),
    );
  });

  describe("a trigger", () => {
    for (const table of ["apps", "jobs", "job_dlq"]) {
      it.effect(`${table}_updated_at keeps updated_at on every UPDATE, and without it updated_at stays`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            const column = table === "apps" ? "name" : "type";
            const isCurrent = (given: string) =>
              Effect.map(
                execute(
                  `UPDATE ${table} SET ${column} = ${column} || '.'${given} RETURNING updated_at = now() AS current`,
                ),
                (rows) => [...new Set(rows.map(({ current }) => current))],
              );
            yield* undone(
              Effect.gen(function* () {
                yield* execute(`ALTER TABLE ${table} DISABLE TRIGGER USER; UPDATE ${table} SET updated_at = 'epoch'`);
                assert.deepStrictEqual(yield* isCurrent(""), [false], "without it");
                yield* execute(`ALTER TABLE ${table} ENABLE TRIGGER USER`);
                assert.deepStrictEqual(yield* isCurrent(""), [true]);
              }),
            );
            assert.deepStrictEqual(yield* isCurrent(", updated_at = 'epoch'"), [true]);
            assert.deepStrictEqual(yield* isCurrent(", updated_at = now()"), [true]);
          }),
        ),
      );
    }

    /** What is notified on the channel `jobs` while the statements run, each by itself. */
    const notified = (statements: ReadonlyArray<string>) =>
      Effect.scoped(
        Effect.gen(function* () {
          const url = Redacted.value(yield* TestUrl);
          const client = yield* Effect.acquireRelease(
            Effect.promise(async () => {
              const made = new pg.Client({ connectionString: url });
              await made.connect();
              return made;
            }),
            (made) => Effect.promise(() => made.end()),
          );
          const payloads: Array<string> = [];
          const isOver = yield* Deferred.make<void>();
          const end = randomUUID();
          client.on("notification", ({ payload = "" }) =>
            payload === end ? Deferred.unsafeDone(isOver, Effect.void) : payloads.push(payload),
          );
          yield* Effect.promise(() => client.query("LISTEN jobs"));
          for (const statement of statements) yield* execute(statement);
          yield* Effect.promise(() => client.query("SELECT pg_notify('jobs', $1)", [end]));
          yield* Deferred.await(isOver);
          return payloads;
        }),
      );
    const idIn = (partition: number) =>
      `00000000-0000-7000-8000-${randomUUID().slice(-12, -2)}${partition.toString(16).padStart(2, "0")}`;

    it.effect(
      "jobs_notify tells each statement's partitions in which something is due, once, and names no tenant",
      () =>
        Effect.gen(function* () {
          const appId = randomUUID();
          const of = (partition: number, given: Readonly<Record<string, string>> = {}) =>
            job({ app_id: `'${appId}'`, id: `'${idIn(partition)}'`, ...given });
          const values = (...rows: ReadonlyArray<string>) =>
            rows.map((row, i) => (i === 0 ? row : `, ${row.slice(row.indexOf("VALUES ") + 7)}`)).join("");
          const statements = [
            `INSERT INTO apps (id, name) VALUES ('${appId}', '${appId}')`,
            of(3),
            values(of(4), of(31), of(4)),
            of(5, { scheduled_at: "now() + interval '1 hour'" }),
            of(6, { status: "'completed'", completed_at: "now()" }),
            `UPDATE jobs SET type = 'u' WHERE app_id = '${appId}'`,
          ];
          assert.deepStrictEqual(yield* notified(statements), ["3", "31,4"]);
          yield* execute("ALTER TABLE jobs DISABLE TRIGGER jobs_notify");
          assert.deepStrictEqual(yield* notified([of(7)]), []);
          yield* execute(
            `ALTER TABLE jobs ENABLE TRIGGER jobs_notify; DELETE FROM jobs WHERE app_id = '${appId}'; DELETE FROM apps WHERE id = '${appId}'`,
          );
        }),
    );

    it.effect("a job's partition is the one that the runners take it for: the last byte of its id modulo 32", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          const ids = [0, 1, 31, 32, 33, 127, 128, 255].map((byte) => idIn(byte));
          for (const one of ids) yield* execute(job({ id: `'${one}'`, type: "'placed'" }));
          const rows = yield* execute("SELECT id, partition FROM jobs WHERE type = 'placed'");
          assert.sameDeepMembers(
            [...rows],
            ids.map((one) => ({ id: one, partition: Number.parseInt(one.slice(-2), 16) % 32 })),
          );
        }),
      ),
    );
  });

  describe("a schema in front of the true one changes nothing", () => {
    const raises = (signature: string, returns: string) =>
      `CREATE FUNCTION attacker.${signature} RETURNS ${returns} LANGUAGE plpgsql AS $$ BEGIN RAISE 'attacked'; END $$`;
    const lyingNow =
      "CREATE FUNCTION attacker.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$";
    const counted = (call: string) => Effect.map(execute(`SELECT ${call} AS n`), (rows) => String(rows[0]?.n));
    /** The lie of each, what is tried, and what comes of it with the fixed search_path and without. */
    const cases: Readonly<
      Record<
        string,
        readonly [lie: string, tried: Effect.Effect<string, unknown, SqlClient.SqlClient>, held: string, broken: string]
      >
    > = {
      "set_updated_at()": [
        raises("now()", "timestamptz"),
        // What the WHEN of the trigger asks was bound when the trigger was made.
        attempt("UPDATE public.apps SET name = name || '.'"),
        "accepted",
        "P0001",
      ],
      "job_dlq_events_append_only()": [
        lyingNow,
        Effect.zipRight(
          execute("SET LOCAL app.ledger_retention_days = '1'"),
          as("parametric_system", "", attempt("DELETE FROM public.job_dlq_events")),
        ),
        "42501",
        "accepted",
      ],
      "job_dlq_json_diff(jsonb,jsonb,text,integer)": [
        "CREATE FUNCTION attacker.jsonb_typeof(jsonb) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'number' $$",
        counted(`public.job_dlq_json_diff('{"a": 1}', '{"a": 2}') -> 0 ->> 'path'`),
        "/a",
        "",
      ],
      "job_dlq_notify()": [
        raises("md5(text)", "text"),
        attempt(letter().replace("job_dlq", "public.job_dlq")),
        "accepted",
        "P0001",
      ],
      "jobs_notify()": [
        raises("now()", "timestamptz"),
        attempt(job().replace("jobs", "public.jobs")),
        "accepted",
        "P0001",
      ],
      "purge_jobs(integer)": [lyingNow, counted("public.purge_jobs()"), "0", "1"],
      "purge_job_dlq(integer)": [lyingNow, counted("public.purge_job_dlq()"), "0", "1"],
    };

    it.effect("each function with a body that is bound at each call is in this test's list", () =>
      Effect.gen(function* () {
        const rows = yield* execute(
          "SELECT oid::regprocedure::text AS name, proconfig::text AS settings FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosqlbody IS NULL",
        );
        assert.sameMembers(
          rows.map(({ name }) => String(name)),
          Object.keys(cases),
        );
        for (const { name, settings } of rows) {
          assert.match(String(settings), /^\{"search_path=pg_catalog(, public)?, pg_temp"\}$/, String(name));
        }
      }),
    );

    for (const [name, [lie, tried, held, broken]] of Object.entries(cases)) {
      it.effect(`for ${name}: without a fixed search_path it does`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            yield* execute(
              `${job({ status: "'completed'", completed_at: "now()" })}; ${letter({ replayed_at: "now()" })}`,
            );
            yield* execute(`
              CREATE SCHEMA attacker; GRANT USAGE ON SCHEMA attacker TO PUBLIC; SET LOCAL search_path = attacker, pg_catalog, public;
              ${lie}`);
            assert.strictEqual(yield* undone(tried), held);
            yield* execute(`ALTER FUNCTION public.${name} RESET ALL`);
            assert.strictEqual(yield* undone(tried), broken);
          }),
        ),
      );
    }
  });
});
