/** A real Chromium, and the console in it. */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { assert } from "@effect/vitest";
import axe from "axe-core";
import * as Effect from "effect/Effect";
import { type Browser, chromium, type Page } from "playwright-core";
import { folder } from "../../../operator/test/support/dlq.js";

const candidates = [
  process.env.CHROMIUM ?? "",
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];
/** Where it is; undefined when there is none. */
export const executable = candidates.find((path) => path !== "" && existsSync(path));

const home = fileURLToPath(new URL("../..", import.meta.url));
/** Where the pictures go. */
export const pictures = join(home, "artifacts/screenshots");

/** Builds the console into the executable's folder, as it is published. In a process of its own: a test's environment would make it a slow one. */
export const built = Effect.runSync(
  Effect.cached(
    Effect.promise(() => {
      const vite = join(dirname(createRequire(import.meta.url).resolve("vite/package.json")), "bin/vite.js");
      return promisify(execFile)(
        process.execPath,
        [vite, "build", "--outDir", join(folder, "console"), "--emptyOutDir", "--logLevel", "error"],
        { cwd: home, env: { PATH: process.env.PATH, NODE_ENV: "production" } },
      );
    }),
  ),
);

export const browser: Effect.Effect<Browser, never, import("effect/Scope").Scope> = Effect.acquireRelease(
  Effect.promise(() => chromium.launch({ executablePath: executable ?? "", args: ["--no-sandbox"] })),
  (one) => Effect.promise(() => one.close()),
);

export interface Look {
  readonly token?: string;
  readonly width?: number;
  readonly theme?: "light" | "dark";
}

/** A window of its own, as of another person: signed in with a token. What the page logs as an error fails the test. */
export const open = (chromium: Browser, url: string, { theme = "light", token, width = 1280 }: Look = {}) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const context = await chromium.newContext({
          viewport: { width, height: width < 600 ? 812 : 1000 },
          colorScheme: theme,
          // axe is put into the page, which its policy forbids.
          bypassCSP: true,
        });
        context.setDefaultTimeout(15_000);
        if (token !== undefined) {
          await context.addInitScript((value) => sessionStorage.setItem("dlq-token", value), token);
        }
        const page = await context.newPage();
        const errors: Array<string> = [];
        page.on("pageerror", (error) => errors.push(String(error)));
        await page.goto(url);
        return { context, page, errors };
      }),
      ({ context, errors }) =>
        Effect.promise(async () => {
          await context.close();
          assert.deepStrictEqual(errors, []);
        }),
    ),
    ({ page }) => page,
  );

/** Nothing that axe finds, by WCAG 2.2 AA and its best practices; nothing sticks out to the side. */
export const isAccessible = async (page: Page, what: string): Promise<void> => {
  await page.addScriptTag({ content: axe.source });
  const violations = await page.evaluate(async () => {
    // What was just put into the page.
    const { axe } = globalThis as unknown as { readonly axe: typeof import("axe-core") };
    const { violations } = await axe.run();
    return violations.map(({ id, nodes: [first] }) => `${id}: ${first?.html} ${first?.failureSummary}`);
  });
  assert.deepStrictEqual(violations, [], what);
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.isAtMost(wide ?? 0, window ?? 0, `${what} has a scrollbar at its foot`);
};

export const picture = async (page: Page, name: string): Promise<void> => {
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`) });
};
