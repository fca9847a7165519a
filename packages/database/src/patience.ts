/** A socket that gives up a server which was asked and says nothing: half-open, a connection would be waited for without an end. */
import * as net from "node:net";

/**
 * Cut by itself when nothing comes for so long after something was sent. An answer in pieces, and a server that is asked nothing,
 * may take their time. What is written inside TLS does not pass here, and is waited for.
 */
class ImpatientSocket extends net.Socket {
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly millis: number) {
    super();
    this.once("close", () => clearTimeout(this.timer));
  }

  private wait() {
    clearTimeout(this.timer);
    const late = () =>
      this.destroy(Object.assign(new Error(`the database said nothing for ${this.millis} ms`), { code: "ETIMEDOUT" }));
    this.timer = setTimeout(late, this.millis).unref();
  }

  override _write(...given: Parameters<net.Socket["_write"]>): void {
    this.wait();
    super._write(...given);
  }

  override _writev(...given: Parameters<NonNullable<net.Socket["_writev"]>>): void {
    this.wait();
    super._writev?.(...given);
  }

  override push(chunk: unknown, encoding?: BufferEncoding): boolean {
    clearTimeout(this.timer);
    return super.push(chunk, encoding);
  }
}

/** What makes the sockets of a client. */
export const sockets = (millis: number) => () => new ImpatientSocket(millis);
