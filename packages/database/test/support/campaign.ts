/** How long a campaign runs, and from which seed: reduced in `npm test`, whole in `npm run test:full`, the seed printed by both. */
import type * as fc from "effect/FastCheck";

/** Whether this is `npm run test:full`. */
export const isFull = process.env.TEST_FULL === "1";

/** `TEST_SEED=…` replays a campaign. */
export const seed = Number(process.env.TEST_SEED ?? 20_261_124);

/** Rounds of a campaign. */
export const rounds = (full: number, reduced: number): number => (isFull ? full : reduced);

/** Parameters of a property; prints what is needed to run it again. */
export const campaign = <Ts>(name: string, full: number, reduced: number): fc.Parameters<Ts> => {
  const numRuns = rounds(full, reduced);
  console.log(`${name}: ${numRuns} cases, TEST_SEED=${seed}`);
  return { seed, numRuns, endOnFailure: false };
};
