/**
 * What the queue is believed to hold: jobs, dead letters, and the copies and lines of the ledger. Nothing here reads a database.
 *
 * A world is never changed; a step returns the worlds that it may lead to, none when it may not happen.
 */

export interface Job {
  readonly id: string;
  readonly app: string;
  readonly status: "pending" | "processing" | "completed" | "dead" | "cancelled";
  readonly attempts: number;
  readonly maxAttempts: number;
  readonly errors: number;
  /** Undefined: not known until it is seen. */
  readonly replays: number | undefined;
  /** Undefined: a new one, which nobody had before. */
  readonly fence: bigint | undefined;
  /** Its lease is over. Only of a job that is processing. */
  readonly isLost: boolean;
  readonly isSuspect: boolean;
  readonly user: string | null;
  readonly key: string | null;
  /** As jsonb prints it. */
  readonly payload: string;
}

export interface Letter {
  /** One that begins with `?` is not known until it is seen. */
  readonly id: string;
  readonly job: string;
  readonly app: string;
  /** When it was dead-lettered, as text that sorts. */
  readonly at: string;
  readonly isReplayed: boolean;
  readonly attempts: number;
  readonly errors: number;
  readonly reason: string;
  readonly payload: string;
  readonly user: string | null;
}

/** A line of the ledger that took a letter out. */
export interface Copy {
  readonly id: string;
  readonly kind: "discarded" | "expired";
  readonly app: string;
  readonly job: string;
  readonly letter: string;
  /** Undefined after an erasure. */
  readonly entry: Letter | undefined;
  readonly isUndone: boolean;
}

/** Kinds of lines that are written once for each letter. */
export const kinds = ["replayed", "discarded", "restored", "erased", "expired", "imported"] as const;
export type Kind = (typeof kinds)[number];

export interface World {
  readonly jobs: ReadonlyMap<string, Job>;
  readonly letters: ReadonlyMap<string, Letter>;
  readonly copies: ReadonlyMap<string, Copy>;
  /** Letters of which the ledger says that they were replayed, or erased. */
  readonly replayed: ReadonlySet<string>;
  readonly erased: ReadonlySet<string>;
  readonly lines: Readonly<Record<Kind, number>>;
}

export const empty: World = {
  jobs: new Map(),
  letters: new Map(),
  copies: new Map(),
  replayed: new Set(),
  erased: new Set(),
  lines: { replayed: 0, discarded: 0, restored: 0, erased: 0, expired: 0, imported: 0 },
};

/** A tenant's id, or all of them. */
export type Scope = string;
export const system: Scope = "system";
export const sees = (scope: Scope, { app }: { readonly app: string }) => scope === system || scope === app;

export const isEnded = ({ status }: Job) => status !== "pending" && status !== "processing";

/** Where a job stands; `none` when there is none. */
export const jobState = (world: World, id: string) => world.jobs.get(id)?.status ?? "none";

/** Where a dead letter stands; `none` when there is none, and none that could be restored. */
export const letterState = (world: World, id: string) => {
  const letter = world.letters.get(id);
  if (letter !== undefined) return letter.isReplayed ? "replayed" : "pending";
  if (world.replayed.has(id) && !world.erased.has(id)) return "none";
  // The ledger may name one as erased that was in the table by an import: what it holds of it counts.
  const [copy] = [...world.copies.values()]
    .filter((_) => _.letter === id && !_.isUndone && _.entry !== undefined)
    .sort((a, b) => (a.id < b.id ? 1 : -1));
  return copy?.kind ?? (world.erased.has(id) ? "erased" : "none");
};

// --- changes -----------------------------------------------------------------

const put = <A extends { readonly id: string }>(all: ReadonlyMap<string, A>, one: A) => new Map(all).set(one.id, one);
const drop = <A>(all: ReadonlyMap<string, A>, id: string) => {
  const rest = new Map(all);
  rest.delete(id);
  return rest;
};

export const withJob = (world: World, job: Job): World => ({ ...world, jobs: put(world.jobs, job) });
export const withoutJob = (world: World, id: string): World => ({ ...world, jobs: drop(world.jobs, id) });
export const withLetter = (world: World, letter: Letter): World => ({ ...world, letters: put(world.letters, letter) });
export const withoutLetter = (world: World, id: string): World => ({ ...world, letters: drop(world.letters, id) });
export const withCopy = (world: World, copy: Copy): World => ({ ...world, copies: put(world.copies, copy) });
export const withLines = (world: World, kind: Kind, count = 1): World => ({
  ...world,
  lines: { ...world.lines, [kind]: world.lines[kind] + count },
});

/** The newest first. */
export const newestFirst = (a: Letter, b: Letter) => (a.at === b.at ? (a.id < b.id ? 1 : -1) : a.at < b.at ? 1 : -1);

// --- steps -------------------------------------------------------------------

/**
 * One indivisible part of an operation, with the answer that the operation gave: the worlds it may lead to. `isAlone`: nothing else
 * ran at the same time, so the answer is exactly what the world says.
 */
export type Step = (world: World, isAlone: boolean) => ReadonlyArray<World>;

const none: ReadonlyArray<World> = [];
const one = (world: World): ReadonlyArray<World> => [world];
const only = (holds: boolean, world: World): ReadonlyArray<World> => (holds ? [world] : none);

const jobOf = (world: World, scope: Scope, id: string) => {
  const job = world.jobs.get(id);
  return job !== undefined && sees(scope, job) ? job : undefined;
};
const letterOf = (world: World, scope: Scope, id: string) => {
  const letter = world.letters.get(id);
  return letter !== undefined && sees(scope, letter) ? letter : undefined;
};

export const submitted =
  (job: Job): Step =>
  (world) =>
    only(
      !world.jobs.has(job.id) &&
        (job.key === null ||
          [...world.jobs.values()].every((_) => _.app !== job.app || _.key !== job.key || isEnded(_))),
      withJob(world, job),
    );

/** The key was taken, by this job. */
export const duplicate =
  (app: string, key: string, id: string): Step =>
  (world) => {
    const holder = world.jobs.get(id);
    return only(holder !== undefined && holder.app === app && holder.key === key && !isEnded(holder), world);
  };

/** `isNew`: no job had this fence before. */
export const claimed =
  (scope: Scope, id: string, fence: bigint, attempts: number, isLost: boolean, isNew: boolean): Step =>
  (world) => {
    const job = jobOf(world, scope, id);
    if (job?.status !== "pending" || attempts !== job.attempts + 1 || !isNew) return none;
    return one(withJob(world, { ...job, status: "processing", attempts, fence, isLost }));
  };

/** What a job becomes when its run has ended. */
const ended = (job: Job, status: Job["status"], changes: Partial<Job> = {}): Job => ({
  ...job,
  status,
  isLost: false,
  ...changes,
});

export type Settlement = "complete" | "retry" | "deadLetter";

/** `outcome`: done, or the tag of the error. Of a dead-lettering that was done, the letter. */
export const settled =
  (
    kind: Settlement,
    scope: Scope,
    id: string,
    fence: bigint | undefined,
    outcome: string,
    letter?: { readonly id: string; readonly at: string; readonly reason: string },
  ): Step =>
  (world, isAlone) => {
    const job = jobOf(world, scope, id);
    const isHeld = job?.status === "processing" && fence !== undefined && job.fence === fence;
    const may = isHeld || (kind === "deadLetter" && fence === undefined && job !== undefined && !isEnded(job));
    if (job === undefined || !may) {
      const expected = job === undefined ? "JobNotFound" : "JobNotHeld";
      // Why nothing matched is looked up by a second statement, which may see the job come or go.
      return only(outcome === expected || (!isAlone && ["JobNotFound", "JobNotHeld"].includes(outcome)), world);
    }
    if (kind === "retry" && job.attempts >= job.maxAttempts) return only(outcome === "JobExhausted", world);
    if (outcome !== "done") return none;
    if (kind === "complete") return one(withJob(world, ended(job, "completed")));
    if (kind === "retry") return one(withJob(world, ended(job, "pending", { errors: job.errors + 1 })));
    return letter === undefined ? none : one(buried(world, job, letter));
  };

/** The job dies, and its letter is there. */
const buried = (
  world: World,
  job: Job,
  letter: { readonly id: string; readonly at: string; readonly reason: string },
  changes: Partial<Job> = {},
): World => {
  const dead = ended(job, "dead", { errors: job.errors + 1, ...changes });
  return withLetter(withJob(world, dead), {
    ...letter,
    job: job.id,
    app: job.app,
    isReplayed: false,
    attempts: job.attempts,
    errors: dead.errors,
    payload: job.payload,
    user: job.user,
  });
};

/** `status`: the one that it had. Undefined: there was no such job. */
export const cancelled =
  (scope: Scope, id: string, status: string | undefined): Step =>
  (world) => {
    const job = jobOf(world, scope, id);
    if (job?.status !== status) return none;
    return one(
      job === undefined || isEnded(job) ? world : withJob(world, ended(job, "cancelled", { fence: undefined })),
    );
  };

/** A lost run was given another attempt; which one, is not said. */
export const rescued =
  (scope: Scope): Step =>
  (world) =>
    [...world.jobs.values()].flatMap((job) =>
      sees(scope, job) && job.status === "processing" && job.isLost && job.attempts < job.maxAttempts
        ? [withJob(world, ended(job, "pending", { errors: job.errors + 1, isSuspect: true, fence: undefined }))]
        : [],
    );

/** A lost run was its job's last; the letter is one of these, or one that nobody has named. */
export const abandoned =
  (scope: Scope, id: string, letters: ReadonlyArray<{ readonly id: string; readonly at: string }>): Step =>
  (world) => {
    const job = jobOf(world, scope, id);
    if (job?.status !== "processing" || !job.isLost || job.attempts < job.maxAttempts) return none;
    return [...letters.filter((_) => !world.letters.has(_.id)), { id: `?${id}#${job.fence}`, at: "9999" }].map(
      (letter) =>
        buried(world, job, { ...letter, reason: "RunnerUnavailable" }, { isSuspect: false, fence: undefined }),
    );
  };

/** An ended job is gone; which one, is not said. */
export const purgedJob =
  (scope: Scope): Step =>
  (world) =>
    [...world.jobs.values()].flatMap((job) => (sees(scope, job) && isEnded(job) ? [withoutJob(world, job.id)] : []));

/** Why a letter is not in the table, as the ledger has it. */
const goneOf = (world: World, scope: Scope, id: string, app: string) => {
  if (!sees(scope, { app })) return "not found";
  if (world.erased.has(id)) return "erased";
  return [...world.copies.values()].some(({ letter }) => letter === id) ? "already gone" : "not found";
};

interface Answer {
  readonly id: string;
  /** The app that it is of, or was. */
  readonly app: string;
  readonly outcome: string;
}

/**
 * What was asked about letters of one job. `payload`: another one than their own. `isFilter`: a newer pending letter of the job, which
 * was not asked for, keeps them from being replayed.
 */
export const replayed =
  (scope: Scope, answers: ReadonlyArray<Answer>, payload: string | undefined, isFilter: boolean): Step =>
  (world, isAlone) => {
    const asked = answers.flatMap(({ id }) => letterOf(world, scope, id) ?? []).filter(({ isReplayed }) => !isReplayed);
    const others = [...world.letters.values()].filter(
      (_) => isFilter && !_.isReplayed && asked.some(({ app, job }) => app === _.app && job === _.job),
    );
    const [first] = [...asked, ...others].sort(newestFirst);
    const newest = first !== undefined && asked.some(({ id }) => id === first.id) ? first : undefined;
    const job = newest === undefined ? undefined : world.jobs.get(newest.job);
    const isRevived = newest !== undefined && (job === undefined || (job.app === newest.app && job.status === "dead"));
    const fits = answers.every(({ app, id, outcome }) => {
      const letter = letterOf(world, scope, id);
      if (letter?.isReplayed === false)
        return outcome === (isRevived && newest?.id === id ? "replayed" : "job not dead");
      // Of one that went between the look and the lock, only that is said.
      if (!isAlone && outcome === "already gone") return true;
      return outcome === (letter === undefined ? goneOf(world, scope, id, app) : "already gone");
    });
    if (!fits) return none;
    if (!isRevived || newest === undefined) return one(world);
    const ofJob = [...world.letters.values()].filter((_) => _.job === newest.job && _.app === newest.app);
    const fresh = {
      status: "pending",
      attempts: 0,
      errors: 0,
      fence: undefined,
      isLost: false,
      isSuspect: false,
      key: null,
      payload: payload ?? newest.payload,
    } as const;
    const revived: Job =
      job === undefined
        ? {
            ...fresh,
            id: newest.job,
            app: newest.app,
            maxAttempts: 5,
            user: newest.user,
            // Counted before the locks, from letters that a purge may be taking.
            replays: isAlone ? 1 + ofJob.filter(({ isReplayed }) => isReplayed).length : undefined,
          }
        : { ...job, ...fresh, replays: job.replays === undefined ? undefined : job.replays + 1 };
    return one(
      withLines(
        {
          ...withLetter(withJob(world, revived), { ...newest, isReplayed: true }),
          replayed: new Set(world.replayed).add(newest.id),
        },
        "replayed",
      ),
    );
  };

/** Marked by a caller who resubmits elsewhere. */
export const marked =
  (scope: Scope, id: string, outcome: string): Step =>
  (world, isAlone) => {
    const letter = letterOf(world, scope, id);
    if (letter === undefined || letter.isReplayed) {
      const expected = letter === undefined ? "JobDlqNotFound" : "JobDlqAlreadyReplayed";
      return only(
        outcome === expected || (!isAlone && ["JobDlqNotFound", "JobDlqAlreadyReplayed"].includes(outcome)),
        world,
      );
    }
    if (outcome !== "done") return none;
    const changed = withLetter(world, { ...letter, isReplayed: true });
    return one(withLines({ ...changed, replayed: new Set(world.replayed).add(id) }, "replayed"));
  };

const out = (world: World, letter: Letter, kind: Copy["kind"], id: string): World =>
  withLines(
    withCopy(withoutLetter(world, letter.id), {
      id,
      kind,
      app: letter.app,
      job: letter.job,
      letter: letter.id,
      entry: letter,
      isUndone: false,
    }),
    kind,
  );

export const discarded =
  (scope: Scope, { app, eventId, id, outcome }: Answer & { readonly eventId: string | null }): Step =>
  (world, isAlone) => {
    const letter = letterOf(world, scope, id);
    if (letter !== undefined && !letter.isReplayed) {
      return outcome === "discarded" && eventId !== null ? one(out(world, letter, "discarded", eventId)) : none;
    }
    if (!isAlone && outcome === "already gone") return one(world);
    return only(outcome === (letter === undefined ? goneOf(world, scope, id, app) : "already gone"), world);
  };

/** A pending letter of before this time expired; which one, is not said. */
export const expired =
  (scope: Scope, before: string): Step =>
  (world) =>
    [...world.letters.values()].flatMap((letter) =>
      sees(scope, letter) && !letter.isReplayed && letter.at < before
        ? [out(world, letter, "expired", `?${letter.id}#${world.lines.expired}`)]
        : [],
    );

/** A replayed letter is gone; which one, is not said. */
export const purgedLetter =
  (scope: Scope): Step =>
  (world) =>
    [...world.letters.values()].flatMap((letter) =>
      sees(scope, letter) && letter.isReplayed ? [withoutLetter(world, letter.id)] : [],
    );

/** The copies of the ledger are gone, and the lines that undid them. Only alone. */
export const purgedCopies: Step = (world) => {
  const undone = [...world.copies.values()].filter(({ isUndone }) => isUndone).length;
  const lines = { ...world.lines, discarded: 0, expired: 0, restored: world.lines.restored - undone };
  return [{ ...world, copies: new Map(), lines }];
};

/** What was asked about the copies of one letter. */
export const restored =
  (scope: Scope, answers: ReadonlyArray<{ readonly eventId: string; readonly outcome: string }>): Step =>
  (world) => {
    const known = answers.flatMap(({ eventId }) => {
      const copy = world.copies.get(eventId);
      return copy !== undefined && sees(scope, copy) ? [copy] : [];
    });
    const isThere = (id: string) => world.letters.has(id);
    const [chosen] = known
      .filter(
        ({ entry, isUndone, letter }) =>
          entry !== undefined && !isUndone && !isThere(letter) && !world.replayed.has(letter),
      )
      .sort((a, b) => (a.id < b.id ? 1 : -1));
    const fits = answers.every(({ eventId, outcome }) => {
      const copy = known.find(({ id }) => id === eventId);
      if (copy === undefined) return outcome === "not found";
      if (copy === chosen) return outcome === "restored";
      if (copy.isUndone) return outcome === "already restored";
      if (copy.entry === undefined) return outcome === "erased";
      if (world.replayed.has(copy.letter) && !isThere(copy.letter)) return outcome === "already gone";
      return outcome === "id exists";
    });
    if (!fits) return none;
    if (chosen?.entry === undefined) return one(world);
    return one(withLines(withCopy(withLetter(world, chosen.entry), { ...chosen, isUndone: true }), "restored"));
  };

export interface Erased {
  readonly letters: number;
  readonly copies: number;
  readonly jobsCancelled: number;
  readonly jobsEmptied: number;
}

/** One person's data, or some letters', in a tenant. */
export const erased =
  (app: string, what: { readonly user: string } | { readonly ids: ReadonlyArray<string> }, answer: Erased): Step =>
  (world) => {
    const isOf = (one: { readonly user: string | null; readonly id: string }) =>
      "user" in what ? one.user === what.user : what.ids.includes(one.id);
    const letters = [...world.letters.values()].filter((_) => _.app === app && isOf(_));
    const jobsOf = new Set(letters.map(({ job }) => job));
    const copies = [...world.copies.values()].filter(
      (_) =>
        _.app === app && _.entry !== undefined && (isOf({ id: _.letter, user: _.entry.user }) || jobsOf.has(_.job)),
    );
    const gone = copies.filter(({ isUndone }) => !isUndone);
    for (const { job } of gone) jobsOf.add(job);
    const jobs = [...world.jobs.values()].filter(
      (_) => _.app === app && (jobsOf.has(_.id) || ("user" in what && _.user === what.user)),
    );
    const living = jobs.filter((_) => !isEnded(_));
    const isRight =
      answer.letters === letters.length &&
      answer.copies === gone.length &&
      answer.jobsCancelled === living.length &&
      answer.jobsEmptied === jobs.length;
    if (!isRight) return none;
    let after = world;
    for (const { id } of letters) after = withoutLetter(after, id);
    for (const copy of copies) after = withCopy(after, { ...copy, entry: undefined });
    for (const job of jobs) {
      const status = isEnded(job) ? job.status : "cancelled";
      after = withJob(
        after,
        ended(job, status, { payload: "null", errors: 0, user: null, key: null, fence: undefined }),
      );
    }
    const names = new Set(after.erased);
    for (const { id } of letters) names.add(id);
    for (const { letter } of gone) names.add(letter);
    return one(withLines({ ...after, erased: names }, "erased", letters.length + gone.length));
  };

/** A line of an import. */
export const imported =
  (letter: Letter, outcome: string): Step =>
  (world) => {
    const there = world.letters.get(letter.id);
    if (world.erased.has(letter.id)) return only(outcome === "erased", world);
    if (there !== undefined) return only(outcome === (there.app === letter.app ? "duplicate" : "id taken"), world);
    if (world.replayed.has(letter.id)) return only(outcome === "replayed", world);
    return only(outcome === "imported", withLines(withLetter(world, letter), "imported"));
  };
