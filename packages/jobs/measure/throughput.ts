/**
 * What a runner does in a second, next to the same statements in a loop on the driver, and how long a job waits that is submitted
 * to an idle runner.
 *
 * `npx with-postgres -- node --import tsx measure/throughput.ts [jobs] [rounds]`, default 100,000 and 5. The contestants take turns
 * on one server, each round in a process of its own, on jobs of 300 bytes of one tenant that all wait already.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as S from "effect/Schema";
import pg from "pg";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import { partitions } from "../src/partition.js";
import * as Runner from "../src/runner.js";
import { claimStatement, completeStatement } from "../src/statements.js";

const Ping = JobType.make("measure.ping", { payload: S.Struct({ n: S.Number, pad: S.String }) });
const pad = "x".repeat(280);

/** What a contestant says, as JSON. */
const Answer = S.parseJson(S.Struct({ rate: S.Number, cpu: S.Number, megabytes: S.Number }));
type Contestant = "runner" | "raw";

const services = Layer.provideMerge(
  Layer.merge(JobStoreSql.layerDesk, DatabaseService.layer),
  Client.layerConfig({ applicationName: "measure" }),
);

/** Runs until `jobs` have been worked off, and says how fast that was. */
const measured = (jobs: number, run: Effect.Effect<void, unknown>) =>
  Effect.gen(function* () {
    const began = process.hrtime.bigint();
    const cpu = process.cpuUsage();
    yield* run;
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    const { system, user } = process.cpuUsage(cpu);
    return S.encodeSync(Answer)({
      rate: jobs / seconds,
      cpu: (user + system) / jobs,
      megabytes: process.memoryUsage().rss / 1e6,
    });
  });

const runner = (jobs: number) =>
  Effect.gen(function* () {
    const done = yield* Deferred.make<void>();
    let left = jobs;
    const handlers = Ping.toLayer(() =>
      Effect.sync(() => {
        if (--left === 0) Deferred.unsafeDone(done, Effect.void);
      }),
    );
    // It has settled what it ran when its layer is closed.
    return yield* measured(
      jobs,
      Deferred.await(done).pipe(
        Effect.provide(Runner.layerSingle({ handlers, concurrency: 2048, statsEvery: "1 hour" })),
        Effect.provide(services),
      ),
    );
  });

const raw = (jobs: number) =>
  measured(
    jobs,
    Effect.tryPromise(async () => {
      const connect = async () => {
        const client = new pg.Client(process.env.DATABASE_URL);
        await client.connect();
        await client.query("SET ROLE parametric_system; SET jit = off");
        return client;
      };
      const [claims, settlements] = [await connect(), await connect()];
      let settling: Promise<unknown> = Promise.resolve();
      let left = jobs;
      while (left > 0) {
        const turns = partitions.map(() => "00000000-0000-0000-0000-000000000000");
        const { rows } = await claims.query(claimStatement, [[...partitions], turns, 2, 500, "raw", 6000, false]);
        const claimed = rows.filter(({ id }) => id !== null);
        for (const { payload } of claimed) if (payload === undefined) throw new Error("a job has no payload");
        left -= claimed.length;
        await settling;
        settling = settlements.query(completeStatement, [
          claimed.map(({ id }) => id),
          claimed.map(({ fence }) => fence),
        ]);
      }
      await settling;
      await Promise.all([claims.end(), settlements.end()]);
    }),
  );

/** A contestant in a process of its own. */
const contest = (contestant: Contestant, jobs: number) =>
  Effect.async<string>((resume) => {
    const child = spawn(
      process.execPath,
      ["--import", "tsx", fileURLToPath(import.meta.url), contestant, String(jobs)],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    let said = "";
    child.stdout.on("data", (text) => (said += text));
    child.once("exit", () => resume(Effect.succeed(said)));
  }).pipe(Effect.flatMap((said) => S.decode(Answer)(said.trim())));

const submit = (jobs: number) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    yield* sql`TRUNCATE jobs`;
    const { id } = yield* Client.system(db.apps.insert({ name: `measure ${process.hrtime.bigint()}` }));
    yield* Jobs.submitMany(
      Ping,
      Array.from({ length: jobs }, (_, n) => ({ payload: { n, pad } })),
      { appId: id },
    );
    yield* sql`VACUUM ANALYZE jobs`;
    return id;
  });

const median = (values: ReadonlyArray<number>) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
const told = (name: string, unit: string, values: ReadonlyArray<number>, digits = 0) =>
  console.log(
    `${name.padEnd(34)} ${median(values).toFixed(digits).padStart(8)} ${unit} (${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)})`,
  );

/** Milliseconds from the call of `submit` until the handler begins, one job at a time. */
const latencies = (appId: string, jobs: number) =>
  Effect.gen(function* () {
    let started = (_: number): void => undefined;
    const handlers = Ping.toLayer(() => Effect.sync(() => started(performance.now())));
    return yield* Effect.gen(function* () {
      yield* Effect.sleep("1 second");
      return yield* Effect.forEach(Array.from({ length: jobs }), (_, n) =>
        Effect.gen(function* () {
          const start = yield* Deferred.make<number>();
          started = (at) => Deferred.unsafeDone(start, Effect.succeed(at));
          const began = performance.now();
          yield* Jobs.submit(Ping, { n, pad }, { appId });
          const at = yield* Deferred.await(start);
          yield* Effect.sleep("20 millis");
          return at - began;
        }),
      );
    }).pipe(Effect.provide(Runner.layerSingle({ handlers, statsEvery: "1 hour" })));
  });

const main = (jobs: number, rounds: number) =>
  Effect.gen(function* () {
    yield* Migrator.run();
    const answers: Record<Contestant, Array<typeof Answer.Type>> = { runner: [], raw: [] };
    for (let round = 0; round < rounds; round++) {
      for (const contestant of ["runner", "raw"] as const) {
        yield* submit(jobs);
        answers[contestant].push(yield* contest(contestant, jobs));
      }
    }
    console.log(`${jobs} jobs, ${rounds} rounds: median (least to most)`);
    told(
      "runner",
      "jobs/s",
      answers.runner.map(({ rate }) => rate),
    );
    told(
      "the same statements in a loop",
      "jobs/s",
      answers.raw.map(({ rate }) => rate),
    );
    told(
      "runner / loop",
      "",
      answers.runner.map(({ rate }, i) => rate / (answers.raw[i]?.rate ?? 1)),
      2,
    );
    told(
      "CPU of the runner",
      "µs/job",
      answers.runner.map(({ cpu }) => cpu),
      1,
    );
    told(
      "memory of the runner",
      "MB",
      answers.runner.map(({ megabytes }) => megabytes),
    );
    const waits = [...(yield* latencies(yield* submit(0), 200))].sort((a, b) => a - b);
    const at = (share: number) => (waits[Math.floor(share * (waits.length - 1))] ?? 0).toFixed(1);
    console.log(`submit to start, idle runner: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`);
  }).pipe(Effect.provide(services));

const [first = "100000", second = "5"] = process.argv.slice(2);
const program: Effect.Effect<unknown, unknown> =
  first === "runner" || first === "raw"
    ? Effect.map((first === "runner" ? runner : raw)(Number(second)), (answer) => console.log(answer))
    : main(Number(first), Number(second));
Effect.runPromise(Effect.provide(program, Logger.minimumLogLevel(LogLevel.Warning))).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
