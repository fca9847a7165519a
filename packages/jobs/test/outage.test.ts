/** What runner processes do when PostgreSQL goes away under them: they wait, lose nothing, and go on by themselves. */
import type * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import type * as Redacted from "effect/Redacted";
import { isFull, rounds } from "../../database/test/support/campaign.js";
import { newTenant } from "../../database/test/support/database.js";
import * as Server from "../../database/test/support/server.js";
import * as Wire from "../../database/test/support/wire.js";
import { layerDesk } from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import { Effectful, Failing, Plain } from "./support/runner-process.js";
import { assertWhole, countsOf, createEffects, startRunner, untilEnded } from "./support/runners.js";

const submitted = rounds(2000, 300);
const awayMillis = rounds(30_000, 8000);

// What the server says is committed must be there after a kill.
const settings = { synchronous_commit: "on" };

const ways = [
  { name: "killed and started again", away: 0, end: (own: Server.OwnServer) => own.kill },
  { name: `away for ${awayMillis / 1000} seconds`, away: awayMillis, end: (own: Server.OwnServer) => own.stop },
  { name: "restarted", away: 0, end: (own: Server.OwnServer) => own.stop },
];

// The database's own outages are in every run.
describe.runIf(isFull)("a server under load", () => {
  for (const { away, end, name } of ways) {
    it.scopedLive(
      `that is ${name}`,
      () =>
        Effect.gen(function* () {
          const own = yield* Server.make;
          const wire = yield* Wire.make();
          const up = Effect.tap(own.start(settings), (url) => Effect.sync(() => wire.connectTo(url)));
          /** On a connection of its own, so that the outage is none of its business. */
          const direct = <A, E>(
            url: Redacted.Redacted,
            ask: Effect.Effect<A, E, DatabaseService | Jobs.JobDesk | SqlClient.SqlClient>,
          ) =>
            Effect.provide(
              ask,
              Layer.merge(layerDesk, DatabaseService.layer).pipe(
                Layer.provideMerge(Client.layer({ url, maxConnections: 2 })),
              ),
            );
          const first = yield* up;
          yield* direct(first, Effect.zipRight(Migrator.run(), createEffects)).pipe(
            Logger.withMinimumLogLevel(LogLevel.Warning),
          );
          const appId = yield* direct(first, newTenant);
          const runners = yield* Effect.all(
            Array.from({ length: 3 }, () => startRunner(wire.url(first), { concurrency: 16 })),
            { concurrency: 3 },
          );
          yield* direct(
            first,
            Effect.gen(function* () {
              const some = Array.from({ length: submitted }, (_, i) => ({ payload: { millis: 20 + ((i * 7) % 50) } }));
              yield* Jobs.submitMany(Effectful, some.slice(0, submitted / 2), { appId });
              yield* Jobs.submitMany(Plain, some.slice(submitted / 2, -10), { appId });
              yield* Jobs.submitMany(
                Failing,
                some.slice(-10).map(() => ({ payload: {} })),
                { appId },
              );
              // In the middle of it.
              yield* Effect.repeat(countsOf(appId, Effectful.name), {
                until: ({ completed }) => completed > submitted / 10,
              });
            }),
          );
          yield* end(own);
          wire.connectTo(undefined);
          yield* Effect.sleep(away);
          const second = yield* up;
          const started = yield* Clock.currentTimeMillis;
          const counts = yield* direct(second, untilEnded(appId, Effectful.name));
          const took = (yield* Clock.currentTimeMillis) - started;
          console.log(`${name}: all ended ${took} ms after the start, ${counts.repeated} runs repeated`);
          assertWhole(counts, submitted);
          assert.strictEqual(counts.dead, 10, "only the jobs that fail by themselves are dead");
          for (const runner of runners) {
            assert.isFalse(yield* runner.hasEnded, `it goes on: ${runner.output()}`);
            yield* runner.kill("SIGTERM");
            assert.strictEqual(yield* runner.ended, 0, runner.output());
          }
        }),
      600_000,
    );
  }
});
