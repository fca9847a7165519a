/** Tokens of the HTTP API: what a file of them may say, and whom they let in. */
import { randomUUID } from "node:crypto";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as TestClock from "effect/TestClock";
import { newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { withUrl } from "../../database/test/support/process.js";
import { hashOf, isAtLeast, makeToken, parse, verify } from "../src/access.js";
import { objects, runDlq } from "./support/dlq.js";

const appId = randomUUID();
const good = { name: "ada", sha256: hashOf("secret"), tenant: appId, role: "viewer" };
const parsed = (...grants: ReadonlyArray<unknown>) => parse("tokens.json", JSON.stringify(grants));

describe("tokens", () => {
  it.effect("let in whom they are for, and nobody else", () =>
    Effect.gen(function* () {
      const grants = yield* parsed(good, {
        ...good,
        name: "root",
        sha256: hashOf("other"),
        tenant: "*",
        role: "admin",
      });
      const caller = (token: string) => verify(grants, Redacted.make(token));
      assert.deepStrictEqual(yield* caller("secret"), {
        name: "ada",
        role: "viewer",
        scope: { _tag: "tenant", appId },
        seesPayloads: false,
        expiresAt: undefined,
      });
      assert.deepStrictEqual((yield* caller("other"))?.scope, { _tag: "system" });
      for (const wrong of ["", "Secret", "secret ", hashOf("secret"), "a".repeat(100_000)]) {
        assert.isUndefined(yield* caller(wrong));
      }
    }),
  );

  it.effect("are refused from the moment that they expire", () =>
    Effect.gen(function* () {
      const grants = yield* parsed({ ...good, expiresAt: "1970-01-02T00:00:00Z" });
      assert.isDefined(yield* verify(grants, Redacted.make("secret")));
      yield* TestClock.adjust("1 day");
      assert.isUndefined(yield* verify(grants, Redacted.make("secret")));
    }),
  );

  it.effect("are refused as a whole when one is not what it should be, and the error does not have it", () =>
    Effect.gen(function* () {
      for (const [bad, why] of [
        [{ ...good, role: "owner" }, "0.role"],
        [{ ...good, sha256: "secret" }, "0.sha256"],
        [{ ...good, tenant: "acme" }, "0.tenant"],
        [{ ...good, tenant: "*", role: "operator" }, "needs the role admin"],
        [{ ...good, name: " " }, "0.name"],
        [{ ...good, expiresAt: "soon" }, "0.expiresAt"],
        [{ ...good, token: "secret" }, "0.token"],
      ] as const) {
        const { message } = yield* Effect.flip(parsed(bad));
        assert.include(message, why);
        assert.notInclude(message, "secret");
        assert.notInclude(message, good.sha256);
      }
      assert.include((yield* Effect.flip(parsed(good, good))).message, "the same token");
      assert.include((yield* Effect.flip(parsed())).message, "there is none");
      for (const text of ["", "{}", "[", "null"]) {
        assert.include((yield* Effect.flip(parse("DLQ_TOKENS", text))).message, "DLQ_TOKENS");
      }
    }),
  );

  it("have roles that contain one another, and no two are alike", () => {
    assert.isTrue(isAtLeast("admin", "operator"));
    assert.isFalse(isAtLeast("viewer", "operator"));
    assert.strictEqual(new Set(Array.from({ length: 1000 }, makeToken)).size, 1000);
    assert.match(makeToken(), /^dlq_[\w-]{43}$/);
  });
});

layer(TestDatabase, { excludeTestServices: true })("dlq token", (test) => {
  test.effect("makes one that its own line lets in", () =>
    Effect.gen(function* () {
      const tenant = yield* newTenant;
      const environment = { ...withUrl(yield* TestUrl), DLQ_TENANT: tenant };
      const made = yield* runDlq(
        ["token", "--name", "ada", "--role", "operator", "--days", "2", "--json"],
        environment,
      );
      assert.strictEqual(made.code, 0, made.stderr);
      const [{ grant, token } = { grant: null, token: "" }] = objects(made.stdout);
      const caller = yield* Effect.flatMap(parsed(grant), (grants) => verify(grants, Redacted.make(String(token))));
      assert.deepStrictEqual(
        [caller?.name, caller?.role, caller?.scope],
        ["ada", "operator", { _tag: "tenant", appId: tenant }],
      );
      assert.notInclude(JSON.stringify(grant), String(token));
      const everybody = yield* runDlq(["token", "--name", "ada", "--role", "viewer", "--all-tenants"], environment);
      assert.deepStrictEqual([everybody.code, everybody.stdout], [2, ""]);
      const nobody = yield* runDlq(["token", "--name", " ", "--role", "viewer"], environment);
      assert.deepStrictEqual([nobody.code, nobody.stdout], [2, ""]);
    }),
  );
});
