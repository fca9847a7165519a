/** The guide to `dlq` says what is so: every command on it is run, and its table of flags is the command's own. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as CliConfig from "@effect/cli/CliConfig";
import * as Command from "@effect/cli/Command";
import * as HelpDoc from "@effect/cli/HelpDoc";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { deadJob, letter, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { blocksOf, tableUnder } from "../../database/test/support/markdown.js";
import { root, withUrl } from "../../database/test/support/process.js";
import { list } from "../src/look.js";
import { runDlq } from "./support/dlq.js";

const guide = "docs/dlq.md";

/** The words of a line as a shell has them. */
const wordsOf = (line: string) =>
  [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((_) => _[1] ?? _[2] ?? _[3] ?? "");

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("the guide to dlq", (it) => {
  it.effect(
    "has commands that run, in this order",
    () =>
      Effect.gen(function* () {
        const db = yield* DatabaseService;
        const user = "0190aaaa-0000-7000-8000-000000000009";
        const { id: appId } = yield* Client.system(db.apps.insert({ name: "acme" }));
        yield* deadJob(appId, { type: "mail.send" });
        yield* Client.tenant(appId)(
          db.jobDlq.insert(
            letter(appId, {
              type: "mail.send",
              errorReason: "MaxRetries",
              userId: Option.some(user),
              errorHistory: [{ error: "451 4.3.0 busy", timestamp: Date.now() }],
            }),
          ),
        );
        const late = yield* deadJob(appId, { type: "mail.late" });
        const environment = withUrl(yield* TestUrl);
        const lines = blocksOf(guide)
          .filter(({ language }) => language === "sh")
          .flatMap(({ text }) => text.trim().split("\n"))
          .filter((line) => line.startsWith("npx dlq ") && line !== "npx dlq --help" && !line.includes("--embedded"));
        assert.isAbove(lines.length, 15);
        // A letter that no bulk command of the page takes, and the failure that the others have in common.
        const { id, originalJobId: job } = late;
        const [group] = yield* Client.tenant(appId)(db.jobDlq.groups({ type: "mail.send", text: "451" }));
        const known: Readonly<Record<string, string | undefined>> = { id, job, fingerprint: group?.fingerprint, user };
        for (const line of lines) {
          const words = wordsOf(line.replace(/<(\w+)>/g, (_, name: string) => known[name] ?? name)).slice(2);
          const { code, stderr, stdout } = yield* runDlq(words, environment);
          assert.strictEqual(code, 0, `${line}\n${stdout}\n${stderr}`);
        }
      }),
    180_000,
  );

  it.effect("has every flag of the filter, and says of it what the command says", () =>
    Effect.sync(() => {
      const help = HelpDoc.toAnsiText(Command.getHelp(list, CliConfig.defaultConfig))
        // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are made of them
        .replaceAll(/\u001b\[[\d;]*m/g, "")
        .replaceAll(/\s+/g, " ");
      const rows = tableUnder(guide, "Flags of the filter");
      assert.strictEqual(rows.length, 11);
      for (const row of rows) {
        assert.include(help, `${row["what it means"]}`, row.flag);
        assert.include(help, ` ${row.flag} `);
      }
      const said = readFileSync(join(root, guide), "utf8");
      for (const [flag] of help.matchAll(/--[a-z-]+/g))
        assert.include(said, flag, "a flag of list that the guide does not have");
    }),
  );
});
