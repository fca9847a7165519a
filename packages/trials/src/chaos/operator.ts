/**
 * Those who work on the dead letters: `node --import tsx operator.ts '{"name":…,"work":"operate"|"retain",…}'` with DATABASE_URL.
 *
 * What fails is told as `{"failed":"53300"}` and done again later; a defect is told as `{"defect":…}`.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Cause from "effect/Cause";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import * as LogLevel from "effect/LogLevel";
import * as Random from "effect/Random";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { Refused } from "./kinds.js";

const Task = S.Struct({
  name: S.String,
  work: S.Literal("operate", "retain"),
  seed: S.Int,
  appIds: S.Array(S.UUID),
});

const ids = (letters: ReadonlyArray<{ readonly id: string }>) => letters.map(({ id }) => id);

/** What a person does, in a tenant's scope or over all. */
const operations = (actor: string) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const sql = yield* SqlClient.SqlClient;
    const tenant = (appId: string) => ({ _tag: "tenant", appId }) as const;
    const reason = "nobody needs it";
    return {
      replay: (appId: string) =>
        Stream.runDrain(db.jobDlq.replay({ type: { prefix: "chaos.d" } }, { actor, scope: tenant(appId), limit: 40 })),
      "replay everywhere": () =>
        Effect.forEach(["MaxRetries", "RunnerUnavailable"], (reason) =>
          Stream.runDrain(db.jobDlq.replay({ reason }, { actor, scope: { _tag: "system" }, limit: 60, batchSize: 20 })),
        ),
      "replay by ids": (appId: string) =>
        Effect.gen(function* () {
          const letters = yield* Client.tenant(appId)(db.jobDlq.listPending({ limit: 12 }));
          yield* Client.tenant(appId)(db.jobDlq.replay(ids(letters), { actor }));
        }),
      discard: (appId: string) =>
        Stream.runDrain(
          db.jobDlq.discard({ type: Refused.name }, { actor, reason, scope: tenant(appId), limit: 15, batchSize: 5 }),
        ),
      "discard by ids": (appId: string) =>
        Client.tenant(appId)(
          Effect.flatMap(db.jobDlq.listPending({ limit: 4 }), (letters) =>
            db.jobDlq.discard(ids(letters), { actor, reason }),
          ),
        ),
      restore: (appId: string) =>
        Client.tenant(appId)(
          Effect.flatMap(db.jobDlq.events({ kind: "discarded", limit: 3 }), ({ items }) =>
            db.jobDlq.restore(ids(items), { actor }),
          ),
        ),
      look: (appId: string) =>
        Client.tenant(appId)(
          Effect.gen(function* () {
            yield* db.jobDlq.preview({});
            yield* db.jobDlq.groups({});
            // Larger than what it may sort in memory.
            yield* sql`SELECT count(*) FROM (SELECT payload::text || id::text AS text FROM jobs ORDER BY 1 OFFSET 1) sorted`;
          }),
        ),
      "look for others": (appId: string) =>
        Client.tenant(appId)(sql`
          INSERT INTO looks (who, own_rows, foreign_rows)
          SELECT ${actor}, count(*) FILTER (WHERE app_id = ${appId}), count(*) FILTER (WHERE app_id <> ${appId})
          FROM (
            SELECT app_id FROM jobs UNION ALL SELECT app_id FROM job_dlq UNION ALL SELECT app_id FROM job_dlq_events
            UNION ALL SELECT app_id FROM effects UNION ALL SELECT id FROM apps) seen`),
    };
  });

const retentions = (actor: string) =>
  Effect.map(DatabaseService, ({ jobDlq, jobs }) => ({
    replayed: () => jobDlq.retain({ replayed: 0 }, { actor, scope: { _tag: "system" }, batchSize: 50 }),
    discarded: () => jobDlq.retain({ discarded: 0 }, { actor, scope: { _tag: "system" }, batchSize: 20 }),
    jobs: () => Client.system(jobs.purge(0)),
  }));

const sqlState = S.decodeUnknownEither(S.Struct({ cause: S.Struct({ code: S.String }) }));
const driver = S.decodeUnknownEither(S.Struct({ cause: S.Struct({ cause: S.Struct({ code: S.String }) }) }));
const words = S.decodeUnknownEither(S.Struct({ cause: S.Struct({ message: S.String }) }));
const Tagged = S.decodeUnknownEither(S.Struct({ _tag: S.String }));
/** The SQLSTATE or the system's code, else what there is. */
const nameOf = (error: unknown): string =>
  sqlState(error).pipe(
    Either.map(({ cause }) => cause.code),
    Either.orElse(() => Either.map(driver(error), ({ cause }) => cause.cause.code)),
    Either.orElse(() => Either.map(words(error), ({ cause }) => cause.message)),
    Either.orElse(() => Either.map(Tagged(error), ({ _tag }) => _tag)),
    Either.getOrElse(() => String(error)),
  );

const tell = (what: object) => Console.log(JSON.stringify(what));

/** A connection may be deaf: nobody waits for ever. */
const attempted = <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) =>
  effect.pipe(
    Effect.disconnect,
    Effect.timeoutFail({ duration: "15 seconds", onTimeout: () => ({ _tag: "no answer" }) }),
    Effect.matchCauseEffect({
      onSuccess: () => tell({ done: name }),
      onFailure: (cause) => {
        if (Cause.isInterruptedOnly(cause)) return Effect.interrupt;
        const failure = Cause.failureOption(cause);
        return failure._tag === "Some"
          ? tell({ failed: nameOf(failure.value), name })
          : tell({ defect: Cause.pretty(cause), name });
      },
    }),
  );

const main = Effect.gen(function* () {
  const { appIds, name, seed, work } = yield* S.decodeUnknown(S.parseJson(Task))(process.argv[2]);
  const all: ReadonlyArray<readonly [string, (appId: string) => Effect.Effect<unknown, unknown, SqlClient.SqlClient>]> =
    Object.entries(work === "operate" ? yield* operations(name) : yield* retentions(name));
  yield* tell({ ready: true });
  return yield* Effect.gen(function* () {
    const [what, operation] = all[yield* Random.nextIntBetween(0, all.length)] ?? (yield* Effect.dieMessage("nothing"));
    const appId = appIds[yield* Random.nextIntBetween(0, appIds.length)] ?? "";
    yield* attempted(what, operation(appId));
    yield* Effect.sleep(work === "operate" ? "250 millis" : "1500 millis");
  }).pipe(Effect.forever, Effect.withRandom(Random.make(seed)));
});

NodeRuntime.runMain(
  Effect.provide(
    main,
    DatabaseService.layer.pipe(
      Layer.provideMerge(Client.layerConfig({ maxConnections: 4, applicationName: "chaos operator" })),
      Layer.merge(Logger.minimumLogLevel(LogLevel.Error)),
    ),
  ),
);
