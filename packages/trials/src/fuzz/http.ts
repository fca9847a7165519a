/**
 * The HTTP API, by the bytes that arrive at its port: every route with odd queries, bodies, headers and framing, and bytes that are no
 * request at all. Each request that is one is answered with less than 500, and the server logs no failure.
 */
import { connect } from "node:net";
import * as HttpServer from "@effect/platform/HttpServer";
import { encodeCursor } from "@parametric-portal/database/cursor";
import { beginning } from "@parametric-portal/database/job-dlq/changes";
import { hashOf, parse } from "@parametric-portal/operator/access";
import * as Server from "@parametric-portal/operator/http/server";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import { type Damage, damage, damaged, deep, few, json, mostly, number, rarely, text } from "./nasty.js";
import { bytesOf, linesCases } from "./ndjson.js";
import { balanced, fill, open } from "./site.js";
import type { Make, Target } from "./target.js";

// --- requests ----------------------------------------------------------------

type Pair = readonly [name: string, value: string];

interface Case {
  readonly method: string;
  readonly path: string;
  readonly query: ReadonlyArray<Pair>;
  readonly headers: ReadonlyArray<Pair>;
  readonly body: string | undefined;
  readonly framing: "length" | "chunked" | "none" | "too long" | "too short" | "both";
  /** Whether the query is sent as it is, without percent signs for what needs them. */
  readonly isBare: boolean;
  /** Which dead letter `LETTER` is, and which server is asked. */
  readonly pick: number;
  /** Applied to the whole request. */
  readonly damages: ReadonlyArray<Damage>;
}

const uuid = fc.oneof(fc.uuid(), fc.constant("LETTER"), text);
const moment = fc.oneof(
  fc.date({ noInvalidDate: true }).map((_) => _.toISOString()),
  text,
);
const cursor = fc.oneof(
  fc.record({ at: fc.constantFrom("0", "9999999999999999999", "infinity"), id: fc.uuid() }).map(encodeCursor),
  text,
);

const params = few(
  fc.record(
    {
      ids: fc.array(uuid, { maxLength: 3 }).map((_) => _.join(",")),
      type: fc.oneof(fc.constant("mail.send"), text),
      typePrefix: text,
      reason: fc.oneof(fc.constant("MaxRetries"), text),
      since: moment,
      until: moment,
      requestId: uuid,
      userId: uuid,
      originalJobId: uuid,
      fingerprint: uuid,
      text,
      payload: fc.oneof(
        deep,
        json.map((_) => JSON.stringify(_)),
        text,
      ),
      state: fc.oneof(fc.constantFrom("pending", "replayed", "any"), text),
      limit: fc.oneof(fc.constantFrom("1", "1000", "1001", "0"), number.map(String), text),
      cursor,
      most: fc.oneof(fc.constantFrom("1", "1000000", "1000001"), number.map(String), text),
      by: fc.oneof(fc.constantFrom("type", "reason", "tenant", "hour"), text),
      from: moment,
      after: fc.oneof(fc.constant(beginning), text),
      dlqId: uuid,
      kind: fc.oneof(fc.constantFrom("replayed", "imported"), text),
      actor: text,
      unknown: text,
    },
    { requiredKeys: [] },
  ),
  3,
) as fc.Arbitrary<ReadonlyArray<Pair>>;

const filter = few(
  fc.record(
    {
      ids: mostly(fc.array(uuid, { maxLength: 3 }), json),
      type: mostly(fc.oneof(text, fc.record({ prefix: text })), json),
      reason: mostly(text, json),
      since: mostly(moment, json),
      until: mostly(moment, json),
      userId: mostly(uuid, json),
      fingerprint: mostly(uuid, json),
      text: mostly(text, json),
      payload: json,
      state: mostly(fc.constantFrom("pending", "replayed", "any"), json),
      all: mostly(fc.constant(true), json),
    },
    { requiredKeys: [] },
  ),
  2,
).map((_) => Object.fromEntries(_));

const bulk = {
  limit: mostly(fc.integer({ min: 1, max: 3 }), json),
  asOf: mostly(fc.constantFrom("1:1:", "9999:9999:", "5:3:"), json),
  reason: mostly(fc.constant("fuzz"), json),
  payload: json,
  delayMillis: mostly(fc.nat(), fc.oneof(number, json)),
  // A small one asks for a long time, and gets it.
  ratePerSecond: fc.constantFrom(1000, 1e300, 0, -1, "x", null),
  olderThanDays: mostly(fc.integer({ min: 0, max: 4000 }), fc.oneof(number, json)),
  replayed: mostly(fc.integer({ min: 0, max: 4000 }), fc.oneof(number, json)),
  discarded: mostly(fc.integer({ min: 1000, max: 4000 }), fc.oneof(number, json)),
  pending: mostly(fc.integer({ min: 1000, max: 4000 }), fc.oneof(number, json)),
  eventIds: mostly(fc.array(uuid, { maxLength: 3 }), json),
};
const body = (...fields: ReadonlyArray<keyof typeof bulk | "filter">) => {
  const all = { ...bulk, filter: mostly(filter, json) };
  const plain = fc
    .record(Object.fromEntries(fields.map((_) => [_, all[_]])), { requiredKeys: [fields[0] ?? ""] })
    .map((_) => JSON.stringify(_));
  // Of a name that stands there twice the last one counts.
  const inMost = (whole: string, name: string, inmost: string) =>
    `${whole.slice(0, -1)},${JSON.stringify(name)}:${inmost}}`;
  return fc
    .tuple(plain, rarely(deep), fc.constantFrom(...fields), fc.boolean())
    .map(([whole, inmost, name, isInner]) =>
      inmost === undefined ? whole : inMost(whole, name, isInner ? `{"type":${inmost}}` : inmost),
    );
};

const route = (method: string, path: string, ...bodies: ReadonlyArray<fc.Arbitrary<string>>) => ({
  method,
  path,
  bodies,
});
const routes = [
  ...["me", "letters", "preview", "groups", "stats", "events", "export", "changes", "openapi.json", "docs"].map((_) =>
    route("GET", `/api/v1/${_}`),
  ),
  ...["letters/ID", "letters/ID/raw", "jobs/ID/history"].map((_) => route("GET", `/api/v1/${_}`)),
  route("POST", "/api/v1/replay", body("filter", "limit", "asOf", "payload", "delayMillis", "ratePerSecond")),
  route("POST", "/api/v1/discard", body("filter", "reason", "limit", "asOf")),
  route("POST", "/api/v1/restore", body("eventIds", "reason")),
  route("POST", "/api/v1/purge", body("olderThanDays")),
  route("POST", "/api/v1/retain", body("replayed", "discarded", "pending")),
  route("POST", "/api/v1/erase", body("filter", "reason")),
  route(
    "POST",
    "/api/v1/import",
    linesCases.map((_) => bytesOf({ ..._, damages: [] }, ids).toString("utf8")),
  ),
] as const;
// Put in when the database is known.
const ids = { appId: "TENANT", other: "OTHER" };

const headers = few(
  fc.record(
    {
      authorization: fc.oneof(
        {
          weight: 1,
          arbitrary: fc.constantFrom(
            "Bearer",
            "Bearer ",
            "Basic eDp5",
            "Bearer unknown",
            "bearer all",
            "Bearer all all",
          ),
        },
        { weight: 1, arbitrary: text.map((_) => `Bearer ${_}`) },
        { weight: 1, arbitrary: text },
      ),
      "last-event-id": fc.oneof(fc.constant(beginning), text),
      accept: fc.oneof(fc.constantFrom("text/event-stream", "*/*", "application/json;q=0"), text),
      "accept-encoding": fc.oneof(fc.constantFrom("gzip", "identity;q=0"), text),
      "content-type": fc.oneof(
        fc.constantFrom(
          "application/json",
          "application/json; charset=utf-16",
          "application/x-ndjson",
          "multipart/form-data; boundary=x",
          "application/x-www-form-urlencoded",
        ),
        text,
      ),
      "content-encoding": fc.constantFrom("gzip", "br"),
      "if-none-match": text,
      "if-modified-since": moment,
      range: fc.constantFrom("bytes=0-", "bytes=5-1"),
      host: fc.oneof(fc.constantFrom("localhost", "evil.example", "[::1]:80", ""), text),
      expect: fc.constantFrom("100-continue", "200-ok"),
      upgrade: fc.constantFrom("websocket", "h2c"),
      "sec-fetch-site": fc.oneof(fc.constantFrom("cross-site", "same-origin"), text),
      "x-forwarded-for": text,
      "x-http-method-override": fc.constantFrom("DELETE"),
      traceparent: fc.oneof(fc.constant("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), text),
      b3: text,
      cookie: text,
      "x-long": fc.constantFrom("x".repeat(8000), "x".repeat(20_000)),
    },
    { requiredKeys: [] },
  ),
  2,
) as fc.Arbitrary<ReadonlyArray<Pair>>;

const tokens = ["all", "admin", "operator", "viewer", "trusted", "late"] as const;

const cases: fc.Arbitrary<Case> = fc
  .record({ route: fc.constantFrom(...routes), id: uuid, odd: rarely(text) })
  .chain(({ id, odd, route: { bodies, method, path } }) => {
    const isImport = path.endsWith("import");
    const own: ReadonlyArray<Pair> = [
      ["content-type", isImport ? "application/x-ndjson" : "application/json"],
      ["accept", path.endsWith("changes") ? "text/event-stream" : "*/*"],
    ];
    return fc.record({
      method: fc.oneof(
        { weight: 9, arbitrary: fc.constant(method) },
        {
          weight: 1,
          arbitrary: fc.constantFrom("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "M-SEARCH"),
        },
      ),
      path: fc.constant(
        `${path.replace("ID", encodeURIComponent(id.toWellFormed()))}${odd === undefined ? "" : `/${odd}`}`,
      ),
      query: method === "GET" ? params : fc.constant([]),
      headers: fc.tuple(fc.constantFrom("all", "all", ...tokens), headers).map(([token, more]): ReadonlyArray<Pair> => {
        const said = new Set(more.map(([name]) => name));
        return [
          ...([["authorization", `Bearer ${token}`], ...own] as const).filter(([name]) => !said.has(name)),
          ...more,
        ];
      }),
      body:
        bodies[0] === undefined
          ? fc.constant(undefined)
          : fc.oneof(
              { weight: 8, arbitrary: bodies[0] },
              { weight: 1, arbitrary: text },
              { weight: 1, arbitrary: json.map((_) => JSON.stringify(_)) },
            ),
      framing: fc.oneof(
        { weight: 12, arbitrary: fc.constant("length" as const) },
        { weight: 1, arbitrary: fc.constantFrom<Case["framing"]>("chunked", "none", "too long", "too short", "both") },
      ),
      isBare: fc.boolean(),
      pick: fc.nat(9999),
      damages: fc.oneof(
        { weight: 5, arbitrary: fc.constant([]) },
        { weight: 1, arbitrary: fc.array(damage, { maxLength: 2 }) },
      ),
    });
  });

const encoded = (text: string, isBare: boolean) => (isBare ? text : encodeURIComponent(text.toWellFormed()));

const bytesOfRequest = (
  one: Case,
  letter: string,
  { appId, other }: { readonly appId: string; readonly other: string },
) => {
  const put = (text: string) =>
    text.replaceAll("LETTER", letter).replaceAll("TENANT", appId).replaceAll("OTHER", other);
  const query = one.query.map(([name, value]) => `${name}=${encoded(put(value), one.isBare)}`).join("&");
  const body = Buffer.from(put(one.body ?? ""));
  const framing: Readonly<Record<Case["framing"], ReadonlyArray<string>>> = {
    length: one.body === undefined ? [] : [`content-length: ${body.length}`],
    chunked: ["transfer-encoding: chunked"],
    none: [],
    "too long": [`content-length: ${body.length + 10}`],
    "too short": [`content-length: ${Math.max(0, body.length - 5)}`],
    both: [`content-length: ${body.length}`, "transfer-encoding: chunked"],
  };
  const isChunked = one.framing === "chunked" || one.framing === "both";
  const hasHost = one.headers.some(([name]) => name === "host");
  const head = [
    `${one.method} ${put(one.path)}${query === "" ? "" : `?${query}`} HTTP/1.1`,
    ...(hasHost ? [] : ["host: localhost"]),
    ...one.headers.map(([name, value]) => `${name}: ${put(value)}`),
    ...framing[one.framing],
    "connection: close",
  ].join("\r\n");
  const tail = isChunked
    ? [Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from("\r\n0\r\n\r\n")]
    : [body];
  return damaged(Buffer.concat([Buffer.from(`${head}\r\n\r\n`), ...tail]), one.damages);
};

/** Whether it is a request as HTTP has it, which must be answered. */
const isRequest = ({ damages, framing, headers, isBare, method, path, query }: Case) =>
  damages.length === 0 &&
  // Node hangs up on it.
  method !== "CONNECT" &&
  (framing === "length" || framing === "chunked") &&
  headers.every(([, value]) => /^[\t\x20-\x7e\x80-\u{10ffff}]*$/u.test(value) && value.isWellFormed()) &&
  /^[\x21-\x7e]*$/u.test(path) &&
  (!isBare || query.every(([, value]) => /^[\x21-\x7e]*$/u.test(value)));

// --- answers -----------------------------------------------------------------

/** What came back until the server closed, or until a stream of events had its say. */
export const exchange = (port: number, request: Buffer, isWhole: boolean) =>
  Effect.async<string>((resume) => {
    let said = "";
    let timer: NodeJS.Timeout | undefined;
    // Who ends while the server works on a request gets no answer; who has sent half of one must.
    const socket = connect(port, "127.0.0.1", () => (isWhole ? socket.write(request) : socket.end(request)));
    const done = () => {
      clearTimeout(timer);
      socket.destroy();
      resume(Effect.succeed(said));
    };
    socket.setEncoding("latin1").on("data", (some: string) => {
      said += some;
      if (said.length > 8_000_000) done();
      // It does not end by itself.
      if (
        timer === undefined &&
        /^HTTP\/1\.1 (?:100 [^\r]*\r\n\r\nHTTP\/1\.1 )?200 [\s\S]*\r\ncontent-type: text\/event-stream/iu.test(said)
      ) {
        timer = setTimeout(done, 100);
      }
    });
    // A server that refuses may close before all was sent.
    socket.on("error", () => {});
    socket.on("close", done);
    return Effect.sync(() => {
      clearTimeout(timer);
      socket.destroy();
    });
  });

/** What an answer is, or why there may be none such. */
export const judged = (said: string, isRequest: boolean): Effect.Effect<string> => {
  const status = Number(/^HTTP\/1\.1 (?:100 [^\r]*\r\n\r\nHTTP\/1\.1 )?(\d{3}) /u.exec(said)?.[1] ?? 0);
  if (status >= 500 || /"status":5\d\d/u.test(said)) return Effect.dieMessage(`answered ${said.slice(0, 2000)}`);
  if (status === 0) {
    return isRequest ? Effect.dieMessage(`was not answered: ${said.slice(0, 500)}`) : Effect.succeed("closed");
  }
  return Effect.succeed(status >= 400 ? `refused: ${status}` : `${status}`);
};

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    const inserted = yield* fill(site, 300);
    const { appId, db, inTenant, provide } = site;
    const letters = yield* provide(inTenant(db.jobDlq.find({}, { limit: 1000 })));
    const grant = (name: string, role: string, more: object = {}) => ({
      name,
      sha256: hashOf(name),
      tenant: appId,
      role,
      ...more,
    });
    const grants = yield* parse(
      "fuzz",
      JSON.stringify([
        grant("all", "admin", { tenant: "*" }),
        grant("admin", "admin"),
        grant("operator", "operator"),
        grant("viewer", "viewer"),
        grant("trusted", "viewer", { seesPayloads: true }),
        grant("late", "admin", { expiresAt: "2020-01-01T00:00:00Z" }),
      ]),
    );
    // What the server itself calls a failure; a stored row that does not fit is none.
    const failed: Array<string> = [];
    const listening = Logger.replace(
      Logger.defaultLogger,
      Logger.make(({ cause, logLevel, message }) => {
        const text = [message].flat().map(String).join(" ");
        if (LogLevel.greaterThanEqual(logLevel, LogLevel.Error) && !text.startsWith("A stored row does not fit")) {
          failed.push(`${text} ${cause._tag === "Empty" ? "" : String(cause)}`);
        }
      }),
    );
    const serve = (tokens: typeof grants | undefined) =>
      Layer.build(
        Server.layer({ grants: tokens, port: 0, requestsPerTenSeconds: 1e9, strangersPerMinute: 1e9 }).pipe(
          Layer.provideMerge(listening),
          Layer.provideMerge(Logger.minimumLogLevel(LogLevel.Warning)),
        ),
      ).pipe(
        provide,
        Effect.map((context) => {
          const { address } = Context.get(context, HttpServer.HttpServer);
          return address._tag === "TcpAddress" ? address.port : 0;
        }),
      );
    const [guarded, local] = [yield* serve(grants), yield* serve(undefined)];

    const target: Target<Case> = {
      name: "HTTP",
      share: 2000,
      cases,
      outcome: (one) =>
        Effect.gen(function* () {
          const letter = letters[one.pick % letters.length]?.id ?? "";
          const port = one.pick % 4 === 0 ? local : guarded;
          const said = yield* exchange(port, bytesOfRequest(one, letter, site), isRequest(one));
          if (failed.length > 0) return yield* Effect.dieMessage(`the server logged: ${failed.splice(0).join("\n")}`);
          return yield* judged(said, isRequest(one));
        }),
      holds: Effect.gen(function* () {
        for (const port of [guarded, local]) {
          const said = yield* exchange(
            port,
            Buffer.from(
              "GET /api/v1/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer all\r\nconnection: close\r\n\r\n",
            ),
            true,
          );
          if (!said.startsWith("HTTP/1.1 200 "))
            return yield* Effect.dieMessage(`does not answer: ${said.slice(0, 200)}`);
        }
        yield* balanced(site, () => inserted);
      }),
    };
    return [target];
  });
