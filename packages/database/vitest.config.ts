import { defineProject } from "vitest/config";

export default defineProject({
  test: {
    name: "database",
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/global-setup.ts"],
    pool: "forks",
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
