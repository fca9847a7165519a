/**
 * The lines of a text that arrives in pieces of any size, gathered into batches of bounded size. Pure but for its own state.
 *
 * A piece may end anywhere: inside a line, inside a character, between the two halves of a surrogate pair. A line that is longer
 * than the bound is dropped while it comes in, so it costs no memory, and is named. Blank lines count, but are left out.
 */

/** Why a line could not be read. */
export type Unreadable = "too long" | "not UTF-8";

/** One line, by its number from 1. */
export type Line =
  | { readonly number: number; readonly text: string }
  | { readonly number: number; readonly unreadable: Unreadable };

export interface LineBounds {
  /** Bytes of one line. */
  readonly line: number;
  /** Lines of one batch. */
  readonly lines: number;
  /** Bytes of one batch; its last line may go beyond. */
  readonly batch: number;
}

/** Takes the pieces one by one. */
export interface LineReader {
  /** The batches that this piece has filled. */
  readonly push: (piece: string | Uint8Array) => ReadonlyArray<ReadonlyArray<Line>>;
  /** After the last piece: the rest, which may be empty. */
  readonly end: () => ReadonlyArray<Line>;
}

const newline = 0x0a;
// No UTF-8 has this byte, so the line is found when it is decoded.
const invalid = Buffer.of(0xff);

const encode = (text: string): Buffer =>
  text.isWellFormed()
    ? Buffer.from(text)
    : // What is left of surrogates here has lost its other half; Buffer.from() would make U+FFFD of it, without a word.
      Buffer.concat(
        text.split(/[\uD800-\uDFFF]/u).flatMap((part, i) => (i === 0 ? [] : [invalid]).concat(Buffer.from(part))),
      );

const endsInHalf = (text: string) => {
  const last = text.charCodeAt(text.length - 1);
  return last >= 0xd800 && last <= 0xdbff;
};

export const lineReader = (bounds: LineBounds): LineReader => {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  let half = "";
  let parts: Array<Uint8Array> = [];
  let length = 0;
  let isTooLong = false;
  let number = 0;
  let batch: Array<Line> = [];
  let batchLength = 0;
  let full: Array<ReadonlyArray<Line>> = [];

  const gather = (line: Line, size: number) => {
    batch.push(line);
    batchLength += size;
    if (batch.length < bounds.lines && batchLength < bounds.batch) return;
    full.push(batch);
    batch = [];
    batchLength = 0;
  };

  const append = (bytes: Uint8Array) => {
    length += bytes.length;
    if (isTooLong || length > bounds.line) {
      isTooLong = true;
      parts = [];
    } else if (bytes.length > 0) {
      parts.push(bytes);
    }
  };

  const close = () => {
    number++;
    if (isTooLong) {
      gather({ number, unreadable: "too long" }, 0);
    } else {
      let text: string | undefined;
      try {
        text = utf8.decode(Buffer.concat(parts));
      } catch {
        gather({ number, unreadable: "not UTF-8" }, 0);
      }
      if (text !== undefined) {
        // A byte order mark is white space to trim().
        text = text.trim();
        if (text !== "") gather({ number, text }, length);
      }
    }
    parts = [];
    length = 0;
    isTooLong = false;
  };

  const take = (bytes: Uint8Array) => {
    let from = 0;
    for (let at = bytes.indexOf(newline); at >= 0; at = bytes.indexOf(newline, from)) {
      append(bytes.subarray(from, at));
      close();
      from = at + 1;
    }
    append(bytes.subarray(from));
  };

  const filled = () => {
    const batches = full;
    full = [];
    return batches;
  };

  return {
    push: (piece) => {
      if (typeof piece !== "string") {
        if (half !== "") take(encode(half));
        half = "";
        take(piece);
      } else if (piece !== "") {
        const text = half + piece;
        half = endsInHalf(text) ? text.slice(-1) : "";
        take(encode(half === "" ? text : text.slice(0, -1)));
      }
      return filled();
    },
    end: () => {
      if (half !== "") take(encode(half));
      half = "";
      if (length > 0) close();
      const rest = [...filled().flat(), ...batch];
      batch = [];
      return rest;
    },
  };
};
