/**
 * How far figures look: at every dead letter that the filter matches, or only at the newest ones, so that an answer comes soon
 * whatever the filter asks for.
 *
 * Pending letters by type, reason, fingerprint and time are counted in an index: a million in a quarter of a second. Every other
 * condition needs the letters themselves, and those that no index finds are tried on one after the other.
 */
import type * as SqlClient from "@effect/sql/SqlClient";
import type { Fragment } from "@effect/sql/Statement";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Struct from "effect/Struct";
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
  /** Figures by type, error_reason and maybe more: a query of these two, count, oldest and newest. */
  readonly kinds: Fragment;
  /** What else is counted is read as `d`: id, app_id, fingerprint, dlq_at, and where it is not `isIndexed`, type and error_reason. */
  readonly from: Fragment;
  /** Which of these count. */
  readonly matches: Fragment;
  /** Which of `job_dlq d` the newest ten are taken from; `newest` is when the last one that matches died. */
  readonly sampled: (newest: Fragment) => Fragment;
  /** Whether they are all. */
  readonly isExact: Fragment;
  /** Whether they are in the index of fingerprints, by the CTE `kinds (fingerprint, type, error_reason, count, oldest, newest)`. */
  readonly isIndexed: boolean;
}

const inIndex = new Set(["type", "reason", "fingerprint", "since", "until", "state", "all"]);
const isPending = ({ state = "pending" }: JobDlqFilter) => state === "pending";
const isIndexed = (filter: JobDlqFilter) =>
  isPending(filter) && Object.keys(filter).every((field) => inIndex.has(field));

/**
 * The letters of a fingerprint have one type and one reason, which is in one of them: so these are looked up once for each, and all
 * are counted in the index. (Two that differ only in where a line breaks between type and reason have one fingerprint.)
 */
const reachOfIndex = (sql: SqlClient.SqlClient, filter: JobDlqFilter): Reach => {
  const { reason, type, ...conditions } = filter;
  const isAll = reason === undefined && type === undefined;
  const indexed = compileFilter(sql, conditions);
  const ofKind = compileFilter(sql, { ...Struct.pick(filter, "type", "reason"), state: "any" });
  const kinds = sql`
    kinds AS MATERIALIZED (
      SELECT k.fingerprint, d.type, d.error_reason, k.count, k.oldest, k.newest
      FROM (
        SELECT d.fingerprint, count(*)::int AS count, min(d.dlq_at) AS oldest, max(d.dlq_at) AS newest, any_value(d.id) AS id
        FROM job_dlq d
        WHERE ${indexed}
        GROUP BY d.fingerprint) k
      CROSS JOIN LATERAL (SELECT d.type, d.error_reason FROM job_dlq d WHERE d.id = k.id OFFSET 0) d
      WHERE ${ofKind}),`;
  // The newest ten letters are of the ten kinds of which one died last, and there of the ten tenants of whom one did: each has its
  // newest at the beginning of a range of the index.
  const newestOfKinds = sql`
    SELECT n.id
    FROM (
      SELECT d.app_id, d.fingerprint
      FROM job_dlq d
      WHERE ${indexed} AND d.fingerprint = ANY (ARRAY(
        SELECT fingerprint FROM kinds ORDER BY newest DESC FETCH FIRST 10 ROWS WITH TIES))
      GROUP BY d.app_id, d.fingerprint
      ORDER BY max(d.dlq_at) DESC
      FETCH FIRST 10 ROWS WITH TIES) p
    CROSS JOIN LATERAL (
      SELECT d.id, d.dlq_at FROM job_dlq d
      WHERE ${indexed} AND d.app_id = p.app_id AND d.fingerprint = p.fingerprint
      ORDER BY d.dlq_at DESC, d.id DESC
      LIMIT 10) n
    ORDER BY n.dlq_at DESC, n.id DESC
    LIMIT 10`;
  return {
    ctes: kinds,
    kinds: sql`SELECT type, error_reason, count, oldest, newest FROM kinds`,
    from: sql`job_dlq`,
    matches: isAll ? indexed : sql`${indexed} AND d.fingerprint = ANY (ARRAY(SELECT fingerprint FROM kinds))`,
    sampled: (newest) =>
      isAll ? sql`${indexed} AND d.dlq_at <= ${newest}` : sql`d.id = ANY (ARRAY(${newestOfKinds}))`,
    isExact: sql`true`,
    isIndexed: true,
  };
};

const kindsOf = (sql: SqlClient.SqlClient, from: Fragment, matches: Fragment) => sql`
  SELECT d.type, d.error_reason, count(*)::int AS count, min(d.dlq_at) AS oldest, max(d.dlq_at) AS newest
  FROM ${from} d
  WHERE ${matches}
  GROUP BY d.type, d.error_reason`;

const reachOfAll = (sql: SqlClient.SqlClient, filter: JobDlqFilter): Reach => {
  const matches = compileFilter(sql, filter);
  return {
    ctes: sql``,
    kinds: kindsOf(sql, sql`job_dlq`, matches),
    from: sql`job_dlq`,
    matches,
    sampled: (newest) => sql`${matches} AND d.dlq_at <= ${newest}`,
    isExact: sql`true`,
    isIndexed: false,
  };
};

/** The conditions by which an index finds letters, in the order in which the newest come first; the others are tried on each. */
const found = (filter: JobDlqFilter, isTenant: boolean, isByTime: boolean): JobDlqFilter => ({
  ...Struct.omit(filter, "fingerprint", "payload", "reason", "since", "text", "type", "until"),
  ...(isByTime ? Struct.pick(filter, "since", "until") : {}),
  // These indexes begin with the tenant, and hold what is pending.
  ...(isTenant && isPending(filter) ? Struct.pick(filter, "type", "fingerprint") : {}),
});

const reachOfNewest = (sql: SqlClient.SqlClient, filter: JobDlqFilter, most: number, isTenant: boolean): Reach => {
  // Letters of every state have no index by time for all tenants; ids are of the time when they were made.
  const isByTime = isTenant || isPending(filter);
  const order = isByTime ? sql`d.dlq_at DESC, d.id DESC` : sql`d.id DESC`;
  // One more than asked for tells whether there are more.
  return {
    ctes: sql`
      few AS MATERIALIZED (
        SELECT d.id, d.app_id, d.type, d.error_reason, d.fingerprint, d.dlq_at,
          (${compileFilter(sql, { ...filter, state: "any" })}) AND row_number() OVER (ORDER BY ${order}) <= ${most} AS counts
        FROM (
          SELECT d.* FROM job_dlq d
          WHERE ${compileFilter(sql, found(filter, isTenant, isByTime))}
          ORDER BY ${order}
          LIMIT ${most + 1}) d),`,
    kinds: kindsOf(sql, sql`few`, sql`d.counts`),
    from: sql`few`,
    matches: sql`d.counts`,
    sampled: () =>
      sql`d.id = ANY (ARRAY(SELECT f.id FROM few f WHERE f.counts ORDER BY f.dlq_at DESC, f.id DESC LIMIT 10))`,
    isExact: sql`(SELECT count(*) <= ${most} FROM few)`,
    isIndexed: false,
  };
};

/** For a checked filter. */
export const reachOf = (sql: SqlClient.SqlClient, operation: string, filter: JobDlqFilter, most: number | undefined) =>
  Effect.gen(function* () {
    const bound = most === undefined ? undefined : yield* wholeOf(operation, "most", most, 1, 1_000_000);
    if (isIndexed(filter)) return reachOfIndex(sql, filter);
    if (bound === undefined) return reachOfAll(sql, filter);
    const scope = yield* currentScope;
    return reachOfNewest(
      sql,
      filter,
      bound,
      Option.exists(scope, ({ _tag }) => _tag === "tenant"),
    );
  });
