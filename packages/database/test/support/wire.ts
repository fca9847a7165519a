/**
 * The wire between a client and its server: a TCP proxy on a port that stays the same, which counts what goes over it.
 *
 * It reads PostgreSQL's protocol only as far as to tell statements (`Q` and `P`) from answers (`Z`, ready for the next one),
 * without TLS. The server behind it may come, go and come back on another port.
 */
import * as net from "node:net";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";

/** The messages of one direction: a type byte, then a length that counts itself. The client's first one has no type byte. */
const messages = (isClient: boolean, onMessage: (type: string, body: Buffer) => void) => {
  let rest = Buffer.alloc(0);
  let isStartup = isClient;
  return (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    for (;;) {
      const head = isStartup ? 0 : 1;
      if (rest.length < head + 4) return;
      const end = head + rest.readInt32BE(head);
      if (rest.length < end) return;
      if (!isStartup) onMessage(String.fromCharCode(rest[0] ?? 0), rest.subarray(5, end));
      isStartup = false;
      rest = rest.subarray(end);
    }
  };
};

const textUntilNul = (body: Buffer, from: number) => body.toString("utf8", from, body.indexOf(0, from));

export interface Wire {
  readonly port: number;
  /** The URL of a server with this wire's address in it. */
  readonly url: (server: Redacted.Redacted) => Redacted.Redacted;
  /** The server that new connections reach; none: they are accepted and cut at once. */
  readonly connectTo: (server: Redacted.Redacted | undefined) => void;
  /** From now on no answer passes, and nothing is cut: a server that hangs. */
  readonly mute: (isMuted: boolean) => void;
  /** Loses this statement of a client, the first that comes, and all that its connection says afterwards: nothing is cut. */
  readonly lose: (isIt: (statement: string, previous: string) => boolean) => void;
  /** Cuts every open connection on the client's side. */
  readonly cut: () => void;
  /** Waits until no connection is open, which is when each client has been told. */
  readonly closed: Effect.Effect<void>;
  /** The SQL that the client sent, oldest first. What it sent without waiting for an answer between is one text. */
  readonly sent: () => ReadonlyArray<string>;
  /** How often the server said that it is ready for the next message: the round trips. */
  readonly answers: () => number;
  /** Forgets what was counted. */
  readonly reset: () => void;
}

/** A wire, closed with its scope. */
export const make = (server?: Redacted.Redacted) =>
  Effect.gen(function* () {
    let target = server;
    let muted = false;
    let isLost: ((statement: string, previous: string) => boolean) | undefined;
    let sent: Array<string> = [];
    let answers = 0;
    const open = new Set<net.Socket>();
    const waiting = new Set<() => void>();
    const isClosed = () => {
      if (open.size > 0) return;
      for (const resume of waiting) resume();
      waiting.clear();
    };
    const listener = net.createServer((client) => {
      open.add(client);
      client
        .on("error", () => undefined)
        .on("close", () => {
          open.delete(client);
          isClosed();
        });
      if (target === undefined) return client.resetAndDestroy();
      const { hostname, port } = new URL(Redacted.value(target));
      const upstream = net.connect({ host: hostname, port: Number(port || 5432) });
      upstream.on("error", () => client.resetAndDestroy());
      upstream.on("close", () => client.end());
      client.on("close", () => upstream.destroy());
      let isDeaf = false;
      let previous = "";
      let parsed: Array<string> = [];
      const fromClient = messages(true, (type, body) => {
        if (type === "S") {
          if (parsed.length > 0) sent.push(parsed.join("; "));
          parsed = [];
        }
        if (type !== "Q" && type !== "P") return;
        // A parse message begins with the name of the prepared statement, which is empty here.
        const statement = textUntilNul(body, type === "Q" ? 0 : body.indexOf(0) + 1);
        if (type === "Q") sent.push(statement);
        else parsed.push(statement);
        if (isLost?.(statement, previous) === true) {
          isDeaf = true;
          isLost = undefined;
        }
        previous = statement;
      });
      const fromServer = messages(false, (type) => {
        if (type === "Z") answers++;
      });
      client.on("data", (chunk) => {
        fromClient(chunk);
        if (!isDeaf) upstream.write(chunk);
      });
      upstream.on("data", (chunk) => {
        fromServer(chunk);
        if (!muted) client.write(chunk);
      });
    });
    const port = yield* Effect.acquireRelease(
      Effect.async<number>((resume) => {
        listener.listen(0, "127.0.0.1", () => {
          const address = listener.address();
          resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0));
        });
      }),
      () =>
        Effect.async<void>((resume) => {
          for (const socket of open) socket.destroy();
          listener.close(() => resume(Effect.void));
        }),
    );
    const wire: Wire = {
      port,
      url: (of) => {
        const url = new URL(Redacted.value(of));
        url.hostname = "127.0.0.1";
        url.port = String(port);
        return Redacted.make(url.href);
      },
      connectTo: (next) => {
        target = next;
      },
      mute: (isMuted) => {
        muted = isMuted;
      },
      lose: (isIt) => {
        isLost = isIt;
      },
      cut: () => {
        for (const socket of open) socket.resetAndDestroy();
      },
      closed: Effect.async((resume) => {
        waiting.add(() => resume(Effect.void));
        isClosed();
      }),
      sent: () => sent,
      answers: () => answers,
      reset: () => {
        sent = [];
        answers = 0;
      },
    };
    return wire;
  });
