/** What the run and a contestant's process say to each other, one question and one answer at a time. */
import * as S from "effect/Schema";

const Work = S.Literal(
  "dead-letter one by one",
  "dead-letter in batches",
  "insert in batches",
  "replay by filter",
  "list 100",
  "work off",
  "submit to start",
);

export const Question = S.Union(
  S.TaggedStruct("open", {
    contestant: S.String,
    databaseUrl: S.String,
    redisUrl: S.optional(S.String),
  }),
  S.TaggedStruct("prepare", { work: Work, size: S.Int }),
  S.TaggedStruct("run", {}),
  S.TaggedStruct("check", {}),
  S.TaggedStruct("close", {}),
);
export type Question = typeof Question.Type;

export const Opened = S.TaggedStruct("opened", {
  name: S.String,
  version: S.String,
  settings: S.String,
  differs: S.partial(S.Record({ key: Work, value: S.String })),
  works: S.Array(Work),
});
/** `cpuSeconds` and `megabytes` (most that was resident) are the contestant's process's, not the server's. */
export const Ran = S.TaggedStruct("ran", {
  seconds: S.Number,
  cpuSeconds: S.Number,
  megabytes: S.Number,
  values: S.optional(S.Array(S.Number)),
});
export const Answer = S.Union(Opened, Ran, S.TaggedStruct("done", {}), S.TaggedStruct("failed", { message: S.String }));
export type Answer = typeof Answer.Type;
