/** Two workers with a copy of the work tree each: first every test as things are, then every mutation with its test. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as Arr from "effect/Array";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import type { Answer } from "./host.js";
import { type Mutation, mutated, patternOf } from "./mutation.js";
import type { Place } from "./run.js";

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
    const found = yield* shared(places, byFile, ({ run }, [file, all]) =>
      Effect.gen(function* () {
        const titles = [...new Set(all.map(({ test }) => test.title))];
        const { failed, passed, said } = yield* run({
          file,
          pattern: patternOf(titles),
          changed: [],
          isFresh: false,
        });
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

const verdictOf = ({ failed, passed, said }: Answer): Pick<Result, "verdict" | "by" | "said"> => {
  const [first] = failed;
  if (first !== undefined) return { verdict: "killed", by: first.title, said: first.why };
  return passed.length > 0
    ? { verdict: "survived", by: "", said: "its test passed" }
    : { verdict: "no answer", by: "", said };
};

/** The databases of the tests are made of these, once for all of them. */
const isOfTemplate = ({ file }: Mutation) => file.startsWith("packages/database/migrations/");

/** Makes each mutation, runs its test, and takes it back. Tells of each. */
export const each = (
  places: ReadonlyArray<Place>,
  mutations: ReadonlyArray<Mutation>,
  tell: (result: Result) => void = () => {},
) =>
  Effect.gen(function* () {
    let done = 0;
    /** What was taken back in a copy, and is not known to its vitest yet. */
    const before = new Map<Place, Mutation>();
    return yield* shared(places, mutations, (place, mutation) => {
      const path = join(place.copy, mutation.file);
      const last = before.get(place);
      const broken = Effect.acquireUseRelease(
        Effect.sync(() => {
          const text = readFileSync(path, "utf8");
          writeFileSync(path, mutated(mutation, text));
          return text;
        }),
        () =>
          place.run({
            file: mutation.test.file,
            pattern: patternOf([mutation.test.title]),
            changed: [...(last === undefined ? [] : [last.file]), mutation.file],
            isFresh: isOfTemplate(mutation) || (last !== undefined && isOfTemplate(last)),
          }),
        (text) =>
          Effect.sync(() => {
            writeFileSync(path, text);
            before.set(place, mutation);
          }),
      );
      return Effect.gen(function* () {
        const began = performance.now();
        const found = verdictOf(yield* broken);
        const result: Result = { mutation, ...found, seconds: (performance.now() - began) / 1000 };
        const at = `${String(++done).padStart(String(mutations.length).length)}/${mutations.length}`;
        const what = result.verdict === "killed" ? "killed  " : result.verdict.toUpperCase();
        yield* Console.log(`${at}  ${result.seconds.toFixed(1).padStart(5)} s  ${what}  ${mutation.name}`);
        tell(result);
        return result;
      });
    });
  });
