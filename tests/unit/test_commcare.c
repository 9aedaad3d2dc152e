/* SPDX-License-Identifier: PostgreSQL */
#include "base/mem.h"
#include "conf/commcare.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char inventory_text[] = "; made by hand\n"
                                     "[pg1]\n"
                                     "10.0.0.1 hostname=pg1 ansible_host=10.1.0.1 note='a b # c'\n"
                                     "[pg2]\n"
                                     "10.0.0.2   hostname=pg2  # the new one\n"
                                     "[proxy1]\n10.0.0.9\n"
                                     "[postgresql:children]\npg1\npg2\n"
                                     "[postgresql:vars]\nis_pg_master=true\n";

static const char yaml_text[] = "# Where things are; ünïcode before the offsets\n"
                                "DEFAULT_POSTGRESQL_HOST: pg1\n"
                                "host_settings: {pg2: {port: 6543}}\n"
                                "dbs:\n"
                                "  main: {}  # inherits\n"
                                "  synclogs:\n"
                                "    pgbouncer_host: proxy1\n"
                                "  form_processing:\n"
                                "    proxy:\n"
                                "      host: proxy1\n"
                                "    partitions:\n"
                                "      p1: {shards: [0, 1], host: pg1}\n"
                                "      p2:\n"
                                "        shards: [2, 3]\n"
                                "        host: pg1   # here until it moves\n"
                                "      p3:\n"
                                "        # inherits\n"
                                "        shards: [4, 5]\n"
                                "      p4: {shards: [6, 7]}\n"
                                "  custom:\n"
                                "    - django_alias: other\n"
                                "      name: other_db\n"
                                "  standby: []\n";

static bool parse(const char *yaml, struct commcare *out, struct sbuf *errors)
{
	sbuf_init(errors, 65536);
	return commcare_parse("postgresql.yml", yaml, strlen(yaml), "inventory.ini", inventory_text,
	                      out, errors);
}

static void expect(const struct commcare *commcare, const char *name, const char *host,
                   const char *endpoint, int port)
{
	const struct commcare_database *database = commcare_find(commcare, name);

	assert_non_null(database);
	assert_string_equal(database->host, host);
	assert_string_equal(database->endpoint, endpoint);
	assert_int_equal(database->port, port);
}

static void test_resolution(void **state)
{
	struct commcare commcare;
	struct sbuf errors;

	(void)state;
	if (!parse(yaml_text, &commcare, &errors))
		fail_msg("%s", sbuf_text(&errors));
	expect(&commcare, "commcarehq", "10.0.0.1", "10.0.0.1", 6432);
	expect(&commcare, "commcarehq_synclogs", "10.0.0.1", "10.0.0.9", 6432);
	expect(&commcare, "commcarehq_proxy", "10.0.0.9", "10.0.0.9", 6432);
	expect(&commcare, "commcarehq_p2", "10.0.0.1", "10.0.0.1", 6432);
	expect(&commcare, "other_db", "10.0.0.1", "10.0.0.1", 6432);
	assert_true(commcare_find(&commcare, "commcarehq_p3")->inherited);
	assert_int_equal(commcare_find(&commcare, "commcarehq_p4")->last, 7);
	assert_string_equal(commcare_spelling(&commcare, "pg2", "x"), "pg2");
	assert_string_equal(commcare_spelling(&commcare, "new", "10.0.0.2"), "pg2");
	assert_string_equal(commcare_spelling(&commcare, "old", "10.1.0.1"), "pg1");
	assert_null(commcare_spelling(&commcare, "new", "10.0.0.3"));
	commcare_free(&commcare);
	sbuf_free(&errors);
}

/* One database moves; exactly `from` becomes `to` in the text. */
static void moves(const char *name, bool keep_endpoint, const char *from, const char *to)
{
	struct commcare commcare;
	struct sbuf errors;
	char *text;
	const char *at = strstr(yaml_text, from);
	char *expected;

	assert_non_null(at);
	expected =
	    mem_must_printf("%.*s%s%s", (int)(at - yaml_text), yaml_text, to, at + strlen(from));
	assert_true(parse(yaml_text, &commcare, &errors));
	text = commcare_move(&commcare, &name, 1, "pg2", keep_endpoint, &errors);
	if (text == NULL)
		fail_msg("%s", sbuf_text(&errors));
	assert_string_equal(text, expected);
	free(text);
	free(expected);
	commcare_free(&commcare);
	sbuf_free(&errors);
}

static void test_move(void **state)
{
	(void)state;
	moves("commcarehq_p2", false, "host: pg1   #", "host: pg2   #");
	moves("commcarehq_p1", false, "[0, 1], host: pg1}", "[0, 1], host: pg2}");
	moves("commcarehq_p3", false, "        shards: [4, 5]\n",
	      "        host: pg2\n        shards: [4, 5]\n");
	moves("commcarehq_p4", false, "{shards: [6, 7]}", "{host: pg2, shards: [6, 7]}");
	moves("other_db", false, "    - django_alias", "    - host: pg2\n      django_alias");
	/* It has an endpoint of its own, which stays either way. */
	moves("commcarehq_synclogs", true, "    pgbouncer_host",
	      "    host: pg2\n    port: 6432\n    pgbouncer_host");
}

static void test_transitional(void **state)
{
	(void)state;
	/* The port of the new host would be another one: it is written down. */
	moves("commcarehq_p2", true, "        host: pg1   #",
	      "        pgbouncer_hosts: [pg2, pg1]\n        pgbouncer_endpoint: pg1\n"
	      "        port: 6432\n        host: pg2   #");
	moves("commcarehq_p4", true, "{shards: [6, 7]}",
	      "{host: pg2, pgbouncer_hosts: [pg2, pg1], pgbouncer_endpoint: pg1, port: 6432, "
	      "shards: [6, 7]}");
}

static void fails(const char *yaml, const char *word)
{
	struct commcare commcare;
	struct sbuf errors;

	assert_false(parse(yaml, &commcare, &errors));
	if (strstr(sbuf_text(&errors), word) == NULL)
		fail_msg("%s", sbuf_text(&errors));
	sbuf_free(&errors);
}

#define PARTITIONS "dbs:\n  form_processing:\n    proxy: {host: pg1}\n    partitions:\n"

static void test_rules(void **state)
{
	(void)state;
	fails("dbs: {main: {hots: pg1}}\n", "unknown key hots");
	fails("dbs: {main: {host: pg9}}\n", "neither a host of the inventory");
	fails("dbs: {main: {host: postgresql}}\n", "neither a host of the inventory");
	fails("dbs: {main: {pgbouncer_hosts: [pg1]}}\n", "pgbouncer_endpoint is missing");
	fails("dbs: {main: {pgbouncer_host: pg1, pgbouncer_endpoint: pg1}}\n", "stands for");
	fails("other: 1\n", "unknown key other");
	fails(PARTITIONS "      p1: {shards: [0, 2]}\n", "power of two");
	fails(PARTITIONS "      p1: {shards: [1, 2]}\n", "begin at 0");
	fails(PARTITIONS "      p1: {shards: [0, 0]}\n      p2: {shards: [2, 2]}\n", "begin at 1");
	fails(PARTITIONS "      q1: {shards: [0, 1]}\n", "must be called p and a number");
	fails(PARTITIONS "      p1: {shards: [0, 1], name: x}\n", "commcarehq_p1, not x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_resolution),
	    cmocka_unit_test(test_move),
	    cmocka_unit_test(test_transitional),
	    cmocka_unit_test(test_rules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
