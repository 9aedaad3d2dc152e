/* SPDX-License-Identifier: PostgreSQL */
/*
 * The common queue of those who wait under max_db_connections or max_user_connections: whose turn
 * it is for the next connection, over all pools and workers that share the limit.
 *
 * A pool that the limit has refused a connection stands in the limit's queue, with the time since
 * when the first of its clients waits for whom no connection is there or coming.  Nobody dials past
 * an older one.  When a server of another pool becomes free, and its own clients have not waited as
 * long, it is closed, and the oldest in the queue dials.  A connection is opened only for that
 * (LIMIT_MARGIN): where several pools are busy all the time, they share the limit by their waits,
 * and not every transaction costs a login.
 *
 * The queues are locked, but looked at only where somebody stands in one.  Worker threads.
 */
#ifndef CORE_LIMIT_H
#define CORE_LIMIT_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/list.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct pool;
struct pool_share;
struct server;
struct worker;
enum share_full;

/* So much longer another pool's client must have waited before a server is closed for it. */
#define LIMIT_MARGIN (20 * USEC_PER_MSEC)

/* Of one database or user (core/share.h). */
struct limit_queue {
	pthread_mutex_t lock;
	atomic_uint count; /* of `waits`; read without the lock */
	struct list waits; /* struct limit_wait.node */
};

/* Of one pool of one worker. */
struct limit_wait {
	struct list_node node;
	struct limit_queue *in; /* NULL: in none; only its worker changes it */
	struct pool_share *share;
	unsigned worker;
	usec_t since;
	bool promised; /* a server is being closed for it */
};

bool limit_queue_init(struct limit_queue *queue) MUST_CHECK;
void limit_queue_free(struct limit_queue *queue);

/* The pool's client that waits since `since` was refused a connection by that limit: the pool
 * stands in its queue from now on. */
void limit_wait(struct pool *pool, enum share_full full, usec_t since);

/* It no longer waits for that.  Whoever is next is told. */
void limit_leave(struct pool *pool);

/* Somebody else under one of the pool's limits waits since before `since`; *full: under which. */
bool limit_is_behind(const struct pool *pool, usec_t since, enum share_full *full) MUST_CHECK;

/* Whether a server of the pool that has become free is to be closed for somebody who waits longer
 * than those who wait for it. */
bool limit_yields(struct pool *pool) MUST_CHECK;

/* A connection under the limits of this pool was closed: the first in their queues are told. */
void limit_tell(struct worker *worker, struct pool_share *share);

#endif
