/**
 * Effect's metrics in the text format that Prometheus scrapes: everything in the registry, an application's own metrics and
 * those of Effect's modules included. The format is prom-client's; this only brings one model to the other.
 */
import * as Effect from "effect/Effect";
import * as Metric from "effect/Metric";
import * as MetricKeyType from "effect/MetricKeyType";
import type * as MetricPair from "effect/MetricPair";
import * as MetricState from "effect/MetricState";
import * as Option from "effect/Option";
import { type Metric as PromMetric, Registry } from "prom-client";

export const contentType = Registry.PROMETHEUS_CONTENT_TYPE;

interface Sample {
  readonly metricName: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** What prom-client asks of a metric when it writes it down. */
interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram" | "summary";
  readonly values: Array<Sample>;
}

// What the format does not allow in a name is an underscore.
const metricName = (name: string) => name.replace(/[^a-zA-Z0-9_:]/g, "_").replace(/^(?=\d)/, "_");
const labelName = (name: string) => name.replace(/[^a-zA-Z0-9_]/g, "_").replace(/^(?=\d)/, "_");

const typeOf = (keyType: unknown): Family["type"] => {
  if (MetricKeyType.isCounterKey(keyType)) {
    return (keyType as { readonly incremental?: boolean }).incremental === true ? "counter" : "gauge";
  }
  if (MetricKeyType.isFrequencyKey(keyType)) return "counter";
  if (MetricKeyType.isHistogramKey(keyType)) return "histogram";
  return MetricKeyType.isSummaryKey(keyType) ? "summary" : "gauge";
};

const samplesOf = (
  name: string,
  labels: Sample["labels"],
  state: MetricState.MetricState.Untyped,
): ReadonlyArray<Sample> => {
  const sample = (value: number | bigint, suffix = "", more: Sample["labels"] = {}): Sample => ({
    metricName: `${name}${suffix}`,
    labels: { ...labels, ...more },
    value: Number(value),
  });
  if (MetricState.isCounterState(state)) return [sample(state.count)];
  if (MetricState.isGaugeState(state)) return [sample(state.value)];
  if (MetricState.isFrequencyState(state)) {
    return [...state.occurrences].map(([key, count]) => sample(count, "", { key }));
  }
  if (MetricState.isHistogramState(state)) {
    const buckets = state.buckets
      .filter(([le]) => le !== Number.POSITIVE_INFINITY)
      .map(([le, count]) => sample(count, "_bucket", { le: String(le) }));
    return [
      ...buckets,
      sample(state.count, "_bucket", { le: "+Inf" }),
      sample(state.sum, "_sum"),
      sample(state.count, "_count"),
    ];
  }
  if (MetricState.isSummaryState(state)) {
    const quantiles = state.quantiles.map(([quantile, value]) =>
      sample(
        Option.getOrElse(value, () => Number.NaN),
        "",
        { quantile: String(quantile) },
      ),
    );
    return [...quantiles, sample(state.sum, "_sum"), sample(state.count, "_count")];
  }
  return [];
};

const familiesOf = (snapshot: ReadonlyArray<MetricPair.MetricPair.Untyped>): ReadonlyArray<Family> => {
  const families = new Map<string, Family>();
  for (const { metricKey, metricState } of snapshot) {
    const name = metricName(metricKey.name);
    const type = typeOf(metricKey.keyType);
    const family = families.get(name) ?? {
      name,
      type,
      help: Option.getOrElse(metricKey.description, () => ""),
      values: [],
    };
    // A name has one type in the format; what came first has it.
    if (family.type !== type) continue;
    families.set(name, family);
    const labels = Object.fromEntries(metricKey.tags.map(({ key, value }) => [labelName(key), value]));
    family.values.push(...samplesOf(name, labels, metricState));
  }
  return [...families.values()];
};

/** All metrics of the process as they are now. */
export const render: Effect.Effect<string> = Effect.promise(() => {
  const registry = new Registry();
  for (const family of familiesOf(Metric.unsafeSnapshot())) {
    const metric = { ...family, get: async () => family };
    registry.registerMetric(metric as unknown as PromMetric);
  }
  return registry.metrics();
});
