/* SPDX-License-Identifier: PostgreSQL */
/*
 * The names that one client gave to its prepared statements: an open-addressed table with linear
 * probing.  A slot holds the hash, so that a look-up touches one cache line and the one name.
 */
#include "session/stmts_internal.h"

#include <stdlib.h>
#include <string.h>

struct named_stmt {
	struct stmt *stmt;
	uint8_t name_len;
	char name[];
};

struct slot {
	uint32_t hash;
	struct named_stmt *named; /* NULL = free */
};

#define FIRST_SLOTS 8

struct client_stmts {
	struct stmt_store *store;
	struct slot *slots;
	size_t slot_count; /* 0 or a power of two */
	size_t count;
	size_t bytes; /* of the named ones */
	struct stmt *unnamed;
};

bool client_stmts_ensure(struct client_stmts **slot, struct stmt_store *store)
{
	if (*slot != NULL)
		return true;
	*slot = calloc(1, sizeof(**slot));
	if (*slot == NULL)
		return false;
	(*slot)->store = store;
	return true;
}

void client_stmts_free(struct client_stmts *cs)
{
	if (cs == NULL)
		return;
	client_stmts_clear(cs);
	free(cs);
}

/* PostgreSQL's table of statements compares this much of a name and no more. */
static size_t significant(size_t name_len)
{
	return name_len > STMT_CLIENT_NAME_MAX ? STMT_CLIENT_NAME_MAX : name_len;
}

static uint32_t name_hash(const struct client_stmts *cs, const char *name, size_t name_len)
{
	return (uint32_t)hash_bytes(stmt_store_hash_key(cs->store), name, name_len);
}

/* The slot that has the name, or the free one where it belongs.  There is always a free one. */
static struct slot *find_slot(const struct client_stmts *cs, uint32_t hash, const char *name,
                              size_t name_len)
{
	size_t mask = cs->slot_count - 1;
	size_t i = hash & mask;

	for (;; i = (i + 1) & mask) {
		struct slot *slot = &cs->slots[i];

		if (slot->named == NULL)
			return slot;
		if (slot->hash == hash && slot->named->name_len == name_len &&
		    memcmp(slot->named->name, name, name_len) == 0)
			return slot;
	}
}

struct stmt *client_stmts_get(const struct client_stmts *cs, const char *name, size_t name_len)
{
	struct slot *slot;

	if (cs == NULL)
		return NULL;
	if (name_len == 0)
		return cs->unnamed;
	if (cs->count == 0)
		return NULL;
	name_len = significant(name_len);
	slot = find_slot(cs, name_hash(cs, name, name_len), name, name_len);
	return slot->named == NULL ? NULL : slot->named->stmt;
}

/* Room for one more, so that a quarter of the slots stays free. */
static bool make_room(struct client_stmts *cs)
{
	size_t slot_count = cs->slot_count == 0 ? FIRST_SLOTS : cs->slot_count * 2;
	struct slot *slots;
	size_t i;

	if ((cs->count + 1) * 4 <= cs->slot_count * 3)
		return true;
	slots = calloc(slot_count, sizeof(slots[0]));
	if (slots == NULL)
		return false;
	for (i = 0; i < cs->slot_count; i++) {
		size_t to = cs->slots[i].hash & (slot_count - 1);

		if (cs->slots[i].named == NULL)
			continue;
		while (slots[to].named != NULL)
			to = (to + 1) & (slot_count - 1);
		slots[to] = cs->slots[i];
	}
	free(cs->slots);
	cs->slots = slots;
	cs->slot_count = slot_count;
	return true;
}

static size_t named_bytes(const struct named_stmt *named)
{
	return named->name_len + 1u + named->stmt->len;
}

enum client_stmts_status client_stmts_set(struct client_stmts *cs, const char *name,
                                          size_t name_len, struct stmt *stmt, size_t max)
{
	struct named_stmt *named;
	struct slot *slot;
	uint32_t hash;

	if (name_len == 0) {
		(void)client_stmts_set_unnamed(cs, stmt, SIZE_MAX);
		return CLIENT_STMTS_OK;
	}
	name_len = significant(name_len);
	if (client_stmts_get(cs, name, name_len) != NULL)
		return CLIENT_STMTS_EXISTS;
	if (cs->count >= max)
		return CLIENT_STMTS_FULL;
	if (!make_room(cs))
		return CLIENT_STMTS_NOMEM;
	named = malloc(sizeof(*named) + name_len + 1);
	if (named == NULL)
		return CLIENT_STMTS_NOMEM;
	named->stmt = stmt_ref(stmt);
	named->name_len = (uint8_t)name_len;
	memcpy(named->name, name, name_len);
	named->name[name_len] = '\0';
	hash = name_hash(cs, name, name_len);
	slot = find_slot(cs, hash, name, name_len);
	slot->hash = hash;
	slot->named = named;
	cs->count++;
	cs->bytes += named_bytes(named);
	return CLIENT_STMTS_OK;
}

/* Frees slot `hole` and moves those behind it up that would no longer be found. */
static void close_hole(struct client_stmts *cs, size_t hole)
{
	size_t mask = cs->slot_count - 1;
	size_t i;

	for (i = (hole + 1) & mask; cs->slots[i].named != NULL; i = (i + 1) & mask) {
		size_t home = cs->slots[i].hash & mask;

		/* It may move if the hole lies on its way from home. */
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			cs->slots[hole] = cs->slots[i];
			hole = i;
		}
	}
	cs->slots[hole].named = NULL;
}

bool client_stmts_remove(struct client_stmts *cs, const char *name, size_t name_len)
{
	struct slot *slot;

	if (cs == NULL)
		return false;
	if (name_len == 0) {
		bool there = cs->unnamed != NULL;

		(void)client_stmts_set_unnamed(cs, NULL, 0);
		return there;
	}
	if (cs->count == 0)
		return false;
	name_len = significant(name_len);
	slot = find_slot(cs, name_hash(cs, name, name_len), name, name_len);
	if (slot->named == NULL)
		return false;
	cs->count--;
	cs->bytes -= named_bytes(slot->named);
	stmt_unref(slot->named->stmt);
	free(slot->named);
	close_hole(cs, (size_t)(slot - cs->slots));
	return true;
}

bool client_stmts_set_unnamed(struct client_stmts *cs, struct stmt *stmt, size_t max_bytes)
{
	struct stmt *old = cs->unnamed;
	bool fits = stmt != NULL && stmt->len <= max_bytes;

	cs->unnamed = fits ? stmt_ref(stmt) : NULL;
	stmt_unref(old);
	return fits;
}

struct stmt *client_stmts_get_unnamed(const struct client_stmts *cs)
{
	return cs == NULL ? NULL : cs->unnamed;
}

void client_stmts_clear(struct client_stmts *cs)
{
	size_t i;

	if (cs == NULL)
		return;
	for (i = 0; i < cs->slot_count; i++) {
		if (cs->slots[i].named == NULL)
			continue;
		stmt_unref(cs->slots[i].named->stmt);
		free(cs->slots[i].named);
	}
	free(cs->slots);
	cs->slots = NULL;
	cs->slot_count = 0;
	cs->count = 0;
	cs->bytes = 0;
	(void)client_stmts_set_unnamed(cs, NULL, 0);
}

size_t client_stmts_count(const struct client_stmts *cs)
{
	return cs == NULL ? 0 : cs->count;
}

size_t client_stmts_bytes(const struct client_stmts *cs)
{
	if (cs == NULL)
		return 0;
	return cs->bytes + (cs->unnamed == NULL ? 0 : cs->unnamed->len);
}

bool client_stmts_next(const struct client_stmts *cs, size_t *cursor, struct client_stmt_ref *ref)
{
	if (cs == NULL)
		return false;
	while (*cursor < cs->slot_count) {
		const struct named_stmt *named = cs->slots[(*cursor)++].named;

		if (named == NULL)
			continue;
		ref->name = named->name;
		ref->name_len = named->name_len;
		ref->stmt = named->stmt;
		return true;
	}
	return false;
}
