/**
 * Attacks over HTTP and on the command line: another tenant's ids on every route, a token for all tenants where the server's login is
 * tenants only, and texts that want to be SQL in every parameter, body, header and flag. docs/threat-model.md says what they mean.
 */
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import * as HttpServer from "@effect/platform/HttpServer";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import { lineOf, nobody, rowsOf, somebody, type Target, wordsOf } from "../../database/test/support/attempts.js";
import { rounds } from "../../database/test/support/campaign.js";
import { letter, newTenant, TestDatabase, TestUrl, withLogin } from "../../database/test/support/database.js";
import { tableUnder } from "../../database/test/support/markdown.js";
import { payloads, target, world } from "../../database/test/support/payloads.js";
import { root, withUrl } from "../../database/test/support/process.js";
import { hashOf, parse } from "../src/access.js";
import { Api } from "../src/http/api.js";
import * as Server from "../src/http/server.js";
import { runDlq } from "./support/dlq.js";

interface Asked {
  readonly path: string;
  readonly body?: unknown;
  /** Instead of `body`: lines of an import. */
  readonly lines?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Hangs up when this was answered. */
  readonly until?: string;
}

const ask = (port: number, token: string, { body, headers, lines, path, until }: Asked) =>
  Effect.async<{ readonly status: number; readonly said: string }>((resume) => {
    const text = lines ?? (body === undefined ? undefined : JSON.stringify(body));
    const type = lines === undefined ? "application/json" : "application/x-ndjson";
    const sent = request(
      {
        host: "127.0.0.1",
        port,
        path: `/api/v1${path}`,
        method: text === undefined ? "GET" : "POST",
        headers: {
          authorization: `Bearer ${token}`,
          ...(text === undefined ? {} : { "content-type": type, "content-length": Buffer.byteLength(text) }),
          ...headers,
        },
      },
      (response) => {
        let said = "";
        response.setEncoding("utf8").on("data", (some) => {
          said += some;
          if (until !== undefined && said.includes(until)) response.destroy();
        });
        response.once("close", () => resume(Effect.succeed({ status: response.statusCode ?? 0, said })));
      },
    );
    // What Node's parser refuses is no answer either.
    sent.once("error", (error) => resume(Effect.succeed({ status: 0, said: error.message })));
    sent.end(text);
    return Effect.sync(() => sent.destroy());
  });

/** A server on this login. Its tokens: `mine …` of each tenant's administrator, and `all` for all tenants. */
const serve = (login: Context.Context<DatabaseService | SqlClient.SqlClient>, tenants: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const grants = yield* parse(
      "test",
      JSON.stringify([
        ...tenants.map((tenant) => ({ name: "mine", sha256: hashOf(`mine ${tenant}`), tenant, role: "admin" })),
        { name: "all", sha256: hashOf("all"), tenant: "*", role: "admin" },
      ]),
    );
    const server = Server.layer({ grants, port: 0, requestsPerTenSeconds: 100_000, strangersPerMinute: 100_000 });
    const { address } = Context.get(yield* Effect.provide(Layer.build(server), login), HttpServer.HttpServer);
    return address._tag === "TcpAddress" ? address.port : 0;
  });

/** What is tried on each route; with the ids of somebody else, or of nobody. */
const routes: Readonly<Record<string, (them: Target, me: string) => ReadonlyArray<Asked>>> = {
  me: () => [{ path: "/me" }],
  letters: ({ letter: id, type, user }) => [
    { path: "/letters?state=any" },
    { path: `/letters?ids=${id}` },
    { path: `/letters?type=${type}` },
    { path: `/letters?userId=${user}&state=any` },
    { path: `/letters?text=${type}` },
  ],
  letter: ({ discarded, letter: id, replayed }) =>
    [id, replayed, discarded].map((one) => ({ path: `/letters/${one}` })),
  raw: ({ letter: id }) => [{ path: `/letters/${id}/raw` }],
  history: ({ deadJob, job }) => [deadJob, job].map((id) => ({ path: `/jobs/${id}/history` })),
  preview: ({ fingerprint }) => [{ path: "/preview?state=any" }, { path: `/preview?fingerprint=${fingerprint}` }],
  groups: () => [{ path: "/groups" }],
  stats: ({ type }) => [{ path: "/stats?by=type" }, { path: `/stats?by=reason&type=${type}` }],
  events: ({ discarded, event }) => [
    { path: "/events" },
    { path: `/events?dlqId=${discarded}` },
    { path: `/events?cursor=${event}` },
  ],
  export: ({ letter: id }) => [{ path: "/export?state=any" }, { path: `/export?ids=${id}` }],
  changes: ({ position }) => [
    { path: `/changes?after=${position}`, headers: { accept: "text/event-stream" }, until: "event: " },
  ],
  replay: ({ discarded, letter: id, replayed, type }) => [
    { path: "/replay", body: { filter: { ids: [id, replayed, discarded] } } },
    { path: "/replay", body: { filter: { type }, payload: "mine" } },
  ],
  discard: ({ letter: id }) => [
    { path: "/discard", body: { filter: { ids: [id] }, reason: "mine" } },
    { path: "/discard", body: { filter: { all: true }, reason: "mine" } },
  ],
  restore: ({ event, letter: id }) => [{ path: "/restore", body: { eventIds: [event, id] } }],
  import: ({ app, letter: id }) => [{ path: "/import", lines: `${lineOf(app, id, id)}\n` }],
  purge: () => [{ path: "/purge", body: { olderThanDays: 0 } }],
  retain: () => [{ path: "/retain", body: { replayed: 0 } }],
  erase: ({ letter: id, user }) => [
    { path: "/erase", body: { filter: { userId: user } } },
    { path: "/erase", body: { filter: { ids: [id] } } },
  ],
};

const tenantOnly = withLogin("parametric_tenant");

/** On which routes an administrator of one tenant learns something of another, or changes something there. */
const leaks = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const noOne = yield* nobody;
  const tries = Object.entries(routes).flatMap(([route, tried]) =>
    tried(noOne, "").map((_, place) => ({ route, tried: (them: Target, me: string) => tried(them, me)[place], place })),
  );
  const tenants = yield* Effect.replicateEffect(newTenant, 2 * tries.length);
  const port = yield* serve(yield* tenantOnly, tenants);
  const found: Array<string> = [];
  for (const [turn, { place, route, tried }] of tries.entries()) {
    const tell = (them: Target, me = "") =>
      Effect.gen(function* () {
        if (route === "changes") yield* Client.tenant(me)(db.jobDlq.insert(letter(me, { type: "own" })));
        const answer = yield* ask(port, `mine ${me}`, tried(them, me) ?? { path: "/none" });
        return wordsOf(Exit.succeed(answer), them, me)
          .replaceAll(/id: [\w-]{20,}/gu, "id: <position>")
          .replaceAll(/asOf\\":\\"[\d:,]+/gu, "asOf");
      });
    const unknown = yield* Effect.flatMap(nobody, (_) => tell(_, tenants[2 * turn]));
    const them = yield* somebody;
    const before = yield* rowsOf(them.app);
    const known = yield* tell(them, tenants[2 * turn + 1]);
    if (known !== unknown) found.push(`${route} ${place}: ${known} is not ${unknown}`);
    if (JSON.stringify(yield* rowsOf(them.app)) !== JSON.stringify(before)) found.push(`${route} ${place}: changed`);
  }
  return found;
});

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })(
  "the API on a login that may be tenants only",
  (it) => {
    it.effect("is tried on every route that there is", () =>
      Effect.sync(() => {
        const names = Object.values(Api.groups).flatMap(({ endpoints }) => Object.keys(endpoints));
        assert.deepStrictEqual(Object.keys(routes).sort(), names.sort());
      }),
    );

    it.scoped("says of another tenant's ids what it says of ids that nobody has, and changes nothing there", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* leaks, []);
      }),
    );

    it.scoped("does nothing for a token of all tenants", () =>
      Effect.gen(function* () {
        const me = yield* newTenant;
        const port = yield* serve(yield* tenantOnly, [me]);
        const them = yield* somebody;
        const before = yield* rowsOf(them.app);
        for (const [route, tried] of Object.entries(routes)) {
          for (const asked of tried(them, me)) {
            const { said, status } = yield* ask(port, "all", asked);
            if (route === "me") continue;
            // What is told while it is read has begun with 200, and breaks off.
            if (route === "export") assert.deepStrictEqual([status, said], [200, ""]);
            else if (route === "changes") assert.match(said, /event: problem\n.*Service Unavailable/u);
            else
              assert.deepStrictEqual(
                [status, /does not answer as it should/u.test(said)],
                [503, true],
                `${route} ${said}`,
              );
            assert.notMatch(said, /permission|role|parametric/u, route);
            assert.notInclude(said, them.app);
          }
        }
        assert.deepStrictEqual(yield* rowsOf(them.app), before);
      }),
    );
  },
);

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })(
  "counter-test, on a database of its own",
  (it) => {
    it.scoped(
      "where the policies let tenants see and write everything, every route that touches rows is found out",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          for (const table of ["apps", "jobs", "job_dlq", "job_dlq_events"]) {
            yield* sql.unsafe(`ALTER POLICY ${table}_tenant ON ${table} USING (true) WITH CHECK (true)`);
          }
          const found = new Set((yield* leaks).map((leak) => leak.split(" ")[0] ?? ""));
          // Of the token alone; and the import's statement asks whose a line is itself.
          const others = ["me", "import"];
          assert.deepStrictEqual(
            [...found].sort(),
            Object.keys(routes)
              .filter((name) => !others.includes(name))
              .sort(),
          );
        }),
    );
  },
);

const filterNames = [
  "ids",
  "type",
  "typePrefix",
  "reason",
  "since",
  "until",
  "requestId",
  "userId",
  "originalJobId",
  "fingerprint",
  "text",
  "payload",
  "state",
];
const filters = (text: string): ReadonlyArray<object> => [
  ...filterNames.map((name) => ({ [name]: name === "ids" ? [text] : name === "payload" ? { [text]: text } : text })),
  { type: { prefix: text } },
  { [text]: text },
];

/** Every text that a request can have, on every route. */
const requests = (text: string): ReadonlyArray<Asked> => {
  const said = encodeURIComponent(text.isWellFormed() ? text : text.toWellFormed());
  const params = (path: string, names: ReadonlyArray<string>) =>
    [...names.map((name) => `${name}=${said}`), `${said}=1`].map((query) => ({
      path: `${path}${path.includes("?") ? "&" : "?"}${query}`,
    }));
  return [
    { path: `/${said}` },
    { path: `/letters/${said}` },
    { path: `/letters/${said}/raw` },
    { path: `/jobs/${said}/history` },
    ...params("/letters", [...filterNames, "limit", "cursor"]),
    ...params("/letters?payload=%5B%5D", [...filterNames.filter((name) => name !== "payload")]),
    ...params("/preview", [...filterNames, "most"]),
    ...params("/groups", [...filterNames, "limit", "most"]),
    ...params("/stats?by=type", [...filterNames, "from", "most"]),
    ...params("/stats", ["by"]),
    ...params("/events", ["dlqId", "originalJobId", "kind", "actor", "limit", "cursor"]),
    ...params("/export", filterNames),
    // Without Accept: with it what is refused is told in the same words, and what is not would not end.
    ...params("/changes", ["after"]),
    ...filters(text).flatMap((filter) => [
      { path: "/replay", body: { filter } },
      { path: "/discard", body: { filter, reason: "test" } },
      { path: "/erase", body: { filter } },
    ]),
    { path: "/replay", body: { filter: { ids: [] }, payload: { [text]: text } } },
    { path: "/replay", body: { filter: { all: true, type: "none" }, asOf: text } },
    { path: "/replay", body: { filter: { ids: [] }, delayMillis: text } },
    { path: "/replay", body: { filter: { ids: [] }, ratePerSecond: text, limit: text } },
    { path: "/replay", body: { [text]: text, filter: { ids: [] } } },
    { path: "/discard", body: { filter: { type: text }, reason: text } },
    { path: "/restore", body: { eventIds: [text] } },
    { path: "/restore", body: { eventIds: ["00000000-0000-0000-0000-000000000000"], reason: text } },
    { path: "/erase", body: { filter: { ids: [] }, reason: text } },
    { path: "/import", lines: `${text}\n` },
    { path: "/purge", body: { olderThanDays: text } },
    { path: "/retain", body: { replayed: text, pending: text } },
    { path: "/retain", body: { [text]: 1 } },
    ...["last-event-id", "x-tenant", "cookie", "user-agent", "accept", "referer", "x-forwarded-for", "traceparent"].map(
      (name) => ({
        path: "/letters",
        headers: { [name]: Buffer.from(text.replaceAll(/[^\x20-\xff]/gu, "")).toString("latin1") },
      }),
    ),
  ];
};

layer(TestDatabase, { excludeTestServices: true, timeout: "5 minutes" })("a text that wants to be SQL", (it) => {
  it.scoped(
    "in a parameter, a body, a line or a header is data or a problem",
    () =>
      Effect.gen(function* () {
        yield* target;
        const me = yield* newTenant;
        const them = yield* somebody;
        const context = yield* Effect.context<DatabaseService | SqlClient.SqlClient>();
        const port = yield* serve(context, [me]);
        const before = [yield* world, yield* rowsOf(them.app)];
        let answers = 0;
        for (const [turn, text] of payloads.entries()) {
          for (const [place, asked] of requests(text).entries()) {
            if ((turn + place) % rounds(1, 4) !== 0) continue;
            const { said, status } = yield* ask(port, `mine ${me}`, asked);
            assert.include([200, 400, 403, 404, 415, 422], status, `${JSON.stringify(asked)} ${said}`);
            assert.notMatch(said, /syntax error|multiple commands/u, JSON.stringify(asked));
            answers++;
          }
          // As a token too.
          const { status } = yield* ask(port, encodeURIComponent(text.toWellFormed()), { path: "/letters" });
          assert.strictEqual(status, 401);
          assert.deepStrictEqual([yield* world, yield* rowsOf(them.app)], before, text);
        }
        assert.isAbove(answers, 1000);
      }),
    300_000,
  );

  it.scoped(
    "in a flag or an argument of the command is data or wrong usage",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const me = yield* newTenant;
        yield* Client.tenant(me)(db.jobDlq.insert(letter(me)));
        const them = yield* somebody;
        const environment = { ...withUrl(yield* TestUrl), DLQ_TENANT: me };
        const reference = readFileSync(join(root, "docs/dlq-reference.md"), "utf8");
        // It stays, and is tried above.
        const commands = [...reference.matchAll(/^## dlq (\w+)$/gmu)]
          .map(([, name = ""]) => name)
          .filter((name) => name !== "console");
        const lines = commands.flatMap((command) => {
          const rows = tableUnder("docs/dlq-reference.md", `dlq ${command}`).map((row) => Object.values(row)[0] ?? "");
          const needed =
            { discard: ["--because", "test"], purge: [], token: ["--name", "x", "--role", "viewer"] }[command] ?? [];
          const sure = rows.includes("--yes") ? ["--yes"] : [];
          const all = rows.includes("--all") ? ["--all"] : [];
          const flags = rows.flatMap((row) => /^(--[\w-]+) (?:text|integer|float)/u.exec(row)?.[1] ?? []);
          const argument = (text: string) => [command, ...needed, ...sure, text];
          return [
            ...flags.map((flag) => (text: string) => [
              command,
              ...needed.filter((_, place) => needed[place - (place % 2)] !== flag),
              ...sure,
              ...(flag === "--because" ? all : []),
              flag,
              text,
            ]),
            argument,
          ];
        });
        assert.isAbove(lines.length, 100);
        const before = [yield* world, yield* rowsOf(them.app)];
        // An argument of a process has no NUL and is well-formed; one that begins with a sign is another flag.
        const texts = payloads.filter((text) => !/\0|\ud800/u.test(text));
        const chosen = lines.filter((_, place) => place % rounds(1, 9) === 0);
        yield* Effect.forEach(
          chosen,
          (line, place) =>
            Effect.gen(function* () {
              const args = line(texts[place % texts.length] ?? "");
              const { code, stderr, stdout } = yield* runDlq(args, environment);
              assert.include([0, 1, 2, 3], code, `${args.join(" ")}\n${stderr}`);
              assert.notMatch(stdout + stderr, /syntax error|multiple commands|injected\(\) does/u, args.join(" "));
            }),
          { concurrency: 2 },
        );
        // So is what the environment says.
        for (const name of ["DLQ_TENANT", "DLQ_ACTOR"]) {
          for (const text of texts.slice(0, 3)) {
            const { code } = yield* runDlq(["replay", "--all", "--yes"], { ...environment, [name]: text });
            assert.include([0, 1, 2, 3], code);
          }
        }
        assert.deepStrictEqual([yield* world, yield* rowsOf(them.app)], before);
      }),
    300_000,
  );
});
