/** Every fuzz target, by the file that makes it. */
import * as Cli from "./cli.js";
import * as Cursors from "./cursors.js";
import * as ErrorTexts from "./error-texts.js";
import * as Filters from "./filters.js";
import * as Http from "./http.js";
import * as Ndjson from "./ndjson.js";
import * as Payloads from "./payloads.js";
import type { Make } from "./target.js";

export const targets: Readonly<Record<string, Make>> = {
  filters: Filters.make,
  cursors: Cursors.make,
  NDJSON: Ndjson.make,
  HTTP: Http.make,
  CLI: Cli.make,
  payloads: Payloads.make,
  "error texts": ErrorTexts.make,
};
