/** `dlq`: what a person on call does with dead letters, from a terminal. */
import * as Command from "@effect/cli/Command";
import * as Options from "@effect/cli/Options";
import * as Effect from "effect/Effect";
import { discard, erase, purge, replay, restore, retain } from "./change.js";
import { console } from "./console.js";
import { doctor } from "./doctor.js";
import { WrongUsage } from "./failure.js";
import { groups, history, list, show, stats } from "./look.js";
import { token } from "./token.js";
import { exportTo, importFrom, tail } from "./transfer.js";

// The executable takes it out before, wherever it stands; here it is to be told by --help.
const embedded = Options.boolean("embedded").pipe(
  Options.withDescription(
    "Try it: on a server of its own with an example in it, gone with the command. Stands with any command; needs @parametric-portal/postgres",
  ),
);

export const command = Command.make("dlq", { embedded }, () =>
  Effect.fail(new WrongUsage({ problem: "Say what to do: dlq groups, dlq list, dlq show … dlq --help says more." })),
).pipe(
  Command.withDescription(
    "Dead letters: find, understand, replay, discard. DATABASE_URL (else PGHOST, PGUSER, …) says which database.",
  ),
  Command.withSubcommands([
    list,
    show,
    groups,
    stats,
    history,
    replay,
    discard,
    restore,
    purge,
    retain,
    erase,
    exportTo,
    importFrom,
    tail,
    doctor,
    token,
    console,
  ]),
);
