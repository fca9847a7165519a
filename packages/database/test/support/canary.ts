/** A password that must appear nowhere, and addresses with it that cannot be used. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { TestUrl, urlAs } from "./database.js";

export const password = "canary-pa55word";

/** The test's database with a login of that password, a member of these roles. */
export const canaryUrl = (member: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const name = `login_${crypto.randomUUID().slice(0, 8)}`;
    yield* sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD '${password}' NOINHERIT IN ROLE ${member}`);
    yield* Effect.addFinalizer(() => Effect.orDie(sql.unsafe(`DROP ROLE ${name}`)));
    return { name, url: urlAs(yield* TestUrl, name, password) };
  });

/** What a process may be told wrongly about its database, by what is wrong with it. */
export const wrongAddresses = (
  right: Redacted.Redacted,
): Readonly<Record<string, Readonly<Record<string, string>>>> => {
  const changed = (change: (url: URL) => void) => {
    const url = new URL(Redacted.value(right));
    url.username = "somebody";
    url.password = password;
    change(url);
    return { DATABASE_URL: url.href };
  };
  return {
    "nobody listens": { DATABASE_URL: `postgresql://somebody:${password}@127.0.0.1:1/app` },
    "no such login": changed(() => undefined),
    "no such database": changed((url) => {
      url.pathname = "/none";
    }),
    "no such host": { DATABASE_URL: `postgresql://somebody:${password}@host.invalid/app` },
    "no port": { DATABASE_URL: `postgresql://somebody:${password}@127.0.0.1:port/app` },
    "no host": { DATABASE_URL: `postgresql://somebody:${password}@[::1/app` },
    "no escape": { DATABASE_URL: `postgresql://somebody:${password}%zz@127.0.0.1:1/app` },
    "no URL": { DATABASE_URL: `somebody:${password}` },
    "a space": { DATABASE_URL: `postgresql://somebody:${password} @127.0.0.1:1/app` },
    "no certificate": changed((url) => {
      url.searchParams.set("sslmode", "verify-full");
      url.searchParams.set("sslrootcert", "/nowhere.pem");
    }),
    "no encryption": { ...changed(() => undefined), PGSSLMODE: "verify-full" },
    "no mode": { DATABASE_URL: `postgresql://somebody:${password}@127.0.0.1:1/app`, PGSSLMODE: "maybe" },
    "names of libpq": { PGHOST: "127.0.0.1", PGPORT: "1", PGUSER: "somebody", PGPASSWORD: password },
    "a wrong name of libpq": { PGHOST: "127.0.0.1", PGPORT: "port", PGUSER: "somebody", PGPASSWORD: password },
  };
};
