/* SPDX-License-Identifier: PostgreSQL */
/*
 * Tables without WAL that somebody makes between the checks and the hold: on the target they are
 * empty.  A session of ours in each shard there, opened while it still can be, looks for them when
 * the target has replayed the last commit of the shards.
 */
#ifndef MIGRATE_UNLOGGED_H
#define MIGRATE_UNLOGGED_H

#include "base/compiler.h"

#include <stdbool.h>

struct move;

/* What there is of them in the database of the session: a row of found and names, and of temporary
 * for leftover.h. */
extern const char unlogged_sql[];

/* Opens the sessions, and asks once: the first time costs milliseconds. */
bool unlogged_prepare(struct move *move) MUST_CHECK;

/* Asks; false after move_fail() if there are any. */
void unlogged_send(struct move *move);
bool unlogged_none(struct move *move) MUST_CHECK;

void unlogged_end(struct move *move);

#endif
