/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_internal.h"

#include "base/log.h"
#include "core/limit.h"
#include "core/mail.h"
#include "core/pace.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/server.h"
#include "core/session_carry.h"
#include "core/session_notes.h"
#include "core/worker.h"
#include "session/stmts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of more steps than this the outcomes are not kept: far more tables than are ever carried. */
#define SESSION_OUTCOMES_MAX ((size_t)64 * 1024)
/* Behind RECONNECT, without asking again whether it still has what keeps it at its server. */
#define KEPT_FOR USEC_PER_SEC

const char *session_name(const struct session_move *move, char text[128])
{
	(void)snprintf(text, 128, "client %s/%s id %llu", client_database(move->client),
	               client_user(move->client), (unsigned long long)move->client->id);
	return text;
}

/* ---- life ---- */

struct session_move *session_move_get(struct client *client)
{
	struct session_move *move = client->move;

	if (move != NULL)
		return move;
	move = calloc(1, sizeof(*move));
	if (move == NULL)
		return NULL;
	sbuf_init(&move->outcomes, SESSION_OUTCOMES_MAX);
	move->client = client;
	client->move = move;
	list_append(&client->pool->database->sessions, &move->node);
	return move;
}

void session_drop_fresh(struct session_move *move)
{
	if (move->fresh != NULL)
		server_doom(move->fresh, SERVER_CLOSE_SURPLUS); /* session_server_lost() */
}

void session_end(struct client *client)
{
	struct session_move *move = client->move;
	struct database *database;
	bool placed;

	if (move == NULL)
		return;
	placed = move->placed;
	database = session_database(move);
	session_settle_over(move);
	session_drop_fresh(move);
	session_give_place(move);
	if (move->old != NULL) /* it would have to be reset first, for whoever comes next */
		server_doom(move->old, SERVER_CLOSE_CLIENT_GONE);
	if (move->asked != NULL) {
		move->asked->move = NULL;
		session_ask_over(move);
	}
	if (client->server != NULL)
		client->server->move = NULL;
	if (move->parked)
		client->pool->parked--;
	move->parked = false;
	session_count_rest(move);
	session_settled(move);
	session_dequeue(move);
	list_remove(&database->sessions, &move->node);
	session_state_free(move->state);
	session_state_free(move->answer);
	session_note_unnamed(move, NULL);
	session_carry_forget(move);
	session_notes_free(move);
	sbuf_free(&move->outcomes);
	free(move->what);
	free(move->why);
	free(move->failure);
	free(move->unnamed_failure);
	free(move->unnamed_types);
	free(move->failed_why);
	free(move->forgone);
	free(move->moved_from);
	free(move->moved_to);
	free(move->lost);
	free(move);
	client->move = NULL;
	if (!placed || client->worker->stopping)
		return;
	if (!database->held)
		pool_kick(client->pool);
	limit_tell(client->worker, client->pool->share);
}

void session_server_lost(struct server *server)
{
	struct session_move *move = server->move;

	if (move == NULL)
		return;
	server->move = NULL;
	if (server == move->asked) {
		session_ask_over(move);
		session_carry_forget(move);
	}
	if (server == move->fresh) {
		session_dial_over(move);
		session_notes_lost_fresh(move);
		move->fresh = NULL;
		move->stage = SESSION_STAGE_NONE;
		session_count_rest(move);
		session_note_unnamed(move, NULL);
		move->retry_at = server->worker->now + SESSION_RETRY_AFTER;
	}
	if (server == move->old) {
		move->old = NULL;
		session_settle_over(move);
	}
	session_enqueue(move, session_database(move));
}

void session_drop(struct session_move *move, const char *why)
{
	const struct route *route =
	    route_find(move->client->worker->routes, session_database(move)->name);
	const bool back = route != NULL && strcmp(route->server->name, move->from) == 0;
	char detail[1400];
	char name[128];

	(void)snprintf(detail, sizeof(detail),
	               back ? "The server process of this session has ended, and the session could not be "
	                      "set up on the server anew: %s."
	                    : "The database was moved to another server, and this session could not be "
	                      "taken along: %s.",
	               why);
	log_warning("%s: dropped: %s", session_name(move, name), why);
	session_settled(move);
	client_doom_fatal(move->client, CLIENT_CLOSE_TERMINATED, "57P01",
	                  "terminating connection due to administrator command", detail,
	                  "Connect again.");
}

/* ---- where it is ---- */

bool session_is_parked(const struct client *client)
{
	return client->move != NULL && client->move->parked;
}

struct client *session_client(const struct server *server)
{
	return server->move == NULL ? NULL : server->move->client;
}

bool session_passes(const struct client *client)
{
	return client->move != NULL && client->move->pass;
}

/* ---- pinned ---- */

void session_tell_abort(struct session_move *move)
{
	struct database *database = session_database(move);
	struct mail_database *mail;
	struct sbuf text;

	if (move->told_abort)
		return;
	mail = mail_new_database(MAIL_PINNED, database->name);
	if (mail == NULL)
		return;
	move->told_abort = true;
	sbuf_init(&text, 1000);
	sbuf_printf(&text, "The session of user \"%s\" (client %llu) cannot be moved: %s.",
	            client_user(move->client), (unsigned long long)move->client->id,
	            session_why(move));
	mail->text = sbuf_take(&text);
	mail->epoch = database->hold_epoch;
	mailbox_post(&database->worker->proxy->mailbox, &mail->letter);
}

void session_apply_policy(struct session_move *move)
{
	enum config_pinned policy = move->client->pool->session_pinned;

	if (policy == CONFIG_PINNED_DROP) {
		move->drop = true;
	} else if (policy == CONFIG_PINNED_MOVE_ANYWAY && move->state != NULL) {
		move->lossy = true;
	} else if (policy == CONFIG_PINNED_WAIT && !move->parked) {
		/* Only the client itself can end what pins it: it may go on. */
		move->pass = true;
		client_go_on(move->client);
		return;
	} else {
		session_tell_abort(move);
		return;
	}
	if (!move->parked)
		session_park(move);
}

/* ---- what to do next ---- */

bool session_known(const struct session_move *move, const struct server *server)
{
	return (move->class_since != 0 || move->state != NULL) &&
	       move->ready_at == server->ready_at;
}

/* Gives the fresh server what a standby allows.  True: it has that; false: it is on its way. */
static bool session_set_up(struct session_move *move)
{
	const uint64_t locks = locks_print(move->state);
	const bool current = move->stage >= SESSION_STAGE_STANDBY &&
	                     strcmp(move->digest_fresh, move->digest) == 0 &&
	                     move->locks_fresh == locks;

	if (current) {
		session_tried(move);
		return true;
	}
	if (!session_ask(move, move->fresh, SESSION_ASKS_STANDBY))
		return false;
	memcpy(move->digest_fresh, move->digest, sizeof(move->digest));
	move->locks_fresh = locks;
	if (move->asked != NULL)
		return false;
	move->stage = SESSION_STAGE_STANDBY; /* there was nothing to say */
	return true;
}

/* It came after PREPARE SWAP, or what was opened for it then has gone.  One is opened now, once in
 * a hold: that its state cannot be set up is to be known before the swap. */
static bool session_awaits_fresh(struct session_move *move)
{
	struct database *database = session_database(move);

	if (move->fresh != NULL || move->class == SESSION_CLEAN || database->swapped ||
	    database->swap_target == NULL || database->swap_trial)
		return false;
	if (move->ahead_epoch == database->hold_epoch)
		return database->swap_pending > 0;
	move->ahead_epoch = database->hold_epoch;
	return gate_prepare_one(move->client->pool);
}

/* The database is held, and the state known: off its server, or what is decided for pinned ones. */
static void session_step_held(struct session_move *move)
{
	if (move->class == SESSION_PINNED) {
		if (!session_failure_is_new(move)) /* else soon again: session_tick() */
			session_apply_policy(move);
		return;
	}
	move->pass = false;
	session_find_fresh(move);
	if (session_awaits_fresh(move))
		return;
	/* What cannot be set up is to be known before anything has happened. */
	if (move->fresh == NULL || move->stage == SESSION_STAGE_NONE || session_set_up(move))
		session_park(move);
}

/* It is asked when the server that RECONNECT opens for it can be used: until then its client goes
 * on, and would have to wait for each answer. */
static bool session_dials(const struct session_move *move)
{
	return move->reconnect && move->fresh != NULL && move->stage == SESSION_STAGE_NONE;
}

/* One that is really to be made: a trial only asks who could go along. */
static bool session_swaps(const struct database *database)
{
	return database->swap_target != NULL && !database->swap_trial;
}

/* It can be moved but for that. */
static bool session_wants_count(const struct session_move *move)
{
	return move->class != SESSION_PINNED && !move->reconnect && session_has_uncounted(move);
}

/* What it was a moment ago has been set up there.  That it can be is known, and its client, who
 * never rests, would change it again and again. */
static bool session_was_set_up(const struct session_move *move)
{
	return move->reconnect && move->stage >= SESSION_STAGE_STANDBY;
}

static void session_step_linked(struct session_move *move)
{
	struct client *client = move->client;
	struct server *server = client->server;
	struct database *database = session_database(move);
	const bool held = database->held && !database->paused;
	enum session_question next;

	if (server == NULL || server->doomed || server->cancelling || !server_quiet(server)) {
		session_settled(move); /* it comes back at its safe point, and is not waited for */
		return;
	}
	if (UNLIKELY(move->notes != NULL)) {
		(void)!session_ask(move, server, SESSION_ASKS_FORGET);
		return;
	}
	if (!session_known(move, server)) {
		if (server->ready_at != move->asked_ready_at)
			move->neutral = false;
		move->asked_ready_at = server->ready_at;
		if (held || move->wanted || (move->reconnect && !session_dials(move)))
			(void)!session_ask(move, server, SESSION_ASKS_STATE);
		else
			session_settled(move); /* active since it was asked: its turn comes again */
		return;
	}
	next = session_carry_next(move,
				  held || database->swap_target != NULL || move->reconnect);
	if (next != SESSION_ASKS_NOTHING) {
		(void)!session_ask(move, server, next);
		return;
	}
	/* Before the hold, in which each would have to be waited for. */
	if (session_wants_count(move) && (held || session_swaps(database))) {
		(void)!session_ask(move, server, SESSION_ASKS_LOCKS);
		return;
	}
	move->wanted = false;
	if (held) {
		session_step_held(move);
		return;
	}
	/* Its locks are taken, by itself, as long as it has this connection. */
	if (move->class == SESSION_PINNED || (move->reconnect && session_has_locks(move))) {
		move->reconnect = false; /* it keeps the server that it has */
		move->kept_at = client->worker->now;
		session_settled(move);
		return;
	}
	if (database->swap_target == NULL && !move->reconnect) {
		session_settled(move);
		return;
	}
	session_find_fresh(move);
	if (move->fresh == NULL || move->stage == SESSION_STAGE_NONE ||
	    (!session_was_set_up(move) && !session_set_up(move))) {
		if (move->fresh == NULL && database->swap_pending == 0)
			session_settled(move); /* it will have to be dialled after the swap */
		return;
	}
	session_settled(move);
	if (move->reconnect)
		session_park(move);
}

/* Everybody waits until those with locks and channels have them, and after a swap for the mover: the
 * servers have no time for what can as well be done after the release, when others go on. */
static bool session_gives_way(const struct session_move *move)
{
	const struct database *database = session_database(move);

	return database->held && !move->rest &&
	       (atomic_load(&database->share->rest) > 0 ||
	        (database->swapped && move->stage < SESSION_STAGE_DONE));
}

/* Where only they are missing they are all that is asked for, in a hold or not. */
static bool session_lacks_claims(const struct session_move *move)
{
	return move->rest && gate_server_current(move->fresh) &&
	       (move->stage == SESSION_STAGE_PROVEN ||
	        (move->stage == SESSION_STAGE_STANDBY && session_database(move)->held));
}

static void session_step_parked(struct session_move *move)
{
	struct database *database = session_database(move);

	if (move->settle) {
		if (!session_ask(move, move->old,
		                 session_has_uncounted(move) ? SESSION_ASKS_LOCKS
		                                             : SESSION_ASKS_NEWS) ||
		    move->asked != NULL)
			return;
	}
	if (move->drop || move->state == NULL)
		return;
	session_find_fresh(move);
	if (database->worker->now < move->claims_at) {
		session_enqueue_soon(move, database);
		return;
	}
	if (move->fresh == NULL || move->stage == SESSION_STAGE_NONE || !session_set_up(move))
		return;
	if (gate_server_current(move->fresh) && !session_notes_begin(move))
		return;
	if (session_lacks_claims(move)) {
		if (!session_may_claim(move) ||
		    !session_ask(move, move->fresh, SESSION_ASKS_CLAIMS) || move->asked != NULL)
			return;
		session_claimed(move); /* there was nothing to say */
	}
	if (session_gives_way(move))
		return;
	if (move->stage < SESSION_STAGE_DONE && gate_server_current(move->fresh) &&
	    !session_ask(move, move->fresh, SESSION_ASKS_REST))
		return;
	if ((move->stage == SESSION_STAGE_PROVEN || move->stage == SESSION_STAGE_DONE) &&
	    !session_has_unnamed(move) &&
	    (!session_ask(move, move->fresh, SESSION_ASKS_UNNAMED) || move->asked != NULL))
		return;
	if (move->stage != SESSION_STAGE_DONE)
		return;
	session_count_rest(move);
	if (database->held || pace_yields(database) || !gate_server_current(move->fresh))
		return;
	/* What its old server has told comes first. */
	if (session_is_sealed(move) && !seal_is_silent(move->old)) {
		session_enqueue_soon(move, database);
		return;
	}
	if (!session_notes_meet(move))
		return;
	/* Its last answer may be of before the promotion. */
	if (conn_seems_dead(&move->fresh->conn, move->client->worker))
		server_doom(move->fresh, SERVER_CLOSE_PEER);
	else
		session_arrive(move);
}

void session_step(struct session_move *move)
{
	struct client *client = move->client;

	if (move->asked != NULL || client->doomed || client->worker->stopping)
		return;
	if (!move->parked)
		session_step_linked(move);
	if (move->parked && move->asked == NULL && !client->doomed)
		session_step_parked(move);
	if (move->left) /* whether it can go on at the new server may be known now */
		gate_check_drained(session_database(move));
}

bool session_outdated(const struct client *client)
{
	return client->in_session && client->server != NULL &&
	       (client->server->unlisted ||
	        client->server->born <= client->pool->database->reconnect_at);
}

bool session_shall_reconnect(const struct session_move *move)
{
	const struct client *client = move->client;
	const struct database *database = client->pool->database;

	return !database->held && session_outdated(client) &&
	       (move->kept_at == 0 || client->worker->now - move->kept_at >= KEPT_FOR);
}

bool session_at_safe_point(struct client *client)
{
	struct database *database = client->pool->database;
	struct session_move *move;

	if (database->paused) {
		gate_check_drained(database);
		return false;
	}
	if (client->replication != 0)
		return false;
	move = client->move;
	if (move == NULL && (database->held || pool_outdated(client->pool, client->server)))
		move = session_move_get(client);
	if (move == NULL)
		return false;
	if (!move->wanted && session_shall_reconnect(move))
		move->reconnect = true;
	session_step(move);
	return client->server == NULL || client->doomed;
}
