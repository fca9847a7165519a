/** PostgreSQL 18 in a container, on whatever Docker-compatible engine answers. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { PostgreSqlContainer as Container } from "@testcontainers/postgresql";
import * as Effect from "effect/Effect";
import { PostgresUnavailable } from "./errors.js";
import type { KeeperInput } from "./internal/protocol.js";
import { ephemeral, newPassword } from "./internal/settings.js";

/** The image; its tag names the major version that is needed. */
export const image = "postgres:18-alpine";

/** Whether it is worth loading Testcontainers to ask for an engine, which takes most of a second. */
export const isEngineLikely = (): boolean =>
  process.platform === "win32" ||
  [process.env.DOCKER_HOST, process.env.TESTCONTAINERS_HOST_OVERRIDE].some((_) => _ !== undefined && _ !== "") ||
  [
    "/var/run/docker.sock",
    join(homedir(), ".testcontainers.properties"),
    join(homedir(), ".docker/run/docker.sock"),
    join(homedir(), ".docker/desktop/docker.sock"),
    join(process.env.XDG_RUNTIME_DIR ?? `/run/user/${process.getuid?.() ?? 0}`, "docker.sock"),
  ].some((path) => existsSync(path));

const unavailable = (problem: string, remedy: string) =>
  new PostgresUnavailable({ provider: "testcontainers", problem, remedy });

const requireEngine = Effect.tryPromise({
  try: async () => {
    const { getContainerRuntimeClient } = await import("testcontainers");
    await getContainerRuntimeClient();
  },
  catch: (error) =>
    unavailable(
      `no container engine answers (${error instanceof Error ? error.message : String(error)})`,
      "Start Docker, or set DOCKER_HOST to its socket, or unset POSTGRES_PROVIDER",
    ),
});

/** Starts a container; it is stopped and removed with the scope. */
export const startContainer = ({ settings }: Pick<KeeperInput, "settings">) =>
  Effect.gen(function* () {
    yield* requireEngine;
    const container = yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: async () => {
          const { PostgreSqlContainer } = await import("@testcontainers/postgresql");
          const command = Object.entries({ ...ephemeral, ...settings }).flatMap(([name, value]) => [
            "-c",
            `${name}=${value}`,
          ]);
          const configured: Container = new PostgreSqlContainer(image)
            .withUsername("postgres")
            .withPassword(newPassword())
            .withDatabase("postgres")
            .withCommand(["postgres", ...command]);
          return configured.start();
        },
        catch: (error) =>
          unavailable(
            `the container of ${image} did not start: ${error instanceof Error ? error.message : String(error)}`,
            `Try docker run --rm ${image}, or set POSTGRES_PROVIDER=embedded`,
          ),
      }),
      (started) => Effect.orDie(Effect.tryPromise(() => started.stop({ remove: true, removeVolumes: true }))),
    );
    return { provider: "testcontainers" as const, url: container.getConnectionUri() };
  });
