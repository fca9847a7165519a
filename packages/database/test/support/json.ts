/** JSON values of every shape: keys that a column mapping would rename, nulls where it would die, any kind of value at the top. */
import * as fc from "effect/FastCheck";

const keys = fc.oneof(
  fc.constantFrom("user_id", "userId", "a_b_c", "aBC", "__proto__", "constructor", "", "x y", "é", "👩‍🚀", "toJSON_"),
  fc.string({ unit: "grapheme", maxLength: 8 }).filter((_) => !_.includes("\u0000")),
);
/** Any text that PostgreSQL can store. */
export const text = fc.string({ unit: "grapheme" }).filter((_) => !_.includes("\u0000"));
/** Any JSON value that JavaScript can make. */
export const json = fc.letrec<{ value: unknown; array: unknown; object: unknown; leaf: unknown }>((tie) => ({
  leaf: fc.oneof(
    fc.constant(null),
    fc.boolean(),
    text,
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.maxSafeInteger(),
  ),
  array: fc
    .tuple(fc.option(tie("value"), { nil: null }), fc.array(tie("value"), { maxLength: 4 }))
    .map(([first, rest]) => [first, ...rest]),
  object: fc.dictionary(keys, tie("value"), { maxKeys: 4 }),
  value: fc.oneof({ depthSize: "small", withCrossShrink: true }, tie("leaf"), tie("array"), tie("object")),
})).value;

const deep = (depth: number): unknown => {
  let value: unknown = { leaf: null };
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [null, value] : { next_one: value };
  return value;
};

/** The ones that have been trouble. */
export const named: ReadonlyArray<unknown> = [
  null,
  true,
  0,
  -0,
  "",
  "text",
  [],
  {},
  [null],
  [null, { user_id: 1 }],
  [[null]],
  { a: { b_c: [null, { dE: null }] } },
  "1",
  "null",
  "[]",
  1e308,
  5e-324,
  Number.MAX_SAFE_INTEGER,
  -1e-7,
  0.1 + 0.2,
  deep(900),
  JSON.parse('{"__proto__": {"polluted": true}}'),
  { userId: 1, user_id: 2 },
  "\u2028\u2029\u007f\\\"'",
  "{}",
  '","',
  "NULL",
];
