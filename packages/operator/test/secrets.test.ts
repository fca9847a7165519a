/** Canaries in the commands of operators and in the API: a password and tokens that must appear in nothing that they write. */

import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import { rounds } from "../../database/test/support/campaign.js";
import { canaryUrl, password, wrongAddresses } from "../../database/test/support/canary.js";
import { run } from "../../database/test/support/command.js";
import { deadJob, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { root, withUrl } from "../../database/test/support/process.js";
import { hashOf } from "../src/access.js";
import { runDlq, startDlq } from "./support/dlq.js";

const token = "canary-t0ken";
const stranger = "canary-str4nger";
const everything = ["--log-level", "all"];

const foundIn = (text: string) => [password, token, stranger, hashOf(token)].filter((secret) => text.includes(secret));

layer(TestDatabase, { excludeTestServices: true, timeout: "3 minutes" })("a command that logs everything", (it) => {
  it.scoped("writes no password when its database cannot be used, and says what is wrong", () =>
    Effect.gen(function* () {
      const portalDb = join(root, "packages/database/bin/portal-db.mjs");
      const commands = [
        (env: Readonly<Record<string, string>>) => runDlq([...everything, "list", "--all-tenants"], env),
        (env: Readonly<Record<string, string>>) => runDlq([...everything, "doctor"], env),
        (env: Readonly<Record<string, string>>) => runDlq([...everything, "console", "--port", "0"], env),
        (env: Readonly<Record<string, string>>) => run(process.execPath, [portalDb, ...everything, "status"], { env }),
        (env: Readonly<Record<string, string>>) => run(process.execPath, [portalDb, ...everything, "migrate"], { env }),
      ];
      const tries = Object.entries(wrongAddresses(yield* TestUrl)).flatMap(([what, environment]) =>
        commands.map((command, place) => ({ what: `${what} ${place}`, ended: command(environment) })),
      );
      yield* Effect.forEach(
        // Reduced, other addresses for each command.
        tries.filter((_, place) => place % rounds(1, 6) === 0),
        ({ ended, what }) =>
          Effect.gen(function* () {
            const { code, stderr, stdout } = yield* ended;
            assert.notStrictEqual(code, 0, what);
            assert.isNotEmpty(stdout + stderr, what);
            assert.notInclude(stdout + stderr, "unknown argument", what);
            assert.deepStrictEqual(foundIn(stdout + stderr), [], `${what}: ${stdout}${stderr}`);
          }),
        { concurrency: 2 },
      );
    }),
  );

  it.scoped("serves the API and logs what goes wrong without tokens, hashes of them, and its password", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const { name, url } = yield* canaryUrl("parametric_tenant");
      const tenant = yield* newTenant;
      const { id } = yield* deadJob(tenant);
      const grants = [
        { name: "ada", sha256: hashOf(token), tenant, role: "admin" },
        { name: "all", sha256: hashOf(stranger), tenant: "*", role: "admin" },
      ];
      const served = yield* startDlq([...everything, "console", "--port", "0"], {
        ...withUrl(url),
        DLQ_TOKENS: JSON.stringify(grants),
      });
      yield* served.saysOnStderr("The API is at");
      const [origin = ""] = /http:\/\/127\.0\.0\.1:\d+/u.exec(served.output()) ?? [];
      const said: Array<string> = [];
      const ask = (path: string, as: string, headers: Readonly<Record<string, string>> = {}) =>
        Effect.promise(async () => {
          const answer = await fetch(`${origin}/api/v1${path}`, {
            headers: { authorization: `Bearer ${as}`, ...headers },
          });
          said.push(await answer.text(), JSON.stringify([...answer.headers]));
          return answer.status;
        });
      assert.strictEqual(yield* ask(`/letters/${id}`, token), 200);
      assert.strictEqual(yield* ask("/letters", `${token}x`), 401);
      // The login is tenants only: the other token meets the database's refusal, which is logged.
      assert.strictEqual(yield* ask("/letters", stranger), 503);
      assert.strictEqual(yield* ask(`/letters?text=${token}`, token, { cookie: `token=${token}` }), 200);
      yield* sql.unsafe(`ALTER ROLE ${name} NOLOGIN`);
      yield* sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ${name}`;
      assert.strictEqual(yield* ask("/letters", token), 503);
      yield* served.kill("SIGINT");
      const { stderr, stdout } = yield* served.ended;
      assert.include(stdout + stderr, "A request failed");
      assert.deepStrictEqual(foundIn(stdout + stderr), [], stdout + stderr);
      for (const text of said) assert.deepStrictEqual(foundIn(text), [], text);
    }),
  );

  it.scoped("refuses tokens that it cannot use without writing them", () =>
    Effect.gen(function* () {
      const environment = withUrl(yield* TestUrl);
      for (const tokens of [
        token,
        JSON.stringify([{ token }]),
        JSON.stringify([{ name: "ada", sha256: token, tenant: "*", role: "admin" }]),
      ]) {
        const { code, stderr, stdout } = yield* runDlq([...everything, "console", "--port", "0"], {
          ...environment,
          DLQ_TOKENS: tokens,
        });
        assert.notStrictEqual(code, 0);
        assert.include(stdout + stderr, "cannot be used");
        assert.deepStrictEqual(foundIn(stdout + stderr), [], stderr);
      }
      // Counter-test: the one command that makes a token writes it, once, and its hash for the file.
      const made = yield* runDlq(
        ["token", "--name", "ada", "--role", "viewer", "--tenant", yield* newTenant],
        environment,
      );
      const [fresh = ""] = /dlq_[\w-]{43}/u.exec(made.stdout) ?? [];
      assert.lengthOf(made.stdout.split(fresh), 2);
      assert.include(made.stdout, hashOf(fresh));
    }),
  );
});
