/* SPDX-License-Identifier: PostgreSQL */
/*
 * Route tables: made from the configuration, copied to be changed, counted by references; a server
 * of a table stays valid as long as the table.
 */
#include "core/route.h"

#include "base/sbuf.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

#define YAML                                                                                       \
	"servers: {pg1: {host: h1, port: 5001}, pg2: {host: h2}}\n"                                \
	"databases: {d1: {server: pg1}, d2: {server: pg2, dbname: other}}\n"

static struct config *load(void)
{
	struct config *config = NULL;
	struct sbuf errors;

	sbuf_init(&errors, 65536);
	if (!config_load_buffer("f", YAML, strlen(YAML), &config, &errors))
		fail_msg("%s", sbuf_text(&errors));
	sbuf_free(&errors);
	return config;
}

static void test_as_configured(void **state)
{
	struct config *config = load();
	struct route_table *table = route_table_new(config);
	const struct route *route = route_find(table, "d2");

	(void)state;
	config_unref(config); /* the table has its own reference */
	assert_int_equal(table->count, 2);
	assert_non_null(route);
	assert_string_equal(route->server->name, "pg2");
	assert_string_equal(route->database->dbname, "other");
	assert_int_equal(route->epoch, 0);
	assert_string_equal(route_origin_name(route->origin), "config");
	assert_string_equal(route_find(table, "d1")->server->name, "pg1");
	assert_null(route_find(table, "d"));
	assert_null(route_find(table, ""));
	assert_null(route_find_mutable(table, "D1"));
	route_table_unref(table);
	route_table_unref(NULL);
}

static void test_copy_is_its_own(void **state)
{
	struct config *config = load();
	struct route_table *old = route_table_new(config);
	struct route_table *fresh = route_table_copy(old);
	struct route *route = route_find_mutable(fresh, "d1");

	(void)state;
	assert_int_equal(fresh->version, old->version + 1);
	route->server = config_find_server(config, "pg2");
	route->origin = ROUTE_FROM_SWAP;
	route->epoch = 7;
	assert_string_equal(route_find(old, "d1")->server->name, "pg1");
	assert_int_equal(route_find(old, "d1")->epoch, 0);
	assert_string_equal(route_find(fresh, "d1")->server->name, "pg2");
	assert_string_equal(route_find(fresh, "d2")->server->name, "pg2");
	assert_string_equal(route_origin_name(route_find(fresh, "d1")->origin), "swap");
	config_unref(config);
	route_table_unref(old);
	assert_string_equal(route_find(fresh, "d1")->server->host, "h2");
	route_table_unref(fresh);
}

static void *count(void *arg)
{
	for (int i = 0; i < 10000; i++)
		route_table_unref(route_table_ref(arg));
	route_table_unref(arg);
	return NULL;
}

static void test_references_of_threads(void **state)
{
	struct config *config = load();
	struct route_table *table = route_table_new(config);
	pthread_t threads[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count, route_table_ref(table)),
		                 0);
	for (int i = 0; i < 3; i++)
		(void)pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&table->refs), 1);
	route_table_unref(table);
	config_unref(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_as_configured),
	    cmocka_unit_test(test_copy_is_its_own),
	    cmocka_unit_test(test_references_of_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
