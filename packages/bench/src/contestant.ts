/**
 * What is measured, and what a contestant must be able to do to take part.
 *
 * A contestant runs in a process of its own, on a database of its own of the common server. For each round it prepares what the
 * work needs, and then only `run` is measured. It works with at most {@link connections} connections, on payloads of 300 bytes.
 */

/** What may run at a time, and so how many connections a contestant has. */
export const connections = 10;

/** The works that every contestant may take part in; the size of each is in dead letters, jobs, pages or submissions. */
export type Work =
  /** Jobs that a runner holds, on their last attempt, become dead letters: one call for each, ten calls at once. Size: jobs. */
  | "dead-letter one by one"
  /** The same jobs, a thousand in a call; calls one after the other. Size: jobs. */
  | "dead-letter in batches"
  /** Dead letters without a job, written straight into the queue, a thousand in a call; calls one after the other. Size: letters. */
  | "insert in batches"
  /** All dead letters of one type, beside as many of another, become waiting jobs again. Size: dead letters of that type. */
  | "replay by filter"
  /** The hundred newest dead letters of ten times as many, decoded; one call after the other. Size: calls. */
  | "list 100"
  /** Jobs that all wait already, and do nothing, are worked off by one process. Size: jobs. */
  | "work off"
  /** A job is submitted to an idle worker of the same process, the next one when it has begun and 20 ms have passed. Size: jobs. */
  | "submit to start";

/** Where a contestant works. */
export interface Place {
  /** An empty database of its own, as a superuser. */
  readonly databaseUrl: string;
  /** A Redis that nobody else uses, if there is one. */
  readonly redisUrl: string | undefined;
}

/** A round that is prepared: nothing of it has been measured yet. */
export interface Round {
  /** What is measured. For "submit to start" the milliseconds of each job. */
  readonly run: () => Promise<ReadonlyArray<number> | undefined>;
  /** Throws unless the work was done: counts what there should be. Not measured. */
  readonly check: () => Promise<void>;
}

/** Makes the queue as empty as on the first day, and fills it with what the work needs. */
export type Prepare = (size: number) => Promise<Round>;

export interface Contestant {
  readonly name: string;
  /** The package and its version. */
  readonly version: string;
  /** What was set, and what else is as documented. One sentence. */
  readonly settings: string;
  /** Where its meaning differs from what the work says. One sentence each; shown beside the figure. */
  readonly differs: { readonly [K in Work]?: string };
  /** Connects and makes the schema. */
  readonly open: (place: Place) => Promise<Opened>;
}

export interface Opened {
  /** A work that is missing here is one that the contestant has no way to do. */
  readonly works: { readonly [K in Work]?: Prepare };
  readonly close: () => Promise<void>;
}

/** Runs `task` for each item, at most `atOnce` at a time. */
export const each = async <A>(items: ReadonlyArray<A>, atOnce: number, task: (item: A) => Promise<unknown>) => {
  let next = 0;
  const lane = async () => {
    for (let i = next++; i < items.length; i = next++) await task(items[i] as A);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
};

/** A payload of 300 bytes as JSON. */
export const payloadOf = (n: number) => ({ order: n, customer: `cus_${n % 1000}`, note: "x".repeat(250) });

/** What went wrong, as a runner would say it: a first line and a stack of a kilobyte. */
export const errorOf = (n: number) =>
  `Error: connect ECONNREFUSED 10.0.0.${n % 255}:5432${"\n    at Socket.<anonymous> (file.js:10:20)".repeat(24)}`;

/** The same as a runner has it: pg-boss stores its name, message and stack, BullMQ message and stack. */
export const failureOf = (n: number): Error => {
  const stack = errorOf(n);
  const failure = new Error(stack.slice("Error: ".length, stack.indexOf("\n")));
  failure.stack = stack;
  return failure;
};

/** Slices of a thousand. */
export const thousands = <A>(items: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> =>
  Array.from({ length: Math.ceil(items.length / 1000) }, (_, i) => items.slice(i * 1000, (i + 1) * 1000));

/**
 * "submit to start", for a worker that is there: `submit` a job, wait until the function that `onStart` was given is called with the
 * moment at which it began, and 20 ms more. Milliseconds of each.
 */
export const startTimes = async (
  size: number,
  submit: (n: number) => Promise<unknown>,
  onStart: (started: (at: number) => void) => void,
): Promise<ReadonlyArray<number>> => {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const values: Array<number> = [];
  for (let n = 0; n < size; n++) {
    const start = new Promise<number>(onStart);
    const began = performance.now();
    await submit(n);
    values.push((await start) - began);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return values;
};
