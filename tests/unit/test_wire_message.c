/* SPDX-License-Identifier: PostgreSQL */
/* Headers of messages: types, bounds of lengths, and the texts of refusals. */
#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static enum wire_header_status check(enum wire_direction from, char type, uint32_t length,
                                     size_t *total)
{
	uint8_t header[WIRE_HEADER_LEN];

	header[0] = (uint8_t)type;
	wire_put_be32(header + 1, length);
	return wire_header_check(from, header, total);
}

static void test_big_endian(void **state)
{
	uint8_t b[4];

	(void)state;
	wire_put_be32(b, 0x80fe0102u);
	assert_int_equal(b[0], 0x80);
	assert_int_equal(wire_get_be32(b), 0x80fe0102u);
	assert_int_equal(wire_get_be16(b), 0x80fe);
	wire_put_be16(b, 0xfffe);
	assert_int_equal(wire_get_be16(b), 0xfffe);
}

static void test_good(void **state)
{
	size_t total = 0;

	(void)state;
	assert_int_equal(check(WIRE_FRONTEND, 'S', 4, &total), WIRE_HEADER_OK);
	assert_int_equal(total, 5);
	assert_int_equal(check(WIRE_BACKEND, 'Z', 5, &total), WIRE_HEADER_OK);
	assert_int_equal(total, 6);
	assert_int_equal(check(WIRE_FRONTEND, 'd', WIRE_LARGE, &total), WIRE_HEADER_OK);
	assert_int_equal(total, (size_t)WIRE_LARGE + 1);
	assert_string_equal(wire_type_name(WIRE_FRONTEND, 'Q'), "QUERY");
	assert_string_equal(wire_type_name(WIRE_BACKEND, 'Z'), "READY_FOR_QUERY");
	assert_string_equal(wire_type_name(WIRE_BACKEND, 'Q'), "?");
}

/* Each rule's least and most, and one beyond either. */
static void test_bounds(void **state)
{
	size_t total;

	(void)state;
#define FE(byte, name, min, max, help)                                                             \
	assert_int_equal(check(WIRE_FRONTEND, byte, min, &total), WIRE_HEADER_OK);                 \
	assert_int_equal(check(WIRE_FRONTEND, byte, max, &total), WIRE_HEADER_OK);                 \
	assert_int_equal(check(WIRE_FRONTEND, byte, (min)-1, &total), WIRE_HEADER_TOO_SHORT);      \
	assert_int_equal(check(WIRE_FRONTEND, byte, (max) + 1, &total), WIRE_HEADER_TOO_LONG);
#define BE(byte, name, min, max, help)                                                             \
	assert_int_equal(check(WIRE_BACKEND, byte, min, &total), WIRE_HEADER_OK);                  \
	assert_int_equal(check(WIRE_BACKEND, byte, max, &total), WIRE_HEADER_OK);                  \
	assert_int_equal(check(WIRE_BACKEND, byte, (min)-1, &total), WIRE_HEADER_TOO_SHORT);       \
	assert_int_equal(check(WIRE_BACKEND, byte, (max) + 1, &total), WIRE_HEADER_TOO_LONG);
#include "wire/messages.def"
}

/* No length makes a type known that is not, and no length wraps around. */
static void test_bad(void **state)
{
	static const uint32_t lengths[] = {0,     1,          3,          4,         5,
	                                   10000, 0x7fffffff, 0x80000000, 0xffffffff};
	static const char frontend[] = "QPBEDCHSFdcfpX";
	size_t total = 42;

	(void)state;
	for (int type = 0; type < 256; type++) {
		if (type != 0 && strchr(frontend, type) != NULL)
			continue;
		for (size_t i = 0; i < ARRAY_LEN(lengths); i++)
			assert_int_equal(check(WIRE_FRONTEND, (char)type, lengths[i], &total),
			                 WIRE_HEADER_UNKNOWN);
	}
	assert_int_equal(check(WIRE_FRONTEND, 'Q', 0, &total), WIRE_HEADER_TOO_SHORT);
	assert_int_equal(check(WIRE_FRONTEND, 'Q', 0xffffffff, &total), WIRE_HEADER_TOO_LONG);
	assert_int_equal(check(WIRE_FRONTEND, 'Q', 0x80000000, &total), WIRE_HEADER_TOO_LONG);
	assert_int_equal(check(WIRE_FRONTEND, 'E', 10001, &total), WIRE_HEADER_TOO_LONG);
	assert_int_equal(total, 0);
}

static void test_error_text(void **state)
{
	char text[80];

	(void)state;
	assert_string_equal(wire_header_error(WIRE_FRONTEND, "!\0\0\0\4", text, sizeof(text)),
	                    "invalid frontend message type 33");
	assert_string_equal(wire_header_error(WIRE_BACKEND, "Z\0\0\0\3", text, sizeof(text)),
	                    "invalid length 3 of READY_FOR_QUERY message");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_big_endian), cmocka_unit_test(test_good),
	    cmocka_unit_test(test_bounds),     cmocka_unit_test(test_bad),
	    cmocka_unit_test(test_error_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
