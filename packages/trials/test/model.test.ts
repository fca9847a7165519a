/** The whole queue against a model of it: everything that may be done to jobs and dead letters, one after the other and at once. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Statement from "@effect/sql/Statement";
import { assert, describe, it } from "@effect/vitest";
import * as JobStoreSql from "@parametric-portal/jobs/job-store-sql";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Runtime from "effect/Runtime";
import { campaign, isFull, seed } from "../../database/test/support/campaign.js";
import { newTenant, TestDatabase } from "../../database/test/support/database.js";
import { jobTransitions, letterTransitions, stepsBy } from "../../database/test/support/states.js";
import { cases, runCase, type Services } from "../src/model/trial.js";

const Queue = Layer.provideMerge(JobStoreSql.layerDesk, TestDatabase);

/** The whole campaign takes long on a busy machine. */
const long = 7_200_000;

/** Cases of the whole campaign; `TEST_CASES` asks for more. */
const whole = Number(process.env.TEST_CASES ?? 300);

/** Steps per case. */
const length = 40;

/** What the cases do; a runner's own statements are under test in `packages/jobs`. */
const operations = [
  "Jobs.submit",
  "Jobs.cancel",
  "jobs.claim",
  "jobs.complete",
  "jobs.retry",
  "jobs.deadLetter",
  "jobs.rescue",
  "jobs.purge",
  "jobDlq.replay",
  "jobDlq.markReplayed",
  "jobDlq.discard",
  "jobDlq.restore",
  "jobDlq.erase",
  "jobDlq.purge",
  "jobDlq.retain",
];

describe("the queue", () => {
  it.effect(
    "does what the model says, and what runs at once can be told in some order",
    () =>
      Effect.gen(function* () {
        const run = Runtime.runPromise(yield* Effect.runtime<Services>());
        const tally = new Map<string, number>();
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(cases(length), (commands) => runCase(run, newTenant, tally, commands)),
            campaign("the queue and its model", whole, 20),
          ),
        );
        console.log(
          [...tally]
            .sort()
            .map(([what, count]) => `${String(count).padStart(7)}  ${what}`)
            .join("\n"),
        );
        // The cases went everywhere, so none of this was said of nothing.
        const steps = [
          ...stepsBy(jobTransitions, operations).map((_) => `job: ${_}`),
          ...stepsBy(letterTransitions, operations).map((_) => `letter: ${_}`),
        ];
        const missing = steps.filter((_) => !tally.has(_));
        // Two or three of them take luck: once in some hundred cases.
        assert.isAtMost(missing.length, isFull ? 3 : steps.length / 2, missing.join(", "));
      }).pipe(Effect.provide(Queue)),
    long,
  );
});

// --- the model sees what is broken -------------------------------------------

interface Fault {
  /** What somebody got wrong. */
  readonly name: string;
  /** SQL that breaks the schema, or a statement written otherwise. */
  readonly schema?: string;
  readonly statement?: (text: string) => string;
  /** Shows only in few cases, most of all where some are at it at once. */
  readonly isRare?: boolean;
}

const faults: ReadonlyArray<Fault> = [
  {
    name: "a settlement ignores the fence",
    statement: (text) =>
      text.replace(/AND fence = (\$\d+)::bigint AND status/, "AND $1::bigint IS NOT NULL AND status"),
    isRare: true,
  },
  {
    name: "a replay takes letters that were replayed",
    statement: (text) => (text.includes("remade AS (") ? text.replaceAll("d.replayed_at IS NULL", "true") : text),
  },
  {
    name: "a tenant sees all dead letters",
    schema: "ALTER POLICY job_dlq_tenant ON job_dlq USING (true)",
  },
  {
    name: "a lost run leaves no letter",
    schema: `
      CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER lose BEFORE INSERT ON job_dlq FOR EACH ROW WHEN (NEW.error_reason = 'RunnerUnavailable') EXECUTE FUNCTION lose()`,
  },
  {
    name: "a claim keeps the fence of the one before",
    schema: `
      CREATE FUNCTION keep_fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.fence := OLD.fence; RETURN NEW; END';
      CREATE TRIGGER keep_fence BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.status = 'processing') EXECUTE FUNCTION keep_fence()`,
  },
  {
    name: "two claims take one job",
    statement: (text) =>
      text.includes("due AS MATERIALIZED")
        ? text.replace("FOR UPDATE SKIP LOCKED", "").replace("AND j.status = 'pending'", "")
        : text,
    isRare: true,
  },
];

describe("the model", () => {
  for (const { isRare = false, name, schema = "", statement = (_: string) => _ } of faults) {
    it.effect.skipIf(isRare && !isFull)(
      `finds that ${name}`,
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          if (schema !== "") yield* sql.unsafe(schema);
          const runtime = yield* Effect.runtime<Services>();
          let changed = 0;
          const run = <A, E>(effect: Effect.Effect<A, E, Services>) =>
            Runtime.runPromise(runtime)(
              Statement.withTransformer(effect, (sent) => {
                const [text, parameters] = sent.compile();
                const other = statement(text);
                if (other === text) return Effect.succeed(sent);
                changed++;
                return Effect.succeed(sql.unsafe(other, parameters as never));
              }),
            );
          const found = yield* Effect.promise(() =>
            fc.check(
              fc.asyncProperty(cases(length), (commands) => runCase(run, newTenant, new Map(), commands)),
              { seed, numRuns: isRare ? 500 : 100, endOnFailure: true },
            ),
          );
          assert.isTrue(found.failed, `not in ${found.numRuns} cases`);
          assert.isTrue(schema !== "" || changed > 0, "no statement was broken");
          const told = found.errorInstance instanceof Error ? found.errorInstance.message : String(found.error);
          console.log(`${name}: found in case ${found.numRuns}, ${found.numShrinks} times shrunk\n${told}`);
          assert.match(told, /What was done:\n +1\. /);
        }).pipe(Effect.provide(Queue)),
      long,
    );
  }
});
