/** Handlers as an application has them: a module whose default export is their layer. `runner packages/jobs/example/handlers.ts` */
import * as JobType from "@parametric-portal/jobs/job-type";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";

export const Greet = JobType.make("example.greet", {
  payload: S.Struct({ name: S.NonEmptyString }),
  timeout: "30 seconds",
});

const GreetLive = Greet.toLayer(({ name }, { attempt, jobId }) =>
  Effect.logInfo(`Hello ${name}`).pipe(Effect.annotateLogs({ job_id: jobId, attempt })),
);

export default Layer.mergeAll(GreetLive);
