import { execFile } from "node:child_process";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { isFull, rounds } from "../support/campaign.js";
import { newTenant, TestDatabase, TestUrl } from "../support/database.js";

const program = fileURLToPath(new URL("../support/transfer-process.ts", import.meta.url));
const start = promisify(execFile);

/** Runs the process with a heap of so many megabytes; its output, or the error with its exit code. */
const child = (megabytes: number, what: string, appId: string, file: string) =>
  Effect.gen(function* () {
    const url = yield* TestUrl;
    return yield* Effect.tryPromise(() =>
      start(process.execPath, [`--max-old-space-size=${megabytes}`, "--import", "tsx", program, what, appId, file], {
        env: { ...process.env, DATABASE_URL: Redacted.value(url) },
      }),
    );
  });

const folder = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "dlq-transfer-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true })),
);

// More text than the heap has room for.
const count = 200_000;
const words = 60;

layer(TestDatabase, { excludeTestServices: true })("in a process with a heap of 96 MB", (it) => {
  const digest = (appId: string) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const rows = yield* sql`
        SELECT count(*)::int AS count, md5(string_agg(md5((to_jsonb(d) - 'arrived' - 'updated_at')::text), '' ORDER BY id)) AS digest
        FROM job_dlq d WHERE app_id = ${appId}::uuid`;
      return rows[0];
    });

  it.scoped.runIf(isFull)(
    "more letters than it has room for are exported, and imported as they were",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient;
        const file = join(yield* folder, "letters.ndjson");
        const appId = yield* newTenant;
        // Random, so that it is as large in the table as in the text. In short transactions, for the sake of other files' tests.
        for (let from = 1; from <= count; from += 5_000) {
          yield* sql`
            INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at)
            SELECT uuidv7(), ${appId}::uuid, 'bulk.' || i % 7,
              jsonb_build_object('n', i, 'text', (SELECT string_agg(md5((i * 1000 + w)::text), ' ') FROM generate_series(1, ${words}::int) w)),
              'MaxRetries', 3, '[]', now() - i * interval '1.000001 second', CASE WHEN i % 3 = 0 THEN now() END
            FROM generate_series(${from}::int, ${from}::int + 4999) i`;
        }
        const before = yield* digest(appId);
        const start = yield* Effect.clockWith((_) => _.currentTimeMillis);
        yield* child(96, "export", appId, file);
        const middle = yield* Effect.clockWith((_) => _.currentTimeMillis);
        const { size } = yield* Effect.promise(() => stat(file));
        assert.isAbove(size, 110_000_000);
        yield* sql`DELETE FROM job_dlq WHERE app_id = ${appId}::uuid`;
        const deleted = yield* Effect.clockWith((_) => _.currentTimeMillis);
        const { stdout } = yield* child(96, "import", appId, file);
        const end = yield* Effect.clockWith((_) => _.currentTimeMillis);
        console.log(
          `${count} letters, ${Math.round(size / 1e6)} MB: exported in ${middle - start} ms, imported in ${end - deleted} ms`,
        );
        assert.deepStrictEqual(JSON.parse(stdout), { lines: count, imported: count, duplicates: 0, refused: 0 });
        assert.deepStrictEqual(yield* digest(appId), before);

        const hoarding = yield* Effect.flip(child(96, "hoard", appId, file));
        assert.match(String(Reflect.get(hoarding.cause as Error, "stderr")), /heap out of memory/);

        const long = JSON.parse((yield* child(96, "long", appId, file)).stdout);
        assert.isAbove(long.duplicates, 1);
        // The line of 1 GB, and the one that the beginning of the file ends in.
        assert.deepStrictEqual(long, {
          lines: long.duplicates + 2,
          imported: 0,
          duplicates: long.duplicates,
          refused: 2,
        });
      }),
    rounds(1_800_000, 600_000),
  );
});
