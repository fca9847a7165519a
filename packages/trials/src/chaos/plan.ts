/** What is done to the system and when: the same seed plans the same faults. What each meets is the race's. */
import * as Effect from "effect/Effect";
import * as Random from "effect/Random";

export const kinds = [
  "fast restart of the server",
  "immediate restart of the server",
  "kill -9 of a runner",
  "frozen runner",
  "cut connections",
  "half-open connections",
  "no connection left",
  "cancelled backends",
  "terminated backends",
  "shifted clock of a runner",
  "temporary files forbidden",
  "temporary files on a full disk",
] as const;
export type Kind = (typeof kinds)[number];

export interface Fault {
  readonly number: number;
  readonly kind: Kind;
  /** After the start. */
  readonly atMillis: number;
  /** Which of the three runners; of connections also 3, those of the operators and submitters. */
  readonly target: number;
  /** From 0 up to 1: how long, how many. */
  readonly force: number;
}

const gap = { least: 2500, most: 6000 };

/** Every kind once in a random order, then again, until the time is over. */
export const plan = (seed: number, minutes: number): Effect.Effect<ReadonlyArray<Fault>> =>
  Effect.gen(function* () {
    const faults: Array<Fault> = [];
    let bag: Array<Kind> = [];
    let atMillis = 0;
    for (;;) {
      atMillis += yield* Random.nextIntBetween(gap.least, gap.most);
      if (atMillis >= minutes * 60_000) return faults;
      if (bag.length === 0) bag = [...(yield* Random.shuffle(kinds))];
      const [kind, ...rest] = bag;
      if (kind === undefined) return yield* Effect.dieMessage("there are no kinds of faults");
      bag = rest;
      const targets = kind.endsWith("open connections") || kind.startsWith("cut") ? 4 : 3;
      faults.push({
        number: faults.length + 1,
        kind,
        atMillis,
        target: yield* Random.nextIntBetween(0, targets),
        force: yield* Random.next,
      });
    }
  }).pipe(Effect.withRandom(Random.make(seed)));
