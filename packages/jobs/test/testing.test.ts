/** The test kit keeps what jobs promise, on the clock of the test. */
import { randomUUID } from "node:crypto";
import { describe, it } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as TestClock from "effect/TestClock";
import * as Testing from "../src/testing.js";
import { conformance } from "./support/conformance.js";

describe("in memory", () => {
  // Each test has a queue of its own, made with its handlers.
  conformance(it as never, {
    newTenant: Effect.sync(randomUUID),
    withRunner: (handlers, options) => (effect) =>
      Effect.provide(effect as Effect.Effect<never>, Testing.layer({ handlers, ...options })) as never,
    pass: (millis) => Effect.zipRight(TestClock.adjust(millis), Testing.settled as Effect.Effect<void>),
    letters: (appId) =>
      Effect.map(Testing.deadLetters, (letters) => letters.filter((_) => _.appId === appId && !_.isReplayed)) as never,
    replay: (_, id) => Testing.replay(id) as never,
    vanish: () => Effect.flatMap(Testing.TestJobs, (_) => _.vanish) as never,
  });
});
