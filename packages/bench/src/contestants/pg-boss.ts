/**
 * pg-boss through its public API, on a schema that it made itself.
 *
 * A queue is the type of a job, and one dead letter queue belongs to two of them. What a work begins with is copied by
 * SQL from a row of each kind that pg-boss itself has written (waiting, active, failed, dead letter), so that every
 * column is as it leaves it; that is not measured.
 *
 * Chosen by trying, three interleaved rounds each on a busy machine with 2 cores. Working off 20,000 jobs: handlers of
 * 500 jobs four at once did 24,200 jobs/s; 1,000 by four 23,100, 2,000 by two 23,000, 200 by four 22,400, 1,000 by two
 * 22,000, 1,000 by one 21,100, 100 by nine 19,700. Redriving 10,000: all in a call 28,800/s, 5,000 in a call 25,200,
 * 1,000 (its default) 17,000. A submitted job starts soonest by LISTEN/NOTIFY, which its documentation has for that.
 *
 * "list 100" is missing: `findJobs` is its only way to list jobs, and it lists the oldest first.
 */
import pg from "pg";
import { type ConstructorOptions, type Job, PgBoss } from "pg-boss";
import {
  type Contestant,
  connections,
  each,
  failureOf,
  type Prepare,
  payloadOf,
  startTimes,
  thousands,
} from "../contestant.js";

const ship = "order.ship";
const other = "order.other";
const letters = "order.dead";
const notified = "order.notified";

/** What each of {@link localConcurrency} handlers gets at once. */
const batchSize = 500;
const localConcurrency = 4;
/** The most that one call redrives. */
const redriveLimit = 100_000;

export const contestant: Contestant = {
  name: "pg-boss",
  version: "pg-boss 12.38.0",
  settings:
    "A pool of 10 connections, retryLimit 0; supervision, scheduling, migration and the registry of instances are off; a worker has batchSize 500, localConcurrency 4, burstWhenBatchFull and a polling interval of 0.5 s; everything else as it comes.",
  differs: {
    "dead-letter one by one":
      "fail() by id: the failed job stays in its queue, and a copy of it goes to the dead letter queue.",
    "dead-letter in batches":
      "fail() takes one error for all the jobs of a call; the failed jobs stay beside the copies.",
    "insert in batches":
      "insert() into the dead letter queue takes a payload, but neither an error nor the queue that it came from: smaller letters, which can be redriven only into a queue that the redrive names.",
    "replay by filter":
      "redrive() by source queue, all in one call and one statement (limit 100,000, where 1,000 is the default): each letter is deleted, and a new job with a new id takes its place.",
    "work off":
      "A handler gets 500 jobs at once, four handlers run side by side, and the jobs of a handler are completed, or fail, together.",
    "submit to start":
      "With LISTEN/NOTIFY, an option of the instance and of the queue; without it a job waits for the next poll: 2 s between two by default, 0.5 s at the least.",
  },
  open: async ({ databaseUrl }) => {
    const quiet: ConstructorOptions = {
      connectionString: databaseUrl,
      max: connections,
      supervise: false,
      schedule: false,
      registerInstance: false,
    };
    const complain = (error: unknown) => console.error(error);
    const make = async (options: ConstructorOptions) => {
      const boss = new PgBoss(options);
      boss.on("error", complain);
      return await boss.start();
    };

    const maker = await make(quiet);
    await maker.createQueue(letters, { retryLimit: 0 });
    for (const queue of [ship, other]) await maker.createQueue(queue, { retryLimit: 0, deadLetter: letters });
    await maker.createQueue(notified, { retryLimit: 0, deadLetter: letters, notify: true });
    await maker.stop();

    // Its rows are copies of rows that have passed the foreign keys already.
    const client = new pg.Client({ connectionString: databaseUrl, options: "-c session_replication_role=replica" });
    await client.connect();
    const boss = await make({ ...quiet, migrate: false });

    const rowOf = async (queue: string): Promise<string> => {
      const { rows } = await client.query<{ row: string }>(
        "SELECT to_jsonb(j)::text AS row FROM pgboss.job j WHERE name = $1",
        [queue],
      );
      if (rows.length !== 1 || rows[0] === undefined) throw new Error(`${rows.length} jobs in ${queue}`);
      return rows[0].row;
    };
    await boss.insert(ship, [{ data: payloadOf(0) }]);
    const waiting = await rowOf(ship);
    const [held] = await boss.fetch(ship);
    const active = await rowOf(ship);
    await boss.fail(ship, held?.id ?? "", failureOf(0));
    const failed = await rowOf(ship);
    const letter = await rowOf(letters);

    const empty = () => client.query("TRUNCATE pgboss.job, pgboss.job_dependency");
    const settle = () => client.query("VACUUM (ANALYZE) pgboss.job");
    const { rows: columns } = await client.query<{ name: string }>(
      "SELECT attname AS name FROM pg_attribute WHERE attrelid = 'pgboss.job'::regclass AND attnum > 0 AND NOT attisdropped",
    );
    /** Numbers from one, each with an id and a time of its own: a millisecond between two. */
    const numbers = `n AS MATERIALIZED (
      SELECT n, gen_random_uuid() AS id, now() - ($1::int - n) * interval '1 millisecond' AS at
      FROM generate_series(1, $1::int) n)`;
    /** For each number a job like `row`, but for what is its own. */
    const copies = (row: string, own: Readonly<Record<string, string>>) => {
      const all: Readonly<Record<string, string>> = {
        id: "n.id",
        data: "jsonb_build_object('order', n, 'customer', 'cus_' || n % 1000, 'note', repeat('x', 250))",
        created_on: "n.at",
        start_after: "n.at",
        ...own,
      };
      return `INSERT INTO pgboss.job (${columns.map(({ name }) => name).join(", ")})
        SELECT ${columns.map(({ name }) => all[name] ?? `t.${name}`).join(", ")}
        FROM n, jsonb_populate_record(NULL::pgboss.job, ${row}::jsonb) t`;
    };
    const jobs = async (row: string, size: number): Promise<ReadonlyArray<string>> => {
      await empty();
      const { rows } = await client.query<{ id: string }>(`WITH ${numbers} ${copies("$2", {})} RETURNING id`, [
        size,
        row,
      ]);
      await settle();
      return rows.map(({ id }) => id);
    };
    const deadJobs = (size: number, queue: string) =>
      client.query(
        `WITH ${numbers}, failed AS (${copies("$2", { name: "$4::text" })})
        ${copies("$3", { id: "gen_random_uuid()", source_name: "$4::text", source_id: "n.id", source_root_id: "n.id" })}`,
        [size, failed, letter, queue],
      );

    const expect = async (what: string, wanted: number, where: string) => {
      const { rows } = await client.query<{ count: number }>(
        `SELECT count(*)::int AS count FROM pgboss.job WHERE ${where}`,
      );
      const found = rows[0]?.count ?? 0;
      if (found !== wanted) throw new Error(`${what}: ${found} instead of ${wanted}`);
    };
    const waits = (queue: string) => `name = '${queue}' AND state = 'created'`;

    const oneByOne: Prepare = async (size) => {
      const ids = await jobs(active, size);
      let n = 0;
      return {
        run: async () => {
          await each(ids, connections, (id) => boss.fail(ship, id, failureOf(n++)));
          return undefined;
        },
        check: async () => {
          await expect("dead letters", size, `${waits(letters)} AND source_output ? 'stack'`);
          await expect("failed jobs", size, `name = '${ship}' AND state = 'failed'`);
        },
      };
    };

    const inBatches: Prepare = async (size) => {
      const batches = thousands(await jobs(active, size));
      return {
        run: async () => {
          let n = 0;
          for (const batch of batches) await boss.fail(ship, [...batch], failureOf(n++));
          return undefined;
        },
        check: async () => {
          await expect("dead letters", size, `${waits(letters)} AND source_output ? 'stack'`);
          await expect("failed jobs", size, `name = '${ship}' AND state = 'failed'`);
        },
      };
    };

    const insertInBatches: Prepare = async (size) => {
      await empty();
      const batches = thousands(Array.from({ length: size }, (_, n) => n));
      return {
        run: async () => {
          for (const batch of batches)
            await boss.insert(
              letters,
              batch.map((n) => ({ data: payloadOf(n) })),
            );
          return undefined;
        },
        check: () => expect("dead letters", size, waits(letters)),
      };
    };

    const replay: Prepare = async (size) => {
      await empty();
      await deadJobs(size, ship);
      await deadJobs(size, other);
      await settle();
      return {
        run: async () => {
          while ((await boss.redrive(letters, { sourceName: ship, limit: redriveLimit })) === redriveLimit);
          return undefined;
        },
        check: async () => {
          await expect("waiting jobs", size, waits(ship));
          await expect("dead letters", size, `${waits(letters)} AND source_name = '${other}'`);
          await expect("all dead letters", size, waits(letters));
        },
      };
    };

    const workOff: Prepare = async (size) => {
      await jobs(waiting, size);
      return {
        run: async () => {
          await new Promise<void>((resolve, reject) => {
            let left = size;
            const handle = async (batch: ReadonlyArray<Job>) => {
              left -= batch.length;
              if (left === 0) resolve();
            };
            boss
              .work(
                ship,
                { batchSize, localConcurrency, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 },
                handle,
              )
              .catch(reject);
          });
          // Returns when the workers have settled what they had.
          await boss.offWork(ship, { wait: true });
          return undefined;
        },
        check: () => expect("completed jobs", size, `name = '${ship}' AND state = 'completed'`),
      };
    };

    const submitToStart: Prepare = async (size) => {
      await empty();
      const listening = await make({ ...quiet, migrate: false, useListenNotify: true, max: connections - 1 });
      return {
        run: async () => {
          let started = (_: number): void => undefined;
          await listening.work(notified, { pollingIntervalSeconds: 0.5 }, async () => started(performance.now()));
          const values = await startTimes(
            size,
            (n) => listening.send(notified, payloadOf(n)),
            (tell) => {
              started = tell;
            },
          );
          await listening.offWork(notified, { wait: true });
          return values;
        },
        check: async () => {
          await listening.stop();
          await expect("completed jobs", size, `name = '${notified}' AND state = 'completed'`);
        },
      };
    };

    return {
      works: {
        "dead-letter one by one": oneByOne,
        "dead-letter in batches": inBatches,
        "insert in batches": insertInBatches,
        "replay by filter": replay,
        "work off": workOff,
        "submit to start": submitToStart,
      },
      close: async () => {
        await boss.stop();
        await client.end();
      },
    };
  },
};
