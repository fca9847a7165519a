/**
 * What finding dead letters costs those who write them: time and bytes per letter with the schema of 0002 and with that of this
 * release, in turn on the same server.
 *
 *     npx with-postgres -- npx tsx measure/letter-cost.ts
 */

import * as SqlClient from "@effect/sql/SqlClient";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Config from "effect/Config";
import * as Console from "effect/Console";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Client from "../src/client.js";
import * as Migrator from "../src/migrator.js";

const rounds = 11;
const batch = 10_000;

const Measured = S.decodeUnknown(S.Tuple(S.Struct({ heap: S.Number, indexes: S.Number, wal: S.Number })));

/** One bulk insert of 10,000 letters of 300 bytes of payload and a stack of 1 kB, for 20 tenants. */
const insert = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* Client.system(sql`
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, user_id)
    SELECT uuidv7(), a.id, 'mail.send.' || g % 7, jsonb_build_object('order', g, 'note', repeat('x', 270)), 'MaxRetries', 5,
      jsonb_build_array(jsonb_build_object('timestamp', 1790000000000,
        'error', 'Error: connect ECONNREFUSED 10.0.0.' || g % 255 || ':5432' || repeat(E'\n    at frame (file.js:1:2)', 40))), uuidv7()
    FROM generate_series(1, ${batch}::int) g
    JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM apps) a ON a.place = 1 + g % 20`);
});

const walOf = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const rows = yield* sql`
    SELECT pg_table_size('job_dlq')::float8 AS heap, pg_indexes_size('job_dlq')::float8 AS indexes, (pg_current_wal_lsn() - '0/0')::float8 AS wal`;
  const [sizes] = yield* Measured(rows);
  return sizes;
});

const median = (values: ReadonlyArray<number>) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

const main = Effect.gen(function* () {
  const server = yield* Config.redacted("DATABASE_URL");
  const contestant = (name: string, migrations: number) =>
    Effect.gen(function* () {
      const url: Redacted.Redacted = yield* Databases.empty(server);
      const client = Client.layer({ url, maxConnections: 2 });
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* Migrator.run(Migrator.catalogue.slice(0, migrations));
          const sql = yield* SqlClient.SqlClient;
          yield* Client.system(sql`INSERT INTO apps (name) SELECT 'app ' || g FROM generate_series(1, 20) g`);
        }),
        client,
      );
      return { name, client, times: [] as number[], wal: 0 };
    });
  const contestants = [
    yield* contestant("0002_job_dlq", 2),
    yield* contestant("this release", Migrator.catalogue.length),
  ];
  for (let round = 0; round < rounds; round++) {
    for (const one of contestants) {
      yield* Effect.provide(
        Effect.gen(function* () {
          const before = yield* walOf;
          const [duration] = yield* Effect.timed(insert);
          one.times.push(Duration.toMillis(duration));
          one.wal += (yield* walOf).wal - before.wal;
        }),
        one.client,
      );
    }
  }
  const letters = rounds * batch;
  for (const { client, name, times, wal } of contestants) {
    const { heap, indexes } = yield* Effect.provide(walOf, client);
    yield* Console.log(
      `${name.padEnd(14)} ${((median(times) * 1000) / batch).toFixed(1)} us a letter (${((Math.min(...times) * 1000) / batch).toFixed(1)} to ${((Math.max(...times) * 1000) / batch).toFixed(1)}), ` +
        `${Math.round(heap / letters)} bytes of table, ${Math.round(indexes / letters)} of indexes, ${Math.round(wal / letters)} of WAL`,
    );
  }
});

Effect.runPromise(Effect.scoped(main));
