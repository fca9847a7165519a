/** How `dlq` ends: 0 done · 1 failed · 2 wrong usage · 3 nothing matched · 130 stopped by Ctrl-C. */
import * as ValidationError from "@effect/cli/ValidationError";
import { databaseError } from "@parametric-portal/database/sql-state";
import * as Cause from "effect/Cause";
import * as Exit from "effect/Exit";
import * as S from "effect/Schema";

/** It was asked for in a way that cannot be meant. Exit code 2. */
export class WrongUsage extends S.TaggedError<WrongUsage>()("WrongUsage", { problem: S.String }) {
  override get message() {
    return this.problem;
  }
}

/** Nothing is there that could be shown or changed. Exit code 3. */
export class NothingMatched extends S.TaggedError<NothingMatched>()("NothingMatched", { what: S.String }) {
  override get message() {
    return this.what;
  }
}

export const noLetterMatches = () => new NothingMatched({ what: "No dead letter matches." });

/** It did not come to its end for the reason that it says. Exit code 1. */
export class Failed extends S.TaggedError<Failed>()("Failed", { reason: S.String }) {
  override get message() {
    return this.reason;
  }
}

/** The same command ended so on a server of its own, and has said why. */
export class Ended extends S.TaggedError<Ended>()("Ended", { code: S.Int }) {}

const tagOf = (error: unknown) =>
  typeof error === "object" && error !== null ? (Reflect.get(error, "_tag") as unknown) : undefined;

/** What the person who called it reads. */
export const explain = (error: unknown): string => {
  switch (tagOf(error)) {
    case "SqlError":
      return `The database does not answer as it should: ${databaseError(error as never).message}`;
    case "ConfigError":
      return `The environment is not usable: ${String(error)}`;
    default:
      return error instanceof Error ? error.message : String(error);
  }
};

/** Its exit code. */
export const codeOf = (exit: Exit.Exit<unknown, unknown>): number => {
  if (Exit.isSuccess(exit)) return 0;
  if (Cause.isInterruptedOnly(exit.cause)) return 130;
  const error = Cause.squash(exit.cause);
  if (ValidationError.isValidationError(error)) return 2;
  if (error instanceof Ended) return error.code;
  switch (tagOf(error)) {
    case "WrongUsage":
    case "InvalidInput":
    case "InvalidCursor":
      return 2;
    case "NothingMatched":
      return 3;
    default:
      return 1;
  }
};
