/* SPDX-License-Identifier: PostgreSQL */
/*
 * A worker's rows for SHOW.  Worker thread; reads only.
 */
#include "base/fault.h"
#include "base/log.h"
#include "core/accept.h"
#include "core/cancel.h"
#include "core/conn_tls.h"
#include "core/mail.h"
#include "core/names.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/session_move.h"
#include "core/tally.h"
#include "core/view.h"
#include "core/view_internal.h"
#include "core/worker.h"
#include "net/sock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct filler {
	struct worker *worker;
	struct rowset *rows;
	const char *database; /* NULL: all */
	const char *id;       /* KILLED: of the client */
	usec_t now;
	usec_t wall;
};

/* Calls `fill` for every pool that is wanted. */
static void for_each_pool(struct filler *filler, void (*fill)(struct filler *, struct pool *))
{
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	LIST_FOREACH(&filler->worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		if (filler->database != NULL && strcmp(filler->database, database->name) != 0)
			continue;
		LIST_FOREACH(&database->pools, at, next)
		{
			fill(filler, CONTAINER_OF(at, struct pool, node));
		}
	}
}

static const char *name_client(const struct client *client, char out[32])
{
	(void)snprintf(out, 32, "c%" PRIu64, client->id);
	return out;
}

/* Descriptors are unique among the servers that live. */
static const char *name_server(const struct server *server, char out[32])
{
	(void)snprintf(out, 32, "s%d", server->conn.fd);
	return out;
}

/* An instant of CLOCK_MONOTONIC. */
static void add_time(struct filler *filler, usec_t at)
{
	rowset_time(filler->rows, at == 0 ? 0 : filler->wall - (filler->now - at));
}

/* Of a client, or with its target of a server; `fd`: -1 if it is not connected. */
static void add_sockets(struct filler *filler, int fd, const struct sock_name *peer,
                        const struct config_server *target)
{
	const int port = filler->worker->routes->config->proxy.port;
	struct sock_name local = {"", 0};

	if (fd >= 0)
		sock_local(fd, &local);
	rowset_socket(filler->rows, peer, target == NULL ? port : target->port);
	rowset_socket(filler->rows, &local, port);
}

/* In SOCKETS pgbouncer names states by its lists of clients and of servers. */
static void add_state(struct filler *filler, const char *side, const char *state)
{
	if (filler->rows->view == VIEW_CLIENTS || filler->rows->view == VIEW_SERVERS)
		rowset_text(filler->rows, state);
	else
		rowset_printf(filler->rows, "%s_%s", side, state);
}

/* ---- CLIENTS ---- */

static void client_state_cell(struct filler *filler, const struct client *client)
{
	const enum client_state state = (enum client_state)client->state;
	const bool sockets = filler->rows->view != VIEW_CLIENTS;

	if (client->counted_held && !client->pool->database->paused)
		add_state(filler, "cl", "held");
	else if (sockets && state == CLIENT_IDLE)
		add_state(filler, "cl", "active");
	else if (sockets && state == CLIENT_WELCOME)
		add_state(filler, "cl", "waiting");
	else if (sockets && state == CLIENT_STARTUP)
		add_state(filler, "cl", "login");
	else
		add_state(filler, "cl", client_state_name(state));
}

/* The columns that SOCKETS has behind those that all have. */
static void add_buffers(struct filler *filler, const struct conn *conn, uint32_t left)
{
	rowset_int(filler->rows, 0);
	rowset_int(filler->rows, 0);
	rowset_int(filler->rows, left);
	rowset_int(filler->rows, 0);
	rowset_int(filler->rows, 0);
	rowset_int(filler->rows, (int64_t)conn_kept(conn));
	rowset_int(filler->rows, (int64_t)conn_unsent(conn));
	rowset_end_row(filler->rows);
}

static void client_row(struct filler *filler, const struct client *client)
{
	struct rowset *rows = filler->rows;
	bool waits = client->state == CLIENT_WAITING || client->state == CLIENT_WELCOME;
	usec_t wait = waits ? filler->now - client->since : 0;
	struct sock_name peer;
	char tls[TLS_TEXT_MAX];
	char text[32];

	rowset_text(rows, "C");
	rowset_text(rows, client->pool == NULL ? NULL : client_user(client));
	rowset_text(rows, client->pool == NULL ? NULL : client->pool->database->name);
	rowset_text(rows, replication_name((enum wire_replication)client->replication));
	client_state_cell(filler, client);
	client_peer(client, &peer);
	add_sockets(filler, client->conn.fd, &peer, NULL);
	add_time(filler, client->connected);
	add_time(filler, client->since);
	rowset_int(rows, wait / USEC_PER_SEC);
	rowset_int(rows, wait % USEC_PER_SEC);
	rowset_int(rows, client->doomed);
	rowset_text(rows, name_client(client, text));
	rowset_text(rows, client->server == NULL ? "" : name_server(client->server, text));
	rowset_int(rows, sock_peer_pid(client->conn.fd));
	rowset_text(rows, conn_tls_text(&client->conn, tls));
	rowset_text(rows, param_set_get(client->params, "application_name"));
	rowset_int(rows, (int64_t)client_stmts_count(client->stmts));
	rowset_int(rows, (int64_t)client->id);
	if (rows->view != VIEW_CLIENTS) {
		add_buffers(filler, &client->conn, client->discard);
		return;
	}
	rowset_int(rows, filler->worker->index);
	rowset_int(rows, client->held_bytes);
	rowset_end_row(rows);
}

static void clients_of_list(struct filler *filler, const struct list *list)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(list, node, tmp)
	{
		client_row(filler, CONTAINER_OF(node, struct client, node));
	}
}

static void clients_of_pool(struct filler *filler, struct pool *pool)
{
	for (size_t i = 0; i < CLIENT_STATE_COUNT; i++)
		clients_of_list(filler, &pool->clients[i]);
}

/* ---- SERVERS ---- */

static void server_row(struct filler *filler, const struct server *server)
{
	struct rowset *rows = filler->rows;
	bool connected = server->state != SERVER_DIALING;
	struct sock_name peer = {"", 0};
	char tls[TLS_TEXT_MAX];
	char text[32];

	rowset_text(rows, "S");
	rowset_text(rows, server->pool->user);
	rowset_text(rows, server->pool->database->name);
	rowset_text(rows, replication_name((enum wire_replication)server->replication));
	add_state(filler, "sv",
	          rows->view != VIEW_SERVERS && server->state == SERVER_DIALING
	              ? "login"
	              : server_state_name(server->state));
	if (connected)
		sock_peer(server->conn.fd, &peer);
	add_sockets(filler, connected ? server->conn.fd : -1, &peer, server->target);
	add_time(filler, server->born);
	add_time(filler, server->request_start != 0 ? server->request_start
	                 : server->ready_at != 0    ? server->ready_at
	                                            : server->born);
	rowset_int(rows, 0);
	rowset_int(rows, 0);
	rowset_int(rows, server->doomed || pool_outdated(server->pool, server));
	rowset_text(rows, name_server(server, text));
	rowset_text(rows, server->client == NULL ? "" : name_client(server->client, text));
	rowset_int(rows, server->backend_pid);
	rowset_text(rows, conn_tls_text(&server->conn, tls));
	rowset_text(rows, param_set_get(server->params, "application_name"));
	rowset_int(rows, (int64_t)server_stmts_count(&server->stmts));
	rowset_int(rows, (int64_t)server->id);
	if (rows->view != VIEW_SERVERS) {
		add_buffers(filler, &server->conn, server->left);
		return;
	}
	rowset_int(rows, filler->worker->index);
	rowset_text(rows, server->target == NULL ? NULL : server->target->name);
	rowset_end_row(rows);
}

static void servers_of_pool(struct filler *filler, struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	for (size_t i = 0; i < SERVER_STATE_COUNT; i++) {
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			server_row(filler, CONTAINER_OF(node, struct server, node));
		}
	}
}

/* ---- BLOCKERS ---- */

static const char *blocker_state(const struct server *server)
{
	if (server->replication != 0)
		return "replication";
	if (server->ledger.copy_in)
		return "copy";
	if (!ledger_quiet(&server->ledger))
		return "active";
	return server->tx_status == 'I' ? "idle in session" : "idle in transaction";
}

static void blocker_row(struct filler *filler, const struct client *client)
{
	const struct server *server = client->server;
	struct rowset *rows = filler->rows;
	struct sock_name peer;
	usec_t since = client->since;

	client_peer(client, &peer);
	if (server != NULL && server->xact_start != 0)
		since = server->xact_start;
	rowset_text(rows, client->pool->database->name);
	rowset_text(rows, client->pool->user);
	rowset_text(rows, param_set_get(client->params, "application_name"));
	rowset_text(rows, peer.addr);
	rowset_int(rows, peer.port);
	rowset_int(rows, (int64_t)client->id);
	rowset_int(rows, filler->worker->index);
	if (client->move != NULL && client->move->pass)
		rowset_printf(rows, "pinned: %s", session_why(client->move));
	else if (server == NULL && session_is_parked(client))
		rowset_text(rows, "left, being set up at the new server");
	else
		rowset_text(rows, server == NULL ? "active" : blocker_state(server));
	rowset_int(rows, (filler->now - since) / USEC_PER_MSEC);
	if (server == NULL)
		rowset_null(rows);
	else
		rowset_int(rows, server->backend_pid);
	if (server == NULL || server->query[0] == '\0')
		rowset_null(rows);
	else
		rowset_bytes(rows, server->query, strlen(server->query));
	rowset_end_row(rows);
}

static void blockers_of_pool(struct filler *filler, struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_ACTIVE], node, tmp)
	{
		blocker_row(filler, CONTAINER_OF(node, struct client, node));
	}
	if (!pool->database->held)
		return;
	LIST_FOREACH(&pool->database->sessions, node, tmp)
	{
		const struct session_move *move = CONTAINER_OF(node, struct session_move, node);

		if (move->client->pool == pool && session_unproven(move))
			blocker_row(filler, move->client);
	}
}

/* ---- SEALED ---- */

static void sealed_row(struct filler *filler, const struct database *database, int32_t pid,
                       const struct sock_name *local, usec_t since)
{
	rowset_text(filler->rows, database->name);
	rowset_int(filler->rows, pid);
	rowset_text(filler->rows, local->addr);
	rowset_int(filler->rows, local->port);
	rowset_int(filler->rows, (filler->now - since) / USEC_PER_MSEC);
	rowset_end_row(filler->rows);
}

static void fill_sealed(struct filler *filler)
{
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	LIST_FOREACH(&filler->worker->databases, node, tmp)
	{
		const struct database *database = CONTAINER_OF(node, struct database, node);

		if (filler->database != NULL && strcmp(filler->database, database->name) != 0)
			continue;
		LIST_FOREACH(&database->sealed, at, next)
		{
			const struct sealed *sealed = CONTAINER_OF(at, struct sealed, node);

			sealed_row(filler, database, sealed->pid, &sealed->local, sealed->since);
		}
		LIST_FOREACH(&database->sessions, at, next)
		{
			const struct session_move *move =
			    CONTAINER_OF(at, struct session_move, node);
			struct sock_name local;

			if (move->old == NULL || move->old->sealed_at == 0)
				continue;
			sock_local(move->old->conn.fd, &local);
			sealed_row(filler, database, move->old->backend_pid, &local,
			           move->old->sealed_at);
		}
	}
}

/* ---- SESSIONS ---- */

static void session_digest(struct rowset *rows, const char *digest)
{
	rowset_text(rows, digest[0] == '\0' ? NULL : digest);
}

static void session_state_columns(struct filler *filler, const struct client *client,
                                  const struct session_move *move)
{
	const struct server *server = client->server;
	struct rowset *rows = filler->rows;
	const bool known = move != NULL && move->class_since != 0;
	const bool tried = known && session_is_tried(move);

	if (server == NULL && move != NULL)
		server = move->old;
	rowset_text(rows, !known ? "unknown"
	                         : session_class_name(tried ? SESSION_PINNED : move->class));
	rowset_text(rows, known ? move->what : NULL);
	rowset_text(rows, tried ? move->failed_why : known ? move->why : NULL);
	if (known)
		rowset_int(rows, (filler->now - (tried ? move->failed_at : move->class_since)) /
		                     USEC_PER_MSEC);
	else
		rowset_null(rows);
	rowset_text(rows, move == NULL || !move->parked  ? "linked"
	                  : client->pool->database->held ? "parked"
	                  : session_rests(client)        ? "left"
	                                                 : "moving");
	if (server == NULL)
		rowset_null(rows);
	else
		rowset_int(rows, server->backend_pid);
	rowset_text(rows, config_pinned_name(client->pool->session_pinned));
	rowset_int(rows, known && (server == NULL || move->ready_at == server->ready_at));
	if (known)
		session_digest(rows, move->digest);
	else
		rowset_null(rows);
	if (filler->worker->routes->config->proxy.session_recover_after == 0) {
		rowset_null(rows);
	} else {
		const char *why = client->server == NULL ? "being asked or moved"
		                                         : session_unrecoverable(client->server);

		rowset_text(rows, why == NULL ? "yes" : why);
	}
}

static void session_row(struct filler *filler, const struct client *client)
{
	const struct session_move *move = client->move;
	struct rowset *rows = filler->rows;
	struct sock_name peer;

	client_peer(client, &peer);
	rowset_text(rows, client->pool->database->name);
	rowset_text(rows, client->pool->user);
	rowset_text(rows, param_set_get(client->params, "application_name"));
	rowset_text(rows, peer.addr);
	rowset_int(rows, peer.port);
	rowset_int(rows, (int64_t)client->id);
	rowset_int(rows, filler->worker->index);
	session_state_columns(filler, client, move);
	if (move == NULL || move->moved_at == 0) {
		for (int i = 0; i < 6; i++)
			rowset_null(rows);
	} else {
		rowset_int(rows, (filler->now - move->moved_at) / USEC_PER_MSEC);
		rowset_text(rows, move->moved_from);
		rowset_text(rows, move->moved_to);
		session_digest(rows, move->digest_before);
		session_digest(rows, move->digest_after);
		rowset_text(rows, move->lost);
	}
	rowset_end_row(rows);
}

static void sessions_of_pool(struct filler *filler, struct pool *pool)
{
	static const enum client_state states[] = {CLIENT_IDLE, CLIENT_WAITING, CLIENT_ACTIVE};
	struct list_node *node;
	struct list_node *tmp;

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		LIST_FOREACH(&pool->clients[states[i]], node, tmp)
		{
			const struct client *client = CONTAINER_OF(node, struct client, node);

			if (client->in_session && client->replication == 0 &&
			    (client->server != NULL || client->move != NULL))
				session_row(filler, client);
		}
	}
}

/* ---- POOLS, STATS, LOADS: this worker's share ---- */

/* How long the client that came first has been waiting. */
static usec_t longest_wait(const struct filler *filler, const struct pool *pool)
{
	const struct list_node *node = list_first(&pool->clients[CLIENT_WAITING]);

	return node == NULL ? 0
	                    : filler->now - CONTAINER_OF(node, const struct client, node)->since;
}

/* NULL where there is one host only. */
static const char *pool_balance(const struct pool *pool)
{
	const struct route *route = route_find(pool->worker->routes, pool->database->name);

	return route == NULL || strchr(route->server->host, ',') == NULL
	           ? NULL
	           : config_balance_name(route->server->load_balance_hosts);
}

static void pool_row(struct filler *filler, struct pool *pool)
{
	struct rowset *rows = filler->rows;
	int64_t waiting = (int64_t)pool->clients[CLIENT_WAITING].count;
	const int limit = atomic_load(&pool->share->limit);

	rowset_text(rows, pool->database->name);
	rowset_text(rows, pool->user);
	rowset_int(
	    rows, (int64_t)(pool->clients[CLIENT_ACTIVE].count + pool->clients[CLIENT_IDLE].count));
	rowset_int(rows, waiting + (int64_t)pool->clients[CLIENT_WELCOME].count);
	rowset_int(rows, 0);
	rowset_int(rows, 0);
	rowset_int(rows, (int64_t)pool->servers[SERVER_ACTIVE].count);
	rowset_int(rows, 0);
	rowset_int(rows, (int64_t)pool->servers[SERVER_CANCELLED].count);
	rowset_int(rows, (int64_t)pool->servers[SERVER_IDLE].count);
	rowset_int(rows, 0);
	rowset_int(rows, (int64_t)pool->servers[SERVER_RESETTING].count);
	rowset_int(rows, (int64_t)(pool->servers[SERVER_DIALING].count +
	                           pool->servers[SERVER_LOGIN].count));
	/* The main thread splits it: only one number can be merged by its maximum. */
	rowset_int(rows, 0);
	rowset_int(rows, longest_wait(filler, pool));
	rowset_text(rows, pool->session     ? "session"
	                  : pool->statement ? "statement"
	                                    : "transaction");
	rowset_text(rows, pool_balance(pool));
	rowset_int(rows, pool->database->held ? waiting : 0);
	rowset_int(rows, (int64_t)pool->servers[SERVER_PREPARED].count);
	rowset_int(rows, limit == SHARE_NO_LIMIT ? 0 : limit);
	rowset_end_row(rows);
}

static void stats_row(struct filler *filler, const struct database *database,
                      const struct pool_stats *stats)
{
	struct rowset *rows = filler->rows;

	rowset_text(rows, database->name);
	rowset_int(rows, (int64_t)stats->assigned);
	rowset_int(rows, (int64_t)stats->xacts);
	rowset_int(rows, (int64_t)stats->queries);
	rowset_int(rows, (int64_t)stats->received);
	rowset_int(rows, (int64_t)stats->sent);
	rowset_int(rows, (int64_t)stats->xact_usec);
	rowset_int(rows, (int64_t)stats->query_usec);
	rowset_int(rows, (int64_t)stats->wait_usec);
	/* The averages are made by the main thread. */
	rowset_int(rows, (int64_t)stats->client_parses);
	rowset_int(rows, (int64_t)stats->server_parses);
	rowset_int(rows, (int64_t)stats->binds);
	rowset_int(rows, (int64_t)stats->logins);
	for (size_t i = 13; i < view_info(VIEW_STATS)->column_count; i++)
		rowset_int(rows, 0);
	rowset_end_row(rows);
}

static void fill_stats(struct filler *filler)
{
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	LIST_FOREACH(&filler->worker->databases, node, tmp)
	{
		const struct database *database = CONTAINER_OF(node, struct database, node);

		if (database->past != NULL)
			stats_row(filler, database, database->past);
		LIST_FOREACH(&database->pools, at, next)
		{
			stats_row(filler, database, &CONTAINER_OF(at, struct pool, node)->stats);
		}
	}
}

static size_t count_closing(const struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;
	size_t closing = 0;

	for (size_t i = 0; i < SERVER_STATE_COUNT; i++) {
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			if (pool_outdated(pool, CONTAINER_OF(node, struct server, node)))
				closing++;
		}
	}
	return closing;
}

static void count_wait(const struct filler *filler, const struct client *client, int64_t *waits)
{
	int64_t msec = (filler->now - client->since + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
	size_t at = 0;

	while (at < VIEW_WAITS - 1 && msec > view_wait_limits[at])
		at++;
	waits[at]++;
}

static void load_row(struct filler *filler, struct database *database)
{
	int64_t waits[VIEW_WAITS] = {0};
	struct rowset *rows = filler->rows;
	size_t closing = 0;
	size_t clients = 0;
	size_t servers = 0;
	size_t held = 0;
	uint64_t held_bytes = 0;
	usec_t oldest = 0;
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);
		usec_t wait = longest_wait(filler, pool);

		for (size_t i = 0; i < CLIENT_STATE_COUNT; i++)
			clients += pool->clients[i].count;
		for (size_t i = 0; i < SERVER_STATE_COUNT; i++)
			servers += pool->servers[i].count;
		closing += count_closing(pool);
		if (!database->held)
			continue;
		held += pool->clients[CLIENT_WAITING].count;
		oldest = wait > oldest ? wait : oldest;
		LIST_FOREACH(&pool->clients[CLIENT_WAITING], at, next)
		{
			const struct client *client = CONTAINER_OF(at, struct client, node);

			held_bytes += client->held_bytes;
			count_wait(filler, client, waits);
		}
	}
	rowset_text(rows, database->name);
	rowset_int(rows, (int64_t)database->active);
	rowset_int(rows, (int64_t)held);
	rowset_int(rows, (int64_t)held_bytes);
	rowset_int(rows, oldest / USEC_PER_MSEC);
	rowset_int(rows, (int64_t)clients);
	rowset_int(rows, (int64_t)servers);
	for (size_t i = 0; i < VIEW_WAITS; i++)
		rowset_int(rows, waits[i]);
	rowset_int(rows, (int64_t)closing);
	rowset_end_row(rows);
}

static void fill_loads(struct filler *filler)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&filler->worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		if (filler->database == NULL || strcmp(filler->database, database->name) == 0)
			load_row(filler, database);
	}
}

/* ---- ERRORS ---- */

static void error_rows(struct filler *filler, const char *database, const struct tally *tally)
{
	struct rowset *rows = filler->rows;

	for (uint32_t i = 0; i < tally->count; i++) {
		const struct tally_entry *entry = &tally->entries[i];
		const int64_t server = (int64_t)entry->counts[TALLY_SERVER];
		const int64_t proxy = (int64_t)entry->counts[TALLY_PROXY];

		rowset_text(rows, database);
		rowset_text(rows, entry->sqlstate);
		rowset_int(rows, server + proxy);
		rowset_int(rows, server);
		rowset_int(rows, proxy);
		rowset_end_row(rows);
	}
}

static void fill_errors(struct filler *filler)
{
	struct list_node *node;
	struct list_node *tmp;

	if (filler->database == NULL)
		error_rows(filler, NULL, &filler->worker->tally);
	LIST_FOREACH(&filler->worker->databases, node, tmp)
	{
		const struct database *database = CONTAINER_OF(node, struct database, node);

		if (filler->database == NULL || strcmp(filler->database, database->name) == 0)
			error_rows(filler, database->name, &database->tally);
	}
}

/* ---- WORKERS ---- */

struct worker_sums {
	size_t clients;
	size_t servers;
	size_t pools;
	size_t waiting;
	size_t held;
	size_t bytes;
};

static void sum_pool(struct worker_sums *sums, const struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	sums->pools++;
	sums->waiting += pool->clients[CLIENT_WAITING].count;
	if (pool->database->held)
		sums->held += pool->clients[CLIENT_WAITING].count;
	for (size_t i = 0; i < CLIENT_STATE_COUNT; i++) {
		sums->clients += pool->clients[i].count;
		LIST_FOREACH(&pool->clients[i], node, tmp)
		{
			const struct conn *conn = &CONTAINER_OF(node, struct client, node)->conn;

			sums->bytes += conn_kept(conn) + conn_unsent(conn);
		}
	}
	for (size_t i = 0; i < SERVER_STATE_COUNT; i++) {
		sums->servers += pool->servers[i].count;
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			const struct conn *conn = &CONTAINER_OF(node, struct server, node)->conn;

			sums->bytes += conn_kept(conn) + conn_unsent(conn);
		}
	}
}

static void fill_worker(struct filler *filler)
{
	struct worker_sums sums = {.clients = filler->worker->joining.count};
	struct rowset *rows = filler->rows;
	struct list_node *node;
	struct list_node *tmp;
	struct list_node *at;
	struct list_node *next;

	LIST_FOREACH(&filler->worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		LIST_FOREACH(&database->pools, at, next)
		{
			sum_pool(&sums, CONTAINER_OF(at, struct pool, node));
		}
	}
	rowset_int(rows, filler->worker->index);
	rowset_int(rows, (int64_t)sums.clients);
	rowset_int(rows, (int64_t)sums.servers);
	rowset_int(rows, (int64_t)sums.pools);
	rowset_int(rows, (int64_t)sums.waiting);
	rowset_int(rows, (int64_t)sums.held);
	rowset_int(rows, (int64_t)sums.bytes);
	rowset_end_row(rows);
}

/* ---- SOCKETS, FDS, KILLED ---- */

static void active_sockets_of_pool(struct filler *filler, struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	for (int i = CLIENT_WELCOME; i < CLIENT_STATE_COUNT; i++)
		if (i != CLIENT_IDLE)
			clients_of_list(filler, &pool->clients[i]);
	for (size_t i = 0; i < SERVER_STATE_COUNT; i++) {
		if (i == SERVER_IDLE || i == SERVER_PREPARED)
			continue;
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			server_row(filler, CONTAINER_OF(node, struct server, node));
		}
	}
}

/* `pool` NULL: of a listening socket; `target` as for add_sockets(). */
static void fd_row(struct filler *filler, int fd, int link, const char *task,
                   const struct pool *pool, const struct param_set *params,
                   const struct config_server *target)
{
	static const char *const names[] = {"client_encoding", "standard_conforming_strings",
	                                    "DateStyle", "TimeZone"};
	struct rowset *rows = filler->rows;
	struct sock_name name = {"", 0};

	if (fd < 0)
		return;
	if (pool == NULL)
		sock_local(fd, &name);
	else
		sock_peer(fd, &name);
	rowset_int(rows, fd);
	rowset_text(rows, task);
	rowset_text(rows, pool == NULL ? NULL : pool->user);
	rowset_text(rows, pool == NULL ? NULL : pool->database->name);
	rowset_socket(rows, &name,
	              target == NULL ? filler->worker->routes->config->proxy.port : target->port);
	rowset_int(rows, 0);
	rowset_int(rows, link);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		rowset_text(rows, params == NULL ? NULL : param_set_get(params, names[i]));
	rowset_null(rows);
	rowset_null(rows);
	rowset_null(rows);
	rowset_end_row(rows);
}

static void fd_of_listener(void *arg, int fd)
{
	fd_row(arg, fd, 0, "pooler", NULL, NULL, NULL);
}

static void fds_of_pool(struct filler *filler, struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	for (int i = 0; i < CLIENT_STATE_COUNT; i++) {
		LIST_FOREACH(&pool->clients[i], node, tmp)
		{
			const struct client *client = CONTAINER_OF(node, struct client, node);

			fd_row(filler, client->conn.fd,
			       client->server == NULL ? 0 : client->server->conn.fd, "client", pool,
			       client->params, NULL);
		}
	}
	for (int i = SERVER_LOGIN; i < SERVER_STATE_COUNT; i++) {
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			const struct server *server = CONTAINER_OF(node, struct server, node);

			fd_row(filler, server->conn.fd,
			       server->client == NULL ? 0 : server->client->conn.fd, "server", pool,
			       server->params, server->target);
		}
	}
}

/* The one view that does something: KILL_CLIENT asks every worker for its client. */
static void kill_of_pool(struct filler *filler, struct pool *pool)
{
	const uint64_t id = strtoull(filler->id, NULL, 10);
	struct list_node *node;
	struct list_node *tmp;

	for (int i = 0; i < CLIENT_STATE_COUNT; i++) {
		LIST_FOREACH(&pool->clients[i], node, tmp)
		{
			struct client *client = CONTAINER_OF(node, struct client, node);

			if (client->id != id)
				continue;
			rowset_int(filler->rows, (int64_t)id);
			rowset_end_row(filler->rows);
			gate_kill_client(client);
			return;
		}
	}
}

/* ---- the letter ---- */

static void fill_peer_pools(const struct filler *filler)
{
	const struct config *config = filler->worker->routes->config;
	struct rowset *rows = filler->rows;

	for (size_t i = 0; i < config->peer_count; i++) {
		const unsigned id = (unsigned)strtoul(config->peers[i].name, NULL, 10);
		const struct cancel_peer_load load = cancel_peer_load(filler->worker, id);

		rowset_int(rows, id);
		rowset_int(rows, load.active);
		rowset_int(rows, load.waiting);
		rowset_int(rows, load.active - load.dialling);
		rowset_int(rows, load.dialling);
		rowset_end_row(rows);
	}
}

static void fill(struct filler *filler, enum view view)
{
	switch (view) {
	case VIEW_CLIENTS:
		clients_of_list(filler, &filler->worker->joining);
		for_each_pool(filler, clients_of_pool);
		break;
	case VIEW_SERVERS:
		for_each_pool(filler, servers_of_pool);
		break;
	case VIEW_SOCKETS:
		clients_of_list(filler, &filler->worker->joining);
		for_each_pool(filler, clients_of_pool);
		for_each_pool(filler, servers_of_pool);
		break;
	case VIEW_ACTIVE_SOCKETS:
		clients_of_list(filler, &filler->worker->joining);
		for_each_pool(filler, active_sockets_of_pool);
		break;
	case VIEW_FDS:
		accept_each(filler->worker, fd_of_listener, filler);
		for_each_pool(filler, fds_of_pool);
		break;
	case VIEW_KILLED:
		filler->id = filler->database;
		filler->database = NULL;
		for_each_pool(filler, kill_of_pool);
		break;
	case VIEW_BLOCKERS:
		for_each_pool(filler, blockers_of_pool);
		break;
	case VIEW_SEALED:
		fill_sealed(filler);
		break;
	case VIEW_SESSIONS:
		for_each_pool(filler, sessions_of_pool);
		break;
	case VIEW_POOLS:
		for_each_pool(filler, pool_row);
		break;
	case VIEW_STATS:
		fill_stats(filler);
		break;
	case VIEW_LOADS:
		fill_loads(filler);
		break;
	case VIEW_HISTOGRAMS:
		view_fill_histograms(filler->worker, filler->rows);
		break;
	case VIEW_GAUGES:
		view_fill_gauges(filler->worker, filler->rows);
		break;
	case VIEW_LIVES:
		view_fill_lives(filler->worker, filler->rows);
		break;
	case VIEW_ALIVE:
		rowset_int(filler->rows, filler->worker->index);
		rowset_end_row(filler->rows);
		break;
	case VIEW_ERRORS:
		fill_errors(filler);
		break;
	case VIEW_DNS_HOSTS:
		names_fill(filler->worker, filler->rows);
		break;
	case VIEW_PEER_POOLS:
		fill_peer_pools(filler);
		break;
	case VIEW_WORKERS:
		fill_worker(filler);
		break;
	default:
		log_error("worker %u was asked for view %d", filler->worker->index, (int)view);
		break;
	}
}

void view_answer(struct worker *worker, struct mail_view *mail)
{
	if (mail->view != VIEW_SESSIONS || !session_look(worker, mail))
		view_answer_now(worker, mail);
}

void view_answer_now(struct worker *worker, struct mail_view *mail)
{
	struct filler filler = {
	    .worker = worker,
	    .rows = fault_point("worker-view") ? NULL : malloc(sizeof(*filler.rows)),
	    .database = mail->database,
	    .now = clock_now(),
	    .wall = clock_wall(),
	};

	if (filler.rows != NULL) {
		rowset_init(filler.rows, (enum view)mail->view);
		fill(&filler, (enum view)mail->view);
	}
	mail->rows = filler.rows;
	mail->worker = worker->index;
	mail->letter.type = MAIL_ROWS;
	mailbox_post(&worker->proxy->mailbox, &mail->letter);
}
