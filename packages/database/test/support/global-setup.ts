import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { TestProject } from "vitest/node";
import * as Client from "../../src/client.js";
import * as Migrator from "../../src/migrator.js";
import { template } from "./tmp-clone.js";

declare module "vitest" {
  interface ProvidedContext {
    readonly serverUrl: string;
    readonly template: string;
  }
}
export default async (project: TestProject) => {
  const url = "postgres://postgres@127.0.0.1:54999/postgres";
  await template(url, "template_x", (u) => Effect.runPromise(Effect.provide(Effect.asVoid(Migrator.run()), Client.layer({ url: Redacted.make(u) }))));
  project.provide("serverUrl", url);
  project.provide("template", "template_x");
};
