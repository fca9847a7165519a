/** What a tenant's scope costs beside the statement in it: round trips, counted on the wire. The same in every round, so there is one. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Effect from "effect/Effect";
import type * as Redacted from "effect/Redacted";
import { type Figure, figureOf } from "./figures.js";
import * as Wire from "./wire.js";

const appId = "01956e2f-0000-7000-8000-000000000001";

export const scopes = (server: Redacted.Redacted) =>
  Effect.gen(function* () {
    const wire = yield* Wire.make(yield* Databases.empty(server));
    const client = Client.layer({ url: wire.url, maxConnections: 1 });
    return yield* Effect.gen(function* () {
      yield* Migrator.run();
      const sql = yield* SqlClient.SqlClient;
      const statement = sql`SELECT count(*) FROM job_dlq`;
      const figures: Array<Figure> = [];
      const alone = yield* wire.counted(statement);
      for (const [contestant, scope] of [
        ["this project", Client.tenant(appId)],
        ["this project, tenantEach", Client.tenantEach(appId)],
      ] as const) {
        const { sent } = yield* wire.counted(scope(statement));
        const beside = sent.roundTrips - alone.sent.roundTrips;
        figures.push(figureOf("round trips of a scope", "round trips", contestant, [beside], undefined));
      }
      return figures;
    }).pipe(Effect.provide(client));
  }).pipe(Effect.scoped);
