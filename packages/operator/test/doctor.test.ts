/** What `dlq doctor` finds, on databases that have it. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { databaseAt, newLogin, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { withUrl } from "../../database/test/support/process.js";
import { objects, runDlq } from "./support/dlq.js";

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("dlq doctor", (it) => {
  const found = (environment: Record<string, string>) =>
    Effect.map(runDlq(["doctor", "--json"], environment), ({ code, stdout }) => ({
      code,
      findings: objects(stdout).map(({ check, state }) => `${check} ${state}`),
      said: stdout,
    }));

  it.scoped("warns of a superuser, and finds everything else as it should be", () =>
    Effect.gen(function* () {
      const { code, findings, said } = yield* found(withUrl(yield* TestUrl));
      assert.strictEqual(code, 0, said);
      assert.deepStrictEqual(findings, [
        "server ok",
        "migrations ok",
        "login warning",
        "roles ok",
        "roles ok",
        "isolation ok",
        "indexes ok",
        "clock ok",
      ]);
      const { stdout } = yield* runDlq(["doctor"], withUrl(yield* TestUrl));
      assert.match(stdout, /^! login +\S+ is a superuser/m);
    }),
  );

  it.scoped(
    "finds nothing wrong with a login as it should be, but that it may not read which migrations were applied",
    () =>
      Effect.gen(function* () {
        const url = yield* newLogin("parametric_tenant, parametric_system");
        const { findings, said } = yield* found(withUrl(url));
        assert.deepStrictEqual(
          findings.filter((_) => !_.endsWith(" ok")),
          ["migrations warning"],
          said,
        );
      }),
  );

  it.scoped(
    "finds a table that keeps no tenants apart, one that handlers may not read, and an index that is not valid",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const around = (change: string, undo: string) =>
          Effect.acquireUseRelease(
            sql.unsafe(change),
            () => Effect.flatMap(TestUrl, (url) => found(withUrl(url))),
            () => Effect.orDie(sql.unsafe(undo)),
          );
        const open = yield* around(
          "ALTER TABLE job_dlq NO FORCE ROW LEVEL SECURITY",
          "ALTER TABLE job_dlq FORCE ROW LEVEL SECURITY",
        );
        assert.strictEqual(open.code, 1);
        assert.include(open.findings, "isolation problem");
        const own = yield* around(
          "CREATE TABLE own (app_id uuid); GRANT SELECT ON own TO parametric_tenant",
          "DROP TABLE own",
        );
        assert.deepStrictEqual([own.code, own.findings.includes("isolation warning")], [0, true]);
        const closed = yield* around("CREATE TABLE closed (app_id uuid)", "DROP TABLE closed");
        assert.include(closed.said, "GRANT SELECT");
        const both = yield* around(
          "CREATE TABLE closed (app_id uuid); ALTER TABLE job_dlq NO FORCE ROW LEVEL SECURITY",
          "DROP TABLE closed; ALTER TABLE job_dlq FORCE ROW LEVEL SECURITY",
        );
        assert.deepStrictEqual([both.code, both.findings.includes("isolation problem")], [1, true], both.said);
        const index = "'idx_job_dlq_pending'::regclass";
        const broken = yield* around(
          `UPDATE pg_index SET indisvalid = false WHERE indexrelid = ${index}`,
          `UPDATE pg_index SET indisvalid = true WHERE indexrelid = ${index}`,
        );
        assert.deepStrictEqual([broken.code, broken.findings.includes("indexes problem")], [1, true]);
        assert.include(broken.said, "REINDEX INDEX CONCURRENTLY");
      }),
  );

  it.scoped("finds a database that is not there", () =>
    Effect.gen(function* () {
      const away = yield* found({ DATABASE_URL: "postgresql://nobody@127.0.0.1:1/none" });
      assert.deepStrictEqual([away.code, away.findings], [1, ["server problem"]]);
    }),
  );
});

layer(databaseAt(0), { excludeTestServices: true })("dlq doctor", (it) => {
  it.effect("finds a database that is empty", () =>
    Effect.gen(function* () {
      const { code, stdout } = yield* runDlq(["doctor"], withUrl(yield* TestUrl));
      assert.strictEqual(code, 1);
      assert.match(stdout, /^✗ migrations .*pending: run portal-db migrate/m);
    }),
  );
});
