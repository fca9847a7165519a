/** Kinds of jobs for tests, and their handlers. */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as S from "effect/Schema";
import * as JobType from "../../src/job-type.js";

const Any = S.Struct({ n: S.Number });

/** Ends well at once. */
export const Fine = JobType.make("test.fine", { payload: Any });
/** Fails, and is tried no more. */
export const Failing = JobType.make("test.failing", { payload: Any, retry: { maxAttempts: 1 } });
/** Fails, and is tried once more. */
export const Again = JobType.make("test.again", { payload: Any, retry: { maxAttempts: 2, initial: "20 millis" } });
/** Takes longer than any test. */
export const Endless = JobType.make("test.endless", { payload: Any });
/** Nobody has a handler for it. */
export const Unknown = JobType.make("test.unknown", { payload: Any, retry: { maxAttempts: 1 } });

export const handlers = Layer.mergeAll(
  Fine.toLayer(() => Effect.void),
  Failing.toLayer(({ n }) => Effect.fail(`no ${n}`)),
  Again.toLayer(({ n }) => Effect.fail(`not ${n}`)),
  Endless.toLayer(() => Effect.never),
);
