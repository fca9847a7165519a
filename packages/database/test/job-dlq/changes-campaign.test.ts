import { randomUUID } from "node:crypto";
import { assert, layer } from "@effect/vitest";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as fc from "effect/FastCheck";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Redacted from "effect/Redacted";
import * as Stream from "effect/Stream";
import pg from "pg";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
import type { DataScope } from "../../src/transaction.js";
import { rounds, seed } from "../support/campaign.js";
import { newTenant, TestDatabase, TestUrl } from "../support/database.js";

const tenants = 2;
const pause = fc.integer({ min: 0, max: 15 });
const transaction = fc.record({
  before: pause,
  /** Statements: how many letters of which tenant, and how long until the next one. */
  statements: fc.array(
    fc.record({ count: fc.integer({ min: 1, max: 30 }), tenant: fc.nat(tenants - 1), after: pause }),
    { minLength: 1, maxLength: 3 },
  ),
  commits: fc.integer({ min: 1, max: 10 }).map((_) => _ <= 7),
});
const plan = fc.record({
  writers: fc.array(fc.array(transaction, { minLength: 5, maxLength: 15 }), { minLength: 6, maxLength: 6 }),
  kills: fc.array(fc.record({ before: fc.integer({ min: 0, max: 80 }), salt: fc.integer() }), {
    minLength: 3,
    maxLength: 8,
  }),
  /** A follower ends after so many arrivals, and another goes on from its last position. */
  cuts: fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 5 }),
  batchSize: fc.integer({ min: 1, max: 150 }),
});
type Plan = typeof plan extends fc.Arbitrary<infer A> ? A : never;

const connection = Effect.gen(function* () {
  const url = yield* TestUrl;
  return yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const client = new pg.Client({ connectionString: Redacted.value(url), application_name: "writer" });
      client.on("error", () => undefined);
      await client.connect();
      return client;
    }),
    (client) => Effect.promise(() => client.end()),
  );
});
const query = (client: pg.Client, text: string, values: Array<unknown> = []) =>
  Effect.promise(() => client.query(text, values));
const insertText = `
  INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history)
  SELECT id, id, $2, 'x', '1', 'MaxRetries', 1, '[]' FROM unnest($1::uuid[]) AS id`;
const sleep = (millis: number) => Effect.sleep(Duration.millis(millis));

/** Writes one transaction after the other; returns what was committed, by tenant. */
const write = (transactions: Plan["writers"][number], apps: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const client = yield* connection;
      const committed = apps.map((): Array<string> => []);
      for (const { before, commits, statements } of transactions) {
        yield* sleep(before);
        yield* query(client, "BEGIN");
        for (const { after, count, tenant } of statements) {
          const ids = Array.from({ length: count }, () => randomUUID());
          yield* query(client, insertText, [ids, apps[tenant]]);
          if (commits) committed[tenant]?.push(...ids);
          yield* sleep(after);
        }
        yield* query(client, commits ? "COMMIT" : "ROLLBACK");
      }
      return committed;
    }),
  );

/** Kills one of the followers' connections at a time: a listening one, or one of a pool. */
const kill = (kills: Plan["kills"]) =>
  Effect.scoped(
    Effect.gen(function* () {
      const client = yield* connection;
      let killed = 0;
      for (const { before, salt } of kills) {
        yield* sleep(before);
        const { rows } = yield* query(
          client,
          `SELECT pg_terminate_backend(pid) FROM (
             SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'follower'
             ORDER BY md5(pid::text || $1) LIMIT 1) AS victim`,
          [String(salt)],
        );
        killed += rows.length;
      }
      return killed;
    }),
  );

/** Follows until the last letters have come, from one position to the next. */
const follow = (scope: DataScope, start: string, last: ReadonlyArray<string>, { batchSize, cuts }: Plan) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const seen: Array<string> = [];
    const missing = new Set(last);
    let after = start;
    for (let i = 0; missing.size > 0; i++) {
      const end = seen.length + (cuts[i] ?? Number.POSITIVE_INFINITY);
      yield* db.jobDlq.changes({ scope, after, batchSize, pollInterval: "1 hour" }).pipe(
        Stream.takeUntil(({ letter, position }) => {
          const { id } = Either.merge(letter);
          seen.push(id);
          after = position;
          missing.delete(id);
          return missing.size === 0 || seen.length >= end;
        }),
        Stream.runDrain,
      );
    }
    return seen;
  });

layer(TestDatabase, { excludeTestServices: true })("jobDlq.changes under a storm", (it) => {
  it.scoped(
    "brings each committed letter exactly once, whatever is rolled back, killed and resumed",
    () =>
      Effect.gen(function* () {
        const url = yield* TestUrl;
        const total = rounds(50, 4);
        console.log(`changes: ${total} rounds, TEST_SEED=${seed}`);
        const follower = Layer.provideMerge(
          DatabaseService.layer,
          Client.layer({ url, applicationName: "follower", maxConnections: 3 }),
        );
        const followers = yield* Layer.build(follower);
        let [letters, killed] = [0, 0];
        for (const [round, one] of fc.sample(plan, { seed, numRuns: total }).entries()) {
          const apps = yield* Effect.replicateEffect(newTenant, tenants);
          const last = apps.map(() => randomUUID());
          const start = yield* Effect.flatMap(DatabaseService, (db) => db.jobDlq.changesPosition());
          const writing = Effect.gen(function* () {
            const written = yield* Effect.forEach(one.writers, (_) => write(_, apps), { concurrency: "unbounded" });
            const client = yield* connection;
            for (const [i, app] of apps.entries()) yield* query(client, insertText, [[last[i]], app]);
            return apps.map((_, i) => [...written.flatMap((by) => by[i] ?? []), last[i] ?? ""]);
          });
          const following = Effect.provide(
            Effect.all(
              [
                ...apps.map((appId, i) => follow({ _tag: "tenant", appId }, start, [last[i] ?? ""], one)),
                follow({ _tag: "system" }, start, last, one),
              ],
              { concurrency: "unbounded" },
            ),
            followers,
          );
          const [committed, kills, seen] = yield* Effect.all([writing, kill(one.kills), following], {
            concurrency: "unbounded",
          });
          for (const [i, ids] of [...committed, committed.flat()].entries()) {
            const arrived = seen[i] ?? [];
            assert.strictEqual(new Set(arrived).size, arrived.length, `round ${round}: something came twice`);
            assert.deepStrictEqual([...arrived].sort(), [...ids].sort(), `round ${round}: something is missing`);
          }
          letters += committed.flat().length;
          killed += kills;
        }
        console.log(`changes: ${letters} letters to 3 followers, ${killed} connections killed`);
        assert.isAbove(killed, total);
        // Each kill is a warning.
      }).pipe(Logger.withMinimumLogLevel(LogLevel.Error)),
    // With room for other files' transactions, which arrivals wait for.
    rounds(2_400_000, 600_000),
  );
});
