/**
 * What every fuzz target is, and how a campaign runs one: seeded cases side by side, each with an outcome, and then what must still hold.
 *
 * A failure is: a defect, an error that is not documented, a case that does not end, whatever the target itself finds wrong, memory
 * that grows beyond a stated bound, a balance that does not hold afterwards. A failing case is shrunk, and told with the seed and the
 * path that make it again.
 */
import { inspect } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as fc from "effect/FastCheck";
import type * as Redacted from "effect/Redacted";
import type * as Scope from "effect/Scope";

export interface Target<Case> {
  /** What is fuzzed, then how: `cursors: pages`. `--only` takes a part of it. */
  readonly name: string;
  /** Its part of 100,000 cases. */
  readonly share: number;
  /** Cases at a time. Default 8. */
  readonly lanes?: number;
  readonly cases: fc.Arbitrary<Case>;
  /** Cases that once failed; always run, first. */
  readonly once?: ReadonlyArray<Case>;
  /** What came of a case, in a few words: `accepted`, `refused: InvalidInput`. Whatever it fails or dies with is a failure. */
  readonly outcome: (one: Case) => Effect.Effect<string, unknown>;
  /** What must hold when all cases are done. */
  readonly holds?: Effect.Effect<void, unknown>;
}

/** A target with any cases. */
// biome-ignore lint/suspicious/noExplicitAny: a case goes from the target's own generator to its own outcome, and nowhere else.
export type AnyTarget = Target<any>;

/** Makes targets on a database of their own, which is migrated and empty. */
export type Make = (url: Redacted.Redacted) => Effect.Effect<ReadonlyArray<AnyTarget>, unknown, Scope.Scope>;

export interface Campaign {
  readonly cases: number;
  readonly seed: number;
  /** Of a case that failed, with its seed: only this case is run. */
  readonly path?: string | undefined;
  /** How long a case may take. Default 30 seconds. */
  readonly patienceMillis?: number | undefined;
  /** Told after every case. */
  readonly onCase?: (() => void) | undefined;
}

/** What failed, and how to see it again. */
export interface Failure {
  readonly target: string;
  readonly problem: string;
  /** The smallest case that was found; none where it was no single case. */
  readonly example?: string;
  readonly seed?: number;
  readonly path?: string;
}

export interface Result {
  readonly target: string;
  readonly cases: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly failures: ReadonlyArray<Failure>;
  /** Megabytes in use after a fifth of the cases and after all, each after a collection. */
  readonly megabytes: { readonly before: number; readonly after: number };
}

/** How much more memory may be in use after a campaign than after its first fifth. */
export const mostGrowthMegabytes = 64;

const patience = 30_000;

setFlagsFromString("--expose-gc");
const collect: () => void = runInNewContext("gc");

const megabytesInUse = async () => {
  // What finalizers and closing sockets hold goes with the next turns.
  for (let round = 0; round < 3; round++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { external, heapUsed } = process.memoryUsage();
  return (heapUsed + external) / 2 ** 20;
};

class Hung extends Error {}

/** A case may have made an error that throws when it is read. */
const rendered = (cause: Cause.Cause<unknown>): string => {
  try {
    return Cause.pretty(cause, { renderErrorCause: true });
  } catch {
    return inspect(Cause.squash(cause), { getters: false, customInspect: false });
  }
};

/** The outcome of a case; rejects with why it failed. */
const settled = <Case>(target: Target<Case>, one: Case, patienceMillis: number): Promise<string> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Hung(`did not end within ${patienceMillis} ms`)), patienceMillis);
  });
  const ended = Effect.runPromiseExit(Effect.suspend(() => target.outcome(one))).then((exit) => {
    if (Exit.isSuccess(exit)) return exit.value;
    throw new Error(rendered(exit.cause));
  });
  return Promise.race([ended, late]).finally(() => clearTimeout(timer));
};

const said = (error: unknown) => (error instanceof Error ? error.message : String(error));
const shown = (one: unknown) => {
  const text = fc.stringify(one);
  return text.length > 4000 ? `${text.slice(0, 4000)}… (${text.length} characters)` : text;
};

/** Runs cases of a target. Never rejects: what goes wrong is in the result. */
export const run = async <Case>(target: Target<Case>, campaign: Campaign): Promise<Result> => {
  const { onCase = () => {}, patienceMillis = patience, path, seed } = campaign;
  const outcomes: Record<string, number> = {};
  const failures: Array<Failure> = [];
  let cases = 0;
  const count = (outcome: string) => {
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    cases++;
    onCase();
  };

  const lane = async (laneSeed: number, numRuns: number) => {
    let isFailed = false;
    let isHung = false;
    const property = fc.asyncProperty(target.cases, async (one) => {
      // A case that hangs is not made smaller: each try would hang as long.
      fc.pre(!isHung);
      try {
        const outcome = await settled(target, one, patienceMillis);
        if (!isFailed) count(outcome);
      } catch (error) {
        if (!isFailed) count("FAILED");
        isFailed = true;
        isHung = error instanceof Hung;
        throw error;
      }
    });
    const details = await fc.check(property, {
      seed: laneSeed,
      numRuns,
      maxSkipsPerRun: 1_000_000,
      ...(path === undefined ? {} : { path }),
    });
    if (!details.failed) return;
    failures.push({
      target: target.name,
      problem: said(details.errorInstance),
      example: shown(details.counterexample?.[0]),
      seed: details.seed,
      ...(details.counterexamplePath === null ? {} : { path: details.counterexamplePath }),
    });
  };

  const block = async (blockSeed: number, all: number) => {
    const lanes = path === undefined ? Math.min(target.lanes ?? 8, all) : 1;
    const each = Math.ceil(all / lanes);
    // Seeds of their own for the lanes, the first of them the campaign's.
    await Promise.all(
      Array.from({ length: Math.ceil(all / each) }, (_, i) =>
        lane((blockSeed + i * 1_000_003) | 0, Math.min(each, all - i * each)),
      ),
    );
  };

  if (path === undefined) {
    for (const [place, one] of (target.once ?? []).entries()) {
      try {
        count(await settled(target, one, patienceMillis));
      } catch (error) {
        count("FAILED");
        failures.push({
          target: target.name,
          problem: `what failed once, ${place}: ${said(error)}`,
          example: shown(one),
        });
      }
    }
  }
  const first = path === undefined ? Math.ceil(campaign.cases / 5) : 1;
  await block(seed, first);
  const before = await megabytesInUse();
  if (path === undefined && campaign.cases > first) await block((seed + 500_000_003) | 0, campaign.cases - first);
  const held = await Effect.runPromiseExit(target.holds ?? Effect.void);
  if (Exit.isFailure(held)) {
    failures.push({ target: target.name, problem: `afterwards: ${rendered(held.cause)}`, seed });
  }
  const after = await megabytesInUse();
  if (after - before > mostGrowthMegabytes) {
    const grown = `${before.toFixed(0)} MB in use became ${after.toFixed(0)} MB in ${campaign.cases - first} cases`;
    failures.push({ target: target.name, problem: `memory grows: ${grown}`, seed });
  }
  return { target: target.name, cases, outcomes, failures, megabytes: { before, after } };
};

// --- outcomes ----------------------------------------------------------------

const tagOf = (error: unknown): string =>
  typeof error === "object" && error !== null ? String(Reflect.get(error, "_tag")) : typeof error;

/** `accepted`, or `refused` with a tag that is documented for the operation. Any other error stays one. */
export const answer =
  (...documented: ReadonlyArray<string>) =>
  <A, E, R>(operation: Effect.Effect<A, E, R>): Effect.Effect<string, E, R> =>
    operation.pipe(
      Effect.as("accepted"),
      Effect.catchAll((error) =>
        documented.includes(tagOf(error)) ? Effect.succeed(`refused: ${tagOf(error)}`) : Effect.fail(error),
      ),
    );
