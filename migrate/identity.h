/* SPDX-License-Identifier: PostgreSQL */
/*
 * Whether the proxies mean the same server by the target's name as the mover.
 */
#ifndef MIGRATE_IDENTITY_H
#define MIGRATE_IDENTITY_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

struct move;
struct route;
struct sbuf;

/* What no two servers share. */
struct server_start {
	int64_t system;  /* system identifier */
	int64_t started; /* microseconds since 1970 */
};

/* Asks the target; false: its link has the error. */
bool identity_read(struct move *move, struct server_start *out) MUST_CHECK;

/* Whether the answer to PREPARE SWAP, which the route's link has, is of that server; `why` is
 * appended to if not. */
bool identity_same(const struct move *move, const struct route *route,
                   const struct server_start *target, struct sbuf *why) MUST_CHECK;

/* All routes, whose links have those answers; false after move_fail(). */
bool identity_prove(struct move *move) MUST_CHECK;

#endif
