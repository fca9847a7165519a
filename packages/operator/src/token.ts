/** `dlq token`: makes a token for the HTTP API. It is shown once; the file of tokens has only its hash. */
import * as Command from "@effect/cli/Command";
import * as Options from "@effect/cli/Options";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { Grant, hashOf, makeToken, Role } from "./access.js";
import { WrongUsage } from "./failure.js";
import { jsonOption, onTarget, targetOptions, whole } from "./options.js";
import { json, note, say } from "./output.js";

const dayMillis = 86_400_000;
const decodeGrant = S.decode(Grant);
const encodeGrant = S.encodeSync(Grant);

export const token = Command.make(
  "token",
  {
    ...targetOptions,
    name: Options.text("name").pipe(Options.withDescription("Whose it is; the actor in the ledger")),
    role: Options.choice("role", Role.literals).pipe(
      Options.withDescription("viewer looks; operator also replays and discards; admin also erases and purges"),
    ),
    seesPayloads: Options.boolean("sees-payloads").pipe(
      Options.withDescription("A viewer sees payloads and error texts too"),
    ),
    days: whole("days", 1).pipe(
      Options.optional,
      Options.withDescription("Refused after so many days; default: never"),
    ),
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ scope }) =>
      Effect.gen(function* () {
        const made = makeToken();
        const now = yield* Clock.currentTimeMillis;
        const grant = yield* decodeGrant({
          name: given.name,
          sha256: hashOf(made),
          tenant: scope._tag === "system" ? "*" : scope.appId,
          role: given.role,
          seesPayloads: given.seesPayloads,
          ...Option.match(given.days, {
            onNone: () => ({}),
            onSome: (days) => ({ expiresAt: new Date(now + days * dayMillis).toISOString() }),
          }),
        }).pipe(
          Effect.mapError(
            () =>
              new WrongUsage({
                problem:
                  scope._tag === "system" && given.role !== "admin"
                    ? "Every tenant needs the role admin: say --role admin, or --tenant."
                    : "The name is blank, begins or ends with a space, or is longer than 200 characters.",
              }),
          ),
        );
        if (given.json) return yield* say(json({ token: made, grant: encodeGrant(grant) }));
        yield* note("Add this to the file of tokens, a JSON list:");
        yield* say(json(encodeGrant(grant)));
        yield* note("The token, which is shown only now:");
        yield* say(made);
      }),
    ),
).pipe(Command.withDescription("Make a token for the HTTP API"));
