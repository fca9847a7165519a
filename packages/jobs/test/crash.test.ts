/** What is left when runner processes die at any moment: each job is done or has its dead letter, and no effect is there twice. */
import { assert, layer } from "@effect/vitest";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import { isFull, rounds } from "../../database/test/support/campaign.js";
import { newTenant, TestUrl } from "../../database/test/support/database.js";
import * as Wire from "../../database/test/support/wire.js";
import * as Jobs from "../src/jobs.js";
import { Boundary, Effectful, Failing, Plain } from "./support/runner-process.js";
import { assertWhole, startRunner, startThree, TestJobs, untilEnded } from "./support/runners.js";

const submitted = rounds(2000, 300);
// In a reduced run the one at which an effect can be lost or be there twice.
const boundaries: ReadonlyArray<Boundary> = isFull ? Boundary.literals : ["after handler"];

/** At which time that it gets there: in the middle, and early enough to get there at all. */
const killAfter: Readonly<Record<Boundary, number>> = {
  "before claim": 2,
  "after claim": 2,
  handler: 40,
  "after handler": 1,
  "after settling": 1,
};

/** Transactional jobs, plain ones, and a few that fail. */
const submit = (appId: string) =>
  Effect.gen(function* () {
    const some = Array.from({ length: submitted }, (_, i) => ({ payload: { millis: (i * 7) % 50 } }));
    const failing = some.slice(0, 10).map(() => ({ payload: {} }));
    yield* Jobs.submitMany(Effectful, some.slice(0, submitted / 2), { appId });
    yield* Jobs.submitMany(Plain, some.slice(submitted / 2, -10), { appId });
    yield* Jobs.submitMany(Failing, failing, { appId });
  });

layer(TestJobs, { excludeTestServices: true, timeout: "10 minutes" })("kill -9", (it) => {
  for (const boundary of boundaries) {
    it.scoped(
      `of one of three runners ${boundary}`,
      () =>
        Effect.gen(function* () {
          const url = yield* TestUrl;
          const appId = yield* newTenant;
          const [victim] = yield* startThree(url, { killAt: boundary, killAfter: killAfter[boundary] });
          yield* submit(appId);
          // Another runner may have been quicker than the one that waits for its moment.
          let more = 0;
          const feeding = Effect.sleep("2 seconds").pipe(
            Effect.zipRight(Jobs.submitMany(Plain, Array(60).fill({ payload: { millis: 20 } }), { appId })),
            Effect.tap(() => Effect.sync(() => (more += 60))),
            Effect.uninterruptible,
            Effect.forever,
          );
          assert.strictEqual(yield* Effect.raceFirst(victim.ended, feeding), "SIGKILL");
          const killed = yield* Clock.currentTimeMillis;
          const counts = yield* untilEnded(appId, Effectful.name);
          const took = (yield* Clock.currentTimeMillis) - killed;
          console.log(`killed ${boundary}: all ended ${took} ms later, ${counts.repeated} runs repeated`);
          assertWhole(counts, submitted + more);
          assert.strictEqual(counts.dead, 10, "only the jobs that fail by themselves are dead");
        }),
      600_000,
    );
  }

  it.scoped(
    "of two of three runners at once",
    () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const appId = yield* newTenant;
        const [a, b] = yield* startThree(url);
        yield* submit(appId);
        yield* Effect.sleep("300 millis");
        yield* Effect.zipRight(a.kill("SIGKILL"), b.kill("SIGKILL"));
        const killed = yield* Clock.currentTimeMillis;
        const counts = yield* untilEnded(appId, Effectful.name);
        console.log(
          `two killed: all ended ${(yield* Clock.currentTimeMillis) - killed} ms later, ${counts.repeated} runs repeated`,
        );
        assertWhole(counts, submitted);
        assert.strictEqual(counts.dead, 10);
      }),
    600_000,
  );

  it.scoped(
    "of a runner frozen past its lease and continued: it changes nothing any more",
    () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const appId = yield* newTenant;
        const [frozen] = yield* startThree(url);
        yield* submit(appId);
        yield* Effect.sleep("200 millis");
        yield* frozen.kill("SIGSTOP");
        const counts = yield* untilEnded(appId, Effectful.name);
        yield* frozen.kill("SIGCONT");
        assertWhole(counts, submitted);
        assert.strictEqual(counts.dead, 10);
        // What it had in hand when it froze ends now, and must not count.
        yield* Effect.sleep("3 seconds");
        assertWhole(yield* untilEnded(appId, Effectful.name), submitted);
        yield* frozen.kill("SIGTERM");
        assert.strictEqual(yield* frozen.ended, 0, frozen.output());
      }),
    600_000,
  );

  it.scoped(
    "of nothing, but the COMMIT of a transactional job never arrives: the job is not held by a dead transaction",
    () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const wire = yield* Wire.make(url);
        const appId = yield* newTenant;
        wire.lose((statement, previous) => statement === "COMMIT" && previous.includes("WITH settled"));
        const runner = yield* startRunner(wire.url(url));
        yield* Jobs.submitMany(Effectful, [{ payload: { millis: 0 } }], { appId });
        const counts = yield* untilEnded(appId, Effectful.name);
        assertWhole(counts, 1);
        assert.strictEqual(counts.completed, 1);
        assert.strictEqual(wire.sent().filter((_) => _.includes("WITH settled")).length, 2, "it was settled twice");
        yield* runner.kill("SIGTERM");
        assert.strictEqual(yield* runner.ended, 0, runner.output());
      }),
  );
});
