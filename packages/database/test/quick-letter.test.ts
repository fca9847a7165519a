import { assert, describe, it } from "@effect/vitest";
import * as Either from "effect/Either";
import * as Equal from "effect/Equal";
import * as FastCheck from "effect/FastCheck";
import * as S from "effect/Schema";
import { quickLetter } from "../src/job-dlq/quick-letter.js";
import { JobDlq } from "../src/models.js";

const decode = S.decodeUnknownEither(JobDlq);

const uuid = FastCheck.uuid();
const date = FastCheck.date({ noInvalidDate: false });
const attempt = FastCheck.record({ error: FastCheck.string(), timestamp: FastCheck.double() });
// What a column may hold beside what it should.
const odd = FastCheck.oneof(
  FastCheck.constantFrom(
    undefined,
    null,
    "",
    "null",
    "[]",
    "{}",
    "[null]",
    '[{"error":1}]',
    "x",
    1,
    Infinity,
    true,
    [],
  ),
  FastCheck.anything(),
);
const column = <A>(good: FastCheck.Arbitrary<A>) =>
  FastCheck.oneof({ weight: 30, arbitrary: good }, { weight: 1, arbitrary: odd });

const row = FastCheck.record({
  id: column(uuid),
  originalJobId: column(uuid),
  appId: column(uuid),
  type: column(FastCheck.string()),
  payload: column(FastCheck.json()),
  errorReason: column(FastCheck.string()),
  attempts: column(FastCheck.oneof(FastCheck.integer(), FastCheck.double())),
  errorHistory: column(
    FastCheck.oneof(
      FastCheck.array(attempt).map((_) => JSON.stringify(_)),
      FastCheck.array(FastCheck.record({ error: FastCheck.string(), timestamp: FastCheck.integer(), more: odd })).map(
        (_) => JSON.stringify(_, (_key, value) => (typeof value === "bigint" ? null : value)),
      ),
    ),
  ),
  dlqAt: column(date),
  replayedAt: column(FastCheck.option(date)),
  requestId: column(FastCheck.option(uuid)),
  userId: column(FastCheck.option(uuid)),
  updatedAt: date,
});

describe("a row that is read the quick way", () => {
  it("is what the model's schema makes of it, or is left to the schema", () => {
    let quick = 0;
    FastCheck.assert(
      FastCheck.property(row, (stored) => {
        const found = quickLetter(stored);
        if (found === undefined) return;
        quick++;
        const expected = Either.getOrThrow(decode(stored));
        assert.instanceOf(found, JobDlq);
        assert.deepStrictEqual({ ...found }, { ...expected });
        assert.deepStrictEqual(Object.keys(found), Object.keys(expected));
        assert.isTrue(Equal.equals(found.dlqAt, expected.dlqAt));
      }),
      { numRuns: 3000 },
    );
    assert.isAbove(quick, 500);
  });

  it("is read so whenever it is as this package writes it", () => {
    const good = {
      id: "01956e2f-0000-7000-8000-000000000001",
      originalJobId: "01956e2f-0000-7000-8000-000000000002",
      appId: "01956e2f-0000-7000-8000-000000000003",
      type: "mail.send",
      payload: '{"to":"a@b.c"}',
      errorReason: "MaxRetries",
      attempts: 3,
      errorHistory: '[{"error":"Error: no","timestamp":1790000000000}]',
      dlqAt: new Date(),
      replayedAt: null,
      requestId: null,
      userId: null,
      fingerprint: "01956e2f-0000-7000-8000-000000000004",
    };
    assert.isDefined(quickLetter(good));
    assert.isDefined(quickLetter({ ...good, payload: "null", replayedAt: new Date(), errorHistory: "[]" }));
    // And left to the schema where it is not.
    for (const [name, value] of Object.entries({
      dlqAt: Infinity,
      payload: null,
      errorHistory: "{}",
      attempts: "3",
      id: "x",
    })) {
      assert.isUndefined(quickLetter({ ...good, [name]: value }), name);
    }
  });
});
