import type * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it } from "@effect/vitest";
import * as Chunk from "effect/Chunk";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import type * as Redacted from "effect/Redacted";
import * as Ref from "effect/Ref";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import * as Migrator from "../../src/migrator.js";
import { DatabaseService } from "../../src/repos.js";
import { isFull } from "../support/campaign.js";
import { letter, newTenant } from "../support/database.js";
import * as Proxy from "../support/proxy.js";
import * as Server from "../support/server.js";

describe("jobDlq.changes", () => {
  for (const way of isFull ? (["stop", "kill"] as const) : (["kill"] as const)) {
    it.scopedLive(
      `outlasts a server that is ${way === "stop" ? "restarted" : "killed and started again"}, with what came before and after`,
      () =>
        Effect.gen(function* () {
          const server = yield* Server.make;
          const url = yield* Ref.make(yield* server.start());
          const clientOf = (address: Redacted.Redacted) =>
            Layer.provideMerge(DatabaseService.layer, Client.layer({ url: address, maxConnections: 2 }));
          /** On a connection of its own, so that the restart is none of its business. */
          const direct = <A, E>(effect: Effect.Effect<A, E, DatabaseService | SqlClient.SqlClient>) =>
            Effect.flatMap(Ref.get(url), (address) => Effect.provide(effect, clientOf(address)));
          const appId = yield* direct(Effect.zipRight(Migrator.run(), newTenant));
          const insert = direct(
            Effect.flatMap(DatabaseService, (db) =>
              Effect.map(Client.tenant(appId)(db.jobDlq.insert(letter(appId))), ({ id }) => id),
            ),
          );
          const proxy = yield* Proxy.make(yield* Ref.get(url));
          const followers = yield* Layer.build(clientOf(proxy.url));
          const scope = { _tag: "tenant", appId } as const;
          const start = yield* direct(Effect.flatMap(DatabaseService, (db) => db.jobDlq.changesPosition()));
          const following = yield* Effect.forkScoped(
            Effect.flatMap(DatabaseService, (db) =>
              Stream.runCollect(Stream.take(db.jobDlq.changes({ scope, after: start, pollInterval: "1 hour" }), 6)),
            ).pipe(Effect.provide(followers)),
          );
          const ids = [yield* insert];
          for (let round = 0; round < 2; round++) {
            ids.push(yield* insert);
            yield* way === "kill" ? server.kill : server.stop;
            yield* Ref.set(url, yield* server.start());
            // There before the follower finds the way back.
            ids.push(yield* insert);
            proxy.moveTo(yield* Ref.get(url));
          }
          ids.push(yield* insert);
          const seen = Chunk.toReadonlyArray(yield* Fiber.join(following));
          assert.deepStrictEqual(
            seen.map(({ letter: one }) => Either.merge(one).id),
            ids,
          );
          // Each lost connection is a warning.
        }).pipe(Logger.withMinimumLogLevel(LogLevel.Error)),
      600_000,
    );
  }
});
