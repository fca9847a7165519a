/** The look that a runner takes by itself: what became due without a notification, and whose runner vanished. */
import { errorText } from "@parametric-portal/database/error-text";
import { databaseError } from "@parametric-portal/database/sql-state";
import * as Cause from "effect/Cause";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import { JobStore } from "./job-store.js";
import { JobTelemetry } from "./telemetry.js";
import { Worker } from "./worker.js";

/**
 * One look. `owned` are the partitions of this runner, `wake` is called with those in which something is due. Safe to run
 * anywhere, any number of times.
 */
export const makeLook = (options: {
  /** How long leases live: after a restart of the server runners get that long to renew theirs. */
  readonly graceMillis: number;
  readonly owned: () => ReadonlyArray<number>;
  readonly wake: (partition: number) => Effect.Effect<unknown>;
}) =>
  Effect.gen(function* () {
    const store = yield* JobStore;
    const worker = yield* Worker;
    const telemetry = yield* JobTelemetry;
    let isAnswered = true;
    let noRescueBefore = 0;
    const rescue = Effect.gen(function* () {
      if ((yield* Clock.currentTimeMillis) < noRescueBefore) return;
      const rescued = yield* store.rescue(options.graceMillis);
      telemetry.rescued(rescued);
      const abandoned = rescued.deadLetters.length;
      if (rescued.retried + abandoned > 0) {
        yield* Effect.logWarning(
          `Runners vanished with ${rescued.retried + abandoned} jobs; ${abandoned} of them had no attempt left`,
        );
      }
    });
    return Effect.gen(function* () {
      // The first look after an outage rescues nothing: whoever was cut off like this runner gets a lease's time to renew its own.
      if (isAnswered) yield* rescue;
      const owned = options.owned();
      if (owned.length === 0 && isAnswered) return yield* worker.suspect([]);
      const { due, suspects } = yield* store.due(owned);
      if (!isAnswered) {
        isAnswered = true;
        noRescueBefore = (yield* Clock.currentTimeMillis) + options.graceMillis;
      }
      yield* worker.suspect(suspects);
      yield* Effect.forEach(new Set([...due, ...suspects]), options.wake, { discard: true });
    }).pipe(
      // A defect as well: a runner without its look would look well, and neither retry nor rescue anything.
      Effect.catchAllCause((cause) => {
        if (Cause.isInterrupted(cause)) return Effect.failCause(cause as Cause.Cause<never>);
        isAnswered = false;
        const problem = Cause.failureOrCause(cause).pipe(
          Either.match({ onLeft: (error) => databaseError(error).message, onRight: errorText }),
        );
        return Effect.logWarning(`Looking for due jobs failed and is tried again: ${problem}`);
      }),
    );
  });
