/* SPDX-License-Identifier: PostgreSQL */
#include "auth/cache.h"

#include "base/list.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_BUCKETS 4096 /* a power of two */

struct cache_entry {
	struct list_node used; /* the most recently used last */
	struct cache_entry *next;
	uint32_t hash;
	usec_t answered;        /* 0: no longer fresh */
	usec_t doubted;         /* last; 0: never */
	struct auth_user *user; /* NULL: there is no such user */
	const char *name;       /* behind the scope */
	char scope[];
};

struct auth_cache {
	pthread_mutex_t lock; /* guards everything */
	size_t max;
	struct list used;
	struct cache_entry *buckets[CACHE_BUCKETS];
};

struct auth_cache *auth_cache_new(size_t max)
{
	struct auth_cache *cache = calloc(1, sizeof(*cache));

	if (cache == NULL)
		return NULL;
	cache->max = max;
	list_init(&cache->used);
	(void)pthread_mutex_init(&cache->lock, NULL);
	return cache;
}

static uint32_t hash_add(uint32_t hash, const char *text)
{
	do
		hash = (hash ^ (uint8_t)*text) * 16777619u;
	while (*text++ != '\0');
	return hash;
}

/* Where the entry is linked, or would be. */
static struct cache_entry **cache_find(struct auth_cache *cache, const char *scope,
                                       const char *name, uint32_t *hash)
{
	struct cache_entry **at;

	*hash = hash_add(hash_add(2166136261u, scope), name);
	at = &cache->buckets[*hash & (CACHE_BUCKETS - 1)];
	while (*at != NULL && ((*at)->hash != *hash || strcmp((*at)->name, name) != 0 ||
	                       strcmp((*at)->scope, scope) != 0))
		at = &(*at)->next;
	return at;
}

static void cache_remove(struct auth_cache *cache, struct cache_entry **at)
{
	struct cache_entry *entry = *at;

	*at = entry->next;
	list_remove(&cache->used, &entry->used);
	auth_user_unref(entry->user);
	free(entry);
}

static void cache_evict(struct auth_cache *cache)
{
	struct cache_entry *entry =
	    CONTAINER_OF(list_first(&cache->used), struct cache_entry, used);
	uint32_t hash;

	cache_remove(cache, cache_find(cache, entry->scope, entry->name, &hash));
}

void auth_cache_free(struct auth_cache *cache)
{
	if (cache == NULL)
		return;
	while (cache->used.count > 0)
		cache_evict(cache);
	(void)pthread_mutex_destroy(&cache->lock);
	free(cache);
}

static void cache_touch(struct auth_cache *cache, struct cache_entry *entry)
{
	list_remove(&cache->used, &entry->used);
	list_append(&cache->used, &entry->used);
}

enum auth_cache_state auth_cache_get(struct auth_cache *cache, const char *scope, const char *name,
                                     usec_t now, usec_t age, usec_t absent_age,
                                     struct auth_user **user)
{
	enum auth_cache_state state = AUTH_CACHE_MISS;
	struct cache_entry *entry;
	uint32_t hash;

	*user = NULL;
	(void)pthread_mutex_lock(&cache->lock);
	entry = *cache_find(cache, scope, name, &hash);
	if (entry != NULL) {
		usec_t limit = entry->user == NULL ? absent_age : age;

		cache_touch(cache, entry);
		*user = auth_user_ref(entry->user);
		state = entry->answered != 0 && now - entry->answered < limit ? AUTH_CACHE_FRESH
		                                                              : AUTH_CACHE_STALE;
	}
	(void)pthread_mutex_unlock(&cache->lock);
	return state;
}

static struct cache_entry *entry_new(const char *scope, const char *name, uint32_t hash)
{
	size_t scope_len = strlen(scope) + 1;
	size_t name_len = strlen(name) + 1;
	struct cache_entry *entry = calloc(1, sizeof(*entry) + scope_len + name_len);

	if (entry == NULL)
		return NULL;
	memcpy(entry->scope, scope, scope_len);
	memcpy(entry->scope + scope_len, name, name_len);
	entry->name = entry->scope + scope_len;
	entry->hash = hash;
	return entry;
}

/* The entry of the name, made if need be; NULL: no memory. */
static struct cache_entry *cache_enter(struct auth_cache *cache, const char *scope,
                                       const char *name)
{
	uint32_t hash;
	struct cache_entry **at = cache_find(cache, scope, name, &hash);
	struct cache_entry *entry = *at;

	if (entry != NULL) {
		cache_touch(cache, entry);
		return entry;
	}
	entry = entry_new(scope, name, hash);
	if (entry == NULL)
		return NULL;
	entry->next = *at;
	*at = entry;
	list_append(&cache->used, &entry->used);
	if (cache->used.count > cache->max)
		cache_evict(cache);
	return entry;
}

bool auth_cache_put(struct auth_cache *cache, const char *scope, const char *name,
                    const char *secret, usec_t now, struct auth_user **user)
{
	struct auth_user *fresh = secret == NULL ? NULL : auth_user_new(name, secret);
	struct cache_entry *entry;

	*user = NULL;
	if (secret != NULL && fresh == NULL)
		return false;
	(void)pthread_mutex_lock(&cache->lock);
	entry = cache_enter(cache, scope, name);
	if (entry != NULL) {
		if (entry->user == NULL || fresh == NULL ||
		    strcmp(auth_user_secret(entry->user), secret) != 0) {
			auth_user_unref(entry->user);
			entry->user = auth_user_ref(fresh);
		}
		entry->answered = now;
		*user = auth_user_ref(entry->user);
	}
	(void)pthread_mutex_unlock(&cache->lock);
	auth_user_unref(fresh);
	return entry != NULL;
}

bool auth_cache_doubt(struct auth_cache *cache, const char *scope, const char *name, usec_t now,
                      usec_t gap)
{
	struct cache_entry *entry;
	bool ask = false;
	uint32_t hash;

	(void)pthread_mutex_lock(&cache->lock);
	entry = *cache_find(cache, scope, name, &hash);
	if (entry != NULL) {
		ask = entry->doubted == 0 || now - entry->doubted >= gap;
		entry->doubted = ask ? now : entry->doubted;
	}
	(void)pthread_mutex_unlock(&cache->lock);
	return ask;
}

void auth_cache_expire_all(struct auth_cache *cache)
{
	struct list_node *node;
	struct list_node *tmp;

	(void)pthread_mutex_lock(&cache->lock);
	LIST_FOREACH(&cache->used, node, tmp)
	{
		CONTAINER_OF(node, struct cache_entry, used)->answered = 0;
	}
	(void)pthread_mutex_unlock(&cache->lock);
}

size_t auth_cache_count(struct auth_cache *cache)
{
	size_t count;

	(void)pthread_mutex_lock(&cache->lock);
	count = cache->used.count;
	(void)pthread_mutex_unlock(&cache->lock);
	return count;
}
