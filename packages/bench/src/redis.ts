/** A Redis for the one contestant that needs it: the `redis-server` of the machine, or none. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";

const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });

/** Appends every write to a file and syncs it once a second, as BullMQ's guide for production has it. */
export const settings = "append-only file, fsync every second";

/** Its URL; none when there is no redis-server. It is stopped with the scope, and its folder removed. */
export const start = Effect.acquireRelease(
  Effect.promise(async () => {
    const port = await freePort();
    const folder = mkdtempSync(join(tmpdir(), "bench-redis-"));
    const flags = ["--port", `${port}`, "--bind", "127.0.0.1", "--dir", folder, "--save", ""];
    const durable = ["--appendonly", "yes", "--appendfsync", "everysec"];
    const server = spawn("redis-server", [...flags, ...durable], { stdio: ["ignore", "pipe", "inherit"] });
    const ready = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.once("exit", () => resolve(false));
      server.stdout.on("data", (text: Buffer) => {
        if (text.includes("Ready to accept connections")) resolve(true);
      });
    });
    return { server, folder, url: ready ? Option.some(`redis://127.0.0.1:${port}`) : Option.none<string>() };
  }),
  ({ folder, server, url }) =>
    Effect.promise(async () => {
      if (Option.isSome(url)) {
        const ended = new Promise((resolve) => server.once("exit", resolve));
        server.kill("SIGTERM");
        await ended;
      }
      rmSync(folder, { recursive: true, force: true });
    }),
).pipe(Effect.map(({ url }) => url));
