/** The list of mutations is complete and fits the sources: what the catalogue and the API have is broken by some line of it. */
import { readFileSync } from "node:fs";
import * as OpenApi from "@effect/platform/OpenApi";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it, layer } from "@effect/vitest";
import { Api } from "@parametric-portal/operator/http/api";
import * as Effect from "effect/Effect";
import { TestDatabase } from "../../database/test/support/database.js";
import { excused, list } from "../src/mutations/list.js";
import { type Mutation, mutated, patternOf, projectOf, Unfit } from "../src/mutations/mutation.js";
import { document } from "../src/mutations/report.js";

const root = new URL("../../../", import.meta.url);
const texts = new Map<string, string>();
const textOf = (file: string) => {
  const text = texts.get(file) ?? readFileSync(new URL(file, root), "utf8");
  texts.set(file, text);
  return text;
};

/** A test file with what it takes its tests from. */
const testsOf = (file: string): string => {
  const shared = [...textOf(file).matchAll(/from "\.\/(support\/[a-z-]+)\.js"/gu)].map(([, path]) =>
    textOf(file.replace(/[^/]+$/u, `${path}.ts`)),
  );
  return [textOf(file), ...shared].join("\n");
};
/**
 * Whether a title may be one of a file's: it stands there as it is, or it is made by a template, and then each of its words stands there.
 * Before anything is broken the run itself asks vitest.
 */
const isTitled = (tests: string, title: string) =>
  tests.replaceAll('\\"', '"').includes(title) ||
  (/[(]\s*`[^`]*\$\{/u.test(tests) && (title.match(/\p{L}{4,}/gu) ?? []).every((word) => tests.includes(word)));

const broken = new Set(list.flatMap(({ breaks }) => breaks ?? []));
const missing = (wanted: ReadonlyArray<string>) => wanted.filter((_) => !broken.has(_) && !(_ in excused));

describe("the list of mutations", () => {
  it("has each once, and enough of them", () => {
    const names = list.map(({ name }) => name);
    assert.strictEqual(new Set(names).size, names.length);
    assert.isAbove(names.length, 100);
  });

  it("changes one place of a source of the product, that is there", () => {
    const unfit: Array<string> = [];
    for (const mutation of list) {
      assert.match(mutation.file, /^packages\/(?:database\/(?:migrations|src)|jobs\/src|operator\/src)\//u);
      const text = textOf(mutation.file);
      try {
        if (mutated(mutation, text) === text) unfit.push(`${mutation.name}: changes nothing`);
      } catch (error) {
        unfit.push(error instanceof Error ? error.message : String(error));
      }
    }
    assert.deepStrictEqual(unfit, []);
  });

  it("names tests that there are, none of which compares with a snapshot", () => {
    const unknown = list
      .filter(({ test }) => !isTitled(testsOf(test.file), test.title))
      .map(({ name, test }) => `${name}: ${test.file} ${test.title}`);
    assert.deepStrictEqual(unknown, []);
    assert.isFalse(isTitled(testsOf("packages/database/test/replay.test.ts"), "a title that nobody wrote"));
    assert.deepStrictEqual(
      list.filter(({ test }) => /committed snapshot|compared whole|frozen/u.test(test.title)),
      [],
    );
    assert.strictEqual(projectOf({ file: "packages/jobs/test/fences.test.ts", title: "" }), "jobs");
  });
});

describe("a mutation", () => {
  const mutation: Mutation = {
    name: "m",
    file: "f",
    find: "a",
    replace: "$&",
    test: { file: "packages/jobs/test/fences.test.ts", title: "t" },
  };

  it("replaces its text, as it is, where it says", () => {
    assert.strictEqual(mutated(mutation, "xay"), "x$&y");
    assert.strictEqual(mutated({ ...mutation, place: 2 }, "aba"), "ab$&");
    for (const [given, text] of [
      [mutation, "b"],
      [mutation, "aba"],
      [{ ...mutation, place: 3 }, "aba"],
    ] as const) {
      assert.throws(() => mutated(given, text), Unfit);
    }
  });

  it("runs the tests of its title, whatever characters that has", () => {
    const pattern = new RegExp(patternOf(["a (b)?", '{"c": [1]}', "a (b)?"]), "u");
    assert.isTrue(pattern.test("x a (b)? y"));
    assert.isTrue(pattern.test('refuses {"c": [1]}'));
    assert.isFalse(pattern.test("a b"));
  });

  it("that was not noticed is told as such", () => {
    const page = document([{ mutation, verdict: "survived", by: "", said: "", seconds: 1 }]);
    assert.include(page, "0 of 1 are noticed");
    assert.match(page, /\| m +\| SURVIVED +\|/u);
  });
});

layer(TestDatabase, { excludeTestServices: true })("the list of mutations breaks", (test) => {
  const names = (statement: string) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const rows = yield* sql.unsafe<{ readonly name: string }>(statement);
      assert.isAbove(rows.length, 0, statement);
      return rows.map(({ name }) => name);
    });
  const space = "'public'::regnamespace";
  /** What the database has, by what a line of the list calls it. */
  const catalogue = {
    "every table's row-level security": `SELECT 'row security ' || relname AS name FROM pg_class WHERE relnamespace = ${space} AND relkind = 'r' AND relrowsecurity`,
    "every policy":
      "SELECT 'policy ' || tablename || '.' || policyname AS name FROM pg_policies WHERE schemaname = 'public'",
    "every trigger": `
      SELECT 'trigger ' || c.relname || '.' || t.tgname AS name FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
      WHERE NOT t.tgisinternal AND c.relnamespace = ${space}`,
    "every key, check and foreign key": `
      SELECT 'constraint ' || c.relname || '.' || o.conname AS name FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid
      WHERE o.connamespace = ${space} AND o.contype <> 'n'`,
    "every unique index that is no key": `
      SELECT 'index ' || c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
      WHERE i.indisunique AND c.relnamespace = ${space} AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = c.oid)`,
    "every function whose names could be another's": `
      SELECT 'function ' || proname AS name FROM pg_proc WHERE pronamespace = ${space} AND prosqlbody IS NULL`,
  };

  for (const [what, statement] of Object.entries(catalogue)) {
    test.effect(what, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(missing(yield* names(statement)), []);
      }),
    );
  }

  test.effect("a policy, a trigger, a constraint and an index that are new and not in it are missed", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      yield* sql.unsafe(`
        CREATE TABLE stray (id int PRIMARY KEY, n int CHECK (n > 0));
        ALTER TABLE stray ENABLE ROW LEVEL SECURITY;
        CREATE POLICY stray_tenant ON stray USING (true);
        CREATE UNIQUE INDEX idx_stray ON stray (n);
        CREATE FUNCTION stray() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE TRIGGER stray_trigger BEFORE UPDATE ON stray FOR EACH ROW EXECUTE FUNCTION stray()`);
      const found = missing((yield* Effect.forEach(Object.values(catalogue), names)).flat());
      yield* sql.unsafe("DROP TABLE stray; DROP FUNCTION stray()");
      assert.sameMembers(found, [
        "row security stray",
        "policy stray.stray_tenant",
        "trigger stray.stray_trigger",
        "constraint stray.stray_pkey",
        "constraint stray.stray_n_check",
        "index idx_stray",
        "function stray",
      ]);
    }),
  );

  it("every route that not everybody may ask, and each role", () => {
    const routes = Object.entries(OpenApi.fromApi(Api).paths).flatMap(([path, methods]) =>
      Object.values(methods).map(({ description = "" }) => ({ path, role: /Role: (\w+)/u.exec(description)?.[1] })),
    );
    assert.isAbove(routes.length, 10);
    assert.deepStrictEqual(missing([...new Set(routes.map(({ role }) => `routes ${role}`))]), []);
    assert.deepStrictEqual(
      missing(routes.filter(({ role }) => role !== "viewer").map(({ path }) => `route ${path}`)),
      [],
    );
  });
});
