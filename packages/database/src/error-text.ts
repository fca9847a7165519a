/**
 * The text of an error as the error history keeps it: anything can be rendered, nothing throws, and the result always fits.
 * A dead letter is never lost because of its error text. Pure.
 */
import { inspect } from "node:util";
import * as Cause from "effect/Cause";
import * as Inspectable from "effect/Inspectable";

/** Longest stored text of one error, in UTF-16 code units. Beyond it the middle is cut out and the cut says how much. */
export const maxErrorLength = 16_384;
/** Most entries that an error history keeps: the first {@link historyHead} and the newest ones. `attempts` has the true number. */
export const maxHistory = 50;
/** How many of the oldest entries a full history keeps. */
export const historyHead = 10;

/** Makes a text storable: NUL and lone surrogates become U+FFFD, a long text loses its middle. */
export const boundText = (text: string): string => {
  let kept = text;
  if (text.length > maxErrorLength) {
    const half = maxErrorLength / 2;
    const cut = text.length - maxErrorLength;
    kept = `${text.slice(0, half)}\n… ${cut.toLocaleString("en-US")} characters cut …\n${text.slice(-half)}`;
  }
  return kept.replaceAll("\u0000", "\uFFFD").toWellFormed();
};

/** Keeps the first {@link historyHead} and the newest entries of a history that is too long. */
export const boundHistory = <A>(history: ReadonlyArray<A>): ReadonlyArray<A> =>
  history.length <= maxHistory
    ? history
    : [...history.slice(0, historyHead), ...history.slice(historyHead - maxHistory)];

/** What reading gives; nothing when the value's own code throws: a getter, toString, toJSON, the traps of a proxy. */
const attempt = <A>(read: () => A): A | undefined => {
  try {
    return read();
  } catch {
    return undefined;
  }
};

// Asked of a revoked proxy, both of these throw.
const isError = (value: unknown): value is Error => attempt(() => value instanceof Error) === true;
const isCause = (value: unknown): value is Cause.Cause<unknown> => attempt(() => Cause.isCause(value)) === true;

const renderLink = (error: Error): string => {
  const name = attempt(() => String(error.name)) ?? "Error";
  const message = attempt(() => String(error.message));
  const stack = attempt(() => String(error.stack ?? "")) ?? "";
  // A stack begins with name and message when the error was made; both may have changed since.
  if (stack !== "" && message !== undefined && stack.includes(message)) return stack;
  return `${name}${message === undefined ? ", its message cannot be read" : `: ${message}`}\n${stack}`.trimEnd();
};

/** An error and its causes, each by itself: a cause that cannot be rendered takes nothing from what stands before it. */
const renderError = (error: Error, seen: Set<unknown>): string => {
  const lines: Array<string> = [];
  let current: unknown = error;
  while (isError(current) && !seen.has(current)) {
    const link: Error = current;
    seen.add(link);
    lines.push(`${link === error ? "" : "[cause] "}${renderLink(link)}`);
    current = attempt(() => link.cause);
  }
  if (current !== undefined && !isError(current)) lines.push(`[cause] ${render(current, seen)}`);
  return lines.join("\n");
};

/** As Effect prints it, or else what it is made of, one by one: the pretty printer asks every value for its text. */
const renderCause = (cause: Cause.Cause<unknown>, seen: Set<unknown>): string => {
  const pretty = attempt(() => Cause.pretty(cause, { renderErrorCause: true }));
  if (pretty !== undefined || seen.has(cause)) return pretty ?? "";
  seen.add(cause);
  return [...Cause.failures(cause), ...Cause.defects(cause)].map((_) => render(_, seen)).join("\n");
};

const render = (error: unknown, seen: Set<unknown>): string => {
  if (typeof error === "string") return error;
  if (isCause(error)) return renderCause(error, seen);
  if (isError(error)) return renderError(error, seen);
  return (
    attempt(() => Inspectable.stringifyCircular(error, 2) ?? String(error)) ??
    // No JSON: a BigInt in it, a getter or toJSON that throws, a revoked proxy. Node shows those without running their code.
    attempt(() => inspect(error, { depth: 3, getters: false, customInspect: false })) ??
    `a value of type ${typeof error} that cannot be rendered`
  );
};

/**
 * Renders whatever was thrown or failed: an Effect `Cause`, an `Error` with its stack and causes, a text, or any value,
 * down to ones that cannot be serialised. Bounded by {@link maxErrorLength}.
 */
export const errorText = (error: unknown): string => boundText(render(error, new Set()));
