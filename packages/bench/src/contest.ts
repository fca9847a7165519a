/**
 * Lets contestants take turns at the same works on one server, and keeps what each round measured.
 *
 * Contract: each contestant is a process of its own with a database of its own, and only one of them works at a time. A round
 * begins in the other direction each time, so that a machine that warms up, or tires, favours none. The first two
 * rounds of each work are run and forgotten: they compile.
 */
import { fork } from "node:child_process";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Console from "effect/Console";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import pg from "pg";
import type { Work } from "./contestant.js";
import { Answer, type Opened, type Question, type Ran } from "./protocol.js";

/** A contestant could not do what it was asked. */
export class ContestFailed extends Data.TaggedError("ContestFailed")<{
  readonly contestant: string;
  readonly problem: string;
}> {
  override get message() {
    return `${this.contestant}: ${this.problem}`;
  }
}

/** What a round took. `server` is what the contestant's database did meanwhile; undefined for one that is not on PostgreSQL. */
export interface Measured {
  readonly size: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly megabytes: number;
  readonly values: ReadonlyArray<number> | undefined;
  readonly server: { readonly walBytes: number; readonly deadTuples: number; readonly grownBytes: number } | undefined;
}

export interface Entrant {
  readonly file: string;
  readonly opened: typeof Opened.Type;
  /** One round of a work that it has. */
  readonly round: (work: Work, size: number) => Effect.Effect<Measured, ContestFailed>;
}

const decodeAnswer = S.decodeUnknownSync(Answer);

/** Starts the process of a contestant, `program` of `bundle.ts`, on a database of its own; both are gone with the scope. */
export const enter = (program: string, file: string, server: Redacted.Redacted, redisUrl: string | undefined) =>
  Effect.gen(function* () {
    const failed = (problem: unknown) =>
      new ContestFailed({ contestant: file, problem: problem instanceof Error ? problem.message : String(problem) });
    const url = Redacted.value(yield* Effect.mapError(Databases.empty(server), failed));
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        fork(program, [], {
          execArgv: ["--expose-gc"],
          stdio: ["ignore", "inherit", "inherit", "ipc"],
        }),
      ),
      (started) =>
        Effect.async<void>((resume) => {
          if (started.exitCode !== null || started.signalCode !== null) return resume(Effect.void);
          started.once("exit", () => resume(Effect.void));
          started.kill("SIGKILL");
        }),
    );
    const ask = (question: Question) =>
      Effect.async<Answer, ContestFailed>((resume) => {
        const ended = () => resume(failed(`its process ended while it was asked to ${question._tag}`));
        child.once("exit", ended);
        child.once("message", (message) => {
          child.off("exit", ended);
          const answer = decodeAnswer(message);
          resume(answer._tag === "failed" ? failed(answer.message) : Effect.succeed(answer));
        });
        child.send(question);
      });
    const opened = yield* ask({ _tag: "open", contestant: file, databaseUrl: url, redisUrl });
    if (opened._tag !== "opened") return yield* failed("did not open");
    const onPostgres = file !== "bullmq";

    const database = yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: async () => {
          const client = new pg.Client({ connectionString: url });
          await client.connect();
          return client;
        },
        catch: failed,
      }),
      (client) => Effect.promise(() => client.end()),
    );
    const look = Effect.tryPromise({
      try: async () => {
        const { rows } = await database.query<Record<"wal" | "dead" | "bytes", number>>(`
          SELECT (pg_current_wal_insert_lsn() - '0/0')::float8 AS wal,
            COALESCE(sum(n_tup_upd + n_tup_del), 0)::float8 AS dead,
            COALESCE(sum(pg_total_relation_size(relid)), 0)::float8 AS bytes
          FROM pg_stat_user_tables`);
        return rows[0] ?? { wal: 0, dead: 0, bytes: 0 };
      },
      catch: failed,
    });
    const checkpoint = Effect.tryPromise({ try: () => database.query("CHECKPOINT"), catch: failed });

    const entrant: Entrant = {
      file,
      opened,
      round: (work, size) =>
        Effect.gen(function* () {
          yield* ask({ _tag: "prepare", work, size });
          yield* checkpoint;
          // Counters of tables arrive a second after what they count.
          yield* Effect.sleep("1200 millis");
          const before = yield* look;
          const ran = yield* ask({ _tag: "run" });
          if (ran._tag !== "ran") return yield* failed("did not run");
          const { wal } = yield* look;
          yield* Effect.sleep("1200 millis");
          const after = yield* look;
          yield* ask({ _tag: "check" });
          const { cpuSeconds, megabytes, seconds, values }: typeof Ran.Type = ran;
          return {
            size,
            seconds,
            cpuSeconds,
            megabytes,
            values,
            server: onPostgres
              ? {
                  walBytes: wal - before.wal,
                  deadTuples: after.dead - before.dead,
                  grownBytes: after.bytes - before.bytes,
                }
              : undefined,
          };
        }),
    };
    yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeout(ask({ _tag: "close" }), "10 seconds")));
    return entrant;
  });

const warmups = 2;

/** The rounds of one work: for each entrant that has it, its measured rounds in order. */
export const contest = (entrants: ReadonlyArray<Entrant>, work: Work, size: number, rounds: number) =>
  Effect.gen(function* () {
    const able = entrants.filter(({ opened }) => opened.works.includes(work));
    const measured = new Map(able.map((entrant) => [entrant, [] as Array<Measured>]));
    for (let round = 1 - warmups; round <= rounds; round++) {
      for (const entrant of round % 2 === 0 ? able : [...able].reverse()) {
        const figures = yield* entrant.round(work, size);
        if (round > 0) measured.get(entrant)?.push(figures);
        yield* Console.error(
          `${work}, ${round <= 0 ? "warm-up" : `round ${round}`}, ${entrant.opened.name}: ${(size / figures.seconds).toFixed(0)}/s`,
        );
      }
    }
    return measured;
  });
