/**
 * The process that owns a started server. It ends when its standard input does, whatever became of the process that started
 * it, and takes server, container and temporary folder with it.
 */
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as S from "effect/Schema";
import { isEngineLikely, startContainer } from "./container.js";
import { startEmbedded } from "./embedded.js";
import type { PostgresUnavailable } from "./errors.js";
import { KeeperInput, KeeperOutput } from "./internal/protocol.js";

// Who started us decides when we end. A service manager's TERM to the whole group reaches us before that one is done.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const) process.on(signal, () => undefined);
// Whoever read what we say may be gone before us.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
const complain = (text: string) => process.stderr.write(`${text}\n`);
// Nor may a stray error of a library part us from the server, which would then run for ever.
process.on("uncaughtException", (error) => complain(String(error.stack ?? error)));

const decodeInput = S.decodeUnknown(S.parseJson(KeeperInput));
const encodeOutput = S.encodeSync(S.parseJson(KeeperOutput));
const say = (output: KeeperOutput) => Effect.sync(() => process.stdout.write(`${encodeOutput(output)}\n`));

const warn = ({ problem }: PostgresUnavailable) =>
  Effect.sync(() => complain(`> not in a container: ${problem}; going on with an embedded server`));

const start = (input: KeeperInput) => {
  switch (input.provider) {
    case "testcontainers":
      return startContainer(input);
    case "embedded":
      return startEmbedded(input);
    default:
      // A folder for the data is the embedded server's. An engine that answers but cannot have the image is no reason to go without.
      return input.dataDirectory === null && isEngineLikely()
        ? Effect.catchAll(startContainer(input), (error) => Effect.zipRight(warn(error), startEmbedded(input)))
        : startEmbedded(input);
  }
};

const parentIsGone = Effect.async<void>((resume) => {
  process.stdin
    .on("end", () => resume(Effect.void))
    .on("error", () => resume(Effect.void))
    .resume();
});

const main = Effect.gen(function* () {
  const gone = yield* Effect.fork(parentIsGone);
  const input = yield* Effect.orDie(decodeInput(process.argv[2] ?? ""));
  // Starting is given up as well when nobody waits for it any more.
  yield* start(input).pipe(
    Effect.flatMap((started) => say({ _tag: "started", ...started })),
    Effect.zipRight(Effect.never),
    Effect.raceFirst(gone),
  );
}).pipe(
  Effect.scoped,
  Effect.catchAll(({ problem, provider, remedy }) => say({ _tag: "failed", provider, problem, remedy })),
);

const exit = await Effect.runPromiseExit(main);
if (Exit.isFailure(exit)) complain(Cause.pretty(exit.cause));
process.exit(Exit.isSuccess(exit) ? 0 : 1);
