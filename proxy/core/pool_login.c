/* SPDX-License-Identifier: PostgreSQL */
/*
 * Of a pool: what the logins of its servers have taught it, for the clients that wait for one: the
 * parameters of a server, or why there is none.  Worker thread.
 */
#include "base/log.h"
#include "core/boot.h"
#include "core/client_login.h"
#include "core/mail.h"
#include "core/pool_internal.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/trial.h"
#include "core/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The database is not currently accepting connections. */
#define CLOSED_SQLSTATE "55000"
#define CLOSED_PAUSE (250 * USEC_PER_MSEC)

static void pool_replace_welcome(struct pool *pool, struct param_set *welcome)
{
	param_set_replace(&pool->welcome, welcome);
	param_set_replace(&pool->last_params, NULL);
}

struct param_set *pool_login_params(struct pool *pool, const struct client_login *login)
{
	struct param_set *told;
	struct param_set *params;
	bool known;

	/* An application's connections all ask for the same. */
	if (pool->last_params != NULL && pool->last_wanted == login->wanted)
		return param_set_ref(pool->last_params);
	told = trial_told(pool, login, &known);
	if (told == NULL && login->wanted != NULL)
		return NULL;
	params = param_set_merge(pool->worker->params, pool->welcome, told);
	param_set_unref(told);
	if (params != NULL && known) {
		param_set_replace(&pool->last_wanted, param_set_ref(login->wanted));
		param_set_replace(&pool->last_params, param_set_ref(params));
	}
	return params;
}

/* NULL: nobody. */
static struct client *pool_first_let_in(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (login_is_ready(client))
			return client;
	}
	return NULL;
}

void pool_let_in(struct pool *pool)
{
	struct client *client;

	/* One that goes on may have the pool look for a server, and come back here. */
	if (pool->letting_in)
		return;
	pool->letting_in = true;
	while ((client = pool_first_let_in(pool)) != NULL) {
		client_login_step(client);
		if (!client->doomed)
			client_go_on(client); /* what it has sent behind its login */
	}
	pool->letting_in = false;
}

void pool_set_welcome(struct pool *pool, struct param_set *welcome)
{
	pool_replace_welcome(pool, welcome);
	pool_let_in(pool);
	if (UNLIKELY(pool->clients[CLIENT_WELCOME].count > 0))
		pool_kick(pool); /* they ask for what has to be tried */
}

/* Under a hold no server can be asked: what another user of the database was told is near enough,
 * and its first request settles the differences. */
void pool_find_welcome(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	if (!pool->database->held)
		return;
	LIST_FOREACH(&pool->database->pools, node, tmp)
	{
		struct pool *other = CONTAINER_OF(node, struct pool, node);

		if (other->welcome != NULL) {
			pool_replace_welcome(pool, param_set_ref(other->welcome));
			return;
		}
	}
}

static void pool_mail_learned(struct pool *pool)
{
	struct mail_welcome *mail = mail_new(sizeof(*mail), MAIL_LEARNED);

	if (mail == NULL)
		return;
	mail->database = strdup(pool->database->name);
	mail->user = strdup(pool->user);
	mail->params = param_set_encode(pool->welcome, &mail->params_len);
	if (mail->database == NULL || mail->user == NULL || mail->params == NULL)
		mail_free_welcome(mail);
	else
		mailbox_post(&pool->worker->proxy->mailbox, &mail->letter);
}

/* For pace_yields(). */
static void pool_note_opened(const struct pool *pool, const struct server *server)
{
	usec_t never = 0;

	if (pool->database->yields_since != 0 && gate_server_current(server))
		(void)atomic_compare_exchange_strong(&pool->database->share->opened_at, &never,
		                                     pool->worker->now);
}

void pool_login_succeeded(struct pool *pool, struct server *server)
{
	struct param_set *welcome;

	pool->worker->stats.servers_opened++;
	if (server->for_swap)
		return;
	free(pool->last_error);
	pool->last_error = NULL;
	pool->failing_since = 0;
	pool->hosts_failed = 0;
	pool->retry_at = 0;
	atomic_store_explicit(&pool->share->succeeded_at, server->born, memory_order_relaxed);
	pool_note_opened(pool, server);
	if (server->boot != NULL)
		trial_passed(pool, server->boot, server->params);
	welcome = server->boot == NULL ? param_set_ref(server->params)
				       : boot_welcome(pool, server);
	if (welcome == NULL || pool->welcome == welcome) {
		param_set_unref(welcome);
		return;
	}
	pool_set_welcome(pool, welcome);
	if (!pool->internal)
		pool_mail_learned(pool);
}

void pool_learn_defaults(struct server *server, uint16_t bits)
{
	struct pool *pool = server->pool;
	struct param_set *welcome;

	server->defaulted = false;
	if ((param_bits_differing(server->params, pool->welcome) & bits) == 0)
		return;
	welcome = param_set_adopt(pool->worker->params, pool->welcome, server->params, bits);
	if (welcome == NULL)
		return;
	pool_replace_welcome(pool, welcome);
	pool->learned = !pool->internal;
}

void pool_reloaded(struct server *server, uint16_t bits)
{
	static const enum server_state states[] = {SERVER_IDLE, SERVER_ACTIVE, SERVER_RESETTING};
	struct pool *pool = server->pool;
	const struct route *route = route_find(server->routes, pool->database->name);
	const uint16_t news = param_bits_differing(server->params, pool->welcome) & bits;
	struct list_node *node;
	struct list_node *tmp;

	pool_learn_defaults(server, bits);
	/* What that has SET is none of the server's own, and stays. */
	if (route == NULL || route->database->connect_query[0] != '\0')
		return;
	for (size_t i = 0; news != 0 && i < ARRAY_LEN(states); i++) {
		LIST_FOREACH(&pool->servers[states[i]], node, tmp)
		{
			struct server *other = CONTAINER_OF(node, struct server, node);

			if (other == server)
				continue;
			other->reloaded |= news;
			other->may_set |= SERVER_RELOADED;
		}
	}
}

void pool_tick_learned(struct pool *pool)
{
	pool->learned = false;
	pool_mail_learned(pool);
}

/* Errors that waiting does not mend: authentication, unknown database, missing privilege; for
 * pgbouncer all that a server says but that it is starting up. */
static bool sqlstate_permanent(const char *sqlstate, bool as_pgbouncer)
{
	if (as_pgbouncer)
		return sqlstate[0] != '\0' && strcmp(sqlstate, "57P03") != 0;
	return strncmp(sqlstate, "28", 2) == 0 || strncmp(sqlstate, "3D", 2) == 0 ||
	       strcmp(sqlstate, "42501") == 0 || strncmp(sqlstate, "0A", 2) == 0;
}

usec_t pool_patience(const struct pool *pool)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;

	return pool->database->lapsed && strcmp(pool->last_sqlstate, CLOSED_SQLSTATE) == 0
	           ? conf->query_wait_timeout
	           : conf->connect_timeout;
}

/* Whether clients may hope for a server that there is, besides `failing` ones.  Those from before a
 * RECONNECT are nobody's any more. */
static bool pool_has_others(const struct pool *pool, int failing)
{
	return atomic_load_explicit(&pool->share->servers, memory_order_relaxed) > failing &&
	       (pool->database->reconnect_at == 0 ||
	        atomic_load_explicit(&pool->share->succeeded_at, memory_order_relaxed) >
	            pool->database->reconnect_at);
}

/*
 * As pgbouncer: who was waiting when logins began to fail goes on doing so, for a server that is
 * restarted may be back within query_wait_timeout; who comes later is told at once.
 */
static void pool_refuse_newcomers(struct pool *pool)
{
	const size_t coming = pool->servers[SERVER_DIALING].count + pool->servers[SERVER_LOGIN].count;

	if (!pool_has_others(pool, (int)coming))
		pool_refuse_waiting(pool, pool->failing_since + 1, pool->worker->now);
}

void pool_tick_failing(struct pool *pool)
{
	const usec_t now = pool->worker->now;
	const usec_t patience = pool_patience(pool);

	if (pool->last_permanent && !pool_has_others(pool, 0))
		pool_refuse_waiting(pool, 0, now);
	else if (pool->worker->routes->config->proxy.as_pgbouncer && !pool->database->lapsed)
		pool_refuse_newcomers(pool);
	else if (patience > 0)
		pool_refuse_waiting(pool, 0, now - patience);
}

void pool_refuse_login(struct client *client, const char *sqlstate, const char *error,
                       const char *text)
{
	const bool theirs = client->worker->routes->config->proxy.as_pgbouncer;

	if (*sqlstate == '\0' || theirs)
		client_doom_fatal(client, CLIENT_CLOSE_NO_SERVER,
		                  *sqlstate == '\0' ? "08006" : sqlstate, text, NULL, NULL);
	else
		/* That it was not the client whom the server refused is told where it matters. */
		client_doom_fatal(client, CLIENT_CLOSE_NO_SERVER, sqlstate, error,
		                  strncmp(sqlstate, "28", 2) == 0
		                      ? "The proxy could not get a server connection."
		                      : NULL,
		                  NULL);
}

void pool_refuse_waiting(struct pool *pool, usec_t after, usec_t before)
{
	const char *sqlstate = pool->last_sqlstate[0] == '\0' ? "08006" : pool->last_sqlstate;
	struct list_node *node;
	struct list_node *tmp;
	char text[512];

	if (!pool->worker->routes->config->proxy.as_pgbouncer)
		(void)snprintf(text, sizeof(text), "could not get a server connection: %s",
		               pool->last_error);
	else if (pool->last_sqlstate[0] != '\0') /* the server's words, as they are */
		(void)snprintf(text, sizeof(text), "%s", pool->last_error);
	else
		(void)snprintf(text, sizeof(text),
		               "server login has been failing, cached error: %s "
		               "(server_login_retry)",
		               pool->last_error);
	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (client->since >= after && client->since <= before)
			pool_refuse_login(client, pool->last_sqlstate, pool->last_error, text);
	}
	/* In order of age; a refused client may come back with its next request at the end.  (Who
	 * comes after such a one may get a server by it: no walk along the list.) */
	for (size_t n = pool->clients[CLIENT_WAITING].count; n > 0; n--) {
		struct client *client;

		node = after > 0 ? list_last(&pool->clients[CLIENT_WAITING])
				 : list_first(&pool->clients[CLIENT_WAITING]);
		if (node == NULL)
			break;
		client = CONTAINER_OF(node, struct client, node);
		if (client->since < after || client->since > before)
			break;
		client_refuse_request(client, sqlstate, text, NULL);
	}
}

void pool_forget_failures(struct pool *pool)
{
	pool->retry_at = 0;
	pool->failing_since = 0;
	free(pool->last_error);
	pool->last_error = NULL;
	pool->last_permanent = false;
}

static void pool_try_again_as(struct pool *pool, void *user)
{
	if (strcmp(pool->user, user) != 0 || pool->last_error == NULL)
		return;
	pool_forget_failures(pool);
	if (!pool->database->held)
		pool_kick(pool);
}

void pool_try_again(struct worker *worker, const char *user)
{
	pool_for_each(worker, pool_try_again_as, (void *)user);
}

void pool_secret_learned(struct worker *worker, const char *user)
{
	struct proxy *proxy = worker->proxy;

	pool_try_again(worker, user);
	for (unsigned i = 0; i < proxy->worker_count; i++) {
		struct mail_database *mail;

		if (i == worker->index)
			continue;
		mail = mail_new_database(MAIL_SECRET, user);
		if (mail != NULL) /* else they try again when they would have */
			mailbox_post(&proxy->workers[i].mailbox, &mail->letter);
	}
}

void pool_server_failed(struct pool *pool, struct server *server, const char *error,
                        const char *sqlstate)
{
	const bool closed = strcmp(sqlstate, CLOSED_SQLSTATE) == 0 && gate_server_current(server);
	usec_t now = pool->worker->now;
	usec_t pause = pool->worker->routes->config->proxy.server_login_retry;
	bool others;

	if (*sqlstate != '\0')
		server_log(server, LOG_LEVEL_WARNING, "server login failed: FATAL %s", error);
	else
		server_log(server, LOG_LEVEL_WARNING, "connection failed: %s", error);
	if (server->doomed)
		server_log_end(server); /* before the clients know */
	pool->worker->stats.servers_failed++;
	if (closed) {
		atomic_store_explicit(&pool->database->share->closed_at, now, memory_order_relaxed);
		atomic_store_explicit(&pool->database->share->opened_at, 0, memory_order_relaxed);
	}
	if (server->replication != 0) {
		replication_failed(server, error, sqlstate);
		return;
	}
	if (server->for_swap) {
		free(pool->database->swap_error);
		pool->database->swap_error = strdup(error);
		return;
	}
	if (server->stale)
		return; /* it says nothing of the server that the database has now */
	free(pool->last_error);
	pool->last_error = strdup(error);
	(void)snprintf(pool->last_sqlstate, sizeof(pool->last_sqlstate), "%s", sqlstate);
	pool->last_permanent =
	    sqlstate_permanent(sqlstate, pool->worker->routes->config->proxy.as_pgbouncer);
	/* Those of several hosts that have not been tried yet are tried at once. */
	others = *sqlstate == '\0' && ++pool->hosts_failed < server_host_count(server->target);
	if (!others) {
		pool->hosts_failed = 0;
		/* (All proxies are to notice at about the same time that the fence is lifted.) */
		if (closed && pool->database->yields_since != 0 && pause > CLOSED_PAUSE)
			pause = CLOSED_PAUSE;
		pool->retry_at = now + pause;
	}
	if (pool->failing_since == 0)
		pool->failing_since = now;
	if (pool->session)
		pool_let_in(pool); /* those who waited for a promise only */
	/* Somebody else's server may still come free; without any there is no hope. */
	if (pool->last_permanent && pool->last_error != NULL && !pool->database->held &&
	    !pool_has_others(pool, 1))
		pool_refuse_waiting(pool, 0, now);
	if (others)
		pool_kick(pool);
}

void pool_refuse_late(struct pool *pool, struct client *client)
{
	char text[512];

	if (pool->last_error == NULL) {
		client_refuse_request(client, "53300",
		                      "no server connection became free within "
		                      "query_wait_timeout",
		                      "Try the request again, or raise pool_size.");
		return;
	}
	(void)snprintf(text, sizeof(text),
	               "could not get a server connection within query_wait_timeout: %s",
	               pool->last_error);
	client_refuse_request(client, "57P03", text, "Try the request again.");
}
