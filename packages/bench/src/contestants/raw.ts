/**
 * The bare driver with the best SQL that we know, on the very tables, indexes and triggers of this project: the limit. A superuser
 * without a scope, named prepared statements, nothing that is decoded, checked or told to anybody.
 */
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { partitions } from "@parametric-portal/jobs/partition";
import { claimStatement, completeStatement, failStatement } from "@parametric-portal/jobs/statements";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import pg from "pg";
import { type Contestant, connections, each, errorOf, type Prepare, payloadOf, thousands } from "../contestant.js";
import * as Fill from "../fill.js";

const deadLetter = `
  WITH dead AS (
    UPDATE jobs
    SET status = 'dead', completed_at = now(), locked_by = NULL, locked_until = NULL,
      error_history = error_history || jsonb_build_object('error', $3::text, 'timestamp', floor(extract(epoch FROM now()) * 1000)::bigint)
    WHERE id = $1 AND fence = $2::bigint AND status = 'processing'
    RETURNING *)
  INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, request_id, user_id)
  SELECT id, app_id, type, payload, 'MaxRetries', attempts, error_history, request_id, user_id FROM dead
  RETURNING id`;

const insert = `
  INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history)
  SELECT original_job_id, $1, 'order.ship', payload::jsonb, 'MaxRetries', 1, error_history::jsonb
  FROM unnest($2::uuid[], $3::text[], $4::text[]) AS t (original_job_id, payload, error_history)`;

// All in one statement. It revives what is dead, of the same app, once, and leaves a line in the ledger for each.
const replay = `
  WITH chosen AS MATERIALIZED (
    SELECT DISTINCT ON (original_job_id) id, app_id, original_job_id, payload
    FROM (SELECT * FROM job_dlq WHERE replayed_at IS NULL AND type = $1 ORDER BY original_job_id, id FOR UPDATE) locked
    ORDER BY original_job_id, dlq_at DESC, id DESC),
  revived AS (
    UPDATE jobs j
    SET status = 'pending', attempts = 0, error_history = '[]', payload = c.payload, scheduled_at = now(), started_at = NULL,
      completed_at = NULL, locked_by = NULL, locked_until = NULL, fence = nextval('job_fence'), replays = j.replays + 1
    FROM chosen c
    WHERE j.id = c.original_job_id AND j.app_id = c.app_id AND j.status = 'dead'
    RETURNING j.id),
  replayed AS (
    UPDATE job_dlq d SET replayed_at = now()
    FROM chosen c JOIN revived r ON r.id = c.original_job_id
    WHERE d.id = c.id AND d.replayed_at IS NULL
    RETURNING d.id, d.app_id, d.original_job_id)
  INSERT INTO job_dlq_events (app_id, dlq_id, original_job_id, kind, actor)
  SELECT app_id, id, original_job_id, 'replayed', 'bench' FROM replayed`;

const list = "SELECT * FROM job_dlq WHERE app_id = $1 AND replayed_at IS NULL ORDER BY dlq_at DESC, id DESC LIMIT 100";

export const contestant: Contestant = {
  name: "raw",
  version: `pg ${"8.23.1"}`,
  settings: "The driver pg, named prepared statements, as a superuser without a scope, on the tables of this project.",
  differs: {
    "replay by filter": "All in one statement: no progress, no receipts, and no way to stop it.",
    "work off": "The statements of the runner in a loop: claims and settlements of 500, side by side; nothing is run.",
  },
  open: async ({ databaseUrl }) => {
    const url = Redacted.make(databaseUrl);
    await Effect.runPromise(Effect.provide(Migrator.run(), Client.layer({ url, maxConnections: 2 })));
    const fill = await Fill.open(databaseUrl);
    const { appId } = fill;
    const pool = new pg.Pool({ connectionString: databaseUrl, max: connections });
    const query = (name: string, text: string, values: Array<unknown>) => pool.query({ name, text, values });

    const oneByOne: Prepare = async (size) => {
      const held = await fill.heldJobs(size);
      return {
        run: async () => {
          await each(held, connections, ({ fence, id }) =>
            query("dead letter", deadLetter, [id, fence, errorOf(Number(fence))]),
          );
          return undefined;
        },
        check: () => fill.expectLetters(size),
      };
    };

    const inBatches: Prepare = async (size) => {
      const held = thousands(await fill.heldJobs(size));
      return {
        run: async () => {
          for (const batch of held) {
            // Without a name: planned for arrays of any length it would compare every job with every failure.
            await pool.query(failStatement, [
              batch.map(({ id }) => id),
              batch.map(({ fence }) => fence),
              batch.map(() => "dead"),
              batch.map(() => "MaxRetries"),
              batch.map(({ fence }) => errorOf(Number(fence))),
              batch.map(() => null),
            ]);
          }
          return undefined;
        },
        check: () => fill.expectLetters(size),
      };
    };

    const insertInBatches: Prepare = async (size) => {
      await fill.empty();
      const batches = thousands(Array.from({ length: size }, (_, n) => n));
      const jobIds = await fill.uuids(size);
      return {
        run: async () => {
          for (const batch of batches) {
            await query("insert", insert, [
              appId,
              batch.map((n) => jobIds[n]),
              batch.map((n) => JSON.stringify(payloadOf(n))),
              batch.map((n) => JSON.stringify([{ error: errorOf(n), timestamp: 1_790_000_000_000 }])),
            ]);
          }
          return undefined;
        },
        check: () => fill.expectLetters(size),
      };
    };

    const replayAll: Prepare = async (size) => {
      await fill.deadJobs(size, "order.ship");
      await fill.deadJobs(size, "order.other", false);
      await fill.settle();
      return {
        run: async () => {
          await query("replay", replay, ["order.ship"]);
          return undefined;
        },
        check: () => fill.expectReplayed(size),
      };
    };

    const list100: Prepare = async (size) => {
      await fill.deadJobs(1000, "order.ship");
      await fill.settle();
      let seen = 0;
      return {
        run: async () => {
          // The driver parses jsonb by JSON.parse.
          for (let i = 0; i < size; i++) seen += (await query("list", list, [appId])).rows.length;
          return undefined;
        },
        check: async () => {
          if (seen !== size * 100) throw new Error(`listed ${seen}`);
        },
      };
    };

    const engine = async () => {
      const client = new pg.Client({ connectionString: databaseUrl });
      await client.connect();
      await client.query("SET ROLE parametric_system; SET jit = off");
      return client;
    };
    const workOff: Prepare = async (size) => {
      await fill.waitingJobs(size, "order.ship");
      return {
        run: async () => {
          const [claims, settlements] = [await engine(), await engine()];
          const turns = partitions.map(() => "00000000-0000-0000-0000-000000000000");
          let settling: Promise<unknown> = Promise.resolve();
          for (let left = size; left > 0; ) {
            const { rows } = await claims.query<Fill.Held>(claimStatement, [
              [...partitions],
              turns,
              2,
              500,
              "raw",
              6000,
              false,
              1,
            ]);
            const claimed = rows.filter(({ id }) => id !== null);
            left -= claimed.length;
            await settling;
            settling = settlements.query(completeStatement, [
              claimed.map(({ id }) => id),
              claimed.map(({ fence }) => fence),
            ]);
          }
          await settling;
          await Promise.all([claims.end(), settlements.end()]);
          return undefined;
        },
        check: () => fill.expectCompleted(size),
      };
    };

    return {
      works: {
        "dead-letter one by one": oneByOne,
        "dead-letter in batches": inBatches,
        "insert in batches": insertInBatches,
        "replay by filter": replayAll,
        "list 100": list100,
        "work off": workOff,
      },
      close: async () => {
        await pool.end();
        await fill.close();
      },
    };
  },
};
