/**
 * A transaction that begins together with its first statement: what opens it (BEGIN and the scope's settings) travels in the same
 * message, so that it takes no round trip of its own. Without BEGIN among it the transaction ends with that statement.
 *
 * Contract: the statement runs only if all of what opens the transaction did. If one of it is refused, the statement fails with
 * that error, and the transaction is aborted on the server as after any other error.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection";
import pg from "pg";

/** What the driver's client takes: a text or a configuration, values, and who is told. */
interface QueryConfig {
  readonly text: string;
  readonly values?: ReadonlyArray<unknown> | undefined;
}
type Callback = (error: Error | null, result: unknown) => void;
interface Client {
  query: (config: unknown, values?: unknown, callback?: unknown) => unknown;
}

/** The messages of the extended protocol that the driver's query writes; its types do not have them. */
interface Wire {
  readonly parse: (message: { readonly text: string }) => void;
  readonly bind: (message: object) => void;
  readonly execute: (message: object) => void;
}
interface QueryClass {
  new (
    config: object,
    values: unknown,
    callback: Callback,
  ): {
    prepare(wire: Wire): void;
    handleCommandComplete(message: unknown, wire: Wire): void;
    requiresPreparation(): boolean;
    handleError(error: unknown, wire: Wire): void;
    handleDataRow(message: unknown): void;
  };
}

const refusals = new WeakSet<object>();

/** Whether it was not the statement that was refused, but what opens its transaction. `cause` is the driver's error. */
export const isOpeningRefused = (cause: unknown): boolean =>
  typeof cause === "object" && cause !== null && refusals.has(cause);

/** A statement behind others: all before one Sync. What those answer is left out. */
class Behind extends (pg.Query as unknown as QueryClass) {
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
    if (this.unanswered > 0 && typeof error === "object" && error !== null) refusals.add(error);
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
}

/** The same for a text that may be several statements: one message of the simple protocol. */
const inOneText = (before: ReadonlyArray<string>, config: QueryConfig, callback: Callback) => ({
  config: { ...config, text: [...before, config.text].join("; ") },
  callback: ((error, results) => {
    const rest = Array.isArray(results) ? results.slice(before.length) : [results];
    callback(error, error === null && rest.length === 1 ? rest[0] : rest);
  }) satisfies Callback,
});

const clientOf = (connection: SqlConnection.Connection): Client | undefined => {
  const client: unknown = Reflect.get(connection, "pg");
  return typeof client === "object" && client !== null && "query" in client && typeof client.query === "function"
    ? (client as Client)
    : undefined;
};

/** A transaction that waits for its first statement. */
export interface Opening {
  /** Whether nothing was sent. */
  readonly isWaiting: () => boolean;
  /** Lets the connection go as it came. */
  readonly forget: () => void;
}

/** What the next statement of a client has to open; undefined: nothing. */
interface Slot {
  before: ReadonlyArray<string> | undefined;
}

const slots = new WeakMap<Client, Slot>();

/**
 * The slot of a client. From the first time on its `query` looks there; it is never put back, because a property that is deleted
 * makes every other one of the object slower.
 */
const slotOf = (client: Client): Slot => {
  const known = slots.get(client);
  if (known !== undefined) return known;
  const slot: Slot = { before: undefined };
  const query = client.query.bind(client);
  client.query = (given, values, told) => {
    const { before } = slot;
    if (before === undefined) return query(given, values, told);
    slot.before = undefined;
    const callback = typeof values === "function" ? values : told;
    const isText = typeof given === "string";
    if (
      typeof callback !== "function" ||
      !(isText || (typeof given === "object" && given !== null && "text" in given))
    ) {
      // A cursor, or somebody who awaits a promise: behind the opening, which the driver sends first.
      query(before.join("; "), () => undefined);
      return query(given, values, told);
    }
    const config: QueryConfig = isText
      ? { text: given, values: Array.isArray(values) ? values : undefined }
      : (given as QueryConfig);
    const tell: Callback = (error, result) => callback(error, result);
    // Only the simple protocol takes several statements, and it has no values.
    const hasValues = config.values !== undefined && config.values.length > 0;
    if (hasValues || !config.text.includes(";")) return query(new Behind(before, config, tell));
    const one = inOneText(before, { ...config, values: undefined }, tell);
    return query(one.config, one.callback);
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
  return {
    isWaiting: () => slot.before === before,
    forget: () => {
      if (slot.before === before) slot.before = undefined;
    },
  };
};
