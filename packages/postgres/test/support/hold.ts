/**
 * `hold.ts OPTIONS [forget]`: starts a server and prints its URL. Then it stays until it is killed, or, told to forget, has
 * nothing else to do and leaves the scope open.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as S from "effect/Schema";
import * as Scope from "effect/Scope";
import { Provider } from "../../src/errors.js";
import * as Postgres from "../../src/postgres.js";

const Options = S.parseJson(
  S.Struct({
    provider: S.optional(Provider),
    dataDirectory: S.optional(S.String),
    settings: S.optional(S.Record({ key: S.String, value: S.String })),
  }),
);

const [, , options = "{}", then] = process.argv;
const scope = await Effect.runPromise(Scope.make());
console.log("starting");
const server = await Effect.runPromise(Scope.extend(Postgres.make(S.decodeUnknownSync(Options)(options)), scope));
console.log(Redacted.value(server.url));
if (then !== "forget") setInterval(() => undefined, 2 ** 30);
