/** The dead letters that the filter matches: page by page, for the keyboard and the mouse, one by one or all that match. */
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import {
  type ColumnDef,
  flexRender,
  getCoreRowModel,
  type RowSelectionState,
  useReactTable,
} from "@tanstack/react-table";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useMemo, useRef, useState } from "react";
import { api, type Letter, type Preview } from "../api";
import { type Change, ChangeDialog } from "../change";
import { type Filter, problemsOf, toApi, toParams } from "../filter";
import { FilterBar, isTyping } from "../filter-bar";
import { isFar, listInterval, refreshAll, useLive } from "../live";
import { useSession } from "../session";
import { Ago, Answer, Chip, count, Empty, LetterLink, letters as lettersOf } from "../ui";

const pageSize = 50;
const rowHeight = 56;

const firstLine = ({ errorHistory, isHidden }: Letter) =>
  isHidden ? "hidden" : (errorHistory.at(-1)?.error.split("\n")[0] ?? "no error text");

const columns: ReadonlyArray<ColumnDef<Letter>> = [
  {
    id: "select",
    header: ({ table }) => (
      <input
        type="checkbox"
        aria-label="Select all on the page"
        checked={table.getIsAllRowsSelected()}
        ref={(box) => {
          if (box !== null) box.indeterminate = table.getIsSomeRowsSelected() && !table.getIsAllRowsSelected();
        }}
        onChange={table.getToggleAllRowsSelectedHandler()}
      />
    ),
    cell: ({ row }) => (
      <input
        type="checkbox"
        aria-label={`Select ${row.id}`}
        checked={row.getIsSelected()}
        disabled={!row.getCanSelect()}
        onChange={row.getToggleSelectedHandler()}
      />
    ),
  },
  { id: "id", header: "Dead letter", cell: ({ row }) => <LetterLink id={row.id} /> },
  { id: "type", header: "Type", accessorKey: "type" },
  {
    id: "reason",
    header: "Reason",
    cell: ({ row: { original } }) => <Chip>{original.replayedAt === null ? original.errorReason : "replayed"}</Chip>,
  },
  { id: "error", header: "Last error", cell: ({ row }) => <span className="mono">{firstLine(row.original)}</span> },
  { id: "attempts", header: "Tries", accessorKey: "attempts" },
  { id: "at", header: "Dead since", cell: ({ row }) => <Ago at={row.original.dlqAt} /> },
];

export const Letters = () => {
  const filter = useSearch({ from: "/letters" });
  return (
    <>
      <h1>Dead letters</h1>
      <FilterBar filter={filter} to="/letters" states />
      {Object.keys(problemsOf(filter)).length === 0 ? (
        // Another filter begins with nothing selected.
        <List key={JSON.stringify(filter)} filter={filter} />
      ) : (
        <Empty title="The filter cannot be meant.">What is wrong stands beside it.</Empty>
      )}
    </>
  );
};

const List = ({ filter }: { readonly filter: Filter }) => {
  const { interval } = useLive();
  const pages = useInfiniteQuery({
    queryKey: ["letters", filter],
    queryFn: ({ pageParam, signal }) => {
      const params = toParams(toApi(filter));
      params.set("limit", String(pageSize));
      if (pageParam !== "") params.set("cursor", pageParam);
      return api.letters({ params, signal });
    },
    initialPageParam: "",
    getNextPageParam: ({ next }) => next ?? undefined,
    refetchOnMount: ({ state }) => !isFar(state.data),
    refetchInterval: listInterval(interval),
  });
  const total = useQuery({
    queryKey: ["preview", filter],
    queryFn: ({ signal }) => api.preview({ params: toParams(toApi(filter)), signal }),
    refetchInterval: interval,
  });
  const found = useMemo(() => pages.data?.pages.flatMap(({ items }) => items), [pages.data]);
  const unreadable = pages.data?.pages.flatMap((page) => page.unreadable) ?? [];
  // Here, and not in the table: the change may take its last row.
  const [change, setChange] = useState<Change>();
  const [changes, setChanges] = useState(0);
  const isFiltered = Object.keys(filter).length > 0;
  return (
    <>
      <Answer query={{ data: found, error: pages.error }} what="the dead letters">
        {(items) =>
          items.length === 0 && unreadable.length > 0 ? null : items.length === 0 ? (
            <Empty title={isFiltered ? "No dead letters match." : "The queue is empty."}>
              {isFiltered
                ? "Take something out of the filter, or ask for another state."
                : "New dead letters appear here by themselves."}
            </Empty>
          ) : (
            <Table
              // After a change nothing is selected.
              key={changes}
              filter={filter}
              items={items}
              total={
                total.data === undefined
                  ? undefined
                  : knownOf(total.data, items.length + unreadable.length, !pages.hasNextPage)
              }
              hasMore={pages.hasNextPage}
              isFetching={pages.isFetching}
              readAt={isFar(pages.data) ? pages.dataUpdatedAt : undefined}
              onChange={setChange}
              onEnd={() => {
                if (pages.hasNextPage && !pages.isFetching) pages.fetchNextPage();
              }}
            />
          )
        }
      </Answer>
      {unreadable.length === 0 ? null : (
        <div className="card problem" role="alert">
          <p>
            {lettersOf(unreadable.length)} cannot be shown here: what is stored does not fit the model. A change by the
            filter takes them too.
          </p>
          <ul className="plain">
            {unreadable.slice(0, 10).map(({ id, problem }) => (
              <li key={id} className="mono">
                {id} {problem ?? ""}
              </li>
            ))}
          </ul>
          {found?.length === 0 && pages.hasNextPage ? (
            <button type="button" disabled={pages.isFetching} onClick={() => pages.fetchNextPage()}>
              The next ones
            </button>
          ) : null}
        </div>
      )}
      {change === undefined ? null : (
        <ChangeDialog
          change={change}
          onClose={() => {
            setChange(undefined);
            setChanges(changes + 1);
          }}
        />
      )}
    </>
  );
};

/** How many match. The list may have been read further than the figures look, or to its end. */
const knownOf = ({ count, isExact }: Preview, read: number, isWhole: boolean): Total =>
  isExact ? { count, isExact } : isWhole ? { count: read, isExact: true } : { count: Math.max(count, read), isExact };

interface Total {
  /** At least, where it is not exact. */
  readonly count: number;
  readonly isExact: boolean;
}

interface TableProps {
  readonly filter: Filter;
  readonly items: ReadonlyArray<Letter>;
  /** How many match; undefined while that is not known. */
  readonly total: Total | undefined;
  readonly hasMore: boolean;
  readonly isFetching: boolean;
  /** When it was read, of a list that is not asked for again by itself; milliseconds since 1970. */
  readonly readAt: number | undefined;
  readonly onChange: (change: Change) => void;
  readonly onEnd: () => void;
}

const Table = ({ filter, hasMore, isFetching, items, onChange, onEnd, readAt, total }: TableProps) => {
  const { mayChange } = useSession();
  const navigate = useNavigate();
  const [selected, setSelected] = useState<RowSelectionState>({});
  const [isAll, setAll] = useState(false);
  // By id: the letter that is meant stays the same one when others come.
  const [activeId, setActiveId] = useState<string>();
  const queries = useQueryClient();
  const scroller = useRef<HTMLDivElement>(null);
  const data = useMemo(() => [...items], [items]);
  const table = useReactTable({
    data,
    columns: columns as Array<ColumnDef<Letter>>,
    getRowId: ({ id }) => id,
    getCoreRowModel: getCoreRowModel(),
    enableRowSelection: ({ original }) => original.replayedAt === null,
    state: { rowSelection: selected, columnVisibility: { select: mayChange } },
    onRowSelectionChange: (update) => {
      setAll(false);
      setSelected(update);
    },
  });
  const { rows } = table.getRowModel();
  const active = Math.max(
    rows.findIndex(({ id }) => id === activeId),
    0,
  );
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => rowHeight,
    overscan: 8,
  });
  const visible = virtual.getVirtualItems();
  const last = visible.at(-1)?.index ?? 0;
  const atEnd = useRef(onEnd);
  atEnd.current = onEnd;
  useEffect(() => {
    if (!isFetching && last >= items.length - 10) atEnd.current();
  }, [last, items.length, isFetching]);

  // What has left the queue is selected no more.
  const here = new Set(items.flatMap(({ id, replayedAt }) => (replayedAt === null ? [id] : [])));
  const ids = Object.keys(selected).filter((id) => selected[id] === true && here.has(id));

  const keys = useRef<(event: KeyboardEvent) => void>(undefined);
  keys.current = (event) => {
    if (isTyping(event)) return;
    const go = (to: number) => {
      const next = Math.min(Math.max(to, 0), rows.length - 1);
      setActiveId(rows[next]?.id);
      virtual.scrollToIndex(next);
    };
    const row = rows[active];
    switch (event.key) {
      case "j":
        return go(active + 1);
      case "k":
        return go(active - 1);
      case "x":
        return mayChange && row?.getCanSelect() === true ? row.toggleSelected() : undefined;
      case "Escape":
        setSelected({});
        return setAll(false);
      case "Enter":
        // A link or a button that has the focus is what is meant.
        if (row === undefined || (event.target instanceof HTMLElement && event.target.closest("a, button, summary"))) {
          return;
        }
        navigate({ to: "/letters/$id", params: { id: row.id } });
    }
  };
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => keys.current?.(event);
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  const target = isAll ? toApi(filter) : { ids };
  const many = isAll ? total?.count : ids.length;
  const isTotalExact = total?.isExact === true;
  const isPage = !isAll && ids.length > 0 && ids.length === here.size;
  const canAll = filter.state === undefined || filter.state === "pending";

  return (
    <>
      <div className="selection" role="status">
        {many === undefined || many === 0 ? (
          <span>
            {total === undefined ? `${count(items.length)} shown` : lettersOf(total.count, total.isExact)}
            {readAt === undefined ? null : (
              <>
                {" "}
                · this list was read <Ago at={readAt} />, and stays as it is{" "}
                <button type="button" className="quiet" onClick={() => refreshAll(queries)}>
                  Read it anew
                </button>
              </>
            )}
            <span className="hint wide">
              {" "}
              · <kbd>j</kbd> <kbd>k</kbd> move
              {mayChange ? (
                <>
                  , <kbd>x</kbd> selects
                </>
              ) : null}
              , <kbd>Enter</kbd> opens, <kbd>/</kbd> filters
            </span>
          </span>
        ) : (
          <>
            <strong>
              {!isAll
                ? `${count(many)} selected`
                : isTotalExact
                  ? `All ${count(many)} that match are selected`
                  : `All that match are selected, ${count(many, false)}`}
            </strong>
            {isPage && canAll && total !== undefined && (total.count > ids.length || (!isTotalExact && hasMore)) ? (
              <button type="button" onClick={() => setAll(true)}>
                Select all{isTotalExact ? "" : ","} {count(total.count, isTotalExact)} that match
              </button>
            ) : null}
            <button type="button" className="primary" onClick={() => onChange({ kind: "replay", filter: target })}>
              Replay …
            </button>
            <button type="button" className="danger" onClick={() => onChange({ kind: "discard", filter: target })}>
              Discard …
            </button>
            <button
              type="button"
              className="quiet"
              onClick={() => {
                setSelected({});
                setAll(false);
              }}
            >
              Clear
            </button>
          </>
        )}
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached without a mouse. */}
      <div ref={scroller} className="scroller card" tabIndex={0} role="region" aria-label="The dead letters">
        <div role="table" aria-label="Dead letters" aria-rowcount={hasMore ? -1 : rows.length + 1}>
          <div role="rowgroup">
            {table.getHeaderGroups().map((group) => (
              <div key={group.id} role="row" aria-rowindex={1} className={`row head ${mayChange ? "" : "looking"}`}>
                {group.headers.map(({ column, getContext, id }) => (
                  <div key={id} role="columnheader" className={`cell ${id}`}>
                    {flexRender(column.columnDef.header, getContext())}
                  </div>
                ))}
              </div>
            ))}
          </div>
          <div role="rowgroup" className="body" style={{ height: virtual.getTotalSize() }}>
            {visible.map(({ index, start }) => {
              const row = rows[index];
              return row === undefined ? null : (
                // biome-ignore lint/a11y/useKeyWithClickEvents: the keys are the page's, see above.
                <div
                  key={row.id}
                  role="row"
                  tabIndex={-1}
                  aria-rowindex={index + 2}
                  aria-selected={isAll || row.getIsSelected()}
                  className={`row ${mayChange ? "" : "looking"} ${index === active ? "active" : ""}`}
                  style={{ transform: `translateY(${start}px)`, height: rowHeight }}
                  onClick={() => setActiveId(row.id)}
                >
                  {row.getVisibleCells().map(({ column, getContext, id }) => (
                    <div key={id} role="cell" className={`cell ${column.id}`}>
                      {flexRender(column.columnDef.cell, getContext())}
                    </div>
                  ))}
                </div>
              );
            })}
          </div>
        </div>
      </div>
    </>
  );
};
