/**
 * A transaction that begins together with its first statement: what opens it (BEGIN and the scope's settings) travels in the same
 * message, so that it takes no round trip of its own. Without BEGIN among it the transaction ends with that statement.
 *
 * Contract: a statement runs only if all of what opens its transaction did. If one of it is refused, the statement fails with that
 * error, and the transaction is aborted on the server as after any other error. If BEGIN never came into effect (it was cancelled,
 * or was not sent), nothing that follows is sent: outside the transaction it would be outside the scope.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection";
import pg from "pg";

/** What the driver's client takes: a text or a configuration, values, and who is told. */
interface QueryConfig {
  readonly text: string;
  readonly name?: string | undefined;
  readonly values?: ReadonlyArray<unknown> | undefined;
}
type Callback = (error: Error | null, result: unknown) => void;
interface Client {
  query: (config: unknown, values?: unknown, callback?: unknown) => unknown;
  /** "I": outside a transaction. Null before the first answer. */
  getTransactionStatus: () => string | null;
  end: () => Promise<unknown>;
}

/** The messages of the extended protocol that the driver's query writes; its types do not have them. */
interface Wire {
  readonly parse: (message: { readonly text: string }) => void;
  readonly bind: (message: object) => void;
  readonly execute: (message: object) => void;
  readonly sync: () => void;
}
type Submit = (wire: Wire) => Error | null;
interface QueryClass {
  new (
    config: object,
    values: unknown,
    callback: unknown,
  ): {
    submit(wire: Wire): Error | null;
    prepare(wire: Wire): void;
    handleCommandComplete(message: unknown, wire: Wire): void;
    requiresPreparation(): boolean;
    handleError(error: unknown, wire: Wire): void;
    handleDataRow(message: unknown): void;
    handleCopyInResponse(wire: Wire): void;
  };
}
const Query = pg.Query as unknown as QueryClass;

const refusals = new WeakSet<object>();

/** Whether it was not the statement that was refused, but what opens its transaction. `cause` is the driver's error. */
export const isOpeningRefused = (cause: unknown): boolean =>
  typeof cause === "object" && cause !== null && refusals.has(cause);

/** Keeps what the server said against an opening; what the driver itself says is about the statement or the connection. */
const markRefused = (error: unknown) => {
  if (typeof error === "object" && error !== null && Reflect.get(error, "severity") !== undefined) refusals.add(error);
};

/** A statement behind others: all before one Sync. What those answer is left out. */
class Behind extends Query {
  private unanswered: number;
  constructor(
    private readonly before: ReadonlyArray<string>,
    config: object,
    callback: Callback,
  ) {
    super(config, undefined, callback);
    this.unanswered = before.length;
  }
  override prepare(wire: Wire) {
    for (const text of this.before) {
      wire.parse({ text });
      wire.bind({});
      wire.execute({});
    }
    super.prepare(wire);
  }
  // Without values as well.
  override requiresPreparation() {
    return true;
  }
  override handleError(error: unknown, wire: Wire) {
    if (this.unanswered > 0) markRefused(error);
    super.handleError(error, wire);
  }
  // Nobody has asked what they are made of.
  override handleDataRow(message: unknown) {
    if (this.unanswered === 0) super.handleDataRow(message);
  }
  override handleCommandComplete(message: unknown, wire: Wire) {
    if (this.unanswered > 0) this.unanswered--;
    else super.handleCommandComplete(message, wire);
  }
  // The server has ignored the Sync that came with the COPY.
  override handleCopyInResponse(wire: Wire) {
    super.handleCopyInResponse(wire);
    wire.sync();
  }
}

/** Several statements in one text of the simple protocol, behind others in the same text; the results of those are left out. */
const inOneText = (before: ReadonlyArray<string>, config: QueryConfig, callback: Callback) => ({
  config: { ...config, text: [...before, config.text].join("; ") },
  callback: ((error, results) => {
    const rest = (Array.isArray(results) ? results : [results]).slice(before.length);
    callback(error, rest.length === 0 ? { rows: [] } : rest.length === 1 ? rest[0] : rest);
  }) satisfies Callback,
});

const clientOf = (connection: SqlConnection.Connection): Client | undefined => {
  const client: unknown = Reflect.get(connection, "pg");
  return typeof client === "object" &&
    client !== null &&
    "query" in client &&
    typeof client.query === "function" &&
    "getTransactionStatus" in client
    ? (client as Client)
    : undefined;
};

/** Whether the connection is in a transaction, as the server said at its last answer. */
export const isInTransaction = (connection: SqlConnection.Connection): boolean => {
  const status = clientOf(connection)?.getTransactionStatus() ?? "I";
  return status !== "I";
};

/** Ends a connection that nobody may use any more: the pool drops it. */
export const discard = (connection: SqlConnection.Connection): void => {
  clientOf(connection)
    ?.end()
    .catch(() => undefined);
};

const didNotBegin = () =>
  new Error("the transaction did not begin, and nothing outside it was sent; the whole scope is to be tried again");

/** A transaction that waits for its first statement, or runs. */
export interface Opening {
  /** Whether nothing was sent. */
  readonly isWaiting: () => boolean;
  /** Its end: lets the connection go as it came. */
  readonly forget: () => void;
}

/** What a client has to do with its next statements. */
interface Slot {
  /** What the next one has to open; undefined: nothing. */
  before: ReadonlyArray<string> | undefined;
  /** Whether a transaction was opened here, outside of which nothing may be sent. */
  isGuarded: boolean;
}

const slots = new WeakMap<Client, Slot>();

const isSubmittable = (given: unknown): given is { submit: Submit } =>
  typeof given === "object" && given !== null && "submit" in given && typeof given.submit === "function";

/** Makes a query that is sent only inside a transaction: it is asked when its turn comes, which may be behind others. */
const guarded = <Q extends { submit: Submit }>(client: Client, query: Q): Q => {
  const submit = query.submit.bind(query);
  query.submit = (wire) => (client.getTransactionStatus() === "I" ? didNotBegin() : submit(wire));
  return query;
};

/**
 * The slot of a client. From the first time on its `query` looks there; it is never put back, because a property that is deleted
 * makes every other one of the object slower.
 */
const slotOf = (client: Client): Slot => {
  const known = slots.get(client);
  if (known !== undefined) return known;
  const slot: Slot = { before: undefined, isGuarded: false };
  const query = client.query.bind(client);

  /** Behind what was sent before. */
  const inTransaction: Client["query"] = (given, values, told) => {
    if (isSubmittable(given)) return query(guarded(client, given), values, told);
    const callback = typeof values === "function" ? values : told;
    if (typeof callback !== "function") {
      return new Promise((resolve, reject) => {
        inTransaction(given, values, (error: Error | null, result: unknown) => {
          if (error === null) resolve(result);
          else reject(error);
        });
      });
    }
    const config = typeof given === "string" ? { text: given } : Object(given);
    const listed = typeof values === "function" ? undefined : values;
    return query(guarded(client, new Query(config, listed, callback)));
  };

  client.query = (given, values, told) => {
    const { before } = slot;
    if (before === undefined) {
      return slot.isGuarded ? inTransaction(given, values, told) : query(given, values, told);
    }
    slot.before = undefined;
    const begins = before[0] === "BEGIN";
    slot.isGuarded = begins;
    const callback = typeof values === "function" ? values : told;
    const config: QueryConfig | undefined =
      typeof given === "string"
        ? { text: given, values: Array.isArray(values) ? values : undefined }
        : typeof given === "object" && given !== null && !isSubmittable(given) && "text" in given
          ? (given as QueryConfig)
          : undefined;
    const isOne =
      typeof callback === "function" &&
      typeof config?.text === "string" &&
      (config.name === undefined || config.name === "") &&
      // Only the simple protocol takes several statements, and it has no values.
      ((config.values !== undefined && config.values.length > 0) || !config.text.includes(";"));
    const tell: Callback = (error, result) => (typeof callback === "function" ? callback(error, result) : undefined);
    if (isOne) return query(new Behind(before, config, tell));
    if (!begins) {
      if (config === undefined || typeof callback !== "function") {
        throw new Error("a cursor, or a statement whose promise is awaited, needs a transaction");
      }
      // One text is parsed as a whole before any of it runs, so nothing of it runs without what stands before it.
      const one = inOneText(before, { ...config, values: undefined }, tell);
      return query(one.config, one.callback);
    }
    // A text that does not parse would take a BEGIN in the same text with it.
    let refusal: Error | null = null;
    query(before.join("; "), (error: Error | null) => {
      refusal = error;
      if (error !== null) markRefused(error);
    });
    return typeof callback === "function" && config !== undefined
      ? inTransaction({ ...config }, config.values, (error: Error | null, result: unknown) =>
          tell(error === null ? null : (refusal ?? error), result),
        )
      : inTransaction(given, values, told);
  };
  slots.set(client, slot);
  return slot;
};

/**
 * Makes the next statement of a reserved connection open a transaction first. Undefined where the connection is no driver's of
 * ours; then what opens the transaction is to be sent by itself.
 */
export const openWithNext = (
  connection: SqlConnection.Connection,
  before: ReadonlyArray<string>,
): Opening | undefined => {
  const client = clientOf(connection);
  if (client === undefined) return undefined;
  const slot = slotOf(client);
  slot.before = before;
  slot.isGuarded = false;
  return {
    isWaiting: () => slot.before === before,
    forget: () => {
      if (slot.before === before) slot.before = undefined;
      slot.isGuarded = false;
    },
  };
};
