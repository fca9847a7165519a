// biome-ignore-all lint/suspicious/noTemplateCurlyInString: these are texts of sources.
/** What the jobs package holds: fences, states, leases, whose turn, which error is which, and one effect of each job. */
import { inFile, type Mutation, testsOf } from "../mutation.js";

const fences = testsOf("jobs/test/fences.test.ts");
const conformance = testsOf("jobs/test/conformance.test.ts");
const semantics = testsOf("jobs/test/semantics.test.ts");
const neighbours = testsOf("jobs/test/neighbours.test.ts");
const handlers = testsOf("jobs/test/handlers.test.ts");
const stop = testsOf("jobs/test/stop.test.ts");
const health = testsOf("jobs/test/health.test.ts");
const maintenance = testsOf("jobs/test/maintenance.test.ts");
const claims = testsOf("jobs/test/claims.test.ts");
const retries = testsOf("jobs/test/retry.test.ts");

const statements = inFile("packages/jobs/src/statements.ts");
const store = inFile("packages/jobs/src/job-store-sql.ts");
const worker = inFile("packages/jobs/src/worker.ts");
const retry = inFile("packages/jobs/src/retry.ts");
const runners = inFile("packages/jobs/src/runner-storage.ts");
const check = inFile("packages/jobs/src/health.ts");
const upkeep = inFile("packages/jobs/src/maintenance.ts");

const held = "j.id = ANY ($1::uuid[]) AND j.fence = ANY ($2::bigint[]) AND j.status IS NOT DISTINCT FROM 'processing'";
const ended = "are no runner's any more when the job has ended: not settled, extended or reported";
const claimed = "UPDATE jobs j\n    SET updated_at = now(), status = 'processing', attempts = j.attempts + 1,";

export const jobsList: ReadonlyArray<Mutation> = [
  statements(
    "settling: whatever the fence",
    held,
    "j.id = ANY ($1::uuid[]) AND $2::bigint[] IS NOT NULL AND j.status IS NOT DISTINCT FROM 'processing'",
    fences("are completed once, and extended once"),
  ),
  statements(
    "settling: whatever the state",
    held,
    "j.id = ANY ($1::uuid[]) AND j.fence = ANY ($2::bigint[])",
    fences(ended),
  ),
  statements(
    "failing: the fence of another claim of the same job",
    "WHERE ${isHeld} AND j.id = f.id AND j.fence = f.fence\n    RETURNING j.*, f.reason),",
    "WHERE ${isHeld} AND j.id = f.id\n    RETURNING j.*, f.reason),",
    fences("end as the one that is held"),
  ),
  statements(
    "reporting: the fence of another claim of the same job",
    "WHERE ${isHeld} AND j.id = s.id AND j.fence = s.fence`",
    "WHERE ${isHeld} AND j.id = s.id`",
    fences("report what the one says that is held"),
  ),
  statements(
    "failing: no letter of a job that is dead",
    "FROM ended WHERE status = 'dead')\n  SELECT count(*)::int AS count FROM ended`",
    "FROM ended WHERE false)\n  SELECT count(*)::int AS count FROM ended`",
    conformance("a typed failure is tried again until the attempts run out: MaxRetries"),
  ),
  statements(
    "failing: an attempt that was given back counts",
    "WHEN 'back' THEN GREATEST(j.attempts - 1, 0) ELSE",
    "WHEN 'back' THEN j.attempts ELSE",
    conformance("a handler that asks to run later does, and that does not count as an attempt"),
  ),
  statements(
    "failing: the error is not kept",
    "WHEN f.error IS NULL THEN j.error_history",
    "WHEN true THEN j.error_history",
    conformance("a typed failure is tried again until the attempts run out: MaxRetries"),
  ),
  statements(
    "failing: is due at once, whatever the delay",
    "ELSE now() + f.delay * interval '1 millisecond' END",
    "ELSE now() END",
    conformance("a handler that asks to run later does, and that does not count as an attempt"),
  ),
  statements(
    "failing: the error history grows without bound",
    "CASE WHEN jsonb_array_length(j.error_history) >= ${maxHistory} THEN j.error_history - ${historyHead} ELSE j.error_history END",
    "j.error_history",
    fences("keep the first and the newest errors of a job that failed often"),
  ),
  statements(
    "claiming: jobs that are not due",
    "AND j.priority = p.priority AND j.scheduled_at <= now()",
    "AND j.priority = p.priority",
    claims("take jobs of their partitions only, and none that is for later"),
  ),
  statements(
    "claiming: what another claim has",
    "WHERE j.ctid = ANY (ARRAY(SELECT at FROM picked)) AND j.status = 'pending' AND NOT j.suspect\n    FOR UPDATE OF j SKIP LOCKED)",
    "WHERE j.ctid = ANY (ARRAY(SELECT at FROM picked)) AND j.status = 'pending' AND NOT j.suspect\n    FOR UPDATE OF j)",
    claims("never wait for a job that somebody holds, and take the others"),
  ),
  statements(
    "claiming: a suspect that another claim has",
    "LIMIT 1\n    FOR UPDATE OF j SKIP LOCKED)",
    "LIMIT 1\n    FOR UPDATE OF j)",
    claims("of a suspect never waits for one that somebody holds"),
  ),
  statements(
    "claiming: the fence of before",
    "locked_until = now() + $6::float8 * interval '1 millisecond', fence = nextval('job_fence')",
    "locked_until = now() + $6::float8 * interval '1 millisecond'",
    claims("give each job a new fence, an attempt and a lease"),
  ),
  statements(
    "claiming: counts no attempt",
    claimed,
    claimed.replace(" attempts = j.attempts + 1,", ""),
    claims("give each job a new fence, an attempt and a lease"),
  ),
  statements(
    "claiming: suspects among the others",
    "        AND j.status = 'pending' AND NOT j.suspect\n      ORDER BY j.partition, j.app_id, j.priority",
    "        AND j.status = 'pending'\n      ORDER BY j.partition, j.app_id, j.priority",
    claims("leave suspects to the claim that takes one alone"),
  ),
  statements(
    "claiming: of every partition",
    "WHERE j.partition = t.partition AND j.app_id = t.app_id AND j.priority = p.priority",
    "WHERE j.app_id = t.app_id AND j.priority = p.priority",
    claims("take jobs of their partitions only, and none that is for later"),
  ),
  statements(
    "claiming: in the order of age, whatever the priority",
    "ORDER BY CASE WHEN $7::boolean THEN NULL ELSE c.priority END, c.scheduled_at, c.id) AS place",
    "ORDER BY c.scheduled_at, c.id) AS place",
    claims("take the urgent ones first, and by age those that have waited longest"),
  ),
  statements(
    "claiming: a tenant with a long queue first",
    "row_number() OVER (PARTITION BY t.app_id ORDER BY",
    "row_number() OVER (ORDER BY",
    conformance("a tenant with a long queue holds up no other, also where one job runs at a time"),
  ),
  statements(
    "a suspect runs in company",
    "locked_by = $2, in_company = false,",
    "locked_by = $2, in_company = true,",
    conformance("jobs whose runner vanished run alone, and only the one that is there again is blamed"),
  ),
  statements(
    "a job that is completed stays a suspect's company",
    "locked_until = NULL, suspect = false, in_company = false`",
    "locked_until = NULL, suspect = suspect, in_company = in_company`",
    claims("leave nothing of a suspect when it is settled"),
  ),
  store(
    "cancelling: a job that has ended",
    "WHERE j.id = held.id AND held.status IN ('pending', 'processing')",
    "WHERE j.id = held.id",
    conformance("cancels a job that waits, one that runs, and none that has ended"),
  ),
  store(
    "cancelling: the runner's fence still holds",
    "locked_until = NULL, fence = nextval('job_fence')\n            FROM held",
    "locked_until = NULL\n            FROM held",
    fences("end with a new fence when the job is cancelled, and its runner is told at once"),
  ),
  store(
    "cancelling: the runner is not told",
    "told AS (SELECT pg_notify('jobs', 'cancelled ' || partition) FROM cancelled)",
    "told AS (SELECT 1 FROM cancelled WHERE false)",
    fences("end with a new fence when the job is cancelled, and its runner is told at once"),
  ),
  store(
    "submitting: a key that is taken raises a conflict",
    "ON CONFLICT (app_id, type, dedupe_key) WHERE dedupe_key IS NOT NULL AND status IN ('pending', 'processing') DO NOTHING",
    "",
    conformance("a dedupe key holds while its job is unfinished, in its tenant and type"),
  ),
  store(
    "submitting: a key that is taken is another type's",
    "WHERE j.app_id = a.app_id AND j.type = a.type AND j.dedupe_key = a.dedupe_key AND j.status",
    "WHERE j.app_id = a.app_id AND j.dedupe_key = a.dedupe_key AND j.status",
    conformance("a dedupe key holds while its job is unfinished, in its tenant and type"),
  ),
  store(
    "submitting: outside every scope",
    "if (Option.isSome(scope) || first === undefined || apps.size > 1) return yield* effect;",
    "if (Option.isSome(scope) || first !== undefined || apps.size > 1) return yield* effect;",
    fences("submits outside every scope, because a submission opens its tenant's"),
  ),
  store(
    "settling: rows that somebody holds fail the others",
    'classify(error) === "LockNotAvailable"',
    'classify(error) === "Deadlock"',
    neighbours("whose row somebody holds are settled and keep their leases, and that one is settled later"),
  ),
  store(
    "a transactional handler whose claim was lost commits",
    "(isOurs) => isOurs,",
    "() => true,",
    semantics(
      "what a run wrote that was cancelled or erased is gone in a transactional handler, and stays in a plain one",
    ),
  ),
  store(
    "a transactional handler settles whatever the fence",
    "WHERE id = $1 AND fence = $2::bigint AND status = 'processing' RETURNING 1)",
    "WHERE id = $1 AND $2::bigint IS NOT NULL AND status = 'processing' RETURNING 1)",
    fences("commit nothing of a transactional run whose claim was lost"),
  ),
  store(
    "a transactional handler that cancels its own job loses what it wrote",
    "count === 1 ? Effect.succeed(true) : isOwnDoing",
    "count === 1 ? Effect.succeed(true) : Effect.as(isOwnDoing, false)",
    semantics("a handler that cancels its own job leaves it cancelled, and what it wrote is there"),
  ),
  store(
    "the COMMIT of a transactional job is waited for without end",
    'const commitMillis = "5000";',
    'const commitMillis = "0";',
    testsOf("jobs/test/crash.test.ts")(
      "of nothing, but the COMMIT of a transactional job never arrives: the job is not held by a dead transaction",
    ),
  ),
  worker(
    "a payload that does not fit its type is tried again",
    'return fail(job, dead("Validation", boundText(payload.left)), 0);',
    'return fail(job, retryOrDead(job, handler.retry, "Validation", boundText(payload.left)), 0);',
    conformance(
      "a payload that does not fit the type of the runner is dead-lettered at once: Validation, with the path",
    ),
  ),
  worker(
    "a Schema that throws ends the claim",
    "return Either.left(`The payload does not fit ${job.type}: ${errorText(defect)}`);",
    "throw defect;",
    neighbours("whose Schema throws go on, and that one is dead-lettered: Validation"),
  ),
  worker(
    "a job that its handler rejects is tried again",
    'if (rejected !== undefined) return dead("Validation", errorText(rejected));',
    "",
    conformance("a handler that rejects its job has it dead-lettered at once: Validation"),
  ),
  worker(
    "a job is tried without end",
    "isLast(job)\n        ?",
    "isLast(job) && false\n        ?",
    conformance("a typed failure is tried again until the attempts run out: MaxRetries"),
  ),
  worker(
    "a job is tried once less",
    "attempts >= maxAttempts;",
    "attempts + 1 >= maxAttempts;",
    conformance("a typed failure is tried again until the attempts run out: MaxRetries"),
  ),
  worker(
    "a run takes as long as it likes",
    "if (timeoutMillis !== undefined) {\n",
    "if (timeoutMillis !== undefined && timeoutMillis < 0) {\n",
    conformance("so is a run that takes longer than its type allows"),
  ),
  worker(
    "a type without a handler is dead at once",
    'return fail(job, retryOrDead(job, missingPolicy, "HandlerMissing", problem), 0);',
    'return fail(job, dead("HandlerMissing", problem), 0);',
    conformance("a type without a handler is tried again until its attempts run out: HandlerMissing"),
  ),
  worker(
    "a stop counts an attempt",
    'if (ended === "stop" && Cause.isInterrupted(cause)) return back;',
    "",
    semantics("what runs when a runner is told to stop ends within its grace, once"),
  ),
  worker(
    "what a claim brings to a runner that stops is run",
    "if (isWanted(job.partition)) start(job);",
    "if (isWanted(job.partition) || true) start(job);",
    stop("gives back what a claim brings meanwhile, and counts no attempt"),
  ),
  worker(
    "a run whose claim was lost goes on",
    "runs.filter(({ job }) => !renewed.has(job.fence)),",
    "runs.filter(({ job }) => !renewed.has(job.fence) && false),",
    conformance("cancels a job that waits, one that runs, and none that has ended"),
  ),
  worker(
    "leases are not renewed",
    "nextExtension = now() + leaseMillis / 3;",
    "nextExtension = now() + leaseMillis * 3;",
    neighbours("of a runner that is cut off from the server and comes back are its own still"),
  ),
  worker(
    "others run beside a suspect",
    "if (isPaused || open.length === 0 || free <= 0) {",
    "if (open.length === 0 || free <= 0) {",
    neighbours("a suspect that is due do not start until it has run, with many slots as with few"),
  ),
  worker(
    "a handler has the services of no tenant",
    "return handler.transactional ? context : Context.merge(context, store.tenantContext(appId));",
    "return context;",
    handlers("a fiber that outlives"),
  ),
  retry(
    "a wait without a cap",
    "Math.min(policy.maxMillis, policy.initialMillis * grown)",
    "policy.initialMillis * grown",
    retries("grows to its cap and no further"),
  ),
  retry(
    "a wait that does not grow",
    "policy.factor ** Math.min(attempt - 1, 1000)",
    "policy.factor",
    retries("grows to its cap and no further"),
  ),
  retry(
    "more jitter than was asked for",
    "(1 - policy.jitter * chance)",
    "(1 - chance)",
    retries("is cut by chance, by the jitter's part of it at most"),
  ),
  retry(
    "no attempts at all",
    "policy.maxAttempts < 1 ||",
    "policy.maxAttempts < 0 ||",
    retries("options that cannot be are refused, each by its name"),
  ),
  runners(
    "a shard is taken from a runner that is alive",
    "WHERE s.address = EXCLUDED.address OR s.acquired_at < ${expired}\n",
    "WHERE true\n",
    testsOf("jobs/test/runner-storage.test.ts")("a shard is one runner's until its lock expires"),
  ),
  check(
    "ready although the engine was not answered",
    "if (!worker.isAnswered())",
    "if (false)",
    health("is not ready when the engine was not answered, or the cluster has not heard of the runner"),
  ),
  check(
    "ready although the cluster has not heard of it",
    "if (options.address !== undefined && !(yield* isJoined(options.address))) {",
    "if (false) {",
    health("is not ready when the engine was not answered, or the cluster has not heard of the runner"),
  ),
  upkeep(
    "old jobs are removed although nobody said so",
    'if (jobs !== undefined) yield* removed("jobs", yield* db.jobs.purge(jobs));',
    'yield* removed("jobs", yield* db.jobs.purge(jobs ?? 0));',
    maintenance("removes what is old, in two runners at a time, and nothing unless it is told to"),
  ),
];
