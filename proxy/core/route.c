/* SPDX-License-Identifier: PostgreSQL */
#include "core/route.h"

#include "base/mem.h"
#include "core/secure.h"

#include <stdlib.h>
#include <string.h>

static struct route_table *route_table_alloc(struct config *config)
{
	struct route_table *table =
	    mem_must_alloc(sizeof(*table) + config->database_count * sizeof(table->routes[0]));

	atomic_init(&table->refs, 1);
	table->config = config_ref(config);
	table->count = config->database_count;
	return table;
}

struct route_table *route_table_new(struct config *config)
{
	struct route_table *table = route_table_alloc(config);

	table->version = 1;
	for (size_t i = 0; i < table->count; i++) {
		table->routes[i].database = &config->databases[i];
		table->routes[i].server = config->databases[i].server;
		table->routes[i].origin = ROUTE_FROM_CONFIG;
	}
	return table;
}

struct route_table *route_table_copy(const struct route_table *old)
{
	struct route_table *table = route_table_alloc(old->config);

	table->version = old->version + 1;
	table->secure = secure_ref(old->secure);
	memcpy(table->routes, old->routes, old->count * sizeof(old->routes[0]));
	return table;
}

struct route_table *route_table_ref(struct route_table *table)
{
	atomic_fetch_add_explicit(&table->refs, 1, memory_order_relaxed);
	return table;
}

void route_table_unref(struct route_table *table)
{
	if (table == NULL || atomic_fetch_sub_explicit(&table->refs, 1, memory_order_acq_rel) != 1)
		return;
	secure_unref(table->secure);
	config_unref(table->config);
	free(table);
}

const struct route *route_find(const struct route_table *table, const char *database)
{
	for (size_t i = 0; i < table->count; i++) {
		if (strcmp(table->routes[i].database->name, database) == 0)
			return &table->routes[i];
	}
	return strcmp(database, ROUTE_FALLBACK) == 0 || config_name_is_long(database)
	           ? NULL
	           : route_find(table, ROUTE_FALLBACK);
}

const char *route_dbname(const struct route *route, const char *database)
{
	return strcmp(route->database->dbname, ROUTE_FALLBACK) == 0 ? database
	                                                            : route->database->dbname;
}

struct route *route_find_mutable(struct route_table *table, const char *database)
{
	for (size_t i = 0; i < table->count; i++) {
		if (strcmp(table->routes[i].database->name, database) == 0)
			return &table->routes[i];
	}
	return NULL;
}

const char *route_origin_name(enum route_origin origin)
{
	static const char *const names[] = {
	    [ROUTE_FROM_CONFIG] = "config",
	    [ROUTE_FROM_STATE] = "state",
	    [ROUTE_FROM_SWAP] = "swap",
	};

	return names[origin];
}
