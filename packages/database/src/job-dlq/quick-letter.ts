/**
 * A stored row as a dead letter, the quick way: what the model's schema makes of it, in a tenth of the time, for rows that are as
 * this package writes them. A page of a hundred is read many times a second, and most of its time was the schema's.
 */
import * as DateTime from "effect/DateTime";
import * as Option from "effect/Option";
import { JobDlq } from "../models.js";

// As Schema.UUID has it, but in lower case, as PostgreSQL writes it.
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const isUuid = (value: unknown): value is string => typeof value === "string" && uuid.test(value);
const isDate = (value: unknown): value is Date => value instanceof Date && !Number.isNaN(value.getTime());

const parsed = (text: unknown): unknown => {
  if (typeof text !== "string") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

type History = JobDlq["errorHistory"];

const historyOf = (text: unknown): History | undefined => {
  const entries = parsed(text);
  if (!Array.isArray(entries)) return undefined;
  const history: Array<History[number]> = [];
  for (const entry of entries) {
    if (typeof entry !== "object" || entry === null || Array.isArray(entry)) return undefined;
    const { error, timestamp } = entry;
    if (typeof error !== "string" || typeof timestamp !== "number") return undefined;
    history.push({ error, timestamp });
  }
  return history;
};

/** The dead letter; undefined where only the schema can tell what is wrong, or whether anything is. */
export const quickLetter = (row: object): JobDlq | undefined => {
  const {
    appId,
    attempts,
    dlqAt,
    errorHistory,
    errorReason,
    id,
    originalJobId,
    payload,
    replayedAt,
    requestId,
    type,
    userId,
  } = row as { readonly [K in keyof JobDlq]?: unknown };
  if (!isUuid(id) || !isUuid(originalJobId) || !isUuid(appId)) return undefined;
  if (typeof type !== "string" || typeof errorReason !== "string" || typeof attempts !== "number") return undefined;
  if (!isDate(dlqAt) || !(replayedAt === null || isDate(replayedAt))) return undefined;
  if (!(requestId === null || isUuid(requestId)) || !(userId === null || isUuid(userId))) return undefined;
  const history = historyOf(errorHistory);
  const content = parsed(payload);
  if (history === undefined || content === undefined) return undefined;
  return new JobDlq(
    {
      id,
      originalJobId,
      appId,
      type,
      payload: content,
      errorReason,
      attempts,
      errorHistory: history,
      dlqAt: DateTime.unsafeFromDate(dlqAt),
      replayedAt: Option.fromNullable(replayedAt),
      requestId: Option.fromNullable(requestId),
      userId: Option.fromNullable(userId),
    } as ConstructorParameters<typeof JobDlq>[0],
    { disableValidation: true },
  );
};
