/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/predict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_percentiles(void **state)
{
	struct samples samples = {0};

	(void)state;
	assert_int_equal(samples_at(&samples, 50), 0);
	samples_add(&samples, 7);
	assert_int_equal(samples_at(&samples, 1), 7);
	assert_int_equal(samples_at(&samples, 100), 7);
	samples.count = 0;
	for (usec_t i = 20; i > 0; i--)
		samples_add(&samples, i);
	assert_int_equal(samples_at(&samples, 50), 10);
	assert_int_equal(samples_at(&samples, 95), 19);
	assert_int_equal(samples_at(&samples, 96), 20);
	assert_int_equal(samples_at(&samples, 100), 20);
	/* More than there is room for are left out. */
	for (int i = 0; i < SAMPLES_MAX; i++)
		samples_add(&samples, 1);
	assert_int_equal(samples.count, SAMPLES_MAX);
}

static void part(const struct prediction *prediction, enum part which, usec_t low, usec_t high)
{
	usec_t at_least;
	usec_t at_most;

	predict_part(prediction, which, &at_least, &at_most);
	assert_int_equal(at_least, low);
	assert_int_equal(at_most, high);
}

static void test_parts(void **state)
{
	struct prediction prediction = {.terminate = 1000, .terminated = 16, .promote = 30000};
	usec_t low;
	usec_t high;

	(void)state;
	samples_add(&prediction.drain, 500);
	samples_add(&prediction.replay, 2000);
	samples_add(&prediction.commit, 100);
	samples_add(&prediction.console, 300);
	part(&prediction, PART_DRAIN, 500, 500);
	/* Nobody is connected; as many as were tried; a few more need another turn. */
	part(&prediction, PART_TERMINATE, 0, 0);
	prediction.sessions = 16;
	part(&prediction, PART_TERMINATE, 1000, 2000);
	prediction.sessions = 17;
	part(&prediction, PART_TERMINATE, 2000, 4000);
	part(&prediction, PART_SWAP, 600, 600);
	/* What earlier promotions took, and something that is assumed where there were none. */
	part(&prediction, PART_PROMOTE, 30000, 60000);
	predict_total(&prediction, &low, &high);
	assert_int_equal(low, 500 + 100 + 2000 + 2000 + 30000 + 100 + 600);
	assert_int_equal(high, 500 + 100 + 4000 + 2000 + 60000 + 100 + 600);
	prediction.promote = 0;
	predict_part(&prediction, PART_PROMOTE, &low, &high);
	assert_true(low > 0 && low < high);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_percentiles),
	    cmocka_unit_test(test_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
