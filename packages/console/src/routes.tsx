/** The pages by their paths; what a page is about stands in its URL. */
import {
  createRootRoute,
  createRoute,
  createRouter,
  parseSearchWith,
  stringifySearchWith,
} from "@tanstack/react-router";
import { filterOf } from "./filter";
import { Groups } from "./pages/groups";
import { Ledger } from "./pages/ledger";
import { Letter } from "./pages/letter";
import { Letters } from "./pages/letters";
import { Overview } from "./pages/overview";
import { Shell } from "./shell";
import { Empty } from "./ui";

const root = createRootRoute({
  component: Shell,
  notFoundComponent: () => <Empty title="There is no such page.">The menu has them all.</Empty>,
});

const overview = createRoute({
  getParentRoute: () => root,
  path: "/",
  component: Overview,
  validateSearch: ({ window }: Record<string, unknown>): { readonly window?: string } =>
    typeof window === "string" ? { window } : {},
});
const groups = createRoute({
  getParentRoute: () => root,
  path: "/groups",
  component: Groups,
  validateSearch: filterOf,
});
const letters = createRoute({
  getParentRoute: () => root,
  path: "/letters",
  component: Letters,
  validateSearch: filterOf,
});
const letter = createRoute({ getParentRoute: () => root, path: "/letters/$id", component: Letter });
const ledger = createRoute({
  getParentRoute: () => root,
  path: "/ledger",
  component: Ledger,
  validateSearch: ({ actor, kind }: Record<string, unknown>): { readonly actor?: string; readonly kind?: string } => ({
    ...(typeof actor === "string" && actor !== "" ? { actor } : {}),
    ...(typeof kind === "string" && kind !== "" ? { kind } : {}),
  }),
});

export const router = createRouter({
  routeTree: root.addChildren([overview, groups, letters, letter, ledger]),
  // Every value is a text, also one that looks like JSON.
  parseSearch: parseSearchWith((text) => text),
  stringifySearch: stringifySearchWith(String),
  scrollRestoration: true,
});

declare module "@tanstack/react-router" {
  interface Register {
    readonly router: typeof router;
  }
}
