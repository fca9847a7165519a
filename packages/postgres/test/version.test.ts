import { createServer, type Socket } from "node:net";
import { assert, describe, it, layer } from "@effect/vitest";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Option from "effect/Option";
import * as Queue from "effect/Queue";
import * as Redacted from "effect/Redacted";
import * as Postgres from "../src/postgres.js";
import { requireVersion } from "../src/version.js";
import { query, urlWith } from "./support/sql.js";

layer(Postgres.layer({ provider: "embedded" }), { excludeTestServices: true })("requireVersion", (it) => {
  it.effect("returns the version as the server says it", () =>
    Effect.gen(function* () {
      const { url, version } = yield* Postgres.Postgres;
      assert.strictEqual(yield* requireVersion("url", url), version);
      assert.match(version, /^18\.\d+$/);
    }),
  );

  // A server that lies: to this login another function stands before the one of the catalog.
  it.scoped("refuses a server that is older than 18, by name", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      yield* query(
        url,
        `CREATE SCHEMA older;
         CREATE FUNCTION older.current_setting(text) RETURNS text LANGUAGE sql
         RETURN CASE $1 WHEN 'server_version' THEN '17.5 (Debian 17.5-1)' WHEN 'server_version_num' THEN '170005' END;
         CREATE ROLE older LOGIN PASSWORD 'secret';
         GRANT USAGE ON SCHEMA older TO older;
         ALTER ROLE older SET search_path = older, pg_catalog`,
      );
      const lying = urlWith(url, { username: "older", password: "secret" });
      const error = yield* Effect.flip(Postgres.make({ url: lying }));
      assert.strictEqual(error._tag, "PostgresUnavailable");
      assert.strictEqual(
        error.message,
        "No PostgreSQL 18 (url): the server is PostgreSQL 17.5, which is older than 18 and has no uuidv7(). " +
          "Upgrade it, point DATABASE_URL at a newer one, or unset DATABASE_URL for an embedded server",
      );
      // The same login sees the truth when the lie is gone.
      yield* query(url, "ALTER ROLE older RESET search_path");
      assert.match((yield* Effect.scoped(Postgres.make({ url: lying }))).version, /^18\./);
    }),
  );

  it.effect("refuses a wrong password, and does not repeat it", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      const error = yield* Effect.flip(requireVersion("url", urlWith(url, { password: "not-the-password" })));
      assert.include(error.problem, 'password authentication failed for user "postgres"');
      assert.include(error.remedy, "Check DATABASE_URL");
      assert.notInclude(error.message, "not-the-password");
    }),
  );

  it.effect("refuses a database that does not exist", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Postgres;
      const error = yield* Effect.flip(requireVersion("url", urlWith(url, { pathname: "/nowhere" })));
      assert.include(error.problem, 'database "nowhere" does not exist');
    }),
  );
});

/** A server that accepts connections and says nothing. `accepted` has one after the other, each with the news of its end. */
const silentServer = Effect.gen(function* () {
  const accepted = yield* Queue.unbounded<Deferred.Deferred<void>>();
  const sockets = new Set<Socket>();
  const server = yield* Effect.acquireRelease(
    Effect.async<ReturnType<typeof createServer>>((resume) => {
      const listening = createServer((socket) => {
        const closed = Effect.runSync(Deferred.make<void>());
        sockets.add(socket);
        socket.resume().on("error", () => undefined);
        socket.once("close", () => Effect.runSync(Deferred.succeed(closed, undefined)));
        Queue.unsafeOffer(accepted, closed);
      });
      listening.listen(0, "127.0.0.1", () => resume(Effect.succeed(listening)));
    }),
    (listening) =>
      Effect.async<void>((resume) => {
        for (const socket of sockets) socket.destroy();
        listening.close(() => resume(Effect.void));
      }),
  );
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return { url: Redacted.make(`postgres://user:secret@127.0.0.1:${port}/database`), accepted };
});

/** A port that was free a moment ago. */
const deadPort = Effect.scoped(Effect.map(silentServer, ({ url }) => url));

describe("requireVersion without a server", () => {
  it.live("fails with what to do when nobody listens", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(requireVersion("url", yield* deadPort));
      assert.include(error.problem, "ECONNREFUSED");
      assert.include(error.remedy, "Check DATABASE_URL and that the server runs");
    }),
  );

  for (const given of ["nonsense", "http://user:s3cret@localhost/x", "postgres://user:s3cret#1@localhost/x"]) {
    it.live(`fails with what to do when the URL is ${given}, and does not repeat it`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(requireVersion("url", Redacted.make(given)));
        assert.include(error.problem, "not of the form postgres://");
        assert.include(error.remedy, "Correct DATABASE_URL");
        assert.notInclude(error.message, "s3cret");
      }),
    );
  }

  it.scopedLive("closes its connection to a silent server when it is not waited for any more", () =>
    Effect.gen(function* () {
      const { accepted, url } = yield* silentServer;
      const patient = yield* Effect.fork(requireVersion("url", url));
      yield* Effect.asVoid(Queue.take(accepted));
      const impatient = yield* Effect.fork(requireVersion("url", url));
      const closed = yield* Queue.take(accepted);
      yield* Fiber.interrupt(impatient);
      yield* Deferred.await(closed);
      // It was not the connection's own patience that came to its end: the older one waits on.
      assert.isTrue(Option.isNone(yield* Fiber.poll(patient)));
    }),
  );
});
