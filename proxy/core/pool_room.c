/* SPDX-License-Identifier: PostgreSQL */
/*
 * Of a pool: new server connections, and the room for them under the limits of pool, database and
 * user.  Worker thread.
 */
#include "base/log.h"
#include "core/mail.h"
#include "core/boot.h"
#include "core/pool_internal.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"

#include <string.h>

/* Other workers are asked to close an idle server at most so often. */
#define EVICT_PAUSE ((usec_t)100000)

/* Of those that were promised to nobody, if there are such. */
static struct server *pool_oldest_idle(struct pool *pool)
{
	struct server *oldest = NULL;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		const bool promised = server->promised != NULL;

		if (oldest == NULL ||
		    (promised == (oldest->promised != NULL) ? server->since < oldest->since
		                                            : !promised))
			oldest = server;
	}
	return oldest;
}

struct evict_search {
	const struct pool_share *share;
	enum share_full full;
	struct server *found;
};

static void pool_evict_look(struct pool *pool, void *arg)
{
	struct evict_search *search = arg;
	const struct pool_share *share = search->share;
	struct server *server;

	if ((pool->share == share) != (search->full == FULL_POOL) ||
	    (search->full == FULL_DATABASE && pool->share->database != share->database) ||
	    (search->full == FULL_USER && pool->share->user_share != share->user_share) ||
	    pool->database->held)
		return;
	server = pool_oldest_idle(pool);
	if (server != NULL && server->counted &&
	    (search->found == NULL || server->since < search->found->since))
		search->found = server;
}

bool pool_evict(struct worker *worker, const struct pool_share *share, enum share_full full)
{
	struct evict_search search = {share, full, NULL};

	pool_for_each(worker, pool_evict_look, &search);
	if (search.found == NULL)
		return false;
	server_doom(search.found, SERVER_CLOSE_EVICTED);
	return true;
}

/* The limit of the database or user is reached: an unused connection of another pool makes room,
 * here or in another worker; under the pool's own limit, one of its own, for replication.  When it is closed, or at the next tick, the pool tries again. */
void pool_make_room(struct pool *pool, enum share_full full)
{
	const struct proxy *proxy = pool->worker->proxy;

	if (pool_evict(pool->worker, pool->share, full) ||
	    pool->worker->now < pool->evict_at)
		return;
	pool->evict_at = pool->worker->now + EVICT_PAUSE;
	for (unsigned i = 0; i < proxy->worker_count; i++) {
		struct mail_pool *mail;

		if (i == pool->worker->index)
			continue;
		mail = mail_new(sizeof(*mail), MAIL_EVICT);
		if (mail == NULL)
			return;
		mail->share = pool_share_ref(pool->share);
		mail->full = full;
		mailbox_post(&proxy->workers[i].mailbox, &mail->letter);
	}
}

/* Connections beyond the limit that the pool may have now. */
static int pool_reserve(const struct pool *pool)
{
	const usec_t delay = pool->worker->routes->config->proxy.reserve_pool_timeout;
	static const enum client_state states[] = {CLIENT_WAITING, CLIENT_WELCOME};

	for (size_t i = 0; pool->reserve > 0 && delay > 0 && i < ARRAY_LEN(states); i++) {
		const struct list_node *node = list_first(&pool->clients[states[i]]);

		if (node != NULL &&
		    pool->worker->now - CONTAINER_OF(node, const struct client, node)->since >=
		        delay)
			return pool->reserve;
	}
	return 0;
}

/* Since when the first waits for whom no server is coming. */
static usec_t pool_uncovered_since(const struct pool *pool, size_t coming)
{
	static const enum client_state states[] = {CLIENT_WAITING, CLIENT_WELCOME};

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		const struct list *list = &pool->clients[states[i]];
		const struct list_node *node = list_first(list);

		for (; node != NULL && coming > 0; coming--)
			node = list_next(list, node);
		if (node != NULL)
			return CONTAINER_OF(node, const struct client, node)->since;
	}
	return pool->worker->now;
}

/* One more connection under all limits.  False: it is another's turn, or there is no room. */
static bool pool_take_room(struct pool *pool, size_t coming)
{
	const usec_t since = pool_uncovered_since(pool, coming);
	const int reserve = pool_reserve(pool);
	enum share_full full;

	if (limit_is_behind(pool, since, &full)) {
		limit_wait(pool, full, since);
		return false;
	}
	if (pool_share_take(pool->share, reserve, &full)) {
		if (reserve > 0 && atomic_load(&pool->share->servers) >
		                       atomic_load(&pool->share->limit))
			log_warning("%s/%s: taking connection from reserve_pool",
			            pool->database->name, pool->user);
		return true;
	}
	if (full != FULL_POOL) {
		limit_wait(pool, full, since);
		pool_make_room(pool, full);
		return false;
	}
	limit_leave(pool); /* its own servers are what it waits for */
	return boot_make_room(pool, true);
}

void pool_room(struct worker *worker, const struct pool_share *share)
{
	struct pool *pool = pool_find_share(worker, share);

	if (pool == NULL)
		return;
	pool_kick(pool);
	/* Held: others need not wait for it. */
	if (pool->database->held)
		limit_leave(pool);
}

void pool_dial(struct pool *pool, size_t demand, size_t coming)
{
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	struct list_node *node;
	struct list_node *tmp;

	if (route == NULL || pool->worker->now < pool->retry_at) {
		limit_leave(pool);
		return;
	}
	for (int state = SERVER_DIALING; state <= SERVER_LOGIN; state++) {
		LIST_FOREACH(&pool->servers[state], node, tmp)
		{
			struct server *server = CONTAINER_OF(node, struct server, node);

			if (!server->for_swap && !server->stale && server->replication == 0)
				coming++;
		}
	}
	while (coming < demand && boot_wants_server(pool)) {
		if (!pool_take_room(pool, coming))
			return;
		if (server_dial(pool, pool->worker->routes, route->server, false) == NULL)
			return;
		coming++;
	}
	limit_leave(pool);
}

static bool pool_has_clients(const struct pool *pool)
{
	for (int i = 0; i < CLIENT_STATE_COUNT; i++)
		if (pool->clients[i].count > 0)
			return true;
	return false;
}

void pool_keep_min(struct pool *pool)
{
	const struct route *route;
	enum share_full full;
	const int servers = atomic_load_explicit(&pool->share->servers, memory_order_relaxed);

	if (servers >= pool->min_size ||
	    servers >= atomic_load_explicit(&pool->share->limit, memory_order_relaxed) ||
	    pool->database->held || pool->worker->stopping || pool->worker->shutting_down ||
	    pool->worker->refusing || pool->worker->console_only ||
	    pool->worker->now < pool->retry_at ||
	    (pool->own_user ? !pool_has_clients(pool) : pool->worker->index != 0))
		return;
	route = route_find(pool->worker->routes, pool->database->name);
	if (route != NULL && !limit_is_behind(pool, pool->worker->now, &full) &&
	    pool_share_take(pool->share, 0, &full))
		(void)!server_dial(pool, pool->worker->routes, route->server, false);
}

void pool_make_standing(struct worker *worker)
{
	const struct route_table *routes = worker->routes;

	for (size_t i = 0; i < routes->count && worker->index == 0; i++) {
		const struct config_database *database = routes->routes[i].database;

		if (database->user[0] != '\0' &&
		    config_min_pool_size(routes->config, database) > 0 &&
		    strcmp(database->name, "*") != 0 &&
		    pool_get(worker, database->name, database->user) == NULL)
			return; /* no memory: they come with their clients */
	}
}
