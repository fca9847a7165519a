/** The process of one contestant: does what it is asked, and measures what runs. */
import * as S from "effect/Schema";
import type { Contestant, Opened, Round } from "./contestant.js";
import { type Answer, Question } from "./protocol.js";

const contestants: Readonly<Record<string, () => Promise<{ readonly contestant: Contestant }>>> = {
  portal: () => import("./contestants/portal.js"),
  raw: () => import("./contestants/raw.js"),
  "pg-boss": () => import("./contestants/pg-boss.js"),
  "graphile-worker": () => import("./contestants/graphile-worker.js"),
  bullmq: () => import("./contestants/bullmq.js"),
};

const contestantOf = async (name: string): Promise<Contestant> => {
  const load = contestants[name];
  if (load === undefined) throw new Error(`there is no ${name}; there are ${Object.keys(contestants).join(", ")}`);
  return (await load()).contestant;
};

let opened: Opened | undefined;
let round: Round | undefined;

const measured = async ({ run }: Round): Promise<Answer> => {
  let megabytes = 0;
  const look = () => {
    megabytes = Math.max(megabytes, process.memoryUsage.rss() / 1e6);
  };
  globalThis.gc?.();
  const looking = setInterval(look, 20);
  const cpu = process.cpuUsage();
  const began = process.hrtime.bigint();
  const values = await run();
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const { system, user } = process.cpuUsage(cpu);
  clearInterval(looking);
  look();
  return { _tag: "ran", seconds, cpuSeconds: (user + system) / 1e6, megabytes, values };
};

const answerTo = async (question: Question): Promise<Answer> => {
  switch (question._tag) {
    case "open": {
      const { databaseUrl, redisUrl } = question;
      const contestant = await contestantOf(question.contestant);
      opened = await contestant.open({ databaseUrl, redisUrl });
      const { differs, name, settings, version } = contestant;
      const works = Object.keys(opened.works) as Array<keyof typeof opened.works>;
      return { _tag: "opened", name, version, settings, differs, works };
    }
    case "prepare": {
      const prepare = opened?.works[question.work];
      if (prepare === undefined) throw new Error(`cannot do ${question.work}`);
      round = await prepare(question.size);
      return { _tag: "done" };
    }
    case "run":
      if (round === undefined) throw new Error("nothing is prepared");
      return await measured(round);
    case "check":
      await round?.check();
      return { _tag: "done" };
    case "close":
      await opened?.close();
      return { _tag: "done" };
  }
};

const decode = S.decodeUnknownSync(Question);
process.on("message", (message) => {
  const question = decode(message);
  answerTo(question).then(
    (answer) =>
      process.send?.(answer, () => {
        if (question._tag === "close") process.exit(0);
      }),
    (error: unknown) => {
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
      process.send?.({ _tag: "failed", message } satisfies Answer);
    },
  );
});
// Who asked is gone.
process.on("disconnect", () => process.exit(0));
