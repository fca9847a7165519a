/**
 * The text of an error as the error history keeps it: anything can be rendered, nothing throws, and the result always fits.
 * A dead letter is never lost because of its error text. Pure.
 */
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

const renderError = (error: Error): string => {
  const lines: Array<string> = [];
  const seen = new Set<unknown>();
  let current: unknown = error;
  while (current instanceof Error && !seen.has(current)) {
    seen.add(current);
    const head = `${current.name}: ${current.message}`;
    // A stack begins with name and message when the error was made; both may have changed since.
    const stack = current.stack?.includes(current.message)
      ? current.stack
      : `${head}\n${current.stack ?? ""}`.trimEnd();
    lines.push(seen.size === 1 ? stack : `[cause] ${stack}`);
    current = current.cause;
  }
  if (current !== undefined && !(current instanceof Error)) lines.push(`[cause] ${render(current)}`);
  return lines.join("\n");
};

const render = (error: unknown): string => {
  if (typeof error === "string") return error;
  if (Cause.isCause(error)) return Cause.pretty(error, { renderErrorCause: true });
  if (error instanceof Error) return renderError(error);
  return Inspectable.stringifyCircular(error, 2) ?? String(error);
};

/**
 * Renders whatever was thrown or failed: an Effect `Cause`, an `Error` with its stack and causes, a text, or any value,
 * down to ones that cannot be serialised. Bounded by {@link maxErrorLength}.
 */
export const errorText = (error: unknown): string => {
  try {
    return boundText(render(error));
  } catch (cannot) {
    // A getter, toString or toJSON that throws, a BigInt in an object, a revoked Proxy.
    let why = "";
    try {
      why = `: ${String(cannot)}`;
    } catch {}
    return boundText(
      `${Object.prototype.toString.call(typeof error === "object" ? null : error)} that cannot be rendered${why}`,
    );
  }
};
