import { assert, describe, it } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Data from "effect/Data";
import * as fc from "effect/FastCheck";
import { boundHistory, boundText, errorText, historyHead, maxErrorLength, maxHistory } from "../src/error-text.js";
import { campaign } from "./support/campaign.js";

class Refused extends Data.TaggedError("Refused")<{ readonly code: number }> {}

describe("errorText", () => {
  it("keeps a text as it is", () => assert.strictEqual(errorText("plain"), "plain"));

  it("renders an error with its stack and its causes", () => {
    const text = errorText(new Error("outer", { cause: new TypeError("inner") }));
    assert.match(text, /^Error: outer\n\s+at .*error-text\.test/);
    assert.match(text, /\[cause\] TypeError: inner/);
  });

  it("renders a message that changed after the error was made", () => {
    const error = new Error("first");
    error.message = "second";
    assert.match(errorText(error), /^Error: second/);
  });

  it("renders an Effect cause: failure and defect", () => {
    const text = errorText(Cause.parallel(Cause.fail(new Refused({ code: 7 })), Cause.die(new Error("defect"))));
    assert.match(text, /Refused/);
    assert.match(text, /defect/);
  });

  it("renders a cyclic chain of causes once", () => {
    const error = new Error("loop");
    error.cause = error;
    assert.strictEqual(errorText(error).match(/Error: loop/g)?.length, 1);
  });

  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  const unserialisable: ReadonlyArray<readonly [string, unknown]> = [
    ["undefined", undefined],
    ["null", null],
    ["a BigInt", 1n],
    ["an object with a BigInt", { id: 1n }],
    ["a symbol", Symbol("s")],
    ["a function", () => 1],
    [
      "a cyclic object",
      (() => {
        const o: Record<string, unknown> = {};
        o.o = o;
        return o;
      })(),
    ],
    [
      "a getter that throws",
      {
        get x() {
          throw new Error("no");
        },
      },
    ],
    [
      "a toJSON that throws",
      {
        toJSON() {
          throw new Error("no");
        },
      },
    ],
    ["a revoked proxy", revoked.proxy],
    [
      "an error whose message throws",
      Object.defineProperty(new Error("x"), "message", {
        get() {
          throw new Error("no");
        },
      }),
    ],
    ["an object without a prototype", Object.create(null)],
  ];
  for (const [name, value] of unserialisable) {
    it(`never throws: ${name}`, () => {
      const text = errorText(value);
      assert.isString(text);
      assert.isAbove(text.length, 0);
    });
  }
});

describe("boundText", () => {
  it("replaces NUL and lone surrogates", () => assert.strictEqual(boundText("a\u0000b\uD800c"), "a\uFFFDb\uFFFDc"));

  it("cuts the middle out of 10 MB and says how much", () => {
    const text = boundText(`head${"x".repeat(10_000_000)}tail`);
    assert.isBelow(text.length, maxErrorLength + 60);
    assert.match(text, /^head/);
    assert.match(text, /tail$/);
    assert.match(text, /9,983,624 characters cut/);
  });

  it("gives well-formed text without NUL for every text, also where the cut splits a pair", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 20 }), fc.boolean(), (part, long) => {
        const text = boundText(long ? `${part}👩`.repeat(4000) : part);
        return text.isWellFormed() && !text.includes("\u0000");
      }),
      campaign("bounded text", 2_000, 200),
    );
  });
});

describe("boundHistory", () => {
  it("keeps a short history", () => assert.deepStrictEqual(boundHistory([1, 2]), [1, 2]));
  it("keeps the first and the newest of a long one", () => {
    const all = Array.from({ length: 500 }, (_, i) => i);
    const kept = boundHistory(all);
    assert.strictEqual(kept.length, maxHistory);
    assert.deepStrictEqual(kept.slice(0, historyHead), all.slice(0, historyHead));
    assert.deepStrictEqual(kept.slice(historyHead), all.slice(500 - (maxHistory - historyHead)));
  });
});
