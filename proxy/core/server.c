/* SPDX-License-Identifier: PostgreSQL */
#include "core/server.h"

#include "base/log.h"
#include "base/mem.h"
#include "core/accept.h"
#include "core/boot.h"
#include "core/cancel.h"
#include "core/client.h"
#include "core/conn_tls.h"
#include "core/names.h"
#include "core/pool.h"
#include "core/promise.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/session_move.h"
#include "core/worker.h"
#include "net/sock.h"
#include "wire/build.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *server_state_name(enum server_state state)
{
	static const char *const names[] = {
#define SERVER_STATE(constant, name) [constant] = (name),
#include "core/server_states.def"
	};

	return names[state];
}

static const struct {
	const char *text;
	bool loud;
} close_reasons[] = {
#define SERVER_CLOSE(constant, text, loud) [constant] = {text, loud},
#include "core/server_close.def"
};

const char *server_close_text(enum server_close reason)
{
	return close_reasons[reason].text;
}

void server_set_state(struct server *server, enum server_state state)
{
	struct pool *pool = server->pool;

	if (list_linked(&server->node))
		list_remove(&pool->servers[server->state], &server->node);
	log_debug("server %s/%s pid %d: %s -> %s", pool->database->name, pool->user,
		  (int)server->backend_pid, server_state_name(server->state),
		  server_state_name(state));
	server->state = state;
	server->since = server->worker->now;
	/* The most recently used one first: the others get idle and can be closed. */
	if (state == SERVER_IDLE && LIKELY(!server->worker->routes->config->proxy.server_round_robin))
		list_prepend(&pool->servers[state], &server->node);
	else
		list_append(&pool->servers[state], &server->node);
	pool_publish_idle(pool);
}

static void server_found(void *arg, const struct evutil_addrinfo *list)
{
	const struct server *server = arg;

	names_found(server->worker, server->host, list);
}

static void server_dialled(void *arg, int fd, const char *error)
{
	struct server *server = arg;
	struct worker *worker = server->worker;

	server->dial = NULL;
	worker->now = clock_now();
	if (server->doomed) {
		if (fd >= 0)
			(void)close(fd);
	} else if (fd < 0) {
		/* The next attempt is another host's: once for all that fail together. */
		if (server->target->load_balance_hosts != CONFIG_BALANCE_ROUND_ROBIN &&
		    server->pool->host == server->host_number)
			server->pool->host++;
		server_doom(server, fd == DIAL_UNRESOLVED ? SERVER_CLOSE_DNS : SERVER_CLOSE_DIAL);
		pool_server_failed(server->pool, server, error, "");
	} else {
		const struct sock_keepalive keepalive =
		    accept_keepalive(&worker->routes->config->proxy);

		sock_tune(fd, &keepalive);
		if (conn_open(&server->conn, worker, fd, server_event, server)) {
			server_login_begin(server);
		} else {
			(void)close(fd);
			server->conn.fd = -1;
			server_doom(server, SERVER_CLOSE_MEMORY);
		}
	}
	worker_end_turn(worker);
}

unsigned server_host_count(const struct config_server *target)
{
	unsigned count = 1;

	for (const char *comma = strchr(target->host, ','); comma != NULL;
	     comma = strchr(comma + 1, ','))
		count++;
	return count;
}

/* One of several hosts.  False: no memory. */
static bool server_choose_host(struct server *server)
{
	const struct config_server *target = server->target;
	const char *at = target->host;
	const unsigned count = server_host_count(target);
	unsigned chosen;

	server->host = at;
	if (LIKELY(count == 1))
		return true;
	server->host_number = server->pool->host;
	chosen = server->host_number % count;
	if (target->load_balance_hosts == CONFIG_BALANCE_ROUND_ROBIN)
		server->pool->host++;
	while (chosen-- > 0)
		at = strchr(at, ',') + 1;
	server->host_text = strndup(at, strcspn(at, ","));
	server->host = server->host_text;
	return server->host != NULL;
}

static void server_start_dial(struct server *server)
{
	struct worker *worker = server->worker;

	server_set_state(server, SERVER_DIALING);
	server->dial = dial_start(worker->base, worker->dns, server->host, server->target->port,
				  server->routes->config->proxy.connect_timeout, server_dialled,
				  server);
	if (server->dial != NULL)
		dial_on_found(server->dial, server_found);
}

struct server *server_dial(struct pool *pool, struct route_table *routes,
			   const struct config_server *target, bool for_swap)
{
	struct worker *worker = pool->worker;
	struct server *server = calloc(1, sizeof(*server));

	if (server == NULL) {
		mem_complain("no server connection can be opened");
		if (!for_swap)
			pool_share_give_back(pool->share);
		return NULL;
	}
	atomic_fetch_add_explicit(&worker->proxy->server_count, 1, memory_order_relaxed);
	server->id = worker_new_client_id(worker);
	server->worker = worker;
	server->pool = pool;
	server->conn.fd = -1;
	server->for_swap = for_swap;
	server->counted = !for_swap;
	server->tx_status = 'I';
	server->target = target;
	server->routes = route_table_ref(routes);
	server->born = worker->now;
	server->role_losses = atomic_load(&pool->share->role_losses);
	server->boot = param_set_ref(boot_for_server(pool, for_swap));
	if (server_choose_host(server))
		server_start_dial(server);
	else
		server_set_state(server, SERVER_DIALING);
	if (server->dial == NULL)
		server_doom(server, SERVER_CLOSE_MEMORY);
	return server;
}

void server_redial(struct server *server)
{
	conn_close(&server->conn, server->worker);
	server_login_end(server);
	memset(&server->starttls, 0, sizeof(server->starttls));
	server->answered = false;
	server->protocol = 0;
	server->key_len = 0;
	param_set_unref(server->params);
	server->params = NULL;
	server_start_dial(server);
	if (server->dial == NULL)
		server_doom(server, SERVER_CLOSE_MEMORY);
}

void server_link(struct server *server, struct client *client)
{
	assert(server->client == NULL && client->server == NULL);
	promise_forget_server(server);
	promise_forget_client(client);
	server->client = client;
	client->server = server;
	resend_begin(server);
	server->pool->database->active++;
	server->checked = false;
	server->used = true;
	server->ready_at = server->worker->now;
	server_set_state(server, SERVER_ACTIVE);
	client_set_state(client, CLIENT_ACTIVE);
}

void server_unlink(struct server *server)
{
	struct database *database = server->pool->database;

	server->client->server = NULL;
	server->client = NULL;
	server->request_start = 0;
	server->xact_start = 0;
	server->failing = false;
	if (UNLIKELY(server->change.before != NULL || server->change.known != NULL) &&
	    !server->change.asking)
		change_forget(server);
	/* It may have been stopped because that client read slowly. */
	if (!server->doomed)
		conn_want_read(&server->conn, true);
	assert(database->active > 0);
	database->active--;
	if (UNLIKELY(database->held))
		gate_check_drained(database);
}

/* Why it has gone; of a session that is set up again when it can be, why that cannot be. */
static void server_tell_end(const struct server *server, char detail[256])
{
	const char *why = server_close_text((enum server_close)server->close_reason);

	if (server->client->in_session &&
	    server->worker->routes->config->proxy.session_recover_after > 0)
		(void)snprintf(detail, 256, "%s; its session cannot be set up on another one: %s",
		               why, session_unrecoverable(server));
	else
		(void)snprintf(detail, 256, "%s", why);
}

/* What the client is told, or where it goes, whose server has gone. */
static void server_leave_client(struct server *server)
{
	struct client *client = server->client;
	/* (The state of a session is asked when there is one, which would be lost.) */
	bool untouched = server_busy_inside(server) && server->move == NULL;

	if (client->doomed) {
		server_unlink(server);
	} else if (UNLIKELY(server->change.asking) && !client->parting &&
	           conn_kept(&client->conn) == 0 && (client->conn.events & EV_READ) != 0) {
		/* It had what it was owed, and has sent nothing since. */
		change_unanswered(server);
		server_unlink(server);
		client_set_state(client, CLIENT_IDLE);
	} else if (UNLIKELY(client->parting)) {
		server_unlink(server);
		client_doom(client, client->conn.eof ? CLIENT_CLOSE_PEER : CLIENT_CLOSE_TERMINATE);
	} else if (untouched) {
		/* Only the proxy's own query was sent: the client's request has all its life
		 * before it. */
		if (!server->proven)
			pool_server_failed(server->pool, server,
			                   server->error != NULL
			                       ? server->error
			                       : "the server closed the connection when it was to "
			                         "set parameters",
			                   server->error_sqlstate);
		if (UNLIKELY(server->change.asking))
			change_unanswered(server);
		server_unlink(server);
		pool_wait_first(server->pool, client);
	} else if (UNLIKELY(client->move != NULL) && session_recovers(server)) {
		session_recover(server);
	} else if (resend_take_back(server)) {
		; /* as if this server had never been */
	} else if (server->fatal_sent || server->left > 0) {
		/* It knows, or cannot be told in the middle of a message. */
		server_unlink(server);
		client_doom(client, CLIENT_CLOSE_SERVER_LOST);
	} else {
		char detail[256];

		server_tell_end(server, detail);
		server_unlink(server);
		client_doom_theirs(client, CLIENT_CLOSE_SERVER_LOST, "08006", "server conn crashed?",
				   "the server closed the connection unexpectedly",
				   detail,
				   "Connect again. If a COMMIT was under way, check whether it took "
				   "effect before you repeat the transaction.");
	}
}

bool server_has_leftover(const struct server *server, const char *sqlstate)
{
	return server->proven && sqlstate != NULL && strcmp(sqlstate, "57014") == 0;
}

void server_doom(struct server *server, enum server_close reason)
{
	if (server->doomed)
		return;
	if (reason == SERVER_CLOSE_MEMORY)
		mem_complain("server connections are closed");
	server->doomed = true;
	server->close_reason = (uint8_t)reason;
	promise_forget_server(server);
	if (server->client != NULL)
		server_leave_client(server);
	if (UNLIKELY(server->move != NULL))
		session_server_lost(server);
	if (list_linked(&server->node))
		list_remove(&server->pool->servers[server->state], &server->node);
	pool_publish_idle(server->pool);
	list_append(&server->worker->doomed_servers, &server->node);
}

void server_log(const struct server *server, enum log_level level, const char *fmt, ...)
{
	const struct log_about about = {.database = server->pool->database->name,
	                                .user = server->pool->user,
	                                .server = server->target->name,
	                                .server_pid = (int)server->backend_pid};
	va_list ap;

	va_start(ap, fmt);
	log_vwrite_about(&about, level, fmt, ap);
	va_end(ap);
}

void server_log_end(struct server *server)
{
	const struct pool *pool = server->pool;
	const usec_t age = server->worker->now - server->born;
	const bool quiet = !server->worker->routes->config->proxy.log_disconnections ||
			   pool->internal || pool->database->held;
	/* A login failed by the server's words, but for replication, as pgbouncer's log has it. */
	const bool login = server->close_reason == SERVER_CLOSE_LOGIN && server->error != NULL;
	const char *text = login && server->replication == 0
	                       ? server->error
	                       : server_close_text((enum server_close)server->close_reason);
	const char *error = login ? NULL : server->error;

	if (server->end_logged)
		return;
	server->end_logged = true;
	server_log(server,
		  close_reasons[server->close_reason].loud ? LOG_LEVEL_WARNING
		  : quiet                                  ? LOG_LEVEL_DEBUG
							   : LOG_LEVEL_INFO,
		  "closing because: %s%s%s (age=%lld.%03ds)",
		  text, error == NULL ? "" : ": ", error == NULL ? "" : error,
		  (long long)(age / USEC_PER_SEC), (int)(age % USEC_PER_SEC / 1000));
}

void server_destroy(struct server *server)
{
	struct pool *pool = server->pool;
	struct worker *worker = server->worker;
	const bool lacked_memory = server->close_reason == SERVER_CLOSE_MEMORY;

	list_remove(&worker->doomed_servers, &server->node);
	server_log_end(server);
	if (server->dial != NULL)
		dial_cancel(server->dial);
	if (server->conn.fd >= 0 && server->state != SERVER_DIALING &&
	    conn_unsent(&server->conn) == 0 && server->left_to == 0) {
		static const char terminate[5] = {'X', 0, 0, 0, 4};

		/* So that the server does not log a lost connection. */
		conn_send_last(&server->conn, worker, terminate, sizeof(terminate));
	}
	conn_close(&server->conn, worker);
	cancel_forget_server(worker, server);
	replication_forget_server(server);
	if (server->counted)
		pool_share_give_back(pool->share);
	if (server->for_swap && server->state != SERVER_PREPARED && server->state != SERVER_PARKED)
		gate_prepared(server, false);
	server_login_end(server);
	ledger_free(&server->ledger);
	param_set_unref(server->params);
	param_set_unref(server->boot);
	param_set_unref(server->refused);
	param_set_unref(server->tried);
	change_forget(server);
	server_stmts_free(&server->stmts);
	route_table_unref(server->routes);
	free(server->error);
	free(server->host_text);
	free(server->resend.data);
	explicit_bzero(server->key, sizeof(server->key));
	free(server);
	atomic_fetch_sub_explicit(&worker->proxy->server_count, 1, memory_order_relaxed);
	/* After lack of memory there may still be none: the next one is the tick's. */
	if (worker->stopping || lacked_memory)
		return;
	if (!pool->database->held)
		pool_kick(pool);
	/* What another pool of the database or user was waiting for. */
	limit_tell(worker, pool->share);
}

bool server_inject_query(struct server *server, const char *sql, size_t len)
{
	struct worker *worker = server->worker;
	uint8_t head[5] = {'Q'};
	enum conn_io io;

	assert(server_quiet(server));
	wire_put_be32(head + 1, (uint32_t)(len + 5));
	server->unnamed_id = 0; /* a simple Query destroys the unnamed statement */
	if (!ledger_owe(&server->ledger, OWES_HIDDEN_QUERY)) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return false;
	}
	free(server->error);
	server->error = NULL;
	io = conn_send_copy(&worker->to_server, &server->conn, worker, head, sizeof(head));
	if (io == CONN_IO_OK)
		io = conn_send_copy(&worker->to_server, &server->conn, worker, sql, len);
	if (io == CONN_IO_OK)
		io = conn_send_copy(&worker->to_server, &server->conn, worker, "", 1);
	if (io == CONN_IO_OK)
		io = conn_flush(&worker->to_server, worker);
	if (io != CONN_IO_OK) {
		server_doom(server, SERVER_CLOSE_IO);
		return false;
	}
	return true;
}

void server_release(struct server *server)
{
	struct pool *pool = server->pool;
	bool session = server->client != NULL && server->client->in_session;
	const struct config_proxy *conf = &server->worker->routes->config->proxy;

	if (server->client != NULL)
		server_unlink(server);
	if (LIKELY(!(session || conf->server_reset_query_always) ||
		   conf->server_reset_query[0] == '\0'))
		pool_server_free(pool, server);
	else if (server->cancelling)
		server_doom(server, SERVER_CLOSE_CANCELLED); /* it would hit the reset */
	else
		(void)!server_start_task(server, SERVER_TASK_RESET, conf->server_reset_query);
}

bool server_start_task(struct server *server, enum server_task task, const char *sql)
{
	server->task = task;
	/* connect_query is a part of the login. */
	if (task == SERVER_TASK_CONNECT)
		server->connected = true;
	else
		server_set_state(server, SERVER_RESETTING);
	return server_inject_query(server, sql, strlen(sql));
}

bool server_pack(struct server *server, struct server_parcel *parcel)
{
	if (server->state != SERVER_IDLE || server->doomed || pool_outdated(server->pool, server) ||
	    server->cancelling || !server_quiet(server) || conn_kept(&server->conn) > 0 ||
	    conn_unsent(&server->conn) > 0)
		return false;
	parcel->params = param_set_encode(server->params, &parcel->params_len);
	if (parcel->params == NULL)
		return false;
	parcel->boot = NULL;
	if (server->boot != NULL) {
		parcel->boot = param_set_encode(server->boot, &parcel->boot_len);
		if (parcel->boot == NULL) {
			free(parcel->params);
			return false;
		}
		param_set_replace(&server->boot, NULL);
	}
	param_set_replace(&server->refused, NULL);
	promise_forget_server(server);
	list_remove(&server->pool->servers[server->state], &server->node);
	pool_publish_idle(server->pool);
	param_set_unref(server->params);
	server->params = NULL;
	server->unnamed_id = 0;
	parcel->tls = conn_take_tls(&server->conn);
	parcel->fd = conn_detach(&server->conn, server->worker);
	parcel->server = server;
	server->worker = NULL;
	server->pool = NULL;
	return true;
}

struct server *server_unpack(struct server_parcel *parcel, struct pool *pool)
{
	struct server *server = parcel->server;
	struct worker *worker = pool->worker;
	bool lost = false;

	server->worker = worker;
	server->pool = pool;
	server->params = param_set_decode(worker->params, parcel->params, parcel->params_len);
	free(parcel->params);
	parcel->params = NULL;
	if (parcel->boot != NULL) {
		server->boot = param_set_decode(worker->params, parcel->boot, parcel->boot_len);
		lost = server->boot == NULL;
		free(parcel->boot);
		parcel->boot = NULL;
	}
	server_set_state(server, SERVER_IDLE);
	server->conn.tls = parcel->tls;
	if (!conn_open(&server->conn, worker, parcel->fd, server_event, server)) {
		server->conn.fd = parcel->fd;
		server->conn.events = 0;
		server_doom(server, SERVER_CLOSE_MEMORY);
		return NULL;
	}
	if (server->params == NULL || lost) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return NULL;
	}
	return server;
}

void server_drop_parcel(struct server_parcel *parcel, struct pool_share *share)
{
	struct server *server = parcel->server;

	if (parcel->fd < 0)
		return;
	pool_share_give_back(share);
	tls_free(parcel->tls);
	(void)close(parcel->fd);
	free(parcel->params);
	free(parcel->boot);
	ledger_free(&server->ledger);
	server_stmts_free(&server->stmts);
	route_table_unref(server->routes);
	free(server->error);
	free(server->host_text);
	free(server->resend.data);
	free(server);
}

void server_event(evutil_socket_t fd, short what, void *arg)
{
	struct server *server = arg;
	struct worker *worker = server->worker;

	(void)fd;
	worker->now = clock_now();
	if (!server->doomed && (what & EV_WRITE) != 0) {
		enum conn_io io = conn_write_more(&server->conn, worker);

		if (io == CONN_IO_ERROR)
			server_doom(server, SERVER_CLOSE_IO);
		else if (io != CONN_IO_OK || server->client == NULL || server->client->doomed ||
			 (what & EV_READ) != 0)
			; /* its client goes on when it can, or after what is to be read */
		else
			client_go_on(server->client);
	}
	/* Either of these may have given the server away: nothing is to follow. */
	if ((what & EV_READ) != 0 && !server->doomed) {
		if (server->state == SERVER_LOGIN && !server_busy_inside(server))
			server_login_readable(server);
		else
			server_readable(server);
	}
	worker_end_turn(worker);
}
