/** How the queue is: how much lies there and since when, what comes and what is replayed, and where it hurts. */
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useMemo } from "react";
import { api, type Stat } from "../api";
import { Chart } from "../chart";
import { useLive } from "../live";
import { Ago, Answer, count, Empty, span } from "../ui";

const windows = { "24h": 24, "3d": 72, "7d": 168, "30d": 720 } as const;
type Window = keyof typeof windows;
const windowOf = (text: string | undefined): Window =>
  text !== undefined && text in windows ? (text as Window) : "24h";

const useStats = (by: "hour" | "type" | "reason", window: Window) => {
  const { interval } = useLive();
  return useQuery({
    queryKey: ["stats", by, window],
    queryFn: ({ signal }) => {
      const from = new Date(Date.now() - windows[window] * 3_600_000).toISOString();
      return api.stats(by, new URLSearchParams({ from }), signal);
    },
    refetchInterval: interval,
  });
};

const sum = (stats: ReadonlyArray<Stat>, value: (stat: Stat) => number) =>
  stats.reduce((total, stat) => total + value(stat), 0);

const Figure = ({ title, value }: { readonly title: string; readonly value: string }) => (
  <div className="card figure">
    <dt>{title}</dt>
    <dd>{value}</dd>
  </div>
);

export const Overview = () => {
  const window = windowOf(useSearch({ from: "/" }).window);
  const navigate = useNavigate();
  const byType = useStats("type", window);
  const byReason = useStats("reason", window);
  const byHour = useStats("hour", window);
  return (
    <>
      <div className="title">
        <h1>Overview</h1>
        <label>
          <span className="unseen">Over the last</span>
          <select
            value={window}
            onChange={({ target }) => navigate({ to: "/", search: { window: windowOf(target.value) } })}
          >
            {Object.keys(windows).map((one) => (
              <option key={one} value={one}>
                last {one}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Answer query={byType} what="the figures">
        {(types) => <Figures types={types} window={window} />}
      </Answer>
      <section className="card" aria-labelledby="time">
        <h2 id="time">Arrivals and replays, by the hour</h2>
        <Answer query={byHour} what="the hours">
          {(hours) => <Hours hours={hours} />}
        </Answer>
      </section>
      <div className="pair">
        <section className="card" aria-labelledby="reasons">
          <h2 id="reasons">By reason</h2>
          <Answer query={byReason} what="the reasons">
            {(stats) => <Stats stats={stats} title="Reason" field="reason" />}
          </Answer>
        </section>
        <section className="card" aria-labelledby="types">
          <h2 id="types">By type</h2>
          <Answer query={byType} what="the types">
            {(stats) => <Stats stats={stats} title="Type" field="type" />}
          </Answer>
        </section>
      </div>
      <TopGroups />
    </>
  );
};

const Figures = ({ types, window }: { readonly types: ReadonlyArray<Stat>; readonly window: Window }) => {
  const oldest = Math.max(0, ...types.map(({ oldestAgeSeconds }) => oldestAgeSeconds ?? 0));
  return (
    <dl className="figures">
      <Figure
        title="Pending"
        value={count(
          sum(types, ({ depth }) => depth),
          types.every(({ isExact }) => isExact),
        )}
      />
      <Figure title="Oldest" value={oldest === 0 ? "–" : span(oldest)} />
      <Figure title={`Arrivals, ${window}`} value={count(sum(types, ({ arrivals }) => arrivals))} />
      <Figure title={`Replays, ${window}`} value={count(sum(types, ({ replays }) => replays))} />
    </dl>
  );
};

const Hours = ({ hours }: { readonly hours: ReadonlyArray<Stat> }) => {
  const times = useMemo(() => hours.map(({ key }) => Date.parse(key) / 1000), [hours]);
  const series = useMemo(
    () => [
      { label: "Arrivals", colour: "--bad", values: hours.map(({ arrivals }) => arrivals) },
      { label: "Replays", colour: "--good", values: hours.map(({ replays }) => replays) },
    ],
    [hours],
  );
  const [come, gone] = [sum(hours, ({ arrivals }) => arrivals), sum(hours, ({ replays }) => replays)];
  return (
    <Chart
      times={times}
      series={series}
      height={220}
      summary={`By the hour: ${count(come)} arrivals and ${count(gone)} replays in ${count(hours.length)} hours`}
    />
  );
};

const percent = (ratio: number | null) => (ratio === null ? "–" : `${Math.round(ratio * 100)} %`);

const Stats = ({
  field,
  stats,
  title,
}: {
  readonly stats: ReadonlyArray<Stat>;
  readonly title: string;
  readonly field: "type" | "reason";
}) =>
  stats.length === 0 ? (
    <Empty title="Nothing is dead." />
  ) : (
    <table>
      <thead>
        <tr>
          <th scope="col">{title}</th>
          <th scope="col" className="number">
            Pending
          </th>
          <th scope="col" className="number">
            Oldest
          </th>
          <th scope="col" className="number wide">
            Replays
          </th>
          <th scope="col" className="number wide">
            Worked
          </th>
        </tr>
      </thead>
      <tbody>
        {stats.slice(0, 10).map(({ depth, isExact, key, oldestAgeSeconds, replays, replaySuccessRatio }) => (
          <tr key={key}>
            <td className="clip">
              <Link to="/letters" search={{ [field]: key }}>
                {key}
              </Link>
            </td>
            <td className="number">{count(depth, isExact)}</td>
            <td className="number">{oldestAgeSeconds === null ? "–" : span(oldestAgeSeconds)}</td>
            <td className="number wide">{count(replays)}</td>
            <td className="number wide">{percent(replaySuccessRatio)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );

const TopGroups = () => {
  const { interval } = useLive();
  const groups = useQuery({
    queryKey: ["groups", "top"],
    queryFn: ({ signal }) => api.groups({ params: new URLSearchParams({ limit: "5" }), signal }),
    refetchInterval: interval,
  });
  return (
    <section className="card" aria-labelledby="groups">
      <h2 id="groups">The most frequent failures</h2>
      <Answer query={groups} what="the groups">
        {(found) =>
          found.length === 0 ? (
            <Empty title="Nothing is dead.">New dead letters appear here by themselves.</Empty>
          ) : (
            <ul className="plain">
              {found.map(({ count: many, fingerprint, isExact, last, message, reason, type }) => (
                <li key={fingerprint} className="line">
                  <span className="number">{count(many, isExact)}</span>
                  <Link to="/letters" search={{ fingerprint }} className="clip">
                    {type}: {message ?? reason}
                  </Link>
                  <Ago at={last} />
                </li>
              ))}
            </ul>
          )
        }
      </Answer>
    </section>
  );
};
