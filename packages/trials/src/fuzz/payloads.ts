/**
 * Payloads of whatever JavaScript can make: each is stored and comes back as exactly the same JSON, or is refused with an error that
 * names the path.
 */
import { isDeepStrictEqual } from "node:util";
import { notStorable } from "@parametric-portal/database/json";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import { anything, json, Made, plain, text } from "./nasty.js";
import { balanced, letter, open, type Site, untyped, work } from "./site.js";
import { answer, type Make, type Target } from "./target.js";

// --- what a program may pass -------------------------------------------------

const thrown = fc.oneof(
  fc.constantFrom(
    new Made("an error", () => new Error("no")),
    new Made("undefined", () => undefined),
    new Made("a symbol", () => Symbol("no")),
    new Made("an object without a prototype", () => Object.create(null)),
    new Made("an object whose toString throws", () => ({
      toString() {
        throw new Error("not even this");
      },
    })),
    new Made("an error whose message throws", () =>
      Object.defineProperty(new Error("x"), "message", {
        get() {
          throw new Error("nor this");
        },
      }),
    ),
    new Made("an error whose message has no text", () =>
      Object.defineProperty(new Error("x"), "message", { value: Object.create(null) }),
    ),
    new Made("a revoked proxy", () => revoked({})),
  ),
  text.map((_) => new Made(`Error(${fc.stringify(_)})`, () => new Error(_))),
);

const revoked = (target: object) => {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
};

const traps = ["ownKeys", "get", "getPrototypeOf", "has", "getOwnPropertyDescriptor"] as const;

/** Objects whose own code runs when they are read, and objects whose content is not where JSON looks for it. */
const hostile: fc.Arbitrary<Made> = fc.oneof(
  thrown.map(
    ({ label, make }) =>
      new Made(`object whose x throws ${label}`, () => ({
        get x() {
          throw make();
        },
      })),
  ),
  thrown.map(
    ({ label, make }) =>
      new Made(`object whose toJSON throws ${label}`, () => ({
        toJSON() {
          throw make();
        },
      })),
  ),
  fc.tuple(fc.constantFrom(...traps), fc.boolean(), thrown).map(
    ([trap, isList, { label, make }]) =>
      new Made(`Proxy of ${isList ? "a list" : "an object"} whose ${trap} throws ${label}`, () => {
        const refuse = () => {
          throw make();
        };
        return new Proxy(isList ? [1] : { a: 1 }, { [trap]: refuse });
      }),
  ),
  ...(
    [
      ["toJSON gives", (value: unknown) => ({ toJSON: () => value })],
      ["toJSON gives what toJSON gives", (value: unknown) => ({ toJSON: () => ({ toJSON: () => value }) })],
      ["hidden", (value: unknown) => Object.defineProperty({}, "hidden", { value, enumerable: false })],
      ["beside a list", (value: unknown) => Object.assign([1], { extra: value })],
      ["inherited", (value: unknown) => Object.assign(Object.create({ inherited: value }), { own: value })],
      ["under a symbol", (value: unknown) => ({ [Symbol("s")]: value, a: 1 })],
      ["in a proxy", (value: unknown) => new Proxy({ value }, {})],
      [
        "beside a cycle",
        (value: unknown) => {
          const knot: Record<string, unknown> = { value };
          knot.list = [{ back: knot }];
          return knot;
        },
      ],
    ] as const
  ).map(([label, make]) => anything.map((value) => new Made(`${label} ${fc.stringify(value)}`, () => make(value)))),
  fc.constantFrom(
    new Made("a revoked proxy of an object", () => revoked({})),
    new Made("a revoked proxy of a list", () => revoked([])),
    // biome-ignore lint/suspicious/noSparseArray: the hole is the case.
    new Made("a list that begins with a hole", () => [, 1]),
    new Made("a promise", () => Promise.resolve(1)),
    new Made("a URL", () => new URL("http://x")),
    new Made("a buffer", () => Buffer.from("x")),
    new Made("the environment", () => process.env),
    new Made("the global object", () => globalThis),
    new Made("a function", () => () => 1),
  ),
);

const deep = fc.tuple(fc.integer({ min: 1, max: 20_000 }), fc.boolean(), anything).map(
  ([depth, isList, inmost]) =>
    new Made(`${fc.stringify(inmost)}, ${depth} deep in ${isList ? "lists" : "objects"}`, () => {
      let value: unknown = inmost;
      for (let i = 0; i < depth; i++) value = isList ? [value] : { a: value };
      return value;
    }),
);
const long = fc
  .tuple(text, fc.integer({ min: 1, max: 100_000 }))
  .map(([some, times]) => new Made(`${fc.stringify(some)} × ${times}`, () => some.slice(0, 100).repeat(times)));

const holes = new Made("a list of 2^32 - 1 holes", () => new Array(2 ** 32 - 1));

/** Inside of others, too. */
const payload: fc.Arbitrary<Made> = fc
  .oneof(
    { weight: 1, arbitrary: fc.constant(holes) },
    { weight: 12, arbitrary: plain(anything) },
    { weight: 4, arbitrary: hostile },
    { weight: 1, arbitrary: deep },
    { weight: 1, arbitrary: long },
  )
  .chain((one) =>
    fc.oneof(
      { weight: 2, arbitrary: fc.constant(one) },
      {
        weight: 1,
        arbitrary: fc.tuple(text, json).map(
          ([key, beside]) =>
            new Made(`${one.label} under ${JSON.stringify(key)} beside ${fc.stringify(beside)}`, () => ({
              beside,
              [key]: [beside, one.make()],
            })),
        ),
      },
    ),
  );

// --- what must come of them --------------------------------------------------

const isPath = (path: string) => /^\$(?:\.[A-Za-z_$][\w$]*|\[\d+\]|\["(?:[^"\\]|\\.)*"\])*$/su.test(path);

/** Of a value that is refused nothing more is asked than the path; any other must be JSON that comes back as it is. */
const judged = (value: unknown): string => {
  const found = notStorable(value);
  if (Option.isSome(found)) {
    if (!isPath(found.value.path)) throw new Error(`is no path: ${found.value.path}`);
    return "refused: with its path";
  }
  const said = JSON.stringify(value);
  if (typeof said !== "string") throw new Error("was let through and is no JSON");
  if (/\\u0000/u.test(said.replaceAll("\\\\", "")) || !said.isWellFormed()) throw new Error("cannot be stored");
  return "accepted";
};

const ways = ["enqueue", "enqueueMany", "insert", "insertMany", "set"] as const;
interface Stored {
  readonly way: (typeof ways)[number];
  readonly payload: Made;
}

const stored = (site: Site, way: Stored["way"], payload: unknown): Effect.Effect<ReadonlyArray<unknown>, unknown> => {
  const { appId, db, inTenant, provide } = site;
  const job = work(appId, { payload });
  const entry = letter(appId, { payload });
  const read = (id: string) => Effect.map(db.jobs.get(id), (_) => Option.getOrThrow(_).payload);
  switch (way) {
    case "enqueue":
      return provide(inTenant(Effect.map(db.jobs.enqueue(untyped(job)), (_) => [_.payload])));
    case "enqueueMany":
      return provide(
        inTenant(Effect.flatMap(db.jobs.enqueueMany([untyped(job), untyped(job)]), (ids) => Effect.forEach(ids, read))),
      );
    case "insert":
      return provide(inTenant(Effect.map(db.jobDlq.insert(entry), (_) => [_.payload])));
    case "insertMany":
      return provide(
        inTenant(
          Effect.gen(function* () {
            yield* db.jobDlq.insertMany([{ ...entry, originalJobId: letter(appId).originalJobId }, entry]);
            const [found] = yield* db.jobDlq.find({ originalJobId: entry.originalJobId });
            return [found?.payload];
          }),
        ),
      );
    case "set":
      return provide(
        inTenant(
          Effect.gen(function* () {
            const { id } = yield* db.jobs.enqueue(work(appId));
            yield* db.jobs.set({ id }, { payload });
            return [yield* read(id)];
          }),
        ),
      );
  }
};

// --- whole rows --------------------------------------------------------------

const fields = [
  "appId",
  "type",
  "payload",
  "priority",
  "maxAttempts",
  "scheduledAt",
  "requestId",
  "userId",
  "attempts",
  "errorReason",
  "errorHistory",
  "dlqAt",
  "replayedAt",
  "originalJobId",
] as const;
interface Row {
  readonly isJob: boolean;
  readonly isMany: boolean;
  readonly field: (typeof fields)[number];
  readonly value: Made;
}

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    let letters = 0;
    const pure: Target<Made> = {
      name: "payloads: judged",
      share: 15_000,
      cases: payload,
      outcome: (one) => Effect.sync(() => judged(one.make())),
    };
    const kept: Target<Stored> = {
      name: "payloads: stored",
      share: 1000,
      cases: fc.record({ way: fc.constantFrom(...ways), payload }),
      outcome: ({ payload: { make }, way }) => {
        const payload = make();
        return Effect.suspend(() => stored(site, way, payload)).pipe(
          Effect.tap((all) =>
            Effect.sync(() => {
              if (way === "insert") letters++;
              if (way === "insertMany") letters += 2;
              const expected: unknown = JSON.parse(JSON.stringify(payload));
              for (const found of all) {
                if (!isDeepStrictEqual(found, expected)) throw new Error(`came back as ${JSON.stringify(found)}`);
              }
            }),
          ),
          Effect.tapError((error) => {
            const { _tag, field } = error as { readonly _tag: string; readonly field?: string };
            const path = / at (.*)$/su.exec(field ?? "")?.[1] ?? "";
            return _tag === "InvalidInput" &&
              !isPath(path) &&
              !(field === "input" || (way === "set" && field === "patch"))
              ? Effect.dieMessage(`names no path: ${field}`)
              : Effect.void;
          }),
          answer("InvalidInput"),
        );
      },
      holds: balanced(site, () => letters),
    };
    const rows: Target<Row> = {
      name: "payloads: in rows",
      share: 1000,
      cases: fc.record({
        isJob: fc.boolean(),
        isMany: fc.boolean(),
        field: fc.constantFrom(...fields),
        value: fc.oneof(plain(anything), hostile, plain(anything.map((_) => [{ error: _, timestamp: _ }]))),
      }),
      outcome: ({ field, isJob, isMany, value }) => {
        const { appId, db, inTenant, provide } = site;
        const { jobDlq, jobs } = db;
        const row = untyped({ ...(isJob ? work(appId) : letter(appId)), [field]: value.make() });
        const write = (): Effect.Effect<unknown, unknown> => {
          if (isJob) return isMany ? jobs.enqueueMany([row]) : jobs.enqueue(row);
          return isMany ? jobDlq.insertMany([row]) : jobDlq.insert(row);
        };
        return provide(inTenant(Effect.suspend(write))).pipe(
          Effect.tap(() =>
            Effect.sync(() => {
              if (!isJob) letters++;
            }),
          ),
          answer("InvalidInput", "AppNotFound", "AccessDenied"),
        );
      },
      holds: balanced(site, () => letters),
    };
    return [pure, kept, rows];
  });
