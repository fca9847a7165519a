/** Dead letters by the thousand, what became of them, and a process that works through them and can be killed. */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Queue from "effect/Queue";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { balance, eachOnce } from "./balance.js";
import type { Task } from "./bulk-process.js";
import { typescript } from "./command.js";
import { newTenant } from "./database.js";

/** Dead jobs, each with its pending dead letter, shared out among tenants. */
export interface Backlog {
  readonly appIds: ReadonlyArray<string>;
  /** How many of them each tenant has. */
  readonly shares: ReadonlyArray<number>;
  /** Their types begin with it, and no others. */
  readonly prefix: string;
  readonly count: number;
  /** The highest fence of their jobs: whatever comes back has a higher one. */
  readonly fence: bigint;
}

const decodeFence = S.decodeUnknown(S.Tuple(S.Struct({ fence: S.BigInt })));

/** A new backlog; the letters are `days` old. */
export const newBacklog = (count: number, tenants = 1, days = 0) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const appIds = yield* Effect.replicateEffect(newTenant, tenants);
    const prefix = `crash.${randomUUID()}.`;
    yield* sql`
      WITH dead AS (
        INSERT INTO jobs (id, app_id, type, payload, status, attempts, completed_at)
        SELECT uuidv7(), (${appIds}::uuid[])[1 + i % ${tenants}::int], ${prefix} || i % 3, jsonb_build_object('n', i), 'dead', 5, now()
        FROM generate_series(1, ${count}::int) i
        RETURNING *)
      INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
      SELECT id, app_id, type, payload, 'MaxRetries', attempts, '[{"error":"Error: no route","timestamp":1790000000000}]',
        now() - ${days}::int * interval '1 day' - random() * interval '1 hour'
      FROM dead`;
    const rows = yield* sql`SELECT max(fence)::text AS fence FROM jobs WHERE app_id = ANY (${appIds}::uuid[])`;
    const [{ fence }] = yield* Effect.orDie(decodeFence(rows));
    const shares = appIds.map(
      (_, place) => Array.from({ length: count }, (__, i) => (i + 1) % tenants).filter((at) => at === place).length,
    );
    const backlog: Backlog = { appIds, shares, prefix, count, fence };
    return backlog;
  });

const Counts = S.Struct({
  pending: S.Int,
  replayed: S.Int,
  /** Jobs that came back. */
  revived: S.Int,
  /** Those of them that came back once, and to a fence of their own. */
  revivedOnce: S.Int,
  fences: S.Int,
  replays: S.Int,
  discarded: S.Int,
  expired: S.Int,
  purged: S.Int,
  jobs: S.Int,
});
const decodeCounts = S.decodeUnknown(S.Tuple(Counts));

/**
 * How far a backlog has come. Holds what must be true at any moment: both equations for each tenant, each letter replayed once
 * at most, and a job is alive exactly when its letter is replayed.
 */
export const survey = ({ appIds, count, fence, prefix, shares }: Backlog) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* sql`
      WITH letters AS (SELECT * FROM job_dlq WHERE app_id = ANY (${appIds}::uuid[])),
      work AS (SELECT * FROM jobs WHERE app_id = ANY (${appIds}::uuid[]) AND type LIKE ${`${prefix}%`}),
      back AS (SELECT * FROM work WHERE status = 'pending'),
      events AS (SELECT * FROM job_dlq_events WHERE app_id = ANY (${appIds}::uuid[]))
      SELECT
        (SELECT count(*) FROM letters WHERE replayed_at IS NULL)::int AS pending,
        (SELECT count(*) FROM letters WHERE replayed_at IS NOT NULL)::int AS replayed,
        (SELECT count(*) FROM back)::int AS revived,
        (SELECT count(*) FROM back WHERE replays = 1 AND attempts = 0 AND fence > ${String(fence)}::bigint)::int AS revived_once,
        (SELECT count(DISTINCT fence) FROM back)::int AS fences,
        (SELECT count(*) FROM events WHERE kind = 'replayed')::int AS replays,
        (SELECT count(*) FROM events WHERE kind = 'discarded')::int AS discarded,
        (SELECT count(*) FROM events WHERE kind = 'expired')::int AS expired,
        (SELECT COALESCE(sum((detail ->> 'count')::int), 0) FROM events WHERE kind = 'purged')::int AS purged,
        (SELECT count(*) FROM work)::int AS jobs`;
    const [counts] = yield* Effect.orDie(decodeCounts(rows));
    for (const [place, appId] of appIds.entries()) {
      const share = shares[place] ?? 0;
      yield* eachOnce(appId);
      yield* balance({ appId, inserted: share, submitted: share, purgedJobs: 0 });
    }
    assert.strictEqual(counts.jobs, count, "no job is lost");
    assert.strictEqual(
      counts.revivedOnce,
      counts.revived,
      "each job came back once, with a full budget and a new fence",
    );
    assert.strictEqual(counts.fences, counts.revived, "no two jobs have the same fence");
    assert.strictEqual(counts.replays, counts.revived, "each job that came back has its line in the ledger");
    return counts;
  });

const program = fileURLToPath(new URL("./bulk-process.ts", import.meta.url));

const Line = S.parseJson(S.Struct({ asked: S.optional(S.Int), done: S.optional(S.Literal(true)) }));
export type Line = typeof Line.Type;

/** Starts {@link Task} in a process of its own. It is killed with the scope if it still runs. */
export const startProcess = (url: Redacted.Redacted, task: Task) =>
  Effect.gen(function* () {
    const lines = yield* Queue.unbounded<Line>();
    const ended = yield* Deferred.make<string>();
    const errors: Array<string> = [];
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const started = spawn(process.execPath, [...typescript, program, JSON.stringify(task)], {
          env: { ...process.env, DATABASE_URL: Redacted.value(url), NODE_OPTIONS: "" },
          stdio: ["ignore", "pipe", "pipe"],
        });
        let text = "";
        started.stdout.setEncoding("utf8").on("data", (chunk: string) => {
          const parts = `${text}${chunk}`.split("\n");
          text = parts.pop() ?? "";
          for (const part of parts) lines.unsafeOffer(S.decodeUnknownSync(Line)(part));
        });
        started.stderr.setEncoding("utf8").on("data", (chunk: string) => errors.push(chunk));
        started.once("close", (code, signal) =>
          Deferred.unsafeDone(
            ended,
            Effect.succeed(`${signal ?? code}${errors.length > 0 ? `: ${errors.join("")}` : ""}`),
          ),
        );
        return started;
      }),
      (started) =>
        Effect.suspend(() => {
          started.kill("SIGKILL");
          return Deferred.await(ended);
        }),
    );
    return {
      /** The next line; dies when the process ends without one. */
      line: Effect.raceFirst(
        Queue.take(lines),
        Effect.flatMap(Deferred.await(ended), (how) =>
          Effect.flatMap(Queue.poll(lines), (last) =>
            last._tag === "Some" ? Effect.succeed(last.value) : Effect.dieMessage(`the process ended with ${how}`),
          ),
        ),
      ),
      /** Lines that came and were not taken. */
      rest: Effect.map(Queue.takeAll(lines), (all) => [...all]),
      /** `kill -9`, when it has ended and the server has noticed. */
      kill: Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        child.kill("SIGKILL");
        assert.match(yield* Deferred.await(ended), /^SIGKILL/);
        yield* Effect.repeat(
          sql`SELECT count(*)::int AS count FROM pg_stat_activity WHERE application_name = 'bulk-process' AND datname = current_database()`,
          { until: ([row]) => row?.count === 0 },
        );
      }),
      /** `kill -9`, when it has ended. The server may still be at work for it. */
      killNow: Effect.gen(function* () {
        child.kill("SIGKILL");
        assert.match(yield* Deferred.await(ended), /^SIGKILL/);
      }),
      /** How it ended, its exit code as text. */
      ended: Deferred.await(ended),
    };
  });
