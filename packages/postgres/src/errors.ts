/** Why no PostgreSQL 18 could be had. */
import * as S from "effect/Schema";

/** Where a server comes from. */
export const Provider = S.Literal("url", "testcontainers", "embedded");
export type Provider = typeof Provider.Type;

/** No server: `problem` says what happened, `remedy` what to do about it. Nothing is left running. */
export class PostgresUnavailable extends S.TaggedError<PostgresUnavailable>()("PostgresUnavailable", {
  provider: S.String,
  problem: S.String,
  remedy: S.String,
}) {
  override get message() {
    return `No PostgreSQL 18 (${this.provider}): ${this.problem}. ${this.remedy}`;
  }
}
