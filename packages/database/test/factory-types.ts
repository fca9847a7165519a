/**
 * What the compiler must accept and refuse about predicates, orders and patches. `tsc` checks it in `typecheck`;
 * `predicates.test.ts` compiles it again without its expectations, and wants an error at each of them and nowhere else.
 */
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { Is, repo, Update } from "../src/factory.js";
import { App, JobDlq } from "../src/models.js";
import { DatabaseService } from "../src/repos.js";

export const accepted = Effect.gen(function* () {
  const { jobs } = yield* DatabaseService;
  const purging = yield* repo(JobDlq, "job_dlq", { purge: "purge_job_dlq" });
  return [
    jobs.find({}),
    jobs.find({ type: "a", attempts: 3, fence: 3n, status: "dead" }),
    jobs.find({ userId: "bare" }),
    jobs.find({ userId: Option.some("wrapped") }),
    jobs.find({ userId: Option.none() }),
    jobs.find({ userId: Is.absent, requestId: Is.present }),
    jobs.find({ userId: Is.not("bare"), attempts: Is.atLeast(2), type: Is.oneOf(["a", "b"]) }),
    jobs.find({ status: Is.oneOf(["pending", "processing"]), priority: Is.not("low") }),
    jobs.find({ scheduledAt: Is.lessThan(DateTime.unsafeMake(0)), startedAt: Is.atMost(DateTime.unsafeMake(0)) }),
    jobs.find({ payload: { anything: [null] } }),
    jobs.find({}, { limit: 1, order: { priority: "desc", id: "asc" } }),
    jobs.count(),
    jobs.set({ id: "a" }, { type: "b", priority: "low", userId: Option.none(), scheduledAt: Update.now }),
    purging.set({ id: "a" }, { replayedAt: Update.now, errorReason: "Validation" }),
    purging.purge(30),
  ];
});

export const refused = Effect.gen(function* () {
  const { apps, jobDlq, jobs } = yield* DatabaseService;
  const plain = yield* repo(App, "apps", {});
  const fixed = yield* repo(JobDlq, "job_dlq", { fixed: ["payload"] });
  return [
    // @ts-expect-error a column that the model does not have
    jobs.find({ typo: "a" }),
    // @ts-expect-error a column of the database that the model does not have
    jobs.find({ updatedAt: Is.present }),
    // @ts-expect-error the name of the column and not of the field
    jobs.count({ app_id: "a" }),
    // @ts-expect-error a number for a text
    jobs.one({ type: 3 }),
    // @ts-expect-error a text for a number
    jobs.find({ attempts: "3" }),
    // @ts-expect-error a number for a bigint
    jobs.find({ fence: 3 }),
    // @ts-expect-error a status that there is not
    jobs.find({ status: "asleep" }),
    // @ts-expect-error an option around a column that is never NULL
    jobs.find({ type: Option.some("a") }),
    // @ts-expect-error a number for an optional text
    jobs.find({ userId: 3 }),
    // @ts-expect-error null, where Is.absent or none is meant
    jobs.find({ userId: null }),
    // @ts-expect-error undefined, which is no condition
    jobs.find({ userId: undefined }),
    // @ts-expect-error a condition with the wrong type
    jobs.find({ attempts: Is.lessThan("3") }),
    // @ts-expect-error a list with a value of the wrong type
    jobs.find({ type: Is.oneOf(["a", 1]) }),
    // @ts-expect-error a list with a status that there is not
    jobs.find({ status: Is.oneOf(["pending", "asleep"]) }),
    // @ts-expect-error an option in a comparison
    jobs.find({ userId: Is.not(Option.some("a")) }),
    // @ts-expect-error a text for a time
    jobs.find({ scheduledAt: Is.atMost("2026-01-01") }),
    // @ts-expect-error an unknown column in the order
    jobs.find({}, { order: { typo: "asc" } }),
    // @ts-expect-error an unknown direction
    jobs.find({}, { order: { id: "up" } }),
    // @ts-expect-error Update.now for a text
    jobs.set({ id: "a" }, { type: Update.now }),
    // @ts-expect-error Update.now for a number
    fixed.set({ id: "a" }, { attempts: Update.now }),
    // @ts-expect-error Update.now for an optional text
    fixed.set({ id: "a" }, { userId: Update.now }),
    // @ts-expect-error Update.now is no condition
    jobs.find({ scheduledAt: Update.now }),
    // @ts-expect-error a condition is no value
    jobs.set({ id: "a" }, { maxAttempts: Is.atLeast(2) }),
    // @ts-expect-error the id never changes
    jobs.set({ id: "a" }, { id: "b" }),
    // @ts-expect-error the time of a dead letter never changes
    jobDlq.set({ id: "a" }, { dlqAt: Update.now }),
    // @ts-expect-error a field that the configuration fixes
    fixed.set({ id: "a" }, { payload: 1 }),
    // @ts-expect-error an insert without its tenant
    jobs.insert({ type: "a", payload: 1, userId: Option.none(), requestId: Option.none() }),
    // @ts-expect-error a purge that is not configured
    apps.purge,
    // @ts-expect-error a purge that is not configured
    plain.purge,
  ];
});
