/* SPDX-License-Identifier: PostgreSQL */
/*
 * CREATE, ALTER and DROP DATABASE fail if anybody else is still connected to the database, or the
 * template, after five seconds (PostgreSQL's CountOtherDBBackends()).  The idle server connections
 * of pools would be such: they leave a database that a command names which waits.  One that is
 * refused at once, for lack of the right to do it, makes nobody leave.
 *
 * It is looked for now and then, in what is noted of queries in any case.  Worker thread.
 */
#ifndef CORE_LEAVE_H
#define CORE_LEAVE_H

#include "base/clock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pool;
struct server;
struct worker;

/* Whether the text can be such a command, by its first bytes. */
static inline bool leave_begins(const uint8_t *text, size_t len)
{
	return len > 1 && (text[0] <= ' ' || (text[1] | 0x20) == 'r' || (text[1] | 0x20) == 'l');
}

/* By the worker's tick: tells all workers of commands that wait. */
void leave_tick(struct pool *pool, usec_t now);

/* A command waits, of which `sql` is the text or its beginning, names as they are: closes idle
 * servers of the databases that it may be about.  Those of a database that is held stay. */
void leave_databases(struct worker *worker, const char *sql);

#endif
