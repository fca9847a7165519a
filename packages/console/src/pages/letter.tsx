/** One dead letter: what failed and how often, what it carries, what became of it before, and what is done about it. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useId, useState } from "react";
import { api, type History, type Letter as LetterType, Problem } from "../api";
import { type Change, ChangeDialog } from "../change";
import { inexactNumber, JsonDiff, JsonTree } from "../json";
import { useLive } from "../live";
import { useSession } from "../session";
import { Ago, Answer, At, Chip, Copy, count, Dialog, Empty, LetterLink, Trouble } from "../ui";
import { EventLine, RestoreDialog } from "./ledger";

export const Letter = () => {
  const { id } = useParams({ from: "/letters/$id" });
  // Nothing of one letter is left on the page of another.
  return <Opened key={id} id={id} />;
};

type Doing = { readonly what: "change"; readonly change: Change } | { readonly what: "edit" | "raw" };

const Opened = ({ id }: { readonly id: string }) => {
  // Here, and not beside the letter: what is being done may take it away.
  const [doing, setDoing] = useState<{ readonly letter: LetterType } & Doing>();
  const close = () => setDoing(undefined);
  const { interval } = useLive();
  const letter = useQuery({
    queryKey: ["letter", id],
    // One that is not there is an answer, which stays while it is asked for again.
    queryFn: ({ signal }) =>
      api.letter(id, { signal }).catch((error: unknown) => {
        if (error instanceof Problem && (error.status === 404 || error.status === 400)) return null;
        throw error;
      }),
    refetchInterval: interval,
  });
  return (
    <>
      <p>
        <Link to="/letters">← Dead letters</Link>
      </p>
      <Answer query={letter} what="the dead letter">
        {(found) =>
          found === null ? (
            <>
              <h1>Dead letter</h1>
              <Empty title="It is not in the queue.">
                It was discarded, purged or erased, or it never was there. What the ledger knows stands below.
              </Empty>
            </>
          ) : (
            <Found letter={found} onDo={(next) => setDoing({ letter: found, ...next })} />
          )
        }
      </Answer>
      <Done id={id} />
      {doing?.what === "change" ? <ChangeDialog change={doing.change} onClose={close} /> : null}
      {doing?.what === "edit" ? (
        <EditDialog
          letter={doing.letter}
          onClose={close}
          onReplay={(payload) =>
            setDoing({ ...doing, what: "change", change: { kind: "replay", filter: { ids: [id] }, payload } })
          }
        />
      ) : null}
      {doing?.what === "raw" ? <RawDialog id={id} onClose={close} /> : null}
    </>
  );
};

const Found = ({ letter, onDo }: { readonly letter: LetterType; readonly onDo: (next: Doing) => void }) => {
  const { mayChange, seesPayloads } = useSession();
  const isPending = letter.replayedAt === null;
  const filter = { ids: [letter.id] };
  return (
    <>
      <div className="title">
        <h1 className="clip2">{letter.type}</h1>
        <Chip>{isPending ? letter.errorReason : "replayed"}</Chip>
      </div>
      <div className="buttons start">
        {mayChange && isPending ? (
          <>
            <button
              type="button"
              className="primary"
              onClick={() => onDo({ what: "change", change: { kind: "replay", filter } })}
            >
              Replay
            </button>
            <button type="button" onClick={() => onDo({ what: "edit" })}>
              Edit and replay
            </button>
            <button
              type="button"
              className="danger"
              onClick={() => onDo({ what: "change", change: { kind: "discard", filter } })}
            >
              Discard
            </button>
          </>
        ) : null}
        {seesPayloads ? (
          <button type="button" className="quiet" onClick={() => onDo({ what: "raw" })}>
            Raw
          </button>
        ) : null}
      </div>
      <dl className="facts card">
        <Fact name="Dead letter">
          <span className="mono">{letter.id}</span> <Copy text={letter.id} what="id" />
        </Fact>
        <Fact name="Job">
          <Link to="/letters" search={{ originalJobId: letter.originalJobId, state: "any" }} className="mono">
            {letter.originalJobId}
          </Link>
        </Fact>
        <Fact name="Dead since">
          <At at={letter.dlqAt} /> (<Ago at={letter.dlqAt} />)
        </Fact>
        {letter.replayedAt === null ? null : (
          <Fact name="Replayed">
            <At at={letter.replayedAt} />
          </Fact>
        )}
        <Fact name="Attempts">{count(letter.attempts)}</Fact>
        <Fact name="Tenant">
          <span className="mono">{letter.appId}</span>
        </Fact>
        {letter.requestId === null ? null : (
          <Fact name="Request">
            <Link to="/letters" search={{ requestId: letter.requestId, state: "any" }} className="mono">
              {letter.requestId}
            </Link>
          </Fact>
        )}
        {letter.userId === null ? null : (
          <Fact name="Person">
            <Link to="/letters" search={{ userId: letter.userId, state: "any" }} className="mono">
              {letter.userId}
            </Link>
          </Fact>
        )}
      </dl>
      <div className="pair">
        <Attempts letter={letter} />
        <section className="card" aria-labelledby="payload">
          <h2 id="payload">Payload</h2>
          {letter.isHidden ? (
            <Hidden what="The payload" />
          ) : (
            <>
              <JsonTree value={letter.payload} />
              <Copy text={JSON.stringify(letter.payload, null, 2)} what="payload" />
            </>
          )}
        </section>
      </div>
      <Lineage jobId={letter.originalJobId} id={letter.id} />
    </>
  );
};

const Fact = ({ children, name }: { readonly name: string; readonly children: React.ReactNode }) => (
  <div>
    <dt>{name}</dt>
    <dd>{children}</dd>
  </div>
);

const Hidden = ({ what }: { readonly what: string }) => (
  <p className="hint">{what} may hold personal data. Your token may not see it.</p>
);

const Attempts = ({ letter: { errorHistory, isHidden } }: { readonly letter: LetterType }) => (
  <section className="card" aria-labelledby="attempts">
    <h2 id="attempts">Attempts</h2>
    {isHidden ? (
      <Hidden what="The error" />
    ) : errorHistory.length === 0 ? (
      <Empty title="It has no error." />
    ) : (
      <ol className="timeline">
        {errorHistory.map(({ error, timestamp }, index) => {
          const [first = "", ...stack] = error.split("\n");
          return (
            <li key={index}>
              <p className="hint">
                {index + 1}. <At at={timestamp} />
              </p>
              <p className="mono error">{first}</p>
              {stack.length === 0 ? null : (
                <details open={index === errorHistory.length - 1}>
                  <summary>Stack</summary>
                  {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached without a mouse. */}
                  <pre tabIndex={0} role="region" aria-label={`Stack of attempt ${index + 1}`}>
                    {stack.join("\n")}
                  </pre>
                </details>
              )}
            </li>
          );
        })}
      </ol>
    )}
  </section>
);

const Lineage = ({ id, jobId }: { readonly jobId: string; readonly id: string }) => {
  const { interval } = useLive();
  const history = useQuery({
    queryKey: ["history", jobId],
    queryFn: ({ signal }) => api.history(jobId, { signal }),
    refetchInterval: interval,
  });
  return (
    <section className="card" aria-labelledby="lineage">
      <h2 id="lineage">The job’s rounds</h2>
      <Answer query={history} what="the job's rounds">
        {(found) => <Rounds history={found} id={id} />}
      </Answer>
    </section>
  );
};

const Rounds = ({ history: { job, rounds }, id }: { readonly history: History; readonly id: string }) => (
  <>
    <ol className="timeline">
      {rounds.map((round) => (
        <li key={round.id} aria-current={round.id === id ? "true" : undefined}>
          <p>
            {round.id === id ? <strong>This one</strong> : <LetterLink id={round.id} />} <Chip>{round.outcome}</Chip>{" "}
            {round.deadLetteredAt === null ? null : (
              <span className="hint">
                dead <Ago at={round.deadLetteredAt} />
              </span>
            )}
          </p>
          {round.lastError === null ? null : <p className="mono clip2">{round.lastError}</p>}
          {round.replay === null ? null : (
            <p className="hint">
              replayed <Ago at={round.replay.at} />
              {round.replay.actor === null ? "" : ` by ${round.replay.actor}`}
              {round.replay.isOverridden === true ? ", with another payload" : ""}
              {round.endedAt === null ? null : (
                <>
                  ; {round.outcome} <Ago at={round.endedAt} />
                </>
              )}
            </p>
          )}
        </li>
      ))}
    </ol>
    <p className="hint">
      {job === null
        ? "The job itself is gone; a replay makes it anew."
        : `The job is ${job.status}: attempt ${count(job.attempts)} of ${count(job.maxAttempts)}, replayed ${count(job.replays)} times.`}
    </p>
  </>
);

const Done = ({ id }: { readonly id: string }) => {
  const { interval } = useLive();
  const [restoring, setRestoring] = useState<string>();
  const events = useQuery({
    queryKey: ["events", "of", id],
    queryFn: ({ signal }) => api.events({ params: new URLSearchParams({ dlqId: id }), signal }),
    refetchInterval: interval,
  });
  return (
    <section className="card" aria-labelledby="done">
      <h2 id="done">Who did what</h2>
      <Answer query={events} what="the ledger">
        {({ items }) =>
          items.length === 0 ? (
            <p className="hint">Nobody has touched it.</p>
          ) : (
            <ul className="plain">
              {items.map((event) => (
                <EventLine key={event.id} event={event} onRestore={() => setRestoring(event.id)} />
              ))}
            </ul>
          )
        }
      </Answer>
      {restoring === undefined ? null : <RestoreDialog ids={[restoring]} onClose={() => setRestoring(undefined)} />}
    </section>
  );
};

const parsed = (text: string): { readonly value: unknown } | { readonly problem: string } => {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
};

const EditDialog = ({
  letter,
  onClose,
  onReplay,
}: {
  readonly letter: LetterType;
  readonly onClose: () => void;
  readonly onReplay: (payload: unknown) => void;
}) => {
  const [text, setText] = useState(() => JSON.stringify(letter.payload, null, 2));
  const id = useId();
  const edited = parsed(text);
  // What a browser has read may have lost digits, and editing would send it so.
  const stored = useQuery({
    queryKey: ["me", "export", letter.id],
    queryFn: ({ signal }) => api.exported(letter.id, signal),
    gcTime: 0,
  });
  const inexact = stored.data === undefined ? undefined : inexactNumber(stored.data);
  if (stored.data === undefined || inexact !== undefined) {
    return (
      <Dialog title="Replay with an edited payload" onClose={onClose}>
        <Answer query={stored} what="the payload as it is stored">
          {() => (
            <p className="problem" role="alert">
              It holds the number {inexact}, of which a browser keeps fewer digits: editing it here would change what
              nobody edited. A replay without an edit is exact.
            </p>
          )}
        </Answer>
        <div className="buttons">
          <button type="button" onClick={onClose}>
            Close
          </button>
        </div>
      </Dialog>
    );
  }
  return (
    <Dialog title="Replay with an edited payload" onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if ("value" in edited) onReplay(edited.value);
        }}
      >
        <label htmlFor={id}>Payload, as JSON</label>
        <textarea
          id={id}
          className="mono"
          rows={12}
          spellCheck={false}
          value={text}
          aria-invalid={"problem" in edited}
          aria-describedby={`${id}-problem`}
          onChange={({ target }) => setText(target.value)}
        />
        <div id={`${id}-problem`} aria-live="polite">
          {"problem" in edited ? (
            <p className="problem">This is no JSON: {edited.problem}</p>
          ) : (
            <JsonDiff before={letter.payload} after={edited.value} />
          )}
        </div>
        <p className="hint">The dead letter keeps its own payload, and the ledger the difference.</p>
        <div className="buttons">
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="primary" disabled={"problem" in edited}>
            Go on
          </button>
        </div>
      </form>
    </Dialog>
  );
};

const RawDialog = ({ id, onClose }: { readonly id: string; readonly onClose: () => void }) => {
  const queries = useQueryClient();
  const [raw, setRaw] = useState<{ readonly letter?: LetterType; readonly error?: unknown }>();
  return (
    <Dialog title="The whole dead letter" onClose={onClose}>
      {raw === undefined ? (
        <p>Reading it is a line in the ledger, under your name.</p>
      ) : raw.letter === undefined ? (
        <Trouble error={raw.error} />
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached without a mouse.
        <pre tabIndex={0} role="region" aria-label="The dead letter as JSON">
          {JSON.stringify(raw.letter, null, 2)}
        </pre>
      )}
      <div className="buttons">
        {raw?.letter === undefined ? null : <Copy text={JSON.stringify(raw.letter, null, 2)} what="all" />}
        <button type="button" onClick={onClose}>
          Close
        </button>
        {raw === undefined ? (
          <button
            type="button"
            className="primary"
            onClick={() =>
              api.raw(id).then(
                (letter) => {
                  setRaw({ letter });
                  queries.invalidateQueries({ queryKey: ["events"] });
                },
                (error: unknown) => setRaw({ error }),
              )
            }
          >
            Read it
          </button>
        ) : null}
      </div>
    </Dialog>
  );
};
