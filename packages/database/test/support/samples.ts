/** A table with one column of every kind, for what the generic repository does to any table. */
import { randomUUID } from "node:crypto";
import * as Model from "@effect/sql/Model";
import * as SqlClient from "@effect/sql/SqlClient";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import { repo } from "../../src/factory.js";

/** One column of every kind that a model may have. */
export class Sample extends Model.Class<Sample>("Sample")({
  id: Model.Generated(S.UUID),
  label: S.String,
  amount: S.Int,
  ratio: S.Number,
  big: S.BigInt,
  isOpen: S.Boolean,
  note: Model.FieldOption(S.String),
  weight: Model.FieldOption(S.Number),
  seenAt: Model.FieldOption(S.DateFromSelf),
  madeAt: Model.DateTimeFromDate,
  data: Model.JsonFromString(S.Unknown),
}) {}

/** A table of samples of its own, without row-level security, and its repository. */
export const samples = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const table = `samples_${randomUUID().replaceAll("-", "")}`;
  yield* sql.unsafe(`
    CREATE TABLE ${table} (
      id uuid PRIMARY KEY DEFAULT uuidv7(), label text NOT NULL, amount integer NOT NULL, ratio float8 NOT NULL, big bigint NOT NULL,
      is_open boolean NOT NULL, note text, weight float8, seen_at timestamptz, made_at timestamptz NOT NULL, data jsonb NOT NULL)`);
  return { table, ...(yield* repo(Sample, table, {})) };
});

export const at = (millis: number) => DateTime.unsafeMake(1_790_000_000_000 + millis);

export const sample = (given: Partial<typeof Sample.insert.Type> = {}): typeof Sample.insert.Type => ({
  label: "a",
  amount: 1,
  ratio: 0.5,
  big: 1n,
  isOpen: true,
  note: Option.none(),
  weight: Option.none(),
  seenAt: Option.none(),
  madeAt: at(0),
  data: null,
  ...given,
});

export const labels = (rows: ReadonlyArray<{ readonly label: string }>) => rows.map(({ label }) => label);

/** What TypeScript has to tell ill-typed callers with, the compiler does not see in JavaScript. */
export const untyped = (value: unknown) => value as never;
