import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: ["packages/*/vitest.config.ts"],
    // Two cores: one file on each, the database between them.
    poolOptions: { forks: { maxForks: 2, minForks: 1 } },
  },
});
