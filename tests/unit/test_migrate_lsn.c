/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/lsn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_parse(void **state)
{
	uint64_t lsn = 1;

	(void)state;
	assert_true(lsn_parse("0/0", &lsn));
	assert_int_equal(lsn, 0);
	assert_true(lsn_parse("16/B374D848", &lsn));
	assert_true(lsn == 0x16B374D848ULL);
	assert_true(lsn_parse("ffffffff/ffffffff", &lsn));
	assert_true(lsn == UINT64_MAX);
}

static void test_refuse(void **state)
{
	static const char *const bad[] = {"",     "0",    "/",     "0/",          "/0",
	                                  "1/2 ", " 1/2", "1/2/3", "123456789/0", "0/123456789",
	                                  "g/0",  "0x1/0"};
	uint64_t lsn;

	(void)state;
	assert_false(lsn_parse(NULL, &lsn));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(lsn_parse(bad[i], &lsn));
}

static void test_format(void **state)
{
	char text[LSN_TEXT_MAX];

	(void)state;
	assert_string_equal(lsn_format(0x16B374D848ULL, text), "16/B374D848");
	assert_string_equal(lsn_format(0, text), "0/0");
	assert_string_equal(lsn_format(UINT64_MAX, text), "FFFFFFFF/FFFFFFFF");
}

static void test_history(void **state)
{
	uint32_t parent = 0;
	uint64_t lsn = 0;

	(void)state;
	assert_true(
	    timeline_switch_point("1\t0/4870C90\tno recovery target specified\n", &parent, &lsn));
	assert_int_equal(parent, 1);
	assert_true(lsn == 0x4870C90);
	assert_true(timeline_switch_point("# comment\n\n1\t0/3000000\tbefore\n\n"
	                                  "2\tA/10\tno recovery target specified\n\n",
	                                  &parent, &lsn));
	assert_int_equal(parent, 2);
	assert_true(lsn == 0xA00000010ULL);
	/* Without a line end, and without a reason. */
	assert_true(timeline_switch_point("7 1/2", &parent, &lsn));
	assert_int_equal(parent, 7);
}

static void test_bad_history(void **state)
{
	static const char *const bad[] = {
	    "",         "\n",        "# only\n", "1\n",         "x\t0/1\n",
	    "0\t0/1\n", "1\t0/1x\n", "1 0\n",    "1\t0/1\n2\n", "99999999999\t0/1\n"};
	uint32_t parent;
	uint64_t lsn;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(timeline_switch_point(bad[i], &parent, &lsn));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_parse),       cmocka_unit_test(test_refuse),
	    cmocka_unit_test(test_format),      cmocka_unit_test(test_history),
	    cmocka_unit_test(test_bad_history),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
