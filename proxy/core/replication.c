/* SPDX-License-Identifier: PostgreSQL */
#include "core/replication.h"

#include "base/log.h"
#include "core/client.h"
#include "core/client_login.h"
#include "core/pool_internal.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/server.h"
#include "core/worker.h"

#include <stdio.h>
#include <string.h>

const char *replication_name(enum wire_replication replication)
{
	return replication == WIRE_REPLICATION_PHYSICAL  ? "physical"
	       : replication == WIRE_REPLICATION_LOGICAL ? "logical"
	                                                 : "none";
}

bool replication_waits(const struct client *client)
{
	return client->replication != WIRE_REPLICATION_NONE && client->pool != NULL &&
	       client->login != NULL;
}

/* A hold has begun: its end is nothing to wait for, because the database will be elsewhere then. */
static bool replication_refuse_held(struct client *client)
{
	if (!client->pool->database->held)
		return false;
	client_doom_fatal(client, CLIENT_CLOSE_NO_SERVER, "57P03",
	                  "the database is held: no replication connection can begin now", NULL,
	                  "Connect again in a moment.");
	return true;
}

/* Without room under the limits it waits, and the tick tries again. */
static void replication_dial(struct client *client)
{
	struct pool *pool = client->pool;
	struct worker *worker = client->worker;
	const struct route *route = route_find(worker->routes, pool->database->name);
	enum share_full full;
	struct server *server;

	if (route == NULL || replication_refuse_held(client))
		return;
	if (!pool_share_take(pool->share, 0, &full)) {
		/* What lies idle in its own pool was opened without replication. */
		if (!pool_evict(worker, pool->share, FULL_POOL))
			pool_make_room(pool, full);
		return;
	}
	server = server_dial(pool, worker->routes, route->server, false);
	if (server == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	server->replication = client->replication;
	param_set_replace(&server->boot, param_set_ref(client->login->wanted));
	server->own = client;
	client->login->replication = server;
}

void replication_enter(struct client *client)
{
	client_set_state(client, CLIENT_AUTH);
	replication_dial(client);
}

void replication_begin(struct server *server)
{
	struct client *client = server->own;

	if (client == NULL || client->doomed || replication_refuse_held(client)) {
		server_doom(server, SERVER_CLOSE_CLIENT_GONE);
		return;
	}
	server->own = NULL;
	client->login->replication = NULL;
	param_set_replace(&client->params, param_set_ref(server->params));
	if (!login_welcome(client, server)) {
		server_doom(server, SERVER_CLOSE_CLIENT_GONE);
		return;
	}
	server_link(server, client);
	resend_forget(server); /* no other server would do */
	client->in_session = true;
	/* What came behind its login. */
	client_go_on(client);
}

void replication_failed(struct server *server, const char *error, const char *sqlstate)
{
	struct client *client = server->own;
	char text[512];

	if (client == NULL || client->doomed)
		return;
	(void)snprintf(text, sizeof(text), "could not get a server connection: %s", error);
	if (client->worker->routes->config->proxy.as_pgbouncer)
		client_doom_theirs(client, CLIENT_CLOSE_NO_SERVER,
		                   sqlstate[0] == '\0' ? "08006" : sqlstate, "login failed", text,
		                   NULL, NULL);
	else
		pool_refuse_login(client, sqlstate, error, text);
}

void replication_forget_client(struct client *client)
{
	struct server *server = client->login == NULL ? NULL : client->login->replication;

	if (server == NULL)
		return;
	client->login->replication = NULL;
	server->own = NULL;
	server_doom(server, SERVER_CLOSE_CLIENT_GONE);
}

void replication_forget_server(struct server *server)
{
	struct client *client = server->own;

	if (client == NULL)
		return;
	server->own = NULL;
	client->login->replication = NULL;
	client_doom_fatal(client, CLIENT_CLOSE_SERVER_LOST, "08006",
	                  "the server connection was lost during its login", NULL,
	                  "Connect again.");
}

void replication_tick(struct pool *pool, usec_t now)
{
	const usec_t limit = pool->worker->routes->config->proxy.client_login_timeout;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_AUTH], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (limit > 0 && now - client->connected > limit)
			client_doom_fatal(client, CLIENT_CLOSE_LOGIN_TIMEOUT, "53300",
			                  "no server connection became free for replication within "
			                  "client_login_timeout",
			                  NULL, "Raise pool_size, or the limit that is reached.");
		else if (client->login->replication == NULL)
			replication_dial(client);
	}
}

static void replication_end_pool(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_ACTIVE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (server->replication == WIRE_REPLICATION_NONE)
			continue;
		client_doom_fatal(server->client, CLIENT_CLOSE_TERMINATED, "57P01",
		                  "terminating connection due to administrator command",
		                  "The database is being moved to another server, to which a "
		                  "replication connection cannot go along.",
		                  "Connect again.");
		server_doom(server, SERVER_CLOSE_TERMINATED);
	}
}

void replication_end_all(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		replication_end_pool(CONTAINER_OF(node, struct pool, node));
	}
}
