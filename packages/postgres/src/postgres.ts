/**
 * Where a PostgreSQL 18 comes from: `DATABASE_URL` if it is set, else Docker through Testcontainers when an engine answers,
 * else an embedded server. `POSTGRES_PROVIDER=url|testcontainers|embedded` forces one.
 *
 * Contract: a server that was started here has a free port (an embedded one of the loopback interface only; a container's is
 * published as the engine is set up to), a random password, and is gone with its scope: process, container and temporary
 * folder. It is gone as well when this process dies by any means, kill -9 included, because a keeper process owns it and ends
 * when the pipe to this one closes.
 */
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as Config from "effect/Config";
import * as ConfigError from "effect/ConfigError";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as ExecutionStrategy from "effect/ExecutionStrategy";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Scope from "effect/Scope";
import { PostgresUnavailable, Provider } from "./errors.js";
import * as Child from "./internal/child.js";
import { type KeeperInput, KeeperOutput } from "./internal/protocol.js";
import { requireVersion } from "./version.js";

export { PostgresUnavailable, Provider } from "./errors.js";

/** A server that answers. `version` as it says itself, for example `18.4`. */
export interface Server {
  readonly url: Redacted.Redacted;
  readonly provider: Provider;
  readonly version: string;
}

export interface Options {
  /** Forces a provider. Default: the first that there is, in the order url, testcontainers, embedded. */
  readonly provider?: Provider | undefined;
  /** The server to use instead of starting one; needed by the provider `url`, ignored by the two others when forced. */
  readonly url?: Redacted.Redacted | undefined;
  /**
   * A folder for the data of the embedded server, made if need be and kept; without a URL it makes `embedded` the first choice.
   * Data in it is durable. Default: a temporary folder, removed with the scope, and `fsync` off.
   */
  readonly dataDirectory?: string | undefined;
  /** Server settings beside the defaults, by name (`{ max_connections: "300" }`). Not for the provider `url`. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

const fromUrl = (url: Redacted.Redacted) =>
  Effect.map(requireVersion("url", url), (version): Server => ({ url, provider: "url", version }));

// In the workspace the keeper is a TypeScript source, in the published package it is JavaScript.
const keeperCommand = (): ReadonlyArray<string> => {
  const isSource = import.meta.url.endsWith(".ts");
  const keeper = fileURLToPath(new URL(isSource ? "./keeper.ts" : "./keeper.js", import.meta.url));
  return isSource ? ["--import", pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href, keeper] : [keeper];
};

const decodeOutput = S.decodeUnknown(S.parseJson(KeeperOutput));

const silentKeeper = (problem: string) =>
  new PostgresUnavailable({
    provider: "keeper",
    problem,
    remedy: "This is a fault of @parametric-portal/postgres; set DATABASE_URL to go without it",
  });

const startKeeper = (input: KeeperInput) =>
  Child.start(
    () =>
      spawn(process.execPath, [...keeperCommand(), JSON.stringify(input)], {
        stdio: ["pipe", "pipe", "inherit"],
        // A session of its own, so that a terminal's Ctrl-C reaches us and not the server before us.
        detached: true,
        env: { ...process.env, NODE_OPTIONS: "" },
      }),
    // A keeper that is gone early closes the pipe; that is told by its end, not by an uncaught error here.
    ({ stdin }) => stdin.on("error", () => undefined),
  ).pipe(Effect.mapError(({ message }) => silentKeeper(`the keeper cannot be started: ${message}`)));

/** What was acquired is released before a failure is told, not with the caller's scope, which may live on. */
const nothingAfterFailure = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.gen(function* () {
    const scope = yield* Effect.flatMap(Effect.scope, (outer) => Scope.fork(outer, ExecutionStrategy.sequential));
    return yield* Effect.onError(Scope.extend(effect, scope), (cause) => Scope.close(scope, Exit.failCause(cause)));
  });

const fromKeeper = (input: KeeperInput): Effect.Effect<Server, PostgresUnavailable, Scope.Scope> =>
  Effect.gen(function* () {
    const keeper = yield* Effect.acquireRelease(startKeeper(input), (started) =>
      Effect.zipRight(
        Effect.sync(() => {
          started.process.ref();
          started.process.stdin.end();
        }),
        started.ended,
      ),
    );
    const { process: child } = keeper;
    let text = "";
    const answered = Effect.async<void>((resume) => {
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
        if (text.includes("\n")) resume(Effect.void);
      });
    });
    const ending = yield* Effect.raceFirst(answered, keeper.ended);
    const [line, complete] = text.split("\n");
    if (line === undefined || complete === undefined) {
      return yield* silentKeeper(`the keeper ended without an answer: ${ending}`);
    }
    // Neither the child nor its pipes shall keep a process alive that has nothing else to do.
    child.unref();
    for (const pipe of [child.stdin, child.stdout]) {
      if ("unref" in pipe && typeof pipe.unref === "function") pipe.unref();
    }
    const answer = yield* Effect.mapError(decodeOutput(line), () =>
      silentKeeper("the keeper's answer is not readable"),
    );
    if (answer._tag === "failed") return yield* new PostgresUnavailable(answer);
    const url = Redacted.make(answer.url);
    const version = yield* requireVersion(answer.provider, url);
    return { url, provider: answer.provider, version };
  }).pipe(nothingAfterFailure);

/** Finds or starts a server; see the module. Fails with `PostgresUnavailable`, which says what to do. */
export const make = (options: Options = {}): Effect.Effect<Server, PostgresUnavailable, Scope.Scope> => {
  const { dataDirectory, provider, settings = {}, url } = options;
  if (url !== undefined && (provider === undefined || provider === "url")) return fromUrl(url);
  if (provider === "url") {
    return new PostgresUnavailable({
      provider,
      problem: "DATABASE_URL is not set",
      remedy: "Set it, or unset POSTGRES_PROVIDER",
    });
  }
  if (provider === "testcontainers" && dataDirectory !== undefined) {
    return new PostgresUnavailable({
      provider,
      problem: "a container keeps no data in a folder",
      remedy: "Leave out dataDirectory, or force the provider embedded",
    });
  }
  return fromKeeper({ provider: provider ?? null, dataDirectory: dataDirectory ?? null, settings });
};

const isProvider = S.is(Provider);

const forced = Config.mapOrFail(Config.option(Config.string("POSTGRES_PROVIDER")), (given) => {
  const name = Option.getOrElse(given, () => "").trim();
  if (name === "") return Either.right(Option.none<Provider>());
  if (isProvider(name)) return Either.right(Option.some(name));
  const problem = `is ${JSON.stringify(name)}; it must be one of ${Provider.literals.join(", ")}, or unset`;
  return Either.left(ConfigError.InvalidData(["POSTGRES_PROVIDER"], problem));
});

/** `DATABASE_URL` and `POSTGRES_PROVIDER`. An empty one counts as absent. */
export const config: Config.Config<Pick<Options, "provider" | "url">> = Config.all({
  provider: forced,
  url: Config.option(Config.redacted("DATABASE_URL")),
}).pipe(
  Config.map(({ provider, url }) => ({
    provider: Option.getOrUndefined(provider),
    url: Option.getOrUndefined(Option.filter(url, (_) => Redacted.value(_).trim() !== "")),
  })),
);

/** {@link make} with provider and URL from the environment. */
export const makeConfig = (
  options: Omit<Options, "provider" | "url"> = {},
): Effect.Effect<Server, PostgresUnavailable | ConfigError.ConfigError, Scope.Scope> =>
  Effect.flatMap(config, (fromEnvironment) => make({ ...options, ...fromEnvironment }));

/** The server of an application, as a service. */
export class Postgres extends Context.Tag("@parametric-portal/postgres/Postgres")<Postgres, Server>() {}

export const layer = (options?: Options): Layer.Layer<Postgres, PostgresUnavailable> =>
  Layer.scoped(Postgres, make(options));

/** {@link layer} with provider and URL from the environment. */
export const layerConfig = (
  options?: Omit<Options, "provider" | "url">,
): Layer.Layer<Postgres, PostgresUnavailable | ConfigError.ConfigError> => Layer.scoped(Postgres, makeConfig(options));
