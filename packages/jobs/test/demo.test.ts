import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { isFull } from "../../database/test/support/campaign.js";
import { root, run, typescript } from "../../database/test/support/command.js";
import { newTenant, TestDatabase, TestUrl, work } from "../../database/test/support/database.js";

const demo = [...typescript, join(root, "packages/jobs/demo/main.ts")];

const tell = Effect.flatMap(TestUrl, (url) =>
  run(process.execPath, demo, { env: { DATABASE_URL: Redacted.value(url), POSTGRES_PROVIDER: "url" } }),
);

layer(TestDatabase, { excludeTestServices: true, timeout: "3 minutes" })("the demo", (it) => {
  // Half a minute for each of its runs; the documents' test has one more that ends well.
  it.effect.runIf(isFull)(
    "ends with exit code 1 and the reason when its counts do not add up",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
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
        assert.match(mended.stdout, /^ {2}\$ kill -9 \d+$/m);
        assert.match(mended.stdout, /vanished with it$/m);
      }),
    300_000,
  );
});

layer(TestDatabase, { excludeTestServices: true })("the demo on a database in use", (it) => {
  it.effect(
    "does not begin where its runners would take the jobs of others",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const job = yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
        const { code, stderr, stdout } = yield* tell;
        assert.strictEqual(code, 1, stdout);
        assert.include(stderr, "This database has jobs of others, or runners.");
        assert.notInclude(stdout, "Two runners start");
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count({ id: job.id, attempts: 0 })), 1);
      }),
    180_000,
  );
});
