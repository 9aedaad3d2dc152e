/* SPDX-License-Identifier: PostgreSQL */
/*
 * How many clients of a database may have a server at once after a hold.  All at once would share
 * the server's processors, and the first would be done hardly sooner than the last.  One after the
 * other, the last is done no later and the others are done before.
 *
 * Each worker does it for its own clients.
 */
#ifndef CORE_PACE_H
#define CORE_PACE_H

#include "base/compiler.h"
#include "core/pool.h"

/* Before the first client goes on, and after all have been let go whom the pace allows. */
void pace_release(struct database *database);
void pace_settle(struct database *database);

void pace_end(struct database *database);

/* Whether a release is going on: each transaction that ends lets one more go. */
static inline bool pace_is_release(const struct database *database)
{
	return UNLIKELY(database->pace > 0);
}

/*
 * Behind a hold that has ended with its lease, sessions of other proxies may have to get their
 * advisory locks and channels again, and nobody tells this one when they have: since the server has
 * let the first one in, its clients wait for as long as those are given (hold.c).
 */
bool pace_yields_now(const struct database *database);

/* Once in a tick: that is over, and what closes the server later is another matter. */
void pace_tick(struct database *database);

static inline bool pace_yields(const struct database *database)
{
	return UNLIKELY(database->yields_since != 0) && pace_yields_now(database);
}

/* Whether another client would be one too many. */
static inline bool pace_reached(const struct database *database)
{
	return pace_is_release(database) && database->active >= database->pace;
}

#endif
