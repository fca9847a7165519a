/** A cancellation that waits for somebody else's change of the job goes by what the job is then. */
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { inOrder } from "../../database/test/support/contest.js";
import { newTenant } from "../../database/test/support/database.js";
import * as JobType from "../src/job-type.js";
import * as Jobs from "../src/jobs.js";
import { TestJobs } from "./support/runners.js";

const Once = JobType.make("test.once", { payload: S.Struct({ n: S.Number }) });

layer(TestJobs, { excludeTestServices: true })("a cancellation", (it) => {
  it.effect("behind a replay of the same job cancels it, or does not say so", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const appId = yield* newTenant;
      const inScope = Client.tenant(appId);
      const { jobId } = yield* Jobs.submit(Once, { n: 1 }, { appId });
      const letter = yield* inScope(db.jobs.deadLetter({ id: jobId, reason: "MaxRetries", error: "e" }));
      const [replayed, cancelled] = yield* inOrder(
        "SELECT FROM jobs WHERE id = $1 FOR UPDATE",
        [jobId],
        [
          Effect.asVoid(inScope(db.jobDlq.replay([letter.id], { actor: "test" }))),
          Effect.map(inScope(Jobs.cancel(jobId)), (answer) =>
            assert.deepStrictEqual(answer, { status: "pending", isCancelled: true }),
          ),
        ],
      );
      assert.isTrue(Exit.isSuccess(replayed ?? Exit.void));
      assert.isTrue(Exit.isSuccess(cancelled ?? Exit.void), String(cancelled));
      const job = Option.getOrThrow(yield* inScope(db.jobs.get(jobId)));
      assert.strictEqual(job.status, "cancelled");
    }),
  );
});
