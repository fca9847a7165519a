/**
 * What must be so at every moment, in one snapshot: both equations, no transactional effect twice or without its `completed`, each
 * death with its letter, no row in another tenant's sight, and each submission that was answered is there.
 *
 * The equations are those of the tests (`balance`); what came in and what was purged is told by the witnesses.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Cause from "effect/Cause";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { balance, eachOnce, type Given, type Terms } from "../../../database/test/support/balance.js";
import { transactional } from "./kinds.js";

/** What must not be. */
export class Violation extends Data.TaggedError("Violation")<{ readonly message: string }> {}

/** What the submitter was told, since it was last looked at. */
export interface Answered {
  readonly jobIds: ReadonlyArray<string>;
}

export interface Round {
  readonly given: Given;
  readonly terms: Terms;
  /** Effects of transactional jobs, looks into tenants, replays, and deaths. */
  readonly effects: number;
  readonly looks: number;
  readonly replays: number;
  readonly unfinished: number;
}

const decodeSeen = S.decodeUnknown(
  S.Tuple(
    S.Struct({
      inserted: S.Int,
      submitted: S.Int,
      purgedJobs: S.Int,
      effects: S.Int,
      looks: S.Int,
      replays: S.Int,
      unfinished: S.Int,
    }),
  ),
);
const decodeBroken = S.decodeUnknown(S.Array(S.Struct({ rule: S.String, id: S.String })));

/** The checker's address: each of its transactions sees one snapshot. */
export const inOneSnapshot = (server: Redacted.Redacted): Redacted.Redacted => {
  const url = new URL(Redacted.value(server));
  url.searchParams.set("options", "-c default_transaction_isolation=repeatable\\ read -c jit=off -c work_mem=64MB");
  return Redacted.make(url.href);
};

const atMost = 20;

/** One look at everything; fails with the first rule that does not hold, and the ids. */
export const check = (answered: Answered = { jobIds: [] }) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const [seen] = yield* Effect.flatMap(
      sql`
        SELECT (SELECT count(*) FROM witness_letters)::int AS inserted,
          (SELECT count(*) FROM witness_jobs)::int AS submitted,
          (SELECT count(*) FROM witness_jobs WHERE gone IS NOT NULL)::int AS purged_jobs,
          (SELECT count(*) FROM effects)::int AS effects,
          (SELECT count(*) FROM looks)::int + (SELECT count(foreign_rows) FROM effects)::int AS looks,
          (SELECT COALESCE(sum(replays), 0) FROM witness_letters)::int AS replays,
          (SELECT count(*) FROM jobs WHERE status IN ('pending', 'processing'))::int AS unfinished`,
      decodeSeen,
    );
    const broken = yield* Effect.flatMap(
      sql`
        WITH marks AS (SELECT job_id, count(*) AS marks FROM effects GROUP BY job_id),
        letters AS (SELECT job_id, count(*) AS deaths, sum(replays) AS replays FROM witness_letters GROUP BY job_id),
        work AS (
          SELECT w.job_id, w.app_id, w.type, COALESCE(w.gone, j.status, 'lost') AS status, j.status AS there, w.gone,
            COALESCE(m.marks, 0) AS marks, COALESCE(l.deaths, 0) AS deaths, COALESCE(l.replays, 0) AS replays
          FROM witness_jobs w LEFT JOIN jobs j ON j.id = w.job_id LEFT JOIN marks m ON m.job_id = w.job_id
            LEFT JOIN letters l ON l.job_id = w.job_id)
        SELECT * FROM (
          SELECT 'a job vanished' AS rule, job_id AS id FROM work WHERE status = 'lost'
          UNION ALL
          SELECT 'a job is there and purged', job_id FROM work WHERE there IS NOT NULL AND gone IS NOT NULL
          UNION ALL
          SELECT 'a job was purged before it had ended', job_id FROM work WHERE gone IN ('pending', 'processing')
          UNION ALL
          SELECT 'a transactional effect is there twice', job_id FROM work WHERE type IN ${sql.in(transactional)} AND marks > 1
          UNION ALL
          SELECT 'a transactional effect without its job completed, or the other way round', job_id FROM work
          WHERE type IN ${sql.in(transactional)} AND (marks > 0) <> (status = 'completed')
          UNION ALL
          SELECT 'a completed job left no effect', job_id FROM work WHERE status = 'completed' AND marks = 0
          UNION ALL
          SELECT 'a job has not died once more than it was replayed', job_id FROM work WHERE status = 'dead' AND deaths <> replays + 1
          UNION ALL
          SELECT 'a job that is not dead has a letter that was not replayed', job_id FROM work WHERE status <> 'dead' AND deaths <> replays
          UNION ALL
          SELECT 'a letter was replayed twice', dlq_id FROM witness_letters WHERE replays > 1
          UNION ALL
          SELECT 'a letter of no known job', dlq_id FROM witness_letters WHERE job_id NOT IN (SELECT job_id FROM witness_jobs)
          UNION ALL
          SELECT 'a letter in another tenant than its job', l.dlq_id FROM witness_letters l JOIN witness_jobs w USING (job_id)
          WHERE l.app_id <> w.app_id
          UNION ALL
          SELECT 'a letter moved to another tenant', d.id FROM job_dlq d JOIN witness_letters l ON l.dlq_id = d.id
          WHERE d.app_id <> l.app_id OR d.original_job_id <> l.job_id
          UNION ALL
          SELECT 'a line of the ledger in another tenant than its letter', e.dlq_id FROM job_dlq_events e JOIN witness_letters l USING (dlq_id)
          WHERE e.app_id <> l.app_id
          UNION ALL
          SELECT 'an effect in another tenant than its job', e.job_id FROM effects e JOIN witness_jobs w USING (job_id) WHERE e.app_id <> w.app_id
          UNION ALL
          SELECT 'a handler saw a foreign row', job_id FROM effects WHERE foreign_rows > 0
          UNION ALL
          SELECT 'an operator saw a foreign row', app_id FROM looks WHERE foreign_rows > 0
          UNION ALL
          SELECT 'a submission was answered and is not there', id FROM unnest(${answered.jobIds}::uuid[]) AS t (id)
          WHERE id NOT IN (SELECT job_id FROM witness_jobs)) found
        LIMIT ${atMost}`,
      decodeBroken,
    );
    if (broken.length > 0) {
      return yield* new Violation({ message: broken.map(({ id, rule }) => `${rule}: ${id}`).join("\n") });
    }
    const given = { inserted: seen.inserted, submitted: seen.submitted, purgedJobs: seen.purgedJobs };
    const { terms } = yield* held(
      Effect.gen(function* () {
        const terms = yield* balance(given);
        yield* eachOnce(undefined);
        return { terms };
      }),
    );
    const round: Round = { given, terms, ...seen };
    return round;
  }).pipe(Client.system);

/** What the equations assert dies; here it is what was looked for. */
const held = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | Violation, R> =>
  Effect.flatMap(Effect.exit(effect), (exit): Effect.Effect<A, E | Violation> => {
    if (Exit.isSuccess(exit)) return Effect.succeed(exit.value);
    const [defect] = Cause.defects(exit.cause);
    return defect instanceof Error && defect.name === "AssertionError"
      ? Effect.fail(new Violation({ message: defect.message }))
      : Effect.failCause(exit.cause);
  });

const decodeUnaccounted = S.decodeUnknown(S.Array(S.Struct({ batch: S.Int, jobs: S.Int })));

/** What the submitter knows of all that it ever sent. */
export interface Sent {
  /** Jobs that were answered, by their submission. */
  readonly answered: ReadonlyMap<number, number>;
  /** Submissions whose answer was lost, and how many jobs each has: they are there whole, or not at all. */
  readonly unknown: ReadonlyMap<number, number>;
}

/** At the end: exactly what was submitted is there. Returns how many of the lost answers were of submissions that arrived. */
export const account = ({ answered, unknown }: Sent) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const there = new Map(
      (yield* Effect.flatMap(
        Client.system(sql`SELECT COALESCE(batch, -1) AS batch, count(*)::int AS jobs FROM witness_jobs GROUP BY batch`),
        decodeUnaccounted,
      )).map(({ batch, jobs }) => [batch, jobs]),
    );
    let arrived = 0;
    for (const [batch, jobs] of there) {
      const expected = answered.get(batch) ?? unknown.get(batch);
      if (jobs !== expected) {
        return yield* new Violation({
          message: `submission ${batch}: ${jobs} jobs are there, of ${expected ?? "none"} that were sent`,
        });
      }
      if (unknown.has(batch)) arrived += 1;
    }
    for (const batch of answered.keys()) {
      if (!there.has(batch))
        return yield* new Violation({ message: `submission ${batch} was answered and is not there` });
    }
    return arrived;
  });
