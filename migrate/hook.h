/* SPDX-License-Identifier: PostgreSQL */
/*
 * Hooks: commands of the operator's before and after phases, and around the undo.
 */
#ifndef MIGRATE_HOOK_H
#define MIGRATE_HOOK_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

struct move;

/* The name under which hooks of the undo are configured, beside those of the phases. */
#define HOOK_UNDO "undo"

/* Whether every hook names a phase that there is. */
bool hooks_check(const struct move *move, struct sbuf *error) MUST_CHECK;

/* Runs the hooks before (or after) the phase of that name, in the order of the file.  False after
 * move_fail(); after the promotion a failure is a problem to be named, and the answer is true. */
bool hooks_run(struct move *move, const char *phase, bool after) MUST_CHECK;

void hooks_print(const struct move *move);
void hooks_json(const struct move *move, struct sbuf *out);

#endif
