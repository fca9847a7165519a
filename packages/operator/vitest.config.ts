import { defineProject } from "vitest/config";

export default defineProject({
  test: {
    name: "operator",
    include: ["test/**/*.test.ts"],
    globalSetup: ["../database/test/support/global-setup.ts"],
    pool: "forks",
    testTimeout: 120_000,
    hookTimeout: 60_000,
  },
});
