/**
 * What an operator does with dead letters: list, read one in full, replay, look after it, purge. Each step prints what it
 * finds and checks what this package promises about it.
 *
 * Everything here runs in a tenant's scope: an operator of one tenant needs no right over another.
 */
import * as Client from "@parametric-portal/database/client";
import { Is } from "@parametric-portal/database/factory";
import type { ReplayReceipt } from "@parametric-portal/database/job-dlq/replay";
import { type JobDlq, JobDlqReason, type JobStatus } from "@parametric-portal/database/models";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Arr from "effect/Array";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { forgottenType } from "./handlers.js";
import {
  type Cell,
  counted,
  firstLine,
  heading,
  labelled,
  lines,
  Promises,
  prose,
  short,
  table,
  timeOf,
} from "./report.js";
import { type Both, forBoth, type Tenant } from "./tenants.js";

type Letters = ReadonlyArray<JobDlq>;

/** The last error in a line; of a payload's, where it is wrong. */
const lastError = ({ errorHistory }: JobDlq) =>
  firstLine(errorHistory.at(-1)?.error ?? "").replace(/^The payload does not fit \S+ at /, "");
/** Whether this entry of a history says that the job's runner vanished. */
export const isVanished = (error: string, runner = "") =>
  error.includes(`runner ${runner}`) && error.includes("vanished");
const idsOf = (letters: Letters) => letters.map(({ id }) => id);

/** Why a job of this type died in this story, and after how many attempts. */
const expected = (type: string, maxAttempts: number) => {
  if (type === forgottenType) return { reason: "HandlerMissing", attempts: maxAttempts };
  return type === "github.issues"
    ? { reason: "Validation", attempts: 1 }
    : { reason: "MaxRetries", attempts: maxAttempts };
};

/** Lists the pending dead letters of each tenant. */
export const listPending = (tenants: Both<Tenant>, maxAttempts: number) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    yield* heading("5. What waits for an operator");
    yield* prose(
      "Each tenant's list shows its own dead letters and no others, newest first. An id is shown by its end: a uuidv7 begins with its time, so neighbours begin alike.",
    );
    const pending = yield* forBoth(tenants, ({ id, name }) =>
      Effect.gen(function* () {
        const letters = yield* Client.tenant(id)(db.jobDlq.listPending());
        yield* lines(["", `${name}: ${counted(letters.length, "pending dead letter")}`]);
        yield* table(
          ["id", "died at", "type", "reason", "attempts", "last error"],
          letters.map((letter) => [
            short(letter.id),
            timeOf(DateTime.toDateUtc(letter.dlqAt)),
            letter.type,
            letter.errorReason,
            letter.attempts,
            lastError(letter),
          ]),
        );
        return letters;
      }),
    );
    yield* lines(["", "By reason:"]);
    const reasons = yield* Effect.forEach(JobDlqReason.literals, (errorReason) =>
      Effect.gen(function* () {
        const counts = yield* forBoth(tenants, ({ id }) =>
          Client.tenant(id)(db.jobDlq.count({ errorReason, replayedAt: Is.absent })),
        );
        const example = pending.flat().find((_) => _.errorReason === errorReason);
        return [errorReason, ...counts, example === undefined ? "" : lastError(example)];
      }),
    );
    yield* table(["reason", ...tenants.map(({ name }) => name), "for example"], reasons);
    const fits = pending.flat().every(({ attempts, errorHistory, errorReason, type }) => {
      const should = expected(type, maxAttempts);
      // A run whose runner was killed has an entry too; it is an attempt, unless it was the last one: that is made once more.
      const lost = errorHistory.filter(({ error }) => isVanished(error)).length;
      const isWhole = errorHistory.length >= attempts && errorHistory.length <= attempts + lost;
      const isDue =
        attempts === should.attempts || (should.reason === "Validation" && attempts === should.attempts + lost);
      return errorReason === should.reason && isDue && isWhole;
    });
    const isOwn = (letters: Letters, { id }: Tenant) => letters.every(({ appId }) => appId === id);
    yield* check(
      "each list holds letters of its own tenant only",
      isOwn(pending[0], tenants[0]) && isOwn(pending[1], tenants[1]),
    );
    yield* check(
      "each has the right reason and one entry in its history for every attempt: a payload that does not fit is dead at once, the others had all their attempts",
      fits,
    );
    return pending;
  });

/** Shows one dead letter whole: one whose attempts ran out, because it has the longest story to tell. */
export const showOne = (tenant: Tenant, letters: Letters) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    yield* heading("6. One of them in full");
    yield* prose("Why it died and what it carried stand in one row, so nobody has to search the logs of that night.");
    const id = letters.find((_) => _.errorReason === "MaxRetries" && !isOfDeleted(_))?.id ?? "";
    const letter = Option.getOrThrow(yield* Client.tenant(tenant.id)(db.jobDlq.get(id)));
    const payload = JSON.stringify(letter.payload);
    const facts: ReadonlyArray<readonly [string, Cell]> = [
      ["dead letter", letter.id],
      ["job", letter.originalJobId],
      ["tenant", `${letter.appId} (${tenant.name})`],
      ["type", letter.type],
      ["reason", letter.errorReason],
      ["attempts", letter.attempts],
      ["died at", DateTime.formatIso(letter.dlqAt)],
      ["replayed at", Option.match(letter.replayedAt, { onNone: () => "not yet", onSome: (_) => _.toISOString() })],
      ["request", Option.getOrElse(letter.requestId, () => "none")],
      ["user", Option.getOrElse(letter.userId, () => "none")],
      ["payload", `${payload.length.toLocaleString("en-US")} characters of JSON, which begin`],
      ["", payload.slice(0, 78)],
      ["", `${payload.slice(78, 156)} …`],
    ];
    yield* lines(facts.map(([name, value]) => `${name.padEnd(12)} ${value}`));
    yield* lines(["", "Its errors, oldest first:"]);
    yield* lines(
      letter.errorHistory.flatMap(({ error, timestamp }, place) => {
        const label = `${place + 1}. ${timeOf(new Date(timestamp))}  `;
        return labelled(label, firstLine(error));
      }),
    );
    const inLast = letter.errorHistory.at(-1)?.error.split("\n") ?? [];
    yield* lines(["", "The stack of each is stored as well. The last one's begins:", ...inLast.slice(1, 3)]);
  });

const decodeDeleted = S.is(S.Struct({ action: S.Literal("deleted") }));

/** Whether a letter tells of a release that was deleted: nobody wants that announced any more. */
const isOfDeleted = ({ payload, type }: JobDlq) => type === "github.release" && decodeDeleted(payload);

const receiptRows = (tenant: Tenant, letters: Letters, receipts: ReadonlyArray<ReplayReceipt>) =>
  receipts.map(({ id, outcome }) => [tenant.name, short(id), letters.find((_) => _.id === id)?.type ?? "", outcome]);

/** Replays each tenant's dead letters but those that are to stay. Returns the replayed ones. */
export const replay = (tenants: Both<Tenant>, pending: Both<Letters>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    yield* heading("8. Replay");
    yield* prose(
      "A replay brings the same job back under its own id, with all its attempts before it, and hands out a receipt for each dead letter. The operator leaves out the announcements of releases that were deleted since: nobody wants to read them.",
    );
    const chosen: Both<Letters> = [
      pending[0].filter((_) => !isOfDeleted(_)),
      pending[1].filter((_) => !isOfDeleted(_)),
    ];
    const receipts = yield* forBoth(tenants, ({ id }, place) =>
      Client.tenant(id)(db.jobDlq.replay(idsOf(chosen[place]), { actor: "demo operator" })),
    );
    const rows = [
      ...receiptRows(tenants[0], chosen[0], receipts[0]),
      ...receiptRows(tenants[1], chosen[1], receipts[1]),
    ];
    yield* table(["tenant", "dead letter", "type", "receipt"], rows);
    const asked = chosen.flat().length;
    const replayed = receipts.flat().filter(({ outcome }) => outcome === "replayed").length;
    const kept = pending.flat().length - asked;
    yield* check(
      `all ${asked} were replayed; ${kept} stay pending by the operator's choice`,
      asked === replayed && asked > 0,
    );
    return chosen;
  });

/** Shows what became of the replayed jobs. */
export const showCompleted = (tenants: Both<Tenant>, replayed: Both<Letters>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    yield* heading("9. Did the replay work?");
    yield* prose("The new runner has worked. These are the jobs themselves, read by their ids.");
    const jobs = yield* forBoth(tenants, ({ id }, place) =>
      Client.tenant(id)(db.jobs.find({ id: Is.oneOf(replayed[place].map((_) => _.originalJobId)) })),
    );
    const letters = replayed.flat();
    const groups = Object.entries(Arr.groupBy(jobs.flat(), ({ type }) => type));
    yield* table(
      ["type", "died of", "status now", "replays", "attempts since", "jobs"],
      groups.map(([type, group]) => [
        type,
        distinct(letters.filter((_) => _.type === type).map((_) => _.errorReason)),
        distinct(group.map(({ status }) => status)),
        distinct(group.map(({ replays }) => replays)),
        distinct(group.map(({ attempts }) => attempts)),
        group.length,
      ]),
    );
    const completed = jobs.flat().filter(({ replays, status }) => status === "completed" && replays === 1);
    yield* check(
      `all ${letters.length} replayed jobs are completed, with replays = 1`,
      completed.length === letters.length && letters.length > 0,
    );
  });

const distinct = (values: ReadonlyArray<Cell>) => [...new Set(values)].join(" and ");

/** Asks for the same replays again. */
export const replayAgain = (tenants: Both<Tenant>, replayed: Both<Letters>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    yield* heading("10. The same replay once more");
    yield* prose(
      "A second click, a script that ran twice, a colleague at the same dead letters: a dead letter is replayed once, however often it is asked for.",
    );
    const receipts = yield* forBoth(tenants, ({ id }, place) =>
      Client.tenant(id)(db.jobDlq.replay(idsOf(replayed[place]), { actor: "demo operator" })),
    );
    const rows = yield* forBoth(tenants, ({ id, name }, place) =>
      Effect.gen(function* () {
        const refused = receipts[place].filter(({ outcome }) => outcome === "already gone").length;
        const due = yield* Client.tenant(id)(db.jobs.count({ status: Is.oneOf<JobStatus>(["pending", "processing"]) }));
        return [name, replayed[place].length, refused, due];
      }),
    );
    yield* table(["tenant", "asked again", 'receipt "already gone"', "jobs waiting after it"], rows);
    yield* check(
      "every second replay is refused, and no job came back to life by it",
      rows.every(([, asked, refused, due]) => asked === refused && due === 0),
    );
  });

/** One tenant reaches for the other's dead letters, pending ones too. The owner's own answers stand beside it. */
export const tryFromOutside = ([owner, outsider]: Both<Tenant>, letters: Letters) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    yield* heading("11. The other tenant sees nothing");
    yield* prose(
      `${outsider.name} asks for the ${letters.length} dead letters of ${owner.name} by their right ids, one of them still pending. Row-level security in the database answers as if they did not exist; no query of the application has to remember a WHERE app_id.`,
    );
    const ids = idsOf(letters);
    const read = Effect.gen(function* () {
      const got = yield* Effect.forEach(ids, (id) => db.jobDlq.get(id));
      const listed = yield* db.jobDlq.listPending();
      return {
        got: got.filter(Option.isSome).length,
        counted: yield* db.jobDlq.count({ id: Is.oneOf(ids) }),
        listed: listed.filter(({ id }) => ids.includes(id)).length,
      };
    });
    const own = yield* Client.tenant(owner.id)(read);
    const seen = yield* Client.tenant(outsider.id)(read);
    const receipts = yield* Client.tenant(outsider.id)(db.jobDlq.replay(ids, { actor: "demo operator" }));
    const refused = receipts.filter(({ outcome }) => outcome === "not found").length;
    yield* table(
      ["question", `${owner.name}, the owner`, outsider.name],
      [
        ["jobDlq.get, one by one", `finds ${own.got}`, `finds ${seen.got}`],
        ["jobDlq.count of these ids", `${own.counted}`, `${seen.counted}`],
        ["jobDlq.listPending", `has ${own.listed} of them`, `has ${seen.listed} of them`],
        ["jobDlq.replay", "(step 8)", `${refused} times "not found"`],
      ],
    );
    const after = yield* Client.tenant(owner.id)(read);
    yield* check("the other tenant finds, counts and lists none of them", seen.got + seen.counted + seen.listed === 0);
    yield* check(
      `it replays none of them: ${owner.name} still has ${counted(after.listed, "pending dead letter")}`,
      refused === ids.length && after.listed === own.listed && own.listed > 0 && own.got === ids.length,
    );
  });

/** Deletes the replayed dead letters, tenant by tenant. */
export const purge = (tenants: Both<Tenant>, replayed: Both<Letters>) =>
  Effect.gen(function* () {
    const db = yield* DatabaseService;
    const { check } = yield* Promises;
    yield* heading("12. Purge");
    yield* prose(
      "A replayed dead letter is history, and purge deletes what was replayed longer ago than so many days, here 0. What is still pending stays whatever its age: a purge never throws work away. In a tenant's scope it reaches that tenant only.",
    );
    const left = yield* forBoth(tenants, ({ id, name }, place) =>
      Client.tenant(id)(
        Effect.gen(function* () {
          const before = yield* db.jobDlq.count();
          const purged = yield* db.jobDlq.purge(0);
          const pending = yield* db.jobDlq.count({ replayedAt: Is.absent });
          const stillReplayed = yield* db.jobDlq.count({ replayedAt: Is.present });
          const isRight = purged === replayed[place].length && pending === before - purged && stillReplayed === 0;
          return { cells: [name, before, purged, pending, stillReplayed], isRight };
        }),
      ),
    );
    yield* table(
      ["tenant", "dead letters", "purged", "left: pending", "left: replayed"],
      left.map(({ cells }) => cells),
    );
    yield* check(
      "the replayed ones are gone, and only they",
      left.every(({ isRight }) => isRight),
    );
  });
