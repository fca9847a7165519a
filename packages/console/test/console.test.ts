/** The console as a person uses it: `dlq console` as a process, a real Chromium, a real database. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, describe, layer, it as plain } from "@effect/vitest";
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Stream from "effect/Stream";
import type { Page } from "playwright-core";
import { isFull } from "../../database/test/support/campaign.js";
import { deadJob, letter, newTenant, TestDatabase, TestUrl } from "../../database/test/support/database.js";
import { freePort, withUrl } from "../../database/test/support/process.js";
import { hashOf } from "../../operator/src/access.js";
import { folder, startDlq } from "../../operator/test/support/dlq.js";
import { browser, built, executable, isAccessible, open, picture } from "./support/browser.js";

const skipped =
  "no browser: install Debian's chromium, or say where one is with CHROMIUM=/path, and run npm test again";
if (executable === undefined) {
  if (process.env.CONSOLE_TESTS === "required") throw new Error(`CONSOLE_TESTS is required, but there is ${skipped}.`);
  console.warn(`The console's tests were skipped, ${skipped}.`);
  describe.skip(`the console (${skipped})`, () => plain("works in a browser", () => {}));
}

const suite: typeof layer = executable === undefined ? ((() => () => {}) as never) : layer;

suite(TestDatabase, { excludeTestServices: true, timeout: "2 minutes" })("the console", (it) => {
  const stack = "Error: connect ETIMEDOUT 10.0.0.7:25\n    at mail (/app/mail.js:12:3)\n    at run (/app/run.js:4:1)";

  /** Starts `dlq console` on a port, and comes back when it listens. */
  const serve = (port: number, tokens?: ReadonlyArray<unknown>) =>
    Effect.gen(function* () {
      yield* built;
      const environment = {
        ...withUrl(yield* TestUrl),
        ...(tokens === undefined ? {} : { DLQ_TOKENS: JSON.stringify(tokens) }),
      };
      const served = yield* startDlq(["console", "--port", String(port)], environment);
      yield* served.saysOnStderr(tokens === undefined ? "administrator" : "known");
      return served;
    });

  /** A tenant with dead letters of two failures, tokens of every role, and a console. */
  const filled = Effect.gen(function* () {
    const db = yield* DatabaseService;
    const mine = yield* newTenant;
    yield* Client.tenant(mine)(
      db.jobDlq.insertMany([
        ...Array.from({ length: 120 }, (_, n) =>
          letter(mine, {
            type: "mail.send",
            payload: { to: `person-${n}@example.com`, order: { id: n, lines: [1, 2] } },
            errorHistory: [
              { error: stack, timestamp: Date.now() - 60_000 },
              { error: stack, timestamp: Date.now() },
            ],
          }),
        ),
        ...Array.from({ length: 5 }, (_, n) =>
          letter(mine, {
            type: "invoice.render",
            errorReason: "Validation",
            payload: { invoice: n },
            errorHistory: [{ error: "ParseError: total is missing", timestamp: Date.now() }],
          }),
        ),
      ]),
    );
    const tokens = (["viewer", "operator", "admin"] as const).map((role) => ({
      name: `${role} on call`,
      sha256: hashOf(`${role} ${mine}`),
      tenant: mine,
      role,
    }));
    const port = yield* freePort;
    const served = yield* serve(port, tokens);
    const at = (path: string) => `http://127.0.0.1:${port}${path}`;
    const chromium = yield* browser;
    const as = (role: string, path: string, look = {}) =>
      open(chromium, at(path), { token: `${role} ${mine}`, ...look });
    const pending = Effect.map(Client.tenant(mine)(db.jobDlq.preview({})), ({ count }) => count);
    return { db, mine, port, served, tokens, at, as, chromium, pending };
  });

  const does = <A>(use: () => Promise<A>) => Effect.promise(use);

  it.scoped("has every page, in light and dark, on a phone and on a wide screen, for everybody", () =>
    Effect.gen(function* () {
      const { as, db, mine } = yield* filled;
      const dead = yield* deadJob(mine, { type: "push.send", payload: { device: "a", retries: null, urgent: true } });
      const by = { actor: "night shift", scope: { _tag: "tenant", appId: mine } } as const;
      yield* Stream.runDrain(db.jobDlq.replay({ ids: [dead.id] }, by));
      yield* Stream.runDrain(db.jobDlq.discard({ payload: { invoice: 1 } }, { ...by, reason: "customer is gone" }));
      const [one] = (yield* Client.tenant(mine)(db.jobDlq.page({ type: "mail.send" }, { limit: 1 }))).items;
      const pages = [
        ["overview", "/", "Arrivals and replays"],
        ["groups", "/groups", "invoice.render"],
        ["letters", "/letters", "Dead since"],
        ["letter", `/letters/${one?.id}`, "Stack"],
        ["ledger", "/ledger", "Who"],
      ] as const;
      // Here and there in the last day.
      const sql = yield* SqlClient.SqlClient;
      yield* sql`
        UPDATE job_dlq SET dlq_at = dlq_at - (ascii(right(id::text, 1)) * ascii(right(id::text, 2)) % 1200) * interval '1 minute'
        WHERE app_id = ${mine}::uuid`;
      for (const theme of ["light", "dark"] as const) {
        for (const width of isFull ? [375, 1280, 1920] : [theme === "light" ? 1920 : 375]) {
          const page = yield* as("operator", "/", { theme, width });
          for (const [name, path, says] of pages) {
            yield* does(async () => {
              await page.goto(new URL(path, page.url()).href);
              await page.getByText(says).first().waitFor();
              await page.getByRole("button", { name: "Live" }).waitFor();
              // Charts are drawn a moment after their figures.
              if (name === "overview") await page.locator(".chart canvas").waitFor();
              await isAccessible(page, `${name}, ${theme}, ${width}`);
              await picture(page, `${name}-${theme}-${width}`);
            });
          }
        }
      }
    }),
  );

  it.scoped("filters by what stands in the URL, and says what cannot be meant", () =>
    Effect.gen(function* () {
      const { as } = yield* filled;
      const page = yield* as("operator", '/letters?type=invoice.*&payload={"invoice":3}');
      yield* does(async () => {
        await page.getByText("1 dead letter", { exact: false }).first().waitFor();
        await page.getByRole("button", { name: "Clear" }).click();
        await page.getByText("125 dead letters").waitFor();
        await page.getByLabel("Since").fill("yesterday-ish");
        await page.getByText("say how long ago").waitFor();
        await page.getByRole("button", { name: "Filter" }).click();
        assert.notInclude(page.url(), "since");
        await page.getByLabel("Since").fill("2h");
        await page.getByLabel("In the last error").fill("total is missing");
        await page.getByRole("button", { name: "Filter" }).click();
        await page.getByText("5 dead letters").waitFor();
        assert.include(page.url(), "since=2h");
        await page.getByLabel("In the last error").fill("nothing like it");
        await page.keyboard.press("Enter");
        await page.getByText("No dead letters match.").waitFor();
        await page.goBack();
        await page.getByText("5 dead letters").waitFor();
      });
    }),
  );

  it.scoped("goes by the keyboard, and loads what comes next when it is scrolled to", () =>
    Effect.gen(function* () {
      const { as } = yield* filled;
      const page = yield* as("operator", "/letters");
      yield* does(async () => {
        await page.getByText("125 dead letters").waitFor();
        await page.keyboard.press("j");
        await page.keyboard.press("j");
        await page.keyboard.press("k");
        await page.keyboard.press("x");
        await page.getByText("1 selected").waitFor();
        assert.strictEqual(await page.locator(".row.active[aria-selected=true]").getAttribute("aria-rowindex"), "3");
        await page.keyboard.press("Escape");
        await page.getByText("125 dead letters").waitFor();
        // By pages of 50 to the last one.
        const region = page.getByRole("region", { name: "The dead letters" });
        for (let turn = 0; turn < 20 && (await page.locator('[aria-rowindex="126"]').count()) === 0; turn++) {
          await region.evaluate((element) => element.scrollTo(0, element.scrollHeight));
          await page.waitForTimeout(200);
        }
        await page.locator('[aria-rowindex="126"]').waitFor();
        await page.keyboard.press("/");
        await page.keyboard.type("invoice.render");
        await page.keyboard.press("Enter");
        await page.getByText("5 dead letters").waitFor();
        await page.locator("h1").click();
        await page.keyboard.press("Enter");
        await page.getByRole("heading", { name: "invoice.render" }).waitFor();
      });
    }),
  );

  it.scoped("replays all that match, and not only the page", () =>
    Effect.gen(function* () {
      const { as, db, mine, pending } = yield* filled;
      const page = yield* as("operator", "/letters?type=mail.send");
      yield* does(async () => {
        await page.getByText("120 dead letters").waitFor();
        await page.getByLabel("Select all on the page").check();
        await page.getByText("50 selected").waitFor();
        await page.getByRole("button", { name: "Select all 120 that match" }).click();
        await page.getByRole("button", { name: "Replay …" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.getByText("Replay 120 dead letters?").waitFor();
        await isAccessible(page, "the preview");
        await picture(page, "replay-preview");
      });
      // Nothing was done before the button that says so.
      assert.strictEqual(yield* pending, 125);
      yield* does(async () => {
        await page.getByRole("button", { name: "Replay 120" }).click();
        await page.getByText("Done: 120 of 120 replayed.").waitFor();
        await isAccessible(page, "the end of a replay");
        await page.getByRole("button", { name: "Close" }).click();
        await page.getByText("No dead letters match.").waitFor();
      });
      assert.strictEqual(yield* pending, 5);
      const { items } = yield* Client.tenant(mine)(db.jobDlq.events({ kind: "replayed", limit: 1000 }));
      assert.deepStrictEqual([items.length, items[0]?.actor], [120, "operator on call"]);
    }),
  );

  it.scoped("says at least, where not all were looked at, and takes all that match", () =>
    Effect.gen(function* () {
      const { as, db, mine } = yield* filled;
      const sql = yield* SqlClient.SqlClient;
      // 100 of the newest 20,000 and 60 that are older.
      yield* sql`
        INSERT INTO job_dlq (original_job_id, app_id, type, payload, error_reason, attempts, error_history, dlq_at)
        SELECT uuidv7(), ${mine}::uuid, 'far', '{}', 'MaxRetries', 3, jsonb_build_array(jsonb_build_object('timestamp', 1767225600000 + i,
          'error', CASE WHEN i <= 100 THEN 'Error: too far' WHEN i <= 20140 THEN 'Error: other' ELSE 'Error: too far off' END)),
          now() - i * interval '1 second'
        FROM generate_series(1, 20200) i`;
      const matching = Effect.map(Client.tenant(mine)(db.jobDlq.preview({ text: "too far" })), ({ count }) => count);
      const page = yield* as("operator", "/groups?text=too far");
      const dialog = page.getByRole("dialog");
      yield* does(async () => {
        await page.getByText("Of the newest 20,000 letters").waitFor();
        assert.strictEqual(await page.locator(".group-count").textContent(), "at least 100");
        await isAccessible(page, "groups of the newest");
        await picture(page, "groups-newest");
        await page.goto(new URL("/groups?text=too far off", page.url()).href);
        await page.getByText("None among the newest 20,000 dead letters.").waitFor();
        assert.strictEqual(await page.getByText("No dead letters match.").count(), 0);
        await page.goto(new URL("/groups?text=nowhere&type=mail.send&since=1h", page.url()).href);
        await page.getByText("No dead letters match.").waitFor();

        // None of the newest, but there they are.
        await page.goto(new URL("/letters?text=too far off", page.url()).href);
        await page.getByText("at least 50 dead letters").waitFor();
        await page.getByLabel("Select all on the page").check();
        await page.getByRole("button", { name: "Select all, at least 50 that match" }).click();
        await page.getByText("All that match are selected, at least 50").waitFor();
        await page.getByRole("button", { name: "Discard …" }).click();
        await dialog.getByText("Discard all that match?").waitFor();
        await dialog.getByText("There are none among the newest 20,000 letters.").waitFor();
        await dialog.getByRole("button", { name: "Discard all that match" }).waitFor();
        await dialog.getByRole("button", { name: "Cancel" }).click();
        // A list that was read to its end says how many there are.
        const region = page.getByRole("region", { name: "The dead letters" });
        for (let turn = 0; turn < 20 && (await page.locator('[aria-rowindex="61"]').count()) === 0; turn++) {
          await region.evaluate((element) => element.scrollTo(0, element.scrollHeight));
          await page.waitForTimeout(200);
        }
        await page.getByText("60 dead letters").waitFor();
        assert.strictEqual(await page.getByText("at least").count(), 0);

        await page.goto(new URL("/letters?text=too far", page.url()).href);
        await page.getByText("at least 100 dead letters").waitFor();
        await page.getByLabel("Select all on the page").check();
        await page.getByRole("button", { name: "Select all, at least 100 that match" }).click();
        await page.getByRole("button", { name: "Replay …" }).click();
        await dialog.getByText("Replay at least 100 dead letters?").waitFor();
        await dialog.getByText("All that match are taken").waitFor();
        await isAccessible(page, "the preview of at least so many");
        await picture(page, "replay-preview-newest");
      });
      assert.strictEqual(yield* matching, 160);
      yield* does(async () => {
        await page.getByLabel("Jobs per second, at most").fill("50");
        await page.getByRole("button", { name: "Replay at least 100" }).click();
        await dialog.getByText(/^[1-9]\d* of at least \d+$/u).waitFor();
        assert.isNull(await dialog.getByRole("progressbar").getAttribute("value"));
        await dialog.getByText("Done: 160 of 160 replayed.").waitFor();
        assert.strictEqual(await dialog.locator("progress").evaluate((bar: HTMLProgressElement) => bar.position), 1);
        await isAccessible(page, "the end of a replay of at least so many");
      });
      assert.strictEqual(yield* matching, 0);
    }),
  );

  it.scoped("stops a replay in the middle, and says how far it came", () =>
    Effect.gen(function* () {
      const { as, pending } = yield* filled;
      const page = yield* as("operator", "/letters?type=mail.send");
      yield* does(async () => {
        await page.getByLabel("Select all on the page").check();
        await page.getByRole("button", { name: "Select all 120 that match" }).click();
        await page.getByRole("button", { name: "Replay …" }).click();
        const rate = page.getByLabel("Jobs per second, at most");
        await rate.fill("fast");
        await page.getByText("Say a number above 0").waitFor();
        await rate.fill("10");
        await page.getByRole("button", { name: "Replay 120" }).click();
        await page.getByText(/[1-9]\d* of 120/u).waitFor();
        await page.getByRole("button", { name: "Stop" }).click();
        await page.getByText(/Stopped after \d+ of 120/u).waitFor();
      });
      const left = yield* Effect.zipRight(Effect.sleep("2 seconds"), pending);
      assert.isAbove(left, 5);
      yield* Effect.sleep("1 second");
      assert.strictEqual(yield* pending, left);
    }),
  );

  it.scoped("stops a replay by Escape, and with the page that is left", () =>
    Effect.gen(function* () {
      const { as, pending } = yield* filled;
      const page = yield* as("operator", "/");
      const begin = async () => {
        // Whatever the list is by then: others come into it for those that have gone.
        await page.getByLabel("Select all on the page").click();
        await page.getByText(/\d+ selected/u).waitFor();
        await page.getByRole("button", { name: "Replay …" }).click();
        await page.getByLabel("Jobs per second, at most").fill("5");
        await page.getByRole("button", { name: /^Replay \d+$/u }).click();
        await page.getByText(/[1-9]\d* of \d+/u).waitFor();
      };
      yield* does(async () => {
        await page.getByRole("link", { name: "mail.send", exact: true }).click();
        await begin();
        await page.keyboard.press("Escape");
        await page.getByText(/Stopped after \d+ of \d+/u).waitFor();
        await page.keyboard.press("Escape");
        await page.getByRole("dialog").waitFor({ state: "detached" });
        await begin();
        await page.goBack();
        await page.getByText("Arrivals and replays").waitFor();
      });
      const left = yield* Effect.zipRight(Effect.sleep("1500 millis"), pending);
      assert.isAbove(left, 50);
      yield* Effect.sleep("1 second");
      assert.strictEqual(yield* pending, left);
    }),
  );

  it.scoped("discards with a reason, tells who did it, and restores", () =>
    Effect.gen(function* () {
      const { as, pending } = yield* filled;
      const page = yield* as("operator", "/letters?type=invoice.render");
      yield* does(async () => {
        await page
          .getByLabel(/^Select [\da-f]{8}/u)
          .first()
          .check();
        await page.getByRole("button", { name: "Discard …" }).click();
        const button = page.getByRole("button", { name: "Discard 1" });
        assert.isTrue(await button.isDisabled());
        await page.getByLabel("Why").fill("made by a test");
        await picture(page, "discard");
        await button.click();
        await page.getByText("Done: 1 of 1 discarded.").waitFor();
        await page.getByRole("button", { name: "Close" }).click();
        await page.getByText("4 dead letters").waitFor();
      });
      assert.strictEqual(yield* pending, 124);
      yield* does(async () => {
        await page.getByRole("link", { name: "Ledger" }).click();
        await page.getByText("made by a test").waitFor();
        await page.getByText("operator on call", { exact: true }).waitFor();
        await page.getByRole("listitem").getByRole("link").click();
        await page.getByText("It is not in the queue.").waitFor();
        await isAccessible(page, "a letter that is gone");
        await page.getByRole("button", { name: /^Restore/u }).click();
        await page.getByRole("button", { name: "Restore 1" }).click();
        await page.getByText("1 restored.").waitFor();
        await page.getByRole("button", { name: "Close" }).click();
        await page.getByRole("heading", { name: "invoice.render" }).waitFor();
        await page.getByText("(undone)").waitFor();
      });
      assert.strictEqual(yield* pending, 125);
    }),
  );

  it.scoped("does something about all of one failure", () =>
    Effect.gen(function* () {
      const { as, pending } = yield* filled;
      const page = yield* as("operator", "/groups");
      yield* does(async () => {
        await page.getByRole("button", { name: "Discard group invoice.render" }).click();
        await page.getByLabel("Why").fill("a test again");
        await page.getByRole("button", { name: "Discard 5" }).click();
        await page.getByText("Done: 5 of 5 discarded.").waitFor();
        await page.getByRole("button", { name: "Close" }).click();
        await page.getByRole("button", { name: "Discard group invoice.render" }).waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Replay group mail.send" }).waitFor();
      });
      assert.strictEqual(yield* pending, 120);
    }),
  );

  it.scoped("shows one dead letter, and replays it with an edited payload", () =>
    Effect.gen(function* () {
      const { as, db, mine } = yield* filled;
      const dead = yield* deadJob(mine, { type: "push.send", payload: { device: "a", tries: [1, 2] } });
      const page = yield* as("operator", `/letters/${dead.id}`);
      yield* does(async () => {
        await page.getByText("no route").first().waitFor();
        await page.getByText('"device"').or(page.getByText("device:")).first().waitFor();
        await page.getByText("This one").waitFor();
        await page.getByRole("button", { name: "Edit and replay" }).click();
        const editor = page.getByLabel("Payload, as JSON");
        await editor.fill('{"device": ');
        await page.getByText("This is no JSON").waitFor();
        assert.isTrue(await page.getByRole("button", { name: "Go on" }).isDisabled());
        await editor.fill('{"device": "b", "tries": [1, 2]}');
        await page.locator(".diff .added").getByText('"b"').waitFor();
        await page.locator(".diff .removed").getByText('"a"').waitFor();
        await isAccessible(page, "the editor");
        await picture(page, "edit");
        await page.getByRole("button", { name: "Go on" }).click();
        await page.getByText("The job gets the edited payload.").waitFor();
        await page.getByRole("button", { name: "Replay 1" }).click();
        await page.getByText("Done: 1 of 1 replayed.").waitFor();
        await page.getByRole("button", { name: "Close" }).click();
        await page.getByText("waiting").waitFor();
        await page.getByText("with another payload").waitFor();
      });
      const job = yield* Client.tenant(mine)(db.jobs.get(dead.originalJobId));
      assert.deepStrictEqual((job as { readonly value?: { readonly payload?: unknown } }).value?.payload, {
        device: "b",
        tries: [1, 2],
      });
    }),
  );

  it.scoped("edits no payload of which it cannot keep every digit", () =>
    Effect.gen(function* () {
      const { as, mine } = yield* filled;
      const dead = yield* deadJob(mine, { type: "pay", payload: { account: 1 } });
      const sql = yield* SqlClient.SqlClient;
      yield* sql`UPDATE job_dlq SET payload = '{"account": 12345678901234567890, "to": "no number: 1234567890123456789"}' WHERE id = ${dead.id}::uuid`;
      const page = yield* as("operator", `/letters/${dead.id}`);
      yield* does(async () => {
        await page.getByRole("button", { name: "Edit and replay" }).click();
        await page.getByText("It holds the number 12345678901234567890").waitFor();
        assert.strictEqual(await page.getByRole("button", { name: "Go on" }).count(), 0);
      });
    }),
  );

  it.scoped("says of rows that it cannot read that they are there", () =>
    Effect.gen(function* () {
      const { as, mine } = yield* filled;
      const dead = yield* deadJob(mine, { type: "odd.one" });
      const sql = yield* SqlClient.SqlClient;
      yield* sql`UPDATE job_dlq SET error_history = '[{"odd": 1}]' WHERE id = ${dead.id}::uuid`;
      const page = yield* as("operator", "/letters?type=odd.one");
      yield* does(async () => {
        await page.getByText("1 dead letter cannot be shown here").waitFor();
        await page.getByText(dead.id).waitFor();
        assert.strictEqual(await page.getByText("No dead letters match.").count(), 0);
        await isAccessible(page, "rows that cannot be read");
      });
    }),
  );

  it.scoped("reads the raw letter only when it is asked to, and the ledger has it", () =>
    Effect.gen(function* () {
      const { as, db, mine } = yield* filled;
      const [one] = (yield* Client.tenant(mine)(db.jobDlq.page({ type: "mail.send" }, { limit: 1 }))).items;
      const page = yield* as("operator", `/letters/${one?.id}`);
      const viewed = Effect.map(Client.tenant(mine)(db.jobDlq.events({ kind: "viewed" })), ({ items }) => items.length);
      yield* does(async () => {
        await page.getByRole("button", { name: "Raw" }).click();
        await page.getByText("under your name").waitFor();
      });
      assert.strictEqual(yield* viewed, 0);
      yield* does(async () => {
        await page.getByRole("button", { name: "Read it" }).click();
        await page.getByRole("region", { name: "The dead letter as JSON" }).getByText("originalJobId").waitFor();
      });
      assert.strictEqual(yield* viewed, 1);
    }),
  );

  it.scoped("lets a viewer look and nothing else, and hides payloads and errors", () =>
    Effect.gen(function* () {
      const { as, db, mine } = yield* filled;
      const [one] = (yield* Client.tenant(mine)(db.jobDlq.page({ type: "mail.send" }, { limit: 1 }))).items;
      const page = yield* as("viewer", "/letters");
      yield* does(async () => {
        await page.getByText("125 dead letters").waitFor();
        assert.strictEqual(await page.getByRole("checkbox").count(), 0);
        assert.strictEqual(await page.getByLabel("In the last error").count(), 0);
        await page.keyboard.press("x");
        assert.strictEqual(await page.getByText("selected").count(), 0);
        await isAccessible(page, "letters of a viewer");
        await page.goto(new URL(`/letters/${one?.id}`, page.url()).href);
        await page.getByText("Your token may not see it.").first().waitFor();
        const text = await page.locator("main").textContent();
        assert.notInclude(text ?? "", "ETIMEDOUT");
        assert.notInclude(text ?? "", "example.com");
        for (const name of ["Replay", "Edit and replay", "Discard", "Raw"]) {
          assert.strictEqual(await page.getByRole("button", { name, exact: true }).count(), 0, name);
        }
        await page.goto(new URL("/groups", page.url()).href);
        await page.getByText("invoice.render").waitFor();
        assert.strictEqual(await page.getByRole("button", { name: /group/u }).count(), 0);
      });
    }),
  );

  it.scoped("asks for a token, refuses a wrong one, keeps the right one for the tab, and forgets it", () =>
    Effect.gen(function* () {
      const { at, chromium, mine } = yield* filled;
      const page = yield* open(chromium, at("/letters?type=invoice.render"));
      yield* does(async () => {
        await page.getByLabel("Your token").fill("nonsense");
        await isAccessible(page, "the sign-in");
        await picture(page, "sign-in");
        await page.getByRole("button", { name: "Sign in" }).click();
        await page.getByText("The token is not known").waitFor();
        await page.getByLabel("Your token").fill(`operator ${mine}`);
        await page.getByRole("button", { name: "Sign in" }).click();
        await page.getByText("5 dead letters").waitFor();
        await page.reload();
        await page.getByText("operator on call · operator").waitFor();
        await page.getByRole("button", { name: "Sign out" }).click();
        await page.getByLabel("Your token").waitFor();
        assert.isNull(await page.evaluate(() => sessionStorage.getItem("dlq-token")));
      });
    }),
  );

  it.scoped("needs no token where the server has none, and then has every tenant", () =>
    Effect.gen(function* () {
      const { chromium } = yield* filled;
      const port = yield* freePort;
      yield* serve(port);
      const page = yield* open(chromium, `http://localhost:${port}/letters?type=invoice.*`);
      yield* does(async () => {
        await page.getByText("local · admin").waitFor();
        await page.locator(".row").getByRole("link").first().click();
        await page.getByText("ParseError: total is missing").first().waitFor();
        assert.strictEqual(await page.getByRole("button", { name: "Sign out" }).count(), 0);
      });
    }),
  );

  it.scoped("lets two people act on the same dead letters: each is replayed once", () =>
    Effect.gen(function* () {
      const { as, db, mine, pending } = yield* filled;
      const two = [yield* as("operator", "/letters?type=mail.send"), yield* as("admin", "/letters?type=mail.send")];
      const each = (use: (page: Page) => Promise<unknown>) => does(() => Promise.all(two.map(use)));
      yield* each(async (page) => {
        await page.getByLabel("Select all on the page").check();
        await page.getByRole("button", { name: "Select all 120 that match" }).click();
        await page.getByRole("button", { name: "Replay …" }).click();
        await page.getByRole("button", { name: "Replay 120" }).waitFor();
      });
      yield* each((page) => page.getByRole("button", { name: "Replay 120" }).click());
      yield* each((page) => page.getByText(/^Done: \d+ of 120 replayed/u).waitFor());
      assert.strictEqual(yield* pending, 5);
      const { items } = yield* Client.tenant(mine)(db.jobDlq.events({ kind: "replayed", limit: 1000 }));
      assert.strictEqual(items.length, 120);
      assert.strictEqual(new Set(items.map(({ dlqId }) => dlqId)).size, 120);
      const said = yield* each((page) => page.getByText(/^Done: \d+ of 120 replayed/u).textContent());
      const sum = (said as ReadonlyArray<string | null>).reduce(
        (all, text) => all + Number(/\d+/u.exec(text ?? "")?.[0]),
        0,
      );
      assert.strictEqual(sum, 120, String(said));
    }),
  );

  it.scoped("shows what comes while it is live, and stays as it is while it is paused", () =>
    Effect.gen(function* () {
      const { as, db, mine } = yield* filled;
      const page = yield* as("operator", "/letters?type=late.one");
      const arrive = Client.tenant(mine)(db.jobDlq.insertMany([letter(mine, { type: "late.one" })]));
      yield* does(async () => {
        await page.getByText("No dead letters match.").waitFor();
        await page.getByRole("button", { name: "Live" }).waitFor();
      });
      yield* arrive;
      yield* does(async () => {
        await page.getByText("1 dead letter", { exact: false }).first().waitFor();
        await page.getByRole("button", { name: "Live" }).click();
        await page.getByRole("button", { name: "Paused" }).waitFor();
      });
      yield* arrive;
      yield* Effect.sleep("7 seconds");
      yield* does(async () => {
        assert.strictEqual(await page.locator(".body .row").count(), 1);
        await page.getByRole("button", { name: "Paused" }).click();
        await page.getByText("2 dead letters").waitFor();
      });
    }),
  );

  it.scoped("says that the server is away, and goes on when it is back", () =>
    Effect.gen(function* () {
      const { as, db, mine, port, served, tokens } = yield* filled;
      const page = yield* as("operator", "/letters?type=invoice.render");
      yield* does(() => page.getByText("5 dead letters").waitFor());
      yield* served.kill("SIGKILL");
      yield* served.ended;
      yield* does(async () => {
        await page.getByText("The server is away.").waitFor();
        await page.getByRole("button", { name: "Connecting" }).waitFor();
        // What was there stays.
        assert.strictEqual(await page.locator(".body .row").count(), 5);
      });
      yield* serve(port, tokens);
      yield* Client.tenant(mine)(db.jobDlq.insertMany([letter(mine, { type: "invoice.render" })]));
      yield* does(async () => {
        await page.getByText("6 dead letters").waitFor({ timeout: 30_000 });
        await page.getByText("The server is away.").waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Live" }).waitFor({ timeout: 30_000 });
      });
    }),
  );

  it.scoped("needs nothing from elsewhere, and no more than 200 kB of scripts", () =>
    Effect.gen(function* () {
      const { as, port } = yield* filled;
      const page = yield* as("operator", "/letters");
      const asked: Array<string> = [];
      page.on("request", (request) => asked.push(request.url()));
      yield* does(async () => {
        for (const path of ["/", "/groups", "/letters", "/ledger"]) {
          await page.goto(new URL(path, page.url()).href);
          await page.getByRole("button", { name: "Live" }).waitFor();
        }
        await page.waitForTimeout(300);
      });
      assert.isNotEmpty(asked);
      assert.deepStrictEqual(
        asked.filter((url) => !url.startsWith(`http://127.0.0.1:${port}/`) && !url.startsWith("data:")),
        [],
      );
      const assets = join(folder, "console/assets");
      const scripts = readdirSync(assets).filter((name) => name.endsWith(".js"));
      const bytes = scripts.reduce((sum, name) => sum + gzipSync(readFileSync(join(assets, name))).length, 0);
      assert.isBelow(bytes, 200_000);
      const answer = yield* does(() => fetch(`http://127.0.0.1:${port}/letters`));
      assert.notInclude(answer.headers.get("content-security-policy") ?? "", "unsafe");
      assert.include(answer.headers.get("content-security-policy") ?? "", "default-src 'none'");
      assert.strictEqual(answer.headers.get("cache-control"), "no-store");
      assert.strictEqual((yield* does(() => fetch(`http://127.0.0.1:${port}/assets/none.js`))).status, 404);
    }),
  );

  it.scoped("is as strict a page as its policy says", () =>
    Effect.gen(function* () {
      const { at, chromium, mine } = yield* filled;
      const context = yield* Effect.acquireRelease(
        does(() => chromium.newContext()),
        (one) => does(() => one.close()),
      );
      yield* does(async () => {
        // Without the tests' own rights: what its policy forbids would be in the console's log.
        const page = await context.newPage();
        const refused: Array<string> = [];
        page.on("console", (message) => {
          if (message.type() === "error") refused.push(message.text());
        });
        await context.addInitScript((value) => sessionStorage.setItem("dlq-token", value), `operator ${mine}`);
        await page.goto(at("/"));
        await page.locator(".chart canvas").waitFor();
        await page.goto(at("/letters"));
        await page.getByText("125 dead letters").waitFor();
        // The page that documents the API has a stricter one yet.
        await page.goto(at("/api/v1/docs"));
        await page.getByText("/api/v1/letters/{id}/raw").waitFor();
        await picture(page, "api-docs");
        assert.deepStrictEqual(refused, []);
      });
    }),
  );
});
