/** A TCP proxy before a server, for what networks do: it can go deaf on one connection without closing it, and its server can move. */
import * as Net from "node:net";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";

export interface Proxy {
  /** The server's URL by way of the proxy; it stays the same when the server moves. */
  readonly url: Redacted.Redacted;
  /** Passes nothing on any more, in either direction, on the connection that the server sees from this port. */
  readonly deafen: (port: number) => void;
  /** What the server sees as the ports of the connections that are open and heard. */
  readonly heard: () => ReadonlyArray<number>;
  /** Ends every open connection, on both sides. */
  readonly cut: () => void;
  /** New connections go to this server. */
  readonly moveTo: (server: Redacted.Redacted) => void;
}

export const make = (server: Redacted.Redacted) =>
  Effect.gen(function* () {
    let target = new URL(Redacted.value(server));
    const open = new Map<number, () => void>();
    const sockets = new Set<Net.Socket>();
    const listener = yield* Effect.acquireRelease(
      Effect.async<Net.Server>((resume) => {
        const proxy = Net.createServer((near) => {
          const far = Net.connect(Number(target.port), target.hostname);
          for (const [one, other] of [
            [near, far],
            [far, near],
          ] as const) {
            sockets.add(one);
            one.pipe(other);
            one.on("error", () => other.destroy());
            one.on("close", () => {
              sockets.delete(one);
              other.destroy();
            });
          }
          far.once("connect", () => {
            const port = far.localPort ?? 0;
            open.set(port, () => {
              near.unpipe(far);
              far.unpipe(near);
              far.pause();
            });
            far.once("close", () => open.delete(port));
          });
        });
        proxy.listen(0, "127.0.0.1", () => resume(Effect.succeed(proxy)));
      }),
      (proxy) =>
        Effect.sync(() => {
          for (const socket of sockets) socket.destroy();
          proxy.close();
        }),
    );
    const address = listener.address();
    const through = new URL(target.href);
    through.hostname = "127.0.0.1";
    through.port = String(typeof address === "object" ? address?.port : "");
    const proxy: Proxy = {
      url: Redacted.make(through.href),
      deafen: (port) => {
        open.get(port)?.();
        open.delete(port);
      },
      heard: () => [...open.keys()],
      cut: () => {
        for (const socket of sockets) socket.resetAndDestroy();
      },
      moveTo: (other) => {
        target = new URL(Redacted.value(other));
      },
    };
    return proxy;
  });
