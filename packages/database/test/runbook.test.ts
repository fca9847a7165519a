/** The runbook's situations, played through with its own code blocks. */
import { randomBytes, randomUUID } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { root } from "./support/command.js";
import { letter, newTenant, TestDatabase, work } from "./support/database.js";
import { blocksOf } from "./support/markdown.js";

type Call<A> = Effect.Effect<A, unknown, DatabaseService | SqlClient.SqlClient>;
type Filter = object;

/** What the blocks export, by their own types; the documents' test typechecks them. */
interface Runbook {
  readonly byType: Call<ReadonlyArray<string>>;
  readonly causes: Call<
    ReadonlyArray<{ readonly line: string; readonly fingerprint: string; readonly newestId: string }>
  >;
  readonly explain: (appId: string, id: string) => Call<ReadonlyArray<string>>;
  readonly replayCause: (fingerprint: string, actor: string) => Call<Readonly<Record<string, number>>>;
  readonly killedBy: (from: Date, to: Date) => Filter;
  readonly look: (filter: Filter) => Call<{ readonly count: number }>;
  readonly tryFew: (filter: Filter, actor: string) => Call<ReadonlyArray<string>>;
  readonly outcomesOf: (ids: ReadonlyArray<string>) => Call<ReadonlyArray<string>>;
  readonly replayAll: (filter: Filter, actor: string) => Call<Option.Option<Readonly<Record<string, number>>>>;
  readonly discard: (filter: Filter, actor: string, reason: string) => Call<number>;
  readonly undo: (whoDiscarded: string, actor: string) => Call<number>;
  readonly forget: (
    appId: string,
    userId: string,
    actor: string,
  ) => Call<{ readonly letters: number; readonly copies: number; readonly jobsCancelled: number }>;
  readonly lookForPerson: (appId: string, userId: string) => Call<number>;
  readonly nightly: Call<{ readonly isComplete: boolean }>;
}

const runbook = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = join(root, "packages/database/artifacts", `runbook-${randomBytes(4).toString("hex")}`);
    fs.mkdirSync(folder, { recursive: true });
    const files = blocksOf("docs/runbook.md").map(({ text }) => {
      const file = join(folder, /^\/\/ ([\w-]+\.ts)\n/.exec(text)?.[1] ?? "unnamed.ts");
      fs.writeFileSync(file, text);
      return file;
    });
    return { files, folder };
  }),
  ({ folder }) => Effect.sync(() => fs.rmSync(folder, { recursive: true, force: true })),
).pipe(
  Effect.flatMap(({ files }) => Effect.promise(() => Promise.all(files.map((file) => import(file))))),
  Effect.map((modules): Runbook => Object.assign({}, ...modules)),
);

layer(TestDatabase, { excludeTestServices: true })("the runbook", (it) => {
  const actor = "on call";
  const died = (appId: string, type: string, error: string, userId?: string) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const job = yield* db.jobs.enqueue({
        ...work(appId, { type, payload: { error } }),
        userId: Option.fromNullable(userId),
      });
      return yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error });
    }).pipe(Client.tenant(appId));
  const complete = (appId: string) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      for (const job of yield* db.jobs.claim({ runner: "r", limit: 1000 })) yield* db.jobs.complete(job);
    }).pipe(Client.tenant(appId));

  it.scoped("the queue is filling: figures, causes, one letter whole, and a replay of one cause", () =>
    Effect.gen(function* () {
      const { byType, causes, explain, replayCause } = yield* runbook;
      const [a, b] = [yield* newTenant, yield* newTenant];
      for (let i = 0; i < 3; i++) yield* died(a, "mail.fill", `connect ECONNREFUSED 10.0.0.${i}:5432`);
      const last = yield* died(b, "mail.fill", "connect ECONNREFUSED 10.0.0.9:5432");
      yield* died(b, "mail.other", "no such user");
      const lines = yield* byType;
      assert.match(
        lines.find((_) => _.startsWith("mail.fill")) ?? "",
        /^mail\.fill: 4 pending, oldest \d+ s, 4 today, replays that worked: none yet$/,
      );
      const cause = (yield* causes).find(({ line }) => line.includes("mail.fill"));
      assert.isDefined(cause);
      assert.strictEqual(cause.line, "4 × mail.fill MaxRetries in 2 tenants: connect ECONNREFUSED 10.0.0.9:5432");
      assert.strictEqual(cause.newestId, last.id);
      assert.strictEqual((yield* replayCause(cause.fingerprint, actor)).replayed, 4);
      yield* complete(b);
      assert.deepStrictEqual(yield* explain(b, last.id), [
        "MaxRetries: connect ECONNREFUSED 10.0.0.9:5432 → completed (by on call)",
      ]);
      assert.include((yield* byType).find((_) => _.startsWith("mail.fill")) ?? "", "replays that worked: 1");
      assert.deepStrictEqual(yield* replayCause(cause.fingerprint, actor), {});
    }),
  );

  it.scoped("a bad deploy: preview, a few, all, and discard with undo for what nobody needs", () =>
    Effect.gen(function* () {
      const { discard, killedBy, look, outcomesOf, replayAll, tryFew, undo } = yield* runbook;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      for (let i = 0; i < 12; i++) yield* died(appId, `invoice.${i % 3}`, "TypeError: total is undefined");
      const before = yield* died(appId, "invoice.0", "an older one");
      yield* Client.system(sql`UPDATE job_dlq SET dlq_at = now() - interval '2 days' WHERE id = ${before.id}`);
      const filter = killedBy(new Date(Date.now() - 3_600_000), new Date(Date.now() + 3_600_000));
      assert.strictEqual((yield* look(filter)).count, 12);
      const few = yield* tryFew(filter, actor);
      yield* complete(appId);
      assert.deepStrictEqual(yield* outcomesOf(few), ["completed", "completed", "completed", "completed", "completed"]);
      const discarded = yield* discard({ type: "invoice.2" }, "somebody in a hurry", "not needed");
      assert.isAbove(discarded, 0);
      assert.strictEqual(yield* undo("somebody in a hurry", actor), discarded);
      assert.strictEqual(yield* undo("somebody in a hurry", actor), 0);
      const rest = Option.getOrThrow(yield* replayAll(filter, actor));
      assert.strictEqual(rest.replayed, 7);
      assert.strictEqual((yield* look(filter)).count, 0);
    }),
  );

  it.scoped("a discard of more than a page of the ledger is undone whole", () =>
    Effect.gen(function* () {
      const { discard, undo } = yield* runbook;
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const inTenant = Client.tenant(appId);
      yield* inTenant(
        db.jobDlq.insertMany(Array.from({ length: 2_100 }, () => letter(appId, { type: "report.many" }))),
      );
      const pending = inTenant(db.jobDlq.count({ type: "report.many" }));
      assert.strictEqual(yield* discard({ type: "report.many" }, "somebody thorough", "not needed"), 2_100);
      assert.strictEqual(yield* pending, 0);
      assert.strictEqual(yield* undo("somebody thorough", actor), 2_100);
      assert.strictEqual(yield* pending, 2_100);
    }),
  );

  it.scoped("a user asks to be forgotten, and the night comes", () =>
    Effect.gen(function* () {
      const { forget, lookForPerson, nightly } = yield* runbook;
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const userId = randomUUID();
      yield* died(appId, "mail.person", `cannot reach ${userId}`, userId);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobs.enqueue({ ...work(appId), userId: Option.some(userId) });
          const given = letter(appId, { type: "mail.person", userId: Option.some(userId) });
          yield* db.jobDlq.markReplayed((yield* db.jobDlq.insert(given)).id);
          yield* db.jobDlq.discard([(yield* db.jobDlq.insert(given)).id], { actor, reason: "x" });
          assert.strictEqual((yield* db.jobDlq.preview({ userId })).count, 1);
        }),
      );
      assert.strictEqual(yield* lookForPerson(appId, userId), 2);
      const receipt = yield* forget(appId, userId, actor);
      assert.deepInclude({ ...receipt }, { letters: 2, copies: 1, jobsCancelled: 1 });
      assert.isTrue((yield* nightly).isComplete);
    }),
  );
});
