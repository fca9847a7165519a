/**
 * The HTTP API, by its own definition: the server, the OpenAPI document and the typed client are made of it.
 *
 * Everything is below `/api/v1` and works in the scope of the caller's token. Errors are problem+json (RFC 9457). What a viewer may not
 * see is left out, and `isHidden` says so.
 */
import * as HttpApi from "@effect/platform/HttpApi";
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint";
import * as HttpApiGroup from "@effect/platform/HttpApiGroup";
import * as HttpApiMiddleware from "@effect/platform/HttpApiMiddleware";
import * as HttpApiSchema from "@effect/platform/HttpApiSchema";
import * as HttpApiSecurity from "@effect/platform/HttpApiSecurity";
import * as OpenApi from "@effect/platform/OpenApi";
import { RestoreReceipt } from "@parametric-portal/database/job-dlq/discard";
import { ErasureReceipt } from "@parametric-portal/database/job-dlq/erasure";
import { JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import { JobDlqGroup } from "@parametric-portal/database/job-dlq/insight";
import { EventKind, JobDlqEvent } from "@parametric-portal/database/job-dlq/ledger";
import { JobHistory } from "@parametric-portal/database/job-dlq/lineage";
import { RetentionReceipt } from "@parametric-portal/database/job-dlq/retention";
import { JobDlqStat, StatsKey } from "@parametric-portal/database/job-dlq/stats";
import { FailedAttempt } from "@parametric-portal/database/models";
import * as Context from "effect/Context";
import * as S from "effect/Schema";
import { Caller, Role } from "../access.js";

// --- errors ------------------------------------------------------------------

/** The members of RFC 9457; `_tag` is an extension. */
const problem = <const Status extends number, const Title extends string>(status: Status, title: Title) => ({
  type: S.Literal("about:blank").pipe(
    S.propertySignature,
    S.withConstructorDefault(() => "about:blank" as const),
  ),
  title: S.Literal(title).pipe(
    S.propertySignature,
    S.withConstructorDefault(() => title),
  ),
  status: S.Literal(status).pipe(
    S.propertySignature,
    S.withConstructorDefault(() => status),
  ),
  /** What is wrong, and what to do. */
  detail: S.String,
});
const asProblem = HttpApiSchema.withEncoding(S.Struct({}), { kind: "Json", contentType: "application/problem+json" })
  .ast.annotations;

/** The request cannot be meant; nothing was changed. */
export class BadRequest extends S.TaggedError<BadRequest>()("BadRequest", problem(400, "Bad Request"), {
  ...HttpApiSchema.annotations({ status: 400, description: "The request cannot be meant; nothing was changed" }),
  ...asProblem,
}) {}
/** There is no token, or it is not known, or it has expired. */
export class Unauthorized extends S.TaggedError<Unauthorized>()("Unauthorized", problem(401, "Unauthorized"), {
  ...HttpApiSchema.annotations({
    status: 401,
    description: "There is no token, or it is not known, or it has expired",
  }),
  ...asProblem,
}) {}
/** The role of the token may not do this. */
export class Forbidden extends S.TaggedError<Forbidden>()("Forbidden", problem(403, "Forbidden"), {
  ...HttpApiSchema.annotations({ status: 403, description: "The role of the token may not do this" }),
  ...asProblem,
}) {}
/** There is nothing like it in the scope of the token. */
export class NotFound extends S.TaggedError<NotFound>()("NotFound", problem(404, "Not Found"), {
  ...HttpApiSchema.annotations({ status: 404, description: "There is nothing like it in the scope of the token" }),
  ...asProblem,
}) {}
/** The token was used too often, or too many unknown ones came from this address. */
export class TooManyRequests extends S.TaggedError<TooManyRequests>()(
  "TooManyRequests",
  { ...problem(429, "Too Many Requests"), retryAfterSeconds: S.Int },
  { ...HttpApiSchema.annotations({ status: 429, description: "Too often; Retry-After says when" }), ...asProblem },
) {}
/** It is stored in a way that the model does not know. */
export class Unreadable extends S.TaggedError<Unreadable>()("Unreadable", problem(422, "Unprocessable Content"), {
  ...HttpApiSchema.annotations({ status: 422, description: "The stored row does not fit the model" }),
  ...asProblem,
}) {}
/** The database does not answer. */
export class Unavailable extends S.TaggedError<Unavailable>()("Unavailable", problem(503, "Service Unavailable"), {
  ...HttpApiSchema.annotations({ status: 503, description: "The database does not answer" }),
  ...asProblem,
}) {}

/** Who asks, by the bearer token. */
export class Authorization extends HttpApiMiddleware.Tag<Authorization>()("@parametric-portal/operator/Authorization", {
  failure: S.Union(Unauthorized, TooManyRequests),
  provides: Caller,
  security: { bearer: HttpApiSecurity.bearer },
}) {}

// --- what is asked -----------------------------------------------------------

/** What it does not know is refused: a condition that is misspelled would exclude nothing. */
const refusesUnknown = { parseOptions: { onExcessProperty: "error" } } as const;
const strict = <Fields extends S.Struct.Fields>(fields: Fields) => S.Struct(fields).annotations(refusesUnknown);

const Limit = S.NumberFromString.pipe(S.int(), S.between(1, 1000));
const Json = S.parseJson(S.Unknown);
const optional = <A, I>(schema: S.Schema<A, I>) => S.optionalWith(schema, { exact: true });
const { fingerprint, originalJobId, reason, requestId, since, state, text, until, userId } = JobDlqFilter.fields;

/** The one filter, as parameters of a URL. */
const filterParams = {
  /** Ids, with commas between them. */
  ids: optional(S.split(",")),
  type: optional(S.NonEmptyString),
  /** Every type that begins with it. */
  typePrefix: optional(S.NonEmptyString),
  reason,
  since,
  until,
  requestId,
  userId,
  originalJobId,
  fingerprint,
  text,
  /** JSON that the payload contains. */
  payload: optional(Json),
  state,
};
/** Of a body. */
const Filter = JobDlqFilter.annotations(refusesUnknown);
/** How far figures look, where the answer must come soon. */
const most = optional(S.NumberFromString.pipe(S.int(), S.between(1, 1_000_000))).annotations({
  description:
    "How many of the newest are looked at, at most, 1 to 1,000,000; default all. Where there are more, `isExact` is false and counts are at least that",
});
const pageParams = { limit: optional(Limit), cursor: optional(S.String) };

// --- what is answered --------------------------------------------------------

export const Letter = S.Struct({
  id: S.UUID,
  originalJobId: S.UUID,
  appId: S.UUID,
  type: S.String,
  /** Null when it is hidden. */
  payload: S.Unknown,
  errorReason: S.String,
  attempts: S.Number,
  /** Empty when it is hidden. */
  errorHistory: S.Array(FailedAttempt),
  dlqAt: S.String,
  replayedAt: S.NullOr(S.String),
  requestId: S.NullOr(S.UUID),
  userId: S.NullOr(S.UUID),
  /** Whether payload and errors were left out, because the token may not see them. */
  isHidden: S.Boolean,
}).annotations({ identifier: "Letter" });

/** What was done; `detail` is null when the token may not see payloads. */
export const Event = S.Struct({ ...JobDlqEvent.fields, detail: S.Unknown, at: S.DateTimeUtc }).annotations({
  identifier: "Event",
});

const page = <A, I>(items: S.Schema<A, I>) => S.Struct({ items: S.Array(items), next: S.NullOr(S.String) });

/** A stored row that does not fit the model. Nothing is told of it to whom payloads are hidden. */
const Unfit = S.Struct({ id: S.String, problem: S.NullOr(S.String) });

export const Preview = S.Struct({
  /** At least, where `isExact` is false. */
  count: S.Int,
  /** Whether all were looked at: false only where `most` were, and then every figure is of those. */
  isExact: S.Boolean,
  /** The moment of it: what a bulk change takes as `asOf`, to leave what came since. */
  asOf: S.String,
  byType: S.Array(S.Struct({ type: S.String, count: S.Int })),
  byReason: S.Array(S.Struct({ reason: S.String, count: S.Int })),
  sample: S.Array(Letter),
});

/** What came of a bulk change: how many were asked for, and by outcome. */
export const Outcomes = S.Struct({
  asked: S.Int,
  outcomes: S.Record({ key: S.String, value: S.Int }),
});

/** Dead letters as `dlq export` writes them, one JSON object a line. */
const Lines = HttpApiSchema.Text({ contentType: "application/x-ndjson" });

/** What came of an import; `problems` are the first hundred lines that were refused, and why. */
export const Imported = S.Struct({
  lines: S.Int,
  imported: S.Int,
  duplicates: S.Int,
  refused: S.Int,
  problems: S.Array(S.String),
});

/** Server-sent events: `letter` for each dead letter as it comes, `progress`, `done`, `problem`. */
const Events = HttpApiSchema.Text({ contentType: "text/event-stream" });

/** What a route does, and the least role that may: the handlers ask for it, and a test compares the two. */
const says = (least: Role | "viewer who sees payloads", what: string) =>
  Context.make(OpenApi.Description, `${what} Role: ${least}.`);

// --- reading -----------------------------------------------------------------

const id = HttpApiSchema.param("id", S.UUID);

const reading = HttpApiGroup.make("reading")
  .add(
    HttpApiEndpoint.get("me", "/me")
      .addSuccess(S.Struct({ name: S.String, role: Role, tenant: S.NullOr(S.UUID), seesPayloads: S.Boolean }))
      .annotateContext(says("viewer", "Whose token it is, and what it may do.")),
  )
  .add(
    HttpApiEndpoint.get("letters", "/letters")
      .setUrlParams(strict({ ...filterParams, ...pageParams }))
      .addSuccess(S.Struct({ items: S.Array(Letter), unreadable: S.Array(Unfit), next: S.NullOr(S.String) }))
      .annotateContext(
        says(
          "viewer",
          "Dead letters that the filter matches, the newest first, page by page: `next` is the cursor of the next one.",
        ),
      ),
  )
  .add(
    HttpApiEndpoint.get("letter")`/letters/${id}`
      .addSuccess(Letter)
      .annotateContext(says("viewer", "One dead letter.")),
  )
  .add(
    HttpApiEndpoint.get("raw")`/letters/${id}/raw`
      .addSuccess(Letter)
      .annotateContext(
        says(
          "viewer who sees payloads",
          "One dead letter, read by somebody who may see payloads; the ledger has it as `viewed`.",
        ),
      ),
  )
  .add(
    HttpApiEndpoint.get("history")`/jobs/${id}/history`
      .addSuccess(JobHistory)
      .annotateContext(says("viewer", "Every round of a job, and what became of it.")),
  )
  .add(
    HttpApiEndpoint.get("preview", "/preview")
      .setUrlParams(strict({ ...filterParams, most }))
      .addSuccess(Preview)
      .annotateContext(
        says(
          "viewer",
          "What a change with this filter would touch: how many, by type and by reason, and some of them.",
        ),
      ),
  )
  .add(
    HttpApiEndpoint.get("groups", "/groups")
      .setUrlParams(strict({ ...filterParams, limit: optional(Limit), most }))
      .addSuccess(S.Array(JobDlqGroup))
      .annotateContext(says("viewer", "The failures that are the same failure, the most frequent first.")),
  )
  .add(
    HttpApiEndpoint.get("stats", "/stats")
      /** `from`: where the window begins. Each figure says itself which state it counts, so `state` is refused. */
      .setUrlParams(strict({ by: StatsKey, from: optional(S.Date.pipe(S.validDate())), most, ...filterParams }))
      .addSuccess(S.Array(JobDlqStat))
      .annotateContext(says("viewer", "How many dead letters, by type, reason or time, and whether replaying helps.")),
  )
  .add(
    HttpApiEndpoint.get("events", "/events")
      .setUrlParams(
        strict({
          dlqId: optional(S.UUID),
          originalJobId: optional(S.UUID),
          kind: optional(EventKind),
          actor: optional(S.NonEmptyString),
          ...pageParams,
        }),
      )
      .addSuccess(page(Event))
      .annotateContext(says("viewer", "The ledger: who did what, the newest first, page by page.")),
  )
  .add(
    HttpApiEndpoint.get("export", "/export")
      .setUrlParams(strict(filterParams))
      .addSuccess(Lines)
      .annotateContext(
        says(
          "operator",
          "What the filter matches, exact, one JSON object a line. An answer that was not ended whole broke off: ask again.",
        ),
      ),
  )
  .add(
    HttpApiEndpoint.get("changes", "/changes")
      /** `after`: the id of an event of an earlier stream. Default: from now on. */
      .setUrlParams(strict({ after: optional(S.NonEmptyString) }))
      .setHeaders(S.Struct({ "last-event-id": optional(S.NonEmptyString) }))
      .addSuccess(Events)
      .annotateContext(
        says(
          "viewer",
          "Dead letters as they come, as server-sent events `letter`; `Last-Event-ID` goes on behind one.",
        ),
      ),
  )
  .middleware(Authorization);

// --- changing ----------------------------------------------------------------

const bulk = {
  limit: optional(S.Int.pipe(S.positive())),
  asOf: optional(S.String),
  ratePerSecond: optional(S.Number.pipe(S.positive())),
};
const why = S.NonEmptyTrimmedString.pipe(S.maxLength(2000));

const changing = HttpApiGroup.make("changing")
  .add(
    HttpApiEndpoint.post("replay", "/replay")
      .setPayload(
        strict({
          filter: Filter,
          /** What the jobs get instead of their own payload. */
          payload: optional(S.Unknown),
          delayMillis: optional(S.Int.pipe(S.nonNegative())),
          ...bulk,
        }),
      )
      .addSuccess(Outcomes)
      .annotateContext(
        says(
          "operator",
          "Replays what the filter matches, the oldest first. Who accepts `text/event-stream` gets each batch as `progress`, then `done`.",
        ),
      ),
  )
  .add(
    HttpApiEndpoint.post("discard", "/discard")
      .setPayload(strict({ filter: Filter, reason: why, limit: bulk.limit, asOf: bulk.asOf }))
      .addSuccess(Outcomes)
      .annotateContext(
        says("operator", "Discards what the filter matches; `restore` brings it back. Events as with replay."),
      ),
  )
  .add(
    HttpApiEndpoint.post("restore", "/restore")
      .setPayload(strict({ eventIds: S.Array(S.UUID).pipe(S.minItems(1), S.maxItems(10_000)), reason: optional(why) }))
      .addSuccess(S.Array(RestoreReceipt))
      .annotateContext(
        says("operator", "Brings back what the events of the ledger removed, with the outcome of each."),
      ),
  )
  .add(
    HttpApiEndpoint.post("import", "/import")
      .setPayload(Lines)
      .addSuccess(Imported)
      .annotateContext(
        says(
          "operator",
          "Takes in what an export wrote; each dead letter once, however often it is sent. What is longer than a body may be is sent in parts.",
        ),
      ),
  )
  .add(
    HttpApiEndpoint.post("purge", "/purge")
      .setPayload(strict({ olderThanDays: S.Int.pipe(S.nonNegative()) }))
      .addSuccess(S.Struct({ purged: S.Int }))
      .annotateContext(says("admin", "Deletes replayed dead letters for good.")),
  )
  .add(
    HttpApiEndpoint.post("retain", "/retain")
      .setPayload(
        strict({
          replayed: optional(S.Int.pipe(S.nonNegative())),
          discarded: optional(S.Int.pipe(S.nonNegative())),
          pending: optional(S.Int.pipe(S.positive())),
        }),
      )
      .addSuccess(RetentionReceipt)
      .annotateContext(
        says("admin", "Deletes what is older than so many days. `discarded` needs a token for every tenant."),
      ),
  )
  .add(
    HttpApiEndpoint.post("erase", "/erase")
      .setPayload(strict({ filter: Filter, reason: optional(why) }))
      .addSuccess(ErasureReceipt)
      .annotateContext(
        says("admin", "Erases personal data for good: dead letters, their copies in the ledger and their jobs."),
      ),
  )
  .middleware(Authorization);

export const Api = HttpApi.make("dlq")
  .add(reading)
  .add(changing)
  .prefix("/api/v1")
  .addError(BadRequest)
  .addError(Forbidden)
  .addError(NotFound)
  .addError(TooManyRequests)
  .addError(Unreadable)
  .addError(Unavailable)
  .annotate(OpenApi.Title, "Dead letters")
  .annotate(OpenApi.Description, "What the command dlq does, over HTTP: in the scope of the caller's token.");
