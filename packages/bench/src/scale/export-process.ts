/** Exports all pending dead letters of all tenants to nowhere, and says how long that took and how much memory. */
import { createWriteStream } from "node:fs";
import * as NodeSink from "@effect/platform-node/NodeSink";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Chunk from "effect/Chunk";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import * as Stream from "effect/Stream";

const url = Redacted.make(process.argv[2] ?? "");

const main = Effect.gen(function* () {
  const db = yield* DatabaseService;
  let letters = 0;
  let megabytes = 0;
  const look = () => {
    megabytes = Math.max(megabytes, process.memoryUsage.rss() / 1e6);
  };
  const looking = setInterval(look, 20);
  const began = performance.now();
  yield* db.jobDlq.exportTo({ all: true }, { scope: { _tag: "system" } }).pipe(
    Stream.mapChunks((lines) => {
      letters += lines.length;
      return Chunk.of(Chunk.join(lines, ""));
    }),
    Stream.run(NodeSink.fromWritable(() => createWriteStream("/dev/null"), String)),
  );
  const seconds = (performance.now() - began) / 1000;
  clearInterval(looking);
  look();
  process.send?.({ letters, seconds, megabytes });
});

Effect.runPromise(
  Effect.provide(main, Layer.provideMerge(DatabaseService.layer, Client.layer({ url, maxConnections: 2 }))),
).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
