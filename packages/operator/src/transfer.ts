/** The commands that carry dead letters: export and import as NDJSON, and tail, which shows them as they come. */
import { createReadStream } from "node:fs";
import * as Args from "@effect/cli/Args";
import * as Command from "@effect/cli/Command";
import * as Options from "@effect/cli/Options";
import * as NodeSink from "@effect/platform-node/NodeSink";
import * as NodeStream from "@effect/platform-node/NodeStream";
import { beginning } from "@parametric-portal/database/job-dlq/changes";
import * as DateTime from "effect/DateTime";
import * as Effect from "effect/Effect";
import * as Either from "effect/Either";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import { Failed, NothingMatched, noLetterMatches } from "./failure.js";
import {
  actorOf,
  actorOption,
  filterOf,
  filterOptions,
  jsonOption,
  onTarget,
  stateOption,
  targetOptions,
} from "./options.js";
import { colour, counted, json, lastError, letterJson, line, note, say, time } from "./output.js";

export const exportTo = Command.make("export", { ...targetOptions, ...filterOptions, state: stateOption }, (given) =>
  onTarget(given, ({ scope }, db) =>
    Effect.gen(function* () {
      let written = 0;
      const pieces = db.jobDlq.exportTo({ ...filterOf(given), state: given.state }, { scope }).pipe(
        Stream.tap((text) =>
          Effect.sync(() => {
            written += text.split("\n").length - 1;
          }),
        ),
      );
      yield* Stream.run(
        pieces,
        NodeSink.fromWritable(
          () => process.stdout,
          (error) => new Failed({ reason: `Writing failed: ${String(error)}` }),
          { endOnDone: false },
        ),
      );
      yield* note(`${counted(written, "dead letter")} exported`);
      if (written === 0) return yield* noLetterMatches();
    }),
  ),
).pipe(Command.withDescription("Write dead letters to stdout, one JSON object a line; dlq import reads them"));

export const importFrom = Command.make(
  "import",
  {
    file: Args.text({ name: "file" }).pipe(Args.withDescription("An export; - is stdin")),
    ...targetOptions,
    actor: actorOption,
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ scope }, db) =>
      Effect.gen(function* () {
        const source = NodeStream.fromReadable(
          () => (given.file === "-" ? process.stdin : createReadStream(given.file)),
          (error) =>
            new Failed({
              reason: `${given.file} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
            }),
        );
        let last = { lines: 0, imported: 0, duplicates: 0, refused: 0 };
        yield* db.jobDlq
          .importFrom(source as Stream.Stream<Uint8Array, Failed>, { actor: actorOf(given.actor), scope })
          .pipe(
            Stream.runForEach(({ problems, ...counts }) => {
              last = counts;
              return Effect.forEach(problems, (problem) => note(problem.message), {
                discard: true,
              });
            }),
            Effect.onInterrupt(() =>
              note(`Stopped after line ${last.lines}. What was imported stands; the same call goes on.`),
            ),
          );
        const { duplicates, imported, lines, refused } = last;
        yield* say(
          given.json
            ? json({ lines, imported, duplicates, refused })
            : `${counted(lines, "line")}: ${imported} imported, ${duplicates} were there, ${refused} refused`,
        );
        if (refused > 0) return yield* new Failed({ reason: `${counted(refused, "line")} could not be imported.` });
        if (lines === 0) return yield* new NothingMatched({ what: `${given.file} has no line.` });
      }),
    ),
).pipe(Command.withDescription("Take in an export; each dead letter once, however often it is read"));

export const tail = Command.make(
  "tail",
  {
    ...targetOptions,
    fromStart: Options.boolean("from-start").pipe(
      Options.withDescription("Those that are there already as well, in the order of their arrival"),
    ),
    limit: Options.integer("limit").pipe(Options.optional, Options.withDescription("End after so many")),
    json: jsonOption,
  },
  (given) =>
    onTarget(given, ({ scope }, db) =>
      db.jobDlq.changes({ scope, ...(given.fromStart ? { after: beginning } : {}) }).pipe(
        (all) => Option.match(given.limit, { onNone: () => all, onSome: (limit) => Stream.take(all, limit) }),
        Stream.runForEach(({ letter }) =>
          Either.match(letter, {
            onLeft: (bad) => note(bad.message),
            onRight: (one) =>
              say(
                given.json
                  ? json(letterJson(one))
                  : `${colour.dim(time(DateTime.toEpochMillis(one.dlqAt)))}  ${one.id}  ${line(one.type)}  ${colour.red(line(one.errorReason))}  ${lastError(one)}`,
              ),
          }),
        ),
      ),
    ),
).pipe(Command.withDescription("Show dead letters as they come, until Ctrl-C"));
