/** `dlq` on a terminal: it asks, and shows a bar. The terminal is that of util-linux's `script`. */
import { spawn, spawnSync } from "node:child_process";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { deadJob, letter, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { bundledDlq } from "./support/dlq.js";

const hasTerminals = process.platform === "linux" && spawnSync("script", ["--version"]).status === 0;

/** Runs `dlq` on a terminal and types `answer` when it has asked. What it shows, colours included, and its exit code. */
const onTerminal = (args: ReadonlyArray<string>, environment: Readonly<Record<string, string>>, answer?: string) =>
  Effect.flatMap(bundledDlq, (bin) =>
    Effect.async<{ readonly code: number | null; readonly shown: string }>((resume) => {
      const command = [process.execPath, bin, ...args].map((word) => `'${word}'`).join(" ");
      const child = spawn("script", ["-qefc", command, "/dev/null"], {
        env: {
          PATH: process.env.PATH,
          HOME: process.env.HOME,
          SHELL: "/bin/sh",
          TERM: "xterm",
          DLQ_ACTOR: "on call",
          ...environment,
        },
        stdio: ["pipe", "pipe", "inherit"],
      });
      let shown = "";
      let isAnswered = answer === undefined;
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        shown += text;
        if (!isAnswered && shown.includes("?")) {
          isAnswered = true;
          child.stdin.write(answer ?? "");
        }
      });
      child.once("close", (code) => resume(Effect.succeed({ code, shown })));
    }),
  );

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("dlq on a terminal", (it) => {
  const filled = Effect.gen(function* () {
    const appId = yield* newTenant;
    const dead = yield* deadJob(appId);
    return { appId, dead, environment: { DATABASE_URL: Redacted.value(yield* TestUrl), DLQ_TENANT: appId } };
  });
  const pending = (appId: string) =>
    Effect.flatMap(DatabaseService, (db) => Effect.map(Client.tenant(appId)(db.jobDlq.listPending()), (_) => _.length));

  it.effect.runIf(hasTerminals)(
    "asks before it replays: no and Ctrl-C change nothing, yes does (skipped without script of util-linux)",
    () =>
      Effect.gen(function* () {
        const { appId, dead, environment } = yield* filled;
        const no = yield* onTerminal(["replay", dead.id], environment, "n");
        assert.include(no.shown, "Replay 1 dead letter?");
        assert.include(no.shown, "Nothing was changed.");
        assert.strictEqual(no.code, 1);
        assert.strictEqual((yield* onTerminal(["replay", dead.id], environment, "\u0003")).code, 130);
        assert.strictEqual(yield* pending(appId), 1);
        const yes = yield* onTerminal(["replay", dead.id], environment, "y");
        assert.include(yes.shown, "1 replayed");
        assert.strictEqual(yes.code, 0);
        assert.strictEqual(yield* pending(appId), 0);
      }),
  );

  it.effect.runIf(hasTerminals)(
    "shows a bar, and colours unless NO_COLOR is set (skipped without script of util-linux)",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const { appId, environment } = yield* filled;
        yield* Client.tenant(appId)(db.jobDlq.insertMany(Array.from({ length: 200 }, () => letter(appId))));
        const coloured = yield* onTerminal(["list"], environment);
        assert.include(coloured.shown, "\u001b[2m");
        const plain = yield* onTerminal(["list"], { ...environment, NO_COLOR: "1" });
        assert.notInclude(plain.shown, "\u001b[2m");
        const bar = yield* onTerminal(["replay", "--all", "--yes"], environment);
        assert.strictEqual(bar.code, 0, bar.shown);
        assert.match(bar.shown, /replay .*100%.*201\/201.*\/s/);
      }),
  );
});
