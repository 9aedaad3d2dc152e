/* SPDX-License-Identifier: PostgreSQL */
/*
 * Clients that were told the process id of a server (core/promise.h), by that id: a cancel request
 * names nothing else.  Servers of different hosts have equal ids, and one server has several clients
 * in turn, so an id may be that of many; which one is meant the key tells.
 *
 * A table of the process, with a lock that logins, ends of clients and cancel requests take.  The
 * entries are the clients' own.
 */
#ifndef CORE_TOLD_H
#define CORE_TOLD_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

struct client;
struct told_table; /* opaque */

struct told {
	struct told *next;
	struct client *client; /* for its worker only */
	unsigned worker;
	uint32_t pid;    /* 0: it is in no table */
	uint32_t slot;   /* of the client, as those that follow */
	uint32_t number; /* cancel_key */
	bool long_key;
};

struct told_table *told_table_new(void) MUST_CHECK;
void told_table_free(struct told_table *table);

/* False: a client that was told the same id has the same number. */
bool told_add(struct told_table *table, struct told *told) MUST_CHECK;
void told_remove(struct told_table *table, struct told *told);

/* Whether `fits` says so of one of those with that id, under the lock: *found is a copy. */
bool told_find(struct told_table *table, uint32_t pid,
	       bool (*fits)(const struct told *told, void *arg), void *arg,
	       struct told *found) MUST_CHECK;

#endif
