/**
 * What a user of the packages gets: each is packed, installed with npm into an empty folder outside the workspace, and used
 * there under plain Node. Needs the npm registry, or a cache of it.
 */
import * as fs from "node:fs/promises";
import { join } from "node:path";
import { assert, layer } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { inject } from "vitest";
import { isFull } from "./support/campaign.js";
import { run, succeed } from "./support/command.js";
import { newTenant, TestDatabase, TestUrl } from "./support/database.js";
import { compile, importAll, install, read, strangers, write } from "./support/pack.js";

const patience = 600_000;

const consumer = `
import * as Client from "@parametric-portal/database/client";
import { JobDlq } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";

declare const process: { readonly argv: ReadonlyArray<string> };
const appId = process.argv[2] ?? "";

const program = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const job = yield* db.jobs.enqueue({ appId, type: "mail.send", payload: [1], requestId: Option.none(), userId: Option.none() });
  const dead: JobDlq = yield* db.jobs.deadLetter({ id: job.id, reason: "Validation", error: new Error("no address") });
  // @ts-expect-error: not one of the four reasons
  const unknownReason = () => db.jobs.deadLetter({ id: job.id, reason: "Bored", error: "" });
  // @ts-expect-error: no column of the table
  const unknownColumn = () => db.jobDlq.find({ colour: "red" });
  const [receipt] = yield* db.jobDlq.replay([dead.id], { actor: "test" });
  console.log(receipt?.outcome, typeof unknownReason, typeof unknownColumn);
}).pipe(Client.tenant(appId));

const live = DatabaseService.layer.pipe(Layer.provideMerge(Client.layerConfig()));
// @ts-expect-error: without its layer it does not run
const withoutLayer = () => Effect.runPromise(program);
await Effect.runPromise(Effect.provide(program, live));
console.log(typeof withoutLayer);
`;

layer(TestDatabase, { excludeTestServices: true })("a packed package", (it) => {
  // Packing and installing takes minutes.
  it.scoped.runIf(isFull)(
    "database: installed elsewhere, every public module imports, the command runs, the types hold",
    () =>
      Effect.gen(function* () {
        const installed = yield* install("database");
        const { files, folder, manifest } = installed;
        assert.deepStrictEqual(strangers(files), []);
        assert.includeMembers([...files], ["LICENSE", "package.json", "dist/migrations/0002_job_dlq.js"]);
        assert.include(
          yield* read(folder, "node_modules/@parametric-portal/database/dist/src/client.js"),
          "export const layer",
        );

        const modules = yield* importAll(installed, "dist/src/");
        assert.includeMembers(modules, ["client", "errors", "factory", "migrator", "models", "repos"]);
        assert.notInclude(modules, "bin");
        for (const hidden of ["internal/settings", "dist/src/client.js", "src/client.ts", "client.js"]) {
          const { stdout } = yield* run(
            process.execPath,
            ["--eval", `import("@parametric-portal/database/${hidden}").catch((_) => console.log(_.code))`],
            { cwd: folder },
          );
          assert.match(stdout, /ERR_PACKAGE_PATH_NOT_EXPORTED|ERR_MODULE_NOT_FOUND/, hidden);
        }

        const portalDb = (url: Redacted.Redacted, ...args: ReadonlyArray<string>) =>
          run(join(folder, "node_modules/.bin/portal-db"), args, {
            cwd: folder,
            env: { DATABASE_URL: Redacted.value(url) },
          });
        const url = yield* TestUrl;
        assert.strictEqual((yield* portalDb(url, "--version")).stdout.trim(), manifest.version);
        assert.match((yield* portalDb(url, "status")).stdout, /^0001_initial {2}applied .*\n0002_job_dlq {2}applied /);
        const empty = yield* Databases.empty(Redacted.make(inject("serverUrl")));
        assert.strictEqual((yield* portalDb(empty, "check")).code, 1);
        assert.deepInclude(yield* portalDb(empty, "migrate"), { code: 0, stderr: "" });
        assert.strictEqual((yield* portalDb(empty, "check")).code, 0);

        yield* write(join(folder, "consumer.ts"), consumer);
        assert.deepStrictEqual(yield* compile(installed, ["consumer.ts"]), []);
        const printed = yield* succeed(process.execPath, ["consumer.js", yield* newTenant], {
          cwd: folder,
          env: { DATABASE_URL: Redacted.value(url) },
        });
        assert.strictEqual(printed, "replayed function function\nfunction\n");
      }),
    patience,
  );

  it.scoped.runIf(isFull)(
    "postgres: installed elsewhere, it starts an embedded server for a command and takes it away again",
    () =>
      Effect.gen(function* () {
        const installed = yield* install("postgres");
        const { files, folder, manifest } = installed;
        assert.deepStrictEqual(strangers(files), []);
        const modules = yield* importAll(installed, "dist/");
        assert.includeMembers(modules, ["databases", "errors", "postgres"]);
        assert.notIncludeMembers(modules, ["bin", "keeper", "internal/settings", "internal/protocol"]);

        yield* write(
          join(folder, "consumer.ts"),
          `import * as Postgres from "@parametric-portal/postgres/postgres";
           import * as Effect from "effect/Effect";
           // @ts-expect-error: no provider of that name
           const unknown = () => Postgres.make({ provider: "oracle" });
           const server = await Effect.runPromise(Effect.scoped(Postgres.makeConfig()));
           console.log(server.provider, server.version, typeof unknown);`,
        );
        assert.deepStrictEqual(yield* compile(installed, ["consumer.ts"]), []);
        const temporary = join(folder, "temporary");
        yield* Effect.promise(() => fs.mkdir(temporary));
        const printed = yield* succeed(
          join(folder, "node_modules/.bin/with-postgres"),
          [process.execPath, join(folder, "consumer.js")],
          { cwd: folder, env: { POSTGRES_PROVIDER: "embedded", TMPDIR: temporary } },
        );
        assert.match(printed, /^url 18\.\d+ function\n$/);
        assert.deepStrictEqual(yield* Effect.promise(() => fs.readdir(temporary)), []);
        assert.strictEqual(manifest.name, "@parametric-portal/postgres");
      }),
    patience,
  );
});
