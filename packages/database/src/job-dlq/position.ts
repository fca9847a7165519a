/**
 * A place in the order in which dead letters arrived, as an opaque text. Pure.
 *
 * That order is the order of the transactions that inserted them, then of the ids. Transactions run side by side, so a place among
 * them also needs to say which of them had ended when it all began: the snapshot, until the place is beyond it.
 */
import { createHash } from "node:crypto";
import * as Option from "effect/Option";

/** Behind every letter up to this one, by transaction and id. */
export interface ArrivalPlace {
  /** A transaction id (xid8). */
  readonly arrived: string;
  readonly id: string;
  /** A `pg_snapshot`: letters that it sees are not asked for, wherever they stand. Empty: none such. */
  readonly start: string;
}

/** The least and the greatest uuid. */
export const firstId = "00000000-0000-0000-0000-000000000000";
export const lastId = "ffffffff-ffff-ffff-ffff-ffffffffffff";

/** Behind every letter that the snapshot sees, and before all others. */
export const placeOfSnapshot = (start: string): ArrivalPlace => {
  const [xmin = "1"] = start.split(":");
  return { arrived: String(BigInt(xmin) - 1n), id: lastId, start };
};

/** The place of a letter, on the way from `from`. The snapshot is left behind once no transaction of before it is ahead. */
export const advance = (from: ArrivalPlace, arrived: string, id: string): ArrivalPlace => {
  const [, xmax = "0"] = from.start.split(":");
  return { arrived, id, start: BigInt(arrived) >= BigInt(xmax) ? "" : from.start };
};

// Not a secret: row-level security guards the letters. It tells a damaged position from a good one.
const check = (body: string) => createHash("sha256").update(`dlq-arrival ${body}`).digest("hex").slice(0, 8);

const form = /^1~(\d{1,20})~([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})~((?:\d+:\d+:[\d,]*)?)~([0-9a-f]{8})$/;

export const encodePosition = ({ arrived, id, start }: ArrivalPlace): string => {
  const body = `1~${arrived}~${id}~${start}`;
  return Buffer.from(`${body}~${check(body)}`).toString("base64url");
};

/** The place of a position, or none when it is not one that `encodePosition` made. */
export const decodePosition = (position: string): Option.Option<ArrivalPlace> => {
  // JavaScript passes anything.
  if (typeof position !== "string") return Option.none();
  const decoded = Buffer.from(position, "base64url").toString("latin1");
  const [, arrived, id, start, sum] = form.exec(decoded) ?? [];
  if (arrived === undefined || id === undefined || start === undefined) return Option.none();
  if (sum !== check(`1~${arrived}~${id}~${start}`)) return Option.none();
  // base64 ignores foreign characters and spare bits; a position has one spelling.
  const place = { arrived, id, start };
  return encodePosition(place) === position ? Option.some(place) : Option.none();
};
