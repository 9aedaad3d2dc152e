/* SPDX-License-Identifier: PostgreSQL */
/*
 * What servers have answered to the questions of session_ask.c, and what follows from it.
 */
#include "core/session_internal.h"

#include "core/server.h"
#include "core/session_carry.h"
#include "core/session_lost.h"
#include "core/session_notes.h"
#include "core/session_see.h"
#include "core/worker.h"
#include "session/locks.h"
#include "session/replay.h"

#include <stdio.h>
#include <string.h>

static void session_unread(struct session_move *move)
{
	char why[1200];

	move->digest[0] = '\0';
	(void)snprintf(why, sizeof(why), "its state could not be read: %s",
	               move->failure != NULL ? move->failure : "not understood");
	session_set_class(move, SESSION_PINNED, "", why);
}

/* What is known of its state has changed. */
static void session_judge(struct session_move *move)
{
	if (move->state == NULL) {
		session_unread(move);
	} else if (session_carry_next(move, false) == SESSION_ASKS_NOTHING) {
		session_state_digest(move->state, move->digest);
		session_classify_state(move);
	}
}

/* The state that its own server has told.  False: there is more to be asked first. */
static bool session_take_state(struct session_move *move, struct server *server)
{
	const bool good = move->failure == NULL && !move->unreadable &&
	                  session_state_finish(move->answer);

	if (good)
		session_lost_hide(move->client->seen, move->answer);
	/* Nothing is known until the second answer; what was before is not any more. */
	if (!move->neutral &&
	    ((move->failure != NULL && session_inspect_retry(move->failure_sqlstate)) ||
	     (good && session_state_again(move->answer)))) {
		move->neutral = true;
		return false;
	}
	move->ready_at = server->ready_at;
	session_state_free(move->state);
	move->state = NULL;
	if (good) {
		move->state = move->answer;
		move->answer = NULL;
	}
	session_count_rest(move);
	session_judge(move);
	return good || move->failure == NULL || !session_ask(move, server, SESSION_ASKS_CLEANUP);
}

/* It cannot be set up there. */
void session_failed(struct session_move *move, const char *why)
{
	const bool back = session_has_way_back(move) &&
	                  (session_database(move)->held || gate_server_current(move->old));
	/* It has left, and its database is still where it can be set up again. */
	const bool ahead = move->left && move->fresh != NULL && move->fresh->for_swap;

	session_note_failure(move, why,
			     move->failure != NULL && replay_may_come(move->failure_sqlstate));
	move->reconnect = false;
	move->ahead_epoch = 0;
	session_drop_fresh(move);
	if (!move->parked)
		return; /* what to do about it is decided at the next step */
	if (!back && !ahead)
		session_drop(move, session_why(move));
	else if (session_database(move)->held)
		session_apply_policy(move);
	else if (back)
		session_unpark(move);
	else
		session_enqueue(move, session_database(move));
}

static void session_refused(struct session_move *move)
{
	char why[1200];

	if (session_return_later(move) || session_return_without(move))
		return;
	(void)snprintf(why, sizeof(why), "the new server refused a part of it: %s", move->failure);
	session_failed(move, why);
}

static void session_came_out_differently(struct session_move *move, const char *what)
{
	char why[1200];

	(void)snprintf(why, sizeof(why), "it came out differently on the new server: %s", what);
	session_failed(move, why);
}

void session_claimed(struct session_move *move)
{
	move->fresh_locked = true;
	if (move->stage == SESSION_STAGE_PROVEN) {
		memcpy(move->digest_told, move->digest, sizeof(move->digest));
		move->stage = SESSION_STAGE_DONE;
	} else {
		move->stage = SESSION_STAGE_CLAIMED; /* all is compared when others go on */
	}
	session_count_rest(move);
}

/* It has taken its advisory locks and channels, or said that it cannot. */
static void session_take_claims(struct session_move *move)
{
	if (move->failure != NULL && !move->lossy)
		session_refused(move);
	else
		session_claimed(move);
}

/* The same question was answered by the new server: are they equal?  False: it is asked again. */
static bool session_compare(struct session_move *move)
{
	struct sbuf text;

	if (move->failure_in_state && !move->neutral &&
	    session_inspect_retry(move->failure_sqlstate)) {
		move->neutral = true;
		return !session_ask(move, move->fresh, SESSION_ASKS_AGAIN);
	}
	if (move->failure != NULL && (!move->lossy || move->failure_in_state)) {
		session_refused(move);
		return true;
	}
	if (move->unreadable || !session_carry_told(move) || !session_state_finish(move->answer)) {
		session_failed(move, "the new server's state could not be read");
		return true;
	}
	if (!move->neutral && session_state_again(move->answer)) {
		move->neutral = true;
		return !session_ask(move, move->fresh, SESSION_ASKS_AGAIN);
	}
	session_state_digest(move->answer, move->digest_told);
	if (strcmp(move->digest_told, move->digest) == 0 || move->lossy) {
		move->stage = SESSION_STAGE_DONE;
		return true;
	}
	sbuf_init(&text, 1000);
	if (session_state_same(move->state, move->answer, REPLAY_AFTER_PROMOTION, &text))
		sbuf_add_str(&text, "the digests differ");
	if (session_return_differs(move, sbuf_text(&text))) {
		sbuf_free(&text);
		move->stage = SESSION_STAGE_DONE;
		return true;
	}
	session_came_out_differently(move, sbuf_text(&text));
	sbuf_free(&text);
	return true;
}

/* Nothing is left to be done but what a standby does not allow, or had no advisory lock for. */
static bool session_prove(struct session_move *move)
{
	if (!replay_is_early(move->state))
		return false;
	move->fresh_locked = session_state_same_but_claims(move->state, move->answer, false);
	if (strcmp(move->digest_told, move->digest) == 0)
		move->stage = SESSION_STAGE_DONE;
	else if (move->fresh_locked ||
	         session_state_same_but_claims(move->state, move->answer, true))
		move->stage = SESSION_STAGE_PROVEN;
	return move->stage != SESSION_STAGE_STANDBY;
}

/* What a standby allows has been set up there. */
static void session_compare_standby(struct session_move *move)
{
	struct sbuf text;

	if (move->failure != NULL && !move->failure_in_state && !move->lossy) {
		session_refused(move);
		return;
	}
	move->stage = SESSION_STAGE_STANDBY;
	if (move->failure != NULL || move->answer == NULL || move->lossy || move->unreadable ||
	    !session_carry_told(move) || !session_state_finish(move->answer) ||
	    session_state_again(move->answer))
		return; /* it is compared after the promotion */
	/* Nobody but us can change what that connection is: this needs no proof later. */
	session_state_digest(move->answer, move->digest_told);
	if (session_prove(move))
		return;
	sbuf_init(&text, 1000);
	if (!session_state_same(move->state, move->answer, REPLAY_ON_STANDBY, &text) &&
	    !session_comes_back(move)) /* else it is compared once more, at the end */
		session_came_out_differently(move, sbuf_text(&text));
	sbuf_free(&text);
}

/* What its statements return. */
static void session_take_shapes(struct session_move *move)
{
	if (move->unreadable) {
		session_state_free(move->state);
		move->state = NULL;
		session_count_rest(move);
	} else if (move->failure != NULL && replay_try_again(move->failure_sqlstate) &&
	           !session_database(move)->held) {
		/* Somebody changes a table right now: later, and not again and again. */
		move->ready_at = 0;
		move->wanted = false;
		if (move->reconnect)
			move->kept_at = move->client->worker->now;
		move->reconnect = false;
	}
	session_judge(move);
}

/* In the middle of counting them: some may have been given back, and nobody knows which. */
static void session_lose_locks(struct session_move *move)
{
	char detail[1400];
	char name[128];

	(void)snprintf(
	    detail, sizeof(detail),
	    "The advisory locks of this session were being counted, for it is to be moved to "
	    "another server, and it may not have all of them any more: %s.",
	    move->failure);
	log_warning("%s: ended, for counting its advisory locks has failed: %s",
	            session_name(move, name), move->failure);
	session_settled(move);
	client_doom_fatal(move->client, CLIENT_CLOSE_TERMINATED, "57P01",
	                  "terminating connection due to administrator command", detail,
	                  "Connect again.");
}

/* They are not counted, and are as they were. */
static void session_pin_locks(struct session_move *move)
{
	struct sbuf why;

	sbuf_init(&why, 1000);
	if (move->failure != NULL)
		sbuf_printf(&why, "its advisory locks could not be counted: %s", move->failure);
	else
		(void)!locks_counted(move->state, &why);
	session_set_class(move, SESSION_PINNED, move->what == NULL ? "" : move->what,
	                  sbuf_ok(&why) ? sbuf_text(&why) : "out of memory");
	sbuf_free(&why);
	if (!move->settle)
		return; /* what to do about it is decided at the next step */
	/* Not without them, either: what cannot be written down cannot be moved. */
	if (move->client->pool->session_pinned == CONFIG_PINNED_DROP ||
	    move->client->pool->session_pinned == CONFIG_PINNED_MOVE_ANYWAY)
		move->drop = true;
	else
		session_tell_abort(move);
}

/* How often the session has each of its locks. */
static void session_take_locks(struct session_move *move, struct server *server)
{
	if (move->failure != NULL && !locks_refused(move->failure_sqlstate)) {
		session_lose_locks(move);
		return;
	}
	/* Parked and not to be settled: the hold has ended meanwhile. */
	if ((move->settle || !move->parked) &&
	    (move->failure != NULL || !locks_counted(move->state, NULL)))
		session_pin_locks(move);
	if (move->failure != NULL && server_quiet(server))
		(void)!session_ask(move, server, SESSION_ASKS_CLEANUP);
	session_settle_over(move);
}

/* After an error, of what the proxy has prepared for itself.  False: it is under way. */
static bool session_clean_up(struct session_move *move, struct server *server)
{
	return move->failure == NULL || !session_ask(move, server, SESSION_ASKS_CLEANUP);
}

/* False: the next question is under way. */
static bool session_use_answer(struct session_move *move, struct server *server,
                               enum session_question question)
{
	switch (question) {
	case SESSION_ASKS_NOTHING:
	case SESSION_ASKS_CLEANUP:
		break;
	case SESSION_ASKS_STATE:
		if (!session_take_state(move, server))
			return move->asked == NULL;
		break;
	case SESSION_ASKS_NEWS:
		session_settle_over(move);
		session_notes_passed(move);
		break;
	case SESSION_ASKS_LISTEN:
		session_notes_listens(move, move->failure == NULL);
		return session_clean_up(move, server);
	case SESSION_ASKS_MARK:
		session_notes_marked(move, move->failure == NULL);
		return session_clean_up(move, server);
	case SESSION_ASKS_FORGET:
		session_notes_free(move);
		return session_clean_up(move, server);
	case SESSION_ASKS_LOCKS:
		session_take_locks(move, server);
		return move->asked == NULL;
	case SESSION_ASKS_SHAPES:
		session_take_shapes(move);
		break;
	case SESSION_ASKS_TEMP:
	case SESSION_ASKS_PROBE:
	case SESSION_ASKS_ROWS:
	case SESSION_ASKS_CURSORS:
		if (session_carry_halfway(move)) {
			(void)!session_ask(move, server, SESSION_ASKS_CURSORS);
			return false;
		}
		if (!session_carry_answer(move, question))
			(void)!session_ask(move, server, SESSION_ASKS_CLEANUP);
		session_judge(move);
		return move->asked == NULL;
	case SESSION_ASKS_STANDBY:
		session_compare_standby(move);
		break;
	case SESSION_ASKS_CLAIMS:
		session_take_claims(move);
		break;
	case SESSION_ASKS_REST:
	case SESSION_ASKS_AGAIN:
		return session_compare(move);
	case SESSION_ASKS_UNNAMED:
		if (move->failure == NULL || move->lossy)
			break;
		if (replay_try_again(move->failure_sqlstate) || !session_keep_unnamed(move))
			session_refused(move);
		else
			session_note_unnamed(move, NULL); /* that Parse has left none */
		break;
	}
	return true;
}

void session_on_answer(struct server *server)
{
	struct session_move *move = server->move;
	enum session_question question = move->question;

	if (move->asked != server || move->steps_left > 0)
		return;
	session_ask_over(move);
	move->question = SESSION_ASKS_NOTHING;
	if (server == move->client->server)
		server->move = NULL;
	if (session_use_answer(move, server, question))
		session_step(move);
}
