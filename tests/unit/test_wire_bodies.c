/* SPDX-License-Identifier: PostgreSQL */
/* Every message that can be built is parsed back; bodies that are cut off, have embedded zeros or
 * lengths that lie are refused.  Bodies are handed over in memory of exactly their size, so that a
 * sanitizer sees every read beyond. */
#include "wire/build.h"
#include "wire/parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct sbuf buf;
static uint8_t *body; /* of the last message checked */
static size_t body_len;

static int setup(void **state)
{
	(void)state;
	sbuf_init(&buf, 1 << 20);
	body = NULL;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sbuf_free(&buf);
	free(body);
	return 0;
}

/* The buffer holds exactly one message, which its own rule admits; its body is in body, body_len.
 */
static void expect_message(enum wire_direction from, char type)
{
	size_t total;

	assert_true(sbuf_ok(&buf));
	assert_true(buf.len >= WIRE_HEADER_LEN);
	assert_int_equal(buf.data[0], type);
	assert_int_equal(wire_header_check(from, buf.data, &total), WIRE_HEADER_OK);
	assert_int_equal(total, buf.len);
	free(body);
	body_len = total - WIRE_HEADER_LEN;
	body = malloc(body_len + 1);
	assert_non_null(body);
	body = realloc(body, body_len == 0 ? 1 : body_len);
	assert_non_null(body);
	memcpy(body, buf.data + WIRE_HEADER_LEN, body_len);
	sbuf_reset(&buf);
}

/* `call` is false for every body that is cut off. */
#define EXPECT_NO_PREFIX(call)                                                                     \
	do {                                                                                       \
		size_t whole = body_len;                                                           \
		uint8_t *kept = body;                                                              \
		for (body_len = 0; body_len < whole; body_len++) {                                 \
			body = malloc(body_len == 0 ? 1 : body_len);                               \
			assert_non_null(body);                                                     \
			memcpy(body, kept, body_len);                                              \
			assert_false(call);                                                        \
			free(body);                                                                \
		}                                                                                  \
		body = kept;                                                                       \
	} while (0)

static void test_error(void **state)
{
	const struct wire_error error = {.severity = "ERROR",
	                                 .sqlstate = "42601",
	                                 .message = "syntax error",
	                                 .detail = "d",
	                                 .hint = "h",
	                                 .position = 17};
	struct wire_error got;
	char sqlstate[6];

	(void)state;
	wire_add_error(&buf, &error);
	expect_message(WIRE_BACKEND, 'E');
	assert_true(wire_parse_error(body, body_len, &got));
	assert_string_equal(got.severity, "ERROR");
	assert_string_equal(got.sqlstate, "42601");
	assert_string_equal(got.message, "syntax error");
	assert_string_equal(got.detail, "d");
	assert_string_equal(got.hint, "h");
	assert_int_equal(got.position, 17);
	EXPECT_NO_PREFIX(wire_parse_error(body, body_len, &got));
	assert_true(wire_peek_sqlstate(body, body_len, sqlstate));
	assert_string_equal(sqlstate, "42601");
	/* "SERROR\0VERROR\0C42601\0" is enough. */
	assert_true(wire_peek_sqlstate(body, 21, sqlstate));
	assert_false(wire_peek_sqlstate(body, 20, sqlstate));
	assert_false(wire_peek_sqlstate(body, 0, sqlstate));
	wire_add_notice(&buf, &(struct wire_error){.message = "m"});
	expect_message(WIRE_BACKEND, 'N');
	assert_true(wire_parse_error(body, body_len, &got));
	assert_string_equal(got.severity, "NOTICE");
	assert_null(got.detail);
	assert_int_equal(got.position, 0);
	wire_add_error_text(&buf, "FATAL", "57P01", "bye");
	expect_message(WIRE_BACKEND, 'E');
	assert_true(wire_parse_error(body, body_len, &got));
	assert_string_equal(got.severity, "FATAL");
}

/* Errors as no honest server sends them. */
static void test_error_odd(void **state)
{
	struct wire_error got;
	char sqlstate[6];

	(void)state;
	assert_true(wire_parse_error("", 1, &got));
	assert_null(got.sqlstate);
	assert_null(got.message);
	assert_null(got.severity);
	assert_true(wire_parse_error("SFEHLER\0?unknown\0P12x\0", 23, &got));
	assert_string_equal(got.severity, "FEHLER");
	assert_int_equal(got.position, 0);
	assert_true(wire_parse_error("P99999999999\0", 14, &got));
	assert_int_equal(got.position, 0);
	assert_false(wire_parse_error("Mtext", 5, &got));
	assert_false(wire_parse_error("Mtext\0", 6, &got));
	assert_false(wire_parse_error("M\0\0more", 7, &got));
	assert_false(wire_parse_error(NULL, 0, &got));
	assert_false(wire_peek_sqlstate("C123\0", 6, sqlstate));
	assert_false(wire_peek_sqlstate("C1234567\0", 10, sqlstate));
}

static void expect_auth(uint32_t expected_code, const void *expected, size_t expected_len)
{
	const uint8_t *data;
	size_t data_len;
	uint32_t code;

	expect_message(WIRE_BACKEND, 'R');
	assert_true(wire_parse_auth(body, body_len, &code, &data, &data_len));
	assert_int_equal(code, expected_code);
	assert_int_equal(data_len, expected_len);
	assert_memory_equal(data, expected, expected_len);
	assert_false(wire_parse_auth(body, 3, &code, &data, &data_len));
}

static void test_auth(void **state)
{
	static const char *const names[] = {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"};

	(void)state;
	wire_add_auth_ok(&buf);
	expect_auth(WIRE_AUTH_OK, "", 0);
	wire_add_auth_cleartext(&buf);
	expect_auth(WIRE_AUTH_CLEARTEXT, "", 0);
	wire_add_auth_md5(&buf, (const uint8_t *)"\1\0\2\3");
	expect_auth(WIRE_AUTH_MD5, "\1\0\2\3", 4);
	wire_add_auth_sasl(&buf, names, 2);
	expect_auth(WIRE_AUTH_SASL, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0", 34);
	wire_add_auth_sasl_continue(&buf, "r=", 2);
	expect_auth(WIRE_AUTH_SASL_CONTINUE, "r=", 2);
	wire_add_auth_sasl_final(&buf, "v=x", 3);
	expect_auth(WIRE_AUTH_SASL_FINAL, "v=x", 3);
}

static void test_session_start(void **state)
{
	const char *name;
	const char *value;
	const uint8_t *key;
	size_t key_len;
	uint32_t pid;
	enum wire_tx_status status;

	(void)state;
	wire_add_parameter_status(&buf, "TimeZone", "");
	expect_message(WIRE_BACKEND, 'S');
	assert_true(wire_parse_parameter_status(body, body_len, &name, &value));
	assert_string_equal(name, "TimeZone");
	assert_string_equal(value, "");
	EXPECT_NO_PREFIX(wire_parse_parameter_status(body, body_len, &name, &value));
	assert_false(wire_parse_parameter_status("a\0b\0c", 6, &name, &value));
	wire_add_backend_key(&buf, 4711, "\1\2\3\4", 4);
	expect_message(WIRE_BACKEND, 'K');
	assert_true(wire_parse_backend_key(body, body_len, &pid, &key, &key_len));
	assert_int_equal(pid, 4711);
	assert_int_equal(key_len, 4);
	assert_memory_equal(key, "\1\2\3\4", 4);
	EXPECT_NO_PREFIX(wire_parse_backend_key(body, body_len, &pid, &key, &key_len));
	wire_add_ready(&buf, WIRE_TX_FAILED);
	expect_message(WIRE_BACKEND, 'Z');
	assert_true(wire_parse_ready(body, body_len, &status));
	assert_int_equal(status, WIRE_TX_FAILED);
	assert_false(wire_parse_ready("X", 1, &status));
	assert_false(wire_parse_ready("II", 2, &status));
	assert_false(wire_parse_ready("", 0, &status));
}

static void test_negotiate(void **state)
{
	uint32_t version;
	uint32_t count;

	(void)state;
	assert_true(wire_parse_negotiate("\0\3\0\0\0\0\0\1_pq_.x\0", 15, &version, &count));
	assert_int_equal(version, WIRE_PROTOCOL_3_0);
	assert_int_equal(count, 1);
	/* Four thousand million names are announced, one is there. */
	assert_false(
	    wire_parse_negotiate("\0\3\0\0\xff\xff\xff\xff_pq_.x\0", 15, &version, &count));
	assert_false(wire_parse_negotiate("\0\3\0\0\0\0\0\1_pq_.x", 14, &version, &count));
}

static void test_rows(void **state)
{
	static const struct wire_column columns[] = {
	    {"database", WIRE_OID_TEXT, -1}, {"epoch", WIRE_OID_INT8, 8}, {"", WIRE_OID_BOOL, 1}};
	static const char *const cells[] = {"p2", NULL, ""};
	struct wire_column_view views[2];
	struct wire_cell got[3];
	size_t count;

	(void)state;
	wire_add_row_description(&buf, columns, 3);
	expect_message(WIRE_BACKEND, 'T');
	assert_true(wire_parse_row_description(body, body_len, views, 2, &count));
	assert_int_equal(count, 3);
	assert_string_equal(views[0].name, "database");
	assert_int_equal(views[1].type_oid, WIRE_OID_INT8);
	EXPECT_NO_PREFIX(wire_parse_row_description(body, body_len, views, 2, &count));
	wire_add_data_row(&buf, cells, 3);
	expect_message(WIRE_BACKEND, 'D');
	assert_true(wire_parse_data_row(body, body_len, got, 3, &count));
	assert_int_equal(count, 3);
	assert_int_equal(got[0].len, 2);
	assert_memory_equal(got[0].data, "p2", 2);
	assert_null(got[1].data);
	assert_non_null(got[2].data);
	assert_int_equal(got[2].len, 0);
	EXPECT_NO_PREFIX(wire_parse_data_row(body, body_len, got, 3, &count));
	/* A cell that claims nearly 4 GB, and -2. */
	assert_false(wire_parse_data_row("\0\1\x7f\xff\xff\xff..", 8, got, 3, &count));
	assert_false(wire_parse_data_row("\0\1\xff\xff\xff\xfe..", 8, got, 3, &count));
	assert_false(wire_parse_data_row("\xff\xff\0\0\0\0", 6, got, 3, &count));
}

static void test_completions(void **state)
{
	static const struct {
		void (*add)(struct sbuf *buf);
		char type;
	} empty[] = {
	    {wire_add_empty_query, 'I'},   {wire_add_parse_complete, '1'},
	    {wire_add_bind_complete, '2'}, {wire_add_close_complete, '3'},
	    {wire_add_no_data, 'n'},       {wire_add_portal_suspended, 's'},
	};
	const uint32_t oids[] = {23, 25};
	const char *tag;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(empty); i++) {
		empty[i].add(&buf);
		expect_message(WIRE_BACKEND, empty[i].type);
		assert_int_equal(body_len, 0);
	}
	wire_add_command_complete(&buf, "PREPARE SWAP");
	expect_message(WIRE_BACKEND, 'C');
	assert_true(wire_parse_command_complete(body, body_len, &tag));
	assert_string_equal(tag, "PREPARE SWAP");
	EXPECT_NO_PREFIX(wire_parse_command_complete(body, body_len, &tag));
	assert_false(wire_parse_command_complete("SELECT\0 1", 10, &tag));
	wire_add_parameter_description(&buf, oids, 2);
	expect_message(WIRE_BACKEND, 't');
	assert_memory_equal(body, "\0\2\0\0\0\x17\0\0\0\x19", 10);
}

static void test_frontend(void **state)
{
	struct wire_parse_message parse;
	struct wire_bind_message bind;
	const char *text;
	uint32_t max_rows;
	char kind;

	(void)state;
	wire_add_query(&buf, "SELECT 1");
	expect_message(WIRE_FRONTEND, 'Q');
	assert_true(wire_parse_query(body, body_len, &text));
	assert_string_equal(text, "SELECT 1");
	EXPECT_NO_PREFIX(wire_parse_query(body, body_len, &text));
	assert_false(wire_parse_query("a\0b", 4, &text));
	wire_add_parse(&buf, "s", "q", NULL, 0);
	expect_message(WIRE_FRONTEND, 'P');
	assert_true(wire_parse_parse(body, body_len, &parse));
	assert_int_equal(parse.rest_len, 2);
	wire_add_parse(&buf, "name", "SELECT $1", "\0\1\0\0\0\x17", 6);
	expect_message(WIRE_FRONTEND, 'P');
	assert_true(wire_parse_parse(body, body_len, &parse));
	assert_string_equal(parse.name, "name");
	assert_string_equal(parse.query, "SELECT $1");
	assert_int_equal(parse.rest_len, 6);
	assert_memory_equal(parse.rest, "\0\1\0\0\0\x17", 6);
	EXPECT_NO_PREFIX(wire_parse_parse(body, body_len, &parse));
	assert_false(wire_parse_parse("s\0q\0\xff\xff....", 10, &parse));
	wire_add_bind(&buf, "portal", "s1");
	expect_message(WIRE_FRONTEND, 'B');
	assert_true(wire_parse_bind(body, body_len, &bind));
	assert_string_equal(bind.portal, "portal");
	assert_string_equal(bind.statement, "s1");
	assert_int_equal(bind.rest_offset, 10);
	assert_int_equal(body_len, 16);
	assert_true(wire_parse_bind(body, 10, &bind));
	assert_int_equal(bind.rest_offset, 10);
	assert_false(wire_parse_bind(body, 9, &bind));
	wire_add_describe(&buf, 'S', "s1");
	expect_message(WIRE_FRONTEND, 'D');
	assert_true(wire_parse_target(body, body_len, &kind, &text));
	assert_int_equal(kind, 'S');
	assert_string_equal(text, "s1");
	EXPECT_NO_PREFIX(wire_parse_target(body, body_len, &kind, &text));
	assert_false(wire_parse_target("X\0", 3, &kind, &text));
	wire_add_close(&buf, 'P', "");
	expect_message(WIRE_FRONTEND, 'C');
	assert_true(wire_parse_target(body, body_len, &kind, &text));
	wire_add_execute(&buf, "c", 100);
	expect_message(WIRE_FRONTEND, 'E');
	assert_true(wire_parse_execute(body, body_len, &text, &max_rows));
	assert_int_equal(max_rows, 100);
	EXPECT_NO_PREFIX(wire_parse_execute(body, body_len, &text, &max_rows));
}

static void test_frontend_short(void **state)
{
	(void)state;
	wire_add_sync(&buf);
	expect_message(WIRE_FRONTEND, 'S');
	wire_add_flush(&buf);
	expect_message(WIRE_FRONTEND, 'H');
	wire_add_terminate(&buf);
	expect_message(WIRE_FRONTEND, 'X');
	wire_add_copy_fail(&buf, "gone");
	expect_message(WIRE_FRONTEND, 'f');
	assert_string_equal((const char *)body, "gone");
}

static void test_passwords(void **state)
{
	const char *text;
	const uint8_t *data;
	size_t data_len;

	(void)state;
	wire_add_password(&buf, "secret");
	expect_message(WIRE_FRONTEND, 'p');
	assert_true(wire_parse_password(body, body_len, &text));
	assert_string_equal(text, "secret");
	EXPECT_NO_PREFIX(wire_parse_password(body, body_len, &text));
	assert_false(wire_parse_password("a\0b", 4, &text));
	wire_add_sasl_initial(&buf, "SCRAM-SHA-256", "n,,n=,r=x", 9);
	expect_message(WIRE_FRONTEND, 'p');
	assert_true(wire_parse_sasl_initial(body, body_len, &text, &data, &data_len));
	assert_string_equal(text, "SCRAM-SHA-256");
	assert_int_equal(data_len, 9);
	assert_memory_equal(data, "n,,n=,r=x", 9);
	EXPECT_NO_PREFIX(wire_parse_sasl_initial(body, body_len, &text, &data, &data_len));
	assert_true(wire_parse_sasl_initial("M\0\xff\xff\xff\xff", 6, &text, &data, &data_len));
	assert_null(data);
	assert_false(wire_parse_sasl_initial("M\0\xff\xff\xff\xffx", 7, &text, &data, &data_len));
	assert_false(wire_parse_sasl_initial("M\0\x7f\xff\xff\xffx", 7, &text, &data, &data_len));
	wire_add_sasl_response(&buf, "c=biws", 6);
	expect_message(WIRE_FRONTEND, 'p');
	assert_int_equal(body_len, 6);
}

/* A message that does not fit leaves a failed buffer and writes nowhere else. */
static void test_full(void **state)
{
	struct sbuf small;

	(void)state;
	for (size_t max = 0; max < 40; max++) {
		sbuf_init(&small, max);
		wire_add_error_text(&small, "FATAL", "57P01", "a text");
		assert_int_equal(sbuf_ok(&small), max >= 35);
		sbuf_free(&small);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_error),         TEST(test_error_odd), TEST(test_auth),
	    TEST(test_session_start), TEST(test_negotiate), TEST(test_rows),
	    TEST(test_completions),   TEST(test_frontend),  TEST(test_frontend_short),
	    TEST(test_passwords),     TEST(test_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
