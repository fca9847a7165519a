/** Whether a series of samples is flat: the line of least squares through it, and how far that climbs. */

export interface Sample {
  readonly seconds: number;
  readonly value: number;
}

export interface Line {
  /** Of the value in a second. */
  readonly slope: number;
  readonly mean: number;
}

/** The line of least squares. Fails with fewer than three samples or without time between them. */
export const lineOf = (samples: ReadonlyArray<Sample>): Line => {
  const count = samples.length;
  const meanOf = (of: (sample: Sample) => number) => samples.reduce((sum, sample) => sum + of(sample), 0) / count;
  const seconds = meanOf((_) => _.seconds);
  const mean = meanOf((_) => _.value);
  const spread = samples.reduce((sum, _) => sum + (_.seconds - seconds) ** 2, 0);
  if (count < 3 || spread === 0) throw new Error(`${count} samples are no series`);
  const slope = samples.reduce((sum, _) => sum + (_.seconds - seconds) * (_.value - mean), 0) / spread;
  return { slope, mean };
};

export interface Bound {
  /** How far the line may climb in the time that is looked at, in parts of the mean. */
  readonly share: number;
  /** What it may climb by in any case, in the unit of the value. */
  readonly least: number;
}

export interface Verdict extends Line {
  readonly first: number;
  readonly last: number;
  readonly least: number;
  readonly most: number;
  /** How far the line climbs from the first to the last sample. */
  readonly climb: number;
  readonly allowed: number;
  readonly isFlat: boolean;
}

/** A fall is no leak. */
export const verdictOf = (samples: ReadonlyArray<Sample>, { least, share }: Bound): Verdict => {
  const line = lineOf(samples);
  const values = samples.map(({ value }) => value);
  const climb = line.slope * ((samples.at(-1)?.seconds ?? 0) - (samples[0]?.seconds ?? 0));
  const allowed = Math.max(least, share * line.mean);
  return {
    ...line,
    first: values[0] ?? 0,
    last: values.at(-1) ?? 0,
    least: Math.min(...values),
    most: Math.max(...values),
    climb,
    allowed,
    isFlat: climb <= allowed,
  };
};
