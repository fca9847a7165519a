/**
 * The guide to workers and the page on tuning say what is so: the guide's code runs, its tables are those of the code, every test
 * that it names is there, and the commands that measure can be run.
 */
import { randomBytes, randomUUID } from "node:crypto";
import * as fs from "node:fs";
import { basename, join } from "node:path";
import * as CliConfig from "@effect/cli/CliConfig";
import * as Command from "@effect/cli/Command";
import * as HelpDoc from "@effect/cli/HelpDoc";
import * as SqlClient from "@effect/sql/SqlClient";
import { afterAll, assert, describe, it, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Chunk from "effect/Chunk";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { inject } from "vitest";
import { root, succeed, typescript } from "../../database/test/support/command.js";
import { newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { blocksOf, tableUnder } from "../../database/test/support/markdown.js";
import { freePort, start, withUrl } from "../../database/test/support/process.js";
import { isTest, testFiles } from "../../database/test/support/titles.js";
import { command } from "../src/command.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import * as Testing from "../src/testing.js";
import { answers, startRunner } from "./support/process.js";

const guide = "docs/workers.md";
const tuning = "docs/tuning.md";
const blocks = blocksOf(guide);

/** The guide's files, in a folder from which the packages resolve as they do for a user. */
const folder = join(root, "packages/jobs/artifacts", `workers-${randomBytes(4).toString("hex")}`);
fs.mkdirSync(folder, { recursive: true });
for (const { language, text } of blocks) {
  if (language === "ts") fs.writeFileSync(join(folder, /^\/\/ ([\w-]+\.ts)\n/.exec(text)?.[1] ?? "unnamed.ts"), text);
}
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

type Call<A> = Effect.Effect<A, unknown, DatabaseService | SqlClient.SqlClient | Jobs.JobDesk>;
type Invoice = { readonly number: number; readonly cents: number };
type Kind = JobType.JobType<string, Invoice, Invoice>;

/** What the blocks export, by their own types; the documents' test typechecks them. */
interface Guide {
  readonly Book: Kind;
  readonly Charge: Kind;
  readonly issue: (appId: string, requestId: string, number: number, cents: number) => Call<Jobs.Submitted>;
  readonly remind: (appId: string, invoices: ReadonlyArray<Invoice>) => Call<ReadonlyArray<Jobs.Submitted>>;
  readonly standing: (appId: string, jobId: string) => Call<Option.Option<Partial<Jobs.JobState>>>;
  readonly follow: (appId: string, jobId: string) => Call<Chunk.Chunk<string>>;
  readonly cancel: (appId: string, jobId: string) => Call<Jobs.Cancelled>;
  readonly default: Parameters<typeof Runner.layerSingle>[0]["handlers"];
}
const load = (file: string) => import(join(folder, file));
const calls: Guide = Object.assign(
  {},
  ...(await Promise.all(["invoices.ts", "submitting.ts", "watching.ts", "handlers.ts"].map(load))),
);

// --- the test kit ------------------------------------------------------------

// Its tests are among those of this file.
await load("charge-test.ts");

// --- running it --------------------------------------------------------------

const createInvoices = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  for (const { language, name, text } of blocks) if (language === "sql" && name === "workers") yield* sql.unsafe(text);
});
const TestInvoices = Layer.effectDiscard(createInvoices).pipe(
  Layer.provideMerge(JobStoreSql.layerDesk),
  Layer.provideMerge(TestDatabase),
);

const jobsOf = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      SELECT type, status, attempts, priority::text AS priority, max_attempts, request_id FROM jobs WHERE app_id = ${appId}
      ORDER BY id`);
    return rows.map((row) => ({ ...row }));
  });
const bookings = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* sql`SELECT number, bookings FROM invoices ORDER BY number`;
    return rows.map((row) => ({ ...row }));
  }).pipe(Client.tenant(appId));
const untilCompleted = (appId: string, count: number) =>
  Effect.repeat(Effect.delay(jobsOf(appId), "20 millis"), {
    until: (jobs) => jobs.length === count && jobs.every(({ status }) => status === "completed"),
  });

layer(TestInvoices, { excludeTestServices: true, timeout: "3 minutes" })("the guide to workers", (test) => {
  test.effect("submits in the caller's transaction, books once, charges, and tells how a job stands", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const requestId = randomUUID();
      yield* Effect.flip(db.withTransaction(Effect.zipRight(calls.issue(appId, requestId, 1, 990), Effect.fail("no"))));
      assert.deepStrictEqual([yield* jobsOf(appId), yield* bookings(appId)], [[], []]);
      yield* Effect.gen(function* () {
        const { jobId } = yield* calls.issue(appId, requestId, 1, 990);
        const seen = Chunk.toReadonlyArray(yield* calls.follow(appId, jobId));
        assert.strictEqual(seen.at(-1), "completed");
        const standing = yield* calls.standing(appId, jobId);
        assert.deepInclude(Option.getOrThrow(standing), { status: "completed", attempts: 1, lastError: null });
        assert.isTrue(Option.isNone(yield* calls.standing(yield* newTenant, jobId)));
        assert.deepStrictEqual(yield* calls.cancel(appId, jobId), { status: "completed", isCancelled: false });
        assert.deepStrictEqual(yield* bookings(appId), [{ number: 1, bookings: 1 }]);
        const ended = { status: "completed", attempts: 1, priority: "normal", requestId };
        assert.deepStrictEqual(yield* untilCompleted(appId, 2), [
          { type: "invoice.book", maxAttempts: 5, ...ended },
          { type: "invoice.charge", maxAttempts: 6, ...ended },
        ]);
      }).pipe(Effect.provide(Runner.layerSingle({ handlers: calls.default as Layer.Layer<never> })));
    }),
  );

  test.effect("submits many for later, each with what is its own, and cancels one", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const [first, second] = yield* calls.remind(appId, [
        { number: 1, cents: 100 },
        { number: 2, cents: 100_001 },
      ]);
      assert.deepStrictEqual(yield* calls.cancel(appId, second?.jobId ?? ""), { status: "pending", isCancelled: true });
      const charge = { type: "invoice.charge", attempts: 0, maxAttempts: 2, requestId: null };
      assert.deepStrictEqual(yield* jobsOf(appId), [
        { ...charge, status: "pending", priority: "low" },
        { ...charge, status: "cancelled", priority: "high" },
      ]);
      yield* calls.cancel(appId, first?.jobId ?? "");
    }),
  );

  test.scoped("has handlers that the command runs", () =>
    Effect.gen(function* () {
      const url = yield* TestUrl;
      const appId = yield* newTenant;
      const runner = yield* startRunner([join(folder, "handlers.ts"), "--single", "--health-port", "0"], withUrl(url));
      yield* calls.issue(appId, randomUUID(), 7, 990);
      yield* untilCompleted(appId, 2);
      yield* runner.kill("SIGTERM");
      const { code, stderr } = yield* runner.ended;
      assert.strictEqual(code, 0, stderr);
      assert.include(stderr, "types=invoice.book,invoice.charge");
    }),
  );

  test.scoped("has a program of one's own that works, says how it is, and ends when it is told to", () =>
    Effect.gen(function* () {
      const url = yield* TestUrl;
      const appId = yield* newTenant;
      const [port, healthPort] = [yield* freePort, yield* freePort];
      const service = yield* start(process.execPath, [...typescript, join(folder, "service.ts")], {
        ...withUrl(url),
        PORT: `${port}`,
        HEALTH_PORT: `${healthPort}`,
      });
      yield* answers(healthPort, "/ready", 200);
      yield* calls.issue(appId, randomUUID(), 8, 990);
      yield* untilCompleted(appId, 2);
      yield* service.kill("SIGTERM");
      const { code, stderr, stdout } = yield* service.ended;
      assert.strictEqual(code, 0, `${stdout}${stderr}`);
    }),
  );

  test.scoped("has commands that measure, and their options are the script's", () =>
    Effect.gen(function* () {
      const url = yield* Effect.suspend(() => Databases.empty(Redacted.make(inject("serverUrl"))));
      const lines = blocksOf(tuning).flatMap(({ language, text }) =>
        language === "sh" ? text.trim().split("\n") : [],
      );
      assert.isAbove(lines.length, 4);
      const given = new Map<string, string>();
      for (const line of lines) {
        const [, options] =
          /^npx with-postgres -- node --import tsx measure\/throughput\.ts(?: \d+ \d+)?((?: --\w+ [\w,]+)*)$/.exec(
            line,
          ) ?? [];
        assert.isDefined(options, line);
        for (const [, name = "", value = ""] of options?.matchAll(/--(\w+) (\w+)/g) ?? []) given.set(name, value);
      }
      // All of them at once, on a few jobs; an option that there is not makes it fail.
      const printed = yield* succeed(
        process.execPath,
        [
          ...typescript,
          "measure/throughput.ts",
          "100",
          "1",
          ...[...given].flatMap(([name, value]) => [`--${name}`, value]),
        ],
        { cwd: join(root, "packages/jobs"), env: withUrl(url) },
      );
      assert.match(printed, /^100 jobs, 1 rounds/);
      for (const [name, value] of given) assert.include(printed, `${name} ${value}`);
      assert.match(printed, /rate +\d+ jobs\/s/);
    }),
  );
});

// --- its tables --------------------------------------------------------------

/** Names of the members of an interface in a source. */
const membersOf = (file: string, name: string) => {
  const text = fs.readFileSync(join(root, "packages/jobs/src", file), "utf8");
  const [, body = ""] = new RegExp(`^export interface ${name} \\{\\n([\\s\\S]*?)^\\}`, "m").exec(text) ?? [];
  return [...body.matchAll(/^ {2}readonly (\w+)/gm)].map(([, member = ""]) => member);
};

/** Whether a test of this name is in a file of this name. */
const isTestOf = (file: string, title: string) =>
  testFiles("database", "jobs").some((path) => basename(path) === file && isTest(path, title));

const namedBy = (cell: string): readonly [string, string] => {
  const [, file = "", title = ""] = /^([\w.-]+\.ts): (.+)$/.exec(cell) ?? [];
  return [file, title];
};

describe("the guide to workers", () => {
  it("names tests that there are, for everything that it promises", () => {
    const rows = tableUnder(guide, "What happens when");
    assert.isAbove(rows.length, 25);
    for (const row of rows) {
      for (const [column, cell] of Object.entries(row)) assert.notStrictEqual(cell, "", `${row.event}: ${column}`);
      const [file, title] = namedBy(row["held by"] ?? "");
      assert.isTrue(isTestOf(file, title), `${row.event}: there is no test "${title}" in ${file}`);
    }
  });

  it("the check of the names sees those that there are not", () => {
    assert.isTrue(isTestOf("crash.test.ts", "of two of three runners at once"));
    assert.isFalse(isTestOf("crash.test.ts", "of three of three runners at once"));
    assert.isFalse(isTestOf("crash.test.ts", "of one of three runners on a Sunday"));
    assert.isFalse(isTestOf("nothing.test.ts", "of two of three runners at once"));
  });

  it("has every option of the command, with its variable and its default", () => {
    const help = HelpDoc.toAnsiText(Command.getHelp(command, CliConfig.defaultConfig))
      // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are made of them
      .replaceAll(/\u001b\[[\d;]*m/g, "")
      .replaceAll(/\s+/g, " ");
    const options = [
      ...help.matchAll(/ (--[a-z-]+)(?: text| integer)? (?:A|An) [^(]+\((RUNNER_\w+)(?:; default:? ([^)]+)|=true)?\)/g),
    ];
    assert.isAbove(options.length, 13);
    assert.deepStrictEqual(
      tableUnder(guide, "Options of the runner").map((_) => [_.option, _.variable, _.default]),
      options.map(([, option, variable, initial]) => [
        option,
        variable,
        initial ?? (option === "--single" ? "false" : "the host"),
      ]),
    );
  });

  it("has every option of a submission", () => {
    assert.deepStrictEqual(
      tableUnder(guide, "Options of a submission").map(({ option }) => option),
      membersOf("jobs.ts", "SubmitOptions"),
    );
  });

  it.effect("has everything that a handler gets", () =>
    Effect.gen(function* () {
      const seen = yield* Deferred.make<ReadonlyArray<string>>();
      const Look = JobType.make("guide.look", { payload: S.Struct({}) });
      const handlers = Look.toLayer((_, context) => Deferred.succeed(seen, Object.keys(context)));
      yield* Effect.gen(function* () {
        yield* Jobs.submit(Look, {}, { appId: randomUUID() });
        yield* Testing.settled;
      }).pipe(Effect.provide(Testing.layer({ handlers })));
      const told = tableUnder(guide, "What a handler gets").map(({ field }) => field);
      assert.deepStrictEqual([...told].sort(), [...(yield* Deferred.await(seen))].sort());
    }),
  );

  it.effect("has every error of the package, by its module", () =>
    Effect.gen(function* () {
      const modules = fs.readdirSync(join(root, "packages/jobs/src")).filter((file) => file !== "bin.ts");
      const errors = yield* Effect.forEach(modules, (file) =>
        Effect.map(
          Effect.promise((): Promise<object> => import(join(root, "packages/jobs/src", file))),
          (exported) =>
            Object.entries(exported).flatMap(([name, value]) =>
              typeof value === "function" && value.prototype instanceof Error ? [`${name} ${file.slice(0, -3)}`] : [],
            ),
        ),
      );
      const told = tableUnder(guide, "Errors").map(({ error, module }) => `${error} ${module}`);
      const own = told.filter((_) => !_.includes("/"));
      assert.deepStrictEqual([...own].sort(), errors.flat().sort());
      for (const row of tableUnder(guide, "Errors")) assert.notInclude(Object.values(row), "", row.error);
    }),
  );
});

describe("the page on tuning", () => {
  it("has the defaults of the guide", () => {
    const defaults = new Map(tableUnder(guide, "Options of the runner").map((_) => [_.option, _.default]));
    let compared = 0;
    for (const { default: told, knob = "" } of tableUnder(tuning, "The knobs")) {
      const [, option] = /(--[a-z-]+)/.exec(knob) ?? [];
      if (option === undefined) continue;
      assert.strictEqual(told, defaults.get(option), knob);
      compared++;
    }
    assert.isAbove(compared, 4);
  });
});
