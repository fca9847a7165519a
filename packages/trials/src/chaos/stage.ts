/**
 * The server, the connections and the processes that are tormented: a PostgreSQL that can be ended and started again, a proxy before
 * it for each runner and one for operators and submitters, and processes that are started again when they were killed.
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as Data from "effect/Data";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import type * as Scope from "effect/Scope";
import pg from "pg";
import { freePort, start, withUrl } from "../../../database/test/support/process.js";
import * as Proxy from "../../../database/test/support/proxy.js";
import * as Server from "../../../database/test/support/server.js";
import { Violation } from "./check.js";
import { login } from "./tables.js";

export const leaseMillis = 3000;

/** Little room to sort in, so that sorting needs files, and few connections, so that they can all be taken. */
export const settings = {
  synchronous_commit: "on",
  max_connections: "75",
  // For those who look and strike while all others are taken.
  superuser_reserved_connections: "8",
  work_mem: "64kB",
  log_min_messages: "fatal",
};

/** The same server for somebody else. */
export const urlAs = (
  url: Redacted.Redacted,
  { name, password }: { readonly name: string; readonly password: string },
) => {
  const other = new URL(Redacted.value(url));
  other.username = name;
  other.password = password;
  return Redacted.make(other.href);
};

class Unanswered extends Data.TaggedError("Unanswered")<{ readonly message: string }> {}
const failed = (error: unknown) => new Unanswered({ message: error instanceof Error ? error.message : String(error) });

/** A connection of its own, closed with the scope. */
export const connected = (url: Redacted.Redacted) =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        const client = new pg.Client({ connectionString: Redacted.value(url), connectionTimeoutMillis: 5000 });
        client.on("error", () => undefined);
        await client.connect();
        return client;
      },
      catch: failed,
    }),
    (client) => Effect.promise(() => client.end().catch(() => undefined)),
  );

/** Asks the server once. */
export const ask = <Row extends pg.QueryResultRow>(
  url: Redacted.Redacted,
  text: string,
  values: ReadonlyArray<unknown> = [],
) =>
  Effect.flatMap(connected(url), (client) =>
    Effect.tryPromise({ try: async () => (await client.query<Row>(text, [...values])).rows, catch: failed }),
  ).pipe(Effect.scoped);

export interface Member {
  readonly name: string;
  /** The process that is there now. */
  readonly send: (signal: NodeJS.Signals) => Effect.Effect<void>;
  /** SIGKILL; returns when another one has taken its place. */
  readonly replace: Effect.Effect<void>;
  /** What all of them have said, the last one at the end. */
  readonly output: () => string;
  /** SIGTERM for the last one, which must end well. */
  readonly leave: Effect.Effect<void, Violation>;
}

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
const programOf = (name: string) => fileURLToPath(new URL(`./${name}.ts`, import.meta.url));

/** A process that is started again when it ended; ending by itself, once it was ready, is a violation. */
const supervise = (
  name: string,
  program: string,
  task: Effect.Effect<object>,
  environment: Readonly<Record<string, string>>,
  violated: Deferred.Deferred<never, Violation>,
): Effect.Effect<Member, never, Scope.Scope> =>
  Effect.gen(function* () {
    const before: Array<string> = [];
    let current: Effect.Effect.Success<ReturnType<typeof start>> | undefined;
    let isKilled = false;
    let isLeaving = false;
    let generation = 0;
    let ready = 0;
    const one = Effect.gen(function* () {
      const given = yield* task;
      const started = yield* start(
        process.execPath,
        [
          "--import",
          tsx,
          "--import",
          pathToFileURL(programOf("shifted-clock")).href,
          programOf(program),
          JSON.stringify(given),
        ],
        environment,
      );
      generation += 1;
      const mine = generation;
      isKilled = false;
      current = started;
      const isReady = Effect.sync(() => started.output().includes('"ready":true'));
      yield* Effect.raceFirst(
        Effect.repeat(isReady, { until: (_) => _, schedule: Schedule.spaced("20 millis") }).pipe(
          Effect.timeoutOption("60 seconds"),
          Effect.zipRight(isReady),
          Effect.flatMap((_) => {
            if (_) ready = mine;
            return _ ? Effect.void : Effect.asVoid(started.kill("SIGKILL"));
          }),
        ),
        started.ended,
      );
      const { code, signal } = yield* started.ended;
      before.push(started.output());
      if (!isKilled && !isLeaving && ready === mine) {
        const message = `${name} ended by itself (${signal ?? code}):\n${started.output().slice(-4000)}`;
        yield* Deferred.fail(violated, new Violation({ message }));
      }
    }).pipe(Effect.scoped);
    const living = yield* Effect.forkScoped(
      Effect.repeat(Effect.zipRight(one, Effect.sleep("200 millis")), { until: () => isLeaving }),
    );
    const isThere = (wanted: number) =>
      Effect.repeat(
        Effect.sync(() => ready >= wanted),
        { until: (_) => _, schedule: Schedule.spaced("20 millis") },
      );
    yield* isThere(1);
    const send = (signal: NodeJS.Signals) => Effect.suspend(() => Effect.asVoid(current?.kill(signal) ?? Effect.void));
    const output = () => before.join("") + (isLeaving ? "" : (current?.output() ?? ""));
    return {
      name,
      send,
      output,
      replace: Effect.gen(function* () {
        const wanted = generation + 1;
        isKilled = true;
        yield* send("SIGKILL");
        yield* isThere(wanted);
      }),
      leave: Effect.gen(function* () {
        const last = current;
        if (last === undefined) return;
        isLeaving = true;
        yield* send("SIGTERM");
        const ended = yield* Effect.timeoutOption(last.ended, "30 seconds");
        if (ended._tag === "None") {
          yield* send("SIGKILL");
          return yield* new Violation({ message: `${name} does not end:\n${last.output().slice(-4000)}` });
        }
        yield* living.await;
        const { code, signal } = ended.value;
        if (code !== 0 && signal !== "SIGTERM") {
          return yield* new Violation({
            message: `${name} ended with ${signal ?? code}:\n${last.output().slice(-4000)}`,
          });
        }
      }),
    };
  });

export interface Stage {
  readonly server: Server.OwnServer;
  /** Straight to the server that runs now, as its superuser. */
  readonly url: () => Redacted.Redacted;
  /** Ends the server so, and starts it again. */
  readonly restart: (end: Effect.Effect<void>) => Effect.Effect<void, unknown>;
  /** SIGQUIT for the postmaster, as `pg_ctl stop -m immediate`. */
  readonly endAtOnce: Effect.Effect<void>;
  /** Before the three runners, then before all others. */
  readonly proxies: ReadonlyArray<Proxy.Proxy>;
  /** Before the checker; it is not tormented, but it moves with the server. */
  readonly steady: Proxy.Proxy;
  /** The lock of what concerns the server as a whole. */
  readonly lock: Effect.Semaphore;
}

export const make = (own: Readonly<Record<string, string>> = settings) =>
  Effect.gen(function* () {
    const server = yield* Server.make;
    let url = yield* server.start(own);
    const proxies = yield* Effect.all(Array.from({ length: 4 }, () => Proxy.make(url)));
    const steady = yield* Proxy.make(url);
    const lock = yield* Effect.makeSemaphore(1);
    const stage: Stage = {
      server,
      url: () => url,
      restart: (end) =>
        Effect.gen(function* () {
          yield* end;
          url = yield* server.start(own);
          for (const proxy of [...proxies, steady]) proxy.moveTo(url);
        }),
      endAtOnce: Effect.promise(async () => {
        const [pid] = (await readFile(join(server.dataDirectory, "postmaster.pid"), "utf8")).split("\n");
        process.kill(Number(pid), "SIGQUIT");
      }),
      proxies,
      steady,
      lock,
    };
    return stage;
  });

const proxyOf = ({ proxies }: Stage, place: number) => {
  const proxy = proxies[place];
  if (proxy === undefined) throw new Error(`there is no proxy ${place}`);
  return proxy;
};

/** Where the submitters and operators connect to. */
export const deskUrl = (stage: Stage) => urlAs(proxyOf(stage, 3).url, login);

/** Three runners, each by way of its proxy, its clock right at first. */
export const runners = (
  stage: Stage,
  shifts: ReadonlyArray<number>,
  violated: Deferred.Deferred<never, Violation>,
  measureMillis: number | null = null,
) =>
  Effect.all(
    [0, 1, 2].map((place) => {
      let round = 0;
      const name = `runner ${place + 1}`;
      const task = Effect.map(freePort, (port) => ({
        name: `${name}.${++round}`,
        port,
        concurrency: 16,
        leaseMillis,
        measureMillis,
      }));
      const environment = { ...withUrl(urlAs(proxyOf(stage, place).url, login)), CLOCK_SHIFTS: JSON.stringify(shifts) };
      return supervise(name, "runner", task, environment, violated);
    }),
    { concurrency: 3 },
  );

/** Two operators and one that keeps order. */
export const operators = (
  stage: Stage,
  seed: number,
  appIds: ReadonlyArray<string>,
  violated: Deferred.Deferred<never, Violation>,
) =>
  Effect.all(
    (["operate", "operate", "retain"] as const).map((work, place) => {
      const name = work === "operate" ? `operator ${place + 1}` : "retention";
      const task = Effect.succeed({ name, work, seed: seed + place, appIds });
      return supervise(name, "operator", task, withUrl(deskUrl(stage)), violated);
    }),
    { concurrency: 3 },
  );
