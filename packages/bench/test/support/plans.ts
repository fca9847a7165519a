/**
 * What the server read for the statements of an effect, told by the server itself: auto_explain explains what runs, as it runs, and
 * sends it as a notice, which the wire picks up. So statements, parameters, role and tenant are those of the operation.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import type { Wire } from "../../src/wire.js";

const settings = {
  session_preload_libraries: "auto_explain",
  "auto_explain.log_min_duration": "0",
  "auto_explain.log_analyze": "on",
  "auto_explain.log_buffers": "on",
  "auto_explain.log_timing": "off",
  "auto_explain.log_format": "json",
  "auto_explain.log_level": "notice",
  "auto_explain.log_nested_statements": "on",
  // How many workers a statement gets depends on what else runs.
  max_parallel_workers_per_gather: "0",
  // As where memory or a solid-state disk has the table, which is what these small ones stand for.
  random_page_cost: "1.1",
};

/** The URL with which a superuser's connections explain what they run. */
export const explaining = (url: Redacted.Redacted): Redacted.Redacted => {
  const parsed = new URL(Redacted.value(url));
  const options = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`);
  parsed.searchParams.set("options", options.join(" "));
  return Redacted.make(parsed.href);
};

const Node = S.Struct({
  "Node Type": S.String,
  "Relation Name": S.optional(S.String),
  "Index Name": S.optional(S.String),
  "Actual Rows": S.Number,
  "Actual Loops": S.Number,
  "Rows Removed by Filter": S.optional(S.Number),
  "Rows Removed by Index Recheck": S.optional(S.Number),
  "Shared Hit Blocks": S.Number,
  "Shared Read Blocks": S.Number,
  Plans: S.optional(S.Array(S.suspend((): S.Schema<Node> => Node))),
});
interface Node {
  readonly "Node Type": string;
  readonly "Relation Name"?: string | undefined;
  readonly "Index Name"?: string | undefined;
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number | undefined;
  readonly "Rows Removed by Index Recheck"?: number | undefined;
  readonly "Shared Hit Blocks": number;
  readonly "Shared Read Blocks": number;
  readonly Plans?: ReadonlyArray<Node> | undefined;
}
const decode = S.decodeUnknownSync(S.parseJson(S.Struct({ "Query Text": S.String, Plan: Node })));

const nodesOf = (node: Node): ReadonlyArray<Node> => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

/** What was read. */
export interface Reading {
  /** Rows that scans found, those included that a filter dropped, by table. */
  readonly rows: Readonly<Record<string, number>>;
  /** Pages of 8 kB, in memory or not. */
  readonly pages: number;
  /** The indexes by which rows were found; a table that was read from end to end is `whole` and its name. */
  readonly by: ReadonlyArray<string>;
}

const isScan = (node: Node) => node["Node Type"].endsWith("Scan") && node["Relation Name"] !== undefined;
const waysOf = (node: Node): ReadonlyArray<string> => {
  if (node["Node Type"] === "Seq Scan") return [`whole ${node["Relation Name"]}`];
  const indexes = nodesOf(node).flatMap((_) => _["Index Name"] ?? []);
  return indexes.length === 0 ? [`${node["Node Type"]} ${node["Relation Name"]}`] : indexes;
};
const foundOf = (node: Node) =>
  (node["Actual Rows"] + (node["Rows Removed by Filter"] ?? 0) + (node["Rows Removed by Index Recheck"] ?? 0)) *
  node["Actual Loops"];

const readingOf = (notices: ReadonlyArray<string>, texts: ReadonlySet<string>): Reading => {
  const rows = new Map<string, number>();
  const by = new Set<string>();
  let pages = 0;
  for (const notice of notices) {
    if (!notice.startsWith("duration: ")) continue;
    const { "Query Text": text, Plan } = decode(notice.slice(notice.indexOf("{")));
    // Those of a statement inside a function or a trigger are its caller's already.
    if (texts.has(text)) pages += Plan["Shared Hit Blocks"] + Plan["Shared Read Blocks"];
    for (const node of nodesOf(Plan)) {
      const table = node["Relation Name"];
      if (table === undefined || !isScan(node) || node["Actual Loops"] === 0) continue;
      rows.set(table, (rows.get(table) ?? 0) + Math.round(foundOf(node)));
      for (const way of waysOf(node)) by.add(way);
    }
  }
  return { rows: Object.fromEntries([...rows].sort()), pages, by: [...by].sort() };
};

/** Runs an effect whose client is on the wire of an explaining server, and returns what the server read for it. */
export const readings = <A, E, R>(wire: Wire, effect: Effect.Effect<A, E, R>) =>
  Effect.map(wire.counted(effect), ({ notices, texts }) => readingOf(notices, new Set(texts)));
