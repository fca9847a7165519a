import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import * as Client from "../../src/client.js";
import { DatabaseService } from "../../src/repos.js";
import { newTenant, TestDatabase } from "../support/database.js";

// Neighbours by a microsecond where a number of microseconds is beyond 2^53, beyond 18 digits, and beyond 2^63.
const times = [
  "-infinity",
  "4714-11-24 00:00:00+00 BC",
  "4714-11-24 00:00:00.000001+00 BC",
  "0044-03-15 23:59:59.999999+00 BC",
  "0044-03-16 00:00:00+00 BC",
  "1969-12-31 23:59:59.999999+00",
  "1970-01-01 00:00:00+00",
  "2255-06-05 23:47:34.740993+00",
  "2255-06-05 23:47:34.740994+00",
  "9999-12-31 23:59:59.999998+00",
  "9999-12-31 23:59:59.999999+00",
  "33658-09-27 01:46:39.999999+00",
  "33658-09-27 01:46:40+00",
  "294247-01-10 04:00:54.775807+00",
  "294247-01-10 04:00:54.775808+00",
  "294276-12-31 23:59:59.999998+00",
  "294276-12-31 23:59:59.999999+00",
  "infinity",
];

layer(TestDatabase, { excludeTestServices: true })("the place of a dead letter", (it) => {
  const stored = Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const appId = yield* newTenant;
    const rows = yield* sql<{ id: string }>`
      INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
      SELECT id, id, ${appId}::uuid, 'exotic', 'null', 'MaxRetries', 1, '[]', at
      FROM unnest(${times.map(() => randomUUID())}::uuid[], ${times}::timestamptz[]) AS t (id, at)
      RETURNING id`;
    return { appId, ids: rows.map(({ id }) => id) };
  });

  it.effect("is exact at every time that the database knows: pages visit each letter once", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const { appId, ids } = yield* stored;
      const visited: Array<string> = [];
      yield* Client.tenant(appId)(
        Effect.gen(function* () {
          let cursor: string | undefined;
          do {
            const page = yield* db.jobDlq.pagePending({ limit: 1, ...(cursor === undefined ? {} : { cursor }) });
            visited.push(...page.items.map(({ id }) => id), ...page.bad.map(({ id }) => id));
            cursor = Option.getOrUndefined(page.next);
          } while (cursor !== undefined && visited.length <= ids.length);
        }),
      );
      assert.deepStrictEqual(visited, [...ids].reverse());
    }),
  );

  it.effect("and so do the batches of a bulk change", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const { appId, ids } = yield* stored;
      const options = { actor: "test", reason: "x", scope: { _tag: "tenant", appId } as const, batchSize: 1 };
      const taken = yield* db.jobDlq.discard({ all: true }, options).pipe(
        Stream.mapConcat(({ receipts }) => receipts.map(({ id }) => id)),
        Stream.runCollect,
      );
      assert.deepStrictEqual([...taken], ids);
    }),
  );
});
