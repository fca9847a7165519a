/** Reads the text that Prometheus scrapes, as strictly as Prometheus does. */
import { assert } from "@effect/vitest";

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Scrape {
  readonly types: ReadonlyMap<string, string>;
  readonly samples: ReadonlyArray<Sample>;
}

const line =
  /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (NaN|[+-]Inf|Nan|[-+0-9.eE]+)$/;
const label = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"/g;

export const parse = (text: string): Scrape => {
  assert.isTrue(text.endsWith("\n"), "the text ends with a line feed");
  const types = new Map<string, string>();
  const samples: Array<Sample> = [];
  const seen = new Set<string>();
  for (const row of text.split("\n").filter((_) => _ !== "")) {
    const head = /^# (HELP|TYPE) (\S+) ?(.*)$/.exec(row);
    if (head !== null) {
      const [, kind, name = "", rest = ""] = head;
      if (kind === "TYPE") {
        assert.match(rest, /^(counter|gauge|histogram|summary)$/, row);
        assert.isFalse(types.has(name), `${name} has one TYPE`);
        types.set(name, rest);
      }
      continue;
    }
    const found = line.exec(row);
    assert.isNotNull(found, `a line of the text format: ${row}`);
    const [, name = "", labels = "", value = ""] = found ?? [];
    const key = `${name}{${labels}}`;
    assert.isFalse(seen.has(key), `${key} is there once`);
    seen.add(key);
    samples.push({
      name,
      labels: Object.fromEntries([...labels.matchAll(label)].map(([, key_ = "", text_ = ""]) => [key_, text_])),
      value: Number(value.replace("Inf", "Infinity")),
    });
  }
  return { types, samples };
};

/** The sum of the samples that have these labels. */
export const sum = ({ samples }: Scrape, name: string, labels: Readonly<Record<string, string>> = {}) =>
  samples
    .filter((_) => _.name === name && Object.entries(labels).every(([key, value]) => _.labels[key] === value))
    .reduce((total, { value }) => total + value, 0);
