/**
 * The states of a job, against a model of them: walks of one caller, each step predicted, and many callers at once, each
 * step recorded by a trigger. The steps are those of `support/states.ts`. With dead letters, cancellations and erasures, and several
 * operations at once: `packages/trials/test/model.test.ts`.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import { assert, describe, layer, it as plain } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Random from "effect/Random";
import * as Runtime from "effect/Runtime";
import * as Client from "../src/client.js";
import { JobStatus } from "../src/models.js";
import { DatabaseService } from "../src/repos.js";
import { classify } from "../src/sql-state.js";
import { campaign, rounds, seed } from "./support/campaign.js";
import { newTenant, TestDatabase, TestUrl, work } from "./support/database.js";
import { counted } from "./support/jobs.js";
import { tableUnder } from "./support/markdown.js";
import { jobRefusals, jobTransitions, letterRefusals, letterTransitions, stepsBy } from "./support/states.js";

/** Every step that the operations of this file make. Whatever else a job did was wrong. */
const legal = stepsBy(jobTransitions, [
  "jobs.enqueue",
  "jobs.claim",
  "jobs.complete",
  "jobs.retry",
  "jobs.deadLetter",
  "jobs.rescue",
  "jobs.purge",
  "jobDlq.replay",
]).filter((_) => !_.includes("cancelled"));

/** Records each change of a job's state or fence, past row-level security, whoever makes it. */
const record = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(`
    CREATE TABLE IF NOT EXISTS steps (n bigserial, app_id uuid, job uuid, before text, after text, fence_before bigint, fence_after bigint)`);
  yield* sql.unsafe(`GRANT SELECT ON steps TO parametric_tenant`);
  yield* sql.unsafe(`
    CREATE OR REPLACE FUNCTION record_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
    BEGIN
      INSERT INTO public.steps (app_id, job, before, after, fence_before, fence_after) VALUES (COALESCE(NEW.app_id, OLD.app_id),
        COALESCE(NEW.id, OLD.id), COALESCE(OLD.status, 'none'), COALESCE(NEW.status, 'none'), OLD.fence, NEW.fence);
      RETURN NULL;
    END
    $body$`);
  yield* sql.unsafe(`
    CREATE OR REPLACE TRIGGER record_step AFTER INSERT OR UPDATE OR DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION record_step()`);
});

const stepsOf = (appId: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows =
      yield* sql`SELECT before, after, fence_before, fence_after FROM steps WHERE app_id = ${appId} ORDER BY n`;
    return rows.map((_) => ({
      step: `${_.before} → ${_.after}`,
      isFenced: _.before !== _.after && (_.after === "processing" || _.before === "dead"),
      fence: _.fenceAfter === null ? undefined : BigInt(String(_.fenceAfter)),
      fenceBefore: _.fenceBefore === null ? undefined : BigInt(String(_.fenceBefore)),
    }));
  });

/** What must hold whatever happened: only legal steps, and a fence that no claim or replay had before. */
const checkSteps = (appId: string) =>
  Effect.gen(function* () {
    const steps = yield* stepsOf(appId);
    for (const { step } of steps) assert.include(legal, step);
    const fences = steps.flatMap(({ fence, fenceBefore }) =>
      fence === undefined || fence === fenceBefore ? [] : [fence],
    );
    assert.strictEqual(new Set(fences).size, fences.length, "a fence came twice");
    for (const { fence = 0n, fenceBefore = 0n, step } of steps) {
      if (step === "pending → processing" || step === "dead → pending") assert.isTrue(fence > fenceBefore, step);
    }
    return new Set(steps.map(({ step }) => step));
  });

/** A job as the test believes it to be. */
interface Expected {
  readonly id: string;
  status: "pending" | "processing" | "completed" | "dead" | "none";
  attempts: number;
  maxAttempts: number;
  errors: number;
  replays: number;
  /** The fence of the current claim, and all that are over. */
  fence: bigint;
  readonly oldFences: Array<bigint>;
  /** Its lease is over. */
  isLost: boolean;
  /** Its dead letters, oldest first; the last one is pending while the job is dead. */
  readonly letters: Array<string>;
  replayed: number;
}

interface Walk {
  readonly appId: string;
  readonly jobs: Array<Expected>;
  readonly run: <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient | DatabaseService>) => Promise<A>;
}

type Db = Effect.Effect.Success<typeof DatabaseService>;

/** One step of a walk: does something, and checks that the answer and all the rows are what the model says. */
class Step implements fc.AsyncCommand<Walk, Walk> {
  readonly #name: string;
  readonly #act: (walk: Walk, db: Db) => Effect.Effect<unknown, unknown, SqlClient.SqlClient | DatabaseService>;
  constructor(
    name: string,
    act: (walk: Walk, db: Db) => Effect.Effect<unknown, unknown, SqlClient.SqlClient | DatabaseService>,
  ) {
    this.#name = name;
    this.#act = act;
  }
  check() {
    return true;
  }
  async run(walk: Walk) {
    await walk.run(Effect.flatMap(DatabaseService, (db) => this.#act(walk, db)));
    await walk.run(agrees(walk));
  }
  toString() {
    return this.#name;
  }
}

const agrees = ({ appId, jobs }: Walk) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.tenant(appId)(sql`
      SELECT id, status, attempts, max_attempts, replays, jsonb_array_length(error_history) AS errors,
        (SELECT count(*)::int FROM job_dlq d WHERE d.original_job_id = j.id) AS letters,
        (SELECT count(*)::int FROM job_dlq d WHERE d.original_job_id = j.id AND d.replayed_at IS NOT NULL) AS replayed
      FROM jobs j ORDER BY id`);
    const expected = jobs
      .filter(({ status }) => status !== "none")
      .map(({ attempts, errors, id, letters, maxAttempts, replayed, replays, status }) => ({
        id,
        status,
        attempts,
        maxAttempts,
        replays,
        errors,
        letters: letters.length,
        replayed,
      }));
    assert.deepStrictEqual(
      rows.map((_) => ({ ..._ })),
      expected.sort((a, b) => (a.id < b.id ? -1 : 1)) as never,
    );
  });

const die = (job: Expected, letter: string) => {
  job.status = "dead";
  job.errors++;
  job.letters.push(letter);
};

const enqueue = (maxAttempts: number) =>
  new Step(`enqueue(${maxAttempts})`, ({ appId, jobs }, db) =>
    Effect.map(Client.tenant(appId)(db.jobs.enqueue(work(appId, { maxAttempts }))), ({ fence, id }) =>
      jobs.push({
        id,
        status: "pending",
        attempts: 0,
        maxAttempts,
        errors: 0,
        replays: 0,
        fence,
        oldFences: [],
        isLost: false,
        letters: [],
        replayed: 0,
      }),
    ),
  );

const claim = (limit: number, isLost: boolean) =>
  new Step(`claim(${limit}${isLost ? ", lost" : ""})`, ({ appId, jobs }, db) =>
    Effect.gen(function* () {
      const due = jobs.filter(({ status }) => status === "pending");
      const claimed = yield* Client.tenant(appId)(db.jobs.claim({ runner: "r", limit, lease: isLost ? 0 : "1 hour" }));
      assert.strictEqual(claimed.length, Math.min(limit, due.length));
      for (const { attempts, fence, id } of claimed) {
        const job = due.find((_) => _.id === id);
        assert.isDefined(job);
        job.status = "processing";
        job.attempts++;
        job.oldFences.push(job.fence);
        job.fence = fence;
        job.isLost = isLost;
        assert.strictEqual(attempts, job.attempts);
      }
    }),
  );

const outcomeOf = <A>(effect: Effect.Effect<A, unknown, SqlClient.SqlClient>) =>
  Effect.match(effect, {
    onFailure: (error) => String(Reflect.get(Object(error), "_tag")),
    onSuccess: (value) => value,
  });

type Which = "current" | "old" | "none";

const settle = (kind: "complete" | "retry" | "deadLetter", place: number, which: Which) =>
  new Step(`${kind}(#${place}, ${which} fence)`, ({ appId, jobs }, db) =>
    Effect.gen(function* () {
      const job = jobs[place % Math.max(jobs.length, 1)];
      if (job === undefined) return;
      const fence = which === "current" ? job.fence : which === "old" ? (job.oldFences.at(-1) ?? 0n) : undefined;
      const { id } = job;
      const call: Effect.Effect<string, unknown, SqlClient.SqlClient> =
        kind === "complete"
          ? Effect.as(Client.tenant(appId)(db.jobs.complete({ id, fence: fence ?? 0n })), "done")
          : kind === "retry"
            ? Effect.as(Client.tenant(appId)(db.jobs.retry({ id, fence: fence ?? 0n, error: "e" })), "done")
            : Effect.map(
                Client.tenant(appId)(
                  db.jobs.deadLetter({
                    id,
                    reason: "MaxRetries",
                    error: "e",
                    ...(fence === undefined ? {} : { fence }),
                  }),
                ),
                (letter) => letter.id,
              );
      const outcome = yield* outcomeOf(call);
      const isHeld = job.status === "processing" && which === "current";
      const mayDie = kind === "deadLetter" && which === "none" && ["pending", "processing"].includes(job.status);
      if (job.status === "none") return assert.strictEqual(outcome, "JobNotFound");
      if (!isHeld && !mayDie) return assert.strictEqual(outcome, "JobNotHeld");
      if (kind === "retry" && job.attempts >= job.maxAttempts) return assert.strictEqual(outcome, "JobExhausted");
      assert.notMatch(outcome, /^Job/);
      if (kind === "complete") job.status = "completed";
      if (kind === "retry") {
        job.status = "pending";
        job.errors++;
      }
      if (kind === "deadLetter") die(job, outcome);
    }),
  );

const rescue = new Step("rescue", ({ appId, jobs }, db) =>
  Effect.gen(function* () {
    const lost = jobs.filter(({ isLost, status }) => status === "processing" && isLost);
    const rescued = yield* Client.tenant(appId)(db.jobs.rescue());
    const exhausted = lost.filter(({ attempts, maxAttempts }) => attempts >= maxAttempts);
    assert.deepStrictEqual(counted(rescued), {
      retried: lost.length - exhausted.length,
      deadLettered: exhausted.length,
    });
    for (const job of lost) {
      const now = Option.getOrThrow(yield* Client.tenant(appId)(db.jobs.get(job.id)));
      job.oldFences.push(job.fence);
      job.fence = now.fence;
      if (exhausted.includes(job)) {
        const letter = yield* Client.tenant(appId)(db.jobDlq.one({ originalJobId: job.id, replayedAt: Option.none() }));
        die(job, Option.getOrThrow(letter).id);
      } else {
        job.status = "pending";
        job.errors++;
      }
    }
  }),
);

const replay = (place: number, isEvery: boolean) =>
  new Step(`replay(#${place}${isEvery ? ", every letter" : ""})`, ({ appId, jobs }, db) =>
    Effect.gen(function* () {
      const job = jobs[place % Math.max(jobs.length, 1)];
      const newest = job?.letters.at(-1);
      if (job === undefined || newest === undefined) return;
      const receipts = yield* Client.tenant(appId)(
        db.jobDlq.replay(isEvery ? job.letters : [newest], { actor: "test" }),
      );
      const isPending = job.replayed < job.letters.length;
      for (const { id, outcome } of receipts) {
        assert.strictEqual(outcome, id === newest && isPending ? "replayed" : "already gone");
      }
      if (!isPending) return;
      const now = Option.getOrThrow(yield* Client.tenant(appId)(db.jobs.get(job.id)));
      // A purged job is made anew, with the default number of attempts.
      if (job.status === "none") job.maxAttempts = 5;
      job.status = "pending";
      job.attempts = 0;
      job.errors = 0;
      job.replayed++;
      job.replays = job.replayed;
      job.oldFences.push(job.fence);
      job.fence = now.fence;
    }),
  );

const purge = new Step("purge", ({ appId, jobs }, db) =>
  Effect.gen(function* () {
    const ended = jobs.filter(({ status }) => status === "completed" || status === "dead");
    assert.strictEqual(yield* Client.tenant(appId)(db.jobs.purge(0)), ended.length);
    for (const job of ended) job.status = "none";
  }),
);

/** The whole campaign takes minutes on a busy machine. */
const long = 900_000;

layer(TestDatabase, { excludeTestServices: true })("the states of a job", (it) => {
  it.effect(
    "are what the model says after every step of every walk",
    () =>
      Effect.gen(function* () {
        yield* record;
        const run = Runtime.runPromise(yield* Effect.runtime<SqlClient.SqlClient | DatabaseService>());
        const seen = new Set<string>();
        const place = fc.nat({ max: 5 });
        const commands = fc.commands(
          [
            fc.integer({ min: 1, max: 3 }).map(enqueue),
            fc.tuple(fc.integer({ min: 1, max: 3 }), fc.boolean()).map(([limit, isLost]) => claim(limit, isLost)),
            fc
              .tuple(place, fc.constantFrom<Which>("current", "current", "old", "none"))
              .map(([_, which]) => settle("complete", _, which)),
            fc
              .tuple(place, fc.constantFrom<Which>("current", "current", "old", "none"))
              .map(([_, which]) => settle("retry", _, which)),
            fc
              .tuple(place, fc.constantFrom<Which>("current", "old", "none"))
              .map(([_, which]) => settle("deadLetter", _, which)),
            fc.constant(rescue),
            fc.tuple(place, fc.boolean()).map(([_, isEvery]) => replay(_, isEvery)),
            fc.constant(purge),
          ],
          { size: "max", maxCommands: 40 },
        );
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(commands, async (walk) => {
              const appId = await run(newTenant);
              const start = { appId, jobs: [], run };
              await fc.asyncModelRun(() => ({ model: start, real: start }), walk);
              for (const step of await run(checkSteps(appId))) seen.add(step);
            }),
            campaign("job states", 300, 40),
          ),
        );
        // The walks went everywhere, so none of this was said of nothing.
        assert.deepStrictEqual([...seen].sort(), [...legal].sort());
      }),
    long,
  );

  it.effect(
    "are reached by legal steps only when eight callers do whatever they like at once",
    () =>
      Effect.gen(function* () {
        yield* record;
        const url = yield* TestUrl;
        const turns = rounds(20, 3);
        console.log(`job states at once: ${turns} × 8 callers × 60 steps, TEST_SEED=${seed}`);
        const seen = new Set<string>();
        yield* Effect.gen(function* () {
          const db = yield* DatabaseService;
          const sql = yield* SqlClient.SqlClient;
          for (let turn = 0; turn < turns; turn++) {
            const appId = yield* newTenant;
            // What anybody has ever claimed, and every letter: callers use each other's, fresh or stale.
            const held: Array<{ readonly id: string; readonly fence: bigint }> = [];
            const letters: Array<string> = [];
            const steps = {
              enqueue: db.jobs.enqueue(work(appId, { maxAttempts: 2 })),
              claim: db.jobs.claim({ runner: "r", limit: 3, lease: "1 hour" }).pipe(Effect.tap((_) => held.push(..._))),
              claimLost: db.jobs.claim({ runner: "r", limit: 2, lease: 0 }).pipe(Effect.tap((_) => held.push(..._))),
              complete: Effect.suspend(() => db.jobs.complete(any(held))),
              retry: Effect.suspend(() => db.jobs.retry({ ...any(held), error: "e" })),
              deadLetter: Effect.suspend(() => db.jobs.deadLetter({ ...any(held), reason: "MaxRetries", error: "e" })),
              deadLetterById: Effect.suspend(() =>
                db.jobs.deadLetter({ id: any(held).id, reason: "Validation", error: "e" }),
              ),
              rescue: db.jobs.rescue(),
              list: db.jobDlq.listPending().pipe(Effect.tap((_) => letters.push(..._.map(({ id }) => id)))),
              replay: Effect.suspend(() => db.jobDlq.replay(letters.splice(-4), { actor: "test" })),
              purge: db.jobs.purge(0),
            };
            let dice = 0;
            const any = <A>(list: ReadonlyArray<A>): A => list[dice % list.length] as A;
            const names = Object.keys(steps) as ReadonlyArray<keyof typeof steps>;
            const caller = Effect.gen(function* () {
              for (let i = 0; i < 60; i++) {
                dice = yield* Random.nextIntBetween(0, 1_000_000);
                const name = held.length === 0 ? (i % 2 === 0 ? "enqueue" : "claim") : names[dice % names.length];
                const step: Effect.Effect<unknown, unknown> = steps[name ?? "list"];
                const exit = yield* Effect.exit(Client.tenant(appId)(step));
                if (Exit.isSuccess(exit)) continue;
                const error = Option.getOrUndefined(Cause.failureOption(exit.cause));
                const tag = String(Reflect.get(Object(error), "_tag"));
                // A purge and a replay lock the same jobs in different orders; the server picks one to fail, which is retried.
                if (tag === "SqlError" && classify(error as SqlError) === "Deadlock") continue;
                assert.include(
                  ["JobNotHeld", "JobNotFound", "JobExhausted"],
                  tag,
                  `${name}: ${Cause.pretty(exit.cause)}`,
                );
              }
            });
            yield* Effect.all(
              Array.from({ length: 8 }, (_, i) => Effect.withRandom(caller, Random.make(`${seed} ${turn} ${i}`))),
              {
                concurrency: "unbounded",
              },
            );
            for (const step of yield* checkSteps(appId)) seen.add(step);
            const rows = yield* Client.tenant(appId)(
              sql`
            WITH deaths AS (
              SELECT job, count(*) FILTER (WHERE after = 'dead' AND before <> 'dead') AS died,
                count(*) FILTER (WHERE before = 'dead' AND after = 'pending') AS revived,
                count(*) FILTER (WHERE before = 'none') - 1 AS remade
              FROM steps WHERE app_id = ${appId} GROUP BY job),
            letters AS (
              SELECT original_job_id AS job, count(*) AS written, count(replayed_at) AS replayed FROM job_dlq GROUP BY original_job_id)
            SELECT count(*) FILTER (WHERE died <> COALESCE(written, 0))::int AS without_letter,
              count(*) FILTER (WHERE revived + remade <> COALESCE(replayed, 0))::int AS without_replay,
              count(*) FILTER (WHERE j.status = 'dead' AND written - replayed <> 1)::int AS dead_without_pending,
              count(*) FILTER (WHERE j.status IN ('pending', 'processing', 'completed') AND written <> replayed)::int AS living_with_pending
            FROM deaths LEFT JOIN letters USING (job) LEFT JOIN jobs j ON j.id = job`.pipe(Effect.orDie),
            );
            assert.deepStrictEqual(rows, [
              { withoutLetter: 0, withoutReplay: 0, deadWithoutPending: 0, livingWithPending: 0 },
            ]);
          }
        }).pipe(
          Effect.provide(DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 10 })))),
        );
        assert.isAtLeast(seen.size, 7);
      }),
    long,
  );
});

describe("docs/states.md", () => {
  const file = "docs/states.md";
  const told = (rows: ReadonlyArray<{ readonly by: ReadonlyArray<string> }>) =>
    rows.map((row) => ({ ...row, by: row.by.join(", ") }));

  plain("has the tables that the tests go by", () => {
    assert.deepStrictEqual(tableUnder(file, "The steps of a job") as unknown, told(jobTransitions));
    assert.deepStrictEqual(tableUnder(file, "The steps of a dead letter") as unknown, told(letterTransitions));
    assert.deepStrictEqual(tableUnder(file, "What a job refuses") as unknown, told(jobRefusals));
    assert.deepStrictEqual(tableUnder(file, "What a dead letter refuses") as unknown, told(letterRefusals));
  });

  plain("knows every state of a job, each reached and each left, and every operation that it names is there", () => {
    const states = [...JobStatus.literals, "none"].sort();
    assert.deepStrictEqual([...new Set(jobTransitions.map(({ from }) => from))].sort(), states);
    assert.deepStrictEqual([...new Set(jobTransitions.map(({ to }) => to))].sort(), states);
    for (const table of [jobTransitions, letterTransitions]) {
      const steps = table.map(({ from, to }) => `${from} → ${to}`);
      assert.strictEqual(new Set(steps).size, steps.length);
    }
  });

  layer(TestDatabase, { excludeTestServices: true })((it) => {
    it.effect("names operations that there are", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const names = [jobTransitions, letterTransitions, jobRefusals, letterRefusals].flat().flatMap(({ by }) => by);
        for (const name of new Set(names)) {
          const [service = "", method = ""] = name.split(".");
          if (service === "jobs") assert.property(db.jobs, method);
          else if (service === "jobDlq") assert.property(db.jobDlq, method);
          else assert.include(["Jobs.submit", "Jobs.cancel", "runner"], name);
        }
      }),
    );
  });
});
