/**
 * Whether what ran at the same time can be explained by some order of it: the steps of all operations, one after the other, in the
 * model, so that every answer fits and the end is what the database has.
 */
import type { Job, Letter, Step, World } from "./world.js";

/** What the database has, as it was read. */
export interface Seen {
  readonly jobs: ReadonlyMap<string, Job>;
  readonly letters: ReadonlyMap<string, Letter>;
  readonly copies: ReadonlyMap<
    string,
    {
      readonly id: string;
      readonly kind: string;
      readonly app: string;
      readonly job: string;
      readonly letter: string;
      readonly hasEntry: boolean;
      readonly isUndone: boolean;
    }
  >;
  readonly lines: Readonly<Record<string, number>>;
}

const text = (value: unknown) => JSON.stringify(value, (_, one) => (typeof one === "bigint" ? `${one}` : one));

const jobText = ({ fence: _, isLost: __, replays: ___, ...job }: Job) => text(Object.entries(job).sort());
const letterText = ({ at: _, id: __, ...letter }: Letter) => text(Object.entries(letter).sort());

const isKnown = (id: string) => !id.startsWith("?");

/**
 * Compares a world with what is there: the same world with what it could not know filled in, or what differs. `fences` are all that
 * were there before; a new one is none of them.
 */
export const recognise = (world: World, seen: Seen, fences: ReadonlySet<bigint>): World | string => {
  const jobs = new Map<string, Job>();
  for (const [id, job] of world.jobs) {
    const row = seen.jobs.get(id);
    if (row === undefined) return `job ${id} is ${job.status} in the model and not in the table`;
    if (jobText(job) !== jobText(row)) return `job ${id} is ${jobText(row)}, in the model ${jobText(job)}`;
    if (job.fence === undefined ? row.fence === undefined || fences.has(row.fence) : job.fence !== row.fence) {
      return `job ${id} has the fence ${row.fence}, in the model ${job.fence ?? "a new one"}`;
    }
    if (job.replays !== undefined && job.replays !== row.replays) {
      return `job ${id} was replayed ${row.replays} times, in the model ${job.replays}`;
    }
    jobs.set(id, { ...job, fence: row.fence, replays: row.replays });
  }
  for (const id of seen.jobs.keys()) if (!world.jobs.has(id)) return `job ${id} is in the table and not in the model`;

  const names = new Map<string, string>();
  const free = new Map([...seen.letters].filter(([id]) => !world.letters.has(id)));
  const letters = new Map<string, Letter>();
  for (const [id, letter] of world.letters) {
    const [name, row] = isKnown(id)
      ? [id, seen.letters.get(id)]
      : ([...free].find(([, one]) => letterText(one) === letterText(letter)) ?? [id, undefined]);
    if (row === undefined) return `letter ${id} (${letterText(letter)}) is in the model and not in the table`;
    if (letterText(letter) !== letterText(row))
      return `letter ${id} is ${letterText(row)}, in the model ${letterText(letter)}`;
    free.delete(name);
    names.set(id, name);
    letters.set(name, { ...letter, id: name, at: row.at });
  }
  for (const [id, row] of free) return `letter ${id} (${letterText(row)}) is in the table and not in the model`;

  const nameOf = (id: string) => names.get(id) ?? id;
  const copies = new Map<string, World["copies"] extends ReadonlyMap<string, infer C> ? C : never>();
  const left = new Map([...seen.copies].filter(([id]) => !world.copies.has(id)));
  for (const [id, copy] of world.copies) {
    const letter = nameOf(copy.letter);
    const fits = (row: typeof left extends Map<string, infer R> ? R : never) =>
      row.kind === copy.kind &&
      row.app === copy.app &&
      row.job === copy.job &&
      (row.letter === letter || !isKnown(letter)) &&
      row.hasEntry === (copy.entry !== undefined) &&
      row.isUndone === copy.isUndone;
    const [name, row] = isKnown(id)
      ? [id, seen.copies.get(id)]
      : ([...left].find(([, one]) => fits(one)) ?? [id, undefined]);
    if (row === undefined) return `the ledger has no line ${id} (${copy.kind} ${letter})`;
    if (!fits(row))
      return `line ${id} is ${text(row)}, in the model ${text({ ...copy, entry: copy.entry !== undefined })}`;
    left.delete(name);
    const entry = copy.entry === undefined ? undefined : { ...copy.entry, id: row.letter };
    copies.set(name, { ...copy, id: name, letter: row.letter, entry });
    if (!isKnown(copy.letter)) names.set(copy.letter, row.letter);
  }
  for (const [id, row] of left) return `line ${id} (${row.kind} ${row.letter}) is in the ledger and not in the model`;
  for (const [kind, count] of Object.entries(world.lines)) {
    if ((seen.lines[kind] ?? 0) !== count)
      return `the ledger has ${seen.lines[kind] ?? 0} lines ${kind}, in the model ${count}`;
  }
  return {
    jobs,
    letters,
    copies,
    lines: world.lines,
    replayed: new Set([...world.replayed].map(nameOf)),
    erased: new Set([...world.erased].map(nameOf)),
  };
};

const worldText = (world: World) =>
  text([
    [...world.jobs.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    [...world.letters.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    [...world.copies.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    [...world.replayed].sort(),
    [...world.erased].sort(),
    world.lines,
  ]);

/** Most worlds that are looked at for one batch. */
const patience = 50_000;

export interface Explanation {
  /** What holds now, or undefined when no order explains it. */
  readonly world: World | undefined;
  /** Of the orders in which every answer fits, what the last one leaves unexplained. */
  readonly problem: string;
  readonly looked: number;
}

/** Looks for an order. Equal steps of one operation are the same object, and only the first of them is tried. */
export const explain = (
  before: World,
  steps: ReadonlyArray<Step>,
  seen: Seen,
  fences: ReadonlySet<bigint>,
  isAlone: boolean,
): Explanation => {
  const known = new Set<string>();
  let problem = "no order of the steps fits all answers";
  const search = (world: World, open: ReadonlyArray<number>): World | undefined => {
    if (open.length === 0) {
      const found = recognise(world, seen, fences);
      if (typeof found !== "string") return found;
      problem = found;
      return undefined;
    }
    const key = `${open.join()} ${worldText(world)}`;
    if (known.has(key)) return undefined;
    known.add(key);
    if (known.size > patience) throw new Error(`no order was found among ${patience} worlds`);
    const tried = new Set<Step>();
    for (const place of open) {
      const step = steps[place];
      if (step === undefined || tried.has(step)) continue;
      tried.add(step);
      const rest = open.filter((_) => _ !== place);
      for (const next of step(world, isAlone)) {
        const found = search(next, rest);
        if (found !== undefined) return found;
      }
    }
    return undefined;
  };
  const world = search(
    before,
    steps.map((_, place) => place),
  );
  return { world, problem, looked: known.size };
};
