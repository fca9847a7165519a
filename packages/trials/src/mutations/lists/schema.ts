// biome-ignore-all lint/suspicious/noTemplateCurlyInString: these are texts of sources.
/** What the database itself holds: policies, constraints, triggers, grants, fixed search paths. In the order of the migrations. */
import { inFile, type Mutation, testsOf } from "../mutation.js";

const migrations = testsOf("database/test/migrations.test.ts");
const ledgerTest = testsOf("database/test/job-dlq/ledger.test.ts");
const schemaTest = testsOf("database/test/schema.test.ts");
const dlqTest = testsOf("database/test/job-dlq.test.ts");
const changesTest = testsOf("database/test/job-dlq/changes.test.ts");
const retentionTest = testsOf("database/test/job-dlq/retention.test.ts");
const insightTest = testsOf("database/test/job-dlq/insight.test.ts");
const replayTest = testsOf("database/test/job-dlq/replay.test.ts");
const racesTest = testsOf("database/test/job-dlq/forced-races.test.ts");

const initial = inFile("packages/database/migrations/0001_initial.ts");
const jobDlq = inFile("packages/database/migrations/0002_job_dlq.ts");
const events = inFile("packages/database/migrations/0003_job_dlq_events.ts");
const serving = inFile("packages/database/migrations/0004_job_dlq_serving.ts");
const receipts = inFile("packages/database/migrations/0005_job_dlq_receipts.ts");
const workers = inFile("packages/database/migrations/0007_job_workers.ts");
const less = inFile("packages/database/migrations/0009_job_dlq_less.ts");

/** The two policies of a table, its row security, and the test of each. `own` and `all` are texts of its migration. */
const tenantHeld = "shows a tenant its own rows only; dropped or weakened, none or all";
const systemHeld = "shows the system scope every row; dropped, none";
const isForced = "is forced: the table's owner sees nothing outside a scope; not forced, everything";

// 0001 makes the policies of both tables in one loop; each of these breaks those of one.
const base = ["apps", "jobs"].flatMap((table): ReadonlyArray<Mutation> => {
  const key = table === "apps" ? "id" : "app_id";
  const only = (broken: string, whole: string) => `\${table === "${table}" ? "${broken}" : "${whole}"}`;
  const tenant = { breaks: `policy ${table}.${table}_tenant` };
  const system = { breaks: `policy ${table}.${table}_system` };
  return [
    initial(
      `${table}: row-level security is not enabled`,
      "ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY",
      `ALTER TABLE \${table} ${only("DISABLE", "ENABLE")} ROW LEVEL SECURITY`,
      migrations(`${table}_tenant ${tenantHeld}`),
      { breaks: `row security ${table}` },
    ),
    initial(
      `${table}: row-level security is not forced`,
      "ALTER TABLE ${table} FORCE ROW LEVEL SECURITY",
      `ALTER TABLE \${table} ${only("NO FORCE", "FORCE")} ROW LEVEL SECURITY`,
      migrations(`of ${table} ${isForced}`),
      { breaks: `row security ${table}` },
    ),
    initial(
      `${table}_tenant: USING (true)`,
      "USING (${key} = current_tenant())",
      `USING (${only("true", `${key} = current_tenant()`).replace(`"${key} = `, `key + " = `)})`,
      migrations(`${table}_tenant ${tenantHeld}`),
      tenant,
    ),
    initial(
      `${table}_tenant: WITH CHECK (true)`,
      "WITH CHECK (${key} = current_tenant())",
      `WITH CHECK (${only("true", `${key} = current_tenant()`).replace(`"${key} = `, `key + " = `)})`,
      migrations(`${table}_tenant ${tenantHeld}`),
      tenant,
    ),
    initial(
      `${table}_system: for everybody`,
      "ON ${table} TO parametric_system USING",
      `ON \${table} ${only("TO PUBLIC", "TO parametric_system")} USING`,
      migrations(`${table}_tenant ${tenantHeld}`),
      system,
    ),
    initial(
      `${table}_system: shows no row`,
      "TO parametric_system USING (true)",
      `TO parametric_system USING (${only("false", "true")})`,
      migrations(`${table}_system ${systemHeld}`),
      system,
    ),
    initial(
      `${table}_system: lets no row in`,
      "USING (true) WITH CHECK (true)",
      `USING (true) WITH CHECK (${only("false", "true")})`,
      migrations(`${table}_system ${systemHeld}`),
      system,
    ),
  ];
});

const constraint = (name: string) => migrations(`${name} refuses, and without it the same is accepted`);
const check = (change: typeof initial, table: string, name: string, find: string, place?: number): Mutation =>
  change(
    `${table}: no constraint ${name}`,
    find,
    // Up to the keyword everything stays, a comma behind it as well.
    find.replace(/CHECK \(.*\)(,?)$/su, "CHECK (true)$1"),
    constraint(name),
    { breaks: `constraint ${table}.${name}`, ...(place === undefined ? {} : { place }) },
  );

export const initialList: ReadonlyArray<Mutation> = [
  ...base,
  initial(
    "current_tenant: without NULLIF",
    "NULLIF(current_setting('app.current_tenant', true), '')::uuid",
    "current_setting('app.current_tenant', true)::uuid",
    migrations("bears the empty setting that a transaction leaves behind; without NULLIF every query fails"),
    { breaks: "function current_tenant" },
  ),
  initial(
    "current_tenant: a body that is bound at each call",
    "RETURN NULLIF(current_setting('app.current_tenant', true), '')::uuid",
    "AS $$ SELECT NULLIF(current_setting('app.current_tenant', true), '')::uuid $$",
    migrations(
      "for current_tenant: another current_setting() is in vain; with a body that is bound at each call it is not",
    ),
    { breaks: "function current_tenant" },
  ),
  initial(
    "set_updated_at: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp",
    "LANGUAGE plpgsql",
    migrations("for set_updated_at: another now() is in vain; without a fixed search_path it is not"),
    { breaks: "function set_updated_at" },
  ),
  initial(
    "purge_jobs of 0001: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp",
    "LANGUAGE plpgsql",
    migrations("for purge_jobs: another now() and another jobs are in vain; without a fixed search_path they are not"),
  ),
  initial(
    "purge_jobs of 0001: no bound of its age",
    "IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN",
    "IF false THEN",
    migrations(
      "purge_jobs refuses a negative age and NULL; without its guard they would delete, or be silently ignored",
    ),
  ),
  initial(
    "purge_jobs of 0001: takes every age as 1 day less",
    "LEAST(p_older_than_days, 1000000)",
    "LEAST(p_older_than_days, 1000000) - 1",
    migrations("purge_jobs deletes what ended longer ago, 30 days by default, and returns how many; the rest stays"),
  ),
  initial(
    "purge_jobs: may be called by everybody",
    "`REVOKE EXECUTE ON FUNCTION purge_jobs(INT) FROM PUBLIC`",
    "`SELECT 1`",
    migrations("lets parametric_tenant purge, and nobody else; without it the call is refused"),
  ),
  initial(
    "apps: a tenant may write its own",
    "GRANT SELECT ON apps TO parametric_tenant",
    "GRANT SELECT, UPDATE ON apps TO parametric_tenant",
    migrations("lets parametric_tenant do what it needs and nothing else"),
    { breaks: "grant apps" },
  ),
  initial(
    "jobs: a tenant may truncate them",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO parametric_tenant, parametric_system",
    "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON jobs TO parametric_tenant, parametric_system",
    migrations("lets parametric_tenant do what it needs and nothing else"),
    { breaks: "grant jobs" },
  ),
  initial(
    "job_fence: a tenant may set it back",
    "GRANT USAGE ON SEQUENCE job_fence TO",
    "GRANT USAGE, UPDATE ON SEQUENCE job_fence TO",
    migrations("lets parametric_tenant draw from job_fence and not reset it; without it no job can be submitted"),
  ),
  initial(
    "job_fence: comes round again",
    "CREATE SEQUENCE job_fence AS bigint",
    "CREATE SEQUENCE job_fence AS bigint MAXVALUE 2 CYCLE",
    migrations(
      "never comes twice: not after a rollback, not after a delete; from a sequence that starts anew it would",
    ),
  ),
  initial(
    "apps_updated_at: does nothing",
    "BEFORE UPDATE ON apps FOR EACH ROW EXECUTE",
    "BEFORE UPDATE ON apps FOR EACH ROW WHEN (false) EXECUTE",
    migrations("keeps updated_at on every UPDATE of each of its tables, and without it updated_at stays"),
    { breaks: "trigger apps.apps_updated_at" },
  ),
  initial(
    "jobs_updated_at of 0001: does nothing",
    "BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE",
    "BEFORE UPDATE ON jobs FOR EACH ROW WHEN (false) EXECUTE",
    migrations("keeps updated_at on every UPDATE of each of its tables, and without it updated_at stays"),
  ),
  initial(
    "jobs: no primary key",
    "id uuid PRIMARY KEY DEFAULT uuidv7(),\n      app_id",
    "id uuid NOT NULL DEFAULT uuidv7(),\n      app_id",
    constraint("jobs_pkey"),
    {
      breaks: "constraint jobs.jobs_pkey",
    },
  ),
  initial(
    "jobs: an app that is not there",
    "app_id uuid NOT NULL REFERENCES apps (id) ON DELETE RESTRICT",
    "app_id uuid NOT NULL",
    constraint("jobs_app_id_fkey"),
    { breaks: "constraint jobs.jobs_app_id_fkey" },
  ),
  initial(
    "jobs: go with their app",
    "REFERENCES apps (id) ON DELETE RESTRICT",
    "REFERENCES apps (id) ON DELETE CASCADE",
    constraint("jobs_app_id_fkey"),
    { breaks: "constraint jobs.jobs_app_id_fkey" },
  ),
  initial(
    "apps: names that are alike",
    "CONSTRAINT apps_name_unique UNIQUE (name)",
    "CONSTRAINT apps_name_unique UNIQUE (name, id)",
    constraint("apps_name_unique"),
    {
      breaks: "constraint apps.apps_name_unique",
    },
  ),
  check(initial, "apps", "apps_name_not_blank", "CONSTRAINT apps_name_not_blank CHECK (btrim(name) <> '')"),
  check(
    initial,
    "jobs",
    "jobs_status_known",
    "CONSTRAINT jobs_status_known CHECK (status IN ('pending', 'processing', 'completed', 'dead', 'cancelled')),",
  ),
  check(
    initial,
    "jobs",
    "jobs_locked_while_processing",
    "CHECK ((status = 'processing') = (locked_by IS NOT NULL) AND (locked_by IS NULL) = (locked_until IS NULL)),",
  ),
  check(
    initial,
    "jobs",
    "jobs_ended_has_time",
    "CONSTRAINT jobs_ended_has_time CHECK ((status IN ('completed', 'dead', 'cancelled')) = (completed_at IS NOT NULL)),",
  ),
  check(
    initial,
    "jobs",
    "jobs_attempts_counted",
    "CONSTRAINT jobs_attempts_counted CHECK (attempts >= 0 AND replays >= 0),",
  ),
  check(
    initial,
    "jobs",
    "jobs_max_attempts_positive",
    "CONSTRAINT jobs_max_attempts_positive CHECK (max_attempts >= 1),",
  ),
  check(
    initial,
    "jobs",
    "jobs_error_history_array",
    "CONSTRAINT jobs_error_history_array CHECK (jsonb_typeof(error_history) = 'array')",
  ),
  initial(
    "jobs: a payload that is NULL",
    "payload jsonb NOT NULL",
    "payload jsonb",
    schemaTest("NOT NULL refuses a row without any column that it needs, and each such column is in this test's list"),
  ),
];

export const jobDlqList: ReadonlyArray<Mutation> = [
  jobDlq(
    "job_dlq: row-level security is not enabled",
    "`ALTER TABLE job_dlq ENABLE ROW LEVEL SECURITY`",
    "`SELECT 1`",
    migrations(`job_dlq_tenant ${tenantHeld}`),
    {
      breaks: "row security job_dlq",
    },
  ),
  jobDlq(
    "job_dlq: row-level security is not forced",
    "`ALTER TABLE job_dlq FORCE ROW LEVEL SECURITY`",
    "`SELECT 1`",
    migrations(`of job_dlq ${isForced}`),
    {
      breaks: "row security job_dlq",
    },
  ),
  jobDlq(
    "job_dlq_tenant: USING (true)",
    "USING (app_id = current_tenant())",
    "USING (true)",
    migrations(`job_dlq_tenant ${tenantHeld}`),
    {
      breaks: "policy job_dlq.job_dlq_tenant",
    },
  ),
  jobDlq(
    "job_dlq_tenant: WITH CHECK (true)",
    "WITH CHECK (app_id = current_tenant())",
    "WITH CHECK (true)",
    migrations(`job_dlq_tenant ${tenantHeld}`),
    {
      breaks: "policy job_dlq.job_dlq_tenant",
    },
  ),
  jobDlq(
    "job_dlq_system: for everybody",
    "TO parametric_system USING (true)",
    "TO PUBLIC USING (true)",
    migrations(`job_dlq_tenant ${tenantHeld}`),
    {
      breaks: "policy job_dlq.job_dlq_system",
    },
  ),
  jobDlq(
    "job_dlq_system: shows no row",
    "USING (true) WITH CHECK (true)",
    "USING (false) WITH CHECK (true)",
    migrations(`job_dlq_system ${systemHeld}`),
    {
      breaks: "policy job_dlq.job_dlq_system",
    },
  ),
  jobDlq(
    "job_dlq_system: lets no row in",
    "USING (true) WITH CHECK (true)",
    "USING (true) WITH CHECK (false)",
    migrations(`job_dlq_system ${systemHeld}`),
    {
      breaks: "policy job_dlq.job_dlq_system",
    },
  ),
  jobDlq(
    "job_dlq: no primary key",
    "id UUID PRIMARY KEY DEFAULT uuidv7()",
    "id UUID NOT NULL DEFAULT uuidv7()",
    constraint("job_dlq_pkey"),
    {
      breaks: "constraint job_dlq.job_dlq_pkey",
    },
  ),
  jobDlq(
    "job_dlq: an app that is not there",
    "app_id UUID NOT NULL REFERENCES apps (id) ON DELETE RESTRICT",
    "app_id UUID NOT NULL",
    constraint("job_dlq_app_id_fkey"),
    {
      breaks: "constraint job_dlq.job_dlq_app_id_fkey",
    },
  ),
  jobDlq(
    "job_dlq: letters go with their app",
    "ON DELETE RESTRICT",
    "ON DELETE CASCADE",
    constraint("job_dlq_app_id_fkey"),
    {
      breaks: "constraint job_dlq.job_dlq_app_id_fkey",
    },
  ),
  check(
    jobDlq,
    "job_dlq",
    "job_dlq_error_history_array",
    "CONSTRAINT job_dlq_error_history_array CHECK (jsonb_typeof(error_history) = 'array')",
  ),
  jobDlq(
    "job_dlq: attempts that are NULL",
    "attempts INTEGER NOT NULL",
    "attempts INTEGER",
    schemaTest("NOT NULL refuses a row without any column that it needs, and each such column is in this test's list"),
  ),
  jobDlq(
    "job_dlq_updated_at of 0002: does nothing",
    "FOR EACH ROW EXECUTE",
    "FOR EACH ROW WHEN (false) EXECUTE",
    migrations("keeps updated_at on every UPDATE of each of its tables, and without it updated_at stays"),
  ),
  jobDlq(
    "purge_job_dlq of 0002: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp",
    "LANGUAGE plpgsql",
    migrations(
      "for purge_job_dlq: another now() and another job_dlq are in vain; without a fixed search_path they are not",
    ),
  ),
  jobDlq(
    "purge_job_dlq of 0002: no bound of its age",
    "IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN",
    "IF false THEN",
    migrations(
      "purge_job_dlq refuses a negative age and NULL; without its guard they would delete, or be silently ignored",
    ),
  ),
  jobDlq(
    "purge_job_dlq of 0002: as its owner",
    "LANGUAGE plpgsql SET search_path",
    "LANGUAGE plpgsql SECURITY DEFINER SET search_path",
    migrations("purge_job_dlq obeys the caller's scope; as SECURITY DEFINER it would not"),
  ),
  jobDlq(
    "purge_job_dlq: may be called by everybody",
    "`REVOKE EXECUTE ON FUNCTION purge_job_dlq(INT) FROM PUBLIC`",
    "`SELECT 1`",
    migrations("lets parametric_system purge, and nobody else; without it the call is refused"),
  ),
  jobDlq(
    "job_dlq: a tenant may truncate it",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON job_dlq TO",
    "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON job_dlq TO",
    migrations("lets parametric_tenant do what it needs and nothing else"),
    { breaks: "grant job_dlq" },
  ),
];

const appendOnly = (what: string) => ledgerTest(`refuses ${what} to both roles and to a superuser`);

export const eventsList: ReadonlyArray<Mutation> = [
  events(
    "job_dlq_events: row-level security is not enabled",
    "`ALTER TABLE job_dlq_events ENABLE ROW LEVEL SECURITY`",
    "`SELECT 1`",
    schemaTest("job_dlq_events_tenant shows a tenant its own lines only"),
    {
      breaks: "row security job_dlq_events",
    },
  ),
  events(
    "job_dlq_events: row-level security is not forced",
    "`ALTER TABLE job_dlq_events FORCE ROW LEVEL SECURITY`",
    "`SELECT 1`",
    schemaTest("of job_dlq_events is forced"),
    {
      breaks: "row security job_dlq_events",
    },
  ),
  events(
    "job_dlq_events_tenant: USING (true)",
    "USING (app_id = current_tenant())",
    "USING (true)",
    schemaTest("job_dlq_events_tenant shows a tenant its own lines only"),
    {
      breaks: "policy job_dlq_events.job_dlq_events_tenant",
    },
  ),
  events(
    "job_dlq_events_tenant: WITH CHECK (true)",
    "WITH CHECK (app_id = current_tenant())",
    "WITH CHECK (true)",
    schemaTest("job_dlq_events_tenant shows a tenant its own lines only"),
    {
      breaks: "policy job_dlq_events.job_dlq_events_tenant",
    },
  ),
  events(
    "job_dlq_events_system: for everybody",
    "ON job_dlq_events TO parametric_system USING",
    "ON job_dlq_events TO PUBLIC USING",
    schemaTest("job_dlq_events_tenant shows a tenant its own lines only"),
    {
      breaks: "policy job_dlq_events.job_dlq_events_system",
    },
  ),
  events(
    "job_dlq_events_system: shows no line",
    "USING (true) WITH CHECK (true)",
    "USING (false) WITH CHECK (true)",
    schemaTest("job_dlq_events_system shows the system scope every line"),
    {
      breaks: "policy job_dlq_events.job_dlq_events_system",
    },
  ),
  events(
    "job_dlq_events_system: lets no line in",
    "USING (true) WITH CHECK (true)",
    "USING (true) WITH CHECK (false)",
    schemaTest("job_dlq_events_system shows the system scope every line"),
    {
      breaks: "policy job_dlq_events.job_dlq_events_system",
    },
  ),
  events(
    "job_dlq_events: no primary key",
    "id uuid PRIMARY KEY DEFAULT uuidv7()",
    "id uuid NOT NULL DEFAULT uuidv7()",
    schemaTest("job_dlq_events_pkey refuses"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_pkey",
    },
  ),
  events(
    "job_dlq_events: a kind that is unknown",
    "kind IN ('replayed', 'discarded', 'restored', 'erased', 'purged', 'expired', 'imported', 'viewed'))",
    "true)",
    ledgerTest("refuses a kind that is unknown"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_kind_known",
    },
  ),
  events(
    "job_dlq_events: an actor that is blank",
    "CHECK (btrim(actor) <> '')",
    "CHECK (true)",
    ledgerTest("refuses an actor that is blank"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_actor_not_blank",
    },
  ),
  events(
    "job_dlq_events: a line without its letter",
    "CHECK ((kind = 'purged') = (dlq_id IS NULL) AND (dlq_id IS NULL) = (original_job_id IS NULL))",
    "CHECK (true)",
    ledgerTest("refuses a replay without its letter"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_names_letter",
    },
  ),
  events(
    "job_dlq_events: a restore that undoes nothing",
    "CHECK ((kind = 'restored') = (undoes IS NOT NULL))",
    "CHECK (true)",
    ledgerTest("refuses a restore that undoes nothing"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_restored_undoes",
    },
  ),
  events(
    "job_dlq_events: an entry of a letter that did not leave",
    "CHECK (entry IS NULL OR kind IN ('discarded', 'expired'))",
    "CHECK (true)",
    ledgerTest("refuses an entry of a letter that did not leave"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_entry_of_removal",
    },
  ),
  events(
    "job_dlq_events: an event is undone twice",
    "CREATE UNIQUE INDEX idx_job_dlq_events_undoes",
    "CREATE INDEX idx_job_dlq_events_undoes",
    schemaTest("idx_job_dlq_events_undoes refuses, and without it the same is accepted"),
    {
      breaks: "index idx_job_dlq_events_undoes",
    },
  ),
  events(
    "job_dlq_events_append_only: not on UPDATE",
    "BEFORE UPDATE OR DELETE ON job_dlq_events",
    "BEFORE DELETE ON job_dlq_events",
    appendOnly("another actor"),
    {
      breaks: "trigger job_dlq_events.job_dlq_events_append_only",
    },
  ),
  events(
    "job_dlq_events_append_only: not on DELETE",
    "BEFORE UPDATE OR DELETE ON job_dlq_events",
    "BEFORE UPDATE ON job_dlq_events",
    appendOnly("a deletion"),
    {
      breaks: "trigger job_dlq_events.job_dlq_events_append_only",
    },
  ),
  events(
    "job_dlq_events_no_truncate: on nothing",
    "BEFORE TRUNCATE ON job_dlq_events\n    FOR EACH STATEMENT",
    "BEFORE INSERT ON job_dlq_events\n    FOR EACH STATEMENT WHEN (false)",
    appendOnly("a truncation"),
    {
      breaks: "trigger job_dlq_events.job_dlq_events_no_truncate",
    },
  ),
  events(
    "append-only: another entry",
    "(NEW.entry IS NULL OR NEW.entry IS NOT DISTINCT FROM OLD.entry)",
    "true",
    appendOnly("another entry"),
    { breaks: "function job_dlq_events_append_only" },
  ),
  events(
    "append-only: another detail",
    "AND (NEW.detail IS NULL OR NEW.detail IS NOT DISTINCT FROM OLD.detail)",
    "",
    appendOnly("a detail where none was"),
  ),
  events(
    "append-only: another actor",
    "(NEW.id, NEW.app_id, NEW.kind, NEW.actor, NEW.at) IS NOT DISTINCT FROM (OLD.id, OLD.app_id, OLD.kind, OLD.actor, OLD.at)",
    "(NEW.id, NEW.app_id, NEW.kind, NEW.at) IS NOT DISTINCT FROM (OLD.id, OLD.app_id, OLD.kind, OLD.at)",
    appendOnly("another actor"),
  ),
  events(
    "append-only: another time",
    "(NEW.id, NEW.app_id, NEW.kind, NEW.actor, NEW.at) IS NOT DISTINCT FROM (OLD.id, OLD.app_id, OLD.kind, OLD.actor, OLD.at)",
    "(NEW.id, NEW.app_id, NEW.kind, NEW.actor) IS NOT DISTINCT FROM (OLD.id, OLD.app_id, OLD.kind, OLD.actor)",
    appendOnly("another time"),
  ),
  events(
    "append-only: another tenant",
    "(NEW.id, NEW.app_id, NEW.kind, NEW.actor, NEW.at) IS NOT DISTINCT FROM (OLD.id, OLD.app_id, OLD.kind, OLD.actor, OLD.at)",
    "(NEW.id, NEW.kind, NEW.actor, NEW.at) IS NOT DISTINCT FROM (OLD.id, OLD.kind, OLD.actor, OLD.at)",
    appendOnly("another tenant"),
  ),
  events(
    "append-only: another reason",
    "(NEW.dlq_id, NEW.original_job_id, NEW.reason, NEW.undoes)\n            IS NOT DISTINCT FROM (OLD.dlq_id, OLD.original_job_id, OLD.reason, OLD.undoes)",
    "true",
    appendOnly("another reason"),
  ),
  events(
    "append-only: any role deletes what is old",
    "CURRENT_USER = 'parametric_system' AND ",
    "",
    ledgerTest("and parametric_system may delete what is past the retention age that it declares"),
  ),
  events(
    "append-only: the receipt of an erasure may go",
    "OLD.kind <> 'erased' AND ",
    "",
    ledgerTest("and the receipt of an erasure stays at any age"),
  ),
  events(
    "append-only: a negative age",
    "AND retention_days::int >= 0\n",
    "AND retention_days IS NOT NULL\n",
    ledgerTest("and no age below 0 makes what was written just now past it"),
  ),
  events(
    "append-only: deletes what is not old enough",
    "AND OLD.at < now() - make_interval(days => retention_days::int)",
    "",
    ledgerTest("and parametric_system may delete what is past the retention age that it declares"),
  ),
  events(
    "job_dlq_events_append_only: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp",
    "LANGUAGE plpgsql",
    schemaTest("for job_dlq_events_append_only"),
    {
      breaks: "function job_dlq_events_append_only",
    },
  ),
  events(
    "job_dlq_json_diff: no fixed search_path",
    "LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, pg_temp",
    "LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE",
    schemaTest("for job_dlq_json_diff"),
    {
      breaks: "function job_dlq_json_diff",
    },
  ),
  events(
    "purge_jobs: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp",
    "LANGUAGE plpgsql",
    schemaTest("for purge_jobs"),
    {
      place: 1,
      breaks: "function purge_jobs",
    },
  ),
  events(
    "job_dlq_events: a tenant may change the whole line, but for the trigger",
    "GRANT SELECT, INSERT, UPDATE (entry, detail) ON job_dlq_events",
    "GRANT SELECT, INSERT, UPDATE ON job_dlq_events",
    schemaTest("job_dlq_events: without the triggers the grants still hold"),
    {
      breaks: "grant job_dlq_events",
    },
  ),
  events(
    "job_dlq_events: a tenant may delete lines, but for the trigger",
    "GRANT DELETE ON job_dlq_events TO parametric_system",
    "GRANT DELETE ON job_dlq_events TO parametric_system, parametric_tenant",
    schemaTest("job_dlq_events: without the triggers the grants still hold"),
    {
      breaks: "grant job_dlq_events",
    },
  ),
  events(
    "job_dlq_json_diff: nested without end",
    "OR p_depth >= 100 THEN",
    "THEN",
    replayTest("writes the difference of large and of deep payloads, bounded"),
  ),
  events(
    "purge_jobs: does not lock in the order of ids",
    "ORDER BY id\n        FOR UPDATE)",
    "ORDER BY id DESC\n        FOR UPDATE)",
    racesTest("a replay and a purge of jobs, the replay by place"),
  ),
  events(
    "purge_jobs: no bound of its age",
    "IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN",
    "IF false THEN",
    schemaTest("purge_jobs refuses a negative age and NULL"),
    { place: 1 },
  ),
];

export const laterList: ReadonlyArray<Mutation> = [
  serving(
    "job_dlq_notify: on nothing",
    "FOR EACH STATEMENT EXECUTE FUNCTION job_dlq_notify()",
    "FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION job_dlq_notify()",
    changesTest("is one for each statement and tenant, and names the tenant by its hash"),
    {
      breaks: "trigger job_dlq.job_dlq_notify",
    },
  ),
  serving(
    "job_dlq_notify: names the tenant",
    "md5(app_id::text)",
    "app_id::text",
    changesTest("is one for each statement and tenant, and names the tenant by its hash"),
    {
      breaks: "function job_dlq_notify",
    },
  ),
  serving(
    "job_dlq_notify: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp",
    "LANGUAGE plpgsql",
    schemaTest("for job_dlq_notify"),
    {
      breaks: "function job_dlq_notify",
    },
  ),
  serving(
    "fingerprint: of the type and the error only",
    "md5(p_type || E'\\\\n' || p_reason || E'\\\\n'",
    "md5(p_type || E'\\\\n'",
    insightTest("are of any letters what plain grouping gives, by tenant and over all, in one statement"),
    {
      breaks: "function job_dlq_fingerprint",
    },
  ),
  receipts(
    "job_dlq_events: a line without an app that is no receipt",
    "CHECK (app_id IS NOT NULL OR kind = 'purged')",
    "CHECK (true)",
    retentionTest("the ledger refuses a line without an app that is no receipt"),
    {
      breaks: "constraint job_dlq_events.job_dlq_events_names_app",
    },
  ),
  workers(
    "jobs: a dedupe key that is blank",
    "CHECK (btrim(dedupe_key) <> '')",
    "CHECK (true)",
    schemaTest("jobs_dedupe_key_not_blank refuses"),
    {
      breaks: "constraint jobs.jobs_dedupe_key_not_blank",
    },
  ),
  workers(
    "jobs_updated_at: does nothing",
    "WHEN (NEW.updated_at IS DISTINCT FROM now())",
    "WHEN (false)",
    schemaTest("jobs_updated_at keeps updated_at"),
    {
      breaks: "trigger jobs.jobs_updated_at",
    },
  ),
  workers(
    "jobs: two unfinished jobs of one key",
    "CREATE UNIQUE INDEX idx_jobs_dedupe ON jobs (app_id, type, dedupe_key)",
    "CREATE UNIQUE INDEX idx_jobs_dedupe ON jobs (app_id, type, dedupe_key, id)",
    schemaTest("idx_jobs_dedupe refuses"),
    {
      breaks: "index idx_jobs_dedupe",
    },
  ),
  workers(
    "jobs: a key is held by a job that has ended",
    "WHERE dedupe_key IS NOT NULL AND status IN ('pending', 'processing')",
    "WHERE dedupe_key IS NOT NULL AND status IN ('pending', 'processing', 'completed')",
    schemaTest("idx_jobs_dedupe lets a key be taken again, by another type, by another app, and by none"),
  ),
  workers(
    "jobs_notify: on nothing",
    "FOR EACH STATEMENT EXECUTE FUNCTION jobs_notify()",
    "FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION jobs_notify()",
    schemaTest("jobs_notify tells"),
    {
      breaks: "trigger jobs.jobs_notify",
    },
  ),
  workers(
    "jobs_notify: wakes runners for jobs that are not due",
    "AND scheduled_at <= now());",
    ");",
    schemaTest("jobs_notify tells"),
    {
      breaks: "function jobs_notify",
    },
  ),
  workers(
    "jobs_notify: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp",
    "LANGUAGE plpgsql",
    schemaTest("for jobs_notify"),
    {
      breaks: "function jobs_notify",
    },
  ),
  workers(
    "partition: of another byte than the runners'",
    "get_byte(uuid_send(id), 15) % 32",
    "get_byte(uuid_send(id), 14) % 32",
    schemaTest("a job's partition is the one that the runners take it for"),
  ),
  workers(
    "job_runners: no primary key",
    "address text PRIMARY KEY",
    "address text NOT NULL",
    schemaTest("job_runners_pkey refuses"),
    {
      breaks: "constraint job_runners.job_runners_pkey",
    },
  ),
  workers(
    "job_shards: no primary key",
    "shard_id text PRIMARY KEY",
    "shard_id text NOT NULL",
    schemaTest("job_shards_pkey refuses"),
    {
      breaks: "constraint job_shards.job_shards_pkey",
    },
  ),
  workers(
    "job_runners, job_shards: a tenant may write them",
    "ON job_runners, job_shards TO parametric_system",
    "ON job_runners, job_shards TO parametric_system, parametric_tenant",
    schemaTest("job_runners and job_shards are closed to tenants"),
    {
      breaks: "grant job_runners",
    },
  ),
  less(
    "job_dlq_updated_at: does nothing",
    "WHEN (NEW.updated_at IS DISTINCT FROM now())",
    "WHEN (false)",
    schemaTest("job_dlq_updated_at keeps updated_at"),
    {
      breaks: "trigger job_dlq.job_dlq_updated_at",
    },
  ),
  less(
    "purge_job_dlq: no fixed search_path",
    "LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp",
    "LANGUAGE plpgsql",
    schemaTest("for purge_job_dlq"),
    {
      breaks: "function purge_job_dlq",
    },
  ),
  less(
    "purge_job_dlq: no bound of its age",
    "IF p_older_than_days IS NULL OR p_older_than_days < 0 THEN",
    "IF false THEN",
    dlqTest("says in SQL as well what it refuses, for whatever an integer can be"),
  ),
  less(
    "purge_job_dlq: takes what is pending",
    "DELETE FROM job_dlq WHERE replayed_at < until RETURNING",
    "DELETE FROM job_dlq WHERE replayed_at < until OR replayed_at IS NULL RETURNING",
    dlqTest("deletes what was replayed longer ago than that, in its own scope, and nothing pending"),
  ),
  less(
    "purge_job_dlq: leaves no receipt",
    "FROM counted GROUP BY app_id)\n",
    "FROM counted WHERE false GROUP BY app_id)\n",
    retentionTest("purge leaves a receipt that names its actor, or the login"),
  ),
  less(
    "purge_job_dlq: waits for who holds a letter",
    "'5ms', true",
    "'0', true",
    racesTest("a purge of replayed letters and an erasure of them, the purge by place"),
  ),
  less(
    "purge_job_dlq: as its owner",
    "LANGUAGE plpgsql SET search_path",
    "LANGUAGE plpgsql SECURITY DEFINER SET search_path",
    dlqTest("deletes what was replayed longer ago than that, in its own scope, and nothing pending"),
  ),
];
