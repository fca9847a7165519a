/** What a terminal does to a process. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/**
 * Whether this process is in the foreground of its terminal, whose Ctrl-C then reaches it and its children alike. Standard
 * input does not tell: it may be a file in the foreground and the terminal in the background.
 */
export const isForeground = (): boolean => {
  const [group, foreground] = processGroups();
  return group !== undefined && group === foreground;
};

const processGroups = (): ReadonlyArray<string | undefined> => {
  try {
    const stat = readFileSync("/proc/self/stat", "utf8");
    // pid (name) state ppid pgrp session tty_nr tpgid …; the name may contain blanks and parentheses.
    const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return [group, foreground];
  } catch {
    const { stdout } = spawnSync("ps", ["-o", "pgid=,tpgid=", "-p", String(process.pid)], { encoding: "utf8" });
    return (stdout ?? "").trim().split(/\s+/);
  }
};
