/** What every page is made of. */
import { Link } from "@tanstack/react-router";
import { type ReactNode, useEffect, useId, useRef, useState, useSyncExternalStore } from "react";
import { Problem, reach } from "./api";

// --- states ------------------------------------------------------------------

export const Loading = ({ what }: { readonly what: string }) => (
  <p className="state" role="status">
    Asking for {what} …
  </p>
);

export const Empty = ({ children, title }: { readonly title: string; readonly children?: ReactNode }) => (
  <div className="state">
    <p className="state-title">{title}</p>
    {children === undefined ? null : <p>{children}</p>}
  </div>
);

export const Trouble = ({ error }: { readonly error: unknown }) => (
  <div className="state problem" role="alert">
    <p className="state-title">
      {error instanceof Problem && error.status === 0 ? "The server is away." : "This could not be had."}
    </p>
    <p>{error instanceof Error ? error.message : String(error)}</p>
  </div>
);

interface Asked<A> {
  readonly data: A | undefined;
  readonly error: unknown;
}
/** What was asked for; what was there before stays while the server is away, and it says so. */
export const Answer = <A,>({
  children,
  query: { data, error },
  what,
}: {
  readonly query: Asked<A>;
  readonly what: string;
  readonly children: (data: A) => ReactNode;
}) => (
  <>
    {error === null ? null : <Trouble error={error} />}
    {data === undefined ? error === null ? <Loading what={what} /> : null : children(data)}
  </>
);

// --- figures -----------------------------------------------------------------

const wholes = new Intl.NumberFormat("en-US");
/** `1,234`, or `at least 1,234` where not all were looked at. */
export const count = (value: number, isExact = true): string => `${isExact ? "" : "at least "}${wholes.format(value)}`;
/** `3 dead letters`, `1 dead letter`, `at least 3 dead letters`. */
export const letters = (value: number, isExact = true): string =>
  `${count(value, isExact)} dead letter${value === 1 ? "" : "s"}`;

/** Of which letters the figures are, where not all were looked at. */
export const OfNewest = ({ figures: [first] }: { readonly figures: ReadonlyArray<{ readonly isExact: boolean }> }) =>
  first === undefined || first.isExact ? null : (
    <p className="hint">Of the newest {count(reach)} letters; there may be more.</p>
  );

const units = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
] as const;
/** `3 d`, `2 h`, `5 min`, `12 s`. */
export const span = (seconds: number): string => {
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["s", 1];
  return `${count(Math.floor(seconds / size))} ${unit}`;
};

const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const everyTenSeconds = (tick: () => void) => {
  const timer = setInterval(tick, 10_000);
  return () => clearInterval(timer);
};
/** Changes every ten seconds, so that an age is told anew. */
const nowInSteps = () => Math.floor(Date.now() / 10_000);

/** A moment, as how long ago it was; exact when it is pointed at. */
export const Ago = ({ at }: { readonly at: string | number }) => {
  useSyncExternalStore(everyTenSeconds, nowInSteps);
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return <span>{String(at)}</span>;
  const seconds = (Date.now() - date.getTime()) / 1000;
  return (
    <time dateTime={date.toISOString()} title={exact.format(date)}>
      {seconds < 0 ? exact.format(date) : `${span(seconds)} ago`}
    </time>
  );
};

/** A moment, exact. */
export const At = ({ at }: { readonly at: string | number }) => {
  const date = new Date(at);
  return Number.isNaN(date.getTime()) ? (
    <span>{String(at)}</span>
  ) : (
    <time dateTime={date.toISOString()}>{exact.format(date)}</time>
  );
};

const goods = new Set(["completed", "restored", "replayed", "imported", "replayed elsewhere"]);
const bads = new Set(["dead again", "erased", "purged", "expired", "discarded"]);
export const Chip = ({ children }: { readonly children: string }) => (
  <span className={`chip ${goods.has(children) ? "good" : bads.has(children) ? "bad" : ""}`}>{children}</span>
);

export const LetterLink = ({ id }: { readonly id: string }) => (
  <Link to="/letters/$id" params={{ id }} className="mono">
    {id.slice(0, 8)}…{id.slice(-6)}
  </Link>
);

export const Copy = ({ text, what }: { readonly text: string; readonly what: string }) => {
  const [isDone, setDone] = useState(false);
  return (
    <button
      type="button"
      className="quiet"
      onClick={() => {
        navigator.clipboard.writeText(text).then(
          () => setDone(true),
          () => setDone(false),
        );
        setTimeout(() => setDone(false), 2000);
      }}
    >
      {isDone ? "Copied" : `Copy ${what}`}
    </button>
  );
};

// --- dialogs -----------------------------------------------------------------

/** A window over the page: it keeps the keyboard inside, and Escape closes it. */
export const Dialog = ({
  children,
  onClose,
  title,
}: {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ReactNode;
}) => {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={element}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
};
