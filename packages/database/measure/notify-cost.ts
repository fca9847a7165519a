/**
 * What the notification of arrivals costs those who write them: one bulk insert of 10,000 dead letters with the trigger
 * job_dlq_notify and without it, in turn on the same table, while one connection listens. Prints the ratio of the medians: of the
 * time, and of the server's processor time where the server runs on this machine under Linux, which a busy machine disturbs less.
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

const median = (values: ReadonlyArray<number>) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

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

const measure = (tenants: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const results = {
      ENABLE: { times: [] as number[], spent: [] as number[] },
      DISABLE: { times: [] as number[], spent: [] as number[] },
    };
    const run = (verb: "ENABLE" | "DISABLE") =>
      Effect.gen(function* () {
        yield* sql`ALTER TABLE job_dlq ${sql.literal(verb)} TRIGGER job_dlq_notify`;
        // One connection, so that before and after are of one process; with the commit, where the notification is sent.
        const before = yield* spent;
        const [time] = yield* Effect.timed(insert(tenants));
        results[verb].times.push(Duration.toMillis(time));
        results[verb].spent.push((yield* spent) - before);
        yield* sql`TRUNCATE job_dlq`;
      });
    for (let round = 0; round < rounds; round++) {
      // Each goes first in every other round.
      yield* run(round % 2 === 0 ? "ENABLE" : "DISABLE");
      yield* run(round % 2 === 0 ? "DISABLE" : "ENABLE");
    }
    const line = (name: string, of: "times" | "spent") => {
      const [with_, without] = [median(results.ENABLE[of]), median(results.DISABLE[of])];
      return `${name} ${with_.toFixed(0)} ms with, ${without.toFixed(0)} ms without: ${(with_ / without).toFixed(3)}`;
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
    for (const tenants of [1, 20, 100]) yield* measure(tenants);
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
