/** The whole queue against a model of it: everything that may be done to jobs and dead letters, one after the other and at once. */
import { layer } from "@effect/vitest";
import * as JobStoreSql from "@parametric-portal/jobs/job-store-sql";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Runtime from "effect/Runtime";
import { campaign } from "../../database/test/support/campaign.js";
import { newTenant, TestDatabase } from "../../database/test/support/database.js";
import { cases, runCase, type Services } from "../src/model/trial.js";

const Queue = Layer.provideMerge(JobStoreSql.layerDesk, TestDatabase);

/** The whole campaign takes minutes. */
const long = 3_600_000;

layer(Queue, { excludeTestServices: true, timeout: "60 seconds" })("the queue", (it) => {
  it.effect(
    "does what the model says, and what runs at once can be told in some order",
    () =>
      Effect.gen(function* () {
        const run = Runtime.runPromise(yield* Effect.runtime<Services>());
        const tally = new Map<string, number>();
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(cases(40), (commands) => runCase(run, newTenant, tally, commands)),
            campaign("the queue and its model", 2000, 25),
          ),
        );
        for (const [what, count] of [...tally].sort()) console.log(`${String(count).padStart(7)}  ${what}`);
      }),
    long,
  );
});
