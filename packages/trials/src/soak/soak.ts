/**
 * Steady load on three runners with operators, retention and a ledger that is trimmed, and samples of all that could grow: what the
 * runners hold, connections, dead rows, sizes. The first half is for warming up; over the second half nothing may climb.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import { layerDesk } from "@parametric-portal/jobs/job-store-sql";
import * as Clock from "effect/Clock";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import type { Violation } from "../chaos/check.js";
import * as Load from "../chaos/load.js";
import * as Stage from "../chaos/stage.js";
import { createTables, login } from "../chaos/tables.js";
import { type Bound, type Sample, type Verdict, verdictOf } from "./slope.js";

/** Room to sort, and a vacuum that looks as often as short runs need. */
export const settings = { synchronous_commit: "on", autovacuum_naptime: "10s", log_min_messages: "fatal" };

const megabyte = 1_000_000;
export const tables = ["jobs", "job_dlq", "job_dlq_events", "job_shards", "job_runners"] as const;

/** What is watched: its unit, and how far it may climb over the second half. */
export const series: Readonly<Record<string, { readonly unit: "MB" | ""; readonly bound: Bound }>> = {
  "heap of the runners": { unit: "MB", bound: { share: 0.1, least: 6 * megabyte } },
  "resident memory of the runners": { unit: "MB", bound: { share: 0.1, least: 30 * megabyte } },
  connections: { unit: "", bound: { share: 0, least: 2 } },
  "unfinished jobs": { unit: "", bound: { share: 0.5, least: 500 } },
  "dead rows": { unit: "", bound: { share: 0.5, least: 5000 } },
  ...Object.fromEntries(
    tables.map((table) => [`size of ${table}`, { unit: "MB", bound: { share: 0.15, least: 2 * megabyte } } as const]),
  ),
};

export interface Series {
  readonly name: string;
  readonly unit: "MB" | "";
  readonly verdict: Verdict;
  readonly samples: ReadonlyArray<Sample>;
}

export interface Outcome {
  readonly minutes: number;
  readonly jobsPerSecond: number;
  readonly samples: number;
  readonly answered: number;
  readonly lost: number;
  readonly completed: number;
  readonly letters: number;
  readonly vacuums: number;
  readonly all: ReadonlyArray<Series>;
  readonly isFlat: boolean;
}

const decodeLook = S.decodeUnknown(
  S.Tuple(
    S.Struct({
      connections: S.Number,
      unfinished: S.Number,
      dead: S.Number,
      vacuums: S.Number,
      sizes: S.Array(S.Number),
    }),
  ),
);
const decodeTotals = S.decodeUnknown(S.Tuple(S.Struct({ completed: S.Number, letters: S.Number })));

/** What the statistics say was written since the start. */
const totals = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => sql`
    SELECT (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'effects')::float8 AS completed,
      (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'job_dlq')::float8 AS letters`,
).pipe(Effect.flatMap(decodeTotals));

const look = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => sql`
    SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename = ${login.name})::float8 AS connections,
      (SELECT count(*) FROM jobs WHERE status IN ('pending', 'processing'))::float8 AS unfinished,
      (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname = ANY (${tables}))::float8 AS dead,
      (SELECT sum(autovacuum_count) FROM pg_stat_user_tables WHERE relname = ANY (${tables}))::float8 AS vacuums,
      (SELECT array_agg(pg_total_relation_size(t.name::regclass)::float8 ORDER BY t.place)
        FROM unnest(${tables}::text[]) WITH ORDINALITY AS t (name, place)) AS sizes`,
).pipe(Effect.flatMap(decodeLook));

/** An administrator's: the ledger keeps a minute here, and what handlers leave as long. */
const trim = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.gen(function* () {
    yield* sql`SELECT set_config('app.ledger_retention_days', '0', true)`;
    yield* sql`DELETE FROM job_dlq_events WHERE at < now() - interval '1 minute'`;
    yield* sql`DELETE FROM effects WHERE at < now() - interval '1 minute'`;
    yield* sql`DELETE FROM looks WHERE at < now() - interval '1 minute'`;
  }).pipe(Client.system),
);

/** What the runners said last, added up. */
const memoryOf = (runners: ReadonlyArray<Stage.Member>) =>
  runners.reduce(
    (total, { output }) => {
      const [, heap = "0", rss = "0"] = [...output().matchAll(/^\{"heap":(\d+),"rss":(\d+)\}$/gm)].at(-1) ?? [];
      return { heap: total.heap + Number(heap), rss: total.rss + Number(rss) };
    },
    { heap: 0, rss: 0 },
  );

export const run = (minutes: number, jobsPerSecond: number, everySeconds: number, say: (line: string) => void) =>
  Effect.gen(function* () {
    const violated = yield* Deferred.make<never, Violation>();
    const stage = yield* Stage.make(settings);
    const context = yield* Layer.build(
      DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url: stage.url(), maxConnections: 2 }))),
    );
    const appIds = yield* Effect.gen(function* () {
      yield* Migrator.run();
      yield* createTables;
      const db = yield* DatabaseService;
      return yield* Effect.forEach(["acme", "globex", "initech", "umbrella"], (name) =>
        Effect.map(Client.system(db.apps.insert({ name })), ({ id }) => id),
      );
    }).pipe(Effect.provide(context));
    const runners = yield* Stage.runners(stage, [0], violated, everySeconds * 1000);
    yield* Stage.operators(stage, 1, appIds, violated);
    const desk = yield* Layer.build(
      Layer.provide(layerDesk, Client.layer({ url: Stage.deskUrl(stage), maxConnections: 2 })),
    );
    const load = Load.make();
    yield* Effect.forkScoped(Effect.provide(load.submit(appIds, jobsPerSecond, 1), desk));
    yield* Effect.forkScoped(
      Effect.repeat(Effect.provide(trim, context), Schedule.spaced("10 seconds")).pipe(Effect.orDie),
    );
    const began = yield* Clock.currentTimeMillis;
    const taken = new Map<string, Array<Sample>>(Object.keys(series).map((name) => [name, []]));
    let vacuums = 0;
    const sample = Effect.gen(function* () {
      const seen = (yield* Effect.provide(look, context))[0];
      // Nobody asks again for what was answered.
      load.answers();
      const { heap, rss } = memoryOf(runners);
      const seconds = ((yield* Clock.currentTimeMillis) - began) / 1000;
      vacuums = seen.vacuums;
      const values: Readonly<Record<string, number>> = {
        "heap of the runners": heap,
        "resident memory of the runners": rss,
        connections: seen.connections,
        "unfinished jobs": seen.unfinished,
        "dead rows": seen.dead,
        ...Object.fromEntries(tables.map((table, place) => [`size of ${table}`, seen.sizes[place] ?? Number.NaN])),
      };
      for (const [name, samples] of taken) samples.push({ seconds, value: values[name] ?? Number.NaN });
      return seconds;
    });
    let told = 0;
    const sampling = Effect.repeat(
      Effect.tap(Effect.zipRight(Effect.sleep(`${everySeconds} seconds`), sample), (seconds) =>
        Effect.sync(() => {
          if (seconds - told < 60) return;
          told = seconds;
          const last = [...taken].map(([name, samples]) => {
            const value = samples.at(-1)?.value ?? 0;
            return `${name} ${series[name]?.unit === "MB" ? `${(value / megabyte).toFixed(1)} MB` : value}`;
          });
          say(`${Math.round(seconds / 60)} min: ${last.join(", ")}`);
        }),
      ),
      { until: (seconds) => seconds >= minutes * 60 },
    );
    yield* Effect.raceFirst(sampling, Deferred.await(violated));
    const [{ completed, letters }] = yield* Effect.provide(totals, context);
    const all = [...taken].map(([name, samples]): Series => {
      const { bound, unit } = series[name] ?? { bound: { share: 0, least: 0 }, unit: "" };
      const half = samples.filter(({ seconds }) => seconds >= minutes * 30);
      return { name, unit, samples, verdict: verdictOf(half, bound) };
    });
    const outcome: Outcome = {
      minutes,
      jobsPerSecond,
      samples: taken.get("connections")?.length ?? 0,
      answered: [...load.answered.values()].reduce((sum, jobs) => sum + jobs, 0),
      lost: load.unknown.size,
      completed,
      letters,
      vacuums,
      all,
      isFlat: all.every(({ verdict }) => verdict.isFlat),
    };
    return outcome;
  }).pipe(Effect.scoped);
