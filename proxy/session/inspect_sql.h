/* SPDX-License-Identifier: PostgreSQL */
/*
 * The text of the inspection.  For inspect.c only.
 *
 * Rules, which keep a hostile search_path and the session's settings out of it: every type, function
 * and relation is qualified, every operator written OPERATOR(pg_catalog.…); no IN, CASE x WHEN,
 * BETWEEN, LIKE, IS DISTINCT FROM, USING (they look operators up by name); no backslash, no date, no
 * float; ASCII only.  What is returned goes through hexadecimal.
 *
 * Functions instead of the views over them: a server process that has never been asked spends most of
 * the time on looking things up.
 */
#ifndef SESSION_INSPECT_SQL_H
#define SESSION_INSPECT_SQL_H

#define EQ " OPERATOR(pg_catalog.=) "
#define HEX(column)                                                                                \
	"pg_catalog.encode(pg_catalog.convert_to(s." column                                        \
	", pg_catalog.getdatabaseencoding()), 'hex')"
#define HEX_ROWS "SELECT s.k, " HEX("n") ", " HEX("v") ", " HEX("x") " FROM ("
#define TEXT "::pg_catalog.text"

/* By ALTER ROLE or DATABASE when the session began, though the catalog may have it no more. */
#define FROM_CATALOG                                                                               \
	" (g.source" EQ "ANY (ARRAY['global'" TEXT ", 'database', 'user', 'database user'])"       \
	" AND NOT g.name" EQ "'default_transaction_read_only')"

/* Settings of which it is not tried what RESET makes of them: it would be refused, or do something
 * else as well (the last ones: PostgreSQL 13 would report it at once). */
#define NOT_RESET                                                                                  \
	" (o.name" EQ "ANY (ARRAY['transaction_isolation'" TEXT ", 'transaction_read_only'"        \
	", 'transaction_deferrable', 'transaction_timeout', 'default_transaction_read_only'"       \
	", 'temp_buffers', 'session_replication_role'])"                                           \
	" OR NOT pg_catalog.strpos(o.name, '.')" EQ "0"                                            \
	" OR NOT (o.context" EQ "'user' OR pg_catalog.current_setting('is_superuser')" EQ "'on')"  \
	" OR (pg_catalog.current_setting('server_version_num')::pg_catalog.int4"                   \
	" OPERATOR(pg_catalog.<) 140000::pg_catalog.int4 AND pg_catalog.lower(o.name)" EQ          \
	"ANY (ARRAY['application_name'" TEXT ", 'client_encoding', 'datestyle', 'intervalstyle'"   \
	", 'timezone', 'standard_conforming_strings'])))"

/* $1: names of custom settings; $2: '' or 'neutral'; $3: '' or 'reset', for a server of which it is
 * not known what RESET leads to where the session has set what its login had given it.  The last
 * three parts RESET settings until the transaction ends: at the Sync behind the inspection; of
 * custom ones those that a library has defined, by which they have a default, only if the catalog
 * names them.  A database's default_transaction_read_only is left out: a move sets it itself while
 * it lasts (migrate/read_only.h). */
static const char inspect_sql[] =
    "WITH conf AS MATERIALIZED ("
    "SELECT pg_catalog.lower(pg_catalog.split_part(c.c, '=', 1)) AS name"
    " FROM pg_catalog.pg_db_role_setting r, pg_catalog.unnest(r.setconfig) c"
    " WHERE (r.setdatabase" EQ "0::pg_catalog.oid OR r.setdatabase" EQ
    "(SELECT d.oid FROM pg_catalog.pg_database d"
    " WHERE d.datname" EQ "pg_catalog.current_database()))"
    " AND NOT pg_catalog.lower(c.c)" EQ "ANY (ARRAY['default_transaction_read_only=off'" TEXT
    ", 'default_transaction_read_only=on'" TEXT "])"
    " AND (r.setrole" EQ "0::pg_catalog.oid OR r.setrole" EQ
    "pg_catalog.to_regrole(pg_catalog.quote_ident(session_user" TEXT "))::pg_catalog.oid)"
    "), own AS MATERIALIZED ("
    "SELECT g.name, g.setting, g.reset_val, g.context, g.source" EQ "ANY (ARRAY['client'" TEXT
    ", 'session'" TEXT "]) AS mine, g.source" EQ "'session' AS changed,"
    " (pg_catalog.lower(g.name)" EQ "ANY (ARRAY(SELECT conf.name FROM conf)) OR" FROM_CATALOG
    ") AS given"
    " FROM pg_catalog.pg_show_all_settings() g"
    " WHERE g.source" EQ "ANY (ARRAY['client'" TEXT ", 'session'" TEXT "]) OR" FROM_CATALOG
    " OR g.name" EQ "ANY (ARRAY['standard_conforming_strings'"
#define LATE_SETTING(name, value) ", '" name "'"
#include "session/late_settings.def"
#undef LATE_SETTING
    "])"
    " OR pg_catalog.lower(g.name)" EQ "ANY (ARRAY(SELECT conf.name FROM conf))"
    ") " HEX_ROWS "SELECT CASE"
    " WHEN o.name" EQ "'statement_timeout' AND $2" EQ "'neutral' THEN 'reset'" TEXT
    " WHEN o.mine AND o.context" EQ "ANY (ARRAY['user'" TEXT ", 'superuser'" TEXT
    "]) THEN 'guc'" TEXT " WHEN o.mine OR o.given THEN 'cat'" TEXT " ELSE 'base'" TEXT " END AS k,"
    " o.name AS n, o.setting AS v, CASE WHEN o.given THEN o.reset_val END AS x"
    " FROM own o WHERE pg_catalog.strpos(o.name, '.')" EQ "0"
    " AND NOT o.name" EQ "ANY (ARRAY['transaction_isolation'" TEXT
    ", 'transaction_read_only', 'transaction_deferrable'])"
    " UNION ALL "
    "SELECT 'custom', c.n, pg_catalog.current_setting(c.n, true),"
    " CASE WHEN pg_catalog.bool_and(c.given) THEN 'given' END FROM ("
    "SELECT pg_catalog.lower(pg_catalog.btrim(u.u)) AS n, false AS given"
    " FROM pg_catalog.unnest(pg_catalog.string_to_array($1, ',')) u"
    " WHERE NOT pg_catalog.btrim(u.u)" EQ "''"
    " UNION ALL SELECT pg_catalog.lower(o.name), NOT o.mine FROM own o"
    " WHERE NOT pg_catalog.strpos(o.name, '.')" EQ "0"
    " UNION ALL SELECT conf.name, true FROM conf"
    " WHERE NOT pg_catalog.strpos(conf.name, '.')" EQ "0"
    ") c GROUP BY c.n"
    " UNION ALL "
    "SELECT 'role', r.n, r.v, NULL FROM (VALUES"
    " ('role'" TEXT ", pg_catalog.current_setting('role')),"
    " ('session_authorization', session_user" TEXT ")) r (n, v) WHERE NOT $2" EQ "'neutral'"
    " UNION ALL "
    "SELECT CASE WHEN p.from_sql THEN 'sql' ELSE 'proto' END, p.name, p.statement,"
    " p.parameter_types::pg_catalog.oid[]" TEXT " FROM pg_catalog.pg_prepared_statement() p"
    " WHERE NOT p.name" EQ "ANY (ARRAY['" SESSION_OWN_PREFIX "inspect'" TEXT
    ", '" SESSION_OWN_PREFIX "neutral', '" SESSION_OWN_PREFIX "limit', '" SESSION_OWN_PREFIX
    "run', '" SESSION_OWN_PREFIX "set'])"
    " UNION ALL "
    "SELECT 'listen', l.l, NULL, NULL FROM pg_catalog.pg_listening_channels() l (l)"
    " UNION ALL "
    "SELECT 'lock', pg_catalog.concat_ws(' ', l.classid, l.objid, l.objsubid, l.mode),"
    " NULL, NULL FROM pg_catalog.pg_lock_status() l WHERE l.locktype" EQ "'advisory'"
    " AND l.pid" EQ "pg_catalog.pg_backend_pid()"
    " UNION ALL "
    "SELECT 'cursor', c.name, c.statement,"
    " pg_catalog.concat(c.is_holdable, c.is_binary, c.is_scrollable)"
    " FROM pg_catalog.pg_cursor() c WHERE NOT c.name" EQ "''" /* our own portal */
    " UNION ALL "
    "SELECT 'temp', COALESCE(r.relname" TEXT ", (SELECT pg_catalog.concat(k.relname, ' ', d.objid)"
    " FROM pg_catalog.pg_class k WHERE k.oid" EQ "d.classid)), r.relkind" TEXT ","
    " CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_class h WHERE h.relname" EQ "r.relname"
    " AND NOT h.relnamespace" EQ "r.relnamespace"
    " AND NOT pg_catalog.pg_is_other_temp_schema(h.relnamespace)) THEN 'hides' END"
    " FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_class r"
    " ON r.oid" EQ "d.objid AND d.classid" EQ "1259::pg_catalog.oid"
    " WHERE d.refclassid" EQ "2615::pg_catalog.oid"
    " AND d.refobjid" EQ "pg_catalog.pg_my_temp_schema()"
    " UNION ALL "
    "SELECT 'tschema', 'pg_temp', NULL, CASE"
    " WHEN pg_catalog.has_database_privilege(session_user, d.d, 'TEMP') THEN 'user'"
    " WHEN pg_catalog.has_database_privilege(current_user, d.d, 'TEMP') THEN 'role' END"
    " FROM (SELECT pg_catalog.current_database()" TEXT ") d (d)"
    " WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid"
    " UNION ALL "
    "SELECT 'slot', g.slot_name" TEXT ", NULL, NULL"
    " FROM pg_catalog.pg_get_replication_slots() g"
    " WHERE g.temporary AND g.active_pid" EQ "pg_catalog.pg_backend_pid()"
    " UNION ALL "
    "SELECT 'info', i.n, i.v, NULL FROM (VALUES"
    " ('server_encoding'" TEXT ", pg_catalog.getdatabaseencoding()" TEXT "),"
    " ('in_recovery', pg_catalog.pg_is_in_recovery()" TEXT "),"
    " ('hidden', (NOT pg_catalog.current_setting('role')" EQ "'none'"
    " AND pg_catalog.pg_has_role(session_user, 'pg_read_all_settings', 'USAGE')"
    " AND NOT pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'USAGE'))" TEXT
    "), ('sees_all', pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')" TEXT
    ")) i (n, v)"
    " UNION ALL "
    "SELECT 'info', 'temp_types', pg_catalog.concat(',', pg_catalog.string_agg("
    "pg_catalog.concat(t.oid, ',', t.typarray), ','), ','), NULL"
    " FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class r"
    " ON d.classid" EQ "1259::pg_catalog.oid AND r.oid" EQ "d.objid"
    " JOIN pg_catalog.pg_type t ON t.oid" EQ "r.reltype"
    " WHERE d.refclassid" EQ "2615::pg_catalog.oid"
    " AND d.refobjid" EQ "pg_catalog.pg_my_temp_schema()"
    " UNION ALL "
    "SELECT 'creset', c.n, CASE WHEN pg_catalog.current_setting(c.n, true) IS NOT NULL"
    " THEN pg_catalog.set_config(c.n, NULL, true) END, NULL FROM ("
    "SELECT pg_catalog.lower(pg_catalog.btrim(u.u)) AS n"
    " FROM pg_catalog.unnest(pg_catalog.string_to_array($1, ',')) u"
    " WHERE NOT pg_catalog.btrim(u.u)" EQ "''"
    " UNION ALL SELECT pg_catalog.lower(o.name) FROM own o"
    " WHERE NOT pg_catalog.strpos(o.name, '.')" EQ "0"
    " UNION ALL SELECT conf.name FROM conf"
    " WHERE NOT pg_catalog.strpos(conf.name, '.')" EQ "0"
    ") c WHERE pg_catalog.current_setting(c.n, true) IS NOT NULL AND NOT c.n" EQ
    "ANY (ARRAY(SELECT pg_catalog.lower(g.name) FROM pg_catalog.pg_show_all_settings() g"
    " WHERE NOT pg_catalog.strpos(g.name, '.')" EQ "0 AND NOT (g.context" EQ "'user'"
    " AND pg_catalog.lower(g.name)" EQ "ANY (ARRAY(SELECT conf.name FROM conf)))))"
    " GROUP BY c.n"
    " UNION ALL "
    "SELECT 'to', pg_catalog.split_part(t.t, '=', 1), NULL,"
    " pg_catalog.substr(t.t, pg_catalog.strpos(t.t, '=') OPERATOR(pg_catalog.+) 1)"
    " FROM pg_catalog.unnest((SELECT (SELECT pg_catalog.array_agg("
    "pg_catalog.concat(g.name, '=', g.reset_val)) FROM pg_catalog.pg_show_all_settings() g"
    " WHERE g.name" EQ "ANY (r.names) AND" FROM_CATALOG ") FROM ("
    "SELECT pg_catalog.array_agg(o.name) AS names,"
    " pg_catalog.array_agg(pg_catalog.set_config(o.name, NULL, true)) AS was FROM own o"
    " WHERE $3" EQ "'reset' AND o.changed AND NOT o.given AND NOT" NOT_RESET
    ") r WHERE r.names IS NOT NULL AND r.was IS NOT NULL)) t (t)"
    " UNION ALL "
    /* … but the role: statements that are asked about behind it are under that. */
    "SELECT 'creset', 'role', r.now, CASE WHEN pg_catalog.set_config('role', r.was, true) IS NULL"
    " THEN '' END FROM (SELECT r.was, pg_catalog.set_config('role', NULL, true) AS now"
    " FROM (SELECT pg_catalog.current_setting('role') AS was OFFSET 0) r OFFSET 0) r"
    ") s";

/* Columns are computed from left to right: what the setting was before it is set.  Both settings are
 * as before when the transaction ends: at the Sync behind the inspection. */
static const char neutral_sql[] =
    HEX_ROWS
    "SELECT (SELECT CASE WHEN g.source" EQ "ANY (ARRAY['client'" TEXT ", 'session'" TEXT
    "]) THEN 'guc'" TEXT " WHEN g.source" EQ "ANY (ARRAY['global'" TEXT ", 'database'" TEXT
    ", 'user'" TEXT ", 'database user'" TEXT "]) THEN 'cat'" TEXT " ELSE 'base'" TEXT " END"
    " FROM pg_catalog.pg_show_all_settings() g WHERE g.name" EQ "'statement_timeout') AS k,"
    " 'statement_timeout'" TEXT " AS n,"
    " pg_catalog.current_setting('statement_timeout') AS v,"
    " pg_catalog.left(pg_catalog.set_config('statement_timeout', '0', true), 0) AS x"
    " UNION ALL SELECT 'role', 'role', pg_catalog.current_setting('role'),"
    " pg_catalog.left(pg_catalog.set_config('role', 'none', true), 0)"
    " UNION ALL SELECT 'role', 'session_authorization', session_user" TEXT ", NULL"
    ") s";

/* Before each of the two, of a server that has it and a session that has set it (a WHERE of this
 * kind is computed first): like those above.  '' in the last column: its server has, not the
 * session. */
static const char limit_sql[] =
    HEX_ROWS
    "SELECT 'reset'" TEXT " AS k, g.name AS n, g.setting AS v,"
    " pg_catalog.concat(CASE WHEN g.source" EQ "ANY (ARRAY['client'" TEXT ", 'session'" TEXT
    "]) THEN 'session' END,"
    " pg_catalog.left(pg_catalog.set_config('transaction_timeout', '0', true), 0)) AS x"
    " FROM pg_catalog.pg_show_all_settings() g WHERE g.name" EQ "'transaction_timeout'"
    " AND NOT pg_catalog.current_setting('transaction_timeout', true)" EQ "'0'"
    ") s";

#endif
