/**
 * Imports of lines that were valid and are damaged, in pieces that end anywhere: each line is imported, there already, or refused by
 * itself, and the table has afterwards exactly what the answers say.
 */
import { lineReader } from "@parametric-portal/database/job-dlq/lines";
import * as Effect from "effect/Effect";
import * as fc from "effect/FastCheck";
import * as S from "effect/Schema";
import * as Stream from "effect/Stream";
import { type Damage, damage, damaged, deep, few, json, mostly, rarely, text } from "./nasty.js";
import { balanced, open } from "./site.js";
import type { Make, Target } from "./target.js";

// --- lines -------------------------------------------------------------------

/** Raw JSON that no JavaScript value becomes. */
const raw = fc.oneof(
  fc.constantFrom(
    "12345678901234567890.125",
    "1e400",
    "-1e-400",
    "-0",
    "1E+2",
    "9007199254740993",
    '{"a":1,"a":2}',
    '{"__proto__":{"x":1}}',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '{"\\u0000":1}',
    '"\\u00e9"',
    "NaN",
    "01",
    "[1,]",
    "'x'",
    "nul",
    '"\t"',
    "1e131073",
  ),
  deep,
  fc.integer({ min: 1, max: 300_000 }).map((length) => `"${"x".repeat(length)}"`),
  fc.integer({ min: 1, max: 5000 }).map((digits) => "9".repeat(digits)),
);
const value = fc.oneof({ weight: 3, arbitrary: json.map((_) => JSON.stringify(_)) }, { weight: 2, arbitrary: raw });

const uuid = fc.uuid().map((_) => JSON.stringify(_));
const time = fc
  .oneof(
    fc.constantFrom(
      "2026-01-31T12:00:00.123456Z",
      "infinity",
      "-infinity",
      "0044-03-15T00:00:00.000000Z BC",
      "0000-01-01T00:00:00Z",
      "294276-12-31T23:59:59.999999Z",
      "294277-01-01T00:00:00Z",
      "2026-02-30T00:00:00Z",
      "2026-01-31T24:00:00Z",
      "2026-01-31T23:59:60Z",
      "2026-01-31T12:00:00.999999999+15:59",
      "2026-01-31T12:00:00+99:99",
    ),
    text,
  )
  .map((_) => JSON.stringify(_));

/** The fields of a good line, as raw JSON. The app is put in when the database is known. */
const good = fc.record({
  id: uuid,
  originalJobId: uuid,
  appId: fc.constant("APP"),
  type: fc.constant('"mail.send"'),
  payload: value,
  errorReason: fc.constant('"MaxRetries"'),
  attempts: fc.constantFrom("0", "3"),
  errorHistory: fc.constantFrom("[]", '[{"error":"x","timestamp":1790000000000}]'),
  dlqAt: fc.constantFrom('"2026-01-31T12:00:00.123456Z"', '"infinity"'),
  replayedAt: fc.constantFrom("null", '"2026-01-31T13:00:00.000001Z"'),
  requestId: fc.constantFrom("null", '"ffffffff-ffff-ffff-ffff-ffffffffffff"'),
  userId: fc.constant("null"),
});
const odd = fc.record(
  {
    id: uuid,
    originalJobId: fc.oneof(uuid, value),
    appId: fc.oneof(fc.constantFrom("OTHER", "NOBODY"), value),
    type: value,
    errorReason: value,
    attempts: value,
    errorHistory: fc.oneof(
      value,
      fc.array(value, { maxLength: 3 }).map((_) => `[${_}]`),
    ),
    dlqAt: time,
    replayedAt: time,
    requestId: value,
    userId: value,
    unknown: value,
    __proto__: value,
  },
  { requiredKeys: [] },
);

/** Entries, so that a name may stand there twice. */
const line = fc
  .tuple(
    good,
    few(odd, 2),
    rarely(fc.constantFrom("id", "appId", "payload", "dlqAt", "type")),
    fc.constantFrom("add", "replace", "none", "none"),
  )
  .map(([fields, others, without, how]) => {
    const kept = Object.entries(fields).filter(([name]) => name !== without);
    const names = new Set(others.map(([name]) => name));
    const entries =
      how === "none" ? kept : [...(how === "add" ? kept : kept.filter(([name]) => !names.has(name))), ...others];
    return `{${entries.map(([name, raw]) => `${JSON.stringify(name)}:${raw}`).join(",")}}`;
  });

interface Case {
  readonly lines: ReadonlyArray<string>;
  readonly ending: string;
  readonly damages: ReadonlyArray<Damage>;
  /** Where pieces end, as parts of the whole. */
  readonly cuts: ReadonlyArray<number>;
  readonly asText: boolean;
  readonly isSystem: boolean;
  readonly batchSize: number;
  readonly maxLineBytes: number;
}

export const linesCases: fc.Arbitrary<Case> = fc.record({
  lines: fc.array(mostly(line, fc.oneof(text, raw)) as fc.Arbitrary<string>, { maxLength: 6 }),
  ending: fc.constantFrom("\n", "\n", "\r\n", "\n\n", ""),
  damages: fc.oneof(fc.constant([]), fc.array(damage, { maxLength: 2 })),
  cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 4 }),
  asText: fc.boolean(),
  isSystem: fc.boolean(),
  batchSize: fc.constantFrom(1, 2, 1000),
  maxLineBytes: fc.constantFrom(1024, 2 ** 16, 2 ** 24),
});

/** The bytes of a case, for the tenants of a database. */
export const bytesOf = (
  { damages, ending, lines }: Pick<Case, "damages" | "ending" | "lines">,
  { appId, other }: { readonly appId: string; readonly other: string },
): Buffer => {
  const app = (_: string) =>
    _.replace('"appId":APP', `"appId":"${appId}"`).replace('"appId":OTHER', `"appId":"${other}"`);
  const whole = lines.map((_) => app(_).replace('"appId":NOBODY', '"appId":"00000000-0000-0000-0000-000000000000"'));
  return damaged(Buffer.from(whole.join(ending) + ending), damages);
};

const piecesOf = (bytes: Buffer, cuts: ReadonlyArray<number>): ReadonlyArray<Buffer> => {
  const places = [0, ...cuts.map((_) => Math.floor(_ * bytes.length)).sort((a, b) => a - b), bytes.length];
  return places.slice(1).map((to, i) => bytes.subarray(places[i], to));
};

// --- reading alone -----------------------------------------------------------

/** However the pieces end, the lines are the same. */
const read = ({ batchSize, cuts, maxLineBytes, ...one }: Case): string => {
  const bytes = bytesOf(one, { appId: "a", other: "b" });
  const bounds = { line: maxLineBytes, lines: batchSize, batch: 2 ** 22 };
  const whole = lineReader(bounds);
  const expected = [...whole.push(bytes).flat(), ...whole.end()];
  const reader = lineReader(bounds);
  const found = [...piecesOf(bytes, cuts).flatMap((_) => reader.push(_).flat()), ...reader.end()];
  if (JSON.stringify(found) !== JSON.stringify(expected)) throw new Error("the pieces make other lines");
  return found.some((_) => "unreadable" in _) ? "accepted, but for unreadable lines" : "accepted";
};

// --- in the database ---------------------------------------------------------

const decodeCount = S.decodeUnknown(S.Tuple(S.Struct({ count: S.Int })));

export const make: Make = (url) =>
  Effect.gen(function* () {
    const site = yield* open(url);
    const { appId, db, inSystem, provide, sql } = site;
    const pure: Target<Case> = {
      name: "NDJSON: read",
      share: 10_000,
      cases: linesCases,
      outcome: (one) => Effect.sync(() => read(one)),
    };

    /** Payloads of lines that were imported and are not what their line says. */
    const changed = (texts: ReadonlyArray<string>) =>
      provide(
        inSystem(sql`
          WITH given AS MATERIALIZED (SELECT t.line::jsonb AS line FROM unnest(${texts}::text[]) AS t (line))
          SELECT count(*)::int AS count
          FROM given g JOIN job_dlq d ON d.id::text = lower(g.line ->> 'id')
          WHERE d.payload IS DISTINCT FROM g.line -> 'payload'`),
      ).pipe(
        Effect.flatMap(decodeCount),
        Effect.map(([{ count }]) => count),
      );

    let imported = 0;
    const kept: Target<Case> = {
      name: "NDJSON: imported",
      share: 1000,
      cases: linesCases,
      outcome: (one) =>
        Effect.gen(function* () {
          const { asText, batchSize, cuts, isSystem, maxLineBytes } = one;
          const scope = isSystem ? ({ _tag: "system" } as const) : ({ _tag: "tenant", appId } as const);
          const bytes = bytesOf(one, site);
          // latin1 keeps every byte a character, and makes other characters of what is UTF-8.
          const pieces = piecesOf(bytes, cuts).map((_) => (asText ? _.toString("latin1") : _));
          let last = { lines: 0, imported: 0, duplicates: 0, refused: 0 };
          let problems = 0;
          yield* db.jobDlq
            .importFrom(Stream.fromIterable(pieces), { actor: "fuzz", scope, batchSize, maxLineBytes })
            .pipe(
              Stream.runForEach(({ problems: some, ...progress }) =>
                Effect.sync(() => {
                  imported += progress.imported - last.imported;
                  last = progress;
                  problems += some.length;
                }),
              ),
              provide,
            );
          if (last.lines !== last.imported + last.duplicates + last.refused) {
            return yield* Effect.dieMessage(`does not add up: ${JSON.stringify(last)}`);
          }
          if (problems !== last.refused)
            return yield* Effect.dieMessage(`${last.refused} refused, ${problems} problems`);
          // Where all lines are in, the database can read each of them.
          if (!asText && last.imported > 0 && last.imported === last.lines) {
            const texts = bytes
              .toString("utf8")
              .split("\n")
              .map((_) => _.replace(/^\ufeff/u, "").trim());
            const count = yield* changed(texts.filter((_) => _ !== ""));
            if (count > 0) return yield* Effect.dieMessage(`${count} payloads are not what their lines say`);
          }
          if (last.refused === 0) return last.imported > 0 ? "imported" : "nothing in it";
          return last.imported > 0 ? "imported, others refused" : "refused: every line";
        }),
      holds: Effect.gen(function* () {
        const rows = yield* provide(inSystem(sql`SELECT count(*)::int AS count FROM job_dlq`));
        const [{ count }] = yield* decodeCount(rows);
        if (count !== imported)
          return yield* Effect.dieMessage(`${imported} imported by the answers, ${count} in the table`);
        // What comes back by export is taken in again as what is there.
        const scope = { _tag: "system" } as const;
        const again = yield* provide(
          Stream.runLast(
            db.jobDlq.importFrom(db.jobDlq.exportTo({ state: "any" }, { scope }), { actor: "fuzz", scope }),
          ),
        );
        const found = again._tag === "Some" ? again.value : undefined;
        if (found?.duplicates !== count || found.refused > 0) {
          return yield* Effect.dieMessage(`an export of ${count} came back as ${JSON.stringify(found)}`);
        }
        yield* balanced(site, () => 0);
      }),
    };
    return [pure, kept];
  });
