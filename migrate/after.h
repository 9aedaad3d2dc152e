/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the commands that look at a finished move begin with.  Internal to command_after.c,
 * cleanup.c and report*.c.
 */
#ifndef MIGRATE_AFTER_H
#define MIGRATE_AFTER_H

#include "migrate/command.h"
#include "migrate/move.h"

/* The id of the move that was named, or the last one that is done (`any`: or not); NULL = none.
 * Free it. */
char *after_pick(const struct command_line *line, const struct config *config, bool any) MUST_CHECK;

/* Reads that move into `move`, whose journal is open for more records then. */
enum exit_code after_open(struct move *move, const struct command_line *line,
                          struct journal_records *records) MUST_CHECK;

/* Connects to everything and asks where the shards are; what cannot be asked is shown. */
bool after_connect(struct move *move) MUST_CHECK;

#endif
