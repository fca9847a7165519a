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

// Who started us decides when we end. Ctrl-C and a service manager's TERM reach it as well.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);

const decodeInput = S.decodeUnknownSync(S.parseJson(KeeperInput));
const encodeOutput = S.encodeSync(S.parseJson(KeeperOutput));
const say = (output: KeeperOutput) => Effect.sync(() => process.stdout.write(`${encodeOutput(output)}\n`));

const warn = (error: PostgresUnavailable) =>
  Effect.sync(() => process.stderr.write(`${error.message}. Going on with an embedded server.\n`));

const start = (input: KeeperInput) => {
  switch (input.provider) {
    case "testcontainers":
      return startContainer(input);
    case "embedded":
      return startEmbedded(input);
    default:
      // An engine that answers but cannot have the image is no reason to go without a server.
      return isEngineLikely()
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
  // Starting is given up as well when nobody waits for it any more.
  yield* start(decodeInput(process.argv[2] ?? "")).pipe(
    Effect.flatMap((started) => say({ _tag: "started", ...started })),
    Effect.zipRight(Effect.never),
    Effect.raceFirst(gone),
  );
}).pipe(
  Effect.scoped,
  Effect.catchAll(({ problem, provider, remedy }) => say({ _tag: "failed", provider, problem, remedy })),
);

process.stdout.on("error", () => undefined);
const exit = await Effect.runPromiseExit(main);
if (Exit.isFailure(exit)) process.stderr.write(`${Cause.pretty(exit.cause)}\n`);
process.exit(Exit.isSuccess(exit) ? 0 : 1);
