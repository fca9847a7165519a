/**
 * Dead letters as text and back: `exportTo` writes them as NDJSON, `importFrom` reads it.
 *
 * A line is one dead letter, as a JSON object of the model's twelve fields. It is exact: payload and error history are the
 * stored jsonb's own text, never decoded and encoded again, and times have their microseconds; so what is exported, wiped and
 * imported is as it was, but for the columns that the database keeps for itself (`updated_at` and the order of arrival). A time
 * that ISO 8601 has no four digits for is in PostgreSQL's spelling: `infinity`, `0044-03-15T00:00:00.000000Z BC`.
 *
 * Both work in bounded batches, each a transaction of its own, in memory that does not grow with the number of letters. Both may
 * be stopped at any time; an import is idempotent by id, so it is resumed by calling it again.
 *
 * A stored row that does not fit its model is exported as it is, and imported as it was: an import asks for what the table can
 * hold, because a backup that leaves out what is broken would lose it.
 */
import * as Effect from "effect/Effect";
import { makeExport } from "./export.js";
import { makeImport } from "./import.js";

export const makeTransfer = Effect.gen(function* () {
  return { ...(yield* makeExport), ...(yield* makeImport) };
});
