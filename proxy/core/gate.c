/* SPDX-License-Identifier: PostgreSQL */
/*
 * A worker's part in holding a database, in preparing and making a swap: the gate, the count of
 * those who are still inside, the connections to the new server.  What to do and when is decided on
 * the main thread (core/admin.h), which sends letters; the answers are letters too.
 */
#include "base/log.h"
#include "base/mem.h"
#include "core/boot.h"
#include "core/cancel.h"
#include "core/keep.h"
#include "core/mail.h"
#include "core/pace.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/secure.h"
#include "core/session_move.h"
#include "core/trial.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>

/* Of so many connections to the target of a swap a pool opens one at a time: nobody waits for them,
 * while each takes its host, which has other databases, milliseconds to start. */
#define PREPARE_ONE_OF 32

/* ---- hold and release ---- */

/* PAUSE does not wait for sessions that do nothing: their next request waits, and their server
 * connections stay. */
static bool gate_only_idle_sessions(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	if (!database->paused)
		return false;
	LIST_FOREACH(&database->pools, node, tmp)
	{
		LIST_FOREACH(&CONTAINER_OF(node, struct pool, node)->clients[CLIENT_ACTIVE], at, next)
		{
			const struct client *client = CONTAINER_OF(at, struct client, node);

			if (!client->in_session || !server_quiet(client->server))
				return false;
		}
	}
	return true;
}

static bool gate_is_drained(struct database *database)
{
	/* Once drained it stays so, but that the connection of a session that has left may end. */
	if (database->drained_told ? database->swapped
	                           : database->sessions_settling > 0 ||
	                                 (database->active > 0 && !gate_only_idle_sessions(database)))
		return database->drained_told;
	return database->paused || !session_some_unproven(database);
}

void gate_check_drained(struct database *database)
{
	struct mail_database *mail;
	bool drained;

	if (!database->held)
		return;
	drained = gate_is_drained(database);
	if (drained == database->drained_told)
		return;
	mail = mail_new_database(drained ? MAIL_DRAINED : MAIL_UNDRAINED, database->name);
	if (mail == NULL)
		return; /* told at the next tick */
	database->drained_told = drained;
	mail->epoch = database->hold_epoch;
	mail->worker = database->worker->index;
	mail->number = session_unsettled(database);
	mailbox_post(&database->worker->proxy->mailbox, &mail->letter);
}

void gate_settle(struct worker *worker, const char *name, uint64_t epoch)
{
	struct database *database = database_find(worker, name);

	if (database == NULL || !database->held || database->hold_epoch != epoch)
		return;
	database->drained_told = false;
	session_settle(database);
	gate_check_drained(database);
}

static void gate_for_each_pool(struct database *database, void (*act)(struct pool *pool))
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		act(CONTAINER_OF(node, struct pool, node));
	}
}

/* Whether there are connections to go to. */
static bool gate_is_prepared(const struct database *database)
{
	return database->swap_target != NULL && database->swap_opened > 0 && !database->swap_trial;
}

bool gate_leaves_server(const struct database *database)
{
	return database->held &&
	       (database->paused || (gate_is_prepared(database) && !database->swap_seal));
}

static void gate_leave_idle(struct pool *pool)
{
	while (pool->servers[SERVER_IDLE].count > 0)
		server_doom(
		    CONTAINER_OF(list_first(&pool->servers[SERVER_IDLE]), struct server, node),
			    SERVER_CLOSE_MOVED);
}

static void gate_hold_pool(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	if (gate_leaves_server(pool->database))
		gate_leave_idle(pool);
	limit_leave(pool);
	pool_publish_waiting(pool);
	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		gate_count_held(CONTAINER_OF(node, struct client, node));
	}
}

/* Whether the database is led to another server than when its hold began, by a SWAP or a RELOAD.
 * One that a RELOAD has taken away is led nowhere. */
static void gate_note_swapped(struct database *database)
{
	const struct route *then = route_find(database->held_routes, database->name);
	const struct route *now = route_find(database->worker->routes, database->name);

	database->swapped = then != NULL && now != NULL &&
	                    (strcmp(then->server->name, now->server->name) != 0 ||
	                     strcmp(then->server->host, now->server->host) != 0 ||
	                     then->server->port != now->server->port ||
	                     strcmp(then->database->dbname, now->database->dbname) != 0);
}

void gate_hold(struct worker *worker, const char *name, uint64_t epoch, bool paused)
{
	struct database *database;
	unsigned tries = 0;

	/* Whoever did not know of the hold would let clients through. */
	while ((database = database_get(worker, name)) == NULL)
		mem_wait(&tries, sizeof(*database));
	if (!database->held || database->hold_epoch != epoch) {
		/* (One that takes another over finds sessions as that has left them.) */
		if (!database->held)
			database->held_routes = route_table_ref(worker->routes);
		database->held = true;
		gate_note_swapped(database);
		database->paused = paused;
		database->lapsed = false;
		database->yields_since = 0;
		database->hold_epoch = epoch;
		database->drained_told = false;
		database->keeping = false;
		pace_end(database);
		gate_for_each_pool(database, gate_hold_pool);
		session_hold(database);
	}
	gate_check_drained(database);
}

static void gate_release_pool(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		gate_uncount_held(client);
	}
	/* Failures under a hold say nothing about the route now, nor do those of a fenced server. */
	pool_forget_failures(pool);
	pool_kick(pool);
	/* Who still waits, waits from now on for a server: query_wait_timeout begins. */
	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		CONTAINER_OF(node, struct client, node)->since = pool->worker->now;
	}
	pool_publish_waiting(pool);
	/* Those who were stopped between two requests of a pipeline. */
	LIST_FOREACH(&pool->clients[CLIENT_ACTIVE], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (conn_kept(&client->conn) > 0)
			client_go_on(client);
	}
}

static void gate_drop_stale(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (server->stale)
			server_doom(server, SERVER_CLOSE_STALE);
	}
}

static void gate_release_database(struct database *database, bool lapsed)
{
	database->lapsed = lapsed;
	if (!lapsed)
		database->yields_since = 0;
	if (!database->held) {
		gate_for_each_pool(database, pool_kick); /* who has yielded */
		return;
	}
	database->held = false;
	database->keeping = false;
	database->paused = false;
	session_release(database);
	pace_release(database);
	gate_for_each_pool(database, gate_release_pool);
	pace_settle(database);
	/* After the release: closing costs system calls, and clients wait. */
	gate_for_each_pool(database, gate_drop_stale);
	seal_release(database);
	route_table_unref(database->held_routes);
	database->held_routes = NULL;
}

void gate_release(struct worker *worker, const char *name, bool lapsed)
{
	struct database *database = database_find(worker, name);
	struct list_node *node;
	struct list_node *tmp;

	if (database != NULL)
		gate_release_database(database, lapsed);
	LIST_FOREACH(&worker->databases, node, tmp)
	{
		database = CONTAINER_OF(node, struct database, node);
		if (name[0] == '\0' && database->paused)
			gate_release_database(database, lapsed);
	}
}

static void gate_reconnect_pool(struct pool *pool)
{
	while (pool->servers[SERVER_IDLE].count > 0 && !pool->database->held)
		server_doom(
		    CONTAINER_OF(list_first(&pool->servers[SERVER_IDLE]), struct server, node),
		    SERVER_CLOSE_STALE);
}

void gate_reconnect(struct worker *worker, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		if (name[0] != '\0' && strcmp(name, database->name) != 0)
			continue;
		database->reconnect_at = worker->now;
		gate_for_each_pool(database, gate_reconnect_pool);
		session_reconnect(database);
	}
}

void gate_kill_client(struct client *client)
{
	struct server *server = client->server;

	client_doom_theirs(client, CLIENT_CLOSE_KILLED, "57P01", "admin forced disconnect",
	                   "terminating connection due to administrator command",
	                   "KILL on the console of the proxy.", NULL);
	if (server == NULL)
		return;
	if (!ledger_quiet(&server->ledger))
		cancel_server(server);
	server_doom(server, SERVER_CLOSE_KILLED);
}

static void gate_kill_pool(struct pool *pool)
{
	for (int state = 0; state < CLIENT_STATE_COUNT; state++) {
		while (pool->clients[state].count > 0)
			gate_kill_client(CONTAINER_OF(list_first(&pool->clients[state]),
			                              struct client, node));
	}
	for (int state = 0; state < SERVER_STATE_COUNT; state++) {
		while (pool->servers[state].count > 0)
			server_doom(CONTAINER_OF(list_first(&pool->servers[state]), struct server,
			                         node),
			            SERVER_CLOSE_KILLED);
	}
}

void gate_kill(struct worker *worker, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		if (name[0] == '\0' || strcmp(name, database->name) == 0)
			gate_for_each_pool(database, gate_kill_pool);
	}
}

static void gate_cancel_pool(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_ACTIVE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		/* A query of the proxy's own ends by itself, and its client goes back then. */
		if (!ledger_quiet(&server->ledger) && !server_busy_inside(server))
			cancel_server(server);
	}
}

void gate_blockers_cancel(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);

	if (database == NULL)
		return;
	replication_end_all(database);
	gate_for_each_pool(database, gate_cancel_pool);
}

static void gate_terminate_pool(struct pool *pool)
{
	while (pool->clients[CLIENT_ACTIVE].count > 0) {
		struct client *client =
		    CONTAINER_OF(list_first(&pool->clients[CLIENT_ACTIVE]), struct client, node);
		struct server *server = client->server;

		/* It has all its answers, or nothing of its request was sent: it is in nobody's
		 * way. */
		if (server_busy_inside(server) && server->move == NULL) {
			server_doom(server, SERVER_CLOSE_TERMINATED);
			continue;
		}
		client_doom_fatal(client, CLIENT_CLOSE_TERMINATED, "57P01",
				  "terminating connection due to administrator command",
				  "The database is being moved to another server, and this "
				  "transaction or session did not end before the deadline.",
				  "Connect again and repeat the transaction.");
		/* A backend notices a closed connection only when it wants to send: what runs now
		 * would go on, and commit, behind the hold. */
		if (!ledger_quiet(&server->ledger))
			cancel_server(server);
		server_doom(server, SERVER_CLOSE_TERMINATED);
	}
}

void gate_blockers_terminate(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);

	if (database != NULL)
		gate_for_each_pool(database, gate_terminate_pool);
}

void gate_blockers_keep(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);

	if (database == NULL || !database->held)
		return;
	replication_end_all(database);
	keep_blockers(database);
}

/* ---- connections to the server of a swap to come ---- */

/* Nothing more is dialled. */
static void gate_prepare_stop(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);

		database->swap_pending -= pool->swap_left;
		pool->swap_left = 0;
	}
}

static void gate_prepare_clear(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	gate_prepare_stop(database);
	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);
		for (int state = 0; state < SERVER_STATE_COUNT; state++) {
			struct list_node *at;
			struct list_node *next;

			LIST_FOREACH(&pool->servers[state], at, next)
			{
				struct server *server = CONTAINER_OF(at, struct server, node);

				if (!server->for_swap)
					continue;
				/* No failure: nobody waits for it any more. */
				if (state != SERVER_PREPARED && state != SERVER_PARKED)
					database->swap_pending--;
				server->for_swap = false;
				server_doom(server, SERVER_CLOSE_SURPLUS);
			}
		}
	}
}

void gate_prepare_report(struct database *database)
{
	struct mail_database *mail;

	if (database->swap_pending == 0 && (database->sessions_pending > 0 || database->held))
		session_all_prepared(database);
	if (database->swap_pending > 0 || database->sessions_pending > 0 ||
	    database->swap_token == 0 || session_leave_begin(database))
		return;
	mail = mail_new_database(MAIL_PREPARED, database->name);
	if (mail == NULL)
		return; /* told at the next tick */
	mail->token = database->swap_token;
	mail->worker = database->worker->index;
	mail->number = database->swap_opened;
	mail->failed = database->swap_failed;
	mail->text = database->swap_error;
	database->swap_error = NULL;
	database->swap_token = 0;
	mailbox_post(&database->worker->proxy->mailbox, &mail->letter);
}

/* The others would fare no better, and somebody waits for the answer. */
static void gate_prepare_give_up(struct pool *pool)
{
	pool->database->swap_failed += pool->swap_left;
	pool->database->swap_pending -= pool->swap_left;
	pool->swap_left = 0;
}

static void gate_prepare_dial(struct pool *pool)
{
	struct database *database = pool->database;

	pool->swap_left--;
	/* Counted already: a failure that is noticed at once takes it away again. */
	if (server_dial(pool, database->swap_routes, database->swap_target, true) == NULL) {
		database->swap_pending--;
		database->swap_failed++;
		gate_prepare_give_up(pool);
	}
}

void gate_prepared(struct server *server, bool ready)
{
	struct pool *pool = server->pool;
	struct database *database = pool->database;

	if (ready) {
		server_set_state(server, SERVER_PREPARED);
		if (!database->swap_trial)
			session_server_prepared(server);
	}
	if (database->swap_pending == 0)
		return;
	database->swap_pending--;
	if (ready) {
		database->swap_opened++;
		if (pool->swap_left > 0)
			gate_prepare_dial(pool);
	} else {
		database->swap_failed++;
		gate_prepare_give_up(pool);
	}
	gate_prepare_report(database);
}

bool gate_prepare_one(struct pool *pool)
{
	pool->swap_left++;
	pool->database->swap_pending++;
	gate_prepare_dial(pool);
	return pool->database->swap_pending > 0;
}

/* As many as the pool has now: every client that runs or waits finds one after the release.  Of a
 * trial one, if it has any. */
static void gate_prepare_pool(struct pool *pool)
{
	struct database *database = pool->database;
	struct list_node *node;
	struct param_set *boot;
	size_t wanted = 0;
	size_t there = 0;
	size_t missing;

	for (int state = 0; state < SERVER_STATE_COUNT; state++) {
		struct list_node *tmp;

		LIST_FOREACH(&pool->servers[state], node, tmp)
		{
			if (CONTAINER_OF(node, struct server, node)->for_swap)
				there++;
			else
				wanted++;
		}
	}
	there += pool->swap_left;
	/* Those that are there may be for clients with other startup parameters. */
	missing = pool->session ? boot_swap_missing(pool, &boot) : 0;
	missing = missing > pool->swap_left ? missing - pool->swap_left : 0;
	if (there < wanted && wanted - there > missing)
		missing = wanted - there;
	if (database->swap_trial)
		missing = wanted > 0 && there == 0 ? 1 : 0;
	pool->swap_left += (unsigned)missing;
	database->swap_pending += (unsigned)missing;
	for (size_t at_once = 1 + wanted / PREPARE_ONE_OF; at_once > 0 && pool->swap_left > 0;
	     at_once--)
		gate_prepare_dial(pool);
	database->swap_opened += (unsigned)pool->servers[SERVER_PREPARED].count;
	for (node = list_first(&pool->servers[SERVER_PARKED]); node != NULL;
	     node = list_next(&pool->servers[SERVER_PARKED], node))
		database->swap_opened += CONTAINER_OF(node, struct server, node)->for_swap;
}

void gate_prepare(struct worker *worker, const char *name, const char *server, uint64_t token,
                  bool trial, bool leave, bool seal)
{
	struct database *database = database_get(worker, name);
	const struct config_server *target = config_find_server(worker->routes->config, server);
	struct mail_database *mail;

	if (database == NULL || target == NULL) {
		mail = mail_new_database(MAIL_PREPARED, name);
		if (mail == NULL)
			return;
		mail->token = token;
		mail->worker = worker->index;
		mail->failed = 1;
		mailbox_post(&worker->proxy->mailbox, &mail->letter);
		return;
	}
	if (database->swap_target != NULL && strcmp(database->swap_target->name, server) != 0)
		gate_prepare_clear(database);
	route_table_unref(database->swap_routes);
	database->swap_routes = route_table_ref(worker->routes);
	database->swap_target = target;
	database->swap_token = token;
	database->swap_opened = 0;
	database->swap_failed = 0;
	database->swap_trial = trial;
	database->swap_leave = leave && !trial;
	database->leave_end = 0;
	database->swap_seal = seal;
	gate_for_each_pool(database, gate_prepare_pool);
	if (!trial)
		session_prepare(database);
	gate_prepare_report(database);
}

void gate_prepare_end(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);

	if (database == NULL || database->swap_target == NULL)
		return;
	database->swap_target = NULL;
	gate_prepare_clear(database);
	gate_prepare_report(database);
	session_watch(database);
	route_table_unref(database->swap_routes);
	database->swap_routes = NULL;
}

void gate_tick(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		gate_check_drained(database);
		gate_prepare_report(database);
	}
}

/* ---- new routes ---- */

bool gate_server_current(const struct server *server)
{
	const char *name = server->pool->database->name;
	const struct route *now = route_find(server->worker->routes, name);
	const struct route *then = route_find(server->routes, name);

	return now != NULL && then != NULL &&
	       strcmp(now->server->name, server->target->name) == 0 &&
	       strcmp(now->server->host, server->target->host) == 0 &&
	       now->server->port == server->target->port &&
	       secure_same_server(
		   &server->worker->routes->secure->servers[now->server->index],
		   &server->routes->secure->servers[server->target->index]) &&
	       strcmp(now->database->dbname, then->database->dbname) == 0 &&
	       strcmp(now->database->connect_query, then->database->connect_query) == 0 &&
	       strcmp(now->database->client_encoding, then->database->client_encoding) == 0 &&
	       strcmp(now->database->datestyle, then->database->datestyle) == 0 &&
	       strcmp(now->database->timezone, then->database->timezone) == 0 &&
	       strcmp(now->database->user, then->database->user) == 0;
}

/* A connection opened before the swap is one of the pool now.  The limit may be passed for as long
 * as the old ones still live. */
static void gate_adopt(struct server *server)
{
	/* PostgreSQL 13 tells nothing of that. */
	struct param_set *set =
	    param_set_get(server->params, "in_hot_standby") == NULL
	        ? param_set_ref(server->params)
	        : param_set_with(server->worker->params, server->params, "in_hot_standby", "off",
	                         true);

	server->for_swap = false;
	server->counted = true;
	pool_share_add(server->pool->share);
	if (set == NULL) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return;
	}
	/* It was opened on a standby, which the swap has found promoted. */
	param_set_replace(&server->params, set);
	if (server->state == SERVER_PREPARED)
		server_set_state(server, SERVER_IDLE);
}

/* What is left of an old route does not count in the pool's limit: the connections to the new
 * server are not to be fewer because the old ones live until the release. */
static void gate_set_stale(struct server *server, bool stale)
{
	server->stale = stale;
	if (server->counted != stale)
		return;
	server->counted = !stale;
	if (stale)
		pool_share_give_back(server->pool->share);
	else
		pool_share_add(server->pool->share);
}

static void gate_route_pool(struct pool *pool)
{
	pool_apply_settings(pool);
	pool_forget_failures(pool);
	trial_forget(pool);
	for (int state = 0; state < SERVER_STATE_COUNT; state++) {
		struct list_node *node;
		struct list_node *tmp;

		LIST_FOREACH(&pool->servers[state], node, tmp)
		{
			struct server *server = CONTAINER_OF(node, struct server, node);
			bool current = gate_server_current(server);

			if (server->for_swap) {
				if (current && (state == SERVER_PREPARED || state == SERVER_PARKED))
					gate_adopt(server);
				else if (current)
					server_doom(server, SERVER_CLOSE_SURPLUS);
				continue;
			}
			gate_set_stale(server, !current);
			/* The servers of the old route live until the release. */
			if (server->stale && state == SERVER_IDLE && !pool->database->held)
				server_doom(server, SERVER_CLOSE_STALE);
		}
	}
}

void gate_new_routes(struct worker *worker, struct route_table *routes)
{
	struct route_table *before = worker->routes;
	struct list_node *node;
	struct list_node *tmp;

	worker->routes = routes;
	share_apply(worker->proxy->shares, routes->config);
	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);
		const struct route *route = route_find(routes, database->name);

		if (database->held)
			gate_note_swapped(database);
		gate_for_each_pool(database, gate_route_pool);
		if (route != NULL && database->swap_target != NULL &&
		    strcmp(route->server->name, database->swap_target->name) == 0) {
			gate_prepare_stop(database);
			database->swap_target = NULL;
			route_table_unref(database->swap_routes);
			database->swap_routes = NULL;
		}
		session_new_routes(database);
	}
	route_table_unref(before);
}
