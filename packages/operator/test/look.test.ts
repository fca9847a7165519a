/** What `dlq` shows: to people in a terminal of some width, and to programs. */

import * as Model from "@effect/sql/Model";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import { deadJob, letter, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { withUrl } from "../../database/test/support/process.js";
import { objects, runDlq } from "./support/dlq.js";

const hours = (count: number) => Model.Override(DateTime.unsafeMake(Date.now() - count * 3_600_000 - 60_000));
const failure = (error: string) => [{ error, timestamp: Date.now() - 3_600_000 }];
const id = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

/** Ids are made by the database: each stands as one of the same length. */
const golden = (stdout: string) => stdout.replace(id, "00000000-0000-0000-0000-000000000000").trimEnd().split("\n");

layer(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("dlq", (it) => {
  /** A tenant with three dead letters. */
  const filled = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const appId = yield* newTenant;
    yield* Client.tenant(appId)(
      Effect.forEach(
        [
          letter(appId, {
            type: "mail.send",
            errorReason: "MaxRetries",
            attempts: 5,
            errorHistory: failure(
              "SmtpError: 451 4.3.0 the mail server of example.org is busy, try again later\n    at send (mail.ts:7)",
            ),
            dlqAt: hours(1),
          }),
          letter(appId, {
            type: "invoice.book",
            errorReason: "Validation",
            attempts: 1,
            errorHistory: failure('The payload does not fit invoice.book at cents: Expected number, actual "12"'),
            dlqAt: hours(3),
          }),
          letter(appId, {
            type: "mail.send",
            errorReason: "MaxRetries",
            attempts: 5,
            errorHistory: failure("SmtpError: 451 4.3.0 the mail server of example.org is busy, try again later"),
            dlqAt: hours(50),
          }),
        ],
        (entry) => db.jobDlq.insert(entry),
      ),
    );
    return { appId, environment: { ...withUrl(yield* TestUrl), DLQ_TENANT: appId } };
  });

  it.effect("list fits 80 and 160 columns, and is whole in a pipe", () =>
    Effect.gen(function* () {
      const { environment } = yield* filled;
      const narrow = yield* runDlq(["list"], { ...environment, COLUMNS: "80" });
      assert.strictEqual(narrow.stderr, "");
      assert.deepStrictEqual(golden(narrow.stdout), [
        "AGE  ID                                    TYPE          LAST ERROR",
        " 1h  00000000-0000-0000-0000-000000000000  mail.send     SmtpError: 451 4.3.0 t…",
        " 3h  00000000-0000-0000-0000-000000000000  invoice.book  The payload does not f…",
        " 2d  00000000-0000-0000-0000-000000000000  mail.send     SmtpError: 451 4.3.0 t…",
      ]);
      const wide = yield* runDlq(["list", "--type", "mail.*"], { ...environment, COLUMNS: "160" });
      assert.deepStrictEqual(golden(wide.stdout), [
        "AGE  ID                                    TYPE       REASON      TRIES  LAST ERROR",
        " 1h  00000000-0000-0000-0000-000000000000  mail.send  MaxRetries      5  SmtpError: 451 4.3.0 the mail server of example.org is busy, try again later",
        " 2d  00000000-0000-0000-0000-000000000000  mail.send  MaxRetries      5  SmtpError: 451 4.3.0 the mail server of example.org is busy, try again later",
      ]);
      const piped = yield* runDlq(["list", "--reason", "Validation"], environment);
      assert.include(piped.stdout, 'actual "12"');
      assert.notInclude(piped.stdout, "\u001b", "no colours in a pipe");
    }),
  );

  it.effect("the same filter as everywhere: since, until, text, payload, state, and pages", () =>
    Effect.gen(function* () {
      const { environment } = yield* filled;
      const count = (...flags: ReadonlyArray<string>) =>
        Effect.map(runDlq(["list", "--json", ...flags], environment), ({ stdout }) => objects(stdout).length);
      assert.strictEqual(yield* count("--since", "2h"), 1);
      assert.strictEqual(yield* count("--since", "1d", "--until", "2h"), 1);
      assert.strictEqual(yield* count("--text", "451 4.3.0"), 2);
      assert.strictEqual(yield* count("--payload", "{}"), 3);
      assert.strictEqual(yield* count("--state", "replayed"), 0);
      const first = yield* runDlq(["list", "--json", "--limit", "2"], environment);
      const [, cursor = ""] = /--cursor (\S+)/.exec(first.stderr) ?? [];
      const second = yield* runDlq(["list", "--json", "--limit", "2", "--cursor", cursor], environment);
      assert.strictEqual(second.stderr, "");
      const ids = [...objects(first.stdout), ...objects(second.stdout)].map((_) => _.id);
      assert.strictEqual(new Set(ids).size, 3);
      assert.deepStrictEqual(Object.keys(objects(first.stdout)[0] ?? {}).sort(), [
        "appId",
        "attempts",
        "dlqAt",
        "errorHistory",
        "errorReason",
        "id",
        "originalJobId",
        "payload",
        "replayedAt",
        "requestId",
        "type",
        "userId",
      ]);
    }),
  );

  it.effect("groups, stats and show say what is the same, how much it is, and why", () =>
    Effect.gen(function* () {
      const { environment } = yield* filled;
      const groups = yield* runDlq(["groups"], { ...environment, COLUMNS: "140" });
      assert.deepStrictEqual(golden(groups.stdout), [
        "COUNT  LAST  FIRST  TYPE          REASON      FINGERPRINT                           MESSAGE",
        "    2    1h     2d  mail.send     MaxRetries  00000000-0000-0000-0000-000000000000  SmtpError: 451 4.3.0 the mail server of example.org is …",
        "    1    3h     3h  invoice.book  Validation  00000000-0000-0000-0000-000000000000  The payload does not fit invoice.book at cents: Expecte…",
      ]);
      const stats = yield* runDlq(["stats", "--by", "reason"], environment);
      assert.deepStrictEqual(golden(stats.stdout), [
        "REASON      PENDING  OLDEST  CAME  REPLAYED  WORKED",
        "MaxRetries        2      2d     1         0       -",
        "Validation        1      3h     1         0       -",
      ]);
      const [newest] = objects((yield* runDlq(["list", "--json", "--limit", "1"], environment)).stdout);
      const shown = yield* runDlq(["show", String(newest?.id)], environment);
      assert.strictEqual(shown.code, 0);
      for (const part of ["mail.send", "MaxRetries", "    at send (mail.ts:7)", "Rounds of the job", "pending"]) {
        assert.include(shown.stdout, part);
      }
    }),
  );

  it.effect("groups and stats look at the newest letters only with --most, and say what that leaves open", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const { appId, environment } = yield* filled;
      yield* Client.tenant(appId)(db.jobDlq.insert(letter(appId, { type: "newer", dlqAt: hours(0) })));
      const mails = ["--text", "451 4.3.0"];
      const whole = yield* runDlq(["groups", ...mails, "--most", "4", "--json"], environment);
      assert.deepStrictEqual(
        objects(whole.stdout).map(({ count, isExact }) => [count, isExact]),
        [[2, true]],
      );
      assert.strictEqual(whole.stderr, "");
      const groups = yield* runDlq(["groups", ...mails, "--most", "2"], { ...environment, COLUMNS: "60" });
      assert.deepStrictEqual(golden(groups.stdout), [
        "     COUNT  TYPE       MESSAGE",
        "at least 1  mail.send  SmtpError: 451 4.3.0 the mail server…",
      ]);
      assert.strictEqual(groups.stderr, "Counted among the newest 2 dead letters; there may be more.\n");
      const stats = yield* runDlq(["stats", ...mails, "--most", "2"], environment);
      assert.match(stats.stdout, /^mail\.send {2}at least 1 /mu);
      assert.include(stats.stderr, "newest 2 dead letters;");
      const [stat] = objects((yield* runDlq(["stats", ...mails, "--most", "1", "--json"], environment)).stdout);
      assert.strictEqual(stat?.isExact, false);
      for (const command of [
        ["groups", "--text", "does not fit"],
        ["stats", "--text", "does not fit", "--window", "1h"],
      ]) {
        const none = yield* runDlq([...command, "--most", "1"], environment);
        assert.deepStrictEqual([none.code, none.stdout], [3, ""]);
        assert.include(none.stderr, "None among the newest 1 dead letter;");
        assert.strictEqual((yield* runDlq(command, environment)).code, 0);
      }
      const neither = yield* runDlq(["groups", "--text", "nothing like it", "--most", "4"], environment);
      assert.include(neither.stderr, "No dead letter matches.");
      for (const most of ["0", "1000001"]) {
        for (const command of ["groups", "stats"]) {
          const { code, stderr } = yield* runDlq([command, "--most", most], environment);
          assert.strictEqual(code, 2, `${command} --most ${most}: ${stderr}`);
          assert.include(stderr, "most");
        }
      }
    }),
  );

  it.effect("what a terminal would obey is spelled out, in tables and in JSON", () =>
    Effect.gen(function* () {
      const db = yield* DatabaseService;
      const { appId, environment } = yield* filled;
      const evil = "\u001b]0;owned\u0007\u009b31m red \u202e detrever";
      const stored = yield* Client.tenant(appId)(
        db.jobDlq.insert(letter(appId, { type: `evil${evil}`, errorHistory: failure(evil), payload: { evil } })),
      );
      for (const command of [
        ["list"],
        ["list", "--json"],
        ["groups"],
        ["show", stored.id],
        ["show", stored.id, "--json"],
      ]) {
        const { stdout } = yield* runDlq(command, environment);
        assert.notMatch(stdout, /[^\P{Cc}\n]|\p{Bidi_Control}/u, command.join(" "));
        assert.include(stdout, "u001b]0;owned", command.join(" "));
      }
      const [listed] = objects((yield* runDlq(["list", "--json", "--id", stored.id], environment)).stdout);
      assert.deepStrictEqual(listed?.payload, { evil }, "it is the same value for a program");
    }),
  );

  it.effect("a row that does not fit the model hides none of the others", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      const { appId, environment } = yield* filled;
      yield* Client.system(
        sql`UPDATE job_dlq SET error_history = '[{"error": 1}]' WHERE app_id = ${appId} AND error_reason = 'Validation'`,
      );
      const { code, stderr, stdout } = yield* runDlq(["list"], environment);
      assert.strictEqual(code, 0);
      assert.strictEqual(golden(stdout).length, 3);
      assert.match(stderr, /does not fit its model/);
    }),
  );

  it.effect("whose they are is said, and another tenant's are not there", () =>
    Effect.gen(function* () {
      const { appId, environment } = yield* filled;
      const other = yield* newTenant;
      const theirs = yield* deadJob(other);
      const shown = yield* runDlq(["show", theirs.id], environment);
      assert.deepStrictEqual([shown.code, shown.stdout], [3, ""]);
      assert.strictEqual((yield* runDlq(["list", "--id", theirs.id], environment)).code, 3);
      assert.strictEqual((yield* runDlq(["list", "--id", theirs.id, "--all-tenants"], environment)).code, 0);
      const db = yield* DatabaseService;
      const { name } = Option.getOrThrow(yield* Client.system(db.apps.get(appId)));
      assert.strictEqual((yield* runDlq(["list", "--tenant", name], withUrl(yield* TestUrl))).code, 0);
      const nobody = yield* runDlq(["list", "--tenant", "nobody"], environment);
      assert.deepStrictEqual([nobody.code, nobody.stdout], [2, ""]);
      const unsaid = yield* runDlq(["list"], withUrl(yield* TestUrl));
      assert.strictEqual(unsaid.code, 2);
      assert.include(unsaid.stderr, "--all-tenants");
    }),
  );

  it.effect("ends with 1 when the database is away, with 2 for wrong usage, with 3 when nothing matches", () =>
    Effect.gen(function* () {
      const { environment } = yield* filled;
      const away = yield* runDlq(["list"], { ...environment, DATABASE_URL: "postgresql://nobody@127.0.0.1:1/none" });
      assert.strictEqual(away.code, 1);
      assert.match(away.stderr, /database/);
      for (const wrong of [
        ["lst"],
        ["list", "--sinc", "2h"],
        ["list", "--since", "soon"],
        ["list", "--payload", "{"],
        ["list", "--user", "me"],
        ["list", "--limit", "0"],
        ["list", "--limit", "many"],
        ["list", "--cursor", "x"],
        ["show", "x"],
        ["show"],
        ["stats", "--by", "moon"],
        [],
      ]) {
        const { code, stdout } = yield* runDlq(wrong, environment);
        assert.strictEqual(code, 2, `${wrong.join(" ")}: ${stdout}`);
      }
      assert.strictEqual((yield* runDlq(["list", "--type", "none"], environment)).code, 3);
      assert.strictEqual((yield* runDlq(["groups", "--type", "none"], environment)).code, 3);
    }),
  );
});
