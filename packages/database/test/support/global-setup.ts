/** One server for the run and one migrated template on it, from which each test file clones a database of its own. */
import * as Databases from "@parametric-portal/postgres/databases";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Redacted from "effect/Redacted";
import * as Scope from "effect/Scope";
import type { TestProject } from "vitest/node";
import * as Client from "../../src/client.js";
import * as Migrator from "../../src/migrator.js";

declare module "vitest" {
  interface ProvidedContext {
    /** Of the server's own database, as its superuser. */
    readonly serverUrl: string;
    readonly template: string;
  }
}

const start = Effect.gen(function* () {
  const server = yield* Postgres.makeConfig();
  yield* Effect.sync(() => console.log(`PostgreSQL ${server.version} (${server.provider})`));
  const template = yield* Databases.template(server.url, (url) =>
    Effect.provide(Migrator.run(), Client.layer({ url, maxConnections: 1 })),
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
