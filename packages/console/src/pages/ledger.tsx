/** Who did what, and how it is undone. */
import { useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useId, useState } from "react";
import { api, type LedgerEvent } from "../api";
import { JsonTree } from "../json";
import { isFar, listInterval, refreshAll, useLive } from "../live";
import { useSession } from "../session";
import { Ago, Answer, Chip, count, Dialog, Empty, LetterLink, letters, Trouble } from "../ui";

const kinds = ["replayed", "discarded", "restored", "erased", "purged", "expired", "imported", "viewed"];

const isRestorable = ({ hasEntry, isUndone, kind }: LedgerEvent): boolean =>
  (kind === "discarded" || kind === "expired") && hasEntry && !isUndone;

export const Ledger = () => {
  const search = useSearch({ from: "/ledger" });
  // Another person asked for, by a link or by Back, is another form.
  return <Listed key={search.actor ?? ""} search={search} />;
};

const Listed = ({ search }: { readonly search: { readonly actor?: string; readonly kind?: string } }) => {
  const navigate = useNavigate();
  const { interval } = useLive();
  const { mayChange } = useSession();
  const [actor, setActor] = useState(search.actor ?? "");
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [restoring, setRestoring] = useState<ReadonlyArray<string>>();
  const id = useId();
  const pages = useInfiniteQuery({
    queryKey: ["events", search],
    queryFn: ({ pageParam, signal }) => {
      const params = new URLSearchParams({ ...search, limit: "50" });
      if (pageParam !== "") params.set("cursor", pageParam);
      return api.events({ params, signal });
    },
    initialPageParam: "",
    getNextPageParam: ({ next }) => next ?? undefined,
    refetchOnMount: ({ state }) => !isFar(state.data),
    refetchInterval: listInterval(interval),
  });
  const found = pages.data?.pages.flatMap(({ items }) => items);
  const chosen = (found ?? [])
    .filter((event) => selected.has(event.id) && isRestorable(event))
    .map((event) => event.id);
  const go = (next: { readonly actor?: string; readonly kind?: string }) => navigate({ to: "/ledger", search: next });
  return (
    <>
      <h1>Ledger</h1>
      <form
        className="card filter"
        aria-label="Filter"
        onSubmit={(event) => {
          event.preventDefault();
          const { actor: _, ...rest } = search;
          go(actor.trim() === "" ? rest : { ...rest, actor: actor.trim() });
        }}
      >
        <div className="fields">
          <div className="field">
            <label htmlFor={`${id}-kind`}>What</label>
            <select
              id={`${id}-kind`}
              value={search.kind ?? ""}
              onChange={({ target }) => {
                const { kind: _, ...rest } = search;
                go(target.value === "" ? rest : { ...rest, kind: target.value });
              }}
            >
              <option value="">everything</option>
              {kinds.map((kind) => (
                <option key={kind}>{kind}</option>
              ))}
            </select>
          </div>
          <div className="field">
            <label htmlFor={`${id}-actor`}>Who</label>
            <input id={`${id}-actor`} value={actor} onChange={({ target }) => setActor(target.value)} />
          </div>
        </div>
        <div className="buttons">
          <button type="submit" className="primary">
            Filter
          </button>
        </div>
      </form>
      {chosen.length > 0 ? (
        <div className="selection" role="status">
          <strong>{count(chosen.length)} selected</strong>
          <button type="button" className="primary" onClick={() => setRestoring(chosen)}>
            Restore …
          </button>
          <button type="button" className="quiet" onClick={() => setSelected(new Set())}>
            Clear
          </button>
        </div>
      ) : null}
      <Answer query={{ data: found, error: pages.error }} what="the ledger">
        {(events) =>
          events.length === 0 ? (
            <Empty title="The ledger has nothing like it." />
          ) : (
            <ul className="plain card">
              {events.map((event) => (
                <EventLine
                  key={event.id}
                  event={event}
                  onRestore={() => setRestoring([event.id])}
                  isSelected={selected.has(event.id)}
                  onSelect={
                    mayChange && isRestorable(event)
                      ? () => {
                          const next = new Set(selected);
                          if (!next.delete(event.id)) next.add(event.id);
                          setSelected(next);
                        }
                      : undefined
                  }
                />
              ))}
            </ul>
          )
        }
      </Answer>
      {pages.hasNextPage ? (
        <div className="buttons">
          <button type="button" disabled={pages.isFetching} onClick={() => pages.fetchNextPage()}>
            Older ones
          </button>
        </div>
      ) : null}
      {restoring === undefined ? null : (
        <RestoreDialog
          ids={restoring}
          onClose={() => {
            setRestoring(undefined);
            setSelected(new Set());
          }}
        />
      )}
    </>
  );
};

export const EventLine = ({
  event,
  isSelected = false,
  onRestore,
  onSelect,
}: {
  readonly event: LedgerEvent;
  readonly isSelected?: boolean;
  readonly onRestore: () => void;
  readonly onSelect?: (() => void) | undefined;
}) => {
  const { mayChange } = useSession();
  const { actor, at, detail, dlqId, id, isUndone, kind, reason } = event;
  return (
    <li className="line event">
      {onSelect === undefined ? (
        <span className="no-box" />
      ) : (
        <input type="checkbox" checked={isSelected} onChange={onSelect} aria-label={`Select ${kind} ${dlqId ?? id}`} />
      )}
      <Chip>{kind}</Chip>
      <span className="event-what">
        {dlqId === null ? null : <LetterLink id={dlqId} />} by <strong>{actor}</strong>
        {isUndone ? " (undone)" : ""}
        {reason === null ? null : <span className="hint"> “{reason}”</span>}
        {detail === null ? null : (
          <details>
            <summary>Details</summary>
            <JsonTree value={detail} />
          </details>
        )}
      </span>
      <Ago at={at} />
      {mayChange && isRestorable(event) ? (
        <button type="button" onClick={onRestore} aria-label={`Restore ${dlqId ?? id}`}>
          Restore
        </button>
      ) : null}
    </li>
  );
};

export const RestoreDialog = ({
  ids,
  onClose,
}: {
  readonly ids: ReadonlyArray<string>;
  readonly onClose: () => void;
}) => {
  const queries = useQueryClient();
  const [reason, setReason] = useState("");
  const id = useId();
  const restore = useMutation({
    mutationFn: () => api.restore(ids, reason.trim()),
    onSettled: () => refreshAll(queries),
  });
  const outcomes = new Map<string, number>();
  for (const { outcome } of restore.data ?? []) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  return (
    // What was sent cannot be taken back by closing: its outcome is waited for.
    <Dialog title={`Restore ${letters(ids.length)}?`} onClose={restore.isPending ? () => {} : onClose}>
      {restore.data === undefined ? (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            restore.mutate();
          }}
        >
          <p>They come back as they were, and are pending again.</p>
          <label htmlFor={id}>Why (not needed)</label>
          <input id={id} value={reason} maxLength={2000} onChange={({ target }) => setReason(target.value)} />
          {restore.error === null ? null : <Trouble error={restore.error} />}
          <div className="buttons">
            <button type="button" onClick={onClose} disabled={restore.isPending}>
              Cancel
            </button>
            <button type="submit" className="primary" disabled={restore.isPending}>
              Restore {count(ids.length)}
            </button>
          </div>
        </form>
      ) : (
        <>
          <p role="status">{[...outcomes].map(([outcome, many]) => `${count(many)} ${outcome}`).join(", ")}.</p>
          <div className="buttons">
            <button type="button" className="primary" onClick={onClose}>
              Close
            </button>
          </div>
        </>
      )}
    </Dialog>
  );
};
