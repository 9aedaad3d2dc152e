/* SPDX-License-Identifier: PostgreSQL */
#include "core/auth_query.h"

#include "auth/cache.h"
#include "auth/user.h"
#include "auth/userlist.h"
#include "base/log.h"
#include "base/mem.h"
#include "conf/secret.h"
#include "core/client_login.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOKUPS_MAX 1000 /* names that may wait for one asker */
#define ANSWER_MAX ((size_t)64 * 1024)
#define SECRET_MAX 2048u
/* Databases of the fallback entry that may be known to a worker: anybody can make a name up. */
#define FALLBACKS_MAX 500
#define IDLE_USEC ((usec_t)30 * USEC_PER_SEC)

struct lookup {
	struct list_node node; /* asker->lookups: the first is the one that is being asked */
	char *name;
	struct list waiters; /* struct client_login.waiting */
};

struct asker {
	struct list_node node; /* worker->askers */
	struct worker *worker;
	char *scope;
	char *database;
	char *role;
	char *query;
	int fd; /* our end; -1: closed */
	struct event *event;
	struct sbuf in;
	struct list lookups;
	bool ready;   /* the internal client has logged in */
	bool busy;    /* the first lookup is being asked */
	usec_t since; /* of ready and busy */
	/* of the present answer */
	unsigned rows;
	bool malformed;
	char *secret;     /* NULL: SQL NULL */
	char sqlstate[6]; /* "": no error */
	char message[256];
};

/* ---- whom to ask ---- */

struct target {
	const char *database;
	const char *role;
	const char *query;
	struct sbuf scope;
};

static const char *first_given(const char *a, const char *b, const char *c)
{
	return a != NULL && *a != '\0' ? a : *b != '\0' ? b : c;
}

/* False: nobody is to be asked about users of this database. */
static bool target_names(const struct worker *worker, const char *database, struct target *target)
{
	const struct config *config = worker->routes->config;
	const struct config_proxy *conf = &config->proxy;
	const struct route *route =
	    config_is_console(database) ? NULL : route_find(worker->routes, database);
	const struct config_database *own = route == NULL ? NULL : route->database;

	target->role = first_given(own == NULL ? NULL : own->auth_user, conf->auth_user, "");
	target->query = first_given(own == NULL ? NULL : own->auth_query, conf->auth_query, "");
	target->database = first_given(own == NULL ? NULL : own->auth_dbname, conf->auth_dbname,
	                               own == NULL ? "" : database);
	return *target->role != '\0' && *target->database != '\0' && *target->query != '\0';
}

/* The same, or it cannot be asked.  Else target->scope is to be freed. */
static bool target_find(const struct worker *worker, const char *database, struct target *target)
{
	if (!target_names(worker, database, target) ||
	    route_find(worker->routes, target->database) == NULL)
		return false;
	sbuf_init(&target->scope, (size_t)1024 * 1024);
	sbuf_printf(&target->scope, "%s\n%s\n%s", target->database, target->role, target->query);
	return sbuf_ok(&target->scope);
}

/* ---- the connection ---- */

static void asker_close(struct asker *asker)
{
	if (asker->event != NULL)
		event_free(asker->event);
	asker->event = NULL;
	if (asker->fd >= 0)
		(void)close(asker->fd);
	asker->fd = -1;
	asker->ready = false;
	asker->busy = false;
	sbuf_reset(&asker->in);
	mem_free_secret(asker->secret);
	asker->secret = NULL;
}

static void asker_free(struct asker *asker)
{
	asker_close(asker);
	list_remove(&asker->worker->askers, &asker->node);
	sbuf_free(&asker->in);
	free(asker->scope);
	free(asker->database);
	free(asker->role);
	free(asker->query);
	free(asker);
}

static void lookup_free(struct asker *asker, struct lookup *lookup)
{
	list_remove(&asker->lookups, &lookup->node);
	free(lookup->name);
	free(lookup);
}

/* Why the log says that a login ended of which nobody could say who it is. */
#define NO_ANSWER "bouncer config error"

/* Ends the lookup: everybody who waits for it goes on with the user, or NULL and (sqlstate not "")
 * an error, `words` for the log. */
static void lookup_end(struct asker *asker, struct lookup *lookup, struct auth_user *user,
                       const char *sqlstate, const char *message, const char *words)
{
	struct list waiters;

	/* A login that goes on may ask again, and then must not find this one. */
	list_init(&waiters);
	while (lookup->waiters.count > 0) {
		struct list_node *node = list_first(&lookup->waiters);

		list_remove(&lookup->waiters, node);
		CONTAINER_OF(node, struct client_login, waiting)->waiting_in = &waiters;
		list_append(&waiters, node);
	}
	lookup_free(asker, lookup);
	while (waiters.count > 0) {
		struct client_login *login =
		    CONTAINER_OF(list_first(&waiters), struct client_login, waiting);

		list_remove(&waiters, &login->waiting);
		login->waiting_in = NULL;
		login_answered(login->client, user, sqlstate, message, words);
	}
}

/* Nothing can be asked: all who wait are told; but, if `last_known`, those about whom an answer is known that
 * is not too old. */
static void lookup_fail(struct asker *asker, struct lookup *lookup, bool last_known,
                        const char *sqlstate, const char *message, const char *words)
{
	const struct worker *worker = asker->worker;
	struct auth_user *user = NULL;

	if (last_known &&
	    auth_cache_get(worker->proxy->auth_cache, asker->scope, lookup->name, worker->now,
	                   worker->routes->config->proxy.auth_cache_age, 0, &user) == AUTH_CACHE_FRESH)
		lookup_end(asker, lookup, user, "", "", words);
	else
		lookup_end(asker, lookup, NULL, sqlstate, message, words);
	auth_user_unref(user);
}

static void asker_fail(struct asker *asker, bool last_known, const char *sqlstate,
                       const char *message)
{
	/* What a server says to the login pgbouncer passes on as it is. */
	const bool as_it_is =
	    !asker->ready && asker->worker->routes->config->proxy.as_pgbouncer;
	char text[300];

	(void)snprintf(text, sizeof(text), "%s%s", as_it_is ? "" : "could not look the user up: ",
	               message);
	if (asker->lookups.count > 0)
		log_warning("auth_query %s/%s: %s", asker->database, asker->role, message);
	asker_close(asker);
	/* Only those that wait now; others may come while these are told. */
	for (size_t n = asker->lookups.count; n > 0; n--)
		lookup_fail(asker, CONTAINER_OF(list_first(&asker->lookups), struct lookup, node),
		            last_known, sqlstate, text, as_it_is ? text : NO_ANSWER);
}

static bool asker_send(struct asker *asker, const char *name)
{
	struct sbuf out;
	ssize_t n = -1;

	sbuf_init(&out, ANSWER_MAX * 2);
	wire_add_parse(&out, "", asker->query, NULL, 0);
	wire_add_bind_texts(&out, "", "", &name, 1);
	wire_add_execute(&out, "", 0);
	wire_add_sync(&out);
	/* The other end has read everything before: there is room. */
	if (sbuf_ok(&out))
		n = send(asker->fd, out.data, out.len, MSG_NOSIGNAL);
	n = n == (ssize_t)out.len ? 0 : -1;
	sbuf_free(&out);
	return n == 0;
}

static void asker_next(struct asker *asker)
{
	struct lookup *lookup;

	if (!asker->ready || asker->busy || asker->lookups.count == 0)
		return;
	lookup = CONTAINER_OF(list_first(&asker->lookups), struct lookup, node);
	asker->busy = true;
	asker->since = asker->worker->now;
	asker->rows = 0;
	asker->malformed = false;
	asker->sqlstate[0] = '\0';
	if (!asker_send(asker, lookup->name))
		/* Within the login that asks: it must not go on in itself. */
		asker_fail(asker, false, "08006", "the question could not be sent");
}

/* ---- answers ---- */

/* (user name, secret or NULL), and the name must be the one asked for: a query that answers with
 * another user's secret would let people in as whom they are not. */
static void asker_row(struct asker *asker, const uint8_t *body, size_t len)
{
	const struct lookup *lookup =
	    CONTAINER_OF(list_first(&asker->lookups), struct lookup, node);
	struct wire_cell cells[2];
	size_t count;

	asker->rows++;
	if (!wire_parse_data_row(body, len, cells, 2, &count) || count < 2 ||
	    cells[0].data == NULL || cells[0].len != strlen(lookup->name) ||
	    memcmp(cells[0].data, lookup->name, cells[0].len) != 0 ||
	    (cells[1].data != NULL &&
	     (cells[1].len > SECRET_MAX || memchr(cells[1].data, '\0', cells[1].len) != NULL))) {
		asker->malformed = true;
		return;
	}
	mem_free_secret(asker->secret);
	asker->secret = cells[1].data == NULL ? NULL : strndup(cells[1].data, cells[1].len);
	if (cells[1].data != NULL && asker->secret == NULL)
		asker->malformed = true;
}

static void asker_error(struct asker *asker, const uint8_t *body, size_t len)
{
	struct wire_error error;

	(void)snprintf(asker->sqlstate, sizeof(asker->sqlstate), "08006");
	(void)snprintf(asker->message, sizeof(asker->message), "unknown error");
	if (!wire_parse_error(body, len, &error))
		return;
	if (error.sqlstate != NULL)
		(void)snprintf(asker->sqlstate, sizeof(asker->sqlstate), "%s", error.sqlstate);
	if (error.message != NULL)
		(void)snprintf(asker->message, sizeof(asker->message), "%s", error.message);
}

/* It was not the question that was wrong: connection exceptions, resources, an administrator; or what the
 * server has said to a login. */
static bool asker_has_no_server(const struct asker *asker)
{
	const struct pool *pool = pool_get_internal(asker->worker, asker->database, asker->role);

	return strncmp(asker->sqlstate, "08", 2) == 0 || strncmp(asker->sqlstate, "53", 2) == 0 ||
	       strncmp(asker->sqlstate, "57", 2) == 0 ||
	       (asker->sqlstate[0] != '\0' && pool != NULL && pool->last_error != NULL);
}

/* Keeps an answer.  With another secret it may be another role of the same name, made after the former
 * one was dropped: the servers are asked whether theirs still exists. */
static bool asker_keep(struct asker *asker, const char *name, const char *secret,
                       struct auth_user **user)
{
	struct proxy *proxy = asker->worker->proxy;
	struct auth_user *former;
	enum auth_cache_state state =
	    auth_cache_get(proxy->auth_cache, asker->scope, name, 0, 0, 0, &former);
	bool kept = auth_cache_put(proxy->auth_cache, asker->scope, name, secret,
	                           asker->worker->now, user);

	if (state != AUTH_CACHE_MISS && *user != NULL && *user != former)
		share_doubt_roles(proxy->shares, name);
	auth_user_unref(former);
	return kept;
}

/* ReadyForQuery after a question. */
static void asker_answer(struct asker *asker)
{
	struct lookup *lookup = CONTAINER_OF(list_first(&asker->lookups), struct lookup, node);
	struct auth_user *user = NULL;
	const char *wrong = NULL;
	char text[300];
	/* What the server cannot take for a name (class 22: not in its encoding) is none. */
	bool no_name = strncmp(asker->sqlstate, "22", 2) == 0;

	asker->busy = false;
	asker->since = asker->worker->now;
	if (asker->sqlstate[0] != '\0' && !no_name)
		wrong = asker->message;
	else if (asker->rows > 1)
		wrong = "the query gave more than one row";
	else if (asker->malformed)
		wrong = "the query must give the user's name and its password";
	else if (!asker_keep(asker, lookup->name,
	                     asker->rows == 0        ? NULL
	                     : asker->secret == NULL ? ""
	                                             : asker->secret,
	                     &user))
		wrong = "out of memory, or a malformed SCRAM secret";
	mem_free_secret(asker->secret);
	asker->secret = NULL;
	if (wrong != NULL) {
		log_warning("auth_query %s/%s: %s", asker->database, asker->role, wrong);
		(void)snprintf(text, sizeof(text), "could not look the user up: %s", wrong);
		lookup_fail(asker, lookup, asker_has_no_server(asker),
		            asker->sqlstate[0] != '\0' ? asker->sqlstate : "XX000", text,
		            NO_ANSWER);
	} else {
		lookup_end(asker, lookup, user, "", "", NO_ANSWER);
	}
	auth_user_unref(user);
	asker_next(asker);
}

static void asker_message(struct asker *asker, const uint8_t *data, size_t total)
{
	const uint8_t *body = data + WIRE_HEADER_LEN;
	const size_t len = total - WIRE_HEADER_LEN;

	switch (data[0]) {
	case BE_DATA_ROW:
		if (asker->busy)
			asker_row(asker, body, len);
		break;
	case BE_ERROR_RESPONSE:
		asker_error(asker, body, len);
		break;
	case BE_READY_FOR_QUERY:
		if (asker->busy) {
			asker_answer(asker);
		} else {
			asker->ready = true;
			asker->since = asker->worker->now;
			asker_next(asker);
		}
		break;
	default:
		break;
	}
}

/* Whole messages of what has come; false: no protocol of ours. */
static bool asker_parse(struct asker *asker)
{
	while (asker->in.len >= WIRE_HEADER_LEN && asker->fd >= 0) {
		uint8_t message[ANSWER_MAX / 4];
		size_t total;

		if (wire_header_check(WIRE_BACKEND, asker->in.data, &total) != WIRE_HEADER_OK ||
		    total > sizeof(message))
			return false;
		if (asker->in.len < total)
			break;
		/* A copy: what it brings about may close the asker. */
		memcpy(message, asker->in.data, total);
		memmove(asker->in.data, asker->in.data + total, asker->in.len - total);
		asker->in.len -= total;
		asker_message(asker, message, total);
		explicit_bzero(message, total);
	}
	return true;
}

static void asker_event(evutil_socket_t fd, short what, void *arg)
{
	struct asker *asker = arg;
	struct worker *worker = asker->worker;
	char bytes[8192];
	ssize_t n;

	(void)what;
	worker->now = clock_now();
	n = recv(fd, bytes, sizeof(bytes), 0);
	if (n > 0) {
		sbuf_add(&asker->in, bytes, (size_t)n);
		explicit_bzero(bytes, (size_t)n);
		if (!sbuf_ok(&asker->in) || !asker_parse(asker))
			asker_fail(asker, false, "08P01", "the answer is too long or malformed");
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		char sqlstate[6];
		char message[256];

		(void)snprintf(sqlstate, sizeof(sqlstate), "%s",
		               asker->sqlstate[0] != '\0' ? asker->sqlstate : "08006");
		(void)snprintf(message, sizeof(message), "%s",
		               asker->sqlstate[0] != '\0' ? asker->message
		                                          : "the connection was lost");
		asker->sqlstate[0] = '\0';
		asker_fail(asker, true, sqlstate, message);
	}
	worker_end_turn(worker);
}

static bool asker_open(struct asker *asker)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
		return false;
	asker->fd = fds[0];
	asker->since = asker->worker->now;
	asker->sqlstate[0] = '\0';
	asker->event =
	    event_new(asker->worker->base, fds[0], EV_READ | EV_PERSIST, asker_event, asker);
	if (asker->event == NULL || event_add(asker->event, NULL) != 0) {
		(void)close(fds[1]);
		asker_close(asker);
		return false;
	}
	client_open_internal(asker->worker, fds[1], asker->database, asker->role);
	return true;
}

static struct asker *asker_get(struct worker *worker, const struct target *target)
{
	struct list_node *node;
	struct list_node *tmp;
	struct asker *asker;

	LIST_FOREACH(&worker->askers, node, tmp)
	{
		asker = CONTAINER_OF(node, struct asker, node);
		if (strcmp(asker->scope, sbuf_text(&target->scope)) == 0)
			return asker;
	}
	asker = calloc(1, sizeof(*asker));
	if (asker == NULL)
		return NULL;
	asker->worker = worker;
	asker->fd = -1;
	list_init(&asker->lookups);
	sbuf_init(&asker->in, ANSWER_MAX);
	list_append(&worker->askers, &asker->node);
	asker->scope = strdup(sbuf_text(&target->scope));
	asker->database = strdup(target->database);
	asker->role = strdup(target->role);
	asker->query = strdup(target->query);
	if (asker->scope != NULL && asker->database != NULL && asker->role != NULL &&
	    asker->query != NULL)
		return asker;
	asker_free(asker);
	return NULL;
}

/* The lookup of the name, made if need be; NULL: no memory, or (*full) too many names wait. */
static struct lookup *lookup_get(struct asker *asker, const char *name, bool *full)
{
	struct list_node *node;
	struct list_node *tmp;
	struct lookup *lookup;

	*full = false;
	LIST_FOREACH(&asker->lookups, node, tmp)
	{
		lookup = CONTAINER_OF(node, struct lookup, node);
		if (strcmp(lookup->name, name) == 0)
			return lookup;
	}
	*full = asker->lookups.count >= LOOKUPS_MAX;
	lookup = *full ? NULL : calloc(1, sizeof(*lookup));
	if (lookup == NULL)
		return NULL;
	lookup->name = strdup(name);
	if (lookup->name == NULL) {
		free(lookup);
		return NULL;
	}
	list_init(&lookup->waiters);
	list_append(&asker->lookups, &lookup->node);
	return lookup;
}

/* ---- for the logins ---- */

/* False: no memory, or (*full) too many wait. */
static bool ask_for(struct client *client, const struct target *target, bool *full)
{
	struct asker *asker = asker_get(client->worker, target);
	struct lookup *lookup = NULL;

	*full = false;
	if (asker != NULL && (asker->fd >= 0 || asker_open(asker)))
		lookup = lookup_get(asker, client->login->user, full);
	if (lookup == NULL)
		return false;
	client->login->client = client;
	client->login->waiting_in = &lookup->waiters;
	list_append(&lookup->waiters, &client->login->waiting);
	asker_next(asker);
	return true;
}

static enum auth_query_result ask_server(struct client *client, const struct target *target)
{
	bool full;

	if (!ask_for(client, target, &full)) {
		client_doom_fatal(client, CLIENT_CLOSE_LIMIT, full ? "53300" : "53200",
		                  full ? "too many logins at a time" : "out of memory", NULL,
		                  "Try again.");
		return AUTH_QUERY_FAILED;
	}
	/* It may have failed at once. */
	return client->doomed ? AUTH_QUERY_FAILED : AUTH_QUERY_WAIT;
}

static bool target_held(struct worker *worker, const struct target *target)
{
	const struct database *database = database_find(worker, target->database);

	return database != NULL && database->held;
}

/* No server can be had there now. */
static bool target_fails(struct worker *worker, const struct target *target)
{
	const struct pool *pool = pool_get_internal(worker, target->database, target->role);

	return pool == NULL ||
	       (pool->last_error != NULL && worker->now < pool->retry_at &&
	        atomic_load_explicit(&pool->share->servers, memory_order_relaxed) == 0);
}

/* Whether what is known of the user (*user; NULL: there is none) serves, instead of a question. */
static bool target_answer_serves(struct worker *worker, const struct target *target,
                                 enum auth_cache_state state, const struct auth_user *user)
{
	/* Nobody can be asked in a held database, but nobody can change a password there either. */
	if (user != NULL && target_held(worker, target))
		return true;
	if (state != AUTH_CACHE_FRESH)
		return false;
	/* pgbouncer keeps no answer: a role that was made or changed counts from the next login on.  To believe
	 * for a while that there is no such user would keep off nobody who makes names up. */
	return !worker->routes->config->proxy.as_pgbouncer || target_fails(worker, target);
}

/* A name that only the fallback entry stands for, and so many are known already that no further one
 * is taken from somebody who has not proved anything. */
static bool target_refused(struct worker *worker, const struct target *target)
{
	const struct route *route = route_find(worker->routes, target->database);

	return strcmp(route->database->name, target->database) != 0 &&
	       database_find(worker, target->database) == NULL &&
	       worker->databases.count >= worker->routes->count + FALLBACKS_MAX;
}

/* Whether the database in which is to be asked is there and not disabled; false: the client is doomed.
 * One of our own file is there; pgbouncer's, or SET, may name another. */
static bool auth_database_usable(struct client *client)
{
	const struct worker *worker = client->worker;
	struct target target;
	const char *name;
	char text[128];

	if (!target_names(worker, client->login->database, &target) ||
	    strcmp(target.database, client->login->database) == 0)
		return true;
	name = target.database;
	if (config_is_console(name) || route_find(worker->routes, name) == NULL) {
		if (config_is_console(name))
			log_error("cannot use the reserved \"%s\" database as an auth_dbname", name);
		else
			log_error("authentication database \"%s\" is not configured", name);
		client_doom_fatal(client, CLIENT_CLOSE_AUTH, "F0000", NO_ANSWER, NULL,
		                  "The database of auth_dbname is not configured.");
		return false;
	}
	if (!share_is_disabled(worker->proxy->shares, name))
		return true;
	(void)snprintf(text, sizeof(text), "authentication database \"%.63s\" is disabled", name);
	client_doom_fatal(client, CLIENT_CLOSE_DISABLED, "57P03", text, NULL, NULL);
	return false;
}

enum auth_query_result auth_query_ask(struct client *client, struct auth_user **user)
{
	struct worker *worker = client->worker;
	const struct config_proxy *conf = &worker->routes->config->proxy;
	enum auth_query_result result = AUTH_QUERY_KNOWN;
	enum auth_cache_state state;
	struct target target;

	*user = NULL;
	if (!auth_database_usable(client))
		return AUTH_QUERY_FAILED;
	if (!target_find(worker, client->login->database, &target))
		return AUTH_QUERY_NOBODY;
	state =
	    auth_cache_get(worker->proxy->auth_cache, sbuf_text(&target.scope), client->login->user,
	                   worker->now, conf->auth_cache_age, conf->auth_cache_absent_age, user);
	client->login->cached = *user != NULL;
	if (!target_answer_serves(worker, &target, state, *user)) {
		client->login->cached = false;
		auth_user_unref(*user);
		*user = NULL;
		if (target_refused(worker, &target))
			log_warning("auth_query: too many databases that only \"*\" stands for");
		else
			result = ask_server(client, &target);
	}
	sbuf_free(&target.scope);
	return result;
}

void auth_query_leave(struct client *client)
{
	struct client_login *login = client->login;

	if (login->waiting_in != NULL)
		list_remove(login->waiting_in, &login->waiting);
	login->waiting_in = NULL;
}

bool auth_query_doubt(struct client *client)
{
	struct worker *worker = client->worker;
	struct target target;
	bool waits = false;
	bool full;

	if (!target_find(worker, client->login->database, &target))
		return false;
	if (!target_held(worker, &target) && !target_fails(worker, &target) &&
	    auth_cache_doubt(worker->proxy->auth_cache, sbuf_text(&target.scope), client->login->user,
	                     worker->now, worker->routes->config->proxy.auth_cache_absent_age))
		/* It may have failed at once. */
		waits = ask_for(client, &target, &full);
	sbuf_free(&target.scope);
	return waits;
}

/* ---- for the pools ---- */

struct auth_user *auth_query_last(struct pool *pool)
{
	struct auth_user *user = NULL;
	struct target target;
	struct auth_cache *cache = pool->worker->proxy->auth_cache;

	if (target_find(pool->worker, pool->database->name, &target)) {
		if (auth_cache_get(cache, sbuf_text(&target.scope), pool->user, 0, 0, 0, &user) ==
		    AUTH_CACHE_MISS)
			user = NULL;
		sbuf_free(&target.scope);
	}
	if (user == NULL &&
	    auth_cache_get(cache, AUTH_CACHE_OTHERS, pool->user, 0, 0, 0, &user) == AUTH_CACHE_MISS)
		user = NULL;
	return user;
}

struct auth_user *auth_query_role(struct pool *pool, struct sbuf *why)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;
	struct auth_user *user = userlist_find(pool->worker->users, pool->user);
	char *password = NULL;

	if (strcmp(pool->user, conf->auth_user) == 0 &&
	    (conf->auth_password_file[0] != '\0' || conf->auth_password_env[0] != '\0')) {
		if (!config_secret(conf->auth_password_file, conf->auth_password_env, &password,
		                   why))
			return NULL;
		user = auth_user_new(pool->user, password);
		mem_free_secret(password);
		return user;
	}
	return user != NULL ? auth_user_ref(user) : auth_user_new(pool->user, NULL);
}

/* ---- time, end ---- */

/* Why there is no answer, as far as the pool knows. */
static const char *asker_trouble(const struct asker *asker)
{
	const struct pool *pool = pool_get_internal(asker->worker, asker->database, asker->role);

	return pool != NULL && pool->last_error != NULL
	           ? pool->last_error
	           : "there was no answer within auth_query_timeout";
}

void auth_query_tick(struct worker *worker)
{
	const usec_t limit = worker->routes->config->proxy.auth_query_timeout;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->askers, node, tmp)
	{
		struct asker *asker = CONTAINER_OF(node, struct asker, node);
		const struct database *database = database_find(worker, asker->database);
		const usec_t age = worker->now - asker->since;

		/* In a hold they wait as long as their clients do. */
		if (asker->lookups.count > 0 && limit > 0 && age > limit &&
		    (database == NULL || !database->held))
			asker_fail(asker, true, "57P05", asker_trouble(asker));
		else if (asker->lookups.count == 0 && age > IDLE_USEC)
			asker_free(asker);
	}
}

void auth_query_free(struct worker *worker)
{
	while (worker->askers.count > 0) {
		struct asker *asker = CONTAINER_OF(list_first(&worker->askers), struct asker, node);

		while (asker->lookups.count > 0)
			lookup_free(asker,
			            CONTAINER_OF(list_first(&asker->lookups), struct lookup, node));
		asker_free(asker);
	}
}
