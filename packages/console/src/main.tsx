import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Problem } from "./api";
import { router } from "./routes";
import { Session } from "./session";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
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
