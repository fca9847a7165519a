/**
 * The states of a job and of a dead letter, and every step between them: who makes it, and with which statement. Tests hold the
 * database to it, and docs/states.md prints it.
 */

export interface Transition {
  readonly from: string;
  readonly to: string;
  /** The operations that make it. */
  readonly by: ReadonlyArray<string>;
  /** What it needs, and what it changes beside the state. */
  readonly how: string;
}

export const jobTransitions: ReadonlyArray<Transition> = [
  {
    from: "none",
    to: "pending",
    by: ["Jobs.submit", "jobs.enqueue", "jobs.enqueueMany", "jobDlq.replay"],
    how: "submitted, or replayed after the job was purged: then with the defaults of its type and a full attempt budget",
  },
  {
    from: "pending",
    to: "processing",
    by: ["jobs.claim", "runner"],
    how: "due, and locked by nobody: one more attempt, a new fence, a lease",
  },
  {
    from: "processing",
    to: "completed",
    by: ["jobs.complete", "runner"],
    how: "with the fence of the claim",
  },
  {
    from: "processing",
    to: "pending",
    by: ["jobs.retry", "jobs.rescue", "runner"],
    how: "with the fence and attempts left; or its lease is over and attempts are left, or others ran beside it: a new fence; or the runner stops and gives the attempt back",
  },
  {
    from: "processing",
    to: "dead",
    by: ["jobs.deadLetter", "jobs.rescue", "runner"],
    how: "with the fence, or without one; or its lease is over and this was the last attempt. Its dead letter is inserted by the same statement",
  },
  {
    from: "pending",
    to: "dead",
    by: ["jobs.deadLetter"],
    how: "without a fence. Its dead letter is inserted by the same statement",
  },
  {
    from: "dead",
    to: "pending",
    by: ["jobDlq.replay"],
    how: "a pending letter of the same app is replayed: no attempts, no errors, no dedupe key, a new fence, one more replay",
  },
  {
    from: "pending",
    to: "cancelled",
    by: ["Jobs.cancel", "jobDlq.erase"],
    how: "a new fence; an erasure also empties payload, errors, user and request",
  },
  {
    from: "processing",
    to: "cancelled",
    by: ["Jobs.cancel", "jobDlq.erase"],
    how: "a new fence, so that its runner's settlement matches no row; an erasure also empties payload, errors, user and request",
  },
  { from: "completed", to: "none", by: ["jobs.purge"], how: "ended longer ago than the given days" },
  { from: "dead", to: "none", by: ["jobs.purge"], how: "ended longer ago than the given days; its letter stays" },
  { from: "cancelled", to: "none", by: ["jobs.purge"], how: "ended longer ago than the given days" },
];

export const letterTransitions: ReadonlyArray<Transition> = [
  {
    from: "none",
    to: "pending",
    by: ["jobs.deadLetter", "jobs.rescue", "runner", "jobDlq.insert", "jobDlq.insertMany", "jobDlq.importFrom"],
    how: "with its job's end, in one statement; or written by somebody else. An import needs an id that is free, was not erased and was not replayed",
  },
  {
    from: "none",
    to: "replayed",
    by: ["jobDlq.insert", "jobDlq.insertMany", "jobDlq.importFrom"],
    how: "written as a replayed one; revives no job",
  },
  {
    from: "pending",
    to: "replayed",
    by: ["jobDlq.replay", "jobDlq.markReplayed"],
    how: "replay: it is the newest pending letter of its job that was asked for, and the job is dead or gone. markReplayed: the caller resubmits elsewhere",
  },
  {
    from: "pending",
    to: "discarded",
    by: ["jobDlq.discard"],
    how: "leaves the table; a whole copy is in the ledger, with who and why",
  },
  {
    from: "pending",
    to: "expired",
    by: ["jobDlq.retain"],
    how: "pending for longer than the policy's days, 1 or more; leaves the table, a whole copy is in the ledger",
  },
  {
    from: "discarded",
    to: "pending",
    by: ["jobDlq.restore", "jobDlq.importFrom"],
    how: "restore: by the event that took it out, once, while its id is not in the table and was not replayed. An import of its line leaves that event as it is",
  },
  {
    from: "expired",
    to: "pending",
    by: ["jobDlq.restore", "jobDlq.importFrom"],
    how: "as a discarded one; it expires again by its age",
  },
  {
    from: "replayed",
    to: "none",
    by: ["jobDlq.purge", "jobDlq.retain"],
    how: "replayed longer ago than the given days; counted in a receipt",
  },
  {
    from: "discarded",
    to: "none",
    by: ["jobDlq.retain"],
    how: "its copy is older than the policy's days; the system scope only",
  },
  {
    from: "expired",
    to: "none",
    by: ["jobDlq.retain"],
    how: "its copy is older than the policy's days; the system scope only",
  },
  {
    from: "pending",
    to: "erased",
    by: ["jobDlq.erase"],
    how: "leaves the table; the ledger keeps type, reason and number of attempts",
  },
  { from: "replayed", to: "erased", by: ["jobDlq.erase"], how: "as a pending one" },
  { from: "discarded", to: "erased", by: ["jobDlq.erase"], how: "the copy in the ledger becomes NULL" },
  { from: "expired", to: "erased", by: ["jobDlq.erase"], how: "the copy in the ledger becomes NULL" },
  {
    from: "none",
    to: "erased",
    by: ["jobDlq.erase"],
    how: "the copy in the ledger becomes NULL, of a discarded one that was imported again and purged since",
  },
];

/** `pending → dead` */
export const stepOf = ({ from, to }: Pick<Transition, "from" | "to">) => `${from} → ${to}`;

/** The steps that these operations make. */
export const stepsBy = (transitions: ReadonlyArray<Transition>, operations: ReadonlyArray<string>) =>
  transitions.filter(({ by }) => by.some((_) => operations.includes(_))).map(stepOf);

/** What is asked for and not done, and how that is said. */
export interface Refusal {
  readonly by: ReadonlyArray<string>;
  readonly when: string;
  readonly answer: string;
}

export const jobRefusals: ReadonlyArray<Refusal> = [
  {
    by: ["Jobs.submit"],
    when: "a job of the app and type with this dedupe key is pending or processing",
    answer: "isDuplicate, with the id of that job",
  },
  {
    by: ["jobs.complete", "jobs.retry", "jobs.deadLetter"],
    when: "the job is not processing, or under another fence; without a fence: it has ended",
    answer: "JobNotHeld",
  },
  { by: ["jobs.retry"], when: "it had its last attempt", answer: "JobExhausted" },
  { by: ["jobs.complete", "jobs.retry", "jobs.deadLetter"], when: "the scope has no such job", answer: "JobNotFound" },
  { by: ["Jobs.cancel"], when: "it has ended", answer: "isCancelled: false, with the status that it has" },
  { by: ["Jobs.cancel"], when: "the scope has no such job", answer: "JobNotFound" },
  {
    by: ["jobs.claim", "jobs.rescue"],
    when: "somebody else holds the row at that moment",
    answer: "left out; the next call finds it",
  },
];

export const letterRefusals: ReadonlyArray<Refusal> = [
  {
    by: ["jobDlq.replay"],
    when: "its job is pending, processing, completed or cancelled, is another app's, or is a newer pending letter's to revive",
    answer: "job not dead",
  },
  {
    by: ["jobDlq.replay", "jobDlq.discard"],
    when: "it was replayed, discarded or expired before, or by another caller just now",
    answer: "already gone",
  },
  {
    by: ["jobDlq.replay", "jobDlq.discard", "jobDlq.restore", "jobDlq.importFrom"],
    when: "it was erased",
    answer: "erased",
  },
  {
    by: ["jobDlq.replay", "jobDlq.discard", "jobDlq.restore"],
    when: "the scope has none: it never was, was purged, or is another tenant's",
    answer: "not found",
  },
  { by: ["jobDlq.restore"], when: "the event was undone before", answer: "already restored" },
  { by: ["jobDlq.restore"], when: "its id is in the table again", answer: "id exists" },
  { by: ["jobDlq.restore"], when: "it was in the table again and was replayed there", answer: "already gone" },
  { by: ["jobDlq.restore", "jobDlq.importFrom"], when: "its app was deleted", answer: "unknown app" },
  {
    by: ["jobDlq.importFrom"],
    when: "its id is in the table",
    answer: "duplicate; id taken where the scope does not see it",
  },
  { by: ["jobDlq.importFrom"], when: "the line is pending, and the ledger knows it as replayed", answer: "replayed" },
  { by: ["jobDlq.markReplayed"], when: "it was replayed before", answer: "JobDlqAlreadyReplayed" },
  { by: ["jobDlq.markReplayed"], when: "the scope has none", answer: "JobDlqNotFound" },
  {
    by: ["jobDlq.purge", "jobDlq.retain"],
    when: "somebody else holds the row for long",
    answer: "retain leaves it out; purge waits",
  },
];
