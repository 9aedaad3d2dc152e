/* SPDX-License-Identifier: PostgreSQL */
/*
 * The configuration: every kind of error with its exact place, defaults, every setting, lookups,
 * reload, secrets and the example file.
 */
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

/* What every right configuration has; the tests put it behind what they test. */
#define REST "servers: {pg1: {host: h1}}\ndatabases: {d1: {server: pg1}}\n"

/* ---- helpers ---- */

static struct config *load_bytes(const char *yaml, size_t len, struct sbuf *errors)
{
	struct config *config;
	bool right;

	sbuf_init(errors, (size_t)1024 * 1024);
	right = config_load_buffer("f", yaml, len, &config, errors);
	assert_true(right == (config != NULL));
	assert_true(right == (errors->len == 0));
	assert_true(sbuf_ok(errors));
	return config;
}

static struct config *must_load(const char *yaml)
{
	struct sbuf errors;
	struct config *config = load_bytes(yaml, strlen(yaml), &errors);

	if (config == NULL)
		fail_msg("%s", sbuf_text(&errors));
	sbuf_free(&errors);
	return config;
}

/* The whole of the errors must be `expected`. */
static void expect_errors_len(const char *yaml, size_t len, const char *expected)
{
	struct sbuf errors;
	struct config *config = load_bytes(yaml, len, &errors);

	assert_null(config);
	assert_string_equal(sbuf_text(&errors), expected);
	sbuf_free(&errors);
}

static void expect_errors(const char *yaml, const char *expected)
{
	expect_errors_len(yaml, strlen(yaml), expected);
}

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
	              "databases, users and mover\n");
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
	              "f:3:13: users.u: unknown setting \"colour\"; known are pool_mode, "
	              "pool_size, max_client_connections\n");
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
	              "f:2:3: servers.a: host is missing (name, address or directory of a Unix "
	              "socket)\n"
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
	                   "\"scram\" is not known; expected one of: trust md5 scram-sha-256");
	expect_value_error("pool_mode", "statement",
	                   "\"statement\" is not known; expected one of: transaction session");
	expect_value_error("hold_drain_policy", "Abort",
	                   "\"Abort\" is not known; expected one of: abort cancel terminate");
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
	expect_value_error("connect_timeout", "0",
	                   "\"0\" is out of range; expected a duration such as 250ms, 5s, 2min, 1h "
	                   "or 1d, from 10ms to 1h");
	expect_value_error("server_lifetime", "300000000000d",
	                   "\"300000000000d\" is not right; expected a duration such as 250ms, 5s, "
	                   "2min, 1h or 1d, from 0 to 30d");
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
	                   "890123...\" is not known; expected one of: trust md5 scram-sha-256");
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
	              "  c: {host: \"a,b\"}\n  d: {host: \"::1\"}\ndatabases: {}\n",
	              "f:2:13: servers.a.host: a port does not stand in host; give it as port\n"
	              "f:3:13: servers.b.host: a host has no spaces; expected a name, an address "
	              "or a directory\n"
	              "f:4:13: servers.c.host: expected one host, not several\n");
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
	expect_errors("databases:\n  d: {server: nowhere, pool_size: 0}\n"
	              "proxy:\n  port: x\n  listen_addresses: []\n  prot: 1\n"
	              "servers:\n  a: {}\n",
	              "f:2:15: databases.d.server: there is no server \"nowhere\"; expected a name "
	              "of the section servers\n"
	              "f:2:35: databases.d.pool_size: \"0\" is out of range; expected a whole "
	              "number from 1 to 100000\n"
	              "f:4:9: proxy.port: \"x\" is not right; expected a whole number from 1 to "
	              "65535\n"
	              "f:5:21: proxy: nobody can connect; give listen_addresses or "
	              "unix_socket_directory\n"
	              "f:6:3: proxy: unknown setting \"prot\"; did you mean \"port\"?\n"
	              "f:8:3: servers.a: host is missing (name, address or directory of a Unix "
	              "socket)\n");
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

/* ---- right configurations ---- */

static void test_defaults(void **state)
{
	struct config *config = must_load("servers: {s: {host: h}}\n"
	                                  "databases: {d: {server: s}}\n"
	                                  "users: {u: }\n"
	                                  "mover: {proxies: {p: {host: h}}}\n");
	const struct config_proxy *proxy = &config->proxy;

	(void)state;
	assert_int_equal(proxy->listen_addresses.count, 1);
	assert_string_equal(proxy->listen_addresses.items[0], "127.0.0.1");
	assert_int_equal(proxy->port, 6432);
	assert_string_equal(proxy->unix_socket_directory, "");
	assert_int_equal(proxy->unix_socket_mode, 0777);
	assert_int_equal(proxy->workers, 0);
	assert_int_equal(proxy->auth_type, CONFIG_AUTH_SCRAM);
	assert_string_equal(proxy->users_file, "/etc/pgshunt/userlist.txt");
	assert_true(config_is_admin(config, "pgshunt_admin"));
	assert_int_equal(proxy->stats_users.count, 0);
	assert_int_equal(proxy->pool_mode, CONFIG_POOL_TRANSACTION);
	assert_int_equal(proxy->connect_timeout, 10 * USEC_PER_SEC);
	assert_int_equal(proxy->hold_max_bytes, 64 * 1024 * 1024);
	assert_int_equal(proxy->hold_drain_policy, CONFIG_DRAIN_ABORT);
	assert_int_equal(proxy->log_level, LOG_LEVEL_INFO);
	assert_true(proxy->tcp_keepalive);
	assert_int_equal(config->servers[0].port, 5432);
	assert_string_equal(config->servers[0].check_user, "postgres");
	assert_string_equal(config->servers[0].check_password_file, "");
	assert_ptr_equal(config->databases[0].server, &config->servers[0]);
	assert_string_equal(config->databases[0].dbname, "d");
	assert_string_equal(config->databases[0].shard, "d");
	assert_int_equal(config->databases[0].pool_size, CONFIG_UNSET);
	assert_int_equal(config->databases[0].pool_mode, CONFIG_POOL_UNSET);
	assert_int_equal(config->users[0].max_client_connections, CONFIG_UNSET);
	assert_int_equal(config->mover.lease, 10 * USEC_PER_SEC);
	assert_int_equal(config->mover.proxies[0].port, 6432);
	assert_string_equal(config->mover.proxies[0].dbname, "pgshunt");
	assert_int_equal(config->mover.plproxy_count, 0);
	assert_string_equal(config->path, "f");
	config_unref(config);
}

/* Every default is right for its own type and range, and formats to what parses to the same. */
static void test_default_values(void **state)
{
	struct config_block *blocks = NULL;
	struct value_context context = {.blocks = &blocks, .directory = ""};
	union {
		struct config_proxy proxy;
		struct config_server server;
		struct config_database database;
		struct config_user user;
		struct config_mover mover;
		struct config_mover_proxy mover_proxy;
		struct config_plproxy plproxy;
	} base;
	struct sbuf why;
	struct sbuf text;

	(void)state;
	sbuf_init(&why, 4096);
	sbuf_init(&text, 4096);
	for (size_t i = 0; i < setting_count(); i++) {
		const struct setting *setting = &setting_table[i];

		memset(&base, 0, sizeof(base));
		assert_true(setting->text.help[0] != '\0');
		if (setting->text.fallback == NULL)
			continue;
		if (!value_parse(setting, setting->text.fallback, &base, &context, &why))
			fail_msg("%s: %s", setting->text.name, sbuf_text(&why));
		sbuf_reset(&text);
		value_format(setting, &base, &text);
		if (text.len > 0)
			assert_true(value_parse(setting, sbuf_text(&text), &base, &context, &why));
	}
	sbuf_free(&why);
	sbuf_free(&text);
	arena_free(&blocks);
}

/* A text other than the default that is right for the type. */
static const char *other_value(const struct setting *setting)
{
	switch (setting->type) {
	case VALUE_BOOL:
		return "false";
	case VALUE_INT:
	case VALUE_PORT:
		return "7";
	case VALUE_DURATION:
		return "7s";
	case VALUE_SIZE:
		return "7kB";
	case VALUE_MODE:
		return "0700";
	case VALUE_AUTH_TYPE:
		return "md5";
	case VALUE_POOL_MODE:
		return "session";
	case VALUE_DRAIN_POLICY:
		return "cancel";
	case VALUE_LOG_LEVEL:
		return "debug";
	case VALUE_LOG_DESTINATION:
		return "syslog";
	case VALUE_SERVER:
		return "s";
	case VALUE_LIST:
		return "other:7";
	case VALUE_PATH:
		return "/other";
	case VALUE_ENV:
		return "OTHER";
	case VALUE_QUERY:
	case VALUE_STRING:
		break;
	}
	return strcmp(setting->text.name, "dbname") == 0 ? "pgbouncer" : "other";
}

static void add_section(struct sbuf *yaml, enum setting_section section, const char *head)
{
	sbuf_add_str(yaml, head);
	for (size_t i = 0; i < setting_count(); i++) {
		const struct setting *setting = &setting_table[i];

		/* of the two sources of a password one is allowed */
		if (setting->section == section && setting->type != VALUE_ENV)
			sbuf_printf(yaml, "      %s: %s\n", setting->text.name,
			            other_value(setting));
	}
}

static void see_other_value(void *arg, const struct config_show_row *row)
{
	size_t *seen = arg;
	enum setting_section section = SECTION_PROXY;
	const struct setting *setting;

	for (size_t i = 0; i < CONFIG_ENTRY_KINDS; i++) {
		size_t len = strlen(entry_kinds[i].section_name);

		if (strncmp(row->section, entry_kinds[i].section_name, len) == 0 &&
		    row->section[len] == '.')
			section = entry_kinds[i].section;
	}
	if (strcmp(row->section, "mover") == 0)
		section = SECTION_MOVER;
	setting = setting_find(section, row->name);
	assert_non_null(setting);
	(*seen)++;
	assert_non_null(row->value);
	if (setting->type == VALUE_ENV)
		assert_string_equal(row->value, "");
	else
		assert_string_equal(row->value, other_value(setting));
}

/* Every setting can be given, and what is given is what is shown. */
static void test_every_setting(void **state)
{
	struct config *config;
	struct sbuf yaml;
	size_t seen = 0;

	(void)state;
	sbuf_init(&yaml, 65536);
	add_section(&yaml, SECTION_PROXY, "proxy:\n");
	add_section(&yaml, SECTION_SERVERS, "servers:\n    s:\n");
	add_section(&yaml, SECTION_DATABASES, "databases:\n    d:\n");
	add_section(&yaml, SECTION_USERS, "users:\n    u:\n");
	add_section(&yaml, SECTION_MOVER_PROXIES, "mover:\n  proxies:\n    p:\n");
	add_section(&yaml, SECTION_MOVER_PLPROXY, "  plproxy:\n    x:\n");
	for (size_t i = 0; i < setting_count(); i++)
		if (setting_table[i].section == SECTION_MOVER)
			sbuf_printf(&yaml, "  %s: %s\n", setting_table[i].text.name,
			            other_value(&setting_table[i]));
	config = must_load(sbuf_text(&yaml));
	config_show(config, see_other_value, &seen);
	assert_int_equal(seen, setting_count());
	assert_int_equal(seen, config_setting_count());
	config_unref(config);
	sbuf_free(&yaml);
}

static void test_spellings(void **state)
{
	struct config *config = must_load(REST "proxy:\n"
	                                       "  log_connections: no\n"
	                                       "  log_disconnections: \"off\"\n"
	                                       "  tcp_keepalive: Yes\n"
	                                       "  port: \"7000\"\n"
	                                       "  unix_socket_mode: 0700\n"
	                                       "  listen_addresses: \"*\"\n"
	                                       "  stats_users:\n    - a\n    - b c\n"
	                                       "  login_timeout: 90\n"
	                                       "  hold_max_bytes: 2048\n"
	                                       "  pid_file: run/pid\n"
	                                       "  server_reset_query: |\n"
	                                       "    RESET ALL;\n"
	                                       "    DISCARD TEMP\n");
	const struct config_proxy *proxy = &config->proxy;

	(void)state;
	assert_false(proxy->log_connections);
	assert_false(proxy->log_disconnections);
	assert_true(proxy->tcp_keepalive);
	assert_int_equal(proxy->port, 7000);
	assert_int_equal(proxy->unix_socket_mode, 0700);
	assert_int_equal(proxy->listen_addresses.count, 1);
	assert_string_equal(proxy->listen_addresses.items[0], "*");
	assert_int_equal(proxy->stats_users.count, 2);
	assert_string_equal(proxy->stats_users.items[1], "b c");
	assert_int_equal(proxy->login_timeout, 90 * USEC_PER_SEC);
	assert_int_equal(proxy->hold_max_bytes, 2048);
	assert_string_equal(proxy->pid_file, "run/pid");
	assert_string_equal(proxy->server_reset_query, "RESET ALL;\nDISCARD TEMP\n");
	config_unref(config);
}

static void test_relative_paths(void **state)
{
	static const char yaml[] = REST "proxy: {pid_file: run/pid, users_file: /abs}\n";
	struct config *config;
	struct sbuf errors;

	(void)state;
	sbuf_init(&errors, 4096);
	assert_true(config_load_buffer("/etc/x/f.yml", yaml, sizeof(yaml) - 1, &config, &errors));
	assert_string_equal(config->proxy.pid_file, "/etc/x/run/pid");
	assert_string_equal(config->proxy.users_file, "/abs");
	assert_string_equal(config->proxy.state_directory, "/var/lib/pgshunt/proxy");
	config_unref(config);
	sbuf_free(&errors);
}

static void test_units(void **state)
{
	usec_t usec;
	int64_t bytes;

	(void)state;
	assert_true(config_parse_duration("0", &usec) && usec == 0);
	assert_true(config_parse_duration("250ms", &usec) && usec == 250000);
	assert_true(config_parse_duration("7us", &usec) && usec == 7);
	assert_true(config_parse_duration("2 min", &usec) && usec == 120 * USEC_PER_SEC);
	assert_true(config_parse_duration("1h", &usec) && usec == 3600 * USEC_PER_SEC);
	assert_true(config_parse_duration("1d", &usec) && usec == 86400 * USEC_PER_SEC);
	assert_false(config_parse_duration("", &usec));
	assert_false(config_parse_duration("s", &usec));
	assert_false(config_parse_duration("5S", &usec));
	assert_false(config_parse_duration("5s ", &usec));
	assert_false(config_parse_duration("-1", &usec));
	assert_false(config_parse_duration("9223372036854775807", &usec));
	assert_false(config_parse_duration("9223372036854775808us", &usec));
	assert_true(config_parse_duration("9223372036854775807us", &usec) && usec == INT64_MAX);
	assert_true(config_parse_size("64kB", &bytes) && bytes == 65536);
	assert_true(config_parse_size("1TB", &bytes) && bytes == (int64_t)1 << 40);
	assert_true(config_parse_size("5B", &bytes) && bytes == 5);
	assert_false(config_parse_size("5kb", &bytes));
	assert_false(config_parse_size("9223372036854775807kB", &bytes));
}

static void test_words(void **state)
{
	enum config_drain_policy policy = CONFIG_DRAIN_ABORT;

	(void)state;
	assert_true(config_drain_policy_parse("terminate", &policy));
	assert_int_equal(policy, CONFIG_DRAIN_TERMINATE);
	assert_false(config_drain_policy_parse("TERMINATE", &policy));
	assert_string_equal(config_drain_policy_name(CONFIG_DRAIN_CANCEL), "cancel");
	assert_string_equal(config_auth_type_name(CONFIG_AUTH_SCRAM), "scram-sha-256");
	assert_string_equal(config_pool_mode_name(CONFIG_POOL_SESSION), "session");
}

/* ---- lookups ---- */

static void test_lookups(void **state)
{
	struct config *config = must_load(
	    "servers:\n  zeta: {host: h1, port: 1, aliases: [\"h2:2\", \"h3:3\"]}\n"
	    "  alpha: {host: h2, port: 2}\n  mid: {host: h4}\n"
	    "databases:\n  b: {server: zeta, shard: s1, pool_size: 5, pool_mode: session}\n"
	    "  a: {server: alpha, dbname: real}\n"
	    "users:\n  v: {pool_size: 7, pool_mode: transaction}\n  u: {}\n"
	    "proxy: {admin_users: [root], stats_users: [watch], pool_size: 9}\n"
	    "mover:\n  proxies: {p2: {host: x}, p1: {host: y}}\n"
	    "  plproxy: {hq: {host: h, dbname: d, cluster: c}}\n");
	const struct config_database *b = config_find_database(config, "b");
	const struct config_database *a = config_find_database(config, "a");
	const struct config_user *v = config_find_user(config, "v");
	const struct config_user *u = config_find_user(config, "u");

	(void)state;
	assert_string_equal(config->servers[0].name, "zeta"); /* the order of the file */
	assert_ptr_equal(config_find_server(config, "alpha"), &config->servers[1]);
	assert_int_equal(config_find_server(config, "mid")->index, 2);
	assert_null(config_find_server(config, "pg"));
	assert_null(config_find_server(config, ""));
	assert_string_equal(b->server->name, "zeta");
	assert_string_equal(a->dbname, "real");
	assert_ptr_equal(config_find_shard(config, "s1"), b);
	assert_ptr_equal(config_find_shard(config, "a"), a);
	assert_null(config_find_shard(config, "b"));
	assert_ptr_equal(config_find_mover_proxy(config, "p1"), &config->mover.proxies[1]);
	assert_null(config_find_mover_proxy(config, "p3"));
	assert_non_null(config_find_plproxy(config, "hq"));
	/* an address of its own goes before somebody else's alias */
	assert_string_equal(config_find_server_at(config, "h2", 2)->name, "alpha");
	assert_string_equal(config_find_server_at(config, "h3", 3)->name, "zeta");
	assert_null(config_find_server_at(config, "h1", 2));
	assert_int_equal(config_pool_size(config, b, v), 7);
	assert_int_equal(config_pool_size(config, b, u), 5);
	assert_int_equal(config_pool_size(config, b, NULL), 5);
	assert_int_equal(config_pool_size(config, a, NULL), 9);
	assert_int_equal(config_pool_size(config, NULL, NULL), 9);
	assert_int_equal(config_pool_mode(config, b, u), CONFIG_POOL_SESSION);
	assert_int_equal(config_pool_mode(config, b, v), CONFIG_POOL_TRANSACTION);
	assert_int_equal(config_pool_mode(config, a, u), CONFIG_POOL_TRANSACTION);
	assert_true(config_is_admin(config, "root"));
	assert_false(config_is_admin(config, "watch"));
	assert_true(config_is_stats_user(config, "root"));
	assert_true(config_is_stats_user(config, "watch"));
	assert_false(config_is_stats_user(config, "app"));
	assert_true(config_is_console("pgbouncer"));
	assert_false(config_is_console("PGSHUNT"));
	config_unref(config);
}

static void *ref_many(void *arg)
{
	for (int i = 0; i < 10000; i++)
		config_unref(config_ref(arg));
	config_unref(arg);
	return NULL;
}

static void test_references_of_threads(void **state)
{
	struct config *config = must_load(REST);
	pthread_t threads[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, ref_many, config_ref(config)),
		                 0);
	config_unref(config);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	config_unref(NULL);
}

/* ---- reload ---- */

static void test_reload(void **state)
{
	struct config *old = must_load(REST "proxy: {port: 1, workers: 2, pool_size: 3, "
	                                    "listen_addresses: [a, b]}\n");
	struct config *fresh = must_load(REST "proxy: {port: 5, workers: 2, pool_size: 6, "
	                                      "listen_addresses: [a], pid_file: /p}\n"
	                                      "mover: {lease: 5s}\n");
	struct sbuf names;

	(void)state;
	sbuf_init(&names, 4096);
	assert_int_equal(config_compare_reload(old, old, &names), 0);
	assert_string_equal(sbuf_text(&names), "");
	assert_int_equal(config_compare_reload(old, fresh, &names), 3);
	assert_string_equal(sbuf_text(&names),
	                    "proxy.listen_addresses, proxy.port, proxy.pid_file");
	config_keep_fixed(old, fresh);
	config_unref(old); /* nothing of it may be needed any more */
	assert_int_equal(fresh->proxy.port, 1);
	assert_int_equal(fresh->proxy.pool_size, 6);
	assert_int_equal(fresh->proxy.listen_addresses.count, 2);
	assert_string_equal(fresh->proxy.listen_addresses.items[1], "b");
	assert_string_equal(fresh->proxy.pid_file, "");
	config_unref(fresh);
	sbuf_free(&names);
}

/* ---- secrets ---- */

static char secret_path[] = "/tmp/pgshunt-test-secret-XXXXXX";

static int make_secret_file(void **state)
{
	int fd = mkstemp(secret_path);

	(void)state;
	return fd < 0 ? -1 : close(fd);
}

static int drop_secret_file(void **state)
{
	(void)state;
	return unlink(secret_path);
}

static void write_secret(const char *bytes, size_t len)
{
	FILE *file = fopen(secret_path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

static void expect_secret(const char *bytes, const char *expected)
{
	struct sbuf error;
	char *secret;

	sbuf_init(&error, 4096);
	write_secret(bytes, strlen(bytes));
	assert_true(config_secret(secret_path, "", &secret, &error));
	assert_string_equal(secret, expected);
	assert_int_equal(error.len, 0);
	mem_free_secret(secret);
	sbuf_free(&error);
}

static void expect_secret_error(const char *bytes, size_t len, const char *expected)
{
	struct sbuf error;
	char *secret;

	sbuf_init(&error, 4096);
	write_secret(bytes, len);
	assert_false(config_secret(secret_path, "", &secret, &error));
	assert_null(secret);
	assert_non_null(strstr(sbuf_text(&error), secret_path));
	assert_non_null(strstr(sbuf_text(&error), expected));
	assert_null(strstr(sbuf_text(&error), "hunter2"));
	sbuf_free(&error);
}

static void test_secret_file(void **state)
{
	char longest[CONFIG_SECRET_MAX + 3];

	(void)state;
	expect_secret("hunter2", "hunter2");
	expect_secret("hunter2\n", "hunter2");
	expect_secret("hunter2\r\nsecond line\n", "hunter2");
	expect_secret(" with spaces \n", " with spaces ");
	memset(longest, 'x', sizeof(longest));
	longest[CONFIG_SECRET_MAX] = '\0';
	expect_secret(longest, longest);
	longest[CONFIG_SECRET_MAX] = 'x';
	expect_secret_error(longest, CONFIG_SECRET_MAX + 1, "longer than 1024 bytes");
	expect_secret_error("", 0, "has an empty first line");
	expect_secret_error("\nhunter2\n", 9, "has an empty first line");
	expect_secret_error("hunter2\0x\n", 10, "has a zero byte");
}

static void test_secret_mode(void **state)
{
	(void)state;
	assert_int_equal(chmod(secret_path, 0644), 0);
	expect_secret("hunter2\n", "hunter2"); /* a warning, not an error */
	assert_int_equal(chmod(secret_path, 0600), 0);
}

static void test_secret_other_sources(void **state)
{
	struct sbuf error;
	char *secret;

	(void)state;
	sbuf_init(&error, 4096);
	assert_true(config_secret("", "", &secret, &error));
	assert_null(secret);
	assert_int_equal(setenv("PGSHUNT_TEST_SECRET", "hunter2", 1), 0);
	assert_true(config_secret("", "PGSHUNT_TEST_SECRET", &secret, &error));
	assert_string_equal(secret, "hunter2");
	mem_free_secret(secret);
	assert_int_equal(unsetenv("PGSHUNT_TEST_SECRET"), 0);
	assert_false(config_secret("", "PGSHUNT_TEST_SECRET", &secret, &error));
	assert_string_equal(sbuf_text(&error),
	                    "environment variable PGSHUNT_TEST_SECRET, which should hold a "
	                    "password, is not set");
	sbuf_reset(&error);
	assert_false(config_secret("/nonexistent/secret", "", &secret, &error));
	assert_string_equal(sbuf_text(&error), "password file /nonexistent/secret cannot be "
	                                       "opened: No such file or directory");
	sbuf_reset(&error);
	assert_false(config_secret("/dev/null", "", &secret, &error));
	assert_string_equal(sbuf_text(&error), "password file /dev/null is not a regular file");
	sbuf_free(&error);
}

/* ---- what is installed ---- */

/* The path of a file of the source tree, free()d by the caller. */
static char *source_path(const char *name)
{
	const char *end = strstr(__FILE__, "tests/unit/");

	assert_non_null(end);
	return mem_must_printf("%.*s%s", (int)(end - __FILE__), __FILE__, name);
}

static void see_example_row(void *arg, const struct config_show_row *row)
{
	const char *example = arg;
	const struct setting *setting = setting_find(SECTION_PROXY, row->name);
	char *key = mem_must_printf(" %s:", row->name);
	struct config_block *blocks = NULL;
	struct value_context context = {.blocks = &blocks, .directory = ""};
	struct config_proxy proxy;
	struct sbuf expected;
	struct sbuf why;

	if (strcmp(row->section, "proxy") == 0) {
		memset(&proxy, 0, sizeof(proxy));
		sbuf_init(&expected, 4096);
		sbuf_init(&why, 4096);
		assert_true(value_parse(setting, row->fallback, &proxy, &context, &why));
		value_format(setting, &proxy, &expected);
		/* its comment promises that the section shows the defaults */
		assert_string_equal(row->value, sbuf_text(&expected));
		sbuf_free(&expected);
		sbuf_free(&why);
		arena_free(&blocks);
	}
	if (strstr(example, key) == NULL && strstr(row->name, "password_") == NULL)
		fail_msg("the example does not show %s.%s", row->section, row->name);
	free(key);
}

static void test_example(void **state)
{
	char *text = mem_must_alloc(CONFIG_FILE_MAX + 1);
	char *path = source_path("conf/pgshunt.example.yml");
	struct config *config;
	struct sbuf errors;
	FILE *file = fopen(path, "r");

	(void)state;
	assert_non_null(file);
	assert_true(fread(text, 1, CONFIG_FILE_MAX, file) > 0);
	assert_int_equal(fclose(file), 0);
	sbuf_init(&errors, 65536);
	if (!config_load(path, &config, &errors))
		fail_msg("%s", sbuf_text(&errors));
	config_show(config, see_example_row, text);
	assert_string_equal(config_find_shard(config, "p2")->name, "commcarehq_p2");
	assert_string_equal(config_find_server_at(config, "pg2.internal", 5432)->name, "pg2");
	config_unref(config);
	sbuf_free(&errors);
	free(text);
	free(path);
}

static void test_reference(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	assert_non_null(out);
	config_print_reference(out);
	assert_int_equal(fclose(out), 0);
	for (size_t i = 0; i < config_setting_count(); i++) {
		char *cell = mem_must_printf("\n| `%s` | %s | ", config_setting_at(i)->name,
		                             config_setting_at(i)->type);

		assert_non_null(strstr(text, cell));
		free(cell);
	}
	assert_non_null(strstr(text, "#### `mover.plproxy`\n"));
	assert_non_null(strstr(text, "\n| `pool_size` | whole number | `20` | 1 to 100000 | yes | "
	                             "most server connections for one database and user |\n"));
	free(text);
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
	    cmocka_unit_test(test_defaults),
	    cmocka_unit_test(test_default_values),
	    cmocka_unit_test(test_every_setting),
	    cmocka_unit_test(test_spellings),
	    cmocka_unit_test(test_relative_paths),
	    cmocka_unit_test(test_units),
	    cmocka_unit_test(test_words),
	    cmocka_unit_test(test_lookups),
	    cmocka_unit_test(test_references_of_threads),
	    cmocka_unit_test(test_reload),
	    cmocka_unit_test(test_secret_file),
	    cmocka_unit_test(test_secret_mode),
	    cmocka_unit_test(test_secret_other_sources),
	    cmocka_unit_test(test_example),
	    cmocka_unit_test(test_reference),
	};

	return cmocka_run_group_tests(tests, make_secret_file, drop_secret_file);
}
