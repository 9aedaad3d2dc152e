/* SPDX-License-Identifier: PostgreSQL */
/*
 * The configuration: defaults, every setting, lookups, reload, secrets and the example file.  Its
 * errors are in test_config_errors.c.
 */
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
		struct config_peer peer;
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
	if (setting->section == SECTION_MOVER_PGBOUNCERS) {
		if (strcmp(setting->text.name, "processes") == 0)
			return "1";
		if (strcmp(setting->text.name, "ini") == 0)
			return "/other";
		if (strcmp(setting->text.name, "addresses") == 0)
			return "s=other:7";
	}
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
	case VALUE_BALANCE:
		return "disable";
	case VALUE_HOLD_OVERFLOW:
		return "oldest";
	case VALUE_POOL_MODE:
		return "session";
	case VALUE_PINNED:
		return "drop";
	case VALUE_DRAIN_POLICY:
		return "cancel";
	case VALUE_SSLMODE:
		return "verify-full";
	case VALUE_SSLNEGOTIATION:
		return "direct";
	case VALUE_CHANNEL_BINDING:
		return "require";
	case VALUE_PROTOCOL:
		return "3.0";
	case VALUE_LOG_LEVEL:
		return "debug";
	case VALUE_LOG_FORMAT:
		return "json";
	case VALUE_LOG_DESTINATION:
		return "syslog";
	case VALUE_SYSLOG_FACILITY:
		return "local3";
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
	if (strcmp(setting->text.name, "auth_dbname") == 0)
		return "d";
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
	add_section(&yaml, SECTION_PEERS, "peers:\n    7:\n");
	add_section(&yaml, SECTION_MOVER_PROXIES, "mover:\n  proxies:\n    p:\n");
	add_section(&yaml, SECTION_MOVER_PGBOUNCERS, "  pgbouncers:\n    x:\n");
	add_section(&yaml, SECTION_MOVER_HOOKS, "  hooks:\n    x:\n");
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
	    "servers:\n  zeta: {host: h1, port: 1, aliases: [\"h2:2\", \"h3:3\", "
	    "\"[fe80::1]:4\", \"::1:5\"]}\n"
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
	assert_string_equal(config_find_server_at(config, "fe80::1", 4)->name, "zeta");
	assert_string_equal(config_find_server_at(config, "::1", 5)->name, "zeta");
	assert_null(config_find_server_at(config, "::1", 4));
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
	expect_secret_error(longest, CONFIG_SECRET_MAX + 1, "longer than 65530 bytes");
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
	assert_non_null(strstr(text, "\n| `pool_size` | whole number | `20` | 0 to 100000 | yes | "
	                             "most server connections for one database and user; 0 = no limit |\n"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
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
