/* SPDX-License-Identifier: PostgreSQL */
#include "conf/ini.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char main_file[] = "; a comment = no value\n"
                                "[databases]\n"
                                "p1 = host=pg1 port=5432 dbname=p1   \n"
                                "\t # p2 = host=nowhere\n"
                                "p2=host=pg1 dbname='a ''b''' ; not a comment\r\n"
                                "\"p-\"\"x\" = host=pg1\n"
                                "* = host=pg9\n"
                                "%include /etc/more.ini\n"
                                "late = host=pg3\n"
                                "[pgbouncer]\n"
                                "listen_port = 6432\n"
                                "%include other.ini  \n"
                                "admin_users = a, b";

static bool give(void *arg, const char *path, char **bytes, size_t *len, struct sbuf *error)
{
	const char *text = NULL;

	if (strcmp(path, "/etc/pgbouncer.ini") == 0)
		text = arg;
	else if (strcmp(path, "/etc/more.ini") == 0)
		text = "p1 = host=pg2 port=1\n";
	else if (strcmp(path, "/etc/other.ini") == 0)
		text = "\n\nlisten_port = 1\n[users]\nu = pool_mode=session\n";
	if (text == NULL) {
		sbuf_printf(error, "no %s\n", path);
		return false;
	}
	*bytes = strdup(text);
	*len = strlen(text);
	return true;
}

static bool load(const char *text, struct ini *ini, struct sbuf *errors)
{
	union {
		const char *in;
		void *out;
	} both = {.in = text};

	sbuf_init(errors, 4096);
	return ini_load("/etc/pgbouncer.ini", give, both.out, ini, errors);
}

static const char *value(const struct ini *ini, const char *section, const char *key)
{
	const struct ini_item *item = ini_find(ini, section, key);

	return item == NULL ? NULL : item->value;
}

static void test_load(void **state)
{
	struct ini ini;
	struct sbuf errors;
	const struct ini_item *item;

	(void)state;
	assert_true(load(main_file, &ini, &errors));
	assert_int_equal(ini.file_count, 3);
	/* The included file comes later and counts; its section is that of the includer. */
	assert_string_equal(value(&ini, "databases", "p1"), "host=pg2 port=1");
	assert_string_equal(value(&ini, "databases", "p2"),
	                    "host=pg1 dbname='a ''b''' ; not a comment");
	assert_string_equal(value(&ini, "databases", "p-\"x"), "host=pg1");
	assert_string_equal(value(&ini, "databases", "*"), "host=pg9");
	assert_string_equal(value(&ini, "databases", "late"), "host=pg3");
	assert_string_equal(value(&ini, "pgbouncer", "listen_port"), "1");
	/* A section that began in an included file goes on behind it, as in pgbouncer. */
	assert_string_equal(value(&ini, "users", "admin_users"), "a, b");
	assert_null(value(&ini, "databases", "nobody"));
	item = ini_find(&ini, "pgbouncer", "listen_port");
	assert_int_equal(item->line, 3);
	assert_string_equal(ini.files[item->file].path, "/etc/other.ini");
	ini_free(&ini);
	sbuf_free(&errors);
}

static void test_edit(void **state)
{
	struct ini ini;
	struct sbuf errors;
	const struct ini_item *item;
	char *after;
	size_t len;

	(void)state;
	assert_true(load(main_file, &ini, &errors));
	item = ini_find(&ini, "databases", "p2");
	assert_int_equal(item->file, 0);
	after = ini_with_value(&ini, item, "host=else", &len);
	assert_int_equal(strlen(after), len);
	assert_non_null(strstr(after, "\np2=host=else\r\n\"p-"));
	assert_int_equal(len, strlen(main_file) - strlen(item->value) + strlen("host=else"));
	assert_memory_equal(after, main_file, item->start);
	free(after);
	ini_free(&ini);
	sbuf_free(&errors);
}

static void fails(const char *text, const char *expected)
{
	struct ini ini;
	struct sbuf errors;

	assert_false(load(text, &ini, &errors));
	assert_string_equal(sbuf_text(&errors), expected);
	assert_int_equal(ini.item_count, 0);
	sbuf_free(&errors);
}

/* What pgbouncer's parser has and its documentation has not. */
static void test_undocumented(void **state)
{
	struct ini ini;
	struct sbuf errors;

	(void)state;
	assert_true(load("[databases]\n'a \"b' = host=pg1\n[pgbouncer]\npool_mode = session\n"
	                 "[users]\n[pgbouncer] user = me\n[peers]\n",
	                 &ini, &errors));
	assert_string_equal(value(&ini, "databases", "a \"b"), "host=pg1");
	assert_int_equal(ini.heading_count, 5);
	assert_int_equal(ini_last_heading(&ini, "pgbouncer"), 4);
	assert_int_equal(ini_last_heading(&ini, "nowhere"), 0);
	assert_int_equal(ini_find(&ini, "pgbouncer", "pool_mode")->heading, 2);
	assert_int_equal(ini_find(&ini, "pgbouncer", "user")->heading, 4);
	ini_free(&ini);
	sbuf_free(&errors);
	fails("[databases]\n'a = host=pg1\n", "/etc/pgbouncer.ini:2: expected \"key = value\"\n");
	fails("[databases]\n'' = host=pg1\n", "/etc/pgbouncer.ini:2: expected \"key = value\"\n");
}

static void test_malformed(void **state)
{
	(void)state;
	fails("a = b\n", "/etc/pgbouncer.ini:1: a value stands before the first [section]\n");
	fails("[x]\n\na b\n", "/etc/pgbouncer.ini:3: expected \"key = value\"\n");
	fails("[x]\n= b\n", "/etc/pgbouncer.ini:2: expected \"key = value\"\n");
	fails("[x]\n\"a = b\n", "/etc/pgbouncer.ini:2: expected \"key = value\"\n");
	fails("[x]\n\"\" = b\n", "/etc/pgbouncer.ini:2: expected \"key = value\"\n");
	fails("[x\n", "/etc/pgbouncer.ini:1: the ] of a [section] is missing\n");
	fails("%includes x\n", "/etc/pgbouncer.ini:1: expected %include and the name of a file\n");
	fails("%include  \n", "/etc/pgbouncer.ini:1: expected %include and the name of a file\n");
	fails("[x]\n%", "/etc/pgbouncer.ini:2: expected %include and the name of a file\n");
	fails("%include none.ini\n", "no /etc/none.ini\n");
	fails("%include /etc/pgbouncer.ini\n",
	      "/etc/pgbouncer.ini: included too deep; does it include itself?\n");
}

static void expect(const char *list, const char *key, const char *expected)
{
	char *got;

	assert_true(ini_pair_get(list, key, &got));
	if (expected == NULL)
		assert_null(got);
	else
		assert_string_equal(got, expected);
	free(got);
}

static void test_pairs(void **state)
{
	char *got;

	(void)state;
	expect("host=pg1 port=5432", "host", "pg1");
	expect("host = pg1  port= 5432 ", "port", "5432");
	expect("connect_query='select ''x'' = 1' host=h", "connect_query", "select 'x' = 1");
	expect("connect_query='host=no' port=1", "host", NULL);
	expect("host=a host=b", "host", "b");
	expect("", "host", NULL);
	for (const char *const *bad =
	         (const char *const[]){"host", "host=", "=x", "host='a", "a=1 b", "a=''", NULL};
	     *bad != NULL; bad++)
		assert_false(ini_pair_get(*bad, "host", &got));
}

static void readdress(const char *list, const char *host, int port, const char *expected)
{
	char *got = ini_readdress(list, host, port);

	assert_non_null(got);
	assert_string_equal(got, expected);
	free(got);
}

static void test_readdress(void **state)
{
	(void)state;
	readdress("host=pg1 port=5432 pool_size=3", "pg2", 5433, "host=pg2 port=5433 pool_size=3");
	readdress("dbname=x  host='pg1'", "pg2", 5432, "dbname=x  host=pg2");
	readdress("dbname=x  host=pg1", "pg2", 6000, "dbname=x  host=pg2 port=6000");
	readdress("dbname=x", "pg2", 6000, "host=pg2 dbname=x port=6000");
	readdress("", "/a b/it's", 5432, "host='/a b/it''s'");
	readdress("port=1 connect_query='host=pg1'", "h", 5432,
	          "host=h port=5432 connect_query='host=pg1'");
	readdress("host='pg1'port='1'user=a", "h", 5432, "host=h port=5432 user=a");
	readdress("port='1'\tuser=a host=b", "h", 5432, "port=5432 \tuser=a host=h");
	assert_null(ini_readdress("host", "h", 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_load),      cmocka_unit_test(test_edit),
	    cmocka_unit_test(test_malformed), cmocka_unit_test(test_pairs),
	    cmocka_unit_test(test_readdress), cmocka_unit_test(test_undocumented),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
