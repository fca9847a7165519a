/** What stands around every page: the menu, who you are, the theme, and whether it is live. */
import { Link, Outlet, useRouterState } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { LiveUpdates, useLive } from "./live";
import { useSession } from "./session";

const pages = [
  { to: "/", title: "Overview" },
  { to: "/groups", title: "Groups" },
  { to: "/letters", title: "Dead letters" },
  { to: "/ledger", title: "Ledger" },
] as const;

const themes = ["system", "light", "dark"] as const;
type Theme = (typeof themes)[number];
const isTheme = (text: string | null): text is Theme => themes.some((theme) => theme === text);

const ThemeSwitch = () => {
  const [theme, setTheme] = useState<Theme>(() => {
    const kept = localStorage.getItem("dlq-theme");
    return isTheme(kept) ? kept : "system";
  });
  useEffect(() => {
    localStorage.setItem("dlq-theme", theme);
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }, [theme]);
  return (
    <label className="theme">
      <span className="unseen">Theme</span>
      <select value={theme} onChange={({ target }) => isTheme(target.value) && setTheme(target.value)}>
        {themes.map((one) => (
          <option key={one}>{one}</option>
        ))}
      </select>
    </label>
  );
};

const LiveSwitch = () => {
  const { isConnected, isLive, setLive } = useLive();
  const state = isLive ? (isConnected ? "Live" : "Connecting") : "Paused";
  return (
    <button
      type="button"
      className={`live ${state.toLowerCase()}`}
      aria-pressed={isLive}
      title={isLive ? "Pause: the page stays as it is" : "Go on"}
      onClick={() => setLive(!isLive)}
    >
      <span aria-hidden="true" className="dot" />
      {state}
    </button>
  );
};

const titleOf = (path: string) =>
  path.startsWith("/letters/")
    ? "Dead letter"
    : (pages.find(({ to }) => (to === "/" ? path === "/" : path.startsWith(to)))?.title ?? "Dead letters");

export const Shell = () => {
  const { name, role, signOut, tenant } = useSession();
  const path = useRouterState({ select: ({ location }) => location.pathname });
  useEffect(() => {
    document.title = `${titleOf(path)} · dlq`;
  }, [path]);
  return (
    <LiveUpdates>
      <a className="skip" href="#page">
        To the page
      </a>
      <header>
        <span className="brand">dlq</span>
        <nav aria-label="Pages">
          {pages.map(({ title, to }) => (
            <Link key={to} to={to} activeOptions={{ exact: to === "/", includeSearch: false }}>
              {title}
            </Link>
          ))}
        </nav>
        <div className="tools">
          <LiveSwitch />
          <ThemeSwitch />
          <span className="who" title={tenant === null ? "every tenant" : `tenant ${tenant}`}>
            {name} · {role}
          </span>
          {signOut === undefined ? null : (
            <button type="button" className="quiet" onClick={signOut}>
              Sign out
            </button>
          )}
        </div>
      </header>
      <main id="page">
        <Outlet />
      </main>
    </LiveUpdates>
  );
};
