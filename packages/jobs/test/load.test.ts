/** What many waiting jobs do to others: the turn of a tenant comes whatever another has waiting, and a job costs few statements. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Clock from "effect/Clock";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { newTenant } from "../../database/test/support/database.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { TestJobs } from "./support/runners.js";

const Numbered = S.Struct({ n: S.Number });
const numbered = (count: number) => Array.from({ length: count }, (_, n) => ({ payload: { n } }));

layer(TestJobs, { excludeTestServices: true, timeout: "2 minutes" })("a runner under load", (it) => {
  it.scoped("costs at most 0.02 statements a job", () =>
    Effect.gen(function* () {
      const Nothing = JobType.make("load.nothing", { payload: Numbered });
      const appId = yield* newTenant;
      const jobs = 20_000;
      yield* Jobs.submitMany(Nothing, numbered(jobs), { appId });
      const sql = yield* SqlClient.SqlClient;
      // Outside a transaction each statement is one; the runner's sessions have ended and been counted when this asks.
      const transactions = Effect.gen(function* () {
        const rows = yield* sql`
          SELECT pg_stat_force_next_flush(), (xact_commit + xact_rollback)::int AS count FROM pg_stat_database WHERE datname = current_database()`;
        const [{ count }] = yield* S.decodeUnknown(S.Tuple(S.Struct({ count: S.Int })))(rows);
        return count;
      });
      let left = jobs;
      const done = yield* Deferred.make<void>();
      const handlers = Nothing.toLayer(() =>
        Effect.sync(() => {
          if (--left === 0) Deferred.unsafeDone(done, Effect.void);
        }),
      );
      yield* transactions;
      const before = yield* transactions;
      yield* Effect.provide(Deferred.await(done), Runner.layerSingle({ handlers, concurrency: 1024 }));
      const counts = yield* Client.system(
        sql`SELECT status, count(*)::int AS count FROM jobs WHERE app_id = ${appId} GROUP BY status`,
      );
      assert.deepStrictEqual(counts, [{ status: "completed", count: jobs }]);
      const statements = (yield* transactions) - before;
      console.log(`${statements} statements for ${jobs} jobs`);
      assert.isAtMost(statements / jobs, 0.02);
    }),
  );

  it.scoped("finishes ten jobs of one tenant while another has 50,000 waiting", () =>
    Effect.gen(function* () {
      const Short = JobType.make("load.short", { payload: Numbered });
      const [busy, small] = [yield* newTenant, yield* newTenant];
      const waiting = 50_000;
      let ended = 0;
      let endedOfSmall = 0;
      const underWay = yield* Deferred.make<void>();
      const done = yield* Deferred.make<void>();
      const handlers = Short.toLayer((_, { appId }) =>
        Effect.zipRight(
          Effect.sleep("2 millis"),
          Effect.sync(() => {
            if (appId === small && ++endedOfSmall === 10) Deferred.unsafeDone(done, Effect.void);
            else if (appId === busy && ++ended === 1000) Deferred.unsafeDone(underWay, Effect.void);
          }),
        ),
      );
      yield* Jobs.submitMany(Short, numbered(waiting), { appId: busy });
      yield* Effect.gen(function* () {
        yield* Deferred.await(underWay);
        const before = ended;
        const began = yield* Clock.currentTimeMillis;
        yield* Jobs.submitMany(Short, numbered(10), { appId: small });
        yield* Deferred.await(done);
        const took = (yield* Clock.currentTimeMillis) - began;
        console.log(`ten jobs behind ${waiting - before}: ${took} ms, ${ended - before} of the other tenant meanwhile`);
        // What ran and what was claimed when they came, and a turn of the other's.
        assert.isBelow(ended - before, 2000);
        assert.isBelow(ended, waiting / 2, "there is work left for the other tenant");
      }).pipe(Effect.provide(Runner.layerSingle({ handlers, grace: 0 })));
    }),
  );
});
