// biome-ignore-all lint/suspicious/noTemplateCurlyInString: these are texts of sources.
/** What the operations on dead letters hold: locks and their order, once and no more, the newest only, whose, how old, how many. */
import { inFile, type Mutation, testsOf } from "../mutation.js";

const replayTest = testsOf("database/test/replay.test.ts");
const options = testsOf("database/test/job-dlq/replay.test.ts");
const discardTest = testsOf("database/test/job-dlq/discard.test.ts");
const erasureTest = testsOf("database/test/job-dlq/erasure.test.ts");
const retentionTest = testsOf("database/test/job-dlq/retention.test.ts");
const forced = testsOf("database/test/job-dlq/forced-races.test.ts");
const bulkTest = testsOf("database/test/job-dlq/crash.test.ts");
const filterTest = testsOf("database/test/job-dlq/filter.test.ts");
const transfer = testsOf("database/test/job-dlq/transfer.test.ts");

const take = inFile("packages/database/src/job-dlq/take.ts");
const replay = inFile("packages/database/src/job-dlq/replay.ts");
const discard = inFile("packages/database/src/job-dlq/discard.ts");
const erasure = inFile("packages/database/src/job-dlq/erasure.ts");
const retention = inFile("packages/database/src/job-dlq/retention.ts");
const bulk = inFile("packages/database/src/job-dlq/bulk.ts");
const filter = inFile("packages/database/src/job-dlq/filter.ts");
const imports = inFile("packages/database/src/job-dlq/import.ts");
const changes = inFile("packages/database/src/job-dlq/changes.ts");
const changesTest = testsOf("database/test/job-dlq/changes.test.ts");

export const deadLetterList: ReadonlyArray<Mutation> = [
  take(
    "letters are taken that were taken before",
    "AND d.replayed_at IS NULL\n    ORDER BY d.original_job_id, d.id",
    "\n    ORDER BY d.original_job_id, d.id",
    options("tells discarded, purged, unknown and foreign ids apart in one call, as far as the scope may know"),
  ),
  take(
    "letters are taken without a lock",
    "ORDER BY d.original_job_id, d.id\n    FOR UPDATE OF d)",
    "ORDER BY d.original_job_id, d.id)",
    forced("discard, then replay, the job dead: the first gets the letter, both say the truth"),
  ),
  take(
    "letters are taken in no order",
    "ORDER BY d.original_job_id, d.id\n    FOR UPDATE OF d)",
    "ORDER BY d.original_job_id DESC, d.id DESC\n    FOR UPDATE OF d)",
    forced("a replay and an erasure of the same letters, the replay by place"),
  ),
  take(
    "a batch does not know the newer letters of its jobs",
    "${withNewer ? newer(sql) : sql``}",
    "${withNewer ? sql`` : sql``}",
    options("replays of several letters of one job only the newest, in batches of"),
  ),
  take(
    "an erased letter is not told from one that is gone",
    "CASE WHEN bool_or(e.kind = 'erased') THEN 'erased' WHEN",
    "CASE WHEN",
    erasureTest("by ids reaches discarded ones in the ledger too, and restore then says so"),
  ),
  take(
    "replay and discard of letters that are not pending",
    '({ state = "pending" }) => state === "pending",',
    "() => true,",
    options("refuses replayed ones, and says so"),
  ),
  replay(
    "replay: a job that is not dead",
    "AND j.status = 'dead' AND (SELECT count(*) FROM held) > 0",
    "AND (SELECT count(*) FROM held) > 0",
    replayTest("leaves the letter of a job that is not dead pending"),
  ),
  replay(
    "replay: another app's job under the same id",
    "WHERE j.id = c.original_job_id AND j.app_id = c.app_id AND j.status",
    "WHERE j.id = c.original_job_id AND j.status",
    replayTest("does not touch another tenant's job under the same id, in a tenant's and in the system scope"),
  ),
  replay(
    "replay: the letter of another app's job",
    "r ON r.id = c.original_job_id AND r.app_id = c.app_id",
    "r ON r.id = c.original_job_id",
    options("brings back each app's newest letter of jobs that another app's letters name as well"),
  ),
  replay(
    "replay: the oldest of several letters",
    "ORDER BY original_job_id, app_id, dlq_at DESC, id DESC) newest",
    "ORDER BY original_job_id, app_id, dlq_at, id) newest",
    replayTest("replays only the newest of several letters of one job"),
  ),
  replay(
    "replay: one letter of a job over all apps",
    "DISTINCT ON (original_job_id, app_id) * FROM locked ORDER BY original_job_id, app_id, dlq_at DESC",
    "DISTINCT ON (original_job_id) * FROM locked ORDER BY original_job_id, dlq_at DESC",
    options("brings back each app's newest letter of jobs that another app's letters name as well"),
  ),
  replay(
    "replay: jobs are locked in no order",
    "WHERE j.id IN (SELECT original_job_id FROM chosen)\n            ORDER BY j.id\n",
    "WHERE j.id IN (SELECT original_job_id FROM chosen)\n            ORDER BY j.id DESC\n",
    forced("a replay and a purge of jobs, the replay by place"),
  ),
  replay(
    "replay: the fence of before",
    "fence = nextval('job_fence'),\n",
    "\n",
    replayTest("brings the same job back with a full budget and a new fence, and keeps the dead letter"),
  ),
  replay(
    "replay: the attempts of before",
    "status = 'pending', attempts = 0,",
    "status = 'pending',",
    replayTest("brings the same job back with a full budget and a new fence, and keeps the dead letter"),
  ),
  replay(
    "replay: the errors of before",
    "error_history = '[]', payload",
    "payload",
    replayTest("brings the same job back with a full budget and a new fence, and keeps the dead letter"),
  ),
  replay(
    "replay: counts no replay",
    "replays = j.replays + 1, ",
    "",
    replayTest("brings the same job back with a full budget and a new fence, and keeps the dead letter"),
  ),
  replay(
    "replay: keeps its key, which another job may have by now",
    "dedupe_key = NULL, ",
    "",
    testsOf("jobs/test/conformance.test.ts")(
      "a replay brings the job back once: the same key for outside services, a full budget, the dedupe key free",
    ),
  ),
  replay(
    "replay: is due at once, whatever the delay",
    "const due = delay === 0 ?",
    "const due = delay >= 0 ?",
    options("with a delay makes the job due later, by the database's clock"),
  ),
  replay(
    "replay: another payload is lost",
    "const newPayload = isOverride ? sql`${payload}::jsonb` : sql`c.payload`;",
    "const newPayload = sql`c.payload`;",
    options("gives it to the job, keeps the original in the dead letter, and writes the difference to the ledger"),
  ),
  replay(
    "replay: a purged job raises a conflict",
    "            ON CONFLICT (id) DO NOTHING\n",
    "",
    replayTest("does not touch another tenant's job under the same id, in a tenant's and in the system scope"),
  ),
  replay(
    "replay: a purged job is gone",
    "WHERE c.original_job_id NOT IN (SELECT id FROM held)",
    "WHERE false",
    replayTest("makes a purged job anew under its own id, with the defaults, and counts its replays"),
  ),
  replay(
    "replay: the letter stays pending",
    "JOIN (SELECT * FROM revived UNION ALL SELECT * FROM remade) r",
    "JOIN (SELECT * FROM remade) r",
    replayTest("brings the same job back with a full budget and a new fence, and keeps the dead letter"),
  ),
  replay(
    "replay: letters of living jobs are marked",
    "JOIN (SELECT * FROM revived UNION ALL SELECT * FROM remade) r ON r.id = c.original_job_id AND r.app_id = c.app_id",
    "CROSS JOIN (SELECT count(*) FROM (SELECT * FROM revived UNION ALL SELECT * FROM remade) t) r",
    replayTest("leaves the letter of a job that is not dead pending"),
  ),
  replay(
    "replay: no line in the ledger",
    "${actor}, ${detail} FROM replayed r)",
    "${actor}, ${detail} FROM replayed r WHERE false)",
    options("gives it to the job, keeps the original in the dead letter, and writes the difference to the ledger"),
  ),
  discard(
    "discard: no copy in the ledger",
    "'discarded', ${actor}, ${reason}, ${entryOf(sql, \"m\")} FROM moved m",
    "'discarded', ${actor}, ${reason}, NULL::jsonb FROM moved m",
    discardTest("discard moves a letter into the ledger with actor, reason and the whole row"),
  ),
  discard(
    "restore: an event twice, at the same moment",
    "WHERE entry IS NOT NULL AND id NOT IN (SELECT id FROM undone)",
    "WHERE entry IS NOT NULL",
    discardTest("restore uses each event once, and tells why it does not"),
  ),
  discard(
    "restore: what was replayed meanwhile",
    " AND dlq_id NOT IN (SELECT id FROM replayed)\n",
    "\n",
    transfer("of a discarded letter leaves restore nothing to bring back once it was replayed"),
  ),
  discard(
    "restore: for an app that was deleted",
    "AND app_id IN (SELECT id FROM apps) AND dlq_id NOT IN",
    "AND dlq_id NOT IN",
    discardTest("restores the others when the app of one was deleted"),
  ),
  discard(
    "restore: does not look at the copies under their lock",
    "ORDER BY e.id\n    FOR UPDATE OF e`",
    "ORDER BY e.id`",
    forced("restored, replayed and purged: it is not pending again"),
  ),
  discard(
    "restore: whoever loses the race fails",
    "Effect.retry({ while: isUsed, times: 5 }), ",
    "",
    forced("an event is used once also when its letter was discarded again meanwhile"),
  ),
  erasure(
    "erase: the copies in the ledger stay",
    "UPDATE job_dlq_events e SET entry = NULL, detail = NULL FROM held_copies h WHERE e.id = h.id)",
    "UPDATE job_dlq_events e SET detail = NULL FROM held_copies h WHERE e.id = h.id)",
    erasureTest("of a person leaves nothing of theirs anywhere, and everything of the others"),
  ),
  erasure(
    "erase: the differences in the ledger stay",
    "UPDATE job_dlq_events e SET entry = NULL, detail = NULL FROM",
    "UPDATE job_dlq_events e SET entry = NULL FROM",
    erasureTest("of a person leaves nothing of theirs anywhere, and everything of the others"),
  ),
  erasure(
    "erase: jobs keep their payload",
    "SET payload = 'null', error_history = '[]',",
    "SET error_history = '[]',",
    erasureTest("of a person leaves nothing of theirs anywhere, and everything of the others"),
  ),
  erasure(
    "erase: jobs keep their errors",
    "SET payload = 'null', error_history = '[]',",
    "SET payload = 'null',",
    erasureTest("of a person leaves nothing of theirs anywhere, and everything of the others"),
  ),
  erasure(
    "erase: unfinished jobs go on",
    "status = CASE WHEN j.status IN ('pending', 'processing') THEN 'cancelled' ELSE j.status END,\n            completed_at = COALESCE(j.completed_at, now()), fence",
    "status = CASE WHEN j.status = 'processing' THEN 'pending' ELSE j.status END, fence",
    erasureTest("of a person leaves nothing of theirs anywhere, and everything of the others"),
  ),
  erasure(
    "erase: a runner's fence still holds",
    "completed_at = COALESCE(j.completed_at, now()), fence = nextval('job_fence')",
    "completed_at = COALESCE(j.completed_at, now())",
    erasureTest("gives each job a new fence, so that its runner changes nothing any more"),
  ),
  erasure(
    "erase: does not look again at what moved meanwhile",
    "return missed + back.length > 0 ? yield* new Moved() : new ErasureReceipt(found);",
    "return new ErasureReceipt(found);",
    forced("that commits between the snapshot and the lock: the letter is erased from the table"),
  ),
  erasure(
    "erase: does not wait for who holds a letter",
    "yield* sql`WITH ${lock(filter, sql``)} SELECT count(*) FROM held_jobs`;",
    "",
    forced("discard, then erase, the job dead: the first gets the letter, both say the truth"),
  ),
  erasure(
    "erase: all lines of the ledger of the named, those of erasures too",
    "AND e.kind NOT IN ('erased', 'purged') AND ${isFull}),",
    "AND ${isFull}),",
    erasureTest("again finds nothing, and leaves the line that tells of the first"),
  ),
  retention(
    "retain: letters that are not old enough",
    "const oldReplayed = (run: Run, days: number) => sql`replayed_at < ${before(run, days)}`;",
    "const oldReplayed = (run: Run, days: number) => sql`replayed_at < ${before(run, days - 1)}`;",
    retentionTest("deletes replayed letters past their age, in batches, with a receipt for each app and batch"),
  ),
  retention(
    "retain: pending letters expire that were replayed",
    "sql`replayed_at IS NULL AND dlq_at < ${before(run, days)}`",
    "sql`dlq_at < ${before(run, days)}`",
    retentionTest("never touches pending letters unless asked, and then they expire to the ledger and can be restored"),
  ),
  retention(
    "retain: waits for who holds a letter",
    "ORDER BY replayed_at LIMIT ${limit} FOR UPDATE SKIP LOCKED",
    "ORDER BY replayed_at LIMIT ${limit} FOR UPDATE",
    retentionTest("is not complete while somebody has a replayed letter locked that is past its age"),
  ),
  retention(
    "retain: waits for who holds a pending letter",
    "ORDER BY dlq_at LIMIT ${limit} FOR UPDATE SKIP LOCKED",
    "ORDER BY dlq_at LIMIT ${limit} FOR UPDATE",
    forced("retention does not wait for a letter that a replay has, and does not take it"),
  ),
  retention(
    "retain: an expired letter leaves no copy",
    "jsonb_build_object('run', ${run.run}::text), ${entryOf(sql, \"g\")}",
    "jsonb_build_object('run', ${run.run}::text), NULL::jsonb",
    retentionTest("never touches pending letters unless asked, and then they expire to the ledger and can be restored"),
  ),
  retention(
    "retain: pending letters after 0 days",
    'daysOf(operation, "pending", policy.pending, 1);\n      steps',
    'daysOf(operation, "pending", policy.pending, 0);\n      steps',
    retentionTest('refuses {"pending":0}'),
  ),
  retention(
    "retain: goes on beyond its budget",
    "if ((yield* Clock.currentTimeMillis) >= end) return false;",
    "if (end < 0) return false;",
    retentionTest("begins no batch after its budget, and its receipt says so"),
  ),
  retention(
    "retain: a policy that names nothing",
    "if (steps.length === 0) {",
    "if (false) {",
    retentionTest("refuses {}"),
  ),
  retention(
    "retain: the copy of a letter that was restored lately",
    "AND e.at < ${before(run, days)} AND NOT ${isUndoneLately(run, days)}`",
    "AND e.at < ${before(run, days)}`",
    forced("is not counted as purged: the letter is in the table, its events stay"),
  ),
  bulk(
    "a bulk change takes what came after it began",
    "AND ${wasThere(sql, snapshot)}\n",
    "AND ${snapshot}::text IS NOT NULL\n",
    options("does not take letters that arrive while it runs"),
  ),
  bulk(
    "a bulk change leaves out what was loaded from a dump",
    "\n    OR d.arrived >= (SELECT pg_snapshot_xmax(pg_current_snapshot())))`",
    ")`",
    bulkTest("takes what was loaded from a dump of another server, whose transactions were further on"),
  ),
  bulk(
    "a bulk change beyond its limit",
    "left: batch.asked < wanted ? 0 : left - batch.taken",
    "left: batch.asked < wanted ? 0 : left",
    options("takes no more than its limit, and goes on when it is called again"),
  ),
  bulk(
    "a bulk change counts what it could not take against its limit",
    "left - batch.taken",
    "left - batch.asked",
    options("does not count letters whose jobs are not dead against its limit"),
  ),
  bulk(
    "a bulk change as fast as it goes, whatever its rate",
    "rate === undefined || done === 0 ? Effect.void",
    "rate !== undefined || done === 0 ? Effect.void",
    bulkTest("at a rate takes no second's worth more at once, and waits for the clock between batches"),
  ),
  bulk(
    "a batch of any size",
    'wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_000)',
    'wholeOf(operation, "batchSize", options.batchSize ?? 1000, 1, 10_001)',
    options("refuses a batch of 10,001, and says so"),
  ),
  bulk(
    "a moment that no preview said",
    "options.asOf === undefined ? yield* inScope(present) : yield* asOfOf(operation, options.asOf)",
    "options.asOf === undefined ? yield* inScope(present) : options.asOf",
    options("refuses a moment that no preview said, and says so"),
  ),
  bulk(
    "what a bulk change passes it meets again",
    "${after === undefined ? sql`` : sql`AND ${newerThan(sql, after)}`}",
    '${after === undefined ? sql`` : sql`AND ${newerThan(sql, { ...after, id: "00000000-0000-0000-0000-000000000000" })}`}',
    options("passes letters whose jobs are not dead once, and ends"),
  ),
  filter(
    "a filter with a field that is unknown",
    'onExcessProperty: "error", errors: "first"',
    'onExcessProperty: "ignore", errors: "first"',
    filterTest("what is no filter, and names the field"),
  ),
  filter(
    "a filter with a condition that is undefined inside",
    "onNone: () => undefinedIn(value),",
    "onNone: () => undefined,",
    filterTest("what is no filter, and names the field"),
  ),
  filter(
    "a change without a condition",
    "    isNarrow,\n",
    "    () => true,\n",
    filterTest("a change without a condition, also with a state alone, unless it says all: true"),
  ),
  filter(
    "since is out",
    "sql`d.dlq_at >= ${filter.since}::timestamptz`",
    "sql`d.dlq_at > ${filter.since}::timestamptz`",
    filterTest("has the borders of time to the microsecond: since is in, until is out"),
  ),
  filter(
    "until is in",
    "sql`d.dlq_at < ${filter.until}::timestamptz`",
    "sql`d.dlq_at <= ${filter.until}::timestamptz`",
    filterTest("has the borders of time to the microsecond: since is in, until is out"),
  ),
  filter(
    "a prefix without an end",
    'if (end !== undefined) conditions.push(sql`d.type COLLATE "C" < ${end}`);',
    "",
    filterTest("takes as a prefix any beginning of any text, and nothing else with it"),
  ),
  filter(
    "a prefix into the surrogates",
    "code === 0xd7ff ? 0xe000 : code + 1",
    "code + 1",
    filterTest("takes as a prefix any beginning of any text, and nothing else with it"),
  ),
  imports(
    "import: what was erased comes back",
    "WHEN EXISTS (SELECT FROM job_dlq_events e WHERE e.dlq_id = g.id AND e.kind = 'erased') THEN 'erased'\n",
    "",
    transfer("does not bring back what was erased, but what was discarded or purged"),
  ),
  imports(
    "import: what was replayed comes back as pending",
    "WHEN g.replayed_at IS NULL AND EXISTS",
    "WHEN false AND EXISTS",
    transfer("does not bring a letter back as pending that was replayed, and as replayed it does"),
  ),
  imports(
    "import: another tenant's letters",
    "WHEN g.app_id <> current_tenant() THEN 'foreign tenant'\n",
    "",
    transfer("refuses another tenant's letters, and does not say whose an id is"),
  ),
  imports(
    "import: the last of several lines with one id",
    "WHERE verdict IS NULL ORDER BY id, place)",
    "WHERE verdict IS NULL ORDER BY id, place DESC)",
    transfer("takes the first of several lines with one id, in a batch and across batches"),
  ),
  imports(
    "import: no line in the ledger",
    "'imported', ${actor} FROM imported)",
    "'imported', ${actor} FROM imported WHERE false)",
    transfer("stores each letter under its id, in its state, with a line in the ledger, and makes no job"),
  ),
  imports(
    "import: does not wait for an erasure",
    "AND entry IS NOT NULL ORDER BY id FOR KEY SHARE`;",
    "AND entry IS NOT NULL ORDER BY id`;",
    transfer("waits for an erasure that has not been committed"),
  ),
  imports(
    "import: does not look again at what moved meanwhile",
    "if (isMoved) return yield* new Moved();",
    "",
    forced("restored, replayed and purged: it is not pending again"),
  ),
  changes(
    "changes: letters of transactions that others may still overtake",
    " AND d.arrived < (SELECT xmin FROM present) ${unseen}\n      ORDER",
    " ${unseen}\n      ORDER",
    changesTest("so that what commits later is not missed, and nothing comes twice"),
  ),
];
