/* SPDX-License-Identifier: PostgreSQL */
/*
 * The definitions of prepared statements of one worker, and the Parse message they come from.
 */
#include "session/stmts.h"

#include "session/stmts_internal.h"

#include <assert.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

struct stmt_store {
	struct hash_key hash_key;
	struct stmt **buckets;
	size_t mask; /* buckets - 1 */
	size_t count;
	size_t bytes;
	uint64_t own; /* number of the last one that is not shared; they begin anywhere */
};

_Static_assert(sizeof(STMT_NAME_PREFIX) - 1 + 2 * (size_t)STMT_DIGEST_LEN == STMT_NAME_LEN,
               "length of a statement's name");
_Static_assert(STMT_NAME_LEN <= STMT_CLIENT_NAME_MAX, "PostgreSQL tells the names apart");

bool stmt_split_parse(const void *body, size_t len, struct stmt_parse *parse)
{
	const char *name_end = memchr(body, '\0', len);
	const unsigned char *types;
	const char *query_end;
	const char *end = (const char *)body + len;
	size_t count;

	if (name_end == NULL)
		return false;
	parse->name = body;
	parse->name_len = (size_t)(name_end - parse->name);
	parse->def = name_end + 1;
	parse->def_len = len - parse->name_len - 1;
	query_end = memchr(parse->def, '\0', parse->def_len);
	if (query_end == NULL || end - query_end < 3)
		return false;
	types = (const unsigned char *)query_end + 1;
	count = (size_t)types[0] << 8 | types[1];
	return (size_t)(end - query_end) == 3 + 4 * count;
}

/* ---- store ---- */

struct stmt_store *stmt_store_new(void)
{
	struct stmt_store *store = calloc(1, sizeof(*store));

	if (store == NULL)
		return NULL;
	store->mask = 255;
	store->buckets = calloc(store->mask + 1, sizeof(struct stmt *));
	if (store->buckets == NULL) {
		free(store);
		return NULL;
	}
	hash_key_init(&store->hash_key);
	/* Other stores, whose statements the same server may have, begin elsewhere. */
	store->own = hash_bytes(&store->hash_key, "own", 3);
	return store;
}

void stmt_store_free(struct stmt_store *store)
{
	if (store == NULL)
		return;
	assert(store->count == 0);
	free(store->buckets);
	free(store);
}

size_t stmt_store_count(const struct stmt_store *store)
{
	return store->count;
}

size_t stmt_store_bytes(const struct stmt_store *store)
{
	return store->bytes;
}

const struct hash_key *stmt_store_hash_key(const struct stmt_store *store)
{
	return &store->hash_key;
}

/* Twice as many buckets; without memory the chains just get longer. */
static void store_grow(struct stmt_store *store)
{
	size_t mask = store->mask * 2 + 1;
	struct stmt **buckets = calloc(mask + 1, sizeof(struct stmt *));
	struct stmt *stmt;
	size_t i;

	if (buckets == NULL)
		return;
	for (i = 0; i <= store->mask; i++) {
		while ((stmt = store->buckets[i]) != NULL) {
			store->buckets[i] = stmt->next;
			stmt->next = buckets[stmt->hash & mask];
			buckets[stmt->hash & mask] = stmt;
		}
	}
	free(store->buckets);
	store->buckets = buckets;
	store->mask = mask;
}

struct stmt *stmt_store_intern(struct stmt_store *store, const void *def, size_t len)
{
	static const struct param_digest none;

	return stmt_store_intern_at(store, def, len, 0, &none);
}

struct stmt *stmt_store_intern_at(struct stmt_store *store, const void *def, size_t len,
                                  uint32_t generation, const struct param_digest *settings)
{
	uint64_t hash = hash_bytes(&store->hash_key, def, len);
	struct stmt *stmt;

	for (stmt = store->buckets[hash & store->mask]; stmt != NULL; stmt = stmt->next) {
		if (stmt->hash == hash && stmt->len == len && stmt->generation == generation &&
		    stmt_means(stmt, settings) && memcmp(stmt->text, def, len) == 0)
			return stmt_ref(stmt);
	}
	if (len > INT32_MAX)
		return NULL; /* no message is longer */
	stmt = malloc(sizeof(*stmt) + len);
	if (stmt == NULL)
		return NULL;
	memset(stmt, 0, sizeof(*stmt));
	stmt->refs = 1;
	stmt->len = (uint32_t)len;
	stmt->hash = hash;
	stmt->generation = generation;
	stmt->settings = *settings;
	stmt->store = store;
	if (len > 0)
		memcpy(stmt->text, def, len);
	if (store->count > store->mask)
		store_grow(store);
	stmt->next = store->buckets[hash & store->mask];
	store->buckets[hash & store->mask] = stmt;
	store->count++;
	store->bytes += sizeof(*stmt) + len;
	return stmt;
}

struct stmt *stmt_store_make_own(struct stmt_store *store, const void *def, size_t len,
                                 uint32_t generation)
{
	const struct param_digest unique = {{++store->own, UINT64_MAX}};
	struct stmt *stmt = stmt_store_intern_at(store, def, len, generation, &unique);

	if (stmt != NULL)
		stmt->own = true;
	return stmt;
}

void stmt_free(struct stmt *stmt)
{
	struct stmt_store *store = stmt->store;
	struct stmt **link = &store->buckets[stmt->hash & store->mask];

	while (*link != stmt)
		link = &(*link)->next;
	*link = stmt->next;
	store->count--;
	store->bytes -= sizeof(*stmt) + stmt->len;
	free(stmt);
}

/* ---- digest ---- */

void stmt_server_name(const uint8_t digest[STMT_DIGEST_LEN], char out[STMT_NAME_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";
	size_t i;
	char *p = out + sizeof(STMT_NAME_PREFIX) - 1;

	memcpy(out, STMT_NAME_PREFIX, sizeof(STMT_NAME_PREFIX) - 1);
	for (i = 0; i < STMT_DIGEST_LEN; i++) {
		*p++ = digits[digest[i] >> 4];
		*p++ = digits[digest[i] & 15];
	}
	*p = '\0';
}

void stmt_make_digest(struct stmt *stmt)
{
	unsigned char full[SHA256_DIGEST_LENGTH];

	(void)SHA256((const unsigned char *)stmt->text, stmt->len, full);
	if (stmt->generation != 0 || stmt->settings.half[0] != 0 || stmt->own) {
		unsigned char all[sizeof(full) + sizeof(stmt->generation) + sizeof(stmt->settings)];
		unsigned char *at = all;

		memcpy(at, full, sizeof(full));
		at += sizeof(full);
		memcpy(at, &stmt->generation, sizeof(stmt->generation));
		at += sizeof(stmt->generation);
		memcpy(at, &stmt->settings, sizeof(stmt->settings));
		(void)SHA256(all, sizeof(all), full);
	}
	memcpy(stmt->digest, full, STMT_DIGEST_LEN);
	stmt_server_name(stmt->digest, stmt->name);
	stmt->digested = true;
}
