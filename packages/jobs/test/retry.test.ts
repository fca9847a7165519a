/** When a failed job runs again. */
import { assert, describe, it } from "@effect/vitest";
import * as Duration from "effect/Duration";
import * as fc from "effect/FastCheck";
import { campaign } from "../../database/test/support/campaign.js";
import { delayMillis, maxDelayMillis, policyOf, type RetryOptions, type RetryPolicy } from "../src/retry.js";

const policy = (options: RetryOptions = {}): RetryPolicy => {
  const made = policyOf(options);
  if (typeof made === "string") throw new Error(made);
  return made;
};

describe("the wait for the next attempt", () => {
  it("grows to its cap and no further", () => {
    const given = policy({ initial: "1 second", factor: 2, max: "10 seconds", jitter: 0 });
    assert.deepStrictEqual(
      [1, 2, 3, 4, 5, 6, 1_000_000].map((attempt) => delayMillis(given, attempt, 1)),
      [1000, 2000, 4000, 8000, 10_000, 10_000, 10_000],
    );
    assert.strictEqual(delayMillis(policy({ initial: 0, factor: 3, max: 1 }), 1000, 0), 0);
    fc.assert(
      fc.property(
        fc.record({
          initial: fc.integer({ min: 0, max: 1e9 }),
          factor: fc.double({ min: 1, max: 1e6, noNaN: true }),
          max: fc.integer({ min: 0, max: maxDelayMillis }),
        }),
        fc.integer({ min: 1, max: 1_000_000 }),
        (options, attempt) => {
          const [now, next] = [attempt, attempt + 1].map((_) => delayMillis(policy({ ...options, jitter: 0 }), _, 0));
          assert.isTrue(Number.isSafeInteger(now) && (now ?? -1) >= 0 && (now ?? 0) <= options.max);
          assert.isAtLeast(next ?? -1, now ?? 0);
        },
      ),
      campaign("waits for the next attempt", 10_000, 1000),
    );
  });

  it("is cut by chance, by the jitter's part of it at most", () => {
    const given = policy({ initial: "1 second", jitter: 0.25 });
    assert.deepStrictEqual(
      [0, 0.5, 1].map((chance) => delayMillis(given, 1, chance)),
      [1000, 875, 750],
    );
    assert.strictEqual(delayMillis(policy({ initial: "1 second" }), 1, 1), 500, "half of it by default");
    assert.strictEqual(delayMillis(policy({ initial: "1 second", jitter: 0 }), 1, 1), 1000);
  });

  it("of a type that says nothing is 1 second, doubled up to an hour, for 5 attempts", () => {
    assert.deepStrictEqual(policy(), {
      maxAttempts: 5,
      initialMillis: 1000,
      factor: 2,
      maxMillis: 3_600_000,
      jitter: 0.5,
    });
  });

  it("options that cannot be are refused, each by its name", () => {
    const cases: ReadonlyArray<readonly [RetryOptions, string]> = [
      ...[0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1_000_001].map(
        (maxAttempts) => [{ maxAttempts }, "maxAttempts"] as const,
      ),
      ...[0.9, -2, Number.NaN, Number.POSITIVE_INFINITY].map((factor) => [{ factor }, "factor"] as const),
      ...[-0.1, 1.1, Number.NaN].map((jitter) => [{ jitter }, "jitter"] as const),
      [{ initial: Duration.infinity }, "initial and max"],
      [{ max: maxDelayMillis + 1 }, "initial and max"],
    ];
    for (const [options, word] of cases) assert.include(String(policyOf(options)), word, JSON.stringify(options));
    for (const options of [
      { maxAttempts: 1 },
      { maxAttempts: 1_000_000 },
      { factor: 1 },
      { jitter: 0 },
      { jitter: 1 },
    ]) {
      assert.isObject(policyOf(options), JSON.stringify(options));
    }
  });
});
