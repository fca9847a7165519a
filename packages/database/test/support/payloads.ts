/** Texts that want to be SQL, and a world that shows whether one of them was. */
import * as SqlClient from "@effect/sql/SqlClient";
import * as Effect from "effect/Effect";

/** Each calls `injected()` if it gets out of a place where texts are written into SQL, or does what nobody would overlook. */
export const payloads: ReadonlyArray<string> = [
  "' || injected() || '",
  "'; SELECT injected(); --",
  "' OR injected() IS NOT NULL OR '1' = '1",
  "') OR injected() IS NOT NULL --",
  "'); SELECT injected(); --",
  "' UNION SELECT injected() --",
  "0 OR injected() IS NOT NULL",
  "1; SELECT injected(); --",
  '" || injected() || "',
  'id"; SELECT injected(); --',
  "id, injected()",
  "asc, injected()",
  "$$ || injected() || $$",
  "*/; SELECT injected(); /*",
  "%' OR injected() IS NOT NULL --",
  "\\'; SELECT injected(); --",
  "\\\\'; SELECT injected(); --",
  '{"a": "\' || injected() || \'"}',
  "2026-01-01'; SELECT injected(); --",
  "00000000-0000-0000-0000-000000000000'; SELECT injected(); --",
  "1:1:'; SELECT injected(); --",
  // What looks like an apostrophe, and what ends a text elsewhere.
  "ʼ; SELECT injected(); --",
  "＇; SELECT injected(); --",
  "\u0000'; SELECT injected(); --",
  "\ud800'; SELECT injected(); --",
  "\r\n'; SELECT injected(); --",
  "$1",
  "'; DROP TABLE bystander; --",
  "'; RESET ROLE; GRANT parametric_system TO parametric_tenant; --",
  "'; SELECT set_config('app.current_tenant', '00000000-0000-0000-0000-000000000000', false); --",
];

/** What they aim at; anybody may. */
export const target = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  // A sequence keeps its value when what called it is rolled back.
  yield* sql.unsafe(`
    CREATE SEQUENCE injections;
    CREATE FUNCTION injected() RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS $$ SELECT nextval('public.injections')::text $$;
    CREATE TABLE bystander (n int);
    INSERT INTO bystander VALUES (1);
    GRANT ALL ON bystander TO PUBLIC`);
});

/** What no text may change: relations, columns, functions, policies, roles and their members, and how often `injected()` was called. */
export const world = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient;
  const [row] = yield* sql.unsafe(`
    SELECT
      (SELECT is_called::text || last_value FROM injections) AS injections,
      (SELECT string_agg(format('%s %s %s %s', oid::regclass, relrowsecurity, relforcerowsecurity, relacl), E'\\n' ORDER BY oid)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace) AS relations,
      (SELECT string_agg(format('%s %s', attrelid, attname), E'\\n' ORDER BY attrelid, attnum)
        FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace) AS columns,
      (SELECT string_agg(format('%s %s %s', oid::regprocedure, proacl, md5(prosrc)), E'\\n' ORDER BY oid)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS functions,
      (SELECT string_agg(format('%s %s %s', polrelid, polname, pg_get_expr(polqual, polrelid)), E'\\n' ORDER BY oid) FROM pg_policy) AS policies,
      (SELECT string_agg(format('%s %s %s %s', rolname, rolsuper, rolbypassrls, rolcanlogin), E'\\n' ORDER BY oid)
        FROM pg_roles WHERE rolname NOT LIKE 'login_%') AS roles,
      (SELECT string_agg(format('%s %s', roleid::regrole, member::regrole), E'\\n' ORDER BY oid)
        FROM pg_auth_members WHERE member::regrole::text NOT LIKE 'login_%') AS members,
      (SELECT count(*)::int FROM bystander) AS bystander`);
  return { ...row };
});
