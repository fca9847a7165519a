/**
 * A fingerprint that knows hexadecimal numbers without a digit: `deadbeefcafe` and `0123456789ab` are the same failure.
 *
 * Locks: ACCESS EXCLUSIVE on `job_dlq` while the table is rewritten for the generated column and all its indexes are built anew, as
 * long as 0004 takes. Run it while nothing dead-letters, or purge first. Fingerprints that somebody has noted down may change.
 * Roll forward: a later migration; this text is frozen.
 */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;

  // As in 0004, and a word of 8 or more characters that are all hexadecimal digits: by chance one of 2,500 numbers of 8 has letters
  // only, and a shorter run of them is a word. The same pattern in a second expression behind a cheaper test was no faster.
  yield* sql.unsafe(`
    CREATE OR REPLACE FUNCTION job_dlq_error_shape(p_error_history jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN regexp_replace(
      split_part(left(p_error_history -> -1 ->> 'error', 300), E'\\n', 1) COLLATE "C",
      '"[^"]*(?:"|$)|\`[^\`]*(?:\`|$)|(?<![[:alnum:]])''[^'']*(?:''|$)|[[:alnum:]_-]*[0-9][[:alnum:]_-]*(?:[:.,+][0-9][[:alnum:]_-]*)*|\\m[a-fA-F]{8,}\\M',
      '?', 'g')`);

  // The expression is as it was; saying it again is what computes the stored values anew.
  yield* sql.unsafe(`
    ALTER TABLE job_dlq
      ALTER COLUMN fingerprint SET EXPRESSION AS (job_dlq_fingerprint(type, error_reason, error_history))`);
});
