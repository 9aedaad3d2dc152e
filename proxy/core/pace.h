/* SPDX-License-Identifier: PostgreSQL */
/*
 * How many clients of a database may have a server at once, for the moments around a hold:
 *
 *   before it    as few as do without anybody waiting for long.  What the others leave idle is
 *                closed meanwhile, so that hardly a server process is left for the fence to end:
 *                each takes its host milliseconds.
 *   after it     all at once would share the server's processors, and the first would be done
 *                hardly sooner than the last.  One after the other, the last is done no later and
 *                the others are done before.
 *
 * Each worker does it for its own clients.
 */
#ifndef CORE_PACE_H
#define CORE_PACE_H

#include "base/compiler.h"
#include "core/pool.h"

/* With a swap prepared, until the hold, pace_widen() or NARROW_MAX (pace.c). */
void pace_narrow(struct database *database);
void pace_widen(struct database *database);

/* Before the first client goes on, and after all have been let go whom the pace allows. */
void pace_release(struct database *database);
void pace_settle(struct database *database);

void pace_end(struct database *database);

/* Whether another client would be one too many. */
static inline bool pace_reached(const struct database *database)
{
	return UNLIKELY(database->pace > 0) && database->active >= database->pace;
}

/* Whether a release is going on: each transaction that ends lets one more go. */
static inline bool pace_is_release(const struct database *database)
{
	return UNLIKELY(database->pace > 0) && !database->narrowed;
}

#endif
