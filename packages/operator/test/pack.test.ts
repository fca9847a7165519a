/** What a user of the package gets, used under plain Node. Needs the npm registry, or a cache of it. */
import { join } from "node:path";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { isFull } from "../../database/test/support/campaign.js";
import { run, succeed } from "../../database/test/support/command.js";
import { deadJob, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { install, strangers } from "../../database/test/support/pack.js";
import { start } from "../../database/test/support/process.js";

layer(TestDatabase, { excludeTestServices: true })("a packed package", (it) => {
  // Packing and installing takes minutes.
  it.scoped.runIf(isFull)(
    "operator: installed elsewhere, dlq runs",
    () =>
      Effect.gen(function* () {
        const { files, folder, manifest } = yield* install("operator", "database", "postgres");
        assert.deepStrictEqual(strangers(files), []);
        assert.includeMembers([...files], ["LICENSE", "README.md", "package.json", "dist/bin.js"]);
        const dlq = join(folder, "node_modules/.bin/dlq");
        assert.strictEqual((yield* succeed(dlq, ["--version"], { cwd: folder })).trim(), manifest.version);
        const appId = yield* newTenant;
        const { id } = yield* deadJob(appId);
        const env = { DATABASE_URL: Redacted.value(yield* TestUrl), DLQ_TENANT: appId };
        assert.include(yield* succeed(dlq, ["list"], { cwd: folder, env }), id);
        assert.include(yield* succeed(dlq, ["replay", id, "--yes"], { cwd: folder, env }), "1 replayed");
        assert.strictEqual((yield* run(dlq, ["replay", id, "--yes"], { cwd: folder, env })).code, 3);
        const tried = yield* run(dlq, ["--embedded", "groups"], { cwd: folder, env: {} });
        assert.deepStrictEqual([tried.code, tried.stdout.includes("webhook.deliver")], [0, true], tried.stderr);
        // The console is in it.
        const served = yield* start(dlq, ["console", "--port", "0"], env);
        yield* served.saysOnStderr("The console is at");
        const [url = ""] = /http:\/\/127\.0\.0\.1:\d+/u.exec(served.output()) ?? [];
        const page = yield* Effect.promise(() => fetch(url).then((answer) => answer.text()));
        const [, script = ""] = /src="(\/assets\/[^"]+\.js)"/u.exec(page) ?? [];
        assert.strictEqual((yield* Effect.promise(() => fetch(`${url}${script}`))).status, 200, page);
      }),
    600_000,
  );
});
