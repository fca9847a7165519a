/** What a runner leaves behind that is told to stop at an awkward moment. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { newTenant } from "../../database/test/support/database.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { TestJobs } from "./support/runners.js";

const Stays = JobType.make("stop.stays", { payload: S.Struct({ n: S.Number }) });

layer(TestJobs, { excludeTestServices: true, timeout: "2 minutes" })("a runner that stops", (it) => {
  it.effect("gives back what a claim brings meanwhile, and counts no attempt", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      yield* Jobs.submitMany(
        Stays,
        Array.from({ length: 20 }, (_, n) => ({ payload: { n } })),
        { appId },
      );
      const claimed = yield* Deferred.make<void>();
      const handlers = Stays.toLayer(() => Effect.dieMessage("nothing is started any more"));
      yield* Deferred.await(claimed).pipe(
        Effect.provide(
          Runner.layerSingle({
            handlers,
            grace: 0,
            // The answer is on its way when the stop begins.
            between: (store) => ({
              ...store,
              claim: (options) =>
                Effect.tap(store.claim(options), ({ jobs }) =>
                  jobs.length === 0
                    ? Effect.void
                    : Effect.zipRight(Deferred.succeed(claimed, undefined), Effect.sleep("300 millis")),
                ),
            }),
          }),
        ),
      );
      const sql = yield* SqlClient.SqlClient;
      const states = yield* Client.system(sql`
        SELECT status, attempts, locked_by, suspect, error_history::text AS history, count(*)::int AS count
        FROM jobs WHERE app_id = ${appId} GROUP BY 1, 2, 3, 4, 5`);
      assert.deepStrictEqual(states, [
        { status: "pending", attempts: 0, lockedBy: null, suspect: false, history: "[]", count: 20 },
      ]);
    }),
  );
});
