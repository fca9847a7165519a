import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { root, run, typescript } from "./support/command.js";
import { TestDatabase, TestUrl } from "./support/database.js";

const demo = [...typescript, join(root, "packages/database/demo/main.ts")];

layer(TestDatabase, { excludeTestServices: true, timeout: "3 minutes" })("the demo", (it) => {
  it.effect(
    "ends with exit code 1 and the reason when its counts do not add up",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const tell = Effect.flatMap(TestUrl, (url) =>
          run(process.execPath, demo, { env: { DATABASE_URL: Redacted.value(url), POSTGRES_PROVIDER: "url" } }),
        );
        // The jobs of one type vanish on their way in, and nobody is told.
        yield* sql.unsafe(`
          CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
          CREATE TRIGGER swallow BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.type = 'github.star') EXECUTE FUNCTION swallow()`);
        const broken = yield* tell;
        assert.strictEqual(broken.code, 1, broken.stdout);
        assert.match(broken.stdout.trimEnd().split("\n").at(-1) ?? "", /^submitted 329 = .* ✗$/);
        assert.include(broken.stderr, "The demo failed, 2 promises did not hold:");
        assert.include(broken.stderr, "- the table jobs has one row for each delivery:");
        assert.include(broken.stderr, "- the counts of the last line add up");
        yield* sql`DROP TRIGGER swallow ON jobs`;
        const mended = yield* tell;
        assert.strictEqual(mended.code, 0, mended.stderr);
        assert.match(mended.stdout.trimEnd().split("\n").at(-1) ?? "", /^submitted 329 = .* ✓$/);
      }),
    180_000,
  );
});
