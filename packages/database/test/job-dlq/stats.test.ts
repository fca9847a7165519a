import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Client from "../../src/client.js";
import type { JobDlqFilter } from "../../src/job-dlq/filter.js";
import type { JobDlqStat, StatsKey } from "../../src/job-dlq/stats.js";
import { DatabaseService } from "../../src/repos.js";
import { rounds, seed } from "../support/campaign.js";
import { deadJob, letter, newTenant, TestDatabase } from "../support/database.js";
import { actor, errors, type Letter, play, reasons, resultOf, types, type World, why } from "../support/history.js";
import { makePast } from "../support/past.js";
import { makePresent } from "../support/present.js";

const hourOf = (micros: bigint) => `${new Date(Number(micros / 1000n)).toISOString().slice(0, 13)}:00:00Z`;
const hour = 3_600_000_000n;

/** Random numbers, the same ones for the same seed. */
const diceOf = (round: number) => {
  const random = fc.sample(fc.nat(), { seed: seed + round, numRuns: 4_000 });
  let next = 0;
  return (sides: number) => (sides === 0 ? 0 : (random[next++ % random.length] ?? 0) % sides);
};

/** The database's clock in microseconds. */
const databaseNow = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [row] = yield* sql`SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS micros`;
  return BigInt(String(row?.micros));
});

interface Expected {
  readonly key: string;
  depth: number;
  oldest: bigint | undefined;
  arrivals: number;
  replays: number;
  completed: number;
  deadAgain: number;
}

/** The figures from what happened, not from any row. `now` ends the window. */
const figures = (
  world: World,
  by: StatsKey,
  includes: (letter: Letter) => boolean,
  since: bigint,
  now: bigint,
): ReadonlyArray<Expected> => {
  const byKey = new Map<string, Expected>();
  const at = (key: string) => {
    const found = byKey.get(key);
    if (found !== undefined) return found;
    const fresh = { key, depth: 0, oldest: undefined, arrivals: 0, replays: 0, completed: 0, deadAgain: 0 };
    byKey.set(key, fresh);
    return fresh;
  };
  const keyOf = (letter: Letter, micros: bigint) =>
    ({ type: letter.job.type, reason: letter.reason, tenant: letter.job.appId, hour: hourOf(micros) })[by];
  if (by === "hour") for (let h = since - (since % hour); h < now; h += hour) at(hourOf(h));
  const isIn = (micros: bigint) => micros >= since && micros < now;
  const isTold = (letter: Letter) => includes(letter) && (letter.place === "table" || letter.hasCopy);
  for (const letter of world.letters.filter(isTold)) {
    if (letter.place === "table" && letter.replayed === undefined && (by !== "hour" || isIn(letter.at))) {
      const figure = at(keyOf(letter, letter.at));
      figure.depth++;
      if (figure.oldest === undefined || letter.at < figure.oldest) figure.oldest = letter.at;
    }
    if (isIn(letter.at)) at(keyOf(letter, letter.at)).arrivals++;
  }
  for (const replay of world.replays.filter((_) => isTold(_.letter) && isIn(_.at))) {
    const figure = at(keyOf(replay.letter, replay.at));
    figure.replays++;
    const result = resultOf(world, replay);
    if (result === "completed") figure.completed++;
    if (result === "dead") figure.deadAgain++;
  }
  const all = [...byKey.values()];
  const order = (a: Expected, b: Expected) =>
    by === "hour" ? 0 : b.depth - a.depth || b.arrivals - a.arrivals || b.replays - a.replays;
  return all.sort((a, b) => order(a, b) || (a.key < b.key ? -1 : 1));
};

const check = (
  stats: ReadonlyArray<JobDlqStat>,
  expected: ReadonlyArray<Expected>,
  before: bigint,
  after: bigint,
  what: string,
) => {
  assert.deepStrictEqual(
    stats.map(({ arrivals, depth, key, replaySuccessRatio, replays }) => ({
      key,
      depth,
      arrivals,
      replays,
      replaySuccessRatio,
    })),
    expected.map(({ arrivals, completed, deadAgain, depth, key, replays }) => ({
      key,
      depth,
      arrivals,
      replays,
      replaySuccessRatio: completed + deadAgain === 0 ? null : completed / (completed + deadAgain),
    })),
    what,
  );
  for (const [i, { oldest }] of expected.entries()) {
    const age = stats[i]?.oldestAgeSeconds ?? null;
    if (oldest === undefined) assert.isNull(age, what);
    else {
      assert.isNotNull(age, what);
      assert.isAtLeast(age ?? 0, Number(before - oldest) / 1e6 - 1e-5, what);
      assert.isAtMost(age ?? 0, Number(after - oldest) / 1e6 + 1e-5, what);
    }
  }
};

layer(TestDatabase, { excludeTestServices: true })("jobDlq.stats", (it) => {
  const fingerprintOf = (type: string, reason: string, error: string) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const history = JSON.stringify([{ error, timestamp: 1 }]);
      const [row] = yield* sql`SELECT job_dlq_fingerprint(${type}, ${reason}, ${history}::jsonb) AS fingerprint`;
      return String(row?.fingerprint);
    });

  it.effect(
    "is what a plain count of any history gives, by each key, for each filter, tenant and window",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const n = rounds(150, 12);
        console.log(`stats: ${n} histories, TEST_SEED=${seed}`);
        const seen = { ratios: 0, removed: 0, hours: 0 };
        for (let round = 0; round < n; round++) {
          const dice = diceOf(round);
          const appIds = [yield* newTenant, yield* newTenant];
          const tag = `t${randomUUID().slice(0, 8)}`;
          const start = yield* databaseNow;
          // Up to 60 hours ago; steps go on by nothing, a microsecond, some minutes, or to the very beginning of an hour. Nothing
          // happens near 24 hours ago, where the default window begins at a moment that the test does not know.
          const day = start - 24n * hour;
          let clock = start - 60n * hour;
          const tick = () => {
            const step = [0n, 1n, 999n, BigInt(dice(3_600)) * 1_000_000n, hour - (clock % hour)][dice(5)] ?? 0n;
            const next = clock + step;
            clock = next > day - hour / 6n && next < day + hour / 6n ? day + hour / 6n : next;
            if (clock > start - 1_000_000n) clock = start - 1_000_000n;
            return clock;
          };
          const past = makePast(tick);
          const world = yield* play(past.store, { appIds, tag, dice, length: 90 });
          yield* past.write(world);

          const some = world.letters[dice(world.letters.length)];
          assert.isDefined(some);
          const base = types[dice(types.length)] ?? "";
          const reason = reasons[dice(reasons.length)] ?? "";
          const error = errors[dice(errors.length)] ?? "";
          const fingerprint = yield* fingerprintOf(`${tag}.${base}`, reason, error);
          const middle = new Date(Number(some.at / 1000n));
          const ours: ReadonlyArray<readonly [JobDlqFilter, (letter: Letter) => boolean]> = [
            [{}, () => true],
            [{ state: "any" }, () => true],
            [{ type: `${tag}.${base}` }, ({ job }) => job.type === `${tag}.${base}`],
            [{ type: { prefix: `${tag}.mail` } }, ({ job }) => job.type !== `${tag}.import.orders`],
            [{ reason }, (_) => _.reason === reason],
            [{ originalJobId: some.job.id }, ({ job }) => job === some.job],
            [{ ids: [some.id] }, (_) => _ === some],
            [{ text: "TypeError" }, (_) => _.error.startsWith("TypeError")],
            [{ payload: { reason } }, (_) => _.reason === reason],
            [{ since: middle }, (_) => _.at >= BigInt(middle.getTime()) * 1000n],
            [{ until: middle }, (_) => _.at < BigInt(middle.getTime()) * 1000n],
            [{ fingerprint }, (_) => _.job.type === `${tag}.${base}` && _.reason === reason && _.error === error],
          ];
          for (const by of ["type", "reason", "tenant", "hour"] as const) {
            for (const scope of [...appIds, "system"]) {
              for (const [filter, includes] of [ours[0], ours[dice(ours.length)]].filter((_) => _ !== undefined)) {
                // Windows from the past, from a letter's own millisecond, and the default.
                const since = [new Date(Number(clock / 1000n) - dice(200_000_000)), middle, undefined][dice(3)];
                const call = Effect.gen(function* () {
                  const before = yield* databaseNow;
                  const inScope = scope === "system" ? Client.system : Client.tenant(scope);
                  // In the system scope there are the rows of all the other histories too.
                  const within = scope === "system" && filter.type === undefined ? { type: { prefix: tag } } : {};
                  const stats = yield* inScope(db.jobDlq.stats({ by, filter: { ...filter, ...within }, since }));
                  return { before, stats, after: yield* databaseNow };
                });
                // The list of hours depends on the hour that it is.
                const { after, before, stats } = yield* Effect.repeat(call, {
                  until: (_) => hourOf(_.before) === hourOf(_.after),
                });
                const from = since === undefined ? before - 24n * hour : BigInt(since.getTime()) * 1000n;
                const isMine = (_: Letter) => scope === "system" || _.job.appId === scope;
                const expected = figures(world, by, (_) => isMine(_) && includes(_), from, after);
                check(
                  stats,
                  expected,
                  before,
                  after,
                  `round ${round} by ${by} in ${scope} ${JSON.stringify(filter)} ${since?.toISOString()}`,
                );
                seen.ratios += stats.filter(({ replaySuccessRatio: _ }) => _ !== null && _ > 0 && _ < 1).length;
                if (by === "hour") seen.hours += stats.length;
              }
            }
          }
          seen.removed += world.letters.filter(({ hasCopy, place }) => hasCopy && place !== "table").length;
        }
        // The histories had what makes the figures hard.
        for (const [name, count] of Object.entries(seen)) assert.isAbove(count, 10, name);
      }),
    600_000,
  );

  it.effect(
    "is what a plain count gives after the real operations",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const store = yield* makePresent;
        const n = rounds(30, 2);
        console.log(`stats of real operations: ${n} histories, TEST_SEED=${seed}`);
        for (let round = 0; round < n; round++) {
          const appIds = [yield* newTenant, yield* newTenant];
          const world = yield* play(store, { appIds, tag: "real", dice: diceOf(1_000 + round), length: 80 });
          for (const appId of appIds) {
            for (const by of ["type", "reason", "tenant"] as const) {
              const before = yield* databaseNow;
              const stats = yield* Client.tenant(appId)(db.jobDlq.stats({ by }));
              const after = yield* databaseNow;
              const expected = figures(world, by, (_) => _.job.appId === appId, before - 24n * hour, after);
              // The model knows its times to the millisecond here.
              check(stats, expected, before - 1_000n, after, `round ${round} by ${by}`);
            }
          }
        }
      }),
    300_000,
  );

  it.effect("counts what its own transaction did", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const [one, other] = [yield* db.jobDlq.insert(letter(appId)), yield* db.jobDlq.insert(letter(appId))];
          yield* db.jobDlq.replay([one.id], { actor });
          yield* db.jobDlq.discard([other.id], { actor, reason: why });
          const stats = yield* db.jobDlq.stats({ by: "tenant" });
          assert.deepStrictEqual(
            stats.map((_) => ({ ..._ })),
            [
              {
                key: appId,
                depth: 0,
                isExact: true,
                oldestAgeSeconds: null,
                arrivals: 2,
                replays: 1,
                replaySuccessRatio: null,
              },
            ],
          );
        }),
      );
    }),
  );

  it.effect("copes with times beyond any calendar", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          for (const at of ["-infinity", "infinity", "4000-01-01 BC", "200000-01-01"]) {
            const { id } = yield* db.jobDlq.insert(letter(appId, { type: at }));
            yield* sql`UPDATE job_dlq SET dlq_at = ${at}::timestamptz WHERE id = ${id}`;
          }
          const stats = yield* db.jobDlq.stats({ by: "type" });
          assert.strictEqual(stats.length, 4);
          for (const { arrivals, depth, key, oldestAgeSeconds } of stats) {
            assert.deepStrictEqual([depth, arrivals], [1, 0]);
            // The past is as far as the year 1, the future is no age at all.
            if (key === "infinity" || key === "200000-01-01") assert.strictEqual(oldestAgeSeconds, 0);
            else assert.isAbove(oldestAgeSeconds ?? 0, 2_000 * 365 * 86_400);
          }
          assert.deepStrictEqual(
            (yield* db.jobDlq.stats({ by: "hour" })).filter(({ depth }) => depth > 0),
            [],
          );
        }),
      );
    }),
  );

  it.effect("refuses what it cannot answer, and names the field", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const wrong: ReadonlyArray<readonly [object, string]> = [
        [{}, "by"],
        [{ by: "day" }, "by"],
        [{ by: "toString" }, "by"],
        [{ by: "type", since: "yesterday" }, "since"],
        [{ by: "type", since: new Date(Number.NaN) }, "since"],
        [{ by: "type", since: 0 }, "since"],
        [{ by: "hour", since: new Date(0) }, "since"],
        [{ by: "type", filter: { typ: "x" } }, "filter.typ"],
        [{ by: "type", filter: { state: "pending" } }, "filter.state"],
        [{ by: "type", filter: { state: "replayed" } }, "filter.state"],
        [{ by: "type", filter: null }, "filter"],
      ];
      for (const [options, field] of wrong) {
        const call = db.jobDlq.stats(options as { readonly by: StatsKey });
        const error = yield* Effect.flip(Client.system(call));
        assert.strictEqual(error._tag, "InvalidInput", JSON.stringify(options));
        if (error._tag === "InvalidInput") assert.strictEqual(error.field, field);
      }
    }),
  );

  it.effect("shows a tenant its own figures only; counter-test: without the policies it shows all", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [mine, theirs] = [yield* newTenant, yield* newTenant];
      const dead = yield* deadJob(theirs, { type: "theirs" });
      yield* Client.tenant(theirs)(db.jobDlq.replay([dead.id], { actor }));
      const gone = yield* deadJob(theirs, { type: "theirs too" });
      yield* Client.tenant(theirs)(db.jobDlq.discard([gone.id], { actor, reason: why }));
      yield* deadJob(mine);
      const keys = Client.tenant(mine)(
        Effect.map(db.jobDlq.stats({ by: "type" }), (stats) => stats.map(({ key }) => key)),
      );
      assert.deepStrictEqual(yield* keys, ["mail.send"]);
      const tables = ["job_dlq", "job_dlq_events"];
      for (const table of tables) yield* sql.unsafe(`ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`);
      const leaked = yield* Effect.ensuring(
        keys,
        Effect.orDie(Effect.forEach(tables, (table) => sql.unsafe(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY`))),
      );
      assert.includeMembers([...leaked], ["mail.send", "theirs", "theirs too"]);
    }),
  );
});
