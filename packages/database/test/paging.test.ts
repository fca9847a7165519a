import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Option from "effect/Option";
import * as Runtime from "effect/Runtime";
import * as Client from "../src/client.js";
import { decodeCursor, encodeCursor } from "../src/cursor.js";
import { DatabaseService } from "../src/repos.js";
import { campaign } from "./support/campaign.js";
import { letter, newTenant, TestDatabase } from "./support/database.js";
import { untyped } from "./support/samples.js";

/** Walks all pages; returns the ids in the order they came. `change` is what becomes of each cursor on its way. */
const walk = (limit: number, change: (cursor: string) => string = (_) => _) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const ids: Array<string> = [];
    let cursor: string | undefined;
    for (;;) {
      const page = yield* db.jobDlq.pagePending({ limit, ...(cursor === undefined ? {} : { cursor }) });
      assert.isAtMost(page.items.length + page.bad.length, limit);
      ids.push(...page.items.map(({ id }) => id));
      if (Option.isNone(page.next)) return ids;
      assert.strictEqual(page.items.length + page.bad.length, limit, "only the last page is short");
      cursor = change(page.next.value);
    }
  });

layer(TestDatabase, { excludeTestServices: true })("listPending and pagePending", (it) => {
  it.effect("list what is pending, newest first, of one type or of all, within the tenant", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const [mine, theirs] = [yield* newTenant, yield* newTenant];
      yield* Client.tenant(theirs)(db.jobDlq.insert(letter(theirs)));
      const ids: Array<string> = [];
      for (const type of ["a", "b", "a"]) {
        ids.unshift((yield* Client.tenant(mine)(db.jobDlq.insert(letter(mine, { type })))).id);
      }
      const replayed = yield* Client.tenant(mine)(db.jobDlq.insert(letter(mine)));
      yield* Client.tenant(mine)(db.jobDlq.markReplayed(replayed.id));
      yield* Client.tenant(mine)(
        Effect.gen(function* () {
          assert.deepStrictEqual(
            (yield* db.jobDlq.listPending()).map(({ id }) => id),
            ids,
          );
          assert.deepStrictEqual(
            (yield* db.jobDlq.listPending({ type: "a" })).map(({ id }) => id),
            [ids[0], ids[2]],
          );
          assert.deepStrictEqual(
            (yield* db.jobDlq.listPending({ limit: 2 })).map(({ id }) => id),
            ids.slice(0, 2),
          );
          assert.deepStrictEqual(yield* db.jobDlq.listPending({ type: "unknown" }), []);
        }),
      );
    }),
  );

  it.effect("visit every row once, whatever the microseconds, the ties and the page size", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const runtime = yield* Effect.runtime<DatabaseService | SqlClient.SqlClient>();
      const runPromise = Runtime.runPromise(runtime);
      // Few distinct microseconds, so that ties and near-ties in one millisecond are common.
      const micros = fc.array(fc.integer({ min: 0, max: 2_500 }), { minLength: 0, maxLength: 40 });
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(micros, fc.integer({ min: 1, max: 12 }), (offsets, limit) =>
            runPromise(
              Effect.gen(function* () {
                const appId = yield* newTenant;
                yield* Client.tenant(appId)(
                  Effect.gen(function* () {
                    yield* db.jobDlq.insertMany(offsets.map((_, i) => letter(appId, { payload: i })));
                    yield* sql`
                      UPDATE job_dlq d SET dlq_at = timestamptz '2026-03-01 00:00:00Z' + o.micros * interval '1 microsecond'
                      FROM unnest(${offsets}::int[]) WITH ORDINALITY AS o (micros, place)
                      WHERE d.payload = to_jsonb(o.place - 1)`;
                    const expected = yield* sql`SELECT id FROM job_dlq ORDER BY dlq_at DESC, id DESC`;
                    assert.deepStrictEqual(
                      yield* walk(limit),
                      expected.map((_) => String(_.id)),
                    );
                  }),
                );
              }),
            ),
          ),
          campaign("paging", 300, 40),
        ),
      );
    }),
  );

  it.effect("show letters of one moment in the order of their ids, whatever the plan", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const ids = Array.from({ length: 200 }, () => randomUUID());
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* sql`
            INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
            SELECT id, id, ${appId}, 't', '{}', 'MaxRetries', 1, '[]', '2026-03-01T00:00:00Z' FROM unnest(${ids}::uuid[]) AS t (id)`;
          for (const index of ["on", "off"]) {
            yield* sql.unsafe(`SET LOCAL enable_indexscan = ${index}; SET LOCAL enable_bitmapscan = ${index}`);
            assert.deepStrictEqual(yield* walk(7), [...ids].sort().reverse(), `with index scans ${index}`);
          }
        }),
      );
    }),
  );

  it.effect("counter-test: a cursor cut to milliseconds skips rows", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      const cut = (cursor: string) => {
        const { at, id } = Option.getOrThrow(decodeCursor(cursor));
        return encodeCursor({ at: String((BigInt(at) / 1000n) * 1000n), id });
      };
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.insertMany(Array.from({ length: 9 }, (_, i) => letter(appId, { payload: i })));
          // Three milliseconds with three letters each.
          yield* sql`
            UPDATE job_dlq SET dlq_at = timestamptz '2026-03-01 00:00:00Z'
              + (payload::int / 3) * interval '1 millisecond' + (1 + payload::int % 3) * interval '1 microsecond'`;
          assert.lengthOf(yield* walk(1), 9);
          assert.lengthOf(yield* walk(1, cut), 3);
        }),
      );
    }),
  );

  it.effect("keep their place while rows come, go and are replayed", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.insertMany(Array.from({ length: 30 }, () => letter(appId)));
          const all = (yield* db.jobDlq.listPending()).map(({ id }) => id);
          const first = yield* db.jobDlq.pagePending({ limit: 10 });
          yield* db.jobDlq.insert(letter(appId));
          yield* db.jobDlq.markReplayed(all[9] ?? "");
          yield* db.jobDlq.markReplayed(all[15] ?? "");
          const second = yield* db.jobDlq.pagePending({ limit: 10, cursor: Option.getOrThrow(first.next) });
          const third = yield* db.jobDlq.pagePending({ limit: 10, cursor: Option.getOrThrow(second.next) });
          assert.deepStrictEqual(
            [...second.items, ...third.items].map(({ id }) => id),
            all.slice(10).filter((id) => id !== all[15]),
          );
          assert.isTrue(Option.isNone(third.next));
        }),
      );
    }),
  );

  it.effect("pass dead letters at infinity, which only SQL can write", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.insertMany(Array.from({ length: 5 }, (_, i) => letter(appId, { payload: i })));
          yield* sql`UPDATE job_dlq SET dlq_at = 'infinity' WHERE payload IN ('0', '1')`;
          yield* sql`UPDATE job_dlq SET dlq_at = '-infinity' WHERE payload = '2'`;
          assert.strictEqual((yield* walk(1)).length, 2);
          const { bad } = yield* db.jobDlq.pagePending({});
          assert.strictEqual(bad.length, 3);
        }),
      );
    }),
  );

  it.effect("show a stored row that does not fit the model with its id, and never let it hide the others", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const sql = yield* SqlClient.SqlClient;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const ids = (yield* Effect.forEach([1, 2, 3], () => db.jobDlq.insert(letter(appId)))).map(({ id }) => id);
          yield* sql`UPDATE job_dlq SET error_history = '[{"message": "secret text"}]' WHERE id = ${ids[1] ?? ""}`;
          const page = yield* db.jobDlq.pagePending();
          assert.strictEqual(page.items.length, 2);
          assert.deepStrictEqual(
            page.bad.map(({ id, table }) => ({ id, table })),
            [{ id: ids[1] ?? "", table: "job_dlq" }],
          );
          assert.include(page.bad[0]?.message, "errorHistory");
          assert.notInclude(page.bad[0]?.message, "secret");
          assert.strictEqual((yield* db.jobDlq.listPending()).length, 2);
          const error = yield* Effect.flip(db.jobDlq.get(ids[1] ?? ""));
          assert.strictEqual(error._tag, "BadRow");
          // It can be replayed all the same: its payload is copied inside the database.
          const [receipt] = yield* db.jobDlq.replay([ids[1] ?? ""], { actor: "test" });
          assert.strictEqual(receipt?.outcome, "replayed");
        }),
      );
    }),
  );

  for (const limit of [0, -1, 1.5, 1e9, 1001, Number.NaN]) {
    it.effect(`refuse a limit of ${limit}`, () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        for (const list of [db.jobDlq.listPending, db.jobDlq.pagePending]) {
          const error = yield* Effect.flip(
            Client.system(Effect.asVoid(list({ limit }) as Effect.Effect<unknown, { _tag: string; message: string }>)),
          );
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, "limit");
        }
      }),
    );
  }

  it.effect("refuse a cursor that was tampered with, and one that is no cursor", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          yield* db.jobDlq.insertMany([letter(appId), letter(appId)]);
          const { next } = yield* db.jobDlq.pagePending({ limit: 1 });
          const cursor = Option.getOrThrow(next);
          for (const tampered of [
            `${cursor}x`,
            cursor.slice(1),
            cursor.toUpperCase(),
            "",
            "1",
            randomUUID(),
            "'; DROP TABLE jobs; --",
          ]) {
            const error = yield* Effect.flip(db.jobDlq.pagePending({ cursor: tampered }));
            assert.strictEqual(error._tag, "InvalidCursor", tampered);
          }
        }),
      );
    }),
  );

  it.effect("refuses with a typed error what has no text, as JavaScript passes it", () =>
    Effect.gen(function* () {
      const { jobDlq, jobs } = yield* DatabaseService;
      const appId = yield* newTenant;
      for (const odd of [null, false, 1n, Symbol("x"), [], Object.create(null)]) {
        const given = untyped(odd);
        const asked = {
          pagePending: jobDlq.pagePending({ cursor: given }),
          listPending: jobDlq.listPending({ cursor: given }),
          pagePendingOfType: jobDlq.pagePending({ type: given }),
          page: jobDlq.page({}, { cursor: given }),
          events: jobDlq.events({ cursor: given }),
          get: jobDlq.get(given),
          stats: jobDlq.stats({ by: given }),
          find: jobDlq.find({}, { order: { id: given } }),
          deadLetter: jobs.deadLetter({ id: randomUUID(), reason: given, error: "x" }),
        };
        for (const [name, operation] of Object.entries<Effect.Effect<unknown, { readonly _tag: string }>>(asked)) {
          const { _tag } = yield* Effect.flip(Client.tenant(appId)(operation) as typeof operation);
          assert.include(["InvalidInput", "InvalidCursor"], _tag, `${name} ${typeof odd}`);
        }
      }
    }),
  );
});
