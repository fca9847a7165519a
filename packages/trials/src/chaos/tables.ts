/**
 * What the trials write down beside the product, in the same transactions: effects of jobs, what was seen of other tenants, and
 * witnesses, which triggers keep, of every job and dead letter that ever was. None of it trusts the ledger.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export const login = { name: "chaos_app", password: "chaos" } as const;
export const filler = { name: "chaos_filler", password: "chaos" } as const;

/** As the owner of the database, once. */
export const createTables = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(`
    DO $$ BEGIN
      CREATE ROLE ${login.name} LOGIN PASSWORD '${login.password}' NOINHERIT IN ROLE parametric_tenant, parametric_system;
      CREATE ROLE ${filler.name} LOGIN PASSWORD '${filler.password}';
    EXCEPTION WHEN duplicate_object THEN
      -- Of the whole server, from a run before.
    END $$`);
  for (const [table, columns] of [
    ["effects", "job_id uuid NOT NULL, attempt int NOT NULL, runner text NOT NULL, foreign_rows int"],
    ["looks", "who text NOT NULL, own_rows int NOT NULL, foreign_rows int NOT NULL"],
  ]) {
    yield* sql.unsafe(`
      CREATE TABLE ${table} (
        id bigint GENERATED ALWAYS AS IDENTITY, app_id uuid NOT NULL DEFAULT current_tenant(), ${columns},
        at timestamptz NOT NULL DEFAULT clock_timestamp());
      CREATE INDEX ${table}_app ON ${table} (app_id);
      ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY;
      ALTER TABLE ${table} FORCE ROW LEVEL SECURITY;
      CREATE POLICY own ON ${table} TO parametric_tenant USING (app_id = current_tenant()) WITH CHECK (app_id = current_tenant());
      CREATE POLICY every ON ${table} TO parametric_system USING (true) WITH CHECK (true);
      GRANT SELECT, INSERT, DELETE ON ${table} TO parametric_tenant, parametric_system`);
  }
});

/** As the owner of the database, once, after the tables. The owner of the functions writes, whoever fires them. */
export const createWitnesses = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(`
    CREATE TABLE witness_jobs (
      job_id uuid PRIMARY KEY, app_id uuid NOT NULL, type text NOT NULL, batch int, gone text);
    COMMENT ON COLUMN witness_jobs.gone IS 'What its status was when it was purged; null while it is there';
    CREATE TABLE witness_letters (
      dlq_id uuid PRIMARY KEY, app_id uuid NOT NULL, job_id uuid NOT NULL, replays int NOT NULL DEFAULT 0);
    CREATE INDEX witness_letters_job ON witness_letters (job_id);
    CREATE INDEX IF NOT EXISTS effects_job ON effects (job_id);
    GRANT SELECT ON witness_jobs, witness_letters TO parametric_system;
    CREATE FUNCTION witness_jobs_in() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
      INSERT INTO witness_jobs SELECT id, app_id, type, (payload ->> 'batch')::int FROM rows ORDER BY id
      ON CONFLICT (job_id) DO UPDATE SET gone = NULL;
      RETURN NULL;
    END $$;
    CREATE FUNCTION witness_jobs_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
      UPDATE witness_jobs w SET gone = r.status FROM rows r WHERE r.id = w.job_id;
      RETURN NULL;
    END $$;
    CREATE FUNCTION witness_letters_in() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
      INSERT INTO witness_letters SELECT id, app_id, original_job_id FROM rows ON CONFLICT (dlq_id) DO NOTHING;
      RETURN NULL;
    END $$;
    CREATE FUNCTION witness_letters_replayed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
      UPDATE witness_letters w SET replays = w.replays + 1 FROM rows r JOIN old_rows o USING (id)
      WHERE r.id = w.dlq_id AND o.replayed_at IS NULL AND r.replayed_at IS NOT NULL;
      RETURN NULL;
    END $$;
    CREATE TRIGGER zz_witness_in AFTER INSERT ON jobs REFERENCING NEW TABLE AS rows
      FOR EACH STATEMENT EXECUTE FUNCTION witness_jobs_in();
    CREATE TRIGGER zz_witness_out AFTER DELETE ON jobs REFERENCING OLD TABLE AS rows
      FOR EACH STATEMENT EXECUTE FUNCTION witness_jobs_out();
    CREATE TRIGGER zz_witness_in AFTER INSERT ON job_dlq REFERENCING NEW TABLE AS rows
      FOR EACH STATEMENT EXECUTE FUNCTION witness_letters_in();
    CREATE TRIGGER zz_witness_replayed AFTER UPDATE ON job_dlq REFERENCING NEW TABLE AS rows OLD TABLE AS old_rows
      FOR EACH STATEMENT EXECUTE FUNCTION witness_letters_replayed()`);
});
