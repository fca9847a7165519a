/** The handlers of a runner, by the name of the job type. Filled by `JobType.toLayer` while the runner's layers are built. */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import type * as Either from "effect/Either";
import * as Layer from "effect/Layer";
import type { ParseError } from "effect/ParseResult";
import * as S from "effect/Schema";
import type { JobContext, JobType } from "./job-type.js";
import type { RetryPolicy } from "./retry.js";

/** A handler as a runner runs it. */
export interface Handler {
  readonly retry: RetryPolicy;
  readonly timeoutMillis: number | undefined;
  readonly transactional: boolean;
  /** From the stored text. Made once: building a Schema's decoder costs more than running it. */
  readonly decode: (payload: string) => Either.Either<unknown, ParseError>;
  /** Needs {@link context}. */
  readonly run: (payload: unknown, job: JobContext) => Effect.Effect<unknown, unknown>;
  /** The services of the layer that it was registered in. */
  readonly context: Context.Context<never>;
}

export class JobHandlers extends Context.Tag("@parametric-portal/jobs/JobHandlers")<
  JobHandlers,
  {
    /** Dies when the type has a handler already: which of the two is meant cannot be known. */
    readonly register: <A, I, E, R>(
      type: JobType<string, A, I>,
      handler: (payload: A, context: JobContext) => Effect.Effect<unknown, E, R>,
    ) => Effect.Effect<void, never, R>;
    readonly get: (type: string) => Handler | undefined;
    readonly types: () => ReadonlyArray<string>;
  }
>() {}

export const layer: Layer.Layer<JobHandlers> = Layer.sync(JobHandlers, () => {
  const handlers = new Map<string, Handler>();
  return {
    register: (type, handler) =>
      Effect.gen(function* () {
        if (handlers.has(type.name)) return yield* Effect.dieMessage(`${type.name} has two handlers`);
        handlers.set(type.name, {
          retry: type.retry,
          timeoutMillis: type.timeoutMillis,
          transactional: type.transactional,
          decode: S.decodeEither(S.parseJson(type.payload)),
          run: handler as Handler["run"],
          context: yield* Effect.context<never>(),
        });
      }) as Effect.Effect<void, never, never>,
    get: (type) => handlers.get(type),
    types: () => [...handlers.keys()],
  };
});
