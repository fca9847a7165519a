/**
 * What goes over the wire between a client and its server, by count: a TCP proxy that reads PostgreSQL's protocol as far as to tell
 * messages apart. Without TLS.
 *
 * A round trip is a flight of the client's messages up to the server's ReadyForQuery: messages that are sent before the answers to
 * earlier ones have come are part of the same flight. What a client says while it connects is not counted.
 */
import * as net from "node:net";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";

/** What an effect sent. */
export interface Sent {
  /** Statements, without those that begin, set up and end transactions and savepoints. */
  readonly statements: number;
  /** Messages of the protocol, those of transactions included. */
  readonly messages: number;
  /** All round trips. */
  readonly roundTrips: number;
  /** Round trips that did nothing but begin and end transactions and savepoints: what a scope costs. */
  readonly ofTransactions: number;
}

export interface Wire {
  /** The URL of the server with this wire's address in it. */
  readonly url: Redacted.Redacted;
  /** Runs an effect and returns what was sent meanwhile, and the texts of all statements. */
  readonly counted: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
  ) => Effect.Effect<
    {
      readonly result: A;
      readonly sent: Sent;
      readonly texts: ReadonlyArray<string>;
      readonly notices: ReadonlyArray<string>;
    },
    E,
    R
  >;
}

/** Parts of a direction's stream into messages: a type byte, then a length that counts itself. Bodies are gathered where they are read. */
const messages = (
  isClient: boolean,
  isRead: (type: string) => boolean,
  onMessage: (type: string, body: Buffer) => void,
) => {
  const head = Buffer.alloc(5);
  let headLength = 0;
  // The client's first message has no type.
  let isStartup = isClient;
  let type = "";
  let left = 0;
  let parts: Array<Buffer> = [];
  const end = () => {
    if (type !== "") onMessage(type, Buffer.concat(parts));
    parts = [];
    headLength = 0;
  };
  return (chunk: Buffer) => {
    let at = 0;
    while (at < chunk.length) {
      const size = isStartup ? 4 : 5;
      if (headLength < size) {
        const taken = Math.min(size - headLength, chunk.length - at);
        chunk.copy(head, headLength, at, at + taken);
        headLength += taken;
        at += taken;
        if (headLength < size) return;
        type = isStartup ? "" : String.fromCharCode(head[0] ?? 0);
        left = head.readInt32BE(size - 4) - 4;
        isStartup = false;
        // From here on a full head stands for a message that is under way.
        headLength = 5;
        if (left === 0) end();
        continue;
      }
      const taken = Math.min(left, chunk.length - at);
      if (isRead(type)) parts.push(chunk.subarray(at, at + taken));
      left -= taken;
      at += taken;
      if (left === 0) end();
    }
  };
};

const textUntilNul = (body: Buffer, from: number) => body.toString("utf8", from, body.indexOf(0, from));

/** The message of a notice: fields of a type byte and a text each. */
const noticeOf = (body: Buffer) => {
  for (let at = 0; at < body.length && body[at] !== 0; ) {
    const text = textUntilNul(body, at + 1);
    if (body[at] === 0x4d) return text;
    at += 2 + Buffer.byteLength(text);
  }
  return "";
};

const ofTransaction = /^\s*(?:BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET LOCAL|SELECT set_config)\b/;
const ofProtocol = new Set(["Q", "P", "B", "D", "E", "S", "C", "H", "F"]);

/** A wire to a server, closed with its scope. */
export const make = (server: Redacted.Redacted) =>
  Effect.gen(function* () {
    const { hostname, port: serverPort } = new URL(Redacted.value(server));
    let statements = 0;
    let sent = 0;
    let roundTrips = 0;
    let ofTransactions = 0;
    let texts: Array<string> = [];
    let notices: Array<string> = [];
    const sockets = new Set<net.Socket>();
    const listener = net.createServer((near) => {
      const far = net.connect({ host: hostname, port: Number(serverPort || 5432) });
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        sockets.add(one);
        one.setNoDelay(true);
        one.on("error", () => other.destroy());
        one.on("close", () => {
          sockets.delete(one);
          other.end();
        });
      }
      let unanswered = 0;
      let isUnderWay = false;
      let isPlain = true;
      const fromClient = messages(
        true,
        (type) => type === "Q" || type === "P",
        (type, body) => {
          if (!ofProtocol.has(type)) return;
          sent++;
          if (!isUnderWay) isPlain = true;
          isUnderWay = true;
          if (type === "Q" || type === "S") unanswered++;
          if (type !== "Q" && type !== "P") return;
          // A parse message begins with the name of the prepared statement.
          const text = textUntilNul(body, type === "Q" ? 0 : body.indexOf(0) + 1);
          texts.push(text);
          if (ofTransaction.test(text)) return;
          statements++;
          isPlain = false;
        },
      );
      const fromServer = messages(
        false,
        (type) => type === "N",
        (type, body) => {
          if (type === "N") notices.push(noticeOf(body));
          // The first one ends the connecting.
          if (type !== "Z" || unanswered === 0) return;
          if (--unanswered > 0) return;
          roundTrips++;
          if (isPlain) ofTransactions++;
          isUnderWay = false;
        },
      );
      near.on("data", (chunk) => {
        fromClient(chunk);
        far.write(chunk);
      });
      far.on("data", (chunk) => {
        fromServer(chunk);
        near.write(chunk);
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
          for (const socket of sockets) socket.destroy();
          listener.close(() => resume(Effect.void));
        }),
    );
    const url = new URL(Redacted.value(server));
    url.hostname = "127.0.0.1";
    url.port = String(port);
    const wire: Wire = {
      url: Redacted.make(url.href),
      counted: (effect) =>
        Effect.suspend(() => {
          statements = 0;
          sent = 0;
          roundTrips = 0;
          ofTransactions = 0;
          texts = [];
          notices = [];
          return Effect.map(effect, (result) => ({
            result,
            sent: { statements, messages: sent, roundTrips, ofTransactions },
            texts,
            notices,
          }));
        }),
    };
    return wire;
  });
