/* SPDX-License-Identifier: PostgreSQL */
#include "core/client.h"

#include "auth/crypto.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/address.h"
#include "core/client_login.h"
#include "core/pool.h"
#include "core/promise.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/session_see.h"
#include "core/tally.h"
#include "core/worker.h"
#include "net/sock.h"
#include "wire/build.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

const char *client_state_name(enum client_state state)
{
	static const char *const names[] = {
#define CLIENT_STATE(constant, name) [constant] = (name),
#include "core/client_states.def"
	};

	return names[state];
}

static const struct {
	const char *text;
	bool told;
} close_reasons[] = {
#define OURS false
#define TOLD true
#define CLIENT_CLOSE(constant, text, whose) [constant] = {text, whose},
#include "core/client_close.def"
#undef OURS
#undef TOLD
};

const char *client_close_text(enum client_close reason)
{
	return close_reasons[reason].text;
}

const char *client_user(const struct client *client)
{
	/* Clients of our own have no name but that of their pool. */
	if (client->user_share != NULL)
		return client->user_share->name;
	return client->pool != NULL ? client->pool->user : client_login_user(client);
}

const char *client_database(const struct client *client)
{
	return client->pool != NULL ? client->pool->database->name : client_login_database(client);
}

static struct list *client_list(struct client *client)
{
	return client->pool != NULL ? &client->pool->clients[client->state]
	                            : &client->worker->joining;
}

void client_set_state(struct client *client, enum client_state state)
{
	const bool waited = client->state == CLIENT_WAITING;

	if (list_linked(&client->node))
		list_remove(client_list(client), &client->node);
	if (waited && client->counted_held)
		gate_uncount_held(client);
	client->state = (uint8_t)state;
	client->notified = false;
	client->since = client->worker->now;
	list_append(client_list(client), &client->node);
	if ((waited || state == CLIENT_WAITING) && client->pool != NULL)
		pool_publish_waiting(client->pool);
}

/* ---- life ---- */

/* Connections that have not proved anything yet are bounded apart from the others: at the bound the
 * oldest of them goes, so that nobody can keep people out by doing nothing. */
static void client_bound_logins(struct client *client)
{
	struct worker *worker = client->worker;
	const struct config_proxy *conf = &worker->routes->config->proxy;
	size_t most =
	    (size_t)(conf->max_logins > 0 ? conf->max_logins : conf->max_client_connections) /
	    worker->proxy->worker_count;
	struct client *oldest;

	if (conf->max_logins_per_address > 0 &&
	    !address_enter(worker->proxy->addresses, client->conn.fd, conf->max_logins_per_address,
	                   &client->login->address)) {
		client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "53300",
		                  "too many logins at a time from this address", NULL, NULL);
		return;
	}
	if (worker->joining.count <= (most < 16 ? 16 : most))
		return;
	oldest = CONTAINER_OF(list_first(&worker->joining), struct client, node);
	if (oldest->state == CLIENT_AUTH)
		client_doom_fatal(oldest, CLIENT_CLOSE_LIMIT, "53300", "too many logins at a time",
		                  NULL, "Try again.");
	else
		client_doom(oldest, CLIENT_CLOSE_LIMIT);
}

/* The server's answer ends with a whole message: something can be put behind it. */
static bool client_between_messages(const struct client *client)
{
	return client->server == NULL || client->server->left == 0 || client->server->left_hidden;
}

/* What can be sent without asking for memory. */
static const char no_memory[] = "E\0\0\0\x29SFATAL\0VFATAL\0C53200\0Mout of memory\0";

static void client_tell_memory(struct client *client)
{
	struct worker *worker = client->worker;

	mem_complain("client connections are closed");
	if (client->conn.fd < 0 || !client_between_messages(client))
		return;
	if (worker->to_client.conn == &client->conn &&
	    conn_flush(&worker->to_client, worker) != CONN_IO_OK)
		return;
	conn_send_last(&client->conn, worker, no_memory, sizeof(no_memory));
}

void client_accept(struct worker *worker, int fd, bool readable)
{
	struct client *client = client_new(worker, fd);

	worker->stats.accepted++;
	if (client == NULL) {
		mem_complain("connections are closed");
		return;
	}
	client_bound_logins(client);
	if (readable && !client->doomed)
		client_login_readable(client);
}

static void client_turn_away(struct worker *worker, int fd)
{
	(void)send(fd, no_memory, sizeof(no_memory), MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)close(fd);
	atomic_fetch_sub(&worker->proxy->client_count, 1);
	atomic_fetch_sub(&worker->client_count, 1);
}

struct client *client_new(struct worker *worker, int fd)
{
	struct client *client = calloc(1, sizeof(*client));

	if (client == NULL) {
		client_turn_away(worker, fd);
		return NULL;
	}
	client->worker = worker;
	client->conn.fd = -1;
	client->id = worker_new_client_id(worker);
	client->connected = worker->now;
	sock_peer_address(fd, &client->peer);
	if (!crypto_random(&client->cancel_key, sizeof(client->cancel_key)) ||
	    !share_slot_take(worker->proxy->shares, worker->index, &client->slot)) {
		client_turn_away(worker, fd);
		free(client);
		return NULL;
	}
	client_set_state(client, CLIENT_STARTUP);
	if (!client_login_begin(client) ||
	    !conn_open(&client->conn, worker, fd, client_event, client)) {
		client->conn.fd = fd;
		client->conn.events = 0;
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return NULL;
	}
	return client;
}

void client_doom(struct client *client, enum client_close reason)
{
	if (client->doomed)
		return;
	if (reason == CLIENT_CLOSE_MEMORY)
		client_tell_memory(client);
	client->doomed = true;
	client->close_reason = (uint8_t)reason;
	promise_forget_client(client);
	list_remove(client_list(client), &client->node);
	if (client->state == CLIENT_WAITING) {
		if (client->counted_held)
			gate_uncount_held(client);
		pool_publish_waiting(client->pool);
	}
	list_append(&client->worker->doomed_clients, &client->node);
}

/* Once, for the first reason. */
static void client_log_end(struct client *client, enum client_close reason)
{
	const struct config_proxy *conf = &client->worker->routes->config->proxy;
	usec_t age = client->worker->now - client->connected;
	const bool logged = client->end_logged;

	client->end_logged = true;
	if (logged || !conf->log_disconnections || !log_wanted(LOG_LEVEL_INFO) ||
	    (client->pool != NULL && client->pool->internal) ||
	    reason == CLIENT_CLOSE_CANCEL || reason == CLIENT_CLOSE_CONSOLE)
		return;
	client_log(client, LOG_LEVEL_INFO, "closing because: %s (age=%lld.%03ds)",
	           client->told != NULL ? client->told : client_close_text(reason),
	           (long long)(age / USEC_PER_SEC), (int)(age % USEC_PER_SEC / 1000));
}

void client_doom_fatal(struct client *client, enum client_close reason, const char *sqlstate,
                       const char *message, const char *detail, const char *hint)
{
	const struct wire_error error = {.severity = "FATAL",
	                                 .sqlstate = sqlstate,
	                                 .message = message,
	                                 .detail = detail,
	                                 .hint = hint};
	struct worker *worker = client->worker;
	struct sbuf out;

	if (client->doomed)
		return;
	tally_client(client, sqlstate, TALLY_PROXY);
	/* Before the client knows: who has seen the error finds it in the log. */
	if (worker->routes->config->proxy.log_pooler_errors)
		client_log(client, LOG_LEVEL_INFO, "FATAL %s: %s", sqlstate, message);
	if (close_reasons[reason].told && client->told == NULL)
		client->told = strdup(message);
	client_log_end(client, reason);
	sbuf_init(&out, 8192);
	/* In the middle of a message of the server's the text would be taken for data. */
	if (client_between_messages(client))
		wire_add_error(&out, &error);
	/* The connection ends in any case: whether it can be told is the network's business. */
	if (sbuf_ok(&out) &&
	    conn_send_copy(&worker->to_client, &client->conn, worker, sbuf_text(&out), out.len) ==
	        CONN_IO_OK &&
	    conn_flush(&worker->to_client, worker) != CONN_IO_OK)
		reason = CLIENT_CLOSE_IO;
	sbuf_free(&out);
	client_doom(client, reason);
}

void client_doom_words(struct client *client, enum client_close reason, const char *sqlstate,
                       const char *message, const char *words)
{
	/* Where there is no memory for them the message will do. */
	client->told = strdup(words);
	client_doom_fatal(client, reason, sqlstate, message, words, NULL);
}

void client_doom_theirs(struct client *client, enum client_close reason, const char *sqlstate,
                        const char *theirs, const char *message, const char *detail,
                        const char *hint)
{
	const bool as_pgbouncer = client->worker->routes->config->proxy.as_pgbouncer;

	client_doom_fatal(client, reason, sqlstate, as_pgbouncer ? theirs : message,
	                  detail == NULL && as_pgbouncer ? message : detail, hint);
}

void client_notice(struct client *client, const char *message)
{
	const struct wire_error notice = {
	    .severity = "NOTICE", .sqlstate = "00000", .message = message};
	struct worker *worker = client->worker;
	struct sbuf out;

	if (client->doomed || (client->server != NULL && client->server->left > 0))
		return;
	sbuf_init(&out, 8192);
	wire_add_notice(&out, &notice);
	if (sbuf_ok(&out) && (conn_send_copy(&worker->to_client, &client->conn, worker,
	                                     sbuf_text(&out), out.len) != CONN_IO_OK ||
	                      conn_flush(&worker->to_client, worker) != CONN_IO_OK))
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(&out);
}

bool client_admit(struct client *client)
{
	struct worker *worker = client->worker;
	const unsigned most = (unsigned)worker->routes->config->proxy.max_client_connections;

	client->admitted = atomic_fetch_add(&worker->proxy->admitted, 1) < most;
	if (!client->admitted)
		atomic_fetch_sub(&worker->proxy->admitted, 1);
	return client->admitted;
}

void client_unadmit(struct client *client, struct proxy *proxy)
{
	if (client->admitted)
		atomic_fetch_sub(&proxy->admitted, 1);
	client->admitted = false;
}

void client_uncount(struct client *client, struct database_share *database)
{
	if (client->user_share == NULL || !client->counted)
		return;
	share_uncount_client(client->user_share, database);
	client->counted = false;
}

void client_peer(const struct client *client, struct sock_name *peer)
{
	sock_address_name(&client->peer, peer);
}

void client_log(const struct client *client, enum log_level level, const char *fmt, ...)
{
	struct log_about about = {.database = client_database(client),
	                          .user = client_user(client),
	                          .client_id = client->id};
	struct sock_name peer;
	va_list ap;

	if (!log_wanted(level))
		return;
	client_peer(client, &peer);
	about.client_address = peer.addr;
	about.client_port = peer.port;
	va_start(ap, fmt);
	log_vwrite_about(&about, level, fmt, ap);
	va_end(ap);
}

/* The server of a client that leaves: of use to others if nothing is open on it. */
static void client_leave_server(struct client *client)
{
	struct server *server = client->server;
	bool reusable =
	    server_quiet(server) && !server->doomed && LIKELY(server->replication == 0);

	if (reusable) {
		server_release(server);
		return;
	}
	if (UNLIKELY(server->change.asking) && !server->doomed) {
		change_go_on_alone(server);
		return;
	}
	server_unlink(server);
	server_doom(server, SERVER_CLOSE_CLIENT_GONE);
}

void client_destroy(struct client *client)
{
	struct worker *worker = client->worker;

	list_remove(&worker->doomed_clients, &client->node);
	client_log_end(client, (enum client_close)client->close_reason);
	replication_forget_client(client);
	session_end(client);
	session_see_end(client);
	if (client->server != NULL)
		client_leave_server(client);
	client_stmts_free(client->stmts);
	param_set_unref(client->params);
	param_set_unref(client->boot);
	client_login_free(client);
	conn_close(&client->conn, worker);
	if (!client->slot_given)
		share_slot_give_back(worker->proxy->shares, client->slot);
	client_unadmit(client, worker->proxy);
	if (client->counted)
		client_uncount(client, client->pool->database->share);
	/* Those of our own are not counted from their pool on. */
	if (client->pool == NULL || !client->pool->internal) {
		atomic_fetch_sub(&worker->proxy->client_count, 1);
		atomic_fetch_sub(&worker->client_count, 1);
	}
	change_end_doubt(client);
	free(client->told);
	free(client);
}

void client_leave_at_shutdown(struct client *client)
{
	/* Replication goes on for ever. */
	if (client->server == NULL || server_quiet(client->server) || client->replication != 0)
		client_doom_theirs(client, CLIENT_CLOSE_SHUTDOWN, "57P01", "server shutting down",
		                   "terminating connection due to administrator command",
		                  "The proxy shuts down.", NULL);
}

void client_event(evutil_socket_t fd, short what, void *arg)
{
	struct client *client = arg;
	struct worker *worker = client->worker;

	(void)fd;
	worker->now = clock_now();
	if (!client->doomed && (what & EV_WRITE) != 0) {
		enum conn_io io = conn_write_more(&client->conn, worker);

		if (io == CONN_IO_ERROR) {
			client_doom(client, CLIENT_CLOSE_IO);
		} else if (io == CONN_IO_OK) {
			if (client->server != NULL)
				conn_want_read(&client->server->conn, true);
			client_go_on(client);
		}
	}
	if (!client->doomed && (what & EV_READ) != 0) {
		if (client->login != NULL)
			client_login_readable(client);
		else
			client_readable(client);
	}
	worker_end_turn(worker);
}
