/** What callers pass to the operations on dead letters, checked before anything is sent. */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { InvalidCursor, InvalidInput } from "./errors.js";
import { notStorable, textOf, textProblem } from "./json.js";

const isUuid = S.is(S.UUID);

/** A value of the caller's in a message, short enough for one line. */
export const show = (value: unknown): string => {
  const text =
    typeof value === "string" ? JSON.stringify(value) : textOf(() => value, `a value of type ${typeof value}`);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
};

export const uuidOf = (operation: string, field: string, value: string) =>
  isUuid(value)
    ? Effect.succeed(value)
    : new InvalidInput({ operation, field, problem: `is ${show(value)}, which is no uuid` });

/** A cursor as the error about it has it. */
export const invalidCursor = (operation: string, cursor: unknown) =>
  new InvalidCursor({ operation, cursor: typeof cursor === "string" ? cursor.slice(0, 200) : show(cursor) });

/** Ids in one call, at most 10,000: it is one statement, and holds its locks until the transaction ends. */
export const idsOf = (operation: string, ids: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    if (ids.length > 10_000) {
      return yield* new InvalidInput({
        operation,
        field: "ids",
        problem: `are ${ids.length}; pass at most 10,000, or a filter`,
      });
    }
    for (const [place, id] of ids.entries()) yield* uuidOf(operation, `ids[${place}]`, id);
    return ids;
  });

/** Who acts: not blank, at most 200 characters. The ledger keeps it. */
export const actorOf = (operation: string, actor: string) => wordsOf(operation, "actor", actor, 200);

/** Why: not blank, at most 2,000 characters. The ledger keeps it. */
export const reasonOf = (operation: string, reason: string) => wordsOf(operation, "reason", reason, 2000);

const wordsOf = (operation: string, field: string, value: string, longest: number) => {
  if (typeof value !== "string" || value.trim() === "") {
    return new InvalidInput({ operation, field, problem: "is missing or blank" });
  }
  const problem = value.length > longest ? `is longer than ${longest} characters` : textProblem(value);
  return problem === undefined ? Effect.succeed(value.trim()) : new InvalidInput({ operation, field, problem });
};

/** A whole number within bounds, or the default when it is left out. */
export const wholeOf = (operation: string, field: string, value: number, least: number, most: number) =>
  Number.isInteger(value) && value >= least && value <= most
    ? Effect.succeed(value)
    : new InvalidInput({
        operation,
        field,
        problem: `is ${show(value)}; it must be a whole number from ${least.toLocaleString("en-US")} to ${most.toLocaleString("en-US")}`,
      });

/** Milliseconds of a finite duration. */
export const millisOf = (operation: string, field: string, duration: Duration.DurationInput) => {
  const millis = Option.map(Duration.decodeUnknown(duration), Duration.toMillis);
  return Option.match(Option.filter(millis, Number.isFinite), {
    onSome: Effect.succeed,
    onNone: () => new InvalidInput({ operation, field, problem: "is no finite duration" }),
  });
};

/** A payload as the text that jsonb reads. */
export const payloadOf = (operation: string, field: string, payload: unknown) =>
  Option.match(notStorable(payload), {
    onNone: () => Effect.sync(() => JSON.stringify(payload)),
    onSome: ({ path, problem }) => new InvalidInput({ operation, field: `${field} at ${path}`, problem }),
  });
