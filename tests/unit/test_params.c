/* SPDX-License-Identifier: PostgreSQL */
/*
 * Sets of run-time parameters: identity of equal sets, references, the SQL that brings a server to
 * a client's parameters, ParameterStatus messages, and the form in which a set is handed over.
 */
#include "session/params.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four standard headers above first. */
#include <cmocka.h>

static int setup(void **state)
{
	*state = param_pool_new();
	return *state == NULL ? -1 : 0;
}

/* A set that a test forgot, or a reference too many given back, shows here. */
static int teardown(void **state)
{
	bool clean = param_pool_count(*state) == 0;

	if (clean)
		param_pool_free(*state);
	return clean ? 0 : -1;
}

/* *set = *set with the entry. */
static void add(struct param_pool *pool, struct param_set **set, const char *name,
                const char *value, bool reported)
{
	struct param_set *next = param_set_with(pool, *set, name, value, reported);

	assert_non_null(next);
	param_set_replace(set, next);
}

static void assert_sql(const struct param_set *want, const struct param_set *have, size_t changes,
                       const char *expected)
{
	struct sbuf sql;

	sbuf_init(&sql, PARAM_MAX_SQL);
	assert_int_equal(param_set_sync_sql(want, have, &sql), changes);
	assert_true(sbuf_ok(&sql));
	assert_string_equal(sbuf_text(&sql), expected);
	sbuf_free(&sql);
}

/* What a server of PostgreSQL 15 reports, shortened. */
static struct param_set *server_15(struct param_pool *pool)
{
	struct param_set *set = NULL;

	add(pool, &set, "server_version", "15.4", true);
	add(pool, &set, "client_encoding", "UTF8", true);
	add(pool, &set, "DateStyle", "ISO, MDY", true);
	add(pool, &set, "application_name", "", true);
	add(pool, &set, "is_superuser", "off", true);
	add(pool, &set, "TimeZone", "UTC", true);
	return set;
}

static void equal_sets_are_one(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *a = NULL;
	struct param_set *b = NULL;
	struct param_set *same;

	add(pool, &a, "TimeZone", "UTC", true);
	add(pool, &a, "Statement_Timeout", "5s", false);
	add(pool, &b, "statement_timeout", "5s", false);
	add(pool, &b, "timezone", "UTC", true);
	assert_ptr_equal(a, b);
	assert_int_equal(param_pool_count(pool), 1);
	assert_string_equal(param_set_at(a, 0)->name, "statement_timeout");
	assert_string_equal(param_set_at(a, 1)->name, "TimeZone");
	assert_string_equal(param_set_get(a, "TIMEZONE"), "UTC");
	assert_null(param_set_get(a, "TimeZon"));

	/* The same value again is no change; another flag or case of the value is. */
	same = param_set_with(pool, a, "timezone", "UTC", true);
	assert_ptr_equal(same, a);
	param_set_unref(same);
	add(pool, &b, "statement_timeout", "5S", false);
	assert_ptr_not_equal(a, b);
	param_set_unref(a);
	param_set_unref(b);
}

static void the_flag_is_part_of_identity(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *a = NULL;
	struct param_set *b = NULL;

	add(pool, &a, "search_path", "x", true);
	add(pool, &b, "search_path", "x", false);
	assert_ptr_not_equal(a, b);
	assert_true(param_set_at(a, 0)->reported);
	assert_false(param_set_at(b, 0)->reported);
	/* Reported wins and stays. */
	add(pool, &b, "search_path", "x", true);
	assert_ptr_equal(a, b);
	add(pool, &b, "search_path", "x", false);
	assert_ptr_equal(a, b);
	param_set_unref(a);
	param_set_unref(b);
}

/* Names and values that run together must not look the same. */
static void borders_between_strings_count(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *a = NULL;
	struct param_set *b = NULL;

	add(pool, &a, "ab", "c", false);
	add(pool, &b, "a", "bc", false);
	assert_ptr_not_equal(a, b);
	param_set_replace(&a, NULL);
	param_set_replace(&b, NULL);
	add(pool, &a, "a", "", false);
	add(pool, &a, "b", "", false);
	add(pool, &b, "a", "xb", false);
	assert_ptr_not_equal(a, b);
	param_set_unref(a);
	param_set_unref(b);
}

static void empty_and_null_are_the_same(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *empty = param_set_empty(pool);
	struct param_set *one = NULL;
	struct param_set *gone;

	assert_non_null(empty);
	add(pool, &one, "a", "b", false);
	gone = param_set_without(pool, one, "A");
	assert_ptr_equal(gone, empty);
	param_set_unref(gone);
	gone = param_set_without(pool, NULL, "a");
	assert_ptr_equal(gone, empty);
	param_set_unref(gone);
	gone = param_set_without(pool, one, "c");
	assert_ptr_equal(gone, one);
	param_set_unref(gone);
	assert_int_equal(param_set_count(NULL), 0);
	assert_null(param_set_get(NULL, "a"));
	assert_null(param_set_ref(NULL));
	param_set_unref(NULL);
	assert_sql(NULL, empty, 0, "");
	param_set_unref(one);
	param_set_unref(empty);
}

static void many_sets_in_one_pool(void **state)
{
	enum { COUNT = 1000 };
	struct param_pool *pool = *state;
	static struct param_set *sets[COUNT];
	char value[16];
	size_t i;

	memset(sets, 0, sizeof(sets));
	for (i = 0; i < COUNT; i++) {
		(void)snprintf(value, sizeof(value), "%zu", i);
		add(pool, &sets[i], "a", value, false);
	}
	assert_int_equal(param_pool_count(pool), COUNT);
	for (i = 0; i < COUNT; i++) {
		struct param_set *again;

		(void)snprintf(value, sizeof(value), "%zu", i);
		again = param_set_with(pool, NULL, "A", value, false);
		assert_ptr_equal(again, sets[i]);
		param_set_unref(again);
	}
	for (i = 0; i < COUNT; i += 2)
		param_set_unref(sets[i]);
	assert_int_equal(param_pool_count(pool), COUNT / 2);
	for (i = 1; i < COUNT; i += 2)
		param_set_unref(sets[i]);
}

static void bounds_and_bad_names(void **state)
{
	static const char *const bad[] = {"",     "1a",   "a b",  "a'b", "a\"b", "a.",
	                                  ".a",   "a..b", "a-b",  "a;b", "a\\b", "\xc3\xbc",
	                                  "a\nb", "$a",   "a.1b", " a"};
	static const char *const good[] = {"a", "_a", "a.b", "a1$", "A.B.c", "plproxy.x_1"};
	struct param_pool *pool = *state;
	char text[PARAM_MAX_VALUE + 2];
	struct param_set *set = NULL;
	size_t i;

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		errno = 0;
		assert_null(param_set_with(pool, NULL, bad[i], "v", i % 2 == 0));
		assert_int_equal(errno, EINVAL);
	}
	for (i = 0; i < ARRAY_LEN(good); i++)
		assert_true(param_name_valid(good[i]));
	memset(text, 'a', sizeof(text));
	text[PARAM_MAX_VALUE + 1] = '\0';
	assert_null(param_set_with(pool, NULL, "a", text, false));
	assert_int_equal(errno, EINVAL);
	text[PARAM_MAX_VALUE] = '\0';
	add(pool, &set, "a", text, false);
	text[PARAM_MAX_NAME + 1] = '\0';
	assert_null(param_set_with(pool, NULL, text, "v", false));
	text[PARAM_MAX_NAME] = '\0';
	add(pool, &set, text, "v", false);
	for (i = 2; i < PARAM_MAX_ENTRIES; i++) {
		(void)snprintf(text, sizeof(text), "b%zu", i);
		add(pool, &set, text, "v", false);
	}
	assert_null(param_set_with(pool, set, "one_more", "v", false));
	assert_int_equal(errno, E2BIG);
	assert_null(param_set_with(pool, set, "A0", "v", false));
	add(pool, &set, "b2", "w", false); /* one that is there fits */
	param_set_unref(set);
}

#define SIXTY "a-name-of-twenty-char" "a-name-of-twenty-char" "sixty-of-them-now-"

static void values_are_normalised(void **state)
{
	static const char *const spellings[][2] = {
	    {"utf-8", "UTF8"},           {"'utf-8'", "UTF8"},      {"Unicode", "UTF8"},
	    {"latin1", "LATIN1"},        {"ISO-8859-1", "LATIN1"}, {"sql_ascii", "SQL_ASCII"},
	    {"Windows-1252", "WIN1252"}, {"no such", "no such"},   {"", ""}};
	struct param_pool *pool = *state;
	struct param_set *set = NULL;
	size_t i;

	for (i = 0; i < ARRAY_LEN(spellings); i++) {
		add(pool, &set, "CLIENT_ENCODING", spellings[i][0], false);
		assert_string_equal(param_set_get(set, "client_encoding"), spellings[i][1]);
	}
	add(pool, &set, "application_name", "a\xc3\xbc\n~ b", false);
	assert_string_equal(param_set_get(set, "application_name"), "a???~ b");
	add(pool, &set, "application_name", SIXTY "12\xc3\xbc" "3", false);
	assert_string_equal(param_set_get(set, "application_name"), SIXTY "12");
	add(pool, &set, "application_name", SIXTY "1234", false);
	assert_string_equal(param_set_get(set, "application_name"), SIXTY "123");
	param_set_unref(set);
}

static void merge_puts_one_over_the_other(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *base = server_15(pool);
	struct param_set *startup = NULL;
	struct param_set *merged;
	struct param_set *same;

	add(pool, &startup, "datestyle", "German", false);
	add(pool, &startup, "statement_timeout", "7", false);
	merged = param_set_merge(pool, base, startup);
	assert_int_equal(param_set_count(merged), param_set_count(base) + 1);
	assert_string_equal(param_set_get(merged, "DateStyle"), "German");
	assert_true(param_set_find(merged, "DateStyle")->reported);
	assert_false(param_set_find(merged, "statement_timeout")->reported);
	same = param_set_merge(pool, merged, startup);
	assert_ptr_equal(same, merged);
	param_set_unref(same);
	same = param_set_merge(pool, base, NULL);
	assert_ptr_equal(same, base);
	param_set_unref(same);
	same = param_set_merge(pool, NULL, startup);
	assert_ptr_equal(same, startup);
	param_set_unref(same);
	param_set_unref(merged);
	param_set_unref(startup);
	param_set_unref(base);
}

static void sync_sql_quotes_for_any_server(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *have = server_15(pool);
	struct param_set *want = param_set_ref(have);

	assert_sql(want, have, 0, "");
	add(pool, &want, "application_name", "it's", true);
	assert_sql(want, have, 1,
	           "SELECT pg_catalog.set_config('application_name','it''s',false) IS NULL");
	add(pool, &want, "application_name", "\\'; --", true);
	assert_sql(want, have, 1,
	           "SELECT pg_catalog.set_config('application_name',E'\\\\''; --',false) IS NULL");
	param_set_replace(&want, param_set_ref(have));
	add(pool, &want, "my.x", "a\nb", false);
	add(pool, &want, "my.y", "", false);
	assert_sql(want, have, 2,
	           "SELECT pg_catalog.set_config('my.x','a\nb',false) IS NULL"
	           ",pg_catalog.set_config('my.y','',false) IS NULL");
	/* Not ASCII, and the second byte of a character that looks like a backslash. */
	param_set_replace(&want, param_set_ref(have));
	add(pool, &want, "client_encoding", "sjis", true);
	add(pool, &want, "search_path", "\x95\\'", true);
	assert_sql(want, have, 2,
	           "SELECT pg_catalog.set_config('client_encoding','SJIS',false) IS NULL,"
	           "pg_catalog.set_config('search_path',pg_catalog.convert_from("
	           "pg_catalog.decode('955c27','hex'),'SJIS'),false) IS NULL");
	param_set_replace(&want, param_set_ref(have));
	add(pool, &want, "my.x", "\xc3\xbc", false);
	assert_sql(
	    want, have, 1,
	    "SELECT pg_catalog.set_config('my.x',pg_catalog.convert_from("
	    "pg_catalog.decode('c3bc','hex'),pg_catalog.getdatabaseencoding()),false) IS NULL");
	/* An encoding's name from a client is no way in. */
	param_set_replace(&want, param_set_ref(have));
	add(pool, &want, "client_encoding", "x'y", true);
	add(pool, &want, "search_path", "\xff", true);
	assert_sql(want, have, 2,
	           "SELECT pg_catalog.set_config('client_encoding','x''y',false) IS NULL,"
	           "pg_catalog.set_config('search_path',pg_catalog.convert_from(pg_catalog.decode("
	           "'ff','hex'),pg_catalog.getdatabaseencoding()),false) IS NULL");
	param_set_unref(want);
	param_set_unref(have);
}

static void sync_sql_resets_and_orders(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *have = server_15(pool);
	struct param_set *want = param_set_ref(have);

	add(pool, &have, "role", "alice", false);
	add(pool, &have, "My.x", "1", false);
	assert_sql(want, have, 2, "RESET \"my\".\"x\";RESET \"role\";");
	add(pool, &want, "role", "bob", false);
	add(pool, &want, "work_mem", "1MB", false);
	assert_sql(
	    want, have, 3,
	    "RESET \"my\".\"x\";SELECT pg_catalog.set_config('work_mem','1MB',false) IS NULL,"
	    "pg_catalog.set_config('role','bob',false) IS NULL");
	/* Reported entries that only the server has are not the client's business. */
	assert_sql(NULL, have, 2, "RESET \"my\".\"x\";RESET \"role\";");
	param_set_unref(want);
	param_set_unref(have);
}

static void doubted_extras_are_set_again(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *want = server_15(pool);
	struct param_set *have = NULL;
	struct param_set *none = param_set_ref(want);
	struct param_set *settled;
	void *blob;
	size_t len;

	add(pool, &want, "role", "bob", false);
	assert_sql(want, want, 0, "");
	have = param_set_doubt(pool, want);
	assert_ptr_not_equal(have, want);
	assert_string_equal(param_set_get(have, "role"), "bob");
	assert_sql(want, have, 1, "SELECT pg_catalog.set_config('role','bob',false) IS NULL");
	assert_sql(none, have, 1, "RESET \"role\";");
	/* What a server reports meanwhile changes nothing of that, nor does another thread. */
	add(pool, &have, "TimeZone", "Asia/Tokyo", true);
	blob = param_set_encode(have, &len);
	assert_non_null(blob);
	param_set_replace(&have, param_set_decode(pool, blob, len));
	free(blob);
	assert_true(param_set_find(have, "role")->doubted);
	assert_false(param_set_find(have, "TimeZone")->doubted);
	settled = param_set_settle(pool, want, have);
	assert_non_null(settled);
	assert_false(param_set_find(settled, "role")->doubted);
	param_set_unref(settled);
	param_set_unref(none);
	param_set_unref(have);
	param_set_unref(want);
}

static void guesses(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *known = server_15(pool);
	struct param_set *asked = NULL;
	struct param_set *guessed;
	struct param_set *merged;
	void *blob;
	size_t len;

	add(pool, &asked, "TimeZone", "Asia/Tokyo", false);
	add(pool, &asked, "role", "bob", false);
	guessed = param_set_guess(pool, known, asked);
	assert_non_null(guessed);
	assert_ptr_not_equal(guessed, known);
	assert_true(param_set_guesses_only(known, NULL));
	assert_false(param_set_guesses_only(guessed, NULL));
	assert_true(param_set_guesses_only(guessed, asked));
	blob = param_set_encode(guessed, &len);
	assert_non_null(blob);
	merged = param_set_decode(pool, blob, len);
	free(blob);
	assert_ptr_equal(merged, guessed);
	/* A client does not know of it, whether it has asked for that or not. */
	param_set_replace(&merged, param_set_merge(pool, guessed, NULL));
	assert_ptr_equal(merged, known);
	param_set_replace(&merged, param_set_merge(pool, guessed, asked));
	assert_string_equal(param_set_get(merged, "TimeZone"), "Asia/Tokyo");
	assert_true(param_set_guesses_only(merged, NULL));
	param_set_unref(merged);
	param_set_unref(guessed);
	param_set_unref(asked);
	param_set_unref(known);
}

static void what_a_text_means(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *one = server_15(pool);
	struct param_set *other = param_set_ref(one);
	struct param_digest known = *param_set_parse_digest(one);

	assert_true(known.half[0] != 0);
	/* What has nothing to do with it. */
	add(pool, &other, "application_name", "other", true);
	add(pool, &other, "statement_timeout", "5s", false);
	assert_ptr_not_equal(other, one);
	assert_memory_equal(param_set_parse_digest(other), &known, sizeof(known));
	add(pool, &other, "DateStyle", "ISO, DMY", true);
	assert_memory_not_equal(param_set_parse_digest(other), &known, sizeof(known));
	add(pool, &other, "DateStyle", "ISO, MDY", true);
	add(pool, &other, "search_path", "x", false);
	assert_memory_not_equal(param_set_parse_digest(other), &known, sizeof(known));
	param_set_unref(one);
	param_set_unref(other);
}

static void what_cannot_be_set_is_left_out(void **state)
{
	static const char *const fixed[] = {
	    "server_version", "Server_Encoding", "integer_datetimes",     "in_hot_standby",
	    "is_superuser",   "block_size",      "session_authorization", "user",
	    "database",       "options",         "transaction_isolation", "log_connections",
	    "wal_block_size", "_pq_.x"};
	struct param_pool *pool = *state;
	struct param_set *have = server_15(pool);
	struct param_set *want = param_set_ref(have);
	size_t i;

	for (i = 0; i < ARRAY_LEN(fixed); i++) {
		assert_false(param_settable(fixed[i]));
		add(pool, &want, fixed[i], "other", i % 2 == 0);
	}
	assert_ptr_not_equal(want, have);
	assert_sql(want, have, 0, "");
	assert_sql(have, want, 0, "");
	/* Only a server of 16 or later knows scram_iterations; a client that asks gets the error.
	 */
	add(pool, &want, "scram_iterations", "4096", true);
	add(pool, &want, "Reported_later", "1", true);
	assert_sql(want, have, 0, "");
	add(pool, &have, "server_version", "18beta1", true);
	assert_sql(want, have, 1,
	           "SELECT pg_catalog.set_config('scram_iterations','4096',false) IS NULL");
	assert_true(param_settable("TimeZone"));
	assert_true(param_settable("search_path"));
	assert_true(param_settable("a.b"));
	param_set_unref(want);
	param_set_unref(have);
}

static void settled_sets_agree(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *have = server_15(pool);
	struct param_set *want = param_set_ref(have);
	struct param_set *settled;
	struct param_set *again;

	add(pool, &want, "server_version", "18.1", true); /* from another server */
	add(pool, &want, "search_path", "a", true);
	add(pool, &want, "scram_iterations", "1", true);
	add(pool, &want, "DateStyle", "german", true);
	add(pool, &want, "work_mem", "1MB", false);
	add(pool, &have, "my.old", "1", false);
	add(pool, &have, "work_mem", "2MB", false);
	add(pool, &have, "DateStyle", "German, DMY", true); /* the server's answer to the sync */
	settled = param_set_settle(pool, want, have);
	assert_int_equal(param_set_count(settled), 8);
	assert_string_equal(param_set_get(settled, "server_version"), "15.4");
	assert_string_equal(param_set_get(settled, "DateStyle"), "German, DMY");
	assert_string_equal(param_set_get(settled, "work_mem"), "1MB");
	assert_string_equal(param_set_get(settled, "search_path"), "a");
	assert_false(param_set_find(settled, "search_path")->reported);
	assert_null(param_set_get(settled, "my.old"));
	assert_null(param_set_get(settled, "scram_iterations"));
	again = param_set_settle(pool, settled, settled);
	assert_ptr_equal(again, settled);
	assert_sql(settled, again, 0, "");
	param_set_unref(again);
	param_set_unref(settled);
	param_set_unref(want);
	param_set_unref(have);
}

static void status_messages(void **state)
{
	static const char one[] = "S\0\0\0\x0eTimeZone\0\0";
	struct param_pool *pool = *state;
	struct param_set *before = server_15(pool);
	struct param_set *now = param_set_ref(before);
	struct sbuf out;

	sbuf_init(&out, PARAM_MAX_SQL);
	assert_int_equal(param_set_write_status_diff(now, before, &out), 0);
	add(pool, &now, "TimeZone", "", true);
	add(pool, &now, "work_mem", "1MB", false);
	assert_int_equal(param_set_write_status_diff(now, before, &out), 1);
	assert_int_equal(out.len, sizeof(one) - 1);
	assert_memory_equal(out.data, one, sizeof(one) - 1);
	sbuf_reset(&out);
	assert_int_equal(param_set_write_status(now, &out), 6);
	assert_memory_equal(out.data,
	                    "S\0\0\0\x16"
	                    "application_name\0\0S",
	                    24);
	sbuf_free(&out);
	/* A buffer that is too small says so. */
	sbuf_init(&out, 10);
	(void)param_set_write_status(now, &out);
	assert_false(sbuf_ok(&out));
	sbuf_free(&out);
	param_set_unref(before);
	param_set_unref(now);
}

static void encoded_sets_come_back(void **state)
{
	struct param_pool *pool = *state;
	struct param_pool *other = param_pool_new();
	struct param_set *set = server_15(pool);
	struct param_set *copy;
	unsigned char *blob;
	size_t len;
	size_t cut;

	assert_non_null(other);
	add(pool, &set, "my.x", "\xff'\\\n", false);
	blob = param_set_encode(set, &len);
	assert_non_null(blob);
	copy = param_set_decode(pool, blob, len);
	assert_ptr_equal(copy, set);
	param_set_unref(copy);
	copy = param_set_decode(other, blob, len);
	assert_non_null(copy);
	assert_ptr_not_equal(copy, set);
	assert_sql(copy, set, 0, "");
	param_set_unref(copy);
	for (cut = 0; cut < len; cut++) {
		/* Its own memory, so that a read behind the end is seen. */
		unsigned char *part = malloc(cut + 1);

		assert_non_null(part);
		memcpy(part + 1, blob, cut);
		errno = 0;
		assert_null(param_set_decode(other, part + 1, cut));
		assert_int_equal(errno, EINVAL);
		free(part);
	}
	for (cut = 0; cut < len; cut++) {
		unsigned char old = blob[cut];

		blob[cut] = (unsigned char)(old ^ 0x81);
		copy = param_set_decode(other, blob, len);
		param_set_unref(copy); /* any answer, but no crash and no leak */
		blob[cut] = old;
	}
	free(blob);
	blob = param_set_encode(NULL, &len);
	copy = param_set_decode(other, blob, len);
	assert_int_equal(param_set_count(copy), 0);
	param_set_unref(copy);
	free(blob);
	assert_int_equal(param_pool_count(other), 0);
	param_pool_free(other);
	param_set_unref(set);
}

static void tables_are_sorted(void **state)
{
	static const char *const reported[] = {
#define GUC_REPORTED(spelling, can_be_set, first_version) spelling,
#include "session/guc_report.def"
#undef GUC_REPORTED
	};
	static const char *const fixed[] = {
#define GUC_FIXED(spelling, why) spelling,
#include "session/guc_fixed.def"
#undef GUC_FIXED
	};
	static const char *const parsed[] = {
#define GUC_PARSED(name, why) name,
#include "session/guc_parsed.def"
#undef GUC_PARSED
	};
	static const char *const encodings[] = {
#define ENCODING(spelling, reported_as) spelling,
#include "session/encodings.def"
#undef ENCODING
	};
	size_t i;

	(void)state;
	for (i = 1; i < ARRAY_LEN(reported); i++)
		assert_true(strcasecmp(reported[i - 1], reported[i]) < 0);
	for (i = 1; i < ARRAY_LEN(parsed); i++)
		assert_true(strcmp(parsed[i - 1], parsed[i]) < 0);
	for (i = 1; i < ARRAY_LEN(fixed); i++)
		assert_true(strcmp(fixed[i - 1], fixed[i]) < 0);
	for (i = 1; i < ARRAY_LEN(encodings); i++)
		assert_true(strcmp(encodings[i - 1], encodings[i]) < 0);
	for (i = 0; i < ARRAY_LEN(reported); i++)
		assert_string_equal(param_reported_name(reported[i]), reported[i]);
	assert_null(param_reported_name("work_mem"));
}

#define POOL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void bits_of_names(void **state)
{
	struct param_pool *pool = *state;
	struct param_set *have = server_15(pool);
	struct param_set *told = param_set_with(pool, have, "TimeZone", "Asia/Tokyo", true);
	struct param_set *both;
	const uint16_t zone = param_bit("timezone");
	struct sbuf sql;

	assert_int_not_equal(zone, 0);
	assert_int_equal(param_bit("TimeZone"), zone);
	assert_int_equal(param_bit("server_version"), 0);
	assert_int_equal(param_bit("work_mem"), 0);
	assert_int_equal(param_bits(NULL), 0);
	assert_int_equal(param_bits(have), zone | param_bit("DateStyle") |
	                                       param_bit("client_encoding") |
	                                       param_bit("application_name"));
	assert_int_equal(param_bits_differing(have, have), 0);
	assert_int_equal(param_bits_differing(have, NULL), 0);
	assert_int_equal(param_bits_differing(told, have), zone);
	both = param_set_adopt(pool, told, have, (uint16_t)~zone);
	assert_ptr_equal(both, told);
	param_set_unref(both);
	both = param_set_adopt(pool, told, have, zone);
	assert_ptr_equal(both, have);
	sbuf_init(&sql, PARAM_MAX_SQL);
	param_reset_sql(zone | param_bit(PARAM_READ_ONLY), have, &sql);
	assert_string_equal(sbuf_text(&sql), "RESET \"TimeZone\";");
	sbuf_free(&sql);
	param_set_unref(both);
	param_set_unref(told);
	param_set_unref(have);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    POOL_TEST(equal_sets_are_one),
	    POOL_TEST(the_flag_is_part_of_identity),
	    POOL_TEST(borders_between_strings_count),
	    POOL_TEST(empty_and_null_are_the_same),
	    POOL_TEST(many_sets_in_one_pool),
	    POOL_TEST(bounds_and_bad_names),
	    POOL_TEST(values_are_normalised),
	    POOL_TEST(merge_puts_one_over_the_other),
	    POOL_TEST(sync_sql_quotes_for_any_server),
	    POOL_TEST(sync_sql_resets_and_orders),
	    POOL_TEST(doubted_extras_are_set_again),
	    POOL_TEST(guesses),
	    POOL_TEST(what_a_text_means),
	    POOL_TEST(what_cannot_be_set_is_left_out),
	    POOL_TEST(settled_sets_agree),
	    POOL_TEST(status_messages),
	    POOL_TEST(encoded_sets_come_back),
	    POOL_TEST(bits_of_names),
	    cmocka_unit_test(tables_are_sorted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
