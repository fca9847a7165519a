/**
 * The statements of a runner, each sent alone and outside a transaction by a connection in the system role.
 *
 * What they have in common: a job is changed only by its id, its fence and its state together, so that a runner which lost it
 * changes nothing any more.
 */
import { historyHead, maxHistory } from "@parametric-portal/database/error-text";

const claimedColumns = `j.id, j.fence, j.app_id, j.type, j.payload, j.attempts, j.max_attempts, j.replays, j.request_id, j.user_id,
  j.partition, (extract(epoch FROM now() - j.scheduled_at) * 1000)::float8 AS waited`;

// Each statement sets updated_at, which is what the trigger would do: calling it for each row takes a tenth of a claim.

/** Tenants whose jobs one claim looks at, over all its partitions. Bounds what a claim costs; the others have the next turns. */
export const tenantsInClaim = 64;

// For each partition the next tenants after its turn, by a loose scan of idx_jobs_fair; for each of those and each priority the
// first due jobs, which is a range of that index also behind any number of jobs that are scheduled for later; of all these the
// first of each tenant, then the second of each … A tenant's jobs are in all partitions, so its place counts over all of them.
// Between tenants whose next jobs are equally urgent it is drawn: by age, one with a long queue would always be first where a claim
// takes fewer jobs than there are tenants. The lock skips what somebody holds, and the change repeats the state. Rows are found
// again where they were seen; one that moved meanwhile is left to the next claim.
export const claimStatement = `
  WITH turns AS MATERIALIZED (
    SELECT t.partition, t.after FROM unnest($1::smallint[], $2::uuid[]) AS t (partition, after)),
  tenants AS MATERIALIZED (
    SELECT t.partition, a.app_id, count(*) OVER () AS count
    FROM turns t
    CROSS JOIN LATERAL (
      WITH RECURSIVE next (app_id, n) AS (
        (SELECT j.app_id, 1 FROM jobs j
          WHERE j.partition = t.partition AND j.app_id > t.after AND j.status = 'pending' AND NOT j.suspect
          ORDER BY j.partition, j.app_id, j.priority, j.scheduled_at, j.id LIMIT 1)
        UNION ALL
        (SELECT (SELECT j.app_id FROM jobs j
            WHERE j.partition = t.partition AND j.app_id > next.app_id AND j.status = 'pending' AND NOT j.suspect
            ORDER BY j.partition, j.app_id, j.priority, j.scheduled_at, j.id LIMIT 1), n + 1
          FROM next WHERE n < $3::int AND next.app_id IS NOT NULL))
      SELECT app_id FROM next WHERE app_id IS NOT NULL) a),
  candidates AS MATERIALIZED (
    SELECT c.at, c.id, c.priority, c.scheduled_at, uuid_hash_extended(t.app_id, $8::bigint) AS draw,
      row_number() OVER (PARTITION BY t.app_id ORDER BY CASE WHEN $7::boolean THEN NULL ELSE c.priority END, c.scheduled_at, c.id) AS place
    FROM tenants t
    CROSS JOIN unnest(enum_range(NULL::job_priority)) AS p (priority)
    CROSS JOIN LATERAL (
      SELECT j.ctid AS at, j.id, j.priority, j.scheduled_at FROM jobs j
      WHERE j.partition = t.partition AND j.app_id = t.app_id AND j.priority = p.priority AND j.scheduled_at <= now()
        AND j.status = 'pending' AND NOT j.suspect
      ORDER BY j.partition, j.app_id, j.priority, j.scheduled_at, j.id
      LIMIT LEAST($4::bigint, ($4::bigint - 1) / t.count + 5)) c),
  picked AS MATERIALIZED (
    SELECT at FROM candidates
    ORDER BY place, CASE WHEN $7::boolean THEN NULL ELSE priority END, CASE WHEN $7::boolean THEN NULL ELSE draw END, scheduled_at, id
    LIMIT $4::bigint),
  locked AS MATERIALIZED (
    SELECT j.ctid AS at FROM jobs j
    WHERE j.ctid = ANY (ARRAY(SELECT at FROM picked)) AND j.status = 'pending' AND NOT j.suspect
    FOR UPDATE OF j SKIP LOCKED),
  claimed AS (
    UPDATE jobs j
    SET updated_at = now(), status = 'processing', attempts = j.attempts + 1, started_at = now(), locked_by = $5, in_company = true,
      locked_until = now() + $6::float8 * interval '1 millisecond', fence = nextval('job_fence')
    WHERE j.ctid = ANY (ARRAY(SELECT at FROM locked)) AND j.status = 'pending'
    RETURNING ${claimedColumns})
  SELECT NULL::uuid AS id, NULL::bigint AS fence, NULL::uuid AS app_id, NULL::text AS type,
    (SELECT jsonb_agg(jsonb_build_object('partition', l.partition, 'after', l.last)) FROM (
      SELECT t.partition, CASE WHEN count(n.app_id) < $3::int THEN '' ELSE max(n.app_id::text) END AS last
      FROM turns t LEFT JOIN tenants n USING (partition) GROUP BY t.partition) l) AS payload,
    0 AS attempts, 0 AS max_attempts, 0 AS replays, NULL::uuid AS request_id, NULL::uuid AS user_id, 0::smallint AS partition, 0::float8 AS waited
  UNION ALL
  SELECT * FROM claimed`;

export const suspectStatement = `
  WITH locked AS MATERIALIZED (
    SELECT j.id FROM jobs j
    WHERE j.partition = ANY ($1::smallint[]) AND j.status = 'pending' AND j.suspect AND j.scheduled_at <= now()
    ORDER BY j.scheduled_at, j.id
    LIMIT 1
    FOR UPDATE OF j SKIP LOCKED)
  UPDATE jobs j
  SET updated_at = now(), status = 'processing', attempts = j.attempts + 1, started_at = now(), locked_by = $2, in_company = false,
    locked_until = now() + $3::float8 * interval '1 millisecond', fence = nextval('job_fence')
  FROM locked
  WHERE j.id = locked.id AND j.status = 'pending'
  RETURNING ${claimedColumns}`;

// A fence is drawn once, so it is of one claim of one job: a row that has one of these ids and one of these fences is held by that
// claim. What differs from one to the other is joined by both: two claims of one job may be settled together. No other join is left
// to the planner, which in a table that grew since it was analyzed would compare every id with every row. Nor is the index of what
// runs, as no index serves IS NOT DISTINCT FROM: a few jobs would be looked for among all that run anywhere.
const isHeld =
  "j.id = ANY ($1::uuid[]) AND j.fence = ANY ($2::bigint[]) AND j.status IS NOT DISTINCT FROM 'processing'";

/** A job is completed; what follows says which. */
export const completed = `
  UPDATE jobs j
  SET updated_at = now(), status = 'completed', completed_at = now(), locked_by = NULL, locked_until = NULL, suspect = false, in_company = false`;

export const completeStatement = `
  WITH settled AS (
    ${completed}
    WHERE ${isHeld}
    RETURNING 1)
  SELECT count(*)::int AS count FROM settled`;

// A job that is given back unfinished stays the suspect that it was.
export const failStatement = `
  WITH failures AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::float8[])
      AS f (id, fence, outcome, reason, error, delay)),
  ended AS (
    UPDATE jobs j
    SET updated_at = now(), status = CASE f.outcome WHEN 'dead' THEN 'dead' ELSE 'pending' END,
      attempts = CASE f.outcome WHEN 'back' THEN GREATEST(j.attempts - 1, 0) ELSE j.attempts END,
      completed_at = CASE f.outcome WHEN 'dead' THEN now() END,
      scheduled_at = CASE WHEN f.delay IS NULL THEN j.scheduled_at ELSE now() + f.delay * interval '1 millisecond' END,
      locked_by = NULL, locked_until = NULL, in_company = false, suspect = j.suspect AND f.outcome = 'back' AND f.delay IS NULL,
      error_history = CASE
        WHEN f.error IS NULL THEN j.error_history
        ELSE CASE WHEN jsonb_array_length(j.error_history) >= ${maxHistory} THEN j.error_history - ${historyHead} ELSE j.error_history END
          || jsonb_build_object('error', f.error, 'timestamp', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
      END
    FROM failures f
    WHERE ${isHeld} AND j.id = f.id AND j.fence = f.fence
    RETURNING j.*, f.reason),
  buried AS (
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, request_id, user_id)
    SELECT id, app_id, type, payload, reason, attempts, error_history, request_id, user_id FROM ended WHERE status = 'dead')
  SELECT count(*)::int AS count FROM ended`;

export const extendStatement = `
  UPDATE jobs j SET updated_at = now(), locked_until = now() + $3::float8 * interval '1 millisecond'
  WHERE ${isHeld}
  RETURNING j.fence`;

/** Whether a run has its job, as far as is committed. */
export const holdingStatement =
  "SELECT FROM jobs j WHERE j.id = $1 AND j.fence = $2::bigint AND j.status = 'processing'";

/** Which of these rows somebody holds. */
export const lockedStatement = `
  WITH free AS MATERIALIZED (
    SELECT j.id FROM jobs j WHERE j.id = ANY ($1::uuid[]) FOR UPDATE OF j SKIP LOCKED)
  SELECT j.id FROM jobs j WHERE j.id = ANY ($1::uuid[]) AND j.id NOT IN (SELECT id FROM free)`;

export const reportStatement = `
  UPDATE jobs j SET updated_at = now(), progress = s.progress::jsonb
  FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS s (id, fence, progress)
  WHERE ${isHeld} AND j.id = s.id AND j.fence = s.fence`;

export const dueStatement = `
  SELECT p.partition,
    EXISTS (SELECT FROM jobs j WHERE j.partition = p.partition AND j.status = 'pending' AND NOT j.suspect AND j.scheduled_at <= now()) AS due,
    EXISTS (SELECT FROM jobs j WHERE j.partition = p.partition AND j.status = 'pending' AND j.suspect AND j.scheduled_at <= now()) AS suspect
  FROM unnest($1::smallint[]) AS p (partition)`;
