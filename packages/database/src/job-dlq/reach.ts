/**
 * How far figures look: at every dead letter that the filter matches, or only at the newest ones, so that an answer comes soon
 * whatever the filter asks for.
 *
 * Pending letters by type, reason, fingerprint and time are counted in an index, which has all of that: a million in a quarter of a
 * second. Every other condition needs the letters themselves, and those that no index finds are tried on one after the other.
 */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { wholeOf } from "../arguments.js";
import { currentScope } from "../transaction.js";
import { compileFilter, type JobDlqFilter } from "./filter.js";

export interface ReachOptions {
  /**
   * Dead letters that are looked at, at most, 1 to 1,000,000; the newest. Where there are more, counts say "at least": `isExact` is
   * false. Default: all, however long it takes. What is counted in an index is always counted whole: pending letters by type,
   * reason, fingerprint and time.
   */
  readonly most?: number | undefined;
}

/** Where a statement's figures come from. */
export interface Reach {
  /** CTEs before its own, each with a comma behind it. */
  readonly ctes: Fragment;
  /** What it reads as `d`: id, app_id, type, error_reason, fingerprint, dlq_at. */
  readonly from: Fragment;
  /** Which of these count. */
  readonly matches: Fragment;
  /** Which of `job_dlq d` the newest ten are taken from. */
  readonly sampled: Fragment;
  /** Whether they are all. */
  readonly isExact: Fragment;
  /** Whether they are in the index of kinds. */
  readonly isIndexed: boolean;
}

const inIndex = new Set(["type", "reason", "fingerprint", "since", "until", "state", "all"]);
const isIndexed = (filter: JobDlqFilter) =>
  (filter.state ?? "pending") === "pending" && Object.keys(filter).every((field) => inIndex.has(field));

/** The conditions by which an index finds letters, in the order in which the newest come first; the others are tried on each. */
const found = (filter: JobDlqFilter, isTenant: boolean): JobDlqFilter => {
  const { payload: _payload, reason: _reason, text: _text, ...conditions } = filter;
  if (isTenant) return conditions;
  // Those indexes begin with the tenant.
  const { fingerprint: _fingerprint, type: _type, ...others } = conditions;
  return others;
};

/** For a checked filter. */
export const reachOf = (sql: SqlClient.SqlClient, operation: string, filter: JobDlqFilter, most: number | undefined) =>
  Effect.gen(function* () {
    const matches = compileFilter(sql, filter);
    const isInIndex = isIndexed(filter);
    const bound = most === undefined ? undefined : yield* wholeOf(operation, "most", most, 1, 1_000_000);
    if (bound === undefined || isInIndex) {
      const all: Reach = {
        ctes: sql``,
        from: sql`job_dlq`,
        matches,
        sampled: matches,
        isExact: sql`true`,
        isIndexed: isInIndex,
      };
      return all;
    }
    const scope = yield* currentScope;
    const isTenant = Option.exists(scope, ({ _tag }) => _tag === "tenant");
    // Letters of every state have no index by time for all tenants; ids are of the time when they were made.
    const isByTime = isTenant || (filter.state ?? "pending") === "pending";
    // One more than asked for tells whether there are more.
    const few: Reach = {
      ctes: sql`
        few AS MATERIALIZED (
          SELECT d.id, d.app_id, d.type, d.error_reason, d.fingerprint, d.dlq_at, (${compileFilter(sql, { ...filter, state: "any" })})
              AND row_number() OVER () <= ${bound} AS counts
          FROM (
            SELECT d.* FROM job_dlq d
            WHERE ${compileFilter(sql, found(filter, isTenant))}
            ORDER BY ${isByTime ? sql`d.dlq_at DESC, d.id DESC` : sql`d.id DESC`}
            LIMIT ${bound + 1}) d),`,
      from: sql`few`,
      matches: sql`d.counts`,
      sampled: sql`d.id IN (SELECT f.id FROM few f WHERE f.counts ORDER BY f.dlq_at DESC, f.id DESC LIMIT 10)`,
      isExact: sql`(SELECT count(*) <= ${bound} FROM few)`,
      isIndexed: false,
    };
    return few;
  });
