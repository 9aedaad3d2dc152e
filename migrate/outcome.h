/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the clients noticed of a move: errors by SQLSTATE, as the proxies counted them before the
 * hold and after the release, and how long their requests waited.
 */
#ifndef MIGRATE_OUTCOME_H
#define MIGRATE_OUTCOME_H

#include "base/sbuf.h"

#include <stddef.h>
#include <stdint.h>

struct move;
struct route;

/* Classes of SHOW HOLDS, "waits". */
#define OUTCOME_WAITS_MAX 16

struct outcome_wait {
	int64_t limit; /* at most so many ms, when the route was swapped; -1 = more than all */
	int64_t requests;
};

struct outcome_error {
	char *proxy;
	char *database;
	char *sqlstate;
	int64_t before;
	int64_t count; /* since then */
	int64_t own;   /* of these, made by the proxy */
	int64_t own_before;
};

struct outcome {
	struct outcome_error *errors;
	size_t error_count;
	size_t asked;   /* proxies whose errors were counted on both sides of the hold */
	size_t unknown; /* that have no SHOW ERRORS, or did not answer */
	struct outcome_wait waits[OUTCOME_WAITS_MAX];
	size_t wait_count;
};

/* Before the hold and after the release.  A proxy that does not answer is none of the move's. */
void outcome_before(struct move *move);
void outcome_after(struct move *move);

/* From the answer of SWAP. */
void outcome_waits(struct move *move, const struct route *route);

/* Members of the report. */
void outcome_json(const struct move *move, struct sbuf *out);
void outcome_print(struct move *move);
void outcome_free(struct move *move);

#endif
