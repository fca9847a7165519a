/**
 * The documents for people say what is so: every code block is run or compared with a run, and every reference table is
 * compared with what it describes. A block that nothing here knows how to run makes this fail.
 */

import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import ts from "typescript";
import { inject } from "vitest";
import * as Client from "../src/client.js";
import { historyHead, maxErrorLength, maxHistory } from "../src/error-text.js";
import { JobDlqFilter } from "../src/job-dlq/filter.js";
import { ReplayOutcome } from "../src/job-dlq/replay.js";
import { maxDepth } from "../src/json.js";
import { JobDlqReason, JobStatus } from "../src/models.js";
import { DatabaseService } from "../src/repos.js";
import { databaseError } from "../src/sql-state.js";
import { isFull } from "./support/campaign.js";
import { type Ended, interrupted, root, run, succeed } from "./support/command.js";
import { compilerOptions, diagnosticsOf } from "./support/compile.js";
import { deadJob, newTenant, TestDatabase, TestUrl, urlAs } from "./support/database.js";
import { type Block, blocksOf, documents, tableUnder } from "./support/markdown.js";
import { start } from "./support/process.js";

const patience = 300_000;
const readme = "README.md";
const blocks = documents.flatMap(blocksOf);
const { packageManager, scripts } = JSON.parse(fs.readFileSync(join(root, "package.json"), "utf8"));
const manifest = (name: string) => JSON.parse(fs.readFileSync(join(root, "packages", name, "package.json"), "utf8"));

/** What runs or checks each kind of block, by language and name. */
const known = [
  "ts", // the guide's files
  "sql guide", // in the guide's database, before its program
  "sql workers", // the tables of the guide to workers, by guide.test.ts
  "sql roles", // as an administrator, on an empty database
  "sql denied", // what a production login must not be able to do
  "sh", // see `commands`
  "text demo", // a run of the demo
  "text test", // a run of npm test
  "text portal-db", // a run of the command
  "text guide", // a run of the guide's program
  "text workers", // a run of the program with a runner in it
  "text states", // names every state
  "text equations", // by promises.test.ts
  "text tree", // paths that exist
];
const kindOf = ({ language, name }: Block) => `${language} ${name}`.trim();
const only = (kind: string): Block => {
  const [block, ...others] = blocks.filter((_) => kindOf(_) === kind);
  assert.isDefined(block, kind);
  assert.lengthOf(others, 0, kind);
  return block;
};
const linesOf = ({ text }: Block) => text.split("\n").filter((line) => line.trim() !== "" && line.trim() !== "⋮");

const environment = (url: Redacted.Redacted) => ({ DATABASE_URL: Redacted.value(url), POSTGRES_PROVIDER: "url" });
const emptyDatabase = Effect.suspend(() => Databases.empty(Redacted.make(inject("serverUrl"))));
/** What differs between two runs that did the same: ids, processes, times, counts of a race, where the server came from. */
const timeless = (text: string) =>
  text
    .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "<uuid>")
    .replaceAll(/…[0-9a-f]{8}/g, "…<end>")
    .replaceAll(/\bkill -9 \d+/g, "kill -9 <pid>")
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "<time>")
    .replaceAll(/\d\d:\d\d:\d\d\.\d{3}/g, "<time>")
    .replaceAll(/\b(acme|globex) [0-9a-f]{6}\b/g, "$1 <mark>")
    .replaceAll(/PostgreSQL 18\.\d+ \((url|embedded|testcontainers)\)/g, "PostgreSQL <version>")
    .replaceAll(/PostgreSQL 18\.\d+/g, "PostgreSQL <version>");

/** Whether the lines occur in the text in this order, each after the one before; returns the first that does not. */
const missingLine = (lines: ReadonlyArray<string>, text: string, same = timeless): string | undefined => {
  const printed = text.split("\n").map((line) => same(line.trimEnd()));
  let from = 0;
  for (const line of lines) {
    const place = printed.indexOf(same(line.trimEnd()), from);
    if (place === -1) return line;
    from = place + 1;
  }
  return undefined;
};

// --- the guide ---------------------------------------------------------------

/** The guide's files in a folder from which the packages resolve as they do for a user. */
const guide = Effect.gen(function* () {
  const files = blocks
    // packages/operator/test/api-guide.test.ts compiles and runs that page's.
    .filter(({ language, place }) => language === "ts" && !place.startsWith("docs/api.md:"))
    .map(({ place, text }) => {
      const [, name] = /^\/\/ ([\w-]+\.ts)\n/.exec(text) ?? [];
      assert.isDefined(name, `${place}: a TypeScript block begins with the name of its file`);
      return { name, text };
    });
  assert.strictEqual(new Set(files.map(({ name }) => name)).size, files.length);
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => {
      // In a package that sees all the others.
      const made = join(root, "packages/jobs/artifacts", `guide-${randomBytes(4).toString("hex")}`);
      fs.mkdirSync(made, { recursive: true });
      for (const { name, text } of files) fs.writeFileSync(join(made, name), text);
      return made;
    }),
    (made) => Effect.sync(() => fs.rmSync(made, { recursive: true, force: true })),
  );
  return { folder, files };
});

// --- what the packages export ------------------------------------------------

/** Every exported class of the sources that is an Error, by what the compiler says: `name` → `package/module`. */
const exportedErrors = () => {
  const modules = ["database", "jobs", "postgres"].flatMap((name) =>
    fs
      .readdirSync(join(root, "packages", name, "src"), { recursive: true, encoding: "utf8" })
      .filter((_) => _.endsWith(".ts") && !_.startsWith("internal/"))
      .map((file) => ({
        module: `${name}/${file.slice(0, -".ts".length)}`,
        path: join(root, "packages", name, "src", file),
      })),
  );
  const program = ts.createProgram(
    modules.map(({ path }) => path),
    compilerOptions(),
  );
  const checker = program.getTypeChecker();
  const found = new Map<string, string>();
  for (const { module, path } of modules) {
    const source = program.getSourceFile(path);
    assert.isDefined(source, module);
    ts.forEachChild(source, (node) => {
      if (!ts.isClassDeclaration(node) || node.name === undefined) return;
      const isExported = node.modifiers?.some((_) => _.kind === ts.SyntaxKind.ExportKeyword) === true;
      const properties = checker.getPropertiesOfType(checker.getTypeAtLocation(node.name)).map((_) => _.name);
      if (isExported && ["name", "message", "stack"].every((_) => properties.includes(_)))
        found.set(node.name.text, module);
    });
  }
  return found;
};

// --- commands ----------------------------------------------------------------

interface Runner {
  readonly form: RegExp;
  readonly check: (match: RegExpExecArray, url: Redacted.Redacted) => Effect.Effect<unknown>;
}

const ended = (line: string, { code, stderr, stdout }: Ended) =>
  assert.strictEqual(code, 0, `${line}\n${stdout}\n${stderr}`);

/** What npx runs in a checkout: of a command that is not installed it would fetch a stranger's package. */
const withPostgres = join(root, "node_modules/.bin/with-postgres");
const serverUrl = /^postgres:\/\/postgres:.+@127\.0\.0\.1:\d+\/postgres$/m;

/** What the shell blocks may say. Quick commands are run; of long ones it is proved that they exist and are run elsewhere. */
const commands: ReadonlyArray<Runner> = [
  // Both are run below, and what they print is compared.
  { form: /^npm run demo$|^npm test$/, check: () => Effect.void },
  {
    // It takes minutes.
    form: /^npm run bench -- --(full|write)$/,
    check: ([line, option = ""]) =>
      Effect.sync(() => {
        const program = fs.readFileSync(join(root, "packages/bench/src/main.ts"), "utf8");
        assert.include(program, `${option}: { type: "boolean"`, line);
      }),
  },
  {
    form: /^npm (?:run )?([\w:-]+)(?: -- .*)?$/,
    check: ([line, script = ""]) =>
      Effect.sync(() => {
        assert.property(scripts, script, line);
        const [, own] = /^(?:exec )?node scripts\/run\.mjs (\S+)$/.exec(scripts[script]) ?? [];
        if (own !== undefined) assert.include(fs.readFileSync(join(root, "scripts/run.mjs"), "utf8"), own);
      }),
  },
  {
    form: /^(npx|pnpm exec) portal-db (\w+)$/,
    check: ([line, how, command = ""], url) =>
      Effect.map(
        how === "npx"
          ? run(join(root, "node_modules/.bin/portal-db"), [command], { env: environment(url) })
          : run("npx", ["--yes", packageManager, "exec", "portal-db", command], { env: environment(url) }),
        (_) => ended(line, _),
      ),
  },
  // packages/operator/test/guide.test.ts and api-guide.test.ts run them in their order.
  { form: /^(?:npx dlq|curl) .+$/, check: () => Effect.void },
  // With the guide's handlers, below.
  { form: /^npx runner \w+\.js$/, check: () => Effect.void },
  {
    form: /^npx runner --help$/,
    check: ([line]) => Effect.map(run(join(root, "node_modules/.bin/runner"), ["--help"]), (_) => ended(line, _)),
  },
  // Long, and about the machine: packages/jobs/test/guide.test.ts runs the script on a few jobs with every option that these have.
  {
    form: /^npx with-postgres -- node --import tsx (measure\/\w+\.ts)(?: [\w,-]+)*$/,
    check: ([line, path = ""]) =>
      Effect.sync(() => assert.isTrue(fs.existsSync(join(root, "packages/jobs", path)), line)),
  },
  // The administrator's example, run with the roles below.
  { form: /^DATABASE_URL=\S+ npx portal-db (migrate|check)$/, check: () => Effect.void },
  {
    form: /^(?:npx|pnpm exec) with-postgres -- node --eval "(.+)"$/,
    check: ([line, script = ""]) =>
      Effect.map(
        run(withPostgres, ["--", "node", "--eval", script], { env: { POSTGRES_PROVIDER: "embedded" } }),
        (_) => {
          ended(line, _);
          assert.match(_.stdout, serverUrl);
        },
      ),
  },
  // It stays up until Ctrl-C, which here comes as soon as it has said where it is.
  {
    form: /^npx with-postgres$/,
    check: ([line]) =>
      Effect.map(interrupted(withPostgres, serverUrl, { POSTGRES_PROVIDER: "embedded" }), (_) => ended(line, _)),
  },
  {
    form: /^npm install ((?:\S+ ?)+)$/,
    check: ([line, packages = ""]) =>
      Effect.sync(() => {
        const peers: Record<string, string> = manifest("database").peerDependencies;
        for (const given of packages.split(" ")) {
          if (given === "@parametric-portal/database" || given === "@parametric-portal/jobs") continue;
          const [, name = "", range] = /^(@?[^@]+)@(.+)$/.exec(given) ?? [];
          assert.strictEqual(range, peers[name], `${line}: ${given}`);
        }
      }),
  },
  {
    form: /^pnpm exec nx run (@parametric-portal\/(\w+)):(\w+)$/,
    check: ([line, name, folder = "", target = ""]) =>
      Effect.sync(() => {
        assert.strictEqual(manifest(folder).name, name, line);
        assert.property(manifest(folder).scripts, target, line);
      }),
  },
  {
    form: /^pnpm exec nx run-many -t ((?:\w+ ?)+)$/,
    check: ([line, targets = ""]) =>
      Effect.sync(() => {
        for (const name of ["console", "database", "jobs", "operator", "postgres"]) {
          for (const target of targets.split(" ")) assert.property(manifest(name).scripts, target, line);
        }
      }),
  },
  {
    form: /^pnpm (?:changeset|exec changeset)(?: version| status)?$/,
    check: ([line]) => Effect.sync(() => assert.isTrue(fs.existsSync(join(root, "node_modules/.bin/changeset")), line)),
  },
  {
    form: /^(?:TEST_FULL=1 |TEST_SEED=\d+ |UPDATE_SNAPSHOT=1 )?npm test -- (\S+)$/,
    check: ([line, path = ""]) => Effect.sync(() => assert.isTrue(fs.existsSync(join(root, path)), line)),
  },
  {
    form: /^bash (\.ci\/run)$/,
    check: ([line, path = ""]) => Effect.sync(() => assert.isTrue(fs.existsSync(join(root, path)), line)),
  },
];

layer(TestDatabase, { excludeTestServices: true })("the documents", (it) => {
  it("have no block that nobody runs", () => {
    for (const block of blocks) assert.include(known, kindOf(block), block.place);
    assert.includeMembers([...documents], ["README.md", "CONTRIBUTING.md"]);
  });

  it("name neither a machine's paths nor a registry", () => {
    for (const file of documents) {
      assert.notMatch(fs.readFileSync(join(root, file), "utf8"), /\/(work|tmp|root|home)\/|registry\.|:\/\/npm/, file);
    }
  });

  it("show a tree of paths that exist, and every package is in it", () => {
    const paths = linesOf(only("text tree")).map((line) => line.trim().split(/ {2,}/)[0] ?? "");
    for (const path of paths) assert.isTrue(fs.existsSync(join(root, path)), path);
    for (const name of fs.readdirSync(join(root, "packages"))) assert.include(paths, `packages/${name}`);
  });

  it("link to what exists", () => {
    const slug = (heading: string) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\w\- ]/g, "")
        .replaceAll(" ", "-");
    for (const file of documents) {
      const text = fs.readFileSync(join(root, file), "utf8").replaceAll(/^```[\s\S]*?^```$/gm, "");
      const anchors = [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) => slug(heading));
      for (const [, target = ""] of text.matchAll(/\]\(([^)]+)\)/g)) {
        if (target.startsWith("https://")) continue;
        const [path = "", anchor] = target.split("#");
        if (path === "") assert.include(anchors, anchor, `${file}: ${target}`);
        else assert.isTrue(fs.existsSync(join(root, file, "..", path)), `${file}: ${target}`);
      }
    }
  });

  describe("the guide", () => {
    it.scoped(
      "compiles under the workspace's own rules, and a mistake in it would not",
      () =>
        Effect.gen(function* () {
          const { files, folder } = yield* guide;
          const mistake = join(folder, "mistake.ts");
          const right = fs.readFileSync(join(folder, "retention.ts"), "utf8");
          fs.writeFileSync(mistake, right.replace("jobDlq.purge(days)", 'jobDlq.purge("1")'));
          // The files of the runbook and of the guide to workers are no part of this one's program; tests of their own run them.
          const apart = ["docs/runbook.md", "docs/workers.md"]
            .flatMap(blocksOf)
            .filter(({ language }) => language === "ts")
            .map(({ text }) => join(folder, /^\/\/ ([\w-]+\.ts)\n/.exec(text)?.[1] ?? ""));
          const programs = ["main.ts", "one-process.ts"].map((_) => join(folder, _));
          const program = ts.createProgram([...programs, mistake, ...apart], compilerOptions());
          const said = diagnosticsOf(program);
          assert.deepStrictEqual(
            said.filter((_) => !_.startsWith("mistake.ts")),
            [],
          );
          assert.lengthOf(said, 1);
          // The programs are what these import, directly or not; a file beside them would not be run.
          const own = program.getSourceFiles().filter(({ fileName }) => fileName.includes("/artifacts/guide-"));
          assert.strictEqual(own.length, files.length + 1);
          // Written as the code is written.
          yield* succeed(join(root, "node_modules/.bin/biome"), ["check", "--vcs-enabled=false", folder]);
        }),
      patience,
    );

    it.scoped(
      "runs in its order and prints what it says",
      () =>
        Effect.gen(function* () {
          const { folder } = yield* guide;
          const url = yield* TestUrl;
          const sql = yield* SqlClient.SqlClient;
          for (const { language, name, text } of blocks) {
            if (language === "sql" && name === "guide") yield* sql.unsafe(text);
          }
          for (const [program, name] of [
            ["main.ts", "guide"],
            ["one-process.ts", "workers"],
          ] as const) {
            const printed = yield* succeed(process.execPath, ["--import", "tsx", join(folder, program)], {
              cwd: join(root, "packages/jobs"),
              env: environment(url),
            });
            assert.strictEqual(printed, only(`text ${name}`).text);
          }
        }),
      patience,
    );

    it.scoped(
      "has handlers with which a runner starts, and ends when it is told to",
      () =>
        Effect.gen(function* () {
          const { folder } = yield* guide;
          const url = yield* TestUrl;
          const [, module = ""] = /^npx runner (\w+)\.js$/m.exec(blocks.map(({ text }) => text).join("\n")) ?? [];
          const runner = yield* start(
            join(root, "node_modules/.bin/runner"),
            [join(folder, `${module}.ts`), "--single", "--health-port", "0"],
            environment(url),
          );
          yield* runner.saysOnStderr('message="runner started"');
          yield* runner.kill("SIGTERM");
          const { code, stderr } = yield* runner.ended;
          assert.strictEqual(code, 0, stderr);
          assert.include(stderr, "types=mail.receipt");
        }),
      patience,
    );
  });

  describe("the commands", () => {
    it.scoped(
      "exist, and the quick ones run",
      () =>
        Effect.gen(function* () {
          const url = yield* emptyDatabase;
          // Each once, in the order of the first mention: a command that needs a migrated database comes after migrate.
          const places = new Map<string, string>();
          for (const { language, place, text } of blocks) {
            if (language !== "sh") continue;
            for (const line of text.trim().split("\n")) places.set(line, places.get(line) ?? place);
          }
          for (const [line, place] of places) {
            const runner = commands.find(({ form }) => form.test(line));
            assert.isDefined(runner, `${place}: nobody knows how to run ${line}`);
            const match = runner.form.exec(line);
            if (match !== null) yield* runner.check(match, url);
          }
        }),
      patience,
    );

    it("the scripts that call pnpm call the pinned one", () => {
      for (const [name, script] of Object.entries<string>(scripts)) {
        if (script.includes("pnpm")) assert.include(script, `npx --yes ${packageManager} `, name);
      }
    });

    it.scoped(
      "portal-db prints what the guide shows",
      () =>
        Effect.gen(function* () {
          const url = yield* emptyDatabase;
          let printed = "";
          for (const command of ["migrate", "status", "check"]) {
            printed += yield* succeed("node", ["packages/database/bin/portal-db.mjs", command], {
              env: environment(url),
            });
          }
          assert.strictEqual(timeless(printed), timeless(only("text portal-db").text));
        }),
      patience,
    );

    it.scoped.runIf(isFull)(
      "npm run demo prints the quoted lines, in their order",
      () =>
        Effect.gen(function* () {
          const url = yield* emptyDatabase;
          const { code, stderr, stdout } = yield* run("npm", ["run", "demo"], { env: environment(url) });
          assert.strictEqual(code, 0, stderr);
          const [first, ...story] = linesOf(only("text demo"));
          // The server announces itself on stderr, so that a program's output stays its own.
          assert.isUndefined(missingLine([first ?? ""], stderr));
          assert.isUndefined(missingLine(story, stdout), stdout);
          assert.isDefined(missingLine([...story, ...story], stdout), "counter-test: the story is told once");
        }),
      patience,
    );

    it.scoped(
      "npm test prints the quoted lines, but for the numbers",
      () =>
        Effect.gen(function* () {
          const { code, stderr, stdout } = yield* run("npm", ["test", "--", "packages/database/test/cursor.test.ts"], {
            env: environment(Redacted.make(inject("serverUrl"))),
          });
          assert.strictEqual(code, 0, stderr);
          const lines = linesOf(only("text test"));
          // How many were skipped depends on whether a container engine answers, and one file alone skips none.
          const numberless = (line: string) =>
            timeless(line)
              .replace(/ \| \d+ skipped/, "")
              .replaceAll(/\d+/g, "<n>");
          const isServers = (line: string) => line.startsWith("> PostgreSQL");
          assert.isUndefined(missingLine(lines.filter(isServers), stderr, numberless), stderr);
          assert.isUndefined(
            missingLine(
              lines.filter((_) => !isServers(_)),
              stdout,
              numberless,
            ),
            stdout,
          );
        }),
      patience,
    );
  });

  describe("production roles", () => {
    it.scoped(
      "the administrator's SQL makes a migrator that migrates and logins that can do what they should and no more",
      () =>
        Effect.gen(function* () {
          // Roles belong to the whole server: this run's have names of their own.
          const mark = `shop_${randomBytes(4).toString("hex")}`;
          const renamed = (text: string) => text.replaceAll(/\bshop_/g, `${mark}_`);
          const url = yield* emptyDatabase;
          const names = ["migrator", "app", "web"].map((_) => `${mark}_${_}`);
          // Before its roles go, the database that has their objects must be gone, or they must own nothing any more.
          const administer = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) =>
            Effect.provide(effect, Client.layer({ url, maxConnections: 1 }));
          yield* Effect.addFinalizer(() =>
            Effect.orDie(
              administer(
                Effect.gen(function* () {
                  const sql = yield* SqlClient.SqlClient;
                  for (const name of names) yield* sql.unsafe(`DROP OWNED BY ${name} CASCADE; DROP ROLE ${name}`);
                }),
              ),
            ),
          );
          yield* administer(
            Effect.gen(function* () {
              const sql = yield* SqlClient.SqlClient;
              for (const statement of renamed(only("sql roles").text)
                .split(/;\n/)
                .filter((_) => _.trim() !== "")) {
                yield* sql.unsafe(statement).pipe(
                  // The two lines that the text says to skip when the roles exist, which they do on a test server.
                  Effect.catchAll((error) =>
                    databaseError(error).code === "42710" && /CREATE ROLE parametric_\w+ NOLOGIN$/.test(statement)
                      ? Effect.void
                      : Effect.fail(error),
                  ),
                );
              }
            }),
          );

          const login = (name: string) => {
            const [, password = ""] =
              new RegExp(`CREATE ROLE shop_${name} LOGIN PASSWORD '([^']+)'`).exec(only("sql roles").text) ?? [];
            return urlAs(url, `${mark}_${name}`, password);
          };
          const lines = blocks.flatMap(({ language, text }) => (language === "sh" ? text.trim().split("\n") : []));
          const migrations = lines.flatMap((line) => {
            const [, user, password, command] =
              /^DATABASE_URL=postgres:\/\/shop_(\w+):([^@]+)@\S+ npx portal-db (\w+)$/.exec(line) ?? [];
            return command === undefined || user === undefined || password === undefined
              ? []
              : [{ command, url: urlAs(url, `${mark}_${user}`, password) }];
          });
          assert.deepStrictEqual(
            migrations.map(({ command }) => command),
            ["migrate", "check"],
          );
          for (const { command, url: as } of migrations) {
            yield* succeed("node", ["packages/database/bin/portal-db.mjs", command], { env: environment(as) });
          }

          const as = (name: string) =>
            DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url: login(name), maxConnections: 2 })));
          const refusals = Effect.gen(function* () {
            const db = yield* DatabaseService;
            const sql = yield* SqlClient.SqlClient;
            const code = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
              Effect.match(effect, {
                onSuccess: () => "allowed",
                onFailure: (error) =>
                  typeof error === "object" && error !== null && "reason" in error
                    ? String(error.reason)
                    : error instanceof Error &&
                        "cause" in error &&
                        typeof error.cause === "object" &&
                        error.cause !== null
                      ? String(Reflect.get(error.cause, "code"))
                      : String(error),
              });
            return {
              outside: yield* code(sql.unsafe(only("sql denied").text)),
              system: yield* code(Client.system(db.jobDlq.count())),
            };
          });
          assert.deepStrictEqual(yield* Effect.provide(refusals, as("app")), { outside: "42501", system: "allowed" });
          assert.deepStrictEqual(yield* Effect.provide(refusals, as("web")), { outside: "42501", system: "42501" });
          const appId = yield* Effect.provide(newTenant, as("app"));
          const work = Effect.gen(function* () {
            const db = yield* DatabaseService;
            const dead = yield* deadJob(appId);
            const [receipt] = yield* Client.tenant(appId)(db.jobDlq.replay([dead.id], { actor: "test" }));
            return receipt?.outcome;
          });
          assert.strictEqual(yield* Effect.provide(work, as("app")), "replayed");
          assert.strictEqual(yield* Effect.provide(work, as("web")), "replayed");
        }),
      patience,
    );
  });

  describe("the reference tables", () => {
    it(
      "of errors names every exported error, its module, and nothing else",
      () => {
        const foreign = new Set(["SqlError", "ConfigError"]);
        const told = tableUnder(readme, "Errors").map(({ error = "", module = "" }) => [error, module] as const);
        assert.deepStrictEqual(
          new Map(told.filter(([error]) => !foreign.has(error)).sort()),
          new Map([...exportedErrors()].sort()),
        );
        for (const row of tableUnder(readme, "Errors")) assert.notInclude(Object.values(row), "", row.error);
      },
      patience,
    );

    it.effect("of columns is what the database has", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const bare = (text: unknown) => String(text ?? "").replaceAll(/::\w+/g, "");
        for (const table of ["job_dlq", "job_dlq_events", "jobs"]) {
          const rows = yield* sql`
            SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
              pg_get_expr(d.adbin, d.adrelid) AS initial
            FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = ${table}::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`;
          assert.deepStrictEqual(
            tableUnder(readme, table).map((_) => ({ name: _.column, type: _.type, null: _.null, default: _.default })),
            rows.map((_) => ({
              name: String(_.name),
              type: String(_.type),
              null: _.nullable === true ? "yes" : "no",
              default: bare(_.initial),
            })),
          );
          for (const row of tableUnder(readme, table)) assert.notStrictEqual(row.meaning, "", row.column);
        }
      }),
    );

    it("of a filter's fields has those of its Schema", () => {
      const told = tableUnder(readme, "Operations").flatMap(({ field = "" }) => field.split(", "));
      assert.deepStrictEqual([...told].sort(), Object.keys(JobDlqFilter.fields).sort());
      for (const row of tableUnder(readme, "Operations")) assert.notStrictEqual(row.matches, "", row.field);
    });

    it.effect("of limits has the numbers of the code", () =>
      Effect.gen(function* () {
        const told = tableUnder(readme, "Limits").map(({ limit = "", what = "" }) => [
          what,
          [...limit.matchAll(/(?<![-\w])\d[\d,]*/g)].map(([number]) => Number(number.replaceAll(",", ""))),
        ]);
        const source = fs.readFileSync(join(root, "packages/database/src/repos.ts"), "utf8");
        const [, chunk = ""] = /^const chunkSize = ([\d_]+);$/m.exec(source) ?? [];
        assert.deepStrictEqual(Object.fromEntries(told), {
          "limit of a list, a claim, a rescue": [1, 1000],
          "rows in insertMany and enqueueMany": [Number(chunk.replaceAll("_", ""))],
          "text of one stored error": [maxErrorLength],
          "error history of one job": [maxHistory, historyHead, maxHistory - historyHead],
          "nesting of a payload": [maxDepth],
          "numbers in a payload": [2, 53],
          "days of a purge": [0],
        });
        const db = yield* DatabaseService;
        const isTaken = (effect: Effect.Effect<unknown, unknown, SqlClient.SqlClient>) => Effect.isSuccess(effect);
        const lists = [1000, 1, 1001, 0].map((limit) => isTaken(Client.system(db.jobDlq.listPending({ limit }))));
        assert.deepStrictEqual(yield* Effect.all(lists), [true, true, false, false]);
        const purges = [0, -1].map((days) => isTaken(Client.system(db.jobDlq.purge(days))));
        assert.deepStrictEqual(yield* Effect.all(purges), [true, false]);
      }),
    );

    it.effect("of methods is what the service has", () =>
      Effect.gen(function* () {
        const { apps, jobDlq, jobs, ...service } = yield* DatabaseService;
        const repositories = { apps, jobs, jobDlq };
        const has = Object.entries(repositories).flatMap(([name, methods]) =>
          Object.keys(methods).map((method) => `${name}.${method}`),
        );
        const told = tableUnder(readme, "Methods").flatMap(({ method = "" }) => {
          const [name = ""] = method.split("(");
          return name.startsWith("*.") ? Object.keys(repositories).map((_) => `${_}${name.slice(1)}`) : [name];
        });
        const own = Object.keys(service).filter((_) => _ !== "_tag");
        assert.deepStrictEqual([...told].sort(), [...has, ...own].sort());
      }),
    );

    it("of receipts and reasons are the literals", () => {
      assert.deepStrictEqual(
        tableUnder(readme, "Receipts").map(({ receipt }) => receipt),
        [...ReplayOutcome.literals],
      );
      assert.deepStrictEqual(
        tableUnder(readme, "Reasons").map(({ reason }) => reason),
        [...JobDlqReason.literals],
      );
    });

    it("of states knows every state and every method that changes one, and so does the drawing", () => {
      const transitions = tableUnder(readme, "States");
      const drawing = only("text states").text;
      const named = new Set(transitions.flatMap(({ from, to }) => [from, to]));
      for (const status of JobStatus.literals) {
        assert.include([...named], status);
        assert.include(drawing, status);
      }
      for (const { by = "" } of transitions) assert.include(drawing, by.split(".")[1] ?? "none");
    });

    it.effect("of a package's modules name what each of them exports", () =>
      Effect.gen(function* () {
        for (const name of ["database", "jobs", "postgres"]) {
          const rows = tableUnder(`packages/${name}/README.md`, `@parametric-portal/${name}`, (cell) => cell);
          assert.isAbove(rows.length, 2);
          for (const { module: code = "", "what it has": what = "" } of rows) {
            const module = code.replaceAll("`", "");
            const exported = yield* Effect.promise(() => import(join(root, "packages", name, "src", `${module}.ts`)));
            const names = [...what.matchAll(/`(\w+)`/g)].map(([, word = ""]) => word);
            assert.isNotEmpty(names, module);
            for (const word of names) assert.property(exported, word, module);
          }
        }
      }),
    );

    it("of environment variables has every one that the sources read", () => {
      // What is read to find the ways of the machine itself, and is nobody's to set for us.
      const surroundings = new Set(["PATH", "XDG_RUNTIME_DIR", "NODE_OPTIONS", "HOME", "TMPDIR"]);
      const read = ["database/src", "jobs/src", "operator/src", "postgres/src", "database/test/support", "console/test"]
        .map((_) => `packages/${_}`)
        .flatMap((folder) =>
          fs
            .readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
            .filter((_) => _.endsWith(".ts"))
            .flatMap((file) => {
              const text = fs.readFileSync(join(root, folder, file), "utf8");
              const direct = [...text.matchAll(/process\.env\.([A-Z_]+)/g)];
              const configured = text.includes('"effect/Config"')
                ? [...text.matchAll(/"(PG[A-Z]+|[A-Z]+_[A-Z_]+)"/g)]
                : [];
              return [...direct, ...configured].map(([, name = ""]) => name);
            }),
        );
      // Those of the runners are named as a family, and one by one in the documents that the line links to.
      const told = [
        ...tableUnder(readme, "Environment variables"),
        ...tableUnder("docs/workers.md", "Options of the runner"),
        ...tableUnder("docs/metrics.md", "The environment"),
      ].map(({ variable }) => variable);
      for (const name of read) if (!surroundings.has(name)) assert.include(told, name);
      assert.includeMembers(read, ["DATABASE_URL", "PGSSLMODE", "POSTGRES_PROVIDER", "TEST_SEED"]);
      assert.includeMembers(read, ["RUNNER_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
    });
  });
});
