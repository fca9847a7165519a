import { SqlError } from "@effect/sql/SqlError";
import { assert, describe, it } from "@effect/vitest";
import { classify, databaseError, type SqlState } from "../src/sql-state.js";

const error = (cause: unknown) => new SqlError({ cause, message: "Failed to execute statement" });

describe("classify", () => {
  const cases: ReadonlyArray<readonly [object, SqlState]> = [
    [{ code: "23505" }, "Unique"],
    [{ code: "23503" }, "ForeignKey"],
    [{ code: "23001" }, "Restrict"],
    [{ code: "23514" }, "Check"],
    [{ code: "23502" }, "Check"],
    [{ code: "22P02" }, "Data"],
    [{ code: "54001" }, "TooLarge"],
    [{ code: "42501", routine: "ExecWithCheckOptions" }, "RowSecurity"],
    [{ code: "42501", routine: "aclcheck_error" }, "Privilege"],
    [{ code: "40001" }, "Serialization"],
    [{ code: "40P01" }, "Deadlock"],
    [{ code: "55P03" }, "LockNotAvailable"],
    [{ code: "08006" }, "Connection"],
    [{ code: "57P01" }, "Connection"],
    [{ code: "53300" }, "Connection"],
    [{ code: "ECONNREFUSED" }, "Connection"],
    [{ message: "Connection terminated unexpectedly" }, "Connection"],
    [{ code: "42P01" }, "Other"],
    [{}, "Other"],
  ];
  for (const [cause, expected] of cases) {
    it(`${JSON.stringify(cause)} is ${expected}`, () => assert.strictEqual(classify(error(cause)), expected));
  }

  it("looks into the several attempts of one connection", () => {
    const refusedTwice = new AggregateError([
      Object.assign(new Error("v6"), { code: "ECONNREFUSED" }),
      new Error("v4"),
    ]);
    assert.strictEqual(classify(error(refusedTwice)), "Connection");
    assert.strictEqual(databaseError(error(refusedTwice)).message, "v6");
  });

  it("survives a cause that is no object", () => assert.strictEqual(classify(error("gone")), "Other"));
});
