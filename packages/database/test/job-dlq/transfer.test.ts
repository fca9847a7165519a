import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer } from "@effect/vitest";
import * as Chunk from "effect/Chunk";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import type { ExportOptions } from "../../src/job-dlq/export.js";
import type { JobDlqFilter } from "../../src/job-dlq/filter.js";
import type { ImportOptions, ImportProgress, ImportReason } from "../../src/job-dlq/import.js";
import { DatabaseService } from "../../src/repos.js";
import { rounds, seed } from "../support/campaign.js";
import { asFromDump, deadJob, letter, newTenant, TestDatabase } from "../support/database.js";
import { json, named } from "../support/json.js";

const actor = "backup";
const system = { _tag: "system" } as const;
const everything: JobDlqFilter = { all: true, state: "any" };

const exported = (appId: string, filter = everything, options: ExportOptions = {}) =>
  Effect.flatMap(DatabaseService, (db) =>
    Effect.map(
      Stream.runCollect(db.jobDlq.exportTo(filter, { scope: { _tag: "tenant", appId }, ...options })),
      Chunk.toReadonlyArray,
    ),
  );

/** The report of an import, with the problems of all batches. */
const imported = <E = never>(
  pieces: string | Iterable<string | Uint8Array> | Stream.Stream<string | Uint8Array, E>,
  options: Partial<ImportOptions> & Pick<ImportOptions, "scope">,
) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const given =
      typeof pieces === "string"
        ? Stream.make(pieces)
        : Symbol.iterator in pieces
          ? Stream.fromIterable(pieces)
          : pieces;
    const progress = Chunk.toReadonlyArray(
      yield* Stream.runCollect(db.jobDlq.importFrom(given, { actor, ...options })),
    );
    const { problems: _, ...counts } = progress.at(-1) as ImportProgress;
    return { ...counts, problems: progress.flatMap(({ problems }) => problems), batches: progress.length };
  });
const reasons = (report: { readonly problems: ImportProgress["problems"] }) =>
  report.problems.map(({ line, reason }) => [line, reason] as const);

const fields = (appId: string, given: Record<string, unknown> = {}): Record<string, unknown> => ({
  id: randomUUID(),
  originalJobId: randomUUID(),
  appId,
  type: "mail.send",
  payload: { to: "a@example.com" },
  errorReason: "MaxRetries",
  attempts: 3,
  errorHistory: [{ error: "no route", timestamp: 1_790_000_000_000 }],
  dlqAt: "2026-01-31T12:00:00.123456Z",
  replayedAt: null,
  requestId: null,
  userId: null,
  ...given,
});
const line = (appId: string, given: Record<string, unknown> = {}) => `${JSON.stringify(fields(appId, given))}\n`;

/** Every stored column but those of the database's own, as text; as the superuser, so of any tenant. */
const stored = (appId: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Effect.map(
      sql<{ row: string }>`
        SELECT ((to_jsonb(d) - 'arrived' - 'updated_at') || jsonb_build_object('dlq_at', d.dlq_at::text, 'replayed_at', d.replayed_at::text))::text AS row
        FROM job_dlq d WHERE app_id = ${appId}::uuid ORDER BY id`,
      (rows) => rows.map(({ row }) => row),
    ),
  );
const wipe = (appId: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DELETE FROM job_dlq WHERE app_id = ${appId}::uuid`);
const ledger = (appId: string, kind: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Effect.map(
      sql<{ dlqId: string; actor: string }>`
        SELECT dlq_id, actor FROM job_dlq_events WHERE app_id = ${appId}::uuid AND kind = ${kind} ORDER BY id`,
      (rows) => rows,
    ),
  );

layer(TestDatabase, { excludeTestServices: true })("jobDlq.exportTo and importFrom", (it) => {
  describe("a line", () => {
    it.effect("has the twelve fields, times to the microsecond, and the payload's own text", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const [id, job, user] = [randomUUID(), randomUUID(), randomUUID()];
        yield* sql`
          INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, user_id)
          VALUES (${id}::uuid, ${job}::uuid, ${appId}::uuid, 'a "b"', '{"n": 12345678901234567890, "price": 1.10, "user_id": null}', 'MaxRetries', 3,
            '[{"error": "x", "timestamp": 1790000000000.5}]', '2026-01-31T12:00:00.123456+02', '2026-02-01T00:00:00Z', ${user}::uuid)`;
        assert.deepStrictEqual(yield* exported(appId), [
          `{"id":"${id}","originalJobId":"${job}","appId":"${appId}","type":"a \\"b\\"",` +
            `"payload":{"n": 12345678901234567890, "price": 1.10, "user_id": null},"errorReason":"MaxRetries","attempts":3,` +
            `"errorHistory":[{"error": "x", "timestamp": 1790000000000.5}],"dlqAt":"2026-01-31T10:00:00.123456Z",` +
            `"replayedAt":"2026-02-01T00:00:00.000000Z","requestId":null,"userId":"${user}"}\n`,
        ]);
      }),
    );

    it.effect("is the same whether the database writes it or, for a redaction, the program", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        const texts = [
          "plain",
          'a "b" \\ c / d',
          // Every character that JSON spells out, and some that it might.
          String.fromCodePoint(...Array.from({ length: 0xa0 }, (_, code) => code + 1)),
          "\u2028\u2029\ufeff\u{1f600}é\u0301",
        ];
        for (const text of texts) {
          yield* sql`
            INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, replayed_at, request_id)
            SELECT uuidv7(), ${appId}::uuid, ${text}, to_jsonb(${text}::text), ${text}, 3,
              jsonb_build_array(jsonb_build_object('error', ${text}::text, 'timestamp', 1.5)), CASE WHEN n = 1 THEN now() END,
              CASE WHEN n = 1 THEN uuidv7() END
            FROM generate_series(1, 2) n`;
        }
        const written = yield* exported(appId);
        assert.lengthOf(written, 2 * texts.length);
        assert.deepStrictEqual(yield* exported(appId, everything, { redact: { userId: (_) => _ } }), written);
        const types = written.map((_) => Reflect.get(JSON.parse(_), "type"));
        assert.sameMembers(types, [...texts, ...texts]);
      }),
    );

    const exotic = [
      ["infinity", "infinity"],
      ["-infinity", "-infinity"],
      ["0044-03-15 00:00:00.000001 BC", "0044-03-15T00:00:00.000001Z BC"],
      ["0001-01-01 00:00:00+00", "0001-01-01T00:00:00.000000Z"],
      ["0001-01-01 00:00:00.999999+00 BC", "0001-01-01T00:00:00.999999Z BC"],
      ["4714-11-24 00:00:00+00 BC", "4714-11-24T00:00:00.000000Z BC"],
      ["12345-06-07 08:09:10.5+00", "12345-06-07T08:09:10.500000Z"],
      ["294276-12-31 23:59:59.999999+00", "294276-12-31T23:59:59.999999Z"],
    ] as const;
    for (const [time, text] of exotic) {
      it.effect(`has ${time} as ${text}, and reads it again, whatever the session's settings`, () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const sql = yield* SqlClient.SqlClient;
          const appId = yield* newTenant;
          yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
          yield* sql`UPDATE job_dlq SET dlq_at = ${time}::timestamptz, replayed_at = ${time}::timestamptz WHERE app_id = ${appId}::uuid`;
          const before = yield* stored(appId);
          const odd = sql`SELECT set_config('timezone', 'America/St_Johns', true), set_config('datestyle', 'German', true)`;
          const lines = yield* sql.withTransaction(
            Effect.zipRight(odd, exported(appId, everything, { scope: undefined })),
          );
          const mine = lines.filter((_) => _.includes(appId));
          assert.include(mine[0], `"dlqAt":"${text}","replayedAt":"${text}"`);
          yield* wipe(appId);
          const report = yield* sql.withTransaction(Effect.zipRight(odd, imported(mine, { scope: undefined })));
          assert.deepInclude(report, { imported: 1, refused: 0 });
          assert.deepStrictEqual(yield* stored(appId), before);
        }),
      );
    }
  });

  describe("exportTo", () => {
    const inserted = (appId: string, letters: ReadonlyArray<Parameters<typeof letter>[1]>) =>
      Effect.flatMap(DatabaseService, (db) =>
        Client.tenant(appId)(Effect.forEach(letters, (given) => db.jobDlq.insert(letter(appId, given)))),
      );
    const ids = (lines: ReadonlyArray<string>) => lines.map((_): string => JSON.parse(_).id);

    for (const batchSize of [1, 2, 3, 1000]) {
      it.effect(`writes the oldest first, in batches of ${batchSize}`, () =>
        Effect.gen(function* () {
          const appId = yield* newTenant;
          const sql = yield* SqlClient.SqlClient;
          const letters = yield* inserted(
            appId,
            [5, 1, 1, 4, 2, 2, 3].map((attempts) => ({ attempts })),
          );
          yield* sql`UPDATE job_dlq SET dlq_at = now() + attempts * interval '1 microsecond' WHERE app_id = ${appId}::uuid`;
          const expected = [...letters]
            .sort((a, b) => a.attempts - b.attempts || (a.id < b.id ? -1 : 1))
            .map(({ id }) => id);
          assert.deepStrictEqual(ids(yield* exported(appId, everything, { batchSize })), expected);
        }),
      );
    }

    it.effect("takes what the filter matches: pending ones, unless it says otherwise", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const [a, b, c] = yield* inserted(appId, [
          { type: "a" },
          { type: "b" },
          { type: "a", replayedAt: Option.some(new Date()) },
        ]);
        assert.deepStrictEqual(ids(yield* exported(appId, {})), [a?.id, b?.id]);
        assert.deepStrictEqual(ids(yield* exported(appId, { type: "a", state: "any" })), [a?.id, c?.id]);
        assert.deepStrictEqual(ids(yield* exported(appId, { state: "replayed" })), [c?.id]);
        assert.deepStrictEqual(yield* exported(appId, { type: "none" }), []);
      }),
    );

    it.effect("stays in its scope, and the system scope has all", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* newTenant, yield* newTenant];
        const type = `shared ${randomUUID()}`;
        const [mine] = yield* inserted(a, [{ type }]);
        const [theirs] = yield* inserted(b, [{ type }]);
        assert.deepStrictEqual(ids(yield* exported(a, { type })), [mine?.id]);
        assert.sameMembers(ids(yield* exported(a, { type }, { scope: system })), [mine?.id ?? "", theirs?.id ?? ""]);
      }),
    );

    it.effect("is a part of the scope that is open around it, with the letters of that transaction", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            const one = yield* db.jobDlq.insert(letter(appId));
            assert.deepStrictEqual(ids(yield* exported(appId, everything, { scope: undefined })), [one.id]);
          }),
        );
      }),
    );

    it.effect("in a scope that is open, leaves alone what the caller does between two lines", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        yield* inserted(
          appId,
          Array.from({ length: 20 }, () => ({})),
        );
        const scope = { _tag: "tenant", appId } as const;
        yield* db.jobDlq.exportTo({}, { scope, batchSize: 1 }).pipe(
          Stream.take(5),
          Stream.runForEach(() => db.jobDlq.insert(letter(appId, { type: "between" }))),
          Client.tenant(appId),
        );
        assert.strictEqual((yield* Client.tenant(appId)(db.jobDlq.preview({ type: "between" }))).count, 5);
      }),
    );

    it.effect("leaves letters out that arrive or go while it runs, and is not stopped by them", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const appId = yield* newTenant;
        // Some pages are read ahead.
        const letters = yield* inserted(
          appId,
          Array.from({ length: 20 }, () => ({})),
        );
        const gone = letters.at(-2)?.id ?? "";
        const lines = yield* db.jobDlq.exportTo({}, { scope: { _tag: "tenant", appId }, batchSize: 1 }).pipe(
          Stream.tap(() =>
            Client.tenant(appId)(
              Effect.zipRight(db.jobDlq.insert(letter(appId)), db.jobDlq.discard([gone], { actor, reason: "x" })),
            ),
          ),
          Stream.runCollect,
        );
        assert.deepStrictEqual(
          ids(Chunk.toReadonlyArray(lines)),
          letters.map(({ id }) => id).filter((id) => id !== gone),
        );
      }),
    );

    it.effect(
      "holds no more than a few megabytes at once, also of payloads that are small only while they are stored",
      () =>
        Effect.gen(function* () {
          const db = yield* DatabaseService;
          const sql = yield* SqlClient.SqlClient;
          const appId = yield* newTenant;
          yield* sql`
          INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history)
          SELECT uuidv7(), ${appId}::uuid, 'large', to_jsonb(repeat('x', 1000000)), 'MaxRetries', 1, '[]' FROM generate_series(1, 30)`;
          const pages = yield* db.jobDlq.exportTo({}, { scope: { _tag: "tenant", appId } }).pipe(
            Stream.chunks,
            Stream.map((page) => page.pipe(Chunk.toReadonlyArray)),
            Stream.runCollect,
          );
          const lines = Chunk.toReadonlyArray(pages).flat();
          assert.strictEqual(new Set(ids(lines)).size, 30);
          assert.isTrue(lines.every((_) => _.length > 1_000_000));
          for (const page of pages)
            assert.isBelow(
              page.reduce((sum, { length }) => sum + length, 0),
              6_000_000,
            );
        }),
    );

    it.effect("writes what was loaded from a dump of another server, whose transactions were further on", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        yield* Effect.replicateEffect(deadJob(appId), 3);
        yield* asFromDump([appId]);
        assert.strictEqual((yield* exported(appId)).length, 3);
      }),
    );

    it.effect("redacts field by field, and leaves the others exact", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const userId = randomUUID();
        yield* inserted(appId, [
          { userId: Option.some(userId), requestId: Option.some(userId), payload: { mail: "a@b", n: 1 } },
        ]);
        const [text] = yield* exported(appId, everything, {
          redact: {
            payload: (value) => ({ ...(value as object), mail: "…" }),
            errorHistory: (history) => history.map((one) => ({ ...one, error: `${one.error.length} characters` })),
            userId: () => Option.none(),
            requestId: (value) => value,
            type: (type) => type.toUpperCase(),
          },
        });
        assert.deepInclude(JSON.parse(text ?? ""), {
          type: "MAIL.SEND",
          payload: { mail: "…", n: 1 },
          errorHistory: [{ error: "15 characters", timestamp: 1_790_000_000_000 }],
          userId: null,
          requestId: userId,
          errorReason: "MaxRetries",
        });
        assert.notInclude(text, "a@b");
      }),
    );

    it.effect("leaves nothing unredacted of a row that does not fit the model", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const appId = yield* newTenant;
        yield* inserted(appId, [{}]);
        yield* sql`UPDATE job_dlq SET error_history = '[{"secret": 1}, {"error": "secret", "timestamp": 7}]' WHERE app_id = ${appId}::uuid`;
        const redact = {
          errorHistory: (history: ReadonlyArray<{ error: string; timestamp: number }>) =>
            history.map((_) => ({ ..._, error: "-" })),
        };
        const [text] = yield* exported(appId, everything, { redact });
        assert.deepStrictEqual(JSON.parse(text ?? "").errorHistory, [{ error: "-", timestamp: 7 }]);
        const [whole] = yield* exported(appId);
        assert.include(whole, `"errorHistory":[{"secret": 1}, {"error": "secret", "timestamp": 7}]`);
      }),
    );

    const badRedactions: ReadonlyArray<readonly [string, ExportOptions["redact"], string]> = [
      [
        "throws",
        {
          payload: () => {
            throw new Error("no");
          },
        },
        "redact.payload threw on dead letter ",
      ],
      [
        "returns what JSON would change",
        { payload: () => ({ a: [Number.NaN] }) },
        "redact.payload returned for dead letter ",
      ],
      ["returns text that cannot be stored", { type: () => "a\u0000" }, "redact.type returned for dead letter "],
      ["returns no uuid", { appId: () => "x" }, "redact.appId returned for dead letter "],
      ["is for a field that it cannot have", { id: () => "x" } as never, "redact.id cannot be redacted; "],
    ];
    for (const [name, redact, message] of badRedactions) {
      it.effect(`fails when a redaction ${name}`, () =>
        Effect.gen(function* () {
          const appId = yield* newTenant;
          yield* inserted(appId, [{}]);
          const error = yield* Effect.flip(exported(appId, everything, { redact }));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.include(error.message, `jobDlq.exportTo: ${message}`);
        }),
      );
    }

    it.effect("refuses a filter or a batch size that is not valid", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const errors = [
          yield* Effect.flip(exported(appId, { tpye: "x" } as JobDlqFilter)),
          yield* Effect.flip(exported(appId, {}, { batchSize: 0 })),
        ];
        assert.deepStrictEqual(
          errors.map((error) => error._tag === "InvalidInput" && error.field),
          ["filter.tpye", "batchSize"],
        );
      }),
    );
  });

  describe("importFrom", () => {
    const tenant = Effect.map(newTenant, (appId) => ({ appId, scope: { _tag: "tenant", appId } as const }));

    it.effect("stores each letter under its id, in its state, with a line in the ledger, and makes no job", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, scope } = yield* tenant;
        const letters = [
          fields(appId),
          fields(appId, { replayedAt: "2026-02-01T00:00:00.000001Z", userId: randomUUID() }),
        ];
        const report = yield* imported(letters.map((_) => JSON.stringify(_)).join("\r\n\r\n"), { scope });
        assert.deepStrictEqual(report, { lines: 2, imported: 2, duplicates: 0, refused: 0, problems: [], batches: 1 });
        assert.deepStrictEqual(
          (yield* exported(appId)).map((_) => JSON.parse(_)),
          letters.sort((a, b) => (String(a.id) < String(b.id) ? -1 : 1)),
        );
        const events = yield* ledger(appId, "imported");
        assert.sameDeepMembers(
          [...events],
          letters.map(({ id }) => ({ dlqId: String(id), actor })),
        );
        assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
      }),
    );

    it.effect("is idempotent by id: what is there stays as it is", () =>
      Effect.gen(function* () {
        const { appId, scope } = yield* tenant;
        const id = randomUUID();
        yield* imported([line(appId, { id })], { scope });
        const before = yield* stored(appId);
        const report = yield* imported([line(appId, { id, type: "other" }), line(appId)], { scope });
        assert.deepInclude(report, { lines: 2, imported: 1, duplicates: 1, refused: 0 });
        assert.include(yield* stored(appId), before[0]);
        assert.strictEqual((yield* ledger(appId, "imported")).length, 2);
      }),
    );

    it.effect("takes the first of several lines with one id, in a batch and across batches", () =>
      Effect.gen(function* () {
        for (const batchSize of [1, 2, 100]) {
          const { appId, scope } = yield* tenant;
          const id = randomUUID();
          const text = [1, 2, 3].map((attempts) => line(appId, { id, attempts })).join("");
          const report = yield* imported([text], { scope, batchSize });
          assert.deepInclude(report, { lines: 3, imported: 1, duplicates: 2 });
          assert.strictEqual(JSON.parse((yield* exported(appId))[0] ?? "").attempts, 1);
        }
      }),
    );

    it.effect("takes the first one that can be imported", () =>
      Effect.gen(function* () {
        const appId = yield* newTenant;
        const id = randomUUID();
        const text = line(randomUUID(), { id }) + line(appId, { id, attempts: 8 }) + line(appId, { id, attempts: 9 });
        const report = yield* imported([text], { scope: system });
        assert.deepInclude(report, { imported: 1, duplicates: 1, refused: 1 });
        assert.deepStrictEqual(reasons(report), [[1, "unknown app"]]);
        assert.strictEqual(JSON.parse((yield* exported(appId))[0] ?? "").attempts, 8);
      }),
    );

    const long = "9".repeat(200_000);
    const bad: ReadonlyArray<readonly [string, (appId: string) => string | Uint8Array, ImportReason, string]> = [
      ["cut off", (_) => line(_).slice(0, 200), "not JSON", "is not JSON: it is cut off"],
      ["cut off inside a text", (_) => line(_).slice(0, 20), "not JSON", "is not JSON: it is cut off"],
      ["of something else", () => "hello", "not JSON", "is not JSON"],
      ["with a comma too many", (_) => line(_).trim().replace(/}$/, ",}"), "not JSON", "is not JSON: see character "],
      ["of an array", () => "[]", "does not fit", "is JSON, but no object"],
      ["of null", () => "null", "does not fit", "is JSON, but no object"],
      ["of an empty object", () => "{}", "does not fit", "does not fit: id is missing"],
      ["without a payload", (_) => line(_, { payload: undefined }), "does not fit", "does not fit: payload is missing"],
      [
        "with a field of its own",
        (_) => line(_, { userID: "x" }),
        "does not fit",
        "does not fit: userID is no field of a dead letter",
      ],
      [
        "with __proto__",
        (_) => line(_).replace("{", '{"__proto__":1,'),
        "does not fit",
        "does not fit: __proto__ is no field",
      ],
      ["with an id that is no uuid", (_) => line(_, { id: "1" }), "does not fit", "does not fit: id must be a uuid"],
      ["with a type that is no text", (_) => line(_, { type: 1 }), "does not fit", "does not fit: type must be a text"],
      [
        "with attempts of 1.5",
        (_) => line(_, { attempts: 1.5 }),
        "does not fit",
        "does not fit: attempts must be a whole",
      ],
      [
        "with attempts of 2^31",
        (_) => line(_, { attempts: 2 ** 31 }),
        "does not fit",
        "does not fit: attempts must be a whole",
      ],
      [
        "with an error history that is no array",
        (_) => line(_, { errorHistory: {} }),
        "does not fit",
        "does not fit: errorHistory must be an array",
      ],
      [
        "with a time in words",
        (_) => line(_, { dlqAt: "now" }),
        "does not fit",
        "does not fit: dlqAt must be a time such as",
      ],
      [
        "with a time that is a number",
        (_) => line(_, { replayedAt: 5 }),
        "does not fit",
        "does not fit: replayedAt must be null or a time",
      ],
      [
        "with a day that is none",
        (_) => line(_, { dlqAt: "2026-02-30T00:00:00Z" }),
        "refused",
        "was refused by the database: date/time field value out of range",
      ],
      [
        "with NUL in the payload",
        (_) => line(_, { payload: { a: [{ b: "x\u0000" }] } }),
        "refused",
        "has at $.payload.a[0].b what contains a NUL",
      ],
      ["with NUL in the type", (_) => line(_, { type: "x\u0000" }), "refused", "has at $.type what contains a NUL"],
      [
        "with half a surrogate pair",
        (_) => line(_, { payload: "x\ud800" }),
        "refused",
        "has at $.payload what contains a lone surrogate",
      ],
      [
        "with half a pair beside a number that JavaScript has not",
        (_) => line(_, { payload: ["n", "\udc00"] }).replace('"n"', "1e400"),
        "refused",
        "has at $.payload[1] what contains a lone",
      ],
      [
        "with a number that jsonb has not",
        (_) => line(_).replace('"a@example.com"', long),
        "refused",
        "was refused by the database: value overflows numeric format",
      ],
      [
        "nested deeper than the database goes",
        (_) => line(_, { payload: "n" }).replace('"n"', `${"[".repeat(50_000)}${"]".repeat(50_000)}`),
        "refused",
        "was refused by the database: stack depth limit exceeded",
      ],
      [
        "that is no UTF-8",
        (_) => Buffer.concat([Buffer.from(line(_).trim()), Buffer.of(0xc3, 0x28)]),
        "not UTF-8",
        "is not valid UTF-8",
      ],
      ["with half a pair of its own", (_) => line(_).replace("mail", "\ud800"), "not UTF-8", "is not valid UTF-8"],
    ];
    for (const [name, make, reason, problem] of bad) {
      it.effect(`names a line ${name}, and imports the others`, () =>
        Effect.gen(function* () {
          const { appId, scope } = yield* tenant;
          const good = [1, 2, 3, 4, 5].map(() => line(appId));
          const pieces = [...good.slice(0, 2), make(appId), "\n", ...good.slice(2)].filter((_) => _ !== "");
          const text = Buffer.concat(pieces.map((_) => (typeof _ === "string" ? Buffer.from(_) : _)));
          const report = yield* imported(typeof make(appId) === "string" ? pieces : [text], { scope });
          assert.deepInclude(report, { lines: 6, imported: 5, duplicates: 0, refused: 1 });
          assert.deepStrictEqual(reasons(report), [[3, reason]]);
          assert.include(report.problems[0]?.message, `Line 3 was not imported: it ${problem}`);
          assert.strictEqual((yield* stored(appId)).length, 5);
          assert.strictEqual((yield* ledger(appId, "imported")).length, 5);
        }),
      );
    }

    it.effect("never quotes a line, which may be somebody's data", () =>
      Effect.gen(function* () {
        const { appId, scope } = yield* tenant;
        const secret = "s3cret";
        const lines = [
          `{"id": ${secret}}`,
          `{"${secret.repeat(50)}": 1`,
          line(appId, { attempts: secret }),
          line(appId, { payload: `${secret}\u0000` }),
          line(appId, { errorHistory: secret }),
          line(appId, { userId: secret }),
        ];
        const report = yield* imported([lines.join("\n")], { scope });
        assert.strictEqual(report.refused, 6);
        for (const { message } of report.problems) assert.notInclude(message, secret);
      }),
    );

    it.effect("names a line that is too long, whatever its length, and imports the others", () =>
      Effect.gen(function* () {
        const { appId, scope } = yield* tenant;
        const maxLineBytes = 2048;
        const exact = line(appId, { type: "" });
        const filled = (size: number) => line(appId, { type: "x".repeat(size - exact.length + 1) });
        const pieces = [
          filled(2048),
          filled(2049),
          line(appId),
          "x".repeat(1_000_000),
          "x".repeat(1_000_000),
          "\n",
          line(appId),
        ];
        const report = yield* imported(pieces, { scope, maxLineBytes });
        assert.deepInclude(report, { lines: 5, imported: 3, refused: 2 });
        assert.deepStrictEqual(reasons(report), [
          [2, "too long"],
          [4, "too long"],
        ]);
        assert.include(report.problems[0]?.message, "is longer than 2,048 bytes");
      }),
    );

    it.effect("imports a letter of many megabytes", () =>
      Effect.gen(function* () {
        const { appId, scope } = yield* tenant;
        const payload = Array.from({ length: 15 }, (_, i) => `\\"${i}`.repeat(150_000));
        const report = yield* imported([line(appId, { payload }), line(appId)], { scope });
        assert.deepInclude(report, { imported: 2, refused: 0 });
      }),
    );

    it.effect("refuses another tenant's letters, and does not say whose an id is", () =>
      Effect.gen(function* () {
        const [mine, theirs] = [yield* tenant, yield* tenant];
        const taken = randomUUID();
        yield* imported([line(theirs.appId, { id: taken })], { scope: theirs.scope });
        const before = yield* stored(theirs.appId);
        const text =
          line(theirs.appId) +
          line(mine.appId) +
          line(theirs.appId.toUpperCase()) +
          line(mine.appId, { id: taken }) +
          line(mine.appId.toUpperCase()) +
          line(theirs.appId, { id: taken });
        const report = yield* imported([text], { scope: mine.scope });
        assert.deepInclude(report, { lines: 6, imported: 2, duplicates: 0, refused: 4 });
        assert.deepStrictEqual(reasons(report), [
          [1, "foreign tenant"],
          [3, "foreign tenant"],
          [4, "id taken"],
          [6, "foreign tenant"],
        ]);
        assert.deepStrictEqual(yield* stored(theirs.appId), before);
        assert.strictEqual((yield* ledger(theirs.appId, "imported")).length, 1);
        assert.strictEqual((yield* stored(mine.appId)).length, 2);
      }),
    );

    it.effect("refuses another tenant's letters by row security too", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const [mine, theirs] = [yield* newTenant, yield* newTenant];
        // A tenant function that knows no tenant takes the statement's own check away, and the policy's with it: nothing is visible.
        const blind = sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`CREATE OR REPLACE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE RETURN NULL::uuid`;
            yield* sql`CREATE POLICY apps_all ON apps TO parametric_tenant USING (true)`;
            const report = yield* imported([line(mine) + line(theirs)], { scope: { _tag: "tenant", appId: mine } });
            return yield* Effect.fail(reasons(report));
          }),
        );
        assert.deepStrictEqual(yield* Effect.flip(blind), [
          [1, "foreign tenant"],
          [2, "foreign tenant"],
        ]);
      }),
    );

    it.effect("refuses letters of apps that do not exist, and imports all tenants' in the system scope", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* newTenant, yield* newTenant];
        const report = yield* imported([line(a), line(randomUUID()), line(b)], { scope: system });
        assert.deepStrictEqual(reasons(report), [[2, "unknown app"]]);
        assert.deepInclude(report, { imported: 2, refused: 1 });
        const gone = randomUUID();
        const mine = yield* imported([line(gone)], { scope: { _tag: "tenant", appId: gone } });
        assert.deepStrictEqual(reasons(mine), [[1, "unknown app"]]);
      }),
    );

    it.effect("does not bring back what was erased, but what was discarded or purged", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, scope } = yield* tenant;
        const letters = yield* Client.tenant(appId)(
          Effect.forEach([1, 2, 3, 4], () => db.jobDlq.insert(letter(appId))),
        );
        const lines = yield* exported(appId);
        const [erased, discarded, both, purged] = letters.map(({ id }) => id) as [string, string, string, string];
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.discard([discarded, both], { actor, reason: "x" });
            yield* db.jobDlq.erase({ ids: [erased, both] }, { actor });
          }),
        );
        yield* Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DELETE FROM job_dlq WHERE id = ${purged}::uuid`);
        for (const where of [scope, system]) {
          const report = yield* imported(lines, { scope: where });
          assert.deepStrictEqual(
            report.problems.map(({ reason }) => reason),
            ["erased", "erased"],
          );
        }
        assert.sameMembers(
          (yield* exported(appId)).map((_) => JSON.parse(_).id),
          [discarded, purged],
        );
      }),
    );

    it.effect("does not bring a letter back as pending that was replayed elsewhere", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, scope } = yield* tenant;
        yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
        const before = yield* exported(appId);
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            for (const { id } of yield* db.jobDlq.listPending()) yield* db.jobDlq.markReplayed(id);
            assert.strictEqual(
              yield* db.jobDlq.purge(0),
              0,
              "in the transaction of the mark it is not older than 0 days",
            );
          }),
        );
        const after = yield* exported(appId, { state: "any" });
        assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.purge(0)), 1);
        for (const where of [scope, system]) {
          assert.deepStrictEqual(reasons(yield* imported(before, { scope: where })), [[1, "replayed"]]);
        }
        assert.deepInclude(yield* imported(after, { scope }), { imported: 1, refused: 0 });
      }),
    );

    it.effect("does not bring a letter back as pending that was replayed, and as replayed it does", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, scope } = yield* tenant;
        const one = yield* deadJob(appId);
        const before = yield* exported(appId);
        yield* Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.replay([one.id], { actor });
            const [job] = yield* db.jobs.claim({ runner: "r" });
            yield* db.jobs.complete(job ?? assert.fail("no job is due"));
          }),
        );
        const after = yield* exported(appId);
        assert.deepInclude(yield* imported(before, { scope }), { duplicates: 1, refused: 0 });
        yield* Client.tenant(appId)(Effect.zipRight(db.jobDlq.purge(0), db.jobs.purge(0)));
        for (const where of [scope, system]) {
          assert.deepStrictEqual(reasons(yield* imported(before, { scope: where })), [[1, "replayed"]]);
        }
        assert.deepInclude(yield* imported([...before, ...after], { scope }), { imported: 1, refused: 1 });
        const [receipt] = yield* Client.tenant(appId)(db.jobDlq.replay([one.id], { actor }));
        assert.strictEqual(receipt?.outcome, "already gone");
        assert.strictEqual((yield* ledger(appId, "replayed")).length, 1);
      }),
    );

    it.effect("of a discarded letter leaves restore nothing to bring back once it was replayed", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, scope } = yield* tenant;
        const one = yield* deadJob(appId);
        const lines = yield* exported(appId);
        const inTenant = Client.tenant(appId);
        const [event] = yield* inTenant(db.jobDlq.discard([one.id], { actor, reason: "x" }));
        const restored = Effect.map(
          inTenant(db.jobDlq.restore([event?.eventId ?? ""], { actor })),
          ([receipt]) => receipt?.outcome,
        );
        yield* imported(lines, { scope });
        assert.strictEqual(yield* restored, "id exists");
        yield* inTenant(db.jobDlq.replay([one.id], { actor }));
        assert.strictEqual(yield* restored, "id exists");
        yield* inTenant(db.jobDlq.purge(0));
        assert.strictEqual(yield* restored, "already gone");
        assert.deepStrictEqual(yield* stored(appId), []);
        assert.strictEqual((yield* ledger(appId, "restored")).length, 0);
      }),
    );

    it.effect("waits for an erasure that has not been committed", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const sql = yield* SqlClient.SqlClient;
        const { appId, scope } = yield* tenant;
        const one = yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId)));
        const lines = yield* exported(appId);
        yield* Client.tenant(appId)(db.jobDlq.discard([one.id], { actor, reason: "x" }));
        const [isErased, mayCommit] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()];
        const erasing = yield* Effect.fork(
          Client.tenant(appId)(
            Effect.gen(function* () {
              yield* db.jobDlq.erase({ ids: [one.id] }, { actor });
              yield* Deferred.succeed(isErased, undefined);
              yield* Deferred.await(mayCommit);
            }),
          ),
        );
        yield* Deferred.await(isErased);
        const importing = yield* Effect.fork(imported(lines, { scope }));
        // The import is held up by a lock, and by nothing else.
        yield* sql<{ waiting: boolean }>`
          SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FOR KEY SHARE%') AS waiting`.pipe(
          Effect.repeat({ until: ([row]) => row?.waiting === true }),
        );
        yield* Deferred.succeed(mayCommit, undefined);
        yield* Fiber.join(erasing);
        assert.deepStrictEqual(reasons(yield* Fiber.join(importing)), [[1, "erased"]]);
        assert.deepStrictEqual(yield* stored(appId), []);
      }),
    );

    it.effect("loses only the lines that a trigger or a constraint of the operator's refuses", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const { appId, scope } = yield* tenant;
        yield* sql.unsafe(`
          CREATE FUNCTION no_odd() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN
            IF NEW.type = 'refuse me' THEN RAISE EXCEPTION 'this type is not welcome'; END IF;
            RETURN NEW;
          END $$`);
        yield* sql.unsafe(`CREATE TRIGGER no_odd BEFORE INSERT ON job_dlq FOR EACH ROW EXECUTE FUNCTION no_odd()`);
        yield* sql.unsafe(`ALTER TABLE job_dlq ADD CONSTRAINT few_attempts CHECK (attempts < 1000) NOT VALID`);
        const isBad = (i: number) => i % 7 === 3;
        const text = Array.from({ length: 50 }, (_, i) =>
          line(appId, isBad(i) ? (i % 2 === 0 ? { type: "refuse me" } : { attempts: 1000 }) : {}),
        ).join("");
        const report = yield* imported([text], { scope, batchSize: 20 }).pipe(
          Effect.ensuring(
            Effect.orDie(
              Effect.zipRight(
                sql.unsafe("DROP FUNCTION no_odd CASCADE"),
                sql.unsafe("ALTER TABLE job_dlq DROP CONSTRAINT few_attempts"),
              ),
            ),
          ),
        );
        assert.deepStrictEqual(
          reasons(report),
          [3, 10, 17, 24, 31, 38, 45].map((i) => [i + 1, "refused"]),
        );
        assert.deepInclude(report, { lines: 50, imported: 43, refused: 7 });
        assert.include(report.problems[1]?.message, "this type is not welcome");
        assert.include(report.problems[0]?.message, "few_attempts");
        assert.strictEqual((yield* ledger(appId, "imported")).length, 43);
      }),
    );

    it.effect("by many at once imports each letter once", () =>
      Effect.gen(function* () {
        for (let round = 0; round < rounds(50, 5); round++) {
          const { appId, scope } = yield* tenant;
          const texts = Array.from({ length: 60 }, () => line(appId));
          const orders = [texts, [...texts].reverse(), [...texts.slice(30), ...texts.slice(0, 30)], texts];
          const reports = yield* Effect.forEach(
            orders,
            (lines, i) => imported(lines, { scope: i === 3 ? system : scope, batchSize: 7 + i }),
            { concurrency: "unbounded" },
          );
          assert.strictEqual(
            reports.reduce((sum, report) => sum + report.imported, 0),
            60,
          );
          assert.isTrue(reports.every((_) => _.refused === 0 && _.imported + _.duplicates === 60));
          assert.strictEqual((yield* stored(appId)).length, 60);
          assert.strictEqual((yield* ledger(appId, "imported")).length, 60);
        }
      }),
    );

    it.effect("keeps whole batches when its source fails or it is stopped, and goes on when it is called again", () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, scope } = yield* tenant;
        const lines = Array.from({ length: 10 }, () => line(appId));
        const source = Stream.concat(Stream.fromIterable(lines.slice(0, 7)), Stream.fail("the file is gone" as const));
        assert.strictEqual(yield* Effect.flip(imported(source, { scope, batchSize: 3 })), "the file is gone");
        assert.strictEqual((yield* stored(appId)).length, 6);
        yield* Stream.runDrain(
          Stream.take(db.jobDlq.importFrom(Stream.fromIterable(lines), { actor, scope, batchSize: 8 }), 1),
        );
        assert.strictEqual((yield* stored(appId)).length, 8);
        assert.deepInclude(yield* imported(lines, { scope }), { imported: 2, duplicates: 8 });
      }),
    );

    it.effect("fails when the database is gone, with the batches before in place", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const { appId, scope } = yield* tenant;
        // The line itself ends the connection that stores it.
        yield* sql.unsafe(`
          CREATE FUNCTION no_more() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
          BEGIN
            IF NEW.type = 'the end' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NEW;
          END $$`);
        yield* sql.unsafe(`CREATE TRIGGER no_more BEFORE INSERT ON job_dlq FOR EACH ROW EXECUTE FUNCTION no_more()`);
        const lines = [line(appId), line(appId), line(appId), line(appId, { type: "the end" }), line(appId)];
        const error = yield* Effect.flip(imported(lines, { scope, batchSize: 2 }));
        yield* sql.unsafe("DROP FUNCTION no_more CASCADE");
        assert.strictEqual(error._tag, "SqlError");
        assert.strictEqual((yield* stored(appId)).length, 2);
        assert.deepInclude(yield* imported(lines, { scope, batchSize: 2 }), { imported: 3, duplicates: 2 });
      }),
    );

    it.effect("is one transaction with the scope that is open around it, also when lines are refused", () =>
      Effect.gen(function* () {
        const { appId } = yield* tenant;
        const lines = [line(appId), line(appId, { payload: "\u0000" }), line(appId)];
        const run = Client.tenant(appId)(
          Effect.flatMap(imported(lines, { scope: undefined }), ({ imported: count }) => Effect.fail(count)),
        );
        assert.strictEqual(yield* Effect.flip(run), 2);
        assert.deepStrictEqual(yield* stored(appId), []);
      }),
    );

    it.effect("reports nothing of nothing", () =>
      Effect.gen(function* () {
        const { scope } = yield* tenant;
        for (const pieces of [[], ["\n\n"]]) {
          const report = yield* imported(pieces, { scope });
          assert.deepStrictEqual(report, {
            lines: 0,
            imported: 0,
            duplicates: 0,
            refused: 0,
            problems: [],
            batches: 1,
          });
        }
      }),
    );

    const badOptions: ReadonlyArray<readonly [string, object, string]> = [
      ["an actor that is missing", { actor: undefined }, "actor"],
      ["an actor that is blank", { actor: " " }, "actor"],
      ["a batch of 0", { batchSize: 0 }, "batchSize"],
      ["a batch of 10,001", { batchSize: 10_001 }, "batchSize"],
      ["lines of 1 byte", { maxLineBytes: 1 }, "maxLineBytes"],
      ["lines without bound", { maxLineBytes: Number.POSITIVE_INFINITY }, "maxLineBytes"],
      ["a tenant that is no uuid", { scope: { _tag: "tenant", appId: "x" } }, "appId"],
    ];
    for (const [name, given, field] of badOptions) {
      it.effect(`refuses ${name}`, () =>
        Effect.gen(function* () {
          const { appId, scope } = yield* tenant;
          const error = yield* Effect.flip(imported([line(appId)], { scope, ...given }));
          assert.strictEqual(error._tag, "InvalidInput");
          assert.strictEqual(error._tag === "InvalidInput" && error.field, field);
          assert.deepStrictEqual(yield* stored(appId), []);
        }),
      );
    }
  });

  describe("export, wipe, import", () => {
    // JSON as text, with what JavaScript cannot make: the database keeps it.
    const exact = fc.oneof(
      json.map((_) => JSON.stringify(_)),
      fc.constantFrom(
        "12345678901234567890",
        "1.10",
        "-0.000",
        "1e400",
        "[0.1000000000000000055511151231257827]",
        '{"a": 1, "a": 2}',
      ),
      fc.bigInt({ min: -(2n ** 90n), max: 2n ** 90n }).map((_) => `{"n": ${_}, "m": [${_}.50]}`),
    );
    const time = fc.oneof(
      fc.integer({ min: -62_000_000_000_000, max: 250_000_000_000_000 }).map((_) => `epoch ${_}`),
      fc.constantFrom(
        "infinity",
        "-infinity",
        "0044-03-15 00:00:00.000001 BC",
        "294276-12-31 23:59:59.999999+00",
        "4714-11-24 00:00:00+00 BC",
        "9999-12-31 23:59:59.999999+00",
      ),
    );
    const history = fc.oneof(
      fc
        .array(
          fc.record({
            error: fc.string({ unit: "grapheme" }).filter((_) => !_.includes("\u0000")),
            timestamp: fc.integer(),
          }),
          { maxLength: 3 },
        )
        .map((_) => JSON.stringify(_)),
      // Bad rows.
      fc.constantFrom(
        "[1]",
        '["x", null]',
        '[{"error": 1}]',
        '[{"error": "x", "timestamp": 1790000000000.123456789}]',
        "[[]]",
      ),
    );
    const row = fc.record({
      payload: exact,
      history,
      dlqAt: time,
      replayedAt: fc.option(time),
      type: fc.oneof(
        fc.constantFrom("mail.send", "", " ", "\u2028", 'é👩‍🚀\n"\\'),
        fc.string({ unit: "grapheme" }).filter((_) => !_.includes("\u0000")),
      ),
      reason: fc.constantFrom("MaxRetries", "Validation", "of a later release", ""),
      attempts: fc.constantFrom(0, 1, 3, -1, 2_147_483_647, -2_147_483_648),
      userId: fc.option(fc.uuid()),
      requestId: fc.option(fc.uuid()),
    });
    const timestamp = (text: string | null) => {
      if (text === null || !text.startsWith("epoch ")) return text;
      const millis = Number(text.slice(6));
      return `${new Date(millis).toISOString().replace("Z", "")}${String(Math.abs(millis) % 1000).padStart(3, "0")}Z`.replace(
        /^\+0*/,
        "",
      );
    };

    it.effect("gives back the same rows, bad ones too, in pieces of any size", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const cases = rounds(5_000, 500);
        console.log(`export, wipe, import: ${cases} rows, TEST_SEED=${seed}`);
        const appId = yield* newTenant;
        const rows = [
          ...fc.sample(row, { seed, numRuns: cases }),
          ...fc
            .sample(row, { seed: seed + 1, numRuns: named.length })
            .map((_, i) => ({ ..._, payload: JSON.stringify(named[i]) })),
        ];
        for (let from = 0; from < rows.length; from += 500) {
          const some = rows.slice(from, from + 500);
          const column = <K extends keyof (typeof rows)[number]>(name: K) => some.map((_) => _[name]);
          yield* sql`
            INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at, user_id, request_id)
            SELECT gen_random_uuid(), ${appId}::uuid, type, payload::jsonb, reason, attempts, history::jsonb, dlq_at, replayed_at, user_id, request_id
            FROM unnest(${column("type")}::text[], ${column("payload")}::text[], ${column("reason")}::text[], ${column("attempts")}::int[],
              ${column("history")}::text[], ${some.map((_) => timestamp(_.dlqAt))}::timestamptz[], ${some.map((_) => timestamp(_.replayedAt))}::timestamptz[],
              ${column("userId")}::uuid[], ${column("requestId")}::uuid[])
              AS t (type, payload, reason, attempts, history, dlq_at, replayed_at, user_id, request_id)`;
        }
        const before = yield* stored(appId);
        assert.strictEqual(before.length, rows.length);
        const text = (yield* exported(appId, everything, { batchSize: 97 })).join("");
        const bytes = Buffer.from(text);
        const sizes = fc.sample(fc.integer({ min: 1, max: 5_000 }), { seed, numRuns: 100 });
        const asBytes = (from: number, to: number): string | Uint8Array => bytes.subarray(from, to);
        const asText = (from: number, to: number): string | Uint8Array => text.slice(from, to);
        for (const [scope, pieces] of [
          [{ _tag: "tenant", appId } as const, asBytes] as const,
          [system, asText] as const,
        ]) {
          yield* wipe(appId);
          const cut = cutUp(bytes.length, sizes, pieces);
          const report = yield* imported(cut, { scope, batchSize: 89 });
          assert.deepInclude(report, { lines: rows.length, imported: rows.length, duplicates: 0, refused: 0 });
          assert.deepStrictEqual(yield* stored(appId), before);
          // And the text of the imported rows is the text of the exported ones.
          assert.strictEqual((yield* exported(appId)).join(""), text);
        }
      }),
    );

    it.effect("counter-test: a number that passes through JavaScript is noticed", () =>
      Effect.gen(function* () {
        const { appId, scope } = yield* Effect.map(newTenant, (_) => ({
          appId: _,
          scope: { _tag: "tenant", appId: _ } as const,
        }));
        const text = line(appId, { payload: "n" }).replace('"n"', "12345678901234567890");
        yield* imported([text], { scope });
        const before = yield* stored(appId);
        const [changed] = yield* exported(appId, everything, { redact: { payload: (_) => _ } });
        yield* wipe(appId);
        yield* imported([changed ?? ""], { scope });
        assert.notDeepEqual(yield* stored(appId), before);
      }),
    );
  });
});

const cutUp = <A>(
  length: number,
  sizes: ReadonlyArray<number>,
  slice: (from: number, to: number) => A,
): ReadonlyArray<A> => {
  const pieces: Array<A> = [];
  for (let from = 0, i = 0; from < length; i++) {
    const to = from + (sizes[i % sizes.length] ?? 1);
    pieces.push(slice(from, to));
    from = to;
  }
  return pieces;
};
