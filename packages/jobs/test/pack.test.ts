/** What a user of the package gets, used under plain Node. Needs the npm registry, or a cache of it. */
import { join } from "node:path";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { isFull } from "../../database/test/support/campaign.js";
import { run, succeed } from "../../database/test/support/command.js";
import { newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { compile, importAll, install, strangers, write } from "../../database/test/support/pack.js";
import { start } from "../../database/test/support/process.js";

const handlers = `
import * as JobType from "@parametric-portal/jobs/job-type";
import * as Console from "effect/Console";
import * as S from "effect/Schema";

export const Greet = JobType.make("greet", { payload: S.Struct({ name: S.NonEmptyString }), timeout: "30 seconds" });
// @ts-expect-error: no field of the payload
const unknownField = Greet.toLayer(({ colour }) => Console.log(colour));
export default Greet.toLayer(({ name }, { attempt }) => Console.log(\`hello \${name}, attempt \${attempt}\`));
`;

const submitter = `
import * as Client from "@parametric-portal/database/client";
import * as JobStoreSql from "@parametric-portal/jobs/job-store-sql";
import * as Jobs from "@parametric-portal/jobs/jobs";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Stream from "effect/Stream";
import { Greet } from "./handlers.js";

declare const process: { readonly argv: ReadonlyArray<string> };

const program = Effect.gen(function* () {
  const appId = process.argv[2] ?? "";
  // @ts-expect-error: not what the type's Schema says
  const wrong = () => Jobs.submit(Greet, { name: 1 }, { appId });
  const { jobId } = yield* Jobs.submit(Greet, { name: "Ada" }, { appId });
  const states = yield* Client.tenant(appId)(Stream.runCollect(Jobs.progress(jobId)));
  console.log(Array.from(states).at(-1)?.status, typeof wrong);
});

await Effect.runPromise(
  Effect.provide(program, Layer.provideMerge(JobStoreSql.layerDesk, Client.layerConfig())),
);
`;

layer(TestDatabase, { excludeTestServices: true })("a packed package", (it) => {
  // Packing and installing takes minutes.
  it.scoped.runIf(isFull)(
    "jobs: installed elsewhere, every public module imports, the runner runs, the types hold",
    () =>
      Effect.gen(function* () {
        const installed = yield* install("jobs", "database");
        const { files, folder, manifest } = installed;
        assert.deepStrictEqual(strangers(files), []);
        assert.includeMembers([...files], ["LICENSE", "README.md", "package.json", "dist/runner.js"]);
        const modules = yield* importAll(installed, "dist/");
        assert.includeMembers(modules, ["handlers", "job-type", "jobs", "runner", "testing"]);
        assert.notInclude(modules, "bin");

        const runner = join(folder, "node_modules/.bin/runner");
        assert.strictEqual((yield* succeed(runner, ["--version"], { cwd: folder })).trim(), manifest.version);
        const help = yield* succeed(runner, ["--help"], { cwd: folder });
        for (const option of ["<handlers>", "--concurrency", "--single"]) assert.include(help, option);
        assert.strictEqual((yield* run(runner, ["no-such-module.js", "--single"], { cwd: folder })).code, 1);

        yield* write(join(folder, "handlers.ts"), handlers);
        yield* write(join(folder, "submitter.ts"), submitter);
        assert.deepStrictEqual(yield* compile(installed, ["submitter.ts"]), []);
        const environment = { DATABASE_URL: Redacted.value(yield* TestUrl) };
        const working = yield* start(
          runner,
          [join(folder, "handlers.js"), "--single", "--health-port", "0"],
          environment,
        );
        yield* working.saysOnStderr("runner started");
        const printed = yield* succeed(process.execPath, ["submitter.js", yield* newTenant], {
          cwd: folder,
          env: environment,
        });
        assert.strictEqual(printed, "completed function\n");
        yield* working.kill("SIGTERM");
        const { code, stderr, stdout } = yield* working.ended;
        assert.strictEqual(code, 0, stderr);
        assert.strictEqual(stdout, "hello Ada, attempt 1\n");
      }),
    600_000,
  );
});
