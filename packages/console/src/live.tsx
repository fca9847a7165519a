/** What comes while the page is open: the server tells each arrival, and what others change is asked for again and again. */
import { type QueryKey, useQueryClient } from "@tanstack/react-query";
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
  queryKey[0] !== "me" && pagesOf(state.data) <= mostFollowedPages;
const pagesOf = (data: unknown) =>
  (data as { readonly pages?: ReadonlyArray<unknown> } | undefined)?.pages?.length ?? 0;

/** How often a list asks again: as often as the page does, but for one that was read far. */
export const listInterval =
  (interval: number | false) =>
  ({ state }: { readonly state: { readonly data: unknown } }) =>
    pagesOf(state.data) <= mostFollowedPages ? interval : false;

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

  useEffect(() => {
    if (!isLive) return;
    const ending = new AbortController();
    const { signal } = ending;
    // Many come at once in a bad minute: the page asks again once a second at most.
    let isDue = false;
    const refresh = () => {
      if (isDue) return;
      isDue = true;
      setTimeout(() => {
        isDue = false;
        if (!signal.aborted) queries.invalidateQueries({ predicate: isFollowed });
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
              pause = 1000;
              // What happened while nobody listened.
              refresh();
            },
          })) {
            if (event === "problem") break;
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
  }, [isLive, queries]);

  const interval = isLive ? 5000 : (false as const);
  return <Context value={{ isLive, setLive, isConnected, interval }}>{children}</Context>;
};
