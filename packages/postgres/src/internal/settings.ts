/** What a started server is started with. */
import { randomBytes } from "node:crypto";

/** Room for many test files and runners at once; nothing of one that is thrown away has to survive a power cut. */
export const ephemeral: Readonly<Record<string, string>> = {
  max_connections: "200",
  fsync: "off",
  synchronous_commit: "off",
  full_page_writes: "off",
};

/** For data that is kept. */
export const durable: Readonly<Record<string, string>> = { max_connections: "200" };

/** 192 random bits, safe in a URL and in SQL. */
export const newPassword = (): string => randomBytes(24).toString("base64url");
