/* SPDX-License-Identifier: PostgreSQL */
#include "core/trial.h"

#include "core/client_login.h"
#include "core/pool_internal.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>

/* So many sets are remembered, the last ones. */
#define TRIAL_KNOWN 256u
/* So long a client waits for a server that tries its parameters. */
#define TRIAL_WAIT USEC_PER_SEC

struct trials {
	size_t count;
	size_t next; /* to be replaced when all places are taken */
	struct {
		struct param_set *asked;
		struct param_set *told; /* the same with the server's values */
	} known[TRIAL_KNOWN];
};

bool trial_of_client(struct client *client)
{
	struct client_login *login = client->login;
	struct param_set *asked;

	if (login->wanted == NULL)
		return true;
	asked = param_set_without(client->worker->params, login->wanted, "application_name");
	if (asked == NULL)
		return false;
	if (param_set_count(asked) == 0) {
		param_set_unref(asked);
		return true;
	}
	login->trial = asked;
	if (client->pool->session)
		client->boot = param_set_ref(asked);
	return true;
}

/* NULL: it is not known. */
static struct param_set *trial_find(const struct pool *pool, const struct param_set *asked)
{
	const struct trials *trials = pool->trials;

	for (size_t i = 0; trials != NULL && i < trials->count; i++) {
		if (trials->known[i].asked == asked)
			return trials->known[i].told;
	}
	return NULL;
}

bool trial_knows_defaults(const struct client *client)
{
	const struct param_set *welcome = client->pool->welcome;

	return welcome != NULL && param_set_guesses_only(welcome, client->login->wanted);
}

bool trial_is_over(struct client *client)
{
	struct client_login *login = client->login;
	const struct pool *pool = client->pool;

	if (pool->welcome == NULL)
		return false;
	if (pool->database->held || pool->internal)
		return true;
	if (trial_knows_defaults(client) &&
	    (login->trial == NULL ||
	     (pool->last_params != NULL && pool->last_wanted == login->wanted) ||
	     trial_find(pool, login->trial) != NULL))
		return true;
	if (login->trial_since == 0)
		login->trial_since = client->worker->now;
	return client->worker->now - login->trial_since > TRIAL_WAIT;
}

struct client *trial_first(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	if (LIKELY(pool->clients[CLIENT_WELCOME].count == 0))
		return NULL;
	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (!trial_is_over(client))
			return client;
	}
	return NULL;
}

static bool trial_is_under_way(const struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_RESETTING], node, tmp)
	{
		if (CONTAINER_OF(node, struct server, node)->tried != NULL)
			return true;
	}
	return false;
}

/* Sets what the client asks for, and what it has by default.  False: the server has it already. */
static bool trial_start(struct server *server, const struct client *client)
{
	struct pool *pool = server->pool;
	struct param_set *want =
	    param_set_merge(pool->worker->params, pool->welcome, client->login->trial);
	struct sbuf sql;
	bool started = false;

	sbuf_init(&sql, PARAM_MAX_SQL);
	if (want != NULL && param_set_sync_sql(want, server->params, &sql) > 0 && sbuf_ok(&sql)) {
		server->may_set |= param_bits_differing(want, server->params);
		server->tried = param_set_ref(client->login->trial);
		(void)!server_start_task(server, SERVER_TASK_TRY, sbuf_text(&sql));
		started = true;
	}
	sbuf_free(&sql);
	param_set_unref(want);
	return started;
}

bool trial_wants_server(struct pool *pool)
{
	const struct client *client = trial_first(pool);
	struct server *server;

	if (client == NULL || trial_is_under_way(pool))
		return false;
	if (!trial_knows_defaults(client))
		return true; /* nor can a connection that has been used tell */
	server = pool_take_idle(pool, client);
	if (server == NULL)
		return true;
	if (server->boot != client->boot)
		return false; /* which it has refused */
	/* In session pooling it was opened with the same, what has been forgotten since (RELOAD). */
	if (pool->session || !trial_start(server, client))
		trial_passed(pool, client->login->trial, server->params);
	return false;
}

/* What was asked for, with the values that the server reports.  A role is not reported, but what
 * follows from it is. */
static struct param_set *trial_read(struct pool *pool, struct param_set *asked,
                                    const struct param_set *params)
{
	struct param_set *told = param_set_ref(asked);

	for (size_t i = 0; told != NULL && i < param_set_count(asked); i++) {
		const char *name = param_set_at(asked, i)->name;
		const struct param_entry *entry =
		    param_set_find(params, strcmp(name, "role") == 0 ? "is_superuser" : name);
		struct param_set *next;

		if (entry == NULL || !entry->reported)
			continue;
		next = param_set_with(pool->worker->params, told, entry->name, entry->value, true);
		param_set_unref(told);
		told = next;
	}
	return told;
}

static void trial_remember(struct pool *pool, struct param_set *asked, struct param_set *told)
{
	struct trials *trials = pool->trials;
	size_t at;

	if (trials == NULL)
		trials = pool->trials = calloc(1, sizeof(*trials));
	if (trials == NULL) {
		param_set_unref(told);
		return;
	}
	at = trials->count < TRIAL_KNOWN ? trials->count++ : trials->next++ % TRIAL_KNOWN;
	param_set_replace(&trials->known[at].asked, param_set_ref(asked));
	param_set_replace(&trials->known[at].told, told);
}

void trial_passed(struct pool *pool, struct param_set *asked, const struct param_set *params)
{
	struct param_set *told;

	if (trial_find(pool, asked) != NULL)
		return;
	told = trial_read(pool, asked, params);
	if (told == NULL)
		return; /* those who wait are let in when they have waited for long enough */
	trial_remember(pool, asked, told);
	pool_let_in(pool);
}

void trial_refused(struct pool *pool, const struct param_set *asked, const struct wire_error *error)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (client->login->trial == asked)
			client_doom_fatal(client, CLIENT_CLOSE_PARAMETERS,
			                  error->sqlstate == NULL ? "XX000" : error->sqlstate,
			                  error->message == NULL ? "unknown error" : error->message,
			                  error->detail, error->hint);
	}
}

void trial_answered(struct server *server)
{
	struct pool *pool = server->pool;
	struct param_set *asked = server->tried;
	const bool passed = server->error == NULL && server->tx_status == 'I';
	struct param_set *settled;

	server->tried = NULL;
	if (passed) {
		settled = param_set_settle(server->worker->params, asked, server->params);
		if (settled != NULL)
			param_set_replace(&server->params, settled);
		else
			server_doom(server, SERVER_CLOSE_MEMORY);
		trial_passed(pool, asked, server->params);
	} else if (server->tx_status != 'I') {
		server_doom(server, SERVER_CLOSE_RESET);
	} else if (server_has_leftover(server, server->error_sqlstate)) {
		server_doom(server, SERVER_CLOSE_LEFTOVER);
	}
	param_set_unref(asked);
	if (!server->doomed)
		pool_server_free(pool, server);
}

void trial_forget(struct pool *pool)
{
	struct trials *trials = pool->trials;

	for (size_t i = 0; trials != NULL && i < trials->count; i++) {
		param_set_unref(trials->known[i].asked);
		param_set_unref(trials->known[i].told);
	}
	free(trials);
	pool->trials = NULL;
	param_set_replace(&pool->last_params, NULL);
}

struct param_set *trial_told(struct pool *pool, const struct client_login *login, bool *known)
{
	struct param_set *told = login->trial == NULL ? NULL : trial_find(pool, login->trial);
	const char *name = param_set_get(login->wanted, "application_name");

	*known = login->trial == NULL || told != NULL;
	if (told == NULL)
		return param_set_ref(login->wanted);
	return name == NULL ? param_set_ref(told)
	                    : param_set_with(pool->worker->params, told, "application_name", name,
	                                     false);
}
