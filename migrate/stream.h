/* SPDX-License-Identifier: PostgreSQL */
/*
 * Whether what the source writes still comes to the target, while clients wait for it: a target
 * that streams no more is not waited for as long as one that is only slow.
 */
#ifndef MIGRATE_STREAM_H
#define MIGRATE_STREAM_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>

struct move;

/* A column for queries of the target that stream_ended() reads. */
#define STREAM_COLUMN "(SELECT status FROM pg_stat_wal_receiver LIMIT 1) AS receiver"

/* Whether what the target lacks will not come, after a look at it; then move_fail() has said why.
 * *since: when it was first seen without a stream; 0: never. */
bool stream_ended(struct move *move, usec_t *since) MUST_CHECK;

/* Why the target has not got what it needs, as the end of a sentence: text to be freed. */
char *stream_say(struct move *move);

#endif
