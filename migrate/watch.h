/* SPDX-License-Identifier: PostgreSQL */
/*
 * What becomes of a move whose mover dies before the promotion and whom nobody resumes: a child
 * process watches over the mover from before the hold.  When it has died, the child runs "pgshunt
 * abort" for it, before the leases of the holds are over, so that the clients go on on the source
 * without having met the fence.  A mover that hangs while the fence stands is ended first.
 *
 * The same goes for a mover that ends although it could not undo everything, as when the source was
 * away for longer than it tried.
 *
 * The child decides nothing: abort asks the target, and refuses once that has been promoted or was
 * asked to; as long as the target cannot be asked, everything stays as it is, and abort is tried
 * again for a while.
 */
#ifndef MIGRATE_WATCH_H
#define MIGRATE_WATCH_H

#include "base/compiler.h"

#include <stdbool.h>

/* In the environment of what the child runs: its lock is waited for, not complained of. */
#define WATCH_ENV "PGSHUNT_WATCH"

struct move;

/* Before the hold; false after move_fail(). */
bool watch_start(struct move *move) MUST_CHECK;

/* The mover lives; as often as wanted. */
void watch_renew(struct move *move);

/* From here on clients run into the fence if the mover does nothing more. */
void watch_fenced(struct move *move);

/* The move was promoted or undone, or the mover leaves it to the operator: nothing is done. Without
 * it, the end of the mover is a death, after which the child undoes what it can. */
void watch_end(struct move *move);

/* The move was undone, but the target could not be reached to take the move's read-only default
 * back: the child runs "pgshunt abort" when it answers again. */
void watch_left(struct move *move);

/* Whether there is such a child of this process. */
bool watch_is_there(const struct move *move);

#endif
