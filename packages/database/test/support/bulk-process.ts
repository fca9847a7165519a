/**
 * A process of its own that works through dead letters in bulk, so that a test can kill it.
 *
 * `node --import tsx bulk-process.ts '{"work":"replay",…}'` with DATABASE_URL. It prints a JSON line after each batch that is
 * committed, and `{"done":true}` at its end.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";

/** What to do, to which dead letters (by the prefix of their type), as whom. */
const Task = S.Struct({
  work: S.Literal("replay", "discard", "retain"),
  prefix: S.String,
  actor: S.String,
  batchSize: S.Int,
  /** A tenant's scope; null: the system's. */
  appId: S.NullOr(S.String),
  /** `retain` only: one of its kinds, with its days. */
  policy: S.Struct({ replayed: S.optional(S.Int), pending: S.optional(S.Int), discarded: S.optional(S.Int) }),
});
export type Task = typeof Task.Type;

const run = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const task = yield* S.decodeUnknown(S.parseJson(Task))(process.argv[2]);
  const { actor, batchSize } = task;
  const scope = task.appId === null ? ({ _tag: "system" } as const) : ({ _tag: "tenant", appId: task.appId } as const);
  const filter = { type: { prefix: task.prefix } };
  const tell = ({ asked }: { readonly asked: number }) => Console.log(JSON.stringify({ asked }));
  switch (task.work) {
    case "replay":
      yield* Stream.runForEach(db.jobDlq.replay(filter, { actor, scope, batchSize }), tell);
      break;
    case "discard":
      yield* Stream.runForEach(db.jobDlq.discard(filter, { actor, reason: "crash", scope, batchSize }), tell);
      break;
    case "retain":
      yield* db.jobDlq.retain(task.policy, { actor, scope, batchSize });
  }
  yield* Console.log(JSON.stringify({ done: true }));
});

NodeRuntime.runMain(
  run.pipe(
    Effect.provide(
      Layer.provideMerge(
        DatabaseService.layer,
        Client.layerConfig({ maxConnections: 2, applicationName: "bulk-process" }),
      ),
    ),
  ),
);
