/** One way to break the product: a text of one file is replaced by another, and a test must notice. Pure. */

/** A test: its file and its title, or the words of its title that stay the same. */
export interface Test {
  readonly file: string;
  readonly title: string;
}

export interface Mutation {
  /** What is missing or wrong then. */
  readonly name: string;
  /** A source of the product, from the root of the repository. */
  readonly file: string;
  /** What stands there. Once in the file, unless `place` says which of several, from 1. */
  readonly find: string;
  readonly replace: string;
  readonly place?: number;
  /** The test that must fail. */
  readonly test: Test;
  /** What of the catalogue, or of the API, this breaks: `policy jobs.jobs_tenant`, `route replay`. */
  readonly breaks?: string;
}

/** A mutation cannot be made any more: the source has changed. */
export class Unfit extends Error {
  override readonly name = "Unfit";
}

/** The file's text with its mutation. Throws {@link Unfit}. */
export const mutated = ({ file, find, name, place, replace }: Mutation, text: string): string => {
  const pieces = text.split(find);
  const count = pieces.length - 1;
  const at = place ?? 1;
  if (count === 0 || at > count || (place === undefined && count > 1)) {
    throw new Unfit(`${name}: ${file} has its text ${count} times${place === undefined ? ", not once" : ""}:\n${find}`);
  }
  return `${pieces.slice(0, at).join(find)}${replace}${pieces.slice(at).join(find)}`;
};

/** A pattern for `vitest -t` that finds these titles and whatever contains them. */
export const patternOf = (titles: Iterable<string>): string =>
  [...new Set(titles)].map((title) => title.replace(/[\\^$.*+?()[\]{}|]/gu, "\\$&")).join("|");

/** The vitest project of a test file: its package. */
export const projectOf = ({ file }: Test): string => {
  const project = /^packages\/([a-z]+)\/test\//u.exec(file)?.[1];
  if (project === undefined) throw new Error(`${file} is no test of a package`);
  return project;
};

/** Mutations of one file: their names, texts and tests, and what else they say. */
export const inFile =
  (file: string) =>
  (
    name: string,
    find: string,
    replace: string,
    test: Test,
    more: { readonly place?: number; readonly breaks?: string } = {},
  ): Mutation => ({ name, file, find, replace, test, ...more });

/** Tests of one file, by their titles. */
export const testsOf =
  (file: string) =>
  (title: string): Test => ({ file: `packages/${file}`, title });
