/* SPDX-License-Identifier: PostgreSQL */
#include "core/share.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_FREE 0x40000000u
#define SLOT_NONE 0x3fffffffu
#define SLOTS_FIRST 256u

struct share_registry {
	pthread_mutex_t lock;
	struct database_share *databases;
	struct pool_share *pools;
	struct user_share *users;
	uint32_t *slots; /* worker, or SLOT_FREE + the next free slot */
	uint32_t slot_count;
	uint32_t slot_free; /* SLOT_NONE: all are taken */
};

struct share_registry *share_registry_new(void)
{
	struct share_registry *registry = calloc(1, sizeof(*registry));

	if (registry == NULL)
		return NULL;
	registry->slot_free = SLOT_NONE;
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

		free(registry->users->name);
		free(registry->users);
		registry->users = next;
	}
	while (registry->databases != NULL) {
		struct database_share *next = registry->databases->next;

		free(registry->databases->name);
		free(registry->databases);
		registry->databases = next;
	}
	free(registry->slots);
	(void)pthread_mutex_destroy(&registry->lock);
	free(registry);
}

static struct database_share *share_database_locked(struct share_registry *registry,
						    const char *name)
{
	struct database_share *share;

	for (share = registry->databases; share != NULL; share = share->next) {
		if (strcmp(share->name, name) == 0)
			return share;
	}
	share = calloc(1, sizeof(*share));
	if (share == NULL)
		return NULL;
	share->name = strdup(name);
	if (share->name == NULL) {
		free(share);
		return NULL;
	}
	share->next = registry->databases;
	registry->databases = share;
	return share;
}

struct database_share *share_database(struct share_registry *registry, const char *name)
{
	struct database_share *share;

	(void)pthread_mutex_lock(&registry->lock);
	share = share_database_locked(registry, name);
	(void)pthread_mutex_unlock(&registry->lock);
	return share;
}

static struct pool_share *share_pool_locked(struct share_registry *registry, const char *database,
					    const char *user)
{
	struct pool_share *share;

	for (share = registry->pools; share != NULL; share = share->next) {
		if (strcmp(share->user, user) == 0 && strcmp(share->database->name, database) == 0)
			return share;
	}
	share = aligned_alloc(64, sizeof(*share));
	if (share == NULL)
		return NULL;
	memset(share, 0, sizeof(*share));
	share->database = share_database_locked(registry, database);
	share->user = strdup(user);
	if (share->database == NULL || share->user == NULL) {
		free(share->user);
		free(share);
		return NULL;
	}
	share->next = registry->pools;
	registry->pools = share;
	return share;
}

struct pool_share *share_pool(struct share_registry *registry, const char *database,
			      const char *user)
{
	struct pool_share *share;

	(void)pthread_mutex_lock(&registry->lock);
	share = share_pool_locked(registry, database, user);
	(void)pthread_mutex_unlock(&registry->lock);
	return share;
}

static struct user_share *share_user_locked(struct share_registry *registry, const char *name)
{
	struct user_share *share;

	for (share = registry->users; share != NULL; share = share->next) {
		if (strcmp(share->name, name) == 0)
			return share;
	}
	share = calloc(1, sizeof(*share));
	if (share == NULL)
		return NULL;
	share->name = strdup(name);
	if (share->name == NULL) {
		free(share);
		return NULL;
	}
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

static bool share_slots_grow(struct share_registry *registry)
{
	uint32_t count = registry->slot_count == 0 ? SLOTS_FIRST : registry->slot_count * 2;
	uint32_t *slots = count > SLOT_NONE ? NULL
					    : realloc(registry->slots, count * sizeof(*slots));

	if (slots == NULL)
		return false;
	for (uint32_t i = registry->slot_count; i < count; i++)
		slots[i] = SLOT_FREE | (i + 1 < count ? i + 1 : SLOT_NONE);
	registry->slots = slots;
	registry->slot_free = registry->slot_count;
	registry->slot_count = count;
	return true;
}

bool share_slot_take(struct share_registry *registry, unsigned worker, uint32_t *slot)
{
	bool good;

	(void)pthread_mutex_lock(&registry->lock);
	good = registry->slot_free != SLOT_NONE || share_slots_grow(registry);
	if (good) {
		*slot = registry->slot_free;
		registry->slot_free = registry->slots[*slot] & ~SLOT_FREE;
		registry->slots[*slot] = worker;
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
	registry->slots[slot] = SLOT_FREE | registry->slot_free;
	registry->slot_free = slot;
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

bool pool_share_take(struct pool_share *share)
{
	int count = atomic_load_explicit(&share->servers, memory_order_relaxed);

	do {
		if (count >= atomic_load_explicit(&share->limit, memory_order_relaxed))
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&share->servers, &count, count + 1,
							memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

void pool_share_give_back(struct pool_share *share)
{
	atomic_fetch_sub_explicit(&share->servers, 1, memory_order_relaxed);
}
