/**
 * Upgrades: a database of every earlier level, with data in every state, becomes this release's without loss, and works.
 *
 * What is tested elsewhere: a migration that fails, two runners at once, a ledger that does not fit (`migrator.test.ts`), an older
 * and a newer release beside each other (`packages/jobs/test/rolling.test.ts`).
 */
import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as S from "effect/Schema";
import * as Client from "../src/client.js";
import * as Migrator from "../src/migrator.js";
import { DatabaseService } from "../src/repos.js";
import { withoutDeadlock } from "./support/contest.js";
import { databaseAt, letter, work } from "./support/database.js";
import { committed, differences, read } from "./support/schema.js";

const latest = Migrator.catalogue.length;
const nameOf = (level: number) => Migrator.fileName(Migrator.catalogue[level - 1] ?? { id: level, name: "none" });
const actor = "operator";

/** As uuidv7() makes them: the partitions of the recipe go by their time. */
const newId = () => {
  const time = Date.now().toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
};

/** What the two tenants have alike: ids of jobs and letters by what they are. */
const makeTenant = () => ({
  id: newId(),
  userId: newId(),
  pending: newId(),
  running: newId(),
  lost: newId(),
  dead: newId(),
  letter: newId(),
  second: newId(),
  done: newId(),
  event: newId(),
  gone: newId(),
});
type Tenant = ReturnType<typeof makeTenant>;

/** Texts that are easily changed on the way: quotes, backslashes, signs beyond the first plane, a number that no double holds. */
const odd = String.raw`{"a'b\"c": "\\ü𝄞\n\u001f", "n": 9007199254740993, "x": 1.10, "e": [], "z": {"": null}}`;
const oddHistory = String.raw`[{"error": "Error: 'deadbeefcafe' \"$1\" \n    at x", "timestamp": 1790000000001, "extra": [1]}, {"error": "", "timestamp": 2}]`;

/** Data as an application of that level wrote it, by SQL that was legal then. */
const fill = (level: number, tenants: ReadonlyArray<Tenant>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    for (const t of tenants) {
      yield* sql`INSERT INTO apps (id, name, updated_at) VALUES (${t.id}, ${`app of ${t.id}`}, '2026-01-01T00:00:00.123456Z')`;
      yield* sql`
        INSERT INTO jobs (id, app_id, user_id, request_id, type, payload, priority, status, attempts, max_attempts, error_history,
          scheduled_at, started_at, completed_at, locked_by, locked_until, replays)
        SELECT COALESCE(id, uuidv7()), ${t.id}, user_id, uuidv7(), 'mail.send', ${odd}::jsonb, priority::job_priority, status, attempts, 3,
          ${oddHistory}::jsonb, '2026-01-01T00:00:00.000001Z', CASE WHEN attempts > 0 THEN now() END,
          CASE WHEN status IN ('completed', 'dead', 'cancelled') THEN '2026-01-02T00:00:00.123456Z'::timestamptz END,
          CASE WHEN status = 'processing' THEN 'runner' END, locked_until, replays
        FROM (VALUES
          (${t.pending}::uuid, 'pending', 'critical', 0, 0, NULL::timestamptz, NULL::uuid),
          (NULL, 'pending', 'low', 2, 7, NULL, ${t.userId}::uuid),
          (${t.running}, 'processing', 'normal', 1, 0, now() + interval '1 hour', NULL),
          (${t.lost}, 'processing', 'high', 3, 0, now() - interval '1 hour', NULL),
          (NULL, 'completed', 'normal', 1, 0, NULL, NULL),
          (NULL, 'cancelled', 'normal', 0, 0, NULL, NULL),
          (${t.dead}, 'dead', 'normal', 3, 0, NULL, ${t.userId})
        ) AS v (id, status, priority, attempts, replays, locked_until, user_id)`;
      if (level >= 2) {
        yield* sql`
          INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at,
            request_id, user_id, updated_at)
          SELECT COALESCE(id, uuidv7()), COALESCE(job, uuidv7()), ${t.id}, type, payload::jsonb, reason, attempts, history::jsonb,
            dlq_at::timestamptz, replayed_at::timestamptz, request_id, user_id, dlq_at::timestamptz
          FROM (VALUES
            (${t.letter}::uuid, ${t.dead}::uuid, 'mail.send', ${odd}, 'MaxRetries', 3, ${oddHistory}, '2026-01-02T00:00:00.123456Z', NULL,
              uuidv7(), ${t.userId}::uuid),
            (${t.second}, NULL, 'a''b"c\\ü𝄞', '"only a text"', 'Validation', 0, '[]', '2026-01-02T00:00:00.123457Z', NULL, NULL, NULL),
            (${t.done}, NULL, 'mail.send', 'null', 'HandlerMissing', 1, '[{"error":"e","timestamp":1}]', '2025-01-01T00:00:00Z',
              '2025-02-01T00:00:00.000001Z', NULL, ${t.userId}),
            (NULL, NULL, 'mail.send', '[[1, 2], {"k": 1e400}]', 'RunnerUnavailable', 2147483647, '[1, null, "no object"]',
              '2026-01-03T00:00:00Z', NULL, uuidv7(), NULL)
          ) AS v (id, job, type, payload, reason, attempts, history, dlq_at, replayed_at, request_id, user_id)`;
      }
      if (level >= 3) {
        const entry = JSON.stringify({
          id: t.gone,
          original_job_id: t.pending,
          app_id: t.id,
          type: "mail.send",
          error_reason: "MaxRetries",
          attempts: 3,
          dlq_at: "2026-01-02T00:00:00.123456+00:00",
          replayed_at: null,
          request_id: null,
          user_id: t.userId,
          updated_at: "2026-01-02T00:00:00.123456+00:00",
        });
        yield* sql`
          INSERT INTO job_dlq_events (id, app_id, dlq_id, original_job_id, kind, actor, reason, detail, entry, undoes, at)
          SELECT COALESCE(id, uuidv7()), ${t.id}, letter, CASE WHEN letter IS NOT NULL THEN ${t.pending}::uuid END, kind, 'a''b"c',
            reason, detail::jsonb, entry::jsonb || jsonb_build_object('payload', ${odd}::jsonb, 'error_history', ${oddHistory}::jsonb),
            undoes, '2026-01-04T00:00:00.000001Z'
          FROM (VALUES
            (${t.event}::uuid, 'discarded', ${t.gone}::uuid, 'nobody needs it', NULL, ${entry}, NULL::uuid),
            (NULL, 'replayed', ${t.done}, NULL, ${`{"user_id": "${t.userId}", "payload_diff": ${odd}}`}, NULL, NULL),
            (NULL, 'restored', uuidv7(), NULL, NULL, NULL, uuidv7()),
            (NULL, 'expired', uuidv7(), 'old', '{"run": "r"}', ${entry}, NULL),
            (NULL, 'erased', uuidv7(), NULL, '{"source": "table"}', NULL, NULL),
            (NULL, 'imported', uuidv7(), NULL, NULL, NULL, NULL),
            (NULL, 'viewed', uuidv7(), NULL, NULL, NULL, NULL),
            (NULL, 'purged', NULL, NULL, '{"count": 3}', NULL, NULL)
          ) AS v (id, kind, letter, reason, detail, entry, undoes)`;
      }
      if (level >= 7) {
        yield* sql`
          UPDATE jobs SET dedupe_key = ${odd}, suspect = true, progress = ${odd}::jsonb WHERE id = ${t.pending}`;
        yield* sql`UPDATE jobs SET in_company = true WHERE id = ${t.running}`;
      }
    }
    if (level >= 5) {
      yield* sql`INSERT INTO job_dlq_events (kind, actor, detail) VALUES ('purged', 'retention', '{"source": "retain"}')`;
    }
    if (level >= 7) {
      yield* sql`INSERT INTO job_runners (address, runner, healthy) VALUES ('host:1', 'r', false)`;
      yield* sql`INSERT INTO job_shards (shard_id, address) VALUES ('default:1', 'host:1')`;
    }
  });

const tables = ["apps", "jobs", "job_dlq", "job_dlq_events", "job_runners", "job_shards"] as const;
type Table = (typeof tables)[number];

/** What a migration computes anew, by the first level that has it so. Every other column is as it was. */
const rewritten: Partial<Record<Table, { readonly column: string; readonly by: number }>> = {
  job_dlq: { column: "fingerprint", by: 6 },
};

const Columns = S.Array(S.Struct({ name: S.String }));
const Rows = S.Array(S.Struct({ row: S.String }));

/** The columns that a table has; none when there is no such table. */
const columnsOf = (table: Table) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* sql`
      SELECT a.attname::text AS name FROM pg_attribute a
      WHERE a.attrelid = to_regclass(${`public.${table}`}) AND a.attnum > 0 AND NOT a.attisdropped`;
    return (yield* S.decodeUnknown(Columns)(rows)).map(({ name }) => name);
  });

/** Every row of a table, in these columns, as the text of its jsonb. */
const rowsOf = (table: Table, columns: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* sql`
      SELECT (SELECT jsonb_object_agg(key, value)::text FROM jsonb_each(to_jsonb(t)) WHERE key = ANY (${columns}::text[])) AS row
      FROM ${sql(table)} t`;
    return (yield* S.decodeUnknown(Rows)(rows)).map(({ row }) => row).sort();
  });

/** All that is there, to compare with what is there after an upgrade from `level`. */
const contents = (level: number) =>
  Effect.gen(function* () {
    const held: Array<{
      readonly table: Table;
      readonly columns: ReadonlyArray<string>;
      readonly rows: ReadonlyArray<string>;
    }> = [];
    for (const table of tables) {
      const all = yield* columnsOf(table);
      if (all.length === 0) continue;
      const anew = rewritten[table];
      const columns = all.filter((_) => anew === undefined || level >= anew.by || _ !== anew.column);
      held.push({ table, columns, rows: yield* rowsOf(table, columns) });
    }
    return held;
  });

const unchanged = (before: Effect.Effect.Success<ReturnType<typeof contents>>) =>
  Effect.gen(function* () {
    for (const { columns, rows, table } of before) {
      assert.isNotEmpty(rows, table);
      assert.deepStrictEqual(yield* rowsOf(table, columns), rows, table);
    }
  });

/** A tenant sees its own rows and no others; the system scope sees all. */
const keptApart = (tenants: ReadonlyArray<Tenant>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const seen = sql`
      SELECT (SELECT array_agg(DISTINCT id) FROM apps) AS apps, (SELECT array_agg(DISTINCT app_id) FROM jobs) AS jobs,
        (SELECT array_agg(DISTINCT app_id) FROM job_dlq) AS job_dlq,
        (SELECT array_agg(DISTINCT app_id) FROM job_dlq_events WHERE app_id IS NOT NULL) AS events`;
    for (const { id } of tenants) {
      for (const found of Object.values((yield* Client.tenant(id)(seen))[0] ?? {})) {
        if (found !== null) assert.deepStrictEqual(found as unknown, [id]);
      }
    }
    const [all] = yield* Client.system(seen);
    assert.sameMembers(
      [...(yield* S.decodeUnknown(S.Array(S.String))(all?.jobs))],
      tenants.map(({ id }) => id),
    );
  });

/** What people and runners do with what an older release left. */
const works = (level: number, t: Tenant) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const mine = Client.tenant(t.id);
    const claimed = yield* mine(db.jobs.claim({ runner: "r", limit: 10 }));
    assert.include(
      claimed.map(({ id }) => id),
      t.pending,
    );
    for (const job of claimed) yield* mine(db.jobs.complete(job));
    // The lost one had its last attempt, and leaves a letter.
    assert.deepInclude(yield* mine(db.jobs.rescue()), { deadLettered: 1, retried: 0 });
    if (level < 2) return;
    const pending = yield* mine(db.jobDlq.pagePending({}));
    assert.includeMembers(
      pending.items.map(({ id }) => id),
      [t.letter, t.second],
    );
    // The one whose history no release writes is told, and hides nobody.
    assert.lengthOf(pending.bad, 1);
    assert.deepStrictEqual(
      (yield* mine(db.jobDlq.replay([t.letter, t.done, t.gone], { actor }))).map(({ outcome }) => outcome),
      ["replayed", "already gone", level >= 3 ? "already gone" : "not found"],
    );
    const [discarded] = yield* mine(db.jobDlq.discard([t.second], { actor, reason: "old" }));
    assert.strictEqual(discarded?.outcome, "discarded");
    const events = [discarded?.eventId ?? "", ...(level >= 3 ? [t.event] : [])];
    assert.deepStrictEqual(
      (yield* mine(db.jobDlq.restore(events, { actor }))).map(({ outcome }) => outcome),
      events.map(() => "restored"),
    );
    assert.strictEqual(yield* mine(db.jobDlq.purge(0)), 2);
    const erased = yield* mine(db.jobDlq.erase({ userId: t.userId }, { actor }));
    assert.isAtLeast(erased.jobsEmptied, 2);
    assert.isNotEmpty(yield* mine(db.jobDlq.stats({ by: "type" })));
    yield* mine(db.jobDlq.insert(letter(t.id)));
    yield* mine(db.jobs.enqueue(work(t.id)));
    assert.isAbove(yield* mine(db.jobs.purge(0)), 0);
  });

const recipe = fs.readFileSync(new URL("../recipes/partition-job-dlq.sql", import.meta.url), "utf8");
const partition = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* sql.unsafe(recipe);
  for (const step of ["prepare", "validate", "swap"]) yield* sql.unsafe(`SELECT job_dlq_partitions.${step}()`);
});

const upgrade = (level: number, isPartitioned: boolean) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const tenants = [makeTenant(), makeTenant()];
    yield* fill(level, tenants);
    if (isPartitioned) yield* partition;
    const before = yield* contents(level);
    const applied = yield* Migrator.run();
    assert.deepStrictEqual(
      applied.map(({ id }) => id),
      Array.from({ length: latest - level }, (_, i) => level + 1 + i),
    );
    yield* unchanged(before);
    yield* keptApart(tenants);
    for (const tenant of tenants) yield* works(level, tenant);
    if (isPartitioned) yield* sql.unsafe("SELECT job_dlq_partitions.undo()");
    assert.deepStrictEqual(differences(committed("latest"), yield* read), []);
  });

describe("an upgrade", () => {
  for (let level = 1; level < latest; level++) {
    it.effect(`from ${nameOf(level)} loses nothing, and what was there works`, () =>
      Effect.provide(upgrade(level, false), databaseAt(level)),
    );
  }

  for (let level = 7; level < latest; level++) {
    it.effect(
      `from ${nameOf(level)}, partitioned by the recipe, loses nothing, and becomes one table of this release again`,
      () => Effect.provide(upgrade(level, true), databaseAt(level)),
    );
  }

  it.effect("counter-test: a migration that changes a column, drops a row or opens a policy is noticed", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const tenants = [makeTenant(), makeTenant()];
      yield* fill(latest, tenants);
      const before = yield* contents(latest);
      yield* unchanged(before);
      for (const change of [
        "UPDATE jobs SET payload = payload || '{}' || '{\"n\": 9007199254740992}' WHERE status = 'pending'",
        "UPDATE job_dlq SET dlq_at = date_trunc('milliseconds', dlq_at)",
        "DELETE FROM job_dlq WHERE replayed_at IS NOT NULL",
        "ALTER TABLE jobs DROP COLUMN progress",
      ]) {
        const exit = yield* Effect.exit(
          sql.withTransaction(
            Effect.zipRight(sql.unsafe(change), Effect.zipRight(unchanged(before), Effect.fail("nothing"))),
          ),
        );
        assert.notInclude(String(exit), "nothing", change);
      }
      yield* unchanged(before);
      yield* sql.unsafe("ALTER POLICY jobs_tenant ON jobs USING (true)");
      assert.include(String(yield* Effect.exit(keptApart(tenants))), "to deeply equal");
    }).pipe(Effect.provide(databaseAt(latest))),
  );

  // Up to 0007 the tables are rewritten, and who writes waits for that; the migrations say so.
  for (const isPartitioned of [false, true]) {
    it.effect(
      `from ${nameOf(7)}${isPartitioned ? ", partitioned," : ""} goes on beside those who write, without a deadlock`,
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const tenants = [makeTenant(), makeTenant()];
          yield* fill(7, tenants);
          if (isPartitioned) yield* partition;
          const before = yield* contents(7);
          const stop = yield* Deferred.make<void>();
          const counted = { jobs: 0, letters: 0, rounds: 0 };
          const writer = ({ id }: Tenant) =>
            Effect.gen(function* () {
              const db = yield* DatabaseService;
              const mine = Client.tenant(id);
              const job = yield* mine(db.jobs.enqueue(work(id)));
              const dead = yield* mine(db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: "e" }));
              counted.jobs += 1;
              counted.letters += 1;
              assert.strictEqual((yield* mine(db.jobDlq.replay([dead.id], { actor })))[0]?.outcome, "replayed");
              const more = yield* mine(db.jobDlq.insertMany([letter(id), letter(id)]));
              counted.letters += more;
              counted.rounds += 1;
            }).pipe(Effect.repeat({ until: () => Deferred.isDone(stop) }));
          yield* withoutDeadlock(
            Effect.gen(function* () {
              const writers = yield* Effect.forEach(
                tenants.flatMap((_) => [_, _]),
                (_) => Effect.fork(writer(_)),
              );
              const more = Effect.gen(function* () {
                const goal = counted.rounds + 8;
                const turned = Effect.repeat(Effect.yieldNow(), { until: () => counted.rounds >= goal });
                yield* Effect.raceFirst(turned, Effect.raceAll(writers.map(Fiber.join)));
              });
              yield* more;
              yield* Migrator.run();
              yield* more;
              yield* Deferred.succeed(stop, undefined);
              yield* Effect.forEach(writers, Fiber.join);
            }),
          );
          const ids = tenants.map(({ id }) => id);
          const [now] = yield* sql`
          SELECT (SELECT count(*)::int FROM jobs) AS jobs, (SELECT count(*)::int FROM job_dlq WHERE app_id = ANY (${ids}::uuid[])) AS letters`;
          const had = (table: Table) => before.find((_) => _.table === table)?.rows.length ?? 0;
          assert.deepStrictEqual(
            { ...now },
            { jobs: had("jobs") + counted.jobs, letters: had("job_dlq") + counted.letters },
          );
        }).pipe(Effect.provide(databaseAt(7))),
    );
  }
});
