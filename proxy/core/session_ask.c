/* SPDX-License-Identifier: PostgreSQL */
/*
 * Questions of the proxy's own to a server of a session: what state there is, and take this state.
 * Each goes out in one piece, as several steps that end in ReadyForQuery; the ledger hides the
 * answers from the client (OWES_HIDDEN_QUERY), and session_take() gets them.  So many at a time are
 * under way for a database; the others wait in its queue.  Worker thread.
 */
#include "base/log.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_carry.h"
#include "core/session_internal.h"
#include "core/session_notes.h"
#include "core/session_see.h"
#include "core/worker.h"
#include "session/locks.h"
#include "session/replay.h"
#include "session/shapes.h"
#include "session/stmts.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Questions under way at a time, of a database in one worker: while its clients go on, and in the
 * hold, when the servers have nothing else to do. */
#define ASK_AT_ONCE 8
#define ASK_AT_ONCE_HELD 64
/* … and of parked ones whose clients do not wait, when the others go on again: servers have no time
 * to spare for them. */
#define ASK_AT_ONCE_LATER 2

/* Longest question: with every prepared statement of the session. */
#define ASK_MAX ((size_t)64 * 1024 * 1024)

/* Of 65,535 types. */
#define TYPES_TEXT_MAX ((size_t)1024 * 1024)

static const char reset_all[] = "DISCARD ALL";

/* Appends the steps of one stage. */
static unsigned ask_replay(struct session_move *move, enum replay_stage stage, struct sbuf *out)
{
	struct stmt *unnamed;
	struct replay replay;
	unsigned steps = 0;

	if (!session_seen_unnamed(move->client, &unnamed)) {
		out->failed = true;
		return 0;
	}
	move->replayed = stage;
	if (replay_build(move->state, unnamed, stage, move->apart, &replay)) {
		sbuf_add(out, sbuf_text(&replay.out), replay.out.len);
		steps = replay.steps;
	} else {
		out->failed = true;
	}
	replay_free(&replay);
	if (stage != REPLAY_CLAIMS && stage != REPLAY_CHANNELS)
		session_note_unnamed(
		    move, stage == REPLAY_AFTER_PROMOTION || stage == REPLAY_AFTER_CLAIMS ? unnamed
		                                                                          : NULL);
	stmt_unref(unnamed);
	return steps;
}

/* All that the client has now. */
static unsigned ask_unnamed(struct session_move *move, struct sbuf *out)
{
	unsigned steps = ask_replay(move, REPLAY_AFTER_CLAIMS, out);

	if (steps > 0)
		return steps;
	wire_add_close(out, 'S', "");
	wire_add_sync(out);
	return 1;
}

/* Whether its unnamed statement can be prepared again: what it is about may have gone, or the
 * session may not find it any more.  After a promotion it would be too late to learn that. */
static unsigned ask_try_unnamed(struct session_move *move, struct sbuf *out)
{
	struct stmt *unnamed;

	free(move->unnamed_failure);
	move->unnamed_failure = NULL;
	free(move->unnamed_types);
	move->unnamed_types = NULL;
	move->unnamed_bare = false;
	move->unnamed_changed = false;
	if (!session_seen_unnamed(move->client, &unnamed)) {
		out->failed = true;
		return 0;
	}
	if (unnamed == NULL)
		return 0;
	replay_try_unnamed(unnamed, out);
	stmt_unref(unnamed);
	return 1;
}

/* Whether the statements are there, all of them. */
static bool ask_wants_shapes(const struct session_move *move, const struct session_state *like,
                             enum session_question question)
{
	return like != NULL && !move->lossy &&
	       (question != SESSION_ASKS_STANDBY ||
	        session_statement_stage(like) == REPLAY_ON_STANDBY);
}

static void ask_state(struct session_move *move, const struct session_state *like,
                      enum session_question question, struct sbuf *out)
{
	const struct config_proxy *conf = &move->client->worker->routes->config->proxy;
	const struct session_seen *seen = move->client->seen;
	const struct session_ask ask = {.facts = seen == NULL ? NULL : seen->facts,
	                                .custom = conf->session_custom_settings,
	                                .like = like,
	                                .shapes = ask_wants_shapes(move, like, question),
	                                .neutral = move->neutral};

	move->shapes = ask.shapes;
	move->shape_at = 0;
	session_inspect_add(out, &ask);
}

/* What every connection has run after its login is gone after DISCARD ALL. */
static unsigned ask_connect_query(const struct session_move *move, struct sbuf *out)
{
	const struct worker *worker = move->client->worker;
	const struct route *route =
	    route_find(worker->routes, move->client->pool->database->name);

	if (route == NULL || route->database->connect_query[0] == '\0')
		return 0;
	wire_add_query(out, route->database->connect_query);
	return 1;
}

/* Whether the last of its steps is answered with a state.  What the standby has is compared before the
 * swap: after it, it is too late to let the session stay. */
static bool ask_wants_state(const struct session_move *move, enum session_question question)
{
	const struct database *database = move->client->pool->database;

	return question == SESSION_ASKS_STATE || question == SESSION_ASKS_REST ||
	       question == SESSION_ASKS_AGAIN ||
	       (question == SESSION_ASKS_STANDBY &&
	        ((replay_is_early(move->state) && !session_has_claims(move)) ||
	         !database->swapped || (!move->parked && !database->held)));
}

/* Its old server has its locks, and nobody else there can take them. */
static bool ask_is_ahead(const struct session_move *move)
{
	return move->fresh->for_swap && !session_database(move)->swapped;
}

/* The question as messages; the number of ReadyForQuery messages that answer it. */
static unsigned ask_build(struct session_move *move, enum session_question question,
                          struct sbuf *out)
{
	unsigned steps = 0;

	move->state_steps = 1;
	move->shapes = false;
	move->read_steps = 0;
	move->cursor_steps = 0;
	move->steps_before = 0;
	if (question != SESSION_ASKS_CURSORS) /* whose answers are read in turn */
		session_carry_forget(move);
	switch (question) {
	case SESSION_ASKS_NOTHING:
		break;
	case SESSION_ASKS_STANDBY:
		if (move->stage != SESSION_STAGE_OPEN) {
			wire_add_query(out, reset_all); /* it has an older state */
			steps++;
		}
		if (move->stage != SESSION_STAGE_OPEN)
			steps += ask_connect_query(move, out);
		move->steps_before = steps;
		move->fresh_locked = false;
		steps +=
		    ask_replay(move, ask_is_ahead(move) ? REPLAY_AHEAD : REPLAY_ON_STANDBY, out);
		if (ask_wants_state(move, question)) {
			ask_state(move, move->state, question, out);
			if (replay_is_early(move->state)) /* all of it is there */
				move->state_steps += session_carry_build_check(move, out);
			steps += move->state_steps;
		}
		break;
	case SESSION_ASKS_CLAIMS:
		steps +=
		    ask_replay(move, move->fresh_locked ? REPLAY_CHANNELS : REPLAY_CLAIMS, out);
		break;
	case SESSION_ASKS_REST:
		steps += ask_replay(move,
		                    move->stage == SESSION_STAGE_CLAIMED ? REPLAY_AFTER_CLAIMS
		                                                         : REPLAY_AFTER_PROMOTION,
		                    out);
		ask_state(move, move->state, question, out);
		move->state_steps += session_carry_build_check(move, out);
		steps += move->state_steps;
		break;
	case SESSION_ASKS_STATE:
		steps += ask_try_unnamed(move, out);
		ask_state(move, NULL, question, out);
		steps++;
		break;
	case SESSION_ASKS_AGAIN:
		ask_state(move, move->state, question, out);
		move->state_steps += session_carry_build_check(move, out);
		steps += move->state_steps;
		break;
	case SESSION_ASKS_SHAPES:
		steps = shapes_ask(move->state, out);
		break;
	case SESSION_ASKS_TEMP:
	case SESSION_ASKS_PROBE:
	case SESSION_ASKS_ROWS:
	case SESSION_ASKS_CURSORS:
		steps += session_carry_build(move, question, out);
		break;
	case SESSION_ASKS_UNNAMED:
		steps = ask_unnamed(move, out);
		break;
	case SESSION_ASKS_NEWS:
		wire_add_sync(out);
		steps++;
		break;
	case SESSION_ASKS_LOCKS:
		locks_count_add(move->state, out);
		steps++;
		break;
	case SESSION_ASKS_CLEANUP:
		session_inspect_cleanup(out);
		steps++;
		break;
	case SESSION_ASKS_LISTEN:
		steps = session_notes_ask_listen(move, out);
		break;
	case SESSION_ASKS_MARK:
		steps = session_notes_ask_mark(move, out);
		break;
	case SESSION_ASKS_FORGET:
		steps = session_notes_ask_forget(move, out);
		break;
	}
	return steps;
}

static bool ask_send(struct session_move *move, struct server *server, const struct sbuf *out,
                     unsigned steps)
{
	struct worker *worker = server->worker;
	enum conn_io io;

	for (unsigned i = 0; i < steps; i++) {
		if (!ledger_owe(&server->ledger, OWES_HIDDEN_QUERY)) {
			server_doom(server, SERVER_CLOSE_MEMORY);
			return false;
		}
	}
	server->move = move;
	move->asked = server;
	move->asked_at = worker->now;
	move->steps_left = steps;
	server->pool->database->session_asking++;
	io = conn_send_copy(&worker->to_server, &server->conn, worker, out->data, out->len);
	if (io == CONN_IO_OK)
		io = conn_flush(&worker->to_server, worker);
	if (io != CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
	return io == CONN_IO_OK;
}

static bool ask_turn(struct session_move *move, struct database *database)
{
	if (session_ask_room(move) > 0)
		return true;
	session_enqueue(move, database);
	return false;
}

/* No memory, or more than can be carried. */
static void ask_impossible(struct session_move *move, struct server *server,
			   enum session_question question)
{
	if (question == SESSION_ASKS_STANDBY || question == SESSION_ASKS_CLAIMS ||
	    question == SESSION_ASKS_REST || question == SESSION_ASKS_UNNAMED) {
		session_failed(move, "it cannot be written down: too much, a lock that could not be "
				     "counted, or no memory");
		return;
	}
	log_error("out of memory for the state of a session");
	server_doom(server, SERVER_CLOSE_MEMORY);
}

bool session_ask(struct session_move *move, struct server *server, enum session_question question)
{
	struct database *database = server->pool->database;
	struct sbuf out;
	unsigned steps;
	bool wants;
	bool sent = true;

	assert(move->asked == NULL && server_quiet(server) && server->sealed_at == 0);
	/* Cursors that were moved go back before anything else is done. */
	if (!session_carry_halfway(move) && !ask_turn(move, database))
		return false;
	sbuf_init(&out, ASK_MAX + session_carry_bytes(move));
	steps = ask_build(move, question, &out);
	move->steps_all = steps;
	session_state_free(move->answer);
	move->answer = ask_wants_state(move, question) ? session_state_new() : NULL;
	wants = move->answer != NULL;
	if (question != SESSION_ASKS_CLEANUP) {
		free(move->failure);
		move->failure = NULL;
	}
	move->question = question;
	move->unreadable = false;
	move->failure_in_state = false;
	if (!sbuf_ok(&out) || (ask_wants_state(move, question) && !wants)) {
		ask_impossible(move, server, question);
		sent = false;
	} else if (steps > 0) {
		sent = ask_send(move, server, &out, steps);
	}
	sbuf_free(&out);
	if (!sent)
		session_carry_forget(move);
	return sent;
}

bool session_awaits(const struct server *server)
{
	return server->move != NULL && server->move->asked == server;
}

bool session_takes_whole(const struct server *server, uint8_t type, size_t total)
{
	return server->move == NULL || session_carry_takes_whole(server->move, type, total);
}

/* The step in which its unnamed statement is tried, and described, comes before the state. */
static bool ask_at_unnamed(const struct session_move *move)
{
	return move->question == SESSION_ASKS_STATE && move->steps_left > move->state_steps;
}

/* In the step whose answers come now. */
static void ask_note_failure(struct session_move *move, char *failure, const char *sqlstate)
{
	move->failure = failure;
	/* Before the replay: none of its steps. */
	move->failed_step = move->steps_all - move->steps_left - move->steps_before;
	(void)snprintf(move->failure_sqlstate, sizeof(move->failure_sqlstate), "%s", sqlstate);
	move->failure_in_state = move->answer != NULL && move->steps_left == move->state_steps;
}

static void ask_failed(struct session_move *move, const uint8_t *body, size_t len)
{
	struct wire_error error = {0};
	struct sbuf text;

	if (!wire_parse_error(body, len, &error))
		memset(&error, 0, sizeof(error));
	if (error.sqlstate == NULL)
		error.sqlstate = "XX000";
	/* The first says most, but that statements are to be asked about again. */
	if (move->failure != NULL &&
	    (move->question != SESSION_ASKS_SHAPES || !replay_try_again(error.sqlstate)))
		return;
	free(move->failure);
	move->failure = NULL;
	sbuf_init(&text, 1024);
	sbuf_printf(&text, "%s (%s)", error.message == NULL ? "unknown error" : error.message,
	            error.sqlstate);
	if (ask_at_unnamed(move)) {
		if (strcmp(error.sqlstate, "0A000") == 0)
			move->unnamed_changed = true;
		else if (!replay_try_again(error.sqlstate) && strcmp(error.sqlstate, "26000") != 0)
			move->unnamed_failure = sbuf_take(&text);
		sbuf_free(&text);
		return;
	}
	ask_note_failure(move, sbuf_take(&text), error.sqlstate);
}

/* One that is missing on a standby is found by the comparison. */
static void ask_take_call(struct session_move *move, const uint8_t *body, size_t len)
{
	char *failure;

	if (move->question == SESSION_ASKS_STANDBY || move->failure != NULL ||
	    !locks_call_failed(body, len))
		return;
	failure = strdup("another session has its advisory lock");
	if (failure != NULL)
		ask_note_failure(move, failure, "55P03");
	else /* it must not go on as if it had the lock */
		server_doom(move->asked, SERVER_CLOSE_MEMORY);
}

/* The first step of the question what statements return. */
static bool ask_at_shapes(const struct session_move *move)
{
	return move->question == SESSION_ASKS_SHAPES && move->steps_left == move->steps_all;
}

/* What a statement returns, or why nobody can say. */
static void ask_take_shape(struct session_move *move, uint8_t type, const uint8_t *body, size_t len)
{
	bool good = true;

	if (ask_at_shapes(move))
		good = shapes_take(move->state, type, body, len, move->failure_sqlstate);
	else if (move->shapes && move->answer != NULL && move->steps_left == move->state_steps &&
	         type != BE_ERROR_RESPONSE)
		good = shapes_check(move->state, move->answer, &move->shape_at, type, body, len);
	if (!good)
		move->unreadable = true;
}

static void ask_take_types(struct session_move *move, const uint8_t *body, size_t len)
{
	struct sbuf text;

	if (ask_at_unnamed(move)) {
		sbuf_init(&text, TYPES_TEXT_MAX);
		if (shapes_types_text(body, len, &text) && move->unnamed_types == NULL)
			move->unnamed_types = sbuf_take(&text);
		sbuf_free(&text);
	} else if (move->question == SESSION_ASKS_SHAPES &&
	           !shapes_take_types(move->state, move->steps_all - move->steps_left, body, len)) {
		move->unreadable = true;
	}
}

void session_take(struct server *server, uint8_t type, const uint8_t *body, size_t len)
{
	struct session_move *move = server->move;

	const bool carried = session_carry_take(move, type, body, len);

	switch (type) {
	case BE_DATA_ROW:
		if (carried)
			break;
		if (move->question == SESSION_ASKS_LOCKS)
			(void)!locks_count_row(move->state, body, len); /* locks_counted() */
		/* Steps before these may have rows, too. */
		if (move->answer != NULL && move->steps_left <= move->state_steps &&
		    !session_state_row(move->answer, body, len))
			move->unreadable = true;
		break;
	case BE_ROW_DESCRIPTION:
	case BE_NO_DATA:
		if (ask_at_unnamed(move))
			move->unnamed_bare = type == BE_NO_DATA;
		ask_take_shape(move, type, body, len);
		break;
	case BE_PARAMETER_DESCRIPTION:
		ask_take_types(move, body, len);
		break;
	case BE_FUNCTION_CALL_RESPONSE:
		ask_take_call(move, body, len);
		break;
	case BE_ERROR_RESPONSE:
		ask_failed(move, body, len);
		ask_take_shape(move, type, body, len);
		break;
	case BE_READY_FOR_QUERY:
		if (move->steps_left > 0)
			move->steps_left--;
		break;
	default:
		break;
	}
}

void session_ask_over(struct session_move *move)
{
	struct database *database = move->client->pool->database;

	move->asked = NULL;
	assert(database->session_asking > 0);
	database->session_asking--;
	if (session_some_queued(database))
		session_wake(database);
}

size_t session_ask_room(const struct session_move *move)
{
	const struct database *database = session_database(move);
	const size_t most = database->held        ? ASK_AT_ONCE_HELD
	                    : session_waits(move) ? ASK_AT_ONCE
	                                          : ASK_AT_ONCE_LATER;

	return database->session_asking < most ? most - database->session_asking : 0;
}
