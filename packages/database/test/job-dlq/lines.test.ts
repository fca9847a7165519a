import { assert, describe, it } from "@effect/vitest";
import * as fc from "effect/FastCheck";
import { type Line, type LineBounds, lineReader } from "../../src/job-dlq/lines.js";
import { campaign } from "../support/campaign.js";

const wide: LineBounds = { line: 1000, lines: 1000, batch: 1_000_000 };

const readAll = (pieces: Iterable<string | Uint8Array>, bounds = wide): ReadonlyArray<ReadonlyArray<Line>> => {
  const reader = lineReader(bounds);
  const batches = Array.from(pieces).flatMap(reader.push);
  return [...batches, reader.end()];
};
const lines = (pieces: Iterable<string | Uint8Array>, bounds = wide) => readAll(pieces, bounds).flat();
const texts = (...given: ReadonlyArray<string>): ReadonlyArray<Line> =>
  given.map((text, i) => ({ number: i + 1, text }));

describe("lines", () => {
  it("end with a newline, with or without a carriage return, and the last one with the text", () => {
    assert.deepStrictEqual(lines(["a\nb\r\nc"]), texts("a", "b", "c"));
    assert.deepStrictEqual(lines(["a\nb\n"]), texts("a", "b"));
    assert.deepStrictEqual(lines([]), []);
    assert.deepStrictEqual(lines(["", new Uint8Array()]), []);
  });

  it("count when they are blank, and are left out", () => {
    assert.deepStrictEqual(lines(["\n \n\r\n\t\na\n\n"]), [{ number: 5, text: "a" }]);
  });

  it("may begin with a byte order mark", () => {
    assert.deepStrictEqual(lines(["\uFEFFa\nb"]), texts("a", "b"));
    assert.deepStrictEqual(lines([Buffer.of(0xef, 0xbb), Buffer.of(0xbf, 0x61)]), texts("a"));
  });

  it("are the same however the text is cut, inside characters and surrogate pairs too", () => {
    const text = fc.string({ unit: fc.constantFrom("a", "é", "€", "👩‍🚀", "\n", "\r\n", " ", "\u0000", '"') });
    const cuts = fc.array(fc.nat(30), { maxLength: 30 });
    // In pieces of these lengths, again and again; a piece of nothing is one as well.
    const cut = <A>(length: number, sizes: ReadonlyArray<number>, slice: (from: number, to: number) => A) => {
      const pieces: Array<A> = [];
      for (let from = 0, i = 0; from < length; i++) {
        const to = from + (sizes[i % (sizes.length + 1)] ?? 7);
        pieces.push(slice(from, to));
        from = to;
      }
      return pieces;
    };
    fc.assert(
      fc.property(text, cuts, fc.boolean(), (whole, at, mixed) => {
        const bytes = Buffer.from(whole);
        const expected = whole
          .split("\n")
          .map((line, i) => ({ number: i + 1, text: line.trim() }))
          .filter((_) => _.text !== "");
        assert.deepStrictEqual(lines(cut(bytes.length, at, (from, to) => bytes.subarray(from, to))), expected);
        const pieces = cut(whole.length, at, (from, to) => whole.slice(from, to));
        // A string that is cut inside a pair has its other half in the next string, not in bytes.
        const isWhole = pieces.every((_) => _.isWellFormed());
        const given = mixed && isWhole ? pieces.map((piece, i) => (i % 2 === 0 ? piece : Buffer.from(piece))) : pieces;
        assert.deepStrictEqual(lines(given), expected);
      }),
      campaign("lines in pieces", 20_000, 2_000),
    );
  });

  it("that are no UTF-8, or have half a surrogate pair, are named, and the others are read", () => {
    const bad: Array<Line> = [{ number: 2, unreadable: "not UTF-8" }];
    const around = [{ number: 1, text: "a" }, ...bad, { number: 3, text: "b" }];
    assert.deepStrictEqual(lines([Buffer.of(0x61, 0x0a, 0xff, 0x0a, 0x62)]), around);
    assert.deepStrictEqual(lines(["a\nx\uD83D", "y\nb"]), around);
    assert.deepStrictEqual(lines(["a\nx\uDE00y\nb"]), around);
    assert.deepStrictEqual(lines(["a\nx\uD83D", Buffer.from("\nb")]), around);
    assert.deepStrictEqual(lines(["a\n\uD83D"]).slice(1), bad);
    assert.deepStrictEqual(lines(["a\n", Buffer.of(0xe2, 0x82)]).slice(1), bad);
  });

  it("that are too long are named, and the others are read", () => {
    const bounds = { ...wide, line: 4 };
    assert.deepStrictEqual(lines(["1234\n12345\n123\n"], bounds), [
      { number: 1, text: "1234" },
      { number: 2, unreadable: "too long" },
      { number: 3, text: "123" },
    ]);
    assert.deepStrictEqual(lines(["123", "45", "6\nab"], bounds), [
      { number: 1, unreadable: "too long" },
      { number: 2, text: "ab" },
    ]);
    // Bytes count, not characters.
    assert.deepStrictEqual(lines(["€a\n€€"], bounds), [
      { number: 1, text: "€a" },
      { number: 2, unreadable: "too long" },
    ]);
  });

  it("come in batches that are bounded in lines and in bytes", () => {
    const sizes = (bounds: LineBounds) => readAll(["aaaa\n".repeat(7)], bounds).map((_) => _.length);
    assert.deepStrictEqual(sizes({ ...wide, lines: 3 }), [3, 3, 1]);
    assert.deepStrictEqual(sizes({ ...wide, batch: 8 }), [2, 2, 2, 1]);
    assert.deepStrictEqual(sizes({ ...wide, lines: 7 }), [7, 0]);
  });
});
