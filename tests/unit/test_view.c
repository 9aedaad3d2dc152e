/* SPDX-License-Identifier: PostgreSQL */
/*
 * Rowsets: cleaning of values, bounds, merging of the workers' shares; and the verdict on the
 * target of a swap.
 */
#include "core/swap_check.h"
#include "core/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_cell(const struct rowset_cell *cell, const char *text)
{
	if (!rowset_cell_is(cell, text))
		fail_msg("\"%.*s\" is not \"%s\"", (int)cell->len, cell->bytes, text);
}

static void test_values_are_cleaned(void **state)
{
	static const struct {
		const char *in;
		const char *out;
	} values[] = {
	    {"plain", "plain"},
	    {"", ""},
	    {"a\nb\tc\x7f\x1b[31m", "a b c  [31m"},
	    {"\xc3\xbc\xe2\x82\xac\xf0\x9f\x90\x98", "\xc3\xbc\xe2\x82\xac\xf0\x9f\x90\x98"},
	    {"\xff\xfe", "??"},
	    {"\xc3", "?"},
	    {"\xc0\xaf", "??"},           /* overlong */
	    {"\xed\xa0\x80", "???"},      /* surrogate */
	    {"\xf4\x90\x80\x80", "????"}, /* beyond U+10FFFF */
	};
	struct rowset_cell cell;

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct rowset set;
		size_t offset = 0;

		rowset_init(&set, VIEW_VERSION);
		rowset_text(&set, values[i].in);
		rowset_end_row(&set);
		assert_true(rowset_next(&set, &offset, &cell));
		check_cell(&cell, values[i].out);
		assert_false(rowset_next(&set, &offset, &cell));
		rowset_free(&set);
	}
}

static void test_long_values_are_cut(void **state)
{
	char text[3 * VIEW_CELL_MAX];
	struct rowset_cell cell;
	struct rowset set;
	size_t offset = 0;

	(void)state;
	/* Three bytes a character: the cut is at a character. */
	for (size_t i = 0; i + 3 < sizeof(text); i += 3)
		memcpy(text + i, "\xe2\x82\xac", 4);
	rowset_init(&set, VIEW_VERSION);
	rowset_text(&set, text);
	rowset_end_row(&set);
	assert_true(rowset_next(&set, &offset, &cell));
	assert_int_equal(cell.len, VIEW_CELL_MAX / 3 * 3);
	rowset_free(&set);
}

static void test_rows_beyond_the_bound_are_dropped(void **state)
{
	struct rowset_cell cell;
	struct rowset set;
	size_t offset = 0;
	size_t rows = 0;

	(void)state;
	rowset_init(&set, VIEW_VERSION);
	set.cells.max = 100;
	for (int i = 0; i < 20; i++) {
		rowset_printf(&set, "row %05d", i);
		rowset_end_row(&set);
	}
	assert_true(set.cut);
	while (rowset_next(&set, &offset, &cell))
		rows++;
	assert_int_equal(rows, set.rows);
	assert_int_equal(rows, 100 / 13);
	rowset_free(&set);
}

static void add_load(struct rowset *set, const char *database, int value)
{
	rowset_text(set, database);
	for (size_t i = 1; i < view_info(VIEW_LOADS)->column_count; i++)
		rowset_int(set, value);
	rowset_end_row(set);
}

static void test_merge(void **state)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	struct rowset all;
	struct rowset more;
	size_t offset = 0;

	(void)state;
	rowset_init(&all, VIEW_LOADS);
	rowset_init(&more, VIEW_LOADS);
	add_load(&all, "p2", 1);
	add_load(&all, "p1", 10);
	add_load(&more, "p2", 4);
	add_load(&more, "p10", 7);
	rowset_append(&all, &more);
	assert_int_equal(more.rows, 0);
	assert_int_equal(all.rows, 4);
	rowset_merge(&all);
	assert_int_equal(all.rows, 3);
	assert_true(rowset_next(&all, &offset, cells));
	check_cell(&cells[0], "p1");
	assert_int_equal(rowset_cell_int(&cells[1]), 10);
	assert_true(rowset_next(&all, &offset, cells));
	check_cell(&cells[0], "p10");
	assert_true(rowset_next(&all, &offset, cells));
	check_cell(&cells[0], "p2");
	assert_int_equal(rowset_cell_int(&cells[1]), 5);
	/* oldest_wait_ms is a maximum. */
	assert_int_equal(rowset_cell_int(&cells[4]), 4);
	rowset_free(&all);
	rowset_free(&more);
}

static void test_null_and_numbers(void **state)
{
	struct rowset_cell cell;
	struct rowset set;
	size_t offset = 0;

	(void)state;
	rowset_init(&set, VIEW_VALUE);
	rowset_null(&set);
	rowset_end_row(&set);
	rowset_int(&set, INT64_MIN);
	rowset_end_row(&set);
	rowset_text(&set, "12x");
	rowset_end_row(&set);
	assert_true(rowset_next(&set, &offset, &cell));
	assert_null(cell.bytes);
	assert_int_equal(rowset_cell_int(&cell), 0);
	assert_true(rowset_next(&set, &offset, &cell));
	assert_true(rowset_cell_int(&cell) == INT64_MIN);
	assert_true(rowset_next(&set, &offset, &cell));
	assert_int_equal(rowset_cell_int(&cell), 0);
	rowset_free(&set);
}

static void test_find(void **state)
{
	enum view view;

	(void)state;
	assert_true(view_find("holds", &view));
	assert_int_equal(view, VIEW_HOLDS);
	assert_false(view_find("loads", &view));
	assert_false(view_find("", &view));
	for (size_t i = 0; i < VIEW_COUNT; i++) {
		const struct view_info *info = view_info((enum view)i);

		assert_true(info->column_count > 0 && info->help[0] != '\0');
		for (size_t c = 0; c < info->column_count; c++)
			assert_true(info->columns[c].help[0] != '\0');
	}
}

static struct server_identity identity(const char *id, uint32_t timeline, bool in_recovery)
{
	struct server_identity out = {
	    .known = true, .in_recovery = in_recovery, .timeline = timeline};

	(void)snprintf(out.system_identifier, sizeof(out.system_identifier), "%s", id);
	return out;
}

static bool verdict(struct server_identity source, struct server_identity target, const char *word)
{
	struct sbuf reason;
	bool ok;

	sbuf_init(&reason, 500);
	ok = check_verdict(&source, &target, &reason);
	if (!ok && strstr(sbuf_text(&reason), word) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", sbuf_text(&reason), word);
	sbuf_free(&reason);
	return ok;
}

static void test_verdict(void **state)
{
	struct server_identity unknown = {0};

	(void)state;
	assert_true(verdict(identity("7", 1, false), identity("7", 2, false), ""));
	assert_true(verdict(unknown, identity("7", 1, false), ""));
	assert_false(verdict(unknown, identity("7", 1, true), "recovery"));
	assert_false(verdict(identity("7", 1, false), identity("7", 1, true), "recovery"));
	assert_false(verdict(identity("7", 1, false), identity("8", 2, false), "system"));
	assert_false(verdict(identity("7", 2, false), identity("7", 2, false), "timeline"));
	assert_false(verdict(identity("7", 3, false), identity("7", 2, false), "timeline"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_values_are_cleaned),
	    cmocka_unit_test(test_long_values_are_cut),
	    cmocka_unit_test(test_rows_beyond_the_bound_are_dropped),
	    cmocka_unit_test(test_merge),
	    cmocka_unit_test(test_null_and_numbers),
	    cmocka_unit_test(test_find),
	    cmocka_unit_test(test_verdict),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
