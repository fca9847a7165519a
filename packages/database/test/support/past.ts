/** Histories in the past: a store with a clock of its own, which writes in the end what the real operations would have left. */
import { randomUUID } from "node:crypto";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as Client from "../../src/client.js";
import { replayedElsewhere } from "../../src/job-dlq/ledger.js";
import { actor, type Job, type Letter, type Store, type World, why } from "./history.js";

interface Line {
  readonly id: string;
  readonly at: bigint;
  readonly letter: Letter;
  readonly kind: string;
  readonly undoes: string | null;
  readonly reason: string;
  detail: string | null;
  entry: string | null;
}

export const iso = (micros: bigint) =>
  `${new Date(Number(micros / 1000n)).toISOString().slice(0, -1)}${String(micros % 1000n).padStart(3, "0")}+00:00`;

/** `tick` returns the time of what happens next; it must not go back. */
export const makePast = (tick: () => bigint) => {
  const lines: Array<Line> = [];
  let made = 0;
  // Two histories may come by at the same moment.
  const own = randomUUID().slice(-8);
  const newId = (at: bigint) => {
    const hex = (at / 1000n).toString(16).padStart(12, "0");
    const micros = (at % 1000n).toString(16).padStart(3, "0");
    const rest = (++made).toString(16).padStart(7, "0") + own;
    return `${hex.slice(0, 8)}-${hex.slice(8)}-7${micros}-8${rest.slice(0, 3)}-${rest.slice(3)}`;
  };
  const line = (letter: Letter, kind: string, given: Partial<Line> = {}) => {
    const at = tick();
    const id = newId(at);
    lines.push({ id, at, letter, kind, undoes: null, reason: why, detail: null, entry: null, ...given });
    return { at, id };
  };
  const payloadOf = (letter: Letter) => ({ reason: letter.reason, job: letter.job.id });
  const entryOf = (letter: Letter) =>
    JSON.stringify({
      id: letter.id,
      original_job_id: letter.job.id,
      app_id: letter.job.appId,
      type: letter.job.type,
      payload: payloadOf(letter),
      error_reason: letter.reason,
      attempts: 1,
      error_history: [{ error: letter.error, timestamp: 1 }],
      dlq_at: iso(letter.at),
      replayed_at: null,
      request_id: null,
      user_id: null,
      updated_at: iso(letter.at),
    });
  const arrive = Effect.sync(() => {
    const at = tick();
    return { at, id: newId(at) };
  });
  const erased = (letter: Letter) =>
    line(letter, "erased", {
      detail: JSON.stringify({ type: letter.job.type, reason: letter.reason, attempts: 1 }),
    });
  const empty = (isTouched: (line: Line) => boolean) => {
    for (const one of lines.filter((_) => isTouched(_) && _.kind !== "erased")) {
      one.entry = null;
      one.detail = null;
    }
  };
  const store: Store<never, never> = {
    submit: () => Effect.sync(() => ({ id: newId(tick()), fence: 0n })),
    die: () => arrive,
    insert: () => arrive,
    claim: () => Effect.succeed(0n),
    complete: () => Effect.void,
    cancel: () => Effect.void,
    replay: (letter, isOverridden) =>
      Effect.sync(() => line(letter, "replayed", { detail: isOverridden ? '{"payload_diff": []}' : null }).at),
    mark: (letter) => Effect.sync(() => line(letter, "replayed", { reason: replayedElsewhere })),
    remove: (letter, kind) => Effect.sync(() => line(letter, kind, { entry: entryOf(letter) }).id),
    restore: (letter) => Effect.sync(() => line(letter, "restored", { undoes: letter.eventId ?? null })),
    erase: (letter) =>
      Effect.sync(() => {
        if (letter.place !== "table") {
          empty((_) => _.letter === letter);
          erased(letter);
          return;
        }
        const touched = new Set(lines.map((_) => _.letter).filter((_) => _.job === letter.job));
        empty((_) => _.letter.job === letter.job);
        for (const one of touched) if (one.place === "discarded" || one.place === "expired") erased(one);
        erased(letter);
      }),
    purgeLetters: () => Effect.void,
    purgeJobs: () => Effect.void,
  };

  /** Writes the jobs, the letters and the ledger as they are at the end. */
  const write = (world: World) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const jobs = world.jobs.filter(({ status }) => status !== "purged");
      const letters = world.letters.filter(({ place }) => place === "table");
      const of = <A, B>(rows: ReadonlyArray<A>, column: (row: A) => B) => rows.map(column);
      const ended = ({ status }: Job) => status === "completed" || status === "dead" || status === "cancelled";
      yield* Client.system(
        Effect.gen(function* () {
          yield* sql`
            INSERT INTO jobs (id, app_id, type, payload, status, replays, completed_at, locked_by, locked_until)
            SELECT id, app_id, type, '{}', status, replays, CASE WHEN ended THEN now() END,
              CASE WHEN status = 'processing' THEN 'r' END, CASE WHEN status = 'processing' THEN now() END
            FROM unnest(${of(jobs, (_) => _.id)}::uuid[], ${of(jobs, (_) => _.appId)}::uuid[], ${of(jobs, (_) => _.type)}::text[],
              ${of(jobs, (_) => _.status)}::text[], ${of(jobs, (_) => _.replays)}::int[], ${of(jobs, ended)}::boolean[])
              AS t (id, app_id, type, status, replays, ended)`;
          yield* sql`
            INSERT INTO job_dlq (id, original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at, replayed_at)
            SELECT id, job, app, type, payload::jsonb, reason, 1, history::jsonb, at::timestamptz, CASE WHEN replayed THEN now() END
            FROM unnest(${of(letters, (_) => _.id)}::uuid[], ${of(letters, (_) => _.job.id)}::uuid[],
              ${of(letters, (_) => _.job.appId)}::uuid[], ${of(letters, (_) => _.job.type)}::text[],
              ${of(letters, (_) => JSON.stringify(payloadOf(_)))}::text[], ${of(letters, (_) => _.reason)}::text[],
              ${of(letters, (_) => JSON.stringify([{ error: _.error, timestamp: 1 }]))}::text[],
              ${of(letters, (_) => iso(_.at))}::text[], ${of(letters, (_) => _.replayed !== undefined)}::boolean[])
              AS t (id, job, app, type, payload, reason, history, at, replayed)`;
          yield* sql`
            INSERT INTO job_dlq_events (id, app_id, dlq_id, original_job_id, kind, actor, reason, detail, entry, undoes, at)
            SELECT id, app, letter, job, kind, ${actor}, reason, detail::jsonb, entry::jsonb, undoes, at::timestamptz
            FROM unnest(${of(lines, (_) => _.id)}::uuid[], ${of(lines, (_) => _.letter.job.appId)}::uuid[],
              ${of(lines, (_) => _.letter.id)}::uuid[], ${of(lines, (_) => _.letter.job.id)}::uuid[],
              ${of(lines, (_) => _.kind)}::text[], ${of(lines, (_) => _.detail)}::text[], ${of(lines, (_) => _.entry)}::text[],
              ${of(lines, (_) => _.undoes)}::uuid[], ${of(lines, (_) => _.reason)}::text[],
              ${of(lines, (_) => iso(_.at))}::text[])
              AS t (id, app, letter, job, kind, detail, entry, undoes, reason, at)`;
        }),
      );
    });

  return { store, write };
};
