/** How each kind of fault is done. Each says what it met, and fails when it did nothing: then it does not count. */
import * as fs from "node:fs/promises";
import { join } from "node:path";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as Schedule from "effect/Schedule";
import pg from "pg";
import type { Fault, Kind } from "./plan.js";
import { ask, connected, leaseMillis, type Member, type Stage, urlAs } from "./stage.js";
import { filler, login } from "./tables.js";

class Missed extends Data.TaggedError("Missed")<{ readonly message: string }> {}
const missed = (message: string) => new Missed({ message });
const between = (least: number, most: number, force: number) => Math.round(least + (most - least) * force);

const startedAt = (stage: Stage) =>
  Effect.map(
    ask<{ at: string }>(stage.url(), "SELECT pg_postmaster_start_time()::text AS at"),
    ([row]) => row?.at ?? "never",
  );

const restarted = (stage: Stage, end: Effect.Effect<void>) =>
  Effect.gen(function* () {
    const before = yield* startedAt(stage);
    yield* stage.restart(end);
    const after = yield* startedAt(stage);
    return before === after ? yield* missed("it is the same server") : `it runs since ${after.slice(11, 19)}`;
  });

/** Opens connections as an ordinary login until the server refuses one. */
const takeAll = (stage: Stage, millis: number, meanwhile: Effect.Effect<void>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Set<pg.Client>()),
    (held) =>
      Effect.gen(function* () {
        const connectionString = Redacted.value(urlAs(stage.url(), filler));
        const one = Effect.tryPromise({
          try: async () => {
            const client = new pg.Client({ connectionString });
            client.on("error", () => undefined);
            await client.connect();
            held.add(client);
          },
          catch: (error) => (error instanceof pg.DatabaseError ? (error.code ?? "") : String(error)),
        });
        const until = yield* Effect.flip(Effect.forever(one));
        if (until !== "53300") return yield* missed(`the last connection was refused with ${until}`);
        yield* meanwhile;
        // Whatever is freed is taken at once.
        yield* Effect.sleep(millis).pipe(
          Effect.raceFirst(Effect.forever(Effect.zipRight(Effect.ignore(one), Effect.sleep("30 millis")))),
        );
        return `${held.size} connections held for ${millis} ms`;
      }),
    (held) => Effect.promise(() => Promise.all([...held].map((client) => client.end().catch(() => undefined)))),
  );

const signalled = (stage: Stage, how: "cancel" | "terminate", times: number) =>
  Effect.gen(function* () {
    let met = 0;
    // The statements are short: most looks find none.
    for (let round = 0; round < 100 && met < times; round++) {
      const rows = yield* ask<{ done: boolean }>(
        stage.url(),
        `SELECT pg_${how}_backend(pid) AS done FROM pg_stat_activity
         WHERE usename = $1 AND pid <> pg_backend_pid() ${how === "cancel" ? "AND state = 'active'" : ""}
         ORDER BY random() LIMIT $2`,
        [login.name, times - met],
      );
      met += rows.filter(({ done }) => done).length;
      yield* Effect.sleep("20 millis");
    }
    return met === 0 ? yield* missed("no backend was there") : `${met} backends`;
  });

/** A statement that needs files to sort in; the SQLSTATE that it ends with. */
const sorting = "SELECT count(*) FROM (SELECT i FROM generate_series(1, 100000) i ORDER BY i DESC OFFSET 1) sorted";
const sortsWith = (client: pg.Client) =>
  Effect.promise(() =>
    client.query(sorting).then(
      () => "00000",
      (error) => (error instanceof pg.DatabaseError ? (error.code ?? "") : String(error)),
    ),
  );
const forbidden = (stage: Stage, millis: number) =>
  Effect.acquireUseRelease(
    Effect.zipRight(
      ask(stage.url(), "ALTER SYSTEM SET temp_file_limit = 0"),
      ask(stage.url(), "SELECT pg_reload_conf()"),
    ),
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const client = yield* connected(stage.url());
          const state = yield* Effect.repeat(sortsWith(client), {
            until: (_) => _ !== "00000",
            schedule: Schedule.intersect(Schedule.spaced("50 millis"), Schedule.recurs(40)),
          }).pipe(Effect.zipRight(sortsWith(client)));
          if (state !== "53400") return yield* missed(`sorting ended with ${state}`);
          yield* Effect.sleep(millis);
          return `sorting failed with ${state} for ${millis} ms`;
        }),
      ),
    () =>
      ask(stage.url(), "ALTER SYSTEM RESET temp_file_limit").pipe(
        Effect.zipRight(ask(stage.url(), "SELECT pg_reload_conf()")),
        Effect.retry({ times: 20, schedule: Schedule.spaced("250 millis") }),
        Effect.orDie,
      ),
  );

/** The names under which the backends that are there would make their temporary files lead to a device that is always full. */
const fullDisk = (stage: Stage, millis: number) =>
  Effect.acquireUseRelease(
    Effect.sync(() => [] as string[]),
    (links) =>
      Effect.scoped(
        Effect.gen(function* () {
          const client = yield* connected(stage.url());
          const backends = yield* ask<{ pid: number }>(
            stage.url(),
            "SELECT pid FROM pg_stat_activity WHERE usename IS NOT NULL",
          );
          const folder = join(stage.server.dataDirectory, "base/pgsql_tmp");
          yield* Effect.tryPromise(async () => {
            const { gid, uid } = await fs.stat(stage.server.dataDirectory);
            await fs.mkdir(folder, { recursive: true });
            await fs.chown(folder, uid, gid);
            for (const { pid } of backends) {
              // Each backend counts its files.
              for (let file = 0; file < 40; file++) {
                const link = join(folder, `pgsql_tmp${pid}.${file}`);
                await fs.symlink("/dev/full", link).then(
                  () => links.push(link),
                  () => undefined,
                );
              }
            }
          });
          const state = yield* sortsWith(client);
          if (state !== "53100") return yield* missed(`sorting ended with ${state}`);
          yield* Effect.sleep(millis);
          return `sorting failed with ${state} in ${backends.length} backends`;
        }),
      ),
    (links) => Effect.promise(() => Promise.all(links.map((link) => fs.rm(link, { force: true })))),
  );

/** Does it and undoes it. What it returns says what it met. */
export const strike = (
  stage: Stage,
  members: ReadonlyArray<Member>,
  locks: ReadonlyArray<Effect.Semaphore>,
  { force, kind, target }: Fault,
  isOver: () => boolean,
): Effect.Effect<string, unknown> => {
  const proxy = stage.proxies[target];
  const member = members[target];
  const lock = locks[target];
  if (proxy === undefined) return missed(`there is no proxy ${target}`);
  // What had to wait until the time was over is left out. Nothing is asked of the server before it is its turn.
  const timely = (act: () => Effect.Effect<string, unknown>) =>
    Effect.suspend(() => (isOver() ? missed("the time was over") : act()));
  const toMember = (act: (member: Member) => Effect.Effect<string, unknown>) =>
    member === undefined || lock === undefined
      ? missed(`there is no runner ${target}`)
      : lock.withPermits(1)(timely(() => act(member)));
  const toServer = (act: () => Effect.Effect<string, unknown>) => stage.lock.withPermits(1)(timely(act));
  const ways: Readonly<Record<Kind, () => Effect.Effect<string, unknown>>> = {
    "fast restart of the server": () => toServer(() => restarted(stage, stage.server.stop)),
    "immediate restart of the server": () => toServer(() => restarted(stage, stage.endAtOnce)),
    "kill -9 of a runner": () => toMember(({ name, replace }) => Effect.as(replace, `${name}, and another one began`)),
    "frozen runner": () =>
      toMember(({ name, send }) => {
        const millis = between(leaseMillis + 1000, 2 * leaseMillis + 3000, force);
        return Effect.acquireUseRelease(
          send("SIGSTOP"),
          () => Effect.sleep(millis),
          () => send("SIGCONT"),
        ).pipe(Effect.as(`${name} for ${millis} ms`));
      }),
    "cut connections": () =>
      Effect.suspend(() => {
        const cut = proxy.heard().length;
        proxy.cut();
        return cut === 0 ? missed("no connection was there") : Effect.succeed(`${cut} connections`);
      }),
    "half-open connections": () =>
      Effect.suspend(() => {
        const heard = proxy.heard();
        const some = heard.slice(0, Math.ceil(heard.length * (0.3 + 0.7 * force)));
        for (const port of some) proxy.deafen(port);
        return some.length === 0
          ? missed("no connection was there")
          : Effect.succeed(`${some.length} of ${heard.length}`);
      }),
    // With nothing to be had, those of one runner are cut, so that it needs new ones.
    "no connection left": () => toServer(() => takeAll(stage, between(2000, 5000, force), Effect.sync(proxy.cut))),
    "cancelled backends": () => toServer(() => signalled(stage, "cancel", between(2, 12, force))),
    "terminated backends": () => toServer(() => signalled(stage, "terminate", between(2, 12, force))),
    "shifted clock of a runner": () =>
      toMember(({ name, output, send }) =>
        Effect.gen(function* () {
          const said = () => [...output().matchAll(/\{"clock":(-?\d+)\}/g)];
          const before = said().length;
          yield* send("SIGUSR2");
          const heard = yield* Effect.repeat(Effect.sync(said), {
            until: (_) => _.length > before,
            schedule: Schedule.spaced("20 millis"),
          }).pipe(Effect.zipRight(Effect.sync(said)), Effect.timeout("5 seconds"));
          return `${name} is ${Number(heard.at(-1)?.[1]) / 60_000} minutes off`;
        }),
      ),
    "temporary files forbidden": () => toServer(() => forbidden(stage, between(1000, 4000, force))),
    "temporary files on a full disk": () => toServer(() => fullDisk(stage, between(1000, 4000, force))),
  };
  return ways[kind]();
};
