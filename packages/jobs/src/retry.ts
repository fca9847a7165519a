/**
 * When a failed job runs again: exponential backoff with jitter, capped. Pure.
 *
 * The wait is computed by the runner that saw the failure and stored with the job, so it survives restarts.
 */
import * as Duration from "effect/Duration";

/** How a job type is retried. What is left out takes its default. */
export interface RetryOptions {
  /** Attempts in all, the first included, 1 or more. Default 5. A job keeps what it was submitted with. */
  readonly maxAttempts?: number | undefined;
  /** The wait after the first failure. Default 1 second. */
  readonly initial?: Duration.DurationInput | undefined;
  /** What each further wait is multiplied by, 1 or more. Default 2. */
  readonly factor?: number | undefined;
  /** The longest wait. Default 1 hour. */
  readonly max?: Duration.DurationInput | undefined;
  /** The part of each wait that chance decides, 0 to 1: 0.5 waits between half and all of it. Default 0.5. */
  readonly jitter?: number | undefined;
}

/** {@link RetryOptions} with everything decided; times in milliseconds. */
export interface RetryPolicy {
  readonly maxAttempts: number;
  readonly initialMillis: number;
  readonly factor: number;
  readonly maxMillis: number;
  readonly jitter: number;
}

/** No job waits longer for its next attempt: a hundred years. */
export const maxDelayMillis = 100 * 365 * 24 * 3600 * 1000;

/** The policy, or what is wrong with the options. */
export const policyOf = (options: RetryOptions = {}): RetryPolicy | string => {
  const policy = {
    maxAttempts: options.maxAttempts ?? 5,
    initialMillis: Duration.toMillis(options.initial ?? "1 second"),
    factor: options.factor ?? 2,
    maxMillis: Duration.toMillis(options.max ?? "1 hour"),
    jitter: options.jitter ?? 0.5,
  };
  if (!Number.isInteger(policy.maxAttempts) || policy.maxAttempts < 1 || policy.maxAttempts > 1_000_000) {
    return `maxAttempts is ${policy.maxAttempts}; it must be a whole number from 1 to 1,000,000`;
  }
  if (!(policy.initialMillis <= maxDelayMillis && policy.maxMillis <= maxDelayMillis)) {
    return "initial and max must be at most a hundred years";
  }
  if (!(policy.factor >= 1 && Number.isFinite(policy.factor)))
    return `factor is ${policy.factor}; it must be 1 or more`;
  if (!(policy.jitter >= 0 && policy.jitter <= 1)) return `jitter is ${policy.jitter}; it must be from 0 to 1`;
  return policy;
};

/** The wait after the given attempt failed (1 is the first), in milliseconds. `chance` is 0 to 1. */
export const delayMillis = (policy: RetryPolicy, attempt: number, chance: number): number => {
  // Beyond any number, and so no wait at all would be none that is a number.
  const grown = Math.min(policy.factor ** Math.min(attempt - 1, 1000), Number.MAX_VALUE);
  const whole = Math.min(policy.maxMillis, policy.initialMillis * grown);
  return Math.round(whole * (1 - policy.jitter * chance));
};
