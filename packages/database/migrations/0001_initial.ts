/**
 * The base that the dead-letter queue extends: the two group roles, tenants (`apps`), `jobs`, and what every tenant table shares.
 *
 * Locks: creates objects only, so it waits for nobody. It expects the schema `public` without tables named `apps` or `jobs`.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // Roles belong to the whole server and advisory locks to one database, so two databases may get here at once: whoever
  // comes second finds the role (duplicate_object) or loses the race on its name (unique_violation).
  // A creator that is no superuser must be able to SET the roles, and must not inherit them: a query outside every scope
  // would otherwise see every tenant.
  yield* sql.unsafe(`
    DO $roles$
    DECLARE
      group_role text;
    BEGIN
      FOREACH group_role IN ARRAY ARRAY['parametric_tenant', 'parametric_system'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = group_role) THEN
          BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', group_role);
          EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
          END;
        END IF;
        IF NOT pg_has_role(CURRENT_USER, group_role, 'SET') THEN
          BEGIN
            EXECUTE format('GRANT %I TO CURRENT_USER WITH INHERIT FALSE, SET TRUE', group_role);
          EXCEPTION WHEN unique_violation THEN
            NULL;
          END;
        END IF;
      END LOOP;
    END
    $roles$`);

  yield* sql.unsafe(`GRANT USAGE ON SCHEMA public TO parametric_tenant, parametric_system`);

  // A custom setting reverts to '' and not to NULL when its transaction ends; without NULLIF the next query fails on ''::uuid.
  // A SQL body with RETURN is bound when it is created and inlined into the policies that call it.
  yield* sql.unsafe(`
    CREATE FUNCTION current_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('app.current_tenant', true), '')::uuid`);
  yield* sql.unsafe(
    `COMMENT ON FUNCTION current_tenant() IS 'The app whose scope the transaction is in; NULL outside every tenant scope'`,
  );

  yield* sql.unsafe(`
    CREATE FUNCTION set_updated_at() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    BEGIN
      NEW.updated_at := now();
      RETURN NEW;
    END
    $body$`);

  yield* sql.unsafe(`
    CREATE TABLE apps (
      id uuid PRIMARY KEY DEFAULT uuidv7(),
      name text NOT NULL,
      updated_at timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT apps_name_unique UNIQUE (name),
      CONSTRAINT apps_name_not_blank CHECK (btrim(name) <> '')
    )`);
  yield* sql.unsafe(`COMMENT ON TABLE apps IS 'Tenants — use uuid_extract_timestamp(id) for creation time'`);

  yield* sql.unsafe(`CREATE TYPE job_priority AS ENUM ('critical', 'high', 'normal', 'low')`);
  // One sequence for every claim and every replay, so that a token never comes twice, not even after a purge.
  yield* sql.unsafe(`CREATE SEQUENCE job_fence AS bigint`);

  yield* sql.unsafe(`
    CREATE TABLE jobs (
      id uuid PRIMARY KEY DEFAULT uuidv7(),
      app_id uuid NOT NULL REFERENCES apps (id) ON DELETE RESTRICT,
      user_id uuid,
      request_id uuid,
      type text NOT NULL,
      payload jsonb NOT NULL,
      priority job_priority NOT NULL DEFAULT 'normal',
      status text NOT NULL DEFAULT 'pending',
      attempts integer NOT NULL DEFAULT 0,
      max_attempts integer NOT NULL DEFAULT 5,
      error_history jsonb NOT NULL DEFAULT '[]',
      scheduled_at timestamptz NOT NULL DEFAULT now(),
      started_at timestamptz,
      completed_at timestamptz,
      locked_by text,
      locked_until timestamptz,
      fence bigint NOT NULL DEFAULT nextval('job_fence'),
      replays integer NOT NULL DEFAULT 0,
      updated_at timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT jobs_status_known CHECK (status IN ('pending', 'processing', 'completed', 'dead', 'cancelled')),
      CONSTRAINT jobs_locked_while_processing
        CHECK ((status = 'processing') = (locked_by IS NOT NULL) AND (locked_by IS NULL) = (locked_until IS NULL)),
      CONSTRAINT jobs_ended_has_time CHECK ((status IN ('completed', 'dead', 'cancelled')) = (completed_at IS NOT NULL)),
      CONSTRAINT jobs_attempts_counted CHECK (attempts >= 0 AND replays >= 0),
      CONSTRAINT jobs_max_attempts_positive CHECK (max_attempts >= 1),
      CONSTRAINT jobs_error_history_array CHECK (jsonb_typeof(error_history) = 'array')
    )`);
  yield* sql.unsafe(`ALTER SEQUENCE job_fence OWNED BY jobs.fence`);
  yield* sql.unsafe(`COMMENT ON TABLE jobs IS 'Units of work — use uuid_extract_timestamp(id) for submission time'`);
  yield* sql.unsafe(
    `COMMENT ON COLUMN jobs.completed_at IS 'When the job ended: completed, dead or cancelled; NULL while it may still run'`,
  );
  yield* sql.unsafe(
    `COMMENT ON COLUMN jobs.fence IS 'Token of the current claim or replay, from job_fence; a settlement with another one matches no row'`,
  );

  // jobs.claim: due jobs in order of priority, then of time.
  yield* sql.unsafe(`CREATE INDEX idx_jobs_due ON jobs (priority, scheduled_at, id) WHERE status = 'pending'`);
  // jobs.rescue: runs whose lease has ended.
  yield* sql.unsafe(`CREATE INDEX idx_jobs_lost ON jobs (locked_until) WHERE status = 'processing'`);
  // purge_jobs(): ended jobs by age.
  yield* sql.unsafe(`CREATE INDEX idx_jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL`);
  // A tenant's own rows, and the check when an app is deleted.
  yield* sql.unsafe(`CREATE INDEX idx_jobs_app_id_fk ON jobs (app_id)`);

  yield* sql.unsafe(
    `CREATE TRIGGER apps_updated_at BEFORE UPDATE ON apps FOR EACH ROW EXECUTE FUNCTION set_updated_at()`,
  );
  yield* sql.unsafe(
    `CREATE TRIGGER jobs_updated_at BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION set_updated_at()`,
  );

  yield* sql.unsafe(`
    CREATE FUNCTION purge_jobs(p_older_than_days INT DEFAULT 30) RETURNS INT
    LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
    AS $body$
    DECLARE
      purged INT;
    BEGIN
      IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN
        RAISE EXCEPTION 'purge_jobs: p_older_than_days must be 0 or more, got %', COALESCE(p_older_than_days::text, 'NULL')
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
      -- Beyond a million days the subtraction leaves timestamptz's range; nothing is that old.
      DELETE FROM jobs WHERE completed_at < now() - make_interval(days => LEAST(p_older_than_days, 1000000));
      GET DIAGNOSTICS purged = ROW_COUNT;
      RETURN purged;
    END
    $body$`);
  yield* sql.unsafe(
    `COMMENT ON FUNCTION purge_jobs(INT) IS 'Deletes jobs that ended longer ago than that, within the caller''s scope'`,
  );

  // A tenant sees its own rows, the system scope sees all, and nobody else sees any: FORCE holds for the owner too.
  // The role decides, not a setting that says "I am system".
  for (const [table, key] of [
    ["apps", "id"],
    ["jobs", "app_id"],
  ]) {
    yield* sql.unsafe(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY`);
    yield* sql.unsafe(`ALTER TABLE ${table} FORCE ROW LEVEL SECURITY`);
    yield* sql.unsafe(`
      CREATE POLICY ${table}_tenant ON ${table} TO parametric_tenant
      USING (${key} = current_tenant()) WITH CHECK (${key} = current_tenant())`);
    yield* sql.unsafe(`CREATE POLICY ${table}_system ON ${table} TO parametric_system USING (true) WITH CHECK (true)`);
  }

  // A tenant reads its own app and changes nothing about it.
  yield* sql.unsafe(`GRANT SELECT ON apps TO parametric_tenant`);
  yield* sql.unsafe(`GRANT SELECT, INSERT, UPDATE, DELETE ON apps TO parametric_system`);
  yield* sql.unsafe(`GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO parametric_tenant, parametric_system`);
  yield* sql.unsafe(`GRANT USAGE ON SEQUENCE job_fence TO parametric_tenant, parametric_system`);
  yield* sql.unsafe(`REVOKE EXECUTE ON FUNCTION purge_jobs(INT) FROM PUBLIC`);
  yield* sql.unsafe(`GRANT EXECUTE ON FUNCTION purge_jobs(INT) TO parametric_tenant, parametric_system`);
});
