/* SPDX-License-Identifier: PostgreSQL */
/*
 * Routes: which server each database is on.  A route table never changes; a RELOAD or a SWAP makes
 * a new one, which the main thread mails to every worker.  Any thread that holds a reference may
 * read it.
 */
#ifndef CORE_ROUTE_H
#define CORE_ROUTE_H

#include "base/compiler.h"
#include "conf/config.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum route_origin {
	ROUTE_FROM_CONFIG, /* as the configuration file says */
	ROUTE_FROM_STATE,  /* as the state directory says, from an earlier SWAP */
	ROUTE_FROM_SWAP,   /* by a SWAP in this process */
};

struct route {
	const struct config_database *database; /* of the table's configuration */
	const struct config_server *server;     /* of the table's configuration */
	uint64_t epoch;                         /* of the last HOLD; only grows */
	enum route_origin origin;
};

struct secure; /* core/secure.h */

struct route_table {
	atomic_uint refs;
	struct config *config; /* holds a reference; routes point into it */
	struct secure *secure; /* TLS of that configuration; NULL only in tests */
	uint64_t version;      /* grows with every table of this process */
	size_t count;          /* = config->database_count; the i-th route is of the i-th database */
	struct route routes[];
};

/* A table with one reference: every database on the server that the configuration names. */
struct route_table *route_table_new(struct config *config) MUST_CHECK;

/* A copy with the next version, one reference, to be changed before anybody else sees it. */
struct route_table *route_table_copy(const struct route_table *table) MUST_CHECK;

struct route_table *route_table_ref(struct route_table *table);
void route_table_unref(struct route_table *table);

/* The entry that stands for all databases without one of their own. */
#define ROUTE_FALLBACK "*"

/* The name on the server of a database that clients call `database`. */
const char *route_dbname(const struct route *route, const char *database);

/* That of the fallback if there is no such database; NULL if there is none either. */
const struct route *route_find(const struct route_table *table, const char *database);
struct route *route_find_mutable(struct route_table *table, const char *database);

const char *route_origin_name(enum route_origin origin);

#endif
