/**
 * The console's files, as its build made them: read once, answered from memory.
 *
 * Contract: a page may run this server's scripts and ask this server, and nothing else. A path that is no file is a page of the
 * console, which reads the path itself. Files with a hash in their name may be kept for ever, the page never.
 */
import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import * as HttpServerResponse from "@effect/platform/HttpServerResponse";
import * as Effect from "effect/Effect";

interface File {
  readonly type: string;
  readonly plain: Uint8Array;
  readonly zipped: Uint8Array;
}
/** By path, such as `/assets/index-3f2a.js`. */
export type Pages = ReadonlyMap<string, File>;

/** In the package beside the executable and its parts; in this repository where the console is built. */
const places = ["../console/", "./console/", "../../../console/dist/", "../../../../console/dist/"];

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

const read = async (folder: string): Promise<Pages> => {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile() && types[extname(entry.name)] !== undefined);
  return new Map(
    await Promise.all(
      files.map(async (entry) => {
        const path = join(entry.parentPath, entry.name);
        const plain = await readFile(path);
        const file: File = { type: types[extname(path)] ?? "", plain, zipped: await promisify(gzip)(plain) };
        return [`/${path.slice(folder.length).replaceAll("\\", "/")}`, file] as const;
      }),
    ),
  );
};

/** The console's files; undefined when it was not built. */
export const find: Effect.Effect<Pages | undefined> = Effect.promise(async () => {
  for (const place of places) {
    const folder = fileURLToPath(new URL(place, import.meta.url));
    const pages = await read(folder).catch(() => undefined);
    if (pages?.has("/index.html")) return pages;
  }
  return undefined;
});

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** The file of a path, or the page; undefined for a file that there is not. */
export const answer = (
  pages: Pages,
  url: string,
  encodings: string,
): HttpServerResponse.HttpServerResponse | undefined => {
  const path = url.replace(/[?#].*$/su, "");
  const file = pages.get(path) ?? (extname(path) === "" ? pages.get("/index.html") : undefined);
  if (file === undefined) return undefined;
  const isZipped = /\bgzip\b/u.test(encodings);
  return HttpServerResponse.uint8Array(isZipped ? file.zipped : file.plain, {
    contentType: file.type,
    headers: {
      "content-security-policy": policy,
      vary: "accept-encoding",
      ...(isZipped ? { "content-encoding": "gzip" } : {}),
      ...(path.startsWith("/assets/") ? { "cache-control": "public, max-age=31536000, immutable" } : {}),
    },
  });
};
