/* SPDX-License-Identifier: PostgreSQL */
#include "core/share.h"

#include "conf/config.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_FREE 0x40000000u
#define SLOT_NONE 0x3fffffffu
/* One less than a power of two, then and whenever they grow: a slot and one fit into so many bits of a
 * cancel key (cancel.h). */
#define SLOTS_FIRST 1023u
#define SLOTS_SPARE 512u /* of which the one that was free longest is taken */

struct share_registry {
	pthread_mutex_t lock;
	struct database_share *databases;
	struct pool_share *pools;
	struct user_share *users;
	struct config *config; /* of the last share_apply(); NULL before */
	atomic_uint timeouts;
	uint32_t *slots; /* worker, or SLOT_FREE + the next free slot */
	uint32_t slot_count;
	uint32_t slot_free; /* the one that was free longest; SLOT_NONE: all are taken */
	uint32_t slot_last; /* the one that was given back last */
	uint32_t slots_spare;
	unsigned workers;
	atomic_uint pool_count;
	unsigned user_count;
};

struct share_registry *share_registry_new(unsigned workers)
{
	struct share_registry *registry = calloc(1, sizeof(*registry));

	if (registry == NULL)
		return NULL;
	registry->slot_free = SLOT_NONE;
	registry->workers = workers;
	if (pthread_mutex_init(&registry->lock, NULL) != 0) {
		free(registry);
		return NULL;
	}
	return registry;
}

void share_registry_free(struct share_registry *registry)
{
	if (registry == NULL)
		return;
	while (registry->pools != NULL) {
		struct pool_share *next = registry->pools->next;

		free(registry->pools->user);
		free(registry->pools);
		registry->pools = next;
	}
	while (registry->users != NULL) {
		struct user_share *next = registry->users->next;

		limit_queue_free(&registry->users->queue);
		free(registry->users->name);
		free(registry->users);
		registry->users = next;
	}
	while (registry->databases != NULL) {
		struct database_share *next = registry->databases->next;

		limit_queue_free(&registry->databases->queue);
		free(registry->databases->name);
		free(registry->databases);
		registry->databases = next;
	}
	config_unref(registry->config);
	free(registry->slots);
	(void)pthread_mutex_destroy(&registry->lock);
	free(registry);
}

static void share_apply_database(const struct config *config, struct database_share *share)
{
	/* The console is none of the fallback. */
	const struct config_database *database =
	    config_is_console(share->name) ? NULL : config_database_of(config, share->name);

	atomic_store(&share->server_limit, config_max_db_connections(config, database));
	atomic_store(&share->client_limit, config_max_db_clients(config, database));
}

/* Bits of the time-outs that are not 0. */
static unsigned share_apply_user(const struct config *config, struct user_share *share)
{
	const struct config_proxy *proxy = &config->proxy;
	const struct config_user *user = config_find_user(config, share->name);
	usec_t timeout[USER_TIMEOUTS] = {
	    [TIMEOUT_QUERY] = proxy->query_timeout,
	    [TIMEOUT_QUERY_WAIT] = CONFIG_UNSET,
	    [TIMEOUT_TRANSACTION] = proxy->transaction_timeout,
	    [TIMEOUT_IDLE_TRANSACTION] = proxy->idle_transaction_timeout,
	    [TIMEOUT_CLIENT_IDLE] = proxy->client_idle_timeout,
	};
	unsigned used = 0;

	if (user != NULL) {
		const usec_t own[USER_TIMEOUTS] = {
		    [TIMEOUT_QUERY] = user->query_timeout,
		    [TIMEOUT_QUERY_WAIT] = user->query_wait_timeout,
		    [TIMEOUT_TRANSACTION] = user->transaction_timeout,
		    [TIMEOUT_IDLE_TRANSACTION] = user->idle_transaction_timeout,
		    [TIMEOUT_CLIENT_IDLE] = user->client_idle_timeout,
		};

		for (size_t i = 0; i < USER_TIMEOUTS; i++)
			timeout[i] = own[i] == CONFIG_UNSET ? timeout[i] : own[i];
	}
	for (size_t i = 0; i < USER_TIMEOUTS; i++) {
		atomic_store(&share->timeout[i], timeout[i]);
		used |= timeout[i] != 0 && timeout[i] != CONFIG_UNSET ? 1u << i : 0;
	}
	atomic_store(&share->client_limit, config_max_user_clients(config, user));
	atomic_store(&share->server_limit, config_max_user_connections(config, user));
	return used;
}

void share_apply(struct share_registry *registry, struct config *config)
{
	unsigned used = 0;

	(void)pthread_mutex_lock(&registry->lock);
	if (registry->config != config) {
		config_unref(registry->config);
		registry->config = config_ref(config);
	}
	for (struct database_share *share = registry->databases; share != NULL; share = share->next)
		share_apply_database(config, share);
	for (struct user_share *share = registry->users; share != NULL; share = share->next)
		used |= share_apply_user(config, share);
	atomic_store(&registry->timeouts, used);
	(void)pthread_mutex_unlock(&registry->lock);
}

bool share_user_counts(struct share_registry *registry, const char *name, int *clients,
                       int *servers)
{
	const struct user_share *share;

	*clients = 0;
	*servers = 0;
	(void)pthread_mutex_lock(&registry->lock);
	for (share = registry->users; share != NULL; share = share->next) {
		if (strcmp(share->name, name) == 0)
			break;
	}
	if (share != NULL) {
		*clients = atomic_load(&share->clients);
		*servers = atomic_load(&share->servers);
	}
	(void)pthread_mutex_unlock(&registry->lock);
	return share != NULL;
}

void share_each_user(struct share_registry *registry,
                     void (*each)(void *arg, const struct user_share *user), void *arg)
{
	(void)pthread_mutex_lock(&registry->lock);
	for (const struct user_share *share = registry->users; share != NULL; share = share->next)
		each(arg, share);
	(void)pthread_mutex_unlock(&registry->lock);
}

void share_doubt_roles(struct share_registry *registry, const char *user)
{
	(void)pthread_mutex_lock(&registry->lock);
	for (struct pool_share *share = registry->pools; share != NULL; share = share->next) {
		if (strcmp(share->user, user) == 0)
			atomic_fetch_add(&share->role_losses, 1);
	}
	(void)pthread_mutex_unlock(&registry->lock);
}

void share_uncount_client(struct user_share *user, struct database_share *database)
{
	atomic_fetch_sub(&user->clients, 1);
	atomic_fetch_sub(&database->clients, 1);
}

unsigned share_timeouts(const struct share_registry *registry)
{
	return atomic_load_explicit(&registry->timeouts, memory_order_relaxed);
}

bool share_pools_full(struct share_registry *registry)
{
	return atomic_load(&registry->pool_count) >= SHARES_MAX;
}

static struct database_share *share_database_locked(struct share_registry *registry,
                                                    const char *name)
{
	struct database_share *share;

	for (share = registry->databases; share != NULL; share = share->next) {
		if (strcmp(share->name, name) == 0) {
			share->refs++;
			return share;
		}
	}
	share = calloc(1, sizeof(*share) + registry->workers * sizeof(share->held_since[0]));
	if (share == NULL)
		return NULL;
	share->name = strdup(name);
	if (share->name == NULL || !limit_queue_init(&share->queue)) {
		free(share->name);
		free(share);
		return NULL;
	}
	if (registry->config != NULL)
		share_apply_database(registry->config, share);
	share->refs = 1;
	share->next = registry->databases;
	registry->databases = share;
	return share;
}

static void share_database_unref_locked(struct share_registry *registry,
                                        struct database_share *share)
{
	struct database_share **at = &registry->databases;

	if (--share->refs > 0 || atomic_load(&share->disabled) || atomic_load(&share->clients) > 0)
		return;
	while (*at != share)
		at = &(*at)->next;
	*at = share->next;
	limit_queue_free(&share->queue);
	free(share->name);
	free(share);
}

void share_database_unref(struct share_registry *registry, struct database_share *share)
{
	if (share == NULL)
		return;
	(void)pthread_mutex_lock(&registry->lock);
	share_database_unref_locked(registry, share);
	(void)pthread_mutex_unlock(&registry->lock);
}

bool share_is_disabled(struct share_registry *registry, const char *name)
{
	const struct database_share *share;
	bool disabled = false;

	(void)pthread_mutex_lock(&registry->lock);
	for (share = registry->databases; share != NULL && !disabled; share = share->next)
		disabled = strcmp(share->name, name) == 0 && atomic_load(&share->disabled);
	(void)pthread_mutex_unlock(&registry->lock);
	return disabled;
}

struct database_share *share_database(struct share_registry *registry, const char *name)
{
	struct database_share *share;

	(void)pthread_mutex_lock(&registry->lock);
	share = share_database_locked(registry, name);
	(void)pthread_mutex_unlock(&registry->lock);
	return share;
}

static struct user_share *share_user_locked(struct share_registry *registry, const char *name);

static struct pool_share *share_pool_locked(struct share_registry *registry, const char *database,
                                            const char *user, bool internal)
{
	const size_t size =
	    sizeof(struct pool_share) + registry->workers * sizeof(struct pool_share_worker);
	struct pool_share *share;

	for (share = registry->pools; share != NULL; share = share->next) {
		if (share->internal == internal && strcmp(share->user, user) == 0 &&
		    strcmp(share->database->name, database) == 0)
			return pool_share_ref(share);
	}
	share = aligned_alloc(64, size);
	if (share == NULL)
		return NULL;
	memset(share, 0, size);
	share->database = share_database_locked(registry, database);
	share->user = strdup(user);
	share->internal = internal;
	share->user_share = share_user_locked(registry, user);
	if (share->database == NULL || share->user == NULL || share->user_share == NULL) {
		if (share->database != NULL)
			share_database_unref_locked(registry, share->database);
		free(share->user);
		free(share);
		return NULL;
	}
	atomic_store(&share->refs, 1);
	atomic_fetch_add(&registry->pool_count, 1);
	share->next = registry->pools;
	registry->pools = share;
	return share;
}

struct pool_share *share_pool(struct share_registry *registry, const char *database,
                              const char *user, bool internal)
{
	struct pool_share *share;

	(void)pthread_mutex_lock(&registry->lock);
	share = share_pool_locked(registry, database, user, internal);
	(void)pthread_mutex_unlock(&registry->lock);
	return share;
}

struct pool_share *pool_share_ref(struct pool_share *share)
{
	atomic_fetch_add_explicit(&share->refs, 1, memory_order_relaxed);
	return share;
}

void share_pool_unref(struct share_registry *registry, struct pool_share *share)
{
	struct pool_share **at = &registry->pools;

	if (share == NULL)
		return;
	/* Under the lock, so that nobody finds it between the last reference and its end. */
	(void)pthread_mutex_lock(&registry->lock);
	if (atomic_fetch_sub(&share->refs, 1) == 1) {
		while (*at != share)
			at = &(*at)->next;
		*at = share->next;
		atomic_fetch_sub(&registry->pool_count, 1);
		share_database_unref_locked(registry, share->database);
		free(share->user);
		free(share);
	}
	(void)pthread_mutex_unlock(&registry->lock);
}

static struct user_share *share_user_locked(struct share_registry *registry, const char *name)
{
	struct user_share *share;

	for (share = registry->users; share != NULL; share = share->next) {
		if (strcmp(share->name, name) == 0)
			return share;
	}
	if (registry->user_count >= SHARES_MAX)
		return NULL;
	share = calloc(1, sizeof(*share));
	if (share == NULL)
		return NULL;
	share->name = strdup(name);
	if (share->name == NULL || !limit_queue_init(&share->queue)) {
		free(share->name);
		free(share);
		return NULL;
	}
	registry->user_count++;
	if (registry->config != NULL)
		atomic_fetch_or(&registry->timeouts, share_apply_user(registry->config, share));
	share->next = registry->users;
	registry->users = share;
	return share;
}

struct user_share *share_user(struct share_registry *registry, const char *name)
{
	struct user_share *share;

	(void)pthread_mutex_lock(&registry->lock);
	share = share_user_locked(registry, name);
	(void)pthread_mutex_unlock(&registry->lock);
	return share;
}

/* Behind all that are free; the list from `first` to `last` is linked already. */
static void share_slots_add(struct share_registry *registry, uint32_t first, uint32_t last)
{
	if (registry->slot_free == SLOT_NONE)
		registry->slot_free = first;
	else
		registry->slots[registry->slot_last] = SLOT_FREE | first;
	registry->slot_last = last;
}

static bool share_slots_grow(struct share_registry *registry)
{
	uint32_t count = registry->slot_count == 0 ? SLOTS_FIRST : registry->slot_count * 2 + 1;
	uint32_t *slots =
	    count > SLOT_NONE ? NULL : realloc(registry->slots, count * sizeof(*slots));

	if (slots == NULL)
		return false;
	for (uint32_t i = registry->slot_count; i < count; i++)
		slots[i] = SLOT_FREE | (i + 1 < count ? i + 1 : SLOT_NONE);
	registry->slots = slots;
	share_slots_add(registry, registry->slot_count, count - 1);
	registry->slots_spare += count - registry->slot_count;
	registry->slot_count = count;
	return true;
}

bool share_slot_take(struct share_registry *registry, unsigned worker, uint32_t *slot)
{
	bool good;

	(void)pthread_mutex_lock(&registry->lock);
	good = (registry->slots_spare < SLOTS_SPARE && share_slots_grow(registry)) ||
	       registry->slot_free != SLOT_NONE;
	if (good) {
		*slot = registry->slot_free;
		registry->slot_free = registry->slots[*slot] & ~SLOT_FREE;
		registry->slots[*slot] = worker;
		registry->slots_spare--;
	}
	(void)pthread_mutex_unlock(&registry->lock);
	return good;
}

void share_slot_move(struct share_registry *registry, uint32_t slot, unsigned worker)
{
	(void)pthread_mutex_lock(&registry->lock);
	registry->slots[slot] = worker;
	(void)pthread_mutex_unlock(&registry->lock);
}

void share_slot_give_back(struct share_registry *registry, uint32_t slot)
{
	(void)pthread_mutex_lock(&registry->lock);
	registry->slots[slot] = SLOT_FREE | SLOT_NONE;
	share_slots_add(registry, slot, slot);
	registry->slots_spare++;
	(void)pthread_mutex_unlock(&registry->lock);
}

bool share_slot_find(struct share_registry *registry, uint32_t slot, unsigned *worker)
{
	bool found;

	(void)pthread_mutex_lock(&registry->lock);
	found = slot < registry->slot_count && (registry->slots[slot] & SLOT_FREE) == 0;
	if (found)
		*worker = registry->slots[slot];
	(void)pthread_mutex_unlock(&registry->lock);
	return found;
}

/* Counts one more if there are fewer than `limit`. */
static bool count_take(atomic_int *count, int limit)
{
	int now = atomic_load_explicit(count, memory_order_relaxed);

	do {
		if (now >= limit)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(count, &now, now + 1, memory_order_relaxed,
	                                                memory_order_relaxed));
	return true;
}

bool share_count_take(atomic_int *count, const atomic_int *limit)
{
	int most = atomic_load_explicit(limit, memory_order_relaxed);

	return count_take(count, most == 0 ? INT_MAX : most);
}

bool pool_share_take(struct pool_share *share, int extra, enum share_full *full)
{
	*full = FULL_POOL;
	if (!count_take(&share->servers,
	                atomic_load_explicit(&share->limit, memory_order_relaxed) + extra))
		return false;
	*full = FULL_DATABASE;
	if (share_count_take(&share->database->servers, &share->database->server_limit)) {
		*full = FULL_USER;
		if (share_count_take(&share->user_share->servers, &share->user_share->server_limit))
			return true;
		atomic_fetch_sub_explicit(&share->database->servers, 1, memory_order_relaxed);
	}
	atomic_fetch_sub_explicit(&share->servers, 1, memory_order_relaxed);
	return false;
}

void pool_share_add(struct pool_share *share)
{
	atomic_fetch_add_explicit(&share->servers, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&share->database->servers, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&share->user_share->servers, 1, memory_order_relaxed);
}

void pool_share_give_back(struct pool_share *share)
{
	atomic_fetch_sub_explicit(&share->servers, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&share->database->servers, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&share->user_share->servers, 1, memory_order_relaxed);
}
