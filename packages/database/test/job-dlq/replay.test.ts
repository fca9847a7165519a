import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Chunk from "effect/Chunk";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import type { JobDlqFilter } from "../../src/job-dlq/filter.js";
import { DatabaseService } from "../../src/repos.js";
import { deadJob, letter, newTenant, TestDatabase } from "../support/database.js";

const actor = "test";

layer(TestDatabase, { excludeTestServices: true })("jobDlq.replay with options", (it) => {
  const progressOf = (appId: string, filter: JobDlqFilter, given: object = {}) =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const scope = { _tag: "tenant", appId } as const;
      return Chunk.toReadonlyArray(yield* Stream.runCollect(db.jobDlq.replay(filter, { actor, scope, ...given })));
    });
  const dead = (appId: string, count: number, type = "mail.send") =>
    Effect.replicateEffect(deadJob(appId, { type }), count);

  describe("with another payload", () => {
    it.effect(
      "gives it to the job, keeps the original in the dead letter, and writes the difference to the ledger",
      () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const before = { to: "a@example.com", items: [1, { n: null }], "a/b~c": 1 };
          const payload = { to: "b@example.com", items: [1, { n: 2 }, 3], cc: [] };
          const one = yield* deadJob(appId, { payload: before });
          yield* Client.tenant(appId)(
            Effect.gen(function* () {
              const receipts = yield* db.jobDlq.replay([one.id], { actor, payload });
              assert.strictEqual(receipts[0]?.outcome, "replayed");
              assert.deepStrictEqual(Option.getOrThrow(yield* db.jobs.get(one.originalJobId)).payload, payload);
              assert.deepStrictEqual(Option.getOrThrow(yield* db.jobDlq.get(one.id)).payload, before);
              const { items } = yield* db.jobDlq.events({ dlqId: one.id });
              assert.deepStrictEqual(
                items.map(({ actor, detail, kind }) => ({ actor, detail, kind })),
                [
                  {
                    actor,
                    kind: "replayed",
                    detail: {
                      payload_diff: [
                        { op: "remove", path: "/a~1b~0c", from: 1 },
                        { op: "add", path: "/cc", value: [] },
                        { op: "replace", path: "/items/1/n", from: null, value: 2 },
                        { op: "add", path: "/items/2", value: 3 },
                        { op: "replace", path: "/to", from: "a@example.com", value: "b@example.com" },
                      ],
                    },
                  },
                ],
              );
            }),
          );
        }),
    );

    it.effect("writes the difference of large and of deep payloads, bounded", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const nested = (depth: number, inner: unknown) => {
          let value = inner;
          for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { in: value };
          return value;
        };
        const diffOf = (before: unknown, payload: unknown) =>
          Effect.gen(function* () {
            const one = yield* deadJob(appId, { payload: before });
            return yield* Client.tenant(appId)(
              Effect.gen(function* () {
                assert.strictEqual((yield* db.jobDlq.replay([one.id], { actor, payload }))[0]?.outcome, "replayed");
                const { items } = yield* db.jobDlq.events({ dlqId: one.id });
                const detail = items[0]?.detail as
                  | { payload_diff: ReadonlyArray<{ op: string; path: string }> }
                  | undefined;
                return detail?.payload_diff ?? [];
              }),
            );
          });
        // A quadratic one would take minutes, and the test its time.
        const many = Array.from({ length: 20_000 }, (_, i) => i);
        const changed = yield* diffOf(
          many,
          many.map((i) => -1 - i),
        );
        assert.deepStrictEqual(
          changed.map(({ op, path }) => [op, path]),
          many.map((i) => ["replace", `/${i}`]),
        );
        const deep = yield* diffOf(nested(1000, 1), nested(1000, 2));
        assert.deepStrictEqual(
          deep.map(({ op, path }) => [op, path.split("/").length]),
          [["replace", 101]],
        );
        const shallow = yield* diffOf(nested(100, 1), nested(100, 2));
        assert.deepInclude({ ...shallow[0] } as object, { op: "replace", from: 1, value: 2 });
      }),
    );

    it.effect("may be any JSON value, null too, and is the purged job's as well", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        for (const payload of [null, [], "text", 7, false]) {
          const one = yield* deadJob(appId);
          yield* Client.tenant(appId)(
            Effect.gen(function* () {
              if (payload === 7) yield* sql`DELETE FROM jobs WHERE id = ${one.originalJobId}`;
              assert.strictEqual((yield* db.jobDlq.replay([one.id], { actor, payload }))[0]?.outcome, "replayed");
              assert.deepStrictEqual(Option.getOrThrow(yield* db.jobs.get(one.originalJobId)).payload, payload);
            }),
          );
        }
      }),
    );

    it.effect("is refused with its path when jsonb cannot keep it, and nothing is replayed", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const one = yield* deadJob(appId);
        for (const [payload, path] of [
          [undefined, "$"],
          [{ a: [1n] }, "$.a[0]"],
          [{ b: "\u0000" }, "$.b"],
          [new Map(), "$"],
        ] as const) {
          const error = yield* Effect.flip(Client.tenant(appId)(db.jobDlq.replay([one.id], { actor, payload })));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, `payload at ${path} `);
        }
        assert.isTrue(Option.isNone(Option.getOrThrow(yield* Client.tenant(appId)(db.jobDlq.get(one.id))).replayedAt));
      }),
    );
  });

  it.effect("with a delay makes the job due later, by the database's clock", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const one = yield* deadJob(appId);
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.replay([one.id], { actor, delay: "1 hour" });
          assert.deepStrictEqual(yield* db.jobs.claim({ runner: "r" }), []);
          const rows =
            yield* sql`SELECT scheduled_at = now() + interval '1 hour' AS later FROM jobs WHERE id = ${one.originalJobId}`;
          assert.deepStrictEqual(rows, [{ later: true }]);
        }),
      );
    }),
  );

  for (const [what, isPurged] of [
    ["the job of one of them", false],
    ["no job", true],
  ] as const) {
    it.effect(
      `does not mix apps whose letters name the same job, with ${what}: one comes back, the other one is told`,
      () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const sql = yield* SqlClient.SqlClient;
          const [mine, theirs] = [yield* newTenant, yield* newTenant];
          const own = yield* deadJob(mine);
          const { originalJobId } = own;
          // The newest of all is the other app's.
          const foreign = yield* Client.tenant(theirs)(db.jobDlq.insert(letter(theirs, { originalJobId })));
          if (isPurged) yield* sql`DELETE FROM jobs WHERE id = ${originalJobId}`;
          const receipts = yield* Client.system(db.jobDlq.replay([own.id, foreign.id], { actor }));
          const replayed = receipts.filter(({ outcome }) => outcome === "replayed").map(({ id }) => id);
          assert.sameMembers(
            receipts.map(({ outcome }) => outcome),
            ["replayed", "job not dead"],
          );
          if (!isPurged) assert.deepStrictEqual(replayed, [own.id]);
          const [job] = yield* Client.system(sql`SELECT app_id, status, replays FROM jobs WHERE id = ${originalJobId}`);
          assert.deepStrictEqual(job, { appId: replayed[0] === own.id ? mine : theirs, status: "pending", replays: 1 });
          const left = yield* Client.system(db.jobDlq.find({ originalJobId }));
          assert.deepStrictEqual(
            left.filter(({ replayedAt }) => Option.isSome(replayedAt)).map(({ id }) => id),
            replayed,
          );
        }),
    );
  }

  it.effect("brings back each app's newest letter of jobs that another app's letters name as well", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const [one, two] = [yield* newTenant, yield* newTenant];
      const type = `shared ${one}`;
      const [ofOne, ofTwo] = [yield* deadJob(one, { type }), yield* deadJob(two, { type })];
      const crossed = yield* Effect.all([
        Client.tenant(one)(db.jobDlq.insert(letter(one, { type, originalJobId: ofTwo.originalJobId }))),
        Client.tenant(two)(db.jobDlq.insert(letter(two, { type, originalJobId: ofOne.originalJobId }))),
      ]);
      const last = yield* Stream.runLast(db.jobDlq.replay({ type }, { actor, scope: { _tag: "system" } }));
      const receipts = new Map(Option.getOrThrow(last).receipts.map(({ id, outcome }) => [id, outcome]));
      assert.deepStrictEqual(
        [ofOne, ofTwo, ...crossed].map(({ id }) => receipts.get(id)),
        ["replayed", "replayed", "job not dead", "job not dead"],
      );
      const jobs = yield* Client.system(sql`SELECT status FROM jobs WHERE type = ${type}`);
      assert.deepStrictEqual([...jobs], [{ status: "pending" }, { status: "pending" }]);
    }),
  );

  it.effect("tells discarded, purged, unknown and foreign ids apart in one call, as far as the scope may know", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const [mine, theirs] = [yield* newTenant, yield* newTenant];
      const foreign = yield* deadJob(theirs);
      const [good, discarded, purged] = yield* dead(mine, 3);
      assert.isDefined(good && discarded && purged);
      yield* Client.tenant(mine)(
        Effect.gen(function* () {
          yield* db.jobDlq.discard([discarded?.id ?? ""], { actor, reason: "known" });
          yield* db.jobDlq.markReplayed(purged?.id ?? "");
        }),
      );
      yield* Client.tenant(mine)(db.jobDlq.purge(0));
      const ids = [foreign.id, discarded?.id ?? "", purged?.id ?? "", randomUUID(), good?.id ?? ""];
      const receipts = yield* Client.tenant(mine)(db.jobDlq.replay(ids, { actor }));
      assert.deepStrictEqual(
        receipts.map(({ outcome }) => outcome),
        ["not found", "already gone", "not found", "not found", "replayed"],
      );
    }),
  );

  describe("by a filter", () => {
    it.effect("goes through what matches in batches, oldest first, and counts on", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const letters = yield* dead(appId, 7, "bulk");
        const other = yield* deadJob(appId, { type: "other" });
        const progress = yield* progressOf(appId, { type: "bulk" }, { batchSize: 3 });
        assert.deepStrictEqual(
          progress.map(({ asked, outcomes }) => [asked, outcomes.replayed]),
          [
            [3, 3],
            [6, 6],
            [7, 7],
          ],
        );
        assert.deepStrictEqual(
          progress.flatMap(({ receipts }) => receipts.map(({ id }) => id)),
          letters.map(({ id }) => id),
        );
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count({ status: "pending" })), 7);
        assert.isTrue(
          Option.isNone(Option.getOrThrow(yield* Client.tenant(appId)(db.jobDlq.get(other.id))).replayedAt),
        );
        assert.deepStrictEqual(yield* progressOf(appId, { type: "bulk" }), []);
      }),
    );

    it.effect("takes no more than its limit, and goes on when it is called again", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        yield* dead(appId, 5);
        assert.strictEqual((yield* progressOf(appId, { all: true }, { limit: 3, batchSize: 2 })).at(-1)?.asked, 3);
        assert.strictEqual((yield* progressOf(appId, { all: true }, { limit: 3 })).at(-1)?.asked, 2);
      }),
    );

    it.effect("takes only what a preview counted, when it is told the preview's moment, and so does discard", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const inside = Client.tenant(appId);
        yield* dead(appId, 3);
        const { asOf, count } = yield* inside(db.jobDlq.preview({}));
        assert.strictEqual(count, 3);
        yield* dead(appId, 2);
        assert.strictEqual((yield* progressOf(appId, { all: true }, { asOf, limit: 1 })).at(-1)?.outcomes.replayed, 1);
        const rest = db.jobDlq.discard({ all: true }, { actor, reason: "x", scope: { _tag: "tenant", appId }, asOf });
        assert.strictEqual(Option.getOrThrow(yield* Stream.runLast(rest)).outcomes.discarded, 2);
        assert.strictEqual((yield* inside(db.jobDlq.preview({}))).count, 2);
        // One that was there, and was discarded and restored since, is another arrival.
        const [event] = (yield* inside(db.jobDlq.events({ kind: "discarded", limit: 1 }))).items;
        yield* inside(db.jobDlq.restore([event?.id ?? ""], { actor }));
        assert.deepStrictEqual(yield* progressOf(appId, { all: true }, { asOf }), []);
      }),
    );

    for (const batchSize of [1, 2, 10]) {
      it.effect(`replays of several letters of one job only the newest, in batches of ${batchSize}`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const oldest = yield* deadJob(appId, { payload: "oldest" });
          const { originalJobId } = oldest;
          const inTenant = Client.tenant(appId);
          const older = yield* inTenant(db.jobDlq.insert(letter(appId, { originalJobId, payload: "older" })));
          const newest = yield* inTenant(db.jobDlq.insert(letter(appId, { originalJobId, payload: "newest" })));
          const runs: Array<unknown> = [];
          const receipts = yield* db.jobDlq
            .replay({ all: true }, { actor, scope: { _tag: "tenant", appId }, batchSize })
            .pipe(
              // What is replayed runs at once and dies again.
              Stream.tap(() =>
                inTenant(
                  Effect.gen(function* () {
                    for (const { fence, id, payload } of yield* db.jobs.claim({ runner: "r" })) {
                      runs.push(payload);
                      yield* db.jobs.deadLetter({ id, fence, reason: "MaxRetries", error: "again" });
                    }
                  }),
                ),
              ),
              Stream.mapConcat((_) => _.receipts),
              Stream.runCollect,
            );
          assert.deepStrictEqual(runs, ["newest"]);
          assert.deepStrictEqual(
            Chunk.toReadonlyArray(receipts).map(({ id, outcome }) => [id, outcome]),
            [
              [oldest.id, "job not dead"],
              [older.id, "job not dead"],
              [newest.id, "replayed"],
            ],
          );
        }),
      );
    }

    it.effect("passes letters whose jobs are not dead once, and ends", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const job = yield* Client.tenant(appId)(db.jobs.enqueue({ ...letter(appId), type: "living" }));
        yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { originalJobId: job.id })));
        yield* dead(appId, 2);
        const last = (yield* progressOf(appId, { all: true }, { batchSize: 1 })).at(-1);
        assert.deepStrictEqual(last?.outcomes, {
          replayed: 2,
          "already gone": 0,
          "job not dead": 1,
          erased: 0,
          "not found": 0,
        });
      }),
    );

    it.effect("does not count letters whose jobs are not dead against its limit", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        for (let i = 0; i < 3; i++) {
          const job = yield* Client.tenant(appId)(db.jobs.enqueue({ ...letter(appId), type: "living" }));
          yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { originalJobId: job.id })));
        }
        yield* dead(appId, 4);
        const { asked, outcomes } =
          (yield* progressOf(appId, { all: true }, { limit: 3 })).at(-1) ?? assert.fail("nothing was done");
        assert.deepInclude({ asked, ...outcomes } as object, { asked: 6, replayed: 3, "job not dead": 3 });
        assert.strictEqual((yield* progressOf(appId, { all: true }, { limit: 1 })).at(-1)?.outcomes.replayed, 1);
      }),
    );

    it.effect("does not take letters that arrive while it runs", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* dead(appId, 2);
        const scope = { _tag: "tenant", appId } as const;
        const asked = yield* db.jobDlq.replay({ all: true }, { actor, scope, batchSize: 1 }).pipe(
          Stream.tap(({ receipts }) =>
            // Each replayed job dies again at once: a run that chased its own failures would never end.
            Client.tenant(appId)(
              Effect.flatMap(db.jobDlq.get(receipts[0]?.id ?? ""), (found) =>
                db.jobs.deadLetter({
                  id: Option.getOrThrow(found).originalJobId,
                  reason: "MaxRetries",
                  error: "again",
                }),
              ),
            ),
          ),
          Stream.take(10),
          Stream.runCount,
        );
        assert.strictEqual(asked, 2);
      }),
    );

    it.effect("stays in its scope: a tenant's, or all", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const [a, b] = [yield* newTenant, yield* newTenant];
        const type = `shared ${randomUUID()}`;
        yield* dead(a, 2, type);
        yield* dead(b, 3, type);
        assert.strictEqual((yield* progressOf(a, { type })).at(-1)?.asked, 2);
        const all = db.jobDlq.replay({ type }, { actor, scope: { _tag: "system" } });
        assert.strictEqual(Option.getOrThrow(yield* Stream.runLast(all)).asked, 3);
      }),
    );

    it.effect("is one transaction with the scope that is open around it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* dead(appId, 4);
        const run = Stream.runDrain(db.jobDlq.replay({ all: true }, { actor, batchSize: 2 }));
        yield* Effect.flip(Client.tenant(appId)(Effect.zipRight(run, Effect.fail("rolled back"))));
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count({ status: "dead" })), 4);
        const [mine, theirs] = [appId, yield* newTenant];
        const conflict = Stream.runDrain(
          db.jobDlq.replay({ all: true }, { actor, scope: { _tag: "tenant", appId: theirs } }),
        );
        assert.strictEqual((yield* Effect.flip(Client.tenant(mine)(conflict)))._tag, "ScopeConflict");
      }),
    );
  });

  const ofFilter = { scope: { _tag: "system" }, batchSize: 10, limit: 0, asOf: "1:1:", ratePerSecond: 0 } as const;
  for (const [field, value] of Object.entries(ofFilter)) {
    it.effect(`refuses ${field} with ids, which it would not obey, and so does discard`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const { id } = yield* deadJob(appId);
        const options = { actor, reason: "x", [field]: value };
        for (const change of [
          Effect.asVoid(db.jobDlq.replay([id], options as { actor: string })),
          Effect.asVoid(db.jobDlq.discard([id], options as { actor: string; reason: string })),
        ]) {
          const error = yield* Effect.flip(Client.tenant(appId)(change));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, `: ${field} is for a filter; ids are one statement`);
        }
        assert.lengthOf(yield* Client.tenant(appId)(db.jobDlq.listPending()), 1);
        const undefinedOnly = { actor, [field]: undefined };
        assert.lengthOf(yield* Client.tenant(appId)(db.jobDlq.replay([id], undefinedOnly)), 1);
      }),
    );
  }

  it.effect("does not compile with ids and what is for a filter, however it is passed", () =>
    Effect.gen(function* () {
      const { jobDlq } = yield* DatabaseService;
      const slow = { actor, reason: "x", ratePerSecond: 5 };
      const few = { actor, reason: "x", limit: 5 };
      // @ts-expect-error a rate is for a filter
      yield* Effect.flip(jobDlq.replay([], slow));
      // @ts-expect-error a limit is for a filter
      yield* Effect.flip(jobDlq.discard([], few));
    }),
  );

  it.effect("takes at most 10,000 ids in one call, and so does discard", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const ids = Array.from({ length: 10_001 }, () => randomUUID());
      const replayed = Effect.asVoid(db.jobDlq.replay(ids, { actor }));
      for (const change of [replayed, Effect.asVoid(db.jobDlq.discard(ids, { actor, reason: "x" }))]) {
        const error = yield* Effect.flip(Client.tenant(appId)(change));
        assert.include(error.message, "ids are 10001; pass at most 10,000");
      }
      const receipts = yield* Client.tenant(appId)(db.jobDlq.replay(ids.slice(1), { actor }));
      assert.deepStrictEqual(new Set(receipts.map(({ outcome }) => outcome)), new Set(["not found"]));
    }),
  );

  const bad: ReadonlyArray<readonly [string, object, JobDlqFilter, string]> = [
    ["an actor that is missing", { actor: undefined }, { all: true }, "actor"],
    ["an actor that is blank", { actor: "  " }, { all: true }, "actor"],
    ["an actor with NUL", { actor: "a\u0000" }, { all: true }, "actor"],
    ["a rate of 0", { ratePerSecond: 0 }, { all: true }, "ratePerSecond"],
    ["a rate that is NaN", { ratePerSecond: Number.NaN }, { all: true }, "ratePerSecond"],
    ["a limit of 0", { limit: 0 }, { all: true }, "limit"],
    ["a moment that no preview said", { asOf: "now" }, { all: true }, "asOf"],
    ["a batch of 0", { batchSize: 0 }, { all: true }, "batchSize"],
    ["a batch of 10,001", { batchSize: 10_001 }, { all: true }, "batchSize"],
    ["an infinite delay", { delay: "Infinity" }, { all: true }, "delay"],
    ["an empty filter", {}, {}, "filter"],
    ["a state alone", {}, { state: "pending" }, "filter"],
    ["replayed ones", {}, { state: "replayed", type: "x" }, "filter.state"],
    ["an unknown field", {}, { tpye: "x" } as JobDlqFilter, "filter.tpye"],
    ["a field that is undefined", {}, { type: undefined } as never, "filter.type"],
  ];
  for (const [name, given, filter, field] of bad) {
    it.effect(`refuses ${name}, and says so`, () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        yield* deadJob(appId);
        const error = yield* Effect.flip(progressOf(appId, filter, given));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, `jobDlq.replay: ${field} `);
        const db = yield* DatabaseService;
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count({ status: "dead" })), 1);
      }),
    );
  }
});
