import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { assert, layer } from "@effect/vitest";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Equal from "effect/Equal";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Runtime from "effect/Runtime";
import ts from "typescript";
import { Is, type Predicate } from "../src/factory.js";
import { campaign } from "./support/campaign.js";
import { TestDatabase } from "./support/database.js";
import { at, type Sample, samples, untyped } from "./support/samples.js";

/** The whole campaign, and the compiler, take minutes on a busy machine. */
const long = 300_000;

layer(TestDatabase, { excludeTestServices: true })("predicates", (it) => {
  it.effect(
    "agree with a filter in memory, whatever the rows, the conditions and the order",
    () =>
      Effect.gen(function* () {
        const { count, find, insert } = yield* samples;
        const runPromise = Runtime.runPromise(yield* Effect.runtime<never>());
        // Lower-case ASCII only, which every collation orders alike.
        const words = ["a", "ab", "b", "ba", "c"];
        const columns = {
          label: words,
          amount: [-1, 0, 1, 2],
          ratio: [-1e300, 0, 0.1, 0.30000000000000004],
          big: [-(2n ** 63n), 0n, 2n ** 53n, 2n ** 53n + 1n],
          isOpen: [false, true],
          note: words,
          weight: [-1, 0, 0.5],
          seenAt: [0, 1, 1000].map((_) => new Date(1_790_000_000_000 + _)),
          madeAt: [0, 1, 1000].map(at),
          data: [null, 0, "0", [], {}, { a: [null] }],
        } as const;
        type Name = keyof typeof columns;
        const names = Object.keys(columns) as ReadonlyArray<Name>;
        const optional = new Set<string>(["note", "weight", "seenAt"]);

        const valueOf = (name: Name) => fc.constantFrom<unknown>(...columns[name]);
        const newRow = fc.record(
          Object.fromEntries(
            names.map((name) => [
              name,
              optional.has(name)
                ? fc.option(valueOf(name), { nil: undefined }).map(Option.fromNullable)
                : valueOf(name),
            ]),
          ),
        );
        const rows: Array<Sample> = [];
        for (const row of fc.sample(newRow, { seed: 1, numRuns: 80 })) rows.push(yield* insert(untyped(row)));

        // Each condition beside what it means: `-1, 0, 1` for how the cell compares with the operand.
        const comparisons = {
          not: (sign: number) => sign !== 0,
          lessThan: (sign: number) => sign < 0,
          atMost: (sign: number) => sign <= 0,
          greaterThan: (sign: number) => sign > 0,
          atLeast: (sign: number) => sign >= 0,
        } as const;
        const isEqual = (a: unknown, b: unknown) => Equal.equals(a, b) || JSON.stringify(a) === JSON.stringify(b);
        const rank = (value: unknown) =>
          DateTime.isDateTime(value) ? DateTime.toEpochMillis(value) : value instanceof Date ? value.getTime() : value;
        const compare = (a: unknown, b: unknown) => {
          const [x, y] = [rank(a), rank(b)] as [number, number];
          return x < y ? -1 : x > y ? 1 : 0;
        };
        const cellOf = (row: Sample, name: string): unknown => {
          const cell: unknown = Reflect.get(row, name);
          return optional.has(name) && Option.isOption(cell) ? Option.getOrUndefined(cell) : cell;
        };

        interface Condition {
          readonly name: Name;
          readonly test: unknown;
          readonly holds: (cell: unknown) => boolean;
        }
        const conditionOn = (name: Name): fc.Arbitrary<Condition> => {
          const value = valueOf(name);
          const equal = value.map(
            (_): Condition => ({ name, test: _, holds: (cell) => cell !== undefined && same(cell, _) }),
          );
          // JSON has no order that a model could know of.
          const same = (cell: unknown, operand: unknown) =>
            name === "data" ? isEqual(cell, operand) : compare(cell, operand) === 0;
          const listed = fc.array(value, { maxLength: 3 }).map(
            (_): Condition => ({
              name,
              test: Is.oneOf(_),
              holds: (cell) => cell !== undefined && _.some((operand) => same(cell, operand)),
            }),
          );
          const compared = fc
            .tuple(value, fc.constantFrom(...(Object.keys(comparisons) as Array<keyof typeof comparisons>)))
            .map(
              ([operand, operator]): Condition => ({
                name,
                test: Is[operator](operand),
                holds: (cell) => cell !== undefined && comparisons[operator](compare(cell, operand)),
              }),
            );
          const nullness = fc.constantFrom<Condition>(
            { name, test: Is.absent, holds: (cell) => cell === undefined },
            { name, test: Is.present, holds: (cell) => cell !== undefined },
          );
          const wrapped = fc.option(value, { nil: undefined }).map(
            (_): Condition => ({
              name,
              test: Option.fromNullable(_),
              holds: (cell) => (_ === undefined ? cell === undefined : cell !== undefined && same(cell, _)),
            }),
          );
          return fc.oneof(
            equal,
            listed,
            nullness,
            ...(name === "data" ? [] : [compared]),
            ...(optional.has(name) ? [wrapped] : []),
          );
        };
        const where = fc.subarray([...names], { maxLength: 3 }).chain((chosen) => fc.tuple(...chosen.map(conditionOn)));
        const order = fc
          .subarray(
            names.filter((_) => _ !== "data"),
            { maxLength: 3 },
          )
          .chain((chosen) => fc.tuple(...chosen.map((_) => fc.tuple(fc.constant(_), fc.constantFrom("asc", "desc")))));

        let found = 0;
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(where, order, fc.integer({ min: 1, max: 100 }), async (conditions, terms, limit) => {
              const predicate: Predicate<Sample> = untyped(Object.fromEntries(conditions.map((_) => [_.name, _.test])));
              const expected = rows
                .filter((row) => conditions.every(({ holds, name }) => holds(cellOf(row, name))))
                .sort((a, b) => {
                  for (const [name, direction] of [...terms, ["id", "asc"] as const]) {
                    const [x, y] = [cellOf(a, name), cellOf(b, name)];
                    // NULL counts as the largest value.
                    const sign =
                      x === undefined || y === undefined
                        ? Number(x === undefined) - Number(y === undefined)
                        : compare(x, y);
                    if (sign !== 0) return direction === "desc" ? -sign : sign;
                  }
                  return 0;
                });
              const actual = await runPromise(find(predicate, { limit, order: Object.fromEntries(terms) }));
              assert.deepStrictEqual(
                actual.map(({ id }) => id),
                expected.slice(0, limit).map(({ id }) => id),
              );
              assert.strictEqual(await runPromise(count(predicate)), expected.length);
              found += expected.length;
            }),
            campaign("predicates", 3_000, 300),
          ),
        );
        assert.isAbove(found, 0);
      }),
    long,
  );

  it.effect(
    "are typed by the model: the compiler finds an error at every expectation of factory-types.ts, and nowhere else",
    () =>
      Effect.sync(() => {
        const file = fileURLToPath(new URL("./factory-types.ts", import.meta.url));
        const configFile = fileURLToPath(new URL("../tsconfig.json", import.meta.url));
        const source = readFileSync(file, "utf8");
        const config = ts.getParsedCommandLineOfConfigFile(
          configFile,
          {},
          {
            ...ts.sys,
            onUnRecoverableConfigFileDiagnostic: (diagnostic) => assert.fail(JSON.stringify(diagnostic.messageText)),
          },
        );
        const host = ts.createCompilerHost({ ...config?.options, noEmit: true });
        let previous: ts.Program | undefined;
        const linesWithErrors = (text: string) => {
          const readFile = host.readFile.bind(host);
          const program = ts.createProgram({
            rootNames: [file],
            options: { ...config?.options, noEmit: true },
            host: {
              ...host,
              getCurrentDirectory: () => dirname(configFile),
              getSourceFile: (name, target, ...rest) =>
                name === file
                  ? ts.createSourceFile(name, text, target)
                  : (previous?.getSourceFile(name) ?? host.getSourceFile(name, target, ...rest)),
              readFile: (name) => (name === file ? text : readFile(name)),
            },
          });
          previous = program;
          const parsed = program.getSourceFile(file);
          assert.isDefined(parsed);
          const diagnostics = [...program.getSyntacticDiagnostics(parsed), ...program.getSemanticDiagnostics(parsed)];
          return [...new Set(diagnostics.map(({ start = 0 }) => parsed.getLineAndCharacterOfPosition(start).line))];
        };
        const lines = source.split("\n");
        const expected = lines.flatMap((line, i) => (line.includes("@ts-expect-error") ? [i + 1] : []));
        assert.isAbove(expected.length, 20);
        assert.deepStrictEqual(linesWithErrors(source), []);
        // The comment's words go and its line stays, so that the line numbers do too.
        assert.deepStrictEqual(linesWithErrors(source.replaceAll("@ts-expect-error", "")), expected);
      }),
    long,
  );
});
