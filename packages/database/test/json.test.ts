import { assert, describe, it } from "@effect/vitest";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import { depthOf, maxDepth, notStorable } from "../src/json.js";
import { campaign } from "./support/campaign.js";

const nested = (depth: number): unknown => {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
};

const cyclic: Record<string, unknown> = { name: "a" };
cyclic.list = [{ back: cyclic }];

describe("what jsonb cannot keep is refused with its path", () => {
  const cases: ReadonlyArray<readonly [string, unknown, string, RegExp]> = [
    ["undefined", undefined, "$", /undefined/],
    ["undefined in an array", { a: [1, undefined] }, "$.a[1]", /undefined/],
    // biome-ignore lint/suspicious/noSparseArray: the hole is the case
    ["a hole in an array", [1, , 2], "$[1]", /undefined/],
    ["NaN", { price: Number.NaN }, "$.price", /NaN/],
    ["Infinity", [Number.POSITIVE_INFINITY], "$[0]", /Infinity/],
    ["a BigInt", { id: 1n }, "$.id", /BigInt/],
    ["a function", { f: () => 1 }, "$.f", /function/],
    ["a symbol", { s: Symbol("x") }, "$.s", /symbol/],
    ["a Map", { "a b": new Map([[1, 2]]) }, '$["a b"]', /Map/],
    ["a Set", [new Set([1])], "$[0]", /Set/],
    ["a RegExp", /x/, "$", /RegExp/],
    ["an Error", { e: new Error("x") }, "$.e", /Error/],
    ["a typed array", new Uint8Array(2), "$", /Uint8Array/],
    ["a cycle", cyclic, "$.list[0].back", /cycle/],
    ["NUL", { text: "a\u0000b" }, "$.text", /NUL/],
    ["NUL in a name", { "a\u0000": 1 }, '$["a\\u0000"]', /name.*NUL/],
    ["a lone surrogate", ["\uD800"], "$[0]", /surrogate/],
    ["a lone surrogate in a name", { "\uDC00": 1 }, '$["\\udc00"]', /name.*surrogate/],
    ["too deep", nested(maxDepth + 1), "$", /nested deeper/],
    ["a toJSON that returns NaN", { at: { toJSON: () => Number.NaN } }, "$.at", /NaN/],
    [
      "a getter that throws",
      {
        get x() {
          throw new Error("no");
        },
      },
      "$",
      /cannot be read: no/,
    ],
    [
      "a getter that throws what has no text",
      {
        get x() {
          throw Object.create(null);
        },
      },
      "$",
      /cannot be read/,
    ],
    [
      "a toJSON that throws an error that cannot be read",
      {
        toJSON() {
          throw Object.defineProperty(new Error("x"), "message", {
            get() {
              throw new Error("no");
            },
          });
        },
      },
      "$",
      /cannot be read/,
    ],
  ];
  for (const [name, value, path, problem] of cases) {
    it(name, () => {
      const found = Option.getOrThrow(notStorable(value));
      assert.strictEqual(found.path, path);
      assert.match(found.problem, problem);
    });
  }
});

it("the depth of a JSON text counts lists and objects, and none that stand in a text", () => {
  for (const [text, depth] of [
    ["1", 0],
    ["[]", 1],
    ['{"a":[{"b":[]}],"c":[]}', 4],
    ['"[[[["', 0],
    ['["\\"[[", {}]', 2],
    ['["\\\\", [[]]]', 3],
    [JSON.stringify(nested(500)), 500],
  ] as const) {
    assert.strictEqual(depthOf(text), depth, text.slice(0, 100));
  }
});

describe("everything else is left alone", () => {
  const shared = { a: 1 };
  for (const [name, value] of [
    ["null", null],
    ["a top-level text", "x"],
    ["-0", -0],
    ["a Date", { at: new Date(0) }],
    ["an undefined property", { a: undefined, b: 1 }],
    [
      "a class with plain properties",
      new (class Order {
        readonly id = 1;
      })(),
    ],
    ["an object without a prototype", Object.assign(Object.create(null), { a: 1 })],
    ["one object twice, side by side", [shared, shared]],
    ["the deepest that is allowed", nested(maxDepth)],
    ["surrogate pairs", "👩‍🚀"],
  ] as const) {
    it(name, () => assert.isTrue(Option.isNone(notStorable(value))));
  }

  it("agrees with JSON on every JSON value", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const clean = !JSON.stringify(value).includes("\\u0000");
        return Option.isNone(notStorable(value)) === clean;
      }),
      campaign("storable JSON", 10_000, 1_000),
    );
  });
});
