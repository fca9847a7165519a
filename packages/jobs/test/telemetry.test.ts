import { assert, describe, it, layer } from "@effect/vitest";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as Tracer from "effect/Tracer";
import { newTenant, TestDatabase } from "../../database/test/support/database.js";
import type { Claimed } from "../src/job-store.js";
import * as JobStoreSql from "../src/job-store-sql.js";
import type { JobType } from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import { valueOf } from "../src/metrics.js";
import * as Runner from "../src/runner.js";
import * as Telemetry from "../src/telemetry.js";
import { Again, Failing, Fine, handlers, Unknown } from "./support/kinds.js";

interface Recorded {
  readonly name: string;
  readonly kind: Tracer.SpanKind;
  readonly spanId: string;
  readonly parent: string | undefined;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly exit: Exit.Exit<unknown, unknown>;
}

/** Keeps the spans that ended. */
class Spans extends Context.Tag("Spans")<Spans, Array<Recorded>>() {}
const spans: Array<Recorded> = [];
let ids = 0;
const recording = Tracer.make({
  span: (name, parent, context, links, startTime, kind) => {
    const attributes = new Map<string, unknown>();
    const spanId = String(++ids);
    let status: Tracer.SpanStatus = { _tag: "Started", startTime };
    return {
      _tag: "Span",
      name,
      spanId,
      traceId: Option.match(parent, { onNone: () => spanId, onSome: (_) => _.traceId }),
      parent,
      context,
      links,
      kind,
      sampled: true,
      attributes,
      get status() {
        return status;
      },
      end: (endTime, exit) => {
        status = { _tag: "Ended", startTime, endTime, exit };
        const of = Option.getOrUndefined(Option.map(parent, (_) => _.spanId));
        spans.push({ name, kind, spanId, parent: of, attributes: Object.fromEntries(attributes), exit });
      },
      attribute: (key, value) => {
        attributes.set(key, value);
      },
      event: () => undefined,
      addLinks: () => undefined,
    };
  },
  context: (run) => run(),
});

const TestTraced = Runner.layerSingle({ handlers, missingHandler: { initial: "50 millis" } }).pipe(
  Layer.provideMerge(JobStoreSql.layerDesk),
  Layer.provideMerge(TestDatabase),
  Layer.provideMerge(Layer.merge(Layer.setTracer(recording), Layer.succeed(Spans, spans))),
);

const request = () => crypto.randomUUID();

/** Submits a job, waits for its end, and returns the spans of its request, in order. */
const traced = (type: JobType<string, { readonly n: number }, { readonly n: number }>) =>
  Effect.gen(function* () {
    const requestId = request();
    const { jobId } = yield* Jobs.submit(type, { n: 1 }, { appId: yield* newTenant, requestId });
    yield* Effect.repeat(Jobs.status(jobId), {
      until: (_) => Option.isSome(_) && (_.value.status === "completed" || _.value.status === "dead"),
    });
    const all = (yield* Spans).filter((_) => _.attributes["request.id"] === requestId);
    assert.isTrue(all.every((_) => _.attributes["job.type"] === type.name));
    return { all, jobId };
  });

layer(TestTraced, { excludeTestServices: true, timeout: "60 seconds" })("spans", (it) => {
  it.effect("lead from a submission to its attempt by the id of the request", () =>
    Effect.gen(function* () {
      const { all, jobId } = yield* traced(Fine);
      assert.deepStrictEqual(
        all.map(({ kind, name, parent }) => ({ kind, name, parent })).sort((a, b) => (a.name < b.name ? -1 : 1)),
        [
          { kind: "producer", name: "Jobs.submit", parent: undefined },
          { kind: "consumer", name: "job.attempt", parent: undefined },
        ],
      );
      const attempt = all.find((_) => _.name === "job.attempt");
      assert.strictEqual(attempt?.attributes["job.id"], jobId);
      assert.strictEqual(attempt?.attributes["job.attempt"], 1);
      assert.isTrue(Exit.isSuccess(attempt?.exit ?? Exit.void));
    }),
  );

  it.effect("have one of each attempt, and of the dead letter below the last", () =>
    Effect.gen(function* () {
      const { all } = yield* traced(Again);
      const attempts = all.filter((_) => _.name === "job.attempt");
      assert.deepStrictEqual(
        attempts.map((_) => _.attributes["job.attempt"]),
        [1, 2],
      );
      assert.isTrue(attempts.every((_) => Exit.isFailure(_.exit)));
      const dead = all.filter((_) => _.name === "job.dead_letter");
      assert.deepStrictEqual(
        dead.map((_) => [_.parent, _.attributes["dead_letter.reason"]]),
        [[attempts[1]?.spanId, "MaxRetries"]],
      );
    }),
  );

  it.effect("have the dead letter of a job that never ran", () =>
    Effect.gen(function* () {
      const { all } = yield* traced(Unknown);
      const dead = all.filter((_) => _.name !== "Jobs.submit");
      assert.deepStrictEqual(
        dead.map((_) => [_.name, _.parent, _.attributes["dead_letter.reason"]]),
        [["job.dead_letter", undefined, "HandlerMissing"]],
      );
    }),
  );

  it.effect("metrics count what the spans tell", () =>
    Effect.gen(function* () {
      const before = valueOf("portal_jobs_dead_lettered_total", { type: Failing.name, reason: "MaxRetries" });
      yield* traced(Failing);
      assert.strictEqual(
        valueOf("portal_jobs_dead_lettered_total", { type: Failing.name, reason: "MaxRetries" }),
        before + 1,
      );
      assert.strictEqual(valueOf("portal_jobs_running"), 0);
    }),
  );
});

const claimed = (given: Partial<Claimed> = {}): Claimed => ({
  id: "0192f000-0000-7000-8000-000000000001",
  fence: "1",
  appId: "0192f000-0000-7000-8000-000000000002",
  type: "unit.kind",
  payload: "{}",
  attempts: 1,
  maxAttempts: 3,
  replays: 0,
  requestId: null,
  userId: null,
  partition: 1,
  waitedMillis: 1500,
  ...given,
});

// `live`: `layer` above has replaced what `effect` runs in.
describe("without a tracer", () => {
  it.live("a run is left as it is, and counted", () =>
    Effect.gen(function* () {
      const telemetry = yield* Telemetry.JobTelemetry;
      const run = Effect.succeed(1);
      assert.strictEqual(telemetry.spanned(claimed(), run), run);
      telemetry.started(claimed());
      assert.strictEqual(valueOf("portal_jobs_running"), 1);
      telemetry.ended(claimed(), "retry", 20);
      telemetry.unsettled(2);
      const { appId, attempts, id, requestId, type } = claimed();
      telemetry.rescued({ retried: 3, deadLetters: [{ jobId: id, appId, type, attempts, requestId }] });
      assert.strictEqual(valueOf("portal_jobs_running"), 0);
      assert.strictEqual(valueOf("portal_jobs_started_total", { type: "unit.kind" }), 1);
      assert.strictEqual(valueOf("portal_jobs_ended_total", { type: "unit.kind", outcome: "retry" }), 1);
      assert.strictEqual(valueOf("portal_jobs_unsettled_total"), 2);
      assert.strictEqual(valueOf("portal_jobs_rescued_total"), 4);
      assert.strictEqual(
        valueOf("portal_jobs_dead_lettered_total", { type: "unit.kind", reason: "RunnerUnavailable" }),
        1,
      );
    }).pipe(Effect.provide(Telemetry.layer)),
  );

  it.live("types beyond five hundred share their series", () =>
    Effect.gen(function* () {
      const telemetry = yield* Telemetry.JobTelemetry;
      for (let i = 0; i < 600; i++) telemetry.started(claimed({ type: `many.${i}` }));
      assert.strictEqual(valueOf("portal_jobs_started_total", { type: "many.499" }), 1);
      assert.strictEqual(valueOf("portal_jobs_started_total", { type: "many.500" }), 0);
      assert.strictEqual(valueOf("portal_jobs_started_total", { type: "other" }), 100);
    }).pipe(Effect.provide(Telemetry.layer)),
  );
});
