/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_carry.h"

#include "core/client.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/session_internal.h"
#include "core/worker.h"
#include "session/classify.h"
#include "session/copies.h"
#include "session/cursors.h"
#include "session/inspect.h"
#include "session/replay.h"
#include "session/shapes.h"
#include "session/temp_table.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t carry_most(const struct session_move *move)
{
	return (size_t)move->client->pool->session_temp_tables;
}

static size_t carry_most_cursors(const struct session_move *move)
{
	return (size_t)move->client->pool->session_cursors;
}

static struct copies_bound carry_bound(const struct session_move *move, size_t most)
{
	struct worker *worker = move->client->worker;

	return (struct copies_bound){
	    .most = most,
	    .used = &worker->proxy->carried,
	    .most_used = (size_t)worker->routes->config->proxy.session_carry_memory};
}

static bool carry_held_up(const struct session_state *state)
{
	struct sbuf why;
	bool held_up;

	sbuf_init(&why, 2000);
	temp_why(state, &why);
	held_up = why.len > 0 || !sbuf_ok(&why);
	sbuf_free(&why);
	return held_up;
}

/* Of a pinned one as much is taken along as can be, if it is moved at all. */
static bool carry_read_now(const struct session_move *move, bool moving)
{
	return moving && (move->class != SESSION_PINNED ||
	                  move->client->pool->session_pinned == CONFIG_PINNED_MOVE_ANYWAY);
}

static enum session_question carry_next_temp(const struct session_move *move, bool moving)
{
	const struct session_state *state = move->state;

	if (carry_most(move) == 0 || !temp_exists(state))
		return SESSION_ASKS_NOTHING;
	if (!temp_described(state))
		return SESSION_ASKS_TEMP;
	if (temp_wants_probe(state))
		return SESSION_ASKS_PROBE;
	if (!carry_read_now(move, moving) || session_state_copies(state) != NULL ||
	    carry_held_up(state))
		return SESSION_ASKS_NOTHING;
	return SESSION_ASKS_ROWS;
}

static enum session_question carry_next_cursors(const struct session_move *move, bool moving)
{
	const struct session_state *state = move->state;

	if (!carry_read_now(move, moving) || carry_most_cursors(move) == 0 ||
	    !cursors_exist(state) || session_state_cursors(state) != NULL ||
	    session_state_count_kind(state, SESSION_CURSOR_PIN) > 0)
		return SESSION_ASKS_NOTHING;
	return SESSION_ASKS_CURSORS;
}

/* Its server is not asked what statements return when nothing is about to happen: it looks up anew then
 * what they are about, if search_path has changed. */
static bool carry_may_recover(const struct session_move *move)
{
	return move->client->worker->routes->config->proxy.session_recover_after > 0;
}

/* Every error ends a session's temporary replication slots: no more is asked of one that stays. */
static bool carry_must_not_fail(const struct session_move *move)
{
	return move->client->pool->session_pinned != CONFIG_PINNED_MOVE_ANYWAY &&
	       session_state_count_kind(move->state, SESSION_SLOT) > 0;
}

/* A question what a statement returns makes its server look names up again, if search_path has changed. */
static bool carry_must_not_look_up(const struct session_move *move)
{
	return move->client->pool->session_pinned != CONFIG_PINNED_MOVE_ANYWAY &&
	       session_state_ambiguous(move->state);
}

enum session_question session_carry_next(const struct session_move *move, bool moving)
{
	enum session_question next;

	if (move->state == NULL || carry_must_not_fail(move) || carry_must_not_look_up(move))
		return SESSION_ASKS_NOTHING;
	if (shapes_wanted(move->state) && (moving || carry_may_recover(move)))
		return SESSION_ASKS_SHAPES;
	next = carry_next_temp(move, moving);
	return next != SESSION_ASKS_NOTHING ? next : carry_next_cursors(move, moving);
}

/* ---- asking ---- */

static void carry_await(struct session_move *move, size_t streams, bool keep)
{
	const struct copies_bound bound = carry_bound(move, carry_most(move));

	copies_free(move->arriving);
	move->arriving = copies_new(streams, keep ? &bound : NULL);
}

static void carry_await_cursors(struct session_move *move, bool keep)
{
	const struct copies_bound bound = carry_bound(move, carry_most_cursors(move));

	cursors_free(move->cursors);
	move->cursors = cursors_new(move->state, &bound, keep);
}

unsigned session_carry_build(struct session_move *move, enum session_question question,
                             struct sbuf *out)
{
	unsigned steps = 0;

	sbuf_reset(&move->outcomes);
	if (question == SESSION_ASKS_TEMP) {
		/* Statements may be about them, and come behind them, when it is too late to find
		 * out. */
		steps = replay_try_add(move->state, out);
		steps += temp_describe_add(move->state, out);
		session_state_more(move->state);
	} else if (question == SESSION_ASKS_PROBE) {
		steps = temp_probe_add(move->state, out);
	} else if (question == SESSION_ASKS_CURSORS) {
		if (!session_carry_halfway(move))
			carry_await_cursors(move, true);
		if (move->cursors != NULL)
			steps = cursors_ask(move->cursors, move->state, out);
		out->failed = out->failed || move->cursors == NULL;
		move->cursor_steps = steps;
	} else {
		steps = temp_read_add(move->state, out);
		carry_await(move, steps, true);
		out->failed = out->failed || move->arriving == NULL;
	}
	move->read_steps = steps;
	return steps;
}

unsigned session_carry_build_check(struct session_move *move, struct sbuf *out)
{
	if (session_state_copies(move->state) != NULL) {
		move->read_steps = temp_shape_add(move->state, out);
		move->read_steps += temp_read_add(move->state, out);
		carry_await(move, move->read_steps - 1, false);
		out->failed = out->failed || move->arriving == NULL;
	}
	if (session_state_cursors(move->state) != NULL) {
		carry_await_cursors(move, false);
		if (move->cursors != NULL)
			move->cursor_steps = cursors_check_add(move->cursors, move->state, out);
		out->failed = out->failed || move->cursors == NULL;
		move->read_steps += move->cursor_steps;
	}
	return move->read_steps;
}

/* ---- answers ---- */

/* What a step came to is known at its end. */
static void carry_take_probe(struct session_move *move, uint8_t type, const uint8_t *body,
                             size_t len)
{
	struct wire_error error = {0};

	if (type == BE_ERROR_RESPONSE) {
		if (!wire_parse_error(body, len, &error) || error.sqlstate == NULL)
			error.sqlstate = "XX000";
		sbuf_add_char(&move->outcomes, temp_probe_outcome(error.sqlstate));
	} else if (type == BE_READY_FOR_QUERY) {
		if (move->outcomes.len + move->steps_left == move->read_steps)
			sbuf_add_char(&move->outcomes, temp_probe_outcome(NULL));
	}
}

/* The step under way is about cursors. */
static bool carry_at_cursors(const struct session_move *move)
{
	return move->cursors != NULL && move->steps_left > 0 &&
	       move->steps_left <= move->cursor_steps;
}

bool session_carry_take(struct session_move *move, uint8_t type, const uint8_t *body, size_t len)
{
	/* Of the new server's answer the first of these steps is the definition. */
	const size_t first = move->question == SESSION_ASKS_ROWS ? 0 : 1;
	const size_t step = move->read_steps - move->steps_left;

	if (carry_at_cursors(move)) {
		cursors_take(move->cursors, move->cursor_steps - move->steps_left, type, body, len);
		return true;
	}
	if (move->read_steps == 0 || move->steps_left > move->read_steps)
		return false;
	if (move->question == SESSION_ASKS_PROBE) {
		carry_take_probe(move, type, body, len);
	} else if (move->question == SESSION_ASKS_TEMP) {
		if (type == BE_DATA_ROW && move->steps_left == 1 &&
		    !session_state_row(move->state, body, len))
			move->unreadable = true;
	} else if (move->arriving != NULL && step >= first && body == NULL) {
		copies_too_long(move->arriving);
	} else if (move->arriving != NULL && step >= first) {
		copies_take(move->arriving, step - first, type, body, len);
	}
	return false;
}

bool session_carry_takes_whole(const struct session_move *move, uint8_t type, size_t total)
{
	if (type == BE_COPY_DATA)
		return total <= WIRE_HEADER_LEN + carry_most(move);
	if (type == BE_DATA_ROW && carry_at_cursors(move))
		return total <= WIRE_HEADER_LEN + carry_most_cursors(move);
	return true;
}

bool session_carry_halfway(const struct session_move *move)
{
	return move->cursors != NULL && cursors_more(move->cursors);
}

size_t session_carry_bytes(const struct session_move *move)
{
	return (move->state == NULL ? 0 : session_state_carried(move->state)) +
	       (move->cursors == NULL ? 0 : cursors_bytes(move->cursors));
}

/* Noted in the state, so that it is known as long as that. */
static void carry_give_up(struct session_move *move, const char *what, const char *why)
{
	char text[600];

	(void)snprintf(text, sizeof(text), "%s%s", what, why);
	if (!temp_give_up(move->state, "", text))
		move->unreadable = true;
}

static void carry_described(struct session_move *move)
{
	char text[160];

	if (move->failure != NULL)
		carry_give_up(
		    move, "they, or a statement to be prepared behind them, cannot be carried: ",
		    move->failure);
	if (move->unreadable || !session_state_finish(move->state)) {
		/* Rows of it are missing: nothing is known of the session. */
		session_state_free(move->state);
		move->state = NULL;
		session_count_rest(move);
		return;
	}
	if (temp_size(move->state) > (long long)carry_most(move)) {
		(void)snprintf(text, sizeof(text), "%lld bytes, more than session_temp_tables",
		               temp_size(move->state));
		carry_give_up(move, "", text);
	}
}

static void carry_read(struct session_move *move)
{
	const char *failure = move->failure != NULL    ? move->failure
	                      : move->arriving == NULL ? "out of memory"
	                                               : copies_failure(move->arriving);

	if (failure == NULL && !temp_read_done(move->state, move->state, move->arriving))
		failure = "out of memory";
	if (failure != NULL) {
		carry_give_up(move, "they could not be read: ", failure);
		copies_free(move->arriving);
	} else {
		session_state_set_copies(move->state, move->arriving);
	}
	move->arriving = NULL;
}

bool session_carry_answer(struct session_move *move, enum session_question question)
{
	bool clean = move->failure == NULL;

	if (question == SESSION_ASKS_CURSORS) {
		clean = cursors_clean(move->cursors);
		move->unreadable = !cursors_read_done(move->cursors, move->state);
		session_carry_forget(move);
	} else if (question == SESSION_ASKS_TEMP) {
		carry_described(move);
	} else if (question == SESSION_ASKS_ROWS) {
		carry_read(move);
	} else if (!sbuf_ok(&move->outcomes) ||
	           !temp_probe_done(move->state, sbuf_text(&move->outcomes), move->outcomes.len)) {
		move->unreadable = true;
	}
	if (move->unreadable) {
		session_state_free(move->state);
		move->state = NULL;
		session_count_rest(move);
	}
	return clean;
}

bool session_carry_told(struct session_move *move)
{
	bool good = true;

	if (move->arriving != NULL)
		good = copies_failure(move->arriving) == NULL &&
		       temp_read_done(move->answer, move->state, move->arriving);
	if (move->cursors != NULL)
		good = cursors_check_done(move->cursors, move->answer) && good;
	session_carry_forget(move);
	return good;
}

void session_carry_drop(struct session_move *move)
{
	if (move->state == NULL)
		return;
	session_state_set_copies(move->state, NULL);
	session_state_set_cursors(move->state, NULL);
}

void session_carry_forget(struct session_move *move)
{
	copies_free(move->arriving);
	move->arriving = NULL;
	cursors_free(move->cursors);
	move->cursors = NULL;
}
