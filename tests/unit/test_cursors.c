/* SPDX-License-Identifier: PostgreSQL */
/*
 * Cursors WITH HOLD: the questions that follow from a server's answers, played without one, and
 * what is made of them.
 */
#include "session/classify.h"
#include "session/cursors.h"
#include "session/inspect_internal.h"
#include "session/replay.h"
#include "wire/build.h"
#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four standard headers above first. */
#include <cmocka.h>

#define BOUND ((size_t)1200)

static struct session_state *sessions[2]; /* old and new */
static struct cursors *reading;
static struct sbuf asked;

static struct session_state *begin(const char *flags)
{
	const struct session_row rows[] = {
	    {SESSION_INFO, "server_encoding", "UTF8", NULL},
	    {SESSION_BASE, "idle_session_timeout", "0", NULL},
	    {SESSION_CURSOR, "a \"c\"", "DECLARE …", flags},
	};
	struct session_state *state = session_state_new();
	size_t i;

	assert_non_null(state);
	for (i = 0; i < ARRAY_LEN(rows); i++)
		assert_true(session_state_put(state, &rows[i]));
	assert_true(session_state_finish(state));
	return state;
}

static int setup(void **state)
{
	const struct copies_bound bound = {.most = BOUND};

	(void)state;
	sessions[0] = begin("tft");
	sessions[1] = begin("tft");
	session_state_more(sessions[1]);
	reading = cursors_new(sessions[0], &bound, true);
	assert_non_null(reading);
	sbuf_init(&asked, (size_t)1 << 20);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cursors_free(reading);
	session_state_free(sessions[0]);
	session_state_free(sessions[1]);
	sbuf_free(&asked);
	return 0;
}

/* ---- a server that answers the only step ---- */

static void tell(const struct sbuf *message)
{
	cursors_take(reading, 0, (uint8_t)message->data[0], message->data + WIRE_HEADER_LEN,
	             message->len - WIRE_HEADER_LEN);
}

static void answer(void (*add)(struct sbuf *buf))
{
	struct sbuf message;

	sbuf_init(&message, 65536);
	add(&message);
	tell(&message);
	sbuf_free(&message);
}

static void complete(const char *tag)
{
	struct sbuf message;

	sbuf_init(&message, 100);
	wire_add_command_complete(&message, tag);
	tell(&message);
	sbuf_free(&message);
}

static void row(const char *first, const char *second)
{
	const char *const cells[] = {first, second};
	struct sbuf message;

	sbuf_init(&message, 65536);
	wire_add_data_row(&message, cells, 2);
	tell(&message);
	sbuf_free(&message);
}

static void columns(const char *second)
{
	const struct wire_column views[] = {{"it's", WIRE_OID_INT4, 4},
	                                    {second, WIRE_OID_TEXT, -1}};
	struct sbuf message;

	sbuf_init(&message, 1000);
	wire_add_row_description(&message, views, 2);
	tell(&message);
	sbuf_free(&message);
}

static void refuse(const char *text)
{
	const struct wire_error error = {.message = text};
	struct sbuf message;

	sbuf_init(&message, 1000);
	wire_add_error(&message, &error);
	tell(&message);
	sbuf_free(&message);
}

static void ready(void)
{
	struct sbuf message;

	sbuf_init(&message, 100);
	wire_add_ready(&message, WIRE_TX_IDLE);
	tell(&message);
	sbuf_free(&message);
}

/* The next question has this text. */
static void assert_asks(const char *text)
{
	assert_true(cursors_more(reading));
	sbuf_reset(&asked);
	assert_int_equal(cursors_ask(reading, sessions[0], &asked), 1);
	assert_true(sbuf_ok(&asked));
	assert_non_null(memmem(asked.data, asked.len, text, strlen(text)));
	complete("SELECT 0"); /* the settings */
}

static void place(const char *on_row, const char *before)
{
	assert_asks("MOVE 0 IN \"a \"\"c\"\"\"");
	complete(on_row);
	complete(before);
	columns("second");
	ready();
}

static void list(const char *temporary)
{
	assert_asks("(1, 23::pg_catalog.oid, '-1'::pg_catalog.int4, 'it''s'::pg_catalog.text)");
	row("u.c1::integer AS \"it's\", u.c2::text AS second", temporary);
	complete("SELECT 1");
}

/* The reason that the reading came to; "": none. */
static void assert_ends(const char *why)
{
	struct sbuf text;

	assert_false(cursors_more(reading));
	assert_true(cursors_read_done(reading, sessions[0]));
	sbuf_init(&text, 1000);
	cursors_why(sessions[0], &text);
	assert_string_equal(sbuf_text(&text), why);
	sbuf_free(&text);
}

/* ---- tests ---- */

static void read_two_rows(void)
{
	place("MOVE 1", "MOVE 1");
	list("f");
	row("1", "x");
	answer(wire_add_portal_suspended);
	ready();
	assert_asks("E"); /* Execute goes on */
	row(NULL, "two");
	complete("SELECT 1");
	ready();
	assert_asks("MOVE ABSOLUTE 2 IN \"a \"\"c\"\"\"");
	complete("MOVE 1");
	ready();
	assert_asks("DECLARE \"pgshunt%cursor\" SCROLL CURSOR WITH HOLD FOR SELECT u.c1::integer");
	/* The second column: two texts. */
	assert_non_null(memmem(asked.data, asked.len,
	                       "\0\0\0\1\0\0\0\1\0\0\0\31\0\0\0\2\0\0\0\1\0\0\0\1x\0\0\0\3two",
	                       32));
	complete("DECLARE CURSOR");
	columns("second");
}

static void check(const char *on_row, const char *last)
{
	const struct copies_bound bound = {.most = BOUND};

	cursors_free(reading);
	reading = cursors_new(sessions[0], &bound, false);
	assert_non_null(reading);
	assert_int_equal(cursors_check_add(reading, sessions[0], &asked), 1);
	complete("SELECT 0");
	complete(on_row);
	complete("MOVE 1");
	columns("second");
	row("1", "x");
	row(NULL, last);
	complete("SELECT 2");
	complete("MOVE 1");
	ready();
	assert_true(cursors_check_done(reading, sessions[1]));
	assert_true(session_state_finish(sessions[1]));
	session_state_more(sessions[1]);
}

static void test_there_and_back(void **state)
{
	const char *const make = "DECLARE \"a \"\"c\"\"\" SCROLL CURSOR WITH HOLD FOR SELECT u.c1";
	struct replay replay;

	(void)state;
	read_two_rows();
	row("1", "x");
	row(NULL, "two");
	complete("SELECT 2");
	ready();
	assert_ends("");
	assert_true(cursors_clean(reading));
	assert_true(replay_is_early(sessions[0]));
	assert_true(replay_build(sessions[0], NULL, REPLAY_AFTER_PROMOTION, false, &replay));
	assert_int_equal(replay.steps, 0);
	replay_free(&replay);
	assert_true(replay_build(sessions[0], NULL, REPLAY_ON_STANDBY, false, &replay));
	assert_non_null(memmem(replay.out.data, replay.out.len, make, strlen(make)));
	assert_non_null(memmem(replay.out.data, replay.out.len, "MOVE ABSOLUTE 2 IN \"a", 21));
	replay_free(&replay);
	/* The same on the new server; other rows; another place. */
	check("MOVE 1", "two");
	assert_true(session_state_same(sessions[0], sessions[1], REPLAY_AFTER_PROMOTION, NULL));
	check("MOVE 1", "too");
	assert_false(session_state_same(sessions[0], sessions[1], REPLAY_AFTER_PROMOTION, NULL));
	check("MOVE 0", "two");
	assert_false(session_state_same(sessions[0], sessions[1], REPLAY_AFTER_PROMOTION, NULL));
}

static void test_the_trial_differs(void **state)
{
	(void)state;
	read_two_rows();
	row("1", "x");
	row("", "two");
	complete("SELECT 2");
	ready();
	assert_ends("cursor \"a \"c\"\": its rows come out differently when it is made again");
}

static void test_the_trial_has_other_columns(void **state)
{
	(void)state;
	read_two_rows();
	columns("third");
	ready();
	assert_ends("cursor \"a \"c\"\": its columns come out differently when it is made again");
}

static void test_the_trial_fails(void **state)
{
	(void)state;
	read_two_rows();
	refuse("no such type");
	ready();
	assert_false(cursors_clean(reading));
	assert_ends("cursor \"a \"c\"\": it cannot be made again: no such type");
}

/* It has 19 rows or more, and each counts as 64 bytes. */
static void test_too_many_rows(void **state)
{
	(void)state;
	place("MOVE 1", "MOVE 19");
	assert_asks("MOVE FORWARD 19 IN \"a \"\"c\"\"\"");
	ready();
	assert_ends("cursor \"a \"c\"\": it has more rows than may be carried");
}

static void test_too_long_rows(void **state)
{
	(void)state;
	place("MOVE 0", "MOVE 18");
	list("f");
	cursors_take(reading, 0, BE_DATA_ROW, NULL, BOUND + 1);
	answer(wire_add_portal_suspended);
	ready();
	assert_asks("MOVE FORWARD ALL IN \"a \"\"c\"\"\"");
	ready();
	assert_ends("cursor \"a \"c\"\": its rows: more than may be carried");
}

static void test_a_temporary_type(void **state)
{
	(void)state;
	place("MOVE 0", "MOVE 0");
	list("t");
	complete("SELECT 0");
	ready();
	assert_asks("MOVE ABSOLUTE 0 IN \"a \"\"c\"\"\"");
	ready();
	assert_ends("cursor \"a \"c\"\": a type of its columns is temporary");
}

/* It has not been moved: there is nothing to be put back. */
static void test_one_that_cannot_be_run(void **state)
{
	(void)state;
	assert_asks("MOVE 0 IN");
	refuse("portal cannot be run");
	ready();
	assert_ends("cursor \"a \"c\"\": it could not be moved: portal cannot be run");
}

static void test_without_scroll(void **state)
{
	const struct session_abilities able = {.cursors = true};
	const struct session_abilities unable = {.cursors = false};
	struct session_state *forward = begin("tff");
	struct session_verdict verdict;

	(void)state;
	assert_false(cursors_exist(forward));
	session_verdict_init(&verdict);
	session_classify(forward, NULL, NULL, NULL, &able, &verdict);
	assert_non_null(strstr(sbuf_text(&verdict.why), "without SCROLL"));
	session_classify(sessions[0], NULL, NULL, NULL, &able, &verdict);
	assert_int_equal(verdict.class, SESSION_MOVABLE);
	session_classify(sessions[0], NULL, NULL, NULL, &unable, &verdict);
	assert_int_equal(verdict.class, SESSION_PINNED);
	session_verdict_free(&verdict);
	session_state_free(forward);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_there_and_back),
	    TEST(test_the_trial_differs),
	    TEST(test_the_trial_has_other_columns),
	    TEST(test_the_trial_fails),
	    TEST(test_too_many_rows),
	    TEST(test_too_long_rows),
	    TEST(test_a_temporary_type),
	    TEST(test_one_that_cannot_be_run),
	    TEST(test_without_scroll),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
