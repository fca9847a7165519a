/**
 * `npm run bench`: the contest, small enough for some minutes. `--full`: the works as `docs/benchmarks.md` has them, which is
 * written, with its chart and its JSON.
 *
 * `--write` writes after a run of small works as well, without those at scale: a small table says nothing about a large one.
 *
 * `--only WORD` takes the works whose names have it, `--contestants portal,raw` only these, `--rounds N` more or fewer than five.
 */
import { parseArgs } from "node:util";
import * as Postgres from "@parametric-portal/postgres/postgres";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { bundle } from "./bundle.js";
import { contest, enter } from "./contest.js";
import { figuresOf } from "./figures.js";
import * as Redis from "./redis.js";
import * as Report from "./report.js";
import { full, quick, scale } from "./scale/scale.js";
import { scopes } from "./scope.js";
import { works } from "./works.js";

const { values } = parseArgs({
  options: {
    full: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    contestants: { type: "string", default: "portal,raw,pg-boss,graphile-worker,bullmq" },
    rounds: { type: "string", default: "5" },
    write: { type: "boolean", default: false },
  },
});
const isFull = values.full;
const rounds = Number(values.rounds);
if (!Number.isInteger(rounds) || rounds < 1) {
  console.error(`--rounds ${values.rounds}: must be a whole number, 1 or more`);
  process.exit(1);
}
const chosen = works.filter(({ work }) => work.includes(values.only));
const isAtScale = "at scale".includes(values.only) && (isFull || !values.write);
if (chosen.length === 0 && !isAtScale) {
  console.error(`--only ${values.only}: no such work; there are ${works.map(({ work }) => work).join(", ")}, at scale`);
  process.exit(1);
}

/** What a server has that is there for this: durable, with room. */
const settings = {
  shared_buffers: "2GB",
  max_wal_size: "16GB",
  checkpoint_timeout: "30min",
  fsync: "on",
  synchronous_commit: "on",
  full_page_writes: "on",
};

const main = Effect.gen(function* () {
  const server = yield* Postgres.make({ provider: "embedded", settings });
  const programs = yield* Effect.promise(bundle);
  const redis = yield* Redis.start;
  const files = values.contestants.split(",");
  const able = files.filter((file) => file !== "bullmq" || Option.isSome(redis));
  const absent = files.length === able.length ? [] : ["BullMQ (no redis-server)"];
  for (const name of absent) yield* Console.error(`left out: ${name}`);
  const entrants = yield* Effect.forEach(chosen.length === 0 ? [] : able, (file) =>
    enter(programs.contestant, file, server.url, Option.getOrUndefined(redis)),
  );

  const figures = values.only === "" ? [...(yield* scopes(server.url))] : [];
  for (const { full: most, quick: least, work, yields } of chosen) {
    const measured = yield* contest(entrants, work, isFull ? most : least, rounds);
    for (const { of, unit, work: name } of yields) {
      const byContestant = new Map<string, ReadonlyArray<number>>();
      for (const [{ opened }, own] of measured) {
        const found = own.map(of).filter((_) => _ !== undefined);
        if (found.length > 0) byContestant.set(opened.name, found);
      }
      figures.push(...figuresOf(name, unit, byContestant));
    }
  }
  if (isAtScale) figures.push(...(yield* scale(server.url, programs.exporter, isFull ? full : quick, rounds)));
  yield* Console.log(Report.told(figures));
  if (isFull || values.write) {
    Report.write(figures, {
      isFull,
      rounds,
      server: `PostgreSQL ${server.version}`,
      settings,
      contestants: entrants.map(({ opened }) => opened),
      absent,
    });
  }
});

Effect.runPromise(Effect.scoped(main)).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
