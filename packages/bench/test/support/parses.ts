/** How often JSON texts that carry a mark are parsed, and values made into such texts, while an effect runs. */
import * as Effect from "effect/Effect";

export interface Parses {
  readonly parsed: number;
  readonly written: number;
}

/** By mark. For one effect at a time: it is the functions of the process that are watched. */
export const parsesOf = <A, E, R, Mark extends string>(marks: ReadonlyArray<Mark>, effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const { parse, stringify } = JSON;
    const counts = new Map(marks.map((mark) => [mark, { parsed: 0, written: 0 }]));
    const count = (text: unknown, kind: keyof Parses) => {
      if (typeof text !== "string") return;
      for (const [mark, counted] of counts) if (text.includes(mark)) counted[kind]++;
    };
    return Effect.acquireUseRelease(
      Effect.sync(() => {
        JSON.parse = (text, reviver) => {
          count(text, "parsed");
          return parse(text, reviver);
        };
        JSON.stringify = ((...given: Parameters<typeof stringify>) => {
          const text = stringify(...given);
          count(text, "written");
          return text;
        }) as typeof stringify;
      }),
      () => effect,
      () => Effect.sync(() => Object.assign(JSON, { parse, stringify })),
    ).pipe(
      Effect.map((result) => ({
        result,
        parses: (mark: Mark): Parses => counts.get(mark) ?? { parsed: 0, written: 0 },
      })),
    );
  });
