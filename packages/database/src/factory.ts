/**
 * Plain CRUD over one table, typed by its model. Whatever needs a join, a lock or a state guard is written in its repository.
 *
 * Contract: values are parameters, column names come from the model; every list has a total order and a limit; a change needs
 * at least one condition. Input that does not fit fails with `InvalidInput` before anything is sent.
 */
import type * as Model from "@effect/sql/Model";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Arr from "effect/Array";
import * as Data from "effect/Data";
import type * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import type * as Option from "effect/Option";
import type * as S from "effect/Schema";
import { show } from "./arguments.js";
import { type AppNotFound, type BadRow, InvalidInput } from "./errors.js";
import { type QueryError, refused, refusedWrite } from "./refusal.js";
import { columnsOf, decodeCount, encoderOf, fieldsOf, type Insert, rowsOf } from "./rows.js";

/** A condition on one column, made by {@link Is}. */
export class Test<out A> extends Data.TaggedClass("Test")<{
  readonly operator: "=" | "<>" | "<" | "<=" | ">" | ">=" | "IN" | "IS NULL" | "IS NOT NULL";
  readonly operands: ReadonlyArray<A>;
}> {}

/** Conditions other than equality. They follow SQL: a NULL column meets none of the comparisons. */
export const Is = {
  not: <A>(value: A) => new Test<A>({ operator: "<>", operands: [value] }),
  lessThan: <A>(value: A) => new Test<A>({ operator: "<", operands: [value] }),
  atMost: <A>(value: A) => new Test<A>({ operator: "<=", operands: [value] }),
  greaterThan: <A>(value: A) => new Test<A>({ operator: ">", operands: [value] }),
  atLeast: <A>(value: A) => new Test<A>({ operator: ">=", operands: [value] }),
  /** An empty list matches no row. */
  oneOf: <A>(values: ReadonlyArray<A>) => new Test<A>({ operator: "IN", operands: values }),
  absent: new Test<never>({ operator: "IS NULL", operands: [] }),
  present: new Test<never>({ operator: "IS NOT NULL", operands: [] }),
} as const;

type Operand<A> = A extends Option.Option<infer B> ? B : A;

/** Columns and what they must be: a value for equality, none (or `Is.absent`) for NULL, or a condition of {@link Is}. All must hold. */
export type Predicate<A> = {
  readonly [K in keyof A]?: A[K] | Operand<A[K]> | Test<Operand<A[K]>>;
};

class Now extends Data.TaggedClass("Now") {}

/** Values that the database computes in a `set`. */
export const Update = {
  /** The database's `now()`: the start of the transaction. */
  now: new Now(),
} as const;

type Time = Date | DateTime.Utc;

/** New values by column; of a time column also `Update.now`. */
export type Patch<A> = {
  readonly [K in Exclude<keyof A, "id">]?: A[K] | (Operand<A[K]> extends Time ? Now : never);
};

/** `limit` 1 to 1,000, default 100. `order` in the order of its keys, `id` last when it is not named; default by `id`, oldest first. */
export interface FindOptions<A> {
  readonly limit?: number;
  readonly order?: { readonly [K in keyof A]?: "asc" | "desc" };
}

export interface Repo<A, InsertRow, UpdateRow, Fixed extends PropertyKey = never> {
  /** The first row by id that meets the predicate. Fails with `BadRow` when that one does not fit the model. */
  readonly one: (where: Predicate<A>) => Effect.Effect<Option.Option<A>, QueryError | BadRow>;
  /** Rows that meet the predicate (`{}`: all). One that does not fit the model is left out and logged with its id. */
  readonly find: (where: Predicate<A>, options?: FindOptions<A>) => Effect.Effect<ReadonlyArray<A>, QueryError>;
  /** How many rows meet the predicate; default all. */
  readonly count: (where?: Predicate<A>) => Effect.Effect<number, QueryError>;
  /** Writes one row and returns it as stored. */
  readonly insert: (row: InsertRow) => Effect.Effect<A, QueryError | AppNotFound>;
  /** Changes the rows that meet the predicate, which must not be empty; returns how many. */
  readonly set: (
    where: Predicate<A>,
    patch: Patch<Omit<UpdateRow, Fixed>>,
  ) => Effect.Effect<number, QueryError | AppNotFound>;
}

export interface Purging {
  /** Runs the table's purge function; `olderThanDays` 0 or more, default 30. Returns how many rows it deleted. */
  readonly purge: (olderThanDays?: number) => Effect.Effect<number, QueryError>;
}

/**
 * `purge`: the name of a function `(int) returns int` in the database. `fixed`: fields that `set` does not change, because only
 * an operation of the repository may.
 */
export interface Config {
  readonly purge?: string;
  readonly fixed?: ReadonlyArray<string>;
}

/** The generic methods for a table. The model's fields are its columns, in snake_case. */
export const repo = <M extends Model.AnyNoContext, const C extends Config>(model: M, table: string, config: C) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    type A = S.Schema.Type<M>;
    const read = rowsOf(model, table);
    const columns = columnsOf(model);
    const encodeInsert = encoderOf(model);
    const changeable = new Set(fieldsOf(model.update));
    changeable.delete("id");
    for (const field of config.fixed ?? []) changeable.delete(field);

    const columnOf = (operation: string, name: string) =>
      Effect.fromNullable(columns[name]).pipe(
        Effect.mapError(() => new InvalidInput({ operation, field: name, problem: `is no column of ${table}` })),
      );

    const condition = (operation: string, where: Predicate<A>) =>
      Effect.forEach(Object.entries<unknown>(where), ([name, value]) =>
        Effect.gen(function* () {
          const column = yield* columnOf(operation, name);
          // Dropping it would widen the predicate, to every row when it is the only one.
          if (value === undefined) {
            return yield* new InvalidInput({
              operation,
              field: name,
              problem: "is undefined; leave it out, or pass Is.absent for NULL",
            });
          }
          const test = value instanceof Test ? value : new Test({ operator: "=", operands: [value] });
          const operands = yield* Effect.forEach(test.operands, (_) => column.operand(operation, _));
          const target = sql(name);
          switch (test.operator) {
            case "IN":
              // One parameter, however many values: a list of them stops at 65,535.
              return sql`${target} = ANY (${operands})`;
            case "IS NULL":
            case "IS NOT NULL":
              return sql`${target} ${sql.literal(test.operator)}`;
            default:
              return test.operator === "=" && operands[0] === null
                ? sql`${target} IS NULL`
                : sql`${target} ${sql.literal(test.operator)} ${operands[0]}`;
          }
        }),
      );

    const order = (operation: string, by: FindOptions<A>["order"]) =>
      Effect.gen(function* () {
        const terms = entries({ ...by, ...(by !== undefined && "id" in by ? {} : { id: "asc" }) });
        for (const [name, direction] of terms) {
          if (columns[name] === undefined || (direction !== "asc" && direction !== "desc")) {
            return yield* new InvalidInput({
              operation,
              field: `order.${name}`,
              problem: `is ${show(direction)}; name a column of ${table} with "asc" or "desc"`,
            });
          }
        }
        return sql.csv(
          terms.map(([name, direction]) => sql`${sql(name)} ${sql.literal(direction === "desc" ? "DESC" : "ASC")}`),
        );
      });

    const select = (operation: string, where: Predicate<A>, options: FindOptions<A>) =>
      Effect.gen(function* () {
        const limit = yield* limitOf(operation, options.limit);
        const conditions = yield* condition(operation, where);
        const by = yield* order(operation, options.order);
        return yield* sql`
          SELECT * FROM ${sql(table)} WHERE ${sql.and(conditions)} ORDER BY ${by} LIMIT ${limit}`.pipe(
          refused(operation),
        );
      });

    const name = (method: string) => `${table}.${method}`;
    type Fixed = C extends { readonly fixed: ReadonlyArray<infer Field extends string> } ? Field : never;
    const repository: Repo<A, Insert<S.Schema.Type<M["insert"]>>, S.Schema.Type<M["update"]>, Fixed> = {
      one: Effect.fn(name("one"))(function* (where) {
        const rows = yield* select(name("one"), where, { limit: 1 });
        return yield* read.first(rows);
      }),
      find: Effect.fn(name("find"))(function* (where, options = {}) {
        const rows = yield* select(name("find"), where, options);
        return yield* read.good(rows);
      }),
      count: Effect.fn(name("count"))(function* (where = {}) {
        const conditions = yield* condition(name("count"), where);
        const rows = yield* sql`SELECT count(*)::int AS count FROM ${sql(table)} WHERE ${sql.and(conditions)}`.pipe(
          refused(name("count")),
        );
        return yield* decodeCount(rows);
      }),
      insert: Effect.fn(name("insert"))(function* (row) {
        const encoded = yield* encodeInsert(name("insert"), row);
        const rows = yield* sql`INSERT INTO ${sql(table)} ${sql.insert(encoded).returning("*")}`.pipe(
          refusedWrite(name("insert"), [encoded.appId]),
        );
        return yield* Effect.orDie(read.only(rows));
      }),
      set: Effect.fn(name("set"))(function* (where, patch) {
        const operation = name("set");
        const conditions = yield* condition(operation, where);
        if (!Arr.isNonEmptyReadonlyArray(conditions)) {
          return yield* new InvalidInput({
            operation,
            field: "where",
            problem: "is empty; name at least one condition",
          });
        }
        const assignments = yield* Effect.forEach(entries(patch), ([key, value]) =>
          Effect.gen(function* () {
            const column = yield* columnOf(operation, key);
            if (!changeable.has(key)) {
              return yield* new InvalidInput({ operation, field: key, problem: "cannot be changed" });
            }
            return value === Update.now
              ? sql`${sql(key)} = now()`
              : sql`${sql(key)} = ${yield* column.value(operation, value)}`;
          }),
        );
        if (assignments.length === 0) {
          return yield* new InvalidInput({ operation, field: "patch", problem: "is empty; name at least one column" });
        }
        const rows = yield* sql`
          WITH changed AS (UPDATE ${sql(table)} SET ${sql.csv(assignments)} WHERE ${sql.and(conditions)} RETURNING 1)
          SELECT count(*)::int AS count FROM changed`.pipe(refusedWrite(operation, [Reflect.get(patch, "appId")]));
        return yield* decodeCount(rows);
      }),
    };
    const purging = config.purge === undefined ? {} : { purge: purgeOf(sql, name("purge"), config.purge) };
    return { ...repository, ...purging } as typeof repository &
      (C extends { readonly purge: string } ? Purging : unknown);
  });

// The query is the caller's code, so its keys are known to TypeScript only.
const entries = (record: object): ReadonlyArray<readonly [string, unknown]> =>
  Object.entries(record).filter(([, value]) => value !== undefined);

const purgeOf = (sql: SqlClient.SqlClient, operation: string, purgeFunction: string) =>
  Effect.fn(operation)(function* (olderThanDays = 30) {
    if (!Number.isInteger(olderThanDays) || olderThanDays < 0 || olderThanDays > 2_147_483_647) {
      return yield* new InvalidInput({
        operation,
        field: "olderThanDays",
        problem: `is ${olderThanDays}; it must be a whole number of days, 0 or more`,
      });
    }
    const rows = yield* sql`SELECT ${sql(purgeFunction)}(${olderThanDays}::int) AS count`.pipe(refused(operation));
    return yield* decodeCount(rows);
  });

/** 1 to 1,000; default 100. */
export const limitOf = (operation: string, limit = 100): Effect.Effect<number, InvalidInput> =>
  Number.isInteger(limit) && limit >= 1 && limit <= 1000
    ? Effect.succeed(limit)
    : new InvalidInput({
        operation,
        field: "limit",
        problem: `is ${limit}; it must be a whole number from 1 to 1,000`,
      });
