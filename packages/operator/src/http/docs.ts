/** The page that documents the API: everything is in it, nothing is loaded from elsewhere. */
import { createHash } from "node:crypto";
import * as HttpApiSwagger from "@effect/platform/HttpApiSwagger";
import * as HttpServerResponse from "@effect/platform/HttpServerResponse";

export const path = "/api/v1/docs";

export const layer = HttpApiSwagger.layer({ path });

let policy: string | undefined;

/** The page with a policy that lets it run its own scripts, by their hashes, and ask this server; it is the same each time. */
export const strict = (response: HttpServerResponse.HttpServerResponse): HttpServerResponse.HttpServerResponse => {
  if (response.body._tag !== "Uint8Array") return response;
  policy ??= policyOf(new TextDecoder().decode(response.body.body));
  return HttpServerResponse.setHeader(response, "content-security-policy", policy);
};

const policyOf = (html: string) => {
  const hashes = [...html.matchAll(/<script>([\s\S]*?)<\/script>/gu)].map(
    ([, script = ""]) => `'sha256-${createHash("sha256").update(script).digest("base64")}'`,
  );
  return `default-src 'none'; script-src ${hashes.join(" ")}; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'`;
};
