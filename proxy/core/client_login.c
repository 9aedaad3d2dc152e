/* SPDX-License-Identifier: PostgreSQL */
/*
 * The login of a client (PostgreSQL documentation 55.2.1):
 *
 *   STARTUP  SSLRequest or TLS at once, GSSENCRequest ('N'), CancelRequest, StartupMessage
 *   AUTH     passwords
 *   WELCOME  waits until the pool knows what its servers report, then parameters, key, ready
 *
 * A client of the console leaves after AUTH, with its socket, for the main thread.  Worker thread.
 */
#include "base/endpoint.h"
#include "base/log.h"
#include "core/address.h"
#include "core/boot.h"
#include "core/cancel.h"
#include "core/client_login.h"
#include "core/conn_tls.h"
#include "core/mail.h"
#include "core/pool.h"
#include "core/promise.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/secure.h"
#include "core/server.h"
#include "core/session_see.h"
#include "core/trial.h"
#include "core/worker.h"
#include "net/sock.h"
#include "wire/build.h"
#include "wire/options.h"
#include "wire/parse.h"
#include "wire/startup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define ANSWERED_SSL 1
#define ANSWERED_GSS 2

bool client_login_begin(struct client *client)
{
	client->login = calloc(1, sizeof(*client->login));
	return client->login != NULL;
}

void client_login_free(struct client *client)
{
	struct client_login *login = client->login;

	if (login == NULL)
		return;
	login_end_auth(client);
	client->login = NULL;
	address_leave(client->worker->proxy->addresses, login->address);
	free(login->user);
	free(login->database);
	free(login->application_name);
	free(login->name_sent);
	free(login->at_start);
	param_set_unref(login->wanted);
	param_set_unref(login->trial);
	free(login);
}

const char *client_login_user(const struct client *client)
{
	return client->login == NULL || client->login->user == NULL ? "" : client->login->user;
}

const char *client_login_database(const struct client *client)
{
	return client->login == NULL || client->login->database == NULL ? ""
									: client->login->database;
}

static bool login_send(struct client *client, const void *data, size_t len)
{
	struct worker *worker = client->worker;

	if (conn_send_copy(&worker->to_client, &client->conn, worker, data, len) == CONN_IO_OK &&
	    conn_flush(&worker->to_client, worker) == CONN_IO_OK)
		return true;
	client_doom(client, CLIENT_CLOSE_IO);
	return false;
}

bool login_send_buf(struct client *client, const struct sbuf *out)
{
	if (!sbuf_ok(out)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return false;
	}
	return login_send(client, sbuf_text(out), out->len);
}

/* What went wrong with the handshake is for the log: the client was sent an alert. */
static void login_tls_failed(struct client *client)
{
	client->worker->stats.tls_failed++;
	client_log(client, LOG_LEVEL_INFO, "TLS: %s",
		 client->conn.tls == NULL || tls_error(client->conn.tls)[0] == '\0'
		     ? "connection lost"
		     : tls_error(client->conn.tls));
	client_doom(client, CLIENT_CLOSE_TLS);
}

/* ---- the startup packet ---- */

/* Thrown away by ignore_startup_parameters. */
static bool login_ignores(const struct client *client, const char *name, bool in_options)
{
	const struct config_list *list =
	    &client->worker->routes->config->proxy.ignore_startup_parameters;

	return list->count > 0 &&
	       (config_list_has_name(list, name) ||
		(in_options && param_reported_name(name) == NULL &&
		 config_list_has_name(list, "options")));
}

/* What no server takes: in PostgreSQL's words. */
static void login_refuse_name(struct client *client, const char *name, enum param_kind kind)
{
	char text[256];

	if (kind == PARAM_INTERNAL) {
		(void)snprintf(text, sizeof(text), "parameter \"%.63s\" cannot be changed", name);
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "55P02", text, NULL, NULL);
	} else if (strchr(name, '.') == NULL) {
		(void)snprintf(text, sizeof(text),
			       "unrecognized configuration parameter \"%.128s\"", name);
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "42704", text, NULL, NULL);
	} else {
		(void)snprintf(text, sizeof(text), "invalid configuration parameter name \"%.128s\"",
			       name);
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "42602", text,
				  "Custom parameter names must be two or more simple identifiers "
				  "separated by dots.",
				  NULL);
	}
}

/* How it is shown depends on the server, which is not known yet. */
static void login_note_name(struct client_login *login, const char *value)
{
	const char *at = value;

	while (*at >= ' ' && *at <= '~')
		at++;
	free(login->name_sent);
	login->name_sent =
	    *at == '\0' && value[param_identifier_len(value)] == '\0' ? NULL : strdup(value);
}

static bool login_want(struct client *client, const char *name, const char *value)
{
	struct worker *worker = client->worker;
	const enum param_kind kind = param_kind(name);
	struct param_set *set;

	if (kind == PARAM_WITHOUT_EFFECT || login_ignores(client, name, false))
		return true;
	if (kind == PARAM_INTERNAL || kind == PARAM_UNKNOWN) {
		login_refuse_name(client, name, kind);
		return false;
	}
	if (kind == PARAM_AT_START && client->login->at_start == NULL)
		client->login->at_start = strdup(name);
	if (strcasecmp(name, "application_name") == 0)
		login_note_name(client->login, value);
	errno = 0;
	set = param_set_with(worker->params, client->login->wanted, name, value, false);
	if (set == NULL && errno == ENOMEM) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return false;
	}
	if (set == NULL) {
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "22023",
				  "invalid startup parameter", name,
				  "Names have at most 63 bytes, values at most 8192.");
		return false;
	}
	param_set_replace(&client->login->wanted, set);
	return true;
}

static bool login_want_options(struct client *client, const char *text)
{
	struct wire_options options;
	bool good = wire_options_parse(text, &options);

	if (!good)
		client_doom_theirs(client, CLIENT_CLOSE_STARTUP, options.sqlstate,
				   "unsupported options startup parameter: only '-c config=val' and "
				   "'--config=val' are allowed",
				   options.error, NULL, options.hint);
	for (size_t i = 0; good && i < options.count; i++)
		good = login_ignores(client, options.items[i].name, true) ||
		       login_want(client, options.items[i].name, options.items[i].value);
	wire_options_free(&options);
	return good;
}

static bool login_take_parameters(struct client *client, const struct wire_startup *startup)
{
	const char *cursor = NULL;
	const char *name;
	const char *value;

	if (startup->options != NULL && !login_want_options(client, startup->options))
		return false;
	while (wire_startup_next(startup, &cursor, &name, &value)) {
		if (strcmp(name, "user") == 0 || strcmp(name, "database") == 0 ||
		    strcmp(name, "options") == 0 || strcmp(name, "replication") == 0 ||
		    strncmp(name, "_pq_.", 5) == 0)
			continue;
		if (!login_want(client, name, value))
			return false;
	}
	return true;
}

/* application_name_add_host; false: doomed. */
static bool login_add_host(struct client *client)
{
	const char *name = param_set_get(client->login->wanted, "application_name");
	struct sock_name peer;
	char text[256];

	client_peer(client, &peer);
	(void)snprintf(text, sizeof(text), "%.100s - %s",
		       name == NULL || name[0] == '\0' ? "app" : name,
		       endpoint_text(peer.addr, peer.port).text);
	return login_want(client, "application_name", text);
}

static bool login_check_replication(struct client *client, const struct wire_startup *startup)
{
	const enum wire_replication asked = wire_startup_replication(startup->replication);

	if (asked == WIRE_REPLICATION_BAD) {
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "22023",
				  "invalid value for parameter \"replication\"", NULL,
				  "Valid values are: \"false\", 0, \"true\", 1, \"database\".");
		return false;
	}
	if (asked != WIRE_REPLICATION_NONE && config_is_console(client->login->database)) {
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "0A000",
				  "the console has nothing to replicate", NULL, NULL);
		return false;
	}
	client->replication = (uint8_t)asked;
	return true;
}

static void login_refuse_surplus(struct client *client)
{
	client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "53300",
			  "no more connections allowed (max_client_conn)",
			  "sorry, too many clients already",
			  "Raise max_client_connections of the proxy.");
}

/* Descriptors are kept for the server connections of those who are in, and for the console. */
static bool login_descriptors_short(const struct proxy *proxy)
{
	const unsigned kept = 4 + (proxy->descriptors < 2048 ? proxy->descriptors / 32 : 64);

	return proxy->descriptors > 0 && atomic_load(&proxy->client_count) +
	                                         atomic_load(&proxy->server_count) +
	                                         atomic_load(&proxy->descriptors_own) + kept >
	                                     proxy->descriptors;
}

/* The proxy shuts down: true, and the client is doomed, but for those of the console. */
static bool login_comes_too_late(struct client *client)
{
	if (LIKELY(!client->worker->console_only) || config_is_console(client->login->database))
		return false;
	client_doom_fatal(client, CLIENT_CLOSE_SHUTDOWN, "57P03", "server shutting down", NULL,
			  NULL);
	return true;
}

static bool login_logs(const struct client *client)
{
	return client->worker->routes->config->proxy.log_connections && log_wanted(LOG_LEVEL_INFO);
}

/* What pgbouncer's log has instead of the line of login_log(); programs count logins by it. */
static void login_log_attempt(const struct client *client)
{
	static const char *const replication[] = {[WIRE_REPLICATION_NONE] = "no",
	                                          [WIRE_REPLICATION_LOGICAL] = "database",
	                                          [WIRE_REPLICATION_PHYSICAL] = "yes"};
	char tls[TLS_TEXT_MAX];

	if (!login_logs(client) ||
	    client->worker->routes->config->proxy.log_format != LOG_FORMAT_PGBOUNCER)
		return;
	client_log(client, LOG_LEVEL_INFO, "login attempt: db=%s user=%s tls=%s replication=%s",
	           client->login->database, client->login->user,
	           client->conn.tls == NULL ? "no" : conn_tls_text(&client->conn, tls),
	           replication[client->replication]);
}

static void login_startup_message(struct client *client, const struct wire_startup *startup)
{
	struct client_login *login = client->login;
	struct worker *worker = client->worker;
	const struct config_proxy *conf = &worker->routes->config->proxy;
	const char *application_name;

	login->user = strdup(startup->user);
	login->database = strdup(startup->database);
	if (login->user == NULL || login->database == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	if (worker->routes->secure->client_sslmode >= CONFIG_SSL_REQUIRE &&
	    client->conn.tls == NULL && !sock_is_unix(client->conn.fd)) {
		client_doom_fatal(client, CLIENT_CLOSE_AUTH, "28000", "SSL required", NULL,
				  "Connect with sslmode=require or stricter.");
		return;
	}
	if (client->conn.tls != NULL) {
		worker->stats.tls_done++;
		worker->stats.tls_resumed += tls_resumed(client->conn.tls) ? 1 : 0;
	}
	if (login_comes_too_late(client))
		return;
	if (!login_check_replication(client, startup) || !login_take_parameters(client, startup))
		return;
	if (conf->application_name_add_host && !login_add_host(client))
		return;
	application_name = param_set_get(login->wanted, "application_name");
	login->application_name = strdup(application_name == NULL ? "" : application_name);
	/* The console stays open to those who have to find out why it is full. */
	if (atomic_load(&worker->proxy->admitted) >= (unsigned)conf->max_client_connections &&
	    !config_is_console(login->database)) {
		login_refuse_surplus(client);
		return;
	}
	if (login_descriptors_short(worker->proxy) && !config_is_console(login->database)) {
		client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "53300",
		                  "too many connections: file descriptors are short", NULL,
		                  "Raise the limit of open files of the proxy.");
		return;
	}
	client->long_key = wire_startup_spoken(startup) >= WIRE_PROTOCOL_3_2;
	if (wire_startup_must_negotiate(startup)) {
		struct sbuf out;
		bool sent;

		sbuf_init(&out, WIRE_STARTUP_MAX * 2);
		wire_add_negotiate(&out, startup);
		sent = login_send_buf(client, &out);
		sbuf_free(&out);
		if (!sent)
			return;
	}
	login_log_attempt(client);
	login_start_auth(client);
}

/* TLS for this client; NULL: none is offered. */
static struct tls_context *login_tls_context(const struct client *client)
{
	struct tls_context *context = client->worker->routes->secure->clients;

	return context == NULL || client->conn.tls != NULL || sock_is_unix(client->conn.fd)
		   ? NULL
		   : context;
}

/* `bytes`: the beginning of the handshake, if there was no SSLRequest. */
static void login_start_tls(struct client *client, struct tls_context *context, const void *bytes,
			    size_t len)
{
	struct tls *tls = tls_accept(context, len > 0);
	enum conn_io io = CONN_IO_OK;

	if (tls == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	io = conn_start_tls(&client->conn, client->worker, tls, bytes, len);
	if (io != CONN_IO_OK)
		login_tls_failed(client);
}

/* SSLRequest or GSSENCRequest, which come at most once each, and not in TLS. */
static void login_encryption(struct client *client, const struct wire_startup *startup, size_t len)
{
	const bool ssl = startup->kind == WIRE_STARTUP_SSL;
	struct tls_context *context = ssl ? login_tls_context(client) : NULL;
	const uint8_t bit = ssl ? ANSWERED_SSL : ANSWERED_GSS;

	if ((client->login->answered & bit) != 0 || client->conn.tls != NULL) {
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "0A000",
				  ssl ? "unsupported frontend protocol 1234.5679: server supports "
					"3.0 to 3.2"
				      : "unsupported frontend protocol 1234.5680: server supports "
					"3.0 to 3.2",
				  NULL, NULL);
	} else if (len > startup->size) {
		/* Somebody may have put it there before encryption (CVE-2021-23222). */
		client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "08P01",
				  ssl ? "received unencrypted data after SSL request"
				      : "received unencrypted data after GSSAPI encryption request",
				  "This could be either a client-software bug or evidence of an "
				  "attempted man-in-the-middle attack.",
				  NULL);
	} else if (login_send(client, context != NULL ? "S" : "N", 1)) {
		client->login->answered |= bit;
		if (context != NULL)
			login_start_tls(client, context, NULL, 0);
	}
}

/* Looks at the first packets; what they use of `len` bytes. */
static size_t login_startup(struct client *client, const uint8_t *data, size_t len)
{
	struct wire_startup startup;
	struct tls_context *context;

	switch (wire_startup_parse(data, len, &startup)) {
	case WIRE_STARTUP_MORE:
		return 0;
	case WIRE_STARTUP_SSL:
	case WIRE_STARTUP_GSSENC:
		login_encryption(client, &startup, len);
		return startup.size;
	case WIRE_STARTUP_CANCEL:
		cancel_take(client->worker, startup.pid, startup.key, startup.key_len);
		client_doom(client, CLIENT_CLOSE_CANCEL);
		return startup.size;
	case WIRE_STARTUP_MESSAGE:
		login_startup_message(client, &startup);
		return startup.size;
	case WIRE_STARTUP_DIRECT_TLS:
		context = client->login->answered == 0 ? login_tls_context(client) : NULL;
		if (context == NULL) {
			client_log(client, LOG_LEVEL_INFO,
				   "TLS without SSLRequest, which is not offered here");
			client_doom(client, CLIENT_CLOSE_STARTUP);
			return 0;
		}
		login_start_tls(client, context, data, len);
		return len;
	case WIRE_STARTUP_BAD:
		if (startup.silent) {
			client_log(client, LOG_LEVEL_INFO, "startup: %s", startup.error);
			client_doom(client, CLIENT_CLOSE_STARTUP);
		} else {
			client_doom_fatal(client, CLIENT_CLOSE_STARTUP, startup.sqlstate,
					  startup.error, NULL, NULL);
		}
		return 0;
	}
	return 0;
}

/* ---- passwords ---- */

static size_t login_password(struct client *client, const uint8_t *data, size_t len)
{
	size_t total;
	char text[128];

	if (len < WIRE_HEADER_LEN)
		return 0;
	if (data[0] == FE_TERMINATE) {
		client_doom(client, CLIENT_CLOSE_TERMINATE);
		return 0;
	}
	if (data[0] != FE_PASSWORD) {
		(void)snprintf(text, sizeof(text),
			       "expected password response, got message type %d", data[0]);
		client_doom_fatal(client, CLIENT_CLOSE_PROTOCOL, "08P01", text, NULL, NULL);
		return 0;
	}
	if (wire_header_check(WIRE_FRONTEND, data, &total) != WIRE_HEADER_OK) {
		(void)wire_header_error(WIRE_FRONTEND, data, text, sizeof(text));
		client_doom_words(client, CLIENT_CLOSE_PROTOCOL, "08P01", text,
				  "password authentication failed");
		return 0;
	}
	if (total > client_auth_longest(client->login->auth)) {
		client_doom_words(client, CLIENT_CLOSE_PROTOCOL, "08P01",
				  "invalid message length", "password authentication failed");
		return 0;
	}
	if (len < total)
		return 0;
	login_feed_auth(client, data + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN);
	return total;
}

/* ---- who it is is known ---- */

static bool client_make_key(const struct client *client, struct cancel_key *key)
{
	return cancel_make_key(client->worker->proxy, client->slot, client->cancel_key,
			       client->long_key, key);
}

/* Whoever has read the refusal finds this client's place among all free again. */
static void login_refuse_count(struct client *client, const char *message, const char *detail)
{
	client_unadmit(client, client->worker->proxy);
	client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "53300", message, detail, NULL);
}

/* Counts the client among those of its user and database; false: there are too many, unless it is an
 * operator, and it is doomed. */
static bool login_count(struct client *client, struct user_share *user,
			struct database_share *database, bool operator)
{
	client->user_share = user;
	if (user == NULL || database == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return false;
	}
	if (operator) {
		atomic_fetch_add(&database->clients, 1);
		atomic_fetch_add(&user->clients, 1);
		client->counted = true;
		return true;
	}
	if (!share_count_take(&database->clients, &database->client_limit)) {
		login_refuse_count(client,
				   "client connections exceeded (max_db_client_connections)",
				   "too many connections for this database");
		return false;
	}
	if (!share_count_take(&user->clients, &user->client_limit)) {
		atomic_fetch_sub(&database->clients, 1);
		login_refuse_count(client,
				   "client connections exceeded (max_user_client_connections)",
				   "too many connections for this role");
		return false;
	}
	client->counted = true;
	return true;
}

/* As a rule the pool's user is the client's, and then nothing that is shared need be searched; NULL:
 * there is no memory. */
static struct user_share *login_user_share(const struct client *client, const struct pool *pool)
{
	struct user_share *user = pool->share->user_share;

	return LIKELY(strcmp(user->name, client->login->user) == 0)
		   ? user
		   : share_user(client->worker->proxy->shares, client->login->user);
}

static void login_to_console(struct client *client)
{
	struct worker *worker = client->worker;
	struct client_login *login = client->login;
	struct database_share *share =
	    share_database(worker->proxy->shares, CONFIG_CONSOLE);
	struct mail_console *mail;
	struct cancel_key key;

	if (!login->owner && !config_is_stats_user(worker->routes->config, login->user)) {
		client_doom_fatal(client, CLIENT_CLOSE_AUTH, "28000",
				  "this user may not use the console", NULL,
				  "Name the user in admin_users or stats_users.");
		return;
	}
	/* With the socket goes what has been received behind the login (see login_step_all). */
	if (!login_count(client, share_user(worker->proxy->shares, login->user), share,
			 login->owner || config_is_admin(worker->routes->config, login->user)))
		return;
	client->counted = false; /* but by who has the socket from now on */
	mail = mail_new(sizeof(*mail), MAIL_CONSOLE);
	if (mail == NULL || !client_make_key(client, &key) ||
	    conn_flush(&worker->to_client, worker) != CONN_IO_OK) {
		free(mail);
		share_uncount_client(client->user_share, share);
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	mail->id = client->id;
	mail->connected = client->connected;
	mail->user_share = client->user_share;
	mail->database_share = share;
	mail->database = login->database;
	mail->user = login->user;
	mail->owner = login->owner;
	mail->application_name = login->application_name;
	mail->cancel_pid = client->slot + 1;
	mail->cancel_key = key;
	login->database = NULL;
	login->user = NULL;
	login->application_name = NULL;
	client->close_reason = CLIENT_CLOSE_CONSOLE;
	login->console = mail;
}

static bool login_for_console(const struct client *client)
{
	return client->login != NULL && client->login->console != NULL;
}

/* The last of login_to_console(): bytes behind the login are `data[used .. len)`. */
static void login_leave_for_console(struct client *client, const uint8_t *rest, size_t len)
{
	struct worker *worker = client->worker;
	struct mail_console *mail = client->login->console;

	client->login->console = NULL;
	if (len > 0) {
		mail->bytes = malloc(len);
		if (mail->bytes != NULL) {
			memcpy(mail->bytes, rest, len);
			mail->bytes_len = len;
		}
	}
	mail->tls = conn_take_tls(&client->conn);
	mail->fd = conn_detach(&client->conn, client->worker);
	share_slot_move(worker->proxy->shares, client->slot, SHARE_SLOT_CONSOLE);
	client->slot_given = true;
	mailbox_post(&worker->proxy->mailbox, &mail->letter);
	client_doom(client, CLIENT_CLOSE_CONSOLE);
}

/* Its pool is known: welcomes the client as soon as it can be. */
static void login_enter_pool(struct client *client)
{
	struct pool *pool = client->pool;

	client_set_state(client, CLIENT_WELCOME);
	if (!trial_of_client(client)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	if (pool->welcome == NULL)
		pool_find_welcome(pool);
	client_login_step(client);
	if (client->login != NULL && !client->doomed)
		pool_kick(pool);
}

/* NULL: doomed. */
static struct pool *login_pool(struct client *client, const struct route *route)
{
	struct worker *worker = client->worker;
	const struct client_login *login = client->login;
	const char *role = route->database->user[0] != '\0' ? route->database->user : login->user;
	struct pool *pool;

	if (UNLIKELY(share_pools_full(worker->proxy->shares)) &&
	    pool_find(worker, login->database, role) == NULL) {
		client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "53300",
		                  "too many databases and users, of which this one is new", NULL,
		                  "Name databases instead of \"*\", or ask users for passwords.");
		return NULL;
	}
	pool = pool_get(worker, login->database, role);
	if (pool == NULL)
		client_doom(client, CLIENT_CLOSE_MEMORY);
	return pool;
}

/* A server connection that is shared has started before, for nobody in particular. */
static bool login_can_start(struct client *client, const struct pool *pool)
{
	char text[128];

	if (LIKELY(client->login->at_start == NULL) || pool->session ||
	    client->replication != WIRE_REPLICATION_NONE)
		return true;
	(void)snprintf(text, sizeof(text),
		       "parameter \"%.63s\" cannot be set after connection start",
		       client->login->at_start);
	client_doom_fatal(client, CLIENT_CLOSE_STARTUP, "55P02", text,
			  "In transaction pooling server connections were started before.",
			  "Use session pooling, or name it in ignore_startup_parameters.");
	return false;
}

void login_after_auth(struct client *client)
{
	struct worker *worker = client->worker;
	struct client_login *login = client->login;
	const struct route *route;
	struct pool *pool;
	char text[128];

	if (config_is_console(login->database)) {
		login_to_console(client);
		return;
	}
	if (login_comes_too_late(client))
		return;
	if (!client_admit(client)) {
		login_refuse_surplus(client);
		return;
	}
	route = route_find(worker->routes, login->database);
	if (route == NULL) {
		const bool theirs = worker->routes->config->proxy.as_pgbouncer;

		(void)snprintf(text, sizeof(text),
			       theirs ? "no such database: %.63s"
				      : "database \"%.63s\" does not exist",
			       login->database);
		client_doom_fatal(client, CLIENT_CLOSE_DATABASE, theirs ? "08P01" : "3D000", text,
				  NULL,
				  client->replication == WIRE_REPLICATION_PHYSICAL
				      ? "Physical replication is of a server: a database of this name "
					"in the proxy's configuration says of which."
				      : NULL);
		return;
	}
	pool = login_pool(client, route);
	if (pool == NULL)
		return;
	if (UNLIKELY(atomic_load(&pool->database->share->disabled))) {
		(void)snprintf(text, sizeof(text), "database \"%.63s\" is disabled",
			       login->database);
		client_doom_fatal(client, CLIENT_CLOSE_DISABLED, "57P03", text, NULL, NULL);
		return;
	}
	if (!login_can_start(client, pool) ||
	    !login_count(client, login_user_share(client, pool), pool->database->share, false))
		return;
	list_remove(&worker->joining, &client->node);
	client->pool = pool;
	pool_set_user(pool, login->found);
	if (UNLIKELY(client->replication != WIRE_REPLICATION_NONE))
		replication_enter(client);
	else
		login_enter_pool(client);
}

void client_open_internal(struct worker *worker, int fd, const char *database, const char *role)
{
	struct pool *pool = pool_get_internal(worker, database, role);
	struct client *client;

	if (pool == NULL) {
		(void)close(fd);
		return;
	}
	atomic_fetch_add(&worker->proxy->client_count, 1);
	atomic_fetch_add(&worker->client_count, 1);
	client = client_new(worker, fd);
	if (client == NULL)
		return;
	list_remove(&worker->joining, &client->node);
	client->pool = pool;
	atomic_fetch_sub(&worker->proxy->client_count, 1);
	atomic_fetch_sub(&worker->client_count, 1);
	login_enter_pool(client);
}

static void login_log(const struct client *client)
{
	char tls[TLS_TEXT_MAX];

	if (!login_logs(client) || client->pool->internal ||
	    client->worker->routes->config->proxy.log_format == LOG_FORMAT_PGBOUNCER)
		return;
	client_log(client, LOG_LEVEL_INFO, "logged in as %s (%s)%s%s", client->login->user,
		 client->login->application_name == NULL ? "" : client->login->application_name,
		 client->conn.tls == NULL ? "" : " tls=", conn_tls_text(&client->conn, tls));
}

/* Not if the client has asked at its start to be told no NOTICE, or the name is not its own. */
static bool login_tells_truncation(const struct client *client)
{
	const char *level = param_set_get(client->login->wanted, "client_min_messages");

	if (client->worker->routes->config->proxy.application_name_add_host)
		return false;
	return level == NULL ||
	       (strcasecmp(level, "warning") != 0 && strcasecmp(level, "error") != 0);
}

/* As PostgreSQL says it of an application_name that is too long. */
static void login_tell_truncation(const struct client *client, struct sbuf *out)
{
	const char *name = client->login->name_sent;
	struct wire_error notice = {
	    .severity = "NOTICE", .sqlstate = "42622", .routine = "truncate_identifier"};
	size_t kept;
	char *text = NULL;

	if (LIKELY(name == NULL) || !login_tells_truncation(client))
		return;
	kept = param_identifier_len(name);
	if (name[kept] != '\0' && asprintf(&text, "identifier \"%s\" will be truncated to \"%.*s\"",
	                                   name, (int)kept, name) >= 0) {
		notice.message = text;
		wire_add_notice(out, &notice);
		free(text);
	}
}

bool login_welcome(struct client *client, const struct server *server)
{
	struct worker *worker = client->worker;
	struct sbuf out;
	struct cancel_key key;
	const uint32_t pid = promise_pid(client, server); /* which the key is made for */
	bool sent;

	sbuf_init(&out, PARAM_MAX_SQL + 2 * PARAM_MAX_VALUE);
	login_tell_truncation(client, &out);
	(void)param_set_write_status(client->params, &out);
	if (client_make_key(client, &key))
		wire_add_backend_key(&out, pid, key.bytes, key.len);
	if (worker->routes->config->proxy.login_notify_message[0] != '\0') {
		const struct wire_error notice = {
		    .severity = "NOTICE",
		    .sqlstate = "00000",
		    .message = worker->routes->config->proxy.login_notify_message};

		wire_add_notice(&out, &notice);
	}
	wire_add_ready(&out, WIRE_TX_IDLE);
	sent = login_send_buf(client, &out);
	if (sent) {
		login_log(client);
		client->pool->stats.logins++;
		client_login_free(client);
		client_set_state(client, CLIENT_IDLE);
	}
	sbuf_free(&out);
	return sent;
}

bool login_is_ready(struct client *client)
{
	return trial_is_over(client) && promise_is_settled(client);
}

static void login_show_name(struct client *client)
{
	char name[PARAM_NAME_SHOWN];
	struct param_set *shown;

	if (!param_escape_name(client->params, client->login->name_sent, name))
		return;
	shown =
	    param_set_with(client->worker->params, client->params, "application_name", name, false);
	if (shown != NULL)
		param_set_replace(&client->params, shown);
}

void client_login_step(struct client *client)
{
	struct pool *pool = client->pool;

	if (client->doomed || client->state != CLIENT_WELCOME || !login_is_ready(client))
		return;
	client->params = pool_login_params(pool, client->login);
	client->started = param_bits(client->login->wanted);
	client->chosen = pool->session ? PARAM_BITS_ALL : client->started;
	if (pool->session) {
		struct session_seen *seen = session_see(client);

		if (seen == NULL)
			return;
		seen->startup = param_set_ref(client->login->wanted);
	}
	if (client->params != NULL && UNLIKELY(client->login->name_sent != NULL))
		login_show_name(client);
	if (client->params == NULL)
		client_doom(client, CLIENT_CLOSE_MEMORY);
	else
		(void)!login_welcome(client, promise_of(client));
}

/* Uses what has come, as far as the login goes. */
static void login_consume(struct client *client, const struct input *input)
{
	size_t used = 0;

	while (!client->doomed && !login_for_console(client) && used < input->len &&
	       !login_busy(client)) {
		size_t n = 0;

		if (client->state == CLIENT_STARTUP)
			n = login_startup(client, input->data + used, input->len - used);
		else if (client->state == CLIENT_AUTH)
			n = login_password(client, input->data + used, input->len - used);
		if (n == 0)
			break;
		used += n;
	}
	if (client->doomed)
		return;
	if (login_for_console(client)) {
		login_leave_for_console(client, input->data + used, input->len - used);
		return;
	}
	if (!conn_keep(&client->conn, input, used)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	if (client->login == NULL && conn_kept(&client->conn) > 0)
		client_go_on(client);
}

void login_go_on(struct client *client)
{
	struct input input = conn_pending(&client->conn, client->worker);

	conn_want_read(&client->conn, true);
	login_consume(client, &input);
}

void client_login_readable(struct client *client)
{
	struct input input;
	enum conn_io io;

	/* It may send its first request already: a bounded part of it is taken. */
	if ((client->state == CLIENT_WELCOME || login_busy(client)) &&
	    conn_kept(&client->conn) >= WIRE_STARTUP_MAX) {
		conn_want_read(&client->conn, false);
		return;
	}
	io = conn_receive(&client->conn, client->worker, WIRE_STARTUP_MAX, &input);
	if (io == CONN_IO_AGAIN)
		return;
	if (io == CONN_IO_ERROR && client->conn.tls != NULL) {
		login_tls_failed(client);
		return;
	}
	if (io == CONN_IO_EOF && client->state == CLIENT_WELCOME &&
	    conn_kept(&client->conn) > 0) {
		conn_want_read(&client->conn, false); /* its last request is there */
		return;
	}
	if (io != CONN_IO_OK) {
		client_doom(client, io == CONN_IO_EOF ? CLIENT_CLOSE_PEER : CLIENT_CLOSE_IO);
		return;
	}
	login_consume(client, &input);
}
