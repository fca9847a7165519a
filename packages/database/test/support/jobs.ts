/** Jobs in the states that tests need them in, and callers that are at it at the same time. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Client from "../../src/client.js";
import type { Job, JobStatus } from "../../src/models.js";
import { DatabaseService } from "../../src/repos.js";
import { work } from "./database.js";

/** What the compiler would refuse, as JavaScript passes it. */
export const untyped = (value: unknown) => value as never;

export const ids = (rows: ReadonlyArray<{ readonly id: string }>) => rows.map(({ id }) => id);

/** The one job that is due, claimed in its tenant's scope. A lease of nothing is over when the claim's transaction is. */
export const claimOne = (appId: string, lease: Duration.DurationInput = "1 hour") =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const claimed = yield* Client.tenant(appId)(db.jobs.claim({ runner: "runner-1", lease, limit: 1 }));
    assert.strictEqual(claimed.length, 1, "no job is due");
    return claimed[0] as Job;
  });

/** How many of each, without which they were. */
export const counted = ({ deadLettered, retried }: { readonly deadLettered: number; readonly retried: number }) => ({
  retried,
  deadLettered,
});

export const reload = (appId: string, id: string) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    return Option.getOrThrow(yield* Client.tenant(appId)(db.jobs.get(id)));
  });

/** A job in a state, and the fence it was last claimed with (of a job that never was: its first one). */
export const jobThatIs = (appId: string, status: JobStatus, maxAttempts = 5) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    const job = yield* Client.tenant(appId)(db.jobs.enqueue(work(appId, { maxAttempts })));
    if (status === "pending") return job;
    if (status === "cancelled") {
      yield* Client.tenant(appId)(sql`UPDATE jobs SET status = 'cancelled', completed_at = now() WHERE id = ${job.id}`);
      return job;
    }
    const claimed = yield* claimOne(appId);
    const { fence, id } = claimed;
    if (status === "completed") yield* Client.tenant(appId)(db.jobs.complete(claimed));
    if (status === "dead") {
      yield* Client.tenant(appId)(db.jobs.deadLetter({ id, fence, reason: "MaxRetries", error: "x" }));
    }
    return claimed;
  });

/** The error of an effect, as far as all errors here are alike. */
export const failure = <R>(effect: Effect.Effect<unknown, unknown, R>) =>
  Effect.map(Effect.flip(effect), (error) => error as { readonly _tag: string; readonly message: string });

/**
 * Runs the same effect as several callers at once, each in a transaction that stays open until all of them have their answer:
 * one that waited for another's lock would wait for ever.
 */
export const sideBySide = <A, E, R>(callers: number, appId: string, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const all = yield* Deferred.make<void>();
    let answered = 0;
    const arrive = Effect.suspend(() => (++answered === callers ? Deferred.succeed(all, undefined) : Effect.void));
    return yield* Effect.all(
      Array.from({ length: callers }, () =>
        Client.tenant(appId)(Effect.tap(effect, () => Effect.zipRight(arrive, Deferred.await(all)))),
      ),
      { concurrency: "unbounded" },
    );
  });
