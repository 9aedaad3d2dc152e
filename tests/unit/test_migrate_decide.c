/* SPDX-License-Identifier: PostgreSQL */
/*
 * The whole table of decisions: every combination of facts is tried, and the rules that must hold
 * for all of them are checked.
 */
#include "migrate/decide.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct decide_facts facts_of(unsigned bits, enum target_state target)
{
	return (struct decide_facts){.changed_anything = (bits & 1) != 0,
	                             .promote_intended = (bits & 2) != 0,
	                             .source_reachable = (bits & 4) != 0,
	                             .barrier = (bits & 8) == 0    ? BARRIER_PASSED
	                                        : (bits & 64) == 0 ? BARRIER_MISSED
	                                                           : BARRIER_UNKNOWN,
	                             .abort_wanted = (bits & 16) != 0,
	                             .in_use_on_target = (bits & 32) != 0,
	                             .target = target};
}

static void test_rules(void **state)
{
	(void)state;
	for (unsigned bits = 0; bits < 128; bits++) {
		for (enum target_state target = TARGET_UNREACHABLE; target <= TARGET_PRIMARY;
		     target++) {
			struct decide_facts facts = facts_of(bits, target);
			const char *why = NULL;
			enum decision decision = decide(&facts, &why);
			bool may_be_promoted = facts.changed_anything && facts.promote_intended &&
			                       target != TARGET_STANDBY;

			assert_non_null(why);
			/* The source is opened only if the target cannot become a primary by us. */
			if (may_be_promoted)
				assert_int_not_equal(decision, DECIDE_UNDO);
			/* Never forward without a promotion that we intended. */
			if (decision == DECIDE_FORWARD || decision == DECIDE_WAIT)
				assert_true(may_be_promoted);
			/* Nor where somebody else has opened the target. */
			if (facts.changed_anything && facts.in_use_on_target &&
			    target == TARGET_PRIMARY)
				assert_int_not_equal(decision, DECIDE_UNDO);
			/* Never forward when the copy lacks commits, or may, nor against abort. */
			if (decision == DECIDE_FORWARD)
				assert_int_equal(facts.barrier, BARRIER_PASSED);
			if (decision == DECIDE_FORWARD || decision == DECIDE_WAIT)
				assert_false(facts.abort_wanted);
			/* Undo changes the source: it must be there, unless nothing was changed. */
			if (decision == DECIDE_UNDO && facts.changed_anything)
				assert_true(facts.source_reachable);
		}
	}
}

static enum decision decision_of(struct decide_facts facts)
{
	const char *why;

	return decide(&facts, &why);
}

static void test_cases(void **state)
{
	struct decide_facts facts = {.changed_anything = true, .source_reachable = true};

	(void)state;
	assert_int_equal(decision_of((struct decide_facts){0}), DECIDE_UNDO);
	facts.target = TARGET_UNREACHABLE;
	assert_int_equal(decision_of(facts), DECIDE_UNDO);
	facts.target = TARGET_PRIMARY; /* promoted by somebody else */
	assert_int_equal(decision_of(facts), DECIDE_UNDO);
	facts.in_use_on_target = true; /* and has moved the clients there */
	assert_int_equal(decision_of(facts), DECIDE_REFUSE);
	facts.in_use_on_target = false;
	facts.promote_intended = true;
	assert_int_equal(decision_of(facts), DECIDE_FORWARD);
	facts.abort_wanted = true;
	assert_int_equal(decision_of(facts), DECIDE_REFUSE);
	facts.abort_wanted = false;
	facts.barrier = BARRIER_MISSED;
	assert_int_equal(decision_of(facts), DECIDE_REFUSE);
	facts.barrier = BARRIER_UNKNOWN;
	assert_int_equal(decision_of(facts), DECIDE_REFUSE);
	facts.barrier = BARRIER_PASSED;
	facts.target = TARGET_UNREACHABLE;
	assert_int_equal(decision_of(facts), DECIDE_HOLD);
	facts.target = TARGET_PROMOTING;
	assert_int_equal(decision_of(facts), DECIDE_WAIT);
	facts.abort_wanted = true;
	assert_int_equal(decision_of(facts), DECIDE_REFUSE);
	facts.abort_wanted = false;
	facts.target = TARGET_STANDBY;
	assert_int_equal(decision_of(facts), DECIDE_UNDO);
	facts.source_reachable = false;
	assert_int_equal(decision_of(facts), DECIDE_HOLD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rules),
	    cmocka_unit_test(test_cases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
