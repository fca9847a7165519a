/**
 * A command that is not ended by signals: it says which one it got, and then that the database still answers. SIGTERM ends it
 * with exit code 7.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { query } from "./sql.js";

const url = Redacted.make(process.env.DATABASE_URL ?? "");
const askServer = async () => {
  const { _tag } = await Effect.runPromise(Effect.exit(query(url, "SELECT 1")));
  console.log(_tag === "Success" ? "the server answers" : "the server is gone");
};

for (const signal of ["SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM"] as const) {
  process.on(signal, async () => {
    console.log(`got ${signal}`);
    await askServer();
    if (signal === "SIGTERM") process.exit(7);
  });
}
setInterval(() => undefined, 2 ** 30);
console.log("ready");
