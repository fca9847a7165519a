/**
 * What jsonb can keep: refuses, with the JSON path, every value that PostgreSQL cannot store or that JSON would change
 * without a word. Pure.
 */
import * as Option from "effect/Option";

/** Why a value cannot be stored, and where: `path` is `$` for the value itself, then `$.items[3].price`. */
export interface NotStorable {
  readonly path: string;
  readonly problem: string;
}

/** Deeper values overflow the stack of the encoder and of the database's parser. */
export const maxDepth = 1000;

/** How deep the lists and objects of a JSON text are nested; of any other text, some number. */
export const depthOf = (text: string): number => {
  let depth = 0;
  let deepest = 0;
  let isInString = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (isInString) {
      if (character === "\\") i++;
      else if (character === '"') isInString = false;
    } else if (character === '"') isInString = true;
    else if (character === "[" || character === "{") deepest = Math.max(deepest, ++depth);
    else if (character === "]" || character === "}") depth--;
  }
  return deepest;
};

/** Whether lists and objects are nested deeper in a value of JSON than so many levels. */
export const isDeeper = (value: unknown, levels: number): boolean =>
  typeof value === "object" &&
  value !== null &&
  (levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1)));

const identifier = /^[A-Za-z_$][\w$]*$/;
const child = (path: string, key: string) =>
  identifier.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`;

/** Why PostgreSQL cannot store a text, or undefined. */
export const textProblem = (text: string): string | undefined => {
  if (text.includes("\u0000")) return "contains a NUL character (\\u0000), which PostgreSQL cannot store";
  if (!text.isWellFormed()) return "contains a lone surrogate, which is not valid Unicode";
  return undefined;
};

const describe = (value: object): string => {
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  return typeof name === "string" && name !== "" ? name : "object of an unknown class";
};

/** The text of what reading gives, or else, where that throws or has no text. */
export const textOf = (read: () => unknown, otherwise: string): string => {
  try {
    return String(read());
  } catch {
    return otherwise;
  }
};

/** What is wrong with a value whose own code threw this when it was looked at. */
export const unreadable = (error: unknown): string => {
  const said = textOf(() => (error instanceof Error ? error.message : error), "its own code threw what has no text");
  return `cannot be read: ${said}`;
};

// A Map, Set, RegExp, Error, Promise, typed array or boxed primitive keeps its content outside its properties.
const hasOnlyProperties = (value: object): boolean => Object.prototype.toString.call(value) === "[object Object]";

/**
 * The first reason why `value` cannot be stored as it is, or none.
 *
 * Left alone, as everywhere in JSON: an object's undefined properties are left out, -0 becomes 0, and whatever has a
 * `toJSON` (a Date) is stored as what that returns. Refused: undefined (also inside an array), a function, a symbol, a
 * BigInt, NaN and the infinities, Map, Set and every other object without `toJSON` whose content is not in its properties,
 * a cycle, text with NUL or a lone surrogate, nesting beyond {@link maxDepth}.
 */
export const notStorable = (value: unknown): Option.Option<NotStorable> => {
  const ancestors = new Set<object>();
  const visit = (input: unknown, path: string, key: string, depth: number): NotStorable | undefined => {
    let current = input;
    if (typeof current === "object" && current !== null) {
      const toJSON: unknown = Reflect.get(current, "toJSON");
      if (typeof toJSON === "function") current = toJSON.call(current, key);
    }
    switch (typeof current) {
      case "boolean":
        return undefined;
      case "string": {
        const problem = textProblem(current);
        return problem === undefined ? undefined : { path, problem };
      }
      case "number":
        return Number.isFinite(current)
          ? undefined
          : { path, problem: `is ${current}, which JSON would change to null` };
      case "bigint":
        return { path, problem: "is a BigInt, which JSON cannot hold; pass it as a string" };
      case "undefined":
        return { path, problem: "is undefined, which JSON cannot hold; pass null" };
      case "function":
      case "symbol":
        return { path, problem: `is a ${typeof current}, which JSON cannot hold` };
      default:
    }
    if (typeof current !== "object" || current === null) return undefined;
    if (ancestors.has(current)) return { path, problem: "refers back to a value that contains it (a cycle)" };
    if (depth >= maxDepth) return { path: "$", problem: `is nested deeper than ${maxDepth} levels` };
    ancestors.add(current);
    let found: NotStorable | undefined;
    if (Array.isArray(current)) {
      // By index: a hole is undefined, and entries() would be fooled by an overridden iterator.
      for (let i = 0; found === undefined && i < current.length; i++) {
        found = visit(current[i], `${path}[${i}]`, String(i), depth + 1);
      }
    } else if (hasOnlyProperties(current)) {
      for (const name of Object.keys(current)) {
        const problem = textProblem(name);
        const property: unknown = Reflect.get(current, name);
        if (problem !== undefined) found = { path: child(path, name), problem: `has a name that ${problem}` };
        else if (property !== undefined) found = visit(property, child(path, name), name, depth + 1);
        if (found !== undefined) break;
      }
    } else {
      found = {
        path,
        problem: `is a ${describe(current)}, whose content JSON would lose; pass plain objects and arrays`,
      };
    }
    ancestors.delete(current);
    return found;
  };
  try {
    return Option.fromNullable(visit(value, "$", "", 0));
  } catch (error) {
    // A getter or a toJSON of the caller's threw.
    return Option.some({ path: "$", problem: unreadable(error) });
  }
};
