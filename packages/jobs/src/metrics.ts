/**
 * The metrics of a runner: their names, once. `docs/metrics.md` shows the same table to people; the dashboard and the alert rules
 * in `deploy/` use these names and no others; tests hold all of them together.
 *
 * They live in Effect's own registry, as the metrics of an application do, so that one scrape and one export have both. What is
 * counted here is counted without an effect around it: a job costs well under 2 µs in all.
 */
import * as Metric from "effect/Metric";
import * as MetricBoundaries from "effect/MetricBoundaries";
import * as MetricKey from "effect/MetricKey";
import type * as MetricKeyType from "effect/MetricKeyType";
import * as MetricLabel from "effect/MetricLabel";
import * as MetricState from "effect/MetricState";

/** What a metric is. `type` and `unit` as Prometheus has them. */
export interface MetricInfo {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly unit: string;
  readonly labels: ReadonlyArray<string>;
  readonly meaning: string;
}

/** Every metric of a runner, in the order of the documentation. */
export const metrics = [
  {
    name: "portal_jobs_started_total",
    type: "counter",
    unit: "runs",
    labels: ["type"],
    meaning: "Runs that this runner began",
  },
  {
    name: "portal_jobs_ended_total",
    type: "counter",
    unit: "runs",
    labels: ["type", "outcome"],
    meaning:
      "Runs that ended: completed, retry (waits for its next attempt), dead (dead-lettered), back (waits again, uncounted: postponed, or the runner stops) or lost (another runner has the job, or it was cancelled)",
  },
  {
    name: "portal_jobs_attempt_duration_seconds",
    type: "histogram",
    unit: "seconds",
    labels: ["type"],
    meaning: "How long a run took, however it ended",
  },
  {
    name: "portal_jobs_wait_seconds",
    type: "histogram",
    unit: "seconds",
    labels: ["type"],
    meaning: "How long a job had been due when its run began",
  },
  {
    name: "portal_jobs_dead_lettered_total",
    type: "counter",
    unit: "jobs",
    labels: ["type", "reason"],
    meaning:
      "Jobs that this runner dead-lettered, by reason; with those that it found abandoned by runners that vanished (RunnerUnavailable)",
  },
  {
    name: "portal_jobs_rescued_total",
    type: "counter",
    unit: "jobs",
    labels: [],
    meaning: "Runs of runners that vanished, ended by this one: their jobs wait again or were dead-lettered",
  },
  {
    name: "portal_jobs_unsettled_total",
    type: "counter",
    unit: "runs",
    labels: [],
    meaning: "Runs whose settlement came too late and changed nothing: the job was no longer this runner's",
  },
  {
    name: "portal_jobs_running",
    type: "gauge",
    unit: "jobs",
    labels: [],
    meaning: "Jobs that run in this process now",
  },
  {
    name: "portal_jobs_depth",
    type: "gauge",
    unit: "jobs",
    labels: ["state"],
    meaning:
      "Unfinished jobs in the database: due (could run now), scheduled (for later) or processing. One runner tells, the others say 0: take the max",
  },
  {
    name: "portal_jobs_oldest_age_seconds",
    type: "gauge",
    unit: "seconds",
    labels: [],
    meaning: "How long the job that waits longest has been due; 0 when none is. One runner tells: take the max",
  },
  {
    name: "portal_dead_letters_depth",
    type: "gauge",
    unit: "dead letters",
    labels: ["reason"],
    meaning: "Pending dead letters in the database. One runner tells: take the max",
  },
  {
    name: "portal_dead_letters_oldest_age_seconds",
    type: "gauge",
    unit: "seconds",
    labels: [],
    meaning: "How old the oldest pending dead letter is; 0 when there is none. One runner tells: take the max",
  },
  {
    name: "portal_retention_removed_total",
    type: "counter",
    unit: "rows",
    labels: ["kind"],
    meaning:
      "What retention removed: dead letters that were replayed, discarded or pending (these expire, to the ledger), and ended jobs",
  },
] as const satisfies ReadonlyArray<MetricInfo>;

type Named<Type extends MetricInfo["type"]> = Extract<(typeof metrics)[number], { readonly type: Type }>["name"];
type Labels = Readonly<Record<string, string>>;

const meaningOf = (name: string) => metrics.find((_) => _.name === name)?.meaning ?? "";

/** From a millisecond to an hour. */
const boundaries = MetricBoundaries.fromIterable([
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600,
]);

// The labels are a part of the key. `Metric.tagged` would join them anew at every update, which costs microseconds.
const labelled = <Type extends MetricKeyType.MetricKeyType.Untyped>(key: MetricKey.MetricKey<Type>, labels: Labels) =>
  Metric.fromMetricKey(
    MetricKey.taggedWithLabels(
      key,
      Object.entries(labels).map(([name, value]) => MetricLabel.make(name, value)),
    ),
  ).register();

export const counter = (name: Named<"counter">, labels: Labels = {}) =>
  labelled(MetricKey.counter(name, { description: meaningOf(name), incremental: true }), labels);

export const gauge = (name: Named<"gauge">, labels: Labels = {}) =>
  labelled(MetricKey.gauge(name, { description: meaningOf(name) }), labels);

export const histogram = (name: Named<"histogram">, labels: Labels = {}) =>
  labelled(MetricKey.histogram(name, boundaries, meaningOf(name)), labels);

/** The sum of a counter or gauge over everything that has these labels, in this process. */
export const valueOf = (name: Named<"counter" | "gauge">, labels: Labels = {}): number => {
  let sum = 0;
  for (const { metricKey, metricState } of Metric.unsafeSnapshot()) {
    if (metricKey.name !== name) continue;
    const isMeant = Object.entries(labels).every(([key, value]) =>
      metricKey.tags.some((_) => _.key === key && _.value === value),
    );
    if (!isMeant) continue;
    if (MetricState.isCounterState(metricState)) sum += Number(metricState.count);
    else if (MetricState.isGaugeState(metricState)) sum += Number(metricState.value);
  }
  return sum;
};
