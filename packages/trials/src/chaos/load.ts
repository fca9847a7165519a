/** Submits jobs of every kind for every tenant, and remembers what it was told: a submission whose answer was lost is unknown. */
import * as Jobs from "@parametric-portal/jobs/jobs";
import * as Effect from "effect/Effect";
import * as Random from "effect/Random";
import type { Answered, Sent } from "./check.js";
import { Doomed, Flaky, Once, Plain, Refused } from "./kinds.js";

export interface Load extends Sent {
  /** For as long as it is not interrupted: so many jobs a second, and none while it is enough. */
  readonly submit: (
    appIds: ReadonlyArray<string>,
    jobsPerSecond: number,
    seed: number,
    isEnough?: () => boolean,
  ) => Effect.Effect<never, never, Jobs.JobDesk>;
  /** What was answered since it was last asked. */
  readonly answers: () => Answered;
}

const everyMillis = 250;

export const make = (): Load => {
  const answered = new Map<number, number>();
  const unknown = new Map<number, number>();
  let jobIds: Array<string> = [];
  let batch = 0;
  const once = (appIds: ReadonlyArray<string>, jobs: number) =>
    Effect.gen(function* () {
      batch += 1;
      const appId = appIds[batch % appIds.length] ?? "";
      const kind = yield* Random.next;
      const items = yield* Effect.forEach(Array(jobs), () =>
        Effect.map(Random.nextIntBetween(0, 100), (millis) => ({ payload: { batch, millis } })),
      );
      const degree = yield* Random.nextIntBetween(1, 4);
      const degreed = <K extends string>(name: K) =>
        items.map(({ payload }) => ({ payload: { ...payload, ...({ [name]: degree } as Record<K, number>) } }));
      const options = { appId };
      const submitted =
        kind < 0.45
          ? Jobs.submitMany(Once, items, options)
          : kind < 0.65
            ? Jobs.submitMany(Plain, items, options)
            : kind < 0.8
              ? Jobs.submitMany(Flaky, degreed("fails"), options)
              : kind < 0.94
                ? Jobs.submitMany(Doomed, degreed("rounds"), options)
                : Jobs.submitMany(Refused, items, options);
      const sent = batch;
      // Until it is answered nobody knows.
      unknown.set(sent, jobs);
      yield* submitted.pipe(
        Effect.tap((receipts) =>
          Effect.sync(() => {
            unknown.delete(sent);
            answered.set(sent, receipts.length);
            for (const { jobId } of receipts) jobIds.push(jobId);
          }),
        ),
        Effect.disconnect,
        Effect.timeout("15 seconds"),
        Effect.ignore,
      );
    });
  return {
    answered,
    unknown,
    // A submission that hangs must not keep the next one back.
    submit: (appIds, jobsPerSecond, seed, isEnough = () => false) =>
      Effect.zipRight(
        Effect.suspend(() =>
          isEnough() ? Effect.void : Effect.fork(once(appIds, Math.round((jobsPerSecond * everyMillis) / 1000))),
        ),
        Effect.sleep(everyMillis),
      ).pipe(Effect.forever, Effect.withRandom(Random.make(seed))),
    answers: () => {
      const taken = jobIds;
      jobIds = [];
      return { jobIds: taken };
    },
  };
};
