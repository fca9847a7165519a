/** What `dlq` changes, as a process: what it asks, what it does, how it ends, and what is in the ledger afterwards. */
import { writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { deadJob, letter, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { withUrl } from "../../database/test/support/process.js";
import { objects, runDlq, startDlq } from "./support/dlq.js";

const user = "0190aaaa-0000-7000-8000-000000000009";

/** A tenant with so many dead jobs. */
const tenantWith = (count: number) =>
  Effect.gen(function* () {
    const appId = yield* newTenant;
    const letters = yield* Effect.forEach(Array.from({ length: count }), () => deadJob(appId));
    return { appId, letters, environment: { ...withUrl(yield* TestUrl), DLQ_TENANT: appId } };
  });

const events = (appId: string) =>
  Effect.flatMap(DatabaseService, (db) => Effect.map(Client.tenant(appId)(db.jobDlq.events()), ({ items }) => items));
const statusOf = (appId: string, jobId: string) =>
  Effect.flatMap(DatabaseService, (db) =>
    Effect.map(Client.tenant(appId)(db.jobs.get(jobId)), (job) => Option.getOrThrow(job).status),
  );

const folder = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "dlq-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true })),
);

layer(TestDatabase, { excludeTestServices: true, timeout: "3 minutes" })("dlq", (it) => {
  it.effect(
    "replay shows, then does: a dry run changes nothing, --yes replays once, a second time nothing is left",
    () =>
      Effect.gen(function* () {
        const { appId, environment, letters } = yield* tenantWith(3);
        const [first, second] = letters;
        const dry = yield* runDlq(["replay", "--all", "--dry-run"], environment);
        assert.strictEqual(dry.code, 0, dry.stderr);
        assert.include(dry.stdout, "by reason");
        assert.strictEqual((yield* events(appId)).length, 0);

        const unasked = yield* runDlq(["replay", "--all"], environment);
        assert.strictEqual(unasked.code, 2);
        assert.include(unasked.stderr, "--yes");

        const one = yield* runDlq(["replay", first?.id ?? "", "--yes"], environment);
        assert.strictEqual(one.code, 0, one.stderr);
        assert.match(one.stdout, /^1 replayed$/m);
        assert.strictEqual(yield* statusOf(appId, first?.originalJobId ?? ""), "pending");
        assert.strictEqual(yield* statusOf(appId, second?.originalJobId ?? ""), "dead");

        const rest = yield* runDlq(["replay", "--all", "--yes", "--json"], environment);
        assert.deepStrictEqual(
          objects(rest.stdout).map(({ outcome }) => outcome),
          ["replayed", "replayed"],
        );
        const again = yield* runDlq(["replay", "--all", "--yes"], environment);
        assert.deepStrictEqual([again.code, again.stdout], [3, ""]);
        assert.deepStrictEqual(
          (yield* events(appId)).map(({ actor, kind }) => [kind, actor]),
          letters.map(() => ["replayed", "on call"]),
        );
      }),
  );

  it.effect("replay takes another payload, a delay and a limit", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const { appId, environment } = yield* tenantWith(3);
      const { code, stdout } = yield* runDlq(
        ["replay", "--all", "--yes", "--limit", "1", "--delay", "1 hour", "--new-payload", '{"mended":true}'],
        environment,
      );
      assert.deepStrictEqual([code, stdout.trimEnd().split("\n").at(-1)], [0, "1 replayed"]);
      const jobs = yield* Client.tenant(appId)(db.jobs.find({ status: "pending" }));
      assert.deepStrictEqual(
        jobs.map(({ payload }) => payload),
        [{ mended: true }],
      );
      assert.isAbove(Number(jobs[0]?.scheduledAt.epochMillis), Date.now() + 3_000_000);
    }),
  );

  it.effect("no condition at all is refused before anything is asked, in every change", () =>
    Effect.gen(function* () {
      const { appId, environment } = yield* tenantWith(1);
      for (const [command, hint] of [
        [["replay", "--yes"], "--all"],
        [["discard", "--yes", "--because", "x"], "--all"],
        [["erase", "--yes"], "--user"],
        [["retain", "--yes"], "--replayed-days"],
        [["retain", "--yes", "--discarded-days", "9"], "--all-tenants"],
        [["discard", "--yes", "--all"], "--because"],
        [["discard", "--yes", "--all", "--because", " "], "reason"],
        [["replay", "--yes", "--all", "--rate", "0"], "--rate"],
        [["replay", "--yes", "--all", "--limit", "0"], "--limit"],
        [["replay", "--yes", "--all", "--delay", "soon"], "--delay"],
        [["replay", "--yes", "not-an-id"], "filter.ids"],
      ] as const) {
        const { code, stderr, stdout } = yield* runDlq(command, environment);
        assert.strictEqual(code, 2, command.join(" "));
        assert.include(stderr + stdout, hint, command.join(" "));
      }
      assert.strictEqual((yield* events(appId)).length, 0);
    }),
  );

  it.effect("discard and restore are inverses, by the dead letter's id or by the event", () =>
    Effect.gen(function* () {
      const { appId, environment, letters } = yield* tenantWith(2);
      const [first, second] = letters;
      const gone = yield* runDlq(["discard", "--all", "--yes", "--because", "nobody waits for it"], environment);
      assert.strictEqual(gone.code, 0, gone.stderr);
      assert.include(gone.stdout, "2 discarded");
      assert.strictEqual((yield* runDlq(["list"], environment)).code, 3);
      const shown = yield* runDlq(["show", first?.id ?? ""], environment);
      assert.include(shown.stdout, "taken out");
      assert.include(shown.stdout, "nobody waits for it");
      const event = (yield* events(appId)).find(({ dlqId }) => dlqId === second?.id);
      const back = yield* runDlq(["restore", first?.id ?? "", event?.id ?? ""], environment);
      assert.deepStrictEqual([back.code, back.stdout.match(/restored/g)?.length], [0, 2]);
      assert.strictEqual(objects((yield* runDlq(["list", "--json"], environment)).stdout).length, 2);
      const twice = yield* runDlq(["restore", first?.id ?? ""], environment);
      assert.deepStrictEqual([twice.code, twice.stdout], [3, `${first?.id}  not discarded\n`]);
      const unknown = yield* runDlq(["restore", appId], environment);
      assert.deepStrictEqual([unknown.code, unknown.stdout], [3, `${appId}  not found\n`]);
    }),
  );

  it.effect("erase removes a person, purge and retain what is old", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const { appId, environment } = yield* tenantWith(2);
      yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { userId: Option.some(user) })));
      const gone = yield* runDlq(["erase", "--user", user, "--yes", "--json"], environment);
      assert.strictEqual(gone.code, 0, gone.stderr);
      assert.deepInclude(objects(gone.stdout)[0], { letters: 1, copies: 0 });
      assert.strictEqual((yield* runDlq(["erase", "--user", user, "--yes"], environment)).code, 3);

      yield* runDlq(["replay", "--all", "--yes"], environment);
      yield* Client.system(sql`UPDATE job_dlq SET replayed_at = now() - interval '40 days' WHERE app_id = ${appId}`);
      const purged = yield* runDlq(["purge", "--older-than-days", "50", "--yes", "--json"], environment);
      assert.deepStrictEqual(objects(purged.stdout), [{ purged: 0 }]);
      const retained = yield* runDlq(["retain", "--replayed-days", "30", "--yes", "--json"], environment);
      assert.deepInclude(objects(retained.stdout)[0], { replayed: 2, isComplete: true });
    }),
  );

  it.scoped("an export is imported once, also from a pipe, and a line that cannot be is named", () =>
    Effect.gen(function* () {
      const { environment } = yield* tenantWith(3);
      const file = join(yield* folder, "letters.ndjson");
      const exported = yield* runDlq(["export"], environment);
      assert.strictEqual(exported.code, 0, exported.stderr);
      assert.strictEqual(objects(exported.stdout).length, 3);
      writeFileSync(file, exported.stdout);
      yield* runDlq(["discard", "--all", "--yes", "--because", "moved"], environment);
      const [imported, again] = [
        yield* runDlq(["import", file], environment),
        yield* runDlq(["import", file], environment),
      ];
      assert.deepStrictEqual([imported.code, imported.stdout], [0, "3 lines: 3 imported, 0 were there, 0 refused\n"]);
      assert.deepStrictEqual([again.code, again.stdout], [0, "3 lines: 0 imported, 3 were there, 0 refused\n"]);
      writeFileSync(file, `${exported.stdout.split("\n")[0]}\n{"id":1}\n{`);
      const damaged = yield* runDlq(["import", file], environment);
      assert.strictEqual(damaged.code, 1);
      assert.match(damaged.stderr, /Line 2 was not imported.*\n.*Line 3 was not imported/);
      const missing = yield* runDlq(["import", `${file}.none`], environment);
      assert.deepStrictEqual([missing.code, /cannot be read/.test(missing.stderr)], [1, true]);
    }),
  );

  it.scoped("tail shows what comes", () =>
    Effect.gen(function* () {
      const { appId, environment } = yield* tenantWith(1);
      const tail = yield* startDlq(["tail", "--from-start", "--limit", "2", "--json"], environment);
      yield* Effect.repeat(Effect.sync(tail.output), { until: (_) => _.includes("\n") });
      const later = yield* deadJob(appId);
      const { code, stdout } = yield* tail.ended;
      assert.deepStrictEqual([code, objects(stdout).at(-1)?.id], [0, later.id]);
    }),
  );

  it.scoped("Ctrl-C in the middle of a bulk replay ends it between two batches and says how far it came", () =>
    Effect.gen(function* () {
      const { appId, environment } = yield* tenantWith(0);
      const db = yield* DatabaseService;
      const entries = Array.from({ length: 3000 }, () => letter(appId));
      yield* Client.tenant(appId)(db.jobDlq.insertMany(entries));
      const replay = yield* startDlq(["replay", "--all", "--yes", "--rate", "500"], environment);
      yield* replay.saysOnStderr("of 3000");
      yield* replay.kill("SIGINT");
      const { code, stderr } = yield* replay.ended;
      assert.strictEqual(code, 130, stderr);
      const [, said = ""] = /Stopped after ([\d,]+) dead letters: [\d,]+ replayed/.exec(stderr) ?? [];
      const done = Number(said.replaceAll(",", ""));
      assert.isAbove(done, 0, stderr);
      assert.isBelow(done, 3000, stderr);
      const replayed = (yield* events(appId)).length;
      assert.strictEqual(replayed, Math.min(done, 100), "the ledger has what it said");
      const rest = yield* runDlq(["replay", "--all", "--yes"], environment);
      assert.include(rest.stdout, `${(3000 - done).toLocaleString("en-US")} replayed`);
      assert.strictEqual((yield* runDlq(["list"], environment)).code, 3);
    }),
  );
});
