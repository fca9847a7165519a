// biome-ignore-all lint/suspicious/noTemplateCurlyInString: these are texts of sources.
/** What the database package holds: scopes and transactions, claims and settlements, inputs, cursors, the migrator. */
import { inFile, type Mutation, testsOf } from "../mutation.js";

const settlement = testsOf("database/test/settlement.test.ts");
const jobs = testsOf("database/test/jobs.test.ts");
const rescue = testsOf("database/test/rescue.test.ts");
const letters = testsOf("database/test/job-dlq.test.ts");
const paging = testsOf("database/test/paging.test.ts");
const scopes = testsOf("database/test/scopes.test.ts");
const isolation = testsOf("database/test/job-dlq/isolation.test.ts");
const client = testsOf("database/test/client.test.ts");
const each = testsOf("database/test/tenant-each.test.ts");
const trip = testsOf("database/test/round-trip.test.ts");
const migrator = testsOf("database/test/migrator.test.ts");
const portal = testsOf("database/test/portal-db.test.ts");
const factory = testsOf("database/test/factory.test.ts");
const cursors = testsOf("database/test/cursor.test.ts");
const texts = testsOf("database/test/error-text.test.ts");
const json = testsOf("database/test/json.test.ts");
const sqlState = testsOf("database/test/sql-state.test.ts");
const refusals = testsOf("database/test/refusal.test.ts");
const discard = testsOf("database/test/job-dlq/discard.test.ts");

// --- jobs and plain dead letters ---------------------------------------------

const repos = inFile("packages/database/src/repos.ts");
const fenceOf = "WHERE id = ${id} AND fence = ${String(fence)}::bigint AND status = 'processing'";
const fenceOfRetry =
  "WHERE id = ${id} AND fence = ${String(options.fence)}::bigint AND status = 'processing' AND attempts < max_attempts";

export const reposList: ReadonlyArray<Mutation> = [
  repos(
    "complete: whatever the fence",
    fenceOf,
    "WHERE id = ${id} AND status = 'processing'",
    settlement("complete is refused with a wrong fence, an old one, and one that is no bigint of the database's"),
  ),
  repos(
    "complete: whatever the state",
    fenceOf,
    "WHERE id = ${id} AND fence = ${String(fence)}::bigint",
    settlement("complete is refused of a job that is"),
  ),
  repos(
    "retry: whatever the fence",
    fenceOfRetry,
    "WHERE id = ${id} AND status = 'processing' AND attempts < max_attempts",
    settlement("retry is refused with a wrong fence, an old one, and one that is no bigint of the database's"),
  ),
  repos(
    "retry: whatever the state",
    fenceOfRetry,
    "WHERE id = ${id} AND fence = ${String(options.fence)}::bigint AND attempts < max_attempts",
    settlement("retry is refused of a job that is"),
  ),
  repos(
    "retry: more often than max_attempts",
    fenceOfRetry,
    "WHERE id = ${id} AND fence = ${String(options.fence)}::bigint AND status = 'processing'",
    settlement("retry says when the attempts ran out, and changes nothing then"),
  ),
  repos(
    "deadLetter: whatever the fence",
    "sql`status = 'processing' AND fence = ${String(options.fence)}::bigint`",
    "sql`status = 'processing'`",
    settlement("deadLetter is refused with a wrong fence, an old one, and one that is no bigint of the database's"),
  ),
  repos(
    "deadLetter: a job that has ended",
    "sql`status IN ('pending', 'processing')`",
    "sql`true`",
    settlement("deadLetter without a fence takes a job that waits or runs, and no other"),
  ),
  repos(
    "deadLetter: the job goes on",
    "SET status = 'dead', completed_at = now(), locked_by = NULL, locked_until = NULL,\n            error_history",
    "SET error_history",
    settlement("deadLetter makes the job dead and its letter, with all that is known of it"),
  ),
  repos(
    "deadLetter: a reason that there is not",
    "S.is(JobDlqReason)(reason)\n",
    "true\n",
    settlement("deadLetter refuses a reason that there is not, before it asks"),
  ),
  repos(
    "claim: jobs that are not due",
    "WHERE status = 'pending' AND scheduled_at <= now() ${ofType}",
    "WHERE status = 'pending' ${ofType}",
    jobs("takes due jobs by priority, then by time, then by id, up to the limit"),
  ),
  repos(
    "claim: jobs that run",
    "WHERE status = 'pending' AND scheduled_at <= now() ${ofType}\n          ORDER BY priority, scheduled_at, id\n          LIMIT ${limit}\n          FOR UPDATE SKIP LOCKED),\n        claimed AS (\n          UPDATE jobs j\n          SET status = 'processing', attempts = j.attempts + 1, started_at = now(), locked_by = ${options.runner},\n            locked_until = now() + ${lease}::float8 * interval '1 millisecond', fence = nextval('job_fence')\n          FROM due\n          WHERE j.id = due.id AND j.status = 'pending'",
    "WHERE status IN ('pending', 'processing') AND scheduled_at <= now() ${ofType}\n          ORDER BY priority, scheduled_at, id\n          LIMIT ${limit}\n          FOR UPDATE SKIP LOCKED),\n        claimed AS (\n          UPDATE jobs j\n          SET status = 'processing', attempts = j.attempts + 1, started_at = now(), locked_by = ${options.runner},\n            locked_until = now() + ${lease}::float8 * interval '1 millisecond', fence = nextval('job_fence')\n          FROM due\n          WHERE j.id = due.id",
    jobs("takes due jobs by priority, then by time, then by id, up to the limit"),
  ),
  repos(
    "claim: in no order",
    "ORDER BY priority, scheduled_at, id\n          LIMIT",
    "ORDER BY id DESC\n          LIMIT",
    jobs("takes due jobs by priority, then by time, then by id, up to the limit"),
  ),
  repos(
    "claim: waits for other claims",
    "LIMIT ${limit}\n          FOR UPDATE SKIP LOCKED),\n        claimed",
    "LIMIT ${limit}\n          FOR UPDATE),\n        claimed",
    jobs("never gives one job to two of eight claimers at once, and none of them waits"),
  ),
  repos(
    "claim: without a lock",
    "LIMIT ${limit}\n          FOR UPDATE SKIP LOCKED),\n        claimed",
    "LIMIT ${limit}),\n        claimed",
    jobs("never gives one job to two of eight claimers at once, and none of them waits"),
  ),
  repos(
    "claim: the fence of before",
    "* interval '1 millisecond', fence = nextval('job_fence')\n          FROM due",
    "* interval '1 millisecond'\n          FROM due",
    jobs("gives each job to its runner: processing, one more attempt, a new fence, a lease from now"),
  ),
  repos(
    "claim: counts no attempt",
    "SET status = 'processing', attempts = j.attempts + 1,",
    "SET status = 'processing',",
    jobs("gives each job to its runner: processing, one more attempt, a new fence, a lease from now"),
  ),
  repos(
    "claim: of every type",
    "sql`AND type = ANY (${options.types}::text[])`",
    "sql``",
    jobs("takes only the types that are asked for, and none of none"),
  ),
  repos(
    "claim: a runner without a name",
    'if (options.runner.trim() === "")',
    "if (false)",
    jobs("refuses limits, leases and runners that are none"),
  ),
  repos(
    "rescue: runs whose lease goes on",
    "WHERE status = 'processing' AND locked_until < now()\n",
    "WHERE status = 'processing'\n",
    rescue("leaves alone whatever runs, waits or has ended, and other tenants' jobs"),
  ),
  repos(
    "rescue: waits for other rescuers",
    "ORDER BY locked_until, id\n          LIMIT ${limit}\n          FOR UPDATE SKIP LOCKED",
    "ORDER BY locked_until, id\n          LIMIT ${limit}\n          FOR UPDATE",
    rescue("counts each job once among eight rescuers at once, and none of them waits"),
  ),
  repos(
    "rescue: in no order",
    "ORDER BY locked_until, id\n",
    "ORDER BY locked_until DESC, id\n",
    rescue("takes the longest lost first, up to the limit"),
  ),
  repos(
    "rescue: the lost runner's fence holds",
    "locked_by = NULL, locked_until = NULL, fence = nextval('job_fence'),\n            error_history",
    "locked_by = NULL, locked_until = NULL,\n            error_history",
    rescue("sends jobs of lost runners back, or dead-letters those on their last attempt, and says how many"),
  ),
  repos(
    "rescue: without end",
    "SET status = CASE WHEN j.in_company OR j.attempts < j.max_attempts THEN 'pending' ELSE 'dead' END,\n            completed_at = CASE WHEN j.in_company OR j.attempts < j.max_attempts THEN NULL ELSE now() END,",
    "SET status = 'pending',",
    rescue("sends jobs of lost runners back, or dead-letters those on their last attempt, and says how many"),
  ),
  repos(
    "rescue: no letter of those on their last attempt",
    "FROM ended WHERE status = 'dead')",
    "FROM ended WHERE false)",
    rescue("sends jobs of lost runners back, or dead-letters those on their last attempt, and says how many"),
  ),
  repos(
    "rescue: blames a job that ran in company",
    "SET status = CASE WHEN j.in_company OR j.attempts < j.max_attempts THEN 'pending' ELSE 'dead' END,\n            completed_at = CASE WHEN j.in_company OR j.attempts < j.max_attempts THEN NULL ELSE now() END,\n            attempts = CASE WHEN j.in_company THEN LEAST(j.attempts, j.max_attempts - 1) ELSE j.attempts END,\n            suspect = j.in_company OR j.attempts < j.max_attempts, in_company = false,",
    "SET status = CASE WHEN j.attempts < j.max_attempts THEN 'pending' ELSE 'dead' END,\n            completed_at = CASE WHEN j.attempts < j.max_attempts THEN NULL ELSE now() END,\n            suspect = j.attempts < j.max_attempts, in_company = false,",
    testsOf("jobs/test/conformance.test.ts")(
      "jobs whose runner vanished run alone, and only the one that is there again is blamed",
    ),
  ),
  repos(
    "the error history grows without bound",
    "CASE WHEN jsonb_array_length(error_history) >= ${maxHistory}::int THEN error_history - ${historyHead}::int ELSE error_history END",
    "error_history",
    settlement("keeps the first and the newest entries of a long one, and the true number of attempts beside it"),
  ),
  repos(
    "rescue: the error history grows without bound",
    "CASE WHEN jsonb_array_length(j.error_history) >= ${maxHistory}::int THEN j.error_history - ${historyHead}::int ELSE j.error_history END",
    "j.error_history",
    settlement("is bounded too when it is the rescue that writes"),
  ),
  repos(
    "enqueue: a type that is blank",
    '({ type }) => typeof type !== "string" || type.trim() !== "",',
    "() => true,",
    jobs("refuse a type that is blank, and name it"),
  ),
  repos(
    "insertMany: several statements are not one transaction",
    "chunks.length > 1 ? withTransaction(sql)(all) : all",
    "all",
    jobs("enqueueMany stores all or none, also over several statements"),
  ),
  repos(
    "insert: error texts as they are",
    'errorHistory: boundHistory(entry.errorHistory).map((attempt) =>\n            typeof attempt?.error === "string" ? { ...attempt, error: boundText(attempt.error) } : attempt,\n          ),',
    "errorHistory: entry.errorHistory,",
    letters("10 MB"),
  ),
  repos(
    "insert: a type that is blank",
    'if (typeof type === "string" && type.trim() === "") {',
    "if (false) {",
    letters("insert: a blank type"),
  ),
  repos(
    "insert: attempts below 0",
    'typeof attempts === "number" && Number.isInteger(attempts) && attempts >= 0 &&',
    'typeof attempts === "number" && Number.isInteger(attempts) &&',
    letters("insert: attempts below zero"),
  ),
  repos(
    "markReplayed: what was replayed before",
    "UPDATE job_dlq SET replayed_at = now() WHERE id = ${id} AND replayed_at IS NULL RETURNING *",
    "UPDATE job_dlq SET replayed_at = now() WHERE id = ${id} RETURNING *",
    letters("marks once; the second call says when it was"),
  ),
  repos(
    "markReplayed: no line in the ledger",
    "${replayedElsewhere} FROM marked)",
    "${replayedElsewhere} FROM marked WHERE false)",
    letters("leaves a line in the ledger that names its actor, or the login"),
  ),
  repos(
    "listPending: what is not pending",
    "sql`d.replayed_at IS NULL ${type",
    "sql`true ${type",
    paging("list what is pending, newest first, of one type or of all, within the tenant"),
  ),
  repos(
    "listPending: of every type",
    'sql`AND d.type COLLATE "C" = ${type}`',
    "sql``",
    paging("list what is pending, newest first, of one type or of all, within the tenant"),
  ),
];

// --- scopes and transactions -------------------------------------------------

const transaction = inFile("packages/database/src/transaction.ts");

export const transactionList: ReadonlyArray<Mutation> = [
  transaction(
    "a tenant's scope is the system's",
    "SET LOCAL ROLE parametric_tenant; SET",
    "SET LOCAL ROLE parametric_system; SET",
    scopes("neither sees nor changes another tenant's rows, by any method"),
  ),
  transaction(
    "a scope that is none is the system's",
    'if (scope?._tag !== "tenant" && scope?._tag !== "system") return Effect.fail(noScope);',
    "",
    isolation("a scope that is none is refused, and is not the system's"),
  ),
  transaction(
    "a tenant's scope does not say whose",
    "; SET LOCAL app.current_tenant = '${id}'`",
    "`",
    scopes("neither sees nor changes another tenant's rows, by any method"),
  ),
  transaction(
    "a scope outlives its transaction",
    "`; SET LOCAL ROLE parametric_tenant; SET LOCAL app.current_tenant",
    "`; SET ROLE parametric_tenant; SET app.current_tenant",
    client("ends with its transaction, whichever way that ends, on the very connection"),
  ),
  transaction(
    "a tenant whose id is no uuid",
    "if (!isUuid(appId)) return undefined;",
    "",
    scopes("is a uuid, or the scope does not open"),
  ),
  transaction(
    "a scope inside another one",
    "if (show(current.value) !== show(scope)) {",
    "if (false) {",
    scopes("is refused when it is any other, and the outer one goes on"),
  ),
  transaction(
    "a scope inside a transaction keeps its role when it ends",
    'if (around.settings === "") return Effect.void;\n          const',
    "return Effect.void;\n          const",
    scopes("gives the role and the tenant back before its savepoint is released, whichever way it ends"),
  ),
  transaction(
    "nested transactions side by side",
    "yield* restore(parentGate.enter);\n      return yield* Effect.ensuring(run, parentGate.leave);",
    "return yield* run;",
    scopes("runs nested transactions one after the other: none loses what another rolled back"),
  ),
  transaction(
    "nested transactions side by side, in another client's",
    "onNone: () => foreignGate(connection),",
    "onNone: () => new Gate(),",
    scopes("serialises under a transaction that another client's withTransaction opened"),
  ),
  transaction(
    "a fiber that outlives its transaction goes on in it",
    "yield* connection.close;\n        return yield* end",
    "return yield* end",
    scopes("is closed to a fiber that outlives it, beside another tenant's and later"),
  ),
  transaction(
    "half of a transaction is committed",
    "if (yield* gate.isTaken) {",
    "if (false) {",
    scopes("is rolled back when it ends while a transaction inside it is open in another fiber"),
  ),
  transaction(
    "a commit that was a rollback passes for success",
    "    Committed,\n",
    "    () => true,\n",
    scopes("fails when a statement's error was swallowed: the server made the commit a rollback"),
  ),
  transaction(
    "what failed is committed",
    "if (Exit.isFailure(exit)) {\n      yield* rollBack(own);",
    "if (Exit.isFailure(exit)) {\n      yield* commit(own);",
    scopes("rolls back when it fails, and when it is interrupted"),
  ),
  transaction(
    "a nested transaction that failed is kept",
    "`ROLLBACK TO SAVEPOINT ${name}; RELEASE SAVEPOINT ${name}`",
    "`RELEASE SAVEPOINT ${name}`",
    scopes("runs nested transactions one after the other: none loses what another rolled back"),
  ),
  transaction(
    "refused settings leave the caller's transaction aborted",
    ").pipe(Effect.tapError(() => rollBack));\n        const exit",
    ");\n        const exit",
    client("when it is refused leaves the connection, and the caller's own transaction, as they were"),
  ),
  transaction(
    "tenantEach: each statement is the system's",
    "set_config('role', 'parametric_tenant', true), set_config('app.current_tenant', '${tenantAround",
    "set_config('role', 'parametric_system', true), set_config('app.current_tenant', '${tenantAround",
    each("and leaves nothing on the connection, whichever way the statement ends"),
  ),
  transaction(
    "tenantEach: leaves its tenant on the connection",
    "set_config('role', 'parametric_tenant', true), set_config('app.current_tenant', '${tenantAround.scope.appId}', true)",
    "set_config('role', 'parametric_tenant', false), set_config('app.current_tenant', '${tenantAround.scope.appId}', false)",
    each("and leaves nothing on the connection, whichever way the statement ends"),
  ),
];

const clientFile = inFile("packages/database/src/client.ts");

export const clientList: ReadonlyArray<Mutation> = [
  clientFile(
    "jsonb is parsed by the driver",
    "oid === JSON_OID || oid === JSONB_OID ? asText",
    "oid === JSON_OID ? asText",
    trip("through insert, insertMany, enqueue, enqueueMany, dead-lettering and replay"),
  ),
  clientFile(
    "the driver's withTransaction",
    ".pipe(Effect.map((client) => Object.assign(client, { withTransaction: withTransaction(client) })))",
    "",
    scopes("runs nested transactions one after the other: none loses what another rolled back"),
  ),
  clientFile(
    "verify-full verifies nothing",
    'case "verify-full":\n      return Either.right(true);',
    'case "verify-full":\n      return Either.right({ rejectUnauthorized: false });',
    client("is what PGSSLMODE, the URL and the options say, on a server that has it"),
  ),
  clientFile(
    "PGSSLMODE that the driver cannot is ignored",
    "default:\n      return Either.left(",
    "default:\n      if (mode !== undefined) return Either.right(false);\n      return Either.left(",
    client("refuses the PGSSLMODE"),
  ),
];

// --- rows, texts, places -----------------------------------------------------

const factoryFile = inFile("packages/database/src/factory.ts");
const argumentsFile = inFile("packages/database/src/arguments.ts");
const cursor = inFile("packages/database/src/cursor.ts");
const place = inFile("packages/database/src/job-dlq/place.ts");
const page = inFile("packages/database/src/job-dlq/page.ts");
const errorText = inFile("packages/database/src/error-text.ts");
const jsonFile = inFile("packages/database/src/json.ts");
const sqlStateFile = inFile("packages/database/src/sql-state.ts");
const refusal = inFile("packages/database/src/refusal.ts");
const rows = inFile("packages/database/src/rows.ts");
const refusedJson = (path: string) => json(path);

export const inputList: ReadonlyArray<Mutation> = [
  factoryFile(
    "find: a limit of 0",
    "limit >= 1 && limit <= 1000",
    "limit >= 0 && limit <= 1000",
    factory("return at most the limit, 100 when none is given"),
  ),
  factoryFile(
    "find: a limit beyond 1,000",
    "limit >= 1 && limit <= 1000",
    "limit >= 1 && limit <= 1001",
    factory("return at most the limit, 100 when none is given"),
  ),
  factoryFile(
    "set: an empty predicate",
    "if (!Arr.isNonEmptyReadonlyArray(conditions)) {",
    "if (false) {",
    factory("refuses a predicate that is empty, in whatever way, and an empty patch"),
  ),
  factoryFile(
    "set: a condition that is undefined",
    "if (value === undefined) {",
    "if (value === undefined && false) {",
    factory("refuses a predicate that is empty, in whatever way, and an empty patch"),
  ),
  factoryFile(
    "set: what never changes",
    "if (!changeable.has(key)) {",
    "if (false) {",
    factory("refuses what never changes, and leaves undefined out of a patch"),
  ),
  factoryFile(
    "an order by what is no column",
    'if (columns[name] === undefined || (direction !== "asc" && direction !== "desc")) {',
    "if (false) {",
    factory("an unknown column is refused by name, in predicates, orders and patches"),
  ),
  argumentsFile(
    "an actor that is blank",
    'if (typeof value !== "string" || value.trim() === "") {',
    "if (false) {",
    discard("refuses a discard without actor, reason or condition, and unknown ids are told apart"),
  ),
  argumentsFile(
    "an id that is no uuid",
    "isUuid(value)\n",
    "true\n",
    testsOf("database/test/replay.test.ts")("refuses what is no uuid, and says which"),
  ),
  argumentsFile(
    "more than 10,000 ids",
    "if (ids.length > 10_000) {",
    "if (false) {",
    testsOf("database/test/job-dlq/replay.test.ts")("takes at most 10,000 ids"),
  ),
  argumentsFile(
    "a duration that never ends",
    "Option.filter(millis, Number.isFinite)",
    "millis",
    testsOf("database/test/job-dlq/replay.test.ts")("refuses an infinite delay, and says so"),
  ),
  argumentsFile(
    "a payload that jsonb cannot keep",
    "Option.match(notStorable(payload), {",
    "Option.match(Option.none<{ path: string; problem: string }>(), {",
    testsOf("database/test/job-dlq/replay.test.ts")(
      "is refused with its path when jsonb cannot keep it, and nothing is replayed",
    ),
  ),
  cursor(
    "a cursor of several spellings",
    "return encodeCursor({ at, id }) === cursor ? Option.some({ at, id }) : Option.none();",
    "return Option.some({ at, id });",
    cursors("has one spelling: with a character more it is refused"),
  ),
  place(
    "a cursor cut to milliseconds",
    "interval '1 day' + ${rest}::bigint * interval '1 microsecond'",
    "interval '1 day' + ${rest}::bigint / 1000 * interval '1 millisecond'",
    paging("visit every row once, whatever the microseconds, the ties and the page size"),
  ),
  place(
    "a page after those of the same moment",
    "sql`(d.dlq_at, d.id) < (${timeOf(sql, at)}, ${id}::uuid)`",
    "sql`d.dlq_at < ${timeOf(sql, at)} AND ${id}::uuid IS NOT NULL`",
    paging("visit every row once, whatever the microseconds, the ties and the page size"),
  ),
  place(
    "letters at infinity stop a list",
    "WHEN isfinite(d.dlq_at)",
    "WHEN true",
    paging("pass dead letters at infinity, which only SQL can write"),
  ),
  page(
    "pages without a total order",
    "ORDER BY d.dlq_at DESC, d.id DESC",
    "ORDER BY d.dlq_at DESC",
    paging("show letters of one moment in the order of their ids, whatever the plan"),
  ),
  page(
    "a cursor that is none begins anew",
    "onNone: () => invalidCursor(operation, cursor),",
    "onNone: () => Effect.succeedNone,",
    paging("refuse a cursor that was tampered with, and one that is no cursor"),
  ),
  errorText("NUL in an error text", '.replaceAll("\\u0000", "\\uFFFD")', "", texts("replaces NUL and lone surrogates")),
  errorText("lone surrogates in an error text", ".toWellFormed()", "", texts("replaces NUL and lone surrogates")),
  errorText(
    "an error text of any length",
    "if (text.length > maxErrorLength) {",
    "if (false) {",
    texts("cuts the middle out of 10 MB and says how much"),
  ),
  errorText(
    "a history of any length",
    "history.length <= maxHistory\n",
    "true\n",
    texts("keeps the first and the newest of a long one"),
  ),
  jsonFile(
    "a payload with NUL",
    'if (text.includes("\\u0000"))',
    "if (false)",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with a lone surrogate",
    "if (!text.isWellFormed())",
    "if (false)",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with NaN",
    "return Number.isFinite(current)\n",
    "return true\n",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with undefined in a list",
    'return { path, problem: "is undefined, which JSON cannot hold; pass null" };',
    "return undefined;",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with a function",
    "return { path, problem: `is a ${typeof current}, which JSON cannot hold` };",
    "return undefined;",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with a BigInt",
    'return { path, problem: "is a BigInt, which JSON cannot hold; pass it as a string" };',
    "return undefined;",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with a Map",
    "} else if (hasOnlyProperties(current)) {",
    "} else if (true) {",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload nested without end",
    "if (depth >= maxDepth)",
    "if (depth >= maxDepth * 100)",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  jsonFile(
    "a payload with a name that cannot be stored",
    "if (problem !== undefined) found = { path: child(path, name), problem: `has a name that ${problem}` };\n        else if",
    "if",
    refusedJson("what jsonb cannot keep is refused with its path"),
  ),
  rows(
    "a payload is not looked at",
    "for (const name of json) {",
    "for (const name of [] as typeof json) {",
    letters("insert: a payload with"),
  ),
  rows(
    "a text that cannot be stored",
    "const problem = isJsonText ? undefined : badText(operation, `${prefix}${name}`, value);",
    "const problem = isJsonText ? undefined : undefined;",
    letters("insert: a type with NUL"),
  ),
  rows(
    "a bad row hides the others",
    "const [bad, items] = Arr.partitionMap(rows, decodeOne);",
    "const [bad, items] = Arr.partitionMap(rows.length > 0 && rows.some((_) => Either.isLeft(decodeOne(_))) ? [] : rows, decodeOne);",
    paging("show a stored row that does not fit the model with its id, and never let it hide the others"),
  ),
  sqlStateFile(
    "another tenant's row and a missing right are one",
    'return routine === "ExecWithCheckOptions" ? "RowSecurity" : "Privilege";',
    'return "Privilege";',
    refusals("another tenant's row: AccessDenied, ForeignTenant"),
  ),
  sqlStateFile("what RESTRICT raises is nothing", '"23001": "Restrict",', "", sqlState("is Restrict")),
  sqlStateFile("a deadlock is nothing", '"40P01": "Deadlock",', "", sqlState("is Deadlock")),
  sqlStateFile(
    "a lock that is not free is nothing",
    '"55P03": "LockNotAvailable",',
    "",
    sqlState("is LockNotAvailable"),
  ),
  refusal(
    "an app that is not there is a SqlError",
    'classify(error) === "ForeignKey" &&',
    "false &&",
    refusals("an app that does not exist: AppNotFound with the apps of the call, each once"),
  ),
  refusal(
    "a check that refuses is a SqlError",
    'case "Check":\n',
    "",
    refusals("a check, a unique name, a NOT NULL: InvalidInput by the constraint's name"),
  ),
];

// --- migrations --------------------------------------------------------------

const migratorFile = inFile("packages/database/src/migrator.ts");

export const migratorList: ReadonlyArray<Mutation> = [
  migratorFile("migrator: no lock", "      yield* lock(sql);\n", "", migrator("waits, and then finds nothing to do")),
  migratorFile(
    "migrator: the lock is never released",
    "pg_advisory_unlock(${lockKeys[0]}::int, ${lockKeys[1]}::int)`, (error)",
    "1 WHERE ${lockKeys[0]}::int < ${lockKeys[1]}::int`, (error)",
    migrator("takes over when that one fails"),
  ),
  migratorFile(
    "migrator: two at once, and the second does not look again",
    "const before = yield* readLedger(sql, known);",
    "const before = known.map(({ id, name }): MigrationState => ({ id, name, appliedAt: null }));",
    migrator("brings an empty database to the schema and says what it did; the next run finds nothing to do"),
  ),
  migratorFile(
    "migrator: a ledger with other names",
    "if (row.id !== expected.id || row.name !== expected.name) {",
    "if (row.id !== expected.id) {",
    migrator("because a migration was renamed in this release stops it too"),
  ),
  migratorFile(
    "migrator: a ledger with other numbers",
    "if (row.id !== expected.id || row.name !== expected.name) {",
    "if (row.name !== expected.name) {",
    migrator("because it has a gap stops run and status before they change anything"),
  ),
  migratorFile(
    "migrator: a ledger of a newer release",
    "if (expected === undefined) {",
    "if (expected === undefined) break;\n      if (expected === undefined) {",
    portal("the ledger is of a newer release"),
  ),
  migratorFile(
    "migrator: a server that is too old",
    "if (versionNumber < 180_000)",
    "if (versionNumber < 1)",
    migrator("is refused by its version, and nothing is changed"),
  ),
  migratorFile(
    "migrator: the login's search_path",
    "  SET LOCAL search_path = public, pg_temp;\n",
    "",
    migrator("creates in the schema public, whatever the login's search_path"),
  ),
  migratorFile(
    "migrator: a migration that failed half is kept",
    'Effect.catchAll(statement("ROLLBACK"), (error)',
    'Effect.catchAll(statement("COMMIT"), (error)',
    migrator("those before it stand, it leaves nothing, those after it wait, and mended it goes on"),
  ),
  migratorFile(
    "migrator: a migration that has no transaction",
    "yield* statement(`BEGIN; ${settings}`);",
    "yield* statement(settings.replaceAll('LOCAL ', ''));",
    migrator("those before it stand, it leaves nothing, those after it wait, and mended it goes on"),
  ),
  migratorFile(
    "migrator: a login without rights",
    "if (missing.length > 0) {",
    "if (false) {",
    portal("rights are missing, with the SQL that an administrator must run"),
  ),
  migratorFile(
    "portal_migrations: no primary key",
    "id integer PRIMARY KEY,",
    "id integer NOT NULL,",
    testsOf("database/test/migrations.test.ts")("portal_migrations_pkey refuses, and without it the same is accepted"),
    { breaks: "constraint portal_migrations.portal_migrations_pkey" },
  ),
];
