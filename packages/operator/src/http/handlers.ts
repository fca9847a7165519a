/**
 * What the HTTP API answers: the operations of the database package, in the scope and the role of the caller.
 *
 * Contract: every request runs in the scope of its token, whatever it says; the role is asked before the database is. What is not
 * the caller's fault is a 503 that tells nothing of the inside. A change that is sent as events stops, between two batches, when its
 * reader goes away.
 */
import * as Sse from "@effect/experimental/Sse";
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder";
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest";
import * as HttpServerResponse from "@effect/platform/HttpServerResponse";
import * as Client from "@parametric-portal/database/client";
import { BadRow } from "@parametric-portal/database/errors";
import { checkFilter, type JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import { JobDlqGroup } from "@parametric-portal/database/job-dlq/insight";
import { JobDlqRound, JobHistory } from "@parametric-portal/database/job-dlq/lineage";
import { isDeeper, maxDepth } from "@parametric-portal/database/json";
import type { JobDlq } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Arr from "effect/Array";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as Schedule from "effect/Schedule";
import * as Stream from "effect/Stream";
import { Caller, isAtLeast, type Role } from "../access.js";
import type { Target } from "../options.js";
import { letterJson } from "../output.js";
import { Api, BadRequest, Forbidden, type Letter, NotFound, TooManyRequests, Unavailable, Unreadable } from "./api.js";

// --- errors ------------------------------------------------------------------

type ApiError = BadRequest | Forbidden | NotFound | TooManyRequests | Unreadable | Unavailable;
const isApiError = (error: unknown): error is ApiError =>
  error instanceof BadRequest ||
  error instanceof Forbidden ||
  error instanceof NotFound ||
  error instanceof TooManyRequests ||
  error instanceof Unreadable ||
  error instanceof Unavailable;

const unavailable = new Unavailable({
  detail: "The database does not answer as it should. Try again; the server's log says more.",
});

interface Tagged {
  readonly _tag: string;
  readonly message: string;
}

/** An operation's error as the API's. */
const problemOf = (error: Tagged): Effect.Effect<ApiError> => {
  if (isApiError(error)) return Effect.succeed(error);
  if (error._tag === "BadRow") {
    const detail =
      "The stored row does not fit the model. The export has it as it is; the server's log says what does not fit.";
    return Effect.as(Effect.logError("A stored row does not fit the model", error), new Unreadable({ detail }));
  }
  return callersFaults.has(error._tag)
    ? Effect.succeed(new BadRequest({ detail: error.message }))
    : Effect.as(Effect.logError("A request failed", error), unavailable);
};
const callersFaults = new Set(["InvalidInput", "InvalidCursor"]);

const answered = <A, E extends Tagged, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, ApiError, R> =>
  Effect.catchAll(effect, (error) => Effect.flip(problemOf(error)));

// --- in the caller's scope ---------------------------------------------------

const needs = (least: Role) =>
  Effect.filterOrFail(
    Caller,
    ({ role }) => isAtLeast(role, least),
    ({ role }) => new Forbidden({ detail: `This needs the role ${least}, and the token's is ${role}.` }),
  );

/** Runs what a role may do, in one transaction of the caller's scope. */
const as = <A, E extends Tagged, R>(
  least: Role,
  use: (db: DatabaseService, caller: (typeof Caller)["Service"], inside: Target["inside"]) => Effect.Effect<A, E, R>,
) =>
  Effect.gen(function* () {
    const caller = yield* needs(least);
    const db = yield* DatabaseService;
    const { scope } = caller;
    const inside = (scope._tag === "tenant" ? Client.tenant(scope.appId) : Client.system) as Target["inside"];
    return yield* use(db, caller, inside);
  }).pipe(answered);

const shown =
  ({ seesPayloads }: (typeof Caller)["Service"]) =>
  (letter: JobDlq): typeof Letter.Type => {
    const { dlqAt, ...json } = letterJson(letter);
    const stored = { ...json, dlqAt: String(dlqAt), replayedAt: timeOf(json.replayedAt), isHidden: false };
    return seesPayloads ? stored : { ...stored, payload: null, errorHistory: [], isHidden: true };
  };
const timeOf = (at: Date | null) => (at === null ? null : at.toISOString());

/** What was stored past this package may be nested so deep that nothing can write it as JSON. It must not hide the others. */
const fitting = (letter: JobDlq): Either.Either<JobDlq, BadRow> =>
  isDeeper(letter.payload, maxDepth)
    ? Either.left(
        new BadRow({ table: "job_dlq", id: letter.id, problem: `payload is nested deeper than ${maxDepth} levels` }),
      )
    : Either.right(letter);

type FilterParams = Omit<JobDlqFilter, "type" | "all"> & {
  readonly type?: string;
  readonly typePrefix?: string;
  readonly limit?: number;
  readonly cursor?: string;
  readonly most?: number;
};

/** The filter of a URL. Who may not see payloads and errors may not ask either what is in them. */
const filterOf = (
  { seesPayloads }: (typeof Caller)["Service"],
  { cursor: _cursor, limit: _limit, most: _most, type, typePrefix, ...rest }: FilterParams,
): Effect.Effect<JobDlqFilter, BadRequest | Forbidden> => {
  if (type !== undefined && typePrefix !== undefined) {
    return new BadRequest({ detail: "Say type or typePrefix, not both." });
  }
  if (!seesPayloads && (rest.text !== undefined || rest.payload !== undefined)) {
    return new Forbidden({ detail: "The token may not see payloads and errors, so it may not search in them." });
  }
  return Effect.succeed({
    ...rest,
    ...(type === undefined ? {} : { type }),
    ...(typePrefix === undefined ? {} : { type: { prefix: typePrefix } }),
  });
};

// --- events ------------------------------------------------------------------

const event = (name: string, data: unknown, id?: string) =>
  Sse.encoder.write({ _tag: "Event", event: name, id, data: JSON.stringify(data) });

// Proxies end what is silent.
const alive = Stream.repeatEffectWithSchedule(Effect.succeed(": \n\n"), Schedule.spaced("15 seconds"));

/** Ends an answer that goes on when the token that asked for it expires. */
const untilExpiry =
  ({ expiresAt }: (typeof Caller)["Service"]) =>
  <A, E, R>(stream: Stream.Stream<A, E, R>): Stream.Stream<A, E, R> =>
    expiresAt === undefined
      ? stream
      : Stream.interruptWhen(
          stream,
          Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sleep(Math.max(expiresAt.getTime() - now, 0))),
        );

/** Server-sent events; what goes wrong is the last of them, `problem`. */
const events = <E extends Tagged, R>(stream: Stream.Stream<string, E, R>) =>
  Effect.map(Effect.context<R>(), (context) =>
    HttpServerResponse.stream(
      stream.pipe(
        Stream.catchAll((error) => Stream.fromEffect(Effect.map(problemOf(error), (_) => event("problem", _)))),
        Stream.merge(alive, { haltStrategy: "left" }),
        Stream.encodeText,
        Stream.provideContext(context),
      ),
      { contentType: "text/event-stream" },
    ),
  );

const wantsEvents = ({ headers }: HttpServerRequest.HttpServerRequest) =>
  headers.accept?.includes("text/event-stream") === true;

// --- reading -----------------------------------------------------------------

/** Each has a connection to the database of its own. */
const mostChanges = 20;

export const reading = HttpApiBuilder.group(Api, "reading", (handlers) => {
  let changes = 0;
  return handlers
    .handle("me", () =>
      Effect.map(Caller, ({ name, role, scope, seesPayloads }) => ({
        name,
        role,
        seesPayloads,
        tenant: scope._tag === "tenant" ? scope.appId : null,
      })),
    )
    .handle("letters", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const { cursor, limit } = urlParams;
          const { bad, items, next } = yield* inside(
            db.jobDlq.page(yield* filterOf(caller, urlParams), { limit: limit ?? 50, cursor }),
          );
          const [deep, fit] = Arr.partitionMap(items, fitting);
          return {
            items: fit.map(shown(caller)),
            unreadable: [...bad, ...deep].map(({ id, message }) => ({
              id,
              problem: caller.seesPayloads ? message : null,
            })),
            next: Option.getOrNull(next),
          };
        }),
      ),
    )
    .handle("letter", ({ path }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const letter = yield* inside(db.jobDlq.get(path.id));
          return Option.isSome(letter)
            ? shown(caller)(yield* fitting(letter.value))
            : yield* new NotFound({ detail: `There is no dead letter ${path.id} in the token's scope.` });
        }),
      ),
    )
    .handle("raw", ({ path }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          if (!caller.seesPayloads) return yield* new Forbidden({ detail: "The token may not see payloads." });
          const letter = yield* inside(db.jobDlq.view(path.id, { actor: caller.name }));
          return Option.isSome(letter)
            ? shown(caller)(yield* fitting(letter.value))
            : yield* new NotFound({ detail: `There is no dead letter ${path.id} in the token's scope.` });
        }),
      ),
    )
    .handle("history", ({ path }) =>
      as("viewer", (db, { seesPayloads }, inside) =>
        Effect.map(inside(db.jobDlq.history(path.id)), (history) =>
          seesPayloads
            ? history
            : new JobHistory({
                ...history,
                rounds: history.rounds.map((round) => new JobDlqRound({ ...round, lastError: null })),
              }),
        ),
      ),
    )
    .handle("preview", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const { asOf, byReason, byType, count, isExact, sample } = yield* inside(
            db.jobDlq.preview(yield* filterOf(caller, urlParams), { most: urlParams.most }),
          );
          return {
            count,
            isExact,
            asOf,
            byType,
            byReason,
            sample: Arr.getRights(sample.map(fitting)).map(shown(caller)),
          };
        }),
      ),
    )
    .handle("groups", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const { limit, most } = urlParams;
          const groups = yield* inside(
            db.jobDlq.groups(yield* filterOf(caller, urlParams), { limit: limit ?? 20, most }),
          );
          return caller.seesPayloads ? groups : groups.map((group) => new JobDlqGroup({ ...group, message: null }));
        }),
      ),
    )
    .handle("stats", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const { by, from, most, ...filter } = urlParams;
          return yield* inside(db.jobDlq.stats({ by, since: from, most, filter: yield* filterOf(caller, filter) }));
        }),
      ),
    )
    .handle("events", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const { items, next } = yield* inside(db.jobDlq.events(urlParams));
          // The difference of two payloads tells both.
          const told = caller.seesPayloads ? items : items.map((event) => ({ ...event, detail: null }));
          return { items: told, next: Option.getOrNull(next) };
        }),
      ),
    )
    .handle("export", ({ urlParams }) =>
      as("operator", (db, caller) =>
        Effect.gen(function* () {
          // Told before the answer begins, not in the middle of it.
          const filter = yield* checkFilter("jobDlq.exportTo", yield* filterOf(caller, urlParams));
          const pieces = untilExpiry(caller)(db.jobDlq.exportTo(filter, { scope: caller.scope }));
          return HttpServerResponse.stream(
            Stream.tapError(Stream.encodeText(pieces), (error) => Effect.logError("An export broke off", error)),
            { contentType: "application/x-ndjson" },
          );
        }),
      ),
    )
    .handle("changes", ({ headers, request, urlParams }) =>
      as("viewer", (db, caller) =>
        Effect.gen(function* () {
          if (!wantsEvents(request)) return yield* new BadRequest({ detail: "Send Accept: text/event-stream." });
          if (changes >= mostChanges) {
            return yield* new TooManyRequests({
              detail: `There are ${mostChanges} readers of changes already. Close one, or ask for pages.`,
              retryAfterSeconds: 10,
            });
          }
          // A browser that connects anew says what it had last.
          const after = headers["last-event-id"] ?? urlParams.after;
          const counted = Stream.acquireRelease(
            Effect.sync(() => changes++),
            () => Effect.sync(() => changes--),
          );
          const arrivals = Stream.flatMap(counted, () => db.jobDlq.changes({ scope: caller.scope, after })).pipe(
            untilExpiry(caller),
          );
          return yield* events(
            Stream.map(arrivals, ({ letter, position }) =>
              Either.match(Either.flatMap(letter, fitting), {
                onLeft: ({ message }) => event("unreadable", { detail: caller.seesPayloads ? message : "" }, position),
                onRight: (one) => event("letter", shown(caller)(one), position),
              }),
            ),
          );
        }),
      ),
    );
});

// --- changing ----------------------------------------------------------------

interface Progress {
  readonly asked: number;
  readonly outcomes: Readonly<Record<string, number>>;
}
const told = ({ asked, outcomes }: Progress) => ({ asked, outcomes });

/** A bulk change: its end, or, for who accepts events, each batch as `progress` and then `done`. */
const bulk = <E extends Tagged, R>(
  request: HttpServerRequest.HttpServerRequest,
  progress: Stream.Stream<Progress, E, R>,
): Effect.Effect<Progress | HttpServerResponse.HttpServerResponse, E, R> => {
  let latest: Progress = { asked: 0, outcomes: {} };
  const followed = Stream.tap(Stream.map(progress, told), (one) => Effect.sync(() => (latest = one)));
  return wantsEvents(request)
    ? events(
        Stream.concat(
          Stream.map(followed, (one) => event("progress", one)),
          Stream.fromEffect(Effect.sync(() => event("done", latest))),
        ),
      )
    : Effect.map(Stream.runDrain(followed), () => latest);
};

/** Refused lines of an import that are told. */
const mostProblems = 100;

export const changing = HttpApiBuilder.group(Api, "changing", (handlers) =>
  handlers
    .handle("replay", ({ request, payload: { asOf, delayMillis, filter, limit, ratePerSecond, ...given } }) =>
      as("operator", (db, { name, scope }) =>
        bulk(
          request,
          db.jobDlq.replay(filter, { actor: name, scope, asOf, limit, ratePerSecond, delay: delayMillis, ...given }),
        ),
      ),
    )
    .handle("discard", ({ request, payload: { asOf, filter, limit, reason } }) =>
      as("operator", (db, { name, scope }) =>
        bulk(request, db.jobDlq.discard(filter, { actor: name, reason, scope, asOf, limit })),
      ),
    )
    .handle("restore", ({ payload: { eventIds, reason } }) =>
      as("operator", (db, { name }, inside) => inside(db.jobDlq.restore(eventIds, { actor: name, reason }))),
    )
    .handleRaw("import", ({ request }) =>
      as("operator", (db, { name, scope }) =>
        Effect.gen(function* () {
          const body = Stream.mapError(request.stream, () => new BadRequest({ detail: "The body ended too early." }));
          let last = { lines: 0, imported: 0, duplicates: 0, refused: 0 };
          const said: Array<string> = [];
          yield* Stream.runForEach(db.jobDlq.importFrom(body, { actor: name, scope }), ({ problems, ...counts }) =>
            Effect.sync(() => {
              last = counts;
              said.push(...problems.slice(0, mostProblems - said.length).map(({ message }) => message));
            }),
          );
          return HttpServerResponse.unsafeJson({ ...last, problems: said });
        }),
      ),
    )
    .handle("purge", ({ payload: { olderThanDays } }) =>
      as("admin", (db, { name }, inside) =>
        Effect.map(inside(db.jobDlq.purge(olderThanDays, { actor: name })), (purged) => ({ purged })),
      ),
    )
    .handle("retain", ({ payload }) =>
      as("admin", (db, { name, scope }) =>
        Effect.gen(function* () {
          if (Object.keys(payload).length === 0)
            return yield* new BadRequest({ detail: "Say how long: replayed, discarded or pending." });
          if (payload.discarded !== undefined && scope._tag === "tenant") {
            return yield* new Forbidden({
              detail: "The ledger's copies are deleted for every tenant together, by a token for all of them.",
            });
          }
          return yield* db.jobDlq.retain(payload, { actor: name, scope });
        }),
      ),
    )
    .handle("erase", ({ payload: { filter, reason } }) =>
      as("admin", (db, { name }, inside) => inside(db.jobDlq.erase(filter, { actor: name, reason }))),
    ),
);
