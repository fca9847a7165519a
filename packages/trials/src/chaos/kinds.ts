/**
 * The kinds of job that the trials submit. Each leaves a row in `effects`, those that are transactional with their `completed` or
 * not at all; `batch` is the submission that the job came with.
 */
import * as JobType from "@parametric-portal/jobs/job-type";
import * as S from "effect/Schema";

const retry = { initial: "50 millis", max: "500 millis" } as const;
// What hangs on a connection that went deaf is given up and tried again.
const timeout = "8 seconds";
const Work = S.Struct({ batch: S.Int, millis: S.Int });

/** Its effect is there once. */
export const Once = JobType.make("chaos.once", { payload: Work, transactional: true, retry, timeout });
/** Leaves its effect and fails, until it was replayed so many times. */
export const Doomed = JobType.make("chaos.doomed", {
  payload: S.Struct({ ...Work.fields, rounds: S.Int }),
  transactional: true,
  retry: { ...retry, maxAttempts: 2 },
  timeout,
});
/** Its effect is there at least once. */
export const Plain = JobType.make("chaos.plain", { payload: Work, retry, timeout });
/** Fails so many times before it succeeds. */
export const Flaky = JobType.make("chaos.flaky", {
  payload: S.Struct({ ...Work.fields, fails: S.Int }),
  retry,
  timeout,
});
/** Is refused by its handler each time. */
export const Refused = JobType.make("chaos.refused", { payload: Work, retry, timeout });

export const transactional = [Once.name, Doomed.name] as const;
