/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_move.h"

#include "base/log.h"
#include "core/client.h"
#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_see.h"
#include "core/worker.h"
#include "session/inspect.h"
#include "session/locks.h"
#include "session/stmts.h"
#include "wire/build.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Before the next attempt to open a server for a session that waits for one. */
#define RETRY_AFTER (200 * USEC_PER_MSEC)

static struct database *session_database(const struct session_move *move)
{
	return move->client->pool->database;
}

static const char *session_name(const struct session_move *move, char text[128])
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

	if (move == NULL)
		return;
	database = session_database(move);
	session_settle_over(move);
	session_drop_fresh(move);
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
	session_settled(move);
	if (list_linked(&move->queued))
		list_remove(&database->session_queue, &move->queued);
	list_remove(&database->sessions, &move->node);
	session_state_free(move->state);
	session_state_free(move->answer);
	free(move->what);
	free(move->why);
	free(move->failure);
	free(move->moved_from);
	free(move->moved_to);
	free(move->lost);
	free(move);
	client->move = NULL;
}

void session_server_lost(struct server *server)
{
	struct session_move *move = server->move;

	if (move == NULL)
		return;
	server->move = NULL;
	if (server == move->asked)
		session_ask_over(move);
	if (server == move->fresh) {
		move->fresh = NULL;
		move->stage = SESSION_STAGE_NONE;
		move->retry_at = server->worker->now + RETRY_AFTER;
	}
	if (server == move->old) {
		move->old = NULL;
		session_settle_over(move);
	}
	session_enqueue(move, session_database(move));
}

void session_drop(struct session_move *move, const char *why)
{
	char detail[1024];
	char name[128];

	(void)snprintf(detail, sizeof(detail),
	               "The database was moved to another server, and this session could not be "
	               "taken along: %s.",
	               why);
	log_warning("%s: dropped: %s", session_name(move, name), why);
	session_settled(move);
	client_doom_fatal(move->client, CLIENT_CLOSE_TERMINATED, "57P01",
	                  "terminating connection due to administrator command", detail,
	                  "Connect again.");
}

/* ---- what is known of a session ---- */

const char *session_why(const struct session_move *move)
{
	return move->why == NULL ? "" : move->why;
}

/* `text` may be what is there already. */
static void session_set_text(char **slot, const char *text)
{
	char *copy = strdup(text);

	free(*slot);
	*slot = copy;
}

static void session_set_class(struct session_move *move, enum session_class class, const char *what,
                              const char *why)
{
	char name[128];

	if (move->class_since == 0 || move->class != class)
		move->class_since = move->client->worker->now;
	/* Not each time that it is asked. */
	if (class == SESSION_PINNED && (move->class != class || strcmp(session_why(move), why) != 0))
		log_info("%s: pinned: %s", session_name(move, name), why);
	move->class = class;
	session_set_text(&move->what, what);
	session_set_text(&move->why, why);
}

/* A state that has failed once to be set up elsewhere is not tried again while it is the same. */
static void session_note_failure(struct session_move *move, const char *why)
{
	char name[128];

	memcpy(move->digest_failed, move->digest, sizeof(move->digest));
	log_warning("%s: its state cannot be set up on another server: %s",
	            session_name(move, name), why);
	session_set_class(move, SESSION_PINNED, move->what == NULL ? "" : move->what, why);
}

static bool session_has_locks(const struct session_move *move)
{
	return move->state != NULL && session_state_count_kind(move->state, SESSION_LOCK) > 0;
}

static void session_classify_state(struct session_move *move)
{
	struct client *client = move->client;
	const struct config_proxy *conf = &client->worker->routes->config->proxy;
	const struct session_abilities abilities = {
	    .locks = true,
	    .custom_known = conf->session_custom_settings[0] != '\0',
	};
	struct session_verdict verdict;
	struct stmt *unnamed;

	if (!session_seen_unnamed(client, &unnamed)) {
		session_set_class(move, SESSION_PINNED, "", "out of memory");
		return;
	}
	session_verdict_init(&verdict);
	session_classify(move->state, client->facts, unnamed, client->startup, &abilities,
	                 &verdict);
	stmt_unref(unnamed);
	/* One that has failed stays pinned while it is the same, and why it is. */
	if (verdict.class == SESSION_PINNED || move->digest_failed[0] == '\0' ||
	    strcmp(move->digest, move->digest_failed) != 0)
		session_set_class(move, verdict.class, sbuf_text(&verdict.what),
		                  sbuf_text(&verdict.why));
	session_verdict_free(&verdict);
}

/* The state that its own server has told.  False: there is more to be asked first. */
static bool session_take_state(struct session_move *move, struct server *server)
{
	const bool good = move->failure == NULL && !move->unreadable &&
	                  session_state_finish(move->answer);
	char why[1200];

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
	move->digest[0] = '\0';
	if (!good) {
		(void)snprintf(why, sizeof(why), "its state could not be read: %s",
		               move->failure != NULL ? move->failure : "not understood");
		session_set_class(move, SESSION_PINNED, "", why);
		return move->failure == NULL || !session_ask(move, server, SESSION_ASKS_CLEANUP);
	}
	move->state = move->answer;
	move->answer = NULL;
	session_state_digest(move->state, move->digest);
	session_classify_state(move);
	return true;
}

static bool session_known(const struct session_move *move, const struct server *server)
{
	return move->class_since != 0 && move->ready_at == server->ready_at;
}

/* ---- a server for it ---- */

/* Dials one that is not counted in the pool's limit: the old one is closed for it. */
static void session_dial(struct session_move *move)
{
	struct pool *pool = move->client->pool;
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	struct server *server;

	if (route == NULL || pool->worker->now < move->retry_at ||
	    pool->worker->now < pool->retry_at)
		return;
	move->retry_at = pool->worker->now + RETRY_AFTER;
	server = server_dial(pool, pool->worker->routes, route->server, true);
	if (server == NULL)
		return;
	server->for_swap = false;
	if (server->doomed)
		return;
	param_set_replace(&server->boot, param_set_ref(move->client->boot));
	server->move = move;
	move->fresh = server;
	move->stage = SESSION_STAGE_NONE;
}

/* One that PREPARE SWAP has opened, with the startup parameters of such a client. */
static struct server *session_take_open(struct session_move *move)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&move->client->pool->servers[SERVER_PREPARED], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (server->boot == move->client->boot)
			return server;
	}
	return NULL;
}

/* Makes sure of a server to move to, as far as there can be one now. */
static void session_find_fresh(struct session_move *move)
{
	struct database *database = session_database(move);
	struct server *server;
	bool leaves = database->held ? database->swapped
	                             : move->reconnect ||
	                                   (move->parked &&
	                                    (move->old == NULL || !gate_server_current(move->old)));

	if (move->fresh != NULL)
		return;
	server = database->swap_target != NULL ? session_take_open(move) : NULL;
	if (server != NULL) {
		server->move = move;
		move->fresh = server;
		move->stage = SESSION_STAGE_OPEN;
		server_set_state(server, SERVER_PARKED);
	} else if (leaves) {
		session_dial(move);
	}
}

void session_server_ready(struct server *server)
{
	struct session_move *move = server->move;

	server_set_state(server, SERVER_PARKED);
	move->stage = SESSION_STAGE_OPEN;
	session_step(move);
}

/* ---- parked and back ---- */

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

void session_park(struct session_move *move)
{
	struct client *client = move->client;
	struct server *server = client->server;

	move->parked = true;
	move->old = server;
	(void)snprintf(move->from, sizeof(move->from), "%s", server->target->name);
	server->move = move;
	client->pool->parked++;
	server_set_state(server, SERVER_PARKED);
	client_set_state(client, CLIENT_IDLE);
	server_unlink(server);
	session_settled(move);
	client_go_on(client); /* what it has asked waits for a server from now on */
}

/* Links it again, with its old server or the new one. */
static void session_link(struct session_move *move, struct server *server)
{
	struct client *client = move->client;

	assert(move->parked && server->client == NULL);
	move->parked = false;
	move->drop = false;
	move->lossy = false;
	move->pass = false;
	client->pool->parked--;
	server->move = NULL;
	server_link(server, client);
	/* Its first request must not go to any other server. */
	resend_forget(server);
	client->in_session = true;
	move->ready_at = server->ready_at;
}

void session_unpark(struct session_move *move)
{
	struct server *server = move->old;

	move->old = NULL;
	session_link(move, server);
	client_go_on(move->client);
}

/* What the new server reports otherwise than the old one did. */
static bool session_tell_parameters(struct session_move *move, struct server *server)
{
	struct client *client = move->client;
	struct worker *worker = client->worker;
	struct param_set *settled =
	    param_set_settle(worker->params, client->params, server->params);
	enum conn_io io = CONN_IO_OK;
	struct sbuf out;

	if (settled == NULL)
		return false;
	sbuf_init(&out, PARAM_MAX_SQL);
	if (param_set_write_status_diff(settled, client->params, &out) > 0)
		io = sbuf_ok(&out) ? conn_send_copy(&worker->to_client, &client->conn, worker,
		                                    sbuf_text(&out), out.len)
		                   : CONN_IO_ERROR;
	sbuf_free(&out);
	param_set_replace(&server->params, param_set_ref(settled));
	param_set_replace(&client->params, settled);
	return io == CONN_IO_OK;
}

static void session_tell_loss(struct session_move *move)
{
	struct client *client = move->client;
	struct worker *worker = client->worker;
	char detail[1024];
	const struct wire_error notice = {
	    .severity = "WARNING",
	    .sqlstate = "01000",
	    .message = "this session was moved to another server without all of its state",
	    .detail = detail};
	struct sbuf out;

	(void)snprintf(detail, sizeof(detail), "Lost: %s.", session_why(move));
	sbuf_init(&out, 8192);
	wire_add_notice(&out, &notice);
	if (!sbuf_ok(&out) || conn_send_copy(&worker->to_client, &client->conn, worker,
	                                     sbuf_text(&out), out.len) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(&out);
}

static void session_note_text(char **slot, const char *text)
{
	free(*slot);
	*slot = text == NULL ? NULL : strdup(text);
}

/* For SHOW SESSIONS. */
static void session_note_move(struct session_move *move, const char *lost)
{
	move->moved_at = move->client->worker->now;
	session_note_text(&move->moved_from, move->from);
	session_note_text(&move->moved_to, move->fresh->target->name);
	session_note_text(&move->lost, lost);
}

/* The client goes on at the new server. */
static void session_finish(struct session_move *move)
{
	struct client *client = move->client;
	struct server *old = move->old;
	struct server *fresh = move->fresh;
	bool lossy = move->lossy;
	char name[128];

	move->reconnect = false;
	memcpy(move->digest_before, move->digest, sizeof(move->digest));
	memcpy(move->digest_after, move->digest_told, sizeof(move->digest_told));
	session_note_move(move, lossy ? session_why(move) : NULL);
	move->old = NULL;
	move->fresh = NULL;
	move->stage = SESSION_STAGE_NONE;
	if (!fresh->counted) {
		fresh->counted = true;
		pool_share_add(client->pool->share);
	}
	if (old != NULL) {
		old->move = NULL;
		server_doom(old, SERVER_CLOSE_MOVED);
	}
	log_info("%s: moved to server %s pid %d, state %.16s%s", session_name(move, name),
	         fresh->target->name, (int)fresh->backend_pid, move->digest_after,
	         lossy ? ", not all of it" : "");
	session_link(move, fresh);
	if (!session_tell_parameters(move, fresh)) {
		client_doom(client, CLIENT_CLOSE_IO);
		return;
	}
	if (lossy)
		session_tell_loss(move);
	if (conn_flush(&client->worker->to_client, client->worker) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	client_go_on(client);
}

/* ---- pinned ---- */

/* The main thread is to end the hold. */
static void session_tell_abort(struct session_move *move)
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

/* Pinned, in a hold; linked, or found out when it was parked already. */
static void session_apply_policy(struct session_move *move)
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

/* ---- answers ---- */

/* It cannot be set up there. */
void session_failed(struct session_move *move, const char *why)
{
	bool back = move->old != NULL && gate_server_current(move->old);

	session_note_failure(move, why);
	move->reconnect = false;
	session_drop_fresh(move);
	if (!move->parked)
		return; /* what to do about it is decided at the next step */
	if (!back)
		session_drop(move, session_why(move));
	else if (!session_database(move)->held)
		session_unpark(move);
	else
		session_apply_policy(move);
}

static void session_refused(struct session_move *move)
{
	char why[1200];

	(void)snprintf(why, sizeof(why), "the new server refused a part of it: %s", move->failure);
	session_failed(move, why);
}

/* The same question was answered by the new server: are they equal?  False: it is asked again. */
static bool session_compare(struct session_move *move)
{
	char why[1200];
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
	if (move->unreadable || !session_state_finish(move->answer)) {
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
	(void)snprintf(why, sizeof(why), "it came out differently on the new server: %s",
	               sbuf_text(&text));
	sbuf_free(&text);
	session_failed(move, why);
	return true;
}

/* What a standby allows has been set up there. */
static void session_compare_standby(struct session_move *move)
{
	char why[1200];
	struct sbuf text;

	if (move->failure != NULL && !move->lossy) {
		session_refused(move);
		return;
	}
	move->stage = SESSION_STAGE_STANDBY;
	if (move->answer == NULL || move->lossy || move->unreadable ||
	    !session_state_finish(move->answer) || session_state_again(move->answer))
		return; /* it is compared after the promotion */
	sbuf_init(&text, 1000);
	if (!session_state_same(move->state, move->answer, REPLAY_ON_STANDBY, &text)) {
		(void)snprintf(why, sizeof(why), "it came out differently on the new server: %s",
			       sbuf_text(&text));
		session_failed(move, why);
	}
	sbuf_free(&text);
}

/* How often the session has each of its locks. */
static void session_take_locks(struct session_move *move, struct server *server)
{
	struct sbuf why;

	sbuf_init(&why, 1000);
	if (move->failure != NULL)
		sbuf_printf(&why, "its advisory locks could not be counted: %s", move->failure);
	else if (!locks_counted(move->state, &why) && why.len == 0)
		sbuf_add_str(&why, "its advisory locks could not be counted");
	if (why.len > 0) {
		session_set_class(move, SESSION_PINNED, move->what == NULL ? "" : move->what,
				  sbuf_text(&why));
		/* Not without them, either: what cannot be written down cannot be moved. */
		if (move->client->pool->session_pinned == CONFIG_PINNED_DROP ||
		    move->client->pool->session_pinned == CONFIG_PINNED_MOVE_ANYWAY)
			move->drop = true;
		else
			session_tell_abort(move);
	}
	if (move->failure != NULL && move->old != NULL)
		(void)!session_ask(move, server, SESSION_ASKS_CLEANUP);
	sbuf_free(&why);
	session_settle_over(move);
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
		break;
	case SESSION_ASKS_LOCKS:
		session_take_locks(move, server);
		return move->asked == NULL;
	case SESSION_ASKS_STANDBY:
		session_compare_standby(move);
		break;
	case SESSION_ASKS_REST:
	case SESSION_ASKS_AGAIN:
		return session_compare(move);
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

/* ---- what to do next ---- */

/* Gives the fresh server what a standby allows.  True: it has that; false: it is on its way. */
static bool session_set_up(struct session_move *move)
{
	const bool current =
	    move->stage >= SESSION_STAGE_STANDBY && strcmp(move->digest_fresh, move->digest) == 0;

	if (current)
		return true;
	if (!session_ask(move, move->fresh, SESSION_ASKS_STANDBY))
		return false;
	memcpy(move->digest_fresh, move->digest, sizeof(move->digest));
	if (move->asked != NULL)
		return false;
	move->stage = SESSION_STAGE_STANDBY; /* there was nothing to say */
	return true;
}

/* The database is held, and the state known: off its server, or what is decided for pinned ones. */
static void session_step_held(struct session_move *move)
{
	if (move->class == SESSION_PINNED) {
		session_apply_policy(move);
		return;
	}
	move->pass = false;
	session_find_fresh(move);
	/* What cannot be set up is to be known before anything has happened. */
	if (move->fresh == NULL || move->stage == SESSION_STAGE_NONE || session_set_up(move))
		session_park(move);
}

static void session_step_linked(struct session_move *move)
{
	struct client *client = move->client;
	struct server *server = client->server;
	struct database *database = session_database(move);
	const bool held = database->held && !database->paused;

	if (server == NULL || server->doomed || server->cancelling || !server_quiet(server)) {
		session_settled(move); /* it comes back at its safe point, and is not waited for */
		return;
	}
	if (!session_known(move, server)) {
		if (server->ready_at != move->asked_ready_at)
			move->neutral = false;
		move->asked_ready_at = server->ready_at;
		if (held || move->wanted || move->reconnect)
			(void)!session_ask(move, server, SESSION_ASKS_STATE);
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
		session_settled(move);
		return;
	}
	if (database->swap_target == NULL && !move->reconnect) {
		session_settled(move);
		return;
	}
	session_find_fresh(move);
	if (move->fresh == NULL || move->stage == SESSION_STAGE_NONE || !session_set_up(move)) {
		if (move->fresh == NULL && database->swap_pending == 0)
			session_settled(move); /* it will have to be dialled after the swap */
		return;
	}
	session_settled(move);
	if (move->reconnect)
		session_park(move);
}

static void session_step_parked(struct session_move *move)
{
	struct database *database = session_database(move);

	if (move->settle) {
		if (!session_ask(move, move->old,
				 session_has_locks(move) ? SESSION_ASKS_LOCKS
							 : SESSION_ASKS_NEWS) ||
		    move->asked != NULL)
			return;
	}
	if (move->drop || move->state == NULL)
		return;
	session_find_fresh(move);
	if (move->fresh == NULL || move->stage == SESSION_STAGE_NONE || !session_set_up(move))
		return;
	if (move->stage == SESSION_STAGE_STANDBY && gate_server_current(move->fresh) &&
	    !session_ask(move, move->fresh, SESSION_ASKS_REST))
		return;
	if (move->stage == SESSION_STAGE_DONE && !database->held)
		session_finish(move);
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
	if (!database->held && !move->wanted && client->server->born <= database->reconnect_at)
		move->reconnect = true;
	session_step(move);
	return client->server == NULL || client->doomed;
}
