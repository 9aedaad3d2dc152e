/* SPDX-License-Identifier: PostgreSQL */
/*
 * Questions to servers who they are, for PREPARE SWAP and SWAP.  Main thread.
 *
 * Many databases are moved at once, and each is swapped by itself: what they ask is put together,
 * or every one of them would have a session of its own at the new server, and a thread of its own
 * here.
 */
#include "base/mem.h"
#include "core/admin_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct asked *asked_find(struct admin *admin, const char *server)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->asked, node, tmp)
	{
		struct asked *asked = CONTAINER_OF(node, struct asked, node);

		if (strcmp(asked->server, server) == 0)
			return asked;
	}
	return NULL;
}

static struct asked *asked_get(struct admin *admin, const char *server)
{
	struct asked *asked = asked_find(admin, server);

	if (asked != NULL)
		return asked;
	asked = mem_must_alloc(sizeof(*asked));
	memset(asked, 0, sizeof(*asked));
	asked->server = mem_must_strdup(server);
	list_append(&admin->asked, &asked->node);
	return asked;
}

static void asked_free(struct admin *admin, struct asked *asked)
{
	list_remove(&admin->asked, &asked->node);
	PQfinish(asked->conn);
	free(asked->server);
	free(asked);
}

/* Whether the connection leads where the server is to be found by now. */
static bool leads_to(const PGconn *conn, const struct config_server *server)
{
	const char *host = PQhost(conn);
	const char *port = PQport(conn);

	/* Of several hosts it has one, and for none that of libpq. */
	return host != NULL && port != NULL && atoi(port) == server->port &&
	       (server->host[0] == '\0' || strchr(server->host, ',') != NULL ||
	        strcmp(host, server->host) == 0);
}

static bool asked_start(struct admin *admin, struct asked *asked,
                        const struct config_server *server, usec_t timeout, uint64_t token,
                        struct sbuf *error)
{
	PGconn *conn = asked->conn;

	asked->conn = NULL;
	if (conn != NULL && !leads_to(conn, server)) {
		PQfinish(conn);
		conn = NULL;
	}
	if (!check_start(server, conn, timeout, &admin->box, ADMIN_CHECKED, token, error))
		return false;
	asked->now = token;
	asked->now_ends = clock_now() + timeout;
	return true;
}

uint64_t swap_ask(struct admin *admin, const struct config_server *server, usec_t timeout,
                  struct sbuf *error)
{
	struct asked *asked = asked_get(admin, server->name);
	const uint64_t token = ++admin->last_token;

	if (asked->now == 0)
		return asked_start(admin, asked, server, timeout, token, error) ? token : 0;
	/* What is under way was asked before, perhaps when the server was a standby yet. */
	if (asked->now_ends <= clock_now() + timeout) {
		if (asked->next == 0)
			asked->next = token;
		if (asked->next_ends < clock_now() + timeout)
			asked->next_ends = clock_now() + timeout;
		return asked->next;
	}
	/* It may hang for longer than this one has time. */
	return check_start(server, NULL, timeout, &admin->box, ADMIN_CHECKED, token, error) ? token
	                                                                                    : 0;
}

/* The first who waits for it; *target: as its target. */
static struct admin_request *find_asker(struct admin *admin, uint64_t token, bool *target)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->working, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		*target = request->target_asked == token;
		if (*target || request->source_asked == token)
			return request;
	}
	return NULL;
}

/* One after the other: what follows may end other requests. */
static void tell_askers(struct admin *admin, const struct check *check)
{
	struct admin_request *request;
	bool target;

	while ((request = find_asker(admin, check->token, &target)) != NULL) {
		if (target)
			request->target_asked = 0;
		else
			request->source_asked = 0;
		swap_on_checked(request, check, target);
	}
}

static void ask_next(struct admin *admin, struct asked *asked)
{
	const struct config_server *server =
	    config_find_server(admin->proxy->config, asked->server);
	struct check failed = {.token = asked->next, .server = asked->server};
	usec_t timeout = asked->next_ends - clock_now();
	struct sbuf error;

	if (asked->next == 0)
		return;
	asked->next = 0;
	asked->next_ends = 0;
	if (timeout < USEC_PER_MSEC)
		timeout = USEC_PER_MSEC;
	sbuf_init(&error, sizeof(failed.error));
	if (server == NULL)
		sbuf_add_str(&error, "it is no longer in the configuration");
	if (server == NULL || !asked_start(admin, asked, server, timeout, failed.token, &error)) {
		(void)snprintf(failed.error, sizeof(failed.error), "%s", sbuf_text(&error));
		tell_askers(admin, &failed);
	}
	sbuf_free(&error);
}

void swap_ask_answered(struct admin *admin, struct check *check)
{
	struct asked *asked = asked_find(admin, check->server);

	if (asked != NULL && asked->now == check->token) {
		asked->now = 0;
		asked->conn = check->conn;
		check->conn = NULL;
		ask_next(admin, asked); /* first: clients may be waiting */
	}
	tell_askers(admin, check);
	check_free(check);
	/* What was kept for none, as that to a source; but not while clients wait. */
	swap_ask_trim(admin);
}

static bool is_wanted(struct admin *admin, const struct asked *asked)
{
	struct list_node *node;
	struct list_node *tmp;

	if (asked->now != 0 || asked->next != 0)
		return true;
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		const struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (db->checked_name != NULL && strcmp(db->checked_name, asked->server) == 0)
			return true;
	}
	return false;
}

void swap_ask_trim(struct admin *admin)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->asked, node, tmp)
	{
		struct asked *asked = CONTAINER_OF(node, struct asked, node);

		if (!is_wanted(admin, asked))
			asked_free(admin, asked);
	}
}

void swap_ask_free(struct admin *admin)
{
	struct list_node *node;

	while ((node = list_first(&admin->asked)) != NULL)
		asked_free(admin, CONTAINER_OF(node, struct asked, node));
}
