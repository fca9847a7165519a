/**
 * What the stream of arrivals costs those who write them: one bulk insert of 10,000 dead letters with the trigger job_dlq_notify
 * and the index idx_job_dlq_arrived, and without both, in turn on the same table, while one connection listens. Prints the median
 * of the rounds' ratios, and the middle half of them: of the time, and of the server's processor time where the server runs on
 * this machine under Linux, which a busy machine disturbs less.
 *
 *     npx with-postgres -- npx tsx measure/notify-cost.ts
 */
import { readFile } from "node:fs/promises";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Config from "effect/Config";
import * as Console from "effect/Console";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import * as Client from "../src/client.js";
import * as Migrator from "../src/migrator.js";
import { DatabaseService } from "../src/repos.js";

const rounds = 21;
const batch = 10_000;

/** As `letter-cost.ts` has them: 300 bytes of payload and a stack of 1 kB, for so many tenants. */
const insert = (tenants: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    yield* Client.system(sql`
      INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, user_id)
      SELECT uuidv7(), a.id, 'mail.send.' || g % 7, jsonb_build_object('order', g, 'note', repeat('x', 270)), 'MaxRetries', 5,
        jsonb_build_array(jsonb_build_object('timestamp', 1790000000000,
          'error', 'Error: connect ECONNREFUSED 10.0.0.' || g % 255 || ':5432' || repeat(E'\n    at frame (file.js:1:2)', 40))), uuidv7()
      FROM generate_series(1, ${batch}::int) g
      JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM apps) a ON a.place = 1 + g % ${tenants}::int`);
  });

const quantile = (values: ReadonlyArray<number>, part: number) =>
  [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) * part)] ?? 0;
const median = (values: ReadonlyArray<number>) => quantile(values, 0.5);

/** Milliseconds that the server's process of this connection has spent computing; 0 where that cannot be read. */
const spent = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [{ pid }] = yield* Effect.flatMap(sql`SELECT pg_backend_pid() AS pid`, S.decodeUnknown(Pid));
  const text = yield* Effect.orElseSucceed(
    Effect.tryPromise(() => readFile(`/proc/${pid}/schedstat`, "utf8")),
    () => "0",
  );
  return Number(text.split(" ")[0]) / 1e6;
});
const Pid = S.Tuple(S.Struct({ pid: S.Int }));

const Index = S.Tuple(S.Struct({ definition: S.String }));

const measure = (tenants: number, index: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const results = {
      with: { times: [] as number[], spent: [] as number[] },
      without: { times: [] as number[], spent: [] as number[] },
    };
    const run = (how: "with" | "without") =>
      Effect.gen(function* () {
        yield* sql`ALTER TABLE job_dlq ${sql.literal(how === "with" ? "ENABLE" : "DISABLE")} TRIGGER job_dlq_notify`;
        yield* sql`DROP INDEX IF EXISTS idx_job_dlq_arrived`;
        if (how === "with") yield* sql.unsafe(index);
        // One connection, so that before and after are of one process; with the commit, where the notification is sent.
        const before = yield* spent;
        const [time] = yield* Effect.timed(insert(tenants));
        results[how].times.push(Duration.toMillis(time));
        results[how].spent.push((yield* spent) - before);
        yield* sql`TRUNCATE job_dlq`;
      });
    for (let round = 0; round < rounds; round++) {
      // Each goes first in every other round.
      yield* run(round % 2 === 0 ? "with" : "without");
      yield* run(round % 2 === 0 ? "without" : "with");
    }
    const line = (name: string, of: "times" | "spent") => {
      const ratios = results.with[of].map((one, round) => one / (results.without[of][round] ?? 0));
      const [low, middle, high] = [0.25, 0.5, 0.75].map((part) => quantile(ratios, part).toFixed(3));
      const [with_, without] = [median(results.with[of]), median(results.without[of])].map((_) => _.toFixed(0));
      return `${name} ${with_} ms with, ${without} ms without, ratio ${middle} (${low} to ${high})`;
    };
    yield* Console.log(
      `${batch} letters, ${tenants} tenants, ${rounds} rounds: ${line("elapsed", "times")}; ${line("computed", "spent")}`,
    );
  });

const main = Effect.gen(function* () {
  const url = yield* Databases.empty(yield* Config.redacted("DATABASE_URL"));
  yield* Effect.gen(function* () {
    yield* Migrator.run();
    const sql = yield* SqlClient.SqlClient;
    const db = yield* DatabaseService;
    yield* Client.system(sql`INSERT INTO apps (name) SELECT 'app ' || g FROM generate_series(1, 100) g`);
    yield* Effect.forkScoped(Stream.runDrain(db.jobDlq.changes({ scope: { _tag: "tenant", appId: nobody } })));
    const [{ definition }] = yield* Effect.flatMap(
      sql`SELECT pg_get_indexdef('idx_job_dlq_arrived'::regclass) AS definition`,
      S.decodeUnknown(Index),
    );
    for (const tenants of [1, 20, 100]) yield* measure(tenants, definition);
  }).pipe(Effect.provide(Layer.provideMerge(DatabaseService.layer, Client.layer({ url, maxConnections: 1 }))));
});

/** Somebody listens, and is not woken. */
const nobody = "00000000-0000-0000-0000-000000000000";

Effect.runPromise(Effect.scoped(main)).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
