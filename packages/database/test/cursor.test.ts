import { assert, describe, it } from "@effect/vitest";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import { decodeCursor, encodeCursor } from "../src/cursor.js";
import { decodePosition } from "../src/job-dlq/position.js";
import { campaign } from "./support/campaign.js";
import { untyped } from "./support/samples.js";

const position = fc.record({
  at: fc.oneof(
    fc.bigInt({ min: -(10n ** 17n), max: 10n ** 17n }).map(String),
    fc.constantFrom("infinity", "-infinity"),
  ),
  id: fc.uuid(),
});

describe("a cursor", () => {
  it("gives its position back, to the microsecond", () => {
    fc.assert(
      fc.property(position, (at) => {
        assert.deepStrictEqual(decodeCursor(encodeCursor(at)), Option.some(at));
      }),
      campaign("cursor round-trip", 10_000, 1_000),
    );
  });

  it("is refused when any of its characters is another", () => {
    fc.assert(
      fc.property(position, fc.nat(), fc.constantFrom(..."AZaz09-_=% "), (at, place, character) => {
        const cursor = encodeCursor(at);
        const i = place % cursor.length;
        fc.pre(cursor[i] !== character);
        return Option.isNone(decodeCursor(cursor.slice(0, i) + character + cursor.slice(i + 1)));
      }),
      campaign("tampered cursors", 10_000, 1_000),
    );
  });

  it("has one spelling: with a character more it is refused", () => {
    fc.assert(
      fc.property(position, fc.nat(), fc.constantFrom(..."A0-_=%+/ \n."), (at, place, character) => {
        const cursor = encodeCursor(at);
        const i = place % (cursor.length + 1);
        return Option.isNone(decodeCursor(cursor.slice(0, i) + character + cursor.slice(i)));
      }),
      campaign("spellings of cursors", 10_000, 1_000),
    );
  });

  it("is refused when it is any other text", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.base64String()), (text) => Option.isNone(decodeCursor(text))),
      campaign("foreign cursors", 10_000, 1_000),
    );
  });

  it("is refused when it is no text, as JavaScript passes it", () => {
    for (const given of [null, false, 1, 1n, Symbol("x"), [], {}, /x/]) {
      assert.isTrue(Option.isNone(decodeCursor(untyped(given))), typeof given);
      assert.isTrue(Option.isNone(decodePosition(untyped(given))), typeof given);
    }
  });
});
