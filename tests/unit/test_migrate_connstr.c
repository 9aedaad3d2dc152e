/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/connstr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect(const char *connstr, const char *key, const char *expected)
{
	char *value;

	assert_true(connstr_get(connstr, key, &value));
	if (expected == NULL)
		assert_null(value);
	else
		assert_string_equal(value, expected);
	free(value);
}

static void test_get(void **state)
{
	(void)state;
	expect("dbname=p2 host=pg1 port=6432", "host", "pg1");
	expect("dbname=p2 host=pg1 port=6432", "port", "6432");
	expect("dbname=p2 host=pg1 port=6432", "user", NULL);
	expect("  dbname = p2   host= pg1 ", "dbname", "p2");
	expect("  dbname = p2   host= pg1 ", "host", "pg1");
	expect("host=a host=b", "host", "b");
	expect("dbname='a b\\'c\\\\d' host=h", "dbname", "a b'c\\d");
	expect("dbname=a\\ b host=h", "dbname", "a b");
	expect("dbname='' host=h", "dbname", "");
	expect("", "host", NULL);
	/* A key is not found inside another one's name or value. */
	expect("xhost=1 options='host=2'", "host", NULL);
}

static void test_malformed(void **state)
{
	static const char *const bad[] = {
	    "host", "=x", "host 'x'", "host='x", "host='it''s'", "postgresql://pg1/p2", "a=1 b"};
	char *value;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_false(connstr_get(bad[i], "host", &value));
		assert_null(value);
	}
}

static void readdress(const char *connstr, const char *host, int port, const char *expected)
{
	const char *error = NULL;
	char *out;

	assert_true(connstr_readdress(connstr, host, port, &out, &error));
	assert_string_equal(out, expected);
	free(out);
}

static void test_readdress(void **state)
{
	(void)state;
	readdress("dbname=commcarehq_p2 host=pg1 port=6432", "pg2", 5433,
	          "dbname=commcarehq_p2 host=pg2 port=5433");
	/* Order, blanks and everything else stay. */
	readdress(" port = '5432'  host =  pg1\tdbname='my db' connect_timeout=3 ", "10.0.0.2",
	          5432, " port = 5432  host =  10.0.0.2\tdbname='my db' connect_timeout=3 ");
	/* A port that was left out is only added if it is needed. */
	readdress("host=pg1 dbname=p2", "pg2", 5432, "host=pg2 dbname=p2");
	readdress("host=pg1 dbname=p2", "pg2", 5433, "host=pg2 dbname=p2 port=5433");
	readdress("host=pg1 dbname=p2", "/run/my sockets", 5432,
	          "host='/run/my sockets' dbname=p2");
	readdress("host=pg1 host=pg1", "pg2", 5432, "host=pg2 host=pg2");
}

static void test_cannot_readdress(void **state)
{
	static const char *const bad[] = {"dbname=p2", "host=a,b dbname=p2",
	                                  "host=a hostaddr=10.0.0.1", "service=x host=a",
	                                  "host='a"};
	const char *error;
	char *out;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		error = NULL;
		assert_false(connstr_readdress(bad[i], "pg2", 5432, &out, &error));
		assert_null(out);
		assert_non_null(error);
	}
}

static void test_partition(void **state)
{
	static const char *const others[] = {"p",
	                                     "px",
	                                     "p1x",
	                                     "P1",
	                                     "partition_",
	                                     "partition",
	                                     "connection_lifetime",
	                                     "p99999999999",
	                                     ""};
	int number = -1;

	(void)state;
	assert_true(partition_number("p0", &number));
	assert_int_equal(number, 0);
	assert_true(partition_number("p0205", &number));
	assert_int_equal(number, 205);
	assert_true(partition_number("partition_17", &number));
	assert_int_equal(number, 17);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_false(partition_number(others[i], &number));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_get),       cmocka_unit_test(test_malformed),
	    cmocka_unit_test(test_readdress), cmocka_unit_test(test_cannot_readdress),
	    cmocka_unit_test(test_partition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
