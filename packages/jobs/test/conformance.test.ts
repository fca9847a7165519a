import * as SqlClient from "@effect/sql/SqlClient";
import { layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import { newTenant } from "../../database/test/support/database.js";
import * as Runner from "../src/runner.js";
import { conformance } from "./support/conformance.js";
import { TestJobs } from "./support/runners.js";

layer(TestJobs, { excludeTestServices: true, timeout: "2 minutes" })("on PostgreSQL", (it) => {
  conformance(it, {
    newTenant,
    withRunner: (handlers, options) => (effect) =>
      Effect.provide(effect, Runner.layerSingle({ handlers, patience: "1 second", ...options })) as never,
    pass: (millis) => Effect.sleep(millis),
    letters: (appId) =>
      Effect.flatMap(DatabaseService, (db) => Client.tenant(appId)(db.jobDlq.listPending({ limit: 1000 }))),
    replay: (appId, id) =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [receipt] = yield* Client.tenant(appId)(db.jobDlq.replay([id], { actor: "test" }));
        return receipt?.outcome === "replayed";
      }),
    vanish: (appId) =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        yield* Client.system(
          sql`UPDATE jobs SET locked_until = now() - interval '1 second', fence = nextval('job_fence') WHERE app_id = ${appId} AND status = 'processing'`,
        );
      }),
  });
});
