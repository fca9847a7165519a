/** Runner processes under a test's hand, the jobs that they get, and what must be true when they have done. */
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import { rounds } from "../../../database/test/support/campaign.js";
import { TestDatabase } from "../../../database/test/support/database.js";
import { freePort, start, withUrl } from "../../../database/test/support/process.js";
import { layerDesk } from "../../src/job-store-sql.js";
import type { Task } from "./runner-process.js";

/** The table that handlers leave their marks in. */
export const createEffects = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(`
    CREATE TABLE effects (
      id bigint GENERATED ALWAYS AS IDENTITY, app_id uuid NOT NULL, job_id uuid NOT NULL, runner text NOT NULL, attempt int NOT NULL,
      role text NOT NULL DEFAULT current_setting('role'), at timestamptz NOT NULL DEFAULT clock_timestamp());
    ALTER TABLE effects ENABLE ROW LEVEL SECURITY;
    ALTER TABLE effects FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON effects TO parametric_tenant USING (app_id = current_tenant()) WITH CHECK (app_id = current_tenant());
    CREATE POLICY every ON effects TO parametric_system USING (true) WITH CHECK (true);
    GRANT SELECT, INSERT ON effects TO parametric_tenant, parametric_system`);
});

/** A database of this file's own with that table, and what submits jobs to it. */
export const TestJobs = Layer.effectDiscard(createEffects).pipe(
  Layer.provideMerge(layerDesk),
  Layer.provideMerge(TestDatabase),
);

export interface RunnerProcess {
  readonly kill: (signal: NodeJS.Signals) => Effect.Effect<unknown>;
  readonly hasEnded: Effect.Effect<boolean>;
  /** Its exit code, or the signal that ended it. */
  readonly ended: Effect.Effect<number | NodeJS.Signals | null>;
  readonly output: () => string;
}

let runners = 0;

/** Starts a runner and waits until it has joined. Killed with the scope. */
export const startRunner = (url: Redacted.Redacted, given: Partial<Task> & { readonly isSingle?: boolean } = {}) =>
  Effect.gen(function* () {
    const { isSingle, ...rest } = given;
    const task: Task = {
      name: `runner-${++runners}`,
      port: isSingle === true ? null : yield* freePort,
      concurrency: 32,
      killAt: null,
      killAfter: 1,
      graceMillis: 5000,
      // The defaults, or less of what a test waits for most of its time.
      leaseMillis: rounds(5000, 3000),
      ...rest,
    };
    const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
    const program = fileURLToPath(new URL("./runner-process.ts", import.meta.url));
    const started = yield* start(process.execPath, ["--import", tsx, program, JSON.stringify(task)], withUrl(url));
    const runner: RunnerProcess = {
      ...started,
      ended: Effect.map(started.ended, ({ code, signal }) => code ?? signal),
    };
    // One that kills itself at once may never say so.
    yield* Effect.raceFirst(
      Effect.repeat(Effect.sync(runner.output), {
        until: (_) => _.includes('"ready":true'),
        schedule: Schedule.spaced("10 millis"),
      }),
      runner.ended,
    );
    return runner;
  });

const Counts = S.Struct({
  jobs: S.Int,
  completed: S.Int,
  dead: S.Int,
  unfinished: S.Int,
  letters: S.Int,
  /** Jobs with another number of marks than one when they are completed, or than none when they are not. */
  wrongEffects: S.Int,
  /** Runs that left a mark beyond the first of each job. */
  repeated: S.Int,
  foreign: S.Int,
});
export type Counts = typeof Counts.Type;
const decodeCounts = S.decodeUnknown(S.Tuple(Counts));

/** How the jobs of a tenant and their marks stand. */
export const countsOf = (appId: string, transactionalType: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      WITH marks AS (SELECT job_id, count(*) AS marks FROM effects WHERE app_id = ${appId} GROUP BY job_id),
      mine AS (SELECT j.*, COALESCE(m.marks, 0) AS marks FROM jobs j LEFT JOIN marks m ON m.job_id = j.id WHERE j.app_id = ${appId})
      SELECT count(*)::int AS jobs,
        (count(*) FILTER (WHERE status = 'completed'))::int AS completed,
        (count(*) FILTER (WHERE status = 'dead'))::int AS dead,
        (count(*) FILTER (WHERE status IN ('pending', 'processing')))::int AS unfinished,
        (SELECT count(*) FROM job_dlq d WHERE d.app_id = ${appId})::int AS letters,
        (count(*) FILTER (WHERE type = ${transactionalType} AND marks <> CASE status WHEN 'completed' THEN 1 ELSE 0 END))::int AS wrong_effects,
        COALESCE(sum(GREATEST(marks - 1, 0)), 0)::int AS repeated,
        (SELECT count(*) FROM effects e JOIN jobs j ON j.id = e.job_id WHERE j.app_id = ${appId} AND e.app_id <> j.app_id)::int AS foreign
      FROM mine`);
    const [counts] = yield* decodeCounts(rows);
    return counts;
  });

/** Waits until every job of the tenant has ended. */
export const untilEnded = (appId: string, transactionalType: string) =>
  Effect.gen(function* () {
    for (;;) {
      const counts = yield* countsOf(appId, transactionalType);
      if (counts.unfinished === 0) return counts;
      yield* Effect.sleep("100 millis");
    }
  });

/** Three runners; the first as it is given. */
export const startThree = (url: Redacted.Redacted, first: Parameters<typeof startRunner>[1] = {}) =>
  Effect.all([startRunner(url, first), startRunner(url), startRunner(url)], { concurrency: 3 });

/** Nothing lost, no transactional effect missing or twice. */
export const assertWhole = (counts: Counts, submitted: number) => {
  assert.strictEqual(counts.jobs, submitted);
  assert.strictEqual(counts.completed + counts.dead, submitted, "every job is completed or dead");
  assert.strictEqual(counts.dead, counts.letters, "every dead job has its dead letter");
  assert.strictEqual(
    counts.wrongEffects,
    0,
    "a completed transactional job has left its effect once, another one never",
  );
  assert.strictEqual(counts.foreign, 0, "no effect in another tenant");
};
