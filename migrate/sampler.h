/* SPDX-License-Identifier: PostgreSQL */
/*
 * Throughput and latency around a move, for its report: a process of its own asks the proxies ten
 * times a second for SHOW STATS and the servers once a second for pg_stat_database, and writes a
 * line for each answer.  It knows nothing of the move and the move waits for nothing of it; while
 * clients are held it asks nobody anything (ui_hurry() tells it).  It dies with the mover.
 */
#ifndef MIGRATE_SAMPLER_H
#define MIGRATE_SAMPLER_H

#include "conf/config.h"
#include "migrate/ui.h"

#include <stdatomic.h>
#include <sys/types.h>

#define SAMPLES_FILE "samples.jsonl"

struct sampler {
	pid_t pid;         /* 0 = there is none */
	char *path;        /* of the lines, in the directory of the journals */
	atomic_int *state; /* shared with the process */
};

/* Without a proxy or pgbouncer there is nothing to ask.  A failure is none of the move's. */
void sampler_start(struct sampler *sampler, const struct config *config, struct ui *ui);

/* Ends it; its lines go to `directory`, or away if that is NULL. */
void sampler_stop(struct sampler *sampler, struct ui *ui, const char *directory);

#endif
