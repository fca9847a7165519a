/**
 * The commands dlq, portal-db and runner with odd arguments: most through the parser and the command in this process, some as processes of
 * their own. Each ends with a documented exit code and says why without a stack.
 */
import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as Command from "@effect/cli/Command";
import * as ValidationError from "@effect/cli/ValidationError";
import * as Terminal from "@effect/platform/Terminal";
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as PortalDb from "@parametric-portal/database/command";
import * as Runner from "@parametric-portal/jobs/command";
import * as Dlq from "@parametric-portal/operator/command";
import { codeOf, explain } from "@parametric-portal/operator/failure";
import * as Cause from "effect/Cause";
import * as ConfigProvider from "effect/ConfigProvider";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { bundle } from "../../../operator/bundle.mjs";
import { json, rarely, text } from "./nasty.js";
import { balanced, fill, open } from "./site.js";
import type { Make, Target } from "./target.js";

// --- arguments ---------------------------------------------------------------

interface Case {
  readonly program: "dlq" | "portal-db" | "runner";
  readonly words: ReadonlyArray<string>;
}

const uuid = fc.oneof(fc.uuid(), fc.constant("LETTER"), text);
const number = fc.oneof(fc.constantFrom("0", "1", "10", "1001", "-1", "0.5", "1e3", "1e400", "2147483648"), text);
const time = fc.oneof(fc.constantFrom("2h", "3d", "1e9d", "99999999999999w", "2026-01-31", "2026-13-01"), text);

const flag = (name: string) => fc.constant([`--${name}`]);
const with_ = (name: string, value: fc.Arbitrary<string>) =>
  fc.tuple(value, fc.boolean()).map(([_, isOne]) => (isOne ? [`--${name}=${_}`] : [`--${name}`, _]));

const filter = [
  with_("id", uuid),
  with_("type", fc.oneof(fc.constantFrom("mail.send", "mail.*", "*", "**"), text)),
  with_("reason", fc.oneof(fc.constant("MaxRetries"), text)),
  with_("since", time),
  with_("until", time),
  with_("text", text),
  with_(
    "payload",
    fc.oneof(
      json.map((_) => JSON.stringify(_)),
      text,
    ),
  ),
  with_("fingerprint", uuid),
  with_("request", uuid),
  with_("user", uuid),
  with_("job", uuid),
];
const target = [with_("tenant", fc.oneof(fc.constantFrom("TENANT", "fuzz"), uuid)), flag("all-tenants")];
const change = [flag("yes"), flag("dry-run"), with_("actor", text), with_("because", text)];
const common = [
  flag("json"),
  flag("help"),
  flag("version"),
  flag("unknown"),
  with_("completions", fc.oneof(fc.constantFrom("bash", "fish", "zsh"), text)),
  with_("log-level", fc.oneof(fc.constantFrom("none", "all", "debug"), text)),
];

const dlq: Readonly<Record<string, ReadonlyArray<fc.Arbitrary<ReadonlyArray<string>>>>> = {
  list: [
    ...filter,
    with_("limit", number),
    with_("cursor", text),
    with_("state", fc.oneof(fc.constantFrom("pending", "any"), text)),
    with_("most", number),
  ],
  show: [uuid.map((_) => [_])],
  groups: [...filter, with_("limit", number), with_("most", number)],
  stats: [...filter, with_("by", fc.oneof(fc.constantFrom("type", "hour"), text)), with_("window", time)],
  history: [uuid.map((_) => [_])],
  replay: [
    ...filter,
    ...change,
    flag("all"),
    with_("limit", number),
    with_("payload", text),
    with_("delay", time),
    with_("rate", fc.constantFrom("0", "-1", "1000", "x", "1e400")),
  ],
  discard: [...filter, ...change, flag("all"), with_("limit", number)],
  restore: [uuid.map((_) => [_]), ...change],
  purge: [with_("older-than-days", number), ...change],
  retain: [with_("replayed-days", number), with_("discarded-days", number), with_("pending-days", number), ...change],
  erase: [...filter, ...change],
  export: [...filter, with_("state", text)],
  import: [fc.constantFrom([""], ["no such file"], [tmpdir()], ["/dev/null"]), ...change],
  doctor: [],
  token: [
    with_("name", text),
    with_("role", fc.oneof(fc.constantFrom("viewer", "admin"), text)),
    with_("days", number),
  ],
};

const some = (flags: ReadonlyArray<fc.Arbitrary<ReadonlyArray<string>>>) =>
  fc.array(fc.oneof(...flags), { maxLength: 4 }).map((_) => _.flat());

const dlqWords = fc
  .constantFrom(...Object.keys(dlq))
  .chain((name) =>
    fc
      .tuple(
        fc.oneof(fc.constant(["--all-tenants"]), fc.constant(["--tenant", "TENANT"]), some(target)),
        some([...(dlq[name] ?? []), ...(dlq[name] ?? []), ...common, ...target]),
        rarely(text),
        rarely(text),
      )
      .map(([whose, flags, before, after]) => [
        ...(before === undefined ? [] : [before]),
        name,
        ...whose,
        ...flags,
        ...(after === undefined ? [] : [after]),
      ]),
  );

const runnerFlags = [
  "port",
  "concurrency",
  "batch-size",
  "connections",
  "health-port",
  "retain-replayed-days",
  "retain-pending-days",
]
  .map((_) => with_(_, number))
  .concat(["lease", "shard-expiry", "grace", "missing-handler-wait"].map((_) => with_(_, time)))
  .concat(["host", "listen-host", "name"].map((_) => with_(_, text)));

const cases: fc.Arbitrary<Case> = fc.oneof(
  { weight: 8, arbitrary: dlqWords.map((words) => ({ program: "dlq" as const, words })) },
  {
    weight: 1,
    arbitrary: some([fc.constantFrom(["status"], ["check"], ["migrate"]), text.map((_) => [_]), ...common]).map(
      (words) => ({
        program: "portal-db" as const,
        words,
      }),
    ),
  },
  {
    weight: 1,
    // A module that there is would be started; none of these is one.
    arbitrary: fc
      .tuple(
        fc.oneof(fc.constantFrom("no-such.js", tmpdir(), "package.json"), text),
        some([...runnerFlags, ...common]),
        fc.boolean(),
      )
      .map(([module, flags, isFirst]) => ({
        program: "runner" as const,
        words: isFirst ? [module, ...flags] : [...flags, module],
      })),
  },
);

// It asks question after question.
const isWizard = ({ words }: Case) => words.some((_) => _.startsWith("--wizard"));

// --- in this process ---------------------------------------------------------

const stack = /\n\s+at .+:\d+:\d+/u;

/** What is said goes here and nowhere else. */
const listener = () => {
  const said: Array<string> = [];
  const hear = (...words: ReadonlyArray<unknown>) => {
    said.push(words.map(String).join(" "));
  };
  const unsafe = new Proxy(globalThis.console, { get: () => hear });
  const service = new Proxy({} as Console.Console, {
    get: (_, name) =>
      name === Console.TypeId
        ? Console.TypeId
        : name === "unsafe"
          ? unsafe
          : (...words: ReadonlyArray<unknown>) => Effect.sync(() => hear(...words)),
  });
  return { said, service };
};

const nobodyThere = Layer.succeed(Terminal.Terminal, {
  columns: Effect.succeed(80),
  rows: Effect.succeed(24),
  isTTY: Effect.succeed(false),
  readInput: Effect.die("nobody is there"),
  readLine: Effect.fail(new Terminal.QuitException()),
  display: () => Effect.void,
} as never);

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    const inserted = yield* fill(site, 20);
    const letters = yield* site.provide(site.inTenant(site.db.jobDlq.find({}, { limit: 20 })));
    const put = (word: string) => word.replaceAll("LETTER", letters[0]?.id ?? "").replaceAll("TENANT", site.appId);
    const environment = { DATABASE_URL: Redacted.value(url), DLQ_ACTOR: "fuzz" };
    const provider = ConfigProvider.fromMap(new Map(Object.entries(environment)));
    type Program = (words: ReadonlyArray<string>) => Effect.Effect<void, unknown, NodeContext.NodeContext>;
    const programs: Readonly<Record<Case["program"], Program>> = {
      dlq: Command.run(Dlq.command, { name: "dlq", version: "0" }),
      "portal-db": Command.run(PortalDb.command, { name: "portal-db", version: "0" }),
      runner: Command.run(Runner.command, { name: "runner", version: "0" }),
    };

    const inProcess: Target<Case> = {
      name: "CLI: in this process",
      share: 500,
      // An export writes to the process's own output.
      cases: cases.filter((_) => !isWizard(_) && !_.words.includes("export")),
      outcome: ({ program, words }) =>
        Effect.gen(function* () {
          const { said, service } = listener();
          const exit = yield* programs[program](["node", program, ...words.map(put)]).pipe(
            Effect.provide(Layer.merge(NodeContext.layer, nobodyThere)),
            Effect.withConfigProvider(provider),
            Effect.withConsole(service),
            Effect.exit,
          );
          if (Exit.isSuccess(exit)) return "0";
          const error = Cause.squash(exit.cause);
          if (!Cause.isFailure(exit.cause) || Cause.isDie(exit.cause)) return yield* Effect.failCause(exit.cause);
          const text = `${said.join("\n")}\n${ValidationError.isValidationError(error) ? "" : explain(error)}`;
          if (stack.test(text) || /does not answer as it should|cannot be used: /u.test(text)) {
            return yield* Effect.dieMessage(`said ${text.slice(0, 2000)}`);
          }
          return `refused: ${program === "dlq" ? codeOf(exit) : 1}`;
        }),
      holds: balanced(site, () => inserted),
    };

    // --- as processes --------------------------------------------------------

    // In its package, whose version it tells.
    const folder = fileURLToPath(new URL(`../../../operator/artifacts/fuzz-${process.pid}`, import.meta.url));
    yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(folder, { recursive: true, force: true })));
    const built = yield* Effect.cached(Effect.promise(() => bundle(folder)));
    const bins: Readonly<Record<Case["program"], ReadonlyArray<string>>> = {
      dlq: [join(folder, "bin.js")],
      "portal-db": [fileURLToPath(new URL("../../../database/bin/portal-db.mjs", import.meta.url))],
      runner: [fileURLToPath(new URL("../../../jobs/bin/runner.mjs", import.meta.url))],
    };
    const ended = (program: Case["program"], words: ReadonlyArray<string>) =>
      Effect.async<{ readonly code: number | null; readonly signal: string | null; readonly stderr: string }>(
        (resume) => {
          const child = spawn(process.execPath, [...bins[program], ...words], {
            cwd: tmpdir(),
            env: { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: process.env.TMPDIR, ...environment },
            stdio: ["ignore", "ignore", "pipe"],
          });
          let stderr = "";
          child.stderr.setEncoding("utf8").on("data", (some: string) => {
            stderr += some;
          });
          child.once("close", (code, signal) => resume(Effect.succeed({ code, signal, stderr })));
          return Effect.sync(() => child.kill("SIGKILL"));
        },
      );
    const asProcess: Target<Case> = {
      name: "CLI: as a process",
      share: 60,
      lanes: 2,
      // No program can be given a NUL.
      cases: cases.filter((_) => !isWizard(_) && !_.words.some((word) => word.includes("\0"))),
      outcome: ({ program, words }) =>
        Effect.gen(function* () {
          yield* built;
          const { code, signal, stderr } = yield* ended(program, words.map(put));
          const documented = program === "dlq" ? [0, 1, 2, 3, 130] : [0, 1];
          if (code === null || !documented.includes(code))
            return yield* Effect.dieMessage(`${signal ?? code}: ${stderr}`);
          if (stack.test(stderr) || /does not answer as it should|UnhandledPromiseRejection/u.test(stderr)) {
            return yield* Effect.dieMessage(`said ${stderr.slice(0, 2000)}`);
          }
          return code === 0 ? "0" : `refused: ${code}`;
        }),
      holds: balanced(site, () => inserted),
    };
    return [inProcess, asProcess];
  });
