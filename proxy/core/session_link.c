/* SPDX-License-Identifier: PostgreSQL */
/*
 * From one server to the other: the server that a session is to go to, the client taken off its own
 * (parked), back to it, or linked with the other one and told what is different there.
 */
#include "core/session_internal.h"

#include "base/log.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/server.h"
#include "core/session_carry.h"
#include "core/session_lost.h"
#include "core/session_notes.h"
#include "core/session_see.h"
#include "core/worker.h"
#include "session/shapes.h"
#include "session/stmts.h"
#include "wire/build.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a server for it ---- */

/* So many at a time, in a worker: when hundreds come back each takes its host a process to start. */
#define DIALS_AT_ONCE 16

void session_dial_over(struct session_move *move)
{
	struct database *database = session_database(move);

	if (!move->dialling)
		return;
	move->dialling = false;
	database->session_dials--;
	if (session_some_queued(database))
		session_wake(database);
}

/* Dials one that is not counted in the pool's limit: the old one is closed for it. */
static void session_dial(struct session_move *move)
{
	struct pool *pool = move->client->pool;
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	struct server *server;

	if (route == NULL || pool->worker->now < move->retry_at ||
	    pool->worker->now < pool->retry_at)
		return;
	if (pool->database->session_dials >= DIALS_AT_ONCE) {
		session_line_up(move, pool->database); /* until session_dial_over() */
		return;
	}
	move->retry_at = pool->worker->now + SESSION_RETRY_AFTER;
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
	move->dialling = true;
	pool->database->session_dials++;
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

void session_find_fresh(struct session_move *move)
{
	struct database *database = session_database(move);
	struct server *server;
	/* It has lost its server, and nobody holds it: it is to go on where its database is now. */
	const bool rests = session_rests(move->client);
	const bool held = database->held && !database->sessions_returning;
	const bool goes_on = !held && move->parked && move->old == NULL && !rests;
	const bool leaves =
	    held ? database->swapped
	         : goes_on || move->reconnect ||
	               (move->parked && move->old != NULL && !session_has_way_back(move));

	/* To where its database is now, not to where a swap to come will lead. */
	const bool here = leaves && !held;

	if (!here)
		session_open_again(move);
	if (rests && (database->swap_target == NULL || database->swapped ||
		      move->class == SESSION_PINNED))
		return; /* what it has is all it needs, or it is found when it goes on */
	if (goes_on && move->left && move->client->state != CLIENT_WAITING && move->fresh == NULL &&
	    database->session_returns > 0)
		database->session_returns--;
	/* What was prepared for a swap is of no use when a RELOAD has led the database elsewhere.
	 */
	if (leaves && move->fresh != NULL && !gate_server_current(move->fresh)) {
		session_drop_fresh(move);
		move->retry_at = 0;
	}
	if (move->fresh != NULL)
		return;
	server = database->swap_target != NULL && !here ? session_take_open(move) : NULL;
	if (server != NULL && (!leaves || gate_server_current(server))) {
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
	session_dial_over(move);
	session_step(move);
}

void session_note_unnamed(struct session_move *move, struct stmt *unnamed)
{
	struct stmt *before = move->unnamed_fresh;

	move->unnamed_fresh = unnamed == NULL ? NULL : stmt_ref(unnamed);
	stmt_unref(before);
}

bool session_has_unnamed(struct session_move *move)
{
	struct stmt *unnamed;
	bool same;

	if (!session_seen_unnamed(move->client, &unnamed))
		return false;
	same = unnamed == move->unnamed_fresh; /* equal ones are one (session/stmts.h) */
	stmt_unref(unnamed);
	return same;
}

/* ---- parked and back ---- */

void session_count_rest(struct session_move *move)
{
	const bool goes_back = session_database(move)->sessions_returning && move->old != NULL;
	/* What it has where a swap to come would lead is of no use if that does not come. */
	const bool claimed =
	    move->stage >= SESSION_STAGE_CLAIMED && gate_server_current(move->fresh);
	const bool rest = move->parked && !goes_back && !claimed && session_has_claims(move);

	if (rest == move->rest)
		return;
	move->rest = rest;
	(void)atomic_fetch_add(&session_database(move)->share->rest, rest ? 1 : -1);
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
	session_count_rest(move);
	session_settled(move);
	client_go_on(client); /* what it has asked waits for a server from now on */
}

const char *session_unrecoverable(const struct server *server)
{
	const struct session_move *move = server->client->move;

	if (move == NULL || move->state == NULL || !session_known(move, server) ||
	    !server_quiet(server) || conn_unsent(&server->conn) > 0)
		return "active since it was asked, or not asked yet";
	if (move->parked || move->asked != NULL)
		return "being asked or moved";
	if (move->class == SESSION_PINNED)
		return "pinned";
	return session_state_bound(move->state);
}

bool session_recovers(const struct server *server)
{
	return server->client->in_session &&
	       server->worker->routes->config->proxy.session_recover_after > 0 &&
	       session_unrecoverable(server) == NULL;
}

void session_recover(struct server *server)
{
	struct client *client = server->client;
	struct session_move *move = client->move;

	client_log(client, LOG_LEVEL_INFO, "server pid %d ended: the session is set up on another one",
	           (int)server->backend_pid);
	move->parked = true;
	move->reconnect = false;
	(void)snprintf(move->from, sizeof(move->from), "%s", server->target->name);
	client->pool->parked++;
	client_set_state(client, CLIENT_IDLE);
	server_unlink(server);
	session_settled(move);
	session_enqueue(move, session_database(move));
	client_go_on(client);
}

/* Links it again, with its old server or the new one. */
static void session_link(struct session_move *move, struct server *server)
{
	struct client *client = move->client;

	assert(move->parked && server->client == NULL);
	move->parked = false;
	session_count_rest(move);
	move->drop = false;
	move->lossy = false;
	move->pass = false;
	move->left = false;
	move->claims_since = 0;
	move->claims_at = 0;
	move->broken_claims = false;
	client->pool->parked--;
	if (move->asked != server) /* else the answer is still to come */
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
	session_carry_drop(move);
	if (move->fresh != NULL && !move->fresh->for_swap)
		session_drop_fresh(move);
	session_link(move, server);
	session_notes_stay(move);
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

/* Statements that its old server would have refused. */
static bool session_keep_changed(struct session_move *move)
{
	struct stmt *unnamed;
	bool changed;
	size_t i;

	if (!session_seen_unnamed(move->client, &unnamed))
		return false;
	changed = unnamed != NULL && move->unnamed_changed;
	stmt_unref(unnamed);
	if (changed && !session_lost_add_changed(move->client, "", move->unnamed_types))
		return false;
	for (i = 0; i < session_state_count(move->state); i++) {
		const struct session_row *row = session_state_at(move->state, i);

		if (shapes_is_refused(row) &&
		    !session_lost_add_changed(move->client, row->name, row->extra))
			return false;
	}
	return true;
}

static void session_tell_loss(struct session_move *move, const char *message, const char *lost)
{
	struct client *client = move->client;
	struct worker *worker = client->worker;
	char detail[1024];
	const struct wire_error notice = {.severity = "WARNING",
	                                  .sqlstate = "01000",
	                                  .message = message,
	                                  .detail = detail};
	struct sbuf out;

	(void)snprintf(detail, sizeof(detail), "Lost: %s.", lost);
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

void session_arrive(struct session_move *move)
{
	struct client *client = move->client;
	struct server *old = move->old;
	struct server *fresh = move->fresh;
	struct database *database = session_database(move);
	bool lossy = move->lossy;
	char name[128];

	move->reconnect = false;
	session_carry_drop(move);
	memcpy(move->digest_before, move->digest, sizeof(move->digest));
	memcpy(move->digest_after, move->digest_told, sizeof(move->digest_told));
	session_note_move(move, lossy ? session_why(move) : move->forgone);
	move->old = NULL;
	move->fresh = NULL;
	move->stage = SESSION_STAGE_NONE;
	session_note_unnamed(move, NULL);
	if (!fresh->counted) {
		fresh->counted = true;
		if (move->placed)
			move->placed = false;
		else
			pool_share_add(client->pool->share);
	}
	session_give_place(move);
	if (old != NULL) {
		old->move = NULL;
		if (old->sealed_at == 0 || !seal_server(old)) /* else it is closed by and by */
			server_doom(old, SERVER_CLOSE_MOVED);
	}
	log_info("%s: moved to server %s pid %d, state %.16s%s", session_name(move, name),
	         fresh->target->name, (int)fresh->backend_pid, move->digest_after,
	         lossy ? ", not all of it" : "");
	session_link(move, fresh);
	session_notes_arrive(move);
	if (!session_keep_changed(move)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	if (!session_tell_parameters(move, fresh)) {
		client_doom(client, CLIENT_CLOSE_IO);
		return;
	}
	if (lossy)
		session_tell_loss(
		    move, "this session was moved to another server without all of its state",
		    session_why(move));
	if (move->forgone != NULL)
		session_tell_loss(
		    move, "this session was set up anew on its server without all of its state",
		    move->forgone);
	free(move->forgone);
	move->forgone = NULL;
	move->apart = false;
	/* For the one of the swap to come that it had, and has given up. */
	if (database->swap_target != NULL && !database->swap_trial)
		(void)!gate_prepare_one(client->pool);
	if (conn_flush(&client->worker->to_client, client->worker) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	client_go_on(client);
}
