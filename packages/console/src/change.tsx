/** A change: what it would touch, its confirmation, and then how far it is. Nothing is changed before the button that says so. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";
import { api, eventsOf, type Outcomes, type Preview, reach } from "./api";
import { type ApiFilter, toParams } from "./filter";
import { refreshAll } from "./live";
import { Answer, count, Dialog, letters, span, Trouble } from "./ui";

export interface Change {
  readonly kind: "replay" | "discard";
  readonly filter: ApiFilter;
  /** What the jobs get instead of their own payload. */
  readonly payload?: unknown;
}

/** An address has room for so many ids. */
const idsAtOnce = 200;

const merged = (a: ReadonlyArray<readonly [string, number]>): ReadonlyArray<readonly [string, number]> => {
  const sums = new Map<string, number>();
  for (const [name, value] of a) sums.set(name, (sums.get(name) ?? 0) + value);
  return [...sums].sort(([, x], [, y]) => y - x);
};

interface Touched {
  /** At least, where it is not exact: the change takes all that match. */
  readonly count: number;
  readonly isExact: boolean;
  /** The moment of it: what came since is left alone. */
  readonly asOf: string | undefined;
  readonly types: ReadonlyArray<readonly [string, number]>;
  readonly reasons: ReadonlyArray<readonly [string, number]>;
}

const previewOf = async (filter: ApiFilter, signal: AbortSignal): Promise<Touched> => {
  const { ids, ...rest } = filter as ApiFilter & { readonly ids?: ReadonlyArray<string> };
  const parts =
    ids === undefined
      ? [filter]
      : Array.from({ length: Math.ceil(ids.length / idsAtOnce) }, (_, i) => ({
          ...rest,
          ids: ids.slice(i * idsAtOnce, (i + 1) * idsAtOnce),
        }));
  const previews: Array<Preview> = [];
  for (const part of parts) previews.push(await api.preview({ params: toParams(part), signal }));
  return {
    asOf: previews[0]?.asOf,
    count: previews.reduce((sum, one) => sum + one.count, 0),
    isExact: previews.every(({ isExact }) => isExact),
    types: merged(previews.flatMap(({ byType }) => byType.map(({ count, type }) => [type, count] as const))),
    reasons: merged(previews.flatMap(({ byReason }) => byReason.map(({ count, reason }) => [reason, count] as const))),
  };
};

const Counts = ({
  isExact = true,
  rows,
  title,
}: {
  readonly title: string;
  readonly isExact?: boolean;
  readonly rows: ReadonlyArray<readonly [string, number]>;
}) => (
  <table className="counts">
    <thead>
      <tr>
        <th scope="col">{title}</th>
        <th scope="col">{isExact ? "Count" : "At least"}</th>
      </tr>
    </thead>
    <tbody>
      {rows.slice(0, 8).map(([name, value]) => (
        <tr key={name}>
          <td className="clip">{name}</td>
          <td>{count(value)}</td>
        </tr>
      ))}
      {rows.length > 8 ? (
        <tr>
          <td>{count(rows.length - 8)} more</td>
          <td>{count(rows.slice(8).reduce((sum, [, value]) => sum + value, 0))}</td>
        </tr>
      ) : null}
    </tbody>
  </table>
);

type Stage =
  | { readonly at: "asking" }
  | { readonly at: "running"; readonly progress: Outcomes; readonly since: number }
  | { readonly at: "ended"; readonly progress: Outcomes; readonly how: "done" | "stopped"; readonly error?: unknown };

const none: Outcomes = { asked: 0, outcomes: {} };
const done = { replay: "replayed", discard: "discarded" } as const;
const verbs = { replay: "Replay", discard: "Discard" } as const;

/** Whether nothing is there to be changed: none among the newest is not none. */
const isNone = ({ count, isExact }: Touched) => count === 0 && isExact;
/** What a change takes, as `of` says a count. */
const takes = ({ count, isExact }: Touched, of: typeof letters) =>
  count === 0 && !isExact ? "all that match" : of(count, isExact);

export const ChangeDialog = ({
  change: { filter, kind, payload },
  onClose,
}: {
  readonly change: Change;
  readonly onClose: () => void;
}) => {
  const queries = useQueryClient();
  const [stage, setStage] = useState<Stage>({ at: "asking" });
  const [reason, setReason] = useState("");
  const [rate, setRate] = useState("");
  const stop = useRef<AbortController>(undefined);
  const id = useId();
  const preview = useQuery({
    // Not with the others: what is confirmed is what was shown.
    queryKey: ["me", "preview", filter],
    queryFn: ({ signal }) => previewOf(filter, signal),
    staleTime: Number.POSITIVE_INFINITY,
    gcTime: 0,
  });
  const rateValue = Number(rate);
  const rateProblem = rate !== "" && !(rateValue > 0) ? "Say a number above 0, or nothing." : undefined;

  const run = async ({ asOf }: Touched) => {
    const controller = new AbortController();
    stop.current = controller;
    let progress = none;
    setStage({ at: "running", progress, since: Date.now() });
    const body = {
      filter,
      // What came since the preview is left for the next time.
      ...(asOf === undefined ? {} : { asOf }),
      ...(kind === "discard" ? { reason: reason.trim() } : {}),
      ...(kind === "replay" && rate !== "" ? { ratePerSecond: rateValue } : {}),
      ...(payload === undefined ? {} : { payload }),
    };
    let failure: unknown;
    let isDone = false;
    try {
      for await (const { data, event } of eventsOf(`/${kind}`, { body, signal: controller.signal })) {
        if (event === "problem") failure = new Error(String(data.detail));
        if (event === "done") isDone = true;
        if (event === "progress" || event === "done") {
          progress = data;
          setStage((stage) => (stage.at === "running" ? { ...stage, progress } : stage));
        }
      }
      if (!isDone && failure === undefined) failure = new Error("The server went away in the middle of it.");
    } catch (error) {
      if (!controller.signal.aborted) failure = error;
    }
    setStage({ at: "ended", progress, how: isDone ? "done" : "stopped", error: failure });
    refreshAll(queries);
  };

  // A page that is left takes its change with it: nothing goes on that nobody sees.
  useEffect(() => () => stop.current?.abort(), []);
  // Escape in the middle of it stops it, and says how far it came.
  const close = () => (stage.at === "running" ? stop.current?.abort() : onClose());
  const { data } = preview;
  const title = data === undefined ? verbs[kind] : `${verbs[kind]} ${takes(data, letters)}`;

  return (
    <Dialog title={data !== undefined && stage.at === "asking" ? `${title}?` : title} onClose={close}>
      {stage.at !== "asking" ? (
        <Running
          kind={kind}
          stage={stage}
          total={data?.count ?? 0}
          isExact={data?.isExact ?? true}
          onClose={close}
          onStop={() => stop.current?.abort()}
        />
      ) : (
        <Answer query={preview} what="what it would touch">
          {(touched) => (
            <form
              onSubmit={(event) => {
                event.preventDefault();
                if (!isNone(touched) && rateProblem === undefined && (kind === "replay" || reason.trim() !== "")) {
                  run(touched);
                }
              }}
            >
              {isNone(touched) ? (
                <p>Nothing that is pending matches any more.</p>
              ) : (
                <>
                  <p>
                    {kind === "replay"
                      ? "Each job gets a new set of attempts, the oldest first."
                      : "They leave the queue. The ledger keeps a copy, and restore brings them back."}
                    {payload === undefined ? null : " The job gets the edited payload."}
                  </p>
                  {touched.isExact ? null : (
                    <p>
                      {touched.count === 0 ? "There are none" : "Counted"} among the newest {count(reach)} letters.{" "}
                      <strong>All that match are taken</strong>, the older ones too, but none that came since.
                    </p>
                  )}
                  {touched.count === 0 ? null : (
                    <div className="pair">
                      <Counts title="Type" rows={touched.types} isExact={touched.isExact} />
                      <Counts title="Reason" rows={touched.reasons} isExact={touched.isExact} />
                    </div>
                  )}
                  {kind === "discard" ? (
                    <>
                      <label htmlFor={`${id}-reason`}>Why</label>
                      <input
                        id={`${id}-reason`}
                        value={reason}
                        maxLength={2000}
                        required
                        onChange={({ target }) => setReason(target.value)}
                      />
                      <p className="hint">It stands in the ledger.</p>
                    </>
                  ) : touched.count > 1 || !touched.isExact ? (
                    <>
                      <label htmlFor={`${id}-rate`}>Jobs per second, at most</label>
                      <input
                        id={`${id}-rate`}
                        inputMode="decimal"
                        value={rate}
                        placeholder="as fast as it goes"
                        aria-invalid={rateProblem !== undefined}
                        aria-describedby={`${id}-rate-help`}
                        onChange={({ target }) => setRate(target.value)}
                      />
                      <p id={`${id}-rate-help`} className={rateProblem === undefined ? "hint" : "problem"}>
                        {rateProblem ?? "Spares what they call, if it is just back."}
                      </p>
                    </>
                  ) : null}
                </>
              )}
              <div className="buttons">
                <button type="button" onClick={close}>
                  Cancel
                </button>
                {isNone(touched) ? null : (
                  <button
                    type="submit"
                    className={kind === "discard" ? "danger" : "primary"}
                    disabled={rateProblem !== undefined || (kind === "discard" && reason.trim() === "")}
                  >
                    {verbs[kind]} {takes(touched, count)}
                  </button>
                )}
              </div>
            </form>
          )}
        </Answer>
      )}
    </Dialog>
  );
};

const Running = ({
  isExact,
  kind,
  onClose,
  onStop,
  stage,
  total,
}: {
  readonly kind: Change["kind"];
  readonly stage: Exclude<Stage, { readonly at: "asking" }>;
  readonly total: number;
  readonly isExact: boolean;
  readonly onClose: () => void;
  readonly onStop: () => void;
}) => {
  const { asked, outcomes } = stage.progress;
  const seconds = stage.at === "running" ? (Date.now() - stage.since) / 1000 : 0;
  const left = isExact && asked > 0 && seconds > 1 ? ((total - asked) * seconds) / asked : undefined;
  // Where not all were counted, how many there are is known at the end.
  const isDone = stage.at === "ended" && stage.how === "done";
  const all = isExact ? total : Math.max(total, asked);
  const of = `of ${count(all, isExact || isDone)}`;
  return (
    <>
      <progress
        value={isExact || stage.at === "ended" ? asked : undefined}
        max={Math.max(all, 1)}
        aria-label={`${verbs[kind]}: how far it is`}
      />
      <p role="status">
        {stage.at === "running"
          ? `${count(asked)} ${of}${left === undefined ? "" : `, about ${span(left)} to go`}`
          : stage.how === "done"
            ? `Done: ${count(outcomes[done[kind]] ?? 0)} ${of} ${done[kind]}.`
            : `Stopped after ${count(asked)} ${of}. What was done stays done.`}
      </p>
      {Object.keys(outcomes).length > 0 ? <Counts title="Outcome" rows={Object.entries(outcomes)} /> : null}
      {stage.at === "ended" && stage.error !== undefined ? <Trouble error={stage.error} /> : null}
      <div className="buttons">
        {stage.at === "running" ? (
          <button type="button" onClick={onStop}>
            Stop
          </button>
        ) : (
          <button type="button" className="primary" onClick={onClose}>
            Close
          </button>
        )}
      </div>
    </>
  );
};
