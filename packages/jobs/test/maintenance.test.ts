import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { deadJob, letter, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import * as Maintenance from "../src/maintenance.js";
import { valueOf } from "../src/metrics.js";
import * as Runner from "../src/runner.js";
import { Fine } from "./support/kinds.js";

const TestJobs = Layer.provideMerge(JobStoreSql.layerDesk, TestDatabase);

/** Has no handlers, so that whatever is due is tried and waits again; measures often. */
const idle = (options: Partial<Runner.RunnerOptions<never, never>> = {}) =>
  Runner.layerSingle({ handlers: Layer.empty, statsEvery: "50 millis", ...options });

const until = (what: string, isSo: () => boolean) =>
  Effect.iterate(undefined, { while: () => !isSo(), body: () => Effect.as(Effect.sleep("20 millis"), undefined) }).pipe(
    Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => new Error(`${what} never came`) }),
    Effect.orDie,
  );

const count = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      SELECT (SELECT count(*) FROM jobs WHERE app_id = ${appId})::int AS jobs,
        (SELECT count(*) FROM job_dlq WHERE app_id = ${appId})::int AS letters,
        (SELECT count(*) FROM job_dlq_events WHERE app_id = ${appId} AND kind = 'expired')::int AS expired`);
    return { ...rows[0] };
  });

layer(TestJobs, { excludeTestServices: true, timeout: "60 seconds" })("maintenance", (it) => {
  it.scoped("tells depth and age while the runner is there, and 0 afterwards", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const sql = yield* SqlClient.SqlClient;
      const db = yield* DatabaseService;
      yield* Jobs.submit(Fine, { n: 1 }, { appId, delay: "1 hour" });
      yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { errorReason: "Validation" })));
      yield* Client.system(sql`UPDATE job_dlq SET dlq_at = now() - interval '2 hours' WHERE app_id = ${appId}`);
      yield* Effect.gen(function* () {
        yield* until("the depth", () => valueOf("portal_jobs_depth", { state: "scheduled" }) === 1);
        yield* until("the letters", () => valueOf("portal_dead_letters_depth", { reason: "Validation" }) === 1);
        yield* until("their age", () => valueOf("portal_dead_letters_oldest_age_seconds") >= 7200);
        assert.strictEqual(valueOf("portal_jobs_oldest_age_seconds"), 0);
      }).pipe(Effect.provide(idle()));
      assert.strictEqual(valueOf("portal_jobs_depth"), 0);
      assert.strictEqual(valueOf("portal_dead_letters_depth"), 0);
      assert.strictEqual(valueOf("portal_dead_letters_oldest_age_seconds"), 0);
    }),
  );

  it.effect("measures what is due, what is for later, what runs, and how long the first has waited", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const sql = yield* SqlClient.SqlClient;
      yield* Client.system(sql`DELETE FROM jobs`);
      for (const [minutes, status] of [
        [90, "pending"],
        [5, "pending"],
        [-60, "pending"],
        [300, "processing"],
        [600, "completed"],
      ] as const) {
        yield* Client.system(sql`
          INSERT INTO jobs (id, app_id, type, payload, status, scheduled_at, locked_by, locked_until, completed_at)
          VALUES (uuidv7(), ${appId}, 'test.aged', '{}', ${status}, now() - ${minutes} * interval '1 minute',
            ${status === "processing" ? "somebody" : null}, ${status === "processing" ? sql`now() + interval '1 hour'` : null},
            ${status === "completed" ? sql`now()` : null})`);
      }
      const url = yield* TestUrl;
      yield* Effect.provide(Maintenance.measure, JobStoreSql.layerEngine({ url }));
      const depth = (state: string) => valueOf("portal_jobs_depth", { state });
      assert.deepStrictEqual([depth("due"), depth("scheduled"), depth("processing")], [2, 1, 1]);
      const age = valueOf("portal_jobs_oldest_age_seconds");
      assert.isTrue(age >= 5400 && age < 5500, `${age}`);
      yield* Client.system(sql`DELETE FROM jobs`);
    }),
  );

  it.scoped("removes what is old, in two runners at a time, and nothing unless it is told to", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const sql = yield* SqlClient.SqlClient;
      const db = yield* DatabaseService;
      for (let i = 0; i < 20; i++) yield* deadJob(appId);
      const replayed = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
      yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
      yield* Client.system(sql`
        UPDATE job_dlq SET replayed_at = now() - interval '40 days' WHERE id = ${replayed.id}`);
      yield* Client.system(sql`
        UPDATE job_dlq SET dlq_at = now() - interval '100 days' WHERE app_id = ${appId} AND original_job_id IN (
          SELECT id FROM jobs WHERE app_id = ${appId})`);
      yield* Client.system(sql`
        UPDATE jobs SET completed_at = now() - interval '10 days' WHERE app_id = ${appId}`);

      const measured = () => valueOf("portal_dead_letters_depth", { reason: "MaxRetries" }) >= 21;
      yield* Effect.provide(until("a measure", measured), idle());
      assert.deepStrictEqual(yield* count(appId), { jobs: 20, letters: 22, expired: 0 });

      const retention = { replayed: 30, pending: 90, jobs: 7, every: "100 millis" } as const;
      const gone = () =>
        valueOf("portal_retention_removed_total", { kind: "jobs" }) >= 20 &&
        valueOf("portal_retention_removed_total", { kind: "pending" }) >= 20 &&
        valueOf("portal_retention_removed_total", { kind: "replayed" }) >= 1;
      yield* Effect.all(
        [
          Effect.provide(until("retention", gone), Layer.fresh(idle({ retention }))),
          Effect.provide(until("retention", gone), Layer.fresh(idle({ retention }))),
        ],
        { concurrency: 2 },
      );
      assert.deepStrictEqual(yield* count(appId), { jobs: 0, letters: 1, expired: 20 });
      assert.strictEqual(valueOf("portal_retention_removed_total", { kind: "jobs" }), 20);
      assert.strictEqual(valueOf("portal_retention_removed_total", { kind: "pending" }), 20);
      assert.strictEqual(valueOf("portal_retention_removed_total", { kind: "replayed" }), 1);
    }),
  );

  it.scoped("goes on after a failure", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const sql = yield* SqlClient.SqlClient;
      yield* Jobs.submit(Fine, { n: 1 }, { appId, delay: "1 hour" });
      yield* sql`REVOKE SELECT ON job_dlq FROM parametric_system`;
      yield* Effect.gen(function* () {
        yield* Effect.sleep("300 millis");
        assert.strictEqual(valueOf("portal_jobs_depth", { state: "scheduled" }), 0);
        yield* sql`GRANT SELECT ON job_dlq TO parametric_system`;
        yield* until("the depth", () => valueOf("portal_jobs_depth", { state: "scheduled" }) >= 1);
      }).pipe(Effect.provide(idle()));
    }),
  );
});
