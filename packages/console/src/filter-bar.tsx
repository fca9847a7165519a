/** The filter, as it stands in the URL: what is entered here is asked for, can be sent to a colleague, and is what a change goes by. */
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useEffect, useId, useRef, useState } from "react";
import { type Field, type Filter, filterOf, problemsOf } from "./filter";
import { useSession } from "./session";

const shown: ReadonlyArray<readonly [Field, string, string]> = [
  ["type", "Type", "mail.send or mail.*"],
  ["reason", "Reason", "MaxRetries"],
  ["text", "In the last error", "timeout"],
  ["since", "Since", "2h or 2026-11-25T13:00Z"],
  ["until", "Until", "30m"],
];
const more: ReadonlyArray<readonly [Field, string, string]> = [
  ["payload", "In the payload", '{"order":7}'],
  ["fingerprint", "Group", "id"],
  ["requestId", "Request", "id"],
  ["userId", "Person", "id"],
  ["originalJobId", "Job", "id"],
];

export const FilterBar = ({
  filter,
  states = false,
  to,
}: {
  readonly filter: Filter;
  readonly to: "/letters" | "/groups";
  /** Whether replayed ones can be asked for. */
  readonly states?: boolean;
}) => {
  const navigate = useNavigate();
  const { seesPayloads } = useSession();
  const [draft, setDraft] = useState<Filter>(filter);
  const form = useRef<HTMLFormElement>(null);
  const id = useId();
  // Back and forward, and links that filter.
  const key = JSON.stringify(filter);
  useEffect(() => setDraft(JSON.parse(key)), [key]);
  // "/" goes to the filter, wherever the page is.
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "/" || isTyping(event)) return;
      event.preventDefault();
      form.current?.querySelector("input")?.focus();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const problems = problemsOf(draft);
  const apply = (event: FormEvent) => {
    event.preventDefault();
    if (Object.keys(problems).length === 0) navigate({ to, search: filterOf(draft) });
  };
  const isOpen = more.some(([field]) => filter[field] !== undefined);
  const mayAsk = ([field]: readonly [Field, string, string]) =>
    seesPayloads || (field !== "text" && field !== "payload");

  const input = ([field, label, example]: readonly [Field, string, string]) => (
    <div key={field} className="field">
      <label htmlFor={`${id}-${field}`}>{label}</label>
      <input
        id={`${id}-${field}`}
        value={draft[field] ?? ""}
        placeholder={example}
        aria-invalid={problems[field] !== undefined}
        aria-describedby={problems[field] === undefined ? undefined : `${id}-${field}-problem`}
        onChange={({ target }) => setDraft({ ...draft, [field]: target.value })}
      />
      {problems[field] === undefined ? null : (
        <p id={`${id}-${field}-problem`} className="problem">
          {problems[field]}
        </p>
      )}
    </div>
  );

  return (
    <form ref={form} className="card filter" aria-label="Filter" onSubmit={apply}>
      <div className="fields">
        {shown.filter(mayAsk).map(input)}
        {states ? (
          <div className="field">
            <label htmlFor={`${id}-state`}>State</label>
            <select
              id={`${id}-state`}
              value={draft.state ?? "pending"}
              onChange={({ target }) => {
                const { state: _, ...rest } = draft;
                const next = target.value === "pending" ? rest : { ...rest, state: target.value };
                setDraft(next);
                if (Object.keys(problemsOf(next)).length === 0) navigate({ to, search: filterOf(next) });
              }}
            >
              <option>pending</option>
              <option>replayed</option>
              <option>any</option>
            </select>
          </div>
        ) : null}
      </div>
      <div className="filter-foot">
        <details open={isOpen}>
          <summary>More</summary>
          <div className="fields">{more.filter(mayAsk).map(input)}</div>
        </details>
        <div className="buttons">
          {Object.keys(filter).length > 0 ? (
            <button type="button" onClick={() => navigate({ to, search: {} })}>
              Clear
            </button>
          ) : null}
          <button type="submit" className="primary">
            Filter
          </button>
        </div>
      </div>
    </form>
  );
};

/** Whether a key belongs to what is being written, or to an open dialog. */
export const isTyping = ({ altKey, ctrlKey, metaKey, target }: KeyboardEvent): boolean =>
  altKey ||
  ctrlKey ||
  metaKey ||
  document.querySelector("dialog[open]") !== null ||
  (target instanceof HTMLElement && target.closest("input:not([type=checkbox]), textarea, select") !== null);
