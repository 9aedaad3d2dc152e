/* SPDX-License-Identifier: PostgreSQL */
#include "core/promise.h"

#include "auth/crypto.h"
#include "core/boot.h"
#include "core/cancel.h"
#include "core/client_login.h"
#include "core/pool_internal.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/trial.h"
#include "core/worker.h"

/* A login waits so long at most for a server that is being opened or cleaned. */
#define PROMISE_WAIT USEC_PER_SEC
/* Who waits for longer gets a server that was promised to another. */
#define PROMISE_FIRM ((usec_t)100000)

/* ---- the limits ---- */

static bool below(const atomic_int *count, const atomic_int *limit)
{
	const int most = atomic_load_explicit(limit, memory_order_relaxed);

	return most == 0 || atomic_load_explicit(count, memory_order_relaxed) < most;
}

/* Another connection could be opened now. */
static bool has_room(const struct pool *pool)
{
	const struct pool_share *share = pool->share;

	return pool->worker->now >= pool->retry_at &&
	       atomic_load_explicit(&share->servers, memory_order_relaxed) <
	           atomic_load_explicit(&share->limit, memory_order_relaxed) &&
	       below(&share->database->servers, &share->database->server_limit) &&
	       below(&share->user_share->servers, &share->user_share->server_limit) &&
	       !share_is_queued(share);
}

bool promise_yields(const struct pool *pool, const struct server *server,
                    const struct client *client, usec_t since)
{
	if (LIKELY(server->promised == NULL) || server->promised == client)
		return true;
	return pool->worker->now - since >= PROMISE_FIRM || !has_room(pool);
}

/* ---- at the login ---- */

/* There may be a server to be had now. */
static bool is_possible(const struct pool *pool)
{
	const struct worker *worker = pool->worker;

	return !pool->database->held && pool->database->pace == 0 && !worker->stopping &&
	       !worker->shutting_down && worker->now >= pool->retry_at;
}

/* Those that come free in a moment, and are for such a client. */
static size_t count_coming(struct pool *pool, const struct client *client)
{
	static const enum server_state states[] = {SERVER_DIALING, SERVER_LOGIN, SERVER_RESETTING};
	struct list_node *node;
	struct list_node *tmp;
	size_t count = 0;

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		LIST_FOREACH(&pool->servers[states[i]], node, tmp)
		{
			const struct server *server = CONTAINER_OF(node, struct server, node);

			count += !server->for_swap && server->replication == 0 && server->move == NULL &&
				 server->promised == NULL && !pool_outdated(pool, server) &&
				 boot_suits(server, client);
		}
	}
	return count;
}

/* Those who get one before it: who waits for a server, and who began to log in before. */
static size_t count_before(struct pool *pool, const struct client *client)
{
	static const enum client_state states[] = {CLIENT_WAITING, CLIENT_WELCOME};
	struct list_node *node;
	struct list_node *tmp;
	size_t count = 0;

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		LIST_FOREACH(&pool->clients[states[i]], node, tmp)
		{
			const struct client *other = CONTAINER_OF(node, struct client, node);

			if (other == client)
				return count;
			count += other->boot == client->boot;
		}
	}
	return count;
}

static bool open_one(struct pool *pool, const struct client *client)
{
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	enum share_full full;
	struct server *server;

	if (route == NULL || limit_is_behind(pool, pool->worker->now, &full))
		return false;
	/* In a full pool those that are idle are not for such a client. */
	if (!pool_share_take(pool->share, 0, &full) &&
	    (full != FULL_POOL || !boot_make_room(pool, false)))
		return false;
	server = server_dial(pool, pool->worker->routes, route->server, false);
	if (server == NULL || server->doomed)
		return false;
	param_set_replace(&server->boot, param_set_ref(client->boot));
	return true;
}

/* Another worker may have one.  False: none has. */
static bool ask_others(struct pool *pool, struct client_login *login)
{
	if (pool->clients[CLIENT_WAITING].count > 0)
		return false; /* who would get it */
	/* Each login has them asked once; meanwhile others may do so. */
	if (login->promise_asked || pool->asked)
		return pool->asked;
	login->promise_asked = pool_ask(pool, 0, true);
	return login->promise_asked;
}

bool promise_is_settled(struct client *client)
{
	struct pool *pool = client->pool;
	struct client_login *login = client->login;
	struct server *server;
	size_t coming;

	if (LIKELY(!pool->session) || pool->internal ||
	    !pool->worker->routes->config->proxy.session_backend_pid)
		return true;
	if (session_see(client) == NULL)
		return false; /* doomed */
	if (client->seen->promised != NULL || !is_possible(pool))
		return true;
	server = pool_find_unpromised(pool, client);
	if (server != NULL) {
		server->promised = client;
		client->seen->promised = server;
		pool->promised++;
		pool_publish_idle(pool);
		return true;
	}
	if (login->promise_since == 0)
		login->promise_since = pool->worker->now;
	if (pool->worker->now - login->promise_since > PROMISE_WAIT)
		return true;
	if (ask_others(pool, login))
		return false;
	coming = count_coming(pool, client);
	if (coming > 0 && coming > count_before(pool, client))
		return false;
	return !open_one(pool, client);
}

uint32_t promise_told(const struct client *client)
{
	return client->seen != NULL && client->seen->told.pid != 0
		   ? client->seen->told.pid
		   : cancel_pid(client->worker->proxy, client->slot);
}

/* Its entry in the table, with a key that no other client of that id has. */
static void tell(struct client *client, uint32_t pid)
{
	struct worker *worker = client->worker;
	struct told *told = &client->seen->told;

	told->client = client;
	told->worker = worker->index;
	told->pid = pid;
	told->slot = client->slot;
	told->number = client->cancel_key;
	told->long_key = client->long_key;
	while (!told_add(worker->proxy->told, told)) {
		if (!crypto_random(&client->cancel_key, sizeof(client->cancel_key))) {
			told->pid = 0;
			return;
		}
		told->number = client->cancel_key;
	}
}

uint32_t promise_pid(struct client *client, const struct server *server)
{
	/* (Some servers that are not PostgreSQL have none.) */
	if (server != NULL && server->backend_pid != 0 &&
	    client->worker->routes->config->proxy.session_backend_pid && session_see(client) != NULL)
		tell(client, (uint32_t)server->backend_pid);
	return promise_told(client);
}

/* ---- its end ---- */

void promise_forget_client(struct client *client)
{
	struct server *server = promise_of(client);

	if (server == NULL)
		return;
	client->seen->promised = NULL;
	server->promised = NULL;
	server->pool->promised--;
	pool_publish_idle(server->pool);
}

void promise_forget_server(struct server *server)
{
	if (server->promised != NULL)
		promise_forget_client(server->promised);
}
