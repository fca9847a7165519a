/** What the targets throw: texts and values that have broken programs before, and ways to damage what was valid. */
import * as fc from "effect/FastCheck";

/** A nasty text in a few words of code each. */
export const nasty: ReadonlyArray<string> = [
  "",
  " ",
  "\u0000",
  "a\u0000b",
  "\ud800",
  "x\udc00",
  "\u202eabc\u2066",
  "👩‍🚀",
  "e\u0301",
  "\ufeff",
  "\u2028",
  "\r\n",
  "a\r\nx-injected: 1",
  "\u001b[2J\u0007",
  "'; DROP TABLE job_dlq; --",
  "' OR '1'='1",
  "$1",
  "\\",
  "\\'",
  "%",
  "_",
  "%s%n%x%d",
  // biome-ignore lint/suspicious/noTemplateCurlyInString: a template that must stay a text.
  "${7*7}{{7*7}}",
  "../../../../etc/passwd",
  "..%2f..%2f",
  "%00",
  "%E0%A4%A",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "then",
  "toJSON",
  "1e309",
  "-0",
  "-1",
  "0x10",
  "1_000",
  "NaN",
  "Infinity",
  "-infinity",
  "9007199254740993",
  "9223372036854775808",
  "18446744073709551616",
  "0000-01-01T00:00:00Z",
  "0001-01-01T00:00:00Z",
  "0001-01-01",
  "9999-12-31T23:59:59.999999Z",
  "275760-09-13T00:00:00.001Z",
  "+275760-09-13T00:00:00.000Z",
  "-271821-04-20T00:00:00.000Z",
  "294277-01-01T00:00:00Z",
  "2026-02-30T25:61:61Z",
  "2026-01-31T12:00:00+99:99",
  "2026-01-31T12:00:00-1559",
  "now",
  "tomorrow",
  "2h",
  "1e9d",
  "null",
  "undefined",
  "true",
  "[]",
  "{}",
  "[[[[[[[[",
  '{"a":',
  "<script>alert(1)</script>",
  "00000000-0000-0000-0000-000000000000",
  "ffffffff-ffff-ffff-ffff-ffffffffffff",
  "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
  "{ffffffff-ffff-ffff-ffff-ffffffffffff}",
  "x".repeat(300),
  "\u00e9".repeat(70_000),
];

export const text: fc.Arbitrary<string> = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...nasty) },
  { weight: 1, arbitrary: fc.string({ maxLength: 20 }) },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 20 }) },
  { weight: 1, arbitrary: fc.tuple(fc.constantFrom(...nasty), fc.constantFrom(...nasty)).map((_) => _.join("")) },
);

export const number: fc.Arbitrary<number> = fc.oneof(
  fc.constantFrom(0, -0, 1, -1, 0.5, 1000, 1001, 2 ** 31 - 1, 2 ** 31, 2 ** 53, 2 ** 53 + 2, 1e21, 5e-324, 1e308),
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
);

const leaf = fc.oneof(text, number, fc.boolean(), fc.constant(null));

/** A JSON value, of whatever texts and keys. */
export const json: fc.Arbitrary<unknown> = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    leaf,
    fc.array(tie("value"), { maxLength: 4 }),
    // Object.fromEntries makes an own property of "__proto__", as JSON.parse does.
    fc.array(fc.tuple(text, tie("value")), { maxLength: 4 }).map((entries) => Object.fromEntries(entries)),
  ),
})).value;

/** Texts of JSON that is nested deep, whole or cut off. */
export const deep: fc.Arbitrary<string> = fc
  .tuple(fc.constantFrom(10, 999, 1001, 3000, 5000, 20_000), fc.boolean(), fc.boolean())
  .map(([depth, isList, isClosed]) =>
    isList
      ? "[".repeat(depth) + (isClosed ? "]".repeat(depth) : "")
      : '{"a":'.repeat(depth) + (isClosed ? `1${"}".repeat(depth)}` : ""),
  );

/** What JavaScript can pass, JSON or not. */
export const anything: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 6, arbitrary: json },
  {
    weight: 2,
    arbitrary: fc.anything({
      withBigInt: true,
      withBoxedValues: true,
      withDate: true,
      withMap: true,
      withNullPrototype: true,
      withObjectString: true,
      withSet: true,
      withSparseArray: true,
      withTypedArray: true,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom<unknown>(
      undefined,
      Number.NaN,
      Infinity,
      1n,
      Symbol("x"),
      () => 1,
      new Date(Number.NaN),
      /x/,
    ),
  },
);

/**
 * A value that is made only when it is used: the generator itself asks each value that it holds for its properties, and some of
 * those throw.
 */
export class Made {
  constructor(
    readonly label: string,
    readonly make: () => unknown,
  ) {}
  [fc.toStringMethod]() {
    return this.label;
  }
}

/** Values that are harmless to hold. */
export const plain = (values: fc.Arbitrary<unknown>): fc.Arbitrary<Made> =>
  values.map((value) => new Made(fc.stringify(value), () => value));

/** Mostly what is good, sometimes something odd. */
export const mostly = <A>(good: fc.Arbitrary<A>, odd: fc.Arbitrary<unknown> = anything): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 4, arbitrary: good }, { weight: 1, arbitrary: odd });

/** Nothing, but for one in eight. */
export const rarely = <A>(odd: fc.Arbitrary<A>): fc.Arbitrary<A | undefined> =>
  fc.oneof({ weight: 7, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: odd });

/** Some entries of a record, at most so many: of many odd ones the first that is refused hides the others. */
export const few = (
  records: fc.Arbitrary<Readonly<Record<string, unknown>>>,
  most: number,
): fc.Arbitrary<ReadonlyArray<readonly [name: string, value: unknown]>> =>
  records.chain((record) => {
    const entries = Object.entries(record);
    return fc.subarray(entries, { maxLength: Math.min(most, entries.length) });
  });

// --- damage ------------------------------------------------------------------

export type Damage =
  | { readonly kind: "flip"; readonly at: number; readonly bit: number }
  | { readonly kind: "cut"; readonly at: number; readonly length: number }
  | { readonly kind: "again"; readonly at: number; readonly length: number }
  | { readonly kind: "put"; readonly at: number; readonly bytes: Uint8Array };

const place = fc.double({ min: 0, max: 1, noNaN: true });
const brokenUtf8 = [
  [0xff],
  [0xc3],
  [0xed, 0xa0, 0x80],
  [0xf4, 0x90, 0x80, 0x80],
  [0xc0, 0x80],
  [0xe2, 0x82],
  [0x00],
  [0x0a],
  [0x0d, 0x0a],
  [0xef, 0xbb, 0xbf],
].map((bytes) => Uint8Array.from(bytes));

/** Changes to bytes: a bit turned over, a piece taken out or said twice, something put in. Places are parts of the length. */
export const damage: fc.Arbitrary<Damage> = fc.oneof(
  fc.record({ kind: fc.constant("flip" as const), at: place, bit: fc.nat(7) }),
  fc.record({ kind: fc.constant("cut" as const), at: place, length: fc.nat(50) }),
  fc.record({ kind: fc.constant("again" as const), at: place, length: fc.nat(200) }),
  fc.record({
    kind: fc.constant("put" as const),
    at: place,
    bytes: fc.oneof(
      fc.constantFrom(...brokenUtf8),
      fc.uint8Array({ maxLength: 8 }),
      text.map((_) => Uint8Array.from(Buffer.from(_))),
    ),
  }),
);

export const damaged = (bytes: Uint8Array, damages: ReadonlyArray<Damage>): Buffer => {
  let now: Buffer = Buffer.from(bytes);
  for (const one of damages) {
    const at = Math.floor(one.at * now.length);
    const [head, tail] = [now.subarray(0, at), now.subarray(at)];
    switch (one.kind) {
      case "flip":
        if (at < now.length) now[at] = (now[at] ?? 0) ^ (1 << one.bit);
        break;
      case "cut":
        now = Buffer.concat([head, tail.subarray(one.length)]);
        break;
      case "again":
        now = Buffer.concat([head, tail.subarray(0, one.length), tail]);
        break;
      case "put":
        now = Buffer.concat([head, one.bytes, tail]);
        break;
    }
  }
  return now;
};
