/** Every fuzz target with few cases, and that each kind of failure is seen. */
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { assert, describe, it } from "@effect/vitest";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Redacted from "effect/Redacted";
import { inject } from "vitest";
import { isFull, rounds, seed } from "../../database/test/support/campaign.js";
import type {} from "../../database/test/support/global-setup.js";
import { exchange, judged } from "../src/fuzz/http.js";
import * as Report from "../src/fuzz/report.js";
import { run, type Target } from "../src/fuzz/target.js";
import { targets } from "../src/fuzz/targets.js";
import { watch } from "../src/fuzz/watch.js";

describe("no case breaks", () => {
  const all = rounds(20_000, 1000);
  let shares = 0;
  for (const [group, make] of Object.entries(targets)) {
    it.scopedLive(
      group,
      () =>
        Effect.gen(function* () {
          const url = yield* Databases.clone(Redacted.make(inject("serverUrl")), inject("template"));
          for (const target of yield* make(url)) {
            shares += target.share;
            const cases = Math.max(1, Math.round((target.share * all) / 100_000));
            const result = yield* Effect.promise(() => run(target, { cases, seed }));
            console.log(`${Report.line(result)}, seed ${seed}`);
            assert.deepStrictEqual(result.failures.map(Report.told), []);
            assert.isAtLeast(result.cases, cases);
          }
        }).pipe(Logger.withMinimumLogLevel(LogLevel.None)),
      rounds(1_200_000, 120_000),
    );
  }

  it("has shares of 100,000 cases", () => assert.strictEqual(shares, 100_000));
});

describe("a failure is seen:", () => {
  const target = (given: Partial<Target<number>>): Target<number> => ({
    name: "broken",
    share: 1,
    cases: fc.nat(1_000_000),
    outcome: () => Effect.succeed("accepted"),
    ...given,
  });
  const failuresOf = async (given: Partial<Target<number>>, more: object = {}) =>
    (await run(target(given), { cases: 100, seed: 1, ...more })).failures;

  it("none, where there is none", async () => assert.deepStrictEqual(await failuresOf({}), []));

  it("a defect, made as small as it goes, and again by its seed and path", async () => {
    const broken = {
      outcome: (n: number) => (n > 1000 ? Effect.dieMessage(`broke at ${n}`) : Effect.succeed("accepted")),
    };
    const [found] = await failuresOf(broken, { cases: 800 });
    assert.strictEqual(found?.example, "1001");
    assert.match(found?.problem ?? "", /broke at 1001/);
    const again = await failuresOf(broken, { seed: found?.seed, path: found?.path });
    assert.deepStrictEqual(
      again.map(({ example }) => example),
      ["1001"],
    );
  });

  it("an error that is not documented", async () =>
    assert.match(
      (await failuresOf({ outcome: () => Effect.fail(new Error("unheard of")) }))[0]?.problem ?? "",
      /unheard/,
    ));

  it("a case that throws when it is read", async () => {
    const thrown = Proxy.revocable({}, {});
    thrown.revoke();
    assert.isNotEmpty(await failuresOf({ outcome: () => Effect.fail(thrown.proxy) }));
  });

  it("a case that does not end", async () => {
    const found = await failuresOf({ outcome: () => Effect.never, lanes: 1 }, { patienceMillis: 100 });
    assert.match(found[0]?.problem ?? "", /did not end/);
  });

  it("what once failed and fails again", async () => {
    const broken = { once: [7], outcome: (n: number) => (n === 7 ? Effect.dieMessage("seven") : Effect.succeed("")) };
    assert.match((await failuresOf(broken))[0]?.problem ?? "", /failed once, 0: .*seven/);
  });

  it("what does not hold afterwards", async () =>
    assert.match((await failuresOf({ holds: Effect.dieMessage("one is lost") }))[0]?.problem ?? "", /one is lost/));

  it("memory that grows", async () => {
    const kept: Array<Buffer> = [];
    const outcome = () => Effect.sync(() => String(kept.push(Buffer.alloc(1_000_000, 1)) > 0));
    assert.match((await failuresOf({ outcome }))[0]?.problem ?? "", /memory grows: \d+ MB .* \d+ MB/);
  });

  it("a 500, a problem in a stream of events, and no answer", async () => {
    const answers = ["500", "events", "none"];
    const server = createServer((request, response) => {
      switch (answers[Number(request.url?.slice(1))]) {
        case "500":
          response.writeHead(500).end("{}");
          break;
        case "events":
          response.writeHead(200, { "content-type": "text/event-stream" }).write('data: {"status":503}\n\n');
          break;
        default:
          request.socket.destroy();
      }
    });
    const port = await new Promise<number>((resolve) => {
      server.listen(0, "127.0.0.1", () => {
        const address = server.address();
        resolve(typeof address === "object" && address !== null ? address.port : 0);
      });
    });
    for (const place of answers.keys()) {
      const request = Buffer.from(`GET /${place} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
      const exit = await Effect.runPromiseExit(Effect.flatMap(exchange(port, request, true), (_) => judged(_, true)));
      assert.strictEqual(exit._tag, "Failure", answers[place]);
    }
    server.closeAllConnections();
    server.close();
  });

  for (const [group, problem] of [
    ["fine", undefined],
    ["holds the thread", /hangs/],
    ["ends the process", /ended with SIGABRT/],
    ["rejects on its own", /nobody waits/],
    ["throws on its own", /nobody catches/],
  ] as const) {
    it.runIf(isFull || group === "ends the process")(`by the parent: ${group}`, { concurrent: true }, async () => {
      const { failures, results } = await Effect.runPromise(
        watch({
          module: fileURLToPath(new URL("support/broken.ts", import.meta.url)),
          group,
          only: "",
          cases: 5,
          seed: 1,
          url: "none",
          silenceMillis: group === "holds the thread" ? 10_000 : 60_000,
        }),
      );
      const found = [...failures, ...results.flatMap((_) => _.failures)];
      if (problem === undefined) return assert.deepStrictEqual(found, []);
      assert.lengthOf(found, 1);
      assert.match(found[0]?.problem ?? "", problem);
      assert.strictEqual(found[0]?.target, group);
    });
  }
});
