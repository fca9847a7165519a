import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import { assert, describe, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as Client from "../src/client.js";
import * as Migrator from "../src/migrator.js";
import { DatabaseService } from "../src/repos.js";
import { classify } from "../src/sql-state.js";
import { isFull } from "./support/campaign.js";
import { deadJob, letter, newTenant, work } from "./support/database.js";
import { freePort } from "./support/process.js";
import * as Server from "./support/server.js";
import * as Wire from "./support/wire.js";

/**
 * A lock that a statement waits for inside a trigger, so that it is half done for certain. A prepared transaction holds it: it
 * has no connection and outlives the server, so that the statement can never get through while the server goes down.
 */
const gate = 4711;
const shut = `BEGIN; SELECT pg_advisory_xact_lock(${gate}); PREPARE TRANSACTION 'gate'`;
const opened = "ROLLBACK PREPARED 'gate'";

// Encoding ten thousand rows keeps a busy machine's event loop from a new connection for seconds.
const connectTimeout = "60 seconds";

/**
 * A server that comes and goes behind an address that stays. `up` starts it unless it runs, `stop` and `kill` take it away,
 * `observer` is a connection that does not go over the wire.
 */
class Outage extends Context.Tag("Outage")<
  Outage,
  {
    readonly wire: Wire.Wire;
    readonly up: Effect.Effect<Redacted.Redacted>;
    readonly stop: Effect.Effect<void>;
    readonly kill: Effect.Effect<void>;
    readonly observe: <A, E>(ask: Effect.Effect<A, E, SqlClient.SqlClient>) => Effect.Effect<A, E | SqlError>;
  }
>() {}

const outage = Layer.scoped(
  Outage,
  Effect.gen(function* () {
    const own = yield* Server.make;
    const wire = yield* Wire.make();
    let url: Redacted.Redacted | undefined;
    const up = Effect.suspend(() =>
      url === undefined
        ? Effect.tap(Effect.orDie(own.start({ max_prepared_transactions: "1" })), (started) =>
            Effect.sync(() => {
              url = started;
              wire.connectTo(started);
            }),
          )
        : Effect.succeed(url),
    );
    const isDown = Effect.sync(() => {
      url = undefined;
    });
    yield* up;
    return {
      wire,
      up,
      stop: isDown.pipe(Effect.zipRight(own.stop), Effect.zipRight(wire.closed)),
      // The children of a killed server may answer one more statement before they notice.
      kill: isDown.pipe(Effect.zipRight(own.kill), Effect.zipRight(wire.closed)),
      observe: (ask) =>
        Effect.flatMap(up, (direct) =>
          Effect.provide(ask, Client.layer({ url: direct, maxConnections: 4, connectTimeout })),
        ),
    };
  }),
);

// Whatever is of the type `gated` waits for the gate: a dead letter that is inserted, a job that comes back, and a job that
// is submitted with the type `gated commit` makes its transaction's COMMIT wait.
const prepare = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  yield* Effect.orDie(Migrator.run());
  yield* sql.unsafe(`
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
      PERFORM pg_advisory_xact_lock_shared(${gate});
      RETURN NEW;
    END
    $body$`);
  yield* sql.unsafe(`
    CREATE TRIGGER gated BEFORE INSERT ON job_dlq FOR EACH ROW WHEN (NEW.type = 'gated') EXECUTE FUNCTION wait_at_gate()`);
  yield* sql.unsafe(`
    CREATE TRIGGER gated BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (NEW.type = 'gated' AND OLD.status = 'dead') EXECUTE FUNCTION wait_at_gate()`);
  yield* sql.unsafe(`
    CREATE CONSTRAINT TRIGGER gated_commit AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.type = 'gated commit') EXECUTE FUNCTION wait_at_gate()`);
});

const client = Layer.unwrapEffect(
  Effect.gen(function* () {
    const { observe, up, wire } = yield* Outage;
    yield* observe(prepare);
    // Built once: every outage is survived by this one.
    return Client.layer({ url: wire.url(yield* up), maxConnections: 6, connectTimeout });
  }),
);

const TestOutage = DatabaseService.layer.pipe(Layer.provideMerge(client), Layer.provideMerge(outage));

/** What a call failed with, which must be a typed error of the class Connection. */
const lost = (name: string, exit: Exit.Exit<unknown, unknown>) => {
  assert.isTrue(Exit.isFailure(exit), `${name} succeeded`);
  const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty;
  const error = Option.getOrUndefined(Cause.failureOption(cause));
  assert.isDefined(error, `${name} did not fail typed: ${Cause.pretty(cause)}`);
  assert.strictEqual(Reflect.get(Object(error), "_tag"), "SqlError", Cause.pretty(cause));
  assert.strictEqual(classify(error as SqlError), "Connection", Cause.pretty(cause, { renderErrorCause: true }));
  assert.isFalse(Cause.isDie(cause), `${name} also died: ${Cause.pretty(cause)}`);
};

/** Starts a call, takes the server away while the call waits at the gate, half done, and starts it again. */
const inTheMiddle = (
  name: string,
  end: Effect.Effect<void>,
  call: Effect.Effect<unknown, unknown, SqlClient.SqlClient>,
) =>
  Effect.gen(function* () {
    const { observe, up } = yield* Outage;
    // The call's own client, and not the observer's.
    const context = yield* Effect.context<SqlClient.SqlClient>();
    const run = observe(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const fiber = yield* Effect.fork(Effect.provide(call, context));
        const waiting = sql`SELECT count(*)::int AS count FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`;
        const ended = yield* Effect.raceFirst(
          Effect.as(Effect.repeat(waiting, { until: ([row]) => row?.count === 1 }), undefined),
          Fiber.await(fiber),
        );
        assert.isUndefined(ended, `${name} ended before it was half done`);
        yield* end;
        lost(name, yield* Fiber.await(fiber));
      }),
    );
    const tell = (statement: string) =>
      observe(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient;
          const connection = yield* sql.reserve;
          yield* connection.executeUnprepared(statement, [], undefined);
        }).pipe(Effect.scoped),
      );
    // Starting and connecting race against their timeouts, whose losers must be interruptible or last their whole time.
    yield* Effect.acquireUseRelease(
      Effect.interruptible(tell(shut)),
      () => run,
      () => up.pipe(Effect.zipRight(tell(opened)), Effect.interruptible, Effect.orDie),
    );
  });

layer(TestOutage, { excludeTestServices: true, timeout: "120 seconds" })("the database goes away", (it) => {
  // Both ways in `npm run test:full`; what is killed has had no time to say anything.
  for (const way of isFull ? (["stop", "kill"] as const) : (["kill"] as const)) {
    const by = way === "stop" ? "stopped" : "killed";
    const goes = Effect.flatMap(Outage, (_) => _[way]);

    describe(`when it is ${by}`, () => {
      it.effect(
        "in the middle of a scope, the call fails typed, nothing of it is written, and the client goes on",
        () =>
          Effect.gen(function* () {
            const { up } = yield* Outage;
            yield* up;
            const db = yield* DatabaseService;
            const appId = yield* newTenant;
            const after: Array<Exit.Exit<unknown, unknown>> = [];
            const exit = yield* Effect.exit(
              Client.tenant(appId)(
                Effect.gen(function* () {
                  yield* db.jobs.enqueue(work(appId));
                  yield* goes;
                  // Each statement after it too, and what nests.
                  after.push(yield* Effect.exit(db.jobs.enqueue(work(appId))));
                  after.push(yield* Effect.exit(db.withTransaction(db.jobs.count())));
                  after.push(yield* Effect.exit(Client.tenant(appId)(db.jobs.count())));
                  return yield* db.jobs.count();
                }),
              ),
            );
            lost("the scope", exit);
            for (const each of after) lost("a statement after it", each);
            yield* up;
            assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
            yield* Client.tenant(appId)(db.jobs.enqueue(work(appId)));
            assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 1);
          }),
      );

      it.effect("before the commit, the scope fails although its effect succeeded", () =>
        Effect.gen(function* () {
          const { up } = yield* Outage;
          yield* up;
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          lost(
            "the scope",
            yield* Effect.exit(Client.tenant(appId)(Effect.zipLeft(db.jobs.enqueue(work(appId)), goes))),
          );
          yield* up;
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
        }),
      );

      it.effect("in the middle of the commit, the same", () =>
        Effect.gen(function* () {
          const outage = yield* Outage;
          yield* outage.up;
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const call = Client.tenant(appId)(db.jobs.enqueue(work(appId, { type: "gated commit" })));
          yield* inTheMiddle("the scope", outage[way], call);
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
        }),
      );

      it.effect(
        "in the second statement of a bulk insertMany, none of its rows is there",
        () =>
          Effect.gen(function* () {
            const outage = yield* Outage;
            yield* outage.up;
            const db = yield* DatabaseService;
            const appId = yield* newTenant;
            yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { type: "before" })));
            const entries = Array.from({ length: 10_100 }, (_, i) =>
              letter(appId, { type: i === 10_050 ? "gated" : "bulk" }),
            );
            yield* inTheMiddle("insertMany", outage[way], Client.tenant(appId)(db.jobDlq.insertMany(entries)));
            assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 1);
            assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count({ type: "before" })), 1);
            // Outside a scope insertMany makes its own transaction.
            yield* inTheMiddle("insertMany", outage[way], db.jobDlq.insertMany(entries));
            assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 1);
          }),
        180_000,
      );

      it.effect("in the middle of a dead-lettering, the job is as it was and there is no dead letter", () =>
        Effect.gen(function* () {
          const outage = yield* Outage;
          yield* outage.up;
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const job = yield* Client.tenant(appId)(db.jobs.enqueue(work(appId, { type: "gated" })));
          const [claimed] = yield* Client.tenant(appId)(db.jobs.claim({ runner: "r", lease: "1 hour" }));
          const dies = db.jobs.deadLetter({ id: job.id, reason: "MaxRetries", error: "x" });
          yield* inTheMiddle("deadLetter", outage[way], Client.tenant(appId)(dies));
          assert.deepStrictEqual(yield* Client.tenant(appId)(db.jobs.get(job.id)), Option.fromNullable(claimed));
          assert.strictEqual(yield* Client.tenant(appId)(db.jobDlq.count()), 0);
        }),
      );

      it.effect("in the middle of a replay, no job is back and every letter is pending; then it can be done", () =>
        Effect.gen(function* () {
          const outage = yield* Outage;
          yield* outage.up;
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          const letters = yield* Effect.forEach(["a", "b", "c", "gated", "d", "e"], (type) => deadJob(appId, { type }));
          const ids = letters.map(({ id }) => id);
          yield* inTheMiddle("replay", outage[way], Client.tenant(appId)(db.jobDlq.replay(ids, { actor: "test" })));
          yield* Client.tenant(appId)(
            Effect.gen(function* () {
              assert.strictEqual((yield* db.jobDlq.listPending()).length, ids.length);
              assert.strictEqual(yield* db.jobs.count({ status: "dead" }), ids.length);
              const receipts = yield* db.jobDlq.replay(ids, { actor: "test" });
              assert.deepStrictEqual(
                receipts.map(({ outcome }) => outcome),
                ids.map(() => "replayed"),
              );
            }),
          );
          assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count({ status: "pending" })), ids.length);
        }),
      );

      it.effect("under many calls at once, each call either fails typed or is there afterwards", () =>
        Effect.gen(function* () {
          const { up } = yield* Outage;
          yield* up;
          const db = yield* DatabaseService;
          const appId = yield* newTenant;
          // Every connection of the pool is in use, some are idle in between, others wait for one.
          const caller = (i: number) =>
            Effect.gen(function* () {
              const stored: Array<string> = [];
              for (let n = 0; ; n++) {
                if (i === 0 && n === 20) yield* goes;
                const exit = yield* Effect.exit(Client.tenant(appId)(db.jobs.enqueue(work(appId))));
                if (Exit.isFailure(exit)) {
                  lost(`call ${n} of caller ${i}`, exit);
                  return stored;
                }
                stored.push(exit.value.id);
              }
            });
          const stored = yield* Effect.forEach(Array.from({ length: 12 }).keys(), caller, { concurrency: "unbounded" });
          // While it is away every call fails typed, and soon.
          for (const call of [
            Client.health,
            Client.system(db.jobs.count()),
            Client.tenant(appId)(db.jobDlq.listPending()),
            db.withTransaction(Effect.void),
          ] as ReadonlyArray<Effect.Effect<unknown, unknown, SqlClient.SqlClient>>) {
            lost("a call while it is away", yield* Effect.exit(call));
          }
          yield* up;
          const sql = yield* SqlClient.SqlClient;
          const rows = yield* Client.tenant(appId)(sql`SELECT id FROM jobs`);
          const there = new Set(rows.map(({ id }) => String(id)));
          for (const id of stored.flat()) assert.isTrue(there.has(id), "a job that was stored is lost");
          // A commit whose answer did not arrive may have happened: at most one for each caller.
          assert.isAtMost(there.size, stored.flat().length + stored.length);
        }),
      );
    });
  }

  it.effect("a client cannot be built while it is away, which is a typed error, and can be when it is back", () =>
    Effect.gen(function* () {
      const { stop, up, wire } = yield* Outage;
      const before = yield* up;
      yield* stop;
      const closed = new URL(Redacted.value(before));
      const unused = new URL(Redacted.value(before));
      unused.port = String(yield* freePort);
      for (const url of [
        closed.href,
        closed.href.replace("127.0.0.1", "localhost"),
        unused.href,
        Redacted.value(wire.url(before)),
      ]) {
        const build = Effect.scoped(Layer.build(Client.layer({ url: Redacted.make(url), maxConnections: 1 })));
        lost("building the layer", yield* Effect.exit(build));
      }
      yield* up;
      yield* Client.health.pipe(Effect.provide(Client.layer({ url: wire.url(before), maxConnections: 1 })));
    }),
  );

  it.effect("a connection that is cut on the way, with the server in good health, is the same to the caller", () =>
    Effect.gen(function* () {
      const { up, wire } = yield* Outage;
      yield* up;
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const exit = yield* Effect.exit(
        Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobs.enqueue(work(appId));
            wire.cut();
            return yield* db.jobs.enqueue(work(appId));
          }),
        ),
      );
      lost("the scope", exit);
      assert.strictEqual(yield* Client.tenant(appId)(db.jobs.count()), 0);
    }),
  );
});
