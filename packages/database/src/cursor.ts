/**
 * The place of a row in a list ordered by (dlq_at DESC, id DESC), as an opaque text. Pure.
 *
 * It carries microseconds: `timestamptz` has them and a JavaScript date has not, and a cursor cut to milliseconds skips rows.
 */
import { createHash } from "node:crypto";
import * as Option from "effect/Option";

/** `at` is microseconds since 1970, or PostgreSQL's `infinity` / `-infinity`; `id` the row's uuid. */
export interface Position {
  readonly at: string;
  readonly id: string;
}

// Not a secret: row-level security guards the rows. It tells a damaged cursor from a good one.
const check = (body: string) => createHash("sha256").update(`dlq-cursor ${body}`).digest("hex").slice(0, 8);

const form = /^1~(-?\d{1,19}|-?infinity)~([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})~([0-9a-f]{8})$/;

/** The cursor that continues after this position. */
export const encodeCursor = ({ at, id }: Position): string => {
  const body = `1~${at}~${id}`;
  return Buffer.from(`${body}~${check(body)}`).toString("base64url");
};

/** The position of a cursor, or none when it is not one that `encodeCursor` made. */
export const decodeCursor = (cursor: string): Option.Option<Position> => {
  // JavaScript passes anything.
  if (typeof cursor !== "string") return Option.none();
  const decoded = Buffer.from(cursor, "base64url").toString("latin1");
  const [, at, id, sum] = form.exec(decoded) ?? [];
  if (at === undefined || id === undefined || sum !== check(`1~${at}~${id}`)) return Option.none();
  // base64 ignores foreign characters and spare bits; a cursor has one spelling.
  return encodeCursor({ at, id }) === cursor ? Option.some({ at, id }) : Option.none();
};
