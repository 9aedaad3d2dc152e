/* SPDX-License-Identifier: PostgreSQL */
/*
 * Time limits of clients: of a query, a transaction, of doing nothing, of waiting for a server.
 * They are looked at every tick of the worker, 100 ms, and only those that somebody has set, so a
 * message costs nothing.  Worker thread.
 */
#include "core/cancel.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/session_move.h"
#include "core/worker.h"

#define BIT(timeout) (1u << TIMEOUT_##timeout)

static usec_t timeout_of(const struct client *client, enum user_timeout which)
{
	/* One of our own (auth_query) has its limits elsewhere. */
	if (client->user_share == NULL)
		return 0;
	return atomic_load_explicit(&client->user_share->timeout[which], memory_order_relaxed);
}

static bool over(usec_t limit, usec_t now, usec_t since)
{
	return limit > 0 && since != 0 && now - since > limit;
}

/* The end of the client and of what its server does for it: a backend would notice a closed
 * connection only when it wants to send, and go on until then. */
static void timeout_end(struct server *server, const char *sqlstate, const char *message)
{
	client_doom_fatal(server->client, CLIENT_CLOSE_TIMEOUT, sqlstate, message, NULL, NULL);
	if (!ledger_quiet(&server->ledger))
		cancel_server(server);
	server_doom(server, SERVER_CLOSE_TIMEOUT);
}

static void timeout_active(struct server *server, usec_t now)
{
	const struct client *client = server->client;
	const bool quiet = ledger_quiet(&server->ledger) && server->left_to == 0;
	usec_t query = server->request_start != 0 ? server->request_start : server->ready_at;
	usec_t xact = server->xact_start;

	/* Replication is a statement without an end. */
	if (client == NULL || client->doomed || server_busy_inside(server) ||
	    server->replication != 0)
		return;
	/* Behind others of a pipeline it has begun with the answer to the last one. */
	if (xact == 0 && !quiet)
		xact = server->ready_at;
	if (!quiet && over(timeout_of(client, TIMEOUT_QUERY), now, query))
		timeout_end(server, "57014", "query timeout");
	else if (over(timeout_of(client, TIMEOUT_TRANSACTION), now, xact))
		timeout_end(server, "25P04", "transaction timeout");
	else if (quiet && server->tx_status != 'I' &&
	         over(timeout_of(client, TIMEOUT_IDLE_TRANSACTION), now, server->ready_at))
		timeout_end(server, "25P03", "idle transaction timeout");
	else if (quiet && server->tx_status == 'I' && client->in_session &&
	         over(timeout_of(client, TIMEOUT_CLIENT_IDLE), now, server->ready_at))
		client_doom_fatal(server->client, CLIENT_CLOSE_TIMEOUT, "57P05",
		                  "client_idle_timeout", NULL, NULL);
}

static void timeout_idle(struct pool *pool, usec_t now)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_IDLE], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (over(timeout_of(client, TIMEOUT_CLIENT_IDLE), now, client->since))
			client_doom_fatal(client, CLIENT_CLOSE_TIMEOUT, "57P05",
			                  "client_idle_timeout", NULL, NULL);
		else if (pool->own_user)
			break; /* the list is in order of age, and all have the same limit */
	}
}

static bool timeout_waiting_client(struct pool *pool, struct client *client, usec_t now)
{
	const usec_t query = timeout_of(client, TIMEOUT_QUERY);
	const usec_t own = timeout_of(client, TIMEOUT_QUERY_WAIT);
	const usec_t wait = own == CONFIG_UNSET ? pool->query_wait : own;

	if (over(query, now, client->since))
		client_refuse_request(client, "57014",
		                      "query_timeout: no server connection became free before it",
		                      "Try the request again, or raise pool_size.");
	else if (over(wait, now, client->since))
		pool_refuse_late(pool, client);
	else
		return false;
	return true;
}

/* Logins that need a server, as no other has yet told what servers report. */
static void timeout_welcome(struct pool *pool, usec_t now)
{
	struct list_node *node;
	struct list_node *tmp;

	if (pool->welcome != NULL)
		return; /* they wait for a trial, and not for long */
	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);
		const usec_t own = timeout_of(client, TIMEOUT_QUERY_WAIT);

		if (over(timeout_of(client, TIMEOUT_QUERY), now, client->since))
			client_doom_fatal(client, CLIENT_CLOSE_TIMEOUT, "57014", "query_timeout",
			                  pool->last_error, NULL);
		else if (over(own == CONFIG_UNSET ? pool->query_wait : own, now, client->since))
			client_doom_fatal(client, CLIENT_CLOSE_TIMEOUT, "53300",
			                  "query_wait_timeout", pool->last_error, NULL);
	}
}

static void timeout_waiting(struct pool *pool, usec_t now)
{
	const usec_t notify = pool->worker->routes->config->proxy.query_wait_notify;
	struct list_node *node = list_first(&pool->clients[CLIENT_WAITING]);

	/* A refused client may come back with its next request, at the end. */
	for (size_t n = pool->clients[CLIENT_WAITING].count; n > 0 && node != NULL; n--) {
		struct client *client = CONTAINER_OF(node, struct client, node);
		const size_t count = pool->clients[CLIENT_WAITING].count;

		if (timeout_waiting_client(pool, client, now)) {
			/* What follows may have changed: once more from the front. */
			node = list_first(&pool->clients[CLIENT_WAITING]);
			if (pool->clients[CLIENT_WAITING].count >= count)
				break;
			continue;
		}
		if (notify > 0 && !client->notified && now - client->since > notify) {
			client_notice(client, "No server connection available in postgres backend, "
			                      "client being queued");
			client->notified = true;
		} else if (pool->own_user && notify == 0) {
			break; /* as in timeout_idle() */
		}
		node = list_next(&pool->clients[CLIENT_WAITING], node);
	}
}

/* Sessions whose server is to be closed: server_fast_close.  One that is about to get another has time. */
static void timeout_outdated(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_ACTIVE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);
		const struct session_move *move = server->client->move;

		if (!pool_outdated(pool, server) || !server_quiet(server) ||
		    server->client->doomed ||
		    (move != NULL && (move->reconnect || move->asked != NULL)))
			continue;
		client_doom_fatal(server->client, CLIENT_CLOSE_OUTDATED, "57P01",
		                  "database configuration changed",
		                  "The connection to the server is to be closed.",
		                  "Connect again.");
	}
}

void timeout_tick(struct pool *pool, usec_t now)
{
	const unsigned used = share_timeouts(pool->worker->proxy->shares);
	struct list_node *node;
	struct list_node *tmp;

	if (!pool->database->held) {
		timeout_welcome(pool, now);
		timeout_waiting(pool, now);
	}
	if (UNLIKELY(pool->session && !pool->database->held &&
	             pool->worker->routes->config->proxy.server_fast_close))
		timeout_outdated(pool);
	if ((used & BIT(CLIENT_IDLE)) != 0 && !pool->database->held)
		timeout_idle(pool, now);
	if ((used & (BIT(QUERY) | BIT(TRANSACTION) | BIT(IDLE_TRANSACTION) | BIT(CLIENT_IDLE))) ==
	    0)
		return;
	LIST_FOREACH(&pool->servers[SERVER_ACTIVE], node, tmp)
	{
		timeout_active(CONTAINER_OF(node, struct server, node), now);
	}
}
