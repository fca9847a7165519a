/** The tests of dead letters on a partitioned job_dlq; partitioning.test.ts runs them in the full tests. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/job-dlq/*.test.ts", "test/{job-dlq,paging,replay,round-trip,scopes,factory,predicates}.test.ts"],
    // explain.test.ts counts what is read of the table itself, which is nothing here: partitioning.test.ts looks at plans.
    exclude: ["test/job-dlq/{explain,transfer-memory}.test.ts"],
    globalSetup: ["test/support/partitioned-setup.ts"],
    pool: "forks",
    poolOptions: { forks: { maxForks: 1, minForks: 1 } },
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
