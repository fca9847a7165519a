/**
 * This project through its public API: what an application does in its tenant's scope, what a runner does as itself.
 *
 * Jobs and dead letters that a work begins with are written by SQL, which is not measured. Everything else goes through
 * `DatabaseService`, `Jobs` and `Runner`, as an application has them.
 */
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import { JobStore } from "@parametric-portal/jobs/job-store";
import * as JobStoreSql from "@parametric-portal/jobs/job-store-sql";
import * as JobType from "@parametric-portal/jobs/job-type";
import * as Jobs from "@parametric-portal/jobs/jobs";
import * as Runner from "@parametric-portal/jobs/runner";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { type Contestant, connections, each, errorOf, type Prepare, payloadOf, thousands } from "../contestant.js";
import * as Fill from "../fill.js";

const Payload = S.Struct({ order: S.Number, customer: S.String, note: S.String });
const Order = JobType.make("order.ship", { payload: Payload });

export const contestant: Contestant = {
  name: "this project",
  version: "this release",
  settings:
    "Everything in a tenant's scope (Client.tenantEach), but what a runner does for itself; the runner has a concurrency of 2,048 and 4 connections of its own; everything else as it comes.",
  differs: {
    "dead-letter in batches": "What a runner does, with its own connections: an application has no such call.",
    "replay by filter":
      "Batches of 1,000, each a transaction of its own, with a receipt for each letter and a line in the ledger; it can be stopped between two.",
  },
  open: async ({ databaseUrl }) => {
    const url = Redacted.make(databaseUrl);
    const client = Client.layer({ url, maxConnections: connections });
    const engine = JobStoreSql.layerEngine({ url, maxConnections: 4 });
    const services = Layer.mergeAll(
      DatabaseService.layer,
      JobStoreSql.layerDesk,
      JobStoreSql.layer.pipe(Layer.provide(engine)),
    ).pipe(
      Layer.provideMerge(client),
      Layer.provideMerge(
        Layer.mergeAll(
          Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger)),
          Logger.minimumLogLevel(LogLevel.Warning),
        ),
      ),
    );
    // Before a connection starts in a role that the first migration makes.
    await Effect.runPromise(Effect.provide(Migrator.run(), client));
    const runtime = ManagedRuntime.make(services);
    const fill = await Fill.open(databaseUrl);
    const { appId } = fill;
    const db = await runtime.runPromise(DatabaseService);
    const inTenant = Client.tenantEach(appId);
    const run = <A, E>(effect: Effect.Effect<A, E, ManagedRuntime.ManagedRuntime.Context<typeof runtime>>) =>
      runtime.runPromise(effect);

    const oneByOne: Prepare = async (size) => {
      const held = await fill.heldJobs(size);
      return {
        run: async () => {
          await each(held, connections, ({ fence, id }) =>
            run(
              inTenant(
                db.jobs.deadLetter({ id, fence: BigInt(fence), reason: "MaxRetries", error: errorOf(Number(fence)) }),
              ),
            ),
          );
          return undefined;
        },
        check: () => fill.expectLetters(size),
      };
    };

    const inBatches: Prepare = async (size) => {
      const held = thousands(await fill.heldJobs(size));
      const store = await run(JobStore);
      return {
        run: async () => {
          for (const batch of held) {
            await run(
              store.fail(
                batch.map(({ fence, id }) => ({
                  id,
                  fence,
                  outcome: "dead",
                  reason: "MaxRetries",
                  error: errorOf(Number(fence)),
                  delayMillis: null,
                })),
              ),
            );
          }
          return undefined;
        },
        check: () => fill.expectLetters(size),
      };
    };

    const insertInBatches: Prepare = async (size) => {
      await fill.empty();
      const batches = thousands(Array.from({ length: size }, (_, n) => n));
      const jobIds = await fill.uuids(size);
      return {
        run: async () => {
          for (const batch of batches) {
            const entries = batch.map((n) => Fill.entryOf(appId, jobIds[n] ?? "", n));
            await run(inTenant(db.jobDlq.insertMany(entries)));
          }
          return undefined;
        },
        check: () => fill.expectLetters(size),
      };
    };

    const replay: Prepare = async (size) => {
      await fill.deadJobs(size, Order.name);
      await fill.deadJobs(size, "order.other", false);
      await fill.settle();
      return {
        run: async () => {
          await run(
            Stream.runDrain(
              db.jobDlq.replay({ type: Order.name }, { actor: "bench", scope: { _tag: "tenant", appId } }),
            ),
          );
          return undefined;
        },
        check: () => fill.expectReplayed(size),
      };
    };

    const list: Prepare = async (size) => {
      await fill.deadJobs(1000, Order.name);
      await fill.settle();
      let seen = 0;
      return {
        run: async () => {
          for (let i = 0; i < size; i++) seen += (await run(inTenant(db.jobDlq.listPending({ limit: 100 })))).length;
          return undefined;
        },
        check: async () => {
          if (seen !== size * 100) throw new Error(`listed ${seen}`);
        },
      };
    };

    const workOff: Prepare = async (size) => {
      await fill.waitingJobs(size, Order.name);
      return {
        run: async () => {
          await run(
            Effect.gen(function* () {
              const done = yield* Deferred.make<void>();
              let left = size;
              const handlers = Order.toLayer(() =>
                Effect.sync(() => {
                  if (--left === 0) Deferred.unsafeDone(done, Effect.void);
                }),
              );
              const worker = Runner.layerSingle({ handlers, concurrency: 2048, statsEvery: "1 hour" });
              // It has settled what it ran when its layer is closed.
              yield* Effect.provide(Deferred.await(done), worker);
            }),
          );
          return undefined;
        },
        check: () => fill.expectCompleted(size),
      };
    };

    const submitToStart: Prepare = async (size) => {
      await fill.empty();
      let started = (_: number): void => undefined;
      const handlers = Order.toLayer(() => Effect.sync(() => started(performance.now())));
      return {
        run: () =>
          run(
            Effect.gen(function* () {
              yield* Effect.sleep("1 second");
              return yield* Effect.forEach(Array.from({ length: size }), (_, n) =>
                Effect.gen(function* () {
                  const start = yield* Deferred.make<number>();
                  started = (at) => Deferred.unsafeDone(start, Effect.succeed(at));
                  const began = performance.now();
                  yield* Jobs.submit(Order, payloadOf(n), { appId });
                  const at = yield* Deferred.await(start);
                  yield* Effect.sleep("20 millis");
                  return at - began;
                }),
              );
            }).pipe(Effect.provide(Runner.layerSingle({ handlers, statsEvery: "1 hour" }))),
          ),
        check: () => fill.expectCompleted(size),
      };
    };

    return {
      works: {
        "dead-letter one by one": oneByOne,
        "dead-letter in batches": inBatches,
        "insert in batches": insertInBatches,
        "replay by filter": replay,
        "list 100": list,
        "work off": workOff,
        "submit to start": submitToStart,
      },
      close: async () => {
        await fill.close();
        await runtime.dispose();
      },
    };
  },
};
