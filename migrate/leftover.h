/* SPDX-License-Identifier: PostgreSQL */
/*
 * Temporary tables that are in the source's catalogs at the barrier: those of sealed sessions, whose
 * server processes drop them when they end, after the promotion.  The target has their definitions
 * then, without their files, as after any promotion of a standby; PostgreSQL drops them by and by
 * (autovacuum, and a session before its own first temporary table).  So that nothing waits for
 * that, they are dropped here, when the clients go on and have what they had.
 */
#ifndef MIGRATE_LEFTOVER_H
#define MIGRATE_LEFTOVER_H

struct move;
struct shard;

/* A list of their OIDs, as the target shows it while it is a standby: none but these can be of no use
 * to a session there.  NULL: none. */
void leftover_note(struct shard *shard, const char *oids);

/* Drops them on the target, one by one, and none that anybody uses.  What it cannot do is left to
 * PostgreSQL. */
void leftover_drop(struct move *move);

void leftover_free(struct move *move);

#endif
