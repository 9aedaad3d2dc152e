/* SPDX-License-Identifier: PostgreSQL */
/*
 * The environment of commcare-cloud in a move: its postgresql.yml is brought up to date with the
 * files of the pgbouncers, and what a deploy has to follow is said.
 */
#ifndef MIGRATE_COMMCARE_H
#define MIGRATE_COMMCARE_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

struct move;

/* Reads the environment, if one is configured, and adds the edit to the files of the move; after
 * bouncers_plan(). */
bool commcare_plan(struct move *move, struct sbuf *error) MUST_CHECK;

/* What changes, and what has to follow by hand. */
void commcare_print(const struct move *move);

/* Whether the file says where the shards are now; tries again if it does not. */
bool commcare_validate(struct move *move) MUST_CHECK;

#endif
