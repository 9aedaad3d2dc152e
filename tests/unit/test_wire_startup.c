/* SPDX-License-Identifier: PostgreSQL */
/* The first packets of a connection, good and hostile, and the parameter "options". */
#include "base/sbuf.h"
#include "wire/build.h"
#include "wire/options.h"
#include "wire/startup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Parses a copy that has not one byte more than it should, so that a sanitizer sees reads beyond.
 */
static enum wire_startup_kind parse_exact(const void *bytes, size_t len, struct wire_startup *out,
                                          void **copy)
{
	*copy = malloc(len == 0 ? 1 : len);
	assert_non_null(*copy);
	memcpy(*copy, bytes, len);
	return wire_startup_parse(*copy, len, out);
}

/* A packet of `version` with the `len` bytes of `body`. */
static enum wire_startup_kind parse_packet(uint32_t version, const void *body, size_t len,
                                           struct wire_startup *out, void **copy)
{
	struct sbuf buf;
	enum wire_startup_kind kind;

	sbuf_init(&buf, 20000);
	sbuf_add_be32(&buf, (uint32_t)(len + 8));
	sbuf_add_be32(&buf, version);
	sbuf_add(&buf, body, len);
	kind = parse_exact(buf.data, buf.len, out, copy);
	sbuf_free(&buf);
	return kind;
}

#define PACKET(version, body, out, copy) parse_packet(version, body, sizeof(body) - 1, out, copy)

static void expect_bad(uint32_t version, const void *body, size_t len, const char *sqlstate,
                       const char *error)
{
	struct wire_startup startup;
	void *copy;

	assert_int_equal(parse_packet(version, body, len, &startup, &copy), WIRE_STARTUP_BAD);
	assert_string_equal(startup.sqlstate, sqlstate);
	assert_string_equal(startup.error, error);
	free(copy);
}

#define EXPECT_BAD(version, body, sqlstate, error)                                                 \
	expect_bad(version, body, sizeof(body) - 1, sqlstate, error)

static void test_message(void **state)
{
	struct wire_startup startup;
	struct sbuf buf;
	const char *cursor = NULL;
	const char *name;
	const char *value;
	size_t start;

	(void)state;
	sbuf_init(&buf, 1000);
	start = wire_begin_startup(&buf, WIRE_PROTOCOL_3_0);
	wire_add_startup_param(&buf, "user", "app");
	wire_add_startup_param(&buf, "database", "commcarehq_p2");
	wire_add_startup_param(&buf, "application_name", "");
	wire_end_startup(&buf, start);
	assert_true(sbuf_ok(&buf));
	/* The next message may follow at once. */
	sbuf_add_str(&buf, "Q");
	for (size_t len = 0; len < buf.len - 1; len++) {
		assert_int_equal(wire_startup_parse(buf.data, len, &startup), WIRE_STARTUP_MORE);
		assert_true(startup.size > len);
	}
	assert_int_equal(wire_startup_parse(buf.data, buf.len, &startup), WIRE_STARTUP_MESSAGE);
	assert_int_equal(startup.size, buf.len - 1);
	assert_int_equal(startup.version, WIRE_PROTOCOL_3_0);
	assert_string_equal(startup.user, "app");
	assert_string_equal(startup.database, "commcarehq_p2");
	assert_null(startup.options);
	assert_null(startup.replication);
	assert_false(wire_startup_must_negotiate(&startup));
	assert_true(wire_startup_next(&startup, &cursor, &name, &value));
	assert_string_equal(name, "user");
	assert_true(wire_startup_next(&startup, &cursor, &name, &value));
	assert_string_equal(value, "commcarehq_p2");
	assert_true(wire_startup_next(&startup, &cursor, &name, &value));
	assert_string_equal(name, "application_name");
	assert_string_equal(value, "");
	assert_false(wire_startup_next(&startup, &cursor, &name, &value));
	sbuf_free(&buf);
}

static void test_defaults(void **state)
{
	struct wire_startup startup;
	void *copy;

	(void)state;
	assert_int_equal(PACKET(WIRE_PROTOCOL_3_0, "user\0u\0\0", &startup, &copy),
	                 WIRE_STARTUP_MESSAGE);
	assert_string_equal(startup.database, "u");
	free(copy);
	assert_int_equal(PACKET(WIRE_PROTOCOL_3_0, "user\0u\0database\0\0\0", &startup, &copy),
	                 WIRE_STARTUP_MESSAGE);
	assert_string_equal(startup.database, "u");
	free(copy);
	assert_int_equal(
	    PACKET(WIRE_PROTOCOL_3_0, "user\0a\0user\0b\0options\0-c x=1\0\0", &startup, &copy),
	    WIRE_STARTUP_MESSAGE);
	assert_string_equal(startup.user, "b");
	assert_string_equal(startup.options, "-c x=1");
	free(copy);
}

static void test_negotiate(void **state)
{
	static const char expected[] =
	    "v\0\0\0\x2a\0\3\0\2\0\0\0\2_pq_.first\0_pq_.test_protocol\0";
	struct wire_startup startup;
	struct sbuf buf;
	void *copy;

	(void)state;
	assert_int_equal(PACKET(WIRE_PROTOCOL(3, 9999),
	                        "user\0u\0_pq_.first\0x\0a\0b\0_pq_.test_protocol\0\0\0", &startup,
	                        &copy),
	                 WIRE_STARTUP_MESSAGE);
	assert_int_equal(startup.unknown_count, 2);
	assert_true(wire_startup_must_negotiate(&startup));
	sbuf_init(&buf, 1000);
	wire_add_negotiate(&buf, &startup);
	assert_int_equal(buf.len, sizeof(expected) - 1);
	assert_memory_equal(buf.data, expected, buf.len);
	sbuf_free(&buf);
	free(copy);
	assert_int_equal(PACKET(WIRE_PROTOCOL(3, 2), "user\0u\0\0", &startup, &copy),
	                 WIRE_STARTUP_MESSAGE);
	assert_false(wire_startup_must_negotiate(&startup));
	assert_int_equal(wire_startup_spoken(&startup), WIRE_PROTOCOL_3_2);
	free(copy);
	/* Never spoken by any server. */
	assert_int_equal(PACKET(WIRE_PROTOCOL(3, 1), "user\0u\0\0", &startup, &copy),
	                 WIRE_STARTUP_MESSAGE);
	assert_true(wire_startup_must_negotiate(&startup));
	assert_int_equal(wire_startup_spoken(&startup), WIRE_PROTOCOL_3_0);
	free(copy);
	assert_int_equal(PACKET(WIRE_PROTOCOL(3, 0), "user\0u\0_pq_.x\0\0\0", &startup, &copy),
	                 WIRE_STARTUP_MESSAGE);
	assert_true(wire_startup_must_negotiate(&startup));
	free(copy);
}

static void test_requests(void **state)
{
	struct wire_startup startup;
	struct sbuf buf;
	uint8_t key[WIRE_CANCEL_KEY_MAX + 1] = {1, 2, 3, 4};

	(void)state;
	sbuf_init(&buf, 1000);
	wire_add_ssl_request(&buf);
	assert_int_equal(wire_startup_parse(buf.data, buf.len, &startup), WIRE_STARTUP_SSL);
	assert_int_equal(startup.size, 8);
	assert_int_equal(wire_startup_parse("\0\0\0\10\4\xd2\x16\x30", 8, &startup),
	                 WIRE_STARTUP_GSSENC);
	sbuf_reset(&buf);
	wire_add_cancel_request(&buf, 0x80000001u, key, 4);
	assert_int_equal(buf.len, 16);
	assert_int_equal(wire_startup_parse(buf.data, buf.len, &startup), WIRE_STARTUP_CANCEL);
	assert_int_equal(startup.pid, 0x80000001u);
	assert_int_equal(startup.key_len, 4);
	assert_memory_equal(startup.key, key, 4);
	sbuf_reset(&buf);
	wire_add_cancel_request(&buf, 7, key, WIRE_CANCEL_KEY_MAX);
	assert_int_equal(wire_startup_parse(buf.data, buf.len, &startup), WIRE_STARTUP_CANCEL);
	assert_int_equal(startup.key_len, WIRE_CANCEL_KEY_MAX);
	sbuf_reset(&buf);
	wire_add_cancel_request(&buf, 7, key, WIRE_CANCEL_KEY_MAX + 1);
	assert_int_equal(wire_startup_parse(buf.data, buf.len, &startup), WIRE_STARTUP_BAD);
	sbuf_reset(&buf);
	wire_add_cancel_request(&buf, 7, key, 3);
	assert_int_equal(wire_startup_parse(buf.data, buf.len, &startup), WIRE_STARTUP_BAD);
	assert_true(startup.silent);
	assert_int_equal(wire_startup_parse("\x16\x03\x01", 3, &startup), WIRE_STARTUP_DIRECT_TLS);
	assert_int_equal(wire_startup_parse("\x16", 1, &startup), WIRE_STARTUP_DIRECT_TLS);
	sbuf_free(&buf);
}

static void test_lengths(void **state)
{
	static const uint32_t bad[] = {0,          1,           4,          7, WIRE_STARTUP_MAX + 1,
	                               0x7fffffff, 0x80000000u, 0xffffffffu};
	struct wire_startup startup;
	uint8_t b[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		wire_put_be32(b, bad[i]);
		assert_int_equal(wire_startup_parse(b, 4, &startup), WIRE_STARTUP_BAD);
		assert_string_equal(startup.error, "invalid length of startup packet");
		assert_true(startup.silent);
	}
	wire_put_be32(b, WIRE_STARTUP_MAX);
	assert_int_equal(wire_startup_parse(b, 4, &startup), WIRE_STARTUP_MORE);
	assert_int_equal(startup.size, WIRE_STARTUP_MAX);
	/* An HTTP request. */
	assert_int_equal(wire_startup_parse("GET / HTTP/1.1", 14, &startup), WIRE_STARTUP_BAD);
	/* SSLRequest with something in it. */
	EXPECT_BAD(WIRE_CODE_SSL, "x", "08P01", "invalid length of startup packet");
}

static void test_layout(void **state)
{
	static const char layout[] =
	    "invalid startup packet layout: expected terminator as last byte";
	static const char no_user[] = "no PostgreSQL user name specified in startup packet";

	(void)state;
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user\0", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user\0u", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user\0u\0", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user\0u\0\0x", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user\0u\0\0\0", "08P01", layout);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "\0", "28000", no_user);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "database\0d\0\0", "28000", no_user);
	EXPECT_BAD(WIRE_PROTOCOL_3_0, "user\0\0\0", "28000", no_user);
	EXPECT_BAD(WIRE_PROTOCOL(2, 0), "user\0u\0\0", "0A000",
	           "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
	EXPECT_BAD(WIRE_PROTOCOL(4, 1), "user\0u\0\0", "0A000",
	           "unsupported frontend protocol 4.1: server supports 3.0 to 3.2");
}

static void test_replication(void **state)
{
	(void)state;
	assert_int_equal(wire_startup_replication(NULL), WIRE_REPLICATION_NONE);
	assert_int_equal(wire_startup_replication("database"), WIRE_REPLICATION_LOGICAL);
	assert_int_equal(wire_startup_replication("true"), WIRE_REPLICATION_PHYSICAL);
	assert_int_equal(wire_startup_replication("On"), WIRE_REPLICATION_PHYSICAL);
	assert_int_equal(wire_startup_replication("1"), WIRE_REPLICATION_PHYSICAL);
	assert_int_equal(wire_startup_replication("y"), WIRE_REPLICATION_PHYSICAL);
	assert_int_equal(wire_startup_replication("off"), WIRE_REPLICATION_NONE);
	assert_int_equal(wire_startup_replication("0"), WIRE_REPLICATION_NONE);
	assert_int_equal(wire_startup_replication(""), WIRE_REPLICATION_BAD);
	assert_int_equal(wire_startup_replication("o"), WIRE_REPLICATION_BAD);
	assert_int_equal(wire_startup_replication("trueish"), WIRE_REPLICATION_BAD);
}

static void test_options(void **state)
{
	struct wire_options options;

	(void)state;
	assert_true(wire_options_parse("", &options));
	assert_int_equal(options.count, 0);
	wire_options_free(&options);
	assert_true(wire_options_parse("  -c a.b=1 -cc-d=x\\ y\t--statement-timeout=5min "
	                               "-c e=  --f=a\\\\b=c\\",
	                               &options));
	assert_int_equal(options.count, 5);
	assert_string_equal(options.items[0].name, "a.b");
	assert_string_equal(options.items[0].value, "1");
	assert_string_equal(options.items[1].name, "c_d");
	assert_string_equal(options.items[1].value, "x y");
	assert_string_equal(options.items[2].name, "statement_timeout");
	assert_string_equal(options.items[2].value, "5min");
	assert_string_equal(options.items[3].name, "e");
	assert_string_equal(options.items[3].value, "");
	assert_string_equal(options.items[4].name, "f");
	assert_string_equal(options.items[4].value, "a\\b=c");
	wire_options_free(&options);
}

static void test_options_bad(void **state)
{
	static const struct {
		const char *text;
		const char *error;
	} cases[] = {
	    {"-c", "switch \"-c\" in parameter \"options\" requires a value"},
	    {"-c x", "-c x requires a value"},
	    {"-c =1", "-c =1 requires a value"},
	    {"--x", "--x requires a value"},
	    {"--", "unsupported switch \"--\" in parameter \"options\""},
	    {"-S 100", "unsupported switch \"-S\" in parameter \"options\""},
	    {"-c a=1 postgres", "unsupported switch \"postgres\" in parameter \"options\""},
	    {"\\", "unsupported switch \"\" in parameter \"options\""},
	};
	struct wire_options options;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_false(wire_options_parse(cases[i].text, &options));
		assert_string_equal(options.error, cases[i].error);
		assert_string_equal(options.sqlstate, "42601");
		assert_non_null(options.hint);
		assert_int_equal(options.count, 0);
		wire_options_free(&options);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_message),     cmocka_unit_test(test_defaults),
	    cmocka_unit_test(test_negotiate),   cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_lengths),     cmocka_unit_test(test_layout),
	    cmocka_unit_test(test_replication), cmocka_unit_test(test_options),
	    cmocka_unit_test(test_options_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
