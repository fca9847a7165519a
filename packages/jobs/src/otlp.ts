/**
 * Export of metrics and spans over HTTP, as the environment says: nothing, unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
 *
 * Also read: `OTEL_EXPORTER_OTLP_PROTOCOL` (`http/protobuf`, the default, or `http/json`), `OTEL_EXPORTER_OTLP_HEADERS`,
 * `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds), `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. Logs are not exported: they
 * go to stderr, where whoever runs the process collects them.
 */
import * as OtlpMetrics from "@effect/opentelemetry/OtlpMetrics";
import * as OtlpSerialization from "@effect/opentelemetry/OtlpSerialization";
import * as OtlpTracer from "@effect/opentelemetry/OtlpTracer";
import * as FetchHttpClient from "@effect/platform/FetchHttpClient";
import * as Config from "effect/Config";
import * as ConfigError from "effect/ConfigError";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";

const decoded = (text: string) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

/** `name=value,name=value`, percent-encoded. */
const headersOf = (text: string): Either.Either<Readonly<Record<string, string>>, ConfigError.ConfigError> => {
  const headers: Record<string, string> = {};
  for (const pair of text.split(",").filter((_) => _.trim() !== "")) {
    const at = pair.indexOf("=");
    if (at < 1) {
      return Either.left(ConfigError.InvalidData(["OTEL_EXPORTER_OTLP_HEADERS"], "must be name=value,name=value"));
    }
    headers[pair.slice(0, at).trim()] = decoded(pair.slice(at + 1).trim());
  }
  return Either.right(headers);
};

const serializations = {
  "http/protobuf": OtlpSerialization.layerProtobuf,
  "http/json": OtlpSerialization.layerJson,
} as const;

const config = Config.all({
  endpoint: Config.option(Config.nonEmptyString("OTEL_EXPORTER_OTLP_ENDPOINT")),
  protocol: Config.literal(
    "http/protobuf",
    "http/json",
  )("OTEL_EXPORTER_OTLP_PROTOCOL").pipe(Config.withDefault("http/protobuf")),
  headers: Config.redacted("OTEL_EXPORTER_OTLP_HEADERS").pipe(
    Config.withDefault(Redacted.make("")),
    Config.mapOrFail((_) => headersOf(Redacted.value(_))),
  ),
  metricsMillis: Config.integer("OTEL_METRIC_EXPORT_INTERVAL").pipe(Config.withDefault(10_000)),
  name: Config.option(Config.nonEmptyString("OTEL_SERVICE_NAME")),
  attributes: Config.string("OTEL_RESOURCE_ATTRIBUTES").pipe(Config.withDefault("")),
});

/** `service` names this process unless the environment does; `instance` tells it from its like. */
export const layerConfig = (options: {
  readonly service: string;
  readonly instance: string;
}): Layer.Layer<never, ConfigError.ConfigError> =>
  Layer.unwrapEffect(
    Effect.map(config, ({ attributes, endpoint, headers, metricsMillis, name, protocol }) => {
      if (Option.isNone(endpoint)) return Layer.empty;
      const base = endpoint.value.replace(/\/+$/, "");
      const isNamed = Option.isSome(name) || /(^|,)\s*service\.name\s*=/.test(attributes);
      const common = {
        headers,
        resource: {
          serviceName: isNamed ? Option.getOrUndefined(name) : options.service,
          attributes: { "service.instance.id": options.instance },
        },
      };
      return Layer.merge(
        OtlpMetrics.layer({
          ...common,
          url: `${base}/v1/metrics`,
          exportInterval: Duration.millis(Math.max(100, metricsMillis)),
        }),
        OtlpTracer.layer({ ...common, url: `${base}/v1/traces` }),
      ).pipe(Layer.provide([serializations[protocol], FetchHttpClient.layer]));
    }),
  );
