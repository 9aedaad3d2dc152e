/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a server owes: counts, the safe point in every kind of sequence, and COPY, whose Syncs are
 * answered or not depending on what came before them.
 */
#include "core/ledger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

#include "session/stmts.h"

/* Pushes one entry for each letter, as request.c does: P B C D E S Q F, hidden p c q, given 1 3, e
 * for the end of a statement. */
static void push_all(struct ledger *ledger, const char *letters)
{
	static const struct {
		char letter;
		enum ledger_op op;
	} ops[] = {
	    {'P', OWES_PARSE},        {'B', OWES_BIND},         {'C', OWES_CLOSE},
	    {'D', OWES_DESCRIBE},     {'E', OWES_EXECUTE},      {'S', OWES_SYNC},
	    {'Q', OWES_QUERY},        {'F', OWES_FUNCTION},     {'p', OWES_HIDDEN_PARSE},
	    {'c', OWES_HIDDEN_CLOSE}, {'q', OWES_HIDDEN_QUERY}, {'1', GIVES_PARSE},
	    {'3', GIVES_CLOSE},       {'e', ENDS_STMT},
	};

	for (; *letters != '\0'; letters++) {
		size_t i = 0;

		while (ops[i].letter != *letters)
			i++;
		assert_true(ledger_owe(ledger, ops[i].op));
	}
}

static void pop_many(struct ledger *ledger, unsigned count)
{
	while (count-- > 0)
		ledger_pop(ledger);
}

static void test_empty_is_the_safe_point(void **state)
{
	struct ledger ledger = {0};

	(void)state;
	assert_true(ledger_quiet(&ledger));
	assert_false(ledger_full(&ledger));
	assert_null(ledger_head(&ledger));
	assert_true(ledger_gives_only(&ledger));
	ledger_free(&ledger);
}

static void test_counts_ready_for_query(void **state)
{
	static const struct {
		const char *letters;
		uint32_t readies;
	} cases[] = {
	    {"Q", 1},        {"F", 1},    {"q", 1},  {"PBDES", 1}, {"PBDE", 0}, {"QQQ", 3},
	    {"PBESPBES", 2}, {"1BES", 1}, {"SS", 2}, {"PC3p", 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ledger ledger = {0};
		const unsigned count = (unsigned)strlen(cases[i].letters);

		push_all(&ledger, cases[i].letters);
		assert_int_equal(ledger.readies, cases[i].readies);
		assert_int_equal(ledger.count, count);
		assert_false(ledger_quiet(&ledger));
		pop_many(&ledger, count);
		assert_int_equal(ledger.readies, 0);
		assert_int_equal(ledger.changes, 0);
		assert_true(ledger_quiet(&ledger));
		ledger_free(&ledger);
	}
}

static void test_open_or_skipping_is_not_safe(void **state)
{
	struct ledger ledger = {0};

	(void)state;
	ledger.open = true;
	assert_false(ledger_quiet(&ledger));
	ledger.open = false;
	ledger.skipping = true;
	assert_false(ledger_quiet(&ledger));
	ledger.skipping = false;
	ledger.copy_in = true;
	assert_false(ledger_quiet(&ledger));
	ledger_free(&ledger);
}

/* The ring grows and wraps without losing the order. */
static void test_order_over_growth(void **state)
{
	struct ledger ledger = {0};
	unsigned pushed = 0;
	unsigned popped = 0;

	(void)state;
	while (popped < 5000) {
		for (unsigned i = 0; i < 7; i++, pushed++)
			push_all(&ledger, pushed % 3 == 0 ? "S" : pushed % 3 == 1 ? "B" : "E");
		for (unsigned i = 0; i < 5; i++, popped++) {
			const uint8_t op = ledger_head(&ledger)->op;

			assert_int_equal(op, popped % 3 == 0   ? OWES_SYNC
			                     : popped % 3 == 1 ? OWES_BIND
			                                       : OWES_EXECUTE);
			ledger_pop(&ledger);
		}
		assert_int_equal(ledger_at(&ledger, ledger.count - 1)->op,
		                 (pushed - 1) % 3 == 0   ? OWES_SYNC
		                 : (pushed - 1) % 3 == 1 ? OWES_BIND
		                                         : OWES_EXECUTE);
	}
	ledger_free(&ledger);
	assert_int_equal(ledger.count, 0);
	assert_int_equal(ledger.readies, 0);
}

static void test_bound(void **state)
{
	struct ledger ledger = {0};

	(void)state;
	for (unsigned i = 0; i < LEDGER_MAX; i++) {
		assert_false(ledger_full(&ledger));
		push_all(&ledger, "B");
	}
	assert_true(ledger_full(&ledger));
	ledger_free(&ledger);
}

static void test_gives_only(void **state)
{
	struct ledger ledger = {0};

	(void)state;
	push_all(&ledger, "13e");
	assert_true(ledger_gives_only(&ledger));
	push_all(&ledger, "S");
	assert_false(ledger_gives_only(&ledger));
	assert_int_equal(ledger.readies, 1);
	ledger_free(&ledger);
	assert_int_equal(ledger.readies, 0);
	assert_true(ledger_gives_only(&ledger));
}

/* ---- COPY ---- */

/* What is owed when CopyInResponse has come: the rest in letters, and whether a Sync must still
 * come. */
static void check_copy(const char *before, const char *after, bool open)
{
	struct ledger ledger = {0};
	struct ledger expected = {0};

	push_all(&ledger, before);
	push_all(&expected, after);
	ledger_copy_in(&ledger);
	assert_int_equal(ledger.count, expected.count);
	for (uint32_t i = 0; i < ledger.count; i++)
		assert_int_equal(ledger_at(&ledger, i)->op, ledger_at(&expected, i)->op);
	assert_int_equal(ledger.readies, expected.readies);
	assert_true(ledger.copy_in);
	assert_int_equal(ledger.open, open);
	ledger_free(&ledger);
	ledger_free(&expected);
}

static void test_copy_ignores_sync(void **state)
{
	(void)state;
	check_copy("", "", false);
	check_copy("Q", "Q", false);
	check_copy("E", "E", false);
	check_copy("ES", "E", true);
	check_copy("ESS", "E", true);
	/* A Query ends its transaction itself. */
	check_copy("QS", "Q", false);
	/* What comes behind another message is reached by skipping after its error. */
	check_copy("ESPBES", "EPBES", false);
	check_copy("EPS", "EPS", false);
	check_copy("QQS", "QQS", false);
}

/* ---- what entries own ---- */

static void test_entries_own_statements(void **state)
{
	struct stmt_store *store = stmt_store_new();
	struct stmt *stmt = stmt_store_intern(store, "select 1\0\0", 11);
	struct ledger ledger = {0};

	(void)state;
	assert_true(ledger_push(&ledger, OWES_PARSE, stmt_ref(stmt), strdup("s1")));
	assert_int_equal(ledger.changes, 1);
	assert_true(ledger_push(&ledger, GIVES_CLOSE, stmt_ref(stmt), strdup("s1")));
	assert_true(ledger_owe(&ledger, OWES_PARSE));
	assert_int_equal(ledger.changes, 1);
	ledger_pop(&ledger);
	assert_int_equal(ledger.changes, 0);
	ledger_free(&ledger);
	assert_int_equal(stmt->refs, 1);
	stmt_unref(stmt);
	stmt_store_free(store);
}

static void test_unnamed_statement(void **state)
{
	struct stmt_store *store = stmt_store_new();
	struct stmt *stmt = stmt_store_intern(store, "select 1\0\0", 11);
	struct ledger ledger = {0};
	struct ledger_entry parse = {
	    .op = OWES_PARSE, .unnamed = stmt_ref(stmt), .sets_unnamed = true};

	(void)state;
	assert_true(ledger_add(&ledger, parse));
	push_all(&ledger, "QPpcB");
	assert_true(ledger_sets_unnamed(ledger_at(&ledger, 0)));
	assert_true(ledger_sets_unnamed(ledger_at(&ledger, 1)));
	assert_false(ledger_sets_unnamed(ledger_at(&ledger, 2)));
	assert_true(ledger_brings_unnamed(ledger_at(&ledger, 3)));
	assert_true(ledger_brings_unnamed(ledger_at(&ledger, 4)));
	assert_false(ledger_brings_unnamed(ledger_at(&ledger, 5)));
	ledger_pop(&ledger);
	assert_int_equal(stmt->refs, 1);
	ledger_free(&ledger);
	stmt_unref(stmt);
	stmt_store_free(store);
}

/* Its ReadyForQuery is still owed, the statement is not. */
static void test_deallocate_that_fails(void **state)
{
	struct stmt_store *store = stmt_store_new();
	struct stmt *stmt = stmt_store_intern(store, "select 1\0\0", 11);
	struct ledger ledger = {0};

	(void)state;
	assert_true(ledger_push(&ledger, OWES_DEALLOCATE, stmt_ref(stmt), strdup("s1")));
	assert_int_equal(ledger.readies, 1);
	assert_int_equal(ledger.changes, 1);
	ledger_deallocate_failed(&ledger);
	assert_int_equal(stmt->refs, 1);
	assert_int_equal(ledger_head(&ledger)->op, OWES_QUERY);
	assert_int_equal(ledger.readies, 1);
	assert_int_equal(ledger.changes, 0);
	ledger_pop(&ledger);
	assert_int_equal(ledger.readies, 0);
	assert_int_equal(ledger.namings, 0);
	ledger_free(&ledger);
	stmt_unref(stmt);
	stmt_store_free(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty_is_the_safe_point),
	    cmocka_unit_test(test_counts_ready_for_query),
	    cmocka_unit_test(test_open_or_skipping_is_not_safe),
	    cmocka_unit_test(test_order_over_growth),
	    cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_gives_only),
	    cmocka_unit_test(test_copy_ignores_sync),
	    cmocka_unit_test(test_unnamed_statement),
	    cmocka_unit_test(test_deallocate_that_fails),
	    cmocka_unit_test(test_entries_own_statements),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
