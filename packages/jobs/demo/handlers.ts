/**
 * What the demo does with each delivery: a payload Schema and a handler per job type, in two releases.
 *
 * `deployed` is the release that the story starts with, and it has two honest mistakes: it requires that every issue has a
 * text, and nobody wrote a handler for security advisories. `repaired` is the release that mends both. The third cause of
 * dead letters, an announcement service that is down, is no fault of the code.
 */
import * as NodeContext from "@effect/platform-node/NodeContext";
import { DatabaseService } from "@parametric-portal/database/repos";
import type { JobHandlers } from "@parametric-portal/jobs/handlers";
import * as JobType from "@parametric-portal/jobs/job-type";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Random from "effect/Random";
import * as S from "effect/Schema";
import { Announcer } from "./announcer.js";
import { readDeliveries } from "./deliveries.js";

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

type Handlers = Layer.Layer<never, never, JobHandlers>;

/** Short waits, so that the story is short. */
const retry = { initial: "200 millis", max: "1 second" } as const;

const kind = <A, I>(name: string, payload: S.Schema<A, I>) =>
  JobType.make(name, { payload, retry, timeout: "10 seconds" });

/** A handler that takes as long as a call to somewhere else does. */
const done = <A, I>(name: string, payload: S.Schema<A, I>) =>
  kind(name, payload).toLayer(() => Effect.flatMap(Random.nextIntBetween(50, 200), (millis) => Effect.sleep(millis)));

/** Reads its own tenant's name: the only thing that the demo's handlers need from the database. */
const announceRelease = kind("github.release", Release).toLayer(({ action, release, repository }, { appId }) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const announcer = yield* Announcer;
    const app = Option.getOrThrow(yield* db.apps.get(appId));
    yield* announcer.announce(`${repository.full_name} ${release.tag_name} (${action}) to ${app.name}`);
  }),
);

/** The type that `deployed` does not know. */
export const forgottenType = "github.security_advisory";

/** Types with a Schema of their own; every other one is handled by what all deliveries have in common. */
export const specificTypes: ReadonlyArray<string> = [
  "github.issue_comment",
  "github.issues",
  "github.ping",
  "github.pull_request",
  "github.push",
  "github.release",
  "github.star",
];

const others = Layer.unwrapEffect(
  Effect.map(readDeliveries, (deliveries) => {
    const types = new Set(deliveries.map(({ type }) => type));
    for (const type of [...specificTypes, forgottenType]) types.delete(type);
    return [...types].reduce((layers, type) => Layer.merge(layers, done(type, Delivered)), Layer.empty as Handlers);
  }),
).pipe(Layer.provide(NodeContext.layer));

const common = Layer.mergeAll(
  others,
  done("github.issue_comment", IssueComment),
  done("github.ping", Ping),
  done("github.pull_request", PullRequest),
  done("github.push", Push),
  announceRelease,
  done("github.star", Star),
);

/** The release at the start: a handler for each type but the forgotten one. */
export const deployed = Layer.merge(common, done("github.issues", IssuesWithText));

/** The release that mends both mistakes. */
export const repaired = Layer.mergeAll(common, done("github.issues", Issues), done(forgottenType, Advisory));
