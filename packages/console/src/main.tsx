import { MutationCache, QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Problem } from "./api";
import { router } from "./routes";
import { Session } from "./session";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const asWho = (error: unknown, of?: unknown) => {
  const isMe = (of as { readonly queryKey?: ReadonlyArray<unknown> } | undefined)?.queryKey?.[0] === "me";
  if (error instanceof Problem && error.status === 401 && !isMe) {
    queries.invalidateQueries({ queryKey: ["me"], exact: true });
  }
};
const queries: QueryClient = new QueryClient({
  // A token that has expired meanwhile: who asks is asked anew, and that shows the sign-in.
  queryCache: new QueryCache({ onError: asWho }),
  mutationCache: new MutationCache({ onError: asWho }),
  defaultOptions: {
    // The server may be this machine itself: whether there is a network says nothing.
    mutations: { networkMode: "always" },
    queries: {
      networkMode: "always",
      refetchOnWindowFocus: false,
      // A server that is away comes back; what it refuses it refuses again.
      retry: (count, error) => error instanceof Problem && (error.status === 0 || error.status >= 500) && count < 2,
      retryDelay: 1000,
      staleTime: 1000,
    },
  },
});

const root = document.getElementById("root");
if (root === null) throw new Error("The page has no root.");
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <Session>
        <RouterProvider router={router} />
      </Session>
    </QueryClientProvider>
  </StrictMode>,
);
