/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/shell.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void keep(void *arg, const char *line)
{
	struct sbuf *out = arg;

	sbuf_printf(out, "[%s]", line);
}

static bool run(const char *command, const char *script, usec_t timeout, struct sbuf *out,
                struct sbuf *error)
{
	struct shell_job job = {
	    .command = command, .script = script, .timeout = timeout, .line = keep, .arg = out};

	sbuf_init(out, 1024 * 1024);
	sbuf_init(error, 4096);
	return shell_run(&job, error);
}

static void expect(const char *command, const char *script, bool ok, const char *lines,
                   const char *reason)
{
	struct sbuf out;
	struct sbuf error;

	assert_int_equal(run(command, script, 0, &out, &error), ok);
	assert_string_equal(sbuf_text(&out), lines);
	assert_string_equal(sbuf_text(&error), reason);
	sbuf_free(&out);
	sbuf_free(&error);
}

static void test_output(void **state)
{
	(void)state;
	expect("env", "echo one\necho two >&2\nprintf 'half'", true, "[one][two][half]", "");
	expect("env", "printf 'a\\rb\\r\\n\\n'", true, "[a][b]", "");
	expect("env", "exit 3\n", false, "", "ended with exit code 3");
	expect("env A=1", "echo \"$A\"\n", true, "[1]", "");
	/* One that does not read what it is given. */
	expect("true", "echo never\n", true, "", "");
}

static void test_long_script(void **state)
{
	struct sbuf script;
	struct sbuf out;
	struct sbuf error;

	(void)state;
	sbuf_init(&script, 1024 * 1024);
	while (script.len < 300000)
		sbuf_add_str(&script, "# more than a pipe holds\n");
	sbuf_add_str(&script, "echo end\n");
	assert_true(run("env", sbuf_text(&script), 0, &out, &error));
	assert_string_equal(sbuf_text(&out), "[end]");
	sbuf_free(&script);
	sbuf_free(&out);
	sbuf_free(&error);
}

static void test_end(void **state)
{
	volatile sig_atomic_t stop = 1;
	struct shell_job job = {
	    .command = "env", .script = "sleep 600 & sleep 600\n", .stop = &stop};
	struct sbuf out;
	struct sbuf error;

	(void)state;
	assert_false(run("env", "sleep 600\n", 200 * USEC_PER_MSEC, &out, &error));
	assert_string_equal(sbuf_text(&error), "it took too long");
	sbuf_free(&out);
	sbuf_free(&error);
	sbuf_init(&error, 4096);
	assert_false(shell_run(&job, &error));
	assert_string_equal(sbuf_text(&error), "interrupted");
	sbuf_free(&error);
}

static void test_quote(void **state)
{
	struct sbuf script;
	struct sbuf out;
	struct sbuf error;

	(void)state;
	sbuf_init(&script, 4096);
	sbuf_add_str(&script, "echo ");
	shell_quote(&script, "it's $HOME `x` \\ \"q\"");
	assert_true(run("env", sbuf_text(&script), 0, &out, &error));
	assert_string_equal(sbuf_text(&out), "[it's $HOME `x` \\ \"q\"]");
	sbuf_free(&script);
	sbuf_free(&out);
	sbuf_free(&error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_output),
	    cmocka_unit_test(test_long_script),
	    cmocka_unit_test(test_end),
	    cmocka_unit_test(test_quote),
	};

	/* As in the program: a command may end before it has read its input. */
	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
