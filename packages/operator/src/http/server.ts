/**
 * The HTTP API's server.
 *
 * Contract: without tokens it listens on this machine only, answers to this machine's names only, and whoever reaches it there is an
 * administrator. Every answer forbids what a browser need not do with it, and every error is problem+json.
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
import { depthOf, maxDepth } from "@parametric-portal/database/json";
import type { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as FiberRef from "effect/FiberRef";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { type Grant, hashOf, verify } from "../access.js";
import { Api, Authorization, TooManyRequests, Unauthorized } from "./api.js";
import * as Docs from "./docs.js";
import { changing, reading } from "./handlers.js";
import * as Pages from "./pages.js";

export interface ServerOptions {
  /** Whose tokens are known; none: this machine only. */
  readonly grants: ReadonlyArray<Grant> | undefined;
  readonly port: number;
  /** Where it listens. Default 127.0.0.1; anything else needs tokens. */
  readonly host?: string | undefined;
  /** Longest body of a request. Default 1 MiB. */
  readonly maxBodyBytes?: number | undefined;
  /** Requests of one token in ten seconds; the next are 429. Default 300. */
  readonly requestsPerTenSeconds?: number | undefined;
  /** Requests from one address in a minute whose token is not known; the next are 429. Default 30. */
  readonly strangersPerMinute?: number | undefined;
  /** The console's files, at every path outside `/api/`. Default: none. */
  readonly pages?: Pages.Pages | undefined;
}

export const findPages = Pages.find;

/** Whether it is a name of this machine that others cannot reach. */
export const isLoopback = (host: string) => ["127.0.0.1", "::1", "localhost"].includes(host);

/** Takes one of what a key has; fails when it has none left. */
const take = (limiter: RateLimiterMemory, key: string) =>
  Effect.tryPromise({
    try: () => limiter.consume(key),
    catch: (answer) =>
      new TooManyRequests({
        detail: "Too many requests. Wait before the next one.",
        retryAfterSeconds: answer instanceof RateLimiterRes ? Math.ceil(answer.msBeforeNext / 1000) : 1,
      }),
  });

const local = { name: "local", role: "admin", scope: { _tag: "system" }, seesPayloads: true } as const;

const authorization = ({ grants, requestsPerTenSeconds = 300, strangersPerMinute = 30 }: ServerOptions) =>
  Layer.sync(Authorization, () => {
    if (grants === undefined) return { bearer: () => Effect.succeed(local) };
    const known = new RateLimiterMemory({ points: requestsPerTenSeconds, duration: 10 });
    const strangers = new RateLimiterMemory({ points: strangersPerMinute, duration: 60 });
    return {
      bearer: (token: Redacted.Redacted) =>
        Effect.gen(function* () {
          const caller = yield* verify(grants, token);
          if (caller !== undefined) return yield* Effect.as(take(known, hashOf(Redacted.value(token))), caller);
          const request = yield* HttpServerRequest.HttpServerRequest;
          // Who sends none does not guess: a page that asks whether it needs one must not shut out others behind the same proxy.
          if (Redacted.value(token) !== "") {
            yield* take(
              strangers,
              Option.getOrElse(request.remoteAddress, () => ""),
            );
          }
          return yield* new Unauthorized({
            detail: "Send a token that is known and has not expired: Authorization: Bearer …",
          });
        }),
    };
  });

const problemResponse = (status: number, title: string, detail: string) =>
  HttpServerResponse.unsafeJson(
    { type: "about:blank", title, status, detail },
    { status, contentType: "application/problem+json" },
  );

/** A payload as deep as it may be, in a filter in a body. What is deeper overflows the stack of whatever says that it does not fit. */
const mostDepth = maxDepth + 2;

const headers = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
};

/** What the router and the schemas answer by themselves, as problem+json; a name that is not ours; a page of another site. */
const guarded = (isLocal: boolean, maxBodyBytes: number, pages: Pages.Pages | undefined) =>
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
      if (request.method === "POST") {
        const type = request.url === "/api/v1/import" ? "application/x-ndjson" : "application/json";
        if ((request.headers["content-type"] ?? "").split(";")[0]?.trim() !== type) {
          return problemResponse(415, "Unsupported Media Type", `Send ${type}.`);
        }
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
      if (request.method === "POST" && request.url !== "/api/v1/import") {
        // Read once, and kept for the handler. What cannot be read is told there.
        const body = yield* request.text.pipe(
          Effect.provideService(HttpServerRequest.MaxBodySize, Option.some(FileSystem.Size(maxBodyBytes))),
          Effect.orElseSucceed(() => ""),
        );
        if (depthOf(body) > mostDepth)
          return problemResponse(
            400,
            "Bad Request",
            `A body may be nested ${mostDepth} levels deep, and this one is deeper.`,
          );
      }
      // Every browser asks for it, and there is none.
      if (request.url === "/favicon.ico") return HttpServerResponse.empty();
      if (pages !== undefined && request.method === "GET" && !request.url.startsWith("/api/")) {
        const page = Pages.answer(pages, request.url, request.headers["accept-encoding"] ?? "");
        if (page !== undefined) return page;
      }
      const response = yield* app.pipe(
        // A route that is none, and defects: what the server would answer.
        Effect.catchAllCause((cause) =>
          Effect.tap(
            Effect.map(HttpServerError.causeResponse(cause), ([answer]) => answer),
            ({ status }) => (status >= 500 ? Effect.logError("A request failed", cause) : Effect.void),
          ),
        ),
        Effect.provideService(HttpServerRequest.MaxBodySize, Option.some(FileSystem.Size(maxBodyBytes))),
      );
      if (request.url === Docs.path && response.status === 200) return Docs.strict(response);
      const wait = response.status === 429 ? waitOf(response) : undefined;
      if (wait !== undefined) return HttpServerResponse.setHeader(response, "retry-after", String(wait));
      if (response.status < 400 || response.headers["content-type"] === "application/problem+json") return response;
      return response.status === 404
        ? problemResponse(404, "Not Found", "There is no such route; /api/v1/openapi.json has them all.")
        : problemResponse(
            response.status,
            response.status < 500 ? "Bad Request" : "Internal Server Error",
            detailOf(response),
          );
    }).pipe(Effect.map((_) => HttpServerResponse.setHeaders(_, { ...headers, ..._.headers }))),
  );

const jsonOf = <A, I>(schema: S.Schema<A, I>, { body }: HttpServerResponse.HttpServerResponse) =>
  body._tag === "Uint8Array"
    ? S.decodeUnknownOption(S.parseJson(schema))(new TextDecoder().decode(body.body))
    : Option.none();

const waitOf = (response: HttpServerResponse.HttpServerResponse) =>
  Option.getOrElse(jsonOf(S.Struct({ retryAfterSeconds: S.Number }), response), () => ({ retryAfterSeconds: 1 }))
    .retryAfterSeconds;

const Issues = S.Struct({ issues: S.Array(S.Struct({ path: S.Array(S.Unknown), message: S.String })) });
const detailOf = (response: HttpServerResponse.HttpServerResponse) =>
  Option.match(
    Option.flatMapNullable(jsonOf(Issues, response), ({ issues }) => issues[0]),
    {
      onNone: () => "The request cannot be answered.",
      onSome: ({ message, path }) => `${path.map(String).join(".") || "The request"}: ${message}`,
    },
  );

/** What is being answered when the server ends has this long. */
const lastAnswersMillis = 500;

/** Serves the API until its scope ends. Fails with `ServeError` when the port is taken. */
export const layer = (
  options: ServerOptions,
): Layer.Layer<HttpServer.HttpServer, HttpServerError.ServeError, DatabaseService | SqlClient.SqlClient> => {
  const asked = options.host ?? "127.0.0.1";
  const host = options.grants === undefined && !isLoopback(asked) ? "127.0.0.1" : asked;
  const api = HttpApiBuilder.api(Api).pipe(Layer.provide([reading, changing]), Layer.provide(authorization(options)));
  const guard = guarded(options.grants === undefined, options.maxBodyBytes ?? 1_048_576, options.pages);
  // Around the whole app: what `serve` takes as middleware comes after the answer was sent.
  const served = Layer.unwrapEffect(Effect.map(HttpApiBuilder.httpApp, (app) => HttpServer.serve(guard(app)))).pipe(
    Layer.provide([HttpApiBuilder.Router.Live, HttpApiBuilder.Middleware.layer]),
  );
  const server = createServer({ maxHeaderSize: 16_384 });
  // A server that ends waits for its connections, and a reader of changes, or a browser that may ask again, keeps its own.
  const ending = Layer.scopedDiscard(
    Effect.addFinalizer(() =>
      Effect.sync(() => {
        setTimeout(() => server.closeAllConnections(), lastAnswersMillis).unref();
      }),
    ),
  );
  return Layer.merge(served, ending).pipe(
    Layer.provide([HttpApiBuilder.middlewareOpenApi({ path: "/api/v1/openapi.json" }), Docs.layer]),
    Layer.provide(api),
    Layer.provideMerge(NodeHttpServer.layer(() => server, { host, port: options.port })),
    Layer.provide(Layer.locallyScoped(FiberRef.currentTracerEnabled, false)),
  );
};
