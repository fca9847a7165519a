/**
 * The story that the demo tells: deliveries become jobs, two runner processes work them off, one of them is killed and the
 * other takes over. Some jobs die; an operator finds out why, mends the causes and replays, and in the end every job is
 * accounted for.
 *
 * It works on two tenants of its own, so it may run again on the same database; but its runners take every job that is there,
 * so it begins only where nobody else's are. What it prints is read back from the database, and so is every count of its last
 * line but the number of deliveries in the file.
 */
import * as Client from "@parametric-portal/database/client";
import { Is } from "@parametric-portal/database/factory";
import * as Migrator from "@parametric-portal/database/migrator";
import type { Job, JobStatus } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as JobType from "@parametric-portal/jobs/job-type";
import * as Jobs from "@parametric-portal/jobs/jobs";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Schedule from "effect/Schedule";
import * as S from "effect/Schema";
import { AnnouncerService } from "./announcer.js";
import { type Delivery, readDeliveries } from "./deliveries.js";
import { forgottenType, specificTypes } from "./handlers.js";
import * as Operator from "./operator.js";
import { counted, heading, lines, Promises, prose, short, table } from "./report.js";
import { isInUse, leaseSeconds, type Runner, sharesOf, startRunner } from "./runners.js";
import { type Both, createTenants, forBoth, type Tenant } from "./tenants.js";

/** Something that the package promises did not hold, or the counts do not add up. */
export class PromiseBroken extends S.TaggedError<PromiseBroken>()("PromiseBroken", { promises: S.Array(S.String) }) {
  override get message() {
    return `The demo failed, ${counted(this.promises.length, "promise")} did not hold:\n- ${this.promises.join("\n- ")}`;
  }
}

/** The database has a use already. */
export class DatabaseInUse extends S.TaggedError<DatabaseInUse>()("DatabaseInUse", {}) {
  override get message() {
    return "This database has jobs of others, or runners. The demo's runners take every job of a database: give it one of its own.";
  }
}

/** Runs a job may have. Few, so that the story is short. */
const maxAttempts = 3;

/** The whole story. Fails with `PromiseBroken`, after the last line, when something did not hold. */
export const story = Effect.gen(function* () {
  const deliveries = yield* readDeliveries;
  yield* migrate;
  const tenants = yield* createTenants;
  const appIds = tenants.map(({ id }) => id);

  const [victim, other] = yield* start;
  yield* submit(deliveries, tenants);
  yield* killAtWork(victim, other, appIds);
  yield* reportWork(deliveries, appIds);

  const pending = yield* Operator.listPending(tenants, maxAttempts);
  yield* Operator.showOne(tenants[0], pending[0]);
  const next = yield* mend(other);
  const replayed = yield* Operator.replay(tenants, pending);
  yield* untilDone(appIds).pipe(watching([next]));
  yield* Operator.showCompleted(tenants, replayed);
  yield* Operator.replayAgain(tenants, replayed);
  yield* Operator.tryFromOutside(tenants, pending[0]);
  yield* Operator.purge(tenants, replayed);

  yield* account(deliveries.length, appIds);
});

const migrate = Effect.gen(function* () {
  const { serverVersion } = yield* Client.health;
  const applied = yield* Migrator.run();
  const schema =
    applied.length === 0 ? "its schema is up to date" : `migrated with ${applied.map(Migrator.fileName).join(", ")}`;
  if (yield* isInUse) return yield* new DatabaseInUse();
  yield* Console.log("");
  yield* prose(`A dead-letter queue at work in PostgreSQL ${serverVersion.split(" ", 1)[0]} (${schema}).`);
});

/** Fails when one of the runners ends unasked meanwhile. */
const watching =
  (runners: ReadonlyArray<Runner>) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.raceFirst(effect, Effect.raceAll(runners.map(({ watch }) => watch)));

/** Asks until the answer is yes, for a minute at most: what is not so then is a broken promise further down. */
const until = <E, R>(ask: Effect.Effect<boolean, E, R>) =>
  Effect.repeat(ask, { until: (_) => _, schedule: Schedule.spaced("100 millis") }).pipe(
    Effect.timeoutOption("1 minute"),
  );

/** Waits until each has its share of the work. */
const joined = (runners: ReadonlyArray<Runner>) =>
  until(Effect.map(sharesOf(runners), (shares) => shares.every((_) => _ > 0))).pipe(watching(runners));

const start = Effect.gen(function* () {
  const { check } = yield* Promises;
  yield* heading("1. Two runners start");
  yield* prose(
    "Each is a process of its own, the executable runner with the handlers of tonight's release. They find one another through the database, and each takes a part of the queue.",
  );
  const runners: Both<Runner> = [
    yield* startRunner("runner-1", "deployed"),
    yield* startRunner("runner-2", "deployed"),
  ];
  const haveJoined = yield* joined(runners);
  yield* table(
    ["runner", "process"],
    runners.map(({ name, pid }) => [name, pid]),
  );
  yield* check("both have joined and have their part", Option.isSome(haveJoined));
  return runners;
});

const submit = (deliveries: ReadonlyArray<Delivery>, tenants: Both<Tenant>) =>
  Effect.gen(function* () {
    yield* heading("2. Real input becomes jobs");
    yield* prose(
      `${deliveries.length} webhook deliveries from api.github.com (npm: @octokit/webhooks-examples) are submitted as jobs of type github.<event>, in turn for two tenants. Whoever takes them in does not look into them: that is for the handlers. A job may run ${maxAttempts} times.`,
    );
    const rows = yield* forBoth(tenants, ({ id, name }, place) =>
      Effect.gen(function* () {
        const own = deliveries.filter((_, index) => index % tenants.length === place);
        const submitted = yield* Client.tenant(id)(
          Effect.forEach(own, ({ payload, requestId, type, userId }) =>
            Jobs.submit(JobType.make(type, { payload: S.Unknown }), payload, {
              appId: id,
              requestId,
              userId: Option.getOrUndefined(userId),
              maxAttempts,
            }),
          ),
        );
        return [name, id, submitted.length, new Set(own.map(({ type }) => type)).size];
      }),
    );
    yield* table(["tenant", "app id", "jobs", "event types"], rows);
  });

const unfinished = Is.oneOf<JobStatus>(["pending", "processing"]);

const untilDone = (appIds: ReadonlyArray<string>) =>
  Effect.flatMap(DatabaseService, (db) =>
    until(
      Effect.map(Client.system(db.jobs.count({ appId: Is.oneOf(appIds), status: unfinished })), (count) => count === 0),
    ),
  );

/** Of how many completed jobs on the first runner may be killed. */
const enough = 40;

const vanished = (runner: Runner, { errorHistory }: Job) =>
  errorHistory.some(({ error }) => Operator.isVanished(error, runner.name));

const killAtWork = (victim: Runner, other: Runner, appIds: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    const appId = Is.oneOf(appIds);
    const inHand = Client.system(db.jobs.find({ appId, lockedBy: victim.name, status: "processing" }));
    const completed = Client.system(db.jobs.count({ appId, status: "completed" }));
    yield* heading("3. One of them is killed while it works");
    yield* until(
      Effect.gen(function* () {
        if ((yield* Client.system(db.jobs.count({ appId, status: unfinished }))) === 0) return true;
        return (yield* completed) >= enough && (yield* inHand).length > 0;
      }),
    ).pipe(watching([victim, other]));
    yield* victim.end("SIGKILL");
    const left = yield* inHand;
    yield* lines([`$ kill -9 ${victim.pid}`]);
    yield* prose(
      `${victim.name} is gone, after ${yield* completed} completed jobs of both. It had ${counted(left.length, "job")} in hand and nobody tells ${other.name}: their leases end after ${leaseSeconds} seconds, and the part of the queue that was ${victim.name}'s is free a little later. A job whose runner vanished may be what ended it, so it runs alone on its next try.`,
    );
    yield* untilDone(appIds).pipe(watching([other]));
    const jobs = yield* Client.system(db.jobs.find({ id: Is.oneOf(left.map(({ id }) => id)) }));
    yield* table(
      ["in hand", "type", "status now", "attempts", victim.name],
      jobs.map((job) => [
        short(job.id),
        job.type,
        job.status,
        job.attempts,
        vanished(victim, job) ? "vanished with it" : "settled it in time",
      ]),
    );
    yield* check(
      `${victim.name} was killed while it worked, and ${other.name} ran what it had in hand again`,
      jobs.length === left.length && jobs.some((_) => vanished(victim, _)),
    );
    yield* check(
      "none of those jobs is lost: each is completed or has its dead letter",
      jobs.every(({ status }) => status === "completed" || status === "dead"),
    );
  });

const reportWork = (deliveries: ReadonlyArray<Delivery>, appIds: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    const appId = Is.oneOf(appIds);
    yield* heading("4. The other goes on until nothing is due");
    yield* prose(
      "A failed attempt goes back into the queue and waits longer each time. A job that cannot be finished turns dead, and the same statement writes its dead letter: neither can be there without the other.",
    );
    yield* prose(
      "Three things are wrong tonight: the service that releases are announced to is down, nobody wrote a handler for security advisories, and the Schema for issues requires a text, which one real delivery does not have.",
    );
    const others = [...new Set(deliveries.map(({ type }) => type))].filter(
      (_) => !specificTypes.includes(_) && _ !== forgottenType,
    );
    const row = (name: string, handler: string, types: ReadonlyArray<string>) =>
      Effect.gen(function* () {
        const type = Is.oneOf(types);
        const completed = yield* db.jobs.count({ appId, type, status: "completed" });
        const dead = yield* db.jobs.count({ appId, type, status: "dead" });
        return [name, handler, deliveries.filter((_) => types.includes(_.type)).length, completed, dead];
      });
    const { dead, letters, rows, unsettled } = yield* Client.system(
      Effect.gen(function* () {
        return {
          rows: [
            ...(yield* Effect.forEach(specificTypes, (_) => row(_, "a Schema of its own", [_]))),
            yield* row(`${others.length} other types`, "what every delivery has: its sender", others),
            yield* row(forgottenType, "none, it was forgotten", [forgottenType]),
          ],
          unsettled: yield* db.jobs.count({ appId, status: unfinished }),
          dead: yield* db.jobs.count({ appId, status: "dead" }),
          letters: yield* db.jobDlq.count({ appId, replayedAt: Is.absent }),
        };
      }),
    );
    yield* table(["type", "handler", "submitted", "completed", "dead"], rows);
    yield* check("no job is left waiting or running", unsettled === 0);
    yield* check(`every dead job has its dead letter: ${dead} and ${letters}`, dead === letters);
  });

const mend = (old: Runner) =>
  Effect.gen(function* () {
    const announcer = yield* AnnouncerService;
    const { check } = yield* Promises;
    yield* heading("7. The causes are mended");
    yield* prose(
      "Replaying before that would only kill the same jobs again. Each reason points to another kind of repair:",
    );
    yield* announcer.repair;
    yield* table(
      ["reason", "repair"],
      [
        ["MaxRetries", "the announcement service is up again; the code stays as it is"],
        ["HandlerMissing", "the next release has a handler for github.security_advisory"],
        ["Validation", "the next release's Schema allows an issue without text: body is NullOr(String)"],
      ],
    );
    yield* prose(`The next release is deployed: ${old.name} is asked to stop, and runner-3 starts.`);
    const next = yield* startRunner("runner-3", "repaired");
    const [ended] = yield* Effect.all([old.end("SIGTERM"), joined([next])], { concurrency: 2 });
    yield* check(`${old.name} has stopped by itself, with exit code 0`, ended === 0);
    return next;
  });

const account = (submitted: number, appIds: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const promises = yield* Promises;
    const appId = Is.oneOf(appIds);
    yield* heading("13. Every delivery is accounted for");
    yield* prose(
      "Counted once more in the system scope, from the tables jobs and job_dlq. Left of the equals sign stands the number of deliveries in the file.",
    );
    const { completed, jobs, letters, running, waiting } = yield* Client.system(
      Effect.all({
        jobs: db.jobs.count({ appId }),
        completed: db.jobs.count({ appId, status: "completed" }),
        waiting: db.jobs.count({ appId, status: "pending" }),
        running: db.jobs.count({ appId, status: "processing" }),
        letters: db.jobDlq.count({ appId, replayedAt: Is.absent }),
      }),
    );
    yield* promises.check(`the table jobs has one row for each delivery: ${jobs}`, jobs === submitted);
    const addsUp = submitted === completed + letters + waiting + running;
    yield* Console.log(
      `\nsubmitted ${submitted} = completed ${completed} + pending dead letters ${letters} + waiting ${waiting} + running ${running} ${
        addsUp ? "✓" : "✗"
      }`,
    );
    const broken = [...(yield* promises.broken), ...(addsUp ? [] : ["the counts of the last line add up"])];
    if (broken.length > 0) return yield* new PromiseBroken({ promises: broken });
  });
