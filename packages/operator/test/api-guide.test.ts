/** The page about the HTTP API says what is so: its commands and its program run, its table is the API's own definition. */
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as OpenApi from "@effect/platform/OpenApi";
import { assert, it, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import ts from "typescript";
import { compilerOptions, diagnosticsOf } from "../../database/test/support/compile.js";
import { letter, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { blocksOf, tableUnder } from "../../database/test/support/markdown.js";
import { freePort, root, start, withUrl } from "../../database/test/support/process.js";
import { Api } from "../src/http/api.js";
import { objects, runDlq, startDlq } from "./support/dlq.js";

const page = "docs/api.md";
const port = 4480;

/** The output of a shell's line. */
const shell = (line: string, environment: Readonly<Record<string, string>>) =>
  Effect.async<string>((resume) => {
    execFile("sh", ["-c", line], { env: { ...process.env, ...environment } }, (error, stdout, stderr) =>
      resume(error === null ? Effect.succeed(stdout) : Effect.die(new Error(`${line}\n${stderr}`, { cause: error }))),
    );
  });

it("has every route, with what the API says of it", () => {
  const defined = Object.entries(OpenApi.fromApi(Api).paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { description = "" }]) => {
      const [, what = "", role = ""] = /^(.*) Role: (.*)\.$/su.exec(description) ?? [];
      return { route: `${method.toUpperCase()} ${path}`, "what it does": what.replaceAll("`", ""), role };
    }),
  );
  assert.deepStrictEqual(tableUnder(page, "Routes"), defined);
});

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("the page about the HTTP API", (it) => {
  it.scoped("has commands and a program that run, in this order", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const environment = withUrl(yield* TestUrl);
      const { id: appId } = yield* Client.system(db.apps.insert({ name: "acme" }));
      const mails = (count: number) =>
        Client.tenant(appId)(
          db.jobDlq.insertMany(
            Array.from({ length: count }, () => letter(appId, { type: "mail.send", errorReason: "MaxRetries" })),
          ),
        );
      yield* mails(3);
      const lines = blocksOf(page).flatMap(({ language, text }) => (language === "sh" ? text.trim().split("\n") : []));
      const dlq = lines.filter((_) => _.startsWith("npx dlq token "));
      assert.strictEqual(dlq.length, 2);
      const made = yield* Effect.forEach(dlq, (line) => {
        const words = [...line.matchAll(/"([^"]*)"|(\S+)/gu)].map((_) => _[1] ?? _[2] ?? "");
        return Effect.map(runDlq([...words.slice(2), "--json"], environment), ({ code, stderr, stdout }) => {
          assert.strictEqual(code, 0, stderr);
          return objects(stdout)[0] as { readonly token: string; readonly grant: unknown };
        });
      });

      const serve = lines.find((_) => _.startsWith("npx dlq console "));
      assert.strictEqual(serve, `npx dlq console --port ${port}`);
      const free = yield* freePort;
      const server = yield* startDlq(["console", "--port", String(free)], {
        ...environment,
        DLQ_TOKENS: JSON.stringify(made.map(({ grant }) => grant)),
      });
      yield* server.saysOnStderr("2 tokens are known");
      const moved = (text: string) => text.replaceAll(`127.0.0.1:${port}`, `127.0.0.1:${free}`);
      const token = { DLQ_TOKEN: made[0]?.token ?? "" };
      const [groups, letters, replayed, ...more] = yield* Effect.forEach(
        lines.filter((_) => _.startsWith("curl ")),
        (line) => shell(moved(line), token),
      );
      assert.strictEqual(more.length, 0);
      assert.strictEqual(JSON.parse(groups ?? "")[0].count, 3);
      assert.strictEqual(JSON.parse(letters ?? "").items.length, 3);
      assert.match(replayed ?? "", /event: done\ndata: .*"replayed":3/u);

      yield* mails(2);
      const [program] = blocksOf(page).filter(({ language }) => language === "ts");
      const folder = join(root, "packages/operator/artifacts");
      mkdirSync(folder, { recursive: true });
      const file = join(folder, `api-guide-${process.pid}.ts`);
      writeFileSync(file, moved(program?.text ?? ""));
      yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(file)));
      assert.deepStrictEqual(diagnosticsOf(ts.createProgram([file], compilerOptions())), []);
      const ran = yield* Effect.flatMap(
        start(process.execPath, ["--import", "tsx", file], token),
        ({ ended }) => ended,
      );
      assert.strictEqual(ran.stdout, "2 of 2 replayed\n", ran.stderr);
    }),
  );

  it.scoped("has figures of a script that runs", () =>
    Effect.gen(function* () {
      const script = join(root, "packages/operator/measure/first-page.ts");
      assert.include(readFileSync(join(root, page), "utf8"), "measure/first-page.ts");
      const ran = yield* Effect.flatMap(
        start(process.execPath, ["--import", "tsx", script, "120", "5"], withUrl(yield* TestUrl)),
        ({ ended }) => ended,
      );
      assert.strictEqual(ran.code, 0, ran.stderr);
      assert.hasAllKeys(objects(ran.stdout)[0], ["letters", "requests", "apiMillis", "driverMillis", "ratioP50"]);
    }),
  );
});
