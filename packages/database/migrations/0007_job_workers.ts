/**
 * What workers need: partitions, unique submissions, suspects, progress, and the tables of the runners' cluster.
 *
 * Locks: ACCESS EXCLUSIVE on `jobs` while the table is rewritten for the generated column and its indexes are built. Run it
 * while nothing is submitted, or purge first.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // 32 partitions: a runner claims from all that it owns in one statement, so their number costs nothing; it bounds how many runners
  // can share the work. The last byte of a uuidv7 is random.
  yield* sql.unsafe(`
    ALTER TABLE jobs
      ADD COLUMN partition smallint NOT NULL GENERATED ALWAYS AS ((get_byte(uuid_send(id), 15) % 32)::smallint) STORED,
      ADD COLUMN dedupe_key text,
      ADD COLUMN suspect boolean NOT NULL DEFAULT false,
      ADD COLUMN in_company boolean NOT NULL DEFAULT false,
      ADD COLUMN progress jsonb,
      ADD CONSTRAINT jobs_dedupe_key_not_blank CHECK (btrim(dedupe_key) <> '')`);
  for (const [column, comment] of [
    [
      "partition",
      "Which part of the queue it is in, 0 to 31: the last byte of its id modulo 32. Each is drained by one runner",
    ],
    ["dedupe_key", "While the job is unfinished no other of its app and type has this key; NULL after a replay"],
    [
      "suspect",
      "Its runner vanished with it: it runs alone on its next try, so that only a job that ends its process is blamed",
    ],
    [
      "in_company",
      "While it is processing: other jobs run beside it on its runner, any of which may be what ends that",
    ],
    ["progress", "What its handler last reported; any JSON value"],
  ]) {
    yield* sql.unsafe(`COMMENT ON COLUMN jobs.${column} IS '${comment}'`);
  }

  // Statements that set it themselves to what the trigger would need not call it, row by row.
  yield* sql.unsafe(`
    CREATE OR REPLACE TRIGGER jobs_updated_at BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (NEW.updated_at IS DISTINCT FROM now()) EXECUTE FUNCTION set_updated_at()`);

  // It served the deletion of an app, which is rare and may read the table, and every change of a job paid for it.
  yield* sql.unsafe(`DROP INDEX idx_jobs_app_id_fk`);

  // Jobs.submit: one unfinished job for each key.
  yield* sql.unsafe(`
    CREATE UNIQUE INDEX idx_jobs_dedupe ON jobs (app_id, type, dedupe_key)
    WHERE dedupe_key IS NOT NULL AND status IN ('pending', 'processing')`);
  // A runner's claim: each tenant's due jobs of a partition, by priority and then by time.
  yield* sql.unsafe(`
    CREATE INDEX idx_jobs_fair ON jobs (partition, app_id, priority, scheduled_at, id) WHERE status = 'pending' AND NOT suspect`);
  // A runner's look for partitions with something due, behind any number of jobs that are scheduled for later.
  yield* sql.unsafe(`
    CREATE INDEX idx_jobs_scheduled ON jobs (partition, scheduled_at) WHERE status = 'pending' AND NOT suspect`);
  // A runner's look for suspects, and its claim of one.
  yield* sql.unsafe(`
    CREATE INDEX idx_jobs_suspect ON jobs (partition, scheduled_at, id) WHERE status = 'pending' AND suspect`);

  // One notification per statement: the partitions in which something is due now. It names no tenant.
  yield* sql.unsafe(`
    CREATE FUNCTION jobs_notify() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
      partitions text := (
        SELECT string_agg(DISTINCT partition::text, ',') FROM inserted WHERE status = 'pending' AND scheduled_at <= now());
    BEGIN
      IF partitions IS NOT NULL THEN
        PERFORM pg_notify('jobs', partitions);
      END IF;
      RETURN NULL;
    END
    $body$`);
  yield* sql.unsafe(`
    CREATE TRIGGER jobs_notify AFTER INSERT ON jobs REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_notify()`);

  // Who the runners are and which shards each holds. Made here and not by the runners, whose login may create nothing.
  yield* sql.unsafe(`
    CREATE TABLE job_runners (
      address text PRIMARY KEY,
      machine_id integer NOT NULL GENERATED ALWAYS AS IDENTITY,
      runner text NOT NULL,
      healthy boolean NOT NULL DEFAULT true,
      last_heartbeat timestamptz NOT NULL DEFAULT now()
    )`);
  yield* sql.unsafe(`COMMENT ON TABLE job_runners IS 'Runner processes of the cluster; one that is gone expires'`);
  yield* sql.unsafe(`
    CREATE TABLE job_shards (
      shard_id text PRIMARY KEY,
      address text NOT NULL,
      acquired_at timestamptz NOT NULL DEFAULT now()
    )`);
  yield* sql.unsafe(
    `COMMENT ON TABLE job_shards IS 'Which runner holds which shard of the cluster, until its lock expires'`,
  );
  yield* sql.unsafe(`GRANT SELECT, INSERT, UPDATE, DELETE ON job_runners, job_shards TO parametric_system`);
});
