/* SPDX-License-Identifier: PostgreSQL */
/*
 * Prepared statements: one definition for equal Parse messages, the names of a client, and what a
 * server has, in order of use.
 */
#include "session/stmts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four standard headers above first. */
#include <cmocka.h>

static int setup(void **state)
{
	*state = stmt_store_new();
	return *state == NULL ? -1 : 0;
}

/* A definition that a test forgot, or a reference too many given back, shows here. */
static int teardown(void **state)
{
	bool clean = stmt_store_count(*state) == 0 && stmt_store_bytes(*state) == 0;

	if (clean)
		stmt_store_free(*state);
	return clean ? 0 : -1;
}

/* The definition of a query without types. */
static struct stmt *intern(struct stmt_store *store, const char *query)
{
	char def[256];
	size_t len = strlen(query) + 1;
	struct stmt *stmt;

	assert_true(len + 2 <= sizeof(def));
	memcpy(def, query, len);
	memset(def + len, 0, 2);
	stmt = stmt_store_intern(store, def, len + 2);
	assert_non_null(stmt);
	return stmt;
}

static struct stmt *get(const struct client_stmts *cs, const char *name)
{
	return client_stmts_get(cs, name, strlen(name));
}

static void assert_set(struct client_stmts *cs, const char *name, struct stmt *stmt, size_t max,
                       enum client_stmts_status expected)
{
	assert_int_equal(client_stmts_set(cs, name, strlen(name), stmt, max), expected);
}

/* A digest that starts as told: the table places digests by their first bytes. */
static const uint8_t *digest(unsigned int start, unsigned int rest)
{
	static uint8_t made[4][STMT_DIGEST_LEN];
	static unsigned int turn;
	uint8_t *out = made[turn++ % 4];

	memset(out, 0, STMT_DIGEST_LEN);
	memcpy(out, &start, sizeof(start));
	memcpy(out + 8, &rest, sizeof(rest));
	return out;
}

static void parse_is_split_or_refused(void **state)
{
	static const char whole[] = "s1\0select $1\0\0\1\0\0\0\x17";
	struct stmt_parse parse;
	size_t len = sizeof(whole) - 1;
	size_t cut;

	(void)state;
	assert_true(stmt_split_parse(whole, len, &parse));
	assert_string_equal(parse.name, "s1");
	assert_int_equal(parse.name_len, 2);
	assert_ptr_equal(parse.def, whole + 3);
	assert_int_equal(parse.def_len, len - 3);
	for (cut = 0; cut < len; cut++) {
		char *part = malloc(cut + 1);

		assert_non_null(part);
		memcpy(part + 1, whole, cut);
		assert_false(stmt_split_parse(part + 1, cut, &parse));
		free(part);
	}
	assert_false(stmt_split_parse(whole, len + 1, &parse)); /* a byte too many */
	assert_false(stmt_split_parse("\0\0\xff\xff", 4, &parse));
	assert_true(stmt_split_parse("\0\0\0\0", 4, &parse));
	assert_int_equal(parse.name_len, 0);
}

static void equal_definitions_are_one(void **state)
{
	struct stmt_store *store = *state;
	struct stmt *a = intern(store, "select 1");
	struct stmt *b = intern(store, "select 1");
	struct stmt *c = intern(store, "select 2");
	struct stmt *typed = stmt_store_intern(store, "select 1\0\0\1\0\0\0\x17", 15);

	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c);
	assert_ptr_not_equal(a, typed);
	assert_int_equal(stmt_store_count(store), 3);
	assert_int_equal(a->refs, 2);
	assert_int_equal(a->len, 11);
	assert_memory_equal(a->text, "select 1\0\0\0", 11);
	stmt_unref(a);
	assert_int_equal(stmt_store_count(store), 3);
	stmt_unref(b);
	assert_int_equal(stmt_store_count(store), 2);
	stmt_unref(c);
	stmt_unref(typed);
	stmt_unref(NULL);
}

/* Other workers, processes and releases must come to the same name. */
static void names_on_servers_are_stable(void **state)
{
	struct stmt_store *store = *state;
	struct stmt *stmt = intern(store, "select 1");
	char name[STMT_NAME_LEN + 1];

	assert_int_equal(strlen(stmt_name(stmt)), STMT_NAME_LEN);
	assert_string_equal(stmt_name(stmt), "pgshunt_7564e853d733d68343faa17c9a203410");
	stmt_server_name(stmt_digest(stmt), name);
	assert_string_equal(name, stmt_name(stmt));
	stmt_unref(stmt);
}

static void many_definitions(void **state)
{
	enum { COUNT = 3000 };
	struct stmt_store *store = *state;
	static struct stmt *stmts[COUNT];
	char query[64];
	size_t i;

	for (i = 0; i < COUNT; i++) {
		(void)snprintf(query, sizeof(query), "select %zu", i);
		stmts[i] = intern(store, query);
	}
	assert_int_equal(stmt_store_count(store), COUNT);
	for (i = 0; i < COUNT; i++) {
		(void)snprintf(query, sizeof(query), "select %zu", i);
		assert_ptr_equal(intern(store, query), stmts[i]);
		stmt_unref(stmts[i]);
	}
	for (i = 0; i < COUNT; i++)
		stmt_unref(stmts[(i * 7) % COUNT]);
}

static void a_client_without_statements_is_null(void **state)
{
	struct client_stmts *cs = NULL;
	struct client_stmt_ref ref;
	size_t cursor = 0;

	assert_null(get(cs, "a"));
	assert_null(get(cs, ""));
	assert_null(client_stmts_get_unnamed(cs));
	assert_false(client_stmts_remove(cs, "a", 1));
	assert_int_equal(client_stmts_count(cs), 0);
	assert_int_equal(client_stmts_bytes(cs), 0);
	assert_false(client_stmts_next(cs, &cursor, &ref));
	client_stmts_clear(cs);
	client_stmts_free(cs);
	assert_true(client_stmts_ensure(&cs, *state));
	assert_null(get(cs, "a"));
	assert_false(client_stmts_remove(cs, "a", 1));
	client_stmts_free(cs);
}

static void client_names(void **state)
{
	struct stmt_store *store = *state;
	struct stmt *one = intern(store, "select 1");
	struct stmt *two = intern(store, "select 2");
	struct client_stmts *cs = NULL;

	assert_true(client_stmts_ensure(&cs, store));
	assert_set(cs, "a", one, 2, CLIENT_STMTS_OK);
	assert_set(cs, "a", two, 2, CLIENT_STMTS_EXISTS);
	assert_set(cs, "A'\"\\\n\xff", two, 2, CLIENT_STMTS_OK);
	assert_set(cs, "c", two, 2, CLIENT_STMTS_FULL);
	assert_ptr_equal(get(cs, "a"), one);
	assert_ptr_equal(get(cs, "A'\"\\\n\xff"), two);
	assert_null(get(cs, "A"));
	assert_int_equal(client_stmts_count(cs), 2);
	assert_int_equal(client_stmts_bytes(cs), 2 * 11 + 2 + 7);
	stmt_unref(one);
	stmt_unref(two);
	assert_int_equal(stmt_store_count(store), 2); /* the client holds them */
	assert_true(client_stmts_remove(cs, "a", 1));
	assert_false(client_stmts_remove(cs, "a", 1));
	assert_int_equal(stmt_store_count(store), 1);
	client_stmts_clear(cs);
	assert_int_equal(stmt_store_count(store), 0);
	assert_int_equal(client_stmts_bytes(cs), 0);
	client_stmts_free(cs);
}

/* As in PostgreSQL, whose table has keys of NAMEDATALEN. */
static void long_names_count_to_63_bytes(void **state)
{
	struct stmt_store *store = *state;
	struct stmt *stmt = intern(store, "select 1");
	struct client_stmts *cs = NULL;
	char name[1000];

	memset(name, 'n', sizeof(name));
	assert_true(client_stmts_ensure(&cs, store));
	assert_int_equal(client_stmts_set(cs, name, 1000, stmt, 9), CLIENT_STMTS_OK);
	assert_int_equal(client_stmts_set(cs, name, 63, stmt, 9), CLIENT_STMTS_EXISTS);
	assert_int_equal(client_stmts_set(cs, name, 62, stmt, 9), CLIENT_STMTS_OK);
	name[63] = 'x';
	assert_ptr_equal(client_stmts_get(cs, name, 64), stmt);
	name[62] = 'x';
	assert_null(client_stmts_get(cs, name, 63));
	client_stmts_free(cs);
	stmt_unref(stmt);
}

static void the_unnamed_statement(void **state)
{
	struct stmt_store *store = *state;
	struct stmt *one = intern(store, "select 1");
	struct stmt *two = intern(store, "select 2");
	struct client_stmts *cs = NULL;

	assert_true(client_stmts_ensure(&cs, store));
	assert_true(client_stmts_set_unnamed(cs, one, 11));
	assert_true(client_stmts_set_unnamed(cs, one, 11));
	assert_ptr_equal(client_stmts_get_unnamed(cs), one);
	assert_ptr_equal(get(cs, ""), one);
	assert_int_equal(client_stmts_count(cs), 0);
	assert_int_equal(client_stmts_bytes(cs), 11);
	assert_set(cs, "", two, 0, CLIENT_STMTS_OK);
	assert_ptr_equal(get(cs, ""), two);
	assert_false(client_stmts_set_unnamed(cs, one, 10));
	assert_null(get(cs, ""));
	assert_set(cs, "", two, 0, CLIENT_STMTS_OK);
	assert_true(client_stmts_remove(cs, "", 0));
	assert_false(client_stmts_remove(cs, "", 0));
	assert_set(cs, "", two, 0, CLIENT_STMTS_OK);
	stmt_unref(one);
	stmt_unref(two);
	client_stmts_free(cs);
}

/* Random changes, compared with a plain array. */
static void client_table_keeps_its_names(void **state)
{
	enum { NAMES = 200, STEPS = 20000 };
	struct stmt_store *store = *state;
	struct stmt *stmt = intern(store, "select 1");
	struct client_stmts *cs = NULL;
	bool there[NAMES] = {false};
	struct client_stmt_ref ref;
	unsigned int seed = 1;
	size_t cursor = 0;
	size_t count = 0;
	size_t i;

	assert_true(client_stmts_ensure(&cs, store));
	for (i = 0; i < STEPS; i++) {
		size_t n = (size_t)rand_r(&seed) % NAMES;
		bool set = rand_r(&seed) % 2 == 0;
		char name[16];

		(void)snprintf(name, sizeof(name), "S_%zu", n);
		assert_int_equal(get(cs, name) != NULL, there[n]);
		if (set)
			assert_set(cs, name, stmt, NAMES,
			           there[n] ? CLIENT_STMTS_EXISTS : CLIENT_STMTS_OK);
		else
			assert_int_equal(client_stmts_remove(cs, name, strlen(name)), there[n]);
		there[n] = set;
	}
	while (client_stmts_next(cs, &cursor, &ref)) {
		assert_true(there[strtoul(ref.name + 2, NULL, 10)]);
		assert_int_equal(strlen(ref.name), ref.name_len);
		assert_ptr_equal(ref.stmt, stmt);
		count++;
	}
	assert_int_equal(count, client_stmts_count(cs));
	for (i = 0; i < NAMES; i++)
		count -= there[i];
	assert_int_equal(count, 0);
	client_stmts_free(cs);
	stmt_unref(stmt);
}

static void server_evicts_the_least_recently_used(void **state)
{
	struct server_stmts ss = {0};
	uint8_t out[STMT_DIGEST_LEN];
	const uint8_t *seen;
	uint32_t cursor = 0;
	unsigned int i;

	(void)state;
	assert_false(server_stmts_contains(&ss, digest(1, 0)));
	assert_false(server_stmts_touch(&ss, digest(1, 0)));
	assert_false(server_stmts_remove(&ss, digest(1, 0)));
	assert_false(server_stmts_evict(&ss, 0, out));
	server_stmts_clear(&ss);
	for (i = 1; i <= 4; i++)
		assert_true(server_stmts_add(&ss, digest(i, 0)));
	assert_true(server_stmts_touch(&ss, digest(1, 0)));
	assert_true(server_stmts_add(&ss, digest(3, 0))); /* there already: a touch */
	assert_true(server_stmts_contains(&ss, digest(2, 0)));
	assert_int_equal(server_stmts_count(&ss), 4);
	for (i = 0; server_stmts_next(&ss, &cursor, &seen); i++) {
		static const unsigned int order[] = {3, 1, 4, 2};

		assert_memory_equal(seen, digest(order[i], 0), STMT_DIGEST_LEN);
	}
	assert_int_equal(i, 4);
	assert_false(server_stmts_evict(&ss, 4, out));
	assert_true(server_stmts_evict(&ss, 2, out));
	assert_memory_equal(out, digest(2, 0), STMT_DIGEST_LEN);
	assert_true(server_stmts_evict(&ss, 2, out));
	assert_memory_equal(out, digest(4, 0), STMT_DIGEST_LEN);
	assert_false(server_stmts_evict(&ss, 2, out));
	server_stmts_clear(&ss);
	assert_int_equal(server_stmts_count(&ss), 0);
	assert_false(server_stmts_contains(&ss, digest(1, 0)));
	assert_true(server_stmts_add(&ss, digest(9, 0)));
	assert_true(server_stmts_evict(&ss, 0, out));
	server_stmts_free(&ss);
}

/* Random changes over digests that collide, compared with a plain array that holds last uses. */
static void server_table_keeps_its_digests(void **state)
{
	enum { DIGESTS = 300, STEPS = 30000, MAX = 200 };
	static unsigned int used[DIGESTS];
	struct server_stmts ss = {0};
	unsigned int seed = 7;
	unsigned int step;
	size_t count = 0;

	(void)state;
	memset(used, 0, sizeof(used));
	for (step = 1; step <= STEPS; step++) {
		unsigned int n = (unsigned int)rand_r(&seed) % DIGESTS;
		const uint8_t *d = digest(n % 20, n);
		uint8_t out[STMT_DIGEST_LEN];

		assert_int_equal(server_stmts_contains(&ss, d), used[n] != 0);
		switch (rand_r(&seed) % 4) {
		case 0:
			assert_int_equal(server_stmts_remove(&ss, d), used[n] != 0);
			count -= used[n] != 0;
			used[n] = 0;
			break;
		case 1:
			assert_int_equal(server_stmts_touch(&ss, d), used[n] != 0);
			used[n] = used[n] != 0 ? step : 0;
			break;
		default:
			assert_true(server_stmts_add(&ss, d));
			count += used[n] == 0;
			used[n] = step;
			break;
		}
		while (server_stmts_evict(&ss, MAX, out)) {
			unsigned int i;

			memcpy(&n, out + 8, sizeof(n));
			assert_in_range(n, 0, DIGESTS - 1);
			for (i = 0; i < DIGESTS; i++)
				assert_true(used[i] == 0 || used[i] >= used[n]);
			used[n] = 0;
			count--;
		}
		assert_int_equal(server_stmts_count(&ss), count);
	}
	server_stmts_free(&ss);
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(parse_is_split_or_refused),
	    STORE_TEST(equal_definitions_are_one),
	    STORE_TEST(names_on_servers_are_stable),
	    STORE_TEST(many_definitions),
	    STORE_TEST(a_client_without_statements_is_null),
	    STORE_TEST(client_names),
	    STORE_TEST(long_names_count_to_63_bytes),
	    STORE_TEST(the_unnamed_statement),
	    STORE_TEST(client_table_keeps_its_names),
	    cmocka_unit_test(server_evicts_the_least_recently_used),
	    cmocka_unit_test(server_table_keeps_its_digests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
