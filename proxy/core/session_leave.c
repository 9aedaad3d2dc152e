/* SPDX-License-Identifier: PostgreSQL */
/*
 * Sessions that leave their servers before a hold.  Each server connection costs the hold
 * something: it is looked for and sealed (seal.h), or its backend has to end, which takes its host
 * about a millisecond.  A session that is idle, and that could go on at the new server as it is,
 * needs its old one no more.  Worker thread.
 *
 * What was set up for it at the new server is its only one: when that ends, it is set up there once more,
 * in a hold before that counts as drained.  If the new server does not take it, it goes back.
 *
 * What no server tells of a session (README) is lost then even if the swap is given up; pinned ones
 * do not leave, nor those with something that lives in their server alone, nor those with statements
 * of PREPARE: what cannot be set up again when it comes back its client is to notice only where its
 * old server would have told it (session_return.c), and EXECUTE cannot be told from other texts.
 */
#include "core/session_internal.h"

#include "base/log.h"
#include "core/boot.h"
#include "core/route.h"
#include "core/server.h"
#include "core/share.h"
#include "core/worker.h"

#include <event2/event.h>
#include <string.h>

/* One of so many at a time: all have left within two seconds, and nobody else feels it. */
#define LEAVE_ONE_OF 400
#define LEAVE_SPAN (5 * USEC_PER_MSEC)
/* A hold that has not come by then has other worries. */
#define LEAVE_MAX (30 * USEC_PER_SEC)

/* So many connections to the new server at a time, when those that had been opened for them have gone. */
#define OPEN_AT_ONCE 16

bool session_rests(const struct client *client)
{
	const struct session_move *move = client->move;
	struct database *database = client->pool->database;

	if (move == NULL || !move->left || client->state == CLIENT_WAITING)
		return false;
	if (database->held)
		return true;
	/* A swap is to come, which can take it along; or they come back, a few at a time. */
	if (database->swap_target != NULL && move->class != SESSION_PINNED)
		return true;
	if (move->fresh != NULL && gate_server_current(move->fresh))
		return false;
	return move->asked == NULL && database->session_returns == 0;
}

/* At the server of the swap to come, not at the one that it is on its way back to. */
static bool leave_is_proven(const struct session_move *move)
{
	return move->stage == SESSION_STAGE_DONE && move->fresh->for_swap;
}

bool session_unproven(const struct session_move *move)
{
	const struct database *database = move->client->pool->database;

	return move->left && !leave_is_proven(move) && move->class != SESSION_PINNED &&
	       !database->swapped && database->swap_target != NULL && !database->swap_trial &&
	       (!database->held || move->fresh != NULL || database->swap_pending > 0 ||
		list_linked(&move->queued) || move->ahead_epoch != database->hold_epoch);
}

bool session_some_unproven(const struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->sessions, node, tmp)
	{
		if (session_unproven(CONTAINER_OF(node, struct session_move, node)))
			return true;
	}
	return false;
}

void session_turn_round(struct session_move *move)
{
	if (move->fresh != NULL && !move->fresh->for_swap)
		session_drop_fresh(move);
	move->retry_at = 0;
}

void session_open_again(struct session_move *move)
{
	struct pool *pool = move->client->pool;
	struct database *database = pool->database;
	struct param_set *boot;

	if (!session_unproven(move))
		return;
	if (database->held && move->fresh != NULL && !move->fresh->for_swap)
		session_turn_round(move);
	if (move->fresh != NULL || pool->worker->now < move->retry_at ||
	    database->swap_pending >= OPEN_AT_ONCE)
		return;
	move->retry_at = pool->worker->now + SESSION_RETRY_AFTER;
	if (boot_swap_missing(pool, &boot) > 0)
		(void)!gate_prepare_one(pool);
	if (database->held)
		move->ahead_epoch = database->hold_epoch;
}

void session_called(struct client *client)
{
	struct session_move *move = client->move;

	if (client->pool->database->held)
		return;
	if (list_linked(&move->queued) && move->later)
		session_dequeue(move); /* now somebody waits for it */
	else if (!move->left)
		return;
	session_enqueue(move, client->pool->database);
}

void session_give_place(struct session_move *move)
{
	if (!move->placed)
		return;
	move->placed = false;
	pool_share_give_back(move->client->pool->share);
}

static bool session_may_leave(const struct session_move *move, usec_t idle)
{
	const struct client *client = move->client;
	const struct server *server = client->server;

	return !move->parked && move->asked == NULL && !move->wanted && !move->reconnect &&
	       move->class != SESSION_PINNED && move->state != NULL && move->fresh != NULL &&
	       move->fresh->for_swap && move->stage == SESSION_STAGE_DONE &&
	       strcmp(move->digest_fresh, move->digest) == 0 &&
	       session_state_bound(move->state) == NULL &&
	       session_state_count_kind(move->state, SESSION_SQL_STATEMENT) == 0 && !client->doomed && server != NULL &&
	       !server->doomed && !server->cancelling && server_quiet(server) &&
	       session_known(move, server) && client->worker->now - server->ready_at >= idle &&
	       conn_unsent(&server->conn) == 0 && conn_unsent(&client->conn) == 0 &&
	       conn_kept(&client->conn) == 0;
}

static void session_leave(struct session_move *move)
{
	struct server *server = move->client->server;
	char name[128];

	log_info("%s: leaves server %s pid %d before the hold, state %.16s",
	         session_name(move, name), server->target->name, (int)server->backend_pid,
	         move->digest);
	move->left = true;
	session_park(move);
	/* It comes back to a pool that may be full by then. */
	move->placed = server->counted;
	server->counted = false;
	move->old = NULL;
	server->move = NULL;
	server_doom(server, SERVER_CLOSE_MOVED);
	session_enqueue(move, session_database(move));
}

/* False: nobody is left who may. */
static bool leave_some(struct database *database, usec_t idle)
{
	size_t left = 1 + database->sessions.count / LEAVE_ONE_OF;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (!session_may_leave(move, idle))
			continue;
		if (left == 0)
			return true;
		session_leave(move);
		left--;
	}
	return false;
}

static void leave_on_timer(evutil_socket_t fd, short what, void *arg);

static void leave_next(struct database *database)
{
	const struct timeval span = {0, LEAVE_SPAN};
	const usec_t idle = database->worker->routes->config->proxy.session_leave_after;

	database->leaving = false;
	if (idle == 0 || database->held || database->swap_target == NULL || !database->swap_leave ||
	    database->worker->now >= database->leave_end)
		return;
	if (database->leave_timer == NULL)
		database->leave_timer =
		    event_new(database->worker->base, -1, 0, leave_on_timer, database);
	if (database->leave_timer == NULL || event_add(database->leave_timer, &span) != 0)
		return;
	database->leaving = database->swap_pending > 0 || leave_some(database, idle);
}

static void leave_on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct database *database = arg;
	struct worker *worker = database->worker;

	(void)fd;
	(void)what;
	worker->now = clock_now();
	leave_next(database);
	gate_prepare_report(database);
	worker_end_turn(worker);
}

bool session_leave_begin(struct database *database)
{
	if (!database->swap_leave)
		return false;
	if (database->leave_end == 0) {
		database->leave_end = database->worker->now + LEAVE_MAX;
		leave_next(database);
	}
	return database->leaving;
}
