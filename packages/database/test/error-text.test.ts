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
  const silent = {
    toJSON() {
      throw new Error("no");
    },
  };
  const knot = new Error("db down");
  knot.cause = Cause.die(knot);
  const kept: ReadonlyArray<readonly [string, unknown, RegExp]> = [
    [
      "a cause with a BigInt",
      new Error("db down", { cause: { id: 1n } }),
      /^Error: db down\n[\s\S]*\[cause\] \{ id: 1n \}$/,
    ],
    [
      "a cause that is a revoked proxy",
      new Error("db down", { cause: revoked.proxy }),
      /^Error: db down\n[\s\S]*Revoked/,
    ],
    [
      "a cause whose toJSON throws",
      new Error("db down", { cause: silent }),
      /^Error: db down\n[\s\S]*\[cause\] .*toJSON/,
    ],
    [
      "a cause that cannot be read",
      Object.defineProperty(new Error("db down"), "cause", {
        get() {
          throw new Error("no");
        },
      }),
      /^Error: db down\n/,
    ],
    ["a cause that holds the error itself", knot, /^Error: db down\n/],
    [
      "a cause below a cause",
      new Error("db down", { cause: new Error("socket", { cause: { id: 1n } }) }),
      /^Error: db down\n[\s\S]*\[cause\] Error: socket\n[\s\S]*\[cause\] \{ id: 1n \}$/,
    ],
    ["an Effect cause, a failure", Cause.fail(new Error("db down", { cause: { id: 1n } })), /^Error: db down\n/],
    [
      "an Effect cause, beside what cannot be serialised",
      Cause.parallel(Cause.die(revoked.proxy), Cause.fail(new Error("db down"))),
      /^Error: db down\n[\s\S]*Revoked/,
    ],
  ];
  for (const [name, error, expected] of kept) {
    it(`keeps the message of an error with ${name}`, () => assert.match(errorText(error), expected));
  }

  const unserialisable: ReadonlyArray<readonly [string, unknown, RegExp?]> = [
    ["undefined", undefined],
    ["null", null],
    ["a BigInt", 1n, /^1n$/],
    ["an object with a BigInt", { id: 1n }, /^\{ id: 1n \}$/],
    ["a tagged object with a BigInt", { _tag: "X", id: 1n }, /^\{ _tag: 'X', id: 1n \}$/],
    ["a failure with a BigInt", Cause.fail({ id: 1n }), /^\{ id: 1n \}$/],
    ["a defect that is a revoked proxy", Cause.die(revoked.proxy), /Revoked Proxy/],
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
    ["a toJSON that throws", silent, /toJSON/],
    ["a revoked proxy", revoked.proxy, /Revoked Proxy/],
    [
      "an error whose message throws",
      Object.defineProperty(new Error("x"), "message", {
        get() {
          throw new Error("no");
        },
      }),
      /^Error, its message cannot be read/,
    ],
    [
      "a tag that throws",
      {
        id: 1n,
        get [Symbol.toStringTag]() {
          throw new Error("no");
        },
      },
    ],
    ["an object without a prototype", Object.create(null)],
  ];
  for (const [name, value, expected = /./] of unserialisable) {
    it(`never throws: ${name}`, () => assert.match(errorText(value), expected));
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
