/**
 * BullMQ through its public API, on a Redis of its own.
 *
 * A queue is the type of a job, and its dead letter is the failed job itself, in the failed set of its queue. Jobs that
 * a work begins with are added in bulk, fetched by `getNextJob` and failed by `moveToFailed`; that is not measured.
 *
 * A concurrency of 100 is not tuned: of two rounds with 20,000 jobs, in one a worker with 50 did 25,800 jobs/s, with
 * 100 26,400, with 250 19,800, and in the other, on a machine that was busy, all of them 6,000 to 8,900. `retryJobs` is
 * as it comes.
 *
 * "dead-letter in batches" and "insert in batches" are missing: jobs are failed one at a time, and none can be added
 * that has failed already.
 */
import { type Job, Queue, Worker } from "bullmq";
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

type Payload = ReturnType<typeof payloadOf>;

const ship = "order.ship";
const other = "order.other";
const token = "bench";

const concurrency = 100;

export const contestant: Contestant = {
  name: "BullMQ",
  version: "bullmq 6.7.0",
  settings:
    "ioredis, one connection for the queue and two for a worker; attempts 1; the worker that works off has a concurrency of 100; everything else as it comes, and what survives a crash is up to the Redis.",
  differs: {
    "dead-letter one by one": "moveToFailed(), ten at once on one connection; the failed job is the dead letter.",
    "replay by filter":
      "retryJobs() has no filter by name: it retries all the failed jobs of a queue, and those of the other type are in a queue of their own; a thousand in each call of its script, under their ids.",
    "list 100": "getFailed() asks Redis for the hundred, and then for each of them again.",
    "work off": "Its completed jobs are kept.",
  },
  open: async ({ redisUrl }) => {
    if (redisUrl === undefined) throw new Error("BullMQ needs a Redis");
    const connection = { url: redisUrl, maxRetriesPerRequest: null };
    const complain = (error: Error) => console.error(error);
    const queueOf = async (name: string) => {
      const queue = new Queue<Payload, void>(name, { connection });
      queue.on("error", complain);
      await queue.waitUntilReady();
      return queue;
    };
    // Fetches by hand: it never runs, so it neither renews locks nor looks for stalled jobs.
    const handOf = async (name: string) => {
      const hand = new Worker<Payload, void>(name, null, { connection, autorun: false, lockDuration: 3_600_000 });
      hand.on("error", complain);
      await hand.waitUntilReady();
      return hand;
    };
    const queues = { [ship]: await queueOf(ship), [other]: await queueOf(other) };
    const hands = { [ship]: await handOf(ship), [other]: await handOf(other) };
    const shipping = queues[ship];

    const empty = async () => {
      for (const queue of Object.values(queues)) await queue.obliterate({ force: true, count: 10_000 });
    };
    const add = async (queue: Queue<Payload, void>, size: number) => {
      for (const batch of thousands(Array.from({ length: size }, (_, n) => n)))
        await queue.addBulk(batch.map((n) => ({ name: ship, data: payloadOf(n), opts: { attempts: 1 } })));
    };
    const held = async (type: typeof ship | typeof other, size: number) => {
      await add(queues[type], size);
      const jobs: Array<Job<Payload, void>> = [];
      await each(Array.from({ length: size }), 100, async () => {
        const job = await hands[type].getNextJob(token, { block: false });
        if (job !== undefined) jobs.push(job);
      });
      if (jobs.length !== size) throw new Error(`holds ${jobs.length} of ${size} jobs`);
      return jobs;
    };
    const failed = async (type: typeof ship | typeof other, size: number) => {
      let n = 0;
      await each(await held(type, size), 100, (job) => job.moveToFailed(failureOf(n++), token, false));
    };

    const expect = async (what: "failed" | "waiting" | "completed", wanted: number, queue = shipping) => {
      const found = (await queue.getJobCounts(what))[what];
      if (found !== wanted) throw new Error(`${what} jobs: ${found} instead of ${wanted}`);
    };

    const oneByOne: Prepare = async (size) => {
      await empty();
      const jobs = await held(ship, size);
      return {
        run: async () => {
          let n = 0;
          await each(jobs, connections, (job) => job.moveToFailed(failureOf(n++), token, false));
          return undefined;
        },
        check: () => expect("failed", size),
      };
    };

    const replay: Prepare = async (size) => {
      await empty();
      await failed(ship, size);
      await failed(other, size);
      return {
        run: async () => {
          await shipping.retryJobs({ state: "failed" });
          return undefined;
        },
        check: async () => {
          await expect("waiting", size);
          await expect("failed", 0);
          await expect("failed", size, queues[other]);
        },
      };
    };

    const list: Prepare = async (size) => {
      await empty();
      await failed(ship, 1000);
      let seen = 0;
      return {
        run: async () => {
          for (let i = 0; i < size; i++) seen += (await shipping.getFailed(0, 99)).length;
          return undefined;
        },
        check: async () => {
          if (seen !== size * 100) throw new Error(`listed ${seen}`);
        },
      };
    };

    const workOff: Prepare = async (size) => {
      await empty();
      await add(shipping, size);
      let close = async (): Promise<void> => undefined;
      return {
        run: async () => {
          await new Promise<void>((resolve) => {
            let left = size;
            const worker = new Worker<Payload, void>(ship, async () => undefined, { connection, concurrency });
            worker.on("error", complain);
            // Told once Redis has settled the job.
            worker.on("completed", () => {
              if (--left === 0) resolve();
            });
            close = () => worker.close();
          });
          return undefined;
        },
        check: async () => {
          await close();
          await expect("completed", size);
        },
      };
    };

    const submitToStart: Prepare = async (size) => {
      await empty();
      return {
        run: async () => {
          let started = (_: number): void => undefined;
          const worker = new Worker<Payload, void>(ship, async () => started(performance.now()), { connection });
          worker.on("error", complain);
          const values = await startTimes(
            size,
            (n) => shipping.add(ship, payloadOf(n)),
            (tell) => {
              started = tell;
            },
          );
          await worker.close();
          return values;
        },
        check: () => expect("completed", size),
      };
    };

    return {
      works: {
        "dead-letter one by one": oneByOne,
        "replay by filter": replay,
        "list 100": list,
        "work off": workOff,
        "submit to start": submitToStart,
      },
      close: async () => {
        for (const end of [...Object.values(hands), ...Object.values(queues)]) await end.close();
      },
    };
  },
};
