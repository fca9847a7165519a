import { randomBytes } from "node:crypto";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import pg from "pg";
const q = async (url: string, text: string) => { const c = new pg.Client(url); await c.connect(); try { await c.query(text); } finally { await c.end(); } };
const on = (url: string, db: string) => { const u = new URL(url); u.pathname = `/${db}`; return u.href; };
export const template = async (url: string, name: string, prepare: (url: string) => Promise<void>) => {
  await q(url, `DROP DATABASE IF EXISTS ${name}`); await q(url, `CREATE DATABASE ${name}`); await prepare(on(url, name));
};
export const clone = ({ url, template }: { url: Redacted.Redacted; template: string }) =>
  Effect.acquireRelease(Effect.promise(async () => { const name = `c_${randomBytes(6).toString("hex")}`; for (let i = 0; ; i++) { try { await q(Redacted.value(url), `CREATE DATABASE ${name} TEMPLATE ${template}`); break; } catch (e) { if (i > 50) throw e; await new Promise((r) => setTimeout(r, 100)); } } return Redacted.make(on(Redacted.value(url), name)); }),
    (u) => Effect.promise(() => q(Redacted.value(url), `DROP DATABASE ${new URL(Redacted.value(u)).pathname.slice(1)} WITH (FORCE)`)));
