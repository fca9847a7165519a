/** The works of the contest: how large each is, and which figures a round of it gives. */
import type { Measured } from "./contest.js";
import type { Work } from "./contestant.js";
import { quantile } from "./figures.js";

export interface Yield {
  readonly work: string;
  readonly unit: string;
  /** Undefined where a contestant has none: one that is not on PostgreSQL writes no WAL. */
  readonly of: (round: Measured) => number | undefined;
}

export interface Job {
  readonly work: Work;
  readonly quick: number;
  readonly full: number;
  readonly yields: ReadonlyArray<Yield>;
}

const rate = (work: string, unit: string): Yield => ({ work, unit, of: ({ seconds, size }) => size / seconds });
const wal = (work: string): Yield => ({
  work,
  unit: "bytes",
  of: ({ server, size }) => (server === undefined ? undefined : server.walBytes / size),
});
const dead = (work: string): Yield => ({
  work,
  unit: "rows",
  of: ({ server, size }) => (server === undefined ? undefined : server.deadTuples / size),
});

export const works: ReadonlyArray<Job> = [
  {
    work: "dead-letter one by one",
    quick: 5000,
    full: 10_000,
    yields: [
      rate("dead-letter one by one", "letters/s"),
      wal("WAL of a dead letter"),
      dead("dead tuples of a dead letter"),
    ],
  },
  {
    work: "dead-letter in batches",
    quick: 20_000,
    full: 50_000,
    yields: [rate("dead-letter in batches", "letters/s")],
  },
  {
    work: "insert in batches",
    quick: 20_000,
    full: 50_000,
    yields: [
      rate("insert in batches", "letters/s"),
      {
        work: "bytes of a dead letter",
        unit: "bytes",
        of: ({ server, size }) => (server === undefined ? undefined : server.grownBytes / size),
      },
    ],
  },
  {
    work: "replay by filter",
    quick: 10_000,
    full: 100_000,
    yields: [rate("replay by filter", "letters/s"), wal("WAL of a replay"), dead("dead tuples of a replay")],
  },
  { work: "list 100", quick: 500, full: 1000, yields: [rate("list 100", "pages/s")] },
  {
    work: "work off",
    quick: 20_000,
    full: 100_000,
    yields: [
      rate("work off", "jobs/s"),
      { work: "memory of the worker", unit: "MB", of: ({ megabytes }) => megabytes },
      wal("WAL of a completed job"),
      dead("dead tuples of a completed job"),
    ],
  },
  {
    work: "submit to start",
    quick: 100,
    full: 200,
    yields: [
      { work: "submit to start, p50", unit: "ms", of: ({ values = [] }) => quantile(values, 0.5) },
      { work: "submit to start, p99", unit: "ms", of: ({ values = [] }) => quantile(values, 0.99) },
    ],
  },
];
