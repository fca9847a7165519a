/**
 * What becomes of it at ten million dead letters of a thousand tenants: lists, figures, inserts, purges and exports, next to the
 * same on a small table, or to the bare driver.
 *
 * Times are of the program, not of the server: from the call until its result is there.
 */
import { fork } from "node:child_process";
import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Console from "effect/Console";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import pg from "pg";
import { to as copyTo } from "pg-copy-streams";
import { type Figure, figureOf, quantile } from "../figures.js";
import { entryOf } from "../fill.js";
import { type Filled, fill, type Size } from "./fill.js";

const us = "this project";
const millis = (duration: Duration.Duration) => Duration.toMillis(duration);

export interface Sizes {
  readonly small: Size;
  readonly large: Size;
}
/** Ten million, a million of which are pending and a million old; and ten thousand of the same kind. */
export const full: Sizes = {
  small: { letters: 10_000, pending: 1_000, old: 1_000, tenants: 10 },
  large: { letters: 10_000_000, pending: 1_000_000, old: 1_000_000, tenants: 1_000 },
};
/** A tenth of a tenth, to see that it works. */
export const quick: Sizes = { ...full, large: { letters: 100_000, pending: 10_000, old: 10_000, tenants: 100 } };

interface Place extends Filled {
  readonly url: string;
  readonly run: <A, E>(effect: Effect.Effect<A, E, DatabaseService | Services>) => Effect.Effect<A, E>;
}
type Services = Layer.Layer.Success<ReturnType<typeof Client.layer>>;

/** A migrated database, filled. */
const place = (server: Redacted.Redacted, size: Size) =>
  Effect.gen(function* () {
    const url = yield* Databases.empty(server);
    const client = Client.layer({ url, maxConnections: 10 });
    yield* Effect.provide(Migrator.run(), client);
    const filled = yield* Effect.promise(() => fill(Redacted.value(url), size));
    const context = yield* Layer.build(Layer.provideMerge(DatabaseService.layer, client));
    const made: Place = { ...filled, url: Redacted.value(url), run: (effect) => Effect.provide(effect, context) };
    return made;
  });

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([duration]) => millis(duration));

/** The hundred newest pending of a tenant, on both tables in turn: p99 of each round. */
const lists = (small: Place, large: Place, rounds: number, calls: number) =>
  Effect.gen(function* () {
    const cases = [
      ["list 100 of 10,000, the large tenant", small, small.large],
      ["list 100 of all, the large tenant", large, large.large],
      ["list 100 of 10,000, a small tenant", small, small.small],
      ["list 100 of all, a small tenant", large, large.small],
    ] as const;
    const p99 = cases.map((): Array<number> => []);
    for (let round = 0; round <= rounds; round++) {
      const times = cases.map((): Array<number> => []);
      for (let call = 0; call < calls; call++) {
        for (const [place, [, { run }, tenant]] of cases.entries()) {
          const list = Effect.flatMap(DatabaseService, ({ jobDlq }) => Client.tenantEach(tenant)(jobDlq.listPending()));
          times[place]?.push(yield* timed(run(list)));
        }
      }
      if (round > 0) for (const [i, own] of times.entries()) p99[i]?.push(quantile(own, 0.99));
    }
    return cases.map(([work], i) => figureOf(`${work}, p99`, "ms", us, p99[i] ?? [], undefined));
  });

/** Letters that a look takes where no index counts what it asks for: what the console asks for. Its answer may be "at least". */
const most = 20_000;

/** Groups, figures and previews of what is pending, in the system's scope and the large tenant's. */
const looks = ({ large, run }: Place, rounds: number) =>
  Effect.gen(function* () {
    const db = yield* run(DatabaseService);
    const [group] = yield* run(Client.system(db.jobDlq.groups({}, { limit: 1 })));
    const filters = {
      all: {},
      "a type": { type: "type.3" },
      "a reason": { reason: "Validation" },
      ...(group === undefined ? {} : { "a fingerprint": { fingerprint: group.fingerprint } }),
      "a text": { text: "upstream c answered" },
      "a payload": { payload: { customer: "cus_7" } },
    };
    const figures: Array<Figure> = [];
    for (const [name, filter] of Object.entries(filters)) {
      const calls = {
        groups: db.jobDlq.groups(filter, { most }),
        preview: db.jobDlq.preview(filter, { most }),
        "stats by type": db.jobDlq.stats({ by: "type", filter, most }),
      };
      for (const [scopeName, scope] of [
        ["all tenants", Client.system],
        ["the large tenant", Client.tenant(large)],
      ] as const) {
        for (const [what, call] of Object.entries(calls)) {
          const times: Array<number> = [];
          for (let round = 0; round <= rounds; round++) {
            const time = yield* timed(run(scope(Effect.asVoid<unknown, unknown, never>(call))));
            if (round > 0) times.push(time);
          }
          figures.push(figureOf(`${what}, ${name}, ${scopeName}`, "ms", us, times, undefined));
          yield* Console.error(`${what}, ${name}, ${scopeName}: ${times.map(Math.round).join(" ")} ms`);
        }
      }
    }
    return figures;
  });

const entriesOf = (appId: string, count: number) =>
  Array.from({ length: count }, (_, n) => entryOf(appId, globalThis.crypto.randomUUID(), n, `type.${n % 20}`));

/** A thousand dead letters in a call, into the small table and the large one in turn. */
const inserts = (small: Place, large: Place, rounds: number, batches: number) =>
  Effect.gen(function* () {
    const rates = [small, large].map((): Array<number> => []);
    for (let round = 0; round <= rounds; round++) {
      for (const [i, { run, small: tenant }] of [small, large].entries()) {
        const entries = entriesOf(tenant, 1000);
        const insert = Effect.flatMap(DatabaseService, ({ jobDlq }) =>
          Client.tenantEach(tenant)(jobDlq.insertMany(entries)),
        );
        const time = yield* timed(run(Effect.replicateEffect(insert, batches, { discard: true })));
        if (round > 0) rates[i]?.push((1000 * batches) / (time / 1000));
      }
    }
    return [
      figureOf("insert in batches, into 10,000", "letters/s", us, rates[0] ?? [], undefined),
      figureOf("insert in batches, into all", "letters/s", us, rates[1] ?? [], undefined),
    ];
  });

/** Bytes of a letter in the table and in its indexes, of a table as it was filled. */
const bytes = ({ url }: Place, { letters }: Size) =>
  Effect.promise(async () => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const { rows } = await client.query<{ heap: number; indexes: number }>(
      "SELECT pg_table_size('job_dlq')::float8 AS heap, pg_indexes_size('job_dlq')::float8 AS indexes",
    );
    await client.end();
    const [size] = rows;
    const figure = (where: string, all = Number.NaN) =>
      figureOf(`bytes of a letter in the ${where}, of all`, "bytes", us, [all / letters], undefined);
    return [figure("table", size?.heap), figure("indexes", size?.indexes)];
  });

/** Purges what is old while others insert: the rate, what inserts wait, and the longest wait for a lock that was seen. */
const purges = ({ run, small, url }: Place, size: Size) =>
  Effect.gen(function* () {
    const db = yield* run(DatabaseService);
    const [entry] = entriesOf(small, 1);
    const insert = run(Client.tenantEach(small)(entry === undefined ? Effect.void : db.jobDlq.insert(entry)));
    const idle: Array<number> = [];
    for (let i = 0; i < 500; i++) idle.push(yield* timed(insert));
    const busy: Array<number> = [];
    const inserting = yield* Effect.fork(
      Effect.forever(Effect.tap(timed(insert), (time) => Effect.sync(() => busy.push(time)))),
    );
    let longest = 0;
    const watcher = new pg.Client({ connectionString: url });
    yield* Effect.promise(() => watcher.connect());
    const watching = yield* Effect.fork(
      Effect.forever(
        Effect.zipRight(
          Effect.promise(async () => {
            const { rows } = await watcher.query<{ waited: number | null }>(`
              SELECT max(extract(epoch FROM clock_timestamp() - waitstart) * 1000)::float8 AS waited FROM pg_locks WHERE NOT granted`);
            longest = Math.max(longest, rows[0]?.waited ?? 0);
          }),
          Effect.sleep("10 millis"),
        ),
      ),
    );
    const [duration, purged] = yield* Effect.timed(run(Client.system(db.jobDlq.purge(30))));
    yield* Fiber.interruptAll([inserting, watching]);
    const vacuum = yield* timed(Effect.promise(() => watcher.query("VACUUM job_dlq")));
    yield* Effect.promise(() => watcher.end());
    if (purged !== size.old) return yield* Effect.dieMessage(`purged ${purged} instead of ${size.old}`);
    return [
      figureOf("purge while inserting", "letters/s", us, [purged / (millis(duration) / 1000)], undefined),
      figureOf("insert, nothing beside it, p99", "ms", us, [quantile(idle, 0.99)], undefined),
      figureOf("insert beside a purge, p99", "ms", us, [quantile(busy, 0.99)], undefined),
      figureOf("longest wait for a lock beside a purge", "ms", us, [longest], undefined),
      figureOf("vacuum after a purge", "ms", us, [vacuum], undefined),
    ];
  });

const Exported = S.Struct({ letters: S.Int, seconds: S.Number, megabytes: S.Number });

/** All that is pending as NDJSON by a process of its own, and by COPY, in turn. */
const exporting = (program: string, { url }: Place, rounds: number) =>
  Effect.gen(function* () {
    const ours: Array<number> = [];
    const memory: Array<number> = [];
    const copies: Array<number> = [];
    for (let round = 0; round < rounds; round++) {
      const said = yield* Effect.async<unknown>((resume) => {
        fork(program, [url], { stdio: ["ignore", "inherit", "inherit", "ipc"] }).once("message", (message) =>
          resume(Effect.succeed(message)),
        );
      });
      const { letters, megabytes, seconds } = yield* S.decodeUnknown(Exported)(said);
      ours.push(letters / seconds);
      memory.push(megabytes);
      const time = yield* timed(
        Effect.promise(async () => {
          const client = new pg.Client({ connectionString: url });
          await client.connect();
          const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
          const columns =
            "id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, request_id, user_id";
          await pipeline(
            client.query(copyTo(`COPY (SELECT ${columns} FROM job_dlq WHERE replayed_at IS NULL) TO STDOUT`)),
            nowhere,
          );
          await client.end();
        }),
      );
      copies.push(letters / (time / 1000));
    }
    return [
      figureOf("export as NDJSON", "letters/s", us, ours, copies),
      figureOf("export as NDJSON", "letters/s", "raw", copies, copies),
      figureOf("memory of an export", "MB", us, memory, undefined),
    ];
  });

/** All of it. `program` is the export's. */
export const scale = (server: Redacted.Redacted, program: string, sizes: Sizes, rounds: number) =>
  Effect.gen(function* () {
    const small = yield* place(server, sizes.small);
    const large = yield* place(server, sizes.large);
    return [
      ...(yield* bytes(large, sizes.large)),
      ...(yield* lists(small, large, rounds, 200)),
      ...(yield* looks(large, rounds)),
      ...(yield* exporting(program, large, rounds)),
      ...(yield* purges(large, sizes.large)),
      ...(yield* inserts(small, large, rounds, 10)),
    ];
  }).pipe(Effect.scoped);
