/**
 * A loop that works off the due jobs of a few tenants, with the real claims and settlements of `DatabaseService.jobs`.
 *
 * This loop is the demo's only. It stops when nothing is due, it has no backoff, heartbeat or shutdown, and a handler that
 * dies takes it along; workers proper are a package of their own. It claims tenant by tenant, so that on a shared database
 * it never takes somebody else's job.
 */
import * as Client from "@parametric-portal/database/client";
import type { Job } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import type { Handlers } from "./handlers.js";

/** Jobs that one runner has in hand at a time. */
const concurrency = 4;

/** Runs one claimed job and settles it: completed, retried, or dead-lettered with its reason. */
const runJob = (handlers: Handlers, job: Job) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const inTenant = Client.tenant(job.appId);
    const isLastAttempt = job.attempts >= job.maxAttempts;
    const failed = (reason: "MaxRetries" | "HandlerMissing", error: unknown) =>
      isLastAttempt
        ? inTenant(db.jobs.deadLetter({ id: job.id, fence: job.fence, reason, error }))
        : inTenant(db.jobs.retry({ id: job.id, fence: job.fence, error, delay: 0 }));

    const handler = handlers.get(job.type);
    // Perhaps a newer release that knows the type is on its way: so it is tried again before it is given up.
    if (handler === undefined) return yield* failed("HandlerMissing", `no handler for ${job.type}`);

    // What the handler writes and `completed` are one transaction: both are there, or neither.
    return yield* inTenant(Effect.zipRight(handler(job), db.jobs.complete(job))).pipe(
      Effect.catchTags({
        PayloadInvalid: ({ message }) =>
          inTenant(db.jobs.deadLetter({ id: job.id, fence: job.fence, reason: "Validation", error: message })),
        AnnouncerDown: (error) => failed("MaxRetries", error),
      }),
    );
  });

const drain = (runner: string, handlers: Handlers, appIds: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    let attempts = 0;
    for (;;) {
      const claims = yield* Effect.forEach(appIds, (appId) =>
        Client.tenant(appId)(db.jobs.claim({ runner, limit: 20 })),
      );
      const jobs = claims.flat();
      if (jobs.length === 0) return { runner, attempts };
      attempts += jobs.length;
      yield* Effect.forEach(jobs, (job) => runJob(handlers, job), { concurrency, discard: true });
    }
  });

/** Two runners side by side, until no job of these tenants is due. Returns how many attempts each of them made. */
export const work = (handlers: Handlers, appIds: ReadonlyArray<string>) =>
  Effect.forEach(["runner-1", "runner-2"], (runner) => drain(runner, handlers, appIds), { concurrency: "unbounded" });
