/* SPDX-License-Identifier: PostgreSQL */
/*
 * Prepared transactions (PREPARE TRANSACTION).  A standby keeps those of its primary, with their
 * names, owners and locks, when it is promoted: then both servers have all of them.  Those of the
 * shards go on on the target, those of the other databases on the source.  In the copies out of use
 * nobody would ever end them: they would keep dead rows in the other databases of the server, and
 * their copy from being renamed or dropped.
 */
#ifndef MIGRATE_PREPARED_H
#define MIGRATE_PREPARED_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stdint.h>

struct journal_records;
struct move;

/* Appends a subquery for those of the shards: a JSON array, NULL if there are none. */
void prepared_sql(const struct move *move, struct sbuf *out);

/* What that has said, which may be NULL, goes into the journal. */
bool prepared_keep(struct move *move, const char *list) MUST_CHECK;

/* "3 prepared transactions …: a of app, b of app" into the report of a move that has seen some. */
void prepared_print(struct move *move);

/* After the release: rolls back those in the copies out of use, on both servers.  False after
 * move_problem(). */
bool prepared_end(struct move *move) MUST_CHECK;

/* The first transaction number of those that the move has seen, if it is less than `xid`: it and
 * its subtransactions may have been committed on the target alone. */
uint64_t prepared_first(const struct journal_records *records, uint64_t xid);

#endif
