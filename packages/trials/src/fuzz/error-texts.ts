/**
 * Whatever a handler may throw, as the error of a job: a dead letter is never lost because of it, and what is stored is well-formed,
 * without NUL, and bounded.
 */
import { types } from "node:util";
import { errorText, maxErrorLength } from "@parametric-portal/database/error-text";
import * as Cause from "effect/Cause";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import { anything, json, Made, plain, text } from "./nasty.js";
import { balanced, letter, open, untyped, work } from "./site.js";
import { answer, type Make, type Target } from "./target.js";

class Refused extends Data.TaggedError("Refused")<{ readonly what: unknown }> {}

const throwing = (name: PropertyKey, target: object) =>
  Object.defineProperty(target, name, {
    get() {
      throw new Error("cannot be read");
    },
  });

const names = [
  "message",
  "stack",
  "name",
  "cause",
  "toString",
  "toJSON",
  "_tag",
  Symbol.toStringTag,
  Symbol.toPrimitive,
] as const;

/** An error made of another one. */
const around = (label: string, inner: fc.Arbitrary<Made>, make: (value: unknown) => unknown) =>
  inner.map((one) => new Made(`${label}(${one.label})`, () => make(one.make())));

const error: fc.Arbitrary<Made> = fc.letrec<{ error: Made }>((tie) => ({
  error: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    plain(text),
    plain(anything),
    around("Error", plain(text), (message) => new Error(String(message))),
    around("Error with a cause", tie("error"), (cause) => new Error("outer", { cause })),
    fc
      .array(tie("error"), { maxLength: 3 })
      .map(
        (all) =>
          new Made(`AggregateError(${all.map((_) => _.label)})`, () => new AggregateError(all.map((_) => _.make()))),
      ),
    around("Refused", tie("error"), (what) => new Refused({ what })),
    around("Cause.fail", tie("error"), Cause.fail),
    around("Cause.die", tie("error"), Cause.die),
    around("Cause.parallel", tie("error"), (one) => Cause.parallel(Cause.fail(one), Cause.die(one))),
    fc
      .tuple(fc.constantFrom(...names), anything)
      .map(
        ([name, value]) =>
          new Made(`Error whose ${String(name)} is ${fc.stringify(value)}`, () =>
            Object.defineProperty(new Error("x"), name, { value, configurable: true }),
          ),
      ),
    fc
      .constantFrom(...names)
      .map((name) => new Made(`Error whose ${String(name)} throws`, () => throwing(name, new Error("x")))),
    fc.constantFrom(...names).map((name) => new Made(`object whose ${String(name)} throws`, () => throwing(name, {}))),
    around("Error that holds itself", tie("error"), (cause) => {
      const knot = new Error("knot", { cause });
      return Object.assign(knot, { self: knot });
    }),
    fc.constantFrom("ownKeys", "get", "getPrototypeOf", "has", "getOwnPropertyDescriptor").map(
      (trap) =>
        new Made(`Proxy of an Error whose ${trap} throws`, () => {
          const refuse = () => {
            throw new Error("trapped");
          };
          return new Proxy(new Error("proxied"), { [trap]: refuse });
        }),
    ),
    fc
      .tuple(text, fc.integer({ min: 1, max: 200_000 }))
      .map(
        ([some, times]) =>
          new Made(`Error(${fc.stringify(some)} × ${times})`, () => new Error(some.slice(0, 20).repeat(times))),
      ),
    fc.integer({ min: 1, max: 2000 }).map(
      (depth) =>
        new Made(`Error with ${depth} causes`, () => {
          let chain: Error | undefined;
          for (let i = 0; i < depth; i++) chain = new Error("link", chain === undefined ? {} : { cause: chain });
          return chain;
        }),
    ),
  ),
})).error;

const isBounded = (kept: string) =>
  kept.isWellFormed() && !kept.includes("\u0000") && kept.length <= maxErrorLength + 60;

const storable = (plain: string) => plain.replaceAll("\u0000", "\uFFFD").toWellFormed();

/** What a text is stored as must say what it said, but for what cannot be stored and what is beyond the bound. */
const judged = (thrown: unknown): string => {
  const kept = errorText(thrown);
  if (!isBounded(kept)) throw new Error(`is kept as ${JSON.stringify(kept.slice(0, 200))}, ${kept.length} characters`);
  if (typeof thrown === "string" && thrown.length <= maxErrorLength) {
    if (kept !== storable(thrown)) throw new Error(`changed to ${JSON.stringify(kept)}`);
  }
  if (types.isNativeError(thrown) && kept.length < maxErrorLength) {
    const message: unknown = Object.getOwnPropertyDescriptor(thrown, "message")?.value;
    if (typeof message === "string" && !kept.includes(storable(message))) throw new Error(`lost its message: ${kept}`);
  }
  return kept === "" ? "kept, empty" : "kept";
};

const ways = ["deadLetter", "retry", "insert"] as const;
interface Case {
  readonly way: (typeof ways)[number];
  readonly error: Made;
}

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    const { appId, db, inTenant, provide } = site;
    let letters = 0;
    const pure: Target<Made> = {
      name: "error texts: rendered",
      share: 18_940,
      cases: error,
      outcome: (one) => Effect.sync(() => judged(one.make())),
    };
    const stored: Target<Case> = {
      name: "error texts: stored",
      share: 1000,
      cases: fc.record({ way: fc.constantFrom(...ways), error }),
      outcome: ({ error: { make }, way }) =>
        provide(
          inTenant(
            Effect.gen(function* () {
              const error = make();
              if (way === "insert") {
                const history = [{ error: errorText(error), timestamp: 1_790_000_000_000 }];
                const { errorHistory } = yield* db.jobDlq.insert(letter(appId, { errorHistory: history }));
                return errorHistory;
              }
              const { id } = yield* db.jobs.enqueue(work(appId, { type: `fuzz ${way}` }));
              if (way === "deadLetter") {
                return (yield* db.jobDlq
                  .get((yield* db.jobs.deadLetter({ id, reason: "MaxRetries", error })).id)
                  .pipe(Effect.flatten)).errorHistory;
              }
              const claimed = yield* db.jobs.claim({ runner: "fuzz", limit: 1, types: ["fuzz retry"] });
              const held = claimed[0];
              if (held === undefined) return yield* Effect.dieMessage("no job is due");
              return (yield* db.jobs.retry({ ...held, error, delay: "1 day" })).errorHistory;
            }),
          ),
        ).pipe(
          Effect.map((history) => {
            if (way !== "retry") letters++;
            const [kept, ...more] = history;
            if (kept === undefined || more.length > 0) throw new Error(`${history.length} entries are kept`);
            if (!isBounded(kept.error)) throw new Error(`is kept as ${JSON.stringify(kept.error.slice(0, 200))}`);
            return "kept";
          }),
        ),
      holds: balanced(site, () => letters),
    };
    const histories: Target<unknown> = {
      name: "error texts: histories",
      share: 500,
      cases: fc.oneof(
        fc.array(fc.record({ error: text, timestamp: fc.integer() }), { maxLength: 120 }),
        fc.array(fc.record({ error: fc.oneof(text, json), timestamp: fc.oneof(fc.double(), json) }), { maxLength: 5 }),
        anything,
      ),
      outcome: (errorHistory) =>
        provide(inTenant(Effect.suspend(() => db.jobDlq.insert(letter(appId, untyped({ errorHistory })))))).pipe(
          Effect.tap((kept) =>
            Effect.sync(() => {
              letters++;
              if (!kept.errorHistory.every((_) => isBounded(_.error))) throw new Error("an entry is not bounded");
              if (kept.errorHistory.length > 50) throw new Error("the history is not bounded");
            }),
          ),
          answer("InvalidInput"),
        ),
      holds: balanced(site, () => letters),
    };
    return [pure, stored, histories];
  });
