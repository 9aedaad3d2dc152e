/* SPDX-License-Identifier: PostgreSQL */
/*
 * Sessions on the source that need not end before the barrier.  A proxy has put its side of them
 * out of use (SEAL, proxy/core/seal.h): nobody can ask them anything.  They are recognized on the
 * source by process id and by the address and port of their client, all of which must fit, and only
 * one that is idle and outside of a transaction counts.  From then on it is the same one, and has
 * done nothing, if its start and the time of its last change of state are what they were: that is
 * looked at with everybody else before the barrier, then after the catch-up and after the
 * promotion.  Any other is ended.
 */
#ifndef MIGRATE_SEAL_H
#define MIGRATE_SEAL_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of the lists of them, for which far fewer bytes are used. */
#define SEAL_LIST_MAX ((size_t)2 * 1024 * 1024)

struct link;
struct move;
struct sbuf;

/* Has all proxies seal what they have of the shards; in the hold. */
void seal_send(struct move *move);

/* Their answers.  False after move_fail(): one does not answer, its hold cannot be counted on. */
bool seal_take(struct move *move) MUST_CHECK;

/* How many of the sessions on the source a proxy has now, and could seal; in a rehearsal. */
bool seal_count_possible(struct move *move, int64_t *count) MUST_CHECK;

/* Before the hold: asks of what the proxies have now all that will be asked in it, which costs the
 * source's session more for the first time.  What is known then is only for that: seal_forget(). */
bool seal_warm(struct move *move) MUST_CHECK;
void seal_forget(struct move *move);

/* Appends the query for the sessions that are recognized, or nothing if none was sealed; its rows
 * are for seal_know(). */
void seal_pick_sql(const struct move *move, struct sbuf *out);
void seal_know(struct move *move, const struct link *link, int result);

/* Appends a condition, " AND …", for pg_stat_activity a: it is none of them.  Before seal_know() of
 * those that seal_pick_sql() picks, after it of those that have done nothing since. */
void seal_exclude(const struct move *move, struct sbuf *out);

/* So many are known. */
size_t seal_count(const struct move *move);

/* Asks the source, while the target catches up and while it is promoted, whether they have done
 * nothing; the answer is taken by seal_prove().  False, before the promotion, after move_fail():
 * one has; after it that is something to be repaired. */
void seal_look(struct move *move);
bool seal_prove(struct move *move) MUST_CHECK;

/* For an undo: ends them and waits for that, for clients that go on need their places and what they
 * have locked. */
void seal_end(struct move *move);

#endif
