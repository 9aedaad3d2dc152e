/* SPDX-License-Identifier: PostgreSQL */
#include "core/seal.h"

#include "core/conn_tls.h"
#include "core/pool.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

/* All are closed within so many ticks … */
#define CLOSE_TICKS 64
/* … once sessions have been set up, which are in more of a hurry; if that takes longer, all the
 * same. */
#define CLOSE_PATIENCE (10 * USEC_PER_SEC)

/* Nothing has come that nobody has read, the end least of all. */
static bool is_silent(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* *local: our side of it, by which it is recognized at the server. */
static bool seal_possible(const struct server *server, struct sock_name *local)
{
	if (server->doomed || server->for_swap || server->cancelling || server->client != NULL ||
	    server->replication != 0 || server->backend_pid == 0 || server->tx_status != 'I' ||
	    !server_quiet(server) || conn_unsent(&server->conn) > 0)
		return false;
	sock_local(server->conn.fd, local);
	return local->port != 0; /* a Unix socket: the server does not tell where its client is */
}

bool seal_is_silent(const struct server *server)
{
	return is_silent(server->conn.fd);
}

bool seal_keep(struct server *server)
{
	struct sock_name local;

	if (server->sealed_at == 0 && seal_possible(server, &local))
		server->sealed_at = server->worker->now;
	return server->sealed_at != 0;
}

bool seal_server(struct server *server)
{
	struct worker *worker = server->worker;
	struct database *database = server->pool->database;
	struct sealed *sealed;
	struct sock_name local;

	if (!seal_possible(server, &local) || conn_kept(&server->conn) > 0 ||
	    !seal_is_silent(server))
		return false;
	sealed = calloc(1, sizeof(*sealed));
	if (sealed == NULL)
		return false;
	sealed->pid = server->backend_pid;
	sealed->epoch = database->hold_epoch;
	sealed->since = server->sealed_at != 0 ? server->sealed_at : worker->now;
	sealed->local = local;
	sealed->conn.tls = conn_take_tls(&server->conn);
	sealed->conn.fd = conn_detach(&server->conn, worker);
	list_append(&database->sealed, &sealed->node);
	server_doom(server, SERVER_CLOSE_SEALED);
	return true;
}

static void seal_pool(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		(void)!seal_server(CONTAINER_OF(node, struct server, node));
	}
}

void seal_database(struct worker *worker, const char *name, uint64_t epoch)
{
	struct database *database = database_find(worker, name);
	struct list_node *node;
	struct list_node *tmp;

	if (database == NULL || !database->held || database->paused ||
	    database->hold_epoch != epoch)
		return;
	LIST_FOREACH(&database->pools, node, tmp)
	{
		seal_pool(CONTAINER_OF(node, struct pool, node));
	}
	session_seal(database);
}

static void ignore_event(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

static void seal_close(struct database *database, struct sealed *sealed)
{
	static const char terminate[5] = {'X', 0, 0, 0, 4};
	struct worker *worker = database->worker;
	const int fd = sealed->conn.fd;

	list_remove(&database->sealed, &sealed->node);
	/* So that the server does not log a lost connection. */
	if (conn_open(&sealed->conn, worker, fd, ignore_event, NULL))
		conn_send_last(&sealed->conn, worker, terminate, sizeof(terminate));
	else
		sealed->conn.events = 0;
	conn_close(&sealed->conn, worker);
	free(sealed);
}

static void seal_close_some(struct database *database, size_t most)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->sealed, node, tmp)
	{
		struct sealed *sealed = CONTAINER_OF(node, struct sealed, node);

		if (database->held && !database->sessions_returning &&
		    sealed->epoch == database->hold_epoch)
			continue;
		if (most-- == 0)
			break;
		seal_close(database, sealed);
	}
}

void seal_tick(struct database *database)
{
	const struct sealed *oldest;

	if (LIKELY(database->sealed.count == 0)) {
		database->seal_pace = 0;
		return;
	}
	if (database->seal_pace == 0)
		database->seal_pace = 1 + database->sealed.count / CLOSE_TICKS;
	oldest = CONTAINER_OF(list_first(&database->sealed), struct sealed, node);
	if (session_some_queued(database) && database->worker->now - oldest->since < CLOSE_PATIENCE)
		return;
	seal_close_some(database, database->seal_pace);
}

void seal_release(struct database *database)
{
	if (!database->swapped)
		seal_close_some(database, SIZE_MAX);
}

void seal_free(struct database *database)
{
	while (database->sealed.count > 0)
		seal_close(database,
		           CONTAINER_OF(list_first(&database->sealed), struct sealed, node));
}
