/** The look of a runner: without it nothing is retried and nobody rescued, while the runner looks well. */
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { newLogin, newTenant, TestUrl } from "../../database/test/support/database.js";
import type { JobStore } from "../src/job-store.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import * as Runner from "../src/runner.js";
import { TestJobs } from "./support/runners.js";

/** Fails at first; long after the runner has nothing else in hand it is due again, and only a look finds it. */
const Twice = JobType.make("lookout.twice", {
  payload: S.Struct({}),
  retry: { initial: "1500 millis", max: "1500 millis", jitter: 0 },
});
const handlers = Twice.toLayer((_, { attempt }) => (attempt === 1 ? Effect.fail("not at first") : Effect.void));

const completed = (jobId: string) =>
  Effect.repeat(Effect.delay(Jobs.status(jobId), "50 millis"), {
    until: (state) => Option.exists(state, ({ status }) => status === "completed"),
  }).pipe(Effect.timeout("20 seconds"));

layer(TestJobs, { excludeTestServices: true })("a runner's look", (it) => {
  it.scoped("is its own, also where the application has the repositories on a login without rights", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const url = yield* newLogin("parametric_tenant, parametric_system");
      const { jobId } = yield* Jobs.submit(Twice, {}, { appId });
      const application = Layer.provideMerge(DatabaseService.layer, Client.layer({ url }));
      yield* completed(jobId).pipe(Effect.provide(Layer.provide(Runner.layerSingle({ handlers }), application)));
    }),
  );

  it.scoped("is taken again after one that died", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const { jobId } = yield* Jobs.submit(Twice, {}, { appId });
      let looks = 0;
      const between = (store: (typeof JobStore)["Service"]): (typeof JobStore)["Service"] => ({
        ...store,
        due: (partitions) =>
          Effect.suspend(() => (++looks === 1 ? Effect.dieMessage("a defect") : store.due(partitions))),
      });
      const client = Layer.unwrapEffect(Effect.map(TestUrl, (url) => Client.layer({ url })));
      yield* completed(jobId).pipe(Effect.provide(Layer.provide(Runner.layerSingle({ handlers, between }), client)));
      assert.isAbove(looks, 1);
    }),
  );
});
