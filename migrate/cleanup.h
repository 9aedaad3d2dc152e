/* SPDX-License-Identifier: PostgreSQL */
/*
 * Copies that a move left behind, and the evidence without which nothing is renamed or dropped.
 * Internal to cleanup*.c.
 */
#ifndef MIGRATE_CLEANUP_H
#define MIGRATE_CLEANUP_H

#include "migrate/command.h"
#include "migrate/move.h"

enum copy_state { COPY_GONE, COPY_NAMED, COPY_RENAMED };

/* One copy out of use: the shard's on the source, or an inherited database's on the target. */
struct copy {
	char *dbname;         /* as it was; the copy in use still has this name */
	char *stale;          /* its name after the renaming */
	struct server *here;  /* where it is */
	struct server *there; /* where the copy in use is */
	bool of_shard;
	enum copy_state state;
	usec_t renamed_at; /* wall clock; 0 = not known */
};

struct cleanup {
	struct move *move;
	const struct command_line *line;
	const struct journal_records *records;
	struct copy *copies;
	size_t copy_count;
	uint64_t switch_point;
	size_t refused;
	size_t waiting;
	bool dry_run;
};

/* cleanup_evidence.c: asks both servers at once; false after it was said what speaks against it.
 * *asked_at: when the questions were sent. */
bool cleanup_prove(struct cleanup *cleanup, struct copy *copy, usec_t *asked_at) MUST_CHECK;

/* No router leads to the copies.  Says what speaks against it. */
bool cleanup_routers(struct cleanup *cleanup) MUST_CHECK;

/* What an operator is told speaks against a step. */
void cleanup_refuse(struct cleanup *cleanup, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
