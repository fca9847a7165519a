/** PostgreSQL 18 in a container, on whatever Docker-compatible engine answers. */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import * as Effect from "effect/Effect";
import { PostgresUnavailable } from "./errors.js";
import type { KeeperInput } from "./internal/protocol.js";
import { ephemeral, newPassword } from "./internal/settings.js";

/** The image; its tag names the major version that is needed. */
export const image = "postgres:18-alpine";

const socketPaths = (): ReadonlyArray<string> => {
  const { XDG_RUNTIME_DIR } = process.env;
  return [
    "/var/run/docker.sock",
    ...(XDG_RUNTIME_DIR === undefined ? [] : [join(XDG_RUNTIME_DIR, "docker.sock")]),
    join(homedir(), ".docker/run/docker.sock"),
    join(homedir(), ".docker/desktop/docker.sock"),
    `/run/user/${process.getuid?.() ?? 0}/docker.sock`,
  ];
};

/** Whether it is worth loading Testcontainers to ask for an engine, which takes most of a second: where it would look. */
export const isEngineLikely = (): boolean =>
  process.platform === "win32" ||
  (process.env.DOCKER_HOST ?? "") !== "" ||
  [...socketPaths(), join(homedir(), ".testcontainers.properties")].some((path) => existsSync(path));

const messageOf = (error: unknown) => (error instanceof Error ? error.message.trim() : String(error));

const noEngine = (problem: string) =>
  new PostgresUnavailable({
    provider: "testcontainers",
    problem: `no container engine answers (${problem})`,
    remedy: "Start Docker, or set DOCKER_HOST to its socket, or unset POSTGRES_PROVIDER",
  });

const noContainer = (problem: string) =>
  new PostgresUnavailable({
    provider: "testcontainers",
    problem,
    remedy: `Try docker run --rm -e POSTGRES_PASSWORD=x ${image}, or set POSTGRES_PROVIDER=embedded`,
  });

const engine = Effect.tryPromise({
  try: async () => (await import("testcontainers")).getContainerRuntimeClient(),
  catch: (error) => noEngine(messageOf(error)),
}).pipe(
  // A host that drops packets answers after minutes.
  Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => noEngine("nothing for 20 seconds") }),
);

/** Starts a container; it is removed with the scope, also when it is still being started. */
export const startContainer = ({ settings }: Pick<KeeperInput, "settings">) =>
  Effect.gen(function* () {
    const client = yield* engine;
    // The long part, and one that can be given up: nothing of it is ours to take away.
    yield* Effect.tryPromise({
      try: async () => {
        const name = (await import("testcontainers")).ImageName.fromString(image);
        if (await client.image.exists(name)) return;
        process.stderr.write(`> pulling ${image}\n`);
        await client.image.pull(name);
      },
      catch: (error) => noContainer(`the image ${image} cannot be had: ${messageOf(error)}`),
    });
    const name = `portal-postgres-${randomBytes(8).toString("hex")}`;
    let log = "";
    // Ends when the container has ended, and before that only for want of time: one that is not well yet goes on.
    const hear = async (container: { readonly id: string }) => {
      const stream = await client.container.logs(client.container.getById(container.id));
      let said = "";
      stream.on("data", (text) => {
        said = `${said}${text}`.slice(-1000);
      });
      await finished(stream, { signal: AbortSignal.timeout(2000) }).catch(() => undefined);
      stream.destroy();
      log = said.trim();
    };
    const { started } = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        const { PostgreSqlContainer } = await import("@testcontainers/postgresql");
        const { Wait } = await import("testcontainers");
        const strategy = Wait.forAll([Wait.forHealthCheck(), Wait.forListeningPorts()]);
        const ready = strategy.waitUntilReady.bind(strategy);
        // A container that fails here is removed as soon as this has failed, and its words with it.
        strategy.waitUntilReady = (container, ...rest) =>
          ready(container, ...rest).catch(async (error) => {
            await hear(container).catch(() => undefined);
            throw error;
          });
        const flags = Object.entries({ ...ephemeral, ...settings }).flatMap(([key, value]) => [
          "-c",
          `${key}=${value}`,
        ]);
        const configured = new PostgreSqlContainer(image)
          .withName(name)
          .withUsername("postgres")
          .withPassword(newPassword())
          .withDatabase("postgres")
          .withCommand(["postgres", ...flags])
          .withWaitStrategy(strategy);
        const started = configured.start();
        // Told to whoever waits for it below, who may be gone before.
        started.catch(() => undefined);
        return { started };
      }),
      ({ started }) =>
        Effect.tryPromise(async () => {
          const remove = (): Promise<boolean> =>
            client.container
              .getById(name)
              .remove({ force: true, v: true })
              .then(
                () => true,
                (error: { readonly statusCode?: number }) => {
                  if (error.statusCode === 404) return false;
                  throw error;
                },
              );
          const settled = started.then(
            () => true,
            () => true,
          );
          const later = () => new Promise<boolean>((resume) => setTimeout(() => resume(false), 200));
          // Given up while it starts: the engine may be about to make it.
          for (;;) {
            const isLast = await Promise.race([settled, later()]);
            if ((await remove()) || isLast) return;
          }
        }).pipe(
          Effect.interruptible,
          Effect.timeout("60 seconds"),
          Effect.catchAll((error) =>
            Effect.sync(() =>
              process.stderr.write(`> the container ${name} could not be removed: ${messageOf(error)}\n`),
            ),
          ),
        ),
    );
    // One that ended before its ports were known is still there.
    const words = Effect.tryPromise(async () => {
      if (log === "") await hear({ id: name });
    }).pipe(Effect.timeout("5 seconds"), Effect.ignore);
    const container = yield* Effect.tryPromise({ try: () => started, catch: messageOf }).pipe(
      Effect.tapError(() => words),
      Effect.mapError((problem) => noContainer(`the container of ${image} did not start: ${problem}; it said: ${log}`)),
    );
    return { provider: "testcontainers" as const, url: container.getConnectionUri() };
  });
