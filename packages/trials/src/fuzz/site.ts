/** The database that a target works on: two tenants, and dead letters of every kind, odd ones among them. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import type * as Redacted from "effect/Redacted";
import { balance, eachOnce, terms } from "../../../database/test/support/balance.js";

/** What JavaScript passes and the compiler would refuse. */
export const untyped = (value: unknown) => value as never;

/** A dead letter as a caller would insert it. */
export const letter = (appId: string, given: object = {}) => ({
  originalJobId: randomUUID(),
  appId,
  type: "mail.send",
  payload: { to: "a@example.com" } as unknown,
  errorReason: "MaxRetries",
  attempts: 3,
  errorHistory: [{ error: "Error: no route", timestamp: 1_790_000_000_000 }],
  replayedAt: Option.none<Date>(),
  requestId: Option.none<string>(),
  userId: Option.none<string>(),
  ...given,
});

/** A job as a caller would submit it. */
export const work = (appId: string, given: object = {}) => ({
  appId,
  type: "mail.send",
  payload: { to: "a@example.com" } as unknown,
  requestId: Option.none<string>(),
  userId: Option.none<string>(),
  ...given,
});

/** Times that a column may hold and a JavaScript date may not. */
const oddTimes = [
  "infinity",
  "-infinity",
  "4713-01-02 00:00:00+00 BC",
  "0044-03-15 00:00:00+00 BC",
  "0001-01-01 00:00:00+00",
  "9999-12-31 23:59:59.999999+00",
  "275760-09-13 00:00:00.000001+00",
  "294276-12-31 23:59:59.999999+00",
  "2026-01-31 12:00:00.123456+00",
];

export const open = (url: Redacted.Redacted) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(
      DatabaseService.layer.pipe(Layer.provideMerge(Client.layer({ url, maxConnections: 8 }))),
    );
    const provide = Effect.provide(context);
    const db = Context.get(context, DatabaseService);
    const sql = Context.get(context, SqlClient.SqlClient);
    const newTenant = (name: string) => provide(Client.system(db.apps.insert({ name })));
    const [{ id: appId }, { id: other }] = [yield* newTenant("fuzz"), yield* newTenant("other")];
    return { context, provide, db, sql, appId, other, inTenant: Client.tenant(appId), inSystem: Client.system };
  });
export type Site = Effect.Effect.Success<ReturnType<typeof open>>;

/** Dead letters, as many as said of each tenant, and as many with odd times and histories as there are such; how many in all. */
export const fill = ({ appId, db, inSystem, other, provide, sql }: Site, each: number) =>
  provide(
    inSystem(
      Effect.gen(function* () {
        const kinds = ["mail.send", "mail.send.later", "pdf", "ünïcode", "%_"];
        const letters = [appId, other].flatMap((tenant) =>
          Array.from({ length: each }, (_, i) =>
            letter(tenant, {
              type: kinds[i % kinds.length] ?? "",
              payload: { n: i, order: { id: i % 7 }, tags: ["a", null] },
              errorReason: i % 3 === 0 ? "Validation" : "MaxRetries",
              attempts: i % 5,
            }),
          ),
        );
        yield* db.jobDlq.insertMany(letters);
        yield* sql`
          INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
          SELECT uuidv7(), ${appId}::uuid, 'odd', '[1e400, "x"]', 'of another release', -1, '[]', t::timestamptz
          FROM unnest(${oddTimes}::text[]) AS t`;
        yield* sql`
          INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history)
          SELECT uuidv7(), ${appId}::uuid, '', 'null', '', 0, h::jsonb
          FROM unnest(${["[null, 1]", '[{"error": 1}]', '[{"error": "x"}]']}::text[]) AS h`;
        return letters.length + oddTimes.length + 3;
      }),
    ),
  );

/** No dead letter is lost and none is there twice, for a database that so many were inserted into and whose jobs all came by replay. */
export const balanced = (site: Site, inserted: () => number) =>
  site.provide(
    Effect.gen(function* () {
      const found = yield* terms(undefined);
      const { jobsCancelled, jobsCompleted, jobsDead, jobsPending, jobsProcessing } = found;
      const jobs = jobsPending + jobsProcessing + jobsCompleted + jobsDead + jobsCancelled;
      yield* balance({ inserted: inserted(), submitted: jobs, purgedJobs: 0 });
      yield* eachOnce(undefined);
    }),
  );

/** An id that is not there. */
export const nobody = randomUUID();
