/**
 * The HTTP API's server: the operations of the database package behind tokens.
 *
 * Contract: every request runs in the scope of its token, whatever it says; the role is asked before the database is. What is not
 * the caller's fault is a 503 that tells nothing of the inside. Without tokens it listens on this machine only, and whoever reaches it
 * there is an administrator.
 */
import { createServer } from "node:http";
import * as FileSystem from "@effect/platform/FileSystem";
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder";
import * as HttpMiddleware from "@effect/platform/HttpMiddleware";
import * as HttpServer from "@effect/platform/HttpServer";
import * as HttpServerError from "@effect/platform/HttpServerError";
import * as HttpServerRequest from "@effect/platform/HttpServerRequest";
import * as HttpServerResponse from "@effect/platform/HttpServerResponse";
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer";
import type * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import type { JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import { JobDlqGroup } from "@parametric-portal/database/job-dlq/insight";
import type { JobDlq } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as FiberRef from "effect/FiberRef";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { Caller, type Grant, isAtLeast, type Role, verify } from "./access.js";
import { Api, Authorization, BadRequest, Forbidden, type Letter, NotFound, Unauthorized, Unavailable } from "./api.js";
import type { Target } from "./options.js";
import { letterJson } from "./output.js";

// --- errors ------------------------------------------------------------------

type ApiError = BadRequest | Forbidden | NotFound | Unavailable;
const isApiError = (error: unknown): error is ApiError =>
  error instanceof BadRequest ||
  error instanceof Forbidden ||
  error instanceof NotFound ||
  error instanceof Unavailable;

const unavailable = new Unavailable({
  detail: "The database does not answer as it should. Try again; the server's log says more.",
});

/** The operations' errors as the API's. */
const answered = <A, E extends { readonly _tag: string; readonly message: string }, R>(
  effect: Effect.Effect<A, E, R>,
): Effect.Effect<A, ApiError, R> =>
  Effect.catchAll(effect, (error): Effect.Effect<never, ApiError> => {
    if (isApiError(error)) return Effect.fail(error);
    return error._tag === "InvalidInput" || error._tag === "InvalidCursor"
      ? Effect.fail(new BadRequest({ detail: error.message }))
      : Effect.zipRight(Effect.logError("A request failed", error), Effect.fail(unavailable));
  });

// --- in the caller's scope ---------------------------------------------------

const needs = (least: Role) =>
  Effect.filterOrFail(
    Caller,
    ({ role }) => isAtLeast(role, least),
    ({ role }) => new Forbidden({ detail: `This needs the role ${least}, and the token's is ${role}.` }),
  );

/** Runs what a role may do, in one transaction of the caller's scope. */
const as = <A, E extends { readonly _tag: string; readonly message: string }, R>(
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

type FilterParams = Omit<JobDlqFilter, "type" | "all"> & {
  readonly type?: string;
  readonly typePrefix?: string;
  readonly limit?: number;
  readonly cursor?: string;
};

/** The filter of a URL. */
const filterOf = ({ cursor: _cursor, limit: _limit, type, typePrefix, ...rest }: FilterParams) =>
  type !== undefined && typePrefix !== undefined
    ? new BadRequest({ detail: "Say type or typePrefix, not both." })
    : Effect.succeed<JobDlqFilter>({
        ...rest,
        ...(type === undefined ? {} : { type }),
        ...(typePrefix === undefined ? {} : { type: { prefix: typePrefix } }),
      });

// --- reading -----------------------------------------------------------------

const reading = HttpApiBuilder.group(Api, "reading", (handlers) =>
  handlers
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
          const { items, next } = yield* inside(
            db.jobDlq.page(yield* filterOf(urlParams), { limit: limit ?? 50, cursor }),
          );
          return { items: items.map(shown(caller)), next: Option.getOrNull(next) };
        }),
      ),
    )
    .handle("letter", ({ path }) =>
      as("viewer", (db, caller, inside) =>
        Effect.flatMap(
          inside(db.jobDlq.get(path.id)),
          Option.match({
            onNone: () => new NotFound({ detail: `There is no dead letter ${path.id} in the token's scope.` }),
            onSome: (letter) => Effect.succeed(shown(caller)(letter)),
          }),
        ),
      ),
    )
    .handle("raw", ({ path }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          if (!caller.seesPayloads) return yield* new Forbidden({ detail: "The token may not see payloads." });
          const letter = yield* inside(db.jobDlq.view(path.id, { actor: caller.name }));
          return Option.isSome(letter)
            ? shown(caller)(letter.value)
            : yield* new NotFound({ detail: `There is no dead letter ${path.id} in the token's scope.` });
        }),
      ),
    )
    .handle("history", ({ path }) => as("viewer", (db, _, inside) => inside(db.jobDlq.history(path.id))))
    .handle("preview", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const { byReason, byType, count, sample } = yield* inside(db.jobDlq.preview(yield* filterOf(urlParams)));
          return { count, byType, byReason, sample: sample.map(shown(caller)) };
        }),
      ),
    )
    .handle("groups", ({ urlParams }) =>
      as("viewer", (db, caller, inside) =>
        Effect.gen(function* () {
          const groups = yield* inside(db.jobDlq.groups(yield* filterOf(urlParams), { limit: urlParams.limit ?? 20 }));
          return caller.seesPayloads ? groups : groups.map((group) => new JobDlqGroup({ ...group, message: null }));
        }),
      ),
    )
    .handle("stats", ({ urlParams }) =>
      as("viewer", (db, _, inside) => inside(db.jobDlq.stats({ by: urlParams.by, since: urlParams.from }))),
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
    ),
);

// --- changing ----------------------------------------------------------------

interface Progress {
  readonly asked: number;
  readonly outcomes: Readonly<Record<string, number>>;
}
const last = <E, R>(progress: Stream.Stream<Progress, E, R>) =>
  Effect.map(
    Stream.runLast(progress),
    Option.match({
      onNone: () => ({ asked: 0, outcomes: {} }),
      onSome: ({ asked, outcomes }) => ({ asked, outcomes }),
    }),
  );

const changing = HttpApiBuilder.group(Api, "changing", (handlers) =>
  handlers
    .handle("replay", ({ payload: { delayMillis, filter, limit, ratePerSecond, ...given } }) =>
      as("operator", (db, { name, scope }) =>
        last(db.jobDlq.replay(filter, { actor: name, scope, limit, ratePerSecond, delay: delayMillis, ...given })),
      ),
    )
    .handle("discard", ({ payload: { filter, limit, reason } }) =>
      as("operator", (db, { name, scope }) => last(db.jobDlq.discard(filter, { actor: name, reason, scope, limit }))),
    )
    .handle("restore", ({ payload: { eventIds, reason } }) =>
      as("operator", (db, { name }, inside) => inside(db.jobDlq.restore(eventIds, { actor: name, reason }))),
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

// --- the server --------------------------------------------------------------

export interface ServerOptions {
  /** Whose tokens are known; none: this machine only. */
  readonly grants: ReadonlyArray<Grant> | undefined;
  readonly port: number;
  /** Where it listens. Default 127.0.0.1; anything else needs tokens. */
  readonly host?: string | undefined;
  /** Longest body of a request. Default 1 MiB. */
  readonly maxBodyBytes?: number | undefined;
}

const isLoopback = (host: string) => ["127.0.0.1", "::1", "localhost"].includes(host);

const authorization = (grants: ReadonlyArray<Grant> | undefined) =>
  Layer.succeed(Authorization, {
    bearer: (token) =>
      grants === undefined
        ? Effect.succeed({ name: "local", role: "admin", scope: { _tag: "system" }, seesPayloads: true } as const)
        : Effect.flatMap(verify(grants, token), (caller) =>
            caller === undefined
              ? new Unauthorized({
                  detail: "Send a token that is known and has not expired: Authorization: Bearer …",
                })
              : Effect.succeed(caller),
          ),
  });

const problemResponse = (status: number, title: string, detail: string) =>
  HttpServerResponse.unsafeJson(
    { type: "about:blank", title, status, detail },
    { status, contentType: "application/problem+json" },
  );

const headers = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
};

/** What the router and the schemas answer by themselves, as problem+json; a name that is not ours; a page of another site. */
const guarded = (isLocal: boolean, maxBodyBytes: number) =>
  HttpMiddleware.make((app) =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest;
      const name = (request.headers.host ?? "").replace(/:\d+$/u, "").replace(/^\[|\]$/gu, "");
      // A name that leads here without being ours is another site's that wants a browser's rights.
      if (isLocal && !isLoopback(name))
        return problemResponse(421, "Misdirected Request", "This server answers to localhost only.");
      const site = request.headers["sec-fetch-site"];
      if (request.method !== "GET" && site !== undefined && site !== "same-origin" && site !== "none") {
        return problemResponse(403, "Forbidden", "A page of another site may not change anything here.");
      }
      if (request.method === "POST" && !/^application\/json\b/u.test(request.headers["content-type"] ?? "")) {
        return problemResponse(415, "Unsupported Media Type", "Send application/json.");
      }
      if (request.method === "POST") {
        const length = request.headers["content-length"];
        if (length === undefined)
          return problemResponse(411, "Length Required", "Send the body with its Content-Length.");
        if (Number(length) > maxBodyBytes) {
          return problemResponse(
            413,
            "Content Too Large",
            `A body may have ${maxBodyBytes} bytes, and this one has ${length}.`,
          );
        }
      }
      const response = yield* app.pipe(
        // A route that is none, and defects: what the server would answer.
        Effect.catchAllCause((cause) => Effect.map(HttpServerError.causeResponse(cause), ([answer]) => answer)),
        Effect.provideService(HttpServerRequest.MaxBodySize, Option.some(FileSystem.Size(maxBodyBytes))),
      );
      if (response.status < 400 || response.headers["content-type"] === "application/problem+json") return response;
      return response.status === 404
        ? problemResponse(404, "Not Found", "There is no such route; /api/v1/openapi.json has them all.")
        : problemResponse(
            response.status,
            response.status < 500 ? "Bad Request" : "Internal Server Error",
            detailOf(response),
          );
    }).pipe(Effect.map(HttpServerResponse.setHeaders(headers))),
  );

const Decoded = S.parseJson(S.Struct({ issues: S.Array(S.Struct({ path: S.Array(S.Unknown), message: S.String })) }));
const detailOf = ({ body }: HttpServerResponse.HttpServerResponse) => {
  if (body._tag !== "Uint8Array") return "The request cannot be answered.";
  const decoded = S.decodeUnknownOption(Decoded)(new TextDecoder().decode(body.body));
  return Option.match(
    Option.flatMapNullable(decoded, ({ issues }) => issues[0]),
    {
      onNone: () => "The request cannot be answered.",
      onSome: ({ message, path }) => `${path.map(String).join(".") || "The request"}: ${message}`,
    },
  );
};

/** Serves the API until its scope ends. Fails with `ServeError` when the port is taken. */
export const layer = (
  options: ServerOptions,
): Layer.Layer<HttpServer.HttpServer, HttpServerError.ServeError, DatabaseService | SqlClient.SqlClient> => {
  const host = options.grants === undefined ? "127.0.0.1" : (options.host ?? "127.0.0.1");
  const api = HttpApiBuilder.api(Api).pipe(
    Layer.provide([reading, changing]),
    Layer.provide(authorization(options.grants)),
  );
  const guard = guarded(options.grants === undefined, options.maxBodyBytes ?? 1_048_576);
  // Around the whole app: what `serve` takes as middleware comes after the answer was sent.
  const served = Layer.unwrapEffect(Effect.map(HttpApiBuilder.httpApp, (app) => HttpServer.serve(guard(app)))).pipe(
    Layer.provide([HttpApiBuilder.Router.Live, HttpApiBuilder.Middleware.layer]),
  );
  return served.pipe(
    Layer.provide(HttpApiBuilder.middlewareOpenApi({ path: "/api/v1/openapi.json" })),
    Layer.provide(api),
    Layer.provideMerge(
      NodeHttpServer.layer(() => createServer({ maxHeaderSize: 16_384 }), { host, port: options.port }),
    ),
    Layer.provide(Layer.locallyScoped(FiberRef.currentTracerEnabled, false)),
  ) as never;
};
