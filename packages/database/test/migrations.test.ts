import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { assert, describe, layer, it as plain } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Migrator from "../src/migrator.js";
import { breakages } from "./support/breakage.js";
import { databaseAt, TestDatabase } from "./support/database.js";
import { as, attempt, execute, type Row } from "./support/raw.js";
import * as Schema from "./support/schema.js";
import { undone } from "./support/undone.js";

const [a, b, empty] = [randomUUID(), randomUUID(), randomUUID()];

/** The least that a row needs, as SQL. */
const least = {
  apps: { name: "uuidv7()::text" },
  jobs: { app_id: `'${a}'`, type: "'t'", payload: "'{}'" },
  job_dlq: {
    original_job_id: "uuidv7()",
    app_id: `'${a}'`,
    type: "'t'",
    payload: "'{}'",
    error_reason: "'MaxRetries'",
    attempts: "3",
    error_history: "'[]'",
  },
  portal_migrations: { id: "999", name: "'later'" },
} as const satisfies Record<string, Record<string, string>>;
type Table = keyof typeof least;
const tables = ["apps", "job_dlq", "jobs", "portal_migrations"] as const satisfies ReadonlyArray<Table>;
const tenantTables = ["apps", "job_dlq", "jobs"] as const;

const isTable = (name: unknown): name is Table => tables.some((_) => _ === name);
const tableOf = (row: Row): Table => {
  if (!isTable(row.t)) throw new Error(`a table without a row in this test: ${String(row.t)}`);
  return row.t;
};

const insert = (table: Table, given: Record<string, string> = {}) => {
  const row: Record<string, string> = { ...least[table], ...given };
  return `INSERT INTO ${table} (${Object.keys(row).join(", ")}) VALUES (${Object.values(row).join(", ")})`;
};

/** Two tenants with a row in each table, and one without. */
const fixture = execute(
  [
    insert("apps", { id: `'${a}'`, name: "'a'" }),
    insert("apps", { id: `'${b}'`, name: "'b'" }),
    insert("apps", { id: `'${empty}'`, name: "'empty'" }),
    ...[a, b].flatMap((app) => (["jobs", "job_dlq"] as const).map((table) => insert(table, { app_id: `'${app}'` }))),
  ].join("; "),
);

const onTables = `c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'`;

layer(TestDatabase, { excludeTestServices: true })("the schema of this release", (it) => {
  it.effect("equals the committed snapshot", () =>
    Effect.gen(function* () {
      const schema = yield* Schema.read;
      if (Schema.isUpdate) return yield* Effect.sync(() => Schema.write("latest", schema));
      const found = Schema.differences(Schema.committed("latest"), schema);
      if (found.length > 0) {
        assert.fail(
          `The schema is not that of test/schema.snapshot.json:\n${found.join("\n")}\nIs the change meant? Then write the snapshot anew with UPDATE_SNAPSHOT=1 (see test/support/schema.ts) and commit it with the migration.`,
        );
      }
    }),
  );
});

layer(databaseAt(5), { excludeTestServices: true })("0006_job_dlq_fingerprint", (it) => {
  it.effect("computes the stored fingerprints anew, and changes nothing else, however often it runs", () =>
    Effect.gen(function* () {
      const [before, migration] = [yield* Schema.read, Migrator.catalogue[5]];
      yield* fixture;
      yield* execute(`
        UPDATE job_dlq SET error_history = jsonb_build_array(jsonb_build_object('timestamp', 1,
          'error', CASE app_id WHEN '${a}' THEN 'no commit deadbeefcafe' ELSE 'no commit 0123456789ab' END))`);
      const rows = execute(
        `SELECT to_jsonb(d) - 'fingerprint' AS rest, arrived, fingerprint FROM job_dlq d ORDER BY id`,
      );
      const prints = (found: ReadonlyArray<Row>) => new Set(found.map(({ fingerprint }) => fingerprint));
      const rest = (found: ReadonlyArray<Row>) => found.map(({ fingerprint: _, ...others }) => others);
      const old = yield* rows;
      assert.strictEqual(prints(old).size, 2);
      for (let time = 0; time < 2; time++) {
        yield* migration?.run ?? Effect.die("there is no such migration");
        const found = yield* rows;
        assert.strictEqual(prints(found).size, 1);
        assert.deepStrictEqual(rest(found), rest(old));
        assert.deepStrictEqual(Schema.differences(before, yield* Schema.read).map(Schema.subject), [
          "function job_dlq_error_shape(p_error_history jsonb)",
        ]);
      }
    }),
  );
});

// Up to 0002: what came later is broken by the tests of what it is for.
layer(databaseAt(2), { excludeTestServices: true })("the schema after migrating up to 0002_job_dlq", (it) => {
  it.effect("equals the committed snapshot", () =>
    Effect.gen(function* () {
      const schema = yield* Schema.read;
      if (Schema.isUpdate) return yield* Effect.sync(() => Schema.write("0002", schema));
      const found = Schema.differences(Schema.committed("0002"), schema);
      if (found.length > 0) {
        assert.fail(
          `The schema is not that of test/schema.0002.snapshot.json:\n${found.join("\n")}\nIs the change meant? Then write the snapshot anew with UPDATE_SNAPSHOT=1 (see test/support/schema.ts) and commit it with the migration.`,
        );
      }
    }),
  );

  it.effect("is reported object by object and property by property when it differs", () =>
    undone(
      Effect.gen(function* () {
        const before = yield* Schema.read;
        yield* execute(`
          DROP INDEX idx_job_dlq_request;
          ALTER TABLE jobs ALTER COLUMN replays SET DEFAULT 1;
          CREATE SEQUENCE stray`);
        const found = Schema.differences(before, yield* Schema.read);
        assert.strictEqual(found.length, 3);
        assert.strictEqual(found[0], 'column jobs.replays, default: expected "0", is "1"');
        assert.match(found[1] ?? "", /^index idx_job_dlq_request is missing: \{.*WHERE \(request_id IS NOT NULL\)/);
        assert.match(found[2] ?? "", /^sequence stray is new: \{/);
        assert.deepStrictEqual(found.map(Schema.subject), [
          "column jobs.replays",
          "index idx_job_dlq_request",
          "sequence stray",
        ]);
      }),
    ),
  );

  it.effect(
    "is compared whole: whatever is dropped, changed or added, the comparison names it",
    () =>
      Effect.gen(function* () {
        const whole = yield* Schema.read;
        const unnoticed: Array<string> = [];
        const touched = new Set<string>();
        for (const { object, statement } of yield* breakages) {
          const after = yield* undone(Effect.zipRight(execute(statement), Schema.read));
          const named = Schema.differences(whole, after).map(Schema.subject);
          if (!named.includes(object)) unnoticed.push(`${object}: ${statement}`);
          for (const name of named) touched.add(name);
        }
        assert.deepStrictEqual(unnoticed, []);
        assert.deepStrictEqual(
          Object.keys(whole).filter((name) => !touched.has(name)),
          [],
          "every object was broken at least once",
        );
        assert.deepStrictEqual(Schema.differences(whole, yield* Schema.read), [], "and is whole again");
      }),
    180_000,
  );

  describe("job_dlq", () => {
    it.effect("has the specified columns, types and defaults", () =>
      Effect.gen(function* () {
        const rows = yield* execute(`
          SELECT a.attname AS c, upper(CASE t.typname WHEN 'int4' THEN 'integer' ELSE t.typname END) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
            || COALESCE(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') AS definition
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = 'job_dlq'::regclass AND a.attnum > 0 ORDER BY a.attnum`);
        assert.deepStrictEqual(
          rows.map((_) => `${_.c} ${_.definition}`),
          [
            "id UUID NOT NULL DEFAULT uuidv7()",
            "original_job_id UUID NOT NULL",
            "app_id UUID NOT NULL",
            "type TEXT NOT NULL",
            "payload JSONB NOT NULL",
            "error_reason TEXT NOT NULL",
            "attempts INTEGER NOT NULL",
            "error_history JSONB NOT NULL",
            "dlq_at TIMESTAMPTZ NOT NULL DEFAULT now()",
            "replayed_at TIMESTAMPTZ",
            "request_id UUID",
            "user_id UUID",
            "updated_at TIMESTAMPTZ NOT NULL DEFAULT now()",
          ],
        );
      }),
    );

    it.effect("has the specified constraints, indexes, trigger and purge function", () =>
      Effect.gen(function* () {
        const constraints = yield* execute(`
          SELECT conname || ' ' || pg_get_constraintdef(oid) AS definition FROM pg_constraint
          WHERE conrelid = 'job_dlq'::regclass AND contype <> 'n' ORDER BY 1`);
        assert.deepStrictEqual(
          constraints.map(({ definition }) => definition),
          [
            "job_dlq_app_id_fkey FOREIGN KEY (app_id) REFERENCES apps(id) ON DELETE RESTRICT",
            "job_dlq_error_history_array CHECK ((jsonb_typeof(error_history) = 'array'::text))",
            "job_dlq_pkey PRIMARY KEY (id)",
          ],
        );
        const indexes = yield* execute(
          "SELECT indexdef FROM pg_indexes WHERE tablename = 'job_dlq' ORDER BY indexname",
        );
        assert.deepStrictEqual(
          indexes.map(({ indexdef }) => String(indexdef).replace(" USING btree", "")),
          [
            "CREATE INDEX idx_job_dlq_app_id_fk ON public.job_dlq (app_id)",
            "CREATE INDEX idx_job_dlq_dlq_at ON public.job_dlq (dlq_at) WHERE (replayed_at IS NULL)",
            "CREATE INDEX idx_job_dlq_request ON public.job_dlq (request_id) WHERE (request_id IS NOT NULL)",
            "CREATE INDEX idx_job_dlq_type ON public.job_dlq (type) WHERE (replayed_at IS NULL)",
            "CREATE UNIQUE INDEX job_dlq_pkey ON public.job_dlq (id)",
          ],
        );
        const triggers = yield* execute(
          "SELECT pg_get_triggerdef(oid) AS definition FROM pg_trigger WHERE tgrelid = 'job_dlq'::regclass AND NOT tgisinternal",
        );
        assert.deepStrictEqual(
          triggers.map(({ definition }) => definition),
          [
            "CREATE TRIGGER job_dlq_updated_at BEFORE UPDATE ON public.job_dlq FOR EACH ROW EXECUTE FUNCTION set_updated_at()",
          ],
        );
        const functions = yield* execute(`
          SELECT pg_get_function_arguments(oid) AS arguments, pg_get_function_result(oid) AS returns, prosecdef AS definer
          FROM pg_proc WHERE proname = 'purge_job_dlq'`);
        assert.deepStrictEqual(functions, [
          { arguments: "p_older_than_days integer DEFAULT 30", returns: "integer", definer: false },
        ]);
      }),
    );

    it.effect("has the specified comments and row-level security", () =>
      Effect.gen(function* () {
        const comments = yield* execute(`
          SELECT a.attname AS c, d.description AS text FROM pg_description d
          LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
          WHERE d.objoid = 'job_dlq'::regclass AND d.classoid = 'pg_class'::regclass ORDER BY d.objsubid`);
        assert.deepStrictEqual(comments, [
          { c: null, text: "Dead-lettered jobs — use uuid_extract_timestamp(id) for DLQ time" },
          {
            c: "error_reason",
            text: "Failure classification: MaxRetries, Validation, HandlerMissing, RunnerUnavailable",
          },
          { c: "replayed_at", text: "NULL = pending replay; set when job resubmitted" },
        ]);
        const policies = (table: string) =>
          execute(`
            SELECT replace(policyname, '${table}', 'table') AS name, permissive, roles::text, cmd, qual, with_check
            FROM pg_policies WHERE tablename = '${table}' ORDER BY 1`);
        assert.strictEqual((yield* policies("job_dlq")).length, 2);
        assert.deepStrictEqual(yield* policies("job_dlq"), yield* policies("jobs"));
        assert.deepStrictEqual(
          yield* execute(
            "SELECT relrowsecurity AS enabled, relforcerowsecurity AS forced FROM pg_class WHERE oid = 'job_dlq'::regclass",
          ),
          [{ enabled: true, forced: true }],
        );
      }),
    );
  });

  describe("a constraint", () => {
    const job = (given: Record<string, string>) => insert("jobs", given);
    const again = (table: Table, column: string) =>
      `${insert(table, { [column]: column === "id" && table === "portal_migrations" ? "999" : `'${b}'` })}; ${insert(table, { [column]: column === "id" && table === "portal_migrations" ? "999" : `'${b}'` })}`;
    const array = (table: Table) =>
      ["'{}'", "'null'", `'"text"'`].map((history) => insert(table, { error_history: history }));
    /** What each refuses: statements and the SQLSTATE. NOT NULL has a test of its own. */
    const cases: Readonly<Record<string, ReadonlyArray<readonly [code: string, statement: string]>>> = {
      apps_pkey: [["23505", insert("apps", { id: `'${a}'` })]],
      apps_name_unique: [["23505", insert("apps", { name: "'a'" })]],
      apps_name_not_blank: ["''", "'   '"].map((name) => ["23514", insert("apps", { name })]),
      jobs_pkey: [["23505", again("jobs", "id")]],
      jobs_app_id_fkey: [
        ["23503", job({ app_id: "uuidv7()" })],
        ["23001", `DELETE FROM job_dlq; DELETE FROM apps WHERE id = '${a}'`],
        ["23503", `DELETE FROM job_dlq; UPDATE apps SET id = uuidv7() WHERE id = '${a}'`],
      ],
      jobs_status_known: [["23514", job({ status: "'lost'" })]],
      jobs_locked_while_processing: [
        job({ status: "'processing'" }),
        job({ status: "'processing'", locked_by: "'r'" }),
        job({ status: "'processing'", locked_until: "now()" }),
        job({ locked_by: "'r'", locked_until: "now()" }),
        job({ locked_by: "'r'" }),
        job({ locked_until: "now()" }),
        job({ status: "'dead'", completed_at: "now()", locked_by: "'r'", locked_until: "now()" }),
      ].map((statement) => ["23514", statement]),
      jobs_ended_has_time: [
        ...["completed", "dead", "cancelled"].map((status) => job({ status: `'${status}'` })),
        job({ completed_at: "now()" }),
        job({ status: "'processing'", locked_by: "'r'", locked_until: "now()", completed_at: "now()" }),
      ].map((statement) => ["23514", statement]),
      jobs_attempts_counted: ["attempts", "replays"].map((column) => ["23514", job({ [column]: "-1" })]),
      jobs_max_attempts_positive: [["23514", job({ max_attempts: "0" })]],
      jobs_error_history_array: array("jobs").map((statement) => ["23514", statement]),
      job_dlq_pkey: [["23505", again("job_dlq", "id")]],
      job_dlq_app_id_fkey: [
        ["23503", insert("job_dlq", { app_id: "uuidv7()" })],
        ["23001", `DELETE FROM jobs; DELETE FROM apps WHERE id = '${a}'`],
        ["23503", `DELETE FROM jobs; UPDATE apps SET id = uuidv7() WHERE id = '${a}'`],
      ],
      job_dlq_error_history_array: array("job_dlq").map((statement) => ["23514", statement]),
      portal_migrations_pkey: [["23505", again("portal_migrations", "id")]],
    };

    it.effect("each is in this test's list", () =>
      Effect.gen(function* () {
        const rows = yield* execute(
          `SELECT conname AS name FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY conname COLLATE "C"`,
        );
        assert.deepStrictEqual(
          rows.map(({ name }) => name),
          Object.keys(cases).sort(),
        );
      }),
    );

    for (const [name, refusals] of Object.entries(cases)) {
      it.effect(`${name} refuses, and without it the same is accepted`, () =>
        Effect.gen(function* () {
          for (const [code, statement] of refusals) {
            yield* undone(
              Effect.gen(function* () {
                yield* fixture;
                assert.strictEqual(yield* attempt(statement), `${code} ${name}`, statement);
                const [row] = yield* execute(
                  `SELECT conrelid::regclass::text AS t FROM pg_constraint WHERE conname = '${name}'`,
                );
                yield* execute(`ALTER TABLE ${row?.t} DROP CONSTRAINT ${name} CASCADE`);
                assert.strictEqual(yield* attempt(statement), "accepted", statement);
              }),
            );
          }
        }),
      );
    }

    it.effect("NOT NULL, of every column that has it, refuses NULL, and without it NULL is accepted", () =>
      Effect.gen(function* () {
        const columns = yield* execute(`
          SELECT c.relname AS t, a.attname AS c, o.conname AS o, p.conname AS key
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attnotnull
          LEFT JOIN pg_constraint o ON o.conrelid = c.oid AND o.contype = 'n' AND o.conkey = ARRAY[a.attnum]
          LEFT JOIN pg_constraint p ON p.conrelid = c.oid AND p.contype = 'p' AND a.attnum = ANY (p.conkey)
          WHERE ${onTables}`);
        assert.isAbove(columns.length, 25);
        for (const column of columns) {
          const statement = insert(tableOf(column), { [String(column.c)]: "NULL" });
          yield* undone(
            Effect.gen(function* () {
              yield* fixture;
              assert.strictEqual(yield* attempt(statement), "23502", statement);
              if (column.key !== null) yield* execute(`ALTER TABLE ${column.t} DROP CONSTRAINT ${column.key} CASCADE`);
              yield* execute(`ALTER TABLE ${column.t} DROP CONSTRAINT ${column.o}`);
              assert.strictEqual(yield* attempt(statement), "accepted", statement);
            }),
          );
        }
      }),
    );

    it.effect("none stands in the way of a row in each state", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          for (const statement of [
            job({ status: "'processing'", locked_by: "'r'", locked_until: "now()", started_at: "now()" }),
            ...["completed", "dead", "cancelled"].map((status) =>
              job({ status: `'${status}'`, completed_at: "now()" }),
            ),
            insert("job_dlq", { replayed_at: "now()", error_history: `'[{"error": "x", "timestamp": 1}]'` }),
            `DELETE FROM apps WHERE id = '${empty}'`,
          ]) {
            assert.strictEqual(yield* attempt(statement), "accepted", statement);
          }
        }),
      ),
    );
  });

  describe("a default", () => {
    it.effect("of every column that has one fills it, and without it the column must be given", () =>
      Effect.gen(function* () {
        const columns = yield* execute(`
          SELECT c.relname AS t, a.attname AS c, pg_get_expr(d.adbin, d.adrelid) AS expression
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
          WHERE ${onTables}`);
        assert.isAbove(columns.length, 15);
        for (const column of columns) {
          const [table, name, expression] = [tableOf(column), String(column.c), String(column.expression)];
          // What is fresh at every call is checked by what it is, everything else by its value.
          const holds = expression.startsWith("uuidv7")
            ? `uuid_extract_version(${name}) = 7 AND uuid_extract_timestamp(${name}) > now() - interval '1 minute'`
            : expression.startsWith("nextval")
              ? `${name} = currval('job_fence')`
              : `${name} = ${expression}`;
          yield* undone(
            Effect.gen(function* () {
              yield* fixture;
              assert.deepStrictEqual(
                yield* execute(`${insert(table)} RETURNING ${holds} AS holds`),
                [{ holds: true }],
                `${table}.${name}`,
              );
              yield* execute(
                `ALTER TABLE ${table} ALTER COLUMN ${name} DROP DEFAULT; DELETE FROM portal_migrations WHERE id = 999`,
              );
              assert.strictEqual(yield* attempt(insert(table)), "23502", `${table}.${name}`);
            }),
          );
        }
      }),
    );
  });

  describe("a trigger", () => {
    it.effect("keeps updated_at on every UPDATE of each of its tables, and without it updated_at stays", () =>
      Effect.gen(function* () {
        const triggers = yield* execute(
          `SELECT c.relname AS t, t.tgname AS g FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND ${onTables} ORDER BY 1`,
        );
        assert.deepStrictEqual(
          triggers,
          tenantTables.map((t) => ({ t, g: `${t}_updated_at` })),
        );
        for (const { t, g } of triggers) {
          yield* undone(
            Effect.gen(function* () {
              yield* fixture;
              const column = t === "apps" ? "name" : "type";
              const isCurrent = Effect.map(
                execute(
                  `UPDATE ${t} SET ${column} = ${column} || '.', updated_at = 'epoch' RETURNING updated_at = now() AS current`,
                ),
                (rows) => [...new Set(rows.map(({ current }) => current))],
              );
              assert.deepStrictEqual(yield* isCurrent, [true], String(t));
              yield* execute(`DROP TRIGGER ${g} ON ${t}`);
              assert.deepStrictEqual(yield* isCurrent, [false], String(t));
            }),
          );
        }
      }),
    );

    it.effect("needs the column: without updated_at every UPDATE of job_dlq fails", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          yield* execute("ALTER TABLE job_dlq DROP COLUMN updated_at");
          assert.strictEqual(yield* attempt("UPDATE job_dlq SET replayed_at = now()"), "42703");
        }),
      ),
    );
  });

  describe("row-level security", () => {
    const count = (table: string) =>
      Effect.map(execute(`SELECT count(*)::int AS n FROM ${table}`), (rows) => rows[0]?.n);
    const seenBy = (role: string, tenant: string, table: string) => as(role, tenant, count(table));
    const total = { apps: 3, jobs: 2, job_dlq: 2 };

    it.effect("each policy is in this test's list", () =>
      Effect.gen(function* () {
        const policies = yield* execute(
          "SELECT tablename || ' ' || policyname AS name FROM pg_policies WHERE schemaname = 'public' ORDER BY 1",
        );
        assert.deepStrictEqual(
          policies.map(({ name }) => name),
          tenantTables.flatMap((t) => [`${t} ${t}_system`, `${t} ${t}_tenant`]),
        );
      }),
    );

    for (const table of tenantTables) {
      const key = table === "apps" ? "id" : "app_id";
      const foreign = insert(table, { [key]: `'${table === "apps" ? randomUUID() : b}'` });
      const own = table === "apps" ? "SELECT 1" : insert(table);

      it.effect(`${table}_tenant shows a tenant its own rows only; dropped or weakened, none or all`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            // The missing right to write apps is tested below; here the policy alone shall decide.
            yield* execute("GRANT INSERT ON apps TO parametric_tenant");
            const seen = (broken: string) =>
              undone(
                Effect.gen(function* () {
                  yield* execute(broken);
                  return {
                    sees: yield* seenBy("parametric_tenant", a, table),
                    nobody: yield* seenBy("parametric_tenant", "", table),
                    own: yield* as("parametric_tenant", a, attempt(own)),
                    foreign: yield* as("parametric_tenant", a, attempt(foreign)),
                  };
                }),
              );
            const all = total[table];
            const held = { sees: 1, nobody: 0, own: "accepted", foreign: "42501" };
            const refuses = table === "apps" ? "accepted" : "42501";
            assert.deepStrictEqual(yield* seen("SELECT 1"), held);
            const policy = `${table}_tenant ON ${table}`;
            assert.deepStrictEqual(yield* seen(`DROP POLICY ${policy}`), { ...held, sees: 0, own: refuses });
            assert.deepStrictEqual(yield* seen(`ALTER POLICY ${policy} USING (true)`), {
              ...held,
              sees: all,
              nobody: all,
            });
            assert.deepStrictEqual(yield* seen(`ALTER POLICY ${policy} WITH CHECK (true)`), {
              ...held,
              foreign: "accepted",
            });
            assert.deepStrictEqual(yield* seen(`ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`), {
              sees: all,
              nobody: all,
              own: "accepted",
              foreign: "accepted",
            });
          }),
        ),
      );

      it.effect(`${table}_system shows the system scope every row; dropped, none`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            assert.strictEqual(yield* seenBy("parametric_system", "", table), total[table]);
            assert.strictEqual(yield* as("parametric_system", "", attempt(foreign)), "accepted");
            yield* execute(`DROP POLICY ${table}_system ON ${table}`);
            assert.strictEqual(yield* seenBy("parametric_system", "", table), 0);
            assert.strictEqual(yield* as("parametric_system", "", attempt(foreign)), "42501");
          }),
        ),
      );

      it.effect(`of ${table} is forced: the table's owner sees nothing outside a scope; not forced, everything`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            const owner = `owner_${randomUUID().slice(0, 8)}`;
            yield* execute(`CREATE ROLE ${owner}; ALTER TABLE ${table} OWNER TO ${owner}`);
            assert.strictEqual(yield* seenBy(owner, a, table), 0);
            yield* execute(`ALTER TABLE ${table} NO FORCE ROW LEVEL SECURITY`);
            assert.isAtLeast(Number(yield* seenBy(owner, a, table)), total[table]);
          }),
        ),
      );
    }

    it.effect("bears the empty setting that a transaction leaves behind; without NULLIF every query fails", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          assert.strictEqual(yield* as("parametric_tenant", "", attempt("SELECT FROM job_dlq")), "accepted");
          yield* execute(
            "CREATE OR REPLACE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE RETURN current_setting('app.current_tenant', true)::uuid",
          );
          assert.strictEqual(yield* as("parametric_tenant", "", attempt("SELECT FROM job_dlq")), "22P02");
        }),
      ),
    );
  });

  describe("a grant", () => {
    const roles = ["parametric_tenant", "parametric_system"] as const;
    const rowRights = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    const granted: Readonly<Record<(typeof roles)[number], Readonly<Record<Table, ReadonlyArray<string>>>>> = {
      parametric_tenant: { apps: ["SELECT"], jobs: rowRights, job_dlq: rowRights, portal_migrations: [] },
      parametric_system: { apps: rowRights, jobs: rowRights, job_dlq: rowRights, portal_migrations: [] },
    };
    const using: Readonly<Record<string, (table: Table) => string>> = {
      SELECT: (table) => `SELECT FROM ${table}`,
      // A tenant that was let in would still be held by the policy; nothing but the grant shall decide.
      INSERT: (table) => insert(table),
      UPDATE: (table) => `UPDATE ${table} SET ${table === "portal_migrations" ? "applied_at" : "updated_at"} = now()`,
      DELETE: (table) => `DELETE FROM ${table}${table === "apps" ? " WHERE name = 'empty'" : ""}`,
      TRUNCATE: (table) => `TRUNCATE ${table}${table === "apps" ? ", jobs, job_dlq" : ""}`,
      TRIGGER: (table) =>
        `CREATE TRIGGER stray BEFORE UPDATE ON ${table} FOR EACH ROW EXECUTE FUNCTION set_updated_at()`,
      MAINTAIN: (table) => `REINDEX TABLE ${table}`,
    };

    for (const role of roles) {
      it.effect(
        `lets ${role} do what it needs and nothing else: each right given, withdrawn, and each other one lacking`,
        () =>
          Effect.gen(function* () {
            for (const table of tables) {
              for (const [right, statement] of Object.entries(using)) {
                yield* undone(
                  Effect.gen(function* () {
                    yield* fixture;
                    yield* execute(
                      `ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY; GRANT CREATE ON SCHEMA public TO ${role}`,
                    );
                    if (right === "TRUNCATE" && table === "apps")
                      yield* execute(`GRANT TRUNCATE ON jobs, job_dlq TO ${role}`);
                    const tries = as(role, a, attempt(statement(table)));
                    const isGranted = granted[role][table].includes(right);
                    const name = `${role} ${right} ${table}`;
                    assert.strictEqual(yield* undone(tries), isGranted ? "accepted" : "42501", name);
                    yield* execute(
                      isGranted ? `REVOKE ${right} ON ${table} FROM ${role}` : `GRANT ${right} ON ${table} TO ${role}`,
                    );
                    assert.strictEqual(yield* tries, isGranted ? "42501" : "accepted", `${name}, the other way round`);
                  }),
                );
              }
            }
          }),
      );

      it.effect(`lets ${role} draw from job_fence and not reset it; without it no job can be submitted`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            assert.strictEqual(yield* as(role, a, attempt(insert("jobs"))), "accepted");
            assert.strictEqual(yield* as(role, a, attempt("SELECT setval('job_fence', 1)")), "42501");
            yield* execute(`REVOKE USAGE ON SEQUENCE job_fence FROM ${role}`);
            assert.strictEqual(yield* as(role, a, attempt(insert("jobs"))), "42501");
          }),
        ),
      );

      it.effect(`lets ${role} purge, and nobody else; without it the call is refused`, () =>
        undone(
          Effect.gen(function* () {
            const stranger = `stranger_${randomUUID().slice(0, 8)}`;
            yield* execute(`CREATE ROLE ${stranger}; GRANT SELECT, DELETE ON jobs, job_dlq TO ${stranger}`);
            for (const purge of ["purge_jobs", "purge_job_dlq"]) {
              assert.strictEqual(yield* as(stranger, "", attempt(`SELECT ${purge}()`)), "42501");
              assert.strictEqual(yield* as(role, a, attempt(`SELECT ${purge}()`)), "accepted");
              yield* execute(
                `REVOKE EXECUTE ON FUNCTION ${purge} FROM ${role}; GRANT EXECUTE ON FUNCTION ${purge} TO ${stranger}`,
              );
              assert.strictEqual(yield* as(role, a, attempt(`SELECT ${purge}()`)), "42501");
              assert.strictEqual(yield* as(stranger, "", attempt(`SELECT ${purge}()`)), "accepted");
            }
          }),
        ),
      );

      it.effect(`lets ${role} use the schema also where it is closed to everybody; without it nothing is found`, () =>
        undone(
          Effect.gen(function* () {
            yield* execute("REVOKE ALL ON SCHEMA public FROM PUBLIC");
            assert.strictEqual(yield* as(role, a, attempt("SELECT FROM public.jobs")), "accepted");
            assert.strictEqual(yield* as(role, a, attempt("CREATE TABLE public.stray ()")), "42501");
            yield* execute(`REVOKE USAGE ON SCHEMA public FROM ${role}`);
            assert.strictEqual(yield* as(role, a, attempt("SELECT FROM public.jobs")), "42501");
          }),
        ),
      );
    }
  });

  describe("the fence", () => {
    it.effect(
      "never comes twice: not after a rollback, not after a delete; from a sequence that starts anew it would",
      () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            const next = Effect.map(execute(`${insert("jobs")} RETURNING fence`), (rows) => Number(rows[0]?.fence));
            const first = yield* undone(next);
            const second = yield* next;
            yield* execute("DELETE FROM jobs");
            const third = yield* next;
            assert.isTrue(first < second && second < third);
            yield* execute("TRUNCATE jobs RESTART IDENTITY");
            assert.isTrue((yield* next) < third);
          }),
        ),
    );
  });

  describe("priorities", () => {
    it.effect("are four, from critical to low, and no others", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          assert.strictEqual(yield* attempt(insert("jobs", { priority: "'urgent'" })), "22P02");
          for (const priority of ["low", "critical", "high"])
            yield* execute(insert("jobs", { priority: `'${priority}'` }));
          const rows = yield* execute("SELECT DISTINCT priority FROM jobs ORDER BY priority");
          assert.deepStrictEqual(
            rows.map((_) => _.priority),
            ["critical", "high", "normal", "low"],
          );
          yield* execute("ALTER TYPE job_priority ADD VALUE 'urgent'");
        }),
      ),
    );
  });

  describe("purging", () => {
    /** Both purge functions, with a row that ended so many days ago. */
    const purges = [
      {
        name: "purge_job_dlq",
        table: "job_dlq",
        old: (app: string, age: string) =>
          insert("job_dlq", { app_id: `'${app}'`, type: "'old'", replayed_at: `now() - ${age}` }),
      },
      {
        name: "purge_jobs",
        table: "jobs",
        old: (app: string, age: string) =>
          insert("jobs", { app_id: `'${app}'`, type: "'old'", status: "'completed'", completed_at: `now() - ${age}` }),
      },
    ] as const;
    for (const { name, old, table } of purges) {
      const purge = (argument = "") => Effect.map(execute(`SELECT ${name}(${argument}) AS n`), (rows) => rows[0]?.n);

      it.effect(`${name} deletes what ended longer ago, 30 days by default, and returns how many; the rest stays`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            for (const age of [
              "interval '31 days'",
              "interval '30 days 1 second'",
              "interval '30 days'",
              "interval '1 day'",
              "interval '0'",
              "interval '-1 day'",
            ]) {
              yield* execute(old(a, age));
            }
            assert.strictEqual(yield* purge(), 2, "exactly thirty days is not longer ago");
            assert.strictEqual(yield* purge("30"), 0);
            assert.strictEqual(yield* purge("2147483647"), 0);
            assert.strictEqual(yield* purge("1"), 1);
            assert.strictEqual(yield* purge("0"), 1);
            // What is pending and what ends in the future stay.
            assert.deepStrictEqual(yield* execute(`SELECT count(*)::int AS n FROM ${table}`), [{ n: 4 }]);
          }),
        ),
      );

      it.effect(
        `${name} refuses a negative age and NULL; without its guard they would delete, or be silently ignored`,
        () =>
          undone(
            Effect.gen(function* () {
              yield* fixture;
              yield* execute(old(a, "interval '0'"));
              for (const bad of ["-1", "NULL", "-2147483648"]) {
                assert.strictEqual(yield* attempt(`SELECT ${name}(${bad})`), "22023", bad);
              }
              const [row] = yield* execute(`SELECT pg_get_functiondef('${name}'::regproc) AS definition`);
              const definition = String(row?.definition);
              const unguarded = definition.replace(/IF p_older_than_days IS NULL[\s\S]*?END IF;/, "");
              assert.notStrictEqual(unguarded, definition);
              yield* execute(unguarded);
              assert.strictEqual(yield* purge("NULL"), 0);
              assert.strictEqual(yield* purge("-1"), 1);
            }),
          ),
      );

      it.effect(`${name} obeys the caller's scope; as SECURITY DEFINER it would not`, () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            const olds = [a, b, b].map((app) => old(app, "interval '40 days'")).join("; ");
            yield* execute(olds);
            assert.strictEqual(yield* as("parametric_tenant", empty, purge()), 0);
            assert.strictEqual(yield* as("parametric_tenant", a, purge()), 1);
            assert.deepStrictEqual(yield* execute(`SELECT DISTINCT app_id FROM ${table} WHERE type = 'old'`), [
              { appId: b },
            ]);
            assert.strictEqual(yield* as("parametric_system", "", purge()), 2);
            yield* execute(olds);
            yield* execute(`ALTER FUNCTION ${name} SECURITY DEFINER`);
            assert.strictEqual(yield* as("parametric_tenant", a, purge()), 3);
          }),
        ),
      );
    }
  });

  describe("a schema in front of the true one changes nothing", () => {
    /** `statements` in a schema of the attacker's own, which then stands first in the caller's search_path. */
    const attack = (statements: string) =>
      execute(`
        CREATE SCHEMA attacker; GRANT USAGE ON SCHEMA attacker TO PUBLIC; SET LOCAL search_path = attacker, pg_catalog, public;
        ${statements}`);
    const lyingNow = (time: string) =>
      `CREATE FUNCTION attacker.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '${time}'::timestamptz $$`;

    for (const [name, fresh] of [
      ["purge_job_dlq", insert("job_dlq", { replayed_at: "now()" })],
      ["purge_jobs", insert("jobs", { status: "'completed'", completed_at: "now()" })],
    ] as const) {
      const table = name.slice("purge_".length);
      const purge = Effect.map(execute(`SELECT public.${name}() AS n`), (rows) => rows[0]?.n);

      it.effect(
        `for ${name}: another now() and another ${table} are in vain; without a fixed search_path they are not`,
        () =>
          Effect.gen(function* () {
            yield* undone(
              Effect.gen(function* () {
                yield* fixture;
                yield* execute(fresh);
                yield* attack(lyingNow("infinity"));
                assert.strictEqual(yield* purge, 0);
                yield* execute(`ALTER FUNCTION public.${name} RESET ALL`);
                assert.strictEqual(yield* purge, 1);
              }),
            );
            for (const schema of ["attacker", "pg_temp"]) {
              yield* undone(
                Effect.gen(function* () {
                  yield* fixture;
                  yield* attack(`
                  CREATE TABLE ${schema}.${table} AS SELECT * FROM public.${table};
                  UPDATE ${schema}.${table} SET ${table === "jobs" ? "completed_at" : "replayed_at"} = 'epoch'`);
                  assert.strictEqual(yield* purge, 0, schema);
                  yield* execute(`ALTER FUNCTION public.${name} RESET ALL`);
                  assert.strictEqual(yield* purge, 2, schema);
                }),
              );
            }
          }),
      );
    }

    it.effect("for set_updated_at: another now() is in vain; without a fixed search_path it is not", () =>
      undone(
        Effect.gen(function* () {
          yield* fixture;
          yield* attack(lyingNow("epoch"));
          const update = execute(
            "UPDATE public.job_dlq SET type = type || '.' RETURNING updated_at = 'epoch' AS wrong",
          );
          assert.deepStrictEqual(yield* update, [{ wrong: false }, { wrong: false }]);
          yield* execute("ALTER FUNCTION public.set_updated_at RESET ALL");
          assert.deepStrictEqual(yield* update, [{ wrong: true }, { wrong: true }]);
        }),
      ),
    );

    it.effect(
      "for current_tenant: another current_setting() is in vain; with a body that is bound at each call it is not",
      () =>
        undone(
          Effect.gen(function* () {
            yield* fixture;
            yield* attack(
              `CREATE FUNCTION attacker.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT '${b}' $$`,
            );
            const seen = as(
              "parametric_tenant",
              a,
              Effect.map(execute("SELECT app_id FROM public.job_dlq"), (rows) => rows.map(({ appId }) => appId)),
            );
            assert.deepStrictEqual(yield* seen, [a]);
            yield* execute(`
            CREATE OR REPLACE FUNCTION public.current_tenant() RETURNS uuid LANGUAGE sql STABLE
            AS $$ SELECT NULLIF(current_setting('app.current_tenant', true), '')::uuid $$`);
            assert.deepStrictEqual(yield* seen, [b]);
          }),
        ),
    );

    it.effect("each function with a body that is bound at each call has a fixed search_path, pg_temp last", () =>
      Effect.gen(function* () {
        const rows = yield* execute(
          "SELECT proname AS name, proconfig::text AS settings FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosqlbody IS NULL ORDER BY 1",
        );
        assert.isAbove(rows.length, 0);
        for (const { name, settings } of rows) {
          assert.match(String(settings), /^\{"search_path=pg_catalog(, public)?, pg_temp"\}$/, String(name));
        }
      }),
    );
  });
});

describe("the migration files", () => {
  const folder = fileURLToPath(new URL("../migrations/", import.meta.url));
  const files = readdirSync(folder).sort();

  plain("are the catalogue, contiguous from 1", () => {
    assert.deepStrictEqual(
      files,
      Migrator.catalogue.map((migration) => `${Migrator.fileName(migration)}.ts`),
    );
    assert.deepStrictEqual(
      Migrator.catalogue.map(({ id }) => id),
      Migrator.catalogue.map((_, i) => i + 1),
    );
    for (const file of files) assert.match(file, /^\d{4}_[a-z0-9_]+\.ts$/);
  });

  plain.effect("default-export the Effect that the catalogue runs", () =>
    Effect.gen(function* () {
      for (const [i, file] of files.entries()) {
        const module: { readonly default: unknown } = yield* Effect.promise(
          () => import(new URL(`../migrations/${file}`, import.meta.url).href),
        );
        assert.isTrue(Effect.isEffect(module.default), file);
        assert.strictEqual(module.default, Migrator.catalogue[i]?.run, file);
      }
    }),
  );

  /** What a module loads that is no package from outside: its text would change with theirs. */
  const ownImports = (text: string) =>
    [...text.matchAll(/(?:from|import|require)\s*\(?\s*["']([^"']+)["']/g)]
      .map(([, specifier = ""]) => specifier)
      .filter((specifier) => /^(\.|\/|#|file:|@parametric-portal\/)/.test(specifier));

  plain("import nothing of this repository, so that their text stays frozen", () => {
    for (const file of files) {
      const text = readFileSync(new URL(`../migrations/${file}`, import.meta.url), "utf8");
      assert.deepStrictEqual(ownImports(text), [], file);
      assert.include(text, "@effect/sql/SqlClient");
    }
    assert.deepStrictEqual(
      ownImports(`
        import * as Effect from "effect/Effect";
        import { table } from "../src/models.js";
        import "./0001_initial.js";
        export * from "@parametric-portal/database/models";
        const late = await import("../src/rows.js");`),
      ["../src/models.js", "./0001_initial.js", "@parametric-portal/database/models", "../src/rows.js"],
    );
  });
});
