/* SPDX-License-Identifier: PostgreSQL */
/*
 * All sessions of a database in this worker: what PREPARE SWAP, a hold, new routes, a release and
 * RECONNECT mean to them.  Who has to wait until others have been answered stands in the database's
 * queue; it is worked off by an event, never inside of what made room.  Worker thread.
 */
#include "base/log.h"
#include "core/boot.h"
#include "core/client.h"
#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/server.h"
#include "core/session_carry.h"
#include "core/session_internal.h"
#include "core/view.h"
#include "core/worker.h"

#include <stdlib.h>

/* SHOW SESSIONS waits no longer for a server that does not answer. */
#define VIEW_WAIT USEC_PER_SEC

/* With a swap prepared, a session that was idle for so long since its last transaction is asked again:
 * the hold, in which clients wait for it, has less to ask. */
#define REFRESH_IDLE (50 * USEC_PER_MSEC)
/* So many at a tick: servers have other work. */
#define REFRESH_AT_ONCE 16
/* … of those that left for a swap that was given up. */
#define RETURN_AT_ONCE 4

/* ---- the queue ---- */

static void session_work_off(const struct list *list)
{
	size_t left = list->count; /* who queues again waits for the next time */

	while (left-- > 0 && list->count > 0) {
		struct session_move *move =
		    CONTAINER_OF(list_first(list), struct session_move, queued);

		if (session_ask_room(move) == 0)
			return;
		session_dequeue(move);
		session_step(move);
	}
}

static void session_work(evutil_socket_t fd, short what, void *arg)
{
	struct database *database = arg;
	struct worker *worker = database->worker;

	(void)fd;
	(void)what;
	worker->now = clock_now();
	session_work_off(&database->session_queue);
	session_work_off(&database->session_later);
	worker_end_turn(worker);
}

void session_wake(struct database *database)
{
	if (database->session_event == NULL)
		database->session_event =
		    event_new(database->worker->base, -1, 0, session_work, database);
	if (database->session_event != NULL && !database->worker->stopping)
		event_active(database->session_event, EV_TIMEOUT, 0);
}

void session_line_up(struct session_move *move, struct database *database)
{
	if (list_linked(&move->queued))
		return;
	move->later = !session_waits(move);
	list_append(move->later ? &database->session_later : &database->session_queue,
	            &move->queued);
}

void session_enqueue(struct session_move *move, struct database *database)
{
	session_line_up(move, database);
	if (session_ask_room(move) > 0)
		session_wake(database);
}

void session_dequeue(struct session_move *move)
{
	struct database *database = session_database(move);

	if (list_linked(&move->queued))
		list_remove(move->later ? &database->session_later : &database->session_queue,
		            &move->queued);
}

bool session_some_queued(const struct database *database)
{
	return database->session_queue.count + database->session_later.count > 0;
}

void session_enqueue_soon(struct session_move *move, struct database *database)
{
	static const struct timeval soon = {0, USEC_PER_MSEC};

	session_line_up(move, database);
	/* Not session_wake(): an event that makes itself active is called again before the loop
	 * looks what else there is. */
	if (database->session_event != NULL && !database->worker->stopping)
		(void)event_add(database->session_event, &soon);
}

void session_gate_free(struct database *database)
{
	if (database->session_event != NULL)
		event_free(database->session_event);
	database->session_event = NULL;
	if (database->leave_timer != NULL)
		event_free(database->leave_timer);
	while (database->session_views != NULL) {
		struct mail_view *mail = database->session_views;

		database->session_views = mail->next;
		free(mail->database);
		free(mail);
	}
}

/* ---- all of them ---- */

void session_watch(struct database *database)
{
	database->sessions_watched = database->held || database->swap_target != NULL ||
	                             database->sessions_pending > 0 ||
	                             database->sessions_reconnecting;
}

static void session_answer_views(struct database *database)
{
	while (database->session_views != NULL) {
		struct mail_view *mail = database->session_views;

		database->session_views = mail->next;
		view_answer_now(database->worker, mail);
	}
}

void session_settled(struct session_move *move)
{
	struct database *database = move->client->pool->database;

	if (!move->pending)
		return;
	move->pending = false;
	database->sessions_pending--;
	if (database->sessions_pending > 0)
		return;
	gate_prepare_report(database);
	session_answer_views(database);
}

/* Every client that has a server for its session. */
static void session_for_each(struct database *database, void (*act)(struct session_move *move))
{
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);

		LIST_FOREACH(&pool->clients[CLIENT_ACTIVE], at, next)
		{
			struct client *client = CONTAINER_OF(at, struct client, node);
			struct session_move *move = client->in_session && client->replication == 0
			                                ? session_move_get(client)
			                                : NULL;

			if (move != NULL)
				act(move);
		}
	}
}

static void session_prepare_one(struct session_move *move)
{
	struct database *database = move->client->pool->database;

	move->wanted = true;
	/* One in the middle of a transaction is not waited for: its turn comes when that ends. */
	if (!move->pending && server_quiet(move->client->server)) {
		move->pending = true;
		database->sessions_pending++;
	}
	session_enqueue(move, database);
}

/* A session that is known, has none yet, and for whose client it was opened takes it. */
void session_server_prepared(struct server *server)
{
	struct pool *pool = server->pool;
	struct database *database = pool->database;
	struct list_node *node;
	struct list_node *tmp;

	if (!pool->session)
		return;
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (move->client->pool == pool && move->client->boot == server->boot &&
		    move->fresh == NULL && move->asked == NULL && !list_linked(&move->queued) &&
		    move->class_since != 0 && move->class != SESSION_PINNED) {
			session_enqueue(move, database);
			return;
		}
	}
}

void session_all_prepared(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);
		const bool waits = move->pending || (database->held && (!move->parked || move->left) &&
		                                     move->ahead_epoch == database->hold_epoch);

		if (waits && move->fresh == NULL && move->asked == NULL)
			session_enqueue(move, database);
	}
}

static void session_prepare_anew(struct session_move *move)
{
	session_try_again(move, true);
	session_prepare_one(move);
}

void session_prepare(struct database *database)
{
	session_for_each(database, session_prepare_anew);
	session_watch(database);
}

bool session_look(struct worker *worker, struct mail_view *mail)
{
	struct database *database =
	    mail->database == NULL ? NULL : database_find(worker, mail->database);

	/* In a hold they are asked anyway, and held for the answer. */
	if (database == NULL || database->held)
		return false;
	session_for_each(database, session_prepare_one);
	session_watch(database);
	if (database->sessions_pending == 0)
		return false;
	if (database->session_views == NULL)
		database->session_views_at = worker->now;
	mail->next = database->session_views;
	database->session_views = mail;
	return true;
}

static void session_hold_one(struct session_move *move)
{
	move->told_abort = false;
	move->pass = false;
	session_enqueue(move, move->client->pool->database);
}

void session_hold(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	database->settled = false;
	database->sessions_returning = false;
	session_watch(database);
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		session_count_rest(CONTAINER_OF(node, struct session_move, node));
	}
	if (database->paused)
		return; /* sessions keep their servers, and what they ask waits */
	session_for_each(database, session_hold_one);
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (!session_unproven(move))
			continue;
		session_turn_round(move);
		session_enqueue(move, database);
	}
}

/* A notification may still be on its way to it, or its locks, of one that is moved though it is
 * pinned, have to be counted. */
static bool session_wants_settling(const struct session_move *move)
{
	return move->parked && !move->drop && move->old != NULL && move->state != NULL &&
	       !session_is_sealed(move) &&
	       (session_state_count_kind(move->state, SESSION_CHANNEL) > 0 ||
	        session_has_uncounted(move));
}

unsigned session_unsettled(const struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;
	unsigned count = 0;

	if (database->settled || database->paused)
		return 0;
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		count += session_wants_settling(CONTAINER_OF(node, struct session_move, node));
	}
	return count;
}

void session_settle(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	database->settled = true;
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (!session_wants_settling(move) || move->settle)
			continue;
		move->settle = true;
		database->sessions_settling++;
		session_enqueue(move, database);
	}
}

void session_settle_over(struct session_move *move)
{
	struct database *database = move->client->pool->database;

	if (!move->settle)
		return;
	move->settle = false;
	database->sessions_settling--;
	gate_check_drained(database);
}

static bool session_may_seal(const struct session_move *move)
{
	return move->parked && !move->settle && move->old != NULL && move->asked != move->old &&
	       move->state != NULL && !session_is_sealed(move);
}

/* A pinned one with temporary objects is ended by the fence, which drops them: they may be of any
 * kind. */
static void session_seal_one(struct session_move *move)
{
	if (move->class == SESSION_PINNED &&
	    session_state_count_kind(move->state, SESSION_TEMPORARY) > 0)
		return;
	if (session_state_count_kind(move->state, SESSION_CHANNEL) > 0)
		(void)!seal_keep(move->old);
	else
		(void)!seal_server(move->old);
}

void session_seal(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (session_may_seal(move))
			session_seal_one(move);
	}
}

static bool session_can_go_back(struct session_move *move)
{
	session_count_rest(move);
	/* RECONNECT moves it all the same, unless others would go on before it has its locks and
	 * channels at the new server: it has them at the old one still, and RECONNECT's turn comes
	 * again. */
	return session_has_way_back(move) && (!move->reconnect || move->rest);
}

/* Without a swap: nobody may go on with it, and others need its place. */
static void session_lose_sealed(struct session_move *move)
{
	if (session_is_sealed(move) && !session_database(move)->swapped)
		server_doom(move->old, SERVER_CLOSE_SEALED);
}

void session_come_back(struct worker *worker, const char *name, uint64_t epoch, bool lapsed)
{
	struct database *database = database_find(worker, name);
	struct list_node *node;
	struct list_node *tmp;

	if (database == NULL || !database->held || database->swapped ||
	    database->hold_epoch != epoch)
		return;
	database->sessions_returning = true;
	if (lapsed)
		database->yields_since = worker->now;
	seal_release(database);
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		session_lose_sealed(move);
		session_count_rest(move);
		if (move->rest)
			session_enqueue(move, database);
	}
}

/* Others go on, and may have its locks, give them back, and notify whom it listens to, before it
 * has all that again: none of which it would ever learn. */
static bool session_is_late(struct session_move *move)
{
	const struct database *database = session_database(move);

	session_count_rest(move);
	/* Where there is no database any more, nobody goes on: pool_tick_removed(). */
	return move->rest && route_find(database->worker->routes, database->name) != NULL;
}

static bool session_lose_claims(struct session_move *move, const char *why)
{
	if (move->client->pool->session_pinned != CONFIG_PINNED_MOVE_ANYWAY) {
		session_drop(move, why);
		return false;
	}
	if (!move->broken_claims)
		session_forgo(move, "advisory locks and channels without a break", why);
	move->broken_claims = true;
	return true;
}

static void session_end_late(struct session_move *move)
{
	if (session_lose_claims(move,
	                        "others went on before it had its advisory locks and channels"))
		session_step(move);
}

bool session_may_claim(struct session_move *move)
{
	const struct database *database = session_database(move);

	if (database->yields_since == 0 ||
	    atomic_load(&database->share->closed_at) >= database->yields_since)
		return true;
	return session_lose_claims(move, "the server was open when the hold ended with its lease: "
	                                 "others may have gone on before it had its advisory "
	                                 "locks and channels");
}

static void session_release_one(struct session_move *move)
{
	move->pass = false;
	session_settle_over(move);
	session_lose_sealed(move);
	if (move->client->doomed)
		return;
	if (move->left && !move->client->pool->database->swapped) {
		move->drop = false; /* it is set up again where its database is */
		move->lossy = false;
	}
	if (move->parked && session_can_go_back(move))
		session_unpark(move);
	else if (move->drop)
		session_drop(move, session_why(move)); /* its old server has gone */
	else if (move->parked && session_is_late(move))
		session_end_late(move);
	else if (move->parked)
		session_step(move);
}

void session_release(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	database->sessions_returning = false;
	session_watch(database);
	/* First those whose clients wait: others have all time for what is left to be asked. */
	for (int waiting = 1; waiting >= 0; waiting--) {
		LIST_FOREACH(&database->sessions, node, tmp)
		{
			struct session_move *move = CONTAINER_OF(node, struct session_move, node);

			if ((move->client->state == CLIENT_WAITING) == (waiting == 1))
				session_release_one(move);
		}
	}
}

void session_new_routes(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	if (database->swapped)
		database->sessions_returning = false;
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		/* The configuration may pin it now. */
		if (!move->parked && !database->held)
			move->ready_at = 0;
		/* The route is again that which the hold began with. */
		if (move->parked && database->held && !database->swapped && move->fresh != NULL &&
		    !move->fresh->for_swap && !gate_server_current(move->fresh)) {
			session_drop_fresh(move);
			session_count_rest(move);
		}
		if (!move->parked || move->client->doomed || !database->swapped)
			continue;
		session_count_rest(move);
		if (move->drop)
			session_drop(move, session_why(move));
		else
			session_step(move);
	}
	session_watch(database);
}

static void session_reconnect_one(struct session_move *move)
{
	move->reconnect = true;
	session_enqueue(move, move->client->pool->database);
}

static void session_leave_one(struct session_move *move)
{
	if (session_outdated(move->client) && !move->reconnect)
		session_reconnect_one(move);
}

void session_leave_outdated(struct database *database)
{
	if (database->held)
		return;
	database->sessions_reconnecting = true;
	session_for_each(database, session_leave_one);
	session_watch(database);
}

void session_reconnect(struct database *database)
{
	if (database->held)
		return; /* at the safe point after the hold */
	database->sessions_reconnecting = true;
	session_for_each(database, session_reconnect_one);
	session_watch(database);
}

/* ---- time ---- */

/* Whether there are still sessions that RECONNECT has left to their next safe point. */
static bool session_some_outdated(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->sessions, node, tmp)
	{
		const struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (move->reconnect || session_outdated(move->client))
			return true;
	}
	return false;
}

/* A session idle for so long is asked what state it has, if that is not known; 0: never. */
static usec_t session_ask_idle(const struct database *database)
{
	if (database->held || database->paused)
		return 0;
	if (database->swap_target != NULL)
		return REFRESH_IDLE;
	return database->worker->routes->config->proxy.session_recover_after;
}

static void session_refresh_one(struct session_move *move)
{
	const struct server *server = move->client->server;
	struct database *database = move->client->pool->database;

	if (database->session_refreshes == 0 || move->wanted || move->asked != NULL ||
	    !server_quiet(server) || session_known(move, server) ||
	    database->worker->now - server->ready_at < session_ask_idle(database))
		return;
	database->session_refreshes--;
	move->wanted = true;
	session_enqueue(move, database);
}

static void session_refresh(struct database *database)
{
	if (session_ask_idle(database) == 0)
		return;
	database->session_refreshes = REFRESH_AT_ONCE;
	session_for_each(database, session_refresh_one);
}

static void session_try_one_again(struct session_move *move)
{
	struct database *database = move->client->pool->database;
	struct param_set *boot;

	if (!session_failure_passes(move) || move->asked != NULL ||
	    database->worker->now < move->failed_until)
		return;
	session_try_again(move, false);
	if (!database->held && boot_swap_missing(move->client->pool, &boot) > 0)
		(void)!gate_prepare_one(move->client->pool);
	session_enqueue(move, database);
}

void session_tick(struct database *database)
{
	const struct worker *worker = database->worker;
	const usec_t limit = worker->routes->config->proxy.login_timeout;
	struct list_node *node;
	struct list_node *tmp;

	session_refresh(database);
	database->session_returns = RETURN_AT_ONCE;
	LIST_FOREACH(&database->sessions, node, tmp)
	{
		struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (move->asked != NULL && move->asked == move->fresh &&
		    limit > 0 && worker->now - move->asked_at > limit)
			server_doom(move->fresh, SERVER_CLOSE_SESSION);
		/* The swap does not come: rows that were read for it are of no use. */
		if (move->asked == NULL && !move->parked && !move->reconnect && !database->held &&
		    database->swap_target == NULL)
			session_carry_drop(move);
		/* It may have given up since what it had to keep its server for. */
		if (move->kept_at != 0 && move->asked == NULL && !move->parked &&
		    session_shall_reconnect(move) && server_quiet(move->client->server) &&
		    !session_known(move, move->client->server))
			move->reconnect = true;
		session_try_one_again(move);
		/* A server that could not be opened is tried again. */
		if (move->asked == NULL && (move->parked || move->reconnect || move->wanted))
			session_step(move);
	}
	if (database->session_views != NULL && worker->now - database->session_views_at > VIEW_WAIT)
		session_answer_views(database);
	if (database->sessions_reconnecting && !session_some_outdated(database)) {
		database->sessions_reconnecting = false;
		session_watch(database);
	}
}
