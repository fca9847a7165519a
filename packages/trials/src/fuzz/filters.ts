/**
 * Filters of any shape: decoded from JSON as the API does, or passed as JavaScript passes them, and then run in both scopes. What is
 * not refused is executed, so the compiled SQL is fuzzed with it.
 */
import { JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as fc from "effect/FastCheck";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { anything, few, mostly, number, rarely, text } from "./nasty.js";
import { balanced, fill, open, type Site, untyped } from "./site.js";
import { answer, type Make, type Target } from "./target.js";

const decode = S.decodeUnknownEither(JobDlqFilter, { onExcessProperty: "error" });

const operations = ["page", "pagePending", "preview", "groups", "stats", "export", "count", "find"] as const;

interface Case {
  readonly filter: Readonly<Record<string, unknown>>;
  /** Whether it arrives as JSON and is decoded; else it is passed as it is. */
  readonly isJson: boolean;
  readonly operation: (typeof operations)[number];
  readonly isSystem: boolean;
  readonly options: Readonly<Record<string, unknown>>;
  /** How deep the first condition is nested instead. */
  readonly depth: number | undefined;
}

const nested = (depth: number): unknown => JSON.parse("[".repeat(depth) + "]".repeat(depth));

const uuid = fc.oneof(fc.uuid(), text);
const time = fc.oneof(
  fc.date({ noInvalidDate: false }),
  fc.date({ noInvalidDate: true }).map((_) => _.toISOString()),
  text,
);

const filter = few(
  fc.record(
    {
      ids: mostly(fc.array(uuid, { maxLength: 5 })),
      type: mostly(fc.oneof(text, fc.record({ prefix: text }), fc.constantFrom("mail.send", { prefix: "mail." }))),
      reason: mostly(fc.oneof(text, fc.constant("MaxRetries"))),
      since: mostly(time),
      until: mostly(time),
      requestId: mostly(uuid),
      userId: mostly(uuid),
      originalJobId: mostly(uuid),
      fingerprint: mostly(uuid),
      text: mostly(text),
      payload: anything,
      state: mostly(fc.constantFrom("pending", "replayed", "any")),
      all: mostly(fc.constant(true)),
      cursor: anything,
    },
    { requiredKeys: [] },
  ),
  3,
).map((kept) => Object.fromEntries(kept));

const cases: fc.Arbitrary<Case> = fc.record({
  filter: fc.oneof(
    { weight: 12, arbitrary: filter },
    { weight: 1, arbitrary: fc.dictionary(text, anything, { maxKeys: 2 }) },
  ),
  isJson: fc.boolean(),
  operation: fc.constantFrom(...operations),
  isSystem: fc.boolean(),
  depth: rarely(fc.constantFrom(1000, 1001, 3000, 20_000)),
  options: fc.record(
    {
      limit: mostly(fc.integer({ min: 1, max: 1000 }), number),
      most: mostly(fc.integer({ min: 1, max: 1_000_000 }), number),
      by: mostly(fc.constantFrom("type", "reason", "tenant", "hour")),
    },
    { requiredKeys: [] },
  ),
});

const operate = (site: Site, { operation, options }: Case, filter: unknown) => {
  const { jobDlq } = site.db;
  switch (operation) {
    case "page":
      return jobDlq.page(untyped(filter), untyped(options));
    case "pagePending":
      return jobDlq.pagePending(untyped({ ...options, type: Reflect.get(Object(filter), "type") }));
    case "preview":
      return jobDlq.preview(untyped(filter), untyped(options));
    case "groups":
      return jobDlq.groups(untyped(filter), untyped(options));
    case "stats":
      return jobDlq.stats(untyped({ by: "type", ...options, filter, since: Reflect.get(Object(filter), "since") }));
    case "export":
      return Stream.runDrain(jobDlq.exportTo(untyped(filter)));
    case "count":
      return jobDlq.count(untyped(filter));
    case "find":
      return jobDlq.find(untyped(filter), untyped(options));
  }
};

/** As a body arrives: what JSON has no word for is gone, or cannot be sent. */
const asJson = (value: unknown): Either.Either<unknown, unknown> => Either.try(() => JSON.parse(JSON.stringify(value)));

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    const inserted = yield* fill(site, 60);
    const outcome = (one: Case) => {
      const [name = "type"] = Object.keys(one.filter);
      let filter: unknown = one.depth === undefined ? one.filter : { ...one.filter, [name]: nested(one.depth) };
      if (one.isJson) {
        const sent = asJson(filter);
        if (Either.isLeft(sent)) return Effect.succeed("no JSON");
        const decoded = decode(sent.right);
        if (Either.isLeft(decoded)) return Effect.succeed("refused: ParseError");
        filter = decoded.right;
      }
      const inScope = one.isSystem ? site.inSystem : site.inTenant;
      return site.provide(
        inScope(Effect.suspend(() => operate(site, one, filter) as Effect.Effect<unknown, unknown>)).pipe(
          answer("InvalidInput"),
        ),
      );
    };
    const target: Target<Case> = {
      name: "filters",
      share: 3000,
      cases,
      outcome,
      holds: balanced(site, () => inserted),
    };
    return [target];
  });
