/**
 * The schema of a database, read from the catalogue of the server: everything in `public` and the two group roles, one entry an
 * object, so that it can be compared with the committed snapshot and a difference names the object.
 *
 * `UPDATE_SNAPSHOT=1 npx vitest run --config vitest.workspace.ts packages/database/test/migrations.test.ts` writes the snapshot
 * anew; its difference belongs into the commit of the migration that causes it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";
import * as S from "effect/Schema";

/** Object to definition, for example `index idx_job_dlq_type`. */
export type Schema = Readonly<Record<string, S.Schema.Type<typeof Definition>>>;
const Definition = S.Record({ key: S.String, value: S.Unknown });

/** The schema of this release, and that of the migrations up to 0002, whose every object is broken by a test. */
export type Level = "0002" | "latest";

const fileOf = (level: Level) =>
  new URL(level === "latest" ? "../schema.snapshot.json" : `../schema.${level}.snapshot.json`, import.meta.url);

const decodeSnapshot = S.decodeUnknownSync(S.parseJson(S.Record({ key: S.String, value: Definition })));
const decodeRows = S.decodeUnknown(
  S.Array(S.Struct({ key: S.String, value: S.parseJson(S.Record({ key: S.String, value: S.Unknown })) })),
);

/** The committed snapshot. */
export const committed = (level: Level): Schema => decodeSnapshot(readFileSync(fileOf(level), "utf8"));

export const isUpdate = process.env.UPDATE_SNAPSHOT === "1";

export const write = (level: Level, schema: Schema): void =>
  writeFileSync(fileOf(level), `${JSON.stringify(schema, null, 2)}\n`);

/** One line an object that is missing, new or changed; none when the two are equal. */
export const differences = (expected: Schema, actual: Schema): ReadonlyArray<string> =>
  [...new Set([...Object.keys(expected), ...Object.keys(actual)])].sort().flatMap((key) => {
    const [before, after] = [expected[key], actual[key]];
    if (before === undefined) return [`${key} is new: ${JSON.stringify(after)}`];
    if (after === undefined) return [`${key} is missing: ${JSON.stringify(before)}`];
    return [...new Set([...Object.keys(before), ...Object.keys(after)])].sort().flatMap((field) => {
      const [was, is] = [JSON.stringify(before[field]), JSON.stringify(after[field])];
      return was === is ? [] : [`${key}, ${field}: expected ${was ?? "nothing"}, is ${is ?? "nothing"}`];
    });
  });

/** The object that a line of {@link differences} is about. */
export const subject = (difference: string): string =>
  /^(.*?)(?: is new: | is missing: |, \w+: expected )/s.exec(difference)?.[1] ?? "";

// The owner is the login that migrated, whatever its name is.
const roleName = (oid: string) =>
  `CASE ${oid} WHEN 0 THEN 'PUBLIC' WHEN me.owner THEN 'owner' ELSE pg_get_userbyid(${oid})::text END`;

const grants = (acl: string, kind: string, owner: string) => `(
  SELECT jsonb_object_agg(grantee, privileges) FROM (
    SELECT ${roleName("a.grantee")} AS grantee,
      jsonb_agg(a.privilege_type || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
        ORDER BY a.privilege_type COLLATE "C") AS privileges
    FROM aclexplode(COALESCE(${acl}, acldefault('${kind}', ${owner}))) a GROUP BY 1) g)`;

const lines = (text: string) => `to_jsonb(string_to_array(${text}, E'\\n'))`;

const question = `
WITH me AS (SELECT datdba AS owner, (SELECT oid FROM pg_namespace WHERE nspname = 'public') AS space
  FROM pg_database WHERE datname = current_database()),
objects AS (
  SELECT 'schema public' AS key, jsonb_build_object('grants', ${grants("n.nspacl", "n", "n.nspowner")},
    'defaultPrivileges', (SELECT jsonb_agg(d.defaclobjtype::text || ' ' || d.defaclacl::text ORDER BY d.defaclobjtype::text) FROM pg_default_acl d)) AS value
  FROM me JOIN pg_namespace n ON n.oid = me.space
  UNION ALL
  SELECT 'role ' || r.rolname, jsonb_build_object('login', r.rolcanlogin, 'superuser', r.rolsuper, 'inherit', r.rolinherit,
    'createRole', r.rolcreaterole, 'createDatabase', r.rolcreatedb, 'replication', r.rolreplication, 'bypassRowSecurity', r.rolbypassrls,
    'settings', (SELECT to_jsonb(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0),
    'memberOf', (SELECT jsonb_agg(pg_get_userbyid(m.roleid)::text ORDER BY m.roleid) FROM pg_auth_members m WHERE m.member = r.oid))
  FROM pg_roles r WHERE r.rolname IN ('parametric_tenant', 'parametric_system')
  UNION ALL
  SELECT CASE c.relkind WHEN 'r' THEN 'table ' WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view '
      WHEN 'c' THEN 'composite type ' WHEN 'p' THEN 'partitioned table ' ELSE 'relation ' END || c.relname,
    jsonb_build_object('owner', ${roleName("c.relowner")},
      'grants', CASE WHEN c.relkind = 'S' THEN ${grants("c.relacl", "s", "c.relowner")} ELSE ${grants("c.relacl", "r", "c.relowner")} END,
      'comment', obj_description(c.oid, 'pg_class'), 'options', to_jsonb(c.reloptions),
      'persistence', CASE c.relpersistence WHEN 'p' THEN NULL ELSE c.relpersistence::text END,
      'replicaIdentity', CASE c.relreplident WHEN 'd' THEN NULL WHEN 'n' THEN NULL ELSE c.relreplident::text END,
      'inherits', (SELECT jsonb_agg(i.inhparent::regclass::text) FROM pg_inherits i WHERE i.inhrelid = c.oid),
      'definition', CASE WHEN c.relkind IN ('v', 'm') THEN ${lines("pg_get_viewdef(c.oid)")} END)
    || CASE WHEN c.relkind IN ('r', 'p') THEN jsonb_build_object('rowSecurity', c.relrowsecurity, 'rowSecurityForced', c.relforcerowsecurity)
      ELSE '{}' END
    || COALESCE((SELECT jsonb_build_object('type', format_type(s.seqtypid, NULL), 'start', s.seqstart, 'increment', s.seqincrement,
        'min', s.seqmin, 'max', s.seqmax, 'cache', s.seqcache, 'cycle', s.seqcycle,
        'ownedBy', (SELECT d.refobjid::regclass || '.' || a.attname FROM pg_depend d
          JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'))
      FROM pg_sequence s WHERE s.seqrelid = c.oid), '{}')
  FROM me JOIN pg_class c ON c.relnamespace = me.space WHERE c.relkind NOT IN ('i', 'I')
  UNION ALL
  SELECT 'column ' || c.relname || '.' || a.attname, jsonb_build_object('position', a.attnum, 'type', format_type(a.atttypid, a.atttypmod),
    'nullable', NOT a.attnotnull, 'default', pg_get_expr(d.adbin, d.adrelid), 'comment', col_description(c.oid, a.attnum),
    'identity', NULLIF(a.attidentity, ''), 'generated', NULLIF(a.attgenerated, ''),
    'collation', (SELECT l.collname FROM pg_collation l WHERE l.oid = a.attcollation AND l.collname <> 'default'),
    'grants', CASE WHEN a.attacl IS NOT NULL THEN ${grants("a.attacl", "c", "c.relowner")} END,
    'statistics', a.attstattarget, 'compression', NULLIF(a.attcompression, ''), 'options', to_jsonb(a.attoptions))
  FROM me JOIN pg_class c ON c.relnamespace = me.space AND c.relkind NOT IN ('i', 'I', 'S')
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  UNION ALL
  SELECT 'constraint ' || COALESCE(NULLIF(o.conrelid, 0)::regclass::text, o.contypid::regtype::text) || '.' || o.conname,
    jsonb_build_object('definition', pg_get_constraintdef(o.oid), 'validated', o.convalidated, 'enforced', o.conenforced,
      'deferrable', o.condeferrable, 'deferred', o.condeferred, 'comment', obj_description(o.oid, 'pg_constraint'),
      'disabledTriggers', (SELECT jsonb_agg(t.tgenabled) FROM pg_trigger t WHERE t.tgconstraint = o.oid AND t.tgenabled <> 'O'))
  FROM me JOIN pg_constraint o ON o.connamespace = me.space
  UNION ALL
  SELECT 'index ' || c.relname, jsonb_build_object('definition', pg_get_indexdef(c.oid), 'valid', i.indisvalid, 'ready', i.indisready,
    'clustered', i.indisclustered, 'comment', obj_description(c.oid, 'pg_class'))
  FROM me JOIN pg_class c ON c.relnamespace = me.space JOIN pg_index i ON i.indexrelid = c.oid
  UNION ALL
  SELECT 'trigger ' || c.relname || '.' || t.tgname, jsonb_build_object('definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled,
    'comment', obj_description(t.oid, 'pg_trigger'))
  FROM me JOIN pg_class c ON c.relnamespace = me.space JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT 'rule ' || c.relname || '.' || r.rulename, jsonb_build_object('definition', pg_get_ruledef(r.oid), 'enabled', r.ev_enabled)
  FROM me JOIN pg_class c ON c.relnamespace = me.space JOIN pg_rewrite r ON r.ev_class = c.oid WHERE r.rulename <> '_RETURN'
  UNION ALL
  SELECT 'policy ' || c.relname || '.' || p.polname, jsonb_build_object('permissive', p.polpermissive, 'command', p.polcmd,
    'roles', (SELECT jsonb_agg(${roleName("r")} ORDER BY r) FROM unnest(p.polroles) r),
    'using', pg_get_expr(p.polqual, p.polrelid), 'withCheck', pg_get_expr(p.polwithcheck, p.polrelid),
    'comment', obj_description(p.oid, 'pg_policy'))
  FROM me JOIN pg_class c ON c.relnamespace = me.space JOIN pg_policy p ON p.polrelid = c.oid
  UNION ALL
  SELECT 'function ' || f.proname || '(' || pg_get_function_identity_arguments(f.oid) || ')',
    jsonb_build_object('owner', ${roleName("f.proowner")}, 'grants', ${grants("f.proacl", "f", "f.proowner")},
      'arguments', pg_get_function_arguments(f.oid), 'returns', pg_get_function_result(f.oid),
      'language', (SELECT l.lanname FROM pg_language l WHERE l.oid = f.prolang),
      'volatility', CASE f.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
      'parallel', CASE f.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END,
      'securityDefiner', f.prosecdef, 'leakproof', f.proleakproof, 'strict', f.proisstrict, 'cost', f.procost,
      'settings', to_jsonb(f.proconfig), 'comment', obj_description(f.oid, 'pg_proc'),
      'definition', CASE WHEN f.prokind <> 'a' THEN ${lines("pg_get_functiondef(f.oid)")} END)
  FROM me JOIN pg_proc f ON f.pronamespace = me.space
  UNION ALL
  SELECT 'type ' || t.typname, jsonb_build_object('owner', ${roleName("t.typowner")}, 'grants', ${grants("t.typacl", "T", "t.typowner")},
    'kind', CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'r' THEN 'range' WHEN 'm' THEN 'multirange' ELSE t.typtype::text END,
    'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
    'base', CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) END, 'comment', obj_description(t.oid, 'pg_type'))
  FROM me JOIN pg_type t ON t.typnamespace = me.space
  WHERE t.typcategory <> 'A' AND (t.typtype <> 'c' OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  UNION ALL
  -- Whatever else lives in the schema: operators, collations, extended statistics and so on.
  SELECT 'other ' || i.type || ' ' || i.identity, '{}'
  FROM me JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = me.space
  CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
  WHERE d.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_constraint'::regclass)
)
SELECT key, jsonb_strip_nulls(value)::text AS value FROM objects ORDER BY key COLLATE "C"`;

/** The schema of the database of the client in the context. */
export const read: Effect.Effect<Schema, unknown, SqlClient.SqlClient> = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const rows = yield* Effect.flatMap(sql.unsafe(question), decodeRows);
  return Object.fromEntries(rows.map(({ key, value }) => [key, value]));
});
