/** Figures: what was measured, over the rounds, and how it compares with the raw driver. */
import * as S from "effect/Schema";

/** A line of `docs/benchmarks.json`. */
export const Figure = S.Struct({
  /** What was done. */
  work: S.String,
  contestant: S.String,
  /** `…/s`: more is better. Everything else (ms, MB, bytes, rows, round trips): less is better. */
  unit: S.String,
  median: S.Number,
  min: S.Number,
  max: S.Number,
  rounds: S.Int,
  /** The median of what each round gave by what `raw` gave in the same round; null where it took no part. */
  ratioToRaw: S.NullOr(S.Number),
});
export type Figure = typeof Figure.Type;

export const Figures = S.parseJson(S.Array(Figure), { space: 2 });

export const isMoreBetter = (unit: string) => unit.endsWith("/s");

/** Of an even number the upper one of the two in the middle. */
export const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

/** The value below which a share of the values lies. */
export const quantile = (values: ReadonlyArray<number>, share: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;

const significant = (value: number) => Number(value.toPrecision(4));

/** The figure of one contestant, by round. */
export const figureOf = (
  work: string,
  unit: string,
  contestant: string,
  values: ReadonlyArray<number>,
  raw: ReadonlyArray<number> | undefined,
): Figure => ({
  work,
  contestant,
  unit,
  median: significant(median(values)),
  min: significant(Math.min(...values)),
  max: significant(Math.max(...values)),
  rounds: values.length,
  ratioToRaw:
    raw === undefined || raw.length !== values.length
      ? null
      : significant(median(values.map((value, round) => value / (raw[round] ?? Number.NaN)))),
});

/** The figures of a work for all contestants; the one named `raw` is what they are compared with. */
export const figuresOf = (work: string, unit: string, values: ReadonlyMap<string, ReadonlyArray<number>>) =>
  [...values].map(([contestant, own]) => figureOf(work, unit, contestant, own, values.get("raw")));
