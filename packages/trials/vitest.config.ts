import { defineProject } from "vitest/config";

export default defineProject({
  test: {
    name: "trials",
    include: ["test/**/*.test.ts"],
    globalSetup: ["../database/test/support/global-setup.ts"],
    pool: "forks",
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
