/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the files of the pool share.  For pool.c, pool_queue.c, pool_room.c, pool_login.c, trial.c only.
 */
#ifndef CORE_POOL_INTERNAL_H
#define CORE_POOL_INTERNAL_H

#include "core/pool.h"

/* Found or made; NULL on lack of memory. */
struct pool *pool_enter(struct worker *worker, const char *name, const char *user,
			bool internal) MUST_CHECK;

/* ---- pool_queue.c ---- */

/* An idle server that the client could be given now; it stays in its list. */
struct server *pool_take_idle(struct pool *pool, const struct client *client);

/* Asks the workers from `first` on that seem to have one, until one gives it; `login`: one that is promised
 * to nobody.  False: nobody is being asked. */
bool pool_ask(struct pool *pool, unsigned first, bool login);

/* The same of those that are promised to nobody, whether they have to be checked first or not. */
struct server *pool_find_unpromised(struct pool *pool, const struct client *client);

/* ---- pool_room.c ---- */

/* Dials what `demand` clients need beyond `coming` servers, as far as the limits allow. */
void pool_dial(struct pool *pool, size_t demand, size_t coming);

/* A limit is reached, and somebody waits: an unused connection of another pool makes room; of this one
 * if it is the pool's own limit, which helps only who cannot use that connection. */
void pool_make_room(struct pool *pool, enum share_full full);

/* min_pool_size: one more at each tick, so that a start is no storm of logins. */
void pool_keep_min(struct pool *pool);

/* ---- pool_login.c ---- */

/*
 * How long clients wait while no server can be had; 0 = for ever.  A database that the server has
 * closed after its hold lapsed is in the middle of a move whose mover died: it will be opened
 * again, or the route will lead elsewhere, when the move is resumed or undone.
 */
usec_t pool_patience(const struct pool *pool);

/* Those who wait since some time from `after` to `before` are told why there is no server; one of
 * the two is a bound: `after` is 0, or `before` is now. */
void pool_refuse_waiting(struct pool *pool, usec_t after, usec_t before);

/* Ends a login for which there is no server: with the server's own words if it has an SQLSTATE, as
 * the server would have, else with `text`. */
void pool_refuse_login(struct client *client, const char *sqlstate, const char *error,
                       const char *text);

/* Ends the waiting of those who are to wait no longer; while logins fail. */
void pool_tick_failing(struct pool *pool);

#endif
