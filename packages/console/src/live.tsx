/** What comes while the page is open: the server tells each arrival, and what others change is asked for again and again. */
import { type QueryClient, type QueryKey, useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect, useState } from "react";
import { eventsOf, Problem } from "./api";

interface Live {
  readonly isLive: boolean;
  readonly setLive: (isLive: boolean) => void;
  /** Whether the server tells arrivals now. */
  readonly isConnected: boolean;
  /** How often a page asks again, in milliseconds; never while it is paused. */
  readonly interval: number | false;
}
const Context = createContext<Live>({ isLive: false, setLive: () => {}, isConnected: false, interval: false });
export const useLive = (): Live => useContext(Context);

/** A list that was read this far stays as it is: to ask for all of it each time would be many requests, and would move it. */
const mostFollowedPages = 4;

const isFollowed = ({ queryKey, state }: { readonly queryKey: QueryKey; readonly state: { readonly data: unknown } }) =>
  queryKey[0] !== "me" && queryKey[0] !== "trend" && !isFar(state.data);
const pagesOf = (data: unknown) =>
  (data as { readonly pages?: ReadonlyArray<unknown> } | undefined)?.pages?.length ?? 0;

/** After a change: everything is asked for again, and a list that was read far from its beginning. */
export const refreshAll = (queries: QueryClient) => {
  queries.resetQueries({ predicate: ({ queryKey, state }) => queryKey[0] !== "me" && isFar(state.data) });
  queries.invalidateQueries({ predicate: ({ queryKey, state }) => queryKey[0] !== "me" && !isFar(state.data) });
};

/** Whether a list was read so far that it is not asked for again by itself. */
export const isFar = (data: unknown): boolean => pagesOf(data) > mostFollowedPages;

/** How often a list asks again: as often as the page does, but for one that was read far. */
export const listInterval =
  (interval: number | false) =>
  ({ state }: { readonly state: { readonly data: unknown } }) =>
    !isFar(state.data) ? interval : false;

const wait = (millis: number, signal: AbortSignal) =>
  new Promise<void>((resume) => {
    const timer = setTimeout(resume, millis);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resume();
    });
  });

export const LiveUpdates = ({ children }: { readonly children: ReactNode }) => {
  const queries = useQueryClient();
  const [isLive, setLive] = useState(true);
  const [isConnected, setConnected] = useState(false);

  // A browser has few connections to one server: what nobody looks at gives its own back.
  const [isSeen, setSeen] = useState(!document.hidden);
  useEffect(() => {
    const onChange = () => setSeen(!document.hidden);
    document.addEventListener("visibilitychange", onChange);
    return () => document.removeEventListener("visibilitychange", onChange);
  }, []);

  useEffect(() => {
    if (!isLive || !isSeen) return;
    const ending = new AbortController();
    const { signal } = ending;
    // Many come at once in a bad minute: the page asks again once a second at most.
    let isDue = false;
    const refresh = () => {
      if (isDue) return;
      isDue = true;
      setTimeout(() => {
        isDue = false;
        // What is on its way already is waited for: in a steady flow of arrivals no answer would ever come otherwise.
        if (!signal.aborted) queries.invalidateQueries({ predicate: isFollowed }, { cancelRefetch: false });
      }, 1000);
    };
    const follow = async () => {
      let last: string | undefined;
      for (let pause = 1000; !signal.aborted; pause = Math.min(pause * 2, 10_000)) {
        try {
          const params = last === undefined ? undefined : new URLSearchParams({ after: last });
          for await (const { event, id } of eventsOf("/changes", {
            params,
            signal,
            onOpen: () => {
              setConnected(true);
              // What happened while nobody listened.
              refresh();
            },
          })) {
            if (event === "problem") {
              // Such as a place in another database: from now on, then.
              last = undefined;
              break;
            }
            pause = 1000;
            last = id ?? last;
            refresh();
          }
        } catch (error) {
          if (error instanceof Problem && error.status === 401) queries.invalidateQueries({ queryKey: ["me"] });
        }
        setConnected(false);
        await wait(pause, signal);
      }
    };
    follow();
    return () => {
      ending.abort();
      setConnected(false);
    };
  }, [isLive, isSeen, queries]);

  const interval = isLive ? 5000 : (false as const);
  return <Context value={{ isLive, setLive, isConnected, interval }}>{children}</Context>;
};
