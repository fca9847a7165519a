/** Every way to break the product that is tried, by where it is. */
import { clientList, inputList, migratorList, reposList, transactionList } from "./lists/database.js";
import { deadLetterList } from "./lists/dead-letters.js";
import { jobsList } from "./lists/jobs.js";
import { operatorList } from "./lists/operator.js";
import { eventsList, initialList, jobDlqList, laterList } from "./lists/schema.js";
import type { Mutation } from "./mutation.js";

export const list: ReadonlyArray<Mutation> = [
  ...initialList,
  ...jobDlqList,
  ...eventsList,
  ...laterList,
  ...reposList,
  ...transactionList,
  ...clientList,
  ...inputList,
  ...migratorList,
  ...deadLetterList,
  ...jobsList,
  ...operatorList,
];

/** What of the catalogue cannot be taken away alone, and why. */
export const excused: Readonly<Record<string, string>> = {
  "constraint apps.apps_pkey": "the foreign keys of jobs and job_dlq stand on it: without it they cannot be made",
};
