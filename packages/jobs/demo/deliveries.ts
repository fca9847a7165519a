/**
 * The demo's input: every webhook delivery that `@octokit/webhooks-examples` has collected from api.github.com, as they came.
 * 329 deliveries of 58 event types in version 7.6.1.
 */
import { createRequire } from "node:module";
import * as FileSystem from "@effect/platform/FileSystem";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";

/** One delivery. `requestId` and `userId` are made from its place in the file and its sender: the same in every run. */
export interface Delivery {
  /** `github.<event>`: the job's type. */
  readonly type: string;
  readonly payload: unknown;
  readonly requestId: string;
  /** None for the few deliveries that no person caused. */
  readonly userId: Option.Option<string>;
}

/** The package with the deliveries is not installed, or not what it was. */
export class DeliveriesUnreadable extends S.TaggedError<DeliveriesUnreadable>()("DeliveriesUnreadable", {
  problem: S.String,
}) {
  override get message() {
    return `The webhook deliveries of @octokit/webhooks-examples cannot be read: ${this.problem}. Run pnpm install.`;
  }
}

const EventFile = S.parseJson(S.Array(S.Struct({ name: S.NonEmptyString, examples: S.Array(S.Unknown) })));
const decodeSender = S.decodeUnknownOption(S.Struct({ sender: S.Struct({ id: S.NonNegativeInt }) }));

const uuidOf = (kind: number, number: number) =>
  `${String(kind).padStart(8, "0")}-0000-4000-8000-${number.toString(16).padStart(12, "0")}`;

/** All deliveries, in the order of the file. */
export const readDeliveries = Effect.gen(function* () {
  const files = yield* FileSystem.FileSystem;
  const path = yield* Effect.try(() =>
    createRequire(import.meta.url).resolve("@octokit/webhooks-examples/api.github.com/index.json"),
  );
  const events = yield* Effect.flatMap(files.readFileString(path), S.decodeUnknown(EventFile));
  return events
    .flatMap(({ examples, name }) => examples.map((payload) => ({ type: `github.${name}`, payload })))
    .map(
      ({ payload, type }, place): Delivery => ({
        type,
        payload,
        requestId: uuidOf(1, place),
        userId: Option.map(decodeSender(payload), ({ sender }) => uuidOf(2, sender.id)),
      }),
    );
}).pipe(Effect.mapError((error) => new DeliveriesUnreadable({ problem: error.message })));
