/* SPDX-License-Identifier: PostgreSQL */
/*
 * What protects the other databases' clients in the milliseconds between the promotion and the
 * fences of the target's copies.  Whoever lists both servers with target_session_attrs=read-write,
 * or writes to the target by mistake, would find a server that takes writes, and what it says is
 * committed would be lost.  So from before the hold the target's default_transaction_read_only is on
 * (ALTER SYSTEM; a standby's transactions are read-only anyway), which libpq passes over and which
 * makes a write an error (25006).  The shards have it off by a setting of their own (ALTER DATABASE on
 * the source, which the target replays), so their sessions on the target, opened before the promotion
 * but after that, never see it on.  Both are taken back when the move has ended, either way.
 *
 * A client that asks for READ WRITE by itself is not kept off (README).
 */
#ifndef MIGRATE_READ_ONLY_H
#define MIGRATE_READ_ONLY_H

#include "base/compiler.h"

#include <stdbool.h>

struct move;
struct journal_records;

/* Before anything connects to the shards on the target.  Does nothing where there are no other
 * databases, and only says so where somebody is in the shards there already, or ALTER SYSTEM is
 * refused.  False after move_fail(). */
bool read_only_begin(struct move *move) MUST_CHECK;

/* In the checks: the target's is on because a move has not ended, which this one will make good. */
bool read_only_left_over(struct move *move) MUST_CHECK;

/* Takes it back, once; false if something could not be, after saying what.  A target that is away
 * is no such thing: then read_only_left is set. */
bool read_only_end(struct move *move) MUST_CHECK;

/* The same for a move that was undone without its target, unless somebody else has done it. */
bool read_only_end_late(struct move *move) MUST_CHECK;

/* What the journal of an earlier mover says of it. */
void read_only_take(struct move *move, const struct journal_records *records);

#endif
