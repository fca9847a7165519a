/** Handlers whose payloads must stay where payloads are kept. They use the database, log, and fail; what they say has nothing of the payload. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import * as JobType from "../../src/job-type.js";

const Card = S.Struct({ card: S.String, n: S.Number });

export const Charge = JobType.make("canary.charge", { payload: Card, retry: { maxAttempts: 2, initial: "20 millis" } });
export const Settle = JobType.make("canary.settle", { payload: Card, transactional: true });
/** It fails by its own SQL, of which the server tells more than the message. */
export const Twice = JobType.make("canary.twice", { payload: Card, retry: { maxAttempts: 1 } });

/** What it says itself is told. */
export const Leaky = JobType.make("canary.leaky", { payload: Card, retry: { maxAttempts: 1 } });

const touch = (card: string) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT length(${card}::text)`);

export default Layer.mergeAll(
  Leaky.toLayer(({ card }) => Effect.fail(new Error(`declined: ${card}`))),
  Charge.toLayer(({ card }) =>
    Effect.gen(function* () {
      yield* touch(card);
      yield* Effect.logDebug("charging");
      return yield* Effect.fail(new Error("the bank does not answer"));
    }),
  ),
  Settle.toLayer(({ card }) => Effect.asVoid(touch(card))),
  Twice.toLayer(({ card }) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO cards (card) VALUES (${card}), (${card})`),
  ),
);
