/**
 * What a caller may try against another tenant with each method of `DatabaseService`: one attempt a method, with ids that are either
 * the other tenant's or nobody's. Whoever adds a method adds its attempt here; a test compares the names.
 */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { Is } from "../../src/factory.js";
import { DatabaseService } from "../../src/repos.js";
import { letter, newTenant, work } from "./database.js";

type Db = typeof DatabaseService.Service;

/** Whom an attempt is against. */
export interface Target {
  readonly app: string;
  /** One that a runner holds, with its fence. */
  readonly job: string;
  readonly fence: bigint;
  /** Of `letter`. */
  readonly deadJob: string;
  readonly letter: string;
  readonly replayed: string;
  /** The discarded letter, and its event. */
  readonly discarded: string;
  readonly event: string;
  readonly type: string;
  readonly request: string;
  readonly user: string;
  readonly fingerprint: string;
  /** Where `changes` stood before any of it was there. */
  readonly position: string;
}

/** Somebody who is not there. */
export const nobody = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const id = () => randomUUID();
  return {
    app: id(),
    job: id(),
    fence: 7n,
    deadJob: id(),
    letter: id(),
    replayed: id(),
    discarded: id(),
    event: id(),
    type: `secret.${id()}`,
    request: id(),
    user: id(),
    fingerprint: id(),
    position: yield* db.jobDlq.changesPosition(),
  } satisfies Target as Target;
});

/** A tenant with a job in hand, one that waits, and dead letters in every state. */
export const somebody = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const sql = yield* SqlClient.SqlClient;
  const given = yield* nobody;
  const app = yield* newTenant;
  const { request, type, user } = given;
  const of = { type, requestId: Option.some(request), userId: Option.some(user) };
  return yield* Client.tenant(app)(
    Effect.gen(function* () {
      const submitted = {
        ...work(app, { type }),
        requestId: of.requestId,
        userId: of.userId,
        priority: "critical" as const,
      };
      const job = yield* db.jobs.enqueue(submitted);
      // In hand, and lost: whoever could would rescue it.
      const [held] = yield* sql`
        UPDATE jobs SET status = 'processing', attempts = 1, started_at = now(), locked_by = 'theirs', locked_until = now() - interval '1 minute'
        WHERE id = ${job.id} RETURNING fence::text`;
      yield* db.jobs.enqueue(submitted);
      const dead = yield* db.jobs.enqueue(submitted);
      const dying = yield* db.jobs.deadLetter({ id: dead.id, reason: "MaxRetries", error: `${type} failed` });
      const replayed = yield* db.jobDlq.insert(letter(app, { ...of, replayedAt: Option.some(new Date(0)) }));
      const gone = yield* db.jobDlq.insert(letter(app, of));
      const [receipt] = yield* db.jobDlq.discard([gone.id], { actor: "theirs", reason: "theirs" });
      const [row] = yield* sql`SELECT fingerprint FROM job_dlq WHERE id = ${dying.id}`;
      return {
        ...given,
        app,
        job: job.id,
        fence: BigInt(String(held?.fence)),
        deadJob: dead.id,
        letter: dying.id,
        replayed: replayed.id,
        discarded: gone.id,
        event: receipt?.eventId ?? "",
        fingerprint: String(row?.fingerprint),
      } satisfies Target as Target;
    }),
  );
});

const actor = "mine";
const all = <A, E, R>(stream: Stream.Stream<A, E, R>) => Effect.map(Stream.runCollect(stream), (_) => [..._]);
const by = { actor } as const;

/** A line of an export that names this letter. */
export const lineOf = (app: string, id: string, originalJobId: string, type = "mail.send") =>
  JSON.stringify({
    id,
    originalJobId,
    appId: app,
    type,
    payload: {},
    errorReason: "MaxRetries",
    attempts: 1,
    errorHistory: [],
    dlqAt: "2026-01-01T00:00:00Z",
  });

type Attempt = (db: Db, them: Target, me: string) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>;

/** The methods that tell nothing of any tenant's rows, so that no policy is between them and the caller. */
export const harmless = ["apps.insert", "apps.set", "jobDlq.changesPosition", "withTransaction"];

/** The statement itself says that a line is its scope's own, whatever the policies let through. */
export const guardedTwice = ["jobDlq.importFrom"];

/** By method; several of one method in their order. Each runs in the caller's own scope, but for `changes`, which opens it itself. */
export const attempts: Readonly<Record<string, ReadonlyArray<Attempt>>> = {
  withTransaction: [(db) => db.withTransaction(Effect.succeed("nothing"))],

  "apps.one": [(db, { app }) => db.apps.one({ id: app })],
  "apps.find": [(db) => db.apps.find({}, { order: { id: "desc" } }), (db, { app }) => db.apps.find({ id: app })],
  "apps.count": [(db) => db.apps.count(), (db, { app }) => db.apps.count({ id: app })],
  "apps.get": [(db, { app }) => db.apps.get(app)],
  "apps.insert": [(db, { app }) => db.apps.insert({ name: `app of ${app}` })],
  "apps.set": [(db, { app }) => db.apps.set({ id: app }, { name: "mine" })],

  "jobs.one": [(db, { job }) => db.jobs.one({ id: job })],
  "jobs.find": [
    (db) => db.jobs.find({}, { order: { id: "desc" } }),
    (db, { type }) => db.jobs.find({ type }),
    (db, { app }) => db.jobs.find({ appId: app }),
    (db, { request }) => db.jobs.find({ requestId: Option.some(request) }),
  ],
  "jobs.count": [(db) => db.jobs.count(), (db, { user }) => db.jobs.count({ userId: Option.some(user) })],
  "jobs.get": [(db, { job }) => db.jobs.get(job)],
  "jobs.insert": [(db, { app, type }) => db.jobs.insert(work(app, { type }) as never)],
  "jobs.set": [
    (db, { job }) => db.jobs.set({ id: job }, { type: "mine" }),
    (db, { type }) => db.jobs.set({ type }, { maxAttempts: 1 }),
    (db, { app, type }, me) =>
      Effect.zipRight(db.jobs.enqueue(work(me, { type })), db.jobs.set({ type }, { appId: app })),
  ],
  "jobs.purge": [(db) => db.jobs.purge(0)],
  "jobs.enqueue": [(db, { app, type }) => db.jobs.enqueue(work(app, { type }))],
  "jobs.enqueueMany": [(db, { app, type }, me) => db.jobs.enqueueMany([work(me, { type }), work(app, { type })])],
  "jobs.claim": [
    (db) => db.jobs.claim({ runner: "mine" }),
    (db, { type }) => db.jobs.claim({ runner: "mine", types: [type] }),
  ],
  "jobs.complete": [(db, { fence, job }) => db.jobs.complete({ id: job, fence })],
  "jobs.retry": [(db, { fence, job }) => db.jobs.retry({ id: job, fence, error: "mine" })],
  "jobs.deadLetter": [
    (db, { fence, job }) => db.jobs.deadLetter({ id: job, fence, reason: "MaxRetries", error: "mine" }),
    (db, { job }) => db.jobs.deadLetter({ id: job, reason: "MaxRetries", error: "mine" }),
  ],
  "jobs.rescue": [(db) => db.jobs.rescue()],

  "jobDlq.one": [(db, { letter: id }) => db.jobDlq.one({ id })],
  "jobDlq.find": [
    (db) => db.jobDlq.find({}, { order: { id: "desc" } }),
    (db, { letter: id, replayed }) => db.jobDlq.find({ id: Is.oneOf([id, replayed]) }),
    (db, { deadJob }) => db.jobDlq.find({ originalJobId: deadJob }),
  ],
  "jobDlq.count": [(db) => db.jobDlq.count(), (db, { user }) => db.jobDlq.count({ userId: Option.some(user) })],
  "jobDlq.get": [(db, { letter: id }) => db.jobDlq.get(id)],
  "jobDlq.set": [(db, { letter: id }) => db.jobDlq.set({ id }, { type: "mine" })],
  "jobDlq.insert": [
    (db, { app }) => db.jobDlq.insert(letter(app)),
    (db, { deadJob, request, user }, me) =>
      db.jobDlq.insert(
        letter(me, { originalJobId: deadJob, requestId: Option.some(request), userId: Option.some(user) }),
      ),
  ],
  "jobDlq.insertMany": [(db, { app }, me) => db.jobDlq.insertMany([letter(me), letter(app)])],
  "jobDlq.markReplayed": [
    (db, { letter: id }) => db.jobDlq.markReplayed(id, by),
    (db, { replayed }) => db.jobDlq.markReplayed(replayed, by),
  ],
  "jobDlq.listPending": [(db) => db.jobDlq.listPending(), (db, { type }) => db.jobDlq.listPending({ type })],
  "jobDlq.pagePending": [(db) => db.jobDlq.pagePending(), (db, { type }) => db.jobDlq.pagePending({ type })],
  "jobDlq.replay": [
    (db, { discarded, letter: id, replayed }) => db.jobDlq.replay([id, replayed, discarded], by),
    (db, { type }) => all(db.jobDlq.replay({ type }, by)),
    (db, { letter: id }) => all(db.jobDlq.replay({ ids: [id] }, { ...by, payload: "mine" })),
  ],
  "jobDlq.discard": [
    (db, { discarded, letter: id, replayed }) => db.jobDlq.discard([id, replayed, discarded], { actor, reason: actor }),
    (db) => all(db.jobDlq.discard({ all: true }, { actor, reason: actor })),
  ],
  "jobDlq.restore": [(db, { event, letter: id }) => db.jobDlq.restore([event, id], by)],
  "jobDlq.events": [
    (db) => db.jobDlq.events(),
    (db, { discarded }) => db.jobDlq.events({ dlqId: discarded }),
    (db, { event }) => db.jobDlq.events({ cursor: event }),
  ],
  "jobDlq.view": [(db, { letter: id }) => db.jobDlq.view(id, by)],
  "jobDlq.erase": [
    (db, { user }) => db.jobDlq.erase({ userId: user }, by),
    (db, { discarded, letter: id }) => db.jobDlq.erase({ ids: [id, discarded] }, by),
    (db) => db.jobDlq.erase({ all: true }, by),
  ],
  "jobDlq.purge": [(db) => db.jobDlq.purge(0, by)],
  "jobDlq.retain": [(db) => db.jobDlq.retain({ replayed: 0 }, by), (db) => db.jobDlq.retain({ discarded: 0 }, by)],
  "jobDlq.expiring": [(db) => db.jobDlq.expiring(1, { pending: 1 })],
  "jobDlq.exportTo": [
    (db) => all(db.jobDlq.exportTo({ all: true, state: "any" })),
    (db, { letter: id }) => all(db.jobDlq.exportTo({ ids: [id] })),
  ],
  "jobDlq.importFrom": [
    // An id of the caller's own choice is another matter: see "what an id of one's own choice tells".
    (db, { app }) => all(db.jobDlq.importFrom(Stream.make(lineOf(app, randomUUID(), randomUUID())), by)),
    (db, { app, letter: id }) => all(db.jobDlq.importFrom(Stream.make(lineOf(app, id, randomUUID())), by)),
  ],
  "jobDlq.changes": [
    (db, { position }, me) =>
      Effect.zipRight(
        Client.tenant(me)(db.jobDlq.insert(letter(me, { type: "own" }))),
        all(Stream.take(db.jobDlq.changes({ scope: { _tag: "tenant", appId: me }, after: position }), 1)),
      ),
  ],
  "jobDlq.changesPosition": [(db) => db.jobDlq.changesPosition()],
  "jobDlq.preview": [
    (db) => db.jobDlq.preview({ all: true, state: "any" }),
    (db, { fingerprint }) => db.jobDlq.preview({ fingerprint }),
  ],
  "jobDlq.page": [
    (db) => db.jobDlq.page({ state: "any" }),
    (db, { request }) => db.jobDlq.page({ requestId: request }),
    (db, { type }) => db.jobDlq.page({ text: type }),
    (db) => db.jobDlq.page({ payload: { to: "a@example.com" } }),
  ],
  "jobDlq.groups": [(db) => db.jobDlq.groups({})],
  "jobDlq.stats": [
    (db) => db.jobDlq.stats({ by: "type" }),
    (db, { type }) => db.jobDlq.stats({ by: "reason", filter: { type } }),
  ],
  "jobDlq.outcome": [
    (db, { letter: id }) => db.jobDlq.outcome(id),
    (db, { discarded }) => db.jobDlq.outcome(discarded),
  ],
  "jobDlq.history": [(db, { deadJob }) => db.jobDlq.history(deadJob), (db, { job }) => db.jobDlq.history(job)],
};

/** The names of all methods, as the service has them. */
export const methodsOf = (db: Db): ReadonlyArray<string> =>
  Object.entries(db).flatMap(([name, value]) =>
    typeof value === "object" && value !== null ? Object.keys(value).map((method) => `${name}.${method}`) : [name],
  );

/** An error with everything that it says: the driver's code, detail, constraint and message among them. */
const toldOf = (error: unknown): unknown => {
  if (!(error instanceof Error)) return error;
  const own = Object.fromEntries(
    // Where in the server's source and in the statement it arose, and the stack, are no answer; the rest is.
    Object.getOwnPropertyNames(error)
      .filter((name) => name !== "stack")
      .map((name) => [name, toldOf(Reflect.get(error, name))]),
  );
  return { ...own, message: error.message };
};

/** What came of it, in words that are the same for two targets when it tells nothing of which one it was. */
export const wordsOf = (exit: Exit.Exit<unknown, unknown>, them: Target, me: string): string => {
  const said = Exit.isSuccess(exit)
    ? { succeeded: exit.value }
    : { failed: [...Cause.failures(exit.cause), ...Cause.defects(exit.cause)].map(toldOf) };
  let text = JSON.stringify(said, (_, value: unknown) => (typeof value === "bigint" ? `bigint ${value}` : value));
  for (const [name, value] of Object.entries(them)) {
    if (name !== "fence" && value !== "") text = text.replaceAll(String(value), `<${name}>`);
  }
  return text
    .replaceAll(me, "<me>")
    .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "<new>")
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "<time>")
    .replaceAll(/"asOf":"[\d:,]+"/g, '"asOf":"<snapshot>"')
    .replaceAll(/"fence":"bigint \d+"/g, '"fence":"<new>"')
    .replaceAll(/"(position|succeeded)":"[\w-]{20,}={0,2}"/g, '"$1":"<position>"');
};

/** Every row of the tenant in every table that has a tenant, as the superuser sees it. */
export const rowsOf = (app: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const tables = yield* sql`
      SELECT a.attrelid::regclass::text AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      WHERE a.attname = 'app_id' AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace ORDER BY 1`;
    return yield* Effect.forEach(tables, ({ name }) =>
      Effect.map(
        sql.unsafe(`SELECT to_jsonb(t)::text AS row FROM ${String(name)} t WHERE app_id = $1 ORDER BY 1`, [app]),
        (rows) => [String(name), ...rows.map((_) => String(Reflect.get(_, "row")))],
      ),
    );
  });
