/* SPDX-License-Identifier: PostgreSQL */
/*
 * The lock that keeps a second operator out; see migrate/lock.c.
 */
#ifndef MIGRATE_LOCK_H
#define MIGRATE_LOCK_H

#include <stdbool.h>
#include <stddef.h>

/* The user name of what a watch runs (migrate/watch.h). */
#define LOCK_WATCH "watch"

/* How this process calls itself: "pgshunt user@host pid 123/4026531836". */
void lock_name(char *name, size_t size);

/* Whether `theirs` is the name of a process of this machine (where we are `mine`) that is dead, or
 * our own. */
bool lock_is_dead(const char *theirs, const char *mine);

#endif
