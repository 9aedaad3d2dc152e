/* SPDX-License-Identifier: PostgreSQL */
/*
 * Who reads the shards on the standby: sessions that survive its promotion and could write then,
 * before the shards are opened.  Once the target shows the fence nobody can come any more; whoever
 * is there and was not opened by a router for the move is ended before the promotion is requested.
 */
#ifndef MIGRATE_READERS_H
#define MIGRATE_READERS_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>

struct move;
struct sbuf;

/* Asks the routers which sessions on the target are theirs; before the hold. */
bool readers_know(struct move *move) MUST_CHECK;

/* Whether those are really there, on the target; false after move_fail(). */
bool readers_prove(struct move *move) MUST_CHECK;

/* Appends the processes that routers have, as an array of SQL. */
void readers_known(const struct move *move, struct sbuf *out);

/* Asks it once before the hold: the first time costs the session milliseconds. */
bool readers_warm(struct move *move) MUST_CHECK;

/* Asks the target who is there; the answer is taken by readers_end(). */
void readers_send(struct move *move);

/* Until nobody is left but those; ends the others, or fails if mover.end_readers is off. */
bool readers_end(struct move *move, usec_t deadline) MUST_CHECK;

/* For a target that was promoted while we were not there: nothing if the shards are open. */
bool readers_end_late(struct move *move, usec_t deadline) MUST_CHECK;

/* Whoever is in a transaction on the target while its replay waits for somebody, but for those of the
 * move itself: as text, to be freed; NULL = it does not wait.  end: they are ended. */
char *readers_delaying(struct move *move, bool end) MUST_CHECK;

#endif
