/* SPDX-License-Identifier: PostgreSQL */
/* Clients that were told the process id of a server: found by it and by what else they have. */
#include "core/told.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

#define MANY 3000u
#define EACH 3u

static int setup(void **state)
{
	*state = told_table_new();
	return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	told_table_free(*state);
	return 0;
}

static bool fits(const struct told *told, void *arg)
{
	return told->number == *(const uint32_t *)arg;
}

static bool find(struct told_table *table, uint32_t pid, uint32_t number, struct told *found)
{
	return told_find(table, pid, fits, &number, found);
}

/* Servers of several hosts with the same id: the number decides. */
static void test_equal_ids(void **state)
{
	struct told_table *table = *state;
	struct told one = {.pid = 4711, .number = 1, .worker = 1};
	struct told two = {.pid = 4711, .number = 2, .worker = 2};
	struct told near = {.pid = 4711 + 256, .number = 1, .worker = 3};
	struct told same = {.pid = 4711, .number = 2, .worker = 4};
	struct told found;

	assert_true(told_add(table, &one));
	assert_true(told_add(table, &two));
	assert_true(told_add(table, &near));
	assert_false(told_add(table, &same));
	assert_true(find(table, 4711, 1, &found));
	assert_int_equal(found.worker, 1);
	assert_true(find(table, 4711, 2, &found));
	assert_int_equal(found.worker, 2);
	assert_true(find(table, 4711 + 256, 1, &found));
	assert_int_equal(found.worker, 3);
	assert_false(find(table, 4711, 3, &found));
	assert_false(find(table, 4712, 1, &found));
	told_remove(table, &two);
	assert_false(find(table, 4711, 2, &found));
	assert_true(find(table, 4711, 1, &found));
	assert_true(told_add(table, &same));
	assert_true(find(table, 4711, 2, &found));
	assert_int_equal(found.worker, 4);
}

static void test_many(void **state)
{
	static struct told all[MANY * EACH];
	struct told_table *table = *state;
	struct told found;

	for (uint32_t i = 0; i < MANY * EACH; i++) {
		all[i] = (struct told){.pid = 1 + i % MANY, .number = i, .worker = i};
		assert_true(told_add(table, &all[i]));
	}
	for (uint32_t i = 0; i < MANY * EACH; i++) {
		assert_true(find(table, 1 + i % MANY, i, &found));
		assert_int_equal(found.worker, i);
	}
	for (uint32_t i = 0; i < MANY * EACH; i += 2)
		told_remove(table, &all[i]);
	for (uint32_t i = 0; i < MANY * EACH; i++)
		assert_int_equal(find(table, 1 + i % MANY, i, &found), i % 2 == 1);
	told_remove(table, &all[0]); /* is in it no more */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_equal_ids, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_many, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
