/**
 * Rolling deploys: the schema is migrated first, so older runners work on a newer schema until the last of them is replaced. A
 * runner that comes before its schema is refused, with what to do.
 */
import * as fs from "node:fs";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, it } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { isFull } from "../../database/test/support/campaign.js";
import { databaseAt, newTenant, TestUrl } from "../../database/test/support/database.js";
import { freePort, withUrl } from "../../database/test/support/process.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import * as Jobs from "../src/jobs.js";
import { partitions } from "../src/partition.js";
import * as current from "../src/statements.js";
import { Failing, Fine } from "./support/kinds.js";
import { beside, runRunner, startRunner } from "./support/process.js";

const latest = Migrator.catalogue.length;
const nameOf = (level: number) => Migrator.fileName(Migrator.catalogue[level - 1] ?? { id: level, name: "none" });
/** The first level that this release's runners work on. */
const least = 7;

// --- what older runners send -------------------------------------------------

const Sent = S.Struct({
  claimStatement: S.String,
  completeStatement: S.String,
  dueStatement: S.String,
  extendStatement: S.String,
  failStatement: S.String,
  holdingStatement: S.String,
  lockedStatement: S.String,
  reportStatement: S.String,
  suspectStatement: S.String,
});
type Sent = typeof Sent.Type;

/** Written by `fixtures/write.ts`: what the runners of that release send. */
const sentAt = (level: number) =>
  S.decodeUnknownSync(S.parseJson(Sent))(
    fs.readFileSync(new URL(`./fixtures/${String(level).padStart(4, "0")}.json`, import.meta.url), "utf8"),
  );

const Claimed = S.Array(
  S.Struct({ id: S.String, fence: S.String, type: S.String, attempts: S.Int, payload: S.String }),
);
const decodeClaimed = S.decodeUnknown(Claimed);

/** A runner's day, statement by statement: what each answers and what is there in the end, without ids and times. */
const day = (sent: Sent) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const appId = yield* newTenant;
    const told: Array<unknown> = [];
    // As an engine's connection: in the system role, its rows as they come.
    const send = (name: keyof Sent, parameters: ReadonlyArray<unknown>) =>
      Client.system(sql.unsafe(sent[name], parameters as never).withoutTransform).pipe(
        Effect.tap((rows) =>
          Effect.sync(() =>
            told.push([name, rows.length, Object.keys(rows[0] ?? {}), rows.map((_) => Reflect.get(_, "count"))]),
          ),
        ),
      );
    const types = ["fine", "dead", "again", "back", "kept"];
    yield* Client.system(sql`
      INSERT INTO jobs (app_id, type, payload) SELECT ${appId}, type, '{"n": 9007199254740993}' FROM unnest(${types}::text[]) AS t (type)`);
    yield* Client.system(
      sql`INSERT INTO jobs (app_id, type, payload, suspect) VALUES (${appId}, 'suspect', '1', true)`,
    );
    yield* send("dueStatement", [partitions]);
    const none = "00000000-0000-0000-0000-000000000000";
    const [turns, ...rows] = yield* send("claimStatement", [
      partitions,
      partitions.map(() => none),
      2,
      100,
      "old",
      60_000,
      false,
      "1",
    ]);
    assert.isNull(Reflect.get(turns ?? {}, "id"));
    const claimed = yield* decodeClaimed(rows);
    const suspects = yield* decodeClaimed(yield* send("suspectStatement", [partitions, "old", 60_000]));
    const of = (type: string) => [...claimed, ...suspects].filter((_) => _.type === type);
    const held = (jobs: typeof Claimed.Type) => [jobs.map(({ id }) => id), jobs.map(({ fence }) => fence)];
    assert.sameMembers(
      claimed.map(({ type }) => type),
      types,
    );
    for (const { payload, type } of claimed)
      if (type !== "suspect") assert.strictEqual(payload, '{"n": 9007199254740993}');
    yield* send("extendStatement", [...held(claimed), 60_000]);
    yield* send("reportStatement", [...held(of("fine")), ['{"at": 1}']]);
    yield* send("holdingStatement", [of("fine")[0]?.id, of("fine")[0]?.fence]);
    yield* send("lockedStatement", [claimed.map(({ id }) => id)]);
    yield* send("completeStatement", held([...of("fine"), ...of("suspect")]));
    const failed = [...of("dead"), ...of("again"), ...of("back")];
    yield* send("failStatement", [
      ...held(failed),
      ["dead", "again", "back"],
      ["MaxRetries", null, null],
      ["e", "e", null],
      [null, 0, null],
    ]);
    // A fence that is over settles nothing.
    yield* send("completeStatement", held(of("fine")));
    const left = yield* Client.system(sql`
      SELECT type, status, attempts, jsonb_array_length(error_history) AS errors, suspect, in_company, progress, payload
      FROM jobs WHERE app_id = ${appId} ORDER BY type`);
    const letters = yield* Client.system(sql`
      SELECT type, error_reason, attempts, payload, replayed_at FROM job_dlq WHERE app_id = ${appId}`);
    return { told, left: left.map((_) => ({ ..._ })), letters: letters.map((_) => ({ ..._ })) };
  });

describe("what runners of an older release send", () => {
  it.effect("has the same effect on this release's schema as on theirs", () =>
    Effect.gen(function* () {
      const sent = sentAt(least);
      const before = yield* Effect.provide(day(sent), databaseAt(least));
      assert.deepStrictEqual(
        before.left.map(({ status, type }) => `${type} ${status}`),
        ["again pending", "back pending", "dead dead", "fine completed", "kept processing", "suspect completed"],
      );
      assert.lengthOf(before.letters, 1);
      for (let level = least + 1; level <= latest; level++) {
        assert.deepStrictEqual(yield* Effect.provide(day(sent), databaseAt(level)), before, nameOf(level));
      }
    }),
  );

  it.effect("has the effect of what this release sends, which works on theirs as well", () =>
    Effect.gen(function* () {
      const before = yield* Effect.provide(day(sentAt(least)), databaseAt(least));
      for (const level of [least, latest]) {
        assert.deepStrictEqual(yield* Effect.provide(day(current), databaseAt(level)), before, nameOf(level));
      }
    }),
  );

  it.effect("counter-test: a column that goes, or one that must be given, is noticed", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      for (const change of [
        "ALTER TABLE jobs DROP COLUMN in_company",
        "ALTER TABLE job_dlq ADD COLUMN runner text NOT NULL",
        "ALTER TABLE jobs RENAME COLUMN fence TO token",
      ]) {
        const exit = yield* Effect.exit(
          sql.withTransaction(
            Effect.zipRight(sql.unsafe(change), Effect.zipRight(day(sentAt(least)), Effect.fail("nothing"))),
          ),
        );
        assert.include(String(exit), "Failed to execute statement", change);
      }
    }).pipe(Effect.provide(databaseAt(latest))),
  );
});

// --- runners as processes ----------------------------------------------------

const handlers = beside("handlers.ts");
const alone = [handlers, "--single", "--health-port", "0"];
const withDesk = (level: number) => Layer.provideMerge(JobStoreSql.layerDesk, databaseAt(level));

const endsAs = (jobId: string, status: string) =>
  Jobs.status(jobId).pipe(
    Effect.map(Option.match({ onNone: () => "gone", onSome: (_) => _.status as string })),
    Effect.repeat({ until: (_) => _ === status }),
    Effect.timeout("30 seconds"),
  );

/** A release to come: columns with defaults, a table, an index. */
const future: Migrator.Migration = {
  id: latest + 1,
  name: "from_the_future",
  run: Effect.flatMap(SqlClient.SqlClient, (sql) =>
    sql.unsafe(`
      ALTER TABLE jobs ADD COLUMN later text, ADD COLUMN colour text NOT NULL DEFAULT 'red';
      ALTER TABLE job_dlq ADD COLUMN later text, ADD COLUMN colour text NOT NULL DEFAULT 'red';
      ALTER TABLE job_dlq_events ADD COLUMN later text;
      CREATE INDEX idx_jobs_later ON jobs (later);
      CREATE TABLE later (id int)`),
  ).pipe(Effect.asVoid),
};

describe("a runner", { timeout: 120_000 }, () => {
  it.scopedLive("goes on when the schema becomes newer than it, and so does everything that people do", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const runner = yield* startRunner(alone, withUrl(yield* TestUrl));
      const both = Effect.gen(function* () {
        const fine = yield* Jobs.submit(Fine, { n: 1 }, { appId });
        const failing = yield* Jobs.submit(Failing, { n: 1 }, { appId });
        yield* endsAs(fine.jobId, "completed");
        yield* endsAs(failing.jobId, "dead");
      });
      yield* both;
      yield* Migrator.run([...Migrator.catalogue, future]);
      yield* both;
      const mine = Client.tenant(appId);
      const letters = yield* mine(db.jobDlq.listPending());
      assert.lengthOf(letters, 2);
      const [first, second] = letters.map(({ id }) => id);
      const [discarded] = yield* mine(db.jobDlq.discard([first ?? ""], { actor: "test", reason: "test" }));
      const [restored] = yield* mine(db.jobDlq.restore([discarded?.eventId ?? ""], { actor: "test" }));
      const [replayed] = yield* mine(db.jobDlq.replay([second ?? ""], { actor: "test" }));
      assert.deepStrictEqual([restored?.outcome, replayed?.outcome], ["restored", "replayed"]);
      assert.isFalse(yield* runner.hasEnded);
      assert.notMatch(runner.output(), /failed and is tried again|level=ERROR|level=FATAL/);
      yield* Migrator.requireSchema;
      // Only who migrates must be of the newer release.
      const error = yield* Effect.flip(Migrator.status());
      assert.include(error.message, `the database has ${Migrator.fileName(future)}`);
      assert.include(error.message, "deploy the newer release");
    }).pipe(Effect.provide(withDesk(latest))),
  );

  for (const level of isFull ? [0, least - 1] : [least - 1]) {
    it.scopedLive(
      `is refused ${level === 0 ? "an empty database" : `a database of ${nameOf(level)}`}, with the migration that is missing and what to do`,
      () =>
        Effect.gen(function* () {
          const url = yield* TestUrl;
          for (const args of [
            alone,
            [...alone.slice(0, 1), "--host", "127.0.0.1", "--port", `${yield* freePort}`, "--health-port", "0"],
          ]) {
            const { code, stderr } = yield* runRunner(args, withUrl(url));
            assert.strictEqual(code, 1, stderr);
            assert.include(stderr, `migration ${nameOf(level + 1)} was not applied. Run portal-db migrate`);
            assert.notInclude(stderr, "runner started");
          }
        }).pipe(Effect.provide(databaseAt(level))),
    );
  }

  it.scopedLive(`works on a database of ${nameOf(least)}, before its own release is migrated`, () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      yield* startRunner(alone, withUrl(yield* TestUrl));
      const failing = yield* Jobs.submit(Failing, { n: 1 }, { appId });
      yield* endsAs(failing.jobId, "dead");
    }).pipe(Effect.provide(withDesk(least))),
  );
});

describe("the schema that this release's code needs", () => {
  for (let level = 0; level <= latest; level++) {
    // Those beside the boundary, and in the full run each.
    if (!isFull && level !== least && level !== least - 1) continue;
    it.effect(`${level < least ? "is not there" : "is there"} at ${level === 0 ? "none" : nameOf(level)}`, () =>
      Effect.gen(function* () {
        const found = yield* Effect.either(Migrator.requireSchema);
        if (level >= least) return assert.strictEqual(found._tag, "Right");
        assert.strictEqual(found._tag, "Left");
        if (found._tag === "Right") return;
        assert.strictEqual(found.left._tag, "SchemaTooOld");
        // A migration that only changes a function or a constraint leaves no mark; the next one that does is named.
        const next = [1, 2, 3, 4, 7].find((_) => _ > level) ?? 0;
        assert.include(found.left.message, nameOf(next));
      }).pipe(Effect.provide(databaseAt(level))),
    );
  }
});
