/** Races for real: separate connections, in every combination that operators, workers and retention meet in. */
import { layer } from "@effect/vitest";
import * as Effect from "effect/Effect";
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
  "all of them": [
    ["replay by ids", "replay by filter", "discard by filter", "erase a person", "restore", "dead-letter"],
    ["replay by filter", "discard by ids", "erase by filter", "restore", "retain pending", "retain replayed"],
    ["replay by filter", "restore", "purge_job_dlq", "purge_jobs", "retain discarded", "insert", "dead-letter"],
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
