/**
 * What the demo does with each delivery: a payload Schema and a handler per job type, in two releases.
 *
 * `deployed` is the release that the story starts with, and it has two honest mistakes: it requires that every issue has a
 * text, and nobody wrote a handler for security advisories. `repaired` is the release that mends both. The third cause of
 * dead letters, an announcement service that is down, is no fault of the code.
 */

import type { Job } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as ParseResult from "effect/ParseResult";
import * as Ref from "effect/Ref";
import * as S from "effect/Schema";

/** The payload does not fit its Schema. Trying again cannot help. */
export class PayloadInvalid extends Data.TaggedError("PayloadInvalid")<{ readonly message: string }> {}

/** The announcement service took nothing. Trying again may help. */
export class AnnouncerDown extends Data.TaggedError("AnnouncerDown")<{ readonly message: string }> {}

/** The service outside that releases are announced to. It is down until somebody repairs it. */
export class Announcer extends Effect.Service<Announcer>()("demo/Announcer", {
  effect: Effect.gen(function* () {
    const isUp = yield* Ref.make(false);
    return {
      announce: (text: string) =>
        Effect.filterOrFail(
          Ref.get(isUp),
          (up) => up,
          () => new AnnouncerDown({ message: `503 Service Unavailable, not announced: ${text}` }),
        ),
      repair: Ref.set(isUp, true),
    };
  }),
}) {}

/** Registers a handler: the payload is decoded first, and every issue that the Schema has with it is named by its path. */
const handler = <A, I, E, R>(payload: S.Schema<A, I>, run: (payload: A, job: Job) => Effect.Effect<unknown, E, R>) => {
  const decode = S.decodeUnknown(payload, { errors: "all" });
  return (job: Job) =>
    decode(job.payload).pipe(
      Effect.mapError((error) => {
        const issues = ParseResult.ArrayFormatter.formatErrorSync(error);
        const lines = issues.map(({ message, path }) => `${path.map(String).join(".")}: ${message}`);
        return new PayloadInvalid({ message: lines.join("\n") });
      }),
      Effect.flatMap((decoded) => run(decoded, job)),
    );
};

const Sender = S.Struct({ login: S.NonEmptyString, id: S.NonNegativeInt });
const Repository = S.Struct({ id: S.NonNegativeInt, full_name: S.NonEmptyString });
const Issue = S.Struct({ number: S.Positive, title: S.String, user: Sender, body: S.NullOr(S.String) });

/** What every delivery has that a person caused. */
const Delivered = S.Struct({ sender: Sender });
const Ping = S.Struct({ zen: S.NonEmptyString, hook_id: S.NonNegativeInt, sender: Sender });
const Star = S.Struct({
  action: S.Literal("created", "deleted"),
  starred_at: S.NullOr(S.DateFromString),
  repository: Repository,
  sender: Sender,
});
const Push = S.Struct({
  ref: S.TemplateLiteral("refs/", S.String),
  before: S.String.pipe(S.length(40)),
  after: S.String.pipe(S.length(40)),
  commits: S.Array(S.Struct({ id: S.String.pipe(S.length(40)), message: S.String })),
  repository: Repository,
});
const PullRequest = S.Struct({
  action: S.NonEmptyString,
  number: S.Positive,
  pull_request: S.Struct({ title: S.String, body: S.NullOr(S.String), merged: S.Boolean, user: Sender }),
  repository: Repository,
});
const IssueComment = S.Struct({
  issue: Issue,
  comment: S.Struct({ body: S.String, user: Sender }),
  repository: Repository,
});
const Release = S.Struct({
  action: S.NonEmptyString,
  release: S.Struct({ tag_name: S.NonEmptyString, name: S.NullOr(S.String) }),
  repository: Repository,
});
const Advisory = S.Struct({
  action: S.Literal("published", "updated", "withdrawn"),
  security_advisory: S.Struct({
    ghsa_id: S.TemplateLiteral("GHSA-", S.String),
    severity: S.Literal("low", "moderate", "high", "critical"),
    vulnerabilities: S.Array(S.Struct({ package: S.Struct({ ecosystem: S.String, name: S.String }) })),
  }),
});

/** Who wrote an issue on GitHub may leave its text empty, and then `body` is null and not "". */
const Issues = S.Struct({ action: S.NonEmptyString, issue: Issue, repository: Repository });
const IssuesWithText = S.Struct({ ...Issues.fields, issue: S.Struct({ ...Issue.fields, body: S.String }) });

/** A handler reads its own tenant's name: the only thing that the demo's handlers need from the database. */
const announceRelease = handler(Release, ({ action, release, repository }, job) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const announcer = yield* Announcer;
    const app = Option.getOrThrow(yield* db.apps.get(job.appId));
    yield* announcer.announce(`${repository.full_name} ${release.tag_name} (${action}) to ${app.name}`);
  }),
);

const done = () => Effect.void;

const specific = {
  "github.issue_comment": handler(IssueComment, done),
  "github.issues": handler(IssuesWithText, done),
  "github.ping": handler(Ping, done),
  "github.pull_request": handler(PullRequest, done),
  "github.push": handler(Push, done),
  "github.release": announceRelease,
  "github.star": handler(Star, done),
};

/** The type that `deployed` does not know. */
export const forgottenType = "github.security_advisory";

/** Types with a Schema of their own; every other one is handled by what all deliveries have in common. */
export const specificTypes: ReadonlyArray<string> = Object.keys(specific);

/** Handlers by job type. */
export type Handlers = ReadonlyMap<string, Handler>;
export type Handler = (job: Job) => ReturnType<typeof announceRelease>;

/** The release at the start: a handler for each of these types but the forgotten one. */
export const deployed = (types: Iterable<string>): Handlers => {
  const generic: ReadonlyArray<readonly [string, Handler]> = [...new Set(types)]
    .filter((type) => type !== forgottenType)
    .map((type) => [type, handler(Delivered, done)]);
  return new Map<string, Handler>([...generic, ...Object.entries<Handler>(specific)]);
};

/** The release that mends both mistakes. */
export const repaired = (types: Iterable<string>): Handlers =>
  new Map([...deployed(types), ["github.issues", handler(Issues, done)], [forgottenType, handler(Advisory, done)]]);
