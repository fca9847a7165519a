/** Two workers with a copy of the work tree each: first every test as things are, then every mutation with its test. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as Arr from "effect/Array";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import { type Mutation, mutated } from "./mutation.js";
import { type Outcome, run } from "./run.js";

/** A copy of the work tree, and the server whose databases its tests make. */
export interface Place {
  readonly copy: string;
  readonly databaseUrl: string;
}

/** `no answer`: no test failed by itself, so nothing was proven; the mutation broke the building and not the behaviour. */
export interface Result {
  readonly mutation: Mutation;
  readonly verdict: "killed" | "survived" | "no answer";
  /** The title of the test that failed. */
  readonly by: string;
  /** How it failed; or, of one that was not noticed, what vitest said. */
  readonly said: string;
  readonly seconds: number;
}

/** Every item once, by whichever place is free; results in the order of the items. */
const shared = <A, B>(
  places: ReadonlyArray<Place>,
  items: ReadonlyArray<A>,
  work: (place: Place, item: A) => Effect.Effect<B>,
) =>
  Effect.gen(function* () {
    const results: Array<B> = [];
    let next = 0;
    const worker = (place: Place) =>
      Effect.whileLoop({
        while: () => next < items.length,
        body: () => {
          const at = next++;
          return Effect.map(work(place, items[at] as A), (result) => {
            results[at] = result;
          });
        },
        step: () => {},
      });
    yield* Effect.forEach(places, worker, { concurrency: "unbounded", discard: true });
    return results;
  });

/** Runs each test that is named, whole files at a time, unbroken; returns what is wrong with them. */
export const baseline = (places: ReadonlyArray<Place>, mutations: ReadonlyArray<Mutation>) =>
  Effect.gen(function* () {
    const byFile = Object.entries(Arr.groupBy(mutations, ({ test }) => test.file));
    const found = yield* shared(places, byFile, ({ copy, databaseUrl }, [file, all]) =>
      Effect.gen(function* () {
        const titles = [...new Set(all.map(({ test }) => test.title))];
        const { failed, passed, said } = yield* run(copy, databaseUrl, file, titles, true);
        yield* Console.log(`${failed.length === 0 ? "green" : "RED"}  ${file}, ${passed.length} tests`);
        return titles.flatMap((title) => {
          const red = failed.find((_) => _.title.includes(title));
          if (red !== undefined) return [`${file}: ${red.title}: ${red.why}`];
          return passed.some((_) => _.includes(title))
            ? []
            : [`${file}: no test passed that is called "${title}"\n${said}`];
        });
      }),
    );
    return found.flat();
  });

const verdictOf = ({ code, failed, passed, said }: Outcome): Pick<Result, "verdict" | "by" | "said"> => {
  const [first] = failed;
  if (first !== undefined && code !== 0) return { verdict: "killed", by: first.title, said: first.why };
  return passed.length > 0 && code === 0
    ? { verdict: "survived", by: "", said: "its test passed" }
    : { verdict: "no answer", by: "", said };
};

/** Makes each mutation, runs its test, and takes it back. */
export const each = (
  places: ReadonlyArray<Place>,
  mutations: ReadonlyArray<Mutation>,
  tell: (result: Result) => void = () => {},
) =>
  Effect.gen(function* () {
    let done = 0;
    return yield* shared(places, mutations, ({ copy, databaseUrl }, mutation) => {
      const path = join(copy, mutation.file);
      const broken = Effect.acquireUseRelease(
        Effect.sync(() => {
          const text = readFileSync(path, "utf8");
          writeFileSync(path, mutated(mutation, text));
          return text;
        }),
        () => run(copy, databaseUrl, mutation.test.file, [mutation.test.title], false),
        (text) => Effect.sync(() => writeFileSync(path, text)),
      );
      return Effect.gen(function* () {
        const began = performance.now();
        const found = verdictOf(yield* broken);
        const result: Result = { mutation, ...found, seconds: (performance.now() - began) / 1000 };
        const place = `${String(++done).padStart(String(mutations.length).length)}/${mutations.length}`;
        const what = result.verdict === "killed" ? "killed  " : result.verdict.toUpperCase();
        yield* Console.log(`${place}  ${result.seconds.toFixed(1).padStart(5)} s  ${what}  ${mutation.name}`);
        tell(result);
        return result;
      });
    });
  });
