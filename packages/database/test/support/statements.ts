/** What an effect sends to the database. */
import * as Statement from "@effect/sql/Statement";
import * as Effect from "effect/Effect";

export interface Sent {
  readonly text: string;
  readonly parameters: ReadonlyArray<unknown>;
}

/** Runs an effect and returns its statements beside its result, in the order in which they were sent. BEGIN and COMMIT are not among them. */
export const statementsOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const sent: Array<Sent> = [];
    return Statement.withTransformer(effect, (statement) =>
      Effect.sync(() => {
        const [text, parameters] = statement.compile();
        sent.push({ text, parameters });
        return statement;
      }),
    ).pipe(Effect.map((result) => ({ result, sent })));
  });
