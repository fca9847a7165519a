/** What several commands ask for: which dead letters, whose, and who acts. The same flags everywhere, and the same meaning. */
import { userInfo } from "node:os";
import type * as Command from "@effect/cli/Command";
import * as HelpDoc from "@effect/cli/HelpDoc";
import * as Options from "@effect/cli/Options";
import * as ValidationError from "@effect/cli/ValidationError";
import * as SqlClient from "@effect/sql/SqlClient";
import type { SqlError } from "@effect/sql/SqlError";
import * as Client from "@parametric-portal/database/client";
import type { InvalidInput, ScopeConflict } from "@parametric-portal/database/errors";
import type { JobDlqFilter } from "@parametric-portal/database/job-dlq/filter";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Clock from "effect/Clock";
import * as Config from "effect/Config";
import type { ConfigError } from "effect/ConfigError";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { WrongUsage } from "./failure.js";
import { howToSay, momentOf } from "./moment.js";

const invalid = (problem: string) => Effect.fail(ValidationError.invalidValue(HelpDoc.p(problem)));

export const moment = (name: string) => (text: string) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const at = momentOf(text, now);
    return at === undefined ? invalid(`--${name} is ${JSON.stringify(text)}; ${howToSay}`) : Effect.succeed(at);
  });

const jsonOf = (name: string) => (text: string) =>
  Effect.try(() => JSON.parse(text) as unknown).pipe(
    Effect.catchAll(() => invalid(`--${name} is ${JSON.stringify(text.slice(0, 100))}, which is no JSON`)),
  );

const isUuid: (text: string) => boolean = S.is(S.UUID);
const uuidOf = (name: string) => (text: string) =>
  isUuid(text) ? Effect.succeed(text) : invalid(`--${name} is ${JSON.stringify(text.slice(0, 100))}, which is no id`);
const uuid = (name: string) => Options.text(name).pipe(Options.mapEffect(uuidOf(name)));

export const json = (name: string) => Options.text(name).pipe(Options.mapEffect(jsonOf(name)));

/** A whole number, `least` or more. */
export const whole = (name: string, least: number) =>
  Options.integer(name).pipe(
    Options.filterMap(
      (value) => (value >= least ? Option.some(value) : Option.none()),
      `--${name} must be a whole number, ${least} or more`,
    ),
  );

// --- which dead letters ------------------------------------------------------

/** The flags of the one filter; {@link filterOf} makes it of them. */
export const filterOptions = {
  ids: Options.text("id").pipe(
    Options.withDescription("Dead letters by id; may be said several times"),
    Options.repeated,
    Options.mapEffect(Effect.forEach(uuidOf("id"))),
  ),
  type: Options.text("type").pipe(
    Options.optional,
    Options.withDescription("Their job type; mail.* is every type that begins with mail."),
  ),
  reason: Options.text("reason").pipe(
    Options.optional,
    Options.withDescription("MaxRetries, Validation, HandlerMissing or RunnerUnavailable"),
  ),
  since: Options.text("since").pipe(
    Options.mapEffect(moment("since")),
    Options.optional,
    Options.withDescription("Dead-lettered since then: 2h, 3d, or a date and time"),
  ),
  until: Options.text("until").pipe(
    Options.mapEffect(moment("until")),
    Options.optional,
    Options.withDescription("Dead-lettered before then: 2h, 3d, or a date and time"),
  ),
  text: Options.text("text").pipe(Options.optional, Options.withDescription("A part of their last error")),
  payload: json("payload").pipe(Options.optional, Options.withDescription("What their payload contains, as JSON")),
  fingerprint: uuid("fingerprint").pipe(Options.optional, Options.withDescription("The same failure; from dlq groups")),
  requestId: uuid("request").pipe(Options.optional, Options.withDescription("The request that submitted the job")),
  userId: uuid("user").pipe(Options.optional, Options.withDescription("The person whose data it is")),
  originalJobId: uuid("job").pipe(Options.optional, Options.withDescription("The job that they were")),
};
export type FilterFlags = Command.Command.ParseConfig<typeof filterOptions>;

export const filterOf = (given: FilterFlags): JobDlqFilter => {
  const { fingerprint, ids, originalJobId, payload, reason, requestId, since, text, type, until, userId } = given;
  const plain = { fingerprint, originalJobId, payload, reason, requestId, since, text, until, userId };
  const said = Object.entries<Option.Option<unknown>>(plain).flatMap(([name, value]) =>
    Option.isSome(value) ? [[name, value.value] as const] : [],
  );
  return {
    ...Object.fromEntries(said),
    ...(ids.length === 0 ? {} : { ids }),
    ...(Option.isNone(type)
      ? {}
      : { type: type.value.endsWith("*") ? { prefix: type.value.slice(0, -1) } : type.value }),
  };
};

export const stateOption = Options.choice("state", ["pending", "replayed", "any"]).pipe(
  Options.withDefault("pending"),
  Options.withDescription("Which of them; default pending"),
);

export const jsonOption = Options.boolean("json").pipe(
  Options.withDescription("For programs: one JSON object a line, with the model's field names"),
);

// --- whose -------------------------------------------------------------------

export const targetOptions = {
  tenant: Options.text("tenant").pipe(
    Options.withFallbackConfig(Config.nonEmptyString("DLQ_TENANT")),
    Options.optional,
    Options.withDescription("Whose dead letters: the app's id or name (DLQ_TENANT)"),
  ),
  allTenants: Options.boolean("all-tenants").pipe(Options.withDescription("Those of every tenant")),
};
export type TargetFlags = Command.Command.ParseConfig<typeof targetOptions>;

/** Whose rows a command works on. */
export interface Target {
  readonly scope: Client.DataScope;
  /** Runs an effect in one transaction of the scope. */
  readonly inside: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
  ) => Effect.Effect<A, E | SqlError | ScopeConflict | InvalidInput, R | SqlClient.SqlClient>;
}

const decodeIds = S.decodeUnknown(S.Array(S.Struct({ id: S.UUID })));

const tenantOf = (tenant: string) =>
  Effect.gen(function* () {
    if (isUuid(tenant)) return tenant;
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* Client.system(sql`SELECT id FROM apps WHERE name = ${tenant}`);
    const [app] = yield* Effect.orDie(decodeIds(rows));
    return app === undefined
      ? yield* new WrongUsage({
          problem: `There is no tenant ${JSON.stringify(tenant)}. Say its id, or its name as it is stored.`,
        })
      : app.id;
  });

const targetOf = ({ allTenants, tenant }: TargetFlags) =>
  Effect.gen(function* () {
    // A tenant in the environment is a default, and a flag goes before it.
    if (allTenants) return { scope: { _tag: "system" }, inside: Client.system } satisfies Target as Target;
    if (Option.isNone(tenant)) {
      return yield* new WrongUsage({
        problem: "Say whose: --tenant <id or name>, or --all-tenants. DLQ_TENANT is the default.",
      });
    }
    const appId = yield* tenantOf(tenant.value);
    return { scope: { _tag: "tenant", appId }, inside: Client.tenant(appId) } satisfies Target as Target;
  });

/** The database of the environment. */
export const layerDatabase: Layer.Layer<DatabaseService | SqlClient.SqlClient, SqlError | ConfigError> =
  Layer.provideMerge(
    DatabaseService.layer,
    Client.layerConfig({ applicationName: "dlq", maxConnections: 4, connectTimeout: "10 seconds" }),
  );

/** Runs a command on the database of the environment. */
export const onTarget = <A, E, R>(
  flags: TargetFlags,
  use: (target: Target, db: DatabaseService) => Effect.Effect<A, E, R>,
) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    return yield* use(yield* targetOf(flags), db);
  }).pipe(Effect.provide(layerDatabase));

// --- who ---------------------------------------------------------------------

export const actorOption = Options.text("actor").pipe(
  Options.withFallbackConfig(Config.nonEmptyString("DLQ_ACTOR")),
  Options.withDefault(""),
  Options.withDescription("Who does it, for the ledger (DLQ_ACTOR; default: your login on this machine)"),
);

export const actorOf = (given: string) => (given === "" ? userInfo().username : given);
