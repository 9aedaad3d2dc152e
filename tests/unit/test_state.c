/* SPDX-License-Identifier: PostgreSQL */
/*
 * The state directory: what is written is read again, what cannot be understood is refused with its
 * place, and the lock.
 */
#include "base/mem.h"
#include "conf/config.h"
#include "core/state.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/test_state.XXXXXX";

static int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) == NULL ? -1 : 0;
}

static int remove_directory(void **state)
{
	static const char *const files[] = {"state", "welcome", "lock", "state.new", "sub/lock"};
	char path[200];

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
		(void)unlink(path);
	}
	(void)snprintf(path, sizeof(path), "%s/sub", directory);
	(void)rmdir(path);
	return rmdir(directory);
}

static void write_text(const char *file, const char *text, size_t len)
{
	struct sbuf error;

	sbuf_init(&error, 500);
	if (!state_write(directory, file, text, len, true, &error))
		fail_msg("%s", sbuf_text(&error));
	sbuf_free(&error);
}

static struct state read_good(void)
{
	struct state state;
	struct sbuf error;

	sbuf_init(&error, 500);
	if (!state_read(directory, &state, &error))
		fail_msg("%s", sbuf_text(&error));
	sbuf_free(&error);
	return state;
}

static void test_missing_files(void **unused)
{
	struct state state = read_good();

	(void)unused;
	assert_int_equal(state.database_count, 0);
	assert_int_equal(state.welcome_count, 0);
	state_free(&state);
}

static void test_round_trip(void **unused)
{
	char odd[] = "p\"2\\ \n\xc3\xbc\x01";
	char name[] = "p1";
	char server[] = "pg2";
	char target[] = "pg 3";
	char params[] = "PSET\1\0\0\"";
	struct state_database databases[] = {
	    {.name = odd,
	     .epoch = INT64_MAX,
	     .server = server,
	     .target = target,
	     .held = true,
	     .lease = 10000000,
	     .policy = CONFIG_DRAIN_CANCEL},
	    {.name = name, .epoch = 1, .held = true, .lease = 0, .policy = CONFIG_DRAIN_ABORT},
	    {.name = server, .epoch = 5, .server = target},
	};
	struct state_welcome welcomes[] = {{odd, name, params, sizeof(params)}};
	struct state before = {databases, 3, welcomes, 1};
	struct state after;
	struct sbuf text;

	(void)unused;
	sbuf_init(&text, STATE_FILE_MAX);
	state_format(&before, &text);
	write_text(STATE_FILE, sbuf_text(&text), text.len);
	sbuf_reset(&text);
	state_format_welcome(&before, &text);
	write_text(STATE_WELCOME_FILE, sbuf_text(&text), text.len);
	sbuf_free(&text);

	after = read_good();
	assert_int_equal(after.database_count, 3);
	assert_string_equal(after.databases[0].name, odd);
	assert_int_equal(after.databases[0].epoch, INT64_MAX);
	assert_string_equal(after.databases[0].server, "pg2");
	assert_string_equal(after.databases[0].target, "pg 3");
	assert_true(after.databases[0].held);
	assert_int_equal(after.databases[0].lease, 10000000);
	assert_int_equal(after.databases[0].policy, CONFIG_DRAIN_CANCEL);
	assert_null(after.databases[1].server);
	assert_null(after.databases[1].target);
	assert_int_equal(after.databases[1].lease, 0);
	assert_false(after.databases[2].held);
	assert_int_equal(after.welcome_count, 1);
	assert_string_equal(after.welcomes[0].user, "p1");
	assert_int_equal(after.welcomes[0].params_len, sizeof(params));
	assert_memory_equal(after.welcomes[0].params, params, sizeof(params));
	state_free(&after);
}

static void check_bad(const char *text, size_t len, const char *where)
{
	struct state state = {0};
	struct sbuf error;

	sbuf_init(&error, 1000);
	if (state_parse("f", text, len, &state, &error))
		fail_msg("accepted: %s", text);
	if (strncmp(sbuf_text(&error), where, strlen(where)) != 0)
		fail_msg("\"%s\" does not begin with \"%s\"", sbuf_text(&error), where);
	state_free(&state);
	sbuf_free(&error);
}

static void test_bad_files(void **unused)
{
	static const struct {
		const char *text;
		const char *where;
	} bad[] = {
	    {"", "f:0: the file is not complete"},
	    {"garbage\n", "f:1: not a state file"},
	    {"pgshunt-state 0\nend 0\n", "f:1: not a state file"},
	    {"pgshunt-state 2\nend 0\n", "f:1: the file was written by a later pgshuntd (version 2"},
	    {"pgshunt-state 99999999999\nend 0\n", "f:1: number out of range"},
	    {"pgshunt-state 1\n", "f:1: the file is not complete"},
	    {"pgshunt-state 1\nend 1\n", "f:2: the file is not complete"},
	    {"pgshunt-state 1\nend 0\nend 0\n", "f:3: text behind"},
	    {"# x\n\npgshunt-state 1\nfish\nend 1\n", "f:4: expected database"},
	    {"pgshunt-state 1\ndatabase p2 epoch 1\nend 1\n", "f:2: expected a string"},
	    {"pgshunt-state 1\ndatabase \"p2 epoch 1\nend 1\n", "f:2: unterminated string"},
	    {"pgshunt-state 1\ndatabase \"p\\q\" epoch 1\nend 1\n", "f:2: bad escape"},
	    {"pgshunt-state 1\ndatabase \"p\\xg0\" epoch 1\nend 1\n", "f:2: bad escape"},
	    {"pgshunt-state 1\ndatabase \"p\\x00q\" epoch 1\nend 1\n", "f:2: a name is empty"},
	    {"pgshunt-state 1\ndatabase \"\" epoch 1\nend 1\n", "f:2: a name is empty"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch\nend 1\n", "f:2: expected a number"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch 1x\nend 1\n", "f:2: expected a number"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch 99999999999999999999\nend 1\n",
	     "f:2: number out of range"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch 1 held\nend 1\n", "f:2: expected lease"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch 1 held lease 1 policy x\nend 1\n",
	     "f:2: unknown policy"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch 1 more\nend 1\n", "f:2: unexpected text"},
	    {"pgshunt-state 1\ndatabase \"p\" epoch 1\ndatabase \"p\" epoch 2\nend 2\n",
	     "f:3: the database is there twice"},
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		check_bad(bad[i].text, strlen(bad[i].text), bad[i].where);
}

/* Wherever a file is cut, it is noticed. */
static void test_cut_files(void **unused)
{
	static const char text[] =
	    "pgshunt-state 1\ndatabase \"p2\" epoch 7 server \"pg2\"\nend 1\n";

	(void)unused;
	/* Without the last newline it is whole. */
	for (size_t len = 0; len < sizeof(text) - 2; len++)
		check_bad(text, len, "f:");
}

static void test_bad_state_is_refused(void **unused)
{
	struct state state;
	struct sbuf error;

	(void)unused;
	write_text(STATE_FILE, "nonsense\n", 9);
	sbuf_init(&error, 1000);
	assert_false(state_read(directory, &state, &error));
	assert_non_null(strstr(sbuf_text(&error), directory));
	assert_non_null(strstr(sbuf_text(&error), "/state:1: "));
	sbuf_free(&error);
	/* The other file is of no consequence. */
	write_text(STATE_FILE, "pgshunt-state 1\nend 0\n", 22);
	write_text(STATE_WELCOME_FILE, "nonsense\n", 9);
	state = read_good();
	assert_int_equal(state.welcome_count, 0);
	state_free(&state);
}

static void test_lock(void **unused)
{
	char path[200];
	struct sbuf error;
	int first;

	(void)unused;
	(void)snprintf(path, sizeof(path), "%s/sub", directory);
	sbuf_init(&error, 500);
	first = state_lock(path, &error);
	assert_true(first >= 0);
	assert_int_equal(state_lock(path, &error), -1);
	assert_non_null(strstr(sbuf_text(&error), "another pgshuntd"));
	(void)close(first);
	sbuf_reset(&error);
	first = state_lock(path, &error);
	assert_true(first >= 0);
	(void)close(first);
	assert_int_equal(state_lock("/nonexistent/x", &error), -1);
	assert_non_null(strstr(sbuf_text(&error), "/nonexistent/x"));
	sbuf_free(&error);
}

static void test_write_fails(void **unused)
{
	struct sbuf error;

	(void)unused;
	sbuf_init(&error, 500);
	assert_false(state_write("/nonexistent", "state", "", 0, true, &error));
	assert_non_null(strstr(sbuf_text(&error), "could not create"));
	sbuf_free(&error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_missing_files),
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_bad_files),
	    cmocka_unit_test(test_cut_files),
	    cmocka_unit_test(test_bad_state_is_refused),
	    cmocka_unit_test(test_lock),
	    cmocka_unit_test(test_write_fails),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
