/**
 * What a runner does in a second, next to the same statements in a loop on the driver, and how long a job waits that is submitted
 * to an idle runner.
 *
 * `npx with-postgres -- node --import tsx measure/throughput.ts [jobs] [rounds]`, default 100,000 and 5. The contestants take turns
 * on one server, each round in a process of its own, on jobs of 300 bytes of one tenant that all wait already.
 *
 * With options runners of different settings are the contestants, and each is compared with the first in the same round. An
 * option takes one value or several: `--concurrency 64,2048`, `--batch 250,500`, `--engine 2,4` (the runner's own connections),
 * `--pool 5,10` (the handlers'), `--work nothing,insert,transactional` (a row for each job: in a transaction of its own, or in one
 * with `completed`), `--traced no,yes` (a span for each job, exported to a collector that drops it).
 */
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import type * as ParseResult from "effect/ParseResult";
import * as S from "effect/Schema";
import pg from "pg";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Otlp from "../src/otlp.js";
import { partitions } from "../src/partition.js";
import * as Runner from "../src/runner.js";
import { claimStatement, completeStatement } from "../src/statements.js";

const Payload = S.Struct({ n: S.Number, pad: S.String });
const Ping = JobType.make("measure.ping", { payload: Payload });
const PingAtOnce = JobType.make("measure.ping", { payload: Payload, transactional: true });
const pad = "x".repeat(280);

/** What a contestant says, as JSON. */
const Answer = S.parseJson(S.Struct({ rate: S.Number, cpu: S.Number, megabytes: S.Number }));

const Work = S.Literal("nothing", "insert", "transactional");
/** A runner and its settings; what an option says for it. */
const Settings = S.Struct({
  concurrency: S.NumberFromString.pipe(S.int(), S.positive()),
  batch: S.NumberFromString.pipe(S.int(), S.positive()),
  engine: S.NumberFromString.pipe(S.int(), S.positive()),
  pool: S.NumberFromString.pipe(S.int(), S.positive()),
  work: Work,
  traced: S.Literal("no", "yes"),
});
const defaults: typeof Settings.Encoded = {
  concurrency: "2048",
  batch: "500",
  engine: "4",
  pool: "10",
  work: "nothing",
  traced: "no",
};
/** A contestant: the statements in a loop, or a runner. As JSON it is what a process of its own is told. */
const Contestant = S.parseJson(S.Union(S.Literal("loop"), Settings));
type Contestant = typeof Contestant.Type;

const servicesOf = (maxConnections: number) =>
  Layer.provideMerge(
    Layer.merge(JobStoreSql.layerDesk, DatabaseService.layer),
    Client.layerConfig({ applicationName: "measure", maxConnections }),
  );
const services = servicesOf(10);

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

const runner = ({ batch, concurrency, engine, pool, traced, work }: typeof Settings.Type, jobs: number) =>
  Effect.gen(function* () {
    const done = yield* Deferred.make<void>();
    let left = jobs;
    const counted = Effect.sync(() => {
      if (--left === 0) Deferred.unsafeDone(done, Effect.void);
    });
    const insert = Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      yield* sql`INSERT INTO measure_effects (app_id) VALUES (current_tenant())`;
    });
    const type = work === "transactional" ? PingAtOnce : Ping;
    const handlers = type.toLayer(() => (work === "nothing" ? counted : Effect.zipRight(insert, counted)));
    const options = {
      handlers,
      concurrency,
      batchSize: batch,
      engineConnections: engine,
      statsEvery: "1 hour",
    } as const;
    const worker = Runner.layerSingle(options).pipe(
      Layer.provide(traced === "yes" ? Otlp.layerConfig({ service: "measure", instance: "measure" }) : Layer.empty),
    );
    // It has settled what it ran when its layer is closed.
    return yield* measured(jobs, Deferred.await(done).pipe(Effect.provide(worker), Effect.provide(servicesOf(pool))));
  });

const connect = async () => {
  const client = new pg.Client(process.env.DATABASE_URL);
  await client.connect();
  await client.query("SET ROLE parametric_system; SET jit = off");
  return client;
};
const claimOf = async (client: pg.Client) => {
  const turns = partitions.map(() => "00000000-0000-0000-0000-000000000000");
  const { rows } = await client.query(claimStatement, [[...partitions], turns, 2, 500, "raw", 6000, false, 1]);
  return rows.filter(({ id }) => id !== null);
};
const settlementOf = (client: pg.Client, claimed: ReadonlyArray<{ readonly id: string; readonly fence: string }>) =>
  client.query(completeStatement, [claimed.map(({ id }) => id), claimed.map(({ fence }) => fence)]);

const raw = (jobs: number) =>
  measured(
    jobs,
    Effect.tryPromise(async () => {
      const [claims, settlements] = [await connect(), await connect()];
      let settling: Promise<unknown> = Promise.resolve();
      let left = jobs;
      while (left > 0) {
        const claimed = await claimOf(claims);
        for (const { payload } of claimed) if (payload === undefined) throw new Error("a job has no payload");
        left -= claimed.length;
        await settling;
        settling = settlementOf(settlements, claimed);
      }
      await settling;
      await Promise.all([claims.end(), settlements.end()]);
    }),
  );

/** Microseconds a job of each claim, and of each settlement, with nothing beside them. */
const shares = (jobs: number) =>
  Effect.tryPromise(async () => {
    const client = await connect();
    const claims: Array<number> = [];
    const settlements: Array<number> = [];
    for (let left = jobs; left > 0; ) {
      const began = performance.now();
      const claimed = await claimOf(client);
      const between = performance.now();
      await settlementOf(client, claimed);
      claims.push(((between - began) * 1000) / claimed.length);
      settlements.push(((performance.now() - between) * 1000) / claimed.length);
      left -= claimed.length;
    }
    await client.end();
    return { claims, settlements };
  });

/** Takes what is exported to it and drops it. */
const collector = Effect.acquireRelease(
  Effect.async<{ readonly endpoint: string; readonly close: () => void }>((resume) => {
    const server = createServer((request, response) => {
      request.resume().once("end", () => response.end());
    }).listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address !== null ? address.port : 0;
      const close = () => {
        server.close();
        server.closeAllConnections();
      };
      resume(Effect.succeed({ endpoint: `http://127.0.0.1:${port}`, close }));
    });
  }),
  ({ close }) => Effect.sync(close),
);

/** A contestant in a process of its own. */
const contest = (contestant: Contestant, jobs: number, endpoint: string) =>
  Effect.gen(function* () {
    const told = yield* S.encode(Contestant)(contestant);
    const said = yield* Effect.async<string>((resume) => {
      const child = spawn(
        process.execPath,
        ["--import", "tsx", fileURLToPath(import.meta.url), "--contestant", told, String(jobs)],
        { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, OTEL_EXPORTER_OTLP_ENDPOINT: endpoint } },
      );
      let text = "";
      child.stdout.on("data", (some) => (text += some));
      child.once("exit", () => resume(Effect.succeed(text)));
    });
    return yield* S.decode(Answer)(said.trim());
  });

const submit = (jobs: number) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    yield* sql`TRUNCATE jobs, measure_effects`;
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

/** A row for each job, in its tenant's scope. */
const createEffects = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(`
    DROP TABLE IF EXISTS measure_effects;
    CREATE TABLE measure_effects (id uuid PRIMARY KEY DEFAULT uuidv7(), app_id uuid NOT NULL);
    ALTER TABLE measure_effects ENABLE ROW LEVEL SECURITY;
    ALTER TABLE measure_effects FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON measure_effects TO parametric_tenant USING (app_id = current_tenant()) WITH CHECK (app_id = current_tenant());
    GRANT SELECT, INSERT ON measure_effects TO parametric_tenant`);
});

/** What the contestants say, round by round. They begin in the other order each time, so that a machine that warms up favours none. */
const contests = (contestants: ReadonlyArray<Contestant>, jobs: number, rounds: number) =>
  Effect.gen(function* () {
    const { endpoint } = yield* collector;
    const answers = contestants.map((): Array<typeof Answer.Type> => []);
    for (let round = 0; round < rounds; round++) {
      const places = [...contestants.keys()];
      for (const place of round % 2 === 0 ? places : places.reverse()) {
        const contestant = contestants[place];
        if (contestant === undefined) continue;
        yield* submit(jobs);
        answers[place]?.push(yield* contest(contestant, jobs, endpoint));
      }
    }
    return answers;
  }).pipe(Effect.scoped);

/** How one contestant did; `first` is whom it is compared with, in the same rounds. */
const tell = (name: string, own: ReadonlyArray<typeof Answer.Type>, first: ReadonlyArray<typeof Answer.Type>) => {
  console.log(name);
  told(
    "  rate",
    "jobs/s",
    own.map(({ rate }) => rate),
  );
  told(
    "  rate / that of the first",
    "",
    own.map(({ rate }, i) => rate / (first[i]?.rate ?? 1)),
    2,
  );
  told(
    "  CPU",
    "µs/job",
    own.map(({ cpu }) => cpu),
    1,
  );
  told(
    "  memory",
    "MB",
    own.map(({ megabytes }) => megabytes),
  );
};

/** Every combination of what the options say. */
const settingsOf = (
  options: Partial<typeof Settings.Encoded>,
): Effect.Effect<ReadonlyArray<typeof Settings.Type>, ParseResult.ParseError> => {
  const names = Object.keys(defaults) as ReadonlyArray<keyof typeof defaults>;
  const all = names.reduce(
    (some: ReadonlyArray<object>, name) =>
      some.flatMap((one) => (options[name] ?? defaults[name]).split(",").map((value) => ({ ...one, [name]: value }))),
    [{}],
  );
  return Effect.forEach(all, (one) => S.decodeUnknown(Settings)(one));
};

const main = (jobs: number, rounds: number, options: Partial<typeof Settings.Encoded>) =>
  Effect.gen(function* () {
    yield* Migrator.run();
    yield* createEffects;
    const runners = yield* settingsOf(options);
    const isPlain = Object.keys(options).length === 0;
    const contestants: ReadonlyArray<Contestant> = isPlain ? ["loop", ...runners] : runners;
    const answers = yield* contests(contestants, jobs, rounds);
    console.log(`${jobs} jobs, ${rounds} rounds: median (least to most)`);
    for (const [place, contestant] of contestants.entries()) {
      const name =
        contestant === "loop"
          ? "the statements in a loop"
          : `runner ${Object.entries(contestant)
              .map(([option, value]) => `${option} ${value}`)
              .join(", ")}`;
      tell(name, answers[place] ?? [], answers[0] ?? []);
    }
    if (!isPlain) return;
    yield* submit(jobs);
    const { claims, settlements } = yield* shares(jobs);
    told("a claim of 500, alone", "µs/job", claims, 1);
    told("a settlement of 500, alone", "µs/job", settlements, 1);
    const waits = [...(yield* latencies(yield* submit(0), 200))].sort((a, b) => a - b);
    const at = (share: number) => (waits[Math.floor(share * (waits.length - 1))] ?? 0).toFixed(1);
    console.log(`submit to start, idle runner: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`);
  }).pipe(Effect.provide(services));

const text = { type: "string" } as const;
const {
  positionals: [jobs = "100000", rounds = "5"],
  values: { contestant: given, ...options },
} = parseArgs({
  allowPositionals: true,
  options: { contestant: text, concurrency: text, batch: text, engine: text, pool: text, work: text, traced: text },
});
const program: Effect.Effect<unknown, unknown> =
  given === undefined
    ? main(Number(jobs), Number(rounds), options as Partial<typeof Settings.Encoded>)
    : Effect.gen(function* () {
        const contestant = yield* S.decode(Contestant)(given);
        console.log(yield* contestant === "loop" ? raw(Number(jobs)) : runner(contestant, Number(jobs)));
      });
// What it logs is not what it says.
const logging = Layer.merge(
  Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger)),
  Logger.minimumLogLevel(LogLevel.Warning),
);
Effect.runPromise(Effect.provide(program, logging)).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
