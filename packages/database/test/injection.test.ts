/** Every text that a caller can pass to the package, with what wants to be SQL in it: it is kept as it is, or refused with a type. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../src/client.js";
import { DatabaseService } from "../src/repos.js";
import { attempts, lineOf, methodsOf, rowsOf, somebody } from "./support/attempts.js";
import { rounds } from "./support/campaign.js";
import { letter, newTenant, TestDatabase, work } from "./support/database.js";
import { payloads, target, world } from "./support/payloads.js";
import { untyped } from "./support/samples.js";
import { undone } from "./support/undone.js";

type Db = typeof DatabaseService.Service;

/** One text of one method; what it succeeds with is that text as it was stored, where it is stored. */
type Input = (db: Db, text: string, me: string) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>;

const some = Option.some<string>;
/** Reads what a call took: nothing of it is kept. */
const unkept = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.asVoid(effect);
const drained = <A, E, R>(stream: Stream.Stream<A, E, R>) => unkept(Stream.runDrain(stream));
const by = { actor: "test" } as const;

/** A pending dead letter of the caller's own. */
const own = (db: Db, me: string) => Effect.map(db.jobDlq.insert(letter(me)), ({ id }) => id);
const held = (db: Db, me: string) =>
  Effect.gen(function* () {
    const { id } = yield* db.jobs.enqueue(work(me));
    const claimed = yield* db.jobs.claim({ runner: "test", limit: 1000 });
    const job = claimed.find((one) => one.id === id);
    return { id, fence: job?.fence ?? 0n };
  });
/** The actor and the reason of the newest line of the ledger. */
const newest = (db: Db, field: "actor" | "reason") =>
  Effect.map(db.jobDlq.events({ limit: 1 }), ({ items }) => items[0]?.[field]);

const filters = (text: string): ReadonlyArray<object> => [
  { ids: [text] },
  { type: text },
  { type: { prefix: text } },
  { reason: text },
  { since: text },
  { until: text },
  { requestId: text },
  { userId: text },
  { originalJobId: text },
  { fingerprint: text },
  { text },
  { payload: text },
  { payload: { [text]: text } },
  { state: text },
  { [text]: text },
];
/** A method that takes a filter. */
const byFilter = (
  use: (db: Db, filter: never) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>,
): ReadonlyArray<Input> =>
  filters("").map(
    (_, place): Input =>
      (db, text) =>
        unkept(use(db, untyped(filters(text)[place]))),
  );
/** The plain methods of a table, by its columns. */
const plain = (table: "apps" | "jobs" | "jobDlq", columns: ReadonlyArray<string>) => {
  const on = (db: Db) => db[table] as Db["jobDlq"];
  const conditions = (use: (db: Db, where: never) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>) => [
    ...columns.map(
      (name): Input =>
        (db, text) =>
          unkept(use(db, untyped({ [name]: text }))),
    ),
    ((db, text) => unkept(use(db, untyped({ [text]: text })))) satisfies Input,
  ];
  return {
    [`${table}.one`]: conditions((db, where) => on(db).one(where)),
    [`${table}.find`]: [
      ...conditions((db, where) => on(db).find(where)),
      ((db, text) => unkept(on(db).find({}, { order: untyped({ [text]: "asc" }) }))) satisfies Input,
      ((db, text) => unkept(on(db).find({}, { order: untyped({ id: text }) }))) satisfies Input,
      ((db, text) => unkept(on(db).find({}, { limit: untyped(text) }))) satisfies Input,
    ],
    [`${table}.count`]: conditions((db, where) => on(db).count(where)),
    [`${table}.get`]: [((db, text) => unkept(on(db).get(text))) satisfies Input],
  };
};

const inputs: Readonly<Record<string, ReadonlyArray<Input>>> = {
  withTransaction: [],
  ...plain("apps", ["id", "name"]),
  "apps.insert": [(db, text) => Effect.map(db.apps.insert({ name: text }), ({ name }) => name)],
  "apps.set": [(db, text, me) => unkept(db.apps.set({ id: me }, { name: text }))],

  ...plain("jobs", [
    "id",
    "appId",
    "userId",
    "requestId",
    "type",
    "payload",
    "priority",
    "status",
    "lockedBy",
    "fence",
  ]),
  "jobs.insert": [(db, text, me) => Effect.map(db.jobs.insert(untyped(work(me, { type: text }))), ({ type }) => type)],
  "jobs.set": [
    (db, text) =>
      Effect.gen(function* () {
        const me = yield* Effect.map(Client.currentScope, () => undefined);
        yield* db.jobs.set({ type: "mail.send" }, { type: text });
        return me;
      }),
    (db, text, me) => unkept(db.jobs.set({ appId: me }, untyped({ [text]: text }))),
    (db, text, me) => unkept(db.jobs.set({ appId: me }, untyped({ requestId: text }))),
  ],
  "jobs.purge": [(db, text) => unkept(db.jobs.purge(untyped(text)))],
  "jobs.enqueue": [
    (db, text, me) => Effect.map(db.jobs.enqueue(work(me, { type: text })), ({ type }) => type),
    (db, text, me) => Effect.map(db.jobs.enqueue(work(me, { payload: text })), ({ payload }) => payload),
    (db, text, me) =>
      Effect.map(
        db.jobs.enqueue(work(me, { payload: { [text]: 1 } })),
        ({ payload }) => Object.keys(payload as object)[0],
      ),
    (db, text) => unkept(db.jobs.enqueue(work(text))),
    (db, text, me) => unkept(db.jobs.enqueue({ ...work(me), requestId: some(text) })),
    (db, text, me) => unkept(db.jobs.enqueue({ ...work(me), userId: some(text) })),
    (db, text, me) => unkept(db.jobs.enqueue({ ...work(me), priority: untyped(text) })),
    (db, text, me) => unkept(db.jobs.enqueue({ ...work(me), scheduledAt: untyped(text) })),
  ],
  "jobs.enqueueMany": [
    (db, text, me) =>
      Effect.flatMap(db.jobs.enqueueMany([work(me, { type: text })]), ([id = ""]) =>
        Effect.map(db.jobs.get(id), (_) => Option.getOrThrow(_).type),
      ),
    (db, text, me) => unkept(db.jobs.enqueueMany([{ ...work(me), requestId: some(text) }])),
    (db, text) => unkept(db.jobs.enqueueMany([work(text)])),
  ],
  "jobs.claim": [
    (db, text, me) =>
      Effect.gen(function* () {
        const { id } = yield* db.jobs.enqueue(work(me, { type: "claim.me" }));
        const claimed = yield* db.jobs.claim({ runner: text, types: ["claim.me"] });
        return Option.getOrThrow(claimed.find((one) => one.id === id)?.lockedBy ?? Option.none());
      }),
    (db, text) => unkept(db.jobs.claim({ runner: "test", types: [text] })),
    (db, text) => unkept(db.jobs.claim({ runner: "test", lease: untyped(text) })),
    (db, text) => unkept(db.jobs.claim({ runner: "test", limit: untyped(text) })),
  ],
  "jobs.complete": [
    (db, text) => unkept(db.jobs.complete({ id: text, fence: 1n })),
    (db, text) => unkept(db.jobs.complete({ id: randomUUID(), fence: untyped(text) })),
  ],
  "jobs.retry": [
    (db, text, me) =>
      Effect.gen(function* () {
        const { errorHistory } = yield* db.jobs.retry({ ...(yield* held(db, me)), error: text });
        return errorHistory[0]?.error;
      }),
    (db, text) => unkept(db.jobs.retry({ id: text, fence: 1n, error: "" })),
    (db, text) => unkept(db.jobs.retry({ id: randomUUID(), fence: 1n, error: "", delay: untyped(text) })),
  ],
  "jobs.deadLetter": [
    (db, text, me) =>
      Effect.gen(function* () {
        const { id } = yield* db.jobs.enqueue(work(me));
        const { errorHistory } = yield* db.jobs.deadLetter({ id, reason: "MaxRetries", error: text });
        return errorHistory[0]?.error;
      }),
    (db, text) => unkept(db.jobs.deadLetter({ id: randomUUID(), reason: untyped(text), error: "" })),
    (db, text) => unkept(db.jobs.deadLetter({ id: text, reason: "MaxRetries", error: "" })),
  ],
  "jobs.rescue": [
    (db, text) => unkept(db.jobs.rescue({ limit: untyped(text) })),
    (db, text) => unkept(db.jobs.rescue({ grace: untyped(text) })),
  ],

  ...plain("jobDlq", [
    "id",
    "originalJobId",
    "appId",
    "type",
    "payload",
    "errorReason",
    "requestId",
    "userId",
    "replayedAt",
  ]),
  "jobDlq.set": [
    (db, text, me) =>
      Effect.gen(function* () {
        const id = yield* own(db, me);
        yield* db.jobDlq.set({ id }, { type: text });
        return Option.getOrThrow(yield* db.jobDlq.get(id)).type;
      }),
    (db, text, me) => unkept(db.jobDlq.set({ appId: me }, untyped({ [text]: text }))),
  ],
  "jobDlq.insert": [
    (db, text, me) => Effect.map(db.jobDlq.insert(letter(me, { type: text })), ({ type }) => type),
    (db, text, me) =>
      Effect.map(db.jobDlq.insert(letter(me, { payload: [text] })), ({ payload }) => (payload as [string])[0]),
    (db, text, me) => Effect.map(db.jobDlq.insert(letter(me, { errorReason: text })), ({ errorReason }) => errorReason),
    (db, text, me) =>
      Effect.map(
        db.jobDlq.insert(letter(me, { errorHistory: [{ error: text, timestamp: 1 }] })),
        ({ errorHistory }) => errorHistory[0]?.error,
      ),
    (db, text, me) => unkept(db.jobDlq.insert(letter(me, { originalJobId: text }))),
    (db, text, me) => unkept(db.jobDlq.insert(letter(me, { requestId: some(text) }))),
    (db, text) => unkept(db.jobDlq.insert(letter(text))),
  ],
  "jobDlq.insertMany": [
    (db, text, me) => unkept(db.jobDlq.insertMany([letter(me, { type: text, payload: text, errorReason: text })])),
    (db, text, me) => unkept(db.jobDlq.insertMany([letter(me, { userId: some(text) })])),
  ],
  "jobDlq.markReplayed": [
    (db, text) => unkept(db.jobDlq.markReplayed(text)),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.markReplayed(yield* own(db, me), { actor: text });
        return yield* newest(db, "actor");
      }),
  ],
  "jobDlq.listPending": [
    (db, text) => unkept(db.jobDlq.listPending({ type: text })),
    (db, text) => unkept(db.jobDlq.listPending({ cursor: text })),
  ],
  "jobDlq.pagePending": [
    (db, text) => unkept(db.jobDlq.pagePending({ type: text })),
    (db, text) => unkept(db.jobDlq.pagePending({ cursor: text })),
  ],
  "jobDlq.replay": [
    ...byFilter((db, filter) => Stream.runDrain(db.jobDlq.replay(filter, by))),
    (db, text) => unkept(db.jobDlq.replay([text], by)),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.replay([yield* own(db, me)], { actor: text });
        return yield* newest(db, "actor");
      }),
    (db, text, me) =>
      Effect.gen(function* () {
        const entry = yield* db.jobDlq.insert(letter(me));
        yield* db.jobDlq.replay([entry.id], { ...by, payload: text });
        return Option.getOrThrow(yield* db.jobs.get(entry.originalJobId)).payload;
      }),
    (db, text) => drained(db.jobDlq.replay({ all: true }, { ...by, asOf: text })),
  ],
  "jobDlq.discard": [
    ...byFilter((db, filter) => Stream.runDrain(db.jobDlq.discard(filter, { ...by, reason: "test" }))),
    (db, text) => unkept(db.jobDlq.discard([text], { ...by, reason: "test" })),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.discard([yield* own(db, me)], { actor: "test", reason: text });
        return yield* newest(db, "reason");
      }),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.discard([yield* own(db, me)], { actor: text, reason: "test" });
        return yield* newest(db, "actor");
      }),
  ],
  "jobDlq.restore": [
    (db, text) => unkept(db.jobDlq.restore([text], by)),
    (db, text, me) =>
      Effect.gen(function* () {
        const [gone] = yield* db.jobDlq.discard([yield* own(db, me)], { ...by, reason: "test" });
        yield* db.jobDlq.restore([gone?.eventId ?? ""], { actor: text, reason: text });
        return yield* newest(db, "reason");
      }),
  ],
  "jobDlq.events": ["dlqId", "originalJobId", "kind", "actor", "cursor", "limit"].map(
    (name): Input =>
      (db, text) =>
        unkept(db.jobDlq.events(untyped({ [name]: text }))),
  ),
  "jobDlq.view": [
    (db, text) => unkept(db.jobDlq.view(text, by)),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.view(yield* own(db, me), { actor: text });
        return yield* newest(db, "actor");
      }),
  ],
  "jobDlq.erase": [
    ...byFilter((db, filter) => db.jobDlq.erase(filter, by)),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.erase({ ids: [yield* own(db, me)] }, { actor: text, reason: text });
        return yield* newest(db, "reason");
      }),
  ],
  "jobDlq.purge": [
    (db, text) => unkept(db.jobDlq.purge(untyped(text))),
    (db, text, me) =>
      Effect.gen(function* () {
        yield* db.jobDlq.insert(letter(me, { replayedAt: Option.some(new Date(0)) }));
        yield* db.jobDlq.purge(0, { actor: text });
        return yield* newest(db, "actor");
      }),
  ],
  "jobDlq.retain": [
    (db, text) => unkept(db.jobDlq.retain({ replayed: untyped(text) }, by)),
    (db, text) => Effect.zipRight(db.jobDlq.retain({ replayed: 1 }, { actor: text }), newest(db, "actor")),
    (db, text) => unkept(db.jobDlq.retain({ replayed: 1 }, { ...by, budget: untyped(text) })),
  ],
  "jobDlq.expiring": [(db, text) => unkept(db.jobDlq.expiring(untyped(text), { pending: untyped(text) }))],
  "jobDlq.exportTo": byFilter((db, filter) => Stream.runDrain(db.jobDlq.exportTo(filter))),
  "jobDlq.importFrom": [
    (db, text) => drained(db.jobDlq.importFrom(Stream.make(text), by)),
    (db, text, me) => drained(db.jobDlq.importFrom(Stream.make(lineOf(me, text, randomUUID())), by)),
    (db, text, me) => drained(db.jobDlq.importFrom(Stream.make(lineOf(me, randomUUID(), text)), by)),
    (db, text) => drained(db.jobDlq.importFrom(Stream.make(lineOf(text, randomUUID(), randomUUID())), by)),
    (db, text, me) =>
      Effect.gen(function* () {
        const id = randomUUID();
        const [told] = yield* Stream.runCollect(
          db.jobDlq.importFrom(Stream.make(lineOf(me, id, randomUUID(), text)), { actor: text }),
        );
        // The database parses the line, and says what jsonb cannot hold.
        return told?.problems[0]?.reason === "refused" ? undefined : Option.getOrThrow(yield* db.jobDlq.get(id)).type;
      }),
  ],
  "jobDlq.changes": [],
  "jobDlq.changesPosition": [],
  "jobDlq.preview": byFilter((db, filter) => db.jobDlq.preview(filter)),
  "jobDlq.page": [
    ...byFilter((db, filter) => db.jobDlq.page(filter)),
    (db, text) => unkept(db.jobDlq.page({}, { cursor: text })),
    (db, text) => unkept(db.jobDlq.page({}, { limit: untyped(text) })),
  ],
  "jobDlq.groups": byFilter((db, filter) => db.jobDlq.groups(filter)),
  "jobDlq.stats": [
    ...byFilter((db, filter) => db.jobDlq.stats({ by: "type", filter })),
    (db, text) => unkept(db.jobDlq.stats({ by: untyped(text) })),
    (db, text) => unkept(db.jobDlq.stats({ by: "type", since: untyped(text) })),
  ],
  "jobDlq.outcome": [(db, text) => unkept(db.jobDlq.outcome(text))],
  "jobDlq.history": [(db, text) => unkept(db.jobDlq.history(text))],
};

/** What callers can act on. Anything else means that the server or this package did not expect the text. */
const typed = /^(InvalidInput|InvalidCursor|AccessDenied|AppNotFound|JobNotFound|JobNotHeld|JobDlqNotFound)$/;

layer(TestDatabase, { excludeTestServices: true, timeout: "3 minutes" })("a text that wants to be SQL", (it) => {
  it.effect("is tried in every method that there is", () =>
    Effect.gen(function* () {
      const names = [...methodsOf(yield* DatabaseService)].sort();
      assert.deepStrictEqual(Object.keys(inputs).sort(), names);
      assert.deepStrictEqual(Object.keys(attempts).sort(), names);
    }),
  );

  it.effect(
    "is kept as it is or refused with a type, and nothing else happens",
    () =>
      Effect.gen(function* () {
        yield* target;
        const db = yield* DatabaseService;
        const them = yield* somebody;
        const me = yield* newTenant;
        const before = [yield* world, yield* rowsOf(them.app)];
        let [kept, tried] = [0, 0];
        for (const [method, ways] of Object.entries(inputs)) {
          const inside = method === "apps.insert" ? Client.system : Client.tenant(me);
          for (const [place, input] of ways.entries()) {
            // Reduced, each gets some of the texts, and its neighbour others.
            tried++;
            for (const [turn, text] of payloads.entries()) {
              if ((turn + tried) % rounds(1, 5) !== 0) continue;
              const what = `${method} ${place} ${JSON.stringify(text)}`;
              const exit = yield* Effect.exit(
                inside(input(db, text, me)) as Effect.Effect<unknown, unknown, SqlClient.SqlClient>,
              );
              if (Exit.isSuccess(exit)) {
                if (typeof exit.value !== "string") continue;
                // Of what cannot be stored in an error text something else stands there; actors and reasons have no margins.
                const stored = text.replaceAll(/\0|\ud800/gu, "\ufffd");
                assert.include([text, text.trim(), stored], exit.value, what);
                kept++;
              } else {
                const error = Cause.squash(exit.cause);
                const tag = typeof error === "object" && error !== null ? Reflect.get(error, "_tag") : undefined;
                assert.isFalse(Cause.isDie(exit.cause), `${what}: ${Cause.pretty(exit.cause)}`);
                assert.match(String(tag), typed, `${what}: ${Cause.pretty(exit.cause)}`);
                assert.notMatch(String(error), /syntax error|multiple commands/, what);
              }
            }
          }
          assert.deepStrictEqual([yield* world, yield* rowsOf(them.app)], before, method);
        }
        assert.isAbove(kept, 100);
      }),
    600_000,
  );

  it.effect("is no tenant either: the scope does not open", () =>
    Effect.gen(function* () {
      const before = yield* world;
      for (const text of payloads) {
        const error = yield* Effect.flip(Client.tenant(text)(Effect.void));
        assert.strictEqual(error._tag, "InvalidInput", text);
      }
      assert.deepStrictEqual(yield* world, before);
    }),
  );
});

layer(TestDatabase, { excludeTestServices: true, timeout: "1 minute" })(
  "counter-test, on a database of its own",
  (it) => {
    it.effect("queries with the text in them are found out, each by one of the texts at least", () =>
      Effect.gen(function* () {
        yield* target;
        const sql = yield* SqlClient.SqlClient;
        const me = yield* newTenant;
        const careless: ReadonlyArray<(text: string) => string> = [
          (text) => `SELECT count(*) FROM jobs WHERE type = '${text}'`,
          (text) => `SELECT count(*) FROM jobs WHERE (type = '${text}')`,
          (text) => `SELECT count(*) FROM jobs WHERE type LIKE '${text}%'`,
          (text) => `SELECT count(*) FROM jobs WHERE attempts = ${text}`,
          (text) => `SELECT * FROM apps ORDER BY "${text}"`,
          (text) => `SELECT * FROM apps ORDER BY ${text}`,
          (text) => `SELECT * FROM apps ORDER BY id ${text}`,
          (text) => `SELECT $$${text}$$`,
          (text) => `/* ${text} */ SELECT 1`,
          (text) => `SELECT E'${text.replaceAll("'", "\\'")}'`,
          (text) => `SELECT * FROM job_dlq WHERE dlq_at > '${text}'`,
        ];
        const look = Effect.map(Effect.either(world), (_) => JSON.stringify(_));
        for (const [place, query] of careless.entries()) {
          const found: Array<string> = [];
          for (const text of payloads) {
            const before = yield* look;
            // Never for good: roles and their members are the whole server's.
            const after = yield* undone(Effect.zipRight(Effect.exit(Client.tenant(me)(sql.unsafe(query(text)))), look));
            if (after !== before) found.push(text);
          }
          assert.isNotEmpty(found, String(place));
        }
      }),
    );
  },
);
