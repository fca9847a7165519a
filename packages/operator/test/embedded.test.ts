/** `dlq --embedded`, as the workspace has it: a process with a server of its own. */
import { chmodSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assert, describe, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { root, start, withUrl } from "../../database/test/support/process.js";
import { inside } from "../src/embedded.js";
import { objects } from "./support/dlq.js";

/** Starts `dlq` with a folder of its own for temporary files; `left` is what lies there. */
const inFolder = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "dlq-embedded-"));
      // The server runs as a user of its own when we are root.
      chmodSync(folder, 0o755);
      return folder;
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true })),
  ),
  (folder) => ({
    left: () => readdirSync(folder).filter((name) => name.startsWith("portal-postgres-")),
    dlq: (...words: ReadonlyArray<string>) =>
      start(process.execPath, [join(root, "packages/operator/bin/dlq.mjs"), ...words], { TMPDIR: folder }),
  }),
);

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("dlq --embedded", (it) => {
  describe("on a server of its own", () => {
    it.scoped("has an example, ends as the command does, and leaves nothing", () =>
      Effect.gen(function* () {
        const { dlq, left } = yield* inFolder;
        const { code, stderr, stdout } = yield* Effect.scoped(
          Effect.flatMap(dlq("groups", "--embedded", "--json"), ({ ended }) => ended),
        );
        assert.strictEqual(code, 0, stderr);
        const types = objects(stdout).map(({ type }) => type);
        assert.includeMembers(types, ["mail.send", "webhook.deliver", "invoice.render"]);
        const none = yield* Effect.scoped(
          Effect.flatMap(dlq("--embedded", "list", "--type", "none"), ({ ended }) => ended),
        );
        assert.strictEqual(none.code, 3, none.stderr);
        assert.deepStrictEqual(left(), []);
      }),
    );

    it.scoped("serves the API until it gets SIGTERM, and takes the server with it", () =>
      Effect.gen(function* () {
        const { dlq, left } = yield* inFolder;
        const served = yield* dlq("--embedded", "console", "--port", "0");
        yield* served.saysOnStderr("administrator of every tenant");
        const [url = ""] = /http:\/\/127\.0\.0\.1:\d+/u.exec(served.output()) ?? [];
        const answer = yield* Effect.promise(() => fetch(`${url}/api/v1/preview`).then((_) => _.json()));
        assert.isAbove((answer as { readonly count: number }).count, 100);
        assert.lengthOf(left(), 1);
        yield* served.kill("SIGTERM");
        const { code } = yield* served.ended;
        assert.notStrictEqual(code, 0);
        assert.deepStrictEqual(left(), []);
      }),
    );
  });

  it.scoped("writes its example nowhere else", () =>
    Effect.gen(function* () {
      const environment = withUrl(yield* TestUrl);
      const { code, stderr } = yield* Effect.scoped(
        Effect.flatMap(
          start(process.execPath, [join(root, "packages/operator/bin/dlq.mjs"), inside, "groups"], environment),
          ({ ended }) => ended,
        ),
      );
      assert.deepStrictEqual([code, stderr.includes("only for an empty server")], [1, true], stderr);
    }),
  );
});
