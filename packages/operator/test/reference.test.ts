/** The reference of the command is what the command says of itself. `UPDATE_SNAPSHOT=1` writes it anew. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as CliConfig from "@effect/cli/CliConfig";
import * as Command from "@effect/cli/Command";
import * as CommandDescriptor from "@effect/cli/CommandDescriptor";
import * as HelpDoc from "@effect/cli/HelpDoc";
import { assert, describe, it } from "@effect/vitest";
import * as HashMap from "effect/HashMap";
import { root } from "../../database/test/support/process.js";
import { command } from "../src/command.js";

const page = join(root, "docs/dlq-reference.md");

/** What is said of an option by itself is worth a line; what is true of most of them is not. */
const commonplaces = [
  "A true or false value.",
  "A user-defined piece of text.",
  "An integer.",
  "A floating point number.",
  "This setting is optional.",
  "This option can be set from environment variables.",
  "This argument may be repeated zero or more times.",
];

/** What every command takes stands once, with `dlq` itself. */
const everywhere = /^(?:--completions|--log-level|\(-h, --help\)|--wizard|--version)/u;

const paragraphsOf = (help: HelpDoc.HelpDoc) =>
  HelpDoc.toAnsiText(help)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are made of them
    .replaceAll(/\u001b\[[\d;]*m/gu, "")
    .split(/\n\s*\n/u)
    .map((paragraph) => paragraph.trim().replaceAll(/\s+/gu, " "));

/** A command as a heading, what it does, and a table of what it takes. */
const sectionOf = (name: string, help: HelpDoc.HelpDoc) => {
  const rows: Array<{ readonly name: string; readonly says: Array<string> }> = [];
  const about: Array<string> = [];
  let part = "";
  for (const paragraph of paragraphsOf(help)) {
    if (/^[A-Z]+$/u.test(paragraph)) part = paragraph;
    else if (part === "DESCRIPTION") about.push(paragraph);
    else if (part === "OPTIONS" || part === "ARGUMENTS") {
      if (/^(?:--|\(-|<)/u.test(paragraph)) rows.push({ name: paragraph, says: [] });
      else if (!commonplaces.includes(paragraph) && !paragraph.startsWith("One of the following:"))
        rows.at(-1)?.says.push(paragraph);
    }
  }
  const own = rows.filter((row) => name === "dlq" || !everywhere.test(row.name));
  const cell = (text: string) => text.replaceAll("|", "\\|");
  return [
    `## ${name}\n`,
    `${about.join(" ")}\n`,
    ...(own.length === 0 ? [] : ["| option | what it means |\n| --- | --- |"]),
    ...own.map(({ name, says }) => `| \`${cell(name)}\` | ${cell(says.join(" "))} |`),
    ...(own.length === 0 ? [] : [""]),
  ].join("\n");
};

const made = () => {
  const commands = [...HashMap.entries(Command.getSubcommands(command))].sort(([a], [b]) => (a < b ? -1 : 1));
  return [
    "# Reference of the command dlq\n",
    "Made of the command itself, as `dlq <command> --help` says it. [dlq.md](dlq.md) is the guide.\n",
    sectionOf("dlq", Command.getHelp(command, CliConfig.defaultConfig)),
    ...commands.map(([name, one]) => sectionOf(`dlq ${name}`, CommandDescriptor.getHelp(one, CliConfig.defaultConfig))),
  ].join("\n");
};

describe("the reference of dlq", () => {
  it("has every command, with what it says of itself", () => {
    const text = made();
    if (process.env.UPDATE_SNAPSHOT === "1") writeFileSync(page, text);
    assert.strictEqual(readFileSync(page, "utf8"), text);
  });
});
