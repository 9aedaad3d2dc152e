/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the pools of one (database, user) in all workers share: the count of server connections and
 * its limit, who has idle ones and who starves; and what all workers share of one database or user:
 * the requests it holds, its connections and their limits, time-outs.  Everything here is atomic;
 * workers keep pointers to the entries.  Those of databases and pools live as long as somebody has a
 * reference, those of users as long as the process.  There is a bound to their number.
 */
#ifndef CORE_SHARE_H
#define CORE_SHARE_H

#include "base/clock.h"
#include "base/compiler.h"
#include "core/limit.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WORKERS_MAX 256

struct config;

/* A limit of a pool that is never reached, with any reserve on top of it. */
#define SHARE_NO_LIMIT 1000000000

struct database_share {
	atomic_long held_requests;
	atomic_llong held_bytes;
	atomic_int servers;      /* connections of all its pools, as they count there */
	atomic_int server_limit; /* 0: none */
	atomic_int clients;
	atomic_int client_limit; /* 0: none */
	/* Of prepared statements: counts up when what they return has changed
	 * (statement_outdated()). */
	atomic_uint generation;
	/* Parked sessions with what only one can have, or must not miss (session_count_rest()). */
	atomic_int rest;
	/* When its server last refused a login because it is closed, as by a fence; 0: never. */
	_Atomic usec_t closed_at;
	/* When it let the first one in since then, or since a lease has ended; 0: not yet. */
	_Atomic usec_t opened_at;
	atomic_bool disabled; /* DISABLE: nobody may log in */
	atomic_bool announced; /* of the fallback: the log has named it */
	struct limit_queue queue; /* of server_limit */
	unsigned refs; /* under the registry's lock */
	char *name;
	struct database_share *next;
	_Atomic int64_t held_since[]; /* per worker: its request held longest; 0: none */
};

enum user_timeout {
	TIMEOUT_QUERY,
	TIMEOUT_QUERY_WAIT, /* -1: that of the pool */
	TIMEOUT_TRANSACTION,
	TIMEOUT_IDLE_TRANSACTION,
	TIMEOUT_CLIENT_IDLE,
	USER_TIMEOUTS
};

/* One user in all workers: the clients that logged in as it, the servers that were logged in to as
 * it. */
struct user_share {
	atomic_int clients;
	atomic_int client_limit; /* 0: none */
	atomic_int servers;
	atomic_int server_limit;               /* 0: none */
	struct limit_queue queue;              /* of server_limit */
	_Atomic usec_t timeout[USER_TIMEOUTS]; /* 0: none */
	char *name;
	struct user_share *next;
};

struct pool_share {
	struct database_share *database;
	char *user;
	struct user_share *user_share;
	bool internal;      /* of the pools of auth_query's questions (core/pool.h) */
	atomic_int servers; /* connections, dialling ones included, prepared ones not */
	atomic_int limit; /* SHARE_NO_LIMIT: none */
	_Atomic usec_t succeeded_at; /* when the last server that let us in was dialled */
	atomic_uint refs;
	atomic_uint role_losses; /* how often there was reason to doubt servers' role (pool_doubts_role()) */
	struct pool_share *next;
	/* Per worker: idle servers it could give, and since when (usec) its first client waits.  Each
	 * on a cache line of its own, because each is written by another thread. */
	struct pool_share_worker {
		_Alignas(64) atomic_int idle;
		atomic_int unpromised; /* of these; session pools (core/promise.h) */
		_Atomic int64_t waiting_since; /* 0: nobody waits */
	} worker[];
};

/* Somebody stands in the queue of its database's or user's limit (core/limit.h). */
static inline bool share_is_queued(const struct pool_share *share)
{
	return atomic_load_explicit(&share->database->queue.count, memory_order_relaxed) > 0 ||
	       atomic_load_explicit(&share->user_share->queue.count, memory_order_relaxed) > 0;
}

struct share_registry; /* opaque */

/* For so many workers, at most WORKERS_MAX. */
struct share_registry *share_registry_new(unsigned workers) MUST_CHECK;
void share_registry_free(struct share_registry *registry);

/* Most pools and most users.  Under `trust`, with a fallback database, clients make up as many
 * names as they like. */
#define SHARES_MAX 20000u

/* Who logs in to a pool that does not exist yet is to be refused.  Any thread. */
bool share_pools_full(struct share_registry *registry);

/* Found or made; any thread (takes a lock: at login and HOLD only).  NULL on lack of memory, and
 * for a user beyond SHARES_MAX.  Databases and pools are references, to be given back below. */
struct database_share *share_database(struct share_registry *registry, const char *name) MUST_CHECK;
struct user_share *share_user(struct share_registry *registry, const char *name) MUST_CHECK;
struct pool_share *share_pool(struct share_registry *registry, const char *database,
                              const char *user, bool internal) MUST_CHECK;

/* One more reference, of somebody who has one or knows of one: no lock. */
struct pool_share *pool_share_ref(struct pool_share *share);

/* Gives a reference back (NULL: nothing); any thread (takes the lock).  With its last one an entry
 * goes, unless it says something: a database that is disabled or still has clients (on their way
 * from one worker to another) stays. */
void share_pool_unref(struct share_registry *registry, struct pool_share *share);
void share_database_unref(struct share_registry *registry, struct database_share *share);

/* Limits and time-outs of all databases and users, from now on also of new ones, are those of this
 * configuration (a reference is kept).  Any thread (takes the lock: at RELOAD only). */
void share_apply(struct share_registry *registry, struct config *config);

/* What is known of a user who has been counted; false: nothing.  Any thread (takes the lock). */
bool share_user_counts(struct share_registry *registry, const char *name, int *clients,
                       int *servers);

/* All of them.  `each` must not come back here: the lock is held. */
void share_each_user(struct share_registry *registry,
                     void (*each)(void *arg, const struct user_share *user), void *arg);

/* The role may be another one now: servers are asked before they are given to anybody else. */
void share_doubt_roles(struct share_registry *registry, const char *user);

/* Bits 1 << enum user_timeout of the time-outs that somebody has. */
unsigned share_timeouts(const struct share_registry *registry);

/* One client less of both. */
void share_uncount_client(struct user_share *user, struct database_share *database);

/* DISABLE and ENABLE as they are. */
bool share_is_disabled(struct share_registry *registry, const char *database);

/*
 * Cancel keys: which worker has the client of a slot.  The pid of a client's key is its slot + 1,
 * so the key stays good when the client goes to another worker.  As process ids, they come again
 * late: poolers of clients tell connections apart by them.  Any thread (takes a lock: logins,
 * relocations and cancel requests only).
 */
bool share_slot_take(struct share_registry *registry, unsigned worker, uint32_t *slot) MUST_CHECK;
void share_slot_move(struct share_registry *registry, uint32_t slot, unsigned worker);
void share_slot_give_back(struct share_registry *registry, uint32_t slot);
/* The `worker` of slots that the console has: the main thread. */
#define SHARE_SLOT_CONSOLE ((unsigned)WORKERS_MAX)
/* False: nobody has that slot. */
bool share_slot_find(struct share_registry *registry, uint32_t slot, unsigned *worker) MUST_CHECK;

enum share_full { FULL_POOL, FULL_DATABASE, FULL_USER };

/* Counts one more server if the limits allow it: that of the pool and `extra`, the database's and
 * the user's.  False: *full says which one does not. */
bool pool_share_take(struct pool_share *share, int extra, enum share_full *full) MUST_CHECK;

/* Counts one more whatever the limits are. */
void pool_share_add(struct pool_share *share);
void pool_share_give_back(struct pool_share *share);

/* Counts one more if that keeps within the limit (0: none). */
bool share_count_take(atomic_int *count, const atomic_int *limit) MUST_CHECK;

#endif
