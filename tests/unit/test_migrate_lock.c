/* SPDX-License-Identifier: PostgreSQL */
/* Whose lock is dead: never that of another machine, of another namespace, or of a living process.
 */
#include "migrate/lock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *with_pid(const char *mine, long pid)
{
	static char name[128];
	const char *at = strstr(mine, " pid ") + 5;

	(void)snprintf(name, sizeof(name), "%.*s%ld%s", (int)(at - mine), mine, pid,
	               strchr(at, '/'));
	return name;
}

static void test_name(void **state)
{
	char name[64];

	(void)state;
	lock_name(name, sizeof(name));
	assert_int_equal(strncmp(name, "pgshunt ", 8), 0);
	assert_true(strlen(name) <= 63);
	assert_non_null(strchr(name, '@'));
	assert_non_null(strstr(name, " pid "));
}

static void test_dead(void **state)
{
	char mine[64];
	pid_t child = fork();

	(void)state;
	if (child == 0)
		_exit(0);
	lock_name(mine, sizeof(mine));
	/* Not reaped yet: still there. */
	assert_false(lock_is_dead(with_pid(mine, child), mine));
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_true(lock_is_dead(with_pid(mine, child), mine));
	assert_true(lock_is_dead(mine, mine));
	assert_false(lock_is_dead(with_pid(mine, getppid()), mine));
}

static void test_not_ours_to_judge(void **state)
{
	(void)state;
	assert_true(lock_is_dead("pgshunt a@h1 pid 4194305/1f", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt a@h2 pid 4194305/1f", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt a@h11 pid 4194305/1f", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt a@h pid 4194305/1f", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt a@h1 pid 4194305/2f", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt a@h1 pid 4194305", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt a@h1 pid -4/1f", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("pgshunt", "pgshunt b@h1 pid 1/1f"));
	assert_false(lock_is_dead("", "pgshunt b@h1 pid 1/1f"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_name),
	    cmocka_unit_test(test_dead),
	    cmocka_unit_test(test_not_ours_to_judge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
