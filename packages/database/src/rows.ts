/**
 * Rows in and out: decoding what is stored, encoding what a caller passes, each by the model's schema.
 *
 * A stored row that does not fit its model never hides the others. Input is checked here before anything is sent.
 */
import type * as Model from "@effect/sql/Model";
import * as Arr from "effect/Array";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import type * as ParseResult from "effect/ParseResult";
import * as S from "effect/Schema";
import * as AST from "effect/SchemaAST";
import { BadRow, InvalidInput } from "./errors.js";
import { firstIssue } from "./issue.js";
import { notStorable, textProblem, unreadable } from "./json.js";

// --- out ---------------------------------------------------------------------

interface WithId {
  readonly id?: unknown;
}

// The path and the expectation; never the value, which may be somebody's data.
const where = (error: ParseResult.ParseError) => {
  const { path } = firstIssue(error);
  return path.length === 0 ? "the row" : path.map(String).join(".");
};

/**
 * Decoders for the rows of a table. `quick` may decode what it is sure of, exactly as the model would, and leaves everything else
 * to the model (undefined).
 */
export const rowsOf = <A, I>(
  model: S.Schema<A, I>,
  table: string,
  quick: (row: object) => A | undefined = () => undefined,
) => {
  const decode = S.decodeUnknownEither(model);
  const decodeOne = (row: WithId): Either.Either<A, BadRow> => {
    const sure = quick(row);
    if (sure !== undefined) return Either.right(sure);
    return Either.mapLeft(
      decode(row),
      (error) => new BadRow({ table, id: String(row.id), problem: `${where(error)} is not what the model says` }),
    );
  };
  const partition = (
    rows: ReadonlyArray<WithId>,
  ): { readonly items: ReadonlyArray<A>; readonly bad: ReadonlyArray<BadRow> } => {
    const [bad, items] = Arr.partitionMap(rows, decodeOne);
    return { items, bad };
  };
  const first = (rows: ReadonlyArray<WithId>): Effect.Effect<Option.Option<A>, BadRow> => {
    const { bad, items } = partition(rows.slice(0, 1));
    return bad[0] === undefined ? Effect.succeed(Arr.head(items)) : bad[0];
  };
  return {
    /** What fits and what does not, each in the order of the rows. */
    partition,
    /** What fits; the others are logged with their ids. */
    good: (rows: ReadonlyArray<WithId>): Effect.Effect<ReadonlyArray<A>> => {
      const { bad, items } = partition(rows);
      return Effect.as(
        Effect.forEach(bad, (row) => Effect.logWarning(row.message), { discard: true }),
        items,
      );
    },
    first,
    /** The row of a statement that returns exactly one, which this package has just written: anything else is a bug. */
    only: (rows: ReadonlyArray<WithId>): Effect.Effect<A> =>
      Effect.orDie(
        Effect.flatMap(
          first(rows),
          Option.match({ onNone: () => Effect.dieMessage(`${table} returned no row`), onSome: Effect.succeed }),
        ),
      ),
  };
};

const countRows = S.decodeUnknown(S.Tuple(S.Struct({ count: S.Int })));

/** Reads the one row of `SELECT …::int AS count`. */
export const decodeCount = (rows: ReadonlyArray<object>): Effect.Effect<number> =>
  Effect.orDie(Effect.map(countRows(rows), ([{ count }]) => count));

// --- in ----------------------------------------------------------------------

type OptionalKeys<A> = {
  [K in keyof A]-?: unknown extends A[K] ? never : undefined extends A[K] ? K : never;
}[keyof A];

/** A model's insert type in which whatever the database has a default for may be left out. */
export type Insert<A> = Omit<A, OptionalKeys<A>> & { readonly [K in OptionalKeys<A>]?: A[K] | undefined };

const isJson = (ast: AST.AST): boolean =>
  AST.isTransformation(ast) &&
  (Option.contains(AST.getSchemaIdAnnotation(ast), AST.ParseJsonSchemaId) || isJson(ast.from));

// Plain code and no effects: each of a thousand rows has a dozen of these checks.
const jsonProblem = (operation: string, field: string, value: unknown): InvalidInput | undefined =>
  Option.match(notStorable(value), {
    onNone: () => undefined,
    onSome: ({ path, problem }) => new InvalidInput({ operation, field: `${field} at ${path}`, problem }),
  });

const badText = (operation: string, field: string, value: unknown): InvalidInput | undefined => {
  const problem = typeof value === "string" ? textProblem(value) : undefined;
  return problem === undefined ? undefined : new InvalidInput({ operation, field, problem });
};

const notEncodable = (operation: string, field: string) => (error: ParseResult.ParseError) => {
  const issue = firstIssue(error);
  const path = [...(field === "" ? [] : [field]), ...issue.path].map(String).join(".");
  return new InvalidInput({
    operation,
    field: path === "" ? "input" : path,
    problem: `is not valid: ${issue.message}`,
  });
};

/** What looking at a value of the caller's gives. Its own code may throw then: a getter's, a proxy's. */
export const lookedAt = <A>(
  operation: string,
  place: string,
  look: () => Either.Either<A, InvalidInput>,
): Either.Either<A, InvalidInput> => {
  try {
    return look();
  } catch (error) {
    const field = place.replace(/\.$/, "") || "input";
    return Either.left(new InvalidInput({ operation, field, problem: unreadable(error) }));
  }
};

/** The names of a schema's fields, as the application sees them. */
export const fieldsOf = (schema: S.Schema.All): ReadonlyArray<string> =>
  AST.getPropertySignatures(AST.typeAST(schema.ast)).map(({ name }) => String(name));

/**
 * Encodes one new row to its columns. Fields that are left out (or undefined) are left out of the result, so that the
 * database's default holds: its clock decides about times, not the application's.
 */
export const encoderOf = <M extends Model.AnyNoContext>(model: M) => {
  const schema: S.Schema<unknown, object> = S.asSchema(model.insert) as never;
  const fields = fieldsOf(schema);
  const json = AST.getPropertySignatures(S.encodedSchema(schema).ast)
    .map(({ name }) => String(name))
    .filter((name) => isJsonField(model, name));
  const encode = S.encodeUnknownEither(schema);
  const encoded = (
    operation: string,
    row: object,
    prefix: string,
  ): Either.Either<Record<string, unknown>, InvalidInput> => {
    if (typeof row !== "object" || row === null) {
      return Either.left(new InvalidInput({ operation, field: prefix || "input", problem: "is no object" }));
    }
    const given: Record<string, unknown> = {};
    for (const name of fields) given[name] = Reflect.get(row, name);
    for (const name of json) {
      const problem = jsonProblem(operation, `${prefix}${name}`, given[name]);
      if (problem !== undefined) return Either.left(problem);
    }
    const fitting = encode(given);
    if (Either.isLeft(fitting)) {
      const invalid = notEncodable(operation, "")(fitting.left);
      return Either.left(new InvalidInput({ ...invalid, operation, field: `${prefix}${invalid.field}` }));
    }
    const columns: Record<string, unknown> = {};
    for (const [name, value] of Object.entries(fitting.right)) {
      const isJsonText = json.includes(name);
      if (given[name] === undefined && !isJsonText) continue;
      // What was storable as JSON is so as text.
      const problem = isJsonText ? undefined : badText(operation, `${prefix}${name}`, value);
      if (problem !== undefined) return Either.left(problem);
      columns[name] = value;
    }
    return Either.right(columns);
  };
  return (operation: string, row: object, prefix = "") =>
    lookedAt(operation, prefix, () => encoded(operation, row, prefix));
};

const fieldSchema = (model: Model.AnyNoContext, name: string): S.Schema<unknown, unknown> | undefined => {
  const field: unknown = Reflect.get(model.fields, name);
  return S.isSchema(field) ? (field as S.Schema<unknown, unknown>) : undefined;
};

const isJsonField = (model: Model.AnyNoContext, name: string) => {
  const schema = fieldSchema(model, name);
  return schema !== undefined && isJson(schema.ast);
};

/** Encoders of single values by column: for a predicate (`operand`, where an option may be given bare) and for a change (`value`). */
export interface Column {
  readonly value: (operation: string, value: unknown) => Effect.Effect<unknown, InvalidInput>;
  readonly operand: (operation: string, value: unknown) => Effect.Effect<unknown, InvalidInput>;
}

/** The columns of a model by field name. */
export const columnsOf = (model: Model.AnyNoContext): Readonly<Record<string, Column>> => {
  const columns: Record<string, Column> = Object.create(null);
  for (const name of Object.keys(model.fields)) {
    const schema = fieldSchema(model, name);
    if (schema === undefined) continue;
    const encode = S.encodeUnknownEither(schema);
    const fits = S.is(S.typeSchema(schema));
    const json = isJson(schema.ast);
    const encoded = (operation: string, input: unknown): Either.Either<unknown, InvalidInput> => {
      const notJson = json ? jsonProblem(operation, name, input) : undefined;
      if (notJson !== undefined) return Either.left(notJson);
      return Either.flatMap(Either.mapLeft(encode(input), notEncodable(operation, name)), (column) => {
        const notText = badText(operation, name, column);
        return notText === undefined ? Either.right(column) : Either.left(notText);
      });
    };
    columns[name] = {
      value: (operation, input) => lookedAt(operation, name, () => encoded(operation, input)),
      operand: (operation, input) =>
        lookedAt(operation, name, () =>
          encoded(operation, !json && !fits(input) && fits(Option.some(input)) ? Option.some(input) : input),
        ),
    };
  }
  return columns;
};
