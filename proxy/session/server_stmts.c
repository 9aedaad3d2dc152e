/* SPDX-License-Identifier: PostgreSQL */
/*
 * Which definitions a server connection has: digests in a table with open addressing, and in a list
 * in order of use.  Entries are numbered from 1; 0 is none.
 */
#include "session/stmts.h"

#include <stdlib.h>
#include <string.h>

struct server_stmt {
	uint8_t digest[STMT_DIGEST_LEN];
	uint32_t newer;
	uint32_t older; /* of an unused entry: the next unused one */
};

#define FIRST_ENTRIES 16

static struct server_stmt *entry_at(const struct server_stmts *ss, uint32_t number)
{
	return &ss->entries[number - 1];
}

/* A digest is random already. */
static uint32_t digest_hash(const uint8_t digest[STMT_DIGEST_LEN])
{
	uint32_t hash;

	memcpy(&hash, digest, sizeof(hash));
	return hash;
}

/* The place in the index that has the digest, or the free one where it belongs. */
static uint32_t *find_place(const struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN])
{
	uint32_t i = digest_hash(digest) & ss->index_mask;

	for (;; i = (i + 1) & ss->index_mask) {
		uint32_t number = ss->index[i];

		if (number == 0 ||
		    memcmp(entry_at(ss, number)->digest, digest, STMT_DIGEST_LEN) == 0)
			return &ss->index[i];
	}
}

static uint32_t find_entry(const struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN])
{
	return ss->count == 0 ? 0 : *find_place(ss, digest);
}

/* ---- order of use ---- */

static void unlink_entry(struct server_stmts *ss, uint32_t number)
{
	struct server_stmt *entry = entry_at(ss, number);

	if (entry->newer == 0)
		ss->newest = entry->older;
	else
		entry_at(ss, entry->newer)->older = entry->older;
	if (entry->older == 0)
		ss->oldest = entry->newer;
	else
		entry_at(ss, entry->older)->newer = entry->newer;
}

static void link_newest(struct server_stmts *ss, uint32_t number)
{
	struct server_stmt *entry = entry_at(ss, number);

	entry->newer = 0;
	entry->older = ss->newest;
	if (ss->newest == 0)
		ss->oldest = number;
	else
		entry_at(ss, ss->newest)->newer = number;
	ss->newest = number;
}

/* ---- memory ---- */

void server_stmts_free(struct server_stmts *ss)
{
	free(ss->entries);
	free(ss->index);
	memset(ss, 0, sizeof(*ss));
}

/* Chains the entries from `first` on (counted from 0) as unused. */
static void chain_unused(struct server_stmts *ss, uint32_t first)
{
	uint32_t i;

	for (i = ss->cap; i > first; i--) {
		ss->entries[i - 1].older = ss->free;
		ss->free = i;
	}
}

/* Twice as many entries, and an index of twice that, so that half of it is free. */
static bool grow(struct server_stmts *ss)
{
	uint32_t cap = ss->cap == 0 ? FIRST_ENTRIES : ss->cap * 2;
	struct server_stmt *entries;
	uint32_t number;
	uint32_t *index;

	if (cap > UINT32_MAX / 4)
		return false;
	entries = realloc(ss->entries, cap * sizeof(entries[0]));
	if (entries == NULL)
		return false;
	ss->entries = entries;
	index = calloc((size_t)cap * 2, sizeof(index[0]));
	if (index == NULL)
		return false;
	free(ss->index);
	ss->index = index;
	ss->index_mask = cap * 2 - 1;
	for (number = ss->newest; number != 0; number = entry_at(ss, number)->older)
		*find_place(ss, entry_at(ss, number)->digest) = number;
	number = ss->cap;
	ss->cap = cap;
	chain_unused(ss, number);
	return true;
}

/* ---- the set ---- */

bool server_stmts_contains(const struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN])
{
	return find_entry(ss, digest) != 0;
}

bool server_stmts_touch(struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN])
{
	uint32_t number = find_entry(ss, digest);

	if (number == 0)
		return false;
	if (number != ss->newest) {
		unlink_entry(ss, number);
		link_newest(ss, number);
	}
	return true;
}

bool server_stmts_add(struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN])
{
	uint32_t number;

	if (server_stmts_touch(ss, digest))
		return true;
	if (ss->free == 0 && !grow(ss))
		return false;
	number = ss->free;
	ss->free = entry_at(ss, number)->older;
	memcpy(entry_at(ss, number)->digest, digest, STMT_DIGEST_LEN);
	*find_place(ss, digest) = number;
	link_newest(ss, number);
	ss->count++;
	return true;
}

/* Frees a place of the index and moves those behind it up that would no longer be found. */
static void close_hole(struct server_stmts *ss, uint32_t hole)
{
	uint32_t mask = ss->index_mask;
	uint32_t i;

	for (i = (hole + 1) & mask; ss->index[i] != 0; i = (i + 1) & mask) {
		uint32_t home = digest_hash(entry_at(ss, ss->index[i])->digest) & mask;

		/* It may move if the hole lies on its way from home. */
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			ss->index[hole] = ss->index[i];
			hole = i;
		}
	}
	ss->index[hole] = 0;
}

bool server_stmts_remove(struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN])
{
	uint32_t number = find_entry(ss, digest);

	if (number == 0)
		return false;
	close_hole(ss, (uint32_t)(find_place(ss, digest) - ss->index));
	unlink_entry(ss, number);
	entry_at(ss, number)->older = ss->free;
	ss->free = number;
	ss->count--;
	return true;
}

void server_stmts_clear(struct server_stmts *ss)
{
	if (ss->cap == 0)
		return;
	memset(ss->index, 0, ((size_t)ss->index_mask + 1) * sizeof(ss->index[0]));
	ss->count = 0;
	ss->newest = 0;
	ss->oldest = 0;
	ss->free = 0;
	chain_unused(ss, 0);
}

bool server_stmts_evict(struct server_stmts *ss, size_t max, uint8_t digest[STMT_DIGEST_LEN])
{
	if (ss->count <= max)
		return false;
	memcpy(digest, entry_at(ss, ss->oldest)->digest, STMT_DIGEST_LEN);
	return server_stmts_remove(ss, digest);
}

bool server_stmts_next(const struct server_stmts *ss, uint32_t *cursor, const uint8_t **digest)
{
	uint32_t number = *cursor == 0 ? ss->newest : entry_at(ss, *cursor)->older;

	if (number == 0)
		return false;
	*digest = entry_at(ss, number)->digest;
	*cursor = number;
	return true;
}
