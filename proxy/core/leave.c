/* SPDX-License-Identifier: PostgreSQL */
#include "core/leave.h"

#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/server.h"
#include "core/worker.h"

#include <string.h>
#include <strings.h>

/* How often is looked, and how long a command must have been waiting then: most are refused or done
 * sooner.  Both are short against PostgreSQL's five seconds. */
#define LEAVE_EVERY (300 * USEC_PER_MSEC)
#define LEAVE_AFTER (100 * USEC_PER_MSEC)

static const char blanks[] = " \t\n\r\f\v";

/* Behind `word`, which must be followed by blanks, and these; NULL: something else is there. */
static const char *skip_word(const char *sql, const char *word)
{
	size_t len = strlen(word);
	size_t space;

	if (strncasecmp(sql, word, len) != 0)
		return NULL;
	space = strspn(sql + len, blanks);
	return space == 0 ? NULL : sql + len + space;
}

static bool is_database_command(const char *sql)
{
	static const char *const verbs[] = {"create", "drop", "alter"};

	sql += strspn(sql, blanks);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		const char *rest = skip_word(sql, verbs[i]);

		if (rest != NULL)
			return skip_word(rest, "database") != NULL;
	}
	return false;
}

static bool waits(const struct server *server, usec_t now)
{
	return server->request_start != 0 && now - server->request_start >= LEAVE_AFTER &&
	       server->query_noted == server->request_start && is_database_command(server->query);
}

static void leave_tell(struct proxy *proxy, const char *query)
{
	char sql[SERVER_QUERY_MAX];
	size_t len = 0;

	/* A quote in a quoted name is doubled. */
	for (; *query != '\0'; query += strncmp(query, "\"\"", 2) == 0 ? 2 : 1)
		sql[len++] = *query;
	sql[len] = '\0';
	for (unsigned i = 0; i < proxy->worker_count; i++) {
		struct mail_database *mail = mail_new_database(MAIL_LEAVE, sql);

		/* Without memory the next look may do it. */
		if (mail != NULL)
			mailbox_post(&proxy->workers[i].mailbox, &mail->letter);
	}
}

void leave_tick(struct pool *pool, usec_t now)
{
	struct list_node *node;
	struct list_node *tmp;

	if (now < pool->leave_at)
		return;
	pool->leave_at = now + LEAVE_EVERY;
	LIST_FOREACH(&pool->servers[SERVER_ACTIVE], node, tmp)
	{
		const struct server *server = CONTAINER_OF(node, struct server, node);

		if (UNLIKELY(waits(server, now)))
			leave_tell(pool->worker->proxy, server->query);
	}
}

/* Closing one connection too many costs a login, so it is enough that the name occurs.  CREATE
 * DATABASE copies template1 unless told otherwise. */
static bool may_be_about(const char *sql, const char *dbname)
{
	return strcasestr(sql, dbname) != NULL || strcmp(dbname, "template1") == 0;
}

static void close_idle(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct list *idle = &CONTAINER_OF(node, struct pool, node)->servers[SERVER_IDLE];

		while (idle->count > 0)
			server_doom(CONTAINER_OF(list_first(idle), struct server, node),
			            SERVER_CLOSE_LEAVE);
	}
}

void leave_databases(struct worker *worker, const char *sql)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);
		const struct route *route = route_find(worker->routes, database->name);

		if (route != NULL && !database->held &&
		    may_be_about(sql, route_dbname(route, database->name)))
			close_idle(database);
	}
}
