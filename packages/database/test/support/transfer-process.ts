/**
 * A process of its own that exports to a file or imports from one, so that a test can give it little memory.
 *
 * `node --import tsx transfer-process.ts export|hoard|import|long <tenant> <file>`, with DATABASE_URL. `hoard` is the counter-test: it
 * exports, and keeps every line. `long` imports a line of 1 GB, then the beginning of the file.
 */
import * as FileSystem from "@effect/platform/FileSystem";
import * as NodeContext from "@effect/platform-node/NodeContext";
import * as NodeRuntime from "@effect/platform-node/NodeRuntime";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";

const [what, appId = "", file = ""] = process.argv.slice(2);
const scope = { _tag: "tenant", appId } as const;

const run = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const files = yield* FileSystem.FileSystem;
  const exported = db.jobDlq.exportTo({ all: true, state: "any" }, { scope });
  const long = Stream.repeatValue(new Uint8Array(2 ** 20).fill(0x78)).pipe(
    Stream.take(1024),
    Stream.concat(Stream.make("\n")),
  );
  const imported = (pieces: Stream.Stream<string | Uint8Array, unknown>) =>
    Effect.gen(function* () {
      const report = Option.getOrThrow(yield* Stream.runLast(db.jobDlq.importFrom(pieces, { actor: "test", scope })));
      yield* Console.log(JSON.stringify({ ...report, problems: undefined }));
    });
  switch (what) {
    case "export":
      return yield* Stream.run(Stream.encodeText(exported), files.sink(file));
    case "hoard":
      return yield* Effect.flatMap(Stream.runCollect(exported), (lines) => Console.log(lines.length));
    case "import":
      return yield* imported(files.stream(file));
    case "long":
      return yield* imported(Stream.concat(long, files.stream(file, { bytesToRead: 65_536 })));
    default:
      return yield* Effect.dieMessage(`unknown: ${what}`);
  }
});

NodeRuntime.runMain(
  run.pipe(
    Effect.provide(Layer.provideMerge(DatabaseService.layer, Client.layerConfig({ maxConnections: 2 }))),
    Effect.provide(NodeContext.layer),
  ),
);
