/** A client of the HTTP API with the types of its definition. */
import * as HttpApiClient from "@effect/platform/HttpApiClient";
import * as HttpClient from "@effect/platform/HttpClient";
import * as HttpClientRequest from "@effect/platform/HttpClientRequest";
import type * as Redacted from "effect/Redacted";
import { Api } from "./api.js";

export interface ClientOptions {
  /** Where the server is, such as `http://127.0.0.1:4480`. */
  readonly baseUrl: string | URL;
  /** Default: none, for a server without tokens. */
  readonly token?: Redacted.Redacted | undefined;
}

/**
 * `client.reading.letters({ urlParams: { type: "mail.send" } })`, `client.changing.replay({ payload: { filter } })` and so on; an error
 * is the API's own, by its tag. Needs an `HttpClient`, such as `FetchHttpClient.layer`.
 */
export const make = ({ baseUrl, token }: ClientOptions) =>
  HttpApiClient.make(Api, {
    baseUrl,
    transformClient: HttpClient.mapRequest((request) =>
      token === undefined ? request : HttpClientRequest.bearerToken(request, token),
    ),
  });
