/* SPDX-License-Identifier: PostgreSQL */
#include "core/tally.h"

#include "core/client.h"
#include "core/pool.h"
#include "core/worker.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TALLY_FIRST 8

static bool tally_is_sqlstate(const char *text)
{
	size_t len = 0;

	if (text == NULL)
		return false;
	for (; len < 5; len++) {
		if ((text[len] < '0' || text[len] > '9') && (text[len] < 'A' || text[len] > 'Z'))
			return false;
	}
	return text[5] == '\0';
}

static bool tally_grow(struct tally *tally)
{
	uint32_t capacity = tally->capacity == 0 ? TALLY_FIRST : tally->capacity * 2;
	struct tally_entry *entries = realloc(tally->entries, capacity * sizeof(*entries));

	if (entries == NULL)
		return false;
	tally->entries = entries;
	tally->capacity = capacity;
	return true;
}

static struct tally_entry *tally_find(struct tally *tally, const char *sqlstate)
{
	for (uint32_t i = 0; i < tally->count; i++) {
		if (memcmp(tally->entries[i].sqlstate, sqlstate,
		           sizeof(tally->entries[i].sqlstate)) == 0)
			return &tally->entries[i];
	}
	return NULL;
}

void tally_add(struct tally *tally, const char *sqlstate, enum tally_origin origin)
{
	struct tally_entry *entry;

	if (!tally_is_sqlstate(sqlstate))
		sqlstate = TALLY_OTHER;
	entry = tally_find(tally, sqlstate);
	/* The last place is that of all others. */
	if (entry == NULL && tally->count >= TALLY_MAX - 1) {
		sqlstate = TALLY_OTHER;
		entry = tally_find(tally, sqlstate);
	}
	if (entry == NULL) {
		if (tally->count == tally->capacity && !tally_grow(tally))
			return;
		entry = &tally->entries[tally->count++];
		memset(entry, 0, sizeof(*entry));
		memcpy(entry->sqlstate, sqlstate, sizeof(entry->sqlstate));
	}
	entry->counts[origin]++;
}

void tally_free(struct tally *tally)
{
	free(tally->entries);
	memset(tally, 0, sizeof(*tally));
}

void tally_client(const struct client *client, const char *sqlstate, enum tally_origin origin)
{
	struct worker *worker = client->worker;
	struct database *database;

	if (client->pool != NULL && client->pool->internal)
		return;
	database = client->pool != NULL ? client->pool->database
	                                : database_find(worker, client_login_database(client));
	tally_add(database == NULL ? &worker->tally : &database->tally, sqlstate, origin);
}
