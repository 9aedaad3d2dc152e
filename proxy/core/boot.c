/* SPDX-License-Identifier: PostgreSQL */
#include "core/boot.h"

#include "base/log.h"
#include "core/session_move.h"
#include "core/trial.h"
#include "core/worker.h"
#include "wire/build.h"
#include "wire/startup.h"

#include <limits.h>
#include <string.h>

/* So many of those who wait are looked at when a server is opened or closed for them. */
#define WAITING_LOOKED_AT 32
/* So many different startup parameters are told apart when connections are opened for a swap. */
#define SWAP_BOOTS_LOOKED_AT 64

bool boot_suits(const struct server *server, const struct client *client)
{
	return server->boot == client->boot ||
	       (server->refused != NULL && server->refused == client->boot);
}

/* Servers that are being opened, or (`idle`) are there, and are for such a client. */
static size_t count_suiting(struct pool *pool, const struct client *client, bool idle)
{
	static const enum server_state states[] = {SERVER_DIALING, SERVER_LOGIN, SERVER_IDLE};
	struct list_node *node;
	struct list_node *tmp;
	size_t count = 0;

	for (size_t i = 0; i < ARRAY_LEN(states) - (idle ? 0 : 1); i++) {
		LIST_FOREACH(&pool->servers[states[i]], node, tmp)
		{
			const struct server *server = CONTAINER_OF(node, struct server, node);

			count += !server->for_swap && !server->stale && server->replication == 0 &&
			         (server->promised == NULL || server->promised == client) &&
			         boot_suits(server, client);
		}
	}
	return count;
}

/* The first of those who wait, or log in, for whom there is no server, and none is being opened.
 * False: there is none among the first of them, and `all` tells whether these are all. */
static bool find_uncovered(struct pool *pool, struct client **found, bool *all)
{
	struct client *seen[WAITING_LOOKED_AT];
	size_t count = 0;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);
		size_t needed = 1;

		if (count == WAITING_LOOKED_AT) {
			*all = false;
			return false;
		}
		for (size_t i = 0; i < count; i++)
			needed += seen[i]->boot == client->boot;
		if (count_suiting(pool, client, true) < needed) {
			*found = client;
			return true;
		}
		seen[count++] = client;
	}
	*all = true;
	*found = trial_first(pool);
	return *found != NULL && count_suiting(pool, *found, trial_knows_defaults(*found)) == 0;
}

bool boot_wants_server(struct pool *pool)
{
	struct client *client;
	bool all;

	return !pool->session || find_uncovered(pool, &client, &all) || !all;
}

/* Of those opened for a swap that no session has taken yet: how many are like this. */
static size_t count_for_swap(struct pool *pool, const struct param_set *boot)
{
	static const enum server_state states[] = {SERVER_DIALING, SERVER_LOGIN, SERVER_WARMING,
	                                           SERVER_PREPARED};
	struct list_node *node;
	struct list_node *tmp;
	size_t count = 0;

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		LIST_FOREACH(&pool->servers[states[i]], node, tmp)
		{
			const struct server *server = CONTAINER_OF(node, struct server, node);

			count += server->for_swap && server->move == NULL && server->boot == boot;
		}
	}
	return count;
}

struct swap_need {
	struct {
		const struct param_set *boot;
		size_t there;
	} seen[SWAP_BOOTS_LOOKED_AT];
	size_t kinds;
	size_t missing;
	struct param_set *first;
};

static void need_for_swap(struct swap_need *need, struct pool *pool, const struct client *client)
{
	size_t i = 0;

	if (client->replication != 0 || (client->move != NULL && client->move->fresh != NULL))
		return;
	while (i < need->kinds && need->seen[i].boot != client->boot)
		i++;
	if (i == SWAP_BOOTS_LOOKED_AT)
		return;
	if (i == need->kinds) {
		need->seen[i].boot = client->boot;
		need->seen[need->kinds++].there = count_for_swap(pool, client->boot);
	}
	if (need->seen[i].there > 0)
		need->seen[i].there--;
	else if (need->missing++ == 0)
		need->first = client->boot;
}

size_t boot_swap_missing(struct pool *pool, struct param_set **first)
{
	struct swap_need need = {.kinds = 0};
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_ACTIVE], node, tmp)
	{
		need_for_swap(&need, pool, CONTAINER_OF(node, struct client, node));
	}
	if (pool->parked > 0) {
		LIST_FOREACH(&pool->database->sessions, node, tmp)
		{
			const struct session_move *move =
			    CONTAINER_OF(node, struct session_move, node);

			if (move->client->pool == pool && session_unproven(move))
				need_for_swap(&need, pool, move->client);
		}
	}
	*first = need.first;
	return need.missing;
}

/* For a swap as many are opened as there are now: like the clients that have those. */
static struct param_set *boot_for_swap(struct pool *pool)
{
	struct param_set *first;

	return boot_swap_missing(pool, &first) > 0 ? first : pool->boot;
}

struct param_set *boot_for_server(struct pool *pool, bool for_swap)
{
	struct client *client;
	bool all;

	if (!pool->session || pool->internal)
		return NULL;
	if (for_swap)
		return boot_for_swap(pool);
	return find_uncovered(pool, &client, &all) ? client->boot : pool->boot;
}

bool boot_accepts(struct pool *pool, struct server *server, const struct client *client)
{
	if (pool->session)
		return boot_suits(server, client);
	/* The pool mode was changed. */
	if (server->boot != NULL)
		server_doom(server, SERVER_CLOSE_STALE);
	return server->boot == NULL;
}

void boot_used(struct pool *pool, const struct client *client)
{
	if (pool->boot != client->boot)
		param_set_replace(&pool->boot, param_set_ref(client->boot));
}

/* Whether one of those who wait can use it. */
static bool is_wanted(struct pool *pool, const struct server *server)
{
	size_t count = 0;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		if (boot_suits(server, CONTAINER_OF(node, struct client, node)))
			return true;
		if (++count == WAITING_LOOKED_AT)
			break;
	}
	return false;
}

bool boot_make_room(struct pool *pool, bool promised_too)
{
	struct server *chosen = NULL;
	int least = INT_MAX;
	struct list_node *node;
	struct list_node *tmp;

	if (!pool->session)
		return false;
	/* The most recently used come first. */
	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);
		const bool promised = server->promised != NULL;
		int loss;

		if (!server->counted || (promised && !promised_too))
			continue;
		loss = (is_wanted(pool, server) ? 2 : 0) + (promised ? 1 : 0);
		if (loss > least)
			continue;
		chosen = server;
		least = loss;
	}
	if (chosen == NULL)
		return false;
	chosen->counted = false;
	server_doom(chosen, SERVER_CLOSE_BOOT);
	return true;
}

static void give_up(struct server *server)
{
	param_set_replace(&server->refused, server->boot);
	server->boot = NULL;
}

bool boot_write(struct server *server, struct sbuf *out)
{
	struct sbuf params;
	bool good;

	if (server->boot == NULL)
		return true;
	sbuf_init(&params, WIRE_STARTUP_MAX);
	for (size_t i = 0; i < param_set_count(server->boot); i++) {
		const struct param_entry *entry = param_set_at(server->boot, i);

		wire_add_startup_param(&params, entry->name, entry->value);
	}
	good = sbuf_ok(&params) && out->len + params.len < WIRE_STARTUP_MAX;
	if (good)
		sbuf_add(out, sbuf_text(&params), params.len);
	else
		give_up(server);
	sbuf_free(&params);
	return good;
}

/* Not what any login of this user at this server would meet. */
bool boot_refused(struct server *server, const struct wire_error *error)
{
	static const char *const others[] = {"28", "3D", "08", "53", "57", "58", "XX"};
	const char *sqlstate = error->sqlstate == NULL ? "XX000" : error->sqlstate;

	if (server->boot == NULL || server->replication != 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		if (strncmp(sqlstate, others[i], 2) == 0)
			return false;
	}
	log_debug("server %s/%s: the startup parameters of its client were refused",
	          server->pool->database->name, server->pool->user);
	trial_refused(server->pool, server->boot, error);
	if (server->for_swap || server->move != NULL || is_wanted(server->pool, server)) {
		give_up(server);
		server_redial(server);
	} else {
		server_doom(server, SERVER_CLOSE_BOOT);
	}
	return true;
}

/* A role is not reported, but what follows from it is. */
static const char *shown_by(const char *asked)
{
	return strcmp(asked, "role") == 0 ? "is_superuser" : asked;
}

/* *set with what `with` makes of it, a reference or NULL: no memory. */
static bool set_becomes(struct param_set **set, struct param_set *with)
{
	if (with != NULL)
		param_set_replace(set, with);
	return with != NULL;
}

/* What the server has by its boot is not what it would have by itself: that is taken from what is
 * known already, and guessed otherwise.  False: no memory. */
static bool welcome_without_boot(struct pool *pool, const struct param_set *boot,
                                 struct param_set **set)
{
	struct param_pool *params = pool->worker->params;
	struct param_set *guessed = param_set_empty(params);
	bool good = guessed != NULL;

	for (size_t i = 0; good && i < param_set_count(boot); i++) {
		const char *name = shown_by(param_set_at(boot, i)->name);
		const struct param_entry *known = param_set_find(pool->welcome, name);

		if (param_set_find(*set, name) == NULL)
			continue;
		if (known != NULL)
			good = set_becomes(set, param_set_with(params, *set, name, known->value, true));
		if (good && (known == NULL || known->doubted))
			good = set_becomes(&guessed, param_set_with(params, guessed, name, "", true));
	}
	good = good && set_becomes(set, param_set_guess(params, *set, guessed));
	param_set_unref(guessed);
	return good;
}

struct param_set *boot_welcome(struct pool *pool, const struct server *server)
{
	struct param_set *set = param_set_settle(pool->worker->params, NULL, server->params);

	if (set != NULL && !welcome_without_boot(pool, server->boot, &set)) {
		param_set_unref(set);
		return NULL;
	}
	return set;
}

void boot_reset_params(struct server *server)
{
	struct param_set *set =
	    param_set_settle(server->worker->params, server->boot, server->params);

	server->may_set = 0;
	if (set != NULL)
		param_set_replace(&server->params, set);
}
