/**
 * The story that the demo tells: deliveries become jobs, some of them die, an operator finds out why, mends the causes and
 * replays, and in the end every job is accounted for.
 *
 * It works on two tenants of its own, so it may run again on the same database. What it prints is read back from the
 * database, and so is every count of its last line but the number of deliveries in the file.
 */
import * as Client from "@parametric-portal/database/client";
import { Is } from "@parametric-portal/database/factory";
import * as Migrator from "@parametric-portal/database/migrator";
import type { JobStatus } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { type Delivery, readDeliveries } from "./deliveries.js";
import { Announcer, deployed, forgottenType, repaired, specificTypes } from "./handlers.js";
import * as Operator from "./operator.js";
import { counted, heading, lines, Promises, prose, table } from "./report.js";
import { type Both, createTenants, forBoth, type Tenant } from "./tenants.js";
import { work } from "./worker.js";

/** Something that the package promises did not hold, or the counts do not add up. */
export class PromiseBroken extends S.TaggedError<PromiseBroken>()("PromiseBroken", { promises: S.Array(S.String) }) {
  override get message() {
    return `The demo failed, ${counted(this.promises.length, "promise")} did not hold:\n- ${this.promises.join("\n- ")}`;
  }
}

/** Runs a job may have. Few, so that the story is short. */
const maxAttempts = 3;

/** The whole story. Fails with `PromiseBroken`, after the last line, when something did not hold. */
export const story = Effect.gen(function* () {
  const deliveries = yield* readDeliveries;
  const types = deliveries.map(({ type }) => type);

  yield* migrate;
  const tenants = yield* createTenants;
  const appIds = tenants.map(({ id }) => id);

  yield* submit(deliveries, tenants);
  yield* reportRun(yield* work(deployed(types), appIds), deliveries, appIds);

  const pending = yield* Operator.listPending(tenants, maxAttempts);
  yield* Operator.showOne(tenants[0], pending[0]);
  yield* mend;
  const replayed = yield* Operator.replay(tenants, pending);
  yield* work(repaired(types), appIds);
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
  yield* Console.log("");
  yield* prose(`A dead-letter queue at work in PostgreSQL ${serverVersion.split(" ", 1)[0]} (${schema}).`);
});

const submit = (deliveries: ReadonlyArray<Delivery>, tenants: Both<Tenant>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    yield* heading("1. Real input becomes jobs");
    yield* prose(
      `${deliveries.length} webhook deliveries from api.github.com (npm: @octokit/webhooks-examples) are submitted as jobs of type github.<event>, in turn for two tenants. A job may run ${maxAttempts} times.`,
    );
    const rows = yield* forBoth(tenants, ({ id, name }, place) =>
      Effect.gen(function* () {
        const own = deliveries.filter((_, index) => index % tenants.length === place);
        const jobs = own.map((_) => ({ ..._, requestId: Option.some(_.requestId), appId: id, maxAttempts }));
        const ids = yield* Client.tenant(id)(db.jobs.enqueueMany(jobs));
        return [name, id, ids.length, new Set(own.map(({ type }) => type)).size];
      }),
    );
    yield* table(["tenant", "app id", "jobs", "event types"], rows);
  });

const reportRun = (
  runners: ReadonlyArray<{ readonly runner: string; readonly attempts: number }>,
  deliveries: ReadonlyArray<Delivery>,
  appIds: ReadonlyArray<string>,
) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    const appId = Is.oneOf(appIds);
    yield* heading("2. Two runners work until nothing is due");
    yield* prose(
      "Both claim from the same table and never get the same job. A failed attempt goes back into the queue. A job that cannot be finished turns dead, and the same statement writes its dead letter: neither can be there without the other.",
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
          unsettled: yield* db.jobs.count({ appId, status: Is.oneOf<JobStatus>(["pending", "processing"]) }),
          dead: yield* db.jobs.count({ appId, status: "dead" }),
          letters: yield* db.jobDlq.count({ appId, replayedAt: Is.absent }),
        };
      }),
    );
    yield* table(["type", "handler", "submitted", "completed", "dead"], rows);
    yield* lines(runners.map(({ attempts, runner }) => `${runner} made ${attempts} attempts`));
    yield* check("no job is left waiting or running", unsettled === 0);
    yield* check(`every dead job has its dead letter: ${dead} and ${letters}`, dead === letters);
  });

const mend = Effect.gen(function* () {
  const announcer = yield* Announcer;
  yield* heading("5. The causes are mended");
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
});

const account = (submitted: number, appIds: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const promises = yield* Promises;
    const appId = Is.oneOf(appIds);
    yield* heading("11. Every delivery is accounted for");
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
