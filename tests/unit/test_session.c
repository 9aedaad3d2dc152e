/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a session is: names in texts, PREPARE among other statements, rows of an answer, digests,
 * classes, and the messages of a replay.
 */
#include "session/classify.h"
#include "session/copies.h"
#include "session/replay.h"
#include "session/shapes.h"
#include "session/sql_lex.h"
#include "session/sql_set.h"
#include "session/stmts.h"
#include "session/temp_table.h"
#include "wire/build.h"
#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four standard headers above first. */
#include <cmocka.h>

/* ---- texts ---- */

static void test_prepare_alone(void **state)
{
	static const char *const good[] = {
	    "PREPARE p AS SELECT 1",
	    "prepare P as select ';' , $$;$$, $t$ $$ ; $t$, \"a;b\" -- ;\n /* ; /* ; */ */ ;;  ",
	    "/* first */ -- second\n PREPARE\t\"p\"(int) AS SELECT E'\\';' , U&'\\0041', $1",
	    "PREPARE p AS SELECT a$b$c FROM t",
	};
	static const char *const several[] = {
	    "SELECT 1; PREPARE p AS SELECT 1",
	    "PREPARE p AS SELECT 1; SELECT 2",
	    "PREPARE p AS SELECT 1; PREPARE p2 AS SELECT 2",
	    "PREPARE q AS SELECT 1",
	    "PREPARE \"P\" AS SELECT 1",
	    "PREPARE p AS SELECT 'open",
	    "PREPARE p AS SELECT $a$ open $b$",
	    "PREPARE p AS SELECT /* open",
	    "",
	    ";",
	    "PREPARED p AS SELECT 1",
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_LEN(good); i++)
		assert_int_not_equal(sql_judge_prepare(good[i], "p"), SQL_PREPARE_SEVERAL);
	for (i = 0; i < ARRAY_LEN(several); i++)
		assert_int_equal(sql_judge_prepare(several[i], "p"), SQL_PREPARE_SEVERAL);
	assert_int_equal(sql_judge_prepare(good[0], "p"), SQL_PREPARE_ALONE);
	assert_int_equal(sql_judge_prepare("PREPARE p AS SELECT E'\\\\'", "p"), SQL_PREPARE_ALONE);
	assert_int_equal(sql_judge_prepare("PREPARE p AS SELECT '\\'", "p"), SQL_PREPARE_STRINGS);
	/* With the strings of old it would go on: nothing of it is believed. */
	assert_int_equal(sql_judge_prepare("PREPARE p AS SELECT '\\'; DROP TABLE t --'", "p"),
	                 SQL_PREPARE_SEVERAL);
	assert_true(sql_has_backslash("SELECT 'a\\b'"));
	assert_false(sql_has_backslash("SELECT E'a\\b', $$\\$$, \"\\\" -- \\"));
	assert_int_equal(sql_constants("SELECT 12345, '12', 'a-b', 'x', a - 1 -- '2026-01-01'"), 0);
	assert_int_equal(sql_constants("SELECT '1/2'"), SQL_HAS_TIME);
	assert_int_equal(sql_constants("SELECT $$-1 day$$"), SQL_HAS_TIME);
	assert_int_equal(sql_constants("SELECT a = NULL"), SQL_HAS_NULL);
	assert_int_equal(sql_constants("SELECT '{nUll}'"), SQL_HAS_NULL_STRING);
	assert_int_equal(sql_constants("SELECT 'x'::xml"), SQL_HAS_XML);
	assert_int_equal(sql_constants("SELECT '<a/>', \"money\""), SQL_HAS_XML);
	assert_int_equal(sql_constants("SELECT Money '1'"), SQL_HAS_MONEY);
	assert_int_equal(sql_constants("SELECT 'x"), 31);
}

static void collect(void *arg, const char *name)
{
	if (strchr(name, '.') != NULL)
		sbuf_printf(arg, "%s ", name);
}

static void assert_custom(const char *text, const char *expected, bool readable)
{
	struct sbuf names;

	sbuf_init(&names, 4096);
	assert_int_equal(sql_find_custom(text, strlen(text), collect, &names), readable);
	assert_string_equal(sbuf_text(&names), expected);
	sbuf_free(&names);
}

static void test_prepare_body(void **state)
{
	(void)state;
	assert_string_equal(sql_prepare_body("PREPARE q AS SELECT 1"), " SELECT 1");
	assert_string_equal(
	    sql_prepare_body("prepare \"as\" (numeric(9, 2), \"as\") as /* x */ SELECT 1 AS a"),
	    " /* x */ SELECT 1 AS a");
	assert_null(sql_prepare_body("PREPARE q"));
	assert_null(sql_prepare_body(""));
	assert_null(sql_prepare_body("PREPARE q (as"));
}

static void assert_settings(const char *text, const char *set, const char *reset)
{
	struct sql_settings settings;

	assert_true(sql_read_settings(text, &settings));
	assert_int_equal(settings.set, param_bit(set));
	assert_int_equal(settings.reset, param_bit(reset));
}

static void test_settings(void **state)
{
	static const char *const untold[] = {
	    "",
	    "SELECT 1",
	    "UPDATE t SET TimeZone = 1",
	    "CREATE FUNCTION f() RETURNS int SET TimeZone = 'UTC' RETURN 1",
	    "SET TimeZone = 'UTC",
	    "SET TimeZone = 'UTC' /* ",
	    "SET U&\"TimeZone\" = 'UTC'",
	    "SET TimeZone = 'UTC'; COMMIT; SET DateStyle = 'ISO'",
	    "SELECT $$; SET TimeZone = 'UTC'; $$",
	    "EXPLAIN (ANALYZE; SET TimeZone = 'UTC'; x)",
	};
	struct sql_settings settings;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(untold); i++)
		assert_false(sql_read_settings(untold[i], &settings));
	assert_settings("SET timezone TO 'UTC' -- LOCAL", "TimeZone", "");
	assert_settings(";; set Session \"TimeZone\" = local;", "TimeZone", "");
	assert_settings("SET SESSION TIME ZONE 'UTC'", "TimeZone", "");
	assert_settings("SET TIME ZONE INTERVAL '1' HOUR TO MINUTE", "TimeZone", "");
	assert_settings("SET TIME ZONE LOCAL", "", "TimeZone");
	assert_settings("SET TIME ZONE DEFAULT", "", "TimeZone");
	assert_settings("SET TimeZone = DEFAULT", "", "TimeZone");
	assert_settings("RESET TimeZone", "", "TimeZone");
	assert_settings("RESET TIME ZONE", "", "TimeZone");
	assert_settings("SET NAMES 'UTF8'", "client_encoding", "");
	assert_settings("SET NAMES", "", "client_encoding");
	assert_settings("SET NAMES DEFAULT", "", "client_encoding");
	assert_settings("SET SCHEMA 's'", "search_path", "");
	assert_settings(
	    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
	    PARAM_READ_ONLY, "");
	assert_settings("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
	                "", "");
	assert_settings("SET /* x */ LOCAL TimeZone = 'UTC'", "", "");
	assert_settings("SET my.TimeZone = 'UTC'", "", "");
	assert_settings("RESET my.TimeZone", "", "");
	assert_settings("SET TRANSACTION READ ONLY", "", "");
	assert_settings("SET ROLE TimeZone", "", "");
	assert_settings("SET SESSION AUTHORIZATION TimeZone", "", "");
	assert_settings("SET application_name = 'TimeZone'; SET work_mem = 1", "application_name",
	                "");
	assert_settings("SET TimeZone = 'UTC'; RESET TimeZone", "", "TimeZone");
	assert_settings("RESET TimeZone; SET TimeZone = 'UTC'", "TimeZone", "");
	assert_settings("BEGIN; SET TimeZone = 'UTC'; COMMIT; SELECT 'SET DateStyle = 1'",
	                "TimeZone", "");
	assert_settings(
	    "SET work_mem = 1; UPDATE t SET DateStyle = 1; ALTER ROLE r SET DateStyle = 1", "", "");
	assert_true(sql_read_settings("RESET ALL", &settings));
	assert_int_equal(settings.reset, PARAM_BITS_ALL);
}

static void test_set_config(void **state)
{
	static const char *const told[] = {
	    "SELECT set_config('TimeZone', 'UTC', false)",
	    "select pg_catalog . set_config ( 'timezone' , coalesce($1, 'a, b') , FALSE ) ; -- x",
	};
	static const char *const untold[] = {
	    "",
	    "SELECT set_config('TimeZone', 'UTC', true)",
	    "SELECT set_config('TimeZone', 'UTC', $1)",
	    "SELECT set_config($1, 'UTC', false)",
	    "SELECT set_config('Time''Zone', 'UTC', false)",
	    "SELECT set_config(E'TimeZone', 'UTC', false)",
	    "SELECT set_config('TimeZone', 'UTC', false), f()",
	    "SELECT set_config('TimeZone', 'UTC', false) FROM f()",
	    "SELECT set_config('TimeZone', 'UTC', false); SELECT f()",
	    "SELECT set_config('TimeZone', f(",
	    "SELECT my.set_config('TimeZone', 'UTC', false)",
	    "SELECT pg_catalog set_config('TimeZone', 'UTC', false)",
	    "SELECT set_config('work_mem', '1MB', false)",
	    "SELECT set_config('TimeZone', 'UTC'",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(told); i++)
		assert_int_equal(sql_read_set_config(told[i]), param_bit("TimeZone"));
	for (size_t i = 0; i < ARRAY_LEN(untold); i++)
		assert_int_equal(sql_read_set_config(untold[i]), 0);
}

static void test_custom_names(void **state)
{
	(void)state;
	assert_custom("SET a.b = 1", "a.b ", true);
	assert_custom("set session A . \"B\" to 'x'; SET LOCAL c.d.e = 1", "a.b c.d.e ", true);
	assert_custom("RESET a.b; RESET ALL", "a.b ", true);
	assert_custom("SET work_mem = 1; SET TIME ZONE 'x'; SET ROLE r", "", true);
	assert_custom("UPDATE t SET x = 1 WHERE s = 'SET q.r = 1'", "", true);
	assert_custom("SELECT set_config('a.b', 'c', false), Set_Config('C.d','', true)",
	              "a.b c.d ", true);
	assert_custom("SELECT pg_catalog.\"set_config\"('a.b'::text, 'x', false)", "a.b ", true);
	assert_custom("SELECT set_config('work_mem', '1', false)", "", true);
	assert_custom("DO $$ BEGIN SET a.b = 1; EXECUTE $x$ SET c.d = 1 $x$; END $$", "a.b c.d ",
	              true);
	assert_custom("DO $$ BEGIN EXECUTE 'SET a.b = ''x'''; "
	              "EXECUTE 'SELECT set_config(''c.d'', '''', true)'; "
	              "RAISE NOTICE 'set % to %', a, b; UPDATE t SET x = 'set'; END $$",
	              "a.b c.d ", true);
	assert_custom("DO 'BEGIN SET a.b = 1; EXECUTE ''SET c.d = 1''; END'", "a.b c.d ", true);
	assert_custom("DO $$ BEGIN EXECUTE format('SET ROLE %I', x); "
	              "EXECUTE format('SET work_mem = %L', x); "
	              "EXECUTE format('UPDATE %I SET %I = 1', x, y); "
	              "EXECUTE 'SET search_path TO ' || x; END $$",
	              "", true);
	assert_custom("DO $$ BEGIN EXECUTE format('SET %I.dyn = 1', 'app'); END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE format('SET a.%I = 1', 'app'); END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE format('SET LOCAL a%s = 1', '.b'); END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE 'SET ' || x; END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE 'SET a.' || x; END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE 'SET a' || x; END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE 'RESET ' || x; END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE $x$SET $x$ || x; END $$", "", false);
	assert_custom("DO $$ BEGIN EXECUTE 'SELECT set_config(' || x; END $$", "", false);
	assert_custom("SELECT set_config($1, $2, false)", "", false);
	assert_custom("SELECT set_config('a' || x, '', false)", "", false);
	assert_custom("SELECT set_config(E'a.b', '', false)", "", false);
	assert_custom("SELECT set_config", "", true);
	assert_custom("SET \"a b\".c = 1", "", false);
	assert_custom("SET \xc3\xbc.c = 1", "", false);
	assert_custom("SET", "", true);
	assert_custom("SET a.", "", true);
}

static void see(struct session_facts **facts, const char *text)
{
	session_facts_see_text(facts, text, strlen(text), true);
}

static void test_facts(void **state)
{
	struct session_facts *facts = NULL;
	char name[32];
	int i;

	(void)state;
	see(&facts, "SELECT a_b, c FROM t WHERE x = ';'");
	see(&facts, "BEGIN;");
	see(&facts, "se");
	see(&facts, "");
	see(&facts, "SET work_mem = 1");
	assert_null(facts);
	see(&facts, " /* x */ SET a.b = 1");
	see(&facts, "BEGIN; SET A.B = 2; COMMIT");
	assert_int_equal(session_facts_names(facts), 1);
	assert_string_equal(session_facts_name(facts, 0), "a.b");
	assert_false(session_facts_unreadable(facts));
	/* A text of which the end was not seen says nothing, unless it sets something. */
	session_facts_see_text(&facts, "INSERT", 6, false);
	assert_false(session_facts_unreadable(facts));
	session_facts_see_set(facts);
	assert_true(session_facts_unreadable(facts));
	session_facts_free(facts);
	facts = NULL;
	for (i = 0; i <= SESSION_FACTS_NAMES_MAX; i++) {
		assert_false(session_facts_unreadable(facts));
		(void)snprintf(name, sizeof(name), "SET n.n%d = 1", i);
		see(&facts, name);
	}
	assert_true(session_facts_unreadable(facts));
	session_facts_see_parameter(&facts, "DateStyle", false);
	assert_false(session_facts_strings_changed(facts));
	assert_false(session_facts_times_changed(facts));
	session_facts_see_parameter(&facts, "application_name", true);
	assert_false(session_facts_times_changed(facts));
	session_facts_see_parameter(&facts, "IntervalStyle", true);
	assert_true(session_facts_times_changed(facts));
	session_facts_see_no_statements(facts);
	assert_false(session_facts_times_changed(facts));
	session_facts_see_parameter(&facts, "standard_conforming_strings", false);
	assert_true(session_facts_strings_changed(facts));
	assert_false(session_facts_encoding_changed(facts));
	session_facts_free(facts);
	facts = NULL;
	see(&facts, "SET TIME ZONE 'x'");
	assert_false(session_facts_see_parse(facts, session_facts_set_before(facts, false), true));
	see(&facts, "RESET client_encoding");
	assert_false(session_facts_times_changed(facts));
	assert_true(session_facts_see_parse(facts, session_facts_set_before(facts, true), false));
	assert_false(session_facts_times_changed(facts));
	assert_true(session_facts_encoding_changed(facts));
	assert_false(session_facts_has_set(facts, "xmloption"));
	see(&facts, "SET XML OPTION DOCUMENT");
	see(&facts, "SELECT 1");
	assert_true(session_facts_has_set(facts, "xmloption"));
	session_facts_free(facts);
	assert_false(session_facts_unreadable(NULL));
}

/* ---- answers ---- */

static void add_hex(struct sbuf *out, const char *text)
{
	if (text == NULL) {
		sbuf_add_be32(out, UINT32_MAX);
		return;
	}
	sbuf_add_be32(out, (uint32_t)strlen(text) * 2);
	for (; *text != '\0'; text++)
		sbuf_printf(out, "%02x", (unsigned char)*text);
}

static bool put(struct session_state *state, const char *kind, const char *name, const char *value,
                const char *extra)
{
	struct sbuf body;
	bool good;

	sbuf_init(&body, 65536);
	sbuf_add_be16(&body, 4);
	sbuf_add_be32(&body, (uint32_t)strlen(kind));
	sbuf_add_str(&body, kind);
	add_hex(&body, name);
	add_hex(&body, value);
	add_hex(&body, extra);
	good = session_state_row(state, sbuf_text(&body), body.len);
	sbuf_free(&body);
	return good;
}

static struct session_state *begin(void)
{
	struct session_state *state = session_state_new();

	assert_non_null(state);
	assert_true(put(state, "info", "server_encoding", "UTF8", NULL));
	assert_true(put(state, "role", "role", "none", NULL));
	return state;
}

static void assert_class(const struct session_state *state, const struct session_facts *facts,
                         const struct session_abilities *abilities, enum session_class class,
                         const char *what, const char *why)
{
	struct session_verdict verdict;

	session_verdict_init(&verdict);
	session_classify(state, facts, NULL, NULL, abilities, &verdict);
	assert_string_equal(sbuf_text(&verdict.what), what);
	assert_string_equal(sbuf_text(&verdict.why), why);
	assert_int_equal(verdict.class, class);
	session_verdict_free(&verdict);
}

static void test_digest_is_canonical(void **state)
{
	struct session_state *a = begin();
	struct session_state *b = begin();
	struct sbuf why;
	char one[65];
	char two[65];

	(void)state;
	sbuf_init(&why, 1024);
	assert_true(put(a, "guc", "work_mem", "1", "4"));
	assert_true(put(a, "listen", "x", NULL, NULL));
	assert_true(put(a, "custom", "a.b", NULL, NULL));
	assert_true(put(a, "base", "lock_timeout", "0", "0"));
	assert_true(put(b, "listen", "x", NULL, NULL));
	assert_true(put(b, "base", "lock_timeout", "7", "7"));
	assert_true(put(b, "info", "pid", "1", NULL));
	assert_true(put(b, "cat", "work_mem", "1", "4"));
	assert_true(session_state_finish(a));
	assert_true(session_state_finish(b));
	session_state_digest(a, one);
	session_state_digest(b, two);
	assert_int_equal(strlen(one), 64);
	assert_string_equal(one, two);
	assert_true(session_state_same(a, b, REPLAY_AFTER_PROMOTION, &why));
	session_state_free(b);
	b = begin();
	assert_true(put(b, "guc", "work_mem", "1", "4"));
	assert_true(put(b, "listen", "y", NULL, NULL));
	assert_true(session_state_finish(b));
	session_state_digest(b, two);
	assert_string_not_equal(one, two);
	assert_true(session_state_same(a, b, REPLAY_ON_STANDBY, &why));
	assert_int_equal(why.len, 0);
	assert_false(session_state_same(a, b, REPLAY_AFTER_PROMOTION, &why));
	assert_string_equal(sbuf_text(&why), "listen \"x\" is on the old server only");
	sbuf_free(&why);
	session_state_free(a);
	session_state_free(b);
}

static void test_bad_answers(void **state)
{
	struct session_state *s = session_state_new();

	(void)state;
	assert_false(session_state_finish(s)); /* nothing came */
	session_state_free(s);
	s = begin();
	assert_false(put(s, "what", "a", NULL, NULL));
	assert_false(session_state_finish(s));
	session_state_free(s);
	s = begin();
	assert_false(put(s, "guc", NULL, NULL, NULL));
	assert_false(session_state_row(s, "\0\4\0\0\0\3guc\0\0\0\1a", 14));
	session_state_free(s);
	s = session_state_new();
	assert_false(session_state_row(s, "\0\2\377\377\377\377\377\377\377\377", 10));
	session_state_free(s);
}

/* What statements return: known one after the other; one that is refused is not set up anywhere. */
static void test_shapes(void **state)
{
	static const char columns[] = "\0\1a\0\0\0\0\0\0\0\0\0\0\27\0\4\377\377\377\377\0";
	static const char others[] = "\0\1a\0\0\0\0\0\0\0\0\0\0\24\0\4\377\377\377\377\0";
	const struct session_abilities abilities = {.locks = true};
	struct session_state *a = begin();
	struct session_state *b = begin();
	struct sbuf why;
	size_t at = 0;

	(void)state;
	sbuf_init(&why, 1024);
	assert_true(put(a, "proto", "one", "SELECT 1", "{}"));
	assert_true(put(a, "proto", "three", "SELECT 3", "{}"));
	assert_true(put(a, "proto", "two", "BEGIN", "{23}"));
	assert_true(put(a, "proto", "\303\244", "SELECT 4", "{}"));
	assert_true(put(a, "sql", "zero", "PREPARE zero AS SELECT 0", "{}"));
	assert_true(session_state_finish(a));
	assert_true(shapes_wanted(a));
	assert_true(shapes_take(a, BE_ROW_DESCRIPTION, columns, sizeof(columns), ""));
	assert_true(shapes_take(a, BE_ERROR_RESPONSE, NULL, 0, "0A000"));
	assert_true(shapes_take(a, BE_NO_DATA, NULL, 0, ""));
	assert_true(shapes_take(a, BE_ROW_DESCRIPTION, columns, sizeof(columns), ""));
	assert_true(shapes_wanted(a));
	assert_true(shapes_take(a, BE_ERROR_RESPONSE, NULL, 0, "0A000"));
	assert_false(shapes_wanted(a));
	assert_false(shapes_take(a, BE_NO_DATA, NULL, 0, ""));
	assert_class(a, NULL, &abilities, SESSION_PINNED, "5 prepared statements",
	             "prepared statement \"zero\", made by PREPARE, whose result type has changed");
	session_state_remove(a, session_state_find(a, SESSION_CHANGED, "zero"));
	assert_class(a, NULL, &abilities, SESSION_MOVABLE, "5 prepared statements", "");
	/* The parameters' types: of what it has, and of PREPARE anew. */
	assert_true(shapes_take_types(a, 0, "\0\1\0\0\0\27", 6));
	assert_true(shapes_take_types(a, 1, "\0\0", 2));
	assert_false(shapes_take_types(a, 1, "\0\1", 2));
	assert_false(shapes_take_types(a, 1, NULL, 2));
	assert_false(shapes_take_types(a, 2, "\0\0", 2));
	assert_class(a, NULL, &abilities, SESSION_MOVABLE, "5 prepared statements", "");
	assert_true(shapes_take_types(a, 1, "\0\1\0\0\0\27", 6));
	assert_true(shapes_take_types(a, 1, "\0\1\0\0\0\27", 6));
	assert_false(shapes_is_refused(session_state_find(a, SESSION_CHANGED, "zero")));
	assert_true(shapes_is_refused(session_state_find(a, SESSION_CHANGED, "three")));
	assert_class(a, NULL, &abilities, SESSION_PINNED, "5 prepared statements",
	             "prepared statement \"zero\", made by PREPARE, whose parameters would be of other types now");
	session_state_remove(a, session_state_find(a, SESSION_CHANGED, "zero"));
	assert_true(put(b, "proto", "\303\244", "SELECT 4", "{}"));
	assert_true(put(b, "proto", "two", "BEGIN", "{23}"));
	assert_true(put(b, "proto", "one", "SELECT 1", "{}"));
	assert_true(shapes_check(a, b, &at, BE_ROW_DESCRIPTION, others, sizeof(others)));
	assert_true(shapes_check(a, b, &at, BE_NO_DATA, NULL, 0));
	assert_true(shapes_check(a, b, &at, BE_ROW_DESCRIPTION, columns, sizeof(columns)));
	assert_false(shapes_check(a, b, &at, BE_NO_DATA, NULL, 0));
	assert_true(session_state_finish(b));
	assert_false(session_state_same(a, b, REPLAY_ON_STANDBY, &why));
	assert_string_equal(sbuf_text(&why),
	                    "proto \"one\" returns other columns");
	assert_true(shapes_differ(session_state_find(a, SESSION_PROTOCOL_STATEMENT, "one"),
	                          session_state_find(b, SESSION_PROTOCOL_STATEMENT, "one")));
	assert_false(shapes_differ(session_state_find(a, SESSION_PROTOCOL_STATEMENT, "two"),
	                           session_state_find(b, SESSION_PROTOCOL_STATEMENT, "two")));
	sbuf_free(&why);
	session_state_free(a);
	session_state_free(b);
}

static void test_neutral_timeout(void **state)
{
	struct session_state *a = begin();
	const struct session_row *row;

	(void)state;
	assert_true(put(a, "guc", "statement_timeout", "2min", ""));
	assert_true(put(a, "reset", "statement_timeout", "0", "7"));
	assert_true(session_state_finish(a));
	row = session_state_find(a, SESSION_SETTING, "statement_timeout");
	assert_string_equal(row->value, "120000");
	assert_string_equal(row->extra, "7");
	session_state_free(a);
}

/* To compile them can take longer than a hold may. */
static void test_questions_are_not_compiled(void **state)
{
	static const char off[] = "set_config('jit', 'off', true)";
	struct session_state *a = begin();
	struct sbuf out;

	(void)state;
	assert_true(session_state_finish(a));
	sbuf_init(&out, (size_t)1 << 20);
	assert_int_equal(temp_shape_add(a, &out), 1);
	assert_true(sbuf_ok(&out));
	assert_non_null(memmem(out.data, out.len, off, sizeof(off) - 1));
	sbuf_free(&out);
	session_state_free(a);
}

static void test_classes(void **state)
{
	const struct session_abilities none = {0};
	const struct session_abilities all = {true, true, true, true};
	struct session_facts *facts = NULL;
	struct session_state *a = begin();

	(void)state;
	assert_true(put(a, "cat", "work_mem", "1", "4"));
	assert_true(put(a, "custom", "a.b", "given", "given"));
	assert_true(session_state_finish(a));
	assert_class(a, NULL, &none, SESSION_CLEAN, "", "");
	session_facts_set_unreadable(&facts);
	assert_class(a, facts, &all, SESSION_CLEAN, "", "");
	assert_class(a, facts, &none, SESSION_PINNED, "",
	             "a custom setting whose name was not seen (set_config() of a computed name)");
	session_facts_free(facts);
	session_state_free(a);
	a = begin();
	assert_true(put(a, "guc", "work_mem", "1", "4"));
	assert_true(put(a, "lock", "0 1 1 ShareLock", NULL, NULL));
	assert_true(put(a, "sql", "p", "PREPARE p AS SELECT 1", "{}"));
	assert_true(session_state_finish(a));
	assert_class(a, NULL, &all, SESSION_MOVABLE,
	             "1 setting, 1 prepared statement, 1 advisory lock", "");
	assert_class(a, NULL, &none, SESSION_PINNED,
	             "1 setting, 1 prepared statement, 1 advisory lock",
	             "session-level advisory lock \"0 1 1 ShareLock\"");
	session_state_free(a);
}

/* ---- replay ---- */

static unsigned int count_syncs(const struct replay *replay)
{
	size_t at = 0;
	unsigned int syncs = 0;
	size_t total;

	while (at < replay->out.len) {
		assert_int_equal(wire_header_check(WIRE_FRONTEND, replay->out.data + at, &total),
		                 WIRE_HEADER_OK);
		syncs += replay->out.data[at] == FE_SYNC;
		assert_int_not_equal(replay->out.data[at], FE_QUERY);
		at += total;
	}
	assert_int_equal(at, replay->out.len);
	return syncs;
}

static void test_replay(void **state)
{
	struct session_state *a = begin();
	struct replay replay;

	(void)state;
	assert_true(put(a, "guc", "work_mem", "1", "4"));
	assert_true(put(a, "proto", "s1", "SELECT $1", "{25,23}"));
	assert_true(put(a, "listen", "a\"b", NULL, NULL));
	assert_true(session_state_finish(a));
	assert_true(replay_build(a, NULL, REPLAY_ON_STANDBY, false, &replay));
	assert_int_equal(count_syncs(&replay), replay.steps);
	assert_string_equal(replay_step(&replay, replay.steps - 2), "prepared statement \"s1\"");
	assert_string_equal(replay_step(&replay, replay.steps), "");
	assert_non_null(
	    memmem(replay.out.data, replay.out.len, "s1\0SELECT $1\0\0\2\0\0\0\31\0\0\0\27", 23));
	replay_free(&replay);
	assert_true(replay_build(a, NULL, REPLAY_AFTER_PROMOTION, false, &replay));
	assert_int_equal(count_syncs(&replay), replay.steps);
	assert_non_null(memmem(replay.out.data, replay.out.len, "LISTEN \"a\"\"b\"", 14));
	replay_free(&replay);
	session_state_free(a);
	/* Types that are none. */
	a = begin();
	assert_true(put(a, "proto", "s1", "SELECT $1", "{x}"));
	assert_true(session_state_finish(a));
	assert_false(replay_build(a, NULL, REPLAY_ON_STANDBY, false, &replay));
	replay_free(&replay);
	session_state_free(a);
}

static bool sends(const struct replay *replay, const char *text)
{
	return replay->out.len > 0 && memmem(replay->out.data, replay->out.len, text, strlen(text)) != NULL;
}

/* PostgreSQL 13 has no idle_session_timeout, and refuses to be told of it. */
static void test_replay_what_the_server_knows(void **state)
{
	static const enum replay_stage stages[] = {REPLAY_ON_STANDBY, REPLAY_AFTER_PROMOTION};
	struct session_state *a = begin();
	struct replay replay;
	size_t i;

	(void)state;
	assert_true(put(a, "guc", "work_mem", "1", "4"));
	assert_true(session_state_finish(a));
	assert_true(replay_is_early(a));
	for (i = 0; i < ARRAY_LEN(stages); i++) {
		assert_true(replay_build(a, NULL, stages[i], false, &replay));
		assert_true(stages[i] != REPLAY_ON_STANDBY || sends(&replay, "statement_timeout"));
		assert_false(sends(&replay, "idle_session_timeout"));
		replay_free(&replay);
	}
	session_state_free(a);
}

/* A function call of pg_try_advisory_lock_shared(int8) with the key 1. */
static const uint8_t call_lock[] = {'F', 0, 0, 0, 28, 0, 0, 11, 67, 0, 1, 0, 1, 0, 1,
                                    0,   0, 0, 8, 0,  0, 0, 0,  0,  0, 0, 1, 0, 1};

static size_t count_calls(const struct replay *replay, size_t *all)
{
	size_t count = 0;
	size_t at = 0;

	*all = 0;
	while (at < replay->out.len) {
		const uint8_t *msg = (const uint8_t *)replay->out.data + at;
		const size_t len = 1 + wire_get_be32(msg + 1);

		*all += msg[0] == 'F';
		count += len == sizeof(call_lock) && memcmp(msg, call_lock, len) == 0;
		at += len;
	}
	return count;
}

/* What others wait for comes first if it is to, and then not again.  A standby can give the locks.
 */
static void test_claims(void **state)
{
	static const struct {
		enum replay_stage stage;
		bool frees, locks, listens, late;
	} stages[] = {{REPLAY_AHEAD, false, true, false, true},
	              {REPLAY_ON_STANDBY, false, false, false, true},
	              {REPLAY_CLAIMS, true, true, true, false},
	              {REPLAY_CHANNELS, false, false, true, false},
	              {REPLAY_AFTER_CLAIMS, false, false, false, false},
	              {REPLAY_AFTER_PROMOTION, true, true, true, false}};
	struct session_state *a = begin();
	struct replay replay;
	size_t calls;
	size_t i;

	(void)state;
	assert_true(put(a, "guc", "lock_timeout", "5", "0"));
	assert_true(put(a, "base", "default_transaction_isolation", "read committed", NULL));
	assert_true(put(a, "listen", "news", NULL, NULL));
	assert_true(put(a, "lock", "0 1 1 ShareLock", NULL, "2"));
	assert_true(session_state_finish(a));
	assert_true(replay_is_early(a));
	for (i = 0; i < ARRAY_LEN(stages); i++) {
		assert_true(replay_build(a, NULL, stages[i].stage, false, &replay));
		assert_int_equal(count_calls(&replay, &calls), stages[i].locks ? 2 : 0);
		assert_int_equal(calls, (stages[i].locks ? 2 : 0) + (stages[i].frees ? 1 : 0));
		assert_int_equal(count_syncs(&replay) + calls, replay.steps);
		assert_int_equal(sends(&replay, "LISTEN"), stages[i].listens);
		assert_int_equal(sends(&replay, "lock_timeout"), stages[i].late);
		replay_free(&replay);
	}
	session_state_free(a);
}

/* Locks and channels come when the late settings are there already, which are not to spoil them. */
static void test_claims_under_late_settings(void **state)
{
	static const struct {
		const char *timeout;
		bool hurries;
	} limits[] = {{"0", false},     {"5", true},     {"9999ms", true},
	              {"9s", true},     {"10s", false},  {"61s", false},
	              {"10000", false}, {"1min", false}, {"1h", false}};
	struct replay replay;
	size_t calls;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_LEN(limits); i++) {
		struct session_state *a = begin();

		assert_true(put(a, "guc", "statement_timeout", limits[i].timeout, "0"));
		assert_true(put(a, "guc", "client_encoding", "LATIN1", "UTF8"));
		assert_true(put(a, "info", "server_encoding", "UTF8", NULL));
		assert_true(put(a, "listen", i % 2 == 0 ? "news" : "nach\303\266", NULL, NULL));
		assert_true(put(a, "lock", "0 1 1 ShareLock", NULL, "1"));
		assert_true(session_state_finish(a));
		assert_true(replay_build(a, NULL, REPLAY_CLAIMS, false, &replay));
		assert_int_equal(sends(&replay, "'statement_timeout', '0', true"),
		                 limits[i].hurries);
		assert_int_equal(sends(&replay, "lock_shared("), limits[i].hurries);
		assert_int_equal(count_calls(&replay, &calls), limits[i].hurries ? 0 : 1);
		assert_int_equal(sends(&replay, "'client_encoding', 'UTF8', true"), i % 2 == 1);
		replay_free(&replay);
		session_state_free(a);
	}
}

/* Too many for function calls. */
static void test_many_locks(void **state)
{
	struct session_state *a = begin();
	struct replay replay;
	size_t calls;

	(void)state;
	assert_true(put(a, "lock", "0 1 1 ShareLock", NULL, "60"));
	assert_true(put(a, "lock", "0 2 1 ShareLock", NULL, "5"));
	assert_true(session_state_finish(a));
	assert_true(replay_build(a, NULL, REPLAY_AHEAD, false, &replay));
	assert_int_equal(count_calls(&replay, &calls) + calls, 0);
	replay_free(&replay);
	assert_true(replay_build(a, NULL, REPLAY_CLAIMS, false, &replay));
	assert_int_equal(count_calls(&replay, &calls), 0);
	assert_int_equal(calls, 1);
	assert_true(sends(&replay, "generate_series(1, 60)"));
	assert_true(sends(&replay, "generate_series(1, 5)"));
	replay_free(&replay);
	session_state_free(a);
}

/* A row of a session that a standby can be given, and whether it still can with it. */
static void assert_early(const char *kind, const char *name, const char *value, bool early)
{
	struct session_state *a = begin();
	struct replay replay;

	assert_true(put(a, "guc", "statement_timeout", "5", NULL));
	if (strcmp(name, "idle_session_timeout") != 0)
		assert_true(put(a, "base", "idle_session_timeout", "0", NULL));
	if (strcmp(name, "default_transaction_isolation") != 0)
		assert_true(
		    put(a, "base", "default_transaction_isolation", "read committed", NULL));
	assert_true(put(a, kind, name, value, NULL));
	assert_true(session_state_finish(a));
	assert_int_equal(replay_is_early(a), early);
	/* What is late comes with the rest or after the promotion, never twice, never not at all.
	 */
	assert_true(replay_build(a, NULL, REPLAY_ON_STANDBY, false, &replay));
	assert_int_equal(
	    memmem(replay.out.data, replay.out.len, "RESET client_encoding", 21) != NULL, early);
	replay_free(&replay);
	assert_true(replay_build(a, NULL, REPLAY_AFTER_PROMOTION, false, &replay));
	assert_int_equal(replay.steps == 0, early);
	replay_free(&replay);
	session_state_free(a);
}

static void test_what_a_standby_can_be_given(void **state)
{
	(void)state;
	assert_early("guc", "work_mem", "1", true);
	assert_early("cat", "default_transaction_isolation", "repeatable read", true);
	assert_early("guc", "default_transaction_isolation", "serializable", false);
	assert_early("cat", "default_transaction_isolation", "serializable", false);
	assert_early("base", "idle_session_timeout", "60000", false);
	assert_early("temp", "a", "r", false);
}

/* ---- temporary tables ---- */

static struct session_state *begin_temporary(void)
{
	struct session_state *state = begin();

	assert_true(put(state, "temp", "a\"b", "r", NULL));
	assert_true(put(state, "temp", "q", "S", NULL));
	assert_true(put(state, "proto", "s1", "SELECT 1", "{}"));
	assert_true(session_state_finish(state));
	session_state_more(state);
	assert_true(put(state, "tshape", "a\"b", "r app", NULL));
	assert_true(put(state, "tdef", "2 a\"b", "CREATE it", "app"));
	assert_true(put(state, "tend", "1 i", "INDEX it", "other"));
	assert_true(put(state, "ton", "a\"b", NULL, "v"));
	assert_true(put(state, "tdata", "a\"b", NULL, "app"));
	assert_true(put(state, "tdata", "q", NULL, "app"));
	assert_true(session_state_finish(state));
	return state;
}

/* Its streams: the rows of a"b, and where q stands. */
static struct copies *take(const struct copies_bound *bound, const char *sequence)
{
	struct copies *copies = copies_new(2, bound);

	assert_non_null(copies);
	copies_take(copies, 0, BE_COPY_DATA, "1\n", 2);
	copies_take(copies, 0, BE_COPY_DATA, "2\n", 2);
	copies_take(copies, 0, BE_COMMAND_COMPLETE, "COPY 2", 7);
	copies_take(copies, 1, BE_COPY_DATA, sequence, strlen(sequence));
	copies_take(copies, 1, BE_COMMAND_COMPLETE, "COPY 1", 7);
	copies_take(copies, 2, BE_COPY_DATA, "x", 1);
	return copies;
}

static void test_temporary_tables(void **state)
{
	const struct copies_bound bound = {.most = 100};
	struct session_state *a = begin_temporary();
	struct session_state *b = begin_temporary();
	struct copies *copies;
	struct replay replay;

	(void)state;
	assert_true(temp_exists(a) && temp_described(a) && temp_wants_probe(a));
	assert_true(temp_probe_done(a, "0+", 2));
	assert_false(temp_wants_probe(a));
	/* Statements wait for the tables. */
	assert_true(replay_build(a, NULL, REPLAY_ON_STANDBY, false, &replay));
	assert_false(sends(&replay, "SELECT 1"));
	replay_free(&replay);
	copies = take(&bound, "-5\tf\n");
	assert_true(temp_read_done(a, a, copies));
	session_state_set_copies(a, copies);
	assert_true(replay_build(a, NULL, REPLAY_AFTER_PROMOTION, false, &replay));
	assert_int_equal(count_syncs(&replay), replay.steps);
	assert_true(sends(&replay, "CREATE it ON COMMIT DELETE ROWS"));
	assert_true(sends(&replay, "COPY pg_temp.\"a\"\"b\" FROM STDIN"));
	assert_true(sends(&replay, "setval('pg_temp.\"q\"'::pg_catalog.regclass, '-5'"));
	assert_true(sends(&replay, "INDEX it"));
	assert_true(sends(&replay, "SELECT 1"));
	replay_free(&replay);
	/* The same rows read elsewhere are the same state; others, and their absence, are not. */
	assert_false(session_state_same(a, b, REPLAY_AFTER_PROMOTION, NULL));
	copies = take(NULL, "-5\tf\n");
	assert_true(temp_read_done(b, b, copies));
	copies_free(copies);
	assert_true(session_state_same(a, b, REPLAY_AFTER_PROMOTION, NULL));
	copies = take(NULL, "-5\tt\n");
	assert_true(temp_read_done(b, b, copies));
	assert_false(session_state_same(a, b, REPLAY_AFTER_PROMOTION, NULL));
	copies_free(copies);
	/* What is no position of a sequence is not sent. */
	session_state_set_copies(a, take(&bound, "5; DROP\n"));
	assert_false(replay_build(a, NULL, REPLAY_AFTER_PROMOTION, false, &replay));
	replay_free(&replay);
	session_state_free(a);
	session_state_free(b);
}

static void test_probe_outcomes(void **state)
{
	/* of the two steps; m: it is known, and movable */
	static const char *const cases[] = {"++m", "0+m", "-+p", "0-p", "+ p"};
	static const char unknown[] =
	    "temporary object \"a\"b\": its ON COMMIT cannot be learnt; so none "
	    "of its 2 temporary objects goes along";
	const struct session_abilities abilities = {.temporary = true};
	size_t i;

	(void)state;
	assert_int_equal(temp_probe_outcome(NULL), '+');
	assert_int_equal(temp_probe_outcome("0A000"), '0');
	assert_int_equal(temp_probe_outcome("42501"), '-');
	for (i = 0; i < ARRAY_LEN(cases); i++) {
		struct session_state *a = begin_temporary();

		assert_true(temp_probe_done(a, cases[i], cases[i][1] == ' ' ? 1 : 2));
		assert_class(
		    a, NULL, &abilities, cases[i][2] == 'm' ? SESSION_MOVABLE : SESSION_PINNED,
		    "1 prepared statement, 2 temporary objects", cases[i][2] == 'm' ? "" : unknown);
		session_state_free(a);
	}
}

static void test_copies_are_bounded(void **state)
{
	atomic_size_t used = 0;
	const struct copies_bound bound = {.most = 20, .used = &used, .most_used = 12};
	struct copies *a;
	struct copies *b;

	(void)state;
	a = take(&bound, "5\tt\n");
	assert_null(copies_failure(a));
	assert_int_equal(atomic_load(&used), 8);
	assert_int_equal(copies_bytes(a), 8);
	b = take(&bound, "5\tt\n");
	assert_non_null(copies_failure(b));
	assert_int_equal(atomic_load(&used), 8);
	copies_free(b);
	copies_free(a);
	assert_int_equal(atomic_load(&used), 0);
	a = take(&bound, "more than the twenty that one may have");
	assert_string_equal(copies_failure(a), "more than may be carried");
	copies_free(a);
	a = copies_new(1, &bound);
	copies_too_long(a);
	copies_take(a, 0, BE_COPY_DATA, "x", 1);
	assert_string_equal(copies_failure(a), "more than may be carried");
	copies_free(a);
	assert_int_equal(atomic_load(&used), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_prepare_alone),
	    cmocka_unit_test(test_prepare_body),
	    cmocka_unit_test(test_settings),
	    cmocka_unit_test(test_set_config),
	    cmocka_unit_test(test_custom_names),
	    cmocka_unit_test(test_facts),
	    cmocka_unit_test(test_digest_is_canonical),
	    cmocka_unit_test(test_bad_answers),
	    cmocka_unit_test(test_shapes),
	    cmocka_unit_test(test_neutral_timeout),
	    cmocka_unit_test(test_questions_are_not_compiled),
	    cmocka_unit_test(test_classes),
	    cmocka_unit_test(test_replay),
	    cmocka_unit_test(test_replay_what_the_server_knows),
	    cmocka_unit_test(test_claims),
	    cmocka_unit_test(test_claims_under_late_settings),
	    cmocka_unit_test(test_many_locks),
	    cmocka_unit_test(test_what_a_standby_can_be_given),
	    cmocka_unit_test(test_temporary_tables),
	    cmocka_unit_test(test_probe_outcomes),
	    cmocka_unit_test(test_copies_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
