/**
 * A tenant's queue with dead letters in every state, callers who contend for them, and the judge of what they say they did.
 *
 * What a caller does is drawn from its own seeded generator, so a round does the same again; who is faster is not drawn.
 */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert } from "@effect/vitest";
import * as Chunk from "effect/Chunk";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Random from "effect/Random";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import type { DiscardReceipt, RestoreReceipt } from "../../src/job-dlq/discard.js";
import type { ErasureReceipt } from "../../src/job-dlq/erasure.js";
import type { ReplayReceipt } from "../../src/job-dlq/replay.js";
import type { RetentionReceipt } from "../../src/job-dlq/retention.js";
import { DatabaseService } from "../../src/repos.js";
import { balance, eachOnce } from "./balance.js";
import { letter, newTenant, work } from "./database.js";

// --- the queue ---------------------------------------------------------------

export interface Queue {
  readonly appId: string;
  /** A person whose data is in many of the letters and jobs, and a text that is in their payloads and errors only. */
  readonly userId: string;
  readonly canary: string;
  /** All types begin with it, so that a filter reaches this queue only, in the system scope too. */
  readonly prefix: string;
  /** Every dead letter, whatever became of it. */
  readonly letters: ReadonlyArray<{
    readonly id: string;
    readonly originalJobId: string;
    readonly isMine: boolean;
    /** No other letter is of the same job. */
    readonly isSingle: boolean;
  }>;
  /** The events that `restore` takes. */
  readonly events: ReadonlyArray<string>;
  /** Jobs of that person which a runner has. */
  readonly running: ReadonlyArray<string>;
  readonly inserted: number;
  /** A backup of the letters: as they were at first, the replayed ones as they are now as well, and some of another queue. */
  readonly lines: ReadonlyArray<Line>;
  readonly jobs: ReadonlySet<string>;
  /** How many of them were purged. */
  readonly purgedJobs: number;
}

export interface Line {
  readonly id: string;
  readonly text: string;
}

const decodeIds = S.decodeUnknown(S.Array(S.Struct({ id: S.String })));
const decodeLetters = S.decodeUnknown(
  S.Array(S.Struct({ id: S.String, originalJobId: S.String, type: S.String, isMine: S.Boolean })),
);

/** Jobs are submitted with this many attempts. One that a replay made anew has its type's default, and is known by it. */
const submittedWith = 7;

/** The jobs of a queue by what becomes of them, and whether each is the person's. */
const states: ReadonlyArray<readonly [string, ReadonlyArray<boolean>]> = [
  ["running", [true, true]],
  ["alive", [true]],
  ["expired", [true, false]],
  ["old", [true, false]],
  ["discarded", [true, true, false]],
  ["replayed", [true, true, false]],
  ["dead", [true, false, true, false]],
  ["twice", [true]],
  ["purged", [true, false]],
];

/** Letters of dead, purged, running and living jobs, two of one job, replayed, discarded, expired and old ones. */
export const newQueue = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const appId = yield* newTenant;
  const userId = randomUUID();
  const canary = `canary-${randomUUID()}`;
  const prefix = `race.${appId}.`;
  const input = states.flatMap(([state, mine]) =>
    mine.map((isMine) => ({
      ...work(appId, {
        type: `${prefix}${state}`,
        payload: isMine ? { canary } : { to: "a@example.com" },
        maxAttempts: submittedWith,
      }),
      userId: isMine ? Option.some(userId) : Option.none(),
      requestId: Option.some(randomUUID()),
    })),
  );
  // One statement for many where the service would take one for each: the setup is not what is tested here.
  const bury = (jobIds: ReadonlyArray<string>) => sql`
    INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, request_id, user_id)
    SELECT id, app_id, type, payload, 'MaxRetries', 3,
      jsonb_build_array(jsonb_build_object('error', COALESCE(payload ->> 'canary', 'no route'), 'timestamp', 1790000000000)), request_id, user_id
    FROM jobs WHERE id = ANY (${jobIds}::uuid[]) ORDER BY id`;
  const age = (state: string) => sql`
    UPDATE job_dlq SET dlq_at = now() - interval '3 days' WHERE type = ${`${prefix}${state}`}`;

  return yield* Client.tenant(appId)(
    Effect.gen(function* () {
      const jobs = yield* db.jobs.enqueueMany(input);
      const jobsIn = (...wanted: ReadonlyArray<string>) =>
        jobs.filter((_, place) => wanted.some((state) => input[place]?.type === `${prefix}${state}`));
      const alive = jobsIn("running", "alive");
      yield* sql`
        UPDATE jobs
        SET status = 'processing', attempts = 1, started_at = now(), locked_by = 'r', locked_until = now() + interval '1 hour'
        WHERE id = ANY (${alive}::uuid[])`;
      const died = jobs.filter((id) => !alive.includes(id));
      yield* sql`UPDATE jobs SET status = 'dead', attempts = 3, completed_at = now() WHERE id = ANY (${died}::uuid[])`;
      yield* bury([...died, ...jobsIn("alive")]);
      yield* bury(jobsIn("twice"));
      yield* sql`DELETE FROM jobs WHERE id = ANY (${jobsIn("purged")}::uuid[])`;

      const rows = yield* sql`
        SELECT id, original_job_id, type, user_id IS NOT NULL AS is_mine FROM job_dlq WHERE app_id = ${appId} ORDER BY id`;
      const letters = (yield* Effect.orDie(decodeLetters(rows))).map(({ id, isMine, originalJobId, type }) => ({
        id,
        originalJobId,
        isMine,
        isSingle: type !== `${prefix}twice`,
        type,
      }));
      const idsIn = (state: string, isMine: boolean) =>
        letters.filter((each) => each.type === `${prefix}${state}` && each.isMine === isMine).map(({ id }) => id);
      const backup = yield* Stream.runCollect(db.jobDlq.exportTo({ state: "any" }));
      yield* age("expired");
      yield* db.jobDlq.retain({ pending: 1 }, { actor: "setup" });
      yield* age("old");
      const discarded = [...idsIn("discarded", true), ...idsIn("discarded", false)];
      yield* db.jobDlq.discard(discarded, { actor: "setup", reason: "not needed" });
      yield* db.jobDlq.replay(idsIn("replayed", true), { actor: "setup", payload: { canary, fixed: true } });
      yield* db.jobDlq.replay(idsIn("replayed", false), { actor: "setup" });

      const removals = yield* sql`
        SELECT id FROM job_dlq_events WHERE app_id = ${appId} AND kind IN ('discarded', 'expired')`;
      const queue: Queue = {
        appId,
        userId,
        canary,
        prefix,
        letters,
        events: (yield* Effect.orDie(decodeIds(removals))).map(({ id }) => id),
        running: jobsIn("running"),
        inserted: letters.length,
        lines: linesOf(Chunk.toReadonlyArray(backup), `${prefix}imported`),
        jobs: new Set(jobs),
        purgedJobs: jobsIn("purged").length,
      };
      return queue;
    }),
  );
});

const decodeLine = S.decodeUnknownSync(S.parseJson(S.Struct({ id: S.String }, { key: S.String, value: S.Unknown })));

const linesOf = (backup: ReadonlyArray<string>, type: string): ReadonlyArray<Line> => {
  const letters = backup.map((text) => decodeLine(text));
  const line = (letter: { readonly id: string }) => ({ id: letter.id, text: `${JSON.stringify(letter)}\n` });
  // Nobody's, so that an erasure that ends before the import has nothing to look for in them.
  const others = letters
    .filter(({ userId }) => userId === null)
    .map((letter) => ({ ...letter, id: randomUUID(), originalJobId: randomUUID(), type }));
  const replayed = letters
    .filter(({ type }) => String(type).endsWith(".replayed"))
    .map((letter) => ({ ...letter, replayedAt: letter.dlqAt }));
  return [...letters, ...replayed, ...others].map(line);
};

// --- who contends for it -----------------------------------------------------

/** What one caller was told, and what it put in. */
export interface Claim {
  readonly replayed?: ReadonlyArray<ReplayReceipt>;
  readonly discarded?: ReadonlyArray<DiscardReceipt>;
  readonly restored?: ReadonlyArray<RestoreReceipt>;
  readonly erased?: ErasureReceipt;
  readonly retained?: RetentionReceipt;
  readonly purged?: number;
  readonly inserted?: number;
  readonly imported?: { readonly count: number; readonly refused: ReadonlyArray<{ id: string; reason: string }> };
  readonly purgedJobs?: number;
}

export type Contender = (
  queue: Queue,
  actor: string,
) => Effect.Effect<Claim, unknown, DatabaseService | SqlClient.SqlClient>;

const some = (ids: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const shuffled = Chunk.toReadonlyArray(yield* Random.shuffle(ids));
    return shuffled.slice(0, yield* Random.nextIntBetween(1, ids.length + 1));
  });

const someLetters = (queue: Queue) => some(queue.letters.map(({ id }) => id));

/** The tenant's scope or the one over all, as it comes. */
const scopeOf = (queue: Queue) =>
  Effect.map(Random.nextBoolean, (isSystem) =>
    isSystem ? ({ _tag: "system" } as const) : ({ _tag: "tenant", appId: queue.appId } as const),
  );
const inScopeOf =
  (scope: Client.DataScope) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    scope._tag === "system" ? Client.system(effect) : Client.tenant(scope.appId)(effect);

/** Bulk options with batches so small that others get in between. */
const bulkOf = (queue: Queue) =>
  Effect.gen(function* () {
    return { scope: yield* scopeOf(queue), batchSize: yield* Random.nextIntBetween(1, 5) };
  });
const filterOf = (queue: Queue) =>
  Effect.gen(function* () {
    return (yield* Random.nextBoolean) ? { type: { prefix: queue.prefix } } : { ids: yield* someLetters(queue) };
  });
const receiptsOf = <A, E, R>(stream: Stream.Stream<{ readonly receipts: ReadonlyArray<A> }, E, R>) =>
  Effect.map(Stream.runCollect(stream), (all) => Chunk.toReadonlyArray(all).flatMap(({ receipts }) => receipts));

const retain = (policy: { replayed?: number; pending?: number; discarded?: number }): Contender =>
  Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const scope = policy.discarded === undefined ? yield* scopeOf(queue) : ({ _tag: "system" } as const);
    const batchSize = yield* Random.nextIntBetween(1, 5);
    return { retained: yield* db.jobDlq.retain(policy, { actor, scope, batchSize }) };
  });

export const contenders = {
  "replay by ids": Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const scope = yield* scopeOf(queue);
    // A payload of one's own leaves a difference in the ledger, which an erasure has to find.
    const isOverride = yield* Random.nextBoolean;
    const ids = yield* isOverride ? some(queue.letters.filter((_) => _.isMine).map((_) => _.id)) : someLetters(queue);
    const options = isOverride ? { actor, payload: { canary: queue.canary, again: true } } : { actor };
    return { replayed: yield* inScopeOf(scope)(db.jobDlq.replay(ids, options)) };
  }),
  "replay by filter": Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const options = { actor, ...(yield* bulkOf(queue)) };
    return { replayed: yield* receiptsOf(db.jobDlq.replay(yield* filterOf(queue), options)) };
  }),
  "discard by ids": Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const ids = yield* someLetters(queue);
    const scope = yield* scopeOf(queue);
    return { discarded: yield* inScopeOf(scope)(db.jobDlq.discard(ids, { actor, reason: "race" })) };
  }),
  "discard by filter": Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const options = { actor, reason: "race", ...(yield* bulkOf(queue)) };
    return { discarded: yield* receiptsOf(db.jobDlq.discard(yield* filterOf(queue), options)) };
  }),
  restore: Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const ids = yield* some(queue.events);
    const scope = yield* scopeOf(queue);
    return { restored: yield* inScopeOf(scope)(db.jobDlq.restore(ids, { actor })) };
  }),
  "erase a person": Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const scope = yield* scopeOf(queue);
    return { erased: yield* inScopeOf(scope)(db.jobDlq.erase({ userId: queue.userId }, { actor })) };
  }),
  "erase by filter": Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const scope = yield* scopeOf(queue);
    const filter = yield* filterOf(queue);
    return { erased: yield* inScopeOf(scope)(db.jobDlq.erase(filter, { actor })) };
  }),
  "retain replayed": retain({ replayed: 0 }),
  "retain pending": retain({ pending: 1 }),
  "retain discarded": retain({ discarded: 0 }),
  purge_job_dlq: Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    return { purged: yield* Client.tenant(queue.appId)(db.jobDlq.purge(0, { actor })) };
  }),
  purge_jobs: Effect.fnUntraced(function* (queue) {
    const db = yield* DatabaseService;
    return { purgedJobs: yield* Client.tenant(queue.appId)(db.jobs.purge(0)) };
  }),
  insert: Effect.fnUntraced(function* (queue) {
    const db = yield* DatabaseService;
    const entries = Array.from({ length: yield* Random.nextIntBetween(1, 6) }, () =>
      letter(queue.appId, { type: `${queue.prefix}new` }),
    );
    return { inserted: yield* Client.tenant(queue.appId)(db.jobDlq.insertMany(entries)) };
  }),
  import: Effect.fnUntraced(function* (queue, actor) {
    const db = yield* DatabaseService;
    const lines = Chunk.toReadonlyArray(yield* Random.shuffle(queue.lines));
    const text = Stream.fromIterable(lines.map((_) => _.text));
    const batches = yield* Stream.runCollect(db.jobDlq.importFrom(text, { actor, ...(yield* bulkOf(queue)) }));
    const refused = Chunk.toReadonlyArray(batches)
      .flatMap(({ problems }) => problems)
      .map(({ line, reason }) => ({ id: lines[line - 1]?.id ?? "", reason }));
    const last = Option.getOrThrow(Chunk.last(batches));
    assert.strictEqual(last.imported + last.duplicates + last.refused, lines.length, "lines");
    return { imported: { count: last.imported, refused } };
  }),
  "dead-letter": Effect.fnUntraced(function* (queue) {
    const db = yield* DatabaseService;
    let inserted = 0;
    for (const id of queue.running) {
      const error = `Error: ${queue.canary}`;
      yield* Client.tenant(queue.appId)(db.jobs.deadLetter({ id, reason: "MaxRetries", error })).pipe(
        Effect.zipRight(Effect.sync(() => inserted++)),
        // Erased first: its runner is told that it does not hold the job any more.
        Effect.catchTag("JobNotHeld", () => Effect.void),
      );
    }
    return { inserted };
  }),
} satisfies Record<string, Contender>;
export type ContenderName = keyof typeof contenders;

// --- what happened -----------------------------------------------------------

const Event = S.Struct({
  id: S.String,
  kind: S.String,
  dlqId: S.NullOr(S.String),
  originalJobId: S.NullOr(S.String),
  actor: S.String,
  undoes: S.NullOr(S.String),
  source: S.NullOr(S.String),
  count: S.NullOr(S.Int),
});
const decodeEvents = S.decodeUnknown(S.Array(Event));
const decodeJobs = S.decodeUnknown(
  S.Array(S.Struct({ id: S.String, status: S.String, isEmpty: S.Boolean, maxAttempts: S.Int })),
);

const sorted = (ids: Iterable<string | null>) => [...ids].map(String).sort();

/** Every row of every table that holds one of the texts somewhere, whoever's it is. As the login, past every policy. */
export const traces = (texts: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const tables = yield* sql`SELECT tablename FROM pg_tables WHERE schemaname = 'public'`;
    const found: Array<string> = [];
    for (const { tablename } of tables) {
      const table = String(tablename);
      const rows = yield* sql`
        SELECT t::text AS row FROM ${sql(table)} t WHERE ${sql.or(texts.map((text) => sql`strpos(t::text, ${text}) > 0`))}`;
      for (const { row } of rows) found.push(`${table}: ${row}`);
    }
    return found;
  });

/** Holds what each caller was told against the ledger, and the whole against the equations. */
export const judge = (
  queue: Queue,
  results: ReadonlyArray<{ readonly name: ContenderName; readonly actor: string; readonly claim: Claim }>,
) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const actors = results.map(({ actor }) => actor);
    const names = new Set(results.map(({ name }) => name));
    const columns = sql`
      SELECT id, kind, dlq_id, original_job_id, actor, undoes, detail ->> 'source' AS source, (detail ->> 'count')::int AS count FROM job_dlq_events`;
    const own = yield* Effect.orDie(
      Effect.flatMap(sql`${columns} WHERE actor = ANY (${actors}::text[])`, decodeEvents),
    );
    const all = yield* Effect.orDie(Effect.flatMap(sql`${columns} WHERE app_id = ${queue.appId}`, decodeEvents));
    const jobs = yield* Effect.orDie(
      Effect.flatMap(
        sql`
          SELECT id, status, payload = 'null' AND user_id IS NULL AS is_empty, max_attempts FROM jobs WHERE app_id = ${queue.appId}`,
        decodeJobs,
      ),
    );
    const jobById = new Map(jobs.map((job) => [job.id, job]));
    const replayedRows = yield* sql`SELECT id FROM job_dlq WHERE app_id = ${queue.appId} AND replayed_at IS NOT NULL`;
    const goneOrReplayed = new Set([
      ...replayedRows.map(({ id }) => String(id)),
      ...all
        .filter(({ kind }) => ["replayed", "discarded", "expired", "erased"].includes(kind))
        .map(({ dlqId }) => dlqId),
    ]);
    const undone = new Set(all.map(({ undoes }) => undoes));
    const idsOf = (kind: string) => new Set(all.filter((event) => event.kind === kind).map(({ dlqId }) => dlqId));
    const [erased, imported, wasReplayed] = [idsOf("erased"), idsOf("imported"), idsOf("replayed")];
    // Retention of what was discarded takes events away, purges take letters without a line for each.
    const keepsEvents = !names.has("retain discarded");
    const keepsLetters = keepsEvents && !names.has("purge_job_dlq") && !names.has("retain replayed");

    for (const { actor, claim, name } of results) {
      const mine = own.filter((event) => event.actor === actor);
      const kind = (...kinds: ReadonlyArray<string>) => mine.filter((event) => kinds.includes(event.kind));
      const sum = (source: string) =>
        kind("purged").reduce((total, event) => total + (event.source === source ? (event.count ?? 0) : 0), 0);
      const told = (outcome: string) =>
        [...(claim.replayed ?? []), ...(claim.discarded ?? [])].filter((receipt) => receipt.outcome === outcome);

      const replayed = (claim.replayed ?? []).filter(({ outcome }) => outcome === "replayed");
      assert.deepStrictEqual(
        sorted(replayed.map(({ id }) => id)),
        sorted(kind("replayed").map(({ dlqId }) => dlqId)),
        `${name}: receipts and ledger disagree about what was replayed`,
      );
      const discarded = (claim.discarded ?? []).filter(({ outcome }) => outcome === "discarded");
      const discardedTold = sorted(discarded.map(({ eventId, id }) => `${eventId} of ${id}`));
      const discardedDone = sorted(kind("discarded").map(({ dlqId, id }) => `${id} of ${dlqId}`));
      const restoredTold = sorted(
        (claim.restored ?? []).filter(({ outcome }) => outcome === "restored").map(({ eventId }) => eventId),
      );
      const restoredDone = sorted(kind("restored").map(({ undoes }) => undoes));
      if (keepsEvents) {
        assert.deepStrictEqual(discardedTold, discardedDone, `${name}: receipts and ledger disagree about discarded`);
        assert.deepStrictEqual(restoredTold, restoredDone, `${name}: receipts and ledger disagree about restored`);
      } else {
        for (const done of discardedDone) assert.include(discardedTold, done);
        for (const done of restoredDone) assert.include(restoredTold, done);
      }

      for (const { id } of keepsLetters ? told("already gone") : []) {
        assert.isTrue(goneOrReplayed.has(id), `${name}: ${id} is said to be gone, and is not`);
      }
      for (const { id } of told("erased"))
        assert.isTrue(erased.has(id), `${name}: ${id} is said to be erased, and is not`);
      if (keepsLetters) assert.deepStrictEqual(told("not found"), [], `${name} did not find a letter`);
      for (const { dlqId, originalJobId } of kind("replayed")) {
        // Cancelled is what an erasure after it makes of it. Nothing here runs a job that came back.
        const wanted = erased.has(dlqId) ? ["cancelled"] : ["pending", "cancelled"];
        assert.include(wanted, jobById.get(originalJobId ?? "")?.status, `${name}: the job of ${dlqId}`);
      }
      if (!names.has("dead-letter") && !names.has("purge_jobs")) {
        for (const receipt of claim.replayed ?? []) {
          if (receipt.outcome !== "job not dead") continue;
          const jobId = queue.letters.find(({ id }) => id === receipt.id)?.originalJobId ?? "";
          // A batch leaves the job to its newest letter, which another one may take out before the batch that has it.
          const isNewest = !queue.letters.some(({ id, originalJobId }) => originalJobId === jobId && id > receipt.id);
          if (name === "replay by filter" && !isNewest) continue;
          const status = jobById.get(jobId)?.status;
          assert.include(["pending", "processing", "cancelled"], status, `${name}: ${receipt.id}: job not dead`);
        }
      }

      for (const receipt of claim.restored ?? []) {
        if (receipt.outcome === "id exists")
          assert.isTrue(imported.has(receipt.id), `${name}: ${receipt.eventId}: id exists`);
        if (keepsEvents) assert.notStrictEqual(receipt.outcome, "not found", `${name}: ${receipt.eventId}`);
        if (keepsEvents && receipt.outcome === "already restored") assert.isTrue(undone.has(receipt.eventId));
        if (receipt.outcome === "erased") assert.isTrue(erased.has(receipt.id));
      }
      assert.strictEqual(claim.imported?.count ?? 0, kind("imported").length, `${name}: imported`);
      for (const { id, reason } of claim.imported?.refused ?? []) {
        const known = new Map([
          ["erased", erased],
          ["replayed", wasReplayed],
        ]).get(reason);
        assert.isTrue(known?.has(id), `${name}: ${id} is refused as ${reason}`);
      }
      assert.strictEqual(
        claim.erased?.letters ?? 0,
        kind("erased").filter(({ source }) => source === "table").length,
        `${name}: letters erased`,
      );
      assert.strictEqual(
        claim.erased?.copies ?? 0,
        kind("erased").filter(({ source }) => source === "ledger").length,
        `${name}: copies erased`,
      );
      assert.strictEqual(
        (claim.purged ?? 0) + (claim.retained?.replayed ?? 0),
        sum("replayed"),
        `${name}: replayed purged`,
      );
      if (keepsEvents) assert.strictEqual(claim.retained?.pending ?? 0, kind("expired").length, `${name}: expired`);
    }

    // Nothing cancels a job but an erasure, which counts them.
    const cancelled = results.reduce((total, { claim }) => total + (claim.erased?.jobsCancelled ?? 0), 0);
    if (!names.has("purge_jobs")) {
      assert.strictEqual(jobs.filter(({ status }) => status === "cancelled").length, cancelled, "jobs cancelled");
    }
    for (const { id, isSingle, originalJobId } of queue.letters) {
      if (!erased.has(id) || !isSingle) continue;
      const job = jobById.get(originalJobId);
      if (job !== undefined) assert.isTrue(job.isEmpty, `the job ${originalJobId} of an erased letter has a payload`);
    }
    if (names.has("erase a person")) assert.deepStrictEqual(yield* traces([queue.userId, queue.canary]), []);

    // A letter that was inserted or imported may be of a job that was never submitted here: as good as purged.
    const foreign = new Set(
      own.filter(({ kind }) => kind === "replayed").map(({ originalJobId }) => originalJobId ?? ""),
    );
    for (const id of queue.jobs) foreign.delete(id);
    // One that was made anew waits, and no purge takes it: the cancellation of an erasure is never beside a purge and a replay.
    const remade = jobs.filter(({ id, maxAttempts }) => queue.jobs.has(id) && maxAttempts !== submittedWith).length;
    const total = (of: (claim: Claim) => number | undefined) =>
      results.reduce((sum, { claim }) => sum + (of(claim) ?? 0), 0);
    yield* eachOnce(queue.appId);
    yield* balance({
      appId: queue.appId,
      inserted: queue.inserted + total((_) => _.inserted),
      submitted: queue.jobs.size + foreign.size,
      purgedJobs: queue.purgedJobs + total((_) => _.purgedJobs) - remade,
    });
  });

/** Takes the round away, so that the next one does not read it. The ledger gives it only to a retention. */
const forget = ({ appId }: Queue) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    yield* Client.system(
      Effect.gen(function* () {
        yield* sql`SELECT set_config('app.ledger_retention_days', '0', true)`;
        yield* sql`DELETE FROM job_dlq_events WHERE app_id = ${appId} AND kind <> 'erased'`;
        yield* sql`DELETE FROM job_dlq WHERE app_id = ${appId}`;
        yield* sql`DELETE FROM jobs WHERE app_id = ${appId}`;
      }),
    );
  });

/** One round: the contenders at once, each on a connection of its own, then the judge. */
export const round = (names: ReadonlyArray<ContenderName>, seed: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const queue = yield* newQueue;
    const results = yield* Effect.forEach(
      names,
      (name, place) =>
        Effect.gen(function* () {
          const actor = `${name} ${place} ${queue.appId}`;
          // A head start of none to three round trips.
          yield* Effect.replicateEffect(sql`SELECT`, yield* Random.nextIntBetween(0, 4));
          const run: Contender = contenders[name];
          return { name, actor, claim: yield* run(queue, actor) };
        }).pipe(Effect.withRandom(Random.make(`${seed}/${place}`))),
      { concurrency: "unbounded" },
    );
    yield* judge(queue, results);
    yield* forget(queue);
  }).pipe(Effect.tapErrorCause(() => Effect.sync(() => console.log(`failed: ${names.join(" × ")}, round ${seed}`))));
