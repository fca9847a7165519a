/** `dlq console`: serves the console and the HTTP API until Ctrl-C. */
import { readFile } from "node:fs/promises";
import * as Command from "@effect/cli/Command";
import * as Options from "@effect/cli/Options";
import * as HttpServer from "@effect/platform/HttpServer";
import * as Config from "effect/Config";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import { parse, TokensInvalid } from "./access.js";
import { Failed, WrongUsage } from "./failure.js";
import { layerDatabase } from "./options.js";
import { note } from "./output.js";

const grantsOf = (file: Option.Option<string>) =>
  Effect.gen(function* () {
    if (Option.isSome(file)) {
      const text = yield* Effect.tryPromise({
        try: () => readFile(file.value, "utf8"),
        catch: (error) => new TokensInvalid({ source: file.value, problem: String(error) }),
      });
      return yield* parse(file.value, text);
    }
    // One that is empty is a secret that was not there: open to everybody is not what was meant.
    const text = yield* Config.option(Config.string("DLQ_TOKENS"));
    return Option.isSome(text) ? yield* parse("DLQ_TOKENS", text.value) : undefined;
  });

const isPort = (port: number) => port >= 0 && port <= 65_535;

export const console = Command.make(
  "console",
  {
    host: Options.text("host").pipe(
      Options.withDefault("127.0.0.1"),
      Options.withDescription("Where it listens; another address than this machine's own needs tokens"),
    ),
    port: Options.integer("port").pipe(
      Options.withDefault(4480),
      Options.filterMap(
        (port) => (isPort(port) ? Option.some(port) : Option.none()),
        "--port must be from 0 (any free one) to 65535",
      ),
      Options.withDescription("Default 4480; 0 is any free one"),
    ),
    tokens: Options.text("tokens").pipe(
      Options.withFallbackConfig(Config.nonEmptyString("DLQ_TOKENS_FILE")),
      Options.optional,
      Options.withDescription("The file of tokens (DLQ_TOKENS_FILE; or the list itself in DLQ_TOKENS); see dlq token"),
    ),
  },
  ({ host, port, tokens }) =>
    Effect.gen(function* () {
      const grants = yield* grantsOf(tokens);
      // The other commands start without it.
      const Server = yield* Effect.promise(() => import("./http/server.js"));
      if (grants === undefined && !Server.isLoopback(host)) {
        return yield* new WrongUsage({
          problem: `--host ${host} can be reached from elsewhere, and there are no tokens: say --tokens. dlq token makes one.`,
        });
      }
      const pages = yield* Server.findPages;
      const served = Server.layer({ grants, host, port, pages });
      return yield* Effect.scoped(
        Effect.gen(function* () {
          const context = yield* Layer.build(served).pipe(
            Effect.catchTag(
              "ServeError",
              ({ cause }) => new Failed({ reason: `It cannot listen at ${host}:${port}: ${String(cause)}` }),
            ),
          );
          const { address } = yield* Effect.provide(HttpServer.HttpServer, context);
          const at = address._tag === "TcpAddress" ? address.port : port;
          const name = host.includes(":") ? `[${host}]` : host;
          yield* note(
            pages === undefined
              ? "The console's pages were not built, so there is only the API; npm run build makes them."
              : `The console is at http://${name}:${at}`,
          );
          yield* note(`The API is at http://${name}:${at}/api/v1, documented at http://${name}:${at}/api/v1/docs.`);
          yield* note(
            grants === undefined
              ? "There are no tokens: it answers to this machine only, and whoever asks here is an administrator of every tenant."
              : `${grants.length} ${grants.length === 1 ? "token is" : "tokens are"} known.`,
          );
          return yield* Effect.never;
        }),
      );
    }).pipe(Effect.provide(layerDatabase)),
).pipe(Command.withDescription("Serve the console, a web page, and the HTTP API, until Ctrl-C"));
