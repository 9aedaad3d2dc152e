/* SPDX-License-Identifier: PostgreSQL */
/*
 * The login of a server connection, from the StartupMessage to the first ReadyForQuery (PostgreSQL
 * documentation 55.2.1).  Worker thread.
 */
#include "auth/userlist.h"
#include "base/endpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/auth_query.h"
#include "core/boot.h"
#include "core/client.h"
#include "core/compute.h"
#include "core/conn_tls.h"
#include "core/named_user.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/secure.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/worker.h"
#include "net/sock.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOGIN_MESSAGE_MAX ((size_t)64 * 1024)

/* Whom to log in as.  NULL: no memory, or the secret cannot be read. */
static struct auth_user *server_login_user(struct server *server, struct sbuf *why)
{
	const struct route *route = route_find(server->routes, server->pool->database->name);
	struct auth_user *user;

	if (server->pool->internal)
		return auth_query_role(server->pool, why);
	if (route != NULL && route->database->user[0] != '\0')
		return named_user(server->worker, route->database, why);
	user = userlist_find(server->worker->users, server->pool->user);
	if (user == NULL)
		user = server->pool->auth_user;
	if (user != NULL)
		return auth_user_ref(user);
	user = auth_query_last(server->pool);
	return user != NULL ? user : auth_user_new(server->pool->user, NULL);
}

static struct secure_server *server_secure(const struct server *server)
{
	return &server->routes->secure->servers[server->target->index];
}

static bool server_login_send(struct server *server, struct sbuf *out)
{
	struct worker *worker = server->worker;
	enum conn_io io = CONN_IO_ERROR;

	if (sbuf_ok(out)) {
		io = conn_send_copy(&worker->to_server, &server->conn, worker, sbuf_text(out),
				    out->len);
		if (io == CONN_IO_OK)
			io = conn_flush(&worker->to_server, worker);
	}
	/* Answers of SCRAM are not secrets, a cleartext password is. */
	if (out->data != NULL)
		explicit_bzero(out->data, out->len);
	if (io != CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
	return io == CONN_IO_OK;
}

/* Ends the login with an error that the pool's clients may see. */
static void server_login_fail(struct server *server, const char *error, const char *sqlstate)
{
	free(server->error);
	server->error = strdup(error);
	server_doom(server, SERVER_CLOSE_LOGIN);
	pool_server_failed(server->pool, server, error, sqlstate);
}

static void server_login_startup(struct server *server);

/*
 * Another way to log in that the server may like better, after it refused (or broke) this one; false:
 * there is none.  As libpq goes about sslmode prefer and allow; and a server that does not know
 * protocol 3.2 and does not say so as it should.
 */
static bool server_login_again(struct server *server, const char *sqlstate)
{
	struct secure_server *secure = server_secure(server);
	const bool broken = sqlstate[0] == '\0';
	const bool encrypted = server->starttls.stage != STARTTLS_NONE;

	if (server->protocol > 0 && !server->answered && !starttls_pending(&server->starttls) &&
	    !server->try_old &&
	    (broken || strcmp(sqlstate, "0A000") == 0 || strcmp(sqlstate, "08P01") == 0)) {
		server->try_old = true;
		if (!broken)
			atomic_store(&secure->old_protocol, true);
	} else if (secure->sslmode == CONFIG_SSL_PREFER && encrypted && !server->try_plain &&
		   (broken || strcmp(sqlstate, "28000") == 0)) {
		server->try_plain = true;
	} else if (secure->sslmode == CONFIG_SSL_ALLOW && !encrypted && !server->try_tls &&
		   strcmp(sqlstate, "28000") == 0) {
		server->try_tls = true;
	} else {
		return false;
	}
	log_debug("server %s/%s: login is tried another way", server->pool->database->name,
		  server->pool->user);
	server_redial(server);
	return true;
}

static void server_login_encrypted(struct server *server, enum starttls_result result,
				   const char *why)
{
	char text[256];
	bool lost;

	switch (result) {
	case STARTTLS_MORE:
		return;
	case STARTTLS_OPEN:
		server_login_startup(server);
		return;
	case STARTTLS_REFUSED:
		if (server_secure(server)->sslmode >= CONFIG_SSL_REQUIRE)
			server_login_fail(server, "the server does not support TLS, which sslmode demands",
					  "28000");
		else
			server_login_startup(server);
		return;
	case STARTTLS_FAILED:
		(void)snprintf(text, sizeof(text), "TLS: %s", why);
		lost = server->starttls.lost;
		if (!server_login_again(server, ""))
			server_login_fail(server, text, lost ? "" : "28000");
		return;
	}
}

void server_login_begin(struct server *server)
{
	struct secure_server *secure = server_secure(server);
	const char *why = "";

	server_set_state(server, SERVER_LOGIN);
	if (secure->context == NULL || endpoint_is_unix(server->host) || server->try_plain ||
	    (secure->sslmode == CONFIG_SSL_ALLOW && !server->try_tls)) {
		server_login_startup(server);
		return;
	}
	server_login_encrypted(server,
			       starttls_begin(&server->starttls, &server->conn, server->worker,
					      secure->context, server->host, secure->direct, &why),
			       why);
}

/* What binds the login to the server's certificate. */
static void server_login_bind(struct server *server)
{
	static const enum server_binding policies[] = {
	    [CONFIG_BINDING_DISABLE] = SERVER_BINDING_DISABLE,
	    [CONFIG_BINDING_PREFER] = SERVER_BINDING_PREFER,
	    [CONFIG_BINDING_REQUIRE] = SERVER_BINDING_REQUIRE,
	};
	uint8_t digest[TLS_DIGEST_MAX];
	const struct tls *tls = server->conn.tls;
	size_t len = tls == NULL ? 0 : tls_binding(tls, digest);

	server_auth_bind(server->auth, policies[server_secure(server)->channel_binding],
			 tls != NULL, digest, len);
}

static void server_login_startup(struct server *server)
{
	struct secure_server *secure = server_secure(server);
	const struct route *route = route_find(server->routes, server->pool->database->name);
	struct auth_user *user;
	struct sbuf out;
	struct sbuf why;
	size_t start;

	server->protocol = secure->protocol == CONFIG_PROTOCOL_3_2 && !server->try_old &&
				   !atomic_load(&secure->old_protocol)
			       ? 2
			       : 0;
	sbuf_init(&why, 512);
	user = server_login_user(server, &why);
	if (user == NULL || route == NULL) {
		if (route == NULL || why.len > 0)
			server_login_fail(server, why.len > 0 ? sbuf_text(&why) : "no such route",
			                  "28000");
		else
			server_doom(server, SERVER_CLOSE_MEMORY);
		sbuf_free(&why);
		auth_user_unref(user);
		return;
	}
	sbuf_free(&why);
	server->auth = server_auth_new(user);
	sbuf_init(&out, WIRE_STARTUP_MAX);
	start = wire_begin_startup(&out, WIRE_PROTOCOL(3, server->protocol));
	wire_add_startup_param(&out, "user", auth_user_name(user));
	wire_add_startup_param(&out, "database",
			       route_dbname(route, server->pool->database->name));
	if (route->database->client_encoding[0] != '\0')
		wire_add_startup_param(&out, "client_encoding", route->database->client_encoding);
	if (route->database->datestyle[0] != '\0')
		wire_add_startup_param(&out, "DateStyle", route->database->datestyle);
	if (route->database->timezone[0] != '\0')
		wire_add_startup_param(&out, "TimeZone", route->database->timezone);
	if (route->database->application_name[0] != '\0')
		wire_add_startup_param(&out, "application_name", route->database->application_name);
	(void)!boot_write(server, &out);
	if (UNLIKELY(server->replication != 0))
		wire_add_startup_param(&out, "replication",
				       server->replication == WIRE_REPLICATION_LOGICAL ? "database"
										       : "true");
	wire_end_startup(&out, start);
	auth_user_unref(user);
	if (server->auth == NULL || !sbuf_ok(&out)) {
		server_doom(server, SERVER_CLOSE_MEMORY);
	} else {
		server_login_bind(server);
		(void)server_login_send(server, &out);
	}
	sbuf_free(&out);
}

/* The server speaks an older version than was asked for: comes before all else. */
static bool server_login_negotiate(struct server *server, const uint8_t *body, size_t len)
{
	uint32_t version;
	uint32_t options;

	if (!wire_parse_negotiate(body, len, &version, &options) || options != 0 ||
	    server->answered || version >> 16 != 3 || (version & 0xffff) >= server->protocol)
		return false;
	server->protocol = (uint8_t)(version & 0xffff);
	return true;
}

static void server_login_error(struct server *server, const uint8_t *body, size_t len)
{
	struct wire_error error;

	if (!wire_parse_error(body, len, &error)) {
		server_login_fail(server, "the server sent a malformed error", "08P01");
		return;
	}
	if (boot_refused(server, &error))
		return;
	if (!server_login_again(server, error.sqlstate == NULL ? "XX000" : error.sqlstate))
		server_login_fail(server, error.message == NULL ? "unknown error" : error.message,
				  error.sqlstate == NULL ? "XX000" : error.sqlstate);
}

static void server_login_result(struct server *server, enum auth_status status, struct sbuf *out);

static void server_login_run(struct compute_job *job)
{
	server_auth_compute(job->subject);
}

static void server_login_computed(struct compute_job *job)
{
	struct server *server = job->owner;
	struct sbuf out;

	if (server == NULL) {
		server_auth_free(job->subject);
		free(job);
		return;
	}
	server->job = NULL;
	free(job);
	sbuf_init(&out, WIRE_AUTH_TOKEN + 1); /* with its type */
	server_login_result(server, server_auth_resume(server->auth, &out), &out);
	sbuf_free(&out);
}

/* The keys for the server's salt take a while; meanwhile the server has nothing to say. */
static void server_login_compute(struct server *server)
{
	struct compute_job *job = calloc(1, sizeof(*job));

	if (job != NULL) {
		job->worker = server->worker->index;
		job->for_server = true;
		job->subject = server->auth;
		job->owner = server;
		job->run = server_login_run;
		job->done = server_login_computed;
		if (compute_post(server->worker->proxy->compute, job)) {
			server->job = job;
			return;
		}
		free(job);
	}
	server_doom(server, SERVER_CLOSE_MEMORY);
}

static void server_login_result(struct server *server, enum auth_status status, struct sbuf *out)
{
	if (status == AUTH_FAILED)
		server_login_fail(server, server_auth_error(server->auth),
		                  server_auth_failed_here(server->auth) ? "53200" : "28000");
	else if (status == AUTH_COMPUTE)
		server_login_compute(server);
	else if (out->len > 0)
		(void)server_login_send(server, out);
	if (status == AUTH_OK) {
		server_auth_free(server->auth);
		server->auth = NULL;
	}
}

static void server_login_auth(struct server *server, const uint8_t *body, size_t len)
{
	struct sbuf out;

	if (server->auth == NULL || server->job != NULL) {
		server_login_fail(server, "authentication request out of turn", "08P01");
		return;
	}
	sbuf_init(&out, WIRE_AUTH_TOKEN + 1); /* with its type */
	server_login_result(server, server_auth_feed(server->auth, body, len, &out), &out);
	sbuf_free(&out);
}

void server_login_end(struct server *server)
{
	if (server->job != NULL)
		server->job->owner = NULL; /* and frees the auth when it comes back */
	else
		server_auth_free(server->auth);
	server->job = NULL;
	server->auth = NULL;
}

static bool server_login_parameter(struct server *server, const uint8_t *body, size_t len)
{
	const char *name;
	const char *value;
	struct param_set *set;

	if (!wire_parse_parameter_status(body, len, &name, &value))
		return false;
	errno = 0;
	set = param_set_with(server->worker->params, server->params, name, value, true);
	if (set == NULL && errno == ENOMEM) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return true;
	}
	if (set == NULL)
		return false;
	param_set_replace(&server->params, set);
	return true;
}

static void server_login_log(const struct server *server)
{
	const struct pool *pool = server->pool;
	struct sock_name local;
	struct sock_name peer;
	char tls[TLS_TEXT_MAX];

	if (!server->worker->routes->config->proxy.log_connections || pool->internal ||
	    pool->database->held || !log_wanted(LOG_LEVEL_INFO))
		return;
	sock_local(server->conn.fd, &local);
	sock_peer(server->conn.fd, &peer);
	log_write_about(&(struct log_about){.database = pool->database->name,
	                                    .user = pool->user,
	                                    .server = server->target->name,
	                                    .server_address = peer.addr,
	                                    .server_port = peer.port,
	                                    .server_pid = (int)server->backend_pid},
	                LOG_LEVEL_INFO, "new connection to server (from %s)%s%s",
	                endpoint_text(local.addr, local.port).text,
	                server->conn.tls == NULL ? "" : " tls=", conn_tls_text(&server->conn, tls));
}

/* What is to be run before the login counts, or NULL. */
static const char *server_first_query(const struct server *server)
{
	const struct route *route = route_find(server->routes, server->pool->database->name);
	const char *read_only = param_set_get(server->params, PARAM_READ_ONLY);

	if (route != NULL && route->database->connect_query[0] != '\0')
		return route->database->connect_query;
	/* A backend that was forked before the server's configuration was reloaded says what it was
	 * then, and takes the new one with its first command.  Clients would be read-only for good. */
	if (UNLIKELY(read_only != NULL && strcmp(read_only, "on") == 0) &&
	    param_set_find(server->boot, PARAM_READ_ONLY) == NULL)
		return ";";
	return NULL;
}

void server_login_done(struct server *server)
{
	struct pool *pool = server->pool;
	const char *first;
	const char *warm;

	server->tx_status = 'I';
	if (UNLIKELY(server->replication != 0)) {
		replication_begin(server);
		return;
	}
	server->checked = true; /* by its login */
	first = server->connected ? NULL : server_first_query(server);
	if (UNLIKELY(first != NULL)) {
		(void)!server_start_task(server, SERVER_TASK_CONNECT, first);
		return;
	}
	server_login_log(server);
	pool_login_succeeded(pool, server);
	if (server->boot != NULL)
		boot_reset_params(server);
	if (UNLIKELY(server->move != NULL)) {
		session_server_ready(server);
		return;
	}
	if (!server->for_swap) {
		pool_server_free(pool, server);
		return;
	}
	warm = server->routes->config->proxy.swap_warm_query;
	if (warm[0] == '\0' || pool->database->swap_trial) {
		gate_prepared(server, true);
		return;
	}
	server_set_state(server, SERVER_WARMING);
	(void)!server_inject_query(server, warm, strlen(warm));
}

/* One whole message of the login; the server may be doomed after it. */
static void server_login_message(struct server *server, uint8_t type, const uint8_t *body,
				 size_t len)
{
	uint32_t pid;
	const uint8_t *key;
	size_t key_len;
	bool good = true;

	switch (type) {
	case BE_AUTHENTICATION:
		server_login_auth(server, body, len);
		break;
	case BE_ERROR_RESPONSE:
		server_login_error(server, body, len);
		break;
	case BE_PARAMETER_STATUS:
		good = server->auth == NULL && server_login_parameter(server, body, len);
		break;
	case BE_BACKEND_KEY_DATA:
		good =
		    server->auth == NULL && wire_parse_backend_key(body, len, &pid, &key, &key_len);
		if (good) {
			server->backend_pid = (int32_t)pid;
			memcpy(server->key, key, key_len);
			server->key_len = (uint16_t)key_len;
		}
		break;
	case BE_NEGOTIATE_PROTOCOL_VERSION:
		good = server_login_negotiate(server, body, len);
		break;
	case BE_NOTICE_RESPONSE:
		break;
	default:
		good = false;
		break;
	}
	if (server->state == SERVER_LOGIN && type != BE_NOTICE_RESPONSE)
		server->answered = true;
	if (!good)
		server_login_fail(server, "the server sent an unexpected message during the login",
				  "08P01");
}

static void server_login_lost(struct server *server)
{
	const struct tls *tls = server->conn.tls;
	char text[256];

	/* For example: TLS 1.3 tells only now that our certificate was not liked. */
	if (tls != NULL && tls_error(tls)[0] != '\0')
		(void)snprintf(text, sizeof(text), "TLS: %s", tls_error(tls));
	else
		(void)snprintf(text, sizeof(text),
			       "the server closed the connection during the login");
	if (!server_login_again(server, ""))
		server_login_fail(server, text, "");
}

void server_login_readable(struct server *server)
{
	struct worker *worker = server->worker;
	struct input input;
	size_t used = 0;
	enum conn_io io;

	if (starttls_pending(&server->starttls)) {
		const char *why = "";
		enum starttls_result result =
		    starttls_readable(&server->starttls, &server->conn, worker, &why);

		server_login_encrypted(server, result, why);
		return;
	}
	io = conn_receive(&server->conn, worker, 0, &input);
	if (io == CONN_IO_AGAIN)
		return;
	if (io != CONN_IO_OK) {
		server_login_lost(server);
		return;
	}
	while (server->state == SERVER_LOGIN && !server->doomed && input.len - used >= 5) {
		const uint8_t *at = input.data + used;
		size_t total;

		if (wire_header_check(WIRE_BACKEND, at, &total) != WIRE_HEADER_OK ||
		    total > LOGIN_MESSAGE_MAX) {
			server_login_fail(server, "the server does not speak PostgreSQL's protocol",
					  "08P01");
			return;
		}
		if (input.len - used < total)
			break;
		used += total;
		if (at[0] == BE_READY_FOR_QUERY && server->auth == NULL && total == 6 &&
		    at[5] == WIRE_TX_IDLE) {
			/* The last step: a client of another worker may get the server at once, and
			 * with it all that is known of it here. */
			if (conn_keep(&server->conn, &input, used))
				server_login_done(server);
			else
				server_doom(server, SERVER_CLOSE_MEMORY);
			return;
		}
		server_login_message(server, at[0], at + 5, total - 5);
	}
	/* After a redial what is left is of the former connection. */
	if (!server->doomed && server->state != SERVER_DIALING &&
	    !conn_keep(&server->conn, &input, used))
		server_doom(server, SERVER_CLOSE_MEMORY);
}
