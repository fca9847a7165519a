/** What a process and its keeper say to each other: one JSON argument in, one JSON line out; then the open pipe is all. */
import * as S from "effect/Schema";
import { Provider } from "../errors.js";

/** `provider` null: Docker when an engine answers, else embedded. `dataDirectory` null: a temporary one. */
export const KeeperInput = S.Struct({
  provider: S.NullOr(Provider),
  dataDirectory: S.NullOr(S.String),
  settings: S.Record({ key: S.String, value: S.String }),
});
export type KeeperInput = typeof KeeperInput.Type;

export const KeeperOutput = S.Union(
  S.TaggedStruct("started", { provider: Provider, url: S.String }),
  S.TaggedStruct("failed", { provider: S.String, problem: S.String, remedy: S.String }),
);
export type KeeperOutput = typeof KeeperOutput.Type;
