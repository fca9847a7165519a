/** Targets that are broken in ways that only another process can see. */
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import type { Make, Target } from "../../src/fuzz/target.js";

/** Breaks at its third case, when the process has been heard of. */
const broken = (name: string, breaks: () => void): Make => {
  let cases = 0;
  const target: Target<number> = {
    name,
    share: 100_000,
    lanes: 1,
    cases: fc.nat(),
    outcome: () =>
      Effect.sync(() => {
        if (++cases === 3) breaks();
        return "accepted";
      }).pipe(Effect.delay("400 millis")),
  };
  return () => Effect.succeed([target]);
};

export const targets: Readonly<Record<string, Make>> = {
  fine: broken("fine", () => {}),
  "holds the thread": broken("holds the thread", () => {
    for (;;);
  }),
  "ends the process": broken("ends the process", () => process.abort()),
  "rejects on its own": broken("rejects on its own", () => void Promise.reject(new Error("nobody waits for this"))),
  "throws on its own": broken("throws on its own", () => {
    setTimeout(() => {
      throw new Error("nobody catches this");
    });
  }),
};
