/* SPDX-License-Identifier: PostgreSQL */
/* The configuration: every kind of error with its exact place. */
#include "config_load.h"

#include "base/mem.h"
#include "conf/config.h"
#include "conf/secret.h"
#include "conf/show.h"
#include "conf/table.h"
#include "conf/value.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- errors: the form of the file ---- */

static void test_empty(void **state)
{
	static const char text[] =
	    "f:1:1: the file is empty; expected at least the sections servers and databases\n";

	(void)state;
	expect_errors("", text);
	expect_errors("# only a comment\n\n", text);
	expect_errors("---\n", text);
	expect_errors("~\n", text);
}

static void test_not_a_map(void **state)
{
	(void)state;
	expect_errors("- a\n", "f:1:1: the file: expected \"name: value\" lines, not a list\n");
	expect_errors("\nhello\n",
	              "f:2:1: the file: expected \"name: value\" lines, not a single value\n");
	expect_errors(REST "proxy: 5\n",
	              "f:3:8: proxy: expected \"name: value\" lines, not a single value\n");
	expect_errors(REST "users: [a]\n",
	              "f:3:8: users: expected \"name: value\" lines, not a list\n");
	expect_errors(
	    REST "mover:\n  proxies: x\n",
	    "f:4:12: mover.proxies: expected \"name: value\" lines, not a single value\n");
	expect_errors("servers: {pg1: h1}\ndatabases: {}\n",
	              "f:1:16: servers.pg1: expected \"name: value\" lines, not a single value\n");
}

static void test_syntax(void **state)
{
	(void)state;
	expect_errors("proxy:\n\tport: 1\n",
	              "f:2:1: YAML syntax: found character that cannot start any token while "
	              "scanning for the next token; indent with spaces, not tabs, and put values "
	              "with special characters in quotes\n");
	expect_errors("proxy: {port: 1\n" REST,
	              "f:2:8: YAML syntax: did not find expected ',' or '}' while parsing a flow "
	              "mapping\n");
	expect_errors("proxy:\n  port\n  workers: 1\n",
	              "f:3:10: YAML syntax: mapping values are not allowed in this context; a "
	              "value that contains \": \" must be in quotes, and names of one section "
	              "begin in the same column\n");
	expect_errors("proxy:\n  listen_addresses: *\n",
	              "f:2:22: YAML syntax: did not find expected alphabetic or numeric character "
	              "while scanning an alias; a value that begins with * must be in quotes\n");
	expect_errors(REST "...\n---\nproxy: {}\n",
	              "f:4:1: a second YAML document begins here; the file must be one\n");
}

static void test_bytes(void **state)
{
	static const char utf16[] = "\xff\xfep\0r\0";

	(void)state;
	expect_errors("proxy:\n  pid_file: \xc3\xa4\xff\n",
	              "f:2:14: invalid leading UTF-8 octet; the file must be UTF-8 text without "
	              "control characters\n");
	expect_errors("proxy:\n  pid_file: \x01\n",
	              "f:2:13: control characters are not allowed; the file must be UTF-8 text "
	              "without control characters\n");
	expect_errors("\xc3", "f:1:1: incomplete UTF-8 octet sequence; the file must be UTF-8 text "
	                      "without control characters\n");
	expect_errors_len("a\0b", 3,
	                  "f:1:2: control characters are not allowed; the file must be UTF-8 text "
	                  "without control characters\n");
	expect_errors_len(utf16, sizeof(utf16) - 1,
	                  "f:1:1: invalid leading UTF-8 octet; the file must be UTF-8 text without "
	                  "control characters\n");
	/* a byte order mark of UTF-8 is not in the way */
	config_unref(must_load("\xef\xbb\xbf" REST));
}

static void test_control_characters(void **state)
{
	(void)state;
	expect_errors(REST "proxy:\n  pid_file: \"a\\0b\"\n",
	              "f:4:13: a zero byte is not allowed in a value\n");
	expect_errors(REST "proxy:\n  pid_file: \"a\\nb\"\n",
	              "f:4:13: proxy.pid_file: the value has a line break, a tab or another "
	              "control character; expected one line of text\n");
	expect_errors("servers: {\"a\\tb\": {host: h}}\ndatabases: {}\n",
	              "f:1:11: servers: \"a?b\" cannot be the name of a server; expected a text "
	              "without control characters\n");
	expect_errors("servers: {\"\": {host: h}}\ndatabases: {}\n",
	              "f:1:11: servers: \"\" cannot be the name of a server; expected a text "
	              "without control characters\n");
}

static void test_yaml_extras(void **state)
{
	(void)state;
	expect_errors(
	    "servers: {pg1: &a {host: h1}, pg2: *a}\ndatabases: {}\n",
	    "f:1:16: anchors (&name) are not supported; write the value without one\n"
	    "f:1:36: aliases (*name) are not supported; write the value out, or in quotes "
	    "if it is meant to begin with *\n");
	expect_errors("servers:\n  pg1:\n    <<: {host: h1}\n    host: h\ndatabases: {}\n",
	              "f:3:5: merge keys (<<) are not supported; write the settings out\n");
	expect_errors(REST "proxy: {port: !!int 5}\n",
	              "f:3:15: tags (!name) are not supported; write the value without one\n");
	expect_errors("%YAML 1.1\n%TAG ! !\n---\n" REST,
	              "f:2:1: %TAG lines are not supported; leave the line out\n");
	config_unref(must_load("%YAML 1.1\n---\n" REST));
	expect_errors("? [a]\n: b\n", "f:1:3: expected a name here, not a list\n");
}

static void test_depth(void **state)
{
	char *many = mem_must_alloc(100001);

	(void)state;
	expect_errors("a: [[[[[[[[[[\n", "f:1:11: nested too deep; no setting lies deeper than 8 "
	                                 "levels\n");
	memset(many, '[', 100000);
	expect_errors(many, "f:1:9: nested too deep; no setting lies deeper than 8 levels\n");
	free(many);
}

static void test_size(void **state)
{
	char *bytes = mem_must_alloc(CONFIG_FILE_MAX + 1);
	struct config *config;
	struct sbuf errors;

	(void)state;
	memset(bytes, '#', CONFIG_FILE_MAX + 1);
	expect_errors_len(bytes, CONFIG_FILE_MAX + 1,
	                  "f: the file is too large; at most 1048576 bytes are read\n");
	memset(bytes, '\n', CONFIG_FILE_MAX);
	memcpy(bytes, REST, strlen(REST));
	config = load_bytes(bytes, CONFIG_FILE_MAX, &errors);
	assert_non_null(config);
	config_unref(config);
	memset(bytes, ',', CONFIG_FILE_MAX);
	for (size_t i = 1; i < CONFIG_FILE_MAX; i += 2)
		bytes[i] = 'a';
	bytes[0] = '[';
	expect_errors_len(bytes, CONFIG_FILE_MAX,
	                  "f:1:400000: the file has more than 200000 "
	                  "values\n");
	sbuf_free(&errors);
	free(bytes);
}

static void test_many_errors(void **state)
{
	struct sbuf yaml;

	(void)state;
	sbuf_init(&yaml, CONFIG_FILE_MAX);
	sbuf_add_str(&yaml, REST "proxy:\n");
	for (int i = 0; i < 250; i++)
		sbuf_printf(&yaml, "  unknown%d: 1\n", i);
	{
		struct sbuf errors;
		struct config *config = load_bytes(yaml.data, yaml.len, &errors);

		assert_null(config);
		assert_non_null(strstr(sbuf_text(&errors), "f:103:3: proxy: unknown setting "
		                                           "\"unknown99\""));
		assert_null(strstr(sbuf_text(&errors), "unknown100"));
		assert_non_null(strstr(sbuf_text(&errors), "\nf: 150 more errors\n"));
		sbuf_free(&errors);
	}
	sbuf_free(&yaml);
}

/* ---- errors: names ---- */

static void test_sections(void **state)
{
	(void)state;
	expect_errors("proxy: {}\n", "f:1:1: the section servers is missing\n"
	                             "f:1:1: the section databases is missing\n");
	expect_errors(REST "usres: {}\n",
	              "f:3:1: unknown section \"usres\"; did you mean \"users\"?\n");
	expect_errors(REST "frontend: {}\n",
	              "f:3:1: unknown section \"frontend\"; the sections are proxy, servers, "
	              "databases, users, peers and mover\n");
	expect_errors("pool_size: 5\n" REST,
	              "f:1:1: unknown section \"pool_size\"; it is a setting of the section proxy "
	              "and stands there, indented\n");
}

static void test_unknown(void **state)
{
	(void)state;
	expect_errors(REST "proxy:\n  port: 1\n  pool_sise: 5\n",
	              "f:5:3: proxy: unknown setting \"pool_sise\"; did you mean \"pool_size\"?\n");
	expect_errors(REST "users: {u: {colour: red}}\n",
	              "f:3:13: users.u: unknown setting \"colour\"; known are pool_mode, session_pinned, "
	              "session_pin, session_temp_tables, session_cursors, "
	              "pool_size, reserve_pool_size, max_client_connections, max_user_connections, "
	              "query_timeout, query_wait_timeout, transaction_timeout and others\n");
	expect_errors(REST "mover: {proxie: {}}\n",
	              "f:3:9: mover: unknown setting \"proxie\"; did you mean \"proxies\"?\n");
	expect_errors("servers: {a: {host: h, prot: 1}}\ndatabases: {}\n",
	              "f:1:24: servers.a: unknown setting \"prot\"; did you mean \"port\"?\n");
}

static void test_password_in_file(void **state)
{
	(void)state;
	expect_errors("servers: {a: {host: h, admin_password: hunter2}}\ndatabases: {}\n",
	              "f:1:24: servers.a: a password must not stand in this file; give "
	              "admin_password_file or admin_password_env\n");
	expect_errors("servers: {a: {host: h, admin_password_env: hunter-2}}\ndatabases: {}\n",
	              "f:1:44: servers.a.admin_password_env: the value is not right; expected the "
	              "name of an environment variable (letters, digits and _), not a password\n");
}

static void test_duplicates(void **state)
{
	(void)state;
	expect_errors(REST "proxy:\n  port: 1\n  workers: 2\n  port: 3\n",
	              "f:6:3: \"port\" is given twice; it was given first in line 4\n");
	expect_errors(REST "servers: {}\n",
	              "f:3:1: \"servers\" is given twice; it was given first in line 1\n");
	expect_errors("servers: {a: {host: h}}\n"
	              "databases:\n  x: {server: a}\n  y: {server: a}\n  x: {server: a}\n",
	              "f:5:3: \"x\" is given twice; it was given first in line 3\n");
}

static void test_missing(void **state)
{
	(void)state;
	expect_errors("servers:\n  a: {port: 1}\ndatabases:\n  d:\n",
	              "f:2:3: servers.a: host is missing (name, address or directory of a Unix socket, or several with commas between them)\n"
	              "f:4:3: databases.d: server is missing (the server on which the database is, "
	              "until a SWAP says otherwise)\n");
	expect_errors("servers: {a: {host: \"\"}}\ndatabases: {}\n",
	              "f:1:21: servers.a.host: the value is empty; this setting needs one\n");
	expect_errors(REST "mover:\n  plproxy: {x: {host: h}}\n  proxies: {y: {}, z: {}}\n",
	              "f:4:13: mover.plproxy.x: dbname is missing (the PL/Proxy database)\n"
	              "f:4:13: mover.plproxy.x: cluster is missing (the PL/Proxy cluster: the "
	              "foreign server whose options name the partitions)\n"
	              "f:5:13: mover.proxies.y: host is missing (name, address or directory of the "
	              "Unix socket of a proxy)\n"
	              "f:5:20: mover.proxies.z: host is missing (name, address or directory of the "
	              "Unix socket of a proxy)\n");
}

static void test_names(void **state)
{
	(void)state;
	expect_errors("servers: {a: {host: h}}\ndatabases:\n  pgshunt: {server: a}\n"
	              "  pgbouncer: {server: a}\n",
	              "f:3:3: databases: the name \"pgshunt\" is that of the console; choose "
	              "another one\n"
	              "f:4:3: databases: the name \"pgbouncer\" is that of the console; choose "
	              "another one\n");
	expect_errors(REST "users: {a123456789b123456789c123456789d123456789e123456789f123456789"
	                   "1234: {}}\n",
	              "f:3:9: users: the name "
	              "\"a123456789b123456789c123456789d123456789e123456789f1234567891234\" is too "
	              "long; names have at most 63 bytes\n");
	config_unref(must_load(REST "users: {a123456789b123456789c123456789d123456789e123456789"
	                            "f123456789123: {}}\n"));
}

/* ---- errors: values ---- */

/* One setting of the section proxy with a value that is not right. */
static void expect_value_error(const char *setting, const char *value, const char *expected)
{
	char *yaml = mem_must_printf(REST "proxy:\n  %s: %s\n", setting, value);
	char *text =
	    mem_must_printf("f:4:%zu: proxy.%s: %s\n", strlen(setting) + 5, setting, expected);

	expect_errors(yaml, text);
	free(yaml);
	free(text);
}

static void test_wrong_types(void **state)
{
	(void)state;
	expect_value_error("workers", "many",
	                   "\"many\" is not right; expected a whole number from 0 to 256");
	expect_value_error("workers", "1.5",
	                   "\"1.5\" is not right; expected a whole number from 0 to 256");
	expect_value_error("workers", "[1]", "expected a whole number, not a list");
	expect_value_error("workers", "{a: 1}", "expected a whole number, not a mapping");
	expect_value_error("port", "\"\"",
	                   "\"\" is not right; expected a whole number from 1 to 65535");
	expect_errors(REST "proxy:\n  port:\n",
	              "f:4:8: proxy.port: no value is given; give one, \"\" for an empty one, or "
	              "leave the line out for the default\n");
	expect_value_error("pid_file", "~",
	                   "no value is given; give one, \"\" for an empty one, or leave the line "
	                   "out for the default");
	expect_value_error("log_connections", "ja", "\"ja\" is not known; expected true or false");
	expect_value_error("log_connections", "1", "\"1\" is not known; expected true or false");
	expect_value_error("hold_lease", "5m",
	                   "\"5m\" is not right; expected a duration such as 250ms, 5s, 2min, 1h "
	                   "or 1d, from 100ms to 1d");
	expect_value_error("hold_lease", "-5s",
	                   "\"-5s\" is not right; expected a duration such as 250ms, 5s, 2min, 1h "
	                   "or 1d, from 100ms to 1d");
	expect_value_error("hold_max_bytes", "64KB",
	                   "\"64KB\" is not right; expected a size such as 64kB, 16MB or 1GB, from "
	                   "1kB to 64GB");
	expect_value_error(
	    "unix_socket_mode", "\"0888\"",
	    "\"0888\" is not right; expected an octal file mode from 0 to 0777, such "
	    "as \"0770\"");
	expect_value_error("auth_type", "scram",
	                   "\"scram\" is not known; expected one of: trust md5 scram-sha-256 plain any hba cert pam ldap");
	expect_value_error(
	    "pool_mode", "query",
	    "\"query\" is not known; expected one of: transaction session statement");
	expect_value_error("hold_drain_policy", "Abort",
	                   "\"Abort\" is not known; expected one of: abort cancel terminate keep");
	expect_value_error("log_level", "trace",
	                   "\"trace\" is not known; expected one of: error warning info debug");
	expect_value_error("log_destination", "file",
	                   "\"file\" is not known; expected one of: stderr syslog");
	expect_value_error("pid_file", "[a]", "expected a path, not a list");
	expect_value_error("admin_users", "a, b", "expected a list such as [first, second]");
	expect_value_error("admin_users", "{a: b}", "expected a list, not a mapping");
}

static void test_out_of_range(void **state)
{
	(void)state;
	expect_value_error("port", "0",
	                   "\"0\" is out of range; expected a whole number from 1 to 65535");
	expect_value_error("port", "65536",
	                   "\"65536\" is out of range; expected a whole number from 1 to 65535");
	expect_value_error("workers", "-1",
	                   "\"-1\" is out of range; expected a whole number from 0 to 256");
	expect_value_error("workers", "99999999999999999999",
	                   "\"99999999999999999999\" is not right; expected a whole number from 0 "
	                   "to 256");
	expect_value_error("hold_drain_timeout", "0",
	                   "\"0\" is out of range; expected a duration such as 250ms, 5s, 2min, 1h "
	                   "or 1d, from 10ms to 1d");
	expect_value_error("stats_period", "500ms", "expected 0 or at least 1s");
	expect_value_error("server_lifetime", "300000000000d",
	                   "\"300000000000d\" is not right; expected a duration such as 250ms, 5s, "
	                   "2min, 1h or 1d, from 0 to 365d");
	expect_value_error("hold_max_bytes", "1TB",
	                   "\"1TB\" is out of range; expected a size such as 64kB, 16MB or 1GB, "
	                   "from 1kB to 64GB");
	expect_value_error("unix_socket_mode", "1777",
	                   "\"1777\" is out of range; expected an octal file mode from 0 to 0777, "
	                   "such as \"0770\"");
}

static void test_list_items(void **state)
{
	(void)state;
	expect_errors(REST "proxy:\n  admin_users: [a, \"\", [b], ~, {c: d}]\n",
	              "f:4:20: proxy.admin_users: expected a text as item of the list\n"
	              "f:4:24: proxy.admin_users: expected a text as item of the list\n"
	              "f:4:29: proxy.admin_users: expected a text as item of the list\n"
	              "f:4:32: proxy.admin_users: expected a text as item of the list\n");
}

static void test_long_value(void **state)
{
	(void)state;
	expect_value_error("auth_type",
	                   "0123456789012345678901234567890123456789012345678901234567890123456789"
	                   "012345678901234567890123456789",
	                   "\"01234567890123456789012345678901234567890123456789012345678901234567"
	                   "890123...\" is not known; expected one of: trust md5 scram-sha-256 plain any hba cert pam ldap");
}

/* ---- errors: several settings together ---- */

static void test_references(void **state)
{
	(void)state;
	expect_errors("databases:\n  a: {server: pg3}\n  b: {server: elsewhere}\n"
	              "servers: {pg1: {host: h}}\n",
	              "f:2:15: databases.a.server: there is no server \"pg3\"; did you mean "
	              "\"pg1\"?\n"
	              "f:3:15: databases.b.server: there is no server \"elsewhere\"; expected a "
	              "name of the section servers\n");
}

static void test_shards(void **state)
{
	(void)state;
	expect_errors("servers: {a: {host: h}}\ndatabases:\n  x: {server: a, shard: p1}\n"
	              "  y: {server: a, shard: p1}\n  p1: {server: a}\n",
	              "f:4:25: the shard name \"p1\" is already that of \"x\" in line 3; it must "
	              "be there only once\n"
	              "f:5:3: the shard name \"p1\" is already that of \"x\" in line 3; it must be "
	              "there only once\n");
}

static void test_listening(void **state)
{
	static const char nobody[] =
	    "f:3:27: proxy: nobody can connect; give listen_addresses or unix_socket_directory\n";

	(void)state;
	expect_errors(REST "proxy: {listen_addresses: []}\n", nobody);
	expect_errors(REST "proxy: {listen_addresses: \"\"}\n", nobody);
	config_unref(must_load(REST "proxy: {listen_addresses: [], unix_socket_directory: /x}\n"));
	expect_errors(REST
	              "proxy:\n  unix_socket_directory: /23456789012345678901234567890123456789"
	              "0123456789012345678901234567890123456789012345678901234\n",
	              "f:4:26: proxy.unix_socket_directory: the path is too long for a Unix "
	              "socket; at most 92 bytes\n");
}

static void test_hosts(void **state)
{
	(void)state;
	expect_errors("servers:\n  a: {host: \"h:5432\"}\n  b: {host: \"a b\"}\n"
	              "  c: {host: \"a,,b\"}\n  d: {host: \"::1\"}\ndatabases: {}\n",
	              "f:2:13: servers.a.host: a port does not stand in host; give it as port\n"
	              "f:3:13: servers.b.host: a host has no spaces; expected a name, an address "
	              "or a directory\n"
	              "f:4:13: servers.c.host: between two commas a host is missing\n");
}

static void test_aliases(void **state)
{
	(void)state;
	expect_errors("servers:\n  a: {host: h, aliases: [\"x:1\", \"y\"]}\n"
	              "  b: {host: h, aliases: \"x:1\"}\ndatabases: {}\n",
	              "f:2:25: servers.a.aliases: \"y\" is not right; expected host:port\n"
	              "f:3:25: the alias \"x:1\" is already that of \"a\" in line 2; it must be "
	              "there only once\n");
}

static void test_secret_sources(void **state)
{
	(void)state;
	expect_errors("servers: {a: {host: h, check_password_file: f, check_password_env: E}}\n"
	              "databases: {}\n",
	              "f:1:48: servers.a: give check_password_file or check_password_env, not "
	              "both\n");
	expect_errors("servers: {a: {host: h}}\ndatabases: {d: {server: a, password_env: E}}\n",
	              "f:2:13: databases.d: a password is given without the user it belongs to; "
	              "give user\n");
}

static void test_mover_checks(void **state)
{
	(void)state;
	expect_errors(
	    REST "mover:\n  proxies:\n    a: {host: h, dbname: postgres}\n"
	         "    b: {host: h}\n"
	         "  plproxy:\n    x: {host: h, dbname: d, cluster: c}\n"
	         "    y: {host: h, dbname: d, cluster: c}\n"
	         "    z: {host: h, dbname: d, cluster: other}\n",
	    "f:5:26: mover.proxies.a.dbname: expected pgshunt or pgbouncer, the names of "
	    "the console\n"
	    "f:6:5: the address \"h:6432\" is already that of \"a\" in line 5; it must be "
	    "there only once\n"
	    "f:9:5: the PL/Proxy cluster \"h:5432/d c\" is already that of \"x\" in line "
	    "8; it must be there only once\n");
}

/* All errors of a file in one run, in the order of the file. */
static void test_all_at_once(void **state)
{
	(void)state;
	expect_errors("databases:\n  d: {server: nowhere, pool_size: -1}\n"
	              "proxy:\n  port: x\n  listen_addresses: []\n  prot: 1\n"
	              "servers:\n  a: {}\n",
	              "f:2:15: databases.d.server: there is no server \"nowhere\"; expected a name "
	              "of the section servers\n"
	              "f:2:35: databases.d.pool_size: \"-1\" is out of range; expected a whole "
	              "number from 0 to 100000\n"
	              "f:4:9: proxy.port: \"x\" is not right; expected a whole number from 1 to "
	              "65535\n"
	              "f:5:21: proxy: nobody can connect; give listen_addresses or "
	              "unix_socket_directory\n"
	              "f:6:3: proxy: unknown setting \"prot\"; did you mean \"port\"?\n"
	              "f:8:3: servers.a: host is missing (name, address or directory of a Unix socket, or several with commas between them)\n");
}

static void test_unreadable(void **state)
{
	struct config *config;
	struct sbuf errors;

	(void)state;
	sbuf_init(&errors, 4096);
	assert_false(config_load("/nonexistent/pgshunt.yml", &config, &errors));
	assert_null(config);
	assert_string_equal(sbuf_text(&errors), "/nonexistent/pgshunt.yml: cannot be read: No such "
	                                        "file or directory\n");
	sbuf_reset(&errors);
	assert_false(config_load("/", &config, &errors));
	assert_string_equal(sbuf_text(&errors), "/: cannot be read: Is a directory\n");
	sbuf_reset(&errors);
	assert_false(config_load("/dev/zero", &config, &errors));
	assert_string_equal(sbuf_text(&errors),
	                    "/dev/zero: the file is too large; at most 1048576 bytes are read\n");
	sbuf_free(&errors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_not_a_map),
	    cmocka_unit_test(test_syntax),
	    cmocka_unit_test(test_bytes),
	    cmocka_unit_test(test_control_characters),
	    cmocka_unit_test(test_yaml_extras),
	    cmocka_unit_test(test_depth),
	    cmocka_unit_test(test_size),
	    cmocka_unit_test(test_many_errors),
	    cmocka_unit_test(test_sections),
	    cmocka_unit_test(test_unknown),
	    cmocka_unit_test(test_password_in_file),
	    cmocka_unit_test(test_duplicates),
	    cmocka_unit_test(test_missing),
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_wrong_types),
	    cmocka_unit_test(test_out_of_range),
	    cmocka_unit_test(test_list_items),
	    cmocka_unit_test(test_long_value),
	    cmocka_unit_test(test_references),
	    cmocka_unit_test(test_shards),
	    cmocka_unit_test(test_listening),
	    cmocka_unit_test(test_hosts),
	    cmocka_unit_test(test_aliases),
	    cmocka_unit_test(test_secret_sources),
	    cmocka_unit_test(test_mover_checks),
	    cmocka_unit_test(test_all_at_once),
	    cmocka_unit_test(test_unreadable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
