/** Races for real: separate connections, in every combination that operators, workers and retention meet in. */
import * as SqlClient from "@effect/sql/SqlClient";
import { assert, layer } from "@effect/vitest";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import { rounds, seed } from "../support/campaign.js";
import { withoutDeadlock } from "../support/contest.js";
import { TestDatabase } from "../support/database.js";
import { type ContenderName, round } from "../support/race.js";

const replays = ["replay by ids", "replay by filter"] as const;
const discards = ["discard by ids", "discard by filter"] as const;
const erasures = ["erase a person", "erase by filter"] as const;

type Race = ReadonlyArray<ContenderName>;
const against = (all: Race, others: Race) => all.flatMap((one) => others.map((other): Race => [one, other]));

const races: Readonly<Record<string, ReadonlyArray<Race>>> = {
  replay: [
    ["replay by ids", "replay by ids"],
    ["replay by ids", "replay by filter"],
    ["replay by filter", "replay by filter"],
    ...against(replays, ["purge_job_dlq", "purge_jobs", ...discards, ...erasures]),
    ...against(replays, ["retain replayed", "retain pending", "retain discarded"]),
  ],
  discard: [
    ["discard by ids", "discard by ids"],
    ["discard by ids", "discard by filter"],
    ["discard by filter", "discard by filter"],
  ],
  restore: against(
    ["restore"],
    [...replays, "restore", ...discards, ...erasures, "retain replayed", "retain pending", "retain discarded"],
  ),
  erase: [
    ...against(erasures, ["dead-letter", "purge_job_dlq", "purge_jobs", ...discards]),
    ["erase a person", "erase a person"],
    ["erase a person", "erase by filter"],
    ["erase by filter", "erase by filter"],
  ],
  retention: [
    ...against(["retain pending"], ["insert", "dead-letter", ...discards, ...erasures, "retain pending"]),
    ...against(["retain discarded"], ["insert", "dead-letter", ...discards, ...erasures, "retain discarded"]),
    ...against(["retain replayed"], ["insert", "dead-letter", ...erasures, "retain replayed", "purge_job_dlq"]),
  ],
  import: against(
    ["import"],
    [...replays, ...discards, "restore", ...erasures, "purge_job_dlq", "purge_jobs", "retain replayed", "import"],
  ),
  "all of them": [
    ["replay by ids", "replay by filter", "discard by filter", "erase a person", "restore", "dead-letter"],
    ["replay by filter", "discard by ids", "erase by filter", "restore", "retain pending", "retain replayed"],
    ["replay by filter", "restore", "purge_job_dlq", "purge_jobs", "retain discarded", "insert", "dead-letter"],
    ["import", "import", "replay by filter", "discard by filter", "restore", "purge_job_dlq"],
    ["import", "import", "discard by ids", "restore", "erase a person"],
  ],
};

const count = rounds(50, 2);

for (const [group, all] of Object.entries(races)) {
  layer(TestDatabase, { excludeTestServices: true })(`races: ${group}`, (it) => {
    for (const names of all) {
      it.effect(
        names.join(" × "),
        () =>
          Effect.forEach(Array.from({ length: count }).keys(), (i) => round(names, `${seed}/${i}`), {
            discard: true,
          }).pipe(
            withoutDeadlock,
            Effect.zipRight(Effect.sync(() => console.log(`${names.join(" × ")}: ${count} rounds, TEST_SEED=${seed}`))),
          ),
        600_000,
      );
    }
  });
}

// A database of its own, in which the purge is another one afterwards.
layer(TestDatabase, { excludeTestServices: true })("races: a purge that takes one job more than it says", (it) => {
  it.effect("counter-test: the equation of the jobs does not hold", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient;
      yield* sql.unsafe(`
        CREATE OR REPLACE FUNCTION purge_jobs(p_older_than_days INT DEFAULT 30) RETURNS INT LANGUAGE plpgsql AS $body$
        DECLARE
          purged INT;
        BEGIN
          DELETE FROM jobs WHERE completed_at IS NOT NULL;
          GET DIAGNOSTICS purged = ROW_COUNT;
          RETURN purged - 1;
        END
        $body$`);
      const exit = yield* Effect.exit(round(["purge_jobs", "replay by ids"], `${seed}/0`));
      assert.match(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "holds", /jobs: \d+ submitted ≠/);
    }),
  );
});
