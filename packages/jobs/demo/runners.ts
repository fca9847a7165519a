/** The demo's runners: each is the executable `runner` in a process of its own, which may be killed. */
import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import { AnnouncerService, announcerUrl } from "./announcer.js";

/** A runner did not start, or ended when nobody had asked it to. */
export class RunnerGone extends S.TaggedError<RunnerGone>()("RunnerGone", { runner: S.String, said: S.String }) {
  override get message() {
    return `${this.runner} ended unasked. It said:\n${this.said}`;
  }
}

export interface Runner {
  readonly name: string;
  readonly pid: number;
  /** As the other runners know it. */
  readonly address: string;
  /** Sends the signal and waits for the end: an exit code, or the signal itself. */
  readonly end: (signal: "SIGTERM" | "SIGKILL") => Effect.Effect<number | NodeJS.Signals>;
  /** Fails when the runner ends unasked; completes never. */
  readonly watch: Effect.Effect<never, RunnerGone>;
}

/** A lease shorter than the default: the demo shall not wait for it. */
export const leaseSeconds = 2;

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

const freePort = Effect.async<number>((resume) => {
  const server = createServer();
  server.listen({ host: "127.0.0.1", port: 0 }, () => {
    const address = server.address();
    server.close(() => resume(Effect.succeed(typeof address === "string" || address === null ? 0 : address.port)));
  });
});

// A runner's own settings in the environment of whoever runs the demo are not meant for these.
const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RUNNER_")));

const isRunning = ({ exitCode, signalCode }: ChildProcess) => exitCode === null && signalCode === null;

/** Starts a runner with the handlers of a release. It is stopped with the scope, and killed if it does not hear. */
export const startRunner = (name: string, release: "deployed" | "repaired") =>
  Effect.gen(function* () {
    const announcer = yield* AnnouncerService;
    const port = yield* freePort;
    const ended = yield* Deferred.make<number | NodeJS.Signals>();
    let said = "";
    const options = {
      name,
      host: "127.0.0.1",
      port,
      "health-port": 0,
      concurrency: 6,
      lease: `${leaseSeconds} seconds`,
      "missing-handler-wait": "200 millis",
      grace: "3 seconds",
    };
    const args = Object.entries(options).flatMap(([option, value]) => [`--${option}`, `${value}`]);
    const end = (child: ChildProcess, signal: NodeJS.Signals) =>
      Effect.zipRight(
        Effect.sync(() => (isRunning(child) ? child.kill(signal) : false)),
        Deferred.await(ended),
      );
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const started = spawn(process.execPath, [here("../bin/runner.mjs"), here(`${release}.ts`), ...args], {
          stdio: ["ignore", "pipe", "pipe"],
          env: { ...inherited, [announcerUrl]: announcer.url },
        });
        for (const stream of [started.stdout, started.stderr]) {
          stream.setEncoding("utf8").on("data", (text: string) => {
            said = `${said}${text}`.slice(-10_000);
          });
        }
        started.once("close", (code, signal) => Deferred.unsafeDone(ended, Effect.succeed(signal ?? code ?? 1)));
        started.once("error", (error) => Deferred.unsafeDone(ended, Effect.die(error)));
        return started;
      }),
      (started) =>
        Effect.interruptible(end(started, "SIGTERM")).pipe(
          Effect.timeoutOption("8 seconds"),
          Effect.zipRight(end(started, "SIGKILL")),
        ),
    );
    let isAsked = false;
    const runner: Runner = {
      name,
      pid: child.pid ?? 0,
      address: `127.0.0.1:${port}`,
      end: (signal) =>
        Effect.suspend(() => {
          isAsked = true;
          return end(child, signal);
        }),
      watch: Effect.flatMap(Deferred.await(ended), () =>
        Effect.suspend(() => (isAsked ? Effect.never : new RunnerGone({ runner: name, said }))),
      ),
    };
    return runner;
  });

const decodeShares = S.decodeUnknown(S.Array(S.Struct({ address: S.String, shards: S.Int })));

/** How many shards of the cluster each runner has. */
export const sharesOf = (runners: ReadonlyArray<Runner>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`SELECT address, count(*)::int AS shards FROM job_shards GROUP BY address`);
    const shares = yield* Effect.orDie(decodeShares(rows));
    return runners.map(({ address }) => shares.find((_) => _.address === address)?.shards ?? 0);
  });

const decodeInUse = S.decodeUnknown(S.Tuple(S.Struct({ isInUse: S.Boolean })));

/** Whether the database has jobs of others, or runners: those of the demo would take each other's. */
export const isInUse = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const rows = yield* Client.system(sql`
    SELECT EXISTS (SELECT FROM jobs WHERE type NOT LIKE 'github.%' OR status IN ('pending', 'processing'))
      OR EXISTS (SELECT FROM job_runners WHERE last_heartbeat > now() - interval '10 seconds') AS is_in_use`);
  const [answer] = yield* Effect.orDie(decodeInUse(rows));
  return answer.isInUse;
});
