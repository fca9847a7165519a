/** What the works of this project and of the raw driver begin with, on our tables: written by SQL as a superuser, never measured. */
import * as Option from "effect/Option";
import pg from "pg";
import { errorOf, payloadOf } from "./contestant.js";

export interface Held {
  readonly id: string;
  readonly fence: string;
}

const payload = (n: string) =>
  `jsonb_build_object('order', ${n}, 'customer', 'cus_' || ${n} % 1000, 'note', repeat('x', 250))`;
const history = (n: string) => `jsonb_build_array(jsonb_build_object('timestamp', 1790000000000,
  'error', 'Error: connect ECONNREFUSED 10.0.0.' || ${n} % 255 || ':5432' || repeat(E'\\n    at Socket.<anonymous> (file.js:10:20)', 24)))`;

/** A new dead letter as `jobDlq.insertMany` takes it. */
export const entryOf = (appId: string, originalJobId: string, n: number, type = "order.ship") => ({
  originalJobId,
  appId,
  type,
  payload: payloadOf(n),
  errorReason: "MaxRetries",
  attempts: 1,
  errorHistory: [{ error: errorOf(n), timestamp: 1_790_000_000_000 }],
  replayedAt: Option.none(),
  requestId: Option.none(),
  userId: Option.none(),
});

/** The schema is there already. Makes the one app that everything belongs to. */
export const open = async (databaseUrl: string) => {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const { rows } = await client.query<{ id: string }>("INSERT INTO apps (name) VALUES ('bench') RETURNING id");
  const appId = rows[0]?.id ?? "";

  const count = async (sql: string): Promise<number> => {
    const answer = await client.query<{ count: number }>(`SELECT count(*)::int AS count ${sql}`);
    return answer.rows[0]?.count ?? 0;
  };
  const expect = async (what: string, wanted: number, sql: string) => {
    const found = await count(sql);
    if (found !== wanted) throw new Error(`${what}: ${found} instead of ${wanted}`);
  };

  const empty = async () => {
    // The ledger's trigger lets nobody empty it.
    await client.query(
      "SET session_replication_role = replica; TRUNCATE jobs, job_dlq, job_dlq_events; RESET session_replication_role",
    );
  };
  const settle = async () => {
    await client.query("VACUUM (ANALYZE) jobs, job_dlq, job_dlq_events");
  };

  return {
    appId,
    client,
    empty,
    settle,
    uuids: async (size: number) =>
      (await client.query<{ id: string }>("SELECT uuidv7() AS id FROM generate_series(1, $1::int)", [size])).rows.map(
        ({ id }) => id,
      ),
    /** Jobs that a runner holds, on their only attempt. */
    heldJobs: async (size: number): Promise<ReadonlyArray<Held>> => {
      await empty();
      const held = await client.query<Held>(
        `INSERT INTO jobs (app_id, type, payload, status, attempts, max_attempts, started_at, locked_by, locked_until)
        SELECT $1, 'order.ship', ${payload("n")}, 'processing', 1, 1, now(), 'bench', now() + interval '1 hour'
        FROM generate_series(1, $2::int) n RETURNING id, fence::text`,
        [appId, size],
      );
      await settle();
      return held.rows;
    },
    /** Dead jobs, each with its pending dead letter. */
    deadJobs: async (size: number, type: string, first = true) => {
      if (first) await empty();
      await client.query(
        `WITH dead AS (
          INSERT INTO jobs (app_id, type, payload, status, attempts, max_attempts, started_at, completed_at, error_history)
          SELECT $1, $3, ${payload("n")}, 'dead', 5, 5, now(), now(), ${history("n")} FROM generate_series(1, $2::int) n
          RETURNING *)
        INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
        SELECT id, app_id, type, payload, 'MaxRetries', attempts, error_history, now() - row_number() OVER () * interval '1 millisecond'
        FROM dead`,
        [appId, size, type],
      );
    },
    /** Jobs that are due. */
    waitingJobs: async (size: number, type: string) => {
      await empty();
      await client.query(
        `INSERT INTO jobs (app_id, type, payload) SELECT $1, $3, ${payload("n")} FROM generate_series(1, $2::int) n`,
        [appId, size, type],
      );
      await settle();
    },
    expectLetters: async (size: number) => {
      await expect("pending dead letters", size, "FROM job_dlq WHERE replayed_at IS NULL");
    },
    expectReplayed: async (size: number) => {
      await expect("replayed dead letters", size, "FROM job_dlq WHERE replayed_at IS NOT NULL");
      await expect("waiting jobs", size, "FROM jobs WHERE status = 'pending'");
      await expect("pending dead letters", size, "FROM job_dlq WHERE replayed_at IS NULL");
    },
    expectCompleted: (size: number) => expect("completed jobs", size, "FROM jobs WHERE status = 'completed'"),
    close: () => client.end(),
  };
};
