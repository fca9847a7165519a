/** The service outside that releases are announced to: an HTTP server of the demo's own, which is down until it is repaired. */
import { createServer } from "node:http";
import * as FetchHttpClient from "@effect/platform/FetchHttpClient";
import * as HttpBody from "@effect/platform/HttpBody";
import * as HttpClient from "@effect/platform/HttpClient";
import * as HttpClientResponse from "@effect/platform/HttpClientResponse";
import * as HttpServer from "@effect/platform/HttpServer";
import * as HttpServerResponse from "@effect/platform/HttpServerResponse";
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer";
import * as Config from "effect/Config";
import * as Context from "effect/Context";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Ref from "effect/Ref";

/** The environment variable that tells a runner where the service is. */
export const announcerUrl = "DEMO_ANNOUNCER_URL";

/** The service took nothing. Trying again may help. */
export class AnnouncerDown extends Data.TaggedError("AnnouncerDown")<{ readonly message: string }> {}

/** What handlers have of the service. */
export class Announcer extends Context.Tag("demo/Announcer")<
  Announcer,
  { readonly announce: (text: string) => Effect.Effect<void, AnnouncerDown> }
>() {}

/** Over HTTP, to the address in the environment. */
export const layer = Layer.effect(
  Announcer,
  Effect.gen(function* () {
    const url = yield* Config.string(announcerUrl);
    const client = HttpClient.withTracerPropagation(yield* HttpClient.HttpClient, false);
    return {
      announce: (text) =>
        client.post(url, { body: HttpBody.text(text) }).pipe(
          Effect.flatMap(HttpClientResponse.filterStatusOk),
          Effect.catchTags({
            ResponseError: ({ response: { status } }) =>
              new AnnouncerDown({ message: `${status} Service Unavailable, not announced: ${text}` }),
            RequestError: ({ message }) => new AnnouncerDown({ message }),
          }),
          Effect.asVoid,
        ),
    };
  }),
).pipe(Layer.provide(FetchHttpClient.layer));

/** The service itself. */
export class AnnouncerService extends Effect.Service<AnnouncerService>()("demo/AnnouncerService", {
  scoped: Effect.gen(function* () {
    const isUp = yield* Ref.make(false);
    const server = yield* HttpServer.HttpServer;
    yield* HttpServer.serveEffect(
      Effect.map(Ref.get(isUp), (up) => HttpServerResponse.empty({ status: up ? 204 : 503 })),
    );
    return { url: HttpServer.formatAddress(server.address), repair: Ref.set(isUp, true) };
  }),
  dependencies: [NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" })],
}) {}
