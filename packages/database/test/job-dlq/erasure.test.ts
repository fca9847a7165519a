import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import type { JobDlqFilter } from "../../src/job-dlq/filter.js";
import { DatabaseService } from "../../src/repos.js";
import { letter, newTenant, TestDatabase, work } from "../support/database.js";

const actor = "privacy desk";

layer(TestDatabase, { excludeTestServices: true })("jobDlq.erase", (it) => {
  /** Every row of the queue as one text, to look for what must not be there any more. */
  const everything = Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`
      SELECT concat((SELECT string_agg(j::text, ' ') FROM jobs j), (SELECT string_agg(d::text, ' ') FROM job_dlq d),
        (SELECT string_agg(e::text, ' ') FROM job_dlq_events e)) AS text`);
    return String(rows[0]?.text);
  });

  const dead = (appId: string, userId: string, secret: string) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const job = yield* db.jobs.enqueue({ ...work(appId, { payload: { secret } }), userId: Option.some(userId) });
      return yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: `failed for ${secret}` });
    });

  /** A person with one dead letter that is pending, one that was discarded, and a job that waits. */
  const somebody = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const appId = yield* newTenant;
    const userId = randomUUID();
    return yield* Client.tenant(appId)(
      Effect.gen(function* () {
        yield* dead(appId, userId, "a");
        const discarded = yield* dead(appId, userId, "b");
        const [event] = yield* db.jobDlq.discard([discarded.id], { actor, reason: "x" });
        const waiting = yield* db.jobs.enqueue({ ...work(appId), userId: Option.some(userId) });
        return { appId, userId, discarded, eventId: event?.eventId ?? "", waiting };
      }),
    );
  });

  it.effect("of a person leaves nothing of theirs anywhere, and everything of the others", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const [userId, other] = [randomUUID(), randomUUID()];
      const [secret, kept] = [`canary-${randomUUID()}`, `canary-${randomUUID()}`];
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const mine = Option.some(userId);
          const pending = yield* dead(appId, userId, secret);
          const replayed = yield* dead(appId, userId, secret);
          yield* db.jobDlq.replay([replayed.id], { actor, payload: { secret, fixed: secret } });
          // Its letter is purged, so that only the ledger's difference still holds something.
          const purged = yield* dead(appId, userId, secret);
          yield* db.jobDlq.replay([purged.id], { actor, payload: { other: secret } });
          yield* sql`DELETE FROM job_dlq WHERE id = ${purged.id}`;
          yield* sql`DELETE FROM jobs WHERE id = ${purged.originalJobId}`;
          const discarded = yield* dead(appId, userId, secret);
          yield* db.jobDlq.discard([discarded.id], { actor, reason: "x" });
          const restored = yield* dead(appId, userId, secret);
          const [event] = yield* db.jobDlq.discard([restored.id], { actor, reason: "x" });
          yield* db.jobDlq.restore([event?.eventId ?? ""], { actor });
          const running = yield* db.jobs.enqueue({ ...work(appId, { payload: { secret } }), userId: mine });
          const [claimed] = yield* db.jobs.claim({ runner: "r" });
          assert.isDefined(claimed);
          const waiting = yield* db.jobs.enqueue({
            ...work(appId, { payload: { secret } }),
            userId: mine,
            requestId: Option.some(randomUUID()),
          });
          yield* sql`UPDATE jobs SET progress = ${JSON.stringify({ secret })}::jsonb, dedupe_key = ${secret} WHERE id = ${waiting.id}`;
          const theirs = yield* dead(appId, other, kept);

          const receipt = yield* db.jobDlq.erase({ userId }, { actor, reason: "asked to be forgotten" });
          assert.deepStrictEqual({ ...receipt }, { letters: 3, copies: 1, jobsCancelled: 3, jobsEmptied: 6 });

          const outcomes = (yield* db.jobDlq.replay([pending.id, replayed.id, discarded.id, restored.id, theirs.id], {
            actor,
          })).map((_) => _.outcome);
          assert.deepStrictEqual(outcomes, ["erased", "erased", "erased", "erased", "replayed"]);
          assert.strictEqual(
            (yield* db.jobDlq.restore([event?.eventId ?? ""], { actor }))[0]?.outcome,
            "already restored",
          );
          assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(waiting.id)).status, "cancelled");
          assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(running.id)).status, "cancelled");
          // Who runs it at this moment cannot settle it any more.
          assert.strictEqual((yield* Effect.flip(db.jobs.complete(claimed)))._tag, "JobNotHeld");
          const { items } = yield* db.jobDlq.events({ dlqId: pending.id });
          assert.deepStrictEqual(
            items.map(({ detail, kind, reason }) => ({ detail, kind, reason })),
            [
              {
                kind: "erased",
                reason: "asked to be forgotten",
                detail: { source: "table", type: "mail.send", reason: "MaxRetries", attempts: 0 },
              },
            ],
          );
          const again = yield* db.jobDlq.erase({ userId }, { actor });
          assert.deepStrictEqual({ ...again }, { letters: 0, copies: 0, jobsCancelled: 0, jobsEmptied: 0 });
        }),
      );
      const left = yield* everything;
      assert.notInclude(left, userId);
      assert.notInclude(left, secret);
      assert.include(left, other);
      assert.include(left, kept);
    }),
  );

  it.effect("of what a filter matches takes these letters and their jobs, in every state unless it names one", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const userId = randomUUID();
          const [a, b] = [yield* dead(appId, userId, "a"), yield* dead(appId, userId, "b")];
          yield* db.jobDlq.replay([b.id], { actor });
          const only = yield* db.jobDlq.erase({ userId, state: "pending", type: "mail.send" }, { actor });
          assert.deepStrictEqual({ ...only }, { letters: 1, copies: 0, jobsCancelled: 0, jobsEmptied: 1 });
          const emptied = Option.getOrThrow(yield* db.jobs.get(a.originalJobId));
          assert.deepStrictEqual([emptied.payload, emptied.errorHistory, emptied.status], [null, [], "dead"]);
          assert.isTrue(Option.isNone(emptied.userId));
          const rest = yield* db.jobDlq.erase({ text: "failed for b" }, { actor });
          assert.deepStrictEqual({ ...rest }, { letters: 1, copies: 0, jobsCancelled: 1, jobsEmptied: 1 });
        }),
      );
    }),
  );

  for (const more of [{}, { all: true }, { state: "any" }, { all: true, state: "any" }] as const) {
    it.effect(`of a person is the same with ${JSON.stringify(more)}`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, userId, waiting } = yield* somebody;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const receipt = yield* db.jobDlq.erase({ userId, ...more }, { actor });
            assert.deepStrictEqual({ ...receipt }, { letters: 1, copies: 1, jobsCancelled: 1, jobsEmptied: 3 });
            assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(waiting.id)).status, "cancelled");
          }),
        );
      }),
    );
  }

  for (const state of ["pending", "replayed"] as const) {
    it.effect(`of a user's ${state} ones takes what preview counts, and no more`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, discarded, eventId, userId, waiting } = yield* somebody;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const replayed = yield* dead(appId, userId, "c");
            yield* db.jobDlq.replay([replayed.id], { actor });
            assert.strictEqual((yield* db.jobDlq.preview({ userId, state })).count, 1);
            const receipt = yield* db.jobDlq.erase({ userId, state }, { actor });
            const jobsCancelled = state === "replayed" ? 1 : 0;
            assert.deepStrictEqual({ ...receipt }, { letters: 1, copies: 0, jobsCancelled, jobsEmptied: 1 });
            assert.strictEqual(Option.getOrThrow(yield* db.jobs.get(waiting.id)).status, "pending");
            assert.strictEqual((yield* db.jobDlq.restore([eventId], { actor }))[0]?.outcome, "restored");
            const byIds = yield* db.jobDlq.discard([discarded.id], { actor, reason: "x" });
            assert.strictEqual(byIds[0]?.outcome, "discarded");
            const none = yield* db.jobDlq.erase({ ids: [discarded.id], state }, { actor });
            assert.deepStrictEqual({ ...none }, { letters: 0, copies: 0, jobsCancelled: 0, jobsEmptied: 0 });
          }),
        );
      }),
    );
  }

  it.effect("by a filter reaches what it matches of discarded and expired ones in the ledger, and nothing else", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const email = `${randomUUID()}@example.com`;
      const [appId, theirs] = [yield* newTenant, yield* newTenant];
      const filters: ReadonlyArray<JobDlqFilter> = [
        { payload: { email } },
        { payload: { email }, type: { prefix: "mail" }, since: new Date(0) },
        { text: email },
        { text: email, reason: "MaxRetries", state: "any" },
      ];
      const one = (app: string, to: string) =>
        Effect.gen(function* () {
          const job = yield* db.jobs.enqueue(work(app, { payload: { email: to } }));
          return yield* db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: `no such box: ${to}` });
        });
      yield* Client.tenant(theirs)(
        Effect.flatMap(one(theirs, email), ({ id }) => db.jobDlq.discard([id], { actor, reason: "x" })),
      );
      for (const filter of filters) {
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* one(appId, email);
            const [discarded, expired, other] = [
              yield* one(appId, email),
              yield* one(appId, email),
              yield* one(appId, "b@example.com"),
            ];
            const [event] = yield* db.jobDlq.discard([discarded.id], { actor, reason: "x" });
            const [kept] = yield* db.jobDlq.discard([other.id], { actor, reason: "x" });
            yield* sql`UPDATE job_dlq SET dlq_at = now() - interval '10 days' WHERE id = ${expired.id}`;
            yield* db.jobDlq.retain({ pending: 5 }, { actor });
            const receipt = yield* db.jobDlq.erase(filter, { actor });
            assert.deepStrictEqual({ ...receipt }, { letters: 1, copies: 2, jobsCancelled: 0, jobsEmptied: 3 });
            const restored = yield* db.jobDlq.restore([event?.eventId ?? "", kept?.eventId ?? ""], { actor });
            assert.deepStrictEqual(
              restored.map(({ outcome }) => outcome),
              ["erased", "restored"],
            );
            yield* sql`DELETE FROM job_dlq`;
          }),
        );
        const rows = yield* sql`
          SELECT e::text FROM job_dlq_events e WHERE app_id = ${appId}::uuid AND strpos(e::text, ${email}) > 0
          UNION ALL SELECT j::text FROM jobs j WHERE app_id = ${appId}::uuid AND strpos(j::text, ${email}) > 0`;
        assert.deepStrictEqual(rows, []);
      }
      const all = yield* Client.system(db.jobDlq.erase({ payload: { email } }, { actor }));
      assert.deepStrictEqual({ ...all }, { letters: 0, copies: 1, jobsCancelled: 0, jobsEmptied: 1 });
    }),
  );

  it.effect("by ids reaches discarded ones in the ledger too, and restore then says so", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const one = yield* dead(appId, randomUUID(), "x");
          const [event] = yield* db.jobDlq.discard([one.id], { actor, reason: "x" });
          const receipt = yield* db.jobDlq.erase({ ids: [one.id] }, { actor });
          assert.deepStrictEqual({ ...receipt }, { letters: 0, copies: 1, jobsCancelled: 0, jobsEmptied: 1 });
          assert.strictEqual((yield* db.jobDlq.restore([event?.eventId ?? ""], { actor }))[0]?.outcome, "erased");
          assert.strictEqual((yield* db.jobDlq.discard([one.id], { actor, reason: "x" }))[0]?.outcome, "erased");
        }),
      );
    }),
  );

  it.effect("again finds nothing, and leaves the line that tells of the first", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const one = yield* dead(appId, randomUUID(), "x");
          yield* db.jobDlq.erase({ ids: [one.id] }, { actor, reason: "asked" });
          const lines = Effect.map(db.jobDlq.events({ kind: "erased" }), ({ items }) => items);
          const told = yield* lines;
          assert.deepInclude(told[0]?.detail, { source: "table", type: "mail.send", attempts: 0 });
          const again = yield* db.jobDlq.erase({ ids: [one.id] }, { actor });
          assert.deepStrictEqual({ ...again }, { letters: 0, copies: 0, jobsCancelled: 0, jobsEmptied: 0 });
          assert.deepStrictEqual(yield* lines, told);
        }),
      );
    }),
  );

  it.effect("gives each job a new fence, so that its runner changes nothing any more", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const userId = randomUUID();
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobs.enqueue({ ...work(appId), userId: Option.some(userId) });
          const [held] = yield* db.jobs.claim({ runner: "r" });
          assert.isDefined(held);
          yield* db.jobDlq.erase({ userId }, { actor });
          const job = Option.getOrThrow(yield* db.jobs.get(held.id));
          assert.strictEqual(job.status, "cancelled");
          assert.notStrictEqual(job.fence, held.fence);
          assert.strictEqual((yield* Effect.flip(db.jobs.complete(held)))._tag, "JobNotHeld");
        }),
      );
    }),
  );

  it.effect("never reaches another tenant's rows, and in the system scope all of them", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const [mine, theirs] = [yield* newTenant, yield* newTenant];
      const userId = randomUUID();
      const foreign = yield* Client.tenant(theirs)(dead(theirs, userId, "x"));
      // A letter of mine may name another tenant's job; that job is not mine to empty.
      yield* Client.tenant(mine)(
        db.jobDlq.insert(letter(mine, { originalJobId: foreign.originalJobId, userId: Option.some(userId) })),
      );
      const receipt = yield* Client.tenant(mine)(db.jobDlq.erase({ userId }, { actor }));
      assert.deepStrictEqual({ ...receipt }, { letters: 1, copies: 0, jobsCancelled: 0, jobsEmptied: 0 });
      yield* Client.tenant(mine)(db.jobDlq.insert(letter(mine, { originalJobId: foreign.originalJobId })));
      yield* Client.system(
        db.jobDlq.erase(
          { originalJobId: foreign.originalJobId, since: new Date(0), type: { prefix: "mail" }, reason: "nobody's" },
          { actor },
        ),
      );
      assert.deepStrictEqual(
        Option.getOrThrow(yield* Client.tenant(theirs)(db.jobs.get(foreign.originalJobId))).payload,
        { secret: "x" },
      );
      const all = yield* Client.system(db.jobDlq.erase({ userId }, { actor }));
      assert.deepStrictEqual({ ...all }, { letters: 1, copies: 0, jobsCancelled: 0, jobsEmptied: 1 });
    }),
  );

  it.effect("ends when a letter of somebody else's has the id of the copy", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const userId = randomUUID();
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const { id } = yield* db.jobDlq.insert(letter(appId, { userId: Option.some(userId) }));
          const line = Option.getOrThrow(yield* Stream.runHead(db.jobDlq.exportTo({ ids: [id] })));
          yield* db.jobDlq.discard([id], { actor, reason: "x" });
          const other = line.replace(userId, randomUUID());
          yield* Stream.runDrain(db.jobDlq.importFrom(Stream.make(other), { actor }));
          const receipt = yield* db.jobDlq.erase({ userId }, { actor });
          assert.deepInclude({ ...receipt }, { letters: 0, copies: 1 });
          assert.isTrue(Option.isSome(yield* db.jobDlq.get(id)));
        }),
      );
    }),
  );

  it.effect("refuses an empty filter and a missing actor", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      for (const [filter, given, field] of [
        [{}, actor, "filter"],
        [{ state: "any" }, actor, "filter"],
        [{ userId: "x" }, actor, "filter.userId"],
        [{ userId: randomUUID() }, " ", "actor"],
      ] as const) {
        const error = yield* Effect.flip(Client.system(db.jobDlq.erase(filter, { actor: given })));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, `jobDlq.erase: ${field} `);
      }
    }),
  );
});
