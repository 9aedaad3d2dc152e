/* SPDX-License-Identifier: PostgreSQL */
#include "core/pool_internal.h"

#include "auth/user.h"
#include "base/log.h"
#include "core/leave.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/session_move.h"
#include "core/trial.h"
#include "core/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct database *database_find(struct worker *worker, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		if (strcmp(database->name, name) == 0)
			return database;
	}
	return NULL;
}

struct database *database_get(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);

	if (database != NULL)
		return database;
	database = calloc(1, sizeof(*database));
	if (database == NULL)
		return NULL;
	database->worker = worker;
	database->name = strdup(name);
	database->share = share_database(worker->proxy->shares, name);
	if (database->name == NULL || database->share == NULL) {
		share_database_unref(worker->proxy->shares, database->share);
		free(database->name);
		free(database);
		return NULL;
	}
	if (config_find_database(worker->routes->config, name) == NULL &&
	    !atomic_exchange(&database->share->announced, true))
		log_info("registered new auto-database: %s", name);
	if (UNLIKELY(atomic_load(&worker->proxy->pause_new))) {
		database->held = true;
		database->paused = true;
		database->held_routes = route_table_ref(worker->routes);
	}
	list_init(&database->pools);
	list_init(&database->sealed);
	list_init(&database->sessions);
	list_init(&database->session_queue);
	list_init(&database->session_later);
	list_append(&worker->databases, &database->node);
	return database;
}

static struct pool *pool_find_in(struct database *database, const char *user, bool internal)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);

		if (strcmp(pool->user, user) == 0 && pool->internal == internal)
			return pool;
	}
	return NULL;
}

struct pool *pool_find(struct worker *worker, const char *name, const char *user)
{
	struct database *database = database_find(worker, name);

	return database == NULL ? NULL : pool_find_in(database, user, false);
}

struct pool *pool_find_share(struct worker *worker, const struct pool_share *share)
{
	struct database *database = database_find(worker, share->database->name);

	return database == NULL ? NULL : pool_find_in(database, share->user, share->internal);
}

void pool_apply_settings(struct pool *pool)
{
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	const struct config *config = pool->worker->routes->config;
	const struct config_user *user = config_find_user(config, pool->user);
	int size;

	if (route == NULL)
		return;
	if (pool->internal) {
		atomic_store_explicit(&pool->share->limit, config->proxy.auth_query_connections,
				      memory_order_relaxed);
		return;
	}
	size = config_pool_size(config, route->database, user);
	atomic_store_explicit(&pool->share->limit, size == 0 ? SHARE_NO_LIMIT : size,
	                      memory_order_relaxed);
	pool->session = config_pool_mode(config, route->database, user) == CONFIG_POOL_SESSION;
	pool->statement = config_pool_mode(config, route->database, user) == CONFIG_POOL_STATEMENT;
	pool->session_pinned = config_session_pinned(config, route->database, user);
	pool->session_pin = user != NULL && user->session_pin ? "user"
	                    : route->database->session_pin   ? "database"
	                                                     : NULL;
	pool->session_temp_tables = config_session_temp_tables(config, route->database, user);
	pool->session_cursors = config_session_cursors(config, route->database, user);
	pool->pqexec_off = config->proxy.disable_pqexec;
	pool->own_user = route->database->user[0] == '\0';
	pool->min_size = config_min_pool_size(config, route->database);
	pool->reserve = config_reserve_pool_size(config, route->database, user);
	pool->lifetime = config_server_lifetime(config, route->database);
	pool->query_wait = config_query_wait_timeout(config, route->database, user);
}

struct pool *pool_enter(struct worker *worker, const char *name, const char *user,
			       bool internal)
{
	struct database *database = database_get(worker, name);
	struct pool *pool = database == NULL ? NULL : pool_find_in(database, user, internal);

	if (pool != NULL || database == NULL)
		return pool;
	pool = calloc(1, sizeof(*pool));
	if (pool == NULL)
		return NULL;
	pool->worker = worker;
	pool->database = database;
	pool->internal = internal;
	pool->user = strdup(user);
	pool->share = share_pool(worker->proxy->shares, name, user, internal);
	if (pool->user == NULL || pool->share == NULL) {
		share_pool_unref(worker->proxy->shares, pool->share);
		free(pool->user);
		free(pool);
		return NULL;
	}
	for (int i = 0; i < CLIENT_STATE_COUNT; i++)
		list_init(&pool->clients[i]);
	for (int i = 0; i < SERVER_STATE_COUNT; i++)
		list_init(&pool->servers[i]);
	list_append(&database->pools, &pool->node);
	pool_apply_settings(pool);
	return pool;
}

struct pool *pool_get(struct worker *worker, const char *name, const char *user)
{
	return pool_enter(worker, name, user, false);
}

struct pool *pool_get_internal(struct worker *worker, const char *name, const char *role)
{
	return pool_enter(worker, name, role, true);
}

void pool_set_user(struct pool *pool, struct auth_user *user)
{
	if (user == NULL || user == pool->auth_user)
		return;
	auth_user_unref(pool->auth_user);
	pool->auth_user = auth_user_ref(user);
	pool_forget_failures(pool); /* of the secret that was known before */
}

void pool_for_each(struct worker *worker, void (*act)(struct pool *pool, void *arg), void *arg)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);
		struct list_node *at;
		struct list_node *next;

		LIST_FOREACH(&database->pools, at, next)
		{
			act(CONTAINER_OF(at, struct pool, node), arg);
		}
	}
}

/* ---- time ---- */

static bool pool_is_late(const struct config_proxy *conf, usec_t took)
{
	return conf->login_timeout > 0 && took > conf->login_timeout;
}

/* pgbouncer's server_connect_timeout is one for connection and login. */
static bool pool_login_is_late(const struct config_proxy *conf, const struct server *server,
                               usec_t now)
{
	return pool_is_late(conf, now - server->since) ||
	       (conf->as_pgbouncer && conf->connect_timeout > 0 &&
	        now - server->born > conf->connect_timeout);
}

static void pool_tick_servers(struct pool *pool, usec_t now)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;
	/* A RELOAD has made the pool smaller. */
	int surplus = atomic_load_explicit(&pool->share->servers, memory_order_relaxed) -
	              atomic_load_explicit(&pool->share->limit, memory_order_relaxed) -
	              pool->reserve;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_LOGIN], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (pool_login_is_late(conf, server, now)) {
			server_doom(server, SERVER_CLOSE_LOGIN_TIMEOUT);
			pool_server_failed(pool, server, "the server did not finish the login", "");
		}
	}
	LIST_FOREACH(&pool->servers[SERVER_RESETTING], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		/* Nobody waits for it, so nobody would ever give up. */
		if (pool_is_late(conf, now - server->since))
			server_doom(server, SERVER_CLOSE_RESET);
	}
	LIST_FOREACH(&pool->servers[SERVER_WARMING], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (pool_is_late(conf, now - server->since))
			server_doom(server, SERVER_CLOSE_WARMED);
	}
	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (conf->server_idle_timeout > 0 &&
		    now - server->since > conf->server_idle_timeout &&
		    atomic_load_explicit(&pool->share->servers, memory_order_relaxed) >
		        pool->min_size)
			server_doom(server, SERVER_CLOSE_IDLE);
		/* (A session keeps its server, however old.) */
		else if (pool->lifetime > 0 && now - server->born > pool->lifetime &&
		         server->promised == NULL)
			server_doom(server, SERVER_CLOSE_LIFETIME);
		else if (pool_outdated(pool, server) && !pool->database->held)
			server_doom(server, SERVER_CLOSE_STALE);
		else if (surplus > 0 && server->counted && server->promised == NULL &&
		         !pool->database->held) {
			server_doom(server, SERVER_CLOSE_SURPLUS);
			surplus--;
		}
	}
}

/* A RELOAD has taken the database away: who wants something of it is told; and whose session has
 * lost its server, in a hold that is over, for it would never hear what it listens for. */
static void pool_tick_removed(struct pool *pool)
{
	static const enum client_state states[] = {CLIENT_WELCOME, CLIENT_WAITING, CLIENT_IDLE};
	const size_t count = pool->clients[CLIENT_WELCOME].count +
	                     pool->clients[CLIENT_WAITING].count + pool->parked;
	char text[128];

	if (count == 0 || route_find(pool->worker->routes, pool->database->name) != NULL)
		return;
	(void)snprintf(text, sizeof(text), "database \"%.63s\" does not exist",
	               pool->database->name);
	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		struct list_node *node;
		struct list_node *tmp;

		LIST_FOREACH(&pool->clients[states[i]], node, tmp)
		{
			struct client *client = CONTAINER_OF(node, struct client, node);

			if (states[i] != CLIENT_IDLE ||
			    (session_is_parked(client) && !pool->database->held))
				client_doom_fatal(client, CLIENT_CLOSE_DATABASE, "3D000", text,
				                  "It is no longer in the proxy's configuration.",
				                  NULL);
		}
	}
}

/* Those who had said all, and have left since. */
static void pool_tick_eof(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	pool->some_at_eof = false;
	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (!client->conn.eof)
			continue;
		pool->some_at_eof = true;
		if (conn_peer_left(&client->conn))
			client_doom(client, CLIENT_CLOSE_PEER);
	}
}

void pool_tick(struct pool *pool, usec_t now)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;
	struct list_node *node;
	struct list_node *tmp;

	pool_tick_servers(pool, now);
	if (UNLIKELY(pool->learned))
		pool_tick_learned(pool);
	pool_tick_removed(pool);
	if (UNLIKELY(pool->some_at_eof))
		pool_tick_eof(pool);
	if (UNLIKELY(pool->database->held))
		gate_tick_held(pool, now);
	timeout_tick(pool, now);
	leave_tick(pool, now);
	if (UNLIKELY(pool->clients[CLIENT_AUTH].count > 0))
		replication_tick(pool, now);
	if (UNLIKELY(pool->clients[CLIENT_WELCOME].count > 0))
		pool_let_in(pool);
	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (conf->client_login_timeout > 0 &&
		    now - client->connected > conf->client_login_timeout)
			client_doom_theirs(client, CLIENT_CLOSE_LOGIN_TIMEOUT, "57P03",
			                   "client_login_timeout (server down)",
			                   "the login timed out: no server connection to be had",
			                   pool->last_error, NULL);
	}
	if (pool->last_error != NULL && !pool->database->held)
		pool_tick_failing(pool);
	pool_kick(pool);
	if (pool->min_size > 0)
		pool_keep_min(pool);
}

static void pool_free(struct pool *pool)
{
	limit_leave(pool);
	list_remove(&pool->database->pools, &pool->node);
	param_set_unref(pool->welcome);
	param_set_unref(pool->last_wanted);
	trial_forget(pool);
	param_set_unref(pool->boot);
	auth_user_unref(pool->auth_user);
	free(pool->last_error);
	free(pool->user);
	share_pool_unref(pool->worker->proxy->shares, pool->share);
	free(pool);
}

/* With its pools. */
static void database_free(struct database *database)
{
	struct worker *worker = database->worker;

	while (database->pools.count > 0)
		pool_free(CONTAINER_OF(list_first(&database->pools), struct pool, node));
	list_remove(&worker->databases, &database->node);
	seal_free(database);
	session_gate_free(database);
	route_table_unref(database->swap_routes);
	route_table_unref(database->held_routes);
	if (database->pace_timer != NULL)
		event_free(database->pace_timer);
	free(database->swap_error);
	free(database->past);
	tally_free(&database->tally);
	free(database->name);
	share_database_unref(worker->proxy->shares, database->share);
	free(database);
}

void pool_stats_add(struct pool_stats *sum, const struct pool_stats *more)
{
	uint64_t *to = (uint64_t *)sum;
	const uint64_t *from = (const uint64_t *)more;

	_Static_assert(sizeof(*sum) % sizeof(*to) == 0, "struct pool_stats has counts only");
	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += from[i];
}

static bool pool_is_empty(const struct pool *pool)
{
	size_t used = pool->parked + pool->swap_left + (pool->asked ? 1 : 0);

	for (size_t i = 0; i < CLIENT_STATE_COUNT; i++)
		used += pool->clients[i].count;
	for (size_t i = 0; i < SERVER_STATE_COUNT; i++)
		used += pool->servers[i].count;
	return used == 0;
}

static void pool_tick_idle(struct pool *pool, usec_t now)
{
	const usec_t limit = pool->worker->routes->config->proxy.pool_idle_timeout;
	struct database *database = pool->database;

	if (!pool_is_empty(pool) || pool->used == 0)
		pool->used = now;
	if (pool->used > database->used)
		database->used = pool->used;
	/* What it knows of its servers may be what logins during a hold need. */
	if (limit == 0 || now - pool->used <= limit || pool->min_size > 0 || pool->internal ||
	    database->held || database->swap_target != NULL)
		return;
	if (database->past == NULL)
		database->past = calloc(1, sizeof(*database->past));
	if (database->past == NULL)
		return; /* later */
	pool_stats_add(database->past, &pool->stats);
	log_info("cleaning up idle pool for user %s on db %s because: pool idle timeout (age=%llds)",
	         pool->user, database->name, (long long)((now - pool->used) / USEC_PER_SEC));
	pool_free(pool);
}

void database_tick_idle(struct database *database, usec_t now)
{
	const struct config *config = database->worker->routes->config;
	const usec_t limit = config->proxy.autodb_idle_timeout;
	struct list_node *node;
	struct list_node *tmp;

	if (database->used == 0)
		database->used = now;
	LIST_FOREACH(&database->pools, node, tmp)
	{
		pool_tick_idle(CONTAINER_OF(node, struct pool, node), now);
	}
	/* Who asks for the state of its sessions is still to be answered. */
	if (limit == 0 || now - database->used <= limit || database->held ||
	    database->swap_target != NULL || database->swap_routes != NULL ||
	    database->active > 0 || database->sessions.count > 0 || database->sealed.count > 0 ||
	    database->session_views != NULL || config_find_database(config, database->name) != NULL)
		return;
	log_info("cleaning up idle database %s because: autodb idle timeout (age=%llds)",
	         database->name, (long long)((now - database->used) / USEC_PER_SEC));
	database_free(database);
}

void pool_free_all(struct worker *worker)
{
	while (worker->databases.count > 0)
		database_free(CONTAINER_OF(list_first(&worker->databases), struct database, node));
}
