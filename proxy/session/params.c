/* SPDX-License-Identifier: PostgreSQL */
#include "session/params.h"

#include "session/hash.h"
#include "session/params_internal.h"

#include <assert.h>
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

struct param_set {
	uint64_t refs;
	uint64_t hash;
	struct param_pool *pool;
	struct param_set *next; /* of the same bucket */
	size_t count;
	size_t key_len;
	bool digested;
	struct param_digest parse_digest;
	struct param_status status;
	char *key; /* of each entry: a byte for its flags, name, 0, value, 0; lies behind entries */
	struct param_entry entries[];
};

struct param_pool {
	struct hash_key hash_key;
	struct param_set **buckets;
	size_t mask; /* buckets - 1 */
	size_t count;
	char *scratch; /* the key that is looked up */
	size_t scratch_len;
};

/* ---- pool ---- */

struct param_pool *param_pool_new(void)
{
	struct param_pool *pool = calloc(1, sizeof(*pool));

	if (pool == NULL)
		return NULL;
	pool->mask = 63;
	pool->buckets = calloc(pool->mask + 1, sizeof(struct param_set *));
	if (pool->buckets == NULL) {
		free(pool);
		return NULL;
	}
	hash_key_init(&pool->hash_key);
	return pool;
}

void param_pool_free(struct param_pool *pool)
{
	if (pool == NULL)
		return;
	assert(pool->count == 0);
	free(pool->buckets);
	free(pool->scratch);
	free(pool);
}

size_t param_pool_count(const struct param_pool *pool)
{
	return pool->count;
}

/* Twice as many buckets; without memory the chains just get longer. */
static void pool_grow(struct param_pool *pool)
{
	size_t mask = pool->mask * 2 + 1;
	struct param_set **buckets = calloc(mask + 1, sizeof(struct param_set *));
	struct param_set *set;
	size_t i;

	if (buckets == NULL)
		return;
	for (i = 0; i <= pool->mask; i++) {
		while ((set = pool->buckets[i]) != NULL) {
			pool->buckets[i] = set->next;
			set->next = buckets[set->hash & mask];
			buckets[set->hash & mask] = set;
		}
	}
	free(pool->buckets);
	pool->buckets = buckets;
	pool->mask = mask;
}

/* ---- interning ---- */

/* Writes the key of the draft to the scratch buffer of the pool; its length, or 0 on no memory.
 * (The key of the empty set is one byte.) */
static size_t make_key(struct param_pool *pool, const struct param_draft *draft)
{
	size_t len = 1;
	size_t i;
	char *p;

	for (i = 0; i < draft->count; i++)
		len += 3u + draft->entries[i].name_len + draft->entries[i].value_len;
	if (len > pool->scratch_len) {
		p = realloc(pool->scratch, len + 1024);
		if (p == NULL)
			return 0;
		pool->scratch = p;
		pool->scratch_len = len + 1024;
	}
	p = pool->scratch;
	for (i = 0; i < draft->count; i++) {
		const struct param_entry *entry = &draft->entries[i];

		*p++ = "xdrg"[(entry->reported ? 2 : 0) + (entry->doubted ? 1 : 0)];
		memcpy(p, entry->name, entry->name_len);
		p += entry->name_len;
		*p++ = '\0';
		memcpy(p, entry->value, entry->value_len);
		p += entry->value_len;
		*p++ = '\0';
	}
	*p = '\0';
	return len;
}

static struct param_set *set_new(struct param_pool *pool, const struct param_draft *draft,
                                 size_t key_len)
{
	size_t head = sizeof(struct param_set) + draft->count * sizeof(struct param_entry);
	struct param_set *set = malloc(head + key_len);
	char *p;
	size_t i;

	if (set == NULL)
		return NULL;
	set->refs = 0;
	set->digested = false;
	memset(&set->status, 0, sizeof(set->status));
	set->pool = pool;
	set->count = draft->count;
	set->key_len = key_len;
	set->key = (char *)set + head;
	memcpy(set->key, pool->scratch, key_len);
	p = set->key;
	for (i = 0; i < draft->count; i++) {
		struct param_entry *entry = &set->entries[i];

		*entry = draft->entries[i];
		entry->name = p + 1;
		entry->value = entry->name + entry->name_len + 1;
		p += 3u + entry->name_len + entry->value_len;
	}
	return set;
}

struct param_set *param_set_intern(struct param_pool *pool, const struct param_draft *draft)
{
	size_t key_len = make_key(pool, draft);
	struct param_set *set;
	uint64_t hash;

	if (key_len == 0) {
		errno = ENOMEM;
		return NULL;
	}
	hash = hash_bytes(&pool->hash_key, pool->scratch, key_len);
	for (set = pool->buckets[hash & pool->mask]; set != NULL; set = set->next) {
		if (set->hash == hash && set->key_len == key_len &&
		    memcmp(set->key, pool->scratch, key_len) == 0)
			return param_set_ref(set);
	}
	set = set_new(pool, draft, key_len);
	if (set == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	set->hash = hash;
	if (pool->count > pool->mask)
		pool_grow(pool);
	set->next = pool->buckets[hash & pool->mask];
	pool->buckets[hash & pool->mask] = set;
	pool->count++;
	return param_set_ref(set);
}

bool param_draft_add(struct param_draft *draft, const struct param_entry *entry)
{
	if (draft->count == PARAM_MAX_ENTRIES) {
		errno = E2BIG;
		return false;
	}
	draft->entries[draft->count++] = *entry;
	return true;
}

/* ---- references ---- */

struct param_set *param_set_ref(struct param_set *set)
{
	if (set != NULL)
		set->refs++;
	return set;
}

void param_set_unref(struct param_set *set)
{
	struct param_set **link;

	if (set == NULL)
		return;
	assert(set->refs > 0);
	if (--set->refs > 0)
		return;
	link = &set->pool->buckets[set->hash & set->pool->mask];
	while (*link != set)
		link = &(*link)->next;
	*link = set->next;
	set->pool->count--;
	free(set->status.bytes);
	free(set);
}

void param_set_replace(struct param_set **slot, struct param_set *set)
{
	struct param_set *old = *slot;

	*slot = set;
	param_set_unref(old);
}

/* ---- reading ---- */

size_t param_set_count(const struct param_set *set)
{
	return set == NULL ? 0 : set->count;
}

const struct param_entry *param_set_at(const struct param_set *set, size_t i)
{
	assert(i < param_set_count(set));
	return &set->entries[i];
}

struct param_status *param_set_status(const struct param_set *set)
{
	/* To remember what a set looks like is no change of it. */
	return &((struct param_set *)(uintptr_t)set)->status;
}

const struct param_entry *param_set_find(const struct param_set *set, const char *name)
{
	size_t low = 0;
	size_t high = param_set_count(set);

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = param_name_compare(name, set->entries[middle].name);

		if (order == 0)
			return &set->entries[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

const char *param_set_get(const struct param_set *set, const char *name)
{
	const struct param_entry *entry = param_set_find(set, name);

	return entry == NULL ? NULL : entry->value;
}

bool param_set_guesses_only(const struct param_set *set, const struct param_set *names)
{
	for (size_t i = 0; i < param_set_count(set); i++) {
		const struct param_entry *entry = &set->entries[i];

		/* A role is not reported, but what follows from it is. */
		if (entry->reported && entry->doubted &&
		    param_set_find(names, entry->name) == NULL &&
		    (strcmp(entry->name, "is_superuser") != 0 ||
		     param_set_find(names, "role") == NULL))
			return false;
	}
	return true;
}

/* ---- what a text means ---- */

const struct param_digest *param_set_parse_digest(struct param_set *set)
{
	static const char *const names[] = {
#define GUC_PARSED(name, why) name,
#include "session/guc_parsed.def"
#undef GUC_PARSED
	};
	/* What was taken so far, a name and its value: a digest of each, so that nothing is allocated. */
	unsigned char taken[3][SHA256_DIGEST_LENGTH] = {0};

	if (LIKELY(set->digested))
		return &set->parse_digest;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const char *value = param_set_get(set, names[i]);

		if (value == NULL)
			continue;
		(void)SHA256((const unsigned char *)names[i], strlen(names[i]), taken[1]);
		(void)SHA256((const unsigned char *)value, strlen(value), taken[2]);
		(void)SHA256(taken[0], sizeof(taken), taken[0]);
	}
	memcpy(&set->parse_digest, taken[0], sizeof(set->parse_digest));
	set->digested = true;
	return &set->parse_digest;
}

/* ---- making ---- */

/* A set is handed out as const to readers, but counting its references is no change of it. */
static struct param_set *ref_base(const struct param_set *base)
{
	return param_set_ref((struct param_set *)base);
}

struct param_set *param_set_empty(struct param_pool *pool)
{
	struct param_draft draft;

	draft.count = 0;
	return param_set_intern(pool, &draft);
}

/* The base with `added` in its place, instead of an entry of the same name. */
static struct param_set *with_entry(struct param_pool *pool, const struct param_set *base,
                                    const struct param_entry *added)
{
	struct param_draft draft;
	bool placed = false;
	size_t i;

	draft.count = 0;
	for (i = 0; i < param_set_count(base); i++) {
		const struct param_entry *entry = &base->entries[i];
		int order = placed ? -1 : param_name_compare(entry->name, added->name);

		if (order >= 0) {
			placed = true;
			if (!param_draft_add(&draft, added))
				return NULL;
		}
		if (order != 0 && !param_draft_add(&draft, entry))
			return NULL;
	}
	if (!placed && !param_draft_add(&draft, added))
		return NULL;
	return param_set_intern(pool, &draft);
}

struct param_set *param_set_with(struct param_pool *pool, const struct param_set *base,
                                 const char *name, const char *value, bool reported)
{
	const struct param_entry *old = param_set_find(base, name);
	char stored_name[PARAM_MAX_NAME + 1];
	char stored_value[PARAM_MAX_VALUE + 1];
	struct param_entry added;

	if (old != NULL && old->reported)
		reported = true;
	if (!param_normalise_name(name, reported, stored_name) ||
	    !param_normalise_value(stored_name, value, stored_value)) {
		errno = EINVAL;
		return NULL;
	}
	/* A reported name keeps the spelling it came with first. */
	added.name = old != NULL && old->reported ? old->name : stored_name;
	added.value = stored_value;
	added.name_len = (uint16_t)strlen(stored_name);
	added.value_len = (uint16_t)strlen(stored_value);
	added.reported = reported;
	added.doubted = false;
	if (old != NULL && base->pool == pool && old->reported == reported && !old->doubted &&
	    strcmp(old->value, stored_value) == 0)
		return ref_base(base);
	return with_entry(pool, base, &added);
}

struct param_set *param_set_without(struct param_pool *pool, const struct param_set *base,
                                    const char *name)
{
	const struct param_entry *gone = param_set_find(base, name);
	struct param_draft draft;
	size_t i;

	if (gone == NULL && base != NULL && base->pool == pool)
		return ref_base(base);
	draft.count = 0;
	for (i = 0; i < param_set_count(base); i++)
		if (&base->entries[i] != gone && !param_draft_add(&draft, &base->entries[i]))
			return NULL;
	return param_set_intern(pool, &draft);
}

struct param_set *param_set_adopt(struct param_pool *pool, const struct param_set *base,
                                  const struct param_set *from, uint16_t bits)
{
	struct param_set *set = ref_base(base);

	for (size_t i = 0; i < param_set_count(from); i++) {
		const struct param_entry *entry = &from->entries[i];
		struct param_set *next;

		if (!entry->reported || (param_bit(entry->name) & bits) == 0)
			continue;
		next = param_set_with(pool, set, entry->name, entry->value, true);
		param_set_replace(&set, next);
		if (next == NULL)
			return NULL;
	}
	return set;
}

struct param_set *param_set_doubt(struct param_pool *pool, const struct param_set *base)
{
	struct param_draft draft;
	bool any = false;
	size_t i;

	draft.count = param_set_count(base);
	for (i = 0; i < draft.count; i++) {
		draft.entries[i] = base->entries[i];
		any |= !draft.entries[i].reported;
		draft.entries[i].doubted |= !draft.entries[i].reported;
	}
	if (!any && base != NULL && base->pool == pool)
		return ref_base(base);
	return param_set_intern(pool, &draft);
}

struct param_set *param_set_guess(struct param_pool *pool, const struct param_set *base,
                                  const struct param_set *names)
{
	struct param_draft draft;
	size_t i;

	draft.count = param_set_count(base);
	for (i = 0; i < draft.count; i++) {
		draft.entries[i] = base->entries[i];
		draft.entries[i].doubted |= base->entries[i].reported &&
		                            param_set_find(names, base->entries[i].name) != NULL;
	}
	return param_set_intern(pool, &draft);
}

struct param_set *param_set_merge(struct param_pool *pool, const struct param_set *base,
                                  const struct param_set *overlay)
{
	size_t b = 0;
	size_t o = 0;
	struct param_draft draft;

	draft.count = 0;
	while (b < param_set_count(base) || o < param_set_count(overlay)) {
		struct param_entry entry;
		int order;

		if (b == param_set_count(base))
			order = 1;
		else if (o == param_set_count(overlay))
			order = -1;
		else
			order = param_name_compare(base->entries[b].name, overlay->entries[o].name);
		entry = order < 0 ? base->entries[b] : overlay->entries[o];
		if (order == 0 && base->entries[b].reported) {
			entry.name = base->entries[b].name; /* the server's spelling */
			entry.reported = true;
		}
		if (entry.reported)
			entry.doubted = false;
		b += order <= 0;
		o += order >= 0;
		if (!param_draft_add(&draft, &entry))
			return NULL;
	}
	return param_set_intern(pool, &draft);
}

struct param_set *param_set_settle(struct param_pool *pool, const struct param_set *want,
                                   const struct param_set *have)
{
	size_t w = 0;
	size_t h = 0;
	struct param_draft draft;

	draft.count = 0;
	while (w < param_set_count(want) || h < param_set_count(have)) {
		struct param_entry entry;
		int order;

		if (w == param_set_count(want))
			order = 1;
		else if (h == param_set_count(have))
			order = -1;
		else
			order = param_name_compare(want->entries[w].name, have->entries[h].name);
		if (order >= 0 && have->entries[h].reported) {
			entry = have->entries[h];
			w += order == 0;
			h++;
		} else if (order > 0) {
			h++; /* an extra that was RESET */
			continue;
		} else {
			entry = want->entries[w++];
			h += order == 0;
			if (!param_can_sync(&entry, have))
				continue;
			entry.reported = false;
		}
		if (!param_draft_add(&draft, &entry))
			return NULL;
	}
	return param_set_intern(pool, &draft);
}
