import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Logger from "effect/Logger";
import * as Option from "effect/Option";
import * as Client from "../src/client.js";
import { type FindOptions, Is, type Predicate, repo, Update } from "../src/factory.js";
import { JobDlq } from "../src/models.js";
import { DatabaseService } from "../src/repos.js";
import { databaseError } from "../src/sql-state.js";
import { letter, newTenant, TestDatabase, TestUrl, work } from "./support/database.js";
import { at, labels, Sample, sample, samples, untyped } from "./support/samples.js";
import * as Wire from "./support/wire.js";

layer(TestDatabase, { excludeTestServices: true })("repo(Model, table, config)", (it) => {
  describe("one, find and count", () => {
    it.effect("take a value for equality on every kind of column, and all conditions must hold", () =>
      Effect.gen(function* () {
        const { count, find, insert, one } = yield* samples;
        const given = sample({
          label: 'it\'s "quoted" \\ %_ 👩‍🚀',
          amount: -2_147_483_648,
          ratio: 0.1 + 0.2,
          big: 2n ** 63n - 1n,
          isOpen: false,
          note: Option.some("noted"),
          weight: Option.some(-1.5),
          seenAt: Option.some(new Date(1_790_000_000_123)),
          madeAt: at(456),
          data: { user_id: [null, 1] },
        });
        const stored = yield* insert(given);
        yield* insert(sample());
        assert.deepStrictEqual({ ...stored }, { id: stored.id, ...given });
        for (const name of Object.keys(stored)) {
          const where = untyped({ [name]: Reflect.get(stored, name) });
          assert.deepStrictEqual(yield* find(where), [stored], name);
          assert.deepStrictEqual(yield* one(where), Option.some(stored), name);
          assert.strictEqual(yield* count(where), 1, name);
        }
        assert.deepStrictEqual(yield* find({ ...stored }), [stored]);
        assert.strictEqual(yield* count({ ...stored, amount: 0 }), 0);
        assert.strictEqual(yield* count({}), 2);
        assert.strictEqual(yield* count(), 2);
        assert.deepStrictEqual(yield* one({ label: "nobody" }), Option.none());
      }),
    );

    it.effect("take an optional column's value bare or wrapped; none and Is.absent are NULL", () =>
      Effect.gen(function* () {
        const { find, insert } = yield* samples;
        const seenAt = new Date(1_790_000_000_000);
        yield* insert(
          sample({ label: "full", note: Option.some("n"), weight: Option.some(0), seenAt: Option.some(seenAt) }),
        );
        yield* insert(sample({ label: "empty" }));
        const is = (where: Predicate<Sample>) => Effect.map(find(where), labels);
        assert.deepStrictEqual(yield* is({ note: "n", weight: 0, seenAt }), ["full"]);
        assert.deepStrictEqual(yield* is({ note: Option.some("n"), seenAt: Option.some(seenAt) }), ["full"]);
        assert.deepStrictEqual(yield* is({ note: Option.none() }), ["empty"]);
        assert.deepStrictEqual(yield* is({ weight: Is.absent }), ["empty"]);
        assert.deepStrictEqual(yield* is({ seenAt: Is.present }), ["full"]);
        assert.deepStrictEqual(yield* is({ label: Is.absent }), []);
        assert.deepStrictEqual(yield* is({ label: Is.present }), ["full", "empty"]);
        // As in SQL, a NULL meets none of the comparisons.
        assert.deepStrictEqual(yield* is({ note: Is.not("x") }), ["full"]);
        assert.deepStrictEqual(yield* is({ weight: Is.atMost(1) }), ["full"]);
        assert.deepStrictEqual(yield* is({ note: Is.oneOf(["n", "x"]) }), ["full"]);
      }),
    );

    it.effect("compare with every condition of Is", () =>
      Effect.gen(function* () {
        const { count, insert } = yield* samples;
        for (const amount of [1, 2, 3]) yield* insert(sample({ amount, madeAt: at(amount) }));
        assert.strictEqual(yield* count({ amount: Is.not(2) }), 2);
        assert.strictEqual(yield* count({ amount: Is.lessThan(2) }), 1);
        assert.strictEqual(yield* count({ amount: Is.atMost(2) }), 2);
        assert.strictEqual(yield* count({ amount: Is.greaterThan(2) }), 1);
        assert.strictEqual(yield* count({ madeAt: Is.atLeast(at(2)) }), 2);
        assert.strictEqual(yield* count({ amount: Is.oneOf([1, 3, 3, 9]) }), 2);
        assert.strictEqual(yield* count({ amount: Is.oneOf([]) }), 0);
        assert.strictEqual(yield* count({ data: Is.oneOf<unknown>([null, 1]) }), 3);
      }),
    );

    it.effect("take more values in one list than a statement has parameters", () =>
      Effect.gen(function* () {
        const { count, insert } = yield* samples;
        const { id } = yield* insert(sample({ amount: 70_000 }));
        const many = Array.from({ length: 70_000 }, (_, i) => i + 1);
        assert.strictEqual(yield* count({ amount: Is.oneOf(many) }), 1);
        assert.strictEqual(yield* count({ id: Is.oneOf([...many.map(() => randomUUID()), id]) }), 1);
      }),
    );

    it.effect("order by id, oldest first, or by the columns that are named, and then by id", () =>
      Effect.gen(function* () {
        const { find, insert, one } = yield* samples;
        for (const [label, amount] of [
          ["d", 1],
          ["c", 2],
          ["b", 1],
          ["a", 2],
        ] as const) {
          yield* insert(sample({ label, amount, note: label === "c" ? Option.some("last") : Option.none() }));
        }
        const by = (order?: FindOptions<Sample>["order"]) =>
          Effect.map(find({}, order === undefined ? {} : { order }), (rows) => labels(rows).join(""));
        assert.strictEqual(yield* by(), "dcba");
        assert.strictEqual(yield* by({}), "dcba");
        assert.strictEqual(yield* by({ id: "desc" }), "abcd");
        assert.strictEqual(yield* by({ label: "asc" }), "abcd");
        assert.strictEqual(yield* by({ amount: "asc" }), "dbca");
        assert.strictEqual(yield* by({ amount: "desc", label: "asc" }), "acbd");
        assert.strictEqual(yield* by({ amount: "asc", id: "desc" }), "bdac");
        assert.strictEqual(yield* by({ note: "desc" }), "dbac");
        assert.deepStrictEqual(
          Option.map(yield* one({ amount: 2 }), (_) => _.label),
          Option.some("c"),
        );
      }),
    );

    it.effect("return at most the limit, 100 when none is given", () =>
      Effect.gen(function* () {
        const { find, insert } = yield* samples;
        yield* Effect.forEach(Array.from({ length: 101 }), () => insert(sample()), { discard: true });
        assert.strictEqual((yield* find({})).length, 100);
        assert.strictEqual((yield* find({}, { limit: 1 })).length, 1);
        assert.strictEqual((yield* find({}, { limit: 1000 })).length, 101);
        for (const limit of [0, -1, 1.5, 1e9, 1001, Number.NaN, Number.POSITIVE_INFINITY, untyped("5")]) {
          const error = yield* Effect.flip(find({}, { limit }));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, `limit is ${limit}; it must be a whole number from 1 to 1,000`);
        }
      }),
    );

    it.effect("leave out a row that does not fit the model and name it in the log; one fails with it", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const logged: Array<string> = [];
        const logger = Logger.replace(
          Logger.defaultLogger,
          Logger.make(({ message }) => void logged.push(String(message))),
        );
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const [bad, good] = [yield* db.jobs.enqueue(work(appId)), yield* db.jobs.enqueue(work(appId))];
            yield* sql`UPDATE jobs SET error_history = '[{"error": "somebody''s secret"}]' WHERE id = ${bad.id}`;
            assert.deepStrictEqual(
              (yield* db.jobs.find({})).map(({ id }) => id),
              [good.id],
            );
            const error = yield* Effect.flip(db.jobs.one({ id: bad.id }));
            assert.strictEqual(error._tag, "BadRow");
            assert.strictEqual(
              error.message,
              `Row ${bad.id} of jobs does not fit its model: errorHistory.0.timestamp is not what the model says. Repair it with SQL, or delete it.`,
            );
            assert.deepStrictEqual(logged, [error.message]);
            assert.strictEqual(yield* db.jobs.count(), 2);
          }),
        ).pipe(Effect.provide(logger));
      }),
    );
  });

  describe("set", () => {
    it.effect("changes the rows that meet the predicate and says how many", () =>
      Effect.gen(function* () {
        const { count, find, insert, set } = yield* samples;
        for (const amount of [1, 2, 3]) yield* insert(sample({ amount, note: Option.some("n") }));
        assert.strictEqual(
          yield* set({ amount: Is.atLeast(2) }, { label: "b", note: Option.none(), weight: Option.some(2), data: [1] }),
          2,
        );
        const [changed] = yield* find({ amount: 2 });
        assert.deepInclude(
          { ...changed },
          { label: "b", note: Option.none(), weight: Option.some(2), data: [1], big: 1n },
        );
        assert.strictEqual(yield* count({ label: "a", note: "n" }), 1);
        assert.strictEqual(yield* set({ amount: 9 }, { label: "c" }), 0);
        assert.strictEqual(yield* set({ amount: Is.oneOf([]) }, { label: "c" }), 0);
      }),
    );

    it.effect("takes the database's time for Update.now, also of an optional column", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const plain = yield* repo(JobDlq, "job_dlq", {});
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const { id } = yield* db.jobDlq.insert(letter(appId));
            const job = yield* db.jobs.enqueue(work(appId));
            assert.strictEqual(yield* plain.set({ id }, { replayedAt: Update.now, errorReason: "Validation" }), 1);
            assert.strictEqual(yield* db.jobs.set({ id: job.id }, { scheduledAt: Update.now }), 1);
            const rows = yield* sql`
              SELECT d.replayed_at = now() AND j.scheduled_at = now() AS same, d.error_reason AS reason
              FROM job_dlq d, jobs j WHERE d.id = ${id} AND j.id = ${job.id}`;
            assert.deepStrictEqual(rows, [{ same: true, reason: "Validation" }]);
          }),
        );
      }),
    );

    it.effect("refuses a predicate that is empty, in whatever way, and an empty patch", () =>
      Effect.gen(function* () {
        const { count, insert, set } = yield* samples;
        yield* insert(sample());
        for (const [where, patch, problem] of [
          [{}, { label: "b" }, "where is empty; name at least one condition"],
          [{ label: undefined }, { label: "b" }, "label is undefined"],
          // One that is forgotten must not widen the others.
          [{ label: "a", id: undefined }, { label: "b" }, "id is undefined"],
          [{ label: "a" }, {}, "patch is empty; name at least one column"],
          [{ label: "a" }, { label: undefined }, "patch is empty; name at least one column"],
        ] as const) {
          const error = yield* Effect.flip(set(untyped(where), untyped(patch)));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, problem);
        }
        assert.strictEqual(yield* count({ label: "a" }), 1);
      }),
    );

    it.effect("refuses what never changes, and leaves undefined out of a patch", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { find, insert, set } = yield* samples;
        const stored = yield* insert(sample());
        const error = yield* Effect.flip(set({ label: "a" }, untyped({ id: randomUUID() })));
        assert.include(error.message, "id cannot be changed");
        const dlqAt = yield* Effect.flip(
          Client.system(db.jobDlq.set({ type: "nobody's" }, untyped({ dlqAt: Update.now }))),
        );
        assert.include(dlqAt.message, "dlqAt cannot be changed");
        for (const patch of [
          { originalJobId: randomUUID() },
          { appId: randomUUID() },
          { payload: { to: "b@example.com" } },
          { attempts: 0 },
          { errorHistory: [] },
          { replayedAt: Option.none() },
          { requestId: Option.none() },
          { userId: Option.none() },
        ]) {
          const refused = yield* Effect.flip(Client.system(db.jobDlq.set({ type: "nobody's" }, untyped(patch))));
          assert.include(refused.message, `${Object.keys(patch)[0]} cannot be changed`);
        }
        assert.strictEqual(yield* set({ label: "a" }, untyped({ amount: 5, note: undefined })), 1);
        assert.deepStrictEqual(yield* find({ id: stored.id, amount: 5 }), [new Sample({ ...stored, amount: 5 })]);
      }),
    );

    it.effect("refuses values that the database refuses, by the constraint's name, and apps that there are not", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const { id } = yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
        const error = yield* Effect.flip(Client.tenant(appId)(db.jobs.set({ id }, { maxAttempts: 0 })));
        assert.include(error.message, "jobs.set: jobs_max_attempts_positive was refused by the database");
        const unknown = randomUUID();
        const noApp = yield* Effect.flip(Client.system(db.jobs.set({ id }, { appId: unknown })));
        assert.strictEqual(noApp._tag, "AppNotFound");
        assert.include(noApp.message, unknown);
        const foreign = yield* Effect.flip(Client.tenant(appId)(db.jobs.set({ id }, { appId: unknown })));
        assert.strictEqual(foreign._tag, "AccessDenied");
      }),
    );
  });

  describe("insert", () => {
    it.effect("takes the database's default for what is left out", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const job = yield* Client.tenant(appId)(db.jobs.insert(work(appId)));
        assert.deepInclude(
          { ...job },
          { priority: "normal", maxAttempts: 5, status: "pending", attempts: 0, errorHistory: [] },
        );
        const chosen = yield* Client.tenant(appId)(
          db.jobs.insert({ ...work(appId), priority: "low", maxAttempts: 1, scheduledAt: at(0) }),
        );
        assert.deepInclude({ ...chosen }, { priority: "low", maxAttempts: 1, scheduledAt: at(0) });
      }),
    );

    it.effect("never writes fields that the model generates, nor ones that it does not have", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        const given = {
          ...work(appId),
          id: randomUUID(),
          status: "dead",
          attempts: 7,
          fence: 1n,
          updatedAt: new Date(0),
          typo: 1,
        };
        const job = yield* Client.tenant(appId)(db.jobs.insert(given));
        assert.notStrictEqual(job.id, given.id);
        assert.deepInclude({ ...job }, { status: "pending", attempts: 0 });
      }),
    );

    it.effect("refuses a second row under a unique name and a blank one, by the constraint's name", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const name = `app ${randomUUID()}`;
        yield* Client.system(db.apps.insert({ name }));
        for (const [given, constraint] of [
          [name, "apps_name_unique"],
          [" ", "apps_name_not_blank"],
        ] as const) {
          const error = yield* Effect.flip(Client.system(db.apps.insert({ name: given })));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, `apps.insert: ${constraint} was refused by the database`);
        }
      }),
    );
  });

  describe("purge", () => {
    it.effect("exists where it is configured, and nowhere else", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        assert.isFunction(db.jobDlq.purge);
        assert.isFunction(db.jobs.purge);
        assert.notProperty(db.apps, "purge");
        assert.notProperty(yield* repo(Sample, "samples", {}), "purge");
      }),
    );

    it.effect("runs the function by the name that was given, whatever the name", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const name = 'purge "odd"; drop table jobs; --';
        yield* sql.unsafe(`CREATE FUNCTION "${name.replaceAll('"', '""')}"(days int) RETURNS int RETURN days + 1`);
        const { purge } = yield* repo(Sample, "samples", { purge: name });
        assert.strictEqual(yield* purge(), 31);
        assert.strictEqual(yield* purge(0), 1);
        for (const days of [-1, 1.5, Number.NaN, 2_147_483_648, untyped("7")]) {
          const error = yield* Effect.flip(purge(days));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, `samples.purge: olderThanDays is ${days}`);
        }
        const { purge: missing } = yield* repo(Sample, "samples", { purge: "no_such_function" });
        const error = yield* Effect.flip(missing());
        assert.strictEqual(error._tag === "SqlError" && databaseError(error).code, "42883");
      }),
    );
  });

  describe("what the compiler cannot see", () => {
    // Names that JavaScript or SQL might take for more than a name.
    const names = [
      "typo",
      "app_id",
      "updatedAt",
      "id; DROP TABLE jobs; --",
      'label" = "label',
      "1",
      "",
      "__proto__",
      "constructor",
      "toString",
      "\u0000",
    ];

    it.effect("an unknown column is refused by name, in predicates, orders and patches", () =>
      Effect.gen(function* () {
        const { count, find, insert, one, set, table } = yield* samples;
        yield* insert(sample());
        for (const name of names) {
          const by = (value: unknown) => untyped(Object.fromEntries([[name, value]]));
          for (const [call, field] of [
            [find(by("a")), name],
            [find(by(Is.present)), name],
            [one(by("a")), name],
            [count(by("a")), name],
            [find({}, { order: by("asc") }), `order.${name}`],
            [set(by("a"), { label: "b" }), name],
            [set({ label: "a" }, by("a")), name],
            [set({ label: "a" }, by(Update.now)), name],
          ] as const) {
            const error = yield* Effect.flip(
              call as Effect.Effect<unknown, { readonly _tag: string; readonly message: string }>,
            );
            assert.strictEqual(error._tag, "InvalidInput", name);
            assert.include(error.message, `${table}.`);
            assert.include(error.message, `: ${field} `);
          }
        }
        for (const direction of ["ASC", "up", "asc; DROP TABLE jobs", 1, null]) {
          const error = yield* Effect.flip(find({}, { order: untyped({ label: direction }) }));
          assert.strictEqual(error._tag, "InvalidInput");
        }
        assert.strictEqual(yield* count({ label: "a" }), 1);
      }),
    );

    it.effect("a value of the wrong type is refused with its column", () =>
      Effect.gen(function* () {
        const { find, insert, set } = yield* samples;
        yield* insert(sample());
        for (const [where, field] of [
          [{ label: 3 }, "label"],
          [{ label: null }, "label"],
          [{ label: Option.some("a") }, "label"],
          [{ amount: "1" }, "amount"],
          [{ amount: 1.5 }, "amount"],
          [{ big: 1 }, "big"],
          [{ isOpen: "true" }, "isOpen"],
          [{ note: null }, "note"],
          [{ note: Is.not(3) }, "note"],
          [{ madeAt: "2026-01-01" }, "madeAt"],
          [{ seenAt: 0 }, "seenAt"],
          [{ id: "no uuid" }, "id"],
          [{ id: Is.oneOf([randomUUID(), "no uuid"]) }, "id"],
          [{ data: new Map() }, "data at $"],
          [{ label: "a\u0000" }, "label contains a NUL"],
          [{ label: Is.oneOf(["a", "\uD800"]) }, "label contains a lone surrogate"],
          [{ label: undefined }, "label is undefined"],
          [{ note: undefined }, "note is undefined"],
        ] as const) {
          const error = yield* Effect.flip(find(untyped(where)));
          assert.strictEqual(error._tag, "InvalidInput", JSON.stringify(where));
          assert.include(error.message, `.find: ${field}`);
        }
        const error = yield* Effect.flip(set({ label: "a" }, untyped({ amount: "2" })));
        assert.include(error.message, ".set: amount is not valid");
        const tooLarge = yield* Effect.flip(find({ amount: 2 ** 31 }));
        assert.strictEqual(tooLarge._tag, "InvalidInput");
      }),
    );

    it.effect("a value is a parameter: its text is never part of the statement", () =>
      Effect.gen(function* () {
        const server = yield* TestUrl;
        const wire = yield* Wire.make(server);
        yield* Effect.gen(function* () {
          const { count, find, insert, set } = yield* samples;
          const evil = "canary'; DROP TABLE jobs; --";
          wire.reset();
          yield* insert(sample({ label: evil, note: Option.some(evil), data: { [evil]: evil } }));
          assert.deepStrictEqual(labels(yield* find({ label: evil, note: evil, data: { [evil]: evil } })), [evil]);
          assert.strictEqual(yield* count({ label: Is.oneOf([evil]), note: Is.not(`${evil}2`) }), 1);
          assert.strictEqual(yield* set({ label: evil }, { note: Option.some(`${evil}3`) }), 1);
          assert.strictEqual(wire.sent().length, 4);
          for (const statement of wire.sent()) assert.notInclude(statement, "canary");
          assert.strictEqual(yield* count({ note: `${evil}3` }), 1);
        }).pipe(Effect.provide(Client.layer({ url: wire.url(server) })));
      }).pipe(Effect.scoped),
    );
  });

  it.effect("the specified repository is this one: repo(JobDlq, 'job_dlq', { purge: 'purge_job_dlq' })", () =>
    Effect.gen(function* () {
      const appId = yield* newTenant;
      const jobDlq = yield* repo(JobDlq, "job_dlq", { purge: "purge_job_dlq" });
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          const { dlqAt: _, ...entry } = { ...letter(appId), dlqAt: undefined };
          const stored = yield* jobDlq.insert(entry);
          assert.deepStrictEqual(yield* jobDlq.one({ id: stored.id }), Option.some(stored));
          assert.deepStrictEqual(yield* jobDlq.find({ appId, replayedAt: Option.none() }), [stored]);
          assert.strictEqual(yield* jobDlq.set({ id: stored.id }, { replayedAt: Option.some(new Date(0)) }), 1);
          assert.strictEqual(yield* jobDlq.purge(), 1);
          assert.strictEqual(yield* jobDlq.count(), 0);
        }),
      );
    }),
  );
});
