import { assert, describe, it } from "@effect/vitest";
import * as Either from "effect/Either";
import * as ParseResult from "effect/ParseResult";
import * as S from "effect/Schema";
import { firstIssue } from "../src/issue.js";

const issueOf = <A, I>(schema: S.Schema<A, I>, value: unknown) => {
  const decoded = S.decodeUnknownEither(schema, { onExcessProperty: "error" })(value);
  return firstIssue(Either.getOrThrow(Either.flip(decoded)));
};

const nested = (depth: number): unknown => JSON.parse("[".repeat(depth) + "]".repeat(depth));
const Sample = S.Struct({ list: S.Array(S.Struct({ size: S.Int })), at: S.optional(S.Union(S.String, S.Int)) });

describe("the first issue", () => {
  it("is what the library's formatter says", () => {
    for (const value of [
      {},
      1,
      { list: [{ size: 0.5 }] },
      { list: [], at: [] },
      { list: [], more: 1 },
      { list: "x" },
    ]) {
      const decoded = S.decodeUnknownEither(Sample, { onExcessProperty: "error" })(value);
      const error = Either.getOrThrow(Either.flip(decoded));
      assert.deepStrictEqual(firstIssue(error), ParseResult.ArrayFormatter.formatErrorSync(error)[0]);
    }
  });

  it("says where, also of a value that is nested too deep to be shown", () => {
    const deep = nested(20_000);
    assert.deepInclude(issueOf(Sample, { list: [{ size: 1 }, { size: deep }] }), {
      _tag: "Type",
      path: ["list", 1, "size"],
    });
    assert.deepInclude(issueOf(Sample, { list: [], more: deep }), { _tag: "Unexpected", path: ["more"] });
    assert.deepInclude(issueOf(S.Struct({ at: S.Date }), { at: deep }), { path: ["at"] });
    assert.match(issueOf(Sample, { list: deep, at: 1 }).message, /./);
  });
});
