// biome-ignore-all lint/suspicious/noTemplateCurlyInString: these are texts of sources.
/** What the operator package holds: who may ask what, whose rows, what is no request, how often, and what is asked before a change. */
import { inFile, type Mutation, testsOf } from "../mutation.js";

const http = testsOf("operator/test/http.test.ts");
const access = testsOf("operator/test/access.test.ts");
const change = testsOf("operator/test/change.test.ts");
const terminal = testsOf("operator/test/terminal.test.ts");
const look = testsOf("operator/test/look.test.ts");

const server = inFile("packages/operator/src/http/server.ts");
const handlers = inFile("packages/operator/src/http/handlers.ts");
const api = inFile("packages/operator/src/http/api.ts");
const docs = inFile("packages/operator/src/http/docs.ts");
const pages = inFile("packages/operator/src/http/pages.ts");
const accessFile = inFile("packages/operator/src/access.ts");
const changeFile = inFile("packages/operator/src/change.ts");
const console = inFile("packages/operator/src/console.ts");
const output = inFile("packages/operator/src/output.ts");

const roles = http("lets each role do its part on every route, and nobody without a token that is known");
const tenants = http("takes the tenant from the token and from nothing else");
const problems = http("answers what cannot be meant with a problem that names it, and changes nothing");
const hidden = http("hides payloads and errors from viewers, and writes down who read one raw");
const local = http("without tokens answers to this machine's own names only, and to no page of another site");
const often = http("lets nobody ask too often");
const expires = http("ends what it still tells when the token expires");

/** A route that needs more than a viewer, open to viewers. */
const open = (route: string, find: string): Mutation =>
  handlers(`${route}: open to viewers`, find, find.replace(/as\("(?:operator|admin)"/u, 'as("viewer"'), roles, {
    breaks: `route ${route}`,
  });

export const operatorList: ReadonlyArray<Mutation> = [
  open("/api/v1/export", '.handle("export", ({ urlParams }) =>\n      as("operator"'),
  open(
    "/api/v1/replay",
    '.handle("replay", ({ request, payload: { asOf, delayMillis, filter, limit, ratePerSecond, ...given } }) =>\n      as("operator"',
  ),
  open(
    "/api/v1/discard",
    '.handle("discard", ({ request, payload: { asOf, filter, limit, reason } }) =>\n      as("operator"',
  ),
  open("/api/v1/restore", '.handle("restore", ({ payload: { eventIds, reason } }) =>\n      as("operator"'),
  open("/api/v1/import", '.handleRaw("import", ({ request }) =>\n      as("operator"'),
  open("/api/v1/purge", '.handle("purge", ({ payload: { olderThanDays } }) =>\n      as("admin"'),
  open("/api/v1/retain", '.handle("retain", ({ payload }) =>\n      as("admin"'),
  open("/api/v1/erase", '.handle("erase", ({ payload: { filter, reason } }) =>\n      as("admin"'),
  handlers("roles are not asked", "({ role }) => isAtLeast(role, least),", "() => true,", roles, {
    breaks: "routes operator",
  }),
  accessFile("roles are the wrong way round", "rank[role] >= rank[least]", "rank[role] <= rank[least]", roles, {
    breaks: "routes admin",
  }),
  server(
    "a token that is not known",
    "return yield* new Unauthorized({",
    "return local as never;\n          new Unauthorized({",
    roles,
    {
      breaks: "routes viewer",
    },
  ),
  accessFile(
    "a token that has expired",
    "(found.expiresAt !== undefined && found.expiresAt.getTime() <= now)",
    "false",
    access("are refused from the moment that they expire"),
  ),
  accessFile(
    "the hash of a token is a token",
    'Buffer.from(hashOf(Redacted.value(token)), "hex")',
    'Buffer.from(/^[0-9a-f]{64}$/u.test(Redacted.value(token)) ? Redacted.value(token) : hashOf(Redacted.value(token)), "hex")',
    access("let in whom they are for, and nobody else"),
  ),
  accessFile(
    "every token is for every tenant",
    'scope: found.tenant === "*" ? { _tag: "system" } : { _tag: "tenant", appId: found.tenant },',
    'scope: { _tag: "system" },',
    tenants,
  ),
  accessFile(
    "an operator of every tenant",
    'tenant === "*" && role !== "admin" ?',
    "false ?",
    access("are refused as a whole when one is not what it should be, and the error does not have it"),
  ),
  accessFile(
    "a file of tokens with what is unknown",
    'onExcessProperty: "error"',
    'onExcessProperty: "ignore"',
    access("are refused as a whole when one is not what it should be, and the error does not have it"),
  ),
  accessFile(
    "two tokens that are the same",
    "new Set(grants.map(({ sha256 }) => sha256)).size === grants.length",
    "grants.length > 0",
    access("are refused as a whole"),
  ),
  accessFile(
    "a file without a token",
    "(grants) => grants.length > 0,",
    "() => true,",
    access("are refused as a whole"),
  ),
  handlers(
    "requests of a tenant's token are the system's",
    'const inside = (scope._tag === "tenant" ? Client.tenant(scope.appId) : Client.system)',
    'const inside = (scope._tag === "tenant" ? Client.system : Client.system)',
    tenants,
  ),
  handlers(
    "an export is of every tenant",
    "db.jobDlq.exportTo(filter, { scope: caller.scope })",
    'db.jobDlq.exportTo(filter, { scope: { _tag: "system" } })',
    http("exports what an import takes in again: exact, once, and of the token's tenant only"),
  ),
  handlers(
    "an import is into every tenant",
    "db.jobDlq.importFrom(body, { actor: name, scope })",
    'db.jobDlq.importFrom(body, { actor: name, scope: { _tag: "system" } })',
    http("exports what an import takes in again: exact, once, and of the token's tenant only"),
  ),
  handlers(
    "a discard is of every tenant",
    "db.jobDlq.discard(filter, { actor: name, reason, scope, asOf, limit })",
    'db.jobDlq.discard(filter, { actor: name, reason, scope: { _tag: "system" }, asOf, limit })',
    tenants,
  ),
  handlers(
    "a replay is of every tenant",
    "{ actor: name, scope, asOf, limit, ratePerSecond, delay: delayMillis, ...given }",
    '{ actor: name, scope: { _tag: "system" }, asOf, limit, ratePerSecond, delay: delayMillis, ...given }',
    tenants,
  ),
  handlers(
    "changes are of every tenant",
    "db.jobDlq.changes({ scope: caller.scope, after })",
    'db.jobDlq.changes({ scope: { _tag: "system" }, after })',
    http("tells dead letters as they come, in the scope of the token, and goes on where a reader was"),
  ),
  handlers(
    "a change after the preview's moment",
    "db.jobDlq.discard(filter, { actor: name, reason, scope, asOf, limit })",
    "db.jobDlq.discard(filter, { actor: name, reason, scope, limit })",
    http("changes nothing that came after the preview, if it is told the preview's moment"),
  ),
  handlers(
    "a tenant's token deletes the ledger's copies",
    'if (payload.discarded !== undefined && scope._tag === "tenant") {',
    "if (false) {",
    problems,
  ),
  handlers(
    "payloads are shown to viewers",
    "return seesPayloads ? stored :",
    "return seesPayloads || true ? stored :",
    hidden,
  ),
  handlers(
    "viewers search in payloads",
    "if (!seesPayloads && (rest.text !== undefined || rest.payload !== undefined)) {",
    "if (false) {",
    hidden,
  ),
  handlers(
    "errors are shown to viewers in groups",
    "return caller.seesPayloads ? groups :",
    "return true ? groups :",
    hidden,
  ),
  handlers(
    "payloads are shown to viewers in the ledger",
    "const told = caller.seesPayloads ? items :",
    "const told = true ? items :",
    http("hides from viewers what a replay with another payload says in the ledger"),
  ),
  handlers(
    "errors are shown to viewers in the history of a job",
    "seesPayloads\n            ? history",
    "true\n            ? history",
    hidden,
  ),
  handlers(
    "a payload is read raw by a viewer",
    'if (!caller.seesPayloads) return yield* new Forbidden({ detail: "The token may not see payloads." });',
    "",
    roles,
    { breaks: "route /api/v1/letters/{id}/raw" },
  ),
  handlers(
    "nobody writes down who read a payload raw",
    "inside(db.jobDlq.view(path.id, { actor: caller.name }))",
    "inside(db.jobDlq.get(path.id))",
    hidden,
  ),
  handlers(
    "an answer goes on when its token has expired",
    "expiresAt === undefined\n",
    "expiresAt === undefined || true\n",
    expires,
  ),
  handlers(
    "readers of changes without end",
    "if (changes >= mostChanges) {",
    "if (false) {",
    http("has twenty readers of changes and no more, until one goes"),
  ),
  api(
    "a field that is unknown in a request",
    'parseOptions: { onExcessProperty: "error" }',
    'parseOptions: { onExcessProperty: "ignore" }',
    problems,
  ),
  api("a limit of 0", "S.between(1, 1000)", "S.between(0, 1000)", problems),
  server("a body of any length", "if (Number(length) > maxBodyBytes) {", "if (false) {", problems),
  server("a body without its length", "if (length === undefined)\n", "if (false)\n", problems),
  server(
    "a body of any type",
    'if ((request.headers["content-type"] ?? "").split(";")[0]?.trim() !== type) {',
    "if (false) {",
    problems,
  ),
  server("another name for this machine", "if (isLocal && !isLoopback(name))", "if (false)", local),
  server(
    "a page of another site",
    'if (request.method !== "GET" && site !== undefined && site !== "same-origin" && site !== "none") {',
    "if (false) {",
    local,
  ),
  server(
    "without tokens open to others",
    'options.grants === undefined && !isLoopback(asked) ? "127.0.0.1" : asked',
    "asked",
    http("without tokens listens on this machine only, wherever it is told to"),
  ),
  server("answers without a policy", "\"default-src 'none'; frame-ancestors 'none'\"", '"default-src *"', local),
  server("answers that are kept", '"cache-control": "no-store",', "", local),
  server("answers whose type is guessed", '"x-content-type-options": "nosniff",', "", local),
  server(
    "a token as often as it likes",
    "Effect.as(take(known, hashOf(Redacted.value(token))), caller)",
    "caller",
    often,
  ),
  server("a stranger as often as it likes", 'if (Redacted.value(token) !== "") {', "if (false) {", often),
  server("all tokens share one allowance", "take(known, hashOf(Redacted.value(token)))", 'take(known, "all")', often),
  docs(
    "the documentation runs any script",
    'script-src ${hashes.join(" ")};',
    "script-src 'unsafe-inline';",
    http("has a page that documents it, whole, under a policy that names its scripts"),
  ),
  pages(
    "the console runs any script",
    "\"script-src 'self'\",",
    "\"script-src 'self' 'unsafe-inline'\",",
    http("serves the console's files under a policy that lets them run this server's scripts only"),
  ),
  console(
    "dlq console: open to others without tokens",
    "if (grants === undefined && !Server.isLoopback(host)) {",
    "if (false) {",
    http("does not start where it would be open to others, or with tokens that cannot be used"),
  ),
  changeFile(
    "dlq: changes without asking",
    "if (given.yes) return true;",
    "if (given.yes || process.stdin.isTTY) return true;",
    terminal("asks before it replays: no and Ctrl-C change nothing, yes does"),
  ),
  changeFile(
    "dlq: changes without asking where there is no terminal",
    "if (!(process.stdin.isTTY && process.stdout.isTTY)) {",
    "if (!(process.stdin.isTTY && process.stdout.isTTY)) return true;\n    if (false) {",
    change("replay shows, then does: a dry run changes nothing, --yes replays once, a second time nothing is left"),
  ),
  changeFile(
    "dlq: a dry run changes what it shows",
    "if (given.dryRun) return false;",
    "",
    change("replay shows, then does: a dry run changes nothing, --yes replays once, a second time nothing is left"),
  ),
  changeFile(
    "dlq: a change without a condition",
    'yield* checkChange("dlq", filter).pipe(',
    'yield* checkChange("dlq", Object.keys(filter).length === 0 ? { all: true } : filter).pipe(',
    change("no condition at all is refused before anything is asked, in every change"),
  ),
  changeFile(
    "dlq: Ctrl-C says nothing of how far it came",
    "Effect.onInterrupt(() =>\n",
    "Effect.onInterrupt(() => Effect.void ??\n",
    change("Ctrl-C in the middle of a bulk replay ends it between two batches and says how far it came"),
  ),
  output(
    "dlq: what a terminal would obey is written",
    '.replace(/\\t/gu, " ")\n    .replace(controls, spelled)',
    '.replace(/\\t/gu, " ")',
    look("what a terminal would obey is spelled out, in tables and in JSON"),
  ),
];
