import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
import { classify } from "../../src/sql-state.js";
import { deadJob, letter, newTenant, TestDatabase } from "../support/database.js";

const actor = "test";

layer(TestDatabase, { excludeTestServices: true })("the ledger", (it) => {
  const discarded = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const appId = yield* newTenant;
    const one = yield* deadJob(appId);
    yield* Client.tenant(appId)(db.jobDlq.discard([one.id], { actor, reason: "x" }));
    return { appId, id: one.id };
  });

  describe("is append-only", () => {
    const changes = [
      ["another actor", "UPDATE job_dlq_events SET actor = 'nobody'"],
      ["another reason", "UPDATE job_dlq_events SET reason = NULL"],
      ["another entry", "UPDATE job_dlq_events SET entry = '{}' WHERE entry IS NOT NULL"],
      ["a detail where none was", "UPDATE job_dlq_events SET detail = '{}' WHERE detail IS NULL"],
      ["another time", "UPDATE job_dlq_events SET at = now() + interval '1 day'"],
      ["another tenant", "UPDATE job_dlq_events SET app_id = uuidv7()"],
      ["a deletion", "DELETE FROM job_dlq_events"],
      ["a truncation", "TRUNCATE job_dlq_events"],
    ] as const;
    for (const [name, statement] of changes) {
      it.effect(
        `refuses ${name} to both roles and to a superuser, and without its triggers only the grants are left`,
        () =>
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient;
            const { appId } = yield* discarded;
            const privileged = (error: { readonly _tag: string }) =>
              error._tag === "SqlError" && classify(error as never) === "Privilege";
            assert.isTrue(privileged(yield* Effect.flip(Client.tenant(appId)(sql.unsafe(statement)))));
            assert.isTrue(privileged(yield* Effect.flip(Client.system(sql.unsafe(statement)))));
            assert.isTrue(privileged(yield* Effect.flip(sql.unsafe(statement))));
            const broken = sql.withTransaction(
              Effect.gen(function* () {
                yield* sql.unsafe("ALTER TABLE job_dlq_events DISABLE TRIGGER USER");
                yield* sql.unsafe(statement);
                return yield* Effect.fail("rolled back" as const);
              }),
            );
            assert.strictEqual(yield* Effect.flip(broken), "rolled back");
          }),
      );
    }

    it.effect("but entry and detail may become NULL", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const { appId } = yield* discarded;
        yield* Client.tenant(appId)(sql`UPDATE job_dlq_events SET entry = NULL, detail = NULL`);
        const rows = yield* Client.tenant(appId)(sql`SELECT entry, user_id FROM job_dlq_events`);
        assert.deepStrictEqual(rows, [{ entry: null, userId: null }]);
      }),
    );

    it.effect("and parametric_system may delete what is past the retention age that it declares", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const { appId } = yield* discarded;
        const remove = (days: string) =>
          Effect.zipRight(
            sql`SELECT set_config('app.ledger_retention_days', ${days}, true)`,
            sql`DELETE FROM job_dlq_events WHERE app_id = ${appId} RETURNING id`,
          );
        assert.strictEqual((yield* Effect.flip(Client.system(remove("1"))))._tag, "SqlError");
        assert.strictEqual((yield* Effect.flip(Client.tenant(appId)(remove("0"))))._tag, "SqlError");
        assert.strictEqual((yield* Effect.flip(sql.withTransaction(remove("0"))))._tag, "SqlError");
        assert.strictEqual((yield* Client.system(remove("0"))).length, 1);
      }),
    );

    it.effect("and no age below 0 makes what was written just now past it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const { appId } = yield* discarded;
        for (const days of ["-1", "-2147483648"]) {
          const removed = Client.system(
            Effect.gen(function* () {
              const one = yield* db.jobDlq.insert(letter(appId));
              yield* db.jobDlq.discard([one.id], { actor, reason: "x" });
              yield* sql`SELECT set_config('app.ledger_retention_days', ${days}, true)`;
              yield* sql`DELETE FROM job_dlq_events WHERE app_id = ${appId}`;
            }),
          );
          const error = yield* Effect.flip(removed);
          assert.strictEqual(error._tag === "SqlError" && classify(error), "Privilege", days);
        }
      }),
    );

    it.effect("and the receipt of an erasure stays at any age", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const { appId, id } = yield* discarded;
        yield* Client.tenant(appId)(db.jobDlq.erase({ ids: [id] }, { actor }));
        const remove = Effect.zipRight(
          sql`SELECT set_config('app.ledger_retention_days', '0', true)`,
          sql`DELETE FROM job_dlq_events WHERE app_id = ${appId} AND kind = 'erased'`,
        );
        const error = yield* Effect.flip(Client.system(remove));
        assert.strictEqual(error._tag === "SqlError" && classify(error), "Privilege");
        yield* db.jobDlq.retain({ discarded: 0 }, { actor, scope: { _tag: "system" } });
        const [receipt] = yield* Client.tenant(appId)(db.jobDlq.replay([id], { actor }));
        assert.strictEqual(receipt?.outcome, "erased");
      }),
    );

    for (const [name, columns] of [
      ["a kind that is unknown", { kind: "edited" }],
      ["an actor that is blank", { actor: " " }],
      ["a replay without its letter", { dlq_id: null, original_job_id: null }],
      ["a restore that undoes nothing", { kind: "restored" }],
      ["an entry of a letter that did not leave", { entry: "{}" }],
    ] as const) {
      it.effect(`refuses ${name}`, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const appId = yield* newTenant;
          const row = {
            app_id: appId,
            dlq_id: randomUUID(),
            original_job_id: randomUUID(),
            ...{ kind: "replayed", actor },
            ...columns,
          };
          const error = yield* Effect.flip(Client.system(sql`INSERT INTO job_dlq_events ${sql.insert(row)}`));
          assert.strictEqual(error._tag === "SqlError" && classify(error), "Check");
        }),
      );
    }
  });

  it.effect("pages newest first, by letter, job, kind and actor", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const letters = yield* Effect.replicateEffect(deadJob(appId), 5);
          for (const [i, { id }] of letters.entries()) yield* db.jobDlq.replay([id], { actor: `actor ${i % 2}` });
          const seen: Array<string> = [];
          let cursor: string | undefined;
          do {
            const page = yield* db.jobDlq.events({ limit: 2, cursor });
            seen.push(...page.items.map(({ dlqId }) => dlqId ?? ""));
            cursor = Option.getOrUndefined(page.next);
          } while (cursor !== undefined);
          assert.deepStrictEqual(seen, letters.map(({ id }) => id).reverse());
          assert.strictEqual((yield* db.jobDlq.events({ actor: "actor 1" })).items.length, 2);
          assert.strictEqual((yield* db.jobDlq.events({ kind: "discarded" })).items.length, 0);
          assert.strictEqual(
            (yield* db.jobDlq.events({ originalJobId: letters[0]?.originalJobId ?? "" })).items.length,
            1,
          );
          for (const [options, tag] of [
            [{ cursor: "x" }, "InvalidCursor"],
            [{ limit: 0 }, "InvalidInput"],
            [{ dlqId: "x" }, "InvalidInput"],
            [{ kind: "x" }, "InvalidInput"],
          ] as const) {
            assert.strictEqual((yield* Effect.flip(db.jobDlq.events(options as never)))._tag, tag);
          }
        }),
      );
    }),
  );

  it.effect("knows who read a letter in full", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const [appId, theirs] = [yield* newTenant, yield* newTenant];
      const one = yield* deadJob(appId);
      assert.strictEqual(Option.getOrThrow(yield* Client.tenant(appId)(db.jobDlq.view(one.id, { actor }))).id, one.id);
      assert.isTrue(Option.isNone(yield* Client.tenant(theirs)(db.jobDlq.view(one.id, { actor }))));
      const { items } = yield* Client.system(db.jobDlq.events({ dlqId: one.id }));
      assert.deepStrictEqual(
        items.map(({ actor, kind }) => ({ actor, kind })),
        [{ actor, kind: "viewed" }],
      );
    }),
  );

  it.effect("shows no letter to an actor that is missing or blank", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const { id } = yield* deadJob(appId);
      for (const given of [undefined as unknown as string, "", "  "]) {
        const error = yield* Effect.flip(Client.tenant(appId)(db.jobDlq.view(id, { actor: given })));
        assert.strictEqual(error._tag, "InvalidInput");
        assert.include(error.message, "jobDlq.view: actor is missing or blank");
      }
      assert.deepStrictEqual((yield* Client.tenant(appId)(db.jobDlq.events())).items, []);
    }),
  );
});
