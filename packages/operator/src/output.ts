/**
 * What `dlq` writes: tables that fit the terminal for people, one JSON object a line for programs.
 *
 * Contract: texts from the database are shown with their control characters spelled out, so that nothing stored can move the
 * cursor, change a colour or ring a bell. Colours only on a terminal, and never with NO_COLOR.
 */
import { JobDlq } from "@parametric-portal/database/models";
import Table from "cli-table3";
import * as Console from "effect/Console";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";
import pc from "picocolors";
import stringWidth from "string-width";

const { env, stdout } = process;
const isColoured = env.NO_COLOR !== undefined && env.NO_COLOR !== "" ? false : stdout.isTTY === true;
export const colour = pc.createColors(isColoured);

/** Columns of the terminal. What goes elsewhere is not cut, unless COLUMNS says so. */
export const width = ((given) => (Number.isInteger(given) && given > 0 ? given : (stdout.columns ?? Infinity)))(
  Number(env.COLUMNS),
);

// --- texts -------------------------------------------------------------------

// C0 and C1 controls, and what turns the direction of a line around.
const controls = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;
const spelled = (character: string) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`;

/** A stored text in one line. */
export const line = (text: string): string =>
  text
    .replace(/\s*\n\s*/gu, " ↵ ")
    .replace(/\t/gu, " ")
    .replace(controls, spelled);

/** A stored text line by line. */
export const lines = (text: string): ReadonlyArray<string> =>
  text.split(/\r?\n/u).map((_) => _.replace(/\t/gu, "  ").replace(controls, spelled));

/** How long ago, in one unit: 45s, 12m, 3h, 9d. */
export const ago = (then: number, now: number): string => {
  const seconds = Math.max(0, Math.floor((now - then) / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
};

export const age = (seconds: number): string => ago(0, seconds * 1000);

/** 2026-11-25 13:20:36Z */
export const time = (at: DateTime.Utc | Date | number): string =>
  DateTime.formatIso(DateTime.unsafeMake(at))
    .replace("T", " ")
    .replace(/\.\d+Z$/u, "Z");

export const counted = (count: number, what: string) =>
  `${count.toLocaleString("en-US")} ${what}${count === 1 ? "" : "s"}`;

// --- tables ------------------------------------------------------------------

export interface Column<A> {
  readonly head: string;
  readonly of: (row: A) => string;
  /** Left out first where the terminal is narrow; 0 is never left out. */
  readonly rank: number;
  /** May be cut down to so many characters; without it the column has the width of its widest text. */
  readonly least?: number;
  readonly isRight?: boolean;
}

const gap = 2;

/** The columns that fit, each with its width. Those that may be cut share what is left. */
const fitted = <A>(columns: ReadonlyArray<Column<A>>, cells: ReadonlyArray<ReadonlyArray<string>>) => {
  const natural = columns.map((column, i) =>
    Math.max(stringWidth(column.head), ...cells.map((row) => stringWidth(row[i] ?? ""))),
  );
  const leastOf = (i: number) => Math.min(natural[i] ?? 0, columns[i]?.least ?? Infinity);
  let kept = columns.map((_, i) => i);
  const room = () => width - gap * (kept.length - 1);
  const needed = () => kept.reduce((sum, i) => sum + leastOf(i), 0);
  while (needed() > room()) {
    const worst = kept.reduce((a, b) => ((columns[b]?.rank ?? 0) > (columns[a]?.rank ?? 0) ? b : a), kept[0] ?? 0);
    if ((columns[worst]?.rank ?? 0) === 0) break;
    kept = kept.filter((i) => i !== worst);
  }
  const widths = new Map(kept.map((i) => [i, leastOf(i)]));
  // What is left goes to the most important of those that were cut, whole, then to the next.
  let left = room() - needed();
  for (const i of [...kept].sort((a, b) => (columns[a]?.rank ?? 0) - (columns[b]?.rank ?? 0))) {
    const more = Math.min(left, (natural[i] ?? 0) - (widths.get(i) ?? 0));
    widths.set(i, (widths.get(i) ?? 0) + more);
    left -= more;
  }
  return kept.map((i) => ({ i, width: widths.get(i) ?? 0 }));
};

const bare = Object.fromEntries(
  [
    "top",
    "top-mid",
    "top-left",
    "top-right",
    "bottom",
    "bottom-mid",
    "bottom-left",
    "bottom-right",
    "left",
    "left-mid",
    "mid",
    "mid-mid",
    "right",
    "right-mid",
    "middle",
  ].map((_) => [_, ""]),
);

/** A table without lines. Texts are cut with … where they do not fit. */
export const table = <A>(columns: ReadonlyArray<Column<A>>, rows: ReadonlyArray<A>): string => {
  const cells = rows.map((row) => columns.map((column) => column.of(row)));
  const shown = fitted(columns, cells);
  const made = new Table({
    chars: { ...bare, middle: " ".repeat(gap) },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [], compact: true },
    colWidths: shown.map((_) => Math.max(1, _.width)),
    colAligns: shown.map(({ i }) => (columns[i]?.isRight === true ? "right" : "left")),
  });
  made.push(shown.map(({ i }) => colour.dim(columns[i]?.head ?? "")));
  for (const row of cells) made.push(shown.map(({ i }) => row[i] ?? ""));
  return made
    .toString()
    .split("\n")
    .map((_) => _.trimEnd())
    .join("\n");
};

// --- JSON --------------------------------------------------------------------

/** One value in one line. Characters that a terminal would obey are spelled out, as JSON may. */
export const json = (value: unknown): string => JSON.stringify(value).replace(controls, spelled);

const encodeLetter = S.encodeSync(JobDlq.json);

/** A dead letter with all its fields; what there is not is null. */
export const letterJson = (letter: JobDlq) => {
  const { replayedAt, requestId, userId, ...rest } = encodeLetter(letter);
  return { ...rest, replayedAt: replayedAt ?? null, requestId: requestId ?? null, userId: userId ?? null };
};

/** JSON over several lines, in colours. */
export const tree = (value: unknown, indent = 0): string => {
  const inner = " ".repeat(indent + 2);
  if (typeof value === "string") return colour.green(json(value));
  if (typeof value === "number" || typeof value === "boolean") return colour.yellow(String(value));
  if (value === null || typeof value !== "object") return colour.dim("null");
  const isList = Array.isArray(value);
  const parts = isList
    ? value.map((item) => tree(item, indent + 2))
    : Object.entries(value).map(([key, item]) => `${colour.cyan(json(key))}: ${tree(item, indent + 2)}`);
  const [open, close] = isList ? "[]" : "{}";
  return parts.length === 0
    ? `${open}${close}`
    : `${open}\n${parts.map((part) => `${inner}${part}`).join(",\n")}\n${" ".repeat(indent)}${close}`;
};

/** The first line of its last error, as it may be shown. */
export const lastError = (letter: JobDlq): string => line(letter.errorHistory.at(-1)?.error.split("\n")[0] ?? "");

export const say = Console.log;

/** Rows for a program, one in a line, or for people as they are in a table. */
export const sayRows = <A>(
  isJson: boolean,
  rows: ReadonlyArray<A>,
  encode: (row: A) => unknown,
  asTable: () => string,
): Effect.Effect<void> =>
  isJson ? Effect.forEach(rows, (row) => say(json(encode(row))), { discard: true }) : say(asTable());

/** Beside what was asked for: it goes to stderr. */
export const note = (text: string) => Console.error(text);
