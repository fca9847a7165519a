/**
 * Who may use the HTTP API: bearer tokens, each with a tenant or all of them, and a role.
 *
 * Contract: the server knows only hashes; every token is compared with all of them in constant time, so the answer's time tells
 * nothing. The tenant comes from the token and from nowhere else.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type * as Client from "@parametric-portal/database/client";
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as ParseResult from "effect/ParseResult";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";

/** viewer: looks · operator: replays, discards, restores, imports, exports · admin: purges, retains and erases, and may have every tenant. */
export const Role = S.Literal("viewer", "operator", "admin");
export type Role = typeof Role.Type;

const rank: Readonly<Record<Role, number>> = { viewer: 0, operator: 1, admin: 2 };
export const isAtLeast = (role: Role, least: Role): boolean => rank[role] >= rank[least];

/** One token, as the file has it. */
export const Grant = S.Struct({
  /** Whose it is; the actor in the ledger. */
  name: S.NonEmptyTrimmedString.pipe(S.maxLength(200)),
  /** SHA-256 of the token, in hex. */
  sha256: S.String.pipe(S.pattern(/^[0-9a-f]{64}$/u)),
  /** An app's id, or `*` for every tenant, which needs the role admin. */
  tenant: S.Union(S.UUID, S.Literal("*")),
  role: Role,
  /** Whether a viewer sees payloads and error texts. Operators and admins do. Default false. */
  seesPayloads: S.optionalWith(S.Boolean, { default: () => false }),
  /** From then on it is refused. Default: never. */
  expiresAt: S.optional(S.Date.pipe(S.validDate())),
}).pipe(
  S.filter(({ role, tenant }) =>
    tenant === "*" && role !== "admin" ? "every tenant (*) needs the role admin" : undefined,
  ),
);
export type Grant = typeof Grant.Type;

/** The file: a list of tokens. */
export const Grants = S.parseJson(S.Array(Grant));

/** The tokens cannot be used as they are written. */
export class TokensInvalid extends S.TaggedError<TokensInvalid>()("TokensInvalid", {
  source: S.String,
  problem: S.String,
}) {
  override get message() {
    return `The tokens of ${this.source} cannot be used: ${this.problem}. Make one with dlq token.`;
  }
}

const decodeGrants = S.decodeUnknown(Grants, { onExcessProperty: "error" });

/** Tokens from their text; `source` is where it is from. Never the text itself in an error. */
export const parse = (source: string, text: string): Effect.Effect<ReadonlyArray<Grant>, TokensInvalid> =>
  decodeGrants(text).pipe(
    Effect.mapError((error) => {
      const [issue] = ParseResult.ArrayFormatter.formatErrorSync(error);
      const path = issue?.path.map(String).join(".") ?? "";
      const problem = path === "" ? "it is no JSON list of tokens" : `${path} is not what it should be`;
      return new TokensInvalid({
        source,
        problem: /needs the role admin/u.test(issue?.message ?? "") ? "every tenant (*) needs the role admin" : problem,
      });
    }),
    Effect.filterOrFail(
      (grants) => grants.length > 0,
      () => new TokensInvalid({ source, problem: "there is none" }),
    ),
    Effect.filterOrFail(
      (grants) => new Set(grants.map(({ sha256 }) => sha256)).size === grants.length,
      () => new TokensInvalid({ source, problem: "two of them are the same token" }),
    ),
  );

/** Who asks, for as long as the request lasts. */
export class Caller extends Context.Tag("@parametric-portal/operator/Caller")<
  Caller,
  {
    readonly name: string;
    readonly role: Role;
    readonly scope: Client.DataScope;
    readonly seesPayloads: boolean;
    /** From then on it is nobody: what is still being answered ends. Absent: never. */
    readonly expiresAt?: Date | undefined;
  }
>() {}

export const hashOf = (token: string): string => createHash("sha256").update(token, "utf8").digest("hex");

/** A new token of 256 bits. It is shown once; the file has its hash. */
export const makeToken = (): string => `dlq_${randomBytes(32).toString("base64url")}`;

/** Whose token it is; none when there is no such token, or it has expired. */
export const verify = (grants: ReadonlyArray<Grant>, token: Redacted.Redacted) =>
  Effect.map(Clock.currentTimeMillis, (now): (typeof Caller)["Service"] | undefined => {
    const given = Buffer.from(hashOf(Redacted.value(token)), "hex");
    let found: Grant | undefined;
    for (const grant of grants) if (timingSafeEqual(given, Buffer.from(grant.sha256, "hex"))) found = grant;
    if (found === undefined || (found.expiresAt !== undefined && found.expiresAt.getTime() <= now)) return undefined;
    return {
      name: found.name,
      role: found.role,
      scope: found.tenant === "*" ? { _tag: "system" } : { _tag: "tenant", appId: found.tenant },
      seesPayloads: found.seesPayloads || isAtLeast(found.role, "operator"),
      expiresAt: found.expiresAt,
    };
  });
