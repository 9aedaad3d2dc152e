/* SPDX-License-Identifier: PostgreSQL */
/*
 * A child that outlives the mover and notices its end.  It has the plan in its memory and one end of
 * a socket pair, and nothing else of the mover's: no lock and no session, which would then outlive
 * it as well.  What the mover says to it are single letters; the end of the socket is the end of the
 * mover.
 */
#ifndef MIGRATE_CHILD_H
#define MIGRATE_CHILD_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>
#include <sys/types.h>

struct move;

struct child {
	int fd; /* 0 = there is none */
	usec_t said_at;
};

enum child_letter {
	CHILD_RENEW = 'r',  /* the mover is alive */
	CHILD_FENCED = 'f', /* the fence may stand */
	CHILD_END = 'e',    /* it is not needed any more */
	CHILD_LEFT = 'l',   /* the move is undone, but for what the target must answer for */
};

/* What the child does until it ends: `fd` is its end of the socket pair, `mover` the process to
 * watch.  Its standard files are /dev/null, and the usual signals do not end it. */
typedef void child_live_fn(struct move *move, int fd, pid_t mover);

/* Makes the child unless there is one; false after move_fail() said that `what` cannot be started.
 */
bool child_start(struct move *move, struct child *child, const char *what,
                 child_live_fn *live) MUST_CHECK;

/* Whether there is one is for the callee to know. */
void child_say(struct child *child, enum child_letter letter);

/* CHILD_RENEW, but not more often than the lease needs it. */
void child_renew(struct child *child, usec_t lease);

/* In the mover: the socket is closed, which is the end of the mover for a child that was not told
 * CHILD_END. */
void child_close(struct child *child);

#endif
