/** What this project wants to reach, and whether it does: each target is a ratio, or a bound, of figures of one run. */
import { type Figure, isMoreBetter } from "./figures.js";

export interface Target {
  readonly work: string;
  /** Whom, or which other work of this project, it is compared with; none: a bound in the figure's own unit. */
  readonly than?: string;
  /** More is better: at least this much. Less is better: at most this much. */
  readonly bound: number;
}

const us = "this project";

export const targets: ReadonlyArray<Target> = [
  { work: "dead-letter one by one", than: "pg-boss", bound: 5 },
  { work: "dead-letter one by one", than: "raw", bound: 0.6 },
  { work: "dead-letter in batches", than: "pg-boss", bound: 3 },
  { work: "dead-letter in batches", than: "raw", bound: 0.8 },
  { work: "insert in batches", than: "pg-boss", bound: 3 },
  { work: "insert in batches", than: "raw", bound: 0.8 },
  { work: "replay by filter", than: "pg-boss", bound: 2 },
  { work: "replay by filter", than: "raw", bound: 0.9 },
  { work: "list 100", than: "raw", bound: 0.7 },
  { work: "work off", than: "graphile-worker", bound: 1 },
  { work: "work off", than: "pg-boss", bound: 4 },
  { work: "work off", than: "raw", bound: 0.6 },
  { work: "round trips of a scope", bound: 1 },
  { work: "export as NDJSON", than: "raw", bound: 0.6 },
  { work: "memory of an export", bound: 150 },
  { work: "purge while inserting", bound: 200_000 },
  { work: "longest wait for a lock beside a purge", bound: 100 },
  ...["groups", "preview", "stats by type"].flatMap((what) =>
    ["all", "a type", "a reason", "a fingerprint", "a text", "a payload"].flatMap((filter) =>
      ["all tenants", "the large tenant"].map((scope) => ({ work: `${what}, ${filter}, ${scope}`, bound: 300 })),
    ),
  ),
  { work: "list 100 of all, the large tenant, p99", than: "list 100 of 10,000, the large tenant, p99", bound: 1.5 },
  { work: "list 100 of all, a small tenant, p99", than: "list 100 of 10,000, a small tenant, p99", bound: 1.5 },
  { work: "insert in batches, into all", than: "insert in batches, into 10,000", bound: 0.7 },
  { work: "insert beside a purge, p99", than: "insert, nothing beside it, p99", bound: 2 },
  { work: "bytes of a dead letter", than: "pg-boss", bound: 1 },
  { work: "WAL of a dead letter", than: "pg-boss", bound: 1 },
  { work: "WAL of a replay", than: "pg-boss", bound: 1 },
  { work: "WAL of a completed job", than: "pg-boss", bound: 1 },
  { work: "dead tuples of a dead letter", than: "pg-boss", bound: 1 },
  { work: "dead tuples of a replay", than: "pg-boss", bound: 1 },
  { work: "dead tuples of a completed job", than: "pg-boss", bound: 1 },
];

export interface Verdict {
  readonly target: Target;
  /** The ratio, or the figure itself. */
  readonly value: number;
  readonly isMet: boolean;
  readonly isAtLeast: boolean;
}

/** Of each target whose figures are there. A comparison is of medians, and with `raw` of the rounds. */
export const verdicts = (figures: ReadonlyArray<Figure>): ReadonlyArray<Verdict> =>
  targets.flatMap((target) => {
    const of = (name: string) => figures.find(({ contestant, work }) => work === target.work && contestant === name);
    const own = of(us);
    const other =
      target.than === undefined
        ? undefined
        : (of(target.than) ?? figures.find(({ contestant, work }) => work === target.than && contestant === us));
    if (own === undefined || (target.than !== undefined && other === undefined)) return [];
    const ratio = target.than === "raw" ? own.ratioToRaw : own.median / (other?.median ?? 1);
    const value = ratio ?? Number.NaN;
    const isAtLeast = isMoreBetter(own.unit);
    return [{ target, value, isAtLeast, isMet: isAtLeast ? value >= target.bound : value <= target.bound }];
  });
