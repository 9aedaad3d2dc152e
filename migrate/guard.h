/* SPDX-License-Identifier: PostgreSQL */
/*
 * The lease of the paused pgbouncers.  A pause outlives the client that made it, so a child process
 * watches over the mover: when the mover has died, or has not been heard of for the lease, the
 * child resumes what was paused.  From the last look before the promotion on there is no lease any
 * more, as with the proxies: then the child ends without doing anything.
 */
#ifndef MIGRATE_GUARD_H
#define MIGRATE_GUARD_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>

struct move;

/* Before the first PAUSE; nothing if no pgbouncer is involved.  False if it could not be started.
 */
bool guard_start(struct move *move) MUST_CHECK;

/* The mover lives; as often as wanted. */
void guard_renew(struct move *move);

/* No lease any more: the child ends without doing anything.  False after move_fail() if it is not
 * known whether it did; what it may have resumed shows when the pgbouncers are asked after this. */
void guard_send_end(struct move *move);
bool guard_await_end(struct move *move, usec_t deadline) MUST_CHECK;

#endif
