/* SPDX-License-Identifier: PostgreSQL */
/* See pace.h. */
#include "core/pace.h"

#include "core/session_move.h"
#include "core/worker.h"

#include <event2/event.h>

/* More than that is no bound worth keeping. */
#define PACE_LAST 4096

/* How many clients of a worker go on first at a release.  Each transaction that ends, and each span
 * of time that passes, lets more go. */
#define RELEASE_FIRST 2
#define RELEASE_SPAN (10 * USEC_PER_MSEC)

/* Before a hold.  Who has waited for a span is waited for no longer: twice as many are let through
 * from then on.  After so many spans in which nobody did, an eighth fewer. */
#define NARROW_LEAST 2
#define NARROW_SPAN (5 * USEC_PER_MSEC)
#define NARROW_CALM 8
/* What is left idle is closed one by one, one in so many spans: a few at once would be felt by
 * the other databases of the server's host. */
#define NARROW_TRIM 6
/* A hold that has not come by then has other worries. */
#define NARROW_MAX (30 * USEC_PER_SEC)

static usec_t longest_wait(const struct database *database)
{
	const usec_t now = database->worker->now;
	usec_t longest = -1;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		const struct pool *pool = CONTAINER_OF(node, struct pool, node);
		struct list_node *first = list_first(&pool->clients[CLIENT_WAITING]);

		if (first != NULL && now - CONTAINER_OF(first, struct client, node)->since > longest)
			longest = now - CONTAINER_OF(first, struct client, node)->since;
	}
	return longest;
}

static bool somebody_waits(const struct database *database)
{
	return longest_wait(database) >= 0;
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
	database->narrowed = false;
	if (database->pace_timer != NULL)
		(void)event_del(database->pace_timer);
}

void pace_widen(struct database *database)
{
	if (!database->narrowed)
		return;
	pace_end(database);
	kick_all(database);
}

/* The end of a span of a release. */
static void release_next(struct database *database)
{
	database->pace *= 2;
	if (database->pace > PACE_LAST)
		database->pace = 0;
	kick_all(database);
	if (database->pace == 0 || !somebody_waits(database))
		pace_end(database);
}

/* The end of a span before a hold. */
static void narrow_next(struct database *database)
{
	if (++database->pace_spans % NARROW_TRIM == 0)
		gate_trim(database);
	session_leave_some(database);
	if (database->worker->now >= database->narrow_end) {
		pace_widen(database);
	} else if (longest_wait(database) >= NARROW_SPAN) {
		database->pace_calm = 0;
		if (database->pace < PACE_LAST)
			database->pace *= 2;
		kick_all(database);
	} else if (++database->pace_calm == NARROW_CALM) {
		database->pace_calm = 0;
		database->pace -= (database->pace + 7) / 8;
		if (database->pace < NARROW_LEAST)
			database->pace = NARROW_LEAST;
	}
}

static bool start_timer(struct database *database)
{
	const struct timeval span = {0, database->narrowed ? NARROW_SPAN : RELEASE_SPAN};

	return database->pace_timer != NULL && event_add(database->pace_timer, &span) == 0;
}

static void pace_next(evutil_socket_t fd, short what, void *arg)
{
	struct database *database = arg;
	struct worker *worker = database->worker;

	(void)fd;
	(void)what;
	worker->now = clock_now();
	if (database->narrowed)
		narrow_next(database);
	else
		release_next(database);
	if (database->pace > 0 && !start_timer(database)) {
		pace_end(database);
		kick_all(database);
	}
	worker_end_turn(worker);
}

/* Without a timer there is no pace: everything goes on at once. */
static void pace_begin(struct database *database, unsigned pace, bool narrowed)
{
	if (database->pace_timer == NULL)
		database->pace_timer =
		    event_new(database->worker->base, -1, 0, pace_next, database);
	database->narrowed = narrowed;
	database->pace = pace;
	database->pace_calm = 0;
	if (!start_timer(database))
		pace_end(database);
}

void pace_narrow(struct database *database)
{
	database->narrow_end = clock_now() + NARROW_MAX;
	if (!database->narrowed)
		pace_begin(database,
		           database->active > NARROW_LEAST ? (unsigned)database->active
		                                           : NARROW_LEAST,
		           true);
}

void pace_release(struct database *database)
{
	pace_begin(database, RELEASE_FIRST, false);
}

void pace_settle(struct database *database)
{
	if (!somebody_waits(database))
		pace_end(database);
}
