/** The HTTP API as the console asks it: its own types, and an error that says what to do. */
import type { JobDlqGroup } from "@parametric-portal/database/job-dlq/insight";
import type { JobHistory } from "@parametric-portal/database/job-dlq/lineage";
import type { JobDlqStat, StatsKey } from "@parametric-portal/database/job-dlq/stats";
import type * as Api from "@parametric-portal/operator/http/api";
import type { Schema } from "effect/Schema";
import { EventSourceParserStream } from "eventsource-parser/stream";

export type Letter = Schema.Encoded<typeof Api.Letter>;
export type LedgerEvent = Schema.Encoded<typeof Api.Event>;
export type Preview = Schema.Encoded<typeof Api.Preview>;
export type Outcomes = Schema.Encoded<typeof Api.Outcomes>;
export type Group = Schema.Encoded<typeof JobDlqGroup>;
export type History = Schema.Encoded<typeof JobHistory>;
export type Stat = Schema.Encoded<typeof JobDlqStat>;
export interface Me {
  readonly name: string;
  readonly role: "viewer" | "operator" | "admin";
  readonly tenant: string | null;
  readonly seesPayloads: boolean;
}
export interface Page<A> {
  readonly items: ReadonlyArray<A>;
  readonly next: string | null;
}
export interface Restored {
  readonly eventId: string;
  readonly id: string | null;
  readonly outcome: string;
}

export interface LettersPage extends Page<Letter> {
  /** Stored rows that do not fit the model; what is wrong is null when it is hidden. */
  readonly unreadable: ReadonlyArray<{ readonly id: string; readonly problem: string | null }>;
}

/** What the API refused, or that it does not answer (`status` 0). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
  ) {
    super(detail);
  }
}

const stored = "dlq-token";
/** For this tab only. */
export const tokenNow = (): string | null => sessionStorage.getItem(stored);
export const keepToken = (token: string | null): void =>
  token === null ? sessionStorage.removeItem(stored) : sessionStorage.setItem(stored, token);

interface Asked {
  readonly params?: URLSearchParams | undefined;
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
}

const ask = async (path: string, { body, headers, params, signal }: Asked = {}): Promise<Response> => {
  const token = tokenNow();
  const query = params === undefined || params.size === 0 ? "" : `?${params}`;
  const response = await fetch(`/api/v1${path}${query}`, {
    method: body === undefined ? "GET" : "POST",
    headers: {
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
  }).catch((error: unknown) => {
    if (signal?.aborted === true) throw error;
    throw new Problem(0, "The server does not answer. It is asked again until it does.");
  });
  if (response.ok) return response;
  const told: { readonly detail?: unknown } = await response.json().catch(() => ({}));
  throw new Problem(
    response.status,
    typeof told.detail === "string" ? told.detail : `The server answered ${response.status}.`,
  );
};

const json =
  <A>(path: string) =>
  async (asked?: Asked): Promise<A> =>
    (await ask(path, asked)).json();

/** How many of the newest dead letters figures look at: they are asked for again and again, and come soon however many there are. */
export const reach = 20_000;

const figures =
  <A>(path: string) =>
  ({ params, signal }: { readonly params?: URLSearchParams; readonly signal: AbortSignal }) =>
    json<A>(path)({ params: new URLSearchParams([...(params ?? []), ["most", String(reach)]]), signal });

const { encodeURIComponent: part } = globalThis;

export const api = {
  me: json<Me>("/me"),
  letters: json<LettersPage>("/letters"),
  letter: (id: string, asked?: Asked) => json<Letter>(`/letters/${part(id)}`)(asked),
  /** Reads payload and errors as they are; the ledger has it. */
  raw: (id: string) => json<Letter>(`/letters/${part(id)}/raw`)(),
  /** The line of an export: exact, as the database has it. */
  exported: async (id: string, signal: AbortSignal) =>
    (await ask("/export", { params: new URLSearchParams({ ids: id, state: "any" }), signal })).text(),
  history: (jobId: string, asked?: Asked) => json<History>(`/jobs/${part(jobId)}/history`)(asked),
  preview: figures<Preview>("/preview"),
  groups: figures<ReadonlyArray<Group>>("/groups"),
  stats: (by: typeof StatsKey.Type, params: URLSearchParams, signal: AbortSignal) =>
    figures<ReadonlyArray<Stat>>("/stats")({ params: new URLSearchParams([["by", by], ...params]), signal }),
  events: json<Page<LedgerEvent>>("/events"),
  restore: (eventIds: ReadonlyArray<string>, reason: string) =>
    json<ReadonlyArray<Restored>>("/restore")({ body: { eventIds, ...(reason === "" ? {} : { reason }) } }),
};

export interface ServerEvent {
  readonly event: string;
  readonly id: string | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: whoever reads an event knows it by its name.
  readonly data: any;
}

/** The server-sent events of an answer, until it ends or `signal` is aborted. */
export async function* eventsOf(
  path: string,
  { onOpen, ...asked }: Asked & { readonly onOpen?: () => void },
): AsyncGenerator<ServerEvent> {
  const { body } = await ask(path, { ...asked, headers: { accept: "text/event-stream" } });
  onOpen?.();
  if (body === null) return;
  const reader = body
    .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, BufferSource>)
    .pipeThrough(new EventSourceParserStream())
    .getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield { event: value.event ?? "message", id: value.id, data: JSON.parse(value.data) };
    }
  } finally {
    // Who has heard enough hangs up.
    await reader.cancel().catch(() => undefined);
  }
}
