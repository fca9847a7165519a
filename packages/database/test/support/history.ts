/**
 * Random histories of jobs and their dead letters, told twice: to a store, which is real or writes rows of a time that never
 * was, and to a plain model, which says what must be seen afterwards. The model keeps what happened; it reads no row.
 */
import * as Effect from "effect/Effect";

/** What the names of types end with. */
export const types = ["import.orders", "mail.send", "mail.sync"] as const;
export const reasons = ["MaxRetries", "Validation", "HandlerMissing"] as const;
/** Two shapes of errors, so that fingerprints differ within a type and a reason. */
export const errors = ["Error: order 17 was refused\n    at send (mail.ts:7:1)", "TypeError: x is undefined"] as const;

/** Who does everything in a history, and why. */
export const actor = "the operator";
export const why = "nobody needs it";

export interface Job {
  readonly id: string;
  readonly appId: string;
  readonly type: string;
  status: "pending" | "processing" | "completed" | "dead" | "cancelled" | "purged";
  fence: bigint;
  replays: number;
  wasErased: boolean;
}

export interface Letter {
  readonly id: string;
  readonly job: Job;
  readonly reason: string;
  readonly error: string;
  /** Microseconds since 1970. */
  readonly at: bigint;
  readonly order: number;
  place: "table" | "discarded" | "expired" | "purged" | "erased";
  replayed: Replay | "elsewhere" | undefined;
  /** The event that took it out last. */
  eventId: string | undefined;
  /** Whether the ledger has its copy. */
  hasCopy: boolean;
  /** Whether the ledger has any line about it. */
  hasEvents: boolean;
}

export interface Replay {
  readonly letter: Letter;
  readonly at: bigint;
  readonly order: number;
  /** Whether the ledger says that it had another payload; an erasure takes that away. */
  isOverridden: boolean;
}

export interface World {
  readonly jobs: Array<Job>;
  readonly letters: Array<Letter>;
  readonly replays: Array<Replay>;
}

/** Where a history happens. Each returns when it happened, in microseconds, and the id of what it made. */
export interface Store<E, R> {
  readonly submit: (
    appId: string,
    type: string,
  ) => Effect.Effect<{ readonly id: string; readonly fence: bigint }, E, R>;
  readonly die: (
    job: Job,
    reason: string,
    error: string,
  ) => Effect.Effect<{ readonly id: string; readonly at: bigint }, E, R>;
  /** Another letter of a job that is dead already, written by somebody else. */
  readonly insert: (
    job: Job,
    reason: string,
    error: string,
  ) => Effect.Effect<{ readonly id: string; readonly at: bigint }, E, R>;
  readonly claim: (job: Job) => Effect.Effect<bigint, E, R>;
  readonly complete: (job: Job) => Effect.Effect<void, E, R>;
  readonly cancel: (job: Job) => Effect.Effect<void, E, R>;
  readonly replay: (letter: Letter, isOverridden: boolean) => Effect.Effect<bigint, E, R>;
  readonly mark: (letter: Letter) => Effect.Effect<void, E, R>;
  readonly remove: (letter: Letter, kind: "discarded" | "expired") => Effect.Effect<string, E, R>;
  readonly restore: (letter: Letter) => Effect.Effect<void, E, R>;
  readonly erase: (letter: Letter) => Effect.Effect<void, E, R>;
  /** All replayed letters of an app. */
  readonly purgeLetters: (appId: string) => Effect.Effect<void, E, R>;
  /** All ended jobs of an app. */
  readonly purgeJobs: (appId: string) => Effect.Effect<void, E, R>;
}

const isEnded = ({ status }: Job) => status === "completed" || status === "dead" || status === "cancelled";
const isPending = (letter: Letter) => letter.place === "table" && letter.replayed === undefined;

/** What a history is made of. */
export interface Setting {
  readonly appIds: ReadonlyArray<string>;
  /** What the names of its types begin with. */
  readonly tag: string;
  /** Steps; one that nothing fits is left out. */
  readonly length: number;
  /** A random number below its argument. */
  readonly dice: (sides: number) => number;
}

/** Plays random steps, in the store and in the model. */
export const play = <E, R>(store: Store<E, R>, { appIds, dice, length, tag }: Setting): Effect.Effect<World, E, R> =>
  Effect.gen(function* () {
    const world: World = { jobs: [], letters: [], replays: [] };
    let order = 0;
    const oneOf = <A>(all: ReadonlyArray<A>): A | undefined => all[dice(all.length)];
    const anyLetter = (fits: (letter: Letter) => boolean) => oneOf(world.letters.filter(fits));
    const anyJob = (fits: (job: Job) => boolean) => oneOf(world.jobs.filter(fits));
    const add = (job: Job, reason: string, error: string, { at, id }: { readonly id: string; readonly at: bigint }) =>
      world.letters.push({
        id,
        job,
        reason,
        error,
        at,
        order: order++,
        place: "table",
        replayed: undefined,
        eventId: undefined,
        hasCopy: false,
        hasEvents: false,
      });
    const end = (job: Job) => {
      if (job.status === "pending" || job.status === "processing") job.status = "cancelled";
    };

    const steps: Record<string, readonly [weight: number, step: () => Effect.Effect<void, E, R>]> = {
      submit: [
        4,
        () =>
          Effect.gen(function* () {
            const appId = oneOf(appIds) ?? "";
            const type = `${tag}.${oneOf(types)}`;
            const { fence, id } = yield* store.submit(appId, type);
            const job: Job = { id, appId, type, status: "pending", fence, replays: 0, wasErased: false };
            world.jobs.push(job);
            const [reason, error] = [oneOf(reasons) ?? "", oneOf(errors) ?? ""];
            add(job, reason, error, yield* store.die(job, reason, error));
            job.status = "dead";
          }),
      ],
      die: [
        5,
        () =>
          Effect.gen(function* () {
            const job = anyJob(({ status }) => status === "pending" || status === "processing");
            if (job === undefined) return;
            const [reason, error] = [oneOf(reasons) ?? "", oneOf(errors) ?? ""];
            add(job, reason, error, yield* store.die(job, reason, error));
            job.status = "dead";
          }),
      ],
      insert: [
        1,
        () =>
          Effect.gen(function* () {
            const job = anyJob(({ status }) => status === "dead");
            if (job === undefined) return;
            const [reason, error] = [oneOf(reasons) ?? "", oneOf(errors) ?? ""];
            add(job, reason, error, yield* store.insert(job, reason, error));
          }),
      ],
      claim: [
        1,
        () =>
          Effect.gen(function* () {
            const job = anyJob(({ status }) => status === "pending");
            if (job === undefined) return;
            job.fence = yield* store.claim(job);
            job.status = "processing";
          }),
      ],
      complete: [
        3,
        () =>
          Effect.gen(function* () {
            const job = anyJob(({ status }) => status === "pending");
            if (job === undefined) return;
            job.fence = yield* store.claim(job);
            yield* store.complete(job);
            job.status = "completed";
          }),
      ],
      cancel: [
        1,
        () =>
          Effect.gen(function* () {
            const job = anyJob(({ status }) => status === "pending");
            if (job === undefined) return;
            yield* store.cancel(job);
            job.status = "cancelled";
          }),
      ],
      replay: [
        8,
        () =>
          Effect.gen(function* () {
            // Of several pending ones of a job any can be asked for alone.
            const letter = anyLetter((_) => isPending(_) && (_.job.status === "dead" || _.job.status === "purged"));
            if (letter === undefined) return;
            const isOverridden = dice(4) === 0;
            const at = yield* store.replay(letter, isOverridden);
            const replay: Replay = { letter, at, order: order++, isOverridden };
            world.replays.push(replay);
            letter.replayed = replay;
            letter.hasEvents = true;
            const marked = world.letters.filter(
              (_) => _.job === letter.job && _.place === "table" && _.replayed !== undefined,
            );
            letter.job.replays = letter.job.status === "purged" ? marked.length : letter.job.replays + 1;
            letter.job.status = "pending";
          }),
      ],
      mark: [
        1,
        () =>
          Effect.gen(function* () {
            const letter = anyLetter(isPending);
            if (letter === undefined) return;
            yield* store.mark(letter);
            letter.replayed = "elsewhere";
            letter.hasEvents = true;
          }),
      ],
      remove: [
        3,
        () =>
          Effect.gen(function* () {
            const letter = anyLetter(isPending);
            if (letter === undefined) return;
            const kind = dice(2) === 0 ? "discarded" : "expired";
            letter.eventId = yield* store.remove(letter, kind);
            letter.place = kind;
            letter.hasCopy = true;
            letter.hasEvents = true;
          }),
      ],
      restore: [
        2,
        () =>
          Effect.gen(function* () {
            const letter = anyLetter(({ place }) => place === "discarded" || place === "expired");
            if (letter === undefined) return;
            yield* store.restore(letter);
            letter.place = "table";
          }),
      ],
      erase: [
        1,
        () =>
          Effect.gen(function* () {
            const letter = anyLetter(({ place }) => place !== "purged" && place !== "erased");
            if (letter === undefined) return;
            yield* store.erase(letter);
            // A letter in the table takes the copies of its job's other letters along; a discarded one takes its own.
            const copies = letter.place === "table" ? world.letters.filter((_) => _.job === letter.job) : [letter];
            if (letter.place === "table") {
              for (const replay of world.replays) if (replay.letter.job === letter.job) replay.isOverridden = false;
            }
            for (const copy of copies) {
              copy.hasCopy = false;
              if (copy.place === "discarded" || copy.place === "expired") copy.place = "erased";
            }
            letter.place = "erased";
            letter.hasEvents = true;
            letter.job.wasErased = true;
            end(letter.job);
          }),
      ],
      purgeLetters: [
        1,
        () =>
          Effect.gen(function* () {
            const appId = oneOf(appIds) ?? "";
            yield* store.purgeLetters(appId);
            for (const letter of world.letters) {
              if (letter.job.appId === appId && letter.place === "table" && letter.replayed) letter.place = "purged";
            }
          }),
      ],
      purgeJobs: [
        1,
        () =>
          Effect.gen(function* () {
            const appId = oneOf(appIds) ?? "";
            yield* store.purgeJobs(appId);
            for (const job of world.jobs) if (job.appId === appId && isEnded(job)) job.status = "purged";
          }),
      ],
    };
    const bag = Object.values(steps).flatMap(([weight, step]) => Array.from({ length: weight }, () => step));
    for (let i = 0; i < length; i++) yield* oneOf(bag)?.() ?? Effect.void;
    return world;
  });

// --- what must be seen -------------------------------------------------------

/** Whether anything is left that says there was this letter. */
export const isKnown = (letter: Letter) => letter.hasEvents || letter.place === "table";

/** The replay of the same job after this one. */
const replayAfter = (world: World, replay: Replay) =>
  world.replays.find((_) => _.letter.job === replay.letter.job && _.order > replay.order);

/** The first letter that the job got after a replay and before the next one, of those that are known. */
export const letterAfter = (world: World, replay: Replay) => {
  const before = replayAfter(world, replay)?.order ?? Number.POSITIVE_INFINITY;
  return world.letters.find(
    (_) => _.job === replay.letter.job && _.order > replay.order && _.order < before && isKnown(_),
  );
};

/** What came of a replay: the job's own state after its last one; else only a letter can tell. */
export const resultOf = (world: World, replay: Replay): Job["status"] => {
  const { status } = replay.letter.job;
  if (replayAfter(world, replay) === undefined && status !== "purged") return status;
  return letterAfter(world, replay) === undefined ? "purged" : "dead";
};
