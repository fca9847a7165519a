/**
 * A queue that is the same on every machine: 20,000 dead letters and 28,000 jobs of 50 tenants, the first of which has half of them.
 *
 * Ids and times are fixed. Each table has fewer rows than ANALYZE takes as its sample, so the planner's statistics are the same as
 * well, and nothing is analyzed or vacuumed in the background. Each clone of it is as fresh as the first.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import * as Databases from "@parametric-portal/postgres/databases";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import { inject } from "vitest";
import type {} from "../../../database/test/support/global-setup.js";
import { disturbNothing, tables } from "./samples.js";

/** The id of a tenant: 1 has half of everything, 50 the least. */
export const tenant = (place: number) => `00000000-0000-4000-8000-${String(place).padStart(12, "0")}`;
export const big = tenant(1);
export const small = tenant(50);
/** A person of the first tenant, with a few letters. */
export const person = "00000000-0000-4000-9000-000000000003";

/** The tenant of a row: half of them to the first, the others by the cube of a spread number. */
const place = `CASE WHEN i % 2 = 0 THEN 1 ELSE 2 + floor(49 * power(((i * 7919) % 100003) / 100003.0, 3))::int END`;
const appId = `('00000000-0000-4000-8000-' || lpad((${place})::text, 12, '0'))::uuid`;
const jobId = `md5('job ' || i)::uuid`;
const begin = "timestamptz '2025-01-01T00:00:00Z'";
/** The middle of the time in which the letters came. */
export const middle = new Date("2025-01-02T04:00:00Z");
/** A uuidv7 of a time. */
const idAt = (time: string, n: string) =>
  `(lpad(to_hex((extract(epoch FROM ${time}) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(${n}), 12, '0'))::uuid`;
const letterAt = `${begin} + i * interval '10 seconds'`;
const statements = [
  // VACUUM marks no page as visible to all whose rows were committed without waiting for the log, as test servers do.
  "SET synchronous_commit = on",
  `INSERT INTO apps (id, name)
    SELECT ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, 'tenant ' || i FROM generate_series(1, 50) i`,
  ...Array.from(
    { length: 20 },
    (_, batch) => `
    INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, user_id)
    SELECT ${idAt(letterAt, "i")}, ${jobId}, ${appId}, CASE WHEN i % 1000 = 2 THEN 'rare' ELSE 'type ' || i % 7 END,
      jsonb_build_object('number', i, 'text', repeat('x', 50)), CASE WHEN i % 5 = 0 THEN 'Validation' ELSE 'MaxRetries' END, 5,
      jsonb_build_array(jsonb_build_object('error', 'Error: no route ' || chr(97 + i % 20), 'timestamp', 1735689600000)),
      ${letterAt}, CASE WHEN i % 3 = 0 THEN ${letterAt} + interval '1 hour' END,
      ('00000000-0000-4000-9000-' || lpad((i % 1000)::text, 12, '0'))::uuid
    FROM generate_series(${batch * 1000 + 1}, ${batch * 1000 + 1000}) i ORDER BY i`,
  ),
  // Who replayed, and copies of letters that were discarded.
  `INSERT INTO job_dlq_events (id, app_id, dlq_id, original_job_id, kind, actor, at)
    SELECT ${idAt("replayed_at", "(payload ->> 'number')::int")}, app_id, id, original_job_id, 'replayed', 'guard', replayed_at
    FROM job_dlq WHERE replayed_at IS NOT NULL ORDER BY id`,
  `INSERT INTO job_dlq_events (id, app_id, dlq_id, original_job_id, kind, actor, reason, at, entry)
    SELECT ${idAt("dlq_at", "100000 + (payload ->> 'number')::int")}, app_id, md5('gone ' || id)::uuid, md5('gone job ' || id)::uuid,
      'discarded', 'guard', 'guard', dlq_at,
      to_jsonb(d) - 'fingerprint' - 'arrived'
        || jsonb_build_object('id', md5('gone ' || id)::uuid, 'original_job_id', md5('gone job ' || id)::uuid, 'replayed_at', NULL)
    FROM job_dlq d WHERE (payload ->> 'number')::int % 20 < 2 ORDER BY id`,
  // Those that wait, those that the first letters are of, and completed ones.
  `INSERT INTO jobs (id, app_id, type, payload, priority, scheduled_at)
    SELECT md5('waiting ' || i)::uuid, ${appId}, 'type ' || i % 7, '{"text": "x"}',
      (ARRAY['critical', 'high', 'normal', 'low']::job_priority[])[1 + i % 4], ${begin} + i * interval '1 second'
    FROM generate_series(1, 20000) i ORDER BY i`,
  `INSERT INTO jobs (id, app_id, type, payload, status, attempts, completed_at)
    SELECT ${jobId}, ${appId}, 'type ' || i % 7, '{"text": "x"}', 'dead', 5, ${letterAt}
    FROM generate_series(1, 6000) i ORDER BY i`,
  `INSERT INTO jobs (id, app_id, type, payload, status, completed_at)
    SELECT md5('done ' || i)::uuid, ${appId}, 'type ' || i % 7, '{"text": "x"}', 'completed', ${begin} + i * interval '1 minute'
    FROM generate_series(1, 2000) i ORDER BY i`,
];

const decodeVacuumed = S.decodeUnknown(S.Tuple(S.Struct({ isVacuumed: S.Boolean })));
/** Leaves every page visible to all, which whoever connects to the server just then may hinder. */
const vacuum = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  for (const table of tables) yield* sql`VACUUM (FREEZE, ANALYZE) ${sql(table)}`;
  const rows = yield* sql`
    SELECT bool_and(relallvisible = relpages) AS is_vacuumed FROM pg_class
    WHERE relname = ANY (${tables}) AND relnamespace = 'public'::regnamespace`;
  const [{ isVacuumed }] = yield* decodeVacuumed(rows);
  return isVacuumed;
});

const fill = Effect.gen(function* () {
  yield* disturbNothing;
  const sql = yield* SqlClient.SqlClient;
  for (const statement of statements) yield* sql.unsafe(statement);
  yield* Effect.iterate(false, {
    while: (isVacuumed) => !isVacuumed,
    body: () => Effect.delay(vacuum, "50 millis"),
  });
});

/** The filled database, to clone from; dropped with the scope. Returns its name. */
export const make = Effect.gen(function* () {
  const url = yield* Databases.clone(Redacted.make(inject("serverUrl")), inject("template"));
  yield* Effect.provide(fill, Client.layer({ url, maxConnections: 1 }));
  return new URL(Redacted.value(url)).pathname.slice(1);
});

/** A clone of it, dropped with the scope. Returns its URL. */
export const clone = (name: string) => Effect.suspend(() => Databases.clone(Redacted.make(inject("serverUrl")), name));
