/* SPDX-License-Identifier: PostgreSQL */
/*
 * The parser of console commands: what each means, and for every wrong one the place and what is
 * expected.
 */
#include "conf/config.h"
#include "control/command.h"
#include "core/admin.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct command parse(const char *text)
{
	struct command command;
	struct command_error error;
	size_t offset = 0;

	if (command_parse(text, strlen(text), &offset, &command, &error) != COMMAND_PARSED)
		fail_msg("\"%s\": %s. %s", text, error.message, error.detail);
	return command;
}

static struct command_error parse_bad(const char *text, uint32_t position)
{
	struct command command;
	struct command_error error;
	size_t offset = 0;

	if (command_parse(text, strlen(text), &offset, &command, &error) != COMMAND_BAD)
		fail_msg("\"%s\" was accepted", text);
	if (error.position != position)
		fail_msg("\"%s\": position %u, not %u", text, error.position, position);
	assert_true(error.message[0] != '\0' && error.detail[0] != '\0' && error.hint[0] != '\0');
	return error;
}

static void test_hold(void **state)
{
	struct command command = parse("HOLD commcarehq_p2");

	(void)state;
	assert_int_equal(command.id, COMMAND_HOLD);
	assert_string_equal(command.database, "commcarehq_p2");
	assert_int_equal(command.given, 0);
	assert_int_equal(command.epoch, ADMIN_EPOCH_NEXT);
	assert_int_equal(command.lease, ADMIN_TIME_DEFAULT);
	assert_int_equal(command.drain, ADMIN_TIME_DEFAULT);
	assert_int_equal(command.policy, CONFIG_UNSET);

	command = parse("hold P2 nowait policy Terminate drain 250MS LEASE none epoch 7;");
	assert_string_equal(command.database, "P2");
	assert_int_equal(command.epoch, 7);
	assert_int_equal(command.lease, ADMIN_LEASE_NONE);
	assert_int_equal(command.drain, 250 * USEC_PER_MSEC);
	assert_int_equal(command.policy, CONFIG_DRAIN_TERMINATE);
	assert_true((command.given & (1u << OPTION_NOWAIT)) != 0);
	assert_int_equal(parse("HOLD p2 LEASE 10").lease, 10 * USEC_PER_SEC);
	assert_int_equal(parse("HOLD p2 LEASE '2min'").lease, 120 * USEC_PER_SEC);
	assert_int_equal(parse("HOLD p2 DRAIN 0").drain, 0);
	assert_int_equal(parse("HOLD p2 EPOCH 9223372036854775807").epoch, INT64_MAX);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(parse("RELEASE \"P2\"").database, "P2");
	assert_string_equal(parse("RELEASE 'P2'").database, "P2");
	assert_string_equal(parse("RELEASE \"a\"\"b;c\"").database, "a\"b;c");
	assert_string_equal(parse("RELEASE \"epoch\"").database, "epoch");
	assert_string_equal(parse("RELEASE \xc3\x9crg_P").database, "\xc3\x9crg_P");
	assert_string_equal(parse("RELEASE epoch EPOCH 4").database, "epoch");
	assert_string_equal(parse("PAUSE 1db").database, "1db");
	assert_string_equal(parse("PAUSE Timeout").database, "Timeout");
	assert_string_equal(parse("PAUSE timeout TIMEOUT 5s").database, "timeout");
	assert_string_equal(parse("PAUSE TIMEOUT 5s").database, "");
	assert_string_equal(parse("PAUSE attached").database, "");
	assert_string_equal(parse("KILL attached").database, "attached");
	assert_string_equal(parse("SWAP to TO To").server, "To");
	assert_string_equal(parse("SHOW BLOCKERS To").database, "To");
	assert_string_equal(parse("RELEASE 12").database, "12");
	assert_true(parse("RELEASE P2").database_plain);
	assert_false(parse("RELEASE \"P2\"").database_plain);
	assert_false(parse("RELEASE 'P2'").database_plain);
	assert_true(parse("SWAP \"P2\" TO Pg").server_plain);
	parse_bad("RELEASE \"\"", 9);
	parse_bad("RELEASE ''", 9);
	parse_bad("RELEASE 1.5", 9);
}

static void test_other_commands(void **state)
{
	struct command command = parse("SWAP p2 TO pg2 EPOCH 3 FORCE");

	(void)state;
	assert_int_equal(command.id, COMMAND_SWAP);
	assert_string_equal(command.server, "pg2");
	assert_true((command.given & (1u << OPTION_FORCE)) != 0);
	assert_int_equal(parse("PREPARE SWAP p2 TO pg2").id, COMMAND_PREPARE_SWAP);
	assert_int_equal(parse("CANCEL  SWAP p2").id, COMMAND_CANCEL_SWAP);
	assert_int_equal(parse("RENEW p2 LEASE 5s EPOCH 3").id, COMMAND_RENEW);
	assert_int_equal(parse("RELOAD").id, COMMAND_RELOAD);
	assert_int_equal(parse("SHUTDOWN IMMEDIATE").given, 1u << OPTION_IMMEDIATE);
	assert_int_equal(parse("show Pools").view, VIEW_POOLS);
	assert_string_equal(parse("SHOW BLOCKERS p2").database, "p2");
	assert_string_equal(parse("SHOW server_encoding").value, "UTF8");
	assert_string_equal(parse("SHOW TRANSACTION ISOLATION LEVEL").value, "read committed");
	assert_int_equal(parse("SELECT 42").number, 42);
	assert_int_equal(parse("select pg_catalog.version()").function, FUNCTION_VERSION);
	assert_int_equal(parse("SET extra_float_digits = 3").id, COMMAND_SET);
	assert_int_equal(parse("SET TRANSACTION READ ONLY").id, COMMAND_SET);
	parse_bad("SET pool_size", 14);
	parse_bad("SET pool_size; SHOW HOLDS", 14);
	assert_int_equal(parse("BEGIN ISOLATION LEVEL SERIALIZABLE").id, COMMAND_BEGIN);
	assert_int_equal(parse("DISCARD ALL").id, COMMAND_DISCARD_ALL);
	assert_string_equal(parse("DEALLOCATE PREPARE \"S_1\"").statement, "S_1");
	assert_string_equal(parse("DEALLOCATE S_1").statement, "s_1");
	assert_string_equal(parse("DEALLOCATE ALL").statement, "");
}

static void test_several(void **state)
{
	const char *text = ";; SHOW HOLDS; /* a; /* nested */ */ SHOW ROUTES -- end;\n ; ";
	struct command command;
	struct command_error error;
	size_t offset = 0;

	(void)state;
	assert_int_equal(command_parse(text, strlen(text), &offset, &command, &error),
	                 COMMAND_PARSED);
	assert_int_equal(command.view, VIEW_HOLDS);
	assert_int_equal(command_parse(text, strlen(text), &offset, &command, &error),
	                 COMMAND_PARSED);
	assert_int_equal(command.view, VIEW_ROUTES);
	for (int i = 0; i < 2; i++)
		assert_int_equal(command_parse(text, strlen(text), &offset, &command, &error),
		                 COMMAND_NO_MORE);
}

static void test_errors(void **state)
{
	(void)state;
	assert_non_null(strstr(parse_bad("HODL p2", 1).detail, "HOLD, RENEW, PREPARE SWAP"));
	assert_non_null(strstr(parse_bad("HOLD", 5).detail, "name of a database"));
	assert_non_null(strstr(parse_bad("HOLD p2 LEASE", 14).detail, "duration"));
	assert_non_null(strstr(parse_bad("HOLD p2 LEASE 5parsecs", 15).message, "5parsecs"));
	assert_non_null(strstr(parse_bad("HOLD p2 FOREVER", 9).detail, "EPOCH n, LEASE"));
	assert_non_null(strstr(parse_bad("HOLD p2 EPOCH 1 EPOCH 2", 17).message, "EPOCH"));
	assert_non_null(strstr(parse_bad("HOLD p2 POLICY kill", 16).detail, "abort, cancel"));
	assert_non_null(strstr(parse_bad("SWAP p2 pg2", 9).detail, "TO"));
	assert_non_null(strstr(parse_bad("SWAP p2 TO", 11).hint, "SWAP database TO server"));
	assert_non_null(strstr(parse_bad("SHOW FISH", 6).detail, "HOLDS, BLOCKERS"));
	assert_null(strstr(parse_bad("SHOW LOADS", 6).detail, "LOADS,"));
	assert_non_null(strstr(parse_bad("RENEW p2", 9).detail, "EPOCH n"));
	parse_bad("HOLD p2 EPOCH 0", 15);
	parse_bad("HOLD p2 EPOCH 9223372036854775808", 15);
	parse_bad("HOLD p2 EPOCH 99999999999999999999999", 15);
	parse_bad("HOLD p2 EPOCH -1", 15);
	parse_bad("HOLD p2 LEASE 0", 15);
	parse_bad("RELOAD now", 8);
	parse_bad("SHOW BLOCKERS", 14);
}

static void test_positions(void **state)
{
	(void)state;
	/* Characters, not bytes. */
	parse_bad("/* \xc3\xa9\xc3\xa9 */ HODL", 10);
	parse_bad("SHOW  \xc3\xbcnsinn", 7);
	parse_bad("h\xc3\xa9ld p2", 1);
	parse_bad("HOLD 'p2", 6);
	parse_bad("HOLD \"p2", 6);
	parse_bad("HOLD p2 /* never ends", 9);
	parse_bad("\x01", 1);
}

static void test_length(void **state)
{
	char text[600] = "RELEASE ";

	(void)state;
	memset(text + 8, 'a', LEX_TEXT_MAX);
	assert_int_equal(strlen(parse(text).database), LEX_TEXT_MAX);
	text[8 + LEX_TEXT_MAX] = 'a';
	parse_bad(text, 9);
	memset(text + 8, '\'', 2);
	memset(text + 9, 'b', LEX_TEXT_MAX + 1);
	text[9 + LEX_TEXT_MAX + 1] = '\'';
	parse_bad(text, 9);
}

static void test_grammar(void **state)
{
	struct sbuf out;

	(void)state;
	sbuf_init(&out, 1000);
	command_grammar(COMMAND_HOLD, &out);
	assert_string_equal(sbuf_text(&out),
	                    "HOLD database [EPOCH n] [LEASE duration|NONE] [DRAIN duration] "
	                    "[POLICY abort|cancel|terminate|keep] [NOWAIT]");
	sbuf_reset(&out);
	command_grammar(COMMAND_RENEW, &out);
	assert_string_equal(sbuf_text(&out), "RENEW database EPOCH n [LEASE duration|NONE]");
	sbuf_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hold),           cmocka_unit_test(test_names),
	    cmocka_unit_test(test_other_commands), cmocka_unit_test(test_several),
	    cmocka_unit_test(test_errors),         cmocka_unit_test(test_positions),
	    cmocka_unit_test(test_length),         cmocka_unit_test(test_grammar),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
