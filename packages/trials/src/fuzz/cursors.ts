/**
 * Cursors and positions: of any text, damaged, and whole ones of impossible places, which everybody can make because their checksum is
 * no secret. What is decoded is asked for in the database.
 */
import { decodeCursor, encodeCursor } from "@parametric-portal/database/cursor";
import { decodePosition, encodePosition } from "@parametric-portal/database/job-dlq/position";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import { damage, damaged, mostly, number, text } from "./nasty.js";
import { balanced, fill, nobody, open, untyped } from "./site.js";
import { answer, type Make, type Target } from "./target.js";

const digits = (most: number) =>
  fc.oneof(
    fc.array(fc.constantFrom(..."0123456789"), { minLength: 1, maxLength: most }).map((_) => _.join("")),
    fc.constantFrom("0", "1", "9".repeat(most), "0".repeat(most)),
  );

const cursor = fc
  .record({
    at: fc.oneof(
      digits(19),
      digits(19).map((_) => `-${_}`),
      fc.constantFrom("infinity", "-infinity", "-210866803200000001", "9224318015999999999", "9224318016000000000"),
    ),
    id: fc.uuid(),
  })
  .map(encodeCursor);

const snapshot = fc.oneof(
  fc.constant(""),
  fc
    .tuple(digits(25), digits(25), fc.array(digits(25), { maxLength: 3 }))
    .map(([a, b, c]) => `${a}:${b}:${c.join(",")}`),
  fc.constantFrom("1:1:", "5:3:", "0:0:", "1:5:9,2", "1:5:,,", "1:9:2,2,1"),
);
const position = fc.record({ arrived: digits(20), id: fc.uuid(), start: snapshot }).map(encodePosition);

const whole = fc.oneof(cursor, position);
const hurt = fc
  .tuple(whole, fc.array(damage, { minLength: 1, maxLength: 3 }))
  .map(([one, damages]) => damaged(Buffer.from(one), damages).toString("latin1"));
const token = fc.oneof({ weight: 4, arbitrary: whole }, { weight: 3, arbitrary: hurt }, { weight: 1, arbitrary: text });

/** Decoded, it has one spelling. */
const told = (given: string): string => {
  const place = decodeCursor(given);
  if (Option.isSome(place) && encodeCursor(place.value) !== given) throw new Error("a cursor has two spellings");
  const arrival = decodePosition(given);
  if (Option.isSome(arrival) && encodePosition(arrival.value) !== given)
    throw new Error("a position has two spellings");
  return Option.isSome(place) || Option.isSome(arrival) ? "accepted" : "refused: no cursor";
};

const uses = ["page", "listPending", "pagePending", "events", "changes", "asOf"] as const;
interface Use {
  readonly use: (typeof uses)[number];
  readonly given: unknown;
  readonly limit: unknown;
  readonly isSystem: boolean;
}
const given: Readonly<Record<Use["use"], fc.Arbitrary<unknown>>> = {
  page: mostly(fc.oneof(cursor, token)),
  listPending: mostly(fc.oneof(cursor, token)),
  pagePending: mostly(fc.oneof(cursor, token)),
  events: mostly(fc.oneof(cursor, token)),
  changes: mostly(fc.oneof(position, token)),
  asOf: mostly(fc.oneof(snapshot, text)),
};
const useCases: fc.Arbitrary<Use> = fc.constantFrom(...uses).chain((use) =>
  fc.record({
    use: fc.constant(use),
    given: given[use],
    limit: mostly(fc.constantFrom(undefined, 1, 10, 1000), number),
    isSystem: fc.boolean(),
  }),
);

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    const inserted = yield* fill(site, 30);
    const { jobDlq } = site.db;
    const pure: Target<string> = {
      name: "cursors: decoded",
      share: 45_000,
      cases: token,
      outcome: (one) => Effect.sync(() => told(one)),
    };
    const used: Target<Use> = {
      name: "cursors: asked for",
      share: 1000,
      cases: useCases,
      outcome: ({ given, isSystem, limit, use }) => {
        const inScope = isSystem ? site.inSystem : site.inTenant;
        const scope = isSystem ? ({ _tag: "system" } as const) : ({ _tag: "tenant", appId: site.appId } as const);
        const page = untyped({ cursor: given, limit });
        const operation = (): Effect.Effect<unknown, unknown, never> => {
          switch (use) {
            case "page":
              return site.provide(inScope(jobDlq.page({ state: "any" }, page)));
            case "listPending":
              return site.provide(inScope(jobDlq.listPending(page)));
            case "pagePending":
              return site.provide(inScope(jobDlq.pagePending(page)));
            case "events":
              return site.provide(inScope(jobDlq.events(page)));
            case "changes":
              // Behind a place that has come, nothing may come.
              return jobDlq
                .changes({ scope, after: untyped(given) })
                .pipe(Stream.take(1), Stream.runDrain, Effect.timeoutOption("50 millis"), site.provide);
            case "asOf":
              return site.provide(
                Stream.runDrain(
                  jobDlq.discard({ ids: [nobody] }, { actor: "fuzz", reason: "fuzz", scope, asOf: untyped(given) }),
                ),
              );
          }
        };
        return Effect.suspend(operation).pipe(answer("InvalidInput", "InvalidCursor"));
      },
      holds: balanced(site, () => inserted),
    };
    return [pure, used];
  });
