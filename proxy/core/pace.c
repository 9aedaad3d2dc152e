/* SPDX-License-Identifier: PostgreSQL */
/* See pace.h. */
#include "core/pace.h"

#include "core/worker.h"

#include <event2/event.h>

/* More than that is no bound worth keeping. */
#define PACE_LAST 4096

/* How many clients of a worker go on first.  Each transaction that ends, and each span of time that
 * passes, lets more go. */
#define PACE_FIRST 2
#define PACE_SPAN (10 * USEC_PER_MSEC)

/* What hold.c gives sessions at most (REST_MOST), and how long a proxy may take to notice that the
 * server is open again. */
#define PACE_YIELD (5500 * USEC_PER_MSEC)

static bool somebody_waits(const struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		const struct pool *pool = CONTAINER_OF(node, struct pool, node);

		if (pool->clients[CLIENT_WAITING].count > 0)
			return true;
	}
	return false;
}

static void kick_all(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		pool_kick(CONTAINER_OF(node, struct pool, node));
	}
}

void pace_end(struct database *database)
{
	database->pace = 0;
	if (database->pace_timer != NULL)
		(void)event_del(database->pace_timer);
}

/* Without a timer there is no pace: everything goes on at once. */
static void start_timer(struct database *database)
{
	const struct timeval span = {0, PACE_SPAN};

	if (database->pace_timer == NULL || event_add(database->pace_timer, &span) != 0)
		database->pace = 0;
}

/* The end of a span. */
static void pace_next(evutil_socket_t fd, short what, void *arg)
{
	struct database *database = arg;
	struct worker *worker = database->worker;

	(void)fd;
	(void)what;
	worker->now = clock_now();
	database->pace *= 2;
	if (database->pace > PACE_LAST)
		database->pace = 0;
	else
		start_timer(database);
	kick_all(database);
	pace_settle(database);
	worker_end_turn(worker);
}

void pace_release(struct database *database)
{
	if (database->pace_timer == NULL)
		database->pace_timer =
		    event_new(database->worker->base, -1, 0, pace_next, database);
	database->pace = PACE_FIRST;
	start_timer(database);
}

void pace_settle(struct database *database)
{
	if (!somebody_waits(database))
		pace_end(database);
}

void pace_tick(struct database *database)
{
	if (UNLIKELY(database->yields_since != 0) && atomic_load(&database->share->opened_at) != 0 &&
	    !pace_yields_now(database))
		database->yields_since = 0;
}

bool pace_yields_now(const struct database *database)
{
	const usec_t opened_at = atomic_load(&database->share->opened_at);
	const usec_t closed_at = atomic_load(&database->share->closed_at);
	usec_t from = database->yields_since;

	if (opened_at > from)
		from = opened_at;
	else if (closed_at > from)
		from = closed_at;
	return database->worker->now - from < PACE_YIELD;
}
