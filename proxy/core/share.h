/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the pools of one (database, user) in all workers share: the count of server connections and
 * its limit, who has idle ones and who starves; and what all workers share of one database: the
 * requests it holds.  Everything here is atomic; entries are made once and live as long as the
 * process, so workers keep pointers to them.
 */
#ifndef CORE_SHARE_H
#define CORE_SHARE_H

#include "base/compiler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WORKERS_MAX 256

struct database_share {
	atomic_long held_requests;
	atomic_llong held_bytes;
	char *name;
	struct database_share *next;
};

/* The clients of one user in all workers. */
struct user_share {
	atomic_int clients;
	char *name;
	struct user_share *next;
};

struct pool_share {
	struct database_share *database;
	char *user;
	atomic_int servers;   /* connections, dialling ones included, prepared ones not */
	atomic_int limit;
	/* Per worker: idle servers it could give, and since when (usec) its first client waits.  Each
	 * on a cache line of its own, because each is written by another thread. */
	struct pool_share_worker {
		_Alignas(64) atomic_int idle;
		_Atomic int64_t waiting_since; /* 0: nobody waits */
	} worker[WORKERS_MAX];
	struct pool_share *next;
};

struct share_registry; /* opaque */

struct share_registry *share_registry_new(void) MUST_CHECK;
void share_registry_free(struct share_registry *registry);

/* Found or made; any thread (takes a lock: at login and HOLD only).  NULL on lack of memory. */
struct database_share *share_database(struct share_registry *registry, const char *name) MUST_CHECK;
struct user_share *share_user(struct share_registry *registry, const char *name) MUST_CHECK;
struct pool_share *share_pool(struct share_registry *registry, const char *database,
			      const char *user) MUST_CHECK;

/*
 * Cancel keys: which worker has the client of a slot.  The pid of a client's key is its slot + 1, so
 * the key stays good when the client goes to another worker.  Any thread (takes a lock: logins,
 * relocations and cancel requests only).
 */
bool share_slot_take(struct share_registry *registry, unsigned worker, uint32_t *slot) MUST_CHECK;
void share_slot_move(struct share_registry *registry, uint32_t slot, unsigned worker);
void share_slot_give_back(struct share_registry *registry, uint32_t slot);
/* False: nobody has that slot. */
bool share_slot_find(struct share_registry *registry, uint32_t slot, unsigned *worker) MUST_CHECK;

/* Counts one more server if the limit allows it. */
bool pool_share_take(struct pool_share *share) MUST_CHECK;
void pool_share_give_back(struct pool_share *share);

#endif
