/** As global-setup.ts, but the template's job_dlq is partitioned by the recipe. */
import { readFileSync } from "node:fs";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Redacted from "effect/Redacted";
import * as Scope from "effect/Scope";
import type { TestProject } from "vitest/node";
import * as Client from "../../src/client.js";
import * as Migrator from "../../src/migrator.js";
import type {} from "./global-setup.js";

const recipe = readFileSync(new URL("../../recipes/partition-job-dlq.sql", import.meta.url), "utf8");

const prepare = Effect.gen(function* () {
  yield* Migrator.run();
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(recipe);
  for (const step of ["prepare", "validate", "swap"]) yield* sql.unsafe(`SELECT job_dlq_partitions.${step}()`);
});

const start = Effect.gen(function* () {
  const server = yield* Postgres.makeConfig();
  const template = yield* Databases.template(server.url, (url) =>
    Effect.provide(prepare, Client.layer({ url, maxConnections: 1 })),
  );
  return { serverUrl: Redacted.value(server.url), template };
});

export default async (project: TestProject) => {
  const scope = Effect.runSync(Scope.make());
  const { serverUrl, template } = await Effect.runPromise(Scope.extend(start, scope));
  project.provide("serverUrl", serverUrl);
  project.provide("template", template);
  return () => Effect.runPromise(Scope.close(scope, Exit.void));
};
