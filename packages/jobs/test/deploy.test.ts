/** What is deployed names what there is: metrics, options, files. */
import * as fs from "node:fs";
import { join } from "node:path";
import * as CliConfig from "@effect/cli/CliConfig";
import * as Command from "@effect/cli/Command";
import * as HelpDoc from "@effect/cli/HelpDoc";
import { assert, describe, it, layer } from "@effect/vitest";
import { parser } from "@prometheus-io/lezer-promql";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { parseAllDocuments, parse as parseYaml } from "yaml";
import { newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { tableUnder } from "../../database/test/support/markdown.js";
import { freePort, root, withUrl } from "../../database/test/support/process.js";
import { command } from "../src/command.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import { type MetricInfo, metrics } from "../src/metrics.js";
import { Failing, Fine } from "./support/kinds.js";
import { answers, beside, startRunner } from "./support/process.js";
import { parse } from "./support/scrape.js";

const read = (name: string) => fs.readFileSync(join(root, "deploy", name), "utf8");
const table: ReadonlyArray<MetricInfo> = metrics;

// --- queries -----------------------------------------------------------------

/** What a query asks for: each metric with the labels that it is narrowed by, and those that it is grouped by. */
const asked = (query: string) => {
  const expression = query.replaceAll("$__rate_interval", "5m").replaceAll("$type", ".*");
  const found = {
    metrics: [] as Array<{ readonly name: string; readonly labels: Array<string> }>,
    by: [] as Array<string>,
  };
  parser.parse(expression).iterate({
    enter: ({ from, name, node, to, type }) => {
      assert.isFalse(type.isError, `${query}: cannot be parsed at ${from}`);
      const text = expression.slice(from, to);
      if (name === "Identifier" && node.parent?.name === "VectorSelector")
        found.metrics.push({ name: text, labels: [] });
      if (name !== "LabelName") return;
      if (node.parent?.name === "GroupingLabels") found.by.push(text);
      else found.metrics.at(-1)?.labels.push(text);
    },
  });
  return found;
};

/** The metric that a series belongs to: a histogram has three names. */
const metricOf = (series: string) =>
  table.find(({ name, type }) =>
    type === "histogram" ? [`${name}_bucket`, `${name}_sum`, `${name}_count`].includes(series) : name === series,
  );

const Rules = S.Struct({
  groups: S.NonEmptyArray(
    S.Struct({
      name: S.String,
      rules: S.NonEmptyArray(
        S.Struct({
          alert: S.String,
          expr: S.String,
          for: S.optional(S.String),
          labels: S.Struct({ severity: S.Literal("warning", "critical") }),
          annotations: S.Struct({ summary: S.NonEmptyString, description: S.NonEmptyString }),
        }),
      ),
    }),
  ),
});
const rules = S.decodeUnknownSync(Rules)(parseYaml(read("alerts.yaml"))).groups.flatMap((_) => _.rules);

const Dashboard = S.Struct({
  panels: S.NonEmptyArray(
    S.Struct({
      id: S.Int,
      title: S.NonEmptyString,
      gridPos: S.Struct({ x: S.Int, y: S.Int, w: S.Int, h: S.Int }),
      targets: S.optional(S.Array(S.Struct({ expr: S.String }))),
    }),
  ),
  templating: S.Struct({ list: S.Array(S.Struct({ name: S.String, definition: S.optional(S.String) })) }),
});
const dashboard = S.decodeUnknownSync(S.parseJson(Dashboard))(read("grafana-dashboard.json"));

const queries = [
  ...rules.map(({ alert, expr }) => [alert, expr] as const),
  ...dashboard.panels.flatMap(({ targets = [], title }) => targets.map(({ expr }) => [title, expr] as const)),
];

// --- manifests ---------------------------------------------------------------

const help = HelpDoc.toAnsiText(Command.getHelp(command, CliConfig.defaultConfig));
/** Names of the command's variables, from what it says about its options. */
const variables = new Set(help.match(/\bRUNNER_[A-Z_]+/g));

interface Container {
  readonly name: string;
  readonly command: ReadonlyArray<string>;
  readonly env: ReadonlyArray<{ readonly name: string; readonly value?: string }>;
}
const kubernetes = parseAllDocuments(read("kubernetes.yaml")).map((_) => {
  assert.deepStrictEqual(_.errors, []);
  return _.toJS();
});
const pod = kubernetes.find(({ kind }) => kind === "Deployment").spec.template.spec;
const compose = parseYaml(read("compose.yaml"), { merge: true });

const seconds = (text: string) => Duration.toSeconds(Duration.decodeUnknown(text).pipe(Option.getOrThrow));

describe("deploy", () => {
  it("queries are PromQL, of metrics that there are, by labels that they have", () => {
    assert.isAbove(queries.length, 25);
    for (const [where, query] of queries) {
      const { by, metrics: found } = asked(query);
      assert.isNotEmpty(found, `${where}: ${query} asks for nothing`);
      for (const { labels, name } of found) {
        const metric = metricOf(name);
        assert.isDefined(metric, `${where}: there is no metric ${name}`);
        // What Prometheus adds to everything that it scrapes is there too.
        const known = [...(metric?.labels ?? []), "le", "instance", "job"];
        for (const label of [...labels, ...by]) assert.include(known, label, `${where}: ${name} has no label ${label}`);
      }
    }
    for (const { definition = "" } of dashboard.templating.list) {
      for (const name of definition.match(/\bportal_\w+/g) ?? []) assert.isDefined(metricOf(name), name);
    }
  });

  it("the check of the queries sees what is wrong", () => {
    assert.isUndefined(metricOf(asked("sum(rate(portal_jobs_begun_total[5m]))").metrics[0]?.name ?? ""));
    assert.isUndefined(metricOf("portal_jobs_wait_seconds"), "a histogram alone is no series");
    assert.throws(() => asked("sum(rate(portal_jobs_started_total[5m])"), /cannot be parsed/);
    assert.deepStrictEqual(asked('sum by (type) (portal_jobs_depth{state="due"}) > 3'), {
      metrics: [{ name: "portal_jobs_depth", labels: ["state"] }],
      by: ["type"],
    });
  });

  it("every metric is on the dashboard", () => {
    const shown = new Set(
      dashboard.panels
        .flatMap(({ targets = [] }) => targets)
        .flatMap(({ expr }) => asked(expr).metrics.map(({ name }) => metricOf(name)?.name)),
    );
    assert.deepStrictEqual(
      table.map(({ name }) => name).filter((_) => !shown.has(_)),
      [],
    );
  });

  it("panels have an id and a place of their own", () => {
    const ids = dashboard.panels.map(({ id }) => id);
    assert.strictEqual(new Set(ids).size, ids.length);
    const cells = dashboard.panels.flatMap(({ gridPos: { h, w, x, y } }) => {
      assert.isAtMost(x + w, 24);
      return Array.from({ length: w * h }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`);
    });
    assert.strictEqual(new Set(cells).size, cells.length);
  });

  it("docs/metrics.md has the table of the metrics", () => {
    assert.deepStrictEqual(
      tableUnder("docs/metrics.md", "The metrics"),
      table.map(({ labels, meaning, name, type, unit }) => ({
        metric: name,
        type,
        unit,
        labels: labels.join(", "),
        meaning,
      })),
    );
  });

  it("the names of the metrics are Prometheus'", () => {
    for (const { labels, name, type, unit } of table) {
      assert.match(name, /^portal_[a-z_]+$/);
      assert.strictEqual(name.endsWith("_total"), type === "counter", name);
      assert.strictEqual(name.endsWith("_seconds"), unit === "seconds", name);
      for (const label of labels) assert.match(label, /^[a-z_]+$/);
    }
    assert.strictEqual(new Set(table.map(({ name }) => name)).size, table.length);
  });

  it("the manifests set variables that the command reads, and start files that there are", () => {
    assert.isAbove(variables.size, 12);
    const containers: ReadonlyArray<Container> = [...pod.initContainers, ...pod.containers];
    const set = [
      ...containers.flatMap(({ env }) => env.map(({ name }) => name)),
      ...Object.values<{ readonly environment?: object }>(compose.services).flatMap(({ environment = {} }) =>
        Object.keys(environment),
      ),
    ].filter((_) => _.startsWith("RUNNER_"));
    assert.isAbove(set.length, 8);
    for (const name of set) assert.isTrue(variables.has(name), `the command reads no ${name}`);

    for (const { command: line } of Object.values<{ readonly command?: ReadonlyArray<string> }>(compose.services)) {
      for (const file of line?.filter((_) => _.startsWith("packages/")) ?? []) {
        assert.isTrue(fs.existsSync(join(root, file)), file);
      }
    }
    const bins = ["jobs", "database"].flatMap((name) =>
      Object.keys(JSON.parse(fs.readFileSync(join(root, "packages", name, "package.json"), "utf8")).bin),
    );
    for (const {
      command: [bin = ""],
    } of containers)
      assert.include(bins, bin.replace("node_modules/.bin/", ""));
    for (const { build } of Object.values<{ readonly build?: { readonly dockerfile: string } }>(compose.services)) {
      if (build !== undefined) assert.isTrue(fs.existsSync(join(root, build.dockerfile)), build.dockerfile);
    }
  });

  it("a stop is not cut short by whoever asked for it", () => {
    const grace = pod.containers[0].env.find(({ name }: { readonly name: string }) => name === "RUNNER_GRACE").value;
    assert.isAtLeast(pod.terminationGracePeriodSeconds, seconds(grace) + 10);
    for (const name of ["runner-1", "runner-2"]) {
      const { environment, stop_grace_period: period } = compose.services[name];
      assert.isAtLeast(Number.parseInt(period, 10), seconds(environment.RUNNER_GRACE) + 10);
    }
  });

  it("the probes ask what there is, and wait longer than /ready may take", () => {
    const [{ livenessProbe, ports, readinessProbe }] = pod.containers;
    assert.strictEqual(livenessProbe.httpGet.path, "/live");
    assert.strictEqual(readinessProbe.httpGet.path, "/ready");
    assert.isAbove(readinessProbe.timeoutSeconds, 2);
    const named = ports.map(({ name }: { readonly name: string }) => name);
    assert.includeMembers(named, [livenessProbe.httpGet.port, readinessProbe.httpGet.port]);
  });
});

const TestJobs = Layer.provideMerge(JobStoreSql.layerDesk, TestDatabase);

layer(TestJobs, { excludeTestServices: true, timeout: "60 seconds" })("a runner", (scoped) => {
  scoped.scoped("exposes every metric of the table after a few jobs, with its type and its labels", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const port = yield* freePort;
      yield* startRunner(
        [beside("../../example/handlers.ts"), "--single", "--health-port", `${port}`],
        withUrl(yield* TestUrl),
      );
      yield* answers(port, "/ready", 200);
      for (const type of [Fine, Failing]) yield* Jobs.submit(type, { n: 1 }, { appId });
      const scrape = yield* Effect.repeat(
        Effect.map(answers(port, "/metrics", 200), ({ text }) => parse(text)),
        { until: ({ types }) => types.has("portal_jobs_started_total") },
      );
      for (const { labels, name, type } of table) {
        assert.strictEqual(scrape.types.get(name), type, name);
        const samples = scrape.samples.filter((_) => metricOf(_.name)?.name === name);
        assert.isNotEmpty(samples, name);
        for (const sample of samples) {
          assert.deepStrictEqual(
            Object.keys(sample.labels)
              .filter((_) => _ !== "le")
              .sort(),
            [...labels].sort(),
            sample.name,
          );
        }
      }
      const own = [...scrape.types.keys()].filter((_) => _.startsWith("portal_"));
      assert.deepStrictEqual(own.sort(), table.map(({ name }) => name).sort(), "and no others");
    }),
  );
});
