import { assert, describe, it } from "@effect/vitest";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import { encodeCursor } from "../../src/cursor.js";
import { advance, decodePosition, encodePosition, lastId, placeOfSnapshot } from "../../src/job-dlq/position.js";
import { campaign } from "../support/campaign.js";

const xid = fc.bigInt({ min: 3n, max: 2n ** 64n - 1n });
const snapshot = fc.tuple(xid, fc.array(fc.integer({ min: 0, max: 50 }), { maxLength: 5 })).map(([xmin, ahead]) => {
  const running = [...new Set(ahead)].sort((a, b) => a - b).map((_) => xmin + BigInt(_));
  return `${xmin}:${(running.at(-1) ?? xmin) + 1n}:${running.join(",")}`;
});
const place = fc.record({ arrived: xid.map(String), id: fc.uuid(), start: fc.option(snapshot, { nil: "" }) });

describe("a position", () => {
  it("gives its place back", () => {
    fc.assert(
      fc.property(place, (one) => assert.deepStrictEqual(decodePosition(encodePosition(one)), Option.some(one))),
      campaign("position round-trip", 10_000, 1_000),
    );
  });

  it("is refused when any of its characters is another, and when it is a page's cursor or any other text", () => {
    fc.assert(
      fc.property(place, fc.nat(), fc.constantFrom("A", "b", "0", "_", "=", " "), (one, at, character) => {
        const text = encodePosition(one);
        const i = at % text.length;
        const changed = text.slice(0, i) + character + text.slice(i + 1);
        assert.isTrue(changed === text || Option.isNone(decodePosition(changed)));
      }),
      campaign("tampered positions", 10_000, 1_000),
    );
    assert.isTrue(Option.isNone(decodePosition(encodeCursor({ at: "5", id: lastId }))));
    for (const text of ["", "1", "null", encodePosition({ arrived: "1", id: lastId, start: "" }).repeat(2)]) {
      assert.isTrue(Option.isNone(decodePosition(text)));
    }
  });

  it("of a snapshot stands before every transaction that the snapshot does not see, and keeps it until it is beyond", () => {
    const start = placeOfSnapshot("10:20:10,15");
    assert.deepStrictEqual(start, { arrived: "9", id: lastId, start: "10:20:10,15" });
    assert.strictEqual(advance(start, "15", lastId).start, "10:20:10,15");
    assert.strictEqual(advance(start, "19", lastId).start, "10:20:10,15");
    assert.deepStrictEqual(advance(start, "20", lastId), { arrived: "20", id: lastId, start: "" });
  });
});
