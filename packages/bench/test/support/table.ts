/**
 * The committed table of counts, `guard.snapshot.json`: for each part of the guard a line an operation.
 *
 * `UPDATE_SNAPSHOT=1 npm test -- packages/bench/test/guard.test.ts` writes it anew; its difference belongs into the commit of the
 * change that causes it.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { assert } from "@effect/vitest";
import * as S from "effect/Schema";

const file = new URL("../guard.snapshot.json", import.meta.url);

export const isUpdate = process.env.UPDATE_SNAPSHOT === "1";

const Lines = S.Record({ key: S.String, value: S.Unknown });
const Table = S.Record({ key: S.String, value: Lines });
const decode = S.decodeUnknownSync(S.parseJson(Table));

const read = () => (existsSync(file) ? decode(readFileSync(file, "utf8")) : {});

const spaced = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(spaced).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const fields = Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)}: ${spaced(inner)}`);
  return fields.length === 0 ? "{}" : `{ ${fields.join(", ")} }`;
};

const text = (table: typeof Table.Type) => {
  const parts = Object.entries(table).map(([name, lines]) => {
    const all = Object.entries(lines).map(([key, value]) => `    ${JSON.stringify(key)}: ${spaced(value)}`);
    return `  ${JSON.stringify(name)}: {\n${all.join(",\n")}\n  }`;
  });
  return `{\n${parts.join(",\n")}\n}\n`;
};

/** One part of the table, whose lines are compared one by one. */
export const part = (name: string) => {
  const lines: Record<string, unknown> = {};
  const isCommitted = (key: string, actual: object, isWithin: (committed: unknown) => boolean = () => false) => {
    const committed = isUpdate ? lines[key] : read()[name]?.[key];
    return committed !== undefined && (spaced(committed) === spaced(actual) || isWithin(committed));
  };
  return {
    /** Whether a line is equal to the committed one, or `isWithin` says of that one that this is no worse. */
    isCommitted,
    /** The same as an assertion. Each line once. */
    expect: (key: string, actual: object, isWithin?: (committed: unknown) => boolean) => {
      lines[key] = actual;
      if (isUpdate || isCommitted(key, actual, isWithin)) return;
      assert.strictEqual(
        spaced(actual),
        spaced(read()[name]?.[key] ?? null),
        `${key} costs something else. Is it meant? Then write the table anew with UPDATE_SNAPSHOT=1`,
      );
    },
    /** After all lines: none is left over. Writes the part anew when that is asked for. */
    close: () => {
      if (isUpdate) writeFileSync(file, text({ ...read(), [name]: lines }));
      else assert.deepStrictEqual(Object.keys(read()[name] ?? {}), Object.keys(lines));
    },
  };
};
