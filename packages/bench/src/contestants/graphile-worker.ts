/**
 * graphile-worker through its public API, on a schema that it made itself.
 *
 * Its dead letter is a permanently failed job: one whose attempts are used up, with its last error, which stays where
 * it is. Jobs that a work begins with are added by its SQL function `add_jobs`, and failed by `permanently_fail_jobs`;
 * that is not measured.
 *
 * Chosen by trying, three interleaved rounds each (two for the last) on a busy machine with 2 cores. Working off 50,000
 * jobs with 10 connections (`concurrentJobs`, `localQueue.size`): 10 and 500 did 36,200 jobs/s, 100 and 2,000 35,100,
 * 24 and 500, which its documentation measures with 25 connections, 33,500, 10 and 2,000 33,300, 100 and 500 30,700; a
 * `completeJobBatchDelay` of 250 instead of 0 did 37,200, no more than the noise. Rescheduling 20,000: all in a call
 * 49,400/s, 5,000 45,000, 1,000 41,000. A submitted job starts soonest with ten concurrent jobs and without a local
 * queue: 2.0 ms; with one 2.3, with the settings of "work off" 2.9.
 *
 * "insert in batches" is missing, since a job cannot be added that has failed already; "list 100" is missing, since no
 * function lists jobs and the documented view has no payload.
 */
import { Logger, makeWorkerUtils, run, runOnce } from "graphile-worker";
import pg from "pg";
import {
  type Contestant,
  connections,
  each,
  errorOf,
  type Prepare,
  payloadOf,
  startTimes,
  thousands,
} from "../contestant.js";

const ship = "order.ship";
const other = "order.other";
const schema = "graphile_worker";

/** Only what is wrong is written. */
const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

export const contestant: Contestant = {
  name: "graphile-worker",
  version: "graphile-worker 0.18.0",
  settings:
    "A pool of 10 connections and 10 concurrent jobs; for working off, a local queue of 500 and completeJobBatchDelay and failJobBatchDelay of 0; only warnings and errors are logged; everything else as it comes.",
  differs: {
    "dead-letter one by one":
      "permanentlyFailJobs() on jobs that wait, since it leaves alone what a worker holds; a failed job stays where it is, marked as failed.",
    "dead-letter in batches":
      "permanentlyFailJobs() on jobs that wait, since it leaves alone what a worker holds; it takes one error for all the jobs of a call.",
    "replay by filter":
      "It has no filter: the ids are selected by SQL from its documented view of jobs, then all given to one rescheduleJobs(), which answers with every job.",
    "work off": "runOnce(), with connecting and disconnecting its pool; completed jobs are deleted.",
  },
  open: async ({ databaseUrl }) => {
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    const preset = (worker: GraphileConfig.WorkerOptions): GraphileConfig.Preset => ({
      worker: { connectionString: databaseUrl, schema, maxPoolSize: connections, logger, ...worker },
    });
    const utils = await makeWorkerUtils({ preset: preset({}) });
    await utils.migrate();

    const empty = () =>
      client.query(`TRUNCATE ${schema}._private_jobs, ${schema}._private_job_queues, ${schema}._private_tasks CASCADE`);
    const settle = () => client.query(`VACUUM (ANALYZE) ${schema}._private_jobs`);
    /** Adds jobs that are due, by the function that its documentation names, ten thousand at a time. */
    const add = async (size: number, task: string): Promise<ReadonlyArray<string>> => {
      const ids: Array<string> = [];
      for (let from = 1; from <= size; from += 10_000) {
        const { rows } = await client.query<{ id: string }>(
          `SELECT id FROM ${schema}.add_jobs(ARRAY(
            SELECT json_populate_record(NULL::${schema}.job_spec, json_build_object('identifier', $3::text, 'payload',
              json_build_object('order', n, 'customer', 'cus_' || n % 1000, 'note', repeat('x', 250))))
            FROM generate_series($1::int, $2::int) n))`,
          [from, Math.min(size, from + 9999), task],
        );
        for (const { id } of rows) ids.push(id);
      }
      return ids;
    };
    const bury = async (ids: ReadonlyArray<string>) => {
      for (const batch of thousands(ids))
        await client.query(`SELECT FROM ${schema}.permanently_fail_jobs($1::bigint[], $2)`, [batch, errorOf(1)]);
    };

    const expect = async (what: string, wanted: number, where: string) => {
      const { rows } = await client.query<{ count: number }>(
        `SELECT count(*)::int AS count FROM ${schema}.jobs WHERE ${where}`,
      );
      const found = rows[0]?.count ?? 0;
      if (found !== wanted) throw new Error(`${what}: ${found} instead of ${wanted}`);
    };
    const dead = "attempts = max_attempts AND last_error LIKE '%ECONNREFUSED%' AND locked_at IS NULL";

    const oneByOne: Prepare = async (size) => {
      await empty();
      const ids = await add(size, ship);
      await settle();
      return {
        run: async () => {
          await each(ids, connections, (id) => utils.permanentlyFailJobs([id], errorOf(Number(id))));
          return undefined;
        },
        check: () => expect("permanently failed jobs", size, dead),
      };
    };

    const inBatches: Prepare = async (size) => {
      await empty();
      const batches = thousands(await add(size, ship));
      await settle();
      return {
        run: async () => {
          let n = 0;
          for (const batch of batches) await utils.permanentlyFailJobs([...batch], errorOf(n++));
          return undefined;
        },
        check: () => expect("permanently failed jobs", size, dead),
      };
    };

    const replay: Prepare = async (size) => {
      await empty();
      await bury(await add(size, ship));
      await bury(await add(size, other));
      await settle();
      return {
        run: async () => {
          const { rows } = await utils.withPgClient((connection) =>
            connection.query<{ id: string }>(
              `SELECT id FROM ${schema}.jobs WHERE task_identifier = $1 AND attempts = max_attempts AND locked_at IS NULL`,
              [ship],
            ),
          );
          // It takes attempts of 0 for none given.
          await utils.rescheduleJobs(
            rows.map(({ id }) => id),
            { runAt: new Date(), attempts: 1 },
          );
          return undefined;
        },
        check: async () => {
          await expect("waiting jobs", size, `task_identifier = '${ship}' AND attempts = 1 AND run_at <= now()`);
          await expect("permanently failed jobs", size, `task_identifier = '${other}' AND ${dead}`);
        },
      };
    };

    const workOff: Prepare = async (size) => {
      await empty();
      await add(size, ship);
      await settle();
      let done = 0;
      return {
        run: async () => {
          await runOnce(
            {
              preset: preset({
                concurrentJobs: connections,
                localQueue: { size: 500 },
                completeJobBatchDelay: 0,
                failJobBatchDelay: 0,
              }),
              noHandleSignals: true,
            },
            {
              [ship]: () => {
                done++;
              },
            },
          );
          return undefined;
        },
        check: async () => {
          if (done !== size) throw new Error(`ran ${done} instead of ${size}`);
          await expect("jobs", 0, "true");
        },
      };
    };

    const submitToStart: Prepare = async (size) => {
      await empty();
      return {
        run: async () => {
          let started = (_: number): void => undefined;
          const runner = await run(
            {
              preset: preset({ concurrentJobs: connections }),
              noHandleSignals: true,
            },
            { [ship]: () => started(performance.now()) },
            [],
          );
          const values = await startTimes(
            size,
            (n) => runner.addJob(ship, payloadOf(n)),
            (tell) => {
              started = tell;
            },
          );
          await runner.stop();
          return values;
        },
        check: () => expect("jobs", 0, "true"),
      };
    };

    return {
      works: {
        "dead-letter one by one": oneByOne,
        "dead-letter in batches": inBatches,
        "replay by filter": replay,
        "work off": workOff,
        "submit to start": submitToStart,
      },
      close: async () => {
        await utils.release();
        await client.end();
      },
    };
  },
};
