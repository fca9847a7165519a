/** The HTTP API: who may do what in whose scope, and what it answers to everything else. */
import { randomUUID } from "node:crypto";
import { type IncomingMessage, request } from "node:http";
import { gzipSync } from "node:zlib";
import * as FetchHttpClient from "@effect/platform/FetchHttpClient";
import * as HttpServer from "@effect/platform/HttpServer";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { beginning } from "@parametric-portal/database/job-dlq/changes";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import { deadJob, letter, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { withUrl } from "../../database/test/support/process.js";
import { hashOf, parse, type Role } from "../src/access.js";
import * as HttpClientOfApi from "../src/http/client.js";
import * as Server from "../src/http/server.js";
import { runDlq, startDlq } from "./support/dlq.js";

interface Asked {
  readonly method?: string;
  readonly token?: string | undefined;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** As it is, instead of `body`. */
  readonly raw?: string;
  /** Hangs up when this was answered. */
  readonly until?: string;
}

/** One request, with any headers, the host's name among them. */
const ask = (port: number, path: string, { body, headers = {}, method, raw, token, until }: Asked = {}) =>
  Effect.async<{
    readonly status: number;
    readonly type: string;
    /** As it came. */
    readonly raw: string;
    // biome-ignore lint/suspicious/noExplicitAny: what the wire brings; each test says what it expects of it.
    readonly body: any;
    readonly headers: Readonly<Record<string, unknown>>;
  }>((resume) => {
    const text = raw ?? (body === undefined ? undefined : JSON.stringify(body));
    const sent = request(
      {
        host: "127.0.0.1",
        port,
        path,
        method: method ?? (text === undefined ? "GET" : "POST"),
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(text === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
      },
      (response) => {
        let said = "";
        response.setEncoding("utf8").on("data", (some) => {
          said += some;
          // A stream that never ends by itself.
          if (until !== undefined && said.includes(until)) response.destroy();
        });
        response.once("close", () => {
          const type = response.headers["content-type"] ?? "";
          resume(
            Effect.succeed({
              status: response.statusCode ?? 0,
              type,
              raw: said,
              body: /\+json|\/json/u.test(type) ? JSON.parse(said) : said,
              headers: response.headers,
            }),
          );
        });
      },
    );
    sent.once("error", (error) => resume(Effect.die(error)));
    sent.end(text);
    return Effect.sync(() => sent.destroy());
  });

/** A server; the port where it listens. */
const serve = (options: Partial<Server.ServerOptions>) =>
  Effect.map(Layer.build(Server.layer({ grants: undefined, port: 0, ...options })), (context) => {
    const { address } = Context.get(context, HttpServer.HttpServer);
    return address._tag === "TcpAddress" ? address.port : 0;
  });

const roles: ReadonlyArray<Role> = ["viewer", "operator", "admin"];

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("the API", (it) => {
  /** Two tenants with a token of each role, one for all tenants, and one that has expired. */
  const filled = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const [mine, theirs] = [yield* newTenant, yield* newTenant];
    const lines = [mine, theirs].flatMap((tenant) =>
      roles.map((role) => ({ name: `${role} of ${tenant}`, sha256: hashOf(`${role} ${tenant}`), tenant, role })),
    );
    const grants = yield* parse(
      "test",
      JSON.stringify([
        ...lines,
        { name: "everybody", sha256: hashOf("all"), tenant: "*", role: "admin" },
        { name: "late", sha256: hashOf("late"), tenant: mine, role: "admin", expiresAt: "2020-01-01T00:00:00Z" },
        { name: "trusted", sha256: hashOf("trusted"), tenant: mine, role: "viewer", seesPayloads: true },
      ]),
    );
    const port = yield* serve({ grants, strangersPerMinute: 1000 });
    const dead = yield* deadJob(mine, { payload: { card: "4111" } });
    const foreign = yield* deadJob(theirs);
    return { db, mine, theirs, port, dead, foreign, tokenOf: (role: Role, tenant = mine) => `${role} ${tenant}` };
  });

  /** Every route with the least role that it needs; what it does to what is not there is nothing. */
  const nothing = randomUUID();
  const filter = { ids: [nothing] };
  const routes: ReadonlyArray<{
    readonly least: Role;
    readonly path: string;
    readonly body?: unknown;
    readonly raw?: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly status?: number;
  }> = [
    { least: "viewer", path: "/me" },
    { least: "viewer", path: "/letters" },
    { least: "viewer", path: `/letters/${nothing}`, status: 404 },
    { least: "operator", path: `/letters/${nothing}/raw`, status: 404 },
    { least: "viewer", path: `/jobs/${nothing}/history` },
    { least: "viewer", path: "/preview" },
    { least: "viewer", path: "/groups" },
    { least: "viewer", path: "/stats?by=type" },
    { least: "viewer", path: "/events" },
    { least: "operator", path: "/export" },
    // Without Accept it answers at once.
    { least: "viewer", path: "/changes", status: 400 },
    { least: "operator", path: "/replay", body: { filter } },
    { least: "operator", path: "/discard", body: { filter, reason: "test" } },
    { least: "operator", path: "/restore", body: { eventIds: [nothing] } },
    { least: "operator", path: "/import", raw: "\n", headers: { "content-type": "application/x-ndjson" } },
    { least: "admin", path: "/purge", body: { olderThanDays: 3650 } },
    { least: "admin", path: "/retain", body: { replayed: 3650 } },
    { least: "admin", path: "/erase", body: { filter } },
  ];

  it.scoped("lets each role do its part on every route, and nobody without a token that is known", () =>
    Effect.gen(function* () {
      const { port, tokenOf } = yield* filled;
      const described = yield* ask(port, "/api/v1/openapi.json");
      const pattern = (path: string) => path.replace(nothing, "{id}").replace(/\?.*/u, "");
      const told = Object.entries<Readonly<Record<string, { readonly description: string }>>>(
        described.body.paths,
      ).flatMap(([path, methods]) =>
        Object.values(methods).map(({ description }) => `${path} ${/Role: (\w+)/u.exec(description)?.[1]}`),
      );
      const known = ({ least, path }: (typeof routes)[number]) =>
        `/api/v1${pattern(path)} ${path.endsWith("/raw") ? "viewer" : least}`;
      assert.deepStrictEqual(told.sort(), routes.map(known).sort(), "every route is here, and its role is told");
      for (const { least, path, status = 200, ...asked } of routes) {
        for (const role of roles) {
          const answer = yield* ask(port, `/api/v1${path}`, { ...asked, token: tokenOf(role) });
          const isAllowed = roles.indexOf(role) >= roles.indexOf(least);
          assert.strictEqual(answer.status, isAllowed ? status : 403, `${role} ${path} ${JSON.stringify(answer.body)}`);
          if (answer.status >= 400) assert.strictEqual(answer.type, "application/problem+json");
        }
        for (const token of [undefined, "", "unknown", "late", hashOf("all")]) {
          const answer = yield* ask(port, `/api/v1${path}`, { ...asked, token });
          assert.deepStrictEqual([answer.status, answer.type], [401, "application/problem+json"], `${token} ${path}`);
        }
      }
    }),
  );

  it.scoped("answers bodies and lines that are nested too deep as any other that does not fit", () =>
    Effect.gen(function* () {
      const { port, tokenOf } = yield* filled;
      const token = tokenOf("admin");
      const deep = "[".repeat(20_000) + "]".repeat(20_000);
      const bodies = {
        replay: `{"filter":{"type":${deep}}}`,
        discard: `{"filter":${deep},"reason":"x"}`,
        restore: deep,
        purge: `{"olderThanDays":${deep}}`,
        retain: `{"unknown":${deep}}`,
        erase: `{"filter":{"payload":${deep}}}`,
      };
      for (const [path, raw] of Object.entries(bodies)) {
        const answer = yield* ask(port, `/api/v1/${path}`, { raw, token });
        assert.deepStrictEqual([answer.status, answer.type], [400, "application/problem+json"], path);
      }
      const inUrl = "[".repeat(6000) + "]".repeat(6000);
      for (const path of ["letters", "preview", "groups"]) {
        assert.strictEqual((yield* ask(port, `/api/v1/${path}?payload=${inUrl}`, { token })).status, 400, path);
      }
      const line = JSON.stringify({ ...letter(tokenOf("admin")), id: randomUUID() }).replace(
        /"attempts":3/u,
        `"attempts":${deep}`,
      );
      const imported = yield* ask(port, "/api/v1/import", {
        raw: `${line}\n`,
        token,
        headers: { "content-type": "application/x-ndjson" },
      });
      assert.deepInclude(imported.body, { lines: 1, refused: 1 });
    }),
  );

  it.scoped("names a letter whose payload is nested too deep, and shows the others of its page", () =>
    Effect.gen(function* () {
      const { dead, mine, port, tokenOf } = yield* filled;
      const token = tokenOf("operator");
      const id = randomUUID();
      const line = {
        id,
        originalJobId: id,
        appId: mine,
        type: "deep",
        payload: null,
        errorReason: "MaxRetries",
        attempts: 1,
        errorHistory: [],
        dlqAt: "2026-01-31T12:00:00Z",
      };
      const payload = "[".repeat(6000) + "]".repeat(6000);
      const imported = yield* ask(port, "/api/v1/import", {
        raw: `${JSON.stringify(line).replace('"payload":null', `"payload":${payload}`)}\n`,
        token,
        headers: { "content-type": "application/x-ndjson" },
      });
      assert.deepInclude(imported.body, { lines: 1, imported: 1 });
      const page = yield* ask(port, "/api/v1/letters", { token });
      assert.strictEqual(page.status, 200);
      assert.deepStrictEqual(
        [page.body.items.map((_: { id: string }) => _.id), page.body.unreadable.map((_: { id: string }) => _.id)],
        [[dead.id], [id]],
      );
      for (const path of [`letters/${id}`, `letters/${id}/raw`]) {
        assert.strictEqual((yield* ask(port, `/api/v1/${path}`, { token })).status, 422, path);
      }
      const preview = yield* ask(port, "/api/v1/preview", { token });
      assert.deepStrictEqual([preview.status, preview.body.count, preview.body.sample.length], [200, 2, 1]);
      assert.include((yield* ask(port, "/api/v1/export?type=deep", { token })).raw, payload);
    }),
  );

  it.scoped("exports what an import takes in again: exact, once, and of the token's tenant only", () =>
    Effect.gen(function* () {
      const { db, dead, foreign, mine, port, theirs, tokenOf } = yield* filled;
      const token = tokenOf("operator");
      yield* Client.tenant(mine)(db.jobDlq.insertMany([letter(mine, { type: "exact", payload: { n: 1 } })]));
      const [found] = (yield* Client.tenant(mine)(db.jobDlq.page({ type: "exact" }))).items;
      const exact = found?.id ?? "";
      const sql = yield* SqlClient.SqlClient;
      yield* sql`UPDATE job_dlq SET payload = '{"n": 12345678901234567890.125}' WHERE id = ${exact}::uuid`;
      const exported = yield* ask(port, "/api/v1/export?type=exact", { token });
      assert.deepStrictEqual([exported.status, exported.type], [200, "application/x-ndjson"]);
      const all = yield* ask(port, "/api/v1/export", { token });
      const whole = exported.raw;
      assert.include(whole, "12345678901234567890.125");
      assert.include(all.raw, dead.id);
      assert.notInclude(all.raw, foreign.id);
      yield* sql`DELETE FROM job_dlq WHERE id = ${exact}::uuid`;
      const send = (raw: string, as = token) =>
        ask(port, "/api/v1/import", { raw, token: as, headers: { "content-type": "application/x-ndjson" } });
      const first = yield* send(`${whole}no json\n`);
      assert.deepInclude(first.body, { lines: 2, imported: 1, duplicates: 0, refused: 1 });
      assert.lengthOf(first.body.problems, 1);
      assert.deepInclude((yield* send(whole)).body, { lines: 1, imported: 0, duplicates: 1, refused: 0 });
      assert.strictEqual((yield* ask(port, "/api/v1/export?type=exact", { token })).raw, whole);
      // Another tenant's letters are taken in by nobody else.
      assert.deepInclude((yield* send(whole, tokenOf("operator", theirs))).body, { imported: 0, refused: 1 });
      assert.strictEqual((yield* ask(port, "/api/v1/import", { raw: whole, token })).status, 415);
      assert.strictEqual((yield* ask(port, "/api/v1/export?since=nonsense", { token })).status, 400);
      const { items } = yield* Client.tenant(mine)(db.jobDlq.events({ kind: "imported" }));
      assert.deepStrictEqual(
        items.map(({ actor, dlqId }) => [actor, dlqId]),
        [[`operator of ${mine}`, exact]],
      );
    }),
  );

  it.scoped("takes the tenant from the token and from nothing else", () =>
    Effect.gen(function* () {
      const { dead, foreign, mine, port, theirs, tokenOf } = yield* filled;
      const token = tokenOf("admin");
      const forged = { "x-tenant": theirs, "x-app-id": theirs, cookie: `tenant=${theirs}` };
      for (const name of ["appId", "tenant", "scope"]) {
        const asked = yield* ask(port, `/api/v1/letters?${name}=${theirs}`, { token, headers: forged });
        assert.deepStrictEqual([asked.status, asked.body.items], [400, undefined], name);
      }
      const listed = yield* ask(port, "/api/v1/letters?state=any", { token, headers: forged });
      assert.deepStrictEqual(
        listed.body.items?.map((_: { readonly id: string }) => _.id),
        [dead.id],
        JSON.stringify(listed.body),
      );
      assert.strictEqual((yield* ask(port, `/api/v1/letters/${foreign.id}`, { token, headers: forged })).status, 404);
      assert.strictEqual((yield* ask(port, `/api/v1/letters/${foreign.id}/raw`, { token })).status, 404);
      for (const change of ["replay", "discard", "erase"]) {
        const body = { filter: { ids: [foreign.id] }, reason: "mine now", tenant: theirs };
        const answer = yield* ask(port, `/api/v1/${change}`, { token, body, headers: forged });
        assert.strictEqual(answer.status, 400, JSON.stringify(answer.body));
        const { tenant: _, ...rest } = body;
        const plain = yield* ask(port, `/api/v1/${change}`, {
          token,
          body: change === "replay" ? { filter: rest.filter } : rest,
          headers: forged,
        });
        assert.isFalse(JSON.stringify(plain.body).includes('ed":1'), JSON.stringify(plain.body));
      }
      const still = yield* ask(port, `/api/v1/letters/${foreign.id}`, { token: tokenOf("viewer", theirs) });
      assert.deepStrictEqual([still.status, still.body.replayedAt], [200, null]);
      const all = yield* ask(port, "/api/v1/letters", { token: "all" });
      assert.includeMembers(
        all.body.items.map((_: { readonly appId: string }) => _.appId),
        [mine, theirs],
      );
    }),
  );

  it.scoped("hides payloads and errors from viewers, and writes down who read one raw", () =>
    Effect.gen(function* () {
      const { db, dead, mine, port, tokenOf } = yield* filled;
      const seen = (path: string, token: string) =>
        Effect.map(ask(port, `/api/v1${path}`, { token }), ({ body }) => JSON.stringify(body));
      const history = `/jobs/${dead.originalJobId}/history`;
      assert.include(yield* seen(history, tokenOf("operator")), "no route");
      for (const path of ["/letters", `/letters/${dead.id}`, "/preview", "/groups", "/events", history]) {
        const said = yield* seen(path, tokenOf("viewer"));
        assert.notInclude(said, "4111", path);
        assert.notInclude(said, "no route", path);
      }
      assert.include(yield* seen(`/letters/${dead.id}`, tokenOf("viewer")), '"isHidden":true');
      // An answer to "does it contain this?" would tell it piece by piece.
      for (const path of ["/letters", "/preview", "/groups"]) {
        for (const asked of ["text=route", `payload=${encodeURIComponent('{"card":"4111"}')}`]) {
          const statuses = yield* Effect.forEach([tokenOf("viewer"), "trusted", tokenOf("operator")], (token) =>
            Effect.map(ask(port, `/api/v1${path}?${asked}`, { token }), ({ status }) => status),
          );
          assert.deepStrictEqual(statuses, [403, 200, 200], `${path}?${asked}`);
        }
      }
      for (const token of ["trusted", tokenOf("operator")]) {
        assert.include(yield* seen(`/letters/${dead.id}`, token), "4111");
      }
      yield* seen(`/letters/${dead.id}/raw`, "trusted");
      const { items } = yield* Client.tenant(mine)(db.jobDlq.events({ kind: "viewed" }));
      assert.deepStrictEqual(
        items.map(({ actor, dlqId }) => [actor, dlqId]),
        [["trusted", dead.id]],
      );
    }),
  );

  it.scoped("hides from viewers what a replay with another payload says in the ledger", () =>
    Effect.gen(function* () {
      const { dead, port, tokenOf } = yield* filled;
      const body = { filter: { ids: [dead.id] }, payload: { card: "4242" } };
      const replayed = yield* ask(port, "/api/v1/replay", { token: tokenOf("operator"), body });
      assert.strictEqual(replayed.body.outcomes.replayed, 1);
      const said = (token: string) =>
        Effect.map(ask(port, "/api/v1/events", { token }), (answer) => JSON.stringify(answer.body));
      const viewer = yield* said(tokenOf("viewer"));
      assert.include(viewer, dead.id);
      for (const secret of ["4111", "4242", "card"]) assert.notInclude(viewer, secret);
      for (const token of ["trusted", tokenOf("operator")]) assert.include(yield* said(token), "4242");
    }),
  );

  it.scoped("without tokens listens on this machine only, wherever it is told to", () =>
    Effect.gen(function* () {
      const hostOf = (options: Partial<Server.ServerOptions>) =>
        Effect.map(
          Layer.build(Server.layer({ grants: undefined, port: 0, ...options })),
          (context) => Object(Context.get(context, HttpServer.HttpServer).address).hostname as unknown,
        );
      for (const host of [undefined, "0.0.0.0", "::"]) assert.strictEqual(yield* hostOf({ host }), "127.0.0.1");
      const tenant = yield* newTenant;
      const grants = yield* parse("test", JSON.stringify([{ name: "a", sha256: hashOf("a"), tenant, role: "viewer" }]));
      assert.strictEqual(yield* hostOf({ grants, host: "0.0.0.0" }), "0.0.0.0");
    }),
  );

  it.scoped("serves the console's files under a policy that lets them run this server's scripts only", () =>
    Effect.gen(function* () {
      const file = (type: string, text: string) => ({ type, plain: Buffer.from(text), zipped: gzipSync(text) });
      const pages = new Map([
        ["/index.html", file("text/html; charset=utf-8", "<p>page</p>")],
        ["/assets/main.js", file("text/javascript; charset=utf-8", "run()")],
      ]);
      const port = yield* serve({ pages });
      for (const [path, text] of [
        ["/", "<p>page</p>"],
        ["/letters/1?x=y", "<p>page</p>"],
        ["/assets/main.js", "run()"],
      ]) {
        const { headers, raw, status } = yield* ask(port, path ?? "");
        assert.deepStrictEqual([status, raw], [200, text], path);
        const policy = String(headers["content-security-policy"]).split("; ");
        for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]) {
          assert.include(policy, part, path);
        }
        assert.notInclude(policy.join(), "unsafe", path);
        assert.strictEqual(headers["x-content-type-options"], "nosniff");
      }
      assert.strictEqual((yield* ask(port, "/assets/none.js")).status, 404);
    }),
  );

  it.scoped("does what the command does: filter, pages, replay, discard, restore", () =>
    Effect.gen(function* () {
      const { db, dead, mine, port, tokenOf } = yield* filled;
      const token = tokenOf("operator");
      yield* Client.tenant(mine)(
        db.jobDlq.insertMany(
          Array.from({ length: 5 }, (_, i) => letter(mine, { type: `bulk.${i}`, payload: { n: i } })),
        ),
      );
      const get = (path: string) => Effect.map(ask(port, `/api/v1${path}`, { token }), ({ body }) => body);
      const post = (path: string, body: unknown) =>
        Effect.map(ask(port, `/api/v1${path}`, { token, body }), (answer) => answer.body);
      assert.strictEqual((yield* get("/preview?typePrefix=bulk.")).count, 5);
      assert.strictEqual((yield* get(`/preview?payload=${encodeURIComponent('{"n":3}')}`)).count, 1);
      const ids: Array<string> = [];
      for (let cursor = ""; ; ) {
        const page = yield* get(`/letters?limit=2${cursor === "" ? "" : `&cursor=${cursor}`}`);
        ids.push(...page.items.map((_: { readonly id: string }) => _.id));
        if (page.next === null) break;
        cursor = page.next;
      }
      assert.strictEqual(new Set(ids).size, 6);
      const replayed = yield* post("/replay", { filter: { ids: [dead.id] } });
      assert.strictEqual(replayed.outcomes.replayed, 1);
      const discarded = yield* post("/discard", { filter: { type: { prefix: "bulk." } }, reason: "a test", limit: 2 });
      assert.strictEqual(discarded.outcomes.discarded, 2);
      const { items } = yield* get("/events?kind=discarded");
      assert.deepStrictEqual(
        new Set(items.map((_: { readonly actor: string }) => _.actor)),
        new Set([`operator of ${mine}`]),
      );
      const restored = yield* post("/restore", { eventIds: items.map((_: { readonly id: string }) => _.id) });
      assert.deepStrictEqual(
        restored.map((_: { readonly outcome: string }) => _.outcome),
        ["restored", "restored"],
      );
      const history = yield* get(`/jobs/${dead.originalJobId}/history`);
      assert.strictEqual(history.rounds[0].outcome, "waiting");
      assert.strictEqual(
        Option.getOrNull(
          (yield* Client.tenant(mine)(db.jobDlq.get(dead.id))).pipe(Option.flatMap((_) => _.replayedAt)),
        ) === null,
        false,
      );
    }),
  );

  it.scoped("looks at the newest letters only where it is asked to, and says whether that were all", () =>
    Effect.gen(function* () {
      const { db, mine, port, tokenOf } = yield* filled;
      const token = tokenOf("operator");
      yield* Client.tenant(mine)(
        db.jobDlq.insertMany(
          Array.from({ length: 3 }, () =>
            letter(mine, { type: "far", errorHistory: [{ error: "too far", timestamp: Date.now() }] }),
          ),
        ),
      );
      const get = (path: string) => Effect.map(ask(port, `/api/v1${path}`, { token }), ({ body }) => body);
      const counts = (query: string) =>
        Effect.gen(function* () {
          const preview = yield* get(`/preview?${query}`);
          const [group] = yield* get(`/groups?${query}`);
          const [stat] = yield* get(`/stats?by=type&${query}`);
          return [preview, group, stat].map(({ count, depth = count, isExact }) => [depth, isExact]);
        });
      assert.deepStrictEqual(yield* counts("text=too%20far"), Array(3).fill([3, true]));
      assert.deepStrictEqual(yield* counts("text=too%20far&most=1000000"), Array(3).fill([3, true]));
      for (const [, isExact] of yield* counts("text=too%20far&most=1")) assert.isFalse(isExact);
      // An index counts them whole.
      assert.deepStrictEqual(yield* counts("type=far&most=1"), Array(3).fill([3, true]));
      const none = yield* get("/preview?text=no%20route&type=far&most=1");
      assert.deepInclude(none, { count: 0, isExact: false });
      for (const path of ["/preview", "/groups", "/stats?by=type"]) {
        for (const most of ["0", "1000001", "1.5", "many", "-1", ""]) {
          const asked = `/api/v1${path}${path.includes("?") ? "&" : "?"}most=${most}`;
          const { body, status, type } = yield* ask(port, asked, { token });
          assert.deepStrictEqual([status, type], [400, "application/problem+json"], asked);
          assert.match(body.detail, /^most: /u, asked);
        }
      }
      const { components, paths } = (yield* ask(port, "/api/v1/openapi.json")).body;
      for (const name of ["preview", "groups", "stats"]) {
        const { parameters, responses } = paths[`/api/v1/${name}`].get;
        const [most] = parameters.filter((_: { readonly name: string }) => _.name === "most");
        assert.deepInclude(most, { in: "query", required: false }, name);
        assert.include(JSON.stringify(most), "isExact", name);
        const answer = responses["200"].content["application/json"].schema;
        const item = name === "preview" ? answer : components.schemas[answer.items.$ref.split("/").at(-1)];
        assert.include(item.required, "isExact", name);
      }
    }),
  );

  it.scoped("answers what cannot be meant with a problem that names it, and changes nothing", () =>
    Effect.gen(function* () {
      const { db, mine, port, tokenOf } = yield* filled;
      const token = tokenOf("admin");
      const cases: ReadonlyArray<readonly [path: string, asked: Asked, status: number]> = [
        ["/letters?limit=0", {}, 400],
        ["/letters?limit=many", {}, 400],
        ["/letters?cursor=x", {}, 400],
        ["/letters?since=soon", {}, 400],
        ["/letters?ids=1,2", {}, 400],
        ["/letters?type=a&typePrefix=b", {}, 400],
        ["/letters?most=5", {}, 400],
        ["/export?most=5", {}, 400],
        ["/letters?payload=%7B", {}, 400],
        ["/letters/one", {}, 400],
        ["/stats?by=moon", {}, 400],
        ["/nowhere", {}, 404],
        ["/replay", { body: { filter: {} } }, 400],
        ["/replay", { body: { filter: { colour: "red" } } }, 400],
        ["/replay", { body: { filter: { all: true, state: "any" } } }, 400],
        ["/replay", { body: { filter: { all: true }, ratePerSecond: 0 } }, 400],
        // A misspelled condition or limit would leave out nothing.
        ["/discard", { body: { filter: { type: "mail.send", untill: "2026-01-01T00:00:00Z" }, reason: "x" } }, 400],
        ["/erase", { body: { filter: { userId: mine, tpye: "x" } } }, 400],
        ["/replay", { body: { filter: { all: true }, limt: 1 } }, 400],
        ["/preview?tipe=mail.send", {}, 400],
        ["/export?tipe=mail.send", {}, 400],
        ["/letters?since=2", {}, 400],
        ["/replay", { body: { filter: { all: true }, asOf: "yesterday" } }, 400],
        ["/replay", { raw: "{" }, 400],
        ["/replay", { raw: "", headers: { "content-type": "text/plain" }, method: "POST" }, 415],
        ["/discard", { body: { filter: { all: true } } }, 400],
        ["/discard", { body: { filter: { all: true }, reason: " " } }, 400],
        ["/erase", { body: { filter: {} } }, 400],
        ["/retain", { body: {} }, 400],
        ["/retain", { body: { discarded: 1 } }, 403],
        ["/replay", { body: { filter: { ids: [] }, payload: "x".repeat(2_000_000) } }, 413],
        ["/replay", { raw: "{}", headers: { "transfer-encoding": "chunked" } }, 411],
      ];
      for (const [path, asked, status] of cases) {
        const answer = yield* ask(port, `/api/v1${path}`, { token, ...asked });
        assert.deepStrictEqual(
          [answer.status, answer.type],
          [status, "application/problem+json"],
          `${path} ${JSON.stringify(asked).slice(0, 100)} ${JSON.stringify(answer.body)}`,
        );
        assert.isAbove(answer.body.detail.length, 10, path);
      }
      const { items } = yield* Client.tenant(mine)(db.jobDlq.events());
      assert.deepStrictEqual(items, []);
    }),
  );

  it.scoped("without tokens answers to this machine's own names only, and to no page of another site", () =>
    Effect.gen(function* () {
      yield* deadJob(yield* newTenant);
      const port = yield* serve({ host: "0.0.0.0" });
      const me = yield* ask(port, "/api/v1/me");
      assert.deepStrictEqual(me.body, { name: "local", role: "admin", tenant: null, seesPayloads: true });
      for (const [name, value] of Object.entries({
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
      })) {
        assert.strictEqual(me.headers[name], value);
      }
      for (const host of ["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example"]) {
        assert.strictEqual((yield* ask(port, "/api/v1/me", { headers: { host } })).status, 421, host);
      }
      const body = { filter: { all: true } };
      for (const site of ["cross-site", "same-site"]) {
        assert.strictEqual(
          (yield* ask(port, "/api/v1/replay", { body, headers: { "sec-fetch-site": site } })).status,
          403,
        );
      }
    }),
  );

  /** The events of a text: name and data. */
  const eventsOf = (text: string) =>
    [...text.matchAll(/^(?:id: (.*)\n)?event: (.*)\ndata: (.*)$/gmu)].map(([, id, name, data]) => ({
      id,
      name,
      data: JSON.parse(data ?? "null"),
    }));
  const accept = "text/event-stream";

  it.scoped("sends a bulk change as events, batch by batch, and what goes wrong as the last one", () =>
    Effect.gen(function* () {
      const { db, mine, port, tokenOf } = yield* filled;
      const token = tokenOf("operator");
      yield* Client.tenant(mine)(
        db.jobDlq.insertMany(Array.from({ length: 2500 }, () => letter(mine, { type: "bulk.one" }))),
      );
      const body = { filter: { type: "bulk.one" }, reason: "a test" };
      const changed = yield* ask(port, "/api/v1/discard", { token, body, headers: { accept } });
      assert.strictEqual(changed.type, "text/event-stream");
      const all = eventsOf(changed.body);
      assert.deepStrictEqual(all.at(-1)?.name, "done");
      assert.strictEqual(all.at(-1)?.data.outcomes.discarded, 2500);
      assert.isAbove(all.filter(({ name }) => name === "progress").length, 1);
      const refused = yield* ask(port, "/api/v1/replay", { token, body: { filter: {} }, headers: { accept } });
      assert.deepStrictEqual(
        eventsOf(refused.body).map(({ data, name }) => [name, data.status]),
        [["problem", 400]],
      );
      const viewer = yield* ask(port, "/api/v1/discard", { token: tokenOf("viewer"), body, headers: { accept } });
      assert.deepStrictEqual([viewer.status, viewer.type], [403, "application/problem+json"]);
    }),
  );

  it.scoped("stops a bulk change between two batches when its reader goes away; what was done stands", () =>
    Effect.gen(function* () {
      const { db, mine, port, tokenOf } = yield* filled;
      yield* Client.tenant(mine)(
        db.jobDlq.insertMany(Array.from({ length: 5000 }, () => letter(mine, { type: "bulk.two" }))),
      );
      const body = { filter: { type: "bulk.two" }, ratePerSecond: 500 };
      const seen = yield* ask(port, "/api/v1/replay", {
        token: tokenOf("operator"),
        body,
        headers: { accept },
        until: "progress",
      });
      const told = eventsOf(seen.body).at(-1)?.data.outcomes.replayed as number;
      const pending = Effect.map(Client.tenant(mine)(db.jobDlq.preview({ type: "bulk.two" })), ({ count }) => count);
      // The server has noticed when two looks, further apart than two batches, see the same.
      let left = yield* pending;
      for (;;) {
        yield* Effect.sleep("3 seconds");
        const now = yield* pending;
        if (now === left) break;
        left = now;
      }
      assert.isAbove(told, 0);
      assert.isAbove(left, 0, "it stopped before its end");
      assert.isAtMost(left, 5000 - told);
    }),
  );

  it.scoped("tells dead letters as they come, in the scope of the token, and goes on where a reader was", () =>
    Effect.gen(function* () {
      const { dead, foreign, mine, port, theirs, tokenOf } = yield* filled;
      const listen = (token: string, until: string, path = "/changes", headers = {}) =>
        ask(port, `/api/v1${path}`, { token, until, headers: { accept, ...headers } });
      const first = eventsOf((yield* listen("all", foreign.id, `/changes?after=${beginning}`)).body);
      assert.includeMembers(
        first.map(({ data }) => data.id),
        [dead.id, foreign.id],
      );
      const position = first.at(-1)?.id ?? "";
      yield* deadJob(theirs);
      const late = yield* deadJob(mine, { payload: { card: "4222" } });
      const next = yield* listen(tokenOf("viewer"), late.id, "/changes", { "last-event-id": position });
      assert.deepStrictEqual(
        eventsOf(next.body).map(({ data }) => [data.id, data.payload, data.isHidden]),
        [[late.id, null, true]],
      );
    }),
  );

  it.scoped("ends what it still tells when the token expires", () =>
    Effect.gen(function* () {
      const tenant = yield* newTenant;
      const expiresAt = new Date(Date.now() + 2000).toISOString();
      const grants = yield* parse(
        "test",
        JSON.stringify([{ name: "short", sha256: hashOf("short"), tenant, role: "viewer", expiresAt }]),
      );
      const port = yield* serve({ grants });
      const { body, status } = yield* ask(port, "/api/v1/changes", { token: "short", headers: { accept } });
      assert.strictEqual(status, 200, body);
      assert.strictEqual((yield* ask(port, "/api/v1/me", { token: "short" })).status, 401);
    }),
  );

  it.scoped("changes nothing that came after the preview, if it is told the preview's moment", () =>
    Effect.gen(function* () {
      const { db, mine, port, tokenOf } = yield* filled;
      const token = tokenOf("operator");
      const arrive = Client.tenant(mine)(
        db.jobDlq.insertMany(Array.from({ length: 3 }, () => letter(mine, { type: "seen" }))),
      );
      yield* arrive;
      const { asOf, count } = (yield* ask(port, "/api/v1/preview?type=seen", { token })).body;
      assert.strictEqual(count, 3);
      yield* arrive;
      const body = { filter: { type: "seen" }, reason: "test", asOf };
      const discarded = yield* ask(port, "/api/v1/discard", { token, body });
      assert.deepInclude(discarded.body, { asked: 3 });
      assert.strictEqual((yield* ask(port, "/api/v1/preview?type=seen", { token })).body.count, 3);
    }),
  );

  it.scoped("tells of rows that do not fit the model, and hides none of the others", () =>
    Effect.gen(function* () {
      const { dead, mine, port, tokenOf } = yield* filled;
      const sql = yield* SqlClient.SqlClient;
      const broken = yield* deadJob(mine, { type: "broken" });
      yield* sql`UPDATE job_dlq SET error_history = '[{"odd": 1}]' WHERE id = ${broken.id}::uuid`;
      const listed = yield* ask(port, "/api/v1/letters", { token: tokenOf("operator") });
      assert.deepStrictEqual(
        [listed.body.items, listed.body.unreadable].map((rows) => rows.map((_: { readonly id: string }) => _.id)),
        [[dead.id], [broken.id]],
      );
      assert.isString(listed.body.unreadable[0].problem);
      const hidden = yield* ask(port, "/api/v1/letters", { token: tokenOf("viewer") });
      assert.deepStrictEqual(hidden.body.unreadable, [{ id: broken.id, problem: null }]);
      const one = yield* ask(port, `/api/v1/letters/${broken.id}`, { token: tokenOf("operator") });
      assert.deepStrictEqual([one.status, one.type], [422, "application/problem+json"], JSON.stringify(one.body));
    }),
  );

  it.scoped("has twenty readers of changes and no more, until one goes", () =>
    Effect.gen(function* () {
      const { dead, port, tokenOf } = yield* filled;
      const read = (until: string) =>
        ask(port, `/api/v1/changes?after=${beginning}`, { token: tokenOf("viewer"), headers: { accept }, until });
      // One that asks may have the last place for a moment.
      const reading = Effect.repeat(read("never said"), {
        while: ({ status }) => status === 429,
        schedule: Schedule.spaced("50 millis"),
      });
      const one = yield* Effect.fork(reading);
      yield* Effect.forEach(Array(19), () => Effect.forkScoped(reading));
      const refused = Effect.map(read(dead.id), ({ status }) => status === 429);
      yield* Effect.repeat(refused, { until: (_) => _, schedule: Schedule.spaced("50 millis") });
      yield* Fiber.interrupt(one);
      yield* Effect.repeat(refused, { until: (_) => !_, schedule: Schedule.spaced("50 millis") });
    }),
  );

  it.scoped("lets nobody ask too often", () =>
    Effect.gen(function* () {
      const tenant = yield* newTenant;
      const grants = yield* parse(
        "test",
        JSON.stringify(["a", "b"].map((name) => ({ name, sha256: hashOf(name), tenant, role: "viewer" }))),
      );
      const port = yield* serve({ grants, requestsPerTenSeconds: 5, strangersPerMinute: 3 });
      const statuses = (token: string, times: number) =>
        Effect.all(Array.from({ length: times }, () => ask(port, "/api/v1/me", { token })));
      const answers = yield* statuses("a", 6);
      assert.deepStrictEqual(
        answers.map(({ status }) => status),
        [200, 200, 200, 200, 200, 429],
      );
      assert.strictEqual(answers[5]?.type, "application/problem+json");
      assert.strictEqual(answers[5]?.headers["retry-after"], String(answers[5]?.body.retryAfterSeconds));
      const strangers = yield* statuses("guess", 4);
      assert.deepStrictEqual(
        strangers.map(({ status }) => status),
        [401, 401, 401, 429],
      );
      assert.strictEqual((yield* ask(port, "/api/v1/me", { token: "b" })).status, 200, "who is known is let in still");
      // A page that asks whether it needs a token does not guess.
      assert.strictEqual((yield* ask(port, "/api/v1/me")).status, 401);
    }),
  );

  it.scoped("has a page that documents it, whole, under a policy that names its scripts", () =>
    Effect.gen(function* () {
      const { port } = yield* filled;
      const page = yield* ask(port, "/api/v1/docs");
      assert.strictEqual(page.status, 200);
      assert.include(page.body, "swagger-ui");
      assert.notMatch(page.body, /<(?:script|link|img)[^>]+(?:src|href)=/u);
      const policy = String(page.headers["content-security-policy"]);
      assert.notInclude(/script-src[^;]*/u.exec(policy)?.[0] ?? "unsafe", "unsafe");
      assert.match(policy, /script-src 'sha256-/u);
    }),
  );

  it.scoped("has a typed client", () =>
    Effect.gen(function* () {
      const { dead, port, tokenOf } = yield* filled;
      const make = (token: string) =>
        HttpClientOfApi.make({ baseUrl: `http://127.0.0.1:${port}`, token: Redacted.make(token) });
      const client = yield* make(tokenOf("operator"));
      const { items } = yield* client.reading.letters({ urlParams: { type: dead.type } });
      assert.deepStrictEqual(
        items.map(({ id }) => id),
        [dead.id],
      );
      const { outcomes } = yield* client.changing.replay({ payload: { filter: { ids: [dead.id] } } });
      assert.strictEqual(outcomes.replayed, 1);
      const viewer = yield* make(tokenOf("viewer"));
      const refused = yield* Effect.flip(viewer.changing.replay({ payload: { filter: { ids: [dead.id] } } }));
      assert.strictEqual(refused._tag, "Forbidden");
    }).pipe(Effect.provide(FetchHttpClient.layer)),
  );
});

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("dlq console", (it) => {
  it.scoped("serves until Ctrl-C, and says who may ask", () =>
    Effect.gen(function* () {
      const environment = withUrl(yield* TestUrl);
      const open = yield* startDlq(["console", "--port", "0"], environment);
      yield* open.saysOnStderr("administrator of every tenant");
      const port = Number(/127\.0\.0\.1:(\d+)/u.exec(open.output())?.[1]);
      assert.strictEqual((yield* ask(port, "/api/v1/me")).status, 200);
      // A reader that stays does not hold it.
      const reader = yield* Effect.async<IncomingMessage>((resume) => {
        const asked = { host: "127.0.0.1", port, path: "/api/v1/changes", headers: { accept: "text/event-stream" } };
        request(asked, (response) => resume(Effect.succeed(response)))
          .once("error", (error) => resume(Effect.die(error)))
          .end();
      });
      reader.on("error", () => {}).resume();
      yield* open.kill("SIGINT");
      assert.strictEqual((yield* open.ended).code, 130);

      const tokens = JSON.stringify([{ name: "a", sha256: hashOf("a"), tenant: "*", role: "admin" }]);
      const closed = yield* startDlq(["console", "--port", "0"], { ...environment, DLQ_TOKENS: tokens });
      yield* closed.saysOnStderr("1 token is known");
      const other = Number(/127\.0\.0\.1:(\d+)/u.exec(closed.output())?.[1]);
      assert.strictEqual((yield* ask(other, "/api/v1/me")).status, 401);
      assert.strictEqual((yield* ask(other, "/api/v1/me", { token: "a" })).status, 200);
      const taken = yield* runDlq(["console", "--port", String(other)], environment);
      assert.deepStrictEqual(
        [taken.code, /It cannot listen at .*EADDRINUSE/u.test(taken.stderr)],
        [1, true],
        taken.stderr,
      );
    }),
  );

  it.scoped("does not start where it would be open to others, or with tokens that cannot be used", () =>
    Effect.gen(function* () {
      const environment = withUrl(yield* TestUrl);
      for (const [args, given, code, said] of [
        [["--host", "0.0.0.0"], {}, 2, /there are no tokens/u],
        [["--port", "70000"], {}, 2, /from 0/u],
        [["--tokens", "/nowhere"], {}, 1, /\/nowhere cannot be used/u],
        [[], { DLQ_TOKENS: "[]" }, 1, /DLQ_TOKENS cannot be used/u],
        // A secret that was not there.
        [[], { DLQ_TOKENS: "" }, 1, /DLQ_TOKENS cannot be used/u],
      ] as const) {
        const ended = yield* runDlq(["console", ...args], { ...environment, ...given });
        assert.strictEqual(ended.code, code, ended.stderr);
        assert.match(ended.stderr + ended.stdout, said);
      }
    }),
  );
});
