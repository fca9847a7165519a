/**
 * A queue of many tenants, one of which has half of it: what a large installation has after a year. Written by SQL as a superuser,
 * without triggers and without indexes, which are made anew behind it.
 */
import pg from "pg";

export interface Size {
  /** All dead letters. */
  readonly letters: number;
  /** Those of them that are pending; the newest. */
  readonly pending: number;
  /** Those of them that were replayed longer ago than 30 days; the oldest. */
  readonly old: number;
  readonly tenants: number;
}

export interface Filled {
  /** Has half of all. */
  readonly large: string;
  /** Has its share of the other half. */
  readonly small: string;
}

/** Kinds of failure of a type; of each type as many. */
const shapes = 25;
export const types = 20;

const chunk = 500_000;

export const fill = async (url: string, { letters, old, pending, tenants }: Size): Promise<Filled> => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(
    "SET session_replication_role = replica; SET synchronous_commit = off; SET maintenance_work_mem = '1GB'",
  );
  await client.query("INSERT INTO apps (name) SELECT 'tenant ' || g FROM generate_series(1, $1::int) g", [tenants]);
  const { rows: apps } = await client.query<{ id: string }>("SELECT id FROM apps ORDER BY id");
  const { rows: indexes } = await client.query<{ name: string; definition: string }>(`
    SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
    FROM pg_index i WHERE i.indrelid = 'job_dlq'::regclass AND NOT i.indisprimary`);
  for (const { name } of indexes) await client.query(`DROP INDEX ${name}`);
  // One every few seconds over a year; the newest are pending. Ids are of the same time, as uuidv7 has them.
  const statement = `
    INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at)
    SELECT uuidv7(age), uuidv7(age - interval '1 minute'), apps[1 + CASE WHEN n % 2 = 0 THEN 0 ELSE (n / 2) % (cardinality(apps) - 1) + 1 END],
      'type.' || n % ${types},
      jsonb_build_object('order', n, 'customer', 'cus_' || n % 1000, 'note', repeat('x', 250)),
      (ARRAY['MaxRetries', 'Validation', 'HandlerMissing', 'RunnerUnavailable'])[1 + n / 7 % 4],
      3,
      jsonb_build_array(jsonb_build_object('timestamp', 1790000000000, 'error',
        'Error: upstream ' || chr((97 + n / 3 % ${shapes})::int) || ' answered 503 after ' || n || E' ms\\n    at fetch (client.js:10:20)')),
      now() + age,
      CASE WHEN n > $2::bigint THEN NULL WHEN n <= $3::bigint THEN now() + age + interval '1 minute' ELSE now() - interval '1 day' END
    FROM (SELECT n, -interval '400 days' + n * (interval '400 days' / $4::float8) AS age
      FROM generate_series($5::bigint, $6::bigint) n) numbers,
      (SELECT $1::uuid[] AS apps) a`;
  const ids = apps.map(({ id }) => id);
  for (let from = 1; from <= letters; from += chunk) {
    const to = Math.min(letters, from + chunk - 1);
    await client.query(statement, [ids, letters - pending, old, letters, from, to]);
    console.error(`filled ${to.toLocaleString("en-US")} of ${letters.toLocaleString("en-US")}`);
  }
  for (const { definition, name } of indexes) {
    await client.query(definition);
    console.error(`made ${name}`);
  }
  await client.query("VACUUM (ANALYZE, FREEZE) job_dlq");
  await client.query("ANALYZE");
  await client.end();
  return { large: ids[0] ?? "", small: ids[1] ?? "" };
};
