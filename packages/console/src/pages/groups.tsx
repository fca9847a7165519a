/** The failures that are the same failure, and what is done about all of one. */
import { useQuery } from "@tanstack/react-query";
import { Link, useSearch } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import { api, type Group, reach } from "../api";
import { type Change, ChangeDialog } from "../change";
import { Chart } from "../chart";
import { type Filter, problemsOf, toApi, toParams } from "../filter";
import { FilterBar } from "../filter-bar";
import { useLive } from "../live";
import { useSession } from "../session";
import { Ago, Answer, Chip, count, Empty, OfNewest } from "../ui";

const most = 50;

const Trend = ({ search }: { readonly search: Filter }) => {
  const { data } = useQuery({
    queryKey: ["trend", search],
    queryFn: ({ signal }) => {
      // Each of its figures says itself what it counts.
      const { state: _, ...rest } = search;
      return api.stats("hour", toParams(toApi(rest)), signal);
    },
    staleTime: 60_000,
  });
  const times = useMemo(() => (data ?? []).map(({ key }) => Date.parse(key) / 1000), [data]);
  const values = useMemo(() => (data ?? []).map(({ arrivals }) => arrivals), [data]);
  const series = useMemo(() => [{ label: "Arrivals", colour: "--bad", values }], [values]);
  const come = values.reduce((sum, value) => sum + value, 0);
  if (data === undefined) return <div className="sparkline" />;
  return <Chart times={times} series={series} height={32} isSparkline summary={`${count(come)} in 24 hours`} />;
};

/** That nothing was found is not that there is nothing: which of them it is, the preview says. */
const None = ({ filter }: { readonly filter: Filter }) => {
  const { interval } = useLive();
  const preview = useQuery({
    queryKey: ["preview", filter],
    queryFn: ({ signal }) => api.preview({ params: toParams(toApi(filter)), signal }),
    refetchInterval: interval,
  });
  return (
    <Answer query={preview} what="the groups">
      {({ isExact }) =>
        isExact ? (
          <Empty title="No dead letters match.">Groups are made of pending dead letters.</Empty>
        ) : (
          <Empty title={`None among the newest ${count(reach)} dead letters.`}>
            Older ones were not looked at: an earlier “Until” looks at those before it.
          </Empty>
        )
      }
    </Answer>
  );
};

export const Groups = () => {
  const filter = useSearch({ from: "/groups" });
  const { interval } = useLive();
  const [change, setChange] = useState<Change>();
  const isValid = Object.keys(problemsOf(filter)).length === 0;
  const groups = useQuery({
    queryKey: ["groups", filter],
    queryFn: ({ signal }) => {
      const params = toParams(toApi(filter));
      params.set("limit", String(most));
      return api.groups({ params, signal });
    },
    enabled: isValid,
    refetchInterval: interval,
  });
  return (
    <>
      <h1>Groups</h1>
      <FilterBar filter={filter} to="/groups" />
      {isValid ? (
        <Answer query={groups} what="the groups">
          {(found) =>
            found.length === 0 ? (
              <None filter={filter} />
            ) : (
              <>
                <ul className="plain groups">
                  {found.map((group) => (
                    <Row key={group.fingerprint} group={group} filter={filter} onChange={setChange} />
                  ))}
                  {found.length === most ? (
                    <li className="hint">The {most} most frequent ones; the filter has others.</li>
                  ) : null}
                </ul>
                <OfNewest figures={found} />
              </>
            )
          }
        </Answer>
      ) : null}
      {change === undefined ? null : <ChangeDialog change={change} onClose={() => setChange(undefined)} />}
    </>
  );
};

interface RowProps {
  readonly group: Group;
  /** The page's: a row is what it leaves of a group, and so is what is done about it. */
  readonly filter: Filter;
  readonly onChange: (change: Change) => void;
}

const Row = ({ filter: asked, group, onChange }: RowProps) => {
  const { count: many, fingerprint, first, isExact, last, message, newestId, reason, tenants, type } = group;
  const { mayChange, tenant } = useSession();
  const search = { ...asked, fingerprint };
  return (
    <li className="card group">
      <div className="group-what">
        <p className="group-name">
          <Link to="/letters" search={search}>
            {type}
          </Link>{" "}
          <Chip>{reason}</Chip>
        </p>
        <p className="mono clip2">{message ?? "no error text"}</p>
        <p className="hint">
          first <Ago at={first} />, last{" "}
          <Link to="/letters/$id" params={{ id: newestId }}>
            <Ago at={last} />
          </Link>
          {tenant === null && tenants > 1 ? `, in ${count(tenants)} tenants` : ""}
        </p>
      </div>
      <Trend search={search} />
      <p className="group-count">
        {isExact ? null : <small>at least </small>}
        {count(many)}
      </p>
      {mayChange ? (
        <div className="group-actions">
          <button
            type="button"
            onClick={() => onChange({ kind: "replay", filter: toApi(search) })}
            aria-label={`Replay group ${type}`}
          >
            Replay
          </button>
          <button
            type="button"
            className="danger"
            onClick={() => onChange({ kind: "discard", filter: toApi(search) })}
            aria-label={`Discard group ${type}`}
          >
            Discard
          </button>
        </div>
      ) : null}
    </li>
  );
};
