/** SQL on a connection of its own. */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import pg from "pg";

/** The driver's error. */
export class QueryFailed extends Data.TaggedError("QueryFailed")<{ readonly cause: unknown }> {
  override get message() {
    return this.cause instanceof Error ? this.cause.message : String(this.cause);
  }
}

/** The rows of one statement. */
export const query = (url: Redacted.Redacted, text: string) =>
  Effect.tryPromise({
    try: async (): Promise<ReadonlyArray<Record<string, unknown>>> => {
      const client = new pg.Client({ connectionString: Redacted.value(url) });
      client.on("error", () => undefined);
      try {
        await client.connect();
        return (await client.query<Record<string, unknown>>(text)).rows;
      } finally {
        await client.end();
      }
    },
    catch: (cause) => new QueryFailed({ cause }),
  });

/** A setting as the server has it. */
export const show = (url: Redacted.Redacted, setting: string) =>
  Effect.map(query(url, `SELECT current_setting('${setting}') AS value`), ([row]) => row?.value);

/** The URL with another login, password or database. */
export const urlWith = (url: Redacted.Redacted, parts: Partial<Pick<URL, "username" | "password" | "pathname">>) =>
  Redacted.make(Object.assign(new URL(Redacted.value(url)), parts).href);
